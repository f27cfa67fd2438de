"""Real data: found, prepared once as uint8 arrays on disk, handed out as :class:`ImageData`; and ZCA fits.

A data set is looked for in this order under the data root (``--data-root``, else ``DDBENCH_DATA``, else
``~/.local/share/ddbench/data``): our prepared cache, the files that torchvision downloads, an image-folder tree, a download.
The first use writes the prepared cache (``prepared/NAME/``: .npy arrays and facts.json), which later uses map into memory.
Settings stand behind a question mark: ``imagenette?resize=squash``, ``imagefolder:PATH?size=64``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shlex
import shutil
import socket
import typing
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pydantic
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from ddbench import registry, store
from ddbench.contract import ZCA, ImageData, RealData, Space, tensor_hash

SPLITS = ("train", "test")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif")
IMAGENET_TREES = ("imagenet1k", "imagenet", "ILSVRC2012")
"""Folders under the root in which a tree of ImageNet-1k is looked for."""
IMAGENET_NOTE = (
    ", from ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar of https://image-net.org (datasets/imagenet1k.py says "
    "how to unpack them)"
)
Fit = Literal["crop", "squash"]
"""``crop``: short side to ``size``, then the central square.  ``squash``: to size x size, aspect ratio lost.  Bilinear,
antialiased (Pillow)."""
Bytes = NDArray[np.uint8]
Make = Callable[[tuple[int, int, int, int]], Bytes]


class DataError(ValueError):
    """Real data on disk cannot be used as they are; the message names the file or folder and says what to do."""


# ------------------------------------------------------------------------------------------------ names and places


def data_root(explicit: str | os.PathLike[str] | None = None) -> Path:
    """Folder under which data sets are looked for: ``explicit``, else ``DDBENCH_DATA``, else ``~/.local/share/ddbench/data``.

    The default is no cache folder, as pictures that somebody put there by hand must not be pruned away.
    """
    named = explicit or os.environ.get("DDBENCH_DATA")
    if named:
        return Path(named).expanduser()
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(share) / "ddbench" / "data"


def split_name(name: str) -> tuple[str, dict[str, str]]:
    """``"imagenette?resize=squash"`` -> ("imagenette", {"resize": "squash"}); both parts of a data set's full name."""
    base, mark, rest = name.rpartition("?")
    if not mark:
        return name, {}
    settings = {}
    for part in rest.split("&"):
        key, equals, value = part.partition("=")
        if not (key and equals):
            raise ValueError(
                f"data set {name!r}: setting {part!r} has no value; expected NAME?KEY=VALUE&KEY=VALUE"
            )
        settings[key] = value
    return base, settings


def dataset_of(name: str) -> Any:
    """The data set that a full name stands for: an instance with ``load(split, root) -> ImageData``.

    Raises:
        LookupError: no such data set or setting; the message has the nearest ones.
        ValueError: a setting has a value that it may not have.
    """
    base, settings = split_name(name)
    kind, colon, path = base.partition(":")
    if colon and kind == "imagefolder":
        if not path:
            raise ValueError("data set 'imagefolder:' names no folder; expected imagefolder:PATH")
        cls: Any = ImageFolder
        made: dict[str, Any] = {"path": Path(path).expanduser()}
    else:
        cls, made = registry.get("datasets", base), {}
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls) if f.name != "path"]
    for key, text in settings.items():
        if key not in known:
            hint = registry.nearest(key, known) or "it has no settings"
            raise LookupError(f"data set {base!r} has no setting {key!r}; {hint}")
        try:
            made[key] = pydantic.TypeAdapter(hints[key]).validate_python(text)
        except pydantic.ValidationError as error:
            raise ValueError(
                f"setting {key!r} of data set {base!r} is {text!r}; {error.errors()[0]['msg']}"
            ) from None
    return cls(**made)


# ------------------------------------------------------------------------------------------------ what a data set is


@dataclass(frozen=True)
class Spec:
    """What reading a data set needs to know.

    ``shape``, ``counts`` (train, test), ``mean`` and ``std`` may be unknown (None): they are then taken from the files.
    ``class_names`` in label order; empty: sorted folder names.  ``source``: the folder whose changes void the prepared cache.
    """

    name: str
    forms: tuple[Form, ...]
    shape: tuple[int, int, int] | None = None
    classes: int | None = None
    class_names: tuple[str, ...] = ()
    counts: tuple[int | None, int | None] = (None, None)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    flip: bool = True
    source: Path | None = None

    @property
    def folder_name(self) -> str:
        """Name of the prepared cache's folder."""
        if self.source is None:
            return re.sub(r"[^\w=.,-]+", "-", self.name)
        digest = hashlib.sha256(f"{self.source.resolve()}|{split_name(self.name)[1]}".encode()).hexdigest()[
            :10
        ]
        return f"imagefolder-{re.sub(r'[^A-Za-z0-9]+', '-', self.source.name)}-{digest}"


class Form(Protocol):
    """One form in which the bytes of a data set may lie under the root."""

    def where(self, root: Path) -> str | None:
        """A description with the place, or None where it is not there."""
        ...

    def read(
        self, spec: Spec, split: str, root: Path, make: Make, workers: int
    ) -> tuple[tuple[str, ...], list[int]]:
        """Write the images into the array that ``make`` gives for their shape; return class names and labels."""
        ...

    def wanted(self, root: Path) -> str:
        """For messages: which file or folder goes where."""
        ...


def spec_of(instance: Any) -> Spec:
    """The :class:`Spec` of a data set: facts of its ``@dataset`` line, its ``forms`` and ``class_names``."""
    if isinstance(instance, ImageFolder):
        return instance.spec()
    facts: Mapping[str, Any] = type(instance).__ddbench__.keywords
    changed = [
        f"{f.name}={getattr(instance, f.name)}"
        for f in dataclasses.fields(instance)
        if getattr(instance, f.name) != f.default
    ]
    stem = type(instance).__module__.rpartition(".")[2]
    return Spec(
        name=stem + ("?" + "&".join(changed) if changed else ""),
        forms=tuple(instance.forms),
        shape=facts["shape"],
        classes=facts["classes"],
        class_names=tuple(getattr(instance, "class_names", ())),
        counts=(facts.get("train"), facts.get("test")),
        mean=facts.get("mean"),
        std=facts.get("std"),
        flip=facts.get("flip", True),
    )


@dataclass(frozen=True)
class ImageFolder:
    """Anybody's pictures: ``PATH/train/<class>/*`` and ``PATH/test/<class>/*`` (or ``val/``; ``test/`` wins), png, jpg, ...

    All of one size and mode, or brought there by the settings.  Labels follow the sorted class names; mean and deviation
    are those of the training images.
    """

    path: Path
    size: int | None = None
    """Side of the square that every picture is brought to; none: as they are, and then all must be of one size."""
    fit: Fit = "crop"
    """``crop`` or ``squash``."""
    mode: Literal["rgb", "grey"] | None = None
    """Convert every picture; none: as they are, and then all must be grey or all in colour."""
    flip: bool = True
    """Whether a mirrored picture keeps its class."""

    def spec(self) -> Spec:
        if self.size is not None and self.size < 1:
            raise ValueError(f"setting 'size' of imagefolder:{self.path} is {self.size}; expected at least 1")
        settings = [
            f"{f.name}={getattr(self, f.name)}"
            for f in dataclasses.fields(self)
            if f.name != "path" and getattr(self, f.name) != f.default
        ]
        mode = {"rgb": "RGB", "grey": "L", None: None}[self.mode]
        form = Tree((str(self.path.absolute()),), self.size, self.fit, mode, convert=self.mode is not None)
        name = f"imagefolder:{self.path}" + ("?" + "&".join(settings) if settings else "")
        return Spec(name=name, forms=(form,), flip=self.flip, source=self.path.absolute())

    def load(self, split: str, root: Path) -> ImageData:
        return load_split(self, split, root)


# ------------------------------------------------------------------------------------------------ torchvision's files


@dataclass(frozen=True)
class Torchvision:
    """The files of one of torchvision's data sets, read and downloaded by torchvision itself (its checksums included).

    ``dataset``: class name in ``torchvision.datasets``; ``files``: what must be there to read, relative to the root;
    ``archives``: what may lie there instead, to be unpacked; ``url``: where they come from.
    """

    dataset: str
    files: tuple[str, ...]
    archives: tuple[str, ...]
    url: str

    def where(self, root: Path) -> str | None:
        if all((root / f).exists() for f in self.files):
            return f"torchvision files in {(root / self.files[0]).parent}"
        if all((root / f).is_file() for f in self.archives):
            return f"archives in {(root / self.archives[0]).parent}"
        return None

    def wanted(self, root: Path) -> str:
        names = ", ".join(Path(a).name for a in self.archives)
        return f"put {names} (from {self.url}) into {(root / self.archives[0]).parent}"

    def fetch(self, root: Path) -> None:
        """Download (or unpack what was downloaded) with torchvision; checksums are torchvision's."""
        for split in SPLITS:
            self._open(split, root, download=True)

    def _open(self, split: str, root: Path, download: bool = False) -> Any:
        import torchvision

        cls = getattr(torchvision.datasets, self.dataset)
        which = {"split": split} if self.dataset == "SVHN" else {"train": split == "train"}
        return cls(str(root), download=download, **which)

    def read(
        self, spec: Spec, split: str, root: Path, make: Make, workers: int
    ) -> tuple[tuple[str, ...], list[int]]:
        if not all((root / f).exists() for f in self.files):
            with _downloading(spec, root):
                self.fetch(root)
        try:
            opened = self._open(split, root)
            pixels = np.asarray(opened.data)
            labels = [int(y) for y in (opened.labels if hasattr(opened, "labels") else opened.targets)]
        except (
            Exception
        ) as error:  # torchvision's readers fail in many ways on damaged files: all mean the same
            raise DataError(
                f"{spec.name}: torchvision files in {(root / self.files[0]).parent} are incomplete or damaged "
                f"({_first_line(error)}); remove them to download them again"
            ) from error
        if pixels.ndim == 3:
            pixels = pixels[:, None]
        elif pixels.ndim == 4 and spec.shape is not None and pixels.shape[1:] != spec.shape:
            pixels = pixels.transpose(0, 3, 1, 2)
        if pixels.ndim != 4 or pixels.dtype != np.uint8:
            raise DataError(
                f"{spec.name}/{split}: torchvision gave {pixels.dtype} {pixels.shape}; expected uint8 images"
            )
        make(pixels.shape)[:] = pixels
        return spec.class_names, labels


# ------------------------------------------------------------------------------------------------ image-folder trees

Listing = Callable[[Path, str, Sequence[str]], "tuple[tuple[str, ...], list[tuple[Path, int]]]"]


def split_folder(folder: Path, split: str) -> Path:
    """``folder/train``, or ``folder/test`` (else ``folder/val``)."""
    candidates = ("train",) if split == "train" else ("test", "val")
    for name in candidates:
        if (folder / name).is_dir():
            return folder / name
    raise DataError(
        f"{folder} has no {' or '.join(f'{c}/' for c in candidates)} folder; "
        f"expected {folder}/train/<class>/ and {folder}/test/<class>/ (or val/) with the pictures"
    )


def images_below(folder: Path) -> list[Path]:
    """Picture files below a folder (sub-folders too), sorted by path; hidden files are left out."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file():
            found.append(path)
    return found


def class_folders(
    folder: Path, split: str, wanted: Sequence[str], among: bool = False
) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Class names and (file, label) pairs of one split: a folder a class, labels in the order of the names.

    Args:
        wanted: class names in label order; empty: the sorted folder names.
        among: the tree may have further classes, which are left out.

    Raises:
        DataError: no split folder, missing or unknown classes, a class with no images.
    """
    place = split_folder(folder, split)
    have = sorted(p.name for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not have:
        raise DataError(f"{place} has no class folders; expected one folder of pictures a class")
    missing = [c for c in wanted if c not in have]
    unknown = [c for c in have if c not in wanted] if wanted and not among else []
    if missing or unknown:
        parts = [f"lacks {_few(missing)}"] if missing else []
        parts += [f"has {_few(unknown)}, which are no classes of it"] if unknown else []
        raise DataError(f"{place} {' and '.join(parts)}; expected one folder for each of: {_few(wanted, 12)}")
    names = tuple(wanted) or tuple(have)
    files = []
    for label, name in enumerate(names):
        pictures = images_below(place / name)
        if not pictures:
            raise DataError(
                f"class {name!r} has no images: {place / name} holds none of {', '.join(IMAGE_SUFFIXES[:4])}, ...; "
                f"add some or remove the class from both splits"
            )
        files += [(path, label) for path in pictures]
    return names, files


@dataclass(frozen=True)
class Tree:
    """Pictures in folders, one a class: ``<folder>/{train, test or val}/<class>/*.png``.

    ``folders`` are tried in order under the root.  ``size``/``fit``: bring every picture to size x size.  ``mode``: PIL's
    ``L`` or ``RGB``, None: that of the first picture.  ``convert``: convert other modes instead of refusing them.
    ``among``: only the classes that the data set lists are taken.  ``listing`` finds files where they lie otherwise.
    """

    folders: tuple[str, ...]
    size: int | None = None
    fit: Fit = "crop"
    mode: str | None = None
    convert: bool = False
    among: bool = False
    listing: Listing | None = None
    note: str = ""
    """For the message when it is missing: where the pictures are to be had."""

    def folder(self, root: Path) -> Path | None:
        for name in self.folders:
            folder = root / name
            if any((folder / split).is_dir() for split in ("train", "test", "val")):
                return folder
        return None

    def where(self, root: Path) -> str | None:
        folder = self.folder(root)
        return None if folder is None else f"image folder {folder}"

    def wanted(self, root: Path) -> str:
        places = " or ".join(f"{root / f}/{{train,val}}/<class>/" for f in self.folders[:2])
        return f"put the pictures into {places}{self.note}"

    def files(self, spec: Spec, split: str, root: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
        folder = self.folder(root)
        if folder is None:
            raise FileNotFoundError(f"{spec.name}: no folder {root / self.folders[0]}; {self.wanted(root)}")
        if self.listing is not None:
            return self.listing(folder, split, spec.class_names)
        return class_folders(folder, split, spec.class_names, self.among)

    def read(
        self, spec: Spec, split: str, root: Path, make: Make, workers: int
    ) -> tuple[tuple[str, ...], list[int]]:
        names, files = self.files(spec, split, root)
        mode, first = self.mode, files[0][0]
        shape = spec.shape
        if mode is None and spec.shape is not None:  # the test part follows the train part
            mode = "L" if spec.shape[0] == 1 else "RGB"
        if mode is None:
            mode = "L" if _opened_mode(first) in ("1", "L") else "RGB"
        if shape is None:
            h, w = _decoded(first, self.size, self.fit, mode, self.convert, spec.name).shape[:2]
            shape = (3 if mode == "RGB" else 1, h, w)
        out = make((len(files), *shape))

        def fill(start: int) -> int:
            part = files[start : start + 64]
            for i, (path, _) in enumerate(part, start):
                pixels = _decoded(path, self.size, self.fit, mode or "RGB", self.convert, spec.name, first)
                if pixels.shape[:2] != shape[1:]:
                    raise self._mixed(spec, first, shape, path, pixels.shape)
                out[i] = pixels.reshape(*shape[1:], shape[0]).transpose(2, 0, 1)
            return len(part)

        # Threads: Pillow lets go of the interpreter's lock while it decodes and resizes, and they write into one map.
        pool = ThreadPoolExecutor(max_workers=workers)
        try:
            with tqdm(
                total=len(files), desc=f"{spec.name}/{split}", unit="image", disable=None, leave=False
            ) as bar:
                for done in pool.map(fill, range(0, len(files), 64)):
                    bar.update(done)
        finally:
            pool.shutdown(cancel_futures=True)
        return names, [label for _, label in files]

    def _mixed(
        self, spec: Spec, first: Path, shape: tuple[int, ...], path: Path, got: tuple[int, ...]
    ) -> DataError:
        size = f"{got[1]}x{got[0]}"
        wanted = f"{shape[2]}x{shape[1]}"
        if spec.source is None:
            return DataError(f"{path} is {size} pixels (width x height) but {spec.name} is {wanted}")
        other = f"{first} is" if spec.shape is None else "the training images are"
        return DataError(
            f"images of mixed sizes: {other} {wanted} pixels (width x height), {path} is {size}; "
            f"bring them to one size, here with {spec.name.partition('?')[0]}?size={min(shape[1:])}"
        )


def imagenet_subset(name: str, fit: Fit) -> tuple[Tree, ...]:
    """Forms of a ten-class ImageNet subset at 128x128: a tree of its own, or the classes that it lists out of ImageNet-1k."""
    return (Tree((name, *IMAGENET_TREES), 128, fit, "RGB", convert=True, among=True, note=IMAGENET_NOTE),)


def _opened_mode(path: Path) -> str:
    with _readable(path), Image.open(path) as image:
        return str(image.mode)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes; all mean the same
        raise DataError(
            f"cannot read the image {path} ({_first_line(error)}); replace it or remove it from the folder"
        ) from error


def _decoded(
    path: Path, size: int | None, fit: Fit, mode: str, convert: bool, name: str, first: Path | None = None
) -> Bytes:
    """One picture as uint8 (H, W) or (H, W, 3)."""
    with _readable(path), Image.open(path) as image:
        image.load()
        colour = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}.get(image.mode)
        if image.mode.startswith(("I", "F")):
            raise DataError(
                f"{path} has mode {image.mode} (more than 8 bits a value); save it with 8 bits a channel"
            )
        if colour != mode and not convert:
            base = name.partition("?")[0]
            hint = f"; convert with {base}?mode={'rgb' if colour == 'RGB' else 'grey'}" if ":" in base else ""
            others = f" like {first}" if first is not None and first != path else ""
            raise DataError(
                f"images of mixed modes: {path} is {_spoken(image.mode)}, expected {_spoken(mode)}{others}{hint}"
            )
        image = image.convert(mode)
        if size is not None and image.size != (size, size):
            from torchvision.transforms import functional

            if fit == "squash":
                image = functional.resize(image, [size, size])
            else:
                image = functional.center_crop(functional.resize(image, [size]), [size, size])
        return np.asarray(image, dtype=np.uint8)


def _spoken(mode: str) -> str:
    return {
        "L": "grey (L)",
        "1": "black and white (1)",
        "RGB": "colour (RGB)",
        "RGBA": "colour with transparency (RGBA)",
    }.get(mode, f"of mode {mode}")


# ------------------------------------------------------------------------------------------------ a download of ours


@dataclass(frozen=True)
class Download:
    """A zip archive that unpacks to one folder ``unpacked`` under the root; used where torchvision has no class."""

    url: str
    md5: str
    unpacked: str

    @property
    def archive(self) -> str:
        return self.url.rpartition("/")[2]

    def where(self, root: Path) -> str | None:
        return f"archive {root / self.archive}" if (root / self.archive).is_file() else None

    def wanted(self, root: Path) -> str:
        return f"put {self.archive} (from {self.url}, md5 {self.md5}) into {root}"

    def fetch(self, root: Path) -> None:
        """Download with a progress bar, check the md5, unpack; an interrupted unpacking leaves no half folder."""
        from torchvision.datasets.utils import download_url, extract_archive

        download_url(self.url, str(root), self.archive, self.md5)
        half = root / f".{self.unpacked}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            extract_archive(str(root / self.archive), str(half))
            os.replace(half / self.unpacked, root / self.unpacked)
        finally:
            shutil.rmtree(half, ignore_errors=True)

    def read(
        self, spec: Spec, split: str, root: Path, make: Make, workers: int
    ) -> tuple[tuple[str, ...], list[int]]:
        if not (root / self.unpacked).is_dir():
            with _downloading(spec, root):
                self.fetch(root)
        for form in spec.forms:
            if isinstance(form, Tree) and form.where(root):
                return form.read(spec, split, root, make, workers)
        raise DataError(f"{spec.name}: {root / self.archive} holds no folder {self.unpacked}")


@contextmanager
def _downloading(spec: Spec, root: Path) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds; torchvision sets none, and a silent network would hang for ever
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, RuntimeError, EOFError) as error:  # URLError and HTTPError are OSErrors
        raise missing(
            spec, root, f"could not be downloaded ({type(error).__name__}: {_first_line(error)})"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def missing(spec: Spec, root: Path, why: str) -> FileNotFoundError:
    """The error for data that are nowhere: says which file goes where."""
    ways = "; or ".join(form.wanted(root) for form in spec.forms)
    return FileNotFoundError(f"{spec.name} is not under {root} and {why}: {ways}")


# ------------------------------------------------------------------------------------------------ the prepared cache


class _ArrayFacts(pydantic.BaseModel):
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int
    probe: str
    """Checksum of the header and of 64 places spread over the file."""


class _Facts(pydantic.BaseModel):
    """facts.json: written last, so that a folder without it was never finished."""

    version: Literal[1] = 1
    name: str
    found: str
    """Where the bytes came from."""
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stamp: str = ""
    """Of the source folder's file names, sizes and times (imagefolder only)."""
    arrays: dict[str, _ArrayFacts] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    """Of each split: ``contract.tensor_hash`` of images and labels."""
    checksum: str = ""
    """Of all the other fields."""

    def own_checksum(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"checksum"}).encode()).hexdigest()[:16]


def _probe(path: Path) -> str:
    size, crc, block = path.stat().st_size, 0, 4096
    with path.open("rb") as file:
        for i in range(64):
            file.seek(max(0, (size - block) * i // 63))
            crc = zlib.crc32(file.read(block), crc)
    return f"{crc:08x}"


def _folders(spec: Spec, root: Path) -> list[Path]:
    """Where the prepared cache may be: beside the data, or in the cache folder where the data root is read-only."""
    place = hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:8]
    return [
        root / "prepared" / spec.folder_name,
        store.cache_root() / "prepared" / f"{spec.folder_name}-{place}",
    ]


def _prepared(spec: Spec, root: Path) -> Path | None:
    return next((f for f in _folders(spec, root) if (f / "facts.json").exists()), None)


def _damaged(folder: Path, spec: Spec, why: str) -> store.DamagedError:
    return store.DamagedError(
        f"the prepared cache {folder} is damaged or half written ({why}); remove the folder, or make it anew: "
        f"ddbench data prepare {shlex.quote(spec.name)} --force"
    )


def _read_facts(folder: Path, spec: Spec) -> _Facts:
    try:
        facts = _Facts.model_validate_json((folder / "facts.json").read_bytes())
    except (pydantic.ValidationError, OSError) as error:
        raise _damaged(folder, spec, f"facts.json: {_first_line(error)}") from error
    if facts.checksum != facts.own_checksum():
        raise _damaged(folder, spec, "the checksum of facts.json differs")
    return facts


def _read_array(folder: Path, spec: Spec, facts: _Facts, stem: str) -> NDArray[Any]:
    """The array mapped into memory copy-on-write, which torch takes without complaint; the file never changes."""
    path = folder / f"{stem}.npy"
    known = facts.arrays.get(stem)
    if known is None or not path.is_file():
        raise _damaged(folder, spec, f"{path.name} is missing")
    size = path.stat().st_size
    if size != known.size_bytes:
        raise _damaged(folder, spec, f"{path.name} has {size} bytes, expected {known.size_bytes}")
    if _probe(path) != known.probe:
        raise _damaged(folder, spec, f"the checksum of {path.name} differs")
    array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    if array.shape != known.shape or str(array.dtype) != known.dtype:
        raise _damaged(
            folder, spec, f"{path.name} is {array.dtype} {array.shape}, expected {known.dtype} {known.shape}"
        )
    return array


def load_split(instance: Any, split: str, root: Path) -> ImageData:
    """One split of a data set that has ``forms``, from its prepared cache (made first where it is not there yet).

    The images are mapped from disk, not read; :func:`load` moves small sets into memory.

    Raises:
        FileNotFoundError: the data are nowhere and cannot be downloaded; says which file goes where.
        DataError, store.DamagedError: they are there but cannot be used.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected train or test")
    spec = spec_of(instance)
    folder = _prepared(spec, root)
    if folder is None or _stale(spec, _read_facts(folder, spec)):
        folder = _prepare(spec, root, force=folder is not None, workers=None)
    facts = _read_facts(folder, spec)
    store.used(folder)
    images, labels = (_read_array(folder, spec, facts, f"{split}-{part}") for part in ("images", "labels"))
    return ImageData(
        name=spec.name,
        split=split,
        images=torch.from_numpy(images),
        labels=torch.from_numpy(np.array(labels)),
        classes=len(facts.class_names),
        mean=spec.mean or facts.mean,
        std=spec.std or facts.std,
        class_names=facts.class_names,
        flip=spec.flip,
        fingerprint=facts.fingerprints[split],
    )


def _stale(spec: Spec, facts: _Facts) -> bool:
    return spec.source is not None and facts.stamp != _stamp(spec.source)


def _stamp(source: Path) -> str:
    """Changes with the names, sizes and times of the pictures below a folder."""
    if not source.is_dir():
        raise FileNotFoundError(
            f"no folder {source}; expected {source}/train/<class>/ and {source}/test/<class>/ (or val/) with pictures"
        )
    digest = hashlib.sha256()
    for path in images_below(source):
        status = path.stat()
        digest.update(f"{path.relative_to(source)}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def prepare(
    name: str, root: str | os.PathLike[str] | None = None, force: bool = False, workers: int | None = None
) -> Path | None:
    """Find (or download) a data set and write its prepared cache.

    Args:
        force: make it anew from the files, even where it is there and whole.
        workers: threads that decode pictures (default: as many as processors).

    Returns:
        the folder, or None for a data set that its own file makes (nothing to prepare).

    Raises:
        FileNotFoundError, DataError, store.DamagedError: see :func:`load_split`.
        store.WriteError: the disk is full or read-only.
    """
    instance = dataset_of(name)
    if not _has_forms(instance):
        return None
    spec = spec_of(instance)
    folder = _prepare(spec, data_root(root), force, workers)
    facts = _read_facts(folder, spec)
    for split in SPLITS:
        for part in ("images", "labels"):
            _read_array(folder, spec, facts, f"{split}-{part}")  # raises where it is damaged
    return folder


def _has_forms(instance: Any) -> bool:
    return isinstance(instance, ImageFolder) or hasattr(instance, "forms")


def _writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK)


def _prepare(spec: Spec, root: Path, force: bool, workers: int | None) -> Path:
    beside, cached = _folders(spec, root)
    folder = beside if _writable(beside) else cached
    with store.Lock(folder):
        there = _prepared(spec, root)
        if there is not None and not force and not _stale(spec, _read_facts(there, spec)):
            return there  # another process made it while this one waited
        for left in folder.parent.glob(
            f".{folder.name}.*.tmp"
        ):  # of a killed process: this one holds the lock
            shutil.rmtree(left, ignore_errors=True)
        half = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.tmp")
        try:
            _fill(half, spec, root, workers or os.cpu_count() or 1)
            old = folder.with_name(f".{folder.name}.old.tmp")
            if folder.exists():
                os.replace(folder, old)
            os.replace(half, folder)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return folder


def _form(spec: Spec, root: Path) -> Form:
    """The first form that is there, else the first that can be downloaded."""
    for form in spec.forms:
        if form.where(root) is not None:
            return form
    for form in spec.forms:
        if isinstance(form, (Torchvision, Download)):
            return form
    if spec.source is not None:
        split_folder(spec.source, "train")  # says which folders are expected
    raise missing(spec, root, "cannot be downloaded without an account")


def _fill(half: Path, spec: Spec, root: Path, workers: int) -> None:
    """Write arrays and facts of both splits into a new folder."""
    stamp = _stamp(spec.source) if spec.source is not None else ""
    form = _form(spec, root)
    facts = _Facts(name=spec.name, found="", class_names=(), mean=(), std=(), stamp=stamp)
    for split, count in zip(SPLITS, spec.counts, strict=True):
        images_path, labels_path = half / f"{split}-images.npy", half / f"{split}-labels.npy"
        made: list[Bytes] = []
        with store.writing(images_path) as temporary:

            def make(
                shape: tuple[int, int, int, int], path: Path = temporary, into: list[Bytes] = made
            ) -> Bytes:
                into.append(_new_map(path, shape))
                return into[-1]

            names, label_list = form.read(spec, split, root, make, workers)
            images, labels = made[0], np.asarray(label_list, dtype=np.int64)
            _check(spec, form.where(root) or "", split, count, images, labels, names, facts.class_names)
            if split == "train":
                facts.class_names = names or tuple(str(c) for c in range(spec.classes or 0))
                facts.mean, facts.std = spec.mean or (), spec.std or ()
                if not facts.mean:
                    facts.mean, facts.std = statistics(images)
                    if min(facts.std) == 0:
                        raise DataError(
                            f"{spec.name}: channel {facts.std.index(0.0)} is the same value in every training image; "
                            f"such images cannot be standardised"
                        )
                spec = replace(spec, shape=images.shape[1:])
            images.flush()  # type: ignore[attr-defined]
            facts.fingerprints[split] = tensor_hash(torch.from_numpy(images), torch.from_numpy(labels))
        with store.writing(labels_path) as temporary, temporary.open("wb") as file:
            np.save(file, labels)
        for path, array in ((images_path, images), (labels_path, labels)):
            facts.arrays[path.stem] = _ArrayFacts(
                shape=array.shape, dtype=str(array.dtype), size_bytes=path.stat().st_size, probe=_probe(path)
            )
    facts.found = form.where(root) or ""
    facts.checksum = facts.own_checksum()
    store.write_text(half / "facts.json", facts.model_dump_json(indent=1) + "\n")


def _new_map(path: Path, shape: tuple[int, int, int, int]) -> Bytes:
    array: Bytes = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(
        os, "posix_fallocate"
    ):  # a full disk would kill the process at a write into the map: ask for room now
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _check(
    spec: Spec,
    found: str,
    split: str,
    count: int | None,
    images: Bytes,
    labels: NDArray[np.int64],
    names: tuple[str, ...],
    train_names: tuple[str, ...],
) -> None:
    """Raises DataError where what was read is not what the data set is."""
    what = f"{spec.name}/{split} ({found})"
    if len(images) != len(labels):
        raise DataError(f"{what}: {len(images)} images but {len(labels)} labels; expected one label an image")
    if len(images) == 0:
        raise DataError(f"{what}: no images; expected at least one a class")
    if count is not None and len(images) != count:
        raise DataError(
            f"{what}: {len(images)} images; expected {count}. For a part of the data use imagefolder:PATH instead"
        )
    if spec.shape is not None and images.shape[1:] != spec.shape:
        raise DataError(f"{what}: images are {tuple(images.shape[1:])}; expected (C, H, W) = {spec.shape}")
    if train_names and names and names != train_names:
        differ = sorted(set(names) ^ set(train_names))
        raise DataError(f"{what}: the classes of train and test differ: {_few(differ)} in one of them only")
    classes = spec.classes or len(names)
    if names and len(names) != classes:
        raise DataError(f"{what}: {len(names)} classes; expected {classes}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(f"{what}: labels run from {low} to {high}; expected 0 to {classes - 1}")
    empty = np.flatnonzero(np.bincount(labels, minlength=classes) == 0)
    if len(empty):
        named = [names[i] if names else str(i) for i in empty]
        raise DataError(f"{what}: {_few(named)}: a class with no images; expected at least one each")


def statistics(images: Bytes) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population deviation a channel of uint8 (N, C, H, W), on the [0, 1] scale; exact, from value counts."""
    counts = np.zeros((images.shape[1], 256), dtype=np.int64)
    for start in range(0, len(images), 4096):
        part = np.asarray(images[start : start + 4096])
        for c in range(part.shape[1]):
            counts[c] += np.bincount(part[:, c].ravel(), minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    return tuple(float(m) for m in mean), tuple(float(s) for s in std)


# ------------------------------------------------------------------------------------------------ the front door


def available(name: str, root: str | os.PathLike[str] | None = None) -> str | None:
    """Where a data set would be read from ("prepared cache ...", "torchvision files in ...", "image folder ..."), or
    None where it is not under the root.  Reads nothing."""
    instance = dataset_of(name)
    if not _has_forms(instance):
        return "built in"
    spec, place = spec_of(instance), data_root(root)
    folder = _prepared(spec, place)
    if folder is not None:
        return f"prepared cache {folder}"
    return next((found for form in spec.forms if (found := form.where(place)) is not None), None)


def downloadable(name: str) -> bool:
    """Whether a data set can be fetched; others are made on the spot, or need files that somebody puts there by hand."""
    instance = dataset_of(name)
    return _has_forms(instance) and any(hasattr(form, "fetch") for form in spec_of(instance).forms)


def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    device: torch.device | str = "cpu",
    memory_limit_mib: float | None = None,
) -> RealData:
    """Both splits of a data set, found as the module's text says.

    Args:
        name: registered name, with settings if need be (``imagenette?resize=squash``), or ``imagefolder:PATH``.
        root: data root; None: see :func:`data_root`.
        device: where the uint8 images go, if they fit.
        memory_limit_mib: a set with more bytes of images than this stays on disk, mapped into memory, its labels on the
            CPU; None: a quarter of the device's memory.

    Raises:
        LookupError: no such data set.
        FileNotFoundError: not there and no way to download it; says which file goes where.
        DataError, store.DamagedError: the files cannot be used; names them.
    """
    instance, place = dataset_of(name), data_root(root)
    train, test = (instance.load(split, place) for split in SPLITS)
    limit = _device_memory_mib(torch.device(device)) / 4 if memory_limit_mib is None else memory_limit_mib
    if (train.images.numel() + test.images.numel()) / 2**20 > limit:
        return RealData(train, test)
    return RealData(_placed(train, device), _placed(test, device))


def _placed(data: ImageData, device: torch.device | str) -> ImageData:
    """A copy in memory or on the device, no longer tied to the file."""
    return replace(data, images=data.images.to(device, copy=True), labels=data.labels.to(device))


def _device_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory / 2**20)
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20)


# ------------------------------------------------------------------------------------------------ whitening


def fit_zca(train: ImageData, eps: float = 0.1, on: Literal["unit", "standardised"] = "unit") -> ZCA:
    """Fit ZCA whitening on all training images with kornia; cached by fingerprint.

    With X (N, D) of flattened images, mu its mean and S = U diag(s) U^T its covariance (divided by N - 1):
    transform = U diag((s + eps)^-1/2) U^T.  Needs 8 N D bytes beside a D x D decomposition (cifar10: 1.3 GB).

    Args:
        eps: added to the eigenvalues, inside the root (dimensionless; the authors of MTT, FTD and DataDAM take 0.1).
        on: pixels on the [0, 1] scale (``unit``: MTT, FTD, DATM) or standardised ones (``standardised``: DataDAM).

    Raises:
        ValueError: an unknown ``on``, a negative ``eps`` or fewer than two images.

    Source: kornia.enhance.ZCAWhitening, as called by Cazenavette et al. 2022 (arXiv:2203.11932).
    """
    from kornia.enhance import ZCAWhitening

    if on not in ("unit", "standardised"):
        raise ValueError(f"ZCA is to be fitted on {on!r}; expected unit or standardised")
    if eps < 0 or len(train) < 2:
        raise ValueError(
            f"ZCA of {len(train)} images with eps {eps}; expected at least 2 images and eps >= 0"
        )
    stamp = hashlib.sha256(repr((train.fingerprint, eps, on, train.mean, train.std)).encode()).hexdigest()[
        :16
    ]
    path = store.cache_root() / "zca" / f"{stamp}.safetensors"
    if path.is_file():
        state = store.load_state(path, "cached ZCA")
        store.used(path)
        return ZCA(state["mean"], state["transform"], eps, train.fingerprint)
    fitted = ZCAWhitening(eps=float(eps)).fit(_pixels_for(train, on))
    zca = ZCA(fitted.mean_vector.flatten().cpu(), fitted.transform_matrix.cpu(), eps, train.fingerprint)
    store.save_state(path, {"mean": zca.mean, "transform": zca.transform})
    return zca


def _pixels_for(train: ImageData, on: str) -> torch.Tensor:
    return train.space.real_to_input(train.images) if on == "standardised" else train.images.float() / 255


def zca_space(train: ImageData, zca: ZCA, on: Literal["unit", "standardised"] = "unit") -> Space:
    """The space whose stored values are whitened network inputs; ``on`` must be that of the fit."""
    if on == "standardised":
        return Space("input", train.mean, train.std, zca)
    channels = train.shape[0]
    return Space("input", (0.0,) * channels, (1.0,) * channels, zca)


# ------------------------------------------------------------------------------------------------ words


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _few(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
