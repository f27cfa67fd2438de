"""Gradients of classes: one after the other, stacked, in parts; the matching step; the inner training."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch._dynamo.utils as dynamo
import torch.nn.functional as F
from conftest import blobs
from torch import Tensor, nn

from ddbench import compute, registry
from ddbench.augment.dsa import DSA
from ddbench.matching import gradients, inner
from ddbench.matching.features import RandomNetworks
from ddbench.matching.gradients import (
    GradientMatching,
    class_gradients,
    rows_distance,
    stacked_gradients,
    stacking_pays,
)
from ddbench.matching.inner import fast_loss, mean_loss, train_on
from ddbench.matching.sampling import RealBatches, class_labels, initial_images
from ddbench.nets.build import build
from ddbench.task import RunTask

SHAPE = (2, 12, 12)
CHAINS = ("ConvNetD2W4", "ConvNetD1W4LN", "ConvNetD1W4GN", "ConvNetD1W4NN", "MLP")


@dataclass
class Mirrored(RunTask):
    """A task under a made-up wrapper: every synthetic batch with its mirror images."""

    def view(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([images, images.flip(-1)]), torch.cat([labels, labels])


def learning(name: str, classes: int = 3, shape: tuple[int, int, int] = SHAPE) -> RandomNetworks:
    networks = RandomNetworks(name, shape, classes)
    networks.module.requires_grad_(True)
    networks.draw(torch.Generator().manual_seed(0))
    return networks


def images_and_ids(n: int = 4, classes: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    x = torch.randn(classes, n, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return x, torch.arange(classes)[:, None].expand(-1, n)


def close(one: list[Tensor], two: list[Tensor], atol: float = 1e-5) -> bool:
    return all(torch.allclose(a, b, atol=atol) for a, b in zip(one, two, strict=True))


# ------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("all_parameters", [True, False])
def test_stacked_gradients_are_those_of_one_class_after_the_other(name: str, all_parameters: bool) -> None:
    net = learning(name).module
    parameters = [p for p in net.parameters() if all_parameters or p.dim() > 1]
    x, ids = images_and_ids()
    one, two = (take(net, x, ids, parameters) for take in (class_gradients, stacked_gradients))
    assert [g.shape for g in one] == [(3, *p.shape) for p in parameters]
    assert close(one, two)
    assert not any(g.requires_grad for g in one + two)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("name", CHAINS)
def test_gradients_of_the_distance_agree_too(name: str) -> None:
    net = learning(name).module
    parameters = [p for p in net.parameters() if p.dim() > 1]
    real, ids = images_and_ids()
    wanted = class_gradients(net, real, ids, parameters)
    found = []
    for take in (class_gradients, stacked_gradients):
        x = images_and_ids(2, seed=2)[0].requires_grad_()
        distances = rows_distance(wanted, take(net, x, ids[:, :2], parameters, graph=True))
        found.append([distances.detach(), *torch.autograd.grad(distances.sum(), [x])])
    assert close(*found)
    assert float(found[0][1].abs().max()) > 1e-3


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_a_class_in_parts_has_the_gradients_of_the_whole(most: int) -> None:
    net = learning("ConvNetD1W4").module
    x, ids = images_and_ids(5)
    sizes: list[int] = []
    net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    parts = class_gradients(net, x, ids, list(net.parameters()), most=most)
    assert max(sizes) <= most
    assert close(parts, class_gradients(net, x, ids, list(net.parameters())))


def test_what_cannot_be_stacked_is_not() -> None:
    assert stacking_pays(learning("ConvNetD1W4"), 4)
    assert not stacking_pays(learning("ConvNetD1W4BN"), 4)  # frozen statistics are shared by the classes
    assert not stacking_pays(learning("ResNet18", shape=(3, 32, 32)), 1)  # no chain
    assert not stacking_pays(learning("ConvNetD1W4"), 100_000)  # arithmetic rules
    x, ids = images_and_ids()
    net = learning("ConvNetD1W4BN").module
    with pytest.raises(ValueError, match="lack the running statistics"):
        stacked_gradients(net, x, ids, list(net.parameters()))


# ------------------------------------------------------------------------------------------------ one step


def step(
    task: RunTask, network: str = "ConvNetD1W4", augment: str = "dsa", distance: str = "rows"
) -> tuple[Tensor, Tensor]:
    """(distance, gradient) of one matching step."""
    train = task.train
    networks = learning(network, train.classes, train.shape)
    images = initial_images(task, "noise").requires_grad_()
    real = RealBatches(train, 6, task.device)
    matching = GradientMatching(task, networks, real, augment, distance)
    total = matching.step(networks.module, images, class_labels(task))
    return total, images.grad


@pytest.fixture(scope="module")
def five():
    return blobs("five", SHAPE, 5, (8, 1)).train


@pytest.mark.parametrize("distance", ["rows", "mse", "cos", "l1", "l1_mean"])
@pytest.mark.parametrize("stack", [True, False])
@pytest.mark.parametrize("images", [1.0, 3.0, 20.0])
def test_a_memory_limit_changes_nothing(five, monkeypatch, distance: str, stack: bool, images: float) -> None:
    whole = step(RunTask(five, 2, 3), distance=distance)
    monkeypatch.setattr(gradients, "stacking_pays", lambda *_: stack)
    limit = images * learning("ConvNetD1W4", 5).image_bytes / (1 << 20)
    parts = step(RunTask(five, 2, 3, memory_limit_mib=limit), distance=distance)
    assert close(list(whole), list(parts))


def test_no_more_classes_are_alive_than_fit(five, monkeypatch) -> None:
    seen: list[tuple[int, bool]] = []

    def spy(net, x, ids, parameters, graph=False):
        seen.append((len(x), graph))
        return stacked_gradients(net, x, ids, parameters, graph)

    monkeypatch.setattr(gradients, "stacked_gradients", spy)
    step(RunTask(five, 2, 3))
    assert seen == [(5, False), (5, True)]
    seen.clear()
    limit = (
        25 * learning("ConvNetD1W4", 5).image_bytes / (1 << 20)
    )  # 2 classes of 2 with a graph, or of 6 without
    step(RunTask(five, 2, 3, memory_limit_mib=limit))
    assert seen == [(2, False), (2, True), (2, False), (2, True), (1, False), (1, True)]


def test_the_synthetic_side_goes_through_the_view_of_a_wrapper(five) -> None:
    plain, mirrored = step(RunTask(five, 2, 3), augment="none"), step(Mirrored(five, 2, 3), augment="none")
    assert not torch.allclose(plain[0], mirrored[0])
    symmetric = mirrored[1]
    assert symmetric.shape == (5, 2, *SHAPE)
    networks = learning("ConvNetD1W4", 5)
    task = Mirrored(five, 2, 3)
    images = initial_images(task, "noise")
    both = torch.cat([images, images.flip(-1)], 1)
    ids = torch.arange(5)[:, None]
    real = RealBatches(five, 6, task.device)
    parameters = [p for p in networks.module.parameters() if p.dim() > 1]
    wanted = class_gradients(
        networks.module, real.images(real.draw(task.rng("batches"))), ids.expand(-1, 6), parameters
    )
    have = class_gradients(networks.module, both, ids.expand(-1, 4), parameters)
    assert float(mirrored[0]) == pytest.approx(float(rows_distance(wanted, have).sum()), rel=1e-5)


def test_an_unknown_distance_or_augmentation_is_named(five) -> None:
    with pytest.raises(ValueError, match="distance is 'row'; expected one of rows, mse, cos, l1, l1_mean"):
        step(RunTask(five, 1, 0), distance="row")
    with pytest.raises(ValueError, match="augment is 'dsaa'; expected one of none, dsa"):
        step(RunTask(five, 1, 0), augment="dsaa")


@pytest.mark.parametrize(
    ("field", "value", "least"), [("outer", 0, 1), ("inner", -1, 0), ("batch_train", 0, 1)]
)
def test_counts_out_of_range_are_named(five, field: str, value: int, least: int) -> None:
    made = registry.get("methods", "dc")(network="ConvNetD1W4", **{field: value})
    with pytest.raises(ValueError, match=f"{field} is {value}; expected at least {least}"):
        made.distill(RunTask(five, 1, 0))


# ------------------------------------------------------------------------------------------------ inner training


def test_the_inner_training_is_plain_sgd_over_shuffled_batches(five) -> None:
    task, twin = RunTask(five, 3, 2), RunTask(five, 3, 2)
    images, labels = initial_images(task, "real"), class_labels(task)
    net, other = build("ConvNetD1W4", SHAPE, 5), build("ConvNetD1W4", SHAPE, 5)
    dsa = DSA.classic(flip=True)
    train_on(task, net.eval(), images, labels, 2, 0.1, batch=6, augment=dsa)
    flat, ids = images.flatten(0, 1), labels.flatten()
    for _ in range(2):
        for rows in torch.randperm(15, generator=twin.rng("order")).split(6):
            x = dsa.apply(flat[rows], dsa.draw(len(rows), SHAPE, twin.rng("inner_augment")))
            grads = torch.autograd.grad(F.cross_entropy(other(x), ids[rows]), list(other.parameters()))
            with torch.no_grad():
                for p, g in zip(other.parameters(), grads, strict=True):
                    p -= 0.1 * g
    assert close(list(net.parameters()), list(other.parameters()), atol=1e-6)
    assert net.training
    assert all(p.grad is None for p in net.parameters())


def test_every_inner_batch_is_viewed_before_it_is_augmented(five) -> None:
    task = Mirrored(five, 3, 2)
    sizes: list[int] = []

    class Spy(DSA):
        def draw(self, batch, *rest, **named):
            sizes.append(batch)
            return super().draw(batch, *rest, **named)

    images = initial_images(task, "real")
    net = build("ConvNetD1W4", SHAPE, 5)
    train_on(task, net, images, class_labels(task), 2, 0.1, batch=6, augment=Spy(strategy="color_crop"))
    assert sizes == [12, 12, 6] * 2


# ------------------------------------------------------------------------------------------------ compiled


def test_only_long_runs_on_a_cpu_are_compiled() -> None:
    assert fast_loss(learning("ConvNetD1W4"), 1000) is mean_loss
    assert fast_loss(learning("ConvNet", 10, (3, 32, 32)), 1e6) is not mean_loss


@pytest.mark.parametrize("network", ["ConvNetD1W4", "ConvNetD1W4BN"])
def test_a_compiled_run_gives_the_images_of_a_plain_one(five, monkeypatch, network: str) -> None:
    settings = dict(network=network, iterations=2, outer=2, inner=2, batch_real=6, image_lr=0.3)

    def run() -> Tensor:
        monkeypatch.setattr(gradients, "stacking_pays", lambda *_: False)
        return registry.get("methods", "dsa")(**settings).distill(RunTask(five, 2, 5)).tensors["images"]

    plain = run()
    monkeypatch.setattr(inner, "_COMPILE_ABOVE_S", 0.0)
    monkeypatch.setattr(compute, "COMPILED", {})  # what others compiled would push ours out
    dynamo.counters.clear()
    compiled = run()
    if not compute.compiler_works():
        pytest.skip("no compiler here")
    assert len(compute.COMPILED) == 1
    assert torch.allclose(plain, compiled, atol=1e-4)
    graphs = dynamo.counters["stats"]["unique_graphs"]
    run()  # networks drawn anew are not traced again
    assert dynamo.counters["stats"]["unique_graphs"] == graphs


def test_without_a_compiler_the_plain_loss_goes_on(five, monkeypatch, caplog) -> None:
    def broken(*_):
        raise RuntimeError("no compiler: made up")

    monkeypatch.setattr(inner, "_COMPILE_ABOVE_S", 0.0)
    monkeypatch.setattr(compute, "compile_", lambda _: broken)
    monkeypatch.setattr(compute, "COMPILED", {})
    monkeypatch.setattr(compute, "_broken", False)
    networks = learning("ConvNetD1W4")
    x, ids = images_and_ids()
    loss = fast_loss(networks, 1)
    assert loss is not mean_loss
    assert torch.equal(loss(networks.module, x[0], ids[0]), mean_loss(networks.module, x[0], ids[0]))
    assert "training goes on uncompiled" in caplog.text


def test_probabilities_are_targets_too() -> None:
    net: nn.Module = learning("ConvNetD1W4").module
    x, ids = images_and_ids()
    hard = F.one_hot(ids[0].long(), 3).float()
    assert torch.allclose(mean_loss(net, x[0], hard), mean_loss(net, x[0], ids[0]))
