"""Test images that are in a distilled set: a warning, never a refusal.

What is compared are the images that a set decodes to, on the [0, 1] scale, mosaics tile by tile as well:

* A **copy** is equal to a test image in every pixel after rounding to uint8.
* A **near copy** lies at most half as far from a test image as from any training image of the same class (that of the test
  image, and its own), and correlates with it by at least 0.8.  Distances are between images whose mean was taken off and
  whose norm was made 1, so that brightness and contrast do not matter; sides above 32 are averaged down to 32 first.
* Both are also looked for in the mirror where a mirrored image keeps its class.

Why "half as far as from any training image": natural images have near neighbours in both splits.  Measured with training
images, each held against the other ones: digits (all 1,437) 0.57 of the way at the nearest, although they correlate with
test images by up to 0.99; mnist (10,000) 0.55; of 10,000 of cifar10 35 lie below half, the near duplicates that it is known
to have across its splits (a set that starts at one of them stays nearer to it than to its twin).  Test images with Gaussian
noise of 0.05 are found in 96 to 99 of 100 cases, with noise of 0.1 in 35 to 83.

Sets that name images of the training split by number (subsets) hold no others: of them only those are said that the test
split has as well, pixel for pixel.

Out of reach: linear combinations of test images, crops and rotations of them, knowledge of them in weights or in soft labels.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench import codecs
from ddbench.contract import DistilledSet, ImageData, RealData, Space

HALF = 0.5
"""Of the distance to the nearest training image: nearer than that to a test image is a near copy."""
CORRELATION = 0.8
"""With its test image, that a near copy has at least."""
_SIDE = 32
_CHUNK_BYTES = 16 << 20
_VECTOR_BYTES = 256 << 20
_ALL_PAIRS = 2 * 10**11
"""Products of pixels (seconds on one core) up to which items meet all test images; above, those of their own class."""
_READ_BYTES = 16 << 30
_INVERTIBLE = 4096
"""Values an image up to which a whitening is undone (a system of so many equations: a second)."""


@dataclass(frozen=True)
class Match:
    """A stored image and the test image that it is, or nearly is."""

    image: int
    """Row of the stored image; of a subset the index into the training split."""
    test: int
    kind: Literal["copy", "near copy"]
    mirrored: bool = False
    distance: float = 0.0
    """To the test image, as a share of that to the nearest training image."""

    def __str__(self) -> str:
        near = f", {self.distance:.2f} of the way to the nearest training image" if self.distance else ""
        return f"image {self.image} = test {self.test}{' mirrored' if self.mirrored else ''}{near}"


@dataclass(frozen=True)
class Leaks:
    """What was found in a set."""

    looked_at: int
    """Decoded images, tiles of mosaics among them."""
    matches: tuple[Match, ...] = ()
    named: bool = False
    """Whether the set only names training images."""
    not_checked: str = ""
    """What was left out and why; "": nothing."""
    wall_s: float = 0.0

    @property
    def text(self) -> str:
        """What a reader of a result must know, in a line; "" where nothing was found and all was checked."""
        parts = []
        for kind in ("copy", "near copy"):
            found = [m for m in self.matches if m.kind == kind]
            images = len({m.image for m in found})
            if not found:
                continue
            some = "; ".join(map(str, found[:3])) + ("; ..." if len(found) > 3 else "")
            word = kind if images == 1 else f"{kind[:-1]}ies"
            if self.named:
                own = "training image of the set is" if images == 1 else "training images of the set are"
                parts.append(f"{images} {own} in the test split as well ({some})")
            else:
                parts.append(f"{images} {word} of test images in the set ({some})")
        if self.not_checked:
            parts.append(f"not checked for test images: {self.not_checked}")
        return "; ".join(parts)


def find(distilled: DistilledSet, real: RealData) -> Leaks:
    """Look for test images in a set; see the module's text for what counts.

    Args:
        distilled: a set of images that fits ``real``.
        real: both splits; the work is done on the device of the test images, in chunks.

    Raises:
        LookupError, ValueError: a set whose parts do not fit each other or the data.
    """
    begun = time.perf_counter()
    found = _find(distilled, real)
    return Leaks(**{**found.__dict__, "wall_s": time.perf_counter() - begun})


def note(distilled: DistilledSet, real: RealData) -> str:
    """:attr:`Leaks.text` for a record.  A check that cannot be made says so here instead of raising: it blocks nothing."""
    try:
        return find(distilled, real).text
    except (LookupError, ValueError, RuntimeError, MemoryError) as error:  # torch's own are RuntimeErrors
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"not checked for test images: {first}"


def _find(distilled: DistilledSet, real: RealData) -> Leaks:
    if distilled.kind != "image" or not distilled.tensors:
        return Leaks(0, not_checked=f"a set of kind {distilled.kind!r} with {len(distilled.tensors)} tensors")
    codec, settings = codecs.codec_of(distilled)
    if codec.real:
        return _shared(distilled, real)
    space, zca = distilled.space, None if distilled.space is None else distilled.space.zca
    if space is None:
        return Leaks(0, not_checked="the set does not say what its values are")
    if zca is not None and space.stored == "input" and zca.mean.numel() > _INVERTIBLE:
        return Leaks(0, not_checked=f"its whitening of {zca.mean.numel():,} values is dear to undo")
    if codec.shape(distilled.tensors, settings, real.train) != real.test.shape:
        return Leaks(0, not_checked=f"its images are not of shape {real.test.shape}")
    forms = [settings]
    if distilled.codec.name == "grid" and settings["kind"] == "whole" and settings["factor"] > 1:
        forms.append({**settings, "kind": "single", "visit": "none"})  # each tile may be an image of its own
    images = [codec.decode(distilled.tensors, form) for form in forms]
    sources = torch.cat([codec.source(distilled.tensors, form) for form in forms])
    unit = torch.cat([_unit(space, part) for part in images])
    flips = (False, True) if real.test.flip else (False,)
    copies = _copies(unit, real.test, flips)
    matches = [Match(int(sources[i]), t, "copy", mirrored) for i, t, mirrored in copies]
    known = {i for i, _, _ in copies}
    rest = torch.tensor([i for i in range(len(unit)) if i not in known], dtype=torch.int64)
    missed = ""
    if len(rest):
        ids = _classes(distilled, sources)
        near, missed = _near(unit[rest], None if ids is None else ids[rest], real, flips)
        matches += [Match(int(sources[rest[i]]), t, "near copy", m, d) for i, t, m, d in near]
    return Leaks(len(unit), tuple(sorted(matches, key=lambda m: (m.kind, m.image))), not_checked=missed)


def _unit(space: Space, stored: Tensor) -> Tensor:
    """Stored values -> pixels on the [0, 1] scale, clamped.  Only these images are taken back through a whitening, which a
    system of equations does in a tenth of the time of its pseudo-inverse."""
    stored = stored.detach()
    if space.zca is None or space.stored != "input":
        return space.to_unit(stored)
    x = stored.float().flatten(1)
    flat = torch.linalg.solve(space.zca.transform.to(x).T, x.T).T + space.zca.mean.to(x)
    return Space("input", space.mean, space.std).to_unit(flat.reshape(stored.shape))


def _classes(distilled: DistilledSet, sources: Tensor) -> Tensor | None:
    """Class of each decoded image by its stored row, where labels say it."""
    targets = distilled.targets
    soft = targets.soft if targets.kind in ("probabilities", "logits") else None
    ids = targets.ids if targets.ids is not None else None if soft is None else soft.argmax(1)
    if ids is None or len(ids) <= int(sources.max()):
        return None
    return ids[sources]  # a label an item is that of an item of the row, and these share a class


# ------------------------------------------------------------------------------------------------ copies


def _digests(images: Tensor) -> Iterator[bytes]:
    """Of each uint8 image."""
    step = max(1, _CHUNK_BYTES // max(1, images[0].numel()))
    for start in range(0, len(images), step):
        for image in images[start : start + step].cpu().contiguous().numpy():
            yield hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _places(images: Tensor) -> dict[bytes, int]:
    """Digest -> first image that has it."""
    found: dict[bytes, int] = {}
    for i, digest in enumerate(_digests(images)):
        found.setdefault(digest, i)
    return found


def _copies(unit: Tensor, test: ImageData, flips: tuple[bool, ...]) -> list[tuple[int, int, bool]]:
    places = _places(test.images)
    pixels = (unit * 255).round().to(torch.uint8)
    found: dict[int, tuple[int, int, bool]] = {}
    for mirrored in flips:
        for i, digest in enumerate(_digests(pixels.flip(3) if mirrored else pixels)):
            if digest in places:
                found.setdefault(i, (i, places[digest], mirrored))
    return list(found.values())


def _shared(distilled: DistilledSet, real: RealData) -> Leaks:
    """Training images of a subset that the test split has as well."""
    indices = torch.unique(distilled.tensors["indices"].to(torch.int64))
    size = (len(indices) + len(real.test)) * real.test.images[0].numel()
    if size > _READ_BYTES:
        return Leaks(0, named=True, not_checked=f"{size / 1e9:.0f} GB of images to compare")
    places, found = _places(real.test.images), []
    step = max(1, _CHUNK_BYTES // real.test.images[0].numel())
    for part in torch.split(indices, step):
        chosen = real.train.images[part.to(real.train.images.device)]
        for i, digest in zip(part.tolist(), _digests(chosen), strict=True):
            if digest in places:
                found.append(Match(i, places[digest], "copy"))
    return Leaks(len(indices), tuple(found), named=True)


# ------------------------------------------------------------------------------------------------ near copies


def _vectors(unit: Tensor) -> Tensor:
    """(n, D): images without their mean, of norm 1 (blank ones: of zeros), so that products are correlations."""
    if max(unit.shape[2:]) > _SIDE:
        unit = F.adaptive_avg_pool2d(unit, _SIDE)
    x = unit.flatten(1)
    x = x - x.mean(1, keepdim=True)
    norm = x.norm(dim=1, keepdim=True)
    return torch.where(norm > 1e-4, x / norm.clamp(min=1e-4), torch.zeros_like(x))


def _nearest(vectors: Tensor, data: ImageData, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Correlation of each vector with its nearest image of ``data`` (-1: there is none), and the index of that one.

    ``among``: indices of the images to look at, None: all.
    """
    best = vectors.new_full((len(vectors),), -1.0)
    where = torch.zeros(len(vectors), dtype=torch.int64, device=vectors.device)
    step = max(1, _CHUNK_BYTES // (4 * data.images[0].numel()))
    total = len(data) if among is None else len(among)
    for start in range(0, total, step):
        rows = torch.arange(start, min(start + step, total)) if among is None else among[start : start + step]
        images = (
            data.images[start : start + step] if among is None else data.images[rows.to(data.images.device)]
        )
        other = _vectors(images.to(vectors.device).float() / 255)
        rows = rows.to(vectors.device)
        for first in range(0, len(vectors), 4096):
            here = slice(first, first + 4096)
            value, index = (vectors[here] @ other.T).max(1)
            better = value > best[here]
            best[here] = torch.where(better, value, best[here])
            where[here] = torch.where(better, rows[index], where[here])
    return best, where


def _near(
    unit: Tensor, ids: Tensor | None, real: RealData, flips: tuple[bool, ...]
) -> tuple[list[tuple[int, int, bool, float]], str]:
    """(image, test image, mirrored, distance as a share of that to the nearest training image) of near copies; what was
    left out."""
    test, train, device = real.test, real.train, real.test.images.device
    width = _vectors(torch.zeros(1, *test.shape)).shape[1]
    by_class = len(flips) * len(unit) * len(test) * width > _ALL_PAIRS
    if by_class and ids is None:
        return [], "near copies (too many images to compare each with each, and none with a class)"
    found: list[tuple[int, int, bool, float]] = []
    step = max(1, _VECTOR_BYTES // (4 * width))
    for part in torch.split(torch.arange(len(unit)), step):
        pixels = unit[part].to(device).float()
        vectors = torch.cat([_vectors(pixels.flip(3) if mirrored else pixels) for mirrored in flips])
        of_rows = part.repeat(len(flips))
        own = None if ids is None else ids[of_rows]
        if by_class and own is not None:
            best = vectors.new_full((len(vectors),), -1.0)
            where = torch.zeros(len(vectors), dtype=torch.int64, device=device)
            for c in sorted(set(own.tolist())):
                mine = (own == c).nonzero().squeeze(1).to(device)
                best[mine], where[mine] = _nearest(vectors[mine], test, test.of_class(c))
        else:
            best, where = _nearest(vectors, test)
        likely = (best >= CORRELATION).nonzero().squeeze(1)
        if not len(likely):
            continue
        classes = [test.labels.to(device)[where[likely]].cpu()]
        classes += [] if own is None else [own[likely.cpu()]]
        natural = vectors.new_full((len(likely),), -1.0)
        for c in sorted(set(torch.cat(classes).tolist())):
            mine = torch.stack([part_ == c for part_ in classes]).any(0).nonzero().squeeze(1).to(device)
            nearest = _nearest(vectors[likely[mine]], train, train.of_class(c))[0]
            natural[mine] = torch.maximum(natural[mine], nearest)
        away = ((1 - best[likely]).clamp(min=0) / (1 - natural).clamp(min=1e-9)).sqrt()
        for k in (away < HALF).nonzero().squeeze(1).tolist():
            row = int(likely[k])
            mirrored = flips[row // len(part)]
            found.append((int(of_rows[row]), int(where[row]), mirrored, float(away[k])))
    nearest_first = sorted(found, key=lambda f: (f[0], f[3]))
    once = {image: (image, test_, mirrored, d) for image, test_, mirrored, d in reversed(nearest_first)}
    return sorted(once.values()), ""
