"""Two hundred ImageNet classes at 64x64: 100,000 train and 10,000 val images (val is the test part).

Bytes: ``tiny-imagenet-200`` as the archive has it (val labels in ``val_annotations.txt``), or
``tiny_imagenet/{train,val}/<wnid>/``.  Labels follow the sorted wnids.  Some files are grey: they become RGB.
Source: Stanford CS231n, http://cs231n.stanford.edu/tiny-imagenet-200.zip.  Licence: ImageNet's terms (research only).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddbench.contract import ImageData
from ddbench.data import DataError, Download, Tree, class_folders, load_split
from ddbench.registry import dataset


def _archive_files(
    folder: Path, split: str, wanted: Sequence[str]
) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Class names and (file, label) pairs of the archive's layout, val sorted by class and file name."""
    val = folder / "val"
    if (
        split == "train" or not (val / "images").is_dir()
    ):  # some people sort val into class folders after unpacking
        return class_folders(folder, split, wanted)
    names = tuple(sorted(p.name for p in (folder / "train").iterdir() if p.is_dir()))
    labels = {name: label for label, name in enumerate(names)}
    table = val / "val_annotations.txt"
    if not table.is_file():
        raise DataError(f"{table} is missing: it has the classes of the val images; unpack the archive again")
    files = []
    for number, line in enumerate(table.read_text().splitlines(), 1):
        file, _, rest = line.partition("\t")
        name = rest.partition("\t")[0]
        if name not in labels:
            raise DataError(
                f"{table} line {number} names the class {name!r}; expected the name of a folder in {folder / 'train'}"
            )
        files.append((val / "images" / file, labels[name]))
    return names, sorted(files, key=lambda pair: (pair[1], pair[0]))


@dataset(
    shape=(3, 64, 64),
    classes=200,
    train=100_000,
    test=10_000,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    flip=True,
    licence="ImageNet's terms: research only",
)
@dataclass(frozen=True)
class TinyImagenet:
    forms = (
        Tree(("tiny-imagenet-200",), mode="RGB", convert=True, listing=_archive_files),
        Tree(("tiny_imagenet",), mode="RGB", convert=True),
        Download(
            url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            md5="90528d7ca1a48142e341f4ef8d21d0de",
            unpacked="tiny-imagenet-200",
        ),
    )

    def load(self, split: str, root: Path) -> ImageData:
        return load_split(self, split, root)
