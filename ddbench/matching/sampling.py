"""What a matching step works on: batches of real images of every class, and the synthetic images by class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddbench.compute import to_device
from ddbench.contract import ImageData, Space, Task
from ddbench.matching.selection import class_pools, random_choice

INITS = ("real", "noise")


class RealBatches:
    """Batches of real images of each class, as network inputs on a device.

    Every class gives the same number of images, so that classes stack: ``batch``, or the size of the smallest class where
    that is less.  The data may lie on the device, in memory or on disk; only what a step needs is moved.

    Args:
        batch: images a class and step, at least 1.
        note: ``task.note``; is told where a class is smaller than the batch.
        name: of the batch, for what is told.
    """

    def __init__(
        self,
        train: ImageData,
        batch: int,
        device: torch.device,
        note: Callable[[str, str], None] | None = None,
        name: str = "batch_real",
    ) -> None:
        if batch < 1:
            raise ValueError(f"{name} is {batch}; expected at least 1 real image a class")
        self._train, self._device = train, device
        self._pools = class_pools(train, 1)
        sizes = [len(pool) for pool in self._pools]
        self.batch = min(batch, *sizes)
        if self.batch < batch and note is not None:
            note(
                name,
                f"{name} is {batch} but class {sizes.index(self.batch)} has {self.batch} images, so every class "
                f"gives {self.batch} a step",
            )
        statistics = torch.tensor([train.mean, train.std])
        self._mean, self._std = statistics.to(device)[:, None, :, None, None].unbind(0)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Indices (K, n) of one batch of every class, without replacement inside a batch, on the CPU."""
        return random_choice(self._pools, self.batch, generator).view(len(self._pools), self.batch)

    def images(self, indices: Tensor) -> Tensor:
        """Indices (G, n) -> network inputs (G, n, C, H, W) on the device."""
        chosen = take(self._train, indices.flatten(), self._device)
        # as train.space.real_to_input, in place and without a transfer of its statistics
        inputs = chosen.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)
        return inputs.view(*indices.shape, *self._train.shape)


def take(train: ImageData, indices: Tensor, device: torch.device) -> Tensor:
    """The uint8 images at ``indices`` on ``device``, wherever the data lie."""
    return to_device(train.images[to_device(indices, train.images.device)], device)


def initial_images(task: Task, init: str, space: Space | None = None) -> Tensor:
    """The first synthetic images (K, ipc, C, H, W), network inputs on the task's device, without gradient.

    Args:
        init: ``real``: random training images of each class, without replacement; ``noise``: independent N(0, 1).
        space: of the network inputs; None: the data set's own.

    Raises:
        ValueError: another ``init``, or a class has fewer images than ``real`` needs.
    """
    train, rng = task.train, task.rng("init")
    if init == "real":
        chosen = random_choice(class_pools(train, task.ipc), task.ipc, rng)
        images = (space or train.space).real_to_input(take(train, chosen, task.device))
    elif init == "noise":
        class_pools(train, 1)
        if task.ipc < 1:
            raise ValueError(f"ipc is {task.ipc}; expected at least 1 image a class")
        images = torch.randn((train.classes * task.ipc, *train.shape), generator=rng).to(task.device)
    else:
        raise ValueError(f"init is {init!r}; expected one of {', '.join(INITS)}")
    return images.view(train.classes, task.ipc, *train.shape).contiguous()


def pixel_sgd(images: Tensor, lr: float, momentum: float, fused: bool | None = None) -> torch.optim.SGD:
    """SGD on the images alone.  Raises as :func:`learned_sgd`."""
    return learned_sgd(images, lr, momentum, ("image_lr", "momentum"), fused)


def learned_sgd(
    learned: Tensor, lr: float, momentum: float, names: tuple[str, str], fused: bool | None = None
) -> torch.optim.SGD:
    """SGD on one learned tensor; ``names``: of the method's fields that give step and momentum.

    Raises:
        ValueError: a negative step, or a momentum outside [0, 1), which would never settle.
    """
    if not lr >= 0:
        raise ValueError(f"{names[0]} is {lr}; expected 0 or more")
    if not 0 <= momentum < 1:
        raise ValueError(f"{names[1]} is {momentum}; expected a number from 0 to 1, 1 excluded")
    return torch.optim.SGD([learned], lr=lr, momentum=momentum, fused=fused)


def class_labels(task: Task) -> Tensor:
    """Labels (K, ipc) of the synthetic images, int64 on the task's device."""
    return torch.arange(task.train.classes, device=task.device)[:, None].expand(-1, task.ipc).contiguous()


def viewed(task: Task, images: Tensor, labels: Tensor) -> Tensor:
    """Synthetic images (G, ipc, C, H, W) of G classes after ``task.view``: (G, m, C, H, W), differentiable.

    A wrapper may change how many images a class has, as long as all classes keep the same number.

    Raises:
        ValueError: the wrapper's view lost a class, or its classes differ in size.
    """
    batch, ids = images.flatten(0, 1), labels.flatten()
    seen, seen_ids = task.view(batch, ids)
    if seen_ids is ids and len(seen) == len(batch):
        return seen.view_as(images)
    given, counts = torch.unique(seen_ids, return_counts=True)
    sizes = counts.tolist()
    if not torch.equal(given, torch.unique(ids)) or len(set(sizes)) > 1 or len(seen) != len(seen_ids):
        raise ValueError(
            f"the view of a wrapper made {len(seen)} images with {sizes} of each class out of {len(batch)} images of "
            f"{len(images)} classes; matching needs every class, all with the same number"
        )
    return seen[torch.argsort(seen_ids, stable=True)].view(len(images), sizes[0], *images.shape[2:])
