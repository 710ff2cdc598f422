"""Mini-ImageNet, in the forms in which it is passed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metafluence import DataError, InputError, Labelled, LabelledDataset, Source
from metafluence_plugins.datasets.files import folders, missing
from metafluence_plugins.datasets.image_folder import SPLITS, labelled_folder
from metafluence_plugins.datasets.image_lists import listed_images
from metafluence_plugins.datasets.images import Side
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
                return listed_images(lists, place / "images", self.size, "RGB")
            if all(file.is_file() for file in caches):
                return self._sized(labelled_arrays([with_indices(load_pickle(f, str(f)), f) for f in caches]), caches)
            if all(file.is_file() for file in pickles):
                return self._sized(labelled_arrays([joined(load_pickle(f, str(f)), f) for f in pickles]), pickles)
            if all((place / part).is_dir() for part in SPLITS):
                return labelled_folder(place, self.size, "RGB")
        raise missing("Mini-ImageNet", places, FORMS, NO_ADDRESS)

    def _sized(self, data: Labelled, files: Sequence[Path]) -> Labelled:
        size = data.inputs[data.labels[:1] * 0].shape[-1]
        if size != self.size:
            raise DataError(f"{files[0]} holds images of {size} pixels, not {self.size}. Set size: {size}.")
        return data


def _cache(place: Path, part: str) -> Path:
    """The validation part goes by two names."""
    other = place / "mini-imagenet-cache-validation.pkl"
    return other if part == "val" and other.is_file() else place / f"mini-imagenet-cache-{part}.pkl"
