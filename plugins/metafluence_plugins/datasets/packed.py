"""Few-shot data sets as pickled arrays: one file for each of the three parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metafluence import DataError, Labelled
from metafluence_plugins.datasets.images import Arrays, Pixels

Part = tuple[Pixels, NDArray[Any]]
"""Images [n, height, width, 3] and the name of each one's class [n]."""


def joined(content: Any, file: Path) -> Part:
    """A dictionary of `data` [n, h, w, 3] and `labels` [n]. Raises DataError naming the file where it is none."""
    images, labels = (_entry(content, key, file) for key in ("data", "labels"))
    return _checked(images, np.asarray(labels), file)


def with_indices(content: Any, file: Path) -> Part:
    """A dictionary of `image_data` [n, h, w, 3] and `class_dict`, which gives each class's numbers in it."""
    images, classes = (_entry(content, key, file) for key in ("image_data", "class_dict"))
    if not isinstance(images, np.ndarray) or not isinstance(classes, dict):
        raise DataError(f"{file}: image_data is no array or class_dict no dictionary. Get the file again.")
    labels = np.full(len(images), "", dtype=f"U{max((len(str(name)) for name in classes), default=1)}")
    for name, numbers in classes.items():
        index = np.asarray(numbers)
        if index.dtype.kind not in "iu" or index.ndim != 1 or index.size == 0:
            raise DataError(f"{file}: class_dict[{name!r}] is no list of numbers. Get the file again.")
        if index.min() < 0 or index.max() >= len(images):
            raise DataError(f"{file}: class_dict[{name!r}] names image {index.max()} of {len(images)}.")
        labels[index] = str(name)
    if (labels == "").any():
        raise DataError(f"{file}: {int((labels == '').sum())} images are of no class in class_dict. Get it again.")
    return _checked(images, labels, file)


def labelled_arrays(parts: Sequence[Part]) -> Labelled:
    """The parts for training, validation and testing, with their classes as the published split."""
    found = [np.unique(labels, return_inverse=True) for _, labels in parts]
    starts = np.cumsum([0, *(len(names) for names, _ in found)]).tolist()
    names = [[str(name) for name in some] for some, _ in found]
    flat = [name for some in names for name in some]
    if len(set(flat)) < len(flat):  # numbers that begin anew in every part
        flat = [f"{part} {n}" for part, some in zip(("train", "val", "test"), names, strict=True) for n in some]
    labels = np.concatenate([codes + start for (_, codes), start in zip(found, starts, strict=False)])
    train, validation, test = (range(a, b) for a, b in pairwise(starts))
    inputs = Arrays(tuple(images for images, _ in parts))
    return Labelled(inputs, torch.from_numpy(labels).long(), tuple(flat), (train, validation, test))


def _entry(content: Any, key: str, file: Path) -> Any:
    if not isinstance(content, dict) or key not in content:
        keys = f" of {', '.join(map(str, content))}" if isinstance(content, dict) else ""
        raise DataError(
            f"{file} holds a {type(content).__name__}{keys}; the entry {key!r} is needed. It is another file, or in "
            "another form."
        )
    return content[key]


def _checked(images: Any, labels: NDArray[Any], file: Path) -> Part:
    form = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise DataError(f"{file} has images {form}; 8-bit images [n, height, width, 3] are needed.")
    if labels.shape != (len(images),):
        raise DataError(f"{file} has {len(images)} images but labels of shape {labels.shape}. Get it again.")
    return images, labels
