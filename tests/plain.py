"""The readable twin of the engine: one student, one loop, nothing clever.  Tests hold the engine against it.

``train`` follows the protocol's words with the engine's draws, so losses can be compared step by step.  ``field_style`` is
the loop that most published code has (data loader, one read to the host a step); the benchmarks hold speed against it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.augment.dsa import DSA
from ddbench.augment.mix import CutMix
from ddbench.augment.named import augmentation
from ddbench.contract import Items
from ddbench.nets.build import build
from ddbench.seeding import Generators
from ddbench.trainplan import TrainPlan


def train(
    items: Items,
    plan: TrainPlan,
    network: str,
    generators: Generators,
    dtype: torch.dtype = torch.float64,
    dataset: str = "",
) -> tuple[nn.Module, list[float]]:
    """One student with hard labels, by SGD or AdamW at the rates of steps: the network, and the loss of every step."""
    inputs, labels = items.to_input(items.stored).to(dtype), items.ids
    assert labels is not None
    net = build(network, tuple(inputs.shape[1:]), items.classes, generators("weights")).to(dtype)
    net.train()
    augment = augmentation(plan.augment, items.flip, network, dataset)
    cutmix = CutMix(plan.mix_probability, plan.mix_alpha) if plan.mix == "cutmix" else None

    def fresh(lr: float) -> torch.optim.Optimizer:
        if plan.optimiser == "adamw":
            return torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=plan.weight_decay)
        return torch.optim.SGD(
            net.parameters(), lr=lr, momentum=plan.momentum, weight_decay=plan.weight_decay
        )

    lr = plan.lr
    updates = fresh(lr)
    losses = []
    for epoch in range(plan.epochs):
        order = torch.randperm(len(items), generator=generators("order"))
        for start in range(0, len(items), plan.batch):
            rows = order[start : start + plan.batch]
            x, y = inputs[rows], labels[rows]
            if augment is not None:
                x = augment.apply(x, augment.draw(len(x), x.shape[1:], generators("augment")))
            drawn = cutmix.draw(len(x), x.shape[1:], generators("mix")) if cutmix is not None else None
            if drawn is not None:
                x1, y1, x2, y2 = drawn.box
                pasted = x.clone()
                pasted[:, :, y1:y2, x1:x2] = x[drawn.partners][:, :, y1:y2, x1:x2]
                x = pasted
            updates.zero_grad()
            logits = net(x)
            loss = F.cross_entropy(logits, y)
            if drawn is not None:
                loss = drawn.share * loss + (1 - drawn.share) * F.cross_entropy(logits, y[drawn.partners])
            loss.backward()
            updates.step()
            losses.append(loss.item())
        if epoch + 1 in plan.milestones:
            lr *= plan.gamma
            if plan.reset_optimiser:
                updates = fresh(lr)
            for group in updates.param_groups:
                group["lr"] = lr
    return net, losses


def accuracy(net: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share that is right, in eval mode, in the field's batches of 256."""
    net.eval()
    right = 0
    with torch.no_grad():
        for x, y in zip(inputs.split(256), labels.split(256), strict=True):
            right += int((net(x).argmax(1) == y).sum())
    return right / len(labels)


def field_style(
    inputs: Tensor, labels: Tensor, classes: int, network: str, epochs: int, flip: bool, seed: int = 0
) -> nn.Module:
    """One student as most published code trains it: a data loader, an accuracy read to the host every step."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    device = inputs.device
    net = build(network, tuple(inputs.shape[1:]), classes, generator).to(device).train()
    dsa = DSA.classic(flip=flip)
    data = torch.utils.data.TensorDataset(inputs, labels)
    loader = torch.utils.data.DataLoader(data, batch_size=256, shuffle=True)
    sgd = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    criterion = nn.CrossEntropyLoss().to(device)
    for _ in range(epochs):
        total, right, seen = 0.0, 0, 0
        for batch in loader:
            x, y = batch[0].float().to(device), batch[1].long().to(device)
            x = dsa.apply(x, dsa.draw(len(x), x.shape[1:], generator))
            logits = net(x)
            loss = criterion(logits, y)
            right += (logits.argmax(1) == y).sum().item()
            total += loss.item() * len(y)
            seen += len(y)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
    return net
