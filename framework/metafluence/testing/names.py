"""Names of checks: one that there is not would leave out nothing, or test nothing, in silence."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from metafluence import UnknownNameError


def known_names(what: str, asked: Collection[str], known: Iterable[str]) -> tuple[str, ...]:
    """`asked` as a tuple. Raises UnknownNameError with the nearest names for the first that is not among `known`."""
    names = tuple(known)
    listed = (asked,) if isinstance(asked, str) else tuple(asked)
    for name in listed:
        if name not in names:
            raise UnknownNameError(what, name, names)
    return listed
