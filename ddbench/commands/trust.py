"""``ddbench verify``, ``ddbench compare`` and ``ddbench leaks``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloup
from cloup import option, option_group

from ddbench.commands.common import (
    A_SET,
    RUN_FOLDER,
    Failed,
    device_option,
    example,
    how_options,
    json_option,
    load_plugins,
    memory_option,
    plugin_option,
    quiet_option,
    root_option,
    say,
    set_data_root,
    size_mib,
    table_text,
    warn,
)


def _folders(runs: Sequence[Path]) -> list[Path]:
    return list(runs) or [Path("runs")]


_runs_option = option(
    "--runs",
    multiple=True,
    type=RUN_FOLDER,
    metavar="DIR",
    help="run folder with records and sets; repeatable (default: runs)",
)


# ------------------------------------------------------------------------------------------------ verify


@cloup.command(
    short_help="Run a record's cell again and compare.",
    epilog=example(
        "ddbench verify runs/records/random-digits-10-0-quick-MLP-2f0cc0b9aa0c2ea7bba8.json",
        "ddbench verify random-digits-10-0-quick-MLP --runs runs --only-evaluate",
        "ddbench verify theirs.json --set-file theirs.safetensors",
    ),
)
@cloup.argument("record", help="file of a record, or the beginning of its key in the run folder")
@option_group(
    "what is repeated (default: distillation and evaluation)",
    option(
        "--set-file",
        type=A_SET,
        metavar="FILE",
        help="the record's set: only its evaluation is repeated",
    ),
    option("--only-evaluate", is_flag=True, help="likewise, with the set in the record's run folder"),
)
@option_group(
    "where",
    _runs_option,
    option(
        "--keep",
        type=cloup.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="run folder for the repeat, where one that was stopped goes on (default: a temporary one)",
    ),
    root_option,
    plugin_option,
)
@quiet_option
@json_option
def verify(
    record: str,
    set_file: Path | None,
    only_evaluate: bool,
    runs: tuple[Path, ...],
    keep: Path | None,
    data_root: str | None,
    plugins: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Run a record's cell again, as it was run, and compare set, scores and bytes.

    Exit status: 0 identical, or equal within 0.5 points or 2 combined standard errors; 1 differs; 2 not repeatable.
    """
    set_data_root(data_root)
    load_plugins(plugins)
    from ddbench import verify as verify_

    found, folder = verify_.find(record, _folders(runs))
    done = verify_.verify(
        found,
        folder=folder,
        set_file=set_file,
        only_evaluate=only_evaluate,
        keep=keep,
        quiet=quiet or as_json,
    )
    lines = done.lines()
    width = max(map(len, lines))
    document = {f.name: getattr(done, f.name) for f in dataclasses.fields(done) if f.name != "record"}
    document["record"] = done.record and done.record.model_dump()
    say(as_json, document, "\n".join(f"{label:<{width}}  {text}" for label, text in lines.items()))
    if done.exit_status:
        raise Failed(done.exit_status)


# ------------------------------------------------------------------------------------------------ compare


def _p(value: float | None) -> str:
    return "" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _row(group: str, line: Any, of: str) -> dict[str, str]:
    return {
        "cell": group,
        of: str(line.n),
        "A %": f"{line.a:.2f}",
        "B %": f"{line.b:.2f}",
        "A - B": f"{line.difference:+.2f}",
        "95 % interval": "" if line.low is None else f"{line.low:+.2f} .. {line.high:+.2f}",
        "p (t)": _p(line.p),
        "p (Wilcoxon)": _p(line.p_wilcoxon),
        "": line.verdict,
    }


def _say_comparison(found: Any, as_json: bool) -> None:
    from ddbench import compare as compare_

    of = found.pairs_of.partition(" ")[0]
    rows = [_row(compare_.place(line.where), line, of) for line in found.lines]
    text = f"A: {found.a}\nB: {found.b}\npairs: {found.pairs_of}\n"
    text += "".join(f"taken: {line}\n" for line in found.taken) + table_text(rows)
    if found.combined is not None:
        text += f"\n\nover these {found.combined.n} cells, each counted once:\n"
        text += table_text([_row("all", found.combined, "cells")])
    text += f"\n\n{found.scope}" if found.scope else ""
    document = dataclasses.asdict(found)
    for made, line in zip(document["lines"], found.lines, strict=True):
        made["verdict"] = line.verdict
    if found.combined is not None:
        document["combined"]["verdict"] = found.combined.verdict
    say(as_json, document, text)
    warn([f"not compared: {line}" for line in found.left_out])


@cloup.command(
    short_help="A paired test between two methods, or two sets.",
    epilog=example(
        "ddbench compare dm random --runs runs",
        "ddbench compare dm:authors dm:cpu --dataset mnist --ipc 10",
        "ddbench compare mine.safetensors theirs.safetensors --protocol quick --repeats 10",
    ),
)
@cloup.argument(
    "a",
    help="METHOD, METHOD:RECIPE or METHOD:RECIPE:SETTINGS (none: its own) with records, or a set (.safetensors)",
)
@cloup.argument("b", help="likewise")
@option_group(
    "which cells of the methods",
    _runs_option,
    option("--dataset", metavar="NAME", help="this data set only (of sets: the real data to test on)"),
    option("--ipc", type=cloup.IntRange(min=0), metavar="N", help="so many images a class only"),
    option(
        "--protocol", metavar="NAME", help="this protocol only (of sets: under which; default there: quick)"
    ),
    option(
        "--network",
        "networks",
        multiple=True,
        metavar="NAME",
        help="these students only; repeatable (of sets: default the protocol's own)",
    ),
)
@option_group(
    "how two sets are scored",
    option(
        "--repeats",
        type=cloup.IntRange(min=1),
        metavar="N",
        help="students a network (default: the protocol's)",
    ),
    option("--seed", type=cloup.IntRange(min=0), default=0, metavar="N", help="decides the students"),
)
@how_options
@quiet_option
@json_option
def compare(
    a: str,
    b: str,
    runs: tuple[Path, ...],
    dataset: str | None,
    ipc: int | None,
    protocol: str | None,
    networks: tuple[str, ...],
    repeats: int | None,
    seed: int,
    device: str,
    precision: str,
    engine: str,
    memory_limit: str | None,
    data_root: str | None,
    plugins: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """A paired test between two methods, from their records, or between two sets, evaluated with the same students.

    Methods are paired by seed in each cell that both were scored in; sets by student, which says nothing of the methods that
    made them.  Shown are the mean difference, its
    95 % interval (Student's t), the p value of the paired t test and, from six pairs on, of Wilcoxon's.
    """
    from ddbench import compare as compare_
    from ddbench import store
    from ddbench.nets import names

    as_sets = [name.endswith(".safetensors") for name in (a, b)]
    if as_sets[0] != as_sets[1]:
        raise ValueError(
            f"one of {a} and {b} is a set and the other a method; expected two methods, or two sets (.safetensors)"
        )
    if not all(as_sets):
        for name in networks:
            names.canonical(name)
        unreadable: list[str] = []
        records = [r for folder in _folders(runs) for r in store.RunFolder(folder).records(unreadable)]
        warn(unreadable)
        found = compare_.methods(
            records, a, b, dataset=dataset, ipc=ipc, protocol=protocol, networks=networks
        )
        _say_comparison(found, as_json)
        return
    if ipc is not None or runs:
        raise ValueError("--ipc and --runs choose records of methods; expected neither beside two sets")
    paths = [A_SET.convert(path, None, None) for path in (a, b)]
    set_data_root(data_root)
    load_plugins(plugins)
    from ddbench import api

    sides = [
        api.evaluate(
            path,
            dataset=dataset,
            protocol=protocol or "quick",
            networks=networks or None,
            repeats=repeats,
            seed=seed,
            device=device,
            precision=precision,
            engine=engine,
            memory_limit_mib=size_mib("--memory-limit", memory_limit),
            quiet=quiet or as_json,
        )
        for path in paths
    ]
    _say_comparison(compare_.sets(a, b, *sides), as_json)


# ------------------------------------------------------------------------------------------------ leaks


@cloup.command(
    short_help="Look for test images in a set.",
    epilog=example("ddbench leaks runs/sets/*.safetensors", "ddbench leaks theirs.safetensors --json"),
)
@cloup.argument(
    "sets",
    nargs=-1,
    required=True,
    type=A_SET,
    help="distilled sets (.safetensors)",
)
@option("--dataset", metavar="NAME", help="real data to look in (default: the set's own)")
@root_option
@device_option
@memory_option
@plugin_option
@json_option
def leaks(
    sets: tuple[Path, ...],
    dataset: str | None,
    data_root: str | None,
    device: str,
    memory_limit: str | None,
    plugins: tuple[str, ...],
    as_json: bool,
) -> None:
    """Look for copies and near copies of test images in sets, mirrored ones too.

    A near copy is at most half as far from a test image as from any training image of its class.  Combinations and crops of
    test images are not found.  Exit status: 1 if there are any.
    """
    set_data_root(data_root)
    load_plugins(plugins)
    from ddbench import api, data
    from ddbench import leaks as leaks_
    from ddbench.task import pick_device

    limit, real = size_mib("--memory-limit", memory_limit), None
    documents, texts, any_found = [], [], False
    for path in sets:
        distilled = api.load(path)
        name = dataset or distilled.card.dataset
        if not name:
            raise ValueError(f"{path} does not name its data set; expected --dataset NAME")
        if real is None or real[0] != name:
            real = name, data.load(name, device=pick_device(device), memory_limit_mib=limit)
        found = leaks_.find(distilled, real[1])
        any_found |= bool(found.matches)
        documents.append({"set": str(path), "text": found.text, **dataclasses.asdict(found)})
        texts.append(f"{path.name}: {found.text or f'no test images among {found.looked_at} images'}")
    say(as_json, documents, "\n".join(texts))
    if any_found:
        raise Failed(1)


COMMANDS = (verify, compare, leaks)
