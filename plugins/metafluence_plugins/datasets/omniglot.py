"""Omniglot: handwritten characters of fifty alphabets."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from metafluence import DataError, InputError, Labelled, LabelledDataset, Source
from metafluence_plugins.datasets.files import fetched, folders, missing
from metafluence_plugins.datasets.images import Pixels, box_average, decode, numbered

ADDRESS = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
PACKED = ("omniglot_28.npz", "omniglot.npz")
ARCHIVES = {
    "all": ("images_background", "images_evaluation"),
    "background": ("images_background",),
    "evaluation": ("images_evaluation",),
    "small1": ("images_background_small1",),
    "small2": ("images_background_small2",),
}
# The split of Vinyals et al. (2016) in the files of Snell et al. (2017): five whole alphabets for validation; for
# testing the last 423 characters of the sorted list, which begin inside Gurmukhi; all others for training.
VALIDATION = {"Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"}
FIRST_TESTED = ("images_evaluation", "Gurmukhi", "character42")
MEMBER = re.compile(r"(?:^|/)(?P<alphabet>[^/]+)/(?P<character>character\d+)/(?P<file>[^/]+\.png)$")

Name = tuple[str, str, str]
"""Archive, alphabet, character."""


@dataclass(frozen=True)
class Omniglot(LabelledDataset):
    """1,623 characters, each drawn by 20 people (Lake et al. 2015), as [1, size, size] images in 8 bits.

    The published images have ink 0 on paper 1; here ink is bright (1) and paper 0. They are scaled down from 105x105
    by box average: a pixel is the mean of those whose centres it covers. subset: `background` and `evaluation` are the
    published halves, `small1` and `small2` the published small backgrounds. rotations: every character turned by 90,
    180 and 270 degrees is a class of its own. published: the split that episodes.split: published takes, `vinyals`
    (1,028, 172 and 423 characters) or `background` (training from the background, testing on the evaluation set).
    Files: the official images_*.zip or what is in them, or omniglot_28.npz (`images` [characters, drawings, h, w] with
    ink bright, `names` archive/alphabet/character), in the root or in its folder omniglot or omniglot-py.
    """

    subset: Literal["all", "background", "evaluation", "small1", "small2"] = "all"
    size: Annotated[int, Field(ge=1, le=105)] = 28
    rotations: bool = False
    published: Literal["vinyals", "background"] = "vinyals"
    root: str | None = None

    def __post_init__(self) -> None:
        if self.published == "background" and self.subset != "all":
            raise InputError(f"The subset {self.subset} has no other half to test on. Use published: vinyals.")

    def sources(self) -> tuple[Source, ...]:
        # The checksums of the two halves as torchvision has them; none is published for the small ones.
        md5 = {
            "images_background": "68d2efa1b9178cc56df9314c21c6e718",
            "images_evaluation": "6b91aef0f799c5bb55b94e3f2daec811",
        }
        names = ARCHIVES[self.subset]
        return tuple(Source(f"{ADDRESS}/{n}.zip", f"omniglot/{n}.zip", md5.get(n)) for n in names)

    def load(self) -> Labelled:
        drawings = dict(sorted(self._read().items()))
        names, images = list(drawings), list(drawings.values())
        parts = [self._part(name) for name in names]
        titles = ["/".join(name[1:]) for name in names]
        if self.rotations:
            turned = [np.rot90(image, quarter, axes=(1, 2)) for image in images for quarter in range(4)]
            titles = [f"{title} turned {90 * quarter}" for title in titles for quarter in range(4)]
            images, parts = turned, [part for part in parts for _ in range(4)]
        train, validation, test = ([i for i, part in enumerate(parts) if part == s] for s in range(3))
        inputs = torch.from_numpy(np.concatenate(images)).unsqueeze(1)
        return Labelled(inputs, numbered([len(i) for i in images]), tuple(titles), (train, validation, test))

    def _part(self, name: Name) -> int:
        """0, 1 or 2: in which set the published split has a character."""
        archive, alphabet, _ = name
        if self.published == "background":
            return 2 if archive == "images_evaluation" else 0
        if alphabet in VALIDATION:
            return 1
        return 2 if archive == "images_evaluation" and name >= FIRST_TESTED else 0

    def _read(self) -> dict[Name, Pixels]:
        places, wanted = folders(self.root, "omniglot", "omniglot-py"), ARCHIVES[self.subset]
        for place in places:
            # A folder, else the archive of that name.
            pairs = [(place / name, place / f"{name}.zip") for name in wanted]
            found = [folder if folder.is_dir() else archive for folder, archive in pairs]
            if all(path.exists() for path in found):
                drawings: dict[Name, Pixels] = {}
                for name, path in zip(wanted, found, strict=True):
                    drawings |= self._official(name, path)
                return drawings
        for file in (place / name for place in places for name in PACKED):
            if file.is_file():
                return self._packed(file, wanted)
        forms = [" and ".join(f"{name}.zip" for name in wanted), "folders of those names", *PACKED]
        raise missing("Omniglot", places, forms, fetched("omniglot"))

    def _official(self, archive: str, path: Path) -> dict[Name, Pixels]:
        found: dict[Name, dict[str, Pixels]] = {}
        for name, file, image in _drawings(path):
            if image.shape != (105, 105):
                raise DataError(f"{path}: {'/'.join(name)}/{file} is {image.shape}; drawings are of 105x105 pixels.")
            found.setdefault((archive, *name), {})[file] = box_average(255 - image[None], self.size)
        if not found:
            raise DataError(f"{path} holds no ALPHABET/characterNN/*.png. Get it again.")
        return {name: np.concatenate([drawings[file] for file in sorted(drawings)]) for name, drawings in found.items()}

    def _packed(self, file: Path, wanted: tuple[str, ...]) -> dict[Name, Pixels]:
        try:
            with np.load(file, allow_pickle=False) as archive:
                images, names = archive["images"], [str(n) for n in archive["names"]]
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{file} cannot be read as packed Omniglot (images, names): {error}.") from error
        right = images.ndim == 4 and images.dtype == np.uint8 and len(images) == len(names)
        if not right or images.shape[2] != images.shape[3] or images.shape[3] < self.size:
            raise DataError(
                f"{file} has images {images.dtype} {images.shape} and {len(names)} names; 8-bit images [characters, "
                f"drawings, side, side] of at least {self.size} pixels are needed, and a name for each character."
            )
        found = {}
        for name, drawings in zip(names, images, strict=True):
            parts = PurePosixPath(name).parts
            if len(parts) != 3:
                raise DataError(f"{file} has the name {name!r}; archive/alphabet/character is expected.")
            if parts[0] in wanted:
                found[parts] = drawings if drawings.shape[-1] == self.size else box_average(drawings, self.size)
        if {name[0] for name in found} != set(wanted):
            raise DataError(f"{file} does not hold {' and '.join(wanted)}. {fetched('omniglot')}")
        return found


def _drawings(path: Path) -> Iterator[tuple[tuple[str, str], str, Pixels]]:
    """Alphabet and character, file name and image of every drawing in a folder or a zip file."""
    if path.is_dir():
        for file in path.glob("*/character*/*.png"):
            match = MEMBER.search(file.as_posix())
            if match is not None and not file.name.startswith("."):
                yield (match["alphabet"], match["character"]), match["file"], decode(file, str(file), "L")
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                match = MEMBER.search(member)
                if (
                    match is not None
                    and not member.startswith("__MACOSX")
                    and not PurePosixPath(member).name.startswith(".")
                ):
                    with archive.open(member) as stream:
                        image = decode(stream, f"{path}, {member}", "L")
                    yield (match["alphabet"], match["character"]), match["file"], image
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read as a zip file: {error}. It may be cut short; get it again.") from error
