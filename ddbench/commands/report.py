"""``ddbench report``."""

from __future__ import annotations

from pathlib import Path

import cloup
from cloup import option

from ddbench.commands.common import (
    counted,
    example,
    json_option,
    load_plugins,
    plugin_option,
    root_option,
    run_folders_option,
    say,
    set_data_root,
    size_mib,
    warn,
)


@cloup.command(
    short_help="Make one page of boards, images, traces and claims.",
    epilog=example(
        "ddbench report --runs runs --out report", "ddbench report --runs leaderboards --no-images"
    ),
)
@run_folders_option
@option(
    "--out",
    default="report",
    type=cloup.Path(path_type=Path),
    metavar="DIR",
    help="where the page goes: DIR/index.html",
)
@option("--images/--no-images", default=True, help="draw the sets, and real images beside them")
@option(
    "--max-size",
    default="20M",
    metavar="SIZE",
    help="size of the page, at most; images that do not fit are left out, and that is said",
)
@root_option
@plugin_option
@json_option
def report(
    runs: tuple[Path, ...],
    out: Path,
    images: bool,
    max_size: str,
    data_root: str | None,
    plugins: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make one page that shows everything: tables, plots, images, traces, published numbers, provenance.

    It is one file, opens in any browser without a network, and fetches nothing.
    """
    from ddbench import board as board_
    from ddbench import report as report_
    from ddbench import store

    set_data_root(data_root)
    load_plugins(plugins)
    limit = size_mib("--max-size", max_size)
    unreadable: list[str] = []
    made = report_.make(
        [store.RunFolder(folder) for folder in runs or (Path("runs"),)],
        images=images,
        max_bytes=report_.MAX_BYTES if limit is None else int(limit * 2**20),
        unreadable=unreadable,
    )
    warn(unreadable)
    path = report_.write(made, out)
    shown = made.document
    counts = {
        "records": shown["overview"]["records"],
        "rows": sum(len(b["rows"]) for b in shown["boards"]),
        "sets": len(shown["sets"]),
        "traces": len(shown["traces"]),
        "claims": len(shown["claims"]["rows"]),
    }
    size = path.stat().st_size
    document = {
        "page": str(path),
        "bytes": size,
        **counts,
        "left_out": made.left_out,
        "unreadable": unreadable,
    }
    lines = [f"left out: {line}" for line in made.left_out]
    said = ", ".join(counted(n, what.removesuffix("s")) for what, n in counts.items())
    say(as_json, document, "\n".join([*lines, f"{said}; {board_.human_bytes(size)}", str(path)]))


COMMANDS = (report,)
