"""Toy students, and experts in memory, for tests that need no cache; and readable twins of trajectory matching.

The twin is the loop of most published code: a network's parameters cut out of a flat vector, all student steps in one
graph, a read to the host every iteration.  It takes the methods' draws (the same named generators in the same order), so that
losses can be compared iteration by iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.augment.dsa import DSA
from ddbench.contract import Experts, ImageData, Space, TeacherRecipe
from ddbench.matching.trajectories import Student, inner_loss
from ddbench.nets.build import build, init_parameters
from ddbench.nets.flat import Flat
from ddbench.seeding import Generators
from ddbench.task import RunTask
from ddbench.train.networks import input_space


class Toy(Student):
    """A student whose logits are a function of flat parameters and inputs (n, d)."""

    def __init__(self, logits: Callable[[Tensor, Tensor], Tensor], kind: str = "ids") -> None:
        self.logits, self.kind = logits, kind
        self._first, self._second, self._last = self._gradient, self._products, self._input_products

    def loss(self, state: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        return inner_loss(self.logits(state, x), labels, self.kind)


def linear(state: Tensor, x: Tensor) -> Tensor:
    """The specs' 2 -> 2, without bias; 4 parameters."""
    return x @ state.view(2, 2).T


def two_layers(state: Tensor, x: Tensor) -> Tensor:
    """The specs' 2 -> 3 -> 2, with tanh; 17 parameters."""
    w1, b1, w2, b2 = state.split([6, 3, 6, 2])
    return torch.tanh(x @ w1.view(3, 2).T + b1) @ w2.view(2, 3).T + b2


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
            self.made = trained_experts(self.train, recipe, input_space(self.train, recipe), self.seed)
        return self.made


def mtt(
    train: ImageData,
    ipc: int,
    seed: int,
    experts: Experts,
    network: str,
    syn_steps: int,
    expert_epochs: int,
    max_start_epoch: int,
    image_lr: float,
    step_size: float,
    step_size_lr: float,
    batch_syn: int = 0,
    momentum: float = 0.5,
    augment: bool = True,
    mirrored: bool = False,
) -> Iterator[tuple[float, Tensor, float]]:
    """MTT by full unroll: mtt.md of the authors' distill.py; ``mirrored``: as FYI's fork, but with the exact gradient.

    Yields:
        loss, images (n, C, H, W) and step size after each iteration, for ever.
    """
    rng, classes = Generators(seed, "distil"), train.classes
    net = build(network, train.shape, classes).train()
    named = [(name, p.shape, p.numel()) for name, p in net.named_parameters()]
    dsa = (DSA.fyi(train.flip) if mirrored else DSA.classic(train.flip)) if augment else None

    def logits(flat: Tensor, x: Tensor) -> Tensor:
        weights, at = {}, 0
        for name, shape, count in named:
            weights[name] = flat[at : at + count].view(shape)
            at += count
        return torch.func.functional_call(net, weights, (x,))

    pools = [train.of_class(c) for c in range(classes)]
    first = torch.cat([pool[torch.randperm(len(pool), generator=rng("init"))[:ipc]] for pool in pools])
    images = experts.space.real_to_input(train.images[first]).clone().requires_grad_()
    labels = torch.arange(classes).repeat_interleave(ipc)
    beta = torch.tensor(step_size, requires_grad=True)
    by_images = torch.optim.SGD([images], lr=image_lr, momentum=momentum)
    by_beta = torch.optim.SGD([beta], lr=step_size_lr, momentum=momentum)
    batch = min(batch_syn or len(images), len(images))
    batch = max(1, batch // 2) if mirrored else batch
    left: list[int] = []
    while True:
        if not left:
            left = torch.randperm(len(experts), generator=rng("experts")).tolist()
        expert = left.pop(0)
        t = int(torch.randint(0, max_start_epoch, (), generator=rng("starts")))
        start, goal = experts.state(expert, t), experts.state(expert, t + expert_epochs)
        theta = start.clone().requires_grad_()
        chunks: list[Tensor] = []
        for _ in range(syn_steps):
            if not chunks:
                chunks = list(torch.split(torch.randperm(len(images), generator=rng("batches")), batch))
            chosen = chunks.pop()
            x, y = images[chosen], labels[chosen]
            if mirrored:
                x, y = torch.cat([x, x.flip(-1)]), torch.cat([y, y])
            if dsa is not None:
                x = dsa.apply(x, dsa.draw(len(x), train.shape, rng("augment")))
            (g,) = torch.autograd.grad(F.cross_entropy(logits(theta, x), y), theta, create_graph=True)
            theta = theta - beta * g
        loss = F.mse_loss(theta, goal, reduction="sum") / F.mse_loss(start, goal, reduction="sum")
        by_images.zero_grad()
        by_beta.zero_grad()
        loss.backward()
        by_images.step()
        by_beta.step()
        yield float(loss.detach()), images.detach().clone(), float(beta.detach())
