"""The protocols of MTT, DATM, FYI, IDC, NCFM and DataDAM against their authors' code as known, and DC's own augmentation.

Sources: arXiv:2203.11932, 2310.05773, 2407.08113, 2205.14959, 2502.20653, 2310.00093, 2006.05929 and their released code.
The loops below are written from the descriptions: they share initial weights and random numbers with the engine, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import blobs

from ddbench import board, protocols
from ddbench.augment import dsa
from ddbench.augment.classic import ClassicDC
from ddbench.augment.named import augmentation
from ddbench.codecs import items
from ddbench.contract import Card, CodecSpec, DistilledSet, Program, RealData, Targets
from ddbench.executors import Outcome, brief
from ddbench.nets.build import build
from ddbench.protocols import train
from ddbench.protocols.rows import ROWS
from ddbench.protocols.train import RowProtocol
from ddbench.records import Cell, DistilCell, Provenance, Record
from ddbench.seeding import Generators
from ddbench.train.engine import EngineOptions, train_students
from ddbench.train.students import Feed, losses, total_steps

# ------------------------------------------------------------------------------------------------ the rows


def fallen(at: tuple[int, ...], factor: float, start: float, epochs: int) -> list[float]:
    """Rates of a MultiStepLR that is stepped after every epoch."""
    rate, rates = start, []
    for epoch in range(epochs):
        rates.append(rate)
        if epoch + 1 in at:
            rate *= factor
    return rates


TABLE = {
    # row          epochs batch optimiser   lr   decay  factor  epochs that end at a rate              repeats  every
    "dc":          (1001, 256, "sgd",     0.01, 5e-4, 0.1, (502,), 5, 0),
    "dc-dsa":      (1001, 256, "sgd",     0.01, 5e-4, 0.1, (502,), 5, 0),
    "dc-dsa-flip": (1001, 256, "sgd",     0.01, 5e-4, 0.1, (502,), 5, 0),
    "dc-none":     (301,  256, "sgd",     0.01, 5e-4, 0.1, (152,), 5, 0),
    "mtt":         (1001, 256, "sgd",     0.01, 5e-4, 0.1, (502,), 5, 0),
    "mtt-flip":    (1001, 256, "sgd",     0.01, 5e-4, 0.1, (502,), 5, 0),
    "datm":        (1001, 128, "sgd",     0.01, 5e-4, 0.1, (502,), 5, 0),
    "datadam":     (1801, 64,  "sgd",     0.01, 5e-4, 0.1, (902,), 10, 0),
    "idc":         (1000, 64,  "sgd",     0.01, 5e-4, 0.2, (2 * 1000 // 3, 5 * 1000 // 6), 5, 250),
    "idc-nomix":   (1000, 64,  "sgd",     0.01, 5e-4, 0.2, (666, 833), 5, 250),
    "idc-cutout":  (1000, 64,  "sgd",     0.01, 5e-4, 0.2, (666, 833), 5, 250),
    "ncfm":        (2000, 128, "adamw",   1e-3, 0.01, 0.5, (400, 800, 1200, 1600), 10, 100),
    "ncfm-300":    (300,  128, "adamw",   1e-3, 0.01, 0.5, (60, 120, 180, 240), 10, 50),
    "ncfm-40":     (40,   128, "adamw",   1e-3, 0.01, 0.5, (8, 16, 24, 32), 10, 5),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_rates_epochs_batches_decay_and_tests_of_a_row_are_those_of_its_paper(name: str) -> None:
    epochs, batch, optimiser, lr, decay, factor, at, repeats, every = TABLE[name]
    row = ROWS[name]
    plan = row.plan
    assert (plan.epochs, plan.batch, plan.optimiser, plan.repeats) == (epochs, batch, optimiser, repeats)
    assert (plan.weight_decay, plan.decay_on, plan.loss, plan.drop_last) == (decay, "all", "ce", False)
    assert [plan.lr_at(e) for e in range(epochs)] == pytest.approx(fallen(at, factor, lr, epochs), rel=1e-12)
    assert plan.reset_optimiser is not name.startswith(("idc", "ncfm")), (
        "only the classic code makes a new one"
    )
    if optimiser == "sgd":
        assert (plan.momentum, plan.nesterov) == (0.9, False)
    tests = [e + 1 for e in range(epochs) if plan.tested_after(e)]
    assert tests == (list(range(every, epochs, every)) if every else [])
    assert row.comparable and row.version == "1.0"


def test_the_published_rows_are_all_in_the_table() -> None:
    """Those of teacher labels are in test_kd_protocols.py."""
    assert {name for name, row in ROWS.items() if row.comparable and row.plan.views is None} == set(TABLE)


def test_idc_is_tested_four_times_and_ncfm_twenty_times_the_end_included() -> None:
    for name, times in (("idc", 4), ("ncfm", 20), ("ncfm-300", 6), ("ncfm-40", 8)):
        plan = ROWS[name].plan
        assert 1 + sum(plan.tested_after(e) for e in range(plan.epochs)) == times


@pytest.mark.parametrize(
    ("name", "items", "steps"),
    [
        ("idc", 400, 1000 * 7),  # cifar10, ipc 10, factor 2: 6 batches of 64 and one of 16
        ("ncfm", 400, 2000 * 4),  # 3 of 128 and one of 16
        ("ncfm", 40, 2000),
        ("ncfm-40", 4 * 50 * 200, 40 * 313),  # tiny_imagenet, ipc 50: 312 of 128 and one of 64
        ("datadam", 100, 1801 * 2),
        ("dc-dsa-flip", 500, 1001 * 2),
        ("mtt", 500, 1001 * 2),
        ("datm", 500, 1001 * 4),  # 3 of 128 and one of 116
    ],
)
def test_steps_of_a_student_count_the_short_last_batch(name: str, items: int, steps: int) -> None:
    assert total_steps(items, ROWS[name].plan) == steps


def test_augmentations_are_applied_in_the_order_of_the_authors() -> None:
    source = torch.Generator().manual_seed(0)
    want = {
        "dc-dsa-flip": (("flip",), {"color", "crop", "cutout", "scale", "rotate"}, ()),
        "mtt-flip": (("flip",), {"color", "crop", "cutout", "scale", "rotate"}, ()),
        "idc": (("flip", "color"), {"crop", "scale", "rotate"}, ()),
        "idc-nomix": (("flip", "color"), {"crop", "scale", "rotate"}, ()),
        "idc-cutout": (("flip", "color"), {"crop", "scale", "rotate"}, ("cutout",)),
        "ncfm": (("flip", "color"), {"crop", "scale", "rotate"}, ()),
    }
    for name, (before, one_of, after) in want.items():
        for flip in (True, False):
            form = augmentation(ROWS[name].plan.augment, flip)
            first = before if flip else tuple(n for n in before if n != "flip")
            seen = set()
            for _ in range(60):
                drawn = form.draw(4, (3, 8, 8), source)
                seen.add(drawn.operations[len(first)])
                assert drawn.operations == (*first, drawn.operations[len(first)], *after)
                assert all(len(parameters) == 4 for _, parameters in drawn.steps), "one an image"
            assert seen == one_of, (name, flip)
    mixes = {name: (row.plan.mix, row.plan.mix_probability, row.plan.mix_alpha) for name, row in ROWS.items()}
    for name in ("idc", "ncfm", "ncfm-300", "ncfm-40"):
        assert mixes[name] == ("cutmix", 0.5, 1.0)
    assert {mixes[name][0] for name in ROWS if name not in ("idc", "ncfm", "ncfm-300", "ncfm-40")} == {"none"}


def test_each_of_the_one_of_operations_has_an_equal_chance() -> None:
    source, form = torch.Generator().manual_seed(1), augmentation(ROWS["ncfm"].plan.augment, True)
    drawn = [form.draw(1, (3, 8, 8), source).operations[-1] for _ in range(3000)]
    for name in ("crop", "scale", "rotate"):
        assert drawn.count(name) / 3000 == pytest.approx(1 / 3, abs=0.035)  # four deviations


# ------------------------------------------------------------------------------------------------ the training


@pytest.fixture(scope="module")
def real() -> RealData:
    data = blobs("hard", (3, 8, 8), 3, (12, 101))
    noise = 90 * torch.randn(data.test.images.shape, generator=torch.Generator().manual_seed(1))
    images = (data.test.images + noise).clamp(0, 255).to(torch.uint8)
    return RealData(data.train, replace(data.test, images=images, fingerprint=""))


def described_operation(name: str, x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """One operation on a batch, each image with its own numbers."""
    b, _, side, _ = x.shape
    if name == "flip":
        u = torch.rand(b, 1, generator=rng)
        return torch.stack([i.flip(2) if v < 0.5 else i for i, v in zip(x, u[:, 0], strict=True)])
    if name == "color":  # brightness, saturation, contrast
        u = torch.rand(b, 3, generator=rng).to(x.dtype)[:, :, None, None, None]
        x = x + (u[:, 0] - 0.5)
        mean = x.mean(1, keepdim=True)
        x = (x - mean) * (2 * u[:, 1]) + mean
        mean = x.mean((1, 2, 3), keepdim=True)
        return (x - mean) * (u[:, 2] + 0.5) + mean
    if name == "crop":
        reach = int(0.125 * side + 0.5)
        shifts = [torch.randint(-reach, reach + 1, (b,), generator=rng) for _ in range(2)]
        padded = F.pad(x, (reach,) * 4)
        return torch.stack([
            p[:, reach + dy : reach + dy + side, reach + dx : reach + dx + side]
            for p, dy, dx in zip(padded, shifts[0].tolist(), shifts[1].tolist(), strict=True)
        ])  # fmt: skip
    if name == "cutout":
        size = int(0.5 * side + 0.5)
        centres = [torch.randint(0, side + 1 - size % 2, (b,), generator=rng).tolist() for _ in range(2)]
        x = x.clone()
        for i, (row, column) in enumerate(zip(*centres, strict=True)):
            rows = sorted({min(max(row - size // 2 + k, 0), side - 1) for k in range(size)})
            columns = sorted({min(max(column - size // 2 + k, 0), side - 1) for k in range(size)})
            x[i, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 0
        return x
    u = torch.rand(b, 2 if name == "scale" else 1, generator=rng).to(x.dtype)
    theta = torch.zeros(b, 2, 3, dtype=x.dtype)
    if name == "scale":
        stretch = u * (1.2 - 1 / 1.2) + 1 / 1.2
        theta[:, 0, 0], theta[:, 1, 1] = stretch[:, 0], stretch[:, 1]
    else:
        a = (u[:, 0] - 0.5) * 2 * 15 * torch.pi / 180
        theta[:, 0, 0], theta[:, 0, 1], theta[:, 1, 0], theta[:, 1, 1] = (
            a.cos(),
            -a.sin(),
            a.sin(),
            a.cos(),
        )
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def drawn(names: str, rng: torch.Generator) -> str:
    return names.split()[int(torch.randint(0, len(names.split()), (1,), generator=rng))]


def described_batch(x: torch.Tensor, rng: torch.Generator, cutout: bool) -> torch.Tensor:
    """Flip, brightness, saturation, contrast, one of crop, scale and rotate, then cutout: each image with its own numbers."""
    for name in ("flip", "color"):
        x = described_operation(name, x, rng)
    x = described_operation(drawn("crop scale rotate", rng), x, rng)
    return described_operation("cutout", x, rng) if cutout else x


def described_mix(x: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, float]:
    """CutMix for half of the batches: images, the partners' positions, and the share of the own label."""
    b, side = len(x), x.shape[-1]
    if float(torch.rand((), generator=rng)) >= 0.5:
        return x, torch.arange(b), 1.0
    kept = float(torch.rand((), generator=rng, dtype=torch.float64))
    partners = torch.randperm(b, generator=rng)
    cx, cy = (int(torch.randint(0, side, (), generator=rng)) for _ in range(2))
    w = int(side * (1 - kept) ** 0.5)
    x1, x2 = (min(max(v, 0), side) for v in (cx - w // 2, cx + w // 2))
    y1, y2 = (min(max(v, 0), side) for v in (cy - w // 2, cy + w // 2))
    out = x.clone()
    out[:, :, y1:y2, x1:x2] = x[partners, :, y1:y2, x1:x2]
    return out, partners, 1 - (x2 - x1) * (y2 - y1) / side**2


def described(
    name: str,
    x: torch.Tensor,
    y: torch.Tensor,
    epochs: int,
    at: tuple[int, ...],
    rng: Generators,
    after: Callable[[int, torch.nn.Module], None] = lambda epochs, net: None,
) -> list[float]:
    """Train as the papers describe; ``after(epochs, network)`` is told every epoch.  Returns the losses of all steps."""
    net = build("ConvNetD2W8", (3, 8, 8), 3, rng("weights")).double().train()
    parameters = list(net.parameters())
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    ncfm = name == "ncfm"
    lr, step, told = (1e-3 if ncfm else 0.01), 0, []
    for epoch in range(epochs):
        for rows in torch.randperm(len(x), generator=rng("order")).split(10):
            step += 1
            seen = described_batch(x[rows], rng("augment"), cutout=name == "idc-cutout")
            partners, share = torch.arange(len(rows)), 1.0
            if name in ("idc", "ncfm"):
                seen, partners, share = described_mix(seen, rng("mix"))
            logits, labels = net(seen), y[rows]
            loss = share * F.cross_entropy(logits, labels)
            loss = loss + (1 - share) * F.cross_entropy(logits, labels[partners])
            told.append(loss.item())
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                    if ncfm:  # AdamW of torch's defaults, written out
                        p.mul_(1 - lr * 0.01)
                        m.mul_(0.9).add_(g, alpha=0.1)
                        v.mul_(0.999).add_(g * g, alpha=0.001)
                        p -= lr * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
                    else:
                        m.mul_(0.9).add_(g + 5e-4 * p)
                        p -= lr * m
        if epoch + 1 in at:
            lr *= 0.5 if ncfm else 0.2
        after(epoch + 1, net)
    return told


@pytest.mark.parametrize("name", ["idc", "idc-nomix", "idc-cutout", "ncfm"])
@pytest.mark.parametrize("path", ["plain", "stacked"])
def test_a_student_is_the_one_of_the_description(real: RealData, name: str, path: str) -> None:
    epochs, at = (10, (2, 4, 6, 8)) if name == "ncfm" else (12, (8, 10))
    every = 4
    plan = ROWS[name].plan.changed(epochs=epochs, milestones=at, batch=10, test_every=every)
    space = real.train.space
    x, y = space.real_to_input(real.train.images).double(), real.train.labels
    set_ = DistilledSet({"images": x}, Targets(ids=y), space)
    options = EngineOptions(precision="float64", path=path)
    crew = [Generators(3), Generators(4)]
    found = RowProtocol(replace(ROWS[name], plan=plan)).evaluate(set_, real, "ConvNetD2W8", crew, options)
    assert found.engine == path
    assert [(s.chosen_by, s.chosen_on, s.seed) for s in found.scores] == [
        ("last", "none", 3),
        ("last", "none", 4),
        ("best-epoch", "test", 3),
        ("best-epoch", "test", 4),
    ]
    inputs = space.real_to_input(real.test.images).double()

    for k, seed in enumerate((3, 4)):
        right: dict[int, float] = {}

        def after(epoch: int, net: torch.nn.Module, right: dict[int, float] = right) -> None:
            if epoch % every == 0 or epoch == epochs:
                with torch.no_grad():
                    logits = net.eval()(inputs)
                net.train()
                right[epoch] = int((logits.argmax(1) == real.test.labels).sum()) / 303

        described(name, x, y, epochs, at, Generators(seed), after)
        assert list(right) == ([4, 8, 10] if name == "ncfm" else [4, 8, 12])
        assert found.scores[k].value == right[epochs]
        assert found.scores[2 + k].value == max(right.values())
        assert 0.34 < right[epochs] < 1, "neither chance nor everything: the number means something"


@pytest.mark.parametrize("name", ["idc", "idc-cutout", "ncfm"])
def test_losses_are_those_of_the_description_step_by_step(real: RealData, name: str) -> None:
    epochs, at = (10, (2, 4, 6, 8)) if name == "ncfm" else (12, (8, 10))
    plan = ROWS[name].plan.changed(epochs=epochs, milestones=at, batch=10)
    x, y = real.train.space.real_to_input(real.train.images).double(), real.train.labels
    set_ = DistilledSet({"images": x}, Targets(ids=y), real.train.space)
    made = items(set_, real.train, "cpu", torch.float64)
    for path in ("plain", "stacked"):
        got = train_students(
            made, plan, "ConvNetD2W8", [Generators(3), Generators(4)], EngineOptions("cpu", "float64", path)
        )
        want = [described(name, x, y, epochs, at, Generators(seed)) for seed in (3, 4)]
        assert torch.allclose(got.losses, torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-10)


def test_fyis_flip_comes_before_the_lottery(real: RealData) -> None:
    x = real.train.space.real_to_input(real.train.images).double()
    set_ = DistilledSet({"images": x}, Targets(ids=real.train.labels), real.train.space)
    made = items(set_, real.train, "cpu", torch.float64)
    plan = ROWS["dc-dsa-flip"].plan.changed(epochs=8, milestones=(5,), batch=10)
    feed = Feed(made, plan, [Generators(3)], torch.device("cpu"), torch.float64)
    rng, operations = Generators(3), set()
    order = iter([])
    for step in feed:
        rows = next(order, None)
        if rows is None:
            order = iter(torch.randperm(len(x), generator=rng("order")).split(10))
            rows = next(order)
        b = len(rows)
        u = torch.rand(b, 1, generator=rng("augment"))
        want = torch.stack([i.flip(2) if v < 0.5 else i for i, v in zip(x[rows], u[:, 0], strict=True)])
        names = ("color", "crop", "cutout", "scale", "rotate")
        name = names[int(torch.randint(0, 5, (1,), generator=rng("augment")))]
        operations.add(name)
        rest = dsa.DSA(name)
        parameters = rest._parameters(name, b, 8, 8, rng("augment"))
        want = rest.apply(want, dsa.Draw(((name, parameters),)))
        assert torch.allclose(step.inputs[0], want, rtol=0, atol=1e-12)
    assert operations == set(names)


# ------------------------------------------------------------------------------------------------ learned rates, soft labels


def trajectory_student(
    x: torch.Tensor,
    labels: torch.Tensor,
    name: str,
    rate: float,
    epochs: int,
    drop_after: int,
    batch: int,
    seed: int,
) -> tuple[torch.nn.Module, list[float]]:
    """MTT's evaluation as described, of hard labels (n,) or label logits (n, K): the student and the losses of its steps.

    SGD at the learned step size, momentum 0.9, weight decay 5e-4; after the epoch of index ``drop_after`` a new optimiser of a
    tenth of the rate.
    """
    rng = Generators(seed)
    net = build("ConvNetD2W8", (3, 8, 8), 3, rng("weights")).double().train()
    optimiser = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    told = []
    for epoch in range(epochs):
        for rows in torch.randperm(len(x), generator=rng("order")).split(batch):
            seen, draws = x[rows], rng("augment")
            if name == "mtt-flip":
                seen = described_operation("flip", seen, draws)
                seen = described_operation(drawn("color crop cutout scale rotate", draws), seen, draws)
            else:
                seen = described_operation(drawn("color crop cutout flip scale rotate", draws), seen, draws)
            logits = net(seen)
            if labels.is_floating_point():
                loss = -(labels[rows].softmax(1) * logits.log_softmax(1)).sum(1).mean()
            else:
                loss = F.cross_entropy(logits, labels[rows])
            told.append(loss.item())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if epoch == drop_after:
            optimiser = torch.optim.SGD(net.parameters(), lr=rate / 10, momentum=0.9, weight_decay=5e-4)
    return net.eval(), told


@pytest.mark.parametrize("path", ["plain", "stacked"])
@pytest.mark.parametrize("labels", ["hard", "logits"])
@pytest.mark.parametrize("name", ["mtt", "mtt-flip", "datm"])
def test_a_student_of_a_learned_rate_is_the_one_of_the_description(
    real: RealData, name: str, labels: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate, epochs, drop_after, batch = 0.037, 7, 4, {"mtt": 20, "mtt-flip": 20, "datm": 10}[name]
    plan = ROWS[name].plan.changed(epochs=epochs, milestones=(drop_after + 1,), batch=batch)
    x, y = real.train.space.real_to_input(real.train.images).double(), real.train.labels
    logits = 2 * torch.randn(len(x), 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    targets = Targets(ids=y) if labels == "hard" else Targets(soft=logits, kind="logits")
    learned = Program(torch.tensor([rate], dtype=torch.float64))
    set_ = DistilledSet({"images": x}, targets, real.train.space, program=learned)
    trained = []
    monkeypatch.setattr(
        train, "train_students", lambda *a, **k: trained.append(train_students(*a, **k)) or trained[-1]
    )
    options = EngineOptions(precision="float64", path=path)
    protocol = RowProtocol(replace(ROWS[name], plan=plan))
    found = protocol.evaluate(set_, real, "ConvNetD2W8", [Generators(3), Generators(4)], options)
    inputs = real.train.space.real_to_input(real.test.images).double()
    for k, seed in enumerate((3, 4)):
        given = y if labels == "hard" else logits
        net, want = trajectory_student(x, given, name, rate, epochs, drop_after, batch, seed)
        assert len(want) == epochs * -(-len(x) // batch) and want[-1] != pytest.approx(want[0], rel=1e-3)
        assert torch.allclose(
            trained[0].losses[k], torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-10
        )
        for key, tensor in net.state_dict().items():
            assert torch.allclose(trained[0].states[k][key], tensor, rtol=0, atol=1e-10)
        with torch.no_grad():
            right = int((net(inputs).argmax(1) == real.test.labels).sum()) / len(real.test)
        assert found.scores[k].value == right


class TestSoftCrossEntropy:
    """specs of arXiv:2310.05773, numeric check 1, through the function that the engine trains with."""

    plan = ROWS["datm"].plan
    outputs = torch.tensor([[1.0, 2, 0], [0, 0, 0]], dtype=torch.float64)
    labels = torch.tensor([[2.0, 0, -1], [1, 1, 1]], dtype=torch.float64)

    def test_it_has_the_values_of_the_paper(self) -> None:
        assert losses(self.plan, self.outputs, soft=self.labels, kind="logits").item() == pytest.approx(
            1.217016, abs=1e-6
        )
        own = self.labels[:1]
        entropy = losses(self.plan, own, soft=own, kind="logits").item()
        assert entropy == pytest.approx(0.524267, abs=1e-6)
        p = own.softmax(1)
        assert entropy == pytest.approx(-(p * p.log()).sum().item(), abs=1e-14)

    def test_a_constant_added_to_a_row_of_label_logits_changes_nothing(self) -> None:
        base = losses(self.plan, self.outputs, soft=self.labels, kind="logits")
        moved = self.labels + torch.tensor([[7.0], [-30.0]], dtype=torch.float64)
        assert torch.allclose(
            losses(self.plan, self.outputs, soft=moved, kind="logits"), base, rtol=0, atol=1e-13
        )

    def test_logits_are_not_taken_for_probabilities(self) -> None:
        p = self.labels.softmax(1)
        base = losses(self.plan, self.outputs, soft=self.labels, kind="logits")
        assert torch.allclose(
            losses(self.plan, self.outputs, soft=p, kind="probabilities"), base, rtol=0, atol=1e-14
        )
        assert losses(self.plan, self.outputs, soft=p, kind="logits").item() != pytest.approx(
            base.item(), rel=1e-2
        )

    def test_sharp_logits_are_hard_labels(self) -> None:
        ids = torch.tensor([1, 0])
        sharp = 100.0 * F.one_hot(ids, 3).double() - 50
        assert losses(self.plan, self.outputs, soft=sharp, kind="logits").item() == pytest.approx(
            F.cross_entropy(self.outputs, ids).item(), abs=1e-12
        )


# ------------------------------------------------------------------------------------------------ DC's own


def test_dcs_own_augmentation_is_for_mnist_and_batch_norm_convnets_only() -> None:
    assert augmentation("dc", False, "ConvNet", "mnist") == ClassicDC("crop_scale_rotate")
    assert augmentation("dc", False, "MLP", "mnist") == ClassicDC("crop_scale_rotate")
    assert augmentation("dc", True, "ConvNetBN", "cifar10") == ClassicDC("crop_noise")
    assert augmentation("dc", False, "ConvNetBN", "mnist") == ClassicDC("crop_noise"), (
        "the network goes first"
    )
    for network, dataset in (("ConvNet", "cifar10"), ("VGG11BN", "svhn"), ("ConvNet", "fashion_mnist")):
        assert augmentation("dc", True, network, dataset) is None


def test_where_dc_augments_nothing_its_row_says_what_to_use(real: RealData) -> None:
    x = real.train.space.real_to_input(real.train.images)
    set_ = DistilledSet(
        {"images": x}, Targets(ids=real.train.labels), real.train.space, card=Card(dataset="mnist")
    )
    dc = protocols.get("dc")
    assert dc.accepts(set_) is None, "without a network nothing is known yet"
    assert dc.accepts(set_, "ConvNet") is None
    assert dc.accepts(set_, "ConvNetBN", "svhn") is None
    reason = dc.accepts(set_, "ConvNet", "svhn")
    assert reason == (
        "protocol dc augments nothing for ConvNet on svhn (DC augments on mnist, and for ConvNetBN); use dc-none"
    )
    with pytest.raises(ValueError, match=r"augments nothing for ConvNetD2W8 on hard .* use dc-none"):
        dc.evaluate(set_, real, "ConvNetD2W8", [Generators(0)])
    short = RowProtocol(replace(ROWS["dc"], plan=ROWS["dc"].plan.changed(epochs=3, milestones=(2,))))
    as_mnist = RealData(replace(real.train, name="mnist"), replace(real.test, name="mnist"))
    for data, network in ((as_mnist, "ConvNetD1W8"), (real, "ConvNetBN")):
        small = DistilledSet({"images": x[:6]}, Targets(ids=real.train.labels[:6]), real.train.space)
        assert len(short.evaluate(small, data, network, [Generators(0)]).scores) == 1


# ------------------------------------------------------------------------------------------------ best epochs


def test_the_best_epoch_is_never_the_number_of_a_board_or_of_a_printed_line(real: RealData) -> None:
    plan = ROWS["ncfm"].plan.changed(epochs=8, milestones=(2, 4, 6), test_every=1, lr=0.05, batch=16)
    x = real.train.space.real_to_input(real.train.images)
    set_ = DistilledSet({"images": x}, Targets(ids=real.train.labels), real.train.space)
    scores = RowProtocol(replace(ROWS["ncfm"], plan=plan)).evaluate(
        set_, real, "ConvNetD1W8", [Generators(s) for s in range(6)]
    ).scores  # fmt: skip
    last = [s.value for s in scores if s.chosen_by == "last"]
    best = [s.value for s in scores if s.chosen_by == "best-epoch"]
    assert len(last) == len(best) == 6 and scores[0].chosen_by == "last"
    assert all(b >= a for a, b in zip(last, best, strict=True)) and sum(best) > sum(last)
    cell = Cell(
        distil=DistilCell(method="x", dataset="hard", ipc=1, seed=0), protocol="ncfm", network="N", repeats=6
    )
    record = Record(
        key="k", set_key="s", cell=cell, status="ok", scores=scores, provenance=Provenance(ddbench="0")
    )
    (made,) = board.make([record])
    row = made.table.iloc[0]
    assert row["top1_pct_mean"] == pytest.approx(100 * sum(last) / 6)
    assert row["n"] == 6
    assert row["best_epoch_pct_mean"] == pytest.approx(100 * sum(best) / 6)
    assert f": {100 * sum(last) / 6:.1f} %" in brief(Outcome(cell, "ok", "", record, 0.0))
    said = board.markdown(made)
    assert (
        "Best epoch, chosen on the test set, as some papers report it (not ranked): x (auto) ipc 1 " in said
    )


def test_sets_of_stored_mosaics_are_scored_as_their_tiles(real: RealData) -> None:
    """IDC and NCFM store grids: 4 items an image, standardised after decoding."""
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    space = replace(real.train.space, stored="unit")
    set_ = DistilledSet(
        {"images": images},
        Targets(ids=torch.arange(3)),
        space,
        CodecSpec("grid", {"factor": 2, "kind": "single"}),
    )
    assert len(items(set_, real.train)) == 12
    for name in ("ncfm", "idc", "quick"):
        plan = ROWS[name].plan.changed(epochs=2, milestones=(1,), test_every=0)
        protocol = RowProtocol(replace(ROWS[name], plan=plan))
        assert protocol.accepts(set_) is None
        assert len(protocol.evaluate(set_, real, "ConvNetD1W8", [Generators(0)]).scores) == 1
