"""DATM: trajectory matching on the part of the experts' training that suits the size of the set, with learned soft labels.

Source: Guo, Wang, Cazenavette, Li, Zhang and You, "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory
Matching", ICLR 2024, arXiv:2310.05773, and its code (NUS-HPC-AI-Lab/DATM).  Settings: the authors' configurations as corrected
on 2024-04-26, when those of cifar10 at ipc 1 and 10 and of cifar100 at ipc 1 changed; before, they differed from the paper.
Small sets follow early epochs of the experts (easy patterns), large ones late epochs, in a window whose end may grow while the
set is learned.  Labels are logits: they start as the mean of the experts' logits over the experts that are right, are learned
beside the images, and only their softmax is used.  Iterations with a loss above ``threshold`` change nothing and are counted.
Experts are those of FTD, trained for 100 epochs, on whitened images.  The configurations name a decay of a moving average
that the authors' code does not use; there is none here.  ``gradient=tesla`` is the authors' variant for large sets.
As in their code, the search for images that an expert has right begins, for the next class, with the expert that it had
reached, and goes on with the second one.  Score the set under the protocol ``datm``.
Departures: the gradient comes from the exact adjoint, equal to that of the full unroll up to rounding; the step size must stay
positive; experts are taken in passes over all of them.  Where all experts together have too few images of a class right,
random ones fill up, with a note; an image that no expert has right starts with the
mean logits of all experts, with a note (the code divides by zero).  The authors report the best iteration on test data;
here the set after the last one is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddbench.contract import DistilledSet, Experts, Task, TeacherRecipe
from ddbench.matching.sampling import class_labels, initial_images, learned_sgd, take
from ddbench.matching.selection import class_pools
from ddbench.matching.trajectory_matching import (
    LABEL_SGD,
    Variant,
    answers,
    answers_on_real,
    check_settings,
    expert_recipe,
    experts_for,
    match_trajectories,
)
from ddbench.nets.flat import Flat
from ddbench.registry import method

INITS = ("real", "correct")
LABEL_INITS = ("correct", "one")
_BLOCK = 256
"""Images that an expert looks at before their number is counted, as in the authors' code."""


@method(family="trajectory matching", paper="arXiv:2310.05773", labels="soft")
@dataclass(frozen=True)
class DATM:
    network: str = "ConvNet"
    """Network of the experts and of the student; one without running statistics."""
    iterations: int = 10001
    """Updates of the images (count); the authors' 10,000 include iteration 0."""
    syn_steps: int = 80
    """Student steps on synthetic images an iteration (count)."""
    expert_epochs: int = 2
    """Epochs between the expert's states at which the student starts and should arrive (count)."""
    min_start_epoch: int = 0
    """The student starts at this epoch or later (count)."""
    first_max_start_epoch: int | None = None
    """In the first iteration it starts at an epoch below this one (count); None: below ``max_start_epoch`` from the outset."""
    max_start_epoch: int = 20
    """Later it starts at an epoch below this one (count)."""
    expansion: int = 1000
    """Iterations over which ``first_max_start_epoch`` grows to ``max_start_epoch`` (count)."""
    batch_syn: int = 0
    """Images a student step, a wrapper's included (count); 0: all."""
    image_lr: float = 100.0
    """SGD step on network inputs (dimensionless); large, as the loss is a ratio."""
    momentum: float = 0.5
    """SGD momentum of images and step size, in [0, 1)."""
    label_lr: float = 2.0
    """SGD step on the label logits (dimensionless); large, as the loss is a ratio."""
    label_momentum: float = 0.9
    """SGD momentum of the label logits, in [0, 1)."""
    step_size: float = 0.01
    """First value of the student's learned step size (dimensionless)."""
    step_size_lr: float = 1e-5
    """SGD step on the step size (dimensionless)."""
    threshold: float = 1.0
    """Iterations with a greater loss, or one that is no number, change nothing (1: the student ends as far off as it began)."""
    init: str = "correct"
    """First synthetic images: ``correct`` (random training images that an expert classifies rightly) | ``real`` (any)."""
    label_init: str = "correct"
    """First logits: ``correct`` (mean over the experts that are right) | ``one`` (those of one expert, right or wrong)."""
    augment: str = "dsa"
    """Of the experts' batches and the student's: ``dsa`` | ``dsa-flip`` | ``none`` | ``diffaug:NAMES``; an image its own."""
    gradient: str = "adjoint"
    """``adjoint`` (exact) | ``unroll`` (the same, all steps in memory; no ``--memory-limit``) | ``tesla`` (approximate)."""
    zca: bool = False
    """Whiten by a ZCA with eps 0.1 on the [0, 1] scale, fitted on the training images."""
    experts: int = 100
    """Expert networks (count)."""
    train_epochs: int = 100
    """Epochs of an expert (count)."""
    train_batch: int = 256
    """Real images an expert's step (count)."""
    train_lr: float = 0.01
    """SGD step of the experts (dimensionless)."""
    rho: float = 0.01
    """Radius of the ascent in an expert's step (dimensionless); 0: plain SGD."""
    alpha: float = 0.3
    """Share of the gradient's part orthogonal to the gradient after the ascent that a step leaves out (dimensionless)."""
    adaptive: bool = True
    """Scale the ascent by the size of each weight."""
    train_per_class: int = 0
    """Real images a class that the experts see (count); 0: all."""
    storage: str = "fp32"
    """How the experts' states are kept: ``fp32`` | ``fp16``."""
    mean: tuple[float, ...] | None = None
    """Mean a channel of the standardisation, [0, 1] scale; None: the data set's own (unused with ``zca``)."""
    std: tuple[float, ...] | None = None
    """Deviation a channel, likewise."""

    def expert_recipe(self) -> TeacherRecipe:
        return expert_recipe(self, rho=self.rho, alpha=self.alpha, adaptive=self.adaptive)

    def starts(self, it: int) -> tuple[int, int]:
        """Start epochs (first, last + 1) of an iteration."""
        top, first = self.max_start_epoch, self.first_max_start_epoch
        if first is not None:
            top = min(top, first + (top - first) * it // self.expansion)
        return self.min_start_epoch, top

    def distill(self, task: Task) -> DistilledSet:
        experts, train = experts_for(task, self), task.train
        flat = Flat(self.network, train.shape, train.classes)
        variant = Variant(
            window=self.starts,
            label_lr=self.label_lr,
            label_momentum=self.label_momentum,
            threshold=self.threshold,
        )
        if self.init == "correct":
            chosen = rightly_classified(task, experts, flat)
            images = experts.space.real_to_input(take(train, chosen, task.device))
        else:
            images = initial_images(task, "real", experts.space).flatten(0, 1)
        labels = self._first_labels(task, experts, flat, images)
        return match_trajectories(task, experts, self, images, labels, "logits", variant)

    def _first_labels(self, task: Task, experts: Experts, flat: Flat, images: Tensor) -> Tensor:
        """Logits (n, K)."""
        if self.label_init == "one":
            expert = int(torch.randint(len(experts), (), generator=task.rng("labels")))
            return answers(flat, experts.state(expert, -1), images)
        given = (answers(flat, experts.state(e, -1), images) for e in range(len(experts)))
        labels, none = mean_of_right(given, class_labels(task).flatten())
        if none:
            task.note(
                "label_init",
                f"no expert has {none} of the {len(images)} first images right; their labels start as the mean logits of all "
                f"{len(experts)} experts",
            )
        return labels

    def check(self, task: Task) -> None:
        check_settings(task, self, INITS)
        if self.label_init not in LABEL_INITS:
            raise ValueError(f"label_init is {self.label_init!r}; expected one of {', '.join(LABEL_INITS)}")
        if self.first_max_start_epoch is not None and self.expansion < 1:
            raise ValueError(f"expansion is {self.expansion}; expected at least 1 iteration")
        low, top = self.min_start_epoch, self.max_start_epoch
        first = top if self.first_max_start_epoch is None else self.first_max_start_epoch
        if not 0 <= low < first <= top:
            raise ValueError(
                f"start epochs are from {low} on, below {first} at first and below {top} later; expected "
                f"0 <= min_start_epoch < first_max_start_epoch <= max_start_epoch"
            )
        learned_sgd(torch.zeros(()), self.label_lr, self.label_momentum, LABEL_SGD)
        if not self.threshold > 0:
            raise ValueError(f"threshold is {self.threshold}; expected a number above 0")


def rightly_classified(task: Task, experts: Experts, flat: Flat) -> Tensor:
    """Indices (K * ipc,) of training images that an expert has right at its end, one class after the other, on the CPU.

    The images of a class are shuffled; one expert after the other looks at them in this order, and those that it has right
    join, until there are ``ipc``.  A class begins with the expert that the class before it ended with, and goes on from the
    second expert, as the authors' counter does.
    """
    train, rng = task.train, task.rng("init")
    chosen: list[int] = []
    filled: list[str] = []
    expert = 0
    for c, pool in enumerate(class_pools(train, task.ipc)):
        order = pool[torch.randperm(len(pool), generator=rng)]
        kept, expert = _search(task, experts, flat, order, c, expert)
        if len(kept) < task.ipc:
            filled.append(f"{len(kept)} of class {c}")
            others = [i for i in order.tolist() if i not in kept]
            kept += others[: task.ipc - len(kept)]
        chosen += kept
    if filled:
        task.note(
            "init",
            f"the {len(experts)} experts have fewer than {task.ipc} images right: {', '.join(filled)}; random images fill up",
        )
    return torch.tensor(chosen)


def _search(
    task: Task, experts: Experts, flat: Flat, order: Tensor, c: int, first: int
) -> tuple[list[int], int]:
    """Images of class ``c`` that the expert ``first``, then the second one, the third, ... have right, ``ipc`` at most, and the
    last expert that was asked."""
    kept: dict[int, None] = {}
    expert = first
    for turn in range(len(experts) + 1):
        expert = first if turn == 0 else turn % len(experts)
        state = experts.state(expert, -1)
        for block, logits in answers_on_real(task, experts.space, flat, state, order, _BLOCK):
            right = (logits.argmax(1) == c).cpu()
            kept.update(dict.fromkeys(block[right].tolist()))
            if len(kept) >= task.ipc:
                return list(kept)[: task.ipc], expert
    return list(kept), expert


def mean_of_right(given: Iterable[Tensor], ids: Tensor) -> tuple[Tensor, int]:
    """Mean of the logits (n, K) of those experts whose greatest logit of an image is that of its class.

    Args:
        given: logits (n, K), one an expert; at least one.
        ids: classes (n,).

    Returns:
        logits (n, K), and the number of images that no expert has right: they get the mean of all experts.
    """
    for expert, z in enumerate(given):
        if expert == 0:
            right, every, count = torch.zeros_like(z), torch.zeros_like(z), z.new_zeros(len(z), 1)
        is_right = (z.argmax(1) == ids)[:, None]
        right += is_right * z
        every += z
        count += is_right
    mean = torch.where(count > 0, right / count.clamp_min(1), every / (expert + 1))
    return mean, int((count == 0).sum())


_GIVEN = "the authors' configuration"
_CORRECTED = "the authors' configuration as corrected on 2024-04-26"
_TINY = dict(network="ConvNetD4", step_size_lr=1e-4, label_lr=10.0, zca=True)
_DIGITS = dict(
    network="ConvNetD2W32",
    syn_steps=10,
    step_size=0.05,
    experts=10,
    train_epochs=15,
    train_batch=64,
    train_lr=0.05,
    alpha=0.3,
    source="ours, for 8x8 images, with the experts of ftd",
)
_CPU = dict(
    network="ConvNetW32",
    iterations=200,
    syn_steps=20,
    max_start_epoch=2,
    image_lr=300.0,
    step_size=0.03,
    step_size_lr=1e-6,
    experts=6,
    train_epochs=4,
    train_batch=64,
    train_lr=0.03,
    train_per_class=500,
    alpha=0.3,
    threshold=1.1,
    source="ours, minutes on two CPU cores",
)
RECIPES = {
    ("authors", "cifar10", 1): dict(
        max_start_epoch=4,
        batch_syn=10,
        step_size_lr=1e-7,
        label_lr=5.0,
        threshold=1.1,
        zca=True,
        source=_CORRECTED,
    ),
    ("authors", "cifar10", 10): dict(
        first_max_start_epoch=10,
        max_start_epoch=20,
        expansion=1000,
        batch_syn=100,
        zca=True,
        source=_CORRECTED,
    ),
    ("authors", "cifar10", 50): dict(
        first_max_start_epoch=20,
        max_start_epoch=40,
        expansion=2000,
        batch_syn=500,
        image_lr=1000.0,
        zca=True,
        source=_GIVEN,
    ),
    ("authors", "cifar10", 500): dict(
        syn_steps=40,
        min_start_epoch=40,
        max_start_epoch=60,
        batch_syn=1000,
        image_lr=50.0,
        label_lr=10.0,
        zca=True,
        source=_GIVEN,
    ),
    ("authors", "cifar10", 1000): dict(
        syn_steps=100,
        min_start_epoch=40,
        max_start_epoch=60,
        batch_syn=1000,
        image_lr=50.0,
        label_lr=10.0,
        zca=True,
        source=_GIVEN,
    ),
    ("authors", "cifar100", 1): dict(
        syn_steps=40,
        expert_epochs=3,
        first_max_start_epoch=10,
        max_start_epoch=20,
        expansion=1000,
        batch_syn=100,
        image_lr=1000.0,
        label_lr=10.0,
        zca=True,
        source=_CORRECTED + "; its batch of 1,000 is all 100 images",
    ),
    ("authors", "cifar100", 10): dict(
        first_max_start_epoch=30,
        max_start_epoch=50,
        expansion=2000,
        batch_syn=1000,
        image_lr=1000.0,
        label_lr=10.0,
        zca=True,
        source=_GIVEN,
    ),
    ("authors", "cifar100", 50): dict(
        min_start_epoch=20,
        max_start_epoch=70,
        batch_syn=1000,
        image_lr=1000.0,
        label_lr=10.0,
        init="real",
        label_init="one",
        zca=True,
        source=_GIVEN,
    ),
    ("authors", "cifar100", 100): dict(
        min_start_epoch=30,
        max_start_epoch=70,
        batch_syn=1000,
        image_lr=50.0,
        label_lr=10.0,
        zca=True,
        source=_GIVEN,
    ),
    ("authors", "tiny_imagenet", 1): dict(
        syn_steps=40,
        first_max_start_epoch=15,
        max_start_epoch=20,
        expansion=2000,
        batch_syn=200,
        image_lr=10000.0,
        source=_GIVEN + "; its batch of 1,000 is all 200 images",
        **_TINY,
    ),
    ("authors", "tiny_imagenet", 10): dict(
        syn_steps=40, min_start_epoch=10, max_start_epoch=50, batch_syn=500, source=_GIVEN, **_TINY
    ),
    ("authors", "tiny_imagenet", 50): dict(
        syn_steps=20, min_start_epoch=40, max_start_epoch=70, batch_syn=1000, source=_GIVEN, **_TINY
    ),
    ("digits", "digits", 1): dict(iterations=100, max_start_epoch=5, image_lr=30.0, **_DIGITS),
    ("digits", "digits", None): dict(
        iterations=50,
        first_max_start_epoch=5,
        max_start_epoch=13,
        expansion=25,
        image_lr=100.0,
        **_DIGITS,
    ),
    ("cpu", "mnist", None): _CPU,
    ("cpu", "cifar10", None): _CPU,
}
