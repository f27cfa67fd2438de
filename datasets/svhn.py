"""House numbers from street pictures, 32x32 colour, cropped digits: 73,257 train and 26,032 test images.

Bytes: ``train_32x32.mat`` and ``test_32x32.mat`` (torchvision's; label 10 means digit 0), in their order, or
``svhn/{train,test}/<digit>/``.  The ``extra`` images are not used.  A mirrored digit is another sign: no flips.
Source: Netzer et al., "Reading digits in natural images with unsupervised feature learning", 2011.
Licence: non-commercial use only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddbench.contract import ImageData
from ddbench.data import Torchvision, Tree, load_split
from ddbench.registry import dataset

_FILES = ("train_32x32.mat", "test_32x32.mat")


@dataset(
    shape=(3, 32, 32),
    classes=10,
    train=73_257,
    test=26_032,
    mean=(0.4377, 0.4438, 0.4728),
    std=(0.1980, 0.2010, 0.1970),
    flip=False,
    licence="non-commercial",
)
@dataclass(frozen=True)
class Svhn:
    class_names = tuple("0123456789")
    forms = (
        Torchvision("SVHN", files=_FILES, archives=_FILES, url="http://ufldl.stanford.edu/housenumbers/"),
        Tree(("svhn",), mode="RGB"),
    )

    def load(self, split: str, root: Path) -> ImageData:
        return load_split(self, split, root)
