"""Differentiable siamese augmentation: one random operation a batch, drawn on the host, applied at once.

Source: Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021,
arXiv:2102.08259, and its code; the always-flip form of Son et al., arXiv:2407.08113 (FYI); the always-on form
of Kim et al., arXiv:2205.14959 (IDC), which NCFM inherits.
Departures: random numbers come from the caller's generators, not from seeds taken off the clock; the three
colour functions are one affine map of the pixels (equal to their chain up to rounding).

An augmentation is used in two steps. ``draw`` takes all its random numbers from a CPU generator and gives a
small ``Draw``; ``apply`` is then a deterministic function of images and draw, differentiable in the images. A
shared draw holds one parameter for all images, so a real and a synthetic batch of any sizes that get the same
draw get the same augmentation: this is the siamese mode. A draw depends on its generator, the batch size
(per-image parameters only) and the image size, never on the device, the precision or how work is split: give
each student or class a generator of its own, and stacking or sharding changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

# Own code, not kornia: its colour functions clip to [0, 1] or go through HSV and luminance, its eraser draws
# areas, and its warps go through matrices in pixels to the same grid_sample.

OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")


def brightness(x: Tensor, u: Tensor | float, strength: float = 1.0) -> Tensor:
    """Add ``(u - 0.5) * strength`` to every pixel; x is (N, C, H, W), u holds 1 or N numbers in [0, 1)."""
    return x + _column((_numbers(u, x) - 0.5) * strength, x)


def saturation(x: Tensor, u: Tensor | float, strength: float = 2.0) -> Tensor:
    """Scale each pixel's distance from its mean over channels by ``u * strength``; u holds 1 or N numbers."""
    mean = x.mean(1, keepdim=True)
    return (x - mean) * _column(_numbers(u, x) * strength, x) + mean


def contrast(x: Tensor, u: Tensor | float, strength: float = 0.5) -> Tensor:
    """Scale each image's distance from its mean over C, H, W by ``u + strength``; u holds 1 or N numbers."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * _column(_numbers(u, x) + strength, x) + mean


def color(
    x: Tensor, u: Tensor, brightness: float = 1.0, saturation: float = 2.0, contrast: float = 0.5
) -> Tensor:
    """Brightness, then saturation, then contrast, in one affine map; u is (1 or N, 3), in this order."""
    wide = x.to(_wide(x))
    by_brightness, by_saturation, by_contrast = _numbers(u, x).view(-1, 3).unbind(1)
    gain = by_contrast + contrast
    terms = torch.stack((gain * by_saturation * saturation, gain, (by_brightness - 0.5) * brightness))
    factor, gain, shift = terms.to(x.device, non_blocking=True).view(3, -1, 1, 1, 1).unbind(0)
    # With m a pixel's mean over channels and M the image's mean, the chain of the three is
    # x * factor + m * (gain - factor) + M * (1 - gain) + shift: two passes over x instead of nine.
    mean = wide.mean(1, keepdim=True)
    rest = mean * (gain - factor) + (mean.mean((2, 3), keepdim=True) * (1 - gain) + shift)
    return torch.addcmul(rest, wide, factor).to(x.dtype)


def crop(x: Tensor, shift: Tensor) -> Tensor:
    """Translate with zero fill: ``out[i, j] = x[i + tx, j + ty]``.

    Args:
        x: images (N, C, H, W).
        shift: integers (1 or N, 2), rows tx and columns ty; a single row is read on the host.
    """
    if len(shift) == 1:
        down, right = shift[0].tolist()
        return F.pad(x, (-right, right, -down, down))  # negative padding cuts
    height, width = x.shape[2:]
    shift = shift.to(x.device, non_blocking=True)
    rows = torch.arange(height, device=x.device) + shift[:, :1]
    columns = torch.arange(width, device=x.device) + shift[:, 1:]
    near_rows, near_columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    inside_rows = (rows == near_rows).to(x.dtype)[:, None, :, None]
    inside_columns = (columns == near_columns).to(x.dtype)[:, None, None, :]
    index = (near_rows[:, :, None] * width + near_columns[:, None, :]).view(len(x), 1, -1)
    # gather was 3 to 6 times faster than advanced indexing and nearest sampling on CPU
    moved = x.flatten(2).gather(2, index.expand(-1, x.shape[1], -1)).view(x.shape)
    return moved * (inside_rows * inside_columns)


def cutout(x: Tensor, centre: Tensor, ratio: float = 0.5) -> Tensor:
    """Set a square of side ``int(ratio * side + 0.5)`` to zero; what reaches over the border is clipped.

    Args:
        x: images (N, C, H, W).
        centre: integers (1 or N, 2), row and column: in [0, side] for a hole of even size, else in
            [0, side - 1]; at least one row and one column is cut.
        ratio: side of the hole as a share of the image's side.
    """
    centre = centre.to(x.device, non_blocking=True)
    kept = []
    for axis in (0, 1):
        side = x.shape[2 + axis]
        size = _pixels(ratio, side)
        if size == 0:
            return x
        start = centre[:, axis, None] - size // 2
        first, last = start.clamp(0, side - 1), (start + size - 1).clamp(0, side - 1)
        index = torch.arange(side, device=x.device)
        kept.append(((index < first) | (index > last)).to(x.dtype))
    # a product of floats was 10 times faster than masked_fill on CPU
    return x * torch.maximum(kept[0][:, None, :, None], kept[1][:, None, None, :])


def flip(x: Tensor, u: Tensor | float, probability: float = 0.5) -> Tensor:
    """Mirror the images whose u is below the probability; u holds 1 or N numbers, one is read on the host.

    Returns x itself, not a copy, where a single u leaves everything as it is.
    """
    u = torch.as_tensor(u).view(-1)
    if len(u) == 1:
        return x.flip(3) if u.item() < probability else x
    # lerp is exact at weights 0 and 1, and was twice as fast as where on CPU
    return torch.lerp(x, x.flip(3), _column(u < probability, x))


def scale(x: Tensor, u: Tensor, ratio: float = 1.2) -> Tensor:
    """Resize the content about the centre, bilinear, zero outside.

    u is (1 or N, 2), horizontal first. The sampling grid is stretched on each axis by
    ``u * (ratio - 1 / ratio) + 1 / ratio``: above 1 shrinks the content.
    """
    return _sample(x, torch.diag_embed(_numbers(u, x) * (ratio - 1 / ratio) + 1 / ratio))


def rotate(x: Tensor, u: Tensor | float, degrees: float = 15.0) -> Tensor:
    """Rotate about the centre by ``(u - 0.5) * 2 * degrees``, bilinear, zero outside; u holds 1 or N."""
    angle = (_numbers(u, x).view(-1) - 0.5) * (2 * degrees * math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    return _sample(x, torch.stack((cos, -sin, sin, cos), 1).view(-1, 2, 2))


def _sample(x: Tensor, matrix: Tensor) -> Tensor:
    """x at the points that ``matrix`` (1 or N, 2, 2) makes of the pixels' own (right, down) in [-1, 1]."""
    matrix = matrix.to(x.device, non_blocking=True)
    height, width = x.shape[2:]
    across = (torch.arange(width, device=x.device, dtype=matrix.dtype) * 2 + 1) / width - 1
    down = (torch.arange(height, device=x.device, dtype=matrix.dtype) * 2 + 1) / height - 1
    # the outer sum was 4 times faster than affine_grid's product of matrices on CPU
    grid = (across[:, None] * matrix[:, None, :, 0])[:, None] + (down[:, None] * matrix[:, None, :, 1])[
        :, :, None
    ]
    out = F.grid_sample(x.to(matrix.dtype), grid.expand(len(x), -1, -1, -1), align_corners=False)
    return out.to(x.dtype)


def _wide(x: Tensor) -> torch.dtype:
    """The precision to compute in: sampling points and factors do not fit into 8 bits of mantissa."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _numbers(u: Tensor | float, x: Tensor) -> Tensor:
    """u in the precision to compute in, still on the CPU: only finished coefficients go to the device."""
    return torch.as_tensor(u).to(_wide(x))


def _column(values: Tensor, x: Tensor) -> Tensor:
    """One value an image, on the device and in the type of x; the copy never makes the host wait."""
    return values.to(x.dtype).view(-1, 1, 1, 1).to(x.device, non_blocking=True)


def _pixels(ratio: float, side: int) -> int:
    return int(ratio * side + 0.5)


@dataclass(frozen=True)
class Draw:
    """What was drawn for one batch: operations in their order, with their parameters as small CPU tensors.

    Every parameter has one row an image, or a single row that all images share.
    """

    steps: tuple[tuple[str, Tensor], ...]

    @property
    def operations(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.steps)


@dataclass(frozen=True)
class DSA:
    """Settings of the augmentation; the defaults are those of the DSA paper's code.

    A batch gets the operations of ``always`` in their order, then ONE of the remaining names of ``strategy``,
    drawn uniformly, then those of ``after``. ``classic``, ``fyi`` and ``diffaug`` name the published forms.

    Raises:
        ValueError: an unknown, doubled or missing operation, or a constant out of its range.
    """

    strategy: str = "color_crop_cutout_flip_scale_rotate"
    """Operations, joined by underscores."""
    always: tuple[str, ...] = ()
    """Operations applied to every batch before the drawn one."""
    after: tuple[str, ...] = ()
    """Operations applied to every batch after the drawn one."""
    prob_flip: float = 0.5
    """Probability of a mirrored image (or batch, if shared)."""
    ratio_scale: float = 1.2
    """Largest stretch; the smallest is its inverse."""
    ratio_rotate: float = 15.0
    """Largest angle, degrees."""
    ratio_crop_pad: float = 0.125
    """Largest shift as a share of the image's side."""
    ratio_cutout: float = 0.5
    """Side of the hole as a share of the image's side."""
    brightness: float = 1.0
    """Width of the range of what is added to all pixels, standardised units."""
    saturation: float = 2.0
    """Largest factor on the distance from the mean over channels."""
    contrast: float = 0.5
    """Smallest factor on the distance from the image's mean; the largest is 1 more."""

    def __post_init__(self) -> None:
        names = tuple(self.strategy.split("_"))
        fixed = self.always + self.after
        for field, given in (("strategy", names), ("always", self.always), ("after", self.after)):
            for name in given:
                if name not in OPERATIONS:
                    raise ValueError(
                        f"DSA.{field} names {name!r}; expected operations out of {', '.join(OPERATIONS)}, "
                        f"for example {'_'.join(OPERATIONS)!r}; leave the augmentation out to use none"
                    )
        for name in OPERATIONS:
            if names.count(name) > 1 or fixed.count(name) > 1:
                raise ValueError(f"DSA names {name!r} twice; name every operation once")
            if name in fixed and name not in names:
                raise ValueError(
                    f"DSA always applies {name!r}, which strategy {self.strategy!r} lacks; add it there"
                )
        for field, value, low, high in (
            ("prob_flip", self.prob_flip, 0.0, 1.0),
            ("ratio_scale", self.ratio_scale, 1.0, math.inf),
            ("ratio_rotate", self.ratio_rotate, 0.0, 180.0),
            ("ratio_crop_pad", self.ratio_crop_pad, 0.0, 1.0),
            ("ratio_cutout", self.ratio_cutout, 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise ValueError(f"DSA.{field} is {value}; expected a number from {low} to {high}")

    @classmethod
    def classic(cls, flip: bool = True) -> DSA:
        """One of six operations a batch (DSA, DM, MTT); one of five, no flip, for digits (MNIST, SVHN)."""
        return cls() if flip else cls("color_crop_cutout_scale_rotate")

    @classmethod
    def fyi(cls, flip: bool = True) -> DSA:
        """FYI's form: always a flip first, then one of the other five; without flip, the classic form."""
        return cls(always=("flip",)) if flip else cls.classic(flip=False)

    @classmethod
    def diffaug(cls, names: str, flip: bool = True) -> DSA:
        """The form of IDC and NCFM: flip, color, ONE of crop, scale and rotate, cutout; each where named.

        Args:
            flip: whether a mirrored image keeps its class; else ``flip`` is left out of the names.
        """
        named = [name for name in names.split("_") if flip or name != "flip"]
        names = "_".join(named)
        return cls(
            names,
            always=tuple(name for name in ("flip", "color") if name in named),
            after=tuple(name for name in ("cutout",) if name in named),
        )

    @cached_property
    def lottery(self) -> tuple[str, ...]:
        """The operations of which one is drawn, in the order of ``strategy``; the choice is an index here."""
        return tuple(n for n in self.strategy.split("_") if n not in self.always + self.after)

    def draw(
        self, batch: int, shape: Sequence[int], generator: torch.Generator, shared: bool = False
    ) -> Draw:
        """Draw operations and parameters for one batch.

        Numbers leave the generator in the order of application; the choice comes just before the parameters
        of the chosen operation, so in the classic form it is the generator's first number.

        Args:
            batch: images in the batch; not used when shared.
            shape: (C, H, W) of an image, or (H, W).
            generator: a CPU generator.
            shared: one parameter for all images (siamese distillation) instead of one an image (training).
        """
        if generator.device.type != "cpu":
            raise ValueError(
                f"DSA.draw got a generator on {generator.device}; pass one made by torch.Generator()"
            )
        rows, (height, width) = 1 if shared else batch, shape[-2:]
        steps = [(name, self._parameters(name, rows, height, width, generator)) for name in self.always]
        if lottery := self.lottery:
            name = lottery[int(torch.randint(0, len(lottery), (1,), generator=generator))]
            steps.append((name, self._parameters(name, rows, height, width, generator)))
        steps += [(name, self._parameters(name, rows, height, width, generator)) for name in self.after]
        return Draw(tuple(steps))

    def _parameters(
        self, name: str, rows: int, height: int, width: int, generator: torch.Generator
    ) -> Tensor:
        if name == "crop":
            reach = [_pixels(self.ratio_crop_pad, side) for side in (height, width)]
            ranges = [(-r, r + 1) for r in reach]
        elif name == "cutout":
            sides = (height, width)
            ranges = [(0, side + 1 - _pixels(self.ratio_cutout, side) % 2) for side in sides]
        else:
            columns = {"color": 3, "flip": 1, "scale": 2, "rotate": 1}[name]
            return torch.rand(rows, columns, generator=generator)
        return torch.stack([torch.randint(a, b, (rows,), generator=generator) for a, b in ranges], 1)

    def apply(self, x: Tensor, draw: Draw) -> Tensor:
        """Augment a batch (N, C, H, W) of floating-point images; the same shape, type and device come back.

        Differentiable in x. Never makes the host wait for a GPU. May return x itself, where a shared flip
        does not happen.

        Raises:
            ValueError: x is no batch of floating-point images, or the draw was made for another batch size.
        """
        if x.dim() != 4 or not x.is_floating_point():
            raise ValueError(
                f"DSA augments floating-point images (N, C, H, W); got {x.dtype} of shape {tuple(x.shape)}; "
                "standardise the images first"
            )
        for name, parameters in draw.steps:
            x = self._operate(name, x, parameters)
        return x

    def _operate(self, name: str, x: Tensor, parameters: Tensor) -> Tensor:
        if len(parameters) not in (1, len(x)):
            raise ValueError(
                f"the draw holds parameters for {len(parameters)} images but the batch has {len(x)}; "
                "draw for this batch size, or with shared=True"
            )
        if name == "color":
            return color(x, parameters, self.brightness, self.saturation, self.contrast)
        if name == "crop":
            return crop(x, parameters)
        if name == "cutout":
            return cutout(x, parameters, self.ratio_cutout)
        if name == "flip":
            return flip(x, parameters, self.prob_flip)
        if name == "scale":
            return scale(x, parameters, self.ratio_scale)
        return rotate(x, parameters, self.ratio_rotate)

    def draw_groups(
        self,
        groups: int,
        batch: int,
        shape: Sequence[int],
        generator: torch.Generator | Sequence[torch.Generator],
        shared: bool = False,
    ) -> tuple[Draw, ...]:
        """One draw a group (a class, a student), as ``draw`` makes them.

        Args:
            groups: how many groups.
            batch: images in each group.
            generator: one for all groups, used in turn, or one a group.
        """
        sources = [generator] * groups if isinstance(generator, torch.Generator) else list(generator)
        if len(sources) != groups:
            raise ValueError(
                f"{len(sources)} generators for {groups} groups; pass one, or one for each group"
            )
        return tuple(self.draw(batch, shape, source, shared) for source in sources)

    def apply_groups(self, x: Tensor, draws: Sequence[Draw]) -> Tensor:
        """Augment groups (G, N, C, H, W), each by its own draw: ``apply`` of every group, stacked.

        Groups with the same operation go through it together, so the number of kernels follows the number of
        different operations, not G.

        Raises:
            ValueError: as ``apply``, or the number of draws is not G.
        """
        if x.dim() != 5 or not x.is_floating_point():
            raise ValueError(
                f"DSA augments groups of floating-point images (G, N, C, H, W); got {x.dtype} of shape "
                f"{tuple(x.shape)}; standardise the images first"
            )
        if len(draws) != len(x):
            raise ValueError(f"{len(draws)} draws for {len(x)} groups of images; pass one draw a group")
        for stage in zip(*(draw.steps for draw in draws), strict=True):
            members: dict[str, list[int]] = {}
            for group, (name, _) in enumerate(stage):
                members.setdefault(name, []).append(group)
            if len(members) == 1:
                x = self._operate_groups(stage[0][0], x, [parameters for _, parameters in stage])
                continue
            # unbind and stack: their gradients are each other, so no index travels and none is scattered back
            parts = list(x.unbind(0))
            for name, who in members.items():
                part = parts[who[0]][None] if len(who) == 1 else torch.stack([parts[g] for g in who])
                part = self._operate_groups(name, part, [stage[g][1] for g in who])
                for group, result in zip(who, part.unbind(0), strict=True):
                    parts[group] = result
            x = torch.stack(parts)
        return x

    def _operate_groups(self, name: str, x: Tensor, parameters: list[Tensor]) -> Tensor:
        size = x.shape[1]
        if len(parameters) == 1:
            joint = parameters[0]
        else:
            joint = torch.cat([p.expand(size, -1) if len(p) == 1 else p for p in parameters])
        return self._operate(name, x.flatten(0, 1), joint).view(x.shape)
