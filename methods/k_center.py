"""K-center greedy: in each class, start anywhere and keep adding the image that is farthest from those kept.

Source: Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018,
arXiv:1708.00489, as a coreset in DeepCore, Guo, Zhao and Bai, arXiv:2204.08499.
Departures: features are standardised pixels or the embedding of a ConvNet trained for a few epochs (on nine tenths of
the images), instead of a ResNet-18 pre-trained on ImageNet.
"""

from dataclasses import dataclass

import torch

from ddbench.contract import DistilledSet, Task, TeacherRecipe
from ddbench.matching.selection import class_pools, k_center
from ddbench.registry import method
from ddbench.train.teachers import class_features


@method(family="coreset", paper="arXiv:1708.00489", labels="hard", matches=False)
@dataclass(frozen=True)
class KCenter:
    features: str = "pixels"
    """Where distances are taken: ``pixels`` (standardised) | ``teacher`` (embedding of a trained network)."""
    network: str = "ConvNet"
    """The teacher's network; unused with ``pixels``."""
    epochs: int = 10
    """Epochs that the teacher is trained for (count); unused with ``pixels``."""

    def distill(self, task: Task) -> DistilledSet:
        pools, rng = class_pools(task.train, task.ipc), task.rng("selection")
        features = class_features(
            task, self.features, TeacherRecipe(network=self.network, epochs=self.epochs)
        )
        chosen = []
        for pool in pools:
            first = int(torch.randint(len(pool), (1,), generator=rng))
            chosen.append(pool[k_center(features(pool), task.ipc, first)].sort().values)
        kept = torch.cat(chosen)
        return task.distilled(subset=kept, ids=task.train.labels.cpu()[kept])


RECIPES = {
    ("digits", "digits", None): dict(
        network="ConvNetD2W32", source="ours: three poolings do not fit 8x8 well"
    ),
}
