"""``ddbench experts``: expert trajectories."""

from __future__ import annotations

from typing import Any

import cloup
from cloup import option, option_group

from ddbench.commands.common import (
    HELP,
    Failed,
    all_or_named,
    device_option,
    entries_text,
    example,
    facts_text,
    json_option,
    load_plugins,
    memory_option,
    plugin_option,
    quiet_option,
    recipe_text,
    root_option,
    say,
    say_removed,
    set_data_root,
    size_mib,
    table_text,
    time_budget_of,
)


@cloup.group(
    "experts",
    context_settings=HELP,
    short_help="Expert trajectories: list, make, remove.",
    epilog=example("ddbench experts list", "ddbench experts make mtt --dataset digits --ipc 1"),
)
def experts_() -> None:
    """Expert trajectories, which trajectory matching learns from: networks trained on real data, kept epoch by epoch.

    They lie in the cache, shared by all methods and runs whose recipes agree.
    """


def _expert_row(entry: Any) -> dict[str, Any]:
    from ddbench.board import human_bytes

    accuracies = entry.accuracies
    return {
        "fingerprint": entry.fingerprint,
        "data set": entry.dataset or "damaged",
        "network": entry.recipe.get("network", ""),
        "recipe": "experts.json cannot be read" if entry.damaged else recipe_text(entry.recipe),
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
    "list", short_help="What is there, how far, how large.", epilog=example("ddbench experts list")
)
@json_option
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
    head = f"{store.cache_root() / 'experts'}: {human_bytes(total)} in {entries_text(len(found))}"
    document = [_expert_document(entry) for entry in found]
    say(as_json, document, f"{head}\n{table_text([_expert_row(entry) for entry in found])}")


@experts_.command(
    "make",
    short_help="Train those of a method's recipe.",
    epilog=example(
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
    device_option,
    option(
        "--budget",
        metavar="SIZE",
        help="bytes that those of this recipe may take, such as 8G (default: DDBENCH_EXPERTS_BUDGET, else what the disk has)",
    ),
    option("--time-budget", metavar="TIME", help="stop after so long, such as 9m; run again to go on"),
    memory_option,
    root_option,
    plugin_option,
)
@quiet_option
@json_option
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

    set_data_root(data_root)
    load_plugins(plugins)
    registry.parts(method)  # METHOD is no flag, as the plan would have it
    chosen = plan.from_flags(
        methods=[method],
        datasets=[dataset],
        ipc=[ipc],
        recipe=recipe,
        settings=plan.parse_settings(settings),
    )
    (cell, *_) = plan.cells(chosen)
    size = size_mib("--budget", budget)
    from ddbench import runner
    from ddbench.train import experts

    notes = runner.validate([cell])
    context = runner.Context(
        device=device,
        memory_limit_mib=size_mib("--memory-limit", memory_limit),
        quiet=quiet or as_json,
        budget=time_budget_of(time_budget),
    )
    for note in notes if not context.quiet else ():
        cloup.echo(note, err=True)
    try:
        budget_bytes = None if size is None else int(size * 2**20)
        made: Any = runner.Session(context).experts(cell.distil, count, budget_bytes)
    except runner.BudgetUsedUp as stopped:
        cloup.echo(f"error: {stopped}; run again to go on", err=True)
        raise Failed(1) from None
    there = experts.look(made.folder)
    asked = dataclasses.replace(
        there, accuracies=made.accuracies, train_s=made.train_s, size_bytes=made.size_bytes
    )
    in_all, now = len(there.accuracies), made.trained
    row = {**_expert_row(asked), "folder": str(there.path)}
    row["experts"] = f"{len(made)} ({now} trained now, {len(made) - now} found; {in_all} in all)"
    document = {**_expert_document(asked), "trained_now": now, "in_all": in_all}
    say(as_json, document, facts_text({k: v for k, v in row.items() if v != ""}))


@experts_.command(
    "remove",
    short_help="Remove some, or all.",
    epilog=example("ddbench experts remove 3f0c9a1b7d52e468", "ddbench experts remove --all --dry-run"),
)
@cloup.argument("fingerprints", nargs=-1, help="of the experts (see: ddbench experts list)")
@option("--all", "everything", is_flag=True, help="all experts in the cache")
@option("--dry-run", is_flag=True, help="only say what would go")
@json_option
def experts_remove(fingerprints: tuple[str, ...], everything: bool, dry_run: bool, as_json: bool) -> None:
    """Remove experts from the cache; with --all, those that a process is training just now stay."""
    from ddbench.train import experts

    all_or_named("experts", fingerprints, everything)
    if everything:
        gone, left = experts.remove_all(dry_run=dry_run)
    else:
        gone, left = experts.remove(fingerprints, dry_run=dry_run), []
    say_removed(as_json, gone, dry_run, _expert_document, _expert_row)
    for entry in left:
        cloup.echo(f"left {entry.fingerprint}: a process is training its experts just now", err=True)


COMMANDS = (experts_,)
