"""What every interface shares: numbers and choices keep to what is declared, however a component is made."""

from __future__ import annotations

import dataclasses
import typing
from functools import cache, wraps
from typing import Any

from pydantic import BaseModel

from metafluence.errors import InputError
from metafluence.registry.bounds import expected, is_checked
from metafluence.registry.parameters import Refusal, checked, model_of


class Component:
    """Base of every interface. Numbers, truths and choices are converted and held to their annotations.

    A subclass declares bounds beside the type and writes no check of its own. A `__post_init__` of its own runs after
    the bounds are checked, and need not call this one.

    Example:
        >>> from dataclasses import dataclass
        >>> from metafluence import Tolerance
        >>> @dataclass(frozen=True)
        ... class Iterative(Component):
        ...     rtol: Tolerance = 1e-8
        >>> Iterative(rtol=2)
        Traceback (most recent call last):
        ...
        metafluence.errors.InputError: Iterative: rtol is 2, but a number above 0 and below 1 is expected. Give one.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls).get("__post_init__")
        if own is None:
            return

        @wraps(own)
        def after_bounds(self: Any, *args: Any, **kwargs: Any) -> None:
            check_fields(self)
            own(self, *args, **kwargs)

        cls.__post_init__ = after_bounds

    def __post_init__(self) -> None:
        check_fields(self)


def check_fields(component: Any) -> None:
    """Convert the plain fields of a dataclass and hold them to their annotations. Raises InputError for the first."""
    hints, model = _checked(type(component))
    given = {name: getattr(component, name) for name in hints}
    try:
        values = checked(given, model)
    except Refusal as refusal:
        name = type(component).__name__
        raise InputError(
            f"{name}: {refusal.name} is {given[refusal.name]!r}, but {expected(hints[refusal.name])} is expected. Give "
            "one."
        ) from refusal
    for name, value in values.items():
        if value is not given[name]:
            object.__setattr__(component, name, value)  # frozen, and still being made


@cache
def _checked(cls: type) -> tuple[dict[str, Any], type[BaseModel]]:
    """The annotations of the fields that can be checked, and the model that checks them."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True) if dataclasses.is_dataclass(cls) else {}
    except (NameError, TypeError, SyntaxError):  # the registry refuses such a class, naming the annotation
        hints = {}
    fields = [f.name for f in dataclasses.fields(cls) if f.init] if hints and dataclasses.is_dataclass(cls) else []
    plain = {name: hints[name] for name in fields if is_checked(hints[name])}
    return plain, model_of(plain)
