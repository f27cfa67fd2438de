"""ResNet18, ResNet50 and ResNet101 with the stem for small images (3x3, no pooling), and ResNetAP10.

ResNet18 is strided or has average pooling in place of strides (``_AP``); the deep ones are strided, with batch norm.

Source: He et al., arXiv:1512.03385, as used by Zhao, Mopuri and Bilen, arXiv:2006.05929, and, the deep ones, by SRe2L
(arXiv:2306.13092), whose bottlenecks stride in their 3x3 convolutions; ResNetAP10 of Kim et al., arXiv:2205.14959 (IDC).
Departures: the strided form averages over whole last maps instead of over 4x4 windows. At 32x32 and 28x28
both are the same; elsewhere the published form does not run, this one does, with the same parameters. Sides
too small for the norm are refused (``names.why_not``): instance norm of one pixel is zero whatever the image.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ddbench.nets.convnet import make_norm
from ddbench.nets.names import Shape, why_not


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ``halve`` halves the maps, by stride or by average pooling."""

    def __init__(self, channels: int, planes: int, halve: bool, norm: str, pooled: bool) -> None:
        super().__init__()
        shape = (planes, 1, 1)  # the side plays no part in IN and BN
        stride = 2 if halve and not pooled else 1
        self.conv1 = nn.Conv2d(channels, planes, 3, stride=stride, padding=1, bias=False)
        self.norm1 = make_norm(norm, shape)
        self.pool: nn.Module = nn.AvgPool2d(2) if halve and pooled else nn.Identity()
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.norm2 = make_norm(norm, shape)
        self.shortcut: nn.Module = nn.Identity()
        if halve or channels != planes:
            layers: list[nn.Module] = [nn.Conv2d(channels, planes, 1, stride=stride, bias=False)]
            if halve and pooled:
                layers.append(nn.AvgPool2d(2))
            self.shortcut = nn.Sequential(*layers, make_norm(norm, shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.pool(F.relu(self.norm1(self.conv1(x))))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last to four times ``planes``, and a shortcut; ``halve``: the 3x3 has stride 2."""

    def __init__(self, channels: int, planes: int, halve: bool, norm: str) -> None:
        super().__init__()
        stride, width = 2 if halve else 1, 4 * planes
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        self.norm1 = make_norm(norm, (planes, 1, 1))
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.norm2 = make_norm(norm, (planes, 1, 1))
        self.conv3 = nn.Conv2d(planes, width, 1, bias=False)
        self.norm3 = make_norm(norm, (width, 1, 1))
        self.shortcut: nn.Module = nn.Identity()
        if halve or channels != width:
            conv = nn.Conv2d(channels, width, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, make_norm(norm, (width, 1, 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        out = F.relu(self.norm2(self.conv2(out)))
        return F.relu(self.norm3(self.conv3(out)) + self.shortcut(x))


_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Layers -> blocks at each of the four widths."""


class ResNet(nn.Module):
    """ResNet for small images: of basic blocks (18 layers) or of bottlenecks.

    Args:
        shape: (C, H, W) of the images.
        classes: number of logits.
        layers: 18, 50 or 101.
        norm: IN or BN; BN for 50 and 101.
        pooled: the ``_AP`` form of 18: average pooling instead of strides, and no pooling before the classifier.

    Raises:
        ValueError: the images are too small.
        LookupError: no network is called so, such as ResNet50 with instance norm.
    """

    def __init__(
        self, shape: Shape, classes: int, layers: int = 18, norm: str = "IN", pooled: bool = False
    ) -> None:
        super().__init__()
        reason = why_not(f"ResNet{layers}{'BN' if norm == 'BN' else ''}{'_AP' if pooled else ''}", shape)
        if reason:
            raise ValueError(reason)
        c, h, w = shape
        self.pooled = pooled
        self.conv = nn.Conv2d(c, 64, 3, padding=1, bias=False)
        self.norm = make_norm(norm, (64, h, w))
        blocks: list[nn.Module] = []
        channels = 64
        for planes, count in zip((64, 128, 256, 512), _BLOCKS[layers], strict=True):
            for i in range(count):
                halve = planes > 64 and i == 0
                if layers == 18:
                    blocks.append(BasicBlock(channels, planes, halve, norm, pooled))
                    channels = planes
                else:
                    blocks.append(Bottleneck(channels, planes, halve, norm))
                    channels = 4 * planes
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels * (h // 8) * (w // 8) if pooled else channels, classes)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) to the classifier's input (N, d): d = 512, of bottlenecks 2048, for ``_AP`` 512*(H//8)*(W//8)."""
        out: torch.Tensor = self.blocks(F.relu(self.norm(self.conv(x))))
        return out.flatten(1) if self.pooled else out.mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W), standardised, to logits (N, K)."""
        logits: torch.Tensor = self.classifier(self.embed(x))
        return logits


class ResNetAP10(nn.Module):
    """ResNetAP-10 of IDC for images of 64 pixels and more: a 7x7 stem pooled 4x4, then four pooled blocks; instance norm.

    Its convolutions start as N(0, 2 / (k * k * outputs)), the linear layer by PyTorch's law (``build.initialise_``).

    Args:
        shape: (C, H, W) of the images.
        classes: number of logits.

    Raises:
        ValueError: the images are too small.
    """

    normal_convolutions = True

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        reason = why_not("ResNetAP10", shape)
        if reason:
            raise ValueError(reason)
        self.conv = nn.Conv2d(shape[0], 64, 7, padding=3, bias=False)
        self.norm = make_norm("IN", (64, 1, 1))
        self.pool = nn.AvgPool2d(4)
        blocks, channels = [], 64
        for planes in (64, 128, 256, 512):
            blocks.append(BasicBlock(channels, planes, halve=planes > 64, norm="IN", pooled=True))
            channels = planes
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(512, classes)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) to the classifier's input (N, 512)."""
        out: torch.Tensor = self.blocks(self.pool(F.relu(self.norm(self.conv(x)))))
        return out.mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W), standardised, to logits (N, K)."""
        logits: torch.Tensor = self.classifier(self.embed(x))
        return logits
