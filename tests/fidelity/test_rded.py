"""RDED against the numbers and the text of its paper and code (arXiv:2312.03526)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import blobs
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as vision

from ddbench import registry
from ddbench.augment.views import CROP_TRIES, resized_boxes
from ddbench.budget import byte_count
from ddbench.codecs import items, patch_shuffle
from ddbench.contract import DistilledSet, ImageData, Space, TeacherRecipe, Trained
from ddbench.matching.patches import (
    best_crops,
    centred,
    easiest,
    mosaics,
    resized_crops,
    square_boxes,
    truncated,
)
from ddbench.methods.rded import RDED
from ddbench.nets.build import build
from ddbench.task import RunTask, TimeBudget
from ddbench.train.squeeze import squeeze_name, squeeze_recipe
from ddbench.trainplan import cosine_lr

TRAIN = blobs("three", (3, 16, 16), 3, (24, 2)).train
IMAGENET = Space("input", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SMALL: dict[str, Any] = dict(squeeze="quick", network="ConvNetD1W4BN", mipc=12, num_crop=3)


class Linear(nn.Module):
    """Logits that differ for every pixel; keeps what it saw."""

    def __init__(self, shape: tuple[int, int, int] = TRAIN.shape, classes: int = 3) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(3)
        values = shape[0] * shape[1] * shape[2]
        self.register_buffer("weight", torch.randn(classes, values, generator=rng) / values**0.5)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x.flatten(1) @ self.weight.T


@dataclass
class Toy(RunTask):
    """A task whose teacher is :class:`Linear`, in ImageNet's statistics."""

    observer: Linear = field(default_factory=Linear)
    asked: list[TeacherRecipe] = field(default_factory=list)

    def teachers(self, recipe: TeacherRecipe) -> list[Trained]:
        self.asked.append(recipe)
        return [Trained(self.observer, "0123456789abcdef", 0.9, 1.0, name="ConvNetD1W4BN", space=IMAGENET)]


def distill(ipc: int = 2, seed: int = 0, train: ImageData = TRAIN, **settings: Any) -> DistilledSet:
    return Toy(train, ipc, seed).run_method(RDED(**{**SMALL, **settings}))


class TestSelection:
    crops = torch.tensor([[[1, 0], [0, 2]], [[3, 0], [0, 1]], [[0, 5], [2, 2]]]).float()[..., None, None]

    def test_the_crops_and_their_order_are_those_of_the_spec(self) -> None:
        chosen, losses = best_crops(nn.Flatten(), self.crops, 0, (1, 1))
        patches = self.crops[torch.arange(3), chosen].flatten(1)
        assert patches[easiest(losses, 2)].tolist() == [[3, 0], [1, 0]]
        assert losses.tolist() == pytest.approx([0.313262, 0.048587, 0.693147], abs=1e-6)

    def test_the_second_crop_of_the_first_image_has_the_score_of_the_spec(self) -> None:
        _, losses = best_crops(nn.Flatten(), self.crops[:1, 1:], 0, (1, 1))
        assert losses.tolist() == pytest.approx([2.126928], abs=1e-6)

    def test_an_image_gives_one_patch_however_good_its_others_are(self) -> None:
        crops = torch.tensor([[[9, 0], [8, 0]], [[1, 0], [0, 1]]]).float()[..., None, None]
        chosen, losses = best_crops(nn.Flatten(), crops, 0, (1, 1))
        order = easiest(losses, 2)
        assert crops[torch.arange(2), chosen][order].flatten(1).tolist() == [[9, 0], [1, 0]]

    def test_equal_losses_stay_in_their_order(self) -> None:
        assert easiest(torch.tensor([1.0, 0.5, 1.0, 0.5]), 4).tolist() == [1, 3, 0, 2]

    def test_padding_puts_the_odd_row_and_column_behind(self) -> None:
        padded = centred(torch.ones(1, 1, 2, 2), (5, 5))
        expected = torch.zeros(5, 5)
        expected[1:3, 1:3] = 1
        assert torch.equal(padded[0, 0], expected)


class TestTiling:
    def constant(self, n: int, side: int) -> Tensor:
        return torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, side, side)

    def test_eight_patches_make_the_two_images_of_the_spec(self) -> None:
        made = mosaics(self.constant(8, 2), 2, 2, (4, 4))
        assert made[0, 0].tolist() == [[0, 0, 2, 2], [0, 0, 2, 2], [4, 4, 6, 6], [4, 4, 6, 6]]
        assert made[1, 0].tolist() == [[1, 1, 3, 3], [1, 1, 3, 3], [5, 5, 7, 7], [5, 5, 7, 7]]

    def test_sides_that_do_not_divide_give_the_first_cells_a_pixel_more(self) -> None:
        made = mosaics(self.constant(18, 1), 2, 3, (5, 5))
        first, second, third = [0, 0, 2, 2, 4], [6, 6, 8, 8, 10], [12, 12, 14, 14, 16]
        assert made[0, 0].tolist() == [first, first, second, second, third]

    def test_a_patch_is_enlarged_to_its_cell_by_nearest_neighbour(self) -> None:
        patches = torch.tensor([[0, 200], [100, 50]], dtype=torch.uint8).expand(4, 1, 2, 2)
        made = mosaics(patches, 1, 2, (5, 5))
        assert made[0, 0, :3, :3].tolist() == [[0, 0, 200], [0, 0, 200], [100, 100, 50]]
        assert made[0, 0, 3:, 3:].tolist() == [[0, 200], [100, 50]]

    def test_one_patch_an_image_is_the_image(self) -> None:
        patches = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
        assert torch.equal(mosaics(patches, 3, 1, (8, 8)), patches)

    def test_bytes_are_truncated_and_plain_areas_stay_what_they_are(self) -> None:
        assert truncated(torch.tensor([0.0, 9.9, 254.99998, 255.0002, -1e-6])).tolist() == [0, 9, 255, 255, 0]
        plain = torch.full((1, 1, 32, 32), 255.0)
        boxes = square_boxes(200, (32, 32), torch.Generator().manual_seed(0))[None]
        assert bool((truncated(resized_crops(plain, boxes, (16, 16))) == 255).all())


class TestCrops:
    def test_crops_are_squares_of_torchvisions_law(self) -> None:
        boxes = square_boxes(20_000, (32, 32), torch.Generator().manual_seed(0))
        top, left, height, width = boxes.unbind(1)
        assert torch.equal(height, width)
        assert (int(height.min()), int(height.max())) == (9, 32)  # 32 * sqrt(0.08) is 9.05
        assert bool((top >= 0).all()) and bool((top + height <= 32).all())
        assert bool((left >= 0).all()) and bool((left + width <= 32).all())
        mean_root = 2 / 3 * (1 - 0.08**1.5) / 0.92  # of an area uniform in (0.08, 1)
        assert float(height.double().mean()) == pytest.approx(32 * mean_root, rel=0.01)
        free = 32 - height[height < 32].double()
        assert float((top[height < 32] / free).mean()) == pytest.approx(0.5, abs=0.01)

    @pytest.mark.parametrize("side", [32, 64])
    def test_a_scale_of_one_always_gives_the_whole_image(self, side: int) -> None:
        draws = np.random.default_rng(0).random((3000, CROP_TRIES, 4))
        boxes = resized_boxes(draws, (side, side), (1.0, 1.0))
        assert bool((boxes == torch.tensor([0, 0, side, side])).all())

    @pytest.mark.parametrize("out", [(16, 16), (8, 8), (5, 7), (24, 24)])
    def test_many_crops_at_once_are_torchvisions_one_by_one(self, out: tuple[int, int]) -> None:
        rng = torch.Generator().manual_seed(1)
        images = torch.rand(3, 2, 16, 20, generator=rng, dtype=torch.float64)
        boxes = square_boxes(12, (16, 20), rng).view(3, 4, 4)
        made = resized_crops(images, boxes, out)
        for i in range(3):
            for j in range(4):
                top, left, h, w = boxes[i, j].tolist()
                one = vision.resized_crop(images[i], top, left, h, w, list(out), antialias=True)
                assert torch.allclose(made[i, j], one, atol=1e-6)


class TestTheMethod:
    @pytest.mark.parametrize("factor", [1, 2])
    def test_the_set_is_that_of_a_plain_loop(self, factor: int) -> None:
        """The paper's loop, image by image with torchvision's functions, from the same random numbers."""
        ipc, side, settings = 2, 16 // factor, RDED(**SMALL, factor=factor)
        rng, observer = Toy(TRAIN, ipc, 5).rng("selection"), Linear()
        mean, std = (torch.tensor(t).view(3, 1, 1) for t in (IMAGENET.mean, IMAGENET.std))
        expected = []
        for c in range(3):
            pool = TRAIN.of_class(c)
            drawn = pool[torch.randperm(len(pool), generator=rng)[: settings.mipc]]
            boxes = square_boxes(len(drawn) * settings.num_crop, (16, 16), rng).tolist()
            found = []
            for i, index in enumerate(drawn.tolist()):
                image, tries = TRAIN.images[index].float() / 255, []
                for top, left, h, w in boxes[i * settings.num_crop :][: settings.num_crop]:
                    crop = vision.resized_crop(image, top, left, h, w, [side, side], antialias=True)
                    seen = torch.zeros(3, 16, 16)
                    at = (16 - side) // 2
                    seen[:, at : at + side, at : at + side] = (crop - mean) / std
                    loss = F.cross_entropy(observer(seen[None]), torch.tensor([c]))
                    tries.append((float(loss), crop))
                found.append(min(tries, key=lambda t: t[0]))
            found.sort(key=lambda t: t[0])
            for q in range(ipc):
                cells = [found[g * ipc + q][1] for g in range(factor**2)]
                rows = [torch.cat(cells[r * factor : (r + 1) * factor], 2) for r in range(factor)]
                expected.append(torch.cat(rows, 1) * 255)
        made = distill(ipc, 5, factor=factor).tensors["images"]
        assert made.dtype == torch.uint8 and len(made) == len(expected)
        # truncated: the byte below, or the byte itself where rounding is at stake
        below = torch.stack(expected) - made.float()
        assert float(below.min()) > -0.01 and float(below.max()) < 1.01

    def test_the_observer_sees_zeros_around_the_standardised_patch(self) -> None:
        task = Toy(TRAIN, 1, 0)
        task.run_method(RDED(**SMALL, factor=2))
        seen = torch.cat(task.observer.seen)
        assert tuple(seen.shape) == (3 * 12 * 3, 3, 16, 16)
        frame = seen.clone()
        frame[:, :, 4:12, 4:12] = 0
        assert float(frame.abs().max()) == 0 and bool((seen[:, :, 4:12, 4:12] != 0).any(-1).all())

    def test_the_padding_is_not_stored(self) -> None:
        images = distill(2, factor=2).tensors["images"]
        assert int(images.min()) > 0 and tuple(images.shape) == (6, 3, 16, 16)

    def test_how_many_crops_are_scored_at_once_changes_nothing(self) -> None:
        whole = distill(2).tensors["images"]
        assert torch.equal(distill(2, batch=1).tensors["images"], whole)
        assert torch.equal(distill(2, batch=7).tensors["images"], whole)

    def test_images_on_disk_give_the_same_set(self, tmp_path: Path) -> None:
        np.save(tmp_path / "images.npy", TRAIN.images.numpy())
        mapped = torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="c"))
        on_disk = ImageData("three", "train", mapped, TRAIN.labels, 3, TRAIN.mean, TRAIN.std)
        assert distill(2, train=on_disk).fingerprint() == distill(2).fingerprint()

    def test_the_set_names_the_observer_and_stores_no_labels_but_ids(self) -> None:
        made = distill(2, factor=2)
        targets = made.targets
        assert targets.soft is None and targets.ids is not None and targets.ids.tolist() == [0, 0, 1, 1, 2, 2]
        assert targets.labeller is not None
        (ref,) = targets.labeller.networks
        assert (ref.key, ref.source, ref.weight) == ("0123456789abcdef", "cache", 1.0)
        assert targets.labeller.space.same_inputs(IMAGENET)
        assert made.space is not None and made.space.stored == "uint8" and made.space.same_inputs(IMAGENET)
        assert byte_count(made).images == 6 * 3 * 16 * 16

    def test_mosaics_are_items_under_patch_shuffle_and_single_patches_plain_images(self) -> None:
        rng = torch.Generator().manual_seed(1)
        for factor in (1, 2):
            found = items(distill(2, factor=factor), TRAIN)
            assert len(found) == 6 and (found.visit is None) == (factor == 1)
        assert found.visit is not None
        shuffled = found.visit(found.stored, rng)
        assert torch.equal(shuffled.flatten(2).sort(2).values, found.stored.flatten(2).sort(2).values)
        assert not torch.equal(shuffled, found.stored)
        assert found.to_input(shuffled).shape == (6, 3, 16, 16)

    def test_a_time_budget_that_ends_leaves_whole_real_images(self) -> None:
        budget = TimeBudget(1e-9)
        made = Toy(TRAIN, 2, 0, budget=budget).run_method(RDED(**SMALL))
        assert made.card.partial
        real = {image.numpy().tobytes() for image in TRAIN.images}
        assert all(image.numpy().tobytes() in real for image in made.tensors["images"])

    def test_jpeg_changes_pixels_a_little(self) -> None:
        plain, jpeg = distill(2), distill(2, stored="jpeg75")
        one, two = plain.tensors["images"].float(), jpeg.tensors["images"].float()
        assert jpeg.tensors["images"].dtype == torch.uint8 and not torch.equal(one, two)
        assert float((one - two).abs().mean()) < 30

    def test_grey_images_go_through_jpeg_too(self) -> None:
        grey = blobs("grey", (1, 16, 16), 2, (8, 2), flip=False).train

        @dataclass
        class Grey(RunTask):
            def teachers(self, recipe: TeacherRecipe) -> list[Trained]:
                net = Linear(grey.shape, 2)
                return [Trained(net, "0123456789abcdef", 0.9, 1.0, name="ConvNetD1W4BN", space=grey.space)]

        made = Grey(grey, 1, 0).run_method(RDED(**{**SMALL, "mipc": 8}, stored="jpeg75"))
        assert tuple(made.tensors["images"].shape) == (2, 1, 16, 16)


class TestBadInput:
    def test_small_classes_give_all_they_have_and_that_is_noted(self) -> None:
        made = distill(2, mipc=300)
        assert made.card.notes["mipc"] == (
            "mipc is 300 but class 0 has 24 images; classes that small give all"
        )
        assert "mipc" not in distill(2).card.notes

    def test_more_patches_than_images_drawn_say_what_to_raise(self) -> None:
        message = "ipc 4 with factor 2 takes 16 patches a class, .* but mipc is 12; raise it to 16 or more"
        with pytest.raises(ValueError, match=message):
            distill(4, factor=2)

    def test_more_patches_than_a_class_has_say_how_far_ipc_may_go(self) -> None:
        message = "ipc 7 with factor 2 takes 28 patches a class, .* but class 0 has 24; lower --ipc to 6"
        for mipc in (300, 12):  # to raise mipc would not help
            with pytest.raises(ValueError, match=message):
                distill(7, factor=2, mipc=mipc)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"num_crop": 0}, "num_crop is 0; expected at least 1"),
            ({"factor": 17}, "factor is 17 for images of 16x16; expected at most 16"),
            ({"stored": "png"}, "stored is 'png'; expected uint8 or jpeg75"),
        ],
    )
    def test_settings_out_of_range_are_named_before_a_teacher_is_trained(
        self, settings: dict[str, Any], message: str
    ) -> None:
        task = Toy(TRAIN, 1, 0)
        with pytest.raises(ValueError, match=message):
            task.run_method(RDED(**{**SMALL, **settings}))
        assert task.asked == []


class TestTheProtocolsNumbers:
    def test_the_rate_ends_near_half_of_its_peak(self) -> None:
        assert cosine_lr(1, 150, 300, eta=2) == pytest.approx(0.853553, abs=1e-6)
        assert cosine_lr(1, 299, 300, eta=2) == pytest.approx(0.502618, abs=1e-6)

    def test_patch_shuffle_keeps_the_pixels_and_does_nothing_for_one_patch(self) -> None:
        batch = torch.rand(4, 3, 7, 7)
        rng = torch.Generator().manual_seed(0)
        for factor in (2, 3):
            shuffled = patch_shuffle(batch, factor, rng)
            assert torch.equal(shuffled.flatten(2).sort(2).values, batch.flatten(2).sort(2).values)
        assert torch.equal(patch_shuffle(batch, 1, rng), batch)


class TestRecipes:
    @pytest.mark.parametrize(
        ("network", "shape", "classes", "parameters"),
        [
            ("ConvNetBN", (3, 32, 32), 10, 320_010),
            ("ConvNetBN", (3, 32, 32), 100, 504_420),
            ("ConvNetD4BN", (3, 64, 64), 200, 857_160),
            ("ConvNetD5BN", (3, 128, 128), 10, 615_690),
            ("ConvNetD6BN", (3, 128, 128), 100, 794_340),
        ],
    )
    def test_observers_have_the_parameters_of_the_spec(
        self, network: str, shape: tuple[int, int, int], classes: int, parameters: int
    ) -> None:
        assert sum(p.numel() for p in build(network, shape, classes).parameters()) == parameters

    def test_rows_are_the_authors(self) -> None:
        for dataset, factor in (("cifar10", 1), ("cifar100", 1), ("tiny_imagenet", 1), ("imagenette", 2)):
            row = registry.resolve_recipe("rded", "authors", dataset, 10).settings
            assert (row["mipc"], row["num_crop"], row["factor"]) == (300, 5, factor)
        assert registry.resolve_recipe("rded", "authors", "imagenet1k", 10).settings["factor"] == 2

    @pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "tiny_imagenet"])
    def test_observers_see_imagenets_normalisation_on_every_data_set(self, dataset: str) -> None:
        recipe = squeeze_recipe("rded", "ResNet18BN", dataset)
        assert (recipe.mean, recipe.std) == (IMAGENET.mean, IMAGENET.std)

    def test_every_row_has_an_observer_that_its_squeeze_recipe_knows(self) -> None:
        rows = registry.recipes("rded")
        assert len(rows) >= 9
        for name, dataset, _ in rows:
            assert dataset is not None
            made = registry.make("rded", registry.resolve_recipe("rded", name, dataset, 1).settings)
            assert squeeze_recipe(squeeze_name(made.squeeze, "rded", dataset), made.network, dataset).network
