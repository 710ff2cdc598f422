"""Images: decoding files, scaling them, and holding many without copies."""

from __future__ import annotations

from abc import ABC, abstractmethod
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


GROUND = 255
"""Transparent parts are laid on white, as on a page."""


def decode(source: Any, name: str, mode: str, size: int | None = None) -> Pixels:
    """One image file as [height, width] (mode L) or [height, width, 3] (RGB); source: a path or an open file.

    Grey of 16 bits is divided by 257, so that its largest value becomes 255. Transparent parts are laid on white
    (`GROUND`). Of several frames the first is taken. With `size` it is scaled to a square of this side by Lanczos's
    filter, whatever its shape. Raises DataError naming the file where there is none, where it is no image, or where its
    pixels have no fixed range (32-bit integers or floating point).
    """
    try:
        with Image.open(source) as image:
            found = _in_8_bits(image, name).convert(mode)
    except FileNotFoundError as error:
        raise DataError(
            f"There is no image {name}, which the data set lists. Add it, or take it off the list."
        ) from error
    except DataError:
        raise
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} cannot be read as an image: {error}. Replace or remove the file.") from error
    if size is not None and found.size != (size, size):
        found = found.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(found)


def _in_8_bits(image: Image.Image, name: str) -> Image.Image:
    """An image of a mode that `convert` takes to 8 bits rightly."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.float64) / 257  # 65535 = 257 * 255; Pillow's own conversion clips
        return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(
            f"{name} has pixels of mode {image.mode}, which have no fixed range. Save it with 8 or 16 bits a channel."
        )
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        drawn = image.convert("RGBA")
        ground = Image.new("RGBA", drawn.size, (GROUND, GROUND, GROUND, 255))
        return Image.alpha_composite(ground, drawn).convert("RGB")
    return image.convert("RGB") if image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "P", "RGBX") else image


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


class Decoded(ABC):
    """Images that are decoded when they are drawn, to [channels, size, size] in 8 bits."""

    files: Any  # a sequence of what `decoded` decodes

    @abstractmethod
    def decoded(self, number: int) -> Pixels:
        """One image: [size, size] or [size, size, 3]."""

    def __len__(self) -> int:
        return len(self.files)

    @property
    def nbytes(self) -> int:
        return 0

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """[k, channels, size, size]."""
        images = torch.from_numpy(np.stack([self.decoded(i) for i in index.tolist()]))
        return images.unsqueeze(1) if images.dim() == 3 else images.movedim(-1, 1).contiguous()


@dataclass(frozen=True)
class ImageFiles(Decoded):
    """Image files."""

    files: tuple[Path, ...]
    mode: str
    size: int

    def decoded(self, number: int) -> Pixels:
        file = self.files[number]
        return decode(file, str(file), self.mode, self.size)


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and below, sorted by name."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and _shown(p, folder))


def _shown(path: Path, folder: Path) -> bool:
    """Whether nothing between `folder` and a path is hidden or left there by a program: .ipynb_checkpoints, __MACOSX,
    ._name, Thumbs.db.
    """
    return not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)


def class_folders(folder: Path, keep: Callable[[str], bool] = lambda _: True) -> dict[str, list[Path]]:
    """By the name of each folder in `folder`, sorted, the images below it. Raises DataError where a class has none."""
    found = {
        sub.name: images_below(sub)
        for sub in sorted(folder.iterdir())
        if sub.is_dir() and keep(sub.name) and _shown(sub, folder)
    }
    for name, files in found.items():
        if not files:
            raise DataError(f"{folder / name} holds no images ({', '.join(SUFFIXES)}). Add some or remove the folder.")
    return found


def numbered(counts: Sequence[int]) -> Tensor:
    """Labels of instances that stand class by class, so many of each."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
