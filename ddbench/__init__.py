"""ddbench: the dataset-distillation benchmark suite.

``ddbench.distill``, ``ddbench.evaluate`` and ``ddbench.load`` are the front door from Python; they are looked up
when first used, so that ``import ddbench`` (and with it every listing command) does not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_root = Path(__file__).resolve().parent.parent
if (_root / "setup.cfg").is_file() and (_root / "methods").is_dir():
    __path__.append(
        str(_root)
    )  # a checkout: methods/ and datasets/ lie beside the package; a wheel has both inside

_API = ("distill", "evaluate", "load")
__all__ = ["__version__", *_API]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _API:
        from ddbench import api

        return getattr(api, name)
    raise AttributeError(f"module 'ddbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_API])
