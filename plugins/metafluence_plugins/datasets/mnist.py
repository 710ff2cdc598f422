"""MNIST and the data sets that come in its format."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field

from metafluence import DataError, Labelled, LabelledDataset, Source
from metafluence_plugins.datasets.files import fetched, folders, missing
from metafluence_plugins.datasets.images import Pixels, box_average


class _Variant(NamedTuple):
    folders: tuple[str, ...]
    address: str
    md5: tuple[str, str, str, str]
    classes: tuple[str, ...]


FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
# Checksums as torchvision has them.
VARIANTS = {
    "mnist": _Variant(
        ("MNIST/raw", "mnist/raw", "mnist"),
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        tuple("0123456789"),
    ),
    "fashion-mnist": _Variant(
        ("FashionMNIST/raw", "fashion-mnist/raw", "fashion-mnist"),
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": _Variant(
        ("KMNIST/raw", "kmnist/raw", "kmnist"),
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        (
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
}


@dataclass(frozen=True)
class MNIST(LabelledDataset):
    """70,000 images of 28x28 pixels in 10 classes, ink bright, as [1, size, size] (LeCun et al. 1998).

    variant: `mnist`, `fashion-mnist` (Xiao et al. 2017) or `kmnist` (Clanuwat et al. 2018), all of one format. part:
    the 60,000 images published for training, the 10,000 for testing, or all together. Files are the idx files, plain
    or .gz, in a folder of the variant's name, of torchvision's (such as MNIST/raw), or, if root is given, in it. size:
    images are scaled down to it by box average.
    """

    variant: Literal["mnist", "fashion-mnist", "kmnist"] = "mnist"
    part: Literal["train", "test", "all"] = "all"
    size: Annotated[int, Field(ge=1, le=28)] = 28
    root: str | None = None

    def sources(self) -> tuple[Source, ...]:
        of = VARIANTS[self.variant]
        named = zip(FILES, of.md5, strict=True)
        return tuple(Source(f"{of.address}{f}.gz", f"{self.variant}/{f}.gz", md5) for f, md5 in named)

    def load(self) -> Labelled:
        parts = {"train": FILES[:2], "test": FILES[2:], "all": FILES}[self.part]
        files = [self._find(name) for name in parts]
        images, labels = [], []
        for pictures, classes in zip(files[::2], files[1::2], strict=True):
            images.append(read_idx(pictures, 3))
            labels.append(read_idx(classes, 1))
            if len(images[-1]) != len(labels[-1]):
                raise DataError(f"{pictures} has {len(images[-1])} images, {classes} {len(labels[-1])} labels.")
            if labels[-1].size and int(labels[-1].max()) > 9:
                raise DataError(f"{classes} has the label {labels[-1].max()}; labels run from 0 to 9. Get it again.")
        pixels = np.concatenate(images)
        if pixels.shape[-1] != self.size:
            pixels = box_average(pixels, self.size)
        inputs, numbers = torch.from_numpy(pixels), torch.from_numpy(np.concatenate(labels))
        return Labelled(inputs.unsqueeze(1), numbers.long(), VARIANTS[self.variant].classes)

    def _find(self, name: str) -> Path:
        places = folders(self.root, *VARIANTS[self.variant].folders)
        if self.root is None:
            places.pop()  # the three variants' files have the same names, so a folder of all data says nothing
        for file in (place / f for place in places for f in (name, f"{name}.gz")):
            if file.is_file():
                return file
        raise missing(self.variant, places, [name, f"{name}.gz"], fetched(self.variant))


def read_idx(file: Path, dimensions: int) -> Pixels:
    """An idx file of 8-bit integers, plain or .gz. Raises DataError where it is something else or not whole."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            header = stream.read(4 + 4 * dimensions)
            if header[:4] != bytes([0, 0, 8, dimensions]) or len(header) < 4 + 4 * dimensions:
                raise DataError(
                    f"{file} is no idx file of 8-bit integers in {dimensions} dimension(s): it begins with "
                    f"{header[:4].hex() or 'nothing'}. Get it again."
                )
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size = int(np.prod(shape, dtype=object))
            found = bytearray()
            while chunk := stream.read(min(size + 1 - len(found), 2**24)):  # no more than the header says, and one
                found += chunk
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}. It may be cut short; get it again.") from error
    if len(found) != size:
        least = "more" if len(found) > size else f"only {len(found):,}"
        raise DataError(f"{file} says it has {size:,} values, but there are {least}. Get it again.")
    return np.frombuffer(found, dtype=np.uint8).reshape(shape)
