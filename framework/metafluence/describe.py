"""What a component says of itself, read from its source without importing it."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from metafluence.errors import RegistryError


@dataclass(frozen=True)
class Parameter:
    """A parameter's name, its type and its default as written; None where it is required."""

    name: str
    type: str
    default: str | None


@dataclass(frozen=True)
class Description:
    """A class's docstring and parameters (the annotated fields of a dataclass, its bases in the same file included)."""

    documentation: str
    parameters: tuple[Parameter, ...]


def describe(at: str) -> Description:
    """Describe `module:Class` or `file.py:Class`. Raises RegistryError where there is no such file or class."""
    place, _, name = at.rpartition(":")
    file = source_of(place)
    classes = _classes(file, file.stat().st_mtime_ns)
    if name not in classes:
        raise RegistryError(f"{file} has no class {name!r}; it has {', '.join(sorted(classes)) or 'none'}.")
    found: dict[str, Parameter] = {}
    for cls in _lineage(classes, name):
        for statement in cls.body:
            parameter = _parameter(statement)
            if parameter is not None:
                found[parameter.name] = parameter
    return Description(ast.get_docstring(classes[name]) or "", tuple(found.values()))


def source_of(place: str) -> Path:
    """The file of a module, or the path itself where `place` is one. Imports parent packages only."""
    if place.endswith(".py"):
        file = Path(place)
        if not file.is_file():
            raise RegistryError(f"There is no file {place}. Paths in a registry.yaml are relative to it.")
        return file
    try:
        spec = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise RegistryError(f"There is no module {place}. Install the package that has it, or correct the name.")
    return Path(spec.origin)


@lru_cache(maxsize=256)
def _classes(file: Path, changed: int) -> dict[str, ast.ClassDef]:
    try:
        tree = ast.parse(file.read_text(), str(file))
    except SyntaxError as error:
        raise RegistryError(f"{file}, line {error.lineno}: {error.msg}. Correct the file.") from error
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _lineage(classes: dict[str, ast.ClassDef], name: str) -> list[ast.ClassDef]:
    bases = [b.id for b in classes[name].bases if isinstance(b, ast.Name) and b.id in classes and b.id != name]
    return [cls for base in reversed(bases) for cls in _lineage(classes, base)] + [classes[name]]


def _parameter(statement: ast.stmt) -> Parameter | None:
    if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
        return None
    name, kind = statement.target.id, ast.unparse(statement.annotation)
    if name.startswith("_") or kind.startswith(("ClassVar", "typing.ClassVar")):
        return None
    default = None if statement.value is None else ast.unparse(statement.value)
    if isinstance(statement.value, ast.Call) and ast.unparse(statement.value.func) in (
        "field",
        "dataclasses.field",
    ):
        given = {k.arg: k.value for k in statement.value.keywords}
        if isinstance(given.get("init"), ast.Constant) and given["init"].value is False:  # type: ignore[union-attr]
            return None
        shown = given.get("default") or given.get("default_factory")
        default = ast.unparse(shown) if shown is not None else None
    return Parameter(name, kind, default)
