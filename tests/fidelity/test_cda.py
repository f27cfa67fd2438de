"""CDA against its description (arXiv:2311.18838): the curriculum's values, what crops show, and its loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_recovery import CLASSES, SHAPE, plain_cell, toy_data, toy_teacher

from ddbench import registry
from ddbench.augment.views import CROP_TRIES, resized_boxes
from ddbench.matching.recovery import CURRICULA, Recovery, least_area, resampling, to_bytes
from ddbench.task import RunTask


@pytest.mark.parametrize(
    ("mode", "milestone", "values"),
    [
        ("cosine", 1.0, {0: 1, 500: 0.964985, 1000: 0.865269, 2000: 0.54, 3000: 0.214731, 3999: 0.080000}),
        ("cosine", 0.5, {0: 1, 500: 0.865269, 1000: 0.54, 1999: 0.080001, 2000: 0.08}),
        ("linear", 1.0, {0: 1, 500: 0.885, 1000: 0.77, 2000: 0.54, 3000: 0.31, 3999: 0.08023}),
        ("linear", 0.5, {1999: 0.08046, 2000: 0.08}),
        ("step", 0.5, {0: 1.0, 1999: 1.0, 2000: 0.08}),
        ("cosine", 0.0, {0: 0.08, 2000: 0.08}),
        ("linear", 0.0, {0: 0.08}),
        ("step", 0.0, {0: 0.08}),
    ],
)
def test_the_curriculum_has_the_values_of_the_description(mode, milestone, values):
    for iteration, value in values.items():
        assert least_area(iteration, 4000, mode, milestone) == pytest.approx(value, abs=1e-6)


@given(st.sampled_from(CURRICULA), st.integers(1, 500), st.floats(0, 1))
def test_the_least_area_never_grows(mode, iterations, milestone):
    found = [least_area(it, iterations, mode, milestone) for it in range(iterations)]
    assert all(b <= a for a, b in zip(found, found[1:], strict=False)) and all(0.08 <= v <= 1 for v in found)


def test_at_one_every_crop_is_the_whole_image():
    draws = torch.rand(3000, CROP_TRIES, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    boxes = resized_boxes(draws.numpy(), (224, 224), (1.0, 1.0))
    assert torch.equal(boxes, torch.tensor([0, 0, 224, 224]).expand(3000, 4))
    whole = torch.tensor([0])
    no = torch.tensor([False])
    assert torch.equal(resampling(whole, whole + 224, 224, no, whole)[0], torch.eye(224, dtype=torch.float64))


@pytest.mark.parametrize(
    ("low", "area", "whole"), [(1.0, 1.0, 1.0), (0.9, 0.942, 0.115), (0.54, 0.716, 0.0), (0.08, 0.481, 0.0)]
)
def test_crops_show_as_much_as_the_description_says(low, area, whole):
    draws = torch.rand(40_000, CROP_TRIES, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    boxes = resized_boxes(draws.numpy(), (224, 224), (low, 1.0))
    shown = (boxes[:, 2] * boxes[:, 3]).double() / 224**2
    assert shown.mean().item() == pytest.approx(area, abs=5e-3)
    assert (shown == 1).double().mean().item() == pytest.approx(whole, abs=6e-3)


def distilled(monkeypatch, name, **settings):
    row = dict(
        network="ConvNetD2W4BN", squeeze="quick", classes_at_once=CLASSES, lr=0.2, bn_weight=0.3, iterations=5
    )
    task, teacher = RunTask(toy_data(), 1, 3), toy_teacher()
    monkeypatch.setattr(task, "teachers", lambda recipe: [teacher])
    return registry.make(name, {**row, "roll": (0, 4), **settings}).distill(task).tensors["images"]


def test_without_a_milestone_it_is_sre2l_to_the_bit(monkeypatch):
    for mode in CURRICULA:
        ours = distilled(monkeypatch, "cda", curriculum=mode, milestone=0.0)
        assert torch.equal(ours, distilled(monkeypatch, "sre2l"))
    assert not torch.equal(distilled(monkeypatch, "cda"), distilled(monkeypatch, "sre2l"))


def test_its_loop_is_the_one_written_out(monkeypatch):
    made = distilled(monkeypatch, "cda")
    teacher, classes = toy_teacher(), torch.arange(CLASSES)
    settings = Recovery(5, 0.2, 0.3, CLASSES, roll=(0, 4), milestone=1.0)
    chance = RunTask(toy_data(), 1, 3).rng("recover-0-0")
    start = torch.randn(CLASSES, *SHAPE, generator=chance)
    lows = [0.08 + 0.92 * (1 + math.cos(math.pi * it / 5)) / 2 for it in range(5)]
    want = plain_cell([teacher], [1.0], start, classes, chance, settings, lows, teacher.space)
    assert torch.equal(made, to_bytes(want, teacher.space))


def test_the_curriculum_is_on_and_rows_are_those_of_the_released_scripts():
    rows = registry.recipes("cda")
    table = {"tiny_imagenet": (0.4, 0.05, 4000, (0, 4)), "imagenet1k": (0.25, 0.01, 4000, (0, 32))}
    for dataset, (lr, weight, iterations, roll) in table.items():
        method = registry.make(
            "cda", {k: v for k, v in rows["authors", dataset, None].items() if k != "source"}
        )
        found = method.recovery(flip=True)
        assert (found.lr, found.bn_weight, found.iterations, found.roll) == (lr, weight, iterations, roll)
        assert (found.classes_at_once, found.curriculum, found.milestone, found.crop) == (
            100,
            "cosine",
            1.0,
            True,
        )
        assert (found.tv_weight, found.l2_weight, found.first_weight) == (0.0, 0.0, 10.0)
