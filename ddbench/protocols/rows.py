"""The named protocols as plain data.  No torch.

In words, with the rules of comparison: leaderboards/PROTOCOLS.md.  A protocol never learns which method it scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import inf
from typing import Any

from ddbench.trainplan import LabelPlan, TrainPlan, ViewPlan

_ANY = (0, inf)
KINDS = ("train", "native", "lrs", "ars", "attack")


@dataclass(frozen=True)
class Case:
    """What the settings of a row may depend on."""

    dataset: str = ""
    """Registered name of the real data; what follows a "?" does not matter."""
    network: str = ""
    """Of the students."""
    ipc: float = 0
    """Stored images a class."""
    classes: int = 0
    side: int = 0
    """Pixels of an image's shorter side."""
    factor: int = 1
    """Of a set of mosaics whose items are the mosaics: tiles a side; else 1."""
    teacher: str = ""
    """The network that labels, where it is one."""


@dataclass(frozen=True)
class Form:
    """How a row's plan differs for some cases; of the forms that fit, all apply, in their order.

    ``networks`` and ``teachers`` are patterns in lower case (``*resnet50*``); ``ipc``, ``classes``, ``side`` and
    ``factor`` are first and last value.  What is empty, or left out, fits every case.
    """

    datasets: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    ipc: tuple[float, float] = _ANY
    classes: tuple[float, float] = _ANY
    side: tuple[float, float] = _ANY
    factor: tuple[float, float] = _ANY
    plan: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the TrainPlan."""
    views: Mapping[str, Any] = field(default_factory=dict)
    """Fields of its ViewPlan; epochs and batch are always those of the TrainPlan."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Fields of its LabelPlan."""

    def fits(self, case: Case) -> bool:
        """Whether this form is for a case."""
        dataset = case.dataset.partition("?")[0]
        named = ((case.network, self.networks), (case.teacher, self.teachers))
        return (
            (not self.datasets or dataset in self.datasets)
            and all(not among or any(fnmatchcase(n.lower(), p) for p in among) for n, among in named)
            and all(
                low <= value <= high
                for value, (low, high) in (
                    (case.ipc, self.ipc),
                    (case.classes, self.classes),
                    (case.side, self.side),
                    (case.factor, self.factor),
                )
            )
        )


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
    """``train``: a TrainPlan; ``native``: the set's own program is replayed; ``lrs``, ``ars`` (robust.py) and ``attack``
    (attacks.py): students of other rows, from which a score is made."""
    data: str = "part"
    """``part``: distilled sets and subsets; ``full``: the whole training split only, under a cap on steps."""
    forms: tuple[Form, ...] = ()
    """How the plan differs by data set, images a class, network, teacher, classes, size and mosaic."""
    bases: Mapping[str, str] = field(default_factory=dict)
    """Of ``lrs``, ``ars`` and ``attack``: the rows by which students are trained, by what they learn from: ``own`` (the set's
    labels), ``taught`` (a labeller), ``full`` (all training data; lrs alone)."""
    rates: tuple[float, ...] = ()
    """Of ``lrs`` and ``ars``: learning rates that are tried."""
    weight: float = 0.5
    """Of ``lrs`` and ``ars``: of the first of the two differences, in [0, 1] (w and gamma there)."""
    attacks: tuple[str, ...] = ()
    """Of ``attack``: names in attacks.py; those of the norm Linf make the headline together."""
    attacked: int | None = None
    """Of ``attack``: test images that are attacked, the same for all sets; None: all."""

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("kind", self.kind, KINDS),
            ("data", self.data, ("part", "full")),
        ):
            if value not in valid:
                raise ValueError(f"ProtocolRow.{name} is {value!r}; expected one of {', '.join(valid)}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"ProtocolRow.weight is {self.weight}; expected 0 to 1")

    def plan_for(self, case: Case) -> TrainPlan:
        """The plan with all forms that fit a case."""
        plan = self.plan
        for form in self.forms:
            if form.fits(case):
                changes = dict(form.plan)
                if form.views and plan.views is not None:
                    changes["views"] = replace(plan.views, **form.views)
                if form.labels and plan.labels is not None:
                    changes["labels"] = replace(plan.labels, **form.labels)
                plan = plan.changed(**changes)
        if plan.views is not None and (plan.labels is not None or plan.hard):
            plan = plan.changed(views=replace(plan.views, epochs=plan.epochs, batch=plan.batch))
        return plan


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
_KD = TrainPlan(
    epochs=300,
    batch=1024,
    optimiser="adamw",
    lr=1e-3,
    weight_decay=0.01,
    decay_on="matrices",
    schedule="cosine",
    views=ViewPlan(300, 1024, crop="resized", flip=0.5, mix="cutmix"),
    labels=LabelPlan(squeeze="quick"),
    loss="kl",
    temperature=20.0,
    networks=("ResNet18BN",),
    repeats=3,
)
"""What the protocols of teacher labels have in common, in the form for ImageNet-1K: no temperature squared, no hard labels."""
_SMALL, _MIDDLE = (0, 32), (33, 64)
_MIXUP = {"crop": "pad", "mix": "mixup", "mix_alpha": 0.8}
_TEACHERS = (
    # the data sets that SRe2L's or RDED's authors squeezed, or whose weights are public; all others by "quick"
    Form(("cifar10", "cifar100", "tiny_imagenet", "imagenet1k"), labels={"squeeze": "sre2l"}),
    Form(("imagenette", "imagewoof"), labels={"squeeze": "rded"}),
)
_POOL = ("ResNet18BN", "ResNet50BN", "ShuffleNetV2", "MobileNetV2", "DenseNet121")
_COMMITTEE = (
    Form(("cifar10", "cifar100", "tiny_imagenet", "imagenette", "imagenet1k"), labels={"squeeze": "cvdd"}),
)
_LARGE = Form(side=(65, inf), plan={"test_resize": True})
"""ImageNet's Resize 256 and CentreCrop 224: of images prepared as central squares of 224, the same field of view."""
_TINY_PAD = Form(side=(0, 16), views={"crop_pad": 1})  # 4 pixels would push half of an 8x8 image out
_SRE2L_SMALL = (
    Form(
        side=_MIDDLE,
        plan=dict(
            epochs=100, batch=256, micro_batches=1, optimiser="sgd", lr=0.2, weight_decay=1e-4, decay_on="all",
            warmup=5, temperature_squared=True, test_every=0,
        ),
        views={"mix": "none"},
        labels={"store": False},
    ),
    Form(
        side=_SMALL,
        plan=dict(epochs=400, batch=128, micro_batches=1, decay_on="all", temperature=30.0, test_every=0),
        views=_MIXUP,
        labels={"store": False, "batch_norm": "train"},
    ),
    _LARGE,
    _TINY_PAD,
    *_TEACHERS,
)  # fmt: skip
_RDED = (
    Form(factor=(2, 2), views={"crop_scale": (1 / 2, 1.0)}),
    Form(factor=(3, 3), views={"crop_scale": (1 / 3, 1.0)}),
    Form(factor=(4, inf), views={"crop_scale": (1 / 4, 1.0)}),
    Form(ipc=(10, 49), plan={"batch": 50}),
    Form(ipc=(50, inf), plan={"batch": 100}),
    Form(classes=(100, inf), plan={"batch": 20}),
    Form(classes=(100, inf), ipc=(10, 49), plan={"batch": 100}),
    Form(classes=(100, inf), ipc=(50, inf), plan={"batch": 200}),
    Form(("tiny_imagenet",), plan={"batch": 100}),
    Form(networks=("*efficientnet*b0*",), plan={"lr": 2e-3}),
    Form(networks=("*mobilenet*v2*",), plan={"lr": 2.5e-3}),
    Form(networks=("*vgg*11*",), plan={"lr": 5e-4}),
    Form(networks=("*alexnet*", "*vit_b*16*", "*vit_base*16*", "*swin*"), plan={"lr": 1e-4}),
    Form(("cifar100",), ("convnetbn",), ("convnetbn",), plan={"lr": 2e-3, "batch": 25}),
    *_TEACHERS,
    Form(("cifar10", "cifar100", "tiny_imagenet", "imagenet1k"), labels={"squeeze": "rded"}),
)
_R50, _R101 = ("*resnet50*",), ("*resnet101*",)
_HALF = {"lr": 5e-4}
_CVDD = (
    Form(("cifar10",), ipc=(1, 1), plan={"batch": 10}),
    Form(("cifar10",), _R101, plan=_HALF),
    Form(("cifar100",), ipc=(10, 10), plan={"eta": 2.0}),
    Form(("cifar100",), _R101, plan=_HALF | {"eta": 1.0}),
    Form(("tiny_imagenet",), plan={"eta": 2.0}),
    Form(("tiny_imagenet",), ipc=(10, 10), plan={"eta": 1.0}),
    Form(("tiny_imagenet",), _R50, plan={"eta": 1.0}),
    Form(("tiny_imagenet",), _R101, plan=_HALF | {"eta": 2.0}),
    Form(("imagenette",), plan=_HALF | {"eta": 2.0, "batch": 10}),
    Form(("imagenette",), ipc=(10, 10), plan={"eta": 1.0}),
    Form(("imagenette",), _R50, plan={"eta": 1.0}),
    Form(("imagenette",), _R50, ipc=(1, 1), plan={"eta": 2.0}),
    Form(("imagenette",), _R50, ipc=(10, 10), plan={"lr": 1e-3}),
    Form(("imagenette",), _R101, plan={"eta": 2.0}),
    Form(("imagenette",), _R101, ipc=(50, 50), plan={"lr": 1e-3}),
    Form(("imagenet1k",), plan={"eta": 2.0}),
    Form(("imagenet1k",), ipc=(50, 50), plan={"eta": 1.0}),
    Form(("imagenet1k",), _R101, plan={"eta": 2.0}),
    Form(("imagenet1k",), _R101, ipc=(50, 50), plan=_HALF),
    _LARGE,
    *_COMMITTEE,
)
_INFER = (
    Form(
        side=(65, inf),
        plan=dict(batch=128, temperature=20.0),
        views={"crop": "resized", "mix": "cutmix", "mix_alpha": 1.0},
    ),
    _LARGE,
    _TINY_PAD,
    Form(side=(65, inf), labels={"networks": ("ResNet18BN", "MobileNetV2", "EfficientNetB0")}),
    Form(("cifar10", "cifar100", "imagenet1k"), labels={"squeeze": "infer"}),
)
_FOUR = ("ResNet18BN", "MobileNetV2", "EfficientNetB0", "ShuffleNetG2")
_G_VBSM = (
    Form(
        side=_SMALL,
        plan=dict(
            epochs=1000, batch=100, micro_batches=1, weight_decay=0.0, hard_weight=0.15, test_every=100
        ),
        labels={"combine": "mean"},
    ),
    Form(
        ("cifar100",), plan=dict(batch=64, optimiser="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4)
    ),
    Form(
        side=_MIDDLE,
        plan=dict(epochs=100, batch=100, micro_batches=1, optimiser="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4),
        labels={"combine": "mean"},
    ),
    _LARGE,
    *_COMMITTEE,
)  # fmt: skip
_RETHINK = _KD.changed(batch=128, test_every=50, test_first=1)
_RETHINK_SMALL = Form(side=(0, 64), views={"crop_scale": (0.25, 1.0)})
_QUICK_KD = _KD.changed(
    epochs=100,
    batch=64,
    lr=0.01,
    views=ViewPlan(100, 64, crop="resized", crop_scale=(0.7, 1.0), flip=0.5, mix="cutmix"),
    labels=LabelPlan(store=True, networks=("ConvNetD2W32BN",), squeeze="quick"),
    temperature=4.0,
    networks=("ConvNetD2W32BN",),
)
_DDR = _CLASSIC.changed(
    epochs=1000, milestones=(500,), reset_optimiser=False, learned_rate=True, test_every=10
)
_DDR_KD = _KD.changed(decay_on="all", eta=2.0, repeats=5, test_every=10)
"""For ImageNet-1K; its cosine ends at half of the rate."""
_DDR_FORMS = (
    Form(side=_MIDDLE, plan={"epochs": 400}, views={"flip": 0.0}),
    Form(side=_SMALL, plan={"epochs": 400, "batch": 256, "temperature": 30.0}, views=_MIXUP),
    _LARGE,
    _TINY_PAD,
    *_TEACHERS,
)
_RATES = (0.001, 0.005, 0.01, 0.05, 0.1)
_RANKED = {"own": "ddranking", "taught": "ddranking-kd", "full": "ddranking-full"}
_QUICKLY = {"own": "quick", "taught": "quick-kd"}
_QUICKLY_RANKED = {**_QUICKLY, "full": "quick-full"}
_QUICK_SCORE = TrainPlan(epochs=100, networks=("ConvNetD2W32",), repeats=3)
_SCORE = TrainPlan(epochs=1000, repeats=5)
"""Of rows that train by other rows: networks and repeats alone count."""
_ATTACKED = {"own": "mtt", "taught": "sre2l-kd"}
_BEARD = "arXiv:2411.09265 (BEARD)"
_DDRANKING = "arXiv:2505.13300 (DD-Ranking) and its released code"
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
        "sre2l-kd", "1.0", _KD.changed(micro_batches=2, labels=LabelPlan(store=True, squeeze="quick"), test_every=10),
        True,
        "SRe2L's: KL to a teacher at T 20; 300 epochs of AdamW, stored views, CutMix (forms for 64 and 32 pixels: online)",
        "released code of arXiv:2306.13092; 3 students are ours",
        forms=_SRE2L_SMALL,
    ),
    ProtocolRow(
        "cda-kd", "1.0", _KD.changed(batch=128, labels=LabelPlan(store=True, squeeze="quick"), test_every=10), True,
        "CDA's: as sre2l-kd in batches of 128 (at 64 and 32 pixels sre2l-kd's forms; cifar100: 800 epochs)",
        "released code of arXiv:2311.18838 and its authors' answer on the batch; 3 students are ours",
        forms=(*_SRE2L_SMALL, Form(("cifar100",), plan={"epochs": 800})),
    ),
    ProtocolRow(
        "rded", "1.0",
        _KD.changed(
            batch=10, eta=2.0, test_every=10, test_first=250, test_resize=True,
            views=ViewPlan(300, 10, crop="resized", crop_scale=(1.0, 1.0), flip=0.5, mix="cutmix"),
        ),
        True,
        "RDED's: KL at T 20 to the observer online, half a cosine over 600 epochs, CutMix (batch by ipc, rate by network)",
        "released code of arXiv:2312.03526; published numbers are of the best epoch; 3 students are ours",
        forms=_RDED,
    ),
    ProtocolRow(
        "cvdd-bssl", "1.0",
        _KD.changed(
            batch=16, micro_batches=2, test_every=10,
            labels=LabelPlan(store=True, batch_norm="train-halves", networks=_POOL, squeeze="quick"),
        ),
        True,
        "CV-DD's: stored labels of a committee in train-mode batch norm over halves of 16 (rate and eta by data set and ipc)",
        "released code of arXiv:2501.07575; 3 students are ours",
        forms=_CVDD,
    ),
    ProtocolRow(
        "infer-static", "1.0",
        _KD.changed(
            epochs=400, batch=64, decay_on="all", temperature=30.0, test_every=10,
            views=ViewPlan(400, 64, crop="pad", flip=0.5, mix="mixup", mix_alpha=0.8),
            labels=LabelPlan(store=True, sees="clean", networks=_FOUR, squeeze="quick"),
        ),
        True,
        "INFER's with one label an image: KL at T 30, Mixup of images and logits, 400 epochs (forms above 64 pixels)",
        "released code of arXiv:2408.06927; 3 students are ours",
        forms=(Form(side=(65, inf), plan={"epochs": 300}), *_INFER),
    ),
    ProtocolRow(
        "infer-dyn", "1.0",
        _KD.changed(
            epochs=80, batch=64, decay_on="all", temperature=30.0, test_every=10,
            views=ViewPlan(80, 64, crop="pad", flip=0.5, mix="mixup", mix_alpha=0.8),
            labels=LabelPlan(networks=_FOUR, squeeze="quick"),
        ),
        True,
        "INFER's with teachers online: as infer-static for 80 epochs, every mixed batch labelled (forms above 64 pixels)",
        "released code of arXiv:2408.06927; 3 students are ours",
        forms=(Form(side=(65, inf), plan={"epochs": 75}), *_INFER),
    ),
    ProtocolRow(
        "g-vbsm", "1.0",
        _KD.changed(
            loss="mse-gt", hard_weight=0.1, micro_batches=1, test_every=10,
            labels=LabelPlan(store=True, combine="norm-mean", networks=_POOL, squeeze="quick"),
        ),
        True,
        "G-VBSM's: squared distance to several teachers' logits and a little cross-entropy (forms by data set and size)",
        "released code of arXiv:2311.17950; 3 students are ours",
        forms=_G_VBSM,
    ),
    ProtocolRow(
        "rethink-hard", "1.0",
        _RETHINK.changed(
            hard=True, loss="ce", labels=None, views=ViewPlan(300, 128, crop="resized", flip=0.5)
        ),
        True,
        "every set by its images alone: label ids, 300 epochs of AdamW, resized crops (of at least 0.25 up to 64 pixels)",
        "released code of arXiv:2502.06434; 3 students are ours",
        forms=(_RETHINK_SMALL, _LARGE),
    ),
    ProtocolRow(
        "rethink-soft", "1.0",
        _RETHINK.changed(
            views=ViewPlan(300, 128, crop="resized", flip=0.5, mix="cutmix"),
            labels=LabelPlan(always=True, squeeze="quick"),
        ),
        True,
        "every set under one teacher: KL at T 20 online, CutMix, 300 epochs of AdamW (crops of at least 0.25 up to 64 pixels)",
        "released code of arXiv:2502.06434; 3 students are ours",
        forms=(_RETHINK_SMALL, _LARGE, *_TEACHERS),
    ),
    ProtocolRow(
        "quick-kd", "1.0", _QUICK_KD, False,
        "ddbench's short form of teacher labels for the embedded suite: 100 epochs of AdamW, stored labels, T 4",
        "ours",
    ),
    ProtocolRow(
        "ddranking", "1.0", _DDR, False,
        "DD-Ranking's training: 1,000 epochs with DSA, learning rate 0.01 or the set's own, tenfold lower after 500",
        f"{_DDRANKING}; its accuracies, of the best epoch, are published as a figure only",
    ),
    ProtocolRow(
        "ddranking-kd", "1.0", _DDR_KD, False,
        "DD-Ranking's training by a labeller: KL at T 20 or 30 online, 300 to 400 epochs of AdamW, half a cosine",
        f"{_DDRANKING}; its accuracies, of the best epoch, are published as a figure only",
        forms=_DDR_FORMS,
    ),
    ProtocolRow(
        "ddranking-full", "1.0", _DDR.changed(max_steps=20_000), False,
        "ddranking on all training data, stopped after 20,000 steps of 256 images, the schedule compressed into them",
        "ours: 1,000 epochs of all data would take days",
        data="full",
    ),
    ProtocolRow(
        "lrs", "1.0", _SCORE, False,
        "label-robust score in [0, 1]: students of the set, of random and of all real images, by hard and the set's own labels",
        f"{_DDRANKING}; learning rates chosen on held-out training images, last epoch: ours",
        kind="lrs", bases=_RANKED, rates=_RATES,
    ),
    ProtocolRow(
        "ars", "1.0", _SCORE, False,
        "augmentation-robust score in [0, 1]: students of the set and of random real images, with and without augmentation",
        f"{_DDRANKING}; learning rates chosen on held-out training images, last epoch: ours",
        kind="ars", bases=_RANKED, rates=_RATES,
    ),
    ProtocolRow(
        "quick-lrs", "1.0", _QUICK_SCORE, False,
        "lrs by the short forms of the embedded suite (quick, quick-kd, quick-full); 3 repetitions",
        "ours",
        kind="lrs", bases=_QUICKLY_RANKED, rates=_RATES,
    ),
    ProtocolRow(
        "quick-ars", "1.0", _QUICK_SCORE, False,
        "ars by the short forms of the embedded suite (quick, quick-kd); 3 repetitions",
        "ours",
        kind="ars", bases=_QUICKLY_RANKED, rates=_RATES,
    ),
    ProtocolRow(
        "pgd", "1.0", _SCORE, False,
        "share of test images still right under FGSM and PGD of 8/255 in pixels; students of mtt (or sre2l-kd)",
        f"{_BEARD}; in pixel space, 5 students: ours",
        kind="attack", bases=_ATTACKED, attacks=("fgsm", "pgd", "pgd-targeted", "pgd-l2"),
    ),
    ProtocolRow(
        "autoattack", "1.0", _SCORE, False,
        "share of 1,000 test images still right under PGD, APGD-CE, APGD-DLR, targeted APGD and Square of 8/255 in pixels",
        f"{_BEARD} and arXiv:2003.01690; without FAB: ours",
        kind="attack", bases=_ATTACKED, attacks=("pgd", "apgd-ce", "apgd-dlr", "apgd-targeted", "square", "cw"),
        attacked=1000,
    ),
    ProtocolRow(
        "quick-pgd", "1.0", _QUICK_SCORE, False,
        "pgd by the short forms of the embedded suite (quick, quick-kd); 3 students",
        "ours",
        kind="attack", bases=_QUICKLY, attacks=("fgsm", "pgd", "pgd-targeted", "pgd-l2"),
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
