"""Mini-ImageNet, in the forms in which it is passed on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metafluence import DataError, InputError, Labelled, LabelledDataset, Source
from metafluence_plugins.datasets.files import folders, missing
from metafluence_plugins.datasets.image_folder import SPLITS, labelled_folder
from metafluence_plugins.datasets.images import ImageFiles, Side, numbered
from metafluence_plugins.datasets.packed import joined, labelled_arrays, with_indices
from metafluence_plugins.datasets.pickles import load_pickle

FOLDERS = ("mini-imagenet", "miniImagenet", "miniImageNet", "miniimagenet")
PICKLES = ("train_phase_train", "val", "test")
FORMS = (
    "train.csv, val.csv, test.csv and the folder images",
    "mini-imagenet-cache-{train,val,test}.pkl",
    f"miniImageNet_category_split_{{{','.join(PICKLES)}}}.pickle",
    "folders train, val and test",
)
NO_ADDRESS = (
    "Mini-ImageNet has no public address, because ImageNet's images may not be passed on. Get ImageNet's terms and "
    "images at https://image-net.org, or a packed form from someone who may give it to you, and put it in the folder "
    "mini-imagenet of your data folder."
)


@dataclass(frozen=True)
class MiniImageNet(LabelledDataset):
    """60,000 photographs in 100 classes (Vinyals et al. 2016), in the split of Ravi and Larochelle (2017), in colour.

    Read from the first of these that is in the root or its folder mini-imagenet: train.csv, val.csv and test.csv
    (filename,label) with the folder images; mini-imagenet-cache-{train,val,test}.pkl (`image_data`, `class_dict`);
    miniImageNet_category_split_{train_phase_train,val,test}.pickle (`data`, `labels`); folders train, val and test
    with a folder per class. size: of the squares; image files are scaled to it when drawn, packed ones have their own
    (84) and stay in 8 bits in memory (1.2 GiB for all three parts).
    """

    size: Side = 84
    root: str | None = None

    def sources(self) -> tuple[Source, ...]:
        raise InputError(NO_ADDRESS)

    def load(self) -> Labelled:
        places = folders(self.root, *FOLDERS)
        for place in places:
            lists = [place / f"{part}.csv" for part in SPLITS]
            caches = [_cache(place, part) for part in SPLITS]
            pickles = [place / f"miniImageNet_category_split_{part}.pickle" for part in PICKLES]
            if all(file.is_file() for file in lists):
                return self._from_lists(lists, place / "images")
            if all(file.is_file() for file in caches):
                return self._sized(labelled_arrays([with_indices(load_pickle(f, str(f)), f) for f in caches]), caches)
            if all(file.is_file() for file in pickles):
                return self._sized(labelled_arrays([joined(load_pickle(f, str(f)), f) for f in pickles]), pickles)
            if all((place / part).is_dir() for part in SPLITS):
                return labelled_folder(place, self.size, "RGB")
        raise missing("Mini-ImageNet", places, FORMS, NO_ADDRESS)

    def _from_lists(self, lists: Sequence[Path], images: Path) -> Labelled:
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
        splits, titles = (parts[0], parts[1], parts[2]), tuple(file.name for file in every)
        return Labelled(ImageFiles(every, "RGB", self.size), labels, tuple(names), splits, titles)

    def _sized(self, data: Labelled, files: Sequence[Path]) -> Labelled:
        size = data.inputs[data.labels[:1] * 0].shape[-1]
        if size != self.size:
            raise DataError(f"{files[0]} holds images of {size} pixels, not {self.size}. Set size: {size}.")
        return data


def _cache(place: Path, part: str) -> Path:
    """The validation part goes by two names."""
    other = place / "mini-imagenet-cache-validation.pkl"
    return other if part == "val" and other.is_file() else place / f"mini-imagenet-cache-{part}.pkl"


def _read_list(file: Path, images: Path) -> dict[str, list[Path]]:
    """By class, sorted, the image files of a list."""
    found: dict[str, dict[Path, None]] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            if not {"filename", "label"} <= set(rows.fieldnames or ()):
                raise DataError(
                    f"{file} has the columns {rows.fieldnames}; its first line needs filename and label. Add it."
                )
            for number, row in enumerate(rows, start=2):
                if not row["filename"] or not row["label"]:
                    raise DataError(
                        f"{file}, line {number} has no filename or no label. It may be cut short: get the list again."
                    )
                found.setdefault(row["label"], {})[images / row["filename"]] = None  # listed twice is there once
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as a list of images: {error}. Save it in UTF-8.") from error
    return {label: sorted(found[label]) for label in sorted(found)}
