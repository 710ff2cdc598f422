"""The suite of every kind of component, for those who check one without knowing its kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

from metafluence import (
    AttributionMethod,
    Backbone,
    Curvature,
    Dataset,
    Executor,
    InputError,
    MetaLearner,
    Metric,
    Preconditioner,
    Solver,
    Tracker,
    Trainer,
)
from metafluence.testing import (
    backbones,
    curvatures,
    datasets,
    executors,
    learner_checks,
    methods,
    metrics,
    preconditioners,
    solvers,
    trackers,
    trainers,
)
from metafluence.testing.faults import Fault
from metafluence.testing.learners import learner_failures
from metafluence.testing.names import known_names
from metafluence.testing.simple_suites import Checks, simple_faults

SIMPLE: dict[type, tuple[str, Checks]] = {
    Curvature: ("curvature", curvatures.CHECKS),
    Preconditioner: ("preconditioner", preconditioners.CHECKS),
    Trainer: ("trainer", trainers.CHECKS),
    Dataset: ("dataset", datasets.CHECKS),
    Backbone: ("backbone", backbones.CHECKS),
    Executor: ("executor", executors.CHECKS),
    Metric: ("metric", metrics.CHECKS),
    Tracker: ("tracker", trackers.CHECKS),
}


class Checked(NamedTuple):
    """The names of the checks that were made, and what they found."""

    checks: tuple[str, ...]
    faults: list[Fault]


def checked(component: Any, skip: Collection[str] = ()) -> Checked:
    """Run the suite of a component's kind once, without pytest.

    Args:
        component: of any kind that has a suite.
        skip: names of checks that cannot hold.

    Raises:
        InputError: for a check that there is not, or a component without a suite.
    """
    known, faults = _suite(component)
    skipped = known_names("check", skip, known)
    return Checked(tuple(name for name in known if name not in skipped), faults(component, skip=skipped))


def _suite(component: Any) -> tuple[Mapping[str, Any], Callable[..., list[Fault]]]:
    """The checks of a component's kind, and what tries them."""
    match component:
        case AttributionMethod():
            return methods.CHECKS, methods.method_failures
        case Solver():
            return solvers.CHECKS, solvers.failures
        case MetaLearner():
            return learner_checks.CHECKS, learner_failures
    for interface, (kind, checks) in SIMPLE.items():
        if isinstance(component, interface):
            return checks, partial(simple_faults, kind, checks)
    raise InputError(f"There is no suite for {type(component).__name__} and its kind. Write its tests.")
