"""Commands and their help; no logic.  ``ddbench ...`` and ``python run_bench.py ...`` are the same program.

Nothing heavy is imported before a command needs it, so that listings answer at once.  Exit status: 0 all went well,
1 a cell failed (or a check of ``doctor``), 2 the request cannot be understood, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import cloup
from cloup import option, option_group

import ddbench

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}


class _Failed(Exception):
    """Ends the command with this exit status; everything was said already."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _example(*lines: str) -> str:
    return "\b\nexample" + ("s" if len(lines) > 1 else "") + ":\n" + "\n".join(f"  {line}" for line in lines)


def _plugins(files: Sequence[str]) -> None:
    from ddbench import registry

    for file in files:
        registry.add_file(file)


def _data_root(root: str | None) -> None:
    """The data root travels as the environment variable, so that worker processes see it too."""
    if root is not None:
        os.environ["DDBENCH_DATA"] = str(Path(root).expanduser().resolve())


_plugin = option("--plugin", "plugins", multiple=True, metavar="FILE.py", help="a method or data set of your own; repeatable")
_root = option("--data-root", metavar="DIR", help="where data sets lie (default: DDBENCH_DATA, else ~/.cache/ddbench/data)")
_as_json = option("--json", "as_json", is_flag=True, help="one JSON document on standard output, for scripts")
_quiet = option("--quiet", "-q", is_flag=True, help="no progress, only results and errors")
_runs = option("--runs", default="runs", metavar="DIR", help="run folder: sets, records, checkpoints")


def _how(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say on what, and how exactly, something runs."""
    return option_group(
        "how it runs:",
        option("--device", default="auto", metavar="auto|cpu|cuda[:i]", help="where to compute"),
        option("--precision", default="fp32", metavar="fp32|tf32|bf16", help="arithmetic of student training; in the record"),
        option("--engine", default="auto", metavar="PATH", help="auto|plain|compiled|stacked|stacked-compiled"),
        option("--memory-limit", metavar="SIZE", help="plan with so much memory, such as 4G; larger data stay on disk"),
        _root,
        _plugin,
    )(function)


def _say(as_json: bool, value: Any, text: str) -> None:
    cloup.echo(json.dumps(value, indent=1, default=str) if as_json else text)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    from tabulate import tabulate

    return tabulate(rows, headers="keys", tablefmt="plain", disable_numparse=True) if rows else "(none)"


@cloup.group(context_settings=_HELP)
@cloup.version_option(ddbench.__version__, prog_name="ddbench")
def cli() -> None:
    """ddbench: distil data sets with many methods, score every set under one protocol, write leaderboards.

    With no command, the embedded suite runs (real 8x8 digits, no download, a few minutes on two cores).
    """
