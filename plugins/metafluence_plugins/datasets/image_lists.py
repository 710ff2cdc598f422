"""Images of one folder, listed with their classes in csv files, as LibFewShot has them."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metafluence import DataError, Labelled, LabelledDataset
from metafluence_plugins.datasets.image_folder import SPLITS
from metafluence_plugins.datasets.images import ImageFiles, Side, numbered


@dataclass(frozen=True)
class ImageLists(LabelledDataset):
    """`path` to a folder with train.csv, val.csv and test.csv (filename,label) and the folder `images`.

    A filename is a path below `images`. The lists are the published split. Images become squares of `size` pixels,
    [3, size, size] or with `grey` [1, size, size]; each is read when it is drawn. A relative path is looked for under
    `root`, else under $METAFLUENCE_DATA, else under the working folder.
    """

    path: str
    size: Side = 84
    colour: Literal["colour", "grey"] = "colour"
    root: str | None = None

    def load(self) -> Labelled:
        folder = Path(self.root or os.environ.get("METAFLUENCE_DATA") or ".") / self.path
        lists = [folder / f"{part}.csv" for part in SPLITS]
        lacking = next((file for file in [*lists, folder / "images"] if not file.exists()), None)
        if lacking is not None:
            raise DataError(
                f"There is no {lacking.absolute()}. Put train.csv, val.csv, test.csv and the folder images into one "
                "folder, and set the data set's path to it, and its root, or METAFLUENCE_DATA, to where that is."
            )
        return listed_images(lists, folder / "images", self.size, "RGB" if self.colour == "colour" else "L")


def listed_images(lists: Sequence[Path], images: Path, size: int, mode: str) -> Labelled:
    """The images of three lists, one for each published split. Raises DataError where a class is in two of them."""
    names: list[str] = []
    files: list[list[Path]] = []
    parts: list[range] = []
    for file in lists:
        by_class = _read_list(file, images)
        twice = next((name for name in by_class if name in names), None)
        if twice is not None:
            raise DataError(f"{file} lists the class {twice!r}, which an earlier list has too. Keep it in one.")
        parts.append(range(len(names), len(names) + len(by_class)))
        names += by_class
        files += by_class.values()
    every, labels = tuple(f for some in files for f in some), numbered([len(some) for some in files])
    splits, titles = (parts[0], parts[1], parts[2]), tuple(os.path.relpath(file, images) for file in every)
    return Labelled(ImageFiles(every, mode, size), labels, tuple(names), splits, titles)


def _read_list(file: Path, images: Path) -> dict[str, list[Path]]:
    """By class, sorted, the image files of a list."""
    found: dict[str, dict[Path, None]] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream, skipinitialspace=True)
            rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
            if not {"filename", "label"} <= set(rows.fieldnames):
                raise DataError(
                    f"{file} has the columns {rows.fieldnames}; its first line needs filename and label. Add it."
                )
            for number, row in enumerate(rows, start=2):
                if not row["filename"] or not row["label"]:
                    raise DataError(
                        f"{file}, line {number} has no filename or no label. It may be cut short: get the list again."
                    )
                found.setdefault(row["label"].strip(), {})[images / row["filename"].strip()] = (
                    None  # listed twice is there once
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as a list of images: {error}. Save it in UTF-8.") from error
    return {label: sorted(found[label]) for label in sorted(found)}
