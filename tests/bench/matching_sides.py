"""The two sides of the comparison of outer steps, each in a process of its own: prints one JSON line.

Run as ``python tests/bench/matching_sides.py SIDE CASE [DEVICE]``: SIDE is plain (tests/plain_matching.py, default settings) or
engine (the method itself, as of the authors' whole run).  The real data are noise of CIFAR-10's shape, 1,100 images a class.
A first run of one step warms up, and on the engine's side compiles; of a second run the median of the steps counts.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import plain_matching  # noqa: E402
import torch  # noqa: E402

from ddbench import registry  # noqa: E402
from ddbench.contract import ImageData, TeacherRecipe, Trained  # noqa: E402
from ddbench.nets.build import build  # noqa: E402
from ddbench.task import RunTask  # noqa: E402

IPC, SEED, PER_CLASS = 10, 1, 1100
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    # method: recipe, steps timed, settings changed
    "dm": ("authors", 4, {}),
    "datadam": ("authors", 6, {}),
    "ncfm": ("no-psi", 2, {"pool": 2}),
    "dsa": ("authors", 1, {"outer": 2}),
}
"""A step is what the method's loop does once; of dsa two matching steps and the 50 epochs between them, instead of ten."""
FIRST_RUN: dict[str, dict[str, Any]] = {"dsa": {"inner": 1}}
"""Settings of the first run.  Losses of dsa are compared in that run alone: 50 epochs of training blow rounding up (weights
that differ by 1e-7 at the start make 3e-4 of the loss)."""


def train_data() -> ImageData:
    generator = torch.Generator().manual_seed(0)
    # smooth noise, so that augmentations and features have something to work on
    coarse = torch.rand(10 * PER_CLASS, 3, 8, 8, generator=generator)
    pixels = (torch.nn.functional.interpolate(coarse, 32, mode="bilinear") * 255).to(torch.uint8)
    labels = torch.arange(10).repeat_interleave(PER_CLASS)
    return ImageData("noise", "train", pixels, labels, 10, (0.5,) * 3, (0.15,) * 3)


def waited(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def pool() -> list[Trained]:
    """Two untrained pairs of networks: what a pool holds does not change how long a step takes."""
    found = []
    for i in range(2):
        ends = [build("ConvNet", (3, 32, 32), 10, torch.Generator().manual_seed(2 * i + j)) for j in (0, 1)]
        found.append(Trained(ends[1], f"untrained-{i}", 0.0, 0.0, initial=ends[0].state_dict()))
    return found


class Enough(Exception):
    """All steps that were wanted are done."""


class Stopwatch(RunTask):
    """A task whose loop ends after ``steps`` steps and knows how long each took."""

    steps = 0

    def loop(self, total: int, state: Any = (), show: Any = None) -> Iterator[int]:
        self.times, self.losses = [], []
        for it in range(self.steps):
            start = waited(str(self.device))
            yield it
            self.times.append(waited(str(self.device)) - start)
        raise Enough

    def log(self, **values: Any) -> None:
        self.losses.append(values["loss"])

    def teachers(self, recipe: TeacherRecipe) -> list[Trained]:
        return pool()


def plain(case: str, device: str, steps: int, first: dict[str, Any]) -> tuple[list[float], list[float]]:
    settings = {**CASES[case][2], **first}
    if case == "ncfm":
        starts = [build("ConvNet", (3, 32, 32), 10).to(device) for _ in range(2)]
        for start, trained in zip(starts, pool(), strict=True):
            start.load_state_dict(trained.initial)
        settings = {"pool": [(a, t.network.to(device)) for a, t in zip(starts, pool(), strict=True)]}
    twin = getattr(plain_matching, case)(train_data(), IPC, SEED, device=device, **settings)
    times: list[float] = []
    losses: list[float] = []
    for _ in range(steps):
        start = waited(device)
        losses.append(next(twin))
        times.append(waited(device) - start)
    return times, losses


def engine(case: str, device: str, steps: int, first: dict[str, Any]) -> tuple[list[float], list[float]]:
    recipe, _, changed = CASES[case]
    settings = {**registry.resolve_recipe(case, recipe, "cifar10", IPC).settings, **changed, **first}
    task = Stopwatch(train_data().to(device), IPC, SEED, torch.device(device))
    task.steps = steps
    try:
        task.run_method(registry.get("methods", case)(**settings))
    except Enough:
        pass
    return task.times, [float(v) for v in task.losses]


def main() -> None:
    side, case, device = sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "cpu"
    run = {"plain": plain, "engine": engine}[side]
    first = FIRST_RUN.get(case, {})
    warm_up, losses = run(case, device, 1, first)
    times, more = run(case, device, CASES[case][1], {})
    told = {
        "side": side,
        "case": case,
        "threads": torch.get_num_threads(),
        "step_s": statistics.median(times),
        "first_s": warm_up[0],
        "losses": losses if first else losses + more,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
