"""Many networks of one recipe, trained on real images: what teachers and experts have in common.

Networks that fit are trained together as one stacked network, on the crews of ``engine.py``; every network has generators
of its own, so that its neighbours change nothing but rounding.  What a recipe may ask for beside SGD: Adam, GSAM's ascent,
factors on the loss of the first epochs, a penalty on the gradient of the logits.

Sources: GSAM as in FTD's code (Zhuang et al., arXiv:2203.08065; Du et al., arXiv:2211.11004); AST's experts
(arXiv:2310.10541); ZCA as in MTT's (arXiv:2203.11932).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ddbench import compute
from ddbench.augment.mix import CutMix
from ddbench.augment.named import augmentation
from ddbench.budget import Meter
from ddbench.compute import STACK_BELOW, compiler_works, loop_s
from ddbench.contract import ImageData, Items, Space, TeacherRecipe
from ddbench.data import fit_zca, zca_space
from ddbench.matching.sampling import take
from ddbench.nets.build import architecture, build, multiply_adds
from ddbench.nets.flat import Flat, joined, pieces
from ddbench.nets.names import LIBRARIES, canonical
from ddbench.nets.stacked import Stacked
from ddbench.seeding import Generators
from ddbench.train import distributed
from ddbench.train.engine import SGD, Crew, EngineOptions, Run, Updates, assemble, optimiser
from ddbench.train.students import CONVERT_MIB, Feed, Step
from ddbench.trainplan import TrainPlan, cosine_lr, stepped_lr

SCHEMA = 4
"""Part of every fingerprint of a network or a trajectory: raised when the training below changes its results."""

_TEST_BATCH = 512
_TOGETHER = 20
"""Networks of one group at most: what a killed run can lose.  Fewer where their common step would exceed ``STACK_BELOW``:
8x8 digits, width 32, 20 networks: 3 times the speed of a loop at batches of 16; at 128 groups of 4 were best, 1.2 times."""
_COMPILE_ABOVE_S = 30.0
"""Compiled where the plain loop would take longer than this by :func:`ddbench.compute.loop_s`: it saves about a third."""
_TINY = 1e-12
"""Keeps GSAM's quotients finite; the authors' figure."""

STORAGE = {"fp32": torch.float32, "fp16": torch.float16}
"""What a snapshot may be stored as."""
Progress = Callable[[int, int], None]
"""Called with (epochs done, epochs in all) of all networks that have to be trained."""
Hook = Callable[[int, Callable[[], Tensor], Callable[[], dict[str, Any]]], None]
"""Called with (finished epochs, vectors, pack); may raise to stop.  vectors() gives flat parameters (G, P) on the CPU in memory
of their own.  pack() gives what is needed to go on after this epoch (parameters, momentum, states of generators) as nested
dicts and lists of tensors, numbers and text.  Both are called before the hook returns, or not at all."""


# ------------------------------------------------------------------------------------------------ the recipe


def check(recipe: TeacherRecipe) -> None:
    """Raises:
    ValueError: a number of the recipe is out of range; names it.
    LookupError: no such network."""
    canonical(recipe.network)
    _check_weights(recipe)
    _check_schedule(recipe)
    for name in ("count", "epochs", "batch"):
        if getattr(recipe, name) < 1:
            raise ValueError(f"TeacherRecipe.{name} is {getattr(recipe, name)}; expected at least 1")
    if any(b <= a for a, b in zip((0, *recipe.milestones), recipe.milestones, strict=False)):
        raise ValueError(
            f"TeacherRecipe.milestones is {tuple(recipe.milestones)}; expected increasing counts of finished epochs, "
            f"each at least 1"
        )
    for name in ("lr", "weight_decay", "momentum"):
        value = getattr(recipe, name)
        if not math.isfinite(value):
            raise ValueError(f"TeacherRecipe.{name} is {value}; expected a finite number")
    if recipe.lr <= 0:
        raise ValueError(f"TeacherRecipe.lr is {recipe.lr}; expected a learning rate above 0")
    if not 0 <= recipe.momentum < 1:
        raise ValueError(f"TeacherRecipe.momentum is {recipe.momentum}; expected a number in [0, 1)")
    if recipe.weight_decay < 0:
        raise ValueError(f"TeacherRecipe.weight_decay is {recipe.weight_decay}; expected 0 or more")
    if not 0 < recipe.gamma <= 1:
        raise ValueError(f"TeacherRecipe.gamma is {recipe.gamma}; expected a factor above 0, at most 1")
    for name in ("rho", "alpha", "gradient_penalty"):
        if not 0 <= getattr(recipe, name) < math.inf:
            raise ValueError(f"TeacherRecipe.{name} is {getattr(recipe, name)}; expected a number, 0 or more")
    if not all(0 <= factor < math.inf for factor in recipe.early_factors):
        raise ValueError(
            f"TeacherRecipe.early_factors is {tuple(recipe.early_factors)}; expected numbers, each 0 or more"
        )
    if not 0 <= recipe.held_out < 1:
        raise ValueError(f"TeacherRecipe.held_out is {recipe.held_out}; expected a share in [0, 1)")
    if recipe.zca is not None and not 0 < recipe.zca < math.inf:
        raise ValueError(f"TeacherRecipe.zca is {recipe.zca}; expected a positive eps (MTT: 0.1), or None")
    if recipe.per_class is not None and recipe.per_class < 1:
        raise ValueError(
            f"TeacherRecipe.per_class is {recipe.per_class}; expected at least 1 image a class, or None for all"
        )
    if recipe.storage not in STORAGE:
        raise ValueError(f"TeacherRecipe.storage is {recipe.storage!r}; expected {' or '.join(STORAGE)}")
    if recipe.mix not in ("none", "cutmix"):
        raise ValueError(f"TeacherRecipe.mix is {recipe.mix!r}; expected none or cutmix")
    CutMix(recipe.mix_probability)
    if recipe.augment == "dc":
        raise ValueError(
            "TeacherRecipe.augment is 'dc', which depends on data set and network; "
            "expected none, dsa, dsa-flip, diffaug:NAMES, crop-flip or resized-flip"
        )
    augmentation(recipe.augment, flip=True)  # raises where it is no augmentation


def _check_weights(recipe: TeacherRecipe) -> None:
    if recipe.weights and recipe.network.partition(":")[0] not in LIBRARIES:
        raise ValueError(
            f"TeacherRecipe.weights is {recipe.weights!r} for {recipe.network}, which has no public weights; expected a "
            f"network {' or '.join(f'{library}:NAME' for library in LIBRARIES)}, or no weights: it is trained then"
        )
    if recipe.weights and recipe.zca is not None:
        raise ValueError(
            f"TeacherRecipe.zca is {recipe.zca} with public weights {recipe.weights}, which were trained without whitening; "
            f"leave it out"
        )
    if recipe.weights and recipe.count > 1:
        raise ValueError(
            f"TeacherRecipe.count is {recipe.count} with public weights {recipe.weights}; there is 1 such network"
        )


def _check_schedule(recipe: TeacherRecipe) -> None:
    for name, valid in (("optimiser", ("sgd", "adam")), ("schedule", ("steps", "cosine"))):
        if getattr(recipe, name) not in valid:
            raise ValueError(
                f"TeacherRecipe.{name} is {getattr(recipe, name)!r}; expected {' or '.join(valid)}"
            )
    if recipe.schedule == "cosine" and recipe.milestones:
        raise ValueError(
            f"TeacherRecipe.milestones is {tuple(recipe.milestones)} with schedule cosine; milestones belong to steps"
        )
    if recipe.schedule == "steps" and (recipe.period is not None or recipe.warmup):
        raise ValueError(
            f"TeacherRecipe has period {recipe.period} and warmup {recipe.warmup} with schedule steps; both belong to cosine"
        )
    if recipe.period is not None and recipe.period < 1:
        raise ValueError(
            f"TeacherRecipe.period is {recipe.period}; expected at least 1 epoch, or None for what the warm-up leaves"
        )
    if recipe.warmup and not 0 <= recipe.warmup < recipe.epochs:
        raise ValueError(
            f"TeacherRecipe.warmup is {recipe.warmup} of {recipe.epochs} epochs; expected 0 or more, and fewer than all"
        )
    if not 0 <= recipe.warmup_from <= 1:
        raise ValueError(f"TeacherRecipe.warmup_from is {recipe.warmup_from}; expected a share in [0, 1]")


def input_space(train: ImageData, recipe: TeacherRecipe) -> Space:
    """The space whose ``real_to_input`` makes the inputs of the recipe's networks.

    With ``recipe.zca`` pixels on the [0, 1] scale are whitened by a fit on all of ``train`` (cached on disk).

    Raises:
        ValueError: ``mean`` without ``std`` or the other way round, not one positive number a channel, or ``zca`` beside
            them.
    """
    mean, std, channels = recipe.mean, recipe.std, train.shape[0]
    if recipe.zca is not None:
        if mean is not None or std is not None:
            raise ValueError(
                f"TeacherRecipe.zca is {recipe.zca} beside mean {mean} and std {std}; whitening works on the [0, 1] scale: "
                f"leave mean and std out, or zca"
            )
        return zca_space(train, fit_zca(train, recipe.zca))
    if mean is None and std is None:
        return train.space
    if mean is None or std is None:
        raise ValueError(
            f"TeacherRecipe.mean is {mean} and std is {std}; give both, or neither for those of {train.name}"
        )
    if not len(mean) == len(std) == channels:
        raise ValueError(
            f"TeacherRecipe has {len(mean)} means and {len(std)} deviations but {train.name} has {channels} channels; "
            f"expected one of each a channel"
        )
    return replace(train.space, mean=tuple(mean), std=tuple(std))


def normal(recipe: TeacherRecipe) -> TeacherRecipe:
    """The recipe without what changes nothing: ``count``, the spelling of the network, GSAM's settings at radius 0, SGD's
    momentum under Adam, what belongs to the other schedule, and a period or a warm-up that is none."""
    plain = TeacherRecipe()
    gsam = recipe if recipe.rho > 0 else plain
    steps = recipe if recipe.schedule == "steps" else plain
    return replace(
        recipe,
        network=canonical(recipe.network),
        count=1,
        alpha=gsam.alpha,
        adaptive=gsam.adaptive,
        momentum=(recipe if recipe.optimiser == "sgd" else plain).momentum,
        gamma=steps.gamma,
        reset_optimiser=steps.reset_optimiser,
        period=None if recipe.period == recipe.epochs - recipe.warmup else recipe.period,
        warmup_from=(recipe if recipe.warmup else plain).warmup_from,
    )


def address(
    train: ImageData, recipe: TeacherRecipe, space: Space, device: torch.device | str, **own: Any
) -> str:
    """Address in the cache of what is trained by a recipe, 16 hex digits.

    It holds the data, the preprocessing that results (``space``, :func:`input_space`'s), the :func:`normal` recipe and the
    type of the device (CPU and GPU round differently), and what else the caller gives as JSON.
    """
    parts = {
        "schema": SCHEMA,
        "data": train.fingerprint,
        "space": space.describe(),
        "shape": list(train.shape),
        "classes": train.classes,
        "flip": train.flip,
        "recipe": asdict(replace(normal(recipe), mean=None, std=None)),
        "device": torch.device(device).type,
        **own,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def lr_at(recipe: TeacherRecipe, epoch: int) -> float:
    """Learning rate of an epoch (0-based), dimensionless."""
    if recipe.schedule == "cosine":
        half = recipe.epochs - recipe.warmup if recipe.period is None else recipe.period
        return cosine_lr(recipe.lr, epoch, half + recipe.warmup, 1, recipe.warmup, recipe.warmup_from)
    return stepped_lr(recipe.lr, recipe.gamma, recipe.milestones, epoch)


def split(train: ImageData, seed: int, share: float, per_class: int | None = None) -> tuple[Tensor, Tensor]:
    """Indices (kept, held out), each ascending: ``share`` of every class, at least one image, is held out by the seed.

    Share 0 keeps all images, and they are the "held out" ones too.  ``per_class`` images of every class, or all where it
    has fewer, are drawn by the seed first; the others are in neither part.
    """
    rngs = Generators(seed, "teachers")
    pools = [train.of_class(c) for c in range(train.classes)]
    if per_class is not None:
        drawn = rngs("per-class")
        pools = [pool[torch.randperm(len(pool), generator=drawn)[:per_class]].sort().values for pool in pools]
    if share == 0:
        every = torch.cat(pools).sort().values
        return every, every
    rng = rngs("held-out")
    kept, held = [], []
    for c, pool in enumerate(pools):
        if len(pool) < 2:
            limit = "" if per_class is None else f" (per_class is {per_class})"
            raise ValueError(
                f"class {c} of {train.name} has {len(pool)} training images{limit}; a teacher needs at least 2 "
                f"(one is held out to measure it): add images, remove the class, or hold out nothing (held_out=0)"
            )
        order = pool[torch.randperm(len(pool), generator=rng)]
        count = min(len(pool) - 1, max(1, int(share * len(pool))))
        held.append(order[:count])
        kept.append(order[count:])
    return torch.cat(kept).sort().values, torch.cat(held).sort().values


# ------------------------------------------------------------------------------------------------ what a group shares


class Job:
    """What the networks of one recipe share: images, batches, and how they are trained.

    Args:
        train: real images; they may lie on another device or on disk.
        recipe: what to train.
        device: where.
        space: :func:`input_space`'s, where the caller has it: a whitening is fitted or read once.

    Raises:
        ValueError: a number of the recipe is out of range, or a class has too few images to hold some out.
        LookupError: no such network.
    """

    def __init__(
        self, train: ImageData, recipe: TeacherRecipe, device: torch.device | str, space: Space | None = None
    ) -> None:
        check(recipe)
        self.train, self.recipe, self.device = train, recipe, torch.device(device)
        self.network = canonical(recipe.network)
        self.space = input_space(train, recipe) if space is None else space
        kept, held = split(train, recipe.seed, recipe.held_out, recipe.per_class)
        mib = len(kept) * math.prod(train.shape) * 4 / 2**20
        # converted once where the inputs fit the device, else a batch at a time
        stored = self._converted(kept) if mib <= CONVERT_MIB[self.device.type] else kept
        self._held = stored if held is kept else held
        labels = train.labels.cpu()
        self._held_labels = labels[held]
        n, batch = len(kept), recipe.batch
        alone = n > 1 and n % batch == 1  # batch norm cannot train on the last batch

        def law(epoch: int, chance: Generators) -> Tensor:
            return torch.randperm(n, generator=chance("order"))[: n - alone]

        self.items = Items(
            stored, self.to_input, train.classes, ids=labels[kept], law=law, flip=train.flip, space=self.space
        )
        self.plan = TrainPlan(
            epochs=1, batch=batch, augment=recipe.augment, mix=recipe.mix, mix_probability=recipe.mix_probability,
            optimiser=recipe.optimiser, momentum=recipe.momentum, weight_decay=recipe.weight_decay,
        )  # fmt: skip
        self.world = distributed.world()
        self.world.check(recipe)
        on_cpu = self.device.type == "cpu" and self.world.size == 1
        own = multiply_adds(self.network, train.shape, train.classes)
        self.step = step = min(batch, n) * own
        # from shapes and the recipe alone, never from what the cache has: the same network takes the same path
        self.stacked = (
            on_cpu
            and step < STACK_BELOW
            and Stacked.fits(architecture(self.network, train.shape, train.classes))
        )
        passes = recipe.count * recipe.epochs * math.ceil(n / batch) * (2 if recipe.rho > 0 else 1)
        self.compiled = (
            on_cpu
            and compiler_works()
            and recipe.gradient_penalty == 0  # torch.compile does not follow derivatives of derivatives
            and loop_s(passes, step) > _COMPILE_ABOVE_S
        )

    def groups(self, missing: Sequence[int]) -> Iterator[list[int]]:
        """The networks that are trained at once."""
        most = max(1, min(_TOGETHER, int(STACK_BELOW // self.step))) if self.stacked else 1
        size = math.ceil(
            len(missing) / math.ceil(len(missing) / most)
        )  # groups of equal size: fewer to compile
        for start in range(0, len(missing), size):
            yield list(missing[start : start + size])

    def to_input(self, stored: Tensor) -> Tensor:
        """Network inputs of ``items.stored``: what it holds, or the images at the indices that it holds."""
        return stored if stored.is_floating_point() else self._converted(stored)

    def _converted(self, rows: Tensor) -> Tensor:
        out = torch.empty(len(rows), *self.train.shape, device=self.device)
        for start in range(0, len(rows), _TEST_BATCH):  # in pieces: no second copy of the whole set
            part = rows[start : start + _TEST_BATCH]
            out[start : start + len(part)] = self.space.real_to_input(take(self.train, part, self.device))
        return out

    def run(self, networks: int) -> Run:
        """What the engine needs to know of a group."""
        kind = "probabilities" if self.recipe.mix != "none" else "none"
        return Run(
            self.network, self.train.shape, self.train.classes, self.plan, EngineOptions(self.device), self.device,
            self.compiled, kind, networks,
        )  # fmt: skip

    @torch.no_grad()
    def accuracy(self, state: Mapping[str, Tensor]) -> float:
        """Share of the held-out images, un-augmented, that a network gets right; of all where none are held out."""
        net = build(self.network, self.train.shape, self.train.classes)
        net.load_state_dict(state)
        net.to(self.device).eval()
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        parts = zip(*(torch.split(t, _TEST_BATCH) for t in (self._held, self._held_labels)), strict=True)
        for stored, labels in parts:
            right += (net(self.to_input(stored)).argmax(1) == compute.to_device(labels, self.device)).sum()
        return int(right) / len(self._held)


# ------------------------------------------------------------------------------------------------ one update


def ascent(weights: Tensor, gradient: Tensor, rho: float, adaptive: bool) -> Tensor:
    """GSAM's step up to where the loss is about worst within ``rho``, of one network (P,) or each of several (G, P).

    rho g / (|g| + 1e-12); adaptive: rho w^2 g / (| |w| g | + 1e-12), with norms over all parameters of a network.
    """
    scaled = weights.abs() * gradient if adaptive else gradient
    norm: Tensor = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return rho / (norm + _TINY) * (weights.square() * gradient if adaptive else gradient)


def decomposed(gradient: Tensor, ascended: Tensor, alpha: float) -> Tensor:
    """GSAM's direction, for one network (P,) or each of several (G, P): the gradient after the ascent, less ``alpha`` times
    the part of the gradient before it that is orthogonal to that."""
    before: Tensor = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    after: Tensor = torch.linalg.vector_norm(ascended, dim=-1, keepdim=True)
    cosine = (gradient * ascended).sum(-1, keepdim=True) / (before * after + _TINY)
    orthogonal = gradient - cosine * before * ascended / (after + _TINY)
    return ascended - alpha * orthogonal


def gradient_penalty(logits: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """AST's penalty of G networks (G,): mean over images and pixels of (|u| - 1)^2, where u is the derivative of the sum of
    all logits by the pixel and |u| its norm over channels; differentiable in the networks.

    Args:
        logits: inputs (G, b, C, H, W) -> (G, b, K).
        x: (G, b, C, H, W).
    """
    x = x.detach().requires_grad_()
    (u,) = torch.autograd.grad(logits(x).sum(), x, create_graph=True)
    norms: Tensor = torch.linalg.vector_norm(u, dim=2)
    return (norms - 1).square().flatten(1).mean(1)


def _backward(crew: Crew, step: Step, recipe: TeacherRecipe, factor: float) -> Tensor:
    """Gradients of what is minimised into ``.grad``; the cross-entropies (G,)."""
    loss = crew.losses(step)
    total = loss.sum() if factor == 1 else factor * loss.sum()
    if recipe.gradient_penalty > 0:
        if step.clean is None:
            raise ValueError(
                "a gradient penalty needs the batch without augmentation; expected a step with it"
            )
        total = total + recipe.gradient_penalty * gradient_penalty(crew.logits, step.clean).sum()
    total.backward()  # type: ignore[no-untyped-call,unused-ignore]
    return loss.detach()


def find_direction(
    crew: Crew, tensors: Sequence[Tensor], step: Step, recipe: TeacherRecipe, factor: float, stacked: bool
) -> Tensor:
    """Leave in ``.grad`` of a crew's parameters what its optimiser steps along.

    With ``recipe.rho`` that is GSAM's direction, from two passes over the same batch; weights and running statistics are
    afterwards those of the first.

    Args:
        tensors: the parameters, without gradients; ``stacked``: of G networks, first dimension G.
        step: a batch, augmented; with the one before augmentation where there is a gradient penalty.
        factor: on the cross-entropy alone.

    Returns:
        cross-entropies (G,) at the weights as they were.
    """
    loss = _backward(crew, step, recipe, factor)
    if recipe.rho == 0:
        return loss
    with torch.no_grad():
        lead = int(stacked)
        used = [t for t in tensors if t.grad is not None]  # a network may have unused parameters
        shapes = [t.shape for t in used]
        weights, gradient = joined(used, lead), joined([t.grad for t in used if t.grad is not None], lead)
        statistics = [b.clone() for b in crew.buffers()]
        steps = pieces(ascent(weights, gradient, recipe.rho, recipe.adaptive), shapes, lead)
        for t, e in zip(used, steps, strict=True):
            t.add_(e)
            t.grad = None
    _backward(crew, step, recipe, factor)
    with torch.no_grad():
        ascended = joined([t.grad for t in used if t.grad is not None], lead)
        direction = pieces(decomposed(gradient, ascended, recipe.alpha), shapes, lead)
        for t, w, d in zip(used, pieces(weights, shapes, lead), direction, strict=True):
            t.copy_(w)
            if t.grad is not None:
                t.grad.copy_(d)  # in its own memory: the optimiser wants it contiguous
        for b, before in zip(crew.buffers(), statistics, strict=True):
            b.copy_(before)
    return loss


# ------------------------------------------------------------------------------------------------ training


@dataclass(frozen=True, eq=False)
class Outcome:
    """One trained network; tensors on the CPU or the device that it was trained on."""

    state: dict[str, Tensor]
    """Parameters and buffers by name."""
    initial: dict[str, Tensor]
    """Parameters before training, on the CPU."""
    accuracy: float
    """On the held-out images, a fraction."""
    train_s: float
    """An equal share of the seconds that its group took in this process, compiling included."""

    @property
    def finite(self) -> bool:
        return all(bool(torch.isfinite(t).all()) for t in self.state.values())


def train_group(
    job: Job,
    indices: Sequence[int],
    hook: Hook | None = None,
    resume: Mapping[str, Any] | None = None,
) -> list[Outcome]:
    """Train the networks of one group (``job.groups``), side by side.

    Args:
        indices: which networks of the recipe; each index has its own weights, order, augmentation and mixes.
        hook: called at the initialisation and after every epoch.
        resume: what ``pack`` gave to the hook of the same group: goes on after that epoch, on CPU to the same bits.

    Returns:
        one outcome an index, in their order; a training that diverged has one that is not ``finite``.

    Raises:
        ValueError: ``resume`` is of other networks or more epochs; vectors of a network with running statistics or of
            another library's (:class:`~ddbench.nets.flat.Flat`).
    """
    recipe, networks = job.recipe, len(indices)
    if not job.stacked and networks != 1:
        raise ValueError(
            f"{networks} networks of {job.network} at once; expected one, as job.groups gives them"
        )
    chances = [Generators(recipe.seed, "teachers", i) for i in indices]
    compute.keep_freed_memory()
    with Meter(job.device) as meter, compute.arithmetic():
        crew: Crew
        if job.world.size > 1:
            crew = distributed.Shared(job.run(networks), job.world)
        else:
            crew, _ = assemble(job.run(networks), job.stacked, job.items, chances)
        named = dict(crew.start(chances))
        tensors = list(named.values())
        initial = [
            {name: (p[g] if job.stacked else p).detach().to("cpu", copy=True) for name, p in named.items()}
            for g in range(networks)
        ]

        def fresh() -> Updates:
            return optimiser(job.plan, list(named.items()), recipe.lr, job.stacked)

        updates, done = fresh(), 0
        if resume is not None:
            done = _resumed(job, indices, resume, named, updates, chances)

        @cache
        def layout() -> Flat:
            return Flat(job.network, job.train.shape, job.train.classes)

        def show(epoch: int) -> None:
            def vectors() -> Tensor:
                return layout().vector(named).to("cpu").view(networks, layout().size)

            def pack() -> dict[str, Any]:
                return _packed(epoch, indices, named, updates, chances)

            if hook is not None:
                hook(epoch, vectors, pack)

        if resume is None:
            show(0)
        penalised = recipe.gradient_penalty > 0
        feed = Feed(job.items, job.plan, chances, job.device, torch.float32, clean=penalised)
        for epoch in range(done, recipe.epochs):
            if recipe.reset_optimiser and epoch in recipe.milestones:
                updates = fresh()
            for group in updates.param_groups:
                group["lr"] = lr_at(recipe, epoch)
            factor = recipe.early_factors[epoch] if epoch < len(recipe.early_factors) else 1.0
            for step in feed:
                find_direction(crew, tensors, step, recipe, factor, job.stacked)
                updates.step()
                updates.zero_grad()
            show(epoch + 1)
        final = crew.states()
        accuracies = [job.accuracy(state) if job.world.first else math.nan for state in final]
    return [Outcome(final[g], initial[g], accuracies[g], meter.wall_s / networks) for g in range(networks)]


def _packed(
    epoch: int,
    indices: Sequence[int],
    named: Mapping[str, Tensor],
    updates: Updates,
    chances: Sequence[Generators],
) -> dict[str, Any]:
    def kept(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.detach().to("cpu", copy=True)

    if not isinstance(updates, SGD):
        raise ValueError("training with adam cannot be packed to go on later; expected optimiser sgd")

    return {
        "epoch": epoch,
        "indices": list(indices),
        "parameters": {name: kept(p) for name, p in named.items()},
        "momentum": [kept(m) for m in updates.momenta()],
        "generators": [c.state_dict() for c in chances],
    }


def _resumed(
    job: Job,
    indices: Sequence[int],
    packed: Mapping[str, Any],
    named: Mapping[str, Tensor],
    updates: Updates,
    chances: Sequence[Generators],
) -> int:
    """Put everything where it was; the finished epochs."""
    if not isinstance(updates, SGD):
        raise ValueError("training with adam cannot go on from what was saved; expected optimiser sgd")
    epoch = int(packed["epoch"])
    if list(packed["indices"]) != list(indices) or epoch > job.recipe.epochs:
        raise ValueError(
            f"what was saved is of networks {list(packed['indices'])} after epoch {epoch}, and networks {list(indices)} of "
            f"{job.recipe.epochs} epochs are to go on; remove it to train them from the start"
        )
    with torch.no_grad():
        for name, p in named.items():
            p.copy_(packed["parameters"][name])
    updates.set_momenta(packed["momentum"])
    for chance, state in zip(chances, packed["generators"], strict=True):
        chance.load_state_dict(state)
    return epoch
