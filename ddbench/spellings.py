"""How published numbers spell methods, data sets, networks and protocols, and what a spelling implies.  No torch.

The tables behind :func:`ddbench.claims.normalise`: free spelling -> the registry's spelling, with what it implies; and what is
known of single rows beyond their words.  The facts are those of the papers' code; where they are not known, a note says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

METHODS: dict[str, str] = {
    "k-center": "k_center",
    "kcenter": "k_center",
    "full-data": "full",
    "whole": "full",
    "gvbsm": "g-vbsm",
    "infer-dyn": "infer",
    "herding-fixed": "herding",
    # random images under labels of a teacher: the labels are the protocol's
    "random+sl": "random",
    "random+kd": "random",
}
"""Spellings of methods (lower case) that are not the registry's."""

RECIPES: dict[str, tuple[str, str]] = {
    "idc-i": ("idc", "idc-i"),
    "ncfm-no-psi": ("ncfm", "no-psi"),
    "ncfm-wo-psi": ("ncfm", "no-psi"),
    "sre2l++": ("cvdd", "sre2l++"),
}
"""Published methods (lower case) that are a recipe of one of ours: its method and recipe."""

EXTERNAL_METHODS = (
    *(
        "cafe",
        "ccs",
        "cim",
        "dd",
        "dq",
        "el2n",
        "el2n-easy",
        "entropy",
        "forgetting",
        "frepo",
        "g-vbsm",
        "hello",
    ),
    *("hello-ablation:+lora", "hello-ablation:+multi-weak-teacher", "hello-ablation:+text-init"),
    *("hello-ablation:linear-probe", "kip", "mirage", "moderate", "none", "nrr_dd"),
    *("nrr_dd-dbr", "nrr_dd-onehot", "pca", "rs2"),
)
"""Methods that are published and not in ddbench; ``none``: no training at all."""

DATASETS: dict[str, str] = {
    "cifar-10": "cifar10",
    "cifar-100": "cifar100",
    "fashionmnist": "fashion_mnist",
    "fashion-mnist": "fashion_mnist",
    "tinyimagenet": "tiny_imagenet",
    "tiny-imagenet": "tiny_imagenet",
    "imagenet-1k": "imagenet1k",
    "imagenet-10": "imagenet10",
    "imagenet-100": "imagenet100",
    "imagenet-21k": "imagenet21k",
}
"""Spellings of data sets (lower case) that are not the registry's."""

EXTERNAL_DATASETS = ("imagenet10", "imagenet100", "imagenet21k", "ogbg-molbace", "ogbg-molhiv")

NETWORKS: dict[str, str] = {
    "": "unstated",
    "unspecified": "unstated",
    "Conv3": "ConvNetBN",  # RDED's ConvNets have batch norm
    "Conv4": "ConvNetD4BN",
    "Conv5": "ConvNetD5BN",
    "Conv6": "ConvNetD6BN",
    "ConvNet128": "ConvNetBN",  # INFER's
    "ResNet-18-BN": "ResNet18BN",
    "EfficientNet-B0": "EfficientNetB0",
    "MobileNet-V2": "MobileNetV2",
    "ShuffleNet-V2": "ShuffleNetV2",
    "ResNet34": "torchvision:resnet34",
    "VGG-11": "torchvision:vgg11",
    "Swin-V2-Tiny": "torchvision:swin_v2_t",
}
"""Spellings of networks; what is left follows the grammar of ddbench/nets/names.py."""

BATCH_NORM = {"ResNet18": "ResNet18BN", "ResNet50": "ResNet50BN", "ResNet101": "ResNet101BN"}
"""Where papers of teacher labels and of pruning name a ResNet, it has batch norm; in DC's line it has instance norm."""

EXTERNAL_NETWORKS = (
    *("720-ConvNet-space", "AlexCifarNet", "GAT", "GCN", "GIN", "mean-of-transfer-networks", "unstated"),
)


@dataclass(frozen=True)
class Tag:
    """What the tag of a protocol in a source means."""

    protocol: str = ""
    """Ours, or an external name; "": the tag itself."""
    bn: bool = False
    """Whether a ResNet without further words has batch norm."""
    then: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the claim that it implies."""
    note: str = ""


_AUGMENTED = "its source does not state how students of this baseline were trained and augmented, which is worth points"
_UNRELEASED = "FYI's code for this base is not released"


def _tags() -> dict[str, Tag]:
    last: dict[str, Any] = {"chosen": "last", "zca": False}
    snapshot: dict[str, Any] = {"chosen": "best-snapshot"}
    epoch: dict[str, Any] = {"chosen": "best-epoch", "zca": False}
    plain: dict[str, Any] = {"zca": False}
    warm = "FTD's code scores averaged images with networks that were already trained on the raw ones, about twice the "
    warm += "training of this protocol; whether the number is of these or of the raw images is not stated"
    ours = {
        "dc": Tag("dc-none", then=last),  # mnist: see RULES
        "dc-none": Tag(then=last),
        "dc-dsa": Tag(then=last),
        "dc-dsa-flip": Tag(then=last),
        "datadam": Tag(note="whether of the last set or of the best of several is not stated"),
        "datm": Tag(then=snapshot),
        "datm-zca-soft": Tag("datm", then={**snapshot, "zca": True}),
        "mtt": Tag(then=snapshot),
        "mtt-zca": Tag("mtt", then={**snapshot, "zca": True}),
        "mtt-zca-alt": Tag(
            "mtt", then={**snapshot, "zca": True}, note="the other of two versions of MTT's table"
        ),
        "mtt-nozca": Tag("mtt", then={**snapshot, "zca": False}),
        "mtt-nozca-alt": Tag(
            "mtt", then={**snapshot, "zca": False}, note="the other of two versions of MTT's table"
        ),
        "mtt-flip": Tag(then=snapshot),
        "mtt-zca-flip": Tag("mtt-flip", then={**snapshot, "zca": True}),
        "mtt-tesla": Tag("mtt", then={**snapshot, "n": 3}),
        "mtt-ftd": Tag("mtt", then={**snapshot, "n": 5, "caveat": warm}),
        "ftd": Tag("mtt", then={**snapshot, "n": 5, "caveat": warm}),
        "ftd-flip": Tag("mtt-flip", then={**snapshot, "caveat": _UNRELEASED}),
        "idc": Tag(then=plain, note="whether of the last or of the best of four tests is not stated"),
        "idc-nomix": Tag(then=plain),
        "idc-cutout": Tag(then=plain),
        "ncfm": Tag(then={**epoch, "n": 10}),
        "ncfm-300": Tag(then={**epoch, "n": 10}),
        "ncfm-40": Tag(then={**epoch, "n": 10}),
        "sre2l-kd": Tag(bn=True, then=last),
        "cda-kd": Tag(bn=True, then=last),
        "rded": Tag(bn=True, then=epoch),
        "cvdd-bssl": Tag(bn=True, then=plain),
        "infer-static": Tag(bn=True, then=epoch),
        "infer-dyn": Tag(bn=True, then=epoch),
        "g-vbsm": Tag(bn=True, then=plain),
        "rethink-hard": Tag(bn=True, then=plain),
        "rethink-soft": Tag(bn=True, then=plain),
    }
    theirs = {
        "dc-dsa-cross": Tag(
            note="dc-dsa on several networks; at ipc 50 probably with batch norm, as in DM's table; not stated"
        ),
        "dc-dsa-bn-cross": Tag(note="dc-dsa on networks with batch norm, distilled with one too, unlike DM's main table"),
        "ftd-cross-arch": Tag(note="ConvNet-3 distils; batch norm is not mentioned"),
        "dcbench-best": Tag(note="DC-BENCH's best of several augmentations"),
        "dc-bench-best": Tag("dcbench-best", note="DC-BENCH's best of several augmentations"),
        "dcbench-best-aug": Tag("dcbench-best", note="DC-BENCH's best of several augmentations"),
        "dcbench-avg": Tag(note="DC-BENCH's mean over several augmentations"),
        "dcbench-avg-aug": Tag("dcbench-avg", note="DC-BENCH's mean over several augmentations"),
        "dcbench-transfer-avg": Tag(then={"task": "cross-arch"}, note="DC-BENCH's mean over other networks"),
        "reported-by-authors": Tag(then={"quoted": True}),
        "reported-by-authors (tagged IDC on the page)": Tag(
            "reported-by-authors", then={"quoted": True}, note="tagged IDC on the page"
        ),
        "datm-random": Tag(then={"caveat": _AUGMENTED}),
        "mtt-as-reported-by-datm": Tag(then={"quoted": True}),
        "tesla-as-reported-by-datm": Tag(then={"quoted": True}),
        "ftd-as-reported-by-datm": Tag(then={"quoted": True}, note="marked by a footnote there; probably without averaging"),
        "ftd-as-reported-by-pad": Tag(then={"quoted": True}),
        "tesla-sla-64px": Tag(then={**snapshot, "zca": False, "n": 3}),
        "idc-imagenet": Tag(then=plain, note="IDC's own for ImageNet: resized crops, colour jitter, CutMix always"),
        "ncfm-curated": Tag(
            then=epoch, note='"additional curation" (soft labels, fine-tuning) of a kind that is not specified'
        ),
        "full-data": Tag(bn=True),
        "full-data-rounded": Tag(note="read from a figure's caption, rounded"),
        "quoted-unknown": Tag(then={"quoted": True}),
        "unspecified": Tag(bn=True, note="how the baseline was trained is not stated"),
        "kd-as-quoted": Tag(bn=True, then={"quoted": True}),
        "kd (as quoted by CIM)": Tag("kd-as-quoted", bn=True, then={"quoted": True}, note="as quoted by CIM"),
        "nrr-kd": Tag(bn=True),
        "nrr-kd (as quoted by CIM)": Tag("nrr-kd", bn=True, then={"quoted": True}, note="as quoted by CIM"),
        "nrr-dbr (one-hot + 2 distances per image)": Tag(
            "nrr-dbr", bn=True, note="one-hot labels and two distances an image"
        ),
        "nrr-hard": Tag(bn=True),
        "cim-kd": Tag(bn=True),
        "dwa-kd": Tag(bn=True),
        "hello-online": Tag(bn=True),
        "sl-baseline": Tag(bn=True, note="random images, one static label each from an early-stopped expert"),
        "sl-paper-hard": Tag(bn=True),
        "cutmix-sl": Tag(bn=True, note="labels of the teacher on CutMix views"),
        "ddranking real-hard reference (cached constant)": Tag(
            "ddranking-real-hard", bn=True, note="a constant in the code of DD-Ranking"
        ),
        "deepcore-r18-unbalanced": Tag(bn=True),
        "ccs-r18-40k": Tag(bn=True, then={"chosen": "best-epoch"}),
        "ccs-r34-300k": Tag(bn=True, then={"chosen": "best-epoch"}),
        "dq-r18-200ep": Tag(bn=True, then={"chosen": "best-epoch", "n": 1}),
        "dq-timm": Tag(bn=True),
        "rs2-r18-200ep": Tag(bn=True, then={"n": 3}),
        "dd-fixed-init": Tag(then={"chosen": "last", "n": 1}, note="one fixed network, whose weights belong to the set"),
        "dd-random-init": Tag(then={"chosen": "last", "n": 200}),
        "dd-adapt-usps-to-mnist-random-pretrained": Tag(then={"task": "adaptation from usps"}),
        "dd-adapt-usps-to-mnist-before": Tag(then={"task": "adaptation from usps"}),
        "nas-720-200ep": Tag(),
        "mirage-top5of10-rocauc(ipc=total itemsets)": Tag(
            "mirage-top5", then={"metric": "roc-auc", "n": 5}, note="mean over the 5 of 10 runs that validate best"
        ),
    }  # fmt: skip
    return {**ours, **theirs}


TAGS: dict[str, Tag] = _tags()
"""Every tag of a protocol that a source may have; those that are not among ddbench's protocols are external."""


@dataclass(frozen=True)
class Rule:
    """What is known of single rows beyond their words.  ``where``: values of the row as normalised, of its raw ``tag``, its
    ``paper``, or a part of its ``source``; all must hold."""

    where: Mapping[str, tuple[Any, ...]]
    then: Mapping[str, Any] = field(default_factory=dict)
    external: tuple[str, ...] = ()
    note: str = ""

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether it is for a row."""
        return all(
            any(part in row[key] for part in values) if key == "source" else row[key] in values
            for key, values in self.where.items()
        )


_SUBSETS = ("imagenette", "imagewoof", "imagefruit", "imagemeow", "imagesquawk", "imageyellow")
_MTT_TAGS = ("mtt", "mtt-zca", "mtt-zca-alt", "mtt-nozca", "mtt-nozca-alt", "mtt-flip", "mtt-zca-flip")
_OWN = ("README", "KIP infinite-width", "FYI results table", "(repository PDF) Table 1")
"""Sources of numbers that are the authors' own, printed by themselves or quoted."""
_BASELINES = ("random", "herding", "k_center", "full")
_SRE2L_OWN = "equal to SRe2L's own number, so taken to be of its protocol; the source is tagged rded"

RULES: tuple[Rule, ...] = (
    # how a protocol splits by data set and images a class
    Rule({"tag": ("dc",), "dataset": ("mnist",)}, {"protocol": "dc"}),
    Rule({"tag": ("ncfm",), "dataset": ("tiny_imagenet",), "ipc": (10,)}, {"protocol": "ncfm-300"}),
    Rule({"tag": ("ncfm",), "dataset": ("tiny_imagenet",), "ipc": (50,)}, {"protocol": "ncfm-40"}),
    Rule({"tag": ("ncfm",), "dataset": _SUBSETS}, {"n": 3}),
    Rule({"tag": ("idc",), "method": ("idc",), "recipe": ("",), "dataset": ("mnist",)}, {"protocol": "idc-nomix"}),
    Rule({"tag": ("idc",), "recipe": ("idc-i",), "dataset": ("svhn",), "ipc": (1,)}, {"protocol": "idc-cutout"}),
    # runs behind a number
    Rule({"tag": ("dc", "dc-dsa", "dc-dsa-flip"), "method": ("dc", "dsa", "fyi+dc", "fyi+dsa"), "source": _OWN}, {"n": 100}),
    Rule({"tag": ("dc-dsa", "dc-dsa-flip"), "method": ("dm", "fyi+dm"), "source": _OWN}, {"n": 25}),
    Rule({"tag": (*_MTT_TAGS, "ftd-flip"), "method": ("mtt", "fyi+mtt", "fyi+ftd")}, {"n": 5}),
    # what a baseline cannot have
    Rule({"protocol": ("mtt",), "method": _BASELINES}, {"chosen": "unstated", "zca": None}),
    # images that were prepared in another way
    *(
        Rule(
            {"dataset": (name,), "protocol": ("mtt",)},
            {"dataset": f"{name}?resize=squash"},
            note="MTT squashes the images to a square"
            + ("; its list of classes differs from NCFM's in one" if name in ("imagefruit", "imageyellow") else ""),
        )
        for name in _SUBSETS
    ),
    # protocols that are ours in name only
    Rule(
        {"tag": ("infer-static", "infer-dyn"), "dataset": ("tiny_imagenet", "imagenet1k")},
        external=("protocol",),
        note="how students were trained on this data set is not released",
    ),
    Rule(
        {"tag": ("sre2l-kd",), "dataset": ("cifar10",)},
        external=("protocol",),
        note="SRe2L's authors have no CIFAR-10; how it was scored here is not stated",
    ),
    Rule({"tag": ("cda-kd",), "dataset": ("tiny_imagenet",)}, note="this form of the protocol is not confirmed by the authors"),
    Rule(
        {"source": ("VILA-Lab/SRe2L issue #10",)},
        {"protocol": "cda-kd"},
        note="of the updated settings, students of 800 epochs: cda-kd; the source is tagged sre2l-kd",
    ),
    *(
        Rule(
            {"tag": ("rded",), "method": ("sre2l",), "dataset": (name,), "ipc": ipc, "source": ("quoting the SRe2L columns",)},
            {"protocol": "sre2l-kd", "chosen": "last"},
            note=_SRE2L_OWN,
        )
        for name, ipc in (("imagenet1k", (10, 50)), ("tiny_imagenet", (50,)))
    ),
    Rule(
        {"protocol": ("rded",), "method": ("sre2l",)},
        {
            "chosen": "unstated",
            "caveat": "its source does not state how SRe2L's sets were made, labelled and scored",
        },
    ),
    # methods that are a recipe of one of ours
    Rule({"recipe": ("sre2l++",)}, note="published as SRe2L++"),
    Rule({"recipe": ("idc-i",)}, note="published as IDC-I"),
    Rule({"recipe": ("no-psi",)}, note="without the sampling network"),
    Rule({"method": ("rded",), "distill_network": ("ConvNetBN", "ConvNetD4BN"), "tag": ("rded",)}, note="a ConvNet observes"),
    Rule(
        {
            **{"method": ("rded",), "distill_network": ("ConvNetBN", "ConvNetD4BN"), "tag": ("rded",)},
            "dataset": ("cifar10", "cifar100", "tiny_imagenet"),
        },
        {"recipe": "convnet"},
    ),
    Rule(
        {"paper": ("fyi",), "method": ("fyi+dc", "fyi+dsa"), "dataset": ("cifar100",), "ipc": (50,)},
        {"recipe": "fyi"},
        note="fewer loops than DC and DSA themselves, as in FYI's code",
    ),
    Rule(
        {"paper": ("fyi",), "method": ("fyi+mtt",), "dataset": ("cifar10",), "ipc": (1,)},
        {"recipe": "fyi"},
        note="TESLA's gradient and twice the iterations, as in FYI's script",
    ),
    # rows of another paper whose sources do not use the word
    Rule(
        {"paper": ("cvdd",), "method": ("rded",)}, {"quoted": True}, note="CV-DD's column of RDED quotes, as its reviewers say"
    ),
    Rule({"source": ("(CDA column)",)}, {"quoted": True}),
    Rule({"paper": ("cda",), "method": ("sre2l",), "tag": ("sre2l-kd",)}, {"quoted": True}, note="of SRe2L's table"),
    Rule(
        {"paper": ("infer",), "method": ("sre2l",), "tag": ("sre2l-kd",), "dataset": ("tiny_imagenet", "imagenet1k")},
        {"quoted": True},
        note="equal to SRe2L's own number",
    ),
    Rule(
        {"tag": ("cutmix-sl",), "method": ("sre2l",), "ipc": (10, 50, 100, 200)},
        {"quoted": True},
        note="equal to SRe2L's own number",
    ),
    Rule(
        {"paper": ("mtt", "ftd", "datm"), "method": ("full",)},
        {"quoted": True},
        note="inherited from the line of DC; its recipe is in no repository",
    ),
    Rule({"paper": ("mtt", "selection"), "source": ("DC-BENCH leaderboard",)}, {"quoted": True}),
    Rule({"paper": ("pruning_kd", "selection"), "tag": ("rethink-hard", "rethink-soft")}, {"quoted": True}, note="also in pca"),
    # odd cells
    Rule(
        {"paper": ("fyi",), "tag": ("mtt-zca", "mtt-zca-flip"), "dataset": ("cifar10",), "ipc": (50,)},
        {"zca": None},
        note="tagged as whitened; MTT's own setting of this cell is not",
    ),
    Rule(
        {"paper": ("fyi",), "tag": ("mtt-zca", "mtt-zca-flip"), "dataset": ("cifar100",), "ipc": (10,)},
        {"zca": None},
        note="tagged as whitened; MTT's own setting of this cell is not",
    ),
    Rule(
        {"paper": ("fyi",), "method": ("ftd",), "dataset": ("tiny_imagenet",), "ipc": (10,)},
        note="FTD's own table has 24.5 ± 0.2",
    ),
    Rule({"paper": ("fyi",), "method": ("fyi+dc",)}, note="DC is scored without augmentation, so without FYI's flip"),
    Rule({"method": ("fyi+idc",)}, {"caveat": _UNRELEASED}),
    Rule(
        {"method": ("mtt", "tesla"), "dataset": ("cifar100",), "ipc": (100,), "source": ("arXiv:2310.05773",)},
        note="DATM prints 49.2 ± 0.4 for MTT and for TESLA",
    ),
    Rule(
        {"method": ("tesla",), "dataset": ("cifar100",), "ipc": (1,)},
        note="two sources print two deviations, 0.4 and 0.5",
    ),
    Rule(
        {"paper": ("mtt",), "dataset": ("imagenette?resize=squash", "imagewoof?resize=squash")},
        note="listed under a heading of 224 pixels, which is wrong",
    ),
    Rule({"paper": ("dm",), "ipc": (500, 1000), "method": ("dm",)}, note="two results circulate: the repository's and PAD's"),
    Rule(
        {"method": ("random",), "tag": ("dc-dsa", "mtt"), "source": ("PAD paper", "arXiv:2502.20653")},
        {"caveat": _AUGMENTED},
    ),
    Rule({"method": ("random",), "tag": ("dc-dsa",), "source": ("PAD paper",)}, note="the values of DATM's table"),
    Rule(
        {"method": ("random",), "dataset": ("cifar10",), "ipc": (1, 10, 50), "source": ("PAD paper", "arXiv:2310.05773")},
        note="the digits of DC-BENCH's best of several augmentations",
    ),
    Rule(
        {"method": ("random",), "tag": ("dc-dsa",), "dataset": ("cifar10",), "source": ("arXiv:2502.20653",)},
        note="the values of DC's table, from before DSA; other tables have more",
    ),
    Rule(
        {"tag": ("dc-dsa-cross",), "network": ("AlexNet", "ResNet18"), "ipc": (10,)},
        note="AlexNet and ResNet18 have the same 35.9 ± 1.3 in the source",
    ),
    Rule(
        {"method": ("kip",), "dataset": ("cifar100",), "ipc": (10,), "tag": ("dcbench-avg", "dcbench-transfer-avg")},
        note="the page has 24.89 for the mean over augmentations and for that over networks",
    ),
    Rule(
        {"paper": ("cda",), "method": ("sre2l",), "ipc": (50,), "network": ("torchvision:resnet101",)},
        note="SRe2L's own table has 60.8",
    ),
    Rule({"source": ("issue #27",)}, note="a user's measurement of the released images; the table has 63.3"),
    Rule({"tag": ("ncfm",), "method": ("ncfm",), "recipe": ("",)}, note='without "additional curation"'),
    Rule(
        {"paper": ("ncfm",), "tag": ("ncfm-curated",), "dataset": ("cifar10",), "ipc": (1,)},
        note="users got about 36 with the released code",
    ),
    Rule(
        {"method": ("rded",), "dataset": ("tiny_imagenet",), "ipc": (50,), "tag": ("rded",), "network": ("ResNet18BN",)},
        note="users come out about 5 points below",
    ),
    Rule(
        {"method": ("rded",), "dataset": ("cifar100",), "ipc": (50,), "tag": ("rded",), "network": ("ResNet18BN",)},
        note="users got about 54 where class folders did not match the observers'",
    ),
    Rule(
        {"paper": ("rded", "cvdd"), "method": ("rded",), "dataset": ("imagenette", "imagewoof"), "tag": ("rded",)},
        {"caveat": "tested on 50 images a class, the first in a folder's order, not on the whole test set"},
    ),
    Rule({"method": ("dq",), "dataset": ("cifar10",)}, note="the released evaluation reads indices in another order"),
    Rule({"paper": ("dq",), "dataset": ("imagenet1k",)}, note="the network is not named in the figure"),
    Rule({"source": ("network not named",)}, note="network not named in the figure"),
    Rule({"source": ("digitised",)}, note="digitised, to within 0.4"),
    Rule({"source": ("95% CI half-width",)}, note="the source prints a confidence interval, no deviation"),
    Rule({"paper": ("selection",), "method": ("herding",)}, note="with DeepCore's error corrected"),
    Rule({"source": ("public summary of",)}, note="read in a public summary"),
    Rule({"source": ("read through a third-party",)}, note="read second-hand, cross-checked"),
    Rule({"source": ("related setting",)}, note="of a related setting, not of the paper on pruning and distillation"),
    Rule({"paper": ("mirage",)}, {"ipc": None}),
    Rule({"tag": ("dd-adapt-usps-to-mnist-before",)}, {"ipc": None}, note="no images: the network before adaptation"),
    Rule(
        {"paper": ("infer",), "method": ("infer",), "tag": ("infer-dyn",)},
        note="INFER with teachers online (INFER+Dyn)",
    ),
)  # fmt: skip
"""All that fit apply, in their order."""
