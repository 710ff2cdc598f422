"""What every learner must satisfy: the mathematics, held against finite differences and exact retraining."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from hypothesis import assume, note
from torch import Tensor
from torch.autograd import grad

from metafluence import WEIGHED, Batch, ImplicitLearner, Level, Removal, TaskSet, Weights, build
from metafluence.testing.learner_trial import Trial, dense, derivative, near, stationary
from metafluence.testing.problems import random_meta


def check_adaptation(trial: Trial) -> None:
    """θ is the optimum that it says it is, its report is true, and `unroll` gives the same θ."""
    learner, tasks = trial.learner, trial.problem.tasks
    point = trial.problem.at(trial.meta, trial.uneven())
    support, weights = tasks.support, point.weights.support
    if learner.encodes:
        support = Batch(_features(trial, point.meta), support.targets)
    rows = point.meta[learner.own].expand(len(tasks), -1)
    assert tuple(point.adapted.shape) == (len(tasks), learner.adapted_size)
    if learner.unrolls:
        near(learner.unroll(rows, support, weights, True), point.adapted, 1e-12, "`unroll` against `adapt`")
        near(learner.unroll(rows, support, weights, False), point.adapted, 1e-12, "`unroll` without a graph")
    if isinstance(learner, ImplicitLearner):
        theta = point.adapted.clone().requires_grad_()
        (gradient,) = grad(learner.inner_loss(rows, theta, support, weights).sum(), theta)
        norms = gradient.norm(dim=1)
        assert float(norms.max()) < 1e-10, f"θ is no optimum of inner_loss: its gradient is {float(norms.max()):.1e}"
        assert torch.allclose(norms, point.adaptation.gradient_norm, atol=1e-13), "gradient_norm is not the gradient's"
        assert bool(point.adaptation.converged.all()), "an adaptation that converged says that it did not"


def _features(trial: Trial, meta: Tensor) -> Tensor:
    """Those of every task's support, one task after the other."""
    learner, tasks = trial.learner, trial.problem.tasks
    queries = tasks.query.inputs if learner.encodes_together else [None] * len(tasks)
    calls = [x if q is None else torch.cat([x, q]) for x, q in zip(tasks.support.inputs, queries, strict=True)]
    return torch.stack([learner.encode(meta, call)[: tasks.support.inputs.shape[1]] for call in calls])


def check_inner_hessian(trial: Trial) -> None:
    """`inner_hessian` is the derivative of inner_loss's gradient."""
    learner, tasks = trial.learner, trial.problem.tasks
    if not isinstance(learner, ImplicitLearner):
        return
    point = trial.problem.at(trial.meta, trial.uneven())
    support = tasks.support
    if learner.encodes:
        support = Batch(_features(trial, point.meta).detach(), support.targets)
    parts = (point.meta[learner.own].expand(len(tasks), -1), point.adapted, support, point.weights.support)

    def gradient(theta: Tensor) -> Tensor:
        leaf = theta.detach().requires_grad_()
        return grad(learner.inner_loss(parts[0], leaf, *parts[2:]).sum(), leaf)[0]

    columns = trial.random(*point.adapted.shape)
    found = learner.inner_hessian(*parts).matmat(columns.unsqueeze(-1)).squeeze(-1)
    derivative(found, gradient, point.adapted, columns, "inner_hessian", scale=1)


def check_gradient(trial: Trial) -> None:
    """The total gradient is the derivative of the objective."""
    weights, direction = trial.uneven(), trial.random(trial.problem.size)

    def objective(meta: Tensor) -> Tensor:
        return torch.tensor(trial.problem.at(meta, weights).objective, dtype=torch.float64)

    gradient = trial.problem.at(trial.meta, weights).gradient
    scale = 1 + float(direction.norm() * gradient.norm())
    derivative(gradient @ direction, objective, trial.meta, direction, "gradient", scale)


def check_hessian(trial: Trial) -> None:
    """The total Hessian is the derivative of the total gradient, and symmetric."""
    weights, direction = trial.uneven(), trial.random(trial.problem.size)
    point = trial.problem.at(trial.meta, weights)
    product = point.hessian().matmat(direction.unsqueeze(1))[:, 0]
    derivative(product, lambda m: trial.problem.at(m, weights).gradient, trial.meta, direction, "Hessian")


def check_symmetry(trial: Trial) -> None:
    """The Hessian is symmetric, with θ(λ) and with θ held."""
    for jacobian in ("total", "held"):
        matrix = trial.problem.at(trial.meta).hessian(jacobian).dense()
        near(matrix, matrix.T, 1e-11, f"{jacobian} Hessian against its transpose")


def check_responses(trial: Trial) -> None:
    """The response of an instance is the derivative of the total gradient by its weight; those of queries add up."""
    weights, one = trial.uneven(), torch.ones((), dtype=torch.float64)
    point = trial.problem.at(trial.meta, weights)
    for level in WEIGHED:
        item = trial.pick(level)

        def gradient(w: Tensor, level: Level = level, item: int = item) -> Tensor:
            return trial.problem.at(trial.meta, weights.set(level, item, float(w))).gradient

        at = getattr(weights, level).flatten()[item]
        found = point.responses(level)[:, item]
        derivative(found, gradient, at, one, f"response of a {level}", scale=1)


def check_sums(trial: Trial) -> None:
    """Responses of query instances at full weight add up to their task's, with θ(λ) and with θ held."""
    point = trial.problem.at(trial.meta)
    for jacobian in ("total", trial.direct):
        parts = point.responses("query", jacobian).unflatten(1, trial.problem.tasks.query.inputs.shape[:2]).sum(dim=2)
        near(parts, point.task_gradients(jacobian), 1e-11, "queries against their task", scale=1e-3)
    assert not point.responses("support", "held").any(), "with θ held, support instances have no effect"


def check_groups(trial: Trial) -> None:
    """A removal takes its items' weights times their responses from the gradient, each item once."""
    point = trial.problem.at(trial.meta, trial.uneven())
    for level in WEIGHED:
        last = getattr(point.weights, level).numel() - 1
        groups: list[Removal] = [(0, last), (last,), tuple(range(last)), (), *((i,) for i in range(min(last, 7)))]
        for jacobian in ("total", trial.direct):
            each = point.responses(level, jacobian)
            own = point.item_weights(level)
            wanted = torch.stack([each[:, list(group)] @ own[list(group)] for group in groups], dim=1)
            for count in (1, 4, len(groups)):
                twice = [group + group for group in groups[:count]]  # an item named twice counts once
                found = point.removed(twice, level, jacobian)
                near(found, wanted[:, :count], 1e-10, f"removals of groups of {level}", scale=1e-3)


def check_slopes(trial: Trial) -> None:
    """Derivatives along columns are what the responses say, however many columns there are."""
    point = trial.problem.at(trial.meta, trial.uneven())
    columns = trial.random(trial.problem.size, 7)
    for level in WEIGHED:
        for jacobian in ("total", trial.direct):
            wanted = point.responses(level, jacobian).T @ columns
            for width in (1, 2, 7):
                found = point.slopes(columns[:, :width], level, jacobian)
                near(found, wanted[:, :width], 1e-10, f"slopes of {level}", scale=1)


def check_losses(trial: Trial) -> None:
    """Losses of instances average to their task's, and the support's are those it would have as a query."""
    point = trial.problem.at(trial.meta)
    tasks = trial.problem.tasks
    by_query = point.item_losses("query").unflatten(0, tasks.query.inputs.shape[:2])
    near(by_query.mean(dim=1), point.item_losses("task"), 1e-12, "mean loss of queries against their task's")
    loss = trial.learner.output_loss
    if loss is not None:
        near(loss.values(point.predictions, tasks.query.targets), by_query, 1e-12, "output_loss against outer_loss")
    if trial.learner.mixes_instances and trial.learner.encodes_together:
        return  # another query gives the support other features
    swapped = trial.over(replace(tasks, query=tasks.support, corrupted_query=None)).at(trial.meta)
    near(point.item_losses("support"), swapped.item_losses("query"), 1e-12, "losses of the support")


def check_retraining(level: Level, trial: Trial) -> None:
    """Influence is the derivative of exact retraining by an item's weight, and its error is of second order."""
    problem = trial.problem
    if level == "support" and not trial.learner.adapted_size:
        assert not problem.at(trial.meta).responses(level).any()
        return
    newton = build("trainer", "newton", tolerance=1e-11)
    fitted = newton.fit(problem, generator=trial.generator)
    assume(fitted.gradient_norm < 1e-10)
    point = problem.at(fitted.meta)
    hessian = dense(point)
    smallest = float(torch.linalg.eigvalsh(hessian)[0])
    assume(smallest > 0.1)  # a minimum that small changes of weights move little
    item = trial.pick(level)
    slope = -torch.linalg.solve(hessian, point.responses(level)[:, item])
    assume(float(slope.norm()) > 1e-3)
    ones = Weights.ones(problem.tasks)
    errors = []  # of the refitted λ

    def refit(weight: Tensor) -> Tensor:
        near_by = point.meta + (float(weight) - 1) * slope
        found, left = stationary(problem, near_by, ones.set(level, item, float(weight)))
        errors.append(2 * left / smallest)
        return found

    one = torch.ones((), dtype=torch.float64)
    derivative(slope, refit, one, one, f"influence of a {level}", step=4e-3, noise=lambda: max(errors))
    far, close = (float((refit(1 - eps) - point.meta + eps * slope).norm()) for eps in (2e-2 * one, 1e-2 * one))
    note(f"errors of first order {far:.2e} {close:.2e}")
    # Where the second-order term all but vanishes, the third decides and the ratio is 8.
    assert far < 1e-9 or far / close > 3.6, "the error of influence is not of second order"


def check_order(trial: Trial) -> None:
    """Tasks in another order have the same responses, and the same objective."""
    order = torch.randperm(len(trial.problem.tasks), generator=trial.generator)
    one, other = trial.problem.at(trial.meta), trial.over(trial.problem.tasks[order]).at(trial.meta)
    near(other.gradient, one.gradient, 1e-11, "gradient in another order")
    near(other.task_gradients(), one.task_gradients()[:, order], 1e-11, "responses in another order")
    near(dense(other), dense(one), 1e-11, "Hessian in another order")


def check_chunks(trial: Trial) -> None:
    """How many tasks and columns are worked on at once changes nothing."""
    one_task = 1.5 * trial.problem.bytes_per_task(trial.meta) / 2**30  # and one column at a time
    small = replace(trial.problem, memory_gib=one_task)
    one, other = trial.problem.at(trial.meta), small.at(trial.meta)
    assert not other.chunks.plan.keeps
    assert other.chunks.plan.columns == 1
    columns = trial.random(trial.problem.size, 5)
    product = one.hessian().matmat(columns)
    near(other.hessian().matmat(columns), product, 1e-11, "product by parts")
    near(one.hessian().matmat(columns[:, 2:3]), product[:, 2:3], 1e-11, "one column alone")
    near(other.gradient, one.gradient, 1e-11, "gradient by parts")
    for level in WEIGHED:
        near(other.responses(level), one.responses(level), 1e-11, f"responses of {level} by parts", scale=1e-3)


def check_parts(trial: Trial) -> None:
    """A task's own product is that of the Hessian where no other task counts, but for the l2 term."""
    problem = trial.problem
    count = len(problem.tasks)
    columns = trial.random(problem.size, count)
    own = problem.at(trial.meta).product_each(columns)
    for i in range(count):
        column, others = columns[:, [i]], [k for k in range(count) if k != i]
        alone = problem.at(trial.meta, Weights.ones(problem.tasks).set("task", others, 0.0)).hessian()
        wanted = (alone.matmat(column) - problem.l2 * column)[:, 0]
        near(own[:, i], wanted, 1e-10, "a task's own product", scale=float(column.norm()))


def check_twins(trial: Trial) -> None:
    """Tasks that are the same have the same response."""
    tasks = trial.problem.tasks
    again = [0, *range(len(tasks))]
    support, query = (Batch(half.inputs[again], half.targets[again]) for half in (tasks.support, tasks.query))
    found = trial.over(TaskSet(support, query, ("twin", *tasks.ids))).at(trial.meta).task_gradients()
    near(found[:, 0], found[:, 1], 1e-12, "twin tasks")


def check_absence(trial: Trial) -> None:
    """Weight zero is the same as never having been there: of a task, and of an instance, which may then be any."""
    problem, tasks = trial.problem, trial.problem.tasks
    without = problem.at(trial.meta, Weights.ones(tasks).without("task", 0))
    gone = trial.over(tasks[1:]).at(trial.meta)
    assert abs(without.objective - gone.objective) < 1e-12, "a task of weight zero counts in the objective"
    near(without.gradient, gone.gradient, 1e-11, "gradient without a task")
    near(dense(without), dense(gone), 1e-11, "Hessian without a task")
    if trial.learner.mixes_instances:
        return  # batch statistics are of all inputs, whatever they weigh
    for level in ("support", "query"):
        weights = trial.uneven().set(level, 0, 0.0)
        half = getattr(tasks, level)
        inputs, targets = half.inputs.clone(), half.targets.clone()
        inputs[0, 0], targets[0, 0] = trial.random(*inputs.shape[2:]), targets[0, 1]
        other = trial.over(replace(tasks, **{level: Batch(inputs, targets)})).at(trial.meta, weights)
        near(other.gradient, problem.at(trial.meta, weights).gradient, 1e-11, f"a {level} instance of weight zero")


def check_bits(trial: Trial) -> None:
    """The same call gives the same bits, zeros give zeros, and nothing that was given is written to."""
    tasks = trial.problem.tasks
    meta, prints = trial.meta.clone(), tasks.fingerprint()
    columns = trial.random(trial.problem.size, 3)
    before = columns.clone()
    first, second = (trial.problem.at(trial.meta).hessian().matmat(columns) for _ in range(2))
    assert torch.equal(first, second), "the same product has other bits"
    assert torch.equal(trial.meta, meta), "λ was written to"
    assert tasks.fingerprint() == prints, "the tasks were written to"
    assert torch.equal(columns, before), "columns were written to"
    assert not trial.problem.at(trial.meta).hessian().matmat(torch.zeros_like(columns)).any()
    assert torch.equal(random_meta(trial.problem, 3), random_meta(trial.problem, 3)), "init_meta draws other numbers"


RETRAINING = {f"retraining-{level}": partial(check_retraining, level) for level in WEIGHED}

CHECKS: dict[str, Callable[[Trial], None]] = {
    "adaptation": check_adaptation,
    "inner-hessian": check_inner_hessian,
    "gradient": check_gradient,
    "hessian": check_hessian,
    "symmetry": check_symmetry,
    "responses": check_responses,
    "sums": check_sums,
    "groups": check_groups,
    "slopes": check_slopes,
    "losses": check_losses,
    **RETRAINING,
    "order": check_order,
    "chunks": check_chunks,
    "parts": check_parts,
    "twins": check_twins,
    "absence": check_absence,
    "bits": check_bits,
}

OF_AN_OBJECTIVE = {"gradient", "hessian", "responses", *RETRAINING}
"""Checks of derivatives of an objective, which a learner that is not `exact` has none of."""
