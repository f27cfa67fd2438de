"""Random coreset: keep ``ipc`` real images of each class, chosen uniformly.

With ``labels`` other than ``hard`` the networks that label a set of ``sre2l`` or ``cvdd`` of the same seed label these images
too: what such a set gains over this one is due to its images, not to its labels.

Source: the random-selection baseline of Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching",
ICLR 2021, arXiv:2006.05929, section 4.1.
Departures: none.
"""

from dataclasses import dataclass

from torch import Tensor

from ddbench.contract import DistilledSet, Labeller, Targets, Task
from ddbench.matching.committee import LABEL_TEMPERATURE, PRIORS, softmax_weights
from ddbench.matching.selection import class_pools, random_choice
from ddbench.registry import method
from ddbench.train.priors import PriorRun, check_members, convene, members_of
from ddbench.train.squeeze import squeeze_name
from ddbench.train.squeezed import space_of, squeezed

LABELS = ("hard", "teacher", "committee")


@method(family="coreset", paper="arXiv:2006.05929", labels="hard", matches=False)
@dataclass(frozen=True)
class Random:
    labels: str = "hard"
    """``hard`` (the images' own classes) | ``teacher`` (a network labels them, as for ``sre2l``) | ``committee`` (five do, with
    weights by their priors, as for ``cvdd``)."""
    networks: tuple[str, ...] = ()
    """What labels; (): the networks of that method for the squeeze recipe.  Of several a ``teacher`` is the first."""
    squeeze: str = "auto"
    """Named recipe of their training (``ddbench/train/squeeze.py``); ``auto``: that of the method's authors where it has a row,
    else ``quick``."""
    held_out: float = 0.1
    """Share of each class that no member of a committee is trained on and that measures the priors, in [0, 1)."""
    prior: str = "held-out"
    """Prior performance of a committee's members: ``held-out`` (measured) | ``released`` (the authors') | ``equal``."""

    def __post_init__(self) -> None:
        for name, valid in (("labels", LABELS), ("prior", PRIORS)):
            if getattr(self, name) not in valid:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(valid)}")
        check_members(self.networks)

    def distill(self, task: Task) -> DistilledSet:
        pools = class_pools(task.train, task.ipc)
        chosen = random_choice(pools, task.ipc, task.rng("selection"))
        chosen = chosen.view(-1, task.ipc).sort(1).values.flatten()  # as a coreset is stored
        ids = task.train.labels.cpu()[chosen]
        if self.labels == "hard":
            return task.distilled(subset=chosen, ids=ids)
        return self._labelled(task, chosen, ids)

    def _labelled(self, task: Task, chosen: Tensor, ids: Tensor) -> DistilledSet:
        train, alone = task.train, self.labels == "teacher"
        squeeze = squeeze_name(self.squeeze, "sre2l" if alone else "cvdd", train.name)
        names = self.networks or members_of(squeeze, train.shape)
        if alone:
            teachers, weights = squeezed(task, names[:1], squeeze), (1.0,)
        else:
            committee = convene(task, names, squeeze, self.held_out, self.prior)
            teachers = committee.networks
            weights = softmax_weights(committee.priors(self.prior, PriorRun()), LABEL_TEMPERATURE)
        space = space_of(teachers[0], task)
        refs = tuple(teacher.ref(weight) for teacher, weight in zip(teachers, weights, strict=True))
        return task.distilled(
            subset=chosen, targets=Targets(ids=ids, labeller=Labeller(refs, space)), space=space
        )
