"""Augmentations by the names that plans, recipes and settings give them; the one place that knows them all."""

from __future__ import annotations

from torch import Tensor

from ddbench.augment.classic import ClassicDC
from ddbench.augment.crops import CropFlip
from ddbench.augment.dsa import DSA
from ddbench.trainplan import AUGMENTS, check_augment

Augmentation = DSA | ClassicDC | CropFlip
CROPS = ("crop-flip", "resized-flip")
SIAMESE = tuple(name for name in AUGMENTS if name not in ("dc", *CROPS))
"""Those that a real and a synthetic batch can share and that can be differentiated."""


def augmentation(
    name: str, flip: bool, network: str = "", dataset: str = "", fill: Tensor | None = None
) -> Augmentation | None:
    """The augmentation of a name; None where nothing is augmented.

    Args:
        name: ``none`` | ``dsa`` (one of six operations a batch) | ``dsa-flip`` (FYI: a flip always, then one of five) |
            ``dc`` (DC's own, by data set and network) | ``diffaug:NAMES`` (IDC and NCFM; NAMES such as ``color_crop_cutout``) |
            ``crop-flip`` (pad 4, crop back, mirror) | ``resized-flip`` (random resized crop, mirror).
        flip: whether a mirrored image keeps its class; without it no form mirrors.
        network, dataset: registered names, a form of a data set (``mnist?...``) too; they decide what ``dc`` is.
        fill: (C,) network input of a black pixel, with which ``crop-flip`` pads; None: 0.

    Raises:
        ValueError: another name.
    """
    check_augment(name)
    if name == "dc":
        return ClassicDC.in_protocol(dataset.partition("?")[0], network)
    if name in CROPS:
        return CropFlip(name == "resized-flip", flip, fill)
    return siamese(name, flip)


def siamese(name: str, flip: bool) -> DSA | None:
    """As :func:`augmentation`, of those in :data:`SIAMESE`.

    Raises:
        ValueError: another name.
    """
    check_augment(name, SIAMESE)
    if name == "none":
        return None
    if name == "dsa":
        return DSA.classic(flip)
    if name == "dsa-flip":
        return DSA.fyi(flip)
    return DSA.diffaug(name.partition(":")[2], flip)
