"""Where results go: checked before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path

from metafluence.errors import InputError


def check_folder(folder: Path, option: str = "--out") -> Path:
    """A folder that is there or can be made. Raises InputError where it cannot be written to."""
    place = folder.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.exists():
        raise InputError(f"{option} is {folder}, but {place} is a link that leads nowhere. Name another folder.")
    if not place.is_dir():
        raise InputError(f"{option} is {folder}, but {place} is a file. Name a folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{option} is {folder}, but {place} cannot be written to. Name another folder.")
    return folder


def check_file(file: Path, option: str) -> Path:
    """A file that can be written. Raises InputError where it is a folder or its folder cannot be written to."""
    if file.is_dir():
        raise InputError(f"{option} is {file}, which is a folder. Name a file in it.")
    check_folder(file.absolute().parent, option)
    return file
