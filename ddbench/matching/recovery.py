"""Images recovered from trained networks: a frozen network is to give them their classes, and its batch norms the
statistics that they saw in training.

A *cell* is a batch of synthetic images, at most one a class, that is optimised by itself: its batch-norm statistics are
those of its own images.  Cells know nothing of each other, so many of them go through a network at once, with statistics a
cell, and every cell draws from a generator of its own: how many run side by side changes nothing but rounding.

A view (random resized crop, mirror, cyclic shift; one draw for all images of a cell) is linear in rows and in columns, so it
is two matrix products, whatever was drawn: shapes never change, and crops of many cells are one call.

Sources: Yin, Xing and Shen, "Squeeze, Recover and Relabel", NeurIPS 2023, arXiv:2306.13092; the batch-norm loss and the
image priors are those of DeepInversion (arXiv:1912.08795); the curriculum of crops is CDA's (arXiv:2311.18838); several
networks that vote are CV-DD's (arXiv:2501.07575); one perturbation for all classes is INFER's (arXiv:2408.06927).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.augment.views import CROP_TRIES, resized_boxes
from ddbench.compute import COMPILE_ABOVE_S, FLOPS, Traced, compiler_works
from ddbench.contract import DistilledSet, Space, Task, Trained
from ddbench.matching.patches import truncated
from ddbench.nets.build import architecture, multiply_adds
from ddbench.nets.names import canonical

CURRICULA = ("step", "linear", "cosine")
_LOW = 0.08
"""Least share of the area that a crop shows."""
_DRAWS = 4 * CROP_TRIES + 3
"""Uniform numbers that a step of a cell takes, whatever it uses of them: with other settings the stream stays the same."""
_TOGETHER = 4e9
"""Multiply-adds of one forward pass up to which cells run side by side on CPU: what is larger fills two cores by itself."""
_MEMORY_MIB = {"cpu": 2048.0, "cuda": 16384.0}
"""For the activations of cells that run side by side, where the task names no limit."""


# ------------------------------------------------------------------------------------------------ the curriculum


def least_area(iteration: int, iterations: int, mode: str = "cosine", milestone: float = 0.0) -> float:
    """CDA's curriculum: the least share of the area that a crop of an iteration (0-based) shows.

    From ``milestone * iterations`` on it is 0.08 (so milestone 0 is SRe2L); before, it falls from 1 to 0.08 in the named
    way: ``step`` (stays 1), ``linear`` or ``cosine``.

    Raises:
        ValueError: another mode, or a milestone outside [0, 1].
    """
    if mode not in CURRICULA:
        raise ValueError(f"curriculum is {mode!r}; expected one of {', '.join(CURRICULA)}")
    if not 0 <= milestone <= 1:
        raise ValueError(f"milestone is {milestone}; expected a share of the iterations, 0 to 1")
    end = milestone * iterations
    if iteration >= end:
        return _LOW
    u = iteration / end
    if mode == "step":
        return 1.0
    fall = 1 - u if mode == "linear" else (1 + math.cos(math.pi * u)) / 2
    return _LOW + (1 - _LOW) * fall


# ------------------------------------------------------------------------------------------------ the loss


def check_batch_norm(network: str, shape: tuple[int, int, int], classes: int) -> None:
    """Raises:
    ValueError: the architecture has no batch norm, whose statistics recovery needs."""
    name = canonical(network)
    if not any(isinstance(m, nn.BatchNorm2d) for m in architecture(name, shape, classes).modules()):
        raise ValueError(
            f"{name} has no batch norm, and images are recovered from the statistics that batch norms saw in training; "
            f"expected a network with it, such as ResNet18BN or ConvNetBN"
        )


def observed(network: nn.Module, inputs: Tensor, first_weight: float = 10.0) -> tuple[Tensor, Tensor]:
    """Logits of a frozen network in eval mode, and how far the statistics at its batch norms are from those of training.

    The distance is the sum, over all BatchNorm2d that are executed, of |mean - running_mean| + |var - running_var|: plain
    Euclidean norms over channels, not squared, of the mean and the biased variance of the norm's input over images and
    pixels; the first BatchNorm2d in order of registration counts ``first_weight`` times.

    Args:
        network: in eval mode.
        inputs: (G, B, C, H, W), B images of each of G cells.

    Returns:
        logits (G, B, K), and the distances (G,); differentiable in the inputs.
    """
    cells = len(inputs)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    found: list[Tensor] = []

    def hook(weight: float, norm: nn.BatchNorm2d, given: tuple[Tensor, ...]) -> None:
        x = given[0]
        var, mean = torch.var_mean(x.view(cells, -1, *x.shape[1:]), (1, 3, 4), correction=0)
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError(
                "a batch norm keeps no running statistics; expected one that was trained with them"
            )
        distance = torch.linalg.vector_norm(mean - norm.running_mean, dim=1)
        found.append(weight * (distance + torch.linalg.vector_norm(var - norm.running_var, dim=1)))

    handles = [
        norm.register_forward_pre_hook(functools.partial(hook, first_weight if i == 0 else 1.0))
        for i, norm in enumerate(norms)
    ]
    try:
        logits: Tensor = network(inputs.flatten(0, 1))
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise ValueError("the network has no batch norm; expected at least one BatchNorm2d")
    return logits.view(cells, -1, logits.shape[-1]), torch.stack(found).sum(0)


def total_variation(views: Tensor) -> Tensor:
    """DeepInversion's l2 total variation of each cell (G,): Frobenius norms, over all images of the cell (G, B, C, H, W),
    of the horizontal, the vertical and both diagonal differences of neighbours, summed."""
    x = views
    differences = (
        x[..., :, :-1] - x[..., :, 1:],
        x[..., :-1, :] - x[..., 1:, :],
        x[..., 1:, :-1] - x[..., :-1, 1:],
        x[..., :-1, :-1] - x[..., 1:, 1:],
    )
    return torch.stack([torch.linalg.vector_norm(d.flatten(1), dim=1) for d in differences]).sum(0)


def mean_norm(views: Tensor) -> Tensor:
    """Mean over the images of each cell (G, B, C, H, W) of the Euclidean norm of an image: (G,)."""
    norms: Tensor = torch.linalg.vector_norm(views.flatten(2), dim=2)
    return norms.mean(1)


# ------------------------------------------------------------------------------------------------ views


def resampling(start: Tensor, length: Tensor, size: int, flip: Tensor, shift: Tensor) -> Tensor:
    """Matrices (G, size, size) that crop along one axis, resize back to ``size``, mirror and shift cyclically.

    Row o of matrix g holds the bilinear weights (align_corners False, borders of the crop repeated) of the pixels that
    make pixel o of the view.

    Args:
        start, length: (G,) first pixel and length of the crop.
        flip: (G,) bool, whether the resized crop is mirrored.
        shift: (G,) pixels by which what comes out is rolled on, after the mirror.
    """
    cells = len(start)
    at = (torch.arange(size, dtype=torch.float64)[None] + 0.5) * (length[:, None].double() / size) - 0.5
    at = torch.minimum(at.clamp(min=0), (length[:, None] - 1).double())
    low = at.floor().long()
    high = torch.minimum(low + 1, length[:, None] - 1)
    share = at - low
    weights = torch.zeros(cells, size, size, dtype=torch.float64)
    weights.scatter_add_(2, (low + start[:, None])[..., None], (1 - share)[..., None])
    weights.scatter_add_(2, (high + start[:, None])[..., None], share[..., None])
    out = torch.arange(size)[None]
    source = (out - shift[:, None]) % size
    source = torch.where(flip[:, None], size - 1 - source, source)
    return weights.gather(1, source[..., None].expand(cells, size, size))


def seen(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Views (G, B, C, H, W) of images (G, B, C, H, W) by row (G, H, H) and column (G, W, W) matrices; differentiable."""
    cells, batch, channels, height, width = x.shape
    y = torch.bmm(x.reshape(cells, -1, width), columns.mT).view(cells, batch * channels, height, width)
    y = torch.bmm(y.mT.reshape(cells, -1, height), rows.mT)
    return y.view(cells, batch, channels, width, height).transpose(-1, -2)


# ------------------------------------------------------------------------------------------------ settings


@dataclass(frozen=True)
class Recovery:
    """How images are recovered; what is left out is SRe2L's on ImageNet-1K.

    Raises:
        ValueError: a number is out of range.
    """

    iterations: int = 4000
    """Updates of a cell (count)."""
    lr: float = 0.25
    """Adam's first step, in units of the network's input; falls to 0 by half a cosine."""
    bn_weight: float = 0.01
    """Weight of the batch-norm loss beside the cross-entropy."""
    classes_at_once: int = 100
    """Classes of a cell, one image each (count)."""
    crop: bool = True
    """Whether a step shows a random resized crop."""
    flip: bool = True
    """Whether a step mirrors with probability 1/2."""
    roll: tuple[int, int] = (0, 32)
    """Least and greatest cyclic shift of both axes (pixels)."""
    curriculum: str = "cosine"
    """How the least area of a crop falls, see :func:`least_area`."""
    milestone: float = 0.0
    """Share of the iterations in which it falls; 0: no curriculum."""
    first_weight: float = 10.0
    """Weight of the first batch norm among all."""
    tv_weight: float = 0.0
    """Weight of the total variation (DeepInversion's l2 form); 0 in all that was published."""
    l2_weight: float = 0.0
    """Weight of the mean norm of a view; 0 in all that was published."""

    def __post_init__(self) -> None:
        for name in ("iterations", "classes_at_once"):
            least = 0 if name == "iterations" else 1
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr is {self.lr}; expected a step above 0")
        for name in ("bn_weight", "first_weight", "tv_weight", "l2_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number, 0 or more")
        if len(self.roll) != 2 or self.roll[0] > self.roll[1]:
            raise ValueError(f"roll is {self.roll}; expected the least and the greatest shift in pixels")
        least_area(0, self.iterations, self.curriculum, self.milestone)

    def lr_at(self, iteration: int) -> float:
        """Adam's step in an iteration (0-based)."""
        return self.lr * 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))

    def draw(
        self, iteration: int, size: tuple[int, int], chances: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Matrices of rows (G, H, H) and columns (G, W, W) of one view of each of G cells, float64, on the CPU."""
        height, width = size
        cells = len(chances)
        draws = torch.stack([torch.rand(_DRAWS, dtype=torch.float64, generator=g) for g in chances])
        boxes = torch.tensor([[0, 0, height, width]]).expand(cells, 4)
        if self.crop:
            low = least_area(iteration, self.iterations, self.curriculum, self.milestone)
            tries = draws[:, : 4 * CROP_TRIES].view(cells, CROP_TRIES, 4).numpy()
            boxes = resized_boxes(tries, size, (low, 1.0))
        top, left, h, w = boxes.unbind(1)
        mirrored = draws[:, -3] < (0.5 if self.flip else 0.0)
        least, greatest = self.roll
        shifts = (least + draws[:, -2:] * (greatest - least + 1)).floor().long()
        upright = torch.zeros(cells, dtype=torch.bool)
        return (
            resampling(top, h, height, upright, shifts[:, 0]),
            resampling(left, w, width, mirrored, shifts[:, 1]),
        )


def pixel_bounds(space: Space, like: Tensor) -> tuple[Tensor, Tensor]:
    """Network inputs (C, 1, 1) of black and of white pixels: an image of real pixels lies between them."""
    shape = (1, len(space.mean), 1, 1)
    ends = [
        space.unit_to_input(torch.full(shape, v, dtype=like.dtype))[0].to(like.device) for v in (0.0, 1.0)
    ]
    return ends[0], ends[1]


def to_bytes(inputs: Tensor, space: Space) -> Tensor:
    """Network inputs (n, C, H, W) -> uint8 pixels, clamped and truncated as the authors' files are."""
    return truncated(space.input_to_unit(inputs) * 255)


# ------------------------------------------------------------------------------------------------ the loop


@dataclass(frozen=True)
class _Cell:
    """Images that are optimised together: of one id and one run of classes."""

    id: int
    classes: Tensor
    chance: torch.Generator


class _Progress:
    """A loop's state: pixels and optimiser while it runs, what became of them afterwards."""

    def __init__(self, x: Tensor, optimiser: torch.optim.Optimizer) -> None:
        self.x, self.optimiser = x, optimiser
        self.result: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        if (
            self.result is not None
        ):  # the checkpoints of thousands of finished cells: as small as what they made
            return {"result": self.result}
        return {"x": self.x, "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        kept = state["result"] if "result" in state else state["x"]
        if len(kept) != len(self.x) or ("x" in state and kept.shape != self.x.shape):
            raise ValueError(
                f"it holds {len(kept)} cells side by side, {len(self.x)} are asked for: how many fit follows from the memory "
                f"limit and the device; give those of the run that was stopped"
            )
        if "result" in state:
            self.result = kept
            return
        with torch.no_grad():
            self.x.copy_(state["x"])
        self.optimiser.load_state_dict(state["optimiser"])


def _activation_mib(network: nn.Module, shape: tuple[int, int, int]) -> float:
    """What the outputs of all layers for one image take, the gradients that come back included."""
    numbers = 0

    def count(_layer: nn.Module, _given: Any, out: Any) -> None:
        nonlocal numbers
        numbers += out[0].numel() if isinstance(out, Tensor) else 0

    handles = [m.register_forward_hook(count) for m in network.modules() if not list(m.children())]
    try:
        with torch.no_grad():
            network(next(network.parameters()).new_zeros(1, *shape))
    finally:
        for handle in handles:
            handle.remove()
    return 2 * 4 * numbers / 2**20


class _Gradient:
    """Losses of cells at a network, and their gradient; traced, and compiled where the run is long."""

    def __init__(self, network: nn.Module, key: str, settings: Recovery, compiled: bool) -> None:
        def call(x: Tensor, rows: Tensor, columns: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            x = x.detach().requires_grad_()
            logits, distance = observed(network, seen(x, rows, columns), settings.first_weight)
            losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            entropy = losses.view(labels.shape).mean(1)
            total = entropy + settings.bn_weight * distance
            (gradient,) = torch.autograd.grad(total.sum(), x)
            return entropy.detach(), distance.detach(), gradient

        what = (key, settings.bn_weight, settings.first_weight)
        self._call = Traced(("recovery", *what), call, compiled) if compiled else call

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = self._call(*tensors)
        return found


def _cells_together(networks: Sequence[Trained], batch: int, task: Task) -> int:
    """How many cells run side by side, from shapes and the memory limit alone."""
    shape, classes = task.train.shape, task.train.classes
    limit = task.memory_limit_mib or _MEMORY_MIB[task.device.type]
    largest = max(_activation_mib(t.network, shape) for t in networks)
    fit = int(limit / max(largest * batch, 1e-6))
    if task.device.type == "cpu":
        step = batch * max(multiply_adds(t.name, shape, classes) for t in networks)
        fit = min(fit, int(_TOGETHER / step))
    return max(1, fit)


@dataclass(eq=False)
class _Run:
    """What all groups of cells of a recovery have in common."""

    task: Task
    networks: Sequence[Trained]
    votes: Tensor
    settings: Recovery
    space: Space
    compiled: bool

    def optimise(
        self,
        cells: Sequence[_Cell],
        first: Callable[[_Cell], Tensor],
        finish: Callable[[Tensor], Tensor],
        base: Callable[[_Cell], Tensor] | None = None,
        shown: Callable[[Tensor], DistilledSet] | None = None,
    ) -> Tensor:
        """Recover cells of equal size side by side; ``finish`` turns their last iterate into what is kept.

        With ``base`` (images a cell) the variable is one perturbation that is added to all of them; else the images.
        """
        task, settings, device = self.task, self.settings, self.task.device
        dtype = next(self.networks[0].network.parameters()).dtype
        x = torch.stack([first(c) for c in cells]).to(device, dtype)
        fixed = None if base is None else torch.stack([base(c) for c in cells]).to(device, dtype)
        labels = torch.stack([c.classes for c in cells]).to(device)
        size = (int(x.shape[-2]), int(x.shape[-1]))
        black, white = pixel_bounds(self.space, x)
        optimiser = torch.optim.Adam([x], lr=settings.lr, betas=(0.5, 0.9))
        progress = _Progress(x, optimiser)
        asked = self._asked(cells)
        chances = [c.chance for c in cells]
        priors = settings.tv_weight > 0 or settings.l2_weight > 0

        def show() -> DistilledSet:
            assert shown is not None  # the loop is given this only then
            return shown(finish(x))

        for it in task.loop(settings.iterations, state=[progress], show=show if shown is not None else None):
            rows, columns = (t.to(device, dtype) for t in settings.draw(it, size, chances))
            inputs = x if fixed is None else fixed + x
            x.grad = torch.zeros_like(x)
            entropy, distance = x.new_zeros(len(cells)), x.new_zeros(len(cells))
            for gradient_of, which, weight in asked:
                ce, bn, gradient = gradient_of(inputs[which], rows[which], columns[which], labels[which])
                gradient = gradient * weight.view(-1, 1, 1, 1, 1)
                x.grad.index_add_(0, which, gradient if fixed is None else gradient.sum(1, keepdim=True))
                entropy.index_add_(0, which, weight * ce)
                distance.index_add_(0, which, weight * bn)
            if priors:
                variable = x.detach().requires_grad_()
                view = seen(variable if fixed is None else fixed + variable, rows, columns)
                extra = settings.tv_weight * total_variation(view) + settings.l2_weight * mean_norm(view)
                x.grad += torch.autograd.grad(extra.sum(), variable)[0]
            last = it + 1 == settings.iterations
            if fixed is None or not last:  # the authors keep a perturbation as it was before the last update
                for group in optimiser.param_groups:
                    group["lr"] = settings.lr_at(it)
                optimiser.step()
            if fixed is None:
                x.copy_(torch.maximum(torch.minimum(x, white), black))
            loss = entropy + settings.bn_weight * distance
            task.log(loss=loss.mean(), entropy=entropy.mean(), bn=distance.mean())
            if last:
                progress.result = finish(x).cpu()
        return finish(x).cpu() if progress.result is None else progress.result

    def _asked(self, cells: Sequence[_Cell]) -> list[tuple[_Gradient, Tensor, Tensor]]:
        """Of each network that some of the cells ask: its gradient, which cells ask it, and their votes."""
        own = self.votes[[c.id for c in cells]]
        found = []
        for m, trained in enumerate(self.networks):
            which = (own[:, m] > 0).nonzero().squeeze(1)
            if len(which):
                gradient_of = _Gradient(trained.network, trained.fingerprint, self.settings, self.compiled)
                weight = own[which, m].to(next(trained.network.parameters()))
                found.append((gradient_of, which.to(self.task.device), weight))
        return found


def _groups(cells: Sequence[_Cell], together: int) -> list[list[_Cell]]:
    """Cells of equal size, in order, at most ``together`` a group; groups of about equal size."""
    found: list[list[_Cell]] = []
    for size in dict.fromkeys(len(c.classes) for c in cells):
        same = [c for c in cells if len(c.classes) == size]
        number = math.ceil(len(same) / together)
        each = math.ceil(len(same) / number)
        found += [same[i : i + each] for i in range(0, len(same), each)]
    return found


def _compiles(task: Task, networks: Sequence[Trained], cells: int, batch: int, settings: Recovery) -> bool:
    """Compiled where the plain loop would be long: forward and backward to the pixels, 4 operations a multiply-add."""
    train = task.train
    step = batch * sum(multiply_adds(t.name, train.shape, train.classes) for t in networks) / len(networks)
    long = settings.iterations * cells * 4 * step / FLOPS > COMPILE_ABOVE_S * 3
    return task.device.type == "cpu" and long and compiler_works()


def recover(
    task: Task,
    networks: Sequence[Trained],
    votes: Tensor,
    settings: Recovery,
    space: Space,
    first: Callable[[int, Tensor], Tensor] | None = None,
    show: Callable[[Tensor], DistilledSet] | None = None,
    name: str = "",
) -> Tensor:
    """Recover images of every class for every id.

    The loss of a cell is sum_m votes[id, m] * (cross-entropy_m + bn_weight * distance_m), the cross-entropy a mean over its
    images.  The last iterate is kept.

    Args:
        networks: teachers, in eval mode and frozen, with batch norm; all of one space.
        votes: (ids, M) weights, each row summing to 1; a network with vote 0 is not asked.
        settings: of the loop.
        space: of the networks' inputs.
        first: (id, classes (B,)) -> first network inputs (B, C, H, W) of these classes; None: N(0, 1).
        show: makes a set of the images so far (ids, K, C, H, W), what is not yet begun is grey; for snapshots.
        name: tells the random streams of several recoveries of one task apart.

    Returns:
        uint8 (ids, K, C, H, W); its transpose (K, ids, ...) is contiguous.

    Raises:
        ValueError: votes that do not fit, networks without batch norm.
    """
    train, shape = task.train, task.train.shape
    if votes.dim() != 2 or votes.shape[1] != len(networks) or bool((votes.sum(1) <= 0).any()):
        raise ValueError(
            f"votes are {tuple(votes.shape)} for {len(networks)} networks; expected (ids, networks), a vote in each row"
        )
    ids, runs = len(votes), torch.split(torch.arange(train.classes), settings.classes_at_once)
    grey = to_bytes(torch.zeros(1, *shape), space)[0]
    out = grey.expand(train.classes, ids, *shape).contiguous()
    cells = [_Cell(i, run, task.rng(f"recover-{name}{i}-{int(run[0])}")) for run in runs for i in range(ids)]

    def start(cell: _Cell) -> Tensor:
        if first is not None:
            return first(cell.id, cell.classes)
        return torch.randn(len(cell.classes), *shape, generator=cell.chance)

    def finish(x: Tensor) -> Tensor:
        return torch.stack([to_bytes(part, space) for part in x.detach()])

    def place(group: Sequence[_Cell], made: Tensor) -> Tensor:
        for cell, images in zip(group, made, strict=True):
            out[cell.classes, cell.id] = images.cpu()
        return out.transpose(0, 1)

    batch = len(runs[0])
    together = _cells_together(networks, batch, task)
    run = _Run(task, networks, votes, settings, space, _compiles(task, networks, len(cells), batch, settings))
    for group in _groups(cells, together):

        def shown(made: Tensor, group: Sequence[_Cell] = group) -> DistilledSet:
            assert show is not None  # only called where it is given
            return show(place(group, made))

        made = run.optimise(group, start, finish, shown=None if show is None else shown)
        place(group, made)
    return out.transpose(0, 1)


def compensate(
    task: Task, networks: Sequence[Trained], naturals: Tensor, settings: Recovery, space: Space
) -> Tensor:
    """INFER's compensators: for each network and each natural number j one perturbation that is added to the j-th natural
    image of every class at once.

    It starts at 0 and is not clamped; the last update is left out, as in the authors' code (its step is about 0).

    Args:
        naturals: uint8 (J, K, C, H, W).
        networks, settings, space: as for :func:`recover`; ``classes_at_once`` is not used, all classes go together.

    Returns:
        float32 (M, J, C, H, W), in units of the network's input.
    """
    numbers, many = len(naturals), len(networks)
    votes = torch.eye(many).repeat_interleave(numbers, 0)
    classes = torch.arange(naturals.shape[1])
    cells = [_Cell(i, classes, task.rng(f"compensate-{i}")) for i in range(numbers * many)]
    out = torch.zeros(many * numbers, *naturals.shape[2:])

    def base(cell: _Cell) -> Tensor:
        return space.real_to_input(naturals[cell.id % numbers])

    def start(cell: _Cell) -> Tensor:
        return torch.zeros(1, *naturals.shape[2:])

    together = _cells_together(networks, len(classes), task)
    compiled = _compiles(task, networks, len(cells), len(classes), settings)
    run = _Run(task, networks, votes, settings, space, compiled)
    for group in _groups(cells, together):
        made = run.optimise(group, start, lambda x: x.detach()[:, 0], base)
        out[[c.id for c in group]] = made.to(out)
    return out.view(many, numbers, *out.shape[1:])
