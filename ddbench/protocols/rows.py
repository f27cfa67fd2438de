"""The named protocols as plain data.  No torch.

In words, with the rules of comparison: leaderboards/PROTOCOLS.md.  A protocol never learns which method it scores.
"""

from __future__ import annotations

from dataclasses import dataclass

from ddbench.trainplan import TrainPlan


@dataclass(frozen=True)
class ProtocolRow:
    """One protocol: a name, a version and a plan."""

    name: str
    version: str
    """Major.Minor; only scores of equal Major.Minor are compared."""
    plan: TrainPlan
    comparable: bool
    """Whether its numbers stand beside published ones."""
    summary: str
    """One line for listings."""
    source: str
    kind: str = "train"
    """``train``: a TrainPlan; ``native``: the set's own program is replayed."""
    data: str = "part"
    """``part``: distilled sets and subsets; ``full``: the whole training split only, under a cap on steps."""

    def __post_init__(self) -> None:
        for field, value, valid in (
            ("kind", self.kind, ("train", "native")),
            ("data", self.data, ("part", "full")),
        ):
            if value not in valid:
                raise ValueError(f"ProtocolRow.{field} is {value!r}; expected one of {', '.join(valid)}")


_CLASSIC = TrainPlan(
    epochs=1001,  # the published loop runs 0..1000 inclusive
    schedule="steps",
    milestones=(502,),  # dropped after epoch 501 = 1000 // 2 + 1
    reset_optimiser=True,
    augment="dsa",
)
_QUICK = TrainPlan(
    epochs=100,
    lr=0.1,
    schedule="steps",
    milestones=(51,),
    reset_optimiser=True,
    augment="dsa",
    networks=("ConvNetD2W32",),
    repeats=5,
)
_DC = "code of arXiv:2006.05929, 2102.08259 and 2110.04181"

_ROWS = (
    ProtocolRow(
        "dc-dsa", "1.0", _CLASSIC, True,
        "the classic one: 1,001 epochs of SGD with DSA, learning rate 0.01, tenfold lower after 502 (DC, DSA, DM)",
        _DC,
    ),
    ProtocolRow(
        "dc-none", "1.0", _CLASSIC.changed(epochs=301, milestones=(152,), augment="none"), True,
        "the classic one without augmentation: 301 epochs, learning rate tenfold lower after 152 (DC)",
        _DC,
    ),
    ProtocolRow(
        "dc-dsa-full", "1.0", _CLASSIC.changed(max_steps=2000, repeats=1), False,
        "dc-dsa on all training data, stopped after 2,000 steps of 256 images, the schedule compressed into them",
        "ours: 1,001 epochs of all data would take days",
        data="full",
    ),
    ProtocolRow(
        "datadam", "1.0",
        _CLASSIC.changed(epochs=1801, batch=64, milestones=(902,), networks=("ConvNetBN",), repeats=10), True,
        "DataDAM's own: 1,801 epochs in batches of 64 with DSA, learning rate tenfold lower after 902, batch norm",
        "released code of arXiv:2310.00093",
    ),
    ProtocolRow(
        "quick", "1.0", _QUICK, False,
        "ddbench's short form for the embedded suite: 100 epochs with DSA, learning rate 0.1, tenfold lower after 51",
        "ours",
    ),
    ProtocolRow(
        "quick-full", "1.0", _QUICK.changed(max_steps=300, repeats=3), False,
        "quick on all training data, stopped after 300 steps of 256 images, the schedule compressed into them",
        "ours",
        data="full",
    ),
    ProtocolRow(
        "native", "1.0", _CLASSIC, False,
        "the set's own program: its step sizes replayed in order by plain gradient descent, or dc-dsa at its learned rate",
        "arXiv:1811.10959, section 3; learned rates: arXiv:2203.11932",
        kind="native",
    ),
)  # fmt: skip

ROWS: dict[str, ProtocolRow] = {row.name: row for row in _ROWS}
"""Every protocol by name."""
