"""Parts of a report that may fail without taking the rest down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.figure import Figure

from metafluence.reports.page import picture
from metafluence.runtime import warn

Made = TypeVar("Made")
Notice = Callable[[str], None]
"""Told in a sentence which part of a report could not be made, and why."""


class Attempts:
    """Makes the parts of one report: one that fails becomes a notice, and the report goes on without it.

    Args:
        notice: Told of each part that fails; a Python warning if not given.
    """

    def __init__(self, notice: Notice = warn) -> None:
        self._notice = notice
        self.notices: list[str] = []

    def make(self, what: str, part: Callable[[], Made], otherwise: Made) -> Made:
        """Make a part of the report.

        Args:
            what: The part in words.
            part: Makes it.
            otherwise: What stands in its place where it fails.
        """
        try:
            return part()
        except Exception as error:  # whatever fails here, the numbers behind it are computed and are to be seen
            self.notices.append(f"{what} could not be made: {type(error).__name__}: {error}")
            self._notice(self.notices[-1])
            return otherwise

    def picture(self, draw: Callable[[], Figure | None], title: str, caption: str, file: Path) -> dict[str, Any] | None:
        """Draw a figure for the page and into a file; None where there is nothing to draw, and where it fails."""

        def drawn() -> dict[str, Any] | None:
            figure = draw()
            return None if figure is None else picture(figure, title, caption, file)

        return self.make(f"The figure {file.name}", drawn, None)
