"""Real handwritten digits that come with scikit-learn: no download."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits

from metafluence import Labelled, LabelledDataset


@dataclass(frozen=True)
class Digits(LabelledDataset):
    """1,797 digits of 8x8 pixels in 10 classes (Alpaydin and Kaynak 1998), scaled to [0, 1], as [1, 8, 8] images."""

    def load(self) -> Labelled:
        images, labels = load_digits(return_X_y=True)
        inputs = torch.from_numpy(images).reshape(-1, 1, 8, 8) / 16
        return Labelled(inputs, torch.from_numpy(labels).long(), tuple(str(i) for i in range(10)))
