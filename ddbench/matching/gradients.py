"""Gradient matching: gradients of one network on real and on synthetic images of each class, and distances between them.

Source: Zhao, Mopuri and Bilen, arXiv:2006.05929 (DC); Zhao and Bilen, arXiv:2102.08259 (DSA); Kim et al., arXiv:2205.14959
(IDC); all with their code.
Departures: none that change a value; the gradients of all classes are taken at once where the network allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Gradients = Sequence[Tensor]
"""One gradient a parameter tensor, each with a leading dimension of G classes: (G, *shape of the parameter)."""
Distance = Callable[[Gradients, Gradients], Tensor]
"""Real and synthetic gradients -> (G,) distances, one a class."""

EPS = 1e-6


def rows_distance(real: Gradients, synthetic: Gradients) -> Tensor:
    """DC's distance, "ours": 1 - cosine of each output row, summed over rows and tensors; 1-D parameters count nothing.

    Convolutions (O, I, h, w) have O rows, linear weights (O, I) have O, layer norms (C, h, w) have C.  1e-6 is added to the
    product of the norms, so a row without gradient counts exactly 1.
    """
    total = torch.zeros(len(real[0]), device=real[0].device, dtype=real[0].dtype)
    for r, s in zip(real, synthetic, strict=True):
        if r.dim() <= 2:
            continue
        a, b = r.flatten(2), s.flatten(2)
        cosine = (a * b).sum(2) / (a.norm(dim=2) * b.norm(dim=2) + EPS)
        total = total + (1 - cosine).sum(1)
    return total


def squared_distance(real: Gradients, synthetic: Gradients) -> Tensor:
    """Squared Euclidean distance of all parameters' gradients, 1-D ones included."""
    pairs = zip(real, synthetic, strict=True)
    return torch.stack([(r - s).square().flatten(1).sum(1) for r, s in pairs]).sum(0)


def cosine_distance(real: Gradients, synthetic: Gradients) -> Tensor:
    """1 - cosine of the gradients of all parameters as one vector; 1e-6 is added to the product of the norms."""
    a, b = (torch.cat([g.flatten(1) for g in part], 1) for part in (real, synthetic))
    distance: Tensor = 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + EPS)
    return distance


def absolute_distance(real: Gradients, synthetic: Gradients) -> Tensor:
    """Sum of absolute differences of all parameters' gradients."""
    pairs = zip(real, synthetic, strict=True)
    return torch.stack([(r - s).abs().flatten(1).sum(1) for r, s in pairs]).sum(0)


DISTANCES: dict[str, Distance] = {
    "rows": rows_distance,
    "mse": squared_distance,
    "cos": cosine_distance,
    "l1": absolute_distance,
}


def class_gradients(
    net: nn.Module,
    x: Tensor,
    ids: Tensor,
    parameters: Sequence[Tensor],
    graph: bool = False,
) -> list[Tensor]:
    """Gradients of the mean cross-entropy of each class's images.

    Args:
        net: in the mode it is to be used in.
        x: images (G, n, C, H, W) of G classes.
        ids: (G, n) their labels.
        parameters: of ``net``, those whose gradients are wanted.
        graph: keep the graph, for gradients of a distance with respect to ``x``.

    Returns:
        one tensor (G, *shape) a parameter, detached unless ``graph``.
    """
    found = [
        torch.autograd.grad(F.cross_entropy(net(images), labels), list(parameters), create_graph=graph)
        for images, labels in zip(x, ids, strict=True)
    ]
    return [torch.stack(parts) for parts in zip(*found, strict=True)]
