"""A pretended device on the processor, on which what would fail on a GPU fails: tensors of two devices that meet,
numpy and random numbers from a generator of the processor.

torch makes room for one device of anybody's. Its tensors wrap those that hold the values and every call of torch comes
by here, below differentiation and vmap. It has to be imported before anything is differentiated: only then is the
device given its place there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
_setup_privateuseone_for_python_backend(NAME)
DEVICE = torch.device(NAME, 0)
CPU = torch.device("cpu")
aten = torch.ops.aten
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
JOINED = {aten.cat.default, aten.stack.default}
MOVES = {aten._to_copy.default, aten.copy_.default}


class There(Tensor):
    """A tensor of the device; `here` holds its values."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        place = {"strides": here.stride(), "storage_offset": here.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, here.shape, dtype=here.dtype, device=DEVICE, **place)
        made.here = here
        return made

    def __init__(self, here: Tensor) -> None:
        pass

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.here!r})"

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.here.untyped_storage()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return call(func, args, kwargs or {})


class _Calls(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return call(func, args, kwargs or {})


class _Given(TorchFunctionMode):
    """Python's numbers become tensors without a call that would come by `call`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device).type == NAME:
            return func(*args, **{**kwargs, "device": None}).to(device)
        if func is Tensor.new_tensor and isinstance(args[0], There):
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], There):
            where = args[1] if isinstance(args[1], tuple) else (args[1],)
            where = tuple(torch.tensor(i) if isinstance(i, list) else i for i in where)
            args = (args[0], where, *args[2:])
        return func(*args, **kwargs)


@contextmanager
def entered() -> Iterator[torch.device]:
    """While it is entered, tensors can be made on the device."""
    with _Given(), _Calls():
        yield DEVICE


def call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a GPU would do, or its refusal."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, There)]
    asked = kwargs.get("device")
    goes = bool(there) if asked is None else torch.device(asked).type == NAME
    if kwargs.get("generator") is not None and goes:
        raise RuntimeError(f"{func}: a generator of the processor for numbers on the device")
    if there and func not in MOVES:
        _refuse_two_devices(func, args, tensors)
    if asked is not None:
        kwargs = {**kwargs, "device": CPU}
    if func is aten._efficientzerotensor.default:  # which has no values to wrap
        func = aten.zeros.default
    found = func(*tree_map_only(There, _here, args), **tree_map_only(There, _here, kwargs))
    if func is aten.copy_.default:
        return args[0]
    if func is aten._to_copy.default:
        return There(found) if goes else found
    if not goes:
        return found
    found = tree_map_only(Tensor, lambda x: x if isinstance(x, There) else There(x), found)
    return return_and_correct_aliasing(func, args, kwargs, found)


def _refuse_two_devices(func: Callable[..., Any], args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    plain = [x for x in tensors if not isinstance(x, There)]
    if func in INDEXED:
        if not isinstance(args[0], There):
            raise RuntimeError(f"{func}: indices on the device into a tensor on the processor")
        indices = tree_leaves(args[1])
        plain = [x for x in plain if not any(x is index for index in indices)]
    if func not in JOINED:  # numbers may come along
        plain = [x for x in plain if x.dim()]
    if plain:
        raise RuntimeError(f"{func}: tensors on two devices, {[tuple(x.shape) for x in plain]} on the processor")


def _here(tensor: There) -> Tensor:
    return tensor.here
