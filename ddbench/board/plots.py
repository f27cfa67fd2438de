"""Plots of boards: accuracy over ipc, over bytes and over seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ddbench.board.rows import UPPER_BOUND
from ddbench.board.text import human_bytes, lines_of, missing
from ddbench.store import writing

_TICKS_APART = 1.15
_TICK_WIDTH = 0.13
"""Two ticks on an axis are at least in this ratio, and this share of the axis apart: closer, their texts would overlap."""
_ACROSS = 3
"""Panels side by side."""
MOST = 12
"""Panels in one picture; the tables have all of them."""
_LEAST_POINTS = 2.0
"""Percent points that an axis spans at least: less would make much of nothing."""
FRONT, FULL = "front", "full data"
_MARKERS = "osD^vP*X<>"

Line = dict[str, Any]


def _colours(methods: Iterable[str]) -> dict[str, Any]:
    import matplotlib

    pairs = matplotlib.colormaps["tab20"]
    # the eleventh on: lighter shades of the first ten
    shades = [pairs(i) for i in (*range(0, 20, 2), *range(1, 20, 2))]
    return {m: shades[i % 20] for i, m in enumerate(sorted(methods))}


def _markers(labels: Iterable[str]) -> dict[str, str]:
    # of 20 methods on the colours come again: seven and ten have no common factor, so the pairs do not
    return {label: _MARKERS[(i + i // 20) % len(_MARKERS)] for i, label in enumerate(sorted(labels))}


def _labelled(lines: Sequence[Line]) -> dict[tuple[str, str, str], str]:
    """What the legend calls each row: its method, and what tells several of one method apart."""
    found = {_name(line) for line in lines}
    several = {m for m in {name[0] for name in found} if len({name for name in found if name[0] == m}) > 1}
    return {
        name: f"{name[0]} ({name[1]}{', ' + name[2] if name[2] else ''})" if name[0] in several else name[0]
        for name in found
    }


def _name(line: Line) -> tuple[str, str, str]:
    return line["method"], line["recipe"], line["overrides"]


def _panels(
    panels: Sequence[tuple[str, list[Line]]],
    draw: Callable[[Any, list[Line], dict[tuple[str, str, str], dict[str, Any]]], None],
    path: Path,
) -> None:
    """A grid of panels with one legend beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = panels[:MOST]
    every = [line for _, lines in shown for line in lines]
    labels = _labelled(every)
    colours, markers = _colours({name[0] for name in labels}), _markers(labels.values())
    styles = {
        name: {"label": label, "color": colours[name[0]], "marker": markers[label]}
        for name, label in labels.items()
    }
    across = 2 if len(shown) == 4 else min(_ACROSS, len(shown))
    down = math.ceil(len(shown) / across)
    fig, axes = plt.subplots(across and down, across, figsize=(5.6 * across + 2.2, 4.2 * down), squeeze=False,
                             layout="constrained")  # fmt: skip
    for ax, (title, lines) in zip(axes.flat, shown, strict=False):
        draw(ax, lines, styles)
        low, high = ax.get_ylim()
        if (more := _LEAST_POINTS - (high - low)) > 0:
            ax.set_ylim(low - more / 2, high + more / 2)
        ax.set_ylabel("test top-1, %")
        ax.set_title(title, fontsize=10)
        ax.grid(alpha=0.3)
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    if len(panels) > MOST:
        fig.suptitle(f"the first {MOST} of {len(panels)} panels; the tables have all", fontsize=9)
    entries: dict[str, Any] = {}
    for ax in axes.flat:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    names = sorted(entries, key=lambda n: (n in (FRONT, FULL), n))
    fig.legend([entries[n] for n in names], names, loc="outside right upper", fontsize=8)
    with writing(path) as temporary:
        fig.savefig(temporary, dpi=110, format="png")
    plt.close(fig)


def _title(dataset: str, lines: Sequence[Line], more: str = "") -> str:
    note = "" if all(line["comparable"] for line in lines) else " (not comparable with published numbers)"
    return f"{dataset}: {lines[0]['protocol']}{note}\n{lines[0]['network']}{more}"


def _grouped(lines: Iterable[Line], *keys: str) -> list[list[Line]]:
    found: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        found.setdefault(tuple(line[k] for k in keys), []).append(line)
    return list(found.values())


def _a_decade(ax: Any) -> tuple[float, float]:
    """Widen a logarithmic axis to a factor of ten; its ends."""
    low, high = ax.get_xlim()
    if high < 10 * low:
        low, high = math.sqrt(low * high / 10), math.sqrt(low * high * 10)
        ax.set_xlim(low, high)
    return low, high


def _round_ticks(ax: Any, low: float, high: float, said: Callable[[float], str]) -> None:
    """Ticks at powers of ten of a logarithmic axis, at twice and five times them too where it is short."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: said(v)))


def _apart(values: Iterable[float], ratio: float) -> list[float]:
    """The values without those that are within ``ratio`` of the one before."""
    ticks: list[float] = []
    for value in sorted(set(values)):
        if not ticks or value > ratio * ticks[-1]:
            ticks.append(value)
    return ticks


def accuracy_over(dataset: str, table: pd.DataFrame, x: str, path: Path) -> None:
    """Accuracy over ``ipc`` or ``bytes_total``, one panel a protocol and network, 95 % intervals as bars."""
    lines = lines_of(table)
    competing = [
        line for line in lines if line["method"] != UPPER_BOUND and not missing(line[x]) and line[x] > 0
    ]
    if not competing:
        return
    full: dict[str, float] = {}
    for line in lines:
        if line["method"] == UPPER_BOUND:
            full[line["network"]] = max(full.get(line["network"], 0.0), line["top1_pct_mean"])

    def draw(ax: Any, part: list[Line], styles: dict[tuple[str, str, str], dict[str, Any]]) -> None:
        from matplotlib.ticker import NullFormatter

        at_all = [line[x] for line in part]
        ticks = _apart(at_all, max(_TICKS_APART, (max(at_all) / min(at_all)) ** _TICK_WIDTH))
        series = _grouped(part, "method", "recipe", "overrides")
        # neighbours are set a little apart, so that intervals at equal x stay readable, but never as far as the next tick
        clusters = _apart(at_all, 1.5)
        gap = min((b / a for a, b in zip(clusters, clusters[1:], strict=False)), default=10.0)
        step = min(1.03, gap ** (0.6 / max(1, len(series))))
        for i, own in enumerate(sorted(series, key=lambda own: _name(own[0]))):
            own.sort(key=lambda line: line[x])
            at = [line[x] * step ** (i - (len(series) - 1) / 2) for line in own]
            mean = [line["top1_pct_mean"] for line in own]
            ends = [
                [0.0 if missing(line[end]) else abs(line[end] - line["top1_pct_mean"]) for line in own]
                for end in ("ci95_low_pct", "ci95_high_pct")
            ]
            ax.errorbar(at, mean, yerr=ends, ms=5, capsize=2, lw=1.3, elinewidth=1, **styles[_name(own[0])])
        if part[0]["network"] in full:
            ax.axhline(full[part[0]["network"]], color="0.4", ls="--", lw=1, label=FULL)
        ax.set_xscale("log")
        low, high = _a_decade(ax)
        if x == "ipc":
            ax.set_xticks(ticks, [str(t) for t in ticks])
        else:
            _round_ticks(ax, low, high, lambda v: human_bytes(v).replace(".0", ""))
        ax.xaxis.set_minor_formatter(NullFormatter())
        aside = len(set(at_all)) < len(at_all)
        what = "images per class (IPC)" if x == "ipc" else "bytes of the set, labels included"
        ax.set_xlabel(
            what + (f"\nmarks of equal {'ipc' if x == 'ipc' else 'bytes'} are set apart" if aside else "")
        )

    panels = _grouped(competing, "protocol", "network")
    _panels([(_title(dataset, part), part) for part in panels], draw, path)


SHORTEST_S = 0.01
"""Where the axis of seconds starts; what took less stands there."""


def accuracy_over_cost(dataset: str, table: pd.DataFrame, path: Path) -> None:
    """Accuracy over seconds, teachers included, one panel a protocol, network and ipc with several rows; the front is drawn
    as steps.

    ``table``: that of the cost board.  Rows of machines that are not that of most rows in a panel are hollow.
    """

    def draw(ax: Any, part: list[Line], styles: dict[tuple[str, str, str], dict[str, Any]]) -> None:
        from matplotlib.ticker import NullFormatter

        machines = [line["machine"] for line in part]
        usual = max(sorted(set(machines)), key=machines.count)
        for line in part:
            at, mean = max(line["cost_s"], SHORTEST_S), line["top1_pct_mean"]
            ends = [
                [0.0 if missing(line[end]) else abs(line[end] - mean)]
                for end in ("ci95_low_pct", "ci95_high_pct")
            ]
            filled = {} if line["machine"] == usual else {"mfc": "none"}
            ax.errorbar([at], [mean], yerr=ends, ms=6, capsize=2, ls="none", elinewidth=1,
                        **styles[_name(line)], **filled)  # fmt: skip
        best = sorted(
            (max(line["cost_s"], SHORTEST_S), line["top1_pct_mean"])
            for line in part
            if line["front_seconds"] and line["machine"] == usual
        )
        if best:
            right = max(max(line["cost_s"], SHORTEST_S) for line in part)
            ax.step([*(s for s, _ in best), right], [*(a for _, a in best), best[-1][1]], where="post", color="0.4",
                    lw=1, ls="--", zorder=0, label=FRONT)  # fmt: skip
        ax.set_xscale("log")
        low, high = _a_decade(ax)
        _round_ticks(ax, low, high, lambda v: f"{v:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
        clipped = any(line["cost_s"] < SHORTEST_S for line in part)
        note = f" ({SHORTEST_S:g}: or less)" if clipped else ""
        ax.set_xlabel(f"seconds to make the set, teachers included{note}")
        ax.text(0.99, 0.01, usual, transform=ax.transAxes, ha="right", va="bottom", fontsize=7, color="0.4")

    known = [line for line in lines_of(table) if not missing(line["cost_s"])]
    panels = [p for p in _grouped(known, "protocol", "network", "ipc") if len(p) > 1]
    if panels:
        named = [(_title(dataset, part, f", ipc {part[0]['ipc']}"), part) for part in panels]
        _panels(named, draw, path)
