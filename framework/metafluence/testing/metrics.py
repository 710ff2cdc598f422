"""The conformance suite of metrics: `TestMine = metric_suite(MyMetric)` in a test file of one's own."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from math import isfinite, isnan
from numbers import Real

import torch

from metafluence import Evaluation, InputError, Measured, Metric, RemovalCurve, Truth, build
from metafluence.testing.simple_suites import simple_suite
from metafluence.testing.worlds import HARMFUL, world


def check_numbers(component: Metric, seed: int) -> None:
    """It gives numbers by name, or says by an InputError what is lacking."""
    found = dict(component.of(_run(seed)))
    assert found, "it says nothing of a run that has everything"
    declared = [number.name for number in component.numbers()]
    assert len(set(declared)) == len(declared), f"it declares a number twice: {', '.join(declared)}"
    assert not declared or found.keys() <= set(declared), f"{sorted(found.keys() - set(declared))} is not declared"
    for name, value in found.items():
        assert isinstance(name, str), f"the name {name!r} is no text"
        assert isinstance(value, Real), f"{name} is a {type(value).__name__}"


def check_seed(component: Metric, seed: int) -> None:
    """The same run has the same numbers, and nothing that was given is written to."""
    run = _run(seed)
    scores, meta = run.scores.clone(), run.evaluation.meta.clone()
    first, second = (dict(component.of(_run(seed))) for _ in range(2))
    component.of(run)
    assert first == second, f"{first}, and then {second}"
    assert torch.equal(run.scores, scores), "the scores were changed"
    assert torch.equal(run.evaluation.meta, meta), "λ was changed"


def check_constant(component: Metric, seed: int) -> None:
    """Scores that are all the same are no error."""
    run = _run(seed)
    try:
        found = component.of(Measured(run.evaluation, build("method", "loss"), torch.ones(7).double(), run.peers))
    except InputError:
        return
    assert all(isfinite(value) or isnan(value) for value in found.values()), f"{dict(found)}"


def check_lacking(component: Metric, seed: int) -> None:
    """What is lacking is said by an InputError, or nothing is said: a study without ground truth or other runs."""
    run = _run(seed)
    given = {name: value for name, value in vars(run.evaluation).items() if name not in ("bank", "truth")}
    bare = Evaluation(**given, bank=None)
    with suppress(InputError):
        component.of(Measured(bare, run.method, run.scores))


CHECKS = {"numbers": check_numbers, "seed": check_seed, "constant": check_constant, "lacking": check_lacking}


def metric_suite(metric: Metric | type[Metric], skip: Collection[str] = (), examples: int = 2) -> type:
    """A class of tests for pytest: `metric` (an instance, or a class with defaults) on all CHECKS but `skip`."""
    return simple_suite("metric", CHECKS, metric, skip, examples)


@lru_cache
def _evaluation(seed: int) -> Evaluation:
    """A small fit with its truth: all tasks left out one at a time, and some subsets; one task counts as corrupted."""
    here = world(seed)
    singles, subsets = [(i,) for i in range(7)], [(0, 1), (2, 3), (4, 5), (1, 6), (0, 6)]
    targets = here.targets(mean=True)
    fits = here.bank.leave_out([*singles, *subsets], "task")
    loss = torch.cat([targets.losses(meta) - targets.losses() for meta in fits.meta.T])
    truth = Truth(
        removals=tuple(singles),
        change=fits.meta[:, :7] - here.fit.meta.unsqueeze(1),
        loss_change=loss[:7],
        seconds=0.0,
        subsets=tuple(subsets),
        subset_loss_change=loss[7:],
    )
    marks = torch.zeros(here.problem.tasks.query.targets.shape, dtype=torch.bool)
    marks[HARMFUL] = True
    return Evaluation(
        problem=here.over(replace(here.problem.tasks, corrupted_query=marks)),
        meta=here.fit.meta,
        adapted=here.problem.at(here.fit.meta).adapted,
        validation=here.validation,
        test_tasks=here.validation,
        bank=here.bank,
        seed=seed,
        truth=truth,
    )


def _run(seed: int) -> Measured:
    """Influence on the targets' mean loss, with what removing its lowest item did."""
    evaluation = _evaluation(seed)
    generator = torch.Generator().manual_seed(seed)
    method = build("method", "task-if", solver="exact")
    state = method.prepare(evaluation.context())
    scores = method.scores(state, evaluation.targets()).values[:, 0]
    lowest = (int(scores.argmin()),)
    change = method.parameter_change(state, [lowest])
    edited = evaluation.test(evaluation.meta + change.values[:, 0])
    retrained = evaluation.retrained([lowest]).qualities[0]
    curve = RemovalCurve.from_tensor(
        torch.tensor([[edited.accuracy, edited.loss, retrained.accuracy, retrained.loss]], dtype=torch.float64)
    )
    peers = {"noise": torch.randn(7, generator=generator, dtype=torch.float64)}
    return Measured(evaluation, method, scores, peers, curve=curve)
