"""Random coreset: keep ``ipc`` real images of each class, chosen uniformly.

Source: the random-selection baseline of Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching",
ICLR 2021, arXiv:2006.05929, section 4.1.
Departures: none.
"""

from dataclasses import dataclass

from ddbench.contract import DistilledSet, Task
from ddbench.matching.selection import class_pools, random_choice
from ddbench.registry import method


@method(family="coreset", paper="arXiv:2006.05929", labels="hard", matches=False)
@dataclass(frozen=True)
class Random:
    def distill(self, task: Task) -> DistilledSet:
        pools = class_pools(task.train, task.ipc)
        chosen = random_choice(pools, task.ipc, task.rng("selection"))
        chosen = chosen.view(-1, task.ipc).sort(1).values.flatten()  # as a coreset is stored
        return task.distilled(subset=chosen, ids=task.train.labels.cpu()[chosen])
