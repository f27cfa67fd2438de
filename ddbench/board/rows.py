"""Records -> the rows that boards are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ddbench.board import ranks
from ddbench.compare import FLOOR as FLOOR
from ddbench.compare import LABELLING as LABELLING
from ddbench.compare import mean_interval
from ddbench.records import Record

UPPER_BOUND = "full"
_FULL_SUFFIX = "-full"
"""Of the step-capped twin of a protocol, under which the upper bound is trained."""


class Place(NamedTuple):
    """A protocol as it stands in one ranking: nothing of it may differ between two rows that are compared."""

    protocol: str
    protocol_version: str
    network: str
    precision: str
    data_fingerprint: str


class Peers(NamedTuple):
    """What rows share to be ranked and paired in the main tables."""

    place: Place
    ipc: int


class Name(NamedTuple):
    method: str
    recipe: str
    overrides: str


class Measured(NamedTuple):
    """A record with a score of the last epoch."""

    peers: Peers
    name: Name
    seed: int
    values: tuple[float, ...]
    """One a student, percent."""
    mean: float
    labelled_by: str
    record: Record


@dataclass
class Row:
    """All distillations of one method, recipe and settings at one place and ipc."""

    peers: Peers
    name: Name
    found: list[Measured]
    """By seed."""
    line: dict[str, Any]
    """Columns of the table, and ``machine``: where the sets were distilled."""

    @property
    def competes(self) -> bool:
        return self.name.method != UPPER_BOUND

    @property
    def mean(self) -> float:
        return float(self.line["top1_pct_mean"])

    @property
    def sample(self) -> ranks.Sample:
        return ranks.sample({m.seed: m.mean for m in self.found}, self.found[0].values)

    @property
    def order(self) -> tuple[Any, ...]:
        return (-round(self.mean, 9), self.name)


def mean_of(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def deviation(values: Sequence[float], ddof: int = 0) -> float:
    """NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan
    mean = mean_of(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - ddof))


def measured(record: Record) -> Measured | None:
    """A record as the boards read it; None where it has no score of the last epoch."""
    if record.status not in ("ok", "partial"):
        return None
    values = tuple(
        100 * s.value
        for s in record.scores
        if s.chosen_by == "last" and not s.task and s.metric == record.metric
    )
    if not values:
        return None
    cell, d = record.cell, record.cell.distil
    version = ".".join(record.protocol_version.split(".")[:2])
    place = Place(cell.protocol, version, cell.network, record.provenance.precision, record.data_fingerprint)
    overrides = ", ".join(f"{k}={v}" for k, v in sorted(d.settings.items())) if d.settings else ""
    if "sweep" in record.notes:  # settings that were compared on held-out training images
        overrides += ", swept"
    # an older record names the labelling networks in its note alone
    by = " + ".join(record.labelled_by) or record.notes.get("labels", "")
    return Measured(
        Peers(place, d.ipc),
        Name(d.method, record.recipe or d.recipe, overrides),
        d.seed,
        values,
        mean_of(values),
        by,
        record,
    )


def rows(found: Iterable[Measured]) -> tuple[list[Row], int]:
    """Rows of one data set and metric, ranked; and how many records were measured again since and are left out."""
    newest: dict[tuple[Peers, Name, int], Measured] = {}
    total = 0
    for m in found:
        total += 1
        key = (m.peers, m.name, m.seed)
        other = newest.get(key)
        if other is None or (m.record.created, m.record.key) > (other.record.created, other.record.key):
            newest[key] = m
    groups: dict[tuple[Peers, Name], list[Measured]] = {}
    for m in sorted(newest.values(), key=lambda m: m.seed):
        groups.setdefault((m.peers, m.name), []).append(m)
    made = [Row(peers, name, group, _summary(peers, name, group)) for (peers, name), group in groups.items()]
    _beside_full(made)
    by_peers: dict[Peers, list[Row]] = {}
    for row in made:
        by_peers.setdefault(row.peers, []).append(row)
    for peers_rows in by_peers.values():
        _beside_random(peers_rows)
        competing = [r for r in peers_rows if r.competes]
        placed = ranks.places([r.mean for r in competing], [r.sample for r in competing])
        for row, (first, last) in zip(competing, placed, strict=True):
            row.line |= {"rank": first, "rank_last": last}
    return sorted(made, key=lambda r: (not r.line["comparable"], r.peers.place[:3], r.peers.ipc, r.peers.place[3:],
                                       r.competes, r.order)), total - len(newest)  # fmt: skip


def _joined(values: Iterable[Any]) -> str:
    return " ".join(sorted({str(v) for v in values if str(v)}))


def machine(record: Record) -> str:
    """Where a set was distilled: ``cpu x86_64, 2 threads``, ``cuda:0 NVIDIA H100``."""
    p = record.provenance
    device = record.spent.distil_device or p.device
    name = f"{device} {p.device_name}" if device == p.device and p.device_name else device
    threads = "s" if p.threads > 1 else ""
    return f"{name}, {p.threads} thread{threads}" if device == "cpu" and p.threads else name


def _summary(peers: Peers, name: Name, group: list[Measured]) -> dict[str, Any]:
    records = [m.record for m in group]
    pooled = [v for m in group for v in m.values]
    interval = mean_interval([m.mean for m in group])
    best = [
        100 * s.value
        for r in records
        for s in r.scores
        if s.chosen_by == "best-epoch" and not s.task and s.metric == r.metric
    ]
    firsts = (next((s for s in r.scores if s.chosen_by == "best-snapshot"), None) for r in records)
    snapshots = [s for s in firsts if s is not None]
    sizes = [r.bytes for r in records if r.bytes is not None]
    size = sizes[0] if sizes else None
    spent = [r.spent for r in records]
    unknown = not all(s.distil_known for s in spent)
    return {
        "method": name.method,
        "family": records[0].family,
        "recipe": name.recipe,
        "overrides": name.overrides,
        "ipc": peers.ipc,
        "labels": records[0].labels,
        "top1_pct_mean": mean_of(pooled),
        "top1_pct_std": deviation(pooled),
        "n": len(pooled),
        "distillations": len(group),
        "ci95_low_pct": interval[0] if interval else math.nan,
        "ci95_high_pct": interval[1] if interval else math.nan,
        "best_epoch_pct_mean": mean_of(best),
        "best_epoch_pct_std": deviation(best),
        "best_snapshot_pct_mean": mean_of([100 * s.value for s in snapshots]),
        "best_snapshot_n": len(snapshots) or None,
        "best_snapshot_students": _joined(s.students for s in snapshots),
        "best_snapshot_iteration": snapshots[0].iteration if len(snapshots) == 1 else None,
        "ece_pct_mean": mean_of([100 * e for r in records for e in r.ece]),
        "bytes_total": max((b.total for b in sizes), default=math.nan),
        "bytes_images": size.images if size else math.nan,
        "bytes_labels": size.labels if size else math.nan,
        "bytes_beside": sum(size.beside.values()) if size else math.nan,
        "distil_s": math.nan if unknown else mean_of([s.distil_s for s in spent]),
        "teacher_s": mean_of([s.teacher_s for s in spent]),
        "distil_peak_mib": math.nan if unknown else max(s.distil_peak_mib for s in spent),
        "evaluate_s": mean_of([s.evaluate_s for s in spent]),
        "machine": "; ".join(sorted({machine(r) for r in records})),
        "device": _joined(r.provenance.device for r in records),
        "precision": peers.place.precision,
        "protocol": peers.place.protocol,
        "protocol_version": peers.place.protocol_version,
        "network": peers.place.network,
        "comparable": all(r.comparable for r in records),
        "partial": any(r.status == "partial" for r in records),
        "data_fingerprint": peers.place.data_fingerprint,
        "labelled_by": " | ".join(sorted({m.labelled_by for m in group} - {""})),
        "teachers": " | ".join(sorted({r.notes.get("labels", "") for r in records} - {""})),
    }


def _beside_random(peers_rows: list[Row]) -> None:
    """Differences from ``random``, paired by seed and labelling networks."""
    floors = [r for r in peers_rows if r.name.method == FLOOR]
    # of several with the same labels the one without settings stands, so it comes last
    floor: dict[tuple[int, str], float] = {}
    for row in sorted(floors, key=lambda r: (r.name.overrides, r.name.recipe), reverse=True):
        if set(row.found[0].record.cell.distil.settings) <= set(LABELLING):
            floor |= {(m.seed, m.labelled_by): m.mean for m in row.found}
    for row in peers_rows:
        if row.name.method in (FLOOR, UPPER_BOUND):
            continue
        gaps = [m.mean - floor[key] for m in row.found if (key := (m.seed, m.labelled_by)) in floor]
        if gaps:
            row.line |= {"vs_random_pct": mean_of(gaps), "vs_random_n": len(gaps)}
            if interval := mean_interval(gaps):
                row.line |= {"vs_random_low_pct": interval[0], "vs_random_high_pct": interval[1]}


def _beside_full(made: list[Row]) -> None:
    """Shares of the accuracy on all data with the same network."""
    full: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in made:
        if not row.competes:
            place = row.peers.place
            values = full.setdefault((place.network, place.data_fingerprint), {}).setdefault(
                place.protocol, []
            )
            values += [v for m in row.found for v in m.values]
    for row in made:
        place = row.peers.place
        protocols = full.get((place.network, place.data_fingerprint))
        if protocols and row.competes:
            twin = f"{place.protocol}{_FULL_SUFFIX}"
            named = (
                [twin] if twin in protocols else sorted(protocols)
            )  # trained otherwise it is another bound
            best = mean_of([v for p in named for v in protocols[p]])
            if best > 0:
                row.line |= {"share_of_full_pct": 100 * row.mean / best, "full_protocol": _joined(named)}
