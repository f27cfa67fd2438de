"""Published numbers: read, spelt as the registry spells them, found.  No torch.

``leaderboards/published/*.csv`` has one file a paper (or leaderboard), one row a number, each with its source.  A row that
names what ddbench does not have (a method, a data set, a network, a protocol, a share of the data instead of images a
class) says so in ``external``; such a row is shown and never measured against.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

CHOSEN = ("last", "best-epoch", "best-snapshot", "unstated")


class Claim(BaseModel):
    """One published number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    """Stable name of the row, of its paper and content, such as ``dm-3f2a1c``; what ``--claim`` takes."""
    paper: str
    """Stem of the file that it stands in."""
    method: str
    dataset: str
    network: str
    """Of the students."""
    protocol: str
    """How it was scored: ours by name, else the tag under which the source is known."""
    external: tuple[str, ...] = ()
    """Which of method, dataset, network, protocol and ipc are none of ours."""
    ipc: int | None = Field(default=None, ge=0)
    """Stored images a class; 0: all of the data; None: does not apply (``keep`` then says how much)."""
    keep: float | None = Field(default=None, gt=0, le=1)
    """Share of the training data, where a paper counts so."""
    per_epoch: bool = False
    """Whether that share is drawn anew each epoch."""
    resolution: int | None = Field(default=None, gt=0)
    """Pixels a side."""
    distill_network: str = ""
    """Network of the distillation; "": none, or not said."""
    labels: str = ""
    """``hard`` | ``soft`` | ``learned-soft`` | ``none`` | "": not said."""
    metric: str = "top1"
    """``top1`` (percent), or as the source names it."""
    value: float
    """In percent for ``top1``."""
    std: float | None = Field(default=None, ge=0)
    """Deviation as published, in the unit of ``value``."""
    n: int | None = Field(default=None, ge=1)
    """Runs behind the mean; None: not said."""
    chosen: Literal["last", "best-epoch", "best-snapshot", "unstated"] = "unstated"
    """Which epoch or iteration the number is of; the middle two are chosen on test data."""
    zca: bool | None = None
    """Whether images were whitened; None: not said."""
    task: str = ""
    """Of numbers that are not the plain test accuracy (cross-architecture, continual learning, ...)."""
    quoted: bool = False
    """Whether the source quotes another paper."""
    source: str = Field(min_length=1)
    note: str = ""
    """What a reader must know: an odd cell, an ambiguity, how a spelling was understood."""

    @property
    def ours(self) -> bool:
        """Whether ddbench could measure it: nothing of it is external, and it is a test accuracy."""
        return not self.external and self.metric == "top1" and not self.task
