"""Images recovered per second: all cells side by side, against a plain loop over single batches of one image a class.

Run: ``OMP_NUM_THREADS=2 python -m pytest -s tests/bench/test_recovery_speed.py``.  All sides take turns in one process and
see the same views.  That they recover the same images is asserted, within rounding (a step of Adam on a gradient near 0 can
turn); ratios are told beside what we want them to be.  ``compiled`` is what long runs do.
"""

from __future__ import annotations

from typing import Any

import pytest
from measuring import DEVICE, measure

CASES = {
    "digits": "ConvNetD2W32BN-1-8-10",
    "mnist, recipe cpu": "ConvNetW32BN-1-28-10",
    "cifar10, ConvNet": "ConvNetW32BN-3-32-10",
    "cifar10, ResNet-18": "ResNet18BN-3-32-2",
}
TARGET = 1.3


@pytest.mark.parametrize("name", CASES)
def test_images_per_second(name, benchmark):
    found: dict[str, Any] = {}
    benchmark.pedantic(
        lambda: found.update(measure("recovery_sides.py", "both", CASES[name])), rounds=1, iterations=1
    )
    rates = found["images_per_s"]
    assert max(found["apart"].values()) < 0.5, "of 255 levels, on average"
    benchmark.extra_info.update(
        case=name,
        device=DEVICE,
        threads=found["threads"],
        target=TARGET,
        **{f"{side}_images_per_s": round(rate, 2) for side, rate in rates.items()},
        **{
            f"{side}_to_plain": round(rate / rates["plain"], 2)
            for side, rate in rates.items()
            if side != "plain"
        },
    )
    print(f"\n{benchmark.extra_info}")
