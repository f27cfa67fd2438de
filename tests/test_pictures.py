"""Contact sheets: the pixels that are given are the pixels that are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ddbench import data, pictures
from ddbench.contract import CodecSpec, DistilledSet, Space, Targets


def drawn(path):
    with Image.open(path) as image:
        assert image.format == "PNG" and image.mode == "RGB"
        return np.asarray(image).astype(int)


def test_a_sheet_has_each_image_in_its_place_enlarged_by_whole_pixels(tmp_path):
    images = torch.rand((5, 3, 4, 6), generator=torch.Generator().manual_seed(0))
    sheet = drawn(pictures.sheet(images, tmp_path / "s.png", columns=3, scale=2))
    assert sheet.shape == (2 * (8 + 2) + 2, 3 * (12 + 2) + 2, 3)
    for i, image in enumerate(images):
        top, left = 2 + (i // 3) * 10, 2 + (i % 3) * 14
        tile = sheet[top : top + 8, left : left + 12]
        expected = (image * 255).round().int().permute(1, 2, 0).numpy()
        assert np.array_equal(tile, expected.repeat(2, 0).repeat(2, 1))
    assert (sheet[:2] == 255).all()  # the gap is white


def test_tiny_images_are_enlarged_and_large_ones_are_not(tmp_path):
    tiny = drawn(pictures.sheet(torch.zeros(1, 1, 8, 8), tmp_path / "a.png"))
    large = drawn(pictures.sheet(torch.zeros(1, 3, 64, 64), tmp_path / "b.png"))
    assert tiny.shape[:2] == (48 + 4, 48 + 4) and large.shape[:2] == (64 + 4, 64 + 4)


def test_values_outside_are_clipped(tmp_path):
    images = torch.stack([torch.full((3, 4, 4), 1.7), torch.full((3, 4, 4), -0.3)])
    sheet = drawn(pictures.sheet(images, tmp_path / "s.png", scale=1))
    assert (sheet[2:6, 2:6] == 255).all() and (sheet[2:6, 8:12] == 0).all()


def test_titles_stand_left_of_their_rows(tmp_path):
    images = torch.zeros(4, 1, 8, 8)
    plain = drawn(pictures.sheet(images, tmp_path / "a.png", columns=2))
    titled = drawn(
        pictures.sheet(images, tmp_path / "b.png", columns=2, titles=["cat", "a very long class name indeed"])
    )
    margin = titled.shape[1] - plain.shape[1]
    assert margin > 20 and np.array_equal(titled[:, margin:], plain)
    assert (titled[:50, :margin] < 128).any() and (titled[50:, :margin] < 128).any()


def test_bad_pictures_say_what_was_expected(tmp_path):
    path = tmp_path / "s.png"
    with pytest.raises(ValueError, match=r"shape \(2, 2, 4, 4\); expected \(n, 1 or 3, H, W\) with n >= 1"):
        pictures.sheet(torch.zeros(2, 2, 4, 4), path)
    with pytest.raises(ValueError, match="1 pixels to show are not finite"):
        pictures.sheet(torch.tensor([float("nan"), 0, 0, 0]).view(1, 1, 2, 2), path)
    with pytest.raises(ValueError, match="3 titles for 1 rows; expected one a row"):
        pictures.sheet(torch.zeros(2, 1, 4, 4), path, titles=["a", "b", "c"])
    with pytest.raises(ValueError, match="a sheet of 0 columns"):
        pictures.sheet(torch.zeros(2, 1, 4, 4), path, columns=0)
    with pytest.raises(ValueError, match=r"has the suffix '\.jpg'; expected \.png"):
        pictures.sheet(torch.zeros(2, 1, 4, 4), tmp_path / "s.jpg")
    assert not list(tmp_path.iterdir())


def test_samples_have_one_row_a_class(gauss3, tmp_path):
    sheet = drawn(pictures.samples(gauss3, 4, tmp_path / "s.png"))
    assert sheet.shape[0] == 3 * (48 + 2) + 2
    chosen = gauss3.train.images[gauss3.train.of_class(1)[2]].permute(1, 2, 0).numpy()
    right = sheet[:, -(4 * 50 + 2) :]
    assert np.array_equal(right[52:100:3, 102:150:3], chosen)
    with pytest.raises(ValueError, match="0 samples a class; expected at least 1"):
        pictures.samples(gauss3, 0, tmp_path / "s.png")


def test_classes_with_fewer_images_end_in_white(gauss2, tmp_path):
    keep = torch.cat([gauss2.train.of_class(0)[:3], gauss2.train.of_class(1)[:1]])
    sheet = drawn(pictures.samples(gauss2.train.subset(keep), 10, tmp_path / "s.png"))
    assert sheet.shape[0] == 2 * 50 + 2
    assert (sheet[52:100, -100:] == 255).all()


def distilled(train, images, space, **more):
    ids = torch.tensor([2, 0, 1])
    return DistilledSet({"images": images}, more.pop("targets", Targets(ids=ids)), space, **more)


def bottom_right(path, count=1):
    """Last image of each row, at its own size (tiles of 48, images of 16)."""
    sheet = drawn(path)
    return [sheet[2 + 50 * r : 50 + 50 * r : 3, -50:-2:3] for r in range(sheet.shape[0] // 50)]


def test_a_distilled_set_is_shown_as_pixels_sorted_by_class(gauss3, tmp_path):
    train = gauss3.train
    chosen = torch.stack([train.images[train.of_class(c)[0]] for c in (2, 0, 1)])
    expected = [chosen[i].permute(1, 2, 0).numpy() for i in (1, 2, 0)]
    soft = Targets(soft=torch.eye(3)[[2, 0, 1]], kind="probabilities")
    for i, made in enumerate(
        (
            distilled(train, train.space.real_to_input(chosen), train.space),
            distilled(train, chosen.float() / 255, Space("unit", train.mean, train.std)),
            distilled(train, chosen, Space("uint8", train.mean, train.std)),
            distilled(train, chosen, Space("uint8", train.mean, train.std), targets=soft),
        )
    ):
        seen = bottom_right(pictures.distilled_sheet(made, train, tmp_path / f"{i}.png"))
        assert all(np.array_equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_whitened_sets_are_shown_unwhitened(gauss3, tmp_path, fresh_cache):
    train = gauss3.train
    space = data.zca_space(train, data.fit_zca(train))
    chosen = torch.stack([train.images[train.of_class(c)[0]] for c in (2, 0, 1)])
    made = distilled(train, space.real_to_input(chosen), space)
    seen = bottom_right(pictures.distilled_sheet(made, train, tmp_path / "s.png"))
    for image, i in zip(seen, (1, 2, 0), strict=True):
        assert np.abs(image - chosen[i].permute(1, 2, 0).numpy()).max() <= 1


def test_a_subset_is_shown_by_its_real_images(gauss3, tmp_path):
    train = gauss3.train
    indices = torch.stack([train.of_class(c)[0] for c in range(3)])
    made = DistilledSet(
        {"indices": indices}, Targets(ids=torch.arange(3)), train.space, CodecSpec("subset"),
    ).changed(card={"dataset": train.name, "data_fingerprint": train.fingerprint})  # fmt: skip
    seen = bottom_right(pictures.distilled_sheet(made, train, tmp_path / "s.png"))
    for image, index in zip(seen, indices, strict=True):
        assert np.abs(image - train.images[index].permute(1, 2, 0).numpy()).max() <= 1


def test_decoded_items_can_be_shown_where_the_codec_makes_more_than_is_stored(gauss3, tmp_path):
    train = gauss3.train
    chosen = torch.stack([train.images[train.of_class(c)[0]] for c in (2, 0, 1)])
    made = distilled(
        train,
        train.space.real_to_input(chosen),
        train.space,
        codec=CodecSpec("grid", {"factor": 2, "kind": "single"}),
    )
    stored = drawn(pictures.distilled_sheet(made, train, tmp_path / "a.png"))
    decoded = drawn(pictures.distilled_sheet(made, train, tmp_path / "b.png", decoded=True))
    assert decoded.shape[1] - stored.shape[1] == 3 * 50  # four items an image


def test_graphs_have_no_pictures(gauss3, tmp_path):
    made = distilled(gauss3.train, torch.zeros(3, 3, 4, 4), gauss3.train.space, kind="graph")
    with pytest.raises(
        ValueError, match="a distilled set of kind 'graph' has no pictures; expected kind 'image'"
    ):
        pictures.distilled_sheet(made, None, tmp_path / "s.png")
