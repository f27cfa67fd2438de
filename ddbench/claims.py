"""Published numbers: read, spelt as the registry spells them, found.  No torch.

``leaderboards/published/*.csv`` has one file a paper (or leaderboard), one row a number, each with its source.  A row that
names what ddbench does not have (a method, a data set, a network, a protocol, a share of the data instead of images a
class) says so in ``external``; such a row is shown and never measured against.  The columns, and how a paper is added:
docs/claims.md.
"""

from __future__ import annotations

import csv
import difflib
import functools
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import ddbench
from ddbench import registry
from ddbench.nets import names as networks_
from ddbench.spellings import (
    BATCH_NORM,
    DATASETS,
    EXTERNAL_DATASETS,
    EXTERNAL_METHODS,
    EXTERNAL_NETWORKS,
    METHODS,
    NETWORKS,
    RECIPES,
    RULES,
    TAGS,
    Tag,
)

CHOSEN = ("last", "best-epoch", "best-snapshot", "unstated")
LABELS = ("hard", "soft", "learned-soft", "none", "")
EXTERNAL = ("method", "dataset", "network", "protocol", "ipc")
"""What of a row may be none of ours."""
RANGES: dict[str, tuple[float, float]] = {
    "top1": (0.0, 100.0),
    "roc-auc": (0.0, 100.0),
    "spearman-top5": (-1.0, 1.0),
    "spearman-top10": (-1.0, 1.0),
    "spearman-top20": (-1.0, 1.0),
    "search-min": (0.0, float("inf")),
}
"""Least and greatest value of every metric: percent, percent of an area, rank correlations, minutes of a search."""
LARGEST_FILE = 16 * 2**20
"""Bytes that a file of claims may have."""


class Claim(BaseModel):
    """One published number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    """Stable name of the row, of its paper and content, such as ``dm-3f2a1c``; what ``--claim`` takes."""
    paper: str
    """Stem of the file that it stands in."""
    method: str
    dataset: str
    """With its form where that decides what images are: ``imagenette?resize=squash``."""
    network: str
    """Of the students."""
    protocol: str
    """How it was scored: ours by name, else the tag under which the source is known."""
    external: tuple[str, ...] = ()
    """Which of method, dataset, network, protocol and ipc are none of ours."""
    ipc: int | None = Field(default=None, ge=0)
    """Stored images a class; 0: all of the data; None: does not apply (``keep`` then says how much)."""
    keep: float | None = Field(default=None, gt=0, le=1)
    """Share of the training data, where a paper counts so."""
    per_epoch: bool = False
    """Whether that share is drawn anew each epoch."""
    resolution: int | None = Field(default=None, gt=0)
    """Pixels a side."""
    distill_network: str = ""
    """Network of the distillation; "": none, or not said."""
    labels: str = ""
    """``hard`` | ``soft`` | ``learned-soft`` | ``none`` | "": not said."""
    metric: str = "top1"
    """``top1`` (percent), or as the source names it."""
    value: float = Field(allow_inf_nan=False)
    """In percent for ``top1``."""
    std: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Deviation as published, in the unit of ``value``."""
    n: int | None = Field(default=None, ge=1)
    """Runs behind the mean; None: not said."""
    chosen: Literal["last", "best-epoch", "best-snapshot", "unstated"] = "unstated"
    """Which epoch or iteration the number is of; the middle two are chosen on test data."""
    zca: bool | None = None
    """Whether images were whitened; None: not said."""
    task: str = ""
    """Of numbers that are not the plain test accuracy (cross-architecture, continual learning, ...)."""
    quoted: bool = False
    """Whether the source quotes another paper."""
    source: str = Field(min_length=1)
    recipe: str = ""
    """Recipe of ours that is the published experiment, where that is not the one that ``authors`` gives (``convnet``,
    ``released``, ``no-psi``); "": the authors' that fits."""
    caveat: str = ""
    """Why a measurement of ours is no test of the number, as far as the number itself is the reason (other test images, code
    that was not released, an augmentation that its source does not state); it is then shown as not comparable."""
    note: str = ""
    """What a reader must know: an odd cell, an ambiguity, how a spelling was understood."""

    @property
    def ours(self) -> bool:
        """Whether ddbench could measure it: nothing of it is external, and it is a test accuracy."""
        return not self.external and self.metric == "top1" and not self.task


# ------------------------------------------------------------------------------------------------ spellings

_QUOTES = re.compile(r"\bquoting\b|\bquoted by\b|\bcited there\b|\bas[- ]reported[- ]by\b", re.IGNORECASE)
RAW = ("method", "dataset", "resolution", "ipc", "distill_network", "eval_network", "labels", "accuracy", "std", "protocol",
       "source")  # fmt: skip
"""Columns that a row of free spellings has."""
_MAY_BE = ("task", "metric", "value", "n_images", "time_min", "recipe", "caveat", "external")
"""Columns that it may have; ``external``: fields whose names are known to be nobody's yet, separated by spaces."""


def normalise(row: Mapping[str, str], paper: str) -> Claim:
    """A claim from a row of free spellings (columns: ``RAW``), with what its tag and source imply.

    Raises:
        ValueError: a field is wrong, or a name is neither ours nor a known external one; the message names both.
    """
    text = {k: str(v or "").strip() for k, v in row.items() if k is not None}
    for name in RAW:
        if name not in text:
            raise ValueError(f"there is no column {name!r}; expected {', '.join(RAW)}")
    extra = set(text) - set(RAW) - set(_MAY_BE)
    if extra:
        raise ValueError(f"column {sorted(extra)[0]!r} is unknown; expected {', '.join(RAW)}")
    allowed = tuple(text.get("external", "").split())
    tag = TAGS.get(text["protocol"])
    if tag is None:
        if "protocol" not in allowed:
            raise _unknown_name("protocol", text["protocol"], TAGS)
        tag = Tag()
    values: dict[str, Any] = dict.fromkeys(("ipc", "keep", "zca", "n", "std"))
    values |= {"chosen": "unstated", "task": "", "metric": "top1", "quoted": False, "per_epoch": False}
    resolution = text["resolution"]
    side = _integer("resolution", resolution) if resolution not in ("", "graph", "unstated") else None
    method, recipe = RECIPES.get(text["method"].lower(), (text["method"], ""))
    method = _method(method, allowed)
    values |= _amount(text["ipc"], method)
    values |= {
        "method": method,
        "dataset": _dataset(text["dataset"], allowed),
        "network": _network("eval_network", text["eval_network"], tag.bn, side, allowed),
        "distill_network": _distill_network(text["distill_network"], tag.bn, side),
        "protocol": tag.protocol or text["protocol"],
        "resolution": side,
        "labels": text["labels"],
        "source": " ".join(text["source"].split()),
        "recipe": recipe,
        "caveat": "",
        "std": _real("std", text["std"]) if text["std"] else None,
        "quoted": bool(_QUOTES.search(text["source"])),
    }
    values |= dict(tag.then)
    notes = [tag.note]
    metric = text.get("metric", "")
    if metric in ("", "accuracy"):
        values["value"] = _real("accuracy", text["accuracy"])
        if text.get("value") and _real("value", text["value"]) != values["value"]:
            raise ValueError(
                f"value is {text['value']} but accuracy is {text['accuracy']}; expected the same"
            )
    else:
        values |= {"metric": metric, "value": _real("value", text.get("value", ""))}
    values["task"] = text.get("task", "") or values["task"]
    if text.get("n_images"):
        notes.append(f"{text['n_images']} images in all")
    external = set(allowed)
    facts = {**values, "tag": text["protocol"], "paper": paper}
    for rule in RULES:
        if rule.fits(facts):
            facts |= rule.then
            external |= set(rule.external)
            notes.append(rule.note)
    if paper == "mirage":
        notes.append(f"{text['ipc']} itemsets in all")
    known = _side_of(facts["dataset"])
    if known is not None and side is not None and known != side:
        external.add("dataset")
        notes.append(f"ddbench has this data set at {known} pixels")
    values = {k: v for k, v in facts.items() if k != "tag"}
    values |= {k: text[k] for k in ("recipe", "caveat") if text.get(k)}
    values["external"] = _externals(values, external)
    values["note"] = "; ".join(dict.fromkeys(n for n in notes if n))
    claim = _made(values)
    check(claim)
    return claim


def from_rows(rows: Iterable[Mapping[str, str]], paper: str, where: str = "") -> list[Claim]:
    """Claims of many rows of free spellings, in their order; a time of search becomes a claim of its own, once.

    Args:
        where: file, for messages; its first row is line 2.

    Raises:
        ValueError: as :func:`normalise`, or a row that is there twice.
    """
    claims: dict[str, Claim] = {}
    lines: dict[str, int] = {}
    for line, row in enumerate(rows, 2):
        try:
            claim = normalise(row, paper)
            if claim.id in claims:
                raise ValueError(
                    f"the row of line {lines[claim.id]} is there again; expected every number once"
                )
            claims[claim.id], lines[claim.id] = claim, line
            if minutes := str(row.get("time_min") or "").strip():
                search = {"metric": "search-min", "value": _real("time_min", minutes), "std": None}
                time = _made({**claim.model_dump(exclude={"id"}), **search})
                check(time)
                claims[time.id] = time
        except ValueError as error:
            raise ValueError(
                f"{where} line {line}: {error}" if where else f"row {line - 1}: {error}"
            ) from None
    return list(claims.values())


def read_raw(path: str | Path, paper: str = "") -> list[Claim]:
    """Claims from a CSV file of free spellings; ``paper``: the file's stem, if empty."""
    path = Path(path)
    head, *rows = _rows(path)
    if len(set(head[1])) < len(head[1]):
        twice = next(c for c in head[1] if head[1].count(c) > 1)
        raise ValueError(f"{path} line {head[0]}: column {twice!r} is there twice; expected it once")
    found = []
    for line, row in rows:
        if len(row) != len(head[1]):
            raise ValueError(
                f"{path} line {line}: {len(row)} fields; expected {len(head[1])}, as in the first line"
            )
        found.append(dict(zip(head[1], row, strict=True)))
    return from_rows(found, paper or path.stem, str(path))


def _method(name: str, allowed: Sequence[str]) -> str:
    spelt = METHODS.get(name.lower(), name.lower())
    base, plus, wrapper = spelt.rpartition("+")
    if plus and wrapper == "fyi":
        spelt = f"fyi+{base}"  # papers put the wrapper last
    if spelt in EXTERNAL_METHODS or "method" in allowed or _is_method(spelt):
        return spelt
    raise _unknown_name("method", name, (*registry.names("methods"), *EXTERNAL_METHODS))


def _is_method(name: str) -> bool:
    try:
        registry.parts(name)
    except LookupError:
        return False
    return True


def _dataset(name: str, allowed: Sequence[str]) -> str:
    lower = name.lower()
    spelt = DATASETS.get(lower, lower)
    if spelt in EXTERNAL_DATASETS or "dataset" in allowed or _base(spelt) in registry.names("datasets"):
        return spelt
    raise _unknown_name("dataset", name, (*registry.names("datasets"), *EXTERNAL_DATASETS))


def _base(dataset: str) -> str:
    return dataset.partition("?")[0]


def _network(what: str, name: str, bn: bool, side: int | None, allowed: Sequence[str]) -> str:
    spelt = NETWORKS.get(name, BATCH_NORM.get(name, name) if bn else name)
    if spelt in EXTERNAL_NETWORKS or ("network" in allowed and what == "eval_network"):
        return spelt
    try:
        if side is not None and (bn or spelt == "ConvNet"):
            spelt = (
                networks_.for_side(spelt, side)
                if not name.startswith("Conv") or spelt == "ConvNet"
                else spelt
            )
        return networks_.canonical(spelt)
    except LookupError:
        raise _unknown_name(what, name, (*networks_.names(), *NETWORKS, *EXTERNAL_NETWORKS)) from None


def _distill_network(name: str, bn: bool, side: int | None) -> str:
    if name in ("", "none"):
        return ""
    expert = re.fullmatch(r"none \(label expert (\w+)\)", name)
    if expert:
        return f"label expert {_network('distill_network', expert[1], bn, side, ())}"
    try:
        return _network("distill_network", name, bn, side, ())
    except ValueError:  # a committee, an ensemble, an encoder: as the source has it
        return name


def _amount(text: str, method: str) -> dict[str, Any]:
    """``10`` | ``full`` | ``all`` | ``keep=0.1`` | ``keep=0.1/epoch`` | nothing."""
    if method == "full" or text in ("full", "all"):
        return {"ipc": 0}
    share = re.fullmatch(r"keep=([0-9.]+)(/epoch)?", text)
    if share:
        return {"keep": _real("ipc", share[1]), "per_epoch": bool(share[2])}
    return {"ipc": _integer("ipc", text)} if text else {}


def _externals(values: Mapping[str, Any], more: set[str]) -> tuple[str, ...]:
    from ddbench.protocols.rows import ROWS

    found = set(more)
    if not _is_method(values["method"]):
        found.add("method")
    if _base(values["dataset"]) not in registry.names("datasets"):
        found.add("dataset")
    if values["network"] in EXTERNAL_NETWORKS:
        found.add("network")
    if values["protocol"] not in ROWS:
        found.add("protocol")
    if values["ipc"] is None:
        found.add("ipc")
    return tuple(name for name in EXTERNAL if name in found)


def _side_of(dataset: str) -> int | None:
    """Pixels a side of a registered data set."""
    if _base(dataset) not in registry.names("datasets"):
        return None
    shape = registry.facts("datasets", _base(dataset)).keywords.get("shape")
    return int(shape[-1]) if shape else None


def _unknown_name(what: str, name: str, known: Iterable[str]) -> ValueError:
    hint = registry.nearest(name, known)
    return ValueError(
        f"{what} is {name!r}; expected a name that ddbench or its table of spellings has"
        f"{' (' + hint + ')' if hint else ''}, or {what.removeprefix('eval_')!r} in the column external"
    )


def _integer(what: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"{what} is {text!r}; expected a whole number")
    return int(text)


def _real(what: str, text: str) -> float:
    if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]{1,3})?", text):
        raise ValueError(f"{what} is {text!r}; expected a number such as 48.9")
    return float(text)


# ------------------------------------------------------------------------------------------------ checks

_NOT_IN_ID = frozenset(
    {"id", "external", "note", "n", "chosen", "zca", "quoted", "labels", "recipe", "caveat"}
)
"""What may become better known of a number without its becoming another one."""


def id_of(paper: str, values: Mapping[str, Any]) -> str:
    """The id of a claim: its paper, and a hash of what it says (not of notes, and not of what is external)."""
    said = {k: v for k, v in values.items() if k not in _NOT_IN_ID}
    text = json.dumps(said, sort_keys=True, ensure_ascii=True)
    return f"{paper}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _made(values: Mapping[str, Any]) -> Claim:
    whole = {name: f.default for name, f in Claim.model_fields.items() if not f.is_required()} | dict(values)
    try:
        return Claim(**{**whole, "id": id_of(whole["paper"], whole)})
    except ValidationError as error:
        first = error.errors()[0]
        wanted = re.sub(r"^\w+ should (be|have)", "expected", first["msg"])
        raise ValueError(f"{first['loc'][0]} is {first['input']!r}; {wanted}") from None


def check(claim: Claim, known: Callable[[str, str], str] | None = None) -> None:
    """Refuse a claim whose names are not the registry's and not marked as external, or whose numbers cannot be.

    Args:
        known: of a field (method, dataset, network, protocol) and its value: "" or what is wrong with it; one that
            remembers is faster for many claims.

    Raises:
        ValueError: names the field, what it is and what was expected.
    """
    known = known or _wrong
    for name in ("method", "dataset", "network", "protocol"):
        if name not in claim.external and (problem := known(name, getattr(claim, name))):
            raise ValueError(f"{name} is {getattr(claim, name)!r}; {problem}, or {name!r} in external")
    if claim.external != tuple(n for n in EXTERNAL if n in claim.external):
        raise ValueError(
            f"external is {' '.join(claim.external)!r}; expected some of {' '.join(EXTERNAL)}, in this order"
        )
    if (claim.ipc is None) != ("ipc" in claim.external):
        raise ValueError(
            f"ipc is {'empty' if claim.ipc is None else claim.ipc}; expected images a class (0: all), or it empty and "
            f"'ipc' in external"
        )
    if claim.keep is not None and claim.ipc is not None:
        raise ValueError(f"keep is {claim.keep:g} and ipc {claim.ipc}; expected one of them")
    if claim.per_epoch and claim.keep is None:
        raise ValueError("per_epoch is yes; expected keep to say how much is drawn")
    if claim.labels not in LABELS:
        raise ValueError(
            f"labels is {claim.labels!r}; expected one of {', '.join(w for w in LABELS if w)}, or nothing"
        )
    if claim.metric not in RANGES:
        raise ValueError(f"metric is {claim.metric!r}; expected one of {', '.join(RANGES)}")
    low, high = RANGES[claim.metric]
    if not low <= claim.value <= high:
        raise ValueError(f"value is {claim.value:g}; expected {claim.metric} from {low:g} to {high:g}")
    if claim.std is not None and claim.std > high - low:
        raise ValueError(f"std is {claim.std:g}; expected at most {high - low:g}")
    for name in (
        "paper",
        "method",
        "dataset",
        "network",
        "protocol",
        "source",
        "distill_network",
        "task",
        "recipe",
        "caveat",
        "note",
    ):
        text = getattr(claim, name)
        if text.strip() != text or not text.isprintable():
            raise ValueError(f"{name} is {text!r}; expected one line of printable text")
        if not text and name in ("paper", "method", "dataset", "network", "protocol", "source"):
            raise ValueError(
                f"{name} is empty; expected {'who printed it, and where' if name == 'source' else 'a name'}"
            )
    if claim.recipe:
        named = {} if "method" in claim.external else registry.recipes(claim.method)
        have = list(dict.fromkeys(key[0] for key in named))
        if claim.recipe not in have:
            raise ValueError(
                f"recipe is {claim.recipe!r}; expected one of method {claim.method!r} "
                f"({', '.join(have) or 'it has none'}), or nothing"
            )
    if claim.id != (wanted := id_of(claim.paper, claim.model_dump())):
        raise ValueError(f"id is {claim.id!r}; expected {wanted!r} for what the row says (empty: it is made)")


def _wrong(what: str, name: str) -> str:
    """What is wrong with a name of ours, or ""."""
    from ddbench.protocols.rows import ROWS

    if what == "method":
        known: Iterable[str] = registry.names("methods")
        good = _is_method(name)
    elif what == "dataset":
        known = registry.names("datasets")
        good = _base(name) in known
    elif what == "protocol":
        known, good = ROWS, name in ROWS
    else:
        known = networks_.names()
        try:
            good = networks_.canonical(name) == name
        except (LookupError, ValueError):
            good = False
        if not good and name in networks_.names():
            return f"expected its one spelling, {networks_.canonical(name)}"
    if good:
        return ""
    hint = registry.nearest(name, known)
    word = "data set" if what == "dataset" else what
    return f"expected a {word} of ddbench's{' (' + hint + ')' if hint else ''}"


# ------------------------------------------------------------------------------------------------ files

COLUMNS = (
    *(
        "id",
        "method",
        "dataset",
        "ipc",
        "keep",
        "per_epoch",
        "network",
        "protocol",
        "external",
        "value",
        "std",
        "n",
    ),
    *(
        "metric",
        "chosen",
        "zca",
        "labels",
        "resolution",
        "distill_network",
        "task",
        "quoted",
        "source",
        "recipe",
        "caveat",
        "note",
    ),
)
"""Of a file of claims, in their order; the paper is the file's stem."""
_YES_NO = {"yes": True, "no": False}


def _flag(what: str, text: str) -> bool:
    if text not in _YES_NO:
        raise ValueError(f"{what} is {text!r}; expected yes or no")
    return _YES_NO[text]


_PARSERS: dict[str, Callable[[str, str], Any]] = {
    **dict.fromkeys(("ipc", "n", "resolution"), _integer),
    **dict.fromkeys(("keep", "value", "std"), _real),
    **dict.fromkeys(("per_epoch", "zca", "quoted"), _flag),
    "external": lambda what, text: tuple(text.split(" ")),
}
_EMPTY: dict[str, Any] = {"per_epoch": False, "quoted": False, "external": ()}
"""What an empty cell means where it is not "not said"."""
_ALWAYS = ("value", "metric", "chosen", "source", "method", "dataset", "network", "protocol")


def read(path: str | Path) -> list[Claim]:
    """The claims of one file, in their order.

    Raises:
        ValueError: names the file, the line, the field, what was given and what is expected.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    head, *rows = _rows(path)
    if head[1] != list(COLUMNS):
        missing = [c for c in COLUMNS if c not in head[1]]
        wrong = [c for c in head[1] if c not in COLUMNS]
        what = f"without {missing[0]!r}" if missing else f"with {wrong[0]!r}" if wrong else "in another order"
        raise ValueError(f"{path} line {head[0]}: columns {what}; expected {','.join(COLUMNS)}")
    known = functools.cache(_wrong)
    claims: list[Claim] = []
    lines: dict[str, int] = {}
    for line, row in rows:
        try:
            claim = _parsed(row, path.stem)
            check(claim, known)
            if claim.id in lines:
                raise ValueError(
                    f"id is {claim.id!r}, as in line {lines[claim.id]}; expected every number once"
                )
        except ValueError as error:
            raise ValueError(f"{path} line {line}: {error}") from None
        lines[claim.id] = line
        claims.append(claim)
    return claims


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line, fields) of a CSV file, the head first; empty lines are left out."""
    with path.open("rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise ValueError(
            f"{path} line 1: the file has more than {LARGEST_FILE} bytes; expected a table of claims"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} line {line}: byte {data[error.start]:#04x} is no UTF-8; expected text"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path} line {line}: there is a zero byte; expected text")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        for row in reader:
            if row:
                rows.append((reader.line_num, row))
    except csv.Error as error:
        line = max(reader.line_num, 1)
        raise ValueError(f"{path} line {line}: {error}; expected comma-separated values") from None
    if not rows:
        raise ValueError(f"{path} line 1: the file is empty; expected a line of columns")
    return rows


def _parsed(row: Sequence[str], paper: str) -> Claim:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} fields; expected {len(COLUMNS)}, as in the first line")
    values: dict[str, Any] = {"paper": paper}
    for name, text in zip(COLUMNS, row, strict=True):
        if text == "" and name in _ALWAYS:
            raise ValueError(f"{name} is empty; expected {'a number' if name == 'value' else 'a text'}")
        if text == "":
            values[name] = _EMPTY.get(name, None if name in _PARSERS else "")
        else:
            values[name] = _PARSERS[name](name, text) if name in _PARSERS else text
    given = values.pop("id")
    claim = _made(values)
    return claim.model_copy(update={"id": given}) if given else claim


def write(path: str | Path, claims: Iterable[Claim]) -> None:
    """Write claims as :func:`read` reads them, in their order.

    Raises:
        ValueError: a claim is of another paper than the file's stem, is there twice, or does not pass :func:`check`.
    """
    from ddbench.store import write_text

    path = Path(path)
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(COLUMNS)
    seen: set[str] = set()
    for claim in claims:
        if claim.paper != path.stem:
            raise ValueError(
                f"{path}: claim {claim.id} is of paper {claim.paper!r}; expected {path.stem!r}, the file's stem"
            )
        check(claim)
        if claim.id in seen:
            raise ValueError(f"{path}: claim {claim.id} is there twice; expected every number once")
        seen.add(claim.id)
        writer.writerow([_cell(name, getattr(claim, name)) for name in COLUMNS])
    write_text(path, made.getvalue())


def _cell(name: str, value: Any) -> str:
    if value is None or (value is False and name in _EMPTY):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(value)
    return repr(value) if isinstance(value, float) else str(value)


# ------------------------------------------------------------------------------------------------ all of them


def published_root() -> Path:
    """The folder of the claims that come with ddbench, in a checkout or in an installed package.

    Raises:
        FileNotFoundError: it is not there.
    """
    for entry in ddbench.__path__:
        folder = Path(entry) / "leaderboards" / "published"
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"no leaderboards/published in {', '.join(ddbench.__path__)}; expected the claims that come with ddbench "
        "(install it again)"
    )


def published() -> list[Claim]:
    """Every claim that comes with ddbench, by file and line; read once."""
    return list(_published(published_root()))


@functools.cache
def _published(root: Path) -> tuple[Claim, ...]:
    return tuple(claim for path in sorted(root.glob("*.csv")) for claim in read(path))


def find(
    claims: Iterable[Claim],
    *,
    method: str | None = None,
    dataset: str | None = None,
    ipc: int | None = None,
    protocol: str | None = None,
    network: str | None = None,
    paper: str | None = None,
    ours: bool | None = None,
) -> list[Claim]:
    """The claims that fit, in their order.  Names may be spelt as papers spell them; a data set without a form fits all
    of its forms; None fits everything.

    Raises:
        LookupError: a name that neither ddbench nor any of the claims has; the message names the nearest.
    """
    claims = list(claims)
    asked: dict[str, Any] = {}
    if method is not None and method.lower() in RECIPES:
        method, asked["recipe"] = RECIPES[method.lower()]
    for kind, name in (
        ("method", method),
        ("dataset", dataset),
        ("protocol", protocol),
        ("network", network),
        ("paper", paper),
    ):
        if name is not None:
            asked[kind] = _asked(kind, name, {getattr(c, kind) for c in claims})
    return [
        c
        for c in claims
        if all(v in (getattr(c, k), _base(c.dataset) if k == "dataset" else None) for k, v in asked.items())
        and (ipc is None or c.ipc == ipc)
        and (ours is None or c.ours == ours)
    ]


def _asked(kind: str, name: str, present: set[str]) -> str:
    if kind == "dataset":
        present = present | {_base(n) for n in present}
    spelt = name
    if kind == "method" and name not in present:
        spelt = METHODS.get(name.lower(), name.lower())
        base, plus, wrapper = spelt.rpartition("+")
        spelt = f"fyi+{base}" if plus and wrapper == "fyi" else spelt
    elif kind == "dataset" and name not in present:
        spelt = DATASETS.get(name.lower(), name.lower())
    elif kind == "protocol" and name not in present:
        spelt = TAGS[name].protocol or name if name in TAGS else name
    elif kind == "network" and name not in present:
        try:
            spelt = networks_.canonical(NETWORKS.get(name, name))
        except (LookupError, ValueError):
            spelt = name
    if spelt in present or (kind != "paper" and not _wrong(kind, spelt)):
        return spelt
    own = {} if kind == "paper" else {"method": "methods", "dataset": "datasets", "network": "networks"}
    listed = registry.names(own[kind]) if kind in own else []
    hint = registry.nearest(name, sorted({*present, *listed}))
    if not hint:  # nothing is near, and too many are known to name them all
        close = difflib.get_close_matches(name, sorted(present - {""}), n=5, cutoff=0.0)
        hint = f"nearest of the {len(present - {''})} there: {', '.join(close)}" if close else ""
    word = "data set" if kind == "dataset" else kind
    raise LookupError(f"no {word} {name!r} in the claims{'; ' + hint if hint else ''} (see: ddbench claims)")


def cell(claim: Claim) -> tuple[Any, ...]:
    """What two numbers must share to be of the same thing."""
    return (
        *(claim.method, claim.recipe, claim.dataset, claim.network, claim.protocol, claim.ipc, claim.keep),
        *(claim.per_epoch, claim.resolution, claim.distill_network, claim.metric, claim.task, claim.labels),
    )


def conflicts(claims: Iterable[Claim]) -> list[list[Claim]]:
    """Claims of one cell that disagree, a list a cell, by first appearance; all claims of the cell are in it.  Numbers that
    differ in how they were rounded agree."""
    cells: dict[tuple[Any, ...], list[Claim]] = {}
    for claim in claims:
        cells.setdefault(cell(claim), []).append(claim)
    return [c for c in cells.values() if any(not _agree(a.value, b.value) for a, b in combinations(c, 2))]


def _agree(one: float, other: float) -> bool:
    digits = min(len(repr(v).partition(".")[2]) for v in (one, other))
    return abs(one - other) <= 0.5 * 10.0**-digits + 1e-9


def reasons(claims: Iterable[Claim]) -> dict[str, int]:
    """How many claims are not ours, by why; one that has several reasons counts for each."""
    count: Counter[str] = Counter()
    for claim in claims:
        count.update(claim.external)
        if not claim.external and not claim.ours:
            count["metric or task"] += 1
    return dict(count.most_common())
