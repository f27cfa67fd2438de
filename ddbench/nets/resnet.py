"""ResNet18 with the stem for small images, strided or with average pooling in place of strides (``_AP``), and ResNetAP10.

Source: He et al., arXiv:1512.03385, as used by Zhao, Mopuri and Bilen, arXiv:2006.05929; ResNetAP10 of Kim et al.,
arXiv:2205.14959 (IDC).
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


class ResNet18(nn.Module):
    """ResNet18 for small images.

    Args:
        shape: (C, H, W) of the images.
        classes: number of logits.
        norm: IN or BN.
        pooled: the ``_AP`` form: average pooling instead of strides, and no pooling before the classifier.

    Raises:
        ValueError: the images are too small.
    """

    def __init__(self, shape: Shape, classes: int, norm: str = "IN", pooled: bool = False) -> None:
        super().__init__()
        reason = why_not(f"ResNet18{'BN' if norm == 'BN' else ''}{'_AP' if pooled else ''}", shape)
        if reason:
            raise ValueError(reason)
        c, h, w = shape
        self.pooled = pooled
        self.conv = nn.Conv2d(c, 64, 3, padding=1, bias=False)
        self.norm = make_norm(norm, (64, h, w))
        blocks, channels = [], 64
        for planes in (64, 128, 256, 512):
            for second in (False, True):
                halve = planes > 64 and not second
                blocks.append(BasicBlock(channels, planes, halve, norm, pooled))
                channels = planes
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(512 * (h // 8) * (w // 8) if pooled else 512, classes)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) to the classifier's input (N, d): d = 512, or 512*(H//8)*(W//8) for ``_AP``."""
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
