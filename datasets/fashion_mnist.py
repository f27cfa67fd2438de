"""Pieces of clothing, 28x28 grey, 60,000 train and 10,000 test images.

Bytes: the four idx files (torchvision's ``FashionMNIST/raw``), in their order, or ``fashion_mnist/{train,test}/<class>/``
with the class names below.
Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST", arXiv:1708.07747.  Licence: MIT.
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
    mean=(0.2861,),
    std=(0.3530,),
    flip=True,
    licence="MIT",
)
@dataclass(frozen=True)
class FashionMnist:
    class_names = (
        "t-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle-boot",
    )
    forms = (
        Torchvision(
            "FashionMNIST",
            files=tuple(f"FashionMNIST/raw/{f}" for f in _RAW),
            archives=tuple(f"FashionMNIST/raw/{f}.gz" for f in _RAW),
            url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        Tree(("fashion_mnist",), mode="L"),
    )

    def load(self, split: str, root: Path) -> ImageData:
        return load_split(self, split, root)
