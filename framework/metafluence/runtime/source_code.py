"""The code that a class is made of, as a hash: its file and the user's own files that it imports, as they are parsed.

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
from types import ModuleType

INSTALLED = tuple(str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "purelib", "platlib"))
FRAMEWORK = str(Path(__file__).resolve().parents[1])


def code_fingerprint(cls: type) -> str:
    """A hash of the code of a class and its bases, and of the user's modules that these import, directly or not."""
    files: dict[Path, str] = {}
    for base in cls.__mro__:
        module = sys.modules.get(base.__module__)
        if module is not None and base.__module__.split(".")[0] not in ("builtins", "abc", "typing", "torch"):
            _collect(module, files)
    return hashlib.sha256("\0".join(sorted(set(files.values()))).encode()).hexdigest()


def _collect(module: ModuleType, files: dict[Path, str]) -> None:
    """Add a module's file to `files`, by its parsed content, and the user's modules that it imports."""
    name = getattr(module, "__file__", None)
    if name is None or not name.endswith(".py") or Path(name).resolve() in files:
        return
    file = Path(name).resolve()
    try:
        stamp = file.stat().st_mtime_ns
    except OSError:
        return
    files[file], imported = _parsed(file, stamp)
    if _is_users(file):
        for dotted, level in imported:
            for found in _modules(module, dotted, level):
                if _is_users(Path(getattr(found, "__file__", None) or FRAMEWORK)):
                    _collect(found, files)


def _is_users(file: Path) -> bool:
    return not str(file.resolve()).startswith((*INSTALLED, FRAMEWORK))


@lru_cache(maxsize=512)
def _parsed(file: Path, stamp: int) -> tuple[str, tuple[tuple[str, int], ...]]:
    """A hash of what a file says, and the modules that it names in imports, each with its dots."""
    source = file.read_bytes()
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


def _modules(module: ModuleType, dotted: str, level: int) -> list[ModuleType]:
    """The loaded modules that an import names, as seen from `module`."""
    if level:
        package = module.__package__ or ""
        try:
            dotted = importlib.util.resolve_name("." * level + dotted, package)
        except ImportError:
            return []
    return [found for found in (sys.modules.get(dotted),) if found is not None]
