"""Whatever a file holds, a reader takes it or refuses it in words: no other error, nothing executed, memory bounded.

The inputs are those of ``fuzz_readers.py``; 10,000 a reader are marked ``slow``.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import fuzz_readers
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
QUIET = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", fuzz_readers.READERS)
class TestEveryReader:
    def test_refuses_damaged_files_in_words(self, name: str) -> None:
        found = fuzz_readers.run(name, 120, seed=1)
        assert found["inputs"] == 120

    @QUIET
    @given(data=st.binary(max_size=300))
    def test_refuses_noise_in_words(self, name: str, data: bytes, tmp_path: Path) -> None:
        reader = fuzz_readers.READERS[name]
        fuzz_readers.attempt(reader, tmp_path / reader.file, data)

    def test_takes_a_whole_file(self, name: str, tmp_path: Path) -> None:
        reader = fuzz_readers.READERS[name]
        samples = reader.samples(tmp_path)
        assert any(fuzz_readers.attempt(reader, tmp_path / reader.file, data) for data in samples)

    @pytest.mark.slow
    def test_ten_thousand_inputs(self, name: str) -> None:
        command = [sys.executable, str(ROOT / "tests/fuzz_readers.py"), "--reader", name, "--count", "10000"]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert done.returncode == 0, done.stderr
        assert re.match(rf"{name}: 10,000 inputs, [\d,]+ taken, no fault", done.stdout), done.stdout


def test_the_watch_sees_a_program_that_is_started(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="executed something"), fuzz_readers.nothing_executed():
        os.system("true")


def test_another_error_is_not_taken_for_a_refusal(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        raise KeyError("lost")

    reader = fuzz_readers.Reader("x", read, (ValueError,), lambda folder: [])
    with pytest.raises(KeyError, match="lost"):
        fuzz_readers.attempt(reader, tmp_path / "x", b"")


def test_damage_is_that_of_the_seed() -> None:
    def some(seed: int) -> list[bytes]:
        chance = random.Random(seed)
        return [fuzz_readers.damaged(b"name: digits\nipc: [1, 10]\n" * 3, chance) for _ in range(20)]

    assert some(1) == some(1) and some(1) != some(2)
