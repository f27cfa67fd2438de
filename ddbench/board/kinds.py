"""The boards of a data set beside its plain tables: uniform, as published, equal bytes, cost, cross-architecture.

Each function takes ranked rows of one data set (``top1``) and gives a :class:`Page`, or the reason why there is none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ddbench.board import ranks, text
from ddbench.board.rows import Name, Place, Row, mean_of
from ddbench.claims import Claim
from ddbench.compare import mean_interval
from ddbench.nets.names import canonical
from ddbench.protocols.rows import ROWS
from ddbench.records import Record
from ddbench.verdicts import base, own_protocols, standings

BUDGETS = (10_000, 100_000, 1_000_000, 10_000_000)
"""Shipped bytes: 10 KB to 10 MB, in powers of 1000."""


@dataclass(frozen=True)
class Page:
    """One board of a data set: ``table`` becomes the CSV, ``body`` the Markdown under its title."""

    kind: str
    table: pd.DataFrame
    body: str
    said: str = ""
    """What it holds, in a few words, for the index."""


class Empty(str):
    """Why a data set has no such board."""


def _groups(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def _competing(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.competes]


def _and(names: Sequence[str]) -> str:
    """``10 KB, 100 KB and 1 MB``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _place(place: Place, several: Sequence[Place]) -> str:
    """``quick 1.0, ConvNetD2W32``, and what else tells it from the others."""
    said = f"{place.protocol} {place.protocol_version}, {place.network}"
    if len({p.precision for p in several}) > 1:
        said += f", {place.precision}"
    if len({p.data_fingerprint for p in several}) > 1:
        said += f", data {place.data_fingerprint}"
    return said


def _own(rows: Sequence[Row]) -> str:
    protocol = rows[0].peers.place.protocol
    return "" if all(r.line["comparable"] for r in rows) else f"`{protocol}` is {text.OWN}\n\n"


def _ranked(rows: Sequence[Row]) -> list[tuple[Row, dict[str, int]]]:
    """Rows of one list, best first, with their places in it."""
    placed = ranks.places([r.mean for r in rows], [r.sample for r in rows])
    both = [
        (row, {"rank": first, "rank_last": last}) for row, (first, last) in zip(rows, placed, strict=True)
    ]
    return sorted(both, key=lambda pair: pair[0].order)


def _frame(
    lines: Sequence[dict[str, Any]], columns: Sequence[str], integers: Sequence[str] = ()
) -> pd.DataFrame:
    table: pd.DataFrame = pd.DataFrame(lines, columns=list(columns))
    for column in integers:
        table[column] = table[column].astype("Int64")
    return table


_WHO = ("method", "family", "recipe", "overrides", "ipc", "labels")
_SCORE = ("top1_pct_mean", "top1_pct_std", "n", "distillations", "ci95_low_pct", "ci95_high_pct")
_BYTES = ("bytes_total", "bytes_images", "bytes_labels", "bytes_beside")
_WHERE = ("protocol", "protocol_version", "network", "precision", "comparable", "partial", "data_fingerprint")


def _picked(line: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    return {c: line.get(c) for c in columns}


# ------------------------------------------------------------------------------------------------ uniform


def choose_uniform(rows: Sequence[Row], name: str = "") -> Place | None:
    """Where one protocol and network has scores of most methods; None where nothing competes.

    Of several with as many: one whose numbers are comparable with published ones, then most rows, most distillations, and the
    first by name.  ``name``: of this protocol only.
    """
    places = _groups(
        (r for r in _competing(rows) if not name or r.peers.place.protocol == name), lambda r: r.peers.place
    )

    def weight(place: Place) -> tuple[Any, ...]:
        mine = places[place]
        return (
            -len({r.name.method for r in mine}),
            not all(r.line["comparable"] for r in mine),
            -len(mine),
            -sum(len(r.found) for r in mine),
            place,
        )

    return min(places, key=weight) if places else None


def uniform(rows: Sequence[Row], table: pd.DataFrame, name: str = "") -> Page | Empty:
    """One protocol for all methods."""
    place = choose_uniform(rows, name)
    if place is None:
        return Empty(f"no method has a score under {name!r}" if name else "no method has a score")
    mine = [r for r in _competing(rows) if r.peers.place == place]
    methods = {r.name.method for r in mine}
    others = {r.name.method for r in _competing(rows)} - methods
    why = "asked for" if name else "the one under which most methods of this data set are measured"
    out = [
        f"One protocol for all methods: **{_place(place, [place])}** ({why}: {len(methods)} of "
        f"{len(methods | others)}).\n"
    ]
    if others:
        out.append(f"Without a score under it: {', '.join(sorted(others))}.\n")
    ipcs = sorted({r.peers.ipc for r in mine})
    out.append(
        "Each cell: top-1 accuracy in percent on the test set after the last epoch, mean ± population deviation over\n"
        "students. Methods with scores at every ipc come first, by their mean over them.\n"
        f"{text.RANKS}\n{_own(mine)}"
    )
    by_name = _groups(mine, lambda r: r.name)

    def weight(item: tuple[Name, list[Row]]) -> tuple[Any, ...]:
        return -len(item[1]), -round(mean_of([r.mean for r in item[1]]), 9), item[0]

    shown = []
    for _, own in sorted(by_name.items(), key=weight):
        at = {r.peers.ipc: r.line for r in own}
        line = own[0].line
        cells = {
            "method": text.method(line | {"partial": any(r.line["partial"] for r in own)}),
            "recipe": text.recipe(line),
            "labels": line["labels"],
        }
        for ipc in ipcs:
            one = at.get(ipc)
            cells[f"ipc {ipc} rank"] = text.rank(one) if one else ""
            cells[f"ipc {ipc} top-1 %"] = (
                text.plus_minus(one["top1_pct_mean"], one["top1_pct_std"]) if one else ""
            )
            cells[f"ipc {ipc} vs random"] = text.vs_random(one) if one else ""
            cells[f"ipc {ipc} bytes"] = text.size(one) if one else ""
        shown.append(cells)
    out.append(text.pipe(shown) + "\n")
    full = next((r.line["full_protocol"] for r in mine if "full_protocol" in r.line), None)
    if full:
        best = next(100 * r.mean / r.line["share_of_full_pct"] for r in mine if "full_protocol" in r.line)
        out.append(f"\nAll training data give {best:.1f} % under `{full}` with the same network.\n")
    at_place = (table["protocol"] == place.protocol) & (table["network"] == place.network)
    for column in ("protocol_version", "precision", "data_fingerprint"):
        at_place &= table[column] == getattr(place, column)
    found = table[at_place & table["rank"].notna()]
    return Page("uniform", found, "".join(out), f"{_place(place, [place])}, {len(methods)} methods")


# ------------------------------------------------------------------------------------------------ as published


def of_own_papers(dataset: str, claims: Iterable[Claim]) -> list[Claim]:
    """Published numbers of a data set that ddbench could measure.

    A number that one paper quotes from another counts only where no paper prints one of its own for that method, ipc, protocol
    and network; of equal ones the first stands.
    """
    cells: dict[tuple[Any, ...], list[Claim]] = {}
    for c in claims:
        if c.ours and base(c.dataset) == base(dataset):
            cells.setdefault((c.method, c.ipc or 0, c.protocol, c.network), []).append(c)
    found = []
    for key in sorted(cells):
        of_cell = sorted(cells[key], key=lambda c: (c.quoted, c.paper != c.method, c.id))
        first = {(c.value, c.std): c for c in reversed(of_cell) if c.quoted == of_cell[0].quoted}
        found += sorted(first.values(), key=lambda c: c.id)
    return found


def as_published(dataset: str, records: Sequence[Record], claims: Iterable[Claim]) -> Page | Empty:
    """Each method under its own paper's protocol beside what was printed; numbers under other protocols in a part of their
    own."""
    claims = list(claims)
    own = own_protocols(claims)
    mine = of_own_papers(dataset, claims)
    if not mine:
        return Empty("no published number of this data set is one that ddbench could measure")
    standing = standings(mine, records)
    counts = Counter(s.verdict for s in standing)
    measured = [s for s in standing if s.mean is not None]
    if not measured:
        return Empty(f"none of {len(mine)} published numbers has a record under its paper's protocol")
    lines: list[dict[str, Any]] = []
    shown: dict[bool, list[dict[str, str]]] = {True: [], False: []}
    for s in standing:
        c = s.claim
        is_own = c.protocol in own.get(c.method, ())
        lines.append(
            {
                "method": c.method,
                "ipc": c.ipc,
                "protocol": c.protocol,
                "network": c.network,
                "own_protocol": is_own,
                "claim": c.id,
                "paper": c.paper,
                "source": c.source,
                "quoted": c.quoted,
                "published_pct": c.value,
                "published_std_pct": c.std,
                "chosen": c.chosen,
                "measured_pct": s.mean,
                "measured_std_pct": s.std,
                "n": s.n,
                "distillations": s.sets,
                "gap_pct": s.gap,
                "gap_errors": s.gap_errors,
                "verdict": s.verdict,
                "reason": s.reason,
                "recipe": s.recipe,
                "records": " ".join(s.records),
            }
        )
        if s.mean is not None:
            errors = "" if s.gap_errors is None else f" ({s.gap_errors:+.1f} se)"
            shown[is_own].append(
                {
                    "method": c.method,
                    "ipc": str(c.ipc),
                    "protocol, network": f"{c.protocol}, {c.network}",
                    "recipe": s.recipe,
                    "published %": text.plus_minus(c.value, c.std),
                    "measured %": text.plus_minus(s.mean, s.std),
                    "n (sets)": f"{s.n} ({s.sets})",
                    "gap": f"{s.gap:+.1f}{errors}",
                    "verdict": s.verdict + (f": {s.reason}" if s.reason else ""),
                    "source": ("quoted by " if c.quoted else "") + c.source,
                }
            )
    said = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))
    body = (
        "Each method under the protocol of its own paper, beside what was printed; nothing is ranked, since protocols differ.\n"
        "A number that one paper quotes from another stands only where no paper prints one of its own. `gap` is measured\n"
        "less published, in points, and in combined standard errors (se) where there are any.\n"
        f"Of {len(standing)} published numbers: {said}. The CSV beside this page has them all.\n\n"
    )
    body += f"{text.pipe(shown[True])}\n" if shown[True] else "No number of this kind has a record yet.\n"
    if shown[False]:
        body += (
            "\n## Under other protocols\n\n"
            "Numbers under a protocol that is not the one of the method's own paper, or of a method that has no paper of its\n"
            f"own among the claims, such as `random`: what other papers printed.\n\n{text.pipe(shown[False])}\n"
        )
    return Page(
        "as-published", pd.DataFrame(lines), body, f"{len(measured)} of {len(standing)} claims measured"
    )


# ------------------------------------------------------------------------------------------------ equal bytes


def equal_bytes(rows: Sequence[Row]) -> Page | Empty:
    """Best accuracy of each method within a budget of shipped bytes."""
    sized = [r for r in _competing(rows) if math.isfinite(r.line["bytes_total"])]
    within = [r for r in sized if r.line["bytes_total"] <= BUDGETS[-1]]
    if not within:
        return Empty("no set is known to have 10 MB or less")
    groups = _groups(within, lambda r: r.peers.place)
    lines: list[dict[str, Any]] = []
    out = [
        "What a method reaches within a budget of shipped bytes (powers of 1000): images, labels, codec, space and program of\n"
        "the set. What must stand beside it while students train (teachers) is shown, never summed in. Of each method the row\n"
        "with the highest accuracy that fits, whatever its ipc, recipe and settings: `of` is how many fitted. Chosen by\n"
        "the test accuracy, which flatters a method with many rows a little. Every list is of one protocol and network.\n"
        f"{text.RANKS}"
    ]
    for place, mine in groups.items():
        out.append(f"\n## {_place(place, list(groups))}\n\n{_own(mine)}")
        shown: list[dict[str, str]] = []
        before: list[Row] = []
        last = ""
        same: dict[str, list[str]] = {}
        for budget in BUDGETS:
            fitting = [r for r in mine if r.line["bytes_total"] <= budget]
            of = Counter(r.name.method for r in fitting)
            best = [
                min(own, key=lambda r: r.order) for own in _groups(fitting, lambda r: r.name.method).values()
            ]
            ranked = _ranked(best)
            picks = [row for row, _ in ranked]
            name = f"{text.human_bytes(budget).replace('.0', '').replace('kB', 'KB')}"
            for row, placed in ranked:
                line = row.line | placed
                lines.append(
                    {
                        "budget_bytes": budget,
                        **placed,
                        **_picked(line, (*_WHO, *_SCORE)),
                        "of": of[row.name.method],
                    }
                    | _picked(line, (*_BYTES, *_WHERE))
                )
                if picks != before:
                    shown.append(
                        {
                            "within": name,
                            "rank": text.rank(line),
                            "method": text.method(line),
                            "recipe": text.recipe(line),
                            "ipc": str(line["ipc"]),
                            "of": str(of[row.name.method]),
                            "labels": line["labels"],
                            "top-1 %": text.plus_minus(line["top1_pct_mean"], line["top1_pct_std"]),
                            "95 % interval": text.interval(line),
                            "n (sets)": f"{line['n']} ({line['distillations']})",
                            "bytes": text.size(line),
                        }
                    )
            if not picks:
                same.setdefault("no set fits", []).append(name)
            elif picks == before:
                same.setdefault(f"nothing better fits than within {last}", []).append(name)
            else:
                last = name
            before = picks
        out.append(text.pipe(shown) + "\n")
        if same:
            out.append("\nWithin " + "; within ".join(f"{_and(n)}: {why}" for why, n in same.items()) + ".\n")
    full = [r.line for r in rows if not r.competes and math.isfinite(r.line["bytes_total"])]
    if full and (smallest := min(line["bytes_total"] for line in full)) <= BUDGETS[-1]:
        out.append(
            f"\nAll training data are {text.human_bytes(smallest)}: a budget that holds them needs no distillation.\n"
        )
    columns = ("budget_bytes", "rank", "rank_last", *_WHO, *_SCORE, "of", *_BYTES, *_WHERE)
    return Page("equal-bytes", _frame(lines, columns), "".join(out), f"{len(within)} sets of 10 MB or less")


# ------------------------------------------------------------------------------------------------ cost


def front(rows: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of (accuracy, cost) no other beats: at least as accurate at no more cost, and better in one of the two."""
    best = -math.inf
    found: dict[tuple[float, float], bool] = {}
    for accuracy, cost in sorted(set(rows), key=lambda p: (p[1], -p[0])):
        found[accuracy, cost] = accuracy > best
        best = max(best, accuracy)
    return [found[pair] for pair in rows]


def cost_s(line: dict[str, Any]) -> float:
    """Seconds of distillation, those of its teachers included; NaN where they are not known."""
    return float(line["distil_s"]) + float(line["teacher_s"])


def _measures_tensors(row: Row) -> bool:
    """Whether the peak is that of tensors, as on a GPU, not that of the process."""
    return not str(row.line["machine"]).startswith("cpu")


def cost(rows: Sequence[Row]) -> Page | Empty:
    """Accuracy against seconds and memory of the distillation."""
    mine = _competing(rows)
    if not mine:
        return Empty("no method has a score")
    out = [
        "What the accuracy costs to make: seconds of the distillation, seconds of the networks trained on real data for it\n"
        "(teachers, experts; counted whether they were cached or not), their sum, and the peak memory of the distillation:\n"
        "that of tensors on a GPU; on CPU that of the whole process, with interpreter, libraries and data, which says little\n"
        "of the method: rows of a CPU have no `memory` front.\n"
        "Seconds are means over distillations, the peak is the largest. `front` marks rows that no other row of the same\n"
        "machine beats: at least as accurate (by the mean) for no more `seconds` (the sum) or `memory`. A cost that nobody\n"
        f"measured here (`{text.UNKNOWN}`: a set that was made elsewhere) is on no front.\n"
        f"{text.RANKS}"
    ]
    lines: list[dict[str, Any]] = []
    places = [r.peers.place for r in mine]
    for peers, group in _groups(mine, lambda r: r.peers).items():
        marked: dict[Name, list[str]] = {r.name: [] for r in group}
        known = [r for r in group if math.isfinite(cost_s(r.line))]
        for _, own in _groups(known, lambda r: r.line["machine"]).items():
            for what, costs in (
                ("seconds", [cost_s(r.line) for r in own]),
                ("memory", [r.line["distil_peak_mib"] for r in own]),
            ):
                if what == "memory" and not _measures_tensors(own[0]):
                    continue
                at = [(round(r.mean, 9), c) for r, c in zip(own, costs, strict=True)]
                for row, unbeaten in zip(own, front(at), strict=True):
                    marked[row.name] += [what] * unbeaten
        shown = []
        for row in sorted(group, key=lambda r: r.order):
            line, on = row.line, marked[row.name]
            lines.append(
                _picked(line, ("rank", "rank_last", *_WHO, *_SCORE, "distil_s", "teacher_s"))
                | {
                    "cost_s": cost_s(line),
                    "distil_peak_mib": line["distil_peak_mib"],
                    "machine": line["machine"],
                }
                | {
                    "front_seconds": "seconds" in on,
                    "front_memory": "memory" in on if _measures_tensors(row) else None,
                }
                | _picked(line, _WHERE)
            )
            shown.append(
                {
                    "rank": text.rank(line),
                    "method": text.method(line),
                    "recipe": text.recipe(line),
                    "top-1 %": text.plus_minus(line["top1_pct_mean"], line["top1_pct_std"]),
                    "95 % interval": text.interval(line),
                    "distil s": text.seconds(line["distil_s"]) or text.UNKNOWN,
                    "teacher s": text.seconds(line["teacher_s"])
                    if math.isfinite(cost_s(line))
                    else text.UNKNOWN,
                    "sum s": text.seconds(cost_s(line)) or text.UNKNOWN,
                    "peak MiB": text.pct(line["distil_peak_mib"], 0) or text.UNKNOWN,
                    "front": " and ".join(on),
                    "machine": line["machine"],
                }
            )
        out.append(
            f"\n## {_place(peers.place, places)}, ipc {peers.ipc}\n\n{_own(group)}{text.pipe(shown)}\n"
        )
    columns = (
        "rank",
        "rank_last",
        *_WHO,
        *_SCORE,
        "distil_s",
        "teacher_s",
        "cost_s",
        "distil_peak_mib",
        "machine",
    )
    table = _frame(lines, (*columns, "front_seconds", "front_memory", *_WHERE))
    return Page("cost", table, "".join(out), f"{len(mine)} rows")


# ------------------------------------------------------------------------------------------------ cross-architecture


def compared_networks(sets: Sequence[frozenset[str]]) -> frozenset[str]:
    """The networks over which rows are compared, given those that each row has.

    Of the rows' own sets of two networks or more, that for which (networks) x (rows that have them all) is largest; of
    several the one of more networks, then the first by name.  Empty where no row has two.
    """
    candidates = {s for s in sets if len(s) > 1}
    counts = Counter(sets)

    def weight(s: frozenset[str]) -> tuple[Any, ...]:
        return -len(s) * sum(n for other, n in counts.items() if s <= other), -len(s), sorted(s)

    return min(candidates, key=weight, default=frozenset())


class _Across:
    """One method, recipe and settings at one ipc under one protocol, over networks, on the seeds that all of them have."""

    def __init__(self, rows: Sequence[Row], networks: Iterable[str]) -> None:
        by_network = {r.peers.place.network: r for r in rows}
        self.row = rows[0]
        self.name = self.row.name
        found = {n: {m.seed: m for m in by_network[n].found} for n in networks if n in by_network}
        self.seeds = sorted(set.intersection(*(set(of) for of in found.values()))) if found else []
        self.by_seed = {n: {s: of[s].mean for s in self.seeds} for n, of in found.items()}
        self.students = {n: of[self.seeds[0]].values for n, of in found.items() if len(self.seeds) == 1}
        self.distilled_with = str(self.row.found[0].record.settings.get("network", ""))
        self.partial = any(r.line["partial"] for r in rows)

    def on(self, network: str) -> float:
        """Mean over the seeds, percent."""
        return mean_of([*self.by_seed[network].values()])

    def over(self, networks: Sequence[str]) -> dict[int, float]:
        """Mean over networks by seed."""
        return {s: mean_of([self.by_seed[n][s] for n in networks]) for s in self.seeds}

    def sample(self, networks: Sequence[str]) -> ranks.Sample:
        """Of one distillation its students' means over the networks, where each has as many."""
        lists = [self.students.get(n, ()) for n in networks]
        even = len({len(values) for values in lists}) == 1
        students = [mean_of(values) for values in zip(*lists, strict=True)] if even else []
        return ranks.sample(self.over(networks), students)


def _spelt(network: str) -> str:
    """The canonical name, or a name that is none of ours as it stands."""
    try:
        return canonical(network)
    except (LookupError, ValueError):
        return network


def _reference(protocol: str, group: Sequence[Row], networks: frozenset[str]) -> str:
    """The protocol's default network where it is among those compared, else the one of most rows."""
    default = ROWS[protocol].plan.networks[:1] if protocol in ROWS else ()
    counts = Counter(r.peers.place.network for r in group)
    return next(
        (n for n in sorted(networks) for d in default if _spelt(n) == _spelt(d)),
        min(networks, key=lambda n: (-counts[n], n)),
    )


def _own_networks(across: Sequence[_Across], networks: frozenset[str], reference: str) -> list[str]:
    """Of each row the network that its set was distilled with, where that is among those compared, else the reference.

    Where this leaves no network that is nobody's own, the reference for all.
    """
    by_canonical = {_spelt(n): n for n in sorted(networks, reverse=True)}
    found = [
        by_canonical.get(_spelt(a.distilled_with), reference) if a.distilled_with else reference
        for a in across
    ]
    return found if set(found) != networks else [reference] * len(found)


def cross_architecture(rows: Sequence[Row]) -> Page | Empty:
    """Accuracy by network: mean over the networks that no set was made with, and the drop from the own network."""
    lines: list[dict[str, Any]] = []
    out = [
        "How sets do on networks that they were not made with. Rows are compared over one set of networks that all of them\n"
        "have, named above each table; rows that lack some are listed below it. `own` is the network that a set was distilled\n"
        "with where it is among them, else the protocol's (in brackets). `transfer` is the mean over the networks that are\n"
        "nobody's own, `drop` what the own network has more. All on the seeds that a row has on each of them; the interval is\n"
        "Student's t over distillations. Ranked by `transfer`.\n"
        f"{text.RANKS}"
    ]
    competing = _competing(rows)
    places = list(dict.fromkeys(r.peers.place for r in competing))
    protocols = [p._replace(network="") for p in places]
    for (bare, ipc), group in _groups(
        competing, lambda r: (r.peers.place._replace(network=""), r.peers.ipc)
    ).items():
        by_name = _groups(group, lambda r: r.name)
        networks = compared_networks(
            [frozenset(r.peers.place.network for r in own) for own in by_name.values()]
        )
        if not networks:
            continue
        every = {name: _Across(own, networks) for name, own in by_name.items()}
        complete = [a for a in every.values() if networks <= a.by_seed.keys() and a.seeds]
        if not complete:
            continue
        reference = _reference(bare.protocol, group, networks)
        owns = _own_networks(complete, networks, reference)
        transfer = sorted(networks - set(owns))
        means = [mean_of([*a.over(transfer).values()]) for a in complete]
        placed = ranks.places(means, [a.sample(transfer) for a in complete])
        shown = []
        for mean, a, own, (first, last) in sorted(
            zip(means, complete, owns, placed, strict=True), key=lambda x: (-round(x[0], 9), x[1].name)
        ):
            interval = mean_interval([*a.over(transfer).values()])
            line = (
                {"rank": first, "rank_last": last}
                | _picked(a.row.line, _WHO)
                | {
                    "transfer_pct": mean,
                    "own_pct": a.on(own),
                    "drop_pct": a.on(own) - mean,
                    "own_network": own,
                }
                | {"ci95_low_pct": interval[0] if interval else None}
                | {"ci95_high_pct": interval[1] if interval else None}
                | {
                    "distillations": len(a.seeds),
                    "n": len(a.sample(transfer).values),
                    "transfer_networks": " ".join(transfer),
                }
                | _picked(a.row.line, ("protocol", "protocol_version", "precision", "comparable"))
                | {"partial": a.partial, "data_fingerprint": bare.data_fingerprint}
            )
            lines.append(line | {f"{n}_pct": a.on(n) for n in sorted(networks)})
            known = a.distilled_with and _spelt(a.distilled_with) == _spelt(own)
            shown.append(
                {
                    "rank": text.rank(line),
                    "method": text.method(line),
                    "recipe": text.recipe(line),
                    "labels": a.row.line["labels"],
                    "transfer %": text.pct(mean),
                    "95 % interval": text.interval(line),
                    "sets": str(len(a.seeds)),
                    "own": own if known else f"({own})",
                    "own %": text.pct(a.on(own)),
                    "drop": f"{a.on(own) - mean:+.1f}",
                }
                | {f"{n} %": text.pct(a.on(n)) for n in transfer}
            )
        said = _place(bare._replace(network=f"ipc {ipc}"), protocols)
        out.append(
            f"\n## {said}\n\n{_own(group)}Over {', '.join(sorted(networks))}; "
            f"transfer networks: {', '.join(transfer)}.\n\n{text.pipe(shown)}\n"
        )
        apart = [a for a in every.values() if not (networks <= a.by_seed.keys() and a.seeds)]
        if apart:
            out.append("\nIncomplete, not compared:\n\n")
            for a in sorted(apart, key=lambda a: a.name):
                own_rows = sorted(by_name[a.name], key=lambda r: r.peers.place.network)
                has = ", ".join(f"{r.peers.place.network} {r.mean:.1f}" for r in own_rows)
                lacks = sorted(networks - {r.peers.place.network for r in own_rows})
                why = f"without {', '.join(lacks)}" if lacks else "no seed on all of the networks"
                out.append(f"- {text.method(a.row.line)} ({text.recipe(a.row.line)}): {has} ({why})\n")
    if not lines:
        return Empty("no method has scores of two networks under one protocol")
    return Page("cross-architecture", pd.DataFrame(lines), "".join(out), f"{len(lines)} rows")
