"""Networks of committees for small images: MobileNetV2, ShuffleNetV2 (width 0.5), DenseNet121, EfficientNetB0, ShuffleNetG2.

All begin at full resolution (a stem of stride 1, no maximum pooling), average whole last maps and end in one linear layer;
norm is batch norm.  ResNet18BN and ResNet50BN, their fellows, are in ``resnet.py``.

Sources: Sandler et al., arXiv:1801.04381; Ma et al., arXiv:1807.11164; Huang et al., arXiv:1608.06993; Tan and Le,
arXiv:1905.11946; Zhang et al., arXiv:1707.01083.  What changes for small images is what CV-DD (arXiv:2501.07575) and INFER
(arXiv:2408.06927) use, found from their counts of parameters and batch norms.
Departures from the papers: MobileNetV2 has plain ReLU, strides 1 in its stem and second stage, an expansion in its first
stage too, and 1x1 shortcuts where only the width changes; DenseNet121 has no norm behind its stem; EfficientNetB0 has no
1x1 convolution before its average, and its stem and first stage stand at full resolution; ShuffleNetG2's stem is a 1x1
convolution of 24 channels.  EfficientNetB0 has no stochastic depth: the teachers' declared 0.2 never took effect.
Initial weights follow PyTorch's default laws (``build.initialise_``), like those of our other networks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddbench.nets.classic import Trunk
from ddbench.nets.names import Shape, why_not

_LOW = 0xFFFFFFFF


def _mixed(x: Tensor) -> Tensor:
    """32-bit integers in int64, scrambled one to one; multipliers below 2**31, so no product overflows."""
    x = (x ^ (x >> 16)) * 0x21F0AAAD & _LOW
    x = (x ^ (x >> 15)) * 0x735A2D97 & _LOW
    return x ^ (x >> 15)


class Dropout(nn.Module):
    """Dropout whose masks follow from a seed and the number of passes so far, not from the global random state.

    The same seed gives the same masks on every device, compiled or not.  Seed and count are no part of ``state_dict``.

    Args:
        p: share of values that become 0 in train mode, in [0, 1); the others grow by 1 / (1 - p).
        rows: drop whole rows of a batch instead of single values (stochastic depth).

    Raises:
        ValueError: p is out of range.
    """

    seed: Tensor
    passes: Tensor

    def __init__(self, p: float, rows: bool = False) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout probability is {p}; expected at least 0 and less than 1")
        self.p, self.rows = p, rows
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64), persistent=False)

    @torch.no_grad()
    def reseed(self, generator: torch.Generator) -> None:
        """Start anew, with a seed from ``generator``."""
        self.seed.copy_(torch.randint(_LOW, (), generator=generator, device=generator.device))
        self.passes.zero_()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        shape = (x.shape[0], *(1 for _ in x.shape[1:])) if self.rows else x.shape
        with torch.no_grad():
            key = _mixed(_mixed(self.seed) + self.passes & _LOW)
            self.passes.add_(1)
            index = torch.arange(torch.Size(shape).numel(), device=x.device)
            kept = (_mixed(_mixed(index) ^ key) >= int(self.p * 2**32)).view(shape)
        return x * (kept.to(x.dtype) / (1 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}, rows={self.rows}"


class Average(nn.Module):
    """Maps (N, C, h, w) to their means (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def _conv(
    channels: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> list[nn.Module]:  # fmt: skip
    """Convolution without bias that keeps the side (divides it by the stride, rounded up), batch norm, activation."""
    conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(width)] + ([] if act is None else [act()])


def _shuffled(x: Tensor, groups: int) -> Tensor:
    """Channels of all groups in turn: the first of each group, the second of each, ..."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def _check(name: str, shape: Shape) -> None:
    reason = why_not(name, shape)
    if reason:
        raise ValueError(reason)


# ------------------------------------------------------------------------------------------------ MobileNetV2


class InvertedResidual(nn.Module):
    """Expansion, 3x3 convolution of each channel, linear projection; a shortcut where the stride is 1."""

    def __init__(self, channels: int, width: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = expansion * channels
        self.path = nn.Sequential(
            *_conv(channels, inner),
            *_conv(inner, inner, 3, stride, groups=inner),
            *_conv(inner, width, act=None),
        )
        self.shortcut: nn.Module | None = None
        if stride == 1:
            self.shortcut = (
                nn.Identity() if channels == width else nn.Sequential(*_conv(channels, width, act=None))
            )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.path(x)
        return out if self.shortcut is None else out + self.shortcut(x)


def mobilenet_v2(shape: Shape, classes: int) -> Trunk:
    """MobileNetV2 for small images; maps shrink 8 times."""
    _check("MobileNetV2", shape)
    layers, channels = _conv(shape[0], 32, 3), 32
    for expansion, width, blocks, stride in (
        *((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ):
        for i in range(blocks):
            layers.append(InvertedResidual(channels, width, expansion, 1 if i else stride))
            channels = width
    return Trunk(nn.Sequential(*layers, *_conv(channels, 1280), Average()), 1280, classes)


# ------------------------------------------------------------------------------------------------ ShuffleNetV2


class ShuffleUnit(nn.Module):
    """Half of the channels goes through three convolutions, the other half passes; then all are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.path = nn.Sequential(
            *_conv(half, half), *_conv(half, half, 3, groups=half, act=None), *_conv(half, half)
        )

    def forward(self, x: Tensor) -> Tensor:
        passed, changed = x.chunk(2, dim=1)
        return _shuffled(torch.cat([passed, self.path(changed)], dim=1), 2)


class ShuffleDown(nn.Module):
    """Halves the maps: two branches, both of all channels; then all are shuffled."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.left = nn.Sequential(
            *_conv(channels, channels, 3, 2, groups=channels, act=None), *_conv(channels, half)
        )
        self.right = nn.Sequential(
            *_conv(channels, half), *_conv(half, half, 3, 2, groups=half, act=None), *_conv(half, half)
        )

    def forward(self, x: Tensor) -> Tensor:
        return _shuffled(torch.cat([self.left(x), self.right(x)], dim=1), 2)


def shufflenet_v2(shape: Shape, classes: int) -> Trunk:
    """ShuffleNetV2 of width 0.5 for small images; maps shrink 8 times."""
    _check("ShuffleNetV2", shape)
    layers, channels = _conv(shape[0], 24, 3), 24
    for width, blocks in ((48, 3), (96, 7), (192, 3)):
        layers += [ShuffleDown(channels, width), *(ShuffleUnit(width) for _ in range(blocks))]
        channels = width
    return Trunk(nn.Sequential(*layers, *_conv(channels, 1024), Average()), 1024, classes)


# ------------------------------------------------------------------------------------------------ DenseNet121


class DenseLayer(nn.Module):
    """``growth`` more channels, behind all that came before and made of them: norm, 1x1 convolution, norm, 3x3 convolution."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.path(x)], dim=1)


def densenet121(shape: Shape, classes: int) -> Trunk:
    """DenseNet121 (growth 32, half the channels kept between its blocks) for small images; maps shrink 8 times."""
    _check("DenseNet121", shape)
    growth, channels = 32, 64
    layers: list[nn.Module] = [nn.Conv2d(shape[0], channels, 3, padding=1, bias=False)]
    for depth in (6, 12, 24, 16):
        if len(layers) > 1:
            half = channels // 2
            layers += [
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, half, 1, bias=False),
                nn.AvgPool2d(2),
            ]
            channels = half
        for _ in range(depth):
            layers.append(DenseLayer(channels, growth))
            channels += growth
    layers += [nn.BatchNorm2d(channels), nn.ReLU(), Average()]
    return Trunk(nn.Sequential(*layers), channels, classes)


# ------------------------------------------------------------------------------------------------ EfficientNetB0


class SqueezeExcitation(nn.Module):
    """Each map times a weight in (0, 1), found from the means of all maps."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return x * weights.sigmoid()


class MBConv(nn.Module):
    """Expansion, convolution of each channel, squeeze and excitation, linear projection; a shortcut where shapes agree.

    At expansion 1 the expansion's convolution and norm are there and counted, but are not run.
    """

    def __init__(self, channels: int, width: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = expansion * channels
        self.runs_expansion = expansion > 1
        self.expand = nn.Sequential(*_conv(channels, inner, act=nn.SiLU))
        self.path = nn.Sequential(
            *_conv(inner, inner, kernel, stride, groups=inner, act=nn.SiLU),
            SqueezeExcitation(inner, channels // 4),
            *_conv(inner, width, act=None),
        )
        self.residual = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.path(self.expand(x) if self.runs_expansion else x)
        return out + x if self.residual else out


def efficientnet_b0(shape: Shape, classes: int) -> Trunk:
    """EfficientNetB0 for small images; maps shrink 16 times; dropout 0.2 before the classifier."""
    _check("EfficientNetB0", shape)
    layers, channels = _conv(shape[0], 32, 3, act=nn.SiLU), 32
    for expansion, width, blocks, kernel, stride in (
        *((1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2)),
        *((6, 112, 3, 5, 1), (6, 192, 4, 5, 2), (6, 320, 1, 3, 1)),
    ):
        for i in range(blocks):
            layers.append(MBConv(channels, width, expansion, kernel, 1 if i else stride))
            channels = width
    return Trunk(nn.Sequential(*layers, Average(), Dropout(0.2)), channels, classes)


# ------------------------------------------------------------------------------------------------ ShuffleNetG2


class GroupedUnit(nn.Module):
    """Convolutions in groups: 1x1, shuffle, 3x3 of each channel, 1x1; added to what came in.

    With ``halve`` what came in is averaged to half its side and stands behind ``width`` less its own channels.
    """

    def __init__(self, channels: int, width: int, groups: int, first_groups: int, halve: bool) -> None:
        super().__init__()
        width -= channels if halve else 0
        inner = width // 4
        self.shuffle = first_groups
        self.before = nn.Sequential(*_conv(channels, inner, groups=first_groups))
        self.after = nn.Sequential(
            *_conv(inner, inner, 3, 2 if halve else 1, groups=inner),
            *_conv(inner, width, groups=groups, act=None),
        )
        self.pool: nn.Module | None = nn.AvgPool2d(3, stride=2, padding=1) if halve else None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(_shuffled(self.before(x), self.shuffle))
        return F.relu(out + x if self.pool is None else torch.cat([out, self.pool(x)], dim=1))


def shufflenet_g2(shape: Shape, classes: int) -> Trunk:
    """ShuffleNet (version 1) with 2 groups, widths 200, 400, 800, for small images; maps shrink 8 times."""
    _check("ShuffleNetG2", shape)
    layers, channels, groups = _conv(shape[0], 24), 24, 2
    for width, blocks in ((200, 4), (400, 8), (800, 4)):
        for i in range(blocks):
            first = 1 if channels == 24 else groups  # 24 channels are too few to be split
            layers.append(GroupedUnit(channels, width, groups, first, halve=i == 0))
            channels = width
    return Trunk(nn.Sequential(*layers, Average()), channels, classes)


MAKERS = {
    "MobileNetV2": mobilenet_v2,
    "ShuffleNetV2": shufflenet_v2,
    "DenseNet121": densenet121,
    "EfficientNetB0": efficientnet_b0,
    "ShuffleNetG2": shufflenet_g2,
}
"""By name: (shape, classes) -> network.  Each raises ValueError for images that are too small."""
