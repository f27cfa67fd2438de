"""``ddbench data``: the data sets."""

from __future__ import annotations

from pathlib import Path

import cloup
from cloup import option

from ddbench.commands.common import (
    HELP,
    example,
    facts_text,
    json_option,
    load_plugins,
    plugin_option,
    root_option,
    say,
    set_data_root,
    table_text,
)
from ddbench.commands.listing import rows_of


@cloup.group(
    "data",
    context_settings=HELP,
    short_help="Data sets: list, prepare, show.",
    epilog=example("ddbench data list", "ddbench data show digits"),
)
def data_() -> None:
    """Data sets: which there are, where they lie, what they look like."""


@data_.command("list", short_help="Every data set, and where it is.", epilog=example("ddbench data list"))
@root_option
@plugin_option
@json_option
def data_list(data_root: str | None, plugins: tuple[str, ...], as_json: bool) -> None:
    """Every data set, with its size and where it would be read from."""
    from ddbench import data

    set_data_root(data_root)
    load_plugins(plugins)
    rows = rows_of("datasets")
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
    say(as_json, rows, f"data root: {data.data_root()}\n\n{table_text(rows)}")


@data_.command(
    "prepare",
    short_help="Find or download one and write its prepared cache.",
    epilog=example("ddbench data prepare cifar10 --data-root ~/data"),
)
@cloup.argument("name", help="a data set, or imagefolder:PATH")
@option("--force", is_flag=True, help="make the prepared cache anew")
@option(
    "--workers", type=cloup.IntRange(min=1), metavar="N", help="decoding workers (default: one a processor)"
)
@root_option
@plugin_option
@json_option
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

    set_data_root(data_root)
    load_plugins(plugins)
    folder = data.prepare(name, force=force, workers=workers)
    said = f"{name}: {f'prepared in {folder}' if folder else 'built in, nothing to prepare'}"
    say(as_json, {"dataset": name, "folder": str(folder) if folder else None}, said)


@data_.command(
    "show",
    short_help="Its facts, and a picture of samples.",
    epilog=example("ddbench data show digits --out digits.png"),
)
@cloup.argument("name", help="a data set, or imagefolder:PATH")
@option("--out", type=cloup.Path(path_type=Path), help="PNG to write (default: NAME.png)")
@option("--per-class", type=cloup.IntRange(min=1), default=10, metavar="N", help="images a row")
@root_option
@plugin_option
@json_option
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

    set_data_root(data_root)
    load_plugins(plugins)
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
    say(as_json, facts, facts_text(facts))


COMMANDS = (data_,)
