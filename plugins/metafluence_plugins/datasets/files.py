"""Finding a data set's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metafluence import DataError, data_root


def folders(root: str | None, *names: str) -> list[Path]:
    """Where a data set called by `names` may be: folders of those names in the data root, then the root itself."""
    base = data_root(root)
    return [*(base / name for name in names), base]


def missing(what: str, places: Sequence[Path], forms: Sequence[str], fix: str) -> DataError:
    """What to raise where no form of a data set, each one or several files, is in any of the places."""
    listed = "\n".join(f"  {place.absolute()}" for place in places)
    return DataError(
        f"{what} was not found. Looked for {'; or '.join(forms)}; in\n{listed}\n{fix} If it is elsewhere, set the "
        "data set's root, or METAFLUENCE_DATA, to the folder that holds it."
    )


def fetched(name: str) -> str:
    """How to fix it where the files can be downloaded."""
    return f"Download it with `metafluence data fetch {name}`."
