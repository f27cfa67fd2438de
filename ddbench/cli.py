"""The program: ``ddbench ...`` and ``python run_bench.py ...`` are the same; the commands are in ``ddbench/commands/``.

Nothing heavy is imported before a command needs it, so that listings answer at once.  Exit status: 0 all went well,
1 a cell failed (or a check of ``doctor``, or the disk), 2 what was asked for makes no sense or is not there, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import cloup

import ddbench
from ddbench.commands import (
    board,
    cache,
    claims,
    data,
    evaluate,
    exchange,
    experts,
    labels,
    listing,
    report,
    reproduce,
    run,
    setup,
    teachers,
    trust,
)
from ddbench.commands.common import HELP, Failed, example


@cloup.group(
    context_settings=HELP,
    epilog=example("ddbench run", "ddbench list methods", "ddbench run --method dm --ipc 10 --seeds 3"),
)
@cloup.version_option(ddbench.__version__, prog_name="ddbench")
def cli() -> None:
    """ddbench: distil data sets with many methods, score every set under one protocol, write leaderboards.

    With no command, the embedded suite runs (real 8x8 digits, no download, a few minutes on two cores).
    """


_TOPICS = (
    run,
    evaluate,
    board,
    report,
    claims,
    reproduce,
    exchange,
    trust,
    listing,
    data,
    cache,
    experts,
    teachers,
    labels,
    setup,
)
for _module in _TOPICS:
    for _command in _module.COMMANDS:
        cli.add_command(_command)


def _explained(error: Exception) -> tuple[str, int]:
    """What to say, and the exit status."""
    from ddbench.registry import PluginError
    from ddbench.store import WriteError

    if isinstance(error, WriteError):
        return str(error), 1
    clear = (LookupError, ValueError, ImportError, FileNotFoundError, FileExistsError, PluginError)
    if isinstance(error, clear) and not isinstance(error, (KeyError, IndexError)):
        return str(error) or type(
            error
        ).__name__, 2  # what people gave is wrong, or a file or package is missing
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno} in {place.name}"
    return f"{type(error).__name__}: {error} ({where}); DDBENCH_DEBUG=1 shows the whole traceback", 1


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program; ends the process with the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # `ddbench --device cpu` means the embedded suite, too: options before any command belong to `run`
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help", "--version")):
        given = ["run", *given]
    # With --json only the document goes to standard output, whatever a library or a method prints
    printed = contextlib.redirect_stdout(sys.stderr) if "--json" in given else contextlib.nullcontext()
    status: Any = 0
    out = sys.stdout
    try:
        with printed:
            cli.main(given, prog_name="ddbench", standalone_mode=False, obj=out)
    except Failed as failed:
        status = failed.status
    except (cloup.Abort, KeyboardInterrupt) as stopped:
        # click makes an Abort of the KeyboardInterrupt, which may say what is kept
        said = str(stopped.__cause__ if isinstance(stopped, cloup.Abort) else stopped)
        cloup.echo(f"interrupted: {said}" if said not in ("", "None") else "interrupted", err=True)
        status = 130
    except cloup.ClickException as error:
        error.show()
        status = error.exit_code
    except Exception as error:
        if os.environ.get("DDBENCH_DEBUG"):
            raise
        text, status = _explained(error)
        cloup.echo(f"error: {text}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
