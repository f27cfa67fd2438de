"""One side of a comparison in a process of its own: what both benches share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

DEVICE = os.environ.get("DDBENCH_BENCH_DEVICE", "cpu")


def measure(script: str, side: str, case: str) -> dict[str, Any]:
    """What ``script``, a file of this folder, prints last of a side and a case: one JSON line."""
    threads = os.environ.get("DDBENCH_BENCH_THREADS", str(os.cpu_count() or 1))
    env = {**os.environ, **{f"{lib}_NUM_THREADS": threads for lib in ("OMP", "MKL", "OPENBLAS")}}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script)), side, case, DEVICE],
        env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
