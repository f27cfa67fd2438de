"""Herding: in each class, pick real images one by one so that the mean of their features stays near the class mean.

Source: Welling, "Herding dynamical weights to learn", ICML 2009, as a coreset in DeepCore, Guo, Zhao and Bai,
arXiv:2204.08499.
Departures: the image nearest to the residual is picked; DeepCore's code picks the farthest by mistake.  Features are
standardised pixels or the embedding of a ConvNet trained for a few epochs (SGD with momentum at 0.01, on nine tenths of the
images), instead of a ResNet-18 trained for 40 (Nesterov at 0.1, on all of them).
"""

from dataclasses import dataclass

import torch

from ddbench.contract import DistilledSet, Task, TeacherRecipe
from ddbench.matching.selection import class_pools, herding
from ddbench.registry import method
from ddbench.train.teachers import class_features


@method(family="coreset", paper="arXiv:2204.08499", labels="hard", matches=False)
@dataclass(frozen=True)
class Herding:
    features: str = "pixels"
    """Where distances are taken: ``pixels`` (standardised) | ``teacher`` (embedding of a trained network)."""
    network: str = "ConvNet"
    """The teacher's network; unused with ``pixels``."""
    epochs: int = 10
    """Epochs that the teacher is trained for (count); unused with ``pixels``."""

    def distill(self, task: Task) -> DistilledSet:
        pools = class_pools(task.train, task.ipc)
        features = class_features(
            task, self.features, TeacherRecipe(network=self.network, epochs=self.epochs)
        )
        chosen = torch.cat([pool[herding(features(pool), task.ipc)].sort().values for pool in pools])
        return task.distilled(subset=chosen, ids=task.train.labels.cpu()[chosen])


RECIPES = {
    ("digits", "digits", None): dict(
        network="ConvNetD2W32", source="ours: three poolings do not fit 8x8 well"
    ),
}
