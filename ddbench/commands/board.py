"""``ddbench board`` and ``ddbench trace``."""

from __future__ import annotations

import json
from pathlib import Path

import cloup
from cloup import option

from ddbench.commands.common import example, json_option, quiet_option, say, table_text, warn, write_boards


@cloup.command(
    short_help="Make tables and plots from records.",
    epilog=example("ddbench board --runs runs --out leaderboards"),
)
@option(
    "--runs",
    multiple=True,
    type=cloup.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="run folder; repeatable (default: runs)",
)
@option(
    "--out",
    default="leaderboards",
    type=cloup.Path(path_type=Path),
    metavar="DIR",
    help="where the tables go",
)
@option("--plots/--no-plots", default=True, help="accuracy over ipc and over bytes")
@quiet_option
@json_option
def board(runs: tuple[Path, ...], out: Path, plots: bool, quiet: bool, as_json: bool) -> None:
    """Make the boards from records; nothing is run, torch is not needed."""
    from ddbench import board as board_

    folders = runs or (Path("runs"),)
    boards, made, unreadable = write_boards(folders, out, plots)
    warn(unreadable)
    if not boards:
        raise FileNotFoundError(
            f"no records in {', '.join(str(f) for f in folders)}; expected a run folder (see: ddbench run --runs DIR)"
        )
    document = {
        "boards": [str(p) for p in made],
        "rows": {b.dataset: json.loads(b.table.to_json(orient="records")) for b in boards},
    }
    texts = [board_.plain(b) or f"{b.dataset}: no cell has a score yet\n" for b in boards]
    shown = "" if quiet else "\n".join(texts) + "\n"
    say(as_json, document, shown + "\n".join(str(p) for p in made))


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
