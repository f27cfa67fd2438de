"""Training of the matching network on the synthetic images between two matching steps, and its loss, compiled in long runs.

Source: Zhao, Mopuri and Bilen, arXiv:2006.05929 (DC); Zhao and Bilen, arXiv:2102.08259 (DSA); with their code.
Departures: none that change a value; long runs on a CPU take a compiled loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench import compute
from ddbench.augment.named import Augmentation
from ddbench.contract import Task
from ddbench.matching.features import RandomNetworks, compiling_pays

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Network, images (n, C, H, W), targets (n,) or (n, K) -> a scalar."""

_COMPILE_ABOVE_S = 120.0
"""A loss is compiled where its passes would take longer than this by estimate: on two cores compiling costs 3 to 8 s for each
size of batch, and saves 10 to 15 % of the time after it (32x32 colour, width 128), more where freed memory is not kept."""


def mean_loss(net: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of a batch."""
    return F.cross_entropy(net(x), targets)


# ------------------------------------------------------------------------------------------------ compiled loss


def fast_loss(networks: RandomNetworks, images: float) -> Loss:
    """:func:`mean_loss` as it is, or compiled where the run is long enough; equal up to rounding.

    The choice follows from shapes and counts alone.  A compiled loss has first derivatives only, with respect to the weights;
    it reads them where they are, so networks drawn anew are never traced again, and without a compiler the plain one goes on.

    Args:
        networks: on whose architecture and device it depends whether compiling pays.
        images: that go forward and backward in the whole run (count).
    """
    if not compiling_pays(networks, 6 * images, _COMPILE_ABOVE_S):  # forward and backward: 6 operations
        return mean_loss
    key = ("mean loss", networks.name, networks.shape, networks.classes)
    return compute.Compiled(key, mean_loss)


# ------------------------------------------------------------------------------------------------ training


def train_on(
    task: Task,
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    lr: float,
    batch: int = 256,
    augment: Augmentation | None = None,
    loss: Loss = mean_loss,
) -> None:
    """Train ``net`` in place on the synthetic images by plain SGD, in train mode: no momentum, no decay.

    Every batch goes through ``task.view``, then through the augmentation with parameters of each image's own.  Chance comes
    from ``task.rng("order")`` (one permutation an epoch) and ``task.rng("inner_augment")`` (one draw a batch).

    Args:
        images: (K, ipc, C, H, W), network inputs; not changed.
        labels: (K, ipc).
        epochs: passes through all images.
        lr: step of the weights.
        batch: images a step, at most; the last of an epoch may be smaller.
        loss: of a batch.
    """
    net.train()
    optimiser = torch.optim.SGD(net.parameters(), lr=lr)
    for x, ids in _batches(task, images.detach().flatten(0, 1), labels.flatten(), epochs, batch, augment):
        optimiser.zero_grad()
        loss(net, x, ids).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    optimiser.zero_grad()


@torch.no_grad()
def _batches(
    task: Task, images: Tensor, labels: Tensor, epochs: int, batch: int, augment: Augmentation | None
) -> Iterator[tuple[Tensor, Tensor]]:
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=task.rng("order"))
        for rows in torch.split(compute.to_device(order, images.device), batch):
            x, ids = task.view(images[rows], labels[rows])
            if augment is not None:
                x = augment.apply(x, augment.draw(len(x), shape, task.rng("inner_augment")))  # type: ignore[arg-type]
            yield x, ids
