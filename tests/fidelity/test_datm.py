"""DATM against the numbers and the text of its paper, its configurations and its code (arXiv:2310.05773)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import blobs
from plain_trajectories import ExpertTask, MadeExperts, Toy, linear
from torch import Tensor

from ddbench import data, registry
from ddbench.augment.named import siamese
from ddbench.budget import byte_count
from ddbench.contract import DistilledSet, TeacherRecipe
from ddbench.matching import trajectory_matching
from ddbench.matching.trajectories import Goal, Matched, inner_loss, matched
from ddbench.nets.build import skeleton
from ddbench.nets.flat import Flat
from ddbench.store import RunFolder

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
    step_size=0.05,
    augment="none",
)


def datm(**settings: Any) -> Any:
    return registry.get("methods", "datm")(**{**SMALL, **settings})


def helpers() -> Any:
    """The module of the method, for its functions."""
    import importlib

    return importlib.import_module(type(datm()).__module__)


# ------------------------------------------------------------------------------------------------ numbers


def test_the_soft_cross_entropies_of_the_spec() -> None:
    outputs = torch.tensor([[1.0, 2, 0], [0, 0, 0]], dtype=torch.float64)
    labels = torch.tensor([[2.0, 0, -1], [1, 1, 1]], dtype=torch.float64)
    assert float(inner_loss(outputs, labels, "logits")) == pytest.approx(1.217016, abs=1e-6)
    assert float(inner_loss(labels[:1], labels[:1], "logits")) == pytest.approx(0.524267, abs=1e-6)
    moved = labels + torch.tensor([[3.0], [-7.0]])
    assert float(inner_loss(outputs, moved, "logits")) == pytest.approx(1.217016, abs=1e-6)


def test_first_logits_are_the_mean_of_the_experts_that_are_right() -> None:
    given = [torch.tensor([z]) for z in ([2.0, 1, 0], [0.0, 3, 1], [4.0, -1, 2])]
    labels, none = helpers().mean_of_right(iter(given), torch.tensor([0]))
    assert labels.tolist() == [[3.0, 0.0, 1.0]] and none == 0


def test_an_image_that_no_expert_has_right_gets_the_mean_of_all() -> None:
    given = [torch.tensor([[2.0, 1, 0], [9.0, 1, 0]]), torch.tensor([[0.0, 3, 1], [0.0, 7, 1]])]
    labels, none = helpers().mean_of_right(iter(given), torch.tensor([2, 1]))
    assert labels.tolist() == [[1.0, 2.0, 0.5], [0.0, 7.0, 1.0]] and none == 1


@pytest.mark.parametrize(
    ("window", "values"),
    [
        ((10, 20, 1000), {0: 10, 1: 10, 100: 11, 500: 15, 999: 19, 1000: 20, 5000: 20}),
        ((20, 40, 2000), {0: 20, 100: 21, 1000: 30, 1500: 35, 2000: 40}),
        ((15, 20, 2000), {0: 15, 500: 16, 1000: 17, 2000: 20, 10000: 20}),
    ],
)
def test_the_window_of_start_epochs_grows_as_in_the_spec(
    window: tuple[int, int, int], values: dict[int, int]
) -> None:
    first, top, expansion = window
    made = datm(min_start_epoch=3, first_max_start_epoch=first, max_start_epoch=top, expansion=expansion)
    assert {it: made.starts(it) for it in values} == {it: (3, u) for it, u in values.items()}
    plain = datm(min_start_epoch=3, max_start_epoch=top)
    assert {plain.starts(it) for it in values} == {(3, top)}


def toy(steps: int, labels: list[list[float]], way: str = "unroll", kind: str = "logits") -> Matched:
    x = torch.tensor([[1, 0.5], [-0.5, 1]], dtype=torch.float64)
    start = torch.tensor([0.1, -0.2, 0, 0.3], dtype=torch.float64)
    goal = torch.tensor([0.5, -0.1, -0.4, 0.6], dtype=torch.float64)
    y = torch.tensor(labels, dtype=torch.float64)
    beta = torch.tensor(0.5, dtype=torch.float64)
    return matched(way, Toy(linear, kind), start, [Goal(steps, goal)], x, y, beta, lambda i, x, y: (x, y))


@pytest.mark.parametrize("way", ["unroll", "adjoint"])
@pytest.mark.parametrize(
    ("steps", "loss", "by_x", "by_y", "by_beta"),
    [
        (
            1,
            0.650814,
            [-0.269151, 0.062604, 0.050484, 0.044945],
            [-0.054823, 0.054823, 0.126258, -0.126258],
            -0.561239,
        ),
        (
            2,
            0.462128,
            [-0.284791, 0.201179, 0.017105, 0.056483],
            [-0.050252, 0.050252, 0.211970, -0.211970],
            -0.559282,
        ),
    ],
)
def test_the_toy_with_label_logits(
    way: str, steps: int, loss: float, by_x: list[float], by_y: list[float], by_beta: float
) -> None:
    found = toy(steps, [[2, 0], [0, 1]], way)
    assert float(found.loss) == pytest.approx(loss, abs=1e-6)
    assert found.images.flatten().tolist() == pytest.approx(by_x, abs=1e-6)
    assert found.labels is not None
    assert found.labels.flatten().tolist() == pytest.approx(by_y, abs=1e-6)
    assert float(found.step_size) == pytest.approx(by_beta, abs=1e-6)
    assert found.labels.sum(1).tolist() == pytest.approx([0, 0], abs=1e-15)


@pytest.mark.parametrize(
    ("steps", "loss", "by_x", "by_beta"),
    [
        (1, 0.448060, [-0.270619, 0.043003, 0.181308, -0.014672], -0.789380),
        (2, 0.225727, [-0.133132, 0.094905, 0.075561, -0.035607], -0.436693),
        (3, 0.214839, [0.117963, 0.158018, -0.122328, -0.062814], 0.433960),
    ],
)
def test_logits_that_are_nearly_one_hot_give_the_numbers_of_mtt(
    steps: int, loss: float, by_x: list[float], by_beta: float
) -> None:
    found = toy(steps, [[50, -50], [-50, 50]])
    assert float(found.loss) == pytest.approx(loss, abs=1e-6)
    assert found.images.flatten().tolist() == pytest.approx(by_x, abs=1e-6)
    assert float(found.step_size) == pytest.approx(by_beta, abs=1e-6)


# ------------------------------------------------------------------------------------------------ skipped iterations


@dataclass(eq=False)
class Watched(ExpertTask):
    """Keeps a copy of everything that is learned, as it stands at the start of every iteration and at the end."""

    seen: list[list[Tensor]] = field(default_factory=list)
    logged: list[dict[str, float]] = field(default_factory=list)
    result: DistilledSet | None = None

    def loop(self, total: int, state: Sequence[Any] = (), show: Any = None) -> Iterator[int]:
        def copies() -> list[Tensor]:
            images, step_size, _order, _skipped, labels, *optimisers = state
            buffers = [
                kept["momentum_buffer"] for o in optimisers for kept in o.state_dict()["state"].values()
            ]
            return [t.detach().clone() for t in (images, step_size, labels, *buffers)]

        for it in super().loop(total, state, show):
            self.seen.append(copies())
            yield it
        self.seen.append(copies())

    def log(self, **values: float | Tensor) -> None:
        self.logged.append({k: float(torch.as_tensor(v).detach()) for k, v in values.items()})
        super().log(**values)


def with_losses(monkeypatch: pytest.MonkeyPatch, losses: list[float], **settings: Any) -> Watched:
    """A run whose losses are these, with gradients of ones."""
    coming = iter(losses)

    def made_up(*given: Any, **named: Any) -> Matched:
        images, labels, step_size = given[4:7]
        loss = torch.tensor(next(coming))
        ones = torch.full_like(images, float(loss)), torch.ones_like(labels), torch.ones(())
        return Matched(loss, (loss,), ones[0], ones[1], ones[2], given[2])

    monkeypatch.setattr(trajectory_matching, "matched", made_up)
    task = Watched(TRAIN, 2, 0)
    made = datm(iterations=len(losses), **settings)
    task.result = task.run_method(made)
    return task


def same(one: list[Tensor], two: list[Tensor]) -> bool:
    return len(one) == len(two) and all(map(torch.equal, one, two))


def test_a_loss_above_the_threshold_or_no_number_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    task = with_losses(monkeypatch, [0.9, 1.01, float("nan"), 1.0, float("inf"), 0.5])
    unchanged = [same(a, b) for a, b in zip(task.seen, task.seen[1:], strict=False)]
    assert unchanged == [False, True, True, False, True, False]
    assert len(task.seen[1]) == 6  # images, step size, labels and the momentum of each
    assert [row["skipped"] for row in task.logged] == [0, 1, 2, 2, 3, 3]
    assert task.result is not None
    assert task.result.card.notes["skipped"] == "3 of 6 iterations had a loss above 1 and changed nothing"


class Looks:
    """A time budget that is used up when it was asked ``times`` times."""

    left_s = None

    def __init__(self, times: int) -> None:
        self.times = times

    def used_up(self) -> bool:
        self.times -= 1
        return self.times < 0


@pytest.mark.parametrize(("looks", "note"), [((3,), "2 of 3"), ((3, 0), "2 of 3"), ((3, 1), "3 of 4")])
def test_a_run_cut_by_its_time_budget_counts_the_iterations_that_were_done(
    looks: tuple[int, ...], note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a resumed one finds its budget used up at once."""
    coming = iter([1.5, 0.5, 2.0, 3.0, 0.5, 0.5])

    def made_up(*given: Any, **named: Any) -> Matched:
        loss = torch.tensor(next(coming))
        zeros = [torch.zeros_like(t) for t in given[4:7]]
        return Matched(loss, (loss,), *zeros, given[2])

    monkeypatch.setattr(trajectory_matching, "matched", made_up)
    for times in looks:
        task = ExpertTask(TRAIN, 2, 0, run=RunFolder(tmp_path), key="cell")
        task.budget = Looks(times)  # type: ignore[assignment]
        made = task.run_method(datm(iterations=6))
        assert made.card.partial
    assert made.card.notes["skipped"] == f"{note} iterations had a loss above 1 and changed nothing"
    assert made.card.cost.iterations == sum(looks)


def test_nothing_is_noted_where_nothing_was_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    task = with_losses(monkeypatch, [0.9, 1.09], threshold=1.1)
    assert task.result is not None and "skipped" not in task.result.card.notes


def test_a_threshold_that_nothing_passes_leaves_the_first_set() -> None:
    task, still = Watched(TRAIN, 2, 0), Watched(TRAIN, 2, 0)
    made = task.run_method(datm(threshold=1e-9))
    assert all(same(a, task.seen[0]) for a in task.seen)
    assert made.fingerprint() == still.run_method(datm(iterations=0)).fingerprint()
    assert made.card.notes["skipped"].startswith("4 of 4 iterations had a loss above 1e-09")


def test_labels_images_and_step_size_have_momenta_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dict(label_lr=2.0, label_momentum=0.9, image_lr=1.0, momentum=0.5, step_size_lr=1e-3)
    task = with_losses(monkeypatch, [1.0, 1.0], **settings)
    (x0, b0, y0), _, (x2, b2, y2, *_) = (s[:3] if i == 0 else s for i, s in enumerate(task.seen))
    assert torch.allclose(x0 - x2, torch.full_like(x0, 2.5), atol=1e-5)
    assert float(b0 - b2) == pytest.approx(2.5e-3, abs=1e-7)
    assert torch.allclose(y0 - y2, torch.full_like(y0, 2 * 2.9), atol=1e-5)


# ------------------------------------------------------------------------------------------------ the first set


def fixed_experts(rights: list[dict[int, set[int]]]) -> MadeExperts:
    """Experts whose state is their number: what they have right is looked up."""
    states = torch.arange(len(rights), dtype=torch.float32)[:, None, None].expand(-1, 7, 4).contiguous()
    return MadeExperts(TeacherRecipe(NETWORK, epochs=6, count=len(rights)), TRAIN.space, states)


def search(
    monkeypatch: pytest.MonkeyPatch, rights: list[dict[int, set[int]]], ipc: int
) -> tuple[list[int], list[int], ExpertTask]:
    """What ``rightly_classified`` chooses where expert e has exactly the images ``rights[e][c]`` of class c right; and the
    experts that it asked, in order."""
    module = helpers()
    task, experts = ExpertTask(TRAIN, ipc, 5), fixed_experts(rights)
    inputs = TRAIN.space.real_to_input(TRAIN.images)
    known = {image.numpy().tobytes(): i for i, image in enumerate(inputs)}
    assert len(known) == len(TRAIN)

    def told(flat: Flat, state: Tensor, x: Tensor) -> Tensor:
        out = torch.zeros(len(x), 3)
        for row, image in enumerate(x):
            i = known[image.numpy().tobytes()]
            c = int(TRAIN.labels[i])
            is_right = i in rights[int(state[0])].get(c, set())
            out[row, c if is_right else (c + 1) % 3] = 1
        return out

    monkeypatch.setattr(trajectory_matching, "answers", told)
    chosen = module.rightly_classified(task, experts, Flat(NETWORK, TRAIN.shape, 3)).tolist()
    assert {epoch for _, epoch in experts.read} == {-1}
    return chosen, [expert for expert, _ in experts.read], task


def orders(seed: int = 5) -> list[list[int]]:
    """The shuffled images of each class."""
    rng = ExpertTask(TRAIN, 1, seed).rng("init")
    return [pool[torch.randperm(40, generator=rng)].tolist() for pool in map(TRAIN.of_class, range(3))]


def every(c: int) -> set[int]:
    return set(TRAIN.of_class(c).tolist())


def test_the_first_images_are_the_first_that_the_first_expert_has_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = {c: set(order[1::2]) for c, order in enumerate(orders())}
    chosen, asked, _ = search(monkeypatch, [right, {}], 3)
    assert chosen == [i for order in orders() for i in order[1:7:2]]
    assert asked == [0, 0, 0]


def test_a_search_that_ends_short_goes_on_with_the_next_expert_and_later_classes_begin_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    zero, one, two = orders()
    first = {0: every(0), 1: {one[8], one[20]}, 2: every(2)}
    second = {1: {one[3], one[20], one[30]}, 2: {two[5], two[6], two[7]}}
    chosen, asked, task = search(monkeypatch, [first, second, {}], 3)
    assert chosen == [*zero[:3], one[8], one[20], one[3], two[5], two[6], two[7]]
    assert asked == [0, 0, 1, 1]
    assert task._notes == {}


def test_a_later_class_begins_with_the_last_expert_and_goes_on_from_the_second_through_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The authors' counter restarts for every class, and the loaded expert stays: 2, then 1, 2, 3, 0."""
    zero, one, two = orders()
    rights = [
        {1: {one[2]}, 2: {two[7], two[8], two[9]}},
        {1: {one[1]}, 2: every(2)},
        {0: every(0), 1: {one[9]}, 2: every(2)},
        {2: every(2)},
    ]
    chosen, asked, task = search(monkeypatch, rights, 3)
    assert asked == [*(0, 1, 2), *(2, 1, 2, 3, 0), 0]
    assert chosen == [*zero[:3], one[9], one[1], one[2], two[7], two[8], two[9]]
    assert task._notes == {}


@pytest.mark.parametrize(("third", "asked"), [({}, [2, 1, 2, 3, 0]), ({5}, [2, 1])])
def test_the_second_class_that_runs_short_meets_the_second_expert_next(
    monkeypatch: pytest.MonkeyPatch, third: set[int], asked: list[int]
) -> None:
    _, one, _ = orders()
    first = {0: every(0), 1: {one[30]}, 2: every(2)}
    rights = [{2: every(2)}, {1: {one[i] for i in third}, 2: every(2)}, first, {2: every(2)}]
    chosen, given, task = search(monkeypatch, rights, 2)
    assert given[:3] == [0, 1, 2] and given[3:-1] == asked and given[-1] == asked[-1]
    assert chosen[2:4] == [one[30], one[5] if third else one[0]]
    assert ("init" in task._notes) == (not third)


def test_too_few_images_that_an_expert_has_right_are_filled_up_with_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    zero, one, two = orders()
    right = {0: every(0), 1: {one[4]}, 2: every(2)}
    chosen, asked, task = search(monkeypatch, [right, {}], 3)
    assert chosen == [*zero[:3], one[4], one[0], one[1], *two[:3]]
    assert asked == [*(0,), *(0, 1, 0), *(0,)]
    assert task._notes["init"] == (
        "the 2 experts have fewer than 3 images right: 1 of class 1; random images fill up"
    )


def test_labels_of_images_that_no_expert_has_right_are_finite_and_noted() -> None:
    task = ExpertTask(TRAIN, 2, 0)
    flat = Flat(NETWORK, TRAIN.shape, 3)
    states = torch.zeros(2, 7, flat.size)
    states[:, :, -3] = torch.tensor([1.0, 3.0])[:, None]  # the bias of class 0: so all images are of class 0
    task.made = MadeExperts(TeacherRecipe(NETWORK, epochs=6, count=2), TRAIN.space, states)
    task.made.states[:, :2] += 0.01 * torch.randn(2, 2, flat.size, generator=torch.Generator().manual_seed(0))
    made = task.run_method(datm(iterations=0, experts=2))
    assert made.targets.soft is not None
    assert torch.allclose(made.targets.soft, torch.tensor([2.0, 0, 0]).expand(6, 3))
    assert made.card.notes["label_init"] == (
        "no expert has 4 of the 6 first images right; their labels start as the mean logits of all 2 experts"
    )
    assert "0 of class 1, 0 of class 2" in made.card.notes["init"]


def first(**settings: Any) -> tuple[DistilledSet, MadeExperts]:
    task = ExpertTask(TRAIN, 2, 0)
    made = task.run_method(datm(iterations=0, **settings))
    assert task.made is not None
    return made, task.made


def test_labels_of_one_expert_are_its_logits_right_or_wrong() -> None:
    made, experts = first(init="real", label_init="one")
    flat = Flat(NETWORK, TRAIN.shape, 3)
    given = [flat.logits(experts.states[e, -1], made.tensors["images"]) for e in range(3)]
    assert made.targets.soft is not None
    assert sum(torch.allclose(made.targets.soft, z, atol=1e-6) for z in given) == 1


def test_the_set_holds_logits_and_their_bytes_count() -> None:
    made, _ = first()
    assert made.targets.kind == "logits" and made.targets.ids is None
    assert made.targets.soft is not None and made.targets.soft.shape == (6, 3)
    assert byte_count(made).labels == 6 * 3 * 4
    assert not torch.allclose(made.targets.soft.sum(1), torch.ones(6), atol=1e-3)  # no softmax was taken
    assert made.program is not None and made.program.step_sizes.tolist() == pytest.approx([0.05])


# ------------------------------------------------------------------------------------------------ the whole loop


def plain_datm(made: Any, task: ExpertTask, experts: MadeExperts) -> tuple[Tensor, Tensor, float, int]:
    """DATM written out: class by class, full unroll, every update by hand."""
    train, ipc = task.train, task.ipc
    net = skeleton(made.network, train.shape, train.classes)
    shapes = [(name, p.shape) for name, p in net.named_parameters()]

    def logits(flat: Tensor, x: Tensor) -> Tensor:
        named, at = {}, 0
        for name, shape in shapes:
            named[name] = flat[at : at + shape.numel()].view(shape)
            at += shape.numel()
        return torch.func.functional_call(net, named, (x,))

    mean, std = train.mean[0], train.std[0]
    rng, loaded, chosen = task.rng("init"), 0, []
    for c in range(train.classes):
        pool = train.of_class(c)
        pool = pool[torch.randperm(len(pool), generator=rng)]
        kept: list[int] = []
        turn = 0  # restarts for every class; what is loaded stays
        while len(kept) < ipc:
            x = (train.images[pool].float() / 255 - mean) / std
            for i, z in zip(pool.tolist(), logits(experts.states[loaded, -1], x), strict=True):
                if int(z.argmax()) == c and i not in kept and len(kept) < ipc:
                    kept.append(i)
            if len(kept) < ipc:
                turn += 1
                loaded = turn % len(experts)
        chosen += kept
    images = (train.images[chosen].float() / 255 - mean) / std
    ids = train.labels[chosen]
    rows = []
    for i in range(len(images)):
        z = torch.cat([logits(states[-1], images[i : i + 1]) for states in experts.states])
        rows.append(z[z.argmax(1) == ids[i]].mean(0))
    labels, beta = torch.stack(rows), torch.tensor(made.step_size)

    moves = [torch.zeros_like(t) for t in (images, labels, beta)]
    dsa = siamese(made.augment, train.flip)
    size = made.batch_syn or len(images)
    skipped = 0
    queue: list[int] = []
    for it in range(made.iterations):
        queue = queue or torch.randperm(len(experts), generator=task.rng("experts")).tolist()
        states = experts.states[queue.pop(0)]
        top = made.max_start_epoch
        if made.first_max_start_epoch is not None:
            grown = (top - made.first_max_start_epoch) * it / made.expansion
            top = min(top, made.first_max_start_epoch + int(grown))
        t = int(torch.randint(made.min_start_epoch, top, (), generator=task.rng("starts")))
        begin, goal = states[t], states[t + made.expert_epochs]
        x, y, b = (v.clone().requires_grad_() for v in (images, labels, beta))
        theta = begin.clone().requires_grad_()
        chunks: list[Tensor] = []
        batches = []
        for _ in range(made.syn_steps):
            chunks = chunks or list(torch.randperm(len(images), generator=task.rng("batches")).split(size))
            batches.append(chunks.pop())
        for batch in batches:
            seen = x[batch]
            if dsa is not None:
                seen = dsa.apply(seen, dsa.draw(len(batch), train.shape, task.rng("augment")))
            p, q = torch.softmax(y[batch], 1), torch.log_softmax(logits(theta, seen), 1)
            (g,) = torch.autograd.grad(-(p * q).sum(1).mean(), theta, create_graph=True)
            theta = theta - b * g
        loss = ((theta - goal) ** 2).sum() / ((begin - goal) ** 2).sum()
        if not float(loss.detach()) <= made.threshold:
            skipped += 1
            continue
        loss.backward()
        with torch.no_grad():
            moves[0] = made.momentum * moves[0] + x.grad
            moves[1] = made.label_momentum * moves[1] + y.grad
            moves[2] = made.momentum * moves[2] + b.grad
            images = images - made.image_lr * moves[0]
            labels = labels - made.label_lr * moves[1]
            beta = beta - made.step_size_lr * moves[2]
    return images, labels, float(beta), skipped


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(augment="dsa", batch_syn=4, first_max_start_epoch=1, expansion=3, image_lr=20.0),
        dict(min_start_epoch=2, max_start_epoch=4, threshold=0.9, iterations=6),
        dict(gradient="unroll", expert_epochs=3, label_lr=5.0),
    ],
)
def test_the_loop_equals_datm_written_out(settings: dict[str, Any]) -> None:
    made = datm(**{**dict(image_lr=3.0, step_size_lr=1e-4), **settings})
    task, twin = ExpertTask(TRAIN, 2, 5), ExpertTask(TRAIN, 2, 5)
    got = made.distill(task)
    assert task.made is not None
    images, labels, beta, skipped = plain_datm(made, twin, task.made)
    assert got.targets.soft is not None and got.program is not None
    assert torch.allclose(got.tensors["images"], images, atol=1e-4)
    assert torch.allclose(got.targets.soft, labels, atol=1e-4)
    assert float(got.program.step_sizes) == pytest.approx(beta, abs=1e-7)
    assert ("skipped" in task._notes) == bool(skipped)
    start = datm(iterations=0).distill(ExpertTask(TRAIN, 2, 5))
    assert start.targets.soft is not None
    assert not torch.allclose(got.targets.soft, start.targets.soft, atol=1e-3)
    assert not torch.allclose(got.tensors["images"], start.tensors["images"], atol=1e-3)


class Killed(Exception):
    pass


@dataclass(eq=False)
class Fragile(ExpertTask):
    """Dies as it begins iteration ``dies_at``, as a killed process would after its last checkpoint."""

    dies_at: int = 0

    def loop(self, total: int, state: Sequence[Any] = (), show: Any = None) -> Iterator[int]:
        for it in super().loop(total, state, show):
            if it == self.dies_at:
                raise Killed
            yield it


@pytest.mark.parametrize("how", ["killed", "cut by its budget"])
def test_a_run_that_ended_early_goes_on_to_the_same_bits(how: str, tmp_path: Path) -> None:
    """With learned labels, a growing window and iterations before and after the cut that change nothing."""
    settings: dict[str, Any] = dict(
        iterations=11,
        first_max_start_epoch=1,
        expansion=4,
        max_start_epoch=4,
        batch_syn=4,
        augment="dsa",
        image_lr=10.0,
        step_size_lr=1e-4,
        label_lr=2.0,
        threshold=0.6,
    )
    whole = Watched(TRAIN, 2, 5)
    result = whole.run_method(datm(**settings))
    skips = [row["skipped"] for row in whole.logged]
    assert 0 < skips[4] < skips[-1] < 11, "some are skipped on both sides of the cut, and not all"
    place: dict[str, Any] = dict(run=RunFolder(tmp_path), key="cell", checkpoint_every_s=0.0)
    if how == "killed":
        with pytest.raises(Killed):
            Fragile(TRAIN, 2, 5, dies_at=5, **place).run_method(datm(**settings))
    else:
        part = ExpertTask(TRAIN, 2, 5, **place)
        part.budget = Looks(5)  # type: ignore[assignment]
        cut = part.run_method(datm(**settings))
        assert cut.card.partial and cut.fingerprint() != result.fingerprint()
    resumed = Watched(TRAIN, 2, 5, **place)
    made = resumed.run_method(datm(**settings))
    assert [row["skipped"] for row in resumed.logged] == skips[5:]
    assert made.fingerprint() == result.fingerprint() and made.card.cost.iterations == 11
    assert made.targets.soft is not None and result.targets.soft is not None
    assert torch.equal(made.targets.soft, result.targets.soft)
    assert torch.equal(made.tensors["images"], result.tensors["images"])
    assert made.program is not None and result.program is not None
    assert torch.equal(made.program.step_sizes, result.program.step_sizes)
    assert all(map(torch.equal, resumed.seen[-1], whole.seen[-1])), "momenta, too"
    assert made.card.notes["skipped"] == result.card.notes["skipped"]
    assert made.card.notes["skipped"].startswith(f"{int(skips[-1])} of 11 iterations")


def test_start_epochs_stay_inside_the_window() -> None:
    task = Watched(TRAIN, 2, 0)
    made = datm(
        iterations=40,
        min_start_epoch=1,
        first_max_start_epoch=2,
        max_start_epoch=4,
        expansion=20,
        syn_steps=1,
    )
    made.distill(task)
    given = [int(row["start_epoch"]) for row in task.logged]
    assert all(1 <= t < made.starts(it)[1] for it, t in enumerate(given))
    assert set(given[:10]) == {1} and set(given[20:]) == {1, 2, 3}


def test_teslas_gradient_is_a_choice_and_another_result() -> None:
    exact, tesla = (datm(gradient=g).distill(ExpertTask(TRAIN, 2, 5)) for g in ("adjoint", "tesla"))
    assert exact.targets.soft is not None and tesla.targets.soft is not None
    assert not torch.equal(exact.targets.soft, tesla.targets.soft)


# ------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            dict(max_start_epoch=6),
            "experts of 6 epochs are too short: segments start at epoch 5 at the latest and are 2 long, which needs 7; train "
            "them longer (train_epochs) or lower max_start_epoch",
        ),
        (dict(min_start_epoch=3), "start epochs are from 3 on, below 3 at first and below 3 later; expected"),
        (dict(first_max_start_epoch=4), "from 0 on, below 4 at first and below 3 later; expected 0 <= min"),
        (dict(first_max_start_epoch=1, expansion=0), "expansion is 0; expected at least 1 iteration"),
        (dict(init="noise"), "init is 'noise'; expected one of real, correct"),
        (dict(label_init="hard"), "label_init is 'hard'; expected one of correct, one"),
        (dict(label_lr=-1.0), "label_lr is -1.0; expected 0 or more"),
        (dict(label_momentum=1.0), "label_momentum is 1.0; expected a number from 0 to 1, 1 excluded"),
        (dict(threshold=0.0), "threshold is 0.0; expected a number above 0"),
        (dict(network="ConvNetBN"), "ConvNetBN has running statistics"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_experts_are_trained(
    settings: dict[str, Any], message: str
) -> None:
    task = ExpertTask(TRAIN, 2, 0)
    with pytest.raises(ValueError) as error:
        datm(**settings).distill(task)
    assert message in str(error.value)
    assert list(task.asked) == []


def test_the_last_start_epoch_may_just_reach_the_experts_end() -> None:
    task = Watched(TRAIN, 2, 0)
    datm(max_start_epoch=5, iterations=20, syn_steps=1).distill(task)
    assert {row["start_epoch"] for row in task.logged} == {0, 1, 2, 3, 4}
    assert task.made is not None
    ends = {epoch for _, epoch in task.made.read} - {-1}
    assert max(ends) == 6 == task.made.recipe.epochs


def test_the_experts_are_those_of_ftd_for_100_epochs() -> None:
    recipe = registry.get("methods", "datm")(zca=True).expert_recipe()
    assert recipe == TeacherRecipe(
        network="ConvNet",
        epochs=100,
        batch=256,
        lr=0.01,
        momentum=0.0,
        weight_decay=0.0,
        rho=0.01,
        alpha=0.3,
        adaptive=True,
        augment="dsa",
        held_out=0.0,
        zca=0.1,
        count=100,
    )


_COLUMNS = (
    *("network", "syn_steps", "expert_epochs", "min_start_epoch", "first_max_start_epoch"),
    *("max_start_epoch", "expansion", "batch_syn", "image_lr", "step_size_lr", "label_lr", "threshold"),
    *("init", "label_init"),
)
_TABLE: dict[tuple[str, int], tuple[Any, ...]] = {
    ("cifar10", 1): ("ConvNet", 80, 2, 0, None, 4, None, 10, 100, 1e-7, 5, 1.1),
    ("cifar10", 10): ("ConvNet", 80, 2, 0, 10, 20, 1000, 100, 100, 1e-5, 2, 1),
    ("cifar10", 50): ("ConvNet", 80, 2, 0, 20, 40, 2000, 500, 1000, 1e-5, 2, 1),
    ("cifar10", 500): ("ConvNet", 40, 2, 40, None, 60, None, 1000, 50, 1e-5, 10, 1),
    ("cifar10", 1000): ("ConvNet", 100, 2, 40, None, 60, None, 1000, 50, 1e-5, 10, 1),
    ("cifar100", 1): ("ConvNet", 40, 3, 0, 10, 20, 1000, 100, 1000, 1e-5, 10, 1),
    ("cifar100", 10): ("ConvNet", 80, 2, 0, 30, 50, 2000, 1000, 1000, 1e-5, 10, 1),
    ("cifar100", 50): ("ConvNet", 80, 2, 20, None, 70, None, 1000, 1000, 1e-5, 10, 1, "real", "one"),
    ("cifar100", 100): ("ConvNet", 80, 2, 30, None, 70, None, 1000, 50, 1e-5, 10, 1),
    ("tiny_imagenet", 1): ("ConvNetD4", 40, 2, 0, 15, 20, 2000, 200, 10000, 1e-4, 10, 1),
    ("tiny_imagenet", 10): ("ConvNetD4", 40, 2, 10, None, 50, None, 500, 100, 1e-4, 10, 1),
    ("tiny_imagenet", 50): ("ConvNetD4", 20, 2, 40, None, 70, None, 1000, 100, 1e-4, 10, 1),
}


@pytest.mark.parametrize(("dataset", "ipc"), list(_TABLE))
def test_recipes_are_the_corrected_configurations(dataset: str, ipc: int) -> None:
    found = registry.resolve_recipe("datm", "authors", dataset, ipc)
    made = registry.get("methods", "datm")(**found.settings)
    row = _TABLE[dataset, ipc]
    wanted = dict(zip(_COLUMNS, row + ("correct", "correct")[: len(_COLUMNS) - len(row)], strict=True))
    for name, value in wanted.items():
        if value is not None or name != "expansion":
            assert getattr(made, name) == value, name
    assert (made.iterations, made.step_size, made.momentum, made.label_momentum) == (10001, 0.01, 0.5, 0.9)
    assert made.zca and (made.experts, made.train_epochs, made.train_lr) == (100, 100, 0.01)


def test_every_row_of_the_authors_is_in_the_table() -> None:
    rows = {(d, i) for recipe, d, i in registry.recipes("datm") if recipe == "authors"}
    assert rows == set(_TABLE)
    corrected = {k[1:] for k, row in registry.recipes("datm").items() if "corrected" in row["source"]}
    assert corrected == {("cifar10", 1), ("cifar10", 10), ("cifar100", 1)}


def test_digits_start_inside_their_experts() -> None:
    for ipc in (1, 10):
        found = registry.resolve_recipe("datm", "digits", "digits", ipc)
        made = registry.get("methods", "datm")(**found.settings)
        made.check(ExpertTask(data.load("digits").train, ipc, 0))
        ends = {made.starts(it)[1] - 1 + made.expert_epochs for it in range(made.iterations)}
        assert found.note == "" and max(ends) <= made.train_epochs == made.expert_recipe().epochs
