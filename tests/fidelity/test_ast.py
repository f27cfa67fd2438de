"""AST against the numbers that follow from its code (arXiv:2310.10541)."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import blobs
from plain_trajectories import ExpertTask, MadeExperts, Toy, linear, two_layers
from torch import Tensor

from ddbench import registry
from ddbench.augment.named import siamese
from ddbench.contract import TeacherRecipe
from ddbench.matching import trajectory_matching
from ddbench.matching.trajectories import Goal, Matched, matched
from ddbench.nets.build import skeleton
from ddbench.nets.flat import Flat
from ddbench.store import RunFolder
from ddbench.train.networks import gradient_penalty

TRAIN = blobs("three", (1, 8, 8), 3, (40, 2), seed=3).train
NETWORK = "ConvNetD1W4"
SMALL: dict[str, Any] = dict(
    network=NETWORK,
    iterations=4,
    syn_steps=4,
    max_start_epoch=3,
    experts=3,
    train_epochs=6,
    train_lr=0.05,
    step_size=0.02,
    image_lr=1.0,
    step_size_lr=1e-6,
    augment="none",
)
OFF: dict[str, Any] = dict(perturb=False, balance=False, middle="none", student_momentum=0.0, init="real")


def ast(**settings: Any) -> Any:
    return registry.get("methods", "ast")(**{**SMALL, **settings})


HERE = importlib.import_module(type(ast()).__module__)


# ------------------------------------------------------------------------------------------------ the student


@pytest.mark.parametrize(
    ("most", "values"),
    [
        (20, {0: 0.556827, 9: 0.732487, 10: 1.292030, 19: 1.760374}),
        (40, {0: 0.482995, 20: 1.292030, 39: 2.047819}),
    ],
)
def test_the_balance_factors_of_the_spec(most: int, values: dict[int, float]) -> None:
    assert {t: HERE.balance_factor(t, most) for t in values} == pytest.approx(values, abs=1e-6)
    assert HERE.balance_factor(0, 20) == pytest.approx(1 / math.log(18, 5))


def test_the_balance_factor_of_a_window_of_one_epoch_is_above_one() -> None:
    assert HERE.balance_factor(0, 1) == pytest.approx(math.log(8, 5))  # h = 0: the later half is everything


class Slope(Toy):
    """The gradient is 1 in every parameter."""

    def loss(self, state: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        return state.sum() + 0 * x.sum() * state.square().sum()


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("way", ["unroll", "adjoint"])
def test_three_steps_of_a_student_with_momentum_along_a_constant_gradient(way: str) -> None:
    found = matched(
        way,
        Slope(lambda state, x: x),
        vector(0.0, 2.0),
        [Goal(3, vector(1.0, 1.0))],
        torch.zeros(1, 2, dtype=torch.float64),
        torch.tensor([0]),
        vector(1.0)[0],
        lambda i, x, y: (x, y),
        momentum=0.9,
    )
    assert found.end.tolist() == pytest.approx([-5.61, 2 - 5.61], abs=1e-12)


@pytest.mark.parametrize("way", ["unroll", "adjoint"])
@pytest.mark.parametrize(
    ("momentum", "loss", "end"),
    [(0.9, 0.238222, [0.594913, -0.268090, -0.494913, 0.368090]), (0.0, 0.225727, None)],
)
def test_the_linear_toy_with_momentum(
    way: str, momentum: float, loss: float, end: list[float] | None
) -> None:
    found = matched(
        way,
        Toy(linear),
        vector(0.1, -0.2, 0, 0.3),
        [Goal(2, vector(0.5, -0.1, -0.4, 0.6))],
        vector(1, 0.5, -0.5, 1).view(2, 2),
        torch.tensor([0, 1]),
        vector(0.5)[0],
        lambda i, x, y: (x, y),
        momentum=momentum,
    )
    assert float(found.loss) == pytest.approx(loss, abs=1e-6)
    if end is not None:
        assert found.end.tolist() == pytest.approx(end, abs=1e-6)


THETA0 = vector(0.3, -0.2, 0.1, 0.4, -0.5, 0.2, 0.05, -0.1, 0, 0.2, -0.3, 0.4, -0.1, 0.5, 0.3, 0, 0.1)
GOAL = vector(0.5, -0.3, -0.3, 0.5, -0.6, 0.3, 0, -0.1, 0.1, 0.5, -0.5, 0.1, -0.4, 0.7, 0.5, 0.1, 0)
MIDDLE = vector(
    0.45, -0.3, -0.05, 0.4, -0.5, 0.2, 0.075, -0.15, 0.1, 0.3, -0.35, 0.2, -0.2, 0.55, 0.45, 0, 0.1
)
MINI = [[2, 0, 1], [3], [1, 3], [0, 2, 3]]


@pytest.mark.parametrize("way", ["unroll", "adjoint"])
@pytest.mark.parametrize(
    ("factor", "end", "middle", "total", "by_beta", "by_x"),
    [
        (
            1.0,
            1.115702,
            0.353824,
            1.469526,
            8.375855,
            [0.183913, 0.088738, -0.117989, -0.286771, 0.141917, -0.016419, -0.259469, -0.768623],
        ),
        (
            1 / math.log(18, 5),
            0.609280,
            0.431675,
            1.040955,
            -0.411332,
            [-0.137909, 0.125646, 0.117630, -0.168833, -0.074962, -0.001274, 0.288002, -0.476711],
        ),
    ],
)
def test_momentum_with_a_match_on_the_way_and_the_balance_factor(
    way: str, factor: float, end: float, middle: float, total: float, by_beta: float, by_x: list[float]
) -> None:
    found = matched(
        way,
        Toy(two_layers),
        THETA0,
        [Goal(2, MIDDLE), Goal(4, GOAL)],
        vector(1, 0.5, -0.5, 1, 0.8, -1.2, -1, -0.4).view(4, 2),
        torch.tensor([0, 1, 0, 1]),
        vector(0.25)[0],
        lambda i, x, y: (x[MINI[i]], y[MINI[i]]),
        factor=factor,
        momentum=0.9,
    )
    assert [float(p) for p in found.parts] == pytest.approx([middle, end], abs=1e-6)
    assert float(found.loss) == pytest.approx(total, abs=1e-6)
    assert float(found.step_size) == pytest.approx(by_beta, abs=1e-6)
    assert found.images.flatten().tolist() == pytest.approx(by_x, abs=1e-6)


def test_only_convolutions_are_disturbed_and_by_at_most_their_greatest_weight() -> None:
    flat = Flat("ConvNetD2W8", (3, 16, 16), 5)
    start = torch.randn(flat.size, generator=torch.Generator().manual_seed(0))
    kept, rng = start.clone(), torch.Generator().manual_seed(1)
    moved = HERE.perturbed(flat, start, rng)
    assert torch.equal(start, kept)
    before, after = flat.parts(start), flat.parts(moved)
    convolutions = [name for name, part in before.items() if part.dim() == 4]
    assert len(convolutions) == 2
    for name, part in before.items():
        if name not in convolutions:
            assert torch.equal(after[name], part), name
            continue
        d = (after[name] - part) / part
        assert float(d.norm()) == pytest.approx(1, abs=1e-4)
        assert 0 < float((after[name] - part).norm()) <= float(part.abs().max()) * (1 + 1e-4)
        assert abs(float(d.mean())) < 0.1 * float(d.std())
    assert not torch.equal(HERE.perturbed(flat, start, rng), moved)  # a fresh draw each time


@pytest.mark.parametrize(
    ("epochs", "steps", "after"), [(3, 20, [6, 12, 20]), (2, 30, [15, 30]), (1, 30, [30])]
)
def test_matches_on_the_way_come_after_their_share_of_the_steps(
    monkeypatch: pytest.MonkeyPatch, epochs: int, steps: int, after: list[int]
) -> None:
    seen: list[Sequence[Goal]] = []

    def look(*given: Any, **named: Any) -> Matched:
        seen.append(given[3])
        return matched(*given, **named)

    monkeypatch.setattr(trajectory_matching, "matched", look)
    task = ExpertTask(TRAIN, 1, 0)
    ast(iterations=1, syn_steps=steps, expert_epochs=epochs, max_start_epoch=1).distill(task)
    assert task.made is not None
    (goals,) = seen
    assert [g.after for g in goals] == after and {g.weight for g in goals} == {1.0}
    expert = task.made.read[-1][0]
    for epoch, goal in enumerate(goals, 1):
        assert torch.equal(goal.state, task.made.states[expert, epoch])


def test_weights_on_the_way() -> None:
    assert HERE.middle_weights("equal", 3) == (1.0, 1.0)
    assert HERE.middle_weights("adaptive", 4) == (0.25, 0.5, 0.75)
    assert HERE.middle_weights("none", 3) == HERE.middle_weights("equal", 1) == ()


def test_with_all_flags_off_it_is_mtt() -> None:
    plain, other = ExpertTask(TRAIN, 2, 5), ExpertTask(TRAIN, 2, 5)
    mine = ast(**OFF, augment="dsa").distill(plain)
    other.made = plain.made
    settings = {**SMALL, "augment": "dsa"}
    theirs = registry.get("methods", "mtt")(**settings).distill(other)
    assert mine.fingerprint() == theirs.fingerprint()
    flags: list[dict[str, Any]] = [
        dict(perturb=True), dict(balance=True), dict(middle="equal"), dict(student_momentum=0.9), dict(init="kmeans")
    ]  # fmt: skip
    for on in flags:
        task = ExpertTask(TRAIN, 2, 5)
        task.made = plain.made
        assert ast(**{**OFF, **on}, augment="dsa").distill(task).fingerprint() != theirs.fingerprint(), on


# ------------------------------------------------------------------------------------------------ the first images


def test_centres_take_the_nearest_image_that_is_not_taken_yet() -> None:
    points = torch.tensor([[0.0], [0.4], [1.0], [5.0]])
    assert HERE.nearest_each(points, torch.tensor([[0.1], [4.0]]), 2).tolist() == [0, 3]
    assert HERE.nearest_each(points, torch.tensor([[0.1], [0.0], [0.1]]), 3).tolist() == [0, 1, 2]
    assert HERE.nearest_each(points, torch.tensor([[0.1]]), 4).tolist() == [0, 1, 2, 3]


def answering(monkeypatch: pytest.MonkeyPatch, points: Tensor, ipc: int, seed: int = 0) -> Tensor:
    """What ``representatives`` chooses where the logits of image i are ``points[i]``."""
    inputs = TRAIN.space.real_to_input(TRAIN.images)
    known = {image.numpy().tobytes(): i for i, image in enumerate(inputs)}
    states = torch.zeros(2, 7, 4)
    experts = MadeExperts(TeacherRecipe(NETWORK, epochs=6, count=2), TRAIN.space, states)
    monkeypatch.setattr(
        trajectory_matching, "answers", lambda flat, state, x: points[[known[i.numpy().tobytes()] for i in x]]
    )
    chosen = HERE.representatives(ExpertTask(TRAIN, ipc, seed), experts, Flat(NETWORK, TRAIN.shape, 3))
    assert [epoch for _, epoch in experts.read] == [-1]
    return chosen


def test_each_group_of_a_class_sends_the_image_nearest_to_its_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.zeros(120, 3)
    wanted: set[int] = set()
    for c in range(3):
        for group, part in enumerate(TRAIN.of_class(c).split(10)):
            spread = torch.arange(-5.0, 5.0) + 0.5
            spread[3] = 0.01  # the one near the middle
            points[part, 0], points[part, 1] = 1000.0 * group, spread
            wanted.add(int(part[3]))
    chosen = answering(monkeypatch, points, 4)
    assert set(chosen.tolist()) == wanted
    assert TRAIN.labels[chosen].tolist() == [c for c in range(3) for _ in range(4)]


def test_at_ipc_1_the_image_nearest_to_the_mean_of_its_class_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = torch.randn(120, 3, generator=torch.Generator().manual_seed(0))
    chosen = answering(monkeypatch, points, 1)
    for c, i in enumerate(chosen.tolist()):
        pool = TRAIN.of_class(c)
        away = (points[pool] - points[pool].mean(0)).square().sum(1)
        assert i == int(pool[away.argmin()])


def test_images_that_look_alike_do_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.zeros(120, 3)
    points[TRAIN.of_class(0)[5]] = 1.0
    chosen = answering(monkeypatch, points, 4)
    assert len(set(chosen.tolist())) == 12 and int(TRAIN.of_class(0)[5]) in chosen.tolist()


def test_a_whole_class_can_be_asked_for() -> None:
    made = ast(iterations=0).distill(ExpertTask(TRAIN, 40, 0))
    assert made.tensors["images"].shape == (120, 1, 8, 8)


# ------------------------------------------------------------------------------------------------ the whole loop


def plain_ast(made: Any, task: ExpertTask, experts: MadeExperts, images: Tensor) -> tuple[Tensor, float]:
    """AST's loop written out: full unroll, every update by hand."""
    train = task.train
    net = skeleton(made.network, train.shape, train.classes)
    shapes = [(name, p.shape) for name, p in net.named_parameters()]

    def parts(flat: Tensor) -> dict[str, Tensor]:
        found, at = {}, 0
        for name, shape in shapes:
            found[name] = flat[at : at + shape.numel()].view(shape)
            at += shape.numel()
        return found

    ids = torch.arange(train.classes).repeat_interleave(task.ipc)
    beta, moves = torch.tensor(made.step_size), [torch.zeros_like(images), torch.tensor(0.0)]
    dsa = siamese(made.augment, train.flip)
    size = made.batch_syn or len(images)
    queue: list[int] = []
    for _ in range(made.iterations):
        queue = queue or torch.randperm(len(experts), generator=task.rng("experts")).tolist()
        states = experts.states[queue.pop(0)]
        t = int(torch.randint(0, made.max_start_epoch, (), generator=task.rng("starts")))
        begin = states[t].clone()
        if made.perturb:
            for part in parts(begin).values():
                if part.dim() == 4:
                    d = torch.randn(part.shape, generator=task.rng("perturb"))
                    part += part * d / (d**2).sum().sqrt()
        scale, h = 1.0, made.max_start_epoch // 2
        if made.balance and t >= h:
            scale = math.log(t - h + 8) / math.log(5)
        elif made.balance:
            scale = math.log(5) / math.log(h - t + 8)
        x, b = images.clone().requires_grad_(), beta.clone().requires_grad_()
        theta, pace, total = begin.clone().requires_grad_(), torch.zeros_like(begin), torch.zeros(())
        chunks: list[Tensor] = []
        batches = []
        for _ in range(made.syn_steps):
            chunks = chunks or list(torch.randperm(len(images), generator=task.rng("batches")).split(size))
            batches.append(chunks.pop())
        epochs = made.expert_epochs
        for i, batch in enumerate(batches, 1):
            seen = x[batch]
            if dsa is not None:
                seen = dsa.apply(seen, dsa.draw(len(batch), train.shape, task.rng("augment")))
            logits = torch.func.functional_call(net, parts(theta), (seen,))
            loss = scale * torch.nn.functional.cross_entropy(logits, ids[batch])
            (g,) = torch.autograd.grad(loss, theta, create_graph=True)
            pace = made.student_momentum * pace + g
            theta = theta - b * pace
            for j in range(1, epochs + 1):
                last = j == epochs
                if i != (made.syn_steps if last else (made.syn_steps // epochs) * j):
                    continue
                if made.middle == "none" and not last:
                    continue
                weight = j / epochs if made.middle == "adaptive" else 1.0
                goal = states[t + j]
                total = total + weight * ((theta - goal) ** 2).sum() / ((begin - goal) ** 2).sum()
        total.backward()
        with torch.no_grad():
            moves[0] = made.momentum * moves[0] + x.grad
            moves[1] = made.momentum * moves[1] + b.grad
            images = images - made.image_lr * moves[0]
            beta = beta - made.step_size_lr * moves[1]
    return images, float(beta)


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(augment="dsa", batch_syn=4, expert_epochs=3, syn_steps=7, middle="adaptive"),
        dict(perturb=False, max_start_epoch=4),
        dict(balance=False, middle="none", gradient="unroll", init="real"),
        dict(student_momentum=0.0, init="noise"),
    ],
)
def test_the_loop_equals_ast_written_out(settings: dict[str, Any]) -> None:
    made = ast(**{**dict(step_size_lr=1e-5), **settings})
    task, twin, first = (ExpertTask(TRAIN, 2, 5) for _ in range(3))
    start = ast(**{**settings, "iterations": 0}).distill(first).tensors["images"]
    got = made.distill(task)
    assert task.made is not None and got.program is not None
    images, beta = plain_ast(made, twin, task.made, start)
    assert torch.allclose(got.tensors["images"], images, atol=1e-4)
    assert float(got.program.step_sizes) == pytest.approx(beta, abs=1e-7)
    assert not torch.allclose(images, start, atol=1e-3)
    assert got.targets.soft is None and got.targets.ids is not None
    assert got.targets.ids.tolist() == [0, 0, 1, 1, 2, 2]


class Killed(Exception):
    pass


@dataclass(eq=False)
class Logged(ExpertTask):
    """Keeps what is logged; dies as it begins iteration ``dies_at``, as a killed process would after its last checkpoint."""

    dies_at: int = -1
    rows: list[dict[str, float]] = field(default_factory=list)

    def loop(self, total: int, state: Sequence[Any] = (), show: Any = None) -> Iterator[int]:
        for it in super().loop(total, state, show):
            if it == self.dies_at:
                raise Killed
            yield it

    def log(self, **values: float | Tensor) -> None:
        self.rows.append({k: float(torch.as_tensor(v).detach()) for k, v in values.items()})
        super().log(**values)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """With disturbed starts, balanced losses, matches on the way and a student with momentum."""
    settings: dict[str, Any] = dict(
        iterations=7, expert_epochs=3, middle="adaptive", batch_syn=4, augment="dsa", step_size_lr=1e-5
    )
    made = ast(**settings)
    assert made.perturb and made.balance and made.student_momentum == 0.9
    whole = Logged(TRAIN, 2, 5)
    result = whole.run_method(made)
    place: dict[str, Any] = dict(run=RunFolder(tmp_path), key="cell", checkpoint_every_s=0.0)
    rows: list[dict[str, float]] = []
    for dies_at in (2, 5):  # inside passes over the 3 experts
        with pytest.raises(Killed):
            (killed := Logged(TRAIN, 2, 5, dies_at=dies_at, **place)).run_method(made)
        rows += killed.rows
    last = Logged(TRAIN, 2, 5, **place)
    resumed = last.run_method(made)
    assert len(last.rows) == 2 and rows + last.rows == whole.rows
    assert torch.equal(resumed.tensors["images"], result.tensors["images"])
    assert resumed.program is not None and result.program is not None
    assert torch.equal(resumed.program.step_sizes, result.program.step_sizes)
    assert float(result.program.step_sizes) != pytest.approx(made.step_size, rel=1e-6)
    assert resumed.fingerprint() == result.fingerprint() and resumed.card.cost.iterations == 7


# ------------------------------------------------------------------------------------------------ experts and settings


def test_the_gradient_penalty_of_the_spec() -> None:
    weights = torch.tensor([[1.0, 2.0], [0.5, -1.0]])  # of each class; their sum is [1.5, 1]
    x = torch.randn(1, 5, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    (found,) = gradient_penalty(lambda given: given.flatten(2) @ weights.T, x).tolist()
    assert ast().gradient_penalty * found == pytest.approx(1.288897, abs=1e-6)


def test_the_experts_are_those_of_the_readme() -> None:
    found = registry.get("methods", "ast")(zca=True).expert_recipe()
    assert found == TeacherRecipe(
        network="ConvNet",
        epochs=50,
        batch=256,
        lr=0.003,
        momentum=0.9,
        weight_decay=1e-3,
        milestones=(27,),  # after the epoch of index 26
        gamma=0.6,
        reset_optimiser=True,
        early_factors=(0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
        gradient_penalty=2.0,
        augment="dsa",
        held_out=0.0,
        zca=0.1,
        count=100,
    )


def test_clipping_loss_and_penalty_can_be_switched_off() -> None:
    found = ast(clip_loss=False, gradient_penalty=0.0).expert_recipe()
    assert found.early_factors == () and found.gradient_penalty == 0
    assert found.momentum == 0.9 and found.milestones == (5,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(init="avg"), "init is 'avg'; expected one of real, noise, kmeans"),
        (dict(middle="some"), "middle is 'some'; expected one of equal, adaptive, none"),
        (
            dict(student_momentum=1.0),
            "student_momentum is 1.0; expected a number from 0 to 1, 1 excluded",
        ),
        (
            dict(syn_steps=2, expert_epochs=3),
            "2 student steps cannot be matched on the way to 3 epochs; expected at least one an epoch: raise syn_steps, or "
            "choose middle=none",
        ),
        (dict(network="ConvNetBN"), "ConvNetBN has running statistics"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_experts_are_trained(
    settings: dict[str, Any], message: str
) -> None:
    task = ExpertTask(TRAIN, 2, 0)
    with pytest.raises(ValueError) as error:
        ast(**settings).distill(task)
    assert message in str(error.value)
    assert list(task.asked) == []


_COLUMNS = (
    *("init", "perturb", "middle", "balance", "syn_steps", "expert_epochs", "max_start_epoch"),
    *("image_lr", "step_size_lr", "step_size", "batch_syn", "zca"),
)
_TABLE: dict[tuple[str, str, int], tuple[Any, ...]] = {
    ("authors", "cifar100", 1): (
        "kmeans", True, "equal", True, 20, 3, 20, 1000, 1e-5, 0.01, 0, True
    ),
    ("script", "cifar100", 1): (
        "kmeans", True, "equal", False, 40, 3, 15, 100, 1e-5, 0.01, 0, False
    ),
    ("authors", "cifar100", 10): (
        "kmeans", True, "equal", False, 20, 2, 30, 1000, 1e-5, 0.01, 128, False
    ),
    ("authors", "cifar10", 10): ("real", True, "equal", True, 30, 2, 20, 100, 1e-6, 0.01, 0, True),
    ("authors-b", "cifar10", 10): ("real", True, "equal", True, 30, 2, 20, 1000, 1e-5, 0.01, 0, True),
    ("authors", "cifar100", 50): (
        "kmeans", False, "none", False, 80, 2, 40, 1000, 1e-5, 0.01, 700, False
    ),
    ("authors", "tiny_imagenet", 1): (
        "real", True, "equal", False, 10, 2, 10, 10000, 1e-4, 0.01, 0, False
    ),
}  # fmt: skip


@pytest.mark.parametrize(("recipe", "dataset", "ipc"), list(_TABLE))
def test_recipes_are_the_scripts(recipe: str, dataset: str, ipc: int) -> None:
    found = registry.resolve_recipe("ast", recipe, dataset, ipc)
    made = registry.get("methods", "ast")(**found.settings)
    for name, value in zip(_COLUMNS, _TABLE[recipe, dataset, ipc], strict=True):
        assert getattr(made, name) == value, name
    assert made.network == ("ConvNetD4" if dataset == "tiny_imagenet" else "ConvNet")
    assert (made.student_momentum, made.momentum, made.iterations) == (0.9, 0.5, 5001)
    statistics = (0.4914, 0.4822, 0.4465) if dataset == "cifar100" and not made.zca else None
    assert made.mean == statistics


def test_every_row_but_our_own_is_in_the_table() -> None:
    assert {key for key in registry.recipes("ast") if key[0] not in ("digits", "cpu")} == set(_TABLE)


def test_it_does_not_hide_the_module_ast_of_python() -> None:
    root = Path(__file__).resolve().parents[2]
    code = (
        "import ddbench, ddbench.registry as r, sys\n"
        "made = r.get('methods', 'ast')\n"
        "import ast\n"
        "assert ast.parse and 'methods' not in ast.__file__, ast.__file__\n"
        "assert made.__module__ == 'ddbench.methods.ast', made.__module__\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
