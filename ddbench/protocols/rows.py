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
_MTT = _CLASSIC.changed(learned_rate=True)
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
_DIFFAUG = "diffaug:color_crop_flip_scale_rotate"
"""A flip and the colours for every batch, then one of crop, scale and rotate; cutout is out where CutMix is in."""
_IDC = TrainPlan(
    epochs=1000,
    batch=64,
    schedule="steps",
    milestones=(666, 833),  # 2/3 and 5/6 of the epochs, rounded down
    gamma=0.2,
    augment=_DIFFAUG,
    mix="cutmix",
    test_every=250,
)
_NCFM = TrainPlan(
    epochs=2000,
    batch=128,
    optimiser="adamw",
    lr=1e-3,
    weight_decay=0.01,  # torch's default for AdamW, which the authors leave as it is
    schedule="steps",
    milestones=(400, 800, 1200, 1600),
    gamma=0.5,
    augment=_DIFFAUG,
    mix="cutmix",
    test_every=100,
    repeats=10,
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
        "dc", "1.0", _CLASSIC.changed(augment="dc"), True,
        "the classic one with DC's own augmentation, from before DSA: for mnist, and for ConvNetBN on any data set",
        _DC,
    ),
    ProtocolRow(
        "dc-dsa-flip", "1.0", _CLASSIC.changed(augment="dsa-flip"), True,
        "the classic one with a flip for every batch before the lottery of the other five (FYI)",
        "released code of arXiv:2407.08113",
    ),
    ProtocolRow(
        "dc-dsa-full", "1.0", _CLASSIC.changed(max_steps=2000, repeats=1), False,
        "dc-dsa on all training data, stopped after 2,000 steps of 256 images, the schedule compressed into them",
        "ours: 1,001 epochs of all data would take days",
        data="full",
    ),
    ProtocolRow(
        "mtt", "1.0", _MTT, True,
        "the classic one with DSA, starting at the step size that the set learned, else at 0.01 (MTT, TESLA, FTD)",
        "released code of arXiv:2203.11932; published numbers are of the best snapshot on test data",
    ),
    ProtocolRow(
        "mtt-flip", "1.0", _MTT.changed(augment="dsa-flip"), True,
        "mtt with a flip for every batch before the lottery of the other five (FYI's form of MTT)",
        "released code of arXiv:2407.08113",
    ),
    ProtocolRow(
        "datm", "1.0", _MTT.changed(batch=128), True,
        "mtt in batches of 128: DATM's own, for sets with learned label logits",
        "released code of arXiv:2310.05773; 5 students are ours (1 a call there)",
    ),
    ProtocolRow(
        "datadam", "1.0",
        _CLASSIC.changed(epochs=1801, batch=64, milestones=(902,), networks=("ConvNetBN",), repeats=10), True,
        "DataDAM's own: 1,801 epochs in batches of 64 with DSA, learning rate tenfold lower after 902, batch norm",
        "released code of arXiv:2310.00093",
    ),
    ProtocolRow(
        "idc", "1.0", _IDC, True,
        "IDC's: 1,000 epochs of SGD in batches of 64, colour and flip always, CutMix for half of the batches",
        "released code of arXiv:2205.14959; 5 students are ours (1 there by default)",
    ),
    ProtocolRow(
        "idc-nomix", "1.0", _IDC.changed(mix="none"), True,
        "idc without CutMix and without cutout: as its authors score mnist with factors above 1",
        "released code of arXiv:2205.14959",
    ),
    ProtocolRow(
        "idc-cutout", "1.0",
        _IDC.changed(mix="none", augment="diffaug:color_crop_cutout_flip_scale_rotate"), True,
        "idc without CutMix, with cutout: as its authors score svhn at ipc 1 with factor 1",
        "released code of arXiv:2205.14959",
    ),
    ProtocolRow(
        "ncfm", "1.0", _NCFM, True,
        "NCFM's: 2,000 epochs of AdamW in batches of 128, augmented as in idc; published numbers are of the best epoch",
        "released code of arXiv:2502.20653",
    ),
    ProtocolRow(
        "ncfm-300", "1.0", _NCFM.changed(epochs=300, milestones=(60, 120, 180, 240), test_every=50), True,
        "ncfm with 300 epochs: as its authors score tiny_imagenet at ipc 10",
        "released code of arXiv:2502.20653",
    ),
    ProtocolRow(
        "ncfm-40", "1.0", _NCFM.changed(epochs=40, milestones=(8, 16, 24, 32), test_every=5), True,
        "ncfm with 40 epochs: as its authors score tiny_imagenet at ipc 50",
        "released code of arXiv:2502.20653",
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
        "native", "1.0", _MTT, False,
        "the set's own program: its step sizes replayed in order by plain gradient descent, or mtt for a learned rate",
        "arXiv:1811.10959, section 3; learned rates: arXiv:2203.11932",
        kind="native",
    ),
)  # fmt: skip

ROWS: dict[str, ProtocolRow] = {row.name: row for row in _ROWS}
"""Every protocol by name."""
