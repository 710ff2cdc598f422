"""Bounds of numbers, declared beside their types: `rtol: Tolerance = 1e-8`.

An alias is a type and the interval its values lie in. Other intervals are written out in the same way, with pydantic's
constraints: `Annotated[int, Field(ge=2, le=64)]`. A test reads every shipped component for numbers without bounds.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from typing import Annotated, Any

from pydantic import Field
from pydantic.fields import FieldInfo

LARGEST = 1e15
"""Added to a number this large, one of ordinary size is lost to rounding in double precision."""
MOST = 10**9
"""More of anything than a machine can count through or hold."""

Count = Annotated[int, Field(ge=1, le=MOST)]
"""How many of something that must not be none."""
Ways = Annotated[int, Field(ge=1, le=10**4)]
"""How many classes or target values a learner tells apart: as many as episodes can have."""
Whole = Annotated[int, Field(ge=0, le=MOST)]
"""How many of something that may be none."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What torch.Generator takes as a seed."""
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Finite = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, which may be none of it or all."""
Tolerance = Annotated[float, Field(gt=0, lt=1)]
"""A relative error: at 1 the answer zero would do."""
Decay = Annotated[float, Field(ge=0, lt=1)]
"""The weight of the past in a running average."""

ALIASES = {
    "Count": Count,
    "Ways": Ways,
    "Whole": Whole,
    "Seed": Seed,
    "Positive": Positive,
    "NonNegative": NonNegative,
    "Finite": Finite,
    "Share": Share,
    "Tolerance": Tolerance,
    "Decay": Decay,
}


def shown_type(text: str) -> str:
    """An annotation as it is written in the source, with the interval of each alias: `Tolerance | None` becomes
    `float in (0, 1) | None`.
    """
    return re.sub(rf"\b({'|'.join(ALIASES)})\b", lambda found: _interval(ALIASES[found[0]]), text)


def expected(hint: Any) -> str:
    """An annotation in words: "a number above 0 and below 1"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        said = next((extra.description for extra in arguments[1:] if _is_field(extra) and extra.description), None)
        words = said or f"{expected(arguments[0])} {' and '.join(_words(hint))}".rstrip()
        return words.replace("a list,", "a list of one or more,", 1) if _constraints(hint, "min_length") else words
    if origin in (typing.Union, types.UnionType):
        return " or ".join(expected(a) for a in arguments)
    if origin is typing.Literal:
        return " or ".join(repr(a) for a in arguments)
    if origin is tuple and arguments[-1:] != (...,):
        each = [expected(a) for a in arguments]
        alike = len({*each}) == 1
        return f"a list of {len(each)}, each {each[0]}" if alike else f"a list of {len(each)}: {', '.join(each)}"
    if origin in (tuple, list):
        return f"a list, each {expected(arguments[0])}"
    return _named(hint)


def _named(hint: Any) -> str:
    """A single type in words."""
    if fields := field_names(hint):
        return f"a mapping with any of {', '.join(fields)},"
    named = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", types.NoneType: "none"}
    return named.get(hint) or (str(hint) if typing.get_args(hint) else getattr(hint, "__name__", str(hint)))


def field_names(hint: Any) -> list[str]:
    """The fields of a dataclass or of a pydantic model; none of any other type."""
    if dataclasses.is_dataclass(hint):
        return [f.name for f in dataclasses.fields(hint)]
    return list(getattr(hint, "model_fields", ()))


def limits(hint: Any) -> dict[str, float]:
    """The constraints of an Annotated number by their names in pydantic: gt, ge, lt, le."""
    return _constraints(hint, "gt", "ge", "lt", "le")


def is_number(hint: Any) -> bool:
    """Whether values of this type are numbers, or plain collections or choices that have some."""
    return _is_plain(hint) and bool({int, float} & {*_leaves(hint)})


def is_checked(hint: Any) -> bool:
    """Whether values of this type can be checked as they stand: numbers, choices, truths, or plain collections."""
    return _is_plain(hint) and bool({int, float, bool, typing.Literal} & {*_leaves(hint)})


_PLAIN = (int, float, bool, str, types.NoneType, typing.Literal)


def _is_plain(hint: Any) -> bool:
    return all(leaf in _PLAIN for leaf in _leaves(hint))


def _leaves(hint: Any) -> typing.Iterator[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        yield typing.Literal
    elif origin is Annotated:
        yield from _leaves(arguments[0])
    elif origin in (typing.Union, types.UnionType, tuple, list, dict):
        for argument in arguments:
            if argument is not ...:
                yield from _leaves(argument)
    else:
        yield hint


def _constraints(hint: Any, *names: str) -> dict[str, float]:
    metadata = [m for extra in typing.get_args(hint)[1:] for m in (extra.metadata if _is_field(extra) else [extra])]
    return {name: getattr(m, name) for m in metadata for name in names if hasattr(m, name)}


def _is_field(extra: Any) -> typing.TypeGuard[FieldInfo]:
    return isinstance(extra, FieldInfo)


def _words(hint: Any) -> list[str]:
    names = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    return [f"{names[name]} {_number(value)}" for name, value in limits(hint).items()]


def _interval(hint: Any) -> str:
    found = limits(hint)
    low = f"({_number(found['gt'])}" if "gt" in found else f"[{_number(found['ge'])}"
    high = f"{_number(found['lt'])})" if "lt" in found else f"{_number(found['le'])}]"
    return f"{typing.get_args(hint)[0].__name__} in {low}, {high}"


def _number(value: float) -> str:
    return re.sub(r"e\+0*", "e", f"{value:g}")
