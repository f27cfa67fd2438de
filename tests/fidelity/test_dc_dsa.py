"""Gradient matching against the numbers and the text of its papers and code (arXiv:2006.05929, arXiv:2102.08259)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from conftest import blobs
from torch import Tensor

from ddbench import registry
from ddbench.augment.dsa import DSA
from ddbench.contract import ImageData
from ddbench.matching.features import Siamese
from ddbench.matching.gradients import (
    DISTANCES,
    absolute_distance,
    class_gradients,
    cosine_distance,
    freeze_statistics,
    row_mean_distance,
    rows_distance,
    squared_distance,
)
from ddbench.nets.build import build
from ddbench.task import RunTask

REAL = (
    torch.tensor([[1.0, 0], [1, 1]]),
    torch.tensor([5.0, -1]),
    torch.arange(8.0).reshape(2, 1, 2, 2) - 3,
)
SYNTHETIC = (
    torch.tensor([[1.0, 1], [2, 2]]),
    torch.tensor([1.0, 1]),
    torch.tensor([1.0, -1, 0, 2, 1, 0, 2, 1]).reshape(2, 1, 2, 2),
)


def apart(distance, real: Sequence[Tensor] = REAL, synthetic: Sequence[Tensor] = SYNTHETIC) -> float:
    """The distance of one class's gradients."""
    (value,) = distance([r[None] for r in real], [s[None] for s in synthetic]).tolist()
    return float(value)


# ------------------------------------------------------------------------------------------------ distances


def test_the_distances_of_the_specs_example() -> None:
    assert apart(rows_distance) == pytest.approx(1.582111, abs=2e-6)
    assert apart(rows_distance, REAL[:1], SYNTHETIC[:1]) == pytest.approx(0.292894, abs=2e-6)
    assert apart(rows_distance, REAL[1:2], SYNTHETIC[1:2]) == 0
    assert apart(rows_distance, REAL[2:], SYNTHETIC[2:]) == pytest.approx(1.289217, abs=2e-6)
    assert apart(squared_distance) == 59
    assert apart(cosine_distance) == pytest.approx(0.546072, abs=1e-6)


def test_equal_and_rescaled_gradients_are_at_distance_zero() -> None:
    sevenfold = [7 * r for r in REAL]
    assert 0 < apart(rows_distance, REAL, REAL) < 1e-5
    assert apart(squared_distance, REAL, REAL) == 0
    assert apart(cosine_distance, REAL, REAL) == pytest.approx(0, abs=1e-6)
    assert apart(rows_distance, REAL, sevenfold) == pytest.approx(0, abs=1e-5)
    assert apart(cosine_distance, REAL, sevenfold) == pytest.approx(0, abs=1e-6)
    assert apart(squared_distance, REAL, sevenfold) == 2628


def test_negated_gradients_are_two_a_row_apart() -> None:
    negated = [-r for r in REAL]
    assert apart(rows_distance, REAL, negated) == pytest.approx(7.999998, abs=1e-6)
    assert apart(cosine_distance, REAL, negated) == pytest.approx(2, abs=1e-6)
    assert apart(squared_distance, REAL, negated) == 292


def test_rows_may_be_permuted_and_1d_tensors_are_ignored() -> None:
    def turned(kind: Sequence[Tensor]) -> list[Tensor]:
        return [t.flip(0) for t in kind]

    assert apart(rows_distance, turned(REAL), turned(SYNTHETIC)) == pytest.approx(
        apart(rows_distance), abs=1e-6
    )
    other = (SYNTHETIC[0], torch.tensor([-70.0, 3]), SYNTHETIC[2])
    assert apart(rows_distance, REAL, other) == apart(rows_distance)
    assert apart(squared_distance, REAL, other) != apart(squared_distance)
    assert apart(cosine_distance, REAL, other) != pytest.approx(apart(cosine_distance), abs=1e-3)


def test_layer_norm_weights_count_by_channel() -> None:
    real, synthetic = torch.ones(3, 4, 4), -torch.ones(3, 4, 4)
    assert apart(rows_distance, [real], [synthetic]) == pytest.approx(6, abs=1e-5)


def test_rows_without_gradient_count_one_and_tiny_parallel_ones_almost_one() -> None:
    dead = torch.zeros(1, 3, 5, requires_grad=True)
    value = rows_distance([torch.ones(1, 3, 5)], [dead])
    assert value.tolist() == [3.0]
    (slope,) = torch.autograd.grad(value.sum(), [dead])
    assert bool(torch.isfinite(slope).all())
    tiny = torch.full((1, 2), 1e-4)
    assert apart(rows_distance, [tiny], [tiny]) == pytest.approx(1 - 2e-8 / (2e-8 + 1e-6), abs=1e-5)


def test_the_distances_of_idc_on_convolutions_alone() -> None:
    real, synthetic = REAL[2:], SYNTHETIC[2:]
    assert apart(squared_distance, real, synthetic) == 36
    assert apart(absolute_distance, real, synthetic) == 14
    assert apart(row_mean_distance, real, synthetic) == 3.5
    assert apart(rows_distance, real, synthetic) == pytest.approx(1.289217, abs=2e-6)
    assert apart(row_mean_distance) == pytest.approx(3.5 + (0.5 + 1) + (4 + 2))  # a 1-D row is one coordinate


@pytest.mark.parametrize("name", DISTANCES)
def test_classes_do_not_mix(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    real, synthetic = ([torch.randn(3, *r.shape, generator=rng) for r in REAL] for _ in range(2))
    together = DISTANCES[name](real, synthetic)
    alone = [apart(DISTANCES[name], [r[g] for r in real], [s[g] for s in synthetic]) for g in range(3)]
    assert together.tolist() == pytest.approx(alone, rel=1e-5)


def test_the_bound_of_the_convnet_is_788() -> None:
    net = build("ConvNet", (3, 32, 32), 10)
    assert sum(p.numel() for p in net.parameters()) == 320_010
    ones = [torch.ones_like(p) for p in net.parameters()]
    assert apart(rows_distance, ones, [-p for p in ones]) == pytest.approx(788, abs=1e-2)


# ------------------------------------------------------------------------------------------------ batch norm


def test_statistics_are_moved_once_and_frozen_in_batch_norm_alone() -> None:
    net = build("ConvNetD1W4BN", (1, 8, 8), 3)
    net.add_module("another", torch.nn.Dropout())
    x = 2 + 3 * torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    freeze_statistics(net, x)
    norm = next(m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    with torch.no_grad():
        maps = net.blocks[0].conv(x)
    m, v = maps.mean((0, 2, 3)), maps.var((0, 2, 3))
    assert torch.allclose(norm.running_mean, 0.1 * m, atol=1e-6)
    assert torch.allclose(norm.running_var, 0.9 + 0.1 * v, atol=1e-5)
    assert [type(m).__name__ for m in net.modules() if not m.training] == ["BatchNorm2d"]
    before = norm.running_mean.clone()
    ids = torch.zeros(1, 48, dtype=torch.int64)
    class_gradients(net, x[None], ids, list(net.parameters()))
    assert torch.equal(norm.running_mean, before)


# ------------------------------------------------------------------------------------------------ siamese draws


def test_both_sides_share_one_draw_of_each_class_and_classes_differ() -> None:
    train = blobs("siamese", (3, 16, 16), 8, (2, 1)).train
    siamese = Siamese("dsa", train)
    draws = siamese.draw(8, torch.Generator().manual_seed(0))
    assert len({d.operations for d in draws}) > 1
    x = torch.rand(8, 1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    few, many = siamese.apply(x, draws), siamese.apply(x.expand(-1, 5, -1, -1, -1), draws)
    assert torch.allclose(many, few.expand_as(many), atol=1e-5)
    no_flip = Siamese("dsa", ImageData(**{**vars(train), "flip": False}))
    drawn = no_flip.draw(200, torch.Generator().manual_seed(0))
    assert {name for d in drawn for name in d.operations} == {"color", "crop", "cutout", "scale", "rotate"}


# ------------------------------------------------------------------------------------------------ the algorithm


def written_out(
    train: ImageData,
    twin: RunTask,
    network: str,
    iterations: int,
    first: str,
    augment: DSA | None,
    told: list[float] | None = None,
) -> Tensor:
    """Images after so many networks of two matching steps each: 1 epoch in batches of 4 between them, image step 0.3.

    ``told`` gets the mean distance over classes and matching steps of every network.
    """
    classes, shape = train.classes, train.shape
    pools = [train.of_class(c) for c in range(classes)]

    def inputs(indices: Tensor) -> Tensor:
        return (train.images[indices].float() / 255 - train.mean[0]) / train.std[0]

    def real_of(c: int, name: str, count: int) -> Tensor:
        return inputs(pools[c][torch.randperm(len(pools[c]), generator=twin.rng(name))[:count]])

    if first == "noise":
        images = torch.randn(classes * 2, *shape, generator=twin.rng("init")).view(classes, 2, *shape)
    else:
        images = torch.stack([real_of(c, "init", 2) for c in range(classes)])
    labels = torch.arange(classes).repeat_interleave(2)
    velocity = torch.zeros_like(images)
    for _ in range(iterations):
        net = build(network, shape, classes, twin.rng("network"))
        weights = list(net.parameters())
        sgd = torch.optim.SGD(weights, lr=0.05)
        total = 0.0
        for turn in range(2):
            if "BN" in network:
                net.train()
                net(torch.cat([real_of(c, "batch_norm", 16) for c in range(classes)]))
                for module in net.modules():
                    if isinstance(module, torch.nn.BatchNorm2d):
                        module.eval()
            leaf = images.clone().requires_grad_()
            loss = torch.zeros(())
            for c in range(classes):
                real, synthetic = real_of(c, "batches", 6), leaf[c]
                if augment is not None:
                    draw = augment.draw(1, shape, twin.rng("augment"), shared=True)
                    real, synthetic = augment.apply(real, draw), augment.apply(synthetic, draw)
                want = torch.autograd.grad(F.cross_entropy(net(real), torch.full((6,), c)), weights)
                have = torch.autograd.grad(
                    F.cross_entropy(net(synthetic), torch.full((2,), c)), weights, create_graph=True
                )
                for g, s in zip(want, have, strict=True):
                    if g.dim() > 1:
                        g, s = g.detach().flatten(1), s.flatten(1)
                        cosine = (g * s).sum(1) / (g.norm(dim=1) * s.norm(dim=1) + 1e-6)
                        loss = loss + (1 - cosine).sum()
            (slope,) = torch.autograd.grad(loss, [leaf])
            total += float(loss.detach())
            velocity = 0.5 * velocity + slope
            images = images - 0.3 * velocity
            if turn == 1:
                if told is not None:
                    told.append(total / (2 * classes))
                break
            net.train()
            flat = images.flatten(0, 1)
            for rows in torch.randperm(len(flat), generator=twin.rng("order")).split(4):
                x = flat[rows]
                if augment is not None:
                    x = augment.apply(x, augment.draw(len(x), shape, twin.rng("inner_augment")))
                sgd.zero_grad()
                F.cross_entropy(net(x), labels[rows]).backward()
                sgd.step()
    return images.flatten(0, 1)


@pytest.mark.parametrize("network", ["ConvNetD1W4", "ConvNetD1W4BN", "MLP"])
@pytest.mark.parametrize("name", ["dc", "dsa"])
def test_two_networks_equal_the_algorithm_written_out_class_by_class(name: str, network: str) -> None:
    """Momentum goes on through both networks; batch norm is frozen to match and moves in the inner training."""
    train = blobs("three", (1, 8, 8), 3, (18, 2)).train
    task, twin = RunTask(train, 2, 5), RunTask(train, 2, 5)
    made = registry.get("methods", name)(
        network=network, iterations=2, outer=2, inner=1, batch_real=6, batch_train=4, image_lr=0.3, net_lr=0.05
    )  # fmt: skip
    got = made.distill(task).tensors["images"]
    augment = DSA.classic(flip=True) if name == "dsa" else None
    wanted = written_out(train, twin, network, 2, "real" if name == "dsa" else "noise", augment)
    assert torch.allclose(got, wanted, atol=1e-4)
    started = written_out(
        train, RunTask(train, 2, 5), network, 0, "real" if name == "dsa" else "noise", augment
    )
    assert not torch.allclose(got, started, atol=0.05)


def test_one_matching_step_a_network_needs_no_inner_training() -> None:
    train = blobs("three", (1, 8, 8), 3, (12, 2)).train
    task = RunTask(train, 1, 5)
    settings = dict(network="ConvNetD1W4", iterations=2, outer=1, batch_real=6)
    one = registry.get("methods", "dsa")(**settings, inner=1).distill(RunTask(train, 1, 5))
    many = registry.get("methods", "dsa")(**settings, inner=50).distill(task)
    assert torch.equal(one.tensors["images"], many.tensors["images"])
    fresh = RunTask(train, 1, 5)
    assert torch.equal(task.rng("order").get_state(), fresh.rng("order").get_state())


# ------------------------------------------------------------------------------------------------ settings


def test_the_defaults_and_recipes_are_the_authors() -> None:
    loops = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
    for name, first, augment in (("dc", "noise", "none"), ("dsa", "real", "dsa")):
        made = registry.get("methods", name)()
        assert (made.network, made.iterations, made.init, made.augment) == ("ConvNet", 1000, first, augment)
        assert (made.image_lr, made.momentum, made.net_lr) == (0.1, 0.5, 0.01)
        assert (made.batch_real, made.batch_train, made.distance) == (256, 256, "rows")
        rows = registry.recipes(name)
        for dataset in ("mnist", "fashion_mnist", "svhn", "cifar10", "cifar100"):
            for ipc, (outer, inner) in loops.items():
                row = rows["authors", dataset, ipc]
                assert (row["outer"], row["inner"], len(row)) == (outer, inner, 3)
        assert (rows["fyi", "cifar100", 50]["outer"], rows["fyi", "cifar100", 50]["inner"]) == (10, 10)
        assert all(row["source"] for row in rows.values())
    hint = registry.recipes("dsa")["authors", "cifar10", 100]
    assert (hint["outer"], hint["inner"]) == (100, 2)
    assert ("authors", "cifar10", 100) not in registry.recipes("dc")


def test_the_logged_loss_is_the_mean_over_classes_and_matching_steps() -> None:
    class Logged(RunTask):
        def log(self, **values: float | Tensor) -> None:
            told.append(float(values["loss"]))

    told: list[float] = []
    train = blobs("three", (1, 8, 8), 3, (20, 2)).train
    settings = dict(network="ConvNetD1W4", iterations=2, outer=2, inner=1, batch_real=6, batch_train=4)
    made = registry.get("methods", "dc")(**settings, image_lr=0.3, net_lr=0.05)
    made.distill(Logged(train, 2, 5))
    wanted: list[float] = []
    written_out(train, RunTask(train, 2, 5), "ConvNetD1W4", 2, "noise", None, wanted)
    assert told == pytest.approx(wanted, rel=1e-4)
