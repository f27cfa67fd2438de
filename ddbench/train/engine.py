"""The engine: trains fresh students on the items of a set, and tests them.

Four paths give the same losses up to rounding (``tests/plain.py`` is the readable twin): ``plain``, one student after the
other; ``compiled``, the same through torch.compile, one graph for all students; ``stacked``, all students as one network
of grouped convolutions; ``stacked-compiled``.  Which one runs follows from shapes and counts alone (:func:`choose_path`),
never from a measurement, so that the same cell takes the same path, and gives the same bits, wherever it runs.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.sgd import sgd

from ddbench import compute
from ddbench.compute import (
    COMPILE_ABOVE_S,
    FLOPS,
    STACK_BELOW,
    Program,
    arithmetic,
    compiler_works,
    keep_freed_memory,
    loop_s,
    remember,
    warm,
)
from ddbench.contract import ImageData, Items, Space
from ddbench.nets.build import architecture, build, init_parameters, initialise_, multiply_adds, skeleton
from ddbench.nets.names import canonical
from ddbench.nets.stacked import Stacked
from ddbench.seeding import Generators
from ddbench.train.students import (
    AnswerView,
    Feed,
    Step,
    epoch_length,
    input_shape,
    losses,
    target_kind,
    total_steps,
)
from ddbench.trainplan import TrainPlan

PATHS = ("plain", "compiled", "stacked", "stacked-compiled")
PRECISIONS = ("fp32", "tf32", "bf16", "float64")

_TEST_BATCH = {"cpu": 256, "cuda": 1024}

Progress = Callable[..., None]
"""progress(done, total, loss): epochs done of the epochs in all (of all students), mean training loss of late."""

Tester = Callable[["Trainees"], "Tested"]
"""Students as they are -> what the test said of them: :func:`tested` on some test data."""

ECE_BINS = 15


@dataclass(frozen=True)
class EngineOptions:
    """How to compute; nothing here changes results beyond rounding.

    Raises:
        ValueError: an unknown precision or path.
    """

    device: torch.device | str = "cpu"
    precision: str = "fp32"
    """``fp32`` | ``tf32`` | ``bf16`` (autocast; weights stay float32) | ``float64`` (for tests)."""
    path: str = "auto"
    """``auto`` (by :func:`choose_path`), or one of the four paths."""
    memory_limit_mib: float | None = None
    """Decoded items above it are decoded a batch at a time; None: the decoder's default."""
    labels: Path | None = None
    """Folder in which answers to views are kept, and found again; None: a temporary one, removed afterwards."""

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("precision", self.precision, PRECISIONS),
            ("path", self.path, ("auto", *PATHS)),
        ):
            if value not in valid:
                raise ValueError(f"engine {name} is {value!r}; expected one of {', '.join(valid)}")

    @property
    def dtype(self) -> torch.dtype:
        """Of inputs and weights."""
        return torch.float64 if self.precision == "float64" else torch.float32


@dataclass(frozen=True, eq=False)
class Trainees:
    """Trained students and how they were trained."""

    network: str
    shape: tuple[int, int, int]
    """(C, H, W) of their inputs."""
    classes: int
    states: tuple[dict[str, Tensor], ...]
    """Parameters and buffers by name, one dict a student."""
    losses: Tensor
    """(students, steps), training loss of every step, on the CPU."""
    path: str
    """The path that ran."""
    compile_s: float = 0.0
    train_s: float = 0.0
    """Without ``compile_s``; tests on the way included."""
    tests: tuple[dict[int, float], ...] = ()
    """Of each student, finished epochs -> test accuracy, at the plan's ``test_every`` and before the last epoch."""


@dataclass(frozen=True)
class Tested:
    """What one pass over test images said of K students."""

    accuracies: list[float]
    """K fractions in [0, 1]."""
    ece: tuple[float, ...]
    """K expected calibration errors, as :func:`calibration_error` has them."""
    class_accuracy: tuple[float, ...]
    """Accuracy a class, mean over the students; empty where a class has no test images."""
    compile_s: float
    """Seconds that compiling took."""


# ------------------------------------------------------------------------------------------------ set-up


def _autocast(options: EngineOptions, device: torch.device) -> Any:
    return torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16")


def choose_path(
    network: str,
    shape: tuple[int, int, int],
    classes: int,
    items: int,
    plan: TrainPlan,
    students: int,
    device: str = "cpu",
    alone: bool = False,
) -> str:
    """The path that pays, from shapes and counts alone.

    Students are stacked where there are several, the network is a chain of layers and, on CPU, a step is small
    (``STACK_BELOW``).  On CPU the step is compiled where the plain loop would be long (``COMPILE_ABOVE_S``); on CUDA
    ``auto`` never compiles.

    Args:
        network, shape, classes: the architecture on (C, H, W) inputs.
        items: n, of an epoch.
        plan: batch and number of steps.
        students: how many.
        device: ``cpu`` | ``cuda``.
        alone: the students need the plain path (labellers and view plans that no label plan is for).
    """
    if alone:
        return "plain"
    batch = min(plan.batch, items)
    step = batch * multiply_adds(network, shape, classes)
    fits = students > 1 and Stacked.fits(architecture(network, shape, classes))
    if device != "cpu":
        return "stacked" if fits else "plain"
    stacked = fits and step < STACK_BELOW
    estimate_s = loop_s(students * total_steps(items, plan), step)
    if estimate_s < COMPILE_ABOVE_S:
        return "stacked" if stacked else "plain"
    return "stacked-compiled" if stacked else "compiled"


class Updates(Protocol):
    """What training needs of an optimiser."""

    param_groups: list[dict[str, Any]]

    def step(self) -> Any: ...

    def zero_grad(self, set_to_none: bool = True) -> None: ...


class SGD:
    """``torch.optim.SGD``'s own fused update without the bookkeeping around it, which was 5 % of a small step."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float, nesterov: bool) -> None:
        self.param_groups = [{**group, "lr": lr} for group in groups]
        self.momentum, self.nesterov = momentum, nesterov
        self._buffers: dict[int, Tensor | None] = {}

    def momenta(self) -> list[Tensor | None]:
        """The momentum of every parameter as it is now; None before its first step, or where there is no momentum."""
        return [self._buffers.get(id(p)) for group in self.param_groups for p in group["params"]]

    def set_momenta(self, given: Sequence[Tensor | None]) -> None:
        """Go on from what :meth:`momenta` gave (copied)."""
        own = [p for group in self.param_groups for p in group["params"]]
        for p, momentum in zip(own, given, strict=True):
            self._buffers[id(p)] = None if momentum is None else momentum.to(p, copy=True)

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            used = [p for p in group["params"] if p.grad is not None]  # a network may have unused parameters
            if not used:
                continue
            buffers = [self._buffers.get(id(p)) for p in used]
            sgd(
                used, [p.grad for p in used], buffers,
                fused=True, weight_decay=group["weight_decay"], momentum=self.momentum, lr=group["lr"],
                dampening=0.0, nesterov=self.nesterov, maximize=False,
            )  # fmt: skip
            self._buffers.update(zip(map(id, used), buffers, strict=True))

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None


def optimiser(
    plan: TrainPlan, named: Sequence[tuple[str, Tensor]], lr: float, stacked: bool = False
) -> Updates:
    """The plan's optimiser over parameters by name; ``stacked`` parameters have one more dimension in front.

    Every update is elementwise, so one optimiser over stacked parameters is one a student.
    """
    if plan.decay_on == "all":
        groups = [{"params": [p for _, p in named], "weight_decay": plan.weight_decay}]
    else:
        matrices = [p for name, p in named if "weight" in name and p.dim() - stacked > 1]
        chosen = {id(p) for p in matrices}
        groups = [
            {"params": matrices, "weight_decay": plan.weight_decay},
            {"params": [p for _, p in named if id(p) not in chosen], "weight_decay": 0.0},
        ]
    if plan.optimiser == "sgd":
        return SGD(groups, lr, plan.momentum, plan.nesterov)
    kind = torch.optim.Adam if plan.optimiser == "adam" else torch.optim.AdamW
    return kind(groups, lr=lr, fused=True)


# ------------------------------------------------------------------------------------------------ training


class Crew(Protocol):
    """What a path provides: fresh students, the losses of a step, and copies of their states.

    ``start`` comes first; all students train side by side until the next ``start``.
    """

    run: Run
    program: Program

    def start(self, generators: Sequence[Generators]) -> list[tuple[str, Tensor]]:
        """New weights; the parameters by name."""
        ...

    def losses(self, step: Step) -> Tensor:
        """(G,) losses, with gradients to be had."""
        ...

    def logits(self, x: Tensor) -> Tensor:
        """(G, b, K) of inputs (G, b, C, H, W) in train mode, never compiled, with gradients of gradients to be had."""
        ...

    def buffers(self) -> list[Tensor]:
        """What a forward pass changes in place: running statistics, and the count of passes."""
        ...

    def states(self) -> list[dict[str, Tensor]]: ...


@dataclass(eq=False)
class Run:
    """What the students of one crew have in common."""

    network: str
    shape: tuple[int, int, int]
    classes: int
    plan: TrainPlan
    options: EngineOptions
    device: torch.device
    compiled: bool
    kind: str
    """Of the soft targets."""
    students: int
    """Of a stacked crew."""

    def loss(self, logits: Tensor, ids: Tensor | None, soft: Tensor | None, weights: Tensor | None) -> Tensor:
        return losses(self.plan, logits, ids, soft, self.kind, weights)

    def key(self, path: str) -> tuple[Any, ...]:
        p = self.plan
        loss = (p.loss, p.temperature, p.temperature_squared, p.hard_weight, self.kind)
        many = self.students if path == "stacked" else 1
        where = (str(self.device), self.options.precision)
        return (path, self.network, self.shape, self.classes, many, loss, where)


def _squeezed(step: Step) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    targets = (None if t is None else t[0] for t in (step.ids, step.soft, step.weights))
    ids, soft, weights = targets
    return step.inputs[0], ids, soft, weights


class One:
    """One student at a time, in one module whose weights are drawn anew for each."""

    def __init__(self, run: Run) -> None:
        self.run = run

        def make() -> Program:
            net = build(run.network, run.shape, run.classes).to(run.device, run.options.dtype)

            def call(x: Tensor, ids: Tensor | None, soft: Tensor | None, weights: Tensor | None) -> Tensor:
                with _autocast(run.options, run.device):
                    logits = net(x)
                return run.loss(logits, ids, soft, weights)

            return Program(compute.compile_(call) if run.compiled else call, net)

        self.program = remember(run.key("one"), make) if run.compiled else make()
        self.net: nn.Module = self.program.owner

    def start(self, generators: Sequence[Generators]) -> list[tuple[str, Tensor]]:
        (own,) = generators
        initialise_(self.net, own("weights"))
        self.net.train()
        self.net.zero_grad(set_to_none=True)
        return list(self.net.named_parameters())

    def losses(self, step: Step) -> Tensor:
        loss: Tensor = self.program.call(*_squeezed(step))
        return loss[None]

    def logits(self, x: Tensor) -> Tensor:
        with _autocast(self.run.options, self.run.device):
            out: Tensor = self.net(x[0])
        return out[None]

    def buffers(self) -> list[Tensor]:
        return list(self.net.buffers())

    def states(self) -> list[dict[str, Tensor]]:
        return [{name: t.detach().clone() for name, t in self.net.state_dict().items()}]


class Many:
    """All students at once, as one stacked network."""

    def __init__(self, run: Run) -> None:
        self.run = run
        net = skeleton(run.network, run.shape, run.classes)
        if not Stacked.fits(net):
            raise ValueError(
                f"students of {run.network} cannot be stacked: it is no plain chain of layers; use path plain or compiled"
            )
        self.statistics = dict(net.named_buffers())
        self.tensors: dict[str, Tensor] = {}
        self.stacked = stacked = Stacked(net)

        def call(
            tensors: dict[str, Tensor],
            x: Tensor,
            ids: Tensor | None,
            soft: Tensor | None,
            weights: Tensor | None,
        ) -> Tensor:
            with _autocast(run.options, run.device):
                logits = stacked(tensors, x)
            return run.loss(logits, ids, soft, weights)

        if run.compiled:
            self.program = remember(run.key("stacked"), lambda: Program(compute.compile_(call), None))
        else:
            self.program = Program(call, None)

    def start(self, generators: Sequence[Generators]) -> list[tuple[str, Tensor]]:
        run = self.run
        drawn = [init_parameters(run.network, run.shape, run.classes, g("weights")) for g in generators]
        where = (run.device, run.options.dtype)
        parameters = {n: torch.stack([d[n] for d in drawn]).to(*where).requires_grad_() for n in drawn[0]}
        self.tensors = dict(parameters)
        for name, buffer in self.statistics.items():
            if name.endswith(("running_mean", "running_var")):
                fill = 0.0 if name.endswith("mean") else 1.0
                self.tensors[name] = torch.full(
                    (len(generators), *buffer.shape), fill, device=run.device, dtype=run.options.dtype
                )
        self.passes = torch.zeros((), dtype=torch.int64)
        self._changing = [t for name, t in self.tensors.items() if name not in parameters]
        return list(parameters.items())

    def losses(self, step: Step) -> Tensor:
        self.passes.add_(1)
        found: Tensor = self.program.call(self.tensors, step.inputs, step.ids, step.soft, step.weights)
        return found

    def logits(self, x: Tensor) -> Tensor:
        self.passes.add_(1)
        with _autocast(self.run.options, self.run.device):
            return self.stacked(self.tensors, x)

    def buffers(self) -> list[Tensor]:
        return [*self._changing, self.passes]

    def states(self) -> list[dict[str, Tensor]]:
        found = []
        for k in range(self.run.students):
            state = {name: t[k].detach().clone() for name, t in self.tensors.items()}
            for name in self.statistics:
                if name.endswith("num_batches_tracked"):
                    state[name] = self.passes.clone()
            found.append(state)
        return found


def _virtual_epoch(plan: TrainPlan, epoch: int, taken: int, total: int, uncapped: int) -> int:
    """Where the schedule stands: under a cap on steps it is compressed into the steps that are taken."""
    return epoch if total >= uncapped else taken * plan.epochs // total


def assemble(run: Run, stacked: bool, items: Items, generators: Sequence[Generators]) -> tuple[Crew, float]:
    """The crew of a run, and the seconds that compiling took; a plain one where compiling fails.

    Args:
        stacked: all students at once, or one at a time.
        items: as they will come.
        generators: of one crew; children of theirs draw the weights of a trial.
    """
    kind = Many if stacked else One
    crew: Crew = kind(run)
    if not run.compiled:
        return crew, 0.0
    crew.start([g.child("trial") for g in generators])
    compile_s, worked = _prepare(crew, items)
    return (crew if worked else kind(replace(run, compiled=False))), compile_s


def _prepare(crew: Crew, items: Items) -> tuple[float, bool]:
    """Compile for every batch size that will come, on made-up numbers: (seconds, whether it worked)."""
    run = crew.run
    n, batch = epoch_length(items), run.plan.batch
    sizes = [min(n, batch)] + ([n % batch] if n > batch and n % batch and not run.plan.drop_last else [])
    if run.plan.micro_batches > 1:
        part = run.plan.part
        sizes = list(dict.fromkeys(min(part, b - at) for b in sizes for at in range(0, b, part)))
    many = run.students if isinstance(crew, Many) else 1
    program = crew.program
    ids = None if run.plan.mix != "none" else items.ids
    spent = 0.0
    for b in sizes:

        def trial(b: int = b) -> None:
            made: dict[str, Any] = {"device": run.device, "dtype": run.options.dtype}
            zeros = torch.zeros(many, b, dtype=torch.int64, device=run.device)
            step = Step(
                0, True, torch.zeros(many, b, *run.shape, **made),
                None if ids is None else zeros.to(ids.dtype),
                None if run.kind == "none" else torch.full((many, b, run.classes), 1 / run.classes, **made),
                run.kind,
                None if items.weights is None else torch.ones(many, b, **made),
            )  # fmt: skip
            crew.losses(step).sum().backward()  # type: ignore[no-untyped-call,unused-ignore]

        seconds, worked = warm(program, (b, ids is None, items.weights is None), trial)
        spent += seconds
        if not worked:
            return spent, False
    return spent, True


class _Watch:
    """The tests of one crew on the way to the end."""

    def __init__(self, tester: Tester, run: Run, path: str) -> None:
        self.tester, self.run, self.path = tester, run, path
        self.tests: list[dict[int, float]] = [
            {} for _ in range(run.students if path.startswith("stacked") else 1)
        ]
        self.compile_s = 0.0

    def test(self, epochs: int, states: list[dict[str, Tensor]]) -> None:
        """Test students after so many finished epochs."""
        run, none = self.run, torch.empty(len(states), 0)
        found = self.tester(Trainees(run.network, run.shape, run.classes, tuple(states), none, self.path))
        self.compile_s += found.compile_s
        for own, value in zip(self.tests, found.accuracies, strict=True):
            own[epochs] = value


def _train(
    crew: Crew,
    feed: Feed,
    generators: Sequence[Generators],
    done: int,
    total_epochs: int,
    progress: Progress | None,
    watch: _Watch | None = None,
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Train the students of one crew to the end: their states, and losses (G, steps).  ``watch`` tests
    them wherever the plan says so before the end."""
    run, plan = crew.run, crew.run.plan
    named = crew.start(generators)
    total = total_steps(epoch_length(feed.items), plan)
    uncapped = plan.epochs * feed.steps_an_epoch
    told: list[Tensor] = []
    lr = plan.lr_at(0)
    updates = optimiser(plan, named, lr, stacked=isinstance(crew, Many))
    often = max(1, plan.epochs // 100)
    seen = 0
    for taken, step in enumerate(feed):
        now = plan.lr_at(_virtual_epoch(plan, step.epoch, taken, total, uncapped))
        if now != lr:
            lr = now
            if plan.reset_optimiser and plan.schedule == "steps":
                updates = optimiser(plan, named, lr, stacked=isinstance(crew, Many))
            for group in updates.param_groups:
                group["lr"] = lr
        if plan.micro_batches == 1:
            loss = crew.losses(step)
            loss.sum().backward()  # type: ignore[no-untyped-call,unused-ignore]
        else:
            loss = step.inputs.new_zeros(len(step.inputs))
            for part in step.parts(plan.part):
                share = crew.losses(part) / plan.micro_batches
                share.sum().backward()  # type: ignore[no-untyped-call,unused-ignore]
                loss += share.detach()
        updates.step()
        updates.zero_grad(set_to_none=True)
        told.append(loss.detach())
        if progress is not None and step.last and (step.epoch % often == 0 or taken + 1 == total):
            progress(done + step.epoch + 1, total_epochs, float(torch.stack(told[seen:]).mean()))
            seen = len(told)
        if watch is not None and step.last and plan.tested_after(step.epoch) and taken + 1 < total:
            watch.test(step.epoch + 1, crew.states())
    history = torch.stack(told, 1).cpu()
    states = crew.states()
    for g, state in enumerate(states):
        bad = [
            name for name, t in state.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())
        ]
        if bad or not bool(torch.isfinite(history[g]).all()):
            wrong = (~torch.isfinite(history[g])).nonzero()
            at = int(wrong[0]) if len(wrong) else history.shape[1] - 1
            epoch = at // feed.steps_an_epoch
            lr = plan.lr_at(_virtual_epoch(plan, epoch, at, total, uncapped))
            raise FloatingPointError(
                f"a student {run.network} diverged: its {'loss is' if len(wrong) else 'weights are'} not finite in epoch "
                f"{epoch} of {plan.epochs} at lr {lr:g}; look at the set's values, or train with a lower learning rate"
            )
    return states, history


def train_students(
    items: Items,
    plan: TrainPlan,
    network: str,
    generators: Sequence[Generators],
    options: EngineOptions | None = None,
    progress: Progress | None = None,
    answers: AnswerView | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    dataset: str = "",
    tester: Tester | None = None,
) -> Trainees:
    """Train one fresh student for each family of generators.

    Args:
        items: training items with their targets.
        plan: how to train.
        network: registered name.
        generators: one family a student: ``weights``, ``order``, ``visit``, ``augment``, ``mix`` and ``views`` drive it,
            nothing else is random.
        options: device, precision, path.
        progress: called with (epochs done, epochs in all, mean loss) at most a hundred times a student; may raise to stop.
        answers: of a labeller, to every view or batch that a student sees.
        tensors: of the set, for view plans that name explicit views.
        dataset: name of the real data, which decides what augment ``dc`` is.
        tester: tests the students after every ``plan.test_every`` epochs; the end is the caller's to test.

    Returns:
        the trained students, in the order of ``generators``.

    Raises:
        ValueError: no items or students, targets that the loss lacks, a path that the network does not allow.
        FloatingPointError: a loss or weights that are not finite, with epoch and learning rate.

    The same seed, shapes, versions and thread count give the same bits on CPU.  Source: leaderboards/PROTOCOLS.md.
    """
    options = options or EngineOptions()
    if not generators or not len(items):
        raise ValueError(f"{len(generators)} students on {len(items)} items; expected at least one of each")
    if items.labeller is not None and answers is None and items.soft is None:
        raise ValueError(
            "the items have a labeller but no answers were given; load its networks and pass answers="
        )
    if answers is not None and plan.mix != "none":
        raise ValueError(
            f"mix {plan.mix!r} mixes a set's own labels, and this one's come from a labeller; use none"
        )
    keep_freed_memory()
    device = torch.device(options.device)
    network = canonical(network)
    size = input_shape(items)
    shape = (int(size[0]), int(size[1]), int(size[2]))
    alone = (plan.views is not None or answers is not None) and plan.labels is None and not plan.hard
    path = options.path
    if path == "auto":
        path = choose_path(
            network, shape, items.classes, epoch_length(items), plan, len(generators), device.type, alone
        )
    if alone and path != "plain":
        raise ValueError(
            f"path {path!r} cannot train under view plans or labellers without a label plan; use path auto or plain"
        )
    if path.startswith("stacked") and ":" in network:
        raise ValueError(
            f"students of {network} cannot be stacked: it is another library's; use path plain or compiled"
        )
    if not compiler_works():
        path = path.replace("stacked-compiled", "stacked").replace("compiled", "plain")
    kind = "logits" if answers is not None else target_kind(items, plan)
    begun = time.perf_counter()
    states: list[dict[str, Tensor]] = []
    histories: list[Tensor] = []
    tests: list[dict[int, float]] = []
    stacked = path.startswith("stacked")
    crews = [list(generators)] if stacked else [[g] for g in generators]

    run = Run(
        network, shape, items.classes, plan, options, device, path.endswith("compiled"), kind, len(crews[0])
    )
    with arithmetic(options.precision):
        crew, compile_s = assemble(run, stacked, items, crews[0])
        if not crew.run.compiled:
            path = "stacked" if stacked else "plain"
        for number, group in enumerate(crews):
            feed = Feed(items, plan, group, device, options.dtype, answers, tensors, network, dataset)
            total_epochs = plan.epochs * len(crews)
            done = number * plan.epochs
            watch = None if tester is None else _Watch(tester, crew.run, path)
            found, history = _train(crew, feed, group, done, total_epochs, progress, watch)
            if watch is not None:
                compile_s += watch.compile_s
                tests += watch.tests
            states += found
            histories.append(history)
    train_s = time.perf_counter() - begun - compile_s
    return Trainees(
        network,
        shape,
        items.classes,
        tuple(states),
        torch.cat(histories),
        path,
        compile_s,
        train_s,
        tuple(tests),
    )


# ------------------------------------------------------------------------------------------------ testing


def test_accuracy(
    trainees: Trainees,
    test: ImageData,
    space: Space,
    options: EngineOptions | None = None,
    resize: bool = False,
) -> list[float]:
    """Share of the test images that each student gets right, in eval mode without augmentation.

    Args:
        trainees: K students.
        test: images and labels.
        space: maps test images to network inputs; that of the distilled set.
        options: device, precision; ``path`` plain or stacked forbids compiling.
        resize: enlarge the images to (side // 7) * 8 and cut out their centre, as :func:`enlarged` does.

    Returns:
        K fractions in [0, 1].
    """
    return tested(trainees, test, space, options, resize).accuracies


test_accuracy.__test__ = False  # type: ignore[attr-defined]  # no test, whatever its name looks like to pytest


def enlarged(images: Tensor) -> Tensor:
    """The centre (H, W) of uint8 images (n, C, H, W) after a resize of each side to (side // 7) * 8, bilinear with
    antialiasing, as floats from 0 to 255: 32 stays 32, 64 becomes 72, 128 becomes 144, 224 becomes 256 (RDED)."""
    height, width = images.shape[2], images.shape[3]
    size = max(height, height // 7 * 8), max(width, width // 7 * 8)
    if size == (height, width):
        return images
    grown = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True, align_corners=False)
    top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
    return grown[..., top : top + height, left : left + width]


def calibration_error(confidence: Tensor, right: Tensor, bins: int = ECE_BINS) -> float:
    """Expected calibration error: sum over bins of |accuracy - mean confidence| weighted by the share of images in the bin.

    Args:
        confidence: (n,) softmax probability of the predicted class, in [0, 1].
        right: (n,) bool, whether the prediction was.
        bins: of equal width; a confidence on an inner edge belongs to the bin above it, 1 to the last.

    Source: Guo, Pleiss, Sun and Weinberger, arXiv:1706.04599; the same bins as torchmetrics', which puts 1 apart.
    """
    which = (confidence.double() * bins).long().clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gap.index_add_(0, which, right.double() - confidence.double())
    return float(gap.abs().sum()) / len(confidence)


@torch.no_grad()
def tested(
    trainees: Trainees,
    test: ImageData,
    space: Space,
    options: EngineOptions | None = None,
    resize: bool = False,
) -> Tested:
    """:func:`test_accuracy`, with calibration and accuracy a class from the same pass."""
    options = options or EngineOptions()
    if not len(test):
        raise ValueError(f"{test.name}/{test.split} has no images; expected at least one to test on")
    keep_freed_memory()
    device = torch.device(options.device)
    t, students = trainees, len(trainees.states)
    work_s = students * len(test) * 2 * multiply_adds(t.network, t.shape, t.classes) / FLOPS
    wanted = (
        options.path in ("auto", "compiled", "stacked-compiled") and device.type == "cpu" and compiler_works()
    )
    compiled = wanted and work_s > COMPILE_ABOVE_S
    batch = _TEST_BATCH[device.type]
    compile_s = 0.0
    spread = functools.partial(_tested, trainees, test, space, options, device, batch, resize)
    with arithmetic(options.precision):
        if compiled:

            def make() -> Program:
                net = build(t.network, t.shape, t.classes).to(device, options.dtype).eval()
                return Program(compute.compile_(net), net)

            program = remember(("test", t.network, t.shape, t.classes, str(device), options.precision), make)

            def trial() -> None:
                with _autocast(options, device):
                    program.call(torch.zeros(batch, *t.shape, device=device, dtype=options.dtype))

            compile_s, compiled = warm(program, batch, trial)
        if compiled:
            found = spread(program.owner, program.call)
        else:
            net = build(t.network, t.shape, t.classes).to(device, options.dtype).eval()
            found = spread(net, net)
    return replace(found, compile_s=compile_s)


def _tested(
    trainees: Trainees,
    test: ImageData,
    space: Space,
    options: EngineOptions,
    device: torch.device,
    batch: int,
    resize: bool,
    net: nn.Module,
    call: Callable[[Tensor], Tensor],
) -> Tested:
    own = net.state_dict(keep_vars=True)
    students, images_n = len(trainees.states), len(test)
    # two numbers an image and student: what is made of them is made once, at the end
    predicted = torch.empty(students, images_n, dtype=torch.int64, device=device)
    confidence = torch.empty(students, images_n, dtype=options.dtype, device=device)
    for start in range(0, images_n, batch):
        images = test.images[start : start + batch].to(device, non_blocking=True)
        x = space.real_to_input(enlarged(images) if resize else images).to(options.dtype)
        n = len(x)
        if n < batch and call is not net:  # one compiled shape for all
            x = torch.cat([x, x.new_zeros(batch - n, *x.shape[1:])])
        for k, state in enumerate(trainees.states):
            if students > 1 or start == 0:  # copying weights is nothing beside a batch of images
                for name, tensor in own.items():
                    tensor.data.copy_(state[name])
            with _autocast(options, device):
                logits = call(x)
            logits = logits[:n]
            predicted[k, start : start + n] = logits.argmax(1)
            confidence[k, start : start + n] = logits.to(options.dtype).softmax(1).amax(1)
    labels = test.labels.to(device)
    right = predicted == labels
    members = labels.bincount(minlength=trainees.classes)
    hits = torch.stack([labels[r].bincount(minlength=trainees.classes) for r in right])
    accuracies = [int(r) / images_n for r in right.sum(1)]
    ece = tuple(calibration_error(c, r) for c, r in zip(confidence, right, strict=True))
    by_class = (hits.double() / members).mean(0).tolist() if bool((members > 0).all()) else []
    return Tested(accuracies, ece, tuple(by_class), 0.0)
