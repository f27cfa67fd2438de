"""``ddbench evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloup
from cloup import option, option_group

from ddbench.commands.common import (
    Failed,
    example,
    how_options,
    json_option,
    load_plugins,
    quiet_option,
    say,
    set_data_root,
    size_mib,
    table_text,
)


def who_labelled(records: Sequence[Any]) -> list[str]:
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


_SAID = ("score", "random images", "learning rates", "attacks")
"""Notes of records whose protocol makes a score of several accuracies."""


def how_scored(records: Sequence[Any]) -> list[str]:
    """Lines below a table of scores: what they were made from."""
    lines = []
    for record in records:
        of = f"{record.cell.distil.method or 'the set'}, {record.cell.network}"
        lines += [f"{key} ({of}): {record.notes[key]}" for key in _SAID if key in record.notes]
    return list(dict.fromkeys(lines))


def scores_of(record: Any) -> list[float]:
    """What boards rank: of the record's metric, of the last epoch, without a task."""
    return [
        s.value for s in record.scores if s.metric == record.metric and s.chosen_by == "last" and not s.task
    ]


def beside(record: Any) -> dict[str, list[float]]:
    """By task, the accuracies that a score was made from or that stand beside it."""
    found: dict[str, list[float]] = {}
    for s in record.scores:
        if s.task:
            found.setdefault(s.task, []).append(s.value)
    return found


def _spread(values: Sequence[float], digits: int = 2) -> str:
    """``29.40 ± 0.66``: percent, population deviation."""
    mean = sum(values) / len(values)
    std = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
    return f"{100 * mean:.{digits}f} ± {100 * std:.{digits}f}"


@cloup.command(
    short_help="Train networks on sets that exist and test them.",
    epilog=example("ddbench evaluate dm.safetensors --protocol quick --network ConvNetD2W32 --network MLP"),
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
    option(
        "--runs",
        metavar="DIR",
        help="keep records and sets in this run folder, for boards and ddbench verify (default: not kept)",
    ),
)
@how_options
@quiet_option
@json_option
def evaluate(
    sets: tuple[Path, ...],
    protocol: str,
    networks: tuple[str, ...],
    repeats: int | None,
    seed: int,
    dataset: str | None,
    runs: str | None,
    device: str,
    precision: str,
    engine: str,
    memory_limit: str | None,
    data_root: str | None,
    plugins: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Train fresh networks on sets that exist and test them; without --runs nothing is written."""
    from ddbench import registry, store
    from ddbench.nets import names

    set_data_root(data_root)
    load_plugins(plugins)
    registry.facts("protocols", protocol)  # wrong names are said before any set is read
    for network in networks:
        names.canonical(names.POOLS.get(network, [network])[0])
    limit = size_mib("--memory-limit", memory_limit)
    folder = None if runs is None else store.RunFolder(runs)
    if folder is not None:
        folder.check_writable()
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
        if folder is not None:
            api.keep(path, found, folder)
        for record in found:
            records.append(record)
            values = scores_of(record)
            if not values:
                failed.append(f"{path}: {record.cell.network} has no score of the last epoch")
                continue
            best = [s.value for s in record.scores if s.chosen_by == "best-epoch"]
            name = "top-1" if record.metric == "top1" else record.metric
            rows.append(
                {
                    "set": path.name,
                    "protocol": f"{protocol} {record.protocol_version}",
                    "network": record.cell.network,
                    f"{name} %": _spread(values),
                    **({"best epoch on test %": f"{100 * sum(best) / len(best):.2f}"} if best else {}),
                    **{f"{task} %": _spread(found, 1) for task, found in beside(record).items()},
                    **({"ECE %": f"{100 * sum(record.ece) / len(record.ece):.1f}"} if record.ece else {}),
                    "labels": record.labels,
                    "students": len(values),
                    "seconds": f"{record.spent.evaluate_s:.1f}",
                    "engine": record.provenance.engine,
                }
            )
    text = "\n".join([table_text(rows), *who_labelled(records), *how_scored(records)])
    say(as_json, [r.model_dump() for r in records], text)
    for line in failed:
        cloup.echo(f"error: {line}", err=True)
    if failed:
        raise Failed(1)


COMMANDS = (evaluate,)
