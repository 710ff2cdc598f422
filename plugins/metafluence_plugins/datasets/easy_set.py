"""Images in folders that a JSON file lists, as easyfsl's EasySet has them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metafluence import DataError, Labelled, LabelledDataset
from metafluence_plugins.datasets.image_folder import SPLITS
from metafluence_plugins.datasets.images import ImageFiles, Side, images_below, numbered


@dataclass(frozen=True)
class EasySet(LabelledDataset):
    """`path` to a JSON file with `class_names` and `class_roots`, the folder of each class, or to a folder of three.

    These are train.json, val.json and test.json, the published split. Paths that are relative, in the file too, are
    looked for under `root`, else under $METAFLUENCE_DATA, else under the working folder. Images become squares of
    `size` pixels, [3, size, size] or with `grey` [1, size, size]; each is read when it is drawn. EasySet's own crops
    and normalisation are not made.
    """

    path: str
    size: Side = 84
    colour: Literal["colour", "grey"] = "colour"
    root: str | None = None

    def load(self) -> Labelled:
        base = Path(self.root or os.environ.get("METAFLUENCE_DATA") or ".")
        place = base / self.path
        found = [_read(file, base) for file in ([place / f"{s}.json" for s in SPLITS] if place.is_dir() else [place])]
        names = [name for part in found for name in part]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{place}: the class {twice!r} is in two of {', '.join(SPLITS)}. Keep it in one.")
        files = [files for part in found for files in part.values()]
        every = tuple(file for some in files for file in some)
        splits = None
        if len(found) == 3:
            first, second, third = (len(part) for part in found)
            splits = range(first), range(first, first + second), range(first + second, first + second + third)
        inputs = ImageFiles(every, "RGB" if self.colour == "colour" else "L", self.size)
        titles = tuple(os.path.relpath(file, base) for file in every)
        return Labelled(inputs, numbered([len(some) for some in files]), tuple(names), splits, titles)


def _read(file: Path, base: Path) -> dict[str, list[Path]]:
    """The images of each class, in the order of the file."""
    try:
        specs = json.loads(file.read_text(encoding="utf-8"))
        names, roots = specs["class_names"], specs["class_roots"]
    except FileNotFoundError as error:
        raise DataError(
            f"There is no file {file.absolute()}. Set the data set's root, or METAFLUENCE_DATA, to the folder that its "
            "path is below."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{file} cannot be read as {{"class_names": [...], "class_roots": [...]}}: {error!r}. Correct it.'
        ) from error
    if len(names) != len(roots) or not names or len(set(names)) != len(names):
        raise DataError(
            f"{file} has {len(names)} class_names, {len(set(names))} of them different, and {len(roots)} class_roots. "
            "Give each class a name of its own and a folder."
        )
    found = {}
    for name, root in zip(names, roots, strict=True):
        folder = base / root
        found[name] = images_below(folder) if folder.is_dir() else []
        if not found[name]:
            raise DataError(f"{file}: there are no images in {folder.absolute()}, the folder of {name!r}. Set root.")
    return found
