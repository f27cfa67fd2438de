"""Teachers and experts: networks trained on real images, cached by what they were made from.

One network is one folder ``teachers/<fingerprint>`` in the cache: ``network.safetensors``, ``initial.safetensors`` (its
parameters before training), ``trajectory.safetensors`` where the states after every epoch were asked for, and
``recipe.json`` for people.  Asking for more networks of a recipe trains only those that are missing.  Small networks are
trained together as one stacked network; every network has generators of its own, so that its neighbours change nothing
but rounding.  A killed run loses at most the group that it was training.  Seconds of training are stored too, so that a
set which uses a cached teacher still states what the teacher took.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench import compute, store
from ddbench.augment.mix import CutMix, mixed_images, mixed_targets
from ddbench.augment.named import siamese
from ddbench.budget import Meter
from ddbench.compute import STACK_BELOW, Program, compiler_works, loop_s, remember, warm
from ddbench.contract import ImageData, Space, Task, TeacherRecipe, Trained
from ddbench.matching.sampling import take
from ddbench.nets.build import (
    architecture,
    build,
    embed,
    init_parameters,
    initialise_,
    multiply_adds,
    skeleton,
)
from ddbench.nets.names import canonical
from ddbench.nets.stacked import Stacked
from ddbench.seeding import Generators
from ddbench.trainplan import stepped_lr

FEATURES = ("pixels", "teacher")
SCHEMA = 2
"""Part of every fingerprint: raised when the training below changes its results."""

_TEST_BATCH = 512
_TOGETHER = 20
"""Networks of one group at most: what a killed run can lose.  Fewer where their common step would exceed ``STACK_BELOW``:
8x8 digits, width 32, 20 networks: 3 times the speed of a loop at batches of 16; at 128 groups of 4 were best, 1.2 times."""
_COMPILE_ABOVE_S = 30.0
"""Compiled where the plain loop would take longer than this by :func:`ddbench.compute.loop_s`: it saves about a third."""
_KEEP_MIB = {"cpu": 256, "cuda": 4096}
"""Standardised images stay on the device where they need no more than this."""
Progress = Callable[[int, int], None]
"""Called with (epochs done, epochs in all) of all networks that have to be trained."""


def fingerprint(train: ImageData, recipe: TeacherRecipe, index: int, device: torch.device | str) -> str:
    """Address of network ``index`` of a recipe, 16 hex digits.

    The type of device belongs to it (CPU and GPU round differently), the number of networks does not; ``mean`` and
    ``std`` belong to it as the standardisation that results.
    """
    parts = {
        "schema": SCHEMA,
        "data": train.fingerprint,
        "space": input_space(train, recipe).describe(),
        "shape": list(train.shape),
        "classes": train.classes,
        "flip": train.flip,
        "recipe": asdict(replace(recipe, network=canonical(recipe.network), count=1, mean=None, std=None)),
        "index": index,
        "device": torch.device(device).type,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def input_space(train: ImageData, recipe: TeacherRecipe) -> Space:
    """The space whose ``real_to_input`` makes the inputs of the recipe's networks.

    Raises:
        ValueError: ``mean`` without ``std`` or the other way round, or not one positive number a channel.
    """
    mean, std, channels = recipe.mean, recipe.std, train.shape[0]
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


def train_networks(
    train: ImageData,
    recipe: TeacherRecipe,
    device: torch.device | str,
    *,
    trajectory: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[Trained]:
    """The networks of a recipe, from the cache where it has them, else trained on what ``recipe.held_out`` leaves.

    SGD on shuffled batches (the last short one is kept unless it is a single image, which batch norm cannot train on) of
    cross-entropy; the learning rate falls by ``recipe.gamma`` at each milestone.  A batch is standardised, augmented with
    parameters of each image's own, then mixed.  The accuracy is measured, without augmentation, on the part of each class
    that ``recipe.seed`` holds out, or on all images where nothing is held out.

    Args:
        train: real images; they may lie on another device or on disk.
        recipe: what to train; ``recipe.seed`` decides the split, the weights, the order, the augmentation and the mixes.
        device: where to train and where the networks come back.
        trajectory: also give the state at initialisation and after every epoch, on the CPU.
        cache: folder to use instead of the cache's own.
        progress: told after every epoch.

    Returns:
        ``recipe.count`` networks in eval mode, frozen.  ``train_s`` of networks that were trained together is an equal
        share of the group's seconds, compiling included.

    Raises:
        ValueError: a number of the recipe is out of range, a class has too few images to hold some out, or the training
            diverged.
        DamagedError: a file of the cache is truncated; says which one to remove.
    """
    _check(recipe)
    space = input_space(train, recipe)
    device = torch.device(device)
    keys = [fingerprint(train, recipe, i, device) for i in range(recipe.count)]
    folders = [_folder(key, cache) for key in keys]
    missing = [i for i, folder in enumerate(folders) if not _has(folder, trajectory)]
    epochs_done = 0

    def told(networks: int) -> None:
        nonlocal epochs_done
        epochs_done += networks
        if progress is not None:
            progress(epochs_done, len(missing) * recipe.epochs)

    if missing:
        kept, held = split(train, recipe.seed, recipe.held_out)
        job = _Job(train, recipe, space, device, kept, held)
        with compute.arithmetic():
            for group in job.groups(missing):
                with contextlib.ExitStack() as locks:
                    for i in group:  # a second process waits here and then finds the networks
                        locks.enter_context(store.Lock(folders[i]))
                    todo = [i for i in group if not _has(folders[i], trajectory)]
                    epochs_done += (len(group) - len(todo)) * recipe.epochs
                    outcomes = _train(job, todo, trajectory, told) if todo else []
                    for i, outcome in zip(todo, outcomes, strict=True):
                        if outcome.finite:
                            _write(folders[i], train, recipe, outcome)
                if not all(outcome.finite for outcome in outcomes):
                    raise ValueError(
                        f"a teacher {recipe.network} on {train.name} diverged (weights are not finite) at lr {recipe.lr}; "
                        f"lower the learning rate of its recipe"
                    )
    return [_read(key, folder, device, trajectory) for key, folder in zip(keys, folders, strict=True)]


def cached_state(key: str, cache: Path | None = None) -> dict[str, Tensor]:
    """``state_dict`` of a cached teacher by its fingerprint, on the CPU.

    Raises:
        LookupError: no such teacher in the cache.
        DamagedError: its file is truncated.
    """
    path = _folder(key, cache) / "network.safetensors"
    if not path.is_file():
        raise LookupError(
            f"no teacher {key} in the cache ({path.parent}); distil again on this machine, or copy the folder here"
        )
    state: dict[str, Tensor] = store.load_state(path, "teacher")["state"]
    return state


# ------------------------------------------------------------------------------------------------ features


def embed_all(
    net: nn.Module, train: ImageData, batch: int = _TEST_BATCH, space: Space | None = None
) -> Tensor:
    """Embeddings (N, d) of all images, un-augmented, on the network's device.

    The network is used in the mode it is in; ``batch`` images go through at once, standardised by ``space`` (None: the
    data set's own).
    """
    device = next(net.parameters()).device
    space = train.space if space is None else space
    with torch.no_grad():
        return torch.cat(
            [
                embed(net, space.real_to_input(take(train, indices, device))).flatten(1)
                for indices in torch.split(torch.arange(len(train)), batch)
            ]
        )


def class_features(task: Task, kind: str, recipe: TeacherRecipe) -> Callable[[Tensor], Tensor]:
    """Features in which a coreset takes distances: indices (n,) -> features (n, d).

    Args:
        kind: ``pixels`` (standardised, flattened) or ``teacher`` (embeddings of the recipe's first network).
        recipe: of the teacher; not used for pixels.

    Raises:
        ValueError: another kind.
    """
    if kind not in FEATURES:
        raise ValueError(f"features is {kind!r}; expected one of {', '.join(FEATURES)}")
    train = task.train
    if kind == "pixels":
        return lambda chosen: train.space.real_to_input(take(train, chosen, task.device)).flatten(1)
    net = task.teachers(recipe)[0].network
    space = input_space(train, recipe)
    return lambda chosen: embed_all(net, train.subset(chosen), space=space)


# ------------------------------------------------------------------------------------------------ training


def _check(recipe: TeacherRecipe) -> None:
    for name, least in (("epochs", 1), ("batch", 1), ("count", 1)):
        value = getattr(recipe, name)
        if value < least:
            raise ValueError(f"TeacherRecipe.{name} is {value}; expected at least {least}")
    steps = (0, *recipe.milestones)
    if any(later <= before for before, later in zip(steps, steps[1:], strict=False)):
        raise ValueError(
            f"TeacherRecipe.milestones is {tuple(recipe.milestones)}; expected increasing counts of finished epochs, "
            f"each at least 1"
        )
    if not 0 < recipe.gamma <= 1:
        raise ValueError(f"TeacherRecipe.gamma is {recipe.gamma}; expected a factor above 0, at most 1")
    if not 0 <= recipe.held_out < 1:
        raise ValueError(f"TeacherRecipe.held_out is {recipe.held_out}; expected a share in [0, 1)")
    if recipe.mix not in ("none", "cutmix"):
        raise ValueError(f"TeacherRecipe.mix is {recipe.mix!r}; expected none or cutmix")
    CutMix(recipe.mix_probability)
    if recipe.augment == "dc":
        raise ValueError(
            "TeacherRecipe.augment is 'dc', which depends on data set and network; "
            "expected none, dsa, dsa-flip or diffaug:NAMES"
        )
    siamese(recipe.augment, flip=True)  # raises where it is no augmentation


def lr_at(recipe: TeacherRecipe, epoch: int) -> float:
    """Learning rate of an epoch (0-based), dimensionless."""
    return stepped_lr(recipe.lr, recipe.gamma, recipe.milestones, epoch)


def split(train: ImageData, seed: int, share: float) -> tuple[Tensor, Tensor]:
    """Indices (kept, held out), each ascending: ``share`` of every class, at least one image, is held out by the seed.

    Share 0 keeps all images, and they are the "held out" ones too.
    """
    if share == 0:
        every = torch.arange(len(train))
        return every, every
    rng = Generators(seed, "teachers")("held-out")
    kept, held = [], []
    for c in range(train.classes):
        pool = train.of_class(c)
        if len(pool) < 2:
            raise ValueError(
                f"class {c} of {train.name} has {len(pool)} training images; a teacher needs at least 2 "
                f"(one is held out to measure it): add images, remove the class, or hold out nothing (held_out=0)"
            )
        order = pool[torch.randperm(len(pool), generator=rng)]
        count = min(len(pool) - 1, max(1, int(share * len(pool))))
        held.append(order[:count])
        kept.append(order[count:])
    return torch.cat(kept).sort().values, torch.cat(held).sort().values


@dataclass(eq=False)
class _Job:
    """What the networks of one recipe share."""

    train: ImageData
    recipe: TeacherRecipe
    space: Space
    device: torch.device
    kept: Tensor
    held: Tensor

    def __post_init__(self) -> None:
        train, recipe = self.train, self.recipe
        self.network, self.labels = canonical(recipe.network), train.labels.to(self.device)
        self.augment = siamese(recipe.augment, train.flip)
        self.mix = CutMix(recipe.mix_probability) if recipe.mix == "cutmix" else None
        on_cpu = self.device.type == "cpu"
        own = multiply_adds(self.network, train.shape, train.classes)
        self.step = step = min(recipe.batch, len(self.kept)) * own
        # from shapes and the recipe alone, never from what the cache has: the same network takes the same path
        self.stacked = (
            on_cpu
            and step < STACK_BELOW
            and Stacked.fits(architecture(self.network, train.shape, train.classes))
        )
        steps = recipe.count * recipe.epochs * math.ceil(len(self.kept) / recipe.batch)
        self.compiled = on_cpu and compiler_works() and loop_s(steps, step) > _COMPILE_ABOVE_S
        self._whole: Tensor | None = None
        mib = len(train) * math.prod(train.shape) * 4 / 2**20
        if mib <= _KEEP_MIB.get(self.device.type, 0):
            self._whole = torch.empty(len(train), *train.shape, device=self.device)
            for rows in torch.split(torch.arange(len(train)), _TEST_BATCH):
                self._whole[rows[0] : rows[-1] + 1] = self._converted(rows)

    def groups(self, missing: Sequence[int]) -> Iterator[list[int]]:
        """The networks that are trained at once."""
        most = max(1, min(_TOGETHER, int(STACK_BELOW // self.step))) if self.stacked else 1
        size = math.ceil(
            len(missing) / math.ceil(len(missing) / most)
        )  # groups of equal size: fewer to compile
        for start in range(0, len(missing), size):
            yield list(missing[start : start + size])

    def _converted(self, rows: Tensor) -> Tensor:
        return self.space.real_to_input(take(self.train, rows, self.device))

    def inputs(self, rows: Tensor) -> Tensor:
        """Network inputs of the images at ``rows``, any shape (...,) -> (..., C, H, W)."""
        flat = rows.flatten()
        if self._whole is None:
            x = self._converted(flat)
        else:
            x = self._whole.index_select(0, compute.to_device(flat, self.device))
        return x.view(*rows.shape, *self.train.shape)

    def batches(self, chances: Sequence[Generators]) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of G networks: inputs (G, b, C, H, W), with ids (G, b) or, under a mix, probabilities (G, b, K)."""
        order = torch.stack(
            [self.kept[torch.randperm(len(self.kept), generator=c("order"))] for c in chances]
        )
        for rows in torch.split(order, self.recipe.batch, dim=1):
            b = rows.shape[1]
            if b == 1 and len(self.kept) > 1:
                continue
            x, ids = self.inputs(rows), self.labels[compute.to_device(rows, self.device)]
            if self.augment is not None:
                draws = [self.augment.draw(b, self.train.shape, c("augment")) for c in chances]
                x = self.augment.apply_groups(x, draws)
            if self.mix is None:
                yield x, ids
                continue
            mixes = [self.mix.draw(b, self.train.shape, c("mix")) for c in chances]
            soft = [
                mixed_targets(i, None, self.train.classes, m, x.dtype)
                for i, m in zip(ids, mixes, strict=True)
            ]
            yield (
                torch.stack([mixed_images(i, m) for i, m in zip(x, mixes, strict=True)]),
                torch.stack(soft),
            )


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy (G,) of logits (G, b, K) with ids (G, b) or probabilities (G, b, K)."""
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1), reduction="none")
    return each.view(logits.shape[:2]).mean(1)


class _One:
    """A single network."""

    def __init__(self, job: _Job, compiled: bool) -> None:
        shape, classes = job.train.shape, job.train.classes

        def make() -> Program:
            net = build(job.network, shape, classes).to(job.device)

            def call(x: Tensor, targets: Tensor) -> Tensor:
                logits: Tensor = net(x[0])
                return _losses(logits[None], targets)

            return Program(compute.compile_(call) if compiled else call, net)

        key = ("teacher", job.network, shape, classes, str(job.device))
        self.program = remember(key, make) if compiled else make()
        self.net: nn.Module = self.program.owner

    def start(self, chances: Sequence[Generators]) -> list[Tensor]:
        initialise_(self.net, chances[0]("weights"))
        self.net.train()
        self.net.zero_grad(set_to_none=True)
        return list(self.net.parameters())

    def losses(self, x: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = self.program.call(x, targets)
        return found

    def parameters(self) -> list[dict[str, Tensor]]:
        return [{name: p.detach().to("cpu", copy=True) for name, p in self.net.named_parameters()}]

    def states(self) -> list[dict[str, Tensor]]:
        return [{name: t.detach().clone() for name, t in self.net.state_dict().items()}]


class _Many:
    """G small networks as one stacked network."""

    def __init__(self, job: _Job, compiled: bool) -> None:
        self.job = job
        net = skeleton(job.network, job.train.shape, job.train.classes)
        self.buffers = dict(net.named_buffers())
        self.names = [name for name, _ in net.named_parameters()]
        stacked = Stacked(net)

        def call(tensors: dict[str, Tensor], x: Tensor, targets: Tensor) -> Tensor:
            return _losses(stacked(tensors, x), targets)

        key = ("teachers", job.network, job.train.shape, job.train.classes)
        self.program = (
            remember(key, lambda: Program(compute.compile_(call), None)) if compiled else Program(call, None)
        )

    def start(self, chances: Sequence[Generators]) -> list[Tensor]:
        job = self.job
        drawn = [
            init_parameters(job.network, job.train.shape, job.train.classes, c("weights")) for c in chances
        ]
        own = {name: torch.stack([d[name] for d in drawn]).requires_grad_() for name in self.names}
        self.tensors, self.taken, self.count = dict(own), 0, len(chances)
        for name, buffer in self.buffers.items():
            if name.endswith(("running_mean", "running_var")):
                fill = 0.0 if name.endswith("mean") else 1.0
                self.tensors[name] = torch.full((len(chances), *buffer.shape), fill)
        return list(own.values())

    def losses(self, x: Tensor, targets: Tensor) -> Tensor:
        self.taken += 1
        found: Tensor = self.program.call(self.tensors, x, targets)
        return found

    def parameters(self) -> list[dict[str, Tensor]]:
        return [
            {name: self.tensors[name][g].detach().clone() for name in self.names} for g in range(self.count)
        ]

    def states(self) -> list[dict[str, Tensor]]:
        states = [
            {name: t[g].detach().clone() for name, t in self.tensors.items()} for g in range(self.count)
        ]
        for name in self.buffers:
            if name.endswith("num_batches_tracked"):
                for state in states:
                    state[name] = torch.tensor(self.taken)
        return states


@dataclass(frozen=True, eq=False)
class _Outcome:
    """One trained network."""

    state: dict[str, Tensor]
    initial: dict[str, Tensor]
    trajectory: list[dict[str, Tensor]]
    accuracy: float
    train_s: float

    @property
    def finite(self) -> bool:
        return all(bool(torch.isfinite(t).all()) for t in self.state.values())


def _train(
    job: _Job, indices: Sequence[int], trajectory: bool, told: Callable[[int], None]
) -> list[_Outcome]:
    """Train the networks of one group, side by side; ``told`` hears of every epoch, by the number of networks."""
    recipe = job.recipe
    chances = [Generators(recipe.seed, "teachers", i) for i in indices]
    with Meter(job.device) as meter:
        crew = _crew(job, len(indices))
        tensors = crew.start(chances)
        optimiser = torch.optim.SGD(
            tensors, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
        )
        states = [crew.parameters()]
        for epoch in range(recipe.epochs):
            for group in optimiser.param_groups:
                group["lr"] = lr_at(recipe, epoch)
            for x, targets in job.batches(chances):
                crew.losses(x, targets).sum().backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            if trajectory:
                states.append(crew.parameters())
            told(len(indices))
        final = crew.states()
        accuracies = [_accuracy(job, state) for state in final]
    return [
        _Outcome(
            final[g],
            states[0][g],
            [epoch[g] for epoch in states] if trajectory else [],
            accuracies[g],
            meter.wall_s / len(indices),
        )
        for g in range(len(indices))
    ]


def _crew(job: _Job, networks: int) -> _One | _Many:
    """The group's networks, compiled for every size of batch where that pays and works."""
    kind = _Many if job.stacked else _One
    if not job.compiled:
        return kind(job, False)
    crew = kind(job, True)
    crew.start([Generators(0, "trial", g) for g in range(networks)])
    n, batch = len(job.kept), job.recipe.batch
    for b in [min(n, batch)] + ([n % batch] if n > batch and n % batch > 1 else []):

        def trial(b: int = b) -> None:
            x = torch.zeros(networks, b, *job.train.shape, device=job.device)
            ids = torch.zeros(networks, b, dtype=torch.int64, device=job.device)
            targets = ids if job.mix is None else F.one_hot(ids, job.train.classes).to(x.dtype)
            crew.losses(x, targets).sum().backward()  # type: ignore[no-untyped-call]

        if not warm(crew.program, (networks, b, job.mix is None), trial)[1]:
            return kind(job, False)
    return crew


@torch.no_grad()
def _accuracy(job: _Job, state: Mapping[str, Tensor]) -> float:
    net = build(job.network, job.train.shape, job.train.classes)
    net.load_state_dict(state)
    net.to(job.device).eval()
    right = torch.zeros((), dtype=torch.int64, device=job.device)
    for rows in torch.split(job.held, _TEST_BATCH):
        right += (net(job.inputs(rows)).argmax(1) == job.labels[rows.to(job.device)]).sum()
    return int(right) / len(job.held)


# ------------------------------------------------------------------------------------------------ the cache


def _folder(key: str, cache: Path | None) -> Path:
    return (cache or store.cache_root()) / "teachers" / key


def _has(folder: Path, trajectory: bool) -> bool:
    parts = ("network", "initial", *(("trajectory",) if trajectory else ()))
    return all((folder / f"{part}.safetensors").is_file() for part in parts)


def _write(folder: Path, train: ImageData, recipe: TeacherRecipe, made: _Outcome) -> None:
    about: dict[str, Any] = {
        "network": canonical(recipe.network),
        "shape": list(train.shape),
        "classes": train.classes,
        "accuracy": made.accuracy,
        "train_s": made.train_s,
    }
    store.write_json(folder / "recipe.json", {**about, "data": train.name, "recipe": asdict(recipe)})
    store.save_state(folder / "initial.safetensors", made.initial)
    if made.trajectory:
        store.save_state(folder / "trajectory.safetensors", made.trajectory)
    # last: it is what makes the folder count as complete
    store.save_state(folder / "network.safetensors", {**about, "state": made.state})


def _read(key: str, folder: Path, device: torch.device, trajectory: bool) -> Trained:
    saved = store.load_state(folder / "network.safetensors", "teacher")
    net = build(saved["network"], tuple(saved["shape"]), saved["classes"])
    net.load_state_dict(saved["state"])
    initial = store.load_state(folder / "initial.safetensors", "initial state of a teacher")
    states: tuple[Mapping[str, Tensor], ...] = ()
    if trajectory:
        states = tuple(store.load_state(folder / "trajectory.safetensors", "expert trajectory"))
    return Trained(
        network=net.to(device).eval().requires_grad_(False),
        fingerprint=key,
        accuracy=saved["accuracy"],
        train_s=saved["train_s"],
        trajectory=states,
        initial={name: tensor.to(device) for name, tensor in initial.items()},
    )
