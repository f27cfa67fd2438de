"""Teachers: networks trained on real images (``networks.py``), cached by what they were made from; and their features.

One network is one folder ``teachers/<fingerprint>`` in the cache: ``network.safetensors``, ``initial.safetensors`` (its
parameters before training) and ``recipe.json`` for people.  Asking for more networks of a recipe trains only those that are
missing.  A killed run loses at most the group that it was training.  Seconds of training are stored too, so that a set which
uses a cached teacher still states what the teacher took.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddbench import store
from ddbench.contract import ImageData, Space, Task, TeacherRecipe, Trained
from ddbench.matching.sampling import take
from ddbench.nets.build import build, embed
from ddbench.nets.names import canonical
from ddbench.train.networks import Job, Outcome, Progress, address, check, input_space, train_group

FEATURES = ("pixels", "teacher")

_EMBED_BATCH = 512


def fingerprint(
    train: ImageData,
    recipe: TeacherRecipe,
    index: int,
    device: torch.device | str,
    space: Space | None = None,
) -> str:
    """Address of network ``index`` of a recipe, 16 hex digits.

    The type of device belongs to it (CPU and GPU round differently), the number of networks and the storage of experts do
    not; ``mean`` and ``std`` belong to it as the standardisation that results.  ``space`` is :func:`input_space`'s, where the
    caller has it.
    """
    space = input_space(train, recipe) if space is None else space
    return address(train, replace(recipe, storage="fp32"), space, device, index=index)


def train_networks(
    train: ImageData,
    recipe: TeacherRecipe,
    device: torch.device | str,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[Trained]:
    """The networks of a recipe, from the cache where it has them, else trained on what ``recipe.held_out`` leaves.

    SGD, or GSAM around it, on shuffled batches (the last short one is kept unless it is a single image, which batch norm
    cannot train on) of cross-entropy; the learning rate falls by ``recipe.gamma`` at each milestone.  A batch is standardised
    or whitened, augmented with parameters of each image's own, then mixed.  The accuracy is measured, without augmentation,
    on the part of each class that ``recipe.seed`` holds out, or on all training images where nothing is held out.

    Args:
        train: real images; they may lie on another device or on disk.
        recipe: what to train; ``recipe.seed`` decides the split, the weights, the order, the augmentation and the mixes.
        device: where to train and where the networks come back.
        cache: folder to use instead of the cache's own.
        progress: told after every epoch.

    Returns:
        ``recipe.count`` networks in eval mode, frozen.  ``train_s`` of networks that were trained together is an equal
        share of the group's seconds, compiling included.

    Raises:
        ValueError: a number of the recipe is out of range, a class has too few images to hold some out, or the training
            diverged.
        DamagedError: a file of the cache is truncated; says which one to remove.
    """
    check(recipe)
    space = input_space(train, recipe)
    device = torch.device(device)
    keys = [fingerprint(train, recipe, i, device, space) for i in range(recipe.count)]
    folders = [_folder(key, cache) for key in keys]
    missing = [i for i, folder in enumerate(folders) if not _has(folder)]
    epochs_done = 0

    if missing:
        job = Job(train, recipe, device, space)
        for group in job.groups(missing):
            with contextlib.ExitStack() as locks:
                for i in group:  # a second process waits here and then finds the networks
                    locks.enter_context(store.Lock(folders[i]))
                todo = [i for i in group if not _has(folders[i])]
                epochs_done += (len(group) - len(todo)) * recipe.epochs

                def told(
                    finished: int, *_: Any, before: int = epochs_done, networks: int = len(todo)
                ) -> None:
                    if progress is not None and finished:
                        progress(before + finished * networks, len(missing) * recipe.epochs)

                outcomes = train_group(job, todo, told) if todo else []
                epochs_done += len(todo) * recipe.epochs
                for i, outcome in zip(todo, outcomes, strict=True):
                    if outcome.finite:
                        _write(folders[i], train, recipe, outcome)
            if not all(outcome.finite for outcome in outcomes):
                raise ValueError(
                    f"a teacher {recipe.network} on {train.name} diverged (weights are not finite) at lr {recipe.lr}; "
                    f"lower the learning rate of its recipe"
                )
    return [_read(key, folder, device) for key, folder in zip(keys, folders, strict=True)]


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
    store.used(path.parent)
    return state


# ------------------------------------------------------------------------------------------------ features


def embed_all(
    net: nn.Module, train: ImageData, batch: int = _EMBED_BATCH, space: Space | None = None
) -> Tensor:
    """Embeddings (N, d) of all images, un-augmented, on the network's device.

    The network is used in the mode it is in; ``batch`` images go through at once, standardised by ``space`` (None: the
    data set's own).
    """
    device = next(net.parameters()).device
    space = train.space if space is None else space
    with torch.no_grad():
        return torch.cat(
            [
                embed(net, space.real_to_input(take(train, indices, device))).flatten(1)
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
    space = input_space(train, recipe)
    return lambda chosen: embed_all(net, train.subset(chosen), space=space)


# ------------------------------------------------------------------------------------------------ the cache


def _folder(key: str, cache: Path | None) -> Path:
    return (cache or store.cache_root()) / "teachers" / key


def _has(folder: Path) -> bool:
    return all((folder / f"{part}.safetensors").is_file() for part in ("network", "initial"))


def _write(folder: Path, train: ImageData, recipe: TeacherRecipe, made: Outcome) -> None:
    about: dict[str, Any] = {
        "network": canonical(recipe.network),
        "shape": list(train.shape),
        "classes": train.classes,
        "accuracy": made.accuracy,
        "train_s": made.train_s,
    }
    store.write_json(folder / "recipe.json", {**about, "data": train.name, "recipe": asdict(recipe)})
    store.save_state(folder / "initial.safetensors", made.initial)
    # last: it is what makes the folder count as complete
    store.save_state(folder / "network.safetensors", {**about, "state": made.state})


def _read(key: str, folder: Path, device: torch.device) -> Trained:
    saved = store.load_state(folder / "network.safetensors", "teacher")
    store.used(folder)
    net = build(saved["network"], tuple(saved["shape"]), saved["classes"])
    net.load_state_dict(saved["state"])
    initial = store.load_state(folder / "initial.safetensors", "initial state of a teacher")
    return Trained(
        network=net.to(device).eval().requires_grad_(False),
        fingerprint=key,
        accuracy=saved["accuracy"],
        train_s=saved["train_s"],
        initial={name: tensor.to(device) for name, tensor in initial.items()},
    )
