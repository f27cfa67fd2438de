"""Distances of characteristic functions, and where their frequencies come from: Gaussian draws, or a network that looks for the
frequencies at which real and synthetic features differ most.

Source: Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective", CVPR 2025,
arXiv:2502.20653, and its code (gszfwsb/NCFM).
Departures: the paper says that frequencies are a scale mixture of normals with F/16 components but not how the network's
outputs enter; here each component has one scale for every coordinate, the network's answer (in (-1, 1)) to one row of
noise, and 16 frequencies, that scale times independent N(0, 1).  In the code the normal part is switched off, all 16 are
equal, and the network's gradients cancel, so that it never trains.  Where the code would differentiate apart for the images
and for the network, one backward pass serves both; the values are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOOR = 1e-12
"""Smallest value of a phase term: the square root above it has no bounded slope at 0."""
NORM_EPS = 1e-12
_TINY = 1e-30
"""Below the square root, where the phase has no weight: amplitudes of equal floats would give a slope of 0 * infinity."""
MEMBERS = 16
"""Frequencies that share a component of the mixture."""

_PIECE_BYTES = 64 << 20


def unit_length(features: Tensor) -> Tensor:
    """Features (..., d), each divided by its own L2 norm (floored at 1e-12)."""
    return F.normalize(features, dim=-1, eps=NORM_EPS)


def characteristic(features: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part (G, F) of the empirical characteristic functions: means over samples of cos and sin.

    Args:
        features: (G, n, d) of n samples in each of G classes.
        frequencies: (G, F, d), those of each class.
    """
    angles = torch.bmm(features, frequencies.transpose(1, 2))
    return angles.cos().mean(1), angles.sin().mean(1)


def cf_discrepancy(
    real: Tensor, synthetic: Tensor, frequencies: Tensor, amplitude: float = 0.5, phase: float = 0.5
) -> Tensor:
    """Distances (G,), none below 0, of the characteristic functions of real and synthetic features of G classes.

    Mean over frequencies of sqrt(amplitude * amp + phase * pha), with amp = (A_r - A_s)^2 of the absolute values and
    pha = 2 (A_r A_s - R_r R_s - I_r I_s), at least 1e-12: identical samples have the distance sqrt(phase * 1e-12).

    Args:
        real: (G, n, d).
        synthetic: (G, m, d); m may differ from n.
        frequencies: (G, F, d).
        amplitude, phase: weights, not negative.

    Raises:
        ValueError: shapes that do not fit, or a negative weight.
    """
    if not (real.dim() == synthetic.dim() == frequencies.dim() == 3) or not (
        real.shape[::2] == synthetic.shape[::2] == frequencies.shape[::2]
    ):
        raise ValueError(
            f"real features are {tuple(real.shape)}, synthetic {tuple(synthetic.shape)}, frequencies "
            f"{tuple(frequencies.shape)}; expected (G, n, d), (G, m, d) and (G, F, d)"
        )
    if amplitude < 0 or phase < 0:
        raise ValueError(f"weights are amplitude {amplitude} and phase {phase}; expected none below 0")
    cos_r, sin_r = characteristic(real, frequencies)
    cos_s, sin_s = characteristic(synthetic, frequencies)
    size_r, size_s = (cos_r.square() + sin_r.square()).sqrt(), (cos_s.square() + sin_s.square()).sqrt()
    amp = (size_r - size_s).square()
    # |difference|^2 - amp is the same number, and 0 for equal samples in any precision
    pha = ((cos_r - cos_s).square() + (sin_r - sin_s).square() - amp).clamp(min=FLOOR)
    return (amplitude * amp + phase * pha).clamp(min=_TINY).sqrt().mean(1)


class Loss(Protocol):
    """The loss of a matching step by class."""

    def __call__(self, real: Tensor, synthetic: Tensor, frequencies: Tensor) -> Tensor:
        """(G, n, d), (G, m, d) and (G, F, d) -> (G,)."""


class Sampler(Protocol):
    """Where frequencies come from.  ``state``: what a checkpoint has to keep."""

    state: list[Any]
    kept_bytes: int
    """Memory that stays between calls of ``pull``."""

    def pull(self, loss: Loss, real: Tensor, synthetic: Tensor, generator: torch.Generator) -> Tensor:
        """Losses (G,), without gradient, of G classes at fresh frequencies; their gradient is added to ``synthetic.grad``.

        Args:
            real: features (G, n, d), without gradient.
            synthetic: features (G, m, d), a leaf with gradient.
            generator: on the device of the features; classes draw in their order, so that classes may come in
                several calls.
        """

    def pull_bytes(self, real: int, synthetic: int) -> int:
        """Memory (bytes) of one call of ``pull`` beside the features, for n real and m synthetic samples a class."""


class GaussianFrequencies:
    """``count`` independent frequencies of N(0, 1) entries for every class and step."""

    def __init__(self, count: int, width: int) -> None:
        if count < 1:
            raise ValueError(f"frequencies is {count}; expected at least 1")
        self.count, self.width = count, width
        self.state: list[Any] = []
        self.kept_bytes = 0

    def pull(self, loss: Loss, real: Tensor, synthetic: Tensor, generator: torch.Generator) -> Tensor:
        values = []
        for part in self._parts(real, synthetic):
            x = synthetic[part].detach().requires_grad_()
            frequencies = real.new_empty((len(x), self.count, self.width))
            for own in frequencies:
                own.normal_(generator=generator)
            value = loss(real[part], x, frequencies)
            (gradient,) = torch.autograd.grad(value.sum(), x)
            _add(synthetic, part, gradient)
            values.append(value.detach())
        return torch.cat(values)

    def pull_bytes(self, real: int, synthetic: int) -> int:
        return max(_PIECE_BYTES, self._class_bytes(real, synthetic))

    def _class_bytes(self, real: int, synthetic: int) -> int:
        # frequencies; angles, cosines or sines, and what becomes of them: of the real side none is kept
        return 4 * self.count * (self.width + 2 * real + 4 * synthetic)

    def _parts(self, real: Tensor, synthetic: Tensor) -> Iterator[slice]:
        """As many classes together as 64 MiB hold, at least one."""
        size = max(1, _PIECE_BYTES // self._class_bytes(real.shape[1], synthetic.shape[1]))
        return (slice(i, min(i + size, len(real))) for i in range(0, len(real), size))


class SamplingNetwork(nn.Module):
    """Noise (rows, d) -> scales (rows, d) in (-1, 1): three times linear, batch norm (of the batch), activation.

    Args:
        width: d.
        generator: draws the weights by PyTorch's default law, on the CPU.
    """

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for activation in (nn.LeakyReLU(0.2), nn.LeakyReLU(0.2), nn.Tanh()):
            linear = nn.Linear(width, width, device="meta").to_empty(device="cpu")
            for p in linear.parameters():
                nn.init.uniform_(p, -(width**-0.5), width**-0.5, generator=generator)
            # only statistics of the batch are ever used
            layers += [linear, nn.BatchNorm1d(width, track_running_stats=False), activation]
        self.layers = nn.Sequential(*layers)

    def forward(self, noise: Tensor) -> Tensor:
        scales: Tensor = self.layers(noise)
        return scales


def components(frequencies: int) -> int:
    """Components of the mixture that so many frequencies of a sampling network come from.

    Raises:
        ValueError: no multiple of 16, or fewer than 32 (batch norm needs two components).
    """
    if frequencies < 2 * MEMBERS or frequencies % MEMBERS:
        raise ValueError(
            f"frequencies is {frequencies}; a sampling network gives {MEMBERS} for each of at least two components: "
            f"expected a multiple of {MEMBERS} from {2 * MEMBERS} on (or the sampler gaussian)"
        )
    return frequencies // MEMBERS


class SampledFrequencies:
    """``count`` frequencies a class from a sampling network, which takes a step up the loss after every class.

    Args:
        count: frequencies, a multiple of 16 and at least 32 (batch norm needs two components).
        width: d.
        generator: draws the network's weights, on the CPU.
        device: of the features.
        lr, momentum: of the network's SGD.
    """

    def __init__(
        self,
        count: int,
        width: int,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        lr: float = 1e-3,
        momentum: float = 0.5,
    ) -> None:
        self.components = components(count)
        self.count, self.width = count, width
        self.network = SamplingNetwork(width, generator).to(device)
        self.optimiser = torch.optim.SGD(
            self.network.parameters(), lr=lr, momentum=momentum, maximize=True, fused=True
        )
        self.state: list[Any] = [self.network, self.optimiser]
        self.kept_bytes = 2 * 4 * sum(p.numel() for p in self.network.parameters())  # with momentum

    def draw(self, generator: torch.Generator) -> Tensor:
        """Frequencies (F, d) with gradient in the network's weights: 16 of each component in a row."""
        rows, device = self.components, generator.device
        scales = self.network(torch.randn((rows, self.width), generator=generator, device=device))
        normal = torch.randn((rows, MEMBERS, self.width), generator=generator, device=device)
        drawn: Tensor = scales[:, None] * normal
        return drawn.flatten(0, 1)

    def pull(self, loss: Loss, real: Tensor, synthetic: Tensor, generator: torch.Generator) -> Tensor:
        weights = list(self.network.parameters())
        values = []
        for c in range(len(real)):
            part = slice(c, c + 1)
            x = synthetic[part].detach().requires_grad_()
            value = loss(real[part], x, self.draw(generator)[None])
            gradient, *up = torch.autograd.grad(value.sum(), [x, *weights])
            # fresh gradients each time: summed up over the descent and the ascent, as in the code, they would cancel
            for weight, g in zip(weights, up, strict=True):
                weight.grad = g
            self.optimiser.step()
            self.optimiser.zero_grad()
            _add(synthetic, part, gradient)
            values.append(value.detach())
        return torch.cat(values)

    def pull_bytes(self, real: int, synthetic: int) -> int:
        rows = 20 * self.components * self.width  # noise, layers and their gradients
        own = self.count * (4 * self.width + 4 * real + 4 * synthetic)
        return self.kept_bytes // 2 + 4 * (rows + own)


def _add(synthetic: Tensor, part: slice, gradient: Tensor) -> None:
    if synthetic.grad is None:
        synthetic.grad = torch.zeros_like(synthetic)
    synthetic.grad[part] += gradient
