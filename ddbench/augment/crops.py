"""What classifiers are usually trained with: a padded or a resized crop and a mirror, each image its own.

As torchvision's ``RandomCrop(side, padding=4)`` and ``RandomResizedCrop(side)`` with ``RandomHorizontalFlip()``: the padding is
black, whatever the standardisation.  Drawn from a CPU generator, applied to many batches at once by ``views.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddbench.augment.views import CROP_TRIES, Views, apply_views, resized_boxes


@dataclass(frozen=True, eq=False)
class CropFlip:
    """Settings of the augmentation; not for matching: every draw is per image."""

    resized: bool
    """A random resized crop of (0.08, 1) of the area and (3/4, 4/3) of the ratio; else a crop of the padded image."""
    flip: bool = True
    """Mirror each image with probability 0.5."""
    fill: Tensor | None = None
    """(C,) network input of a black pixel; None: 0."""
    pad: int = 4
    """Black pixels on every side, where the crop is not resized."""

    def draw(self, batch: int, shape: Sequence[int], generator: torch.Generator) -> Views:
        """Draw the crops and mirrors of a batch of images (C, H, W), or (H, W).

        Raises:
            ValueError: a generator on another device than the CPU.
        """
        if generator.device.type != "cpu":
            raise ValueError(
                f"CropFlip.draw got a generator on {generator.device}; pass one made by torch.Generator()"
            )
        height, width = int(shape[-2]), int(shape[-1])
        if self.resized:
            draws = torch.rand(batch, CROP_TRIES, 4, dtype=torch.float64, generator=generator)
            boxes = resized_boxes(draws.numpy(), (height, width))
        else:
            corners = torch.randint(-self.pad, self.pad + 1, (batch, 2), generator=generator)
            boxes = torch.cat([corners, torch.tensor([[height, width]]).expand(batch, 2)], 1)
        flips = torch.zeros(batch, dtype=torch.bool)
        if self.flip:
            flips = torch.rand(batch, generator=generator) < 0.5
        return Views(boxes, flips, resized=self.resized)

    def apply(self, x: Tensor, draw: Views) -> Tensor:
        """Augment a batch (N, C, H, W) of network inputs; the same shape, type and device come back.

        Raises:
            ValueError: x is no batch of floating-point images, or the draw was made for another batch size.
        """
        if x.dim() != 4 or not x.is_floating_point():
            raise ValueError(
                f"CropFlip augments floating-point images (N, C, H, W); got {x.dtype} of shape {tuple(x.shape)}; "
                "standardise the images first"
            )
        if len(draw.flips) != len(x):
            raise ValueError(
                f"the draw holds crops of {len(draw.flips)} images but the batch has {len(x)}; draw for this batch size"
            )
        return apply_views(x, draw, fill=self.fill)

    def apply_groups(self, x: Tensor, draws: Sequence[Views]) -> Tensor:
        """Augment groups (G, N, C, H, W), each by its own draw, all of them in one go.

        Raises:
            ValueError: as :meth:`apply`, or the number of draws is not G.
        """
        if len(draws) != len(x):
            raise ValueError(f"{len(draws)} draws for {len(x)} groups of images; pass one draw a group")
        boxes = [d.boxes for d in draws if d.boxes is not None]
        joint = Views(torch.cat(boxes), torch.cat([d.flips for d in draws]), resized=self.resized)
        return self.apply(x.flatten(0, 1), joint).view(x.shape)
