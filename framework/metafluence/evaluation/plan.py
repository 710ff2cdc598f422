"""The runs that a study plans: a method with its solver, and a cell of the grid of solvers."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from metafluence.attribution import AttributionMethod
from metafluence.linalg import Solver
from metafluence.registry import Plain
from metafluence.runtime import component_fingerprint
from metafluence.tasks import Level


@dataclass(frozen=True)
class Plan:
    """One run to be made: its label, its solver's label, the method itself, and the level of its items.

    dampings: those that the method is to be tried with, ascending; none if it is to run as it is. built: what the
    method is built with, by dotted name; without the damping where several are tried.
    """

    label: str
    solver: str
    method: AttributionMethod
    level: Level
    dampings: tuple[float, ...] = ()
    built: dict[str, Plain] = field(default_factory=dict)

    @property
    def id(self) -> str:
        fingerprint = component_fingerprint(self.method)
        if self.dampings:
            fingerprint = hashlib.sha256(f"{fingerprint} {self.dampings}".encode()).hexdigest()
        return _file_name(f"{self.level}-{self.label}-{self.solver}", fingerprint)


@dataclass(frozen=True)
class GridPlan:
    """One cell of the grid: the labels of both solvers, the inner solver, and the method with the outer one."""

    inner: str
    outer: str
    inner_solver: Solver
    method: AttributionMethod

    @property
    def id(self) -> str:
        prints = component_fingerprint(self.method)[:8] + component_fingerprint(self.inner_solver)
        return _file_name(f"{self.inner}-{self.outer}", prints, 16)


def _file_name(text: str, fingerprint: str, digits: int = 8) -> str:
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', text).strip('-')}-{fingerprint[:digits]}"
