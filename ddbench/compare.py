"""Paired tests between two methods, or between two sets.  Records in, numbers out; no torch.

What is paired:

* **Methods**: the sets that both made in one cell, that is of one data set (and its fingerprint), ipc, protocol Major.Minor,
  network, precision and seed, under labels of the same networks.  The students of a set are averaged first: a pair is two
  means.  Of a cell that was measured more than once the newest record stands; partial sets are left out.
* **Sets**: students of the same seed, which start from the same weights and see the same shuffles.

Of the differences d (A less B, in points) of n pairs: their mean, its 95 % interval by Student's t with n - 1 degrees of
freedom, and the two-sided p value of the paired t test, t = mean / (s / sqrt(n)); from six pairs on Wilcoxon's signed-rank
test as well, which does not ask for normal differences.  A single pair has neither interval nor p.  The combined line takes
each group's mean as one value, so that a group with many seeds counts no more than another; groups that share their data
are not independent, and the line is a summary of them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ddbench.nets import names as network_names
from ddbench.records import Record

FLOOR = "random"
LABELLING = ("labels", "networks", "squeeze", "held_out", "prior")
"""Settings of the floor that change who labels and leave the images as they are."""
PLAIN = "none"
"""In METHOD:RECIPE:SETTINGS: the recipe as it is."""
WILCOXON_FROM = 6
"""Pairs: with fewer no outcome of the signed-rank test is below 0.05."""


@lru_cache
def _quantile(p: float, df: int) -> float:
    """Of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(df, p))


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean of independent values: s / sqrt(n), s with n - 1; None for fewer than two of them."""
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) / math.sqrt(n)


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's t interval of the mean of independent values; None for fewer than two of them."""
    error = standard_error(values)
    if error is None:
        return None
    mean = math.fsum(values) / len(values)
    half = _quantile(0.5 + level / 2, len(values) - 1) * error
    return mean - half, mean + half


def t_test(differences: Sequence[float]) -> float | None:
    """Two-sided p value of the paired t test; None for fewer than two pairs.

    Equal differences leave no deviation to test against: 1 where they are 0, else 0, the limits.
    """
    from scipy import stats

    error = standard_error(differences)
    if error is None:
        return None
    n = len(differences)
    mean = math.fsum(differences) / n
    if error * math.sqrt(n) <= 1e-12 * max(map(abs, differences)):
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / error, n - 1))


def signed_rank(differences: Sequence[float]) -> float | None:
    """Two-sided p value of Wilcoxon's signed-rank test, zeros left out; None for fewer than :data:`WILCOXON_FROM` pairs."""
    from scipy import stats

    if len(differences) < WILCOXON_FROM:
        return None
    if not any(differences):
        return 1.0
    rounded = [round(d, 9) for d in differences]  # equal in exact arithmetic means equal ranks
    with (
        warnings.catch_warnings()
    ):  # few pairs without zeros: the normal approximation is then said to be rough
        warnings.simplefilter("ignore", UserWarning)
        return float(stats.wilcoxon(rounded).pvalue)


@dataclass(frozen=True)
class Line:
    """One paired test.  Means, differences and intervals in percent points."""

    where: Mapping[str, Any]
    """What the pairs share: data set, ipc, protocol, version, network, precision; ``{}`` of the combined line."""
    n: int
    """Pairs: sets by seed, students by seed, or groups."""
    a: float
    b: float
    difference: float
    """A less B."""
    low: float | None
    """95 % interval of the difference; None for one pair."""
    high: float | None
    p: float | None
    p_wilcoxon: float | None
    differences: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        """``A is better`` | ``B is better`` (the interval leaves out 0) | ``no difference shown`` | ``one pair, no test``."""
        if self.low is None or self.high is None:
            return "one pair, no test"
        if self.low > 0 or self.high < 0:
            return "A is better" if self.difference > 0 else "B is better"
        return "no difference shown"


@dataclass(frozen=True)
class Comparison:
    """A and B, held against each other."""

    a: str
    b: str
    pairs_of: str
    """What a pair is: ``sets of one seed`` or ``students of one seed``."""
    lines: tuple[Line, ...]
    combined: Line | None
    """Over the groups, where there are several."""
    left_out: tuple[str, ...] = ()
    """What was found and not compared, and why."""
    taken: tuple[str, ...] = ()
    """Where a name left the settings open: which were taken, and which were not."""
    scope: str = ""
    """What the verdicts are of, where that is less than the methods."""


OF_TWO_SETS = (
    "the verdict is of these two sets only: pairs are students, one set a side, and another set of the same method may "
    "score otherwise; of the methods it says nothing (that takes sets of several seeds: ddbench compare METHOD METHOD)"
)
"""Scope of a comparison of sets."""


def line(where: Mapping[str, Any], pairs: Sequence[tuple[float, float]]) -> Line:
    """The test of pairs of percentages (A, B), at least one."""
    differences = [a - b for a, b in pairs]
    interval = mean_interval(differences)
    n = len(pairs)
    return Line(
        where=dict(where),
        n=n,
        a=math.fsum(a for a, _ in pairs) / n,
        b=math.fsum(b for _, b in pairs) / n,
        difference=math.fsum(differences) / n,
        low=interval[0] if interval else None,
        high=interval[1] if interval else None,
        p=t_test(differences),
        p_wilcoxon=signed_rank(differences),
        differences=tuple(differences),
    )


def _combined(lines: Sequence[Line]) -> Line | None:
    return line({}, [(group.a, group.b) for group in lines]) if len(lines) > 1 else None


def values(record: Record) -> list[float]:
    """Percentages of a record that boards rank: after the last epoch, of its metric, on the plain test set."""
    return [
        100 * s.value
        for s in record.scores
        if s.chosen_by == "last" and not s.task and s.metric == record.metric
    ]


# ------------------------------------------------------------------------------------------------ methods


def _overrides(record: Record) -> str:
    return ", ".join(f"{k}={v}" for k, v in sorted(record.cell.distil.settings.items()))


def _form(record: Record) -> str:
    """The name that means its recipe and settings alone."""
    return f"{record.cell.distil.method}:{_recipe(record)}:{_overrides(record) or PLAIN}"


def _recipe(record: Record) -> str:
    return record.recipe or record.cell.distil.recipe


def _where(record: Record) -> dict[str, Any]:
    d = record.cell.distil
    return {
        "dataset": d.dataset,
        "ipc": d.ipc,
        "protocol": record.cell.protocol,
        "version": ".".join(record.protocol_version.split(".")[:2]),
        "network": network_names.canonical(record.cell.network),
        "precision": record.provenance.precision,
        "metric": record.metric,
        "data": record.data_fingerprint,
    }


def _labelled_by(record: Record) -> str:
    return " + ".join(record.labelled_by) or record.notes.get("labels", "")  # an older one has its note alone


def place(where: Mapping[str, Any]) -> str:
    """A group in words."""
    words = (
        f"{where['dataset']} ipc {where['ipc']}, {where['protocol']} {where['version']}, {where['network']}"
    )
    return words + (f", {where['precision']}" if where["precision"] != "fp32" else "")


def _named(name: str, records: Sequence[Record]) -> list[Record]:
    """The records that a name may mean: METHOD, METHOD:RECIPE or METHOD:RECIPE:SETTINGS (``none``: none of its own).

    Raises:
        LookupError: no such method, recipe or settings among the records.
    """
    method, _, rest = name.partition(":")
    recipe, _, overrides = rest.partition(":")
    mine = [r for r in records if r.cell.distil.method == method]
    if not mine:
        have = ", ".join(sorted({r.cell.distil.method for r in records}))
        raise LookupError(f"no scored record of method {method!r} here; there are some of: {have}")
    for what, wanted, of in (("recipe", recipe, _recipe), ("settings", overrides, _overrides)):
        have = "; ".join(sorted({of(r) or PLAIN for r in mine}))
        mine = [r for r in mine if not wanted or (of(r) or PLAIN) == wanted]
        if not mine:
            raise LookupError(f"no scored record of {method} with {what} {wanted!r}; there are: {have}")
    return mine


def _of_one_kind(name: str, found: Sequence[Record], where: Mapping[str, Any]) -> list[Record]:
    """Of the records of one cell those that a name means where it leaves something open, in the order in which a later one
    replaces an earlier one of the same seed and labels.

    Raises:
        LookupError: several recipes or settings fit.
    """
    recipes = sorted({_recipe(r) for r in found})
    if len(recipes) > 1:
        raise LookupError(
            f"{name} was run under the recipes {', '.join(recipes)} for {place(where)}; name one: {name}:{recipes[0]}"
        )
    found = sorted(found, key=lambda r: r.created)  # measured again, the newest stands
    if name.count(":") > 1:
        return found
    if name.partition(":")[0] == FLOOR:  # as boards have it: whatever changes nothing but who labels
        found = [r for r in found if set(r.cell.distil.settings) <= set(LABELLING)]
        return sorted(found, key=lambda r: not r.cell.distil.settings)
    settings = sorted({_overrides(r) for r in found})
    if "" in settings:
        return [r for r in found if not r.cell.distil.settings]
    if len(settings) > 1:
        raise LookupError(
            f"{name} was run with several settings for {place(where)}: {'; '.join(settings)}; name one: "
            f"{name.partition(':')[0]}:{recipes[0]}:{settings[0]}"
        )
    return found


def methods(
    records: Iterable[Record],
    a: str,
    b: str,
    *,
    dataset: str | None = None,
    ipc: int | None = None,
    protocol: str | None = None,
    networks: Sequence[str] = (),
) -> Comparison:
    """A paired test between two methods in each cell that both were scored in, and over these cells.

    Args:
        records: any mix.
        a, b: ``METHOD``, ``METHOD:RECIPE`` or ``METHOD:RECIPE:SETTINGS`` (settings as boards show them: ``lr=3``; ``none``:
            no settings of its own); without settings those records count that have none of their own, where there are any,
            and ``taken`` of the result says which were left out.
        dataset, ipc, protocol, networks: only these cells.

    Raises:
        LookupError: a name that no scored record has, or that means several recipes or settings.
        ValueError: nothing pairs; says for each group of the one method what the other lacks.
    """
    if a == b:
        raise ValueError(f"{a!r} is compared with itself; expected two names, such as dm and dm:authors")
    wanted = {"dataset": dataset, "ipc": ipc, "protocol": protocol}
    students = [network_names.canonical(n) for n in networks]
    scored = [(r, _where(r)) for r in records if r.status in ("ok", "partial") and values(r)]
    fitting = [
        r
        for r, where in scored
        if all(v is None or where[k] == v for k, v in wanted.items())
        and (not students or where["network"] in students)
    ]
    if not fitting:
        asked = ", ".join([*(f"{k} {v}" for k, v in wanted.items() if v is not None), *students])
        expected = _there([where for _, where in scored], wanted, students)
        raise LookupError(f"no record with a score{f' of {asked}' if asked else ''}; expected {expected}")
    left_out: list[str] = []
    sides: list[dict[tuple[Any, ...], dict[tuple[int, str], float]]] = []
    wheres: dict[tuple[Any, ...], dict[str, Any]] = {}
    taken: dict[tuple[Any, ...], list[str]] = {}
    for name in (a, b):
        cells: dict[tuple[Any, ...], list[Record]] = {}
        partial = 0
        for r in _named(name, fitting):
            if r.status == "partial":
                partial += 1
                continue
            where = _where(r)
            key = tuple(where.values())
            wheres[key] = where
            cells.setdefault(key, []).append(r)
        if partial:
            left_out.append(f"{partial} of {name} cut short by a time budget")
        side: dict[tuple[Any, ...], dict[tuple[int, str], float]] = {}
        for key, those in cells.items():
            kind = _of_one_kind(name, those, wheres[key])
            if said := _taken(name, kind, those):
                taken.setdefault(key, []).append(said)
            for r in kind:
                found = values(r)
                side.setdefault(key, {})[r.cell.distil.seed, _labelled_by(r)] = math.fsum(found) / len(found)
        sides.append(side)
    lines: list[Line] = []
    elsewhere: list[str] = []
    places: dict[str, list[str]] = {}
    for key in sorted(sides[0].keys() | sides[1].keys(), key=str):
        mine, other = (groups.get(key, {}) for groups in sides)
        both = sorted(mine.keys() & other.keys())
        if both:
            lines.append(line(wheres[key], [(mine[k], other[k]) for k in both]))
            for said in taken.get(key, ()):
                places.setdefault(said, []).append(place(wheres[key]))
        paired = {seed for seed, _ in both}
        for name, these, against, others in ((a, mine, b, other), (b, other, a, mine)):
            if alone := sorted({seed for seed, _ in these} - paired):
                near = [wheres[k] for k in sides[against == b]]
                why = _lacks(against, alone, others, wheres[key], near)
                (left_out if others else elsewhere).append(
                    f"{name} {_seeds(alone)} of {place(wheres[key])}: {why}"
                )
    if not lines:
        why = "; ".join([*left_out, *elsewhere][:6]) or "no whole set of either"
        raise ValueError(f"nothing pairs {a} with {b}: {why}")
    chosen = tuple(f"{said} ({'; '.join(cells_)})" for said, cells_ in places.items())
    return Comparison(a, b, "sets of one seed", tuple(lines), _combined(lines), tuple(left_out), chosen)


def _taken(name: str, kind: Sequence[Record], found: Sequence[Record]) -> str:
    """What ``name`` was taken to mean, where that is not plain to see, or ""."""
    forms = sorted({_form(r) for r in kind})
    others = sorted({_form(r) for r in found} - set(forms))
    if name.count(":") > 1 or not (others or any(r.cell.distil.settings for r in kind)):
        return ""
    return f"{name} is {', '.join(forms) or 'nothing'}" + (f", without {', '.join(others)}" if others else "")


def _there(wheres: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any], students: Sequence[str]) -> str:
    """What could have been asked for: of each thing that no cell has, what there is; else the cells."""
    if not wheres:
        return "a run folder with some (see: ddbench run --runs DIR)"
    asked = {**{k: [v] for k, v in wanted.items() if v is not None}, "network": list(students)}
    found = []
    for kind, names in asked.items():
        have = sorted({where[kind] for where in wheres})
        if names and not set(names) & set(have):
            found.append(f"{kind} {', '.join(map(str, have))}")
    if found:
        return f"what there is: {'; '.join(found)}"
    cells = sorted({place(where) for where in wheres})
    return f"one of these cells: {'; '.join(cells[:6])}{f'; and {len(cells) - 6} more' if len(cells) > 6 else ''}"


def _seeds(seeds: Iterable[int]) -> str:
    numbers = sorted(set(seeds))
    return f"seed{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _lacks(
    other: str,
    alone: Iterable[int],
    others: Iterable[tuple[int, str]],
    where: Mapping[str, Any],
    near: Sequence[Mapping[str, Any]],
) -> str:
    """Why the seeds ``alone`` have no partner among the (seed, labels) of the other side, which was scored in ``near``."""
    seeds = {seed for seed, _ in others}
    if seeds:
        same = seeds & set(alone)
        return f"{other} learned from labels of other networks" if same else f"{other} has {_seeds(seeds)}"
    apart = [{k: v for k, v in cell.items() if v != where[k]} for cell in near]
    closest = min(apart, key=len, default={})
    if not 1 <= len(closest) <= 2:
        return f"{other} was not scored there"
    said = (f"{'data fingerprint' if k == 'data' else k} {v}" for k, v in closest.items())
    return f"{other} has {', '.join(said)} instead"


# ------------------------------------------------------------------------------------------------ sets


def sets(a: str, b: str, records_a: Sequence[Record], records_b: Sequence[Record]) -> Comparison:
    """A paired test between two sets that were evaluated with the same students.

    Args:
        a, b: how to call them.
        records_a, records_b: one a network, of the same protocol, data and seed.

    Raises:
        ValueError: records that do not pair: other data, protocol, network or students.
    """
    by_network = {r.cell.network: r for r in records_b}
    lines = []
    for one in records_a:
        two = by_network.get(one.cell.network)
        if two is None:
            raise ValueError(f"{b} was not scored with {one.cell.network}; expected the same networks")
        places = [{k: v for k, v in _where(r).items() if k != "ipc"} for r in (one, two)]
        if places[0] != places[1]:
            apart = ", ".join(
                f"{k} {v} and {places[1][k]}" for k, v in places[0].items() if v != places[1][k]
            )
            raise ValueError(f"{a} and {b} cannot be compared: {apart}; expected the same on both sides")
        scores = [
            {
                s.seed: 100 * s.value
                for s in r.scores
                if s.chosen_by == "last" and not s.task and s.metric == r.metric
            }
            for r in (one, two)
        ]
        if not scores[0] or scores[0].keys() != scores[1].keys():
            raise ValueError(
                f"{a} and {b} were not scored by the same students of {one.cell.network}; expected equal seeds and repeats"
            )
        ipcs = sorted({r.cell.distil.ipc for r in (one, two)})
        where = {**_where(one), "ipc": ipcs[0] if len(ipcs) == 1 else f"{ipcs[0]} and {ipcs[1]}"}
        lines.append(line(where, [(scores[0][s], scores[1][s]) for s in scores[0]]))
    return Comparison(a, b, "students of one seed", tuple(lines), _combined(lines), scope=OF_TWO_SETS)
