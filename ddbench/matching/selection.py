"""Choosing real images: the pool of each class, greedy herding, greedy k-centers.

Source: Welling, "Herding dynamical weights to learn", ICML 2009; Sener and Savarese, "Active learning for convolutional
neural networks: a core-set approach", ICLR 2018, arXiv:1708.00489; both as used for coresets by DeepCore,
arXiv:2204.08499.
Departures: herding picks the nearest point to the residual; DeepCore's code picks the farthest by mistake.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ddbench.contract import ImageData


def class_pools(train: ImageData, ipc: int) -> list[Tensor]:
    """Indices of the images of each class, ascending, int64 on the CPU; each class has at least ``ipc``.

    Raises:
        ValueError: ipc is below 1, a class is empty, or a class is smaller than ipc; says which and what to do.
    """
    if ipc < 1:
        raise ValueError(f"ipc is {ipc}; expected at least 1 image a class")
    labels = train.labels.cpu()
    counts = torch.bincount(labels, minlength=train.classes).tolist()
    for c, count in enumerate(counts):
        if count == 0:
            raise ValueError(
                f"class {c} of {train.name} has no training images; every class needs some: "
                f"correct the labels or remove the class"
            )
        if count < ipc:
            raise ValueError(
                f"class {c} has {count} training images but ipc is {ipc}; "
                f"lower --ipc to {count} or choose a larger data set"
            )
    return list(torch.split(torch.argsort(labels, stable=True), counts))


def random_choice(pools: list[Tensor], count: int, generator: torch.Generator) -> Tensor:
    """``count`` members of each pool, uniformly and without replacement, one pool after the other."""
    return torch.cat([pool[torch.randperm(len(pool), generator=generator)[:count]] for pool in pools])


def _points(features: Tensor, count: int) -> Tensor:
    if features.dim() != 2 or not 1 <= count <= len(features):
        raise ValueError(
            f"features are {tuple(features.shape)} and count is {count}; expected (n, d) and 1 to n points"
        )
    # float64: the greedy rules compare sums of many close distances
    return features.double()


def herding(features: Tensor, count: int) -> Tensor:
    """Greedy herding: at step t the point nearest to ``t * mean - sum of the chosen``, each point once.

    Args:
        features: (n, d).
        count: points to choose, 1 to n.

    Returns:
        indices (count,) in the order of choice, on the CPU; ties go to the lowest index.
    """
    points = _points(features, count)
    mean, norms = points.mean(0), points.square().sum(1)
    total = torch.zeros_like(mean)
    chosen: list[int] = []
    for step in range(1, count + 1):
        # |residual - h|^2 without the term that all points share
        distance = norms - 2 * (points @ (step * mean - total))
        distance[chosen] = torch.inf
        chosen.append(int(distance.argmin()))
        total = total + points[chosen[-1]]
    return torch.tensor(chosen)


def k_center(features: Tensor, count: int, first: int) -> Tensor:
    """Greedy k-centers: from ``first`` on, always the point farthest (Euclidean) from those chosen, each point once.

    Args:
        features: (n, d).
        count: points to choose, 1 to n.
        first: index of the first point.

    Returns:
        indices (count,) in the order of choice, on the CPU; ties go to the lowest index.
    """
    points = _points(features, count)
    if not 0 <= first < len(points):
        raise ValueError(
            f"the first center is point {first} of {len(points)}; expected 0 to {len(points) - 1}"
        )
    chosen = [first]
    nearest = (points - points[first]).square().sum(1)
    while len(chosen) < count:
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen)
