"""What something is built with, as columns of a table: plain values by dotted name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from metafluence.registry.component import Component
from metafluence.registry.registry import Registry

Plain = str | bool | int | float


def settings(value: Any, registry: Registry, name: str = "") -> dict[str, Plain]:
    """A component, a configuration or a plain value, by dotted name below `name`.

    A component and a mapping with `use` stand under their own name as what they are called in the registry, and their
    parts below it. Lists of plain values are joined by commas. What is None or no plain value is left out.

    Example:
        >>> from metafluence.registry import build, default_registry
        >>> settings({"learner": {"use": "joint", "sizes": [1, 2]}, "l2": 0.1}, default_registry())
        {'learner': 'joint', 'learner.sizes': '1, 2', 'l2': 0.1}
        >>> settings(build("solver", "exact"), default_registry(), "solver")["solver"]
        'exact'
    """
    found: dict[str, Plain] = {}
    parts: dict[str, Any] = {}
    match value:
        case bool() | int() | float() | str():
            found[name] = value
        case Path():
            found[name] = str(value)
        case Component():
            found = {name: registry.name_of(value)} if name else {}
            parts = {f.name: getattr(value, f.name) for f in fields(value)}  # pyright: ignore[reportArgumentType]
        case Mapping():
            found = {name: value["use"]} if name and "use" in value else {}
            parts = {str(key): one for key, one in value.items() if key != "use"}
        case list() | tuple() if all(isinstance(one, Plain) for one in value):
            found = {name: ", ".join(map(str, value))} if value else {}
        case list() | tuple() if len(value) == 1:
            return settings(value[0], registry, name)
        case list() | tuple():
            parts = {str(number): one for number, one in enumerate(value, start=1)}
    for key, one in parts.items():
        found |= settings(one, registry, f"{name}.{key}" if name else key)
    return found
