"""ImageNet-1k (ILSVRC 2012): 1,000 classes, 1,281,167 train and 50,000 val images (val is the test part), at 224x224.

Bytes: ``imagenet1k/{train,val}/<wnid>/*.JPEG`` (also found as ``imagenet/`` or ``ILSVRC2012/``).  It cannot be downloaded
without an account: get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org, put both with
ILSVRC2012_devkit_t12.tar.gz into ``imagenet1k/`` and unpack with torchvision:
``python -c "from torchvision.datasets import ImageNet as I; [I('DATA_ROOT/imagenet1k', s) for s in ('train', 'val')]"``.
Labels follow the sorted wnids.  Grey, CMYK and transparent files become RGB.  Both parts: short side to 224 pixels (Pillow,
bilinear), then the central square (``resize=crop``); ``imagenet1k?resize=squash`` takes the whole picture to 224x224.
The prepared cache is uint8 at this size: 187 GiB, mapped into memory, never read whole.
Source: Russakovsky et al., arXiv:1409.0575.  Licence: ImageNet's terms (research only).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddbench.contract import ImageData
from ddbench.data import IMAGENET_NOTE, IMAGENET_TREES, Fit, Tree, load_split
from ddbench.registry import dataset


@dataset(
    shape=(3, 224, 224),
    classes=1000,
    train=1_281_167,
    test=50_000,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    flip=True,
    licence="ImageNet's terms: research only",
)
@dataclass(frozen=True)
class Imagenet1k:
    resize: Fit = "crop"
    """``crop``: short side to 224, then the central square; ``squash``: the whole picture to 224x224."""

    @property
    def forms(self) -> tuple[Tree, ...]:
        return (Tree(IMAGENET_TREES, 224, self.resize, "RGB", convert=True, note=IMAGENET_NOTE),)

    def load(self, split: str, root: Path) -> ImageData:
        return load_split(self, split, root)
