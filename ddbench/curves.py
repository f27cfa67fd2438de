"""How distillations went: traces and accuracies over time -> tables, plots, TensorBoard event files.  No torch on import.

A *trace* holds what a method logged (``traces/<set key>.jsonl``: ``loop``, ``iteration``, ``s`` and the values); an
*accuracy curve* what students reached on snapshots of a set (``curves/<set key>/<record key>.jsonl``: ``iteration``,
``seconds``, ``top1``, ``students``, ``protocol``, ``network``, ``set``).  Iterations count updates: a value at iteration i is
of the set after i updates, a snapshot at i too.  Seconds are those of the construction, without what showing it took.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench import store

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("loop", "iteration", "s")
"""What every row of a trace has; the other fields are logged values."""
ACCURACY = "top1_pct"
_COLUMNS = (
    *("run", "set_key", "protocol", "network", "students"),
    *("loop", "iteration", "seconds", "quantity", "value"),
)


def read_trace(path: Path) -> list[dict[str, Any]]:
    """Rows of a trace: ``loop``, ``iteration`` in it, ``s`` (seconds so far) and the values that the method logged.

    A last line that was cut off by a kill is left out.
    """
    return store.read_rows(path)


# ------------------------------------------------------------------------------------------------ finding them


@dataclass(frozen=True)
class Run:
    """One distillation.  ``key``: of its set; ``name``: for people; ``group``: the name without the seed."""

    key: str
    name: str
    group: str
    trace: list[dict[str, Any]] = field(default_factory=list)
    accuracy: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    """Rows of each (protocol, network)."""


def place(key: str) -> str:
    """``digits-ipc10`` of ``dm-digits-10-0-<hash>``: what runs must share to stand in one plot."""
    parts = key.split("-")
    return f"{parts[1]}-ipc{parts[2]}" if len(parts) >= 5 else "runs"


def _names(key: str) -> tuple[str, str]:
    parts = key.split("-")
    if len(parts) != 5:
        return key, key
    method, dataset, ipc, seed, _ = parts
    group = f"{method} {dataset} ipc {'all' if ipc == '0' else ipc}"
    return f"{group} seed {seed}", group


def find(folder: store.RunFolder, names: Sequence[str] = ()) -> list[Run]:
    """The distillations of a run folder that logged something or have accuracies over time, in the order of their keys.

    Args:
        names: beginnings of keys of sets or records, or files of sets or records; none: all.

    Raises:
        LookupError: a name that fits nothing, with the nearest ones.
    """
    from ddbench import registry

    traces = {p.stem for p in (folder.path / "traces").glob("*.jsonl") if not p.name.startswith(".")}
    curves = {p.stem: p for p in (folder.path / "curves").glob("*/*.jsonl") if not p.name.startswith(".")}
    sets = sorted(traces | {p.parent.name for p in curves.values()})
    wanted = [Path(n).stem if Path(n).suffix else n for n in names]
    for name, given in zip(wanted, names, strict=True):
        if not any(key.startswith(name) for key in [*sets, *curves]):
            near = registry.nearest(name, sets) if sets else "nothing was logged there"
            raise LookupError(
                f"nothing in {folder.path} is called {given!r}; expected the beginning of a key of a set or record, or its "
                f"file; {near} (all of them: no name at all)"
            )
    found: list[Run] = []
    for key in sets:
        mine = {stem: path for stem, path in curves.items() if path.parent.name == key}
        whole = not wanted or any(key.startswith(name) for name in wanted)
        if not whole:  # named by records: only these
            mine = {stem: p for stem, p in mine.items() if any(stem.startswith(n) for n in wanted)}
            if not mine:
                continue
        accuracy: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for stem in sorted(mine):
            for row in store.read_rows(mine[stem]):
                accuracy.setdefault((row["protocol"], row["network"]), []).append(row)
        name, group = _names(key)
        found.append(Run(key, name, group, read_trace(folder.trace_path(key)), accuracy))
    twins = [run.name for run in found]
    return [
        run
        if twins.count(run.name) == 1
        else Run(run.key, f"{run.name} ({run.key[-20:-14]})", f"{run.group} ({run.key[-20:-14]})",
                 run.trace, run.accuracy)
        for run in found
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------ tables


def _values(trace: Iterable[dict[str, Any]]) -> Iterator[tuple[str, int, int, float, float]]:
    """(quantity, loop, iterations over all loops, seconds, value) of each number of a trace."""
    base = ends = 0
    loop = 0
    for row in trace:
        if row["loop"] != loop:
            base, loop = ends, row["loop"]
        at = base + row["iteration"]
        ends = max(ends, at + 1)
        for name, value in row.items():
            if name not in KEYS:
                yield name, row["loop"], at, float(row.get("s", math.nan)), float(value)


def table(runs: Iterable[Run]) -> pd.DataFrame:
    """One row a number: run, set_key, protocol, network, students, loop, iteration (over all loops), seconds, quantity, value.

    Accuracies are in percent (``top1_pct``), the mean over the students.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for run in runs:
        own = {"run": run.name, "set_key": run.key}
        for quantity, loop, at, seconds, value in _values(run.trace):
            rows.append(own | dict(loop=loop, iteration=at, seconds=seconds, quantity=quantity, value=value))
        for (protocol, network), points in run.accuracy.items():
            for p in sorted(points, key=lambda p: p["iteration"]):
                shared = {k: p[k] for k in ("iteration", "seconds", "students")}
                of = dict(protocol=protocol, network=network, quantity=ACCURACY, value=100 * p["top1"])
                rows.append(own | shared | of)
    made: pd.DataFrame = pd.DataFrame(rows, columns=list(_COLUMNS))
    made[["loop", "students"]] = made[["loop", "students"]].astype("Int64")
    return made


def quantities(runs: Iterable[Run], chosen: Sequence[str] = ()) -> list[str]:
    """What a plot shows: the values named, else ``loss`` (where nothing is called so: what was logged first) and accuracy.

    Raises:
        LookupError: a value that was not logged.
    """
    runs = list(runs)
    logged = dict.fromkeys(k for run in runs for row in run.trace for k in row if k not in KEYS)
    scored = any(run.accuracy for run in runs)
    known = [*logged, *([ACCURACY] if scored else [])]
    for name in chosen:
        if name not in known:
            raise LookupError(f"no value {name!r} in these traces; known: {', '.join(known) or 'none'}")
    if chosen:
        return list(chosen)
    first = ["loss"] if "loss" in logged else list(logged)[:1]
    return [*first, *([ACCURACY] if scored else [])]


def summary(runs: Iterable[Run]) -> list[dict[str, str]]:
    """One row a run for people: how far, how long, first and last of each value that a plot shows."""
    rows = []
    for run in runs:
        numbers = table([run])
        row = {
            "run": run.name,
            "iterations": f"{int(numbers['iteration'].max()) if len(numbers) else 0:,}",
            "seconds": f"{numbers['seconds'].max():.1f}" if len(numbers) else "",
        }
        for name in quantities([run]):
            part = numbers[numbers["quantity"] == name]
            ends = []
            for (protocol, network), line in part.groupby(["protocol", "network"], dropna=False):
                of = f" ({protocol} {network})" if isinstance(protocol, str) else ""
                digits = ".1f" if name == ACCURACY else ".4g"
                ends.append(f"{line['value'].iloc[0]:{digits}} -> {line['value'].iloc[-1]:{digits}}{of}")
            row["top-1 %" if name == ACCURACY else "trace"] = (
                "; ".join(ends) if name == ACCURACY else f"{name} {'; '.join(ends)}"
            )
        rows.append({"trace": "", "top-1 %": "", **row})
    order = ("run", "iterations", "seconds", "trace", "top-1 %")
    return [{k: row[k] for k in order} for row in rows]


# ------------------------------------------------------------------------------------------------ plots

_NOISY = 80
"""From so many points on, a line is drawn faintly, and its running mean over a fortieth of it firmly."""


def plot(runs: Sequence[Run], path: Path, chosen: Sequence[str] = ()) -> Path:
    """Write one PNG: a row a quantity, over iterations on the left and over seconds on the right; a legend of the runs.

    Runs that differ in the seed alone share a colour.

    Raises:
        LookupError: a value that was not logged.
        ValueError: there is nothing to plot, or the path is no PNG.
        store.WriteError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    if path.suffix.lower() != ".png":
        raise ValueError(f"the plot {path} has the suffix {path.suffix!r}; expected .png")
    shown = quantities(runs, chosen)
    if not shown:
        raise ValueError("nothing was logged and no snapshot was scored; expected runs with a trace")
    numbers = table(runs)
    groups = list(dict.fromkeys(run.group for run in runs))
    per_group = {g: sum(run.group == g for run in runs) for g in groups}
    pairs = list(dict.fromkeys(pair for run in runs for pair in run.accuracy))
    fig, axes = plt.subplots(
        len(shown), 2, figsize=(11, 3.4 * len(shown) + 0.3), squeeze=False, sharex="col", layout="constrained"
    )
    for quantity, row in zip(shown, axes, strict=True):
        labelled: set[str] = set()
        for run in runs:
            mine = numbers[(numbers["set_key"] == run.key) & (numbers["quantity"] == quantity)]
            several = per_group[run.group] > 1
            base = f"{run.group}, {per_group[run.group]} seeds" if several else run.name
            for pair, line in mine.groupby(["protocol", "network"], dropna=False, sort=False):
                of = f" ({pair[0]} {pair[1]})" if quantity == ACCURACY and len(pairs) > 1 else ""
                style: dict[str, Any] = {"color": f"C{groups.index(run.group) % 10}"}
                if quantity == ACCURACY:
                    style |= dict(marker="o", ms=4, ls=("-", "--", ":", "-.")[pairs.index(pair) % 4])
                label = None if base + of in labelled else base + of
                labelled.add(base + of)
                for ax, x in zip(row, ("iteration", "seconds"), strict=True):
                    _line(ax, line[x], line["value"], label, style, thin=several)
        _dress(row, quantity, numbers[numbers["quantity"] == quantity]["value"], pairs)
    with store.writing(path) as temporary:
        fig.savefig(temporary, dpi=130, format="png")
    plt.close(fig)
    return path


def _line(ax: Any, x: Any, y: Any, label: str | None, style: dict[str, Any], thin: bool) -> None:
    width = 1.0 if thin else 1.6
    if len(y) >= _NOISY and "marker" not in style:
        ax.plot(x, y, lw=0.6, alpha=0.25, **style)
        y = y.rolling(max(3, len(y) // 40), center=True, min_periods=1).mean()
    elif len(y) == 1 and "marker" not in style:
        style = {**style, "marker": "."}
    ax.plot(x, y, lw=width, label=label, **style)


def _dress(row: Sequence[Any], quantity: str, values: Any, pairs: Sequence[tuple[str, str]]) -> None:
    accuracy = quantity == ACCURACY
    name = "test top-1, %" if accuracy else quantity
    if accuracy and len(pairs) == 1:
        name += f"\n{pairs[0][0]}, {pairs[0][1]}"
    steep = not accuracy and len(values) > 1 and values.min() > 0 and values.max() > 50 * values.min()
    for ax, label in zip(row, ("iterations", "seconds of construction"), strict=True):
        if steep:
            ax.set_yscale("log")
        ax.set_xlabel(label)
        ax.grid(alpha=0.3)
    row[0].set_ylabel(name)
    handles, labels = row[0].get_legend_handles_labels()
    if 0 < len(labels) <= 12:
        row[0].legend(handles, labels, fontsize=8)
    elif labels:  # beside the panels, where it hides nothing
        row[1].legend(handles, labels, fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))


def write(runs: Sequence[Run], path: Path, chosen: Sequence[str] = ()) -> list[Path]:
    """Write the plot ``path`` (PNG) and its numbers beside it (CSV); returns both paths.  Raises as :func:`plot`."""
    plot(runs, path, chosen)
    numbers = path.with_suffix(".csv")
    store.write_text(numbers, table(runs).to_csv(index=False, float_format="%.8g"))
    return [path, numbers]


def write_all(folder: store.RunFolder, keys: Iterable[str]) -> list[Path]:
    """The plots of a finished run, ``curves/<data set>-ipc<n>.png`` and ``.csv``, of those of the sets ``keys`` that logged
    something; returns the PNGs."""
    keys = set(keys)
    places: dict[str, list[Run]] = {}
    for run in find(folder):
        if run.key in keys and (run.trace or run.accuracy):
            places.setdefault(place(run.key), []).append(run)
    return [write(runs, folder.path / "curves" / f"{name}.png")[0] for name, runs in places.items()]


# ------------------------------------------------------------------------------------------------ TensorBoard


def check_tensorboard() -> None:
    """Raises ImportError, with what to install, where event files cannot be written."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"--tensorboard needs the package tensorboard, which is not here ({error}); pip install 'ddbench[tensorboard]'"
        ) from None


class Events:
    """TensorBoard event files in one folder.

    ``first``: iterations from which on this process writes; what a killed one wrote from there on is void.
    """

    def __init__(self, folder: Path, first: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if first == 0 and folder.exists():
            shutil.rmtree(folder)
        self._writer: Any = SummaryWriter(str(folder), purge_step=first or None)

    def number(self, name: str, value: float, iteration: int) -> None:
        self._writer.add_scalar(name, value, iteration)

    def picture(self, name: str, path: Path, iteration: int) -> None:
        """An image file."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(name, pixels, iteration, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def accuracy_events(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Accuracies over time as event files, in the place of what was there."""
    events = Events(folder)
    for row in rows:
        events.number(ACCURACY, 100 * row["top1"], row["iteration"])
    events.close()
