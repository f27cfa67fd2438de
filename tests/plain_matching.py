"""Readable twins of the matching methods: one outer step after the other, class by class, nothing clever.

Each generator yields the loss of one outer step, as the method logs it, for ever.  They take the methods' draws (the same named
generators in the same order), so losses can be compared step by step; tests do that on small images, the benchmarks hold
speed against them at the authors' sizes.  The style is that of most published code: a network built anew, one class at a
time, a read to the host every step.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.augment.dsa import DSA
from ddbench.contract import ImageData
from ddbench.nets.build import build
from ddbench.seeding import Generators


class Data:
    """The real images by class, and the random numbers of a method under a seed."""

    def __init__(self, train: ImageData, seed: int, device: str = "cpu") -> None:
        self.train, self.device, self.rng = train, device, Generators(seed, "distil")
        self.inputs = train.space.real_to_input(train.images).to(device)
        self.pools = [train.of_class(c) for c in range(train.classes)]

    def batch(self, c: int, count: int, name: str) -> Tensor:
        """``count`` random images of class c, standardised, without replacement."""
        pool = self.pools[c]
        return self.inputs[pool[torch.randperm(len(pool), generator=self.rng(name))[:count]].to(self.device)]

    def first_images(self, ipc: int) -> Tensor:
        """(K, ipc, C, H, W), real ones."""
        return torch.stack([self.batch(c, ipc, "init") for c in range(self.train.classes)])

    def network(self, name: str) -> nn.Module:
        return build(name, self.train.shape, self.train.classes, self.rng("network")).to(self.device)


def dm(
    train: ImageData,
    ipc: int,
    seed: int,
    network: str = "ConvNet",
    batch_real: int = 256,
    image_lr: float = 1.0,
    device: str = "cpu",
) -> Iterator[float]:
    """Distribution matching: dm.md of the authors' main_DM.py."""
    data, dsa, classes = Data(train, seed, device), DSA.classic(flip=train.flip), train.classes
    images = data.first_images(ipc).requires_grad_()
    optimiser = torch.optim.SGD([images], lr=image_lr, momentum=0.5)
    while True:
        net = data.network(network).train()
        for p in net.parameters():
            p.requires_grad = False
        loss = torch.zeros((), device=device)
        reals, synthetics = [], []
        for c in range(classes):
            draw = dsa.draw(1, train.shape, data.rng("augment"), shared=True)
            reals.append(dsa.apply(data.batch(c, batch_real, "batches"), draw))
            synthetics.append(dsa.apply(images[c], draw))
            if "BN" not in network:
                real, synthetic = net.embed(reals.pop()).detach(), net.embed(synthetics.pop())
                loss = loss + ((real.mean(0) - synthetic.mean(0)) ** 2).sum()
        if "BN" in network:
            real = net.embed(torch.cat(reals)).detach().view(classes, batch_real, -1)
            synthetic = net.embed(torch.cat(synthetics)).view(classes, ipc, -1)
            loss = ((real.mean(1) - synthetic.mean(1)) ** 2).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield loss.item() / classes


def datadam(
    train: ImageData,
    ipc: int,
    seed: int,
    network: str = "ConvNetBN",
    batch_real: int = 64,
    power: float = 1.0,
    device: str = "cpu",
) -> Iterator[float]:
    """Attention matching, released form: one real and one synthetic forward pass of all classes."""
    data, dsa, classes = Data(train, seed, device), DSA.classic(flip=train.flip), train.classes
    images = data.first_images(ipc).requires_grad_()
    optimiser = torch.optim.SGD([images], lr=1.0, momentum=0.5)

    def attention(maps: Tensor) -> Tensor:
        flat = (maps.abs() ** power).sum(1).flatten(1)
        return flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)

    while True:
        net = data.network(network).train()
        for p in net.parameters():
            p.requires_grad = False
        reals, synthetics = [], []
        for c in range(classes):
            draw = dsa.draw(1, train.shape, data.rng("augment"), shared=True)
            reals.append(dsa.apply(data.batch(c, batch_real, "batches"), draw))
            synthetics.append(dsa.apply(images[c], draw))
        maps_real, out_real = net.feature_maps(torch.cat(reals))
        maps_synthetic, out_synthetic = net.feature_maps(torch.cat(synthetics))
        loss = torch.zeros((), device=device)
        for real, synthetic in zip(maps_real[:-1], maps_synthetic[:-1], strict=True):
            real = attention(real.detach()).view(classes, batch_real, -1)
            synthetic = attention(synthetic).view(classes, ipc, -1)
            loss = loss + 100 * ((real.mean(1) - synthetic.mean(1)) ** 2).sum()
        real = out_real.detach().view(classes, batch_real, -1)
        synthetic = out_synthetic.view(classes, ipc, -1)
        loss = loss + 100 * 0.01 * ((real.mean(1) - synthetic.mean(1)) ** 2).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield loss.item() / classes


def ncfm(
    train: ImageData,
    ipc: int,
    seed: int,
    pool: Sequence[tuple[nn.Module, nn.Module]],
    batch_real: int = 1024,
    frequencies: int = 1024,
    device: str = "cpu",
) -> Iterator[float]:
    """Characteristic functions at Gaussian frequencies: the paper without its sampling network, factor 2.

    ``pool``: pairs of a network as it started and as trained.  Yields the matching loss; the plateau schedule, which needs
    500 steps to act, is left out.
    """
    data, classes, (height, width) = Data(train, seed, device), train.classes, train.shape[1:]
    dsa = DSA.diffaug("color_crop_cutout", train.flip)
    mean, std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (train.mean, train.std))

    def mosaic(c: int) -> Tensor:
        own = train.images[data.pools[c][: 4 * ipc]].float() / 255
        images = torch.empty(ipc, *train.shape)
        for tile in range(4):
            i, j = tile // 2 * height // 2, tile % 2 * width // 2
            images[:, :, i : i + height // 2, j : j + width // 2] = own[
                tile * ipc : (tile + 1) * ipc, :, ::2, ::2
            ]
        return images.to(device)

    def decoded(images: Tensor) -> Tensor:
        h, w = height // 2, width // 2
        tiles = [images[:, :, i : i + h, j : j + w] for i in (0, h) for j in (0, w)]
        return (F.interpolate(torch.cat(tiles), (height, width), mode="bilinear") - mean) / std

    def characteristic(features: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        angles = features @ t.T
        cos, sin = angles.cos().mean(0), angles.sin().mean(0)
        return cos, sin, (cos**2 + sin**2).sqrt()

    stored = [mosaic(c).requires_grad_() for c in range(classes)]
    optimisers = [torch.optim.AdamW([s], lr=1e-3, weight_decay=5e-4) for s in stored]
    net = copy.deepcopy(pool[0][0]).requires_grad_(False)
    while True:
        first, trained = pool[int(torch.randint(len(pool), (), generator=data.rng("pool")))]
        share = float(torch.rand((), generator=data.rng("pool")))
        ends = trained.state_dict()
        net.load_state_dict({k: share * v + (1 - share) * ends[k] for k, v in first.state_dict().items()})
        chance = torch.Generator(device).manual_seed(
            int(torch.randint(2**62, (), generator=data.rng("frequencies")))
        )
        matched = 0.0
        for images in stored:
            images.data.clamp_(0, 1)
        for c, (images, optimiser) in enumerate(zip(stored, optimisers, strict=True)):
            draw = dsa.draw(1, train.shape, data.rng("augment"), shared=True)
            with torch.no_grad():
                real = F.normalize(
                    net.embed(dsa.apply(data.batch(c, batch_real, "batches"), draw)), eps=1e-12
                )
            synthetic = F.normalize(net.embed(dsa.apply(decoded(images), draw)), eps=1e-12)
            t = torch.randn(frequencies, real.shape[1], generator=chance, device=device)
            (cos_r, sin_r, size_r), (cos_s, sin_s, size_s) = (
                characteristic(real, t),
                characteristic(synthetic, t),
            )
            amplitude = (size_r - size_s) ** 2
            phase = (2 * (size_r * size_s - cos_r * cos_s - sin_r * sin_s)).clamp(min=1e-12)
            loss = 300 * (0.5 * amplitude + 0.5 * phase).sqrt().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            matched += loss.item()
        for c, (images, optimiser) in enumerate(zip(stored, optimisers, strict=True)):
            draw = dsa.draw(1, train.shape, data.rng("augment"), shared=True)
            x = dsa.apply(decoded(images), draw)
            loss = F.cross_entropy(trained(x), torch.full((len(x),), c, device=device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        yield matched / classes


def dsa(
    train: ImageData,
    ipc: int,
    seed: int,
    network: str = "ConvNet",
    outer: int = 10,
    inner: int = 50,
    batch_real: int = 256,
    device: str = "cpu",
) -> Iterator[float]:
    """Gradient matching with siamese augmentation, for networks without batch norm; one network a step."""
    data, augment, classes = Data(train, seed, device), DSA.classic(flip=train.flip), train.classes
    images = data.first_images(ipc).requires_grad_()
    labels = torch.arange(classes, device=device).repeat_interleave(ipc)
    optimiser = torch.optim.SGD([images], lr=0.1, momentum=0.5)

    def distance(real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
        total = torch.zeros((), device=device)
        for r, s in zip(real, synthetic, strict=True):
            if r.dim() > 1:
                a, b = r.flatten(1), s.flatten(1)
                total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
        return total

    while True:
        net = data.network(network).train()
        weights = list(net.parameters())
        sgd = torch.optim.SGD(weights, lr=0.01)
        matched = 0.0
        for turn in range(outer):
            loss = torch.zeros((), device=device)
            for c in range(classes):
                draw = augment.draw(1, train.shape, data.rng("augment"), shared=True)
                real = augment.apply(data.batch(c, batch_real, "batches"), draw)
                synthetic = augment.apply(images[c], draw)
                target = torch.full((batch_real,), c, device=device)
                wanted = torch.autograd.grad(F.cross_entropy(net(real), target[: len(real)]), weights)
                wanted = [g.detach().clone() for g in wanted]
                found = torch.autograd.grad(
                    F.cross_entropy(net(synthetic), target[:ipc]), weights, create_graph=True
                )
                loss = loss + distance(wanted, found)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            matched += loss.item()
            if turn == outer - 1:
                break
            stored = images.detach().flatten(0, 1).clone()
            for _ in range(inner):
                order = torch.randperm(len(stored), generator=data.rng("order")).to(device)
                for rows in order.split(256):
                    x = augment.draw(len(rows), train.shape, data.rng("inner_augment"))
                    error = F.cross_entropy(net(augment.apply(stored[rows], x)), labels[rows])
                    sgd.zero_grad()
                    error.backward()
                    sgd.step()
        yield matched / (classes * outer)
