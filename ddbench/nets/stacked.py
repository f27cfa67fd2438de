"""Many networks of one architecture as one network of grouped convolutions: students, or one network for many classes."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.nets.classic import Trunk
from ddbench.nets.convnet import ConvNet

_LOCAL = (nn.ReLU, nn.Sigmoid, nn.LeakyReLU, nn.SiLU, nn.AvgPool2d, nn.MaxPool2d, nn.Identity)
"""Layers that treat every channel alike: stacked channels go through as they are."""


@functools.lru_cache(maxsize=16)
def _pooling_matrix(
    layer: nn.AvgPool2d, height: int, width: int, dtype: torch.dtype
) -> tuple[Tensor, tuple[int, int]]:
    """Average pooling of flat maps (..., h * w) is a product with this matrix; and the size of the maps after it."""
    with torch.no_grad():
        pooled = layer(torch.eye(height * width, dtype=dtype).view(-1, 1, height, width))
    return pooled.flatten(1).contiguous(), (int(pooled.shape[2]), int(pooled.shape[3]))


def _average(layer: nn.AvgPool2d, x: Tensor) -> Tensor:
    """Average pooling; of small maps on CPU as a product of matrices, which is 3 to 4 times faster there."""
    height, width = int(x.shape[2]), int(x.shape[3])
    if x.device.type != "cpu" or height * width > 64 or torch.compiler.is_compiling():
        pooled: Tensor = layer(x)
        return pooled
    matrix, size = _pooling_matrix(layer, height, width, x.dtype)
    return (x.flatten(2) @ matrix).view(*x.shape[:2], *size)


def _chain(net: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]] | None:
    """Layers in the order of their use with the prefix of their names, or None where that is not a plain chain."""
    if isinstance(net, ConvNet):
        found: list[tuple[str, nn.Module]] = []
        for i, block in enumerate(net.blocks):
            for part in ("conv", "norm", "activation", "pool"):
                found.append((f"blocks.{i}.{part}.", getattr(block, part)))
        return [*found, ("", nn.Flatten()), ("classifier.", net.classifier)]
    if isinstance(net, Trunk):
        trunk = _chain(net.trunk, "trunk.")
        return None if trunk is None else [*trunk, ("classifier.", net.classifier)]
    if isinstance(net, nn.Sequential):
        chains = [_chain(child, f"{prefix}{name}.") for name, child in net.named_children()]
        return None if any(c is None for c in chains) else [pair for c in chains if c for pair in c]
    if isinstance(net, (*_LOCAL, nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)):
        if isinstance(net, nn.Conv2d) and (net.groups != 1 or net.padding_mode != "zeros"):
            return None
        return [(prefix, net)]
    return [(prefix, net)] if isinstance(net, nn.Flatten) and net.start_dim == 1 else None


class Stacked:
    """G students of one architecture as one network over stacked tensors, as grouped convolutions.

    ``torch.vmap`` does the same for any module; written out it was three times faster on small images on CPU, compiled or not.

    Args:
        net: gives the architecture; may be on the meta device.  It is a chain of layers (``fits``).
    """

    def __init__(self, net: nn.Module) -> None:
        chain = _chain(net)
        if chain is None:
            raise ValueError(
                f"{type(net).__name__} is no plain chain of layers, so students of it cannot be stacked"
            )
        self.chain = chain

    @staticmethod
    def fits(net: nn.Module) -> bool:
        """Whether a network is a chain of layers that are known here."""
        return _chain(net) is not None

    def __call__(self, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Logits (G, b, K) in train mode, of inputs (G, b, C, H, W) and parameters and buffers (G, ...) by name.

        Running statistics are updated in place.
        """
        groups, b = x.shape[:2]
        x = x.transpose(0, 1).flatten(
            1, 2
        )  # (b, G * C, H, W) until the flattening, (G, b, features) after it
        for prefix, layer in self.chain:
            own = {
                name: tensors.get(prefix + name) for name in ("weight", "bias", "running_mean", "running_var")
            }
            weight, bias = own["weight"], own["bias"]
            flat_bias = None if bias is None else bias.flatten()
            if isinstance(layer, nn.AvgPool2d):
                x = _average(layer, x)
            elif isinstance(layer, _LOCAL):
                x = layer(x)
            elif isinstance(layer, nn.Flatten):
                x = x.view(b, groups, -1).transpose(0, 1) if x.dim() == 4 else x
            elif weight is None:
                raise ValueError(f"stacked students lack the parameter {prefix}weight")
            elif isinstance(layer, nn.Conv2d):
                x = F.conv2d(
                    x, weight.flatten(0, 1), flat_bias, layer.stride, layer.padding, layer.dilation, groups
                )  # fmt: skip
            elif isinstance(layer, nn.GroupNorm):
                x = F.group_norm(x, groups * layer.num_groups, weight.flatten(), flat_bias, layer.eps)
            elif isinstance(layer, nn.BatchNorm2d):
                mean, var = own["running_mean"], own["running_var"]
                if mean is None or var is None:
                    raise ValueError(f"stacked students lack the running statistics of {prefix}")
                momentum = 0.1 if layer.momentum is None else layer.momentum
                x = F.batch_norm(
                    x, mean.view(-1), var.view(-1), weight.flatten(), flat_bias, True, momentum, layer.eps
                )  # fmt: skip
            elif isinstance(layer, nn.LayerNorm):
                apart = x.view(b, groups, -1, *x.shape[2:])
                normed = F.layer_norm(apart, layer.normalized_shape, eps=layer.eps)
                x = (normed * weight + (0 if bias is None else bias)).flatten(1, 2)
            else:  # linear
                if x.dim() == 4:  # the network flattened in its forward
                    x = x.view(b, groups, -1).transpose(0, 1)
                x = x @ weight.transpose(1, 2) if bias is None else torch.baddbmm(
                    bias[:, None], x, weight.transpose(1, 2)
                )  # fmt: skip
        return x
