"""Pickled arrays from elsewhere, read without running anything that is in them.

A pickle may name any function to be called. Here it gets only the names in `ALLOWED`: containers, and stand-ins of our
own for what NumPy's pickles name, so that nothing of NumPy's is called with what the file says either.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from metafluence import DataError


def load_pickle(source: Path | IO[bytes], name: str) -> Any:
    """Containers, numbers, text and NumPy arrays of numbers or text, also of Python 2.

    Raises DataError naming the file where it is no such pickle, is cut short, or names anything else.
    """
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                return _plain(_Unpickler(file, encoding="latin1").load())
        return _plain(_Unpickler(source, encoding="latin1").load())
    except _ForbiddenError as error:
        raise DataError(
            f"{name} was not opened: it asks to run {error}, which pickled arrays do not need. It may be harmful; get "
            "it again from its publisher."
        ) from error
    except Exception as error:  # a broken pickle raises nearly anything
        raise DataError(
            f"{name} cannot be read as pickled arrays ({type(error).__name__}: {error}). It may be cut short or "
            "something else; get it again."
        ) from error


class _ForbiddenError(Exception):
    """A name that is not allowed."""


@dataclass
class _Type:
    """What np.dtype is called with, and the byte order that comes after."""

    code: str
    order: str = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])

    def numpy(self) -> np.dtype[Any]:
        if self.code[:1] not in tuple("biufSU") or not self.code[1:].isdigit():
            raise ValueError(f"an array of type {self.code!r}")
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


@dataclass
class _Array:
    """An array; empty until its state is set."""

    value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, raw = state
        if kind.code[:1] == "O":
            self.value = raw
            return
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # the bytes of Python 2
        self.value = _shaped(raw, kind, shape, "F" if fortran else "C")


def _shaped(raw: Any, kind: _Type, shape: tuple[int, ...], order: Any) -> Any:
    return np.frombuffer(raw, dtype=kind.numpy()).reshape(shape, order=order)


def _buffer(raw: Any, kind: _Type, shape: tuple[int, ...], order: str, axes: tuple[int, ...] | None = None) -> _Array:
    """Of protocol 5; order K is of an array whose axes were exchanged, with `axes` in their order."""
    if order == "K" and axes is not None:
        return _Array(_shaped(raw, kind, shape, "C").transpose(axes))
    return _Array(_shaped(raw, kind, shape, order))


def _scalar(kind: _Type, raw: Any) -> Any:
    return _shaped(raw.encode("latin1") if isinstance(raw, str) else raw, kind, (1,), "C")[0].item()


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def _names(module: str, names: dict[str, Callable[..., Any]]) -> dict[tuple[str, str], Callable[..., Any]]:
    return {(module, name): stand_in for name, stand_in in names.items()}


def _empty(*_: Any) -> _Array:
    return _Array()


def _type(code: str, *_: Any) -> _Type:
    return _Type(code)


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    **_names("numpy", {"ndarray": _Array, "dtype": _type}),
    ("_codecs", "encode"): _bytes,
    ("collections", "OrderedDict"): OrderedDict,
}
for _module in ("numpy.core", "numpy._core"):
    ALLOWED |= _names(f"{_module}.multiarray", {"_reconstruct": _empty, "scalar": _scalar})
    ALLOWED |= _names(f"{_module}.numeric", {"_frombuffer": _buffer})
for _module in ("builtins", "__builtin__"):
    ALLOWED |= _names(_module, {"list": list, "dict": dict, "tuple": tuple, "set": set, "bytearray": bytearray})


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _ForbiddenError(f"{module}.{name}") from None


def _plain(value: Any) -> Any:
    """Stand-ins replaced by their arrays, in containers too."""
    if isinstance(value, _Array):
        return _plain(value.value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(_plain(item) for item in value)
    return value
