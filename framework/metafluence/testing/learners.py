"""The conformance suite of learners: `TestMine = learner_suite(MyLearner(...))` in a test file of one's own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from metafluence import MetaLearner, build
from metafluence.testing.faults import Fault, found_by, judged
from metafluence.testing.learner_checks import CHECKS, OF_AN_OBJECTIVE, RETRAINING
from metafluence.testing.learner_trial import Trial
from metafluence.testing.names import known_names
from metafluence.testing.problems import problems

FEWER = 3
"""Checks that retrain run on this fraction of the examples."""


def learner_suite(learner: MetaLearner, skip: Collection[str] = (), examples: int = 9, real: bool = False) -> type:
    """A class of tests for pytest: `learner` on small random problems in float64, for every one of CHECKS.

    Use a small network (a handful of parameters, smooth activations): Hessians are formed densely and retraining is
    exact. skip: names of checks that cannot hold. real: its targets are real numbers, not classes. A learner that is
    not `exact` has no objective to hold derivatives against; what else it promises is checked.
    """
    names = [name for name in CHECKS if name not in _skipped(learner, skip)]

    class LearnerSuite:
        @pytest.mark.parametrize("check", names)
        def test_contract(self, check: str) -> None:
            _run(check, learner, examples, real)()

    LearnerSuite.__name__ = LearnerSuite.__qualname__ = f"Test{type(learner).__name__}"
    return LearnerSuite


def learner_failures(
    learner: MetaLearner, skip: Collection[str] = (), examples: int = 3, real: bool = False
) -> list[Fault]:
    """What the suite finds wrong with a learner: a sentence each, empty where all is well."""
    found: list[Fault] = []
    once: dict[str, Any] = {"phases": [Phase.generate], "derandomize": True, "database": None}
    for name in CHECKS:
        if name not in _skipped(learner, skip):
            found += found_by(_run(name, learner, examples, real, **once, report_multiple_bugs=False))
    return found


def _run(name: str, learner: MetaLearner, examples: int, real: bool, **options: Any) -> Callable[[], None]:
    retrains = name in RETRAINING
    drawn = problems(
        lambda: learner,
        build("solver", "exact"),
        min_l2=0.5 if retrains else 0.3,  # a strict minimum, that is easily found again
        min_tasks=3 if name == "absence" else 2,
        real=real,
    )

    @settings(
        max_examples=max(1, examples // FEWER) if retrains else examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        **options,
    )
    @given(drawn, st.integers(0, 2**20))
    def run(problem, seed) -> None:
        with judged(name, CHECKS[name], learner):
            CHECKS[name](Trial(problem, seed))

    return run


def _skipped(learner: MetaLearner, skip: Collection[str]) -> set[str]:
    return set(known_names("check of learners", skip, CHECKS)) | (set() if learner.exact else OF_AN_OBJECTIVE)
