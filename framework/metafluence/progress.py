"""Progress of long work: the command line shows bars; any other listener can be set."""

from __future__ import annotations


class Observer:
    """Silent. Subclass it to show progress; stages do not nest."""

    def study(self, number: int, count: int, label: str) -> None:
        """One of several studies begins."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage begins; `total` steps, if that is known."""

    def step(self, done: int, total: int | None = None, note: str = "") -> None:
        """The current stage has come so far."""

    def done(self, note: str = "") -> None:
        """The current stage has ended."""


def duration(seconds: float) -> str:
    """In the unit that a person would choose."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} seconds"
