"""FYI, "flip your images": a wrapper that shows each synthetic image together with its mirror image while distilling.

Source: Son, Oh, Baek and Ham, "FYI: Flip Your Images for Dataset Distillation", ECCV 2024, arXiv:2407.08113, and its code
(cvlab-yonsei/FYI).  Write ``fyi+dm``, ``fyi+dsa``, ``fyi+mtt``: the base keeps its loss, networks, step sizes and recipes.
The mirror images join before augmentation, in the matching step and in every mini-batch of an inner training; they are never
stored, and evaluation does not see them.  Around ``mtt`` and its descendants a student's step takes half as many images, so
that with their mirror images it sees as many as without, and visits each half as often (cifar10 at ipc 1: 5 images a step).
Departures: none in a step; the released code scores the set after its last update and stops there, as every method here does.
Its changed augmentation (a flip always, then one of five operations) is a setting of its own, since it is worth points
without mirror images too: with ``always_flip`` it is used while distilling, for the experts of ``fyi+mtt`` too (its code shares
the function; they are then not the experts of ``mtt``), and the protocols ``dc-dsa-flip`` and, of ``fyi+mtt``, ``mtt-flip``
use it in evaluation.  What else it changes in a base is a recipe of that base (``fyi``: fewer loops of ``dc`` and ``dsa`` on
cifar100 at ipc 50; TESLA's gradient and twice the iterations of ``mtt`` on cifar10 at ipc 1, whose other recipes have the exact
gradient); unlike its fork, DM keeps networks with batch norm.  There is no code for IDC (nor NCFM), where mirror images
join after decoding, nor for FTD, which is wrapped as ``mtt`` is.
Data sets whose classes a mirror would change (digits) are not refused, but the idea does not hold there.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ddbench.registry import method


@method(family="wrapper", paper="arXiv:2407.08113", labels="hard", wrapper=True)
@dataclass(frozen=True)
class FYI:
    always_flip: bool = True
    """Replace the base's augmentation ``dsa`` by ``dsa-flip``, as the released code does; other augmentations stay."""

    def wrap(self, base: Any) -> Any:
        """The base method with the augmentation of FYI's code."""
        if self.always_flip and getattr(base, "augment", None) == "dsa":
            return replace(base, augment="dsa-flip")
        return base

    def view(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W), then their mirror images; labels (N,) twice.  Gradients of both halves add up in the pixels."""
        return torch.cat([images, images.flip(-1)]), torch.cat([labels, labels])
