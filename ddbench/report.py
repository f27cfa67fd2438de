"""Boards, claims, sets and traces -> one self-contained page, which opens without a network.

The page is ``ddbench/page/page.html`` with its style, its script and one JSON document inside.  Every number in it comes from
a record, a trace, a published claim or a stored set; what is missing is null there and an en dash on the page.  Text comes
from users (names of methods, settings, notes): here it becomes JSON in which no character can end the script element that
holds it, and the page's script only ever sets it as text.  Torch is imported only where images are drawn.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ddbench
from ddbench import board as board_
from ddbench import claims, curves, verdicts
from ddbench.records import Record
from ddbench.store import DamagedError, RunFolder, write_text

if TYPE_CHECKING:
    from ddbench.contract import ImageData

PAGE = Path(__file__).parent / "page"
SCHEMA = 1
"""Of the page's document."""
MAX_BYTES = 20 << 20
COLUMNS = 10
"""Images a class in a sheet, at most."""
CLASSES = 50
SIDE = 96
"""Pixels: larger images are shown so small."""
SHEET_PIXELS = 240_000
"""Of one sheet, at most: fewer images a class are shown, then fewer classes."""
POINTS = 160
"""Of a traced value on the page, at most; a longer trace is shown by means of equal stretches, with their extremes."""


class TooLargeError(ValueError):
    """What must stand on the page is larger than the page may be."""


@dataclass(frozen=True)
class Report:
    """``document`` is what the page shows (plain JSON), ``text`` the page; ``left_out`` says what is not on it, and why."""

    document: dict[str, Any]
    text: str
    left_out: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------ plain values


def _plain(value: Any) -> Any:
    """As JSON has it: numbers that are not finite and missing values of pandas become None, numpy's numbers Python's."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        return _plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return None if str(value) in ("<NA>", "NaT", "nan") else str(value)


def _packed(document: Any) -> str:
    """JSON that may stand inside a script element: pure ASCII, without ``<``, ``>`` and ``&``."""
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _apart(value: Any, *empty: Any) -> bool:
    return not any(value is e or (type(value) is type(e) and value == e) for e in empty)


# ------------------------------------------------------------------------------------------------ rows


def _overrides(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in sorted(settings.items()))


_PAGES = ("uniform", "equal-bytes", "cost", "cross-architecture")
"""Boards beside the main table; what was published stands among the claims."""
_KEYS = (
    *("dataset", "method", "recipe", "overrides"),
    *("protocol", "protocol_version", "network", "ipc", "precision", "data_fingerprint"),
)
"""Columns of a board that say which records a row is made of."""


def _key(r: Record) -> tuple[Any, ...]:
    d = r.cell.distil
    version = ".".join(r.protocol_version.split(".")[:2])
    return (
        *(d.dataset, d.method, r.recipe or d.recipe, _overrides(d.settings)),
        *(r.cell.protocol, version, r.cell.network, d.ipc, r.provenance.precision, r.data_fingerprint),
    )


def command(records: Sequence[Record]) -> str:
    """What to type to make these records (of one row, different seeds) again."""
    first = records[0]
    cell, d = first.cell, first.cell.distil
    seeds = sorted({r.cell.distil.seed for r in records})
    if seeds == list(range(len(seeds))):
        said = str(len(seeds))
    else:
        said = ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")
    words = ["ddbench", "run", "--method", d.method, "--recipe", first.recipe or d.recipe]
    words += ["--dataset", d.dataset]
    words += ["--ipc", str(d.ipc)] if d.ipc else []
    words += ["--seeds", said, "--protocol", cell.protocol, "--network", cell.network]
    words += ["--repeats", str(cell.repeats)]
    for name, value in sorted(d.settings.items()):
        words += ["--set", f"{name}={value}"]
    if first.provenance.precision != "fp32":
        words += ["--precision", first.provenance.precision]
    return shlex.join(words)


class _Pool:
    """Values that many rows share, kept once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        text = json.dumps(value, sort_keys=True)
        if text not in self._places:
            self._places[text] = len(self.values)
            self.values.append(value)
        return self._places[text]


def _values(r: Record) -> list[float]:
    """Scores of the last epoch, in percent."""
    return [100 * s.value for s in r.scores if s.chosen_by == "last" and not s.task and s.metric == r.metric]


def _record(r: Record, machines: _Pool) -> dict[str, Any]:
    """What the page says of one record; accuracies in percent."""
    spent = r.spent
    return {
        "key": r.key,
        "set": r.set_key,
        "fingerprint": r.set_fingerprint,
        "seed": r.cell.distil.seed,
        "values": [round(v, 4) for v in _values(r)],
        "status": r.status,
        "reason": r.reason,
        "created": r.created,
        "machine": machines.place(r.provenance.model_dump()),
        "labelled_by": r.labelled_by,
        "distil_s": _plain(spent.distil_s),
        "teacher_s": _plain(spent.teacher_s),
        "evaluate_s": _plain(spent.evaluate_s),
        "iterations": spent.iterations,
        "distil_device": spent.distil_device,
    }


def _row_details(records: Sequence[Record], machines: _Pool, notes: _Pool) -> dict[str, Any]:
    first = records[0]
    return {
        "command": command(records),
        "recipe_source": first.recipe_source,
        "settings": notes.place(_plain(first.settings)),
        "notes": [notes.place(text) for text in dict.fromkeys(_notes(records))],
        "metric": first.metric,
        "items": first.items,
        "whitened": first.whitened,
        "records": [_record(r, machines) for r in records],
    }


def _notes(records: Iterable[Record]) -> Iterator[str]:
    for r in records:
        if r.reason:
            yield f"{r.status}: {r.reason}"
        yield from r.notes.values()


def _boards(records: Sequence[Record], machines: _Pool, notes: _Pool) -> list[dict[str, Any]]:
    """Boards of top-1, and of other metrics, whose columns are named the same."""
    mine: dict[tuple[Any, ...], dict[int, Record]] = {}
    for r in sorted(records, key=lambda r: (r.created, r.key)):
        if r.status in ("ok", "partial"):
            mine.setdefault((r.metric, *_key(r)), {})[r.cell.distil.seed] = r  # of several the newest
    found = []
    for b in board_.make(records, kinds=_PAGES):
        for metric, table in {"top1": b.table, **b.others}.items():
            columns, rows = _table(table)
            details = []
            places: dict[tuple[Any, ...], int] = {}
            for i, values in enumerate(rows):
                row = dict(zip(columns, values, strict=True)) | {"dataset": b.dataset}
                key = tuple(row[k] for k in _KEYS)
                places[key] = i
                behind = mine.get((metric, *key), {})
                ordered = [behind[s] for s in sorted(behind)]
                details.append(_row_details(ordered, machines, notes) if ordered else None)
            made: dict[str, Any] = {
                "dataset": b.dataset,
                "metric": metric,
                "columns": columns,
                "rows": rows,
                "details": details,
            }
            if metric == "top1":
                made |= {
                    "pages": [_page(b.dataset, page, places) for page in b.pages.values()],
                    "without_score": list(b.without_score),
                    "superseded": b.superseded,
                    "classes": max(
                        (r.classes for r in records if r.cell.distil.dataset == b.dataset), default=0
                    ),
                }
            found.append(made)
    return found


def _table(table: Any) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a pandas table, as JSON has them."""
    columns = [str(c) for c in table.columns]
    rows = [[_plain(v) for v in row] for row in table.astype(object).itertuples(index=False, name=None)]
    return columns, rows


def _page(dataset: str, page: board_.Page, places: Mapping[tuple[Any, ...], int]) -> dict[str, Any]:
    """Another board of a data set; ``main``: for each row the place of its row in the main table, or None."""
    columns, rows = _table(page.table)
    main = []
    for values in rows:
        row = dict(zip(columns, values, strict=True)) | {"dataset": dataset}
        main.append(places.get(tuple(row.get(k) for k in _KEYS)))
    return {"kind": page.kind, "said": page.said, "columns": columns, "rows": rows, "main": main}


def _overview(records: Sequence[Record], folders: Sequence[RunFolder]) -> dict[str, Any]:
    def names(of: Callable[[Record], str]) -> list[str]:
        return sorted({of(r) for r in records} - {""})

    dates = sorted(r.created for r in records if r.created)
    machines: dict[tuple[Any, ...], int] = {}
    for r in records:
        p = r.provenance
        kind = (p.device, p.device_name, p.platform, p.python, p.torch, p.threads, p.ddbench)
        machines[kind] = machines.get(kind, 0) + 1
    spans = {
        "distil_s": sum(
            {(r.set_key, r.set_fingerprint): r.spent.distil_s for r in records}.values()
        ),  # a set once
        "evaluate_s": sum(r.spent.evaluate_s for r in records),
    }
    keys = ("device", "device_name", "platform", "python", "torch", "threads", "ddbench")
    return {
        "folders": [f.path.name for f in folders],
        "records": len(records),
        "status": {
            s: n for s in ("ok", "partial", "failed", "skipped") if (n := sum(r.status == s for r in records))
        },
        "sets": len({r.set_key for r in records if r.status in ("ok", "partial")}),
        "set_files": len({path.stem for f in folders for path in f.sets()}),
        "students": sum(sum(s.chosen_by == "last" for s in r.scores) for r in records),
        "methods": names(lambda r: r.cell.distil.method),
        "datasets": names(lambda r: r.cell.distil.dataset),
        "protocols": names(lambda r: f"{r.cell.protocol} {r.protocol_version}".strip()),
        "networks": names(lambda r: r.cell.network),
        "ipc": sorted({r.cell.distil.ipc for r in records if r.cell.distil.ipc}),
        "first": dates[0] if dates else None,
        "last": dates[-1] if dates else None,
        "revisions": names(lambda r: r.provenance.revision),
        "seconds": _plain(spans),
        "machines": [
            dict(zip(keys, kind, strict=True)) | {"records": n}
            for kind, n in sorted(machines.items(), key=lambda item: -item[1])
        ],
    }


# ------------------------------------------------------------------------------------------------ claims


def _claims(records: Sequence[Record]) -> dict[str, Any]:
    """Claims beside what was measured: those that records speak to, and those of the same data sets that nobody ran."""
    standings = verdicts.standings(claims.published(), records)
    here = {r.cell.distil.dataset.partition("?")[0] for r in records}
    unmeasured = ("not run", "no recipe")
    shown = [
        s for s in standings if s.verdict not in unmeasured or (s.claim.ours and s.claim.dataset in here)
    ]
    rows = []
    for s in shown:
        claim = {k: v for k, v in s.claim.model_dump(mode="json").items() if _apart(v, None, "", False, [])}
        own = {f.name: getattr(s, f.name) for f in fields(s) if f.name != "claim"}
        rows.append({"claim": claim, **{k: v for k, v in _plain(own).items() if _apart(v, None, "", [])}})
    return {"rows": rows, "elsewhere": len(standings) - len(shown)}


# ------------------------------------------------------------------------------------------------ traces


def _stretches(
    x: Sequence[float], s: Sequence[float], y: Sequence[float], points: int = POINTS
) -> dict[str, Any]:
    """A line of at most ``points`` values: as they are, or the means of equal stretches with their extremes."""
    rows = [(a, b, c) for a, b, c in zip(x, s, y, strict=True) if math.isfinite(c)]
    each = max(1, -(-len(rows) // points))
    parts = [rows[i : i + each] for i in range(0, len(rows), each)]
    line: dict[str, Any] = {"n": len(rows), "not_finite": len(x) - len(rows)}

    def mean(part: Sequence[tuple[float, float, float]], i: int) -> float:
        return sum(row[i] for row in part) / len(part)

    line["x"] = [_plain(mean(p, 0)) for p in parts]
    line["s"] = [_plain(float(f"{mean(p, 1):.5g}")) for p in parts]
    line["y"] = [_plain(float(f"{mean(p, 2):.5g}")) for p in parts]
    if each > 1:
        line["each"] = each
        line["low"] = [_plain(float(f"{min(r[2] for r in p):.4g}")) for p in parts]
        line["high"] = [_plain(float(f"{max(r[2] for r in p):.4g}")) for p in parts]
    return line


def _traces(folders: Sequence[RunFolder], records: Sequence[Record]) -> list[dict[str, Any]]:
    of = {r.set_key: r.cell.distil for r in records}
    found: dict[str, dict[str, Any]] = {}
    for folder in folders:
        for run in curves.find(folder):
            if run.key in found:
                continue
            numbers = curves.table([run])
            lines = []
            for quantity in curves.quantities([run]):
                part = numbers[numbers["quantity"] == quantity]
                for (protocol, network), line in part.groupby(
                    ["protocol", "network"], dropna=False, sort=False
                ):
                    made = _stretches(list(line["iteration"]), list(line["seconds"]), list(line["value"]))
                    if made["n"]:
                        students = _plain(line["students"].iloc[0])
                        which = {
                            "protocol": _plain(protocol),
                            "network": _plain(network),
                            "students": students,
                        }
                        lines.append({"quantity": quantity, **which, **made})
            if not lines:
                continue
            cell = of.get(run.key)
            parts = run.key.split("-")
            whole = cell is None and len(parts) == 5 and parts[2].isdigit() and parts[3].isdigit()
            found[run.key] = {
                "set": run.key,
                "name": run.name,
                "method": cell.method if cell else parts[0] if whole else run.key,
                "dataset": cell.dataset if cell else parts[1] if whole else "",
                "ipc": cell.ipc if cell else int(parts[2]) if whole else None,
                "seed": cell.seed if cell else int(parts[3]) if whole else None,
                "overrides": _overrides(cell.settings) if cell else "",
                "lines": lines,
            }
    return [found[k] for k in sorted(found)]


# ------------------------------------------------------------------------------------------------ images


def _shape_of_sheet(height: int, width: int) -> tuple[int, int]:
    """(images a class, classes) that a sheet of such images may have."""
    longest = max(height, width, 1)
    area = (height * width) * min(1.0, SIDE / longest) ** 2
    tiles = max(1, int(SHEET_PIXELS / area))
    classes = min(CLASSES, tiles)
    return max(1, min(COLUMNS, tiles // classes)), classes


def _sheet(rows: Sequence[Any], titles: Sequence[str]) -> dict[str, Any]:
    from ddbench import pictures

    file, width, height = pictures.tiles(rows, SIDE)
    return {
        "png": "data:image/png;base64," + base64.b64encode(file).decode(),
        "width": width,
        "height": height,
        "columns": max(len(r) for r in rows),
        "counts": [len(r) for r in rows],
        "titles": list(titles),
    }


class _Drawing:
    """Sheets of sets and of real images, within so many bytes."""

    def __init__(self, budget: int) -> None:
        self.left = budget
        self.real: dict[str, dict[str, Any]] = {}
        self._train: dict[str, ImageData | str] = {}

    def train(self, dataset: str) -> ImageData | str:
        """Training images, where they are on this machine, else why not.  Nothing is downloaded."""
        if dataset not in self._train:
            from ddbench import data

            try:
                where = data.available(dataset)
                found: ImageData | str = (
                    data.load(dataset).train
                    if where
                    else f"{dataset} is not on this machine (see: ddbench data list)"
                )
            except (LookupError, OSError, ValueError, RuntimeError, ImportError) as error:
                found = f"{dataset} cannot be read: {error}"
            self._train[dataset] = found
        return self._train[dataset]

    def add_real(self, dataset: str) -> None:
        if dataset in self.real:
            return
        from ddbench import pictures

        train = self.train(dataset)
        if isinstance(train, str):
            self.real[dataset] = {"reason": train}
            return
        per_class, classes = _shape_of_sheet(*train.shape[1:])
        made = _sheet(*pictures.real_rows(train, per_class, classes))
        if self._fits(made):
            self.real[dataset] = made | {"total": len(train), "classes": train.classes}
        else:
            self.real[dataset] = {"reason": "the page has no room for them"}

    def _fits(self, made: Mapping[str, Any]) -> bool:
        size = len(made["png"]) + 400
        if size > self.left:
            return False
        self.left -= size
        return True

    def draw(self, path: Path) -> dict[str, Any] | str:
        """What the page shows of a set, or why it does not show it."""
        from ddbench import codecs, pictures, sets

        header = sets.read_header(path)
        card = header["card"]
        if card.get("method") == board_.UPPER_BOUND:
            return "is the whole data set"
        if header["kind"] != "image":
            return f"holds {header['kind']} items, not images"
        if self.left <= 0:
            return "did not fit into the page"
        distilled = sets.read(path)
        train = self.train(distilled.card.dataset) if distilled.card.dataset else "no data set is named"
        real = None if isinstance(train, str) else train
        shape = distilled.card.shape or (real.shape if real else ())
        per_class, classes = _shape_of_sheet(*shape[1:]) if len(shape) == 3 else (COLUMNS, CLASSES)
        if distilled.codec.name != "identity" and "images" not in distilled.tensors and real is None:
            return f"keeps indices of real images, and {train}"
        rows, titles = pictures.distilled_rows(distilled, real, per_class=per_class, classes=classes)
        if not rows:
            return "holds no images"
        made = _sheet(rows, titles)
        if not self._fits(made):
            return "did not fit into the page"
        return made | {
            "set": path.stem,
            "method": distilled.card.method,
            "recipe": distilled.card.recipe,
            "dataset": distilled.card.dataset,
            "ipc": _plain(distilled.card.ipc),
            "seed": distilled.card.seed,
            "partial": distilled.card.partial,
            "codec": distilled.codec.name,
            "whitened": distilled.space is not None and distilled.space.zca is not None,
            "classes": distilled.card.classes,
            "total": codecs.count(distilled),
        }


def _scores(records: Iterable[Record]) -> list[dict[str, Any]]:
    """What students of one set reached, in percent."""
    found = []
    for r in records:
        values = _values(r)
        if values and r.metric == "top1":
            where = {"protocol": r.cell.protocol, "network": r.cell.network, "students": len(values)}
            size = r.bytes.total if r.bytes else None
            found.append(where | {"mean": _plain(sum(values) / len(values)), "bytes": size})
    return found


def _images(
    folders: Sequence[RunFolder], records: Sequence[Record], budget: int, left_out: list[str]
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Sheets of the sets of the run folders, first seeds first, and of the real images beside them."""
    of = {r.set_key: r for r in records}
    scored: dict[str, list[Record]] = {}
    for r in records:
        scored.setdefault(r.set_key, []).append(r)
    paths: dict[str, Path] = {}
    for folder in folders:
        for path in folder.sets():
            paths.setdefault(path.stem, path)
    if not paths:
        return [], {}

    def order(key: str) -> tuple[Any, ...]:
        d = of[key].cell.distil if key in of else None
        return (d is None, d.seed if d else 0, d.dataset if d else "", d.ipc if d else 0, key)

    drawing = _Drawing(budget)
    found = []
    reasons: dict[str, list[str]] = {}
    for key in sorted(paths, key=order):
        if key in of:
            drawing.add_real(of[key].cell.distil.dataset)
        try:
            made = drawing.draw(paths[key])
        except (DamagedError, OSError, ValueError, LookupError) as error:
            made = str(error)
        if isinstance(made, str):
            reasons.setdefault(made, []).append(key)
            continue
        drawing.add_real(made["dataset"])
        overrides = _overrides(of[key].cell.distil.settings) if key in of else ""
        found.append(made | {"overrides": overrides, "scores": _scores(scored.get(key, ()))})
    for reason, keys in reasons.items():
        some = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        left_out.append(f"images of {some}: {reason}")
    found.sort(key=lambda s: (s["dataset"], s["ipc"] or 0, s["method"], s["seed"], s["set"]))
    return found, drawing.real


# ------------------------------------------------------------------------------------------------ the page


def render(document: Mapping[str, Any]) -> str:
    """The page around a document."""
    style, script = ((PAGE / f"page.{suffix}").read_text(encoding="utf-8") for suffix in ("css", "js"))
    parts = {
        "style": style,
        "script": script,
        "style hash": _policy_hash(style),
        "script hash": _policy_hash(script),
        "data": _packed(document),
    }
    template = (PAGE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{([a-z ]+)\}\}", lambda found: parts[found[1]], template)


def _policy_hash(text: str) -> str:
    """As a content security policy names an inline style or script; any other one does not run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def make(
    folders: Sequence[RunFolder],
    *,
    images: bool = True,
    max_bytes: int = MAX_BYTES,
    unreadable: list[str] | None = None,
) -> Report:
    """The page of what lies in run folders.

    Args:
        folders: of several that hold a record or a set of one key, the first one's is shown.
        images: draw the sets (needs torch and, for subsets and for real images beside the sets, the real data).
        max_bytes: size of the page, at most: sheets that would make it larger are left out, those of first seeds last; then
            traces.
        unreadable: takes the messages of records that cannot be read, which are then left out.

    Raises:
        FileNotFoundError: there are no records.
        TooLargeError: the tables alone are larger than ``max_bytes``.
        store.DamagedError: a record cannot be read and ``unreadable`` is None.
    """
    folders = list(folders)
    by_key: dict[str, Record] = {}
    for folder in folders:
        for r in folder.records(unreadable):
            by_key.setdefault(r.key, r)
    records = [by_key[k] for k in sorted(by_key)]
    if not records:
        where = ", ".join(str(f.path) for f in folders)
        raise FileNotFoundError(f"no records in {where}; expected a run folder (see: ddbench run --runs DIR)")
    left_out: list[str] = []
    machines, notes = _Pool(), _Pool()
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "version": ddbench.__version__,
        "overview": _overview(records, folders),
        "boards": _boards(records, machines, notes),
        "claims": _claims(records),
        "machines": machines.values,
        "notes": notes.values,
        "traces": [],
        "sets": [],
        "real": {},
        "left_out": left_out,
    }
    size = len(render(document))
    if size > max_bytes:
        raise TooLargeError(
            f"the tables of {len(records)} records take {board_.human_bytes(size)} but the page may have "
            f"{board_.human_bytes(max_bytes)}; raise --max-size or name fewer run folders"
        )
    traces = _traces(folders, records)
    took = len(_packed(traces))
    if size + took <= max_bytes:
        document["traces"] = traces
        size += took
    else:
        left_out.append(f"traces of {len(traces)} distillations: they did not fit into the page")
    if not document["overview"]["set_files"]:
        left_out.append(f"images: no set files in {', '.join(str(f.path) for f in folders)}")
    elif images:
        room = max_bytes - size - 4096  # what is left out is said, too
        document["sets"], document["real"] = _images(folders, records, room, left_out)
    else:
        left_out.append("images of all sets: they were not asked for")
    return Report(document, render(document), left_out)


def write(report: Report, out: Path) -> Path:
    """Write ``index.html`` into the folder ``out``; returns its path.  Raises store.WriteError."""
    path = out / "index.html"
    write_text(path, report.text)
    return path
