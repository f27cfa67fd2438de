"""``ddbench run`` and ``ddbench distill``."""

from __future__ import annotations

import os
import sys
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
    note_texts,
    parse_seeds,
    quiet_option,
    runs_option,
    say,
    set_beside,
    set_data_root,
    set_numbers,
    settings_text,
    time_budget_of,
    unscored,
    warn,
    watch_options,
    write_boards,
)


@cloup.command(
    short_help="Distil, train networks on the result, write records and boards.",
    epilog=example(
        "ddbench run",
        "ddbench run --method random --dataset digits --ipc 10 --seeds 1",
        "ddbench run --method random --method dm --dataset cifar10 --ipc 1 --protocol dc-dsa --network M",
    ),
)
@option_group(
    "what to run (nothing given: the embedded suite)",
    option("--suite", metavar="NAME|FILE.yaml", help="a suite of cells (see: ddbench list suites)"),
    option(
        "--method",
        "methods",
        multiple=True,
        metavar="NAME",
        help="a file in methods/ (see: ddbench list methods); repeatable",
    ),
    option(
        "--dataset",
        "datasets",
        multiple=True,
        metavar="NAME",
        help="data set, or imagefolder:PATH; repeatable (default: digits)",
    ),
    option(
        "--ipc",
        "ipcs",
        multiple=True,
        type=int,
        metavar="N",
        help="synthetic images per class; repeatable (default: 1)",
    ),
    option(
        "--protocol",
        "protocols",
        multiple=True,
        metavar="NAME",
        help="how sets are scored; repeatable (default: quick)",
    ),
    option(
        "--network",
        "networks",
        multiple=True,
        metavar="NAME",
        help="students, cross-architecture where repeated, pools M and B (default: the protocol's own)",
    ),
    option(
        "--recipe",
        metavar="NAME",
        help="named hyperparameters (default: auto, the authors' where they fit)",
    ),
    option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="override one field of the method (see: ddbench list settings); repeatable",
    ),
)
@option_group(
    "how often, and where to",
    option(
        "--seeds",
        metavar="N|A,B,C",
        help="independent distil-and-train repeats, or their seeds (default: 5; a suite has its own)",
    ),
    option(
        "--repeats",
        type=cloup.IntRange(min=1),
        metavar="N",
        help="students a set and network (default: the protocol's)",
    ),
    runs_option,
    option(
        "--boards",
        type=cloup.Path(path_type=Path),
        metavar="DIR",
        help="where the tables go (default: leaderboards for the run folder runs, else inside the run folder)",
    ),
    option("--no-boards", is_flag=True, help="records only"),
    option("--only-missing/--force", default=True, help="skip cells that are done, or do all again"),
    option("--jobs", type=cloup.IntRange(min=1), default=1, metavar="N", help="worker processes"),
    option(
        "--time-budget",
        metavar="TIME",
        help="stop cleanly at a checkpoint after so long, such as 9m; run again to go on",
    ),
)
@watch_options(
    option(
        "--snapshot-students",
        type=cloup.IntRange(min=1),
        metavar="M",
        help="students that score each snapshot, as each cell does (default: 1, or the suite's)",
    ),
)
@how_options
@quiet_option
@json_option
def run(
    suite: str | None,
    methods: tuple[str, ...],
    datasets: tuple[str, ...],
    ipcs: tuple[int, ...],
    protocols: tuple[str, ...],
    networks: tuple[str, ...],
    recipe: str | None,
    settings: tuple[str, ...],
    seeds: str | None,
    repeats: int | None,
    runs: str,
    boards: Path | None,
    no_boards: bool,
    only_missing: bool,
    jobs: int,
    time_budget: str | None,
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
    """Distil, train fresh networks on the result, write one record a network and seed, and the boards."""
    from ddbench import plan

    set_data_root(data_root)
    load_plugins(plugins)
    flags = {
        "--method": methods,
        "--dataset": datasets,
        "--ipc": ipcs,
        "--protocol": protocols,
        "--network": networks,
        "--recipe": recipe,
        "--set": settings,
    }
    if methods:
        if suite is not None:
            raise ValueError(f"--suite {suite} and --method were both given; expected one of them")
        chosen = plan.from_flags(
            methods=methods,
            datasets=datasets or ("digits",),
            ipc=ipcs or (1,),
            seeds=parse_seeds(seeds or "5"),
            protocols=protocols or ("quick",),
            networks=networks or None,
            repeats=repeats,
            recipe=recipe or "auto",
            settings=plan.parse_settings(settings),
        )
    else:
        if given := [flag for flag, value in flags.items() if value]:
            raise ValueError(
                f"{', '.join(given)} without --method; expected --method NAME too (a suite states its own)"
            )
        chosen = plan.load(suite or "embedded")
        chosen = plan.changed(chosen, seeds=parse_seeds(seeds) if seeds else None, repeats=repeats)
    cells = plan.cells(chosen)
    from ddbench import executors, runner  # the plan is checked before torch is loaded

    notes = runner.validate(cells)
    silent = quiet or as_json
    context = make_context(
        runs,
        device,
        precision,
        engine,
        memory_limit,
        force=not only_missing,
        quiet=silent,
        budget=time_budget_of(time_budget),
        snapshot_every=chosen.snapshot_every if snapshot_every is None else snapshot_every,
        snapshot_students=snapshot_students or chosen.snapshot_students,
        tensorboard=tensorboard,
    )
    if not silent:
        of = "" if methods else f" of suite {chosen.name}"
        cloup.echo(f"{counted(len(cells), 'cell')}{of}; sets and records go to {runs}", err=True)
        for note in notes:
            cloup.echo(note, err=True)
    reasons: set[str] = set()

    def told(outcome: Any) -> None:
        from tqdm import tqdm

        if not silent and outcome.status not in ("cached", "left"):
            tqdm.write(executors.brief(outcome, outcome.reason not in reasons), file=sys.stderr)
            reasons.add(outcome.reason)
            for line in executors.notes(outcome) if jobs > 1 else ():  # else the task said it
                if line not in reasons:
                    tqdm.write(line, file=sys.stderr)
                    reasons.add(line)

    summary = executors.run(cells, context, jobs=jobs, told=told)
    status = summary.exit_status
    made: list[Path] = []
    text = ""
    if not no_boards and summary.records:
        from ddbench import board

        try:
            # trials in a folder of their own leave the boards of the main one alone
            out = boards or Path("leaderboards" if runs == "runs" else Path(runs) / "leaderboards")
            tables, made, unreadable = write_boards([Path(runs)], out)
        except OSError as error:  # the records are safe; what became of the cells is still to be said
            cloup.echo(f"error: no boards: {error}; make them later: ddbench board --runs {runs}", err=True)
            tables, unreadable, status = [], [], status or 1
        warn(unreadable)
        mine = {r.cell.distil.dataset for r in summary.records}
        text = "\n".join(board.plain(t) for t in tables if t.dataset in mine and len(t.table))
    document = {
        "cells": [
            {
                "cell": o.cell.model_dump(),
                "status": o.status,
                "reason": o.reason,
                "record": o.record.model_dump() if o.record else None,
            }
            for o in summary.outcomes
        ],
        "boards": [str(p) for p in made],
        "plots": [str(p) for p in summary.plots],
        "exit_status": status,
    }
    lines = [text, *unscored(summary.outcomes), str(summary)]
    lines += [f"boards: {', '.join(str(p) for p in made)}"] if made else []
    lines += [f"over time: {', '.join(str(p) for p in summary.plots)}"] if summary.plots else []
    say(as_json, document, "\n".join(line for line in lines if line))
    if status:
        raise Failed(status)


@cloup.command(
    short_help="Distil one set.",
    epilog=example("ddbench distill --method dm --dataset digits --ipc 10 --out dm.safetensors"),
)
@option_group(
    "what to distil",
    option("--method", required=True, metavar="NAME", help="a file in methods/ (see: ddbench list methods)"),
    option("--dataset", default="digits", metavar="NAME", help="data set, or imagefolder:PATH"),
    option("--ipc", type=int, default=1, metavar="N", help="synthetic images per class"),
    option("--seed", type=cloup.IntRange(min=0), default=0, metavar="N", help="decides every random number"),
    option(
        "--recipe",
        default="auto",
        metavar="NAME",
        help="named hyperparameters; auto: the authors' where they fit",
    ),
    option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="override one field of the method (see: ddbench list settings); repeatable",
    ),
)
@option_group(
    "where to",
    option("--out", type=cloup.Path(path_type=Path), help="copy the set to this file (.safetensors)"),
    runs_option,
    option("--force", is_flag=True, help="distil again even if the set is there"),
    option(
        "--time-budget",
        metavar="TIME",
        help="stop at a checkpoint after so long, such as 9m; run again to go on",
    ),
)
@watch_options()
@how_options
@quiet_option
@json_option
def distill(
    method: str,
    dataset: str,
    ipc: int,
    seed: int,
    recipe: str,
    settings: tuple[str, ...],
    out: Path | None,
    runs: str,
    force: bool,
    time_budget: str | None,
    snapshot_every: int | None,
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
    """Distil one set; a killed distillation goes on from its checkpoint."""
    from ddbench import plan

    if out is not None and out.suffix != ".safetensors":
        raise ValueError(f"--out is {out}; expected a file name that ends in .safetensors")
    set_data_root(data_root)
    load_plugins(plugins)
    chosen = plan.from_flags(
        methods=[method],
        datasets=[dataset],
        ipc=[ipc],
        seeds=[seed],
        recipe=recipe,
        settings=plan.parse_settings(settings),
    )
    (cell, *_) = plan.cells(chosen)
    from ddbench import runner, sets, store

    notes = runner.validate([cell])
    context = make_context(
        runs,
        device,
        precision,
        engine,
        memory_limit,
        force=force,
        quiet=quiet or as_json,
        budget=time_budget_of(time_budget),
        snapshot_every=snapshot_every or 0,
        tensorboard=tensorboard,
    )
    for note in notes if not context.quiet else ():
        cloup.echo(note, err=True)
    session = runner.Session(context)
    try:
        path = session.distil(cell.distil)[1]
    except runner.BudgetUsedUp as stopped:
        path = session.run.set_path(session.set_key(cell.distil))
        if not path.exists():
            cloup.echo(f"error: {stopped}; there is no set yet: run again, with more time", err=True)
            raise Failed(1) from None
    except store.WriteError:
        raise
    except Exception as error:  # a method may raise anything
        if os.environ.get("DDBENCH_DEBUG"):
            raise
        cloup.echo(f"error: {method} failed: {runner.explain(error)}", err=True)
        raise Failed(1) from None
    finally:
        session.run.clear_locks()
    made = sets.read(path)
    if out is not None:
        sets.write(out, made)
    card = sets.read_header(path)["card"]
    facts = {
        "set": str(out or path),
        **{
            k: card[k]
            for k in ("method", "recipe", "dataset", "ipc", "seed", "partial", "cost", "settings", "notes")
        },
        **set_numbers(made),
    }
    if card["partial"] and not context.quiet:
        cloup.echo("the time budget ended before the distillation did; run again to go on", err=True)
    cost = {"distil_s": round(card["cost"]["wall_s"], 2), "peak_mib": round(card["cost"]["peak_mib"])}
    apart = ("cost", "settings", "notes", "step_sizes", "zca_eps")  # told in other words
    shown = {k: v for k, v in facts.items() if k not in apart} | cost
    shown |= set_beside(made) | {"settings": settings_text(card["settings"])} | note_texts(card["notes"])
    say(as_json, facts, facts_text(shown))


COMMANDS = (run, distill)
