"""Who sits in a committee of squeezed networks, and how well each member distils alone.

The prior performance of a member is the accuracy of a student trained on what that member alone recovers and labels.  The
authors of CV-DD measure it on test data; here it is measured on the part of the training data that no member was trained
on, by short runs of SRe2L++ (CV-DD with one member).

Source: Cui et al., "Dataset Distillation via Committee Voting", arXiv:2501.07575, and its code (Jiacheng8/CV-DD).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ddbench.contract import ImageData, Items, Labeller, Space, Task, Trained
from ddbench.matching.committee import PRIORS, medium_images, released_priors, true_class_probability
from ddbench.matching.recovery import Recovery, recover
from ddbench.matching.sampling import take
from ddbench.nets.build import build
from ddbench.nets.names import canonical, for_side, why_not
from ddbench.seeding import Generators
from ddbench.train.engine import EngineOptions, train_students
from ddbench.train.labels import answer
from ddbench.train.networks import split
from ddbench.train.squeeze import squeeze_recipe
from ddbench.train.squeezed import space_of, squeezed
from ddbench.trainplan import TrainPlan, ViewPlan

_PAPER = ("ResNet18BN", "ResNet50BN", "ShuffleNetV2", "MobileNetV2", "DenseNet121")
_QUICK = ("ConvNetW32BN", "ConvNetW48BN", "ConvNetD2W32BN", "ConvNetW32ALBN", "ConvNetW32BNMP")
_QUICK_TINY = ("ConvNetD2W32BN", "ConvNetD1W64BN", "ConvNetD2W32BNMP", "ConvNetD2W32ALBN", "ConvNetD2W48BN")
_TEST_BATCH = 512


# ------------------------------------------------------------------------------------------------ who


def members_of(squeeze: str, shape: tuple[int, int, int]) -> tuple[str, ...]:
    """The five networks of a committee for (C, H, W) images: the authors' or, for ``quick``, small ConvNets."""
    side = min(shape[1:])
    if squeeze == "quick":
        return _QUICK if side >= 16 else _QUICK_TINY
    return tuple(for_side(name, side) for name in _PAPER)


def check_members(networks: Sequence[str]) -> None:
    """Raises:
    ValueError: a network twice, whose votes would count twice.
    LookupError: no such network."""
    if len({canonical(name) for name in networks}) < len(networks):
        raise ValueError(f"networks are {', '.join(networks)}; expected each once")


def convene(
    task: Task,
    networks: Sequence[str],
    squeeze: str,
    held_out: float,
    prior: str,
    run: PriorRun | None = None,
) -> Committee:
    """The committee of these networks, squeezed by one named recipe on what ``held_out`` leaves of each class.

    Args:
        prior: how the members' prior performances will be had (:meth:`Committee.priors`).  What is in the way of that is
            told here, before anything is trained.
        run: how they will be measured; None: as by default.

    Raises:
        ValueError: a network without batch norm; networks whose inputs are standardised in different ways; priors that
            cannot be measured.
        LookupError: no such recipe or network, no row of the recipe for the data set, or no released priors.
    """
    train = task.train
    recipes = [squeeze_recipe(squeeze, network, train.name) for network in networks]
    names = [recipe.network for recipe in recipes]
    check_members(names)  # ResNet18BN and torchvision:resnet18 are one where the recipe takes public weights
    public = next((recipe.network for recipe in recipes if recipe.weights), None)
    check_priors(prior, train.name, names, public, held_out)
    if prior == "held-out" and len(names) > 1:
        student = canonical((run or PriorRun()).network or names[0])
        if reason := why_not(student, train.shape):
            raise ValueError(f"prior_network: {reason}")
    teachers = squeezed(task, networks, squeeze, held_out)
    return Committee(task, teachers, space_of(teachers[0], task), squeeze, held_out)


# ------------------------------------------------------------------------------------------------ priors


def check_priors(
    how: str, dataset: str, networks: Sequence[str], public: str | None, held_out: float
) -> None:
    """Whether the prior performances of these members can be had, known before any of them is trained.

    Args:
        how: as for :meth:`Committee.priors`.
        public: a member with public weights; None: there is none.
        held_out: share of each class that no member is trained on.

    Raises:
        LookupError: there are no released constants for the data set or a network.
        ValueError: another way, or members that are trained on all of the training data.
    """
    if how not in PRIORS:
        raise ValueError(f"prior is {how!r}; expected one of {', '.join(PRIORS)}")
    if how == "equal" or len(networks) == 1:
        return
    if how == "released":
        released_priors(dataset, networks)
    elif public is not None or held_out == 0:
        why = f"{public} has public weights" if public else "held_out is 0"
        cure = "" if public else ", or hold some out"
        raise ValueError(
            f"{why}, so that no training image is new to the committee, and prior 'held-out' cannot be measured; use "
            f"prior 'released' or 'equal'{cure}"
        )


@dataclass(frozen=True)
class PriorRun:
    """How prior performances are measured; ours, and short: the order of the members and rough distances are what matters.

    Raises:
        ValueError: a count below 1 (iterations: below 0).
        LookupError: no such network.
    """

    ipc: int = 10
    """Images a class that each member recovers alone (count)."""
    iterations: int = 100
    """Updates of these images (count)."""
    epochs: int = 20
    """Of the student that is trained on them (count)."""
    network: str = ""
    """The student; "": the first member."""

    def __post_init__(self) -> None:
        for name, least in (("ipc", 1), ("iterations", 0), ("epochs", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"prior_{name} is {getattr(self, name)}; expected at least {least}")
        if self.network:
            canonical(self.network)


class Committee:
    """Teachers of one space that recover and label together.

    Args:
        networks: teachers, squeezed by one recipe.
        space: of their inputs.
        squeeze: that recipe's name.
        held_out: share of each class that none of them was trained on.
    """

    def __init__(
        self, task: Task, networks: Sequence[Trained], space: Space, squeeze: str, held_out: float
    ) -> None:
        self.task, self.networks, self.squeeze, self.held_out = task, list(networks), squeeze, held_out
        self.space = replace(space, stored="uint8")
        self.names = tuple(trained.name for trained in networks)

    @cached_property
    def certainty(self) -> Tensor:
        """The first member's probability of the true class of every training image (N,)."""
        return true_class_probability(self.networks[0], self.task.train, self.space, self.task.device)

    def first_inputs(self, images: Tensor, classes: Tensor, id: int) -> Tensor:
        """Network inputs of the ``id``-th of the training images (K, count) of these classes."""
        return self.space.real_to_input(take(self.task.train, images[classes, id], self.task.device))

    def priors(self, how: str, run: PriorRun) -> tuple[float, ...]:
        """Prior performance of every member in percent, noted in the card; a committee of one needs none.

        Args:
            how: ``held-out`` (measured as ``run`` says) | ``released`` (the authors' constants) | ``equal`` (all 0).

        Raises:
            LookupError: there are no released constants for the data set or a network.
            ValueError: another way, or members that were trained on all of the training data.

        Where the time budget ends before all are measured they are equal, which the note says.
        """
        public = next((t.name for t in self.networks if t.source == "public"), None)
        check_priors(how, self.task.train.name, self.names, public, self.held_out)
        equal = (0.0,) * len(self.names)
        if how == "equal" or len(self.names) == 1:
            return equal
        if how == "released":
            found = released_priors(self.task.train.name, self.names)
            what = "constants of the authors' code (test accuracies)"
        else:
            found, what = self._measured(run)
            if self.task.partial:
                self.task.note("priors", "prior performance: not measured, the time budget ended; all equal")
                return equal
        told = ", ".join(f"{name} {prior:.2f}" for name, prior in zip(self.names, found, strict=True))
        self.task.note("priors", f"prior performance in percent, {what}: {told}")
        return found

    def _measured(self, run: PriorRun) -> tuple[tuple[float, ...], str]:
        task, train = self.task, self.task.train
        seed = int(torch.randint(2**62, (), generator=task.rng("priors")))
        recipe = squeeze_recipe(self.squeeze, self.names[0], train.name)
        kept, held = split(train, recipe.seed, self.held_out, recipe.per_class)
        least = int(torch.bincount(train.labels.cpu()[kept], minlength=train.classes).min())
        ipc = min(run.ipc, least)
        starts = medium_images(train, self.certainty, ipc, kept)
        alone = torch.eye(len(self.names)).repeat_interleave(ipc, 0)

        def first(id: int, classes: Tensor) -> Tensor:
            return self.first_inputs(starts, classes, id % ipc)

        settings = _recovery(train, self.squeeze, run.iterations)
        found = recover(task, self.networks, alone, settings, self.space, first, name="prior-")
        student = canonical(run.network or self.names[0])
        priors = torch.zeros(len(self.names), dtype=torch.float64)
        # a loop of the task: it ends with the time budget, and a run that goes on trains no student twice
        for m in task.loop(len(self.names), state=[priors]):
            images = found[m * ipc : (m + 1) * ipc]
            made = self._student(self.networks[m], images, student, run.epochs, seed)
            priors[m] = 100 * _accuracy(made, train, held, self.space, task.device)
        measured: list[float] = priors.tolist()
        return tuple(measured), (
            f"accuracy on {len(held)} held-out training images of a {student} trained {run.epochs} epochs on {ipc} images a "
            f"class of {run.iterations} iterations"
        )

    def _student(self, member: Trained, images: Tensor, network: str, epochs: int, seed: int) -> nn.Module:
        """A student of one member alone on its images (ipc, K, C, H, W); all of them start alike and see the same views.

        CV-DD's protocol, but for what lets a tenth of its epochs do: five times its rate, temperature 4 instead of 20."""
        task, train = self.task, self.task.train
        labeller = Labeller((member.ref(),), self.space, batch_norm="train-halves")
        flip = 0.5 if train.flip else 0.0
        views = ViewPlan(epochs, batch=16, seed=seed, crop="resized", flip=flip, mix="cutmix")
        plan = TrainPlan(
            epochs=epochs, batch=16, optimiser="adamw", lr=5e-3, weight_decay=0.01, decay_on="matrices",
            schedule="cosine", loss="kl", temperature=4.0, micro_batches=2, views=views,
        )  # fmt: skip
        ids = torch.arange(train.classes).repeat_interleave(len(images))
        stored = images.transpose(0, 1).flatten(0, 1).to(task.device)
        items = Items(stored, self.space.to_input, train.classes, ids=ids, flip=train.flip, space=self.space)

        def ask(_epoch: int, _batch: int, _rows: Tensor, inputs: Tensor) -> Tensor:
            return answer(labeller, [member.network], inputs, self.space)

        chance, options = [Generators(seed, "student")], EngineOptions(task.device)
        trainees = train_students(items, plan, network, chance, options, answers=ask, dataset=train.name)
        made = build(network, train.shape, train.classes)
        made.load_state_dict(trainees.states[0])
        return made.to(task.device).eval()


def _recovery(train: ImageData, squeeze: str, iterations: int) -> Recovery:
    """SRe2L++'s settings, with smaller steps for what ``quick`` trains."""
    side = min(train.shape[1:])
    roll = 32 if side > 64 else max(1, min(4, side // 8))
    lr, bn_weight = (0.1, 0.1) if squeeze == "quick" else (0.25, 0.01)
    return Recovery(iterations, lr, bn_weight, flip=train.flip, roll=(0, roll))


@torch.no_grad()
def _accuracy(
    network: nn.Module, train: ImageData, rows: Tensor, space: Space, device: torch.device
) -> float:
    """Share of the training images at ``rows`` that a network gets right; they are read a batch at a time."""
    labels, right = train.labels.cpu(), 0
    for part in torch.split(rows, _TEST_BATCH):
        guessed = network(space.real_to_input(take(train, part, device))).argmax(1).cpu()
        right += int((guessed == labels[part]).sum())
    return right / len(rows)
