"""Downloading a data set's files from its publisher."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pooch
from requests import RequestException

from metafluence.errors import DataError
from metafluence.tasks.datasets import Source

Progress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes that are here, and how many there will be (0 where the server does not say)."""


def fetch_sources(sources: Sequence[Source], root: str | Path, progress: Progress) -> list[Path]:
    """Download into `root` what is not there yet; files with a checksum are checked, those there already too.

    A file takes its name only when it is complete and right: what is interrupted leaves nothing behind, and the next
    call goes on with the files that lack. Raises DataError naming the address, the reason and what to do.
    """
    logging.getLogger("pooch").setLevel(logging.WARNING)  # what it would say is said by `progress`
    return [_fetch(source, Path(root) / source.path, progress) for source in sources]


def _fetch(source: Source, file: Path, progress: Progress) -> Path:
    known = f"md5:{source.md5}" if source.md5 is not None else None
    try:
        # pooch takes any bar with these methods, which its annotations do not say.
        bar: Any = _Bar(file.name, progress)
        downloader: Any = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16)
        pooch.retrieve(source.url, known, file.name, file.parent, downloader=downloader)
    except ValueError as error:
        if not isinstance(error, RequestException):
            raise DataError(
                f"{source.url} is not the file that was published: its MD5 is not {source.md5}. Nothing was kept. "
                f"Try again later, or put a right copy at {file}."
            ) from error
        raise _failed(source, file, error) from error
    except (RequestException, OSError) as error:
        raise _failed(source, file, error) from error
    return file


def _failed(source: Source, file: Path, error: Exception) -> DataError:
    return DataError(
        f"{source.url} could not be downloaded to {file} ({type(error).__name__}: {error}). What was finished before "
        f"is kept. Try again, or put the file there yourself."
    )


class _Bar:
    """What pooch wants of a progress bar. It calls `reset` and one full `update` at the end."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.name, self.total, self._progress, self._done = name, 0, progress, 0

    def update(self, count: int) -> None:
        self._done += count
        self._progress(self.name, min(self._done, self.total) if self.total else self._done, self.total)

    def reset(self, **_: Any) -> None:
        self._done = 0

    def close(self) -> None:
        """Nothing to close."""
