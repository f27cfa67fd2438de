"""NCFM: match characteristic functions of features, at the frequencies where they differ most, in blends of a pool of networks.

Source: Wang, Yang, Liu, Sun, Hu, He and Zhang, "Dataset Distillation with Neural Characteristic Function: A Minmax
Perspective", CVPR 2025, arXiv:2502.20653, and its code (gszfwsb/NCFM); mosaics and augmentation of Kim et al.,
arXiv:2205.14959 (IDC).
The paper and its code differ, and the recipes say which is used:
- ``authors`` and the defaults: what the paper describes.  1,024 frequencies come from a sampling network that is trained
  against the images (ddbench/matching/spectrum.py says how its outputs become frequencies), real batches are random, and
  every class has optimiser state of its own.
- ``released``: what the code does.  4,096 Gaussian frequencies (its sampling network is off, and would not train), the first
  1,024 images of each class in every step, and one optimiser state for all classes, which steps once a class.
- ``no-psi``: the paper's ablation without a sampling network: 1,024 Gaussian frequencies, the rest as ``authors``.
Departures: all classes go through the networks in one batch where memory allows, which changes no value; with shared state
each class's gradient is taken at its own turn, where the code, whose decoding runs about ten class steps ahead, is behind.
The code's split of classes over GPUs is not offered.  Classes smaller than ``batch_real`` make every class's batch as small
as the smallest class, which is noted.  The pool of the ImageNet subsets is trained on inputs in [0, 1], where the code
forgets to scale them.  Published tables use "additional curation" (soft labels, fine-tuning) in part, which is not offered.
The last features alone are matched, in ResNets too, where the code adds up several layers; its MMD in place of the
discrepancy is DM's loss and not offered again.  All settings are of instance norm: networks with batch norm, if asked for,
take their statistics from all classes at once, real and synthetic apart, so that classes act on each other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.augment.dsa import Draw
from ddbench.contract import DistilledSet, Task
from ddbench.matching.features import (
    RandomNetworks,
    Siamese,
    chunks,
    embedding_features,
    fast_features,
    features_of,
    images_that_fit,
)
from ddbench.matching.formation import Formation, first_mosaics, padding_note, unit_space
from ddbench.matching.pool import NetworkPool, pool_recipe
from ddbench.matching.sampling import RealBatches, class_labels, pixel_sgd, viewed
from ddbench.matching.selection import class_pools
from ddbench.matching.spectrum import (
    GaussianFrequencies,
    SampledFrequencies,
    Sampler,
    cf_discrepancy,
    components,
    unit_length,
)
from ddbench.matching.turns import Turns
from ddbench.nets.build import embed
from ddbench.registry import method

_PLAN_MIB = 2400.0
"""Memory of a step where no limit is given: a few classes at once keep a GPU busy, and the paper claims no more."""
_MIB = 1 << 20
_FLOAT = 4  # bytes

Losses = Callable[[nn.Module, Tensor], "tuple[Tensor, Tensor]"]
"""Network, images (K, ipc, C, H, W) -> mean loss of the classes, gradient of each class's own."""


@method(family="distribution matching", paper="arXiv:2502.20653", labels="hard")
@dataclass(frozen=True)
class NCFM:
    network: str = "ConvNet"
    """Network of the pool."""
    pool: int = 20
    """Trained networks in the pool (count)."""
    pool_epochs: int = 60
    """Epochs of each (count)."""
    iterations: int = 20_000
    """Rounds over all classes (count)."""
    factor: int = 2
    """A stored image is a mosaic of factor x factor training images; 1: none."""
    init: str = "mix"
    """First images: ``mix`` (the first real ones of each class, shrunk into the tiles) | ``first`` (as they are) | ``random`` |
    ``noise``."""
    sampler: str = "network"
    """Frequencies: ``network`` (trained to raise the loss) | ``gaussian`` (N(0, 1))."""
    frequencies: int = 1024
    """Frequencies a class and step (count); of a network, a multiple of 16."""
    sampler_lr: float = 1e-3
    """SGD step of the sampling network."""
    sampler_momentum: float = 0.5
    """Its momentum, in [0, 1)."""
    amplitude: float = 0.5
    """Weight of the squared difference of amplitudes."""
    phase: float = 0.5
    """Weight of the phase term."""
    weight: float = 300.0
    """Factor on the discrepancy of a class."""
    real: str = "random"
    """Real batches: ``random`` (anew each step) | ``first`` (the first of each class, always)."""
    batch_real: int = 1024
    """Real images of each class a step (count)."""
    augment: str = "diffaug:color_crop_cutout"
    """Augmentation shared by real and synthetic images of a class: ``diffaug:NAMES`` | ``dsa`` | ``none``."""
    optimiser: str = "adamw"
    """``adamw`` | ``sgd``."""
    image_lr: float = 1e-3
    """First step on pixels in [0, 1]; halved when the loss stalls."""
    weight_decay: float = 5e-4
    """Of AdamW."""
    momentum: float = 0.5
    """Of SGD, in [0, 1)."""
    optimiser_state: str = "class"
    """``class`` (of its own for every class) | ``shared`` (one for all, which steps once a class)."""
    calibrations: int = 1
    """Calibration steps of every class after its matching step (count)."""
    calibration_weight: float = 1.0
    """Factor on the cross-entropy of a calibration step."""
    patience: int = 500
    """Iterations without a lower loss after which the step is halved (count)."""
    statistics: str = "own"
    """Mean and deviation that standardise images: ``own``, or those of a data set."""

    def __post_init__(self) -> None:
        for field, value, valid in (
            ("sampler", self.sampler, ("network", "gaussian")),
            ("real", self.real, ("random", "first")),
            ("optimiser", self.optimiser, ("adamw", "sgd")),
            ("optimiser_state", self.optimiser_state, ("class", "shared")),
        ):
            if value not in valid:
                raise ValueError(f"{field} is {value!r}; expected {' or '.join(valid)}")
        if self.sampler == "network":  # said now, not after hours of training the pool
            components(self.frequencies)
        for field, number, least in (
            ("pool", self.pool, 1),
            ("pool_epochs", self.pool_epochs, 1),
            ("frequencies", self.frequencies, 1),
            ("calibrations", self.calibrations, 0),
            ("amplitude", self.amplitude, 0),
            ("phase", self.phase, 0),
        ):
            if number < least:
                raise ValueError(f"{field} is {number}; expected at least {least}")

    def loss(self, real: Tensor, synthetic: Tensor, frequencies: Tensor) -> Tensor:
        """Losses (G,) of features (G, n, d) and (G, m, d) of unit length at frequencies (G, F, d)."""
        return self.weight * cf_discrepancy(real, synthetic, frequencies, self.amplitude, self.phase)

    def image_optimiser(self, images: Tensor) -> torch.optim.Optimizer:
        """Of the images (K, ipc, C, H, W), which need no graph: their gradients are put there."""
        if self.optimiser == "sgd":
            return pixel_sgd(images, self.image_lr, self.momentum, fused=True)
        return torch.optim.AdamW([images], lr=self.image_lr, weight_decay=self.weight_decay, fused=True)

    def image_plateau(self, optimiser: torch.optim.Optimizer) -> torch.optim.lr_scheduler.ReduceLROnPlateau:
        """Halves the step of ``optimiser`` after ``patience`` iterations without a lower loss."""
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=self.patience)

    def frequency_sampler(self, width: int, task: Task) -> Sampler:
        """Of features of d = ``width`` values."""
        if self.sampler == "gaussian":
            return GaussianFrequencies(self.frequencies, width)
        how = self.sampler_lr, self.sampler_momentum
        return SampledFrequencies(self.frequencies, width, task.rng("sampler"), task.device, *how)

    def distill(self, task: Task) -> DistilledSet:
        images = first_mosaics(task, self.factor, self.init)
        optimiser = self.image_optimiser(images)
        plateau = self.image_plateau(optimiser)
        turns = Turns(optimiser, images)
        step = _Step(self, task)

        def descend(losses: Losses, net: nn.Module) -> Tensor:
            """One step of every class; the mean over classes of their losses."""
            values = []

            def gradients(at: Tensor) -> Tensor:
                value, found = losses(net, at)
                values.append(value)
                return found

            if self.optimiser_state == "shared":
                turns.round(gradients)
            else:  # every pixel has state of its own, so one step is each class's step
                images.grad = gradients(images)
                optimiser.step()
            return values[0]

        def finished() -> DistilledSet:
            return task.distilled(
                images=images.flatten(0, 1),
                ids=class_labels(task).flatten(),
                space=step.formation.space,
                codec=step.formation.codec(),
            )

        state = [images, optimiser, plateau, *step.sampler.state]
        for _ in task.loop(self.iterations, state=state, show=finished):
            blend, trained = step.pool.draw(task.rng("pool"))
            images.clamp_(0, 1)
            matching = descend(step.match, blend)
            calibration = torch.zeros_like(matching)
            for _ in range(self.calibrations):
                calibration += descend(step.calibrate, trained)
            task.log(loss=matching, calibration=calibration, image_lr=optimiser.param_groups[0]["lr"])
            plateau.step(float(matching + calibration))
        return finished()

    def memory(
        self, networks: RandomNetworks, sampler: Sampler, ipc: int, batch: int, train_images: int
    ) -> "Memory":
        """Counted memory of a run.

        Args:
            networks: of the pool; they say shape and number of classes too.
            sampler: of the frequencies.
            ipc: stored images a class.
            batch: real images a class and step.
            train_images: real images on the device; 0: they lie elsewhere.
        """
        pixels, weights = math.prod(networks.shape), sum(p.numel() for p in networks.module.parameters())
        m, stored = ipc * self.factor**2, networks.classes * ipc * pixels
        moments = 1 if self.optimiser == "sgd" else 2
        copies = 2 + moments  # values and gradient
        if self.optimiser_state == "shared":  # the round begins anew, from copies, once the turns are known
            copies += 3 + moments
        width = _width(networks)
        return Memory(
            batch=batch,
            kept=train_images * (pixels + 8)
            + _FLOAT * ((2 * self.pool + 2) * weights + copies * stored)
            + sampler.kept_bytes,
            sampler=sampler.pull_bytes(batch, m),
            graph=m * (networks.image_bytes + 3 * _FLOAT * (pixels + width)),
            features=_FLOAT * batch * width,
            real=(3 * _FLOAT + 1) * batch * pixels,
            image=networks.image_bytes // 2 + _FLOAT * width,
        )


@dataclass(frozen=True)
class Memory:
    """Counted device memory, in bytes: what a run keeps, and what classes and images add to a step."""

    batch: int
    """Real images of a class (count)."""
    kept: int
    """Real images, pool, synthetic images with gradient and optimiser state, sampling network with momentum."""
    sampler: int
    """One call of the sampler."""
    graph: int
    """A class from stored images to features, with what autograd keeps."""
    features: int
    """Real features of a class."""
    real: int
    """The real batch of a class, from pixels to augmented network inputs."""
    image: int
    """A real image on its way through the network, without autograd."""

    def peak_mib(self, together: int, at_once: int) -> float:
        """Of a run with so many classes together, and so many real images at once on their way through the network."""
        real = max(1, at_once // self.batch) * self.real + at_once * self.image
        step = together * self.features + max(real, together * self.graph + self.sampler)
        return (self.kept + step) / _MIB

    def plan(self, limit_mib: float, classes: int, most: int) -> tuple[int, int]:
        """(classes together, real images at once) that fit a limit; at least one of each, of images at most ``most``."""
        left = limit_mib * _MIB - self.kept
        together = int((left - self.sampler) / (self.graph + self.features))
        together = _even(classes, max(1, together))
        at_once = int((left - together * self.features) / (self.image + self.real / self.batch))
        at_once = max(1, min(at_once, most))
        if at_once < self.batch:
            return together, _even(self.batch, at_once)
        return together, self.batch * _even(together, min(together, at_once // self.batch))


def _width(networks: RandomNetworks) -> int:
    """Values of a feature, d."""
    with torch.no_grad():
        weight = next(networks.module.parameters())
        return embed(networks.module, torch.zeros((2, *networks.shape), device=weight.device)).shape[1]


def _answers(net: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Logits, as the only kind of features."""
    return (net(x),)


class _Step:
    """What the steps of a run share, and the losses of a step with their gradients."""

    def __init__(self, how: NCFM, task: Task) -> None:
        self.how, self.task = how, task
        shape = (task.train.classes, task.ipc, *task.train.shape)
        self.gradients = torch.zeros(shape, device=task.device)  # written over by every step
        space = unit_space(task.train, how.statistics)
        train = replace(task.train, mean=space.mean, std=space.std)
        classes, iterations = train.classes, how.iterations
        self.formation = Formation(how.factor, "single", 128, space)
        self.siamese = Siamese(how.augment, train)
        self.batches = RealBatches(train, how.batch_real, task.device, task.note)
        self.first = torch.stack([pool[: self.batches.batch] for pool in class_pools(train, 1)])
        own = (None, None) if how.statistics == "own" else (space.mean, space.std)
        trained = task.teachers(pool_recipe(how.network, how.pool_epochs, how.pool, *own))
        self.pool = NetworkPool(trained, how.network, train.shape, classes, task.device)
        if note := padding_note(max(train.shape[1:]), how.factor):
            task.note("factor", note)
        networks, n, m = self.pool.networks, self.batches.batch, self.formation.count(task.ipc)
        self.sampler = how.frequency_sampler(_width(networks), task)
        self.embed = fast_features(embedding_features, networks, iterations * classes * (n + m))
        self.answer = fast_features(_answers, networks, iterations * classes * m * how.calibrations)

        on_device = len(train) if train.images.device == task.device else 0
        memory = how.memory(networks, self.sampler, task.ipc, n, on_device)
        limit = task.memory_limit_mib or _PLAN_MIB
        most = images_that_fit(task, networks)
        self.together, self.at_once = memory.plan(limit, classes, most)
        if networks.batch_norm:  # statistics come from all classes at once
            self.together, self.at_once = classes, n * classes
        need = memory.peak_mib(self.together, self.at_once)
        if task.memory_limit_mib is not None and need > limit:
            task.note(
                "memory",
                f"a step may need about {need:,.1f} MiB, more than the limit of {limit:g} MiB; a smaller "
                f"batch_real or pool needs less",
            )

    def match(self, net: nn.Module, at: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over classes of the matching losses of images ``at``, and the gradient (K, ipc, C, H, W) of each class's own."""
        how, task, device = self.how, self.task, self.task.device
        first = how.real == "first"
        indices = self.first if first else self.batches.draw(task.rng("batches"))
        draws = self.siamese.draw(len(at), task.rng("augment"))
        # two million normals a class: drawn on the device, by a number from the host
        seed = int(torch.randint(2**62, (), generator=task.rng("frequencies")))
        chance = torch.Generator(device).manual_seed(seed)
        total = torch.zeros((), device=device)
        for part in chunks(0, len(at), self.together):
            real = self._real(net, indices[part], draws[part])
            images = at[part].detach().requires_grad_()
            x = self._inputs(images, part, draws[part])
            (made,) = self.embed(net, x.flatten(0, 1))
            features = unit_length(made.view(*x.shape[:2], -1))
            leaf = features.detach().requires_grad_()
            total += self.sampler.pull(how.loss, real, leaf, chance).sum()
            (self.gradients[part],) = torch.autograd.grad(features, images, leaf.grad)
        return total / len(at), self.gradients

    def calibrate(self, net: nn.Module, at: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`match`, of the weighted cross-entropies."""
        draws = self.siamese.draw(len(at), self.task.rng("augment"))
        total = torch.zeros((), device=at.device)
        for part in chunks(0, len(at), self.together):
            images = at[part].detach().requires_grad_()
            x = self._inputs(images, part, draws[part])
            (logits,) = self.answer(net, x.flatten(0, 1))
            each = F.cross_entropy(logits, self._labels(part, x.shape[1]).flatten(), reduction="sum")
            loss = self.how.calibration_weight * each / x.shape[1]
            (self.gradients[part],) = torch.autograd.grad(loss, images)
            total += loss.detach()
        return total / len(at), self.gradients

    def _real(self, net: nn.Module, indices: Tensor, draws: Sequence[Draw]) -> Tensor:
        """Features (G, n, d) of unit length of the real images at indices (G, n)."""
        pieces = []
        for part in chunks(0, len(indices), self.at_once // indices.shape[1]):
            x = self.siamese.apply(self.batches.images(indices[part]), draws[part])
            pieces.append(unit_length(features_of(net, x, self.embed, self.at_once)[0]))
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def _labels(self, part: slice, count: int) -> Tensor:
        ids = torch.arange(part.start, part.stop, device=self.task.device)
        return ids[:, None].expand(-1, count)

    def _inputs(self, images: Tensor, part: slice, draws: Sequence[Draw]) -> Tensor:
        """Stored images (G, ipc, C, H, W) -> augmented network inputs (G, m, C, H, W), differentiable."""
        x = self.formation.inputs(images)
        return self.siamese.apply(viewed(self.task, x, self._labels(part, x.shape[1])), draws)


def _even(count: int, most: int) -> int:
    """Size of parts of at most ``most``, as few and as equal as can be."""
    return -(-count // -(-count // most))


_PAPER = "arXiv:2502.20653: sampling network, 1,024 frequencies; the rest from the released configs, which it matches"
_CODE = "released configs of gszfwsb/NCFM, and what its code does with them"
_TABLE5 = "arXiv:2502.20653, table 5: without sampling network and additional curation"
_RELEASED = dict(sampler="gaussian", frequencies=4096, real="first", optimiser_state="shared", source=_CODE)
_NO_PSI = dict(sampler="gaussian", source=_TABLE5)
_AUTHORS = dict(source=_PAPER)
_C100 = dict(statistics="cifar10")  # as in the code
_SGD = dict(statistics="cifar10", optimiser="sgd", image_lr=0.01)
_TINY = dict(network="ConvNetD4")
_LARGE = dict(network="ConvNetD5", pool_epochs=80)
RECIPES = {
    ("authors", "cifar10", 1): _AUTHORS,
    ("authors", "cifar10", 10): _AUTHORS,
    ("authors", "cifar10", 50): _AUTHORS,
    ("authors", "cifar100", 1): {**_C100, **_AUTHORS},
    ("authors", "cifar100", 10): {**_SGD, **_AUTHORS},
    ("authors", "cifar100", 50): {**_C100, **_AUTHORS},
    ("authors", "tiny_imagenet", 1): {**_TINY, **_AUTHORS},
    ("authors", "tiny_imagenet", 10): {**_TINY, **_AUTHORS},
    ("authors", "tiny_imagenet", 50): {**_TINY, **_AUTHORS},
    ("authors", "imagenette", 1): {**_LARGE, **_AUTHORS},
    ("authors", "imagenette", 10): {**_LARGE, **_AUTHORS},
    ("authors", "imagewoof", 1): {**_LARGE, **_AUTHORS},
    ("authors", "imagewoof", 10): {**_LARGE, **_AUTHORS},
    ("authors", "imagefruit", 1): {**_LARGE, **_AUTHORS},
    ("authors", "imagefruit", 10): {**_LARGE, **_AUTHORS},
    ("authors", "imagemeow", 1): {**_LARGE, **_AUTHORS},
    ("authors", "imagemeow", 10): {**_LARGE, **_AUTHORS},
    ("authors", "imagesquawk", 1): {**_LARGE, **_AUTHORS},
    ("authors", "imagesquawk", 10): {**_LARGE, **_AUTHORS},
    ("authors", "imageyellow", 1): {**_LARGE, **_AUTHORS},
    ("authors", "imageyellow", 10): {**_LARGE, **_AUTHORS},
    ("released", "cifar10", 1): _RELEASED,
    ("released", "cifar10", 10): _RELEASED,
    ("released", "cifar10", 50): _RELEASED,
    ("released", "cifar100", 1): {**_C100, **_RELEASED},
    ("released", "cifar100", 10): {**_SGD, **_RELEASED},
    ("released", "cifar100", 50): {**_C100, **_RELEASED},
    ("released", "tiny_imagenet", 1): {**_TINY, **_RELEASED},
    ("released", "tiny_imagenet", 10): {**_TINY, **_RELEASED},
    ("released", "tiny_imagenet", 50): {**_TINY, **_RELEASED},
    ("released", "imagenette", 1): {**_LARGE, **_RELEASED},
    ("released", "imagenette", 10): {**_LARGE, **_RELEASED},
    ("released", "imagewoof", 1): {**_LARGE, **_RELEASED},
    ("released", "imagewoof", 10): {**_LARGE, **_RELEASED},
    ("released", "imagefruit", 1): {**_LARGE, **_RELEASED},
    ("released", "imagefruit", 10): {**_LARGE, **_RELEASED},
    ("released", "imagemeow", 1): {**_LARGE, **_RELEASED},
    ("released", "imagemeow", 10): {**_LARGE, **_RELEASED},
    ("released", "imagesquawk", 1): {**_LARGE, **_RELEASED},
    ("released", "imagesquawk", 10): {**_LARGE, **_RELEASED},
    ("released", "imageyellow", 1): {**_LARGE, **_RELEASED},
    ("released", "imageyellow", 10): {**_LARGE, **_RELEASED},
    ("no-psi", "cifar10", 10): _NO_PSI,
    ("no-psi", "cifar10", 50): _NO_PSI,
    ("no-psi", "cifar100", 10): {**_SGD, **_NO_PSI},
    ("no-psi", "cifar100", 50): {**_C100, **_NO_PSI},
    ("no-psi", "tiny_imagenet", 1): {**_TINY, **_NO_PSI},
    ("no-psi", "tiny_imagenet", 10): {**_TINY, **_NO_PSI},
    ("no-psi", "tiny_imagenet", 50): {**_TINY, **_NO_PSI},
    ("no-psi", "imagefruit", 10): {**_LARGE, **_NO_PSI},
    ("no-psi", "imagemeow", 10): {**_LARGE, **_NO_PSI},
    ("no-psi", "imagesquawk", 10): {**_LARGE, **_NO_PSI},
    ("no-psi", "imageyellow", 10): {**_LARGE, **_NO_PSI},
    ("digits", "digits", None): dict(
        network="ConvNetD2W32",
        factor=1,
        pool=4,
        pool_epochs=6,
        iterations=200,
        frequencies=128,
        batch_real=64,
        image_lr=0.01,
        source="ours, for 8x8 images",
    ),
    ("cpu", "mnist", None): dict(
        network="ConvNetW32",
        pool=4,
        pool_epochs=2,
        iterations=200,
        frequencies=256,
        batch_real=64,
        image_lr=0.01,
        source="ours, minutes on two CPU cores",
    ),
    ("cpu", "cifar10", None): dict(
        network="ConvNetW32",
        pool=4,
        pool_epochs=2,
        iterations=200,
        frequencies=256,
        batch_real=64,
        image_lr=0.01,
        source="ours, minutes on two CPU cores",
    ),
}
