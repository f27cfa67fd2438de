"""``ddbench board`` and ``ddbench trace``."""

from __future__ import annotations

import json
from pathlib import Path

import cloup
from cloup import option

from ddbench.commands.common import (
    example,
    files_text,
    json_option,
    quiet_option,
    run_folders_option,
    say,
    table_text,
    warn,
    write_boards,
)

KINDS = ("tables", "uniform", "as-published", "equal-bytes", "cost", "cross-architecture")
"""As in board/, which needs pandas; tests/test_board.py compares them."""


@cloup.command(
    short_help="Make tables and plots from records.",
    epilog=example(
        "ddbench board --runs runs --out leaderboards",
        "ddbench board --kind equal-bytes",
        "ddbench board --kind uniform --uniform dc-dsa",
    ),
)
@run_folders_option
@option(
    "--out",
    type=cloup.Path(path_type=Path),
    metavar="DIR",
    help="where the tables go (default: leaderboards inside the first run folder)",
)
@option(
    "--kind",
    "kinds",
    multiple=True,
    default=("all",),
    type=cloup.Choice(("all", *KINDS)),
    metavar="KIND",
    help=f"all, or of {', '.join(KINDS)}; repeatable",
)
@option(
    "--uniform",
    metavar="PROTOCOL",
    help="protocol of the uniform board (default: the one under which most methods of a data set are measured)",
)
@option("--plots/--no-plots", default=True, help="accuracy over ipc, over bytes and over seconds")
@quiet_option
@json_option
def board(
    runs: tuple[Path, ...],
    out: Path | None,
    kinds: tuple[str, ...],
    uniform: str | None,
    plots: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make the boards from records; nothing is run, torch is not needed.

    One page and CSV a data set and kind, and README.md, which links them; docs/boards.md says what each of them means.
    """
    from ddbench import board as board_

    folders = runs or (Path("runs"),)
    out = out or folders[0] / "leaderboards"
    asked = KINDS if "all" in kinds else kinds
    boards, made, unreadable = write_boards(folders, out, plots, asked, uniform or "")
    warn(unreadable)
    if not boards:
        raise FileNotFoundError(
            f"no records in {', '.join(str(f) for f in folders)}; expected a run folder (see: ddbench run --runs DIR)"
        )
    if "all" not in kinds:
        warn([f"{b.dataset}: no {kind} board: {why}" for b in boards for kind, why in b.empty.items()])
    document = {
        "boards": [str(p) for p in made],
        "rows": {b.dataset: json.loads(b.table.to_json(orient="records")) for b in boards},
        "pages": {
            b.dataset: {k: json.loads(p.table.to_json(orient="records")) for k, p in b.pages.items()}
            for b in boards
        },
        "empty": {b.dataset: b.empty for b in boards},
    }
    texts = []
    for b in boards:
        if "tables" in asked:
            texts.append(board_.plain(b) or f"{b.dataset}: no cell has a score yet\n")
        if "all" not in kinds:
            texts += [board_.page_text(b, kind) for kind in b.pages]
    shown = "" if quiet else "\n".join(texts) + "\n"
    say(as_json, document, shown + (files_text(made) if made else f"{out}: nothing to write"))


@cloup.command(
    short_help="Plot loss and accuracy over iterations and seconds.",
    epilog=example(
        "ddbench trace --runs runs",
        "ddbench trace dm-digits-10 datadam-digits-10 --out both.png",
        "ddbench trace runs/sets/*.safetensors --value loss",
    ),
)
@cloup.argument(
    "names",
    nargs=-1,
    help="beginnings of keys of sets or records in the run folder, or files of sets or records (none: all that it has)",
)
@option("--runs", default="runs", metavar="DIR", help="run folder: traces, accuracies over time")
@option(
    "--value",
    "values",
    multiple=True,
    metavar="NAME",
    help="a logged value to plot, or top1_pct; repeatable (default: loss, and accuracy where snapshots were scored)",
)
@option(
    "--out",
    default="trace.png",
    type=cloup.Path(path_type=Path),
    metavar="FILE.png",
    help="the plot; its numbers go beside it as CSV",
)
@json_option
def trace(names: tuple[str, ...], runs: str, values: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Plot how distillations went: what methods logged, and the accuracy of snapshots (run --snapshot-every N).

    Several runs stand in one plot with a legend; runs that differ in the seed alone share a colour.
    """
    from ddbench import curves, store

    found = curves.find(store.RunFolder(runs), names)
    if not found:
        raise LookupError(
            f"nothing was logged in {runs}; expected a run folder (see: ddbench run --runs DIR) with methods that iterate"
        )
    made = curves.write(found, out, values)
    document = {
        "runs": [
            {"set_key": r.key, "run": r.name, "trace": r.trace, "accuracy": sum(r.accuracy.values(), [])}
            for r in found
        ],
        "files": [str(p) for p in made],
    }
    text = "\n".join([table_text(curves.summary(found)), *(str(p) for p in made)])
    say(as_json, document, text)


COMMANDS = (board, trace)
