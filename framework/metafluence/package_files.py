"""Files that ship with the package."""

from __future__ import annotations

from pathlib import Path

from metafluence.errors import RegistryError

PACKAGE = Path(__file__).resolve().parent


def resource(name: str) -> Path:
    """The path of a shipped file: beside the package in a wheel, at the source root in an editable checkout."""
    for root in (PACKAGE, PACKAGE.parents[1]):
        if (root / name).is_file():
            return root / name
    raise RegistryError(f"The installation lacks its file {name} (looked in {PACKAGE}). Install metafluence again.")
