"""Imports point one way: the list in docs/architecture.md is the law, read from the page itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TORCH_FREE = (
    "ddbench/__init__.py",
    "ddbench/cli.py",
    "ddbench/starter.py",
    "ddbench/doctor.py",
    "ddbench/plan.py",
    "ddbench/board/__init__.py",
    "ddbench/claims.py",
    "ddbench/compare.py",
    "ddbench/verdicts.py",
    "ddbench/curves.py",
    "ddbench/protocols/rows.py",
    "ddbench/nets/names.py",
    "ddbench/registry.py",
    "ddbench/records.py",
    "ddbench/estimate.py",
    "ddbench/host.py",
    "ddbench/texts.py",
    "ddbench/trainplan.py",
)


def layers() -> list[str]:
    """The files and folders of the list, top first."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- layers: top first -->\n```text\n(.*?)\n```", page, re.DOTALL)
    assert found, "docs/architecture.md has no list under <!-- layers: top first -->"
    return [line.split()[0] for line in found[1].splitlines()]


LAYERS = layers()
FILES = sorted(
    p.relative_to(ROOT).as_posix()
    for p in (
        ROOT / "run_bench.py",
        *(q for d in ("ddbench", "methods", "datasets") for q in (ROOT / d).rglob("*.py")),
    )
)


def line_of(file: str) -> int | None:
    """Which line of the list a file belongs to."""
    return next(
        (
            i
            for i, entry in enumerate(LAYERS)
            if file == entry or (entry[-1] == "/" and file.startswith(entry))
        ),
        None,
    )


def file_of(module: str) -> str | None:
    """The file of a module of ours, or None where there is none (a name inside a module, a foreign package)."""
    parts = module.split(".")
    if parts[0] != "ddbench":
        return None
    if parts[1:2] in (["methods"], ["datasets"]):
        parts = parts[1:]
    path = "/".join(parts)
    return next((f for f in (f"{path}.py", f"{path}/__init__.py") if (ROOT / f).is_file()), None)


def imports(file: str, text: str) -> Iterator[tuple[int, str]]:
    """(line, file) of each import of ours in a file, those inside functions too."""
    package = file.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            modules = [start, *(f"{start}.{alias.name}" for alias in node.names)]
        else:
            continue
        for module in modules:
            target = file_of(module)
            if target and target != "ddbench/__init__.py":
                yield node.lineno, target


def breaches(file: str, text: str) -> list[str]:
    own = line_of(file)
    found = []
    for lineno, target in imports(file, text):
        other = line_of(target)
        if own is None or other is None or target == file:
            continue  # the list is checked for gaps below
        same_folder = own == other and LAYERS[own] != "methods/"  # methods share through ddbench/matching/
        if other <= own and not same_folder:
            found.append(
                f"{file}:{lineno} imports {target}, which does not stand below it in docs/architecture.md"
            )
    return found


def test_every_file_stands_in_the_list() -> None:
    assert len(FILES) >= 40, FILES
    assert [f for f in FILES if line_of(f) is None and f != "ddbench/__init__.py"] == []
    assert len(set(LAYERS)) == len(LAYERS)


@pytest.mark.parametrize("file", [f for f in FILES if f != "ddbench/__init__.py"])
def test_a_file_imports_only_from_below(file: str) -> None:
    assert breaches(file, (ROOT / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("ddbench/contract.py", "import ddbench.registry"),
        ("ddbench/contract.py", "def f():\n    from ddbench import registry"),
        ("ddbench/contract.py", "from . import registry"),
        ("ddbench/nets/names.py", "from ..registry import names\nfrom .. import cli"),
        ("methods/new.py", "from ddbench import cli"),
        ("ddbench/registry.py", "from ddbench.nets.names import names"),
    ],
)
def test_an_import_from_above_is_caught(file: str, text: str) -> None:
    assert breaches(file, text), LAYERS


def test_an_import_from_below_or_from_the_same_folder_is_no_breach() -> None:
    assert (
        breaches("methods/new.py", "from ddbench.contract import Task\nfrom ddbench.registry import method")
        == []
    )
    assert breaches("ddbench/nets/build.py", "from ddbench.nets import names\nfrom .names import names") == []


def test_listing_planning_and_boards_import_no_torch() -> None:
    modules = [
        f.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for f in TORCH_FREE
        if (ROOT / f).is_file()
    ]
    code = (
        "import importlib, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "for name in sys.argv[2:]:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name + ' imports torch'\n"
        "import ddbench.registry as registry\n"
        "for kind in registry.KINDS: registry.names(kind)\n"
        "assert 'torch' not in sys.modules, 'listing imports torch'\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT), *modules], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(modules) == len(TORCH_FREE)
