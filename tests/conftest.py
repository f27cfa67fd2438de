"""Shared set-up: one thread, caches in a temporary folder, opt-in marks, tiny generated data."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before numpy and torch are imported, here or in a worker that a test spawns.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["MPLBACKEND"] = "Agg"
_scratch = Path(tempfile.mkdtemp(prefix="ddbench-tests-"))
os.environ["DDBENCH_CACHE"] = str(_scratch / "cache")
_real_data = os.environ.get("DDBENCH_DATA", "")

import pytest  # noqa: E402
import torch  # noqa: E402

from ddbench.contract import ImageData, RealData  # noqa: E402

torch.set_num_threads(1)

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_BENCH = Path(__file__).parent / "bench"


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(_scratch, ignore_errors=True)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Benchmarks run when they are named: ``pytest tests/bench``."""
    if collection_path != _BENCH:
        return None
    given = [(config.invocation_params.dir / arg.split("::")[0]).resolve() for arg in config.args]
    return None if any(path == _BENCH or _BENCH in path.parents for path in given) else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.getoption("-m")
    reasons = {
        "gpu": "" if torch.cuda.is_available() and "gpu" in asked else "needs a CUDA device and -m gpu",
        "slow": "" if "slow" in asked else "slow; runs with -m slow",
        "data": "" if _real_data else "needs real data sets; name their folder in DDBENCH_DATA",
    }
    for item in items:
        for mark, reason in reasons.items():
            if reason and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _data_root(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only tests marked ``data`` see the data of this machine."""
    if not request.node.get_closest_marker("data"):
        monkeypatch.setenv("DDBENCH_DATA", str(_scratch / "no-data"))


@pytest.fixture(scope="session")
def real_data_root() -> Path:
    """The folder of real data sets, for tests marked ``data``."""
    return Path(_real_data)


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DDBENCH_CACHE", str(folder))
    yield folder


def blobs(
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    per_class: tuple[int, int],
    flip: bool = True,
    seed: int = 0,
) -> RealData:
    """Each class is a random image of its own plus noise: easily learnt, different in every class, balanced.

    Args:
        shape: (C, H, W).
        per_class: images of each class in the train and the test split.
    """
    rng = torch.Generator().manual_seed(seed)
    centres = 40 + 176 * torch.rand((classes, *shape), generator=rng)
    splits = {}
    for split, count in zip(("train", "test"), per_class, strict=True):
        labels = torch.arange(classes).repeat_interleave(count)
        noise = 20 * torch.randn((len(labels), *shape), generator=rng)
        images = (centres[labels] + noise).clamp(0, 255).to(torch.uint8)
        order = torch.randperm(len(labels), generator=rng)
        splits[split] = images[order], labels[order]
    unit = splits["train"][0].float() / 255
    mean, std = unit.mean((0, 2, 3)).tolist(), unit.std((0, 2, 3)).tolist()
    made = {
        split: ImageData(name, split, images, labels, classes, tuple(mean), tuple(std), flip=flip)
        for split, (images, labels) in splits.items()
    }
    return RealData(made["train"], made["test"])


@pytest.fixture(scope="session")
def gauss2() -> RealData:
    """2 classes of 1x8x8 images without mirror symmetry, 20 train and 10 test images each."""
    return blobs("gauss2", (1, 8, 8), 2, (20, 10), flip=False)


@pytest.fixture(scope="session")
def gauss3() -> RealData:
    """3 classes of 3x16x16 images, 12 train and 6 test images each."""
    return blobs("gauss3", (3, 16, 16), 3, (12, 6))
