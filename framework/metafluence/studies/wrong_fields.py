"""What is wrong with a field of a study, in a sentence: the field, the value, what is expected, how to fix it."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError

from metafluence.errors import InputError, nearest
from metafluence.registry import expected, field_names

SHOWN = 200
"""A value of more letters is cut."""


def sentences(model: type[BaseModel], raw: Mapping[str, Any], error: ValidationError, where: str) -> str:
    """A sentence for each field of `raw` that does not validate as `model`, one a line."""
    found = dict.fromkeys(_sentence(model, raw, dict(one), where) for one in error.errors())
    return "\n".join(found)


def no_field(path: str, known: Iterable[str]) -> str:
    """The sentence for a field that there is not."""
    names = sorted(known)
    close = nearest(path.rsplit(".", 1)[-1], names)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"there is no field {path!r}.{guess} Fields here: {', '.join(names)}."


def _sentence(model: type[BaseModel], raw: Mapping[str, Any], error: dict[str, Any], where: str) -> str:
    kind, place = error["type"], error["loc"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        owner = _resolved(model, place[:-1])[-1]
        return f"{where}: {no_field(_dotted(raw, place), _fields(owner))}"
    hints = _resolved(model, place)
    path = place[: len(hints) - 1]
    if kind in ("missing", "missing_argument") and _fields(hints[-2]):
        wanted = expected(hints[-1])
        return f"{where}: the field {_dotted(raw, path)!r} is missing. Add it: {wanted} is expected."
    if kind.startswith("missing"):  # a place of a list of fixed length
        hints, path = hints[:-1], path[:-1]
    reason = error.get("ctx", {}).get("error")
    own = (f"{_dotted(raw, path)}.", f"{_dotted(raw, path)} ") if path else ""
    if isinstance(reason, InputError) and str(reason).startswith(own):
        return f"{where}: {reason}"
    value = repr(_value(raw, path))
    value = value if len(value) <= SHOWN else f"{value[:SHOWN]}..."
    if reason is not None:
        return f"{where}: {_dotted(raw, path)} is {value}. {str(reason).rstrip('.')}."
    fix = f"Give one{_default(hints[-2], str(path[-1]))}."
    return f"{where}: {_dotted(raw, path)} is {value}, but {expected(hints[-1])} is expected. {fix}"


def _resolved(model: type, place: Sequence[Any]) -> list[Any]:
    """The annotations on the way to a place, from the model's own; pydantic's names for parts of a union end it."""
    hints: list[Any] = [model]
    for part in place:
        below = _below(hints[-1], part)
        if below is None:
            break
        hints.append(below)
    return hints


def _below(hint: Any, part: Any) -> Any:
    """The annotation of a part of a value of this annotation; None where there is no such part."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _below(arguments[0], part)
    if origin in (typing.Union, types.UnionType):
        found = [_below(a, part) for a in arguments if typing.get_origin(a) is not dict]
        return next((one for one in found if one is not None), None)
    if origin is list and isinstance(part, int):
        return arguments[0]
    if origin is tuple and isinstance(part, int):
        return arguments[part]
    if origin is dict and isinstance(part, str) and part != "[key]":
        return arguments[1]
    return typing.get_type_hints(hint, include_extras=True)[part] if part in field_names(hint) else None


def _fields(hint: Any) -> list[str]:
    """The fields of a class, or of the one in a union that has some."""
    return field_names(_owner(hint))


def _owner(hint: Any) -> Any:
    """The class with fields in a union that has one; else the annotation as it is."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next((one for one in typing.get_args(hint) if field_names(one)), hint)
    return hint


def _default(hint: Any, name: str) -> str:
    """That the field may be left out, where it may."""
    owner = _owner(hint)
    if name not in _fields(owner):
        return ""
    if dataclasses.is_dataclass(owner):
        default = next(f.default for f in dataclasses.fields(owner) if f.name == name)
    else:
        field = owner.model_fields[name]
        if field.is_required():
            return ""
        default = field.default
    plain = isinstance(default, int | float | str) and not isinstance(default, bool)
    return f", or leave the field out{f' for {default}' if plain else ''}"


def _steps(raw: Any, path: Sequence[Any]) -> list[tuple[str, Any]]:
    """The parts of a path as they are written, each with its value; what may be a list and is one value has none."""
    found = []
    for part in path:
        if isinstance(part, int) and not isinstance(raw, list | tuple):
            continue
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            raw = None
        found.append((str(part), raw))
    return found


def _dotted(raw: Any, path: Sequence[Any]) -> str:
    return ".".join(name for name, _ in _steps(raw, path))


def _value(raw: Any, path: Sequence[Any]) -> Any:
    steps = _steps(raw, path)
    return steps[-1][1] if steps else raw
