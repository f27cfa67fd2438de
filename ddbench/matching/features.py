"""Matching in random networks: class means of embeddings and of attention maps, and one step of it for all classes.

Source: Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, arXiv:2110.04181; Sajedi et al.,
"DataDAM", ICCV 2023, arXiv:2310.00093; both with their code.
Departures: none that change a value; classes are batched, or split into chunks, whichever the memory allows, and long
runs on a CPU take compiled features.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench import compute
from ddbench.augment.dsa import Draw
from ddbench.augment.named import siamese
from ddbench.contract import ImageData, Task
from ddbench.matching.sampling import RealBatches, viewed
from ddbench.nets.build import build, embed, initialise_, multiply_adds

Features = Callable[[nn.Module, Tensor], "tuple[Tensor, ...]"]
"""Images (N, C, H, W) -> one or more kinds of features (N, d)."""
Loss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""Real (G, n, d) and synthetic (G, m, d) features of G classes, of each kind -> a scalar that is a sum over classes."""

_MIB = 1 << 20
_CPU_PLAN_MIB = 1024.0
_COMPILE_ABOVE_S = 60.0
"""Features are compiled where all images of a run would take longer than this by estimate: on two cores compiling costs 5 to
10 s, for the real and the synthetic pass together, and saves a quarter of the time after it (32x32 colour, width 128)."""


def class_mean_distance(real: Tensor, synthetic: Tensor) -> Tensor:
    """Squared Euclidean distance of class means, summed over classes and coordinates.

    Args:
        real: features (G, n, d) of n real images in each of G classes.
        synthetic: features (G, m, d); m may differ from n.
    """
    return (real.mean(1) - synthetic.mean(1)).square().sum()


def attention_maps(maps: Tensor, p: float = 1.0, normalise: bool = True) -> Tensor:
    """Spatial attention of feature maps (N, C, h, w): sum over channels of |f|^p, flattened to (N, h * w).

    Args:
        p: power, at least 1 (DataDAM's code: 1, its paper: 4).
        normalise: divide every image's map by its own L2 norm (floored at 1e-12).
    """
    if p < 1:
        raise ValueError(f"power of the attention maps is {p}; expected at least 1")
    powers = maps.abs() if p == 1 else maps.abs().pow(p)
    flat = powers.sum(1).flatten(1)
    return F.normalize(flat, dim=1, eps=1e-12) if normalise else flat


def embedding_features(net: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """The flat input of the last linear layer, as the only kind of features."""
    return (embed(net, x),)


def attention_features(
    net: nn.Module, x: Tensor, p: float = 1.0, normalise: bool = True
) -> tuple[Tensor, ...]:
    """Attention maps of every block but the last (after its activation, before its pooling), then the embedding.

    Raises:
        ValueError: the network has no ``feature_maps`` (only ConvNets have).
    """
    if not callable(getattr(net, "feature_maps", None)):
        raise ValueError(
            "this network has no feature maps of blocks; attention matching needs a ConvNet: choose ConvNetBN, "
            "or ConvNetD4BN for 64x64 images (see: ddbench list networks)"
        )
    maps, embedding = net.feature_maps(x)  # type: ignore[operator]
    return (*(attention_maps(f, p, normalise) for f in maps[:-1]), embedding)


# ------------------------------------------------------------------------------------------------ networks


class RandomNetworks:
    """One network whose weights are drawn anew, in place, for every step; frozen, in train mode.

    ``batch_norm``: whether it has batch normalisation, whose statistics must come from all classes at once.
    ``image_bytes``: size of all layer outputs of one image, by which steps are cut to fit the memory.
    """

    def __init__(
        self, name: str, shape: tuple[int, int, int], classes: int, device: torch.device | str = "cpu"
    ) -> None:
        self.name, self.shape, self.classes = name, shape, classes
        self.module = build(name, shape, classes).requires_grad_(False).to(device)
        self.batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.module.modules())
        self.image_bytes = self._measure(shape, torch.device(device))

    def draw(self, generator: torch.Generator) -> nn.Module:
        """The network with fresh weights: always the same object."""
        initialise_(self.module, generator)
        return self.module

    def _measure(self, shape: tuple[int, int, int], device: torch.device) -> int:
        sizes: list[int] = []
        leaves = [m for m in self.module.modules() if next(m.children(), None) is None]
        handles = [
            m.register_forward_hook(lambda _m, _i, out: sizes.append(out.numel() * out.element_size()))
            for m in leaves
        ]
        try:
            with torch.no_grad():
                self.module.eval()(torch.zeros((1, *shape), device=device))
        finally:
            self.module.train()
            for handle in handles:
                handle.remove()
        return max(1, sum(sizes))


def images_that_fit(task: Task, networks: RandomNetworks) -> int:
    """How many images may go through the networks at once: from the task's memory limit, or from the device.

    Without a limit: 1 GiB on a CPU, a quarter of the memory of a GPU; never from what happens to be free, since the
    cut into chunks decides how sums are rounded.
    """
    limit = task.memory_limit_mib
    if limit is None:
        limit = _CPU_PLAN_MIB
        if task.device.type == "cuda":
            limit = torch.cuda.get_device_properties(task.device).total_memory / _MIB / 4
    return max(1, int(limit * _MIB / networks.image_bytes))


# ------------------------------------------------------------------------------------------------ compiled features


def compiling_pays(networks: RandomNetworks, operations: float, above_s: float) -> bool:
    """Whether these networks lie on a CPU with a working compiler, and their passes would take ``above_s`` seconds there.

    Args:
        operations: in the whole run, in multiply-adds of one image's forward pass.
    """
    n = networks
    if next(n.module.parameters()).device.type != "cpu" or not compute.compiler_works():
        return False
    return operations * multiply_adds(n.name, n.shape, n.classes) / compute.FLOPS >= above_s


def fast_features(features: Features, networks: RandomNetworks, images: int) -> Features:
    """``features`` of these networks as they are, or compiled where the run is long enough; equal up to rounding.

    The choice follows from shapes and counts alone.  A compiled function reads the weights where they are, so networks
    drawn anew, or filled otherwise, are never traced again; without a compiler the plain ones go on.

    Args:
        features: a function, or a ``functools.partial`` of one with hashable settings.
        networks: on whose architecture and device it depends whether compiling pays.
        images: that go through the networks in the whole run, real and synthetic (count).
    """
    if not compiling_pays(networks, 2 * images, _COMPILE_ABOVE_S):  # a multiply-add forward is 2 operations
        return features
    settings: Any = features
    if isinstance(features, functools.partial):
        settings = (features.func, features.args, tuple(sorted(features.keywords.items())))
    key = ("features", networks.name, networks.shape, networks.classes, settings)
    return compute.Compiled(key, features)


# ------------------------------------------------------------------------------------------------ one step


class Siamese:
    """Augmentation shared by real and synthetic images: one draw a class and step.

    ``augment``: ``none`` | ``dsa`` | ``dsa-flip`` | ``diffaug:NAMES``.
    """

    def __init__(self, augment: str, train: ImageData) -> None:
        self._dsa = siamese(augment, train.flip)
        self._shape = train.shape

    def draw(self, classes: int, generator: torch.Generator) -> tuple[Draw, ...]:
        if self._dsa is None:
            return (Draw(()),) * classes
        return self._dsa.draw_groups(classes, 1, self._shape, generator, shared=True)

    def apply(self, images: Tensor, draws: Sequence[Draw]) -> Tensor:
        """Images (G, n, C, H, W), each class by its own draw."""
        return images if self._dsa is None else self._dsa.apply_groups(images, draws)


def match(
    task: Task,
    networks: RandomNetworks,
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    real: RealBatches,
    siamese: Siamese,
    features: Features,
    loss: Loss,
) -> Tensor:
    """Add the gradient of one matching step over all classes to ``images.grad``.

    Real images go without gradient, synthetic ones through ``task.view`` and then the augmentation of their class.  Where
    not all fit into the memory, classes are taken in chunks (the loss is a sum over classes, so the gradient is the
    same); networks with batch norm always see all classes at once, real and synthetic apart, and a memory limit which that
    exceeds is noted.

    Args:
        networks: whose ``draw`` gave ``net``.
        images: (K, ipc, C, H, W), a leaf with gradient.
        labels: (K, ipc).

    Returns:
        the loss, a scalar without gradient, on the device.
    """
    indices = real.draw(task.rng("batches"))
    draws = siamese.draw(len(images), task.rng("augment"))
    whole = networks.batch_norm
    fit = images_that_fit(task, networks)
    if whole and task.memory_limit_mib is not None and indices.numel() > fit:
        need = indices.numel() * networks.image_bytes / _MIB
        task.note(
            "memory",
            f"batch norm takes its statistics from all classes at once: {indices.numel()} real images may need about "
            f"{need:.0f} MiB, more than the limit of {task.memory_limit_mib:g} MiB; a smaller batch_real needs less",
        )
    total = torch.zeros((), device=images.device)
    for chunk in chunks(0, len(images), None if whole else fit // images.shape[1]):
        with torch.no_grad():
            pieces = []
            for part in chunks(chunk.start, chunk.stop, None if whole else fit // real.batch):
                y = siamese.apply(real.images(indices[part]), draws[part])
                pieces.append(features_of(net, y, features, None if whole else fit))
            wanted = [torch.cat(kind) for kind in zip(*pieces, strict=True)]
        x = siamese.apply(viewed(task, images[chunk], labels[chunk]), draws[chunk])
        value = loss(wanted, _by_class(features(net, x.flatten(0, 1)), x.shape))
        value.backward()  # type: ignore[no-untyped-call]
        total += value.detach()
    return total


@torch.no_grad()
def features_of(net: nn.Module, x: Tensor, features: Features, fit: int | None = None) -> list[Tensor]:
    """Features without gradient of images (G, n, C, H, W): one tensor (G, n, d) a kind.

    Args:
        fit: images that go through at once, at most; None: all (batch norm).
    """
    flat = x.flatten(0, 1)
    count = len(flat)
    size = count if fit is None else _even(count, fit)
    outs = []
    for start in range(0, count, size):
        some = flat[start : start + size]
        if (
            len(some) < size
        ):  # filled up, so that all batches have one shape, for which functions may be compiled
            some = torch.cat([some, flat[: size - len(some)]])
        outs.append(features(net, some))
    return _by_class([torch.cat(kind)[:count] for kind in zip(*outs, strict=True)], x.shape)


def _even(count: int, most: int) -> int:
    """Size of batches of at most ``most``, as few and as equal as can be."""
    return -(-count // -(-count // most))


def chunks(start: int, stop: int, size: int | None) -> list[slice]:
    """Slices of at least one class; one slice where ``size`` is None."""
    step = stop - start if size is None else max(1, size)
    return [slice(i, min(i + step, stop)) for i in range(start, stop, step)]


def _by_class(kinds: Sequence[Tensor], shape: torch.Size) -> list[Tensor]:
    return [kind.view(*shape[:2], -1) for kind in kinds]
