"""Importing a component's class from an installed module or from a file of the user's, with the files beside it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar

import cloudpickle

from metafluence.errors import RegistryError, nearest
from metafluence.registry.description import imported_names

T = TypeVar("T")


def import_class(at: str, what: str) -> type:
    """The class at `module:Class` or `/path/file.py:Class`. Raises RegistryError saying why it cannot be had."""
    place, _, name = at.rpartition(":")
    return _named(place, name, what, type, "class")


def import_function(file: Path, name: str, what: str) -> Callable[..., Any]:
    """A function of a user's Python file. Raises RegistryError saying why it cannot be had."""
    return _named(str(file), name, what, FunctionType, "function")


def _named(place: str, name: str, what: str, kind: type[T], one: str) -> T:
    """What a file or module calls `name`. Raises RegistryError where that is not of the kind, `one` in words."""
    module = _module(place, what)
    found = getattr(module, name, None)
    if not isinstance(found, kind):
        own = [k for k, v in vars(module).items() if isinstance(v, kind) and v.__module__ == module.__name__]
        close = nearest(name, own)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise RegistryError(f"{place} has no {one} {name!r}, wanted for {what}.{guess} It has: {', '.join(own)}.")
    return found


def _module(place: str, what: str) -> ModuleType:
    """A file of the user's, or an installed module. Raises RegistryError where its import fails."""
    try:
        return _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except RegistryError:
        raise
    except (Exception, SystemExit) as error:
        raise RegistryError(
            f"Importing {what} failed: {type(error).__name__}: {error} ({_where(error, place)}). {_fix(error)}"
        ) from error


def _fix(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"Install the package that has {error.name}, or put {error.name}.py beside the file."
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "Files beside each other are no package: write `from helper import name`, without the point."
    return "Correct it there."


def _where(error: BaseException, place: str) -> str:
    """The line to look at: the one with the wrong syntax, else the last in the component's own file, else the last."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if place.endswith(".py") and frame.filename == place]
    line = (own or frames)[-1]
    return f"{line.filename}, line {line.lineno}"


def _from_file(file: Path) -> ModuleType:
    """Import one file under a name that is its own, and let it travel by value: a worker process cannot import it."""
    if not file.is_file():
        raise RegistryError(f"There is no file {file}. Correct its path, which is relative to the registry.yaml.")
    name = f"metafluence_local_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:10]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # for good, as a function may import when it is called
    beside = files_beside(file.resolve())
    _refuse_taken(file, beside)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    for own in (module, *(found for helper in beside if (found := sys.modules.get(helper)) is not None)):
        cloudpickle.register_pickle_by_value(own)
    return module


def files_beside(file: Path) -> dict[str, Path]:
    """The files in a file's own folder that it imports, directly or not, by module; `__init__.py` for a package."""
    found: dict[str, Path] = {}
    waiting = [file]
    while waiting:
        for name in sorted(imported_names(waiting.pop()) - set(found)):
            places = (file.parent / f"{name}.py", file.parent / name / "__init__.py")
            place = next((p for p in places if p.is_file()), None)
            if place is not None:
                found[name] = place
                waiting.append(place)
    return found


def _refuse_taken(file: Path, beside: dict[str, Path]) -> None:
    """Raises RegistryError where Python knows another module by the name of one of these, and would take it."""
    for name, place in beside.items():
        taken = _origin(name)
        if taken is None or Path(taken).resolve() != place:
            raise RegistryError(
                f"{file} imports {name}, and there is {place}; but Python knows another module of that name "
                f"({taken or 'built in'}) and would take it. Give the file another name."
            )


def _origin(name: str) -> str | None:
    """The file of a module, loaded or to be found; None where it has none."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        return getattr(loaded, "__file__", None)
    importlib.invalidate_caches()
    spec = importlib.util.find_spec(name)
    return spec.origin if spec is not None else None
