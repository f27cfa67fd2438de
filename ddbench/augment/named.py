"""Augmentations by the names that plans, recipes and settings give them; the one place that knows them all."""

from __future__ import annotations

from ddbench.augment.classic import ClassicDC
from ddbench.augment.dsa import DSA
from ddbench.trainplan import AUGMENTS, check_augment

Augmentation = DSA | ClassicDC
SIAMESE = tuple(name for name in AUGMENTS if name != "dc")
"""Those that a real and a synthetic batch can share and that can be differentiated."""


def augmentation(name: str, flip: bool, network: str = "", dataset: str = "") -> Augmentation | None:
    """The augmentation of a name; None where nothing is augmented.

    Args:
        name: ``none`` | ``dsa`` (one of six operations a batch) | ``dsa-flip`` (FYI: a flip always, then one of five) |
            ``dc`` (DC's own, by data set and network) | ``diffaug:NAMES`` (IDC and NCFM; NAMES such as ``color_crop_cutout``).
        flip: whether a mirrored image keeps its class; without it no form mirrors.
        network, dataset: registered names, a form of a data set (``mnist?...``) too; they decide what ``dc`` is.

    Raises:
        ValueError: another name.
    """
    check_augment(name)
    if name == "dc":
        return ClassicDC.in_protocol(dataset.partition("?")[0], network)
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
