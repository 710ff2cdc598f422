"""Changing parts of a study by their dotted names: `learner.penalty`, `methods.0.damping`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from metafluence.errors import ConfigError
from metafluence.registry import parse_yaml


def parse_assignment(text: str) -> tuple[str, Any]:
    """`key=value` as the key and the value, read as YAML. Raises ConfigError where there is no such thing."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"{text!r} sets nothing. Write key=value, such as learner.penalty=0.1.")
    return key.strip(), parse_yaml(value, f"The value of {key.strip()!r}, {value!r},")


def changed(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a study's mapping with the parts named by dotted keys set; a component given by its name alone gets
    parameters. After `vary.` stands one name, dots and all. Raises ConfigError where a key leads nowhere.
    """
    result = copy.deepcopy(dict(raw))
    for key, value in changes.items():
        _set(result, key, copy.deepcopy(value))
    return result


def _set(raw: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".", 1) if key.startswith("vary.") else key.split(".")
    place: Any = raw
    for i, name in enumerate(path):
        index = _index(place, name, key)
        below = place[index] if isinstance(place, list) else place.get(index)
        if below is None:
            below = {}
        elif isinstance(below, str):
            below = {"use": below}
        elif not isinstance(below, dict | list):
            raise ConfigError(
                f"{key!r} cannot be set: {'.'.join(path[: i + 1])} is {below!r} and has no parts. Set it as a whole."
            )
        place[index] = below
        place = below
    place[_index(place, last, key)] = value


def _index(place: dict[str, Any] | list[Any], name: str, key: str) -> Any:
    if isinstance(place, dict):
        return name
    if not name.isdecimal() or int(name) >= len(place):
        raise ConfigError(
            f"{key!r} cannot be set: {name!r} is no place in a list of {len(place)}. Give one, counted from 0."
        )
    return int(name)
