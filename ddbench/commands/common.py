"""What the commands share: options, texts, tables, the run's context."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cloup
from cloup import option, option_group

from ddbench.texts import table_text as table_text

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}


# As in train/engine.py, which needs torch; tests/test_cli.py compares them.
PRECISIONS = ("fp32", "tf32", "bf16", "float64")
ENGINES = ("auto", "plain", "compiled", "stacked", "stacked-compiled")


class Failed(Exception):
    """Ends the command with this exit status; everything was said already."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def example(*lines: str) -> str:
    return "\b\nexample" + ("s" if len(lines) > 1 else "") + ":\n" + "\n".join(f"  {line}" for line in lines)


def load_plugins(files: Sequence[str]) -> None:
    from ddbench import registry

    for file in files:
        registry.add_file(file)


def set_data_root(root: str | None) -> None:
    """The data root travels as the environment variable, so that worker processes see it too."""
    if root is not None:
        os.environ["DDBENCH_DATA"] = str(Path(root).expanduser().resolve())


class There(cloup.Path):
    """A path that must be there, given as a ``pathlib.Path``; else an error as everywhere, which says what was expected."""

    def __init__(self, expected: str, *, folder: bool | None = False) -> None:
        """``expected``: such as ``a distilled set (.safetensors)``; ``folder``: None for a file or a folder."""
        super().__init__(path_type=Path, dir_okay=folder is not False, file_okay=folder is not True)
        self.expected, self.folder = expected, folder

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        path = Path(value)
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there; expected {self.expected}")
        if self.folder is not None and path.is_dir() != self.folder:
            raise ValueError(f"{path} is a {'file' if self.folder else 'folder'}; expected {self.expected}")
        return path


A_SET = There("a distilled set (.safetensors)")
RUN_FOLDER = There("a run folder (see: ddbench run --runs DIR)", folder=True)


plugin_option = option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE.py",
    help="a method or data set of your own; repeatable",
)
root_option = option(
    "--data-root",
    metavar="DIR",
    help="where data sets lie (default: DDBENCH_DATA, else ~/.local/share/ddbench/data)",
)
json_option = option(
    "--json", "as_json", is_flag=True, help="one JSON document on standard output, for scripts"
)
quiet_option = option("--quiet", "-q", is_flag=True, help="no progress, only results and errors")
runs_option = option("--runs", default="runs", metavar="DIR", help="run folder: sets, records, checkpoints")
device_option = option("--device", default="auto", metavar="auto|cpu|cuda[:i]", help="where to compute")
memory_option = option(
    "--memory-limit",
    metavar="SIZE",
    help="plan with so much memory, such as 4G; larger data stay on disk",
)
run_folders_option = option(
    "--runs",
    multiple=True,
    type=RUN_FOLDER,
    metavar="DIR",
    help="run folder; repeatable (default: runs)",
)


def how_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say on what, and how exactly, something runs."""
    return option_group(
        "how it runs",
        device_option,
        option(
            "--precision",
            default="fp32",
            type=cloup.Choice(PRECISIONS),
            metavar="fp32|tf32|bf16",
            help="arithmetic of student training; in the record",
        ),
        option(
            "--engine",
            default="auto",
            type=cloup.Choice(ENGINES),
            metavar="PATH",
            help=f"how students are trained: {', '.join(ENGINES)}",
        ),
        memory_option,
        root_option,
        plugin_option,
    )(function)


def watch_options(*more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options that show a set under way, in the order of the page docs/watching.md."""
    return option_group(
        "watching it",
        option(
            "--snapshot-every",
            type=cloup.IntRange(min=0),
            metavar="N",
            help="iterations between snapshots and contact sheets of a set under way; 0: none (default: 0, or the suite's)",
        ),
        *more,
        option(
            "--tensorboard",
            is_flag=True,
            help="event files, too, in the run folder's tensorboard/ (needs ddbench[tensorboard])",
        ),
    )


def say(as_json: bool, value: Any, text: str) -> None:
    """The result of a command, on the standard output of the program (see main)."""
    shown = json.dumps(value, indent=1, default=str) if as_json else text
    cloup.echo(shown, file=cloup.get_current_context().obj)


def counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def facts_text(value: dict[str, Any]) -> str:
    return "\n".join(f"{k}: {v}" for k, v in value.items())


def settings_text(settings: dict[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in settings.items()) or "none"


def note_texts(notes: dict[str, Any]) -> dict[str, str]:
    """Notes of a card as lines of text."""
    return {
        f"note ({k})": ", ".join(str(x) for x in v) if isinstance(v, (list, tuple)) else str(v)
        for k, v in notes.items()
    }


def set_numbers(distilled: Any) -> dict[str, Any]:
    """Learned step sizes and the eps of a whitened space, where a set has them."""
    zca = None if distilled.space is None else distilled.space.zca
    return {
        "step_sizes": None if distilled.program is None else distilled.program.step_sizes.tolist(),
        "zca_eps": None if zca is None else zca.eps,
    }


def set_beside(distilled: Any) -> dict[str, str]:
    """What only some sets have: learned step sizes, a whitened space, seconds of teachers or experts."""
    found, numbers = {}, set_numbers(distilled)
    if sizes := numbers["step_sizes"]:
        low, high = f"{min(sizes):.4g}", f"{max(sizes):.4g}"
        found["learned step size"] = low if len(sizes) == 1 else f"{len(sizes)}, from {low} to {high}"
    if numbers["zca_eps"] is not None:
        found["space"] = f"whitened (zca eps {numbers['zca_eps']:g})"
    if distilled.card.cost.teacher_s > 0:
        found["seconds of networks on real data"] = f"{distilled.card.cost.teacher_s:.1f}"
    return found


def size_mib(flag: str, text: str | None) -> float | None:
    from ddbench import store

    try:
        return store.parse_size(text) / 2**20 if text else None
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from None


def entries_text(n: int) -> str:
    return f"{n} {'entry' if n == 1 else 'entries'}"


def all_or_named(group: str, fingerprints: Sequence[str], everything: bool) -> None:
    """What is to be removed was said, once."""
    if everything == bool(fingerprints):
        given = "--all and fingerprints were both given" if everything else "nothing was named"
        raise ValueError(f"{given}; expected fingerprints, or --all (see: ddbench {group} list)")


def say_removed(
    as_json: bool,
    gone: Sequence[Any],
    dry_run: bool,
    document: Callable[[Any], Any],
    row: Callable[[Any], dict[str, Any]],
) -> None:
    from ddbench.board import human_bytes

    word = "would remove" if dry_run else "removed"
    total = human_bytes(sum(entry.size_bytes for entry in gone))
    table = table_text([row(entry) for entry in gone])
    say(as_json, [document(entry) for entry in gone], f"{word} {entries_text(len(gone))}, {total}\n{table}")


def recipe_text(recipe: dict[str, Any]) -> str:
    """What differs from the defaults of a recipe; ``recipe`` as JSON has it."""
    import dataclasses

    from ddbench.contract import TeacherRecipe

    plain = json.loads(json.dumps(dataclasses.asdict(TeacherRecipe())))  # tuples are lists there
    apart = ("network", "epochs", "count")
    found = {k: v for k, v in recipe.items() if k not in apart and (k not in plain or v != plain[k])}
    factors = found.get("early_factors", ())
    if len(factors) > 3:
        found["early_factors"] = f"{factors[0]:g}..{factors[-1]:g} ({len(factors)})"
    return settings_text(found) if found else "defaults"


def percent(value: float | None) -> str:
    return "" if value is None or value != value else f"{100 * value:.1f}"


def make_context(
    runs: str, device: str, precision: str, engine: str, memory_limit: str | None, **more: Any
) -> Any:
    from ddbench import registry, runner

    context = runner.Context(
        run=Path(runs),
        device=device,
        precision=precision,
        engine=engine,
        memory_limit_mib=size_mib("--memory-limit", memory_limit),
        plugins=tuple(registry.added_files()),
        **more,
    )
    runner.check(context)
    return context


def time_budget_of(text: str | None) -> Any:
    from ddbench.task import TimeBudget, parse_duration

    return TimeBudget(parse_duration(text, "--time-budget") if text else None)


def parse_seeds(text: str) -> int | list[int]:
    """``5`` -> seeds 0..4; ``3,7`` -> those two; ``7,`` -> that one."""
    try:
        numbers = [int(part) for part in text.removesuffix(",").split(",")]
    except ValueError:
        raise ValueError(f"--seeds is {text!r}; expected a count such as 5, or seeds such as 0,3,7") from None
    if "," not in text and numbers[0] < 1:
        raise ValueError(f"--seeds is {text}; expected at least 1")
    return numbers if "," in text else numbers[0]


def write_boards(
    runs: Sequence[Path], out: Path, plots: bool = True, kinds: Sequence[str] = (), uniform: str = ""
) -> tuple[list[Any], list[Path], list[str]]:
    """Boards of the kinds named (none: all) from the records of run folders: boards, files, records that can't be read."""
    from ddbench import board, claims, store

    unreadable: list[str] = []
    kinds = kinds or board.KINDS
    collecting = gc.isenabled()
    gc.disable()  # thousands of records, no cycle among them: looking at all of them again and again took a third of the time
    try:
        records = [r for folder in runs for r in store.RunFolder(folder).records(unreadable)]
        published = claims.published() if records and "as-published" in kinds else ()
        boards = board.make(records, published, kinds, uniform)
    finally:
        if collecting:
            gc.enable()
    return boards, board.write(boards, out, plots, kinds), unreadable


def files_text(made: Sequence[Path]) -> str:
    """``leaderboards: 5 pages, 5 tables and 3 plots; begin with leaderboards/README.md``."""
    kinds = {".md": "page", ".csv": "table", ".png": "plot"}
    counts = {what: sum(p.suffix == suffix for p in made) for suffix, what in kinds.items()}
    said = [counted(n, what) for what, n in counts.items() if n]
    text = f"{made[0].parent}: {' and '.join(filter(None, (', '.join(said[:-1]), said[-1])))}"
    first = next((p for p in made if p.name == "README.md"), None)
    return text + (f"; begin with {first}" if first else "")


def run_cells(cells: Sequence[Any], context: Any, *, jobs: int = 1) -> Any:
    """``executors.run``, each outcome told as a line on the standard error, each reason once (nothing in a quiet context)."""
    from ddbench import executors

    said: set[str] = set()

    def told(outcome: Any) -> None:
        from tqdm import tqdm

        if not context.quiet and outcome.status not in ("cached", "left"):
            tqdm.write(executors.brief(outcome, outcome.reason not in said), file=sys.stderr)
            said.add(outcome.reason)
            for line in executors.notes(outcome) if jobs > 1 else ():  # else the task said it
                if line not in said:
                    tqdm.write(line, file=sys.stderr)
                    said.add(line)

    return executors.run(cells, context, jobs=jobs, told=told)


def outcome_document(outcome: Any) -> dict[str, Any]:
    """What became of a cell, for ``--json``."""
    return {
        "cell": outcome.cell.model_dump(),
        "status": outcome.status,
        "reason": outcome.reason,
        "record": outcome.record.model_dump() if outcome.record else None,
    }


def unscored(outcomes: Sequence[Any]) -> list[str]:
    """Cells that failed or were skipped in this run, each reason once."""
    from ddbench import executors

    reasons: dict[tuple[str, str], list[Any]] = {}
    for outcome in outcomes:
        if outcome.status in ("failed", "skipped"):
            reasons.setdefault((outcome.status, outcome.reason), []).append(outcome)
    lines = []
    for (status, reason), those in reasons.items():
        lines.append(f"{status}: {reason}")
        names = [executors.brief(o, reason=False).removesuffix(f": {status}") for o in those]
        lines += [f"  {name}" for name in names[:10]]
        lines += [f"  and {len(names) - 10} more"] if len(names) > 10 else []
    return lines


def warn(lines: Sequence[str]) -> None:
    for line in lines:
        cloup.echo(f"warning: {line}", err=True)
