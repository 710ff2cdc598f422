"""task-IF: what removing whole tasks does to the meta-parameters ("Evaluating Data Influence in Meta Learning")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metafluence import Level
from metafluence_plugins.methods.influence import InfluenceFunction


@dataclass(frozen=True)
class TaskIF(InfluenceFunction):
    """Influence functions on tasks; r is a task's total gradient."""

    levels: ClassVar[frozenset[Level]] = frozenset({"task", "class"})
