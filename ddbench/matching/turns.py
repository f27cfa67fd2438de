"""One optimiser over all classes that steps once a class, with all gradients of a round in one batch.

IDC and NCFM keep the images of all classes in one tensor under one optimiser and step it after each class, with the gradient
of that class alone: momentum and weight decay go on moving the pixels of the others.  Where a class stands at its own turn
depends on its own past only, so all positions of a round are known before any of its gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Turns:
    """Rounds of K steps, one a class.

    Args:
        optimiser: elementwise (SGD, Adam, AdamW), over ``images`` alone.
        images: (K, ...), the first dimension being the class.

    Raises:
        ValueError: the optimiser has other parameters.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, images: Tensor) -> None:
        given = [p for group in optimiser.param_groups for p in group["params"]]
        if len(given) != 1 or given[0] is not images:
            raise ValueError(
                f"the optimiser has {len(given)} parameters{'' if len(given) != 1 else ' that are not the images'}; "
                f"expected the images of all classes as its only one"
            )
        self.optimiser, self.images = optimiser, images

    @torch.no_grad()
    def round(self, gradients: Callable[[Tensor], Tensor]) -> None:
        """One step a class, in order.

        Args:
            gradients: called once with the images (K, ...), each class as it stands at its own turn; gives (K, ...),
                to each class the gradient of its own loss.
        """
        images, zero = self.images, torch.zeros_like(self.images)
        seen, started, state = images.clone(), images.clone(), self._saved()
        images.grad = zero
        for c in range(1, len(images)):
            self.optimiser.step()
            seen[c] = images[c]
        images.copy_(started)
        self._restore(state)
        with torch.enable_grad():
            found = gradients(seen)
        images.grad = zero  # zeros, not None: the other classes' pixels go on by momentum
        for c in range(len(images)):
            zero[c] = found[c]
            self.optimiser.step()
            zero[c] = 0

    def _saved(self) -> dict[str, Any]:
        state = self.optimiser.state.get(self.images, {})
        return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}

    def _restore(self, saved: dict[str, Any]) -> None:
        if not saved:  # before the first round: the optimiser makes its state anew
            self.optimiser.state.pop(self.images, None)
            return
        state = self.optimiser.state[self.images]
        for key, value in saved.items():
            if isinstance(value, Tensor) and isinstance(state[key], Tensor):
                state[key].copy_(value)
            else:
                state[key] = value
