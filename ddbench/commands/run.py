"""``ddbench run`` and ``ddbench distill``."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloup
from cloup import option, option_group

from ddbench.commands.common import (
    Failed,
    counted,
    example,
    facts_text,
    files_text,
    how_options,
    json_option,
    load_plugins,
    make_context,
    note_texts,
    outcome_document,
    parse_seeds,
    quiet_option,
    run_cells,
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
        "ddbench run --method dm --dataset digits --ipc 1 --set image_lr=0.1,1,10",
        "ddbench run --suite small --recipe cpu --dry-run",
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
        help="override one field of the method (see: ddbench list settings); repeatable; several values, A,B or A|B, are "
        "compared on held-out training images",
    ),
    option(
        "--holdout",
        type=float,
        metavar="SHARE",
        help="share of the training images on which several values of a setting are compared (default: 0.1)",
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
        help="where the tables go (default: leaderboards for the embedded suite as it is, else RUNS/leaderboards)",
    ),
    option("--no-boards", is_flag=True, help="records only"),
    option("--only-missing/--force", default=True, help="skip cells that are done, or do all again"),
    option("--jobs", type=cloup.IntRange(min=1), default=1, metavar="N", help="worker processes"),
    option("--dry-run", is_flag=True, help="print the cells with estimated seconds and bytes; run nothing"),
    option(
        "--all",
        "every_line",
        is_flag=True,
        help="with --dry-run: every line of a large plan, which is else told by data set and method",
    ),
    option(
        "--calibrate",
        is_flag=True,
        help="with --dry-run: time small networks for some seconds on this device",
    ),
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
    holdout: float | None,
    seeds: str | None,
    repeats: int | None,
    runs: str,
    boards: Path | None,
    no_boards: bool,
    only_missing: bool,
    jobs: int,
    dry_run: bool,
    every_line: bool,
    calibrate: bool,
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
    from ddbench import plan, store

    set_data_root(data_root)
    load_plugins(plugins)
    flags = {
        "--method": methods,
        "--dataset": datasets,
        "--ipc": ipcs,
        "--protocol": protocols,
        "--network": networks,
        "--set": settings,
        "--holdout": holdout,
    }
    sweeps: dict[str, list[str]] = {}
    if methods:
        if suite is not None:
            raise ValueError(f"--suite {suite} and --method were both given; expected one of them")
        single, sweeps = plan.parse_sweeps(settings, methods)
        if holdout is not None and not sweeps:
            raise ValueError(
                f"--holdout {holdout:g} without values to compare; expected --set KEY=A,B or --set KEY=A|B too"
            )
        chosen = plan.from_flags(
            methods=methods,
            datasets=datasets or ("digits",),
            ipc=ipcs or (1,),
            seeds=parse_seeds(seeds or "5"),
            protocols=protocols or ("quick",),
            networks=networks or None,
            repeats=repeats,
            recipe=recipe or "auto",
            settings={**single, **{key: values[0] for key, values in sweeps.items()}},
        )
    else:
        if given := [flag for flag, value in flags.items() if value]:
            given += ["--recipe"] if recipe else []
            raise ValueError(
                f"{', '.join(given)} without --method; expected --method NAME too (a suite states its own)"
            )
        chosen = plan.load(suite or "embedded")
        chosen = plan.changed(
            chosen, seeds=parse_seeds(seeds) if seeds else None, repeats=repeats, recipe=recipe
        )
    cells = plan.cells(chosen)
    groups = plan.swept(cells, sweeps) if sweeps else []
    if holdout is not None:
        plan.check_holdout(holdout)
    silent = quiet or as_json
    if calibrate and not dry_run:
        raise ValueError("--calibrate says how long cells would take; expected --dry-run too")
    if every_line and not dry_run:
        raise ValueError("--all is of the lines that a dry run prints; expected --dry-run too")
    if dry_run:
        shown = _Shown("" if methods else chosen.name, every_line, as_json)
        _dry_run(
            cells, groups, plan.HOLDOUT if holdout is None else holdout, Path(runs), device, calibrate, shown
        )
        return
    from ddbench import runner  # the plan is checked before torch is loaded

    # only the run that is the same for everybody writes where a checkout keeps its boards
    standard = suite in (None, "embedded") and not methods and runs == "runs"
    standard = standard and all(flag is None for flag in (seeds, repeats, recipe, snapshot_every))
    standard = standard and (device, precision, engine) == ("auto", "fp32", "auto")
    target = boards or (Path("leaderboards") if standard else Path(runs) / "leaderboards")
    notes = runner.validate([*cells, *(cell for group in groups for cell in group.trials(0))])
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
        going = "" if no_boards else f", boards to {target}"
        cloup.echo(f"{counted(len(cells), 'cell')}{of}; sets and records go to {runs}{going}", err=True)
        for note in notes:
            cloup.echo(note, err=True)
    choices: dict[str, Any] = {}
    failures: list[str] = []
    if groups:
        from ddbench import sweep

        try:
            cells, choices, failures = sweep.decide(
                groups, context, holdout or plan.HOLDOUT, chosen=lambda c: None if silent else _told(str(c))
            )
        except runner.BudgetUsedUp as stopped:
            say(as_json, {"cells": [], "boards": [], "plots": [], "exit_status": 0}, str(stopped))
            return
    summary = run_cells(cells, context, jobs=jobs)
    if choices:
        summary.outcomes = sweep.mark(summary.outcomes, choices, store.RunFolder(Path(runs)))
    status = summary.exit_status or int(bool(failures))
    made: list[Path] = []
    text = ""
    if not no_boards and summary.records:
        from ddbench import board

        try:
            tables, made, unreadable = write_boards([Path(runs)], target)
        except OSError as error:  # the records are safe; what became of the cells is still to be said
            cloup.echo(
                f"error: no boards: {error}; make them later: ddbench board --runs {shlex.quote(runs)}",
                err=True,
            )
            tables, unreadable, status = [], [], status or 1
        warn(unreadable)
        mine = {r.cell.distil.dataset for r in summary.records}
        text = "\n".join(board.plain(t) for t in tables if t.dataset in mine and len(t.table))
    document = {
        "cells": [outcome_document(o) for o in summary.outcomes],
        "boards": [str(p) for p in made],
        "plots": [str(p) for p in summary.plots],
        "exit_status": status,
    }
    if groups:
        document["sweeps"] = [sweep.document(c) for c in dict.fromkeys(choices.values())]
        document["failed_sweeps"] = failures
    lines = [text, *unscored(summary.outcomes), *failures, str(summary)]
    lines += [f"boards in {files_text(made)}"] if made else []
    lines += [f"over time: {_plots_text(summary.plots)}"] if summary.plots else []
    say(as_json, document, "\n".join(line for line in lines if line))
    if status:
        raise Failed(status)


def _plots_text(plots: list[Path]) -> str:
    return str(plots[0]) if len(plots) == 1 else f"{counted(len(plots), 'plot')} in {plots[0].parent}"


def _told(text: str) -> None:
    cloup.echo(text, err=True)


@dataclass(frozen=True)
class _Shown:
    """How a dry run is told."""

    suite: str
    every_line: bool
    as_json: bool


def _dry_run(
    cells: list[Any], swept: list[Any], holdout: float, runs: Path, device: str, calibrate: bool, how: _Shown
) -> None:
    """What a run would do, how long it would take and how much disk: no data, and no torch but to calibrate."""
    from ddbench import estimate, store

    unreadable: list[str] = []
    own = store.RunFolder(runs).records(unreadable)
    warn(unreadable)
    machine = estimate.calibrated(device) if calibrate else estimate.machine(device)
    known = [*own, *estimate.records_that_come_along()]
    estimator = estimate.Estimator(machine, known)
    # a comparison of settings has a run folder of its own, and seeds of its own, which here are all 0
    before = (
        [estimate.seedless(r) for r in store.RunFolder(runs / estimate.SWEEPS).records([])] if swept else []
    )
    notes: list[str] = []
    if swept:
        cells = []
    for group in swept:
        settings = estimate.settled(runs, group, holdout, before)
        cells += list(group.cells) if settings is None else group.chosen(settings)
        d = group.cells[0].distil
        of = f"{d.method} {d.dataset} ipc {d.ipc} {group.cells[0].protocol}"
        notes.append(
            f"{of}: settings are not chosen yet; counted with {settings_text(group.candidates[0])}"
            if settings is None
            else f"{of}: {settings_text(settings)} was chosen before"
        )
    groups = estimate.groups(cells, estimator, own)
    compared = estimate.groups([cell for group in swept for cell in group.trials(0)], estimator, before)
    say(
        how.as_json,
        estimate.document(how.suite, groups, compared, machine) | ({"notes": notes} if notes else {}),
        estimate.text(how.suite, groups, compared, machine, str(runs), how.every_line, notes),
    )


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
