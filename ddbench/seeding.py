"""One integer seed gives every random generator by name.  The names, not the order of use, decide the numbers."""

from __future__ import annotations

import hashlib
from typing import Any

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on ``seed`` and on the path of ``names`` only."""
    text = "/".join([str(int(seed)), *(str(n) for n in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Generators:
    """Named, independent, stateful CPU generators under one seed.

    ``g("augment")`` is the same generator at each call, so its stream goes on; ``g.child("student", 3)`` is an
    independent family.  The state of all generators used so far can be saved and restored (checkpoints).
    """

    def __init__(self, seed: int, *path: str | int) -> None:
        self.seed = int(seed)
        self.path = path
        self._made: dict[str, torch.Generator] = {}

    def __call__(self, name: str) -> torch.Generator:
        if name not in self._made:
            self._made[name] = torch.Generator().manual_seed(derive(self.seed, *self.path, name))
        return self._made[name]

    def child(self, *path: str | int) -> Generators:
        """An independent family of generators below this one; equal paths give equal families."""
        return Generators(self.seed, *self.path, *path)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {name: g.get_state() for name, g in self._made.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            self(name).set_state(value)
