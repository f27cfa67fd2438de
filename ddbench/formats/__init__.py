"""Sets that authors published -> ours, diagnosed (``look``, ``read_published``); ours -> other forms (``export``).

``given.py``: what images and labels mean; ``opened.py``: what a file is, and its parts; ``found.py``: what they look like;
``published.py``: the set they make; ``export.py``: the way back.  Reading bytes safely is ``ddbench/foreign.py``.
"""

from ddbench.foreign import LIMIT_MIB, FormatError
from ddbench.formats.export import write_folder, write_mtt, write_safetensors
from ddbench.formats.found import Found, look
from ddbench.formats.given import as_set
from ddbench.formats.opened import ALIASES, FORMATS
from ddbench.formats.published import STATS, parse_stats, read_published

__all__ = [
    "ALIASES",
    "FORMATS",
    "LIMIT_MIB",
    "STATS",
    "Found",
    "FormatError",
    "as_set",
    "look",
    "parse_stats",
    "read_published",
    "write_folder",
    "write_mtt",
    "write_safetensors",
]
