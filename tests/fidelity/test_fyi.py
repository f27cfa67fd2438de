"""FYI against the numbers and the text of its paper and code (arXiv:2407.08113)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import plain_trajectories
import pytest
import torch
from conftest import blobs
from plain_trajectories import ExpertTask
from torch import Tensor

from ddbench import registry
from ddbench.augment.dsa import DSA
from ddbench.codecs import items
from ddbench.contract import DistilledSet
from ddbench.matching.features import RandomNetworks, class_mean_distance, embedding_features
from ddbench.matching.gradients import class_gradients
from ddbench.matching.trajectories import Student
from ddbench.task import RunTask


def fyi():
    return registry.get_class("fyi")()


def test_mirror_images_follow_the_originals_with_the_labels_in_the_same_order() -> None:
    x = torch.rand(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    seen, ids = fyi().view(x, torch.tensor([0, 0, 1, 2]))
    assert torch.equal(seen[:4], x)
    assert torch.equal(seen[4:], x.flip(3))
    assert ids.tolist() == [0, 0, 1, 2, 0, 0, 1, 2]


def test_the_first_row_of_the_specs_example_is_mirrored() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4) / 16
    seen, _ = fyi().view(x, torch.tensor([0]))
    assert seen[1, 0, 0].tolist() == [0.1875, 0.125, 0.0625, 0]


def test_the_view_of_a_mirror_image_is_a_permutation_of_the_view() -> None:
    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    ids = torch.zeros(3, dtype=torch.int64)
    seen, mirrored = fyi().view(x, ids)[0], fyi().view(x.flip(3), ids)[0]
    assert torch.equal(mirrored, torch.cat([seen[3:], seen[:3]]))


def test_losses_do_not_tell_an_image_from_its_mirror_image() -> None:
    """DM's loss and DC's batch-mean gradient are invariant to permutation within a class."""
    rng = torch.Generator().manual_seed(2)
    net = RandomNetworks("ConvNetD1W4", (1, 8, 8), 3).draw(rng)
    x = torch.rand(2, 1, 8, 8, generator=rng)
    ids = torch.zeros(2, dtype=torch.int64)
    views = [fyi().view(images, ids) for images in (x, x.flip(3))]
    real = torch.rand(1, 5, 64, generator=rng)
    losses = [class_mean_distance(real, embedding_features(net, v)[0][None]) for v, _ in views]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-5)
    net.requires_grad_(True)
    weights = list(net.parameters())
    one, two = (class_gradients(net, v[None], y[None], weights) for v, y in views)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, two, strict=True))


def test_a_symmetric_image_is_only_doubled() -> None:
    half = torch.rand(2, 1, 8, 4, generator=torch.Generator().manual_seed(3))
    x = torch.cat([half, half.flip(3)], 3)
    seen, _ = fyi().view(x, torch.zeros(2, dtype=torch.int64))
    assert torch.equal(seen[:2], seen[2:])
    assert torch.allclose(seen.mean(0), x.mean(0))


def test_the_base_gets_the_flip_that_always_comes_and_keeps_everything_else() -> None:
    for name in ("dm", "datadam"):
        base = registry.get("methods", name)(iterations=7)
        wrapped = fyi().wrap(base)
        assert wrapped == dataclasses.replace(base, augment="dsa-flip")
        without = registry.get_class("fyi")(always_flip=False)
        assert without.wrap(base) == base
        assert fyi().wrap(dataclasses.replace(base, augment="none")).augment == "none"


def test_always_flip_takes_the_flip_out_of_the_lottery() -> None:
    dsa = DSA.fyi()
    seen = set()
    for seed in range(60):
        first, second = dsa.draw(1, (3, 32, 32), torch.Generator().manual_seed(seed), shared=True).operations
        assert first == "flip"
        seen.add(second)
    assert seen == {"color", "crop", "cutout", "scale", "rotate"}


def test_one_step_around_dm_equals_the_algorithm_written_out() -> None:
    train = blobs("three", (1, 8, 8), 3, (12, 2)).train
    task, twin = RunTask(train, 2, 5), RunTask(train, 2, 5)
    settings = {"network": "ConvNetD1W4", "iterations": 1, "batch_real": 4, "image_lr": 3.0}
    got = registry.make("fyi+dm", settings).distill(task).tensors["images"]

    pools = [train.of_class(c) for c in range(3)]

    def pick(name: str, count: int) -> list[torch.Tensor]:
        return [p[torch.randperm(len(p), generator=twin.rng(name))[:count]] for p in pools]

    def inputs(indices: torch.Tensor) -> torch.Tensor:
        return (train.images[indices].float() / 255 - train.mean[0]) / train.std[0]

    images = torch.stack([inputs(i) for i in pick("init", 2)])
    leaf = images.clone().requires_grad_()
    psi = RandomNetworks("ConvNetD1W4", train.shape, 3).draw(twin.rng("network"))
    batches = [inputs(i) for i in pick("batches", 4)]
    dsa = DSA.fyi(flip=True)
    for c in range(3):
        draw = dsa.draw(1, train.shape, twin.rng("augment"), shared=True)
        real = psi.embed(dsa.apply(batches[c], draw)).mean(0)
        both = torch.cat([leaf[c], leaf[c].flip(-1)])
        synthetic = psi.embed(dsa.apply(both, draw)).mean(0)
        ((real.detach() - synthetic) ** 2).sum().backward()
    assert torch.allclose(got, (images - 3.0 * leaf.grad).flatten(0, 1), atol=1e-4)


def test_wrapped_methods_have_the_recipes_of_their_base() -> None:
    assert registry.recipes("fyi+dm") == registry.recipes("dm")
    assert (
        registry.settings_of(registry.make("fyi+dm", {"fyi.always_flip": False}))["fyi.always_flip"] is False
    )


# ------------------------------------------------------------------------------------------------ around mtt

TRAIN = blobs("three", (1, 8, 8), 3, (12, 2)).train
MTT: dict[str, Any] = dict(
    network="ConvNetD1W4",
    iterations=3,
    syn_steps=3,
    max_start_epoch=2,
    image_lr=5.0,
    step_size=0.05,
    step_size_lr=1e-5,
    experts=2,
    train_epochs=4,
    train_lr=0.05,
)


def around_mtt(task: ExpertTask, **settings: Any) -> DistilledSet:
    return task.run_method(registry.make("fyi+mtt", {**MTT, **settings}))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Images of every student step, and labels."""
    found: list[tuple[int, int]] = []
    loss = Student.loss

    def counted(self: Student, state: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        found.append((len(x), len(labels)))
        return loss(self, state, x, labels)

    monkeypatch.setattr(Student, "loss", counted)
    yield found


@pytest.mark.parametrize("way", ["adjoint", "unroll", "tesla"])
def test_a_student_of_mtt_sees_five_images_and_their_mirror_images_of_ten(way: str, seen: list[Any]) -> None:
    train = blobs("ten", (1, 8, 8), 10, (4, 1)).train
    made = around_mtt(ExpertTask(train, 1, 0), gradient=way)
    assert set(seen) == {(10, 10)} and len(seen) == 3 * 3 * (1 if way == "unroll" else 2)
    assert made.tensors["images"].shape == (10, 1, 8, 8), "mirror images are not stored"
    assert made.targets.ids is not None and made.targets.ids.tolist() == list(range(10))
    assert "a step takes 5 of 10 images" in made.card.notes["batch_syn"]


@pytest.mark.parametrize(
    "ipc, batch_syn, sizes", [(3, 0, {6}), (3, 4, {4}), (3, 5, {4}), (5, 8, {4, 8}), (1, 1, {2})]
)
def test_batches_of_mtt_halve_so_that_a_student_sees_as_many_images_as_without(
    ipc: int, batch_syn: int, sizes: set[int], seen: list[Any]
) -> None:
    """Half of ``batch_syn``, rounded down, of which a permutation's last chunk may hold less; one image at least."""
    train = blobs("two", (1, 8, 8), 2, (6, 1)).train
    around_mtt(ExpertTask(train, ipc, 0), batch_syn=batch_syn)
    assert {n for n, _ in seen} == sizes


@pytest.mark.parametrize("batch_syn", [0, 3])
def test_mtt_in_fyi_equals_the_algorithm_written_out(batch_syn: int) -> None:
    """With the exact gradient; the released fork takes TESLA's."""
    task = ExpertTask(TRAIN, 2, 5)
    got = around_mtt(task, batch_syn=batch_syn)
    assert task.made is not None and task.asked[0].augment == "dsa-flip"
    names = ("network", "syn_steps", "max_start_epoch", "image_lr", "step_size", "step_size_lr")
    loop = {name: MTT[name] for name in names}
    twin = plain_trajectories.mtt(
        TRAIN, 2, 5, task.made, expert_epochs=2, batch_syn=batch_syn, mirrored=True, **loop
    )
    _, images, step_size = [next(twin) for _ in range(3)][-1]
    assert torch.allclose(got.tensors["images"], images, atol=2e-4)
    assert got.program is not None and float(got.program.step_sizes) == pytest.approx(step_size, rel=1e-4)


def test_teslas_gradient_is_another_one_with_the_same_first_loss() -> None:
    def losses(way: str) -> list[float]:
        found: list[float] = []

        class Logged(ExpertTask):
            def log(self, **values: float | Tensor) -> None:
                found.append(float(values["loss"]))

        around_mtt(Logged(TRAIN, 2, 5), gradient=way)
        return found

    exact, rough = losses("adjoint"), losses("tesla")
    assert exact[0] == rough[0] and exact[2] != rough[2]


def test_the_recipe_fyi_of_mtt_is_the_released_script() -> None:
    made = registry.get("methods", "mtt")(**registry.resolve_recipe("fyi+mtt", "fyi", "cifar10", 1).settings)
    assert (made.syn_steps, made.expert_epochs, made.max_start_epoch) == (50, 2, 2)
    assert (made.step_size, made.step_size_lr, made.momentum, made.zca) == (0.01, 1e-7, 0.5, True)
    assert (made.experts, made.train_epochs, made.iterations) == (100, 50, 10001)
    # its code takes TESLA's gradient from the expanded square, with the factor 2 that TESLA's own code drops
    assert (made.gradient, made.image_lr) == ("tesla", 100.0)


def test_evaluation_does_not_double_the_images_of_mtt() -> None:
    made = around_mtt(ExpertTask(TRAIN, 2, 5))
    found = items(made, TRAIN, torch.device("cpu"))
    assert len(found) == 6
