"""Contact sheets of real and distilled images, as PNG files."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

from ddbench import codecs, store
from ddbench.contract import DistilledSet, ImageData, RealData

_GAP = 2
_CELL = 48
"""Smaller images are enlarged, by a whole factor, to at least so many pixels a side."""
_ROWS = 50
"""Data sets with more classes show the first so many."""


def sheet(
    images: Tensor,
    path: str | os.PathLike[str],
    columns: int = 10,
    *,
    scale: int | None = None,
    titles: Sequence[str] | None = None,
) -> Path:
    """Write images as one PNG, row by row.

    Args:
        images: (n, C, H, W) on the [0, 1] scale, C 1 or 3; values outside are clipped.
        columns: images a row.
        scale: whole factor of nearest-neighbour enlargement; None: as much as tiny images need to be seen.
        titles: one a row, written on the left.

    Raises:
        ValueError: another shape, no image, values that are not finite, or a wrong number of titles.
        store.WriteError: the file cannot be written.
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(
            f"images to show have shape {tuple(images.shape)}; expected (n, 1 or 3, H, W) with n >= 1"
        )
    if not bool(torch.isfinite(images).all()):
        raise ValueError(f"{int((~torch.isfinite(images)).sum())} pixels to show are not finite")
    if columns < 1 or (scale is not None and scale < 1):
        raise ValueError(f"a sheet of {columns} columns at scale {scale}; expected at least 1 each")
    rows = -(-len(images) // columns)
    if titles is not None and len(titles) != rows:
        raise ValueError(f"{len(titles)} titles for {rows} rows; expected one a row")
    height = images.shape[2]
    scale = scale or max(1, -(-_CELL // max(height, images.shape[3])))
    big = images.detach().float().cpu().clamp(0, 1)
    big = big.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    if len(big) == 1:  # make_grid leaves a lone image without its frame
        grid = torch.nn.functional.pad(big[0].expand(3, -1, -1), [_GAP] * 4, value=1.0)
    else:
        grid = make_grid(big, nrow=columns, padding=_GAP, pad_value=1.0)
    pixels = (grid * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels)
    if titles is not None:
        picture = _titled(picture, titles, height * scale + _GAP)
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"the sheet {path} has the suffix {path.suffix!r}; expected .png")
    with store.writing(path) as temporary:
        picture.save(temporary, format="PNG")
    return path


def _titled(picture: Image.Image, titles: Sequence[str], step: int) -> Image.Image:
    font = ImageFont.load_default(size=12)
    short = [t if len(t) <= 24 else t[:23] + "…" for t in titles]
    margin = max(int(font.getlength(t)) for t in short) + 10
    wide = Image.new("RGB", (picture.width + margin, picture.height), "white")
    wide.paste(picture, (margin, 0))
    draw = ImageDraw.Draw(wide)
    for row, title in enumerate(short):
        draw.text((margin - 6, _GAP + row * step + step // 2), title, fill="black", font=font, anchor="rm")
    return wide


def samples(real: RealData | ImageData, per_class: int, path: str | os.PathLike[str]) -> Path:
    """A sheet with the first ``per_class`` training images of each class (of the first 50 classes), one row a class."""
    rows, titles = real_rows(real.train if isinstance(real, RealData) else real, per_class)
    return _rows_sheet(rows, path, titles)


def real_rows(data: ImageData, per_class: int, classes: int = _ROWS) -> tuple[list[Tensor], list[str]]:
    """The first ``per_class`` images of each of the first ``classes``, and their names, as in :func:`distilled_rows`."""
    if per_class < 1:
        raise ValueError(f"{per_class} samples a class; expected at least 1")
    rows = []
    for c in range(min(data.classes, classes)):
        chosen = data.of_class(c)[:per_class]
        rows.append(data.images[chosen.to(data.images.device)].cpu().float() / 255)
    return rows, [_class_name(data, c) for c in range(len(rows))]


def _rows_sheet(rows: Sequence[Tensor], path: str | os.PathLike[str], titles: Sequence[str]) -> Path:
    """One row each; short rows end in white."""
    columns = max(len(r) for r in rows)
    shape = next(r.shape[1:] for r in rows if len(r))
    filled = [torch.cat([r.reshape(-1, *shape), torch.ones(columns - len(r), *shape)]) for r in rows]
    return sheet(torch.cat(filled), path, columns, titles=titles)


def _class_name(data: ImageData | None, c: int) -> str:
    return data.class_names[c] if data is not None and c < len(data.class_names) else str(c)


def distilled_rows(
    distilled: DistilledSet,
    real: ImageData | None,
    *,
    decoded: bool = False,
    per_class: int = 10,
    classes: int = _ROWS,
) -> tuple[list[Tensor], list[str]]:
    """The images of a distilled set, a class a row (the first ``classes``), at most ``per_class`` each, as float (n, C, H, W)
    on [0, 1], and the names of the classes; images without a class stand in rows without a name.

    Args:
        real: the training images; needed by subset codecs, else only for the names of the classes.
        decoded: the training items that the codec makes, not the stored images (they differ for grid codecs).

    Raises:
        ValueError: the set holds no images.
    """
    if distilled.kind != "image":
        raise ValueError(f"a distilled set of kind {distilled.kind!r} has no pictures; expected kind 'image'")
    stored = distilled.tensors.get("images")
    ids, soft = distilled.targets.ids, distilled.targets.soft
    space = distilled.space or (real.space if real is not None else None)
    items = None
    if decoded or stored is None or stored.dim() != 4:
        items = codecs.items(distilled, real)
        stored, ids, soft = items.stored, items.ids, items.soft
    if stored.dim() != 4 or space is None:
        raise ValueError(
            f"the set holds {tuple(stored.shape)} values in {'no' if space is None else 'a'} known space; "
            f"expected images (n, C, H, W) in a space"
        )

    def unit(chosen: Tensor) -> Tensor:
        if items is None:
            return space.to_unit(stored[chosen])
        return replace(space, stored="input").to_unit(items.to_input(items.stored[chosen]))

    if ids is None and soft is not None:
        ids = soft.argmax(1)
    if ids is None or len(ids) != len(stored):
        first = unit(torch.arange(min(len(stored), classes * per_class)))
        return list(torch.split(first, per_class)), [""] * -(-len(first) // per_class)
    found = sorted(set(ids.tolist()))[:classes]
    rows = [unit((ids == c).nonzero().squeeze(1)[:per_class]) for c in found]
    return rows, [_class_name(real, c) for c in found]


def distilled_sheet(
    distilled: DistilledSet,
    real: ImageData | None,
    path: str | os.PathLike[str],
    *,
    decoded: bool = False,
    per_class: int = 10,
) -> Path:
    """A sheet of a distilled set: :func:`distilled_rows` as a PNG, with the names of the classes."""
    rows, titles = distilled_rows(distilled, real, decoded=decoded, per_class=per_class)
    if not any(titles):
        return sheet(torch.cat(rows), path, per_class)
    return _rows_sheet(rows, path, titles)


def tiles(rows: Sequence[Tensor], side: int) -> tuple[bytes, int, int]:
    """One PNG of images side by side, a row each, without gaps: for pages that lay them out themselves.

    Args:
        rows: of images (n, C, H, W) on [0, 1], C 1 or 3, one shape; short rows end in white.
        side: larger images are made smaller to so many pixels on their longer side (antialiased); none is enlarged.

    Returns:
        the file, and width and height of a tile in pixels.
    """
    columns = max(len(r) for r in rows)
    shrunk = []
    for r in rows:
        r = r.detach().float().cpu().clamp(0, 1)
        height, width = r.shape[2:]
        if max(height, width) > side:
            size = [max(1, round(n * side / max(height, width))) for n in (height, width)]
            r = torch.nn.functional.interpolate(r, size, mode="bilinear", antialias=True).clamp(0, 1)
        shrunk.append(torch.cat([r, r.new_ones(columns - len(r), *r.shape[1:])]))
    wall = torch.stack(shrunk)  # (rows, columns, C, h, w)
    n, _, channels, height, width = wall.shape
    pixels = (wall * 255).round().to(torch.uint8).permute(0, 3, 1, 4, 2)
    pixels = pixels.reshape(n * height, columns * width, channels)
    picture = Image.fromarray(pixels.squeeze(2).numpy() if channels == 1 else pixels.numpy())
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return file.getvalue(), width, height
