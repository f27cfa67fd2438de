"""``ddbench cache``: what can be made again."""

from __future__ import annotations

from pathlib import Path

import cloup
from cloup import option

from ddbench.commands.common import HELP, entries_text, example, json_option, say, size_mib, table_text


@cloup.group(
    context_settings=HELP,
    short_help="Everything cached: sizes, quota, pruning.",
    epilog=example("ddbench cache list", "ddbench cache prune --quota 5G"),
)
def cache() -> None:
    """Everything cached: teachers, experts, whitenings, prepared data; sizes, quota, pruning."""


_runs_instead = option(
    "--runs",
    type=cloup.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="a run folder instead of the cache: its snapshots, pictures, curves and event files can be pruned",
)


@cache.command(
    "list",
    short_help="What is cached, with sizes; or a run folder's.",
    epilog=example("ddbench cache list", "ddbench cache list --runs runs"),
)
@_runs_instead
@json_option
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
    head = f"{root}: {human_bytes(total)} in {entries_text(len(found))}"
    if runs is None:
        head += (
            f", quota {human_bytes(quota) if quota is not None else 'none (DDBENCH_CACHE_QUOTA sets one)'}"
        )
    say(
        as_json,
        {"root": str(root), "bytes": total, "quota": quota, "entries": rows},
        f"{head}\n{table_text(rows)}",
    )


@cache.command(
    "prune",
    epilog=example(
        "ddbench cache prune --quota 5G",
        "ddbench cache prune --older-than 30d --dry-run",
        "ddbench cache prune --runs runs --older-than 30d",
    ),
)
@_runs_instead
@option("--quota", metavar="SIZE", help="what may stay, such as 5G (default: DDBENCH_CACHE_QUOTA)")
@option("--older-than", metavar="AGE", help="remove what was not used for so long, such as 30d")
@option("--dry-run", is_flag=True, help="only say what would go")
@json_option
def cache_prune(
    runs: Path | None, quota: str | None, older_than: str | None, dry_run: bool, as_json: bool
) -> None:
    """Remove cached things, least recently used first.

    Of a run folder only what shows how distillations went is removed, never sets, records or checkpoints.
    """
    from ddbench import store
    from ddbench.board import human_bytes

    size = size_mib("--quota", quota)
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
    say(
        as_json,
        rows,
        f"{word} {entries_text(len(gone))}, {human_bytes(sum(e.size_bytes for e in gone))}\n{table_text(rows)}",
    )


COMMANDS = (cache,)
