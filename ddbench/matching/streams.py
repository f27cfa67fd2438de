"""Passes through the real images that go on from step to step: batches of each class, and batches of all classes.

Their places are part of a run's state: both have ``state_dict`` and ``load_state_dict`` for ``task.loop``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from ddbench.contract import ImageData
from ddbench.matching.sampling import RealBatches, take


class ClassPasses(RealBatches):
    """As :class:`RealBatches`, without replacement through a whole pass over a class.

    Each class has passes of its own, in an order drawn when a pass begins; what does not fill a batch at the end of a pass is
    left out.
    """

    def __init__(
        self,
        train: ImageData,
        batch: int,
        device: torch.device,
        note: Callable[[str, str], None] | None = None,
    ) -> None:
        super().__init__(train, batch, device, note)
        self._orders = torch.cat(self._pools)  # class by class, each as its pass goes
        self._used = torch.tensor([len(pool) for pool in self._pools])  # images of the pass that are used up

    def draw(self, generator: torch.Generator) -> Tensor:
        chosen, start = [], 0
        for c, pool in enumerate(self._pools):
            order, used = self._orders[start : start + len(pool)], int(self._used[c])
            if used + self.batch > len(pool):
                order.copy_(pool[torch.randperm(len(pool), generator=generator)])
                used = 0
            chosen.append(order[used : used + self.batch].clone())
            self._used[c] = used + self.batch
            start += len(pool)
        return torch.stack(chosen)

    def state_dict(self) -> dict[str, Tensor]:
        return {"orders": self._orders, "used": self._used}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._orders.copy_(state["orders"])
        self._used.copy_(state["used"])


class TrainingStream:
    """Batches of all classes, in passes over the whole training set; the order is drawn when a pass begins.

    Args:
        batch: images a batch, at least 1; the last one of a pass may be smaller.
    """

    def __init__(self, train: ImageData, batch: int, device: torch.device) -> None:
        if batch < 1:
            raise ValueError(f"batch_train is {batch}; expected at least 1 real image a batch")
        self._train, self._device, self._batch = train, device, batch
        self._order = torch.arange(len(train))
        self._used = torch.tensor(len(train))

    def batches(self, images: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (b, C, H, W) and labels (b,) on the device, until at least so many images were given; goes on where the last
        call ended."""
        given = 0
        while given < images:
            if int(self._used) >= len(self._order):
                self._order.copy_(torch.randperm(len(self._order), generator=generator))
                self._used.zero_()
            rows = self._order[int(self._used) : int(self._used) + self._batch]
            self._used += len(rows)
            given += len(rows)
            pixels = take(self._train, rows, self._device)
            yield (
                self._train.space.real_to_input(pixels),
                self._train.labels[rows.to(self._train.labels.device)].to(self._device),
            )

    def state_dict(self) -> dict[str, Tensor]:
        return {"order": self._order, "used": self._used}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._order.copy_(state["order"])
        self._used.copy_(state["used"])
