"""Boards: records -> tables and plots.  Rebuilt without running anything, and without importing torch.

What the columns mean:

* ``top1_pct_mean``, ``top1_pct_std``: mean and population deviation over all students of all distillations, in percent,
  as the field pools them (no deviation of a single student); ``n`` counts students, ``distillations`` counts sets (seeds).
* ``ci95_low_pct``, ``ci95_high_pct``: 95 % interval of the mean by Student's t over distillations, the students of one
  distillation averaged first; empty for a single distillation.
* ``vs_random_pct`` and its interval: the difference from ``random`` at the same ipc, protocol and network, paired by seed:
  ``vs_random_n`` counts distillations that both have.  Under teacher labels only a ``random`` that the same networks labelled
  is a floor (``labelled_by``; its settings may be any that concern labels); without one the cell is empty.
* ``labels``: what the students learned from under the protocol: ``hard``, ``soft`` (the set's own), ``teacher`` or
  ``committee of N``, whose answers were stored before training, static (one an item) or online.
* ``share_of_full_pct``: the mean as a share of the full-data accuracy with the same network; ``full`` is trained under a
  step-capped protocol of its own, named in ``full_protocol``.
* ``best_epoch_pct_mean``, ``best_epoch_pct_std``: of the best of the tests on the way, chosen on the test set, where a protocol
  has them: to be held against papers that report it; nothing is ranked, paired or plotted by it.
* ``best_snapshot_pct_mean``: of the best snapshot of each distillation, its students averaged, chosen on the test set, where
  snapshots were scored: to be held against papers that report their best iteration; nothing is ranked by it either.
  ``best_snapshot_n`` distillations have one, ``best_snapshot_students`` scored each snapshot, ``best_snapshot_iteration``
  is that of a single distillation (empty for several).
* ``bytes_total``: images, labels, codec, space and program; what stands beside the set (teachers, full data) is apart.

Only scores of the finished set after the last epoch count (``chosen_by = last``); only records of equal protocol Major.Minor
and equal data are pooled.  Where a cell was measured more than once the newest record stands.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from ddbench.records import Record
from ddbench.store import write_text, writing

UPPER_BOUND = "full"
FLOOR = "random"
LABELLING = ("labels", "networks", "squeeze", "held_out", "prior")
"""Settings of the floor that change who labels and leave the images as they are."""
_FULL_SUFFIX = "-full"
"""Of the step-capped twin of a protocol, under which the upper bound is trained."""

_PEERS = ["protocol", "protocol_version", "network", "ipc", "precision", "data_fingerprint"]
"""What rows must share to be ranked and paired."""
_GROUP = ["dataset", "method", "recipe", "overrides", *_PEERS]


@dataclass(frozen=True)
class Board:
    """The tables of one data set.  ``table`` has one row a (protocol, network, ipc, method, recipe)."""

    dataset: str
    table: pd.DataFrame
    without_score: list[str] = field(default_factory=list)
    superseded: int = 0


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's t interval of the mean of independent values; None for fewer than two of them."""
    from scipy import stats

    n = len(values)
    if n < 2:
        return None
    series = pd.Series(values, dtype=float)
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * float(series.std(ddof=1)) / math.sqrt(n)
    return float(series.mean()) - half, float(series.mean()) + half


def _major_minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _rows(records: Iterable[Record]) -> pd.DataFrame:
    """One row a record with a score of the last epoch."""
    rows: list[dict[str, Any]] = []
    for r in records:
        values = [s.value for s in r.scores if s.chosen_by == "last" and not s.task and s.metric == r.metric]
        if r.status not in ("ok", "partial") or not values:
            continue
        d = r.cell.distil
        rows.append(
            {
                "dataset": d.dataset,
                "protocol": r.cell.protocol,
                "protocol_version": _major_minor(r.protocol_version),
                "network": r.cell.network,
                "ipc": d.ipc,
                "method": d.method,
                "recipe": r.recipe or d.recipe,
                "overrides": ", ".join(f"{k}={v}" for k, v in sorted(d.settings.items())),
                "data_fingerprint": r.data_fingerprint,
                "seed": d.seed,
                "values": values,
                "best": [s.value for s in r.scores if s.chosen_by == "best-epoch" and not s.task],
                "snapshot": next((s for s in r.scores if s.chosen_by == "best-snapshot"), None),
                "family": r.family,
                "labels": r.labels,
                # an older record names them in its note alone
                "labelled_by": " + ".join(r.labelled_by) or r.notes.get("labels", ""),
                "teachers": r.notes.get("labels", ""),
                "floor": d.method == FLOOR and set(d.settings) <= set(LABELLING),
                "comparable": r.comparable,
                "partial": r.status == "partial",
                "bytes": r.bytes,
                "spent": r.spent,
                "device": r.provenance.device,
                "precision": r.provenance.precision,
                "engine": r.provenance.engine,
                "created": r.created,
            }
        )
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def _joined(values: Iterable[Any]) -> str:
    return " ".join(sorted({str(v) for v in values if str(v)}))


def _summary(group: pd.DataFrame) -> dict[str, Any]:
    pooled = pd.Series([100 * v for values in group["values"] for v in values])
    per_set = [100 * sum(v) / len(v) for v in group["values"]]
    interval = mean_interval(per_set)
    best = pd.Series([100 * v for values in group["best"] for v in values], dtype=float)
    snapshots = [s for s in group["snapshot"] if s is not None]
    spent, sizes = list(group["spent"]), [b for b in group["bytes"] if b is not None]
    size = sizes[0] if sizes else None
    return {
        "family": group["family"].iloc[0],
        "labels": group["labels"].iloc[0],
        "top1_pct_mean": pooled.mean(),
        "top1_pct_std": pooled.std(ddof=0) if len(pooled) > 1 else math.nan,
        "n": len(pooled),
        "distillations": len(group),
        "ci95_low_pct": interval[0] if interval else math.nan,
        "ci95_high_pct": interval[1] if interval else math.nan,
        "best_epoch_pct_mean": best.mean(),
        "best_epoch_pct_std": best.std(ddof=0) if len(best) > 1 else math.nan,
        "best_snapshot_pct_mean": pd.Series([100 * s.value for s in snapshots], dtype=float).mean(),
        "best_snapshot_n": len(snapshots) or None,
        "best_snapshot_students": _joined(s.students for s in snapshots),
        "best_snapshot_iteration": snapshots[0].iteration if len(snapshots) == 1 else None,
        "bytes_total": max((b.total for b in sizes), default=math.nan),
        "bytes_images": size.images if size else math.nan,
        "bytes_labels": size.labels if size else math.nan,
        "bytes_beside": sum(size.beside.values()) if size else math.nan,
        "distil_s": pd.Series([s.distil_s for s in spent]).mean(),
        "teacher_s": pd.Series([s.teacher_s for s in spent]).mean(),
        "distil_peak_mib": max(s.distil_peak_mib for s in spent),
        "evaluate_s": pd.Series([s.evaluate_s for s in spent]).mean(),
        "device": _joined(group["device"]),
        "comparable": bool(group["comparable"].all()),
        "partial": bool(group["partial"].any()),
        "labelled_by": " | ".join(sorted(set(group["labelled_by"]) - {""})),
        "teachers": " | ".join(sorted(set(group["teachers"]) - {""})),
    }


def _means(rows: pd.DataFrame) -> dict[tuple[int, str], float]:
    """Mean of the students by seed and labelling networks."""
    keyed = zip(rows["seed"], rows["labelled_by"], rows["values"], strict=True)
    return {(int(s), by): 100 * sum(v) / len(v) for s, by, v in keyed}


def make(records: Iterable[Record]) -> list[Board]:
    """Boards, one a data set, in alphabetical order.

    Args:
        records: any mix; failed and skipped ones are listed with their reason, never dropped in silence.
    """
    records = list(records)
    unscored: dict[str, list[str]] = {}
    for r in records:
        if r.status in ("failed", "skipped"):
            d = r.cell.distil
            unscored.setdefault(d.dataset, []).append(
                f"{d.method} ({d.recipe}), ipc {d.ipc}, seed {d.seed}, {r.cell.protocol}, {r.cell.network}: "
                f"{r.status}: {r.reason}"
            )
    rows = _rows(records)
    boards: list[Board] = []
    names = sorted({*unscored, *(rows["dataset"] if len(rows) else [])})
    for dataset in names:
        mine = rows[rows["dataset"] == dataset] if len(rows) else rows
        total = len(mine)
        if total:
            mine = mine.sort_values("created").drop_duplicates([*_GROUP, "seed"], keep="last")
        boards.append(Board(dataset, _table(mine), sorted(unscored.get(dataset, [])), total - len(mine)))
    return boards


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    columns = [
        *("rank", "method", "family", "recipe", "overrides", "ipc", "labels"),
        *("top1_pct_mean", "top1_pct_std", "n", "distillations", "ci95_low_pct", "ci95_high_pct"),
        *(
            "vs_random_pct",
            "vs_random_low_pct",
            "vs_random_high_pct",
            "vs_random_n",
            "share_of_full_pct",
            "full_protocol",
        ),
        *("best_epoch_pct_mean", "best_epoch_pct_std"),
        *(
            "best_snapshot_pct_mean",
            "best_snapshot_n",
            "best_snapshot_students",
            "best_snapshot_iteration",
        ),
        *("bytes_total", "bytes_images", "bytes_labels", "bytes_beside"),
        *("distil_s", "teacher_s", "distil_peak_mib", "evaluate_s", "device", "precision"),
        *("protocol", "protocol_version", "network", "comparable", "partial", "data_fingerprint"),
        *("labelled_by", "teachers"),
    ]
    if not len(rows):
        empty: pd.DataFrame = pd.DataFrame(columns=columns)
        return empty
    lines: list[dict[str, Any]] = []
    for key, group in rows.groupby(_GROUP, sort=True):
        line = dict(zip(_GROUP, key, strict=True)) | _summary(group)
        peers = rows[pd.concat([rows[c] == line[c] for c in _PEERS], axis=1).all(axis=1)]
        # of several with the same labels the one without settings stands
        floor = _means(peers[peers["floor"]].sort_values("overrides", ascending=False))
        own = _means(group)
        if line["method"] not in (FLOOR, UPPER_BOUND) and (both := sorted(own.keys() & floor.keys())):
            gaps = [own[s] - floor[s] for s in both]
            interval = mean_interval(gaps)
            line |= {"vs_random_pct": sum(gaps) / len(gaps), "vs_random_n": len(gaps)}
            if interval:
                line |= {"vs_random_low_pct": interval[0], "vs_random_high_pct": interval[1]}
        full = rows[
            (rows["method"] == UPPER_BOUND)
            & (rows["network"] == line["network"])
            & (rows["data_fingerprint"] == line["data_fingerprint"])
        ]
        twin = full["protocol"] == f"{line['protocol']}{_FULL_SUFFIX}"
        full = full[twin] if twin.any() else full  # trained otherwise it is another bound
        if len(full) and line["method"] != UPPER_BOUND:
            best = pd.Series([100 * v for values in full["values"] for v in values]).mean()
            line |= {
                "share_of_full_pct": 100 * line["top1_pct_mean"] / best,
                "full_protocol": _joined(full["protocol"]),
            }
        lines.append(line)
    table = pd.DataFrame(lines).reindex(columns=columns)
    for counts in ("vs_random_n", "best_snapshot_n", "best_snapshot_iteration"):
        table[counts] = table[counts].astype("Int64")
    competes = table["method"] != UPPER_BOUND
    ranks = table[competes].groupby(_PEERS)["top1_pct_mean"]
    table["rank"] = ranks.rank(ascending=False, method="min").astype("Int64").reindex(table.index)
    order = ["comparable", *_PEERS[:5], "rank", "method", "recipe", "overrides"]
    ascending = [False, *[True] * (len(order) - 1)]
    placed: pd.DataFrame = table.sort_values(order, ascending=ascending, na_position="first").reset_index(
        drop=True
    )
    return placed


# ------------------------------------------------------------------------------------------------ text


def human_bytes(n: float) -> str:
    """12_300 -> '12.3 kB' (powers of 1000)."""
    if not math.isfinite(n):
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError("unreachable")


def _pct(value: float, digits: int = 1) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def _line(row: pd.Series) -> dict[str, str]:
    name = row["method"] + (" (partial)" if row["partial"] else "")
    recipe = row["recipe"] + (f" + {row['overrides']}" if row["overrides"] else "")
    interval = (
        "" if pd.isna(row["ci95_low_pct"]) else f"{row['ci95_low_pct']:.1f} .. {row['ci95_high_pct']:.1f}"
    )
    gap = "" if pd.isna(row["vs_random_pct"]) else f"{row['vs_random_pct']:+.1f}"
    if gap and not pd.isna(row["vs_random_low_pct"]):
        gap += f" [{row['vs_random_low_pct']:+.1f}, {row['vs_random_high_pct']:+.1f}]"
    if gap:
        gap += f" n={row['vs_random_n']}"
    return {
        "ipc": "all" if row["method"] == UPPER_BOUND else str(row["ipc"]),
        "rank": "" if pd.isna(row["rank"]) else str(row["rank"]),
        "method": name,
        "family": row["family"],
        "recipe": recipe,
        "labels": row["labels"],
        "top-1 %": f"{row['top1_pct_mean']:.1f}"
        + ("" if pd.isna(row["top1_pct_std"]) else f" ± {row['top1_pct_std']:.1f}"),
        "n (sets)": f"{row['n']} ({row['distillations']})",
        "95 % interval": interval,
        "vs random": gap,
        "% of full": _pct(row["share_of_full_pct"]),
        "bytes": human_bytes(row["bytes_total"])
        + (f" + {human_bytes(row['bytes_beside'])} beside" if row["bytes_beside"] > 0 else ""),
        "distil s": _pct(row["distil_s"]),
        "peak MiB": _pct(row["distil_peak_mib"], 0),
        "device": row["device"],
        "precision": row["precision"],
    }


def _best_epoch(row: pd.Series) -> str:
    """``dm (authors) ipc 10 66.1 ± 0.3``."""
    line = _line(row)
    std = row["best_epoch_pct_std"]
    spread = "" if pd.isna(std) else f" ± {std:.1f}"
    return f"{line['method']} ({line['recipe']}) ipc {line['ipc']} {row['best_epoch_pct_mean']:.1f}{spread}"


def _best_snapshot(row: pd.Series) -> str:
    """``mtt (authors) ipc 1 46.2 (5 students, after 3,400 iterations)``."""
    line = _line(row)
    said = f"{row['best_snapshot_students']} student{'' if row['best_snapshot_students'] == '1' else 's'}"
    if row["best_snapshot_n"] > 1:
        said += f" a snapshot, {row['best_snapshot_n']} sets"
    elif not pd.isna(row["best_snapshot_iteration"]):
        said += f", after {row['best_snapshot_iteration']:,} iterations"
    value = f"{row['best_snapshot_pct_mean']:.1f}"
    return f"{line['method']} ({line['recipe']}) ipc {line['ipc']} {value} ({said})"


_KEY = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{4,}\b")


def _teachers(part: pd.DataFrame) -> list[str]:
    """Who labelled which rows, one text a labeller: ``cda: the protocol's own ConvNetD2W32BN 0a1b2c3d, 97.2 % held out``."""
    rows: dict[str, list[str]] = {}
    for _, row in part[part["teachers"] != ""].iterrows():
        first, *others = row["teachers"].split(" | ")
        more = f" (and {len(others)} more, by seed or ipc)" if others else ""
        line = _line(row)
        rows.setdefault(_KEY.sub(r"\1", first) + more, []).append(f"{line['method']} ({line['recipe']})")
    return [f"{', '.join(sorted(set(names)))}: {text}" for text, names in rows.items()]


def markdown(board: Board) -> str:
    """The board as Markdown: one table a protocol and network."""
    out = io.StringIO()
    out.write(f"# {board.dataset}\n\n")
    out.write(
        "Top-1 accuracy on the untouched test set after the last epoch: mean ± population deviation over all students; the\n"
        "interval is Student's t over distillations (students of one set averaged first); `vs random` is paired by seed,\n"
        "n counting distillations, and the same networks labelled both. `labels` is what students learned from. Bytes are\n"
        "those of the set, labels included; what must stand beside it while students train (teachers) is not summed in. Peak\n"
        "memory is that of tensors on a GPU, of the whole process on CPU. Made from records by `ddbench board`; the CSV\n"
        "beside this page has every column.\n"
        "Protocols: see PROTOCOLS.md.\n"
    )
    if board.table.empty:
        out.write("\nNo cell of this data set has a score yet.\n")
    keys = ["protocol", "protocol_version", "network", "data_fingerprint"]
    for key, part in board.table.groupby(keys, sort=False):
        protocol, version, network, data = key
        out.write(f"\n## {protocol} {version}, {network}\n\n")
        if not part["comparable"].all():
            out.write(f"`{protocol}` is ddbench's own: **not comparable with published numbers.**\n\n")
        out.write(
            pd.DataFrame([_line(r) for _, r in part.iterrows()]).to_markdown(
                index=False, disable_numparse=True
            )
        )
        if labelled := _teachers(part):
            out.write("\n\nWho labelled:\n\n" + "\n".join(f"- {line}." for line in labelled))
        best = part[part["best_epoch_pct_mean"].notna()]
        if len(best):
            out.write("\n\nBest epoch, chosen on the test set, as some papers report it (not ranked): ")
            out.write("; ".join(_best_epoch(row) for _, row in best.iterrows()) + ".")
        best = part[part["best_snapshot_pct_mean"].notna()]
        if len(best):
            out.write(
                "\n\nBest snapshot, chosen on the test set, as the papers of trajectory matching report it (not ranked): "
            )
            out.write("; ".join(_best_snapshot(row) for _, row in best.iterrows()) + ".")
        full = sorted({p for p in part["full_protocol"] if isinstance(p, str)})
        out.write(f"\n\nData {data}.")
        if full:
            out.write(
                f" `% of full` divides by `full` trained under `{', '.join(full)}` (step-capped) with the same network."
            )
        out.write("\n")
    if board.without_score:
        out.write("\n## Cells without a score\n\n" + "".join(f"- {line}\n" for line in board.without_score))
    if board.superseded:
        out.write(f"\n{board.superseded} older records of cells measured again since are left out.\n")
    return out.getvalue()


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


def plain(board: Board) -> str:
    """The columns that say most, for a terminal: one table a protocol and network; "" where nothing has a score."""
    parts = []
    for key, part in board.table.groupby(["protocol", "protocol_version", "network"], sort=False):
        note = "" if part["comparable"].all() else " (not comparable with published numbers)"
        lines = [_line(row) for _, row in part.iterrows()]
        table = [_SHOWN, *([line[name] for name in _SHOWN] for line in lines)]
        said = tabulate(table, tablefmt="plain", disable_numparse=True)
        parts.append(f"{board.dataset}: {key[0]} {key[1]}, {key[2]}{note}\n{said}\n")
    return "\n".join(parts)


# ------------------------------------------------------------------------------------------------ plots


_TICKS_APART = 1.15
"""Ratio of two ticks on an axis: closer, their texts would overlap."""


def _plot(board: Board, x: str, path: Path) -> None:
    """Accuracy over ``ipc`` or ``bytes_total``, one panel a protocol and network, 95 % intervals as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    table = board.table[board.table["method"] != UPPER_BOUND]
    panels = list(table.groupby(["protocol", "network"], sort=False))
    if not panels:
        return
    fig, axes = plt.subplots(
        1, len(panels), figsize=(6.4 * len(panels), 4.4), squeeze=False, layout="constrained"
    )
    pairs = matplotlib.colormaps["tab20"]
    shades = [
        pairs(i) for i in (*range(0, 20, 2), *range(1, 20, 2))
    ]  # the eleventh on: lighter shades of the first ten
    colours = {m: shades[i % 20] for i, m in enumerate(sorted(table["method"].unique()))}
    markers = "osD^vP*X<>"
    for ax, ((protocol, network), part) in zip(axes[0], panels, strict=True):
        lines = list(part.groupby(["method", "recipe", "overrides"]))
        for i, ((method, recipe, overrides), line) in enumerate(lines):
            line = line.sort_values(x)
            # neighbours are set a little apart, so that intervals at equal x stay readable
            at = line[x] * (1.03 ** (i - (len(lines) - 1) / 2))
            low = (line["top1_pct_mean"] - line["ci95_low_pct"]).fillna(0)
            high = (line["ci95_high_pct"] - line["top1_pct_mean"]).fillna(0)
            twin = len({k[1:] for k, _ in lines if k[0] == method}) > 1
            label = f"{method} ({recipe}{', ' + overrides if overrides else ''})" if twin else method
            style = dict(marker=markers[i % len(markers)], color=colours[method], ms=5, capsize=3, lw=1.4)
            ax.errorbar(at, line["top1_pct_mean"], yerr=[low, high], label=label, **style)
        full = board.table[(board.table["method"] == UPPER_BOUND) & (board.table["network"] == network)]
        if len(full):
            ax.axhline(full["top1_pct_mean"].max(), color="0.4", ls="--", lw=1, label="full data")
        ax.set_xscale("log")
        ticks: list[float] = []
        for value in sorted(table[x].unique()):  # sets that differ by their labels alone share a tick
            if not ticks or value > _TICKS_APART * ticks[-1]:
                ticks.append(value)
        if x == "ipc" or len(ticks) <= 6:
            name = str if x == "ipc" else human_bytes
            ax.set_xticks(ticks, [name(t) for t in ticks])
        else:
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: human_bytes(v)))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("images per class (IPC)" if x == "ipc" else "bytes of the set, labels included")
        ax.set_ylabel("test top-1, %")
        note = "" if part["comparable"].all() else " (not comparable with published numbers)"
        ax.set_title(f"{board.dataset}: {protocol}{note}\n{network}", fontsize=10)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    with writing(path) as temporary:
        fig.savefig(temporary, dpi=130, format="png")
    plt.close(fig)


def write(boards: Iterable[Board], out: Path, plots: bool = True) -> list[Path]:
    """Write ``<dataset>.csv``, ``.md``, ``-ipc.png`` and ``-bytes.png`` of every board into ``out``; returns the paths."""
    made: list[Path] = []
    for board in boards:
        stem = board.dataset.replace("/", "_").replace(":", "_")
        for suffix, text in (
            (".csv", board.table.to_csv(index=False, float_format="%.6g")),
            (".md", markdown(board)),
        ):
            path = out / f"{stem}{suffix}"
            write_text(path, text)
            made.append(path)
        if plots and len(board.table):
            for x, suffix in (("ipc", "-ipc.png"), ("bytes_total", "-bytes.png")):
                path = out / f"{stem}{suffix}"
                _plot(board, x, path)
                if path.exists():
                    made.append(path)
    return made
