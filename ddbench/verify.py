"""A record's cell run again and compared: set, scores, bytes.

The repeat has the settings that the record names (not those that a recipe has by now), its data set, ipc, seed, protocol,
network, number of students, precision, engine path, and, as far as the machine allows, its device and threads.

Verdicts:

* ``identical``: the set has the same fingerprint (where it was made again) and every score is equal to the last bit.
* ``agrees``: the means lie within 0.5 points or two combined standard errors of each other (each side's from its students).
* ``differs``: they do not, or the set needs other bytes than the record says.
* ``not repeatable``: no repeat would be of the same thing: other data, another version of the protocol, a set cut short by a
  time budget, a method that is not there or fails; or the scores differ and the code of the method is another by now (its
  hash is in the key of the set).

Other versions, devices and thread counts are no reason for a verdict, since scores then still agree within their errors;
they are listed as the expected causes of other bits.
"""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from ddbench import codecs, compare, leaks, registry, runner, sets, store
from ddbench.contract import DistilledSet, RealData
from ddbench.nets import names as network_names
from ddbench.records import Cell, Provenance, Record, Score
from ddbench.task import pick_device
from ddbench.train.engine import PATHS, EngineOptions
from ddbench.train.labels import beside as labels_beside

RECORD = "expected a record: the JSON file that ddbench run writes as RUNS/records/KEY.json; if it was sent, ask for it again"
Verdict = Literal["identical", "agrees", "differs", "not repeatable"]
WITHIN_POINTS = 0.5
WITHIN_ERRORS = 2.0
RULE = f"within {WITHIN_POINTS:g} points or {WITHIN_ERRORS:g} combined standard errors"
_DECIDES = ("torch", "torchvision", "device", "device_name", "threads", "engine", "platform", "python")
"""Fields of the provenance that may change bits."""


@dataclass(frozen=True)
class Verification:
    """What a repeat of a record came to.  Means, gaps and errors in percent points."""

    key: str
    verdict: Verdict
    reason: str = ""
    """Why it is not repeatable, or what differs."""
    repeated: Literal["distillation and evaluation", "evaluation", "nothing"] = "nothing"
    set_equal: bool | None = None
    """Whether the fingerprints are equal; None where no set was made or read."""
    scores_equal: bool | None = None
    metric: str = "top1"
    students: int = 0
    recorded: float | None = None
    now: float | None = None
    gap: float | None = None
    """Now less recorded."""
    gap_errors: float | None = None
    """The gap in combined standard errors; None with one student."""
    causes: tuple[str, ...] = ()
    """What is other than it was and may change bits."""
    remarks: tuple[str, ...] = ()
    seconds: float = 0.0
    recorded_seconds: float = 0.0
    """Of what was repeated."""
    record: Record | None = field(default=None, repr=False)
    """Of the repeat."""

    @property
    def exit_status(self) -> int:
        """0: identical or agrees; 1: differs; 2: not repeatable."""
        return {"identical": 0, "agrees": 0, "differs": 1, "not repeatable": 2}[self.verdict]

    def lines(self) -> dict[str, str]:
        """The report, a label and a text a line."""
        found = {"record": self.key}
        if self.repeated != "nothing":
            found["repeated"] = (
                f"{self.repeated}, in {self.seconds:.1f} s (recorded: {self.recorded_seconds:.1f} s)"
            )
        if self.set_equal is not None:
            found["set"] = "equal (fingerprint)" if self.set_equal else "another one (fingerprint)"
        if self.recorded is not None and self.now is not None:
            text = f"{self.metric} of {self.students} student{'s' * (self.students != 1)}: recorded {self.recorded:.2f} %, "
            text += f"now {self.now:.2f} %"
            if self.scores_equal:
                text += "; equal to the last bit"
            else:
                text += f"; {self.gap:+.2f} points"
                text += (
                    "" if self.gap_errors is None else f", {self.gap_errors:+.1f} combined standard errors"
                )
            found["scores"] = text
        for i, remark in enumerate(self.remarks):
            found["remark" if not i else f"remark {i + 1}"] = remark
        if self.causes:
            found["other than recorded"] = "; ".join(self.causes)
        why = f": {self.reason}" if self.reason else f" ({RULE})" if self.verdict == "agrees" else ""
        found["verdict"] = self.verdict + why
        return found


# ------------------------------------------------------------------------------------------------ what is asked for


def find(name: str, runs: Sequence[Path]) -> tuple[Record, store.RunFolder | None]:
    """A record by its file, or by its key (or a beginning that only it has) in run folders.

    Returns:
        the record, and the run folder that it lies in, if it lies in one.

    Raises:
        LookupError: no such record, or several.
        ddbench.store.DamagedError: it cannot be read.
    """
    path = Path(name)
    if path.is_file():
        folder = path.resolve().parent
        inside = folder.name == "records"
        return store.read_record(path, RECORD), store.RunFolder(folder.parent) if inside else None
    fitting = sorted(
        p
        for run in runs
        for p in (run / "records").glob("*.json")
        if p.stem.startswith(name) and not p.name.startswith(".")
    )
    exact = [p for p in fitting if p.stem == name]
    fitting = exact or fitting
    where = ", ".join(map(str, runs))
    if not fitting and path.is_dir():
        raise LookupError(
            f"{name} is a folder; expected the file of a record, such as {path / 'records' / 'KEY.json'}, or the beginning of "
            f"a key with --runs {path}"
        )
    if not fitting:
        raise LookupError(
            f"no record {name!r}: neither a file nor the beginning of a key in {where} (see: ls {runs[0]}/records)"
        )
    if len(fitting) > 1:
        raise LookupError(
            f"{len(fitting)} records begin with {name!r} in {where}: {', '.join(p.stem for p in fitting[:3])}"
            f"{', ...' if len(fitting) > 3 else ''}; give more of the key"
        )
    return store.read_record(fitting[0], RECORD), store.RunFolder(fitting[0].parent.parent)


def _seed(record: Record) -> int:
    """Of the students: a set that was handed to ``ddbench evaluate`` may have a seed other than theirs."""
    given = re.fullmatch(r"given-.*-(\d+)", record.key)
    return int(given[1]) if given else record.cell.distil.seed


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many threads of torch as recorded (0: not known)."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def verify(
    record: Record,
    *,
    folder: store.RunFolder | None = None,
    set_file: Path | None = None,
    only_evaluate: bool = False,
    keep: Path | None = None,
    data_root: Path | None = None,
    quiet: bool = False,
) -> Verification:
    """Run a record's cell again and compare.

    Args:
        folder: the run folder that the record lies in, where its set is looked for.
        set_file: the record's set: only the evaluation is repeated.
        only_evaluate: take the set from ``folder``.
        keep: run folder of the repeat, in which one that was stopped goes on; None: a temporary one.

    Raises:
        ValueError: a record without scores; ``keep`` is the record's own folder.
        FileNotFoundError: no set, or no data, or no way to download them.
        ddbench.store.DamagedError: the set or the data cannot be used.
    """
    if record.status not in ("ok", "partial") or not _compared(record.scores):
        raise ValueError(
            f"record {record.key} has no scores ({record.status}: {record.reason}); expected one of a finished cell"
        )
    path = set_file
    if only_evaluate and path is None:
        path = None if folder is None else folder.set_path(record.set_key)
        if path is None or not path.is_file():
            raise FileNotFoundError(
                f"the set of record {record.key} is not in {'its run folder' if folder is None else folder.path} "
                f"({record.set_key}.safetensors); name its file with --set-file, or leave out --only-evaluate"
            )
    if keep is not None and folder is not None and keep.resolve() == folder.path.resolve():
        raise ValueError(f"{keep} holds the record itself, so nothing would run; expected another folder")
    reason = _not_repeatable(record, path is not None)
    if reason:
        return Verification(record.key, "not repeatable", reason)
    with contextlib.ExitStack() as stack:
        run = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ddbench-verify-")))
        stack.enter_context(_threads(record.provenance.threads))
        context = runner.Context(
            run=run,
            device=_device(record),
            precision=record.provenance.precision,
            engine=record.provenance.engine if record.provenance.engine in PATHS else "auto",
            data_root=data_root,
            quiet=quiet,
            plugins=tuple(registry.added_files()),
        )
        session = runner.Session(context)
        real = session.real(record.cell.distil.dataset)
        if record.data_fingerprint != real.fingerprint:
            return Verification(
                record.key,
                "not repeatable",
                f"the data differ: {real.name} has fingerprint {real.fingerprint} here, the record "
                f"{record.data_fingerprint or 'none'}",
            )
        begun = time.perf_counter()
        if path is None:
            again = _whole(record, session)
        else:
            again = _evaluated(record, session, real, path)
        if isinstance(again, str):
            return Verification(record.key, "not repeatable", again)
        return _judged(record, again, path is not None, time.perf_counter() - begun)


def _not_repeatable(record: Record, with_set: bool) -> str:
    """What can be said before anything runs, or ""."""
    cell = record.cell
    try:
        version = str(registry.facts("protocols", cell.protocol).keywords["version"])
    except LookupError as error:
        return str(error)
    had, has = (".".join(v.split(".")[:2]) for v in (record.protocol_version, version))
    if had != has:
        return f"protocol {cell.protocol} is {has} here and {had or 'of no version'} in the record: scores are not comparable"
    if with_set:
        return ""
    if record.status == "partial":
        return f"the set was cut short by the clock ({record.reason}); its evaluation can be repeated: --set-file"
    try:
        registry.facts("methods", cell.distil.method)
    except (LookupError, registry.PluginError) as error:
        return f"{error}; with --set-file the evaluation can be repeated, with --plugin all of it"
    if record.key.startswith("given-"):
        return "its set was handed to ddbench evaluate, not made by this cell; with --set-file the evaluation can be repeated"
    return ""


def _device(record: Record) -> str:
    """The recorded one where it is here."""
    wanted = record.provenance.device or "auto"
    try:
        pick_device(wanted)
    except ValueError:
        return "auto"
    return wanted


# ------------------------------------------------------------------------------------------------ the repeat


def _whole(record: Record, session: runner.Session) -> Record | str:
    """The record of a repeat of everything, or why there is none."""
    # recipes may have changed since; the settings of the record are complete
    distil = record.cell.distil.model_copy(update={"recipe": "defaults", "settings": dict(record.settings)})
    outcome = session.evaluate(record.cell.model_copy(update={"distil": distil}))
    if outcome.record is None or not _compared(outcome.record.scores):
        return f"{outcome.status}: {outcome.reason}"
    return outcome.record


def _evaluated(record: Record, session: runner.Session, real: RealData, path: Path) -> Record | str:
    """The record of the evaluation of its set, or why there is none."""
    distilled = sets.read(path)
    if distilled.fingerprint() != record.set_fingerprint:
        return (
            f"{path} is another set: its fingerprint is {distilled.fingerprint()}, the record's "
            f"{record.set_fingerprint or 'not known'}"
        )
    codecs.check(distilled, real.train)
    cell = record.cell
    network = network_names.canonical(cell.network)
    reason = registry.get("protocols", cell.protocol).accepts(distilled, network, real.name)
    if reason or (reason := network_names.why_not(network, real.train.shape) or ""):
        return str(reason)
    context = session.context
    options = EngineOptions(
        session.device, context.precision, context.engine, context.memory_limit_mib, _answers(distilled, path)
    )

    def base(status: Literal["ok", "partial"], reason: str = "", cell: Cell = cell) -> Record:
        return runner.make_record(
            cell,
            key=record.key,
            set_key=record.set_key,
            status=status,
            reason=reason,
            family=record.family,
            settings=record.settings,
            recipe=record.recipe,
            data_fingerprint=real.fingerprint,
            classes=real.train.classes,
            distilled=distilled,
            provenance=runner.provenance(session.device, context.precision),
        )

    scored = runner.score(
        distilled, real, cell, options, base=base, seed=_seed(record), quiet=session.context.quiet
    )
    return runner.with_leak(scored, leaks.note(distilled, real))


def _answers(distilled: DistilledSet, path: Path) -> Path | None:
    """Folder of stored answers where no network could be asked again; else answers are made anew."""
    labeller = distilled.targets.labeller
    return labels_beside(path) if labeller is not None and not labeller.networks else None


# ------------------------------------------------------------------------------------------------ the verdict


def _compared(scores: Sequence[Score]) -> list[Score]:
    """All but those of snapshots, which are no part of a cell."""
    return [s for s in scores if s.chosen_by != "best-snapshot"]


def _values(record: Record) -> list[float]:
    return compare.values(record) or [100 * s.value for s in _compared(record.scores)]


def _mean_error(values: Sequence[float]) -> tuple[float, float | None]:
    return math.fsum(values) / len(values), compare.standard_error(values)


def _measured(scores: Sequence[Score]) -> list[tuple[object, ...]]:
    """What was measured.  Not ``chosen_on``: a sweep says there how settings were found, and a repeat is given them."""
    return [(s.metric, s.value, s.network, s.seed, s.task, s.chosen_by) for s in scores]


def _causes(record: Record, again: Record, made: bool) -> list[str]:
    before, now = record.provenance, again.provenance
    found = []
    if made and record.set_key != again.set_key:
        found.append("code of the method or of modules that it uses (hash in the key)")
    found += [
        f"{name} {getattr(before, name) or 'unknown'} -> {getattr(now, name)}"
        for name in (*_DECIDES, "ddbench")
        if name in Provenance.model_fields and getattr(before, name) != getattr(now, name)
    ]
    return found


def _judged(record: Record, again: Record, only_evaluated: bool, seconds: float) -> Verification:
    was, now = _compared(record.scores), _compared(again.scores)
    scores_equal = _measured(was) == _measured(now)
    set_equal = bool(record.set_fingerprint) and record.set_fingerprint == again.set_fingerprint
    (mean, error), (mean_now, error_now) = _mean_error(_values(record)), _mean_error(_values(again))
    gap = mean_now - mean
    combined = math.hypot(error or 0.0, error_now or 0.0) or None
    remarks = []
    if [s.seed for s in was] != [s.seed for s in now]:
        remarks.append("the students of the record are not those of its seed")
    if len(was) != len(now):
        remarks.append(f"the record has {len(was)} scores, the repeat {len(now)}")
    if leak := again.notes.get("leak", ""):
        remarks.append(leak)
    causes = _causes(record, again, not only_evaluated)
    code = not only_evaluated and record.set_key != again.set_key
    within = abs(gap) <= max(WITHIN_POINTS, WITHIN_ERRORS * (combined or 0.0))
    sizes = [None if r.bytes is None else r.bytes.total for r in (record, again)]
    verdict: Verdict
    reason = ""
    if scores_equal and set_equal:
        verdict = "identical"
    elif within and record.metric == again.metric:
        verdict = "agrees"
    else:
        verdict = "not repeatable" if code else "differs"
        reason = f"the means are not {RULE}"
        if code:
            reason = f"the code that made the set has changed since, and {reason}"
        elif combined is None:
            reason += " (one student has no standard error: more repeats say more)"
    if sizes[0] is not None and sizes[0] != sizes[1]:
        verdict = "not repeatable" if code else "differs"
        reason = f"the record says {sizes[0]:,} bytes, the set has {sizes[1]:,}"
    spent = record.spent
    return Verification(
        record.key,
        verdict,
        reason,
        "evaluation" if only_evaluated else "distillation and evaluation",
        set_equal,
        scores_equal,
        record.metric,
        len(_values(record)),
        mean,
        mean_now,
        gap,
        None if combined is None else gap / combined,
        tuple(causes),
        tuple(remarks),
        seconds,
        spent.evaluate_s + spent.compile_s + (0.0 if only_evaluated else spent.distil_s + spent.teacher_s),
        again,
    )
