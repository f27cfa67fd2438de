"""Codecs: stored tensors to items, one small made-up example of each kind, and every number that the specs quote."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddbench import registry
from ddbench.codecs import (
    Codec,
    check,
    count,
    decode_grid,
    graphs,
    grid_source,
    infer_naturals,
    items,
    patch_shuffle,
    random_tile,
)
from ddbench.contract import Card, CodecSpec, DistilledSet, ImageData, Program, Space, Targets
from ddbench.seeding import Generators

INPUT = Space("input", (0.5,), (0.25,))
UNIT = Space("unit", (0.5,), (0.25,))
BYTES = Space("uint8", (0.5,), (0.25,))


def real(n=10, classes=2, side=4, name="cifar10"):
    g = torch.Generator().manual_seed(0)
    return ImageData(
        name,
        "train",
        torch.randint(256, (n, 1, side, side), generator=g, dtype=torch.uint8),
        torch.arange(n) % classes,
        classes,
        (0.5,),
        (0.25,),
        flip=False,
    )


def made(tensors, targets=None, space=INPUT, codec="identity", settings=None, kind="image", **card):
    n = len(next(iter(tensors.values())))
    targets = targets or Targets(ids=torch.arange(n) % 2)
    spec = CodecSpec(codec, settings or {})
    return DistilledSet(tensors, targets, space, spec, kind=kind, card=Card(**card))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class TestIdentity:
    def test_images_are_network_inputs_once_and_for_all(self):
        images = torch.rand(4, 1, 4, 4)
        it = items(made({"images": images}, space=UNIT))
        assert torch.equal(it.to_input(it.stored), (images - 0.5) / 0.25)
        assert it.to_input(it.stored) is it.stored
        assert (
            it.ids.tolist() == [0, 1, 0, 1] and it.classes == 2 and it.space is not None and it.visit is None
        )

    def test_fp16_is_read_exactly_and_becomes_float32(self):
        images = torch.rand(2, 1, 2, 2).half()
        it = items(made({"images": images}))
        assert it.stored.dtype == torch.float32 and torch.equal(it.stored, images.float())

    def test_float64_stays_only_if_asked_for(self):
        images = torch.rand(2, 1, 2, 2, dtype=torch.float64)
        assert items(made({"images": images})).stored.dtype == torch.float32
        assert torch.equal(items(made({"images": images}), dtype=torch.float64).stored, images)

    def test_decoding_is_differentiable(self):
        images = torch.rand(2, 1, 2, 2, requires_grad=True)
        registry.get("codecs", "identity")().decode({"images": images}, {}).sum().backward()
        assert torch.equal(images.grad, torch.ones_like(images))

    def test_items_over_the_memory_limit_are_decoded_batch_by_batch(self):
        images = torch.rand(6, 1, 4, 4)
        whole = items(made({"images": images}, space=UNIT))
        lazy = items(made({"images": images}, space=UNIT), memory_limit_mib=1e-5)
        assert lazy.stored.shape == (6,)
        rows = torch.tensor([4, 0, 4])
        assert torch.equal(lazy.to_input(lazy.stored[rows]), whole.to_input(whole.stored[rows]))


class TestGrid:
    def test_decode_of_the_ramp_in_the_ncfm_spec(self):
        decoded = decode_grid(torch.arange(16.0).view(1, 1, 4, 4), 2)
        first = torch.tensor([[0, 0.25, 0.75, 1], [1, 1.25, 1.75, 2], [3, 3.25, 3.75, 4], [4, 4.25, 4.75, 5]])
        for image, offset in zip(decoded, (0, 2, 8, 10), strict=True):
            assert torch.equal(image[0], first + offset)

    def test_tiles_come_block_by_block(self):
        both = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
        assert decode_grid(both, 2).mean((1, 2, 3)).tolist() == [0, 1] * 4
        assert grid_source(2, 2).tolist() == [0, 1] * 4

    def test_what_the_factor_does_not_divide_is_padded_with_grey(self):
        decoded = decode_grid(torch.zeros(1, 1, 5, 5), 2)
        assert decoded.shape == (4, 1, 5, 5)
        assert torch.equal(decoded[-1, 0, -1], torch.full((5,), 0.5))
        assert decoded[0].abs().max() == 0

    @pytest.mark.parametrize(("n", "parts"), [(20, (12, 3, 5)), (10, (10, 0, 0)), (50, (8, 3, 39))])
    def test_bound_takes_the_counts_of_the_idc_spec(self, n, parts):
        source = grid_source(n, 3, "bound", 128)
        assert len(source) == sum(m * f * f for m, f in zip(parts, (3, 2, 1), strict=True))
        assert len(decode_grid(torch.zeros(n, 1, 6, 6), 3, "bound", 128)) == len(source)
        repeats = torch.bincount(source, minlength=n).tolist()
        assert repeats == [9] * parts[0] + [4] * parts[1] + [1] * parts[2]

    def test_bound_with_more_images_than_the_bound_keeps_them_whole(self):
        assert grid_source(130, 3, "bound", 128).tolist() == list(range(130))

    def test_multi_is_the_union_of_the_factors(self):
        images = torch.rand(2, 1, 6, 6)
        decoded = decode_grid(images, 3, "multi")
        assert len(decoded) == 2 * (1 + 4 + 9)
        assert torch.equal(decoded[:2], images)
        assert torch.equal(decoded[2:10], decode_grid(images, 2))

    def test_factor_1_changes_nothing(self):
        images = torch.rand(2, 1, 5, 5)
        assert torch.equal(decode_grid(images, 1), images)

    def test_decoding_is_differentiable(self):
        images = torch.rand(1, 1, 4, 4, requires_grad=True)
        decode_grid(images, 2).sum().backward()
        assert torch.allclose(images.grad, torch.full((1, 1, 4, 4), 4.0))

    def test_labels_of_stored_images_reach_their_items(self):
        soft = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
        targets = Targets(
            ids=torch.tensor([0, 1]), soft=soft, kind="logits", weights=torch.tensor([1.0, 2.0])
        )
        it = items(made({"images": torch.rand(2, 1, 4, 4)}, targets, UNIT, "grid", classes=2))
        assert len(it) == 8 and it.ids.tolist() == [0, 1] * 4
        assert torch.equal(it.soft, soft.repeat(4, 1)) and it.weights.tolist() == [1, 2] * 4

    def test_targets_may_also_have_one_row_an_item(self):
        targets = Targets(ids=torch.arange(8) % 2)
        it = items(made({"images": torch.rand(2, 1, 4, 4)}, targets, UNIT, "grid"))
        assert it.ids.tolist() == [0, 1] * 4

    def test_uint8_mosaics_decode_on_their_own_scale(self):
        images = torch.randint(256, (2, 1, 5, 5), dtype=torch.uint8)
        it = items(made({"images": images}, space=BYTES, codec="grid"))
        units = items(made({"images": images.float() / 255}, space=UNIT, codec="grid"))
        assert torch.allclose(it.to_input(it.stored), units.to_input(units.stored), atol=1e-5)

    @pytest.mark.parametrize("kind", ["single", "multi", "bound"])
    def test_chosen_rows_decode_as_they_do_among_all(self, kind):
        codec = registry.get("codecs", "grid")()
        how = {**codec.defaults, "kind": kind, "factor": 2, "bound": 10, "groups": 2}
        tensors = {"images": torch.rand(6, 1, 5, 5)}
        whole = codec.decode(tensors, how)
        assert len(whole) == codec.count(tensors, how)
        rows = torch.randperm(len(whole), generator=generator())
        assert torch.allclose(codec.decode(tensors, how, rows=rows), whole[rows])

    def test_groups_are_bounded_apart(self):
        codec = registry.get("codecs", "grid")()
        how = {**codec.defaults, "kind": "bound", "factor": 2, "bound": 7, "groups": 2}
        source = codec.source({"images": torch.zeros(6, 1, 4, 4)}, how)
        assert source.tolist() == [0, 0, 0, 0, 1, 2, 3, 3, 3, 3, 4, 5]

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"factor": 0}, "grid factor is 0"),
            ({"kind": "double"}, "expected single, multi, bound or whole"),
            ({"visit": "roll"}, "expected none, patch-shuffle or random-tile"),
            ({"visit": "random-tile"}, "expected kind 'whole', not 'single'"),
            ({"groups": 3}, "3 groups for 2 images"),
            ({"fctor": 2}, "codec 'grid' has no setting 'fctor'; nearest: factor"),
        ],
    )
    def test_settings_that_mean_nothing_are_refused(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            items(made({"images": torch.rand(2, 1, 4, 4)}, space=UNIT, codec="grid", settings=wrong))


class TestVisits:
    def test_patch_shuffle_keeps_the_pixels_of_every_image(self):
        batch = torch.arange(3 * 49.0).view(3, 1, 7, 7)
        shuffled = patch_shuffle(batch, 3, generator())
        assert torch.equal(shuffled.flatten(1).sort(1).values, batch.flatten(1))
        assert not torch.equal(shuffled, batch)

    def test_patch_shuffle_with_factor_1_is_the_identity(self):
        batch = torch.rand(2, 1, 4, 4)
        assert patch_shuffle(batch, 1, generator()) is batch

    def test_patch_shuffle_moves_whole_strips(self):
        tiles = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
        shuffled = patch_shuffle(tiles.expand(64, 1, 4, 4), 2, generator())
        seen = {tuple(x[0, ::2, ::2].flatten().tolist()) for x in shuffled}
        assert seen == {(1, 2, 3, 4), (2, 1, 4, 3), (3, 4, 1, 2), (4, 3, 2, 1)}
        assert all(torch.equal(x[0, :2, :2], x[0, 0, 0].expand(2, 2)) for x in shuffled)

    def test_a_random_tile_never_crosses_a_border(self):
        tiles = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
        drawn = random_tile(tiles.expand(64, 1, 4, 4), 2, generator())
        assert drawn.shape == (64, 1, 2, 2)
        assert (drawn.flatten(1).amax(1) == drawn.flatten(1).amin(1)).all()
        assert set(drawn.flatten().tolist()) == {1, 2, 3, 4}

    @pytest.mark.parametrize(("upsample", "side"), [(True, 4), (False, 2)])
    def test_items_offer_the_visit_and_stay_as_stored(self, upsample, side):
        how = {"kind": "whole", "visit": "random-tile", "upsample": upsample}
        images = torch.randint(256, (2, 1, 4, 4), dtype=torch.uint8)
        it = items(made({"images": images}, space=BYTES, codec="grid", settings=how))
        assert len(it) == 2 and torch.equal(it.stored, images)
        inputs = it.to_input(it.visit(it.stored, generator()))
        assert inputs.shape == (2, 1, side, side) and inputs.dtype == torch.float32
        again = it.to_input(it.visit(it.stored, generator()))
        assert torch.equal(inputs, again)

    def test_a_mosaic_is_one_item_under_patch_shuffle(self):
        how = {"kind": "whole", "visit": "patch-shuffle", "factor": 2}
        it = items(made({"images": torch.rand(3, 1, 4, 4)}, space=UNIT, codec="grid", settings=how))
        assert len(it) == 3
        assert torch.equal(it.visit(it.stored, generator(1)), patch_shuffle(it.stored, 2, generator(1)))


class TestCompensated:
    def test_naturals_and_sums_in_the_order_of_the_docstring(self):
        # 2 naturals a class, 2 classes, 1 network; grey levels 0, 51, 102, 255 of 255
        naturals = torch.tensor([0, 51, 102, 255], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 2, 2)
        compensators = torch.tensor([0.5, -0.5]).half().view(2, 1, 1, 1).expand(2, 1, 2, 2)
        tensors = {"naturals": naturals, "compensators": compensators}
        d = made(tensors, Targets(ids=torch.tensor([0, 1, 0, 1])), UNIT, "compensated", {"per_class": 2})
        it = items(d)
        values = (it.stored[:, 0, 0, 0] * 0.25 + 0.5).tolist()
        assert values == pytest.approx([0, 0.2, 0.4, 1, 0.5, 0.7, 0, 0.5], abs=1e-6)  # 0.4 - 0.5 is clamped
        assert it.ids.tolist() == [0, 1] * 4 and count(d) == 8

    def test_items_differ_between_classes_exactly_as_naturals_do(self):
        naturals = torch.randint(100, 150, (3, 1, 2, 2), dtype=torch.uint8)
        tensors = {"naturals": naturals, "compensators": (torch.rand(2, 1, 2, 2) * 0.1).half()}
        merged = registry.get("codecs", "compensated")().decode(tensors, {"per_class": 1})
        for m in (1, 2):
            difference = merged[3 * m] - merged[3 * m + 2]
            assert torch.allclose(difference, (naturals[0].float() - naturals[2].float()) / 255, atol=1e-6)

    def test_one_compensator_gets_the_sum_of_the_class_gradients(self):
        naturals = torch.full((5, 1, 2, 2), 100, dtype=torch.uint8)
        u = torch.zeros(1, 1, 2, 2, requires_grad=True)
        merged = registry.get("codecs", "compensated")().decode(
            {"naturals": naturals, "compensators": u}, {"per_class": 1}
        )
        (merged[5:] * torch.arange(5.0).view(5, 1, 1, 1)).sum().backward()
        assert torch.equal(u.grad, torch.full((1, 1, 2, 2), 10.0)) and u.numel() == 4

    @pytest.mark.gpu
    def test_a_large_set_is_decoded_for_a_gpu_batch_by_batch(self):
        naturals = torch.randint(256, (4, 1, 2, 2), dtype=torch.uint8)
        tensors = {"naturals": naturals, "compensators": torch.rand(2, 1, 2, 2).half()}
        d = made(tensors, Targets(ids=torch.arange(4)), UNIT, "compensated")
        it = items(d, device="cuda", memory_limit_mib=0.0)
        assert torch.allclose(it.to_input(it.stored).cpu(), items(d).stored)

    def test_without_compensators_the_items_are_the_naturals(self):
        naturals = torch.randint(256, (2, 1, 2, 2), dtype=torch.uint8)
        tensors = {"naturals": naturals, "compensators": torch.zeros(0, 1, 2, 2).half()}
        it = items(made(tensors, space=UNIT, codec="compensated"))
        assert torch.allclose(it.stored, BYTES.to_input(naturals))

    @pytest.mark.parametrize(
        ("classes", "networks", "ipc", "per_class", "items_a_class", "stored"),
        [
            (10, 4, 10, 7, 35, 98),
            (10, 4, 50, 35, 175, 490),
            (100, 4, 10, 9, 45, 936),
            (100, 4, 50, 48, 240, 4992),
            (100, 4, 100, 96, 480, 9984),
            (200, 4, 10, 9, 45, 1836),
            (200, 4, 50, 49, 245, 9996),
            (1000, 3, 10, 9, 36, 9027),
            (1000, 3, 50, 49, 196, 49147),
            (10, 4, 1, 0, 0, 0),
        ],
    )
    def test_the_budget_table_of_the_infer_spec(
        self, classes, networks, ipc, per_class, items_a_class, stored
    ):
        j = infer_naturals(ipc, classes, networks)
        assert j == per_class
        assert (networks + 1) * j == items_a_class
        assert j * classes + networks * j == stored

    def test_counts_agree_with_the_spec(self):
        tensors = {
            "naturals": torch.zeros(70, 1, 1, 1, dtype=torch.uint8),
            "compensators": torch.zeros(28, 1, 1, 1).half(),
        }
        codec = registry.get("codecs", "compensated")()
        assert codec.count(tensors, {"per_class": 7}) == 350

    @pytest.mark.parametrize(
        ("change", "per_class", "message"),
        [
            ({"naturals": torch.zeros(4, 1, 2, 2)}, 2, "expected uint8 and floats"),
            ({"compensators": torch.zeros(2, 1, 3, 3).half()}, 2, "expected the same"),
            ({}, 3, "expected a common divisor"),
        ],
    )
    def test_parts_that_do_not_fit_are_refused(self, change, per_class, message):
        tensors = {
            "naturals": torch.zeros(4, 1, 2, 2, dtype=torch.uint8),
            "compensators": torch.zeros(2, 1, 2, 2).half(),
            **change,
        }
        with pytest.raises(ValueError, match=message):
            ids = torch.zeros(4, dtype=torch.long)
            check(made(tensors, Targets(ids=ids), UNIT, "compensated", {"per_class": per_class}))


class TestSubset:
    def subset(self, data, indices, **card):
        chosen = torch.tensor(indices, dtype=torch.int16)
        card = {"dataset": data.name, "data_fingerprint": data.fingerprint, "shape": data.shape, **card}
        return made({"indices": chosen}, Targets(ids=data.labels[chosen.long()]), INPUT, "subset", **card)

    def test_images_stay_uint8_and_are_standardised_as_real_ones(self):
        data = real()
        it = items(self.subset(data, [7, 2]), data)
        assert it.stored.dtype == torch.uint8 and torch.equal(it.stored, data.images[[7, 2]])
        assert torch.equal(it.to_input(it.stored), data.space.real_to_input(data.images[[7, 2]]))
        assert it.ids.tolist() == [1, 0] and it.flip is False and it.classes == 2

    def test_all_of_the_data_in_order_is_not_copied(self):
        data = real()
        assert items(self.subset(data, list(range(10))), data).stored.data_ptr() == data.images.data_ptr()

    def test_a_huge_subset_is_read_batch_by_batch(self):
        data = real()
        it = items(self.subset(data, [9, 1, 5]), data, memory_limit_mib=1e-6)
        assert it.stored.tolist() == [0, 1, 2]
        assert torch.equal(it.to_input(it.stored[[2, 0]]), data.space.real_to_input(data.images[[5, 9]]))

    def test_other_data_than_those_it_was_chosen_from_are_refused(self):
        data, other = real(), real(n=12)
        with pytest.raises(
            ValueError, match=f"{data.fingerprint}, but the training split given .* {other.fingerprint}"
        ):
            items(self.subset(data, [0, 1]), other)

    def test_it_needs_the_data(self):
        with pytest.raises(
            ValueError, match=r"the set names images of cifar10 .* expected its training split"
        ):
            items(self.subset(real(), [0, 1]))

    def test_indices_outside_the_data_are_named(self):
        data = real()
        wrong = self.subset(data, [0, 1])
        wrong = wrong.changed(tensors={"indices": torch.tensor([0, 10])})
        with pytest.raises(
            ValueError, match="indices run from 0 to 10 but cifar10/train has 10 images; expected 0 to 9"
        ):
            items(wrong, data)


class TestResampled:
    def law(self, n, ratio, variant, ids=None, seed=0):
        codec = registry.get("codecs", "resampled")()
        law = codec.law({"indices": torch.arange(n)}, {"ratio": ratio, "variant": variant}, ids)
        return lambda epoch: law(epoch, Generators(seed)).tolist()

    def test_half_of_ten_without_replacement_makes_pairs_of_partitions(self):
        law = self.law(10, 0.5, "without")
        for first, second in ((0, 1), (2, 3)):
            assert sorted(law(first) + law(second)) == list(range(10))
        assert set(law(0)) != set(law(2)) and set(law(0)) != set(law(3))

    @pytest.mark.parametrize(("ratio", "blocks"), [(0.3, 3), (0.4, 2)])
    def test_the_tail_is_dropped_and_the_pool_reshuffled(self, ratio, blocks):
        law, k = self.law(10, ratio, "without"), round(ratio * 10)
        for start in range(0, 4 * blocks, blocks):
            seen = [i for epoch in range(start, start + blocks) for i in law(epoch)]
            assert len(seen) == len(set(seen)) == blocks * k

    @given(st.integers(2, 40), st.floats(0.05, 1), st.sampled_from(["without", "with"]), st.integers(0, 50))
    @settings(max_examples=50, deadline=None)
    def test_every_round_has_exactly_k_distinct_items(self, n, ratio, variant, epoch):
        k = round(ratio * n)
        if k:
            drawn = self.law(n, ratio, variant)(epoch)
            assert len(drawn) == len(set(drawn)) == k and set(drawn) <= set(range(n))

    def test_any_epoch_can_be_asked_for_alone(self):
        for variant in ("without", "with", "stratified"):
            ids = torch.arange(20) % 4
            in_order = [self.law(20, 0.25, variant, ids)(e) for e in range(9)]
            assert self.law(20, 0.25, variant, ids)(8) == in_order[8]
            assert self.law(20, 0.25, variant, ids, seed=1)(8) != in_order[8]

    def test_with_replacement_sees_the_expected_share_of_the_data(self):
        law, seen = self.law(2000, 0.1, "with"), set()
        for epoch in range(10):
            seen |= set(law(epoch))
        assert 1 - 0.9**10 == pytest.approx(0.651322, abs=1e-6)
        assert len(seen) / 2000 == pytest.approx(0.651322, abs=0.02)

    def test_stratified_draws_round_r_n_c_of_each_class(self):
        ids = torch.tensor([0] * 25 + [1] * 10 + [2] * 15)
        for epoch in range(3):
            drawn = self.law(50, 0.5, "stratified", ids)(epoch)
            assert len(set(drawn)) == len(drawn)
            assert torch.bincount(ids[drawn]).tolist() == [12, 5, 8]  # 12.5 rounds to even, as does 7.5

    def test_stratified_with_less_than_one_a_class_takes_one_and_spreads_the_rest(self):
        ids = torch.arange(40) % 10  # 4 a class; r n_c = 0.8
        for epoch in range(20):
            counts = torch.bincount(ids[self.law(40, 0.2, "stratified", ids)(epoch)], minlength=10)
            assert counts.min() == 1 and counts.sum() == 10  # round(0.2 * 40) = 8 is fewer than the classes
        ids = torch.tensor([0] * 38 + [1, 2])  # 2 classes of one image; k = 12
        counts = torch.bincount(ids[self.law(40, 0.3, "stratified", ids)(0)])
        assert counts.tolist() == [10, 1, 1]

    def test_the_whole_is_ordinary_training(self):
        for variant in ("without", "with", "stratified"):
            assert sorted(self.law(9, 1.0, variant, torch.arange(9) % 3)(4)) == list(range(9))

    def test_steps_of_the_spec(self):
        k = round(0.1 * 50_000)
        assert k // 128 == 39 and 200 * (k // 128) == 7800 and math.ceil(50_000 / 128) == 391

    def test_items_carry_the_law(self):
        data = real(n=20)
        card = dict(dataset="cifar10", data_fingerprint=data.fingerprint)
        targets = Targets(ids=data.labels)
        how = {"ratio": 0.2, "variant": "stratified"}
        it = items(made({"indices": torch.arange(20)}, targets, INPUT, "resampled", how, **card), data)
        drawn = it.law(3, Generators(0))
        assert torch.bincount(it.ids[drawn]).tolist() == [2, 2]

    @pytest.mark.parametrize(
        ("how", "message"),
        [
            ({"ratio": 0.0}, r"expected a share in \(0, 1\] of at least one image"),
            ({"ratio": 0.01}, "ratio is 0.01 of 10 images"),
            ({"variant": "bootstrap"}, "expected without, with or stratified"),
        ],
    )
    def test_laws_that_mean_nothing_are_refused(self, how, message):
        data = real()
        d = made(
            {"indices": torch.arange(10)}, None, INPUT, "resampled", how, data_fingerprint=data.fingerprint
        )
        with pytest.raises(ValueError, match=message):
            items(d, data)

    def test_stratified_needs_ids(self):
        data = real()
        targets = Targets(soft=torch.zeros(10, 2), kind="logits")
        d = made(
            {"indices": torch.arange(10)},
            targets,
            INPUT,
            "resampled",
            {"variant": "stratified"},
            data_fingerprint=data.fingerprint,
        )
        with pytest.raises(ValueError, match="needs label ids"):
            items(d, data)


def small_trees(**change):
    """Two itemsets: {a root with two leaves, a root with one leaf} of class 0, and a chain of three nodes of class 1."""
    tensors = {
        "size": torch.tensor([5, 3], dtype=torch.uint8),
        "parent": torch.tensor([0, 0, 0, 3, 3, 0, 0, 1], dtype=torch.uint8),
        "node": torch.tensor([0, 1, 1, 2, 1, 1, 0, 2], dtype=torch.uint8),
        "edge": torch.tensor([0, 1, 0, 0, 1, 0, 1, 1], dtype=torch.uint8),
        "node_table": torch.tensor([[1, 10], [2, 20], [3, 30]], dtype=torch.int16),
        "edge_table": torch.tensor([[7], [8]], dtype=torch.int16),
    }
    tensors = {k: v for k, v in {**tensors, **change}.items() if v is not None}
    targets = Targets(ids=torch.tensor([0, 1]), weights=torch.tensor([6.0, 4.0]))
    return made(tensors, targets, None, "trees", kind="graph", classes=2, dataset="mutag")


class TestTrees:
    def test_parents_become_edges_to_the_root(self):
        first, second = graphs(small_trees())
        assert first["edge_index"].tolist() == [[1, 2, 4], [0, 0, 3]]
        assert first["roots"].tolist() == [True, False, False, True, False]
        assert first["x"].tolist() == [[1, 10], [2, 20], [2, 20], [3, 30], [2, 20]]
        assert first["edge_attr"].tolist() == [[8], [7], [8]]
        assert (first["label"], first["weight"]) == (0, 6.0)
        assert second["edge_index"].tolist() == [[1, 2], [0, 1]]
        assert second["edge_attr"].tolist() == [[8], [8]] and second["roots"].tolist() == [True, False, False]
        assert count(small_trees()) == 2

    def test_edges_may_have_no_labels(self):
        assert graphs(small_trees(edge=None, edge_table=None))[0]["edge_attr"] is None

    def test_messages_along_the_edges_reach_a_root_as_in_the_real_graph(self):
        # GIN with sum aggregation, two layers: a path 0-1-2 and the depth-2 tree of its node 0 (walks, backtracking)
        x = torch.tensor([[1.0], [2.0], [5.0]], dtype=torch.float64)
        path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        tree = made(
            {
                "size": torch.tensor([4]),
                "parent": torch.tensor([0, 0, 1, 1]),
                "node": torch.tensor([0, 1, 0, 2]),
                "node_table": x,
            },
            Targets(ids=torch.tensor([0])),
            None,
            "trees",
            kind="graph",
        )
        (g,) = graphs(tree)

        def layer(h, edges):
            return torch.tanh(1.1 * h + 0.7 * torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))

        real_h, tree_h = x, g["x"]
        for _ in range(2):
            real_h, tree_h = layer(real_h, path), layer(tree_h, g["edge_index"])
        assert tree_h[g["roots"]].item() == pytest.approx(real_h[0].item(), abs=1e-12)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"size": torch.tensor([5, 4])}, "parent has 8 entries but the sizes sum to 9 nodes"),
            ({"size": torch.tensor([8, 0])}, "a graph has no nodes"),
            ({"parent": torch.tensor([0, 0, 0, 3, 5, 0, 0, 1])}, "a parent lies outside its graph"),
            ({"node_table": torch.zeros(2, 2)}, "node labels do not fit node_table"),
            ({"edge_table": None}, "edge labels do not fit edge_table"),
        ],
    )
    def test_trees_that_do_not_hold_together_are_refused(self, change, message):
        with pytest.raises(ValueError, match=message):
            graphs(small_trees(**change))

    def test_graphs_and_images_are_not_mistaken_for_each_other(self):
        with pytest.raises(ValueError, match=r"of kind 'graph'; use graphs\(\)"):
            items(small_trees())
        with pytest.raises(ValueError, match=r"of kind 'image'; use items\(\)"):
            graphs(made({"images": torch.rand(2, 1, 2, 2)}))
        with pytest.raises(ValueError, match="codec 'identity' makes sets of kind 'image', not 'graph'"):
            check(made({"images": torch.rand(2, 1, 2, 2)}, kind="graph"))


class TestWhatDoesNotFit:
    def images(self, n=10):
        return {"images": torch.zeros(n, 1, 4, 4)}

    def test_soft_labels_of_nine_classes_for_ten(self):
        targets = Targets(soft=torch.zeros(10, 9), kind="logits")
        with pytest.raises(ValueError) as error:
            items(made(self.images(), targets), real(classes=10))
        assert str(error.value) == (
            "soft labels have shape (10, 9) but cifar10 has 10 classes; expected (10, 10)"
        )

    def test_values_may_have_any_width(self):
        targets = Targets(soft=torch.zeros(10, 512), kind="values")
        assert items(made(self.images(), targets), real(classes=10)).soft.shape == (10, 512)

    def test_ids_outside_the_classes(self):
        targets = Targets(ids=torch.arange(10) + 3)
        with pytest.raises(
            ValueError, match="label ids run from 3 to 12 but cifar10 has 10 classes; expected 0 to 9"
        ):
            items(made(self.images(), targets), real(classes=10))

    def test_negative_ids_without_the_data(self):
        with pytest.raises(ValueError, match="label ids run from -1 to 0 but cifar10 has 2 classes"):
            check(made(self.images(2), Targets(ids=torch.tensor([-1, 0])), classes=2, dataset="cifar10"))

    def test_too_few_targets(self):
        with pytest.raises(
            ValueError, match="targets have 4 rows of ids but the set has 10; expected as many"
        ):
            items(made(self.images(), Targets(ids=torch.zeros(4, dtype=torch.long))))

    def test_targets_of_a_grid_say_both_counts(self):
        d = made(
            {"images": torch.zeros(2, 1, 4, 4)}, Targets(ids=torch.zeros(3, dtype=torch.long)), UNIT, "grid"
        )
        with pytest.raises(ValueError, match=r"the set has 2 \(stored rows\) or 8 \(items\)"):
            items(d)

    def test_an_empty_set(self):
        with pytest.raises(ValueError, match=r"the distilled set is empty \(tensor 'images' has no rows\)"):
            items(made(self.images(0), Targets(ids=torch.zeros(0, dtype=torch.long))))

    def test_images_of_another_shape(self):
        with pytest.raises(
            ValueError, match=r"images have shape \(1, 4, 4\) but cifar10 has \(1, 8, 8\); resize"
        ):
            items(made(self.images()), real(side=8))

    def test_images_without_a_batch_axis(self):
        with pytest.raises(ValueError, match=r"images have shape \(2, 4, 4\); expected \(n, C, H, W\)"):
            items(made({"images": torch.zeros(2, 4, 4)}))

    def test_a_space_of_other_channels(self):
        d = made({"images": torch.zeros(2, 3, 4, 4)})
        with pytest.raises(ValueError, match="the space has 1 means but images have 3 channels"):
            items(d)

    def test_no_space(self):
        with pytest.raises(ValueError, match="a set of images has no space"):
            items(made(self.images(), space=None))

    def test_bytes_in_a_space_of_inputs_and_the_other_way_round(self):
        with pytest.raises(
            ValueError, match=r"the space says that 'input' is stored, .* 'uint8' of torch.uint8 images"
        ):
            items(made({"images": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)}))
        with pytest.raises(ValueError, match="'input' or 'unit' of torch.float32 images; set Space.stored"):
            items(made(self.images(), space=BYTES))
        with pytest.raises(ValueError, match="images are torch.int64; expected floats or uint8"):
            items(made({"images": torch.zeros(2, 1, 4, 4, dtype=torch.int64)}))

    def test_probabilities_that_are_none(self):
        soft = torch.tensor([[0.5, 0.5], [3.0, -1.0]])
        with pytest.raises(
            ValueError, match=r"are none in row 1 \(sum 2, smallest -1\); expected rows that sum to 1"
        ):
            items(made({"images": torch.zeros(2, 1, 4, 4)}, Targets(soft=soft, kind="probabilities")))

    def test_fp16_probabilities_are_near_enough(self):
        soft = torch.softmax(torch.randn(2, 10, generator=generator()), 1).half()
        assert (
            items(made({"images": torch.zeros(2, 1, 4, 4)}, Targets(soft=soft, kind="probabilities"))).classes
            == 10
        )

    def test_negative_weights(self):
        targets = Targets(ids=torch.tensor([0, 1]), weights=torch.tensor([1.0, -2.0]))
        with pytest.raises(ValueError, match="weights go down to -2"):
            items(made({"images": torch.zeros(2, 1, 4, 4)}, targets))

    def test_a_missing_tensor(self):
        with pytest.raises(
            ValueError, match=r"reads the tensors images; the set has no 'images' \(it has pixels\)"
        ):
            items(made({"pixels": torch.zeros(2, 1, 4, 4)}))

    def test_a_program_that_names_items_which_are_not_there(self):
        d = made(self.images(2)).changed(program=Program(torch.tensor([0.1]), ((0, 5),)))
        with pytest.raises(ValueError, match="order names item 5 of 2; expected 0 to 1"):
            items(d)

    def test_an_unknown_codec(self):
        with pytest.raises(LookupError, match="no codec 'idntity'; nearest: identity"):
            items(made(self.images(), codec="idntity"))


def test_every_codec_is_registered():
    names = registry.names("codecs")
    assert {"identity", "grid", "compensated", "subset", "resampled", "trees"} <= set(names)
    assert all(isinstance(registry.get("codecs", name)(), Codec) for name in names)
