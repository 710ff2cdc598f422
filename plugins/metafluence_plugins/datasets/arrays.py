"""Arrays in .npz archives: what they may be, and how what is not is named."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metafluence import DataError

Array = NDArray[Any]


def read_archive(file: Path, keys: Sequence[str]) -> tuple[list[str], dict[str, Array]]:
    """The names in an archive, and those arrays of `keys` that are there, in this machine's byte order.

    Raises:
        DataError: the file is no .npz archive, is encrypted or cut short, or an array holds Python objects or records.
    """
    try:
        loaded = np.load(file, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise DataError(
                f"{file} is a single array (.npy), not an .npz archive. Make one with numpy.savez(file, images=..., "
                "labels=...)."
            )
        with loaded as archive:
            held = sorted(archive.files)
            found: dict[str, Array] = {key: archive[key] for key in keys if key in held}
    except DataError:
        raise
    except (OSError, ValueError, EOFError, RuntimeError, MemoryError, SyntaxError) as error:
        raise _unreadable(file, error) from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, KeyError, pickle.UnpicklingError) as error:
        raise _unreadable(file, error) from error
    for key, values in found.items():
        if values.dtype.fields is not None or values.dtype.kind not in "biufSU":
            raise DataError(f"{file}: {key} has values of type {values.dtype}. Save numbers, or texts for labels.")
    return held, {key: np.asarray(_native(values), order="C") for key, values in found.items()}


def class_labels(labels: Array, key: str, file: Path) -> Array:
    """Labels [n] from [n] or [n, 1], whole numbers or texts. Raises DataError for one-hot rows and anything else."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        fix = f"{key}.argmax(axis=1)" if labels.ndim == 2 else "one label for each image"
        raise DataError(f"{file}: {key} has shape {list(labels.shape)}; labels are [n]. Save {fix}.")
    if labels.dtype.kind == "f":
        if not bool(np.isfinite(labels).all()) or bool((labels != labels.round()).any()):
            raise DataError(f"{file}: {key} has real values, which are no classes. Save whole numbers or texts.")
        return labels.astype(np.int64)
    return labels


def image_values(images: Array, key: str, file: Path) -> Array:
    """Inputs [n, ...] of numbers that torch has. Raises DataError for texts, too few dimensions, alpha, and NaN."""
    if images.dtype.kind not in "biuf":
        raise DataError(f"{file}: {key} has values of type {images.dtype}; inputs are numbers. Save numbers.")
    if images.ndim < 2:
        raise DataError(f"{file}: {key} has shape {list(images.shape)}; inputs are [n, ...]. Add the first dimension.")
    if images.ndim == 4 and images.shape[3] == 4 and images.shape[1] != 4:
        raise DataError(
            f"{file}: {key} has shape {list(images.shape)}, so colours with an alpha channel. Lay the images on a "
            "ground and save [n, h, w, 3]."
        )
    if images.dtype.kind == "f" and not bool(np.isfinite(images).all()):
        raise DataError(f"{file}: {key} has NaN or infinite values. Remove or fill them.")
    if images.dtype == np.uint16:
        return (images / 65535).astype(np.float32)
    return images.astype(np.float32) if images.dtype.kind in "biu" and images.dtype != np.uint8 else images


def _native(values: Array) -> Array:
    return values.astype(values.dtype.newbyteorder("=")) if values.dtype.kind in "iufU" else values


def _unreadable(file: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split()).rstrip(".")
    return DataError(f"{file} cannot be read as an .npz archive: {reason}. Make it anew, without a password.")
