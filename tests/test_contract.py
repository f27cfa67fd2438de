"""The frozen types that cross borders: what they refuse, and what their fingerprints depend on."""

import pickle
from dataclasses import replace

import pytest
import torch

from ddbench.contract import (
    ZCA,
    Card,
    CodecSpec,
    DistilledSet,
    ImageData,
    Labeller,
    NetworkRef,
    Program,
    RealData,
    Space,
    Targets,
    canonical,
)
from ddbench.trainplan import ViewPlan

SPACE = Space("input", (0.5,), (0.25,))


def data(n=4, classes=2, split="train", **other):
    made = dict(
        name="tiny",
        split=split,
        images=torch.arange(n * 4, dtype=torch.uint8).view(n, 1, 2, 2),
        labels=torch.arange(n) % classes,
        classes=classes,
        mean=(0.5,),
        std=(0.25,),
    )
    return ImageData(**{**made, **other})


def a_set(**other):
    made = dict(
        tensors={"images": torch.arange(8.0).view(2, 1, 2, 2)},
        targets=Targets(ids=torch.tensor([0, 1])),
        space=SPACE,
        card=Card(dataset="tiny", classes=2, shape=(1, 2, 2)),
    )
    return DistilledSet(**{**made, **other})


class TestRealData:
    def test_images_must_be_uint8(self):
        with pytest.raises(ValueError, match=r"tiny/train: images are torch.float32 .* expected uint8"):
            data(images=torch.zeros(4, 1, 2, 2))

    def test_labels_outside_the_classes_are_named(self):
        with pytest.raises(
            ValueError, match="labels run from 0 to 3 but there are 2 classes; expected 0 to 1"
        ):
            data(labels=torch.tensor([0, 1, 2, 3]))

    def test_statistics_need_one_number_a_channel(self):
        with pytest.raises(ValueError, match="2 means and 1 deviations for 1 channels"):
            data(mean=(0.1, 0.2))

    def test_splits_must_agree(self):
        with pytest.raises(ValueError, match="both splits must agree"):
            RealData(data(), data(split="test", classes=3, n=6))

    def test_a_subset_has_a_fingerprint_of_its_own(self):
        whole = data()
        part = whole.subset(torch.tensor([2, 0]))
        assert part.labels.tolist() == [0, 0] and len(part) == 2
        assert part.fingerprint != whole.fingerprint == data().fingerprint
        assert whole.of_class(1).tolist() == [1, 3]


class TestSpace:
    def test_real_pixels_and_stored_units_meet_in_the_same_inputs(self):
        space = Space("unit", (0.5,), (0.25,))
        pixels = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
        assert torch.allclose(space.real_to_input(pixels), torch.tensor([[[[-2.0, 2.0]]]]))
        assert torch.allclose(space.to_input(pixels.float() / 255), space.real_to_input(pixels))
        assert torch.allclose(replace(space, stored="uint8").to_input(pixels), space.real_to_input(pixels))

    def test_overshoot_is_not_clipped_on_the_way_to_the_network(self):
        assert Space("unit", (0.5,), (0.25,)).to_input(torch.full((1, 1, 1, 1), 1.5)).item() == 4.0

    def test_a_space_may_treat_real_images_otherwise_as_an_authors_code_did(self):
        space = Space("input", (0.5,), (0.25,), real_mean=(0.0,), real_std=(1.0,))
        assert space.real_to_input(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)).item() == 1.0

    def test_float64_inputs_stay_and_fp16_becomes_float32(self):
        for dtype, expected in ((torch.float64, torch.float64), (torch.float16, torch.float32)):
            assert SPACE.to_input(torch.zeros(1, 1, 1, 1, dtype=dtype)).dtype == expected

    def test_whitening_is_undone_for_pictures(self):
        zca = ZCA(torch.full((4,), 0.25), torch.diag(torch.tensor([1.0, 2.0, 4.0, 5.0])), 0.1, "abc")
        space = Space("input", (0.5,), (0.25,), zca)
        unit = torch.tensor([[[[0.1, 0.2], [0.3, 0.9]]]])
        inputs = space.unit_to_input(unit)
        assert torch.allclose(inputs, zca((unit - 0.5) / 0.25))
        assert torch.allclose(space.to_unit(inputs), unit, atol=1e-6)

    def test_whitening_is_moved_once_a_device_and_dtype_and_gives_the_same(self, monkeypatch):
        rng = torch.Generator().manual_seed(0)
        mean, transform = torch.rand(4, generator=rng), torch.randn(4, 4, generator=rng)
        zca = ZCA(mean, transform, 0.1, "abc")
        moves = []
        move = torch.Tensor.to
        monkeypatch.setattr(
            torch.Tensor, "to", lambda t, *to: moves.append(t.shape) or move(t, *to), raising=True
        )
        images = [torch.randn(n, 1, 2, 2, generator=rng) for n in (3, 1, 5)]
        for dtype, places in ((torch.float32, 1), (torch.float64, 2), (torch.float32, 2)):
            for x in images:
                x = x.type(dtype)
                out = zca(x)
                expected = (x.flatten(1) - mean.type(dtype)) @ transform.type(dtype)
                assert out.dtype == dtype and out.shape == x.shape
                assert torch.equal(out.flatten(1), expected)
            assert len(moves) == 2 * places, "the mean and the transform, not with every batch"
        x = images[0].requires_grad_()
        assert torch.autograd.grad(zca(x).sum(), x)[0].shape == x.shape, "inputs stay differentiable"
        assert zca.hash == ZCA(mean, transform, 0.1, "abc").hash
        assert pickle.loads(pickle.dumps(zca))(x).equal(zca(x))

    def test_whitening_of_the_wrong_shape_is_refused(self):
        with pytest.raises(ValueError, match=r"mean \(4,\) and transform \(3, 3\)"):
            ZCA(torch.zeros(4), torch.eye(3), 0.1, "")

    def test_spaces_with_equal_inputs_may_store_differently(self):
        assert SPACE.same_inputs(replace(SPACE, stored="unit"))
        assert not SPACE.same_inputs(replace(SPACE, mean=(0.4,)))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("float", (0.5,), (0.25,)), "space stores 'float'; expected one of input, unit, uint8"),
            (("unit", (0.5,), (0.0,)), "expected one positive std for each mean"),
        ],
    )
    def test_what_is_no_space_is_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Space(*arguments)


class TestTargets:
    def test_ids_become_int64(self):
        assert Targets(ids=torch.tensor([0, 1], dtype=torch.uint8)).ids.dtype == torch.int64

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (dict(), "targets are empty"),
            (
                dict(ids=torch.tensor([0.0, 1.0])),
                r"label ids are torch.float32 \(2,\); expected integers \(n,\)",
            ),
            (dict(soft=torch.zeros(2, 2)), "of kind 'none' are present"),
            (
                dict(soft=torch.zeros(2), kind="logits"),
                r"soft labels are torch.float32 \(2,\); expected floats",
            ),
            (dict(soft=torch.zeros(2, 2, dtype=torch.int64), kind="logits"), "soft labels are torch.int64"),
            (
                dict(soft=torch.tensor([[0.0, float("nan")]]), kind="logits"),
                "soft labels: 1 of 2 values are not finite",
            ),
            (dict(ids=torch.tensor([0]), weights=torch.tensor([float("inf")])), "weights: 1 of 1 values"),
            (dict(ids=torch.tensor([0]), soft=torch.zeros(2, 2), kind="values"), "one row an item in each"),
        ],
    )
    def test_what_is_no_target_is_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Targets(**arguments)


class TestLabellersAndPrograms:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: NetworkRef("ConvNet", "disk", "x"), "expected inline, cache or public"),
            (lambda: NetworkRef("ConvNet", "inline", ""), "empty key"),
            (lambda: NetworkRef("ConvNet", "cache", "x", weight=0), "network weight is 0"),
            (lambda: NetworkRef("ConvNet", "cache", "x", outputs=(1,)), "public networks only"),
            (lambda: Labeller((), SPACE), "no networks"),
            (
                lambda: Labeller((NetworkRef("a", "cache", "b"),), SPACE, "halves"),
                "expected one of eval, train, train-halves",
            ),
            (
                lambda: Labeller((NetworkRef("a", "cache", "b"),), SPACE, sees="all"),
                "expected augmented or clean",
            ),
            (
                lambda: Labeller((NetworkRef("a", "cache", "b"),), SPACE, combine="sum"),
                "expected mean or norm-mean",
            ),
            (lambda: Program(torch.tensor([1])), r"expected floats \(1,\) or \(T,\)"),
            (lambda: Program(torch.ones(2)), r"2 step sizes without an order"),
            (lambda: Program(torch.ones(2), ((0,),)), "2 step sizes for 1 batches"),
            (lambda: Program(torch.ones(1), ((),)), "empty batch"),
            (lambda: Program(torch.tensor([float("nan")])), "step sizes: 1 of 1 values are not finite"),
            (lambda: Program(torch.ones(1), init="zeros"), "program init is 'zeros'"),
            (lambda: Program(torch.ones(1), init="inline:"), "inline:<prefix>"),
        ],
    )
    def test_what_does_not_hold_together_is_refused(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


class TestDistilledSet:
    def test_pixels_that_are_not_finite_are_counted(self):
        with pytest.raises(ValueError, match=r"tensor 'images' .* has 2 values that are not finite \(of 4\)"):
            a_set(tensors={"images": torch.tensor([[[[0, float("nan")], [float("inf"), 1]]]])})

    def test_a_changed_card_keeps_its_other_fields(self):
        changed = a_set().changed(card=dict(seed=3))
        assert changed.card.seed == 3 and changed.card.dataset == "tiny"

    @pytest.mark.parametrize(
        "change",
        [
            dict(tensors={"images": torch.arange(8.0).view(2, 1, 2, 2) + 1}),
            dict(tensors={"images": torch.arange(8.0).view(2, 1, 2, 2).half()}),
            dict(targets=Targets(ids=torch.tensor([1, 0]))),
            dict(targets=Targets(ids=torch.tensor([0, 1]), weights=torch.ones(2))),
            dict(space=replace(SPACE, mean=(0.4,))),
            dict(space=replace(SPACE, zca=ZCA(torch.zeros(4), torch.eye(4), 0.1, "abc"))),
            dict(codec=CodecSpec("grid", {"factor": 2})),
            dict(program=Program(torch.tensor([0.1]))),
            dict(card=dict(data_fingerprint="other")),
            dict(
                targets=Targets(
                    ids=torch.tensor([0, 1]),
                    labeller=Labeller((NetworkRef("ConvNet", "cache", "f"),), SPACE, views=ViewPlan(2, 2)),
                )
            ),
        ],
    )
    def test_all_that_a_student_sees_changes_the_fingerprint(self, change):
        assert a_set().changed(**change).fingerprint() != a_set().fingerprint()

    def test_where_it_comes_from_does_not_change_the_fingerprint(self):
        assert a_set().changed(card=dict(method="dm", seed=9)).fingerprint() == a_set().fingerprint()

    def test_settings_mean_the_same_as_tuples_lists_or_in_another_order(self):
        one = a_set(codec=CodecSpec("x", {"a": (1, 2), "b": 0.5}))
        other = a_set(codec=CodecSpec("x", {"b": 0.5, "a": [1, 2]}))
        assert one.fingerprint() == other.fingerprint()


def test_canonical_text_takes_numbers_of_any_library_and_refuses_the_rest():
    assert canonical({"b": torch.tensor(2), "a": (1.5, None)}) == '{"a": [1.5, null], "b": 2}'
    with pytest.raises(TypeError, match="cannot be stored as JSON"):
        canonical({"a": object()})
