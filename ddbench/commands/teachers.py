"""``ddbench teachers``: networks that label."""

from __future__ import annotations

from typing import Any

import cloup
from cloup import option, option_group

from ddbench.commands.common import (
    HELP,
    all_or_named,
    counted,
    device_option,
    entries_text,
    example,
    json_option,
    load_plugins,
    memory_option,
    percent,
    plugin_option,
    quiet_option,
    root_option,
    say,
    say_removed,
    set_data_root,
    size_mib,
    table_text,
)


@cloup.group(
    "teachers",
    context_settings=HELP,
    short_help="Teachers: list, train, evaluate, remove.",
    epilog=example("ddbench teachers list", "ddbench teachers train ConvNetD2W32BN --dataset digits"),
)
def teachers_() -> None:
    """Teachers: networks trained on real data, which methods squeeze, match and label with.

    They lie in the cache, shared by all methods and runs whose recipes agree (docs/teachers.md).
    """


def _teacher_row(entry: Any) -> dict[str, Any]:
    from ddbench.board import human_bytes

    train = " (train)" if entry.recipe.get("held_out") == 0 else ""
    return {
        "fingerprint": entry.fingerprint,
        "data set": entry.data or "damaged",
        "network": entry.network,
        "accuracy %": percent(entry.accuracy) + (train if entry.accuracy is not None else ""),
        "test %": percent(entry.test_accuracy),
        "epochs": entry.recipe.get("epochs", ""),
        "seconds": f"{entry.train_s:.1f}",
        "size": human_bytes(entry.size_bytes),
    }


def _teacher_document(entry: Any) -> dict[str, Any]:
    import dataclasses

    return {**dataclasses.asdict(entry), "path": str(entry.path)}


@teachers_.command(
    "list", short_help="What is there, how good, how large.", epilog=example("ddbench teachers list")
)
@json_option
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
    head = f"{store.cache_root() / 'teachers'}: {human_bytes(total)} in {entries_text(len(found))}"
    document = [_teacher_document(entry) for entry in found]
    say(as_json, document, f"{head}\n{table_text([_teacher_row(entry) for entry in found])}")


@teachers_.command(
    "train",
    short_help="Train a network under a named recipe.",
    epilog=example(
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
@option_group("how it runs", device_option, memory_option, root_option, plugin_option)
@quiet_option
@json_option
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

    set_data_root(data_root)
    load_plugins(plugins)
    given: dict[str, Any] = dict(plan.parse_settings(settings))
    given.update(
        {k: v for k, v in (("held_out", held_out), ("count", count), ("seed", seed)) if v is not None}
    )
    from ddbench import runner
    from ddbench.train import distributed
    from ddbench.train.squeeze import squeeze_recipe, with_settings

    recipe = with_settings(squeeze_recipe(squeeze, network, dataset), given)
    limit = size_mib("--memory-limit", memory_limit)
    with distributed.joined(device) as (place, own):
        alone = quiet or as_json or not place.first
        context = runner.Context(device=own, memory_limit_mib=limit, quiet=alone)
        made, now = runner.Session(context).teachers(dataset, recipe)
    if not place.first:
        return
    document = {"trained_now": now, "teachers": [_teacher_document(entry) for entry in made]}
    head = f"{counted(len(made), 'teacher')}: {now} trained now, {len(made) - now} found"
    say(as_json, document, f"{head}\n{table_text([_teacher_row(entry) for entry in made])}")


@teachers_.command(
    "evaluate",
    short_help="Measure its test accuracy.",
    epilog=example("ddbench teachers evaluate 3f0c9a1b7d52e468 --dataset digits"),
)
@cloup.argument("fingerprint", help="of the teacher (see: ddbench teachers list)")
@option("--dataset", metavar="NAME", help="data set that it was trained on (default: its own)")
@option_group("how it runs", device_option, memory_option, root_option, plugin_option)
@json_option
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
    set_data_root(data_root)
    load_plugins(plugins)
    from ddbench import data, runner
    from ddbench.train import teachers

    where = runner.check(runner.Context(device=device))
    named = dataset or teachers.about(fingerprint)["data"]
    if not named:
        raise ValueError(f"teacher {fingerprint} does not say what it was trained on; name it with --dataset")
    real = data.load(named, device=where, memory_limit_mib=size_mib("--memory-limit", memory_limit))
    teachers.evaluate(fingerprint, real, where)
    entry = teachers.look(fingerprint)
    say(as_json, _teacher_document(entry), table_text([_teacher_row(entry)]))


@teachers_.command(
    "remove",
    short_help="Remove some, or all.",
    epilog=example("ddbench teachers remove 3f0c9a1b7d52e468", "ddbench teachers remove --all --dry-run"),
)
@cloup.argument("fingerprints", nargs=-1, help="of the teachers (see: ddbench teachers list)")
@option("--all", "everything", is_flag=True, help="all teachers in the cache")
@option("--dry-run", is_flag=True, help="only say what would go")
@json_option
def teachers_remove(fingerprints: tuple[str, ...], everything: bool, dry_run: bool, as_json: bool) -> None:
    """Remove teachers from the cache; one that a process is training just now is an error, and nothing is removed."""
    from ddbench.train import teachers

    all_or_named("teachers", fingerprints, everything)
    names = [entry.fingerprint for entry in teachers.stored()] if everything else fingerprints
    gone = teachers.remove(names, dry_run=dry_run)
    say_removed(as_json, gone, dry_run, _teacher_document, _teacher_row)


COMMANDS = (teachers_,)
