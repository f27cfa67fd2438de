"""Views of items under a ViewPlan: order, crop, flip and mix of every epoch, from the plan's seed alone.

Every number is a hash of (seed, what it is for, epoch, item or batch, position), so any view of any epoch can be drawn
without the ones before it, on any platform and version, and a million items cost one vectorised call.  (A generator
object an item would take longer than the training step.)  Crop and flip hang on (seed, epoch, item), the mix on (seed,
epoch, batch), the order on (seed, epoch).

Sources: the FKD storage of SRe2L (arXiv:2306.13092) and FKD (arXiv:2112.01528); crops as torchvision draws them; CutMix
(arXiv:1905.04899), Mixup (arXiv:1710.09412).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.trainplan import ViewPlan

_ORDER, _FLIP, _CROP, _MIX, _PERMUTE = range(1, 6)
CROP_TRIES = 10
"""Of a resized crop before it falls back to the centre, as in torchvision."""
_U64 = npt.NDArray[np.uint64]


_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = 2**64 - 1


def _scramble(z: _U64) -> _U64:
    """The finaliser of splitmix64: a bijection of 64-bit words in which every bit depends on every bit."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
    scrambled: _U64 = z ^ (z >> np.uint64(31))
    return scrambled


def _scramble_one(z: int) -> int:
    """:func:`_scramble` of one word; an array of one costs ten times as much."""
    z = (z ^ (z >> 30)) * _FIRST & _WORD
    z = (z ^ (z >> 27)) * _SECOND & _WORD
    return z ^ (z >> 31)


def _uniform(seed: int, purpose: int, *words: int | _U64) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), a function of the words alone; arrays among the words broadcast."""
    state: int | _U64 = seed & _WORD
    for word in (purpose, *words):
        if isinstance(word, int):
            mixed: int | _U64 = _scramble_one(((word & _WORD) + _STEP) & _WORD)
        else:
            mixed = _scramble(word + np.uint64(_STEP))
        if isinstance(state, int) and isinstance(mixed, int):
            state = _scramble_one((state + _STEP & _WORD) ^ mixed)
            continue
        if isinstance(state, int):
            state = np.asarray([state], dtype=np.uint64)
        if isinstance(mixed, int):
            mixed = np.asarray([mixed], dtype=np.uint64)
        state = _scramble((state + np.uint64(_STEP)) ^ mixed)
    if isinstance(state, int):
        state = np.asarray([state], dtype=np.uint64)
    uniform: npt.NDArray[np.float64] = (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


def _counter(n: int) -> _U64:
    return np.arange(n, dtype=np.uint64)


def _beta(alpha: float, seed: int, epoch: int, batch: int) -> float:
    """Beta(alpha, alpha) by Joehnk's rejection, which needs nothing but uniforms."""
    for attempt in range(1 << 20):
        u, v = _uniform(seed, _MIX, epoch, batch, 2 + attempt, _counter(2))
        x, y = u ** (1 / alpha), v ** (1 / alpha)
        if 0 < x + y <= 1:
            return float(x / (x + y))
    raise ValueError(f"mix_alpha {alpha} is too large to be drawn; expected at most about 10")


# ------------------------------------------------------------------------------------------------ which view


@dataclass(frozen=True, eq=False)
class Views:
    """The views of one batch of b items.

    ``boxes`` int64 (b, 4): top, left, height, width, in pixels of the item; a padded crop may begin outside it.
    ``flips`` bool (b,).  ``mix``: ``none``, ``mixup`` or ``cutmix`` with partners ``perm`` (b,), weight ``lam`` of the
    item itself (Mixup) and box ``cut`` = (x1, y1, x2, y2) filled by the partner (CutMix).
    """

    boxes: Tensor | None
    flips: Tensor
    mix: str = "none"
    perm: Tensor | None = None
    lam: float = 1.0
    cut: tuple[int, int, int, int] = (0, 0, 0, 0)
    resized: bool = False
    """Whether boxes are resized to the output; else they are crops at scale."""


def cutmix_box(width: int, height: int, lam: float, x: int, y: int) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2) of the CutMix box around pixel (x, y): sides int(side * sqrt(1 - lam)), clipped to the image."""
    ratio = math.sqrt(1 - lam)
    half_w, half_h = int(width * ratio) // 2, int(height * ratio) // 2
    return max(x - half_w, 0), max(y - half_h, 0), min(x + half_w, width), min(y + half_h, height)


def _order(plan: ViewPlan, n: int, epoch: int) -> Tensor:
    if plan.order == "sequential":
        return torch.arange(n)
    if plan.order != "shuffled":
        raise ValueError(f"view plan order is {plan.order!r}; expected shuffled or sequential")
    keys = _uniform(plan.seed, _ORDER, epoch, _counter(n))
    return torch.from_numpy(np.argsort(keys, kind="stable"))


def _check_epoch(plan: ViewPlan, epoch: int) -> None:
    if not 0 <= epoch < plan.epochs:
        raise ValueError(
            f"the view plan has no epoch {epoch}; it has {plan.epochs} (0 to {plan.epochs - 1}): a student may train "
            f"fewer epochs, never more"
        )


def _explicit(plan: ViewPlan, tensors: Mapping[str, Tensor] | None, name: str, epoch: int) -> Tensor:
    """The rows of one epoch."""
    key = f"{plan.boxes}.{name}"
    if tensors is None or key not in tensors:
        raise ValueError(
            f"the view plan reads explicit views {plan.boxes!r}, but the set has no tensor {key!r}"
        )
    if epoch >= len(tensors[key]):
        raise ValueError(
            f"{key} holds {len(tensors[key])} epochs but the view plan says {plan.epochs}; expected as many"
        )
    return tensors[key][epoch]


def batches(plan: ViewPlan, n: int, epoch: int, tensors: Mapping[str, Tensor] | None = None) -> list[Tensor]:
    """The batches of an epoch: int64 indices of n items in consecutive chunks, the last short one kept.

    ``tensors``: of the set, where the plan names explicit views (``<boxes>.order`` (epochs, n) replaces the drawn order).
    """
    _check_epoch(plan, epoch)
    order = _order(plan, n, epoch) if plan.boxes is None else _explicit(plan, tensors, "order", epoch).long()
    if len(order) != n:
        raise ValueError(f"explicit views order {len(order)} items but the set has {n}; expected as many")
    return list(torch.split(order, plan.batch))


def _resized_boxes(plan: ViewPlan, epoch: int, ids: _U64, height: int, width: int) -> Tensor:
    draws = _uniform(
        plan.seed,
        _CROP,
        epoch,
        ids[:, None, None],
        _counter(CROP_TRIES)[None, :, None],
        _counter(4)[None, None],
    )
    return resized_boxes(draws, (height, width), plan.crop_scale, plan.crop_ratio)


def resized_boxes(
    draws: npt.NDArray[np.float64],
    size: tuple[int, int],
    scale: tuple[float, float] = (0.08, 1.0),
    ratios: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Boxes of torchvision's random resized crop: ten tries at area and log-uniform ratio, then the central crop.

    Args:
        draws: (n, CROP_TRIES, 4) uniform in [0, 1): area, ratio, top and left of each try.
        size: (H, W) of the images.
        scale: share of the area between which a try is drawn.
        ratios: width to height, likewise.

    Returns:
        int64 (n, 4): top, left, height, width, in pixels.
    """
    height, width = size
    low, high = scale
    area = height * width * (low + (high - low) * draws[..., 0])
    log_low, log_high = math.log(ratios[0]), math.log(ratios[1])
    ratio = np.exp(log_low + (log_high - log_low) * draws[..., 1])
    w = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    h = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    top = np.floor(draws[..., 2] * (height - h + 1)).astype(np.int64)
    left = np.floor(draws[..., 3] * (width - w + 1)).astype(np.int64)
    boxes = np.stack([top, left, h, w], axis=-1)[np.arange(len(draws)), fits.argmax(1)]
    shape = width / height
    centre_h, centre_w = height, width
    if shape < ratios[0]:
        centre_h = round(width / ratios[0])
    elif shape > ratios[1]:
        centre_w = round(height * ratios[1])
    boxes[~fits.any(1)] = ((height - centre_h) // 2, (width - centre_w) // 2, centre_h, centre_w)
    return torch.from_numpy(boxes)


def _boxes(plan: ViewPlan, epoch: int, ids: _U64, height: int, width: int) -> Tensor | None:
    if plan.crop == "none":
        return None
    if plan.crop == "resized":
        return _resized_boxes(plan, epoch, ids, height, width)
    if plan.crop == "pad":
        u = _uniform(plan.seed, _CROP, epoch, ids[:, None], _counter(2)[None])
        corner = np.floor(u * (2 * plan.crop_pad + 1)).astype(np.int64) - plan.crop_pad
        size = np.broadcast_to(np.array([height, width]), corner.shape)
        return torch.from_numpy(np.concatenate([corner, size], axis=1))
    raise ValueError(f"view plan crop is {plan.crop!r}; expected none, pad or resized")


def draw_views(
    plan: ViewPlan,
    epoch: int,
    batch: int,
    indices: Tensor,
    shape: tuple[int, ...],
    tensors: Mapping[str, Tensor] | None = None,
) -> Views:
    """The views of batch number ``batch`` of an epoch.

    Args:
        plan: what may be drawn.
        epoch, batch: 0-based; they choose the mix.
        indices: (b,) the items in it, from :func:`batches`; with the epoch they choose crop and flip.
        shape: (C, H, W) of the items.
        tensors: of the set, where the plan names explicit views (FKD files): ``<boxes>.crops`` (epochs, n, 4) integers top,
            left, height, width, and ``.flips`` (epochs, n), both in the order of ``.order``; for a mix ``.perm`` (epochs,
            n) positions inside the batch, ``.lam`` (epochs, batches) and, for CutMix, ``.cut`` (epochs, batches, 4).

    Raises:
        ValueError: an epoch beyond the plan, an unknown kind of crop or mix, explicit views that are not there.
    """
    _check_epoch(plan, epoch)
    height, width = int(shape[-2]), int(shape[-1])
    if plan.mix not in ("none", "mixup", "cutmix"):
        raise ValueError(f"view plan mix is {plan.mix!r}; expected none, mixup or cutmix")
    if plan.boxes is not None:
        here = slice(batch * plan.batch, batch * plan.batch + len(indices))
        crops = _explicit(plan, tensors, "crops", epoch)[here].long()
        flips = _explicit(plan, tensors, "flips", epoch)[here].bool()
        if plan.mix == "none":
            return Views(crops, flips, resized=True)
        cut = (0, 0, 0, 0)
        if plan.mix == "cutmix":
            x1, y1, x2, y2 = _explicit(plan, tensors, "cut", epoch)[batch].tolist()
            cut = (x1, y1, x2, y2)
        lam = float(_explicit(plan, tensors, "lam", epoch)[batch])
        perm = _explicit(plan, tensors, "perm", epoch)[here].long()
        return Views(crops, flips, plan.mix, perm, lam, cut, resized=True)
    ids = indices.cpu().numpy().astype(np.uint64)
    boxes = _boxes(plan, epoch, ids, height, width)
    flips = torch.from_numpy(_uniform(plan.seed, _FLIP, epoch, ids) < plan.flip)
    resized = plan.crop == "resized"
    if plan.mix == "none":
        return Views(boxes, flips, resized=resized)
    perm = torch.from_numpy(
        np.argsort(_uniform(plan.seed, _PERMUTE, epoch, batch, _counter(len(ids))), kind="stable")
    )
    lam = _beta(plan.mix_alpha, plan.seed, epoch, batch)
    cut = (0, 0, 0, 0)
    if plan.mix == "cutmix":
        u, v = _uniform(plan.seed, _MIX, epoch, batch, 0, _counter(2))
        cut = cutmix_box(width, height, lam, int(u * width), int(v * height))
    return Views(boxes, flips, plan.mix, perm, lam, cut, resized=resized)


# ------------------------------------------------------------------------------------------------ to see it


def _resize_axis(x: Tensor, dim: int, start: Tensor, length: Tensor, out: int) -> Tensor:
    """Bilinear along one axis, each image from its own interval (align_corners False, borders of the crop repeated)."""
    at = (torch.arange(out, dtype=torch.float64)[None] + 0.5) * (length[:, None] / out) - 0.5
    at = torch.minimum(at.clamp(min=0), (length[:, None] - 1).double())
    low = at.floor().long()
    high = torch.minimum(low + 1, length[:, None] - 1)
    view = [len(x), 1, 1, 1]
    view[dim] = out
    shape = list(x.shape)
    shape[dim] = out

    def take(index: Tensor) -> Tensor:
        return x.gather(dim, (index + start[:, None]).to(x.device).view(view).expand(shape))

    share = (at - low).to(x.device, x.dtype).view(view)
    return take(low) * (1 - share) + take(high) * share


def _crop(x: Tensor, boxes: Tensor, fill: Tensor | None) -> Tensor:
    """Crops of full size that may begin outside; outside is ``fill`` (per channel), or 0."""
    for dim, start in ((2, boxes[:, 0]), (3, boxes[:, 1])):
        size = x.shape[dim]
        index = torch.arange(size)[None] + start[:, None]
        view = [len(x), 1, 1, 1]
        view[dim] = size
        inside = ((index >= 0) & (index < size)).to(x.device).view(view)
        taken = x.gather(dim, index.clamp(0, size - 1).to(x.device).view(view).expand_as(x))
        outside = x.new_zeros(1) if fill is None else fill.to(x).view(1, -1, 1, 1)
        x = torch.where(inside, taken, outside)
    return x


def apply_views(
    x: Tensor, views: Views, size: tuple[int, int] | None = None, fill: Tensor | None = None
) -> Tensor:
    """The views of a batch: crop, then flip, then mix; differentiable.

    Args:
        x: items (b, C, H, W), float, on any device.
        views: drawn for these items.
        size: (H, W) of the result; None: that of the items.
        fill: (C,) value of pixels outside a padded crop; None: 0.

    Returns:
        (b, C, *size).
    """
    out = size or (x.shape[2], x.shape[3])
    if views.boxes is not None and views.resized:
        top, left, height, width = views.boxes.unbind(1)
        x = _resize_axis(_resize_axis(x, 3, left, width, out[1]), 2, top, height, out[0])
    elif views.boxes is not None:
        x = _crop(x, views.boxes, fill)
    if tuple(x.shape[2:]) != tuple(out):
        x = F.interpolate(x, size=out, mode="bilinear", align_corners=False)
    x = torch.where(views.flips.to(x.device).view(-1, 1, 1, 1), x.flip(3), x)
    if views.perm is None:
        return x
    partner = x[views.perm.to(x.device)]
    if views.mix == "mixup":
        return views.lam * x + (1 - views.lam) * partner
    x1, y1, x2, y2 = views.cut
    inside = torch.zeros(out, dtype=torch.bool)
    inside[y1:y2, x1:x2] = True
    return torch.where(inside.to(x.device), partner, x)


def own_share(views: Views, size: tuple[int, int]) -> float:
    """Weight of the item itself in a mixed view: lam for Mixup, its share of the pixels for CutMix, 1 without a mix."""
    if views.mix == "mixup":
        return views.lam
    x1, y1, x2, y2 = views.cut
    return 1 - (x2 - x1) * (y2 - y1) / (size[0] * size[1])


def mix_rows(rows: Tensor, views: Views, size: tuple[int, int]) -> Tensor:
    """Targets (b, ...) of mixed views, interpolated like the images (static labels of INFER)."""
    if views.perm is None:
        return rows
    own = own_share(views, size)
    return own * rows + (1 - own) * rows[views.perm.to(rows.device)]
