"""Commands and their help; no logic.  ``ddbench ...`` and ``python run_bench.py ...`` are the same program.

Nothing heavy is imported before a command needs it, so that listings answer at once.  Exit status: 0 all went well,
1 a cell failed (or a check of ``doctor``, or the disk), 2 what was asked for makes no sense or is not there, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import cloup
from cloup import option, option_group

import ddbench

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}


# As in train/engine.py, which needs torch; tests/test_cli.py compares them.
_PRECISIONS = ("fp32", "tf32", "bf16", "float64")
_ENGINES = ("auto", "plain", "compiled", "stacked", "stacked-compiled")


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


_plugin = option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE.py",
    help="a method or data set of your own; repeatable",
)
_root = option(
    "--data-root",
    metavar="DIR",
    help="where data sets lie (default: DDBENCH_DATA, else ~/.local/share/ddbench/data)",
)
_as_json = option("--json", "as_json", is_flag=True, help="one JSON document on standard output, for scripts")
_quiet = option("--quiet", "-q", is_flag=True, help="no progress, only results and errors")
_runs = option("--runs", default="runs", metavar="DIR", help="run folder: sets, records, checkpoints")


def _how(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say on what, and how exactly, something runs."""
    return option_group(
        "how it runs",
        option("--device", default="auto", metavar="auto|cpu|cuda[:i]", help="where to compute"),
        option(
            "--precision",
            default="fp32",
            type=cloup.Choice(_PRECISIONS),
            metavar="fp32|tf32|bf16",
            help="arithmetic of student training; in the record",
        ),
        option(
            "--engine",
            default="auto",
            type=cloup.Choice(_ENGINES),
            metavar="PATH",
            help=f"how students are trained: {', '.join(_ENGINES)}",
        ),
        option(
            "--memory-limit",
            metavar="SIZE",
            help="plan with so much memory, such as 4G; larger data stay on disk",
        ),
        _root,
        _plugin,
    )(function)


def _watch(*more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options that show a set under way, in the order of the page docs/watching.md."""
    return option_group(
        "watching it",
        option(
            "--snapshot-every",
            type=cloup.IntRange(min=0),
            metavar="N",
            help="iterations between snapshots and contact sheets of a set under way; 0: none (default: 0, or the suite's)",
        ),
        *more,
        option(
            "--tensorboard",
            is_flag=True,
            help="event files, too, in the run folder's tensorboard/ (needs ddbench[tensorboard])",
        ),
    )


def _say(as_json: bool, value: Any, text: str) -> None:
    """The result of a command, on the standard output of the program (see main)."""
    shown = json.dumps(value, indent=1, default=str) if as_json else text
    cloup.echo(shown, file=cloup.get_current_context().obj)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _facts(value: dict[str, Any]) -> str:
    return "\n".join(f"{k}: {v}" for k, v in value.items())


def _settings_text(settings: dict[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in settings.items()) or "none"


def _texts(notes: dict[str, Any]) -> dict[str, str]:
    """Notes of a card as lines of text."""
    return {
        f"note ({k})": ", ".join(str(x) for x in v) if isinstance(v, (list, tuple)) else str(v)
        for k, v in notes.items()
    }


def _numbers(distilled: Any) -> dict[str, Any]:
    """Learned step sizes and the eps of a whitened space, where a set has them."""
    zca = None if distilled.space is None else distilled.space.zca
    return {
        "step_sizes": None if distilled.program is None else distilled.program.step_sizes.tolist(),
        "zca_eps": None if zca is None else zca.eps,
    }


def _beside(distilled: Any) -> dict[str, str]:
    """What only some sets have: learned step sizes, a whitened space, seconds of teachers or experts."""
    found, numbers = {}, _numbers(distilled)
    if sizes := numbers["step_sizes"]:
        low, high = f"{min(sizes):.4g}", f"{max(sizes):.4g}"
        found["learned step size"] = low if len(sizes) == 1 else f"{len(sizes)}, from {low} to {high}"
    if numbers["zca_eps"] is not None:
        found["space"] = f"whitened (zca eps {numbers['zca_eps']:g})"
    if distilled.card.cost.teacher_s > 0:
        found["seconds of networks on real data"] = f"{distilled.card.cost.teacher_s:.1f}"
    return found


def _size_mib(flag: str, text: str | None) -> float | None:
    from ddbench import store

    try:
        return store.parse_size(text) / 2**20 if text else None
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from None


def _table(rows: Sequence[dict[str, Any]]) -> str:
    from tabulate import tabulate

    if not rows:
        return "(none)"
    # the heads as a row of their own: tabulate sets real ones wider apart
    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    return str(tabulate(table, tablefmt="plain", disable_numparse=True))


@cloup.group(
    context_settings=_HELP,
    epilog=_example("ddbench run", "ddbench list methods", "ddbench run --method dm --ipc 10 --seeds 3"),
)
@cloup.version_option(ddbench.__version__, prog_name="ddbench")
def cli() -> None:
    """ddbench: distil data sets with many methods, score every set under one protocol, write leaderboards.

    With no command, the embedded suite runs (real 8x8 digits, no download, a few minutes on two cores).
    """


# ------------------------------------------------------------------------------------------------ list, show, data, cache


_LISTED = ("methods", "datasets", "networks", "protocols", "recipes", "settings", "suites")


def _rows_of(kind: str) -> list[dict[str, Any]]:
    from ddbench import registry

    if kind == "suites":
        from ddbench import plan

        return [
            {"suite": name, "summary": plan.load(name).summary, "file": str(p)}
            for name, p in plan.suites().items()
        ]
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
    if kind == "settings":
        return [
            {
                "method": facts.name,
                "setting": f.name,
                "type": f.type,
                "default": f.default or "(none)",
                "about": " ".join(f.help.split()),
            }
            for facts in registry.listing("methods")
            for f in facts.fields
        ]
    rows = []
    for f in registry.listing(kind):
        k = f.keywords
        about = f"cannot be loaded: {f.problem}" if f.problem else f.summary
        if kind == "methods":
            row = {
                "method": f.name,
                "family": k.get("family", ""),
                "labels": k.get("labels", ""),
                "paper": k.get("paper", ""),
            }
            rows.append(row | {"about": about})
        elif kind == "datasets":
            sizes = [f"{k[s]:,}" if isinstance(k.get(s), int) else "" for s in ("train", "test")]
            shape = "x".join(str(n) for n in k.get("shape", ()))
            rows.append(
                {
                    "data set": f.name,
                    "shape": shape,
                    "classes": k.get("classes", ""),
                    "train": sizes[0],
                    "test": sizes[1],
                    "about": about,
                }
            )
        elif kind == "protocols":
            rows.append(
                {
                    "protocol": f.name,
                    "version": k.get("version", ""),
                    "comparable": "yes" if k.get("comparable") else "no",
                    "about": about,
                }
            )
        else:
            rows.append({"network": f.name})
    return rows


@cli.command(
    "list",
    short_help="Methods, data sets, networks, protocols, recipes, settings, suites.",
    epilog=_example(
        "ddbench list methods", "ddbench list recipes --method dm", "ddbench list settings --method dm"
    ),
)
@cloup.argument("kind", type=cloup.Choice(_LISTED), metavar="KIND", help=f"one of {', '.join(_LISTED)}")
@option("--method", metavar="NAME", help="only recipes or settings of this method")
@_plugin
@_as_json
def list_(kind: str, method: str | None, plugins: tuple[str, ...], as_json: bool) -> None:
    """List methods, data sets, networks, protocols, recipes, settings or suites; nothing is loaded to do so."""
    from ddbench import registry

    _plugins(plugins)
    if method is not None:
        if kind not in ("methods", "recipes", "settings"):
            raise ValueError(f"--method {method} goes with recipes and settings; expected none with {kind}")
        registry.facts("methods", method)
    rows = [r for r in _rows_of(kind) if method is None or r.get("method") == method]
    text = _table(rows)
    if kind == "networks":
        from ddbench.nets.names import GRAMMAR

        text += f"\nvariants: {GRAMMAR}\nany other: timm:NAME, torchvision:NAME"
    _say(as_json, rows, text)


@cli.command(
    short_help="Draw a distilled set as a contact sheet.",
    epilog=_example("ddbench show runs --method dm --ipc 10 --out dm.png", "ddbench show set.safetensors"),
)
@cloup.argument(
    "what", type=cloup.Path(exists=True, path_type=Path), help="a set (.safetensors), or a run folder"
)
@option_group(
    "which sets of a run folder",
    option("--method", metavar="NAME", help="of this method"),
    option("--dataset", metavar="NAME", help="of this data set"),
    option("--ipc", type=int, metavar="N", help="with so many images a class"),
    option("--seed", type=int, metavar="N", help="of this seed"),
)
@option_group(
    "the picture",
    option("--out", type=cloup.Path(path_type=Path), help="PNG to write (default: beside the set)"),
    option(
        "--decoded", is_flag=True, help="show training items, not stored images (they differ for mosaics)"
    ),
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
    """Say what a distilled set is and draw it as a contact sheet, one row a class.

    A run folder with several sets that fit is listed; with --out they are all drawn.
    """
    from ddbench import budget, data, pictures, sets, store

    _data_root(data_root)
    _plugins(plugins)
    asked = {"method": method, "dataset": dataset, "ipc": ipc, "seed": seed}
    wanted = {key: value for key, value in asked.items() if value is not None}
    found = store.RunFolder(what).sets() if what.is_dir() else [what]
    if not found:
        raise LookupError(
            f"no sets in {what}; expected a run folder (see: ddbench run --runs DIR) or a set's file"
        )
    chosen = []
    for path in found:
        card = sets.read_header(path)["card"]
        if all(card[key] == value for key, value in wanted.items()):
            chosen.append(path)
    if not chosen:
        given = " ".join(f"--{key} {value}" for key, value in wanted.items())
        raise LookupError(
            f"none of {_count(len(found), 'set')} in {what} fits {given} (see: ddbench show {shlex.quote(str(what))})"
        )
    if what.is_dir() and len(chosen) > 1:
        cards = [sets.read_header(p)["card"] for p in chosen]
        rows = [
            {k: c[k] for k in ("method", "recipe", "dataset", "ipc", "seed")}
            | {"set": str(p), "notes": "; ".join(v for v in c["notes"].values() if isinstance(v, str))}
            for p, c in zip(chosen, cards, strict=True)
        ]
        if out is None:
            _say(as_json, rows, _table(rows))
            return
    made: list[dict[str, Any]] = []
    besides = []
    for path in chosen:
        distilled = sets.read(path)
        card, size = distilled.card, budget.byte_count(distilled)
        real = data.load(card.dataset).train if card.dataset and _is_known(card.dataset) else None
        if out is None:
            picture = path.with_suffix(".png")
        elif len(chosen) == 1:
            picture = out
        else:
            picture = out.with_name(
                f"{out.stem}-{card.method}-ipc{card.ipc}-seed{card.seed}{out.suffix or '.png'}"
            )
        pictures.distilled_sheet(distilled, real, picture, decoded=decoded, per_class=per_class)
        besides.append(_beside(distilled))
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
                "teacher_s": round(card.cost.teacher_s, 2),
                **_numbers(distilled),
                "settings": dict(card.settings),
                "notes": dict(card.notes),
            }
        )
    texts = [
        _facts(
            {k: v for k, v in m.items() if k not in ("notes", "teacher_s", "step_sizes", "zca_eps")}
            | beside
            | {"settings": _settings_text(m["settings"])}
            | _texts(m["notes"])
        )
        for m, beside in zip(made, besides, strict=True)
    ]
    _say(as_json, made, "\n\n".join(texts))


def _is_known(dataset: str) -> bool:
    """Whether a set's data can be had here: pictures and class names are optional, bytes of a subset are not."""
    from ddbench import data

    try:
        return data.available(dataset) is not None
    except (LookupError, OSError, ValueError):
        return False


@cli.group(
    "data",
    context_settings=_HELP,
    short_help="Data sets: list, prepare, show.",
    epilog=_example("ddbench data list", "ddbench data show digits"),
)
def data_() -> None:
    """Data sets: which there are, where they lie, what they look like."""


@data_.command("list", short_help="Every data set, and where it is.", epilog=_example("ddbench data list"))
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
            absent = (
                "no: downloaded when needed"
                if data.downloadable(row["data set"])
                else f"no: put there by hand (ddbench data prepare {row['data set']} says what)"
            )
            row["here"] = data.available(row["data set"]) or absent
        except (OSError, ValueError, RuntimeError) as error:
            row["here"] = f"cannot be read: {error}"
        row.pop("about")
    _say(as_json, rows, f"data root: {data.data_root()}\n\n{_table(rows)}")


@data_.command(
    "prepare",
    short_help="Find or download one and write its prepared cache.",
    epilog=_example("ddbench data prepare cifar10 --data-root ~/data"),
)
@cloup.argument("name", help="a data set, or imagefolder:PATH")
@option("--force", is_flag=True, help="make the prepared cache anew")
@option(
    "--workers", type=cloup.IntRange(min=1), metavar="N", help="decoding workers (default: one a processor)"
)
@_root
@_plugin
@_as_json
def data_prepare(
    name: str,
    force: bool,
    workers: int | None,
    data_root: str | None,
    plugins: tuple[str, ...],
    as_json: bool,
) -> None:
    """Find or download a data set and write the prepared cache, which later runs map into memory."""
    from ddbench import data

    _data_root(data_root)
    _plugins(plugins)
    folder = data.prepare(name, force=force, workers=workers)
    said = f"{name}: {f'prepared in {folder}' if folder else 'built in, nothing to prepare'}"
    _say(as_json, {"dataset": name, "folder": str(folder) if folder else None}, said)


@data_.command(
    "show",
    short_help="Its facts, and a picture of samples.",
    epilog=_example("ddbench data show digits --out digits.png"),
)
@cloup.argument("name", help="a data set, or imagefolder:PATH")
@option("--out", type=cloup.Path(path_type=Path), help="PNG to write (default: NAME.png)")
@option("--per-class", type=cloup.IntRange(min=1), default=10, metavar="N", help="images a row")
@_root
@_plugin
@_as_json
def data_show(
    name: str,
    out: Path | None,
    per_class: int,
    data_root: str | None,
    plugins: tuple[str, ...],
    as_json: bool,
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
    _say(as_json, facts, _facts(facts))


@cli.group(
    context_settings=_HELP,
    short_help="Everything cached: sizes, quota, pruning.",
    epilog=_example("ddbench cache list", "ddbench cache prune --quota 5G"),
)
def cache() -> None:
    """Everything cached: teachers, experts, whitenings, prepared data; sizes, quota, pruning."""


def _entries(n: int) -> str:
    return f"{n} {'entry' if n == 1 else 'entries'}"


_runs_instead = option(
    "--runs",
    type=cloup.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="a run folder instead of the cache: its snapshots, pictures, curves and event files can be pruned",
)


@cache.command(
    "list",
    short_help="What is cached, with sizes; or a run folder's.",
    epilog=_example("ddbench cache list", "ddbench cache list --runs runs"),
)
@_runs_instead
@_as_json
def cache_list(runs: Path | None, as_json: bool) -> None:
    """What is cached, or what a run folder holds, with sizes, the largest first."""
    from ddbench import store
    from ddbench.board import human_bytes

    found = store.entries() if runs is None else store.RunFolder(runs).entries()
    found.sort(key=lambda e: -e.size_bytes)
    rows = [
        {
            "kind": e.kind,
            "size": human_bytes(e.size_bytes),
            "unused for": f"{e.age_s / 86400:.1f} days",
            "path": str(e.path),
        }
        for e in found
    ]
    root = runs or store.cache_root()
    quota, total = store.quota_bytes() if runs is None else None, sum(e.size_bytes for e in found)
    head = f"{root}: {human_bytes(total)} in {_entries(len(found))}"
    if runs is None:
        head += (
            f", quota {human_bytes(quota) if quota is not None else 'none (DDBENCH_CACHE_QUOTA sets one)'}"
        )
    _say(
        as_json,
        {"root": str(root), "bytes": total, "quota": quota, "entries": rows},
        f"{head}\n{_table(rows)}",
    )


@cache.command(
    "prune",
    epilog=_example(
        "ddbench cache prune --quota 5G",
        "ddbench cache prune --older-than 30d --dry-run",
        "ddbench cache prune --runs runs --older-than 30d",
    ),
)
@_runs_instead
@option("--quota", metavar="SIZE", help="what may stay, such as 5G (default: DDBENCH_CACHE_QUOTA)")
@option("--older-than", metavar="AGE", help="remove what was not used for so long, such as 30d")
@option("--dry-run", is_flag=True, help="only say what would go")
@_as_json
def cache_prune(
    runs: Path | None, quota: str | None, older_than: str | None, dry_run: bool, as_json: bool
) -> None:
    """Remove cached things, least recently used first.

    Of a run folder only what shows how distillations went is removed, never sets, records or checkpoints.
    """
    from ddbench import store
    from ddbench.board import human_bytes

    size = _size_mib("--quota", quota)
    limit = None if size is None else int(size * 2**20)
    age_s = None
    if older_than:
        from ddbench.task import parse_duration

        age_s = parse_duration(older_than, "--older-than")
    if limit is None and age_s is None and runs is None:
        limit = store.quota_bytes()  # it is not what --older-than asks for, and not for run folders
    if limit is None and age_s is None:
        raise ValueError(
            "nothing to go by; give --quota SIZE or --older-than AGE, or set DDBENCH_CACHE_QUOTA"
        )
    gone = store.prune(
        limit, age_s, root=runs, kinds=None if runs is None else store.WATCHED, dry_run=dry_run
    )
    rows = [{"kind": e.kind, "bytes": e.size_bytes, "path": str(e.path)} for e in gone]
    word = "would remove" if dry_run else "removed"
    _say(
        as_json,
        rows,
        f"{word} {_entries(len(gone))}, {human_bytes(sum(e.size_bytes for e in gone))}\n{_table(rows)}",
    )


def _all_or_named(group: str, fingerprints: Sequence[str], everything: bool) -> None:
    """What is to be removed was said, once."""
    if everything == bool(fingerprints):
        given = "--all and fingerprints were both given" if everything else "nothing was named"
        raise ValueError(f"{given}; expected fingerprints, or --all (see: ddbench {group} list)")


def _say_removed(
    as_json: bool,
    gone: Sequence[Any],
    dry_run: bool,
    document: Callable[[Any], Any],
    row: Callable[[Any], dict[str, Any]],
) -> None:
    from ddbench.board import human_bytes

    word = "would remove" if dry_run else "removed"
    total = human_bytes(sum(entry.size_bytes for entry in gone))
    table = _table([row(entry) for entry in gone])
    _say(as_json, [document(entry) for entry in gone], f"{word} {_entries(len(gone))}, {total}\n{table}")


# ------------------------------------------------------------------------------------------------ experts


@cli.group(
    "experts",
    context_settings=_HELP,
    short_help="Expert trajectories: list, make, remove.",
    epilog=_example("ddbench experts list", "ddbench experts make mtt --dataset digits --ipc 1"),
)
def experts_() -> None:
    """Expert trajectories, which trajectory matching learns from: networks trained on real data, kept epoch by epoch.

    They lie in the cache, shared by all methods and runs whose recipes agree.
    """


def _recipe_text(recipe: dict[str, Any]) -> str:
    """What differs from the defaults of a recipe; ``recipe`` as JSON has it."""
    import dataclasses

    from ddbench.contract import TeacherRecipe

    plain = json.loads(json.dumps(dataclasses.asdict(TeacherRecipe())))  # tuples are lists there
    apart = ("network", "epochs", "count")
    found = {k: v for k, v in recipe.items() if k not in apart and (k not in plain or v != plain[k])}
    factors = found.get("early_factors", ())
    if len(factors) > 3:
        found["early_factors"] = f"{factors[0]:g}..{factors[-1]:g} ({len(factors)})"
    return _settings_text(found) if found else "defaults"


def _expert_row(entry: Any) -> dict[str, Any]:
    from ddbench.board import human_bytes

    accuracies = entry.accuracies
    return {
        "fingerprint": entry.fingerprint,
        "data set": entry.dataset or "damaged",
        "network": entry.recipe.get("network", ""),
        "recipe": "experts.json cannot be read" if entry.damaged else _recipe_text(entry.recipe),
        "experts": len(accuracies),
        "epochs": entry.recipe.get("epochs", ""),
        "size": human_bytes(entry.size_bytes),
        "accuracy %": f"{100 * sum(accuracies) / len(accuracies):.1f}" if accuracies else "",
        "seconds": f"{entry.train_s:.1f}",
        "under way": entry.under_way,
    }


def _expert_document(entry: Any) -> dict[str, Any]:
    import dataclasses

    return {**dataclasses.asdict(entry), "experts": len(entry.accuracies), "path": str(entry.path)}


@experts_.command(
    "list", short_help="What is there, how far, how large.", epilog=_example("ddbench experts list")
)
@_as_json
def experts_list(as_json: bool) -> None:
    """Experts in the cache, one line a recipe: how many are done, their mean accuracy, what is under way.

    A folder whose experts.json cannot be read is listed as damaged: remove it, or make the experts again, which mends it.
    Only what differs from the defaults of a recipe is shown of it; --json has all.
    """
    from ddbench import store
    from ddbench.board import human_bytes
    from ddbench.train import experts

    found = experts.stored()
    total = sum(entry.size_bytes for entry in found)
    head = f"{store.cache_root() / 'experts'}: {human_bytes(total)} in {_entries(len(found))}"
    document = [_expert_document(entry) for entry in found]
    _say(as_json, document, f"{head}\n{_table([_expert_row(entry) for entry in found])}")


@experts_.command(
    "make",
    short_help="Train those of a method's recipe.",
    epilog=_example(
        "ddbench experts make mtt --dataset digits --ipc 1",
        "ddbench experts make mtt --dataset cifar10 --ipc 1 --count 20 --set storage=fp16 --budget 2G",
    ),
)
@cloup.argument("method", help="a method that learns from experts")
@option_group(
    "which experts",
    option("--dataset", default="digits", metavar="NAME", help="data set, or imagefolder:PATH"),
    option("--ipc", type=int, default=1, metavar="N", help="images per class, which choose the recipe"),
    option(
        "--recipe",
        default="auto",
        metavar="NAME",
        help="named hyperparameters; auto: the authors' where they fit",
    ),
    option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="override one field of the method (see: ddbench list settings); repeatable",
    ),
    option("--count", type=cloup.IntRange(min=1), metavar="N", help="experts (default: the recipe's)"),
)
@option_group(
    "how it runs",
    option("--device", default="auto", metavar="auto|cpu|cuda[:i]", help="where to compute"),
    option(
        "--budget",
        metavar="SIZE",
        help="bytes that those of this recipe may take, such as 8G (default: DDBENCH_EXPERTS_BUDGET, else what the disk has)",
    ),
    option("--time-budget", metavar="TIME", help="stop after so long, such as 9m; run again to go on"),
    option(
        "--memory-limit",
        metavar="SIZE",
        help="plan with so much memory, such as 4G; larger data stay on disk",
    ),
    _root,
    _plugin,
)
@_quiet
@_as_json
def experts_make(
    method: str,
    dataset: str,
    ipc: int,
    recipe: str,
    settings: tuple[str, ...],
    count: int | None,
    device: str,
    budget: str | None,
    time_budget: str | None,
    memory_limit: str | None,
    data_root: str | None,
    plugins: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Train the experts that a method would use, so that runs find them; a killed training goes on where it was.

    What is printed is of the experts that were asked for, trained now or found.
    """
    import dataclasses

    from ddbench import plan, registry

    _data_root(data_root)
    _plugins(plugins)
    registry.parts(method)  # METHOD is no flag, as the plan would have it
    chosen = plan.from_flags(
        methods=[method],
        datasets=[dataset],
        ipc=[ipc],
        recipe=recipe,
        settings=plan.parse_settings(settings),
    )
    (cell, *_) = plan.cells(chosen)
    size = _size_mib("--budget", budget)
    from ddbench import runner
    from ddbench.train import experts

    notes = runner.validate([cell])
    context = runner.Context(
        device=device,
        memory_limit_mib=_size_mib("--memory-limit", memory_limit),
        quiet=quiet or as_json,
        budget=_budget(time_budget),
    )
    for note in notes if not context.quiet else ():
        cloup.echo(note, err=True)
    try:
        budget_bytes = None if size is None else int(size * 2**20)
        made: Any = runner.Session(context).experts(cell.distil, count, budget_bytes)
    except runner.BudgetUsedUp as stopped:
        cloup.echo(f"error: {stopped}; run again to go on", err=True)
        raise _Failed(1) from None
    there = experts.look(made.folder)
    asked = dataclasses.replace(
        there, accuracies=made.accuracies, train_s=made.train_s, size_bytes=made.size_bytes
    )
    in_all, now = len(there.accuracies), made.trained
    row = {**_expert_row(asked), "folder": str(there.path)}
    row["experts"] = f"{len(made)} ({now} trained now, {len(made) - now} found; {in_all} in all)"
    document = {**_expert_document(asked), "trained_now": now, "in_all": in_all}
    _say(as_json, document, _facts({k: v for k, v in row.items() if v != ""}))


@experts_.command(
    "remove",
    short_help="Remove some, or all.",
    epilog=_example("ddbench experts remove 3f0c9a1b7d52e468", "ddbench experts remove --all --dry-run"),
)
@cloup.argument("fingerprints", nargs=-1, help="of the experts (see: ddbench experts list)")
@option("--all", "everything", is_flag=True, help="all experts in the cache")
@option("--dry-run", is_flag=True, help="only say what would go")
@_as_json
def experts_remove(fingerprints: tuple[str, ...], everything: bool, dry_run: bool, as_json: bool) -> None:
    """Remove experts from the cache; with --all, those that a process is training just now stay."""
    from ddbench.train import experts

    _all_or_named("experts", fingerprints, everything)
    if everything:
        gone, left = experts.remove_all(dry_run=dry_run)
    else:
        gone, left = experts.remove(fingerprints, dry_run=dry_run), []
    _say_removed(as_json, gone, dry_run, _expert_document, _expert_row)
    for entry in left:
        cloup.echo(f"left {entry.fingerprint}: a process is training its experts just now", err=True)


# ------------------------------------------------------------------------------------------------ teachers


@cli.group(
    "teachers",
    context_settings=_HELP,
    short_help="Teachers: list, train, evaluate, remove.",
    epilog=_example("ddbench teachers list", "ddbench teachers train ConvNetD2W32BN --dataset digits"),
)
def teachers_() -> None:
    """Teachers: networks trained on real data, which methods squeeze, match and label with.

    They lie in the cache, shared by all methods and runs whose recipes agree (docs/teachers.md).
    """


def _share(value: float | None) -> str:
    return "" if value is None or value != value else f"{100 * value:.1f}"


def _teacher_row(entry: Any) -> dict[str, Any]:
    from ddbench.board import human_bytes

    train = " (train)" if entry.recipe.get("held_out") == 0 else ""
    return {
        "fingerprint": entry.fingerprint,
        "data set": entry.data or "damaged",
        "network": entry.network,
        "accuracy %": _share(entry.accuracy) + (train if entry.accuracy is not None else ""),
        "test %": _share(entry.test_accuracy),
        "epochs": entry.recipe.get("epochs", ""),
        "seconds": f"{entry.train_s:.1f}",
        "size": human_bytes(entry.size_bytes),
    }


def _teacher_document(entry: Any) -> dict[str, Any]:
    import dataclasses

    return {**dataclasses.asdict(entry), "path": str(entry.path)}


@teachers_.command(
    "list", short_help="What is there, how good, how large.", epilog=_example("ddbench teachers list")
)
@_as_json
def teachers_list(as_json: bool) -> None:
    """Teachers in the cache: accuracy on what was held out of the training data, and on the test data where it was measured.

    Where nothing was held out the accuracy is that on the training images and says so.  --json has the whole recipes,
    the normalisation, and why a damaged one cannot be read.
    """
    from ddbench import store
    from ddbench.board import human_bytes
    from ddbench.train import teachers

    found = teachers.stored()
    total = sum(entry.size_bytes for entry in found)
    head = f"{store.cache_root() / 'teachers'}: {human_bytes(total)} in {_entries(len(found))}"
    document = [_teacher_document(entry) for entry in found]
    _say(as_json, document, f"{head}\n{_table([_teacher_row(entry) for entry in found])}")


_teacher_device = option("--device", default="auto", metavar="auto|cpu|cuda[:i]", help="where to compute")
_teacher_memory = option(
    "--memory-limit",
    metavar="SIZE",
    help="plan with so much memory, such as 4G; larger data stay on disk",
)


@teachers_.command(
    "train",
    short_help="Train a network under a named recipe.",
    epilog=_example(
        "ddbench teachers train ConvNetD2W32BN --dataset digits",
        "ddbench teachers train ResNet18BN --dataset cifar10 --squeeze sre2l --device cuda",
        "ddbench teachers train ConvNetW32BN --dataset mnist --set epochs=3 --held-out 0.2 --count 2",
    ),
)
@cloup.argument("network", help="name of a network (see: ddbench list networks)")
@option_group(
    "which teachers",
    option("--dataset", default="digits", metavar="NAME", help="data set, or imagefolder:PATH"),
    option(
        "--squeeze",
        default="quick",
        metavar="NAME",
        help="named recipe: sre2l, cvdd, infer, rded (the authors', by data set), or quick (ours, for a CPU)",
    ),
    option(
        "--held-out",
        type=float,
        metavar="F",
        help="share of each class that measures the accuracy instead of training (default: the recipe's)",
    ),
    option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="override one field of the recipe (docs/teachers.md); repeatable",
    ),
    option("--count", type=cloup.IntRange(min=1), metavar="N", help="independent networks (default: 1)"),
    option("--seed", type=int, metavar="N", help="of their chance (default: 0, which methods ask for)"),
)
@option_group("how it runs", _teacher_device, _teacher_memory, _root, _plugin)
@_quiet
@_as_json
def teachers_train(
    network: str,
    dataset: str,
    squeeze: str,
    held_out: float | None,
    settings: tuple[str, ...],
    count: int | None,
    seed: int | None,
    device: str,
    memory_limit: str | None,
    data_root: str | None,
    plugins: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Train networks on real data, or find them, and measure their test accuracy.

    With several GPUs: torchrun --nproc-per-node 2 -m ddbench teachers train NETWORK, and the same options.
    """
    from ddbench import plan

    _data_root(data_root)
    _plugins(plugins)
    given: dict[str, Any] = dict(plan.parse_settings(settings))
    given.update(
        {k: v for k, v in (("held_out", held_out), ("count", count), ("seed", seed)) if v is not None}
    )
    from ddbench import runner
    from ddbench.train import distributed
    from ddbench.train.squeeze import squeeze_recipe, with_settings

    recipe = with_settings(squeeze_recipe(squeeze, network, dataset), given)
    limit = _size_mib("--memory-limit", memory_limit)
    with distributed.joined(device) as (place, own):
        alone = quiet or as_json or not place.first
        context = runner.Context(device=own, memory_limit_mib=limit, quiet=alone)
        made, now = runner.Session(context).teachers(dataset, recipe)
    if not place.first:
        return
    document = {"trained_now": now, "teachers": [_teacher_document(entry) for entry in made]}
    head = f"{_count(len(made), 'teacher')}: {now} trained now, {len(made) - now} found"
    _say(as_json, document, f"{head}\n{_table([_teacher_row(entry) for entry in made])}")


@teachers_.command(
    "evaluate",
    short_help="Measure its test accuracy.",
    epilog=_example("ddbench teachers evaluate 3f0c9a1b7d52e468 --dataset digits"),
)
@cloup.argument("fingerprint", help="of the teacher (see: ddbench teachers list)")
@option("--dataset", metavar="NAME", help="data set that it was trained on (default: its own)")
@option_group("how it runs", _teacher_device, _teacher_memory, _root, _plugin)
@_as_json
def teachers_evaluate(
    fingerprint: str,
    dataset: str | None,
    device: str,
    memory_limit: str | None,
    data_root: str | None,
    plugins: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure the test accuracy of a teacher in the cache, and keep it beside the weights."""
    _data_root(data_root)
    _plugins(plugins)
    from ddbench import data, runner
    from ddbench.train import teachers

    where = runner.check(runner.Context(device=device))
    named = dataset or teachers.about(fingerprint)["data"]
    if not named:
        raise ValueError(f"teacher {fingerprint} does not say what it was trained on; name it with --dataset")
    real = data.load(named, device=where, memory_limit_mib=_size_mib("--memory-limit", memory_limit))
    teachers.evaluate(fingerprint, real, where)
    entry = teachers.look(fingerprint)
    _say(as_json, _teacher_document(entry), _table([_teacher_row(entry)]))


@teachers_.command(
    "remove",
    short_help="Remove some, or all.",
    epilog=_example("ddbench teachers remove 3f0c9a1b7d52e468", "ddbench teachers remove --all --dry-run"),
)
@cloup.argument("fingerprints", nargs=-1, help="of the teachers (see: ddbench teachers list)")
@option("--all", "everything", is_flag=True, help="all teachers in the cache")
@option("--dry-run", is_flag=True, help="only say what would go")
@_as_json
def teachers_remove(fingerprints: tuple[str, ...], everything: bool, dry_run: bool, as_json: bool) -> None:
    """Remove teachers from the cache; one that a process is training just now is an error, and nothing is removed."""
    from ddbench.train import teachers

    _all_or_named("teachers", fingerprints, everything)
    names = [entry.fingerprint for entry in teachers.stored()] if everything else fingerprints
    gone = teachers.remove(names, dry_run=dry_run)
    _say_removed(as_json, gone, dry_run, _teacher_document, _teacher_row)


# ------------------------------------------------------------------------------------------------ labels


@cli.group(
    "labels",
    context_settings=_HELP,
    short_help="Stored teacher labels: list, check, make, import.",
    epilog=_example("ddbench labels list", "ddbench labels check runs/labels"),
)
def labels_() -> None:
    """Stored labels: the answers of teachers to every view of a set, in shards that students replay (docs/scale.md).

    Runs keep them in the run folder's labels/; they can be made again, and removed as folders.
    """


def _store_row(store: Any) -> dict[str, Any]:
    from ddbench.board import human_bytes

    plan, mode = store.plan, store.labeller["batch_norm"]
    views = [plan["crop"], "flip" if plan["flip"] else "", plan["mix"]]
    return {
        "store": store.path.name,
        "data set": store.dataset,
        "items": store.items,
        "classes": store.classes,
        "epochs": plan["epochs"],
        "batch": plan["batch"],
        "views": " ".join(v for v in views if v and v != "none") or "plain",
        "networks": (", ".join(store.networks) or "imported") + ("" if mode == "eval" else f" ({mode})"),
        "bytes": human_bytes(store.nbytes),
        "state": "whole" if store.whole else f"{len(store.intact)} of {store.shards} shards",
    }


def _store_document(store: Any) -> dict[str, Any]:
    keys = ("set", "dataset", "items", "classes", "plan", "labeller", "source", "nbytes", "there", "whole")
    found = {key: getattr(store, key) for key in keys}
    return {"path": str(store.path), **found, "shards": store.shards, "shards_there": len(store.intact)}


@labels_.command(
    "list", short_help="What is there, whole or partial.", epilog=_example("ddbench labels list runs")
)
@cloup.argument("folder", default="runs", type=cloup.Path(path_type=Path), help="run folder, or any other")
@_as_json
def labels_list(folder: Path, as_json: bool) -> None:
    """Stores of labels in a folder: of which set, under which views, by whom; no shard is read.

    A store's name is the fingerprint of its set, then that of all that decides the answers: stores of one set begin alike.
    """
    from ddbench.board import human_bytes
    from ddbench.train import labels

    damaged: list[str] = []
    found = labels.stored(folder, damaged)
    total = human_bytes(sum(store.there for store in found))
    head = f"{folder}: {total} in {_count(len(found), 'store')}"
    _say(
        as_json,
        [_store_document(store) for store in found],
        f"{head}\n{_table([_store_row(store) for store in found])}",
    )
    for text in damaged:
        cloup.echo(f"error: {text}", err=True)
    if damaged:
        raise _Failed(1)


@labels_.command(
    "check",
    short_help="Compare the checksum of every shard.",
    epilog=_example("ddbench labels check runs/labels"),
)
@cloup.argument("folder", type=cloup.Path(exists=True, path_type=Path), help="a store, or a folder of them")
@_quiet
@_as_json
def labels_check(folder: Path, quiet: bool, as_json: bool) -> None:
    """Read every shard and compare its checksum; exit status 1 where one is missing, truncated or changed."""
    from ddbench.train import labels

    faults: list[str] = []
    found = labels.stored(folder, faults)
    if not found and not faults:
        raise FileNotFoundError(f"no stored labels in {folder} (see: ddbench labels list)")
    shown = _Counter("shards", quiet or as_json)
    for store in found:
        faults += labels.verify(store, shown)
    shards = sum(store.shards for store in found)
    document = {"stores": len(found), "shards": shards, "faults": faults}
    _say(
        as_json,
        document,
        f"{_count(len(found), 'store')}, {_count(shards, 'shard')}: {_count(len(faults), 'fault')}",
    )
    for text in faults:
        cloup.echo(f"error: {text}", err=True)
    if faults:
        raise _Failed(1)


class _Counter:
    """Progress as (done, total) on one line, where somebody watches."""

    def __init__(self, what: str, quiet: bool) -> None:
        self.what, self.quiet = what, quiet or not sys.stderr.isatty()

    def __call__(self, done: int, total: int, *_: Any) -> None:
        if not self.quiet:
            cloup.echo(f"\r{done:,} of {total:,} {self.what}", err=True, nl=done == total)


@labels_.command(
    "make",
    short_help="Label the views of a set for a protocol.",
    epilog=_example("ddbench labels make runs/sets/0a1b2c3d4e5f6071.safetensors --protocol sre2l-kd"),
)
@cloup.argument(
    "path", metavar="SET", type=cloup.Path(exists=True, path_type=Path), help="distilled set (.safetensors)"
)
@option_group(
    "which labels",
    option(
        "--protocol",
        required=True,
        metavar="NAME",
        help="one that stores labels (see: ddbench list protocols)",
    ),
    option("--network", metavar="NAME", help="students that they are for (default: the protocol's own)"),
    option("--dataset", metavar="NAME", help="real data (default: the set's own)"),
    _runs,
)
@option_group("how it runs", _teacher_device, _teacher_memory, _root, _plugin)
@_quiet
@_as_json
def labels_make(
    path: Path,
    protocol: str,
    network: str | None,
    dataset: str | None,
    runs: str,
    device: str,
    memory_limit: str | None,
    data_root: str | None,
    plugins: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Have teachers answer every view of a set before students train; what is there is kept, so a killed one goes on.

    A run does this by itself; here it is done beforehand, into the folder that runs look in.
    """
    _data_root(data_root)
    _plugins(plugins)
    from ddbench import registry

    registry.facts("protocols", protocol)  # a wrong name is said before anything is read
    limit = _size_mib("--memory-limit", memory_limit)
    from ddbench import api

    made = api.make_labels(
        path,
        protocol,
        network=network,
        dataset=dataset,
        runs=runs,
        device=device,
        memory_limit_mib=limit,
        progress=_Counter("done", quiet or as_json),
    )
    _say(as_json, _store_document(made), f"{made.path}\n{_table([_store_row(made)])}")


@labels_.command(
    "import-fkd",
    short_help="Read label files that authors published.",
    epilog=_example("ddbench labels import-fkd FKD_cutmix_fp16 --set sre2l.safetensors --out imported"),
)
@cloup.argument(
    "folder", type=cloup.Path(exists=True, path_type=Path), help="with epoch_0, epoch_1 and so on (unpacked)"
)
@option_group(
    "which labels",
    option(
        "--set",
        "set_",
        required=True,
        type=cloup.Path(exists=True, path_type=Path),
        metavar="FILE",
        help="the set (.safetensors) that was labelled, items in the order of the authors' image folder",
    ),
    option("--epochs", type=cloup.IntRange(min=1), metavar="N", help="how many to take (default: all)"),
    option(
        "--permutations",
        type=cloup.Choice(("auto", "1", "2")),
        default="auto",
        metavar="auto|1|2",
        help="that torch's sampler drew an epoch: 2, in old versions 1; auto: which fits the set's labels",
    ),
    option(
        "--batch-norm",
        type=cloup.Choice(("eval", "train", "train-halves")),
        default="eval",
        help="in which the authors' teachers answered: eval (SRe2L, CDA), train-halves (CV-DD)",
    ),
    option(
        "--out",
        required=True,
        type=cloup.Path(path_type=Path),
        metavar="DIR",
        help="folder for the set and labels/",
    ),
)
@_quiet
@_as_json
def labels_import(
    folder: Path,
    set_: Path,
    epochs: int | None,
    permutations: str,
    batch_norm: str,
    out: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Read FKD label files (epoch_0/batch_0.tar and so on: SRe2L, CDA, CV-DD) for a set, safely, and write it with them.

    Evaluate the file that is written under the protocol whose epochs, batch, mix and batch norm the labels were made for;
    CV-DD's (cvdd-bssl) want --batch-norm train-halves, since the files do not say it. "labels agree"
    is the share of answers that name the item's own class: near chance, the items or classes are in another order.
    """
    from ddbench import sets
    from ddbench.train import fkd, labels

    given = None if permutations == "auto" else int(permutations)
    distilled = sets.read(set_)
    found = fkd.import_fkd(
        folder,
        distilled,
        out / labels.FOLDER,
        epochs=epochs,
        permutations=given,
        batch_norm=batch_norm,
        progress=_Counter("epochs", quiet or as_json),
    )
    path = out / f"{set_.stem}-fkd.safetensors"
    sets.write(path, found)
    store = labels.look(labels.store_path(out / labels.FOLDER, found))
    notes = found.card.notes
    agree = notes.get("labels_agree")
    facts = {"set": str(path), "store": str(store.path), "labels": notes["labels"], "labels_agree": agree}
    text = _facts({k: v for k, v in facts.items() if v is not None})
    _say(as_json, {**facts, "stored": _store_document(store)}, f"{text}\n{_table([_store_row(store)])}")


# ------------------------------------------------------------------------------------------------ doctor, new-method


@cli.command(
    short_help="What is there, what is missing, what to do.",
    epilog=_example("ddbench doctor", "ddbench doctor --json"),
)
@_root
@_as_json
def doctor(data_root: str | None, as_json: bool) -> None:
    """Device, versions, compiler, data root, caches, plug-ins: what is there, what is missing, what to do."""
    import dataclasses

    from ddbench import doctor as doctor_

    _data_root(data_root)
    found = doctor_.checks()
    width = max(len(c.name) for c in found)
    lines = []
    for c in found:
        lines.append(f"{c.status:4}  {c.name:{width}}  {c.value}")
        lines += [f"{'':4}  {'':{width}}  -> {c.advice}"] if c.advice else []
    _say(as_json, [dataclasses.asdict(c) for c in found], "\n".join(lines))
    if any(c.status == "fail" for c in found):
        raise _Failed(1)


@cli.command(
    "new-method",
    short_help="Write a commented starter method and its test.",
    epilog=_example("ddbench new-method my_method", "ddbench new-method my_method --folder ."),
)
@cloup.argument("name", help="lower-case letters, digits and underscores")
@option(
    "--folder", type=cloup.Path(path_type=Path), help="where to (default: the checkout of ddbench, else here)"
)
@_as_json
def new_method(name: str, folder: Path | None, as_json: bool) -> None:
    """Write a commented starter method and its test; both run at once."""
    from ddbench import starter

    method, test = starter.write_method(name, folder)
    known = method.parent.name == "methods" and starter.checkout() == method.parent.parent
    plugin = "" if known else f" --plugin {shlex.quote(str(method))}"
    _say(
        as_json,
        {"method": str(method), "test": str(test)},
        f"wrote {method}\nwrote {test}\n"
        f"test:  {shlex.quote(sys.executable)} -m pytest -q {shlex.quote(str(test))}\n"
        f"run:   ddbench run --method {name} --dataset digits --ipc 1 --seeds 1{plugin}",
    )


# ------------------------------------------------------------------------------------------------ run, distill, evaluate, board


def _context(
    runs: str, device: str, precision: str, engine: str, memory_limit: str | None, **more: Any
) -> Any:
    from ddbench import registry, runner

    context = runner.Context(
        run=Path(runs),
        device=device,
        precision=precision,
        engine=engine,
        memory_limit_mib=_size_mib("--memory-limit", memory_limit),
        plugins=tuple(registry.added_files()),
        **more,
    )
    runner.check(context)
    return context


def _budget(text: str | None) -> Any:
    from ddbench.task import TimeBudget, parse_duration

    return TimeBudget(parse_duration(text, "--time-budget") if text else None)


def _seeds(text: str) -> int | list[int]:
    """``5`` -> seeds 0..4; ``3,7`` -> those two."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds is {text!r}; expected a count such as 5, or seeds such as 0,3,7") from None
    if "," not in text and numbers[0] < 1:
        raise ValueError(f"--seeds is {text}; expected at least 1")
    return numbers if "," in text else numbers[0]


def _boards(runs: Sequence[Path], out: Path, plots: bool = True) -> tuple[list[Any], list[Path], list[str]]:
    from ddbench import board, store

    unreadable: list[str] = []
    records = [r for folder in runs for r in store.RunFolder(folder).records(unreadable)]
    boards = board.make(records)
    return boards, board.write(boards, out, plots), unreadable


def _unscored(outcomes: Sequence[Any]) -> list[str]:
    """Cells that failed or were skipped in this run, each reason once."""
    from ddbench import executors

    reasons: dict[tuple[str, str], list[Any]] = {}
    for outcome in outcomes:
        if outcome.status in ("failed", "skipped"):
            reasons.setdefault((outcome.status, outcome.reason), []).append(outcome)
    lines = []
    for (status, reason), those in reasons.items():
        lines.append(f"{status}: {reason}")
        names = [executors.brief(o, reason=False).removesuffix(f": {status}") for o in those]
        lines += [f"  {name}" for name in names[:10]]
        lines += [f"  and {len(names) - 10} more"] if len(names) > 10 else []
    return lines


def _warn(lines: Sequence[str]) -> None:
    for line in lines:
        cloup.echo(f"warning: {line}", err=True)


@cli.command(
    short_help="Distil, train networks on the result, write records and boards.",
    epilog=_example(
        "ddbench run",
        "ddbench run --method random --dataset digits --ipc 10 --seeds 1",
        "ddbench run --method random --method dm --dataset cifar10 --ipc 1 --protocol dc-dsa --network M",
    ),
)
@option_group(
    "what to run (nothing given: the embedded suite)",
    option("--suite", metavar="NAME|FILE.yaml", help="a suite of cells (see: ddbench list suites)"),
    option(
        "--method",
        "methods",
        multiple=True,
        metavar="NAME",
        help="a file in methods/ (see: ddbench list methods); repeatable",
    ),
    option(
        "--dataset",
        "datasets",
        multiple=True,
        metavar="NAME",
        help="data set, or imagefolder:PATH; repeatable (default: digits)",
    ),
    option(
        "--ipc",
        "ipcs",
        multiple=True,
        type=int,
        metavar="N",
        help="synthetic images per class; repeatable (default: 1)",
    ),
    option(
        "--protocol",
        "protocols",
        multiple=True,
        metavar="NAME",
        help="how sets are scored; repeatable (default: quick)",
    ),
    option(
        "--network",
        "networks",
        multiple=True,
        metavar="NAME",
        help="students, cross-architecture where repeated, pools M and B (default: the protocol's own)",
    ),
    option(
        "--recipe",
        metavar="NAME",
        help="named hyperparameters (default: auto, the authors' where they fit)",
    ),
    option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="override one field of the method (see: ddbench list settings); repeatable",
    ),
)
@option_group(
    "how often, and where to",
    option(
        "--seeds",
        metavar="N|A,B,C",
        help="independent distil-and-train repeats, or their seeds (default: 5; a suite has its own)",
    ),
    option(
        "--repeats",
        type=cloup.IntRange(min=1),
        metavar="N",
        help="students a set and network (default: the protocol's)",
    ),
    _runs,
    option(
        "--boards",
        type=cloup.Path(path_type=Path),
        metavar="DIR",
        help="where the tables go (default: leaderboards for the run folder runs, else inside the run folder)",
    ),
    option("--no-boards", is_flag=True, help="records only"),
    option("--only-missing/--force", default=True, help="skip cells that are done, or do all again"),
    option("--jobs", type=cloup.IntRange(min=1), default=1, metavar="N", help="worker processes"),
    option(
        "--time-budget",
        metavar="TIME",
        help="stop cleanly at a checkpoint after so long, such as 9m; run again to go on",
    ),
)
@_watch(
    option(
        "--snapshot-students",
        type=cloup.IntRange(min=1),
        metavar="M",
        help="students that score each snapshot, as each cell does (default: 1, or the suite's)",
    ),
)
@_how
@_quiet
@_as_json
def run(
    suite: str | None,
    methods: tuple[str, ...],
    datasets: tuple[str, ...],
    ipcs: tuple[int, ...],
    protocols: tuple[str, ...],
    networks: tuple[str, ...],
    recipe: str | None,
    settings: tuple[str, ...],
    seeds: str | None,
    repeats: int | None,
    runs: str,
    boards: Path | None,
    no_boards: bool,
    only_missing: bool,
    jobs: int,
    time_budget: str | None,
    snapshot_every: int | None,
    snapshot_students: int | None,
    tensorboard: bool,
    device: str,
    precision: str,
    engine: str,
    memory_limit: str | None,
    data_root: str | None,
    plugins: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Distil, train fresh networks on the result, write one record a network and seed, and the boards."""
    from ddbench import plan

    _data_root(data_root)
    _plugins(plugins)
    flags = {
        "--method": methods,
        "--dataset": datasets,
        "--ipc": ipcs,
        "--protocol": protocols,
        "--network": networks,
        "--recipe": recipe,
        "--set": settings,
    }
    if methods:
        if suite is not None:
            raise ValueError(f"--suite {suite} and --method were both given; expected one of them")
        chosen = plan.from_flags(
            methods=methods,
            datasets=datasets or ("digits",),
            ipc=ipcs or (1,),
            seeds=_seeds(seeds or "5"),
            protocols=protocols or ("quick",),
            networks=networks or None,
            repeats=repeats,
            recipe=recipe or "auto",
            settings=plan.parse_settings(settings),
        )
    else:
        if given := [flag for flag, value in flags.items() if value]:
            raise ValueError(
                f"{', '.join(given)} without --method; expected --method NAME too (a suite states its own)"
            )
        chosen = plan.load(suite or "embedded")
        chosen = plan.changed(chosen, seeds=_seeds(seeds) if seeds else None, repeats=repeats)
    cells = plan.cells(chosen)
    from ddbench import executors, runner  # the plan is checked before torch is loaded

    notes = runner.validate(cells)
    silent = quiet or as_json
    context = _context(
        runs,
        device,
        precision,
        engine,
        memory_limit,
        force=not only_missing,
        quiet=silent,
        budget=_budget(time_budget),
        snapshot_every=chosen.snapshot_every if snapshot_every is None else snapshot_every,
        snapshot_students=snapshot_students or chosen.snapshot_students,
        tensorboard=tensorboard,
    )
    if not silent:
        of = "" if methods else f" of suite {chosen.name}"
        cloup.echo(f"{_count(len(cells), 'cell')}{of}; sets and records go to {runs}", err=True)
        for note in notes:
            cloup.echo(note, err=True)
    reasons: set[str] = set()

    def told(outcome: Any) -> None:
        from tqdm import tqdm

        if not silent and outcome.status not in ("cached", "left"):
            tqdm.write(executors.brief(outcome, outcome.reason not in reasons), file=sys.stderr)
            reasons.add(outcome.reason)
            for line in executors.notes(outcome) if jobs > 1 else ():  # else the task said it
                if line not in reasons:
                    tqdm.write(line, file=sys.stderr)
                    reasons.add(line)

    summary = executors.run(cells, context, jobs=jobs, told=told)
    status = summary.exit_status
    made: list[Path] = []
    text = ""
    if not no_boards and summary.records:
        from ddbench import board

        try:
            # trials in a folder of their own leave the boards of the main one alone
            out = boards or Path("leaderboards" if runs == "runs" else Path(runs) / "leaderboards")
            tables, made, unreadable = _boards([Path(runs)], out)
        except OSError as error:  # the records are safe; what became of the cells is still to be said
            cloup.echo(f"error: no boards: {error}; make them later: ddbench board --runs {runs}", err=True)
            tables, unreadable, status = [], [], status or 1
        _warn(unreadable)
        mine = {r.cell.distil.dataset for r in summary.records}
        text = "\n".join(board.plain(t) for t in tables if t.dataset in mine and len(t.table))
    document = {
        "cells": [
            {
                "cell": o.cell.model_dump(),
                "status": o.status,
                "reason": o.reason,
                "record": o.record.model_dump() if o.record else None,
            }
            for o in summary.outcomes
        ],
        "boards": [str(p) for p in made],
        "plots": [str(p) for p in summary.plots],
        "exit_status": status,
    }
    lines = [text, *_unscored(summary.outcomes), str(summary)]
    lines += [f"boards: {', '.join(str(p) for p in made)}"] if made else []
    lines += [f"over time: {', '.join(str(p) for p in summary.plots)}"] if summary.plots else []
    _say(as_json, document, "\n".join(line for line in lines if line))
    if status:
        raise _Failed(status)


@cli.command(
    short_help="Distil one set.",
    epilog=_example("ddbench distill --method dm --dataset digits --ipc 10 --out dm.safetensors"),
)
@option_group(
    "what to distil",
    option("--method", required=True, metavar="NAME", help="a file in methods/ (see: ddbench list methods)"),
    option("--dataset", default="digits", metavar="NAME", help="data set, or imagefolder:PATH"),
    option("--ipc", type=int, default=1, metavar="N", help="synthetic images per class"),
    option("--seed", type=cloup.IntRange(min=0), default=0, metavar="N", help="decides every random number"),
    option(
        "--recipe",
        default="auto",
        metavar="NAME",
        help="named hyperparameters; auto: the authors' where they fit",
    ),
    option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="override one field of the method (see: ddbench list settings); repeatable",
    ),
)
@option_group(
    "where to",
    option("--out", type=cloup.Path(path_type=Path), help="copy the set to this file (.safetensors)"),
    _runs,
    option("--force", is_flag=True, help="distil again even if the set is there"),
    option(
        "--time-budget",
        metavar="TIME",
        help="stop at a checkpoint after so long, such as 9m; run again to go on",
    ),
)
@_watch()
@_how
@_quiet
@_as_json
def distill(
    method: str,
    dataset: str,
    ipc: int,
    seed: int,
    recipe: str,
    settings: tuple[str, ...],
    out: Path | None,
    runs: str,
    force: bool,
    time_budget: str | None,
    snapshot_every: int | None,
    tensorboard: bool,
    device: str,
    precision: str,
    engine: str,
    memory_limit: str | None,
    data_root: str | None,
    plugins: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Distil one set; a killed distillation goes on from its checkpoint."""
    from ddbench import plan

    if out is not None and out.suffix != ".safetensors":
        raise ValueError(f"--out is {out}; expected a file name that ends in .safetensors")
    _data_root(data_root)
    _plugins(plugins)
    chosen = plan.from_flags(
        methods=[method],
        datasets=[dataset],
        ipc=[ipc],
        seeds=[seed],
        recipe=recipe,
        settings=plan.parse_settings(settings),
    )
    (cell, *_) = plan.cells(chosen)
    from ddbench import runner, sets, store

    notes = runner.validate([cell])
    context = _context(
        runs,
        device,
        precision,
        engine,
        memory_limit,
        force=force,
        quiet=quiet or as_json,
        budget=_budget(time_budget),
        snapshot_every=snapshot_every or 0,
        tensorboard=tensorboard,
    )
    for note in notes if not context.quiet else ():
        cloup.echo(note, err=True)
    session = runner.Session(context)
    try:
        path = session.distil(cell.distil)[1]
    except runner.BudgetUsedUp as stopped:
        path = session.run.set_path(session.set_key(cell.distil))
        if not path.exists():
            cloup.echo(f"error: {stopped}; there is no set yet: run again, with more time", err=True)
            raise _Failed(1) from None
    except store.WriteError:
        raise
    except Exception as error:  # a method may raise anything
        if os.environ.get("DDBENCH_DEBUG"):
            raise
        cloup.echo(f"error: {method} failed: {runner.explain(error)}", err=True)
        raise _Failed(1) from None
    finally:
        session.run.clear_locks()
    made = sets.read(path)
    if out is not None:
        sets.write(out, made)
    card = sets.read_header(path)["card"]
    facts = {
        "set": str(out or path),
        **{
            k: card[k]
            for k in ("method", "recipe", "dataset", "ipc", "seed", "partial", "cost", "settings", "notes")
        },
        **_numbers(made),
    }
    if card["partial"] and not context.quiet:
        cloup.echo("the time budget ended before the distillation did; run again to go on", err=True)
    cost = {"distil_s": round(card["cost"]["wall_s"], 2), "peak_mib": round(card["cost"]["peak_mib"])}
    apart = ("cost", "settings", "notes", "step_sizes", "zca_eps")  # told in other words
    shown = {k: v for k, v in facts.items() if k not in apart} | cost
    shown |= _beside(made) | {"settings": _settings_text(card["settings"])} | _texts(card["notes"])
    _say(as_json, facts, _facts(shown))


def _who_labelled(records: Sequence[Any]) -> list[str]:
    """Lines below a table of scores: who labelled, at how many bytes of the set and beside it."""
    from ddbench.board import human_bytes

    lines = []
    for record in records:
        if note := record.notes.get("labels", ""):
            size = record.bytes
            lines.append(
                f"labels of {record.cell.distil.method or 'the set'}: {note}"
                + ("" if size is None else f"; {human_bytes(size.labels)} of labels")
                + (
                    ""
                    if size is None or not size.beside
                    else f", {human_bytes(sum(size.beside.values()))} beside"
                )
            )
    return list(dict.fromkeys(lines))


@cli.command(
    short_help="Train networks on sets that exist and test them.",
    epilog=_example("ddbench evaluate dm.safetensors --protocol quick --network ConvNetD2W32 --network MLP"),
)
@cloup.argument(
    "sets",
    nargs=-1,
    required=True,
    type=cloup.Path(exists=True, path_type=Path),
    help="distilled sets (.safetensors)",
)
@option_group(
    "under which protocol",
    option("--protocol", default="quick", metavar="NAME", help="see: ddbench list protocols"),
    option(
        "--network",
        "networks",
        multiple=True,
        metavar="NAME",
        help="students; repeatable (default: the protocol's own)",
    ),
    option(
        "--repeats",
        type=cloup.IntRange(min=1),
        metavar="N",
        help="students a network (default: the protocol's)",
    ),
    option("--seed", type=cloup.IntRange(min=0), default=0, metavar="N", help="decides the students"),
    option("--dataset", metavar="NAME", help="real data to test on (default: the set's own)"),
)
@_how
@_quiet
@_as_json
def evaluate(
    sets: tuple[Path, ...],
    protocol: str,
    networks: tuple[str, ...],
    repeats: int | None,
    seed: int,
    dataset: str | None,
    device: str,
    precision: str,
    engine: str,
    memory_limit: str | None,
    data_root: str | None,
    plugins: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Train fresh networks on sets that exist and test them; nothing is written."""
    from ddbench import registry
    from ddbench.nets import names

    _data_root(data_root)
    _plugins(plugins)
    registry.facts("protocols", protocol)  # wrong names are said before any set is read
    for network in networks:
        names.canonical(names.POOLS.get(network, [network])[0])
    limit = _size_mib("--memory-limit", memory_limit)
    from ddbench import api

    records, rows, failed = [], [], []
    for path in sets:
        try:
            found = api.evaluate(
                path,
                dataset=dataset,
                protocol=protocol,
                networks=networks or None,
                repeats=repeats,
                seed=seed,
                device=device,
                precision=precision,
                engine=engine,
                memory_limit_mib=limit,
                quiet=quiet or as_json,
            )
        except Exception as error:
            if len(sets) == 1:
                raise
            failed.append(f"{path}: {error}")  # the other sets keep their scores
            continue
        for record in found:
            records.append(record)
            values = [100 * s.value for s in record.scores if s.chosen_by == "last"]
            best = [100 * s.value for s in record.scores if s.chosen_by == "best-epoch"]
            if not values:
                failed.append(f"{path}: {record.cell.network} has no score of the last epoch")
                continue
            mean = sum(values) / len(values)
            std = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
            rows.append(
                {
                    "set": path.name,
                    "protocol": f"{protocol} {record.protocol_version}",
                    "network": record.cell.network,
                    "top-1 %": f"{mean:.2f} ± {std:.2f}",
                    **({"best epoch on test %": f"{sum(best) / len(best):.2f}"} if best else {}),
                    "labels": record.labels,
                    "students": len(values),
                    "seconds": f"{record.spent.evaluate_s:.1f}",
                    "engine": record.provenance.engine,
                }
            )
    text = "\n".join([_table(rows), *_who_labelled(records)])
    _say(as_json, [r.model_dump() for r in records], text)
    for line in failed:
        cloup.echo(f"error: {line}", err=True)
    if failed:
        raise _Failed(1)


@cli.command(
    short_help="Make tables and plots from records.",
    epilog=_example("ddbench board --runs runs --out leaderboards"),
)
@option(
    "--runs",
    multiple=True,
    type=cloup.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="run folder; repeatable (default: runs)",
)
@option(
    "--out",
    default="leaderboards",
    type=cloup.Path(path_type=Path),
    metavar="DIR",
    help="where the tables go",
)
@option("--plots/--no-plots", default=True, help="accuracy over ipc and over bytes")
@_quiet
@_as_json
def board(runs: tuple[Path, ...], out: Path, plots: bool, quiet: bool, as_json: bool) -> None:
    """Make the boards from records; nothing is run, torch is not needed."""
    from ddbench import board as board_

    folders = runs or (Path("runs"),)
    boards, made, unreadable = _boards(folders, out, plots)
    _warn(unreadable)
    if not boards:
        raise FileNotFoundError(
            f"no records in {', '.join(str(f) for f in folders)}; expected a run folder (see: ddbench run --runs DIR)"
        )
    document = {
        "boards": [str(p) for p in made],
        "rows": {b.dataset: json.loads(b.table.to_json(orient="records")) for b in boards},
    }
    texts = [board_.plain(b) or f"{b.dataset}: no cell has a score yet\n" for b in boards]
    shown = "" if quiet else "\n".join(texts) + "\n"
    _say(as_json, document, shown + "\n".join(str(p) for p in made))


@cli.command(
    short_help="Plot loss and accuracy over iterations and seconds.",
    epilog=_example(
        "ddbench trace --runs runs",
        "ddbench trace dm-digits-10 datadam-digits-10 --out both.png",
        "ddbench trace runs/sets/*.safetensors --value loss",
    ),
)
@cloup.argument(
    "names",
    nargs=-1,
    help="beginnings of keys of sets or records in the run folder, or files of sets or records (none: all that it has)",
)
@option("--runs", default="runs", metavar="DIR", help="run folder: traces, accuracies over time")
@option(
    "--value",
    "values",
    multiple=True,
    metavar="NAME",
    help="a logged value to plot, or top1_pct; repeatable (default: loss, and accuracy where snapshots were scored)",
)
@option(
    "--out",
    default="trace.png",
    type=cloup.Path(path_type=Path),
    metavar="FILE.png",
    help="the plot; its numbers go beside it as CSV",
)
@_as_json
def trace(names: tuple[str, ...], runs: str, values: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Plot how distillations went: what methods logged, and the accuracy of snapshots (run --snapshot-every N).

    Several runs stand in one plot with a legend; runs that differ in the seed alone share a colour.
    """
    from ddbench import curves, store

    found = curves.find(store.RunFolder(runs), names)
    if not found:
        raise LookupError(
            f"nothing was logged in {runs}; expected a run folder (see: ddbench run --runs DIR) with methods that iterate"
        )
    made = curves.write(found, out, values)
    document = {
        "runs": [
            {"set_key": r.key, "run": r.name, "trace": r.trace, "accuracy": sum(r.accuracy.values(), [])}
            for r in found
        ],
        "files": [str(p) for p in made],
    }
    text = "\n".join([_table(curves.summary(found)), *(str(p) for p in made)])
    _say(as_json, document, text)


# ------------------------------------------------------------------------------------------------ the program


def _explained(error: Exception) -> tuple[str, int]:
    """What to say, and the exit status."""
    from ddbench.registry import PluginError
    from ddbench.store import WriteError

    if isinstance(error, WriteError):
        return str(error), 1
    clear = (LookupError, ValueError, ImportError, FileNotFoundError, FileExistsError, PluginError)
    if isinstance(error, clear) and not isinstance(error, (KeyError, IndexError)):
        return str(error) or type(
            error
        ).__name__, 2  # what people gave is wrong, or a file or package is missing
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno} in {place.name}"
    return f"{type(error).__name__}: {error} ({where}); DDBENCH_DEBUG=1 shows the whole traceback", 1


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program; ends the process with the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # `ddbench --device cpu` means the embedded suite, too: options before any command belong to `run`
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help", "--version")):
        given = ["run", *given]
    # With --json only the document goes to standard output, whatever a library or a method prints
    printed = contextlib.redirect_stdout(sys.stderr) if "--json" in given else contextlib.nullcontext()
    status: Any = 0
    out = sys.stdout
    try:
        with printed:
            cli.main(given, prog_name="ddbench", standalone_mode=False, obj=out)
    except _Failed as failed:
        status = failed.status
    except (cloup.Abort, KeyboardInterrupt) as stopped:
        # click makes an Abort of the KeyboardInterrupt, which may say what is kept
        said = str(stopped.__cause__ if isinstance(stopped, cloup.Abort) else stopped)
        cloup.echo(f"interrupted: {said}" if said not in ("", "None") else "interrupted", err=True)
        status = 130
    except cloup.ClickException as error:
        error.show()
        status = error.exit_code
    except Exception as error:
        if os.environ.get("DDBENCH_DEBUG"):
            raise
        text, status = _explained(error)
        cloup.echo(f"error: {text}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
