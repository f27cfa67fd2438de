"""The front door from Python: sets made and scored in a notebook, and clear words about unclear arrays."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

import ddbench
from ddbench import api, registry, sets
from ddbench.contract import CodecSpec, RealData, Space
from ddbench.formats import given


def ten(real: RealData, per_class: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 images and ids, ``per_class`` of each class."""
    keep = torch.cat([real.train.of_class(c)[:per_class] for c in range(real.train.classes)])
    return real.train.images[keep], real.train.labels[keep]


def score(images, labels, real, **more):
    (record,) = ddbench.evaluate(
        images, labels, dataset=real, networks="MLP", repeats=1, device="cpu", quiet=True, **more
    )
    return record


class TestDistill:
    def test_it_makes_a_set_with_its_card_and_the_same_one_twice(self, gauss2):
        a, b = (ddbench.distill("random", gauss2, ipc=2, seed=3, device="cpu", quiet=True) for _ in range(2))
        assert a.fingerprint() == b.fingerprint()
        card = a.card
        assert (card.method, card.recipe, card.dataset, card.ipc, card.seed) == (
            "random",
            "defaults",
            "gauss2",
            2,
            3,
        )

    def test_by_name_and_with_a_run_folder_it_is_the_set_of_a_run_and_read_the_second_time(self, tmp_path):
        made = ddbench.distill("random", "digits", 1, device="cpu", run=tmp_path, quiet=True)
        (path,) = (tmp_path / "sets").glob("*.safetensors")
        stamp = path.stat().st_mtime_ns
        again = ddbench.distill("random", "digits", 1, device="cpu", run=tmp_path, quiet=True)
        assert made.fingerprint() == again.fingerprint() == ddbench.load(path).fingerprint()
        assert path.stat().st_mtime_ns == stamp

    def test_a_run_folder_works_with_data_of_ones_own(self, tmp_path, gauss2):
        made = ddbench.distill("random", gauss2, 1, device="cpu", run=tmp_path, quiet=True)
        (path,) = (tmp_path / "sets").glob("*.safetensors")
        assert sets.read(path).fingerprint() == made.fingerprint()
        stamp = path.stat().st_mtime_ns
        again = ddbench.distill("random", gauss2, 1, device="cpu", run=tmp_path, quiet=True)
        assert again.fingerprint() == made.fingerprint()
        assert path.stat().st_mtime_ns == stamp, "a set that is there is read, not made again"

    def test_numbers_and_names_are_checked(self, gauss2):
        with pytest.raises(ValueError, match="ipc is 0; expected at least 1 image a class"):
            ddbench.distill("random", gauss2, 0)
        with pytest.raises(ValueError, match="ipc is -1; expected at least 1 image a class"):
            ddbench.distill("random", "digits", -1)
        with pytest.raises(LookupError, match="no method 'randm'; nearest: random"):
            ddbench.distill("randm", gauss2, 1)
        with pytest.raises(ValueError, match="lower --ipc to 20"):
            ddbench.distill("random", gauss2, 21, quiet=True)
        with pytest.raises(ValueError, match="time budget is 'soon'"):
            ddbench.distill("random", gauss2, 1, time_budget="soon")
        assert ddbench.distill("full", gauss2, 0, quiet=True).tensors["indices"].shape == (40,)


class TestLoad:
    def test_a_data_set_and_a_missing_file_are_told_apart(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match=r"'digits' is a data set, .*ddbench.data.load\('digits'\)"
        ):
            ddbench.load("digits")
        with pytest.raises(FileNotFoundError, match="no distilled set .*x.safetensors"):
            ddbench.load(tmp_path / "x.safetensors")


class TestEvaluate:
    def test_a_set_its_file_and_its_arrays_score_alike(self, gauss2, tmp_path):
        made = ddbench.distill("random", gauss2, 2, device="cpu", quiet=True)
        sets.write(tmp_path / "s.safetensors", made)
        keep = made.tensors["indices"]
        images, labels = gauss2.train.images[keep], gauss2.train.labels[keep]
        unit = (images.float() / 255).numpy()
        mean, std = (
            np.array(v, dtype=np.float32).reshape(1, -1, 1, 1) for v in (gauss2.train.mean, gauss2.train.std)
        )
        values = [
            score(made, None, gauss2),
            score(tmp_path / "s.safetensors", None, gauss2),
            score(images, labels, gauss2),
            score(unit, labels.numpy(), gauss2, space="unit"),
            score((unit - mean) / std, labels.numpy().astype(np.float32), gauss2, space="input"),
            score(images, torch.eye(2)[labels], gauss2),
        ]
        assert len({v.scores[0].value for v in values}) == 1 and values[0].scores[0].value > 0.8
        assert [v.labels for v in values] == ["hard"] * 5 + ["soft"]
        assert values[0].cell.distil.method == "random" and values[2].bytes.images == 4 * 64

    def test_a_set_knows_its_data_and_every_network_gets_a_record(self):
        made = ddbench.distill("random", "digits", 1, device="cpu", quiet=True)
        records = ddbench.evaluate(
            made, networks=["MLP", "ConvNetD1W32"], repeats=2, device="cpu", quiet=True
        )
        assert [r.cell.network for r in records] == ["MLP", "ConvNetD1W32"]
        assert [len(r.scores) for r in records] == [2, 2] and {r.cell.distil.dataset for r in records} == {
            "digits"
        }

    def test_settings_of_ones_own_the_recipe_note_and_an_unfinished_set_are_on_the_record(
        self, gauss2, tmp_path
    ):
        short = ddbench.distill(
            "dm", "digits", 1, recipe="digits", settings={"iterations": 1}, device="cpu", quiet=True
        )
        sets.write(tmp_path / "s.safetensors", short)
        for made in (short, ddbench.load(tmp_path / "s.safetensors")):
            (found,) = ddbench.evaluate(made, networks="MLP", repeats=1, device="cpu", quiet=True)
            assert found.cell.distil.settings == {"iterations": 1} and found.recipe == "digits"
            assert found.spent.distil_known and found.status == "ok"
        own = dict(short.card.settings) | {
            "iterations": registry.resolve_recipe("dm", "digits", "digits", 1).settings["iterations"]
        }
        card = dataclasses.replace(
            short.card, settings=own, partial=True, notes={"partial": "stopped after 1"}
        )
        made = dataclasses.replace(short, card=card)
        (found,) = ddbench.evaluate(made, networks="MLP", repeats=1, device="cpu", quiet=True)
        assert (found.status, found.reason, found.cell.distil.settings) == ("partial", "stopped after 1", {})

    def test_of_images_of_ones_own_no_cost_is_known(self, gauss2):
        images, labels = ten(gauss2)
        assert not score(images, labels, gauss2).spent.distil_known

    def test_what_does_not_go_together_is_said(self, gauss2):
        images, labels = ten(gauss2)
        made = ddbench.distill("random", gauss2, 1, device="cpu", quiet=True)
        with pytest.raises(ValueError, match="images without labels and data set"):
            ddbench.evaluate(images, labels)
        with pytest.raises(ValueError, match="a distilled set has labels and space of its own"):
            ddbench.evaluate(made, labels)
        with pytest.raises(LookupError, match="no protocol 'quik'; nearest: quick"):
            score(images, labels, gauss2, protocol="quik")
        with pytest.raises(LookupError, match="no network 'MPL'; nearest: MLP"):
            ddbench.evaluate(images, labels, dataset=gauss2, networks="MPL")
        with pytest.raises(ValueError, match="LeNet accepts 32x32"):
            ddbench.evaluate(images, labels, dataset=gauss2, networks="LeNet")


class TestImages:
    def refused(self, real, text, images, labels=None, **more):
        labels = ten(real)[1] if labels is None else labels
        with pytest.raises((ValueError, TypeError), match=text):
            api.as_set(images, labels, real, **more)

    def test_floats_without_a_space_are_refused_with_their_range(self, gauss2):
        unit = ten(gauss2)[0].float() / 255
        self.refused(
            gauss2,
            r'which does not say what their values mean; expected space="input".*perhaps \'unit\'',
            unit,
        )
        self.refused(gauss2, r"perhaps 'input'", unit * 4 - 2)

    def test_a_space_that_contradicts_the_type_is_refused(self, gauss2):
        images = ten(gauss2)[0]
        self.refused(gauss2, "space is 'unit' but images are torch.uint8", images, space="unit")
        self.refused(gauss2, "space is 'uint8' but images are torch.float32", images.float(), space="uint8")
        self.refused(gauss2, "space is 'norm'; expected input, unit or uint8", images.float(), space="norm")

    def test_shapes_are_checked_and_channels_last_recognised(self, gauss2, gauss3):
        images = ten(gauss3)[0]
        self.refused(
            gauss3,
            r"expected \(n, 3, 16, 16\); channels come last: images.permute",
            images.permute(0, 2, 3, 1),
        )
        self.refused(
            gauss3,
            r"images have shape \(6, 3, 8, 8\) but gauss3 has images of \(3, 16, 16\)",
            images[..., ::2, ::2],
        )
        self.refused(gauss3, r"images have shape \(3, 16, 16\); expected \(n, C, H, W\)", images[0])
        self.refused(gauss3, r"with n at least 1", images[:0], torch.zeros(0))
        self.refused(gauss3, "images are torch.int64; expected uint8", images.long())
        self.refused(gauss2, "images are a list that is no array", [[1], [1, 2]])

    def test_nan_pixels_are_refused_with_their_row(self, gauss2):
        images = ten(gauss2)[0].float()
        images[2, 0, 3, 3] = float("nan")
        self.refused(
            gauss2, r"images have 1 values that are not finite .*first in row 2", images, space="unit"
        )

    def test_a_space_of_ones_own_and_a_codec_are_taken(self, gauss2):
        images, labels = ten(gauss2)
        own = Space("unit", (0.1,), (0.2,))
        assert api.as_set(images.double() / 255, labels, gauss2, space=own).space is own
        packed = api.as_set(images, labels, gauss2, codec=CodecSpec("grid", {"factor": 2}))
        from ddbench import codecs

        assert codecs.count(packed) == 16 and packed.card.ipc == 2


class TestLabels:
    def targets(self, labels, kind=None, n=4, classes=2):
        return given.targets_of(torch.as_tensor(labels), kind, n, classes, "toy")

    def test_kinds_are_told_apart_by_their_values(self):
        assert self.targets([0.0, 1.0, 1.0, 0.0]).ids.tolist() == [0, 1, 1, 0]
        assert self.targets(np.full((4, 2), 0.5, dtype=np.float16)).kind == "probabilities"
        assert self.targets([[1.0, -1.0]] * 4).kind == "logits"
        assert self.targets([[3.0, 1.0]] * 4, "logits").kind == "logits"
        assert self.targets([[1, 0]] * 4).kind == "probabilities"

    @pytest.mark.parametrize(
        ("labels", "kind", "text"),
        [
            ([0, 1, 2, 0], None, "labels run from 0 to 2 but toy has 2 classes; expected 0 to 1"),
            (
                [1, 2, 2, 1],
                None,
                "labels run from 1 to 2 but toy has 2 classes; expected 0 to 1; labels that count from 1",
            ),
            ([-1, 0, 1, 1], None, "labels run from -1 to 1"),
            ([0.5, 1, 1, 0], None, r"labels (n,) are not whole numbers; expected class ids"),
            (
                [0, 1],
                None,
                "labels have shape (2,) for 4 images; expected class ids (4,) or soft labels (4, 2)",
            ),
            (
                [[1.0, 0.0, 0.0]] * 4,
                None,
                "soft labels have shape (4, 3) but toy has 2 classes; expected (4, 2)",
            ),
            ([[3.0, 1.0]] * 4, None, "rows sum to between 4 and 4: neither probabilities nor surely logits"),
            ([[3.0, 1.0]] * 4, "probabilities", "said to be probabilities, but their values start at 1"),
            ([[1.0, float("nan")]] * 4, None, "labels have 4 values that are not finite"),
            ([0, 1, 1, 0], "logits", "labels have shape (4,) but are said to be logits"),
            ([[1.0, 0.0]] * 4, "ids", "labels have shape (4, 2) but are said to be ids"),
            ([0, 1, 1, 0], "hard", "label kind is 'hard'; expected one of ids, probabilities"),
        ],
    )
    def test_unclear_labels_are_refused(self, labels, kind, text):
        with pytest.raises(ValueError, match=re.escape(text)):
            self.targets(labels, kind)
