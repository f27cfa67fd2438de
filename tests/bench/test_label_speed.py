"""What stored labels cost a student: steps a second under replayed logits against hard labels, on the same views.

Run: ``OMP_NUM_THREADS=2 python -m pytest -s tests/bench/test_label_speed.py``.  Both sides run in turn in one process, so that
other work on a machine slows both; the ratio is the median over pairs.  Ratios are told beside what we want them to be, never
asserted.  ``reading`` is the reader alone, checksums included.
"""

from __future__ import annotations

from typing import Any

import pytest
from measuring import DEVICE, measure

TARGET = 0.9
"""Student throughput under stored labels, as a share of that under hard labels, that we want at least."""


@pytest.mark.parametrize("case", ["digits", "cifar10", "cifar100", "classes1000"])
def test_a_student_under_stored_labels_against_hard_ones(case, benchmark):
    found: dict[str, Any] = {}
    benchmark.pedantic(
        lambda: found.update(measure("label_sides.py", "replay", case)), rounds=1, iterations=1
    )
    benchmark.extra_info.update(
        case=case,
        hard_step_s=round(found["hard_step_s"], 5),
        stored_step_s=round(found["stored_step_s"], 5),
        ratio=round(found["ratio"], 3),
        ratio_of_best=round(found["ratio_of_best"], 3),
        threads=found["threads"],
        device=DEVICE,
        target=TARGET,
    )
    print(f"\n{case}: {benchmark.extra_info}")


def test_reading_stored_labels(benchmark):
    found: dict[str, Any] = {}
    benchmark.pedantic(
        lambda: found.update(measure("label_sides.py", "reading", "classes1000")), rounds=1, iterations=1
    )
    benchmark.extra_info.update(rows_per_s=round(found["rows_per_s"]), mb_per_s=round(found["mb_per_s"]))
    print(f"\nreading: {benchmark.extra_info}")
