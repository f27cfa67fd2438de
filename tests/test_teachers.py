"""Teachers: what is trained, what is cached, what a damaged cache says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ddbench.augment.mix import CutMix, mixed_images
from ddbench.augment.named import augmentation
from ddbench.compute import compiler_works
from ddbench.contract import ImageData, RealData, Space, TeacherRecipe
from ddbench.nets.build import build
from ddbench.seeding import Generators
from ddbench.store import DamagedError
from ddbench.task import RunTask
from ddbench.train import engine, networks, students, teachers
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
    augment, mix = augmentation(recipe.augment, train.flip), CutMix(recipe.mix_probability)
    optimiser = torch.optim.SGD(
        net.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, list(recipe.milestones), recipe.gamma)
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
        (dict(augment="dc"), r"TeacherRecipe\.augment is 'dc', .*; expected none, dsa, dsa-flip or diffaug"),
        (dict(augment="dcc"), "augment is 'dcc'; expected one of none, dsa"),
        (dict(augment="diffaug:colour"), "names 'colour'; expected operations out of"),
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
