"""Images of Hugging Face's `datasets`, from an object in Python or a folder that `save_to_disk` wrote."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from metafluence import DataError, Labelled, LabelledDataset, optional_package
from metafluence_plugins.datasets.images import Decoded, Pixels, Side, decode

AT_ONCE = 256
"""Rows whose file names are read together."""


def from_hugging_face(
    dataset: Any,
    image: str = "image",
    label: str = "label",
    size: int = 84,
    colour: Literal["colour", "grey"] = "colour",
) -> Labelled:
    """A `datasets.Dataset` of images as a data set of classes.

    image, label: its columns. Images become squares of `size` pixels, [3, size, size] or with `grey` [1, size, size];
    each is decoded when it is drawn. They are called by the files that they were, or by `row-NUMBER` where these are
    not known or not unique. Classes are called as the column `label` calls them.

    Raises DataError for several splits, a stream, missing columns, and rows without an image or a label.
    """
    columns = getattr(dataset, "features", None)
    if columns is None or not hasattr(dataset, "__len__") or isinstance(dataset, dict):
        given = (
            f"one of {', '.join(dataset)}: dataset[NAME]" if isinstance(dataset, dict) else "no stream or other object"
        )
        raise DataError(f"A {type(dataset).__name__} is no table of images. Give a datasets.Dataset, {given}.")
    lacking = next((name for name in (image, label) if name not in columns), None)
    if lacking is not None:
        raise DataError(f"The data set has no column {lacking!r}; it has {', '.join(columns)}. Name the right one.")
    if type(columns[image]).__name__ != "Image":
        raise DataError(f"The column {image!r} is {columns[image]}, no images. Name a column of type Image.")
    files = dataset.cast_column(image, type(columns[image])(decode=False)).select_columns([image]).with_format(None)
    found = list(dataset.select_columns([label]).with_format(None)[label])
    row = next((i for i, value in enumerate(found) if value is None or value == -1), None)
    if row is not None:
        raise DataError(f"Row {row} has no label. Remove such rows: dataset.filter(...).")
    called = getattr(columns[label], "names", None)
    classes, codes = (called, np.asarray(found)) if called else np.unique(found, return_inverse=True)
    inputs = _Rows(files, image, "RGB" if colour == "colour" else "L", size)
    return Labelled(inputs, torch.as_tensor(codes), tuple(map(str, classes)), names=_names(files, image))


@dataclass(frozen=True)
class HuggingFace(LabelledDataset):
    """`path` to a folder that `save_to_disk` of Hugging Face's `datasets` wrote.

    part: of several splits, such as train. image, label: columns. Images become squares of `size` pixels,
    [3, size, size] or with `grey` [1, size, size]; each is decoded when it is drawn. A relative path is looked for
    under `root`, else under $METAFLUENCE_DATA, else under the working folder.
    """

    path: str
    part: str | None = None
    image: str = "image"
    label: str = "label"
    size: Side = 84
    colour: Literal["colour", "grey"] = "colour"
    root: str | None = None

    def load(self) -> Labelled:
        package = optional_package("datasets", "hugging-face")
        folder = Path(self.root or os.environ.get("METAFLUENCE_DATA") or ".") / self.path
        try:
            found = package.load_from_disk(str(folder))
        except (OSError, ValueError) as error:
            raise DataError(f"{folder} holds no data set of `save_to_disk` ({error}). Check path and root.") from error
        if self.part is not None and self.part not in (found if isinstance(found, dict) else ()):
            parts = ", ".join(found) if isinstance(found, dict) else "none"
            raise DataError(f"{folder} has no part {self.part!r}; its parts: {parts}. Name one of them, or none.")
        chosen = found if self.part is None else found[self.part]
        return from_hugging_face(chosen, self.image, self.label, self.size, self.colour)


@dataclass(frozen=True)
class _Rows(Decoded):
    """The images of a table's rows."""

    files: Any
    image: str
    mode: str
    size: int

    def decoded(self, number: int) -> Pixels:
        held = self.files[number][self.image]
        if held is None:
            raise DataError(f"Row {number} has no image. Remove such rows: dataset.filter(...).")
        source = held["path"] if held["bytes"] is None else io.BytesIO(held["bytes"])
        return decode(source, f"row {number} ({held['path']})", self.mode, self.size)


def _names(files: Any, image: str) -> tuple[str, ...]:
    """The files that images were, where all are known and no two are called the same; else by their rows."""
    table = files.with_format("arrow")
    named: list[str | None] = []
    for start in range(0, len(files), AT_ONCE):
        column = table[start : start + AT_ONCE][image]
        named += [path for chunk in column.chunks for path in chunk.field("path").to_pylist()]
    return tuple(f"row-{i}" for i in range(len(files))) if _lacking(named) else tuple(map(str, named))


def _lacking(named: Sequence[str | None]) -> bool:
    return None in named or len(set(named)) < len(named)
