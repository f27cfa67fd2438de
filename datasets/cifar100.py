"""Small colour pictures of a hundred kinds of things, 32x32: 50,000 train and 10,000 test images; fine labels.

Bytes: ``cifar-100-python`` (torchvision's), in its order, or ``cifar100/{train,test}/<class>/``.  Mean and deviation are
those of DC, DSA and DM; MTT, IDC and NCFM standardise with cifar10's.
Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.  Licence: none stated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddbench.contract import ImageData
from ddbench.data import Torchvision, Tree, load_split
from ddbench.registry import dataset

_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


@dataset(
    shape=(3, 32, 32),
    classes=100,
    train=50_000,
    test=10_000,
    mean=(0.5071, 0.4866, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    flip=True,
    licence="none stated",
)
@dataclass(frozen=True)
class Cifar100:
    class_names = tuple(_CLASSES.split())
    forms = (
        Torchvision(
            "CIFAR100",
            files=("cifar-100-python",),
            archives=("cifar-100-python.tar.gz",),
            url="https://www.cs.toronto.edu/~kriz/",
        ),
        Tree(("cifar100",), mode="RGB"),
    )

    def load(self, split: str, root: Path) -> ImageData:
        return load_split(self, split, root)
