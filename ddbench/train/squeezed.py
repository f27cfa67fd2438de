"""What the methods that squeeze data into teachers have in common: the teachers, how images are kept, who labels them.

Sources: SRe2L (arXiv:2306.13092), CV-DD (arXiv:2501.07575), RDED (arXiv:2312.03526), INFER (arXiv:2408.06927).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddbench.contract import CodecSpec, DistilledSet, Labeller, RealData, Space, Targets, Task, Trained
from ddbench.matching.recovery import check_batch_norm
from ddbench.train.squeeze import squeeze_recipe

KEPT = ("uint8", "jpeg75")
"""How images may be kept: whole, or after the JPEG round trip (quality 75, 4:2:0) that the authors' files went through."""


def squeezed(
    task: Task, networks: Sequence[str], squeeze: str, held_out: float | None = None, batch_norm: bool = True
) -> list[Trained]:
    """The teachers of a method, one a network, of one space.

    Args:
        networks: names.
        squeeze: named recipe of their training (``ddbench/train/squeeze.py``).
        held_out: share of each class that no teacher is trained on, where it is not the recipe's.
        batch_norm: whether the method needs batch norms, whose absence is then told before anything is trained.

    Raises:
        ValueError: a network without batch norm; teachers whose inputs differ.
        LookupError: no such recipe or network, or no row of the recipe for the data set.
    """
    train = task.train
    if batch_norm:
        for network in networks:
            check_batch_norm(network, train.shape, train.classes)
    recipes = [squeeze_recipe(squeeze, network, train.name) for network in networks]
    if held_out is not None:
        recipes = [replace(recipe, held_out=held_out) for recipe in recipes]
    found = [task.teachers(recipe)[0] for recipe in recipes]
    check_one_space(found, task)
    return found


def space_of(trained: Trained, source: Task | RealData) -> Space:
    """Of a teacher's inputs; an old one that does not say had those of the data."""
    return trained.space or source.train.space


def check_one_space(teachers: Sequence[Trained], source: Task | RealData) -> None:
    """Raises:
    ValueError: teachers whose inputs differ."""
    for other in teachers[1:]:
        if not space_of(other, source).same_inputs(space_of(teachers[0], source)):
            raise ValueError(
                f"teachers {teachers[0].name} and {other.name} see inputs of different normalisation; expected one for all: "
                f"give their recipes the same mean and std"
            )


def check_kept(how: str) -> None:
    """Raises:
    ValueError: no way of :data:`KEPT`."""
    if how not in KEPT:
        raise ValueError(f"stored is {how!r}; expected {' or '.join(KEPT)}")


def kept(images: Tensor, how: str) -> Tensor:
    """uint8 images (n, C, H, W) as a set keeps them; see :data:`KEPT`.

    Raises:
        ValueError: another way.
    """
    check_kept(how)
    if how == "uint8":
        return images
    return torch.stack([_jpeg(image) for image in images.cpu()])


def _jpeg(image: Tensor) -> Tensor:
    """One image (C, H, W), C 1 or 3, as Pillow's JPEG of quality 75 gives it back (torchvision's codec is deprecated)."""
    file = io.BytesIO()
    array = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(array).save(file, "JPEG", quality=75)
    back = torch.from_numpy(np.array(Image.open(file)))
    return back[None] if len(image) == 1 else back.permute(2, 0, 1).contiguous()


def class_sorted(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images (ids, K, ...) -> (K * ids, ...) by class, and their label ids."""
    ids, classes = images.shape[:2]
    return images.transpose(0, 1).flatten(0, 1), torch.arange(classes).repeat_interleave(ids)


def labelled(
    task: Task,
    images: Tensor,
    ids: Tensor,
    teachers: Sequence[Trained],
    weights: Sequence[float] | None = None,
    how: str = "uint8",
    codec: CodecSpec | None = None,
) -> DistilledSet:
    """The set of uint8 images (n, C, H, W) whose views the teachers label; how, the protocol decides.

    Args:
        ids: (n,) classes.
        weights: of the teachers' logits; None: equal.
        how: see :func:`kept`.
        codec: None: each stored image is an item.
    """
    space = space_of(teachers[0], task)
    refs = tuple(t.ref(w) for t, w in zip(teachers, weights or [1.0] * len(teachers), strict=True))
    return task.distilled(
        images=kept(images, how),
        targets=Targets(ids=ids, labeller=Labeller(refs, replace(space, stored="uint8"))),
        space=replace(space, stored="uint8"),
        codec=codec,
    )
