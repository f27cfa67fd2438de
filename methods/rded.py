"""RDED: of random crops of real images, those that a trained observer is surest of, tiled into mosaics.  Nothing is optimised.

Of each of ``mipc`` real images of a class the crop with the lowest cross-entropy is its key patch; the ``ipc * factor^2`` key
patches with the lowest become ``ipc`` images of ``factor`` x ``factor`` patches.  No labels are stored but the class ids: the
observer answers for every view that a student sees.  Score it under the protocol ``rded``.

Source: Sun, Shi, Yu and Lin, "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation
Paradigm", CVPR 2024, arXiv:2312.03526, and its code (LINs-lab/RDED).
Departures: images are stored as bytes without loss; the authors' files are JPEG (recipes ``released``).  Patches are
truncated from the byte scale, without the authors' detour through standardised values, whose rounding takes a level from
some pixels.  The authors' synthesis is unseeded.  A class with fewer than ``mipc`` images gives all it has (theirs fails),
which is noted.  ImageNet subsets have 128 pixels a side, as in the authors' ConvNet rows; their ResNet-18 rows on subsets
have 224.  ImageNet-1K: the authors crop the files at full resolution, here those of the prepared central squares of 224 pixels:
nothing outside of them is ever in a patch, and small crops are enlarged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddbench.contract import CodecSpec, DistilledSet, Space, Task
from ddbench.matching.patches import (
    best_crops,
    easiest,
    mosaics,
    resized_crops,
    square_boxes,
    truncated,
)
from ddbench.matching.sampling import take
from ddbench.matching.selection import class_pools, random_choice
from ddbench.registry import method
from ddbench.train.squeeze import squeeze_name
from ddbench.train.squeezed import KEPT, labelled, space_of, squeezed


@method(family="selection", paper="arXiv:2312.03526", labels="labeller", matches=False)
@dataclass(frozen=True)
class RDED:
    network: str = "ResNet18BN"
    """The observer: scores crops, and labels views while students train."""
    squeeze: str = "auto"
    """Named recipe of its training: ``rded`` (the authors' data sets) | ``quick`` (any) | another method's; ``auto``: ``rded``
    where it has a row, else ``quick``."""
    mipc: int = 300
    """Real images drawn a class (count)."""
    num_crop: int = 5
    """Random crops of each (count)."""
    factor: int = 1
    """Patches a side of a stored image (count): 1 up to 64 pixels, 2 above."""
    stored: str = "uint8"
    """``uint8`` | ``jpeg75``: the bytes that a JPEG of quality 75 gives back, as the authors' files (counted as raw bytes)."""
    batch: int = 128
    """Crops that are scored at once (count): bounds the memory, changes rounding only."""

    def __post_init__(self) -> None:
        for name in ("mipc", "num_crop", "factor", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.stored not in KEPT:
            raise ValueError(f"stored is {self.stored!r}; expected {' or '.join(KEPT)}")

    def pools(self, task: Task) -> list[Tensor]:
        """Indices of the real images of each class, enough of them.

        Raises:
            ValueError: fewer images than patches; says which and what to do."""
        train, needed = task.train, task.ipc * self.factor**2
        pools = class_pools(train, task.ipc)
        height, width = train.shape[1:]
        if self.factor > min(height, width):
            raise ValueError(
                f"factor is {self.factor} for images of {height}x{width}; expected at most {min(height, width)}"
            )
        sizes = [len(pool) for pool in pools]
        smallest = min(sizes)
        if needed > min(self.mipc, smallest):
            most = smallest // self.factor**2
            cure = f"lower --ipc to {most}" if most else "lower the factor"
            short = (
                f"mipc is {self.mipc}; raise it to {needed} or more"
                if needed <= smallest
                else f"class {sizes.index(smallest)} has {smallest}; {cure}"
            )
            raise ValueError(
                f"ipc {task.ipc} with factor {self.factor} takes {needed} patches a class, each from an image of its own, "
                f"but {short}"
            )
        if smallest < self.mipc:
            task.note(
                "mipc",
                f"mipc is {self.mipc} but class {sizes.index(smallest)} has {smallest} images; classes that small give all",
            )
        return pools

    def key_patches(
        self, task: Task, observer: nn.Module, space: Space, pool: Tensor, label: int
    ) -> tuple[Tensor, Tensor]:
        """The best of ``num_crop`` random crops of each of ``mipc`` images of a class (all, where it has fewer).

        Args:
            observer: network inputs in ``space`` -> logits.
            pool: indices of the images of the class ``label``.

        Returns:
            int64 (n, 5), in the order of the draw: index of the image, then top, left, height and width of its best crop;
            and the cross-entropies (n,), both on the CPU."""
        train, rng = task.train, task.rng("selection")
        size = train.shape[1], train.shape[2]
        patch = size[0] // self.factor, size[1] // self.factor
        drawn = random_choice([pool], self.mipc, rng)
        boxes = square_boxes(len(drawn) * self.num_crop, size, rng).view(len(drawn), self.num_crop, 4)
        chosen, losses = [], []
        for part in torch.split(torch.arange(len(drawn)), max(1, self.batch // self.num_crop)):
            crops = resized_crops(take(train, drawn[part], task.device).float(), boxes[part], patch)
            inputs = space.unit_to_input(crops.flatten(0, 1) / 255).view_as(crops)
            best, lowest = best_crops(observer, inputs, label, size)
            chosen.append(best)
            losses.append(lowest)
        best = torch.cat(chosen).cpu()
        found = torch.cat([drawn[:, None], boxes[torch.arange(len(drawn)), best]], 1)
        return found, torch.cat(losses).cpu()

    def mosaics(self, task: Task, picks: Tensor) -> Tensor:
        """The images (ipc, C, H, W), uint8, of the picks (ipc * factor^2, 5) of one class, the best first."""
        train = task.train
        size = train.shape[1], train.shape[2]
        patch = size[0] // self.factor, size[1] // self.factor
        parts = [
            truncated(resized_crops(take(train, some[:, 0], task.device).float(), some[:, None, 1:], patch))
            for some in torch.split(picks, self.batch)
        ]
        return mosaics(torch.cat(parts)[:, 0], task.ipc, self.factor, size).cpu()

    def distill(self, task: Task) -> DistilledSet:
        pools = self.pools(task)
        train, needed = task.train, task.ipc * self.factor**2
        squeeze = squeeze_name(self.squeeze, "rded", train.name)
        observer = squeezed(task, [self.network], squeeze, batch_norm=False)[0]
        space = space_of(observer, task)
        # what a time budget leaves out keeps whole real images; a checkpoint holds no pixels
        first = random_choice(pools, needed, task.rng("init"))
        whole = torch.tensor([0, 0, *train.shape[1:]]).expand(len(first), 4)
        picks = torch.cat([first[:, None], whole], 1).view(train.classes, needed, 5)
        ids = torch.arange(train.classes).repeat_interleave(task.ipc)
        codec = CodecSpec("grid", {"factor": self.factor, "kind": "whole", "visit": "patch-shuffle"})

        def finished() -> DistilledSet:
            images = torch.cat([self.mosaics(task, own) for own in picks])
            mosaic = codec if self.factor > 1 else None
            return labelled(task, images, ids, [observer], how=self.stored, codec=mosaic)

        for c in task.loop(train.classes, state=[picks], show=finished):
            found, losses = self.key_patches(task, observer.network, space, pools[c], c)
            order = easiest(losses, needed)
            picks[c] = found[order]
            task.log(loss=losses[order].mean())
        return finished()


_TEXT = "settings of the authors' code and paper, arXiv:2312.03526: all of its scripts"
_FILES = "as authors, with images through a JPEG of quality 75 as in the authors' files"
_SUBSET = "the authors' ConvNet-5 rows at 128 pixels, arXiv:2312.03526"
RECIPES = {
    ("authors", "cifar10", None): dict(network="ResNet18BN", mipc=300, num_crop=5, factor=1, source=_TEXT),
    ("authors", "cifar100", None): dict(network="ResNet18BN", mipc=300, num_crop=5, factor=1, source=_TEXT),
    ("authors", "tiny_imagenet", None): dict(
        network="ResNet18BN", mipc=300, num_crop=5, factor=1, source=_TEXT
    ),
    ("authors", "imagenette", None): dict(
        network="ConvNetD5BN", mipc=300, num_crop=5, factor=2, source=_SUBSET
    ),
    ("authors", "imagewoof", None): dict(
        network="ConvNetD5BN", mipc=300, num_crop=5, factor=2, source=_SUBSET
    ),
    ("authors", "imagenet1k", None): dict(
        network="torchvision:resnet18", mipc=300, num_crop=5, factor=2, source=_TEXT
    ),
    ("released", "cifar10", None): dict(
        network="ResNet18BN", mipc=300, num_crop=5, factor=1, stored="jpeg75", source=_FILES
    ),
    ("released", "cifar100", None): dict(
        network="ResNet18BN", mipc=300, num_crop=5, factor=1, stored="jpeg75", source=_FILES
    ),
    ("released", "tiny_imagenet", None): dict(
        network="ResNet18BN", mipc=300, num_crop=5, factor=1, stored="jpeg75", source=_FILES
    ),
    ("convnet", "cifar10", None): dict(
        network="ConvNetBN", source="the authors' Conv-3 observer, arXiv:2312.03526"
    ),
    ("convnet", "cifar100", None): dict(
        network="ConvNetBN", source="the authors' Conv-3 observer, arXiv:2312.03526"
    ),
    ("convnet", "tiny_imagenet", None): dict(
        network="ConvNetD4BN", source="the authors' Conv-4 observer, arXiv:2312.03526"
    ),
    ("digits", "digits", None): dict(
        network="ConvNetD2W32BN", squeeze="quick", mipc=130, source="ours, for 8x8 images"
    ),
    ("cpu", "mnist", None): dict(
        network="ConvNetW32BN", squeeze="quick", source="ours, minutes on two CPU cores"
    ),
    ("cpu", "cifar10", None): dict(
        network="ConvNetW32BN", squeeze="quick", source="ours, minutes on two CPU cores"
    ),
}
