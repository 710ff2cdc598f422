"""Suites whose checks take a component and a seed, and nothing else: of all kinds but learners, methods and solvers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest

from metafluence.testing.faults import Fault, found_by, judged
from metafluence.testing.names import known_names

Checks = Mapping[str, Callable[[Any, int], None]]
"""By name: what takes a component and a seed, and raises where the component is wrong."""


def simple_suite(kind: str, checks: Checks, component: Any, skip: Collection[str], examples: int) -> type:
    """A class of tests for pytest: `component` (an instance, or a class with defaults) on all checks but `skip`."""
    skipped = known_names(f"check of {kind}s", skip, checks)
    subject = component() if isinstance(component, type) else component

    class SimpleSuite:
        @pytest.mark.parametrize("seed", range(examples))
        @pytest.mark.parametrize("check", [name for name in checks if name not in skipped])
        def test_contract(self, check: str, seed: int) -> None:
            with judged(check, checks[check], subject):
                checks[check](subject, seed)

    SimpleSuite.__name__ = SimpleSuite.__qualname__ = f"Test{type(subject).__name__}"
    return SimpleSuite


def simple_faults(kind: str, checks: Checks, component: Any, skip: Collection[str]) -> list[Fault]:
    """What the checks find wrong, each tried once."""
    skipped = known_names(f"check of {kind}s", skip, checks)

    def run(name: str) -> None:
        with judged(name, checks[name], component):
            checks[name](component, 0)

    return [fault for name in checks if name not in skipped for fault in found_by(lambda name=name: run(name))]
