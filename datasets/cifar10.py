"""Small colour pictures of ten kinds of things, 32x32: 50,000 train and 10,000 test images.

Bytes: ``cifar-10-batches-py`` (torchvision's), in the order of its batches, or ``cifar10/{train,test}/<class>/``, sorted
by class and file name.  The two orders hold the same images but have different fingerprints: a subset names indices.
Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.  Licence: none stated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddbench.contract import ImageData
from ddbench.data import Torchvision, Tree, load_split
from ddbench.registry import dataset


@dataset(
    shape=(3, 32, 32),
    classes=10,
    train=50_000,
    test=10_000,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    flip=True,
    licence="none stated",
)
@dataclass(frozen=True)
class Cifar10:
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    forms = (
        Torchvision(
            "CIFAR10",
            files=("cifar-10-batches-py",),
            archives=("cifar-10-python.tar.gz",),
            url="https://www.cs.toronto.edu/~kriz/",
        ),
        Tree(("cifar10",), mode="RGB"),
    )

    def load(self, split: str, root: Path) -> ImageData:
        return load_split(self, split, root)
