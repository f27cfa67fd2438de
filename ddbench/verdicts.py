"""A published number beside what records measured: gap, standard errors, verdict.  No torch.

The rules, in full with their reasons: docs/reproduce.md.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ddbench import compare, registry
from ddbench.claims import Claim
from ddbench.nets import names as networks_
from ddbench.protocols.rows import ROWS
from ddbench.records import Record

Verdict = Literal["reproduced", "below", "above", "not comparable", "not run", "no recipe"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "below", "above", "not comparable", "not run", "no recipe")
WITHIN_POINTS = 1.0
"""A gap of so many points, or of ``WITHIN_ERRORS`` combined standard errors, counts as reproduced."""
WITHIN_ERRORS = 2.0
UNCERTAIN_POINTS = 3.0
"""Where ``WITHIN_ERRORS`` combined standard errors are more points than this, a note says that the verdict says little."""
AUTHORS = ("authors", "released", "paper")
"""Recipes that are the authors' own, in the order in which they are preferred."""
_COARSE = ("bf16",)
"""Precisions of student training that the papers did not have."""


@dataclass(frozen=True)
class Standing:
    """A claim and what stands beside it.  Accuracies, deviations, errors and gaps in percent points."""

    claim: Claim
    verdict: Verdict
    reason: str = ""
    """Why it is not comparable, was not run or has no recipe; "" for the other verdicts."""
    mean: float | None = None
    """Of the means of the distillations."""
    std: float | None = None
    """Population deviation over students (over sets, where a set has one value for all its students); None for a single
    value."""
    n: int = 0
    """Students."""
    sets: int = 0
    """Distillations."""
    error: float | None = None
    """Standard error of the measured mean; None where a single value stands for it."""
    gap: float | None = None
    """Measured less published."""
    gap_errors: float | None = None
    """The gap in combined standard errors; None where neither side has one."""
    recipe: str = ""
    seconds: float = 0.0
    """Of distillation, teachers and evaluation, over all records."""
    peak_mib: float = 0.0
    records: tuple[str, ...] = ()
    """Keys of the records behind it."""
    revision: str = ""
    """Code revisions of these records."""
    note: str = ""
    """What a reader must know of a measured one: what the errors are made of, what was left out."""
    device: str = ""
    """Devices of these records."""


@dataclass(frozen=True)
class _Kind:
    """What records must share to be pooled."""

    recipe: str
    settings: str
    dataset: str
    version: str
    precision: str
    data: str
    labels: str
    whitened: bool
    chosen: str
    status: str
    nearest: str


def fits(claim: Claim, record: Record) -> bool:
    """Whether a record is of the claim's method, data, images a class, protocol and network, with scores."""
    return record.status in ("ok", "partial") and same_cell(claim, record) and bool(_values(claim, record)[0])


def same_cell(claim: Claim, record: Record) -> bool:
    """Whether a record, with scores or without, is of the claim's cell."""
    cell = record.cell
    return (
        claim.ours
        and _same_set(claim, record)
        and cell.protocol == claim.protocol
        and network(cell.network, claim.dataset) == network(claim.network, claim.dataset)
    )


def _same_set(claim: Claim, record: Record) -> bool:
    distil = record.cell.distil
    named = (distil.method, base(distil.dataset), distil.ipc)
    return named == (claim.method, base(claim.dataset), claim.ipc)


def base(dataset: str) -> str:
    """``imagenette?resize=squash`` -> ``imagenette``."""
    return dataset.partition("?")[0]


def network(name: str, dataset: str) -> str:
    """The one spelling of a network's name; a ResNet is the form that the field uses for images of this size.  A name that
    nothing has stays as it is."""
    name = _canonical(name)
    side = None if name.startswith("ConvNet") else _side(base(dataset))
    return name if side is None else networks_.for_side(name, side)


@functools.lru_cache(maxsize=1024)
def _canonical(name: str) -> str:
    try:
        return networks_.canonical(name)
    except (LookupError, ValueError):
        return name


def own_papers(method: str) -> tuple[str, ...]:
    """Stems of the files in which a method's own numbers stand: its name; for ``fyi+dm`` the wrapper's."""
    return (method.partition("+")[0],)


def own_protocols(claims: Iterable[Claim]) -> dict[str, frozenset[str]]:
    """By method the protocols of its own paper: those of the numbers in its own file, quoted ones only where it prints no
    other.  Of these the most used one, and all that are named after the method (``ncfm-40``): a file has single numbers under
    the protocols of others too.  A method without numbers in a file of its own (``random``) is not there."""
    counts: dict[str, dict[bool, Counter[str]]] = {}
    for c in claims:
        if c.ours and c.paper in own_papers(c.method):
            counts.setdefault(c.method, {}).setdefault(c.quoted, Counter())[c.protocol] += 1
    found = {}
    for method, by_quoted in counts.items():
        used = by_quoted[min(by_quoted)]
        most = min(used, key=lambda p: (-used[p], p))
        found[method] = frozenset({most} | {p for p in used if p == method or p.startswith(f"{method}-")})
    return found


def authors(record: Record) -> bool:
    """Whether a record is of a recipe of the authors that was made for its cell, or has the defaults of a method that has no
    such recipe (``random``); without settings of one's own."""
    return not _other_recipe(record)


def whitened(record: Record) -> bool:
    """Whether students saw whitened images; older records do not say it, but have the setting of the method that decides."""
    return bool(setting(record.settings, "zca")) if record.whitened is None else record.whitened


def setting(settings: Mapping[str, Any], name: str) -> Any:
    """A setting of a method, or of the base of a wrapper (``mtt.zca``), or None."""
    return next((v for k, v in settings.items() if k.rpartition(".")[2] == name), None)


def authors_recipe(claim: Claim) -> registry.Recipe | None:
    """The recipe of a claim's very cell: the one that the claim names, where it does.  Else the authors': of several
    (``authors``, ``released``, ``paper``) the first whose whitening and network of the distillation are those of the claim;
    the defaults of a method whose authors have no recipe (``random``); None where there are some, but none for this cell."""
    if not claim.recipe and not has_authors(claim.method):
        return registry.Recipe("defaults")
    found = []
    for name in (claim.recipe,) if claim.recipe else AUTHORS:
        try:
            recipe = registry.resolve_recipe(claim.method, name, claim.dataset, claim.ipc or 0)
        except (LookupError, registry.PluginError):
            continue
        if not recipe.note:  # else it was made for another cell
            found.append(recipe)

    def order(recipe: registry.Recipe) -> tuple[bool, bool]:
        return not whitening_fits(claim, recipe), bool(_other_network(claim, recipe.settings))

    return min(found, key=order, default=None)


def _other_network(claim: Claim, settings: Mapping[str, Any]) -> str:
    """The network that settings distil with where the claim names another; "" where they agree or one of them does not say
    it by a name that ddbench has (a committee, an encoder)."""
    asked, made_by = claim.distill_network, setting(settings, "network")
    if not asked or not isinstance(made_by, str) or not made_by or not _is_network(asked):
        return ""
    return "" if network(made_by, claim.dataset) == network(asked, claim.dataset) else made_by


def _is_network(name: str) -> bool:
    try:
        networks_.canonical(name)
    except (LookupError, ValueError):
        return False
    return True


def whitening_fits(claim: Claim, recipe: registry.Recipe) -> bool:
    """Whether a recipe whitens as the claim's number does, as far as the claim says."""
    return claim.zca is None or bool(setting(recipe.settings, "zca")) == claim.zca


def lacking(claim: Claim) -> list[tuple[str, str]]:
    """What of an external claim ddbench does not have, as (kind, name): ``("protocol", "full-data")``; a known data set in
    another form or size, and a known protocol whose settings for this data set nobody published, have kinds of their own."""
    found = []
    for field in claim.external:
        if field == "ipc":
            found.append(("counts", "other than images a class"))
        elif field == "dataset" and _side(base(claim.dataset)) is not None:
            size = f" at {claim.resolution} pixels" if claim.resolution else " in that form"
            found.append(("form", f"{base(claim.dataset)}{size}"))
        elif field == "protocol" and claim.protocol in ROWS:
            found.append(("settings of", f"{claim.protocol} for {claim.dataset}"))
        else:
            found.append(("data set" if field == "dataset" else field, str(getattr(claim, field))))
    return found


def published_runs(claim: Claim) -> int | None:
    """Runs behind the published mean: as stated, else the repeats of its protocol; None for a protocol that is not ours."""
    if claim.n is not None:
        return claim.n
    row = ROWS.get(claim.protocol)
    return None if row is None else row.plan.repeats


def published_error(claim: Claim) -> float | None:
    """Standard error of the published mean: its deviation over the root of :func:`published_runs`; None without either."""
    runs = published_runs(claim)
    return None if claim.std is None or runs is None else claim.std / math.sqrt(runs)


def error_of_mean(sets: Sequence[Sequence[float]]) -> float | None:
    """Standard error of a mean over students of several distillations, each a list of values: from the distillations'
    means where there are two or more, else from the students of the one; None for a single value."""
    return compare.standard_error([sum(s) / len(s) for s in sets] if len(sets) > 1 else sets[0])


def stand(claim: Claim, records: Iterable[Record]) -> Standing:
    """What records say to a claim.

    Only records of one kind are pooled: same recipe and settings, form of the data, protocol version, precision, labels,
    whitening, whole or partial.  Of several kinds a comparable one stands, else one of the claim's recipe; then that
    with the fewest reasons against it, the most distillations, the most students, the newest.  Of several records of one
    seed (measured again) that of the most students stands, of these the newest.
    """
    records = list(records)
    fitting = [r for r in records if fits(claim, r)]
    if not fitting:
        why = _why_not_run(claim, records)
        if claim.ours and claim.ipc and authors_recipe(claim) is None:
            return Standing(claim, "no recipe", "; ".join(t for t in (without_recipe(claim), why) if t))
        if claim.caveat and claim.ours:
            why = "; ".join(t for t in (f"would not be comparable: {claim.caveat}", why) if t)
        return Standing(claim, "not run", why)
    kinds: dict[_Kind, dict[int, Record]] = {}
    for r in sorted(fitting, key=lambda r: (_students(claim, r), r.created, r.key)):
        kinds.setdefault(_kind(claim, r), {})[r.cell.distil.seed] = r

    def order(kind: _Kind) -> tuple[Any, ...]:
        mine = list(kinds[kind].values())
        against = _incomparable(claim, mine)
        students = sum(_students(claim, r) for r in mine)
        return bool(against), bool(_other_recipe(mine[0], claim)), len(against), -len(mine), -students

    newest_first = sorted(kinds, key=lambda k: max(r.created for r in kinds[k].values()), reverse=True)
    first = min(newest_first, key=order)  # of equals the first
    among = [kinds[first][seed] for seed in sorted(kinds[first])]
    left_out = len(fitting) - len(among)
    sets = [_values(claim, r)[0] for r in among]
    values = [v for s in sets for v in s]
    n = sum(_students(claim, r) for r in among)
    mean = sum(sum(s) / len(s) for s in sets) / len(sets)  # of sets, as its error is
    middle = sum(values) / len(values)
    std = math.sqrt(sum((v - middle) ** 2 for v in values) / len(values)) if len(values) > 1 else None
    gap = mean - claim.value
    error = error_of_mean(sets)
    # a single value is a draw from what was published, if it is reproduced: the published deviation is its error
    own = claim.std / math.sqrt(n) if error is None and claim.std is not None else error
    combined = math.hypot(own or 0.0, published_error(claim) or 0.0) or None
    reason = "; ".join(_incomparable(claim, among))
    # a billionth of a point: 27.0 - 26.0 in binary fractions is not 1
    within = abs(gap) <= max(WITHIN_POINTS, WITHIN_ERRORS * (combined or 0.0)) + 1e-9
    verdict: Verdict = (
        "not comparable" if reason else "reproduced" if within else "below" if gap < 0 else "above"
    )
    spent = [r.spent for r in among]
    return Standing(
        claim,
        verdict,
        reason,
        mean,
        std,
        n,
        len(among),
        error,
        gap,
        None if combined is None else gap / combined,
        among[0].recipe,
        sum(s.distil_s + s.teacher_s + s.evaluate_s for s in spent),
        max(max(s.distil_peak_mib, s.evaluate_peak_mib) for s in spent),
        tuple(r.key for r in among),
        " ".join(sorted({_short(r.provenance.revision) for r in among} - {""})),
        "; ".join(_notes(claim, among, error, combined, n, left_out)),
        ", ".join(sorted({_device(r) for r in among} - {""})),
    )


def standings(claims: Iterable[Claim], records: Iterable[Record]) -> list[Standing]:
    """:func:`stand` for many, in the order of the claims."""
    by_set: dict[tuple[str, str, int | None], list[Record]] = {}
    for r in records:
        d = r.cell.distil
        by_set.setdefault((d.method, base(d.dataset), d.ipc), []).append(r)
    return [stand(c, by_set.get((c.method, base(c.dataset), c.ipc), ())) for c in claims]


# ------------------------------------------------------------------------------------------------ of one record


def _values(claim: Claim, record: Record) -> tuple[list[float], str]:
    """Values (percent) of a record that are chosen as the claim's was, where it has such, and what they are."""
    for chosen in (claim.chosen, "last"):
        found = [
            100 * s.value
            for s in record.scores
            if s.chosen_by == chosen and s.metric == claim.metric and not s.task
        ]
        if found:
            return found, chosen
    return [], ""


def _students(claim: Claim, record: Record) -> int:
    """Students behind the values; a snapshot's value is a mean over several."""
    chosen = _values(claim, record)[1]
    return sum(
        s.students or 1
        for s in record.scores
        if s.chosen_by == chosen and s.metric == claim.metric and not s.task
    )


def _kind(claim: Claim, record: Record) -> _Kind:
    distil = record.cell.distil
    return _Kind(
        record.recipe or distil.recipe,
        str(sorted(distil.settings.items())),
        distil.dataset,
        _major_minor(record.protocol_version),
        record.provenance.precision,
        record.data_fingerprint,
        _labels(record.labels),
        whitened(record),
        _values(claim, record)[1],
        record.status,
        record.notes.get("recipe", ""),
    )


def _labels(word: str) -> str:
    """``hard`` or ``soft``; "" where it is neither."""
    return "" if word in ("", "none") else "hard" if word.startswith("hard") else "soft"


def _major_minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _short(revision: str) -> str:
    """Nine digits of a revision, and the mark of local changes."""
    return revision[:9] + ("+" if revision.endswith("+") else "")


def _device(record: Record) -> str:
    """The name of a GPU; of a CPU it says nothing."""
    made = record.provenance
    return made.device if made.device == "cpu" else made.device_name or made.device


def _other_recipe(record: Record, claim: Claim | None = None) -> str:
    """Why a record's recipe is not the one that the claim names, else not the authors' for its cell; or ""."""
    distil = record.cell.distil
    name = record.recipe or distil.recipe
    if distil.settings:
        changed = ", ".join(f"{k}={v}" for k, v in sorted(distil.settings.items()))
        return f"other recipe: {name} with settings of one's own ({changed})"
    asked = claim.recipe if claim is not None else ""
    if name == "defaults" and (asked == name or not (asked or has_authors(distil.method))):
        return ""
    if near := record.notes.get("recipe"):
        return f"other recipe: {near}"
    if asked:
        return "" if name == asked else f"other recipe: {name!r} is not {asked!r}, which this number is of"
    if name in AUTHORS:
        return ""
    return f"other recipe: {name!r} is not the authors'"


def has_authors(method: str) -> bool:
    """Whether a method has a recipe of its authors; else its defaults stand for one."""
    return _has_authors(method, len(registry.added_files()))


@functools.lru_cache(maxsize=256)
def _has_authors(method: str, plugins: int) -> bool:
    try:
        return any(key[0] in AUTHORS for key in registry.recipes(method))
    except (LookupError, registry.PluginError):  # no method of this installation: nothing is known of it
        return True


# ------------------------------------------------------------------------------------------------ of all


def without_recipe(claim: Claim) -> str:
    """Why nothing can be run for a claim that has no :func:`authors_recipe`."""
    if claim.recipe:
        return f"{claim.method} has no recipe {claim.recipe!r} for {claim.dataset} at ipc {claim.ipc}"
    return f"the authors of {claim.method} give no recipe for {claim.dataset} at ipc {claim.ipc}"


def _why_not_run(claim: Claim, records: Sequence[Record]) -> str:
    if claim.external:
        return f"not in ddbench: {', '.join(f'{kind} {name}' for kind, name in lacking(claim))}"
    if claim.task or claim.metric != "top1":
        return f"{claim.task or claim.metric} is not what ddbench measures here"
    cell = [r for r in records if same_cell(claim, r) and r.status in ("failed", "skipped")]
    if cell:
        last = max(cell, key=lambda r: r.created)
        return f"{last.status}: {last.reason}"
    others = sorted(
        {
            f"{r.cell.protocol} with {network(r.cell.network, claim.dataset)}"
            for r in records
            if _same_set(claim, r) and r.status in ("ok", "partial") and _values(claim, r)[0]
        }
    )
    if others:
        more = f" and {len(others) - 2} more" if len(others) > 2 else ""
        return f"measured under {', '.join(others[:2])}{more} only"
    return ""


def _incomparable(claim: Claim, records: Sequence[Record]) -> list[str]:
    """Why what was measured, records of one kind, is no test of the claim; most telling first."""
    first, found = records[0], []
    if claim.caveat:
        found.append(claim.caveat)
    if first.status == "partial":
        found.append(f"partial run: {first.reason or 'the set is not finished'}")
    if other := _other_recipe(first, claim):
        found.append(other)
    if made_by := _other_network(claim, first.settings):
        found.append(
            f"other distillation network: published with {claim.distill_network}, measured with {made_by}"
        )
    chosen = _values(claim, first)[1]
    if claim.chosen in ("best-epoch", "best-snapshot") and chosen != claim.chosen:
        found.append(
            f"test-selected: published is the {claim.chosen.replace('-', ' ')}, chosen on test data; measured is the last"
        )
    found += _preprocessing(claim, first)
    labels = _labels(first.labels)
    if claim.labels and _labels(claim.labels) and labels and labels != _labels(claim.labels):
        found.append(f"other labels: published with {claim.labels} ones, measured with {first.labels}")
    if first.provenance.precision in _COARSE:
        found.append(f"other precision: students were trained in {first.provenance.precision}")
    row = ROWS.get(claim.protocol)
    if row is not None and _major_minor(first.protocol_version) != _major_minor(row.version):
        found.append(
            f"other protocol version: measured under {claim.protocol} {first.protocol_version or '(not said)'}, "
            f"which is {row.version} now"
        )
    if row is not None and not row.comparable:
        found.append(f"other protocol: {claim.protocol} is ddbench's own")
    return found


def _preprocessing(claim: Claim, record: Record) -> list[str]:
    found, mine = [], whitened(record)
    if claim.zca is not None and mine != claim.zca:
        word = {True: "whitened images (ZCA)", False: "plain images"}
        found.append(
            f"other preprocessing: published on {word[claim.zca]}, measured on {word[not claim.zca]}"
        )
    dataset = record.cell.distil.dataset
    if dataset != claim.dataset:
        found.append(f"other preprocessing: published on {claim.dataset}, measured on {dataset}")
    side = None if "size=" in dataset else _side(base(dataset))
    if claim.resolution is not None and side is not None and side != claim.resolution:
        found.append(f"other preprocessing: published at {claim.resolution} pixels, measured at {side}")
    return found


def _side(dataset: str) -> int | None:
    return _registered_side(dataset, len(registry.added_files()))


@functools.lru_cache(maxsize=256)
def _registered_side(dataset: str, plugins: int) -> int | None:
    """Pixels a side of a registered data set; ``plugins``: files added since may know it."""
    try:
        shape = registry.facts("datasets", dataset).keywords.get("shape")
    except (LookupError, registry.PluginError):
        return None
    return int(shape[-1]) if isinstance(shape, (tuple, list)) and shape else None


def _notes(
    claim: Claim,
    records: Sequence[Record],
    error: float | None,
    combined: float | None,
    n: int,
    left_out: int,
) -> Iterable[str]:
    """What a reader must know of what was measured."""
    chosen = _values(claim, records[0])[1]
    if claim.chosen == "unstated":
        yield "which epoch the source reports is not stated"
    if chosen != "last":
        yield f"published and measured are each the {chosen.replace('-', ' ')}, chosen on test data"
    if chosen == "best-snapshot" and n > len(records):
        yield f"each set's value is a mean over its {n // len(records)} students"
    if error is None:
        what = "1 student" if n == 1 else "1 set with one value"
        if claim.std is not None:
            yield f"{what}: the published deviation stands for its error"
        else:
            yield f"{what} and no published deviation: {WITHIN_POINTS:g} point decides"
    elif len(records) == 1:
        yield "1 set: its error leaves out how sets differ"
    if combined is not None and WITHIN_ERRORS * combined > UNCERTAIN_POINTS:
        yield f"uncertain: the error is {WITHIN_ERRORS * combined:.1f} points"
    if records[0].provenance.precision not in ("fp32", *_COARSE):
        yield f"students were trained in {records[0].provenance.precision}"
    if left_out:
        yield f"{left_out} other record{'s' * (left_out != 1)} of the cell left out (other kind, or measured again)"
