"""NCFM against the numbers and the text of its paper and code (arXiv:2502.20653)."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import blobs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ddbench import registry
from ddbench.augment.dsa import DSA
from ddbench.contract import ImageData
from ddbench.matching.features import RandomNetworks
from ddbench.matching.formation import Formation, first_mosaics, unit_space
from ddbench.matching.pool import pool_recipe
from ddbench.matching.sampling import RealBatches
from ddbench.matching.spectrum import (
    GaussianFrequencies,
    SampledFrequencies,
    SamplingNetwork,
    cf_discrepancy,
    characteristic,
    unit_length,
)
from ddbench.matching.turns import Turns
from ddbench.methods.ncfm import NCFM
from ddbench.store import RunFolder
from ddbench.task import RunTask

REAL = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
SYNTHETIC = torch.tensor([[[0.5, 0.5], [2.0, -1.0]]])
T = torch.tensor([[[1.0, 0.0], [0.5, -1.0], [2.0, 2.0]]])
SMALL: dict[str, Any] = dict(
    network="ConvNetD1W4", pool=2, pool_epochs=1, iterations=2, batch_real=4, frequencies=128, image_lr=0.01
)


class TestDiscrepancy:
    def test_the_characteristic_functions_are_those_of_the_spec(self) -> None:
        expected = (
            (REAL, (0.693535, 0.765156, -0.495312), (0.560981, -0.280490, 0.353931)),
            (SYNTHETIC, (0.230718, 0.276383, -0.416147), (0.694361, 0.330947, 0.909297)),
        )
        for features, cos, sin in expected:
            found = characteristic(features, T)
            assert found[0][0].tolist() == pytest.approx(cos, abs=1e-6)
            assert found[1][0].tolist() == pytest.approx(sin, abs=1e-6)

    @pytest.mark.parametrize(
        ("weights", "terms"),
        [((1.0, 0.0), (0.025704, 0.147280, 0.153061)), ((0.0, 1.0), (0.206286, 0.465475, 0.161639))],
    )
    def test_amplitude_and_phase_terms_are_those_of_the_spec(
        self, weights: tuple[float, float], terms: tuple[float, ...]
    ) -> None:
        for i, term in enumerate(terms):  # of a single frequency, the distance is the root of its term
            value = cf_discrepancy(REAL, SYNTHETIC, T[:, i : i + 1], *weights)
            assert float(value) ** 2 == pytest.approx(term, abs=1e-6)

    @pytest.mark.parametrize(
        ("weights", "value"), [((0.5, 0.5), 0.430256), ((1.0, 0.0), 0.311775), ((0.0, 1.0), 0.512829)]
    )
    def test_distances_are_those_of_the_spec_and_symmetric(
        self, weights: tuple[float, float], value: float
    ) -> None:
        assert float(cf_discrepancy(REAL, SYNTHETIC, T, *weights)) == pytest.approx(value, abs=1e-6)
        assert float(cf_discrepancy(SYNTHETIC, REAL, T, *weights)) == pytest.approx(value, abs=1e-6)

    def test_the_gradient_is_that_of_the_spec(self) -> None:
        x = SYNTHETIC.clone().requires_grad_()
        cf_discrepancy(REAL, x, T).sum().backward()
        expected = [-0.008925, -0.198337, -0.023659, -0.155954]
        assert x.grad.flatten().tolist() == pytest.approx(expected, abs=1e-6)

    def test_the_match_loss_of_normalised_features_is_that_of_the_spec(self) -> None:
        for kind in (torch.float32, torch.float64):  # the spec's figure is float32's: 24 bits
            real, synthetic = unit_length(REAL.to(kind)), unit_length(SYNTHETIC.to(kind))
            value = float(NCFM().loss(real, synthetic, T.to(kind)))
            assert value == pytest.approx(80.967066, rel=2**-23)

    def test_equal_batches_are_not_at_distance_zero_and_the_phase_has_no_slope_there(self) -> None:
        x = REAL.clone().requires_grad_()
        value = cf_discrepancy(REAL, x, T)
        assert value.item() == pytest.approx(7.071e-7, abs=1e-10)
        assert 300 * value.item() == pytest.approx(2.1e-4, abs=3e-6)
        value.sum().backward()
        assert torch.equal(x.grad, torch.zeros_like(x))

    def test_without_the_phase_equal_amplitudes_have_no_slope_rather_than_none_that_is_a_number(self) -> None:
        synthetic = REAL.clone().requires_grad_()
        value = cf_discrepancy(REAL, synthetic, T, amplitude=1.0, phase=0.0)
        value.sum().backward()
        assert value.item() == pytest.approx(0, abs=1e-14)
        assert not synthetic.grad.any()

    def test_duplicates_change_nothing(self) -> None:
        for real, synthetic in (
            (torch.cat([REAL, REAL], 1), SYNTHETIC),
            (REAL, torch.cat([SYNTHETIC, SYNTHETIC], 1)),
        ):
            value = cf_discrepancy(real, synthetic, T)
            assert float(value) == pytest.approx(0.430256, abs=1e-6)

    def test_features_are_normalised_before_frequencies_so_products_are_standard_normal(self) -> None:
        rng = torch.Generator().manual_seed(0)
        features = unit_length(torch.rand(1, 1, 2048, generator=rng) * 50)
        products = torch.randn(4096, 2048, generator=rng) @ features[0, 0]
        assert abs(float(products.mean())) < 0.05 and abs(float(products.std()) - 1) < 0.05
        assert torch.equal(unit_length(torch.zeros(1, 3)), torch.zeros(1, 3))


class TestMosaics:
    def test_decoding_is_that_of_the_spec(self) -> None:
        tiles = decoded(torch.arange(16.0).view(1, 1, 1, 4, 4))
        first = torch.tensor([[0, 0.25, 0.75, 1], [1, 1.25, 1.75, 2], [3, 3.25, 3.75, 4], [4, 4.25, 4.75, 5]])
        for tile, shift in zip(tiles[0, :, 0], (0, 2, 8, 10), strict=True):
            assert torch.allclose(tile, first + shift)
        both = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])[None]
        assert decoded(both).mean((2, 3, 4))[0].tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
        padded = decoded(torch.zeros(1, 1, 1, 5, 5))
        assert padded.shape == (1, 4, 1, 5, 5)
        assert padded[0, 3, 0, -1].tolist() == [0.5] * 5

    def test_first_images_are_the_first_of_the_class_tile_by_tile(self) -> None:
        train = blobs("two", (1, 8, 8), 2, (12, 1)).train
        found = first_mosaics(RunTask(train, 3, 0), 2, "mix")
        assert found.shape == (2, 3, 1, 8, 8)
        for c in range(2):
            for n in range(3):
                for i in range(2):
                    for j in range(2):
                        real = train.images[train.of_class(c)[(2 * i + j) * 3 + n]].float() / 255
                        tile = found[c, n, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
                        assert torch.allclose(tile, real[:, ::2, ::2])

    def test_the_set_says_how_it_is_decoded_and_standardised(self) -> None:
        train = blobs("two", (1, 8, 8), 2, (12, 1)).train
        made = RunTask(train, 2, 0).run_method(NCFM(**SMALL))
        assert made.tensors["images"].shape == (4, 1, 8, 8)
        assert (made.codec.name, made.codec.settings["factor"]) == ("grid", 2)
        assert made.space is not None and made.space.stored == "unit"
        plain = RunTask(train, 2, 0).run_method(NCFM(**{**SMALL, "factor": 1}))
        assert not torch.equal(plain.tensors["images"], made.tensors["images"])

    def test_a_factor_that_does_not_divide_the_side_is_noted(self) -> None:
        train = blobs("odd", (1, 9, 9), 2, (8, 1)).train
        made = RunTask(train, 2, 0).run_method(NCFM(**SMALL))
        assert "factor 2 does not divide the side 9" in made.card.notes["factor"]


def decoded(images: Tensor) -> Tensor:
    train = blobs("any", tuple(images.shape[2:]), 2, (1, 1)).train
    return Formation(2, "single", 128, unit_space(train)).decode(images)


# ------------------------------------------------------------------------------------------------ the algorithm


@pytest.fixture(scope="module")
def three() -> ImageData:
    return blobs("three", (1, 8, 8), 3, (12, 2)).train


def written_out(made: NCFM, train: ImageData, ipc: int, seed: int) -> Tensor:
    """The algorithm class by class, with plain loops, optimisers of every class's own or one for all."""
    task = RunTask(train, ipc, seed)
    pools = [train.of_class(c) for c in range(train.classes)]
    teachers = task.teachers(pool_recipe(made.network, made.pool_epochs, made.pool))
    psi, trained = (RandomNetworks(made.network, train.shape, train.classes).module for _ in range(2))
    images = first_mosaics(task, made.factor, made.init)
    width = psi.classifier.in_features
    sampler = made.frequency_sampler(width, task)
    shared = made.optimiser_state == "shared"
    leaves = [images.clone()] if shared else [image.clone() for image in images]

    def optimiser_of(leaf: Tensor) -> torch.optim.Optimizer:
        if made.optimiser == "sgd":
            return torch.optim.SGD([leaf], lr=made.image_lr, momentum=made.momentum)
        return torch.optim.AdamW([leaf], lr=made.image_lr, weight_decay=made.weight_decay)

    optimisers = [optimiser_of(leaf) for leaf in leaves]
    dsa = DSA.diffaug("color_crop_cutout")

    def tensor(c: int) -> Tensor:
        return leaves[0][c] if shared else leaves[c]

    def inputs(unit: Tensor) -> Tensor:
        return (unit - train.mean[0]) / train.std[0]

    def tiles(x: Tensor) -> Tensor:
        """Tile by tile, each twice as large."""
        cut = [x[..., i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4)]
        return F.interpolate(torch.cat(cut), scale_factor=2, mode="bilinear", align_corners=False)

    def update(c: int, gradient: Tensor) -> None:
        leaf, optimiser = (leaves[0], optimisers[0]) if shared else (leaves[c], optimisers[c])
        leaf.grad = torch.zeros_like(leaf)
        (leaf.grad[c] if shared else leaf.grad).copy_(gradient)
        optimiser.step()

    for _ in range(made.iterations):
        index = int(torch.randint(made.pool, (), generator=task.rng("pool")))
        share = float(torch.rand((), generator=task.rng("pool")))
        end = dict(teachers[index].network.named_parameters())
        with torch.no_grad():
            for name, p in psi.named_parameters():
                p.copy_(share * teachers[index].initial[name] + (1 - share) * end[name])
            for name, p in trained.named_parameters():
                p.copy_(end[name])
        for leaf in leaves:
            leaf.clamp_(0, 1)
        if made.real == "first":
            chosen = [pool[: made.batch_real] for pool in pools]
        else:
            chosen = [
                pool[torch.randperm(len(pool), generator=task.rng("batches"))[: made.batch_real]]
                for pool in pools
            ]
        draws = [dsa.draw(1, train.shape, task.rng("augment"), shared=True) for _ in pools]
        chance = torch.Generator().manual_seed(
            int(torch.randint(2**62, (), generator=task.rng("frequencies")))
        )
        for c in range(train.classes):
            x = tensor(c).clone().requires_grad_()
            real = inputs(train.images[chosen[c]].float() / 255)
            both = dsa.apply(torch.cat([real, inputs(tiles(x))]), draws[c])  # siamese: one batch, one draw
            features = psi.embed(both)
            features = features / features.norm(dim=1, keepdim=True)
            r, s = features[: len(real)].detach(), features[len(real) :]
            if isinstance(sampler, SampledFrequencies):
                sampler.network.zero_grad()
                t = sampler.draw(chance)
            else:
                t = torch.randn(made.frequencies, width, generator=chance)
            loss = 300 * cf_discrepancy(r[None], s[None], t[None]).sum()
            loss.backward()
            if isinstance(sampler, SampledFrequencies):
                sampler.optimiser.step()
            update(c, x.grad)
        draws = [dsa.draw(1, train.shape, task.rng("augment"), shared=True) for _ in pools]
        for c in range(train.classes):
            x = tensor(c).clone().requires_grad_()
            logits = trained(dsa.apply(inputs(tiles(x)), draws[c]))
            F.cross_entropy(logits, torch.full((len(logits),), c)).backward()
            update(c, x.grad)
    return leaves[0] if shared else torch.stack(leaves)


class TestAlgorithm:
    @pytest.mark.parametrize(
        "how",
        [
            dict(),
            dict(sampler="gaussian"),
            dict(sampler="gaussian", real="first", optimiser_state="shared"),
            dict(optimiser="sgd", real="first"),
        ],
        ids=["paper", "no-psi", "released", "sgd"],
    )
    def test_three_iterations_equal_the_algorithm_written_out_class_by_class(
        self, three: ImageData, how: dict[str, Any]
    ) -> None:
        made = NCFM(**{**SMALL, "iterations": 3, **how})
        got = RunTask(three, 2, 5).run_method(made).tensors["images"]
        start = first_mosaics(RunTask(three, 2, 5), 2, "mix").flatten(0, 1)
        assert torch.allclose(got, written_out(made, three, 2, 5).flatten(0, 1), atol=2e-4)
        assert float((got - start).abs().mean()) > 5e-3

    @pytest.mark.parametrize("limit", [0.001, 0.3, 0.6])
    def test_how_much_memory_there_is_changes_nothing_but_rounding(
        self, three: ImageData, limit: float
    ) -> None:
        made = NCFM(**SMALL)
        whole = RunTask(three, 2, 5).run_method(made).tensors["images"]
        parts = RunTask(three, 2, 5, memory_limit_mib=limit).run_method(made).tensors["images"]
        assert torch.allclose(whole, parts, atol=2e-4)

    def test_the_released_form_takes_the_first_images_of_each_class_every_time(
        self, three: ImageData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for real, constant in (("first", True), ("random", False)):
            seen: list[Tensor] = []
            images = RealBatches.images

            def spy(
                self: RealBatches, indices: Tensor, images: Callable[..., Tensor] = images, seen=seen
            ) -> Tensor:
                seen.append(indices)
                return images(self, indices)

            with monkeypatch.context() as patch:
                patch.setattr(RealBatches, "images", spy)
                RunTask(three, 1, 0).run_method(NCFM(**{**SMALL, "real": real, "batch_real": 5}))
            first = torch.stack([three.of_class(c)[:5] for c in range(3)])
            assert [torch.equal(indices, first) for indices in seen] == [constant] * 2

    def test_a_class_smaller_than_the_batch_gives_all_it_has(self, three: ImageData) -> None:
        made = RunTask(three, 1, 0).run_method(NCFM(**{**SMALL, "batch_real": 1024, "real": "first"}))
        assert "batch_real is 1024" in made.card.notes["batch_real"]

    def test_optimiser_state_that_classes_share_moves_the_other_classes_too(self) -> None:
        images = torch.zeros(2, 1, 1, 1, 1)
        optimiser = NCFM(optimiser_state="shared").image_optimiser(images)
        optimiser.zero_grad()
        images.grad = torch.tensor([1.0, 0.0]).view_as(images)
        optimiser.step()
        assert images.flatten().tolist() == pytest.approx([-0.001, 0.0], abs=1e-6)
        images = torch.zeros(2, 1, 1, 1, 1)
        Turns(NCFM().image_optimiser(images), images).round(torch.ones_like)
        assert images.flatten().tolist() == pytest.approx([-0.001670, -0.000744], abs=1e-6)

    def test_a_joint_step_is_the_step_of_each_class_with_state_of_its_own(self) -> None:
        rng = torch.Generator().manual_seed(0)
        for how in ("adamw", "sgd"):
            joint = torch.rand(4, 2, 1, 3, 3, generator=rng)
            single = [image.clone() for image in joint]
            together = NCFM(optimiser=how).image_optimiser(joint)
            apart = [NCFM(optimiser=how).image_optimiser(image) for image in single]
            for _ in range(5):
                joint.grad = torch.randn(joint.shape, generator=rng)
                together.step()
                for image, optimiser, gradient in zip(single, apart, joint.grad, strict=True):
                    image.grad = gradient.clone()
                    optimiser.step()
            assert torch.equal(joint, torch.stack(single))

    def test_images_are_clamped_before_an_iteration_and_not_after_the_last(self, three: ImageData) -> None:
        how = {**SMALL, "image_lr": 0.5, "pool": 1}
        one = RunTask(three, 2, 0).run_method(NCFM(**{**how, "iterations": 1})).tensors["images"]
        assert float(one.min()) < 0 or float(one.max()) > 1

    def test_the_step_is_halved_when_the_loss_stalls_for_500_iterations(self) -> None:
        images = torch.zeros(1, 1, 1, 2, 2)
        optimiser = NCFM().image_optimiser(images)
        plateau = NCFM().image_plateau(optimiser)
        rates = []
        for it in range(1003):
            plateau.step(1.0 if it else 2.0)
            rates.append(optimiser.param_groups[0]["lr"])
        # 1 better one, 1 equal to the best, 500 bad ones forgiven, the 501st halves
        assert rates[:502] == [1e-3] * 502 and rates[502] == 5e-4
        assert rates[1002] == 5e-4

    def test_the_step_and_its_schedule_survive_an_interruption(
        self, three: ImageData, tmp_path: Path
    ) -> None:
        made = NCFM(**{**SMALL, "iterations": 6, "patience": 0, "image_lr": 0.3})

        class Killed(Exception):
            pass

        class Dying(RunTask):
            def loop(self, *args: Any, **kwargs: Any) -> Iterator[int]:
                for it in super().loop(*args, **kwargs):
                    yield it
                    if it == 3:
                        raise Killed

        straight = RunTask(three, 1, 3).run_method(made).tensors["images"]
        folder = RunFolder(tmp_path)
        with pytest.raises(Killed):
            Dying(three, 1, 3, run=folder, checkpoint_every_s=0).run_method(made)
        resumed = RunTask(three, 1, 3, run=folder).run_method(made)
        assert torch.equal(resumed.tensors["images"], straight)
        rates = [row["image_lr"] for row in _trace(folder)]
        assert min(rates) < 0.3  # it was halved on the way


def _trace(folder: RunFolder) -> list[dict[str, Any]]:
    from ddbench.task import read_trace

    return read_trace(folder.trace_path("distill"))


class TestSamplingNetwork:
    def test_it_has_the_parameters_of_the_spec(self) -> None:
        net = SamplingNetwork(2048, torch.Generator().manual_seed(0))
        assert sum(p.numel() for p in net.parameters()) == 12_601_344
        kinds = [type(layer).__name__ for layer in net.layers]
        assert kinds == ["Linear", "BatchNorm1d", "LeakyReLU"] * 2 + ["Linear", "BatchNorm1d", "Tanh"]
        assert [layer.negative_slope for layer in net.layers if hasattr(layer, "negative_slope")] == [0.2] * 2

    def test_unlike_the_released_one_it_trains(self, three: ImageData) -> None:
        """Released: gradients of the loss and of its negative pile up uncleared, so their sum, and every step, is zero."""
        sampler = NCFM(**SMALL).frequency_sampler(64, RunTask(three, 1, 0))
        assert isinstance(sampler, SampledFrequencies)
        rng = torch.Generator().manual_seed(0)
        real, synthetic = (unit_length(torch.randn(1, n, 64, generator=rng)) for n in (30, 5))
        loss = cf_discrepancy(real, synthetic, sampler.draw(rng)[None]).sum()
        for sign in (1, -1):
            (sign * loss).backward(retain_graph=True)
        assert all(float(p.grad.abs().max()) < 1e-8 for p in sampler.network.parameters())
        before = [p.detach().clone() for p in sampler.network.parameters()]
        sampler.pull(NCFM().loss, real, synthetic.requires_grad_(), rng)
        weights = [(b, p) for b, p in zip(before, sampler.network.parameters(), strict=True) if p.dim() == 2]
        assert len(weights) == 3 and not any(torch.equal(b, p) for b, p in weights)
        group = sampler.optimiser.param_groups[0]
        assert (group["lr"], group["momentum"], group["maximize"]) == (1e-3, 0.5, True)


# ------------------------------------------------------------------------------------------------ recipes


def recipe(name: str, dataset: str, ipc: int) -> tuple[NCFM, str]:
    found = registry.resolve_recipe("ncfm", name, dataset, ipc)
    assert found.name == name
    return NCFM(**found.settings), found.source


class TestRecipes:
    def test_the_defaults_are_what_the_paper_describes(self) -> None:
        assert recipe("authors", "cifar10", 10)[0] == NCFM()
        made = NCFM()
        assert (made.sampler, made.frequencies, made.real, made.optimiser_state) == (
            "network",
            1024,
            "random",
            "class",
        )
        assert (made.pool, made.pool_epochs, made.iterations, made.calibrations) == (20, 60, 20_000, 1)
        assert (made.amplitude, made.phase, made.weight, made.factor) == (0.5, 0.5, 300.0, 2)
        assert (made.batch_real, made.image_lr, made.weight_decay, made.patience) == (1024, 1e-3, 5e-4, 500)

    def test_released_recipes_are_the_released_configs(self) -> None:
        made, source = recipe("released", "cifar10", 50)
        assert "released" in source
        expected = replace(
            NCFM(), sampler="gaussian", frequencies=4096, real="first", optimiser_state="shared"
        )
        assert made == expected

    def test_no_psi_is_the_paper_without_its_sampling_network(self) -> None:
        for dataset, ipc in (("cifar10", 10), ("cifar100", 50), ("tiny_imagenet", 1)):
            authors = recipe("authors", dataset, ipc)[0]
            assert recipe("no-psi", dataset, ipc)[0] == replace(authors, sampler="gaussian")

    @pytest.mark.parametrize("name", ["authors", "released"])
    def test_the_table_of_configs_is_complete(self, name: str) -> None:
        rows = [key for key in registry.recipes("ncfm") if key[0] == name]
        subsets = ["imagenette", "imagewoof", "imagefruit", "imagemeow", "imagesquawk", "imageyellow"]
        small = [(name, d, i) for d in ("cifar10", "cifar100", "tiny_imagenet") for i in (1, 10, 50)]
        assert rows == small + [(name, d, i) for d in subsets for i in (1, 10)]
        for key in rows:
            made = recipe(*key)[0]
            depth = {"cifar10": "", "cifar100": "", "tiny_imagenet": "D4"}.get(key[1], "D5")
            assert made.network == f"ConvNet{depth}"
            assert made.pool_epochs == (80 if depth == "D5" else 60)
            assert made.statistics == ("cifar10" if key[1] == "cifar100" else "own")
            sgd = key[1:] == ("cifar100", 10)
            assert (made.optimiser, made.image_lr) == (("sgd", 0.01) if sgd else ("adamw", 1e-3))

    def test_the_pool_is_trained_as_in_the_spec(self) -> None:
        made = pool_recipe("ConvNet", 60)
        assert (made.milestones, pool_recipe("ConvNetD5", 80).milestones) == ((40, 50), (53, 66))
        assert (made.count, made.epochs, made.batch, made.gamma) == (20, 60, 128, 0.2)
        assert (made.lr, made.momentum, made.weight_decay) == (0.01, 0.9, 5e-4)
        assert (made.augment, made.mix, made.mix_probability) == ("diffaug:color_crop", "cutmix", 0.5)
        assert (made.held_out, made.mean) == (0.0, None)

    def test_other_statistics_reach_the_pool_the_batches_and_the_set(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        train = blobs("colours", (3, 8, 8), 2, (8, 1)).train
        asked = []
        teachers = RunTask.teachers

        def spy(self: RunTask, how: Any) -> Any:
            asked.append(how)
            return teachers(self, how)

        monkeypatch.setattr(RunTask, "teachers", spy)
        made = RunTask(train, 1, 0).run_method(NCFM(**SMALL, statistics="cifar10"))
        assert made.space is not None and made.space.mean == (0.4914, 0.4822, 0.4465) == asked[0].mean
        assert made.space.std == asked[0].std == (0.2023, 0.1994, 0.2010)

    def test_settings_that_do_not_exist_are_refused(self) -> None:
        for field, valid in (
            ("sampler", "network or gaussian"),
            ("real", "random or first"),
            ("optimiser", "adamw or sgd"),
            ("optimiser_state", "class or shared"),
        ):
            with pytest.raises(ValueError, match=f"{field} is 'other'; expected {valid}"):
                NCFM(**{field: "other"})

    def test_numbers_that_cannot_be_are_refused_before_a_pool_is_trained(self) -> None:
        for field, given, expected in (
            ("pool", 0, "at least 1"),
            ("pool_epochs", 0, "at least 1"),
            ("calibrations", -1, "at least 0"),
            ("amplitude", -0.5, "at least 0"),
            ("phase", -0.5, "at least 0"),
        ):
            with pytest.raises(ValueError, match=f"^{field} is {given}; expected {expected}$"):
                NCFM(**{field: given})
        for count in (0, 16, 100):
            with pytest.raises(ValueError, match=f"frequencies is {count}; .* multiple of 16 from 32 on"):
                NCFM(frequencies=count)
        with pytest.raises(ValueError, match="^frequencies is 0; expected at least 1$"):
            NCFM(sampler="gaussian", frequencies=0)


# ------------------------------------------------------------------------------------------------ memory


class Live(TorchDispatchMode):
    """Bytes of the storages that were born inside and live, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._born(tensor.untyped_storage())
        return out

    def _born(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._died, key, size)

    def _died(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class TestMemory:
    @pytest.mark.parametrize(
        ("how", "ipc", "limit"),
        [
            (dict(sampler="gaussian", batch_real=50), 4, None),
            (dict(sampler="network", batch_real=50), 4, None),
            (dict(sampler="gaussian", batch_real=50), 4, 90.0),
            (dict(sampler="gaussian", batch_real=100, factor=1), 1, None),
            (dict(sampler="gaussian", optimiser="sgd", batch_real=20), 10, 120.0),
            (dict(sampler="gaussian", optimiser_state="shared", batch_real=10, factor=1), 25, 60.0),
        ],
    )
    def test_the_estimate_is_within_a_quarter_of_the_bytes_that_live_in_a_real_run(
        self, how: dict[str, Any], ipc: int, limit: float | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from ddbench.matching import spectrum

        monkeypatch.setattr(spectrum, "_PIECE_BYTES", 1 << 20)
        train = blobs("four", (3, 32, 32), 4, (100, 1)).train
        made = NCFM(**{**SMALL, "network": "ConvNetD3W32", "frequencies": 64, **how})
        told: list[float] = []
        peak_mib = type(_memory(made, train, ipc)).peak_mib

        def spy(self: Any, together: int, at_once: int) -> float:
            told.append(peak_mib(self, together, at_once))
            return told[-1]

        task = RunTask(train, ipc, 0, memory_limit_mib=limit)
        RunTask(train, ipc, 0).teachers(pool_recipe(made.network, made.pool_epochs, made.pool))  # cached
        monkeypatch.setattr(type(_memory(made, train, ipc)), "peak_mib", spy)
        with Live() as live:
            made.distill(task)
        measured = (live.peak + train.images.nbytes + train.labels.nbytes) / 2**20
        (estimate,) = told
        assert 0.95 * measured < estimate < 1.25 * measured
        if limit is not None:
            assert measured < 1.25 * limit

    def test_cifar100_at_50_images_a_class_stays_within_two_and_a_half_gigabytes(self) -> None:
        networks = RandomNetworks("ConvNet", (3, 32, 32), 100)
        for name in ("authors", "released", "no-psi"):
            made = recipe(name, "cifar100", 50)[0]
            sampler: Any = GaussianFrequencies(made.frequencies, 2048)
            if made.sampler == "network":
                sampler = SampledFrequencies(1024, 2048, torch.Generator().manual_seed(0))
            memory = made.memory(networks, sampler, 50, 500, 50_000)
            together, at_once = memory.plan(2400.0, 100, 10**9)
            assert together >= 2 and at_once >= 500
            assert 1000 < memory.peak_mib(together, at_once) < 2500

    def test_too_little_memory_is_noted(self, three: ImageData) -> None:
        made = RunTask(three, 2, 5, memory_limit_mib=0.001).run_method(NCFM(**SMALL))
        assert "more than the limit of 0.001 MiB" in made.card.notes["memory"]


def _memory(made: NCFM, train: ImageData, ipc: int) -> Any:
    networks = RandomNetworks(made.network, train.shape, train.classes)
    width = networks.module.classifier.in_features
    sampler = made.frequency_sampler(width, RunTask(train, ipc, 0))
    return made.memory(networks, sampler, ipc, min(made.batch_real, 100), len(train))
