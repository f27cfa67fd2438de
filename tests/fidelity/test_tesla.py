"""TESLA against the text and the commands of its paper and code (arXiv:2211.10586).

The numbers of its gradient are checked in ``tests/test_trajectories.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import blobs
from plain_trajectories import ExpertTask, MadeExperts, trained_experts
from torch import Tensor

from ddbench import registry
from ddbench.api import evaluate
from ddbench.augment.dsa import DSA
from ddbench.budget import byte_count
from ddbench.contract import DistilledSet
from ddbench.matching import trajectory_matching
from ddbench.nets.build import build
from ddbench.seeding import Generators
from ddbench.store import RunFolder

TRAIN = blobs("three", (1, 8, 8), 3, (12, 2), flip=False, seed=3).train
SMALL: dict[str, Any] = dict(
    network="ConvNetD1W4",
    iterations=4,
    syn_steps=3,
    expert_epochs=2,
    max_start_epoch=4,
    experts=2,
    train_epochs=6,
    train_lr=0.1,
    step_size=0.05,
    step_size_lr=1e-4,
    image_lr=50.0,
)


def made(name: str = "tesla", **settings: Any) -> Any:
    return registry.get("methods", name)(**{**SMALL, **settings})


def distill(
    name: str = "tesla", seed: int = 5, task: ExpertTask | None = None, **settings: Any
) -> DistilledSet:
    return (task or ExpertTask(TRAIN, 2, seed)).run_method(made(name, **settings))


def soft(distilled: DistilledSet) -> Tensor:
    assert distilled.targets.kind == "probabilities" and distilled.targets.ids is None
    assert distilled.targets.soft is not None
    return distilled.targets.soft


def vector_logits(network: str, theta: Tensor, x: Tensor) -> Tensor:
    net, at, weights = build(network, TRAIN.shape, TRAIN.classes), 0, {}
    for name, p in net.named_parameters():
        weights[name] = theta[at : at + p.numel()].view(p.shape)
        at += p.numel()
    assert at == len(theta)
    return torch.func.functional_call(net, weights, (x,))


# ------------------------------------------------------------------------------------------------ the loop, written out


def twin(
    experts: MadeExperts, seed: int, method: Any, count: int
) -> list[tuple[float, Tensor, float, Tensor]]:
    """TESLA in two passes, from the closed form of the expanded square; (loss, images, step size, labels) an iteration."""
    rng = Generators(seed, "distil")
    pools = [TRAIN.of_class(c) for c in range(3)]
    first = torch.cat([pool[torch.randperm(len(pool), generator=rng("init"))[:2]] for pool in pools])
    images = experts.space.real_to_input(TRAIN.images[first])
    labels = torch.arange(3).repeat_interleave(2)
    beta, by_images, by_beta = method.step_size, torch.zeros_like(images), 0.0
    dsa = DSA.classic(TRAIN.flip) if method.augment == "dsa" else None
    size, order, found = method.batch_syn or len(images), [], []
    for _ in range(count):
        order = order or torch.randperm(len(experts), generator=rng("experts")).tolist()
        expert = order.pop(0)
        t = int(torch.randint(0, method.max_start_epoch, (), generator=rng("starts")))
        start, goal = experts.states[expert, t], experts.states[expert, t + method.expert_epochs]
        if method.soft_labels:
            labels = vector_logits(method.network, goal, images).softmax(1).detach()

        def gradient(theta: Tensor, x: Tensor, y: Tensor, graph: bool) -> Tensor:
            theta = theta.detach().requires_grad_()
            loss = F.cross_entropy(vector_logits(method.network, theta, x), y)
            return torch.autograd.grad(loss, theta, create_graph=graph)[0]

        chunks, chosen, draws = [], [], []
        for _ in range(method.syn_steps):
            chunks = chunks or list(torch.split(torch.randperm(len(images), generator=rng("batches")), size))
            chosen.append(chunks.pop())
        thetas, total = [start], torch.zeros_like(start)
        for i in chosen:
            x = images[i]
            if dsa is not None:
                draws.append(dsa.draw(len(x), TRAIN.shape, rng("augment")))
                x = dsa.apply(x, draws[-1])
            g = gradient(thetas[-1], x, labels[i], False)
            total, thetas = total + g, [*thetas, thetas[-1] - beta * g]
        way = (start - goal).square().sum()
        expanded = way - 2 * beta * (start - goal) @ total + beta**2 * total @ total
        pixels = torch.zeros_like(images)
        for n, i in enumerate(chosen):
            leaf = images.clone().requires_grad_()
            x = leaf[i] if dsa is None else dsa.apply(leaf[i], draws[n])
            g = gradient(thetas[n], x, labels[i], True)
            part = 2 / way * ((beta * (goal - start) + beta**2 * total) @ g)
            pixels += torch.autograd.grad(part, leaf)[0]
        slope = float((-2 * (start - goal) @ total + 2 * beta * total @ total) / way)
        by_images = method.momentum * by_images + pixels
        by_beta = method.momentum * by_beta + slope
        images, beta = images - method.image_lr * by_images, beta - method.step_size_lr * by_beta
        found.append((float(expanded / way), images, beta, labels))
    return found


@pytest.mark.parametrize("augment", ["dsa", "none"])
@pytest.mark.parametrize("batch_syn", [0, 4])
@pytest.mark.parametrize("soft_labels", [False, True])
def test_five_iterations_equal_the_two_passes_written_out(
    augment: str, batch_syn: int, soft_labels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = made(iterations=5, augment=augment, batch_syn=batch_syn, soft_labels=soft_labels)
    task, seen = ExpertTask(TRAIN, 2, 5), []
    monkeypatch.setattr(task, "log", lambda **values: seen.append(float(values["loss"])))
    got = task.run_method(method)
    rows = twin(trained_experts(TRAIN, method.expert_recipe(), seed=5), 5, method, 5)
    assert seen == pytest.approx([row[0] for row in rows], rel=1e-3)
    _, images, beta, labels = rows[-1]
    assert torch.allclose(got.tensors["images"], images, rtol=0, atol=1e-4)
    assert got.program is not None and float(got.program.step_sizes) == pytest.approx(beta, rel=1e-5)
    assert not torch.allclose(images, rows[0][1], atol=0.05)  # something was learned, far above the tolerance
    if soft_labels:
        assert torch.allclose(soft(got), labels, rtol=0, atol=1e-5)


def test_with_several_steps_it_is_not_mtt_and_with_one_it_is() -> None:
    many, exact = distill().tensors["images"], distill("mtt").tensors["images"]
    assert not torch.allclose(many, exact, atol=1e-3)
    one, same = (distill(n, syn_steps=1).tensors["images"] for n in ("tesla", "mtt"))
    assert torch.allclose(one, same, rtol=0, atol=1e-6)
    assert torch.equal(distill(gradient="adjoint").tensors["images"], exact)


def test_its_first_loss_is_that_of_mtt() -> None:
    """The values agree, and only the gradients differ."""
    losses: dict[str, list[float]] = {"tesla": [], "mtt": []}
    for name, rows in losses.items():
        task = ExpertTask(TRAIN, 2, 5)
        task.log = lambda rows=rows, **values: rows.append(float(values["loss"]))  # type: ignore[method-assign]
        distill(name, task=task)
    assert losses["tesla"][0] == losses["mtt"][0] and losses["tesla"][-1] != losses["mtt"][-1]


def test_labels_are_hard_unless_asked_for() -> None:
    targets = distill().targets
    assert targets.soft is None and targets.ids is not None and targets.ids.tolist() == [0, 0, 1, 1, 2, 2]


# ------------------------------------------------------------------------------------------------ soft labels


def test_soft_labels_are_probabilities() -> None:
    labels = soft(distill(soft_labels=True))
    assert labels.shape == (6, 3) and labels.dtype == torch.float32
    assert torch.allclose(labels.sum(1), torch.ones(6), atol=1e-6) and bool((labels > 0).all())


def test_before_the_first_iteration_they_are_one_hot() -> None:
    assert torch.equal(
        soft(distill(soft_labels=True, iterations=0)), torch.eye(3).repeat_interleave(2, dim=0)
    )


@pytest.mark.parametrize("iterations", [1, 3])
def test_those_that_are_stored_come_from_the_last_goal_and_the_images_before_the_last_update(
    iterations: int,
) -> None:
    """Without augmentation (the student's is on), from the state where the segment ends."""
    task = ExpertTask(TRAIN, 2, 5)
    labels = soft(distill(task=task, soft_labels=True, iterations=iterations))
    before = distill(soft_labels=True, iterations=iterations - 1).tensors["images"]
    experts = task.made
    assert isinstance(experts, MadeExperts)
    (expert, start), (same, goal) = experts.read[-2:]
    assert same == expert and goal == start + 2
    said = vector_logits("ConvNetD1W4", experts.states[expert, goal], before).softmax(1)
    assert torch.allclose(labels, said, atol=1e-6)
    others = [
        vector_logits("ConvNetD1W4", experts.states[e, t], before).softmax(1)
        for e in range(2)
        for t in range(7)
        if (e, t) != (expert, goal)
    ]
    assert not any(torch.allclose(labels, other, atol=1e-4) for other in others)


def test_every_iteration_asks_the_network_of_its_own_segment_about_all_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Tensor, Tensor]] = []
    tesla = registry.get("methods", "tesla")
    module = __import__(tesla.__module__, fromlist=["answers"])
    answers = module.answers

    def told(flat: Any, state: Tensor, x: Tensor) -> Tensor:
        asked.append((state.clone(), x.clone()))
        assert not x.requires_grad
        out: Tensor = answers(flat, state, x)
        assert not out.requires_grad
        return out

    monkeypatch.setattr(module, "answers", told)
    task = ExpertTask(TRAIN, 2, 5)
    distill(task=task, soft_labels=True, batch_syn=4)
    experts = task.made
    assert isinstance(experts, MadeExperts) and len(asked) == 4
    ends = [experts.states[at] for at in experts.read[1:][1::2]]  # (0, 0) is read once before the loop
    for it, ((state, x), end) in enumerate(zip(tuple(asked), ends, strict=True)):
        assert torch.equal(state, end)
        assert torch.equal(
            x, distill(soft_labels=True, batch_syn=4, iterations=it).tensors["images"]
        )  # all, unaugmented


def test_images_get_no_gradient_through_their_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same labels given from outside move the images by the same step."""
    labels = soft(distill(soft_labels=True, iterations=1))
    method, task = made(soft_labels=True, iterations=1), ExpertTask(TRAIN, 2, 5)
    experts = task.experts(method.expert_recipe())
    first = distill(iterations=0).tensors["images"]
    fixed = trajectory_matching.match_trajectories(
        task, experts, method, first, labels, "probabilities"
    ).tensors["images"]
    assert torch.equal(fixed, distill(soft_labels=True, iterations=1).tensors["images"])
    assert not torch.allclose(fixed, distill(iterations=1).tensors["images"], atol=1e-3)


def test_a_killed_run_goes_on_with_its_labels(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    class Fragile(ExpertTask):
        def loop(self, total: int, state: Any = (), show: Any = None) -> Iterator[int]:
            for it in super().loop(total, state, show):
                if it == 3:
                    raise Killed
                yield it

    place: dict[str, Any] = dict(run=RunFolder(tmp_path), key="cell", checkpoint_every_s=0.0)
    with pytest.raises(Killed):
        distill(task=Fragile(TRAIN, 2, 5, **place), soft_labels=True)
    resumed, whole = (
        distill(task=ExpertTask(TRAIN, 2, 5, **place), soft_labels=True),
        distill(soft_labels=True),
    )
    assert resumed.card.cost.iterations == 4 and resumed.fingerprint() == whole.fingerprint()
    assert torch.equal(soft(resumed), soft(whole))


@pytest.mark.parametrize("soft_labels, word", [(False, "hard"), (True, "soft")])
def test_records_name_the_kind_of_labels_that_the_setting_made(soft_labels: bool, word: str) -> None:
    real = blobs("three", (1, 8, 8), 3, (12, 2), flip=False, seed=3)
    task = ExpertTask(real.train, 2, 5, card={"method": "tesla"})
    found = distill(task=task, soft_labels=soft_labels, iterations=1)
    (record,) = evaluate(
        found, dataset=real, protocol="quick", networks="ConvNetD1W4", repeats=1, device="cpu", quiet=True
    )
    assert record.cell.distil.method == "tesla" and record.labels == word


def test_bytes_count_the_labels() -> None:
    hard, given = byte_count(distill()), byte_count(distill(soft_labels=True))
    assert hard.labels == 6 and given.labels == 6 * 3 * 4
    assert given.images == hard.images and given.total - hard.total == 6 * 3 * 4 - 6


def test_a_mirrored_view_shows_every_image_with_its_label_twice() -> None:
    class Mirrored(ExpertTask):
        def view(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return torch.cat([images, images.flip(-1)]), torch.cat([labels, labels])

    wrapped = distill(task=Mirrored(TRAIN, 2, 5), soft_labels=True)
    assert soft(wrapped).shape == (6, 3)
    assert not torch.equal(wrapped.tensors["images"], distill(soft_labels=True).tensors["images"])


# ------------------------------------------------------------------------------------------------ settings

COMMANDS: dict[tuple[str, int], dict[str, Any]] = {
    ("cifar10", 1): dict(
        network="ConvNet", syn_steps=50, expert_epochs=2, max_start_epoch=5, lr_img=1000, step_size_lr=1e-7,
        step_size=0.01, batch_syn=0, zca=False, soft_labels=False, experts=100,
    ),
    ("cifar100", 50): dict(
        network="ConvNet", syn_steps=80, expert_epochs=2, max_start_epoch=40, lr_img=1000, step_size_lr=1e-5,
        step_size=0.01, batch_syn=125, zca=True, soft_labels=False, experts=100,
    ),
    ("imagenet1k", 1): dict(
        network="ConvNetD4", syn_steps=10, expert_epochs=3, max_start_epoch=10, lr_img=10000, step_size_lr=1e-4,
        step_size=0.01, batch_syn=100, zca=False, soft_labels=True, experts=50,
    ),
}  # fmt: skip


@pytest.mark.parametrize("where", COMMANDS)
def test_the_authors_recipes_are_their_commands_with_half_the_pixel_step(where: tuple[str, int]) -> None:
    row = dict(COMMANDS[where])
    found = registry.resolve_recipe("tesla", "authors", *where)
    assert found.note == "" and "halved" in found.source and "factor 2" in found.source
    method = registry.make("tesla", found.settings)
    assert method.image_lr == row.pop("lr_img") / 2
    assert {name: getattr(method, name) for name in row} == row
    assert (method.iterations, method.momentum, method.gradient) == (10001, 0.5, "tesla")
    assert (method.init, method.augment, method.train_epochs, method.train_batch) == ("real", "dsa", 50, 256)
    recipe = method.expert_recipe()
    assert (recipe.lr, recipe.momentum, recipe.weight_decay, recipe.rho) == (0.01, 0.0, 0.0, 0.0)


def test_there_are_no_other_authors_recipes() -> None:
    assert {key[1:] for key in registry.recipes("tesla") if key[0] == "authors"} == set(COMMANDS)
    assert {("digits", "digits", 1), ("digits", "digits", None)} < set(registry.recipes("tesla"))


def test_the_page_of_the_method_says_what_its_imagenet_row_needs() -> None:
    doc = " ".join(registry.facts("methods", "tesla").doc.split())
    assert "They have ImageNet-1K at 64 x 64" in doc and "drops the factor 2" in doc


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("soft_labels", [False, True])
def test_experts_that_are_too_short_are_refused(soft_labels: bool) -> None:
    with pytest.raises(ValueError, match=r"experts of 6 epochs are too short: .* needs 7; train them longer"):
        distill(max_start_epoch=6, soft_labels=soft_labels)


def test_a_step_size_that_turns_negative_is_an_error_with_its_cure() -> None:
    with pytest.raises(
        ValueError,
        match=r"learned step size is -\d.* expected a positive number: lower step_size_lr \(1000\)",
    ):
        distill(step_size_lr=1000.0, step_size=1.0, iterations=30)


@pytest.mark.parametrize("soft_labels", [False, True])
@pytest.mark.parametrize("network", ["ConvNetD1W4BN", "ResNet18BN"])
def test_running_statistics_are_refused(network: str, soft_labels: bool) -> None:
    with pytest.raises(ValueError, match=f"{network} has running statistics .*expected a network without"):
        distill(network=network, soft_labels=soft_labels)


def test_another_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="'exact'; expected one of adjoint, unroll, tesla"):
        distill(gradient="exact")
