"""One network trained by several processes, a GPU each: started by ``torchrun``, each takes its share of every batch.

The result is that of one process on the same batches, up to rounding: every process draws the same batches, gradients are
averaged by ``DistributedDataParallel`` with the weight of each share, and batch norm takes the statistics of the whole batch
(PyTorch's own SyncBatchNorm has no form for CPU, and averages shares of unequal size alike).  Only dropout draws other masks.
"""

from __future__ import annotations

import copy
import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ddbench.contract import TeacherRecipe
from ddbench.seeding import Generators
from ddbench.train.engine import One, Run
from ddbench.train.students import Step

_TIMEOUT = datetime.timedelta(days=1)
"""One process may wait for a lock, write or measure while the others wait for it; torchrun ends them where one fails."""


@dataclass(frozen=True)
class World:
    """Which of how many processes this one is."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def check(self, recipe: TeacherRecipe) -> None:
        """Raises:
        ValueError: a recipe that several processes cannot train."""
        if self.size == 1:
            return
        if recipe.batch < self.size:
            raise ValueError(
                f"TeacherRecipe.batch is {recipe.batch} for {self.size} processes; expected at least one image each: "
                f"start fewer (--nproc-per-node), or enlarge the batch"
            )
        if recipe.rho > 0 or recipe.gradient_penalty > 0:
            raise ValueError(
                f"TeacherRecipe has rho {recipe.rho} and gradient_penalty {recipe.gradient_penalty}, which {self.size} "
                f"processes cannot train; start one"
            )

    def share(self, images: int) -> slice | None:
        """The part of a batch that this process takes; None: all of it, as every process does where it is very short."""
        if images < 2 * self.size:
            return None
        return slice(self.rank * images // self.size, (self.rank + 1) * images // self.size)


_world = World()


def world() -> World:
    """The processes that were joined; alone outside :func:`joined`."""
    return _world


@contextmanager
def joined(device: str = "auto") -> Iterator[tuple[World, str]]:
    """Join the processes that ``torchrun`` started; without it this one is alone.

    Args:
        device: ``auto`` | ``cpu`` | ``cuda``: with ``cuda`` each process takes the GPU of its number.

    Yields:
        this process's place, and its device.

    Raises:
        ValueError: fewer GPUs than processes, or one GPU named for all.
    """
    global _world
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "LOCAL_RANK" not in os.environ:
        yield World(), device
        return
    own = _device_of(device, int(os.environ["LOCAL_RANK"]))
    if own.startswith("cuda"):
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.startswith("cuda") else "gloo", timeout=_TIMEOUT)
    _world = World(dist.get_rank(), dist.get_world_size())
    try:
        yield _world, own
    finally:
        _world = World()
        dist.destroy_process_group()


def _device_of(device: str, number: int) -> str:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if device not in ("auto", "cuda"):
        raise ValueError(
            f"device is {device!r} under torchrun, where each process takes a GPU of its own; expected auto, cuda or cpu"
        )
    if number >= torch.cuda.device_count():
        raise ValueError(
            f"process {number} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; start as many "
            f"processes (--nproc-per-node), or use --device cpu"
        )
    return f"cuda:{number}"


def agreed(values: Sequence[int], device: torch.device) -> list[int]:
    """The first process's integers, in all processes; each must give as many.  Waits for all."""
    if _world.size == 1:
        return list(values)
    told = torch.tensor(list(values), dtype=torch.int64, device=device)
    dist.broadcast(told, src=0)
    return [int(v) for v in told.tolist()]


# ------------------------------------------------------------------------------------------------ batch norm


class _Sum(torch.autograd.Function):
    """Sum over the processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm by the statistics of all processes' shares of a batch; ``together`` False: of its own images."""

    together = True

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.together):
            return super().forward(x)
        own = x.new_tensor([x.numel() / x.shape[1]])
        sums: Tensor = _Sum.apply(torch.cat([x.sum((0, 2, 3)), own]))  # type: ignore[no-untyped-call,unused-ignore]
        n = sums[-1].detach()
        mean = sums[:-1] / n
        centred = x - mean[None, :, None, None]
        squares: Tensor = _Sum.apply(centred.square().sum((0, 2, 3)))  # type: ignore[no-untyped-call,unused-ignore]
        variance = squares / n
        self._keep(mean.detach(), (squares / (n - 1)).detach())
        y = centred * (variance + self.eps).rsqrt()[None, :, None, None]
        if self.affine:
            y = y * self.weight[None, :, None, None] + self.bias[None, :, None, None]
        return y

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def _sharing(net: nn.Module) -> nn.Module:
    """The network with its batch norms replaced by shared ones; parameters stay the same tensors."""
    for name, child in net.named_children():
        if type(child) is nn.BatchNorm2d:
            own = SharedBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            for kind in (child._parameters, child._buffers):
                for key, tensor in kind.items():
                    setattr(own, key, tensor)
            setattr(net, name, own.train(child.training))
        elif isinstance(child, _BatchNorm) and not isinstance(child, SharedBatchNorm):
            raise ValueError(
                f"{type(child).__name__} ({name}) is a batch norm whose statistics several processes cannot share; train "
                f"this network in one process"
            )
        else:
            _sharing(child)
    return net


def _unused_parameters(net: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether some parameter takes no part in the logits, which DistributedDataParallel has to be told."""
    twin = copy.deepcopy(net)
    _together(twin, False)
    device = next(twin.parameters()).device
    twin(torch.zeros(2, *shape, device=device)).sum().backward()
    return any(p.grad is None for p in twin.parameters())


def _together(net: nn.Module, together: bool) -> None:
    for module in net.modules():
        if isinstance(module, SharedBatchNorm):
            module.together = together


# ------------------------------------------------------------------------------------------------ the crew


class Shared(One):
    """The crew of one network whose batches are shared out over the processes.

    Raises:
        ValueError: batch norms of another library's own kind.
    """

    def __init__(self, run: Run, place: World) -> None:
        super().__init__(replace(run, compiled=False))
        self.place = place
        _sharing(self.net)

    def start(self, generators: Sequence[Generators]) -> list[tuple[str, Tensor]]:
        named = super().start(generators)
        device = self.run.device
        self._parallel = DistributedDataParallel(
            self.net,
            device_ids=[device.index] if device.type == "cuda" else None,
            find_unused_parameters=_unused_parameters(self.net, self.run.shape),
        )
        return named

    def losses(self, step: Step) -> Tensor:
        """(1,) loss of this process's share, so weighted that the mean over the processes is the batch's."""
        images = int(step.inputs.shape[1])
        part = self.place.share(images)
        _together(self.net, part is not None)
        weight, rows = 1.0, slice(None)
        if part is not None:
            rows = part
            weight = self.place.size * (part.stop - part.start) / images
        x = step.inputs[0, rows]
        ids, soft, weights = (None if t is None else t[0, rows] for t in (step.ids, step.soft, step.weights))
        loss = self.run.loss(self._parallel(x), ids, soft, weights)
        return weight * loss[None]
