"""The error tree. Every message says what is wrong, where, and how to fix it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class MetafluenceError(Exception):
    """Base of every error that metafluence raises on purpose."""


class InputError(MetafluenceError, ValueError):
    """Something the user gave cannot be used: a value, a tensor, a file. The command line exits with 2."""


class ConfigError(InputError):
    """A study or a component's parameters do not validate."""


class RemovalError(InputError):
    """A learner that cannot do without the items of weight zero, as without the last support instance of a class."""


class UnknownNameError(InputError):
    """A name that no registry knows."""

    def __init__(self, what: str, asked: str, known: Iterable[str], hint: str = "") -> None:
        super().__init__(unknown(what, asked, known, hint))


class RegistryError(InputError):
    """A catalogue that contradicts itself, or a component that cannot be loaded."""


class DataError(InputError):
    """A data set that is missing, unreadable or malformed."""


class SolverError(MetafluenceError):
    """A linear solve that cannot be done, or was done badly. The message says how to fix it."""


class ConvergenceError(MetafluenceError):
    """An optimisation that did not reach its tolerance."""


class ExecutorError(MetafluenceError):
    """Work that cannot be run elsewhere: workers that die of it, or a cluster that does not answer."""


class StoreError(MetafluenceError):
    """Stored work that does not belong to what is being asked."""


class BankError(MetafluenceError):
    """A bank of retrainings that is damaged, or that its study does not give again."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's own error, or torch's for a processor or a GPU."""
    told = isinstance(error, RuntimeError) and re.search("out of memory|can't allocate memory", str(error))
    return isinstance(error, MemoryError) or bool(told)


def in_words(error: BaseException) -> str:
    """The reason of a failure: the message of an error of ours, the type and the message of any other."""
    if isinstance(error, MetafluenceError):
        return str(error)
    if out_of_memory(error):
        return (
            f"Memory ran out ({type(error).__name__}: {error}). Lower `memory_gib`, or take fewer `jobs`, fewer or "
            "smaller tasks, or a smaller network."
        )
    return f"{type(error).__name__}: {error}"


ALIKE = 0.65
"""How alike two names must be, as difflib counts, for one to be a guess at the other: `exec` is .67 of `executor`, and
`planet` .62 of `learner`."""


def nearest(asked: str, known: Iterable[str]) -> list[str]:
    """Up to three names of `known` that look like `asked`, nearest first; none where all are far from it."""
    return difflib.get_close_matches(asked, list(known), n=3, cutoff=ALIKE)


def unknown(what: str, asked: str, known: Iterable[str], hint: str = "") -> str:
    """The sentence for an unknown name: what was asked, the nearest names, all names."""
    names = sorted(known)
    close = nearest(asked, names)
    guess = f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
    choice = f" Known: {', '.join(names)}." if names else " None is known."
    return f"Unknown {what} {asked!r}.{guess}{choice}" + (f" {hint}" if hint else "")
