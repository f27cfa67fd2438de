"""A network as a function of one flat vector of parameters, as trajectories need it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ddbench.nets.build import skeleton
from ddbench.nets.names import Shape


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
        self._lengths = [size.numel() for size in self.shapes.values()]
        self.size = sum(self._lengths)

    def vector(self, state: Mapping[str, Tensor]) -> Tensor:
        """Parameters by name -> (P,), a copy; stacked ones (G, ...) -> (G, P)."""
        first = next(iter(self.shapes))
        lead = state[first].dim() - len(self.shapes[first])
        return torch.cat([state[name].detach().flatten(lead) for name in self.shapes], dim=-1)

    def parts(self, vector: Tensor) -> dict[str, Tensor]:
        """(P,) -> parameters by name: views, differentiable.

        Raises:
            ValueError: another length.
        """
        if vector.shape != (self.size,):
            raise ValueError(
                f"a vector of parameters has shape {tuple(vector.shape)}; expected ({self.size},) for this network"
            )
        pieces = torch.split(vector, self._lengths)
        return {
            name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def logits(self, vector: Tensor, x: Tensor) -> Tensor:
        """Logits (n, K) of inputs (n, C, H, W); differentiable in both."""
        out: Tensor = torch.func.functional_call(self.module, self.parts(vector), (x,))
        return out
