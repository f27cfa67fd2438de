"""Teachers: what is trained, what is cached, what a damaged cache says."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F

from ddbench.augment.mix import CutMix, mixed_images
from ddbench.augment.named import augmentation
from ddbench.compute import compiler_works
from ddbench.contract import ImageData, RealData, Space, TeacherRecipe
from ddbench.nets.build import build
from ddbench.seeding import Generators
from ddbench.store import DamagedError, Lock
from ddbench.task import RunTask
from ddbench.train import distributed, engine, networks, students, teachers
from ddbench.train.networks import Job, input_space, lr_at, split
from ddbench.train.teachers import cached_state, class_features, embed_all, fingerprint, train_networks

RECIPE = TeacherRecipe(network="ConvNetD1W8", epochs=3, batch=8, lr=0.05)
POOL = TeacherRecipe(
    network="ConvNetD2W8",
    epochs=6,
    batch=8,
    lr=0.01,
    milestones=(4, 5),
    gamma=0.2,
    augment="diffaug:color_crop",
    mix="cutmix",
    held_out=0.0,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    count=3,
)
"""NCFM's pool, tiny."""


def plainly(train: ImageData, recipe: TeacherRecipe, index: int) -> tuple[torch.nn.Module, list[float]]:
    """One network of a recipe, trained by a loop that can be read; and the learning rate of every epoch."""
    chance = Generators(recipe.seed, "teachers", index)
    net = build(recipe.network, train.shape, train.classes, chance("weights"))
    space = Space("input", recipe.mean or train.mean, recipe.std or train.std)
    black = space.unit_to_input(torch.zeros(1, train.shape[0], 1, 1)).flatten()
    augment = augmentation(recipe.augment, train.flip, fill=black)
    mix = CutMix(recipe.mix_probability)
    decay, schedules = recipe.weight_decay, torch.optim.lr_scheduler
    optimiser: torch.optim.Optimizer
    if recipe.optimiser == "adam":
        optimiser = torch.optim.Adam(net.parameters(), recipe.lr, weight_decay=decay)
    else:
        optimiser = torch.optim.SGD(net.parameters(), recipe.lr, recipe.momentum, weight_decay=decay)
    if recipe.schedule == "cosine":
        half = recipe.period or recipe.epochs - recipe.warmup
        parts = [schedules.CosineAnnealingLR(optimiser, half)]
        if recipe.warmup:
            parts.insert(0, schedules.LinearLR(optimiser, recipe.warmup_from, total_iters=recipe.warmup))
        schedule = schedules.SequentialLR(optimiser, parts, [recipe.warmup][: len(parts) - 1])
    else:
        schedule = schedules.MultiStepLR(optimiser, list(recipe.milestones), recipe.gamma)
    kept, rates = split(train, recipe.seed, recipe.held_out)[0], []
    for _ in range(recipe.epochs):
        rates.append(optimiser.param_groups[0]["lr"])
        for rows in kept[torch.randperm(len(kept), generator=chance("order"))].split(recipe.batch):
            if len(rows) == 1:  # batch norm cannot train on it
                continue
            x, y = space.real_to_input(train.images[rows]), train.labels[rows]
            if augment is not None:
                x = augment.apply(x, augment.draw(len(x), train.shape, chance("augment")))
            if recipe.mix == "none" or (drawn := mix.draw(len(x), train.shape, chance("mix"))) is None:
                loss = F.cross_entropy(net(x), y)
            else:
                logits = net(mixed_images(x, drawn))
                loss = drawn.share * F.cross_entropy(logits, y) + (1 - drawn.share) * F.cross_entropy(
                    logits, y[drawn.partners]
                )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    return net.eval(), rates


def close(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.allclose(one[k], two[k], rtol=1e-4, atol=2e-5) for k in one)


@pytest.fixture
def train(gauss3: RealData, fresh_cache: Path) -> ImageData:
    return gauss3.train


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the networks that were really trained."""
    seen: list[int] = []
    real = teachers.train_group

    def counted(job, indices, *rest):
        seen.extend(indices)
        return real(job, indices, *rest)

    monkeypatch.setattr(teachers, "train_group", counted)
    return seen


def test_a_teacher_learns_and_is_frozen_in_eval_mode(train: ImageData) -> None:
    (teacher,) = train_networks(train, replace(RECIPE, epochs=10), "cpu")
    assert teacher.accuracy == 1.0  # the classes of the blobs are far apart
    assert not teacher.network.training and not any(p.requires_grad for p in teacher.network.parameters())
    assert teacher.train_s > 0


def test_a_tenth_of_every_class_is_held_out(train: ImageData, gauss2: RealData) -> None:
    kept, held = split(gauss2.train, 0, 0.1)
    assert gauss2.train.labels[held].bincount().tolist() == [2, 2]
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(40))
    assert split(gauss2.train, 1, 0.1)[1].tolist() != held.tolist()
    assert train.labels[split(train, 0, 0.1)[1]].bincount().tolist() == [1, 1, 1]


def test_held_out_images_do_not_touch_the_weights(train: ImageData) -> None:
    _, held = split(train, RECIPE.seed, 0.1)
    images = train.images.clone()
    images[held] = 0
    other = replace(train, images=images, fingerprint="")
    one, two = (train_networks(data, RECIPE, "cpu")[0].network.state_dict() for data in (train, other))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_the_second_time_comes_from_the_cache_with_the_cost_of_the_first(
    train: ImageData, trained: list[int]
) -> None:
    first = train_networks(train, RECIPE, "cpu")[0]
    second = train_networks(train, RECIPE, "cpu")[0]
    assert trained == [0]
    assert (second.fingerprint, second.accuracy, second.train_s) == (
        first.fingerprint,
        first.accuracy,
        first.train_s,
    )
    x = train.space.real_to_input(train.images)
    assert torch.equal(first.network(x), second.network(x))


def test_more_networks_train_only_those_that_are_missing(train: ImageData, trained: list[int]) -> None:
    one = train_networks(train, RECIPE, "cpu")
    three = train_networks(train, replace(RECIPE, count=3), "cpu")
    assert trained == [0, 1, 2]
    assert three[0].fingerprint == one[0].fingerprint and len({t.fingerprint for t in three}) == 3
    weights = [next(t.network.parameters()) for t in three]
    assert not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize(
    "change",
    [
        dict(epochs=2),
        dict(lr=0.02),
        dict(seed=1),
        dict(augment="dsa"),
        dict(network="ConvNetD1W4"),
        dict(milestones=(1,)),
        dict(gamma=0.5),
        dict(mix="cutmix"),
        dict(mix_probability=0.2),
        dict(held_out=0.2),
        dict(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
        dict(rho=0.1),
        dict(rho=0.1, alpha=0.3),
        dict(rho=0.1, adaptive=False),
        dict(early_factors=(0.5,)),
        dict(gradient_penalty=2.0),
        dict(reset_optimiser=True),
        dict(zca=0.1),
        dict(per_class=4),
        dict(optimiser="adam"),
        dict(schedule="cosine"),
        dict(schedule="cosine", period=2),
        dict(schedule="cosine", warmup=1),
        dict(schedule="cosine", warmup=1, warmup_from=0.5),
        dict(augment="crop-flip"),
        dict(augment="resized-flip"),
    ],
)
def test_every_field_of_the_recipe_is_part_of_the_address(train: ImageData, change: dict) -> None:
    assert fingerprint(train, replace(RECIPE, **change), 0, "cpu") != fingerprint(train, RECIPE, 0, "cpu")


def test_data_index_and_device_are_part_of_the_address_and_the_count_is_not(
    train: ImageData, gauss2: RealData
) -> None:
    own = fingerprint(train, RECIPE, 0, "cpu")
    assert own == fingerprint(train, replace(RECIPE, count=9), 0, "cpu")
    others = [
        fingerprint(gauss2.train, RECIPE, 0, "cpu"),
        fingerprint(train, RECIPE, 1, "cpu"),
        fingerprint(train, RECIPE, 0, "cuda"),
        fingerprint(replace(train, std=(1.0, 1.0, 1.0)), RECIPE, 0, "cpu"),
    ]
    assert len({own, *others}) == 5


def test_how_snapshots_of_experts_are_stored_is_no_part_of_a_teachers_address(train: ImageData) -> None:
    half = replace(RECIPE, storage="fp16")
    assert fingerprint(train, half, 0, "cpu") == fingerprint(train, RECIPE, 0, "cpu")


def test_a_whitening_is_part_of_the_address_and_fitted_once_a_call(
    train: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    white = replace(RECIPE, zca=0.1, epochs=1, count=3)
    space = input_space(train, white)
    assert space.zca is not None and space.zca.eps == 0.1
    own = fingerprint(train, white, 0, "cpu")
    assert own == fingerprint(train, white, 0, "cpu", space)
    assert own != fingerprint(train, replace(white, zca=0.2), 0, "cpu")
    asked: list[TeacherRecipe] = []

    def counted(train: ImageData, recipe: TeacherRecipe) -> Space:
        asked.append(recipe)
        return space

    monkeypatch.setattr(teachers, "input_space", counted)
    made = train_networks(train, white, "cpu")
    assert made[0].fingerprint == own and len(asked) == 1


def test_two_spellings_of_a_network_share_a_teacher(train: ImageData) -> None:
    a, b = (replace(RECIPE, network=n) for n in ("ConvNetD1W8", "ConvNetD1W8IN"))
    assert fingerprint(train, a, 0, "cpu") == fingerprint(train, b, 0, "cpu")


def test_batch_norm_statistics_are_kept(train: ImageData) -> None:
    recipe = replace(RECIPE, network="ConvNetD1W4BN")
    x = train.space.real_to_input(train.images)
    first, second = (train_networks(train, recipe, "cpu")[0].network for _ in range(2))
    assert float(first.blocks[0].norm.running_mean.abs().max()) > 0
    assert torch.equal(first(x), second(x))


def test_a_damaged_cache_names_the_file_and_says_what_to_do(train: ImageData, fresh_cache: Path) -> None:
    key = train_networks(train, RECIPE, "cpu")[0].fingerprint
    path = fresh_cache / "teachers" / key / "network.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedError, match=rf"teacher .*{key}.* is damaged or truncated .*remove it"):
        train_networks(train, RECIPE, "cpu")
    path.unlink()
    assert train_networks(train, RECIPE, "cpu")[0].fingerprint == key


def test_a_training_that_is_cut_off_leaves_nothing_behind(
    train: ImageData, fresh_cache: Path, trained: list[int]
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_networks(train, replace(RECIPE, count=2), "cpu", progress=stop)
    assert list(fresh_cache.rglob("*.safetensors")) == []  # both were one group
    train_networks(train, replace(RECIPE, count=2), "cpu")
    assert trained == [0, 1, 0, 1]


def test_a_training_that_is_cut_off_loses_the_group_that_it_was_training(
    train: ImageData, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "_TOGETHER", 2)

    def stop(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_networks(train, replace(RECIPE, count=5), "cpu", progress=stop)
    train_networks(train, replace(RECIPE, count=5), "cpu")
    assert trained == [0, 1, 2, 3, 2, 3, 4]


def test_groups_are_of_equal_size_and_their_common_step_stays_small(
    train: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(train, POOL, "cpu")
    assert [len(g) for g in job.groups(range(45))] == [15, 15, 15]
    monkeypatch.setattr(networks, "STACK_BELOW", 3.5 * job.step)
    assert list(job.groups([0, 2, 3, 7])) == [[0, 2], [3, 7]]
    alone = Job(train, replace(POOL, network="ResNet18"), "cpu")
    assert not alone.stacked and list(alone.groups([4, 5])) == [[4], [5]]


def test_progress_counts_the_epochs_that_have_to_be_trained(train: ImageData) -> None:
    told: list[tuple[int, int]] = []
    train_networks(train, RECIPE, "cpu")
    train_networks(train, replace(RECIPE, count=3), "cpu", progress=lambda *x: told.append(x))
    assert told == [(2, 6), (4, 6), (6, 6)]  # two at once


def test_global_chance_is_left_alone(train: ImageData) -> None:
    before = torch.get_rng_state()
    train_networks(train, replace(RECIPE, augment="dsa"), "cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_is_found_by_its_fingerprint(train: ImageData) -> None:
    teacher = train_networks(train, RECIPE, "cpu")[0]
    state = cached_state(teacher.fingerprint)
    assert torch.equal(state["classifier.weight"], teacher.network.classifier.weight)
    with pytest.raises(LookupError, match=r"no teacher 0123 in the cache \(.*0123\); distil again"):
        cached_state("0123")


def test_a_class_of_one_image_and_bad_numbers_are_refused(train: ImageData) -> None:
    short = train.subset(torch.cat([train.of_class(0), train.of_class(1), train.of_class(2)[:1]]))
    with pytest.raises(
        ValueError, match="class 2 of gauss3 has 1 training images; a teacher needs at least 2"
    ):
        train_networks(short, RECIPE, "cpu")
    with pytest.raises(ValueError, match=r"TeacherRecipe\.epochs is 0; expected at least 1"):
        train_networks(train, replace(RECIPE, epochs=0), "cpu")
    with pytest.raises(LookupError, match="no network 'ConvNut'"):
        train_networks(train, replace(RECIPE, network="ConvNut"), "cpu")


def test_a_diverging_training_says_so_and_is_not_cached(train: ImageData, fresh_cache: Path) -> None:
    with pytest.raises(ValueError, match=r"ConvNetD1W8NN on gauss3 diverged .* at lr 1e\+30; lower"):
        train_networks(train, replace(RECIPE, network="ConvNetD1W8NN", lr=1e30), "cpu")
    assert list(fresh_cache.rglob("*.safetensors")) == []


def test_embeddings_do_not_depend_on_the_batch(train: ImageData) -> None:
    net = train_networks(train, RECIPE, "cpu")[0].network
    whole = embed_all(net, train)
    assert whole.shape == (36, 8 * 8 * 8) and not whole.requires_grad
    assert torch.allclose(embed_all(net, train, batch=5), whole, atol=1e-5)


def test_coreset_features_are_pixels_or_embeddings(train: ImageData) -> None:
    task = RunTask(train, 1, 0)
    chosen = torch.tensor([5, 1])
    pixels = class_features(task, "pixels", RECIPE)(chosen)
    assert torch.equal(pixels, train.space.real_to_input(train.images[chosen]).flatten(1))
    embeddings = class_features(task, "teacher", RECIPE)(chosen)
    net = train_networks(train, RECIPE, "cpu")[0].network
    assert torch.allclose(embeddings, embed_all(net, train)[chosen], atol=1e-6)
    with pytest.raises(ValueError, match="features is 'pixel'; expected one of pixels, teacher"):
        class_features(task, "pixel", RECIPE)


# ------------------------------------------------------------------------------------------------ pools


@pytest.mark.parametrize("stacked", [True, False])
def test_every_network_of_a_pool_is_what_a_plain_loop_makes_of_it(
    train: ImageData, stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not stacked:
        monkeypatch.setattr(networks, "STACK_BELOW", 0)
    for index, made in enumerate(train_networks(train, POOL, "cpu")):
        twin, _ = plainly(train, POOL, index)
        assert close(made.network.state_dict(), twin.state_dict())
        inputs = input_space(train, POOL).real_to_input(train.images)
        assert made.accuracy == float((twin(inputs).argmax(1) == train.labels).float().mean())


@pytest.mark.parametrize(
    "recipe",
    [
        POOL,
        replace(RECIPE, network="ConvNetD1W4BN", augment="dsa", batch=11),  # 33 images: 3 batches
        replace(RECIPE, network="MLP", augment="dsa-flip", batch=7),
    ],
    ids=lambda r: r.network,
)
def test_alone_stacked_or_in_another_group_a_network_comes_out_the_same(
    train: ImageData, tmp_path: Path, recipe: TeacherRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = train_networks(train, replace(recipe, count=3), "cpu", cache=tmp_path / "together")
    first = train_networks(train, replace(recipe, count=1), "cpu", cache=tmp_path / "first")
    monkeypatch.setattr(networks, "STACK_BELOW", 0)
    alone = train_networks(train, replace(recipe, count=3), "cpu", cache=tmp_path / "alone")
    assert close(first[0].network.state_dict(), together[0].network.state_dict())
    for one, other in zip(together, alone, strict=True):
        assert close(one.network.state_dict(), other.network.state_dict())
        assert one.fingerprint == other.fingerprint and one.accuracy == other.accuracy


@pytest.mark.parametrize("stacked", [True, False])
def test_compiled_networks_are_the_plain_ones(
    train: ImageData, tmp_path: Path, stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(POOL, network="ConvNetD1W4", count=2, epochs=2, milestones=(1,), batch=10)
    if not stacked:
        monkeypatch.setattr(networks, "STACK_BELOW", 0)
    plain = train_networks(train, recipe, "cpu", cache=tmp_path / "plain")
    monkeypatch.setattr(networks, "_COMPILE_ABOVE_S", 0.0)
    if not compiler_works():
        pytest.skip("no compiler here")
    compiled = train_networks(train, recipe, "cpu", cache=tmp_path / "compiled")
    for one, other in zip(plain, compiled, strict=True):
        assert close(one.network.state_dict(), other.network.state_dict())


def test_without_a_compiler_the_training_goes_on_plain(
    train: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(program: object, what: object, trial: object) -> tuple[float, bool]:
        return 0.0, False

    monkeypatch.setattr(networks, "_COMPILE_ABOVE_S", 0.0)
    monkeypatch.setattr(engine, "warm", broken)
    monkeypatch.setattr(engine.compute, "compile_", lambda function: pytest.fail)
    (made,) = train_networks(train, replace(POOL, count=1), "cpu")
    assert close(made.network.state_dict(), plainly(train, POOL, 0)[0].state_dict())


def test_images_that_do_not_fit_are_standardised_a_batch_at_a_time(
    train: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = train_networks(train, POOL, "cpu", cache=tmp_path / "kept")
    monkeypatch.setitem(students.CONVERT_MIB, "cpu", 0)
    again = train_networks(train, POOL, "cpu", cache=tmp_path / "again")
    for one, other in zip(kept, again, strict=True):
        state = other.network.state_dict()
        assert all(torch.equal(t, state[k]) for k, t in one.network.state_dict().items())


def test_the_learning_rate_falls_after_the_milestones(train: ImageData) -> None:
    rates = [lr_at(POOL, epoch) for epoch in range(6)]
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.01, 0.002, 0.0004])
    assert rates == pytest.approx(plainly(train, POOL, 0)[1])
    ncfm = replace(POOL, epochs=60, milestones=(40, 50))
    assert [lr_at(ncfm, e) for e in (39, 40, 49, 50, 59)] == pytest.approx([0.01, 0.002, 0.002, 4e-4, 4e-4])


def test_the_initial_state_is_that_of_build_with_the_same_generator(train: ImageData) -> None:
    for _ in range(2):  # trained, then from the cache
        for index, made in enumerate(train_networks(train, POOL, "cpu")):
            generator = Generators(POOL.seed, "teachers", index)("weights")
            fresh = dict(build(POOL.network, train.shape, train.classes, generator).named_parameters())
            assert made.initial.keys() == fresh.keys() == dict(made.network.named_parameters()).keys()
            assert all(torch.equal(made.initial[k], fresh[k]) for k in fresh)
            assert not torch.equal(made.initial["classifier.weight"], made.network.classifier.weight)


def test_a_pool_from_the_cache_has_equal_bits(train: ImageData, trained: list[int]) -> None:
    first, second = (train_networks(train, POOL, "cpu") for _ in range(2))
    assert trained == [0, 1, 2]
    for one, other in zip(first, second, strict=True):
        assert (one.fingerprint, one.accuracy, one.train_s) == (
            other.fingerprint, other.accuracy, other.train_s,
        )  # fmt: skip
        for a, b in ((one.network.state_dict(), other.network.state_dict()), (one.initial, other.initial)):
            assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert len({t.train_s for t in first}) == 1  # equal shares of the group's time


def test_a_cached_network_without_its_initial_state_is_trained_again(
    train: ImageData, fresh_cache: Path, trained: list[int]
) -> None:
    made = train_networks(train, POOL, "cpu")
    (fresh_cache / "teachers" / made[1].fingerprint / "initial.safetensors").unlink()
    again = train_networks(train, POOL, "cpu")
    assert trained == [0, 1, 2, 1] and again[1].initial.keys() == made[1].initial.keys()
    assert close(again[1].network.state_dict(), made[1].network.state_dict())


def test_with_nothing_held_out_all_images_train_even_a_class_of_one(train: ImageData) -> None:
    kept, held = split(train, 0, 0)
    assert kept.tolist() == held.tolist() == list(range(36))
    short = train.subset(torch.cat([train.of_class(0), train.of_class(1), train.of_class(2)[:1]]))
    (made,) = train_networks(short, replace(RECIPE, held_out=0.0), "cpu")
    assert 0 <= made.accuracy <= 1
    assert train.labels[split(train, 0, 0.99)[0]].bincount().tolist() == [1, 1, 1]


def test_a_standardisation_of_its_own_reaches_training_accuracy_and_features(train: ImageData) -> None:
    own = replace(RECIPE, mean=(0.2, 0.3, 0.4), std=(0.1, 0.2, 0.3))
    (teacher,) = train_networks(train, own, "cpu")
    assert close(teacher.network.state_dict(), plainly(train, own, 0)[0].state_dict())
    space = input_space(train, own)
    assert (space.mean, space.std) == (own.mean, own.std) and input_space(train, RECIPE).same_inputs(
        train.space
    )
    features = class_features(RunTask(train, 1, 0), "teacher", own)(torch.tensor([5, 1]))
    expected = embed_all(teacher.network, train, space=space)[[5, 1]]
    assert torch.allclose(features, expected, atol=1e-6)
    same = replace(RECIPE, mean=train.mean, std=train.std)
    assert fingerprint(train, same, 0, "cpu") == fingerprint(train, RECIPE, 0, "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(milestones=(4, 4)), r"TeacherRecipe\.milestones is \(4, 4\); expected increasing counts"),
        (dict(milestones=(0, 4)), r"TeacherRecipe\.milestones is \(0, 4\); expected increasing counts"),
        (dict(gamma=0.0), r"TeacherRecipe\.gamma is 0\.0; expected a factor above 0, at most 1"),
        (dict(gamma=1.5), r"TeacherRecipe\.gamma is 1\.5; expected a factor"),
        (dict(held_out=1.0), r"TeacherRecipe\.held_out is 1\.0; expected a share in \[0, 1\)"),
        (dict(held_out=-0.1), r"TeacherRecipe\.held_out is -0\.1; expected a share"),
        (dict(mean=(0.5, 0.5, 0.5)), r"TeacherRecipe\.mean is .* and std is None; give both, or neither"),
        (dict(std=(0.5, 0.5, 0.5)), r"TeacherRecipe\.mean is None and std is .*; give both, or neither"),
        (
            dict(mean=(0.5,), std=(0.5,)),
            "has 1 means and 1 deviations but gauss3 has 3 channels; expected one of each a channel",
        ),
        (dict(mean=(0.5,) * 3, std=(0.5, 0.0, 0.5)), "expected one positive std for each mean"),
        (dict(augment="dc"), r"TeacherRecipe\.augment is 'dc', .*; expected none, dsa, dsa-flip, diffaug"),
        (dict(augment="dcc"), "augment is 'dcc'; expected one of none, dsa"),
        (dict(augment="diffaug:colour"), "names 'colour'; expected operations out of"),
        (dict(optimiser="adamw"), r"TeacherRecipe\.optimiser is 'adamw'; expected sgd or adam"),
        (dict(schedule="constant"), r"TeacherRecipe\.schedule is 'constant'; expected steps or cosine"),
        (
            dict(schedule="cosine", milestones=(1,)),
            r"milestones is \(1,\) with schedule cosine; milestones belong to",
        ),
        (dict(warmup=1), "has period None and warmup 1 with schedule steps; both belong to cosine"),
        (dict(period=2), "has period 2 and warmup 0 with schedule steps; both belong to cosine"),
        (dict(schedule="cosine", period=0), r"TeacherRecipe\.period is 0; expected at least 1 epoch"),
        (
            dict(schedule="cosine", warmup=3),
            r"TeacherRecipe\.warmup is 3 of 3 epochs; expected 0 or more, and fewer",
        ),
        (dict(schedule="cosine", warmup=-1), r"TeacherRecipe\.warmup is -1 of 3 epochs"),
        (dict(warmup_from=2.0), r"TeacherRecipe\.warmup_from is 2\.0; expected a share in \[0, 1\]"),
        (
            dict(weights="V1"),
            "weights is 'V1' for ConvNetD1W8, which has no public weights; expected a network timm",
        ),
        (
            dict(network="torchvision:resnet18", weights="IMAGENET1K_V1", count=2),
            r"TeacherRecipe\.count is 2 with public weights IMAGENET1K_V1; there is 1",
        ),
        (dict(mix="mixup"), r"TeacherRecipe\.mix is 'mixup'; expected none or cutmix"),
        (dict(mix_probability=1.5), r"probability of CutMix is 1\.5; expected a number from 0 to 1"),
    ],
    ids=str,
)
def test_numbers_of_a_recipe_that_make_no_sense_are_refused(
    train: ImageData, fresh_cache: Path, change: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train_networks(train, replace(RECIPE, **change), "cpu")
    assert not fresh_cache.exists()


def test_one_diverging_network_does_not_lose_its_neighbours(
    train: ImageData, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = teachers.train_group

    def spoilt(job, indices, *rest):
        outcomes = real(job, indices, *rest)
        if 1 in indices:
            outcomes[list(indices).index(1)].state["classifier.weight"].fill_(float("nan"))
        return outcomes

    monkeypatch.setattr(teachers, "train_group", spoilt)
    with pytest.raises(ValueError, match="diverged"):
        train_networks(train, POOL, "cpu")
    assert len(list(fresh_cache.rglob("network.safetensors"))) == 2


# ------------------------------------------------------------------------------------------------ recipes of squeezing


@pytest.mark.parametrize(
    "recipe",
    [
        replace(RECIPE, schedule="cosine", warmup=1, augment="crop-flip", held_out=0.0),
        replace(
            RECIPE,
            network="ConvNetD1W8NN",
            optimiser="adam",
            lr=0.01,
            schedule="cosine",
            augment="resized-flip",
            mix="cutmix",
        ),
        replace(RECIPE, network="ConvNetD1W4BN", epochs=5, schedule="cosine", period=2),
    ],
    ids=["sgd-warmup", "adam-cutmix", "period"],
)
@pytest.mark.parametrize("stacked", [True, False])
def test_cosines_adam_and_crops_are_those_of_a_plain_loop(
    train: ImageData, recipe: TeacherRecipe, stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not stacked:
        monkeypatch.setattr(networks, "STACK_BELOW", 0)
    for index, made in enumerate(train_networks(train, replace(recipe, count=2), "cpu")):
        twin, rates = plainly(train, recipe, index)
        assert [lr_at(recipe, e) for e in range(recipe.epochs)] == pytest.approx(rates, abs=1e-9)
        assert close(made.network.state_dict(), twin.state_dict())


def test_what_changes_nothing_is_no_part_of_the_address(train: ImageData) -> None:
    cosine = replace(RECIPE, schedule="cosine")
    for one, other in (
        (RECIPE, replace(RECIPE, warmup_from=0.5)),
        (cosine, replace(cosine, gamma=0.5, reset_optimiser=True)),
        (cosine, replace(cosine, period=3)),
        (replace(cosine, warmup=1), replace(cosine, warmup=1, period=2)),
        (replace(RECIPE, optimiser="adam"), replace(RECIPE, optimiser="adam", momentum=0.5)),
    ):
        assert fingerprint(train, one, 0, "cpu") == fingerprint(train, other, 0, "cpu")


def test_a_teacher_says_its_name_its_space_and_where_it_is_found_again(train: ImageData) -> None:
    own = replace(RECIPE, mean=(0.2, 0.3, 0.4), std=(0.1, 0.2, 0.3), network="ConvNetD1W8IN")
    for _ in range(2):  # trained, then from the cache
        (made,) = train_networks(train, own, "cpu")
        assert (made.name, made.source) == ("ConvNetD1W8", "cache")
        assert made.space is not None and made.space.same_inputs(input_space(train, own))
        ref = made.ref(2.0)
        assert (ref.architecture, ref.source, ref.key, ref.weight) == (
            "ConvNetD1W8", "cache", made.fingerprint, 2.0,
        )  # fmt: skip


def test_dropout_follows_the_recipes_seed_and_leaves_the_global_chance_alone(
    train: ImageData, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, network="EfficientNetB0", epochs=1, batch=16)
    before = torch.get_rng_state()
    torch.manual_seed(1)
    one = train_networks(train, recipe, "cpu", cache=tmp_path / "one")[0].network.state_dict()
    torch.manual_seed(2)
    two = train_networks(train, recipe, "cpu", cache=tmp_path / "two")[0].network.state_dict()
    torch.set_rng_state(before)
    assert all(torch.equal(one[k], two[k]) for k in one)


# ------------------------------------------------------------------------------------------------ what is known of one


def test_what_is_known_of_a_teacher_stands_beside_its_weights(train: ImageData, gauss3: RealData) -> None:
    (made,) = train_networks(train, RECIPE, "cpu")
    known = teachers.about(made.fingerprint)
    assert (known["network"], known["shape"], known["classes"]) == ("ConvNetD1W8", [3, 16, 16], 3)
    assert known["space"] == train.space.describe() and known["accuracy"] == made.accuracy
    assert (known["data"], known["data_fingerprint"], known["processes"]) == ("gauss3", train.fingerprint, 1)
    assert known["test_accuracy"] is None and known["recipe"]["lr"] == RECIPE.lr
    accuracy = teachers.evaluate(made.fingerprint, gauss3)
    test = gauss3.test
    right = made.network(train.space.real_to_input(test.images)).argmax(1) == test.labels
    assert accuracy == pytest.approx(float(right.float().mean()))
    assert teachers.about(made.fingerprint)["test_accuracy"] == accuracy


def test_a_teacher_of_an_older_version_says_none_for_what_it_did_not_keep(
    train: ImageData, gauss3: RealData, fresh_cache: Path
) -> None:
    (made,) = train_networks(train, RECIPE, "cpu")
    path = fresh_cache / "teachers" / made.fingerprint / "recipe.json"
    said = json.loads(path.read_text())
    for name in ("space", "data_fingerprint", "processes"):
        del said[name]
    for name in ("optimiser", "schedule", "weights"):
        del said["recipe"][name]
    path.write_text(json.dumps(said))
    known = teachers.about(made.fingerprint)
    assert known["space"] is known["test_accuracy"] is known["processes"] is None
    assert known["network"] == "ConvNetD1W8" and teachers.evaluate(made.fingerprint, gauss3) == 1.0


def test_a_teacher_is_measured_on_its_own_data_only(
    train: ImageData, gauss2: RealData, gauss3: RealData
) -> None:
    (made,) = train_networks(train, RECIPE, "cpu")
    key = made.fingerprint
    with pytest.raises(
        ValueError, match=rf"teacher {key} was trained on gauss3, not on gauss2; give the data"
    ):
        teachers.evaluate(key, gauss2)
    other = RealData(train.subset(torch.arange(30)), gauss3.test)
    with pytest.raises(
        ValueError, match=r"another form of gauss3: the fingerprint .*; give the data that it was trained on"
    ):
        teachers.evaluate(key, other)
    shifted = replace(train, mean=(0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=r"was trained on inputs of .*; train it again"):
        teachers.evaluate(key, RealData(shifted, gauss3.test))
    with pytest.raises(LookupError, match=rf"no teacher 0123 in the cache \(.*\); .*{key}"):
        teachers.evaluate("0123", gauss3)


def test_an_unknown_teacher_among_many_says_how_many_there_are(fresh_cache: Path) -> None:
    with pytest.raises(LookupError, match="no teacher nope in the cache .*; there are none at all"):
        teachers.about("nope")
    for i in range(13):
        folder = fresh_cache / "teachers" / f"{i:016x}"
        folder.mkdir(parents=True)
        (folder / "network.safetensors").touch()
    with pytest.raises(
        LookupError, match="no teacher nope in the cache .*; it has 13 others, none of a like name"
    ):
        teachers.about("nope")


def test_teachers_are_listed_and_removed(train: ImageData, gauss3: RealData, fresh_cache: Path) -> None:
    assert teachers.stored() == []
    made = [t.fingerprint for t in train_networks(train, replace(RECIPE, count=3), "cpu")]
    teachers.evaluate(made[0], gauss3)
    found = {s.fingerprint: s for s in teachers.stored()}
    assert sorted(found) == sorted(made)
    first = found[made[0]]
    assert (first.data, first.network, first.test_accuracy) == ("gauss3", "ConvNetD1W8", 1.0)
    assert first.recipe["epochs"] == 3 and first.size_bytes > 10_000 and found[made[1]].test_accuracy is None
    (fresh_cache / "teachers" / made[1] / "recipe.json").write_text("{")
    damaged = teachers.look(made[1])
    assert "recipe.json cannot be read" in damaged.damaged and damaged.data == ""
    with pytest.raises(
        DamagedError, match=r"recipe\.json cannot be read .*; remove it and train the teacher again"
    ):
        teachers.about(made[1])
    with pytest.raises(LookupError, match="no teacher nope in the cache"):
        teachers.remove([made[0], "nope"])
    with (
        Lock(fresh_cache / "teachers" / made[0]),
        pytest.raises(ValueError, match="being trained by another process"),
    ):
        teachers.remove(made)
    assert len(teachers.stored()) == 3
    assert len(teachers.remove(made[:2], dry_run=True)) == 2 == len(teachers.remove(made[:2]))
    assert [s.fingerprint for s in teachers.stored()] == made[2:]


# ------------------------------------------------------------------------------------------------ public weights


PUBLIC = TeacherRecipe(
    network="torchvision:resnet18",
    weights="IMAGENET1K_V1",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


@pytest.fixture
def thousand() -> ImageData:
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    return ImageData("thousand", "train", images, torch.arange(4), 1000, (0.5,) * 3, (0.5,) * 3)


def test_public_weights_are_taken_instead_of_training(
    thousand: ImageData, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def get_model(name: str, weights: str) -> torch.nn.Module:
        asked.append((name, weights))
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 1000))

    monkeypatch.setattr("torchvision.models.get_model", get_model)
    key = "torchvision:resnet18/IMAGENET1K_V1"
    assert fingerprint(thousand, PUBLIC, 0, "cpu") == key and asked == []
    (made,) = train_networks(thousand, PUBLIC, "cpu")
    assert asked == [("resnet18", "IMAGENET1K_V1")] and not fresh_cache.exists()
    assert (made.fingerprint, made.name, made.source) == (key, "torchvision:resnet18", "public")
    assert math.isnan(made.accuracy) and made.train_s == 0
    assert made.space is not None and made.space.mean == PUBLIC.mean
    assert not made.network.training and not any(p.requires_grad for p in made.network.parameters())
    assert (made.ref().source, made.ref().key) == ("public", key)


@pytest.mark.parametrize(
    ("change", "data", "message"),
    [
        ({}, dict(classes=10), "IMAGENET1K_V1 has 1000 classes, but the data set has 10; train a network"),
        ({}, dict(images=torch.zeros(4, 1, 32, 32, dtype=torch.uint8), mean=(0.5,), std=(0.5,)), "for 3 channels"),
        (dict(std=(0.2, 0.2, 0.2)), {}, r"wants inputs of mean \(0\.485.* but they would have .*\(0\.2, 0\.2"),
        (dict(mean=None, std=None, zca=0.1), {}, r"zca is 0\.1 with public weights IMAGENET1K_V1, which were trained without"),
    ],
    ids=["classes", "channels", "statistics", "zca"],
)  # fmt: skip
def test_public_weights_for_something_else_are_refused_before_they_are_fetched(
    thousand: ImageData, change: dict, data: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.models.get_model", lambda *_, **__: pytest.fail("fetched"))
    given = replace(thousand, fingerprint="", **data)
    recipe = replace(PUBLIC, mean=PUBLIC.mean[:1], std=PUBLIC.std[:1]) if "images" in data else PUBLIC
    with pytest.raises(ValueError, match=message):
        train_networks(given, replace(recipe, **change), "cpu")


def test_unknown_public_weights_are_named_with_those_that_there_are(thousand: ImageData) -> None:
    with pytest.raises(
        LookupError, match="resnet18 has no weights 'V7'; expected one of IMAGENET1K_V1, DEFAULT"
    ):
        train_networks(thousand, replace(PUBLIC, weights="V7"), "cpu")
    with pytest.raises(LookupError, match="torchvision has no network 'resnet19'"):
        train_networks(thousand, replace(PUBLIC, network="torchvision:resnet19"), "cpu")
    with pytest.raises(LookupError, match="timm has no weights 'resnet18.nope'"):
        train_networks(thousand, replace(PUBLIC, network="timm:resnet18", weights="nope"), "cpu")


def test_without_a_connection_the_message_says_where_the_weights_go(
    thousand: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get_model(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr("torchvision.models.get_model", get_model)
    with pytest.raises(
        RuntimeError, match=r"IMAGENET1K_V1' cannot be downloaded .*no route.* put the file into"
    ):
        train_networks(thousand, PUBLIC, "cpu")


# ------------------------------------------------------------------------------------------------ several processes

SPREAD = [
    # 36 images: 4 batches of 8, then 4
    replace(RECIPE, network="ConvNetD2W8", schedule="cosine", augment="crop-flip", held_out=0.0, count=2),
    # shares of 5 and 6; at the end 3 images, which both take whole
    replace(RECIPE, network="ConvNetD1W4BN", batch=11, held_out=0.0),
    replace(RECIPE, network="ResNet18BN", epochs=1, batch=9, lr=1e-3),
    # without norm, behind which a bias has no gradient but rounding, of which Adam makes whole steps
    replace(RECIPE, network="ConvNetD1W8NN", batch=9, optimiser="adam", lr=1e-3, mix="cutmix"),
]


def torchrun(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        *words,
    ]
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parent.parent), **environment}
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, timeout=120
    )


def test_two_processes_make_the_networks_of_one_and_the_first_writes_them(
    train: ImageData, tmp_path: Path
) -> None:
    torch.save({"images": train.images, "labels": train.labels}, tmp_path / "data.pt")
    (tmp_path / "spread.py").write_text(
        textwrap.dedent(
            f"""
            import torch
            torch.set_num_threads(1)
            from ddbench.contract import ImageData, TeacherRecipe
            from ddbench.train import distributed
            from ddbench.train.teachers import train_networks

            held = torch.load("data.pt")
            train = ImageData("gauss3", "train", held["images"], held["labels"], 3, {train.mean}, {train.std})
            with distributed.joined("cpu") as (place, device):
                told = []
                for recipe in {SPREAD!r}:
                    made = train_networks(train, recipe, device, progress=lambda *x: told.append(x))
                    assert len(made) == (recipe.count if place.first else 0)
                    again = train_networks(train, recipe, device)
                    assert [t.fingerprint for t in again] == [t.fingerprint for t in made]
                assert bool(told) == place.first
                for change, words in (
                    (dict(batch=1), "batch is 1 for 2 processes; expected at least one image each"),
                    (dict(rho=0.1), "which 2 processes cannot train; start one"),
                ):
                    try:
                        train_networks(train, TeacherRecipe(network="ConvNetD1W4", **change), device)
                        raise SystemExit("trained")
                    except ValueError as error:
                        assert words in str(error), error
            assert distributed.world().size == 1
            """
        )
    )
    cache = tmp_path / "spread"
    done = torchrun(tmp_path, "spread.py", DDBENCH_CACHE=str(cache))
    assert done.returncode == 0, done.stderr
    alone = [t for recipe in SPREAD for t in train_networks(train, recipe, "cpu", cache=tmp_path / "alone")]
    assert sorted(p.parent.name for p in cache.rglob("network.safetensors")) == sorted(
        t.fingerprint for t in alone
    )
    for one in alone:
        together = cached_state(one.fingerprint, cache)
        for name, tensor in one.network.state_dict().items():
            assert float((together[name] - tensor).abs().max()) < 1e-5, (one.name, name)
        assert teachers.about(one.fingerprint, cache)["processes"] == 2
        assert teachers.about(one.fingerprint, cache)["accuracy"] == pytest.approx(one.accuracy, abs=0.05)


def test_the_shares_of_a_batch_are_all_of_it() -> None:
    for images in range(6, 40):
        parts = [distributed.World(rank, 3).share(images) for rank in range(3)]
        rows = [i for part in parts for i in range(part.start, part.stop)]
        assert rows == list(range(images)) and max(p.stop - p.start for p in parts) <= images // 3 + 1
    assert distributed.World(0, 3).share(5) is None


def test_one_gpu_for_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="device is 'cuda:0' under torchrun, .*; expected auto, cuda or cpu"):
        with distributed.joined("cuda:0"):
            pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        ValueError, match=r"process 1 of this machine has no GPU of its own: there are 1; start as many"
    ):
        with distributed.joined("cuda"):
            pass
