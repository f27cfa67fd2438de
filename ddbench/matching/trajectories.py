"""The distance of a student to an expert after some of its steps, and its gradient through all of these steps.

A student starts at an expert's parameters and takes N steps of gradient descent on synthetic batches with a learned step
size; the loss is the squared distance to where the expert went, as a share of the squared distance that the expert went.
Three ways to its gradient: ``unroll`` keeps the graph of all steps; ``adjoint`` gives the same numbers from one backward sweep
that holds the graph of one step at a time; ``tesla`` is TESLA's approximation, which holds every student state fixed and so
drops the products (I - beta H) of later steps (exact for N = 1 only).

Source: Cazenavette et al., arXiv:2203.11932 (MTT); Cui et al., arXiv:2211.10586 (TESLA).
Departures: the pixel gradient of ``tesla`` has the factor 2 of the square, which TESLA's released code drops (its step sizes of
pixels are halved in our recipes); the adjoint is ours, exact to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.compute import Traced, compiler_works, loop_s
from ddbench.nets.build import multiply_adds
from ddbench.nets.flat import Flat
from ddbench.nets.names import Shape, canonical

WAYS = ("adjoint", "unroll", "tesla")
LABELS = ("ids", "logits", "probabilities")
_STEPS_A_SWEEP = 4
"""A step of the adjoint in training steps: the first-order pass, and the second-order one, about three of them."""
_TRACE_ABOVE_S, _COMPILE_ABOVE_S = 5.0, 100.0
"""Second derivatives are traced, or compiled, where the loop would take longer than this by estimate: tracing costs 1 to 2 s
a shape, compiling 30 s, and saves a third of the time after it."""

Batch = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Step number, all synthetic images (n, C, H, W) and labels (n,) or (n, K) -> what the student sees in this step:
differentiable in both, the same in every call."""


def inner_loss(logits: Tensor, labels: Tensor, kind: str) -> Tensor:
    """Mean cross-entropy of logits (b, K) with labels of a kind: ``ids`` (b,), ``logits`` (b, K), whose softmax is taken
    here, or ``probabilities`` (b, K)."""
    return F.cross_entropy(logits, torch.softmax(labels, dim=1) if kind == "logits" else labels)


class Student:
    """The loss of a network as a function of its flat parameters, with first and second derivatives.

    Args:
        network, shape, classes: of the architecture.
        kind: of the labels: ``ids`` | ``logits`` | ``probabilities``.
        steps: that will be taken in all (count): decides, on a CPU, whether tracing and compiling pay; 0: neither.
        batch: images a step.
        device: of the steps.
        chunk: images that go through the network at once; None: all of a step.  The loss is a mean over images, so the
            derivatives are the same up to rounding.  ``unroll`` takes all of a step, whatever is said here.

    Raises:
        ValueError: an unknown kind, or a network that has no flat form (:class:`ddbench.nets.flat.Flat`).
    """

    chunk: int | None = None

    def __init__(
        self,
        network: str,
        shape: Shape,
        classes: int,
        kind: str = "ids",
        steps: int = 0,
        batch: int = 1,
        device: torch.device | str = "cpu",
        chunk: int | None = None,
    ) -> None:
        if kind not in LABELS:
            raise ValueError(f"labels of a student are {kind!r}; expected one of {', '.join(LABELS)}")
        self.flat, self.kind, self.chunk = Flat(network, shape, classes), kind, chunk
        self._first: Callable[..., Tensor] = self._gradient
        self._second: Callable[..., tuple[Tensor, ...]] = self._products
        self._last: Callable[..., tuple[Tensor, ...]] = self._input_products
        estimate_s = _STEPS_A_SWEEP * loop_s(steps, batch * multiply_adds(network, shape, classes))
        if steps and torch.device(device).type == "cpu" and estimate_s > _TRACE_ABOVE_S:
            compiled = estimate_s > _COMPILE_ABOVE_S and compiler_works()
            key = (canonical(network), tuple(shape), classes, kind)
            self._first = Traced(("gradient", key), self._gradient, compiled)
            self._second = Traced(("products", key), self._products, compiled)
            self._last = Traced(("input products", key), self._input_products, compiled)

    def loss(self, state: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of parameters (P,) on a batch (b, C, H, W)."""
        return inner_loss(self.flat.logits(state, x), labels, self.kind)

    @torch.enable_grad()
    def _gradient(self, state: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        state = state.detach().requires_grad_()
        (found,) = torch.autograd.grad(self.loss(state, x, labels), state)
        return found

    @torch.enable_grad()
    def _derived(
        self, state: Tensor, x: Tensor, labels: Tensor, nu: Tensor, by_state: bool
    ) -> tuple[Tensor, ...]:
        state = state.detach().requires_grad_()
        wanted = [x.detach().requires_grad_()]
        if labels.is_floating_point():
            labels = labels.detach().requires_grad_()
            wanted.append(labels)
        (g,) = torch.autograd.grad(self.loss(state, wanted[0], labels), state, create_graph=True)
        wanted += [state] if by_state else []
        return (g.detach(), *torch.autograd.grad(torch.dot(g, nu), wanted))

    def _products(self, state: Tensor, x: Tensor, labels: Tensor, nu: Tensor) -> tuple[Tensor, ...]:
        return self._derived(state, x, labels, nu, True)

    def _input_products(self, state: Tensor, x: Tensor, labels: Tensor, nu: Tensor) -> tuple[Tensor, ...]:
        return self._derived(state, x, labels, nu, False)

    def gradient(self, state: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        """g = d loss / d state (P,), without a graph."""
        total = torch.zeros_like(state)
        for part, own, share in self._pieces(x.detach(), labels.detach()):
            total.add_(self._first(state, part, own), alpha=share)
        return total

    def products(
        self, state: Tensor, x: Tensor, labels: Tensor, nu: Tensor, by_state: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """g, and the derivatives of nu . g with respect to the batch, to the labels where they are floats, and to the state
        where that is asked for (it is about a third of the work)."""
        second = self._second if by_state else self._last
        g, last = torch.zeros_like(nu), torch.zeros_like(nu) if by_state else None
        by_x, by_labels = [], []
        for part, own, share in self._pieces(x.detach(), labels.detach()):
            # share of the batch's mean loss: nu . g is linear in it
            found = list(second(state.detach(), part, own, nu if share == 1 else nu * share))
            g.add_(found[0], alpha=share)
            if last is not None:
                last += found.pop()
            by_x.append(found[1])
            by_labels += found[2:]
        return g, torch.cat(by_x), torch.cat(by_labels) if by_labels else None, last

    def _pieces(self, x: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Pieces of a batch with the share of its images that each has."""
        size = self.chunk or len(x)
        for part, own in zip(torch.split(x, size), torch.split(labels, size), strict=True):
            yield part, own, len(part) / len(x)


@dataclass(frozen=True, eq=False)
class Goal:
    """Where an expert is when the student has taken ``after`` steps (1..N)."""

    after: int
    state: Tensor
    """(P,)."""
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Matched:
    """A loss with its gradients."""

    loss: Tensor
    """Scalar: the weighted sum of ``parts``."""
    parts: tuple[Tensor, ...]
    """||state after k steps - goal||^2 / ||start - goal||^2, one a goal."""
    images: Tensor
    """Gradient (n, C, H, W)."""
    labels: Tensor | None
    """Gradient of label logits or probabilities (n, K); None for ids."""
    step_size: Tensor
    """Gradient, a scalar."""
    end: Tensor
    """Parameters (P,) of the student after its last step."""


@torch.enable_grad()
def matched(
    way: str,
    student: Student,
    start: Tensor,
    goals: Sequence[Goal],
    images: Tensor,
    labels: Tensor,
    step_size: Tensor,
    batch: Batch,
    *,
    factor: float = 1.0,
    momentum: float = 0.0,
) -> Matched:
    """Take the student's steps and match them.

    theta_{i+1} = theta_i - beta b_i, b_i = momentum b_{i-1} + factor g_i, with g_i the gradient of the loss on batch i.

    Args:
        way: ``adjoint`` | ``unroll`` | ``tesla``.
        start: (P,), where the student and the expert begin.
        goals: in the order of ``after``, the last of them after the last step.
        images, labels: all synthetic ones; their own gradients are left alone.
        step_size: beta, a scalar tensor.
        batch: what the student sees in each step.
        factor: on every inner loss (AST's balance).
        momentum: of the student (AST), in [0, 1).

    Raises:
        ValueError: an unknown way, goals out of order, or an expert that stood still.
    """
    if way not in WAYS:
        raise ValueError(f"the gradient of a trajectory is {way!r}; expected one of {', '.join(WAYS)}")
    ends = [goal.after for goal in goals]
    if not ends or ends[0] < 1 or any(b <= a for a, b in zip(ends, ends[1:], strict=False)):
        raise ValueError(f"goals are after steps {ends}; expected increasing counts, the first at least 1")
    start = start.detach()
    lengths = [(start - goal.state).square().sum() for goal in goals]
    if not bool(torch.stack(lengths).min() > 0):
        raise ValueError(
            f"the expert stands still: its squared distance to its goal is {min(map(float, lengths))}; expected an expert "
            f"that was trained (its learning rate above 0)"
        )
    given = student, start, list(goals), lengths, images, labels, step_size, batch, factor, momentum
    return _unrolled(*given) if way == "unroll" else _swept(*given, through=way == "adjoint")


def _parts(states: dict[int, Tensor], goals: list[Goal], lengths: list[Tensor]) -> list[Tensor]:
    return [(states[g.after] - g.state).square().sum() / d for g, d in zip(goals, lengths, strict=True)]


def _total(parts: Sequence[Tensor], goals: list[Goal]) -> Tensor:
    return torch.stack([g.weight * part for g, part in zip(goals, parts, strict=True)]).sum()


def _leaves(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    soft = labels.is_floating_point()
    return images.detach().requires_grad_(), labels.detach().requires_grad_(soft)


def _unrolled(
    student: Student,
    start: Tensor,
    goals: list[Goal],
    lengths: list[Tensor],
    images: Tensor,
    labels: Tensor,
    step_size: Tensor,
    batch: Batch,
    factor: float,
    momentum: float,
) -> Matched:
    """The graph of all steps at once: the reference."""
    images, labels = _leaves(images, labels)
    beta = step_size.detach().requires_grad_()
    state, pace, states = start.clone().requires_grad_(), torch.zeros_like(start), {}
    for i in range(goals[-1].after):
        x, y = batch(i, images, labels)
        (g,) = torch.autograd.grad(student.loss(state, x, y), state, create_graph=True)
        pace = momentum * pace + factor * g
        state = state - beta * pace
        states[i + 1] = state
    parts = _parts(states, goals, lengths)
    loss = _total(parts, goals)
    wanted = [images, beta] + ([labels] if labels.requires_grad else [])
    found = torch.autograd.grad(loss, wanted)
    return Matched(
        loss.detach(),
        tuple(p.detach() for p in parts),
        found[0],
        found[2] if labels.requires_grad else None,
        found[1],
        state.detach(),
    )


def _swept(
    student: Student,
    start: Tensor,
    goals: list[Goal],
    lengths: list[Tensor],
    images: Tensor,
    labels: Tensor,
    step_size: Tensor,
    batch: Batch,
    factor: float,
    momentum: float,
    through: bool,
) -> Matched:
    """First-order steps forward, then one backward sweep with the graph of one step at a time.

    With lambda = d loss / d theta_{i+1} and nu = momentum nu - beta lambda: d loss / d beta -= lambda . b_i, and nu . g_i
    differentiated gives what step i adds to the gradients of its batch and to lambda; a goal after step i + 1 joins lambda
    first.  ``through``: whether a step adds to lambda; TESLA leaves that out.
    """
    beta, steps = step_size.detach(), goals[-1].after
    states, paces, pace = [start], [], torch.zeros_like(start)
    with torch.no_grad():
        for i in range(steps):
            x, y = batch(i, images.detach(), labels.detach())
            g = factor * student.gradient(states[-1], x, y)
            if momentum:
                pace = momentum * pace + g
                paces.append(pace)
                g = pace
            states.append(states[-1] - beta * g)
    parts = _parts(dict(enumerate(states)), goals, lengths)
    end, due = states[-1], list(zip(goals, lengths, strict=True))
    adjoint, nu, by_beta = torch.zeros_like(start), torch.zeros_like(start), torch.zeros_like(beta)
    leaf, soft = _leaves(images, labels)
    by_images = torch.zeros_like(leaf)
    by_labels = torch.zeros_like(soft) if soft.requires_grad else None
    for i in reversed(range(steps)):
        if due and due[-1][0].after == i + 1:
            goal, length = due.pop()
            adjoint = adjoint + (2 * goal.weight / length) * (states[i + 1] - goal.state)
        states.pop()
        nu = momentum * nu - beta * adjoint
        x, y = batch(i, leaf, soft)
        # nothing comes before the first step
        g, by_x, by_y, by_state = student.products(states[i], x, y, factor * nu, through and i > 0)
        by_beta -= torch.dot(adjoint, paces.pop() if momentum else factor * g)
        outs, into = [x], [by_x]
        if y.requires_grad and by_y is not None:
            outs, into = [x, y], [by_x, by_y]
        wanted = [leaf] + ([soft] if len(outs) > 1 else [])
        added = torch.autograd.grad(outs, wanted, into)
        by_images += added[0]
        if by_labels is not None:
            by_labels += added[1]
        if by_state is not None:
            adjoint = adjoint + by_state
    return Matched(_total(parts, goals), tuple(parts), by_images, by_labels, by_beta, end)
