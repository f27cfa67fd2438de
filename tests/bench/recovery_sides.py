"""Recovery at the engine and as a plain loop over single batches, in turns in one process.

``python recovery_sides.py both CASE DEVICE`` prints one JSON line: images per second of each side, and how far apart the images
are.  CASE: ``<network>-<channels>-<side>-<ids>``, 10 classes a cell.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.augment.views import resized_boxes
from ddbench.compute import keep_freed_memory
from ddbench.contract import ImageData, Trained
from ddbench.matching import recovery
from ddbench.matching.recovery import Recovery, recover, to_bytes
from ddbench.nets.build import build
from ddbench.task import RunTask

CLASSES, STEPS, ROUNDS = 10, 40, 3


def teacher(network: str, data: ImageData, device: torch.device) -> Trained:
    net = build(network, data.shape, CLASSES, torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.train()(data.space.real_to_input(data.images))
    net = net.eval().requires_grad_(False).to(device)
    return Trained(net, f"bench-{network}", 0.0, 0.0, name=network, space=data.space)


def plain(task: RunTask, made: Trained, settings: Recovery) -> Tensor:
    """One cell after the other, in torch's own operations, as the descriptions of SRe2L and CDA have it."""
    data, side, device = task.train, task.train.shape[-1], task.device
    mean, std = (torch.tensor(v, device=device).view(-1, 1, 1) for v in (data.mean, data.std))
    norms = [m for m in made.network.modules() if isinstance(m, nn.BatchNorm2d)]
    terms: list[Tensor] = []

    def hook(norm: nn.BatchNorm2d, given: tuple[Tensor, ...], _out: Tensor) -> None:
        x = given[0]
        assert norm.running_mean is not None and norm.running_var is not None
        mean_ = x.mean((0, 2, 3))
        var = x.transpose(0, 1).flatten(1).var(1, correction=0)
        terms.append((mean_ - norm.running_mean).norm() + (var - norm.running_var).norm())

    handles = [n.register_forward_hook(hook) for n in norms]
    labels, out = torch.arange(CLASSES, device=device), []
    for number in range(task.ipc):
        chance = task.rng(f"recover-{number}-0")
        x = torch.randn(CLASSES, *data.shape, generator=chance).to(device).requires_grad_()
        adam = torch.optim.Adam([x], lr=settings.lr, betas=(0.5, 0.9))
        for it in range(settings.iterations):
            adam.param_groups[0]["lr"] = (
                0.5 * (1 + math.cos(math.pi * it / settings.iterations)) * settings.lr
            )
            u = torch.rand(43, dtype=torch.float64, generator=chance)
            ((top, left, h, w),) = resized_boxes(u[:40].view(1, 10, 4).numpy(), (side, side)).tolist()
            view = F.interpolate(x[:, :, top : top + h, left : left + w], size=(side, side), mode="bilinear")
            view = view.flip(3) if u[40] < 0.5 else view
            view = torch.roll(view, [int(v * (settings.roll[1] + 1)) for v in u[41:].tolist()], (2, 3))
            terms.clear()
            loss = F.cross_entropy(made.network(view), labels)
            loss = loss + settings.bn_weight * sum((10 if i == 0 else 1) * d for i, d in enumerate(terms))
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                x.copy_(torch.minimum(torch.maximum(x, -mean / std), (1 - mean) / std))
        out.append(to_bytes(x.detach(), data.space).cpu())
    for handle in handles:
        handle.remove()
    return torch.stack(out)


def main(case: str, device_name: str) -> None:
    network, channels, side, ids = case.split("-")
    device = torch.device(device_name)
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (200, int(channels), int(side), int(side)), generator=g, dtype=torch.uint8)
    half = (0.5,) * int(channels)
    data = ImageData("bench", "train", images, torch.arange(200) % CLASSES, CLASSES, half, half)
    made = teacher(network, data, device)
    settings = Recovery(STEPS, lr=0.01, classes_at_once=CLASSES, roll=(0, 4))
    keep_freed_memory()

    def engine(compiled: bool) -> Tensor:
        recovery._compiles = lambda *_: compiled  # a run is long or not: both are measured
        return recover(
            RunTask(data, int(ids), 0, device), [made], torch.ones(int(ids), 1), settings, data.space
        )

    sides = {
        "plain": lambda: plain(RunTask(data, int(ids), 0, device), made, settings),
        "engine": lambda: engine(False),
        **({"compiled": lambda: engine(True)} if device.type == "cpu" else {}),
    }
    last = {name: call() for name, call in sides.items()}  # first calls compile
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, call in sides.items():
            start = time.perf_counter()
            last[name] = call()
            seconds[name].append(time.perf_counter() - start)
    number = int(ids) * CLASSES
    apart = {
        name: float((made_.int() - last["plain"].int()).abs().float().mean()) for name, made_ in last.items()
    }
    print(
        json.dumps(
            {
                "images_per_s": {n: number / statistics.median(s) for n, s in seconds.items()},
                "apart": apart,
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[2], sys.argv[3])
