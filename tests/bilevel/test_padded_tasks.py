"""A padded set of tasks says of each task what the task says alone, for every learner."""

import pytest
import torch
from hypothesis import given, strategies as st

import metafluence as mf
from how_many import examples
from metafluence.testing.problems import random_meta
from parts import EXACT, LEARNERS, NEWTON, REAL, VARIANTS

EVERY = LEARNERS | VARIANTS | REAL
MINIMISED = [name for name in EVERY if "first-order" not in name]
WAYS = 2


@st.composite
def unequal(draw: st.DrawFn, real: bool) -> list[mf.Task]:
    """Two or three tasks of 2 to 5 instances in each half; the first is padded, and the last has a class more."""
    sizes = draw(st.lists(st.tuples(st.integers(WAYS, 4), st.integers(WAYS, 4)), min_size=1, max_size=2))
    sizes.append(tuple(max(size) + 1 for size in zip(*sizes, strict=True)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def half(n: int, ways: int) -> mf.Batch:
        inputs = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        targets = torch.randn(n, WAYS, generator=generator, dtype=torch.float64)
        return mf.Batch(inputs, targets if real else torch.arange(n) % ways)

    ways = [WAYS] * (len(sizes) - 1) + [WAYS + 1]
    return [
        mf.Task(f"task-{i}", *(half(n, own) for n in size))
        for i, (size, own) in enumerate(zip(sizes, ways, strict=True))
    ]


def near(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", EVERY)
@given(data=st.data())
@examples(1)
def test_a_padded_task_is_the_task(name, data):
    tasks = data.draw(unequal(real=name in REAL))
    padded = mf.BilevelProblem(EVERY[name](), mf.pad_tasks(tasks), 0.5, EXACT)
    meta = random_meta(padded)
    point = padded.at(meta)
    goals = torch.randn(len(meta), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    products = torch.zeros_like(goals)
    for i, task in enumerate(tasks):
        alone = mf.BilevelProblem(padded.learner, mf.TaskSet.stack([task]), 0.0, EXACT).at(meta)
        near(point.task_losses[i : i + 1], alone.task_losses)
        near(point.adapted[i : i + 1], alone.adapted)
        near(point.task_gradients()[:, i], alone.gradient)
        near(point.predictions[i, : len(task.query.targets)], alone.predictions[0])
        products += alone.product(goals, "total")
        for level in ("support", "query"):
            n = len(getattr(task, level).targets)
            own = slice(i * padded.tasks.each(level), (i + 1) * padded.tasks.each(level))
            for found, wanted in (
                (point.removal_slopes(goals, level)[own], alone.removal_slopes(goals, level)),
                ((point.responses(level) * point.item_weights(level))[:, own].T, alone.responses(level).T),
                (point.item_losses(level)[own], alone.item_losses(level)),
            ):
                near(found[:n], wanted)
                assert not found[n:].any()
    near(point.product(goals, "total"), products + 0.5 * goals)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in LEARNERS else pytest.mark.slow) for name in MINIMISED]
)
@given(data=st.data())
@examples(1)
def test_retraining_a_padded_task_is_retraining_the_task(name, data):
    tasks = data.draw(unequal(real=name in REAL))
    padded = mf.BilevelProblem(EVERY[name](), mf.pad_tasks(tasks), 2.0, EXACT)
    alone = mf.BilevelProblem(padded.learner, mf.TaskSet.stack(tasks[:1]), 2.0, EXACT)
    start = 0.3 * random_meta(padded)
    one, other = mf.Weights.ones(padded.tasks).without("task", range(1, len(tasks))), mf.Weights.ones(alone.tasks)
    for item in (None, 1):
        if item is not None:
            one, other = one.without("query", item), other.without("query", item)
        fits = [
            NEWTON.fit(problem, init=start, weights=weights) for problem, weights in ((padded, one), (alone, other))
        ]
        assert all(fit.converged for fit in fits)
        near(fits[0].meta, fits[1].meta, 1e-8)
