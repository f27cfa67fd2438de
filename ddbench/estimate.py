"""Seconds and bytes that cells will take, before any of them runs.  Neither data nor torch is needed.

A number is *measured* where records have the very same work (another seed, say), *scaled* from records of the same method or
protocol by the arithmetic of both, *guessed* from the arithmetic alone, or unknown.  The arithmetic: images that go through
networks, times the multiply-adds and outputs of these, over what a machine does of them a second, plus a price a step.
"""

from __future__ import annotations

import ast
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddbench import host, registry
from ddbench.nets import names as networks_
from ddbench.protocols.rows import ROWS, Case
from ddbench.records import Cell, DistilCell, Record
from ddbench.texts import table_text
from ddbench.trainplan import TrainPlan

if TYPE_CHECKING:
    from ddbench.plan import Swept

How = Literal["none", "measured", "scaled", "guessed", "unknown"]
_ORDER: tuple[How, ...] = ("none", "measured", "scaled", "guessed", "unknown")

# ------------------------------------------------------------------------------------------------ amounts


@dataclass(frozen=True)
class Amount:
    """Seconds or bytes, most likely ``value`` and probably between ``low`` and ``high``; ``unknown`` parts are in none of the
    three."""

    value: float = 0.0
    low: float = 0.0
    high: float = 0.0
    how: How = "none"
    """The least certain of what was added up."""
    records: int = 0
    """Records behind it, at most."""
    unknown: int = 0
    """Parts of a sum of which nothing is known."""

    def __add__(self, other: Amount) -> Amount:
        known = [a.how for a in (self, other) if a.how != "unknown"]
        how: How = max(known, key=_ORDER.index) if known else "unknown"
        return Amount(
            self.value + other.value,
            self.low + other.low,
            self.high + other.high,
            how,
            max(self.records, other.records),
            self.unknown + other.unknown,
        )

    @property
    def known(self) -> bool:
        return not self.unknown


NOTHING = Amount()
UNKNOWN = Amount(how="unknown", unknown=1)


def total(amounts: Iterable[Amount]) -> Amount:
    return sum(amounts, NOTHING)


def _times(value: float, spread: float, how: How, records: int = 0) -> Amount:
    return Amount(value, value / spread, value * spread, how, records)


# ------------------------------------------------------------------------------------------------ networks


@dataclass(frozen=True)
class NetworkCost:
    """Of one image forward: multiply-adds, outputs of all layers (numbers), and parameters."""

    macs: float
    outputs: float
    parameters: int


_FIXED: Mapping[str, tuple[int, float, float, int, int]] = {
    # side, millions of multiply-adds and of outputs there, parameters without the head, features before the head; counted with
    # torch's FlopCounterMode, for 3 channels (tests/test_estimate.py)
    "LeNet": (32, 0.652, 0.015, 61_156, 84),
    "AlexNet": (32, 245.0, 0.494, 1_841_472, 3072),
    "AlexNetBN": (32, 245.0, 0.715, 1_843_392, 3072),
    "VGG11": (32, 152.8, 0.486, 9_225_984, 512),
    "VGG11BN": (32, 152.8, 0.486, 9_225_984, 512),
    "ResNet18": (32, 555.4, 1.663, 11_168_832, 512),
    "ResNet18BN": (32, 555.4, 1.663, 11_168_832, 512),
    "ResNet18_AP": (32, 744.2, 2.236, 11_168_832, 8192),
    "ResNet18BN_AP": (32, 744.2, 2.236, 11_168_832, 8192),
    "ResNetAP10": (64, 148.6, 0.883, 4_905_792, 512),
    "ResNet50BN": (32, 1297.8, 8.176, 23_500_352, 2048),
    "ResNet101BN": (32, 2510.0, 12.63, 42_492_480, 2048),
    "MobileNetV2": (32, 91.2, 5.057, 2_284_112, 1280),
    "ShuffleNetV2": (32, 10.9, 0.717, 341_792, 1024),
    "DenseNet121": (32, 888.4, 11.82, 6_946_048, 1024),
    "EfficientNetB0": (32, 30.3, 1.597, 3_596_476, 320),
    "ShuffleNetG2": (32, 39.6, 1.769, 879_572, 800),
    "torchvision:resnet18": (224, 1814.1, 7.478, 11_176_512, 512),
    "torchvision:resnet50": (224, 4089.2, 32.04, 23_508_032, 2048),
    "torchvision:resnet101": (224, 7801.4, 47.39, 42_500_160, 2048),
    "torchvision:mobilenet_v2": (224, 300.8, 19.46, 2_223_872, 1280),
    "torchvision:shufflenet_v2_x1_0": (224, 144.9, 5.465, 1_253_604, 1024),
    "torchvision:densenet121": (224, 2834.2, 38.56, 6_953_856, 1024),
    "torchvision:efficientnet_b0": (224, 385.8, 19.87, 4_007_548, 1280),
}
Shape = tuple[int, int, int]


@lru_cache(maxsize=512)
def network_cost(name: str, shape: Shape, classes: int) -> NetworkCost | None:
    """What one image (C, H, W) costs a network; None for networks of libraries that are not in the table.

    Raises:
        LookupError: no such network.
    """
    name = networks_.canonical(name)
    c, h, w = shape
    variant = networks_.parse_convnet(name)
    if variant is not None:
        grown = 2 * (networks_.first_padding(shape) - 1)
        h, w = h + grown, w + grown
        macs = outputs = parameters = 0
        wide = variant.width
        for _ in range(variant.depth):
            macs += wide * c * 9 * h * w
            parameters += wide * (c * 9 + 1) + (0 if variant.norm == "NN" else 2 * wide)
            outputs += wide * h * w * (2 if variant.norm == "NN" else 3)
            c = wide
            if variant.pooling != "NP":
                h, w = h // 2, w // 2
                outputs += wide * h * w
        head = wide * h * w * classes
        return NetworkCost(macs + head, outputs + classes, parameters + head + classes)
    if name == "MLP":
        flat = c * h * w * 128 + 128 * 128 + 128 * classes
        return NetworkCost(flat, 4 * 128, flat + 256 + classes)
    if name not in _FIXED:
        return None
    side, macs_m, outputs_m, body, features = _FIXED[name]
    area = h * w / side**2
    if name.startswith(("LeNet", "AlexNet", "VGG11")):
        area = 1  # 28x28 is padded to 32x32 there
    if name.endswith("_AP"):
        features = round(features * area)  # maps are not averaged to one pixel
    return NetworkCost(macs_m * 1e6 * area, outputs_m * 1e6 * area, body + (features + 1) * classes)


# ------------------------------------------------------------------------------------------------ machines


@dataclass(frozen=True)
class Machine:
    """What a device does: multiply-adds a second, seconds an output of a layer, seconds a step whatever its size."""

    device: str
    """``cpu`` or ``cuda``."""
    macs_per_s: float
    output_s: float
    step_s: float
    source: str

    def seconds(self, work: Work) -> float:
        return work.macs / self.macs_per_s + work.outputs * self.output_s + work.steps * self.step_s


@dataclass(frozen=True)
class Work:
    """Multiply-adds, outputs and steps of some computation."""

    macs: float = 0.0
    outputs: float = 0.0
    steps: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.macs + other.macs, self.outputs + other.outputs, self.steps + other.steps)

    def times(self, factor: float) -> Work:
        return Work(self.macs * factor, self.outputs * factor, self.steps * factor)


def through(cost: NetworkCost, images: float, steps: float = 0.0) -> Work:
    """Images once forward through a network; a pass forward and backward counts as three."""
    return Work(cost.macs * images, cost.outputs * images, steps)


def _through(cost: NetworkCost | None, images: float, steps: float) -> Work | None:
    return None if cost is None else through(cost, images, steps)


FORWARD, TRAINED, SECOND_ORDER = 1, 3, 9
"""Passes forward that a pass is worth: alone, with a gradient, with a gradient of the gradient."""
_CPU = Machine(
    "cpu", 40e9, 1.35e-9, 2e-3, "the records of leaderboards/records (x86-64 with AVX2), one thread"
)
"""A thread; fitted to the evaluation seconds of the records that come with ddbench (docs/suites.md)."""
_CUDA = Machine(
    "cuda", 5e12, 1.5e-11, 1e-3,
    "a third of the 30 TFLOP/s in fp32 and half of the 1.5 TB/s that data sheets of such GPUs state; no record is behind it",
)  # fmt: skip


def reference(device: str, threads: int = 1) -> Machine:
    """The constants for a device of a class; those of a CPU for so many threads."""
    if device != "cpu":
        return _CUDA
    n = max(1, threads)
    return replace(
        _CPU,
        macs_per_s=_CPU.macs_per_s * n,
        output_s=_CPU.output_s / n,
        source=_CPU.source.replace("one thread", f"{n} thread{'s' * (n != 1)}"),
    )


def device_class(device: str = "auto") -> str:
    """``cpu`` or ``cuda``, told without torch: ``auto`` is a GPU where NVIDIA's driver shows one.

    Raises:
        ValueError: another name.
    """
    found = "auto" if device == "auto" else device.partition(":")[0]
    if found not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {device!r}; expected auto, cpu, cuda or cuda:0, cuda:1, ...")
    if found == "auto":
        return "cuda" if any(Path("/dev").glob("nvidia[0-9]*")) else "cpu"
    return found


def machine(device: str = "auto") -> Machine:
    """The constants for a device of this computer, by its class alone."""
    return reference(device_class(device), host.threads())


def calibrated(device: str = "auto", seconds: float = 3.0) -> Machine:
    """The constants for a device as some seconds of training small networks on it show them; needs torch.

    Raises:
        ValueError: a device that is not there.
    """
    import time

    import torch
    import torch.nn.functional as F

    from ddbench.nets.build import build
    from ddbench.task import pick_device

    where = pick_device(device)
    found = []
    for name, shape, batch in (("ConvNet", (3, 32, 32), 64), ("ConvNetD1W4", (1, 8, 8), 2)):
        generator = torch.Generator().manual_seed(0)
        network = build(name, shape, 10, generator).to(where)
        images = torch.randn(batch, *shape, generator=generator).to(where)
        labels = (torch.arange(batch) % 10).to(where)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
        times: list[float] = []
        begun = time.perf_counter()
        while len(times) < 5 or time.perf_counter() - begun < seconds / 2:
            start = time.perf_counter()
            optimiser.zero_grad()
            F.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if where.type == "cuda":
                torch.cuda.synchronize(where)
            times.append(time.perf_counter() - start)
        cost = network_cost(name, shape, 10)
        assert cost is not None  # both are ConvNets
        found.append((through(cost, batch * TRAINED), statistics.median(times)))
    base = reference(where.type, torch.get_num_threads())
    (large, large_s), (_, step_s) = found
    slower = max(large_s - step_s, 1e-6) / replace(base, step_s=0.0).seconds(large)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else f"{torch.get_num_threads()} threads"
    return Machine(
        where.type,
        base.macs_per_s / slower,
        base.output_s * slower,
        step_s,
        f"measured just now on this {where.type} ({name})",
    )


# ------------------------------------------------------------------------------------------------ what a cell is


@dataclass(frozen=True)
class _Data:
    shape: Shape
    classes: int
    train: int
    test: int


@lru_cache(maxsize=256)
def _data(dataset: str) -> _Data | None:
    """Sizes of a data set by its name; None for folders and arrays, which are known when they are loaded."""
    base = dataset.partition("?")[0]
    if base not in registry.names("datasets"):
        return None
    k = registry.facts("datasets", base).keywords
    if not (isinstance(k.get("shape"), tuple) and isinstance(k.get("classes"), int)):
        return None
    classes = k["classes"]
    # the ImageNet subsets do not say: their classes have 1,300 images or a little less
    return _Data(k["shape"], classes, k.get("train") or 1_300 * classes, k.get("test") or 50 * classes)


def settings_of(cell: DistilCell) -> dict[str, Any]:
    """Every setting of a method as a cell would run it: defaults, recipe, overrides; read from the source, not loaded.

    Raises:
        LookupError, ddbench.registry.PluginError: an unknown method or recipe, or a plug-in that cannot be read.
    """
    found: dict[str, Any] = {}
    for one in registry.facts("methods", cell.method).fields:
        found[one.name] = _literal(one.default)
    found |= registry.resolve_recipe(cell.method, cell.recipe, cell.dataset, cell.ipc).settings
    for key, value in cell.settings.items():
        found[key] = _literal(value) if isinstance(value, str) else value
    return found


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # plain text from a command line, or a default that only the running method knows


@dataclass(frozen=True)
class _Asked:
    """A distil cell with its settings and sizes."""

    cell: DistilCell
    settings: Mapping[str, Any]
    data: _Data

    @property
    def name(self) -> str:
        """Of the method, without what wraps it."""
        return self.cell.method.rpartition("+")[2]

    @property
    def items(self) -> int:
        """Training items of the finished set: mosaics of these methods are cut up."""
        if self.name == "full":
            return self.data.train
        stored = self.cell.ipc * self.data.classes
        factor = self.settings.get("factor", 1)
        return stored * factor**2 if self.name in ("idc", "ncfm") else stored

    def number(self, name: str, default: float = 0.0) -> float:
        value = self.settings.get(name, default)
        return float(value) if isinstance(value, (int, float)) else default

    def cost(self, network: str | None = None) -> NetworkCost | None:
        name = network or str(self.settings.get("network", "ConvNet"))
        return network_cost(name, self.data.shape, self.data.classes)

    def real_batch(self) -> float:
        """Real images of all classes a step."""
        return self.data.classes * min(
            self.number("batch_real", 256), max(1, self.data.train // self.data.classes)
        )


_known: dict[str, _Asked] = {}
"""Cells but for their seeds: records have thousands of the same ones."""


def _asked(cell: DistilCell) -> _Asked | None:
    key = cell.model_copy(update={"seed": 0}).model_dump_json()
    if key in _known:
        return _known[key]
    data = _data(cell.dataset)
    if data is None:
        return None
    try:
        asked = _Asked(cell, settings_of(cell), data)
    except (LookupError, registry.PluginError):  # its cell will fail and say so
        return None
    if len(_known) >= 4096:
        _known.clear()
    return _known.setdefault(key, asked)


# ------------------------------------------------------------------------------------------------ distillation


def _matching(a: _Asked) -> Work | None:
    cost = a.cost()
    n = a.number("iterations")
    return _through(cost, n * (FORWARD * a.real_batch() + TRAINED * a.items), n)


def _ncfm(a: _Asked) -> Work | None:
    cost, n = a.cost(), a.number("iterations")
    calibrated = TRAINED * a.number("calibrations", 1)
    images = FORWARD * a.real_batch() + (TRAINED + calibrated) * a.items
    # networks are blended and the sampling network is trained in every step: twice the rest, as records show
    return _through(cost, 2 * n * images, 10 * n)


def _gradients(a: _Asked) -> Work | None:
    cost, n, outer = a.cost(), a.number("iterations"), a.number("outer", 1)
    inner = a.number("inner") * (outer - 1)
    step = TRAINED * a.real_batch() + SECOND_ORDER * a.items
    steps = 3 * outer + inner * math.ceil(a.items / a.number("batch_train", 256))
    return _through(cost, n * (outer * step + inner * TRAINED * a.items), n * steps)


def _idc(a: _Asked) -> Work | None:
    cost, rounds = a.cost(), a.number("iterations") * a.number("inner", 1)
    synthetic = min(a.items, a.data.classes * a.number("batch_syn_max", 128))
    real = min(a.number("n_data", 2000), a.data.train)
    trained = TRAINED * real
    per_round = TRAINED * a.real_batch() + SECOND_ORDER * synthetic + trained
    steps = 5 + real / a.number("batch_train", 64)
    early = a.number("iterations") * a.number("early") * trained
    return _through(cost, rounds * per_round + early, rounds * steps)


def _trajectories(a: _Asked) -> Work | None:
    cost, n, inner = a.cost(), a.number("iterations"), a.number("syn_steps")
    batch = a.number("batch_syn") or a.items
    return _through(cost, n * inner * SECOND_ORDER * min(batch, a.items), 3 * n * inner)


def _cells_in_turn(a: _Asked) -> int:
    """Cells are optimised together as far as memory goes."""
    return math.ceil(a.items / 500)


def _recovery(a: _Asked) -> Work | None:
    cost, n = a.cost(), a.number("iterations")
    return _through(cost, n * a.items * TRAINED, n * _cells_in_turn(a))


def _pairs(a: _Asked) -> Work | None:
    """CV-DD: two networks of the committee recover each cell; before that each member distils a little, for its prior."""
    costs = [a.cost(name) for name in _members(a)]
    known = [c for c in costs if c is not None]
    if len(known) < len(costs):
        return None
    n = a.number("iterations")
    cells = _cells_in_turn(a)
    pair = min(2, len(known))
    work = Work()
    for cost in known:
        share = pair / len(known)
        work += through(cost, share * n * a.items * TRAINED, share * n * cells)
        if len(known) > 1 and a.settings.get("prior") == "held-out":
            images, steps = a.number("prior_ipc", 10) * a.data.classes, a.number("prior_iterations", 100)
            work += through(cost, steps * images * TRAINED, 3 * steps)
            work += through(cost, a.number("prior_epochs", 20) * images * TRAINED)
    return work


def _compensators(a: _Asked) -> Work | None:
    costs = [a.cost(name) for name in _members(a)]
    if any(c is None for c in costs):
        return None
    n = a.number("iterations")
    work = Work()
    for cost in costs:
        assert cost is not None
        work += through(cost, n * a.items * TRAINED, n * a.cell.ipc)
    return work


def _crops(a: _Asked) -> Work | None:
    cost = a.cost()
    crops = a.data.classes * a.number("mipc", 300) * a.number("num_crop", 5)
    return _through(cost, crops * FORWARD, crops / a.number("batch", 128))


def _choice(a: _Asked) -> Work:
    return Work(steps=30)


def _labelled_choice(a: _Asked) -> Work | None:
    """``random`` with labels of a committee has its priors measured, as CV-DD does."""
    if a.settings.get("labels", "hard") != "committee":
        return _choice(a)
    return _pairs(
        replace(a, settings={"iterations": 0, "prior_ipc": 10, "prior_iterations": 100, **a.settings})
    )


_WORK: Mapping[str, Callable[[_Asked], Work | None]] = {
    **dict.fromkeys(("dm", "datadam"), _matching),
    **dict.fromkeys(("dc", "dsa"), _gradients),
    **dict.fromkeys(("mtt", "tesla", "ftd", "datm", "ast"), _trajectories),
    **dict.fromkeys(("sre2l", "cda"), _recovery),
    **dict.fromkeys(("herding", "k_center", "full"), _choice),
    "random": _labelled_choice,
    "ncfm": _ncfm,
    "idc": _idc,
    "cvdd": _pairs,
    "infer": _compensators,
    "rded": _crops,
}
"""Of methods whose arithmetic is known; of others only records tell."""


def distil_work(cell: DistilCell) -> Work | None:
    """What a distillation computes, teachers apart; None where it is not known."""
    a = _asked(cell)
    if a is None or a.name not in _WORK:
        return None
    work = _WORK[a.name](a)
    if work is not None and "+" in cell.method:
        work = work.times(2)  # FYI shows every image and its mirror image
    return work


# ------------------------------------------------------------------------------------------------ networks on real data


@dataclass(frozen=True)
class Trainings:
    """Networks that are trained on real data before a distillation or for a protocol; equal ``key``: made once."""

    key: tuple[Any, ...]
    work: Work | None
    bytes: float | None
    kind: Literal["teachers", "experts"]


_EXPERT_FIELDS = (
    "network", "experts", "train_epochs", "train_batch", "train_lr", "train_momentum", "train_weight_decay", "train_per_class",
    "augment", "zca", "rho", "alpha", "adaptive", "clip_loss", "gradient_penalty", "storage", "mean", "std",
)  # fmt: skip
SQUEEZE_EPOCHS: Mapping[str, Mapping[str, int]] = {
    "sre2l": {"cifar10": 200, "cifar100": 200, "tiny_imagenet": 50, "imagenet1k": 0},
    "cvdd": {"cifar10": 200, "cifar100": 200, "tiny_imagenet": 50, "imagenette": 300, "imagenet1k": 0},
    "infer": {"cifar10": 200, "cifar100": 200, "imagenet1k": 0},
    "rded": {"cifar10": 200, "cifar100": 200, "tiny_imagenet": 50, "imagenette": 90, "imagewoof": 90, "imagenet1k": 0},
}  # fmt: skip
"""Epochs of the teachers of ddbench/train/squeeze.py (which needs torch), 0: public weights; a test compares them."""
_OWN_SQUEEZE = {"sre2l": "sre2l", "cda": "sre2l", "rded": "rded", "cvdd": "cvdd", "infer": "infer"}
_PAPER = ("ResNet18BN", "ResNet50BN", "ShuffleNetV2", "MobileNetV2", "DenseNet121")
_QUICK = ("ConvNetW32BN", "ConvNetW48BN", "ConvNetD2W32BN", "ConvNetW32ALBN", "ConvNetW32BNMP")
_QUICK_TINY = ("ConvNetD2W32BN", "ConvNetD1W64BN", "ConvNetD2W32BNMP", "ConvNetD2W32ALBN", "ConvNetD2W48BN")
"""Committees of ddbench/train/priors.py, likewise."""


def _squeeze(a: _Asked) -> str:
    """The recipe of a method's teachers."""
    labels = a.settings.get("labels", "")
    own = _OWN_SQUEEZE.get(a.name) or ("cvdd" if labels == "committee" else "sre2l")
    named = str(a.settings.get("squeeze", "auto"))
    base = a.cell.dataset.partition("?")[0]
    return named if named != "auto" else own if base in SQUEEZE_EPOCHS[own] else "quick"


def _members(a: _Asked) -> Sequence[str]:
    """The networks of a method that label or recover."""
    given = a.settings.get("networks")
    side = a.data.shape[-1]
    if isinstance(given, (list, tuple)) and given:  # JSON has lists
        return [networks_.for_side(str(n), side) for n in given]
    if a.name == "cvdd" or "labels" in a.settings:
        quick = _QUICK if side >= 16 else _QUICK_TINY
        whole = quick if _squeeze(a) == "quick" else [networks_.for_side(n, side) for n in _PAPER]
        return whole[:1] if a.settings.get("labels") == "teacher" else whole
    return [networks_.for_side(str(a.settings.get("network", "ResNet18BN")), side)]


def _teacher(dataset: str, data: _Data, squeeze: str, network: str) -> Trainings:
    cost = network_cost(network, data.shape, data.classes)
    key = ("teacher", dataset, squeeze, network)
    if cost is None:
        return Trainings(key, None, None, "teachers")
    epochs = SQUEEZE_EPOCHS.get(squeeze, {}).get(dataset.partition("?")[0])
    images: float
    if epochs is None:  # ddbench.train.squeeze.quick
        small = data.train <= 10_000
        epochs, images = (20, data.train) if small else (5, max(10_000, 50 * data.classes))
        images = 0.9 * min(images, data.train)
    else:
        images = data.train
    seen = epochs * images
    return Trainings(
        key, through(cost, seen * TRAINED, seen / 64), 4.0 * cost.parameters * (epochs > 0), "teachers"
    )


def _teachers(a: _Asked) -> list[Trainings]:
    return [_teacher(a.cell.dataset, a.data, _squeeze(a), n) for n in _members(a)]


def _labelled(a: _Asked) -> bool:
    """Whether the set names networks of its own that label it."""
    if a.name == "random":
        return a.settings.get("labels", "hard") in ("teacher", "committee")
    return a.name in _OWN_SQUEEZE


def trainings(cell: DistilCell) -> list[Trainings]:
    """The teachers or experts of a distillation."""
    a = _asked(cell)
    if a is None:
        return []
    if a.name in ("mtt", "tesla", "ftd", "datm", "ast"):
        cost, count, epochs = a.cost(), a.number("experts"), a.number("train_epochs")
        key = ("experts", cell.dataset, *((f, a.settings.get(f)) for f in _EXPERT_FIELDS if f in a.settings))
        if cost is None:
            return [Trainings(key, None, None, "experts")]
        images = a.number("train_per_class") * a.data.classes or a.data.train
        seen = count * epochs * images
        twice = 2 if a.number("rho") else 1  # sharpness-aware steps take two gradients
        steps = epochs * images / a.number("train_batch", 256) * (count if cost.macs > 1e6 else 1)
        size = 2 if a.settings.get("storage") == "fp16" else 4
        work = through(cost, seen * TRAINED * twice, steps * twice)
        return [Trainings(key, work, count * (epochs + 1) * cost.parameters * size, "experts")]
    if a.name == "ncfm":
        cost, count = a.cost(), a.number("pool")
        pool = ("pool", cell.dataset, a.settings.get("network"), count, a.settings.get("pool_epochs"))
        if cost is None:
            return [Trainings(pool, None, None, "teachers")]
        seen = count * a.number("pool_epochs") * a.data.train
        return [
            Trainings(
                pool, through(cost, seen * TRAINED, seen / 64), 4.0 * count * cost.parameters, "teachers"
            )
        ]
    return _teachers(a) if _labelled(a) else []


# ------------------------------------------------------------------------------------------------ evaluation


def _plan(cell: Cell, a: _Asked) -> TrainPlan:
    factor = int(a.number("factor", 1)) if a.name == "rded" else 1
    networks = _members(a) if _labelled(a) else ()
    return ROWS[cell.protocol].plan_for(
        Case(
            cell.distil.dataset, networks_.canonical(cell.network), cell.distil.ipc or a.items // a.data.classes,
            a.data.classes, min(a.data.shape[1:]), factor, networks[0] if len(networks) == 1 else "",
        )
    )  # fmt: skip


def _who_labels(cell: Cell, a: _Asked, plan: TrainPlan) -> Sequence[str]:
    if plan.labels is None:
        return ()
    if _labelled(a) and not plan.labels.always:
        return _members(a)
    return [networks_.for_side(n, min(a.data.shape[1:])) for n in plan.labels.networks]


def evaluate_work(cell: Cell) -> Work | None:
    """What the students of a cell compute, and the networks that label for them; None where a size is not known."""
    a = _asked(cell.distil)
    if a is None or ROWS[cell.protocol].kind not in ("train", "native"):
        return None
    plan = _plan(cell, a)
    cost = a.cost(cell.network)
    teachers = [a.cost(name) for name in _who_labels(cell, a, plan)]
    if cost is None or any(t is None for t in teachers):
        return None
    steps = float(plan.epochs * math.ceil(a.items / plan.batch))
    seen = float(plan.epochs * a.items)
    if plan.max_steps is not None and plan.max_steps < steps:
        steps, seen = plan.max_steps, float(plan.max_steps * min(plan.batch, a.items))
    tests = 1 + sum(plan.tested_after(e) for e in range(plan.epochs))
    students = cell.repeats
    # small networks are trained as one: a step of all of them is a step
    alone = students if cost.macs > 1e6 else 1
    work = through(cost, seen * TRAINED * students, steps * alone)
    work += through(cost, tests * a.data.test * FORWARD * students, tests * a.data.test / 512 * alone)
    for teacher in teachers:
        assert teacher is not None and plan.labels is not None
        clean = plan.labels.sees == "clean"
        answered = a.items if clean else seen * (1 if plan.labels.store else students)
        work += through(teacher, answered * FORWARD, 0 if clean else steps)
    return work


def label_trainings(cell: Cell) -> list[Trainings]:
    """The teachers that a protocol brings for a set that names none."""
    a = _asked(cell.distil)
    if a is None:
        return []
    plan = _plan(cell, a)
    if plan.labels is None or (_labelled(a) and not plan.labels.always):
        return []
    squeeze = plan.labels.squeeze
    return [_teacher(cell.distil.dataset, a.data, squeeze, n) for n in _who_labels(cell, a, plan)]


# ------------------------------------------------------------------------------------------------ bytes on disk


def set_bytes(cell: DistilCell) -> float | None:
    """Of the file of a set: floats, or bytes where a method stores pixels, or the numbers of the images that it names."""
    a = _asked(cell)
    if a is None or a.name not in _WORK:
        return None
    stored = cell.ipc * a.data.classes
    values = math.prod(a.data.shape)
    header = 4096.0
    if a.name in ("random", "herding", "k_center"):
        return header + 16 * stored
    if a.name == "full":
        return header
    if _labelled(a):
        return header + stored * values + 8 * stored
    soft = 4 * a.data.classes if a.name == "datm" else 8
    whitening = 4.0 * values * (values + 1) if a.settings.get("zca") is True else 0.0
    return header + stored * (4 * values + soft) + whitening


def label_bytes(cell: Cell) -> float | None:
    """Of the answers that a protocol keeps for every view of a set, fp16 logits."""
    a = _asked(cell.distil)
    if a is None:
        return None
    plan = _plan(cell, a)
    if plan.labels is None or not plan.labels.store or plan.labels.sees == "clean":
        return 0.0
    return 2.0 * plan.epochs * a.items * a.data.classes


# ------------------------------------------------------------------------------------------------ from records


def _spread(what: str, ratio: float) -> float:
    """By which factor a number may be off that is scaled by ``ratio``: what the records of one data set show of those of the
    others (docs/suites.md), and more the further it is scaled."""
    return (3.0 if what == "trainings" else 2.0) + min(2.0, 0.25 * abs(math.log10(max(ratio, 1e-9))))


_GUESS_SPREAD = {"cpu": 3.0, "cuda": 6.0}


@dataclass(frozen=True)
class _Seen:
    """What a record measured of one kind of work, and what the arithmetic says of it."""

    kind: str
    """Method, protocol and network, or data set: numbers are scaled within it."""
    same: tuple[Any, ...]
    """Equal: the very same work."""
    seconds: float
    expected: float


@dataclass
class Estimator:
    """Estimates for one machine, from records and arithmetic."""

    machine: Machine
    records: Sequence[Record] = ()
    _seen: dict[str, list[_Seen]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        sets: set[str] = set()
        for r in self.records:
            if r.status != "ok" or r.provenance.device != self.machine.device:
                continue  # seconds of a CPU say nothing of a GPU
            base = reference(r.provenance.device, r.provenance.threads)
            d = r.cell.distil
            if r.set_key not in sets and r.spent.distil_device in ("", r.provenance.device):
                sets.add(r.set_key)
                self._learn("distil", d.method, self._distil_key(d), r.spent.distil_s, distil_work(d), base)
                own = trainings(d)
                known = [t.work for t in own if t.work is not None]
                if own and len(known) == len(own) and not label_trainings(r.cell):
                    work = sum(known, Work())
                    key = tuple(t.key for t in own)
                    self._learn("trainings", own[0].key[0], key, r.spent.teacher_s, work, base)
            elif (theirs := label_trainings(r.cell)) and not trainings(d):
                known = [t.work for t in theirs if t.work is not None]
                if len(known) == len(theirs):
                    key = tuple(t.key for t in theirs)
                    self._learn("trainings", "teacher", key, r.spent.teacher_s, sum(known, Work()), base)
            kind = f"{r.cell.protocol} {networks_.canonical(r.cell.network)}"
            self._learn(
                "evaluate", kind, self._evaluate_key(r.cell), r.spent.evaluate_s, evaluate_work(r.cell), base
            )

    @staticmethod
    def _distil_key(d: DistilCell) -> tuple[Any, ...]:
        a = _asked(d)
        return (d.method, d.dataset, d.ipc, None if a is None else repr(sorted(a.settings.items())))

    @staticmethod
    def _evaluate_key(cell: Cell) -> tuple[Any, ...]:
        a = _asked(cell.distil)
        items = None if a is None else a.items
        labellers = () if a is None else tuple(_who_labels(cell, a, _plan(cell, a)))
        return (
            cell.distil.dataset,
            items,
            labellers,
            cell.protocol,
            networks_.canonical(cell.network),
            cell.repeats,
        )

    def _learn(
        self, what: str, kind: str, same: tuple[Any, ...], seconds: float, work: Work | None, base: Machine
    ) -> None:
        if work is not None and seconds > 0:
            self._seen.setdefault(what, []).append(_Seen(kind, same, seconds, base.seconds(work)))

    def _amount(self, what: str, kind: str, same: tuple[Any, ...], work: Work | None) -> Amount:
        known = self._seen.get(what, [])
        if work is None:
            return UNKNOWN
        expected = self.machine.seconds(work)
        if not expected:
            return NOTHING
        equal = [s.seconds * expected / s.expected for s in known if s.same == same]
        if equal:
            value = statistics.median(equal)
            return Amount(value, min(0.8 * value, *equal), max(1.25 * value, *equal), "measured", len(equal))
        near = [s for s in known if s.kind == kind]
        # of a protocol, other networks and protocols of the same device are worth more than nothing
        near = near or (known if what == "evaluate" and len(known) >= 3 else [])
        if near:
            closest = sorted(near, key=lambda s: abs(math.log(expected / s.expected)))[:5]
            factor = math.exp(statistics.mean(math.log(s.seconds / s.expected) for s in closest))
            apart = min(abs(math.log10(expected / s.expected)) for s in closest)
            return _times(expected * factor, _spread(what, 10**apart), "scaled", len(closest))
        return _times(expected, _GUESS_SPREAD.get(self.machine.device, 6.0), "guessed")

    def distil(self, cell: DistilCell) -> Amount:
        """Seconds of a distillation, teachers apart."""
        return self._amount("distil", cell.method, self._distil_key(cell), distil_work(cell))

    def training(self, group: Sequence[Trainings]) -> Amount:
        """Seconds of training the networks of one method or protocol."""
        if not group:
            return NOTHING
        if any(t.work is None for t in group):
            return UNKNOWN
        work = sum((t.work for t in group if t.work is not None), Work())
        return self._amount("trainings", group[0].key[0], tuple(t.key for t in group), work)

    def evaluate(self, cell: Cell) -> Amount:
        """Seconds of the students of a cell, and of what labels for them."""
        kind = f"{cell.protocol} {networks_.canonical(cell.network)}"
        return self._amount("evaluate", kind, self._evaluate_key(cell), evaluate_work(cell))


# ------------------------------------------------------------------------------------------------ whole plans


@dataclass(frozen=True)
class Group:
    """Cells that differ in their seeds alone.  What several groups share (a set, experts) is counted with the first."""

    dataset: str
    method: str
    recipe: str
    settings: Mapping[str, Any]
    ipc: int
    protocol: str
    network: str
    cells: int
    done: int
    distil: Amount
    teachers: Amount
    evaluate: Amount
    set_bytes: Amount
    label_bytes: Amount
    network_bytes: Amount
    """Of teachers and experts, in the cache."""

    @property
    def seconds(self) -> Amount:
        return self.distil + self.teachers + self.evaluate

    @property
    def bytes(self) -> Amount:
        return self.set_bytes + self.label_bytes + self.network_bytes


def _size(value: float | None) -> Amount:
    return UNKNOWN if value is None else Amount(value, value, value, "guessed" if value else "none")


def groups(cells: Sequence[Cell], estimator: Estimator, done: Iterable[Record] = ()) -> list[Group]:
    """A plan in groups, in its order, with what is still to be done of each.

    Args:
        cells: see ``plan.cells``.
        done: records of the run folder.  A cell counts as done where one of the same cell was scored or skipped, its set as
            made where any record of it was; whether code or data have changed since, only the run can tell.
    """
    finished = {_name(r.cell) for r in done if r.status in ("ok", "skipped")}
    made = {r.cell.distil.model_dump_json() for r in done if r.status == "ok"}
    paid: set[tuple[Any, ...]] = set()
    for r in done:
        if r.status == "ok":
            paid |= {t.key for t in [*trainings(r.cell.distil), *label_trainings(r.cell)]}
    found: list[Group] = []
    for same in _same(cells):
        distil = teachers = evaluate = sets = labels = networks = NOTHING
        ready = 0
        for cell in same:
            if _name(cell) in finished:
                ready += 1
                continue
            whole = cell.distil.model_dump_json()
            if whole not in made:
                made.add(whole)
                distil += estimator.distil(cell.distil)
                sets += _size(set_bytes(cell.distil))
            for group in (trainings(cell.distil), label_trainings(cell)):
                fresh = [t for t in group if t.key not in paid]
                paid |= {t.key for t in fresh}
                teachers += estimator.training(fresh)
                networks += total(_size(t.bytes) for t in fresh)
            evaluate += estimator.evaluate(cell)
            labels += _size(label_bytes(cell))
        d = same[0].distil
        found.append(
            Group(
                d.dataset, d.method, d.recipe, d.settings, d.ipc, same[0].protocol, same[0].network, len(same), ready,
                distil, teachers, evaluate, sets, labels, networks,
            )
        )  # fmt: skip
    return found


def seedless(record: Record) -> Record:
    """A record as of seed 0."""
    distil = record.cell.distil.model_copy(update={"seed": 0})
    return record.model_copy(update={"cell": record.cell.model_copy(update={"distil": distil})})


SWEEPS = "sweeps"
"""The folder inside a run folder in which settings were compared."""


def choice_path(runs: Path, group: Swept, fraction: float) -> Path:
    """Where a run folder keeps what was chosen for these cells on a held-out share of the training images."""
    return runs / SWEEPS / "choices" / group.choice_name(fraction)


def settled(
    runs: Path, group: Swept, fraction: float, before: Iterable[Record] = ()
) -> dict[str, Any] | None:
    """The settings that were chosen; None where not all comparisons are there, or the file can't be read.

    Args:
        before: records of the comparisons, see :func:`seedless`.
    """
    finished = {_name(r.cell) for r in before if r.status in ("ok", "skipped", "failed")}
    if any(_name(cell) not in finished for cell in group.trials(0)):
        return None
    try:
        found = json.loads(choice_path(runs, group, fraction).read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):  # it is made again by the run
        return None
    return dict(found) if found in list(group.candidates) else None


def _name(cell: Cell) -> str:
    return cell.model_copy(update={"network": networks_.canonical(cell.network)}).model_dump_json()


def _same(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    by: dict[str, list[Cell]] = {}
    for cell in cells:
        plain = cell.model_copy(update={"distil": cell.distil.model_copy(update={"seed": 0})})
        by.setdefault(plain.model_dump_json(), []).append(cell)
    yield from by.values()


def records_that_come_along() -> list[Record]:
    """Records of the boards of a checkout, where there are any: they say how long things took on the machine of those."""
    from ddbench import store

    root = Path(__file__).resolve().parent.parent / "leaderboards"
    return store.RunFolder(root).records([]) if (root / "records").is_dir() else []


# ------------------------------------------------------------------------------------------------ told


_DAY = 86400
_UNITS = (("s", 1, 90), ("m", 60, 90), ("h", 3600, 48), ("d", _DAY, 730), ("y", 365.25 * _DAY, math.inf))
"""Name, length in seconds, how many of them before the next is taken."""


def duration(seconds: float) -> str:
    """``45s``, ``3m``, ``2.5h``, ``4d``, ``5.5y``: two figures at most; less than a second is ``<1s``."""
    if seconds < 1:
        return "<1s"
    for unit, length, most in _UNITS:
        value = seconds / length
        if value < most:
            return f"{value:.2g}{unit}" if value < 10 else f"{float(f'{value:.2g}'):.0f}{unit}"
    raise ValueError(f"{seconds} seconds; expected a number")


_MARK = {"measured": "", "scaled": "*", "guessed": "?"}
LEGEND = (
    "networks: teachers and experts, trained once and kept",
    "~ A [n]: measured on n records of the same work",
    "A to B* [n]: scaled from n records of like work",
    "A to B?: guessed by arithmetic",
    "+ n unknown: n parts of which nothing is known",
    "what several lines share stands in the first of them",
)


def seconds_text(amount: Amount) -> str:
    """``~45s [3]``, ``2m to 8m* [5]``, ``1m to 9m?``, ``unknown``, or ``-`` for nothing."""
    if amount.how == "none" and amount.known:
        return "-"
    if amount.how in ("none", "unknown"):
        return "unknown"
    shown = f" [{amount.records}]" if amount.records else ""
    low, high = duration(amount.low), duration(amount.high)
    ends = high if low == high else f"{low} to {high}"
    likely = duration(amount.value)
    text = likely if likely.startswith("<") else f"~{likely}"
    text = text if amount.how == "measured" else f"{ends}{_MARK[amount.how]}"
    return f"{text}{shown}{_more(amount)}"


def _more(amount: Amount) -> str:
    return f" + {amount.unknown} unknown" if amount.unknown else ""


def bytes_text(amount: Amount) -> str:
    """``~1.2 MB``, ``unknown``, or ``-`` for nothing."""
    from ddbench.board import human_bytes

    if not amount.value:
        return "-" if amount.known else "unknown"
    return f"~{human_bytes(amount.value)}{_more(amount)}"


_SUMS = ("distil", "teachers", "evaluate", "seconds", "set_bytes", "label_bytes", "network_bytes", "bytes")


def _sums(groups: Sequence[Group]) -> dict[str, Amount]:
    # how many records are behind a part says nothing of the sum
    return {name: replace(total(getattr(g, name) for g in groups), records=0) for name in _SUMS}


def _row(of: Mapping[str, Any], cells: int, done: int, amounts: Mapping[str, Amount]) -> dict[str, Any]:
    return {
        **of,
        "cells": cells,
        "done": done,
        "distil": seconds_text(amounts["distil"]),
        "networks": seconds_text(amounts["teachers"]),
        "evaluate": seconds_text(amounts["evaluate"]),
        "disk": bytes_text(amounts["bytes"]),
    }


def _called(group: Group) -> str:
    more = " ".join(f"{k}={v}" for k, v in group.settings.items())
    named = "" if group.recipe == "auto" else f" ({group.recipe})"
    return f"{group.method}{named}{' ' + more if more else ''}"


def _kind(group: Group) -> tuple[str, str]:
    return group.dataset, _called(group)


def _folded(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A line a data set and method."""
    by: dict[tuple[str, str], list[Group]] = {}
    for g in groups:
        by.setdefault(_kind(g), []).append(g)
    rows = []
    for (dataset, method), those in by.items():
        of = {
            "data set": dataset,
            "method": method,
            "ipc": _some([str(g.ipc or "all") for g in those]),
            "protocols": _some([g.protocol for g in those]),
            "students": _some([g.network for g in those]),
        }
        rows.append(_row(of, sum(g.cells for g in those), sum(g.done for g in those), _sums(those)))
    return rows


def _some(names: Sequence[str]) -> str:
    """``dc-dsa, mtt and 3 more``."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - 3} more" if len(distinct) > 3 else ""
    return ", ".join(distinct[:3]) + more


def _each(groups: Sequence[Group]) -> list[dict[str, Any]]:
    return [
        _row(
            {
                "data set": g.dataset,
                "method": _called(g),
                "ipc": g.ipc or "all",
                "protocol": g.protocol,
                "network": g.network,
            },
            g.cells,
            g.done,
            {name: getattr(g, name) for name in _SUMS},
        )
        for g in groups
    ]


FOLD_OVER = 40
"""Groups above which a plan is told by data set and method."""


def text(
    suite: str,
    groups: Sequence[Group],
    compared: Sequence[Group],
    machine: Machine,
    runs: str,
    every: bool = False,
    notes: Sequence[str] = (),
) -> str:
    """A plan for people: a line a group, then a line a data set, then all of it.

    Args:
        compared: groups whose cells only compare settings.
        every: a line a group even of more than ``FOLD_OVER``, which are else told by data set and method.
        notes: lines before the last.
    """
    lines = []
    for title, those in (
        ("", groups),
        ("before that, to compare settings on held-out training images:", compared),
    ):
        if those:
            fold = len(those) > FOLD_OVER and not every
            if len(rows := _folded(those) if fold else _each(those)) == len(those):
                fold = False
            lines += [title] if title else []
            lines += [table_text(rows)]
            if fold:
                lines.append(
                    f"{len(those)} lines in {len(rows)}, one a data set and method; each of them: --all, or --json"
                )
            lines.append("")
    everything = [*groups, *compared]
    rows = []
    for dataset in [*dict.fromkeys(g.dataset for g in everything), ""]:
        those = [g for g in everything if not dataset or g.dataset == dataset]
        sums = _sums(those)
        row = _row(
            {"in all": dataset or "total"}, sum(g.cells for g in those), sum(g.done for g in those), sums
        )
        rows.append(row | {"seconds": seconds_text(sums["seconds"])})
    sums = _sums(everything)
    lines += [
        table_text(rows),
        "",
        f"disk: sets {bytes_text(sums['set_bytes'])}, labels {bytes_text(sums['label_bytes'])} in {runs}; teachers and experts "
        f"{bytes_text(sums['network_bytes'])} in the cache",
        *LEGEND,
        f"machine: {machine.device}, by {machine.source}",
        *notes,
    ]
    cells, done = sum(g.cells for g in everything), sum(g.done for g in everything)
    of = f" of suite {suite}" if suite else ""
    lines.append(
        f"{cells} cell{'s' * (cells != 1)}{of}, {done} done in {runs} as its records say; nothing was run"
    )
    return "\n".join(lines)


def _amount_document(amount: Amount) -> dict[str, Any]:
    return {
        "value": amount.value,
        "low": amount.low,
        "high": amount.high,
        "how": amount.how,
        "records": amount.records,
        "unknown_parts": amount.unknown,
    }


def document(
    suite: str, groups: Sequence[Group], compared: Sequence[Group], machine: Machine
) -> dict[str, Any]:
    """A plan as plain data, for scripts; seconds and bytes."""

    def one(g: Group) -> dict[str, Any]:
        of = ("dataset", "method", "recipe", "ipc", "protocol", "network", "cells", "done")
        amounts = {name: _amount_document(getattr(g, name)) for name in _SUMS}
        return {**{name: getattr(g, name) for name in of}, "settings": dict(g.settings), **amounts}

    everything = [*groups, *compared]
    return {
        "suite": suite,
        "cells": sum(g.cells for g in everything),
        "done": sum(g.done for g in everything),
        "groups": [one(g) for g in groups],
        "compared": [one(g) for g in compared],
        "total": {name: _amount_document(a) for name, a in _sums(everything).items()},
        "machine": {"device": machine.device, "source": machine.source},
    }
