"""IDC: match gradients of images that are cut out of stored mosaics, in networks that are trained on real data in between.

Source: Kim, Kim, Oh, Yun, Song, Jeong, Ha and Song, "Dataset Condensation via Efficient Synthetic-Data Parameterization",
ICML 2022, arXiv:2205.14959, and its code (snu-mllab/Efficient-Dataset-Condensation).
A stored image is a mosaic of factor x factor small images, which are upsampled to full size for matching and for evaluation;
with factor 1 (recipe ``idc-i``) the method is the paper's IDC-I.  All mosaics are one tensor under one optimiser that steps
once a class, so momentum goes on moving the other classes' pixels.
Departures: the gradients of all classes of a round are taken together, each class's at its own turn, which changes no value
(ddbench/matching/turns.py).  Classes smaller than ``batch_real`` make every class's batch as small as the smallest class,
which is noted.  The code's matching of features is DM's and not offered again.
ImageNet-10 and ImageNet-100 are not among the data sets here.  The authors' settings for both, at 224 pixels: network
ResNetAP10, factor 3, distance l1, n_data 500, iterations 500, base_side 224, cutmix 1; for ImageNet-10 image_lr 3e-3 and
early 10; for ImageNet-100 image_lr 1e-3, net_lr 0.1, net_weight_decay 1e-4 and batch_train 128, with networks drawn from ten
that were trained for 5 epochs (here: early 5), and in five runs of 20 classes each (not offered).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ddbench.augment.mix import CutMix, mixed_images, mixed_targets
from ddbench.augment.named import augmentation
from ddbench.contract import DistilledSet, ImageData, Task
from ddbench.matching.features import RandomNetworks
from ddbench.matching.formation import Formation, first_mosaics, padding_note, unit_space
from ddbench.matching.gradients import GradientMatching, stacking_pays
from ddbench.matching.inner import Loss, fast_loss
from ddbench.matching.sampling import class_labels, pixel_sgd
from ddbench.matching.streams import ClassPasses, TrainingStream
from ddbench.matching.turns import Turns
from ddbench.registry import method

_DISTANCES = ("mse", "l1", "l1_mean", "rows")


@method(family="gradient matching", paper="arXiv:2205.14959", labels="hard")
@dataclass(frozen=True)
class IDC:
    network: str = "ConvNet"
    """Network whose gradients are matched."""
    iterations: int = 2000
    """Random networks (count)."""
    inner: int = 100
    """Matching rounds a network, each followed by training it on real images (count, at least 1)."""
    early: int = 0
    """Epochs on real images before a network's first round (count)."""
    factor: int = 2
    """A stored image is a mosaic of factor x factor training images; 1: none (IDC-I)."""
    formation: str = "auto"
    """How mosaics are cut while distilling: ``single`` | ``multi`` (factors 1 to ``factor``) | ``bound`` (at most
    ``batch_syn_max`` images a class: the first mosaics at the full factor, the next at less) | ``auto`` (``bound`` from
    factor 3 and ipc 20 on, else ``single``).  The finished set is cut as ``single``."""
    init: str = "mix"
    """First mosaics: ``mix`` (the first real images of each class, shrunk into the tiles) | ``first`` (as they are) |
    ``random`` | ``noise``."""
    image_lr: float = 5e-3
    """SGD step on pixels in [0, 1], at 10 images a class of ``base_side`` pixels: grows with ipc and with the square of the
    side."""
    base_side: int = 32
    """Side (pixels) that ``image_lr`` is meant for."""
    momentum: float = 0.5
    """SGD momentum of the pixels, in [0, 1); goes on through all networks."""
    distance: str = "mse"
    """Of gradients, sums over coordinates: ``mse`` (squared) | ``l1`` (absolute) | ``l1_mean`` (means over each output row) |
    ``rows`` (DC's 1 - cosine of each output row, which the code calls ``cos``)."""
    match_bias: bool = False
    """Also compare gradients of biases and norms (``rows`` leaves them out all the same)."""
    match_fc: bool = False
    """Also compare gradients of linear weights."""
    batch_real: int = 64
    """Real images of each class a round (count)."""
    batch_syn_max: int = 128
    """Synthetic images of each class a round: where there are more, a random choice of so many (count)."""
    augment: str = "diffaug:color_crop_cutout"
    """Shared by the real and synthetic images of a class: ``diffaug:NAMES`` | ``dsa`` | ``none``."""
    n_data: int = 2000
    """Real images that train the network after each round, at least (count)."""
    batch_train: int = 64
    """Of these a step (count)."""
    net_lr: float = 0.01
    """SGD step of the network."""
    net_momentum: float = 0.9
    """Its momentum, in [0, 1)."""
    net_weight_decay: float = 5e-4
    """Its weight decay."""
    net_augment: str = "diffaug:color_crop"
    """Augmentation of its images, drawn for each: ``diffaug:NAMES`` | ``dsa`` | ``none``."""
    cutmix: float = 0.5
    """Probability that a batch of its training is mixed by CutMix, in [0, 1]."""
    statistics: str = "own"
    """Mean and deviation that standardise images: ``own``, or those of a data set."""

    def __post_init__(self) -> None:
        for name, count, least in (
            ("inner", self.inner, 1),
            ("early", self.early, 0),
            ("batch_syn_max", self.batch_syn_max, 1),
            ("n_data", self.n_data, 0),
        ):
            if count < least:
                raise ValueError(f"{name} is {count}; expected at least {least}")
        if self.formation not in ("auto", "single", "multi", "bound"):
            raise ValueError(f"formation is {self.formation!r}; expected auto, single, multi or bound")

    def step_size(self, ipc: int, side: int) -> float:
        """The SGD step on pixels for so many images a class of so many pixels a side."""
        return self.image_lr * (ipc / 10) * (side / self.base_side) ** 2

    def form(self, train: ImageData, ipc: int) -> Formation:
        """How mosaics are cut while distilling."""
        kind = self.formation
        if kind == "auto":
            kind = "bound" if self.factor >= 3 and ipc >= 20 else "single"
        return Formation(self.factor, kind, self.batch_syn_max, unit_space(train, self.statistics))

    def compared(self, parameter: Tensor) -> bool:
        """Whether gradients of a parameter are matched: convolutions, and what the settings add."""
        return {4: True, 2: self.match_fc}.get(parameter.dim(), self.match_bias)

    def distill(self, task: Task) -> DistilledSet:
        formation = self.form(task.train, task.ipc)
        space = formation.space
        train = replace(task.train, mean=space.mean, std=space.std)
        side = max(train.shape[1:])
        images, labels = first_mosaics(task, self.factor, self.init), class_labels(task)
        if note := padding_note(side, self.factor):
            task.note("factor", note)
        optimiser = pixel_sgd(images, self.step_size(task.ipc, side), self.momentum)
        turns = Turns(optimiser, images)

        networks = RandomNetworks(self.network, train.shape, train.classes, task.device)
        networks.module.requires_grad_(True)
        if not any(self.compared(p) for p in networks.module.parameters()):
            raise ValueError(
                f"{self.network} has no convolutions whose gradients could be matched; choose a ConvNet, or match_fc=true"
            )
        real = ClassPasses(train, self.batch_real, task.device, task.note)
        stream = TrainingStream(train, self.batch_train, task.device)
        trained = self.iterations * (self.early * len(train) + self.inner * self.n_data)
        matched = self.iterations * self.inner * train.classes * real.batch
        loss = fast_loss(networks, trained + (0 if stacking_pays(networks, real.batch) else matched))
        count = formation.count(task.ipc)
        most = min(count, self.batch_syn_max)

        def decode(mosaics: Tensor) -> Tensor:
            """Network inputs (G, m, C, H, W), for each class another random choice where there are more than m."""
            inputs = formation.inputs(mosaics)
            if count == most:
                return inputs
            rng = task.rng("choice")
            chosen = [torch.randperm(count, generator=rng)[:most].to(inputs.device) for _ in inputs]
            return torch.stack([own[rows] for own, rows in zip(inputs, chosen, strict=True)])

        matching = GradientMatching(
            task, networks, real, self.augment, self.distance, loss, decode, most, self.compared, _DISTANCES
        )

        def finished() -> DistilledSet:
            return task.distilled(
                images=images.flatten(0, 1), ids=labels.flatten(), space=space, codec=formation.codec()
            )

        for _ in task.loop(self.iterations, state=[images, optimiser, real, stream], show=finished):
            net = networks.draw(task.rng("network")).train()
            weights = torch.optim.SGD(
                net.parameters(),
                lr=self.net_lr,
                momentum=self.net_momentum,
                weight_decay=self.net_weight_decay,
            )
            self.train_on(task, net, weights, stream, train, self.early * len(train), loss)
            images.clamp_(0, 1)
            total = torch.zeros((), device=task.device)

            def gradients(seen: Tensor, net: nn.Module = net, total: Tensor = total) -> Tensor:
                value, found = matching.gradients(net, seen, labels)
                total += value
                return found

            for _ in range(self.inner):
                turns.round(gradients)
                self.train_on(task, net, weights, stream, train, self.n_data, loss)
            task.log(loss=total / (self.inner * train.classes))
        return finished()

    def train_on(
        self,
        task: Task,
        net: nn.Module,
        optimiser: torch.optim.Optimizer,
        stream: TrainingStream,
        train: ImageData,
        count: int,
        loss: Loss,
    ) -> None:
        """Train ``net`` in place on the next real images, at least ``count``: augmented one by one, then mixed by CutMix."""
        augment, mixes = augmentation(self.net_augment, train.flip), CutMix(self.cutmix)
        for x, ids in stream.batches(count, task.rng("training")):
            targets = ids
            if augment is not None:
                x = augment.apply(x, augment.draw(len(x), train.shape, task.rng("training_augment")))  # type: ignore[arg-type]
            if self.cutmix > 0:
                mix = mixes.draw(len(x), train.shape, task.rng("cutmix"))
                x, targets = mixed_images(x, mix), mixed_targets(ids, None, train.classes, mix)
            optimiser.zero_grad()
            loss(net, x, targets).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        optimiser.zero_grad()


_TABLE = "settings of the authors' code, arXiv:2205.14959"
_CIFAR10 = dict(source=_TABLE)
_CIFAR100 = dict(statistics="cifar10", source=_TABLE)
_SVHN = dict(n_data=500, source=_TABLE)
_FASHION = dict(distance="l1", image_lr=1e-4, n_data=500, source=_TABLE)
_MNIST = dict(
    distance="l1",
    image_lr=1e-4,
    base_side=28,
    n_data=500,
    augment="diffaug:color_crop",
    cutmix=0.0,
    source=_TABLE,
)
_MNIST_I = dict(distance="l1", image_lr=1e-4, base_side=28, n_data=500, factor=1, source=_TABLE)
_SMALL = "ours, for 8x8 images, whose quarters show too little of a digit: factor 1"
RECIPES = {
    ("authors", "cifar10", 1): _CIFAR10,
    ("authors", "cifar10", 10): _CIFAR10,
    ("authors", "cifar10", 50): _CIFAR10,
    ("authors", "cifar100", 1): _CIFAR100,
    ("authors", "cifar100", 10): _CIFAR100,
    ("authors", "cifar100", 20): _CIFAR100,
    ("authors", "cifar100", 50): _CIFAR100,
    ("authors", "svhn", 1): _SVHN,
    ("authors", "svhn", 10): _SVHN,
    ("authors", "svhn", 50): _SVHN,
    ("authors", "mnist", 1): _MNIST,
    ("authors", "mnist", 10): _MNIST,
    ("authors", "mnist", 50): _MNIST,
    ("authors", "fashion_mnist", 1): _FASHION,
    ("authors", "fashion_mnist", 10): _FASHION,
    ("authors", "fashion_mnist", 50): _FASHION,
    ("idc-i", "cifar10", 1): {**_CIFAR10, "factor": 1},
    ("idc-i", "cifar10", 10): {**_CIFAR10, "factor": 1},
    ("idc-i", "cifar10", 50): {**_CIFAR10, "factor": 1},
    ("idc-i", "cifar100", 1): {**_CIFAR100, "factor": 1},
    ("idc-i", "cifar100", 10): {**_CIFAR100, "factor": 1},
    ("idc-i", "cifar100", 20): {**_CIFAR100, "factor": 1},
    ("idc-i", "cifar100", 50): {**_CIFAR100, "factor": 1},
    ("idc-i", "svhn", 1): {**_SVHN, "factor": 1},
    ("idc-i", "svhn", 10): {**_SVHN, "factor": 1},
    ("idc-i", "svhn", 50): {**_SVHN, "factor": 1},
    ("idc-i", "mnist", 1): _MNIST_I,
    ("idc-i", "mnist", 10): _MNIST_I,
    ("idc-i", "mnist", 50): _MNIST_I,
    ("idc-i", "fashion_mnist", 1): {**_FASHION, "factor": 1},
    ("idc-i", "fashion_mnist", 10): {**_FASHION, "factor": 1},
    ("idc-i", "fashion_mnist", 50): {**_FASHION, "factor": 1},
    ("digits", "digits", None): dict(
        network="ConvNetD2W32",
        iterations=10,
        inner=10,
        factor=1,
        init="random",
        image_lr=0.2,
        base_side=8,
        batch_real=32,
        n_data=128,
        source=_SMALL,
    ),
    ("cpu", "mnist", None): dict(
        network="ConvNetW32",
        iterations=10,
        inner=10,
        n_data=128,
        batch_real=32,
        distance="l1",
        image_lr=0.02,
        base_side=28,
        augment="diffaug:color_crop",
        cutmix=0.0,
        source="ours, minutes on two CPU cores",
    ),
    ("cpu", "cifar10", None): dict(
        network="ConvNetW32",
        iterations=20,
        inner=10,
        n_data=128,
        batch_real=32,
        image_lr=0.2,
        source="ours, minutes on two CPU cores",
    ),
}
