"""``ddbench doctor`` and ``ddbench new-method``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import cloup
from cloup import option

from ddbench.commands.common import Failed, example, json_option, root_option, say, set_data_root


@cloup.command(
    short_help="What is there, what is missing, what to do.",
    epilog=example("ddbench doctor", "ddbench doctor --json"),
)
@root_option
@json_option
def doctor(data_root: str | None, as_json: bool) -> None:
    """Device, versions, compiler, data root, caches, plug-ins: what is there, what is missing, what to do."""
    import dataclasses

    from ddbench import doctor as doctor_

    set_data_root(data_root)
    found = doctor_.checks()
    width = max(len(c.name) for c in found)
    lines = []
    for c in found:
        lines.append(f"{c.status:4}  {c.name:{width}}  {c.value}")
        lines += [f"{'':4}  {'':{width}}  -> {c.advice}"] if c.advice else []
    say(as_json, [dataclasses.asdict(c) for c in found], "\n".join(lines))
    if any(c.status == "fail" for c in found):
        raise Failed(1)


@cloup.command(
    "new-method",
    short_help="Write a commented starter method and its test.",
    epilog=example("ddbench new-method my_method", "ddbench new-method my_method --folder ."),
)
@cloup.argument("name", help="lower-case letters, digits and underscores")
@option(
    "--folder", type=cloup.Path(path_type=Path), help="where to (default: the checkout of ddbench, else here)"
)
@json_option
def new_method(name: str, folder: Path | None, as_json: bool) -> None:
    """Write a commented starter method and its test; both run at once."""
    from ddbench import starter

    method, test = starter.write_method(name, folder)
    known = method.parent.name == "methods" and starter.checkout() == method.parent.parent
    plugin = "" if known else f" --plugin {shlex.quote(str(method))}"
    say(
        as_json,
        {"method": str(method), "test": str(test)},
        f"wrote {method}\nwrote {test}\n"
        f"test:  {shlex.quote(sys.executable)} -m pytest -q {shlex.quote(str(test))}\n"
        f"run:   ddbench run --method {name} --dataset digits --ipc 1 --seeds 1{plugin}",
    )


COMMANDS = (doctor, new_method)
