"""Importing a component's class from an installed module or from a single file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

import cloudpickle

from metafluence.errors import RegistryError, nearest


def import_class(at: str, what: str) -> type:
    """The class at `module:Class` or `/path/file.py:Class`. Raises RegistryError saying why it cannot be had."""
    place, _, name = at.rpartition(":")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except RegistryError:
        raise
    except (Exception, SystemExit) as error:
        raise RegistryError(
            f"Importing {what} failed: {type(error).__name__}: {error} ({_where(error, place)}). Correct it there."
        ) from error
    cls = getattr(module, name, None)
    if not isinstance(cls, type):
        classes = [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        close = nearest(name, classes)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise RegistryError(f"{place} has no class {name!r}, wanted for {what}.{guess} It has: {', '.join(classes)}.")
    return cls


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
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    cloudpickle.register_pickle_by_value(module)
    return module
