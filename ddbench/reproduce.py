"""A published number measured under its authors' recipe and protocol; the table of all of them.  No torch.

:func:`choose` finds the claim, :func:`cells` what is to be run for it, :func:`report` what came out;
``ddbench/commands/reproduce.py`` runs the cells between the two.  The rules of the verdicts: docs/reproduce.md.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddbench import plan, registry, verdicts
from ddbench.claims import Claim
from ddbench.protocols.rows import ROWS
from ddbench.records import Cell, Record
from ddbench.store import write_text
from ddbench.verdicts import VERDICTS, Standing, base

SEEDS = 3
"""Distillations where no other count is asked for: the fewest whose spread says something."""

# ------------------------------------------------------------------------------------------------ which claim


def candidates(claims: Iterable[Claim], method: str, dataset: str, ipc: int) -> list[Claim]:
    """Claims of one cell, the best first: those that ddbench can measure; of this very form of the data; not quoted; of the
    method's own paper; without a caveat; whose whitening a recipe of the authors has; whose epoch the protocol picks, too; on
    the protocol's first network; with a deviation; then in their order."""
    own = verdicts.own_papers(method)

    def order(claim: Claim) -> tuple[bool, ...]:
        row = ROWS.get(claim.protocol)
        return (
            not claim.ours,
            claim.dataset != dataset,
            claim.quoted,
            claim.paper not in own,
            bool(claim.caveat),
            not _recipe_fits(claim),
            not _epoch_fits(claim),
            row is None or verdicts.network(row.plan.networks[0], dataset) != claim.network,
            claim.std is None,
        )

    found = [
        c
        for c in claims
        if (c.method, base(c.dataset), c.ipc) == (method, base(dataset), ipc)
        and ("?" not in dataset or c.dataset == dataset)
    ]
    return sorted(found, key=order)


def choose(
    claims: Iterable[Claim], method: str, dataset: str, ipc: int, claim_id: str | None = None
) -> Claim:
    """The claim of a cell that is to be reproduced: the first of :func:`candidates`, or the one of this id.

    Raises:
        LookupError: there is none that could be measured; the message names what exists.
    """
    claims = list(claims)
    found = candidates(claims, method, dataset, ipc)
    if claim_id is not None:
        return _named(claims, found, claim_id, f"{method} on {dataset} at ipc {ipc}")
    if not found:
        raise LookupError(
            f"nothing is published of {method} on {dataset} at ipc {ipc}; {_what_is(claims, method, dataset)}"
        )
    if not found[0].ours:
        reasons = "; ".join(f"{c.id} ({_why_external(c)})" for c in found[:5])
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        raise LookupError(
            f"no published number of {method} on {dataset} at ipc {ipc} can be measured here: {reasons}{more}"
        )
    return found[0]


def _named(claims: Sequence[Claim], found: Sequence[Claim], claim_id: str, cell: str) -> Claim:
    mine = next((c for c in claims if c.id == claim_id), None)
    if mine is None:
        ids = ", ".join(c.id for c in found) or "none"
        raise LookupError(f"no claim {claim_id!r}; those of {cell}: {ids} (see: ddbench claims)")
    if mine not in found:
        raise LookupError(
            f"claim {claim_id} is of {mine.method} on {mine.dataset} at ipc {mine.ipc}, not of {cell}"
        )
    if not mine.ours:
        raise LookupError(f"claim {claim_id} can't be measured here: {_why_external(mine)}")
    return mine


def _why_external(claim: Claim) -> str:
    return verdicts.stand(claim, ()).reason


def _what_is(claims: Sequence[Claim], method: str, dataset: str) -> str:
    mine = [c for c in claims if c.method == method]
    here = sorted({c.ipc for c in mine if c.ipc is not None and base(c.dataset) == base(dataset)})
    if here:
        return f"on {dataset} there is ipc {', '.join(map(str, here))}"
    if any(base(c.dataset) == base(dataset) for c in mine):
        return f"those on {dataset} are not counted in images a class"
    if mine:
        return f"{method} has numbers on {', '.join(sorted({c.dataset for c in mine}))}"
    return registry.nearest(method, sorted({c.method for c in claims})) or "there are no claims"


# ------------------------------------------------------------------------------------------------ what to run


def recipe_of(claim: Claim) -> registry.Recipe:
    """The recipe of a claim's cell, its own or the authors'; see :func:`ddbench.verdicts.authors_recipe`.

    Raises:
        LookupError: the authors have recipes, but none for this cell.
    """
    found = verdicts.authors_recipe(claim)
    if found is not None:
        return found
    raise LookupError(
        f"{verdicts.without_recipe(claim)}; --recipe auto takes the "
        f"nearest, and its verdict is then 'not comparable'"
    )


def _recipe_fits(claim: Claim) -> bool:
    if not claim.ours:
        return False
    try:
        return verdicts.whitening_fits(claim, recipe_of(claim))
    except LookupError:
        return False


def _epoch_fits(claim: Claim) -> bool:
    """Whether the protocol alone gives a score that is chosen as the published one."""
    row = ROWS.get(claim.protocol)
    tested = row is not None and row.plan.test_every > 0
    return claim.chosen in ("last", "unstated") or (claim.chosen == "best-epoch" and tested)


@dataclass(frozen=True)
class Watch:
    """How snapshots are taken and scored for a number of the best snapshot: iterations between two, students each."""

    every: int
    students: int


_WATCHES = {"mtt": Watch(100, 5), "ftd": Watch(100, 5), "tesla": Watch(100, 3), "datm": Watch(500, 1)}
"""The defaults (``eval_it``, ``num_eval``) of the released commands of each."""


def watch_of(claim: Claim) -> Watch | None:
    """How the authors of a number of the best snapshot looked for it (of a wrapper: those of its base; of others: as ``mtt``);
    None for other numbers."""
    if claim.chosen != "best-snapshot":
        return None
    found = _WATCHES.get(claim.method.rpartition("+")[2], _WATCHES["mtt"])
    # datm's two largest sets of CIFAR-10 are looked at half as often
    rare = claim.method == "datm" and base(claim.dataset) == "cifar10" and (claim.ipc or 0) >= 500
    return replace(found, every=2 * found.every) if rare else found


def cells(
    claim: Claim,
    *,
    seeds: int | Sequence[int] = SEEDS,
    repeats: int | None = None,
    recipe: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[Cell]:
    """What measures a claim: the authors' recipe, the claim's protocol and network, the protocol's repeats.

    Args:
        seeds: distillations, or their seeds.
        repeats: students a set; None: the protocol's.
        recipe: another one than :func:`recipe_of`, by name.
        settings: of one's own.  With these or ``recipe`` what comes out is not comparable.

    Raises:
        LookupError: the claim is external, or its authors have no recipe for this cell.
        ddbench.plan.PlanError: a wrong recipe, setting or seed; names the flag.
    """
    if not claim.ours:
        raise LookupError(f"claim {claim.id} can't be measured here: {_why_external(claim)}")
    if not claim.ipc:
        raise LookupError(
            f"claim {claim.id} is of all of {claim.dataset}, which ddbench trains on under a cap on steps only; "
            f"its number is no test of this one"
        )
    suite = plan.from_flags(
        methods=[claim.method],
        datasets=[claim.dataset],
        ipc=[claim.ipc],
        seeds=seeds if isinstance(seeds, int) else list(seeds),
        protocols=[claim.protocol],
        networks=[verdicts.network(claim.network, claim.dataset)],
        repeats=repeats,
        recipe=recipe or recipe_of(claim).name,
        settings=settings,
    )
    return plan.cells(suite)


# ------------------------------------------------------------------------------------------------ what came out


@dataclass(frozen=True)
class Report:
    """A claim, what was measured for it, and the other claims of the same cell with what stands beside them."""

    standing: Standing
    records: tuple[Record, ...]
    """Those behind the measured value."""
    others: tuple[Standing, ...]


def report(
    claim: Claim,
    claims: Iterable[Claim],
    measured: Sequence[Record],
    stored: Iterable[Record] = (),
    left: Sequence[str] = (),
    asked: int = 0,
) -> Report:
    """What records say to a claim after its cells ran.

    Args:
        claims: among which the other ones of the cell are found.
        measured: records of the cells of this claim.
        stored: all records of the run folder, for the other claims.
        left: reasons why cells were left for the next run, the first that was reached first.
        asked: cells in all.
    """
    standing = verdicts.stand(claim, measured)
    if left and standing.verdict == "not run" and not standing.reason:
        how_far = f"partial run: {left[0]}; 0 of {asked} sets have a score; run again to go on"
        standing = replace(standing, verdict="not comparable", reason=how_far)
    elif left:
        note = (
            f"{sum(bool(r.scores) for r in measured)} of {asked} sets so far ({left[0]}); run again to go on"
        )
        standing = replace(standing, note="; ".join(t for t in (standing.note, note) if t))
    known = {r.key: r for r in (*stored, *measured)}
    same = [c for c in candidates(claims, claim.method, claim.dataset, claim.ipc or 0) if c.id != claim.id]
    return Report(
        standing,
        tuple(known[key] for key in standing.records),
        tuple(verdicts.standings(same, known.values())),
    )


def number(value: float) -> str:
    """With one digit, or two where it has them: 26.0, 44.19."""
    return f"{value:.1f}" if abs(round(value, 1) - value) < 1e-6 else f"{value:.2f}"


def published_text(claim: Claim) -> str:
    """``26.0 ± 1.2``."""
    return number(claim.value) + ("" if claim.std is None else f" ± {number(claim.std)}")


def measured_text(standing: Standing) -> str:
    """``26.3 ± 0.9``, or nothing."""
    if standing.mean is None:
        return ""
    return f"{standing.mean:.1f}" + ("" if standing.std is None else f" ± {standing.std:.1f}")


def gap_text(standing: Standing) -> str:
    """``+0.3 points, 0.5 combined standard errors``."""
    if standing.gap is None:
        return ""
    errors = ""
    if standing.gap_errors is not None:
        errors = f", {abs(standing.gap_errors):.1f} combined standard errors"
    return f"{standing.gap:+.1f} points{errors}"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _runs_text(claim: Claim) -> str:
    runs = verdicts.published_runs(claim)
    if runs is None:
        return "number of runs not stated"
    return f"{_counted(runs, 'run')}{'' if claim.n is not None else ', as the protocol has it; not stated'}"


def facts(made: Report) -> dict[str, str]:
    """What came out, as lines of text: name -> text; nothing that no record or source supports."""
    s, claim = made.standing, made.standing.claim
    own = verdicts.published_error(claim)
    lines = {
        "claim": f"{claim.id}: {claim.method} on {claim.dataset}, ipc {claim.ipc}, {claim.network} under {claim.protocol}",
        "published": f"{published_text(claim)} % ({_runs_text(claim)})",
        "source": claim.source
        + (" (quotes another paper)" if claim.quoted and "quot" not in claim.source else ""),
    }
    if claim.caveat:
        lines["caveat"] = claim.caveat
    if claim.note:
        lines["note on it"] = claim.note
    if s.mean is not None:
        error = "no standard error" if s.error is None else f"standard error {s.error:.2f}"
        lines["measured"] = (
            f"{measured_text(s)} % ({_counted(s.n, 'student')} of {_counted(s.sets, 'set')}; {error})"
        )
        lines["gap"] = gap_text(s) + ("" if own is None else f" (published standard error {own:.2f})")
    lines["verdict"] = s.verdict + (f": {s.reason}" if s.reason else "")
    if s.note:
        lines["note"] = s.note
    if made.records:
        first = made.records[0]
        lines["recipe"] = s.recipe + (f" ({first.recipe_source})" if first.recipe_source else "")
        lines["cost"] = cost_text(made)
        lines["records"] = " ".join(s.records) + (f" (revision {s.revision})" if s.revision else "")
    return lines


def cost(made: Report) -> dict[str, Any]:
    """Seconds by part over all records, peak memory (MiB), device."""
    spent = [r.spent for r in made.records]
    return {
        "distil_s": round(sum(x.distil_s for x in spent), 2),
        "teacher_s": round(sum(x.teacher_s for x in spent), 2),
        "evaluate_s": round(sum(x.evaluate_s for x in spent), 2),
        "peak_mib": round(made.standing.peak_mib),
        "device": made.standing.device,
    }


def cost_text(made: Report) -> str:
    c = cost(made)
    text = f"distillation {c['distil_s']:,.1f} s, teachers {c['teacher_s']:,.1f} s, evaluation {c['evaluate_s']:,.1f} s"
    return f"{text}; peak {c['peak_mib']:,} MiB" + (f"; {c['device']}" if c["device"] else "")


def other_rows(others: Iterable[Standing]) -> list[dict[str, str]]:
    """The other claims of a cell, one row each."""
    return [
        {
            "claim": s.claim.id,
            "published": published_text(s.claim),
            "under": f"{s.claim.protocol}, {s.claim.network}",
            "verdict": s.verdict + (f" ({s.gap:+.1f})" if s.gap is not None else ""),
            "why": s.reason,
            "source": ("quoted: " if s.claim.quoted else "") + s.claim.source,
        }
        for s in others
    ]


def document(made: Report) -> dict[str, Any]:
    """What came out, for ``--json``."""
    return {
        **row(made.standing),
        "cost": cost(made) if made.records else None,
        "records": list(made.standing.records),
        "others": [row(s) for s in made.others],
    }


# ------------------------------------------------------------------------------------------------ the table of all


def row(standing: Standing) -> dict[str, Any]:
    """A standing as one flat row, every column of the CSV; what is not known is None."""
    s, c = standing, standing.claim
    return {
        "claim": c.id,
        "verdict": s.verdict,
        "reason": s.reason,
        "note": s.note,
        "method": c.method,
        "dataset": c.dataset,
        "ipc": c.ipc,
        "keep": c.keep,
        "per_epoch": c.per_epoch,
        "resolution": c.resolution,
        "network": c.network,
        "distill_network": c.distill_network,
        "protocol": c.protocol,
        "labels": c.labels,
        "zca": c.zca,
        "chosen": c.chosen,
        "claim_recipe": c.recipe,
        "caveat": c.caveat,
        "metric": c.metric,
        "task": c.task,
        "published": c.value,
        "published_std": c.std,
        "published_n": c.n,
        "published_error": verdicts.published_error(c) if s.mean is not None else None,
        "measured": s.mean,
        "measured_std": s.std,
        "measured_error": s.error,
        "students": s.n if s.mean is not None else None,
        "sets": s.sets if s.mean is not None else None,
        "gap_points": s.gap,
        "gap_errors": s.gap_errors,
        "recipe": s.recipe,
        "seconds": s.seconds if s.mean is not None else None,
        "peak_mib": s.peak_mib if s.mean is not None else None,
        "device": s.device,
        "revision": s.revision,
        "records": " ".join(s.records),
        "quoted": c.quoted,
        "external": " ".join(c.external),
        "paper": c.paper,
        "source": c.source,
        "claim_note": c.note,
    }


def csv_text(standings: Sequence[Standing]) -> str:
    """Every claim, one line each."""

    def cell(value: Any) -> Any:
        return f"{value:.6g}" if isinstance(value, float) else value

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for i, s in enumerate(standings):
        line = row(s)
        if not i:
            writer.writerow(line)
        writer.writerow([cell(v) for v in line.values()])
    return out.getvalue()


CSV_NAME, PAGE_NAME = "reproduction.csv", "reproduction.md"


def write(standings: Sequence[Standing], out: Path) -> list[Path]:
    """``reproduction.md`` and ``reproduction.csv`` in ``out``; returns the paths."""
    paths = [out / PAGE_NAME, out / CSV_NAME]
    write_text(paths[0], markdown(standings))
    write_text(paths[1], csv_text(standings))
    return paths


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table in Markdown; columns of counts are set right."""

    def line(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |\n"

    if not rows:
        return ""
    counts = (all(str(r[name]).replace(",", "").isdigit() or not r[name] for r in rows) for name in rows[0])
    rule = line("---:" if count else "---" for count in counts)
    return line(rows[0]) + rule + "".join(line(r.values()) for r in rows)


def _tally(standings: Sequence[Standing], name: str, by: Callable[[Claim], str]) -> str:
    counts: dict[str, Counter[str]] = {}
    for s in standings:
        word = s.verdict if s.claim.ours else "external"
        counts.setdefault(by(s.claim), Counter())[word] += 1
    shown: list[dict[str, Any]] = []
    ours = {k: v for k, v in counts.items() if v.total() > v["external"]}
    for key in sorted(
        ours,
        key=lambda k: (-(ours[k].total() - sum(ours[k][w] for w in ("not run", "no recipe", "external"))), k),
    ):
        shown.append({name: key, **{v: ours[key][v] or "" for v in (*VERDICTS, "external")}})
    rest = [k for k in counts if k not in ours]
    if rest:
        count = sum(counts[k].total() for k in rest)
        shown.append(
            {
                name: f"{len(rest)} more, none of it measurable",
                **dict.fromkeys(VERDICTS, ""),
                "external": count,
            }
        )
    return _table(shown)


def _with_quoted(claim: Claim) -> str:
    return published_text(claim) + (" (quoted)" if claim.quoted else "")


def _measured_rows(standings: Sequence[Standing]) -> list[dict[str, str]]:
    """Claims with a measurement; those that say the same of one cell share a row."""

    def order(s: Standing) -> tuple[Any, ...]:
        c = s.claim
        return VERDICTS.index(s.verdict), c.dataset, c.method, c.ipc or 0, c.protocol, c.quoted, c.id

    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for s in sorted((s for s in standings if s.mean is not None), key=order):
        c = s.claim
        line = {
            "verdict": s.verdict,
            "method": c.method,
            "data set": c.dataset,
            "ipc": str(c.ipc),
            "protocol, network": f"{c.protocol}, {c.network}",
            "published %": _with_quoted(c),
            "measured %": measured_text(s),
            "students (sets)": f"{s.n} ({s.sets})",
            "gap": f"{s.gap:+.1f}",
            "in errors": "" if s.gap_errors is None else f"{abs(s.gap_errors):.1f}",
            "why, and what to know": "; ".join(t for t in (s.reason, s.note) if t),
        }
        found = rows.setdefault(tuple(line.values()), {**line, "claims": ""})
        found["claims"] += f"{' ' if found['claims'] else ''}`{c.id}`"
    return list(rows.values())


def _waiting_rows(standings: Sequence[Standing], verdict: str = "not run") -> list[dict[str, str]]:
    """Claims of ours without a measurement, and of this verdict, one row a method, data set, protocol and network."""
    groups: dict[tuple[str, ...], list[Standing]] = {}
    for s in standings:
        if s.claim.ours and s.mean is None and s.verdict == verdict:
            c = s.claim
            groups.setdefault((c.method, c.dataset, c.protocol, c.network), []).append(s)
    rows = []
    for (method, dataset, protocol, network), mine in sorted(groups.items()):
        mine.sort(key=lambda s: (s.claim.ipc or 0, s.claim.quoted, s.claim.id))
        told, so_far = [], []
        for ipc in dict.fromkeys(s.claim.ipc for s in mine):
            name = "all" if ipc == 0 else str(ipc)
            here = [s for s in mine if s.claim.ipc == ipc]
            said = {s.claim.value for s in here if not s.claim.quoted}  # who quotes these adds nothing
            values = [_with_quoted(s.claim) for s in here if not (s.claim.quoted and s.claim.value in said)]
            told.append(f"{name}: {', '.join(dict.fromkeys(values))}")
            so_far += [f"{name}: {text}" for text in dict.fromkeys(s.reason for s in here) if text]
        rows.append(
            {
                "method": method,
                "data set": dataset,
                "protocol, network": f"{protocol}, {network}",
                "published %, by ipc": "; ".join(told),
                "so far, by ipc": "; ".join(so_far),
            }
        )
    return rows


_NAMED = 4
"""Names that a cell of the table of external ones shows."""


def _some(names: Iterable[str]) -> str:
    every = sorted(set(names))
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more


def _external_rows(standings: Sequence[Standing]) -> list[dict[str, Any]]:
    """One row a paper and combination of what ddbench does not have; training on all data is told apart."""
    groups: dict[tuple[str, tuple[str, ...]], list[Claim]] = {}
    for s in standings:
        if not s.claim.ours and s.claim.method != plan.FULL:
            kinds = tuple(dict.fromkeys(kind for kind, _ in verdicts.lacking(s.claim)))
            groups.setdefault((s.claim.paper, kinds), []).append(s.claim)
    rows = []
    for (paper, kinds), mine in sorted(groups.items()):
        lacks = [x for c in mine for x in verdicts.lacking(c)]
        named = [f"{kind} {_some(name for k, name in lacks if k == kind)}" for kind in kinds]
        if not named:  # nothing of it is external: a task, or another measure
            named = [_some(c.task or c.metric for c in mine)]
        rows.append(
            {
                "paper": f"[{paper}](published/{paper}.csv)",
                "claims": len(mine),
                "not in ddbench": "; ".join(named),
                "methods": _some(c.method for c in mine),
                "data sets": _some(c.dataset for c in mine),
            }
        )
    return rows


def markdown(standings: Sequence[Standing]) -> str:
    """The page: counts, what was measured, what nobody ran yet, what cannot be measured."""
    count = Counter(s.verdict if s.claim.ours else "external" for s in standings)
    measured, waiting, external = (
        _measured_rows(standings),
        _waiting_rows(standings),
        _external_rows(standings),
    )
    with_one = sum(s.mean is not None for s in standings)
    meaning = {
        "reproduced": "within 2 combined standard errors or 1 point",
        "below": "measured is lower than that",
        "above": "measured is higher than that",
        "not comparable": "measured, but otherwise than published, or the number has a caveat: the table says which",
        "not run": "ddbench can measure it, and no record of it is here",
        "no recipe": "the authors published no settings for this very cell, so that there is nothing to run",
        "external": "of a method, data set, network, protocol or measure that ddbench does not have",
    }
    out = io.StringIO()
    out.write(
        "# Published numbers, and what ddbench measured\n\n"
        f"{len(standings):,} published numbers; {with_one:,} of them have a measurement beside them. Accuracies in\n"
        "percent, gaps in points (measured less published). Every measured value comes from records in `records/`;\n"
        f"[the CSV]({CSV_NAME}) has every claim with its source and every column, records and cost included.\n"
        "Made by `ddbench reproduce --table`; the exact rules of the verdicts:\n"
        "[reproducing a published number](../docs/reproduce.md).\n\n## At a glance\n\n"
    )
    shown = [
        {"verdict": v, "claims": f"{count[v]:,}", "meaning": meaning[v]} for v in (*VERDICTS, "external")
    ]
    out.write(_table(shown))
    out.write("\n### By method\n\n" + _tally(standings, "method", lambda c: c.method))
    out.write("\n### By data set\n\n" + _tally(standings, "data set", lambda c: base(c.dataset)))
    out.write(
        "\n## Measured\n\nMean ± population deviation over students; errors are combined standard errors of both sides.\n\n"
    )
    out.write(_table(measured) or "No record fits a published number yet.\n")
    out.write(
        "\n## Not run yet\n\nOne row a method, data set, protocol and network; "
        "`ddbench reproduce METHOD --dataset NAME --ipc N` runs one.\n\n"
    )
    out.write(_table(waiting) or "Every number that ddbench can measure has a measurement.\n")
    if no_recipe := _waiting_rows(standings, "no recipe"):
        out.write(
            "\n## No recipe\n\nTheir authors published settings for other cells only; `ddbench reproduce ... --recipe auto` "
            "takes the\nnearest, and is then not comparable.\n\n" + _table(no_recipe)
        )
    out.write("\n## External, by paper\n\n")
    full = sum(s.claim.method == plan.FULL and not s.claim.ours for s in standings)
    if full:
        out.write(
            f"{full} numbers are of training on all data (`full`), which ddbench does under a cap on steps only;\n"
            "they are not in the table.\n\n"
        )
    out.write(_table(external) or "None.\n")
    return out.getvalue()
