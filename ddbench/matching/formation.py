"""Multi-formation: stored images are mosaics of smaller ones, which are cut out and upsampled to be matched and trained on.

Source: Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, arXiv:2205.14959, and its
code, from which NCFM (arXiv:2502.20653) inherits it.
Departures: none.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench import registry
from ddbench.codecs import decode_grid, grid_source
from ddbench.contract import CodecSpec, ImageData, Space, Task
from ddbench.matching.sampling import take
from ddbench.matching.selection import class_pools, random_choice

MOSAIC_INITS = ("mix", "first", "random", "noise")


def unit_space(train: ImageData, statistics: str = "own") -> Space:
    """Pixels on [0, 1], standardised by the numbers of this data set or of another one.

    Args:
        statistics: ``own``, or a registered data set (IDC and NCFM take those of ``cifar10`` for cifar100).

    Raises:
        LookupError: no such data set.
        ValueError: its mean and deviation are not known, or its images have other channels.
    """
    if statistics == "own":
        return Space("unit", train.mean, train.std)
    known = registry.facts("datasets", statistics).keywords
    mean, std = known.get("mean"), known.get("std")
    if not mean or not std or len(mean) != train.shape[0]:
        raise ValueError(
            f"statistics is {statistics!r}, whose mean is {mean}; expected 'own', or a data set of {train.shape[0]} "
            f"channels with mean and std in its file"
        )
    return Space("unit", tuple(mean), tuple(std))


def padding_note(side: int, factor: int) -> str | None:
    """What to tell where ``factor`` does not divide the side of the images; None where it does."""
    if side % factor == 0:
        return None
    grown = side + factor - side % factor
    return (
        f"factor {factor} does not divide the side {side}: mosaics are padded to {grown} pixels with grey before they "
        f"are cut; choose a factor that divides {side} to avoid it"
    )


def first_mosaics(task: Task, factor: int, init: str) -> Tensor:
    """The first mosaics (K, ipc, C, H, W) on [0, 1], float, on the task's device, without gradient.

    Args:
        factor: f; a mosaic holds f x f images.
        init: ``mix``: tile k = f * i + j of image n is real image k * ipc + n of the class, in the order of the data set,
            shrunk by nearest neighbour (where f does not divide a side, the first tiles are a pixel larger); ``first``: the
            first ipc images as they are; ``random``: random ones; ``noise``: normal around 0.5 with deviation 0.25,
            clamped to [0, 1].

    Raises:
        ValueError: another ``init`` or factor, or a class has fewer images than it needs.
    """
    train, ipc = task.train, task.ipc
    if init not in MOSAIC_INITS:
        raise ValueError(f"init is {init!r}; expected one of {', '.join(MOSAIC_INITS)}")
    if not 1 <= factor <= min(train.shape[1:]):
        raise ValueError(
            f"factor is {factor}; expected a whole number from 1 to the side of the images, {min(train.shape[1:])}"
        )
    rng = task.rng("init")
    if init == "noise":
        class_pools(train, 1)
        if ipc < 1:
            raise ValueError(f"ipc is {ipc}; expected at least 1 image a class")
        noise = torch.randn((train.classes, ipc, *train.shape), generator=rng)
        return (noise / 4 + 0.5).clamp(0, 1).to(task.device)
    pools = class_pools(train, ipc)
    tiles = factor * factor if init == "mix" else 1
    smallest = min(len(pool) for pool in pools)
    if smallest < ipc * tiles:
        c = [len(pool) for pool in pools].index(smallest)
        lower = f"lower --ipc to {smallest // tiles}, " if smallest >= tiles else ""
        raise ValueError(
            f"class {c} has {smallest} training images but {ipc} mosaics of {tiles} tiles need {ipc * tiles}; "
            f"{lower}choose a smaller factor, or init=random"
        )
    if init == "random":
        chosen = random_choice(pools, ipc, rng).view(train.classes, 1, ipc)
    else:
        chosen = torch.stack([pool[: ipc * tiles] for pool in pools]).view(train.classes, tiles, ipc)
    mosaics = torch.empty((train.classes, ipc, *train.shape), device=task.device)
    rows, columns = (_spans(side, factor if tiles > 1 else 1) for side in train.shape[1:])
    for k in range(tiles):
        row, column = rows[k // len(columns)], columns[k % len(columns)]
        real = take(train, chosen[:, k].flatten(), task.device)
        size = (row.stop - row.start, column.stop - column.start)
        tile = F.interpolate(real, size=size, mode="nearest").float().div_(255)
        mosaics[..., row, column] = tile.view(*mosaics.shape[:3], *size)
    return mosaics


def _spans(side: int, factor: int) -> list[slice]:
    """Where the tiles lie at the start: the first ``side mod factor`` are a pixel larger."""
    sizes = [side // factor + (k < side % factor) for k in range(factor)]
    return [slice(end - size, end) for size, end in zip(sizes, itertools.accumulate(sizes), strict=True)]


@dataclass(frozen=True, eq=False)
class Formation:
    """How mosaics become training images.

    Raises:
        ValueError: an unknown kind, or a factor below 1.
    """

    factor: int
    kind: str
    """``single`` | ``multi`` | ``bound`` while distilling, as in ``codecs.decode_grid``; the set is stored as ``single``."""
    bound: int
    """Most training images of a class for ``bound``."""
    space: Space

    def __post_init__(self) -> None:
        if self.kind not in ("single", "multi", "bound"):
            raise ValueError(f"formation is {self.kind!r}; expected single, multi or bound")
        if self.factor < 1:
            raise ValueError(f"factor is {self.factor}; expected at least 1")

    def decode(self, images: Tensor) -> Tensor:
        """Mosaics (G, ipc, C, H, W) of G classes -> their training images (G, m, C, H, W), in the units of ``images``;
        differentiable."""
        if self.factor == 1:
            return images
        groups = images.shape[0]
        # classes as channels: every class is cut alike, so one decode serves them all
        joined = images.transpose(0, 1).flatten(1, 2)  # (ipc, G * C, H, W)
        out = decode_grid(joined, self.factor, self.kind, self.bound)
        return out.view(len(out), groups, *images.shape[2:]).transpose(0, 1)

    def inputs(self, images: Tensor) -> Tensor:
        """As :meth:`decode`, of pixels on [0, 1], standardised: network inputs (G, m, C, H, W)."""
        decoded = self.decode(images)
        return self.space.unit_to_input(decoded.flatten(0, 1)).view(decoded.shape)

    def count(self, ipc: int) -> int:
        """m, the training images of a class."""
        return len(grid_source(ipc, self.factor, self.kind, self.bound))

    def codec(self) -> CodecSpec:
        """The codec of the finished set: ``single`` whatever the images were distilled as, as in the authors' test code."""
        if self.factor == 1:
            return CodecSpec()
        return CodecSpec("grid", {"factor": self.factor, "kind": "single"})
