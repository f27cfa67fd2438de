"""The contract over every method: seeds, counts, global state, messages, resuming, wrappers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import blobs
from torch import Tensor

from ddbench import registry
from ddbench.codecs import items
from ddbench.contract import DistilledSet, ImageData
from ddbench.store import RunFolder
from ddbench.task import RunTask

NAMES = [f.name for f in registry.listing("methods") if not f.keywords.get("wrapper")]
TRAJECTORY: dict[str, Any] = dict(
    network="ConvNetD1W4",
    iterations=4,
    syn_steps=2,
    max_start_epoch=2,
    step_size=0.05,
    image_lr=10.0,
    experts=2,
    train_epochs=4,
    train_batch=50,
    train_lr=0.05,
)
SMALL: dict[str, dict[str, Any]] = {
    "dm": dict(network="ConvNetD1W4", iterations=4, batch_real=6),
    "datadam": dict(network="ConvNetD2W4BN", iterations=4, batch_real=6),
    "dc": dict(network="ConvNetD1W4", iterations=4, outer=2, inner=1, batch_real=6),
    "dsa": dict(network="ConvNetD1W4", iterations=4, outer=2, inner=1, batch_real=6),
    "idc": dict(
        network="ConvNetD1W4", iterations=4, inner=2, batch_real=6, n_data=16, base_side=8, image_lr=0.1
    ),
    "ncfm": dict(network="ConvNetD1W4", iterations=4, batch_real=6, pool=2, pool_epochs=1, frequencies=32),
    "mtt": TRAJECTORY,
    "ftd": TRAJECTORY,
    "tesla": TRAJECTORY,
    "datm": TRAJECTORY,
    "ast": TRAJECTORY,
}
"""Settings that make a method quick here; methods that are not named run with their defaults."""
SQUEEZED: dict[str, dict[str, Any]] = {
    "rded": dict(network="ConvNetD1W4BN", squeeze="quick", mipc=100),
    "infer": dict(networks=("ConvNetD1W4BN",), squeeze="quick", iterations=4, roll=(0, 1)),
    "sre2l": dict(network="ConvNetD1W4BN", squeeze="quick", iterations=4, roll=(0, 1)),
    "cda": dict(network="ConvNetD1W4BN", squeeze="quick", iterations=4, roll=(0, 1)),
    "cvdd": dict(
        networks=("ConvNetD1W4BN", "ConvNetD1W5BN"),
        squeeze="quick",
        iterations=4,
        roll=(0, 1),
        prior_ipc=1,
        prior_iterations=2,
        prior_epochs=1,
    ),
}
"""Likewise, of methods with teachers that label, which take no batches through the view."""
ITERATIVE = [n for n in NAMES if n in SMALL]
SEEN = {
    **{"dm": 4, "datadam": 4, "dc": 4 * 3, "dsa": 4 * 3, "idc": 4 * 2, "ncfm": 4 * 2},
    **{"mtt": 1 + 4 * 2 * 2, "ftd": 1 + 4 * 2 * 2, "tesla": 1 + 4 * 2 * 2},
    **{"datm": 1 + 4 * 2 * 2, "ast": 1 + 4 * 2 * 2},
}
"""Batches that pass through the view: one a matching step, a calibration step, a step of an inner training, two a step of a
student (forward and back) and one that tells how many images a view shows."""
MOSAICS = ("idc", "ncfm")
NO_NOISE = ("datm",)
"""Methods that start from real images only."""
SUBSETS = ("full", "random", "herding", "k_center")

TRAIN = blobs("two", (1, 8, 8), 2, (100, 2), flip=False, seed=7).train


def distill(
    name: str, seed: int = 0, ipc: int = 3, task: RunTask | None = None, **settings: Any
) -> DistilledSet:
    made = registry.get("methods", name)(**{**SMALL.get(name, SQUEEZED.get(name, {})), **settings})
    return (task or RunTask(TRAIN, ipc, seed)).run_method(made)


def tensors(distilled: DistilledSet) -> list[Tensor]:
    return [distilled.tensors[k] for k in sorted(distilled.tensors)]


def test_all_methods_are_seen() -> None:
    assert set(NAMES) >= {"full", "random", "herding", "k_center", "dm", "datadam"}
    assert set(ITERATIVE) == set(SEEN) and len(ITERATIVE) >= 6


@pytest.mark.parametrize("name", NAMES)
class TestEveryMethod:
    def test_same_seed_same_bits(self, name: str) -> None:
        one, two = distill(name, 7), distill(name, 7)
        assert all(map(torch.equal, tensors(one), tensors(two)))
        assert one.fingerprint() == two.fingerprint()

    def test_another_seed_gives_another_set(self, name: str) -> None:
        if name in ("full", "herding"):
            assert distill(name, 7).fingerprint() == distill(name, 8).fingerprint()  # no chance in their rule
        else:
            assert distill(name, 7).fingerprint() != distill(name, 8).fingerprint()

    def test_there_are_exactly_ipc_images_of_every_class(self, name: str) -> None:
        made = distill(name)
        found = items(made, TRAIN, torch.device("cpu"))
        ids = found.ids
        if ids is None:
            assert found.soft is not None
            ids = found.soft.argmax(1)
        if (
            name == "infer"
        ):  # 2 naturals a class and 2 compensators that count as an image each, merged when read
            assert {k: len(t) for k, t in made.tensors.items()} == {"naturals": 4, "compensators": 2}
            assert ids.bincount().tolist() == [4, 4]
            return
        stored = [100, 100] if name == "full" else [3, 3]
        tiles = made.codec.settings.get("factor", 1) ** 2
        assert ids.bincount().tolist() == [tiles * n for n in stored]
        assert len(next(iter(made.tensors.values()))) == sum(stored)
        inputs = found.to_input(found.stored)
        assert inputs.shape == (len(found), 1, 8, 8) and bool(torch.isfinite(inputs).all())

    def test_labels_are_those_of_the_facts(self, name: str) -> None:
        targets, labels = distill(name).targets, registry.facts("methods", name).keywords["labels"]
        assert labels in ("hard", "soft", "labeller")
        assert (targets.soft is None and targets.labeller is None) == (labels == "hard")

    def test_global_chance_and_training_data_are_left_alone(self, name: str) -> None:
        images, labels, state = TRAIN.images.clone(), TRAIN.labels.clone(), torch.get_rng_state()
        distill(name)
        assert torch.equal(TRAIN.images, images) and torch.equal(TRAIN.labels, labels)
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_card_and_the_space_say_where_the_set_is_from(self, name: str) -> None:
        made = distill(name, 7)
        card = made.card
        assert (card.dataset, card.data_fingerprint) == ("two", TRAIN.fingerprint)
        assert (card.ipc, card.classes, card.shape, card.seed) == (3, 2, (1, 8, 8), 7)
        assert card.cost.wall_s > 0 and not card.partial
        assert made.space is not None and made.space.same_inputs(TRAIN.space)

    def test_the_source_and_the_departures_stand_on_top(self, name: str) -> None:
        facts = registry.facts("methods", name)
        assert "Source:" in facts.doc and "Departures:" in facts.doc
        assert [f.name for f in facts.fields if not f.help] == []
        assert all(row.get("source") for row in facts.recipes.values())

    def test_every_recipe_makes_the_method(self, name: str) -> None:
        for recipe, dataset, ipc in registry.recipes(name):
            found = registry.resolve_recipe(name, recipe, dataset or "other", ipc or 1)
            registry.get("methods", name)(**found.settings)

    def test_ipc_beyond_the_class_says_how_far_it_may_go(self, name: str) -> None:
        if name == "full":
            assert len(distill(name, ipc=101).tensors["indices"]) == 200
            return
        if name in ("dc", "sre2l", "cda"):  # start from noise
            assert len(distill(name, ipc=101, iterations=0).tensors["images"]) == 202
            return
        message = (
            "class 0 has 100 training images but ipc is 101; lower --ipc to 100 or choose a larger data set"
        )
        with pytest.raises(ValueError, match=message):
            distill(name, ipc=101)

    def test_an_ipc_of_zero_is_refused(self, name: str) -> None:
        if name != "full":
            with pytest.raises(ValueError, match="ipc is 0; expected at least 1 image a class"):
                distill(name, ipc=0)

    def test_a_class_without_images_is_named(self, name: str) -> None:
        if name != "full":
            gap = TRAIN.subset(TRAIN.of_class(0))
            with pytest.raises(ValueError, match="class 1 of two has no training images"):
                distill(name, task=RunTask(gap, 1, 0))


@pytest.mark.parametrize("name", [n for n in NAMES if n in SUBSETS])
class TestSubsets:
    def test_images_are_named_not_copied(self, name: str) -> None:
        made = distill(name)
        assert made.codec.name == "subset" and list(made.tensors) == ["indices"]
        indices = made.tensors["indices"]
        assert len(set(indices.tolist())) == len(indices)
        assert made.targets.ids is not None
        assert made.targets.ids.tolist() == TRAIN.labels[indices.long()].tolist()


def test_full_names_every_training_image() -> None:
    assert distill("full").tensors["indices"].tolist() == list(range(200))


@pytest.mark.parametrize("name", ["herding", "k_center"])
class TestFeaturesOfATeacher:
    def test_a_teacher_gives_another_choice_and_its_cost_is_counted(
        self, name: str, fresh_cache: Path
    ) -> None:
        settings = dict(features="teacher", network="ConvNetD1W4", epochs=2)
        pixels, first = distill(name), distill(name, **settings)
        assert first.tensors["indices"].tolist() != pixels.tensors["indices"].tolist()
        assert first.card.cost.teacher_s > 0 and pixels.card.cost.teacher_s == 0
        (used,) = (fresh_cache / "teachers").glob("*/network.safetensors")
        assert first.card.notes["teachers"] == [used.parent.name] and "teachers" not in pixels.card.notes
        again = distill(name, **settings)
        assert again.card.cost.teacher_s == first.card.cost.teacher_s
        assert torch.equal(again.tensors["indices"], first.tensors["indices"])

    def test_other_features_are_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="features is 'edges'; expected one of pixels, teacher"):
            distill(name, features="edges")


class Killed(Exception):
    pass


@dataclass
class Fragile(RunTask):
    """Dies as it begins iteration ``dies_at``, as a killed process would after its last checkpoint."""

    dies_at: int = 2

    def loop(self, total: int, state: Any = (), show: Any = None) -> Any:
        for it in super().loop(total, state, show):
            if it == self.dies_at:
                raise Killed
            yield it


@dataclass
class Mirrored(RunTask):
    def view(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([images, images.flip(-1)]), torch.cat([labels, labels])


@dataclass
class Unchanged(RunTask):
    """Counts how many synthetic batches pass."""

    passed: int = 0

    def view(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.passed += 1
        return images, labels


@pytest.mark.parametrize("name", ITERATIVE)
class TestIterativeMethods:
    def test_a_killed_distillation_goes_on_to_the_same_bits(self, name: str, tmp_path: Path) -> None:
        whole = distill(name, 5)
        place: dict[str, Any] = dict(run=RunFolder(tmp_path), key="cell", checkpoint_every_s=0.0)
        with pytest.raises(Killed):
            distill(name, task=Fragile(TRAIN, 3, 5, **place))
        resumed = RunTask(TRAIN, 3, 5, **place)
        made = distill(name, task=resumed)
        assert all(map(torch.equal, tensors(made), tensors(whole)))
        assert made.card.cost.iterations == 4

    def test_every_step_passes_its_batch_through_the_view(self, name: str) -> None:
        task = Unchanged(TRAIN, 3, 0)
        distill(name, task=task)
        assert task.passed == SEEN[name]

    def test_a_wrapper_changes_the_result(self, name: str) -> None:
        plain, wrapped = distill(name), distill(name, task=Mirrored(TRAIN, 3, 0))
        assert wrapped.tensors["images"].shape == plain.tensors["images"].shape
        assert not torch.equal(wrapped.tensors["images"], plain.tensors["images"])

    def test_the_images_move_away_from_their_start(self, name: str) -> None:
        start, end = distill(name, iterations=0).tensors["images"], distill(name).tensors["images"]
        assert start.shape == end.shape == (6, 1, 8, 8)
        assert not torch.equal(start, end)

    def test_mosaics_are_pixels_and_other_images_are_standardised(self, name: str) -> None:
        made = distill(name, iterations=0)
        assert made.space is not None and made.space.stored == ("unit" if name in MOSAICS else "input")
        images = made.tensors["images"]
        assert (0 <= float(images.min()) <= float(images.max()) <= 1) == (name in MOSAICS)

    def test_start_and_augmentation_are_choices(self, name: str) -> None:
        defaults = registry.get("methods", name)()
        base = distill(name).fingerprint()
        start = dict(init="real" if defaults.init == "noise" else "noise")
        if name in NO_NOISE:  # its experts have all images here right, so that it chooses as chance does
            start = dict(label_init="one")
        assert distill(name, **start).fingerprint() != base
        other = "dsa" if defaults.augment == "none" else "none"
        assert distill(name, augment=other).fingerprint() != base
        with pytest.raises(ValueError, match=r"init is 'smart'; expected one of (real|mix), "):
            distill(name, init="smart")
        with pytest.raises(ValueError, match="augment is 'blur'; expected one of none, dsa, "):
            distill(name, augment="blur")

    def test_a_momentum_that_never_settles_is_refused(self, name: str) -> None:
        settings = {"optimiser": "sgd"} if name == "ncfm" else {}
        with pytest.raises(ValueError, match="momentum is 1.5; expected a number from 0 to 1, 1 excluded"):
            distill(name, momentum=1.5, **settings)

    def test_divergence_is_an_error_with_its_cure(self, name: str) -> None:
        if name in MOSAICS:  # clamped in every iteration
            assert bool(torch.isfinite(distill(name, image_lr=1e3).tensors["images"]).all())
            return
        if name == "datm":  # such iterations change nothing, and are counted
            made = distill(name, image_lr=1e38, iterations=12)
            assert made.card.notes["skipped"].startswith("11 of 12 iterations had a loss above 1 ")
            return
        message = (
            r"diverged: loss is (nan|inf) at iteration \d+ of 12; lower its learning rate \(image_lr=1e\+38"
        )
        with pytest.raises(ValueError, match=message):
            distill(name, image_lr=1e38, iterations=12)

    def test_a_memory_limit_changes_nothing_but_rounding(self, name: str) -> None:
        free, tight = distill(name), distill(name, task=RunTask(TRAIN, 3, 0, memory_limit_mib=0.01))
        assert torch.allclose(free.tensors["images"], tight.tensors["images"], atol=1e-4)

    def test_the_loss_falls(self, name: str) -> None:
        losses: list[float] = []

        @dataclass
        class Logged(RunTask):
            def log(self, **values: float | Tensor) -> None:
                losses.append(float(values["loss"]))

        data: ImageData = TRAIN
        start = "real" if name in NO_NOISE else "noise"
        settings: dict[str, Any] = dict(iterations=120, augment="none", init=start)
        distill(name, task=Logged(data, 3, 0), **settings)
        assert len(losses) == 120
        first, last = sum(losses[:10]), sum(losses[-10:])
        assert last < 0.9 * first


def test_attention_matching_refuses_a_network_without_maps() -> None:
    with pytest.raises(ValueError, match="attention matching needs a ConvNet"):
        distill("datadam", network="MLP")


@pytest.mark.parametrize("name", ["random", "herding", "k_center"])
def test_coresets_are_stored_ascending_and_distinct_inside_each_class(name):
    made = distill(name, ipc=4)
    for part in made.tensors["indices"].split(4):
        assert part.tolist() == sorted(set(part.tolist()))
