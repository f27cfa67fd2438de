"""Tables of plain text, and texts made short for them.  No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows in columns, the keys of the first as heads; ``(none)`` without rows."""
    from tabulate import tabulate

    if not rows:
        return "(none)"
    # the heads as a row of their own: tabulate sets real ones wider apart
    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    return str(tabulate(table, tablefmt="plain", disable_numparse=True))


def shortened(text: str, most: int) -> str:
    """At most so many characters; what is cut off is three dots."""
    return text if len(text) <= most else f"{text[: most - 3].rstrip()}..."
