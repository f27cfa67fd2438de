"""Flat trajectory distillation against the text and the table of its paper and code (arXiv:2211.11004).

The steps of its experts (GSAM) are checked in ``tests/test_networks.py``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import plain_trajectories
import pytest
import torch
from conftest import blobs
from plain_trajectories import ExpertTask, trained_experts
from torch import Tensor

from ddbench import registry
from ddbench.budget import byte_count
from ddbench.contract import DistilledSet, Program, Targets
from ddbench.matching import trajectory_matching
from ddbench.matching.trajectories import Matched

TRAIN = blobs("three", (1, 8, 8), 3, (12, 2), flip=False, seed=3).train
SMALL: dict[str, Any] = dict(
    network="ConvNetD1W4",
    iterations=4,
    syn_steps=3,
    expert_epochs=2,
    max_start_epoch=4,
    experts=2,
    train_epochs=6,
    train_lr=0.1,
    step_size=0.05,
    step_size_lr=1e-4,
    image_lr=50.0,
)


def made(name: str = "ftd", **settings: Any) -> Any:
    return registry.get("methods", name)(**{**SMALL, **settings})


def distill(name: str = "ftd", seed: int = 5, **settings: Any) -> DistilledSet:
    return ExpertTask(TRAIN, 2, seed).run_method(made(name, **settings))


def images(name: str = "ftd", **settings: Any) -> Tensor:
    return distill(name, **settings).tensors["images"]


def plain(seed: int = 5, **settings: Any) -> Any:
    """The loop of MTT by full unroll, which FTD leaves as it is."""
    method = made(**settings)
    experts = trained_experts(TRAIN, method.expert_recipe(), seed=seed)
    names = (
        *("network", "syn_steps", "expert_epochs", "max_start_epoch"),
        *("image_lr", "step_size", "step_size_lr", "batch_syn", "momentum"),
    )
    return plain_trajectories.mtt(TRAIN, 2, seed, experts, **{name: getattr(method, name) for name in names})


# ------------------------------------------------------------------------------------------------ experts


def test_experts_climb_by_rho_and_leave_out_alpha_of_the_orthogonal_part() -> None:
    task = ExpertTask(TRAIN, 2, 5)
    task.run_method(made(alpha=0.3))
    (asked,) = task.asked
    assert (asked.rho, asked.alpha, asked.adaptive) == (0.01, 0.3, True)
    assert replace(asked, rho=0.0, alpha=0.4) == made("mtt").expert_recipe()


def test_without_a_climb_experts_are_those_of_mtt() -> None:
    assert made(rho=0.0).expert_recipe() == made("mtt").expert_recipe()


def test_the_experts_of_the_authors_are_one_hundred_of_fifty_epochs() -> None:
    recipe = registry.get("methods", "ftd")().expert_recipe()
    assert (recipe.count, recipe.epochs, recipe.batch, recipe.lr) == (100, 50, 256, 0.01)
    assert (recipe.momentum, recipe.weight_decay, recipe.milestones) == (0.0, 0.0, ())
    assert (recipe.augment, recipe.held_out, recipe.rho, recipe.adaptive) == ("dsa", 0.0, 0.01, True)


# ------------------------------------------------------------------------------------------------ the average


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("batch_syn", [0, 4])
def test_the_set_is_the_average_of_a_loop_written_out(decay: float, batch_syn: int) -> None:
    got = distill(decay=decay, batch_syn=batch_syn, iterations=5)
    twin = plain(batch_syn=batch_syn)
    average = images(iterations=0)
    for _ in range(5):
        _, x, beta = next(twin)
        average = decay * average + (1 - decay) * x
    assert torch.allclose(got.tensors["images"], average, rtol=0, atol=2e-5)
    assert got.program is not None and float(got.program.step_sizes) == pytest.approx(beta, rel=1e-5)
    assert not torch.allclose(
        x, images(iterations=0), atol=0.05
    )  # something was learned, far above the tolerance


def test_losses_and_step_sizes_are_those_of_the_loop_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    task, twin = ExpertTask(TRAIN, 2, 5), plain()
    seen: list[tuple[float, float]] = []
    monkeypatch.setattr(
        task,
        "log",
        lambda **values: seen.append((float(values["loss"]), float(values["step_size"].detach()))),
    )
    task.run_method(made(iterations=6))
    rows = [next(twin) for _ in range(6)]
    assert [loss for loss, _ in seen] == pytest.approx([row[0] for row in rows], rel=1e-4)
    assert [beta for _, beta in seen[1:]] == pytest.approx([row[2] for row in rows[:-1]], rel=1e-5)
    assert seen[0][1] == pytest.approx(0.05)


def test_the_average_starts_at_the_real_images_and_takes_its_first_share_at_iteration_0() -> None:
    first, after = images(iterations=0), images(iterations=1, store="raw")
    assert torch.equal(first, images("mtt", iterations=0))
    assert torch.allclose(images(iterations=1, decay=0.75), 0.75 * first + 0.25 * after, atol=1e-6)


def test_raw_images_are_those_of_mtt_from_the_same_experts() -> None:
    raw, mtt = distill(store="raw"), distill("mtt")
    assert torch.equal(raw.tensors["images"], mtt.tensors["images"])
    assert torch.equal(images(decay=0.0), raw.tensors["images"])  # no memory
    assert not torch.allclose(images(), raw.tensors["images"], atol=1e-2)


def test_only_the_images_are_averaged() -> None:
    average, raw = distill(decay=0.9999), distill(store="raw")
    assert average.program is not None and raw.program is not None
    assert torch.equal(average.program.step_sizes, raw.program.step_sizes)
    assert float(raw.program.step_sizes) != pytest.approx(0.05, rel=1e-4)
    assert average.targets.ids is not None and average.targets.ids.tolist() == [0, 0, 1, 1, 2, 2]
    assert average.targets.soft is None
    assert byte_count(average) == byte_count(raw)


@pytest.mark.parametrize(
    "decay, updates, left",
    [
        *((0.9, n, 0.9**n) for n in (1, 7, 40)),
        *((0.9995, 5001, 0.081993), (0.9999, 5001, 0.606455), (0.999, 5001, 0.0067)),
    ],
)
def test_the_average_of_the_loop_still_holds_its_start_by_the_decay_to_the_updates(
    decay: float, updates: int, left: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 0 and for images that are 1 all along, as the loop averages them: 1 - d^n, also after the authors' iterations."""

    class Constant(torch.optim.Optimizer):
        """Sets the images to 1, whatever their gradient."""

        def __init__(self, x: Tensor) -> None:
            super().__init__([x], {})

        def step(self, closure: Any = None) -> None:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(1.0)

    def still(*given: Any, **named: Any) -> Matched:
        _, _, start, _, x, _, step_size, _ = given
        one = torch.ones(())
        return Matched(one, (one,), torch.zeros_like(x), None, torch.zeros_like(step_size), start)

    monkeypatch.setattr(trajectory_matching, "pixel_sgd", lambda x, lr, momentum: Constant(x))
    monkeypatch.setattr(trajectory_matching, "matched", still)  # its gradients are not used
    task, method = ExpertTask(TRAIN, 2, 5), made(iterations=updates, augment="none", syn_steps=1)
    got = trajectory_matching.match_trajectories(
        task,
        task.experts(method.expert_recipe()),
        method,
        torch.zeros(6, 1, 8, 8),
        torch.arange(3).repeat_interleave(2),
        variant=trajectory_matching.Variant(average=decay),
    )
    assert torch.allclose(got.tensors["images"], torch.full((6, 1, 8, 8), 1 - left), rtol=0, atol=2e-5)


# ------------------------------------------------------------------------------------------------ settings

# FTD's Table 7 as its readme prints it
TABLE: dict[str, tuple[Any, ...]] = {
    "dataset": (*("cifar10",) * 3, *("cifar100",) * 3, *("tiny_imagenet",) * 2),
    "ipc": (1, 10, 50, 1, 10, 50, 1, 10),
    "syn_steps": (50, 30, 30, 40, 20, 80, 30, 20),
    "expert_epochs": (2, 2, 2, 3, 2, 2, 2, 2),
    "max_start_epoch": (2, 20, 40, 20, 40, 40, 10, 40),
    "batch_syn": (0, 0, 0, 0, 0, 1000, 0, 500),
    "image_lr": (100, 100, 1000, 1000, 1000, 1000, 10000, 10000),
    "step_size_lr": (1e-7, 1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 1e-4, 1e-4),
    "step_size": (0.01, 0.001, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01),
    "alpha": (0.3, 0.3, 1, 1, 1, 1, 1, 1),
    "decay": (0.9999, 0.9995, 0.999, 0.9995, 0.9995, 0.999, 0.999, 0.999),
}


@pytest.mark.parametrize("column", range(8))
def test_the_authors_recipes_are_their_table(column: int) -> None:
    row = {name: values[column] for name, values in TABLE.items()}
    dataset, ipc = row.pop("dataset"), row.pop("ipc")
    found = registry.resolve_recipe("ftd", "authors", dataset, ipc)
    assert found.note == "" and "Table 7" in found.source
    method = registry.make("ftd", found.settings)
    assert {name: getattr(method, name) for name in row} == row
    tiny = dataset == "tiny_imagenet"
    assert method.network == ("ConvNetD4" if tiny else "ConvNet") and method.zca == (not tiny)
    assert (method.iterations, method.momentum, method.rho, method.adaptive) == (5001, 0.5, 0.01, True)
    assert (method.init, method.augment, method.store, method.experts) == ("real", "dsa", "average", 100)
    assert method.expert_recipe().zca == (None if tiny else 0.1)


def test_there_are_no_other_authors_recipes() -> None:
    authors = [key for key in registry.recipes("ftd") if key[0] == "authors"]
    assert len(authors) == 8
    assert {("digits", "digits", 1), ("digits", "digits", None)} < set(registry.recipes("ftd"))


# ------------------------------------------------------------------------------------------------ errors


def test_experts_that_are_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match=r"experts of 6 epochs are too short: .* needs 7; train them longer"):
        distill(max_start_epoch=6)
    distill(max_start_epoch=5, iterations=1)


def test_a_step_size_that_turns_negative_is_an_error_with_its_cure() -> None:
    with pytest.raises(
        ValueError,
        match=r"learned step size is -\d.* expected a positive number: lower step_size_lr \(1000\)",
    ):
        distill(step_size_lr=1000.0, step_size=1.0, iterations=30)


@pytest.mark.parametrize("network", ["ConvNetD1W4BN", "ResNet18BN"])
def test_running_statistics_are_refused(network: str) -> None:
    with pytest.raises(ValueError, match=f"{network} has running statistics .*expected a network without"):
        distill(network=network)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_is_no_average_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"decay is {decay}; expected a number from 0 to 1, 1 excluded"):
        distill(decay=decay)


def test_another_thing_to_store_is_refused() -> None:
    with pytest.raises(ValueError, match="store is 'best'; expected one of average, raw"):
        distill(store="best")


def test_the_snapshot_of_a_run_is_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``show`` gives between two iterations is what would be stored then."""
    task = ExpertTask(TRAIN, 2, 5)
    shown: list[DistilledSet] = []
    loop = task.loop

    def seen(total: int, state: Any = (), show: Any = None) -> Any:
        for it in loop(total, state, show):
            shown.append(show())
            yield it

    monkeypatch.setattr(task, "loop", seen)
    task.run_method(made())
    assert len(shown) == 4
    for it in (0, 2, 3):
        assert torch.equal(shown[it].tensors["images"], images(iterations=it))
        assert isinstance(shown[it].program, Program) and isinstance(shown[it].targets, Targets)
