"""``ddbench claims and ddbench reproduce``."""

from __future__ import annotations

import cloup

COMMANDS: tuple[cloup.Command, ...] = ()
