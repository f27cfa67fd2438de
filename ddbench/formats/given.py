"""What images and labels mean that somebody hands over: the one place where value spaces and label kinds are decided."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddbench.contract import Card, CodecSpec, DistilledSet, RealData, Space, Targets

_PROBABILITY_TOLERANCE = 1e-3
"""By how much rows of probabilities may miss 1 (fp16 rows of 1,000 classes do by 5e-4)."""
KINDS = ("ids", "probabilities", "logits", "values")


def _tensor(what: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    try:
        array = np.asarray(value)
        if array.dtype == object:
            raise TypeError("its parts have different shapes or are no numbers")
        return torch.from_numpy(np.ascontiguousarray(array))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{what} are a {type(value).__name__} that is no array ({error}); expected a tensor or array"
        ) from None


def _finite(what: str, t: Tensor) -> None:
    if t.is_floating_point() and not bool(torch.isfinite(t).all()):
        bad = (~torch.isfinite(t)).flatten(1).any(1) if t.dim() > 1 else ~torch.isfinite(t)
        first = int(bad.nonzero()[0])
        raise ValueError(
            f"{what} have {int((~torch.isfinite(t)).sum())} values that are not finite (NaN or infinity), first in row "
            f"{first}; expected numbers"
        )


def space_of(images: Tensor, space: str | Space | None, real: RealData) -> Space:
    own = real.train.space
    if isinstance(space, Space):
        return space
    if space is None:
        if images.dtype == torch.uint8:
            return Space("uint8", own.mean, own.std)
        low, high = float(images.min()), float(images.max())
        hint = "unit" if low >= 0 and high <= 1 else "input"
        raise ValueError(
            f"images are {images.dtype} from {low:.3g} to {high:.3g}, which does not say what their values mean; expected "
            f'space="input" (standardised with the mean and std of {real.name}), space="unit" (pixels from 0 to 1) or a '
            f"ddbench.contract.Space with statistics of your own (ZCA too); by their range perhaps {hint!r}"
        )
    if space not in ("input", "unit", "uint8"):
        raise ValueError(f"space is {space!r}; expected input, unit or uint8, or a ddbench.contract.Space")
    if (space == "uint8") != (images.dtype == torch.uint8):
        raise ValueError(
            f"space is {space!r} but images are {images.dtype}; expected uint8 images with space uint8 only"
        )
    return Space(space, own.mean, own.std)


def _whole_ids(labels: Tensor) -> Tensor:
    if labels.is_floating_point():
        if not bool((labels == labels.round()).all()):
            raise ValueError(
                "labels (n,) are not whole numbers; expected class ids, or soft labels of shape (n, classes)"
            )
        labels = labels.round()
    return labels.to(torch.int64)


def are_probabilities(soft: Tensor) -> bool:
    """Whether rows (n, K) are not negative and sum to 1."""
    sums = soft.double().sum(1)
    return bool((soft >= 0).all()) and bool(((sums - 1).abs() <= _PROBABILITY_TOLERANCE).all())


def targets_of(labels: Tensor, kind: str | None, n: int, classes: int, name: str) -> Targets:
    """Labels as people hand them over: class ids (n,) of any numeric type, or soft labels (n, K)."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"label kind is {kind!r}; expected one of {', '.join(KINDS)}")
    if labels.dim() not in (1, 2) or len(labels) != n:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} for {n} images; expected class ids ({n},) or soft labels ({n}, {classes})"
        )
    _finite("labels", labels)
    if labels.dim() == 1:
        if kind not in (None, "ids"):
            raise ValueError(
                f"labels have shape ({n},) but are said to be {kind}; expected shape ({n}, {classes})"
            )
        ids = _whole_ids(labels)
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= classes:
            hint = "; labels that count from 1 need labels - 1" if low == 1 and high == classes else ""
            raise ValueError(
                f"labels run from {low} to {high} but {name} has {classes} classes; expected 0 to {classes - 1}{hint}"
            )
        return Targets(ids=ids)
    if kind == "ids":
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} but are said to be ids; expected shape ({n},)"
        )
    if labels.shape[1] != classes and kind != "values":
        raise ValueError(
            f"soft labels have shape {tuple(labels.shape)} but {name} has {classes} classes; expected ({n}, {classes})"
        )
    soft = labels if labels.is_floating_point() else labels.float()
    sums = soft.double().sum(1)
    like_probabilities = are_probabilities(soft)
    if kind is None:
        if not like_probabilities and bool((soft >= 0).all()):
            raise ValueError(
                f"soft labels are not negative and their rows sum to between {float(sums.min()):.3g} and "
                f"{float(sums.max()):.3g}: neither probabilities nor surely logits; expected label_kind="
                f'"probabilities", "logits" or "values"'
            )
        kind = "probabilities" if like_probabilities else "logits"
    if kind == "probabilities" and not like_probabilities:
        raise ValueError(
            f"labels are said to be probabilities, but their values start at {float(soft.min()):.3g} and their rows sum to "
            f"between {float(sums.min()):.3g} and {float(sums.max()):.3g}; expected values from 0 on and sums of 1"
        )
    return Targets(soft=soft, kind=kind)


def as_set(
    images: Any,
    labels: Any,
    real: RealData,
    *,
    space: str | Space | None = None,
    label_kind: str | None = None,
    codec: CodecSpec | None = None,
    method: str = "",
) -> DistilledSet:
    """A distilled set of images and labels that somebody made elsewhere.

    Args:
        images: (n, C, H, W), tensor or array; uint8 pixels, or floats with ``space``.
        labels: class ids (n,), also as whole floats; or soft labels (n, classes).
        space: what float values are: ``input`` (standardised with the data set's statistics), ``unit`` (0 to 1), or a
            Space with statistics or a whitening of its own.
        label_kind: ``probabilities``, ``logits`` or ``values`` for soft labels; None: not negative and rows summing to 1 are
            probabilities, rows with negative values are logits, anything else is refused.
        codec: how images are packed (IDC: ``CodecSpec("grid", {"factor": 2})``); None: as they are.

    Raises:
        ValueError: wrong shapes, labels outside the classes, values that are not finite, or an unclear meaning.
    """
    pixels, given = _tensor("images", images), _tensor("labels", labels)
    if pixels.dim() != 4 or not len(pixels):
        raise ValueError(f"images have shape {tuple(pixels.shape)}; expected (n, C, H, W) with n at least 1")
    if tuple(pixels.shape[1:]) != real.train.shape and codec is None:
        last = tuple(pixels.shape[3:]) + tuple(pixels.shape[1:3])
        hint = "; channels come last: images.permute(0, 3, 1, 2)" if last == real.train.shape else ""
        raise ValueError(
            f"images have shape {tuple(pixels.shape)} but {real.name} has images of {real.train.shape}; expected "
            f"(n, {', '.join(map(str, real.train.shape))}){hint}"
        )
    if not pixels.is_floating_point() and pixels.dtype != torch.uint8:
        raise ValueError(f"images are {pixels.dtype}; expected uint8 (0 to 255) or floats")
    _finite("images", pixels)
    if pixels.dtype == torch.float64:
        pixels = pixels.float()  # what numpy makes by default; networks train in float32
    classes = real.train.classes
    targets = targets_of(
        given, label_kind, len(given) if codec is not None else len(pixels), classes, real.name
    )
    return DistilledSet(
        tensors={"images": pixels},
        targets=targets,
        space=space_of(pixels, space, real),
        codec=codec or CodecSpec(),
        card=Card(
            method=method,
            dataset=real.name,
            data_fingerprint=real.train.fingerprint,
            ipc=len(pixels) / classes,
            classes=classes,
            shape=real.train.shape,
        ),
    )
