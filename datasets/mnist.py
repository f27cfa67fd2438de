"""Handwritten digits, 28x28 grey, 60,000 train and 10,000 test images.

Bytes: the four idx files (torchvision's ``MNIST/raw``), in their order, or ``mnist/{train,test}/<digit>/``.
Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.
Licence: CC BY-SA 3.0 (as commonly stated for this set).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddbench.contract import ImageData
from ddbench.data import Torchvision, Tree, load_split
from ddbench.registry import dataset

_RAW = tuple(
    f"{part}-ubyte"
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
)


@dataset(
    shape=(1, 28, 28),
    classes=10,
    train=60_000,
    test=10_000,
    mean=(0.1307,),
    std=(0.3081,),
    flip=False,
    licence="CC BY-SA 3.0",
)
@dataclass(frozen=True)
class Mnist:
    class_names = tuple("0123456789")
    forms = (
        Torchvision(
            "MNIST",
            files=tuple(f"MNIST/raw/{f}" for f in _RAW),
            archives=tuple(f"MNIST/raw/{f}.gz" for f in _RAW),
            url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        Tree(("mnist",), mode="L"),
    )

    def load(self, split: str, root: Path) -> ImageData:
        return load_split(self, split, root)
