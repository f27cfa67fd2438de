"""``ddbench labels``: stored teacher labels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cloup
from cloup import option, option_group

from ddbench.commands.common import (
    HELP,
    Failed,
    counted,
    device_option,
    example,
    facts_text,
    json_option,
    load_plugins,
    memory_option,
    plugin_option,
    quiet_option,
    root_option,
    runs_option,
    say,
    set_data_root,
    size_mib,
    table_text,
)


@cloup.group(
    "labels",
    context_settings=HELP,
    short_help="Stored teacher labels: list, check, make, import.",
    epilog=example("ddbench labels list", "ddbench labels check runs/labels"),
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
    "list", short_help="What is there, whole or partial.", epilog=example("ddbench labels list runs")
)
@cloup.argument("folder", default="runs", type=cloup.Path(path_type=Path), help="run folder, or any other")
@json_option
def labels_list(folder: Path, as_json: bool) -> None:
    """Stores of labels in a folder: of which set, under which views, by whom; no shard is read.

    A store's name is the fingerprint of its set, then that of all that decides the answers: stores of one set begin alike.
    """
    from ddbench.board import human_bytes
    from ddbench.train import labels

    damaged: list[str] = []
    found = labels.stored(folder, damaged)
    total = human_bytes(sum(store.there for store in found))
    head = f"{folder}: {total} in {counted(len(found), 'store')}"
    say(
        as_json,
        [_store_document(store) for store in found],
        f"{head}\n{table_text([_store_row(store) for store in found])}",
    )
    for text in damaged:
        cloup.echo(f"error: {text}", err=True)
    if damaged:
        raise Failed(1)


@labels_.command(
    "check",
    short_help="Compare the checksum of every shard.",
    epilog=example("ddbench labels check runs/labels"),
)
@cloup.argument("folder", type=cloup.Path(exists=True, path_type=Path), help="a store, or a folder of them")
@quiet_option
@json_option
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
    say(
        as_json,
        document,
        f"{counted(len(found), 'store')}, {counted(shards, 'shard')}: {counted(len(faults), 'fault')}",
    )
    for text in faults:
        cloup.echo(f"error: {text}", err=True)
    if faults:
        raise Failed(1)


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
    epilog=example("ddbench labels make runs/sets/0a1b2c3d4e5f6071.safetensors --protocol sre2l-kd"),
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
    runs_option,
)
@option_group("how it runs", device_option, memory_option, root_option, plugin_option)
@quiet_option
@json_option
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
    set_data_root(data_root)
    load_plugins(plugins)
    from ddbench import registry

    registry.facts("protocols", protocol)  # a wrong name is said before anything is read
    limit = size_mib("--memory-limit", memory_limit)
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
    say(as_json, _store_document(made), f"{made.path}\n{table_text([_store_row(made)])}")


@labels_.command(
    "import-fkd",
    short_help="Read label files that authors published.",
    epilog=example("ddbench labels import-fkd FKD_cutmix_fp16 --set sre2l.safetensors --out imported"),
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
@quiet_option
@json_option
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
    text = facts_text({k: v for k, v in facts.items() if v is not None})
    say(as_json, {**facts, "stored": _store_document(store)}, f"{text}\n{table_text([_store_row(store)])}")


COMMANDS = (labels_,)
