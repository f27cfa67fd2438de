"""The frozen types that cross borders: real data, distilled sets and what belongs to them, and the task that a method sees.

Nothing here trains, reads or writes; ``codecs.py`` decodes, ``sets.py`` reads and writes, ``task.py`` implements :class:`Task`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from ddbench.seeding import Generators
from ddbench.trainplan import LABEL_MODES, ViewPlan

STORED_FORMS = ("input", "unit", "uint8")
SOFT_KINDS = ("none", "probabilities", "logits", "values")


class NotApplicable(ValueError):
    """A method is not defined for the task (this data set, this ipc): the message says why, and where it is.

    Raised in ``distill`` before anything is trained.  A run records such a cell as skipped, not as failed.
    """


def tensor_hash(*tensors: Tensor) -> str:
    """Hex sha256 over dtypes, shapes and bytes of the given tensors, 16 hex digits."""
    digest = hashlib.sha256()
    for t in tensors:
        t = t.detach().cpu().contiguous()
        digest.update(f"{t.dtype}{tuple(t.shape)}".encode())
        flat = t.reshape(-1).view(torch.uint8) if t.numel() else t.reshape(-1)
        for start in range(
            0, flat.numel(), 1 << 26
        ):  # 64 MiB at a time: a memory-mapped set is never read whole
            digest.update(flat[start : start + (1 << 26)].numpy().tobytes())
    return digest.hexdigest()[:16]


def canonical(value: Any) -> str:
    """JSON text that is equal for equal settings: keys sorted, tuples as lists, numpy and one-element tensors as numbers.

    Raises:
        TypeError: a value that JSON cannot hold.
    """

    def plain(x: Any) -> Any:
        if hasattr(x, "item") and callable(x.item):
            return x.item()
        if isinstance(x, Mapping):
            return dict(x)
        raise TypeError(
            f"{x!r} ({type(x).__name__}) cannot be stored as JSON; use numbers, texts, lists and mappings"
        )

    return json.dumps(value, sort_keys=True, default=plain, ensure_ascii=False)


def _check_finite(what: str, t: Tensor | None) -> None:
    if t is not None and t.is_floating_point() and not bool(torch.isfinite(t).all()):
        bad = int((~torch.isfinite(t)).sum())
        raise ValueError(
            f"{what}: {bad} of {t.numel()} values are not finite (NaN or infinity); expected finite numbers"
        )


# ------------------------------------------------------------------------------------------------ real data


@dataclass(frozen=True, eq=False)
class ImageData:
    """One split of a real labelled image set, as uint8; in memory, on a device, or memory-mapped from disk.

    Fields: ``images`` uint8 (N, C, H, W); ``labels`` int64 (N,) in 0..classes-1; ``mean`` and ``std`` per channel on the
    [0, 1] scale; ``flip`` says whether a mirrored image keeps its class (digits do not).
    """

    name: str
    split: str
    images: Tensor
    labels: Tensor
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()
    flip: bool = True
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise ValueError(
                f"{self.name}/{self.split}: images are {self.images.dtype} {tuple(self.images.shape)}; "
                f"expected uint8 (N, C, H, W)"
            )
        if self.labels.dtype != torch.int64 or tuple(self.labels.shape) != (len(self.images),):
            raise ValueError(
                f"{self.name}/{self.split}: labels are {self.labels.dtype} {tuple(self.labels.shape)}; "
                f"expected int64 ({len(self.images)},)"
            )
        if len(self.labels) and not (0 <= int(self.labels.min()) and int(self.labels.max()) < self.classes):
            raise ValueError(
                f"{self.name}/{self.split}: labels run from {int(self.labels.min())} to {int(self.labels.max())} "
                f"but there are {self.classes} classes; expected 0 to {self.classes - 1}"
            )
        if not len(self.mean) == len(self.std) == self.images.shape[1]:
            raise ValueError(
                f"{self.name}/{self.split}: {len(self.mean)} means and {len(self.std)} deviations for "
                f"{self.images.shape[1]} channels; expected one of each a channel"
            )
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", tensor_hash(self.images, self.labels))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        c, h, w = self.images.shape[1:]
        return int(c), int(h), int(w)

    @property
    def space(self) -> Space:
        """The standardised space of this data set: stored values are network inputs."""
        return Space("input", self.mean, self.std)

    def of_class(self, c: int) -> Tensor:
        """Indices of the images of class ``c``, ascending, int64, on the CPU."""
        return (self.labels.cpu() == c).nonzero().squeeze(1)

    def subset(self, indices: Tensor, split: str | None = None) -> ImageData:
        """The images at ``indices`` (copied), with a fingerprint of their own."""
        return replace(
            self,
            images=self.images[indices.to(self.images.device)],
            labels=self.labels[indices.to(self.labels.device)],
            split=split or self.split,
            fingerprint="",
        )

    def to(self, device: torch.device | str) -> ImageData:
        """The same data on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, eq=False)
class RealData:
    """The two untouched splits of a data set."""

    train: ImageData
    test: ImageData

    def __post_init__(self) -> None:
        if self.train.classes != self.test.classes or self.train.shape != self.test.shape:
            raise ValueError(
                f"{self.name}: train has {self.train.classes} classes of {self.train.shape}, test has "
                f"{self.test.classes} of {self.test.shape}; both splits must agree"
            )

    @property
    def name(self) -> str:
        return self.train.name

    @property
    def fingerprint(self) -> str:
        """Of both splits together."""
        return hashlib.sha256(f"{self.train.fingerprint}{self.test.fingerprint}".encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------ spaces


@dataclass(frozen=True, eq=False)
class ZCA:
    """A whitening map x -> (x - mean) @ transform on flattened images of D = C*H*W values.

    ``mean`` (D,), ``transform`` (D, D), float32; ``eps`` regularised the fit; ``fitted_on`` is the fingerprint of the data.
    """

    mean: Tensor
    transform: Tensor
    eps: float
    fitted_on: str

    def __post_init__(self) -> None:
        d = self.mean.numel()
        if tuple(self.mean.shape) != (d,) or tuple(self.transform.shape) != (d, d):
            raise ValueError(
                f"ZCA has mean {tuple(self.mean.shape)} and transform {tuple(self.transform.shape)}; "
                f"expected (D,) and (D, D)"
            )

    @cached_property
    def hash(self) -> str:
        """Of mean and transform."""
        return tensor_hash(self.mean, self.transform)

    @cached_property
    def _back(self) -> Tensor:
        back: Tensor = torch.linalg.pinv(self.transform.double())  # 3,072 x 3,072 takes seconds: once
        return back

    @cached_property
    def _moved(self) -> dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]]:
        return {}  # 604 MB at 64x64: moved to a device once, not with every batch

    def __call__(self, x: Tensor) -> Tensor:
        """Whiten x (N, C, H, W)."""
        where = x.device, x.dtype
        if where not in self._moved:
            self._moved[where] = self.mean.to(x), self.transform.to(x)
        mean, transform = self._moved[where]
        return ((x.flatten(1) - mean) @ transform).view_as(x)

    def inverse(self, x: Tensor) -> Tensor:
        """Undo the whitening (pseudo-inverse): for pictures, and for networks that want another space."""
        return (x.flatten(1) @ self._back.to(x) + self.mean.to(x)).view_as(x)


@dataclass(frozen=True, eq=False)
class Space:
    """The two maps of a distilled set: stored value -> network input, and real uint8 image -> network input.

    ``stored`` says what the stored numbers are: ``input`` (already network inputs: standardised, whitened if ``zca``),
    ``unit`` (pixels on the [0, 1] scale, overshoot allowed) or ``uint8``.  ``mean``/``std`` are per channel on the
    [0, 1] scale; ``real_mean``/``real_std`` differ from them only where an author's code does.
    """

    stored: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    zca: ZCA | None = None
    real_mean: tuple[float, ...] | None = None
    real_std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.stored not in STORED_FORMS:
            raise ValueError(f"space stores {self.stored!r}; expected one of {', '.join(STORED_FORMS)}")
        if len(self.mean) != len(self.std) or any(s <= 0 for s in self.std):
            raise ValueError(
                f"space has mean {self.mean} and std {self.std}; expected one positive std for each mean"
            )

    def _standardise(self, unit: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
        shape = (1, len(mean), 1, 1)
        x = (unit - unit.new_tensor(list(mean)).view(shape)) / unit.new_tensor(list(std)).view(shape)
        return x if self.zca is None else self.zca(x)

    def to_input(self, stored: Tensor) -> Tensor:
        """Stored values (n, C, H, W) -> network inputs, float; differentiable for ``input`` and ``unit``."""
        if self.stored == "input":
            return stored if stored.is_floating_point() and stored.dtype != torch.float16 else stored.float()
        unit = stored.float() / 255 if self.stored == "uint8" else stored
        if unit.dtype == torch.float16:
            unit = unit.float()
        return self._standardise(unit, self.mean, self.std)

    def real_to_input(self, images: Tensor) -> Tensor:
        """Real uint8 images (n, C, H, W) -> network inputs, float32."""
        unit = images.to(torch.float32) / 255
        return self._standardise(unit, self.real_mean or self.mean, self.real_std or self.std)

    def input_to_unit(self, x: Tensor) -> Tensor:
        """Network inputs -> the [0, 1] scale, unclamped: the inverse of what ``unit`` values go through."""
        if self.zca is not None:
            x = self.zca.inverse(x)
        shape = (1, len(self.mean), 1, 1)
        return x * x.new_tensor(list(self.std)).view(shape) + x.new_tensor(list(self.mean)).view(shape)

    def unit_to_input(self, unit: Tensor) -> Tensor:
        """Pixels on the [0, 1] scale, float (n, C, H, W) -> network inputs; differentiable."""
        return self._standardise(unit, self.mean, self.std)

    def to_unit(self, stored: Tensor) -> Tensor:
        """Stored values -> pixels on the [0, 1] scale, for pictures; clamped."""
        if self.stored == "uint8":
            return stored.float() / 255
        x = stored.float()
        return (self.input_to_unit(x) if self.stored == "input" else x).clamp(0, 1)

    def describe(self) -> dict[str, Any]:
        """Plain data: what this space is, the whitening by its hash."""
        zca = None
        if self.zca is not None:
            zca = {"hash": self.zca.hash, "eps": self.zca.eps, "fitted_on": self.zca.fitted_on}
        return {
            "stored": self.stored,
            "mean": list(self.mean),
            "std": list(self.std),
            "zca": zca,
            "real_mean": None if self.real_mean is None else list(self.real_mean),
            "real_std": None if self.real_std is None else list(self.real_std),
        }

    def same_inputs(self, other: Space) -> bool:
        """Whether network inputs mean the same in both spaces."""
        hashes = [None if s.zca is None else s.zca.hash for s in (self, other)]
        return (tuple(self.mean), tuple(self.std)) == (tuple(other.mean), tuple(other.std)) and hashes[
            0
        ] == hashes[1]


# ------------------------------------------------------------------------------------------------ distilled sets


@dataclass(frozen=True)
class CodecSpec:
    """Which registered codec (``codecs.py``) turns the stored tensors into training items, and its settings (JSON)."""

    name: str = "identity"
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkRef:
    """A network that answers for labels: its architecture and where its weights are.

    ``source``: ``inline`` (``key`` is a prefix of tensors in the set; their bytes count as labels), ``cache`` (``key`` is a
    fingerprint in the teacher cache) or ``public`` (``key`` is an id such as ``torchvision:resnet18/IMAGENET1K_V1``).
    ``low_rank`` is the prefix of inline low-rank parts (``<prefix><parameter>.A`` and ``.B``; weight += A @ B), counted too.
    ``weight``: of its logits in the labeller's mean (CV-DD's committee; only ratios count).  ``size``: side to which its
    inputs are resized bilinearly, None: as they come (HeLlO's encoder).  ``outputs``: the logits of a public network that
    are the classes, in their order (RDED's heads sliced to an ImageNet subset), None: all.
    """

    architecture: str
    source: str
    key: str
    low_rank: str | None = None
    weight: float = 1.0
    size: int | None = None
    outputs: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.source not in ("inline", "cache", "public"):
            raise ValueError(f"network source is {self.source!r}; expected inline, cache or public")
        if not self.key or self.low_rank == "":
            raise ValueError(f"a network of {self.architecture} has an empty key or prefix; expected a name")
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"network weight is {self.weight}; expected a positive number")
        if self.outputs is not None and self.source != "public":
            raise ValueError(
                f"outputs are chosen from a {self.source} network; expected that of public networks only"
            )


@dataclass(frozen=True, eq=False)
class Labeller:
    """Networks that label views of the items: weighted mean of their logits.

    ``batch_norm``: ``eval`` (running statistics), ``train`` (statistics of the batch) or ``train-halves`` (of the first
    floor(B/2) images and of the rest, apart); dropout stays off.  ``sees``: the ``augmented`` batch or the ``clean`` item.
    A protocol that labels views itself takes these two, ``combine`` and the plan from its own row, and only the networks,
    their weights and space from here.  ``views``: the plan whose answers are stored beside the set as memory-mapped shards;
    None: the networks answer while the student trains.  Without networks (files of FKD) only stored answers can be had.
    ``combine``: ``mean``, or ``norm-mean``, which first gives every network's batch of logits the mean Frobenius norm
    (G-VBSM on ImageNet-1K).  ``space`` is that of the networks' inputs; its ``stored`` does not matter.
    """

    networks: tuple[NetworkRef, ...]
    space: Space
    batch_norm: str = "eval"
    sees: str = "augmented"
    views: ViewPlan | None = None
    combine: str = "mean"

    def __post_init__(self) -> None:
        if self.combine not in ("mean", "norm-mean"):
            raise ValueError(f"labeller combine is {self.combine!r}; expected mean or norm-mean")
        if not self.networks and self.views is None:
            raise ValueError("a labeller has no networks and no stored views; expected one of them")
        if self.batch_norm not in LABEL_MODES:
            raise ValueError(
                f"labeller batch_norm is {self.batch_norm!r}; expected one of {', '.join(LABEL_MODES)}"
            )
        if self.sees not in ("augmented", "clean"):
            raise ValueError(f"labeller sees {self.sees!r}; expected augmented or clean")

    def describe(self) -> dict[str, Any]:
        """Plain data: all of this labeller but the weights of its networks."""
        return {
            "networks": [asdict(n) for n in self.networks],
            "space": self.space.describe(),
            "batch_norm": self.batch_norm,
            "sees": self.sees,
            "views": None if self.views is None else asdict(self.views),
            "combine": self.combine,
        }


@dataclass(frozen=True, eq=False)
class Targets:
    """What the items are trained towards, one row an item (a codec may say that items share a stored row).

    ``ids`` int64 (n,) or None; ``soft`` float (n, K) or None with its ``kind`` (``values``: any width, representations
    or distances); ``weights`` float (n,) or None.  Temperature and loss belong to the protocol.
    """

    ids: Tensor | None = None
    soft: Tensor | None = None
    kind: str = "none"
    weights: Tensor | None = None
    labeller: Labeller | None = None

    def __post_init__(self) -> None:
        if self.kind not in SOFT_KINDS or (self.soft is None) != (self.kind == "none"):
            raise ValueError(
                f"soft targets of kind {self.kind!r} are {'absent' if self.soft is None else 'present'}; "
                f"expected 'none' without soft targets, else one of {', '.join(SOFT_KINDS[1:])}"
            )
        if self.ids is not None:
            if self.ids.dim() != 1 or self.ids.is_floating_point() or self.ids.dtype == torch.bool:
                raise ValueError(
                    f"label ids are {self.ids.dtype} {tuple(self.ids.shape)}; expected integers (n,)"
                )
            object.__setattr__(self, "ids", self.ids.to(torch.int64))
        for name, t, dims, form in (
            ("soft labels", self.soft, 2, "(n, K)"),
            ("weights", self.weights, 1, "(n,)"),
        ):
            if t is not None and (t.dim() != dims or not t.is_floating_point()):
                raise ValueError(f"{name} are {t.dtype} {tuple(t.shape)}; expected floats {form}")
            _check_finite(name, t)
        if self.ids is None and self.soft is None and self.labeller is None:
            raise ValueError("targets are empty; expected label ids, soft targets or a labeller")
        rows = {name: len(t) for name, t in self.rows().items()}
        if len(set(rows.values())) > 1:
            raise ValueError(
                f"targets disagree on the number of rows: {rows}; expected one row an item in each"
            )

    def rows(self) -> dict[str, Tensor]:
        """The tensors with one row an item, by name."""
        named = {"ids": self.ids, "soft": self.soft, "weights": self.weights}
        return {name: t for name, t in named.items() if t is not None}


@dataclass(frozen=True, eq=False)
class Program:
    """How a set wants to be trained on: learned step sizes, and for (T,) sizes the batches they belong to.

    ``step_sizes``: (1,) a learned learning rate, or (T,) one a step.  ``order``: T batches, each a tuple of item indices,
    in order, replayed as plain gradient descent (Wang et al. 2018); T counts every pass, as its sizes differ.
    ``init``: the law of the initial weights (``default`` PyTorch's, ``xavier-normal``) or a tensor prefix
    ``inline:<prefix>`` of frozen weights.
    """

    step_sizes: Tensor
    order: tuple[tuple[int, ...], ...] | None = None
    init: str = "default"

    def __post_init__(self) -> None:
        if self.step_sizes.dim() != 1 or not self.step_sizes.is_floating_point():
            raise ValueError(
                f"step sizes are {self.step_sizes.dtype} {tuple(self.step_sizes.shape)}; expected floats (1,) or (T,)"
            )
        _check_finite("step sizes", self.step_sizes)
        inline = self.init.startswith("inline:") and self.init != "inline:"
        if self.init not in ("default", "xavier-normal") and not inline:
            raise ValueError(
                f"program init is {self.init!r}; expected default, xavier-normal or inline:<prefix>"
            )
        if self.order is not None and not all(self.order):
            raise ValueError("the program's order has an empty batch; expected item indices in each")
        if self.order is not None and len(self.order) != len(self.step_sizes):
            raise ValueError(
                f"{len(self.step_sizes)} step sizes for {len(self.order)} batches; expected one a batch"
            )
        if self.order is None and len(self.step_sizes) != 1:
            raise ValueError(
                f"{len(self.step_sizes)} step sizes without an order; expected (1,) or an order of batches"
            )


@dataclass(frozen=True)
class Cost:
    """What the construction of a set took.  Seconds are wall time; memory is the peak (MiB): of tensors on a GPU, of the
    process on CPU."""

    wall_s: float = 0.0
    peak_mib: float = 0.0
    device: str = ""
    iterations: int = 0
    iterations_per_s: float = 0.0
    teacher_s: float = 0.0
    """Training time of the teachers and experts used, counted whether or not they came from the cache."""


@dataclass(frozen=True)
class Card:
    """Where a set comes from; travels in its file as JSON."""

    method: str = ""
    recipe: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = ""
    data_fingerprint: str = ""
    """Of the training split that the set was made from; a subset codec needs exactly these images."""
    ipc: float = 0
    """Stored images a class (0: does not apply)."""
    classes: int = 0
    shape: tuple[int, ...] = ()
    seed: int = 0
    partial: bool = False
    """True where a time budget cut the distillation short."""
    cost: Cost = field(default_factory=Cost)
    needs: Mapping[str, int] = field(default_factory=dict)
    """Bytes beside the set that its use needs, by name: teachers, public encoders, full data."""
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ByteCount:
    """Bytes of a distilled set by part.  ``total`` is what the equal-bytes board compares; ``beside`` is never summed in."""

    images: int
    labels: int
    codec: int = 0
    space: int = 0
    program: int = 0
    beside: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.images + self.labels + self.codec + self.space + self.program


@dataclass(frozen=True, eq=False)
class DistilledSet:
    """What a method hands over: stored tensors, the codec that makes items of them, targets, space, program, card.

    ``tensors``: name -> tensor, with the dtype that is stored; the identity and grid codecs read ``images``, the subset
    codec ``indices`` (into the training split that the card names).  ``kind``: ``image`` or ``graph``.
    """

    tensors: Mapping[str, Tensor]
    targets: Targets
    space: Space | None
    codec: CodecSpec = field(default_factory=CodecSpec)
    program: Program | None = None
    kind: str = "image"
    card: Card = field(default_factory=Card)

    def __post_init__(self) -> None:
        for name, t in self.tensors.items():
            if t.is_floating_point() and not bool(torch.isfinite(t).all()):
                bad = int((~torch.isfinite(t)).sum())
                raise ValueError(
                    f"tensor {name!r} of the distilled set has {bad} values that are not finite (of {t.numel()}); "
                    f"the distillation diverged: lower its learning rate"
                )

    def changed(self, **what: Any) -> DistilledSet:
        """A copy with some fields replaced; ``card=dict(...)`` replaces fields of the card."""
        if isinstance(what.get("card"), dict):
            what["card"] = replace(self.card, **what["card"])
        return replace(self, **what)

    def fingerprint(self) -> str:
        """Hash of all that decides what a student sees: tensors, codec, targets, space, program, and the real data named.

        Equal before writing and after reading.
        """
        parts = {f"tensors.{k}": v for k, v in self.tensors.items()}
        parts.update({f"targets.{k}": v for k, v in self.targets.rows().items()})
        if self.program is not None:
            parts["program.step_sizes"] = self.program.step_sizes
        labeller = self.targets.labeller
        text = canonical(
            {
                "codec": [self.codec.name, self.codec.settings],
                "targets": self.targets.kind,
                "kind": self.kind,
                "program": None if self.program is None else [self.program.order, self.program.init],
                "space": None if self.space is None else self.space.describe(),
                "labeller": None if labeller is None else labeller.describe(),
                "data": self.card.data_fingerprint,
            }
        )
        digest = hashlib.sha256(text.encode())
        for name in sorted(parts):
            digest.update(f"{name}={tensor_hash(parts[name])}".encode())
        return digest.hexdigest()[:16]


# ------------------------------------------------------------------------------------------------ items


@dataclass(frozen=True, eq=False)
class Items:
    """Training items, decoded, on one device: what the engine reads.

    ``stored`` (n, ...) decoded values, as small as they may stay (uint8 for subsets); ``to_input`` maps a batch of them to
    network inputs (b, C, H, W).  Where the decoded items would not fit the memory limit, ``stored`` (n,) holds item numbers and
    ``to_input`` decodes a batch of them; only ``to_input`` may be relied on.  ``ids`` (n,), ``soft`` (n, K), ``weights``
    (n,) or None.  ``law(epoch, generators)`` gives the item indices of an epoch, in order, where the set is resampled
    (RS2); any epoch can be asked for.  ``visit(batch, generator)`` is the codec's random form of a batch for one visit
    (patch shuffle, random tile), applied to a batch of ``stored`` before ``to_input``.  ``space`` is that of the inputs.
    """

    stored: Tensor
    to_input: Callable[[Tensor], Tensor]
    classes: int
    ids: Tensor | None = None
    soft: Tensor | None = None
    kind: str = "none"
    weights: Tensor | None = None
    labeller: Labeller | None = None
    law: Callable[[int, Generators], Tensor] | None = None
    visit: Callable[[Tensor, torch.Generator], Tensor] | None = None
    flip: bool = True
    """Whether a mirrored image keeps its class: decides the augmentation's strategy."""
    space: Space | None = None

    def __len__(self) -> int:
        return len(self.stored)


# ------------------------------------------------------------------------------------------------ the task


@dataclass(frozen=True)
class TeacherRecipe:
    """How teachers and experts are trained on the real data; its fingerprint (with data and code) addresses the cache."""

    network: str = "ConvNet"
    weights: str = ""
    """Public weights of a ``torchvision:`` or ``timm:`` network (``IMAGENET1K_V1``): taken instead of training, whatever else
    the recipe says of it; "": trained."""
    epochs: int = 10
    batch: int = 256
    optimiser: str = "sgd"
    """``sgd`` | ``adam`` (weight decay added to the gradient); experts are trained by sgd alone."""
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "steps"
    """``steps`` (milestones, gamma) | ``cosine`` (per epoch, to 0 after ``period`` epochs)."""
    period: int | None = None
    """Epochs of half a cosine, after the warm-up; None: what the warm-up leaves.  A shorter one rises again."""
    warmup: int = 0
    """First epochs, in which the rate grows linearly from ``warmup_from`` times ``lr`` (cosine only)."""
    warmup_from: float = 0.01
    """Share of ``lr`` in the first epoch of a warm-up."""
    milestones: tuple[int, ...] = ()
    """Counts of finished epochs after which the learning rate is multiplied by ``gamma``."""
    gamma: float = 0.1
    """Factor at each milestone."""
    reset_optimiser: bool = False
    """Drop the momentum at each milestone, as a new optimiser does."""
    rho: float = 0.0
    """Radius of GSAM's ascent (dimensionless); 0: plain SGD."""
    alpha: float = 0.4
    """GSAM's share of the gradient's part orthogonal to the gradient after the ascent (dimensionless; 0: SAM)."""
    adaptive: bool = True
    """GSAM: scale the ascent by the size of each weight (ASAM)."""
    early_factors: tuple[float, ...] = ()
    """Factor on the cross-entropy in the first epochs, one an epoch; 1 afterwards (AST's clipping loss)."""
    gradient_penalty: float = 0.0
    """Weight of the mean over images and pixels of (norm over channels of the gradient of the summed logits - 1)^2, on the
    batch without augmentation; AST: 2."""
    augment: str = "none"
    """``none`` | ``dsa`` | ``dsa-flip`` | ``diffaug:NAMES`` | ``crop-flip`` (zero pad 4, crop, mirror) | ``resized-flip``
    (random resized crop of (0.08, 1) of the area, mirror); per-image parameters, mirrored only where the data set allows it."""
    mix: str = "none"
    """``none`` | ``cutmix`` (after the augmentation, with ``mix_probability`` a batch)."""
    mix_probability: float = 0.5
    """Probability that a batch is mixed."""
    held_out: float = 0.1
    """Share of each class that measures the accuracy instead of training; 0: all images train, and the accuracy is that on
    them."""
    mean: tuple[float, ...] | None = None
    """Mean a channel by which inputs are standardised, on the [0, 1] scale; None: the data set's own."""
    std: tuple[float, ...] | None = None
    """Deviation a channel, likewise."""
    zca: float | None = None
    """Inputs are whitened on the [0, 1] scale by a ZCA with this eps, fitted on all training images; None: no whitening."""
    per_class: int | None = None
    """Training images a class, drawn by the seed (fewer where a class has fewer); None: all."""
    count: int = 1
    """Independent networks."""
    seed: int = 0
    """Seeds the networks; part of the fingerprint, so that methods and runs share teachers."""
    storage: str = "fp32"
    """How the snapshots of experts are kept: ``fp32`` | ``fp16`` (half the bytes, rounded)."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A teacher (its last state) with what is known of it.

    ``network`` in eval mode, frozen; ``accuracy`` on the held-out part of the training data, a fraction; ``initial``: the
    state (parameter name -> tensor, on the network's device) before training.
    """

    network: torch.nn.Module
    fingerprint: str
    accuracy: float
    train_s: float
    initial: Mapping[str, Tensor] = field(default_factory=dict)
    name: str = ""
    """Canonical name of the network."""
    space: Space | None = None
    """Of the network's inputs."""
    source: str = "cache"
    """Where its weights are found again, as in :class:`NetworkRef`: ``cache`` | ``public``."""

    def ref(self, weight: float = 1.0) -> NetworkRef:
        """How a labeller names this network."""
        return NetworkRef(self.name, self.source, self.fingerprint, weight=weight)


class Experts(Protocol):
    """Expert trajectories: networks of one recipe with their parameters at initialisation and after every epoch.

    They stay on disk; a state is read when asked for.
    """

    recipe: TeacherRecipe
    fingerprint: str
    """Of the data, the preprocessing, the network and the recipe, without the number of experts."""
    space: Space
    """Of the networks' inputs, and so of the synthetic images that are learned from them."""
    accuracies: tuple[float, ...]
    """Of each expert at its end, a fraction."""
    train_s: float
    """Seconds that training all of them took."""

    def __len__(self) -> int:
        """Experts."""
        ...

    def state(self, expert: int, epoch: int) -> Tensor:
        """Flat parameters (P,), float32, on the task's device, in the order of ``nets.flat.Flat``; epoch 0 is the
        initialisation, -1 the end.

        Raises:
            IndexError: no such expert or epoch.
        """
        ...


class Task(Protocol):
    """All that a method sees.  Test data are not here."""

    train: ImageData
    """Training images, uint8 (N, C, H, W), on ``device`` or memory-mapped."""
    ipc: int
    """Stored images a class."""
    seed: int
    device: torch.device

    memory_limit_mib: float | None
    """Memory that a method may plan with; None: no limit asked for."""
    partial: bool
    """Whether the time budget ended a loop short: what would follow it is not worth doing."""

    @property
    def items(self) -> int:
        """Stored images in all: ipc x classes, for methods that do not share them out evenly."""
        ...

    def rng(self, name: str) -> torch.Generator:
        """The same stateful CPU generator at each call with the same name."""
        ...

    def holdout(self, fraction: float) -> tuple[ImageData, ImageData]:
        """(kept, held out) parts of the training data, split inside each class by the seed."""
        ...

    def teachers(self, recipe: TeacherRecipe) -> list[Trained]:
        """Networks trained on the real training data, from the cache where it has them; their cost enters the card."""
        ...

    def experts(self, recipe: TeacherRecipe) -> Experts:
        """Trajectories of such networks, made or found; their cost enters the card."""
        ...

    def loop(
        self, total: int, state: Sequence[Any] = (), show: Callable[[], DistilledSet] | None = None
    ) -> Iterator[int]:
        """Iterations 0..total-1: restores and saves ``state`` (tensors in place, or objects with ``state_dict``), all
        generators included; shows progress; ends early, marking the set partial, when the time budget is used up.

        ``show`` gives the set as it stands between two iterations; where snapshots are asked for (``--snapshot-every``),
        they and their contact sheets are made from it."""
        ...

    def log(self, **values: float | Tensor) -> None:
        """Trace values of the current iteration (a loss, say) into the run folder; tensors are not read at once, so every
        iteration may log."""
        ...

    def note(self, key: str, text: str) -> None:
        """Say something that a reader of the result must know (a batch made smaller, padding): on screen once, in the
        set's card and in the records."""
        ...

    def snapshot(self, distilled: DistilledSet) -> None:
        """Keep an intermediate set, by iteration, in the run folder."""
        ...

    def view(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Every matching and inner step passes its synthetic batch through here: the identity, or a wrapper's function."""
        ...

    def distilled(
        self,
        *,
        images: Tensor | None = None,
        subset: Tensor | None = None,
        ids: Tensor | None = None,
        targets: Targets | None = None,
        space: Space | None = None,
        codec: CodecSpec | None = None,
        program: Program | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> DistilledSet:
        """A set of these parts; unnamed ones take the common form (identity codec, the data set's standardised space)."""
        ...


class Method(Protocol):
    """A frozen dataclass of hyperparameters, registered with ``@method``."""

    def distill(self, task: Task) -> DistilledSet: ...
