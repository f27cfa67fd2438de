"""The method my_method.  Tests have sentences for names; add the paper's own numbers where it states some."""

from __future__ import annotations

import pytest
import torch

import ddbench
from ddbench import data, registry
from ddbench.contract import DistilledSet


def distill(seed: int = 0, ipc: int = 2, **settings: object) -> DistilledSet:
    """A set from the bundled 8x8 digits; a few steps, to be quick."""
    settings = {"iterations": 5, **settings}
    return ddbench.distill("my_method", "digits", ipc, seed=seed, settings=settings, device="cpu", quiet=True)


def test_my_method_makes_ipc_images_of_each_class() -> None:
    made = distill(ipc=2)
    assert made.tensors["images"].shape == (20, 1, 8, 8)
    assert made.targets.ids is not None
    assert torch.bincount(made.targets.ids.cpu()).tolist() == [2] * 10


def test_my_method_gives_the_same_images_for_the_same_seed_only() -> None:
    first = distill(seed=7).tensors["images"]
    assert torch.equal(first, distill(seed=7).tensors["images"])
    assert not torch.equal(first, distill(seed=8).tensors["images"])


def test_my_method_brings_class_means_closer_to_the_real_ones() -> None:
    real = data.load("digits").train
    inputs = real.space.real_to_input(real.images)
    wanted = torch.stack([inputs[real.of_class(c)].mean(0) for c in range(10)])

    def distance(iterations: int) -> float:
        images = distill(ipc=2, iterations=iterations).tensors["images"].cpu()
        return float((images.view(10, 2, 1, 8, 8).mean(1) - wanted).square().mean())

    assert distance(30) < 0.5 * distance(0)


def test_my_method_says_which_settings_it_has() -> None:
    with pytest.raises(LookupError, match="no field 'iteration'; nearest: iterations"):
        registry.make("my_method", {"iteration": 3})
