"""CutMix of one batch, from a generator: a box of every image is filled by that of a partner, labels by their share.

Source: Yun et al., arXiv:1905.04899, in the form of IDC's and NCFM's code (arXiv:2205.14959, 2502.20653).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.augment.views import cutmix_box
from ddbench.compute import to_device


@dataclass(frozen=True, eq=False)
class Mix:
    """What was drawn for one batch: partners (b,), box (x1, y1, x2, y2), and the share of its pixels that an image keeps."""

    partners: Tensor
    box: tuple[int, int, int, int]
    share: float


@dataclass(frozen=True)
class CutMix:
    """Settings: with ``probability`` a batch is mixed, by one box whose area is drawn by Beta(alpha, alpha)."""

    probability: float = 0.5
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability of CutMix is {self.probability}; expected a number from 0 to 1")
        if not 0 < self.alpha <= 10:
            raise ValueError(f"alpha of CutMix is {self.alpha}; expected a number above 0, at most 10")

    def draw(self, batch: int, shape: Sequence[int], generator: torch.Generator) -> Mix | None:
        """Draw for a batch of images (C, H, W) from a CPU generator; None: this batch stays as it is.

        Two numbers leave the generator for the coin and the box's share, one permutation and two for the box's centre,
        the coin first; a batch that is not mixed takes the coin alone.
        """
        height, width = int(shape[-2]), int(shape[-1])
        if float(torch.rand((), generator=generator)) >= self.probability:
            return None
        kept = _beta(self.alpha, generator)
        partners = torch.randperm(batch, generator=generator)
        x = int(torch.randint(0, width, (), generator=generator))
        y = int(torch.randint(0, height, (), generator=generator))
        x1, y1, x2, y2 = cutmix_box(width, height, kept, x, y)
        return Mix(partners, (x1, y1, x2, y2), 1 - (x2 - x1) * (y2 - y1) / (width * height))


def _beta(alpha: float, generator: torch.Generator) -> float:
    """One draw of Beta(alpha, alpha) in [0, 1]; Johnk's rejection, since torch's own law takes no generator."""
    if alpha == 1:
        return float(torch.rand((), generator=generator, dtype=torch.float64))
    while True:
        u = torch.rand(2, generator=generator, dtype=torch.float64) ** (1 / alpha)
        if 0 < float(u.sum()) <= 1:
            return float(u[0] / u.sum())


def mixed_images(x: Tensor, mix: Mix | None) -> Tensor:
    """Images (b, C, H, W) with the box of each filled by its partner's; x itself where nothing is mixed."""
    if mix is None:
        return x
    x1, y1, x2, y2 = mix.box
    out = x.clone()
    out[..., y1:y2, x1:x2] = x[to_device(mix.partners, x.device)][..., y1:y2, x1:x2]
    return out


def mixed_targets(
    ids: Tensor | None, soft: Tensor | None, classes: int, mix: Mix | None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Probabilities (b, classes): the share of an image's own target, and the rest of its partner's.

    Cross-entropy with them is share * CE(own) + (1 - share) * CE(partner), since it is linear in the target.

    Args:
        ids: (b,) label ids, used where ``soft`` is None.
        soft: (b, classes) probabilities.
    """
    if soft is None:
        if ids is None:
            raise ValueError("CutMix got neither label ids nor soft targets; expected one of them")
        soft = F.one_hot(ids, classes).to(dtype)
    if mix is None:
        return soft
    return torch.lerp(soft[to_device(mix.partners, soft.device)], soft, mix.share)


@dataclass(frozen=True, eq=False)
class Mixes:
    """Draws of N batches of equal size: partners (N, b), boxes (N, 4) and shares (N,), on the CPU.

    A batch that is not mixed has itself for a partner, an empty box and share 1, so that the number of kernels does not
    depend on N.
    """

    partners: Tensor
    boxes: Tensor
    shares: Tensor

    @classmethod
    def of(cls, mixes: Sequence[Mix | None], batch: int) -> Mixes:
        """Of draws for batches of ``batch`` images, None where one is not mixed."""
        none = Mix(torch.arange(batch), (0, 0, 0, 0), 1.0)
        drawn = [mix or none for mix in mixes]
        return cls(
            torch.stack([m.partners for m in drawn]),
            torch.tensor([m.box for m in drawn]),
            torch.tensor([m.share for m in drawn], dtype=torch.float64),
        )

    def images(self, x: Tensor) -> Tensor:
        """Images (N, b, C, H, W), each batch as :func:`mixed_images` mixes it."""
        x1, y1, x2, y2 = to_device(self.boxes, x.device)[:, :, None].unbind(1)
        columns, rows = (torch.arange(side, device=x.device) for side in (x.shape[-1], x.shape[-2]))
        across = (columns >= x1) & (columns < x2)
        down = (rows >= y1) & (rows < y2)
        inside = (down[:, :, None] & across[:, None, :])[:, None, None]
        return torch.where(inside, self._partners_of(x), x)

    def rows(self, t: Tensor) -> Tensor:
        """Targets (N, b, K) or weights (N, b): the share of a row itself, and the rest of its partner's."""
        shares = to_device(self.shares.to(t.dtype).view(-1, *[1] * (t.dim() - 1)), t.device)
        return torch.lerp(self._partners_of(t), t, shares)

    def _partners_of(self, t: Tensor) -> Tensor:
        first = torch.arange(len(t))[:, None] * t.shape[1]
        index = to_device((self.partners + first).flatten(), t.device)
        return t.flatten(0, 1).index_select(0, index).view(t.shape)
