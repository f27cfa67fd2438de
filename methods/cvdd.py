"""CV-DD: images recovered by pairs out of a committee of networks, which vote by their prior performance, and label together.

Every image starts from a real one of medium difficulty.  For each image id two members give a cross-entropy and a loss of
batch-norm statistics each, weighed by a softmax of their priors; all members label, weighed by a softer one.  A committee
of one (``networks``: a single name) is SRe2L++: the same loop with one network and weight 1 (recipe ``sre2l++``).

Source: Cui, Li, Ma, Bi, Luo and Shen, "Dataset Distillation via Committee Voting", arXiv:2501.07575 (version 1), and its code
(Jiacheng8/CV-DD).  Score it under the protocol ``cvdd-bssl``, whose networks label by the statistics of half batches.
Departures: the priors are not test accuracies but, by default, measured on a tenth of each training class that no member
was trained on (so members see nine tenths of the data); recipe ``released`` takes the authors' constants and members trained on
everything, as they did.  On ImageNet-1K the members have public weights, trained on everything, so that ``authors`` takes
the constants there too.  A measured prior is that of a short run: 10 images a class of 100 iterations, and a student of 20
epochs at temperature 4 and rate 5e-3 (the protocol has 300, 20 and 1e-3); it ranks members and is no accuracy to publish.
It varies by seed: 76.4, 72.1 and 70.7 % for one member on digits, and 5.7 points change the odds of two votes threefold at
temperature 5.  The authors' start images were made by an unpublished rule: here they are whole training images
around the median of the first member's probability of the true class (DELT's rule, arXiv:2411.19946).  Mirrors are left
out where a mirrored image changes its class.  Images are kept as bytes, without JPEG unless ``stored`` is ``jpeg75``.  Each
cell of images (one id, one run of classes) draws from a random stream of its own.  MobileNetV2 labels without dropout, which
the code leaves on by omission.
"""

from dataclasses import dataclass

from torch import Tensor

from ddbench.contract import DistilledSet, Task
from ddbench.matching.committee import PRIORS, VOTING, medium_images, softmax_weights, voters, votes
from ddbench.matching.recovery import Recovery, recover
from ddbench.matching.selection import class_pools, random_choice
from ddbench.registry import method
from ddbench.train.priors import PriorRun, check_members, convene, members_of
from ddbench.train.squeeze import squeeze_name
from ddbench.train.squeezed import KEPT, class_sorted, labelled

INITS = ("medium", "real")


@method(family="recovery", paper="arXiv:2501.07575", labels="labeller", matches=False)
@dataclass(frozen=True)
class CVDD:
    networks: tuple[str, ...] = ()
    """The members, with batch norm; (): the five of the squeeze recipe (the authors', or small ConvNets for ``quick``)."""
    squeeze: str = "auto"
    """Named recipe of their training (``ddbench/train/squeeze.py``); ``auto``: ``cvdd`` where it has a row, else ``quick``."""
    held_out: float = 0.1
    """Share of each class that no member is trained on and that measures the priors, in [0, 1)."""
    prior: str = "held-out"
    """Prior performance: ``held-out`` (measured) | ``released`` (the authors' constants) | ``equal``."""
    voting: str = "prior"
    """Votes of the two members of an id: ``prior`` (softmax of their priors) | ``equal`` | ``random``."""
    vote_temperature: float = 5.0
    """Softmax temperature of the votes, with priors in percent."""
    label_temperature: float = 10.0
    """Softmax temperature of the label weights of all members, with priors in percent."""
    pair: tuple[str, ...] = ()
    """The two members that recover the images at ipc 1; (): those of the highest priors."""
    iterations: int = 4000
    """Updates of every image (count)."""
    lr: float = 0.25
    """Adam's first step on standardised pixels (dimensionless); half a cosine to 0."""
    bn_weight: float = 0.01
    """Weight of the batch-norm loss (dimensionless)."""
    classes_at_once: int = 100
    """Classes whose images share batch-norm statistics, one image each (count)."""
    crop: bool = True
    """Whether the networks see random resized crops, one for all images of a cell."""
    flip: bool = True
    """Whether they see mirrored images half of the time; never where the data set forbids it."""
    roll: tuple[int, int] = (0, 32)
    """Least and greatest cyclic shift (pixels)."""
    init: str = "medium"
    """First images: ``medium`` (real, of medium difficulty) | ``real`` (random training images)."""
    prior_ipc: int = 10
    """Images a class that each member recovers alone, to measure its prior (count)."""
    prior_iterations: int = 100
    """Updates of these images (count)."""
    prior_epochs: int = 20
    """Epochs of the student that is trained on them (count)."""
    prior_network: str = ""
    """That student; "": the first member."""
    stored: str = "uint8"
    """How images are kept: ``uint8`` | ``jpeg75`` (after the JPEG round trip of the authors' files)."""

    def __post_init__(self) -> None:
        for name, valid in (("prior", PRIORS), ("voting", VOTING), ("init", INITS), ("stored", KEPT)):
            if getattr(self, name) not in valid:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(valid)}")
        for temperature in (self.vote_temperature, self.label_temperature):
            softmax_weights((0.0,), temperature)
        check_members(self.networks)
        self.recovery(flip=True)
        self.prior_run()

    def prior_run(self) -> PriorRun:
        return PriorRun(self.prior_ipc, self.prior_iterations, self.prior_epochs, self.prior_network)

    def recovery(self, flip: bool) -> Recovery:
        """Settings of the loop; ``flip``: whether a mirrored image keeps its class."""
        return Recovery(
            iterations=self.iterations,
            lr=self.lr,
            bn_weight=self.bn_weight,
            classes_at_once=self.classes_at_once,
            crop=self.crop,
            flip=self.flip and flip,
            roll=self.roll,
        )

    def distill(self, task: Task) -> DistilledSet:
        train, ipc = task.train, task.ipc
        pools = class_pools(train, ipc)
        squeeze = squeeze_name(self.squeeze, "cvdd", train.name)
        names = self.networks or members_of(squeeze, train.shape)
        only = self._only(names)
        committee = convene(task, names, squeeze, self.held_out, self.prior, self.prior_run())

        priors = committee.priors(self.prior, self.prior_run())
        label_weights = softmax_weights(priors, self.label_temperature)
        chosen = voters(ipc, priors, task.rng("voters"), only)
        weights = votes(chosen, priors, task.rng("votes"), self.voting, self.vote_temperature)
        if len(names) > 1:
            told = ", ".join(f"{n} {w:.4f}" for n, w in zip(names, label_weights, strict=True))
            task.note("label_weights", f"label weights: {told}")
            told = " ".join("+".join(map(str, some)) for some in chosen)
            task.note("voters", f"members, counted from 0, that recover the images of each id: {told}")
        if self.init == "medium":
            starts = medium_images(train, committee.certainty, ipc)
        else:
            starts = random_choice(pools, ipc, task.rng("init")).view(-1, ipc)

        def first(id: int, classes: Tensor) -> Tensor:
            return committee.first_inputs(starts, classes, id)

        def finished(images: Tensor) -> DistilledSet:
            return labelled(task, *class_sorted(images), committee.networks, label_weights, self.stored)

        settings = self.recovery(train.flip)
        return finished(
            recover(task, committee.networks, weights, settings, committee.space, first, finished)
        )

    def _only(self, names: tuple[str, ...]) -> tuple[int, int] | None:
        """Places of ``pair`` among the members."""
        if not self.pair or len(names) == 1:
            return None
        if len(self.pair) != 2 or len(set(self.pair)) != 2 or any(name not in names for name in self.pair):
            raise ValueError(
                f"pair is {', '.join(self.pair)}; expected two different ones of {', '.join(names)}"
            )
        return names.index(self.pair[0]), names.index(self.pair[1])


_TABLE = "settings of the released scripts of arXiv:2501.07575; priors measured on held-out training images"
_RELEASED = "settings and priors of the released scripts of arXiv:2501.07575"
_PLUS = "settings of the released scripts of arXiv:2501.07575, one network"
_C10 = dict(classes_at_once=10, roll=(0, 4))
_C10_PAIR = dict(pair=("MobileNetV2", "DenseNet121"))
_C100 = dict(classes_at_once=100, roll=(0, 4))
_C100_PAIR = dict(pair=("ShuffleNetV2", "MobileNetV2"))
_TINY = dict(classes_at_once=100, roll=(0, 4))
_NETTE = dict(classes_at_once=10)
_NETTE_PAIR = dict(pair=("torchvision:mobilenet_v2", "torchvision:densenet121"))
_IN1K = dict(classes_at_once=100)
_CONSTANTS = dict(prior="released", held_out=0.0)
_ONE = dict(held_out=0.0, prior="equal")
_DIGITS = dict(
    squeeze="quick",
    iterations=100,
    lr=0.1,
    bn_weight=0.02,
    classes_at_once=10,
    crop=False,
    roll=(-1, 1),
)
_CPU = dict(
    squeeze="quick",
    iterations=300,
    lr=0.1,
    bn_weight=0.05,
    classes_at_once=10,
    roll=(0, 4),
)
RECIPES = {
    ("authors", "cifar10", 1): dict(**_C10, **_C10_PAIR, source=_TABLE),
    ("authors", "cifar10", 10): dict(**_C10, source=_TABLE),
    ("authors", "cifar10", 50): dict(**_C10, source=_TABLE),
    ("authors", "cifar100", 1): dict(**_C100, **_C100_PAIR, source=_TABLE),
    ("authors", "cifar100", 10): dict(**_C100, source=_TABLE),
    ("authors", "cifar100", 50): dict(**_C100, source=_TABLE),
    ("authors", "tiny_imagenet", 1): dict(**_TINY, source=_TABLE),
    ("authors", "tiny_imagenet", 10): dict(**_TINY, source=_TABLE),
    ("authors", "tiny_imagenet", 50): dict(**_TINY, source=_TABLE),
    ("authors", "imagenette", 1): dict(**_NETTE, **_NETTE_PAIR, source=_TABLE),
    ("authors", "imagenette", 10): dict(**_NETTE, source=_TABLE),
    ("authors", "imagenette", 50): dict(**_NETTE, source=_TABLE),
    ("authors", "imagenet1k", 1): dict(**_IN1K, **_CONSTANTS, source=_RELEASED),
    ("authors", "imagenet1k", 10): dict(**_IN1K, **_CONSTANTS, source=_RELEASED),
    ("authors", "imagenet1k", 50): dict(**_IN1K, **_CONSTANTS, source=_RELEASED),
    ("released", "cifar10", 1): dict(**_C10, **_C10_PAIR, **_CONSTANTS, source=_RELEASED),
    ("released", "cifar10", None): dict(**_C10, **_CONSTANTS, source=_RELEASED),
    ("released", "cifar100", 1): dict(**_C100, **_C100_PAIR, **_CONSTANTS, source=_RELEASED),
    ("released", "cifar100", None): dict(**_C100, **_CONSTANTS, source=_RELEASED),
    ("released", "tiny_imagenet", None): dict(**_TINY, **_CONSTANTS, source=_RELEASED),
    ("released", "imagenette", 1): dict(**_NETTE, **_NETTE_PAIR, **_CONSTANTS, source=_RELEASED),
    ("released", "imagenette", None): dict(**_NETTE, **_CONSTANTS, source=_RELEASED),
    ("released", "imagenet1k", None): dict(**_IN1K, **_CONSTANTS, source=_RELEASED),
    ("sre2l++", "cifar10", None): dict(networks=("ResNet18BN",), **_C10, **_ONE, source=_PLUS),
    ("sre2l++", "cifar100", None): dict(networks=("ResNet18BN",), **_C100, **_ONE, source=_PLUS),
    ("sre2l++", "tiny_imagenet", None): dict(networks=("ResNet18BN",), **_TINY, **_ONE, source=_PLUS),
    ("sre2l++", "imagenette", None): dict(networks=("torchvision:resnet18",), **_NETTE, **_ONE, source=_PLUS),
    ("sre2l++", "imagenet1k", None): dict(networks=("torchvision:resnet18",), **_IN1K, **_ONE, source=_PLUS),
    ("digits", "digits", None): dict(**_DIGITS, source="ours, for 8x8 images"),
    ("cpu", "mnist", None): dict(**_CPU, crop=False, source="ours, minutes on two CPU cores"),
    ("cpu", "cifar10", None): dict(**_CPU, source="ours, minutes on two CPU cores"),
}
