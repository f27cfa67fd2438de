"""MTT: images that take a student network, in a few steps of a learned size, to where experts went on the real data.

Source: Cazenavette, Wang, Torralba, Efros and Zhu, "Dataset Distillation by Matching Training Trajectories", CVPR 2022,
arXiv:2203.11932, and its code (GeorgeCazenavette/mtt-distillation).
The published accuracies are the best of 51 evaluations on the test set during the run; here the set after the last iteration is
stored, and the best of its snapshots is a score of its own.  Score it under the protocol ``mtt``, at its learned step size.
Departures: the gradient comes from the exact adjoint, equal to that of the full unroll up to rounding, in memory that does
not grow with ``syn_steps``; the step size must stay positive; experts are taken in passes over all of them.  The settings of
cifar10 at ipc 10 are those that the authors gave after correcting a misprint.  ImageNet subsets: the authors
squash pictures to 128 x 128, which is ``imagenette?resize=squash`` here (before standardising and with antialias; theirs after
it and without); settings are known for ipc 1 only.  Toroidal canvases are not here.
"""

from __future__ import annotations

from dataclasses import dataclass

from ddbench.contract import DistilledSet, Task, TeacherRecipe
from ddbench.matching.sampling import class_labels, initial_images
from ddbench.matching.trajectory_matching import (
    check_settings,
    expert_recipe,
    experts_for,
    match_trajectories,
)
from ddbench.registry import method


@method(family="trajectory matching", paper="arXiv:2203.11932", labels="hard")
@dataclass(frozen=True)
class MTT:
    network: str = "ConvNet"
    """Network of the experts and of the student; one without running statistics."""
    iterations: int = 5001
    """Updates of the images (count); the authors' 5,000 include iteration 0."""
    syn_steps: int = 30
    """Student steps on synthetic images an iteration (count)."""
    expert_epochs: int = 2
    """Epochs between the expert's states at which the student starts and should arrive (count)."""
    max_start_epoch: int = 20
    """The student starts at an epoch below this one (count)."""
    batch_syn: int = 0
    """Images a student step, a wrapper's included (count); 0: all."""
    image_lr: float = 100.0
    """SGD step on network inputs (dimensionless); large, as the loss is a ratio."""
    momentum: float = 0.5
    """SGD momentum of images and step size, in [0, 1)."""
    step_size: float = 0.01
    """First value of the student's learned step size (dimensionless)."""
    step_size_lr: float = 1e-5
    """SGD step on the step size (dimensionless)."""
    init: str = "real"
    """First synthetic images: ``real`` (random training images) | ``noise`` (N(0, 1))."""
    augment: str = "dsa"
    """Of the experts' batches and the student's: ``dsa`` | ``dsa-flip`` | ``none`` | ``diffaug:NAMES``; an image its own."""
    gradient: str = "adjoint"
    """``adjoint`` (exact) | ``unroll`` (the same, all steps in memory; no ``--memory-limit``) | ``tesla`` (approximate)."""
    zca: bool = False
    """Whiten by a ZCA with eps 0.1 on the [0, 1] scale, fitted on the training images."""
    experts: int = 100
    """Expert networks (count)."""
    train_epochs: int = 50
    """Epochs of an expert (count)."""
    train_batch: int = 256
    """Real images an expert's step (count)."""
    train_lr: float = 0.01
    """SGD step of the experts (dimensionless)."""
    train_per_class: int = 0
    """Real images a class that the experts see (count); 0: all."""
    storage: str = "fp32"
    """How the experts' states are kept: ``fp32`` | ``fp16``."""
    mean: tuple[float, ...] | None = None
    """Mean a channel of the standardisation, [0, 1] scale; None: the data set's own (unused with ``zca``)."""
    std: tuple[float, ...] | None = None
    """Deviation a channel, likewise."""

    def expert_recipe(self) -> TeacherRecipe:
        return expert_recipe(self)

    def check(self, task: Task) -> None:
        check_settings(task, self)

    def distill(self, task: Task) -> DistilledSet:
        experts = experts_for(task, self)
        images = initial_images(task, self.init, experts.space).flatten(0, 1)
        return match_trajectories(task, experts, self, images, class_labels(task).flatten())


_GIVEN = "the authors' commands as listed by DC-BENCH (arXiv:2207.09639)"
_C10_STATISTICS = dict(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
"""The code standardises cifar100 by the numbers of cifar10."""
_SUBSET = dict(
    network="ConvNetD5",
    syn_steps=20,
    max_start_epoch=10,
    image_lr=1000.0,
    step_size_lr=1e-6,
    source="the authors' readme",
)
_TINY = dict(network="ConvNetD4", image_lr=10000.0, step_size_lr=1e-4, source=_GIVEN)
_DIGITS = dict(
    network="ConvNetD2W32",
    step_size=0.05,
    experts=10,
    train_epochs=15,
    train_batch=64,
    train_lr=0.05,
    source="ours, for 8x8 images",
)
_CPU = dict(
    network="ConvNetW32",
    iterations=200,
    syn_steps=20,
    max_start_epoch=2,
    image_lr=300.0,
    step_size=0.03,
    step_size_lr=1e-6,
    experts=6,
    train_epochs=4,
    train_batch=64,
    train_lr=0.03,
    train_per_class=500,
    source="ours, minutes on two CPU cores",
)
RECIPES = {
    ("authors", "cifar10", 1): dict(
        syn_steps=50, max_start_epoch=2, step_size_lr=1e-7, zca=True, source=_GIVEN
    ),
    ("authors", "cifar10", 10): dict(
        syn_steps=30, max_start_epoch=20, step_size=0.001, zca=True, source=_GIVEN
    ),
    ("authors", "cifar10", 50): dict(
        syn_steps=30, max_start_epoch=40, image_lr=1000.0, step_size=0.001, source=_GIVEN
    ),
    ("authors", "cifar100", 1): dict(
        syn_steps=20,
        expert_epochs=3,
        max_start_epoch=20,
        image_lr=1000.0,
        zca=True,
        source="the authors' readme",
    ),
    ("authors", "cifar100", 10): dict(
        syn_steps=20, max_start_epoch=20, image_lr=1000.0, source=_GIVEN, **_C10_STATISTICS
    ),
    ("authors", "cifar100", 50): dict(
        syn_steps=80, max_start_epoch=40, image_lr=1000.0, batch_syn=125, zca=True, source=_GIVEN
    ),
    ("authors", "tiny_imagenet", 1): dict(syn_steps=10, max_start_epoch=10, **_TINY),
    ("authors", "tiny_imagenet", 10): dict(syn_steps=20, max_start_epoch=40, batch_syn=200, **_TINY),
    ("authors", "tiny_imagenet", 50): dict(syn_steps=20, max_start_epoch=40, batch_syn=300, **_TINY),
    ("authors", "imagenette", 1): _SUBSET,
    ("authors", "imagewoof", 1): _SUBSET,
    ("authors", "imagefruit", 1): _SUBSET,
    ("authors", "imageyellow", 1): _SUBSET,
    ("authors", "imagemeow", 1): _SUBSET,
    ("authors", "imagesquawk", 1): _SUBSET,
    ("fyi", "cifar10", 1): dict(
        iterations=10001,
        syn_steps=50,
        max_start_epoch=2,
        step_size_lr=1e-7,
        gradient="tesla",
        zca=True,
        source="released code of FYI, arXiv:2407.08113",
    ),
    ("digits", "digits", 1): dict(iterations=100, syn_steps=10, max_start_epoch=5, image_lr=30.0, **_DIGITS),
    ("digits", "digits", None): dict(
        iterations=50, syn_steps=10, max_start_epoch=13, image_lr=100.0, **_DIGITS
    ),
    ("cpu", "mnist", None): _CPU,
    ("cpu", "cifar10", None): _CPU,
}
