"""All training images: the upper bound that every distilled set is measured against.

Source: the "whole data set" rows of Zhao, Mopuri and Bilen, arXiv:2006.05929, and of the papers after it.
Departures: the ipc of the task is not used; how long to train on so much data is the matter of the protocol, which
recognises this set by its subset codec that names every training image.
"""

from dataclasses import dataclass

import torch

from ddbench.contract import DistilledSet, Task
from ddbench.registry import method


@method(family="upper bound", paper="arXiv:2006.05929", labels="hard", matches=False)
@dataclass(frozen=True)
class Full:
    def distill(self, task: Task) -> DistilledSet:
        return task.distilled(subset=torch.arange(len(task.train)), ids=task.train.labels)
