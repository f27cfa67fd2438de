"""Named recipes of teachers: the authors' rows as the specs have them, and ours."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from conftest import blobs

from ddbench import data, registry
from ddbench.contract import TeacherRecipe, Trained
from ddbench.task import RunTask
from ddbench.train.networks import check, lr_at
from ddbench.train.squeeze import (
    NAMES,
    SQUEEZES,
    quick,
    squeeze_name,
    squeeze_recipe,
    squeeze_row,
    with_settings,
)
from ddbench.train.teachers import evaluate, train_networks

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ROWS = [(name, dataset) for name, rows in SQUEEZES.items() for dataset in rows]
SGD01 = dict(
    optimiser="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4, batch=128, epochs=200, schedule="cosine"
)
ADAM = dict(optimiser="adam", lr=1e-3, weight_decay=1e-4, batch=512, epochs=200, schedule="cosine")
TINY = dict(optimiser="sgd", lr=0.2, momentum=0.9, weight_decay=1e-4, batch=256, epochs=50, warmup=5)


@pytest.mark.parametrize(
    ("name", "dataset", "fields", "augment", "statistics"),
    [
        ("sre2l", "cifar10", SGD01, "crop-flip", ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))),
        ("sre2l", "cifar100", SGD01, "crop-flip", ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))),
        ("sre2l", "tiny_imagenet", TINY, "resized-flip", ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))),
        ("cvdd", "cifar10", ADAM, "crop-flip", ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
        ("cvdd", "cifar100", ADAM, "crop-flip", ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))),
        (
            "cvdd", "tiny_imagenet",
            dict(optimiser="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4, batch=128, epochs=50, schedule="cosine"),
            "crop-flip", IMAGENET,
        ),
        (
            "cvdd", "imagenette",
            dict(optimiser="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4, batch=64, epochs=300, period=100),
            "resized-flip", IMAGENET,
        ),
        ("infer", "cifar10", SGD01, "crop-flip", ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
        ("infer", "cifar100", SGD01, "crop-flip", ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))),
        ("rded", "cifar10", SGD01, "crop-flip", IMAGENET),
        ("rded", "cifar100", SGD01, "crop-flip", IMAGENET),
        ("rded", "tiny_imagenet", TINY, "resized-flip", IMAGENET),
        ("rded", "imagenette", dict(lr=0.1, epochs=90, milestones=(30, 60)), "resized-flip", IMAGENET),
        ("rded", "imagewoof", dict(lr=0.1, epochs=90, milestones=(30, 60)), "resized-flip", IMAGENET),
    ],
)  # fmt: skip
def test_the_authors_rows_are_those_of_the_specs(
    name: str, dataset: str, fields: dict[str, Any], augment: str, statistics: tuple
) -> None:
    recipe = squeeze_recipe(name, "ResNet18BN", dataset)
    assert {k: getattr(recipe, k) for k in fields} == fields
    assert (recipe.augment, recipe.mean, recipe.std) == (augment, *statistics)
    assert recipe.network == "ResNet18BN" and recipe.mix == "none" and not recipe.weights


@pytest.mark.parametrize(("name", "dataset"), ROWS)
def test_every_row_of_the_authors_trains_on_everything_and_has_a_source(name: str, dataset: str) -> None:
    assert len(ROWS) == 18
    recipe = squeeze_recipe(name, "ResNet18BN", dataset)
    check(recipe)
    assert recipe.held_out == 0.0 and recipe.per_class is None and recipe.count == 1
    assert len(squeeze_row(name, dataset).source) > 20


def test_tinys_learning_rate_warms_up_from_a_hundredth_and_falls_as_a_cosine() -> None:
    recipe = squeeze_recipe("sre2l", "ResNet18BN", "tiny_imagenet")
    first = [lr_at(recipe, e) for e in range(6)]
    assert first == pytest.approx([0.002, 0.0416, 0.0812, 0.1208, 0.1604, 0.2])
    assert lr_at(recipe, 49) == pytest.approx(0.1 * (1 + math.cos(math.pi * 44 / 45)))


def test_the_learning_rate_of_cvdds_imagenette_rises_again() -> None:
    recipe = squeeze_recipe("cvdd", "ResNet18BN", "imagenette")
    rates = [lr_at(recipe, e) for e in (0, 50, 100, 150, 200, 250, 299)]
    assert rates == pytest.approx(
        [0.01, 0.005, 0, 0.005, 0.01, 0.005, 0.005 * (1 + math.cos(2.99 * math.pi))]
    )


@pytest.mark.parametrize("name", SQUEEZES)
def test_imagenets_teachers_are_torchvisions(name: str) -> None:
    recipe = squeeze_recipe(name, "torchvision:resnet18", "imagenet1k")
    assert (recipe.network, recipe.weights) == ("torchvision:resnet18", "IMAGENET1K_V1")
    assert (recipe.mean, recipe.std) == IMAGENET
    committee = ("ResNet18BN", "ResNet50BN", "ShuffleNetV2", "MobileNetV2", "DenseNet121", "EfficientNetB0")
    assert [squeeze_recipe(name, n, "imagenet1k").network for n in committee] == [
        f"torchvision:{n}"
        for n in (
            "resnet18",
            "resnet50",
            "shufflenet_v2_x1_0",
            "mobilenet_v2",
            "densenet121",
            "efficientnet_b0",
        )
    ]
    with pytest.raises(
        LookupError, match="takes public weights on imagenet1k, and ConvNetBN has none; expected a"
    ):
        squeeze_recipe(name, "ConvNetBN", "imagenet1k")


def test_a_form_of_a_data_set_has_the_row_of_the_data_set() -> None:
    assert squeeze_recipe("cvdd", "ResNet18BN", "imagenette?resize=squash") == squeeze_recipe(
        "cvdd", "ResNet18BN", "imagenette"
    )


def test_what_there_is_no_row_for_is_named_with_what_there_is() -> None:
    with pytest.raises(
        LookupError,
        match=r"'infer' for teachers has no row for tiny_imagenet; it has cifar10, cifar100, imagenet1k; 'quick'",
    ):
        squeeze_recipe("infer", "ResNet18BN", "tiny_imagenet")
    with pytest.raises(LookupError, match="no recipe 'sre2' for teachers; nearest: sre2l"):
        squeeze_recipe("sre2", "ResNet18BN", "cifar10")
    with pytest.raises(LookupError, match="no recipe 'zzzzzz' for teachers; (known|expected).*quick"):
        squeeze_recipe("zzzzzz", "ResNet18BN", "cifar10")
    with pytest.raises(LookupError, match="no network 'ResNet19'"):
        squeeze_recipe("sre2l", "ResNet19", "cifar10")
    assert NAMES == ("sre2l", "cvdd", "infer", "rded", "quick")


@pytest.mark.parametrize(
    ("dataset", "augment", "epochs", "per_class"),
    [
        ("digits", "none", 20, None),
        ("mnist", "crop-flip", 5, 1000),
        ("cifar10", "crop-flip", 5, 1000),
        ("cifar100", "crop-flip", 5, 100),
        ("tiny_imagenet", "resized-flip", 5, 50),
        ("imagenette", "resized-flip", 5, 1000),
        ("imagefolder:/somewhere", "none", 10, 1000),
        ("somebodys_own", "none", 10, 1000),
    ],
)
def test_quick_is_for_any_data_set_by_its_size(
    dataset: str, augment: str, epochs: int, per_class: int | None
) -> None:
    recipe = squeeze_recipe("quick", "ConvNetD2W32BN", dataset)
    check(recipe)
    assert (recipe.augment, recipe.epochs, recipe.per_class) == (augment, epochs, per_class)
    assert recipe.held_out == 0.1 and recipe.schedule == "cosine" and recipe.mean is None
    assert squeeze_row("quick", dataset) == quick(dataset)


def test_quick_makes_a_good_teacher_of_digits(fresh_cache: object) -> None:
    real = data.load("digits")
    recipe = squeeze_recipe("quick", "ConvNetD2W32BN", "digits")
    (made,) = train_networks(real.train, recipe, "cpu")
    assert made.accuracy > 0.96 and evaluate(made.fingerprint, real) > 0.97


@pytest.mark.parametrize(
    ("name", "own", "dataset", "expected"),
    [
        ("auto", "sre2l", "cifar10", "sre2l"),
        ("auto", "cvdd", "imagenette?resize=squash", "cvdd"),
        ("auto", "infer", "tiny_imagenet", "quick"),
        ("auto", "rded", "svhn", "quick"),
        ("auto", "sre2l", "imagefolder:/there", "quick"),
        ("cvdd", "sre2l", "cifar10", "cvdd"),
        ("other", "sre2l", "svhn", "other"),
    ],
)
def test_auto_is_the_authors_recipe_where_it_has_the_data_set(
    name: str, own: str, dataset: str, expected: str
) -> None:
    assert squeeze_name(name, own, dataset) == expected


@pytest.mark.parametrize("method", ["sre2l", "cda", "rded", "infer", "cvdd"])
@pytest.mark.parametrize("dataset", ["svhn", "imagefolder:four", "cifar10"])
def test_methods_of_teachers_squeeze_any_data_set_by_default(
    method: str, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        pass

    seen: list[TeacherRecipe] = []

    def teachers(self: RunTask, recipe: TeacherRecipe) -> list[Trained]:
        seen.append(recipe)
        raise Asked

    monkeypatch.setattr(RunTask, "teachers", teachers)
    train = replace(blobs("four", (3, 32, 32), 8, (20, 2)).train, name=dataset)
    with pytest.raises(Asked):
        RunTask(train, 2, 0).run_method(registry.make(method, {}))
    own = "sre2l" if method == "cda" else method
    held = {"held_out": 0.1} if method == "cvdd" else {}
    name = own if dataset == "cifar10" else "quick"
    assert seen == [replace(squeeze_recipe(name, seen[0].network, dataset), **held)]


def test_text_from_a_command_line_becomes_the_type_of_the_field() -> None:
    recipe = with_settings(
        TeacherRecipe(),
        dict(epochs="3", lr="1e-2", milestones="1,2", mean="0.5,", period="none", augment="dsa"),
    )
    assert (recipe.epochs, recipe.lr, recipe.milestones, recipe.mean, recipe.period, recipe.augment) == (
        3, 0.01, (1, 2), (0.5,), None, "dsa",
    )  # fmt: skip
    with pytest.raises(LookupError, match="a recipe of teachers has no field 'epoch'; nearest: epochs"):
        with_settings(TeacherRecipe(), dict(epoch="3"))
    with pytest.raises(ValueError, match=r"setting 'epochs' of teachers is '1\.5'; expected int"):
        with_settings(TeacherRecipe(), dict(epochs="1.5"))
