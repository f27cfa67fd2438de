"""Test images in sets: copies and near copies are found, training images and noise are not, and nothing is blocked."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from conftest import blobs

from ddbench import api, cli, data, leaks, sets
from ddbench.contract import (
    ZCA,
    Card,
    CodecSpec,
    DistilledSet,
    Labeller,
    NetworkRef,
    RealData,
    Space,
    Targets,
)
from ddbench.data import fit_zca

REAL = blobs("leaky", (3, 12, 12), 3, (30, 20))
UNFLIPPED = blobs("leaky_signs", (1, 12, 12), 2, (30, 20), flip=False)


def given(
    images: torch.Tensor, labels: torch.Tensor | None = None, real: RealData = REAL, space=None, **what
):
    ids = torch.arange(len(images)) % real.train.classes if labels is None else labels
    return api.as_set(images, ids, real, space=space, **what)


def noisy(images: torch.Tensor, std: float, seed: int = 0) -> torch.Tensor:
    """On the [0, 1] scale."""
    return images.float() / 255 + std * torch.randn(
        images.shape, generator=torch.Generator().manual_seed(seed)
    )


def found(distilled: DistilledSet, real: RealData = REAL) -> list[tuple[int, int, str, bool]]:
    return [(m.image, m.test, m.kind, m.mirrored) for m in leaks.find(distilled, real).matches]


class TestCopies:
    def test_of_uint8_images_are_found_by_their_numbers(self):
        images = torch.cat([REAL.train.images[:4], REAL.test.images[[7, 2]]])
        assert found(given(images)) == [(4, 7, "copy", False), (5, 2, "copy", False)]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_of_standardised_images_are_found_after_rounding(self, dtype):
        images = REAL.train.space.real_to_input(REAL.test.images[:5]).to(dtype)
        assert found(given(images, space="input")) == [(i, i, "copy", False) for i in range(5)]

    def test_of_whitened_images_are_found(self):
        zca = fit_zca(REAL.train, 0.1)
        own = REAL.train.space
        space = Space("input", (0.0,) * 3, (1.0,) * 3, zca)
        assert own.zca is None and zca.transform.shape == (432, 432)
        images = space.real_to_input(REAL.test.images[:3])
        assert found(given(images, space=space)) == [(i, i, "copy", False) for i in range(3)]

    def test_in_the_mirror_are_found_where_a_mirrored_image_keeps_its_class(self):
        assert found(given(REAL.test.images[:2].flip(3))) == [(0, 0, "copy", True), (1, 1, "copy", True)]
        signs = given(UNFLIPPED.test.images[:2].flip(3), real=UNFLIPPED)
        assert found(signs, UNFLIPPED) == []

    def test_among_the_tiles_of_mosaics_are_found_as_tiles(self):
        half = torch.nn.functional.avg_pool2d(REAL.test.images[:4].float(), 2) / 255
        rows = [torch.cat([half[0], half[1]], 2), torch.cat([half[2], half[3]], 2)]
        mosaic = torch.cat(rows, 1)[None]
        for settings in ({"factor": 2}, {"factor": 2, "kind": "whole", "visit": "patch-shuffle"}):
            distilled = given(
                mosaic, torch.zeros(1, dtype=torch.int64), space="unit", codec=CodecSpec("grid", settings)
            )
            matches = leaks.find(distilled, REAL).matches
            assert {m.image for m in matches} <= {0} and all(m.kind == "near copy" for m in matches)


class TestNearCopies:
    def test_a_little_noise_does_not_hide_a_test_image(self):
        distilled = given(noisy(REAL.test.images[:10], 0.01), REAL.test.labels[:10], space="unit")
        assert found(distilled) == [(i, i, "near copy", False) for i in range(10)]
        assert all(0 < m.distance < leaks.HALF for m in leaks.find(distilled, REAL).matches)

    def test_brightness_and_contrast_do_not_hide_it_either(self):
        dim = 0.1 + 0.5 * REAL.test.images[:4].float() / 255
        assert found(given(dim, REAL.test.labels[:4], space="unit")) == [
            (i, i, "near copy", False) for i in range(4)
        ]

    def test_in_the_mirror(self):
        distilled = given(noisy(REAL.test.images[:3].flip(3), 0.01), REAL.test.labels[:3], space="unit")
        assert found(distilled) == [(i, i, "near copy", True) for i in range(3)]

    def test_training_images_with_and_without_noise_are_none(self):
        assert found(given(REAL.train.images, REAL.train.labels)) == []
        assert found(given(noisy(REAL.train.images, 0.02), REAL.train.labels, space="unit")) == []

    def test_of_a_twin_in_both_splits_the_training_image_is_none(self):
        twin = (REAL.test.images[0].float() + 1).clamp(0, 255).to(torch.uint8)
        train = replace(
            REAL.train,
            images=torch.cat([REAL.train.images, twin[None]]),
            labels=torch.cat([REAL.train.labels, REAL.test.labels[:1]]),
            fingerprint="",
        )
        both = RealData(train, REAL.test)
        distilled = given(twin[None], REAL.test.labels[:1], both)
        assert found(distilled, both) == []
        assert found(distilled) == [(0, 0, "near copy", False)]

    def test_noise_and_blank_images_are_none(self):
        noise = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(1))
        blank = torch.full((2, 3, 12, 12), 0.5)
        assert found(given(torch.cat([noise, blank]), space="unit")) == []

    def test_are_the_same_in_small_chunks_by_class_and_for_larger_images(self, monkeypatch):
        distilled = given(noisy(REAL.test.images[:9], 0.01), REAL.test.labels[:9], space="unit")
        whole = leaks.find(distilled, REAL).matches
        monkeypatch.setattr(leaks, "_CHUNK_BYTES", 4 * 432 * 4)
        monkeypatch.setattr(leaks, "_VECTOR_BYTES", 4 * 432 * 2)
        in_chunks = leaks.find(distilled, REAL).matches
        monkeypatch.setattr(leaks, "_ALL_PAIRS", 0)
        by_class = leaks.find(distilled, REAL).matches
        for other in (in_chunks, by_class):
            assert [(m.image, m.test) for m in other] == [(m.image, m.test) for m in whole]
            assert [m.distance for m in other] == pytest.approx([m.distance for m in whole], abs=1e-4)
        large = blobs("leaky_large", (1, 48, 48), 2, (6, 4))
        distilled = given(noisy(large.test.images[:2], 0.05), large.test.labels[:2], large, space="unit")
        assert [m[:2] for m in found(distilled, large)] == [(0, 0), (1, 1)]

    def test_among_too_many_images_without_a_class_are_said_to_be_left_out(self, monkeypatch):
        monkeypatch.setattr(leaks, "_ALL_PAIRS", 0)
        views = Labeller((NetworkRef("MLP", "cache", "abc"),), REAL.train.space)
        distilled = given(REAL.train.images[:3]).changed(targets=Targets(labeller=views))
        text = leaks.find(distilled, REAL).text
        assert (
            text.startswith("not checked for test images: near copies (too many images") and "class" in text
        )


class TestSubsets:
    def chosen(self, indices: list[int], real: RealData) -> DistilledSet:
        train = real.train
        return DistilledSet(
            {"indices": torch.tensor(indices)},
            Targets(ids=train.labels[indices]),
            train.space,
            CodecSpec("subset"),
            card=Card(data_fingerprint=train.fingerprint, shape=train.shape, classes=train.classes),
        )

    def test_hold_no_test_images(self):
        done = leaks.find(self.chosen([3, 5, 5], REAL), REAL)
        assert (done.looked_at, done.matches, done.text) == (2, (), "")

    def test_of_splits_that_share_an_image_are_said_by_number(self):
        images = REAL.train.images.clone()
        images[5] = REAL.test.images[8]
        shared = RealData(replace(REAL.train, images=images, fingerprint=""), REAL.test)
        assert leaks.find(self.chosen([3, 5], shared), shared).text == (
            "1 training image of the set is in the test split as well (image 5 = test 8)"
        )
        assert leaks.find(self.chosen([3, 4], shared), shared).text == ""

    def test_that_are_too_large_to_read_say_so(self, monkeypatch):
        monkeypatch.setattr(leaks, "_READ_BYTES", 10)
        assert "not checked for test images: 0 GB of images to compare" in leaks.note(
            self.chosen([1], REAL), REAL
        )


class TestWhatIsSaid:
    def test_the_first_three_and_how_many(self):
        text = leaks.note(given(REAL.test.images[:5]), REAL)
        assert text == (
            "5 copies of test images in the set (image 0 = test 0; image 1 = test 1; image 2 = test 2; ...)"
        )
        assert leaks.note(given(REAL.train.images[:5]), REAL) == ""

    def test_a_check_that_cannot_be_made_is_a_note_and_no_error(self, monkeypatch):
        other = blobs("other", (3, 8, 8), 3, (4, 4))
        assert leaks.note(given(REAL.train.images[:3]), other) == (
            "not checked for test images: its images are not of shape (3, 8, 8)"
        )
        graphs = replace(given(REAL.train.images[:3]), kind="graph")
        assert "a set of kind 'graph'" in leaks.note(graphs, REAL)

        def no_memory(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(leaks, "_near", no_memory)
        assert leaks.note(given(REAL.train.images[:3]), REAL) == "not checked for test images: MemoryError"

    def test_a_whitening_that_is_dear_to_undo_is_left_alone(self, monkeypatch):
        monkeypatch.setattr(leaks, "_INVERTIBLE", 100)
        space = Space("input", (0.0,) * 3, (1.0,) * 3, ZCA(torch.zeros(432), torch.eye(432), 0.1, "x"))
        text = leaks.note(given(torch.zeros(3, 3, 12, 12), space=space), REAL)
        assert text == "not checked for test images: its whitening of 432 values is dear to undo"

    def test_evaluate_warns_and_notes_it_in_its_records(self, capsys):
        real = data.load("digits")
        distilled = given(real.test.images[:3], real.test.labels[:3], real)
        (record,) = api.evaluate(distilled, dataset=real, networks="MLP", repeats=1, device="cpu")
        assert record.notes["leak"].startswith("3 copies of test images") and record.status == "ok"
        assert "warning: 3 copies of test images in the set" in capsys.readouterr().err
        honest = given(real.train.images[:3], real.train.labels[:3], real)
        (record,) = api.evaluate(honest, dataset=real, networks="MLP", repeats=1, device="cpu")
        assert "leak" not in record.notes and "warning" not in capsys.readouterr().err


class TestDigits:
    """Real images, in the package."""

    def test_no_training_image_alarms_and_every_test_image_does(self):
        real = data.load("digits")
        assert found(given(real.train.images, real.train.labels, real), real) == []
        assert len(found(given(real.test.images, real.test.labels, real), real)) == 360

    def test_the_command_names_sets_and_images_and_ends_with_1(self, tmp_path, capsys):
        real = data.load("digits")
        good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
        sets.write(good, given(real.train.images[:10], real.train.labels[:10], real))
        sets.write(bad, given(real.test.images[:1], real.test.labels[:1], real))
        for arguments, status in (([good], 0), ([good, bad], 1)):
            with pytest.raises(SystemExit) as end:
                cli.main(["leaks", *map(str, arguments), "--device", "cpu"])
            assert end.value.code == status
        assert capsys.readouterr().out.splitlines()[-2:] == [
            "good.safetensors: no test images among 10 images",
            "bad.safetensors: 1 copy of test images in the set (image 0 = test 0)",
        ]
        with pytest.raises(SystemExit):
            cli.main(["leaks", str(bad), "--json"])
        (document,) = json.loads(capsys.readouterr().out)
        assert document["matches"] == [
            {"image": 0, "test": 0, "kind": "copy", "mirrored": False, "distance": 0.0}
        ]


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_no_training_image_of_real_data_alarms(name):
    try:
        real = data.load(name)
    except FileNotFoundError:
        pytest.skip(f"{name} is not under the data root")
    chosen = torch.arange(0, len(real.train), 600)
    assert found(given(real.train.images[chosen], real.train.labels[chosen], real), real) == []
    assert len(found(given(real.test.images[:100], real.test.labels[:100], real), real)) == 100
