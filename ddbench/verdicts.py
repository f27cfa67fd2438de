"""A published number beside what records measured: gap, standard errors, verdict.  No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ddbench.claims import Claim
from ddbench.nets import names as networks_
from ddbench.protocols.rows import ROWS
from ddbench.records import Record

Verdict = Literal["reproduced", "below", "above", "not comparable", "not run"]
WITHIN_POINTS = 1.0
"""A gap of so many points, or of ``WITHIN_ERRORS`` combined standard errors, counts as reproduced."""
WITHIN_ERRORS = 2.0
AUTHORS = ("authors", "released", "paper")
"""Recipes that are the authors' own."""


@dataclass(frozen=True)
class Standing:
    """A claim and what stands beside it.  Accuracies, deviations, errors and gaps in percent points."""

    claim: Claim
    verdict: Verdict
    reason: str = ""
    """Why it is not comparable, or was not run; notes on one that was."""
    mean: float | None = None
    std: float | None = None
    """Population deviation over students; None for a single one."""
    n: int = 0
    """Students."""
    sets: int = 0
    """Distillations."""
    error: float | None = None
    """Standard error of the measured mean; None where a single student stands for it."""
    gap: float | None = None
    """Measured less published."""
    gap_errors: float | None = None
    """The gap in combined standard errors; None where neither side has one."""
    recipe: str = ""
    seconds: float = 0.0
    """Of distillation, teachers and evaluation, over all records."""
    peak_mib: float = 0.0
    records: tuple[str, ...] = ()
    """Keys of the records behind it."""
    revision: str = ""
    """Code revisions of these records."""


def fits(claim: Claim, record: Record) -> bool:
    """Whether a record is of the claim's method, data, images a class, protocol and network, with scores."""
    cell, distil = record.cell, record.cell.distil
    if not claim.ours or record.status not in ("ok", "partial") or not _values(claim, record)[0]:
        return False
    named = (distil.method, distil.dataset.partition("?")[0], distil.ipc, cell.protocol)
    if named != (claim.method, claim.dataset, claim.ipc, claim.protocol):
        return False
    return networks_.canonical(cell.network) == networks_.canonical(claim.network)


def authors(record: Record) -> bool:
    """Whether a record is of a recipe of the authors, or of a method that has none to choose, without settings of one's own."""
    own = record.recipe in AUTHORS or (record.recipe == "defaults" and not record.recipe_source)
    return own and not record.cell.distil.settings


def _kind(record: Record) -> tuple[str, str]:
    return record.recipe, str(sorted(record.cell.distil.settings.items()))


def _values(claim: Claim, record: Record) -> tuple[list[float], str]:
    """Values (percent) of a record that are chosen as the claim's was, where it has such, and what they are."""
    for chosen in (claim.chosen, "last"):
        found = [
            100 * s.value
            for s in record.scores
            if s.chosen_by == chosen and s.metric == claim.metric and not s.task
        ]
        if found:
            return found, chosen
    return [], ""


def error_of_mean(sets: Sequence[Sequence[float]]) -> float | None:
    """Standard error of a mean over students of several distillations, each a list of values: from the distillations'
    means where there are two or more, else from the students of the one; None for a single value."""
    values = [sum(s) / len(s) for s in sets] if len(sets) > 1 else list(sets[0])
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))


def stand(claim: Claim, records: Iterable[Record]) -> Standing:
    """What records say to a claim.

    Records of the authors' recipes count; where only others fit, they are shown as not comparable.  Of several records of
    one set (measured again) the newest stands.  The published standard error is its deviation over the root of the number of
    runs that it states, else of the protocol's repeats.
    """
    fitting = [r for r in records if fits(claim, r)]
    if not fitting:
        return Standing(claim, "not run", _why_not_run(claim))
    recipes = [r for r in fitting if authors(r)]
    newest: dict[tuple[tuple[str, str], int], Record] = {}
    for r in sorted(recipes or fitting, key=lambda r: r.created):
        newest[_kind(r), r.cell.distil.seed] = r
    first = min(kind for kind, _ in newest)
    among = [r for (kind, _), r in newest.items() if kind == first]
    sets = [_values(claim, r)[0] for r in among]
    values = [v for s in sets for v in s]
    mean = sum(values) / len(values)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values)) if len(values) > 1 else None
    error = error_of_mean(sets)
    gap = mean - claim.value
    published = None
    if claim.std is not None:
        published = claim.std / math.sqrt(claim.n or ROWS[claim.protocol].plan.repeats)
    combined = math.hypot(error or 0.0, published or 0.0) or None
    reason = _incomparable(claim, among, bool(recipes))
    within = abs(gap) <= max(WITHIN_POINTS, WITHIN_ERRORS * (combined or 0.0))
    verdict: Verdict = (
        "not comparable" if reason else "reproduced" if within else "below" if gap < 0 else "above"
    )
    return Standing(
        claim,
        verdict,
        reason,
        mean,
        std,
        len(values),
        len(among),
        error,
        gap,
        None if combined is None else gap / combined,
        among[0].recipe,
        sum(r.spent.distil_s + r.spent.teacher_s + r.spent.evaluate_s for r in among),
        max(max(r.spent.distil_peak_mib, r.spent.evaluate_peak_mib) for r in among),
        tuple(r.key for r in among),
        " ".join(sorted({r.provenance.revision[:9] for r in among} - {""})),
    )


def standings(claims: Iterable[Claim], records: Iterable[Record]) -> list[Standing]:
    """:func:`stand` for many, in the order of the claims."""
    by_cell: dict[tuple[str, str], list[Record]] = {}
    for r in records:
        by_cell.setdefault((r.cell.distil.method, r.cell.distil.dataset.partition("?")[0]), []).append(r)
    return [stand(c, by_cell.get((c.method, c.dataset), ())) for c in claims]


def _why_not_run(claim: Claim) -> str:
    if claim.external:
        return f"{', '.join(claim.external)} not in ddbench"
    if claim.task or claim.metric != "top1":
        return f"{claim.task or claim.metric} is not measured by ddbench"
    return ""


def _incomparable(claim: Claim, records: Sequence[Record], own: bool) -> str:
    """Why what was measured is no test of the claim, or ""."""
    if any(r.status == "partial" for r in records):
        return f"partial run: {next(r.reason for r in records if r.status == 'partial')}"
    if not own:
        return f"recipe {records[0].recipe!r} is not the authors'"
    how = _values(claim, records[0])[1]
    if claim.chosen in ("best-epoch", "best-snapshot") and how != claim.chosen:
        return f"the published number is of the {claim.chosen.replace('-', ' ')}, chosen on test data; measured is the last"
    whitened = {bool(r.whitened) for r in records if r.whitened is not None}
    if claim.zca is not None and whitened and whitened != {claim.zca}:
        word = {True: "whitened images (ZCA)", False: "plain images"}
        return f"other preprocessing: published on {word[claim.zca]}, measured on {word[whitened.pop()]}"
    return ""
