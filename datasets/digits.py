"""Handwritten digits, 8x8 grey: the embedded default, bundled with scikit-learn, no download.

Bytes: the 1,797 images of scikit-learn's ``load_digits`` in its order.  Values 0..16 become round(value * 255 / 16), of
which only 8 is a tie (127.5 -> 128).  Test: every fifth image (indices 0, 5, 10, ...; 360 images); the other 1,437 train.
Mean and deviation are those of the training part.  A mirrored digit is another sign: no flips.
Source: the test part of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998,
doi:10.24432/C50P49.  Licence: CC BY 4.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ddbench.contract import ImageData
from ddbench.data import statistics
from ddbench.registry import dataset


@dataset(shape=(1, 8, 8), classes=10, train=1_437, test=360, flip=False, licence="CC BY 4.0")
@dataclass(frozen=True)
class Digits:
    def load(self, split: str, root: Path) -> ImageData:
        if split not in ("train", "test"):
            raise ValueError(f"split is {split!r}; expected train or test")
        from sklearn.datasets import load_digits  # here: it takes a second to import

        values, labels = load_digits(return_X_y=True)
        pixels = np.rint(values * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
        in_test = np.arange(len(pixels)) % 5 == 0
        mean, std = statistics(pixels[~in_test])
        chosen = in_test if split == "test" else ~in_test
        return ImageData(
            name="digits",
            split=split,
            images=torch.from_numpy(pixels[chosen]),
            labels=torch.from_numpy(labels[chosen].astype(np.int64)),
            classes=10,
            mean=mean,
            std=std,
            class_names=tuple("0123456789"),
            flip=False,
        )
