"""ConvNet, the usual network of dataset distillation, in all its variants; their names are in ``names.py``.

Source: Zhao, Mopuri and Bilen, arXiv:2006.05929, and the variants of its architecture study.
Departures: the first convolution pads by 3 for 1x28x28 images only, not for every grey image
(``names.first_padding`` says why).
"""

from __future__ import annotations

import torch
from torch import nn

from ddbench.nets.names import Shape, Variant, convnet_why_not, first_padding


def make_norm(kind: str, shape: Shape) -> nn.Module:
    """The norm layer called ``kind`` (IN, NN, BN, LN, GN) for feature maps of ``shape`` (C, h, w)."""
    channels = shape[0]
    if kind == "NN":
        return nn.Identity()
    if kind == "BN":
        return nn.BatchNorm2d(channels)
    if kind == "LN":
        return nn.LayerNorm(list(shape))
    return nn.GroupNorm(4 if kind == "GN" else channels, channels)


def make_activation(kind: str) -> nn.Module:
    """The activation called ``kind`` (AS, AR, AL, ASwish), never in place: ``feature_maps`` returns it."""
    if kind == "AR":
        return nn.ReLU()
    if kind == "AL":
        return nn.LeakyReLU(0.01)
    return nn.Sigmoid() if kind == "AS" else nn.SiLU()


class Block(nn.Module):
    """Convolution 3x3, norm, activation, then (apart, for ``feature_maps``) 2x2 pooling."""

    def __init__(self, shape: Shape, variant: Variant, padding: int) -> None:
        super().__init__()
        c, h, w = shape
        grown = 2 * (padding - 1)
        maps = (variant.width, h + grown, w + grown)
        self.conv = nn.Conv2d(c, variant.width, 3, padding=padding)
        self.norm = make_norm(variant.norm, maps)
        self.activation = make_activation(variant.activation)
        self.pool: nn.Module = {"AP": nn.AvgPool2d, "MP": nn.MaxPool2d, "NP": nn.Identity}[variant.pooling](2)
        halve = 1 if variant.pooling == "NP" else 2
        self.out_shape = (variant.width, maps[1] // halve, maps[2] // halve)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Feature maps after the activation, before pooling."""
        out: torch.Tensor = self.activation(self.norm(self.conv(x)))
        return out


class ConvNet(nn.Module):
    """Blocks of convolution, norm, activation and pooling, then one linear layer.

    ``parameters()`` runs conv, norm, conv, norm, ..., classifier, each weight before bias: the order in which
    published expert trajectories list theirs.

    Args:
        shape: (C, H, W) of the images.
        classes: number of logits.
        variant: depth, width, activation, norm, pooling; default is plain ``ConvNet``.
        padding: of the first convolution, in pixels; None means 3 for 1x28x28 images and 1 for all others.

    Raises:
        ValueError: the images are too small for the depth.
    """

    def __init__(
        self, shape: Shape, classes: int, variant: Variant | None = None, padding: int | None = None
    ) -> None:
        super().__init__()
        variant = variant or Variant()
        padding = first_padding(shape) if padding is None else padding
        reason = convnet_why_not(variant, shape, padding)
        if reason:
            raise ValueError(reason)
        blocks = []
        for depth in range(variant.depth):
            block = Block(shape, variant, padding if depth == 0 else 1)
            blocks.append(block)
            shape = block.out_shape
        self.blocks = nn.ModuleList(blocks)
        self.classifier = nn.Linear(shape[0] * shape[1] * shape[2], classes)

    def feature_maps(self, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Maps (N, width, h, w) of each block, after its activation and before its pooling; the embedding."""
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
            x = block.pool(x)  # type: ignore[operator]
        return maps, x.flatten(1)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) to the classifier's input (N, d): 2048 wide for plain ConvNet at 32x32."""
        for block in self.blocks:
            x = block.pool(block(x))  # type: ignore[operator]
        return x.flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W), standardised, to logits (N, K)."""
        logits: torch.Tensor = self.classifier(self.embed(x))
        return logits
