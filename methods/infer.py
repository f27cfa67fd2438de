"""INFER: a few real images of every class, and per network perturbations that all classes share, added to them.

A perturbation ("compensator") belongs to one network and to one number j: added to the j-th natural image of every class at
once, it lowers the cross-entropy of that network and the distance from its batch-norm statistics.  Of M networks come M
further images per natural image, for the price of M images in all, however many classes there are.  Views are labelled by
the mean of the M networks' logits; score the set under ``infer-static`` (answers to the clean items, mixed as the images are)
or ``infer-dyn`` (answers to the very batch).

Source: Zhang, Du, Liu and Zhou, "Breaking Class Barriers: Efficient Dataset Distillation via Inter-Class Feature Compensator",
ICLR 2025, arXiv:2408.06927, and its code (zhangxin-xd/UFC).
Departures: naturals are stored as bytes and compensators as fp16 on the [0, 1] scale, merged as they are read; the authors'
files are the merged images, as JPEG.  The paper counts a compensator as one image, but in fp16 it takes the bytes of two, so
that its rule (``budget="images"``) may store more bytes than ``ipc`` images a class: then that is noted, and
``budget="bytes"`` stores fewer naturals instead.  One normalisation a data set: on CIFAR-10 the authors' teachers and their
distillation differ in it.  Naturals are drawn by the seed (on ImageNet the authors take the first files of each folder).
ImageNet: the released code does not run as it stands; network m takes the m-th run of numbers, with ImageNet's statistics.
Its authors squash whole pictures to 224x224: that is the data set ``imagenet1k?resize=squash``, which takes the row of
``imagenet1k`` (a recipe cannot choose the form of a data set); ``imagenet1k`` itself gives central squares.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddbench.codecs import infer_naturals
from ddbench.contract import CodecSpec, DistilledSet, Labeller, NotApplicable, Targets, Task
from ddbench.matching.recovery import Recovery, compensate
from ddbench.matching.sampling import take
from ddbench.matching.selection import class_pools, random_choice
from ddbench.registry import method
from ddbench.train.squeeze import squeeze_name
from ddbench.train.squeezed import space_of, squeezed

BUDGETS = {"images": 1, "bytes": 2}
"""What a compensator counts, in images; naturals take one byte a value, fp16 two."""


@method(family="recovery", paper="arXiv:2408.06927", labels="labeller", matches=False)
@dataclass(frozen=True)
class INFER:
    networks: tuple[str, ...] = ("ResNet18BN", "MobileNetV2", "EfficientNetB0", "ShuffleNetG2")
    """Networks with batch norm, a run of compensators each; together they label the views."""
    squeeze: str = "auto"
    """Named recipe of their training: ``infer`` (the authors' data sets) | ``quick`` (any) | another method's; ``auto``:
    ``infer`` where it has a row, else ``quick``."""
    iterations: int = 1000
    """Updates of a compensator (count)."""
    lr: float = 0.25
    """Adam's first step, in units of the network's input (dimensionless); falls to 0 by half a cosine."""
    bn_weight: float = 1.0
    """Weight of the batch-norm loss beside the cross-entropy (dimensionless)."""
    crop: bool = False
    """Whether a step shows a random resized crop, one for all classes."""
    flip: bool = False
    """Whether a step mirrors with probability 1/2, all classes alike; never where the data set forbids it."""
    roll: tuple[int, int] = (0, 4)
    """Least and greatest cyclic shift of both axes (pixels)."""
    budget: str = "images"
    """What ``ipc`` pays for: ``images`` (a compensator counts as one, as in the paper) | ``bytes`` (as two: it is fp16)."""

    def __post_init__(self) -> None:
        if self.budget not in BUDGETS:
            raise ValueError(f"budget is {self.budget!r}; expected {' or '.join(BUDGETS)}")
        if not self.networks:
            raise ValueError("networks is empty; expected at least one network, each gives compensators")
        self.recovery(flip=self.flip)

    def recovery(self, flip: bool) -> Recovery:
        """Settings of the loop; ``flip``: whether it mirrors."""
        return Recovery(
            iterations=self.iterations,
            lr=self.lr,
            bn_weight=self.bn_weight,
            crop=self.crop,
            flip=flip,
            roll=self.roll,
        )

    def naturals(self, ipc: int, classes: int) -> int:
        """Natural images a class: floor(ipc / (1 + M / classes)), M the networks (twice as many for ``bytes``).

        Raises:
            NotApplicable: none is left; says from which ipc on there is one."""
        counted = BUDGETS[self.budget] * len(self.networks)
        found = infer_naturals(ipc, classes, counted)
        if found < 1:
            price = "an image" if self.budget == "images" else "two images"
            raise NotApplicable(
                f"ipc {ipc} leaves INFER no image of {classes} classes: its budget rule stores "
                f"floor(ipc / (1 + {counted} / {classes})) real images a class, as every real image a class brings "
                f"{len(self.networks)} compensators (one a network) that count as {price} each; expected ipc "
                f"{1 + -(-counted // classes)} or more, or fewer networks"
            )
        return found

    def distill(self, task: Task) -> DistilledSet:
        train = task.train
        pools = class_pools(train, task.ipc)
        count = self.naturals(task.ipc, train.classes)
        values = train.images[0].numel()
        stored = (train.classes + 2 * len(self.networks)) * count * values
        if stored > task.items * values:
            task.note(
                "bytes",
                f"compensators in fp16 take two bytes a value: the images take {stored} bytes, those of ipc {task.ipc} as "
                f"uint8 {task.items * values} (budget=bytes stays below)",
            )
        teachers = squeezed(task, self.networks, squeeze_name(self.squeeze, "infer", train.name))
        space = space_of(teachers[0], task)
        chosen = random_choice(pools, count, task.rng("naturals")).view(train.classes, count).T
        naturals = take(train, chosen.flatten(), torch.device("cpu")).view(count, train.classes, *train.shape)
        found = compensate(task, teachers, naturals, self.recovery(self.flip and train.flip), space)
        labeller = Labeller(tuple(t.ref() for t in teachers), space)
        return task.distilled(
            tensors={
                "naturals": naturals.flatten(0, 1),
                "compensators": self.unit_scale(found, space.std).flatten(0, 1),
            },
            targets=Targets(ids=torch.arange(train.classes).repeat(count), labeller=labeller),
            space=replace(space, stored="unit"),
            codec=CodecSpec("compensated", {"per_class": count}),
        )

    def unit_scale(self, found: Tensor, std: tuple[float, ...]) -> Tensor:
        """Compensators (M, J, C, H, W) in units of the network's input -> fp16 on the [0, 1] scale, as stored."""
        return (found.cpu() * torch.tensor(std).view(-1, 1, 1)).half()


_FOUR = ("ResNet18BN", "MobileNetV2", "EfficientNetB0", "ShuffleNetG2")
_THREE = ("torchvision:resnet18", "torchvision:mobilenet_v2", "torchvision:efficientnet_b0")
_SCRIPTS = "scripts of the authors' code, arXiv:2408.06927"
_CIFAR = dict(networks=_FOUR, iterations=1000, lr=0.25, bn_weight=1.0, crop=False, flip=False, roll=(0, 4))
RECIPES = {
    ("authors", "cifar10", None): dict(_CIFAR, source=_SCRIPTS),
    ("authors", "cifar100", None): dict(_CIFAR, source=_SCRIPTS),
    ("authors", "imagenet1k", None): dict(
        networks=_THREE,
        iterations=2000,
        lr=0.25,
        bn_weight=0.01,
        crop=True,
        flip=True,
        roll=(0, 32),
        source=_SCRIPTS,
    ),
    ("digits", "digits", None): dict(
        networks=("ConvNetD2W32BN", "ConvNetD1W64BN", "ConvNetD2W32BNMP", "ConvNetD2W32ALBN"),
        squeeze="quick",
        budget="bytes",
        iterations=100,
        roll=(0, 1),
        source="ours, for 8x8 images",
    ),
    ("cpu", "mnist", None): dict(
        networks=("ConvNetD2W32BN", "ConvNetW32BN"),
        squeeze="quick",
        budget="bytes",
        iterations=200,
        roll=(0, 2),
        source="ours, minutes on two CPU cores",
    ),
    ("cpu", "cifar10", None): dict(
        networks=("ConvNetD2W32BN", "ConvNetW32BN"),
        squeeze="quick",
        budget="bytes",
        iterations=200,
        source="ours, minutes on two CPU cores",
    ),
}
