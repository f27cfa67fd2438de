"""Runs commands of the program inside the test process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from ddbench import cli


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)  # fails where anything else stands beside the document


Ddbench = Callable[..., Said]


def program(capfd: pytest.CaptureFixture[str], *first: str) -> Ddbench:
    """The program, or with ``first`` one of its groups.  Outputs are the process's: what a library prints is seen too."""

    def run(*arguments: object) -> Said:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([*first, *(str(a) for a in arguments)])
        out, err = capfd.readouterr()
        assert isinstance(end.value.code, int)
        return Said(end.value.code, out, err)

    return run
