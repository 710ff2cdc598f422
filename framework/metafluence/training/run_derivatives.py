"""Derivatives of the end of a run by the weights of its items: backwards for scores, forwards for parameter changes.

With s_{t+1} = U_t(s_t, g_t) and g_t = 1/|B_t| Σ_{i in B_t} w_i D_λ L_O^i(λ_t) + (δ/N) λ_t, from ā_T = (∇J, 0) backwards

    (p_s, p_g) = vjp of U_t at (s_t, g_t) applied to ā_{t+1}
    dJ/dω     += p_gᵀ r_ω(λ_t) / |B_t|          for the weights ω of the tasks in B_t
    ā_t        = p_s + (H_{B_t}(λ_t)/|B_t| + δ/N I) p_g  in its λ part

(Engstrom et al. 2025, MAGIC, arXiv 2503.13751 and 2504.16430). Forwards the same recursion carries a tangent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from metafluence.bilevel import Point
from metafluence.errors import ConvergenceError, InputError
from metafluence.learners import NetworkLearner
from metafluence.tasks import Level, Removal, check_removals
from metafluence.training.kept_sweep import KeptSweep, Sweep
from metafluence.training.run import RunStep, TrainingRun

Progressing = Callable[[int, int], None]
"""Given after each step: steps done and steps in all."""


@dataclass(frozen=True)
class RunAdjoint:
    """by_weight: dJ/dω for the weights ω of a level's items, [items, k], by level; for an image or a class by the
    factor of all its places. start [P, k]: dJ/dλ_0.

    growth [steps + 1, k]: the norms of dJ/dλ_t; where they explode backwards, small changes of early steps decide the
    end, and a first order predicts little. dead: names of parameters without effect, which are left out.
    """

    by_weight: dict[Level, Tensor]
    start: Tensor
    growth: Tensor
    dead: tuple[str, ...]


def run_adjoint(
    run: TrainingRun,
    goals: Tensor,
    levels: Sequence[Level] = ("task",),
    progress: Progressing | None = None,
    folder: str | Path | None = None,
) -> RunAdjoint:
    """Derivatives of k functions J of the run's final λ by the weights of all items, in one sweep backwards.

    Args:
        run: the run.
        goals: ∇J of each at the final λ, [P, k].
        levels: whose items.
        progress: told of each step.
        folder: where the sweep is kept after each segment of the run, to go on from there with the same result to the
            bit; a finished one costs nothing more.

    Raises:
        ConvergenceError: a derivative is not finite; the message names the step and the parameter.
        StoreError: the replay is not the run.
    """
    kept = None if folder is None else KeptSweep(Path(folder), run, goals, levels)
    sweep = Sweep.start(run, goals, levels) if kept is None else kept.load()
    segments = run.segments()
    while sweep.left:
        for step in reversed(run.recorded(*segments[sweep.left - 1])):
            step_back(run, step, sweep)
            if progress is not None:
                progress(run.steps - step.number + 1, run.steps)
        sweep.left -= 1
        if kept is not None:
            kept.keep(sweep)
    found: dict[Level, Tensor] = {level: _by_weight(run, level, sweep) for level in levels}
    return RunAdjoint(found, sweep.parts[0].T, sweep.growth, tuple(run.dead_parameters()))


def _by_weight(run: TrainingRun, level: Level, sweep: Sweep) -> Tensor:
    if level in sweep.found:
        return sweep.found[level]
    return run.weights.gather(level, lambda inner: run.weights.of(inner).unsqueeze(1) * sweep.found[inner])


def step_back(run: TrainingRun, step: RunStep, sweep: Sweep) -> None:
    """Take the sweep from after a step to before it."""
    parts, by_gradient = run.rule.vjp(step.state, step.gradient, step.rate, sweep.parts)
    by_gradient = by_gradient * run.alive
    size = len(step.batch)
    product, slopes = run.point_of(step).chunks.product_and_slopes(by_gradient, tuple(sweep.found))
    for level, total in sweep.found.items():
        own = run.weights.items_of(level, step.batch)
        total.index_add_(0, own.to(total.device), slopes[level] / size)
    bent = product / size + run.problem.l2 / len(run.problem.tasks) * by_gradient
    parts[0] = (parts[0] + bent) * run.alive
    sweep.parts = parts
    _check_finite(run, step.number, parts, list(sweep.found.values()))
    sweep.growth[step.number - 1] = parts[0].norm(dim=1)


def run_tangent(run: TrainingRun, removals: Sequence[Removal], level: Level = "task") -> Tensor:
    """The change of the final λ, [P, s], that a first order predicts for each of s removals.

    A removal changes the weight of each of its items by minus that weight. Errors as in `run_adjoint`.
    """
    removals = check_removals(removals, run.problem.tasks.items(level), level)
    alive = run.alive
    count = len(run.problem.tasks)
    rows = run.peaks.new_zeros(len(removals), run.problem.size)
    parts = [rows, *(torch.zeros_like(rows) for _ in run.rule.moments)]
    moved = False
    for start, stop in run.segments():
        for step in run.recorded(start, stop):
            local = run.weights.within(level, step.batch, removals)
            if not moved and not any(local):
                continue
            moved = True
            point, size = run.point_of(step), len(step.batch)
            along = point.product(parts[0].T, "total").T / size + run.problem.l2 / count * parts[0]
            if any(local):
                along = along - point.removed(local, level).T / size
            parts = run.rule.jvp(step.state, step.gradient, step.rate, parts, along * alive)
            parts[0] = parts[0] * alive
            _check_finite(run, step.number, parts, [])
    return parts[0].T


def _check_finite(run: TrainingRun, number: int, parts: Sequence[Tensor], totals: Sequence[Tensor]) -> None:
    if all(bool(part.isfinite().all()) for part in (*parts, *totals)):
        return
    where = next((int(bad[0, 1]) for part in parts if len(bad := (~part.isfinite()).nonzero())), None)
    name = "the scores" if where is None else _name(run, where)
    raise ConvergenceError(
        f"At step {number} of the run the derivative of {name} is not finite: the run magnifies small changes without "
        "bound. Lower the learning rate, give it a warmup, raise eps_root, or use float64."
    )


def _name(run: TrainingRun, where: int) -> str:
    learner = run.problem.learner
    if isinstance(learner, NetworkLearner):
        for name, positions in learner.network.positions().items():
            if bool((positions == where).any()):
                return f"parameter {name}"
    return f"meta-parameter {where}"


def check_run(run: TrainingRun | None, point: Point) -> TrainingRun:
    """The run, if it is one of the point's problem that ends there. Raises InputError for another."""
    if run is None:
        raise InputError(
            "There is no recorded run. Meta-train with record=True (adam, sgd, ...) and pass Context(run=fit.run)."
        )
    if run.problem is not point.problem and run.problem.fingerprint() != point.problem.fingerprint():
        raise InputError("The run is one of another problem (tasks, learner or l2) than the context's point.")
    if not torch.equal(run.final, point.meta):
        raise InputError("The run ends in other meta-parameters than the context's point. Take problem.at(run.final).")
    return run
