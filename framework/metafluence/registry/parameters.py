"""Parameters of a component, validated by pydantic from its dataclass fields."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from metafluence.errors import ConfigError, nearest
from metafluence.registry.bounds import expected

PREFIX = "parameter_"
BuildPart = Callable[[str, Any, Any], Any]


def validate(cls: type, params: dict[str, Any], where: str, build_part: BuildPart) -> dict[str, Any]:
    """`params` as the fields' own types ("1e-10" becomes a float). Fields not given keep the class's defaults.

    build_part(name, annotation, value) turns the configuration of a nested component into that component.
    """
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for name in params:
        if name not in known:
            close = nearest(name, known)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{where} has no parameter {name!r}.{guess} {_all(known)}")
    required = [n for n, f in known.items() if f.default is f.default_factory is dataclasses.MISSING]
    for name in required:
        if name not in params:
            raise ConfigError(f"{where} needs the parameter {name!r}. Give it. {_all(known)}")
    hints = typing.get_type_hints(cls, include_extras=True)
    built = {name: build_part(name, hints[name], value) for name, value in params.items()}
    try:
        return checked(built, model_of({name: hints[name] for name in built}))
    except Refusal as refusal:
        name = refusal.name
        raise ConfigError(
            f"{where}: {name} is {built[name]!r}, but {expected(hints[name])} is expected ({refusal}). Give one. "
            f"{_all(known)}"
        ) from refusal


class Refusal(Exception):
    """A value that does not fit its annotation: the parameter's name, and why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


def checked(values: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Values as their annotations have them: "1e-10" becomes a float, a list a tuple. Raises Refusal for the first
    that does not fit, is a truth value where a number is due, or is not finite.
    """
    try:
        found = model.model_validate({PREFIX + name: value for name, value in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        raise Refusal(str(first["loc"][0]).removeprefix(PREFIX), _reason(first["msg"])) from error
    converted = {name: getattr(found, PREFIX + name) for name in values}
    for name, value in converted.items():
        if truth_as_number(values[name], value, name) is not None:
            raise Refusal(name, "a yes or no is not a number")
        if isinstance(value, bool) and not isinstance(values[name], bool):
            raise Refusal(name, "only true and false are truths")
    return converted


def model_of(hints: dict[str, Any]) -> type[BaseModel]:
    """The pydantic model of these parameters."""
    # The prefix keeps clear of the names that pydantic uses itself (copy, schema, model_config, _anything).
    fields: dict[str, Any] = {PREFIX + name: (hint, ...) for name, hint in hints.items()}
    return create_model(
        "Parameters", __config__=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False), **fields
    )


def _reason(message: str) -> str:
    return message[:1].lower() + message[1:]


def interface_kind(annotation: Any, interfaces: dict[str, type]) -> str | None:
    """The kind of component that an annotation asks for, alone or in a union."""
    for member in _members(annotation):
        for kind, interface in interfaces.items():
            if isinstance(member, type) and issubclass(member, interface):
                return kind
    return None


def truth_as_number(given: Any, checked: Any, path: str = "") -> str | None:
    """Where in `given` a truth value stands that `checked` has as a number, as pydantic reads True as 1; or None."""
    if isinstance(given, bool):
        return path if isinstance(checked, int | float) and not isinstance(checked, bool) else None
    pairs: list[tuple[Any, Any, Any]] = []
    if isinstance(given, dict) and isinstance(checked, dict):
        pairs = [(key, value, checked.get(key)) for key, value in given.items()]
    elif isinstance(given, list | tuple) and isinstance(checked, list | tuple):
        pairs = [(place, one, other) for place, (one, other) in enumerate(zip(given, checked, strict=False))]
    found = (truth_as_number(one, other, f"{path}.{key}") for key, one, other in pairs)
    return next((place for place in found if place is not None), None)


def _members(annotation: Any) -> tuple[Any, ...]:
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return tuple(type(a) for a in arguments)
    return arguments if arguments and typing.get_origin(annotation) is not tuple else (annotation,)


def _all(known: dict[str, dataclasses.Field[Any]]) -> str:
    def shown(f: dataclasses.Field[Any]) -> str:
        if f.default is not dataclasses.MISSING:
            return f"{f.name}={f.default!r}"
        if f.default_factory is not dataclasses.MISSING:
            return f"{f.name}={f.default_factory()!r}"
        return f.name

    return f"Parameters: {', '.join(shown(f) for f in known.values()) or 'none'}."
