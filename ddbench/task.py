"""The task that a method sees: generators, teachers, one loop with checkpoints, a time budget, traces, the finished set."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ddbench import codecs, sets, store
from ddbench.budget import Meter
from ddbench.compute import arithmetic, keep_freed_memory
from ddbench.contract import (
    Card,
    CodecSpec,
    Cost,
    DistilledSet,
    ImageData,
    Program,
    Space,
    Targets,
    TeacherRecipe,
    Trained,
)
from ddbench.seeding import Generators

CHECKPOINT_EVERY_S = 30.0
_TRACE_ROWS = 1000
_log = logging.getLogger("ddbench")


# ------------------------------------------------------------------------------------------------ time and device


class BudgetUsedUp(Exception):
    """The time budget ended inside work that cannot be cut short and kept: it is left for the next run."""


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
    generator; equal seeds give equal streams to all methods.
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
    """Stands before the progress bar."""
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
        self._spent_before = 0.0
        self._started = time.perf_counter()
        self._teacher_s = self._teacher_wall = 0.0
        self._paid: set[str] = set()
        self._rows: list[dict[str, Any]] = []
        self._trace_begun = False
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
        return self._networks(recipe, trajectory=False)

    def experts(self, recipe: TeacherRecipe) -> list[Trained]:
        return self._networks(recipe, trajectory=True)

    def _networks(self, recipe: TeacherRecipe, trajectory: bool) -> list[Trained]:
        from ddbench.train.teachers import train_networks  # late: most methods need no networks

        started = time.perf_counter()
        with tqdm(
            desc="teachers", unit="epoch", disable=self.quiet or None, leave=False, dynamic_ncols=True
        ) as bar:

            def told(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)
                if self.budget.used_up():
                    raise BudgetUsedUp(f"the time budget ended at epoch {done} of {total} of the teachers")

            found = train_networks(self.train, recipe, self.device, trajectory=trajectory, progress=told)
        self._teacher_wall += time.perf_counter() - started
        for network in found:
            if network.fingerprint not in self._paid:  # asked for twice, paid for once
                self._paid.add(network.fingerprint)
                self._teacher_s += network.train_s
        return found

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
        return self._loop(total, state)

    def _loop(self, total: int, state: Sequence[Any]) -> Iterator[int]:
        number, self._loops = self._loops, self._loops + 1
        self._progress.total += total
        if self.partial:  # an earlier loop was cut short: a checkpoint of this one would hide where to go on
            return
        done = self._load(number, total, state)
        self._progress.iterations += done
        began = saved = time.perf_counter()
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
                    self._bar.update()
                    if time.perf_counter() - saved >= self.checkpoint_every_s:
                        self._save(number, total, done, state)
                        saved = time.perf_counter()
        finally:
            self._inside = False
            self._progress.seconds += time.perf_counter() - began
        self._save(number, total, done, state)

    def _path(self, number: int) -> Path | None:
        return None if self.run is None else self.run.checkpoint_path(self.key) / f"loop-{number}.safetensors"

    def _save(self, number: int, total: int, done: int, state: Sequence[Any]) -> None:
        self._flush()
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
                "spent_s": self._spent_before + time.perf_counter() - self._started - self._teacher_wall,
            },
        )

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
        return int(saved["done"])

    # -------------------------------------------------------------------------------------------- traces

    def log(self, **values: float | Tensor) -> None:
        # A tensor is kept as it is: reading it now would make the host wait for the device in every iteration.
        row = {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in values.items()}
        self._rows.append({"loop": max(0, self._loops - 1), "iteration": self._iteration, **row})
        if len(self._rows) >= _TRACE_ROWS:
            self._flush()

    def note(self, key: str, text: str) -> None:
        if self._notes.get(key) != text:
            self._notes[key] = text
            _log.warning("%s: %s", self.name, text)

    def _flush(self) -> None:
        """Write buffered trace rows.

        Raises:
            ValueError: a value is NaN.
        """
        if not self._rows:
            return
        rows = [
            {k: v if k in ("loop", "iteration") else float(v) for k, v in row.items()} for row in self._rows
        ]
        self._rows.clear()
        if self.run is not None:
            path = self.run.trace_path(self.key)
            if not self._trace_begun:  # drop what a killed process did after the checkpoint
                first = (rows[0]["loop"], rows[0]["iteration"])
                kept = [r for r in read_trace(path) if (r["loop"], r["iteration"]) < first]
                store.write_text(path, "".join(json.dumps(r) + "\n" for r in kept))
                self._trace_begun = True
            with path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        for row in rows:
            bad = [k for k, v in row.items() if v != v]
            if bad:
                raise ValueError(
                    f"{bad[0]} is NaN at iteration {row['iteration']}; the distillation diverged: lower its learning rate"
                )
        if self._bar is not None:
            shown = {k: f"{v:.4g}" for k, v in rows[-1].items() if k not in ("loop", "iteration")}
            self._bar.set_postfix(shown, refresh=False)

    def snapshot(self, distilled: DistilledSet) -> None:
        if self.run is not None:
            sets.write(self.run.snapshot_path(self.key, self._iteration), distilled)

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
        keep_freed_memory()
        with Meter(self.device) as meter, arithmetic():
            distilled = made.distill(self)
        self._flush()
        if not isinstance(distilled, DistilledSet):
            raise TypeError(
                f"distill of {type(made).__name__} returned a {type(distilled).__name__}; "
                f"expected a DistilledSet (see: task.distilled)"
            )
        codecs.check(distilled, self.train)
        progress = self._progress
        cost = Cost(
            wall_s=self._spent_before + max(0.0, meter.wall_s - self._teacher_wall),
            peak_mib=meter.peak_mib,
            device=str(self.device),
            iterations=progress.iterations,
            iterations_per_s=progress.fresh / progress.seconds
            if progress.fresh and progress.seconds > 0
            else 0.0,
            teacher_s=self._teacher_s,
        )
        notes = {**distilled.card.notes, **self._notes}
        if self._paid:
            notes["teachers"] = sorted(self._paid)  # which networks decided: fingerprints of the cache
        if self.partial:
            notes["partial"] = (
                f"{progress.iterations} of {progress.total} iterations when the time budget was used up"
            )
        return distilled.changed(card={"cost": cost, "partial": self.partial, "notes": notes})

    def remove_checkpoints(self) -> None:
        """To be called when the finished set is stored."""
        if self.run is not None:
            folder = self.run.checkpoint_path(self.key)
            if folder.exists():
                for path in folder.iterdir():
                    path.unlink(missing_ok=True)
                folder.rmdir()


def read_trace(path: Path) -> list[dict[str, Any]]:
    """Rows of a trace (JSON lines): ``loop``, ``iteration`` and the values that the method logged.

    A last line that was cut off by a kill is left out.
    """
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
