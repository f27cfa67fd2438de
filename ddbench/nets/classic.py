"""MLP, LeNet, AlexNet and VGG11 in the forms that dataset distillation uses for 32x32 and 1x28x28 images.

Each is a trunk and one linear classifier. ``parameters()`` lists the trunk first.

Source: the networks of Zhao, Mopuri and Bilen, arXiv:2006.05929. Departures: the wider first padding goes to
1x28x28 images only, not to every grey image.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from ddbench.nets.convnet import make_norm
from ddbench.nets.names import Shape, first_padding, why_not


class Trunk(nn.Module):
    """A trunk that ends in a flat embedding, and a linear classifier."""

    def __init__(self, trunk: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.classifier = nn.Linear(features, classes)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) to the classifier's input (N, d)."""
        out: torch.Tensor = self.trunk(x)
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W), standardised, to logits (N, K)."""
        logits: torch.Tensor = self.classifier(self.embed(x))
        return logits


def mlp(shape: Shape, classes: int) -> Trunk:
    """Two hidden layers of 128 units, ReLU; any image shape."""
    pixels = math.prod(shape)
    trunk = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
    return Trunk(trunk, 128, classes)


def lenet(shape: Shape, classes: int) -> Trunk:
    """Two 5x5 convolutions (6, 16) with ReLU and maximum pooling, then 400-120-84-K."""
    _check("LeNet", shape)
    trunk = nn.Sequential(
        nn.Conv2d(shape[0], 6, 5, padding=first_padding(shape) - 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
    )
    return Trunk(trunk, 84, classes)


def alexnet(shape: Shape, classes: int, norm: str = "NN") -> Trunk:
    """Five convolutions, three maximum poolings, one linear layer; ``norm`` NN (plain) or BN."""
    _check("AlexNetBN" if norm == "BN" else "AlexNet", shape)
    layers: list[nn.Module] = []
    channels, side = shape[0], 32
    for width, kernel, pool in (
        (128, 5, True),
        (192, 5, True),
        (256, 3, False),
        (192, 3, False),
        (192, 3, True),
    ):
        extra = 0 if layers else first_padding(shape) - 1
        layers.append(nn.Conv2d(channels, width, kernel, padding=kernel // 2 + extra))
        if norm != "NN":
            layers.append(make_norm(norm, (width, side, side)))
        layers.append(nn.ReLU())
        if pool:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        channels = width
    return Trunk(nn.Sequential(*layers, nn.Flatten()), 192 * 4 * 4, classes)


def vgg11(shape: Shape, classes: int, norm: str = "IN") -> Trunk:
    """Eight 3x3 convolutions with norm (IN or BN) and ReLU, five maximum poolings, one linear layer."""
    _check("VGG11BN" if norm == "BN" else "VGG11", shape)
    layers: list[nn.Module] = []
    channels, side = shape[0], 32
    for width, pool in (
        *((64, True), (128, True), (256, False), (256, True)),
        *((512, False), (512, True), (512, False), (512, True)),
    ):
        layers.append(nn.Conv2d(channels, width, 3, padding=1 if layers else first_padding(shape)))
        layers += [make_norm(norm, (width, side, side)), nn.ReLU()]
        if pool:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        channels = width
    return Trunk(nn.Sequential(*layers, nn.Flatten()), 512, classes)


def _check(name: str, shape: Shape) -> None:
    reason = why_not(name, shape)
    if reason:
        raise ValueError(reason)
