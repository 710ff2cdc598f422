"""What a suite finds wrong, in a sentence: what every component of the kind promises, and what this one does."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis.errors import HypothesisException


class Fault(str):
    """A sentence that begins with the check's name. `traceback`: of the error behind it, as text."""

    traceback: str = ""

    @classmethod
    def of(cls, check: str, where: str, promise: str, error: BaseException, component: Any) -> Fault:
        told = cls(f"{check}{f', {where}' if where else ''}: {promise} {_happened(error, component)}")
        told.traceback = "".join(traceback.format_exception(error))
        return told


class FaultError(AssertionError):
    """A check that does not hold: its message is the fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


@contextmanager
def judged(check: str, promise: Any, component: Any, where: str = "", hint: Callable[[], str] = str) -> Iterator[None]:
    """Raise what goes wrong inside as a FaultError.

    promise: the check's function, whose docstring says what it looks for. hint: a sentence to add.
    """
    try:
        yield
    except (HypothesisException, FaultError):
        raise
    except (Exception, pytest.fail.Exception) as error:
        fault = Fault.of(check, where, promised(promise), error, component)
        more = hint()
        if more:
            longer = Fault(f"{fault} {more}")
            longer.traceback, fault = fault.traceback, longer
        raise FaultError(fault) from error


def found_by(run: Callable[[], None]) -> list[Fault]:
    """The fault that a judged check raises, if it does."""
    try:
        run()
    except FaultError as error:
        return [error.fault]
    return []


def promised(check: Any) -> str:
    """The first paragraph of a check's docstring."""
    function = check.func if isinstance(check, partial) else check
    return " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())


def _happened(error: BaseException, component: Any) -> str:
    """What was seen. An error that no check raises names the line of the component's own file."""
    told = " ".join(str(error).split()).rstrip(".")
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, AssertionError | pytest.fail.Exception):
        return f"Here: {told or f'not so, `{frames[-1].line}`'}."
    try:
        own = inspect.getfile(type(component))
    except TypeError:  # a class made in a console
        own = ""
    line = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
    place = f"{line.filename.rpartition('/')[2]}, line {line.lineno}"
    return f"It raised {type(error).__name__}{f': {told}' if told else ''} ({place})."
