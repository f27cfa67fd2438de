"""MTT against its paper and code (arXiv:2203.11932): the loop written out, experts, networks, settings.

The numbers of the loss and its gradient are in tests/test_trajectories.py.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import plain_trajectories
import pytest
import torch
from conftest import blobs
from plain_trajectories import ExpertTask
from torch import Tensor

from ddbench import registry
from ddbench.augment.named import siamese
from ddbench.contract import TeacherRecipe

TRAIN = blobs("three", (1, 8, 8), 3, (12, 2)).train
SMALL: dict[str, Any] = dict(
    network="ConvNetD2W4",
    iterations=5,
    syn_steps=4,
    expert_epochs=2,
    max_start_epoch=3,
    image_lr=10.0,
    step_size=0.05,
    step_size_lr=3e-5,
    experts=3,
    train_epochs=5,
    train_lr=0.1,
)
LOOP = ("syn_steps", "expert_epochs", "max_start_epoch", "image_lr", "step_size", "step_size_lr", "network")


class Logged(ExpertTask):
    """Keeps what is logged."""

    def log(self, **values: float | Tensor) -> None:
        super().log(**values)
        row = {name: float(torch.as_tensor(value).detach()) for name, value in values.items()}
        self.rows: list[dict[str, float]] = [*getattr(self, "rows", []), row]


def mtt(**settings: Any) -> Any:
    return registry.get("methods", "mtt")(**{**SMALL, **settings})


@pytest.mark.parametrize(
    "settings",
    [{}, dict(batch_syn=4), dict(augment="none"), dict(zca=True), dict(gradient="unroll")],
    ids=["all images", "chunks", "not augmented", "zca", "unroll"],
)
def test_the_method_equals_the_algorithm_written_out(settings: dict[str, Any]) -> None:
    task = Logged(TRAIN, 2, 5)
    made = mtt(**settings)
    got = task.run_method(made)
    assert task.made is not None
    loop = {name: getattr(made, name) for name in LOOP}
    twin = plain_trajectories.mtt(
        TRAIN, 2, 5, task.made, batch_syn=made.batch_syn, augment=made.augment != "none", **loop
    )
    expected = list(itertools.islice(twin, 5))
    assert [row["loss"] for row in task.rows] == pytest.approx([loss for loss, _, _ in expected], rel=1e-4)
    _, images, step_size = expected[-1]
    assert torch.allclose(got.tensors["images"], images, atol=2e-4)
    assert got.program is not None
    assert float(got.program.step_sizes) == pytest.approx(step_size, rel=1e-4)
    assert abs(step_size - 0.05) > 1e-4 and not torch.allclose(images, expected[0][1], atol=1e-3)


def test_a_student_that_does_not_move_is_at_distance_one() -> None:
    task = Logged(TRAIN, 2, 5)
    task.run_method(mtt(step_size=1e-12, step_size_lr=0.0, iterations=2))
    assert [row["loss"] for row in task.rows] == [pytest.approx(1.0, abs=1e-5)] * 2


def test_matching_makes_students_go_where_experts_went() -> None:
    task = Logged(TRAIN, 2, 5)
    settings = dict(
        iterations=150, augment="none", image_lr=30.0, step_size_lr=1e-4, expert_epochs=3, syn_steps=5
    )
    task.run_method(mtt(**settings))
    losses = [row["loss"] for row in task.rows]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


# ------------------------------------------------------------------------------------------------ experts


def test_experts_are_trained_as_the_authors_buffer() -> None:
    recipe = registry.get("methods", "mtt")().expert_recipe()
    assert recipe == TeacherRecipe(
        network="ConvNet",
        epochs=50,
        batch=256,
        lr=0.01,
        momentum=0.0,
        weight_decay=0.0,
        augment="dsa",
        held_out=0.0,
        count=100,
    )
    assert (recipe.milestones, recipe.rho, recipe.gradient_penalty, recipe.zca) == ((), 0, 0, None)


def test_experts_follow_the_settings_and_are_whitened_by_one_tenth() -> None:
    settings = dict(
        zca=True, train_batch=7, train_lr=0.2, train_epochs=9, experts=4, train_per_class=5, storage="fp16", augment="dsa-flip"
    )  # fmt: skip
    recipe = mtt(**settings).expert_recipe()
    assert recipe.zca == 0.1 and recipe.network == "ConvNetD2W4" and recipe.augment == "dsa-flip"
    assert (recipe.batch, recipe.lr, recipe.epochs, recipe.count) == (7, 0.2, 9, 4)
    assert (recipe.per_class, recipe.storage) == (5, "fp16")


def test_a_whole_distillation_with_trained_experts() -> None:
    from ddbench.task import RunTask

    task = RunTask(TRAIN, 1, 3)
    made = task.run_method(mtt(train_epochs=4, max_start_epoch=2, iterations=2))
    assert made.card.cost.teacher_s > 0
    assert made.tensors["images"].shape == (3, 1, 8, 8) and made.program is not None
    experts = task.experts(mtt(train_epochs=4).expert_recipe())
    states = [experts.state(0, epoch) for epoch in range(5)]  # the initialisation and one an epoch
    assert all(not torch.equal(a, b) for a, b in zip(states, states[1:], strict=False))
    with pytest.raises(IndexError):
        experts.state(0, 5)


# ------------------------------------------------------------------------------------------------ augmentation


def test_the_augmentation_is_one_operation_a_batch_with_parameters_of_each_images_own() -> None:
    dsa = siamese(mtt().augment, flip=True)
    assert dsa is not None and dsa.lottery == ("color", "crop", "cutout", "flip", "scale", "rotate")
    for seed in range(12):
        draw = dsa.draw(5, (3, 32, 32), torch.Generator().manual_seed(seed))
        ((_, parameters),) = draw.steps
        assert len(parameters) == 5 and len(parameters.unique(dim=0)) > 1


# ------------------------------------------------------------------------------------------------ settings

D3, D4, D5 = "ConvNet", "ConvNetD4", "ConvNetD5"
TABLE = {
    # data set, ipc: network, syn_steps, expert_epochs, max_start, lr_img, lr_lr, lr_teacher, batch_syn, zca
    ("cifar10", 1): (D3, 50, 2, 2, 100, 1e-7, 0.01, 0, True),
    ("cifar10", 10): (D3, 30, 2, 20, 100, 1e-5, 0.001, 0, True),
    ("cifar10", 50): (D3, 30, 2, 40, 1000, 1e-5, 0.001, 0, False),
    ("cifar100", 1): (D3, 20, 3, 20, 1000, 1e-5, 0.01, 0, True),
    ("cifar100", 10): (D3, 20, 2, 20, 1000, 1e-5, 0.01, 0, False),
    ("cifar100", 50): (D3, 80, 2, 40, 1000, 1e-5, 0.01, 125, True),
    ("tiny_imagenet", 1): (D4, 10, 2, 10, 10000, 1e-4, 0.01, 0, False),
    ("tiny_imagenet", 10): (D4, 20, 2, 40, 10000, 1e-4, 0.01, 200, False),
    ("tiny_imagenet", 50): (D4, 20, 2, 40, 10000, 1e-4, 0.01, 300, False),
    **{
        (f"image{name}", 1): (D5, 20, 2, 10, 1000, 1e-6, 0.01, 0, False)
        for name in ("nette", "woof", "fruit", "yellow", "meow", "squawk")
    },
}
FIELDS = (
    *("network", "syn_steps", "expert_epochs", "max_start_epoch", "image_lr", "step_size_lr", "step_size"),
    *("batch_syn", "zca"),
)


@pytest.mark.parametrize("cell", TABLE)
def test_settings_are_the_authors(cell: tuple[str, int]) -> None:
    found = registry.resolve_recipe("mtt", "authors", *cell)
    made = registry.get("methods", "mtt")(**found.settings)
    assert {name: getattr(made, name) for name in FIELDS} == dict(zip(FIELDS, TABLE[cell], strict=True))
    assert (made.iterations, made.momentum, made.init, made.augment) == (5001, 0.5, "real", "dsa")
    assert (made.gradient, made.experts, made.train_epochs) == ("adjoint", 100, 50)


def test_all_of_the_authors_rows_are_in_the_table() -> None:
    rows = {(dataset, ipc) for recipe, dataset, ipc in registry.recipes("mtt") if recipe == "authors"}
    assert rows == set(TABLE)


def test_cifar100_is_standardised_by_the_numbers_of_cifar10() -> None:
    made = registry.get("methods", "mtt")(
        **registry.resolve_recipe("mtt", "authors", "cifar100", 10).settings
    )
    recipe = made.expert_recipe()
    assert recipe.mean == (0.4914, 0.4822, 0.4465) and recipe.std == (0.2023, 0.1994, 0.2010)
    given = ExpertTask(blobs("colour", (3, 8, 8), 2, (4, 1)).train, 1, 0)
    small = {name: value for name, value in SMALL.items() if name != "iterations"}
    found = given.run_method(dataclasses.replace(made, iterations=0, **small))
    assert found.space is not None and found.space.mean == recipe.mean and found.space.std == recipe.std


TRAJECTORY = [
    f.name
    for f in registry.listing("methods")
    if not f.keywords.get("wrapper") and hasattr(registry.get_class(f.name), "expert_recipe")
]


def test_the_family_is_seen() -> None:
    assert "mtt" in TRAJECTORY


@pytest.mark.parametrize("name", TRAJECTORY)
def test_every_recipe_of_the_family_stays_inside_its_experts(name: str) -> None:
    """max_start_epoch - 1 + expert_epochs is an epoch that experts have, in the authors' rows and in ours."""
    for recipe, dataset, ipc in registry.recipes(name):
        settings = registry.resolve_recipe(name, recipe, dataset or "other", ipc or 1).settings
        made = registry.get("methods", name)(**settings)
        assert made.max_start_epoch - 1 + made.expert_epochs <= made.expert_recipe().epochs, (
            recipe,
            dataset,
            ipc,
        )
        assert made.expert_recipe().network == made.network
