"""Gradient matching: gradients of one network on real and on synthetic images of each class, and distances between them.

Source: Zhao, Mopuri and Bilen, arXiv:2006.05929 (DC); Zhao and Bilen, arXiv:2102.08259 (DSA); Kim et al., arXiv:2205.14959
(IDC); all with their code.
Departures: none that change a value; the gradients of all classes are taken at once where the network allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.augment.dsa import Draw
from ddbench.augment.named import siamese
from ddbench.contract import DistilledSet, Task
from ddbench.matching.features import RandomNetworks, Siamese, chunks, images_that_fit
from ddbench.matching.inner import Loss, fast_loss, mean_loss, train_on
from ddbench.matching.sampling import RealBatches, class_labels, initial_images, pixel_sgd, viewed
from ddbench.nets.build import multiply_adds
from ddbench.nets.stacked import Stacked

Gradients = Sequence[Tensor]
"""One gradient a parameter tensor, each with a leading dimension of G classes: (G, *shape of the parameter)."""
Distance = Callable[[Gradients, Gradients], Tensor]
"""Real and synthetic gradients -> (G,) distances, one a class."""

EPS = 1e-6
_FREEZE_BATCH = 16
"""Real images of each class that move the statistics of batch norm before a matching step."""
_BACKWARD_COPIES = 1.5
"""Memory of a forward and a backward pass, in outputs of all layers."""
_GRAPH_COPIES = 5
"""Likewise of a gradient with its graph, and the gradient of that."""
_STACK_BELOW = {"cpu": 10e6, "cuda": 3e9}
"""Classes are stacked where one class's forward step has fewer multiply-adds.  On CPU gradients of gradients gain 3 to 5 times
at 2e5 to 2e6, little at 1e7, nothing above; below the other figure a GPU waits for launches (by estimate)."""


# ------------------------------------------------------------------------------------------------ distances


def rows_distance(real: Gradients, synthetic: Gradients) -> Tensor:
    """DC's distance, "ours": 1 - cosine of each output row, summed over rows and tensors; 1-D parameters count nothing.

    Convolutions (O, I, h, w) have O rows, linear weights (O, I) have O, layer norms (C, h, w) have C.  1e-6 is added to the
    product of the norms, so a row without gradient counts exactly 1.
    """
    total = torch.zeros(len(real[0]), device=real[0].device, dtype=real[0].dtype)
    for r, s in zip(real, synthetic, strict=True):
        if r.dim() <= 2:
            continue
        a, b = r.flatten(2), s.flatten(2)
        cosine = (a * b).sum(2) / (a.norm(dim=2) * b.norm(dim=2) + EPS)
        total = total + (1 - cosine).sum(1)
    return total


def squared_distance(real: Gradients, synthetic: Gradients) -> Tensor:
    """Squared Euclidean distance of all parameters' gradients, 1-D ones included."""
    pairs = zip(real, synthetic, strict=True)
    return torch.stack([(r - s).square().flatten(1).sum(1) for r, s in pairs]).sum(0)


def cosine_distance(real: Gradients, synthetic: Gradients) -> Tensor:
    """1 - cosine of the gradients of all parameters as one vector; 1e-6 is added to the product of the norms."""
    a, b = (torch.cat([g.flatten(1) for g in part], 1) for part in (real, synthetic))
    distance: Tensor = 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + EPS)
    return distance


def absolute_distance(real: Gradients, synthetic: Gradients) -> Tensor:
    """Sum of absolute differences of all parameters' gradients."""
    pairs = zip(real, synthetic, strict=True)
    return torch.stack([(r - s).abs().flatten(1).sum(1) for r, s in pairs]).sum(0)


def row_mean_distance(real: Gradients, synthetic: Gradients) -> Tensor:
    """Mean absolute difference of each output row's coordinates, summed over rows and tensors."""
    pairs = zip(real, synthetic, strict=True)
    rows = [(r - s).abs().reshape(*r.shape[:2], -1).mean(2).sum(1) for r, s in pairs]
    return torch.stack(rows).sum(0)


DISTANCES: dict[str, Distance] = {
    "rows": rows_distance,
    "mse": squared_distance,
    "cos": cosine_distance,
    "l1": absolute_distance,
    "l1_mean": row_mean_distance,
}
"""By the names of settings.  Which parameters they compare is up to the caller, who chooses whose gradients are taken."""


# ------------------------------------------------------------------------------------------------ gradients


def class_gradients(
    net: nn.Module,
    x: Tensor,
    ids: Tensor,
    parameters: Sequence[Tensor],
    graph: bool = False,
    loss: Loss = mean_loss,
    most: int | None = None,
) -> list[Tensor]:
    """Gradients of the mean loss of each class's images, one class after the other.

    Args:
        net: in the mode it is to be used in.
        x: images (G, n, C, H, W) of G classes.
        ids: (G, n) their labels.
        parameters: of ``net``, those whose gradients are wanted.
        graph: keep the graph, for gradients of a distance with respect to ``x``.
        loss: a mean over the images; a compiled one has no gradients of gradients, so none with ``graph``.
        most: images that go through the network at once, at most; the parts of a larger class are averaged, which is
            exact unless batch norm takes its statistics from them.  None: all of a class.

    Returns:
        one tensor (G, *shape) a parameter, detached unless ``graph``.
    """
    wanted = list(parameters)
    n = x.shape[1]
    size = n if most is None or n <= most else -(-n // -(-n // most))
    found = []
    for images, labels in zip(x, ids, strict=True):
        parts: list[Tensor] = []
        for some, their in zip(images.split(size), labels.split(size), strict=True):
            value = loss(net, some, their)
            if len(some) < n:
                value = value * (len(some) / n)
            grads = torch.autograd.grad(value, wanted, create_graph=graph)
            parts = [a + b for a, b in zip(parts, grads, strict=True)] if parts else list(grads)
        found.append(parts)
    return [torch.stack(kind) for kind in zip(*found, strict=True)]


def stacked_gradients(
    net: nn.Module, x: Tensor, ids: Tensor, parameters: Sequence[Tensor], graph: bool = False
) -> list[Tensor]:
    """As :func:`class_gradients`, of all classes at once: every class has a copy of the weights in one grouped network.

    Raises:
        ValueError: the network is no plain chain of layers, or has batch norm.
    """
    groups, chosen = len(x), {id(p) for p in parameters}
    copies = {
        name: p.detach().expand(groups, *p.shape).contiguous().requires_grad_(id(p) in chosen)
        for name, p in net.named_parameters()
    }
    own = {id(p): copies[name] for name, p in net.named_parameters()}
    logits = Stacked(net)(copies, x)
    # a mean over images, a sum over classes: no class's copy feels another's images
    value = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="sum") / x.shape[1]
    return list(torch.autograd.grad(value, [own[id(p)] for p in parameters], create_graph=graph))


def stacking_pays(networks: RandomNetworks, images: int) -> bool:
    """Whether gradients of so many images of each class are taken of all classes at once: from shapes and counts alone.

    Classes are stacked where the network is a chain of layers without batch norm (whose frozen statistics are shared by all
    classes), and one class alone is too little work for the device.
    """
    n = networks
    if n.batch_norm or not Stacked.fits(n.module):
        return False
    below = _STACK_BELOW.get(next(n.module.parameters()).device.type, 0)
    return images * multiply_adds(n.name, n.shape, n.classes) < below


def freeze_statistics(net: nn.Module, x: Tensor) -> None:
    """Move the running statistics of batch norm by one forward pass in train mode, then let it use them as they are.

    They are no statistics of ``x`` (N, C, H, W): a fresh network has mean 0.1 m and variance 0.9 + 0.1 v after it, of the
    batch's mean m and unbiased variance v.  All other layers stay in train mode.
    """
    net.train()
    with torch.no_grad():
        net(x)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


# ------------------------------------------------------------------------------------------------ one step


class GradientMatching:
    """Matching steps of one run: which images, which distance, and in which pieces the gradients are taken.

    Args:
        networks: whose weights want gradients.
        augment: ``none`` | ``dsa`` | ``dsa-flip`` | ``diffaug:NAMES``, shared by the real and synthetic images of a class.
        distance: a key of ``DISTANCES``.
        loss: for the real images, where a compiled one serves.
        decode: stored images (G, ipc, C, H, W) -> network inputs (G, m, C, H, W), differentiable, called in the order of the
            classes; None: they are that.
        decoded: m; needed with ``decode``.
        compared: which parameters; None: all, but 1-D ones only where the distance counts them.
        distances: those that the method offers.

    Raises:
        ValueError: another distance.
    """

    def __init__(
        self,
        task: Task,
        networks: RandomNetworks,
        real: RealBatches,
        augment: str,
        distance: str,
        loss: Loss = mean_loss,
        decode: Callable[[Tensor], Tensor] | None = None,
        decoded: int | None = None,
        compared: Callable[[Tensor], bool] | None = None,
        distances: Sequence[str] = tuple(DISTANCES),
    ) -> None:
        if distance not in distances:
            raise ValueError(f"distance is {distance!r}; expected one of {', '.join(distances)}")
        self._task, self._networks, self._real, self._loss = task, networks, real, loss
        self._siamese = Siamese(augment, task.train)
        self._distance = DISTANCES[distance]
        # rows ignore 1-D parameters: their gradients need not be taken
        self._compared = compared or (lambda p: p.dim() > 1 or distance != "rows")
        self._decode, self._decoded = decode, decoded
        self._fit = images_that_fit(task, networks)
        self._stack_real = stacking_pays(networks, real.batch)

    def step(self, net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """:meth:`gradients` into ``images.grad``; the distance comes back."""
        total, images.grad = self.gradients(net, images, labels)
        return total

    def gradients(self, net: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The distance, summed over all classes, and its gradient with respect to the images.

        Synthetic images are decoded, go through ``task.view`` and then the augmentation of their class.  Chance comes from
        ``task.rng("batches")`` and ``task.rng("augment")``, class by class.  Only so many classes are alive at once as the
        memory allows, which changes nothing: the distance is a sum over classes.

        Args:
            net: the network of ``networks``, in the mode it is to be used in.
            images: (K, ipc, C, H, W).
            labels: (K, ipc).

        Returns:
            a scalar without gradient, on the device, and (K, ipc, C, H, W).
        """
        task = self._task
        count = self._decoded or images.shape[1]
        stack = stacking_pays(self._networks, count)
        parameters = [p for p in net.parameters() if self._compared(p)]
        indices = self._real.draw(task.rng("batches"))
        draws = self._siamese.draw(len(images), task.rng("augment"))
        pixels: list[Tensor] = []
        at_once = self._fit // (_GRAPH_COPIES * count) if stack else 1
        total = torch.zeros((), device=images.device)
        for part in chunks(0, len(images), at_once):
            wanted = self._real_gradients(net, indices, labels, draws, part, parameters)
            leaf = images[part].detach().requires_grad_()
            made = leaf if self._decode is None else self._decode(leaf)
            ids = labels[part, :1].expand(-1, made.shape[1])
            x = self._siamese.apply(viewed(task, made, ids), draws[part])
            ids = labels[part, :1].expand(-1, x.shape[1])
            take = stacked_gradients if stack else class_gradients
            value = self._distance(wanted, take(net, x, ids, parameters, graph=True)).sum()
            pixels += torch.autograd.grad(value, [leaf])
            total += value.detach()
        return total, torch.cat(pixels)

    def _real_gradients(
        self,
        net: nn.Module,
        indices: Tensor,
        labels: Tensor,
        draws: Sequence[Draw],
        classes: slice,
        parameters: Sequence[Tensor],
    ) -> list[Tensor]:
        """(G, *shape) a parameter, of the real images of some classes."""
        batch, fit = self._real.batch, int(self._fit / _BACKWARD_COPIES)
        most: int | None = max(1, fit)
        if any(m.training for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
            most = None  # statistics come from all images of a class: parts would have others
            if batch > fit and self._task.memory_limit_mib is not None:
                self._task.note(
                    "memory",
                    f"batch norm takes its statistics from a class's {batch} real images at once, which may need more than the "
                    f"limit of {self._task.memory_limit_mib:g} MiB; a smaller batch_real needs less",
                )
        found = []
        for part in chunks(classes.start, classes.stop, fit // batch if self._stack_real else 1):
            x = self._siamese.apply(self._real.images(indices[part]), draws[part])
            ids = labels[part, :1].expand(-1, batch)
            if self._stack_real:
                found.append(stacked_gradients(net, x, ids, parameters))
            else:
                found.append(class_gradients(net, x, ids, parameters, loss=self._loss, most=most))
        return [torch.cat(kind) for kind in zip(*found, strict=True)]


# ------------------------------------------------------------------------------------------------ DC and DSA


_DC_DISTANCES = ("rows", "mse", "cos")


def condense(
    task: Task,
    network: str,
    iterations: int,
    outer: int,
    inner: int,
    image_lr: float,
    momentum: float,
    net_lr: float,
    batch_real: int,
    batch_train: int,
    init: str,
    augment: str,
    distance: str,
) -> DistilledSet:
    """Dataset condensation by gradient matching: DC, and with augmentation DSA.

    In each of ``iterations`` a fresh network is matched ``outer`` times, and between two matching steps trained on the
    synthetic images for ``inner`` epochs.  One image step follows each matching step; image momentum goes on through all
    networks.  Networks with batch norm are matched with statistics frozen after 16 real images of every class.

    Args:
        outer, inner: at least 1 and at least 0.
        image_lr, momentum: SGD on standardised pixels.
        net_lr, batch_train: plain SGD on weights.
        batch_real: real images of each class a matching step.
        init, augment, distance: as in ``initial_images``, :class:`GradientMatching`.

    Raises:
        ValueError: a count out of range, or an unknown name.
    """
    for name, count, least in (("outer", outer, 1), ("inner", inner, 0), ("batch_train", batch_train, 1)):
        if count < least:
            raise ValueError(f"{name} is {count}; expected at least {least}")
    train = task.train
    images = initial_images(task, init).requires_grad_()
    labels = class_labels(task)
    optimiser = pixel_sgd(images, image_lr, momentum)
    real = RealBatches(train, batch_real, task.device, task.note)
    networks = RandomNetworks(network, train.shape, train.classes, task.device)
    told = task.note if networks.batch_norm else None
    still = RealBatches(
        train, _FREEZE_BATCH, task.device, told, "the batch that moves batch norm's statistics"
    )
    networks.module.requires_grad_(True)
    trained = iterations * (outer - 1) * inner * task.items
    matched = 0 if stacking_pays(networks, real.batch) else iterations * outer * train.classes * real.batch
    loss = fast_loss(networks, trained + matched)
    matching = GradientMatching(task, networks, real, augment, distance, loss, distances=_DC_DISTANCES)
    augmented = siamese(augment, train.flip)

    def finished() -> DistilledSet:
        return task.distilled(images=images.detach().flatten(0, 1), ids=labels.flatten())

    for _ in task.loop(iterations, state=[images, optimiser], show=finished):
        net = networks.draw(task.rng("network")).train()
        total = torch.zeros((), device=task.device)
        for turn in range(outer):
            if turn > 0:
                train_on(task, net, images, labels, inner, net_lr, batch_train, augmented, loss)
            if networks.batch_norm:
                seen = still.images(still.draw(task.rng("batch_norm")))
                freeze_statistics(net, seen.flatten(0, 1))
            total += matching.step(net, images, labels)
            optimiser.step()
        task.log(loss=total / (train.classes * outer))
    return finished()
