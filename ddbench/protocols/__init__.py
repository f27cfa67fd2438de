"""Protocols: named, versioned rows of settings that turn a distilled set into scores.

``rows.py`` has the rows and needs no torch; ``get`` makes one of them usable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddbench.protocols.rows import ROWS

if TYPE_CHECKING:
    from ddbench.protocols.train import RowProtocol


def get(name: str) -> RowProtocol:
    """The protocol of that name.

    Raises:
        LookupError: no such protocol; the message has the nearest names.
    """
    if name not in ROWS:
        from ddbench.registry import nearest

        hint = nearest(name, ROWS)
        raise LookupError(f"no protocol {name!r}{'; ' + hint if hint else ''} (see: ddbench list protocols)")
    row = ROWS[name]
    if row.kind == "native":
        from ddbench.protocols.native import NativeProtocol

        return NativeProtocol(row)
    if row.kind in ("lrs", "ars"):
        from ddbench.protocols.robust import AugmentationRobust, LabelRobust

        return LabelRobust(row) if row.kind == "lrs" else AugmentationRobust(row)
    if row.kind == "attack":
        from ddbench.protocols.attacks import AttackProtocol

        return AttackProtocol(row)
    from ddbench.protocols.train import RowProtocol

    return RowProtocol(row)
