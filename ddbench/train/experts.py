"""Experts: networks trained on real images, with their parameters at the start and after every epoch, kept on disk.

The experts of one recipe are one folder ``experts/<fingerprint>`` in the cache: one shard ``expert-0000.safetensors`` each,
with a tensor ``snapshots`` (epochs + 1, P), and ``experts.json`` for people.  Shards are memory-mapped: a state that is
asked for is the only one that is read.  All methods and runs share them; asking for more trains only those that are
missing.  Of a group that is being trained, snapshots and what is needed to go on lie in ``parts/``, so that a killed run
goes on after the last epoch that was written, with the same bits.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddbench import registry, store
from ddbench.contract import ImageData, Space, TeacherRecipe
from ddbench.nets.flat import Flat
from ddbench.nets.names import canonical
from ddbench.train import networks
from ddbench.train.networks import (
    STORAGE,
    Job,
    Outcome,
    Progress,
    address,
    check,
    input_space,
    normal,
    train_group,
)

SCHEMA = 1
"""Part of every fingerprint, beside that of ``networks.py``: raised when shards change their form."""
BUDGET_VARIABLE = "DDBENCH_EXPERTS_BUDGET"

_WRITE_EVERY_S = 20.0
"""Epochs of a group are written so often at most: what a killed run can lose.  An epoch of 8x8 digits takes milliseconds."""
_WAITING_BYTES = 1 << 30
"""Snapshots that wait in memory at most."""


def fingerprint(
    train: ImageData, recipe: TeacherRecipe, device: torch.device | str, space: Space | None = None
) -> str:
    """Address of the experts of a recipe, 16 hex digits.

    It holds the data, the preprocessing that results (standardisation, whitening), the network, the recipe without the number
    of experts, and the type of the device, as CPU and GPU round differently.  ``space`` is :func:`input_space`'s, where the
    caller has it.
    """
    space = input_space(train, recipe) if space is None else space
    return address(train, recipe, space, device, schema=[SCHEMA, networks.SCHEMA])


def make_experts(
    train: ImageData,
    recipe: TeacherRecipe,
    device: torch.device | str,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    budget_bytes: int | None = None,
) -> StoredExperts:
    """The first ``recipe.count`` experts of a recipe; those that are not there yet are trained and stored.

    Several processes may ask for the same ones: one trains a group, the others wait and find it.

    Args:
        train: real images; they may lie on another device or on disk.
        recipe: what to train; the number of an expert decides its chance, not how many there are.
        device: where to train and where states come to.
        cache: folder to use instead of the cache's own.
        progress: told after every epoch; what it raises ends the training, which the next call goes on with.  So does Ctrl-C
            in the main thread: it waits for the end of the epoch, a second one does not.
        budget_bytes: what the snapshots of this recipe may take; None: ``DDBENCH_EXPERTS_BUDGET`` (such as ``8G``), else the
            free space of the disk.

    Raises:
        ValueError: a number of the recipe is out of range, the network has running statistics, the bytes are above the
            budget, or the training diverged.
        DamagedError: a file of the cache is truncated, changed or in the wrong place; says which one to remove.
    """
    device = torch.device(device)
    check(recipe)
    if recipe.optimiser != "sgd" or recipe.weights:
        given = (
            f"optimiser is {recipe.optimiser!r}" if not recipe.weights else f"weights is {recipe.weights!r}"
        )
        raise ValueError(
            f"TeacherRecipe.{given}, but experts are trained, by sgd alone: their momentum is kept with their epochs; use "
            f"optimiser sgd and no weights"
        )
    buffer = _Buffer.of(train, recipe, device, cache)
    trained = 0
    if buffer.missing():
        _check_budget(buffer, budget_bytes)
        trained = _train_missing(buffer, train, device, progress)
    elif look(buffer.folder).damaged:
        with buffer.lock():
            _describe(buffer, train)  # all that it says stands in the shards
    return StoredExperts(buffer, device, trained)


# ------------------------------------------------------------------------------------------------ reading


class _Rows:
    """The tensor ``snapshots`` of one file, memory-mapped; each row is checked when it is first read.

    Raises:
        DamagedError: the file is truncated, or no file of snapshots.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        try:
            file: Any = safe_open(str(path), framework="pt")
            self.header: dict[str, Any] = {
                k: json.loads(v) for k, v in (file.metadata() or {}).items() if k != "format"
            }
            self._slice = file.get_slice("snapshots")
            self._sums = self.header["crc32"]
            self.shape: tuple[int, ...] = tuple(self._slice.get_shape())
            if len(self._sums) != self.shape[0]:
                raise ValueError(f"{self.shape[0]} snapshots with {len(self._sums)} checksums")
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise self.damaged(str(error)) from error
        self._checked: set[int] = set()

    def damaged(self, why: str) -> store.DamagedError:
        return store.DamagedError(
            f"{self.what} {self.path} is damaged or truncated ({why}); remove it to have it trained again"
        )

    def row(self, number: int) -> Tensor:
        """A view of the file: copy it before it is changed."""
        values: Tensor = self._slice[number]
        if number not in self._checked:
            if _checksum(values) != self._sums[number]:
                raise self.damaged(f"the checksum of snapshot {number} differs")
            self._checked.add(number)
        return values


class StoredExperts:
    """The :class:`ddbench.contract.Experts` of a folder: shards are opened here, a state is read when it is asked for."""

    def __init__(self, buffer: _Buffer, device: torch.device, trained: int = 0) -> None:
        self.folder, self.trained = buffer.folder, trained  # how many of them were trained just now
        self.recipe, self.fingerprint, self.space = buffer.recipe, buffer.key, buffer.space
        self.device = device
        self._shards = [buffer.open(i) for i in range(buffer.recipe.count)]
        self.accuracies: tuple[float, ...] = tuple(float(s.header["accuracy"]) for s in self._shards)
        self.train_s = float(sum(s.header["train_s"] for s in self._shards))
        self.size_bytes = sum(s.path.stat().st_size for s in self._shards)
        store.used(buffer.folder)

    def __len__(self) -> int:
        return len(self._shards)

    def state(self, expert: int, epoch: int) -> Tensor:
        """Flat parameters (P,), float32, on the task's device, a copy; epoch 0 is the initialisation, -1 the end.

        Raises:
            IndexError: no such expert or epoch.
            DamagedError: the bytes of the shard were changed.
        """
        epochs = self.recipe.epochs
        if not 0 <= expert < len(self):
            raise IndexError(
                f"there are {len(self)} experts, number {expert} was asked for; expected 0 to {len(self) - 1}"
            )
        if not -1 <= epoch <= epochs:
            raise IndexError(
                f"an expert trajectory has {epochs} epochs, epoch {epoch} was asked for; train the experts longer, or "
                f"lower max_start_epoch + expert_epochs"
            )
        row = self._shards[expert].row(epochs if epoch == -1 else epoch)
        return row.to(self.device, torch.float32, copy=True)


# ------------------------------------------------------------------------------------------------ folders


@dataclass(frozen=True, eq=False)
class _Buffer:
    """The folder of the experts of a recipe, and what every shard in it must say of itself."""

    folder: Path
    key: str
    recipe: TeacherRecipe
    space: Space
    size: int
    """Parameters of the network."""
    about: dict[str, Any]

    @classmethod
    def of(cls, train: ImageData, recipe: TeacherRecipe, device: torch.device, cache: Path | None) -> _Buffer:
        space = input_space(train, recipe)
        key = fingerprint(train, recipe, device, space)
        about = {
            "data": train.fingerprint,
            "preprocessing": space.describe(),
            "network": canonical(recipe.network),
            "fingerprint": key,  # last: the others say more about what differs
        }
        size = Flat(recipe.network, train.shape, train.classes).size
        return cls(_root(cache) / key, key, recipe, space, size, about)

    @property
    def dtype(self) -> torch.dtype:
        return STORAGE[self.recipe.storage]

    @property
    def expert_bytes(self) -> int:
        """Of one shard."""
        return (self.recipe.epochs + 1) * self.size * self.dtype.itemsize

    def shard(self, expert: int) -> Path:
        return self.folder / f"expert-{expert:04d}.safetensors"

    def missing(self) -> list[int]:
        return [i for i in range(self.recipe.count) if not self.shard(i).is_file()]

    def lock(self) -> store.Lock:
        return store.Lock(self.folder / "training")

    def open(self, expert: int) -> _Rows:
        """A shard, after a look at what it says of itself."""
        path = self.shard(expert)
        rows = _Rows(path, "expert")
        for name, wanted in self.about.items():
            if rows.header.get(name) != wanted:
                raise store.DamagedError(
                    f"expert {path} was made with {name} {rows.header.get(name)}, but {wanted} is asked for; "
                    f"put it back where it belongs, or remove it to have it trained again"
                )
        if rows.header.get("expert") != expert:
            raise store.DamagedError(
                f"expert {path} is number {rows.header.get('expert')} of its recipe, but {expert} is asked for; put it back "
                f"where it belongs, or remove it to have it trained again"
            )
        expected = (self.recipe.epochs + 1, self.size)
        if rows.shape != expected or not {"accuracy", "train_s"} <= rows.header.keys():
            raise rows.damaged(f"its snapshots are {rows.shape}, expected {expected}")
        return rows


def _root(cache: Path | None) -> Path:
    return (cache or store.cache_root()) / "experts"


# ------------------------------------------------------------------------------------------------ bytes


def _check_budget(buffer: _Buffer, budget_bytes: int | None) -> None:
    """Say before any work that the snapshots would need more than they may have."""
    one, count, named = buffer.expert_bytes, buffer.recipe.count, os.environ.get(BUDGET_VARIABLE)
    if budget_bytes is None and named:
        try:
            budget_bytes = store.parse_size(named)
        except ValueError as error:
            raise ValueError(f"{BUDGET_VARIABLE}: {error}") from None
    if budget_bytes is not None:
        need, allowed, where = count * one, budget_bytes, "the budget of a recipe"
        cure = f"raise the budget ({BUDGET_VARIABLE}, such as 8G)"
    else:
        there = next(p for p in (buffer.folder, *buffer.folder.parents) if p.exists())
        need, allowed = len(buffer.missing()) * one, shutil.disk_usage(there).free
        where, cure = f"the free space of the disk of {there}", "make room (ddbench experts remove)"
    if need <= allowed:
        return
    fit = f"train fewer experts ({allowed // one} fit)" if allowed >= one else "not one fits"
    halve = ", storage fp16 halves it" if buffer.recipe.storage == "fp32" else ""
    raise ValueError(
        f"{need // one} experts {buffer.about['network']} of {buffer.recipe.epochs} epochs need {need:,} bytes "
        f"({one:,} each), but {where} is {allowed:,} bytes: {fit}{halve}, or {cure}"
    )


# ------------------------------------------------------------------------------------------------ training


class _Held:
    """Ctrl-C in the main thread waits in here until :meth:`raise_`, or the end; a second one does not wait."""

    def __init__(self) -> None:
        self._seen = False
        self._before: Any = None

    def __enter__(self) -> _Held:
        # workers ignore it, and other threads may not change it
        if threading.current_thread() is threading.main_thread() and callable(
            signal.getsignal(signal.SIGINT)
        ):
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def _hear(self, number: int, frame: Any) -> None:
        if self._seen:
            self._before(number, frame)
            return
        self._seen = True
        with contextlib.suppress(OSError):
            os.write(2, b"\nstopping at the end of this epoch; Ctrl-C again stops at once\n")

    def raise_(self) -> None:
        if self._seen:
            self._seen = False
            raise KeyboardInterrupt("the epochs of the experts are kept; run again to go on")

    def __exit__(self, kind: Any, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if kind is None:
            self.raise_()


def _train_missing(buffer: _Buffer, train: ImageData, device: torch.device, progress: Progress | None) -> int:
    """Train what is not there; how many of them this process trained."""
    job = Job(train, buffer.recipe, device, buffer.space)
    epochs, at_first, trained = buffer.recipe.epochs, len(buffer.missing()), 0
    # of the recipe alone, not of what is there: a killed run goes on with the groups that it had
    groups = list(job.groups(range(buffer.recipe.count)))
    while True:
        with buffer.lock():  # a second process waits here, and then finds the experts
            missing = buffer.missing()
            if not missing:
                return trained
            parts = _next_group(buffer, groups, set(missing))
            with _Held() as held:
                _train_one_group(
                    job, buffer, parts, (at_first - len(missing)) * epochs, at_first, held, progress
                )
            trained += len(parts.indices)


def _train_one_group(
    job: Job,
    buffer: _Buffer,
    parts: _Parts,
    before: int,
    at_first: int,
    held: _Held,
    progress: Progress | None,
) -> None:
    """Train and store a group; ``before``: epochs of the ``at_first`` missing experts that were done before it."""

    def keep(finished: int, vectors: Callable[[], Tensor], pack: Callable[[], dict[str, Any]]) -> None:
        parts.keep(finished, vectors(), pack)
        try:
            held.raise_()
            if progress is not None and finished:
                progress(before + finished * len(parts.indices), at_first * buffer.recipe.epochs)
        except BaseException:  # whatever it is, the epochs are kept
            parts.write(pack)
            raise

    try:
        _describe(buffer, job.train)
        outcomes = train_group(job, parts.indices, keep, parts.pack)
        _store(buffer, parts, outcomes)
        parts.remove()
        _clear_parts(buffer)
        _describe(buffer, job.train)
    finally:
        if not any(buffer.folder.rglob("*.safetensors")):  # nothing to list or to go on with
            shutil.rmtree(buffer.folder, ignore_errors=True)
    if not all(outcome.finite for outcome in outcomes):
        raise ValueError(
            f"an expert {buffer.recipe.network} on {job.train.name} diverged (weights are not finite) at a learning rate of "
            f"{buffer.recipe.lr}; lower the learning rate of the experts (train_lr)"
        )


def _next_group(buffer: _Buffer, groups: Sequence[Sequence[int]], missing: set[int]) -> _Parts:
    """A group that was cut off, as it was; else the next one of ``groups``, without what is there."""
    for folder in sorted(buffer.folder.glob("parts/*-*")):
        parts = _Parts.found(buffer, folder)
        if parts is not None and missing.issuperset(parts.indices):
            return parts
    for group in groups:
        if todo := [i for i in group if i in missing]:
            parts = _Parts(buffer, todo)
            parts.remove()  # what cannot be gone on with
            return parts
    raise RuntimeError(f"the groups {groups} leave out some of {sorted(missing)}")


def _clear_parts(buffer: _Buffer) -> None:
    """Remove parts of groups whose first expert is there: it was asked for without the others, which are then a group anew."""
    for folder in buffer.folder.glob("parts/*-*"):
        if buffer.shard(int(folder.name.split("-")[0])).is_file():
            shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # other groups have theirs
        (buffer.folder / "parts").rmdir()


class _Parts:
    """The snapshots of a group under way: some files of epochs, and the newest in memory.

    ``pack``: what :func:`train_group` needs to go on; None: from the start.  ``finished``: epochs, -1 before the
    initialisation is known.
    """

    def __init__(self, buffer: _Buffer, indices: Sequence[int]) -> None:
        self.buffer, self.indices = buffer, list(indices)
        self.folder = buffer.folder / "parts" / f"{indices[0]:04d}-{indices[-1]:04d}"
        self.pack: dict[str, Any] | None = None
        self.finished = -1
        self._files: list[_Rows] = []
        self._waiting: list[Tensor] = []
        self._wrote = self._began = time.monotonic()
        self.seconds = 0.0

    @classmethod
    def found(cls, buffer: _Buffer, folder: Path) -> _Parts | None:
        """What a killed process left, or None where there is nothing to go on with.

        Raises:
            DamagedError: a file is truncated or was changed.
        """
        newest = folder / "newest.safetensors"
        if not newest.is_file():
            return None
        state = store.load_state(newest, "experts under way")
        parts = cls(buffer, state["indices"])
        for path in sorted(folder.glob("epoch-*.safetensors")):
            if int(path.stem.removeprefix("epoch-")) > state["finished"]:
                path.unlink()  # the process died before it could say how to go on from there
                continue
            rows = _Rows(path, "experts under way")
            if rows.header["first"] != parts.finished + 1 or rows.shape[1:] != (
                len(parts.indices),
                buffer.size,
            ):
                return None
            for number in range(rows.shape[0]):
                rows.row(number)  # changed bytes are better found now than when all is trained
            parts._files.append(rows)
            parts.finished += rows.shape[0]
        if parts.finished != state["finished"]:
            return None
        parts.pack, parts.seconds = state["pack"], state["seconds"]
        return parts

    def keep(self, finished: int, flat: Tensor, pack: Callable[[], dict[str, Any]]) -> None:
        """Take the parameters (G, P) after so many finished epochs."""
        self._waiting.append(flat.to(self.buffer.dtype))
        self.finished = finished
        waiting = len(self._waiting) * flat.numel() * self.buffer.dtype.itemsize
        due = time.monotonic() - self._wrote > _WRITE_EVERY_S or waiting > _WAITING_BYTES
        if due and finished < self.buffer.recipe.epochs:  # else the shards come next
            self.write(pack)

    def write(self, pack: Callable[[], dict[str, Any]]) -> None:
        """Write what waits in memory, and how to go on from there."""
        if not self._waiting:
            return
        path = self.folder / f"epoch-{self.finished:04d}.safetensors"
        first = self.finished + 1 - len(self._waiting)
        _write_rows(path, torch.stack(self._waiting), {"first": first})
        spent = self.seconds + time.monotonic() - self._began
        state = {"indices": self.indices, "finished": self.finished, "seconds": spent, "pack": pack()}
        store.save_state(self.folder / "newest.safetensors", state)
        self._files.append(_Rows(path, "experts under way"))
        self._waiting.clear()
        self._wrote = time.monotonic()

    def trajectory(self, place: int) -> Tensor:
        """Snapshots (epochs + 1, P) of the group's network at ``place``."""
        rows = [file.row(n)[place] for file in self._files for n in range(file.shape[0])]
        return torch.stack([*rows, *(flat[place] for flat in self._waiting)])

    def remove(self) -> None:
        self._files.clear()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder)


def _store(buffer: _Buffer, parts: _Parts, outcomes: Sequence[Outcome]) -> None:
    """The shards of a trained group."""
    for place, (expert, outcome) in enumerate(zip(parts.indices, outcomes, strict=True)):
        if not outcome.finite:
            continue
        rows = parts.trajectory(place)
        if not bool(torch.isfinite(rows).all()):
            raise ValueError(
                f"parameters of expert {expert} reach {max(float(t.abs().max()) for t in outcome.state.values()):.3g}, "
                f"which storage {buffer.recipe.storage} cannot hold; store them as fp32"
            )
        own = {
            "expert": expert,
            "accuracy": outcome.accuracy,
            "train_s": outcome.train_s + parts.seconds / len(parts.indices),
        }
        _write_rows(buffer.shard(expert), rows, {**buffer.about, **own})


def _checksum(row: Tensor) -> str:
    plain: Any = row.contiguous().view(-1).view(torch.uint8).numpy()
    return f"{zlib.crc32(plain):08x}"


def _write_rows(path: Path, rows: Tensor, header: dict[str, Any]) -> None:
    """Write snapshots with a checksum a row; values of ``header`` are JSON."""
    texts = {k: json.dumps(v) for k, v in {**header, "crc32": [_checksum(r) for r in rows]}.items()}
    with store.writing(path) as temporary:
        save_file({"snapshots": rows}, temporary, metadata=texts)


# ------------------------------------------------------------------------------------------------ for people


def _describe(buffer: _Buffer, train: ImageData) -> None:
    """Write ``experts.json`` from the shards that there are."""
    recipe = asdict(normal(buffer.recipe))
    recipe.pop("count")
    about = {
        **buffer.about,
        "dataset": train.name,
        "shape": list(train.shape),
        "classes": train.classes,
        "parameters": buffer.size,
        "recipe": recipe,
        "experts": [
            {name: header[name] for name in ("expert", "accuracy", "train_s")}
            for header in _headers(buffer.folder)
        ],
    }
    store.write_json(buffer.folder / "experts.json", about)


def _headers(folder: Path) -> Iterator[dict[str, Any]]:
    """What the shards of a folder say of themselves; damaged ones are left out."""
    for path in sorted(folder.glob("expert-*.safetensors")):
        with contextlib.suppress(store.DamagedError):
            yield _Rows(path, "expert").header


@dataclass(frozen=True)
class Stored:
    """The experts of one recipe in the cache, as a listing shows them."""

    fingerprint: str
    path: Path
    dataset: str
    recipe: dict[str, Any]
    """Fields of the TeacherRecipe without ``count``; empty where ``experts.json`` is damaged."""
    accuracies: tuple[float, ...]
    """Of each expert that is done, a fraction."""
    train_s: float
    size_bytes: int
    """Of all files, those of groups under way included."""
    under_way: str
    """Groups that were begun, and how far they are; empty: none."""
    damaged: str = ""
    """Why ``experts.json`` cannot be read; empty: it can."""


def look(folder: Path) -> Stored:
    """What a folder of experts holds; a damaged one says so in its field."""
    dataset, recipe, damaged = "", {}, ""
    try:
        about = json.loads((folder / "experts.json").read_text(encoding="utf-8"))
        dataset, recipe = str(about["dataset"]), dict(about["recipe"])
        int(recipe["epochs"]), str(recipe["network"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        dataset, recipe, damaged = "", {}, f"{type(error).__name__}: {error}"
    headers, begun = list(_headers(folder)), []
    for part in sorted(folder.glob("parts/*-*")):
        last = max((int(p.stem.removeprefix("epoch-")) for p in part.glob("epoch-*.safetensors")), default=0)
        begun.append(f"{'-'.join(str(int(n)) for n in part.name.split('-'))} at epoch {last}")
    return Stored(
        folder.name,
        folder,
        dataset,
        recipe,
        tuple(float(h["accuracy"]) for h in headers),
        sum(float(h["train_s"]) for h in headers),
        sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
        ", ".join(begun),
        damaged,
    )


def stored(cache: Path | None = None) -> list[Stored]:
    """All experts in the cache, by data set and network; damaged ones first."""
    found = [
        look(folder)
        for folder in sorted(_root(cache).glob("*"))
        if any(next(folder.glob(name), None) for name in ("experts.json", "expert-*", "parts"))
    ]
    return sorted(found, key=lambda s: (s.dataset, s.recipe.get("network", ""), s.fingerprint))


def remove(fingerprints: Sequence[str], cache: Path | None = None, *, dry_run: bool = False) -> list[Stored]:
    """Remove the experts of these fingerprints, all of them or, after an error, none.

    Raises:
        LookupError: no such experts; names the nearest.
        ValueError: a process is training some of them just now.
    """
    there = {s.fingerprint: s for s in stored(cache)}
    for name in fingerprints:
        if name not in there:
            raise LookupError(
                f"no experts {name} in {_root(cache)}; {registry.nearest(name, there) or 'there are none at all'} "
                f"(see: ddbench experts list)"
            )
    gone, busy = _removed([there[name] for name in dict.fromkeys(fingerprints)], dry_run, all_or_none=True)
    if busy:
        raise ValueError(
            f"experts {busy[0].fingerprint} are being trained by another process; wait for it to finish, or stop it"
        )
    return gone


def remove_all(cache: Path | None = None, *, dry_run: bool = False) -> tuple[list[Stored], list[Stored]]:
    """Remove all experts but those that a process is training just now: (removed, left)."""
    return _removed(stored(cache), dry_run, all_or_none=False)


def _removed(
    entries: Sequence[Stored], dry_run: bool, *, all_or_none: bool
) -> tuple[list[Stored], list[Stored]]:
    """(removed, being trained)."""
    gone, busy = [], []
    with contextlib.ExitStack() as locks:
        for entry in entries:
            try:
                locks.enter_context(store.Lock(entry.path / "training", wait_s=0))
            except TimeoutError:
                busy.append(entry)
            else:
                gone.append(entry)
        if busy and all_or_none:
            return [], busy
        for entry in gone if not dry_run else ():
            shutil.rmtree(entry.path)
    return gone, busy


def recipe_of(method: str, made: Any) -> TeacherRecipe:
    """The recipe of the experts that a made method uses.

    Raises:
        ValueError: the method uses none; names those that do.
    """
    made = registry.unwrapped(made)
    if not hasattr(made, "expert_recipe"):
        have = []
        for name in registry.names("methods"):
            with contextlib.suppress(registry.PluginError):
                have += [name] if hasattr(registry.get_class(name), "expert_recipe") else []
        raise ValueError(f"method {method} uses no experts; those that do: {', '.join(have) or 'none'}")
    found: TeacherRecipe = made.expert_recipe()
    return found
