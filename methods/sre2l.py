"""SRe2L: squeeze the data into a network with batch norm, recover images from it, let it label their views.

Source: Yin, Xing and Shen, "Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective",
NeurIPS 2023, arXiv:2306.13092, and its code (VILA-Lab/SRe2L).
Departures: every cell of images (one id, one run of classes) draws from a random stream of its own, where the code never
seeds; images are kept as bytes, without JPEG unless ``stored`` is ``jpeg75``; how views are labelled is the protocol's
(``sre2l-kd``).  Label ids are kept beside the teacher, so that protocols of hard labels score the set too.  CIFAR-10 is not
in the repository: its row is that of CIFAR-100.  The paper's image priors have the weight 0 of every published
setting; the total variation of absolute differences, which the code computes and never uses, is not here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ddbench.contract import DistilledSet, Task
from ddbench.matching.recovery import Recovery, recover
from ddbench.matching.selection import class_pools
from ddbench.registry import method
from ddbench.train.squeeze import squeeze_name
from ddbench.train.squeezed import check_kept, class_sorted, labelled, space_of, squeezed


@method(family="recovery", paper="arXiv:2306.13092", labels="labeller", matches=False)
@dataclass(frozen=True)
class SRe2L:
    network: str = "ResNet18BN"
    """Network, with batch norm, that the data are squeezed into: images are recovered from it, and it labels them."""
    squeeze: str = "auto"
    """Named recipe of its training (``ddbench/train/squeeze.py``); ``auto``: ``sre2l`` where it has a row, else ``quick``."""
    iterations: int = 4000
    """Updates of every image (count)."""
    lr: float = 0.25
    """Adam's first step on standardised pixels (dimensionless); half a cosine to 0."""
    bn_weight: float = 0.01
    """Weight of the batch-norm loss (dimensionless)."""
    classes_at_once: int = 100
    """Classes whose images share batch-norm statistics, one image each (count)."""
    crop: bool = True
    """Whether the network sees random resized crops, one for all images of a cell."""
    flip: bool = True
    """Whether it sees mirrored images half of the time; never where the data set forbids it."""
    roll: tuple[int, int] = (0, 32)
    """Least and greatest cyclic shift (pixels)."""
    tv_weight: float = 0.0
    """Weight of the total variation of a view (dimensionless)."""
    l2_weight: float = 0.0
    """Weight of the norm of a view (dimensionless)."""
    stored: str = "uint8"
    """How images are kept: ``uint8`` | ``jpeg75`` (after the JPEG round trip of the authors' files)."""

    def __post_init__(self) -> None:
        self.recovery(flip=True)
        check_kept(self.stored)

    def recovery(self, flip: bool) -> Recovery:
        """Settings of the loop; ``flip``: whether a mirrored image keeps its class."""
        return Recovery(
            iterations=self.iterations,
            lr=self.lr,
            bn_weight=self.bn_weight,
            classes_at_once=self.classes_at_once,
            crop=self.crop,
            flip=self.flip and flip,
            roll=self.roll,
            tv_weight=self.tv_weight,
            l2_weight=self.l2_weight,
        )

    def distill(self, task: Task) -> DistilledSet:
        class_pools(
            task.train, min(task.ipc, 1)
        )  # images start from noise: only an empty class is in the way
        squeeze = squeeze_name(self.squeeze, "sre2l", task.train.name)
        teachers = squeezed(task, (self.network,), squeeze)

        def finished(images: Tensor) -> DistilledSet:
            return labelled(task, *class_sorted(images), teachers, how=self.stored)

        settings, space = self.recovery(task.train.flip), space_of(teachers[0], task)
        images = recover(task, teachers, torch.ones(task.ipc, 1), settings, space, show=finished)
        return finished(images)


_TABLE = "settings of the released scripts of arXiv:2306.13092"
_CIFAR = dict(iterations=1000, lr=0.25, bn_weight=0.01, crop=False, flip=False, roll=(0, 4))
_SMALL = dict(
    network="ConvNetD2W32BN",
    squeeze="quick",
    iterations=300,
    lr=0.1,
    bn_weight=1.0,
    classes_at_once=10,
    roll=(0, 0),
)
_CPU = dict(network="ConvNetW32BN", squeeze="quick", lr=0.1, classes_at_once=10)
RECIPES = {
    ("authors", "imagenet1k", None): dict(
        network="torchvision:resnet18",
        iterations=4000,
        lr=0.25,
        bn_weight=0.01,
        classes_at_once=100,
        source=_TABLE,
    ),
    ("authors", "tiny_imagenet", None): dict(
        iterations=4000, lr=0.1, bn_weight=1.0, classes_at_once=100, roll=(-4, 4), source=_TABLE
    ),
    ("authors", "cifar100", None): dict(**_CIFAR, classes_at_once=100, source=_TABLE),
    ("authors", "cifar10", None): dict(
        **_CIFAR, classes_at_once=10, source="not official: the row of CIFAR-100"
    ),
    ("digits", "digits", None): dict(**_SMALL, source="ours, for 8x8 images"),
    ("cpu", "mnist", None): dict(
        **_CPU, iterations=1000, bn_weight=10.0, roll=(0, 0), source="ours, minutes on two CPU cores"
    ),
    ("cpu", "cifar10", None): dict(
        **_CPU, iterations=300, bn_weight=1.0, roll=(0, 4), source="ours, minutes on two CPU cores"
    ),
}
