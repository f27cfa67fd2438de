"""Boards as Markdown and as text for a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from tabulate import tabulate

from ddbench.board.rows import UPPER_BOUND

Line = Mapping[str, Any]
"""A row of a table by column; what is missing or NaN is empty."""


UNKNOWN = "–"
"""Of a set whose distillation nobody measured here."""


def human_bytes(n: float) -> str:
    """12_300 -> '12.3 kB' (powers of 1000)."""
    if not math.isfinite(n):
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError("unreachable")


def missing(value: Any) -> bool:
    """None, NaN and pandas' NA."""
    return value is None or value is pd.NA or value != value


def lines_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    columns = [str(c) for c in table.columns]
    values = [table[c].tolist() for c in table.columns]
    return [dict(zip(columns, line, strict=True)) for line in zip(*values, strict=True)]


def pipe(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table; the keys of the first row are its head."""
    # tabulate's "pipe" to the letter, which looks at every cell's type and took half of the time of all boards
    columns = [[name, *(row[name].replace("|", "\\|") for row in rows)] for name in rows[0]]
    widths = [max(len(column[0]) + 2, *map(len, column)) for column in columns]
    padded = [[cell.ljust(w) for cell in column] for column, w in zip(columns, widths, strict=True)]
    first, *body = ("| " + " | ".join(line) + " |" for line in zip(*padded, strict=True))
    return "\n".join([first, "|" + "|".join(":" + "-" * (w + 1) for w in widths) + "|", *body])


def pct(value: Any, digits: int = 1) -> str:
    return "" if missing(value) else f"{value:.{digits}f}"


def seconds(value: Any) -> str:
    """Tenths; hundredths below a tenth, and ``<0.01``, so that what costs little does not read as nothing."""
    if missing(value):
        return ""
    if 0 < value < 0.01:
        return "<0.01"
    return f"{value:.2f}" if 0 < value < 0.1 else f"{value:.1f}"


def plus_minus(mean: Any, std: Any) -> str:
    return pct(mean) + ("" if missing(std) else f" ± {std:.1f}")


def rank(line: Line) -> str:
    if missing(line.get("rank")):
        return ""
    first, last = int(line["rank"]), int(line["rank_last"])
    return (str(first) if first == last else f"{first}-{last}") + ("*" if _by_students(line) else "")


def _by_students(line: Line) -> bool:
    """Whether a row is tested by the students of its only set."""
    return bool(line["distillations"] == 1 and line["n"] > 1)


def interval(line: Line, low: str = "ci95_low_pct", high: str = "ci95_high_pct") -> str:
    return "" if missing(line.get(low)) else f"{line[low]:.1f} .. {line[high]:.1f}"


def size(line: Line) -> str:
    beside = line["bytes_beside"]
    return human_bytes(line["bytes_total"]) + (f" + {human_bytes(beside)} beside" if beside > 0 else "")


def method(line: Line) -> str:
    return str(line["method"]) + (" (partial)" if line["partial"] else "")


def recipe(line: Line) -> str:
    return str(line["recipe"]) + (f" + {line['overrides']}" if line["overrides"] else "")


def vs_random(line: Line) -> str:
    if missing(line.get("vs_random_pct")):
        return ""
    gap = f"{line['vs_random_pct']:+.1f}"
    if not missing(line.get("vs_random_low_pct")):
        gap += f" [{line['vs_random_low_pct']:+.1f}, {line['vs_random_high_pct']:+.1f}]"
    return gap + f" n={line['vs_random_n']}"


def cells(line: Line, metric: str = "top-1") -> dict[str, str]:
    return {
        "ipc": "all" if line["method"] == UPPER_BOUND else str(line["ipc"]),
        "rank": rank(line),
        "method": method(line),
        "family": line["family"],
        "recipe": recipe(line),
        "labels": line["labels"],
        f"{metric} %": plus_minus(line["top1_pct_mean"], line["top1_pct_std"]),
        "n (sets)": f"{line['n']} ({line['distillations']})",
        "95 % interval": interval(line),
        "vs random": vs_random(line),
        "% of full": pct(line.get("share_of_full_pct")),
        "bytes": size(line),
        "distil s": seconds(line["distil_s"]) or UNKNOWN,
        "peak MiB": pct(line["distil_peak_mib"], 0) or UNKNOWN,
        "device": line["device"],
        "precision": line["precision"],
    }


def _named(line: Line) -> str:
    ipc = "all" if line["method"] == UPPER_BOUND else line["ipc"]
    return f"{method(line)} ({recipe(line)}) ipc {ipc}"


def _best_epoch(line: Line) -> str:
    """``dm (authors) ipc 10 66.1 ± 0.3``."""
    return f"{_named(line)} {plus_minus(line['best_epoch_pct_mean'], line['best_epoch_pct_std'])}"


def _best_snapshot(line: Line) -> str:
    """``mtt (authors) ipc 1 46.2 (5 students, after 3,400 iterations)``."""
    said = f"{line['best_snapshot_students']} student{'' if line['best_snapshot_students'] == '1' else 's'}"
    if line["best_snapshot_n"] > 1:
        said += f" a snapshot, {line['best_snapshot_n']} sets"
    elif not missing(line["best_snapshot_iteration"]):
        said += f", after {line['best_snapshot_iteration']:,} iterations"
    return f"{_named(line)} {line['best_snapshot_pct_mean']:.1f} ({said})"


_KEY = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{4,}\b")


def _teachers(part: Iterable[Line]) -> list[str]:
    """Who labelled which rows, one text a labeller: ``cda: the protocol's own ConvNetD2W32BN 0a1b2c3d, 97.2 % held out``."""
    found: dict[str, list[str]] = {}
    for line in part:
        if line["teachers"]:
            first, *others = line["teachers"].split(" | ")
            more = f" (and {len(others)} more, by seed or ipc)" if others else ""
            found.setdefault(_KEY.sub(r"\1", first) + more, []).append(f"{method(line)} ({recipe(line)})")
    return [f"{', '.join(sorted(set(names)))}: {text}" for text, names in found.items()]


OWN = "ddbench's own: **not comparable with published numbers.**"
RANKS = (
    "`rank` is the range of places that a row may hold: rows whose difference is not significant (level 0.05) share places.\n"
    "Tested are the differences seed by seed of rows with the same seeds, else Welch's t over distillations. `*`: one set\n"
    "only, tested by its students, so that it looks surer than it is; one student alone is told apart from nothing.\n"
)


def head() -> str:
    return (
        "Top-1 accuracy on the untouched test set after the last epoch: mean ± population deviation over all students; the\n"
        "interval is Student's t over distillations (students of one set averaged first); `vs random` is paired by seed,\n"
        "n counting distillations, and the same networks labelled both. `labels` is what students learned from. Bytes are\n"
        "those of the set, labels included; what must stand beside it while students train (teachers) is not summed in. Peak\n"
        "memory is that of tensors on a GPU, of the whole process on CPU. Made from records by `ddbench board`; the CSV\n"
        f"beside this page has every column.\n{RANKS}"
        "What each protocol does is on the page leaderboards/PROTOCOLS.md of ddbench.\n"
    )


def sections(table: pd.DataFrame, metric: str = "top-1") -> str:
    """One table a protocol and network."""
    out = []
    for part in _parts(table, ("protocol", "protocol_version", "network", "data_fingerprint")):
        first = part[0]
        protocol = first["protocol"]
        title = f"\n## {protocol} {first['protocol_version']}, {first['network']}"
        out.append(title + ("\n\n" if metric == "top-1" else f": {metric}\n\n"))
        if not all(line["comparable"] for line in part):
            out.append(f"`{protocol}` is {OWN}\n\n")
        calibrated = any(not missing(line["ece_pct_mean"]) for line in part)
        more = [{"ECE %": pct(line["ece_pct_mean"])} if calibrated else {} for line in part]
        shown = [cells(line, metric) | extra for line, extra in zip(part, more, strict=True)]
        if not any(line["% of full"] for line in shown):
            for line in shown:
                del line["% of full"]
        out.append(pipe(shown))
        if labelled := _teachers(part):
            out.append("\n\nWho labelled:\n\n" + "\n".join(f"- {line}." for line in labelled))
        best = [line for line in part if not missing(line["best_epoch_pct_mean"])]
        if best:
            out.append("\n\nBest epoch, chosen on the test set, as some papers report it (not ranked): ")
            out.append("; ".join(_best_epoch(line) for line in best) + ".")
        best = [line for line in part if not missing(line["best_snapshot_pct_mean"])]
        if best:
            out.append(
                "\n\nBest snapshot, chosen on the test set, as the papers of trajectory matching report it (not ranked): "
            )
            out.append("; ".join(_best_snapshot(line) for line in best) + ".")
        full = sorted({line["full_protocol"] for line in part if isinstance(line["full_protocol"], str)})
        out.append(f"\n\nFingerprint of the data: {first['data_fingerprint']}.")
        if full:
            out.append(
                f" `% of full` divides by `full` trained under `{', '.join(full)}` (step-capped) with the same network."
            )
        out.append("\n")
    return "".join(out)


def _parts(table: pd.DataFrame, keys: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Lines by key; keys in the order in which they first stand in the table."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in lines_of(table):
        found.setdefault(tuple(line[k] for k in keys), []).append(line)
    return list(found.values())


_SHOWN = (
    "ipc",
    "rank",
    "method",
    "recipe",
    "top-1 %",
    "n (sets)",
    "95 % interval",
    "vs random",
    "bytes",
    "distil s",
)


def plain(dataset: str, table: pd.DataFrame) -> str:
    """The columns that say most, for a terminal: one table a protocol and network; "" where nothing has a score."""
    parts = []
    for part in _parts(table, ("protocol", "protocol_version", "network")):
        first = part[0]
        note = "" if all(line["comparable"] for line in part) else " (not comparable with published numbers)"
        shown = [cells(line) for line in part]
        said = tabulate(
            [_SHOWN, *([line[name] for name in _SHOWN] for line in shown)],
            tablefmt="plain",
            disable_numparse=True,
        )
        parts.append(
            f"{dataset}: {first['protocol']} {first['protocol_version']}, {first['network']}{note}\n{said}\n"
        )
    return "\n".join(parts)
