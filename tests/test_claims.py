"""Published numbers: every committed row, how papers spell, the reader's messages, the command."""

from __future__ import annotations

import csv
import json
import re
import string
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddbench import claims as c
from ddbench import cli, registry, spellings
from ddbench.claims import Claim
from ddbench.nets import names as networks_
from ddbench.protocols.rows import ROWS

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = c.published()

ROWS_OF_PAPERS = {
    **dict(ast=0, cda=55, cvdd=147, datadam=12, datm=27, dc=42, dc_bench=190, dd=8, ddranking=2, dm=38),
    **dict(downstream=24, dq=4, dsa=42, ftd=21, fyi=87, hello=35, infer=98, krr_st=0, mirage=12, mtt=41),
    **dict(ncfm=79, nrr_dd=27, pca=18, pruning_kd=40, rded=86, rs2=24, selection=174, sre2l=85, tesla=11),
}
"""Numbers that were collected, by paper: 1,429.  IDC's 36 come from its readme; three search times stood beside others."""

METHODS = {
    **{
        "DC": "dc",
        "DM": "dm",
        "DSA": "dsa",
        "FRePo": "frepo",
        "IDC": "idc",
        "K-Center": "k_center",
        "KIP": "kip",
    },
    **{"MTT": "mtt", "Random": "random", "TESLA": "tesla", "dc+fyi": "fyi+dc", "dm+fyi": "fyi+dm"},
    **{"dsa+fyi": "fyi+dsa", "ftd+fyi": "fyi+ftd", "idc+fyi": "fyi+idc", "mtt+fyi": "fyi+mtt"},
    **{"full-data": "full", "g-vbsm": "g-vbsm", "gvbsm": "g-vbsm", "herding-fixed": "herding"},
    **{"infer-dyn": "infer", "kcenter": "k_center", "ncfm-wo-psi": "ncfm", "sre2l++": "cvdd"},
    **{"random+kd": "random", "random+sl": "random"},
    **{
        name: name
        for name in (
            *("cafe", "ccs", "cda", "cim", "cvdd", "datadam", "datm", "dc", "dd", "dm", "dq", "dsa", "el2n"),
            *("el2n-easy", "entropy", "forgetting", "ftd", "full", "hello", "hello-ablation:+lora"),
            *(
                "hello-ablation:+multi-weak-teacher",
                "hello-ablation:+text-init",
                "hello-ablation:linear-probe",
            ),
            *("idc", "infer", "mirage", "moderate", "mtt", "ncfm", "none", "nrr_dd", "nrr_dd-dbr"),
            *("nrr_dd-onehot", "pca", "random", "rded", "rs2", "sre2l", "tesla"),
        )
    },
}
"""Every spelling of a method in what was collected, and ours."""
OUR_METHODS = {
    *(
        "cda",
        "cvdd",
        "datadam",
        "datm",
        "dc",
        "dm",
        "dsa",
        "ftd",
        "full",
        "fyi+dc",
        "fyi+dm",
        "fyi+dsa",
        "fyi+ftd",
    ),
    *(
        "fyi+idc",
        "fyi+mtt",
        "herding",
        "idc",
        "infer",
        "k_center",
        "mtt",
        "ncfm",
        "random",
        "rded",
        "sre2l",
        "tesla",
    ),
}
DATASETS = {
    **{"CIFAR-10": "cifar10", "CIFAR10": "cifar10", "cifar10": "cifar10"},
    **{
        "CIFAR-100": "cifar100",
        "CIFAR100": "cifar100",
        "cifar100": "cifar100",
        "MNIST": "mnist",
        "mnist": "mnist",
    },
    **{"ImageNet-1K": "imagenet1k", "ImageNet1K": "imagenet1k", "imagenet1k": "imagenet1k", "svhn": "svhn"},
    **{"ImageNet-10": "imagenet10", "ImageNet-100": "imagenet100", "ImageNet-21K": "imagenet21k"},
    **{
        "ImageNette": "imagenette",
        "imagenette": "imagenette",
        "ImageWoof": "imagewoof",
        "imagewoof": "imagewoof",
    },
    **{"imagefruit": "imagefruit", "imagemeow": "imagemeow", "imagesquawk": "imagesquawk"},
    **{"imageyellow": "imageyellow", "fashionmnist": "fashion_mnist", "Tiny-ImageNet": "tiny_imagenet"},
    **{"TinyImageNet": "tiny_imagenet", "tinyimagenet": "tiny_imagenet"},
    **{"ogbg-molbace": "ogbg-molbace", "ogbg-molhiv": "ogbg-molhiv"},
}
OUR_DATASETS = set(DATASETS.values()) - {
    "imagenet10",
    "imagenet100",
    "imagenet21k",
    "ogbg-molbace",
    "ogbg-molhiv",
}
NETWORKS = {
    # spelling, tag, pixels: ours
    **{
        ("", "dc-dsa", 32): "unstated",
        ("unspecified", "full-data", 32): "unstated",
        ("unstated", "dq-timm", 224): "unstated",
    },
    **{
        ("720-ConvNet-space", "nas-720-200ep", 32): "720-ConvNet-space",
        ("AlexCifarNet", "dd-fixed-init", 32): "AlexCifarNet",
    },
    **{
        ("AlexNet", "ncfm", 32): "AlexNet",
        ("AlexNetBN", "dc-dsa", 32): "AlexNetBN",
        ("LeNet", "dc-dsa", 28): "LeNet",
    },
    **{
        ("Conv3", "rded", 32): "ConvNetBN",
        ("Conv4", "rded", 64): "ConvNetD4BN",
        ("Conv5", "rded", 128): "ConvNetD5BN",
    },
    **{
        ("Conv6", "rded", 128): "ConvNetD6BN",
        ("ConvNet", "dc-dsa", 32): "ConvNet",
        ("ConvNet", "dc-dsa", 64): "ConvNetD4",
    },
    **{("ConvNet", "mtt", 128): "ConvNetD5", ("ConvNet128", "infer-static", 32): "ConvNetBN"},
    **{("ConvNetBN", "dc-dsa", 32): "ConvNetBN", ("ConvNetD3", "dc-dsa", 32): "ConvNet"},
    **{("ConvNetD3BN", "datadam", 32): "ConvNetBN", ("ConvNetD4", "mtt", 64): "ConvNetD4"},
    **{("ConvNetD4BN", "datadam", 64): "ConvNetD4BN", ("ConvNetD5", "mtt", 128): "ConvNetD5"},
    **{
        ("EfficientNet-B0", "rded", 224): "torchvision:efficientnet_b0",
        ("EfficientNet-B0", "rded", 32): "EfficientNetB0",
    },
    **{("GAT", "dc", 32): "GAT", ("GCN", "dc", 32): "GCN", ("GIN", "dc", 32): "GIN"},
    **{("MobileNet-V2", "rded", 224): "torchvision:mobilenet_v2"},
    **{
        ("ResNet-18-BN", "full-data", 64): "ResNet18BN",
        ("ResNet-18-BN", "full-data", 224): "torchvision:resnet18",
    },
    **{
        ("ResNet18", "dc-dsa", 32): "ResNet18",
        ("ResNet18", "mtt", 32): "ResNet18",
        ("ResNet18", "ncfm", 32): "ResNet18",
    },
    **{("ResNet18", "rded", 32): "ResNet18BN", ("ResNet18", "sre2l-kd", 64): "ResNet18BN"},
    **{("ResNet18", "rethink-hard", 224): "torchvision:resnet18", ("ResNet18BN", "dc-dsa", 32): "ResNet18BN"},
    **{("ResNet50", "cda-kd", 64): "ResNet50BN", ("ResNet50", "cda-kd", 224): "torchvision:resnet50"},
    **{
        ("ResNet101", "cvdd-bssl", 32): "ResNet101BN",
        ("ResNet101", "cvdd-bssl", 224): "torchvision:resnet101",
    },
    **{("ResNet34", "ccs-r34-300k", 224): "torchvision:resnet34"},
    **{("ShuffleNet-V2", "hello-online", 224): "torchvision:shufflenet_v2_x1_0"},
    **{
        ("Swin-V2-Tiny", "hello-online", 224): "torchvision:swin_v2_t",
        ("VGG-11", "hello-online", 224): "torchvision:vgg11",
    },
    **{("VGG11", "ncfm", 32): "VGG11", ("VGG11BN", "dc-dsa", 32): "VGG11BN"},
    **{("mean-of-transfer-networks", "dcbench-transfer-avg", 32): "mean-of-transfer-networks"},
}
OUR_TAGS = {
    **{
        "cda-kd": "cda-kd",
        "cvdd-bssl": "cvdd-bssl",
        "datadam": "datadam",
        "datm-zca-soft": "datm",
        "dc": "dc-none",
    },
    **{
        "dc-dsa": "dc-dsa",
        "dc-dsa-flip": "dc-dsa-flip",
        "ftd": "mtt",
        "ftd-flip": "mtt-flip",
        "g-vbsm": "g-vbsm",
    },
    **{
        "idc": "idc",
        "infer-dyn": "infer-dyn",
        "infer-static": "infer-static",
        "mtt": "mtt",
        "mtt-flip": "mtt-flip",
    },
    **{"mtt-ftd": "mtt", "mtt-nozca": "mtt", "mtt-nozca-alt": "mtt", "mtt-tesla": "mtt", "mtt-zca": "mtt"},
    **{"mtt-zca-alt": "mtt", "mtt-zca-flip": "mtt-flip", "ncfm": "ncfm", "rded": "rded"},
    **{"rethink-hard": "rethink-hard", "rethink-soft": "rethink-soft", "sre2l-kd": "sre2l-kd"},
}
THEIR_TAGS = {
    **{"dc-bench-best": "dcbench-best", "dcbench-avg-aug": "dcbench-avg", "dcbench-best-aug": "dcbench-best"},
    **{"ddranking real-hard reference (cached constant)": "ddranking-real-hard"},
    **{"kd (as quoted by CIM)": "kd-as-quoted", "mirage-top5of10-rocauc(ipc=total itemsets)": "mirage-top5"},
    **{"nrr-dbr (one-hot + 2 distances per image)": "nrr-dbr", "nrr-kd (as quoted by CIM)": "nrr-kd"},
    **{"reported-by-authors (tagged IDC on the page)": "reported-by-authors"},
    **{
        name: name
        for name in (
            *(
                "ccs-r18-40k",
                "ccs-r34-300k",
                "cim-kd",
                "cutmix-sl",
                "datm-random",
                "dc-dsa-bn-cross",
                "dc-dsa-cross",
            ),
            *("dcbench-avg", "dcbench-best", "dcbench-transfer-avg", "dd-adapt-usps-to-mnist-before"),
            *("dd-adapt-usps-to-mnist-random-pretrained", "dd-fixed-init", "dd-random-init"),
            *("deepcore-r18-unbalanced", "dq-r18-200ep", "dq-timm", "dwa-kd", "ftd-as-reported-by-datm"),
            *("ftd-as-reported-by-pad", "ftd-cross-arch", "full-data", "full-data-rounded", "hello-online"),
            *(
                "kd-as-quoted",
                "mtt-as-reported-by-datm",
                "nas-720-200ep",
                "ncfm-curated",
                "nrr-hard",
                "nrr-kd",
            ),
            *("quoted-unknown", "reported-by-authors", "rs2-r18-200ep", "sl-baseline", "sl-paper-hard"),
            *("tesla-as-reported-by-datm", "tesla-sla-64px", "unspecified"),
        )
    },
}
"""Every tag of a protocol in what was collected: ours, and those whose settings differ from all of ours."""


def raw(**changes: str) -> dict[str, str]:
    """A row of free spellings: DM's on CIFAR-10, as a paper might print it."""
    row = dict.fromkeys(c.RAW, "")
    row |= dict(method="DM", dataset="CIFAR-10", resolution="32", ipc="10", distill_network="ConvNetD3")
    row |= dict(
        eval_network="ConvNetD3",
        labels="hard",
        accuracy="48.9",
        std="0.6",
        protocol="dc-dsa",
        source="a table",
    )
    return row | changes


def one(**fields: Any) -> Claim:
    """The only published claim with these fields."""
    found = [x for x in CLAIMS if all(getattr(x, k) == v for k, v in fields.items())]
    assert len(found) == 1, [x.id for x in found]
    return found[0]


# ------------------------------------------------------------------------------------------------ every row


def test_every_collected_number_is_there():
    assert sum(ROWS_OF_PAPERS.values()) == 1429
    extra = {"idc": 36, "downstream": 3}
    files = {p.stem: len(c.read(p)) for p in sorted((ROOT / "leaderboards/published").glob("*.csv"))}
    assert files == {k: ROWS_OF_PAPERS.get(k, 0) + extra.get(k, 0) for k in sorted({*ROWS_OF_PAPERS, *extra})}
    assert len(CLAIMS) == 1468


def test_ids_are_unique_and_say_their_paper():
    assert len({x.id for x in CLAIMS}) == len(CLAIMS)
    assert all(re.fullmatch(rf"{x.paper}-[0-9a-f]{{6}}", x.id) for x in CLAIMS)


def test_every_name_is_known_or_marked_as_external():
    methods, datasets = set(registry.names("methods")), set(registry.names("datasets"))
    for x in CLAIMS:
        c.check(x)
        assert x.source and x.paper in {**ROWS_OF_PAPERS, "idc": 36}
        if "method" not in x.external:
            assert set(x.method.split("+")) <= methods, x
        if "dataset" not in x.external:
            assert x.dataset.partition("?")[0] in datasets, x
            side = registry.facts("datasets", x.dataset.partition("?")[0]).keywords["shape"][-1]
            assert x.resolution in (None, side), x
        if "protocol" not in x.external:
            assert x.protocol in ROWS and ROWS[x.protocol].comparable, x
        if "network" not in x.external:
            assert networks_.canonical(x.network) == x.network, x
        assert (x.ipc is None) == ("ipc" in x.external)
    assert {x.method for x in CLAIMS if "method" not in x.external} == OUR_METHODS
    assert {x.dataset.partition("?")[0] for x in CLAIMS if "dataset" not in x.external} == OUR_DATASETS


def test_a_network_that_is_ours_takes_images_of_that_size():
    for x in CLAIMS:
        if x.ours and not x.network.startswith("torchvision:"):
            shape = registry.facts("datasets", x.dataset.partition("?")[0]).keywords["shape"]
            assert networks_.why_not(x.network, shape) is None, x


def test_numbers_are_in_their_range():
    for x in CLAIMS:
        low, high = c.RANGES[x.metric]
        assert low <= x.value <= high, x
        assert x.std is None or 0 <= x.std < 15, x
        assert x.n is None or x.n in (1, 3, 5, 10, 25, 100, 200), x
    assert Counter(x.metric for x in CLAIMS) == {
        **{"top1": 1444, "roc-auc": 12, "search-min": 3},
        **{"spearman-top5": 3, "spearman-top10": 3, "spearman-top20": 3},
    }


def test_what_is_ours_is_a_plain_accuracy_under_a_protocol_that_stands_beside_published_numbers():
    ours = [x for x in CLAIMS if x.ours]
    assert len(ours) == 596
    assert {x.protocol for x in ours} <= {n for n, row in ROWS.items() if row.comparable}
    assert not {x.method for x in ours} & {"full", "k_center", "herding"}  # only under protocols of others
    assert all(x.ipc for x in ours)
    assert c.reasons(CLAIMS) == {"protocol": 764, "method": 173, "ipc": 129, "dataset": 127, "network": 113}


def test_which_epoch_a_number_is_of():
    chosen = {
        "mtt": "best-snapshot",
        "mtt-flip": "best-snapshot",
        "datm": "best-snapshot",
        "ncfm": "best-epoch",
    }
    chosen |= {
        "rded": "best-epoch",
        "infer-static": "best-epoch",
        "infer-dyn": "best-epoch",
        "dc-dsa": "last",
    }
    chosen |= {"dc": "last", "dc-none": "last", "sre2l-kd": "last", "cda-kd": "last", "idc": "unstated"}
    chosen |= {"datadam": "unstated", "cvdd-bssl": "unstated", "rethink-hard": "unstated"}
    for protocol, word in chosen.items():
        found = [x for x in CLAIMS if x.ours and x.protocol == protocol]
        own = [x for x in found if x.method != "random" and not (x.method == "sre2l" and protocol == "rded")]
        assert own and {x.chosen for x in own} == {word}, protocol
    assert {x.chosen for x in CLAIMS if x.method == "random" and x.protocol == "mtt"} == {"unstated"}


def test_whitening_is_said_where_the_sources_say_it():
    assert all(x.zca for x in CLAIMS if x.protocol == "datm")
    assert one(paper="mtt", dataset="cifar10", ipc=10, value=65.4).zca is True
    assert one(paper="mtt", dataset="cifar10", ipc=50, value=71.6, note="").zca is False
    unsure = one(paper="fyi", method="mtt", dataset="cifar10", ipc=50)
    assert unsure.zca is None and "MTT's own setting of this cell is not" in unsure.note
    flipped = one(paper="fyi", method="fyi+mtt", dataset="cifar100", ipc=10)
    assert flipped.zca is None and "MTT's own setting of this cell is not" in flipped.note
    assert one(paper="fyi", method="fyi+mtt", dataset="cifar100", ipc=50).zca is True
    assert {x.zca for x in CLAIMS if x.protocol == "dc-dsa"} == {False}


def test_rows_that_quote_are_marked():
    assert sum(x.quoted for x in CLAIMS) == 463
    for x in CLAIMS:
        if re.search(r"\(quoting|cited there|quoting (MTT|TESLA|TM|RDED)\b", x.source):
            assert x.quoted, x
    assert not any(x.quoted for x in CLAIMS if x.paper in ("idc", "cvdd") and x.method in ("idc", "cvdd"))
    assert not any(x.quoted for x in CLAIMS if x.method == "cim")  # the table that quotes NRR-DD is CIM's
    assert not any(x.quoted for x in CLAIMS if "cross-checked against quotations" in x.source)
    assert {x.quoted for x in CLAIMS if x.paper == "selection" and "DC-BENCH" in x.source} == {True}


def test_a_number_that_stands_in_three_files_is_quoted_in_two():
    for value in (4.6, 20.6, 31.7, 35.8):
        same = [x for x in CLAIMS if x.protocol in ("rethink-hard", "rethink-soft") and x.value == value]
        assert {x.paper: x.quoted for x in same} == {"pca": False, "pruning_kd": True, "selection": True}


def test_sources_that_disagree_are_all_kept():
    torn = c.conflicts(CLAIMS)
    assert len(torn) == 39
    values = {tuple(sorted({x.value for x in group})) for group in torn}
    assert (57.6, 60.8) in values  # SRe2L's ResNet-101, in CDA's table and in its own
    assert (46.2, 46.3) in values  # two versions of MTT's table
    assert (75.1, 76.1) in values and (24.5, 26.4) in values and (26.0, 31.0) in values
    assert not any({49.7, 49.64} == {x.value for x in g} for g in torn if len(g) == 2)


def test_baselines_whose_augmentation_no_source_states_are_no_test():
    ours = [x for x in CLAIMS if x.method == "random" and x.protocol in ("dc-dsa", "mtt")]
    assert Counter(x.protocol for x in ours) == {"dc-dsa": 27, "mtt": 12} and all(x.ours for x in ours)
    same = {x.caveat for x in ours} | {x.caveat for x in CLAIMS if x.protocol == "datm-random"}
    assert same == {
        "its source does not state how students of this baseline were trained and augmented, which is worth points"
    }
    assert "DC's table, from before DSA" in one(paper="dc", dataset="cifar10", ipc=1, method="random").note
    assert "DC-BENCH's best of several" in one(paper="dm", dataset="cifar10", ipc=10, method="random").note


def test_numbers_that_no_measurement_can_test_say_why():
    why = {
        "sre2l": "its source does not state how SRe2L's sets were made, labelled and scored",
        "rded": "tested on 50 images a class, the first in a folder's order, not on the whole test set",
        "ftd": "FTD's code scores averaged images with networks that were already trained on the raw ones, about twice the "
        "training of this protocol; whether the number is of these or of the raw images is not stated",
        "fyi+ftd": "FYI's code for this base is not released",
        "fyi+idc": "FYI's code for this base is not released",
    }
    found = [x for x in CLAIMS if x.caveat and x.method != "random"]
    assert {(x.method, x.caveat) for x in found} == set(why.items())
    counts = {"sre2l": 19, "rded": 6, "ftd": 16, "fyi+ftd": 8, "fyi+idc": 5}
    assert Counter(x.method for x in found if x.ours) == counts
    assert all(x.caveat for x in CLAIMS if x.protocol == "rded" and x.method == "sre2l")
    tested = [x for x in CLAIMS if x.protocol == "rded" and x.method == "rded"]
    assert all(bool(x.caveat) == (x.dataset in ("imagenette", "imagewoof")) for x in tested)
    assert all(x.caveat for x in CLAIMS if x.ours and x.method in ("ftd", "fyi+ftd", "fyi+idc"))


def test_numbers_of_another_recipe_than_the_authors_main_one_name_it():
    named = [x for x in CLAIMS if x.recipe]
    assert Counter((x.method, x.recipe, x.ours) for x in named) == {
        **{("cvdd", "sre2l++", True): 36, ("cvdd", "sre2l++", False): 9, ("idc", "idc-i", True): 14},
        **{("idc", "idc-i", False): 4, ("ncfm", "no-psi", True): 11, ("rded", "convnet", True): 9},
        **{("fyi+mtt", "fyi", True): 1, ("fyi+dsa", "fyi", True): 1},
    }
    for x in named:
        if x.ours:  # a row of the table of recipes is made for the very cell
            assert registry.resolve_recipe(x.method, x.recipe, x.dataset, x.ipc or 0).note == "", x.id


def test_a_recipe_is_a_cell_of_its_own():
    idc, idc_i = (
        c.normalise(raw(method=m, protocol="idc", accuracy=v), "p")
        for m, v in (("IDC", "67.5"), ("IDC-I", "58.3"))
    )
    assert c.conflicts([idc, idc_i]) == []
    assert c.find([idc, idc_i], method="IDC") == [idc, idc_i]
    assert c.find([idc, idc_i], method="IDC-I") == [idc_i]


def test_values_that_are_the_same_but_for_their_rounding_do_not_disagree():
    two = [c.normalise(raw(accuracy="41.1"), "a"), c.normalise(raw(accuracy="41.11"), "b")]
    assert c.conflicts(two) == []
    for other in ("41.2", "41.14"):
        three = [*two, c.normalise(raw(accuracy=other), "c")]
        assert c.conflicts(three) == [three]


SPOTS = [
    # paper, method, data set, ipc, network, protocol: value, deviation, ours
    ("dm", "dm", "cifar10", 1250, "ConvNet", "dc-dsa", 80.8, 0.3, True),
    ("dm", "dm", "tiny_imagenet", 10, "ConvNetD4", "dc-dsa", 12.9, 0.4, True),
    ("dm", "dm", "cifar10", 50, "AlexNetBN", "dc-dsa-bn-cross", 61.3, 0.6, False),
    ("dsa", "dsa", "cifar100", 50, "ConvNet", "dc-dsa", 42.8, 0.4, True),
    ("dsa", "dsa", "cifar10", 50, "VGG11", "dc-dsa-cross", 51.0, 1.1, False),
    ("mtt", "mtt", "imagenette?resize=squash", 10, "ConvNetD5", "mtt", 63.0, 1.3, True),
    ("mtt", "random", "tiny_imagenet", 50, "ConvNetD4", "dcbench-best", 18.62, None, False),
    ("tesla", "tesla", "imagenet1k", 50, "ConvNetD4", "tesla-sla-64px", 27.9, 1.2, False),
    ("tesla", "tesla", "cifar10", 1, "ConvNet", "mtt", 48.5, 0.8, True),
    ("ftd", "ftd", "cifar100", 50, "ConvNet", "mtt", 50.7, 0.3, True),
    ("ftd", "ftd", "cifar100", 100, "ConvNet", "ftd-as-reported-by-datm", 49.7, 0.4, False),
    ("datm", "datm", "cifar10", 1000, "ConvNet", "datm", 85.5, 0.4, True),
    ("datm", "random", "cifar10", 500, "ConvNet", "datm-random", 73.2, 0.3, False),
    ("datadam", "datadam", "tiny_imagenet", 50, "ConvNetD4BN", "datadam", 28.7, 0.3, True),
    ("idc", "idc", "cifar10", 10, "ConvNet", "idc", 67.5, None, True),
    ("idc", "idc", "mnist", 50, "ConvNet", "idc-nomix", 99.1, None, True),
    ("idc", "idc", "svhn", 1, "ConvNet", "idc-cutout", 46.7, None, True),
    ("idc", "idc", "imagenet100", 20, "ResNetAP10", "idc-imagenet", 53.7, None, False),
    ("fyi", "fyi+idc", "cifar10", 50, "ConvNet", "idc", 75.2, 0.0, True),
    ("fyi", "fyi+mtt", "tiny_imagenet", 50, "ConvNetD4", "mtt-flip", 30.1, 0.3, True),
    ("fyi", "fyi+dc", "cifar10", 10, "ConvNet", "dc-none", 49.5, 0.5, True),
    ("ncfm", "ncfm", "cifar10", 10, "ConvNet", "ncfm", 68.9, None, True),
    ("ncfm", "ncfm", "cifar10", 10, "ConvNet", "ncfm-curated", 71.8, 0.3, False),
    ("ncfm", "ncfm", "tiny_imagenet", 10, "ConvNetD4", "ncfm-300", 24.3, None, True),
    ("ncfm", "ncfm", "tiny_imagenet", 50, "ConvNetD4", "ncfm-40", 26.5, None, True),
    ("ncfm", "ncfm", "cifar10", 10, "ConvNet", "ncfm", 65.6, None, True),
    ("cda", "cda", "imagenet1k", 50, "torchvision:resnet50", "cda-kd", 61.3, None, None),
    ("cda", "cda", "imagenet21k", 20, "torchvision:resnet101", "cda-kd", 36.1, None, False),
    ("sre2l", "sre2l", "tiny_imagenet", 100, "ResNet101BN", "sre2l-kd", 51.5, 0.3, True),
    ("sre2l", "sre2l", "cifar100", 50, "ResNet18BN", "cda-kd", 51.35, None, True),
    ("rded", "rded", "tiny_imagenet", 50, "ResNet18BN", "rded", 58.2, 0.1, True),
    ("rded", "rded", "imagenette", 10, "ConvNetD5BN", "rded", 63.2, 0.7, True),
    ("rded", "rded", "imagenette", 10, "torchvision:resnet18", "rded", 61.4, 0.4, False),
    ("cvdd", "cvdd", "cifar100", 50, "ResNet101BN", "cvdd-bssl", 66.3, None, True),
    ("cvdd", "cvdd", "cifar10", 50, "ResNet18BN", "cvdd-bssl", 63.0, None, True),
    ("infer", "infer", "cifar100", 50, "ConvNetBN", "infer-static", 53.8, 0.2, True),
    ("infer", "infer", "cifar100", 50, "ResNet18BN", "infer-dyn", 68.9, 0.1, True),
    ("infer", "infer", "imagenet1k", 50, "torchvision:resnet50", "infer-dyn", 63.4, 0.3, False),
    ("pca", "rded", "imagenet1k", 50, "torchvision:resnet18", "rethink-hard", 30.8, None, True),
    ("pca", "pca", "imagenet1k", 10, "torchvision:resnet18", "rethink-hard", 22.8, None, False),
    ("dc_bench", "k_center", "cifar100", 50, "ConvNet", "dcbench-best", 38.64, None, False),
    ("dd", "dd", "mnist", 10, "LeNet", "dd-random-init", 79.5, 8.1, False),
]


@pytest.mark.parametrize("spot", SPOTS, ids=lambda s: f"{s[1]}-{s[2]}-{s[3]}-{s[6]}")
def test_single_numbers_are_those_of_their_sources(spot):
    paper, method, dataset, ipc, network, protocol, value, std, ours = spot
    cell = dict(paper=paper, method=method, dataset=dataset, ipc=ipc, network=network, protocol=protocol)
    found = [x for x in CLAIMS if all(getattr(x, k) == v for k, v in cell.items()) and x.value == value]
    assert found, cell
    assert {x.std for x in found} == {std}
    assert ours is None or {x.ours for x in found} == {ours}


def test_shares_of_the_data_stand_in_keep():
    drawn = one(paper="rs2", method="rs2", dataset="imagenet1k", keep=0.1)
    assert (drawn.value, drawn.per_epoch, drawn.ipc, drawn.external) == (
        66.0,
        True,
        None,
        ("method", "protocol", "ipc"),
    )
    fixed = one(paper="rs2", method="random", dataset="cifar10", keep=0.05)
    assert (fixed.value, fixed.per_epoch) == (64.5, False)
    assert {x.ipc for x in CLAIMS if x.method == "full"} == {0}


def test_figures_that_are_no_accuracies_have_their_metric():
    assert one(paper="downstream", method="mtt", metric="spearman-top20").value == -0.04
    assert one(paper="downstream", method="full", metric="search-min").value == 6804
    assert one(paper="downstream", method="ftd", metric="search-min").value == 360
    best = one(paper="mirage", dataset="ogbg-molbace", network="GAT", value=75.35)
    assert (best.metric, best.n, best.ipc, best.note) == (
        "roc-auc", 5, None, "mean over the 5 of 10 runs that validate best; 17 itemsets in all",
    )  # fmt: skip


def test_runs_are_those_of_the_authors_protocols():
    assert one(paper="dm", dataset="cifar10", ipc=1250).n == 25
    assert (
        one(paper="dm", dataset="cifar10", ipc=500, value=75.1).n is None
    )  # quoted by a paper that may have run it
    assert one(paper="dsa", dataset="cifar100", ipc=50, method="dsa").n == 100
    assert {x.n for x in CLAIMS if x.paper == "ncfm" and x.protocol == "ncfm"} == {3, 10}
    assert {x.n for x in CLAIMS if x.protocol == "datm"} == {None}
    assert one(paper="dq", method="dq", dataset="cifar10").n == 1


# ------------------------------------------------------------------------------------------------ spellings


def test_the_lists_of_spellings_have_all_that_was_collected():
    tags = {*OUR_TAGS, *THEIR_TAGS}
    assert (len(DATASETS), len(METHODS), len(tags)) == (29, 65, 74)
    assert len({name for name, _, _ in NETWORKS}) == 37


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_spelt_as_ours(name):
    made = c.normalise(raw(method=name), "p")
    assert made.method == METHODS[name]
    assert ("method" in made.external) == (METHODS[name] not in OUR_METHODS)


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_is_spelt_as_ours(name):
    made = c.normalise(raw(dataset=name, resolution=""), "p")
    assert made.dataset == DATASETS[name]
    assert ("dataset" in made.external) == (DATASETS[name] not in OUR_DATASETS)


@pytest.mark.parametrize(("name", "tag", "side"), NETWORKS)
def test_a_network_is_spelt_as_ours(name, tag, side):
    made = c.normalise(raw(eval_network=name, protocol=tag, resolution=str(side)), "p")
    assert made.network == NETWORKS[name, tag, side]
    assert ("network" in made.external) == (made.network in spellings.EXTERNAL_NETWORKS)


@pytest.mark.parametrize("tag", {**OUR_TAGS, **THEIR_TAGS})
def test_a_tag_of_a_protocol_is_ours_or_external(tag):
    made = c.normalise(raw(protocol=tag, dataset="CIFAR-100"), "p")
    assert made.protocol == {**OUR_TAGS, **THEIR_TAGS}[tag]
    assert ("protocol" in made.external) == (tag in THEIR_TAGS)


def test_what_is_external_in_the_tables_is_not_ours():
    assert not set(spellings.EXTERNAL_METHODS) & set(registry.names("methods"))
    assert not set(spellings.EXTERNAL_DATASETS) & set(registry.names("datasets"))
    assert not set(spellings.EXTERNAL_NETWORKS) & set(networks_.names())
    assert set(spellings.METHODS.values()) <= {*registry.names("methods"), *spellings.EXTERNAL_METHODS}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(protocol="dc", dataset="MNIST", resolution="28", method="DC"), dict(protocol="dc", n=None)),
        (dict(protocol="dc", method="DC"), dict(protocol="dc-none")),
        (dict(protocol="mtt-zca"), dict(protocol="mtt", zca=True, chosen="best-snapshot")),
        (dict(protocol="ncfm", dataset="Tiny-ImageNet", resolution="64", ipc="50"), dict(protocol="ncfm-40")),
        (dict(ipc="full"), dict(ipc=0)),
        (dict(ipc="all"), dict(ipc=0)),
        (dict(ipc="keep=0.3/epoch"), dict(ipc=None, keep=0.3, per_epoch=True)),
        (dict(method="full", ipc="keep=1.0"), dict(ipc=0, keep=None)),
        (dict(distill_network="none (label expert ResNet50)", protocol="sl-baseline", resolution="224"),
         dict(distill_network="label expert torchvision:resnet50")),
        (dict(distill_network="none"), dict(distill_network="")),
        (dict(source="X Table 1 (quoting)"), dict(quoted=True)),
        (dict(source="X, cross-checked against quotations"), dict(quoted=False)),
        (dict(resolution="64"), dict(external=("dataset",))),
        (dict(metric="accuracy", value="48.9", task="cross-arch"), dict(task="cross-arch", value=48.9)),
        (dict(n_images="100"), dict(note="100 images in all")),
        (dict(method="IDC-I", protocol="idc"), dict(method="idc", recipe="idc-i", protocol="idc", external=())),
        (dict(method="IDC", protocol="idc", dataset="MNIST", resolution="28"), dict(recipe="", protocol="idc-nomix")),
        (dict(method="IDC-I", protocol="idc", dataset="MNIST", resolution="28"), dict(protocol="idc")),
        (dict(method="NCFM-wo-psi", protocol="ncfm"), dict(method="ncfm", recipe="no-psi")),
        (dict(method="SRe2L++", protocol="cvdd-bssl"), dict(method="cvdd", recipe="sre2l++")),
        (dict(method="RDED", recipe="released", caveat="read off a plot"),
         dict(recipe="released", caveat="read off a plot")),
    ],
)  # fmt: skip
def test_a_row_implies(changes, expected):
    made = c.normalise(raw(**changes), "p")
    assert {k: getattr(made, k) for k in expected} == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(method="randm"), r"method is 'randm'; expected a name .*nearest: random.* or 'method' in the column external"),
        (dict(dataset="cifr10"), r"dataset is 'cifr10'; expected .*nearest: cifar10"),
        (dict(eval_network="ResNet19"), r"eval_network is 'ResNet19'; expected .*or 'network' in the column external"),
        (dict(protocol="dc-das"), r"protocol is 'dc-das'; expected .*nearest: dc-dsa"),
        (dict(ipc="ten"), r"ipc is 'ten'; expected a whole number"),
        (dict(accuracy="48,9"), r"accuracy is '48,9'; expected a number such as 48.9"),
        (dict(accuracy="nan"), r"accuracy is 'nan'; expected a number"),
        (dict(accuracy="148.9"), r"value is 148.9; expected top1 from 0 to 100"),
        (dict(ipc="keep=1.5"), r"keep is 1.5; expected less than or equal to 1"),
        (dict(source=""), r"source is ''; expected at least 1 character"),
        (dict(ipc=""), r"^$"),
        (dict(metric="accuracy", value="49"), r"value is 49 but accuracy is 48.9; expected the same"),
        (dict(metric="kendall", value="0.4"), r"metric is 'kendall'; expected one of top1, roc-auc"),
        (dict(labels="firm"), r"labels is 'firm'; expected one of hard, soft, learned-soft, none, or nothing"),
        (dict(colour="red"), r"column 'colour' is unknown; expected method, dataset"),
        (dict(recipe="fast"), r"recipe is 'fast'; expected one of method 'dm' \(authors, .*\), or nothing"),
        (dict(method="random", recipe="fast"), r"recipe is 'fast'; expected one of method 'random' \(it has none\)"),
        (dict(method="KIP", recipe="authors"), r"recipe is 'authors'; expected one of method 'kip' \(it has none\)"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_refused_with_what_was_expected(changes, message):
    if message == "^$":  # no amount at all: kept, and external
        assert c.normalise(raw(**changes), "p").external == ("ipc",)
        return
    with pytest.raises(ValueError, match=message):
        c.normalise(raw(**changes), "p")


def test_a_row_without_a_column_is_refused():
    row = raw()
    del row["source"]
    with pytest.raises(ValueError, match=r"there is no column 'source'; expected method, dataset"):
        c.normalise(row, "p")


def test_a_new_name_is_kept_where_the_row_marks_it():
    made = c.normalise(
        raw(method="Shiny", dataset="Pets", eval_network="Net9", protocol="shiny-kd",
            external="method dataset network protocol"),
        "shiny",
    )  # fmt: skip
    assert (made.method, made.dataset, made.network, made.protocol) == ("shiny", "pets", "Net9", "shiny-kd")
    assert made.external == ("method", "dataset", "network", "protocol") and not made.ours


def test_a_number_that_is_there_twice_is_refused():
    with pytest.raises(ValueError, match=r"f.csv line 3: the row of line 2 is there again"):
        c.from_rows([raw(), raw()], "f", "f.csv")


# ------------------------------------------------------------------------------------------------ ids


def test_an_id_does_not_depend_on_the_order_or_on_what_becomes_better_known():
    claim = c.normalise(raw(), "dm")
    more = claim.model_copy(update={"note": "checked", "n": 7, "quoted": True, "external": ("method",)})
    more = more.model_copy(update={"recipe": "authors", "caveat": "misprinted"})
    assert c.id_of("dm", more.model_dump()) == claim.id
    assert c.normalise(raw(accuracy="49.0"), "dm").id != claim.id
    assert c.normalise(raw(source="another table"), "dm").id != claim.id
    assert c.from_rows([raw(), raw(ipc="1")], "dm")[1].id == c.from_rows([raw(ipc="1"), raw()], "dm")[0].id


def test_published_ids_stay_as_they_are():
    assert one(paper="dm", method="dm", dataset="cifar10", ipc=10, value=48.9).id == "dm-02c483"
    assert one(paper="idc", method="idc", dataset="cifar10", ipc=1, recipe="").id == "idc-d80f8a"


# ------------------------------------------------------------------------------------------------ files


def line_of(claim: Claim, **changes: str) -> list[str]:
    cells = {name: c._cell(name, getattr(claim, name)) for name in c.COLUMNS} | changes
    return [cells[name] for name in c.COLUMNS]


def written(path: Path, *lines: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(c.COLUMNS), *lines])
    return path


def test_what_is_written_is_read_again(tmp_path):
    by_paper: dict[str, list[Claim]] = {}
    for claim in CLAIMS:
        by_paper.setdefault(claim.paper, []).append(claim)
    for paper in ("downstream", "mirage", "fyi", "rs2"):
        c.write(tmp_path / f"{paper}.csv", by_paper[paper])
        assert c.read(tmp_path / f"{paper}.csv") == by_paper[paper]
        committed = ROOT / "leaderboards/published" / f"{paper}.csv"
        assert (tmp_path / f"{paper}.csv").read_bytes() == committed.read_bytes()


def test_an_empty_id_is_made(tmp_path):
    claim = c.normalise(raw(), "dm")
    assert c.read(written(tmp_path / "dm.csv", line_of(claim, id=""))) == [claim]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(value="48.8"), r"id is 'dm-[0-9a-f]{6}'; expected 'dm-[0-9a-f]{6}' for what the row says \(empty: it is made\)"),
        (dict(value=""), r"value is empty; expected a number"),
        (dict(value="inf"), r"value is 'inf'; expected a number such as 48.9"),
        (dict(value="1e999"), r"value is inf; expected a finite number"),
        (dict(value="101", id=""), r"value is 101; expected top1 from 0 to 100"),
        (dict(std="-1"), r"std is -1.0; expected greater than or equal to 0"),
        (dict(std="200", id=""), r"std is 200; expected at most 100"),
        (dict(ipc="1.5"), r"ipc is '1.5'; expected a whole number"),
        (dict(ipc="", id=""), r"ipc is empty; expected images a class \(0: all\), or it empty and 'ipc' in external"),
        (dict(keep="0.5", id=""), r"keep is 0.5 and ipc 10; expected one of them"),
        (dict(per_epoch="yes", id=""), r"per_epoch is yes; expected keep to say how much is drawn"),
        (dict(per_epoch="maybe"), r"per_epoch is 'maybe'; expected yes or no"),
        (dict(zca="1"), r"zca is '1'; expected yes or no"),
        (dict(n="0"), r"n is 0; expected greater than or equal to 1"),
        (dict(chosen="best"), r"chosen is 'best'; expected 'last', 'best-epoch', 'best-snapshot' or 'unstated'"),
        (dict(source="", id=""), r"source is empty; expected a text"),
        (dict(source="two\nlines", id=""), r"source is 'two\\nlines'; expected one line of printable text"),
        (dict(note=" padded", id=""), r"note is ' padded'; expected one line of printable text"),
        (dict(method="rdedd", id=""), r"method is .rdedd.; expected a method of ddbench.s \(nearest: rded\), or .method. in"),
        (dict(dataset="CIFAR-10", id=""), r"dataset is 'CIFAR-10'; expected a data set of ddbench's \(nearest: cifar10"),
        (dict(network="ConvNetD3", id=""), r"network is 'ConvNetD3'; expected a network"),
        (dict(protocol="mtt-zca", id=""), r"protocol is 'mtt-zca'; expected a protocol of ddbench's \(nearest: .*mtt"),
        (dict(external="weather", id=""), r"external is 'weather'; expected some of method dataset network protocol ipc"),
        (dict(external="protocol method", id=""), r"external is 'protocol method'; .* in this order"),
        (dict(metric="f1", id=""), r"metric is 'f1'; expected one of top1"),
        (dict(labels="firm", id=""), r"labels is 'firm'; expected one of hard"),
        (dict(recipe="fast"), r"recipe is 'fast'; expected one of method 'dm' \(authors, .*\), or nothing"),
        (dict(recipe=" authors"), r"recipe is ' authors'; expected one line of printable text"),
        (dict(caveat="two\nlines"), r"caveat is 'two\\nlines'; expected one line of printable text"),
        (dict(resolution="0"), r"resolution is 0; expected greater than 0"),
    ],
)  # fmt: skip
def test_a_wrong_cell_is_refused_with_file_line_and_what_was_expected(tmp_path, changes, message):
    good = c.normalise(raw(), "dm")
    path = written(tmp_path / "dm.csv", line_of(c.normalise(raw(ipc="1"), "dm")), line_of(good, **changes))
    lines = 4 if "\n" in "".join(changes.values()) else 3
    with pytest.raises(ValueError, match=rf"dm\.csv line {lines}: {message}"):
        c.read(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"line 1: the file is empty; expected a line of columns"),
        (b"a,b\n1,2\n", r"line 1: columns without 'id'; expected id,method"),
        (",".join([*c.COLUMNS, "more"]).encode() + b"\n", r"line 1: columns with 'more'; expected"),
        (",".join(reversed(c.COLUMNS)).encode() + b"\n", r"line 1: columns in another order; expected"),
        (",".join(c.COLUMNS).encode() + b"\n1,2\n", r"line 2: 2 fields; expected 24, as in the first line"),
        (b"id\n\xff\n", r"line 2: byte 0xff is no UTF-8; expected text"),
        (b"id\n\0\n", r"line 2: there is a zero byte; expected text"),
        (b'id\n"a"b\n', r"line 2: .*; expected comma-separated values"),
        (b"x" * (c.LARGEST_FILE + 1), r"line 1: the file has more than 16777216 bytes"),
    ],
)
def test_what_is_no_table_of_claims_is_refused(tmp_path, data, message):
    path = tmp_path / "p.csv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"p\.csv {message}"):
        c.read(path)


def test_a_number_may_stand_once_in_a_file(tmp_path):
    claim = c.normalise(raw(), "dm")
    with pytest.raises(
        ValueError, match=r"dm\.csv line 3: id is '.*', as in line 2; expected every number once"
    ):
        c.read(written(tmp_path / "dm.csv", line_of(claim), line_of(claim)))
    with pytest.raises(ValueError, match=r"claim dm-.* is there twice; expected every number once"):
        c.write(tmp_path / "dm.csv", [claim, claim])
    with pytest.raises(ValueError, match=r"is of paper 'dm'; expected 'dsa', the file's stem"):
        c.write(tmp_path / "dsa.csv", [claim])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"method,method\n", r"line 1: column 'method' is there twice; expected it once"),
        (b"method,dataset\ndm\n", r"line 2: 1 fields; expected 2, as in the first line"),
        (b"method,dataset\ndm,cifar10\n", r"line 2: there is no column 'resolution'; expected method"),
    ],
)
def test_a_file_of_free_spellings_is_refused_with_its_line(tmp_path, data, message):
    path = tmp_path / "mine.csv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"mine\.csv {message}"):
        c.read_raw(path)


WORDS = st.text(
    st.sampled_from(string.ascii_letters + string.digits + " ,;:'\"±%()-é"), min_size=1, max_size=30
).filter(lambda t: t.strip() == t)


@st.composite
def claims_of(draw: st.DrawFn) -> Claim:
    """A valid claim with anything that a cell may hold."""
    keep = draw(st.none() | st.floats(1e-9, 1))
    ipc = None if keep is not None else draw(st.none() | st.integers(0, 999_999_999))
    metric = draw(st.sampled_from(sorted(c.RANGES)))
    low, high = c.RANGES[metric]
    names = {"method": "dm", "dataset": "cifar10", "network": "ConvNet", "protocol": "dc-dsa"}
    external = {k for k in names if draw(st.booleans())}
    values: dict[str, Any] = {k: draw(WORDS) if k in external else v for k, v in names.items()}
    external |= {"ipc"} if ipc is None else set()
    values |= dict(
        paper="any",
        external=tuple(k for k in c.EXTERNAL if k in external),
        ipc=ipc,
        keep=keep,
        per_epoch=keep is not None and draw(st.booleans()),
        resolution=draw(st.none() | st.integers(1, 9999)),
        distill_network=draw(st.just("") | WORDS),
        labels=draw(st.sampled_from(c.LABELS)),
        metric=metric,
        value=draw(st.floats(low, min(high, 1e12))),
        std=draw(st.none() | st.floats(0, min(high - low, 1e12))),
        n=draw(st.none() | st.integers(1, 10_000)),
        chosen=draw(st.sampled_from(c.CHOSEN)),
        zca=draw(st.none() | st.booleans()),
        task=draw(st.just("") | WORDS),
        quoted=draw(st.booleans()),
        source=draw(WORDS),
        recipe="" if "method" in external else draw(st.sampled_from(["", "authors", "cpu"])),
        caveat=draw(st.just("") | WORDS),
        note=draw(st.just("") | WORDS),
    )
    return c._made(values)


SEVERAL = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@SEVERAL
@given(found=st.lists(claims_of(), max_size=4, unique_by=lambda x: x.id))
def test_any_claims_survive_being_written_and_read(tmp_path, found):
    c.write(tmp_path / "any.csv", found)
    assert c.read(tmp_path / "any.csv") == found


HEAD = ",".join(c.COLUMNS).encode() + b"\n"
CELLS = st.text(max_size=12) | st.sampled_from(
    [
        "",
        "10",
        "-1",
        "1e999",
        "nan",
        "yes",
        "top1",
        "last",
        "dm",
        "cifar10",
        "ConvNet",
        "dc-dsa",
        "0" * 400,
        "ipc",
        "method ipc",
    ]
)
LINES = st.lists(CELLS, min_size=len(c.COLUMNS), max_size=len(c.COLUMNS)).map(
    lambda cells: ",".join(cells).encode("utf-8", "surrogatepass") + b"\n"
)


@settings(SEVERAL, max_examples=400)
@given(
    data=st.binary(max_size=200)
    | st.binary(max_size=200).map(lambda b: HEAD + b)
    | LINES.map(lambda b: HEAD + b)
)
def test_garbage_is_refused_with_file_and_line_and_nothing_else_happens(tmp_path, data):
    path = tmp_path / "g.csv"
    path.write_bytes(data)
    for reader in (c.read, c.read_raw):
        try:
            found = reader(path)
        except ValueError as error:
            assert type(error) is ValueError and re.search(r"g\.csv line \d+: ", str(error)), error
        else:
            assert all(isinstance(x, Claim) for x in found)


# ------------------------------------------------------------------------------------------------ finding


def test_claims_are_found_however_a_name_is_spelt():
    by_ours = c.find(CLAIMS, method="dm", dataset="cifar10", ipc=10)
    assert c.find(CLAIMS, method="DM", dataset="CIFAR-10", ipc=10) == by_ours and len(by_ours) == 5
    assert c.find(CLAIMS, method="dm+fyi") == c.find(CLAIMS, method="fyi+dm") != []
    assert c.find(CLAIMS, protocol="mtt-zca") == c.find(CLAIMS, protocol="mtt")
    assert c.find(CLAIMS, network="ConvNetD3") == c.find(CLAIMS, network="ConvNet")
    assert {x.dataset for x in c.find(CLAIMS, dataset="imagenette")} == {
        "imagenette",
        "imagenette?resize=squash",
    }
    assert {x.method for x in c.find(CLAIMS, method="kcenter")} == {"k_center"}


def test_external_names_are_found_and_ours_without_claims_find_nothing():
    assert {x.paper for x in c.find(CLAIMS, method="kip")} == {"dc_bench"}
    assert c.find(CLAIMS, dataset="digits") == []
    assert {x.ours for x in c.find(CLAIMS, ours=True)} == {True}
    assert len(c.find(CLAIMS, ours=True)) + len(c.find(CLAIMS, ours=False)) == len(CLAIMS)
    assert {x.paper for x in c.find(CLAIMS, paper="dq")} == {"dq"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(method="randm"), r"no method 'randm' in the claims; nearest: random \(see: ddbench claims\)"),
        (dict(dataset="cifr10"), r"no data set 'cifr10' in the claims; nearest: cifar10"),
        (dict(protocol="dc-das"), r"no protocol 'dc-das' in the claims; nearest: .*dc-dsa"),
        (dict(network="ConvNetX"), r"no network 'ConvNetX' in the claims; nearest: ConvNet"),
        (
            dict(method="nosuch"),
            r"no method 'nosuch' in the claims; nearest of the \d+ there: (\S+, ){4}\S+ \(see: ddbench",
        ),
        (dict(paper="datmm"), r"no paper 'datmm' in the claims; nearest: datm"),
    ],
)
def test_a_wrong_name_gets_the_nearest(asked, message):
    with pytest.raises(LookupError, match=message):
        c.find(CLAIMS, **asked)


# ------------------------------------------------------------------------------------------------ the command


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(["claims", *arguments])
    said = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, said.out, said.err


def test_the_command_shows_numbers_with_their_sources_and_ends_with_counts(capsys):
    status, out, _ = run(capsys, "--method", "fyi+dm", "--dataset", "cifar10", "--ipc", "10")
    assert status == 0
    assert out.splitlines()[1] == "fyi+dm on cifar10"
    assert re.search(r"10 +53.1 ± 0.6 +ConvNet +dc-dsa-flip +last +fyi-\w{6} +cvlab", out)
    assert out.rstrip().endswith(
        "1 claim of 1 paper: 1 that ddbench could measure, 0 with a caveat, 0 quoted, "
        "0 cells with sources that disagree"
    )


def test_the_command_says_each_caveat_once_below_the_table(capsys):
    _, out, _ = run(capsys, "--method", "fyi+ftd", "--dataset", "cifar10")
    assert out.count("FYI's code for this base is not released") == 1
    assert "\n[1] FYI's code for this base is not released\n" in out
    assert len(re.findall(r"^ .* \[1\] +fyi-\w{6} ", out, re.MULTILINE)) == 3 and "3 with a caveat" in out


def test_the_command_finds_a_recipe_by_the_name_under_which_it_was_published(capsys):
    _, out, _ = run(capsys, "--method", "IDC-I", "--dataset", "cifar10", "--json")
    assert {(x["method"], x["recipe"], x["ipc"], x["value"]) for x in json.loads(out)} == {
        ("idc", "idc-i", 1, 36.7), ("idc", "idc-i", 10, 58.3), ("idc", "idc-i", 50, 69.5),
    }  # fmt: skip


def test_the_command_without_a_filter_shows_the_papers(capsys):
    status, out, _ = run(capsys)
    assert status == 0 and len(out.splitlines()) < 40
    assert re.search(r"^fyi +87 +84 +3 +45 +21 +\d+$", out, re.MULTILINE)
    assert "1468 claims of 28 papers: 596 that ddbench could measure" in out


def test_the_command_shows_both_sides_of_a_conflict(capsys):
    _, out, _ = run(capsys, "--conflicts", "--method", "dm")
    values = re.findall(r"(\d\d\.\d) ± ", out)
    assert sorted(values) == ["75.1", "76.1", "78.8", "79.8"] and "2 cells with sources that disagree" in out


def test_the_command_gives_whole_claims_as_json(capsys):
    _, out, _ = run(capsys, "--paper", "tesla", "--ours", "--json")
    found = json.loads(out)
    assert len(found) == 7 and all(x["ours"] and x["quoted"] for x in found)
    assert Claim(**{k: v for k, v in found[0].items() if k != "ours"}) in CLAIMS


def test_the_command_says_the_nearest_name(capsys):
    status, _, err = run(capsys, "--method", "randm")
    assert status == 2 and "no method 'randm' in the claims; nearest: random" in err


def test_the_command_says_what_there_is_where_nothing_fits(capsys):
    status, out, err = run(capsys, "--method", "dm", "--dataset", "cifar10", "--ipc", "3")
    assert status == 0 and out.startswith("(none)\n")
    assert re.search(
        r"^warning: no claim with ipc 3; those of method dm, dataset cifar10 have ipc 1, 10, 50\b",
        err,
        re.MULTILINE,
    )
    status, out, err = run(capsys, "--method", "dm", "--ipc", "3", "--network", "VGG11", "--json")
    assert status == 0 and json.loads(out) == [] and err.startswith("warning: no claim ")


def test_a_paper_is_imported_from_free_spellings(capsys, tmp_path):
    mine = tmp_path / "mine.csv"
    with mine.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, c.RAW)
        writer.writeheader()
        writer.writerows([raw(), raw(method="KIP", ipc="1")])
    status, out, _ = run(capsys, "--import", str(mine), "--out", str(tmp_path / "out"))
    assert status == 0 and "2 claims of 1 paper: 1 that ddbench could measure" in out
    found = c.read(tmp_path / "out" / "mine.csv")
    assert [(x.method, x.dataset, x.external) for x in found] == [
        ("dm", "cifar10", ()),
        ("kip", "cifar10", ("method",)),
    ]
    status, _, err = run(capsys, "--import", str(mine))
    assert status == 2 and "--import was given alone; expected --import FILE.csv --out DIR" in err
    status, _, err = run(capsys, "--import", str(mine), "--out", str(tmp_path), "--method", "dm")
    assert status == 2 and "--method goes with claims that are there; expected none with --import" in err


# ------------------------------------------------------------------------------------------------ the page


def test_the_page_has_the_table_of_papers():
    from ddbench.commands.claims import by_paper

    page = (ROOT / "docs/claims.md").read_text(encoding="utf-8")
    for row in by_paper(CLAIMS):
        cells = [
            f"`{row['paper']}`",
            *(str(row[k]) for k in ("rows", "ours", "external", "quoted", "caveat", "in conflict")),
        ]
        assert f"| {' | '.join(cells)} |" in page
    assert "| **all** | **1,468** | **596** |" in page
    for column in c.COLUMNS:
        assert f"`{column}`" in page
