"""``ddbench list`` and ``ddbench show``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import cloup
from cloup import option, option_group

from ddbench.commands.common import (
    counted,
    example,
    facts_text,
    json_option,
    load_plugins,
    note_texts,
    plugin_option,
    root_option,
    say,
    set_beside,
    set_data_root,
    set_numbers,
    settings_text,
    table_text,
)

_LISTED = ("methods", "datasets", "networks", "protocols", "recipes", "settings", "suites")


def rows_of(kind: str) -> list[dict[str, Any]]:
    from ddbench import registry

    if kind == "suites":
        from ddbench import plan

        found = {name: plan.load(name) for name in plan.suites()}
        return [
            {
                "suite": name,
                "cells": len(plan.cells(suite)),
                "summary": suite.summary,
                "file": str(plan.suites()[name]),
            }
            for name, suite in found.items()
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


@cloup.command(
    "list",
    short_help="Methods, data sets, networks, protocols, recipes, settings, suites.",
    epilog=example(
        "ddbench list methods", "ddbench list recipes --method dm", "ddbench list settings --method dm"
    ),
)
@cloup.argument("kind", type=cloup.Choice(_LISTED), metavar="KIND", help=f"one of {', '.join(_LISTED)}")
@option("--method", metavar="NAME", help="only recipes or settings of this method")
@plugin_option
@json_option
def list_(kind: str, method: str | None, plugins: tuple[str, ...], as_json: bool) -> None:
    """List methods, data sets, networks, protocols, recipes, settings or suites; nothing is loaded to do so."""
    from ddbench import registry

    load_plugins(plugins)
    if method is not None:
        if kind not in ("methods", "recipes", "settings"):
            raise ValueError(f"--method {method} goes with recipes and settings; expected none with {kind}")
        registry.facts("methods", method)
    rows = [r for r in rows_of(kind) if method is None or r.get("method") == method]
    text = table_text(rows)
    if kind == "networks":
        from ddbench.nets.names import GRAMMAR

        text += f"\nvariants: {GRAMMAR}\nany other: timm:NAME, torchvision:NAME"
    say(as_json, rows, text)


@cloup.command(
    short_help="Draw a distilled set as a contact sheet.",
    epilog=example("ddbench show runs --method dm --ipc 10 --out dm.png", "ddbench show set.safetensors"),
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
@root_option
@plugin_option
@json_option
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

    set_data_root(data_root)
    load_plugins(plugins)
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
            f"none of {counted(len(found), 'set')} in {what} fits {given} (see: ddbench show {shlex.quote(str(what))})"
        )
    if what.is_dir() and len(chosen) > 1:
        cards = [sets.read_header(p)["card"] for p in chosen]
        rows = [
            {k: c[k] for k in ("method", "recipe", "dataset", "ipc", "seed")}
            | {"set": str(p), "notes": "; ".join(v for v in c["notes"].values() if isinstance(v, str))}
            for p, c in zip(chosen, cards, strict=True)
        ]
        if out is None:
            say(as_json, rows, table_text(rows))
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
        besides.append(set_beside(distilled))
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
                **set_numbers(distilled),
                "settings": dict(card.settings),
                "notes": dict(card.notes),
            }
        )
    texts = [
        facts_text(
            {k: v for k, v in m.items() if k not in ("notes", "teacher_s", "step_sizes", "zca_eps")}
            | beside
            | {"settings": settings_text(m["settings"])}
            | note_texts(m["notes"])
        )
        for m, beside in zip(made, besides, strict=True)
    ]
    say(as_json, made, "\n\n".join(texts))


def _is_known(dataset: str) -> bool:
    """Whether a set's data can be had here: pictures and class names are optional, bytes of a subset are not."""
    from ddbench import data

    try:
        return data.available(dataset) is not None
    except (LookupError, OSError, ValueError):
        return False


COMMANDS = (list_, show)
