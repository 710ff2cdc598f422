"""One more component in the text of a registry.yaml, which keeps its comments."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

from metafluence.errors import RegistryError
from metafluence.registry import parse_yaml


def with_component(text: str, file: Path, kind: str, name: str, at: str) -> str:
    """`text` with `name: at` under components and `kind`. Raises RegistryError where it must be added by hand."""
    before = parse_yaml(text, str(file), RegistryError)
    wanted = _added(before, kind, name, at)
    found = text if text.endswith("\n") or not text else text + "\n"
    if before is None or "components" not in before:
        found += f"components:\n  {kind}:\n    {name}: {at}\n"
    else:
        found = _inserted(found, kind, f"{name}: {at}")
    try:
        right = parse_yaml(found, str(file), RegistryError) == wanted
    except RegistryError:
        right = False
    if not right:
        raise RegistryError(
            f"{file} is written in a way that this command cannot add to. Add by hand, under components.{kind}: "
            f"{name}: {at}"
        )
    return found


def _added(before: Any, kind: str, name: str, at: str) -> Any:
    """What the file must say afterwards; None where it is no mapping of mappings."""
    wanted = deepcopy(before) if isinstance(before, dict) else {}
    components = wanted.setdefault("components", {})
    if not isinstance(components, dict) or not isinstance(components.setdefault(kind, {}), dict):
        return None
    components[kind][name] = at
    return wanted


def _inserted(text: str, kind: str, entry: str) -> str:
    """The entry as the first one of its kind; as the first kind where there is none."""
    section = re.search(r"^components:[ \t]*(#.*)?\n", text, re.MULTILINE)
    if section is None:
        return text
    rest = text[section.end() :]
    inside = rest[: end.start()] if (end := re.search(r"^[^\s#]", rest, re.MULTILINE)) else rest
    indent = _indent(inside) or "  "
    own = re.search(rf"^{indent}{re.escape(kind)}:[ \t]*(#.*)?\n", inside, re.MULTILINE)
    if own is None:
        return f"{text[: section.end()]}{indent}{kind}:\n{indent * 2}{entry}\n{rest}"
    deeper = _indent(inside[own.end() :])
    deeper = deeper if len(deeper) > len(indent) else indent * 2
    place = section.end() + own.end()
    return f"{text[:place]}{deeper}{entry}\n{text[place:]}"


def _indent(text: str) -> str:
    """The white space before the first line that says something."""
    found = re.search(r"^([ \t]*)[^\s#]", text, re.MULTILINE)
    return found[1] if found else ""
