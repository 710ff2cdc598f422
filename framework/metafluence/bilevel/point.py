"""The bilevel problem at one λ: losses, the total gradient, responses of items, and products with the total Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metafluence.bilevel.chunks import Chunk
from metafluence.bilevel.hessian import Hessian
from metafluence.bilevel.linearisation import Form, Jacobian
from metafluence.learners import Adaptation
from metafluence.tasks import Level, Removal, Weights

if TYPE_CHECKING:  # a problem makes its points
    from metafluence.bilevel.problem import BilevelProblem

# Past this much a batch of columns only falls out of the caches (measured: 64 columns cost half per column of 256).
COLUMN_BYTES = 2**27

# Graphs of tasks that are worked on together; past this a processor waits for memory (conv4: 2.5 times as long).
CHUNK_BYTES = 2**27

Projector = Callable[[Tensor], Tensor]
"""A linear map of rows [m, P] to [m, k]."""


class Point:
    """The problem at one λ and one set of weights, everything on demand.

    Chunks of tasks keep their graphs if all of them fit the problem's memory, else each is rebuilt when needed. Where
    steps are unrolled, one that is asked for its gradient first unrolls once, one asked for losses first twice.
    """

    def __init__(self, problem: BilevelProblem, meta: Tensor, weights: Weights, init: Tensor | None) -> None:
        problem.check(meta)
        self.problem = problem
        self.meta = meta
        self.weights = weights
        budget = problem.memory_gib * 2**30
        per_task = problem.bytes_per_task(meta)
        count = len(problem.tasks)
        bound = min(budget, CHUNK_BYTES) if meta.device.type == "cpu" else budget
        self._chunk_size = int(min(count, max(1, bound // per_task)))
        self.columns = int(max(1, min(budget, COLUMN_BYTES) // (per_task * self._chunk_size)))
        self._start = init
        self._kept = list(self._build()) if per_task * count <= budget else None

    @cached_property
    def adaptation(self) -> Adaptation:
        parts = [chunk.adaptation for chunk in self._chunks()]
        return Adaptation(
            torch.cat([p.adapted for p in parts]),
            torch.cat([p.gradient_norm for p in parts]),
            torch.cat([p.converged for p in parts]),
            max(p.iterations for p in parts),
        )

    @cached_property
    def _judged(self) -> tuple[Tensor, Tensor, Tensor]:
        found = [(chunk.adapted, chunk.losses(), chunk.predictions()) for chunk in self._chunks()]
        adapted, losses, outputs = zip(*found, strict=True)
        return torch.cat(adapted), torch.cat(losses), torch.cat(outputs)

    @property
    def adapted(self) -> Tensor:
        """θ_i, [N, Q]."""
        return self._judged[0]

    @property
    def task_losses(self) -> Tensor:
        """L_O^i, [N]."""
        return self._judged[1]

    @property
    def predictions(self) -> Tensor:
        """Outputs for the query instances, [N, n_q, ...]."""
        return self._judged[2]

    @property
    def objective(self) -> float:
        """F at this point."""
        penalty = self.problem.l2 / 2 * self.meta.square().sum()
        return float((self.weights.task * self.task_losses).sum() + penalty)

    @cached_property
    def gradient(self) -> Tensor:
        """Total gradient of F, [P]."""
        return self.partial_gradient("total") + self.problem.l2 * self.meta

    def partial_gradient(self, jacobian: Jacobian) -> Tensor:
        """Σ_i w_i D_λ L_O^i under the given dθ/dλ, without the l2 term, [P]."""
        total = torch.zeros_like(self.meta)
        for chunk in self._chunks():
            total += chunk.gradient(jacobian)
        return total

    def task_gradients(self, jacobian: Jacobian = "total") -> Tensor:
        """r_i = D_λ L_O^i of every task, unweighted, [P, N]: the responses at task level."""
        return self.responses("task", jacobian)

    def responses(self, level: Level = "task", jacobian: Jacobian = "total") -> Tensor:
        """r_ω = D_λ ∂F/∂ω for the weight of every item of a level, [P, items], in the order that Weights numbers them.

        To first order, λ(after removing the item) − λ* = (δI + H_Total)⁻¹ r_ω.
        """
        return self.projected(lambda rows: rows, level, jacobian).T

    def projected(self, project: Projector, level: Level = "task", jacobian: Jacobian = "total") -> Tensor:
        """`project` [m, P] -> [m, k] of the responses, a few items at a time: [items, k]."""
        return torch.cat([project(rows) for rows in self._rows(level, jacobian)])

    def _rows(self, level: Level, jacobian: Jacobian) -> Iterator[Tensor]:
        """The responses of a few items at a time, in order, [m, P] each."""
        for chunk in self._chunks():
            if level == "task":
                yield chunk.gradients(jacobian)
            else:
                yield from chunk.instance_gradients(level, jacobian)

    def summed(self, removals: Sequence[Removal], level: Level = "task", jacobian: Jacobian = "total") -> Tensor:
        """Σ of the responses of each removal's items, [P, removals], without forming those of all items.

        Costs about one gradient for each removal; where it takes fewer passes to form the responses, they are formed.
        """
        total = torch.zeros(len(removals), len(self.meta)).to(self.meta)
        if len(removals) > self._passes(level, jacobian):
            self._gather(removals, self._rows(level, jacobian), total)
            return total.T
        each = getattr(self.weights, level).numel() // len(self.problem.tasks)
        picked = self.meta.new_zeros(len(removals), each * len(self.problem.tasks))
        for row, removal in zip(picked, removals, strict=True):
            row[list(removal)] = 1.0
        for chunk in self._chunks():
            own = picked[:, chunk.where.start * each : chunk.where.stop * each]
            for some in range(0, len(removals), self.columns):
                batch = slice(some, some + self.columns)
                total[batch] += chunk.sums(own[batch], level, jacobian)
        return total.T

    @staticmethod
    def _gather(removals: Sequence[Removal], rows: Iterator[Tensor], total: Tensor) -> None:
        """Add to each line of `total` [removals, P] the rows of its items, as they come."""
        pairs = [(item, number) for number, removal in enumerate(removals) for item in set(removal)]
        items, numbers = torch.tensor(pairs, dtype=torch.long, device=total.device).reshape(-1, 2).T
        start = 0
        for some in rows:
            here = (items >= start) & (items < start + len(some))
            total.index_add_(0, numbers[here], some[items[here] - start])
            start += len(some)

    def _passes(self, level: Level, jacobian: Jacobian) -> int:
        """How many passes it takes to form the responses: one of tasks and of instances that act alone, else one for
        each item of a task.
        """
        if not self.problem.learner.adapted_size or jacobian == "held":
            return 1
        return getattr(self.weights, level).numel() // len(self.problem.tasks)

    def slopes(self, columns: Tensor, level: Level = "task", jacobian: Jacobian = "total") -> Tensor:
        """`responses(level)`ᵀ V for V [P, k], [items, k], without forming the responses.

        Costs about one Hessian product per column, however many items there are. Where there are more columns than it
        takes passes to form the responses they are formed, a few at a time.
        """
        if columns.shape[1] > self._passes(level, jacobian):
            return self.projected(lambda rows: rows @ columns, level, jacobian)
        rows, found = columns.T.contiguous(), []
        for chunk in self._chunks():
            parts = [chunk.slopes(some, level, jacobian) for some in rows.split(self.columns)]
            found.append(torch.cat(parts, dim=1))
        return torch.cat(found)

    def item_losses(self, level: Level = "task") -> Tensor:
        """The loss of every item after adaptation, in nats, [items]: of tasks their outer loss, else the instance's."""
        if level == "task":
            return self.task_losses
        return torch.cat([chunk.instance_losses(level) for chunk in self._chunks()]).flatten()

    def outer_gradients(self) -> Tensor:
        """∂_θ L_O of every task, [N, Q]."""
        return torch.cat([chunk.outer_gradient() for chunk in self._chunks()])

    def hessian(self, jacobian: Jacobian = "total", form: Form = "exact") -> Hessian:
        """δI + Σ_i w_i H_i: for the true Jacobian and the exact form the exact total Hessian, matrix-free."""
        return Hessian(self, jacobian, form)

    def product(self, columns: Tensor, jacobian: Jacobian, form: Form = "exact") -> Tensor:
        """(δI + Σ_i w_i H_i) V for V [P, k]."""
        rows = columns.T.contiguous()
        total = self.problem.l2 * rows
        for chunk in self._chunks():
            for start in range(0, len(rows), self.columns):
                batch = slice(start, start + self.columns)
                total[batch] += chunk.product(rows[batch], jacobian, form)
        return total.T

    def product_each(self, columns: Tensor, jacobian: Jacobian = "total") -> Tensor:
        """w_i H_i v_i, task by task with its own column: V [P, N] to [P, N], without the l2 term."""
        rows = columns.T
        return torch.cat([chunk.product_each(rows[chunk.where], jacobian) for chunk in self._chunks()]).T

    def part(self, tasks: Tensor, scale: float) -> Point:
        """The same λ with some of the tasks, each weighing `scale` times as much."""
        problem = copy(self.problem)
        problem.tasks = self.problem.tasks[tasks]
        problem.memory_gib = self.problem.memory_gib * len(tasks) / len(self.problem.tasks)
        kept = self.weights[tasks]
        weights = Weights(scale * kept.task, kept.support, kept.query)
        return Point(problem, self.meta, weights, self.adapted[tasks])

    def cast(self, dtype: torch.dtype) -> Point:
        """The same λ in another precision, in which tasks adapt anew, from where they are."""
        weights = Weights(*(part.to(dtype) for part in (self.weights.task, self.weights.support, self.weights.query)))
        return Point(self.problem.cast(dtype), self.meta.to(dtype), weights, self.adapted.to(dtype))

    @property
    def is_explicit(self) -> bool:
        """Whether the outer loss depends on λ with θ held, so that Direct-IF has something to differentiate."""
        return bool(next(self._chunks()).linearise("held").explicit)

    def inner_residual(self) -> float:
        """Largest relative residual of the inner solves made so far; NaN where graphs are not kept."""
        return max((c.linearise("total").inner_residual for c in self._kept or []), default=float("nan"))

    def _chunks(self) -> Iterator[Chunk]:
        if self._kept is not None:
            yield from self._kept
            return
        adapted = []
        for chunk in self._build():
            yield chunk
            adapted.append(chunk.adapted)
        self._start = torch.cat(adapted)

    def _build(self) -> Iterator[Chunk]:
        for where in self.problem.tasks.chunks(self._chunk_size):
            yield self.problem.chunk(self.meta, self.weights, where, self._start)
