"""``ddbench claims``: published numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloup
from cloup import option, option_group

from ddbench.commands.common import There, counted, example, json_option, say, table_text, warn

if TYPE_CHECKING:
    from ddbench.claims import Claim

_SOURCE = 56
"""Letters of a source that a table has room for; --json has all of it."""
_NAMES = 12
"""Names in a message, at most."""


@cloup.command(
    short_help="Published numbers, with their sources.",
    epilog=example(
        "ddbench claims",
        "ddbench claims --method dm --dataset cifar10 --ipc 10",
        "ddbench claims --dataset cifar10 --conflicts",
        "ddbench claims --import mypaper.csv --out leaderboards/published",
    ),
)
@option_group(
    "which (without any: a table of the papers)",
    option("--method", metavar="NAME", help="of this method, ours or external"),
    option("--dataset", metavar="NAME", help="on this data set"),
    option(
        "--ipc",
        type=cloup.IntRange(min=0),
        metavar="N",
        help="with so many images a class; 0: all of the data",
    ),
    option("--protocol", metavar="NAME", help="scored so"),
    option("--network", metavar="NAME", help="of these students"),
    option("--paper", metavar="NAME", help="from this file"),
    option("--ours", is_flag=True, help="only what ddbench could measure"),
    option("--conflicts", is_flag=True, help="only cells whose sources disagree, with all of their numbers"),
)
@option_group(
    "adding a paper (docs/claims.md)",
    option(
        "--import",
        "raw",
        type=There("a CSV file of published numbers (docs/claims.md)"),
        metavar="FILE.csv",
        help="spell the rows of this file as ddbench does; its name is the paper's",
    ),
    option(
        "--out",
        type=cloup.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="where the new file goes",
    ),
)
@json_option
def claims(
    method: str | None,
    dataset: str | None,
    ipc: int | None,
    protocol: str | None,
    network: str | None,
    paper: str | None,
    ours: bool,
    conflicts: bool,
    raw: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Show published numbers: value, what it is of, and who printed it.

    A number with something in the column external (a method, a data set, a network, a protocol that ddbench does not have) is
    shown and never measured against.  One with a caveat (its text stands below the table) is no test of a measurement.
    """
    from ddbench import claims as claims_

    asked = {
        "method": method,
        "dataset": dataset,
        "ipc": ipc,
        "protocol": protocol,
        "network": network,
        "paper": paper,
    }
    if (raw is None) != (out is None):
        raise ValueError(
            f"{'--out' if raw is None else '--import'} was given alone; expected --import FILE.csv --out DIR"
        )
    if raw is not None and out is not None:
        if (
            given := [f"--{k}" for k, v in asked.items() if v is not None]
            or ["--ours"] * ours
            or ["--conflicts"] * conflicts
        ):
            raise ValueError(f"{given[0]} goes with claims that are there; expected none with --import")
        found = claims_.read_raw(raw)
        path = out / f"{raw.stem}.csv"
        out.mkdir(parents=True, exist_ok=True)
        claims_.write(path, found)
        say(as_json, {"file": str(path), "claims": _documents(found)}, f"{_counts(found)}\n{path}")
        return
    everything = claims_.published()
    found = claims_.find(everything, **asked, ours=True if ours else None)  # type: ignore[arg-type]
    if not found:
        warn(_instead(everything, asked, ours))
    if conflicts:
        found = [claim for group in claims_.conflicts(found) for claim in group]
    if as_json:
        say(True, _documents(found), "")
    elif not any(v is not None for v in asked.values()) and not ours and not conflicts:
        say(False, None, f"{table_text(by_paper(everything))}\n\n{_counts(everything)}")
    else:
        say(False, None, f"{_table(found)}\n{_counts(found)}")


def _instead(everything: Sequence[Claim], asked: dict[str, Any], ours: bool) -> list[str]:
    """Where no claim fits: of each thing that was asked for, what the claims that fit the rest have."""
    from ddbench import claims as claims_

    rest = " of ddbench's own" if ours else ""
    given, lines = {k: v for k, v in asked.items() if v is not None}, []
    for kind, value in given.items():
        others = {k: v for k, v in given.items() if k != kind}
        near = claims_.find(everything, **others, ours=True if ours else None)
        have = sorted({getattr(c, kind) for c in near} - {None, ""})
        if have and others:
            named = ", ".join(f"{k} {v}" for k, v in others.items())
            lines.append(f"no claim{rest} with {kind} {value}; those of {named} have {kind} {_some(have)}")
    return lines or [f"no claim{rest} of {', '.join(f'{k} {v}' for k, v in given.items()) or 'any kind'}"]


def _some(names: Sequence[Any]) -> str:
    shown = ", ".join(map(str, names[:_NAMES]))
    return shown + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")


def by_paper(found: Sequence[Claim]) -> list[dict[str, Any]]:
    """Papers, and how many of their numbers are what."""
    from ddbench import claims as claims_

    torn = {c.id for group in claims_.conflicts(found) for c in group}
    rows = []
    for name in sorted({c.paper for c in found}):
        mine = [c for c in found if c.paper == name]
        rows.append(
            {
                "paper": name,
                "rows": len(mine),
                "ours": sum(c.ours for c in mine),
                "external": sum(not c.ours for c in mine),
                "quoted": sum(c.quoted for c in mine),
                "caveat": sum(bool(c.caveat) for c in mine),
                "in conflict": sum(c.id in torn for c in mine),
            }
        )
    return rows


def _documents(found: Sequence[Claim]) -> list[dict[str, Any]]:
    return [{**c.model_dump(mode="json"), "ours": c.ours} for c in found]


def _table(found: Sequence[Claim]) -> str:
    """One table, under a heading for each method and data set."""
    if not found:
        return "(none)\n"
    order = sorted(
        found,
        key=lambda c: (c.method, c.dataset, c.ipc is None, c.ipc or 0, c.keep or 0, c.network, c.protocol),
    )
    caveats = list(dict.fromkeys(c.caveat for c in order if c.caveat))
    head, *lines = table_text([_row(c, caveats) for c in order]).split("\n")
    texts, at = [f"  {head}"], 0
    for (method, dataset), group in groupby(order, key=lambda c: (c.method, c.dataset)):
        n = len(list(group))
        texts += [f"{method} on {dataset}", *(f"  {line}" for line in lines[at : at + n]), ""]
        at += n
    if caveats:
        texts += [f"[{n}] {caveat}" for n, caveat in enumerate(caveats, 1)] + [""]
    return "\n".join(line.rstrip() for line in texts)


def _row(claim: Claim, caveats: Sequence[str]) -> dict[str, str]:
    kept = "" if claim.keep is None else f"{100 * claim.keep:g} %{' an epoch' if claim.per_epoch else ''}"
    amount = kept if claim.ipc is None else "all" if claim.ipc == 0 else str(claim.ipc)
    what = "" if claim.metric == "top1" else f" {claim.metric}"
    source = claim.source if len(claim.source) <= _SOURCE else claim.source[: _SOURCE - 3].rstrip() + "..."
    return {
        "ipc": amount,
        "value": f"{claim.value}{'' if claim.std is None else f' ± {claim.std}'}{what}",
        "network": claim.network,
        "protocol": claim.protocol,
        "chosen": "" if claim.chosen == "unstated" else claim.chosen,
        "quoted": "quoted" if claim.quoted else "",
        "recipe": claim.recipe,
        "external": " ".join(claim.external) or claim.task,
        "caveat": f"[{caveats.index(claim.caveat) + 1}]" if claim.caveat else "",
        "id": claim.id,
        "source": source,
    }


def _counts(found: Sequence[Claim]) -> str:
    from ddbench import claims as claims_

    torn = claims_.conflicts(found)
    papers = counted(len({c.paper for c in found}), "paper")
    text = (
        f"{counted(len(found), 'claim')} of {papers}: {sum(c.ours for c in found)} that ddbench could measure"
    )
    text += (
        f", {sum(bool(c.caveat) for c in found)} with a caveat, {sum(c.quoted for c in found)} quoted, "
        f"{counted(len(torn), 'cell')} with sources that disagree"
    )
    why = ", ".join(f"{name} {n}" for name, n in claims_.reasons(found).items())
    return text + (f"\nnot ddbench's: {why}" if why else "")


COMMANDS = (claims,)
