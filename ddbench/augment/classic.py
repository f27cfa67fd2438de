"""DC's augmentation, from before DSA: one operation an image, not differentiable, for evaluation only.

Source: the code of Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021,
arXiv:2006.05929.
Departures: random numbers come from the caller's generators, not from NumPy's global state.

The two steps are those of ``dsa``: ``draw`` takes the random numbers, ``apply`` uses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy import ndimage  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor

OPERATIONS = ("crop", "scale", "rotate", "noise")


def crop(x: Tensor, offset: tuple[int, int], fill: Tensor, pad: int = 4) -> Tensor:
    """Pad an image (C, H, W) with ``fill`` (C,), then cut at offset (rows, columns)."""
    height, width = x.shape[1:]
    framed = fill.view(-1, 1, 1).repeat(1, height + 2 * pad, width + 2 * pad)
    framed[:, pad : pad + height, pad : pad + width] = x
    top, left = offset
    return framed[:, top : top + height, left : left + width]


def scale(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image (C, H, W) to (rows, columns) by nearest neighbour, centred, cut or zero-filled.

    The canvas is one square that holds both sizes: a side of its own for each axis would round the centre otherwise.
    """
    height, width = x.shape[1:]
    rows, columns = size
    side = max(rows, columns, height, width)
    canvas = x.new_zeros(len(x), side, side)
    top, left = (side - rows) // 2, (side - columns) // 2
    canvas[:, top : top + rows, left : left + columns] = F.interpolate(x[None], size)[0]
    return _centre(canvas, height, width)


def rotate(x: Tensor, degrees: int, fill: float) -> Tensor:
    """Rotate a square image (C, S, S) by cubic splines; ``fill`` beyond it; keep the centre."""
    turned = ndimage.rotate(x.numpy(), degrees, axes=(-2, -1), order=3, cval=fill)
    return _centre(torch.from_numpy(turned), *x.shape[1:])


def _centre(x: Tensor, height: int, width: int) -> Tensor:
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]


@dataclass(frozen=True)
class ClassicDraw:
    """What was drawn for one batch: an operation and two uniform numbers an image, and noise by image."""

    operations: tuple[str, ...]
    uniform: Tensor
    noise: dict[int, Tensor]


@dataclass(frozen=True)
class ClassicDC:
    """Settings of the augmentation; every image of a batch gets one of the operations, drawn uniformly.

    Raises:
        ValueError: an unknown or doubled operation.
    """

    strategy: str = "crop_scale_rotate"
    """Operations, joined by underscores; the published ones are ``crop_scale_rotate`` and ``crop_noise``."""
    pad: int = 4
    """Pixels of padding on each side; a crop starts at 0 to 2 * pad - 1."""
    ratio_scale: float = 0.2
    """Largest relative change of height and width."""
    ratio_rotate: int = 45
    """Angles are whole degrees in [-ratio_rotate, ratio_rotate)."""
    noise: float = 0.001
    """Standard deviation of the noise, standardised units."""

    def __post_init__(self) -> None:
        names = self.strategy.split("_")
        for name in names:
            if name not in OPERATIONS:
                raise ValueError(
                    f"ClassicDC.strategy names {name!r}; expected operations out of {', '.join(OPERATIONS)}, "
                    "for example 'crop_scale_rotate'"
                )
            if names.count(name) > 1:
                raise ValueError(f"ClassicDC.strategy names {name!r} twice; name every operation once")

    @classmethod
    def in_protocol(cls, dataset: str, network: str) -> ClassicDC | None:
        """What DC's evaluation uses for a registered data set and network; None: it augments nothing."""
        if network.lower() == "convnetbn":
            return cls("crop_noise")
        return cls("crop_scale_rotate") if dataset == "mnist" else None

    def draw(
        self, batch: int, shape: Sequence[int], generator: torch.Generator, shared: bool = False
    ) -> ClassicDraw:
        """Draw operations and parameters for a batch of images (C, H, W) from a CPU generator.

        Raises:
            ValueError: a shared draw, a generator on another device, or rotation of other than square images.
        """
        if shared:
            raise ValueError("ClassicDC has no siamese form: call draw with shared=False, or use DSA")
        if generator.device.type != "cpu":
            raise ValueError(
                f"ClassicDC.draw got a generator on {generator.device}; pass one made by torch.Generator()"
            )
        names = self.strategy.split("_")
        if "rotate" in names and shape[-2] != shape[-1]:
            raise ValueError(
                f"ClassicDC rotates square images only; got {shape[-2]} x {shape[-1]} pixels; crop them "
                "first or leave rotate out of the strategy"
            )
        operations = tuple(
            names[k] for k in torch.randint(0, len(names), (batch,), generator=generator).tolist()
        )
        uniform = torch.rand(batch, 2, dtype=torch.float64, generator=generator)
        noise = {
            i: torch.randn(*shape, generator=generator)
            for i, operation in enumerate(operations)
            if operation == "noise"
        }
        return ClassicDraw(operations, uniform, noise)

    def apply(self, x: Tensor, draw: ClassicDraw) -> Tensor:
        """Augment a batch (N, C, H, W) of floating-point images; the same shape, type and device come back.

        Works on the CPU, image by image, whatever the device of x, and lets no gradient through.

        Raises:
            ValueError: x is no batch of floating-point images, or the draw was made for another batch size.
        """
        if x.dim() != 4 or not x.is_floating_point():
            raise ValueError(
                f"ClassicDC augments floating-point images (N, C, H, W); got {x.dtype} of shape "
                f"{tuple(x.shape)}; standardise the images first"
            )
        if len(draw.operations) != len(x):
            raise ValueError(
                f"the draw holds parameters for {len(draw.operations)} images but the batch has {len(x)}; "
                "draw for this batch size"
            )
        images = x.detach().to("cpu", torch.float64 if x.dtype == torch.float64 else torch.float32)
        means = images.mean((0, 2, 3))
        fill = float(means.mean())
        out = []
        for i, (image, operation) in enumerate(zip(images, draw.operations, strict=True)):
            u = draw.uniform[i].tolist()
            if operation == "crop":
                out.append(crop(image, (int(u[0] * 2 * self.pad), int(u[1] * 2 * self.pad)), means, self.pad))
            elif operation == "scale":
                low, width = 1 - self.ratio_scale, 2 * self.ratio_scale
                rows, columns = (
                    int((low + v * width) * side) for v, side in zip(u, image.shape[1:], strict=True)
                )
                out.append(scale(image, (max(rows, 1), max(columns, 1))))
            elif operation == "rotate":
                out.append(rotate(image, int(u[0] * 2 * self.ratio_rotate) - self.ratio_rotate, fill))
            else:
                out.append(image + self.noise * draw.noise[i])
        return torch.stack(out).to(x.device, x.dtype)

    def draw_groups(
        self,
        groups: int,
        batch: int,
        shape: Sequence[int],
        generator: torch.Generator | Sequence[torch.Generator],
        shared: bool = False,
    ) -> tuple[ClassicDraw, ...]:
        """One draw a group, from one generator for all groups, used in turn, or from one a group."""
        sources = [generator] * groups if isinstance(generator, torch.Generator) else list(generator)
        if len(sources) != groups:
            raise ValueError(
                f"{len(sources)} generators for {groups} groups; pass one, or one for each group"
            )
        return tuple(self.draw(batch, shape, source, shared) for source in sources)

    def apply_groups(self, x: Tensor, draws: Sequence[ClassicDraw]) -> Tensor:
        """Augment groups (G, N, C, H, W), each by its own draw and its own mean colour."""
        if len(draws) != len(x):
            raise ValueError(f"{len(draws)} draws for {len(x)} groups of images; pass one draw a group")
        return torch.stack([self.apply(part, draw) for part, draw in zip(x, draws, strict=True)])
