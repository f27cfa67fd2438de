"""Teachers: networks trained on real images (``networks.py``), cached by what they were made from; and their features.

One network is one folder ``teachers/<fingerprint>`` in the cache: ``network.safetensors``, ``initial.safetensors`` (its
parameters before training), ``recipe.json`` (what it is: :func:`about`) and, once it was measured, ``test.json``.  Asking for
more networks of a recipe trains only those that are missing.  A killed run loses at most the group that it was training.
Seconds of training are stored too, so that a set which uses a cached teacher still states what the teacher took.  Under
``distributed.joined`` all its processes train each network together, and the first one writes.

A recipe with public ``weights`` is not trained: its library's network is taken, from its library's own cache.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddbench import registry, store
from ddbench.contract import ImageData, RealData, Space, Task, TeacherRecipe, Trained
from ddbench.matching.sampling import take
from ddbench.nets import public
from ddbench.nets.build import build, embed
from ddbench.nets.names import canonical
from ddbench.train import distributed
from ddbench.train.engine import EngineOptions, Trainees, test_accuracy
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
    caller has it.  How many processes train it is no part of it: the result is the same.  Of public weights: their key.
    """
    if recipe.weights:
        return public.key_of(recipe.network, recipe.weights)
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

    SGD (or GSAM around it) or Adam, on shuffled batches (the last short one is kept unless it is a single image, which batch
    norm cannot train on) of cross-entropy, with a learning rate that falls in steps or as a cosine.  A batch is standardised
    or whitened, augmented with parameters of each image's own, then mixed.  The accuracy is measured, without augmentation,
    on the part of each class that ``recipe.seed`` holds out, or on all training images where nothing is held out.

    With ``recipe.weights`` the library's network is loaded instead; its accuracy is not measured (NaN).

    Args:
        train: real images; they may lie on another device or on disk.
        recipe: what to train; ``recipe.seed`` decides the split, the weights, the order, the augmentation and the mixes.
        device: where to train and where the networks come back.
        cache: folder to use instead of the cache's own.
        progress: told after every epoch.

    Returns:
        ``recipe.count`` networks in eval mode, frozen.  ``train_s`` of networks that were trained together is an equal
        share of the group's seconds, compiling included.  Under :func:`distributed.joined` only the first process gets them,
        the others an empty list.

    Raises:
        ValueError: a number of the recipe is out of range, a class has too few images to hold some out, the training
            diverged, or public weights are for other classes, channels or another standardisation.
        LookupError: no such public weights.
        RuntimeError: public weights that cannot be downloaded.
        DamagedError: a file of the cache is truncated; says which one to remove.
    """
    check(recipe)
    space = input_space(train, recipe)
    device = torch.device(device)
    if recipe.weights:
        return [_public(train, recipe, device, space)]
    first = distributed.world().first
    keys = [fingerprint(train, recipe, i, device, space) for i in range(recipe.count)]
    folders = [_folder(key, cache) for key in keys]
    there = distributed.agreed([_has(folder) for folder in folders], device)
    missing = [i for i, has in enumerate(there) if not has]
    epochs_done = 0

    if missing:
        job = Job(train, recipe, device, space)
        for group in job.groups(missing):
            with contextlib.ExitStack() as locks:
                for i in group if first else ():  # another run waits here and then finds the networks
                    locks.enter_context(store.Lock(folders[i]))
                there = distributed.agreed([_has(folders[i]) for i in group], device)
                todo = [i for i, has in zip(group, there, strict=True) if not has]
                epochs_done += (len(group) - len(todo)) * recipe.epochs

                def told(
                    finished: int, *_: Any, before: int = epochs_done, networks: int = len(todo)
                ) -> None:
                    if progress is not None and finished and first:
                        progress(before + finished * networks, len(missing) * recipe.epochs)

                outcomes = train_group(job, todo, told) if todo else []
                epochs_done += len(todo) * recipe.epochs
                for i, outcome in zip(todo, outcomes, strict=True):
                    if outcome.finite and first:
                        _write(folders[i], train, recipe, space, outcome)
            if not all(outcome.finite for outcome in outcomes):
                raise ValueError(
                    f"a teacher {recipe.network} on {train.name} diverged (weights are not finite) at lr {recipe.lr}; "
                    f"lower the learning rate of its recipe"
                )
    if not first:
        return []
    return [_read(key, folder, device, space) for key, folder in zip(keys, folders, strict=True)]


def _public(train: ImageData, recipe: TeacherRecipe, device: torch.device, space: Space) -> Trained:
    key = public.key_of(recipe.network, recipe.weights)
    public.check(key, train.shape, train.classes, space.mean, space.std)
    network = public.load(key).eval().requires_grad_(False)
    try:
        with torch.no_grad():
            logits = network(torch.zeros(1, *train.shape))
    except RuntimeError as error:
        raise ValueError(
            f"{key} does not accept {'x'.join(map(str, train.shape))} images ({error})"
        ) from error
    if tuple(logits.shape) != (1, train.classes):
        raise ValueError(
            f"{key} gives logits {tuple(logits.shape)} for 1 image of {train.name}; expected (1, {train.classes})"
        )
    return Trained(
        network.to(device), key, math.nan, 0.0, name=canonical(recipe.network), space=space, source="public"
    )


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


def _root(cache: Path | None) -> Path:
    return (cache or store.cache_root()) / "teachers"


def _folder(key: str, cache: Path | None) -> Path:
    return _root(cache) / key


def _has(folder: Path) -> bool:
    return all((folder / f"{part}.safetensors").is_file() for part in ("network", "initial"))


def _write(folder: Path, train: ImageData, recipe: TeacherRecipe, space: Space, made: Outcome) -> None:
    own: dict[str, Any] = {
        "network": canonical(recipe.network),
        "shape": list(train.shape),
        "classes": train.classes,
        "accuracy": made.accuracy,
        "train_s": made.train_s,
    }
    store.write_json(
        folder / "recipe.json",
        {
            **own,
            "space": space.describe(),
            "data": train.name,
            "data_fingerprint": train.fingerprint,
            "processes": distributed.world().size,
            "recipe": asdict(recipe),
        },
    )
    (folder / "test.json").unlink(missing_ok=True)  # of a network that stood here before
    store.save_state(folder / "initial.safetensors", made.initial)
    # last: it is what makes the folder count as complete
    store.save_state(folder / "network.safetensors", {**own, "state": made.state})


def _read(key: str, folder: Path, device: torch.device, space: Space) -> Trained:
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
        name=saved["network"],
        space=space,
    )


_KNOWN = (
    *("network", "shape", "classes", "space", "accuracy", "train_s"),
    *("data", "data_fingerprint", "processes", "recipe"),
)


def about(key: str, cache: Path | None = None) -> dict[str, Any]:
    """What is known of a cached teacher, without its weights.

    Returns:
        ``network`` (canonical name), ``shape`` [C, H, W], ``classes``, ``space`` (``Space.describe()`` of its inputs),
        ``accuracy`` on what was held out, ``test_accuracy`` (None: not measured), ``train_s``, ``data`` (name of the data
        set), ``data_fingerprint`` of its training part, ``processes`` that trained it, ``recipe`` (its fields); None where
        an older version did not keep it.

    Raises:
        LookupError: no such teacher in the cache.
        DamagedError: ``recipe.json`` or ``test.json`` cannot be read; names it.
    """
    folder = _folder(key, cache)
    if not (folder / "network.safetensors").is_file():
        raise _unknown(key, cache)
    said = _json(folder / "recipe.json", "train the teacher again")
    tested = folder / "test.json"
    measured = _json(tested, "measure it again").get("accuracy") if tested.is_file() else None
    return {**{name: said.get(name) for name in _KNOWN}, "test_accuracy": measured}


def _json(path: Path, cure: str) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(said, dict):
            raise ValueError(f"a {type(said).__name__} instead of fields")
    except (OSError, ValueError) as error:
        raise store.DamagedError(f"{path} cannot be read ({error}); remove it and {cure}") from error
    return said


def _unknown(key: str, cache: Path | None) -> LookupError:
    there = [p.parent.name for p in sorted(_root(cache).glob("*/network.safetensors"))]
    hint = registry.nearest(key, there) or (
        f"it has {len(there)} others, none of a like name" if there else "there are none at all"
    )
    return LookupError(f"no teacher {key} in the cache ({_root(cache)}); {hint} (see: ddbench teachers list)")


def evaluate(
    key: str, real: RealData, device: torch.device | str = "cpu", cache: Path | None = None
) -> float:
    """Test accuracy of a cached teacher, a fraction; kept beside its weights.

    Args:
        key: its fingerprint.
        real: the data set that it was trained on.
        device: where to compute.

    Raises:
        LookupError: no such teacher in the cache.
        ValueError: it was trained on another data set, or another form of it.
        DamagedError: a file of it cannot be read.
    """
    known = about(key, cache)
    if known["data"] not in (None, real.name):
        raise ValueError(
            f"teacher {key} was trained on {known['data']}, not on {real.name}; give the data that it was trained on"
        )
    mine = (
        ("images of shape", "shape", list(real.train.shape)),
        ("classes", "classes", real.train.classes),
        ("the fingerprint", "data_fingerprint", real.train.fingerprint),
    )
    for what, name, own in mine:
        if known[name] not in (None, own):
            raise ValueError(
                f"teacher {key} was trained on another form of {real.name}: {what} {known[name]}, where this one has {own}; "
                f"give the data that it was trained on"
            )
    space = input_space(real.train, _recipe_from(known["recipe"] or {}))
    if known["space"] not in (None, space.describe()):
        raise ValueError(
            f"teacher {key} was trained on inputs of {known['space']}, but {real.name} now gives {space.describe()}; "
            f"train it again"
        )
    state = cached_state(key, cache)
    made = Trainees(
        known["network"], real.train.shape, real.train.classes, (state,), torch.empty(1, 0), "plain"
    )
    (accuracy,) = test_accuracy(made, real.test, space, EngineOptions(device))
    store.write_json(
        _folder(key, cache) / "test.json",
        {"accuracy": accuracy, "images": len(real.test), "data_fingerprint": real.test.fingerprint},
    )
    return accuracy


def _recipe_from(said: Mapping[str, Any]) -> TeacherRecipe:
    """A recipe from the fields that a file has of it."""
    known = {f.name for f in fields(TeacherRecipe)}
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items() if k in known}
    return TeacherRecipe(**given)


# ------------------------------------------------------------------------------------------------ for people


@dataclass(frozen=True)
class Stored:
    """A teacher in the cache, as a listing shows it."""

    fingerprint: str
    path: Path
    data: str
    network: str
    accuracy: float | None
    test_accuracy: float | None
    """None: not measured."""
    train_s: float
    size_bytes: int
    recipe: dict[str, Any]
    """Fields of the TeacherRecipe, as its file has them."""
    space: dict[str, Any] | None
    processes: int | None
    damaged: str = ""
    """Why its files cannot be read; empty: they can."""


def look(key: str, cache: Path | None = None) -> Stored:
    """A teacher in the cache; a damaged one says so in its field.

    Raises:
        LookupError: no such teacher.
    """
    folder, damaged = _folder(key, cache), ""
    known: dict[str, Any] = dict.fromkeys((*_KNOWN, "test_accuracy"))
    try:
        known = about(key, cache)
    except store.DamagedError as error:
        damaged = str(error)
    return Stored(
        key,
        folder,
        known["data"] or "",
        known["network"] or "",
        known["accuracy"],
        known["test_accuracy"],
        known["train_s"] or 0.0,
        sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
        known["recipe"] or {},
        known["space"],
        known["processes"],
        damaged,
    )


def stored(cache: Path | None = None) -> list[Stored]:
    """All teachers in the cache, by data set and network; damaged ones first."""
    found = [look(p.parent.name, cache) for p in _root(cache).glob("*/network.safetensors")]
    return sorted(found, key=lambda s: (s.data, s.network, s.fingerprint))


def remove(keys: Sequence[str], cache: Path | None = None, *, dry_run: bool = False) -> list[Stored]:
    """Remove the teachers of these fingerprints, all of them or, after an error, none.

    Raises:
        LookupError: no such teacher; names the nearest.
        ValueError: a process is training some of them just now.
    """
    there = {s.fingerprint: s for s in stored(cache)}
    for key in keys:
        if key not in there:
            raise _unknown(key, cache)
    chosen = [there[key] for key in dict.fromkeys(keys)]
    with contextlib.ExitStack() as locks:
        for entry in chosen:
            try:
                locks.enter_context(store.Lock(entry.path, wait_s=0))
            except TimeoutError:
                raise ValueError(
                    f"teacher {entry.fingerprint} is being trained by another process; wait for it to finish, or stop it"
                ) from None
        for entry in chosen if not dry_run else ():
            shutil.rmtree(entry.path)
    return chosen
