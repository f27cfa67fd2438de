"""A committee of networks: how much each member counts, which of them recover an image, which real images it starts from.

Members are weighed by their prior performance: the accuracy, in percent, of students that were trained on what one member
alone recovered and labelled.

Sources: Cui et al., "Dataset Distillation via Committee Voting", arXiv:2501.07575, and its code (Jiacheng8/CV-DD); the rule
of medium difficulty is that of DELT (arXiv:2411.19946).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from ddbench.contract import ImageData, Space, Trained
from ddbench.matching.sampling import take
from ddbench.matching.selection import class_pools

MEMBERS = (
    ("ResNet18BN", "torchvision:resnet18"),
    ("ResNet50BN", "torchvision:resnet50"),
    ("ShuffleNetV2", "torchvision:shufflenet_v2_x1_0"),
    ("MobileNetV2", "torchvision:mobilenet_v2"),
    ("DenseNet121", "torchvision:densenet121"),
)
"""The authors' committee, in their order: our names for small images and torchvision's."""
RELEASED = MappingProxyType(
    {
        "cifar10": (63.0, 65.3, 68.5, 67.6, 67.4),
        "cifar100": (64.0, 60.6, 51.6, 59.4, 56.4),
        "tiny_imagenet": (46.5, 28.3, 43.6, 44.8, 41.5),
        "imagenette": (62.4, 52.0, 57.2, 54.0, 60.8),
        "imagenet1k": (56.4, 42.3, 52.5, 44.2, 40.6),
    }
)
"""Prior performances in the authors' code (percent, by data set, in the order of ``MEMBERS``).  They are accuracies on
test data."""
PRIORS = ("held-out", "released", "equal")
VOTING = ("prior", "equal", "random")
VOTE_TEMPERATURE, LABEL_TEMPERATURE = 5.0, 10.0
"""The authors' softmax temperatures of the votes in recovery and of the weights of labels."""
_BATCH = 256


# ------------------------------------------------------------------------------------------------ weights


def softmax_weights(priors: Sequence[float], temperature: float) -> tuple[float, ...]:
    """exp(prior / temperature), normalised to sum 1.  Priors in percent.

    Raises:
        ValueError: a temperature that is not above 0.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; expected a number above 0")
    weights: list[float] = torch.tensor(priors, dtype=torch.float64).div(temperature).softmax(0).tolist()
    return tuple(weights)


def released_priors(dataset: str, networks: Sequence[str]) -> tuple[float, ...]:
    """The authors' constants for these networks, in percent.

    Only the very architectures of the authors have one (``MEMBERS``): no other width, version or norm of them.

    Raises:
        LookupError: they have none for the data set, or none for one of the networks.
    """
    found = RELEASED.get(dataset.partition("?")[0])
    if found is None:
        raise LookupError(
            f"there are no released priors for {dataset!r}; there are for {', '.join(RELEASED)} (prior 'held-out' measures "
            f"them on a held-out part of the training data, 'equal' does without)"
        )
    priors = {name: prior for names, prior in zip(MEMBERS, found, strict=True) for name in names}
    for network in networks:
        if network not in priors:
            raise LookupError(
                f"there is no released prior for {network!r}; there are for {', '.join(priors)} (prior 'held-out' measures "
                f"it, 'equal' does without)"
            )
    return tuple(priors[network] for network in networks)


# ------------------------------------------------------------------------------------------------ votes


def pairs(members: int) -> list[tuple[int, int]]:
    """All pairs of members, the earlier one first, in the order of CV-DD's code: (0, 1), (0, 2), ..."""
    return list(itertools.combinations(range(members), 2))


def voters(
    ids: int,
    priors: Sequence[float],
    generator: torch.Generator,
    only: tuple[int, int] | None = None,
) -> list[tuple[int, ...]]:
    """The members that recover the images of each id, the same for all classes.

    One id: the pair ``only``, or the two of the highest priors (the earlier one of equals).  As many ids as there are pairs
    (10 for five members): each pair in turn.  Else a random pair an id.  A committee of one recovers everything.

    Raises:
        ValueError: ``only`` does not name two of the members.
    """
    members = len(priors)
    if members == 1:
        return [(0,)] * ids
    if only is not None and (len(set(only)) != 2 or not all(0 <= m < members for m in only)):
        raise ValueError(
            f"the only pair is {only} of {members} members; expected two different ones, 0 to {members - 1}"
        )
    every = pairs(members)
    if ids == 1:
        if only is None:
            only_pair = sorted(sorted(range(members), key=lambda m: -priors[m])[:2])
            return [tuple(only_pair)]
        return [only]
    if ids == len(every):
        return list(every)
    return [tuple(sorted(torch.randperm(members, generator=generator)[:2].tolist())) for _ in range(ids)]


def votes(
    chosen: Sequence[tuple[int, ...]],
    priors: Sequence[float],
    generator: torch.Generator,
    voting: str = "prior",
    temperature: float = VOTE_TEMPERATURE,
) -> Tensor:
    """Weights (ids, M), float64, of the members at each id: rows sum to 1, members that do not recover the id have 0.

    Args:
        chosen: from :func:`voters`.
        priors: in percent, of all M members.
        generator: of ``random``.
        voting: ``prior`` (softmax of the priors of the chosen alone) | ``equal`` | ``random`` (uniform numbers, normalised).

    Raises:
        ValueError: another voting.
    """
    if voting not in VOTING:
        raise ValueError(f"voting is {voting!r}; expected one of {', '.join(VOTING)}")
    found = torch.zeros(len(chosen), len(priors), dtype=torch.float64)
    for row, some in zip(found, chosen, strict=True):
        if voting == "random":
            weights = 1 - torch.rand(len(some), dtype=torch.float64, generator=generator)  # never 0
            row[list(some)] = weights / weights.sum()
        else:
            own = [priors[m] if voting == "prior" else 0.0 for m in some]
            row[list(some)] = torch.tensor(softmax_weights(own, temperature), dtype=torch.float64)
    return found


# ------------------------------------------------------------------------------------------------ real patches


@torch.no_grad()
def true_class_probability(trained: Trained, train: ImageData, space: Space, device: torch.device) -> Tensor:
    """How sure a network is of the right class of each training image: (N,), float32, on the CPU.

    Images are read a batch at a time, wherever they lie.
    """
    found = torch.empty(len(train))
    labels = train.labels.cpu()
    for rows in torch.split(torch.arange(len(train)), _BATCH):
        logits = trained.network(space.real_to_input(take(train, rows, device)))
        found[rows] = logits.softmax(1).cpu().gather(1, labels[rows, None]).squeeze(1)
    return found


def around_the_middle(n: int, count: int) -> list[int]:
    """``count`` positions of 0..n-1 around ceil(n / 2): the centre, then above, below, above, ... by one more each time.

    Raises:
        ValueError: more than n.
    """
    if count > n:
        raise ValueError(f"{count} positions out of {n}; expected at most {n}")
    centre = math.ceil(n / 2)
    steps = itertools.chain([0], *((d, -d) for d in range(1, n + 1)))
    inside = (centre + d for d in steps if 0 <= centre + d < n)
    return list(itertools.islice(inside, count))


def medium_images(train: ImageData, probability: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    """Images of medium difficulty: of each class those whose probability of the true class is around the median.

    Args:
        probability: (N,), from :func:`true_class_probability`.
        count: images a class.
        among: (n,) indices of the only images that may be taken; None: all.

    Returns:
        int64 (K, count), on the CPU, in the order in which the rule takes them.

    Raises:
        ValueError: a class has fewer images.
    """
    pools = class_pools(train, count)
    if among is not None:
        allowed = torch.zeros(len(train), dtype=torch.bool).index_fill_(0, among, True)
        pools = [pool[allowed[pool]] for pool in pools]
    chosen = []
    for pool in pools:
        ascending = pool[torch.argsort(probability[pool], stable=True)]
        chosen.append(ascending[around_the_middle(len(pool), count)])
    return torch.stack(chosen)
