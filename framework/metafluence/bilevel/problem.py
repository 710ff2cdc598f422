"""The bilevel problem: F(λ; w, q, s) = Σ_i w_i L_O(λ, θ_i(λ; s_i); q_i) + δ/2 ‖λ‖²."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from copy import copy

import torch
from torch import Tensor

from metafluence.bilevel.chunks import Chunk
from metafluence.bilevel.point import Point
from metafluence.errors import InputError
from metafluence.learners import MetaLearner
from metafluence.linalg import Solver
from metafluence.runtime import component_fingerprint, graph_bytes
from metafluence.tasks import TaskSet, Weights

# A gradient alone keeps no graph afterwards; past this much on a processor, fresh memory costs more than it saves.
GRADIENT_BYTES = 2**26


class BilevelProblem:
    """A learner, the tasks it is meta-trained on, and the strength δ of the objective's l2 term.

    l2: δ, absolute (the objective sums over tasks). inner_solver: solves with the inner Hessians.
    memory_gib: bound on what kept graphs and batches of columns may take; results do not depend on it.
    """

    def __init__(
        self, learner: MetaLearner, tasks: TaskSet, l2: float, inner_solver: Solver, memory_gib: float = 2.0
    ) -> None:
        if not l2 >= 0:
            raise InputError(f"l2 is δ of the objective δ/2 ‖λ‖² and cannot be {l2}. Give a number of 0 or more.")
        self.learner = learner.bind(tasks)
        self.tasks = tasks
        self.l2 = float(l2)
        self.inner_solver = inner_solver
        self.memory_gib = memory_gib
        self._measured: dict[tuple[object, ...], int] = {}  # shared by all copies

    @property
    def size(self) -> int:
        """P, the number of meta-parameters."""
        return self.learner.meta_size

    def at(self, meta: Tensor, weights: Weights | None = None, init: Tensor | None = None) -> Point:
        """All tasks adapted at `meta` [P]. `init` [N, Q] is a warm start for the adaptation."""
        return Point(self, meta.detach(), weights or Weights.ones(self.tasks), init)

    def solving_with(self, inner_solver: Solver) -> BilevelProblem:
        """The same problem, its inner Hessians solved by another solver. Raises InputError where there are none."""
        if self.learner.unrolls:
            raise InputError(
                f"{type(self.learner).__name__} is differentiated through its own steps: there is no inner Hessian to "
                f"solve with by {type(inner_solver).__name__}. Leave inner_solver out, or use a learner with an inner "
                "optimum (imaml, logistic-head)."
            )
        other = copy(self)
        other.inner_solver = inner_solver
        return other

    def cast(self, dtype: torch.dtype) -> BilevelProblem:
        """The same problem in another precision."""
        tasks = self.tasks.to(dtype=dtype)
        return BilevelProblem(self.learner, tasks, self.l2, self.inner_solver, self.memory_gib)

    def over(self, tasks: TaskSet) -> BilevelProblem:
        """The same learner on other tasks, without l2: for the losses and gradients of validation and test tasks.

        They are moved to this problem's device.
        """
        if tasks.input_shape != self.tasks.input_shape or tasks.dtype != self.tasks.dtype:
            raise InputError(
                f"These tasks have inputs {list(tasks.input_shape)} ({tasks.dtype}); the learner is bound to "
                f"{list(self.tasks.input_shape)} ({self.tasks.dtype})."
            )
        other = copy(self)
        other.tasks, other.l2 = tasks.to(device=self.tasks.device), 0.0
        return other

    def fingerprint(self) -> str:
        """A hash of all that a fit depends on, but for its trainer and start."""
        parts = (
            component_fingerprint(self.learner),
            self.tasks.fingerprint(),
            repr(self.l2),
            component_fingerprint(self.inner_solver),
        )
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def chunk(self, meta: Tensor, weights: Weights, where: slice, init: Tensor | None) -> Chunk:
        """A few of the tasks, adapted at `meta`."""
        return Chunk(self.learner, self.inner_solver, self.tasks, meta, weights, where, init)

    def gradient_chunks(self, meta: Tensor, weights: Weights) -> Iterator[Chunk]:
        """All tasks, a few at a time, for one pass over their losses and gradients: no chunk is to be kept."""
        self.check(meta)
        budget = self.memory_gib * 2**30
        bound = min(budget, GRADIENT_BYTES) if meta.device.type == "cpu" else budget
        for where in self.tasks.chunks(int(max(1, bound // self.bytes_per_task(meta, products=False)))):
            yield self.chunk(meta, weights, where, None)

    def bytes_per_task(self, meta: Tensor, products: bool = True) -> int:
        """Memory of one task's graphs, kept for products or for a gradient alone. Measured once per shape of tasks."""
        shapes = (self.tasks.support.targets.shape[1:], self.tasks.query.targets.shape[1:])
        if (products, *shapes) not in self._measured:

            def build() -> Chunk:
                single = self.chunk(meta, Weights.ones(self.tasks), slice(0, 1), None)
                if products:
                    single.ready()
                else:
                    single.gradient("total")
                return single

            self._measured[products, *shapes] = max(1, graph_bytes(build))
        return self._measured[products, *shapes]

    def check(self, meta: Tensor) -> None:
        """Raises InputError for meta-parameters that are not this learner's."""
        if tuple(meta.shape) != (self.size,):
            raise InputError(f"meta has shape {tuple(meta.shape)}; this learner has [{self.size}] meta-parameters.")
        if meta.device != self.tasks.device:
            raise InputError(f"meta is on {meta.device}, the tasks on {self.tasks.device}. Move it: meta.to(device).")
