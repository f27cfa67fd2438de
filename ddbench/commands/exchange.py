"""``ddbench import and ddbench export``."""

from __future__ import annotations

import cloup

COMMANDS: tuple[cloup.Command, ...] = ()
