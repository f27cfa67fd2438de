"""``ddbench report``."""

from __future__ import annotations

import cloup

COMMANDS: tuple[cloup.Command, ...] = ()
