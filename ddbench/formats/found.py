"""What a published set looks like: numbers and hints, each with what it rests on.  Hints are never decisions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddbench.foreign import LIMIT_MIB, FormatError
from ddbench.formats.given import are_probabilities
from ddbench.formats.opened import FORMATS, Opened, opened, sealed
from ddbench.train import fkd

_SAMPLE = 64
"""Pictures of a folder that are decoded to describe it."""
_CHUNK = 1 << 22
_SEAM = 1.5
"""A mosaic's seams differ from the next lines by more than so many times as much as any other two lines do."""
_FACTORS = (5, 4, 3, 2)


@dataclass(frozen=True)
class Values:
    """Images: shape (N, C, H, W), dtype, range, mean and standard deviation over all values (of ``seen`` images)."""

    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    mean: float
    std: float
    seen: int
    finite: bool = True


@dataclass(frozen=True)
class Labels:
    """``kind``: ids | probabilities | logits | centred | values ("": unclear); ``why`` says by what."""

    kind: str
    why: str
    shape: tuple[int, ...]
    dtype: str
    classes: int
    """That occur (ids), or columns."""
    per_class: str
    sorted: bool
    """Whether images stand class by class."""


@dataclass(frozen=True)
class Found:
    """What :func:`look` saw in a file or folder, before anything is converted."""

    path: str
    format: str
    container: str
    bytes: int
    images: Values | None = None
    labels: Labels | None = None
    space: str = ""
    """Likely value space: raw | norm | zca; "": unclear."""
    evidence: str = ""
    factor: int = 1
    """Likely tiles a side of each picture (1: no mosaic)."""
    seams: str = ""
    experiments: int = 1
    rates: tuple[float, ...] = ()
    groups: tuple[str, ...] = ()
    """Names of the class folders, or class ids, as they lie there."""
    facts: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def rows(self) -> dict[str, str]:
        """The diagnosis, a line each."""
        images, labels = self.images, self.labels
        found = {"format": f"{self.format}: {FORMATS[self.format]}", "container": self.container}
        if images is not None:
            found["images"] = (
                f"{' x '.join(map(str, images.shape))} {images.dtype}, {images.low:.4g} to {images.high:.4g}, mean "
                f"{images.mean:.3f}, std {images.std:.3f}" + (f" (of {images.seen})" if images.seen else "")
            )
            found["likely space (a hint)"] = f"{self.space or 'unclear'}: {self.evidence}"
            found["mosaic (a hint)"] = self.seams
        if labels is not None:
            found["labels"] = f"{labels.kind or 'unclear'}: {labels.why}; {labels.per_class}"
            found["order"] = "class by class" if labels.sorted else "not class by class"
        if self.groups:
            few = ", ".join(self.groups[:6]) + (f", ... ({len(self.groups)})" if len(self.groups) > 6 else "")
            found["classes"] = few
        if self.experiments > 1:
            found["steps" if self.format == "dd" else "experiments"] = str(self.experiments)
        if self.rates:
            low, high = min(self.rates), max(self.rates)
            found["learned step size"] = (
                f"{low:.4g}" if len(self.rates) == 1 else f"{len(self.rates)}, from {low:.4g} to {high:.4g}"
            )
        return {**found, **self.facts, "bytes": f"{self.bytes:,}"}


def values_of(images: Tensor, seen: int = 0) -> Values:
    """Numbers of images, read in pieces."""
    flat = images.reshape(-1) if images.is_contiguous() else images.contiguous().reshape(-1)
    n, total, squares, low, high, finite = 0, 0.0, 0.0, float("inf"), float("-inf"), True
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK].double()
        good = part[torch.isfinite(part)]
        finite &= len(good) == len(part)
        if len(good):
            n, total, squares = n + len(good), total + float(good.sum()), squares + float((good * good).sum())
            low, high = min(low, float(good.min())), max(high, float(good.max()))
    mean = total / n if n else float("nan")
    std = max(squares / n - mean * mean, 0.0) ** 0.5 if n else float("nan")
    name = str(images.dtype).removeprefix("torch.")
    return Values(tuple(images.shape), name, low, high, mean, std, seen, finite)


def likely_space(values: Values) -> tuple[str, str]:
    """(raw | norm | zca | "", what it rests on).

    Real pictures on the [0, 1] scale have a deviation of about 0.25, standardised ones of about 1, whitened ones (eps 0.1)
    again of about 0.25 around 0.  Optimised images are wider, so this is a hint.
    """
    span = f"values from {values.low:.3g} to {values.high:.3g}, mean {values.mean:.2g}, std {values.std:.2g}"
    if values.dtype == "uint8":
        return "raw", "8-bit pixels"
    if values.low >= -0.25 and values.high <= 1.25 and 0.05 <= values.mean <= 0.95:
        return "raw", f"{span}: pixels on the [0, 1] scale" + (
            "" if values.low >= 0 and values.high <= 1 else ", with overshoot"
        )
    if values.low >= 0 and values.high > 2 and values.high <= 255:
        return "", f"{span}: perhaps pixels from 0 to 255 as floats; save them as uint8"
    if abs(values.mean) <= 0.5 and values.std >= 0.6:
        return (
            "norm",
            f"{span}: standardised pixels have a std of about 1 (whitened, optimised ones may come near)",
        )
    if abs(values.mean) <= 0.25 and values.std <= 0.45:
        return "zca", f"{span}: whitened pixels have a mean of about 0 and a std of about 0.25"
    return "", f"{span}: between the usual spaces"


def seams(images: Tensor) -> tuple[int, str]:
    """(likely tiles a side, what it rests on), by how much neighbouring lines differ at the borders of tiles."""
    height, width = images.shape[-2:]
    stride = max(1, len(images) // max(4, _CHUNK // max(1, images[0].numel())))
    pixels = images[::stride].float()
    if min(height, width) < 8:
        return 1, f"too small to see ({height}x{width})"
    down = (pixels[..., 1:, :] - pixels[..., :-1, :]).abs().mean((0, 1, 3))
    across = (pixels[..., :, 1:] - pixels[..., :, :-1]).abs().mean((0, 1, 2))
    best = 1.0
    for factor in _FACTORS:
        if min(height, width) < 4 * factor:
            continue
        ratios = []
        for lines in (down, across):
            size = len(lines) + 1
            tile = -(-size // factor)
            at = torch.tensor([k * tile - 1 for k in range(1, factor) if k * tile - 1 < len(lines)])
            inside = torch.ones(len(lines), dtype=torch.bool)
            inside[at] = False
            usual = float(lines[inside].quantile(0.9))
            ratios.append(float(lines[at].min()) / usual if usual > 0 else 0.0)
        best = max(best, min(ratios))
        if min(ratios) > _SEAM:
            text = f"neighbouring lines differ {min(ratios):.1f} times as much where {factor}x{factor} tiles would meet"
            return factor, text
    return 1, f"no seams (at most {best:.1f} times the usual difference of lines)"


def _per_class(ids: Tensor) -> tuple[int, str]:
    _, counts = torch.unique(ids, return_counts=True)
    low, high = int(counts.min()), int(counts.max())
    each = f"{low} each" if low == high else f"{low} to {high} each"
    return len(counts), f"{len(counts)} classes, {each}"


def _two_valued(rows: Tensor) -> bool:
    """Whether every row (K,) has one value at one place and another everywhere else, as one-hot rows of any scale have."""
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    if rows.shape[1] == 2 and (len(rows) < 2 or bool(low.std() > 0) or bool(high.std() > 0)):
        return False  # any two different values are so
    near = 1e-3 * (high - low)
    return bool(
        (((rows - low <= near) | (high - rows <= near)).all(1) & ((high - rows <= near).sum(1) == 1)).all()
    )


def labels_of(labels: Tensor) -> Labels:
    """Kind of labels (n,) or (n, K) by their values (whole numbers: class ids; rows that sum to 1: probabilities)."""
    name, shape = str(labels.dtype).removeprefix("torch."), tuple(labels.shape)

    def made(kind: str, why: str, ids: Tensor) -> Labels:
        classes, per_class = _per_class(ids)
        return Labels(
            kind,
            why,
            shape,
            name,
            shape[1] if labels.dim() == 2 else classes,
            per_class,
            bool((ids[1:] >= ids[:-1]).all()),
        )

    if not len(labels) or labels.dim() == 2 and not labels.shape[1]:
        raise FormatError(f"labels have shape {shape}; expected at least one row of at least one value")
    if not bool(torch.isfinite(labels.double()).all()):
        raise FormatError(
            f"labels {name} {shape} have values that are not finite (NaN or infinity); expected numbers"
        )
    if labels.dim() == 1:
        whole = bool((labels.double() == labels.double().round()).all())
        ids = labels.double().round().long()
        how = (
            f"{name} ({len(labels)},), whole numbers"
            if whole
            else f"{name} ({len(labels)},), not whole numbers"
        )
        return made("ids" if whole else "", how, ids)
    ids, rows = labels.double().argmax(1), labels.double()
    if are_probabilities(rows):
        one_hot = bool(((rows == 0) | (rows == 1)).all())
        return made("probabilities", f"{name} {shape}, {'one-hot' if one_hot else 'rows sum to 1'}", ids)
    centred = torch.nn.functional.one_hot(ids, shape[1]).double() - 1 / shape[1]
    if torch.allclose(rows, centred, atol=1e-3):
        return made(
            "centred", f"{name} {shape}, one-hot minus 1/{shape[1]}: class ids by their largest value", ids
        )
    if bool((rows < 0).any()) and not _two_valued(rows):
        return made("logits", f"{name} {shape}, from {float(rows.min()):.3g} to {float(rows.max()):.3g}", ids)
    if bool((rows < 0).any()):
        low, high = float(rows.min()), float(rows.max())
        return made(
            "",
            f"{name} {shape}, two values a row ({low:.3g}, {high:.3g}): one-hot class ids in disguise, or logits",
            ids,
        )
    return made("", f"{name} {shape}, none negative, rows do not sum to 1: logits or values", ids)


def channels_first(o: Opened, images: Tensor) -> Tensor:
    """KIP's images have their channels last."""
    return images.permute(0, 3, 1, 2).contiguous() if o.format == "kip" else images


def stacked(arrays: list[Any], path: Path) -> Tensor:
    """Pictures of one size and mode -> uint8 (n, C, H, W).

    Raises:
        FormatError: mixed sizes, or grey and colour.
    """
    if not arrays:
        raise FormatError(f"{path} has no pictures")
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1:
        few = ", ".join("x".join(map(str, s)) for s in sorted(shapes)[:4])
        raise FormatError(f"{path} has pictures of different sizes or modes ({few}); expected one of each")
    found = torch.stack([torch.from_numpy(a) for a in arrays])
    return found[:, None] if found.dim() == 3 else found.permute(0, 3, 1, 2).contiguous()


def described(o: Opened, experiment: int = -1) -> Found:
    """The diagnosis of an opened set; of several experiments, of one."""
    common: dict[str, Any] = {
        "path": str(o.path),
        "format": o.format,
        "container": o.container,
        "rates": o.rates,
        "facts": {**o.facts, **({"card": "of our own export"} if o.card else {})},
        "bytes": sum(p.stat().st_size for p in o.files),
    }
    if o.fkd is not None:
        files = fkd.survey(o.fkd)
        common["facts"] = {
            "epochs": str(files.epochs),
            "batches": f"{files.batches} of {files.batch}",
            "items": str(files.items),
            "answers": f"{files.classes} classes, mix {files.mix}",
        }
        return Found(**common)
    if o.ours is not None or o.indices is not None:
        if o.indices is not None:
            unique = len(torch.unique(o.indices))
            low, high = (int(o.indices.min()), int(o.indices.max())) if len(o.indices) else (0, 0)
            common["facts"] = {
                "indices": f"{len(o.indices)}, from {low} to {high}"
                + ("" if unique == len(o.indices) else f", {len(o.indices) - unique} of them again")
            }
        return Found(**common)
    if o.pictures is not None:
        arrays = [a for _, a in o.pictures.read(_SAMPLE)]
        images = stacked(arrays, o.path)
        values = values_of(images, len(images))
        values = Values(**{**asdict(values), "shape": (len(o.pictures), *images.shape[1:])})
        counts = list(o.pictures.groups.values())
        common["facts"]["pictures a class"] = (
            f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
        )
        factor, seen = seams(images)
        space, evidence = likely_space(values)
        return Found(
            **common,
            images=values,
            space=space,
            evidence=evidence,
            factor=factor,
            seams=seen,
            groups=tuple(o.pictures.groups),
        )
    images, labels = o.pairs[experiment]
    images = channels_first(o, images)
    values = values_of(images)
    space, evidence = likely_space(values)
    factor, seen = seams(images)
    try:
        kinds = labels_of(labels)
    except FormatError as error:
        raise FormatError(f"{o.path}: {error}") from error
    return Found(
        **common,
        images=values,
        labels=kinds,
        space=space,
        evidence=evidence,
        factor=factor,
        seams=seen,
        experiments=len(o.pairs),
    )


def look(path: str | os.PathLike[str], *, limit_mib: float = LIMIT_MIB) -> Found:
    """What a published file, folder or archive is, and what its values look like; nothing is converted.

    Args:
        path: a file of any name (its content decides), a folder, or a zip or tar.gz (unpacked into a temporary folder).
        limit_mib: most that it may hold once unpacked.

    Raises:
        FileNotFoundError: nothing there.
        FormatError: not a distilled set of a known form, or not safe to read; says what was found and what to do.
    """
    with sealed(Path(path)), opened(Path(path), limit_mib) as o:
        return described(o)
