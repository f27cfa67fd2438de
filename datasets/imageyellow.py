"""Ten ImageNet classes of yellow things at 128x128: at most 1,300 train images a class, 500 val images (val is the test part).

Bytes: cut from a tree of ImageNet-1k, ``imagenet1k/{train,val}/<wnid>/*.JPEG`` (also ``imagenet/`` or ``ILSVRC2012/``; see
datasets/imagenet1k.py for how to get it), or from ``imageyellow/{train,val}/<wnid>/`` with the same files.
Labels follow the list below. The ninth class is n01773797 (index 74), as in NCFM's class file; MTT's index list has
72, n01773157, there.
Size: short side to 128 pixels (Pillow, bilinear), then the central square, as NCFM (``resize=crop``, the default);
``imageyellow?resize=squash`` takes the whole picture to 128x128, as MTT (which does so after standardising).
Source: Russakovsky et al., arXiv:1409.0575; class lists of Cazenavette et al., arXiv:2203.11932.
Licence: ImageNet's terms (research only).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddbench.contract import ImageData
from ddbench.data import Fit, Tree, imagenet_subset, load_split
from ddbench.registry import dataset


@dataset(
    shape=(3, 128, 128),
    classes=10,
    train=None,  # depends on the classes; the val part has 50 images each
    test=500,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    flip=True,
    licence="ImageNet's terms: research only",
)
@dataclass(frozen=True)
class Imageyellow:
    resize: Fit = "crop"
    """``crop``: short side to 128, then the central square; ``squash``: the whole picture to 128x128."""
    class_names = (
        "n02206856",
        "n12057211",
        "n07753592",
        "n07749582",
        "n12144580",
        "n04146614",
        "n03530642",
        "n02129165",
        "n01773797",
        "n01531178",
    )

    @property
    def forms(self) -> tuple[Tree, ...]:
        return imagenet_subset("imageyellow", self.resize)

    def load(self, split: str, root: Path) -> ImageData:
        return load_split(self, split, root)
