"""Padded and resized crops with a mirror: torchvision's, on standardised batches, many at once."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.functional import InterpolationMode, crop, hflip, pad, resized_crop

from ddbench.augment.crops import CropFlip
from ddbench.augment.named import CROPS, SIAMESE, augmentation, siamese
from ddbench.contract import Items, Space
from ddbench.seeding import Generators
from ddbench.train.students import Feed
from ddbench.trainplan import AUGMENTS, TrainPlan

SPACE = Space("uint8", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
BLACK = SPACE.unit_to_input(torch.zeros(1, 3, 1, 1)).view(3)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(n: int, side: int = 12) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, side, side), generator=rng(9), dtype=torch.uint8)


def test_a_padded_crop_is_torchvisions_with_black_before_standardising() -> None:
    made, images = CropFlip(False, True, BLACK), pixels(64)
    drawn = made.draw(64, (3, 12, 12), rng())
    found = made.apply(SPACE.real_to_input(images), drawn)
    for image, box, mirrored, out in zip(images, drawn.boxes, drawn.flips, found, strict=True):
        top, left, height, width = box.tolist()
        seen = crop(pad(image, 4), top + 4, left + 4, height, width)
        seen = hflip(seen) if mirrored else seen
        assert torch.allclose(out, SPACE.real_to_input(seen[None])[0], atol=1e-6)


def test_a_resized_crop_is_torchvisions() -> None:
    made, x = CropFlip(True), SPACE.real_to_input(pixels(64))
    drawn = made.draw(64, (3, 12, 12), rng())
    for image, box, mirrored, out in zip(x, drawn.boxes, drawn.flips, made.apply(x, drawn), strict=True):
        seen = resized_crop(image, *box.tolist(), [12, 12], InterpolationMode.BILINEAR, antialias=True)
        assert torch.allclose(out, hflip(seen) if mirrored else seen, atol=1e-4)


def test_every_shift_of_a_padded_crop_comes_and_half_of_the_images_are_mirrored() -> None:
    drawn = CropFlip(False).draw(4000, (3, 32, 32), rng())
    assert drawn.boxes[:, 0].unique().tolist() == drawn.boxes[:, 1].unique().tolist() == list(range(-4, 5))
    assert drawn.boxes[:, 2:].unique().tolist() == [32]
    assert float(drawn.flips.float().mean()) == pytest.approx(0.5, abs=0.03)


def test_resized_crops_have_between_8_and_100_percent_of_the_area() -> None:
    drawn = CropFlip(True).draw(4000, (3, 64, 64), rng())
    area = (drawn.boxes[:, 2] * drawn.boxes[:, 3]) / 64**2
    assert 0.07 < float(area.min()) < 0.1 and 0.95 < float(area.max()) <= 1
    assert float(area.mean()) == pytest.approx(0.481, abs=0.02)  # that of the spec of CDA, at 0.08


@pytest.mark.parametrize("name", CROPS)
def test_nothing_is_mirrored_where_the_data_set_forbids_it(name: str) -> None:
    made = augmentation(name, flip=False)
    assert isinstance(made, CropFlip) and not made.draw(500, (1, 8, 8), rng()).flips.any()
    assert augmentation(name, flip=True).draw(500, (1, 8, 8), rng()).flips.any()


@pytest.mark.parametrize("name", CROPS)
def test_many_batches_at_once_are_each_alone(name: str) -> None:
    made = augmentation(name, True, fill=BLACK)
    x = SPACE.real_to_input(pixels(15)).view(3, 5, 3, 12, 12)
    draws = [made.draw(5, (3, 12, 12), rng(k)) for k in range(3)]
    alone = torch.stack([made.apply(part, draw) for part, draw in zip(x, draws, strict=True)])
    assert torch.equal(made.apply_groups(x, draws), alone)


@pytest.mark.parametrize("name", CROPS)
def test_a_draw_hangs_on_its_generator_alone(name: str) -> None:
    made, before = augmentation(name, True), torch.get_rng_state()
    one, two, other = (made.draw(8, (3, 12, 12), rng(k)) for k in (0, 0, 1))
    assert torch.equal(one.boxes, two.boxes) and torch.equal(one.flips, two.flips)
    assert not torch.equal(one.boxes, other.boxes)
    assert torch.equal(torch.get_rng_state(), before)


def test_crops_are_for_training_and_not_for_matching() -> None:
    assert set(CROPS) <= set(AUGMENTS) and not set(CROPS) & set(SIAMESE)
    for name in CROPS:
        TrainPlan(epochs=1, augment=name)
        with pytest.raises(
            ValueError, match=f"augment is '{name}'; expected one of none, dsa, dsa-flip, diffaug"
        ):
            siamese(name, True)
    with pytest.raises(ValueError, match="augment is 'diffaug:NAMES'; expected one of none"):
        augmentation("diffaug:NAMES", True)


def test_wrong_batches_and_generators_are_refused() -> None:
    made, x = CropFlip(False), SPACE.real_to_input(pixels(4))
    drawn = made.draw(3, (3, 12, 12), rng())
    with pytest.raises(ValueError, match="crops of 3 images but the batch has 4; draw for this batch size"):
        made.apply(x, drawn)
    with pytest.raises(
        ValueError, match=r"torch\.uint8 of shape \(4, 3, 12, 12\); standardise the images first"
    ):
        made.apply(pixels(4), drawn)
    with pytest.raises(ValueError, match="1 draws for 4 groups of images; pass one draw a group"):
        made.apply_groups(x[:, None], [drawn])


def test_students_and_teachers_pad_with_black() -> None:
    items = Items(
        torch.zeros(6, 3, 12, 12, dtype=torch.uint8), SPACE.to_input, 2, ids=torch.zeros(6, dtype=torch.int64),
        space=SPACE,
    )  # fmt: skip
    plan = TrainPlan(epochs=3, batch=4, augment="crop-flip")
    for step in Feed(items, plan, [Generators(0)], torch.device("cpu"), torch.float32):
        assert torch.equal(step.inputs, BLACK.view(1, 1, 3, 1, 1).expand_as(step.inputs))
