"""Our sets in forms that other code reads: a folder of pictures, MTT's pair of files, safetensors; each with a card.

``card.json`` says what the files mean (``read_published`` reads it), ``card.md`` the same for people.  What a form cannot hold
is listed in both, never dropped without a word.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ddbench import codecs, sets, store
from ddbench.budget import byte_count
from ddbench.contract import DistilledSet, ImageData, Space, canonical
from ddbench.foreign import FormatError, checksum
from ddbench.formats.opened import CARD

_BATCH = 1024


@dataclass(frozen=True)
class Exported:
    """What was written: its files (the cards last), and what the form could not hold."""

    folder: Path
    files: tuple[Path, ...]
    lost: tuple[str, ...]
    read_with: str
    """The command that reads it again."""
    warnings: tuple[str, ...] = ()
    """What of it changes the images by more than rounding."""


def _text(values: Sequence[float]) -> str:
    return ",".join(repr(float(v)) for v in values)


def _common(distilled: DistilledSet, space: Space | None) -> dict[str, Any]:
    found: dict[str, Any] = {"dataset": distilled.card.dataset}
    if space is not None:
        found["stats"] = f"{_text(space.mean)}/{_text(space.std)}"
    return found


def _finish(
    distilled: DistilledSet,
    folder: Path,
    files: list[Path],
    exported: dict[str, Any],
    lost: list[str],
    read_with: str,
) -> Exported:
    """Write both cards."""
    size = byte_count(distilled)
    document = {
        "exported": exported,
        "card": asdict(distilled.card),
        "fingerprint": distilled.fingerprint(),
        "bytes": {"images": size.images, "labels": size.labels, "total": size.total},
        "codec": {"name": distilled.codec.name, "settings": dict(distilled.codec.settings)},
        "space": None if distilled.space is None else distilled.space.describe(),
        "sha256": {p.relative_to(folder).as_posix(): checksum([p], folder) for p in files[:10_000]},
        "lost": lost,
    }
    plain = json.loads(canonical(document))
    store.write_json(folder / CARD, plain)
    card = distilled.card
    lines = [
        f"# {card.method or 'A distilled set'} of {card.dataset}, {card.ipc:g} images a class",
        "",
        *(f"- {k}: {v}" for k, v in _facts(distilled, exported).items()),
        *(f"- not in this form: {line}" for line in lost),
        *(f"- {k}: {v}" for k, v in card.notes.items() if isinstance(v, str)),
        "",
        "Read it again:",
        "",
        f"    {read_with}",
        "",
    ]
    store.write_text(folder / "card.md", "\n".join(lines))
    return Exported(folder, (*files, folder / CARD, folder / "card.md"), tuple(lost), read_with)


def _facts(distilled: DistilledSet, exported: dict[str, Any]) -> dict[str, str]:
    card = distilled.card
    settings = " ".join(f"{k}={v}" for k, v in card.settings.items())
    return {
        "classes": str(card.classes),
        "shape": "x".join(map(str, card.shape)),
        "recipe": f"{card.recipe or 'none'}{f' ({settings})' if settings else ''}",
        "seed": str(card.seed),
        "values": f"{exported.get('space', 'as stored')}, mean and deviation {exported.get('stats', 'none')}",
        "labels": str(exported.get("labels", "as stored")),
        "fingerprint": distilled.fingerprint(),
    }


def _fresh(folder: str | os.PathLike[str]) -> Path:
    """An empty folder, made where it is missing."""
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} is there already; name a new or empty folder")
    with store.writing(path / ".probe") as temporary:  # a folder that cannot be written is said at once
        temporary.write_text("")
    (path / ".probe").unlink()
    return path


def _checked(distilled: DistilledSet, real: ImageData | None, form: str) -> None:
    codec, settings = codecs.codec_of(distilled)
    if distilled.kind != "image":
        raise FormatError(f"a set of kind {distilled.kind!r} has no images; expected --to safetensors")
    if codec.real and real is None:
        raise FormatError(
            f"the set names images of {distilled.card.dataset}; to write them as {form} its real data are needed (--dataset)"
        )
    targets = distilled.targets
    if codec.law(distilled.tensors, settings, None if targets.ids is None else targets.ids) is not None:
        raise FormatError(
            f"codec {distilled.codec.name!r} draws other images in every epoch; expected --to safetensors"
        )
    codecs.check(distilled, real)


def _left_out(distilled: DistilledSet) -> list[str]:
    targets, lost = distilled.targets, []
    if targets.weights is not None:
        lost.append("weights of the items")
    if targets.labeller is not None:
        lost.append("networks that label every view")
    program = distilled.program
    if program is not None and program.order is not None:
        lost.append(f"the program of {len(program.order)} steps in order")
    space = distilled.space
    if space is not None and space.real_mean is not None:
        lost.append("statistics of their own for real images")
    return lost


def write_folder(
    distilled: DistilledSet, path: str | os.PathLike[str], real: ImageData | None = None
) -> Exported:
    """Write the stored pictures as 8-bit PNG: ``00007/class00007_id00003.png``, folders numbered by class.

    Float values come to the [0, 1] scale, are clamped and rounded to 256 levels (a whitening is undone first): the largest and
    the mean change and the share of clamped values are said in the cards, and where values were clamped in ``warnings``.
    Mosaics are written as they are stored.  uint8 sets in class order come back bit by bit.

    Args:
        real: the training split, for sets that name real images.

    Raises:
        FormatError: no class ids, or items that are not stored pictures.
        FileExistsError: the folder is not empty.
        ddbench.store.WriteError: it cannot be written.
    """
    _checked(distilled, real, "a folder")
    spec, ids, space = distilled.codec, distilled.targets.ids, distilled.space
    if spec.name == "subset":
        assert real is not None  # checked above
        images = real.images[distilled.tensors["indices"].long().to(real.images.device)].cpu()
        space = Space("uint8", real.mean, real.std)
    elif spec.name in ("identity", "grid"):
        images = distilled.tensors["images"]
    else:
        raise FormatError(f"codec {spec.name!r} stores no pictures; expected --to safetensors")
    if ids is None or len(ids) != len(images):
        raise FormatError(
            "a folder of pictures holds one class id a picture, which this set has not; expected --to mtt"
        )
    assert space is not None  # codecs.check refuses images without one
    folder = _fresh(path)
    lost, moved = _left_out(distilled), _Moved()
    if distilled.targets.soft is not None:
        lost.append(f"soft labels ({distilled.targets.kind})")
    if distilled.program is not None and distilled.program.order is None:
        lost.append(f"the learned step size {float(distilled.program.step_sizes[0]):g}")
    if not bool((ids[1:] >= ids[:-1]).all()):
        lost.append("the order of the items: they stand class by class")
    counts: dict[int, int] = {}
    files = []
    for start in range(0, len(images), _BATCH):
        stored = images[start : start + _BATCH]
        if stored.dtype == torch.uint8:
            pixels = stored
        else:
            unit = stored.float() if space.stored == "unit" else space.input_to_unit(stored.float())
            pixels = (unit.clamp(0, 1) * 255).round().to(torch.uint8)
            moved.see(unit, pixels)
        for row, c in zip(pixels, ids[start : start + _BATCH].tolist(), strict=True):
            number = counts.get(c, 0)
            counts[c] = number + 1
            file = folder / f"{c:05d}" / f"class{c:05d}_id{number:05d}.png"
            array = row.permute(1, 2, 0).numpy() if len(row) == 3 else row[0].numpy()
            if len(row) not in (1, 3):
                raise FormatError(
                    f"images have {len(row)} channels; pictures have 1 or 3: expected --to safetensors"
                )
            with store.writing(file) as temporary:
                Image.fromarray(array).save(temporary)
            files.append(file)
    if moved.largest:
        lost.append(f"values between and beyond 256 levels: {moved}")
    exported = {
        **_common(distilled, space),
        "form": "folder",
        "space": "raw",
        "labels": "ids",
        "folders": {f"{c:05d}": c for c in sorted(counts)},
    }
    exported |= _grid(distilled)
    done = _finish(distilled, folder, files, exported, lost, _command(folder, distilled))
    if not moved.clamped:
        return done
    return replace(done, warnings=(f"the pictures are not what students learned from: {moved}",))


@dataclass
class _Moved:
    """How far values go when they become bytes; in levels of 256."""

    values: int = 0
    clamped: int = 0
    """Beyond the darkest or brightest byte by more than rounding takes."""
    changes: float = 0.0
    largest: float = 0.0

    def see(self, unit: Tensor, pixels: Tensor) -> None:
        """Values on the [0, 1] scale and the bytes that they became, of the same shape."""
        change = (255 * unit - pixels.float()).abs()
        self.values += unit.numel()
        self.clamped += int((change > 0.501).sum())
        self.changes += float(change.sum(dtype=torch.float64))
        self.largest = max(self.largest, float(change.max()))

    def __str__(self) -> str:
        mean = self.changes / self.values
        text = f"the largest change is {self.largest:.3g} levels, the mean {mean:.2g}"
        return (
            f"{text}; {100 * self.clamped / self.values:.3g} % of the values are clamped"
            if self.clamped
            else text
        )


def _grid(distilled: DistilledSet) -> dict[str, Any]:
    if distilled.codec.name != "grid":
        return {"factor": 1, "decode": "single"}
    settings = {"kind": "single", **distilled.codec.settings}
    decode = "shuffle" if settings["kind"] == "whole" else settings["kind"]
    return {"factor": settings.get("factor", 2), "decode": decode}


def _command(folder: Path, distilled: DistilledSet) -> str:
    return f"ddbench import {shlex.quote(str(folder))} --dataset {shlex.quote(distilled.card.dataset)}"


def _saved(value: Tensor, path: Path) -> Path:
    with store.writing(path) as temporary:
        torch.save(value.contiguous().clone(), temporary)
    return path


def write_mtt(
    distilled: DistilledSet, folder: str | os.PathLike[str], real: ImageData | None = None
) -> Exported:
    """Write MTT's files: ``images_best.pt`` float32 (n, C, H, W), ``labels_best.pt``, and ``lr_best.pt`` where one was learned.

    Images are the items as students see them, network inputs: standardised, or whitened where the set is (mosaics are cut).
    Labels are class ids (n,) int64, or logits (n, K): of probabilities their logarithm, whose softmax they are.

    Args:
        real: the training split, for sets that name real images.

    Raises:
        FormatError: no labels of a kind that the form has, or items that are drawn anew.
        FileExistsError: the folder is not empty.
        ddbench.store.WriteError: it cannot be written.
    """
    _checked(distilled, real, "MTT's files")
    codec, settings = codecs.codec_of(distilled)
    if codec.visit(settings) is not None:
        raise FormatError(
            f"codec {distilled.codec.name!r} changes items at every visit; expected --to safetensors or folder"
        )
    items = codecs.items(distilled, real)
    lost = _left_out(distilled)
    if items.soft is not None and items.kind in ("probabilities", "logits"):
        labels, kind = items.soft, "logits"
        if items.kind == "probabilities":
            labels = labels.double().clamp(min=1e-30).log().float()
        if items.ids is not None:
            lost.append("class ids beside the soft labels")
    elif items.ids is not None:
        labels, kind = items.ids, "ids"
        if items.soft is not None:
            lost.append("labels of kind values")
    else:
        raise FormatError(
            "MTT's files hold class ids or logits, which this set has not; expected --to safetensors"
        )
    place = _fresh(folder)
    parts = [items.to_input(part) for part in torch.split(items.stored, _BATCH)]
    files = [
        _saved(torch.cat(parts).float(), place / "images_best.pt"),
        _saved(labels, place / "labels_best.pt"),
    ]
    program = distilled.program
    if program is not None and program.order is None:
        files.append(_saved(program.step_sizes[0], place / "lr_best.pt"))
    space = items.space
    assert space is not None  # of images always
    exported = {**_common(distilled, space), "form": "mtt", "space": "norm", "labels": kind}
    if space.zca is not None:
        exported |= {"space": "zca", "zca_hash": space.zca.hash, "zca_eps": space.zca.eps}
        exported["zca_on"] = (
            "unit" if set(space.mean) == {0.0} and set(space.std) == {1.0} else "standardised"
        )
    exported |= {"factor": 1, "decode": "single"}
    return _finish(distilled, place, files, exported, lost, _command(place, distilled))


def write_safetensors(distilled: DistilledSet, folder: str | os.PathLike[str]) -> Exported:
    """Write our own file, ``set.safetensors`` (with ``spaces/`` where it is whitened), and the cards.  Nothing is lost.

    Raises:
        FileExistsError: the folder is not empty.
        ddbench.store.WriteError: it cannot be written.
    """
    place = _fresh(folder)
    sets.write(place / "set.safetensors", distilled)
    files = [p for p in sorted(place.rglob("*.safetensors")) if not p.name.startswith(".")]
    exported = {**_common(distilled, distilled.space), "form": "safetensors"}
    return _finish(
        distilled,
        place,
        files,
        exported,
        [],
        f"ddbench evaluate {shlex.quote(str(place / 'set.safetensors'))} --protocol quick",
    )
