"""The code of a class or function, as a hash: its file and the user's own files that it imports, as they are parsed.

Comments, docstrings and layout change nothing. Installed packages are known by the parsed file of the class alone.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from types import FunctionType

INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib"))
FRAMEWORK = Path(__file__).resolve().parents[1]


def code_fingerprint(of: type | FunctionType) -> str:
    """A hash of the code of a class and its bases, or of a function, and of the user's modules that these import."""
    files: dict[Path, str] = {}
    for base in of.__mro__ if isinstance(of, type) else (of,):
        module = sys.modules.get(base.__module__)
        if module is not None and base.__module__.split(".")[0] not in ("builtins", "abc", "typing", "torch"):
            _collect(getattr(module, "__file__", None), getattr(module, "__package__", None) or "", files)
    return hashlib.sha256("\0".join(sorted(set(files.values()))).encode()).hexdigest()


def file_fingerprint(file: Path) -> str:
    """A hash of what a Python file says, comments, docstrings and layout left out."""
    return _parsed(file.read_bytes())[0]


def _collect(origin: str | None, package: str, files: dict[Path, str]) -> None:
    """Add a module's file to `files`, by its parsed content, and the user's modules that it imports, now or later."""
    file = None if origin is None else Path(origin).resolve()
    if file is None or file.suffix != ".py" or file in files or not file.is_file():
        return
    files[file], imported = _parsed(file.read_bytes())
    if not _is_users(file):
        return
    for name, level in imported:
        try:
            dotted = importlib.util.resolve_name("." * level + name, package) if level else name
        except ImportError:
            continue
        found = _file_of(dotted)
        if found is not None and _is_users(found):
            _collect(str(found), dotted if found.name == "__init__.py" else dotted.rpartition(".")[0], files)


@lru_cache(maxsize=4096)
def _is_users(file: Path) -> bool:
    resolved = file.resolve()
    return not any(resolved.is_relative_to(place) for place in (*INSTALLED, FRAMEWORK))


@lru_cache(maxsize=512)
def _parsed(source: bytes) -> tuple[str, tuple[tuple[str, int], ...]]:
    """A hash of what a file says, and the modules that it names in imports, each with its dots."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return hashlib.sha256(source).hexdigest(), ()
    imported: list[tuple[str, int]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            whole = node.module or ""
            imported += [(whole, node.level), *((f"{whole}.{a.name}".lstrip("."), node.level) for a in node.names)]
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(imported)


def _file_of(dotted: str) -> Path | None:
    """The file of a module, without importing anything; None if there is none, or if it is no file of the user's."""
    loaded = sys.modules.get(dotted)
    if loaded is not None:
        name = getattr(loaded, "__file__", None)
        return None if name is None else Path(name)
    top, *rest = dotted.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not _is_users(Path(spec.origin)):
        return None
    place = Path(spec.origin)
    for part in rest:
        places = (place.parent / f"{part}.py", place.parent / part / "__init__.py")
        found = next((p for p in places if place.name == "__init__.py" and p.is_file()), None)
        if found is None:
            return None
        place = found
    return place
