"""Images: decoding files, scaling them, and holding many without copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import Field
from torch import Tensor

from metafluence import DataError

Pixels = NDArray[np.uint8]
Side = Annotated[int, Field(ge=1, le=4096)]
"""Height and width in pixels of the squares that images are scaled to."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


def decode(source: Any, name: str, mode: str, size: int | None = None) -> Pixels:
    """One image file as [height, width] (mode L) or [height, width, 3] (RGB); source: a path or an open file.

    size: scaled to a square of this side by Lanczos's filter, whatever its shape. Raises DataError naming the file.
    """
    try:
        with Image.open(source) as image:
            found = image.convert(mode)
    except FileNotFoundError as error:
        raise DataError(
            f"There is no image {name}, which the data set lists. Add it, or take it off the list."
        ) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} cannot be read as an image: {error}. Replace or remove the file.") from error
    if size is not None and found.size != (size, size):
        found = found.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(found)


def box_average(images: Pixels, size: int) -> Pixels:
    """Images [n, s, s] or [n, s, s, 3] scaled to [n, size, size, ...]: a new pixel is the mean of those it covers."""
    scaled = [Image.fromarray(image).resize((size, size), Image.Resampling.BOX) for image in images]
    return np.stack([np.asarray(image) for image in scaled])


@dataclass(frozen=True)
class Arrays:
    """8-bit images in several arrays [n_i, height, width, channels], as one, without joining them in memory."""

    parts: tuple[Pixels, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """[k, channels, height, width]."""
        numbers = index.numpy()
        starts = np.cumsum([0, *(len(part) for part in self.parts)])
        found = np.empty((len(numbers), *self.parts[0].shape[1:]), dtype=np.uint8)
        for part, start, stop in zip(self.parts, starts[:-1], starts[1:], strict=True):
            here = (numbers >= start) & (numbers < stop)
            found[here] = part[numbers[here] - start]
        return torch.from_numpy(found).movedim(-1, 1).contiguous()


@dataclass(frozen=True)
class ImageFiles:
    """Image files, each decoded when it is drawn, to [channels, size, size] in 8 bits."""

    files: tuple[Path, ...]
    mode: str
    size: int

    def __len__(self) -> int:
        return len(self.files)

    @property
    def nbytes(self) -> int:
        return 0

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """[k, channels, size, size]."""
        files = [self.files[i] for i in index.tolist()]
        found = np.stack([decode(file, str(file), self.mode, self.size) for file in files])
        images = torch.from_numpy(found)
        return images.unsqueeze(1) if images.dim() == 3 else images.movedim(-1, 1).contiguous()


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and below, sorted by name."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def class_folders(folder: Path, keep: Callable[[str], bool] = lambda _: True) -> dict[str, list[Path]]:
    """By the name of each folder in `folder`, sorted, the images below it. Raises DataError where a class has none."""
    found = {sub.name: images_below(sub) for sub in sorted(folder.iterdir()) if sub.is_dir() and keep(sub.name)}
    for name, files in found.items():
        if not files:
            raise DataError(f"{folder / name} holds no images ({', '.join(SUFFIXES)}). Add some or remove the folder.")
    return found


def numbered(counts: Sequence[int]) -> Tensor:
    """Labels of instances that stand class by class, so many of each."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
