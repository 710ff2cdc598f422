"""Images in folders, one for each class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metafluence import DataError, Labelled, LabelledDataset
from metafluence_plugins.datasets.images import ImageFiles, Side, class_folders, numbered

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ImageFolder(LabelledDataset):
    """`path` to a folder with one folder of images per class, or with train, val and test that have such folders.

    Images become squares of `size` pixels, [3, size, size] or with `grey` [1, size, size]; each is read when it is
    drawn. Folders train, val and test are the published split. without: classes to leave out. A relative path is
    looked for under `root`, else under $METAFLUENCE_DATA, else under the working folder.
    """

    path: str
    size: Side = 84
    colour: Literal["colour", "grey"] = "colour"
    without: tuple[str, ...] = ()
    root: str | None = None

    def load(self) -> Labelled:
        folder = Path(self.root or os.environ.get("METAFLUENCE_DATA") or ".") / self.path
        if not folder.is_dir():
            raise DataError(
                f"There is no folder {folder.absolute()}. Set the data set's root, or METAFLUENCE_DATA, to the folder "
                f"that holds {self.path}."
            )
        return labelled_folder(folder, self.size, "RGB" if self.colour == "colour" else "L", self.without)


def labelled_folder(folder: Path, size: int, mode: str, without: tuple[str, ...] = ()) -> Labelled:
    """Class folders, below train, val and test if there are such."""
    parts = [folder / name for name in SPLITS] if (folder / "train").is_dir() else [folder]
    for part in parts:
        if not part.is_dir():
            raise DataError(f"There is {folder / 'train'} but no {part}. Give all three of {', '.join(SPLITS)}.")
    by_part = [class_folders(part, lambda name: name not in without) for part in parts]
    classes = [(name, files) for found in by_part for name, files in found.items()]
    if not classes:
        raise DataError(f"{folder} holds no folders of images. Put the images of each class in a folder of its own.")
    names = [name for name, _ in classes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{folder}: the class {twice!r} stands in two of {', '.join(SPLITS)}. Keep it in one.")
    every = [file for _, files in classes for file in files]
    inputs, labels = ImageFiles(tuple(every), mode, size), numbered([len(files) for _, files in classes])
    titles = tuple(str(file.relative_to(folder)) for file in every)
    return Labelled(inputs, labels, tuple(names), _splits([len(found) for found in by_part]), titles)


def _splits(counts: list[int]) -> tuple[range, range, range] | None:
    if len(counts) != 3:
        return None
    first, second, third = counts
    return range(first), range(first, first + second), range(first + second, first + second + third)
