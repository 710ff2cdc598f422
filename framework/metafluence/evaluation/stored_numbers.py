"""Records of numbers as JSON has them, in which NaN is null."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from math import isnan
from typing import Any, TypeVar

Record = TypeVar("Record")


def to_facts(record: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON holds them."""
    return {k: (None if isinstance(v, float) and isnan(v) else v) for k, v in asdict(record).items()}


def from_facts(cls: type[Record], facts: Mapping[str, Any]) -> Record:
    """The dataclass that `to_facts` took apart; what it has no field for is passed over."""
    known = {f.name for f in fields(cls)}  # pyright: ignore[reportArgumentType]
    return cls(**{k: (float("nan") if v is None else v) for k, v in facts.items() if k in known})
