"""Mosaics: how they start, how they are cut, and passes through the real images that go on from step to step."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from conftest import blobs
from torch import Tensor

from ddbench.codecs import decode_grid, items
from ddbench.contract import ImageData, Space
from ddbench.matching.formation import Formation, first_mosaics, padding_note, unit_space
from ddbench.matching.streams import ClassPasses, TrainingStream
from ddbench.task import RunTask

CPU = torch.device("cpu")
UNIT = Space("unit", (0.5,), (0.25,))


def train_of(shape: tuple[int, int, int] = (1, 8, 8), classes: int = 3, each: int = 20) -> ImageData:
    return blobs("three", shape, classes, (each, 1)).train


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestDecoding:
    def test_the_four_images_of_a_mosaic_are_those_of_the_spec(self) -> None:
        mosaic = torch.arange(16.0).view(1, 1, 1, 4, 4)
        tiles = Formation(2, "single", 128, UNIT).decode(mosaic)[0, :, 0]
        first = torch.tensor([[0, 0.25, 0.75, 1], [1, 1.25, 1.75, 2], [3, 3.25, 3.75, 4], [4, 4.25, 4.75, 5]])
        assert tiles.shape == (4, 4, 4)
        for tile, shift in zip(tiles, (0, 2, 8, 10), strict=True):
            assert torch.allclose(tile, first + shift)

    def test_images_come_tile_by_tile(self) -> None:
        mosaics = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])[None]
        tiles = Formation(2, "single", 128, UNIT).decode(mosaics)
        assert tiles.mean((2, 3, 4))[0].tolist() == [0, 1, 0, 1, 0, 1, 0, 1]

    def test_a_side_that_the_factor_does_not_divide_is_padded_with_grey(self) -> None:
        tiles = Formation(2, "single", 128, UNIT).decode(torch.zeros(1, 1, 1, 5, 5))
        assert tiles.shape == (1, 4, 1, 5, 5)
        assert tiles[0, 3, 0, -1].tolist() == [0.5] * 5
        assert padding_note(8, 2) is None
        assert "does not divide the side 5: mosaics are padded to 6 pixels" in str(padding_note(5, 2))
        assert "padded to 225 pixels" in str(padding_note(224, 3))

    @pytest.mark.parametrize(
        ("n", "counts", "total"), [(20, (12, 3, 5), 125), (10, (10,), 90), (50, (8, 3, 39), 123)]
    )
    def test_bounded_mosaics_are_those_of_the_spec(self, n: int, counts: tuple[int, ...], total: int) -> None:
        formation = Formation(3, "bound", 128, UNIT)
        mosaics = torch.arange(n, dtype=torch.float32).view(1, n, 1, 1, 1).expand(1, n, 1, 6, 6)
        decoded = formation.decode(mosaics)
        assert decoded.shape[1] == formation.count(n) == total
        wanted, start = [], 0
        for factor, count in zip((3, 2, 1), counts, strict=False):
            wanted += list(range(start, start + count)) * factor**2
            start += count
        assert start == n
        assert decoded[0, :, 0, 0, 0].tolist() == pytest.approx(wanted)

    @pytest.mark.parametrize("kind", ["single", "multi", "bound"])
    @pytest.mark.parametrize("side", [8, 7])
    def test_all_classes_at_once_are_what_evaluation_makes_of_each(self, kind: str, side: int) -> None:
        images = torch.rand(3, 5, 2, side, side, generator=seeded())
        found = Formation(2, kind, 14, UNIT).decode(images)
        for c in range(3):
            assert torch.equal(found[c], decode_grid(images[c], 2, kind, 14)), c

    def test_inputs_are_standardised_after_padding_and_gradients_reach_the_pixels(self) -> None:
        images = torch.rand(2, 3, 1, 5, 5, generator=seeded()).requires_grad_()
        formation = Formation(2, "single", 128, UNIT)
        made = formation.inputs(images)
        assert torch.allclose(made, (formation.decode(images) - 0.5) / 0.25)
        made.square().sum().backward()
        assert images.grad is not None and bool((images.grad != 0).all())

    def test_without_a_factor_the_images_are_what_is_stored(self) -> None:
        images = torch.rand(2, 3, 1, 4, 4, generator=seeded())
        formation = Formation(1, "single", 128, UNIT)
        assert formation.decode(images) is images
        assert formation.count(3) == 3
        assert formation.codec().name == "identity"

    def test_a_finished_set_is_decoded_as_single(self) -> None:
        task = RunTask(train_of(), 3, 0)
        images = torch.rand(3, 3, 1, 8, 8, generator=seeded())
        for kind in ("single", "multi", "bound"):
            formation = Formation(2, kind, 128, unit_space(task.train))
            made = task.distilled(
                images=images.flatten(0, 1),
                ids=torch.arange(3).repeat_interleave(3),
                space=formation.space,
                codec=formation.codec(),
            )
            found = items(made, None, CPU)
            inputs = found.to_input(found.stored)
            assert len(inputs) == 36
            wanted = Formation(2, "single", 128, formation.space).inputs(images)
            for c in range(3):
                assert torch.allclose(inputs[found.ids == c], wanted[c], atol=1e-6), kind

    def test_what_cannot_be_is_refused(self) -> None:
        with pytest.raises(ValueError, match="formation is 'many'; expected single, multi or bound"):
            Formation(2, "many", 128, UNIT)
        with pytest.raises(ValueError, match="factor is 0; expected at least 1"):
            Formation(0, "single", 128, UNIT)


class TestSpaces:
    def test_statistics_may_be_those_of_another_data_set(self) -> None:
        train = train_of((3, 8, 8))
        assert unit_space(train).mean == train.mean
        other = unit_space(train, "cifar10")
        assert (other.stored, other.mean, other.std) == (
            "unit",
            (0.4914, 0.4822, 0.4465),
            (0.2023, 0.1994, 0.2010),
        )
        pixels = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
        assert float(other.real_to_input(pixels)[0, 0, 0, 0]) == pytest.approx((0.2 - 0.4914) / 0.2023)

    def test_statistics_of_other_channels_or_of_nothing_are_refused(self) -> None:
        with pytest.raises(
            ValueError, match="statistics is 'cifar10'.*expected 'own', or a data set of 1 channels"
        ):
            unit_space(train_of(), "cifar10")
        with pytest.raises(ValueError, match="statistics is 'digits', whose mean is None"):
            unit_space(train_of(), "digits")
        with pytest.raises(LookupError, match="no data set 'cifar11'; nearest: cifar1"):
            unit_space(train_of(), "cifar11")


class TestFirstMosaics:
    @pytest.mark.parametrize(("shape", "factor"), [((1, 8, 8), 2), ((3, 7, 7), 3), ((1, 6, 9), 2)])
    def test_mix_puts_the_first_images_of_a_class_into_the_tiles(
        self, shape: tuple[int, int, int], factor: int
    ) -> None:
        train, ipc = train_of(shape), 2
        found = first_mosaics(RunTask(train, ipc, 0), factor, "mix")
        assert found.shape == (3, ipc, *shape) and found.dtype == torch.float32

        def spans(side: int) -> list[tuple[int, int]]:  # the first tiles are a pixel larger
            ends, start = [], 0
            for k in range(factor):
                size = side // factor + (1 if k < side % factor else 0)
                ends.append((start, start + size))
                start += size
            assert start == side
            return ends

        for c in range(3):
            for n in range(ipc):
                for i, (top, bottom) in enumerate(spans(shape[1])):
                    for j, (left, right) in enumerate(spans(shape[2])):
                        real = train.images[train.of_class(c)[(factor * i + j) * ipc + n]] / 255
                        rows = torch.arange(bottom - top) * shape[1] // (bottom - top)
                        columns = torch.arange(right - left) * shape[2] // (right - left)
                        tile = found[c, n, :, top:bottom, left:right]
                        assert torch.allclose(tile, real[:, rows][:, :, columns]), (c, n, i, j)

    def test_first_images_do_not_depend_on_the_seed_and_random_ones_do(self) -> None:
        train = train_of()
        for init in ("mix", "first"):
            one, two = (first_mosaics(RunTask(train, 2, seed), 2, init) for seed in (1, 2))
            assert torch.equal(one, two)
        one, two = (first_mosaics(RunTask(train, 2, seed), 2, "random") for seed in (1, 2))
        assert not torch.equal(one, two)
        assert torch.equal(one, first_mosaics(RunTask(train, 2, 1), 2, "random"))

    def test_first_and_a_mix_of_factor_1_are_the_first_images(self) -> None:
        train = train_of()
        wanted = torch.stack([train.images[train.of_class(c)[:4]] for c in range(3)]) / 255
        assert torch.equal(first_mosaics(RunTask(train, 4, 0), 2, "first"), wanted)
        assert torch.equal(first_mosaics(RunTask(train, 4, 0), 1, "mix"), wanted)

    def test_random_images_are_real_ones_of_their_class(self) -> None:
        train = train_of()
        found = first_mosaics(RunTask(train, 4, 0), 2, "random")
        for c in range(3):
            pool = train.images[train.of_class(c)] / 255
            for image in found[c]:
                assert bool((pool == image).flatten(1).all(1).any())

    def test_noise_is_normal_around_grey_and_clamped(self) -> None:
        found = first_mosaics(RunTask(train_of((3, 16, 16)), 20, 0), 2, "noise")
        assert found.shape == (3, 20, 3, 16, 16)
        assert float(found.min()) == 0 and float(found.max()) == 1
        assert float(found.mean()) == pytest.approx(0.5, abs=0.01)
        inside = found[(found > 0) & (found < 1)]
        assert float(inside.std()) == pytest.approx(0.22, abs=0.01)  # of N(0, 1) cut at 2 deviations, by 4
        assert float((found == 0).float().mean()) == pytest.approx(0.0228, abs=0.005)

    @pytest.mark.parametrize(
        ("factor", "ipc", "init", "message"),
        [
            (
                2,
                6,
                "mix",
                "class 0 has 20 training images but 6 mosaics of 4 tiles need 24; lower --ipc to 5, choose a",
            ),
            (
                5,
                1,
                "mix",
                "class 0 has 20 training images but 1 mosaics of 25 tiles need 25; choose a smaller factor",
            ),
            (2, 21, "random", "class 0 has 20 training images but ipc is 21; lower --ipc to 20"),
            (2, 1, "real", "init is 'real'; expected one of mix, first, random, noise"),
            (0, 1, "mix", "factor is 0; expected a whole number from 1 to the side of the images, 8"),
            (9, 1, "noise", "factor is 9; expected a whole number from 1 to the side"),
            (2, 0, "noise", "ipc is 0; expected at least 1 image a class"),
        ],
    )
    def test_what_cannot_be_is_refused(self, factor: int, ipc: int, init: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            first_mosaics(RunTask(train_of(), ipc, 0), factor, init)


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in state.items()}


class TestPasses:
    def test_a_class_is_gone_through_without_repetition_and_remainders_are_left_out(self) -> None:
        train = train_of(each=10)
        real, rng = ClassPasses(train, 4, CPU), seeded()
        drawn = [real.draw(rng) for _ in range(6)]
        assert all(indices.shape == (3, 4) for indices in drawn)
        for c in range(3):
            pool = set(train.of_class(c).tolist())
            for first, second in zip(drawn[::2], drawn[1::2], strict=True):
                both = [*first[c].tolist(), *second[c].tolist()]  # two batches of 4 in a pass of 10
                assert len(set(both)) == 8 and set(both) <= pool
        assert not torch.equal(drawn[0], drawn[2])

    def test_classes_of_different_sizes_have_passes_of_their_own(self) -> None:
        whole = train_of(each=9)
        train = whole.subset(torch.cat([whole.of_class(0)[:4], whole.of_class(1), whole.of_class(2)[:6]]))
        real, rng = ClassPasses(train, 3, CPU), seeded()
        drawn = torch.stack([real.draw(rng) for _ in range(6)])
        for c, batches in enumerate((1, 3, 2)):
            for start in range(0, 6, batches):
                assert len(drawn[start : start + batches, c].unique()) == 3 * batches

    def test_a_class_smaller_than_the_batch_is_noted(self) -> None:
        notes = {}
        real = ClassPasses(train_of(each=5), 64, CPU, notes.__setitem__)
        assert real.draw(seeded()).shape == (3, 5)
        assert "batch_real is 64 but class 0 has 5 images" in notes["batch_real"]

    def test_passes_go_on_from_their_state(self) -> None:
        train, rng, again = train_of(each=10), seeded(), seeded()
        real = ClassPasses(train, 3, CPU)
        real.draw(rng)
        state = copied(real.state_dict())
        again.set_state(rng.get_state())
        wanted = [real.draw(rng) for _ in range(5)]
        other = ClassPasses(train, 3, CPU)
        other.load_state_dict(state)
        assert all(torch.equal(other.draw(again), indices) for indices in wanted)


class TestTrainingStream:
    def test_at_least_so_many_images_are_given_and_the_pass_goes_on_at_the_next_call(self) -> None:
        train = train_of(each=10)  # 30 images: batches of 8, 8, 8, 6
        stream, rng = TrainingStream(train, 8, CPU), seeded()
        sizes = [[len(ids) for _, ids in stream.batches(12, rng)] for _ in range(3)]
        assert sizes == [[8, 8], [8, 6], [8, 8]]

    def test_every_image_comes_once_a_pass_with_its_label_as_a_network_input(self) -> None:
        train = train_of(each=10)
        stream, rng = TrainingStream(train, 8, CPU), seeded()
        inputs, ids = map(torch.cat, zip(*stream.batches(30, rng), strict=True))
        assert len(inputs) == 30
        known = train.space.real_to_input(train.images)
        where = [(known == x).flatten(1).all(1).nonzero()[0].item() for x in inputs]
        assert sorted(where) == list(range(30))
        assert torch.equal(train.labels[where], ids)
        second = torch.cat([x for x, _ in stream.batches(30, rng)])
        assert not torch.equal(second, inputs)

    def test_nothing_is_given_where_nothing_is_asked_for(self) -> None:
        assert list(TrainingStream(train_of(), 8, CPU).batches(0, seeded())) == []
        with pytest.raises(ValueError, match="batch_train is 0; expected at least 1 real image a batch"):
            TrainingStream(train_of(), 0, CPU)

    def test_the_stream_goes_on_from_its_state(self) -> None:
        train, rng, again = train_of(each=10), seeded(), seeded()
        stream = TrainingStream(train, 8, CPU)
        list(stream.batches(12, rng))
        state = copied(stream.state_dict())
        again.set_state(rng.get_state())
        wanted = [x for x, _ in stream.batches(40, rng)]
        other = TrainingStream(train, 8, CPU)
        other.load_state_dict(state)
        found = [x for x, _ in other.batches(40, again)]
        assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
