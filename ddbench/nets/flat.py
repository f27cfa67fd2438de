"""A network as a function of one flat vector of parameters, as trajectories need it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ddbench.nets.build import skeleton
from ddbench.nets.names import Shape


def joined(tensors: Iterable[Tensor], lead: int = 0) -> Tensor:
    """Tensors one after the other in a vector (P,), a copy; ``lead`` dimensions in front, which all share, stay."""
    return torch.cat([t.detach().flatten(lead) for t in tensors], dim=-1)


def pieces(vector: Tensor, shapes: Sequence[torch.Size], lead: int = 0) -> list[Tensor]:
    """What :func:`joined` joined, as tensors of these shapes: views, differentiable."""
    parts = torch.split(vector, [math.prod(shape[lead:]) for shape in shapes], dim=-1)
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class Flat:
    """Layout of a network's parameters in one vector (P,): as ``parameters()`` gives them, one after the other.

    Args:
        network: registered name of one of ddbench's own networks, without running statistics.
        shape: (C, H, W) of the images.
        classes: number of logits.

    Raises:
        ValueError: a network of another library, or one with running statistics (batch norm), which are no parameters.
    """

    def __init__(self, network: str, shape: Shape, classes: int) -> None:
        if ":" in network:
            raise ValueError(
                f"{network} is another library's network; trajectories need one of ddbench's own, such as ConvNet"
            )
        self.module = skeleton(network, shape, classes)
        if dict(self.module.named_buffers()):
            raise ValueError(
                f"{network} has running statistics (batch norm), which a trajectory of parameters does not hold; "
                f"expected a network without, such as ConvNet"
            )
        self.shapes = {name: p.shape for name, p in self.module.named_parameters()}
        self.size = sum(shape.numel() for shape in self.shapes.values())

    def vector(self, state: Mapping[str, Tensor]) -> Tensor:
        """Parameters by name -> (P,), a copy; stacked ones (G, ...) -> (G, P)."""
        first = next(iter(self.shapes))
        lead = state[first].dim() - len(self.shapes[first])
        return joined((state[name] for name in self.shapes), lead)

    def parts(self, vector: Tensor) -> dict[str, Tensor]:
        """(P,) -> parameters by name: views, differentiable.

        Raises:
            ValueError: another length.
        """
        if vector.shape != (self.size,):
            raise ValueError(
                f"a vector of parameters has shape {tuple(vector.shape)}; expected ({self.size},) for this network"
            )
        return dict(zip(self.shapes, pieces(vector, list(self.shapes.values())), strict=True))

    def logits(self, vector: Tensor, x: Tensor) -> Tensor:
        """Logits (n, K) of inputs (n, C, H, W); differentiable in both."""
        out: Tensor = torch.func.functional_call(self.module, self.parts(vector), (x,))
        return out
