"""Experts in memory, trained or made up, for tests that need no cache; and the plain training that they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.contract import ImageData, Space, TeacherRecipe
from ddbench.nets.build import init_parameters
from ddbench.nets.flat import Flat
from ddbench.task import RunTask


@dataclass(eq=False)
class MadeExperts:
    """Trajectories (experts, epochs + 1, P) in memory, as ``ddbench.contract.Experts``."""

    recipe: TeacherRecipe
    space: Space
    states: Tensor
    fingerprint: str = "made"
    accuracies: tuple[float, ...] = ()
    train_s: float = 0.0
    read: list[tuple[int, int]] = field(default_factory=list)
    """(expert, epoch) of every state that was asked for."""

    def __len__(self) -> int:
        return len(self.states)

    def state(self, expert: int, epoch: int) -> Tensor:
        self.read.append((expert, epoch))
        return self.states[expert, epoch].clone()


def trained_experts(
    train: ImageData, recipe: TeacherRecipe, space: Space | None = None, seed: int = 0
) -> MadeExperts:
    """Experts by plain full-batch gradient descent without augmentation: quick, and enough for a loop to have something."""
    space = space or train.space
    flat = Flat(recipe.network, train.shape, train.classes)
    x, y = space.real_to_input(train.images), train.labels
    found = []
    for index in range(recipe.count):
        state = flat.vector(
            init_parameters(
                recipe.network,
                train.shape,
                train.classes,
                torch.Generator().manual_seed(1000 * seed + index),
            )
        )
        snapshots = [state]
        for _ in range(recipe.epochs):
            leaf = state.clone().requires_grad_()
            (g,) = torch.autograd.grad(F.cross_entropy(flat.logits(leaf, x), y), leaf)
            state = state - recipe.lr * g
            snapshots.append(state)
        found.append(torch.stack(snapshots))
    return MadeExperts(recipe, space, torch.stack(found), accuracies=(0.5,) * recipe.count)


class ExpertTask(RunTask):
    """A task whose experts are made up instead of trained and stored."""

    made: MadeExperts | None = None
    asked: Sequence[TeacherRecipe] = ()

    def experts(self, recipe: TeacherRecipe) -> Any:
        self.asked = [*self.asked, recipe]
        if self.made is None:
            from ddbench.data import fit_zca, zca_space

            space = None if recipe.zca is None else zca_space(self.train, fit_zca(self.train, recipe.zca))
            self.made = trained_experts(self.train, recipe, space, self.seed)
        return self.made
