"""``native``: a set's own program, replayed.

A (T,) program is Wang et al.'s: T steps of plain gradient descent on stored batches in order, each with its own step size,
no momentum, no decay, no augmentation.  A (1,) program is a learned learning rate: the row's plan starts at it.

Source: Wang, Zhu, Torralba and Efros, arXiv:1811.10959; learned rates: Cazenavette et al., arXiv:2203.11932.
Departures: a frozen initial network gives one score, not one a student.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ddbench.compute import arithmetic, keep_freed_memory
from ddbench.contract import DistilledSet, ImageData, Items, Program, RealData
from ddbench.nets.build import build, initialise_
from ddbench.nets.names import canonical
from ddbench.protocols.train import Evaluation, RowProtocol, make_items, score
from ddbench.seeding import Generators
from ddbench.train.engine import EngineOptions, Progress, Trainees
from ddbench.train.students import input_shape, losses
from ddbench.trainplan import TrainPlan


def start_(net: nn.Module, program: Program, distilled: DistilledSet, generator: torch.Generator) -> None:
    """Give a network the initial weights of a program, in place.

    Raises:
        ValueError: inline weights that are absent or do not fit.
    """
    if program.init == "default":
        initialise_(net, generator)
    elif program.init == "xavier-normal":
        initialise_(net, generator)  # norms, if any
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_normal_(module.weight, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    else:
        prefix = program.init.removeprefix("inline:")
        state = {
            name.removeprefix(prefix): t for name, t in distilled.tensors.items() if name.startswith(prefix)
        }
        try:
            net.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in state.items()})
        except RuntimeError as error:
            raise ValueError(f"the frozen weights {prefix}* do not fit the network: {error}") from error


def replay(net: nn.Module, items: Items, program: Program) -> list[torch.Tensor]:
    """Train a network in place by a (T,) program, in train mode: the T losses, each before its step.

    w <- w - step_size * gradient of the mean cross-entropy of the batch.

    Raises:
        ValueError: a program without an order, or batches that name items that do not exist.
        FloatingPointError: weights that are not finite at the end.
    """
    if program.order is None:
        raise ValueError(
            "the program has a learning rate but no order of batches; there is nothing to replay"
        )
    highest = max(i for batch in program.order for i in batch)
    if highest >= len(items):
        raise ValueError(
            f"the program's order names item {highest} but the set has {len(items)} (0 to {len(items) - 1})"
        )
    parameters = list(net.parameters())
    device = parameters[0].device
    net.train()
    told = []
    plan = TrainPlan(epochs=1)
    for size, batch in zip(program.step_sizes.tolist(), program.order, strict=True):
        rows = torch.tensor(batch, device=items.stored.device)
        x = items.to_input(items.stored[rows]).to(device, parameters[0].dtype)
        targets = (
            None if t is None else t[rows.to(t.device)].to(device)
            for t in (items.ids, items.soft, items.weights)
        )
        ids, soft, weights = targets
        loss = losses(plan, net(x), ids, soft, items.kind, weights)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p.sub_(g, alpha=size)
        told.append(loss.detach())
    if not all(bool(torch.isfinite(p).all()) for p in parameters):
        raise FloatingPointError(
            f"the replayed program diverged: weights are not finite after {len(told)} steps with step sizes up to "
            f"{float(program.step_sizes.max()):g}; the network may not be the one that it was learned for"
        )
    return told


@dataclass(frozen=True)
class NativeProtocol(RowProtocol):
    """Replays programs; see the module."""

    def accepts(
        self, distilled: DistilledSet, network: str = "", dataset: str = "", real: ImageData | None = None
    ) -> str | None:
        if distilled.program is None:
            return "protocol native replays the program of a set, and this set has none; use dc-dsa"
        if distilled.program.order is None:
            return super().accepts(distilled, network, dataset, real)
        if distilled.kind != "image":
            return f"protocol native trains image classifiers, and this is a set of kind {distilled.kind!r}"
        if distilled.targets.labeller is not None or distilled.targets.kind == "values":
            return "protocol native replays by cross-entropy; it needs label ids, probabilities or logits"
        return None

    def evaluate(
        self,
        distilled: DistilledSet,
        real: RealData,
        network: str,
        generators: Sequence[Generators],
        options: EngineOptions | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Replay the program into one student for each family of generators (``weights``), and test it.  Raises as
        :meth:`RowProtocol.evaluate` and :func:`replay` do."""
        self._check(distilled, network, real)
        program = distilled.program
        assert program is not None  # _check() refuses sets without one
        if program.order is None:
            return super().evaluate(distilled, real, network, generators, options, progress)
        options = options or EngineOptions()
        begun = time.perf_counter()
        items = make_items(distilled, real, options)
        if program.init.startswith("inline:"):
            generators = generators[:1]
        keep_freed_memory()
        network = canonical(network)
        size = input_shape(items)
        shape = (int(size[0]), int(size[1]), int(size[2]))
        states, histories = [], []
        for number, g in enumerate(generators):
            net = build(network, shape, items.classes)
            start_(net, program, distilled, g("weights"))
            net = net.to(options.device, options.dtype)
            with arithmetic(options.precision):
                histories.append(torch.stack(replay(net, items, program)).cpu())
            states.append({name: t.detach() for name, t in net.state_dict().items()})
            if progress is not None:
                progress(number + 1, len(generators), float(histories[-1].mean()))
        trainees = Trainees(network, shape, items.classes, tuple(states), torch.stack(histories), "plain")
        return score(trainees, distilled, real, generators, options, begun)
