"""What a component says of itself, read from its source without importing it."""

from __future__ import annotations

import ast
import importlib.util
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from metafluence.errors import RegistryError

HOPS = 8
"""How many `from x import Class` are followed to the file that defines it."""


@dataclass(frozen=True)
class Parameter:
    """A parameter's name, its type and its default as written; None where it is required."""

    name: str
    type: str
    default: str | None


@dataclass(frozen=True)
class Description:
    """A class's docstring and parameters (the annotated fields of a dataclass, its bases included)."""

    documentation: str
    parameters: tuple[Parameter, ...]


class _Source(NamedTuple):
    classes: dict[str, ast.ClassDef]
    imported: dict[str, tuple[str, str]]
    """Names from `from x import y as name`: the module, dots in front where it is relative, and y."""


def describe(at: str) -> Description:
    """Describe `module:Class` or `file.py:Class`. Raises RegistryError where there is no such file or class."""
    place, _, name = at.rpartition(":")
    source, place, name = _definition(place, name)
    found: dict[str, Parameter] = {}
    for cls in _lineage(source, place, name):
        for statement in cls.body if _is_dataclass(cls) else []:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                parameter = _parameter(statement.target.id, statement)
                if parameter is not None:
                    found[parameter.name] = parameter
                else:  # a subclass can take a parameter back
                    found.pop(statement.target.id, None)
    return Description(ast.get_docstring(source.classes[name]) or "", tuple(found.values()))


def source_of(place: str) -> Path:
    """The file of a module, or the path itself where `place` is one. Imports parent packages only."""
    if place.endswith(".py"):
        file = Path(place)
        if not file.is_file():
            raise RegistryError(f"There is no file {place}. Correct its path, which is relative to the registry.yaml.")
        return file
    try:
        spec = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        spec = None
    except Exception as error:  # whatever a parent package raises as it is imported
        raise RegistryError(f"The package of {place} cannot be imported: {type(error).__name__}: {error}.") from error
    if spec is None or spec.origin is None:
        raise RegistryError(f"There is no module {place}. Install the package that has it, or correct the name.")
    if not spec.origin.endswith(".py"):
        raise RegistryError(f"The module {place} has no Python source ({spec.origin}). Name one that has.")
    return Path(spec.origin)


def imported_names(file: Path) -> set[str]:
    """The first words of all modules that a file imports, relative ones left out; none where it is no Python."""
    found: set[str] = set()
    try:
        tree = _parsed(file)
    except RegistryError:  # importing it says more
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found


def _definition(place: str, name: str) -> tuple[_Source, str, str]:
    """The source that defines a class, where it is, and its name there; a package that hands it on is followed."""
    start = source_of(place)
    source = _read(start, start.stat().st_mtime_ns)
    asked, file = name, start
    for _ in range(HOPS):
        if name in source.classes:
            return source, place, name
        if name not in source.imported:
            break
        module, name = source.imported[name]
        if module.startswith("."):
            package = place if file.name == "__init__.py" else place.rpartition(".")[0]
            module = _absolute(module, package, start)
        elif place.endswith(".py") and (beside := Path(place).parent / f"{module}.py").is_file():
            module = str(beside)
        place, file = module, source_of(module)
        source = _read(file, file.stat().st_mtime_ns)
    has = ", ".join(sorted(_read(start, start.stat().st_mtime_ns).classes)) or "none"
    raise RegistryError(f"{start} has no class {asked!r}; it has {has}. Name the module that defines it.")


def _absolute(module: str, package: str, file: Path) -> str:
    try:
        return importlib.util.resolve_name(module, package)
    except ImportError as error:
        raise RegistryError(f"{file} imports from {module}, which leads out of its package.") from error


@lru_cache(maxsize=256)
def _read(file: Path, changed: int) -> _Source:
    tree = _parsed(file)
    imported = {
        alias.asname or alias.name: ("." * node.level + (node.module or ""), alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return _Source({node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}, imported)


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), str(file))  # bytes, so that a coding line is obeyed
    except SyntaxError as error:
        raise RegistryError(f"{file}, line {error.lineno}: {error.msg}. Correct the file.") from error
    except ValueError as error:
        raise RegistryError(f"{file} is no Python source: {error}. Correct the file.") from error


def _lineage(source: _Source, place: str, name: str) -> list[ast.ClassDef]:
    """A class after all its bases that can be read; what cannot be has no parameters to show."""
    cls = source.classes[name]
    named = [b.value if isinstance(b, ast.Subscript) else b for b in cls.bases]  # Base[T] is Base
    bases = [b.id for b in named if isinstance(b, ast.Name) and b.id != name]
    found: list[ast.ClassDef] = []
    for base in reversed(bases):
        if base in source.classes or base in source.imported:
            with suppress(RegistryError):
                found += _lineage(*_definition(place, base))
    return [*found, cls]


def _is_dataclass(cls: ast.ClassDef) -> bool:
    """Annotations of a class without the decorator are no parameters, also not for its subclasses."""
    calls = [d.func if isinstance(d, ast.Call) else d for d in cls.decorator_list]
    return any(_last_word(ast.unparse(call)) == "dataclass" for call in calls)


def _parameter(name: str, statement: ast.AnnAssign) -> Parameter | None:
    note = statement.annotation
    kind = note.value if isinstance(note, ast.Constant) and isinstance(note.value, str) else ast.unparse(note)
    if name.startswith("_") or _last_word(kind.partition("[")[0]) in ("ClassVar", "InitVar"):
        return None
    default = None if statement.value is None else ast.unparse(statement.value)
    if isinstance(statement.value, ast.Call) and _last_word(ast.unparse(statement.value.func)) == "field":
        given = {k.arg: k.value for k in statement.value.keywords}
        init = given.get("init")
        if isinstance(init, ast.Constant) and init.value is False:
            return None
        shown = given.get("default") or given.get("default_factory")
        default = ast.unparse(shown) if shown is not None else None
    return Parameter(name, kind, default)


def _last_word(dotted: str) -> str:
    return dotted.rpartition(".")[2]
