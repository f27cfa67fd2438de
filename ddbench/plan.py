"""Suites and flags -> cells; what is wrong is said with its place and the nearest valid value.  No torch.

A suite is a YAML file (``ddbench/suites/`` holds ours)::

    name: mine
    datasets: [digits]
    methods: [random, {name: dm, recipe: authors, settings: {iterations: 100}}, {name: cda, protocols: [quick-kd]}]
    ipc: [1, 10]
    seeds: 3                  # 0, 1, 2; or a list of seeds
    protocols: [quick]
    networks: [ConvNet]       # default: each protocol's own; M and B are the cross-architecture pools
    repeats: 5                # students a set and network; default: the protocol's own
    recipe: auto              # of methods that name none
    upper_bound: {method: full, protocol: quick-full}
    snapshot_every: 100       # iterations between snapshots of a set under way; default: none
    snapshot_students: 1      # that score each of them

A method may have ``ipc``, ``protocols`` and ``networks`` of its own, which stand in the place of the suite's.  Where all with
all is too much, ``parts`` are several such tables in one file, each with what it names; what it leaves out is that of the top::

    seeds: 3
    parts:
      - {datasets: [mnist], methods: [dm], ipc: [1], protocols: [dc-dsa]}
      - claims: {datasets: [cifar10], methods: [mtt]}    # or "all": the cells that published numbers are of
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ddbench import registry, verdicts
from ddbench.nets import names as networks_
from ddbench.records import Cell, DistilCell

if TYPE_CHECKING:
    from ddbench.claims import Claim

FULL = "full"
"""The method that keeps everything: it has no ipc, and runs under ``<protocol>-full`` where that exists."""
SUITES = Path(__file__).parent / "suites"
_Loc = tuple["str | int", ...]
_Where = Callable[[_Loc], str]


class PlanError(ValueError):
    """A request that can't be understood; the message names the place, what was given, and what is expected."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class MethodEntry(_Part):
    """A method of a suite; ``recipe`` "" takes the suite's, ``settings`` override fields one by one, ``protocols`` are those
    that it is scored under in place of the suite's, likewise ``ipc`` and ``networks``."""

    name: str
    recipe: str = ""
    ipc: list[int] | None = Field(default=None, min_length=1)
    protocols: list[str] | None = Field(default=None, min_length=1)
    networks: list[str] | None = Field(default=None, min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)


class UpperBound(_Part):
    """All of the data, once a data set and seed, under a capped protocol of its own."""

    method: str = FULL
    protocol: str
    repeats: int | None = Field(default=None, ge=1)


_MOST_SEEDS = 10_000


def _seeds(value: Any) -> Any:
    if type(value) is int and value > _MOST_SEEDS:
        raise ValueError(f"at most {_MOST_SEEDS:,} seeds")
    return list(range(value)) if type(value) is int and value >= 1 else value


def _method(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _all_claims(value: Any) -> Any:
    return {} if value == "all" else value


_Names = Annotated[list[str], Field(min_length=1)]


class ClaimFilter(_Part):
    """Which published numbers; None: all of that field."""

    methods: _Names | None = None
    datasets: _Names | None = None
    ipc: Annotated[list[int], Field(min_length=1)] | None = None
    protocols: _Names | None = None
    papers: _Names | None = None
    """Stems of the files of claims."""
    quoted: bool = True
    """Whether numbers count that a paper quotes from another one."""


class Part(_Part):
    """One table of cells; None: as at the top of the suite."""

    datasets: _Names | None = None
    methods: list[Annotated[MethodEntry, BeforeValidator(_method)]] | None = None
    ipc: list[int] | None = None
    seeds: Annotated[list[int], BeforeValidator(_seeds), Field(min_length=1)] | None = None
    protocols: _Names | None = None
    networks: list[str] | None = Field(default=None, min_length=1)
    repeats: int | None = Field(default=None, ge=1)
    recipe: str | None = None
    upper_bound: UpperBound | None = None
    claims: Annotated[ClaimFilter, BeforeValidator(_all_claims)] | None = None
    """The cells of published numbers, under their own protocols and their authors' recipes, in the place of all other fields
    but ``seeds`` and ``repeats``."""


class Suite(Part):
    """What to run: everything is combined with everything, in each of the parts where there are any."""

    name: str = ""
    summary: str = ""
    parts: Annotated[list[Part], Field(min_length=1)] | None = None
    snapshot_every: int = Field(default=0, ge=0)
    snapshot_students: int = Field(default=1, ge=1)


_NEEDED = ("datasets", "methods", "ipc", "protocols")


@dataclass(frozen=True)
class _Table:
    """One part with all that it takes from the top, and where each field stands."""

    datasets: Sequence[str]
    methods: Sequence[MethodEntry]
    ipc: Sequence[int]
    seeds: Sequence[int]
    protocols: Sequence[str]
    networks: Sequence[str] | None
    repeats: int | None
    recipe: str
    upper_bound: UpperBound | None
    claims: ClaimFilter | None
    places: Mapping[str, _Loc]
    given: Mapping[str, Any]
    """Fields with a value, before defaults."""

    def at(self, *loc: str | int) -> _Loc:
        """Where a field of this table stands in its file."""
        return (*self.places.get(str(loc[0]), ()), *loc)


def _tables(suite: Suite) -> list[_Table]:
    fields = tuple(Part.model_fields)
    top = {name: value for name in fields if (value := getattr(suite, name)) is not None}
    found = []
    for i, part in enumerate(suite.parts if suite.parts is not None else [suite]):
        prefix: _Loc = () if suite.parts is None else ("parts", i)
        own = {name: value for name in fields if (value := getattr(part, name)) is not None}
        if "claims" in own:
            common = {name: value for name, value in top.items() if name in ("seeds", "repeats")}
        else:
            common = {name: value for name, value in top.items() if name != "claims" or suite.parts is None}
        given = common | own
        places: dict[str, _Loc] = {name: prefix for name in fields if name in own or name not in top}
        found.append(
            _Table(
                given.get("datasets", ()),
                given.get("methods", ()),
                given.get("ipc", ()),
                given.get("seeds", (0,)),
                given.get("protocols", ()),
                given.get("networks"),
                given.get("repeats"),
                given.get("recipe", "auto"),
                given.get("upper_bound"),
                given.get("claims"),
                places,
                given,
            )
        )
    return found


# ------------------------------------------------------------------------------------------------ places


def _spoken(loc: _Loc) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@dataclass(frozen=True)
class _YamlPlaces:
    """Names the line of a field; a field that is not there gets the line of what should hold it."""

    path: str
    root: yaml.Node | None

    def __call__(self, loc: _Loc) -> str:
        node, line = self.root, 1
        for part in loc:
            found: yaml.Node | None = None
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if key.value == part:
                        found, line = value, key.start_mark.line + 1
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                found = node.value[part]
                line = found.start_mark.line + 1
            if found is None:
                break
            node = found
        return f"{self.path} line {line}{', field ' + _spoken(loc) if loc else ''}"


_FLAGS = {
    "datasets": "--dataset",
    "methods": "--method",
    "protocols": "--protocol",
    "networks": "--network",
    "upper_bound": "--protocol",
    "settings": "--set",
}


def _flag(loc: _Loc) -> str:
    for part in reversed(loc):
        if part == "name":
            return "--method"
        if isinstance(part, str):
            return _FLAGS.get(part, f"--{part}" if loc[0] != "methods" or part == "recipe" else "--set")
    return "flags"


_EXPECTED = {
    "int_type": "a whole number",
    "string_type": "text",
    "list_type": "a list, such as [1, 10]",
    "dict_type": "a mapping, such as {iterations: 100}",
    "model_type": "a mapping (or a name, for a method)",
    "missing": "this field, which has no default",
    "greater_than_equal": "at least {ge}",
    "too_short": "at least one entry",
}


def _fields_at(loc: _Loc) -> list[str]:
    models: dict[str | int, type[BaseModel]] = {
        "methods": MethodEntry, "upper_bound": UpperBound, "claims": ClaimFilter, "parts": Part
    }  # fmt: skip
    inside = [models[part] for part in loc[:-1] if part in models]
    return list((inside[-1] if inside else Suite).model_fields)


def _explain(error: ValidationError, where: _Where) -> PlanError:
    lines = []
    for fault in error.errors():
        loc, kind, given = fault["loc"], fault["type"], fault["input"]
        if kind == "extra_forbidden":
            known = _fields_at(loc)
            near = difflib.get_close_matches(str(loc[-1]), known, n=1)
            hint = f"nearest: {near[0]}" if near else f"known: {', '.join(known)}"
            lines.append(f"{where(loc)}: no such field; {hint}")
            continue
        expected = _EXPECTED.get(kind, fault["msg"]).format(**fault.get("ctx", {}))
        shown = "nothing" if kind == "missing" else f"{given!r} ({type(given).__name__})"
        lines.append(f"{where(loc)}: given {shown}; expected {expected}")
    return PlanError("\n".join(lines))


# ------------------------------------------------------------------------------------------------ names and numbers


def _dataset(name: str) -> None:
    base = name.rpartition("?")[0] or name
    if base.startswith("imagefolder:"):
        return  # whether the folder is there shows when it is loaded
    if base not in registry.names("datasets"):
        raise registry.unknown("datasets", base)


def _protocol(name: str) -> None:
    if name not in registry.names("protocols"):
        raise registry.unknown("protocols", name)


def _network(name: str) -> None:
    if name not in networks_.POOLS:
        networks_.canonical(name)


def _settings(method: str, settings: Iterable[str]) -> None:
    known = [f.name for f in registry.facts("methods", method).fields]
    plain = [name.rpartition(".")[2] for name in known]
    for key in settings:
        if key not in known and key.rpartition(".")[2] not in plain:
            hint = registry.nearest(key, known) or (
                f"known: {', '.join(known)}" if known else "it has no settings"
            )
            raise LookupError(f"method {method!r} has no setting {key!r}; {hint}")


def check(suite: Suite, where: _Where = _spoken) -> Suite:
    """Every name exists, every number may be; returns the suite.

    Raises:
        PlanError: all faults, one a line, each with its place.
    """
    faults: list[str] = []

    def attempt(loc: _Loc, action: Callable[..., Any], *args: Any) -> bool:
        try:
            action(*args)
        except (LookupError, ValueError, registry.PluginError) as error:
            faults.append(f"{where(loc)}: {error}")
            return False
        return True

    for table in _tables(suite):
        if table.claims is not None:
            _check_claims(table, where, faults, attempt)
        else:
            _check_table(table, where, faults, attempt)
    if suite.parts is not None and suite.claims is not None:
        faults.append(f"{where(('claims',))}: stands beside parts; expected it in one of the parts")
    if faults:
        raise PlanError("\n".join(dict.fromkeys(faults)))
    return suite


def _check_table(table: _Table, where: _Where, faults: list[str], attempt: Callable[..., bool]) -> None:
    def different(loc: _Loc, values: Sequence[Any]) -> None:
        for i, value in enumerate(values):
            if value in values[:i]:
                faults.append(f"{where((*loc, i))}: {value!r} stands there twice; expected different ones")

    def names(loc: _Loc, values: Iterable[str], known: Callable[[str], Any]) -> list[str]:
        return [value for i, value in enumerate(values) if attempt((*loc, i), known, value)]

    def counts(loc: _Loc, values: Iterable[int]) -> None:
        for i, ipc in enumerate(values):
            if ipc < 1:
                faults.append(
                    f"{where((*loc, i))}: ipc is {ipc}; expected at least 1 image a class (all of the data: method {FULL!r})"
                )

    for field in _NEEDED:
        if field not in table.given:
            faults.append(f"{where(table.at(field))}: given nothing; expected {_EXPECTED['missing']}")
    datasets = names(table.at("datasets"), table.datasets, _dataset)
    names(table.at("protocols"), table.protocols, _protocol)
    names(table.at("networks"), table.networks or (), _network)
    counts(table.at("ipc"), table.ipc)
    for i, seed in enumerate(table.seeds):
        if seed < 0:
            faults.append(f"{where((*table.at('seeds'), i))}: seed is {seed}; expected 0 or more")
    for field in ("datasets", "ipc", "seeds", "protocols"):
        different(table.at(field), getattr(table, field))
    different(table.at("networks"), [_spelt(n) for n in table.networks or ()])
    if "methods" in table.given and not table.methods and table.upper_bound is None:
        faults.append(
            f"{where(table.at('methods'))}: no method; expected at least one (see: ddbench list methods)"
        )
    if (
        "ipc" in table.given
        and not table.ipc
        and any(m.name != FULL and m.ipc is None for m in table.methods)
    ):
        faults.append(
            f"{where(table.at('ipc'))}: no number; expected at least one, such as 10 (images a class)"
        )
    for i, entry in enumerate(table.methods):
        # As get(), but without loading: a plug-in with a broken import fails as a cell, not the whole plan.
        loc = table.at("methods", i)
        if not attempt((*loc, "name"), registry.parts, entry.name):
            continue
        attempt((*loc, "settings"), _settings, entry.name, entry.settings)
        names((*loc, "protocols"), entry.protocols or (), _protocol)
        names((*loc, "networks"), entry.networks or (), _network)
        counts((*loc, "ipc"), entry.ipc or ())
        for field in ("ipc", "protocols"):
            different((*loc, field), getattr(entry, field) or ())
        for dataset in datasets:
            for ipc in [0] if entry.name == FULL else [n for n in entry.ipc or table.ipc if n >= 1]:
                recipe = _recipe_of(table, entry)
                at = (*loc, "recipe") if entry.recipe else table.at("recipe")
                if not attempt(at, registry.resolve_recipe, entry.name, recipe, dataset, ipc):
                    break
    if table.upper_bound is not None:
        attempt(table.at("upper_bound", "method"), registry.parts, table.upper_bound.method)
        attempt(table.at("upper_bound", "protocol"), _protocol, table.upper_bound.protocol)


def _check_claims(table: _Table, where: _Where, faults: list[str], attempt: Callable[..., bool]) -> None:
    for field in table.given:
        if field not in ("claims", "seeds", "repeats"):
            faults.append(
                f"{where(table.at(field))}: stands beside claims, which say it themselves; expected it inside claims, as in "
                f"'claims: {{methods: [dm]}}', or seeds and repeats only"
            )
    chosen = table.claims or ClaimFilter()
    good = True
    for field, known in (("methods", registry.parts), ("datasets", _dataset), ("protocols", _protocol)):
        for i, name in enumerate(getattr(chosen, field) or ()):
            good &= attempt(table.at("claims", field, i), known, name)
    if good and not claimed(chosen):
        faults.append(
            f"{where(table.at('claims'))}: no published number that ddbench could measure is of these; expected other names "
            f"(see: ddbench claims)"
        )


def _spelt(network: str) -> str:
    try:
        return network if network in networks_.POOLS else networks_.canonical(network)
    except (LookupError, ValueError):
        return network  # said already


def _recipe_of(table: _Table, entry: MethodEntry) -> str:
    """The entry's own recipe; the table's only where the method has such a row at all (``random`` has none to choose), unless
    no method has, which is then a wrong name."""
    if entry.recipe:
        return entry.recipe
    if table.recipe in ("auto", "defaults") or _has_recipe(entry.name, table.recipe):
        return table.recipe
    return "auto" if any(_has_recipe(m.name, table.recipe) for m in table.methods) else table.recipe


def _has_recipe(method: str, recipe: str) -> bool:
    try:
        return any(key[0] == recipe for key in registry.recipes(method))
    except (LookupError, registry.PluginError):
        return False  # said already


# ------------------------------------------------------------------------------------------------ suites


def suites() -> dict[str, Path]:
    """Suites by name that come with the package."""
    return {p.stem: p for p in sorted(SUITES.glob("*.yaml"))}


def load(name: str | Path) -> Suite:
    """A suite by name, or from a YAML file.

    Raises:
        PlanError: no such suite, or a fault in the file: names line and field.
    """
    path = suites().get(str(name), Path(name))
    if not path.is_file():
        if path.suffix in (".yaml", ".yml"):
            raise PlanError(f"no suite file {path}; expected a YAML file")
        raise PlanError(
            f"no suite {str(name)!r}; {registry.nearest(str(name), suites())} (or a file: FILE.yaml)"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PlanError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    try:
        _no_riddles(text, str(path))
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise PlanError(
            f"{path} line {mark.line + 1 if mark else 1}: not valid YAML: {error.problem}"
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # a forbidden character, a date that is none
        raise (
            error
            if isinstance(error, PlanError)
            else PlanError(f"{path}: not valid YAML: {str(error)[:_SHOWN]}")
        ) from None
    where = _YamlPlaces(str(path), root)
    if not isinstance(value, dict):
        raise PlanError(
            f"{path} line 1: given {type(value).__name__}; expected fields such as 'datasets: [digits]'"
        )
    _no_doubles(root, str(path))
    try:
        suite = Suite.model_validate(value)
    except ValidationError as error:
        raise _explain(error, where) from None
    return check(suite if suite.name else suite.model_copy(update={"name": path.stem}), where)


_DEEPEST = 20
"""Levels of a suite file; ours have four."""
_SHOWN = 200
"""Characters of somebody's text that a message repeats."""


def _no_riddles(text: str, path: str) -> None:
    """Aliases can make a short file mean billions of entries, or one that holds itself; nesting can exhaust the stack."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise PlanError(f"{path} line {line}: alias *{event.anchor}; write out what it stands for")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise PlanError(f"{path} line {line}: nested more than {_DEEPEST} levels; expected a suite")


def _no_doubles(node: yaml.Node | None, path: str) -> None:
    """YAML lets the last of two equal keys win without a word."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise PlanError(
                    f"{path} line {line}: field {key.value} stands on line {seen[key.value]} already; keep one"
                )
            seen[key.value] = line
            _no_doubles(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _no_doubles(child, path)


def _pairs(pairs: Iterable[str]) -> list[tuple[str, str]]:
    found = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key.strip() and equals):
            raise PlanError(f"--set: given {pair!r}; expected KEY=VALUE, such as --set iterations=100")
        found.append((key.strip(), value.strip()))
    return found


def parse_settings(pairs: Iterable[str]) -> dict[str, str]:
    """``["lr=0.1"]`` -> ``{"lr": "0.1"}``; the method's field types read the values later.

    Raises:
        PlanError: no pair, or a setting twice.
    """
    found: dict[str, str] = {}
    for key, value in _pairs(pairs):
        if key in found:
            raise PlanError(
                f"--set: {key} is given twice, {found[key]} and {value}; expected one value (ddbench run compares several)"
            )
        found[key] = value
    return found


def parse_sweeps(pairs: Iterable[str], methods: Sequence[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Settings with one value, and settings with several, which are to be compared.

    Several values are ``a|b``, a setting that is given again, or ``1,3`` where the field of every method that has it is one
    number or a yes or no; elsewhere a comma is a part of the value.

    Raises:
        PlanError: no pair, an empty value, or one that stands there twice.
    """
    values: dict[str, list[str]] = {}
    for key, text in _pairs(pairs):
        apart = text.split("|") if "|" in text else text.split(",") if _single(key, methods) else [text]
        values.setdefault(key, []).extend(part.strip() for part in apart)
    for key, several in values.items():
        for i, value in enumerate(several):
            if len(several) > 1 and not value:
                raise PlanError(
                    f"--set: {key} has an empty value among {len(several)}; expected KEY=A,B or KEY=A|B"
                )
            if value in several[:i]:
                raise PlanError(f"--set: {key} is {value} twice; expected different values")
    single = {key: several[0] for key, several in values.items() if len(several) == 1}
    return single, {key: several for key, several in values.items() if len(several) > 1}


def _single(key: str, methods: Sequence[str]) -> bool:
    """Whether a setting is one number or a yes or no, so that a comma can only part several."""
    types = []
    for method in methods:
        try:
            fields = registry.facts("methods", method).fields
        except (LookupError, registry.PluginError):  # said when the plan is checked
            continue
        types += [f.type for f in fields if f.name == key or f.name.rpartition(".")[2] == key]
    plain = {"int", "float", "bool", "None"}
    return bool(types) and all({part.strip() for part in t.split("|")} <= plain for t in types)


HOLDOUT = 0.1
"""Share of each class on which settings are compared where no other is asked for."""


def check_holdout(fraction: float) -> None:
    """Raises:
    PlanError: no share of the images."""
    if not 0 < fraction < 1:
        raise PlanError(f"--holdout is {fraction:g}; expected a share between 0 and 1, such as 0.1")


@dataclass(frozen=True)
class Swept:
    """Cells of one method, data set, ipc and protocol, and the values that their settings are chosen from."""

    cells: tuple[Cell, ...]
    candidates: tuple[dict[str, Any], ...]
    """Settings to compare, in the order of the grid: the last setting changes fastest."""

    def trials(self, seed: int) -> list[Cell]:
        """What is run to compare them: one distillation each, scored by the first network of the cells."""
        return [self.cells[0].model_copy(update={"distil": d}) for d in self._distil(self.cells[0], seed)]

    def _distil(self, cell: Cell, seed: int) -> Iterable[DistilCell]:
        for candidate in self.candidates:
            settings = {**cell.distil.settings, **candidate}
            yield cell.distil.model_copy(update={"settings": settings, "seed": seed})

    def choice_name(self, fraction: float) -> str:
        """Of the file in which a run folder keeps what was chosen: it changes with whatever is compared, and on what."""
        compared = [*(c.model_dump() for c in self.trials(self.cells[0].distil.seed)), f"{fraction:.9g}"]
        return f"{hashlib.sha256(json.dumps(compared, sort_keys=True, default=str).encode()).hexdigest()[:16]}.json"

    def chosen(self, candidate: Mapping[str, Any]) -> list[Cell]:
        """The cells with these settings."""
        return [
            cell.model_copy(
                update={
                    "distil": cell.distil.model_copy(
                        update={"settings": {**cell.distil.settings, **candidate}}
                    )
                }
            )
            for cell in self.cells
        ]


def swept(cells: Sequence[Cell], values: Mapping[str, Sequence[Any]]) -> list[Swept]:
    """Cells in groups that choose together: those that differ in seed and network alone.

    Raises:
        PlanError: a protocol under which there is nothing to choose by.
    """
    candidates = tuple(
        dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())
    )
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        row = registry.facts("protocols", cell.protocol).keywords
        if row["data"] != "part" or row["kind"] not in ("train", "native") or row["plan"].metric != "top1":
            raise PlanError(
                f"--set: {', '.join(values)} cannot be chosen under protocol {cell.protocol}, which does not say how accurate "
                f"students of a distilled set are on held-out images; expected another --protocol, or one value"
            )
        plain = cell.model_copy(update={"distil": cell.distil.model_copy(update={"seed": 0}), "network": ""})
        found.setdefault(plain.model_dump_json(), []).append(cell)
    return [Swept(tuple(group), candidates) for group in found.values()]


def from_flags(
    *,
    methods: Sequence[str],
    datasets: Sequence[str] = ("digits",),
    ipc: Sequence[int] = (1,),
    seeds: int | Sequence[int] = 1,
    protocols: Sequence[str] = ("quick",),
    networks: Sequence[str] | None = None,
    repeats: int | None = None,
    recipe: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> Suite:
    """A suite from the flags of a command; ``settings`` go to every method.

    Raises:
        PlanError: names the flag.
    """
    value: dict[str, Any] = {
        "name": "flags",
        "datasets": list(datasets),
        "methods": [{"name": m, "settings": dict(settings or {})} for m in methods],
        "ipc": list(ipc),
        "seeds": seeds if isinstance(seeds, int) else list(seeds),
        "protocols": list(protocols),
        "networks": list(networks) if networks else None,
        "repeats": repeats,
        "recipe": recipe,
    }
    try:
        return check(Suite.model_validate(value), _flag)
    except ValidationError as error:
        raise _explain(error, _flag) from None


def changed(
    suite: Suite,
    *,
    seeds: int | Sequence[int] | None = None,
    repeats: int | None = None,
    recipe: str | None = None,
) -> Suite:
    """A suite with seeds, repeats and recipe of a command in the place of its own, in all of its parts; None leaves it as it
    is.  Methods that name a recipe keep it.

    Raises:
        PlanError: names the flag.
    """
    update: dict[str, Any] = {} if repeats is None else {"repeats": repeats}
    if recipe is not None:
        update["recipe"] = recipe
    if seeds is not None:
        update["seeds"] = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not update:
        return suite
    if suite.parts is not None:
        update["parts"] = [p.model_copy(update=dict.fromkeys(update)) for p in suite.parts]
    return check(suite.model_copy(update=update), _flag)


# ------------------------------------------------------------------------------------------------ cells


def default_networks(protocol: str, side: int | None = None) -> list[str]:
    """The students that a protocol names, ConvNets with the field's depth for images of ``side`` pixels (None: unknown)."""
    row = registry.facts("protocols", protocol).keywords["plan"]
    return [n if side is None else networks_.for_side(n, side) for n in row.networks]


def known_side(dataset: str) -> int | None:
    """Pixels a side of a data set by its name; None: known when it is loaded."""
    base = dataset.partition("?")[0]
    if base.startswith("imagefolder:"):
        return None  # known when it is loaded
    shape = registry.facts("datasets", base).keywords.get("shape")
    return int(shape[-1]) if isinstance(shape, (tuple, list)) and shape else None


def _students(
    table: _Table, networks: Sequence[str] | None, protocol: str, repeats: int | None, dataset: str
) -> tuple[list[str], int]:
    row = registry.facts("protocols", protocol).keywords["plan"]
    chosen: list[str] = []
    for network in networks or table.networks or default_networks(protocol, known_side(dataset)):
        for name in networks_.POOLS.get(network, [network]):
            if networks_.canonical(name) not in chosen:
                chosen.append(networks_.canonical(name))
    return chosen, repeats or table.repeats or row.repeats


def full_protocol(protocol: str) -> str:
    """The capped twin of a protocol for training on everything, or the protocol itself where it has none."""
    twin = f"{protocol}-full"
    return twin if twin in registry.names("protocols") else protocol


def claimed(chosen: ClaimFilter) -> list[Claim]:
    """The published numbers that ddbench could measure and a filter lets through, small images and sets first.

    Those of training on all data are not among them: no protocol trains on all of it without a cap on steps.
    """
    from ddbench import claims  # here: most plans need none of it

    found = []
    for claim in claims.published():
        wanted = (
            (claim.method, chosen.methods),
            (claim.dataset, chosen.datasets),
            (claim.ipc, chosen.ipc),
            (claim.protocol, chosen.protocols),
            (claim.paper, chosen.papers),
        )
        fits = all(among is None or value in among for value, among in wanted)
        if claim.ours and claim.ipc and claim.method != FULL and fits and (chosen.quoted or not claim.quoted):
            found.append(claim)
    sides = {dataset: known_side(dataset) or 0 for dataset in {c.dataset for c in found}}
    return sorted(found, key=lambda c: (sides[c.dataset], c.dataset, c.ipc or 0, c.method, c.protocol))


def authors_recipe(claim: Claim) -> str:
    """The recipe that a published number is to be measured with, by name: :func:`ddbench.verdicts.authors_recipe`; ``auto``,
    the nearest, where there is none for its cell."""
    found = verdicts.authors_recipe(claim)
    return "auto" if found is None else found.name


def cells(suite: Suite) -> list[Cell]:
    """All evaluation cells, without doubles.

    Part follows part, data set follows data set; there seeds are outermost, so that a run that is cut short has every method
    with fewer seeds, not fewer methods.  The upper bounds, the most expensive, come last.
    """
    found: dict[str, Cell] = {}

    def add(table: _Table, method: str, recipe: str, settings: dict[str, Any], dataset: str, ipc: int, seed: int,
            protocol: str, networks: Sequence[str] | None = None, repeats: int | None = None) -> None:  # fmt: skip
        distil = DistilCell(
            method=method, recipe=recipe, settings=settings, dataset=dataset, ipc=ipc, seed=seed
        )
        names, count = _students(table, networks, protocol, repeats, dataset)
        for network in names:
            cell = Cell(distil=distil, protocol=protocol, network=network, repeats=count)
            found.setdefault(cell.model_dump_json(), cell)

    tables = _tables(suite)
    for table in tables:
        if table.claims is not None:
            claims = [(c, c.ipc or 0) for c in claimed(table.claims)]
            claimed_with = [(c, ipc, authors_recipe(c)) for c, ipc in claims]
            for seed in table.seeds:
                for c, ipc, recipe in claimed_with:
                    add(table, c.method, recipe, {}, c.dataset, ipc, seed, c.protocol, [c.network])
            continue
        for dataset in table.datasets:
            for seed in table.seeds:
                own_ipc = [n for m in table.methods for n in m.ipc or ()]
                for ipc in dict.fromkeys([*table.ipc, *own_ipc]):
                    for entry in table.methods:
                        if entry.name != FULL and ipc in (entry.ipc or table.ipc):
                            recipe, own = _recipe_of(table, entry), entry.settings
                            for protocol in entry.protocols or table.protocols:
                                add(
                                    table,
                                    entry.name,
                                    recipe,
                                    own,
                                    dataset,
                                    ipc,
                                    seed,
                                    protocol,
                                    entry.networks,
                                )
    for table in tables:
        full = [entry for entry in table.methods if entry.name == FULL]
        for dataset in table.datasets:
            for seed in table.seeds:
                for entry in full:
                    recipe = _recipe_of(table, entry)
                    for protocol in dict.fromkeys(
                        full_protocol(p) for p in entry.protocols or table.protocols
                    ):
                        add(table, FULL, recipe, entry.settings, dataset, 0, seed, protocol, entry.networks)
                if table.upper_bound is not None:
                    b = table.upper_bound
                    add(table, b.method, "auto", {}, dataset, 0, seed, b.protocol, None, b.repeats)
    return list(found.values())
