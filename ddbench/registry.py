"""Names -> plug-ins, loaded only when asked for.  No torch.

A method or a data set is one file: its stem is its name, the one class under ``@method`` or ``@dataset`` is the plug-in.
Files come from the folders ``methods/`` and ``datasets/``, from installed packages (entry-point groups ``ddbench.methods``
and ``ddbench.datasets``) and from the user (:func:`add_file`).  What listings show is read from the source with ``ast``,
so that nothing is imported until :func:`get`.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
import math
import operator
import sys
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

import ddbench

KINDS = ("methods", "datasets", "networks", "protocols", "codecs")
_ONE = {
    "methods": "method",
    "datasets": "data set",
    "networks": "network",
    "protocols": "protocol",
    "codecs": "codec",
}
_DECORATOR = {"methods": "method", "datasets": "dataset"}
_T = TypeVar("_T")
RecipeKey = tuple[str, "str | None", "int | None"]


class PluginError(RuntimeError):
    """A plug-in exists but cannot be used: it has two owners, does not load, or lacks what its kind needs."""


@dataclass(frozen=True)
class Field:
    """One setting of a plug-in, as its source has it: ``type`` and ``default`` are source text ("" where absent)."""

    name: str
    type: str
    default: str = ""
    help: str = ""


@dataclass(frozen=True)
class Facts:
    """What the source of a plug-in says, without importing it.

    ``keywords`` are those of its decorator (for protocols: the fields of the row); ``recipes`` the rows of RECIPES;
    ``problem`` is set by :func:`listing` for a plug-in whose facts cannot be read.
    """

    kind: str
    name: str
    summary: str = ""
    """First line of the module's docstring."""
    doc: str = ""
    """The whole docstring."""
    origin: str = ""
    """Where it is defined."""
    class_name: str = ""
    keywords: Mapping[str, Any] = field(default_factory=dict)
    fields: tuple[Field, ...] = ()
    recipes: Mapping[RecipeKey, Mapping[str, Any]] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Recipe:
    """A recipe as resolved for one (data set, ipc): ``source`` says where its ``settings`` are from.

    ``note``: what a reader must know where it was made for another data set or ipc; else empty.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    note: str = ""


# ------------------------------------------------------------------------------------------------ decorators


@dataclass(frozen=True)
class _Mark:
    kind: str
    keywords: Mapping[str, Any]


_METHOD_KEYWORDS: Mapping[str, Any] = MappingProxyType(
    {"family": "", "paper": "", "labels": "hard", "wrapper": False, "matches": True}
)


def method(
    *,
    family: str,
    paper: str = "",
    labels: str = "hard",
    wrapper: bool = False,
    matches: bool = True,
    **more: Any,
) -> Callable[[type[_T]], type[_T]]:
    """Class decorator: this frozen dataclass is a method, named like its file.

    Args:
        family: of methods, as boards group them ("coreset", "distribution matching", ...).
        paper: where it is from ("arXiv:2006.05929").
        labels: kind of targets that its sets carry ("hard", "soft", "labeller").
        wrapper: it wraps other methods (``wrapper+base``): it has ``wrap(base)`` -> base with some fields replaced, and
            ``view(images, labels)``, through which every synthetic batch passes; it has no ``distill``.
        matches: synthetic batches pass through ``task.view``; False for methods that only choose images, or recover them
            from trained networks, around which a wrapper would change nothing and is refused.
        more: further facts for listings.

    Raises:
        TypeError: not a frozen dataclass, or without the functions of its kind.
    """
    needs = ("wrap", "view") if wrapper else ("distill",)
    keywords = {
        "family": family, "paper": paper, "labels": labels, "wrapper": wrapper, "matches": matches, **more
    }  # fmt: skip
    return _marker("methods", keywords, needs)


def dataset(**keywords: Any) -> Callable[[type[_T]], type[_T]]:
    """Class decorator: this frozen dataclass is a data set, named like its file; it has ``load(split, root)``.

    Args:
        keywords: ``shape`` (C, H, W), ``classes``, ``train`` and ``test`` (counts), ``sha256`` and whatever else the
            listings of ``ddbench data`` show.

    Raises:
        TypeError: not a frozen dataclass, or without ``load``.
    """
    return _marker("datasets", keywords, ("load",))


def _marker(kind: str, keywords: Mapping[str, Any], needs: Iterable[str]) -> Callable[[type[_T]], type[_T]]:
    word = _DECORATOR[kind]

    def mark(cls: type[_T]) -> type[_T]:
        what = f"{cls.__module__}.{cls.__qualname__}"
        if not isinstance(cls, type) or not dataclasses.is_dataclass(cls):
            raise TypeError(f"{what} is no dataclass; write @{word}(...) above @dataclass(frozen=True)")
        if not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise TypeError(f"{what} is a dataclass that can change; write @dataclass(frozen=True)")
        missing = [f for f in needs if not callable(getattr(cls, f, None))]
        if missing:
            raise TypeError(f"{what} has no function {missing[0]!r}; a {_ONE[kind]} needs {', '.join(needs)}")
        cls.__ddbench__ = _Mark(kind, MappingProxyType(dict(keywords)))  # type: ignore[attr-defined]
        return cls

    return mark


_codecs: dict[str, tuple[Any, str]] = {}


def codec(name: str) -> Callable[[_T], _T]:
    """Decorator: this class or function is the codec ``name``.

    Raises:
        PluginError: another class or function owns the name.
    """

    def mark(obj: _T) -> _T:
        home = f"{getattr(obj, '__module__', '?')}.{getattr(obj, '__qualname__', '?')}"
        owner = _codecs.get(name, (None, home))[1]
        if owner != home:
            raise PluginError(f"two owners of the codec {name!r}: {owner} and {home}; rename one")
        _codecs[name] = (obj, home)
        return obj

    return mark


# ------------------------------------------------------------------------------------------------ who owns a name


@dataclass(frozen=True)
class _Owner:
    origin: str
    module: str
    path: Path | None
    """The source; None where it cannot be found without importing."""
    attribute: str = ""
    """Class inside the module, where the entry point names one."""
    loose: bool = False
    """A file of the user's: loaded by path."""


_added: dict[tuple[str, str], Path] = {}


def add_file(path: str | Path) -> str:
    """Make a plug-in file of the user's known; it is loaded when asked for.  Spawned workers call this again.

    Args:
        path: a Python file with exactly one class under ``@method`` or ``@dataset``; its stem becomes the name.

    Returns:
        the name.

    Raises:
        FileNotFoundError: no such file.
        PluginError: the file cannot be read, holds no plug-in or several, or its name has an owner already.
    """
    path = Path(path).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(
            f"no plug-in file {path}; expected a Python file with one class under @method or @dataset"
        )
    source = _source(path)
    found = [(kind, cls) for kind in _DECORATOR for cls in source.classes(kind)]
    if len(found) != 1:
        classes = ", ".join(cls.name for _, cls in found) or "none"
        raise PluginError(f"{path}: classes under @method or @dataset: {classes}; expected exactly one")
    kind, name = found[0][0], path.stem
    if not name.isidentifier() or path.suffix != ".py":
        raise PluginError(
            f"{path}: the file's stem is the {_ONE[kind]}'s name; expected NAME.py with a Python identifier"
        )
    others = [o for o in _owners(kind).get(name, []) if o.path != path]
    if others:
        raise PluginError(
            f"two owners of the {_ONE[kind]} {name!r}: {others[0].origin} and {path}; rename one"
        )
    if not _owners(kind).get(name):
        _added[kind, name] = path
    return name


def added_files() -> list[Path]:
    """The user's plug-in files of this process, for handing to workers."""
    return list(_added.values())


def _folders(kind: str) -> list[Path]:
    return [folder for p in ddbench.__path__ if (folder := Path(p) / kind).is_dir()]


@functools.cache
def _real_path(path: Path) -> Path:
    return path.resolve()  # asked of every file at every look-up: a third of the time of large plans


def _owners(kind: str) -> dict[str, list[_Owner]]:
    """Every owner of every name of ``methods`` or ``datasets``; more than one of a name is an error when it is used."""
    owners: dict[str, list[_Owner]] = {}
    for folder in _folders(kind):
        for path in sorted(folder.glob("*.py")):
            if not path.name.startswith("_"):
                owners.setdefault(path.stem, []).append(
                    _Owner(str(path), f"ddbench.{kind}.{path.stem}", _real_path(path))
                )
    for name, package, value in _entry_points(f"ddbench.{kind}"):
        module, _, attribute = value.partition(":")
        origin = f"entry point {name} = {value} of {package}"
        owners.setdefault(name, []).append(
            _Owner(origin, module.strip(), _find_source(module.strip()), attribute.strip())
        )
    for (of_kind, name), path in _added.items():
        if of_kind == kind:
            owners.setdefault(name, []).append(_Owner(str(path), f"ddbench.{kind}.{name}", path, loose=True))
    return owners


@functools.cache
def _entry_points(group: str) -> tuple[tuple[str, str, str], ...]:
    """(name, package, value) of the entry points of a group; a package that is seen twice counts once."""
    found = {
        (e.name, e.dist.name if e.dist else "an unknown package", e.value)
        for e in importlib.metadata.entry_points(group=group)
    }
    return tuple(sorted(found))


@functools.cache
def _find_source(module: str) -> Path | None:
    """The file of a module, found without importing its packages (which may import torch)."""
    path: Any = None
    spec: importlib.machinery.ModuleSpec | None = None
    parts = module.split(".")
    for i in range(len(parts)):
        name = ".".join(parts[: i + 1])
        found = (f.find_spec(name, path) for f in sys.meta_path if hasattr(f, "find_spec"))
        spec = next((s for s in found if s is not None), None)
        if spec is None:
            return None
        path = spec.submodule_search_locations
        if path is None and i < len(parts) - 1:
            return None
    return Path(spec.origin).resolve() if spec and spec.origin and spec.origin.endswith(".py") else None


def _owner(kind: str, name: str) -> _Owner:
    owners = _owners(kind)
    if name not in owners:
        raise unknown(kind, name)
    if len(owners[name]) > 1:
        raise PluginError(
            f"two owners of the {_ONE[kind]} {name!r}: {' and '.join(o.origin for o in owners[name])}; "
            f"rename or uninstall one"
        )
    return owners[name][0]


# ------------------------------------------------------------------------------------------------ names


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise LookupError(f"no kind of plug-in {kind!r}; expected one of {', '.join(KINDS)}")


def names(kind: str) -> list[str]:
    """Names of one kind, sorted (networks and protocols in their own order); imports no plug-in and no torch."""
    _check_kind(kind)
    if kind == "networks":
        from_names: list[str] = importlib.import_module("ddbench.nets.names").names()
        return list(from_names)
    if kind == "protocols":
        return list(_protocol_rows())
    if kind == "codecs":
        return sorted({*_codecs, *_codec_homes()})
    return sorted(_owners(kind))


def nearest(name: str, candidates: Iterable[str]) -> str:
    """For messages: ``nearest: random, herding``; ``known: ...`` where nothing is near and few exist; or ""."""
    by_lower = {c.lower(): c for c in candidates}
    near = [by_lower[c] for c in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)]
    if near:
        return f"nearest: {', '.join(near)}"
    return f"known: {', '.join(by_lower.values())}" if 0 < len(by_lower) <= 12 else ""


def unknown(kind: str, name: str) -> LookupError:
    """The error for a name that nobody owns."""
    hint = nearest(name, names(kind))
    return LookupError(f"no {_ONE[kind]} {name!r}{'; ' + hint if hint else ''} (see: ddbench list {kind})")


def origin(kind: str, name: str) -> str:
    """Where a name is defined: a file, or an entry point and its package."""
    if kind in ("methods", "datasets"):
        return " and ".join(_owner(kind, part).origin for part in _split(kind, name))
    if kind == "codecs":
        return str(_codecs[name][1]) if name in _codecs else str(_codec_home(name).origin)
    if name not in names(kind):
        get(kind, name)  # networks have more names than are listed
    return "ddbench/nets/build.py" if kind == "networks" else "ddbench/protocols/rows.py"


def sources(kind: str, name: str) -> list[Path]:
    """The files that define a method or data set (two for ``wrapper+base``), for cell keys."""
    found = [(part, _owner(kind, part)) for part in _split(kind, name)]
    for part, owner in found:
        if owner.path is None:
            raise PluginError(f"the source of {_ONE[kind]} {part!r} ({owner.origin}) cannot be found")
    return [owner.path for _, owner in found if owner.path is not None]


def _split(kind: str, name: str) -> list[str]:
    return [p for p in parts(name) if p] if kind == "methods" else [name]


def parts(name: str) -> tuple[str | None, str]:
    """``"fyi+dm"`` -> ("fyi", "dm"); ``"dm"`` -> (None, "dm").  Both sides are checked.

    Raises:
        LookupError: an unknown name on either side, a wrapper where a method belongs or the other way round, a base
            that has no synthetic batches which the wrapper could see.
    """
    wrapper, plus, base = name.rpartition("+")
    if plus and not (wrapper and base and "+" not in wrapper):
        raise LookupError(
            f"no method {name!r}; expected METHOD or WRAPPER+METHOD (see: ddbench list methods)"
        )
    if plus and not _is_wrapper(wrapper):
        raise LookupError(
            f"method {wrapper!r} is no wrapper, so {name!r} means nothing; write {wrapper} alone"
        )
    if _is_wrapper(base):
        raise LookupError(f"{base!r} wraps other methods; write {base}+METHOD, for example {base}+dm")
    if plus and not _keyword(base, "matches"):
        raise LookupError(
            f"method {base!r} has no matching step, so {wrapper} would change nothing of it; write {base} alone, or wrap a "
            f"method that matches, for example {wrapper}+dm"
        )
    return (wrapper or None), base


def _is_wrapper(name: str) -> bool:
    return _keyword(name, "wrapper")


def _keyword(name: str, keyword: str) -> bool:
    """A yes or no of a method's decorator."""
    return bool(_facts_of("methods", name, _owner("methods", name)).keywords[keyword])


# ------------------------------------------------------------------------------------------------ facts, by ast


@dataclass(frozen=True, eq=False)
class _Source:
    path: Path
    tree: ast.Module

    def classes(self, kind: str) -> list[ast.ClassDef]:
        word = _DECORATOR[kind]
        return [
            node
            for node in self.tree.body
            if isinstance(node, ast.ClassDef) and any(_called(d) == word for d in node.decorator_list)
        ]

    def codecs(self) -> list[str]:
        found = []
        for node in self.tree.body:
            for d in getattr(node, "decorator_list", []):
                if (
                    _called(d) == "codec"
                    and isinstance(d, ast.Call)
                    and d.args
                    and isinstance(d.args[0], ast.Constant)
                ):
                    found.append(str(d.args[0].value))
        return found

    def constants(self) -> dict[str, ast.expr]:
        """Module-level ``NAME = expression``."""
        found: dict[str, ast.expr] = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign):
                found.update({t.id: node.value for t in node.targets if isinstance(t, ast.Name)})
            elif (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and node.value is not None
            ):
                found[node.target.id] = node.value
        return found


def _called(decorator: ast.expr) -> str:
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return (
        target.id
        if isinstance(target, ast.Name)
        else target.attr
        if isinstance(target, ast.Attribute)
        else ""
    )


_parsed: dict[Path, tuple[tuple[int, int], _Source]] = {}


def _source(path: Path) -> _Source:
    stat = path.stat()
    stamp = (stat.st_mtime_ns, stat.st_size)
    if path not in _parsed or _parsed[path][0] != stamp:
        try:
            _parsed[path] = (stamp, _Source(path, ast.parse(path.read_bytes(), str(path))))
        except (SyntaxError, ValueError) as e:
            line = f" line {e.lineno}" if isinstance(e, SyntaxError) and e.lineno else ""
            raise PluginError(f"{path}{line}: not valid Python: {getattr(e, 'msg', e)}") from e
    return _parsed[path][1]


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitOr: operator.or_,
}


class _Unreadable(Exception):
    def __init__(self, node: ast.AST) -> None:
        super().__init__(f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node)!r}")


def _value(node: ast.expr, constants: Mapping[str, ast.expr], depth: int = 0) -> Any:
    """Evaluate literals, dict(...), float(...), len(...), arithmetic and module-level constants; nothing else."""

    def value(n: ast.expr) -> Any:
        return _value(n, constants, depth + 1)

    if depth > 50:  # a constant that means itself
        raise _Unreadable(node)
    try:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Tuple):
            return tuple(value(e) for e in node.elts)
        if isinstance(node, ast.List):
            return [value(e) for e in node.elts]
        if isinstance(node, ast.Dict):
            merged: dict[Any, Any] = {}
            for k, v in zip(node.keys, node.values, strict=True):
                merged.update(value(v) if k is None else {value(k): value(v)})
            return merged
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd, ast.Not)):
            v = value(node.operand)
            return not v if isinstance(node.op, ast.Not) else -v if isinstance(node.op, ast.USub) else +v
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            return _BINARY[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Name) and node.id in constants:
            return value(constants[node.id])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "dict" and len(node.args) <= 1:
                made = dict(value(node.args[0])) if node.args else {}
                for keyword in node.keywords:
                    made.update(
                        value(keyword.value) if keyword.arg is None else {keyword.arg: value(keyword.value)}
                    )
                return made
            if node.func.id in ("float", "len") and len(node.args) == 1 and not node.keywords:
                return (float if node.func.id == "float" else len)(value(node.args[0]))
    except (TypeError, ValueError, ArithmeticError) as e:
        raise _Unreadable(node) from e
    raise _Unreadable(node)


def _class_fields(cls: ast.ClassDef) -> tuple[Field, ...]:
    found = []
    for node, following in zip(cls.body, [*cls.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        kind = ast.unparse(node.annotation).strip("'\"")
        if kind.startswith(("ClassVar", "typing.ClassVar")):
            continue
        text = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            text = (
                " ".join(str(following.value.value).split()) if isinstance(following.value.value, str) else ""
            )
        found.append(Field(node.target.id, kind, ast.unparse(node.value) if node.value else "", text))
    return tuple(found)


def _facts_of(kind: str, name: str, owner: _Owner) -> Facts:
    if owner.path is None:
        raise PluginError(
            f"the source of {_ONE[kind]} {name!r} ({owner.origin}) cannot be found; is it installed?"
        )
    return _facts_from(kind, name, owner, _source(owner.path))


@functools.lru_cache(maxsize=512)  # a plan or a table of claims asks for the same few hundreds of times
def _facts_from(kind: str, name: str, owner: _Owner, source: _Source) -> Facts:
    classes = source.classes(kind)
    if owner.attribute:
        classes = [c for c in classes if c.name == owner.attribute]
    if len(classes) != 1:
        have = ", ".join(c.name for c in classes) or "none"
        raise PluginError(f"{owner.origin}: classes under @{_DECORATOR[kind]}: {have}; expected exactly one")
    cls, constants = classes[0], source.constants()
    decorator = next(d for d in cls.decorator_list if _called(d) == _DECORATOR[kind])
    where = "RECIPES"
    try:
        keywords = dict(_METHOD_KEYWORDS) if kind == "methods" else {}
        for keyword in decorator.keywords if isinstance(decorator, ast.Call) else []:
            where = f"@{_DECORATOR[kind]}({keyword.arg}=...)"
            keywords[str(keyword.arg)] = _value(keyword.value, constants)
        where = "RECIPES"
        rows = _value(constants["RECIPES"], constants) if "RECIPES" in constants else {}
    except _Unreadable as e:
        raise PluginError(
            f"{owner.origin} {e} in {where} cannot be read without running the file; "
            f"expected literals, dict(...), arithmetic or constants of the file"
        ) from e
    fields = _class_fields(cls)
    rows = _check_rows(owner.origin, rows, None if cls.bases else [f.name for f in fields])
    doc = inspect.cleandoc(ast.get_docstring(source.tree) or "")
    return Facts(
        kind=kind,
        name=name,
        summary=doc.partition("\n")[0],
        doc=doc,
        origin=owner.origin,
        class_name=cls.name,
        keywords=keywords,
        fields=fields,
        recipes=rows,
    )


def _check_rows(where: str, rows: Any, known: list[str] | None) -> dict[RecipeKey, dict[str, Any]]:
    """The rows of RECIPES, if they have the right shape and set only ``known`` fields (None: fields are inherited)."""
    shape = "expected {(recipe, data set or None, ipc or None): dict(field=value, ..., source=text)}"
    if not isinstance(rows, dict):
        raise PluginError(f"{where}: RECIPES is a {type(rows).__name__}; {shape}")
    for key, row in rows.items():
        good = isinstance(key, tuple) and len(key) == 3 and isinstance(row, dict)
        if not good or not (
            isinstance(key[0], str)
            and isinstance(key[1], (str, type(None)))
            and isinstance(key[2], (int, type(None)))
        ):
            raise PluginError(f"{where}: RECIPES has the row {key!r}: {row!r}; {shape}")
        if key[0] in ("auto", "defaults"):
            raise PluginError(
                f"{where}: RECIPES names a row {key[0]!r}, a word with a meaning of its own; rename it"
            )
        for wrong in sorted(set(row) - {"source", *(row if known is None else known)}):
            hint = nearest(wrong, known or ()) or "the method has no fields"
            raise PluginError(f"{where}: RECIPES row {key!r} sets {wrong!r}, which is no field; {hint}")
    return dict(rows)


def facts(kind: str, name: str) -> Facts:
    """What the source says of a plug-in, without importing it.  ``wrapper+base`` shows the fields of both.

    Raises:
        LookupError: no such name.
        PluginError: its source is broken, or the name has two owners.
    """
    _check_kind(kind)
    if kind == "methods":
        wrapper, base = parts(name)
        of_base = _facts_of(kind, base, _owner(kind, base))
        if wrapper is None:
            return of_base
        of_wrapper = _facts_of(kind, wrapper, _owner(kind, wrapper))
        more = tuple(dataclasses.replace(f, name=f"{wrapper}.{f.name}") for f in of_wrapper.fields)
        return dataclasses.replace(
            of_base,
            name=name,
            summary=f"{of_wrapper.summary} Around: {of_base.summary}",
            origin=f"{of_wrapper.origin} and {of_base.origin}",
            fields=(*of_base.fields, *more),
        )
    if kind == "datasets":
        return _facts_of(kind, name, _owner(kind, name))
    if kind == "protocols":
        rows = _protocol_rows()
        if name not in rows:
            raise unknown(kind, name)
        row = rows[name]
        keywords = (
            {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
            if dataclasses.is_dataclass(row)
            else {}
        )
        return Facts(
            kind, name, str(keywords.get("summary", "")), origin=origin(kind, name), keywords=keywords
        )
    return Facts(kind, name, origin=origin(kind, name))


def listing(kind: str) -> list[Facts]:
    """Facts of every name; a broken plug-in is listed with its ``problem`` and does not hide the others."""
    found = []
    for name in names(kind):
        try:
            owner = _owner(kind, name) if kind in _DECORATOR else None
            found.append(_facts_of(kind, name, owner) if owner else facts(kind, name))
        except PluginError as e:
            found.append(Facts(kind, name, problem=str(e)))
    return found


def _protocol_rows() -> Mapping[str, Any]:
    rows: Mapping[str, Any] = importlib.import_module("ddbench.protocols.rows").ROWS
    return rows


def _codec_homes() -> dict[str, _Owner]:
    """Codecs by name from the source of codecs.py and of the plug-in files, which may bring their own."""
    homes: dict[str, _Owner] = {}
    own = Path(__file__).with_name("codecs.py")
    candidates = [_Owner(str(own), "ddbench.codecs", own)]
    candidates += [o for kind in _DECORATOR for owners in _owners(kind).values() for o in owners]
    for owner in candidates:
        if owner.path is None or not owner.path.is_file():
            continue
        try:
            found = _source(owner.path).codecs()
        except PluginError:  # told when the plug-in itself is asked for or listed
            continue
        for name in found:
            homes.setdefault(name, owner)
    return homes


def _codec_home(name: str) -> _Owner:
    homes = _codec_homes()
    if name not in homes:
        raise unknown("codecs", name)
    return homes[name]


# ------------------------------------------------------------------------------------------------ loading


def _load_module(owner: _Owner, what: str) -> ModuleType:
    try:
        if not owner.loose:
            return importlib.import_module(owner.module)
        loaded = sys.modules.get(owner.module)
        if loaded is not None and loaded.__file__ == str(owner.path):
            return loaded
        spec = importlib.util.spec_from_file_location(owner.module, str(owner.path))
        if spec is None or spec.loader is None:
            raise ImportError(f"{owner.path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[owner.module] = module  # before it runs: dataclasses and pickle look it up there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[owner.module]
            raise
        return module
    except (Exception, SystemExit) as e:
        raise PluginError(f"{what} ({owner.origin}) failed to load: {type(e).__name__}: {e}") from e


def get(kind: str, name: str) -> Any:
    """Load and return what a name stands for.

    Returns:
        methods: the class (for ``wrapper+base`` a callable that takes the settings as keywords); datasets: the class;
        networks: a function (shape, classes, generator) -> module; protocols: the protocol; codecs: the codec.

    Raises:
        LookupError: no such name; the message has the nearest ones.
        PluginError: it exists but does not load, with the reason.
    """
    _check_kind(kind)
    if kind == "networks":
        canonical = importlib.import_module("ddbench.nets.names").canonical(name)
        return functools.partial(importlib.import_module("ddbench.nets.build").build, canonical)
    if kind == "protocols":
        if name not in _protocol_rows():
            raise unknown(kind, name)
        return importlib.import_module("ddbench.protocols").get(name)
    if kind == "codecs":
        if name not in _codecs:
            _load_module(_codec_home(name), f"codec {name!r}")
        return _codecs[name][0]
    if kind == "methods":
        wrapper, name = parts(name)
        if wrapper is not None:
            return functools.partial(_wrapped, wrapper, name)
    owner = _owner(kind, name)
    class_name = _facts_of(kind, name, owner).class_name
    cls = getattr(_load_module(owner, f"{_ONE[kind]} {name!r}"), class_name, None)
    mark = getattr(cls, "__ddbench__", None)
    if not isinstance(mark, _Mark) or mark.kind != kind:
        raise PluginError(
            f"{_ONE[kind]} {name!r} ({owner.origin}): {class_name} did not come out of ddbench.registry.{_DECORATOR[kind]}; "
            f"write: from ddbench.registry import {_DECORATOR[kind]}"
        )
    return cls


# ------------------------------------------------------------------------------------------------ settings


def make(name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """A method with its settings: a frozen instance, ready to distill.

    Args:
        name: of a method, or ``wrapper+base`` (``wrapper.field`` and ``base.field`` tell equal field names apart).
        settings: field -> value; text from a command line is read as the field's type ("3" -> 3, "1,2" -> (1, 2)).

    Raises:
        LookupError: no such method or field.
        ValueError: a value that the field's type does not allow.
    """
    return get("methods", name)(**check_settings(name, settings or {}))


def check_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with each value in its field's type; see :func:`make`.  Loads the method."""
    wrapper, base = parts(name)
    owners = [side for side in (base, wrapper) if side]
    hints = {side: _field_types(get_class(side)) for side in owners}
    checked: dict[str, Any] = {}
    for key, value in settings.items():
        side, dot, plain = key.rpartition(".")
        if dot and side not in owners:
            raise LookupError(f"method {name!r} has no field {key!r}; {_known_fields(key, hints)}")
        owning = [s for s in ([side] if dot else owners) if plain in hints[s]]
        if not owning:
            raise LookupError(f"method {name!r} has no field {key!r}; {_known_fields(key, hints)}")
        if len(owning) > 1:
            raise LookupError(
                f"field {plain!r} belongs to both {wrapper} and {base}; write {wrapper}.{plain} or {base}.{plain}"
            )
        typed = coerce(
            f"setting {plain!r} of method {owning[0]!r}",
            value,
            hints[owning[0]][plain],
            f"ddbench list settings --method {owning[0]}",
        )
        checked[plain if owning[0] == base else f"{wrapper}.{plain}"] = typed
    return checked


def get_class(name: str) -> Any:
    """The class of one method or wrapper, without the check that a wrapper stands before a method."""
    owner = _owner("methods", name)
    return getattr(_load_module(owner, f"method {name!r}"), _facts_of("methods", name, owner).class_name)


def _known_fields(key: str, hints: Mapping[str, Mapping[str, Any]]) -> str:
    count = Counter(f for of_side in hints.values() for f in of_side)
    every = [f if count[f] == 1 else f"{side}.{f}" for side in hints for f in hints[side]]
    return nearest(key, every) or (f"its fields: {', '.join(every)}" if every else "it has no settings")


def _field_types(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def coerce(what: str, value: Any, wanted: Any, see: str) -> Any:
    """A value in the type of its field; text, as from a command line, is read as that type ("3" -> 3, "1,2" -> (1, 2), and
    for a field of names "A,B" -> ("A", "B"), "A" -> ("A",)).

    Args:
        what: names the field in the error.
        value: given.
        wanted: the field's type.
        see: where to read of it.

    Raises:
        ValueError: a value that the type does not allow.
    """
    from pydantic import TypeAdapter, ValidationError  # here: listing needs no pydantic

    adapter: TypeAdapter[Any] = TypeAdapter(wanted)
    tries: list[Any] = [value]
    if isinstance(value, str):
        if value.lower() == "none" and type(None) in typing.get_args(wanted):
            return None
        try:
            tries.append(ast.literal_eval(value.strip()))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass  # plain text: the field's type decides
        if typing.get_origin(wanted) is tuple and value.strip()[:1] not in tuple("([{"):
            tries.append(
                tuple(part.strip() for part in value.strip().rstrip(",").split(",") if value.strip())
            )
    for attempt in tries:
        try:
            if isinstance(attempt, bool) and wanted in (int, float):
                continue  # pydantic would read True as 1
            typed = adapter.validate_python(attempt)
        except ValidationError:
            continue
        if isinstance(typed, float) and math.isnan(typed):
            continue
        return typed
    expected = wanted.__name__ if isinstance(wanted, type) and not typing.get_args(wanted) else str(wanted)
    raise ValueError(f"{what} is {value!r}; expected {expected.replace('typing.', '')} (see: {see})")


def settings_of(made: Any) -> dict[str, Any]:
    """Every setting of a method as :func:`make` made it, by the names that :func:`make` takes; JSON-friendly values."""
    if isinstance(made, Wrapped):
        wrapper, base = settings_of(made.wrapper), settings_of(made.base)
        named = {f"{made.base_name}.{k}" if k in wrapper else k: v for k, v in base.items()}
        return {**named, **{f"{made.wrapper_name}.{k}": v for k, v in wrapper.items()}}
    settings = dataclasses.asdict(made)
    return {f.name: settings[f.name] for f in dataclasses.fields(made) if f.init}


@dataclass(frozen=True)
class Wrapped:
    """A wrapper around a base method: distills as the base with replaced fields, its batches seen through the wrapper."""

    wrapper_name: str
    base_name: str
    wrapper: Any
    base: Any

    def distill(self, task: Any) -> Any:
        """The base's distilled set of the task, whose ``view`` is the wrapper's."""
        return unwrapped(self).distill(_ViewedTask(task, self.wrapper.view))


def unwrapped(made: Any) -> Any:
    """A made method as it is; of a wrapper around a base, the base with the fields that the wrapper replaces."""
    return made.wrapper.wrap(made.base) if isinstance(made, Wrapped) else made


class _ViewedTask:
    """A task with another ``view``."""

    def __init__(self, task: Any, view: Callable[..., Any]) -> None:
        self._task = task
        self.view = view

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


def _wrapped(wrapper: str, base: str, **settings: Any) -> Wrapped:
    prefix = f"{wrapper}."
    own = {k[len(prefix) :]: v for k, v in settings.items() if k.startswith(prefix)}
    rest = {k: v for k, v in settings.items() if not k.startswith(prefix)}
    return Wrapped(wrapper, base, get_class(wrapper)(**own), get_class(base)(**rest))


# ------------------------------------------------------------------------------------------------ recipes


def recipes(name: str) -> dict[RecipeKey, dict[str, Any]]:
    """Rows of a method's RECIPES in file order: (recipe, data set or None, ipc or None) -> settings and ``source``."""
    return {key: dict(row) for key, row in facts("methods", name).recipes.items()}


def resolve_recipe(name: str, recipe: str, dataset: str, ipc: int) -> Recipe:
    """The recipe of a method for one (data set, ipc), or the nearest one, which then says so in its ``note``.

    Args:
        name: of a method, or ``wrapper+base``, which has the recipes of its base.
        recipe: ``defaults`` takes the fields' own defaults.  A name takes the row that fits most closely; else that of the
            same data set with the nearest ipc; else that of the nearest data set.  ``auto`` takes the authors' row that
            fits most closely; else the first row that fits; else the authors' row that is nearest, as for a name; else the
            defaults.

    "Nearest" is by ratio: of ipc, the smaller of equals; of data sets with as many channels, by the side of the images,
    then by the number of classes.  Data sets that are not registered have no near ones.  A form of a data set
    (``imagenette?resize=squash``) takes the rows of the data set where it has none of its own.

    Raises:
        LookupError: the method has no such recipe, or only for data sets of another kind; the message lists those it has.
    """
    rows = recipes(name)
    if recipe == "defaults":
        return Recipe("defaults")
    wanted = "authors" if recipe == "auto" else recipe
    base = dataset.partition("?")[0]  # a form of a data set takes the rows of the data set where it has none
    fitting = [key for key in rows if key[1] in (dataset, base, None) and key[2] in (ipc, None)]
    named = [key for key in fitting if key[0] == wanted]
    if named:  # the first of equals
        chosen = max(named, key=lambda k: (k[1] == dataset, k[1] is not None, k[2] is not None))
    elif recipe == "auto" and fitting:
        chosen = fitting[0]
    elif near := _nearest_row([key for key in rows if key[0] == wanted], dataset, ipc):
        note = f"recipe {_row_title(near)}, the nearest to {dataset} ipc {ipc}"
        return _resolved(name, near, rows[near], note)
    elif recipe == "auto":
        return Recipe(
            "defaults", note=f"no recipe of {name} fits {dataset}; its defaults are used" if rows else ""
        )
    else:
        have = ", ".join(_row_names(rows, dataset)) or "none of its own"
        others = list(dict.fromkeys(str(key[1]) for key in rows if key[0] == recipe))
        elsewhere = f" (it has it for {', '.join(others)})" if others else ""
        raise LookupError(
            f"method {name!r} has no recipe {recipe!r} for {dataset} at ipc {ipc}{elsewhere}; "
            f"for {dataset} it has: {have} (always: auto, defaults)"
        )
    return _resolved(name, chosen, rows[chosen])


def _resolved(name: str, key: RecipeKey, row: Mapping[str, Any], note: str = "") -> Recipe:
    wrapper, base = parts(name)
    settings = dict(row)
    source = str(settings.pop("source", ""))
    if wrapper is not None:  # a field that both have needs its owner's name
        both = {f.name for f in _facts_of("methods", wrapper, _owner("methods", wrapper)).fields}
        settings = {f"{base}.{k}" if k in both else k: v for k, v in settings.items()}
    return Recipe(key[0], settings, source, note)


def _nearest_row(keys: list[RecipeKey], dataset: str, ipc: int) -> RecipeKey | None:
    """Of the data set itself, else of any, else of the nearest one that has a row; there the row of the nearest ipc, of equals
    the one of the very form of the data set."""

    def distance(key: RecipeKey) -> tuple[Any, ...]:
        return (
            (0, key[2]) if key[2] == ipc else (1, 0) if key[2] is None else (2, _ratio(ipc, key[2]), key[2])
        )

    known: dict[str | None, tuple[Any, ...] | None] = {
        None: (1,),
        dataset.partition("?")[0]: (0,),
        dataset: (0,),
    }
    for other in dict.fromkeys(key[1] for key in keys):
        if other not in known and other is not None:
            apart = _apart(dataset, other)
            known[other] = None if apart is None else (2, *apart)
    near = [(where, distance(key), key) for key in keys if (where := known[key[1]]) is not None]
    return min(near, key=lambda n: (*n[:2], n[2][1] != dataset))[2] if near else None


def _ratio(a: int, b: int) -> Fraction:
    """By which factor two counts differ, at least 1."""
    low, high = sorted((max(1, a), max(1, b)))
    return Fraction(high, low)


def _apart(one: str, other: str) -> tuple[Fraction, Fraction] | None:
    """Ratios of side and number of classes of two data sets; None where they cannot be compared."""
    known: list[tuple[int, int, int]] = []
    for name in (one, other):
        try:
            keywords = facts("datasets", name.partition("?")[0]).keywords
        except (
            LookupError,
            PluginError,
        ):  # arrays, a folder of images, a broken plug-in: nothing is near them
            return None
        shape = keywords.get("shape")
        numbers = [*shape, keywords.get("classes")] if isinstance(shape, (tuple, list)) else []
        counts = [number for number in numbers if isinstance(number, int)]
        if len(counts) != 4:
            return None
        known.append((counts[0], max(counts[1:3]), counts[3]))
    (channels, side, classes), (other_channels, other_side, other_classes) = known
    if channels != other_channels:
        return None
    return _ratio(side, other_side), _ratio(classes, other_classes)


def _row_title(key: RecipeKey) -> str:
    """``authors of cifar10 ipc 10``."""
    return f"{key[0]} of {key[1] or 'any data set'}{' (any ipc)' if key[2] is None else f' ipc {key[2]}'}"


def _row_names(rows: Mapping[RecipeKey, Any], dataset: str) -> Iterator[str]:
    known = [key for key in rows if key[1] in (dataset, dataset.partition("?")[0], None)]
    for name in dict.fromkeys(key[0] for key in known):
        counts = list(dict.fromkeys(key[2] for key in known if key[0] == name))
        yield f"{name} (any ipc)" if None in counts else f"{name} (ipc {', '.join(map(str, counts))})"
