"""Teachers and experts: networks trained on real images, cached by what they were made from.

One network is one file ``teachers/<fingerprint>/network.safetensors`` in the cache, with ``recipe.json`` beside it for
people; ``trajectory.safetensors`` where the states after every epoch were asked for.  Asking for more networks of a recipe
trains only those that are missing, and a killed run loses at most the one it was training.  Seconds of training are stored
too, so that a set which uses a cached teacher still states what the teacher took.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench import store
from ddbench.augment.dsa import DSA
from ddbench.budget import Meter
from ddbench.contract import ImageData, Task, TeacherRecipe, Trained
from ddbench.matching.sampling import take
from ddbench.nets.build import build, embed
from ddbench.nets.names import canonical
from ddbench.seeding import Generators

FEATURES = ("pixels", "teacher")
SCHEMA = 1
"""Part of every fingerprint: raised when the training below changes its results."""
HELD_OUT = 0.1
"""Share of each class that measures the accuracy instead of training."""

_TEST_BATCH = 512
Progress = Callable[[int, int], None]
"""Called with (epochs done, epochs in all) of all networks that have to be trained."""


def fingerprint(train: ImageData, recipe: TeacherRecipe, index: int, device: torch.device | str) -> str:
    """Address of network ``index`` of a recipe, 16 hex digits.

    The type of device belongs to it (CPU and GPU round differently), the number of networks does not.
    """
    parts = {
        "schema": SCHEMA,
        "data": train.fingerprint,
        "space": train.space.describe(),
        "shape": list(train.shape),
        "classes": train.classes,
        "flip": train.flip,
        "recipe": asdict(replace(recipe, network=canonical(recipe.network), count=1)),
        "index": index,
        "device": torch.device(device).type,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def train_networks(
    train: ImageData,
    recipe: TeacherRecipe,
    device: torch.device | str,
    *,
    trajectory: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[Trained]:
    """The networks of a recipe, from the cache where it has them, else trained on nine tenths of the images.

    SGD at a constant learning rate on shuffled batches (the last short one is kept unless it is a single image, which
    batch norm cannot train on), cross-entropy; the accuracy is
    measured on the tenth of each class that ``recipe.seed`` holds out.

    Args:
        train: real images; they may lie on another device or on disk.
        recipe: what to train; ``recipe.seed`` decides the split, the weights, the order and the augmentation.
        device: where to train and where the networks come back.
        trajectory: also give the state at initialisation and after every epoch, on the CPU.
        cache: folder to use instead of the cache's own.
        progress: told after every epoch.

    Returns:
        ``recipe.count`` networks in eval mode, frozen.

    Raises:
        ValueError: a number of the recipe is out of range, a class has too few images to hold some out, or the training
            diverged.
        DamagedError: a file of the cache is truncated; says which one to remove.
    """
    _check(recipe)
    device = torch.device(device)
    keys = [fingerprint(train, recipe, i, device) for i in range(recipe.count)]
    folders = [_folder(key, cache) for key in keys]
    missing = sum(not _has(folder, trajectory) for folder in folders)
    epochs_done = 0

    def told() -> None:
        nonlocal epochs_done
        epochs_done += 1
        if progress is not None:
            progress(epochs_done, missing * recipe.epochs)

    found = []
    for index, (key, folder) in enumerate(zip(keys, folders, strict=True)):
        with store.Lock(folder):  # a second process waits here and then finds the network
            if not _has(folder, trajectory):
                _write(folder, train, recipe, *_train(train, recipe, index, device, trajectory, told))
        found.append(_read(key, folder, device, trajectory))
    return found


def cached_state(key: str, cache: Path | None = None) -> dict[str, Tensor]:
    """``state_dict`` of a cached teacher by its fingerprint, on the CPU.

    Raises:
        LookupError: no such teacher in the cache.
        DamagedError: its file is truncated.
    """
    path = _folder(key, cache) / "network.safetensors"
    if not path.is_file():
        raise LookupError(
            f"no teacher {key} in the cache ({path.parent}); distil again on this machine, or copy the folder here"
        )
    state: dict[str, Tensor] = store.load_state(path, "teacher")["state"]
    return state


# ------------------------------------------------------------------------------------------------ features


def embed_all(net: nn.Module, train: ImageData, batch: int = _TEST_BATCH) -> Tensor:
    """Embeddings (N, d) of all images, un-augmented, in the standardised space, on the network's device.

    The network is used in the mode it is in; ``batch`` images go through at once.
    """
    device = next(net.parameters()).device
    with torch.no_grad():
        return torch.cat(
            [
                embed(net, train.space.real_to_input(take(train, indices, device))).flatten(1)
                for indices in torch.split(torch.arange(len(train)), batch)
            ]
        )


def class_features(task: Task, kind: str, recipe: TeacherRecipe) -> Callable[[Tensor], Tensor]:
    """Features in which a coreset takes distances: indices (n,) -> features (n, d).

    Args:
        kind: ``pixels`` (standardised, flattened) or ``teacher`` (embeddings of the recipe's first network).
        recipe: of the teacher; not used for pixels.

    Raises:
        ValueError: another kind.
    """
    if kind not in FEATURES:
        raise ValueError(f"features is {kind!r}; expected one of {', '.join(FEATURES)}")
    train = task.train
    if kind == "pixels":
        return lambda chosen: train.space.real_to_input(take(train, chosen, task.device)).flatten(1)
    net = task.teachers(recipe)[0].network
    return lambda chosen: embed_all(net, train.subset(chosen))


# ------------------------------------------------------------------------------------------------ training


def _check(recipe: TeacherRecipe) -> None:
    for field, least in (("epochs", 1), ("batch", 1), ("count", 1)):
        value = getattr(recipe, field)
        if value < least:
            raise ValueError(f"TeacherRecipe.{field} is {value}; expected at least {least}")
    if recipe.augment not in ("none", "dsa"):
        raise ValueError(f"TeacherRecipe.augment is {recipe.augment!r}; expected none or dsa")


def split(train: ImageData, seed: int) -> tuple[Tensor, Tensor]:
    """Indices (kept, held out), each ascending: a tenth of every class, at least one image, is held out by the seed."""
    rng = Generators(seed, "teachers")("held-out")
    kept, held = [], []
    for c in range(train.classes):
        pool = train.of_class(c)
        if len(pool) < 2:
            raise ValueError(
                f"class {c} of {train.name} has {len(pool)} training images; a teacher needs at least 2 "
                f"(one is held out to measure it): add images or remove the class"
            )
        order = pool[torch.randperm(len(pool), generator=rng)]
        count = max(1, int(HELD_OUT * len(pool)))
        held.append(order[:count])
        kept.append(order[count:])
    return torch.cat(kept).sort().values, torch.cat(held).sort().values


def _train(
    train: ImageData,
    recipe: TeacherRecipe,
    index: int,
    device: torch.device,
    trajectory: bool,
    told: Callable[[], None],
) -> tuple[nn.Module, float, float, list[dict[str, Tensor]]]:
    """(network, accuracy, seconds, states)."""
    chance = Generators(recipe.seed, "teachers", index)
    kept, held = split(train, recipe.seed)
    states: list[dict[str, Tensor]] = []
    with Meter(device) as meter:
        net = build(recipe.network, train.shape, train.classes, chance("weights")).to(device)
        labels = train.labels.to(device)
        optimiser = torch.optim.SGD(
            net.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        dsa = DSA.classic(flip=train.flip) if recipe.augment == "dsa" else None

        def remember() -> None:
            if trajectory:
                states.append({k: v.detach().to("cpu", copy=True) for k, v in net.named_parameters()})

        remember()
        for _ in range(recipe.epochs):
            net.train()
            order = kept[torch.randperm(len(kept), generator=chance("order"))]
            for batch in torch.split(order, recipe.batch):
                if len(batch) == 1 and len(order) > 1:
                    continue
                x = train.space.real_to_input(take(train, batch, device))
                if dsa is not None:
                    x = dsa.apply(x, dsa.draw(len(x), train.shape, chance("augment")))
                optimiser.zero_grad()
                F.cross_entropy(net(x), labels[batch.to(device)]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            remember()
            told()
        net.eval()
        right = torch.zeros((), device=device)
        with torch.no_grad():
            for batch in torch.split(held, _TEST_BATCH):
                logits = net(train.space.real_to_input(take(train, batch, device)))
                right += (logits.argmax(1) == labels[batch.to(device)]).sum()
        accuracy = float(right) / len(held)
    if not all(bool(torch.isfinite(p).all()) for p in net.parameters()):
        raise ValueError(
            f"a teacher {recipe.network} on {train.name} diverged (weights are not finite) at lr {recipe.lr}; "
            f"lower the learning rate of its recipe"
        )
    return net, accuracy, meter.wall_s, states


# ------------------------------------------------------------------------------------------------ the cache


def _folder(key: str, cache: Path | None) -> Path:
    return (cache or store.cache_root()) / "teachers" / key


def _has(folder: Path, trajectory: bool) -> bool:
    return (folder / "network.safetensors").is_file() and (
        not trajectory or (folder / "trajectory.safetensors").is_file()
    )


def _write(
    folder: Path,
    train: ImageData,
    recipe: TeacherRecipe,
    net: nn.Module,
    accuracy: float,
    train_s: float,
    states: list[dict[str, Tensor]],
) -> None:
    about: dict[str, Any] = {
        "network": canonical(recipe.network),
        "shape": list(train.shape),
        "classes": train.classes,
        "accuracy": accuracy,
        "train_s": train_s,
    }
    store.write_json(folder / "recipe.json", {**about, "data": train.name, "recipe": asdict(recipe)})
    if states:
        store.save_state(folder / "trajectory.safetensors", states)
    # last: it is what makes the folder count as complete
    store.save_state(folder / "network.safetensors", {**about, "state": dict(net.state_dict())})


def _read(key: str, folder: Path, device: torch.device, trajectory: bool) -> Trained:
    saved = store.load_state(folder / "network.safetensors", "teacher")
    net = build(saved["network"], tuple(saved["shape"]), saved["classes"])
    net.load_state_dict(saved["state"])
    states: tuple[Mapping[str, Tensor], ...] = ()
    if trajectory:
        states = tuple(store.load_state(folder / "trajectory.safetensors", "expert trajectory"))
    return Trained(
        network=net.to(device).eval().requires_grad_(False),
        fingerprint=key,
        accuracy=saved["accuracy"],
        train_s=saved["train_s"],
        trajectory=states,
    )
