"""AST: MTT with experts trained to move smoothly, a student with momentum and a disturbed start, and matches on the way.

Source: the code (shenjiyuan123/AST-Alignment-with-Smooth-Expert, a fork of MTT) of Shen, Yang and Lam, "AST: Effective Dataset
Distillation through Alignment with Smooth and High-Quality Expert Trajectories", arXiv:2310.10541.
This method is defined by that code: of the paper only abstract and contributions could be read, and no accuracy of AST was
seen, so nothing is claimed about the paper's numbers.  Those of the code are the best of several evaluations on test data
inside one training, and then the best iteration; here the set after the last iteration is stored, scored under ``mtt``.
Experts have momentum and weight decay; they are smoothed by factors below 1 on the loss of their first ten epochs ("clipping
loss") and by a penalty on the gradient of their logits.  The student has momentum.  Its start is disturbed, its loss is
scaled by the epoch at which it starts ("balance"), and on its way it is also matched to the expert's states in between.
The scripts of the code differ from its readme and from each other: every set of flags is a row of RECIPES, and which of them
belongs to the paper is not known.  Its script for experts runs 50 of them without these flags; the readme's are used here.
Departures: the first images are those nearest to ``ipc`` centres of k-means, each taken once; the code always takes 10 centres
and ipc // 10 images of each, which is nothing at ipc 1, and seeds k-means by 0 where we draw a seed.  The gradient comes from
the exact adjoint, so the code's option to drop the graphs of early steps has no use and is not here; the step size must stay
positive; experts are taken in passes over all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddbench.contract import DistilledSet, Experts, Task, TeacherRecipe
from ddbench.matching.sampling import class_labels, initial_images, take
from ddbench.matching.selection import class_pools
from ddbench.matching.trajectory_matching import (
    Variant,
    answers_on_real,
    check_settings,
    expert_recipe,
    experts_for,
    match_trajectories,
)
from ddbench.nets.flat import Flat
from ddbench.registry import method

INITS = ("real", "noise", "kmeans")
MIDDLES = ("equal", "adaptive", "none")
_EARLY = tuple(round(0.5 + 0.05 * epoch, 2) for epoch in range(10))
"""Factors of the clipping loss, one an epoch."""


@method(family="trajectory matching", paper="arXiv:2310.10541", labels="hard")
@dataclass(frozen=True)
class AST:
    network: str = "ConvNet"
    """Network of the experts and of the student; one without running statistics."""
    iterations: int = 5001
    """Updates of the images (count); the authors' 5,000 include iteration 0."""
    syn_steps: int = 30
    """Student steps on synthetic images an iteration (count)."""
    expert_epochs: int = 2
    """Epochs between the expert's states at which the student starts and should arrive (count)."""
    max_start_epoch: int = 20
    """The student starts at an epoch below this one (count)."""
    batch_syn: int = 0
    """Images a student step, a wrapper's included (count); 0: all."""
    image_lr: float = 100.0
    """SGD step on network inputs (dimensionless); large, as the loss is a ratio."""
    momentum: float = 0.5
    """SGD momentum of images and step size, in [0, 1)."""
    step_size: float = 0.01
    """First value of the student's learned step size (dimensionless)."""
    step_size_lr: float = 1e-6
    """SGD step on the step size (dimensionless)."""
    student_momentum: float = 0.9
    """Momentum of the student's steps, in [0, 1)."""
    perturb: bool = True
    """Disturb the convolutions of the student's start: W + d * W with Gaussian d of norm 1 a tensor, anew in each iteration."""
    balance: bool = True
    """Scale the student's loss up where it starts in the later half of the epochs, down in the earlier half."""
    middle: str = "equal"
    """Match the expert's states on the way, too: ``equal`` (weight 1 each) | ``adaptive`` (growing weights) | ``none``."""
    init: str = "kmeans"
    """First synthetic images: ``kmeans`` (nearest to centres of their class in an expert's logits) | ``real`` | ``noise``."""
    augment: str = "dsa"
    """Of the experts' batches and the student's: ``dsa`` | ``dsa-flip`` | ``none`` | ``diffaug:NAMES``; an image its own."""
    gradient: str = "adjoint"
    """``adjoint`` (exact) | ``unroll`` (the same, all steps in memory; no ``--memory-limit``) | ``tesla`` (approximate)."""
    zca: bool = False
    """Whiten by a ZCA with eps 0.1 on the [0, 1] scale, fitted on the training images."""
    experts: int = 100
    """Expert networks (count)."""
    train_epochs: int = 50
    """Epochs of an expert (count)."""
    train_batch: int = 256
    """Real images an expert's step (count)."""
    train_lr: float = 0.003
    """SGD step of the experts (dimensionless); 0.6 of it from epoch ``train_epochs // 2 + 2`` on, with fresh momentum."""
    train_momentum: float = 0.9
    """SGD momentum of the experts, in [0, 1)."""
    train_weight_decay: float = 1e-3
    """Weight decay of the experts (dimensionless)."""
    clip_loss: bool = True
    """Multiply the experts' loss by 0.50, 0.55, ... 0.95 in their first ten epochs."""
    gradient_penalty: float = 2.0
    """Weight of the penalty on the gradient of the experts' logits (dimensionless); 0: none."""
    train_per_class: int = 0
    """Real images a class that the experts see (count); 0: all."""
    storage: str = "fp32"
    """How the experts' states are kept: ``fp32`` | ``fp16``."""
    mean: tuple[float, ...] | None = None
    """Mean a channel of the standardisation, [0, 1] scale; None: the data set's own (unused with ``zca``)."""
    std: tuple[float, ...] | None = None
    """Deviation a channel, likewise."""

    def expert_recipe(self) -> TeacherRecipe:
        return expert_recipe(
            self,
            momentum=self.train_momentum,
            weight_decay=self.train_weight_decay,
            milestones=(self.train_epochs // 2 + 2,),
            gamma=0.6,
            reset_optimiser=True,
            early_factors=_EARLY if self.clip_loss else (),
            gradient_penalty=self.gradient_penalty,
        )

    def distill(self, task: Task) -> DistilledSet:
        experts, train = experts_for(task, self), task.train
        flat = Flat(self.network, train.shape, train.classes)
        variant = Variant(
            perturb=(lambda start: perturbed(flat, start, task.rng("perturb"))) if self.perturb else None,
            factor=(lambda t: balance_factor(t, self.max_start_epoch)) if self.balance else None,
            middle=middle_weights(self.middle, self.expert_epochs),
            student_momentum=self.student_momentum,
        )
        if self.init == "kmeans":
            chosen = representatives(task, experts, flat)
            images = experts.space.real_to_input(take(train, chosen, task.device))
        else:
            images = initial_images(task, self.init, experts.space).flatten(0, 1)
        return match_trajectories(task, experts, self, images, class_labels(task).flatten(), variant=variant)

    def check(self, task: Task) -> None:
        check_settings(task, self, INITS)
        if self.middle not in MIDDLES:
            raise ValueError(f"middle is {self.middle!r}; expected one of {', '.join(MIDDLES)}")
        if not 0 <= self.student_momentum < 1:
            raise ValueError(
                f"student_momentum is {self.student_momentum}; expected a number from 0 to 1, 1 excluded"
            )
        if self.middle != "none" and self.syn_steps < self.expert_epochs:
            raise ValueError(
                f"{self.syn_steps} student steps cannot be matched on the way to {self.expert_epochs} epochs; expected at "
                f"least one an epoch: raise syn_steps, or choose middle=none"
            )


def balance_factor(start: int, max_start_epoch: int) -> float:
    """On the loss of a student that starts at an epoch: with h = ``max_start_epoch`` // 2 it is log_5(start - h + 8) from h on,
    1 / log_5(h - start + 8) before."""
    ahead = start - max_start_epoch // 2
    return math.log(ahead + 8, 5) if ahead >= 0 else 1 / math.log(8 - ahead, 5)


def middle_weights(kind: str, expert_epochs: int) -> tuple[float, ...]:
    """Of the matches after 1, 2, ... epochs of the expert, its last excluded: ``equal`` | ``adaptive`` | ``none``."""
    if kind == "none":
        return ()
    return tuple(j / expert_epochs if kind == "adaptive" else 1.0 for j in range(1, expert_epochs))


def perturbed(flat: Flat, state: Tensor, rng: torch.Generator) -> Tensor:
    """Parameters (P,) with W + d * W for every tensor W of four dimensions, d Gaussian and divided by its norm; a copy."""
    found = []
    for part in flat.parts(state).values():
        if part.dim() == 4:
            d = torch.randn(part.shape, generator=rng).to(part)
            part = part + d / d.norm() * part
        found.append(part.flatten())
    return torch.cat(found)


def representatives(task: Task, experts: Experts, flat: Flat) -> Tensor:
    """Indices (K * ipc,) of the training images nearest to the ``ipc`` centres of each class, on the CPU.

    The centres are those of k-means on the logits of one random expert at its end; an image that is taken already gives way
    to the next nearest.
    """
    from sklearn.cluster import KMeans

    train, rng = task.train, task.rng("init")
    state = experts.state(int(torch.randint(len(experts), (), generator=rng)), -1)
    seed = int(torch.randint(2**31 - 1, (), generator=rng))
    chosen = []
    for pool in class_pools(train, task.ipc):
        parts = [z.cpu() for _, z in answers_on_real(task, experts.space, flat, state, pool)]
        logits = torch.cat(parts).double().numpy()
        distinct = len(np.unique(logits, axis=0))  # images may be there twice; k-means wants other points
        centres = KMeans(min(task.ipc, distinct), n_init=10, random_state=seed).fit(logits).cluster_centers_
        chosen.append(pool[nearest_each(torch.from_numpy(logits), torch.from_numpy(centres), task.ipc)])
    return torch.cat(chosen)


def nearest_each(points: Tensor, centres: Tensor, count: int) -> Tensor:
    """Indices (count,) of points (n, d): the nearest to each of the centres (m, d) in turn that is not taken yet."""
    distances = (points[:, None] - centres[None]).square().sum(2)
    chosen: list[int] = []
    for turn in range(count):
        away = distances[:, turn % len(centres)].clone()
        away[chosen] = torch.inf
        chosen.append(int(away.argmin()))
    return torch.tensor(chosen)


_C10_STATISTICS = dict(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
"""The code standardises cifar100 by the numbers of cifar10."""
_README = "the readme of the authors' code"
_SCRIPT = "a script of the authors' code"
_DIGITS = dict(
    network="ConvNetD2W32",
    syn_steps=10,
    step_size=0.01,
    image_lr=30.0,
    experts=10,
    train_epochs=15,
    train_batch=64,
    train_lr=0.01,
    source="ours, for 8x8 images",
)
_CPU = dict(
    network="ConvNetW32",
    iterations=200,
    syn_steps=20,
    max_start_epoch=2,
    image_lr=300.0,
    step_size=0.01,
    step_size_lr=1e-6,
    experts=6,
    train_epochs=4,
    train_batch=64,
    train_lr=0.01,
    train_per_class=500,
    source="ours, minutes on two CPU cores",
)
RECIPES = {
    ("authors", "cifar10", 10): dict(
        syn_steps=30,
        max_start_epoch=20,
        image_lr=100.0,
        step_size_lr=1e-6,
        init="real",
        zca=True,
        source=_SCRIPT + ", the first of two",
    ),
    ("authors-b", "cifar10", 10): dict(
        syn_steps=30,
        max_start_epoch=20,
        image_lr=1000.0,
        step_size_lr=1e-5,
        init="real",
        zca=True,
        source=_SCRIPT + ", the second of two",
    ),
    ("authors", "cifar100", 1): dict(
        syn_steps=20,
        expert_epochs=3,
        max_start_epoch=20,
        image_lr=1000.0,
        step_size_lr=1e-5,
        zca=True,
        source=_README,
    ),
    ("script", "cifar100", 1): dict(
        syn_steps=40,
        expert_epochs=3,
        max_start_epoch=15,
        image_lr=100.0,
        step_size_lr=1e-5,
        balance=False,
        source=_SCRIPT,
        **_C10_STATISTICS,
    ),
    ("authors", "cifar100", 10): dict(
        syn_steps=20,
        max_start_epoch=30,
        image_lr=1000.0,
        step_size_lr=1e-5,
        batch_syn=128,
        balance=False,
        source=_SCRIPT,
        **_C10_STATISTICS,
    ),
    ("authors", "cifar100", 50): dict(
        syn_steps=80,
        max_start_epoch=40,
        image_lr=1000.0,
        step_size_lr=1e-5,
        batch_syn=700,
        perturb=False,
        balance=False,
        middle="none",
        source=_SCRIPT,
        **_C10_STATISTICS,
    ),
    ("authors", "tiny_imagenet", 1): dict(
        network="ConvNetD4",
        syn_steps=10,
        max_start_epoch=10,
        image_lr=10000.0,
        step_size_lr=1e-4,
        balance=False,
        init="real",
        source=_SCRIPT,
    ),
    ("digits", "digits", 1): dict(iterations=100, max_start_epoch=5, **_DIGITS),
    ("digits", "digits", None): dict(iterations=50, max_start_epoch=13, **_DIGITS),
    ("cpu", "mnist", None): _CPU,
    ("cpu", "cifar10", None): _CPU,
}
