"""Distribution matching: pull class means of embeddings in ever new random networks together.

Source: Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, arXiv:2110.04181, and its code
(VICO-UoE/DatasetCondensation, main_DM.py).
Departures: ``iterations`` counts updates, and the set after the last one is both kept and evaluated: with 20,000 that is
the set which the authors' code evaluates (it then makes one more update that only its saved file has).  Classes smaller
than ``batch_real`` make every class's batch as small as the smallest class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddbench.contract import DistilledSet, Task
from ddbench.matching.features import RandomNetworks, Siamese, class_mean_distance, embedding_features, match
from ddbench.matching.sampling import RealBatches, class_labels, initial_images
from ddbench.registry import method


@method(family="distribution matching", paper="arXiv:2110.04181", labels="hard")
@dataclass(frozen=True)
class DM:
    network: str = "ConvNet"
    """Network whose random weights embed the images; with batch norm, all classes go through it at once."""
    iterations: int = 20_000
    """Updates of the synthetic images (count)."""
    image_lr: float = 1.0
    """SGD step on standardised pixels (dimensionless)."""
    momentum: float = 0.5
    """SGD momentum, in [0, 1)."""
    batch_real: int = 256
    """Real images of each class a step (count)."""
    init: str = "real"
    """First synthetic images: ``real`` (random training images) | ``noise`` (N(0, 1))."""
    augment: str = "dsa"
    """Siamese augmentation of real and synthetic images: ``dsa`` | ``none``."""

    def loss(self, real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
        """Squared distance of mean embeddings, summed over coordinates and G classes: a scalar."""
        return class_mean_distance(real[0], synthetic[0])

    def distill(self, task: Task) -> DistilledSet:
        train = task.train
        images = initial_images(task, self.init).requires_grad_()
        labels = class_labels(task)
        optimiser = torch.optim.SGD([images], lr=self.image_lr, momentum=self.momentum)
        real = RealBatches(train, self.batch_real, task.device)
        networks = RandomNetworks(self.network, train.shape, train.classes, task.device)
        siamese = Siamese(self.augment, train)
        for it in task.loop(self.iterations, state=[images, optimiser]):
            net = networks.draw(task.rng("network"))
            optimiser.zero_grad()
            loss = match(task, networks, net, images, labels, real, siamese, embedding_features, self.loss)
            optimiser.step()
            if it % 100 == 0:  # reading it makes the host wait
                task.log(loss=float(loss) / train.classes)
        return task.distilled(images=images.detach().flatten(0, 1), ids=labels.flatten())
