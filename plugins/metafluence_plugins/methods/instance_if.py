"""instance-IF: what removing single instances does ("Evaluating Data Influence in Meta Learning")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metafluence import Level
from metafluence_plugins.methods.influence import InfluenceFunction


@dataclass(frozen=True)
class InstanceIF(InfluenceFunction):
    """Influence functions on instances. A query instance's r is its total gradient over the number of queries.

    A support instance acts in two stages, through the adapted parameters; all third-order terms are kept.
    """

    levels: ClassVar[frozenset[Level]] = frozenset({"support", "query", "image"})
