"""The record: the typed result of one evaluation cell, with everything needed to repeat it.  No torch.

Records are JSON files, one a cell, read back and validated by pydantic; boards are made from them alone.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Typed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Score(_Typed):
    """One number that a protocol gave one student."""

    metric: str = "top1"
    value: float
    """Accuracies are fractions in [0, 1]."""
    network: str
    seed: int
    """Of the student, derived from the cell's seed."""
    task: str = ""
    """Target data set or continual-learning step where it is not the plain test set."""
    chosen_by: Literal["last", "best-epoch", "best-snapshot", "lr"] = "last"
    chosen_on: Literal["none", "holdout", "test"] = "none"
    iteration: int | None = None
    """Of a snapshot: finished iterations of the distillation that it was taken after."""
    students: int | None = None
    """Where ``value`` is a mean over students: how many (``seed`` is then the cell's)."""


class DistilCell(_Typed):
    """One method x recipe x data set x ipc x seed."""

    method: str
    recipe: str = "auto"
    settings: dict[str, Any] = Field(default_factory=dict)
    dataset: str
    ipc: int
    seed: int


class Cell(_Typed):
    """An evaluation cell: a distil cell x protocol x network."""

    distil: DistilCell
    protocol: str
    network: str
    repeats: int = Field(ge=1)


class Bytes(_Typed):
    """Bytes of the set by part; ``beside`` (teachers, encoders, full data) is never summed in."""

    images: int
    labels: int
    codec: int = 0
    space: int = 0
    program: int = 0
    beside: dict[str, int] = Field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.images + self.labels + self.codec + self.space + self.program


class Spent(_Typed):
    """Time and memory.  ``distil_*`` is the construction of the set, ``evaluate_*`` the training and test of the students.

    Peaks (MiB): of tensors on a GPU; on CPU of the process, interpreter and libraries included.
    """

    distil_s: float = 0.0
    distil_peak_mib: float = 0.0
    distil_device: str = ""
    teacher_s: float = 0.0
    iterations: int = 0
    iterations_per_s: float = 0.0
    evaluate_s: float = 0.0
    evaluate_peak_mib: float = 0.0
    compile_s: float = 0.0

    @property
    def distil_known(self) -> bool:
        """Whether the construction of the set was measured; of an imported set nothing is known."""
        return bool(self.distil_s or self.distil_peak_mib or self.distil_device)


class Provenance(_Typed):
    """Versions and machine facts that decide the bits of a result."""

    ddbench: str
    revision: str = ""
    """Code revision of a checkout, with ``+`` where it had local changes; not part of the cell key."""
    python: str = ""
    torch: str = ""
    torchvision: str = ""
    platform: str = ""
    device: str = ""
    device_name: str = ""
    threads: int = 0
    precision: str = "fp32"
    engine: str = ""
    """The engine's path: plain, compiled, stacked, stacked-compiled."""


SCHEMA = 2
"""Of records; a reader knows its own and all older ones (``store.read_record``)."""


class Record(_Typed):
    """One evaluation cell's outcome."""

    schema_version: int = SCHEMA
    key: str
    """Cell key: changes with anything that may change the result (see docs/architecture.md)."""
    set_key: str
    """Key of the distilled set."""
    cell: Cell
    status: Literal["ok", "partial", "failed", "skipped"]
    reason: str = ""
    """Why it failed or was skipped; how far a partial set came."""
    protocol_version: str = ""
    comparable: bool = True
    """False for protocols whose numbers are not comparable with published ones."""
    family: str = ""
    labels: str = "hard"
    """What the students learned from (``hard``, ``soft``, ``teacher, stored``, ``committee of 5, online`` ...); in a record
    without scores, and in older ones, what labels the set has: ``hard``, ``soft`` or ``labeller``."""
    labelled_by: list[str] = Field(default_factory=list)
    """Keys of the networks that labelled, sorted, with their shares where these differ; empty for labels of the set."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Every setting of the method as run."""
    recipe: str = ""
    """The recipe as resolved, and its source."""
    recipe_source: str = ""
    notes: dict[str, str] = Field(default_factory=dict)
    """What a reader must know: a recipe that was made for another ipc, a batch made smaller, padding."""
    data_fingerprint: str = ""
    set_fingerprint: str = ""
    whitened: bool | None = None
    """Whether students saw whitened images (ZCA); None in older records."""
    items: int = 0
    """Training items that the set decodes to."""
    classes: int = 0
    scores: list[Score] = Field(default_factory=list)
    metric: str = "top1"
    """What boards rank: of the scores those of this metric without a task, of the last epoch."""
    ece: list[float] = Field(default_factory=list)
    """Expected calibration error of each student after its last epoch (15 bins, a fraction), in the order of its scores."""
    class_accuracy: list[float] = Field(default_factory=list)
    """Test accuracy a class after the last epoch, mean over students, fractions, in the order of the classes."""
    rate: float | None = None
    """Learning rate of the students' first epoch: the plan's, or the one that the set learned; None in older records."""
    bytes: Bytes | None = None
    spent: Spent = Field(default_factory=Spent)
    provenance: Provenance
    created: str = ""
    """UTC, ISO 8601."""
