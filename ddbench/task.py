"""The task that a method sees: generators, teachers, one loop with checkpoints, a time budget, traces, the finished set."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ddbench import codecs, curves, pictures, registry, sets, store
from ddbench.budget import Meter
from ddbench.compute import arithmetic, keep_freed_memory
from ddbench.contract import (
    Card,
    CodecSpec,
    Cost,
    DistilledSet,
    Experts,
    ImageData,
    Program,
    Space,
    Targets,
    TeacherRecipe,
    Trained,
)
from ddbench.curves import KEYS
from ddbench.curves import read_trace as read_trace
from ddbench.seeding import Generators

CHECKPOINT_EVERY_S = 30.0
_TRACE_ROWS = 2000
"""Rows that the trace of one loop has at most, but for its last."""
_FLUSH_ROWS = 1000
"""Rows that wait at most: one transfer reads them all."""
_TELL_EVERY_S = 2.0
"""How often the progress bar reads a value from the device."""
_log = logging.getLogger("ddbench")


# ------------------------------------------------------------------------------------------------ time and device


class BudgetUsedUp(Exception):
    """The time budget ended inside work that cannot be cut short and kept: it is left for the next run."""


class DivergedError(ValueError):
    """A traced value or the state of a loop is no longer finite; the message says where, and what is kept."""


def say(text: str, quiet: bool) -> None:
    """A line on the screen, above the progress bars, unless ``quiet``."""
    if not quiet:
        tqdm.write(text, file=sys.stderr)


class TimeBudget:
    """Wall time that a whole run may take, in seconds from now; None: no limit.  Survives pickling with what is left."""

    def __init__(self, seconds: float | None = None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def left_s(self) -> float | None:
        """Seconds left, at least 0; None without a limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def used_up(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def __reduce__(self) -> tuple[Any, ...]:
        return TimeBudget, (self.left_s,)  # clocks of two processes need not agree


_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION = re.compile(rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s?)?")


def parse_duration(text: str, what: str = "time budget") -> float:
    """``9m``, ``90s``, ``1h30m``, ``30d`` or plain seconds -> seconds; ``what`` is named in the error.

    Raises:
        ValueError: another form, or no time at all.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    if found and any(found.groups()):
        days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
        total = 86400 * days + 3600 * hours + 60 * minutes + seconds
        if total > 0:
            return total
    raise ValueError(f"{what} is {text!r}; expected a positive time such as 90s, 9m, 1h30m or 30d")


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:i``.

    Raises:
        ValueError: another name, or a GPU that is not there.
    """
    found = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", name)
    if not found:
        raise ValueError(f"device is {name!r}; expected auto, cpu, cuda or cuda:0, cuda:1, ...")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(found.group(1) or 0)
    if index >= count:
        raise ValueError(
            f"device is {name!r} but torch sees {count} GPUs; use --device cpu (see: ddbench doctor)"
        )
    return torch.device("cuda", index)


# ------------------------------------------------------------------------------------------------ state of a loop


def _state_of(thing: Any, where: str) -> Any:
    if isinstance(thing, Tensor):
        return thing
    if isinstance(thing, torch.Generator):
        return thing.get_state()
    if hasattr(thing, "state_dict"):
        return thing.state_dict()
    if isinstance(thing, MutableMapping):
        return dict(thing)
    raise TypeError(
        f"{where} is a {type(thing).__name__}; expected a tensor, a generator, a dict, or an object with state_dict "
        f"(an optimiser, a network)"
    )


def _restore(thing: Any, saved: Any, where: str, device: torch.device) -> None:
    """Put ``saved`` back into ``thing`` in place."""
    if isinstance(thing, Tensor):
        if not isinstance(saved, Tensor) or saved.shape != thing.shape or saved.dtype != thing.dtype:
            form = (
                f"{saved.dtype} {tuple(saved.shape)}" if isinstance(saved, Tensor) else type(saved).__name__
            )
            raise store.DamagedError(
                f"{where} is {thing.dtype} {tuple(thing.shape)} but the checkpoint has {form}"
            )
        with torch.no_grad():
            thing.copy_(saved)
    elif isinstance(thing, torch.Generator):
        thing.set_state(saved)
    elif hasattr(thing, "load_state_dict"):
        thing.load_state_dict(saved)
    else:
        thing.clear()
        thing.update({k: v.to(device) if isinstance(v, Tensor) else v for k, v in saved.items()})


def _floats(value: Any, where: str) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors of nested state, with their places."""
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex():
            yield where, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _floats(inner, f"{where}[{name!r}]")
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from _floats(inner, f"{where}[{i}]")


def _all(test: Callable[[Tensor], Tensor], tensors: Sequence[Tensor]) -> list[bool]:
    """Whether ``test`` holds for every element of each tensor; one read a device."""
    answers: list[bool] = [True] * len(tensors)
    for device in {t.device for t in tensors}:
        here = [i for i, t in enumerate(tensors) if t.device == device]
        found = torch.stack([test(tensors[i]).all() for i in here]).tolist()
        for i, answer in zip(here, found, strict=True):
            answers[i] = answer
    return answers


# ------------------------------------------------------------------------------------------------ traces


@dataclass
class _Row:
    loop: int
    iteration: int
    s: float
    values: dict[str, Any]

    def plain(self) -> dict[str, Any]:
        return {"loop": self.loop, "iteration": self.iteration, "s": round(self.s, 6), **self.values}


def _read(rows: Sequence[_Row]) -> None:
    """Put numbers in the place of tensors: one transfer for all of a device and type."""
    waiting: dict[tuple[torch.device, torch.dtype], list[tuple[dict[str, Any], str, Tensor]]] = {}
    for row in rows:
        for name, value in row.values.items():
            if isinstance(value, Tensor):
                waiting.setdefault((value.device, value.dtype), []).append((row.values, name, value))
    for places in waiting.values():
        numbers = torch.stack([value.reshape(()) for *_, value in places]).tolist()
        for (values, name, _), number in zip(places, numbers, strict=True):
            values[name] = float(number)


@dataclass
class _Progress:
    """How far a distillation came, over all its loops."""

    iterations: int = 0
    total: int = 0
    seconds: float = 0.0
    fresh: int = 0
    """Iterations of this process, which took ``seconds``."""


@dataclass
class RunTask:
    """The :class:`ddbench.contract.Task` of a real run.

    ``run`` and ``key`` say where checkpoints, traces and snapshots go; without them nothing is kept.  ``seed`` gives every
    generator; equal seeds give equal streams to all methods.  What is written to show a set under way takes no part in its
    seconds.
    """

    train: ImageData
    ipc: int
    seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    memory_limit_mib: float | None = None
    run: store.RunFolder | None = None
    key: str = "distill"
    budget: TimeBudget = field(default_factory=TimeBudget)
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    quiet: bool = True
    name: str = "distil"
    """Stands before the progress bar and in messages."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the card of the set and of its snapshots: method, recipe, settings, notes."""
    snapshot_every: int = 0
    """Iterations between snapshots of loops that can show their set; 0: none."""
    tensorboard: bool = False
    """Whether traces and contact sheets also go into TensorBoard event files."""
    partial: bool = field(default=False, init=False)
    """Whether the time budget cut a loop short."""

    def __post_init__(self) -> None:
        if self.ipc < 0:
            raise ValueError(
                f"ipc is {self.ipc}; expected at least 1 image a class (0: the method does not use it)"
            )
        self._generators = Generators(self.seed, "distil")
        self._progress = _Progress()
        self._loops = 0
        self._inside = False
        self._iteration = 0
        self._total = 0
        self._spent_before = 0.0
        self._started = time.perf_counter()
        self._teacher_s = self._teacher_wall = self._show_wall = 0.0
        self._paid: dict[str, dict[str, float]] = {}
        self._method: Any = None
        self._bases: list[int] = []  # iterations of the loops before each loop
        self._resumed: dict[int, int] = {}  # iterations of each loop that its checkpoint had
        self._good: tuple[Path, int] | None = None
        self._can_show = False
        self._shows_since: float | None = None
        self._rows: list[_Row] = []
        self._latest: _Row | None = None
        self._latest_kept = True
        self._kept_row = -1  # which part of the loop had its row
        self._trace_begun = False
        self._events: curves.Events | None = None
        self._bar: Any = None
        self._notes: dict[str, str] = {}

    # -------------------------------------------------------------------------------------------- chance and data

    @property
    def items(self) -> int:
        return self.ipc * self.train.classes

    def rng(self, name: str) -> torch.Generator:
        return self._generators(name)

    def holdout(self, fraction: float) -> tuple[ImageData, ImageData]:
        if not 0 < fraction < 1:
            raise ValueError(
                f"holdout fraction is {fraction}; expected a number between 0 and 1, both excluded"
            )
        rng = Generators(self.seed, "distil", "holdout")(str(fraction))
        kept, held = [], []
        for c in range(self.train.classes):
            pool = self.train.of_class(c)
            if len(pool) < 2:
                raise ValueError(
                    f"class {c} has {len(pool)} training images; expected at least 2 to hold some out: "
                    f"leave the class out or add images"
                )
            count = min(len(pool) - 1, max(1, round(fraction * len(pool))))
            order = pool[torch.randperm(len(pool), generator=rng)]
            held.append(order[:count].sort().values)
            kept.append(order[count:].sort().values)
        both = [torch.cat(part).sort().values for part in (kept, held)]
        return self.train.subset(both[0], f"{self.train.split}-kept"), self.train.subset(
            both[1], f"{self.train.split}-held"
        )

    # -------------------------------------------------------------------------------------------- networks

    def teachers(self, recipe: TeacherRecipe) -> list[Trained]:
        from ddbench.train.teachers import train_networks  # late: most methods need no networks

        with self._training("teachers") as told:
            found = train_networks(self.train, recipe, self.device, progress=told)
        for network in found:
            self._pay("teachers", network.fingerprint, network.train_s)
        return found

    def experts(self, recipe: TeacherRecipe, budget_bytes: int | None = None) -> Experts:
        """``budget_bytes``: what their snapshots may take; see :func:`ddbench.train.experts.make_experts`."""
        from ddbench.train.experts import make_experts

        with self._training("experts") as told:
            found = make_experts(self.train, recipe, self.device, progress=told, budget_bytes=budget_bytes)
        self._pay("experts", found.fingerprint, found.train_s)
        return found

    @contextlib.contextmanager
    def _training(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A progress bar for the epochs of networks on real data, whose seconds are not those of the construction."""
        started = time.perf_counter()
        with tqdm(
            desc=what, unit="epoch", disable=self.quiet or None, leave=False, dynamic_ncols=True
        ) as bar:

            def told(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)
                if done < total and self.budget.used_up():
                    raise BudgetUsedUp(f"the time budget ended at epoch {done} of {total} of the {what}")

            yield told
        self._teacher_wall += time.perf_counter() - started

    def _pay(self, what: str, fingerprint: str, train_s: float) -> None:
        """Seconds of networks that were used: asked for twice, paid for once; more of the same pay for what they add."""
        own = self._paid.setdefault(what, {})
        paid = own.get(fingerprint, 0.0)
        own[fingerprint] = max(paid, train_s)
        self._teacher_s += own[fingerprint] - paid

    # -------------------------------------------------------------------------------------------- the loop

    def loop(
        self, total: int, state: Sequence[Any] = (), show: Callable[[], DistilledSet] | None = None
    ) -> Iterator[int]:
        if total < 0:
            raise ValueError(f"a loop of {total} iterations; expected 0 or more")
        if self._inside:
            raise RuntimeError(
                "task.loop inside task.loop; use range() for the inner one (the outer one is checkpointed)"
            )
        for i, thing in enumerate(state):
            _state_of(thing, f"state[{i}] of task.loop")  # say so now, not after half a minute
        return self._loop(total, state, show)

    def _loop(
        self, total: int, state: Sequence[Any], show: Callable[[], DistilledSet] | None
    ) -> Iterator[int]:
        number, self._loops = self._loops, self._loops + 1
        base = self._progress.total
        self._bases.append(base)
        self._progress.total += total
        self._can_show |= show is not None
        if self.partial:  # an earlier loop was cut short: a checkpoint of this one would hide where to go on
            return
        self._kept_row, self._latest = -1, None
        done = self._load(number, total, state)
        self._progress.iterations += done
        self._total, self._iteration = total, max(0, done - 1)
        unbounded = self._unbounded(state)
        every = self.snapshot_every if show is not None and self.run is not None else 0
        began = self._spent_s()
        saved = told = time.perf_counter()
        description = self.name if number == 0 else f"{self.name} ({number + 1})"
        self._inside = True
        try:
            with tqdm(
                total=total,
                initial=done,
                desc=description,
                unit="it",
                disable=self.quiet or None,  # None: no bar where standard error is no terminal
                leave=False,
                dynamic_ncols=True,
            ) as self._bar:
                for it in range(done, total):
                    if self.budget.used_up():
                        self.partial = True
                        break
                    self._iteration = it
                    yield it
                    done = it + 1
                    self._progress.iterations += 1
                    self._progress.fresh += 1
                    if every and show is not None and (base + done) % every == 0:
                        with self._showing():
                            self._check(state, done, unbounded)
                            self._keep(show(), base + done, f"{base + done:06d}")
                    now = time.perf_counter()
                    if done < total and now - saved >= self.checkpoint_every_s:
                        self._save(number, total, done, state, unbounded)
                        saved = now = time.perf_counter()
                    elif len(self._rows) >= _FLUSH_ROWS:
                        self._flush()
                    if now - told >= _TELL_EVERY_S and not self._bar.disable:
                        self._tell()
                        told = now
                    self._bar.update()
                self._synchronise()  # else what waits in the queue would look fast
        finally:
            self._inside = False
            self._progress.seconds += self._spent_s() - began
        if done == total and self._latest is not None and not self._latest_kept:
            self._rows.append(self._latest)
        self._save(number, total, done, state, unbounded)
        self._latest = None

    def _spent_s(self) -> float:
        """Seconds of construction so far: without teachers, which are counted apart, and without what showing took."""
        now = time.perf_counter() if self._shows_since is None else self._shows_since
        return self._spent_before + now - self._started - self._teacher_wall - self._show_wall

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _path(self, number: int) -> Path | None:
        return None if self.run is None else self.run.checkpoint_path(self.key) / f"loop-{number}.safetensors"

    def _save(self, number: int, total: int, done: int, state: Sequence[Any], unbounded: set[str]) -> None:
        self._check(state, done, unbounded)
        path = self._path(number)
        if path is None:
            return
        store.save_state(
            path,
            {
                "total": total,
                "done": done,
                "state": [_state_of(thing, f"state[{i}] of task.loop") for i, thing in enumerate(state)],
                "generators": self._generators.state_dict(),
                "spent_s": self._spent_s(),
                "kept_row": self._kept_row,
                "notes": self._notes,
            },
        )
        self._good = path, self._bases[number] + done

    def _load(self, number: int, total: int, state: Sequence[Any]) -> int:
        """Iterations done, after everything was put back; 0 where there is no checkpoint."""
        path = self._path(number)
        if path is None or not path.exists():
            return 0
        saved = store.load_state(path)
        try:
            if saved["total"] != total or len(saved["state"]) != len(state):
                raise store.DamagedError(
                    f"it holds {len(saved['state'])} things of a loop of {saved['total']}, the method has "
                    f"{len(state)} of a loop of {total}"
                )
            for i, (thing, value) in enumerate(zip(state, saved["state"], strict=True)):
                _restore(thing, value, f"state[{i}]", self.device)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise store.DamagedError(
                f"checkpoint {path} does not fit this distillation ({error}); remove it to start this part again"
            ) from error
        self._generators.load_state_dict(saved["generators"])
        self._spent_before = max(self._spent_before, float(saved["spent_s"]))
        done = int(saved["done"])
        self._kept_row = int(saved.get("kept_row", -1))
        self._notes = {**saved.get("notes", {}), **self._notes}
        self._resumed[number] = done
        self._good = path, self._bases[number] + done
        return done

    # -------------------------------------------------------------------------------------------- divergence

    def _unbounded(self, state: Sequence[Any]) -> set[str]:
        """Places of a state that begin with an infinity (the best loss so far, say): there it means nothing bad."""
        found = list(self._state_floats(state))
        finite = _all(torch.isfinite, [t for _, t in found])
        return {where for (where, _), good in zip(found, finite, strict=True) if not good}

    def _state_floats(self, state: Sequence[Any]) -> Iterator[tuple[str, Tensor]]:
        for i, thing in enumerate(state):
            yield from _floats(_state_of(thing, f"state[{i}]"), f"state[{i}]")

    def _check(self, state: Sequence[Any], done: int, unbounded: set[str]) -> None:
        """Write waiting trace rows and look at the state, before it is kept.

        Raises:
            DivergedError: a value, or a tensor of the state, is not finite.
        """
        self._flush()
        found = list(self._state_floats(state))
        finite = _all(torch.isfinite, [t for _, t in found])
        for (where, t), good in zip(found, finite, strict=True):
            if good or (where in unbounded and not bool(torch.isnan(t).any())):
                continue
            bad = t[~torch.isfinite(t)]
            raise self._diverged(
                f"{where} of task.loop has {bad.numel()} of {t.numel()} values that are not finite (the first is "
                f"{bad.reshape(-1)[0].item()}) after {done} of {self._total} iterations"
            )

    def _check_values(self, rows: Sequence[_Row]) -> None:
        for row in rows:
            for name, value in row.values.items():
                if not math.isfinite(value):
                    loop = f" of loop {row.loop + 1}" if row.loop else ""
                    raise self._diverged(
                        f"{name} is {value} at iteration {row.iteration} of {self._total}{loop}"
                    )

    def _diverged(self, what: str) -> DivergedError:
        rates = []
        if is_dataclass(self._method):
            settings = registry.settings_of(self._method)
            rates = [f"{k}={v}" for k, v in settings.items() if "lr" in re.split(r"[._]", k)]
        lower = "lower its learning rate" + (f" ({', '.join(rates)})" if rates else "")
        if self.run is None:
            kept = "without a run folder nothing was kept"
        else:
            kept = "it had no checkpoint yet"
            if self._good is not None:
                kept = f"its last good checkpoint, after {self._good[1]} iterations, is {self._good[0]}"
            if shots := self.run.snapshots(self.key):
                kept += f"; its last snapshot is {shots[-1][1]}"
        return DivergedError(f"{self.name} diverged: {what}; {lower}; {kept}")

    # -------------------------------------------------------------------------------------------- traces

    def log(self, **values: float | Tensor) -> None:
        for name, value in values.items():
            if name in KEYS:
                raise ValueError(
                    f"task.log({name}=...) takes a name that every row has; expected another one"
                )
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(
                    f"task.log({name}=...) got a tensor of shape {tuple(value.shape)}; expected one number, such as "
                    f"its mean"
                )
        # A tensor is kept as it is: reading it now would make the host wait for the device in every iteration.
        kept = {k: v.detach().clone() if isinstance(v, Tensor) else float(v) for k, v in values.items()}
        loop, last = max(0, self._loops - 1), self._latest
        known = {k: v for k, v in kept.items() if isinstance(v, float)}
        # what is read already can be looked at now
        self._check_values([_Row(loop, self._iteration, 0.0, known)])
        if last is not None and self._inside and (last.loop, last.iteration) == (loop, self._iteration):
            last.values.update(kept)
            return
        self._latest = _Row(loop, self._iteration, self._spent_s(), kept)
        part = self._iteration * _TRACE_ROWS // max(1, self._total) if self._inside else -1
        self._latest_kept = part < 0 or part != self._kept_row
        if self._latest_kept:
            self._rows.append(self._latest)
            self._kept_row = part
        if not self._inside and len(self._rows) >= _FLUSH_ROWS:
            self._flush()

    def note(self, key: str, text: str) -> None:
        if self._notes.get(key) != text:
            self._notes[key] = text
            _log.info("%s: %s", self.name, text)
            say(f"{self.name}: {text}", self.quiet)

    def _flush(self) -> None:
        """Write waiting trace rows, up to one that is not finite.

        Raises:
            DivergedError: a value is NaN or infinite; the latest row counts even where the trace leaves it out.
        """
        rows, self._rows = self._rows, []
        look = rows if self._latest is None or (rows and rows[-1] is self._latest) else [*rows, self._latest]
        _read(look)
        bad = next(
            (i for i, row in enumerate(rows) if not all(map(math.isfinite, row.values.values()))), None
        )
        good = rows[:bad]
        if self.run is not None and good:
            path = self.run.trace_path(self.key)
            if not self._trace_begun:
                self._begin_trace(path, good)
            with path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row.plain()) + "\n" for row in good)
            if self.tensorboard:
                with self._showing():
                    events = self._board()
                    for row in good:
                        at = (self._bases[row.loop] if self._bases else 0) + row.iteration
                        for name, value in row.values.items():
                            events.number(name, value, at)
                    events.flush()
        self._check_values(look)
        if look and self._bar is not None:
            self._postfix(look[-1])

    def _begin_trace(self, path: Path, rows: Sequence[_Row]) -> None:
        """Leave what stands before the checkpoint in an old trace: the rest is done, and logged, again."""
        again = {(row.loop, row.iteration, frozenset(row.values)) for row in rows}
        kept = [
            row
            for row in read_trace(path)
            if row["iteration"] < self._resumed.get(row["loop"], 0)
            and (row["loop"], row["iteration"], frozenset(row) - set(KEYS)) not in again
        ]
        store.write_rows(path, kept)
        self._trace_begun = True

    def _tell(self) -> None:
        """The latest values, on the progress bar."""
        if self._latest is not None:
            _read([self._latest])
            self._check_values([self._latest])
            self._postfix(self._latest)

    def _postfix(self, row: _Row) -> None:
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in row.values.items()}, refresh=False)

    # -------------------------------------------------------------------------------------------- showing

    @contextlib.contextmanager
    def _showing(self) -> Iterator[None]:
        """What happens in here is not construction, and does not count as such."""
        if self._shows_since is not None:
            yield
            return
        self._synchronise()
        self._shows_since = started = time.perf_counter()
        try:
            yield
        finally:
            self._shows_since = None
            self._show_wall += time.perf_counter() - started

    def _board(self) -> curves.Events:
        if self._events is None:
            if self.run is None:
                raise ValueError("tensorboard needs a run folder; expected run=")
            first = max((self._bases[loop] + done for loop, done in self._resumed.items()), default=0)
            self._events = curves.Events(self.run.tensorboard_path(self.key), first)
        return self._events

    def _keep(self, distilled: DistilledSet, iteration: int, picture: str) -> None:
        """Write a set under way, after ``iteration`` iterations, with its contact sheets."""
        if self.run is None:
            return
        cost = Cost(wall_s=self._spent_s(), device=str(self.device), iterations=iteration)
        codecs.check(distilled, self.train)
        sets.write(
            self.run.snapshot_path(self.key, iteration), distilled.changed(card={**self.card, "cost": cost})
        )
        self._draw(distilled, iteration, picture)

    def _draw(self, distilled: DistilledSet, iteration: int, name: str) -> None:
        """Contact sheets of a set, stored and, for mosaics, decoded."""
        if self.run is None or distilled.kind != "image" or self.train.shape[0] not in (1, 3):
            return
        for suffix, decoded in (("", False), ("-decoded", True)):
            if decoded and distilled.codec.name != "grid":
                continue
            path = self.run.picture_path(self.key, name + suffix)
            try:
                pictures.distilled_sheet(distilled, self.train, path, decoded=decoded)
            except ValueError as error:  # a set without images: no reason to end its distillation
                _log.info("%s: no picture after %s iterations: %s", self.name, iteration, error)
                return
            if self.tensorboard:
                self._board().picture(f"set{suffix}", path, iteration)

    def snapshot(self, distilled: DistilledSet) -> None:
        with self._showing():
            done = (self._bases[-1] if self._bases else 0) + self._iteration + 1
            self._keep(distilled, done, f"{done:06d}")

    def view(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images, labels

    # -------------------------------------------------------------------------------------------- the set

    def distilled(
        self,
        *,
        images: Tensor | None = None,
        subset: Tensor | None = None,
        ids: Tensor | None = None,
        targets: Targets | None = None,
        space: Space | None = None,
        codec: CodecSpec | None = None,
        program: Program | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> DistilledSet:
        def kept(t: Tensor) -> Tensor:
            return (
                t.detach().to("cpu", copy=True).contiguous()
            )  # a copy: the method may go on changing its own

        if images is not None and subset is not None:
            raise ValueError("task.distilled got images= and subset=; expected one of them")
        if ids is not None and targets is not None:
            raise ValueError(
                "task.distilled got ids= and targets=; expected one of them (Targets has ids too)"
            )
        parts = {name: kept(t) for name, t in (tensors or {}).items()}
        if images is not None:
            parts["images"] = kept(images)
        if subset is not None:
            parts["indices"] = kept(subset)
            codec = codec or CodecSpec("subset")
            if ids is None and targets is None:
                ids = self.train.labels[subset.to(self.train.labels.device)]
        if not parts:
            raise ValueError("task.distilled got nothing to store; expected images=, subset= or tensors=")
        if targets is None:
            if ids is None:
                raise ValueError(
                    "task.distilled got no labels; expected ids= (class ids) or targets=Targets(...)"
                )
            targets = Targets(ids=kept(ids))
        else:
            rows = {name: kept(t) for name, t in targets.rows().items()}
            targets = replace(
                targets, ids=rows.get("ids"), soft=rows.get("soft"), weights=rows.get("weights")
            )
        return DistilledSet(
            tensors=parts,
            targets=targets,
            space=space or self.train.space,
            codec=codec or CodecSpec(),
            program=program,
            card=Card(
                dataset=self.train.name,
                data_fingerprint=self.train.fingerprint,
                ipc=self.ipc,
                classes=self.train.classes,
                shape=self.train.shape,
                seed=self.seed,
            ),
        )

    def run_method(self, made: Any) -> DistilledSet:
        """Distil with a made method; the set comes back checked, with its cost and, if cut short, marked partial.

        Raises:
            TypeError: the method returned something else than a distilled set.
            ValueError: parts of the set do not fit each other or the data; values that are not finite.
        """
        self._started = time.perf_counter()
        self._method = made
        keep_freed_memory()
        try:
            with Meter(self.device) as meter, arithmetic():
                distilled = made.distill(self)
            self._flush()
            return self._finished(distilled, made, meter)
        finally:
            if self._events is not None:
                self._events.close()
                self._events = None

    def _finished(self, distilled: Any, made: Any, meter: Meter) -> DistilledSet:
        """The set of a method, checked, with its card."""
        if not isinstance(distilled, DistilledSet):
            raise TypeError(
                f"distill of {type(made).__name__} returned a {type(distilled).__name__}; "
                f"expected a DistilledSet (see: task.distilled)"
            )
        codecs.check(distilled, self.train)
        progress = self._progress
        cost = Cost(
            wall_s=self._spent_before + max(0.0, meter.wall_s - self._teacher_wall - self._show_wall),
            peak_mib=meter.peak_mib,
            device=str(self.device),
            iterations=progress.iterations,
            iterations_per_s=progress.fresh / progress.seconds
            if progress.fresh and progress.seconds > 0
            else 0.0,
            teacher_s=self._teacher_s,
        )
        notes = {**self.card.get("notes", {}), **distilled.card.notes, **self._notes}
        for what, paid in self._paid.items():
            notes[what] = sorted(paid)  # which networks decided: fingerprints of the cache
        if self.partial:
            notes["partial"] = (
                f"{progress.iterations} of {progress.total} iterations when the time budget was used up"
            )
        finished: DistilledSet = distilled.changed(
            card={**self.card, "cost": cost, "partial": self.partial, "notes": notes}
        )
        if self.run is not None and (self.snapshot_every or self.tensorboard):
            whole = self.snapshot_every and self._can_show and not self.partial
            if whole:  # the last of the snapshots
                sets.write(self.run.snapshot_path(self.key, progress.iterations), finished)
            self._draw(finished, progress.iterations, "finished")
        return finished

    def remove_checkpoints(self) -> None:
        """To be called when the finished set is stored."""
        if self.run is not None:
            folder = self.run.checkpoint_path(self.key)
            if folder.exists():
                for path in folder.iterdir():
                    path.unlink(missing_ok=True)
                folder.rmdir()
