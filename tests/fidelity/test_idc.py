"""IDC against the numbers and the text of its paper and code (arXiv:2205.14959)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import blobs
from torch import Tensor, nn

from ddbench import registry
from ddbench.augment.dsa import DSA
from ddbench.augment.mix import CutMix
from ddbench.matching.features import RandomNetworks
from ddbench.matching.gradients import DISTANCES
from ddbench.matching.inner import mean_loss
from ddbench.methods import idc
from ddbench.methods.idc import IDC
from ddbench.store import RunFolder
from ddbench.task import RunTask

TRAIN = blobs("three", (1, 8, 8), 3, (12, 2)).train
SMALL: dict[str, Any] = dict(
    network="ConvNetD1W4",
    iterations=2,
    inner=2,
    batch_real=4,
    n_data=10,
    batch_train=4,
    base_side=8,
    image_lr=1.0,
)
PLAIN: dict[str, Any] = {**SMALL, "augment": "none", "net_augment": "none", "cutmix": 0.0}


def stored(task: RunTask, **settings: Any) -> Tensor:
    return task.run_method(IDC(**{**SMALL, **settings})).tensors["images"]


class TestDistances:
    real = (torch.arange(8.0).reshape(2, 1, 2, 2) - 3)[None]
    synthetic = torch.tensor([1.0, -1, 0, 2, 1, 0, 2, 1]).reshape(2, 1, 2, 2)[None]

    @pytest.mark.parametrize(
        ("name", "value"), [("mse", 36.0), ("l1", 14.0), ("l1_mean", 3.5), ("rows", 1.289217)]
    )
    def test_distances_are_those_of_the_spec(self, name: str, value: float) -> None:
        assert DISTANCES[name]([self.real], [self.synthetic]).tolist() == pytest.approx([value], abs=1e-6)

    def test_tensors_and_classes_are_summed_not_averaged(self) -> None:
        for name in ("mse", "l1", "l1_mean", "rows"):
            once = DISTANCES[name]([self.real], [self.synthetic])
            twice = DISTANCES[name]([self.real] * 2, [self.synthetic] * 2)
            assert torch.allclose(twice, 2 * once), name

    @pytest.mark.parametrize("network", ["ConvNet", "ConvNetBN", "ConvNetLN"])
    def test_only_convolutions_are_compared_unless_settings_say_more(self, network: str) -> None:
        net = RandomNetworks(network, (3, 32, 32), 10).module

        def chosen(**settings: Any) -> list[str]:
            return [name for name, p in net.named_parameters() if IDC(**settings).compared(p)]

        assert chosen() == [f"blocks.{i}.conv.weight" for i in range(3)]
        assert chosen(match_fc=True) == [*chosen(), "classifier.weight"]
        everything = [name for name, _ in net.named_parameters()]
        assert chosen(match_fc=True, match_bias=True) == everything
        assert sorted(chosen(match_bias=True)) == sorted(set(everything) - {"classifier.weight"})

    def test_three_convolutions_have_298368_coordinates(self) -> None:
        net = RandomNetworks("ConvNet", (3, 32, 32), 10).module
        assert sum(p.numel() for p in net.parameters() if IDC().compared(p)) == 298_368

    def test_a_network_without_convolutions_is_refused_until_linear_weights_count(self) -> None:
        with pytest.raises(
            ValueError, match="MLP has no convolutions whose gradients could be matched; choose a Conv"
        ):
            stored(RunTask(TRAIN, 2, 0), network="MLP")
        assert torch.isfinite(stored(RunTask(TRAIN, 2, 0), network="MLP", match_fc=True)).all()


class TestSettings:
    @pytest.mark.parametrize(
        ("dataset", "ipc", "side", "lr"),
        [
            ("cifar10", 1, 32, 5e-4),
            ("cifar10", 10, 32, 5e-3),
            ("cifar10", 50, 32, 0.025),
            ("cifar100", 50, 32, 0.025),
            ("mnist", 10, 28, 1e-4),
            ("fashion_mnist", 10, 28, 7.65625e-5),
        ],
    )
    def test_the_step_grows_with_ipc_and_side(self, dataset: str, ipc: int, side: int, lr: float) -> None:
        found = registry.resolve_recipe("idc", "authors", dataset, ipc)
        assert found.name == "authors"
        assert IDC(**found.settings).step_size(ipc, side) == pytest.approx(lr, rel=1e-9)

    def test_recipes_are_the_authors(self) -> None:
        def made(recipe: str, dataset: str, ipc: int) -> IDC:
            return IDC(**registry.resolve_recipe("idc", recipe, dataset, ipc).settings)

        for dataset in ("cifar10", "cifar100", "svhn", "mnist", "fashion_mnist"):
            for ipc in (1, 10, 50):
                one, two = made("authors", dataset, ipc), made("idc-i", dataset, ipc)
                assert (one.factor, two.factor, one.iterations, one.inner) == (2, 1, 2000, 100)
                assert (one.batch_real, one.batch_syn_max, one.momentum, one.early) == (64, 128, 0.5, 0)
                assert (one.net_lr, one.net_momentum, one.net_weight_decay) == (0.01, 0.9, 5e-4)
                assert (one.batch_train, one.init, one.network) == (64, "mix", "ConvNet")
                grey = dataset in ("mnist", "fashion_mnist")
                assert (one.distance, one.image_lr) == (("l1", 1e-4) if grey else ("mse", 5e-3))
                assert one.n_data == (2000 if dataset.startswith("cifar") else 500)
                assert one.statistics == ("cifar10" if dataset == "cifar100" else "own")
                assert one.base_side == (28 if dataset == "mnist" else 32)
                handled = dataset == "mnist"  # with mosaics: no cutout, no CutMix
                assert one.augment == f"diffaug:color_crop{'' if handled else '_cutout'}"
                assert one.cutmix == (0 if handled else 0.5)
                assert (two.augment, two.cutmix) == ("diffaug:color_crop_cutout", 0.5)
                assert one.net_augment == two.net_augment == "diffaug:color_crop"
        assert made("authors", "cifar100", 20).statistics == "cifar10"
        assert all(row["source"] for row in registry.recipes("idc").values())

    @pytest.mark.parametrize(
        ("factor", "ipc", "kind", "count"),
        [(2, 50, "single", 200), (3, 10, "single", 90), (3, 20, "bound", 125), (3, 50, "bound", 123)],
    )
    def test_many_large_mosaics_are_bounded(self, factor: int, ipc: int, kind: str, count: int) -> None:
        formation = IDC(factor=factor).form(TRAIN, ipc)
        assert (formation.kind, formation.count(ipc)) == (kind, count)
        assert IDC(factor=factor, formation="multi").form(TRAIN, ipc).kind == "multi"

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (dict(inner=0), "inner is 0; expected at least 1"),
            (dict(early=-1), "early is -1; expected at least 0"),
            (dict(batch_syn_max=0), "batch_syn_max is 0; expected at least 1"),
            (dict(n_data=-5), "n_data is -5; expected at least 0"),
            (dict(formation="mosaic"), "formation is 'mosaic'; expected auto, single, multi or bound"),
        ],
    )
    def test_wrong_settings_are_refused(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            IDC(**settings)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (dict(distance="l2"), "distance is 'l2'; expected one of mse, l1, l1_mean, rows"),
            (dict(init="real"), "init is 'real'; expected one of mix, first, random, noise"),
            (dict(cutmix=1.5), "probability of CutMix is 1.5; expected a number from 0 to 1"),
            (dict(factor=4), "class 0 has 12 training images but 2 mosaics of 16 tiles need 32"),
        ],
    )
    def test_settings_that_fit_nothing_are_refused_when_it_starts(
        self, settings: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            stored(RunTask(TRAIN, 2, 0), **settings)


class Plain:
    """Two networks of the algorithm, written out class by class; draws from generators of the same names."""

    def __init__(self, ipc: int, seed: int, how: IDC) -> None:
        self.task, self.how, self.ipc = RunTask(TRAIN, ipc, seed), how, ipc
        self.pools = [TRAIN.of_class(c) for c in range(3)]
        self.left: list[list[int]] = [[], [], []]
        self.rest: list[int] = []
        self.net = RandomNetworks(how.network, TRAIN.shape, 3)
        self.trained = 0

    def standardised(self, unit: Tensor) -> Tensor:
        return (unit - TRAIN.mean[0]) / TRAIN.std[0]

    def real(self, indices: list[int]) -> Tensor:
        return self.standardised(TRAIN.images[indices].float() / 255)

    def class_batch(self, c: int) -> Tensor:
        size, pool = self.how.batch_real, self.pools[c]
        if len(self.left[c]) < size:
            self.left[c] = pool[torch.randperm(len(pool), generator=self.task.rng("batches"))].tolist()
        batch, self.left[c] = self.left[c][:size], self.left[c][size:]
        return self.real(batch)

    def first(self) -> Tensor:
        mosaics = torch.zeros(3, self.ipc, *TRAIN.shape)
        for c in range(3):
            for n in range(self.ipc):
                for k in range(4):
                    i, j = divmod(k, 2)
                    tile = TRAIN.images[self.pools[c][k * self.ipc + n]][:, ::2, ::2].float() / 255
                    mosaics[c, n, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = tile
        return mosaics

    def decoded(self, mosaics: Tensor) -> Tensor:
        tiles = [mosaics[..., i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4)]
        return F.interpolate(torch.cat(tiles), size=(8, 8), mode="bilinear", align_corners=False)

    def class_step(self, net: nn.Module, images: Tensor, c: int) -> Tensor:
        """The gradient of class c's distance with respect to all images."""
        leaf = images.detach().clone().requires_grad_()
        real = self.class_batch(c)
        both = torch.cat([real, self.standardised(self.decoded(leaf[c]))])
        dsa = DSA.diffaug("color_crop_cutout")
        draw = dsa.draw(len(both), TRAIN.shape, self.task.rng("augment"), shared=True)
        assert draw.operations == ("color", "crop", "cutout")
        both = dsa.apply(both, draw)  # one parameter set for real and synthetic images
        weights = [p for p in net.parameters() if p.dim() == 4]
        labels = torch.full((len(both),), c)
        n = len(real)
        wanted = torch.autograd.grad(F.cross_entropy(net(both[:n]), labels[:n]), weights)
        found = torch.autograd.grad(F.cross_entropy(net(both[n:]), labels[n:]), weights, create_graph=True)
        loss = sum(((r.detach() - s) ** 2).sum() for r, s in zip(wanted, found, strict=True))
        loss.backward()
        return leaf.grad

    def train(self, net: nn.Module, sgd: torch.optim.Optimizer) -> None:
        seen = 0
        while seen < self.how.n_data:
            if not self.rest:
                self.rest = torch.randperm(len(TRAIN), generator=self.task.rng("training")).tolist()
            rows, self.rest = self.rest[: self.how.batch_train], self.rest[self.how.batch_train :]
            seen += len(rows)
            self.trained += 1
            x, y = self.real(rows), TRAIN.labels[rows]
            dsa = DSA.diffaug("color_crop")
            x = dsa.apply(x, dsa.draw(len(x), TRAIN.shape, self.task.rng("training_augment")))
            mix = CutMix(self.how.cutmix).draw(len(x), TRAIN.shape, self.task.rng("cutmix"))
            loss = F.cross_entropy(net(x), y)
            if mix is not None:
                x1, y1, x2, y2 = mix.box
                pasted = x.clone()
                pasted[:, :, y1:y2, x1:x2] = x[mix.partners][:, :, y1:y2, x1:x2]
                logits, kept = net(pasted), 1 - (x2 - x1) * (y2 - y1) / 64
                loss = kept * F.cross_entropy(logits, y) + (1 - kept) * F.cross_entropy(
                    logits, y[mix.partners]
                )
            sgd.zero_grad()
            loss.backward()
            sgd.step()

    def run(self) -> Tensor:
        how = self.how
        images = self.first()
        lr = how.image_lr * (self.ipc / 10) * (8 / how.base_side) ** 2
        velocity = torch.zeros_like(images)
        for _ in range(how.iterations):
            net = self.net.draw(self.task.rng("network")).requires_grad_(True)
            sgd = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
            images = images.clamp(0, 1)
            for _ in range(how.inner):
                for c in range(3):
                    velocity = 0.5 * velocity + self.class_step(net, images, c)
                    images = images - lr * velocity
                self.train(net, sgd)
        return images


@pytest.mark.parametrize("network", ["ConvNetD1W4", "ConvNetD2W4BN"])
def test_two_networks_equal_the_algorithm_written_out_class_by_class(network: str) -> None:
    how = IDC(**{**SMALL, "network": network, "image_lr": 3.0})
    plain = Plain(2, 5, how)
    wanted = plain.run()
    found = RunTask(TRAIN, 2, 5).run_method(how)
    moved = (wanted - plain.first()).abs()
    assert float(moved.mean()) > 0.01
    assert torch.allclose(found.tensors["images"], wanted.flatten(0, 1), atol=2e-5)
    assert plain.trained == 2 * 2 * 3  # batches of 4 until 10 images: after the last matching step too


def test_the_set_is_stored_as_it_is_with_its_space_and_codec() -> None:
    found = RunTask(TRAIN, 2, 1).run_method(IDC(**{**SMALL, "image_lr": 30.0}))
    images = found.tensors["images"]
    assert images.shape == (6, 1, 8, 8)
    assert float(images.min()) < 0 or float(images.max()) > 1  # clamped before a network, not after it
    assert found.space is not None and found.space.stored == "unit"
    assert (found.codec.name, found.codec.settings["factor"], found.codec.settings["kind"]) == (
        "grid",
        2,
        "single",
    )
    assert found.targets.ids is not None and found.targets.ids.tolist() == [0, 0, 1, 1, 2, 2]
    plain = RunTask(TRAIN, 2, 1).run_method(IDC(**{**SMALL, "factor": 1}))
    assert plain.codec.name == "identity" and plain.space is not None and plain.space.stored == "unit"


def test_pixels_are_clamped_when_a_network_begins_only(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[tuple[float, float]] = []
    ends: list[float] = []
    rounds = idc.Turns.round

    def watched(self: Any, gradients: Any) -> None:
        starts.append((float(self.images.min()), float(self.images.max())))
        rounds(self, gradients)
        ends.append(float((self.images - self.images.clamp(0, 1)).abs().max()))

    monkeypatch.setattr(idc.Turns, "round", watched)
    stored(RunTask(TRAIN, 2, 1), image_lr=30.0, iterations=2, inner=3)
    assert all(0 <= low and high <= 1 for low, high in starts[::3])
    assert max(ends[0], ends[1]) > 0 and (starts[1][0] < 0 or starts[1][1] > 1)


def test_first_images_are_deterministic() -> None:
    one, two = (stored(RunTask(TRAIN, 2, seed), image_lr=0.0) for seed in (1, 2))
    assert torch.equal(one, two)
    assert torch.equal(one, Plain(2, 0, IDC(**SMALL)).first().flatten(0, 1))


def test_networks_are_trained_on_real_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    inside = False

    def recorded(net: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
        if inside:
            seen.append(x.detach().clone())
        return mean_loss(net, x, targets)

    trained = IDC.train_on

    def watched(self: IDC, *given: Any) -> None:
        nonlocal inside
        inside = True
        trained(self, *given)
        inside = False

    monkeypatch.setattr(idc, "fast_loss", lambda *_: recorded)
    monkeypatch.setattr(IDC, "train_on", watched)
    stored(RunTask(TRAIN, 2, 0), **PLAIN, early=1)
    known = TRAIN.space.real_to_input(TRAIN.images)
    inputs = torch.cat(seen)
    assert len(inputs) == 2 * (36 + 2 * 12)  # early epochs, then at least 10 images by batches of 4 a round
    assert all(bool((known == x).flatten(1).all(1).any()) for x in inputs)


def test_too_many_images_give_way_to_a_random_choice_that_is_made_anew() -> None:
    seen: list[Tensor] = []

    class Watching(RunTask):
        def view(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(images.detach().clone().view(3, -1, *images.shape[1:]))
            return images, labels

    task = Watching(TRAIN, 3, 0)
    stored(task, **{**PLAIN, "batch_syn_max": 5, "image_lr": 0.0})
    decoded = IDC(**SMALL).form(TRAIN, 3).inputs(idc.first_mosaics(RunTask(TRAIN, 3, 0), 2, "mix"))
    assert len(seen) == 4 and all(batch.shape == (3, 5, 1, 8, 8) for batch in seen)
    choices = []
    for batch in seen:
        for c in range(3):
            same = (batch[c][:, None] == decoded[c][None]).flatten(2).all(2)
            rows = [int(row.nonzero()[0]) for row in same]
            assert len(set(rows)) == 5  # five of its own twelve images, none twice
            choices.append(tuple(rows))
    assert len(set(choices)) > 8  # another choice for every class and round


def test_a_wrapper_sees_decoded_images_before_they_are_augmented() -> None:
    fyi = registry.get_class("fyi")()
    seen: list[int] = []

    class Wrapped(RunTask):
        def view(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(len(images))
            return fyi.view(images, labels)

    one = stored(Wrapped(TRAIN, 2, 0))
    assert set(seen) == {3 * 2 * 4}
    assert not torch.equal(one, stored(RunTask(TRAIN, 2, 0)))


def test_a_small_memory_limit_changes_nothing_but_rounding() -> None:
    whole = stored(RunTask(TRAIN, 2, 3))
    task = RunTask(TRAIN, 2, 3, memory_limit_mib=0.1)
    assert torch.allclose(stored(task), whole, atol=1e-5)
    many = stored(RunTask(TRAIN, 3, 3), batch_syn_max=5)
    few = stored(RunTask(TRAIN, 3, 3, memory_limit_mib=0.1), batch_syn_max=5)
    assert torch.allclose(many, few, atol=1e-5)


def test_batch_norm_sees_all_real_images_of_a_class_whatever_the_memory_limit() -> None:
    whole = stored(RunTask(TRAIN, 2, 3), network="ConvNetD1W4BN")
    task = RunTask(TRAIN, 2, 3, memory_limit_mib=0.01)
    made = task.run_method(IDC(**{**SMALL, "network": "ConvNetD1W4BN"}))
    assert torch.allclose(made.tensors["images"], whole, atol=1e-5)
    assert "batch norm takes its statistics from a class's" in made.card.notes["memory"]


def test_a_run_that_was_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = stored(RunTask(TRAIN, 2, 3), iterations=4)

    class CutOff(Exception):
        pass

    class Fragile(RunTask):
        def log(self, **values: Any) -> None:
            if self._iteration == 2:
                raise CutOff
            super().log(**values)

    with pytest.raises(CutOff):
        stored(Fragile(TRAIN, 2, 3, run=RunFolder(tmp_path), checkpoint_every_s=0), iterations=4)
    assert torch.equal(stored(RunTask(TRAIN, 2, 3, run=RunFolder(tmp_path)), iterations=4), whole)


def test_a_factor_that_does_not_divide_the_side_is_noted() -> None:
    made = RunTask(TRAIN, 1, 0).run_method(IDC(**{**SMALL, "factor": 3}))
    assert "factor 3 does not divide the side 8: mosaics are padded to 9 pixels" in str(
        made.card.notes["factor"]
    )
