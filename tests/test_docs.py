"""The pages say what the program does: every command in them parses, every table in the README is a board's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import cloup
import pytest

from ddbench import board, registry
from ddbench.cli import cli
from ddbench.store import RunFolder

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "leaderboards").glob("*.md")),
]


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.splitlines():
                for part in re.split(r"&&|;", line.partition(" #")[0]):
                    if part.split()[:1] == ["ddbench"]:
                        found.append((page.name, part.strip()))
    return found


def test_the_pages_show_commands():
    assert len(commands()) >= 12


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_in_the_pages_parses(page, line):
    words = shlex.split(line)[1:]
    command: cloup.Command = cli
    context = cloup.Context(cli, info_name="ddbench")
    while isinstance(command, cloup.Group):
        name, command, words = command.resolve_command(context, words)
        context = cloup.Context(command, info_name=name, parent=context)
    command.make_parser(context).parse_args(list(words))


def test_the_readmes_table_is_made_from_records():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line for line in readme.splitlines() if re.match(r"\| (1|10|all) +\|", line)]
    assert len(rows) == 31
    records = RunFolder(ROOT / "leaderboards").records()
    (digits,) = (b for b in board.make(records) if b.dataset == "digits")
    made = board.markdown(digits)
    assert all(row in made for row in rows)


def test_files_that_the_pages_link_to_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_page_of_methods_has_a_row_for_every_method():
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for facts in registry.listing("methods"):
        name = f"{facts.name}+BASE" if facts.keywords.get("wrapper") else facts.name
        assert f"| `{name}` |" in page
