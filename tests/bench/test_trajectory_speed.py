"""Trajectory matching at CIFAR-10 shapes: memory and time of one iteration, and experts a minute.

Run: ``OMP_NUM_THREADS=2 python -m pytest -s tests/bench/test_trajectory_speed.py``.  Every memory figure is from a process of
its own; times of one iteration are from one process, the ways in turn.  Ratios are told beside what we want them to be, never
asserted; that the ways agree in their loss is.

Memory: ``peak`` is the highest resident memory of the whole process (on a GPU: of tensors), ``rise`` what the iteration added
to it; ratios of both are told, and the target is for the peaks.  The full unroll at ipc 10 is measured at 5 steps only:
50 would take ten times its rise, some 20 GiB.
"""

from __future__ import annotations

from typing import Any

import pytest
from measuring import DEVICE, measure

MEMORY = {
    10: [("adjoint", 5), ("adjoint", 50), ("unroll", 5)],
    1: [("adjoint", 5), ("adjoint", 50), ("unroll", 5), ("unroll", 50)],
}
"""Ways and student steps, by ipc."""
MEMORY_TARGET = {10: 1.3, 1: None}
"""Of the adjoint's peak at 50 steps to that at 5, at most; at ipc 1 the states of the student, 1.3 MB a step, weigh in."""
TIMES = {10: 3, 1: 10}
"""Student steps of the iteration that is timed, by ipc."""
TIME_TARGET = 1.4
"""Of the adjoint's seconds to the unroll's, at most, untraced."""
EXPERTS_TARGET = {"cpu": 1.3, "cuda": 8.0}
"""Of experts a minute, factory to plain loop, at least."""


def tell(benchmark: Any, **figures: Any) -> None:
    benchmark.extra_info.update(device=DEVICE, **figures)
    print(f"\n{benchmark.extra_info}")


@pytest.mark.parametrize("ipc", MEMORY)
def test_memory_of_one_iteration(ipc, benchmark):
    found: dict[tuple[str, int], dict[str, Any]] = {}

    def all_sides() -> None:
        for side, steps in MEMORY[ipc]:
            found[side, steps] = measure("trajectory_sides.py", side, f"memory-{ipc}-{steps}")

    benchmark.pedantic(all_sides, rounds=1, iterations=1)
    assert found["adjoint", 5]["loss"] == pytest.approx(found["unroll", 5]["loss"], rel=1e-4)
    for side in ("adjoint", "unroll"):
        few, many = found[side, 5], found.get((side, 50))
        figures = {f"{k}_at_5": round(few[f"{k}_mib"]) for k in ("peak", "rise")}
        if many is not None:
            figures.update({f"{k}_at_50": round(many[f"{k}_mib"]) for k in ("peak", "rise")})
            figures.update(
                {f"ratio_of_{k}s": round(many[f"{k}_mib"] / few[f"{k}_mib"], 2) for k in ("peak", "rise")}
            )
        benchmark.extra_info.update({f"{side}_{name}": value for name, value in figures.items()})
    tell(benchmark, case=f"MiB at ipc {ipc}", threads=few["threads"], target_of_peaks=MEMORY_TARGET[ipc])


@pytest.mark.parametrize("ipc", TIMES)
def test_time_of_one_iteration(ipc, benchmark):
    found: dict[str, Any] = {}

    def both() -> None:
        found.update(measure("trajectory_sides.py", "both", f"time-{ipc}-{TIMES[ipc]}"))

    benchmark.pedantic(both, rounds=1, iterations=1)
    took, losses = found["seconds"], found["losses"]
    assert list(losses.values()) == pytest.approx([losses["unroll"]] * len(losses), rel=1e-4)
    tell(
        benchmark,
        case=f"{TIMES[ipc]} steps at ipc {ipc}",
        threads=found["threads"],
        **{f"{way}_s": round(value, 2) for way, value in took.items()},
        **{
            f"{way}_to_unroll": round(value / took["unroll"], 2)
            for way, value in took.items()
            if way != "unroll"
        },
        compile_s=round(found["compile_s"], 1),
        target_of_adjoint=TIME_TARGET,
    )


def test_experts_a_minute(benchmark):
    found: dict[str, dict[str, Any]] = {}

    def both() -> None:
        for side in ("plain", "factory"):
            found[side] = measure("trajectory_sides.py", side, "experts")

    benchmark.pedantic(both, rounds=1, iterations=1)
    plain, factory = found["plain"], found["factory"]
    assert plain["snapshots"] == factory["snapshots"]
    tell(
        benchmark,
        case="experts of a few epochs on a few images",
        threads=plain["threads"],
        plain_a_minute=round(60 / plain["expert_s"], 2),
        factory_a_minute=round(60 / factory["expert_s"], 2),
        factory_first_s=round(factory["first_s"], 1),
        ratio=round(plain["expert_s"] / factory["expert_s"], 2),
        target=EXPERTS_TARGET[DEVICE.partition(":")[0]],
    )
