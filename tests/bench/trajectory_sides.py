"""What the benches of trajectory matching measure, each in a process of its own: prints one JSON line.

Run as ``python tests/bench/trajectory_sides.py SIDE CASE [DEVICE]`` at CIFAR-10 shapes (ConvNet, 10 classes, all images a step,
DSA):

- ``adjoint|unroll memory-IPC-STEPS``: the peak of memory of one iteration;
- ``both time-IPC-STEPS``: seconds of one iteration by adjoint, unroll and compiled adjoint, in turn in one process;
- ``plain|factory experts``: seconds of an expert, by the loop of most published code and by ours, which compiles as in the
  authors' whole recipe (compiling is reported apart).
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from ddbench.augment.dsa import DSA  # noqa: E402
from ddbench.budget import Meter  # noqa: E402
from ddbench.compute import compiler_works, keep_freed_memory  # noqa: E402
from ddbench.contract import ImageData, TeacherRecipe  # noqa: E402
from ddbench.matching.trajectories import Goal, Student, matched  # noqa: E402
from ddbench.nets.build import build, init_parameters  # noqa: E402
from ddbench.nets.flat import Flat  # noqa: E402
from ddbench.train import experts, networks  # noqa: E402

NETWORK, SHAPE, CLASSES = "ConvNet", (3, 32, 32), 10
ROUNDS = 2
"""Iterations that are timed; the shortest counts."""
MANY = 10**9
"""Steps for which a student is compiled on a CPU."""
EXPERTS = {"cpu": (512, 2, 2), "cuda": (10_240, 5, 10)}
"""Images, epochs, experts."""


def waited(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def student(ipc: int, device: str, steps: int = 0) -> Student:
    return Student(NETWORK, SHAPE, CLASSES, steps=steps, batch=CLASSES * ipc, device=device)


def problem(ipc: int, steps: int, device: str) -> dict[str, Any]:
    """What one iteration is given: an expert's way, images, and draws of an augmentation that both passes share."""
    rng = torch.Generator().manual_seed(0)
    start = Flat(NETWORK, SHAPE, CLASSES).vector(init_parameters(NETWORK, SHAPE, CLASSES, rng)).to(device)
    goal = start + 0.01 * torch.randn(start.shape, generator=rng).to(device)
    images = torch.randn(CLASSES * ipc, *SHAPE, generator=rng).to(device)
    labels = torch.arange(CLASSES).repeat_interleave(ipc).to(device)
    dsa = DSA.classic()
    draws = [dsa.draw(len(images), SHAPE, rng) for _ in range(steps)]

    def batch(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return dsa.apply(x, draws[i]), y

    step_size = torch.tensor(0.01, device=device)
    given: dict[str, Any] = dict(
        start=start, goals=[Goal(steps, goal)], images=images, labels=labels, batch=batch
    )
    return {**given, "step_size": step_size}


def memory(side: str, ipc: int, steps: int, device: str) -> dict[str, float]:
    keep_freed_memory()
    who, given = student(ipc, device), problem(ipc, steps, device)
    held = torch.cuda.memory_allocated() / 2**20 if device.startswith("cuda") else 0.0
    with Meter(device) as meter:
        loss = float(matched(side, who, **given).loss)
    rise = meter.peak_mib - held if held else meter.rise_mib
    return {"peak_mib": meter.peak_mib, "rise_mib": rise, "iteration_s": meter.wall_s, "loss": loss}


def seconds(ipc: int, steps: int, device: str) -> dict[str, Any]:
    keep_freed_memory()
    given = problem(ipc, steps, device)
    sides = {"adjoint": ("adjoint", student(ipc, device)), "unroll": ("unroll", student(ipc, device))}
    compile_s = 0.0
    if device == "cpu":
        sides["compiled"] = ("adjoint", student(ipc, device, MANY))
        short = {**given, "goals": [dataclasses.replace(given["goals"][0], after=2)]}
        start = waited(device)
        matched(*sides["compiled"], **short)  # both forms of a step: the first one leaves a product out
        compile_s = waited(device) - start
        if not compiler_works():
            del sides["compiled"]
    times: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, float] = {}
    for way, who in sides.values() if device != "cpu" else ():
        matched(way, who, **given)  # warms the device up
    for _ in range(ROUNDS):
        for name, (way, who) in sides.items():
            start = waited(device)
            losses[name] = float(matched(way, who, **given).loss)
            times[name].append(waited(device) - start)
    return {"seconds": {k: min(v) for k, v in times.items()}, "losses": losses, "compile_s": compile_s}


# ------------------------------------------------------------------------------------------------ experts


def real_images(count: int) -> ImageData:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *SHAPE), generator=rng, dtype=torch.uint8)
    labels = torch.arange(count) % CLASSES
    return ImageData("noise", "train", pixels, labels, CLASSES, (0.5,) * 3, (0.25,) * 3)


def field_expert(train: ImageData, epochs: int, seed: int, device: str) -> list[list[Tensor]]:
    """One expert as most published code trains it; its parameters at the start and after every epoch."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    net = build(NETWORK, SHAPE, CLASSES, rng).to(device).train()
    inputs, labels = train.space.real_to_input(train.images).to(device), train.labels.to(device)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(inputs, labels), batch_size=256, shuffle=True
    )
    dsa, criterion = DSA.classic(), torch.nn.CrossEntropyLoss().to(device)
    sgd = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.0, weight_decay=0.0)
    snapshots = [[p.detach().cpu().clone() for p in net.parameters()]]
    for _ in range(epochs):
        total, right, seen = 0.0, 0, 0
        for batch in loader:
            x, y = batch[0].float().to(device), batch[1].long().to(device)
            x = dsa.apply(x, dsa.draw(len(x), SHAPE, rng))
            logits = net(x)
            loss = criterion(logits, y)
            right += (logits.argmax(1) == y).sum().item()
            total += loss.item() * len(y)
            seen += len(y)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
        snapshots.append([p.detach().cpu().clone() for p in net.parameters()])
    with torch.no_grad():  # as the factory does, once
        sum(int((net.eval()(x).argmax(1) == y).sum()) for x, y in loader)
    return snapshots


def plain_experts(device: str) -> dict[str, float]:
    images, epochs, count = EXPERTS[device.partition(":")[0]]
    train = real_images(images)
    field_expert(real_images(256), 1, 0, device)
    start = waited(device)
    found = [field_expert(train, epochs, seed, device) for seed in range(count)]
    took = waited(device) - start
    return {"expert_s": took / count, "snapshots": len(found[0]), "first_s": 0.0}


def factory_experts(device: str) -> dict[str, float]:
    images, epochs, count = EXPERTS[device.partition(":")[0]]
    train = real_images(images)
    networks._COMPILE_ABOVE_S = 0.0  # as for the authors' 100 experts of 50 epochs
    recipe = TeacherRecipe(
        network=NETWORK,
        epochs=epochs,
        momentum=0.0,
        weight_decay=0.0,
        augment="dsa",
        held_out=0.0,
        count=count,
    )
    with tempfile.TemporaryDirectory() as cache:
        start = waited(device)
        first = dataclasses.replace(recipe, epochs=1, seed=1)
        experts.make_experts(train, first, device, cache=Path(cache))
        first_s = waited(device) - start
        start = waited(device)
        made = experts.make_experts(train, recipe, device, cache=Path(cache))
        took = waited(device) - start
        snapshots = sum(bool(torch.isfinite(made.state(0, e)).all()) for e in range(epochs + 1))
    return {"expert_s": took / count, "snapshots": snapshots, "first_s": first_s}


def main() -> None:
    side, case, device = sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "cpu"
    what, *numbers = case.split("-")
    if what == "experts":
        found: dict[str, Any] = {"plain": plain_experts, "factory": factory_experts}[side](device)
    elif what == "memory":
        found = memory(side, *map(int, numbers), device)
    else:
        found = seconds(*map(int, numbers), device)
    print(json.dumps({"side": side, "case": case, "threads": torch.get_num_threads(), **found}))


if __name__ == "__main__":
    main()
