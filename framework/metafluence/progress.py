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
