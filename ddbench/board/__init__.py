"""Boards: records and claims -> tables, pages and plots.  Rebuilt without running anything, and without importing torch.

What the columns of the main table mean (docs/boards.md has the other boards):

* ``top1_pct_mean``, ``top1_pct_std``: mean and population deviation over all students of all distillations, in percent,
  as the field pools them (no deviation of a single student); ``n`` counts students, ``distillations`` counts sets (seeds).
* ``rank``, ``rank_last``: the first and the last place that a row may hold (``ddbench.board.ranks`` has the rule).
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
* ``ece_pct_mean``: expected calibration error, mean over students, in percent, where records have it.
* ``bytes_total``: images, labels, codec, space and program; what stands beside the set (teachers, full data) is apart.

Only scores of the finished set after the last epoch count (``chosen_by = last``); only records of equal protocol Major.Minor
and equal data are pooled.  Where a cell was measured more than once the newest record stands.  Records of another metric than
top-1 (``Record.metric``) have tables of their own, whose files name the metric in place of ``top1``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ddbench.board import kinds as kinds_
from ddbench.board import text
from ddbench.board.kinds import Empty, Page
from ddbench.board.rows import FLOOR, LABELLING, UPPER_BOUND, Measured, Row, measured, rows
from ddbench.board.text import human_bytes
from ddbench.claims import Claim
from ddbench.compare import mean_interval
from ddbench.records import Record
from ddbench.registry import nearest
from ddbench.store import write_text

__all__ = [
    "FLOOR",
    "KINDS",
    "LABELLING",
    "UPPER_BOUND",
    "Board",
    "Empty",
    "Page",
    "human_bytes",
    "index",
    "make",
    "markdown",
    "mean_interval",
    "page_text",
    "plain",
    "write",
]

TABLES = "tables"
KINDS = (TABLES, "uniform", "as-published", "equal-bytes", "cost", "cross-architecture")
"""The plain tables, one a protocol and network, and the boards made of them."""
COLUMNS = (
    *("rank", "rank_last", "method", "family", "recipe", "overrides", "ipc", "labels"),
    *("top1_pct_mean", "top1_pct_std", "n", "distillations", "ci95_low_pct", "ci95_high_pct"),
    *("vs_random_pct", "vs_random_low_pct", "vs_random_high_pct", "vs_random_n"),
    *("share_of_full_pct", "full_protocol"),
    *("best_epoch_pct_mean", "best_epoch_pct_std"),
    *("best_snapshot_pct_mean", "best_snapshot_n", "best_snapshot_students", "best_snapshot_iteration"),
    "ece_pct_mean",
    *("bytes_total", "bytes_images", "bytes_labels", "bytes_beside"),
    *("distil_s", "teacher_s", "distil_peak_mib", "evaluate_s", "device", "precision"),
    *("protocol", "protocol_version", "network", "comparable", "partial", "data_fingerprint"),
    *("labelled_by", "teachers"),
)
INDEX = "README.md"
_INDEX_TITLE = "# Boards of ddbench"
_COUNTS = ("rank", "rank_last", "vs_random_n", "best_snapshot_n", "best_snapshot_iteration")


@dataclass(frozen=True)
class Board:
    """What is shown of one data set.  ``table`` has one row a (protocol, network, ipc, method, recipe)."""

    dataset: str
    table: pd.DataFrame
    without_score: list[str] = field(default_factory=list)
    superseded: int = 0
    others: dict[str, pd.DataFrame] = field(default_factory=dict)
    """Tables of other metrics by name; their columns are named as those of ``table``."""
    pages: dict[str, Page] = field(default_factory=dict)
    """Of the kinds that were asked for and have something to show."""
    empty: dict[str, str] = field(default_factory=dict)
    """Why the others have not."""


def make(
    records: Iterable[Record],
    claims: Iterable[Claim] = (),
    kinds: Collection[str] = KINDS,
    uniform: str = "",
) -> list[Board]:
    """Boards, one a data set, in alphabetical order.

    Args:
        records: any mix; failed and skipped ones are listed with their reason, never dropped in silence.
        claims: published numbers, for the as-published boards.
        kinds: which pages to make, of ``KINDS``; the plain table is always made.
        uniform: protocol of the uniform boards; "": the one under which most methods of the data set are measured.

    Raises:
        LookupError: a kind that does not exist; a protocol that no record is of.
    """
    records, claims = list(records), list(claims)
    for kind in kinds:
        if kind not in KINDS:
            raise LookupError(f"no board {kind!r}; {nearest(kind, KINDS)}")
    protocols = {r.cell.protocol for r in records}
    if uniform and uniform not in protocols:
        raise LookupError(
            f"no record is of protocol {uniform!r}; {nearest(uniform, sorted(protocols))}; expected a protocol that "
            "was measured, for the uniform board"
        )
    by_dataset: dict[str, list[Record]] = {}
    for r in records:
        by_dataset.setdefault(r.cell.distil.dataset, []).append(r)
    made = [_board(dataset, by_dataset[dataset], claims, kinds, uniform) for dataset in sorted(by_dataset)]
    return [b for b in made if b is not None]


def _board(
    dataset: str, records: Sequence[Record], claims: Sequence[Claim], kinds: Collection[str], uniform: str
) -> Board | None:
    unscored: list[str] = []
    by_metric: dict[str, list[Measured]] = {}
    for r in records:
        if r.status in ("failed", "skipped"):
            d = r.cell.distil
            unscored.append(
                f"{d.method} ({d.recipe}), ipc {d.ipc}, seed {d.seed}, {r.cell.protocol}, {r.cell.network}: "
                f"{r.status}: {r.reason}"
            )
        elif scored := measured(r):
            by_metric.setdefault(r.metric, []).append(scored)
    if not by_metric and not unscored:
        return None
    mine, superseded = rows(by_metric.pop("top1", ()))
    table = _table(mine)
    others = {}
    for metric in sorted(by_metric):
        of_metric, old = rows(by_metric[metric])
        others[metric] = _table(of_metric)
        superseded += old
    found = {
        "uniform": lambda: kinds_.uniform(mine, table, uniform),
        "as-published": lambda: kinds_.as_published(dataset, records, claims),
        "equal-bytes": lambda: kinds_.equal_bytes(mine),
        "cost": lambda: kinds_.cost(mine),
        "cross-architecture": lambda: kinds_.cross_architecture(mine),
    }
    pages: dict[str, Page] = {}
    empty: dict[str, str] = {}
    for kind in (k for k in KINDS[1:] if k in kinds):
        page = found[kind]()
        if isinstance(page, Page):
            pages[kind] = page
        else:
            empty[kind] = str(page)
    return Board(dataset, table, sorted(unscored), superseded, others, pages, empty)


def _table(found: Sequence[Row]) -> pd.DataFrame:
    table: pd.DataFrame = pd.DataFrame([row.line for row in found], columns=list(COLUMNS))
    for counts in _COUNTS:
        table[counts] = table[counts].astype("Int64")
    return table


# ------------------------------------------------------------------------------------------------ text and files


def markdown(board: Board) -> str:
    """The plain tables as Markdown: one table a protocol and network."""
    out = [f"# {board.dataset}\n\n{text.head()}"]
    if board.table.empty and not board.others:
        out.append("\nNo cell of this data set has a score yet.\n")
    out.append(text.sections(board.table))
    out += [text.sections(table, metric) for metric, table in board.others.items()]
    if board.without_score:
        out.append("\n## Cells without a score\n\n" + "".join(f"- {line}\n" for line in board.without_score))
    if board.superseded:
        out.append(f"\n{board.superseded} older records of cells measured again since are left out.\n")
    return "".join(out)


def plain(board: Board) -> str:
    """The columns that say most, for a terminal: one table a protocol and network; "" where nothing has a score."""
    return text.plain(board.dataset, board.table)


def page_text(board: Board, kind: str) -> str:
    """A page of ``board.pages`` as Markdown."""
    return f"# {board.dataset}: {kind} board\n\n{board.pages[kind].body}"


def stem(dataset: str) -> str:
    """Beginning of the names of a data set's files."""
    return dataset.replace("/", "_").replace(":", "_")


def _slug(metric: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", metric.lower()).strip("_")


def _csv(table: pd.DataFrame) -> str:
    return str(table.to_csv(index=False, float_format="%.6g"))


def write(
    boards: Iterable[Board], out: Path, plots: bool = True, kinds: Collection[str] = KINDS
) -> list[Path]:
    """Write the boards' files into ``out``; returns their paths.

    ``<dataset>.csv``, ``.md``, ``-ipc.png`` and ``-bytes.png``, ``<dataset>-<metric>.csv`` of other metrics,
    ``<dataset>-<kind>.csv`` and ``.md`` of the pages that the boards have, ``<dataset>-cost.png``, and the index
    ``README.md`` of all that the folder holds.
    """
    from ddbench.board import plots as plots_

    made: list[Path] = []

    def put(name: str, content: str) -> None:
        write_text(out / name, content)
        made.append(out / name)

    for board in boards:
        name = stem(board.dataset)
        if TABLES in kinds:
            put(f"{name}.csv", _csv(board.table))
            for metric, table in board.others.items():
                slug = _slug(metric)
                renamed = table.rename(columns=lambda c, slug=slug: c.replace("top1_pct", f"{slug}_pct"))
                put(f"{name}-{slug}.csv", _csv(renamed))
            put(f"{name}.md", markdown(board))
            if plots and len(board.table):
                for x, suffix in (("ipc", "-ipc.png"), ("bytes_total", "-bytes.png")):
                    path = out / f"{name}{suffix}"
                    plots_.accuracy_over(board.dataset, board.table, x, path)
                    made += [path] if path.exists() else []
        for kind, page in board.pages.items():
            if kind in kinds:
                put(f"{name}-{kind}.csv", _csv(page.table))
                picture = f"{name}-{kind}.png"
                if plots and kind == "cost":
                    plots_.accuracy_over_cost(board.dataset, page.table, out / picture)
                    made += [out / picture] if (out / picture).exists() else []
                body = page_text(board, kind)
                if (out / picture).exists():
                    body += f"\n![Accuracy over seconds to make the set]({picture})\n"
                put(f"{name}-{kind}.md", body)
    there = out / INDEX
    if made and (not there.exists() or there.read_text(encoding="utf-8").startswith(_INDEX_TITLE)):
        put(INDEX, index(out))  # a page that somebody wrote stays
    return made


def index(folder: Path) -> str:
    """The page that links all boards of a folder, from the files that lie there."""
    shown = []
    for page in sorted(folder.glob("*.md")):
        table = page.with_suffix(".csv")
        title = page.read_text(encoding="utf-8").partition("\n")[0]
        if not table.exists() or not title.startswith("# ") or stem(title[2:]) != page.stem:
            continue
        name = page.stem
        scored = pd.read_csv(table, usecols=["method"])["method"]
        links = {
            "data set": f"**{title[2:]}**",
            "methods": str(scored[scored != UPPER_BOUND].nunique()),
            TABLES: f"[by protocol]({name}.md)",
        }
        for kind in KINDS[1:]:
            there = (folder / f"{name}-{kind}.md").exists()
            links[kind] = f"[{kind}]({name}-{kind}.md)" if there else ""
        pictures = [s for s in ("ipc", "bytes", "cost") if (folder / f"{name}-{s}.png").exists()]
        links["plots"] = ", ".join(f"[{s}]({name}-{s}.png)" for s in pictures)
        shown.append(links)
    out = [
        f"{_INDEX_TITLE}\n\n"
        "Made from records by `ddbench board`; nothing here is written by hand. Beside each page lies a CSV of the same name\n"
        "with every column.\n\n"
    ]
    out.append((text.pipe(shown) if shown else "No data set has a board yet.") + "\n")
    out.append(
        "\n- **tables**: every protocol and network in a table of its own, with what differs from `random` and from all data.\n"
        "- **uniform**: one protocol for all methods.\n"
        "- **as-published**: each method under its own paper's protocol, beside what that paper printed.\n"
        "- **equal-bytes**: the best within 10 KB, 100 KB, 1 MB and 10 MB of shipped bytes, labels included.\n"
        "- **cost**: accuracy against seconds and memory of the distillation; what no other row beats is marked.\n"
        "- **cross-architecture**: accuracy on networks that the sets were not made with.\n"
    )
    more = (
        ("PROTOCOLS.md", "the protocols, and what may be compared"),
        ("reproduction.md", "published numbers beside measured ones, those that nobody has run included"),
    )
    beside = [f"- [{name}]({name}): {what}\n" for name, what in more if (folder / name).exists()]
    return "".join([*out, *(["\nBeside them:\n\n"] if beside else []), *beside])
