"""DataDAM: match class means of spatial attention maps, and of the last embedding, in ever new random networks.

Source: Sajedi, Khaki, Amjadian, Liu, Lawryshyn and Plataniotis, "DataDAM: Efficient Dataset Distillation with Attention
Matching", ICCV 2023, arXiv:2310.00093, and its code (DataDistillation/DataDAM).
Departures: the recipe ``authors`` is the released code (batch norm, attention power 1, sums), which its authors recommend
for reproduction, and ``paper`` the table of the paper (instance norm, power 4, mean squared error) with the code's factor
100; the mean is taken over coordinates and summed over classes, as the table does not say.  The published first
images ("smart") are not used: images start as real ones.  The code's optional whitening, off by default, is not offered.
``iterations`` counts updates, and the set after the last one is both kept and evaluated, as the code's last evaluated set
is; the code then makes one more update, which is lost, and reports the best of several sets by test accuracy, which is
not done here.  Classes smaller than ``batch_real`` make every class's batch as small as the smallest class, which is noted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ddbench.contract import DistilledSet, Task
from ddbench.matching.features import (
    RandomNetworks,
    Siamese,
    attention_features,
    class_mean_distance,
    fast_features,
    match,
)
from ddbench.matching.sampling import RealBatches, class_labels, initial_images, pixel_sgd
from ddbench.registry import method


@method(family="distribution matching", paper="arXiv:2310.00093", labels="hard")
@dataclass(frozen=True)
class DataDAM:
    network: str = "ConvNetBN"
    """ConvNet whose random weights make maps and embedding; with batch norm, all classes go through it at once."""
    iterations: int = 20_000
    """Updates of the synthetic images (count)."""
    image_lr: float = 1.0
    """SGD step on standardised pixels (dimensionless)."""
    momentum: float = 0.5
    """SGD momentum, in [0, 1)."""
    batch_real: int = 64
    """Real images of each class a step (count)."""
    power: float = 1.0
    """Attention is the sum over channels of |feature|^power, at least 1: 1 in the released code, 4 in the paper."""
    normalise: bool = True
    """Divide each image's attention map by its L2 norm before averaging over the class."""
    task_balance: float = 0.01
    """Weight of the embedding term against the attention terms (the paper's lambda)."""
    factor: float = 100.0
    """Constant on the whole loss."""
    error: str = "sum"
    """Squared differences of class means are a ``sum`` over coordinates, as in the released code, or their ``mean``."""
    init: str = "real"
    """First synthetic images: ``real`` (random training images) | ``noise`` (N(0, 1))."""
    augment: str = "dsa"
    """Siamese augmentation of real and synthetic images: ``dsa`` | ``none``."""

    def __post_init__(self) -> None:
        if self.error not in ("sum", "mean"):
            raise ValueError(f"error is {self.error!r}; expected sum or mean")

    def loss(self, real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
        """Attention of all blocks but the last, plus the balanced embedding, of G classes: a scalar."""
        *attention, output = (
            class_mean_distance(r, s) / (r.shape[-1] if self.error == "mean" else 1)
            for r, s in zip(real, synthetic, strict=True)
        )
        return self.factor * (sum(attention, self.task_balance * output))

    def distill(self, task: Task) -> DistilledSet:
        train = task.train
        images = initial_images(task, self.init).requires_grad_()
        labels = class_labels(task)
        optimiser = pixel_sgd(images, self.image_lr, self.momentum)
        real = RealBatches(train, self.batch_real, task.device, task.note)
        networks = RandomNetworks(self.network, train.shape, train.classes, task.device)
        count = self.iterations * train.classes * (real.batch + task.ipc)
        attention = partial(attention_features, p=self.power, normalise=self.normalise)
        features = fast_features(attention, networks, count)
        siamese = Siamese(self.augment, train)

        def finished() -> DistilledSet:
            return task.distilled(images=images.detach().flatten(0, 1), ids=labels.flatten())

        for _ in task.loop(self.iterations, state=[images, optimiser], show=finished):
            net = networks.draw(task.rng("network"))
            optimiser.zero_grad()
            loss = match(task, networks, net, images, labels, real, siamese, features, self.loss)
            optimiser.step()
            task.log(loss=loss / train.classes)
        return finished()


_CODE = "defaults of the released code, arXiv:2310.00093"
_PAPER = "hyperparameter table of the authors' repository, arXiv:2310.00093"
RECIPES = {
    ("authors", "cifar10", 1): dict(network="ConvNetBN", iterations=20_000, source=_CODE),
    ("authors", "cifar10", 10): dict(network="ConvNetBN", iterations=20_000, source=_CODE),
    ("authors", "cifar10", 50): dict(network="ConvNetBN", iterations=20_000, source=_CODE),
    ("authors", "cifar100", 1): dict(network="ConvNetBN", iterations=20_000, source=_CODE),
    ("authors", "cifar100", 10): dict(network="ConvNetBN", iterations=20_000, source=_CODE),
    ("authors", "cifar100", 50): dict(network="ConvNetBN", iterations=20_000, source=_CODE),
    ("authors", "cifar10", 100): dict(network="ConvNetBN", iterations=20_000, image_lr=10.0, source=_CODE),
    ("authors", "cifar10", 200): dict(network="ConvNetBN", iterations=20_000, image_lr=10.0, source=_CODE),
    ("authors", "cifar10", 500): dict(network="ConvNetBN", iterations=20_000, image_lr=10.0, source=_CODE),
    ("authors", "cifar10", 1000): dict(network="ConvNetBN", iterations=20_000, image_lr=10.0, source=_CODE),
    ("authors", "cifar100", 100): dict(network="ConvNetBN", iterations=20_000, image_lr=10.0, source=_CODE),
    ("authors", "tiny_imagenet", 1): dict(network="ConvNetD4BN", iterations=20_000, source=_CODE),
    ("authors", "tiny_imagenet", 10): dict(network="ConvNetD4BN", iterations=20_000, source=_CODE),
    ("authors", "tiny_imagenet", 50): dict(network="ConvNetD4BN", iterations=20_000, source=_CODE),
    ("paper", "cifar10", 1): dict(
        network="ConvNet", iterations=8_000, power=4.0, error="mean", source=_PAPER
    ),
    ("paper", "cifar10", 10): dict(
        network="ConvNet", iterations=8_000, power=4.0, error="mean", source=_PAPER
    ),
    ("paper", "cifar10", 50): dict(
        network="ConvNet", iterations=8_000, power=4.0, error="mean", source=_PAPER
    ),
    ("paper", "cifar100", 1): dict(
        network="ConvNet", iterations=8_000, power=4.0, error="mean", source=_PAPER
    ),
    ("paper", "cifar100", 10): dict(
        network="ConvNet", iterations=8_000, power=4.0, error="mean", source=_PAPER
    ),
    ("paper", "cifar100", 50): dict(
        network="ConvNet", iterations=8_000, power=4.0, error="mean", source=_PAPER
    ),
    ("paper", "tiny_imagenet", 1): dict(
        network="ConvNetD4", iterations=8_000, power=4.0, error="mean", source=_PAPER
    ),
    ("paper", "tiny_imagenet", 10): dict(
        network="ConvNetD4", iterations=8_000, power=4.0, error="mean", source=_PAPER
    ),
    ("paper", "tiny_imagenet", 50): dict(
        network="ConvNetD4", iterations=8_000, power=4.0, error="mean", source=_PAPER
    ),
    ("digits", "digits", None): dict(
        network="ConvNetD2W32BN", iterations=100, batch_real=64, source="ours, for 8x8 images"
    ),
    ("cpu", "mnist", None): dict(
        network="ConvNetW32BN", iterations=300, batch_real=32, source="ours, minutes on two CPU cores"
    ),
    ("cpu", "cifar10", None): dict(
        network="ConvNetW32BN", iterations=300, batch_real=32, source="ours, minutes on two CPU cores"
    ),
}
