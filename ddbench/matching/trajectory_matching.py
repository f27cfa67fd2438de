"""The loop of trajectory matching, of which MTT is the plain form and FTD, TESLA, DATM and AST are variants.

Source: Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022, arXiv:2203.11932, and its code
(GeorgeCazenavette/mtt-distillation).
Departures: the step size must stay positive (the code lets it turn negative and goes on); experts are taken in an order that is
drawn anew for each pass over all of them, where the code shuffles files and then the experts of a file; a wrapper that adds
images to the student's batches (FYI) gets smaller batches, so that what the student sees keeps its size, as in FYI's code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ddbench.augment.dsa import Draw
from ddbench.augment.named import siamese
from ddbench.compute import to_device
from ddbench.contract import DistilledSet, Experts, Program, Space, Targets, Task, TeacherRecipe
from ddbench.matching.features import RandomNetworks, images_that_fit
from ddbench.matching.sampling import INITS, learned_sgd, pixel_sgd, take
from ddbench.matching.selection import class_pools
from ddbench.matching.trajectories import WAYS, Goal, Student, matched
from ddbench.nets.flat import Flat

_CHUNK = 256
_SECOND_ORDER = 6
"""Bytes of a step with second derivatives, in outputs of all layers."""
_STEP_SIZE = ("step_size_lr", "momentum")
LABEL_SGD = ("label_lr", "label_momentum")
"""Fields of a method that give step and momentum of what is learned beside the images."""
_HUGE = 1e9
"""Stands in traces for losses of skipped iterations that are greater, or no numbers."""


@dataclass(frozen=True)
class Settings:
    """What all trajectory methods share; the fields are documented in ``methods/mtt.py``."""

    network: str
    iterations: int
    syn_steps: int
    expert_epochs: int
    max_start_epoch: int
    batch_syn: int
    image_lr: float
    momentum: float
    step_size: float
    step_size_lr: float
    augment: str
    gradient: str

    @classmethod
    def of(cls, made: Any) -> Settings:
        """Those fields of a method."""
        return cls(**{f.name: getattr(made, f.name) for f in fields(cls)})

    def __post_init__(self) -> None:
        for name, least in (
            ("iterations", 0),
            ("syn_steps", 1),
            ("expert_epochs", 1),
            ("max_start_epoch", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if self.batch_syn < 0:
            raise ValueError(f"batch_syn is {self.batch_syn}; expected 0 (all images) or a number of images")
        if not self.step_size > 0:
            raise ValueError(f"step_size is {self.step_size}; expected a number above 0")
        if self.gradient not in WAYS:
            raise ValueError(f"gradient is {self.gradient!r}; expected one of {', '.join(WAYS)}")


def expert_recipe(made: Any, **changes: Any) -> TeacherRecipe:
    """MTT's experts by the fields of a method (``network``, ``train_epochs``, ``experts``, ``zca``, ...), with changes: plain
    SGD at a constant rate of 0.01 in batches of 256, augmented, on all training images.

    Raises:
        ValueError: a count out of range; names the method's field.
    """
    for name in ("experts", "train_epochs", "train_batch"):
        if getattr(made, name) < 1:
            raise ValueError(f"{name} is {getattr(made, name)}; expected at least 1")
    if made.train_per_class < 0:
        raise ValueError(
            f"train_per_class is {made.train_per_class}; expected 0 (all images) or a number of images a class"
        )
    plain: dict[str, Any] = dict(
        network=made.network,
        epochs=made.train_epochs,
        batch=made.train_batch,
        lr=made.train_lr,
        momentum=0.0,
        weight_decay=0.0,
        augment=made.augment,
        held_out=0.0,
        mean=made.mean,
        std=made.std,
        zca=0.1 if made.zca else None,
        per_class=made.train_per_class or None,
        count=made.experts,
        storage=made.storage,
    )
    return TeacherRecipe(**{**plain, **changes})


def check_settings(task: Task, made: Any, inits: Sequence[str] = INITS) -> None:
    """Refuse, before experts are trained for hours, what a run would refuse after it.

    Args:
        made: a method with the fields of :class:`Settings`, ``init`` and ``expert_recipe()``.
        inits: that the method knows; all but ``noise`` take ``ipc`` images of every class.

    Raises:
        ValueError: a setting out of range, a class with too few images, a network without a flat form, or experts that would be
            too short.
    """
    s, recipe = Settings.of(made), made.expert_recipe()
    if made.init not in inits:
        raise ValueError(f"init is {made.init!r}; expected one of {', '.join(inits)}")
    class_pools(task.train, min(task.ipc, 1) if made.init == "noise" else task.ipc)
    pixel_sgd(torch.zeros(()), s.image_lr, s.momentum)
    learned_sgd(torch.zeros(()), s.step_size_lr, s.momentum, _STEP_SIZE)
    siamese(s.augment, task.train.flip)
    Flat(s.network, task.train.shape, task.train.classes)
    _check_length(recipe, s, s.max_start_epoch)


def experts_for(task: Task, made: Any) -> Experts:
    """The experts of a method, after its ``check(task)``."""
    made.check(task)
    return task.experts(made.expert_recipe())


@torch.no_grad()
def answers(flat: Flat, state: Tensor, x: Tensor) -> Tensor:
    """Logits (n, K) of inputs (n, C, H, W) by the network with parameters ``state`` (P,), without augmentation."""
    return torch.cat([flat.logits(state, part) for part in torch.split(x, _CHUNK)])


def answers_on_real(
    task: Task, space: Space, flat: Flat, state: Tensor, indices: Tensor, block: int = _CHUNK
) -> Iterator[tuple[Tensor, Tensor]]:
    """Block by block, indices (b,) of training images and their logits (b, K) by the network with parameters ``state`` (P,).

    Args:
        space: of the network's inputs.
        indices: of the training images (n,), on the CPU.
    """
    for part in torch.split(indices, block):
        yield part, answers(flat, state, space.real_to_input(take(task.train, part, task.device)))


@dataclass(frozen=True, eq=False)
class Variant:
    """What a descendant changes in the loop; the defaults are MTT's."""

    window: Callable[[int], tuple[int, int]] | None = None
    """Iteration -> start epochs (first, last + 1); None: 0 to ``max_start_epoch``, excluded."""
    label_lr: float | None = None
    """Step of the labels, which are then learned (they are floats); None: fixed."""
    label_momentum: float = 0.9
    """SGD momentum of the labels, in [0, 1)."""
    threshold: float | None = None
    """Iterations with a greater loss, or one that is no number, change nothing."""
    relabel: Callable[[Tensor, Tensor], Tensor] | None = None
    """(expert's goal (P,), synthetic images) -> labels of this iteration (n, K)."""
    perturb: Callable[[Tensor], Tensor] | None = None
    """Of the student's start (P,), which is then the start for all distances."""
    factor: Callable[[int], float] | None = None
    """Start epoch -> factor on the student's loss."""
    middle: tuple[float, ...] = ()
    """Weights of the expert's states 1, 2, ... epochs after the start, matched on the way."""
    student_momentum: float = 0.0
    """Of the student's steps, in [0, 1)."""
    average: float | None = None
    """Decay of a moving average of the images, which is then what is stored."""


def match_trajectories(
    task: Task,
    experts: Experts,
    made: Any,
    images: Tensor,
    labels: Tensor,
    kind: str = "ids",
    variant: Variant | None = None,
) -> DistilledSet:
    """Learn images, the student's step size and, where asked for, labels, by matching segments of expert trajectories.

    Args:
        experts: whose space the images live in.
        made: a method with the fields of :class:`Settings`.
        images: (n, C, H, W), network inputs on the task's device, one class after the other; not changed.
        labels: (n,) ids, or floats (n, K) of a ``kind`` that :class:`ddbench.matching.trajectories.Student` knows; not changed.

    Returns:
        the set after the last iteration, with its step size as a program.

    Raises:
        ValueError: the experts are too short for the start epochs, a setting is out of range, the step size fell to 0 or
            below, or a loss is not finite (``task.log`` says so).
    """
    s, variant = Settings.of(made), variant or Variant()
    train, device = task.train, task.device
    window = variant.window or (lambda it: (0, s.max_start_epoch))
    _check_length(experts.recipe, s, max(window(max(0, s.iterations - 1))[1], window(0)[1]))
    augment = siamese(s.augment, train.flip)
    images = images.detach().clone().requires_grad_()
    labels = labels.detach().clone()
    step_size = torch.tensor(s.step_size, device=device, requires_grad=True)
    size = _batch_size(task, s, images, labels)
    steps, chunk = s.iterations * s.syn_steps, _chunk(task, s)
    student = Student(s.network, train.shape, train.classes, kind, steps, size, device, chunk)
    _check_experts(experts, student.flat, s.network)
    optimisers = [
        pixel_sgd(images, s.image_lr, s.momentum),
        learned_sgd(step_size, s.step_size_lr, s.momentum, _STEP_SIZE),
    ]
    order = torch.arange(len(experts))
    counts = torch.zeros(2, dtype=torch.int64)  # kept with the state, so that a resumed run knows both
    done, skipped = counts.unbind()
    state: list[Any] = [images, step_size, order, counts]
    if variant.label_lr is not None:
        labels.requires_grad_()
        optimisers.append(learned_sgd(labels, variant.label_lr, variant.label_momentum, LABEL_SGD))
    if labels.is_floating_point():
        state.append(labels)
    averaged = images.detach().clone() if variant.average is not None else None
    if averaged is not None:
        state.append(averaged)

    def finished() -> DistilledSet:
        soft = labels.is_floating_point()
        return task.distilled(
            images=images if averaged is None else averaged,
            targets=Targets(soft=labels.detach(), kind=kind) if soft else Targets(ids=labels),
            space=experts.space,
            program=Program(step_size.detach().to("cpu", copy=True).view(1)),
        )

    for it in task.loop(s.iterations, [*state, *optimisers], show=finished):
        done += 1
        if it % len(experts) == 0:
            order.copy_(torch.randperm(len(experts), generator=task.rng("experts")))
        expert = int(order[it % len(experts)])
        first, beyond = window(it)
        t = int(torch.randint(first, beyond, (), generator=task.rng("starts")))
        start, end = experts.state(expert, t), experts.state(expert, t + s.expert_epochs)
        if variant.relabel is not None:
            labels.copy_(variant.relabel(end, images.detach()))
        if variant.perturb is not None:
            start = variant.perturb(start)
        found = matched(
            s.gradient,
            student,
            start,
            [*_middle(experts, expert, t, s, variant.middle), Goal(s.syn_steps, end)],
            images,
            labels,
            step_size,
            _batches(task, s, size, len(images), augment),
            factor=1.0 if variant.factor is None else variant.factor(t),
            momentum=variant.student_momentum,
        )
        loss = float(found.loss)
        if variant.threshold is None:
            task.log(loss=loss, step_size=step_size, start_epoch=t)  # a loss that is not finite ends the run
        else:
            passed = loss <= variant.threshold  # false for a NaN, too
            skipped += not passed
            shown = loss if passed or loss < _HUGE else _HUGE
            task.log(loss=shown, step_size=step_size, start_epoch=t, skipped=int(skipped))
            if not passed:
                continue
        images.grad, step_size.grad = found.images, found.step_size
        if labels.requires_grad:
            labels.grad = found.labels
        for optimiser in optimisers:
            optimiser.step()
        if not (now := float(step_size.detach())) > 0:
            raise ValueError(
                f"the learned step size is {now:.3g} after iteration {it} of {s.iterations}; expected a positive "
                f"number: lower step_size_lr ({s.step_size_lr:g}), or start at another step_size ({s.step_size:g})"
            )
        if averaged is not None and variant.average is not None:
            averaged.lerp_(images.detach(), 1 - variant.average)
    if int(skipped):
        task.note(
            "skipped",
            f"{int(skipped)} of {int(done)} iterations had a loss above {variant.threshold:g} and changed nothing",
        )
    return finished()


def _check_length(recipe: TeacherRecipe, s: Settings, beyond: int) -> None:
    if beyond - 1 + s.expert_epochs > recipe.epochs:
        raise ValueError(
            f"experts of {recipe.epochs} epochs are too short: segments start at epoch {beyond - 1} at the latest and "
            f"are {s.expert_epochs} long, which needs {beyond - 1 + s.expert_epochs}; train them longer (train_epochs) or "
            f"lower max_start_epoch"
        )


def _check_experts(experts: Experts, flat: Flat, network: str) -> None:
    if not len(experts):
        raise ValueError("there are no experts; expected at least 1")
    given = experts.state(0, 0).numel()
    if given != flat.size:
        raise ValueError(
            f"an expert has {given:,} parameters but {network} has {flat.size:,}; expected experts of that network"
        )


def _batch_size(task: Task, s: Settings, images: Tensor, labels: Tensor) -> int:
    """Synthetic images a step: ``batch_syn``, or all, shared with what a wrapper adds to them."""
    size = min(s.batch_syn or len(images), len(images))
    with torch.no_grad():
        shown = len(task.view(images[:1], labels[:1])[0])
    if shown > 1:
        task.note(
            "batch_syn",
            f"the wrapper shows {shown} images for each one, so a step takes {max(1, size // shown)} of {size} images",
        )
    return max(1, size // shown)


def _chunk(task: Task, s: Settings) -> int | None:
    """Images of a student's step that go through the network at once: all of them on a CPU without a memory limit."""
    if s.gradient == "unroll":
        if task.memory_limit_mib is not None:
            task.note(
                "memory_limit",
                f"gradient=unroll keeps the graphs of all {s.syn_steps} steps, so the memory limit has no effect on them; "
                f"gradient=adjoint gives the same numbers within it",
            )
        return None
    if task.memory_limit_mib is None and task.device.type == "cpu":
        return None
    networks = RandomNetworks(s.network, task.train.shape, task.train.classes, task.device)
    return max(1, images_that_fit(task, networks) // _SECOND_ORDER)


def _batches(
    task: Task, s: Settings, size: int, count: int, augment: Any
) -> Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What a student sees in each step of one iteration: images without replacement, through the wrapper's view, augmented by
    parameters of each image's own.  Chunks of a permutation are taken from its end, so a short one comes first."""
    chosen: list[Tensor] = []
    chunks: list[Tensor] = []
    draws: dict[int, Draw] = {}
    for _ in range(s.syn_steps):
        if not chunks:
            chunks = list(torch.split(torch.randperm(count, generator=task.rng("batches")), size))
        chosen.append(to_device(chunks.pop(), task.device))

    def batch(i: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        x, y = task.view(images.index_select(0, chosen[i]), labels.index_select(0, chosen[i]))
        if augment is None:
            return x, y
        if i not in draws:  # in the order of the steps; the backward sweep meets them again
            draws[i] = augment.draw(len(x), tuple(x.shape[1:]), task.rng("augment"))
        return augment.apply(x, draws[i]), y

    return batch


def _middle(experts: Experts, expert: int, t: int, s: Settings, weights: Sequence[float]) -> list[Goal]:
    """The expert's states on the way, each when the student has taken its share of the steps."""
    return [
        Goal((s.syn_steps // s.expert_epochs) * j, experts.state(expert, t + j), weight)
        for j, weight in enumerate(weights, 1)
    ]
