"""The rows that protocols are made of: how students are trained, and which views of the items they see.  No torch.

A protocol is mostly one :class:`TrainPlan`.  It is plain data, so that listing, planning and boards need no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

OPTIMISERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "steps", "cosine")
LOSSES = ("ce", "kl", "mse", "mse-gt")
AUGMENTS = ("none", "dsa", "dsa-flip", "dc", "diffaug:NAMES", "crop-flip", "resized-flip")
MIXES = ("none", "cutmix")
LABEL_MODES = ("eval", "train", "train-halves")


def cosine_lr(
    lr: float, epoch: int, epochs: int, eta: float = 1, warmup: int = 0, start: float = 0.01
) -> float:
    """The rate of a 0-based epoch: linear over ``warmup`` epochs from ``start * lr``, then half a cosine to 0 over
    ``(epochs - warmup) * eta`` epochs."""
    from math import cos, pi

    if epoch < warmup:
        return lr * (start + (1 - start) * epoch / warmup)
    return lr * 0.5 * (1 + cos(pi * (epoch - warmup) / ((epochs - warmup) * eta)))


def stepped_lr(lr: float, gamma: float, milestones: Iterable[int], epoch: int) -> float:
    """The rate of a 0-based epoch, multiplied by ``gamma`` at each of ``milestones`` finished epochs."""
    return lr * gamma ** sum(epoch >= m for m in milestones)


def check_augment(name: str, known: Sequence[str] = AUGMENTS) -> None:
    """Raises:
    ValueError: no name of an augmentation that is ``known`` (``ddbench/augment/named.py`` says what they are)."""
    placeholder = "diffaug:NAMES"
    named = name.startswith("diffaug:") and name != placeholder
    if name == placeholder or (name not in known and not named):
        raise ValueError(f"augment is {name!r}; expected one of {', '.join(known)}")


@dataclass(frozen=True)
class ViewPlan:
    """Which augmented views of the items exist, reproducible from ``seed`` alone: order, crop, flip and mix of every epoch.

    A stored label is a labeller's answer to one view of one ViewPlan; under another plan it means nothing, hence
    a different plan is an error, never a re-draw.  Source: specs of the KD protocols (SRe2L, FKD).
    """

    epochs: int
    """Epochs for which views exist (count)."""
    batch: int
    """Items a batch; the last short batch of an epoch is kept."""
    seed: int = 42
    """Drives order, crops, flips and mixes; every (epoch, item) and (epoch, batch) has a generator of its own."""
    order: str = "shuffled"
    """``shuffled`` | ``sequential``."""
    crop: str = "none"
    """``none`` | ``pad`` (zero pad ``crop_pad``, crop back) | ``resized`` (random resized crop, area ``crop_scale``)."""
    crop_pad: int = 4
    """Pixels of padding on every side for ``pad``."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area fractions between which a ``resized`` crop is drawn."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Aspect ratios between which a ``resized`` crop is drawn (log-uniform)."""
    flip: float = 0.0
    """Probability of a horizontal mirror."""
    mix: str = "none"
    """``none`` | ``mixup`` | ``cutmix``; one law, one permutation, one draw a batch."""
    mix_alpha: float = 1.0
    """Parameter of the Beta(alpha, alpha) law of the mixing weight."""
    boxes: str | None = None
    """Name of the stored tensors with explicit boxes (label files of FKD); None: drawn from ``seed``."""


@dataclass(frozen=True)
class LabelPlan:
    """How a protocol has every view of the items labelled by networks (specs of the KD protocols).

    The networks, their weights and the space of their inputs are those of the set's labeller; a set without one (a coreset,
    a set with hard labels) is labelled by the protocol's own teachers, ``networks`` squeezed by the recipe ``squeeze``.
    """

    store: bool = False
    """Every view is answered once, before training, into shards of fp16 logits whose bytes count as labels, and all students
    see the same views; else the networks answer while each student trains, on views of its own, and stand beside the set."""
    batch_norm: str = "eval"
    """``eval`` | ``train`` (statistics of the whole batch) | ``train-halves`` (of its halves)."""
    sees: str = "augmented"
    """``augmented``: the very batch that the student sees | ``clean``: the item, once; mixed views mix the answers."""
    combine: str = "mean"
    """Of several networks: ``mean`` | ``norm-mean``, as in ``contract.Labeller``."""
    always: bool = False
    """Label by the protocol's own teachers even where the set brings a labeller."""
    networks: tuple[str, ...] = ("ResNet18BN",)
    """The protocol's own teachers, equally weighted."""
    squeeze: str = "sre2l"
    """Named recipe of their training (``ddbench/train/squeeze.py``)."""

    def __post_init__(self) -> None:
        for field, value, valid in (
            ("batch_norm", self.batch_norm, LABEL_MODES),
            ("sees", self.sees, ("augmented", "clean")),
            ("combine", self.combine, ("mean", "norm-mean")),
        ):
            if value not in valid:
                raise ValueError(f"LabelPlan.{field} is {value!r}; expected one of {', '.join(valid)}")


@dataclass(frozen=True)
class TrainPlan:
    """How one student is trained on a distilled set and when it is tested.

    ``milestones`` counts finished epochs: with ``(502,)`` epochs 0..501 run at ``lr`` and epoch 502 starts at ``lr * gamma``.
    """

    epochs: int
    """Epochs in all (the classic protocol's "1000 epochs" are 1,001)."""
    batch: int = 256
    """Items a step; the last short batch of an epoch is kept unless ``drop_last``."""
    optimiser: str = "sgd"
    """``sgd`` | ``adam`` | ``adamw``."""
    lr: float = 0.01
    """Peak learning rate (dimensionless)."""
    learned_rate: bool = False
    """Start at the step size that the set learned, where it has one, instead of ``lr``; the schedule holds as it is."""
    momentum: float = 0.9
    """SGD momentum; unused by adam and adamw."""
    nesterov: bool = False
    """Nesterov form of SGD momentum."""
    weight_decay: float = 5e-4
    """Weight decay: added to the gradient for sgd and adam, decoupled for adamw."""
    decay_on: str = "all"
    """``all`` parameters, or ``matrices`` (more than one dimension and a name with "weight")."""
    schedule: str = "constant"
    """``constant`` | ``steps`` (milestones, gamma) | ``cosine`` (0.5 * (1 + cos(pi e / (epochs * eta))), per epoch)."""
    milestones: tuple[int, ...] = ()
    """Counts of finished epochs after which the learning rate is multiplied by ``gamma``."""
    gamma: float = 0.1
    """Factor at each milestone."""
    reset_optimiser: bool = False
    """Make a new optimiser (momentum dropped) at each milestone, as the classic protocol does."""
    eta: float = 1.0
    """Stretch of the cosine: 2 ends near half of the peak."""
    warmup: int = 0
    """First epochs of a cosine, in which the rate grows linearly from a hundredth of ``lr``."""
    augment: str = "none"
    """``none`` | ``dsa`` (classic one-of lottery; flip left out where the data set forbids it) | ``dsa-flip`` (FYI's: a flip
    always, then one of the rest) | ``dc`` (before DSA) | ``diffaug:NAMES`` (IDC's and NCFM's form, per-image parameters) |
    ``crop-flip`` (black pad 4, crop, mirror) | ``resized-flip`` (random resized crop of (0.08, 1) of the area, mirror)."""
    mix: str = "none"
    """``none`` | ``cutmix``: after the augmentation, with ``mix_probability`` a batch, labels mixed alike; loss ``ce`` only."""
    mix_probability: float = 0.5
    """Probability that a batch is mixed."""
    mix_alpha: float = 1.0
    """Parameter of the Beta(alpha, alpha) law of the share that is kept."""
    test_every: int = 0
    """Epochs between tests, the last epoch tested too; their best value is a score of its own (``best-epoch``, chosen on
    the test set). 0: tested after the last epoch only."""
    test_first: int = 0
    """Finished epochs before the first of these tests; 0: as many as lie between them."""
    views: ViewPlan | None = None
    """View plan that makes the batches instead of shuffling.  Every student has views of its own (its seed is then derived
    from the student's), unless answers are stored for them."""
    labels: LabelPlan | None = None
    """How networks label every view; None: the set's own targets.  With ``views`` only."""
    hard: bool = False
    """Train towards the label ids, whatever soft labels or labeller the set has; loss ``ce`` only."""
    micro_batches: int = 1
    """Parts of a batch that go through the student one after the other, ceil(B / parts) items each, before one optimiser step;
    each part's mean loss is divided by this count, also where a short batch has fewer parts."""
    test_resize: bool = False
    """Test images are first enlarged to (side // 7) * 8 and then cut to their centre (RDED; ImageNet's 256 and 224)."""
    loss: str = "ce"
    """``ce`` | ``kl`` (temperature) | ``mse`` | ``mse-gt``."""
    temperature: float = 1.0
    """Softmax temperature of teacher and student in ``kl``."""
    temperature_squared: bool = False
    """Whether ``kl`` is multiplied by temperature squared."""
    hard_weight: float = 0.0
    """Weight of the hard-label cross-entropy in ``mse-gt``."""
    drop_last: bool = False
    """Drop the last short batch of an epoch."""
    max_steps: int | None = None
    """Cap on optimiser steps in all; with it ``epochs`` is only an upper bound (used for full data)."""
    networks: tuple[str, ...] = ("ConvNet",)
    """Registered names of the default students."""
    repeats: int = 5
    """Fresh students a distilled set and network (count)."""
    metric: str = "top1"
    """Metric on the untouched test set; a fraction in [0, 1]."""

    def __post_init__(self) -> None:
        for field, value, valid in (
            ("optimiser", self.optimiser, OPTIMISERS),
            ("schedule", self.schedule, SCHEDULES),
            ("loss", self.loss, LOSSES),
            ("mix", self.mix, MIXES),
            ("decay_on", self.decay_on, ("all", "matrices")),
        ):
            if value not in valid:
                raise ValueError(f"TrainPlan.{field} is {value!r}; expected one of {', '.join(valid)}")
        for field, count in (("epochs", self.epochs), ("batch", self.batch), ("repeats", self.repeats)):
            if count < 1:
                raise ValueError(f"TrainPlan.{field} is {count}; expected at least 1")
        if self.test_every < 0:
            raise ValueError(f"TrainPlan.test_every is {self.test_every}; expected 0 or a number of epochs")
        if self.test_first < 0 or (self.test_first and not self.test_every):
            raise ValueError(
                f"TrainPlan.test_first is {self.test_first} with test_every {self.test_every}; expected a number of "
                f"epochs, and tests"
            )
        if self.mix != "none" and (self.loss != "ce" or self.views is not None):
            given = f"loss {self.loss!r}" if self.loss != "ce" else "a view plan, which has a mix of its own"
            raise ValueError(f"TrainPlan.mix is {self.mix!r} with {given}; expected loss 'ce' without views")
        if self.mix != "none" and not 0 < self.mix_probability <= 1:
            raise ValueError(
                f"TrainPlan.mix_probability is {self.mix_probability}; expected above 0, at most 1"
            )
        check_augment(self.augment)
        self._check_labels()

    def _check_labels(self) -> None:
        if self.labels is not None and self.views is None:
            raise ValueError(
                "TrainPlan.labels says how views are labelled, but there are none; expected views=ViewPlan(...)"
            )
        if self.labels is not None and self.loss == "ce":
            raise ValueError("TrainPlan.labels gives logits, but loss is 'ce'; expected kl, mse or mse-gt")
        if self.hard and (self.loss != "ce" or self.labels is not None):
            given = f"loss {self.loss!r}" if self.loss != "ce" else "networks that label"
            raise ValueError(
                f"TrainPlan.hard trains towards label ids, but has {given}; expected loss 'ce' alone"
            )
        if not 1 <= self.micro_batches <= self.batch:
            raise ValueError(
                f"TrainPlan.micro_batches is {self.micro_batches} for batches of {self.batch}; expected 1 to {self.batch}"
            )
        if self.warmup and (self.schedule != "cosine" or not 0 < self.warmup < self.epochs):
            raise ValueError(
                f"TrainPlan.warmup is {self.warmup} with schedule {self.schedule!r} over {self.epochs} epochs; expected a "
                f"cosine and fewer epochs than in all"
            )
        if self.temperature <= 0:
            raise ValueError(f"TrainPlan.temperature is {self.temperature}; expected above 0")

    @property
    def own_views(self) -> bool:
        """Whether every student has views of its own: wherever nothing is stored for them."""
        if self.views is None:
            return False
        return self.hard if self.labels is None else not self.labels.store or self.labels.sees == "clean"

    @property
    def part(self) -> int:
        """Items of a full batch that go through the student at once."""
        return -(-(self.batch if self.views is None else self.views.batch) // self.micro_batches)

    def lr_at(self, epoch: int) -> float:
        """Learning rate of the given epoch (0-based), dimensionless."""
        if self.schedule == "steps":
            return stepped_lr(self.lr, self.gamma, self.milestones, epoch)
        if self.schedule == "cosine":
            return cosine_lr(self.lr, epoch, self.epochs, self.eta, self.warmup)
        return self.lr

    def tested_after(self, epoch: int) -> bool:
        """Whether there is a test after this epoch (0-based) besides the one at the end."""
        done, first = epoch + 1, self.test_first or self.test_every
        return self.test_every > 0 and first <= done < self.epochs and (done - first) % self.test_every == 0

    def changed(self, **fields: Any) -> TrainPlan:
        """A copy with some fields replaced."""
        return replace(self, **fields)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
