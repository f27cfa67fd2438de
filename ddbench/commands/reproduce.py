"""``ddbench reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cloup
from cloup import option, option_group

from ddbench.commands.common import (
    Failed,
    counted,
    example,
    facts_text,
    how_options,
    json_option,
    load_plugins,
    make_context,
    outcome_document,
    parse_seeds,
    quiet_option,
    run_cells,
    say,
    set_data_root,
    settings_text,
    table_text,
    time_budget_of,
    unscored,
    warn,
    watch_options,
)
from ddbench.texts import shortened


@cloup.command(
    short_help="Measure a published number again, and say how far it is off.",
    epilog=example(
        "ddbench reproduce random --dataset cifar10 --ipc 10 --seeds 3",
        "ddbench reproduce dm --dataset cifar10 --ipc 10 --time-budget 9m",
        "ddbench reproduce --claim dm-02c483",
        "ddbench reproduce --table --runs leaderboards --out leaderboards",
    ),
)
@cloup.argument("method", required=False, help="a file in methods/ (see: ddbench claims)")
@option_group(
    "which number",
    option("--dataset", metavar="NAME", help="data set that it is of"),
    option("--ipc", type=cloup.IntRange(min=1), metavar="N", help="images per class that it is of"),
    option(
        "--claim",
        "claim_id",
        metavar="ID",
        help="one of several (see: ddbench claims; default: the method's own paper's that can be compared)",
    ),
)
@option_group(
    "how often, and where to",
    option(
        "--seeds",
        metavar="N|A,B,C",
        help="independent distil-and-train repeats, or their seeds (default: 3)",
    ),
    option(
        "--repeats",
        type=cloup.IntRange(min=1),
        metavar="N",
        help="students a set (default: the protocol's)",
    ),
    option(
        "--runs",
        multiple=True,
        metavar="DIR",
        help="run folder: sets, records, checkpoints; with --table repeatable (default: runs)",
    ),
    option("--only-missing/--force", default=True, help="skip cells that are done, or do all again"),
    option("--jobs", type=cloup.IntRange(min=1), default=1, metavar="N", help="worker processes"),
    option(
        "--time-budget",
        metavar="TIME",
        help="stop cleanly at a checkpoint after so long, such as 9m; run again to go on",
    ),
    option("--dry-run", is_flag=True, help="say what would be run, and run nothing"),
)
@option_group(
    "otherwise than published (the verdict is then: not comparable)",
    option("--recipe", metavar="NAME", help="named hyperparameters (default: the authors')"),
    option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="override one field of the method (see: ddbench list settings); repeatable",
    ),
)
@option_group(
    "the table of all published numbers",
    option("--table", is_flag=True, help="run nothing: write the table from claims and records"),
    option(
        "--out",
        default="leaderboards",
        type=cloup.Path(path_type=Path),
        metavar="DIR",
        help="where reproduction.md and reproduction.csv go",
    ),
)
@watch_options(
    option(
        "--snapshot-students",
        type=cloup.IntRange(min=1),
        metavar="M",
        help="students that score each snapshot, for numbers of the best snapshot (default: 1; of those both options "
        "are as the authors had them)",
    ),
)
@how_options
@quiet_option
@json_option
def reproduce(
    method: str | None,
    dataset: str | None,
    ipc: int | None,
    claim_id: str | None,
    seeds: str | None,
    repeats: int | None,
    runs: tuple[str, ...],
    only_missing: bool,
    jobs: int,
    time_budget: str | None,
    dry_run: bool,
    recipe: str | None,
    settings: tuple[str, ...],
    table: bool,
    out: Path,
    snapshot_every: int | None,
    snapshot_students: int | None,
    tensorboard: bool,
    device: str,
    precision: str,
    engine: str,
    memory_limit: str | None,
    data_root: str | None,
    plugins: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Run the authors' recipe under the authors' protocol, and hold what comes out against the published number.

    The report says published and measured value, their gap in points and in combined standard errors, a verdict
    (reproduced, below, above, or not comparable with the reason), and what it cost.  The rules: docs/reproduce.md.
    """
    set_data_root(data_root)
    load_plugins(plugins)
    if table:
        given = {
            "METHOD": method,
            "--dataset": dataset,
            "--ipc": ipc,
            "--claim": claim_id,
            "--dry-run": dry_run,
        }
        if wrong := [flag for flag, value in given.items() if value]:
            raise ValueError(
                f"--table is of all claims, and {', '.join(wrong)} was given; expected one of them"
            )
        _table(tuple(Path(r) for r in runs or ("runs",)), out, quiet, as_json)
        return
    claims = None
    if claim_id is not None:
        from ddbench import claims as claims_

        claims = claims_.published()
        method, dataset, ipc = _of_claim(claims, claim_id, method, dataset, ipc)
    missing = [
        flag for flag, value in (("METHOD", method), ("--dataset", dataset), ("--ipc", ipc)) if value is None
    ]
    if method is None or dataset is None or ipc is None:
        raise ValueError(
            f"{', '.join(missing)} missing; expected: ddbench reproduce METHOD --dataset NAME --ipc N (or --claim ID, or "
            f"--table)"
        )
    if len(runs) > 1:
        raise ValueError(
            f"--runs was given {len(runs)} times; expected one run folder (several: with --table)"
        )
    from ddbench import claims as claims_
    from ddbench import plan, registry, store
    from ddbench import reproduce as reproduce_

    registry.parts(method)  # a wrong name is said with its neighbour
    claims = claims_.published() if claims is None else claims
    claim = reproduce_.choose(claims, method, dataset, ipc, claim_id)
    cells = reproduce_.cells(
        claim,
        seeds=parse_seeds(seeds or str(reproduce_.SEEDS)),
        repeats=repeats,
        recipe=recipe,
        settings=plan.parse_settings(settings),
    )
    others = reproduce_.candidates(claims, method, dataset, ipc)
    if dry_run:
        _say_plan(claim, cells, others, as_json)
        return
    from ddbench import runner  # what is asked for is checked before torch is loaded

    notes = runner.validate(cells)
    watch = reproduce_.watch_of(claim)
    folder = runs[0] if runs else "runs"
    context = make_context(
        folder,
        device,
        precision,
        engine,
        memory_limit,
        force=not only_missing,
        quiet=quiet or as_json,
        budget=time_budget_of(time_budget),
        snapshot_every=(watch.every if watch else 0) if snapshot_every is None else snapshot_every,
        snapshot_students=snapshot_students or (watch.students if watch else 1),
        tensorboard=tensorboard,
    )
    if not context.quiet:
        cloup.echo(
            f"claim {claim.id}: {reproduce_.published_text(claim)} %; {counted(len(cells), 'cell')}, sets and records go "
            f"to {folder}",
            err=True,
        )
        if claim_id is None and len(others) > 1:
            ids = ", ".join(c.id for c in others if c.id != claim.id)
            cloup.echo(f"there are other claims of this cell (--claim): {ids}", err=True)
        for note in notes:
            cloup.echo(note, err=True)
    summary = run_cells(cells, context, jobs=jobs)
    left = [o.reason for o in summary.outcomes if o.status == "left"]
    unreadable: list[str] = []
    stored = store.RunFolder(folder).records(unreadable)
    warn(unreadable)
    made = reproduce_.report(claim, claims, summary.records, stored, left, len(cells))
    lines = [facts_text(reproduce_.facts(made))]
    if rows := reproduce_.other_rows(made.others):
        lines += ["", "other claims of this cell:", table_text(_narrow(rows))]
    lines += ["", *unscored(summary.outcomes), str(summary)]
    status = summary.exit_status
    outcomes = [outcome_document(o) for o in summary.outcomes]
    say(as_json, reproduce_.document(made) | {"cells": outcomes, "exit_status": status}, "\n".join(lines))
    if status:
        raise Failed(status)


def _of_claim(
    claims: Any, claim_id: str, method: str | None, dataset: str | None, ipc: int | None
) -> tuple[str, str, int]:
    """What is run for a claim: its own method, data set and ipc where none were given.

    Raises:
        LookupError: there is no such claim, or it is not counted in images a class.
    """
    from ddbench import registry, verdicts

    found = next((c for c in claims if c.id == claim_id), None)
    if found is None and method and dataset and ipc is not None:
        return method, dataset, ipc  # those of this cell are said instead
    if found is None:
        near = registry.nearest(claim_id, [c.id for c in claims])
        raise LookupError(f"no claim {claim_id!r}{'; ' + near if near else ''} (see: ddbench claims)")
    ipc = found.ipc if ipc is None else ipc
    if ipc is None:
        why = verdicts.stand(found, ()).reason or "it is not counted in images a class"
        raise LookupError(f"claim {claim_id} can't be measured here: {why}")
    return method or found.method, dataset or found.dataset, ipc


_WIDE = 60
"""Characters of a source or a reason in a table; --json has all of it."""


def _narrow(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{k: shortened(v, _WIDE) if k in ("source", "why") else v for k, v in row.items()} for row in rows]


def _say_plan(claim: Any, cells: Any, others: Any, as_json: bool) -> None:
    from ddbench import registry, verdicts
    from ddbench import reproduce as reproduce_

    first = cells[0]
    d = first.distil
    found = registry.resolve_recipe(d.method, d.recipe, d.dataset, d.ipc)
    changed = {**found.settings, **d.settings}
    document = {
        "claim": claim.model_dump(),
        "recipe": {"name": found.name, "source": found.source, "note": found.note, "settings": changed},
        "cells": [c.model_dump() for c in cells],
        "others": [c.model_dump() for c in others if c.id != claim.id],
    }
    said = (
        f"{found.name}{f' ({found.source})' if found.source else ''}{f'; {found.note}' if found.note else ''}"
    )
    facts = {
        "claim": f"{claim.id}: {claim.method} on {claim.dataset}, ipc {claim.ipc}",
        "published": f"{reproduce_.published_text(claim)} %",
        "source": claim.source,
        "would run": f"{counted(len(cells), 'set')} (seeds {', '.join(str(c.distil.seed) for c in cells)}), "
        f"{counted(first.repeats, 'student')} each: {first.network} under {first.protocol}",
        "recipe": said,
        "settings": settings_text(changed),
    }
    if watch := reproduce_.watch_of(claim):
        document["snapshots"] = {"every": watch.every, "students": watch.students}
        facts["snapshots"] = (
            f"every {counted(watch.every, 'iteration')}, {counted(watch.students, 'student')} each: the best one is compared"
        )
    text = facts_text(facts)
    if rows := reproduce_.other_rows(verdicts.stand(c, ()) for c in others if c.id != claim.id):
        shown = [{k: v for k, v in row.items() if k != "verdict"} for row in rows]
        text += f"\n\nother claims of this cell (--claim):\n{table_text(_narrow(shown))}"
    say(as_json, document, text)


def _table(folders: tuple[Path, ...], out: Path, quiet: bool, as_json: bool) -> None:
    from collections import Counter

    from ddbench import claims as claims_
    from ddbench import reproduce as reproduce_
    from ddbench import store, verdicts

    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"no run folder {folder}; expected one (see: ddbench run --runs DIR)")
    unreadable: list[str] = []
    records = [r for folder in folders for r in store.RunFolder(folder).records(unreadable)]
    warn(unreadable)
    found = verdicts.standings(claims_.published(), records)
    made = reproduce_.write(found, out)
    counts = Counter(s.verdict for s in found)
    document = {
        "counts": counts,
        "files": [str(p) for p in made],
        "rows": [reproduce_.row(s) for s in found if s.mean is not None],
    }
    told = ", ".join(f"{counts[v]:,} {v}" for v in verdicts.VERDICTS if counts[v])
    lines = [] if quiet else [f"{len(found):,} published numbers: {told or 'none'}"]
    say(as_json, document, "\n".join([*lines, *(str(p) for p in made)]))


COMMANDS = (reproduce,)
