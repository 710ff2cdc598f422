"""Small random problems, as hypothesis strategies."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st

from metafluence import Batch, BilevelProblem, MetaLearner, Solver, TaskSet


@st.composite
def task_sets(draw: st.DrawFn, min_tasks: int = 2, max_tasks: int = 5, real: bool = False) -> TaskSet:
    """Random float64 tasks of 2 or 3 classes (every class occurs), or of as many real targets, and a few features."""
    count = draw(st.integers(min_tasks, max_tasks), label="tasks")
    ways = draw(st.integers(2, 3), label="ways")
    features = draw(st.integers(1, 4), label="features")
    n_support, n_query = draw(st.integers(ways, 6)), draw(st.integers(ways, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20), label="seed"))

    def half(n: int) -> Batch:
        inputs = torch.randn(count, n, features, generator=generator, dtype=torch.float64)
        if real:
            return Batch(inputs, torch.randn(count, n, ways, generator=generator, dtype=torch.float64))
        targets = torch.randint(0, ways, (count, n), generator=generator)
        targets[:, :ways] = torch.arange(ways)
        return Batch(inputs, targets)

    return TaskSet(half(n_support), half(n_query), tuple(f"task-{i}" for i in range(count)))


@st.composite
def problems(
    draw: st.DrawFn,
    learner: Callable[[], MetaLearner],
    inner_solver: Solver,
    min_l2: float = 0.3,
    max_l2: float = 3.0,
    min_tasks: int = 2,
    real: bool = False,
) -> BilevelProblem:
    """A learner on random tasks with a random l2."""
    tasks = draw(task_sets(min_tasks, real=real))
    return BilevelProblem(learner(), tasks, draw(st.floats(min_l2, max_l2), label="l2"), inner_solver)


def random_meta(problem: BilevelProblem, seed: int = 0) -> torch.Tensor:
    """Meta-parameters to test derivatives at."""
    return problem.learner.init_meta(torch.Generator().manual_seed(seed))
