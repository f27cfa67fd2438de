"""Settings compared on training images that are held out, never on test images.

A part of each class is held out, a set is distilled from the rest under each combination of values, students of the protocol
are trained on it and tested on what was held out.  The best mean wins (of equal ones the first), and the normal cells run with
it, on all training images.  What the comparison made stands in ``sweeps/`` of the run folder, so that one that was killed goes
on; its records are no rows of boards.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddbench import plan, registry, store
from ddbench.contract import RealData
from ddbench.estimate import SWEEPS, choice_path
from ddbench.nets import names as network_names
from ddbench.plan import Swept, check_holdout, default_networks, known_side, swept
from ddbench.records import Cell, DistilCell, Record
from ddbench.runner import Context, Outcome, Session, validate
from ddbench.seeding import derive
from ddbench.task import BudgetUsedUp, RunTask

FOLDER = SWEEPS
HOLDOUT = plan.HOLDOUT
"""Share of each class that is held out."""


class SweepError(RuntimeError):
    """No combination of values gave a set that could be scored; the message has the reasons."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What was compared, and what was chosen."""

    candidates: tuple[Mapping[str, Any], ...]
    accuracies: tuple[float | None, ...]
    """Of each on held-out images, mean over students, fractions; None: it failed."""
    reasons: tuple[str, ...]
    """Why it failed, else empty."""
    fraction: float
    kept: int
    """Training images that the sets were distilled from."""
    held: int
    protocol: str
    network: str
    students: int
    seconds: float
    """Of all that the comparison took: distillation, teachers, students."""

    @property
    def index(self) -> int:
        """Of the chosen candidate."""
        known = [(-a, i) for i, a in enumerate(self.accuracies) if a is not None]
        return min(known)[1]

    @property
    def settings(self) -> dict[str, Any]:
        """The chosen values."""
        return dict(self.candidates[self.index])

    def __str__(self) -> str:
        def name(candidate: Mapping[str, Any]) -> str:
            return " ".join(f"{k}={v}" for k, v in candidate.items())

        shown = ", ".join(
            f"{name(c)} {'failed' if a is None else f'{100 * a:.1f} %'}"
            for c, a in zip(self.candidates, self.accuracies, strict=True)
        )
        return (
            f"{name(self.settings)} chosen on {self.held:,} held-out training images ({100 * self.fraction:g} % of a class), "
            f"distilled from the other {self.kept:,}, under {self.protocol} with {self.network}, students {self.students}: "
            f"{shown}; compared in {self.seconds:.1f} s, which costs elsewhere leave out"
        )


def document(choice: Choice) -> dict[str, Any]:
    """A choice as plain data, for scripts."""
    return {
        "settings": choice.settings,
        "candidates": [
            {"settings": dict(c), "accuracy": a, "reason": r}
            for c, a, r in zip(choice.candidates, choice.accuracies, choice.reasons, strict=True)
        ],
        "holdout": choice.fraction,
        "held_out_images": choice.held,
        "protocol": choice.protocol,
        "network": choice.network,
        "students": choice.students,
        "seconds": choice.seconds,
    }


def split(real: RealData, fraction: float, seed: int) -> RealData:
    """Training images in two, class by class; what is held out stands in the place of the test images, which are not read.

    Raises:
        ValueError: no such share, or a class with a single image.
    """
    check_holdout(fraction)
    return RealData(*RunTask(real.train, 1, derive(seed, "sweep")).holdout(fraction))


def choose(
    group: Swept,
    context: Context,
    fraction: float = HOLDOUT,
    real: RealData | None = None,
    told: Callable[[Outcome], None] | None = None,
) -> Choice:
    """Compare the candidates of one group of cells.  What was done before is read.

    Args:
        group: see ``plan.swept``; its first cell gives the seed, of which those of the split and of the sets are derived.
        context: of the run; the comparison has a folder of its own inside its run folder.
        fraction: share of each class that is held out.
        real: data of the caller's own; None: loaded by name.
        told: called with the outcome of each candidate.

    Raises:
        SweepError: none gave a set that could be scored.
        BudgetUsedUp: the time ended first; the next call goes on.
        ValueError, LookupError: see :func:`split` and :meth:`ddbench.runner.Session.real`.
    """
    first = group.cells[0]
    seed = first.distil.seed
    inner = replace(context, run=context.run / FOLDER, snapshot_every=0, tensorboard=False)
    whole = real if real is not None else Session(context).real(first.distil.dataset)
    parted = split(whole, fraction, seed)
    session = Session(inner, parted)
    accuracies: list[float | None] = []
    reasons: list[str] = []
    spent: dict[str, float] = {}
    for cell in group.trials(derive(seed, "sweep") % 2**31):
        outcome = session.evaluate(cell)
        if told is not None:
            told(outcome)
        if outcome.status == "left":
            raise BudgetUsedUp("the time budget ended while settings were compared; run again to go on")
        record = outcome.record
        values = [] if record is None else _values(record)
        accuracies.append(sum(values) / len(values) if values else None)
        reasons.append("" if values else outcome.reason)
        if record is not None:
            spent[f"set {record.set_key}"] = record.spent.distil_s + record.spent.teacher_s
            spent[f"record {record.key}"] = record.spent.evaluate_s
    session.run.clear_locks()
    if all(a is None for a in accuracies):
        why = "\n".join(f"  {c}: {r}" for c, r in zip(group.candidates, reasons, strict=True))
        raise SweepError(
            f"{first.distil.method} {first.distil.dataset} ipc {first.distil.ipc}: no value could be scored:\n{why}"
        )
    made = Choice(
        group.candidates,
        tuple(accuracies),
        tuple(reasons),
        fraction,
        len(parted.train),
        len(parted.test),
        first.protocol,
        first.network,
        first.repeats,
        sum(spent.values()),
    )
    if real is None:  # a dry run knows data by their names
        store.write_json(choice_path(context.run, group, fraction), document(made))
    return made


def _values(record: Record) -> list[float]:
    """What boards rank."""
    return [
        s.value for s in record.scores if s.metric == record.metric and s.chosen_by == "last" and not s.task
    ]


def marked(record: Record, choice: Choice) -> Record:
    """A record of the chosen settings that says so: a note, and scores whose settings were chosen on a holdout.

    ``Score.chosen_by`` says which epoch a score is of, and stays ``last``, so that boards rank it; ``chosen_on`` says which
    data had a say in it.
    """
    scores = [
        s.model_copy(update={"chosen_on": "holdout"}) if s.chosen_on == "none" else s for s in record.scores
    ]
    return record.model_copy(update={"scores": scores, "notes": {**record.notes, "sweep": str(choice)}})


def mark(
    outcomes: Sequence[Outcome], choices: Mapping[str, Choice], folder: store.RunFolder
) -> list[Outcome]:
    """The outcomes with their records marked, on disk too.

    Args:
        choices: by the JSON of the cells that were run with them.
    """
    found = []
    for outcome in outcomes:
        choice = choices.get(outcome.cell.model_dump_json())
        if choice is not None and outcome.record is not None and outcome.record.scores:
            record = marked(outcome.record, choice)
            if record != outcome.record:
                folder.write_record(record)
            outcome = replace(outcome, record=record)
        found.append(outcome)
    return found


def decide(
    groups: Sequence[Swept],
    context: Context,
    fraction: float = HOLDOUT,
    real: RealData | None = None,
    told: Callable[[Outcome], None] | None = None,
    chosen: Callable[[Choice], None] | None = None,
) -> tuple[list[Cell], dict[str, Choice], list[str]]:
    """Every group's choice.

    Returns:
        the cells to run; the choice that each was made with, by its JSON; what kept groups from choosing, whose cells are
        left out.

    Raises:
        BudgetUsedUp: the time ended first.
    """
    check_holdout(fraction)
    cells: list[Cell] = []
    choices: dict[str, Choice] = {}
    failures: list[str] = []
    for group in groups:
        try:
            choice = choose(group, context, fraction, real, told)
        except SweepError as error:
            failures.append(str(error))
            continue
        if chosen is not None:
            chosen(choice)
        for cell in group.chosen(choice.settings):
            cells.append(cell)
            choices[cell.model_dump_json()] = choice
    return cells, choices, failures


def sweep(
    method: str,
    dataset: str | RealData,
    ipc: int,
    values: Mapping[str, Sequence[Any]],
    *,
    protocol: str = "quick",
    network: str | None = None,
    repeats: int | None = None,
    recipe: str = "auto",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    holdout: float = HOLDOUT,
    run: str | os.PathLike[str] | None = None,
    device: str = "auto",
    data_root: str | os.PathLike[str] | None = None,
    memory_limit_mib: float | None = None,
    quiet: bool = False,
) -> Choice:
    """Choose settings of a method on a part of the training images; ``.settings`` of what comes back goes to ``distill``.

    Args:
        values: setting -> values to compare; all combinations are tried.
        protocol: how sets are scored.
        network: of the students; None: the protocol's own.
        repeats: students a combination; None: the protocol's own.
        settings: fields of the method that override the recipe in all of them.
        holdout: share of each class that is held out.
        run: run folder, where what was compared is kept and found again; None: nothing is kept.
        method, dataset, ipc, recipe, seed, device, data_root, memory_limit_mib: see :func:`ddbench.api.distill`.

    Raises:
        LookupError: unknown names; the message has the nearest.
        ValueError: no values, no share, or a protocol under which there is nothing to choose by.
        SweepError: no combination gave a set that could be scored.

    Example:
        >>> best = ddbench.api.sweep("dm", "digits", 1, {"image_lr": [0.1, 1, 10]})  # doctest: +SKIP
    """
    if not values or not all(values.values()):
        raise ValueError(f"values are {dict(values)!r}; expected settings with values to compare")
    name = dataset if isinstance(dataset, str) else dataset.name
    if protocol not in registry.names("protocols"):
        raise registry.unknown("protocols", protocol)
    if network is None:
        side = None if isinstance(dataset, str) else dataset.train.shape[-1]
        network = default_networks(protocol, side if side is not None else known_side(name))[0]
    cell = Cell(
        distil=DistilCell(
            method=method, recipe=recipe, settings=dict(settings or {}), dataset=name, ipc=ipc, seed=seed
        ),
        protocol=protocol,
        network=network_names.canonical(network),
        repeats=repeats or registry.facts("protocols", protocol).keywords["plan"].repeats,
    )
    (group,) = swept([cell], values)
    validate(group.trials(seed))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory()) if run is None else run
        context = Context(
            run=Path(folder),
            device=device,
            memory_limit_mib=memory_limit_mib,
            data_root=None if data_root is None else Path(data_root),
            quiet=quiet,
        )
        return choose(group, context, holdout, dataset if isinstance(dataset, RealData) else None)
