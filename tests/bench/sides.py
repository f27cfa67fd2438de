"""The two sides of the speed comparison, each in a process of its own: prints one JSON line.

Run as ``python tests/bench/sides.py SIDE CASE``: SIDE is plain (the field's loop, default settings) or engine.  A few epochs
are timed after a warm-up; seconds a student are extrapolated by steps to the 1,001 epochs of dc-dsa.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import plain  # noqa: E402
import torch  # noqa: E402

from ddbench.contract import ImageData, Items  # noqa: E402
from ddbench.protocols.rows import ROWS  # noqa: E402
from ddbench.seeding import Generators  # noqa: E402
from ddbench.train.engine import EngineOptions, Trainees, choose_path, tested, train_students  # noqa: E402

COMPILED = "-compiled"
"""Ends the name of a case whose engine side compiles, warm, where the rule for one evaluation of its size would not."""
CASES = {
    # case: network, shape, images, students, epochs timed
    "cifar-ipc1": ("ConvNet", (3, 32, 32), 10, 5, 12),
    "cifar-ipc10": ("ConvNet", (3, 32, 32), 100, 2, 6),
    "digits-ipc1": ("ConvNetD2W32", (1, 8, 8), 10, 5, 300),
    "digits-ipc10": ("ConvNetD2W32", (1, 8, 8), 100, 5, 60),
}
TEST_IMAGES = 2048
PLAN = ROWS["dc-dsa"].plan


def data(case: str) -> tuple[torch.Tensor, torch.Tensor, bool]:
    _, shape, n, _, _ = CASES[case]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, *shape, generator=generator), torch.arange(n) % 10, shape[0] == 3


def train_plain(case: str, device: str) -> dict[str, float | str]:
    case = case.removesuffix(COMPILED)
    network, _, _, _, epochs = CASES[case]
    x, y, flip = data(case)
    x, y = x.to(device), y.to(device)
    plain.field_style(x, y, 10, network, 2, flip)
    start = time.perf_counter()
    plain.field_style(x, y, 10, network, epochs, flip)
    return {"path": "plain loop", "student_s": (time.perf_counter() - start) / epochs * PLAN.epochs}


def train_engine(case: str, device: str) -> dict[str, float | str]:
    case, forced = case.removesuffix(COMPILED), case.endswith(COMPILED)
    network, shape, n, students, epochs = CASES[case]
    x, y, flip = data(case)
    items = Items(x.to(device), lambda t: t, 10, ids=y.to(device), flip=flip)
    path = choose_path(
        network, shape, 10, n, PLAN, students, torch.device(device).type
    )  # as for all 1,001 epochs
    if forced:
        path = path.removesuffix(COMPILED) + COMPILED
    options = EngineOptions(device, path=path)
    crew = [Generators(seed) for seed in range(students)]
    first = train_students(items, PLAN.changed(epochs=2), network, crew, options)
    again = train_students(items, PLAN.changed(epochs=epochs), network, crew, options)
    took = again.train_s / students / epochs * PLAN.epochs
    return {"path": again.path, "student_s": took, "compile_s": first.compile_s}


def test_images() -> ImageData:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (TEST_IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(TEST_IMAGES) % 10
    return ImageData("noise", "test", pixels, labels, 10, (0.5,) * 3, (0.25,) * 3)


def infer_plain(device: str) -> dict[str, float | str]:
    test = test_images()
    inputs, labels = test.space.real_to_input(test.images).to(device), test.labels.to(device)
    net = plain.build("ConvNet", (3, 32, 32), 10).to(device)
    plain.accuracy(net, inputs[:512], labels[:512])
    start = time.perf_counter()
    plain.accuracy(net, inputs, labels)
    return {"path": "plain loop", "student_s": (time.perf_counter() - start) * 10_000 / TEST_IMAGES}


def infer_engine(device: str) -> dict[str, float | str]:
    import dataclasses

    from ddbench.train import engine

    test = test_images()
    net = plain.build("ConvNet", (3, 32, 32), 10)
    students = 5
    states = tuple(dict(net.state_dict()) for _ in range(students))
    trainees = Trainees("ConvNet", (3, 32, 32), 10, states, torch.zeros(students, 1), "plain")
    options = EngineOptions(device)
    # the rule as for 10,000 test images: what is timed is fewer
    engine.COMPILE_ABOVE_S *= TEST_IMAGES / 10_000
    once = dataclasses.replace(trainees, states=states)
    compile_s = tested(once, test, test.space, options).compile_s
    start = time.perf_counter()
    tested(trainees, test, test.space, options)
    took = (time.perf_counter() - start) / students
    path = "compiled" if compile_s else "plain"
    return {"path": path, "student_s": took * 10_000 / TEST_IMAGES, "compile_s": compile_s}


def main() -> None:
    side, case, device = sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "cpu"
    if case == "inference":
        result = infer_plain(device) if side == "plain" else infer_engine(device)
    else:
        result = train_plain(case, device) if side == "plain" else train_engine(case, device)
    print(json.dumps({"side": side, "case": case, "threads": torch.get_num_threads(), **result}))


if __name__ == "__main__":
    main()
