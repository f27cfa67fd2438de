"""What students are made of: the batches they see, their loss, and many of them as one stacked network.

A student's random numbers come from its own generators alone: ``weights``, ``order`` (one permutation an epoch),
``visit``, ``augment`` and ``mix`` (one draw a step), or, under a view plan, the plan's seed, which is that of the plan
where answers are stored for its views and else the student's own (``views``).  Which path trains it, and how many train
beside it, changes nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.augment.mix import CutMix, Mix, Mixes
from ddbench.augment.named import augmentation
from ddbench.augment.views import Views, apply_views, batches, draw_views, mix_rows
from ddbench.compute import to_device
from ddbench.contract import Items, Space
from ddbench.seeding import Generators, derive
from ddbench.trainplan import TrainPlan, ViewPlan

_MIB = 1 << 20
_WINDOW_MIB = {"cpu": 8, "cuda": 256}
"""Inputs augmented together, steps ahead: the number of kernels is then that of the operations, not of the steps.  On CPU
more than the caches hold is no faster."""
CONVERT_MIB = {"cpu": 256, "cuda": 4096}
"""Sets whose inputs stay below this are standardised once, not a batch at a time."""

AnswerView = Callable[[int, int, Tensor, Tensor], Tensor]
"""(epoch, batch number, item indices (b,), the inputs that the student sees (b, C, H, W)) -> logits (b, classes)."""


# ------------------------------------------------------------------------------------------------ loss


def _soft_probabilities(soft: Tensor, kind: str, temperature: float) -> Tensor:
    if kind == "probabilities":
        if temperature == 1:
            return soft
        soft = soft.clamp_min(torch.finfo(soft.dtype).tiny).log()
    return F.softmax(soft / temperature, -1)


def losses(
    plan: TrainPlan,
    logits: Tensor,
    ids: Tensor | None = None,
    soft: Tensor | None = None,
    kind: str = "none",
    weights: Tensor | None = None,
) -> Tensor:
    """The loss of a batch, or of a batch of each of G students.

    Args:
        plan: names the loss.  ``ce``: cross-entropy with the soft targets where there are any, else with ``ids``.  ``kl``: of
            softmax(target / T) from softmax(logits / T), summed over classes.  ``mse``: mean over classes of the squared
            distance of the logits from the soft targets.  ``mse-gt``: that plus ``hard_weight`` times the
            cross-entropy with ids.
        logits: (..., b, K).
        ids: (..., b).
        soft: (..., b, K), with its kind.
        weights: (..., b).

    Returns:
        (...,): means over b; with weights sum(w * loss) / sum(w).

    Raises:
        ValueError: the plan's loss needs targets that are absent.
    """
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()

    def hard() -> Tensor:
        if ids is None:
            raise ValueError(
                f"loss {plan.loss!r} needs label ids, which the set does not have; use loss 'kl' or 'mse'"
            )
        rows = F.cross_entropy(logits.flatten(0, -2), ids.flatten(), reduction="none")
        return rows.view(ids.shape)

    if plan.loss == "ce":
        if soft is None:
            rows = hard()
        else:
            rows = -(_soft_probabilities(soft, kind, 1) * F.log_softmax(logits, -1)).sum(-1)
    elif soft is None:
        raise ValueError(
            f"loss {plan.loss!r} needs soft targets or a labeller, which the set does not have; use loss 'ce'"
        )
    elif plan.loss == "kl":
        p = _soft_probabilities(soft, kind, plan.temperature)
        q = F.log_softmax(logits / plan.temperature, -1)
        rows = (torch.xlogy(p, p) - p * q).sum(-1)
        if plan.temperature_squared:
            rows = rows * plan.temperature**2
    else:
        rows = (logits - soft).square().mean(-1)
        if plan.loss == "mse-gt":
            rows = rows + plan.hard_weight * hard()
    if weights is None:
        return rows.mean(-1)
    return (rows * weights).sum(-1) / weights.sum(-1)


# ------------------------------------------------------------------------------------------------ batches


def _black(space: Space | None, channels: int) -> Tensor | None:
    """The network input of a black pixel: crops were padded before standardising."""
    if space is None or space.zca is not None:
        return None
    return space.unit_to_input(torch.zeros(1, channels, 1, 1)).view(channels)


def batch_inputs(
    items: Items,
    plan: ViewPlan,
    epoch: int,
    batch: int,
    indices: Tensor,
    tensors: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, Views]:
    """Network inputs (b, C, H, W) of one batch of a view plan, and the views in them; students and labellers read this.

    Args:
        items: of the set.
        plan, epoch, batch: which batch; ``indices`` (b,) are its items (``views.batches``).
        tensors: of the set, for plans with explicit views.
    """
    stored = items.stored[indices.to(items.stored.device)]
    size = None
    if items.visit is not None:  # it may cut tiles at their stored size; views are full-sized all the same
        size = (int(stored.shape[-2]), int(stored.shape[-1]))
        generator = torch.Generator().manual_seed(derive(plan.seed, "visit", epoch, batch))
        stored = items.visit(stored, generator)
    inputs = items.to_input(stored)
    views = draw_views(plan, epoch, batch, indices, tuple(inputs.shape[1:]), tensors)
    fill = _black(items.space, inputs.shape[1]) if plan.crop == "pad" else None
    return apply_views(inputs, views, size, fill), views


def view_batches(
    items: Items,
    plan: ViewPlan,
    epoch: int,
    parts: Sequence[tuple[int, Tensor]],
    tensors: Mapping[str, Tensor] | None = None,
) -> list[tuple[Tensor, Views]]:
    """:func:`batch_inputs` of several batches (number, indices) of an epoch, bit by bit the same, drawn and cropped at once:
    crops and flips hang on the item, not on the batch."""
    if plan.boxes is not None or items.visit is not None or len(parts) == 1:
        return [batch_inputs(items, plan, epoch, number, rows, tensors) for number, rows in parts]
    rows = torch.cat([rows for _, rows in parts])
    inputs = items.to_input(items.stored[rows.to(items.stored.device)])
    shape = tuple(inputs.shape[1:])
    fill = _black(items.space, inputs.shape[1]) if plan.crop == "pad" else None
    apart = draw_views(replace(plan, mix="none"), epoch, 0, rows, shape)
    inputs = apply_views(inputs, apart, None, fill)
    mixed = replace(plan, crop="none", flip=0.0)
    found, start = [], 0
    for number, own in parts:
        here = slice(start, start := start + len(own))
        views = draw_views(mixed, epoch, number, own, shape)
        seen = inputs[here] if views.perm is None else apply_views(inputs[here], views)
        boxes = None if apart.boxes is None else apart.boxes[here]
        found.append((seen, replace(views, boxes=boxes, flips=apart.flips[here], resized=apart.resized)))
    return found


@dataclass(frozen=True, eq=False)
class Step:
    """One optimiser step of G students: inputs (G, b, C, H, W) and the targets (G, b, ...) that the set has."""

    epoch: int
    last: bool
    """Of its epoch."""
    inputs: Tensor
    ids: Tensor | None
    soft: Tensor | None
    kind: str
    weights: Tensor | None
    clean: Tensor | None = None
    """The inputs before augmentation and mix, where they were asked for."""

    def parts(self, size: int) -> list[Step]:
        """This step in micro-batches of ``size`` items, the last one as short as it comes."""
        starts = range(0, self.inputs.shape[1], size)

        def cut(t: Tensor | None, at: int) -> Tensor | None:
            return None if t is None else t[:, at : at + size].contiguous()  # one compiled form for all

        return [
            replace(
                self,
                inputs=self.inputs[:, at : at + size].contiguous(),
                ids=cut(self.ids, at),
                soft=cut(self.soft, at),
                weights=cut(self.weights, at),
                clean=cut(self.clean, at),
            )
            for at in starts
        ]


@dataclass
class _Planned:
    epoch: int
    number: int
    last: bool
    rows: Tensor
    draws: list[Any]
    mixes: list[Mix | None]
    inputs: Tensor | None


def _same(stored: Tensor) -> Tensor:
    return stored


class Feed:
    """The batches of G students, drawn ahead of the steps and augmented many at a time.

    Args:
        items: of the set.
        plan: batch, augmentation, mix, epochs, cap on steps.
        generators: one family a student.
        device, dtype: of the inputs.
        answers: of a labeller to what the student sees, where there is one.
        tensors: of the set, for explicit views.
        network, dataset: names, which decide what augment ``dc`` is.
        clean: give the inputs before augmentation and mix too (not under view plans).

    Under a mix the targets are probabilities in every step, mixed or not, and there are no ids: one kind of step for all.
    """

    def __init__(
        self,
        items: Items,
        plan: TrainPlan,
        generators: Sequence[Generators],
        device: torch.device,
        dtype: torch.dtype,
        answers: AnswerView | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        network: str = "",
        dataset: str = "",
        clean: bool = False,
    ) -> None:
        self.clean = clean
        self.items, self.plan, self.generators = items, plan, generators
        self.device, self.dtype, self.answers, self.tensors = device, dtype, answers, tensors
        length = epoch_length(items)
        self.steps_an_epoch = steps_an_epoch(length, plan)
        self.mix = None if plan.mix == "none" else CutMix(plan.mix_probability, plan.mix_alpha)
        self.ids = None if items.ids is None else items.ids.to(device)
        self.soft = None if items.soft is None else items.soft.to(device)  # in ``dtype`` a batch at a time
        self.kind = target_kind(items, plan)
        if self.mix is not None and self.soft is not None:
            self.soft = _soft_probabilities(self.soft.to(dtype), items.kind, 1)
        self.weights = None if items.weights is None else items.weights.to(device, dtype)
        self.shape = input_shape(items)
        self.augment = augmentation(
            plan.augment, items.flip, network, dataset, _black(items.space, self.shape[0])
        )
        item_mib = dtype.itemsize * self.shape.numel() / _MIB
        self._whole: Tensor | None = None
        if items.visit is None and item_mib * len(items) <= CONVERT_MIB[device.type]:
            self._whole = self._to_input(items.stored)
        batch = plan.batch if plan.views is None else plan.views.batch
        window = _WINDOW_MIB[device.type] / (item_mib * min(batch, length) * len(generators))
        self._ahead = max(1, int(window))
        self._viewable = replace(items, to_input=self._to_input)
        if self._whole is not None:
            self._viewable = replace(items, stored=self._whole, to_input=_same)

    def _to_input(self, stored: Tensor) -> Tensor:
        with torch.no_grad():
            return self.items.to_input(stored).to(self.device, self.dtype)

    def _gather(self, rows: Tensor) -> Tensor:
        """Inputs of items (...,) -> (..., C, H, W)."""
        flat = rows.flatten()
        if self._whole is not None:
            x = self._whole.index_select(0, to_device(flat, self.device))
        else:
            stored = self.items.stored
            x = self._to_input(stored[flat.to(stored.device)])
        return x.view(*rows.shape, *x.shape[1:])

    def _epoch_rows(self, epoch: int) -> Iterator[Tensor]:
        """(G, b) item indices of every step of an epoch."""
        law, n = self.items.law, len(self.items)
        orders = []
        for g in self.generators:
            orders.append(torch.randperm(n, generator=g("order")) if law is None else law(epoch, g).cpu())
        order = torch.stack(orders)
        for rows in torch.split(order, self.plan.batch, dim=1):
            if (
                rows.shape[1] == self.plan.batch
                or not self.plan.drop_last
                or order.shape[1] < self.plan.batch
            ):
                yield rows

    def __iter__(self) -> Iterator[Step]:
        planned: list[_Planned] = []
        taken, cap = 0, self.plan.max_steps
        for epoch in range(self.plan.epochs):
            if self.plan.views is not None:
                for step in self._viewed(epoch):
                    taken += 1
                    yield step if taken != cap else replace(step, last=True)
                    if taken == cap:
                        return
                continue
            batches_ = list(self._epoch_rows(epoch))
            for number, rows in enumerate(batches_):
                inputs, draws, mixes = None, [], []
                b, shape = rows.shape[1], tuple(self.shape)
                if (visit := self.items.visit) is not None:
                    stored = self.items.stored
                    parts = zip(rows, self.generators, strict=True)
                    inputs = torch.stack(
                        [self._to_input(visit(stored[r.to(stored.device)], g("visit"))) for r, g in parts]
                    )
                if self.augment is not None:
                    draws = [self.augment.draw(b, shape, g("augment")) for g in self.generators]
                if self.mix is not None:
                    mixes = [self.mix.draw(b, shape, g("mix")) for g in self.generators]
                taken += 1
                last = number == len(batches_) - 1 or taken == cap
                planned.append(_Planned(epoch, number, last, rows, draws, mixes, inputs))
                if len(planned) == self._ahead or taken == cap:
                    yield from self._prepare(planned)
                    planned = []
                if taken == cap:
                    return
        yield from self._prepare(planned)

    def _prepare(self, planned: list[_Planned]) -> Iterator[Step]:
        """Gather and augment steps of equal batch size together."""
        ready: dict[int, Step] = {}
        seen: dict[int, Tensor] = {}
        labeller = self.items.labeller
        for size in dict.fromkeys(p.rows.shape[1] for p in planned):
            which = [i for i, p in enumerate(planned) if p.rows.shape[1] == size]
            rows = torch.stack([planned[i].rows for i in which])  # (steps, G, b)
            if self.items.visit is not None:
                x = torch.stack([t for i in which if (t := planned[i].inputs) is not None])
            else:
                x = self._gather(rows)
            clean = x
            if self.augment is not None:
                draws = [d for i in which for d in planned[i].draws]
                with torch.no_grad():
                    x = self.augment.apply_groups(x.flatten(0, 1), draws).view(x.shape)
            on_device = to_device(rows, self.device)
            ids, weights = (None if t is None else t[on_device] for t in (self.ids, self.weights))
            soft = None if self.soft is None else self.soft[on_device].to(self.dtype)
            if self.mix is not None:
                mixes = [m for i in which for m in planned[i].mixes]
                x, soft, weights = self._mixed(x, ids, soft, weights, mixes)
                ids = None
            for at, i in enumerate(which):
                p = planned[i]
                at_ids, at_soft, at_weights = (None if t is None else t[at] for t in (ids, soft, weights))
                seen[i] = (clean if labeller is not None and labeller.sees == "clean" else x)[at]
                ready[i] = Step(
                    p.epoch, p.last, x[at], at_ids, at_soft, self.kind, at_weights, clean[at] if self.clean else None
                )  # fmt: skip
        for i, p in enumerate(planned):
            step, inputs = ready.pop(i), seen.pop(i)
            if self.answers is not None:
                step = replace(step, soft=self._answered(p, inputs), kind="logits")
            yield step

    def _mixed(
        self,
        x: Tensor,
        ids: Tensor | None,
        soft: Tensor | None,
        weights: Tensor | None,
        mixes: Sequence[Mix | None],
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Inputs (steps, G, b, C, H, W), probabilities (steps, G, b, K) and weights, all mixed by the same draws."""
        if soft is None:
            if ids is None:
                raise ValueError(
                    "CutMix got items with neither label ids nor soft labels; expected one of them"
                )
            soft = (ids[..., None] == torch.arange(self.items.classes, device=self.device)).to(self.dtype)
        drawn = Mixes.of(mixes, x.shape[2])
        with torch.no_grad():
            x = drawn.images(x.flatten(0, 1)).view(x.shape)
            soft = drawn.rows(soft.flatten(0, 1)).view(soft.shape)
            if weights is not None:
                weights = drawn.rows(weights.flatten(0, 1)).view(weights.shape)
        return x, soft, weights

    def _answered(self, p: _Planned, inputs: Tensor) -> Tensor:
        assert self.answers is not None
        told = [self.answers(p.epoch, p.number, r, x) for r, x in zip(p.rows, inputs, strict=True)]
        return torch.stack(told).to(self.device, self.dtype)

    def _view_orders(self, epoch: int) -> list[tuple[ViewPlan, list[Tensor]]]:
        """The plan and the batches of an epoch: one for all students, or one each."""
        plan, n, law = self.plan.views, len(self.items), self.items.law
        assert plan is not None
        if not self.plan.own_views:
            return [(plan, batches(plan, n, epoch, self.tensors))]
        found = []
        for g in self.generators:
            own = replace(plan, seed=derive(g.seed, *g.path, "views"))
            order = (
                batches(own, n, epoch) if law is None else list(torch.split(law(epoch, g).cpu(), own.batch))
            )
            found.append((own, order))
        return found

    def _viewed(self, epoch: int) -> Iterator[Step]:
        """The batches of a view plan: the same for every student, or of each student's own."""
        orders, many = self._view_orders(epoch), len(self.generators)
        numbers = range(len(orders[0][1]))
        for first in range(0, len(numbers), self._ahead):
            here = numbers[first : first + self._ahead]
            with torch.no_grad():
                seen = [
                    view_batches(self._viewable, plan, epoch, [(n, order[n]) for n in here], self.tensors)
                    for plan, order in orders
                ]
            for at, number in enumerate(here):
                each = []
                for (_, order), drawn in zip(orders, seen, strict=True):
                    inputs, views = drawn[at]
                    inputs = inputs.to(self.device, self.dtype)
                    targets = self._viewed_targets(epoch, number, order[number], inputs, views)
                    each.append((inputs, *targets))
                xs, ids, soft, kinds, weights = zip(*each, strict=True)
                yield Step(
                    epoch,
                    number == numbers[-1],
                    _for_all(xs, many),
                    _or_none(ids, many),
                    _or_none(soft, many),
                    kinds[0],
                    _or_none(weights, many),
                )

    def _viewed_targets(
        self, epoch: int, number: int, rows: Tensor, inputs: Tensor, views: Views
    ) -> tuple[Tensor | None, Tensor | None, str, Tensor | None]:
        size = (int(inputs.shape[-2]), int(inputs.shape[-1]))
        on_device = to_device(rows, self.device)
        ids, weights = (None if t is None else t[on_device] for t in (self.ids, self.weights))
        soft = None if self.soft is None else self.soft[on_device].to(self.dtype)
        kind = self.items.kind
        if self.answers is not None:  # the labeller saw the mixed view itself
            answered = self.answers(epoch, number, rows, inputs).to(self.device, self.dtype)
            return ids, answered, "logits", weights
        if soft is None and ids is not None and views.perm is not None and self.plan.loss == "ce":
            soft, kind = F.one_hot(ids.long(), self.items.classes).to(self.dtype), "probabilities"
        if soft is not None:  # static labels are interpolated like the images
            soft = mix_rows(soft, views, size)
        return ids, soft, kind, weights


def _for_all(parts: Sequence[Tensor], many: int) -> Tensor:
    """One tensor a student, or one for all of ``many``, as (many, ...)."""
    if len(parts) == many:
        return torch.stack(list(parts))
    return parts[0].expand(many, *parts[0].shape).contiguous()  # one compiled form for all


def _or_none(parts: Sequence[Tensor | None], many: int) -> Tensor | None:
    there = [t for t in parts if t is not None]
    return _for_all(there, many) if there else None


def target_kind(items: Items, plan: TrainPlan) -> str:
    """What the soft targets of every step are: those of the items, or probabilities where a mix makes them."""
    views = plan.views
    viewed = views is not None and views.mix != "none" and plan.loss == "ce" and items.soft is None
    return "probabilities" if plan.mix != "none" or viewed else items.kind


def epoch_length(items: Items) -> int:
    """Items that a student sees in an epoch: all, or as many as a resampling law draws."""
    return len(items) if items.law is None else len(items.law(0, Generators(0)))


def steps_an_epoch(n: int, plan: TrainPlan) -> int:
    """Steps of an epoch over n items."""
    batch = plan.batch if plan.views is None else plan.views.batch
    whole, rest = divmod(n, batch)
    return max(whole, 1) if plan.drop_last and plan.views is None else whole + (rest > 0)


def total_steps(n: int, plan: TrainPlan) -> int:
    """Steps in all, the plan's cap included."""
    steps = plan.epochs * steps_an_epoch(n, plan)
    return steps if plan.max_steps is None else min(steps, plan.max_steps)


def input_shape(items: Items) -> torch.Size:
    """(C, H, W) of one network input; a visit that changes the size decides."""
    with torch.no_grad():
        one = items.stored[:1]
        if items.visit is not None:
            one = items.visit(one, torch.Generator().manual_seed(0))
        return items.to_input(one).shape[1:]
