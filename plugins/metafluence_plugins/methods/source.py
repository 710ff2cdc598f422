"""source: influence through a run by approximate unrolling, segment by segment (SOURCE, Bae et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from metafluence import (
    PSD,
    SYMMETRIC,
    Context,
    Count,
    Curvature,
    InputError,
    Jacobian,
    LinearOperator,
    ParameterChange,
    Point,
    Removal,
    Scores,
    SolveReport,
    Targets,
    TrainingRun,
    apply_functions,
    check_removals,
    check_requirements,
    check_run,
)
from metafluence_plugins.curvatures.direct import DirectCurvature
from metafluence_plugins.curvatures.gauss_newton import GaussNewtonCurvature
from metafluence_plugins.methods.run_method import RunMethod, left_out
from metafluence_plugins.solvers.ek_fac import EKFAC

RTOL = 1e-6  # of functions of the curvature; far below the error of holding the curvature still


@dataclass(frozen=True)
class ApproximateUnrolling(RunMethod):
    """SOURCE: the run in segments, in each of which the curvature and the items' responses stand still.

    In a segment of steps with rates of sum t the run follows λ' = −P (H λ + ...), H the mean curvature of its batches
    and P what the optimiser makes of a gradient (1 for sgd, 1 / (√v + eps) for adam), so that an item with mean
    response r moves its end by (I − exp(−t P H)) H⁻¹ r, and what came before is carried through exp(−t P H). H and r
    are those of the tasks that the segment drew, at the λ of its middle step. With one segment at a minimum and t → ∞
    it is `influence`; with ever more segments and smaller rates `run-influence`.

    segments: how many. curvature: H. ek_fac: take the Kronecker factors of the outer loss with θ held in place of H,
    whose products cost no pass over tasks; the learner must have layers there. steps: most products of a column in a
    segment.
    """

    segments: Count = 3
    curvature: Curvature = GaussNewtonCurvature()
    ek_fac: bool = False
    steps: Count = 100

    def prepare(self, context: Context) -> Unrolled:
        run = check_run(context.run, context.point)
        if self.segments > run.steps:
            raise InputError(f"segments is {self.segments} for a run of {run.steps} steps. Give at most {run.steps}.")
        bounds = torch.linspace(0, run.steps, self.segments + 1).round().long().tolist()
        spans = [span for span in pairwise(bounds) if bool(run.group_rates()[slice(*span)].any())]  # else nothing moves
        return Unrolled(run, [Segment(self, run, *span, context.generator) for span in spans], context)

    def scores(self, state: Unrolled, targets: Targets) -> Scores:
        run, level, observer = state.run, state.context.level, state.context.observer
        columns = targets.gradients()
        values = columns.new_zeros(state.context.items, columns.shape[1])
        observer.stage("going back through the run's segments", len(state.segments))
        report = Report()
        for done, segment in enumerate(reversed(state.segments), 1):
            moved, columns = segment.unroll(columns, report)
            items = run.weights.items_of(level, segment.tasks).to(values.device)
            values.index_add_(0, items, segment.point.removal_slopes(moved, level, segment.jacobian) / state.count)
            observer.step(done, len(state.segments))
        observer.done()
        return Scores(values, level, self.units, report.solve, state.notes)

    def parameter_change(self, state: Unrolled, removals: Sequence[Removal]) -> ParameterChange:
        run, level, report = state.run, state.context.level, Report()
        removals = check_removals(removals, state.context.items, level)
        change = run.peaks.new_zeros(run.problem.size, len(removals))
        for segment in state.segments:
            local = run.weights.within(level, segment.tasks, removals)
            responses = segment.point.removed(local, level, segment.jacobian) / state.count
            change = segment.carry(change, responses, report)
        return ParameterChange(change, tuple(removals), report.solve, state.notes)


class Report:
    """Products, and the largest estimated error, of all segments."""

    def __init__(self) -> None:
        self.products, self.error = 0, 0.0

    def add(self, products: int, error: float) -> None:
        self.products, self.error = self.products + products, max(self.error, error)

    @property
    def solve(self) -> SolveReport:
        return SolveReport(self.products, self.error)


@dataclass(frozen=True)
class Unrolled:
    """A run in segments."""

    run: TrainingRun
    segments: list[Segment]
    context: Context

    @property
    def count(self) -> int:
        """N, the number of tasks that the run's gradients are a mean over."""
        return len(self.run.problem.tasks)

    @property
    def notes(self) -> tuple[str, ...]:
        clipped = "The run clipped its gradients; source leaves that out, as if no gradient had been too long."
        return (*left_out(self.run), *(() if self.run.rule.clip is None else (clipped,)))


class Segment:
    """Steps start + 1 to stop of a run.

    tasks [b]: those drawn in it. point: λ of its middle step with these tasks, each weighted by its share of the steps:
    1 where all N tasks had the same. span: Σ rates.
    """

    def __init__(
        self, method: ApproximateUnrolling, run: TrainingRun, start: int, stop: int, generator: torch.Generator
    ) -> None:
        self._method, self._generator = method, generator
        rates = run.group_rates()[start:stop]
        spans = rates.sum(dim=0)
        self.span = float(spans.max())
        count = len(run.problem.tasks)
        share = torch.zeros(count, dtype=torch.float64)
        of_steps = (rates[:, spans > 0] / spans[spans > 0]).mean(dim=1) * self.span
        for batch, rate in zip(run.batches[start:stop], of_steps.tolist(), strict=True):
            share.index_add_(0, batch, torch.full((len(batch),), rate / len(batch), dtype=torch.float64))
        self.tasks = share.nonzero().flatten()
        weights = run.weights[self.tasks]
        shares = (share[self.tasks] * count / self.span).to(weights.task)
        middle = (start + stop - 1) // 2
        meta, after = run.state(middle).meta, run.state(middle + 1)
        problem = run.problem.over(run.problem.tasks[self.tasks])
        self.point: Point = problem.at(meta, replace(weights, task=weights.task * shares))
        self.jacobian: Jacobian = method.curvature.jacobian(self.point)
        gain = torch.as_tensor(run.rule.gain(after), dtype=meta.dtype, device=meta.device).expand_as(meta).clone()
        shift, decay = torch.full_like(meta, run.problem.l2 / count), torch.zeros_like(meta)
        for (rule, where), own in zip(run.rule.groups(len(meta)), (spans / self.span).tolist(), strict=True):
            gain[where] *= own
            shift[where] += rule.weight_decay - rule.decoupled_decay
            decay[where] = own * rule.decoupled_decay
        self._scale = (gain.sqrt() * run.alive).unsqueeze(1)
        self._inverse = torch.where(self._scale > 0, 1 / self._scale, 0.0)
        self._shift, self._decay, self._count = shift.unsqueeze(1), decay.unsqueeze(1), count

    @cached_property
    def flow(self) -> LinearOperator:
        """A = √P H √P: in coordinates √P⁻¹ λ the run follows u' = −A u."""
        if self._method.ek_fac:
            hessian = KroneckerFactors(DirectCurvature("gauss-newton").at(self.point), self._generator)
        else:
            hessian = self._method.curvature.at(self.point)
        return Flow(hessian, self._scale, self._count, self._shift, self._decay)

    def unroll(self, columns: Tensor, report: Report) -> tuple[Tensor, Tensor]:
        """Cotangents V [P, k] of the segment's end, as they meet its responses and as they meet its start."""
        flowed, kept = self._flowed(self._scale * columns, report)
        return self._scale * flowed, self._inverse * kept

    def carry(self, change: Tensor, responses: Tensor, report: Report) -> Tensor:
        """The change [P, k] of the segment's end, of a change of its start and of responses in it."""
        flowed, kept = self._flowed(torch.cat([self._inverse * change, self._scale * responses], dim=1), report)
        k = change.shape[1]
        return self._scale * (kept[:, :k] + flowed[:, k:])

    def _flowed(self, columns: Tensor, report: Report) -> tuple[Tensor, Tensor]:
        """(I − exp(−tA)) A⁻¹ V and exp(−tA) V."""
        span = self.span

        def integral(values: Tensor) -> Tensor:
            tiny = values.abs() * span < 1e-12
            return torch.where(tiny, span, -torch.expm1(-span * values) / torch.where(tiny, 1.0, values))

        functions = (integral, lambda values: torch.exp(-span * values))
        found = apply_functions(self.flow, columns, functions, self._method.steps, RTOL)
        report.add(0 if self._method.ek_fac else found.products * columns.shape[1], found.error)
        return found.values[0], found.values[1]


class Flow(LinearOperator):
    """√P (H / N + shift) √P + decay, for scale √P, shift and decay [P, 1] as diagonals."""

    tags = frozenset({SYMMETRIC})

    def __init__(self, hessian: LinearOperator, scale: Tensor, count: int, shift: Tensor, decay: Tensor) -> None:
        self._hessian, self._scale, self._count = hessian, scale, count
        self._shift, self._decay = shift, decay
        self.size, self.dtype, self.device = hessian.size, hessian.dtype, hessian.device

    def matmat(self, columns: Tensor) -> Tensor:
        inner = self._scale * columns
        bent = self._hessian.matmat(inner) / self._count + self._shift * inner
        return self._scale * bent + self._decay * columns


class KroneckerFactors(LinearOperator):
    """The EK-FAC approximation of a layered operator."""

    tags = frozenset({SYMMETRIC, PSD})

    def __init__(self, operator: LinearOperator, generator: torch.Generator) -> None:
        self._solver = EKFAC()
        check_requirements(self._solver, operator)
        self._state = self._solver.prepare(operator, 0.0, generator)
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device

    def matmat(self, columns: Tensor) -> Tensor:
        return self._solver.product(self._state, columns)
