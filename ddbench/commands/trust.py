"""``ddbench verify, ddbench compare and ddbench leaks``."""

from __future__ import annotations

import cloup

COMMANDS: tuple[cloup.Command, ...] = ()
