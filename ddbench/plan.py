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
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ddbench import registry
from ddbench.nets import names as networks_
from ddbench.records import Cell, DistilCell

FULL = "full"
"""The method that keeps everything: it has no ipc, and runs under ``<protocol>-full`` where that exists."""
SUITES = Path(__file__).parent / "suites"


class PlanError(ValueError):
    """A request that can't be understood; the message names the place, what was given, and what is expected."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class MethodEntry(_Part):
    """A method of a suite; ``recipe`` "" takes the suite's, ``settings`` override fields one by one, ``protocols`` are those
    that it is scored under in place of the suite's."""

    name: str
    recipe: str = ""
    protocols: list[str] | None = Field(default=None, min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)


class UpperBound(_Part):
    """All of the data, once a data set and seed, under a capped protocol of its own."""

    method: str = FULL
    protocol: str
    repeats: int | None = Field(default=None, ge=1)


def _seeds(value: Any) -> Any:
    return list(range(value)) if type(value) is int and value >= 1 else value


def _method(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


_Names = Annotated[list[str], Field(min_length=1)]


class Suite(_Part):
    """What to run: everything is combined with everything."""

    name: str = ""
    summary: str = ""
    datasets: _Names
    methods: list[Annotated[MethodEntry, BeforeValidator(_method)]]
    ipc: list[int]
    seeds: Annotated[list[int], BeforeValidator(_seeds), Field(min_length=1)] = Field(
        default_factory=lambda: [0]
    )
    protocols: _Names
    networks: list[str] | None = Field(default=None, min_length=1)
    repeats: int | None = Field(default=None, ge=1)
    recipe: str = "auto"
    upper_bound: UpperBound | None = None
    snapshot_every: int = Field(default=0, ge=0)
    snapshot_students: int = Field(default=1, ge=1)


# ------------------------------------------------------------------------------------------------ places

_Loc = tuple["str | int", ...]
_Where = Callable[[_Loc], str]


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
    model: type[BaseModel] = Suite
    if len(loc) > 1 and loc[0] == "methods":
        model = MethodEntry
    elif len(loc) > 1 and loc[0] == "upper_bound":
        model = UpperBound
    return list(model.model_fields)


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

    def different(field: str, values: Sequence[Any]) -> None:
        for i, value in enumerate(values):
            if value in values[:i]:
                faults.append(f"{where((field, i))}: {value!r} stands there twice; expected different ones")

    datasets = [d for i, d in enumerate(suite.datasets) if attempt(("datasets", i), _dataset, d)]
    for i, protocol in enumerate(suite.protocols):
        attempt(("protocols", i), _protocol, protocol)
    for i, network in enumerate(suite.networks or []):
        attempt(("networks", i), _network, network)
    for i, ipc in enumerate(suite.ipc):
        if ipc < 1:
            faults.append(
                f"{where(('ipc', i))}: ipc is {ipc}; expected at least 1 image a class (all of the data: method {FULL!r})"
            )
    for i, seed in enumerate(suite.seeds):
        if seed < 0:
            faults.append(f"{where(('seeds', i))}: seed is {seed}; expected 0 or more")
    for field in ("datasets", "ipc", "seeds", "protocols"):
        different(field, getattr(suite, field))
    different("networks", [n if n in networks_.POOLS else _spelt(n) for n in suite.networks or []])
    if not suite.methods and suite.upper_bound is None:
        faults.append(f"{where(('methods',))}: no method; expected at least one (see: ddbench list methods)")
    if not suite.ipc and any(m.name != FULL for m in suite.methods):
        faults.append(f"{where(('ipc',))}: no number; expected at least one, such as 10 (images a class)")
    for i, entry in enumerate(suite.methods):
        # As get(), but without loading: a plug-in with a broken import fails as a cell, not the whole plan.
        if not attempt(("methods", i, "name"), registry.parts, entry.name):
            continue
        attempt(("methods", i, "settings"), _settings, entry.name, entry.settings)
        for j, protocol in enumerate(entry.protocols or []):
            attempt(("methods", i, "protocols", j), _protocol, protocol)
        for dataset in datasets:
            for ipc in [0] if entry.name == FULL else [n for n in suite.ipc if n >= 1]:
                recipe = _recipe_of(suite, entry)
                loc: _Loc = ("methods", i, "recipe") if entry.recipe else ("recipe",)
                if not attempt(loc, registry.resolve_recipe, entry.name, recipe, dataset, ipc):
                    break
    if suite.upper_bound is not None:
        attempt(("upper_bound", "method"), registry.parts, suite.upper_bound.method)
        attempt(("upper_bound", "protocol"), _protocol, suite.upper_bound.protocol)
    if faults:
        raise PlanError("\n".join(dict.fromkeys(faults)))
    return suite


def _spelt(network: str) -> str:
    try:
        return networks_.canonical(network)
    except (LookupError, ValueError):
        return network  # said already


def _recipe_of(suite: Suite, entry: MethodEntry) -> str:
    """The entry's own recipe; the suite's only where the method has recipes at all (``random`` has none to choose)."""
    if entry.recipe:
        return entry.recipe
    return suite.recipe if suite.recipe in ("auto", "defaults") or registry.recipes(entry.name) else "auto"


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
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise PlanError(
            f"{path} line {mark.line + 1 if mark else 1}: not valid YAML: {error.problem}"
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


def parse_settings(pairs: Iterable[str]) -> dict[str, str]:
    """``["lr=0.1"]`` -> ``{"lr": "0.1"}``; the method's field types read the values later."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key.strip() and equals):
            raise PlanError(f"--set: given {pair!r}; expected KEY=VALUE, such as --set iterations=100")
        found[key.strip()] = value.strip()
    return found


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


def changed(suite: Suite, *, seeds: int | Sequence[int] | None = None, repeats: int | None = None) -> Suite:
    """A suite with seeds and repeats of a command in the place of its own; None leaves it as it is.

    Raises:
        PlanError: names the flag.
    """
    update: dict[str, Any] = {} if repeats is None else {"repeats": repeats}
    if seeds is not None:
        update["seeds"] = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    return check(suite.model_copy(update=update), _flag) if update else suite


# ------------------------------------------------------------------------------------------------ cells


def default_networks(protocol: str, side: int | None = None) -> list[str]:
    """The students that a protocol names, ConvNets with the field's depth for images of ``side`` pixels (None: unknown)."""
    row = registry.facts("protocols", protocol).keywords["plan"]
    return [n if side is None else networks_.for_side(n, side) for n in row.networks]


def _side(dataset: str) -> int | None:
    base = dataset.partition("?")[0]
    if base.startswith("imagefolder:"):
        return None  # known when it is loaded
    shape = registry.facts("datasets", base).keywords.get("shape")
    return int(shape[-1]) if isinstance(shape, (tuple, list)) and shape else None


def _students(suite: Suite, protocol: str, repeats: int | None, dataset: str) -> tuple[list[str], int]:
    row = registry.facts("protocols", protocol).keywords["plan"]
    chosen: list[str] = []
    for network in suite.networks or default_networks(protocol, _side(dataset)):
        for name in networks_.POOLS.get(network, [network]):
            if networks_.canonical(name) not in chosen:
                chosen.append(networks_.canonical(name))
    return chosen, repeats or suite.repeats or row.repeats


def full_protocol(protocol: str) -> str:
    """The capped twin of a protocol for training on everything, or the protocol itself where it has none."""
    twin = f"{protocol}-full"
    return twin if twin in registry.names("protocols") else protocol


def cells(suite: Suite) -> list[Cell]:
    """All evaluation cells, without doubles.

    Seeds are outermost, so that a run that is cut short has every method with fewer seeds, not fewer methods; the upper
    bound, the most expensive, comes last.
    """
    found: dict[str, Cell] = {}

    def add(method: str, recipe: str, settings: dict[str, Any], dataset: str, ipc: int, seed: int, protocol: str,
            repeats: int | None = None) -> None:  # fmt: skip
        distil = DistilCell(
            method=method, recipe=recipe, settings=settings, dataset=dataset, ipc=ipc, seed=seed
        )
        names, count = _students(suite, protocol, repeats, dataset)
        for network in names:
            cell = Cell(distil=distil, protocol=protocol, network=network, repeats=count)
            found.setdefault(cell.model_dump_json(), cell)

    full = [entry for entry in suite.methods if entry.name == FULL]
    for dataset in suite.datasets:
        for seed in suite.seeds:
            for ipc in suite.ipc:
                for entry in suite.methods:
                    if entry.name != FULL:
                        for protocol in entry.protocols or suite.protocols:
                            add(
                                entry.name,
                                _recipe_of(suite, entry),
                                entry.settings,
                                dataset,
                                ipc,
                                seed,
                                protocol,
                            )
    for dataset in suite.datasets:
        for seed in suite.seeds:
            for entry in full:
                for protocol in dict.fromkeys(full_protocol(p) for p in entry.protocols or suite.protocols):
                    add(FULL, _recipe_of(suite, entry), entry.settings, dataset, 0, seed, protocol)
            if suite.upper_bound is not None:
                bound = suite.upper_bound
                add(bound.method, "auto", {}, dataset, 0, seed, bound.protocol, bound.repeats)
    return list(found.values())
