"""Any labelled images in one `.npz` file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from metafluence import DataError, Labelled, LabelledDataset
from metafluence_plugins.datasets.arrays import class_labels, image_values, read_archive
from metafluence_plugins.datasets.images import Side, box_average


@dataclass(frozen=True)
class Npz(LabelledDataset):
    """`path` to an .npz archive that holds `inputs` and `labels`, arrays of equal length under those names.

    A relative path is looked for under `root`, else under $METAFLUENCE_DATA, else under the working folder. 8-bit
    images are kept in 8 bits and scaled to [0, 1] when drawn; images [n, h, w] and [n, h, w, 3] become [n, channels,
    h, w]. Labels are whole numbers or texts; each one that occurs is a class called by it, so gaps do no harm. An array
    [classes, instances, h, w] needs no labels. If the archive has an array `classes` (under that name) with a name for
    every label 0, 1, ..., classes are called by it. without: classes to leave out, by name.
    size: 8-bit images are scaled to squares of this side, by averaging; as they are if not given.
    """

    path: str
    root: str | None = None
    inputs: str = "images"
    labels: str = "labels"
    classes: str = "classes"
    without: tuple[str, ...] = ()
    size: Side | None = None

    def load(self) -> Labelled:
        file = self._find()
        held, arrays = read_archive(file, (self.inputs, self.labels, self.classes))
        images, labels, titles = (arrays.get(key) for key in (self.inputs, self.labels, self.classes))
        if images is None:
            raise DataError(
                f"{file} has no array {self.inputs!r}; it holds {', '.join(held)}. Set inputs to one of them."
            )
        if labels is None:
            if images.ndim != 4:
                raise DataError(f"{file} has no array {self.labels!r}; it holds {', '.join(held)}. Set labels.")
            labels = np.repeat(np.arange(images.shape[0]), images.shape[1])
            images = images.reshape(-1, *images.shape[2:])
        labels = class_labels(labels, self.labels, file)
        images = image_values(images, self.inputs, file)
        if len(images) != len(labels):
            raise DataError(f"{file} has {len(images)} inputs but {len(labels)} labels. Save as many of both.")
        if titles is not None and np.issubdtype(labels.dtype, np.integer) and labels.size:
            if labels.min() < 0 or labels.max() >= len(titles):
                wrong = labels.min() if labels.min() < 0 else labels.max()
                raise DataError(
                    f"{file} has the label {wrong}, but its {len(titles)} names in {self.classes} are for 0 to "
                    f"{len(titles) - 1}. Save a name for every label, or set classes to no array."
                )
            labels = titles[labels]
        images, labels = self._kept(images, labels, file)
        if images.shape[3:] == (1,):
            images = images[..., 0]
        if self.size is not None:
            if images.dtype != np.uint8 or not (images.ndim == 3 or images.shape[3:] == (3,)):
                raise DataError(
                    f"{file} has inputs of shape {list(images.shape)} ({images.dtype}), which size cannot scale: it is "
                    "for 8-bit images [n, h, w] or [n, h, w, 3]. Leave size out."
                )
            images = box_average(images, self.size)
        names, codes = np.unique(labels, return_inverse=True)
        values = torch.from_numpy(images)
        if values.dim() == 3:
            values = values.unsqueeze(1)
        elif values.dim() == 4 and values.shape[-1] == 3:
            values = values.movedim(-1, 1)
        return Labelled(values, torch.from_numpy(codes).long(), tuple(str(n) for n in names))

    def _kept(self, images: np.ndarray, labels: np.ndarray, file: Path) -> tuple[np.ndarray, np.ndarray]:
        if not self.without:
            return images, labels
        named = labels.astype(str)
        unknown = sorted(set(self.without) - set(named))
        if unknown:
            raise DataError(f"{file} has no class {unknown[0]!r} to leave out; it has {', '.join(sorted(set(named)))}.")
        keep = ~np.isin(named, self.without)
        if not keep.any():
            raise DataError(f"{file} has no class but those that are left out. Leave fewer of them out.")
        return images[keep], labels[keep]

    def _find(self) -> Path:
        root = self.root or os.environ.get("METAFLUENCE_DATA") or "."
        file = Path(root) / self.path
        if not file.is_file():
            raise DataError(
                f"There is no file {file.resolve()}. Set the data set's root, or METAFLUENCE_DATA, to the folder "
                f"that holds {self.path}."
            )
        return file
