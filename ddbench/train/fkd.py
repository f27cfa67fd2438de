"""Label files of the authors: FKD's ``epoch_{e}/batch_{b}.tar`` of SRe2L, CDA and CV-DD -> our explicit views and shards.

A file is one batch: [crops (B, 4) as fractions top / H, left / W, height / H, width / W; flips (B,); partners (B,) or None;
mixing weight or None; CutMix box or None; logits (B, K), fp16 or fp32].  They are torch's zip files whatever the suffix says,
and are loaded with ``weights_only`` and a short allow-list (the CutMix box has numpy integers): nothing in them can run.

What the files do not say is replayed: which items a batch has follows from torch's RandomSampler, seeded once with 42
(:func:`sampler_orders`), over the images in the order of the authors' image folder (classes by name, files by name); the set
must have its items in that order.

How the authors' loader read the files, and so do we:
- crops: Pillow rounds the edges top, left, top + height, left + width of a crop, each by itself, half to even.  A fraction that
  is no whole pixel of the set's images (to 0.05) means images of another size, and is an error.
- the CutMix box (x1, y1, x2, y2) is used with x along the rows: ours is (y1, x1, y2, x2).
- crop, then flip, then mix.  Pillow resizes in 8 bits and rounds after each of its two passes, ours in floats: views differ
  by up to one grey level (measured on random crops of noise: 1.00 at most, 0.3 in the mean).

In which mode of batch norm the teachers answered no file says: eval for SRe2L and CDA, the statistics of the halves of a
batch for CV-DD (``batch_norm="train-halves"``).

Sources: FKD (arXiv:2112.01528) and its repository; SRe2L's repository (``relabel/``, ``train/``) and its issues #1, #17, #21.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddbench import foreign
from ddbench.budget import LABEL_NOTE
from ddbench.codecs import codec_of
from ddbench.contract import DistilledSet, Labeller, Space, Targets
from ddbench.foreign import LIMIT_MIB
from ddbench.store import Lock
from ddbench.train.labels import SHARD_MIB, ShardWriter, StoredAnswers, store_path
from ddbench.trainplan import LABEL_MODES, ViewPlan

BOXES = "fkd"
"""Name of the tensors with explicit views (``ViewPlan.boxes``)."""
SEED = 42
_OFF_GRID = 0.05  # pixels that a fraction may miss a whole pixel by; float32 misses by 1e-4
_LOOKED_AT = 4096  # views that tell one batch order from another

Progress = Callable[[int, int], None]


# ------------------------------------------------------------------------------------------------ one file


@dataclass(frozen=True, eq=False)
class Record:
    """One batch of a label file, checked: what was drawn for its B views, and the answers to them."""

    boxes: Tensor
    """(B, 4) float32: top / H, left / W, height / H, width / W."""
    flips: Tensor
    """(B,) bool."""
    perm: Tensor | None
    """(B,) int64: the partner of each view inside the batch; None without a mix."""
    lam: float
    """Weight of the view itself; 1 without a mix."""
    cut: tuple[int, int, int, int] | None
    """CutMix box (x1, y1, x2, y2), x along the width; None for others."""
    logits: Tensor
    """(B, K) fp16 or fp32."""

    @property
    def mix(self) -> str:
        return "none" if self.perm is None else "mixup" if self.cut is None else "cutmix"


def load_torch(path: Path, limit_mib: float = LIMIT_MIB) -> Any:
    """What a label file holds (``foreign.load_torch``): torch's zip files alone.

    Raises:
        FileNotFoundError: no such file.
        ddbench.foreign.FormatError: truncated, or no torch file (also a DamagedError); a pickle, or a file that names what no
            label file needs; too large, or with unsafe member names.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no label file {path}")
    return foreign.load_torch(path, limit_mib, "label file")


def _is(value: Any, dims: int, floats: bool, rows: int | None = None) -> bool:
    fits = isinstance(value, Tensor) and value.dim() == dims and value.is_floating_point() == floats
    return fits and (rows is None or len(value) == rows)


def read_record(path: Path, limit_mib: float = LIMIT_MIB) -> Record:
    """One label file.

    Raises:
        FileNotFoundError, ddbench.store.DamagedError: missing, truncated.
        ValueError: not a list of six as FKD writes it, or not safe to load; says which part.
    """
    found = load_torch(path, limit_mib)
    if not isinstance(found, (list, tuple)) or len(found) != 6:
        size = f" of {len(found)}" if isinstance(found, (list, tuple, dict)) else ""
        raise ValueError(
            f"{path} holds a {type(found).__name__}{size}; expected FKD's list of 6: crops, flips, mix index, mix lambda, "
            f"CutMix box, logits"
        )
    boxes, flips, perm, lam, cut, logits = found

    def shown(value: Any) -> str:
        return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)

    def refuse(what: str, value: Any, expected: str) -> ValueError:
        return ValueError(f"{path}: {what} are {shown(value)}; expected {expected}")

    if not _is(logits, 2, True):
        raise refuse("logits", logits, "floats (B, K)")
    b = len(logits)
    if not _is(boxes, 2, True, b) or boxes.shape[1] != 4:
        raise refuse("crops", boxes, f"floats ({b}, 4)")
    if not _is(flips, 1, False, b):
        raise refuse("flips", flips, f"booleans ({b},)")
    if perm is not None:
        if not _is(perm, 1, False, b) or sorted(perm.tolist()) != list(range(b)):
            raise refuse("partners", perm, f"a permutation of 0 to {b - 1}")
        if lam is None or not 0 <= float(lam) <= 1:
            raise refuse("mixing weights", lam, "a number from 0 to 1")
        if cut is not None and len(cut) != 4:
            raise refuse("edges of the CutMix box", cut, "4 numbers")
    elif lam is not None or cut is not None:
        raise refuse("partners", perm, "a permutation, as there is a mixing weight")
    rows_first = None if cut is None else [int(edge) for edge in cut]
    return Record(
        boxes=boxes,
        flips=flips.bool(),
        perm=None if perm is None else perm.long(),
        lam=1.0 if lam is None else float(lam),
        cut=None if rows_first is None else (rows_first[1], rows_first[0], rows_first[3], rows_first[2]),
        logits=logits,
    )


def pixel_boxes(fractions: Tensor, height: int, width: int) -> Tensor:
    """Crops as fractions (b, 4) of an image -> whole pixels: top, left, height, width, int64, as Pillow rounds them.

    Raises:
        ValueError: edges that are not whole pixels of such an image, or lie outside of it.
    """
    edges = fractions.double() * torch.tensor([height, width, height, width], dtype=torch.float64)
    edges[:, 2:] += edges[:, :2]
    whole = edges.round()  # half to even, as Python's round
    off = float((edges - whole).abs().max()) if len(edges) else 0.0
    top, left, bottom, right = whole.long().unbind(1)
    inside = (
        (top >= 0) & (left >= 0) & (bottom <= height) & (right <= width) & (bottom > top) & (right > left)
    )
    if off > _OFF_GRID or not bool(inside.all()):
        raise ValueError(
            f"crops miss the pixels of {height}x{width} images by {off:.2f}"
            f"{'' if bool(inside.all()) else ' or lie outside of them'}; the labels were made for images of another size: "
            f"import them for the set in its published size"
        )
    return torch.stack([top, left, bottom - top, right - left], 1)


# ------------------------------------------------------------------------------------------------ a folder of them


def sampler_orders(items: int, seed: int = SEED, permutations: int = 2) -> Iterator[Tensor]:
    """The order of the items in every epoch, as torch's RandomSampler gave it to the authors' loader, seeded once.

    Args:
        items: n.
        seed: of the sampler's own generator.
        permutations: drawn an epoch: 2 in current versions of torch (the second is discarded), 1 in old ones.

    Yields:
        int64 (n,), without end.
    """
    if permutations not in (1, 2):
        raise ValueError(f"permutations is {permutations}; expected 1 or 2 an epoch")
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randperm(items, generator=generator)
        if permutations == 2:
            torch.randperm(items, generator=generator)


@dataclass(frozen=True)
class Files:
    """A folder of label files, as its names and its first files say."""

    folder: Path
    epochs: int
    batches: int
    """An epoch."""
    batch: int
    items: int
    classes: int
    mix: str

    def path(self, epoch: int, batch: int) -> Path:
        return self.folder / f"epoch_{epoch}" / f"batch_{batch}.tar"

    def size(self, batch: int) -> int:
        """Views of a batch."""
        return min(self.batch, self.items - batch * self.batch)


def _numbers(folder: Path, pattern: str) -> set[int]:
    found = (re.fullmatch(pattern, p.name) for p in folder.iterdir())
    return {int(m.group(1)) for m in found if m}


def survey(folder: Path, epochs: int | None = None) -> Files:
    """What a folder of label files holds, and whether it holds it all.

    Args:
        folder: with ``epoch_0``, ``epoch_1``, ...
        epochs: how many are wanted, from the first on; None: all that there are.

    Raises:
        FileNotFoundError: no such folder, or epochs or batches are missing; names them.
        ValueError: fewer epochs than wanted, or epochs of different numbers of batches.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}; expected one with epoch_0, epoch_1, ... (unpack the archive first)"
        )
    there = _numbers(folder, r"epoch_(\d+)")
    if not there:
        raise FileNotFoundError(
            f"{folder} has no epoch_0, epoch_1, ...; expected the folder of FKD label files"
        )
    wanted = max(there) + 1 if epochs is None else epochs
    if missing := sorted(set(range(min(wanted, max(there) + 1))) - there):
        raise FileNotFoundError(f"{folder} lacks {_named('epoch_{}', missing)}; unpack the archive again")
    if wanted > len(there) or wanted < 1:
        raise ValueError(f"{folder} has {len(there)} epochs, {wanted} asked for; expected 1 to {len(there)}")
    count = 0
    for epoch in range(wanted):
        numbers = _numbers(folder / f"epoch_{epoch}", r"batch_(\d+)\.tar")
        count = count or max(numbers, default=-1) + 1
        if missing := sorted(set(range(count)) - numbers):
            raise FileNotFoundError(
                f"{folder / f'epoch_{epoch}'} lacks {_named('batch_{}.tar', missing)}; unpack the archive again"
            )
        if len(numbers) != count or not count:
            raise ValueError(
                f"{folder / f'epoch_{epoch}'} has {len(numbers)} batches, epoch_0 has {count}; expected as many in each"
            )
    first = read_record(folder / "epoch_0" / "batch_0.tar")
    last = read_record(folder / "epoch_0" / f"batch_{count - 1}.tar")
    batch, classes = first.logits.shape
    return Files(folder, wanted, count, batch, batch * (count - 1) + len(last.logits), classes, first.mix)


def _named(pattern: str, numbers: list[int]) -> str:
    text = ", ".join(pattern.format(n) for n in numbers[:3])
    return text if len(numbers) <= 3 else f"{text}, ... ({len(numbers)} in all)"


def _checked(files: Files, epoch: int, number: int) -> Record:
    """A file that has the batch size, classes and mix of the others."""
    record, expected = read_record(files.path(epoch, number)), (files.size(number), files.classes)
    if tuple(record.logits.shape) != expected or record.mix != files.mix:
        raise ValueError(
            f"{files.path(epoch, number)} has {tuple(record.logits.shape)} logits of mix {record.mix}, but the files are of "
            f"batches of {files.batch}, {files.classes} classes, mix {files.mix}; expected {expected}"
        )
    return record


def _agreement(record: Record, items: Tensor, ids: Tensor) -> int:
    """How many answers of a batch name the class of their item."""
    return int((record.logits.float().argmax(1) == ids[items]).sum())


def _likely_permutations(files: Files, ids: Tensor | None, seed: int) -> int:
    """Which batch order the files have: the one under which the answers agree with the set's labels more often.

    Both agree in the first epoch, so the second tells.
    """
    if ids is None or files.epochs < 2:
        return 2
    orders = []
    for permutations in (2, 1):
        orders_of = sampler_orders(files.items, seed, permutations)
        next(orders_of)
        orders.append(torch.split(next(orders_of), files.batch))
    scores = [0, 0]
    for number in range(min(files.batches, -(-_LOOKED_AT // files.batch))):
        record = _checked(files, 1, number)
        for k, order in enumerate(orders):
            scores[k] += _agreement(record, order[number], ids)
    return 1 if scores[1] > scores[0] else 2


def _narrow(highest: int) -> torch.dtype:
    return torch.int16 if highest < 1 << 15 else torch.int32


def _explicit_views(
    files: Files,
    shape: tuple[int, ...],
    orders: Iterator[Tensor],
    ids: Tensor | None,
    progress: Progress | None,
) -> tuple[dict[str, Tensor], float | None]:
    """The tensors of all views, and the share of answers that agree with the items' labels; every file is checked."""
    height, width = shape[-2:]
    e, n, nb = files.epochs, files.items, files.batches
    tensors = {
        "order": torch.empty(e, n, dtype=_narrow(n)),
        "crops": torch.empty(e, n, 4, dtype=_narrow(max(height, width))),
        "flips": torch.empty(e, n, dtype=torch.bool),
    }
    if files.mix != "none":
        tensors["perm"] = torch.empty(e, n, dtype=_narrow(files.batch))
        tensors["lam"] = torch.empty(e, nb, dtype=torch.float64)
    if files.mix == "cutmix":
        tensors["cut"] = torch.empty(e, nb, 4, dtype=_narrow(max(height, width)))
    agree = 0
    for epoch in range(e):
        order = next(orders)
        tensors["order"][epoch] = order.to(tensors["order"].dtype)
        for number in range(nb):
            record, size = _checked(files, epoch, number), files.size(number)
            here = slice(number * files.batch, number * files.batch + size)
            try:
                boxes = pixel_boxes(record.boxes, height, width)
            except ValueError as error:
                raise ValueError(f"{files.path(epoch, number)}: {error}") from error
            tensors["crops"][epoch, here] = boxes.to(tensors["crops"].dtype)
            tensors["flips"][epoch, here] = record.flips
            if record.perm is not None:
                tensors["perm"][epoch, here] = record.perm.to(tensors["perm"].dtype)
                tensors["lam"][epoch, number] = record.lam
            if record.cut is not None:
                tensors["cut"][epoch, number] = torch.tensor(record.cut)
            if ids is not None and epoch == 0:
                agree += _agreement(record, order[here], ids)
        if progress is not None:
            progress(epoch + 1, 2 * e)
    found = {f"{BOXES}.{name}": t for name, t in tensors.items()}
    return found, None if ids is None else agree / n


def import_fkd(
    folder: Path,
    distilled: DistilledSet,
    out: Path,
    *,
    epochs: int | None = None,
    seed: int = SEED,
    permutations: int | None = None,
    batch_norm: str = "eval",
    space: Space | None = None,
    shard_mib: float = SHARD_MIB,
    progress: Progress | None = None,
) -> DistilledSet:
    """A set under the authors' stored labels: explicit views in the set, logits as shards in ``out``.

    The files are read twice, batch by batch: once for the views, in which everything is checked and nothing written, once for
    the logits.  Logits are never all in memory; the views are (15 bytes each).  Shards that are there already are kept.

    Args:
        folder: with ``epoch_0``, ``epoch_1``, ...
        distilled: the images that were labelled, items in the order of the authors' image folder; its own soft labels
            or labeller give way to the files.
        out: folder of stores (``labels.store_path``).
        epochs: how many to take, from the first on; None: all.
        seed: of the authors' sampler.
        permutations: that torch's sampler drew an epoch: 2 (current versions), 1 (old ones), or None: whichever order makes the
            answers agree with the set's labels, 2 where it has none.
        batch_norm: in which the teachers answered: ``eval`` | ``train`` | ``train-halves`` (CV-DD); protocols compare it.
        space: of the inputs that the authors' teacher saw; None: the set's.
        shard_mib: most bytes a shard.
        progress: called with (epochs read, epochs to be read).

    Returns:
        the set with views, and a labeller without networks; its notes say the label bytes, the source and the agreement:
        the share of the first epoch's answers that name the class of their own item.  Low agreement (near chance) means
        items or classes in another order.

    Raises:
        FileNotFoundError: epochs or batches are missing; names them.
        ddbench.store.DamagedError: a file is truncated.
        ValueError: files that do not fit each other or the set (items, classes, image size), or are not safe to read;
            another mode of batch norm.
        ddbench.store.WriteError: the labels would not fit the disk.
    """
    if batch_norm not in LABEL_MODES:
        raise ValueError(f"batch_norm is {batch_norm!r}; expected one of {', '.join(LABEL_MODES)}")
    files = survey(folder, epochs)
    codec, settings = codec_of(distilled)
    items = codec.count(distilled.tensors, settings)
    shape = codec.shape(distilled.tensors, settings, None) or tuple(distilled.card.shape)
    classes = distilled.card.classes
    if files.items != items:
        raise ValueError(
            f"the label files in {folder} are of {files.items} images in batches of {files.batch}, but the set has {items} "
            f"items; expected the set that they were made for"
        )
    if classes and files.classes != classes:
        raise ValueError(
            f"the label files in {folder} are of {files.classes} classes but the set has {classes}; expected the set that "
            f"they were made for"
        )
    space = space or distilled.space
    if len(shape) != 3 or space is None:
        raise ValueError(
            f"the set has items of shape {shape} and no space; expected images (C, H, W) with one"
        )
    ids = distilled.targets.ids
    if ids is not None and len(ids) != items:
        ids = ids[codec.source(distilled.tensors, settings)]
    if permutations is None:
        permutations = _likely_permutations(files, ids, seed)
    orders = sampler_orders(items, seed, permutations)
    tensors, agreement = _explicit_views(files, shape, orders, ids, progress)
    plan = ViewPlan(
        epochs=files.epochs,
        batch=files.batch,
        seed=seed,
        crop="resized",
        flip=0.5,
        mix=files.mix,
        mix_alpha=0.8 if files.mix == "mixup" else 1.0,
        boxes=BOXES,
    )
    own = {name: t for name, t in distilled.tensors.items() if not name.startswith(f"{BOXES}.")}
    labeller = Labeller((), space, batch_norm, views=plan)
    targets = distilled.targets
    found = distilled.changed(
        tensors={**own, **tensors}, targets=Targets(targets.ids, None, "none", targets.weights, labeller)
    )
    path = store_path(out, found)
    with Lock(path):
        source = (
            f"FKD files, {files.epochs} epochs, sampler seed {seed}, {permutations} permutations an epoch, "
            f"batch norm {batch_norm}"
        )
        writer = ShardWriter(path, found, items, files.classes, shard_mib, source)
        for epoch in range(files.epochs):
            for number in range(files.batches):
                start = epoch * items + number * files.batch
                if not writer.needs(start, start + files.size(number)):
                    continue
                logits = _checked(files, epoch, number).logits.half()
                if not bool(torch.isfinite(logits).all()):
                    raise ValueError(
                        f"{files.path(epoch, number)} has logits that are not finite in fp16; expected finite ones"
                    )
                writer.add(logits.numpy(), start)
            if progress is not None:
                progress(files.epochs + epoch + 1, 2 * files.epochs)
    stored = StoredAnswers(out, found, plan, path)
    notes: dict[str, Any] = {LABEL_NOTE: stored.nbytes, "labels": source}
    if agreement is not None:
        notes["labels_agree"] = round(agreement, 4)
    return replace(found, card=replace(found.card, notes={**found.card.notes, **notes}))
