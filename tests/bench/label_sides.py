"""The sides of the comparison of label speed, in turn in one process: prints one JSON line.

Run as ``python tests/bench/label_sides.py SIDE CASE``.  SIDE ``replay``: seconds a step of a student that trains by KL on
stored logits, beside those of one that trains by cross-entropy on label ids; both see the same views.  SIDE ``reading``:
rows a second of the reader alone.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402

from ddbench.codecs import items  # noqa: E402
from ddbench.contract import Card, DistilledSet, Labeller, Space, Targets  # noqa: E402
from ddbench.seeding import Generators  # noqa: E402
from ddbench.train.engine import EngineOptions, train_students  # noqa: E402
from ddbench.train.labels import ShardWriter, StoredAnswers, store_path  # noqa: E402
from ddbench.trainplan import TrainPlan, ViewPlan  # noqa: E402

CASES = {
    # case: network, shape, classes, images, batch, epochs timed
    "digits": ("ConvNetD2W32BN", (1, 8, 8), 10, 100, 50, 20),
    "cifar10": ("ConvNetD3", (3, 32, 32), 10, 500, 128, 1),
    "cifar100": ("ResNet18BN", (3, 32, 32), 100, 128, 64, 1),
    "classes1000": ("ConvNetD3W64BN", (3, 64, 64), 1000, 256, 128, 1),
}
PAIRS = 7


def made(case: str, folder: Path, device: str) -> tuple[DistilledSet, ViewPlan, StoredAnswers]:
    _, shape, classes, n, batch, epochs = CASES[case]
    generator = torch.Generator().manual_seed(0)
    c = shape[0]
    space = Space("uint8", (0.5,) * c, (0.25,) * c)
    plan = ViewPlan(epochs, batch, crop="resized", flip=0.5, mix="cutmix")
    images = torch.randint(256, (n, *shape), dtype=torch.uint8, generator=generator)
    labeller = Labeller((), space, views=plan)
    card = Card(dataset="noise", classes=classes, shape=shape)
    distilled = DistilledSet(
        {"images": images}, Targets(torch.arange(n) % classes, labeller=labeller), space, card=card
    )
    writer = ShardWriter(store_path(folder, distilled), distilled, n, classes)
    for row in range(0, n * epochs, n):
        writer.add(torch.randn(n, classes, generator=generator).half().numpy(), row)
    return distilled, plan, StoredAnswers(folder, distilled, plan)


def replay(case: str, device: str) -> dict[str, Any]:
    network = CASES[case][0]
    common: dict[str, Any] = dict(
        optimiser="adamw", lr=1e-3, weight_decay=0.01, decay_on="matrices", schedule="cosine"
    )
    with tempfile.TemporaryDirectory() as folder:
        distilled, views, answers = made(case, Path(folder), device)
        soft = items(distilled, device=device)
        hard = items(distilled.changed(targets=Targets(distilled.targets.ids)), device=device)
        plans = {
            "hard": TrainPlan(views.epochs, views.batch, views=views, loss="ce", **common),
            "stored": TrainPlan(
                views.epochs, views.batch, views=views, loss="kl", temperature=20.0, **common
            ),
        }
        steps = views.epochs * -(-len(soft) // views.batch)

        def seconds(side: str) -> float:
            if device != "cpu":
                torch.cuda.synchronize()
            begun = time.perf_counter()
            own = {"answers": StoredAnswers(Path(folder), distilled, views)} if side == "stored" else {}
            given = soft if side == "stored" else hard
            train_students(
                given, plans[side], network, [Generators(0)], EngineOptions(device, path="plain"), **own
            )
            if device != "cpu":
                torch.cuda.synchronize()
            return (time.perf_counter() - begun) / steps

        took: dict[str, list[float]] = {side: [seconds(side)][:0] for side in plans}  # warm
        for pair in range(PAIRS):
            for side in list(plans) if pair % 2 else list(plans)[::-1]:
                took[side].append(seconds(side))
    ratios = [h / s for h, s in zip(took["hard"], took["stored"], strict=True)]
    best = {f"{side}_step_s": min(found) for side, found in took.items()}
    return {
        **best,
        "ratio": statistics.median(ratios),
        "ratio_of_best": best["hard_step_s"] / best["stored_step_s"],
    }


def reading(case: str, device: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        _, views, answers = made(case, Path(folder), device)
        begun, rows = time.perf_counter(), 0
        for epoch in range(views.epochs):
            for number in range(-(-answers.items // views.batch)):
                rows += len(answers.batch(epoch, number))
        took = time.perf_counter() - begun
    return {"rows_per_s": rows / took, "mb_per_s": rows * answers.classes * 2 / 1e6 / took}


def main() -> None:
    side, case, device = sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "cpu"
    found = {"replay": replay, "reading": reading}[side](case, device)
    print(json.dumps({"side": side, "case": case, "threads": torch.get_num_threads(), **found}))


if __name__ == "__main__":
    main()
