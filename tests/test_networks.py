"""Networks on real images: GSAM, penalties, factors, whitening, subsets, snapshots, and going on after a kill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench import store
from ddbench.contract import ImageData, RealData, TeacherRecipe
from ddbench.data import fit_zca
from ddbench.nets.build import build
from ddbench.nets.flat import Flat
from ddbench.seeding import Generators
from ddbench.train import networks, students
from ddbench.train.engine import SGD, Crew, EngineOptions, Many, One, Run
from ddbench.train.experts import make_experts
from ddbench.train.networks import (
    Job,
    Outcome,
    address,
    ascent,
    decomposed,
    find_direction,
    gradient_penalty,
    input_space,
    lr_at,
    split,
    train_group,
)
from ddbench.train.students import Feed, Step
from ddbench.trainplan import TrainPlan

RECIPE = TeacherRecipe(
    network="ConvNetD1W8", epochs=4, batch=10, lr=0.05, augment="dsa", mix="cutmix", held_out=0.0, count=3
)  # 36 images: the last batch has 6
GSAM = replace(RECIPE, rho=0.3, alpha=0.4)


def close(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.allclose(one[k], two[k], rtol=1e-4, atol=2e-5) for k in one)


def trained(job: Job) -> list[Outcome]:
    return [o for group in job.groups(range(job.recipe.count)) for o in train_group(job, group)]


class Kept:
    """A hook that keeps what it hears; ``pack`` goes to disk and back."""

    def __init__(self, folder: Path | None = None) -> None:
        self.vectors: dict[int, Tensor] = {}
        self.copies: dict[int, Tensor] = {}
        self.packs: dict[int, Any] = {}
        self.folder = folder

    def __call__(self, epoch: int, vectors: Callable[[], Tensor], pack: Callable[[], dict[str, Any]]) -> None:
        self.vectors[epoch] = vectors()
        self.copies[epoch] = self.vectors[epoch].clone()
        if self.folder is not None:
            path = self.folder / f"{epoch}.safetensors"
            store.save_state(path, pack())
            self.packs[epoch] = store.load_state(path)


@pytest.fixture
def train(gauss3: RealData, fresh_cache: Path) -> ImageData:
    return gauss3.train


# ------------------------------------------------------------------------------------------------ GSAM


CURVATURE = torch.tensor([1.0, 3.0], dtype=torch.float64)
W = torch.tensor([1.0, 2.0], dtype=torch.float64)


def direction(w: Tensor, rho: float, alpha: float, adaptive: bool) -> Tensor:
    """Of f(w) = 0.5 * (w1^2 + 3 * w2^2)."""
    g = CURVATURE * w
    return decomposed(g, CURVATURE * (w + ascent(w, g, rho, adaptive)), alpha)


@pytest.mark.parametrize(
    ("adaptive", "alpha", "expected", "after"),
    [
        (True, 0.4, (0.921197, 9.003578), (0.907880, 1.099642)),
        (True, 0.3, (0.951279, 9.000093), (0.904872, 1.099991)),
        (True, 1.0, (0.740709, 9.024489), (0.925929, 1.097551)),
        (True, 0.0, (1.041523, 8.989637), (0.895848, 1.101036)),
        (False, 0.4, (1.030530, 7.487067), (0.896947, 1.251293)),
        (False, 0.0, (1.082199, 7.479591), (0.891780, 1.252041)),
    ],
)
def test_gsam_has_the_directions_of_the_spec(
    adaptive: bool, alpha: float, expected: tuple[float, float], after: tuple[float, float]
) -> None:
    found = direction(W, 0.5, alpha, adaptive)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert (W - 0.1 * found).tolist() == pytest.approx(after, abs=1e-6)


@pytest.mark.parametrize("adaptive", [True, False])
def test_gsam_of_several_networks_at_once_is_that_of_each(adaptive: bool) -> None:
    many = torch.stack([W, -3 * W, torch.tensor([0.1, 5.0], dtype=torch.float64)])
    at_once = direction(many, 0.5, 0.4, adaptive)
    assert torch.allclose(at_once, torch.stack([direction(w, 0.5, 0.4, adaptive) for w in many]))


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_without_an_ascent_gsam_is_sgd_for_every_alpha(alpha: float) -> None:
    assert torch.allclose(direction(W, 1e-9, alpha, True), CURVATURE * W, rtol=0, atol=1e-7)


def test_gsam_takes_away_what_is_orthogonal_to_the_gradient_after_the_ascent() -> None:
    rng = torch.Generator().manual_seed(0)
    g, ascended = torch.randn(2, 5, 40, dtype=torch.float64, generator=rng)
    taken = ascended - decomposed(g, ascended, 1.0)
    assert (
        float(((taken * ascended).sum(-1) / (taken.norm(dim=-1) * ascended.norm(dim=-1))).abs().max()) < 1e-9
    )
    assert torch.equal(decomposed(g, ascended, 0.0), ascended)


def test_a_gradient_of_zero_moves_nothing() -> None:
    zero = torch.zeros(3, 4)
    assert not ascent(torch.ones(3, 4), zero, 0.5, True).any() and not decomposed(zero, zero, 1.0).any()


def crew_of(network: str, shape: tuple[int, int, int], many: int) -> Crew:
    run = Run(network, shape, 3, TrainPlan(epochs=1, batch=6), EngineOptions(precision="float64"),
              torch.device("cpu"), False, "none", many)  # fmt: skip
    return Many(run) if many > 1 else One(run)


def hand_written(
    net: nn.Module, x: Tensor, y: Tensor, clean: Tensor, recipe: TeacherRecipe, factor: float
) -> Tensor:
    """Gradients of one network by the spec, parameter by parameter; the loss before the ascent."""
    parameters = list(net.parameters())

    def gradients() -> tuple[Tensor, list[Tensor]]:
        loss = F.cross_entropy(net(x), y)
        total = factor * loss
        if recipe.gradient_penalty:
            z = clean.clone().requires_grad_()
            (u,) = torch.autograd.grad(net(z).sum(), z, create_graph=True)
            total = total + recipe.gradient_penalty * ((u**2).sum(1).sqrt() - 1).pow(2).mean()
        return loss.detach(), list(torch.autograd.grad(total, parameters))

    loss, g = gradients()
    if recipe.rho:
        with torch.no_grad():
            scale = [p.abs() if recipe.adaptive else torch.ones_like(p) for p in parameters]
            norm = sum(float(((s * d) ** 2).sum()) for s, d in zip(scale, g, strict=True)) ** 0.5
            ascents = [recipe.rho / (norm + 1e-12) * s**2 * d for s, d in zip(scale, g, strict=True)]
            for p, e in zip(parameters, ascents, strict=True):
                p.add_(e)
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for m in norms:
            m.momentum = 0.0
        _, h = gradients()
        for m in norms:
            m.momentum = 0.1
        with torch.no_grad():
            for p, e in zip(parameters, ascents, strict=True):
                p.sub_(e)
        inner = sum(float((a * b).sum()) for a, b in zip(g, h, strict=True))
        long_g, long_h = (sum(float((a**2).sum()) for a in part) ** 0.5 for part in (g, h))
        cosine = inner / (long_g * long_h + 1e-12)
        g = [
            b - recipe.alpha * (a - cosine * long_g * b / (long_h + 1e-12)) for a, b in zip(g, h, strict=True)
        ]
    for p, d in zip(parameters, g, strict=True):
        p.grad = d
    return loss


@pytest.mark.parametrize(
    ("settings", "network"),
    [
        (dict(rho=0.2, alpha=0.4), "ConvNetD1W4"),
        (dict(rho=0.2, alpha=1.0, adaptive=False), "ConvNetD2W4"),
        (dict(rho=0.2, alpha=0.4), "ConvNetD1W4BN"),
        (dict(gradient_penalty=2.0), "ConvNetD1W4"),
        (dict(rho=0.2, gradient_penalty=2.0), "ConvNetD1W4"),
    ],
    ids=["adaptive", "plain norm", "batch norm", "penalty", "both"],
)
def test_every_update_is_that_of_a_loop_written_by_hand(settings: dict[str, Any], network: str) -> None:
    recipe = replace(RECIPE, momentum=0.9, **settings)
    shape, rng = (3, 8, 8), torch.Generator().manual_seed(0)
    steps = []
    for _ in range(3):
        x, clean = (torch.randn(3, 6, *shape, dtype=torch.float64, generator=rng) for _ in range(2))
        steps.append((x, torch.randint(0, 3, (3, 6), generator=rng), clean))
    twins, expected = [], []
    for seed in range(3):
        net = build(network, shape, 3, Generators(seed)("weights")).double().train()
        optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
        told = []
        for x, y, clean in steps:
            told.append(hand_written(net, x[seed], y[seed], clean[seed], recipe, 0.5))
            optimiser.step()
        twins.append({name: t.detach() for name, t in net.state_dict().items()})
        expected.append(told)
    for groups in ([[0, 1, 2]], [[0], [1], [2]]):
        for seeds in groups:
            crew = crew_of(network, shape, len(seeds))
            tensors = [p for _, p in crew.start([Generators(seed) for seed in seeds])]
            updates = SGD([{"params": tensors, "weight_decay": 1e-3}], 0.1, 0.9, nesterov=False)
            for at, (x, y, clean) in enumerate(steps):
                step = Step(0, False, x[seeds], y[seeds], None, "none", None, clean[seeds])
                loss = find_direction(crew, tensors, step, recipe, 0.5, len(seeds) > 1)
                assert loss.tolist() == pytest.approx([float(expected[seed][at]) for seed in seeds], abs=1e-9)
                updates.step()
                updates.zero_grad()
            for seed, state in zip(seeds, crew.states(), strict=True):
                for name, t in twins[seed].items():
                    if name.endswith("num_batches_tracked"):
                        assert int(state[name]) == 3  # one a step, ascent or not
                    else:
                        assert torch.allclose(state[name], t, rtol=1e-8, atol=1e-10), name


@pytest.mark.parametrize("network", ["ConvNetD1W8", "ConvNetD1W4BN", "MLP"])
def test_gsam_trains_a_network_alike_alone_and_beside_others(
    train: ImageData, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(GSAM, network=network)
    together = trained(Job(train, recipe, "cpu"))
    monkeypatch.setattr(networks, "STACK_BELOW", 0)
    for one, other in zip(together, trained(Job(train, recipe, "cpu")), strict=True):
        assert close(one.state, other.state) and one.accuracy == other.accuracy


def test_gsam_is_not_sgd(train: ImageData) -> None:
    (plain, *_), (ascended, *_) = (trained(Job(train, r, "cpu")) for r in (RECIPE, GSAM))
    assert not close(plain.state, ascended.state)
    (barely, *_) = trained(Job(train, replace(GSAM, rho=1e-7), "cpu"))
    assert close(plain.state, barely.state)


# ------------------------------------------------------------------------------------------------ penalty, factors


def test_the_penalty_of_a_linear_map_is_that_of_the_spec() -> None:
    weights = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)
    x = torch.randn(1, 5, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = gradient_penalty(lambda z: z.flatten(2) @ weights.T, x).detach()
    assert found.shape == (1,) and 2 * float(found) == pytest.approx(1.288897, abs=1e-6)


def test_the_penalty_is_a_mean_over_pixels_of_each_network_apart() -> None:
    crew = crew_of("ConvNetD1W4", (3, 8, 8), 2)
    crew.start([Generators(0), Generators(1)])
    x = torch.randn(2, 4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    both = gradient_penalty(crew.logits, x).detach()
    for seed in range(2):
        alone = crew_of("ConvNetD1W4", (3, 8, 8), 1)
        alone.start([Generators(seed)])
        own = gradient_penalty(alone.logits, x[seed : seed + 1]).detach()
        assert float(both[seed]) == pytest.approx(float(own))


def test_a_pixel_without_any_gradient_costs_one_and_its_penalty_has_a_gradient() -> None:
    weights = torch.zeros(2, 3, requires_grad=True)
    found = gradient_penalty(lambda z: z.flatten(2) @ weights.T, torch.ones(1, 4, 3, 1, 1))
    found.sum().backward()
    assert (
        float(found.detach()) == 1 and weights.grad is not None and bool(torch.isfinite(weights.grad).all())
    )


def test_a_penalty_without_the_clean_batch_is_refused() -> None:
    crew = crew_of("ConvNetD1W4", (3, 8, 8), 1)
    tensors = [p for _, p in crew.start([Generators(0)])]
    step = Step(0, True, torch.zeros(1, 6, 3, 8, 8).double(), torch.zeros(1, 6).long(), None, "none", None)
    with pytest.raises(ValueError, match="a gradient penalty needs the batch without augmentation"):
        find_direction(crew, tensors, step, replace(RECIPE, gradient_penalty=2.0), 1.0, False)


@pytest.mark.parametrize("window", [0, 8])
def test_the_clean_batch_is_the_augmented_one_before_its_augmentation(
    train: ImageData, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(students._WINDOW_MIB, "cpu", window)
    job = Job(train, RECIPE, "cpu")
    cpu = torch.device("cpu")
    feed = Feed(job.items, job.plan, [Generators(0), Generators(1)], cpu, torch.float32, clean=True)
    inputs = train.space.real_to_input(train.images)
    for g in range(2):
        order = torch.randperm(36, generator=Generators(g)("order"))
        seen = torch.cat([step.clean[g] for step in feed if step.clean is not None])
        assert torch.equal(seen, inputs[order])
        feed = Feed(job.items, job.plan, [Generators(0), Generators(1)], cpu, torch.float32, clean=True)
    assert any(not torch.equal(step.clean, step.inputs) for step in feed if step.clean is not None)
    plain = Feed(job.items, job.plan, [Generators(0)], cpu, torch.float32)
    assert all(step.clean is None for step in plain)


def test_early_factors_scale_the_loss_of_their_epochs_only(train: ImageData) -> None:
    plain = replace(RECIPE, momentum=0.0, weight_decay=0.0, epochs=3, count=1)
    kept = {name: Kept() for name in ("factors", "slow", "fast")}
    for name, recipe in (
        ("factors", replace(plain, early_factors=(0.5, 0.5))),
        ("slow", replace(plain, lr=0.025)),
        ("fast", plain),
    ):
        train_group(Job(train, recipe, "cpu"), [0], kept[name])
    factors, slow, fast = (kept[name].vectors for name in ("factors", "slow", "fast"))
    assert torch.allclose(factors[2], slow[2], atol=1e-6)  # without momentum a factor is one on the rate
    moved = (factors[3] - factors[2]).norm()
    assert moved > 1.5 * (slow[3] - slow[2]).norm() and not torch.allclose(factors[1], fast[1], atol=1e-4)


@pytest.mark.parametrize("reset", [False, True])
def test_a_milestone_drops_the_momentum_where_the_recipe_says_so(train: ImageData, reset: bool) -> None:
    recipe = replace(
        RECIPE, momentum=0.9, milestones=(2,), gamma=0.5, augment="none", mix="none", reset_optimiser=reset, count=1
    )  # fmt: skip
    (made,) = trained(Job(train, recipe, "cpu"))
    twins = {}
    for dropped in (False, True):
        chance = Generators(recipe.seed, "teachers", 0)
        net = build(recipe.network, train.shape, train.classes, chance("weights"))
        for epoch in range(recipe.epochs):
            if epoch == 0 or (dropped and epoch == 2):
                optimiser = torch.optim.SGD(net.parameters(), 0.05, 0.9, weight_decay=recipe.weight_decay)
            optimiser.param_groups[0]["lr"] = 0.05 if epoch < 2 else 0.025
            for rows in torch.randperm(36, generator=chance("order")).split(recipe.batch):
                optimiser.zero_grad()
                inputs = train.space.real_to_input(train.images[rows])
                F.cross_entropy(net(inputs), train.labels[rows]).backward()
                optimiser.step()
        twins[dropped] = net.state_dict()
    assert close(made.state, twins[reset]) and not close(made.state, twins[not reset])


def test_a_penalised_training_is_never_compiled_and_gsam_counts_two_passes(
    train: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = []

    def told(steps: float, multiply_adds: float) -> float:
        seconds.append(steps)
        return 1e9

    monkeypatch.setattr(networks, "loop_s", told)
    assert Job(train, RECIPE, "cpu").compiled and Job(train, GSAM, "cpu").compiled
    assert not Job(train, replace(RECIPE, gradient_penalty=1.0), "cpu").compiled
    assert seconds == [3 * 4 * 4, 2 * 3 * 4 * 4]


def test_a_penalty_makes_the_gradient_of_the_logits_nearer_to_one(train: ImageData) -> None:
    found = []
    for weight in (0.0, 2.0):
        job = Job(train, replace(RECIPE, gradient_penalty=weight, count=1, epochs=8, mix="none"), "cpu")
        (made,) = trained(job)
        net = build(job.network, train.shape, train.classes)
        net.load_state_dict(made.state)
        penalty = gradient_penalty(lambda z, net=net: net(z[0])[None], job.items.stored[None])
        found.append(float(penalty.detach()))
    assert found[1] < 0.7 * found[0]


# ------------------------------------------------------------------------------------------------ images


def test_a_part_of_every_class_is_drawn_by_the_seed_before_any_is_held_out(train: ImageData) -> None:
    kept, held = split(train, 0, 0.25, 4)
    assert train.labels[kept].bincount().tolist() == [3, 3, 3]
    assert train.labels[held].bincount().tolist() == [1, 1, 1] and not set(kept.tolist()) & set(held.tolist())
    every, same = split(train, 0, 0, 4)
    assert every is same and every.tolist() == sorted([*kept.tolist(), *held.tolist()])
    assert split(train, 1, 0, 4)[0].tolist() != every.tolist()
    assert split(train, 0, 0, 99)[0].tolist() == list(range(36))  # fewer where a class has fewer
    with pytest.raises(ValueError, match=r"class 0 of gauss3 has 1 training images \(per_class is 1\)"):
        split(train, 0, 0.1, 1)


def test_images_outside_the_part_do_not_touch_the_networks(train: ImageData) -> None:
    recipe = replace(RECIPE, per_class=5, count=1)
    kept, _ = split(train, recipe.seed, 0, 5)
    job = Job(train, recipe, "cpu")
    assert len(job.items) == 15 and job.items.stored.shape == (15, *train.shape)
    others = torch.ones(36, dtype=torch.bool)
    others[kept] = False
    images = train.images.clone()
    images[others] = 0
    blank = Job(replace(train, images=images, fingerprint=""), recipe, "cpu")
    one, two = trained(job)[0], trained(blank)[0]
    assert all(torch.equal(one.state[k], two.state[k]) for k in one.state) and one.accuracy == two.accuracy


@pytest.mark.parametrize("mib", [0, 256])
def test_whitened_networks_see_pixels_whitened_by_a_fit_on_all_images(
    train: ImageData, mib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(students.CONVERT_MIB, "cpu", mib)
    recipe = replace(RECIPE, zca=0.1, per_class=5, augment="none", mix="none", count=1)
    job = Job(train, recipe, "cpu")
    zca = fit_zca(train, 0.1)
    assert job.space.zca is not None and job.space.zca.hash == zca.hash and zca.fitted_on == train.fingerprint
    assert job.space.mean == (0.0,) * 3 and job.space.std == (1.0,) * 3
    kept, _ = split(train, 0, 0, 5)
    expected = zca(train.images[kept].float() / 255)
    found = job.to_input(job.items.stored)
    assert torch.allclose(found, expected, atol=1e-5)
    assert trained(job)[0].accuracy > 0.9
    with pytest.raises(
        ValueError, match=r"TeacherRecipe\.zca is 0\.1 beside mean .*: leave mean and std out"
    ):
        input_space(train, replace(recipe, mean=(0.5,) * 3, std=(0.5,) * 3))
    with pytest.raises(ValueError, match=r"TeacherRecipe\.zca is 0\.1 beside mean None and std"):
        input_space(train, replace(recipe, std=(0.5,) * 3))


def test_a_last_batch_of_one_image_is_left_out_and_batches_of_one_are_not(train: ImageData) -> None:
    for batch, sizes in ((7, [7] * 5), (35, [35]), (36, [36]), (1, [1] * 36), (8, [8, 8, 8, 8, 4])):
        job = Job(train, replace(RECIPE, batch=batch), "cpu")
        feed = Feed(job.items, job.plan, [Generators(0)], torch.device("cpu"), torch.float32)
        assert [step.inputs.shape[1] for step in feed] == sizes


# ------------------------------------------------------------------------------------------------ snapshots


@pytest.mark.parametrize(
    "recipe", [RECIPE, replace(GSAM, network="ConvNetD2W4", momentum=0.0)], ids=["sgd", "gsam"]
)
@pytest.mark.parametrize("stacked", [True, False])
def test_snapshots_are_the_start_and_every_epoch_in_memory_of_their_own(
    train: ImageData, recipe: TeacherRecipe, stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not stacked:
        monkeypatch.setattr(networks, "STACK_BELOW", 0)
    job, flat = Job(train, recipe, "cpu"), Flat(recipe.network, train.shape, train.classes)
    seen = 0
    for group in job.groups(range(3)):
        kept = Kept()
        outcomes = train_group(job, group, kept)
        assert list(kept.vectors) == [0, 1, 2, 3, 4]
        for epoch, vectors in kept.vectors.items():
            assert torch.equal(vectors, kept.copies[epoch])  # no view of what went on training
            assert vectors.shape == (len(group), flat.size) and vectors.dtype == torch.float32
            if epoch:
                assert bool((vectors != kept.vectors[epoch - 1]).any(1).all())
        for at, (index, outcome) in enumerate(zip(group, outcomes, strict=True)):
            fresh = build(job.network, train.shape, 3, Generators(recipe.seed, "teachers", index)("weights"))
            assert torch.equal(kept.vectors[0][at], flat.vector(dict(fresh.named_parameters())))
            assert torch.equal(kept.vectors[0][at], flat.vector(outcome.initial))
            assert torch.equal(kept.vectors[4][at], flat.vector(outcome.state))
            assert 0 <= outcome.accuracy <= 1 and outcome.train_s > 0 and outcome.finite
        seen += len(group)
    assert seen == 3


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize(
    "recipe",
    [
        replace(RECIPE, momentum=0.9, milestones=(2,)),
        replace(GSAM, momentum=0.9, milestones=(3,), reset_optimiser=True, early_factors=(0.5, 0.7)),
        replace(RECIPE, momentum=0.0, mix="none", gradient_penalty=0.5, epochs=3),
    ],
    ids=["momentum", "gsam", "penalty"],
)
def test_a_training_goes_on_after_any_epoch_to_the_same_bits(
    train: ImageData, recipe: TeacherRecipe, stacked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not stacked:
        monkeypatch.setattr(networks, "STACK_BELOW", 0)
    group = [1, 2] if stacked else [1]
    whole = Kept(tmp_path)
    full = train_group(Job(train, recipe, "cpu"), group, whole)
    for epoch in range(recipe.epochs + 1):
        later = Kept()
        outcomes = train_group(Job(train, recipe, "cpu"), group, later, whole.packs[epoch])
        assert list(later.vectors) == list(range(epoch + 1, recipe.epochs + 1))
        assert all(torch.equal(v, whole.vectors[e]) for e, v in later.vectors.items())
        for one, other in zip(full, outcomes, strict=True):
            assert one.accuracy == other.accuracy
            for a, b in ((one.state, other.state), (one.initial, other.initial)):
                assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_snapshots_change_nothing(train: ImageData) -> None:
    job = Job(train, GSAM, "cpu")
    seen, plain = train_group(job, [0, 1], Kept()), train_group(job, [0, 1])
    for one, other in zip(seen, plain, strict=True):
        assert all(torch.equal(one.state[k], other.state[k]) for k in one.state)


def test_what_was_saved_of_other_networks_is_refused(train: ImageData, tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    train_group(Job(train, RECIPE, "cpu"), [0, 1], kept)
    with pytest.raises(
        ValueError,
        match=r"saved is of networks \[0, 1\] after epoch 2, and networks \[0, 2\] of 4 .*remove it",
    ):
        train_group(Job(train, RECIPE, "cpu"), [0, 2], None, kept.packs[2])
    with pytest.raises(ValueError, match=r"after epoch 4, and networks \[0, 1\] of 3 epochs are to go on"):
        train_group(Job(train, replace(RECIPE, epochs=3), "cpu"), [0, 1], None, kept.packs[4])


def test_networks_with_running_statistics_have_no_snapshots_and_strangers_do_not_stack(
    train: ImageData,
) -> None:
    with pytest.raises(ValueError, match=r"ConvNetD1W4BN has running statistics \(batch norm\)"):
        train_group(Job(train, replace(RECIPE, network="ConvNetD1W4BN"), "cpu"), [0], Kept())
    with pytest.raises(ValueError, match="2 networks of ResNet18 at once; expected one, as job.groups gives"):
        train_group(Job(train, replace(RECIPE, network="ResNet18"), "cpu"), [0, 1])


def test_at_radius_zero_the_other_settings_of_gsam_are_no_part_of_the_address(train: ImageData) -> None:
    def at(**change: Any) -> str:
        return address(train, replace(RECIPE, **change), train.space, "cpu")

    assert at() == at(alpha=0.9) == at(adaptive=False) == at(alpha=0.0, adaptive=False)
    found = [at(), at(rho=0.1), at(rho=0.1, alpha=0.9), at(rho=0.1, adaptive=False)]
    assert len(set(found)) == 4
    assert address(train, RECIPE, train.space, "cpu", index=1) != at()


def test_the_rate_of_an_epoch_falls_after_its_milestone() -> None:
    ast = replace(RECIPE, epochs=50, lr=0.003, milestones=(27,), gamma=0.6)
    assert [lr_at(ast, epoch) for epoch in (0, 26, 27, 49)] == pytest.approx([0.003, 0.003, 0.0018, 0.0018])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(rho=-0.1), r"TeacherRecipe\.rho is -0\.1; expected a number, 0 or more"),
        (dict(rho=float("nan")), r"TeacherRecipe\.rho is nan; expected a number"),
        (dict(alpha=-1.0), r"TeacherRecipe\.alpha is -1\.0; expected a number, 0 or more"),
        (dict(gradient_penalty=-2.0), r"TeacherRecipe\.gradient_penalty is -2\.0; expected a number"),
        (
            dict(early_factors=(0.5, -0.5)),
            r"TeacherRecipe\.early_factors is \(0\.5, -0\.5\); expected numbers",
        ),
        (dict(zca=0.0), r"TeacherRecipe\.zca is 0\.0; expected a positive eps"),
        (dict(per_class=0), r"TeacherRecipe\.per_class is 0; expected at least 1 image a class, or None"),
        (dict(storage="bf16"), r"TeacherRecipe\.storage is 'bf16'; expected fp32 or fp16"),
        (dict(count=0), r"TeacherRecipe\.count is 0; expected at least 1"),
        (dict(lr=0.0), r"TeacherRecipe\.lr is 0\.0; expected a learning rate above 0"),
        (dict(lr=-0.1), r"TeacherRecipe\.lr is -0\.1; expected a learning rate above 0"),
        (dict(lr=float("nan")), r"TeacherRecipe\.lr is nan; expected a finite number"),
        (dict(lr=float("inf")), r"TeacherRecipe\.lr is inf; expected a finite number"),
        (dict(momentum=1.0), r"TeacherRecipe\.momentum is 1\.0; expected a number in \[0, 1\)"),
        (dict(momentum=-0.1), r"TeacherRecipe\.momentum is -0\.1; expected a number in \[0, 1\)"),
        (dict(weight_decay=-1e-4), r"TeacherRecipe\.weight_decay is -0\.0001; expected 0 or more"),
        (dict(weight_decay=float("nan")), r"TeacherRecipe\.weight_decay is nan; expected a finite number"),
    ],
    ids=str,
)
def test_numbers_of_a_recipe_that_make_no_sense_are_refused(
    train: ImageData, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Job(train, replace(RECIPE, **change), "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", [RECIPE, replace(GSAM, gradient_penalty=2.0)], ids=["sgd", "all"])
def test_cuda_makes_the_host_wait_for_nothing_inside_an_epoch(
    train: ImageData, recipe: TeacherRecipe
) -> None:
    job = Job(train, replace(recipe, network="ConvNetD2W8BN"), "cuda")
    train_group(job, [0])  # libraries set themselves up
    crew = One(job.run(1))
    tensors = [p for _, p in crew.start([Generators(0)])]
    updates = SGD([{"params": tensors, "weight_decay": 0.0}], 0.01, 0.9, nesterov=False)
    feed = Feed(job.items, job.plan, [Generators(1)], job.device, torch.float32, clean=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in feed:
            find_direction(crew, tensors, step, recipe, 0.5, False)
            updates.step()
            updates.zero_grad()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ------------------------------------------------------------------------------------------------ adam


def test_a_training_with_adam_cannot_be_packed_and_experts_refuse_it(train: ImageData) -> None:
    adam = replace(RECIPE, optimiser="adam", count=1)
    with pytest.raises(
        ValueError, match="training with adam cannot be packed to go on later; expected optimiser sgd"
    ):
        train_group(Job(train, adam, "cpu"), [0], lambda epoch, vectors, pack: pack())
    with pytest.raises(
        ValueError, match=r"optimiser is 'adam', but experts are trained, by sgd alone: their momentum"
    ):
        make_experts(train, adam, "cpu")
    public = replace(RECIPE, network="torchvision:resnet18", weights="IMAGENET1K_V1", count=1)
    with pytest.raises(ValueError, match=r"weights is 'IMAGENET1K_V1', but experts are trained"):
        make_experts(train, public, "cpu")


def test_what_was_saved_does_not_go_on_with_adam(train: ImageData) -> None:
    sgd = replace(RECIPE, count=1, epochs=1)
    packs: list[dict[str, Any]] = []
    train_group(Job(train, sgd, "cpu"), [0], lambda epoch, vectors, pack: packs.append(pack()))
    with pytest.raises(ValueError, match="training with adam cannot go on from what was saved"):
        train_group(Job(train, replace(sgd, optimiser="adam"), "cpu"), [0], None, packs[0])
