"""What a new plugin may be called: it becomes a file, a class and a name in the registry."""

from __future__ import annotations

import builtins
import importlib.util
import keyword
import re
import sys
from pathlib import Path

import metafluence
from metafluence.errors import InputError, UnknownNameError
from metafluence.registry import Registry

USED = frozenset({"Tensor", *dir(builtins)})
"""Names that the templates use, besides those of metafluence."""


def class_name(name: str) -> str:
    """`my_method` as `MyMethod`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def check_name(registry: Registry, kind: str, name: str, folder: Path) -> None:
    """Raises InputError for a name that no file, class or component can have, or that is taken in the registry."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is None or keyword.iskeyword(name):
        raise InputError(
            f"{name!r} cannot be the name of a Python file and class. Give letters, digits and underscores that begin "
            "with a letter and are no word of Python, as in my_method."
        )
    taken = next((entry for entry in registry.entries(kind) if entry.name == name), None)
    if taken is not None:
        raise InputError(f"There is a {kind} {name!r} already ({taken.origin}). Choose another name.")
    cls = class_name(name)
    if cls in dir(metafluence) or cls in USED:
        raise InputError(f"{name!r} would make a class {cls}, which its own file needs as it is. Choose another name.")
    if name in sys.stdlib_module_names or _elsewhere(name, folder):
        raise InputError(
            f"{name}.py would hide the module {name!r} that Python knows already. Choose another name, as my_{name}."
        )


def check_kind(registry: Registry, kind: str, offered: list[str]) -> None:
    """Raises UnknownNameError for what is no kind of component, or has no template."""
    if kind not in offered:
        hint = f"There is no template for {kind}s." if kind in registry.kinds() else ""
        raise UnknownNameError("kind of component", kind, offered, hint)


def _elsewhere(name: str, folder: Path) -> bool:
    """Whether Python knows a module of that name that does not lie in the folder."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    if spec is None or spec.origin is None:  # a folder without __init__.py is none
        return False
    return folder.resolve() not in Path(spec.origin).resolve().parents
