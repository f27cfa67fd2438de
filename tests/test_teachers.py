"""Teachers and experts: what is trained, what is cached, what a damaged cache says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddbench.contract import ImageData, RealData, TeacherRecipe
from ddbench.store import DamagedError
from ddbench.task import RunTask
from ddbench.train import teachers
from ddbench.train.teachers import cached_state, class_features, embed_all, fingerprint, split, train_networks

RECIPE = TeacherRecipe(network="ConvNetD1W8", epochs=3, batch=8, lr=0.05)


@pytest.fixture
def train(gauss3: RealData, fresh_cache: Path) -> ImageData:
    return gauss3.train


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the networks that were really trained."""
    seen: list[int] = []
    real = teachers._train

    def counted(train, recipe, index, *rest):
        seen.append(index)
        return real(train, recipe, index, *rest)

    monkeypatch.setattr(teachers, "_train", counted)
    return seen


def test_a_teacher_learns_and_is_frozen_in_eval_mode(train: ImageData) -> None:
    (teacher,) = train_networks(train, replace(RECIPE, epochs=10), "cpu")
    assert teacher.accuracy == 1.0  # the classes of the blobs are far apart
    assert not teacher.network.training and not any(p.requires_grad for p in teacher.network.parameters())
    assert teacher.train_s > 0 and teacher.trajectory == ()


def test_a_tenth_of_every_class_is_held_out(train: ImageData, gauss2: RealData) -> None:
    kept, held = split(gauss2.train, 0)
    assert gauss2.train.labels[held].bincount().tolist() == [2, 2]
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(40))
    assert split(gauss2.train, 1)[1].tolist() != held.tolist()
    assert train.labels[split(train, 0)[1]].bincount().tolist() == [1, 1, 1]


def test_held_out_images_do_not_touch_the_weights(train: ImageData) -> None:
    _, held = split(train, RECIPE.seed)
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
    "change", [dict(epochs=2), dict(lr=0.02), dict(seed=1), dict(augment="dsa"), dict(network="ConvNetD1W4")]
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


def test_two_spellings_of_a_network_share_a_teacher(train: ImageData) -> None:
    a, b = (replace(RECIPE, network=n) for n in ("ConvNetD1W8", "ConvNetD1W8IN"))
    assert fingerprint(train, a, 0, "cpu") == fingerprint(train, b, 0, "cpu")


def test_an_expert_has_the_start_and_every_epoch(train: ImageData, trained: list[int]) -> None:
    (teacher,) = train_networks(train, RECIPE, "cpu")
    (expert,) = train_networks(train, RECIPE, "cpu", trajectory=True)
    again = train_networks(train, RECIPE, "cpu", trajectory=True)[0]
    assert trained == [0, 0] and len(expert.trajectory) == 4
    last = dict(expert.network.named_parameters())
    assert expert.trajectory[0].keys() == last.keys()
    assert all(torch.equal(expert.trajectory[3][k], last[k]) for k in last)
    assert not torch.equal(
        expert.trajectory[0]["classifier.weight"], expert.trajectory[1]["classifier.weight"]
    )
    assert all(torch.equal(again.trajectory[i][k], expert.trajectory[i][k]) for i in range(4) for k in last)
    assert torch.equal(teacher.network.classifier.weight, expert.network.classifier.weight)


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
    assert len(list(fresh_cache.rglob("*.safetensors"))) == 1
    train_networks(train, replace(RECIPE, count=2), "cpu")
    assert trained == [0, 1, 1]


def test_progress_counts_the_epochs_that_have_to_be_trained(train: ImageData) -> None:
    told: list[tuple[int, int]] = []
    train_networks(train, RECIPE, "cpu")
    train_networks(train, replace(RECIPE, count=3), "cpu", progress=lambda *x: told.append(x))
    assert told == [(i, 6) for i in range(1, 7)]


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
    with pytest.raises(ValueError, match=r"TeacherRecipe\.augment is 'dc'; expected none or dsa"):
        train_networks(train, replace(RECIPE, augment="dc"), "cpu")
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
