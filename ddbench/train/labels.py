"""Labellers: networks that label views of the items, while the student trains or beforehand into shards on disk.

A stored label answers one view: this item, this crop, flip and mix, in this batch.  The plan that drew the view makes the
student's batches too (``students.batch_inputs`` serves both), and any other plan is an error.

Stores of one folder lie side by side, ``<set>-<labels>/`` each: the fingerprint of the set without its labeller, then a hash of
all that decides the answers (networks, weights, space, batch norm, views).  ``answers.json`` says what a store is, from its
first minute on; ``logits-00000.npy``, ... hold the rows, epoch after epoch in the order of the batches; ``shards.jsonl`` has a
line with the checksum of each shard that is whole, which is compared when the shard is first opened.

Sources: SRe2L (arXiv:2306.13092) and its repository; INFER (arXiv:2408.06927); HeLlO (arXiv:2408.08201); the batch
statistics over halves of a batch are those of CV-DD's repository.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ddbench.augment.views import batches
from ddbench.codecs import count
from ddbench.compute import to_device
from ddbench.contract import DistilledSet, Items, Labeller, NetworkRef, Space, Targets, canonical
from ddbench.nets import public
from ddbench.nets.build import build
from ddbench.store import DamagedError, Lock, WriteError, read_rows, write_json, write_rows, writing
from ddbench.train.students import batch_inputs
from ddbench.train.teachers import about as about_cached
from ddbench.train.teachers import cached_state
from ddbench.trainplan import ViewPlan

Cache = Callable[[str], Mapping[str, Tensor]]
"""Fingerprint -> state of a teacher in the cache (``state_dict``)."""
About = Callable[[str], Mapping[str, Any] | None]
"""Fingerprint -> what is known of a cached teacher (``teachers.about``): ``classes``, ``shape``, ``space``; any may be None."""

SCHEMA = 1
FOLDER = "labels"
"""Name of the folder of stores beside sets."""
SHARD_MIB = 64.0
"""Most that a shard takes: what labelling keeps in memory, what a kill loses, what replay maps at a time."""
_INDEX = "answers.json"
_SHARDS = "shards.jsonl"
_CHUNK = 1 << 24
_FP16_EXPONENT = np.uint16(0x7C00)  # all ones: infinity or NaN; isfinite took longer than a small network


# ------------------------------------------------------------------------------------------------ networks


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _add_low_rank(network: nn.Module, parts: Mapping[str, Tensor], prefix: str) -> None:
    """weight += A @ B, A (d, r) and B (r, k) of each adapted parameter; convolutions as (out, in * k * k)."""
    named = dict(network.named_parameters())
    adapted = sorted({name.rpartition(".")[0] for name in parts})
    if not adapted:
        raise ValueError(f"the set has no tensors {prefix}<parameter>.A and .B; a low-rank part needs both")
    for name in adapted:
        a, b = parts.get(f"{name}.A"), parts.get(f"{name}.B")
        if a is None or b is None or name not in named:
            what = "no such parameter" if a is not None and b is not None else "one of A and B is missing"
            raise ValueError(f"low-rank part {prefix}{name}: {what}; expected {prefix}<parameter>.A and .B")
        weight = named[name]
        if (
            a.shape[1] != b.shape[0]
            or a.shape[0] * b.shape[1] != weight.numel()
            or a.shape[0] != weight.shape[0]
        ):
            raise ValueError(
                f"low-rank part {prefix}{name} is {tuple(a.shape)} @ {tuple(b.shape)} for a parameter of "
                f"{tuple(weight.shape)}; expected (out, r) @ (r, rest)"
            )
        with torch.no_grad():
            weight.add_((a.float() @ b.float()).view_as(weight))


def _load(
    ref: NetworkRef, distilled: DistilledSet, shape: tuple[int, int, int], classes: int, cache: Cache
) -> nn.Module:
    if ref.source == "public":
        network = public.load(ref.key)
    else:
        if ref.source == "inline":
            state: Mapping[str, Tensor] = _below(distilled.tensors, ref.key)
            where = f"tensors {ref.key}*"
        else:
            state, where = cache(ref.key), f"teacher {ref.key} of the cache"
        if ref.low_rank is not None and ref.low_rank.startswith(ref.key) and ref.source == "inline":
            own = ref.low_rank.removeprefix(ref.key)
            state = {name: t for name, t in state.items() if not name.startswith(own)}
        side = ref.size
        network = build(ref.architecture, shape if side is None else (shape[0], side, side), classes)
        try:
            network.load_state_dict(
                {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
            )
        except RuntimeError as error:
            raise ValueError(
                f"{where} do not fit a {ref.architecture} for {shape} images and {classes} classes: {error}"
            ) from error
    if ref.low_rank is not None:
        _add_low_rank(network, _below(distilled.tensors, ref.low_rank), ref.low_rank)
    return network


def _check_teacher(
    ref: NetworkRef, space: Space, shape: tuple[int, int, int], classes: int, known: Mapping[str, Any]
) -> None:
    """Raise ValueError where a cached teacher is not what the labeller says or the set needs."""
    who = f"teacher {ref.key} ({ref.architecture})"
    if (has := known.get("classes")) is not None and has != classes:
        raise ValueError(
            f"{who} answers for {has} classes but the set has {classes}; label by a teacher trained on the set's own data"
        )
    wanted = shape if ref.size is None else (shape[0], ref.size, ref.size)
    if (trained := known.get("shape")) is not None and tuple(trained) != wanted:
        raise ValueError(
            f"{who} was trained on images of {tuple(trained)} but would see {wanted}; label by a teacher of that size, or "
            f"say the side that it wants (NetworkRef.size)"
        )
    seen, said = known.get("space"), space.describe()
    if seen is not None and _inputs_of(seen) != _inputs_of(said):
        raise ValueError(
            f"{who} was trained on inputs of {_space_text(seen)}, but the labeller says {_space_text(said)}; give the "
            f"labeller the space of its teachers"
        )


def _check_public(ref: NetworkRef, space: Space, shape: tuple[int, int, int], classes: int) -> None:
    """Raise ValueError where public weights are not what the labeller says or the set needs; nothing is downloaded."""
    if space.zca is not None:
        raise ValueError(
            f"the public network {ref.key} was trained without whitening, but the labeller's inputs are whitened (ZCA); give "
            f"the labeller the space of its networks"
        )
    cure = "give the labeller the space of its networks"
    public.check(ref.key, shape, classes, space.mean, space.std, ref.outputs, cure)


def _inputs_of(space: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides the meaning of network inputs, of a space as plain data."""
    return list(space["mean"]), list(space["std"]), (space["zca"] or {}).get("hash")


def _space_text(space: Mapping[str, Any]) -> str:
    mean, std = (", ".join(f"{x:.4g}" for x in space[part]) for part in ("mean", "std"))
    zca = f", whitened (zca {space['zca']['hash']})" if space["zca"] else ""
    return f"mean ({mean}) and deviation ({std}){zca}"


def load_networks(
    labeller: Labeller,
    distilled: DistilledSet,
    shape: tuple[int, int, int],
    classes: int,
    cache: Cache = cached_state,
    device: torch.device | str = "cpu",
    about: About | None = None,
) -> list[nn.Module]:
    """The labeller's networks, low-rank parts added, in eval mode and frozen; none where it has stored answers alone.

    Args:
        labeller: which networks.
        distilled: the set that has inline tensors.
        shape: (C, H, W) of the images that the networks were trained on.
        classes: K.
        cache: reads the state of a teacher by fingerprint, for networks with source ``cache``.
        device: where they answer.
        about: what is known of a cached teacher; None: what the cache says, where ``cache`` is its own.

    Raises:
        ValueError: tensors that are missing or do not fit the architecture; a teacher of other classes, images or inputs
            than the labeller and the set, public weights included; batch statistics asked of a network without batch norm.
        LookupError: an unknown architecture or library, or a teacher that is not in the cache.
        RuntimeError: public weights that cannot be downloaded.
    """
    if about is None and cache is cached_state:
        about = about_cached
    for ref in labeller.networks:  # all of them before the first is loaded
        if ref.source == "cache" and about is not None:
            try:
                known = about(ref.key)
            except LookupError as error:
                raise LookupError(
                    f"{error}: the set is labelled by this {ref.architecture}.  Distil the set again on this machine, copy the "
                    f"folder teachers/{ref.key} from the cache of the machine that made it, or score the set under "
                    f"rethink-soft, whose own teacher labels"
                ) from error
            _check_teacher(ref, labeller.space, shape, classes, known or {})
        elif ref.source == "public":
            _check_public(ref, labeller.space, shape, classes)
    found = []
    for ref in labeller.networks:
        network = _load(ref, distilled, shape, classes, cache).to(device).eval()
        if labeller.batch_norm != "eval" and not any(isinstance(m, _BatchNorm) for m in network.modules()):
            raise ValueError(
                f"{ref.architecture} has no batch norm, but its answers are to use the statistics of the batch "
                f"(batch_norm {labeller.batch_norm!r}); label with batch_norm 'eval', or by a network with batch norm, such as "
                f"ResNet18BN"
            )
        found.append(network.requires_grad_(False))
    return found


# ------------------------------------------------------------------------------------------------ answers


@contextmanager
def _batch_statistics(network: nn.Module) -> Iterator[None]:
    """Batch norms use and keep nothing but the statistics of the batch; everything else stays as it is."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    before = [(m.training, m.track_running_stats) for m in norms]
    try:
        for m in norms:
            m.training, m.track_running_stats = True, False
        yield
    finally:
        for m, (training, track) in zip(norms, before, strict=True):
            m.training, m.track_running_stats = training, track


def _halves(x: Tensor) -> list[Tensor]:
    cut = len(x) // 2
    return [part for part in (x[:cut], x[cut:]) if len(part)]


def _logits(labeller: Labeller, ref: NetworkRef, network: nn.Module, x: Tensor) -> Tensor:
    if ref.size is not None and tuple(x.shape[2:]) != (ref.size, ref.size):
        x = F.interpolate(x, size=(ref.size, ref.size), mode="bilinear", align_corners=False)
    if labeller.batch_norm == "eval":
        logits: Tensor = network(x)
    else:
        with _batch_statistics(network):
            parts = _halves(x) if labeller.batch_norm == "train-halves" else [x]
            logits = torch.cat([network(part) for part in parts])
    return logits if ref.outputs is None else logits[:, list(ref.outputs)]


def _check_count(labeller: Labeller, networks: Sequence[nn.Module]) -> None:
    if not labeller.networks:
        raise ValueError(
            "the labeller has no networks, so only its stored answers can be had; expected the folder that they are in "
            "(StoredAnswers), or a labeller with networks"
        )
    if len(networks) != len(labeller.networks):
        raise ValueError(
            f"{len(networks)} networks for a labeller of {len(labeller.networks)}; expected them all"
        )


@torch.no_grad()
def answer(
    labeller: Labeller, networks: Sequence[nn.Module], inputs: Tensor, space: Space | None = None
) -> Tensor:
    """Logits (b, K) of the labeller: the weighted mean over its networks.

    Args:
        labeller: batch-norm mode, weights and space; whether ``inputs`` are clean or augmented is the caller's part.
        networks: from :func:`load_networks`, in the labeller's order.
        inputs: (b, C, H, W), a whole batch: with ``train`` and ``train-halves`` the answers depend on their company.
        space: of ``inputs``; where the labeller has another one, inputs are mapped to it.  None: the labeller's.

    Raises:
        ValueError: the networks are not those of the labeller, or disagree on the classes.

    Running statistics are as before when this returns.
    """
    _check_count(labeller, networks)
    if space is not None and not space.same_inputs(labeller.space):
        inputs = labeller.space.unit_to_input(space.input_to_unit(inputs))
    refs = labeller.networks
    answers = [_logits(labeller, ref, net, inputs) for ref, net in zip(refs, networks, strict=True)]
    if len({tuple(a.shape) for a in answers}) > 1:
        raise ValueError(
            f"networks answer with shapes {[tuple(a.shape) for a in answers]}; expected the same classes"
        )
    if labeller.combine == "norm-mean":
        norms = [a.norm() for a in answers]
        mean = torch.stack(norms).mean()
        answers = [a * (mean / norm) for a, norm in zip(answers, norms, strict=True)]
    if len(answers) == 1:
        return answers[0]
    total = sum(ref.weight for ref in refs)
    return torch.stack([a * (ref.weight / total) for a, ref in zip(answers, refs, strict=True)]).sum(0)


@torch.no_grad()
def answer_items(items: Items, labeller: Labeller, networks: Sequence[nn.Module], batch: int = 256) -> Tensor:
    """Static labels: fp16 logits (n, K) of every clean item, to be stored as soft targets of kind ``logits``."""
    found = []
    for rows in torch.split(torch.arange(len(items)), batch):
        inputs = items.to_input(items.stored[rows.to(items.stored.device)])
        found.append(answer(labeller, networks, inputs, items.space).cpu().half())
    return torch.cat(found)


# ------------------------------------------------------------------------------------------------ plans and addresses


def logit_bytes(items: int, classes: int, epochs: int = 1) -> int:
    """Bytes of fp16 logits for every view of every epoch; of one epoch: those of static labels, one row an item."""
    return items * epochs * classes * 2


def _differences(stored: Mapping[str, Any], asked: Mapping[str, Any], skip: Sequence[str] = ()) -> list[str]:
    """What two plans or labellers, as plain data, do not agree in."""
    keys = [key for key in stored if key not in skip and stored[key] != asked.get(key)]
    return [f"{key} is {stored[key]!r} there, {asked.get(key)!r} asked for" for key in keys]


def check_plan(labeller: Labeller, plan: ViewPlan) -> None:
    """Raise ValueError where stored answers do not belong to the views of ``plan`` (fewer epochs are fine)."""
    stored = _stored_views(labeller)
    wrong = _differences(asdict(stored), asdict(plan), ("epochs",))
    _refuse(stored, plan, wrong)


def plan_for(labeller: Labeller, plan: ViewPlan) -> ViewPlan:
    """The plan by which students of a protocol see a set whose answers are stored.

    Views that came with the set (FKD files: ``boxes``) are taken in place of the protocol's where they were drawn by the same
    law: seed, order and boxes may then differ, batch, crop, flip and mix may not.  Epochs are the protocol's.

    Raises:
        ValueError: the answers belong to other views.
    """
    stored = _stored_views(labeller)
    if stored.boxes is None:
        check_plan(labeller, plan)
        return plan
    _refuse(stored, plan, _differences(asdict(stored), asdict(plan), ("epochs", "seed", "order", "boxes")))
    return replace(stored, epochs=plan.epochs)


def _stored_views(labeller: Labeller) -> ViewPlan:
    if labeller.views is None:
        raise ValueError(
            "the labeller has no stored views; expected one with a view plan, or labels made while training"
        )
    return labeller.views


def _refuse(stored: ViewPlan, plan: ViewPlan, wrong: list[str]) -> None:
    if plan.epochs > stored.epochs:
        wrong.insert(0, f"epochs is {stored.epochs!r} there, {plan.epochs!r} asked for")
    if wrong:
        raise ValueError(
            "stored labels answer the views of another plan: " + "; ".join(wrong) + ". "
            "A stored label belongs to one view: train with the stored plan, or label again"
        )


def set_fingerprint(distilled: DistilledSet) -> str:
    """Of a set without its labeller: equal for all protocols that label it."""
    targets = distilled.targets
    if targets.labeller is None:
        return distilled.fingerprint()
    ids = targets.ids
    if ids is None and targets.soft is None:  # targets may not be empty
        ids = torch.zeros(0 if targets.weights is None else len(targets.weights), dtype=torch.int64)
    bare = Targets(ids, targets.soft, targets.kind, targets.weights)
    return distilled.changed(targets=bare).fingerprint()


def _described(labeller: Labeller) -> dict[str, Any]:
    """A labeller as JSON has it, without what does not matter."""
    plain = replace(labeller, space=replace(labeller.space, stored="input")).describe()
    return dict(json.loads(canonical(plain)))


def _with_views(distilled: DistilledSet) -> Labeller:
    labeller = distilled.targets.labeller
    if labeller is None or labeller.views is None:
        raise ValueError("the set has no labeller with a view plan; expected Labeller(views=ViewPlan(...))")
    return labeller


def store_path(folder: Path, distilled: DistilledSet) -> Path:
    """Where in ``folder`` the answers of the set's labeller lie, whether they are there or not.

    Raises:
        ValueError: the set has no labeller with a view plan.
    """
    labeller = _with_views(distilled)
    digest = hashlib.sha256(canonical(_described(labeller)).encode()).hexdigest()[:16]
    return Path(folder) / f"{set_fingerprint(distilled)}-{digest}"


# ------------------------------------------------------------------------------------------------ shards


@dataclass(frozen=True)
class Store:
    """The answers of one labeller to the views of one set, as they lie on disk."""

    path: Path
    set: str
    """Fingerprint of the set without its labeller (:func:`set_fingerprint`)."""
    dataset: str
    items: int
    classes: int
    shard_rows: int
    plan: Mapping[str, Any]
    """Of the views."""
    labeller: Mapping[str, Any]
    """``Labeller.describe()``."""
    done: Mapping[int, Mapping[str, Any]]
    """``bytes`` of the file and ``crc32`` of the rows of each shard that is whole."""
    source: str = ""
    """Where the answers come from, if not from our own labelling."""

    @property
    def rows(self) -> int:
        """Views in all."""
        return int(self.plan["epochs"]) * self.items

    @property
    def shards(self) -> int:
        """Shards in all."""
        return -(-self.rows // self.shard_rows)

    @property
    def whole(self) -> bool:
        """Whether every shard is there in its full size; what is in it, :func:`verify` compares."""
        return len(self.intact) == self.shards

    @property
    def intact(self) -> tuple[int, ...]:
        """Shards that are there in their full size."""
        return tuple(number for number in sorted(self.done) if self.fault(number) is None)

    @property
    def nbytes(self) -> int:
        """Bytes of the logits of all views: label bytes of the set."""
        return logit_bytes(self.items, self.classes, int(self.plan["epochs"]))

    @property
    def there(self) -> int:
        """Bytes of the logits that are there."""
        return sum(self.rows_of(number) for number in self.intact) * self.classes * 2

    @property
    def networks(self) -> tuple[str, ...]:
        """Architectures of the networks that answered; none where the answers were imported."""
        return tuple(network["architecture"] for network in self.labeller["networks"])

    def rows_of(self, number: int) -> int:
        """Views in a shard."""
        return min(self.shard_rows, self.rows - number * self.shard_rows)

    def shard(self, number: int, verify: bool) -> npt.NDArray[np.float16]:
        """One shard, memory-mapped, (rows, classes).

        Args:
            verify: compare the checksum of its rows (reads it all, once).

        Raises:
            FileNotFoundError: it is not there.
            ddbench.store.DamagedError: truncated, of another shape, or changed since it was written.
        """
        path, rows = _shard_path(self.path, number), self.rows_of(number)
        if number not in self.done or not path.is_file():
            raise FileNotFoundError(
                f"stored answers lack {path}; label the views again (what is there is kept)"
            )
        try:
            shard = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DamagedError(
                f"{path} is truncated or no shard ({error}); delete it and label again"
            ) from error
        if shard.dtype != np.float16 or shard.shape != (rows, self.classes):
            raise DamagedError(
                f"{path} holds {shard.dtype} {shard.shape}; expected float16 {(rows, self.classes)}: delete it and "
                f"label again"
            )
        if verify and _crc(shard) != self.done[number]["crc32"]:
            raise DamagedError(
                f"{path} was changed after it was written (its checksum differs); delete it and label again"
            )
        return shard  # type: ignore[no-any-return]

    def fault(self, number: int) -> str | None:
        """What is wrong with a shard as far as its size tells: ``missing``, ``truncated``, or None."""
        path, known = _shard_path(self.path, number), self.done.get(number)
        if known is None or not path.is_file():
            return "missing"
        return "truncated" if path.stat().st_size != known["bytes"] else None

    def check(self) -> None:
        """Whether every shard is there in its full size: quick, as no shard is read.

        Raises:
            FileNotFoundError: shards are missing; names them.
            ddbench.store.DamagedError: shards are truncated; names them.
        """
        faults = [(self.fault(number), _shard_path(self.path, number).name) for number in range(self.shards)]
        missing, short = (
            [name for fault, name in faults if fault == kind] for kind in ("missing", "truncated")
        )
        if missing:
            raise FileNotFoundError(
                f"stored answers in {self.path} are not whole: {len(missing)} of {self.shards} shards are missing "
                f"({_some(missing)}); label the views again (what is there is kept), or copy the folder again"
            )
        if short:
            raise DamagedError(
                f"stored answers in {self.path}: {len(short)} of {self.shards} shards are truncated ({_some(short)}); "
                f"label the views again (the others are kept), or copy the folder again"
            )


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _crc(rows: npt.NDArray[np.float16]) -> str:
    """crc32 of the bytes of rows, a chunk at a time."""
    found = 0
    step = max(1, _CHUNK // max(1, rows.shape[1] * 2))
    for start in range(0, len(rows), step):
        found = zlib.crc32(rows[start : start + step].tobytes(), found)
    return f"{found:08x}"


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"logits-{number:05d}.npy"


def look(path: Path) -> Store:
    """What a store is and how far it is; no shard is read.

    Raises:
        FileNotFoundError: no store there.
        ddbench.store.DamagedError: its index cannot be read, or is of a newer schema.
    """
    index = Path(path) / _INDEX
    if not index.is_file():
        raise FileNotFoundError(f"no stored answers in {path} (expected {index})")
    try:
        said = json.loads(index.read_text(encoding="utf-8"))
        if int(said["schema"]) > SCHEMA:
            raise DamagedError(
                f"{index} has schema {said['schema']}, this ddbench knows up to {SCHEMA}; update ddbench"
            )
        done = {int(row["shard"]): row for row in read_rows(Path(path) / _SHARDS)}
        keys = ("set", "dataset", "items", "classes", "shard_rows", "plan", "labeller", "source")
        found = Store(path=Path(path), done=done, **{key: said[key] for key in keys})
        if found.shards < 1 or any(not 0 <= number < found.shards for number in found.done):
            raise ValueError(f"{len(found.done)} shards are told of {found.shards}")
    except DamagedError:
        raise
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise DamagedError(f"{index} cannot be read ({error}); delete the folder and label again") from error
    return found


def stored(folder: Path, damaged: list[str] | None = None) -> list[Store]:
    """The stores in a folder, whole and partial, or the one store that the folder is.

    Args:
        folder: of stores, or anything above one (a run folder).
        damaged: takes the messages of those that cannot be read, which are then left out.

    Raises:
        ddbench.store.DamagedError: a store cannot be read and ``damaged`` is None.
    """
    folder = Path(folder)
    places = [folder] if (folder / _INDEX).is_file() else sorted(p.parent for p in folder.rglob(_INDEX))
    found = []
    for place in places:
        try:
            found.append(look(place))
        except DamagedError as error:
            if damaged is None:
                raise
            damaged.append(str(error))
    return found


def beside(path: Path) -> Path | None:
    """The folder of stores that goes with a set's file: beside it, or in its run folder; None where there is none."""
    places = (path.parent / FOLDER, path.parent.parent / FOLDER)
    return next((place for place in places if place.is_dir()), None)


def drop_changed(store: Store) -> list[str]:
    """Read every shard that is there and remove those whose checksum differs, which labelling then makes again.

    Returns:
        names of the files that were removed.
    """
    removed = []
    for number in store.intact:
        try:
            store.shard(number, verify=True)
        except DamagedError:
            path = _shard_path(store.path, number)
            path.unlink()
            removed.append(path.name)
    return removed


def verify(store: Store, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Read every shard that a store should have and compare checksums: the faults, none where all is well."""
    faults = []
    for number in range(store.shards):
        try:
            store.shard(number, verify=True)
        except (FileNotFoundError, DamagedError) as error:
            faults.append(str(error))
        if progress is not None:
            progress(number + 1, store.shards)
    return faults


class ShardWriter:
    """Writes the rows of a store, a shard at a time; shards that are whole already are kept.

    Args:
        path: :func:`store_path` of the set.
        distilled: with the labeller whose answers they are.
        items, classes: n and K.
        shard_mib: most bytes a shard.
        source: where the answers come from, if not from our own labelling.

    Raises:
        ddbench.store.WriteError: the logits still missing would not fit the disk, or the folder is read-only.
    """

    def __init__(
        self,
        path: Path,
        distilled: DistilledSet,
        items: int,
        classes: int,
        shard_mib: float = SHARD_MIB,
        source: str = "",
    ) -> None:
        labeller = _with_views(distilled)
        plan = labeller.views
        assert plan is not None  # _with_views refuses sets without
        self._path, self._rows = Path(path), plan.epochs * items
        self._shard_rows = max(1, min(self._rows, int(shard_mib * (1 << 20)) // (2 * classes)))
        said = {
            "schema": SCHEMA,
            "set": self._path.name.partition("-")[0],
            "dataset": distilled.card.dataset,
            "items": items,
            "classes": classes,
            "shard_rows": self._shard_rows,
            "plan": asdict(plan),
            "labeller": _described(labeller),
            "source": source,
        }
        kept = self._whole(items, classes)
        self._kept = {int(line["shard"]) for line in kept}
        missing = logit_bytes(self._rows - len(kept) * self._shard_rows, classes)
        free = shutil.disk_usage(self._path.parent).free
        if missing > free:
            raise WriteError(
                f"the labels still missing take {missing / 1e9:.3g} GB but the disk of {self._path} has {free / 1e9:.3g} GB "
                f"free; free some space, choose another folder, or label while training"
            )
        write_json(self._path / _INDEX, said)
        write_rows(self._path / _SHARDS, kept)
        self._buffer = np.empty((self._shard_rows, classes), dtype=np.float16)

    def _whole(self, items: int, classes: int) -> list[Mapping[str, Any]]:
        """Lines of the shards that are there in full size and belong here."""
        try:
            before = look(self._path)
        except (FileNotFoundError, DamagedError):
            return []
        if (before.shard_rows, before.items, before.classes) != (self._shard_rows, items, classes):
            return []
        return [line for number, line in sorted(before.done.items()) if before.fault(number) is None]

    def needs(self, start: int, stop: int) -> bool:
        """Whether a shard that is missing has one of these rows."""
        return any(
            n not in self._kept for n in range(start // self._shard_rows, (stop - 1) // self._shard_rows + 1)
        )

    def add(self, rows: npt.NDArray[np.float16], start: int) -> None:
        """Rows (b, K), the first of which is row ``start``; rows of missing shards must come in their order."""
        while len(rows):
            number, at = divmod(start, self._shard_rows)
            taken = rows[: self._shard_rows - at]
            start, rows = start + len(taken), rows[len(taken) :]
            if number in self._kept:
                continue
            self._buffer[at : at + len(taken)] = taken
            if start % self._shard_rows == 0 or start == self._rows:
                self._write(number, self._buffer[: at + len(taken)])

    def _write(self, number: int, rows: npt.NDArray[np.float16]) -> None:
        path = _shard_path(self._path, number)
        with writing(path) as temporary, temporary.open("wb") as file:
            np.save(file, rows, allow_pickle=False)
        line = {"shard": number, "bytes": path.stat().st_size, "crc32": _crc(rows)}
        with (self._path / _SHARDS).open("a", encoding="utf-8") as told:
            told.write(json.dumps(line) + "\n")


# ------------------------------------------------------------------------------------------------ stored answers


class StoredAnswers:
    """Reader of the answers to every view of a set: fp16 logits in memory-mapped shards, one open at a time.

    An object of it is an ``AnswerView``: it can be handed to ``train_students`` as ``answers``.
    """

    def __init__(
        self, folder: Path, distilled: DistilledSet, plan: ViewPlan, path: Path | None = None
    ) -> None:
        """
        Args:
            folder: of stores.
            distilled: the set, with the labeller whose answers are stored.
            plan: of the student; as stored, or with fewer epochs.
            path: :func:`store_path` of these, where the caller has it: hashing a large set takes seconds.

        Raises:
            ValueError: another plan than the one the answers were stored for, or other items than those of the set.
            FileNotFoundError: nothing, or not everything, is stored for this set; says what there is instead.
            ddbench.store.DamagedError: an index or a shard is truncated or of a newer schema.
        """
        labeller = distilled.targets.labeller
        if labeller is None:
            raise ValueError("the set has no labeller; expected one whose answers are stored")
        check_plan(labeller, plan)
        self.plan = plan
        self.folder = store_path(folder, distilled) if path is None else path
        if not (self.folder / _INDEX).is_file():
            raise FileNotFoundError(_nothing_there(Path(folder), self.folder, labeller))
        self.store = look(self.folder)
        n, classes = count(distilled), distilled.card.classes
        if self.store.items != n or (classes and self.store.classes != classes):
            raise ValueError(
                f"stored answers in {self.folder} are of {self.store.items} items and {self.store.classes} classes, but "
                f"the set has {n} items and {classes or self.store.classes} classes; label its views again"
            )
        self.store.check()
        self._open: tuple[int, npt.NDArray[np.float16]] | None = None
        self._verified: set[int] = set()

    @property
    def items(self) -> int:
        return self.store.items

    @property
    def classes(self) -> int:
        return self.store.classes

    @property
    def nbytes(self) -> int:
        """Bytes of the logits of all views that are stored."""
        return self.store.nbytes

    def _shard(self, number: int) -> npt.NDArray[np.float16]:
        if self._open is None or self._open[0] != number:
            self._open = None  # unmapped before the next is mapped
            self._open = number, self.store.shard(number, verify=number not in self._verified)
            self._verified.add(number)
        return self._open[1]

    def batch(self, epoch: int, batch: int) -> Tensor:
        """fp16 logits (b, K) of the views of one batch, in the order of its indices, on the CPU.

        Raises:
            ValueError: no such batch.
            FileNotFoundError, ddbench.store.DamagedError: a shard was lost, truncated or changed since.
        """
        n = self.items
        if not 0 <= epoch < self.plan.epochs or not 0 <= batch * self.plan.batch < n:
            raise ValueError(
                f"no batch {batch} in epoch {epoch}; the plan has {self.plan.epochs} epochs of "
                f"{-(-n // self.plan.batch)} batches"
            )
        start = epoch * n + batch * self.plan.batch
        stop = min(start + self.plan.batch, (epoch + 1) * n)
        out = np.empty((stop - start, self.classes), dtype=np.float16)
        at = start
        while at < stop:
            number, offset = divmod(at, self.store.shard_rows)
            taken = min(stop - at, self.store.rows_of(number) - offset)
            # no view outlives this line: the shard before must be unmapped when the next is mapped
            out[at - start : at - start + taken] = self._shard(number)[offset : offset + taken]
            at += taken
        return torch.from_numpy(out)

    def __call__(self, epoch: int, batch: int, rows: Tensor, inputs: Tensor) -> Tensor:
        """Logits (b, K) of a batch on the device of its ``inputs``."""
        return to_device(self.batch(epoch, batch), inputs.device)


def _nothing_there(folder: Path, place: Path, labeller: Labeller) -> str:
    """Why nothing is stored at ``place``: what the folder holds instead."""
    own, _, _ = place.name.partition("-")
    others = stored(folder, damaged=[])
    asked = _described(labeller)
    text = f"no stored answers for this set in {folder} (expected {place / _INDEX})"
    for other in others:
        if other.set == own:
            mine = {**asked, **(asked["views"] or {})}
            theirs = {**other.labeller, **other.plan}
            wrong = _differences(theirs, mine, ("views",))
            text += f"; for this very set it holds those of another plan or labeller, {other.path.name}: {'; '.join(wrong)}"
    if others and not any(other.set == own for other in others):
        text += f"; it holds those of other sets: {_some(sorted({o.set for o in others}))}"
    return text + ". Label the views of this set first, or copy the folder"


def _check_short_batch(
    labeller: Labeller, networks: Sequence[nn.Module], items: Items, plan: ViewPlan
) -> None:
    """Batch statistics of a single image are none where the last maps have one pixel: say so before hours of labelling."""
    rest = len(items) % plan.batch
    parts = {"eval": [], "train": [rest], "train-halves": [rest // 2, rest - rest // 2]}[labeller.batch_norm]
    if 1 not in parts:
        return
    inputs = items.to_input(items.stored[:1])
    for ref, network in zip(labeller.networks, networks, strict=True):
        try:
            with torch.no_grad():
                _logits(labeller, ref, network, inputs)
        except ValueError as error:
            raise ValueError(
                f"the last batch of an epoch has {rest} of {len(items)} items (batches of {plan.batch}), so that "
                f"{ref.architecture} would take batch statistics (batch_norm {labeller.batch_norm!r}) of a single image, which "
                f"has none ({error}); choose another batch or number of images, or label with batch_norm 'eval'"
            ) from error


def store_answers(
    folder: Path,
    distilled: DistilledSet,
    items: Items,
    networks: Sequence[nn.Module],
    shard_mib: float = SHARD_MIB,
    progress: Callable[[int, int], None] | None = None,
) -> StoredAnswers:
    """Label every view of the labeller's plan, as a stream: never more than one shard in memory.

    Shards that are there already are kept, so labelling that was cut short goes on where it stopped, and what is whole is only
    opened.

    Args:
        folder: of stores; answers lie in :func:`store_path`.
        distilled: a set whose labeller has a view plan and sees the augmented batch.
        items: its items.
        networks: from :func:`load_networks`.
        shard_mib: most bytes a shard.
        progress: called with (views labelled, views in all) after every batch.

    Raises:
        ValueError: no labeller, networks or plan, a labeller that sees clean items, logits that fp16 cannot hold, batch
            statistics of a single image.
        ddbench.store.WriteError: the labels would not fit the disk, or it is read-only.
    """
    labeller = _with_views(distilled)
    plan = labeller.views
    assert plan is not None  # _with_views refuses sets without
    if labeller.sees == "clean":
        raise ValueError(
            "the labeller sees clean items; store its answers once an item, as soft targets (answer_items)"
        )
    path, n = store_path(folder, distilled), len(items)
    with Lock(path):
        if not _is_whole(path):
            _check_count(labeller, networks)
            _check_short_batch(labeller, networks, items, plan)
            writer = ShardWriter(path, distilled, n, items.classes, shard_mib)
            waiting: tuple[int, int, int, Tensor] | None = None
            for epoch in range(plan.epochs):
                if not writer.needs(epoch * n, (epoch + 1) * n):
                    continue
                for number, indices in enumerate(batches(plan, n, epoch, distilled.tensors)):
                    start = epoch * n + number * plan.batch
                    if not writer.needs(start, start + len(indices)):
                        continue
                    inputs, _ = batch_inputs(items, plan, epoch, number, indices, distilled.tensors)
                    logits = answer(labeller, networks, inputs, items.space).half()
                    if (
                        waiting is not None
                    ):  # a GPU answers while views are drawn and the batch before is stored
                        _take(writer, *waiting, n, items.classes, plan, progress)
                    waiting = epoch, number, len(indices), logits
            if waiting is not None:
                _take(writer, *waiting, n, items.classes, plan, progress)
    return StoredAnswers(folder, distilled, plan, path)


def _take(
    writer: ShardWriter,
    epoch: int,
    number: int,
    size: int,
    logits: Tensor,
    items: int,
    classes: int,
    plan: ViewPlan,
    progress: Callable[[int, int], None] | None,
) -> None:
    rows = logits.cpu().numpy()
    bad = int(np.count_nonzero((rows.view(np.uint16) & _FP16_EXPONENT) == _FP16_EXPONENT))
    if rows.shape != (size, classes) or bad:
        raise ValueError(
            f"the labeller answers epoch {epoch}, batch {number} with {rows.shape} logits of which {bad} are not finite in "
            f"fp16; expected {size} rows of {classes} finite values"
        )
    start = epoch * items + number * plan.batch
    writer.add(rows, start)
    if progress is not None:
        progress(start + size, plan.epochs * items)


def _is_whole(path: Path) -> bool:
    try:
        look(path).check()
    except (FileNotFoundError, DamagedError):
        return False
    return True
