"""How long the boards of 10,000 records take: reading the files, making the tables, writing the pages, and the plots.

Run: ``python -m pytest -s tests/bench/test_board_speed.py``.  Reading, making and writing together shall stay under
3 seconds without plots on one core; told beside what was measured, never asserted.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddbench import board, claims
from ddbench.commands.common import write_boards
from ddbench.records import Bytes, Cell, DistilCell, Provenance, Record, Score, Spent
from ddbench.store import RunFolder

TARGET_S = 3.0
METHODS = (
    *("random", "herding", "k_center", "dc", "dsa", "dm", "idm", "datadam", "ncfm", "idc", "dream", "mtt", "tesla"),
    *("ftd", "datm", "ast", "sre2l", "cda", "rded", "cvdd", "g_vbsm", "infer", "frepo", "kip", "dq"),
)  # fmt: skip
NETWORKS = ("ConvNet", "AlexNet", "VGG11", "ResNet18", "MLP")


def generated() -> list[Record]:
    """10,000 records: 25 methods x 2 data sets x 2 protocols x 5 networks x 4 ipc x 5 seeds, 5 students each."""
    chance = random.Random(0)
    found = []
    for m, method in enumerate(METHODS):
        for dataset in ("mnist", "cifar10"):
            for protocol in ("dc-dsa", "mtt"):
                for n, network in enumerate(NETWORKS):
                    for i, ipc in enumerate((1, 10, 50, 100)):
                        centre = 0.2 + 0.1 * i + 0.01 * m - 0.02 * n
                        for seed in range(5):
                            found.append(made(chance, method, dataset, protocol, network, ipc, seed, centre))
    return found


def made(
    chance: random.Random, method: str, dataset: str, protocol: str, network: str, ipc: int, seed: int, centre: float
) -> Record:  # fmt: skip
    set_key = f"{method}-{dataset}-{ipc}-{seed}"
    return Record(
        key=f"{set_key}-{protocol}-{network}",
        set_key=set_key,
        cell=Cell(
            distil=DistilCell(method=method, dataset=dataset, ipc=ipc, seed=seed),
            protocol=protocol,
            network=network,
            repeats=5,
        ),
        status="ok",
        protocol_version="1.0",
        recipe="authors",
        family="generated",
        data_fingerprint=dataset,
        scores=[
            Score(value=min(1.0, max(0.0, chance.gauss(centre, 0.01))), network=network, seed=k)
            for k in range(5)
        ],
        ece=[chance.uniform(0.02, 0.1) for _ in range(5)],
        bytes=Bytes(images=3072 * 10 * ipc, labels=10 * ipc),
        spent=Spent(distil_s=chance.uniform(1, 1000), distil_peak_mib=chance.uniform(500, 5000)),
        provenance=Provenance(ddbench="0", device="cpu", device_name="x86_64", threads=2),
        created=f"2026-01-01T00:00:0{seed}+00:00",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> RunFolder:
    run = RunFolder(tmp_path_factory.mktemp("runs"))
    (run.path / "records").mkdir()
    for record in generated():
        run.record_path(record.key).write_text(record.model_dump_json(indent=1) + "\n")
    return run


@pytest.fixture(scope="module")
def records(folder) -> list[Record]:
    return folder.records()


def told(benchmark, what: str, started: float) -> None:
    seconds = round(
        time.process_time() - started, 2
    )  # of this process: other work on the machine does not count
    benchmark.extra_info.update(cpu_s=seconds, target_s=TARGET_S)
    print(f"\n{what}: {seconds} s of the processor")


def test_reading(benchmark, folder):
    started = time.process_time()
    assert len(benchmark.pedantic(folder.records, rounds=1)) == 10_000
    told(benchmark, "reading", started)


def test_making(benchmark, records):
    published = claims.published()
    started = time.process_time()
    made = benchmark.pedantic(lambda: board.make(records, published), rounds=1)
    told(benchmark, "making", started)
    assert sum(len(b.table) for b in made) == 2000


@pytest.mark.parametrize("plots", [False, True], ids=["no plots", "plots"])
def test_writing(benchmark, records, tmp_path, plots):
    made = board.make(records)
    started = time.process_time()
    benchmark.pedantic(lambda: board.write(made, tmp_path, plots), rounds=1)
    told(benchmark, f"writing, {'6 plots' if plots else 'no plots'}", started)


def test_all_of_it_but_the_imports(benchmark, folder, tmp_path):
    started = time.process_time()
    benchmark.pedantic(lambda: write_boards([folder.path], tmp_path, plots=False), rounds=1)
    told(benchmark, "reading, making and writing", started)


def test_the_command(benchmark, folder, tmp_path):
    """``ddbench board --no-plots``, the start of Python and the imports included."""
    command = [sys.executable, "-m", "ddbench", "board", "--runs", str(folder.path), "--out", str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    benchmark.pedantic(
        lambda: subprocess.run(
            [*command, "--no-plots", "--quiet"], cwd=root, check=True, capture_output=True
        ),
        rounds=1,
    )
    benchmark.extra_info.update(target_s=TARGET_S)
