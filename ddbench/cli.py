"""Commands and their help; no logic.  ``ddbench ...`` and ``python run_bench.py ...`` are the same program.

Nothing heavy is imported before a command needs it, so that listings answer at once.  Exit status: 0 all went well,
1 a cell failed (or a check of ``doctor``), 2 the request cannot be understood, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import cloup
from cloup import option, option_group

import ddbench

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}


class _Failed(Exception):
    """Ends the command with this exit status; everything was said already."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _example(*lines: str) -> str:
    return "\b\nexample" + ("s" if len(lines) > 1 else "") + ":\n" + "\n".join(f"  {line}" for line in lines)


def _plugins(files: Sequence[str]) -> None:
    from ddbench import registry

    for file in files:
        registry.add_file(file)


def _data_root(root: str | None) -> None:
    """The data root travels as the environment variable, so that worker processes see it too."""
    if root is not None:
        os.environ["DDBENCH_DATA"] = str(Path(root).expanduser().resolve())


_plugin = option("--plugin", "plugins", multiple=True, metavar="FILE.py", help="a method or data set of your own; repeatable")
_root = option("--data-root", metavar="DIR", help="where data sets lie (default: DDBENCH_DATA, else ~/.local/share/ddbench/data)")
_as_json = option("--json", "as_json", is_flag=True, help="one JSON document on standard output, for scripts")
_quiet = option("--quiet", "-q", is_flag=True, help="no progress, only results and errors")
_runs = option("--runs", default="runs", metavar="DIR", help="run folder: sets, records, checkpoints")


def _how(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say on what, and how exactly, something runs."""
    return option_group(
        "how it runs:",
        option("--device", default="auto", metavar="auto|cpu|cuda[:i]", help="where to compute"),
        option("--precision", default="fp32", metavar="fp32|tf32|bf16", help="arithmetic of student training; in the record"),
        option("--engine", default="auto", metavar="PATH", help="auto|plain|compiled|stacked|stacked-compiled"),
        option("--memory-limit", metavar="SIZE", help="plan with so much memory, such as 4G; larger data stay on disk"),
        _root,
        _plugin,
    )(function)


def _say(as_json: bool, value: Any, text: str) -> None:
    cloup.echo(json.dumps(value, indent=1, default=str) if as_json else text)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    from tabulate import tabulate

    return tabulate(rows, headers="keys", tablefmt="plain", disable_numparse=True) if rows else "(none)"


@cloup.group(context_settings=_HELP)
@cloup.version_option(ddbench.__version__, prog_name="ddbench")
def cli() -> None:
    """ddbench: distil data sets with many methods, score every set under one protocol, write leaderboards.

    With no command, the embedded suite runs (real 8x8 digits, no download, a few minutes on two cores).
    """


# ------------------------------------------------------------------------------------------------ list, show, data, cache


_LISTED = ("methods", "datasets", "networks", "protocols", "recipes", "suites")


def _rows_of(kind: str) -> list[dict[str, Any]]:
    from ddbench import registry

    if kind == "suites":
        from ddbench import plan

        return [{"suite": name, "summary": plan.load(name).summary, "file": str(p)} for name, p in plan.suites().items()]
    if kind == "recipes":
        return [
            {
                "method": facts.name,
                "recipe": recipe,
                "data set": dataset or "any",
                "ipc": "any" if ipc is None else ipc,
                "settings": " ".join(f"{k}={v}" for k, v in row.items() if k != "source"),
                "source": row.get("source", ""),
            }
            for facts in registry.listing("methods")
            for (recipe, dataset, ipc), row in facts.recipes.items()
        ]
    rows = []
    for f in registry.listing(kind):
        k = f.keywords
        about = f"cannot be loaded: {f.problem}" if f.problem else f.summary
        if kind == "methods":
            row = {"method": f.name, "family": k.get("family", ""), "labels": k.get("labels", ""), "paper": k.get("paper", "")}
            rows.append(row | {"about": about})
        elif kind == "datasets":
            sizes = [f"{k[s]:,}" if isinstance(k.get(s), int) else "" for s in ("train", "test")]
            shape = "x".join(str(n) for n in k.get("shape", ()))
            rows.append(
                {"data set": f.name, "shape": shape, "classes": k.get("classes", ""), "train": sizes[0], "test": sizes[1], "about": about}
            )
        elif kind == "protocols":
            rows.append(
                {"protocol": f.name, "version": k.get("version", ""), "comparable": "yes" if k.get("comparable") else "no", "about": about}
            )
        else:
            rows.append({"network": f.name})
    return rows


@cli.command("list", epilog=_example("ddbench list methods", "ddbench list recipes --method dm"))
@cloup.argument("kind", type=cloup.Choice(_LISTED), help="what to list")
@option("--method", metavar="NAME", help="only recipes of this method")
@_plugin
@_as_json
def list_(kind: str, method: str | None, plugins: tuple[str, ...], as_json: bool) -> None:
    """List methods, data sets, networks, protocols, recipes or suites; nothing is loaded to do so."""
    from ddbench import registry

    _plugins(plugins)
    if method is not None:
        registry.facts("methods", method)
    rows = [r for r in _rows_of(kind) if method is None or r.get("method") == method]
    text = _table(rows)
    if kind == "networks":
        from ddbench.nets.names import GRAMMAR

        text += f"\nvariants: {GRAMMAR}\nany other: timm:NAME, torchvision:NAME"
    _say(as_json, rows, text)


@cli.command(epilog=_example("ddbench show runs --method dm --ipc 10 --out dm.png", "ddbench show set.safetensors"))
@cloup.argument("what", type=cloup.Path(exists=True, path_type=Path), help="a set (.safetensors), or a run folder")
@option_group(
    "which sets of a run folder:",
    option("--method", metavar="NAME"),
    option("--dataset", metavar="NAME"),
    option("--ipc", type=int, metavar="N"),
    option("--seed", type=int, metavar="N"),
)
@option_group(
    "the picture:",
    option("--out", type=cloup.Path(path_type=Path), help="PNG to write (default: beside the set)"),
    option("--decoded", is_flag=True, help="show training items, not stored images (they differ for mosaics)"),
    option("--per-class", type=cloup.IntRange(min=1), default=10, metavar="N", help="images a row"),
)
@_root
@_plugin
@_as_json
def show(
    what: Path,
    method: str | None,
    dataset: str | None,
    ipc: int | None,
    seed: int | None,
    out: Path | None,
    decoded: bool,
    per_class: int,
    data_root: str | None,
    plugins: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say what a distilled set is and draw it as a contact sheet, one row a class."""
    from ddbench import budget, data, pictures, sets, store

    _data_root(data_root)
    _plugins(plugins)
    chosen = []
    for path in store.RunFolder(what).sets() if what.is_dir() else [what]:
        card = sets.read_header(path)["card"]
        wanted = {"method": method, "dataset": dataset, "ipc": ipc, "seed": seed}
        if all(value is None or card[key] == value for key, value in wanted.items()):
            chosen.append(path)
    if not chosen:
        raise LookupError(f"no set in {what} fits; there are {len(store.RunFolder(what).sets())} sets (see: ddbench show {what})")
    if what.is_dir() and len(chosen) > 1:
        cards = [sets.read_header(p)["card"] for p in chosen]
        rows = [{k: c[k] for k in ("method", "recipe", "dataset", "ipc", "seed")} | {"set": str(p)} for p, c in zip(chosen, cards, strict=True)]
        if out is None:
            _say(as_json, rows, _table(rows))
            return
    made = []
    for path in chosen:
        distilled = sets.read(path)
        card, size = distilled.card, budget.byte_count(distilled)
        real = data.load(card.dataset).train if card.dataset and _is_known(card.dataset) else None
        if out is None:
            picture = path.with_suffix(".png")
        elif len(chosen) == 1:
            picture = out
        else:
            picture = out.with_name(f"{out.stem}-{card.method}-ipc{card.ipc}-seed{card.seed}{out.suffix or '.png'}")
        pictures.distilled_sheet(distilled, real, picture, decoded=decoded, per_class=per_class)
        made.append(
            {
                "set": str(path),
                "picture": str(picture),
                "method": card.method,
                "recipe": card.recipe,
                "dataset": card.dataset,
                "ipc": card.ipc,
                "seed": card.seed,
                "partial": card.partial,
                "codec": distilled.codec.name,
                "bytes": size.total,
                "label_bytes": size.labels,
                "distil_s": round(card.cost.wall_s, 2),
                "settings": dict(card.settings),
            }
        )
    _say(as_json, made, "\n\n".join("\n".join(f"{k}: {v}" for k, v in m.items()) for m in made))


def _is_known(dataset: str) -> bool:
    """Whether a set's data can be had here: pictures and class names are optional, bytes of a subset are not."""
    from ddbench import data

    try:
        return data.available(dataset) is not None
    except (LookupError, OSError, ValueError):
        return False


@cli.group("data", context_settings=_HELP)
def data_() -> None:
    """Data sets: which there are, where they lie, what they look like."""


@data_.command("list", epilog=_example("ddbench data list"))
@_root
@_plugin
@_as_json
def data_list(data_root: str | None, plugins: tuple[str, ...], as_json: bool) -> None:
    """Every data set, with its size and where it would be read from."""
    from ddbench import data

    _data_root(data_root)
    _plugins(plugins)
    rows = _rows_of("datasets")
    for row in rows:
        try:
            row["here"] = data.available(row["data set"]) or "no (ddbench data prepare fetches it where it can)"
        except (OSError, ValueError, RuntimeError) as error:
            row["here"] = f"cannot be read: {error}"
        row.pop("about")
    _say(as_json, rows, f"data root: {data.data_root()}\n\n{_table(rows)}")


@data_.command("prepare", epilog=_example("ddbench data prepare cifar10 --data-root ~/data"))
@cloup.argument("name", help="a data set, or imagefolder:PATH")
@option("--force", is_flag=True, help="make the prepared cache anew")
@option("--workers", type=cloup.IntRange(min=1), metavar="N", help="decoding workers (default: one a processor)")
@_root
@_plugin
def data_prepare(name: str, force: bool, workers: int | None, data_root: str | None, plugins: tuple[str, ...]) -> None:
    """Find or download a data set and write the prepared cache, which later runs map into memory."""
    from ddbench import data

    _data_root(data_root)
    _plugins(plugins)
    folder = data.prepare(name, force=force, workers=workers)
    cloup.echo(f"{name}: {f'prepared in {folder}' if folder else 'built in, nothing to prepare'}")


@data_.command("show", epilog=_example("ddbench data show digits --out digits.png"))
@cloup.argument("name", help="a data set, or imagefolder:PATH")
@option("--out", type=cloup.Path(path_type=Path), help="PNG to write (default: NAME.png)")
@option("--per-class", type=cloup.IntRange(min=1), default=10, metavar="N", help="images a row")
@_root
@_plugin
@_as_json
def data_show(
    name: str, out: Path | None, per_class: int, data_root: str | None, plugins: tuple[str, ...], as_json: bool
) -> None:
    """Say what a data set holds and draw samples of it, one row a class."""
    from ddbench import data, pictures

    _data_root(data_root)
    _plugins(plugins)
    real = data.load(name)
    stem = Path(name.partition("?")[0].partition(":")[2] or name.partition("?")[0]).name
    picture = pictures.samples(real, per_class, out or Path(f"{stem}.png"))
    facts = {
        "dataset": real.name,
        "shape": list(real.train.shape),
        "classes": real.train.classes,
        "train": len(real.train),
        "test": len(real.test),
        "mean": [round(m, 4) for m in real.train.mean],
        "std": [round(s, 4) for s in real.train.std],
        "mirror_keeps_class": real.train.flip,
        "fingerprint": real.fingerprint,
        "picture": str(picture),
    }
    _say(as_json, facts, "\n".join(f"{k}: {v}" for k, v in facts.items()))


@cli.group(context_settings=_HELP)
def cache() -> None:
    """Everything cached: teachers, whitenings, prepared data; sizes, quota, pruning."""


@cache.command("list", epilog=_example("ddbench cache list"))
@_as_json
def cache_list(as_json: bool) -> None:
    """What is cached, with sizes, the largest first."""
    from ddbench import store
    from ddbench.board import human_bytes

    found = sorted(store.entries(), key=lambda e: -e.size_bytes)
    rows = [
        {"kind": e.kind, "size": human_bytes(e.size_bytes), "unused for": f"{e.age_s / 86400:.1f} days", "path": str(e.path)}
        for e in found
    ]
    quota, total = store.quota_bytes(), sum(e.size_bytes for e in found)
    head = f"{store.cache_root()}: {human_bytes(total)} in {len(found)} entries, quota "
    head += human_bytes(quota) if quota is not None else "none (DDBENCH_CACHE_QUOTA sets one)"
    _say(as_json, {"root": str(store.cache_root()), "bytes": total, "quota": quota, "entries": rows}, f"{head}\n{_table(rows)}")


@cache.command("prune", epilog=_example("ddbench cache prune --quota 5G", "ddbench cache prune --older-than 30d --dry-run"))
@option("--quota", metavar="SIZE", help="what may stay, such as 5G (default: DDBENCH_CACHE_QUOTA)")
@option("--older-than", metavar="AGE", help="remove what was not used for so long, such as 30d")
@option("--dry-run", is_flag=True, help="only say what would go")
@_as_json
def cache_prune(quota: str | None, older_than: str | None, dry_run: bool, as_json: bool) -> None:
    """Remove cached things, least recently used first."""
    from ddbench import store
    from ddbench.board import human_bytes

    limit = store.parse_size(quota) if quota else store.quota_bytes()
    age_s = None
    if older_than:
        from ddbench.task import parse_duration

        age_s = parse_duration(older_than)
    if limit is None and age_s is None:
        raise ValueError("nothing to go by; give --quota SIZE or --older-than AGE, or set DDBENCH_CACHE_QUOTA")
    gone = store.prune(limit, age_s, dry_run=dry_run)
    rows = [{"kind": e.kind, "bytes": e.size_bytes, "path": str(e.path)} for e in gone]
    word = "would remove" if dry_run else "removed"
    _say(as_json, rows, f"{word} {len(gone)} entries, {human_bytes(sum(e.size_bytes for e in gone))}\n{_table(rows)}")


# ------------------------------------------------------------------------------------------------ doctor, new-method


@cli.command(epilog=_example("ddbench doctor"))
@_root
@_as_json
def doctor(data_root: str | None, as_json: bool) -> None:
    """Device, versions, compiler, data root, caches, plug-ins: what is there, what is missing, what to do."""
    import dataclasses

    from ddbench import doctor as doctor_

    _data_root(data_root)
    found = doctor_.checks()
    rows = [{"": c.status, "what": c.name, "found": c.value, "to do": c.advice} for c in found]
    _say(as_json, [dataclasses.asdict(c) for c in found], _table(rows))
    if any(c.status == "fail" for c in found):
        raise _Failed(1)


@cli.command("new-method", epilog=_example("ddbench new-method my_method"))
@cloup.argument("name", help="lower-case letters, digits and underscores")
@option("--folder", type=cloup.Path(path_type=Path), help="where to (default: this checkout, else here)")
def new_method(name: str, folder: Path | None) -> None:
    """Write a commented starter method and its test; both run at once."""
    from ddbench import starter

    method, test = starter.write_method(name, folder)
    cloup.echo(f"wrote {method}\nwrote {test}\nnext:  {sys.executable} -m pytest -q {test}")
