"""One cell: cached? run it, record it, or record why it failed.

A cell is known by a key, a hash of all that may change its result: the code of the method and of the shared modules that
it imports (without comments and docstrings), its settings as resolved, the data, ipc and seed; a record's key adds the
protocol with its Major.Minor, the network, the number of students and the precision.  The code revision stands in the
record only, so that a release does not void what was measured.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import hashlib
import logging
import os
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

import ddbench
from ddbench import codecs, curves, data, leaks, registry, sets, store
from ddbench.budget import Meter, byte_count
from ddbench.contract import (
    Card,
    DistilledSet,
    Experts,
    NotApplicable,
    RealData,
    Targets,
    TeacherRecipe,
    canonical,
)
from ddbench.nets import names as network_names
from ddbench.protocols.train import Evaluation
from ddbench.records import Bytes, Cell, DistilCell, Provenance, Record, Score, Spent
from ddbench.seeding import Generators, derive
from ddbench.task import CHECKPOINT_EVERY_S, RunTask, TimeBudget, pick_device, say
from ddbench.task import BudgetUsedUp as BudgetUsedUp
from ddbench.train.engine import EngineOptions
from ddbench.train.labels import FOLDER
from ddbench.train.teachers import Stored as Teacher

_log = logging.getLogger("ddbench")

DONE = ("ok", "skipped")
"""What is not tried again: a failed cell is, and a partial set is gone on with."""
_PLUMBING = ("registry", "store", "records", "pictures", "curves")
"""Modules that move things about and cannot change a number."""


@dataclass(frozen=True)
class Context:
    """Where and how cells run.  Can be pickled; ``plugins`` are the user's files, for other processes."""

    run: Path = Path("runs")
    device: str = "auto"
    precision: str = "fp32"
    engine: str = "auto"
    memory_limit_mib: float | None = None
    data_root: Path | None = None
    force: bool = False
    quiet: bool = True
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    budget: TimeBudget = field(default_factory=TimeBudget)
    plugins: tuple[Path, ...] = ()
    snapshot_every: int = 0
    """Iterations between snapshots of a set under way, each with its contact sheet; 0: none."""
    snapshot_students: int = 1
    """Students that score a snapshot under the cell's protocol."""
    tensorboard: bool = False
    """Whether traces, accuracies and contact sheets also go into TensorBoard event files."""


@dataclass(frozen=True)
class Outcome:
    """What became of a cell in this run.

    ``cached``: it was done already; ``left``: the time budget ended, or the run was stopped; ``busy``: another process is
    at it just now.  The other words are those of the record.
    """

    cell: Cell
    status: Literal["ok", "partial", "failed", "skipped", "cached", "left", "busy"]
    reason: str = ""
    record: Record | None = None
    wall_s: float = 0.0


class Busy(Exception):
    """Another process works on this."""


class _Failure(Exception):
    """A distillation failed, now or before in this run: the reason is known."""


# ------------------------------------------------------------------------------------------------ keys


def _module_file(module: str) -> Path | None:
    top, _, rest = module.partition(".")
    if top != "ddbench" or not rest:
        return None
    for root in ddbench.__path__:
        base = Path(root, *rest.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


@functools.lru_cache(maxsize=512)
def _read_code(path: Path, stamp: tuple[int, int]) -> tuple[str, tuple[str, ...]]:
    """Code as text without comments, docstrings and RECIPES (settings have a place of their own in the key), and the
    modules of ours that it needs."""
    tree = ast.parse(path.read_bytes(), str(path))
    needs: list[str] = []
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [
                n
                for n in body
                if not (
                    isinstance(n, ast.Expr)
                    and isinstance(n.value, ast.Constant)
                    and isinstance(n.value.value, str)
                )
                and not (
                    isinstance(n, (ast.Assign, ast.AnnAssign))
                    and any(
                        getattr(t, "id", "") == "RECIPES"
                        for t in getattr(n, "targets", [getattr(n, "target", None)])
                    )
                )
            ]
            body[:] = kept or [ast.Pass()]
        if isinstance(node, ast.Import):
            needs += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            needs += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute) and node.attr in ("teachers", "experts"):
            needs.append(f"ddbench.train.{node.attr}")  # reached through the task, not by an import
    return ast.unparse(tree), tuple(dict.fromkeys(needs))


def code_files(method: str) -> list[Path]:
    """The files whose code decides what a method makes: its own and the modules of ours that they import, transitively."""
    waiting = []
    for path in registry.sources("methods", method):
        package = path.parent if (path.parent / "__init__.py").is_file() else None
        waiting += sorted(package.rglob("*.py")) if package else [path]
    waiting += [p for m in ("seeding",) if (p := _module_file(f"ddbench.{m}"))]
    found: dict[Path, None] = {}
    while waiting:
        path = waiting.pop().resolve()
        if path in found:
            continue
        found[path] = None
        status = path.stat()
        for module in _read_code(path, (status.st_mtime_ns, status.st_size))[1]:
            if module.removeprefix("ddbench.").split(".")[0] not in _PLUMBING:
                file = _module_file(module)
                waiting += [file] if file else []
    return sorted(found)


def code_hash(method: str) -> str:
    """Hash of the code of :func:`code_files`; comments, docstrings, layout and RECIPES do not matter."""
    digest = hashlib.sha256()
    for text in sorted(
        _read_code(p, (p.stat().st_mtime_ns, p.stat().st_size))[0] for p in code_files(method)
    ):
        digest.update(text.encode())
        digest.update(b"\0")
    return digest.hexdigest()


def _key(parts: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:20]


def _slug(*parts: object) -> str:
    return "-".join("".join(c if c.isalnum() or c in "_+." else "_" for c in str(p)) for p in parts)


# ------------------------------------------------------------------------------------------------ why it failed


def explain(error: BaseException) -> str:
    """``Type: message (file:line in function)``; the place is in the user's plug-in where the error came through it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = {str(p) for p in registry.added_files()}
    place = next((f for f in reversed(frames) if f.filename in own), None)
    place = place or next((f for f in reversed(frames) if f"{os.sep}methods{os.sep}" in f.filename), None)
    place = place or (frames[-1] if frames else None)
    where = f" ({Path(place.filename).name}:{place.lineno} in {place.name})" if place else ""
    text = str(error) or "no message"
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        text = f"out of memory; lower --memory-limit, ipc or the method's batch settings: {text}"
    return f"{type(error).__name__}: {text}{where}"


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """Turn whatever goes wrong in a cell into a :class:`_Failure`; what concerns the whole run passes.

    A plug-in may raise anything; a cell that fails must not end the suite.  Errors of writing would hit every cell.
    """
    try:
        yield
    except (store.WriteError, BudgetUsedUp, Busy, _Failure):
        raise
    except Exception as error:
        reason = explain(error)
        traceback.clear_frames(error.__traceback__)  # they hold tensors, of which there may be too many
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise _Failure(reason) from None


# ------------------------------------------------------------------------------------------------ provenance


@functools.cache
def revision() -> str:
    """Commit of the checkout that runs, with ``+`` where tracked files were changed; "" outside a checkout."""
    root = Path(ddbench.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (
        OSError,
        subprocess.SubprocessError,
    ):  # no git here, or not our checkout: the record says nothing then
        return ""


def provenance(device: torch.device, precision: str = "fp32", engine: str = "") -> Provenance:
    """Versions and machine facts."""
    import torchvision

    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    return Provenance(
        ddbench=ddbench.__version__,
        revision=revision(),
        python=platform.python_version(),
        torch=torch.__version__,
        torchvision=torchvision.__version__,
        platform=platform.platform(terse=True),
        device=device.type,
        device_name=name,
        threads=torch.get_num_threads(),
        precision=precision,
        engine=engine,
    )


def student_generators(seed: int, repeats: int) -> list[Generators]:
    """Generators of each student of a cell: of the seed alone, so that all methods meet the same students."""
    return [Generators(derive(seed, "student", i)) for i in range(repeats)]


# ------------------------------------------------------------------------------------------------ a session


@dataclass(frozen=True)
class _Known:
    """A distil cell with everything resolved."""

    key: str
    made: Any
    settings: dict[str, Any]
    recipe: registry.Recipe
    real: RealData


class Session:
    """Runs cells of one context one after the other, keeping the data set in memory between them.

    ``real``: data of the caller's own, which cells name by its name.
    """

    def __init__(self, context: Context, real: RealData | None = None) -> None:
        self.context = context
        self.run = store.RunFolder(context.run)
        self.device = check(context)
        for path in context.plugins:
            registry.add_file(path)
        self._data: tuple[str, RealData] | None = None if real is None else (real.name, real)
        self._no_data: dict[str, Exception] = {}
        self._failed: dict[str, str] = {}
        self._forced: set[str] = set()
        self._said: set[str] = set()
        self._leaks: dict[str, str] = {}

    # -------------------------------------------------------------------------------------------- keys

    def real(self, name: str) -> RealData:
        """The data of a name, loaded unless they are there.

        Raises:
            LookupError: no such data set.
            FileNotFoundError, ddbench.data.DataError, ddbench.store.DamagedError: see :func:`ddbench.data.load`.
        """
        if name in self._no_data:  # every cell would wait for the same download to fail
            raise self._no_data[name]
        if self._data is None or self._data[0] != name:
            self._data = None  # before the next one comes in
            context = self.context
            try:
                real = data.load(
                    name, context.data_root, device=self.device, memory_limit_mib=context.memory_limit_mib
                )
            except (FileNotFoundError, data.DataError, store.DamagedError) as error:
                self._no_data[name] = error
                raise
            self._data = name, real
        return self._data[1]

    def _known(self, cell: DistilCell) -> _Known:
        recipe = registry.resolve_recipe(cell.method, cell.recipe, cell.dataset, cell.ipc)
        made = registry.make(cell.method, {**recipe.settings, **cell.settings})
        settings = registry.settings_of(made)
        real = self.real(cell.dataset)
        parts = {
            "method": cell.method,
            "code": code_hash(cell.method),
            "settings": settings,
            "data": real.train.fingerprint,
            "ipc": cell.ipc,
            "seed": cell.seed,
        }
        key = f"{_slug(cell.method, cell.dataset, cell.ipc, cell.seed)}-{_key(parts)}"
        return _Known(key, made, settings, recipe, real)

    def _record_key(self, cell: Cell, known: _Known) -> str:
        protocol = registry.get("protocols", cell.protocol)
        network = network_names.canonical(cell.network)
        parts = {
            "set": known.key,
            "data": known.real.fingerprint,
            "protocol": cell.protocol,
            "version": ".".join(str(protocol.version).split(".")[:2]),
            "network": network,
            "repeats": cell.repeats,
            "precision": self.context.precision,
        }
        d = cell.distil
        return f"{_slug(d.method, d.dataset, d.ipc, d.seed, cell.protocol, network)}-{_key(parts)}"

    def keys(self, cell: Cell) -> tuple[str, str]:
        """(set key, record key) of a cell; loads the method and the data."""
        known = self._known(cell.distil)
        return known.key, self._record_key(cell, known)

    def set_key(self, cell: DistilCell) -> str:
        """Key of the set of a distil cell; loads the method and the data."""
        return self._known(cell).key

    # -------------------------------------------------------------------------------------------- distil

    def distil(self, cell: DistilCell, wait: bool = True) -> tuple[str, Path]:
        """Make the set of a cell, or go on with a partial one, unless it is there.

        Returns:
            the set's key and path.  A set that the time budget cut short is marked in its card.

        Raises:
            Busy: another process makes it, and ``wait`` is false.
            BudgetUsedUp: the time ended before there was anything to keep.
            Exception: whatever the method raises.
        """
        known = self._known(cell)
        return known.key, self._distil(cell, known, wait)

    def _distil(self, cell: DistilCell, known: _Known, wait: bool) -> Path:
        path = self.run.set_path(known.key)
        force = self.context.force and known.key not in self._forced
        if not force and self._whole(path):
            return path
        with self._locked(f"set-{known.key}", wait):
            if not force and self._whole(path):
                return path
            if self.context.budget.used_up():
                raise BudgetUsedUp("the time budget ended before the distillation")
            task = RunTask(
                known.real.train,
                cell.ipc,
                cell.seed,
                self.device,
                self.context.memory_limit_mib,
                self.run,
                known.key,
                self.context.budget,
                self.context.checkpoint_every_s,
                self.context.quiet,
                name=f"{cell.method} ipc {cell.ipc} seed {cell.seed}",
                card=card_of(cell.method, known.recipe, known.settings),
                snapshot_every=self.context.snapshot_every,
                tensorboard=self.context.tensorboard,
            )
            if force:
                task.remove_checkpoints()
            distilled = task.run_method(known.made)
            if not (distilled.card.partial and path.exists() and self._whole(path)):
                sets.write(path, distilled)  # a forced repeat that was cut short does not replace a whole set
            if not distilled.card.partial:
                self._forced.add(known.key)
                task.remove_checkpoints()
            else:
                raise BudgetUsedUp(f"{distilled.card.notes['partial']}; the checkpoint is kept")
        return path

    def experts(self, cell: DistilCell, count: int | None = None, budget_bytes: int | None = None) -> Experts:
        """The experts that the method of a cell would use, made or found; nothing is distilled.

        Args:
            count: how many (None: the recipe's).
            budget_bytes: what their snapshots may take; see :func:`ddbench.train.experts.make_experts`.

        Raises:
            ValueError: the method uses no experts, its ``check(task)`` refuses the settings, or see
                :func:`ddbench.train.experts.make_experts`.
            BudgetUsedUp: the time ended first; the next call goes on.
        """
        from ddbench.train.experts import recipe_of  # late: most runs need none

        found = registry.resolve_recipe(cell.method, cell.recipe, cell.dataset, cell.ipc)
        made = registry.make(cell.method, {**found.settings, **cell.settings})
        recipe = recipe_of(cell.method, made)
        context = self.context
        task = RunTask(
            self.real(cell.dataset).train,
            cell.ipc,
            cell.seed,
            self.device,
            context.memory_limit_mib,
            budget=context.budget,
            quiet=context.quiet,
        )
        made = registry.unwrapped(made)
        if hasattr(made, "check"):  # else what a run refuses would be trained for
            made.check(task)
        return task.experts(recipe if count is None else replace(recipe, count=count), budget_bytes)

    def teachers(self, dataset: str, recipe: TeacherRecipe) -> tuple[list[Teacher], int]:
        """The teachers of a recipe, trained or found, their test accuracy measured where it is not known yet.

        Returns:
            what the cache says of each, and how many were trained now; nothing in the other processes of
            :func:`ddbench.train.distributed.joined`.

        Raises:
            ValueError: the recipe takes public weights, or see :func:`ddbench.train.teachers.train_networks`.
        """
        from ddbench.train import teachers  # late: most runs need none
        from ddbench.train.networks import check as check_recipe

        check_recipe(recipe)
        if recipe.weights:
            raise ValueError(
                f"{recipe.network} has public weights {recipe.weights} under this recipe: nothing to train; methods load them "
                f"when they need them (--set weights= trains a network of one's own)"
            )
        real, context = self.real(dataset), self.context
        before = {entry.fingerprint for entry in teachers.stored()}
        task = RunTask(real.train, 1, 0, self.device, context.memory_limit_mib, quiet=context.quiet)
        made = [trained.fingerprint for trained in task.teachers(recipe)]
        for key in made:
            if teachers.about(key)["test_accuracy"] is None:
                teachers.evaluate(key, real, self.device)
        return [teachers.look(key) for key in made], len(set(made) - before)

    def _whole(self, path: Path) -> bool:
        return path.exists() and not sets.read_header(path)["card"].get("partial", False)

    @contextlib.contextmanager
    def _locked(self, key: str, wait: bool) -> Iterator[None]:
        left = self.context.budget.left_s
        lock = self.run.lock(key, left if wait else 0)
        try:
            lock.__enter__()
        except TimeoutError as error:
            if wait:
                raise BudgetUsedUp("the time budget ended while another process was at this cell") from error
            raise Busy(str(error)) from error
        try:
            yield
        finally:
            lock.__exit__()

    # -------------------------------------------------------------------------------------------- evaluate

    def evaluate(self, cell: Cell, wait: bool = True) -> Outcome:
        """Run one cell and record it, unless that is done.

        Args:
            wait: for another process that is at the same cell; else the outcome is ``busy``.

        Raises:
            ddbench.store.WriteError: nothing can be kept here; no other cell would fare better.
            KeyboardInterrupt: checkpoints stay.
        """
        started = time.perf_counter()

        def outcome(status: Any, reason: str = "", record: Record | None = None) -> Outcome:
            return Outcome(cell, status, reason, record, time.perf_counter() - started)

        if self.context.budget.used_up():
            return outcome("left", "the time budget is used up")
        stray = self._stray_key(cell)
        try:
            with _contained():
                known = self._known(cell.distil)
                key = self._record_key(cell, known)
        except _Failure as failure:
            record = self._record(cell, stray, "", "failed", str(failure))
            self.run.write_record(record)
            return outcome("failed", str(failure), record)
        except BudgetUsedUp as error:
            return outcome("left", str(error))
        note = ""
        try:
            found = self.run.record(key)
        except store.DamagedError as error:
            found, note = None, f"made anew, since {error}"
        if found is not None and found.status in DONE and not self._again(key):
            found = self._score_snapshots(cell, known, found)
            return outcome("cached", found.reason, found)
        try:
            with self._locked(f"record-{key}", wait):
                with contextlib.suppress(store.DamagedError):
                    found = self.run.record(key)  # another process may have finished it while we waited
                if found is not None and found.status in DONE and not self._again(key):
                    return outcome("cached", found.reason, found)
                try:
                    with _contained():
                        record = self._evaluated(cell, known, key, wait)
                except _Failure as failure:
                    record = self._record(cell, key, known.key, "failed", str(failure), known)
                self.run.write_record(record)
                self._forced.add(key)
                self.run.record_path(stray).unlink(missing_ok=True)
        except Busy as error:
            return outcome("busy", str(error))
        except BudgetUsedUp as error:
            return outcome("left", str(error))
        record = self._score_snapshots(cell, known, record)
        return outcome(record.status, "; ".join(t for t in (record.reason, note) if t), record)

    def _again(self, key: str) -> bool:
        return self.context.force and key not in self._forced

    def _stray_key(self, cell: Cell) -> str:
        """Key of a record of a cell that failed before its real key was known (plug-in or data do not load)."""
        return f"unresolved-{_key({'cell': cell.model_dump(mode='json')})}"

    def _evaluated(self, cell: Cell, known: _Known, key: str, wait: bool) -> Record:
        if known.key in self._failed:
            raise _Failure(self._failed[known.key])
        try:
            with _contained():
                try:
                    path = self._distil(cell.distil, known, wait)
                except NotApplicable as error:
                    return self._record(cell, key, known.key, "skipped", str(error), known)
        except _Failure as failure:
            self._failed[known.key] = str(failure)  # its other protocols and networks need not try again
            raise
        distilled = sets.read(path)
        protocol = registry.get("protocols", cell.protocol)
        reason = protocol.accepts(
            distilled, network_names.canonical(cell.network), known.real.name
        ) or network_names.why_not(cell.network, known.real.train.shape)
        if reason:
            return self._record(cell, key, known.key, "skipped", reason, known, distilled)
        leaked = self._leak(distilled, known.real)
        record = score(
            distilled,
            known.real,
            cell,
            self._options(),
            quiet=self.context.quiet,
            budget=self.context.budget,
            base=functools.partial(self._record, cell, key, known.key, known=known, distilled=distilled),
        )
        return with_leak(record, leaked)

    def _leak(self, distilled: DistilledSet, real: RealData) -> str:
        """Test images in a set, in words; looked for once a set, and said once."""
        fingerprint = distilled.fingerprint()
        if fingerprint not in self._leaks:
            self._leaks[fingerprint] = text = leaks.note(distilled, real)
            if text:
                card = distilled.card
                self._say_once(f"warning: {card.method} ipc {card.ipc:g} seed {card.seed}: {text}")
        return self._leaks[fingerprint]

    def _score_snapshots(self, cell: Cell, known: _Known, record: Record) -> Record:
        """Accuracy over time: score the snapshots of a finished set as the cell scores the set, with fewer students.

        What comes out stands beside the record, one row a snapshot.  Rows that are there already are kept; a time budget
        that ends leaves the others to the next run.  Once all snapshots are scored the best of them, the finished set
        among them, goes into the record as a score of its own (``best-snapshot``, chosen on ``test``), which no board
        ranks: a snapshot that was chosen by its test accuracy was chosen on the test data.

        Returns:
            the record as it stands now.
        """
        context, count = self.context, self.context.snapshot_students
        if not context.snapshot_every or record.status != "ok":
            return record
        snapshots = self.run.snapshots(known.key)
        if not snapshots:
            if record.spent.iterations:
                self._say_once(
                    f"{cell.distil.method} ipc {cell.distil.ipc} seed {cell.distil.seed}: no snapshots (its set was made "
                    f"without them, or the method cannot show one); --force makes the set again"
                )
            return record
        path = self.run.curve_path(known.key, record.key)
        few = cell.model_copy(update={"repeats": count})
        try:
            with self._locked(f"curve-{record.key}", wait=False):
                rows = {row["iteration"]: row for row in store.read_rows(path)}
                fresh = False
                for iteration, file in snapshots:
                    with _contained():
                        fingerprint = sets.read_header(file)["fingerprint"]
                        row = rows.get(iteration, {})
                        if (row.get("set"), row.get("students")) == (fingerprint, count):
                            continue
                        distilled = sets.read(file)
                        scored = score(
                            distilled,
                            known.real,
                            few,
                            replace(self._options(), labels=None),  # labels of a snapshot are of no later use
                            quiet=context.quiet,
                            budget=context.budget,
                            base=functools.partial(
                                self._record, few, record.key, known.key, known=known, distilled=distilled
                            ),
                        )
                    values = [s.value for s in scored.scores if s.chosen_by == "last" and not s.task]
                    rows[iteration] = {
                        "iteration": iteration,
                        "seconds": round(distilled.card.cost.wall_s, 4),
                        "top1": sum(values) / len(values),
                        "students": count,
                        "protocol": cell.protocol,
                        "network": network_names.canonical(cell.network),
                        "set": fingerprint,
                    }
                    store.write_rows(path, [rows[i] for i in sorted(rows)])
                    fresh = True
                events = self.run.tensorboard_path(record.key)
                if context.tensorboard and (fresh or not events.exists()):
                    curves.accuracy_events(events, [rows[i] for i in sorted(rows)])
                same = [row for row in rows.values() if row["students"] == count]
                with _contained():
                    record = self._with_best_snapshot(record, same)
        except Busy:
            pass  # another process scores them
        except BudgetUsedUp:
            self._say_once("the time budget ended while snapshots were scored; run again to go on")
        except _Failure as failure:  # the record stands; a snapshot is a picture of the way there
            self._say_once(f"{record.key}: its snapshots have no scores: {failure}")
        return record

    def _with_best_snapshot(self, record: Record, rows: Sequence[dict[str, Any]]) -> Record:
        """The record with the best of the rows of its curve as its one ``best-snapshot`` score, on disk too.

        Of equal ones the earliest.  Another process may have measured the record again since it was read, so that the one
        on disk is changed, unless it is of another set.
        """
        best = min(rows, key=lambda row: (-row["top1"], row["iteration"]))
        score = Score(
            value=best["top1"],
            network=best["network"],
            seed=record.cell.distil.seed,
            chosen_by="best-snapshot",
            chosen_on="test",
            iteration=best["iteration"],
            students=best["students"],
        )
        if score in record.scores:
            return record
        with self._locked(f"record-{record.key}", wait=True):
            stored = self.run.record(record.key)
            if stored is None or (stored.status, stored.set_fingerprint) != ("ok", record.set_fingerprint):
                return record
            others = [s for s in stored.scores if s.chosen_by != "best-snapshot"]
            changed = stored.model_copy(update={"scores": [*others, score]})
            self.run.write_record(changed)
        return changed

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            say(text, self.context.quiet)

    def _options(self) -> EngineOptions:
        context = self.context
        return EngineOptions(
            self.device, context.precision, context.engine, context.memory_limit_mib, self.run.path / FOLDER
        )

    def _record(
        self,
        cell: Cell,
        key: str,
        set_key: str,
        status: Literal["ok", "partial", "failed", "skipped"],
        reason: str = "",
        known: _Known | None = None,
        distilled: DistilledSet | None = None,
    ) -> Record:
        """A record without scores yet."""
        try:
            facts = registry.facts("methods", cell.distil.method).keywords
        except (LookupError, registry.PluginError):  # which is then the reason that the record names
            facts = {}
        return make_record(
            cell,
            key=key,
            set_key=set_key,
            status=status,
            reason=reason,
            family=str(facts.get("family", "")),
            labels=str(facts.get("labels", "hard")),
            settings=known.settings if known else {},
            recipe=known.recipe.name if known else cell.distil.recipe,
            recipe_source=known.recipe.source if known else "",
            notes=recipe_note(known.recipe) if known else {},
            data_fingerprint=known.real.fingerprint if known else "",
            classes=known.real.train.classes if known else 0,
            distilled=distilled,
            provenance=provenance(self.device, self.context.precision),
        )


def recipe_note(recipe: registry.Recipe) -> dict[str, str]:
    """What a reader must know of a recipe as resolved (it was made for another ipc, say), or nothing."""
    note = str(getattr(recipe, "note", ""))
    return {"recipe": note} if note else {}


def card_of(method: str, recipe: registry.Recipe, settings: dict[str, Any]) -> dict[str, Any]:
    """Fields of the card of a set that a method's own part of it does not know."""
    card: dict[str, Any] = {"method": method, "recipe": recipe.name, "settings": settings}
    return card | {"notes": recipe_note(recipe)}


def _label_word(targets: Targets) -> str:
    """As methods say it of themselves: ``hard``, ``soft`` or ``labeller``."""
    if targets.labeller is not None:
        return "labeller"
    return "hard" if targets.soft is None else "soft"


def make_record(cell: Cell, *, distilled: DistilledSet | None = None, **fields: Any) -> Record:
    """A record without scores, with what the protocol and the set say of themselves."""
    version, comparable = "", True
    with contextlib.suppress(LookupError, registry.PluginError):  # then the reason of the record says it
        protocol = registry.get("protocols", cell.protocol)
        version, comparable = str(protocol.version), bool(protocol.comparable)
    if distilled is not None:
        count = byte_count(distilled)
        said = {k: v for k, v in distilled.card.notes.items() if isinstance(v, str) and k != "partial"}
        fields |= {
            "notes": {**fields.get("notes", {}), **said},
            "set_fingerprint": distilled.fingerprint(),
            "labels": _label_word(distilled.targets),  # a setting may decide them
            "whitened": distilled.space is not None and distilled.space.zca is not None,
            "items": codecs.count(distilled),
            "bytes": Bytes(
                images=count.images,
                labels=count.labels,
                codec=count.codec,
                space=count.space,
                program=count.program,
                beside=dict(count.beside),
            ),
            "spent": _spent(distilled.card),
        }
    return Record(
        cell=cell,
        protocol_version=version,
        comparable=comparable,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **fields,
    )


def with_leak(record: Record, leaked: str) -> Record:
    """The record with what :func:`ddbench.leaks.note` said of its set, if it said anything."""
    if not leaked:
        return record
    return record.model_copy(update={"notes": {**record.notes, "leak": leaked}})


def _spent(card: Card) -> Spent:
    cost = card.cost
    return Spent(
        distil_s=cost.wall_s,
        distil_peak_mib=cost.peak_mib,
        distil_device=cost.device,
        teacher_s=cost.teacher_s,
        iterations=cost.iterations,
        iterations_per_s=cost.iterations_per_s,
    )


def _with_labels(count: Bytes, found: Evaluation) -> Bytes:
    """Bytes of a set with those of the labels that its protocol had made, and of the networks that its use then needs."""
    return count.model_copy(
        update={"labels": count.labels + found.label_bytes, "beside": {**count.beside, **found.beside}}
    )


def score(
    distilled: DistilledSet,
    real: RealData,
    cell: Cell,
    options: EngineOptions,
    *,
    base: Callable[..., Record],
    seed: int | None = None,
    quiet: bool = True,
    budget: TimeBudget | None = None,
) -> Record:
    """Train and test the students of a cell on a set; ``base(status, reason)`` gives the record that the scores go into.
    ``seed``: of the students, where it is not the cell's.

    Raises:
        BudgetUsedUp: the time ended; half-trained students are worth nothing.
    """
    budget = budget or TimeBudget()
    protocol = registry.get("protocols", cell.protocol)
    description = f"{cell.distil.method or 'set'} {cell.network}"
    with tqdm(desc=description, unit="ep", disable=quiet or None, leave=False, dynamic_ncols=True) as bar:

        def told(done: int, total: int, *loss: float) -> None:
            bar.total = total
            if loss:
                bar.set_postfix(loss=f"{loss[0]:.3g}", refresh=False)
            bar.update(done - bar.n)
            if done < total and budget.used_up():
                raise BudgetUsedUp("the time budget ended while students were training")

        with Meter(options.device) as meter:
            found = protocol.evaluate(
                distilled,
                real,
                network_names.canonical(cell.network),
                student_generators(cell.distil.seed if seed is None else seed, cell.repeats),
                options,
                progress=told,
            )
    partial = distilled.card.partial
    record = base(
        "partial" if partial else "ok", str(distilled.card.notes.get("partial", "")) if partial else ""
    )
    return record.model_copy(
        update={
            "scores": list(found.scores),
            "metric": found.metric,
            "ece": list(found.ece),
            "class_accuracy": list(found.class_accuracy),
            "rate": found.rate,
            "notes": {**record.notes, **found.notes},
            "labels": found.labels or record.labels,
            "labelled_by": list(found.labelled_by),
            "bytes": record.bytes and _with_labels(record.bytes, found),
            "spent": record.spent.model_copy(
                update={
                    "teacher_s": record.spent.teacher_s + found.teacher_s,
                    "evaluate_s": max(0.0, meter.wall_s - found.compile_s - found.teaching_s),
                    "evaluate_peak_mib": meter.peak_mib,
                    "compile_s": found.compile_s,
                }
            ),
            "provenance": record.provenance.model_copy(update={"engine": found.engine}),
        }
    )


def distil(cell: DistilCell, context: Context) -> tuple[str, Path]:
    """The set of one distil cell, made unless it is there: (key, path).  See :meth:`Session.distil`."""
    return Session(context).distil(cell)


def evaluate(cell: Cell, context: Context) -> Outcome:
    """One cell, with its record.  See :meth:`Session.evaluate`."""
    return Session(context).evaluate(cell)


def check(context: Context) -> torch.device:
    """The device of a context, after a look at its settings, before anything runs.

    Raises:
        ValueError: a device that is not there, an unknown precision or engine path, a wrong number of snapshots.
        ImportError: event files are asked for without the package that writes them.
    """
    if context.snapshot_every < 0:
        raise ValueError(
            f"--snapshot-every is {context.snapshot_every}; expected a number of iterations, or 0 for no snapshots"
        )
    if context.snapshot_students < 1:
        raise ValueError(f"--snapshot-students is {context.snapshot_students}; expected at least 1")
    if context.tensorboard:
        curves.check_tensorboard()
    device = pick_device(context.device)
    EngineOptions(device, context.precision, context.engine, context.memory_limit_mib)
    return device


def validate(cells: Sequence[Cell]) -> list[str]:
    """Settings and recipes of every method of a plan, before anything runs.  A plug-in that does not load is no matter of
    this: it fails as a cell.

    Returns:
        what must be known of the recipes, one line a (method, data set, ipc).

    Raises:
        ValueError, LookupError: a setting of the wrong type or out of range, or an unknown field.
    """
    seen = set()
    notes: dict[str, None] = {}
    for cell in cells:
        d = cell.distil
        key = (d.method, d.recipe, d.dataset, d.ipc, canonical(d.settings))
        if key not in seen:
            seen.add(key)
            with contextlib.suppress(registry.PluginError):
                recipe = registry.resolve_recipe(d.method, d.recipe, d.dataset, d.ipc)
                try:
                    registry.make(d.method, {**recipe.settings, **d.settings})
                except (ValueError, LookupError, registry.PluginError):
                    raise
                except Exception as error:  # a plug-in's own trouble: its cell will fail and say so
                    _log.debug("%s cannot be made: %s", d.method, error)
                for note in recipe_note(recipe).values():
                    notes[f"{d.method} {d.dataset} ipc {d.ipc}: {note}"] = None
    return list(notes)
