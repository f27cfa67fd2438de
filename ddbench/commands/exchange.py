"""``ddbench import`` and ``ddbench export``: sets that authors published, and ours in other forms."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import cloup
from cloup import option, option_group

from ddbench.commands.common import (
    A_SET,
    There,
    example,
    facts_text,
    json_option,
    root_option,
    say,
    set_data_root,
    warn,
)

_FORMS = ("safetensors", "folder", "mtt")


def _mib(limit: str) -> float:
    from ddbench.store import parse_size

    try:
        return parse_size(limit) / 2**20
    except ValueError as error:
        raise ValueError(f"--limit: {error}") from None


limit_option = option("--limit", default="4G", metavar="SIZE", help="refuse what unpacks to more")


@cloup.command(
    "import",
    short_help="Read a set that authors published, safely.",
    epilog=example(
        "ddbench import images_best.pt --look",
        "ddbench import images_best.pt --dataset cifar10 --space norm --method mtt",
        "ddbench import res_DM_CIFAR100_ConvNet_10ipc.pt --dataset cifar100 --space norm --stats dc --out dm.safetensors",
        "ddbench import rded_cifar10/ --dataset cifar10 --classes order.txt --factor 1",
    ),
)
@cloup.argument(
    "path",
    type=There("what authors published: a file, a folder, a zip or a tar.gz (docs/import.md)", folder=None),
    help="file, folder, zip or tar.gz (docs/import.md)",
)
@option_group(
    "what it is",
    option("--look", is_flag=True, help="only say what is there: format, values, labels, hints"),
    option("--dataset", metavar="NAME", help="real data that it was made from (needed unless --look)"),
    option("--format", "format_", metavar="NAME", help="refuse anything but this format or method's form"),
    option("--method", default="", metavar="NAME", help="name of the set in records"),
    option("--source", default="", metavar="TEXT", help="where the file comes from, for its card"),
    option("--teacher", default="", metavar="TEXT", help="who labelled, and how well, for its card"),
)
@option_group(
    "what its values mean (asked for where the file does not say)",
    option(
        "--space",
        type=cloup.Choice(("raw", "norm", "zca")),
        help="raw: pixels from 0 to 1; norm: standardised; zca: whitened (eps 0.1, fitted again)",
    ),
    option(
        "--stats",
        metavar="dc|mtt|own|M,../S,..",
        help="mean and deviation: of DC's code, of MTT's, the data set's own, or numbers a channel",
    ),
    option(
        "--zca-on",
        type=cloup.Choice(("unit", "standardised")),
        help="which pixels were whitened: those from 0 to 1 (MTT), standardised ones (DataDAM)",
    ),
    option(
        "--labels",
        type=cloup.Choice(("ids", "probabilities", "logits", "values")),
        help="ids: class ids, of rows their largest value; or soft labels of a kind",
    ),
    option(
        "--classes",
        type=There("a text file with the classes in the authors' order, one a line"),
        metavar="FILE",
        help="class names of the data set (or its label numbers), one a line, in the authors' order",
    ),
    option(
        "--experiment",
        type=int,
        metavar="N",
        help="of several experiments or steps (default: the last; of steps all, as a program)",
    ),
)
@option_group(
    "mosaics",
    option("--factor", type=cloup.IntRange(min=1), metavar="N", help="tiles a side of a picture; 1: none"),
    option(
        "--decode",
        type=cloup.Choice(("single", "multi", "bound", "shuffle")),
        help="how they become items (default: single); shuffle: whole, patches shuffled (RDED)",
    ),
    option(
        "--bound", default=128, type=cloup.IntRange(min=1), metavar="N", help="items a class of decode bound"
    ),
)
@option_group(
    "label files (FKD)",
    option(
        "--set",
        "labelled",
        type=A_SET,
        metavar="FILE",
        help="the set (.safetensors) that they label",
    ),
    option(
        "--batch-norm",
        type=cloup.Choice(("eval", "train", "train-halves")),
        default="eval",
        help="in which the teachers answered: eval (SRe2L, CDA), train-halves (CV-DD)",
    ),
)
@option_group(
    "where to",
    option(
        "--out", type=cloup.Path(path_type=Path), metavar="FILE", help="(default: imported/NAME.safetensors)"
    ),
    limit_option,
    root_option,
)
@json_option
def import_(
    path: Path,
    look: bool,
    dataset: str | None,
    format_: str | None,
    method: str,
    source: str,
    teacher: str,
    space: str | None,
    stats: str | None,
    zca_on: str | None,
    labels: str | None,
    classes: Path | None,
    experiment: int | None,
    factor: int | None,
    decode: str | None,
    bound: int,
    labelled: Path | None,
    batch_norm: str,
    out: Path | None,
    limit: str,
    data_root: str | None,
    as_json: bool,
) -> None:
    """Read a set that authors published and write it as one file of ours, which `ddbench evaluate` takes.

    Its content decides what it is, never its name.  Nothing in it is run: torch files are read with weights_only after a check
    of our own, plain pickles are refused.  What a file does not say (whether values are standardised or whitened and by which
    numbers, the order of classes, the tiles of mosaics) is asked for, not guessed; hints say what they rest on.
    """
    from ddbench import formats

    set_data_root(data_root)
    limit_mib = _mib(limit)
    if look or dataset is None:
        found = formats.look(path, limit_mib=limit_mib)
        if not look:
            raise ValueError(
                f"{path} is of format {found.format}; expected --dataset NAME, the real data that it was made from, or --look"
            )
        return say(as_json, found.document(), facts_text(found.rows()))
    target = out or Path("imported") / f"{_stem(path)}.safetensors"
    if out is None and target.exists():
        raise FileExistsError(f"{target} is there already; name the file to write with --out")
    if target.suffix != ".safetensors":
        raise ValueError(f"--out is {target}; expected a file that ends in .safetensors")
    from ddbench import sets
    from ddbench.codecs import count
    from ddbench.train.labels import FOLDER

    made = formats.read_published(
        path,
        dataset,
        format=format_,
        space=space,
        stats=stats,
        zca_on=zca_on,
        label_kind=labels,
        factor=factor,
        decode=decode,
        bound=bound,
        experiment=experiment,
        classes=classes,
        labelled=None if labelled is None else sets.read(labelled),
        labels_out=target.parent / FOLDER,
        batch_norm=batch_norm,
        teacher=teacher,
        method=method,
        source=source,
        limit_mib=limit_mib,
    )
    sets.write(target, made)
    notes = {k: v for k, v in made.card.notes.items() if k.startswith("source_")}
    command = f"ddbench evaluate {shlex.quote(str(target))} --protocol {_protocol(made)}"
    facts = {
        "format": notes["source_format"],
        "said": notes["source_said"],
        "seen": notes["source_seen"],
        **({"experiment": notes["source_experiment"]} if "source_experiment" in notes else {}),
        **({"doubt": notes["source_doubt"]} if "source_doubt" in notes else {}),
        **({"statistics": notes["source_statistics"]} if "source_statistics" in notes else {}),
        **({"whitening": notes["source_whitening"]} if "source_whitening" in notes else {}),
        "items": f"{count(made)} of {made.card.dataset}, {made.card.ipc:g} stored a class",
        "space": _space_text(made),
        "targets": _targets_text(made),
        "sha256": notes["source_sha256"],
        "set": str(target),
    }
    document = {**facts, "notes": notes, "fingerprint": made.fingerprint(), "next": command}
    say(as_json, document, f"{facts_text({k: v for k, v in facts.items() if v})}\nnext: {command}")


def _stem(path: Path) -> str:
    name = path.resolve().name
    for suffix in (".tar.gz", ".safetensors", ".parquet", ".pth", ".pt", ".npz", ".npy", ".zip", ".tgz"):
        name = name.removesuffix(suffix)
    if name.lower().startswith("images"):  # of every set of MTT's family
        name = f"{path.resolve().parent.name}-{name}"
    return name or "set"


def _protocol(made: Any) -> str:
    if made.program is not None and made.program.order is not None:
        return "native"
    return "quick" if made.targets.labeller is None else "NAME"


def _space_text(made: Any) -> str:
    space = made.space
    if space is None:
        return ""
    what = {"input": "network inputs", "unit": "pixels on the [0, 1] scale", "uint8": "8-bit pixels"}[
        space.stored
    ]
    numbers = "/".join(",".join(f"{x:g}" for x in part) for part in (space.mean, space.std))
    whitened = "" if space.zca is None else f", whitened (eps {space.zca.eps:g})"
    return f"{what}; mean and deviation {numbers}{whitened}"


def _targets_text(made: Any) -> str:
    targets = made.targets
    kinds = [] if targets.ids is None else ["class ids"]
    kinds += [] if targets.soft is None else [f"soft labels ({targets.kind})"]
    kinds += [] if targets.labeller is None else ["stored answers of teachers"]
    program = made.program
    if program is not None:
        kinds.append(
            "a learned step size" if program.order is None else f"a program of {len(program.order)} steps"
        )
    return ", ".join(kinds)


@cloup.command(
    short_help="Write a set in a form that other code reads.",
    epilog=example(
        "ddbench export dm.safetensors --to folder --out dm-pictures",
        "ddbench export dm.safetensors --to mtt --out dm-mtt",
    ),
)
@cloup.argument("set_", metavar="SET", type=A_SET, help="a distilled set (.safetensors)")
@option_group(
    "what to write",
    option(
        "--to",
        required=True,
        type=cloup.Choice(_FORMS),
        help="safetensors with a card; pictures (8-bit) in a folder a class; images_best.pt with labels_best.pt",
    ),
    option(
        "--out", required=True, type=cloup.Path(path_type=Path), metavar="DIR", help="a new or empty folder"
    ),
    option(
        "--dataset", metavar="NAME", help="real data, for sets that name real images (default: the set's own)"
    ),
    root_option,
)
@json_option
def export(set_: Path, to: str, out: Path, dataset: str | None, data_root: str | None, as_json: bool) -> None:
    """Write a distilled set as a folder of pictures, as MTT's files, or as our own file, with a card beside it.

    The card says what the files mean, and what the form cannot hold (8-bit pictures are rounded; a folder has no soft labels).
    """
    from ddbench import codecs, data, formats, sets

    set_data_root(data_root)
    distilled = sets.read(set_)
    real = None
    if to != "safetensors" and codecs.codec_of(distilled)[0].real:
        real = data.load(dataset or distilled.card.dataset).train
    if to == "safetensors":
        done = formats.write_safetensors(distilled, out)
    else:
        done = (formats.write_folder if to == "folder" else formats.write_mtt)(distilled, out, real)
    facts = {
        "folder": str(done.folder),
        "files": f"{len(done.files)} ({', '.join(p.name for p in done.files[-5:])})",
    }
    lost = [f"not in this form: {line}" for line in done.lost]
    document = {
        "folder": str(done.folder),
        "files": [str(p) for p in done.files],
        "lost": list(done.lost),
        "warnings": list(done.warnings),
        "next": done.read_with,
    }
    warn(done.warnings)
    say(as_json, document, "\n".join([facts_text(facts), *lost, f"next: {done.read_with}"]))


COMMANDS = (import_, export)
