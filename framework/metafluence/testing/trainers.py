"""The conformance suite of trainers: `TestMine = trainer_suite(MyTrainer)` in a test file of one's own."""

from __future__ import annotations

from collections.abc import Collection

import torch

from metafluence import BilevelProblem, Fit, Record, TaskSet, Trainer, Weights, loss_gradient
from metafluence.testing.simple_suites import simple_suite
from metafluence.testing.worlds import world


def check_fit(component: Trainer, seed: int) -> None:
    """The fit is finite, of the problem's size, lower than its start, and its gradient norm is the objective's."""
    problem, start = world(seed).problem, _start(seed)
    found = _fit(component, problem, seed)
    assert found.meta.shape == start.shape, f"λ of shape {list(found.meta.shape)}, not {list(start.shape)}"
    assert bool(found.meta.isfinite().all()), "λ has values that are not finite"
    before, after = (problem.at(meta).objective for meta in (start, found.meta))
    assert after < before, f"F is {after:.4g} after training and {before:.4g} before"
    norm = float(loss_gradient(problem, found.meta)[1].norm())
    assert abs(norm - found.gradient_norm) <= 1e-6 * (1 + norm), f"it says ‖∇F‖ = {found.gradient_norm:.2e}: {norm:.2e}"


def check_weights(component: Trainer, seed: int) -> None:
    """A task of weight zero is as one that was never there: this is how models are retrained without it."""
    here = world(seed)
    gone = Weights.ones(here.problem.tasks).without("task", len(here.problem.tasks) - 1)
    found = _fit(component, here.problem, seed, gone)
    if not found.converged:
        return  # minibatches of other tasks end elsewhere
    left = float(loss_gradient(here.over(here.problem.tasks[:-1]), found.meta)[1].norm())
    assert left <= 10 * found.gradient_norm + 1e-9, f"without the task the gradient is {left:.1e}, not zero"


def check_start(component: Trainer, seed: int) -> None:
    """It starts where `init` says, and `init` is not written to."""
    here = world(seed)
    near = here.fit.meta + 1e-4
    kept = near.clone()
    generator = torch.Generator().manual_seed(seed)
    found = component.fit(here.problem, init=near, generator=generator, validation=_judge(component))
    assert torch.equal(near, kept), "`init` was changed"
    far = float((found.meta - here.fit.meta).norm())
    assert far <= 0.5 * float((_start(seed) - here.fit.meta).norm()), "from beside a minimum it goes away from it"


def check_seed(component: Trainer, seed: int) -> None:
    """The same generator gives the same bits, and the tasks are not written to."""
    problem = world(seed).problem
    before = problem.tasks.fingerprint()
    first, second = (_fit(component, problem, seed).meta for _ in range(2))
    assert torch.equal(first, second), "the second fit differs from the first"
    assert problem.tasks.fingerprint() == before, "the tasks were changed"


def check_progress(component: Trainer, seed: int) -> None:
    """It tells of its steps: numbers that grow, to no more than the maximum, and a record of each."""
    told: list[tuple[int, int]] = []

    def progress(step: int, most: int, record: Record) -> None:
        told.append((step, most))

    start = torch.Generator().manual_seed(seed)
    component.fit(world(seed).problem, generator=start, progress=progress, validation=_judge(component))
    assert told, "`progress` was never called"
    steps = [step for step, _ in told]
    assert steps == sorted(set(steps)), f"steps {steps[:5]} ..."
    assert all(1 <= step <= most for step, most in told), f"of the steps, {told[-1]}"


CHECKS = {
    "fit": check_fit,
    "weights": check_weights,
    "start": check_start,
    "seed": check_seed,
    "progress": check_progress,
}


def trainer_suite(trainer: Trainer | type[Trainer], skip: Collection[str] = (), examples: int = 2) -> type:
    """A class of tests for pytest: `trainer` (an instance, or a class with defaults) on all CHECKS but `skip`."""
    return simple_suite("trainer", CHECKS, trainer, skip, examples)


def _start(seed: int) -> torch.Tensor:
    return world(seed).problem.learner.init_meta(torch.Generator().manual_seed(seed))


def _fit(component: Trainer, problem: BilevelProblem, seed: int, weights: Weights | None = None) -> Fit:
    generator = torch.Generator().manual_seed(seed)
    return component.fit(problem, weights, generator=generator, validation=_judge(component))


def _judge(component: Trainer) -> TaskSet | None:
    return world(0).validation if component.needs_validation else None
