"""Class means (replace this line: it is what `ddbench list methods` shows): images whose class means match real ones.

Source: authors, "title", venue and year, arXiv number, the section or algorithm that this file follows.
Departures: each difference from the paper or its code, or "none".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ddbench.contract import DistilledSet, Task
from ddbench.registry import method


# family: the group on the boards.  paper: "arXiv:2006.05929".  labels: "hard" (class ids), "soft" or "labeller".
@method(family="example", paper="", labels="hard")
@dataclass(frozen=True)
class MyMethod:
    # Each setting is a field with a default, and a string that becomes its help.  Units in the string, please.
    # All of them can be set from outside:  ddbench run --method my_method --set iterations=100
    iterations: int = 50
    """Gradient steps (count)."""
    lr: float = 0.2
    """SGD step on standardised pixels (dimensionless)."""
    batch: int = 64
    """Real images of each class a step (count)."""

    def distill(self, task: Task) -> DistilledSet:
        # task.train: the real training images (ImageData, uint8).  Test images are not here, and stay unseen.
        # task.rng(name): the only source of chance; one generator a name, the same for the same seed.
        train = task.train
        pools = [train.of_class(c) for c in range(train.classes)]
        ids = torch.arange(train.classes, device=task.device).repeat_interleave(task.ipc)
        noise = torch.randn((len(ids), *train.shape), generator=task.rng("initial"))
        images = noise.to(task.device).requires_grad_()
        optimiser = torch.optim.SGD([images], lr=self.lr)
        picks = task.rng("batches")

        # The one loop: it saves and restores `state` (and every generator), keeps the time budget, shows progress.
        for _ in task.loop(self.iterations, state=[images, optimiser]):
            loss = torch.zeros((), device=task.device)
            for c, pool in enumerate(pools):
                chosen = pool[torch.randint(len(pool), (self.batch,), generator=picks)]
                pixels = train.images[chosen.to(train.images.device)].to(task.device)
                real = train.space.real_to_input(pixels)  # uint8 -> network inputs; never implicit
                # Every synthetic batch passes through task.view, so that wrappers (wrapper+my_method) work.
                synthetic, _ = task.view(images[ids == c], ids[ids == c])
                loss = loss + task.ipc * (real.mean(0) - synthetic.mean(0)).square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            task.log(loss=float(loss.detach()))

        # What is not named takes the common form: images as network inputs, one item an image, class ids as targets.
        return task.distilled(images=images.detach(), ids=ids)


# Settings for one (recipe, data set, ipc); None fits any.  "authors" rows come first where they fit.  Keep to literals,
# dict(...) and arithmetic: the rows are read without running this file.  Each row says where its values are from.
RECIPES = {
    ("cpu", "digits", None): dict(iterations=50, batch=32, source="ours"),
}
