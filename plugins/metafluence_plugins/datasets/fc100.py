"""FC100: the classes of CIFAR-100, split by superclass."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metafluence import DataError, Labelled, LabelledDataset, Source
from metafluence_plugins.datasets.files import fetched, folders, missing
from metafluence_plugins.datasets.images import Arrays, Pixels
from metafluence_plugins.datasets.packed import joined, labelled_arrays
from metafluence_plugins.datasets.pickles import load_pickle

# Superclasses of CIFAR-100, by number, of each part (Oreshkin et al. 2018, appendix).
SUPERCLASSES = ((1, 2, 3, 4, 5, 6, 9, 10, 15, 17, 18, 19), (8, 11, 13, 16), (0, 7, 12, 14))
CIFAR = "cifar-100-python"


@dataclass(frozen=True)
class FC100(LabelledDataset):
    """60,000 photographs of 32x32 pixels in 100 classes, as [3, 32, 32] in 8 bits (Oreshkin et al. 2018).

    The published split has 60 classes for training, 20 for validation and 20 for testing, with no superclass in two
    parts. Read from FC100_train.pickle, FC100_val.pickle and FC100_test.pickle (`data`, `labels`), else from CIFAR-100
    (its training and test images together): the folder or the archive cifar-100-python, in the root or in its folder
    FC100 or fc100. All of it takes 176 MiB.
    """

    root: str | None = None

    def sources(self) -> tuple[Source, ...]:
        address = f"https://www.cs.toronto.edu/~kriz/{CIFAR}.tar.gz"
        return (Source(address, f"{CIFAR}.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),)

    def load(self) -> Labelled:
        places = folders(self.root, "FC100", "fc100")
        for place in places:
            files = [place / f"FC100_{part}.pickle" for part in ("train", "val", "test")]
            if all(file.is_file() for file in files):
                return labelled_arrays([joined(load_pickle(file, str(file)), file) for file in files])
        for source in (place / name for place in places for name in (CIFAR, f"{CIFAR}.tar.gz")):
            if source.exists():
                return _by_superclass(source)
        forms = ["FC100_{train,val,test}.pickle", f"the folder {CIFAR}", f"{CIFAR}.tar.gz"]
        raise missing("FC100", places, forms, fetched("fc100"))


def _by_superclass(source: Path) -> Labelled:
    names = _member(source, "meta")
    classes = _entry(names, "fine_label_names", f"{source}, meta")
    images: list[Pixels] = []
    fine: list[int] = []
    coarse: list[int] = []
    for name in ("train", "test"):
        content, where = _member(source, name), f"{source}, {name}"
        data = _entry(content, "data", where)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
            raise DataError(f"{where}: data is no array of 8-bit images [n, 3072]. Get it again.")
        images.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        fine += _entry(content, "fine_labels", where)
        coarse += _entry(content, "coarse_labels", where)
    counts = sum(len(part) for part in images), len(fine), len(coarse)
    if len(set(counts)) > 1 or not all(0 <= label < len(classes) for label in fine):
        raise DataError(f"{source}: images, fine and coarse labels are {counts}, or a label has no name. Get it again.")
    above = dict(zip(fine, coarse, strict=True))
    train, validation, test = ([c for c in sorted(above) if above[c] in part] for part in SUPERCLASSES)
    inputs = Arrays(tuple(images))
    return Labelled(inputs, torch.tensor(fine, dtype=torch.int64), tuple(classes), (train, validation, test))


def _entry(content: Any, key: str, where: str) -> Any:
    if not isinstance(content, dict) or key not in content:
        raise DataError(f"{where}: the entry {key!r} is not there. It is another file; CIFAR-100's is needed.")
    return content[key]


def _member(source: Path, name: str) -> Any:
    """A pickle of CIFAR-100, from its folder or straight from the archive."""
    where = f"{source}, {name}"
    if source.is_dir():
        if not (source / name).is_file():
            raise DataError(f"{source} has no file {name}. {fetched('fc100')}")
        return load_pickle(source / name, where)
    try:
        with tarfile.open(source) as archive:
            stream = archive.extractfile(f"{CIFAR}/{name}")
            if stream is None:
                raise DataError(f"{where} is no file. {fetched('fc100')}")
            return load_pickle(stream, where)
    except KeyError as error:
        raise DataError(f"{source} has no file {CIFAR}/{name}. {fetched('fc100')}") from error
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(
            f"{source} cannot be read as an archive: {error}. It may be cut short; get it again."
        ) from error
