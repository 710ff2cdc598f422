"""Parameters of a component, validated by pydantic from its dataclass fields."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

from pydantic import ConfigDict, ValidationError, create_model

from metafluence.errors import ConfigError, nearest

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
            raise ConfigError(f"{where} needs the parameter {name!r}. {_all(known)}")
    hints = typing.get_type_hints(cls)
    built = {name: build_part(name, hints[name], value) for name, value in params.items()}
    # The prefix keeps clear of the names that pydantic uses itself (copy, schema, model_config, _anything).
    fields: dict[str, Any] = {PREFIX + name: (hints[name], ...) for name in built}
    model = create_model("Parameters", __config__=ConfigDict(arbitrary_types_allowed=True), **fields)
    try:
        checked = model.model_validate({PREFIX + name: value for name, value in built.items()})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).removeprefix(PREFIX)
        raise ConfigError(_wrong(where, name, built[name], hints[name], first["msg"], known)) from error
    values = {name: getattr(checked, PREFIX + name) for name in built}
    for name, value in values.items():
        if _truth_became_number(built[name], value):
            raise ConfigError(_wrong(where, name, built[name], hints[name], "a yes or no is not a number", known))
    return values


def interface_kind(annotation: Any, interfaces: dict[str, type]) -> str | None:
    """The kind of component that an annotation asks for, alone or in a union."""
    for member in _members(annotation):
        for kind, interface in interfaces.items():
            if isinstance(member, type) and issubclass(member, interface):
                return kind
    return None


def _truth_became_number(given: Any, checked: Any) -> bool:
    """Pydantic reads True as 1, also inside a list."""
    if isinstance(given, bool):
        return isinstance(checked, int | float) and not isinstance(checked, bool)
    if isinstance(given, dict) and isinstance(checked, dict):
        return any(_truth_became_number(value, checked.get(key)) for key, value in given.items())
    if isinstance(given, list | tuple) and isinstance(checked, list | tuple):
        return any(map(_truth_became_number, given, checked))
    return False


def _members(annotation: Any) -> tuple[Any, ...]:
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return tuple(type(a) for a in arguments)
    return arguments if arguments and typing.get_origin(annotation) is not tuple else (annotation,)


def _wrong(where: str, name: str, value: Any, hint: Any, message: str, known: dict[str, dataclasses.Field[Any]]) -> str:
    expected = getattr(hint, "__name__", None) if not typing.get_args(hint) else str(hint).replace("typing.", "")
    return f"{where}: {name} is {value!r}, but {expected or hint} is expected ({message}). {_all(known)}"


def _all(known: dict[str, dataclasses.Field[Any]]) -> str:
    def shown(f: dataclasses.Field[Any]) -> str:
        if f.default is not dataclasses.MISSING:
            return f"{f.name}={f.default!r}"
        if f.default_factory is not dataclasses.MISSING:
            return f"{f.name}={f.default_factory()!r}"
        return f.name

    return f"Parameters: {', '.join(shown(f) for f in known.values()) or 'none'}."
