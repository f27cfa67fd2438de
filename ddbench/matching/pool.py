"""A pool of trained feature networks, and blends of each with the weights that it started from.

Source: Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective", CVPR 2025,
arXiv:2502.20653, and its code.
Departures: inputs of every data set are standardised from [0, 1]; the code forgets to scale those of the ImageNet subsets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ddbench.contract import TeacherRecipe, Trained
from ddbench.matching.features import RandomNetworks
from ddbench.nets.build import build


def pool_recipe(
    network: str,
    epochs: int,
    count: int = 20,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> TeacherRecipe:
    """How NCFM's pool is trained: SGD in batches of 128, the rate five times lower after 2/3 and after 5/6 of the epochs.

    Args:
        network: a ConvNet's name.
        epochs: at least 1; below 5 a drop that would come before the first epoch, or twice at once, falls away.
        count: networks.
        mean, std: statistics of the standardisation; None: the data set's own.
    """
    return TeacherRecipe(
        network=network,
        epochs=epochs,
        batch=128,
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        milestones=tuple(sorted({2 * epochs // 3, 5 * epochs // 6} - {0})),
        gamma=0.2,
        augment="diffaug:color_crop",
        mix="cutmix",
        mix_probability=0.5,
        held_out=0.0,
        mean=mean,
        std=std,
        count=count,
    )


class NetworkPool:
    """Two modules whose weights a draw replaces in place: a blend of one network of the pool, and that network as trained.

    ``networks``: the blend's module, with what planning a step needs of it.  Both are frozen and in train mode.

    Args:
        trained: networks of one architecture, with their initial states.
        name, shape, classes: of that architecture, as for ``build``.

    Raises:
        ValueError: no network, or one without its initial state.
    """

    def __init__(
        self,
        trained: Sequence[Trained],
        name: str,
        shape: tuple[int, int, int],
        classes: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if not trained:
            raise ValueError("the pool has no networks; expected at least 1")
        self.networks = RandomNetworks(name, shape, classes, device)
        self._end = build(name, shape, classes).requires_grad_(False).to(device)
        self._blends = list(self.networks.module.named_parameters())
        self._ends = list(self._end.named_parameters())
        self._states: list[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]] = []
        for network in trained:
            if not network.initial:
                raise ValueError(
                    f"network {network.fingerprint} of the pool came without the state it started from; train it again"
                )
            initial = {k: v.to(device) for k, v in network.initial.items()}
            self._states.append((initial, dict(network.network.named_parameters())))

    def __len__(self) -> int:
        return len(self._states)

    def draw(self, generator: torch.Generator) -> tuple[nn.Module, nn.Module]:
        """(blend, trained) of a network chosen uniformly, with a share l of its initial weights, l uniform in [0, 1)."""
        index = int(torch.randint(len(self), (), generator=generator))
        return self.blend(index, float(torch.rand((), generator=generator)))

    @torch.no_grad()
    def blend(self, index: int, share: float) -> tuple[nn.Module, nn.Module]:
        """(l * initial + (1 - l) * trained, trained) of network ``index``, with l = ``share``; always the same two objects."""
        initial, end = self._states[index]
        for (name, p), (_, q) in zip(self._blends, self._ends, strict=True):
            q.copy_(end[name])
            torch.lerp(end[name], initial[name], share, out=p)
        return self.networks.module, self._end
