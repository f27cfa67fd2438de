"""Patches of real images: random crops of many images at once, which of them a network knows best, and mosaics of them.

Source: Sun, Shi, Yu and Lin, "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation
Paradigm", CVPR 2024, arXiv:2312.03526 (RDED), and its code (LINs-lab/RDED).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.augment.views import CROP_TRIES, resized_boxes

CROP_SCALE = (0.08, 1.0)
"""Shares of the area between which a patch is drawn."""
_SLACK = 1e-3
"""Rounding may turn 255 into 254.99998: truncated without it, real pixels and plain areas would lose a level here and there."""


def square_boxes(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Boxes (count, 4) of random crops of equal sides: top, left, height, width, int64, in pixels of (H, W) images.

    As torchvision's RandomResizedCrop with scale ``CROP_SCALE`` and ratio (1, 1) draws them.
    """
    draws = torch.rand(count, CROP_TRIES, 4, generator=generator, dtype=torch.float64)
    return resized_boxes(draws.numpy(), size, CROP_SCALE, (1.0, 1.0))


def _resize_weights(start: Tensor, length: Tensor, side: int, out: int) -> Tensor:
    """(n, k, out, side): which share of each of ``side`` pixels goes into each of ``out``, for intervals (n, k).

    The triangle filter of an antialiased bilinear resize: as wide as the pixels that one output stands for, at least 1."""
    pixel = torch.arange(side, device=start.device) + 0.5 - start[..., None, None]
    step = (length / out)[..., None, None]
    centre = (torch.arange(out, device=start.device)[:, None] + 0.5) * step
    weights = (1 - (pixel - centre).abs() / step.clamp(min=1)).clamp(min=0)
    weights = weights * ((pixel > 0) & (pixel < length[..., None, None]))
    return weights / weights.sum(-1, keepdim=True)


def resized_crops(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Crops, resized bilinearly with antialiasing.

    Args:
        images: (n, C, H, W), float.
        boxes: int64 (n, k, 4): top, left, height, width of k crops of each image, inside it.
        size: (h, w) of the result.

    Returns:
        (n, k, C, h, w), as torchvision's ``resized_crop`` gives them one by one, up to rounding.
    """
    n, channels, height, width = images.shape
    k = boxes.shape[1]
    top, left, tall, wide = boxes.to(images.device, images.dtype).unbind(-1)
    columns = _resize_weights(left, wide, width, size[1]).reshape(n, k * size[1], width)
    rows = _resize_weights(top, tall, height, size[0]).reshape(n * k, size[0], height)
    narrow = images.reshape(n, channels * height, width) @ columns.transpose(1, 2)
    narrow = narrow.view(n, channels, height, k, size[1]).permute(0, 3, 2, 1, 4)
    crops = rows @ narrow.reshape(n * k, height, channels * size[1])
    return crops.view(n, k, size[0], channels, size[1]).transpose(2, 3).contiguous()


def centred(patches: Tensor, size: tuple[int, int]) -> Tensor:
    """Patches (..., h, w) in the middle of zeros (..., *size); the odd row or column goes to the bottom or the right."""
    down, across = size[0] - patches.shape[-2], size[1] - patches.shape[-1]
    if not down and not across:
        return patches
    return F.pad(patches, (across // 2, across - across // 2, down // 2, down - down // 2))


def best_crops(
    observer: nn.Module, crops: Tensor, label: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Of each image the crop that the observer is surest of.

    Args:
        observer: in eval mode; network inputs (b, C, *size) -> logits.
        crops: (n, k, C, h, w), network inputs (standardised): they are seen in the middle of zeros.
        label: class of the images.

    Returns:
        index (n,) of the crop with the lowest cross-entropy, and that cross-entropy (n,).
    """
    n, k = crops.shape[:2]
    with torch.no_grad():
        logits = observer(centred(crops.flatten(0, 1), size))
    losses = F.cross_entropy(logits, logits.new_full((n * k,), label, dtype=torch.long), reduction="none")
    lowest, chosen = losses.view(n, k).min(1)
    return chosen, lowest


def easiest(losses: Tensor, count: int) -> Tensor:
    """Indices (count,) of the lowest losses, ascending; ties in their order."""
    return losses.argsort(stable=True)[:count]


def truncated(pixels: Tensor) -> Tensor:
    """Values of the byte scale -> uint8, truncated as the authors' files are, not rounded."""
    return (pixels + _SLACK).clamp(0, 255).to(torch.uint8)


def mosaics(patches: Tensor, count: int, factor: int, size: tuple[int, int]) -> Tensor:
    """Tile patches into images.

    Args:
        patches: (count * factor^2, C, h, w), uint8 or float, the best first.
        count: images.
        factor: f; image q has patch ``g * count + q`` in cell g (row by row), so that cell 0 of all images has the best.
        size: (H, W) of an image.  A cell has H // f rows, the first H mod f cells a row more (columns likewise); patches
            are resized to it by nearest neighbour.

    Returns:
        (count, C, H, W).
    """
    out = patches.new_empty(count, patches.shape[1], *size)
    spans = [[side // factor + (g < side % factor) for g in range(factor)] for side in size]
    top = 0
    for i, tall in enumerate(spans[0]):
        left = 0
        for j, wide in enumerate(spans[1]):
            cell = patches[(i * factor + j) * count :][:count]
            if tuple(cell.shape[2:]) != (tall, wide):
                cell = F.interpolate(cell, size=(tall, wide), mode="nearest")
            out[:, :, top : top + tall, left : left + wide] = cell
            left += wide
        top += tall
    return out
