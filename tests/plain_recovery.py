"""Recovery written out, one cell at a time, with the operations that the authors' descriptions name."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ddbench.augment.views import resized_boxes
from ddbench.contract import ImageData, Trained
from ddbench.nets.build import build

SHAPE, CLASSES = (3, 8, 8), 4


def toy_data(n=48, seed=0, flip=True):
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, *SHAPE), generator=g, dtype=torch.uint8)
    mean, std = (0.5, 0.4, 0.45), (0.25, 0.2, 0.3)
    return ImageData("toy", "train", images, torch.arange(n) % CLASSES, CLASSES, mean, std, flip=flip)


def toy_teacher(seed=0, network="ConvNetD2W4BN", dtype=torch.float64, data=None):
    """A network whose batch norms saw real images once; nothing is trained, no random numbers but its own."""
    data = data or toy_data()
    net = build(network, SHAPE, CLASSES, torch.Generator().manual_seed(seed)).to(dtype)
    with torch.no_grad():
        net.train()(data.space.real_to_input(data.images).to(dtype))
    net.eval().requires_grad_(False)
    return Trained(net, f"toy-{network}-{seed}", 0.5, 1.0, name=network, space=data.space)


def distances(net, view, first=10.0):
    """Logits, and the batch-norm loss of one batch."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    terms = {}

    def hook(norm, inputs, _out):
        mean = inputs[0].mean((0, 2, 3))
        var = (inputs[0] - mean[None, :, None, None]).square().mean((0, 2, 3))
        terms[norm] = (mean - norm.running_mean).norm() + (var - norm.running_var).norm()

    handles = [n.register_forward_hook(hook) for n in norms]
    logits = net(view)
    for handle in handles:
        handle.remove()
    return logits, sum((first if n is norms[0] else 1.0) * t for n, t in terms.items())


def plain_cell(teachers, votes, start, classes, chance, settings, lows, space, base=None):
    """The last iterate of one cell; ``lows`` are the least areas of its iterations."""
    x = start.double().clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=settings.lr, betas=(0.5, 0.9), eps=1e-8)
    side, n = x.shape[-1], settings.iterations
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (space.mean, space.std))
    for it in range(n):
        lr = 0.5 * (1 + math.cos(math.pi * it / n)) * settings.lr
        optimiser.param_groups[0]["lr"] = lr
        u = torch.rand(43, dtype=torch.float64, generator=chance)
        view = x if base is None else base + x
        if settings.crop:
            ((top, left, h, w),) = resized_boxes(
                u[:40].view(1, 10, 4).numpy(), (side, side), (lows[it], 1.0)
            ).tolist()
            view = F.interpolate(
                view[:, :, top : top + h, left : left + w],
                size=(side, side),
                mode="bilinear",
                align_corners=False,
            )
        if settings.flip and u[40] < 0.5:
            view = view.flip(3)
        least, greatest = settings.roll
        shifts = [least + int(v * (greatest - least + 1)) for v in u[41:].tolist()]
        view = torch.roll(view, shifts, (2, 3))
        loss = 0.0
        for teacher, vote in zip(teachers, votes, strict=True):
            if vote > 0:
                logits, distance = distances(teacher.network, view, settings.first_weight)
                loss = loss + vote * (F.cross_entropy(logits, classes) + settings.bn_weight * distance)
        optimiser.zero_grad()
        loss.backward()
        if base is not None and it + 1 == n:
            break
        optimiser.step()
        if base is None:
            with torch.no_grad():
                x.copy_(torch.minimum(torch.maximum(x, -mean / std), (1 - mean) / std))
    return x.detach()
