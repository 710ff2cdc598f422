"""The bilevel problem F(λ; w, q, s) = Σ_i w_i L_O(λ, θ_i(λ; s_i); q_i) + δ/2 ‖λ‖²."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from metafluence.bilevel.chunk import Chunk
from metafluence.bilevel.memory import GraphSizes, MemoryPlan
from metafluence.bilevel.point import Point
from metafluence.errors import InputError
from metafluence.learners import MetaLearner
from metafluence.linalg import Solver
from metafluence.registry import NonNegative, Positive, check_fields
from metafluence.runtime import TaskShare, component_fingerprint
from metafluence.tasks import Batch, TaskSet, Weights


@dataclass(frozen=True, eq=False)
class BilevelProblem:
    """A learner, the tasks it is meta-trained on, and the strength δ of the objective's l2 term.

    Args:
        learner: bound to the tasks here.
        tasks: N tasks of one shape.
        l2: δ, absolute: the objective sums over tasks. 0 or more.
        inner_solver: solves with the tasks' own (inner) Hessians.
        memory_gib: bound on what kept graphs and batches of columns take. Results do not depend on it.

    Raises:
        InputError: l2 or memory_gib out of bounds, tasks that the learner cannot use, or a class in queries alone.

    Example:
        >>> import torch, metafluence as mf
        >>> half = mf.Batch(torch.tensor([[[1.0], [-1.0]], [[2.0], [0.5]]]), torch.tensor([[0, 1], [0, 1]]))
        >>> tasks = mf.TaskSet(half, half, ("first", "second"))
        >>> learner = mf.build("learner", "joint", backbone=torch.nn.Linear(1, 2))
        >>> problem = mf.BilevelProblem(learner, tasks, l2=0.1, inner_solver=mf.build("solver", "exact"))
        >>> problem.size
        4
        >>> point = problem.at(torch.zeros(4))
        >>> point.task_losses  # ln 2 for each
        tensor([0.6931, 0.6931])
        >>> point.responses("task").shape, point.hessian().matmat(torch.eye(4)).shape
        (torch.Size([4, 2]), torch.Size([4, 4]))
    """

    learner: MetaLearner
    tasks: TaskSet
    l2: NonNegative
    inner_solver: Solver
    memory_gib: Positive = 2.0
    _sizes: GraphSizes | None = field(default=None, repr=False)
    """Shared by problems made from one another; None: the learner is still to be bound."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self._sizes is None:
            object.__setattr__(self, "learner", self.learner.bind(self.tasks))
            object.__setattr__(self, "_sizes", GraphSizes())
            self._check_tasks(self.tasks)

    @property
    def size(self) -> int:
        """P, the number of meta-parameters."""
        return self.learner.meta_size

    def at(self, meta: Tensor, weights: Weights | None = None, init: Tensor | None = None) -> Point:
        """The problem at one λ.

        Args:
            meta: λ [P].
            weights: of all items; ones if not given.
            init: θ [N, Q] to start the adaptation from.
        """
        return Point(self, meta.detach(), weights or Weights.ones(self.tasks), init)

    def solving_with(self, inner_solver: Solver) -> BilevelProblem:
        """The same problem, its inner Hessians solved by another solver. Raises InputError where there are none."""
        if self.learner.unrolls:
            raise InputError(
                f"{type(self.learner).__name__} is differentiated through its own steps: there is no inner Hessian to "
                f"solve with by {type(inner_solver).__name__}. Leave inner_solver out, or use a learner with an inner "
                "optimum (imaml, logistic-head)."
            )
        return replace(self, inner_solver=inner_solver)

    def cast(self, dtype: torch.dtype) -> BilevelProblem:
        """The same problem in another precision."""
        return replace(self, tasks=self.tasks.to(dtype=dtype), _sizes=None)

    def over(self, tasks: TaskSet) -> BilevelProblem:
        """The same learner on other tasks, without l2: for the losses and gradients of validation and test tasks.

        They are moved to this problem's device. Raises InputError for tasks of another kind, and as `check_tasks` does.
        """
        shapes = [(list(t.input_shape), t.dtype, "real targets" if t.real else "classes") for t in (tasks, self.tasks)]
        if shapes[0] != shapes[1]:
            theirs, ours = ("inputs {} ({}) and {}".format(*shape) for shape in shapes)
            raise InputError(f"These tasks have {theirs}; the learner is bound to {ours}. Give tasks like these.")
        problem = replace(self, learner=self.learner.for_tasks(tasks), tasks=tasks.to(device=self.tasks.device), l2=0.0)
        problem._check_tasks(tasks)
        return problem

    def fingerprint(self) -> str:
        """A hash of everything a fit depends on except its trainer and start."""
        learner, solver = component_fingerprint(self.learner), component_fingerprint(self.inner_solver)
        parts = (learner, self.tasks.fingerprint(), repr(self.l2), solver)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def share(self, meta: Tensor, weights: Weights) -> TaskShare:
        """The tasks that this process computes at `meta`: all, but for several processes (see `join_ranks`)."""
        return TaskShare.of(len(self.tasks), lambda: f"{','.join(self.tasks.ids)} {weights.fingerprint()}", meta)

    def chunk(self, meta: Tensor, weights: Weights, where: slice, init: Tensor | None) -> Chunk:
        """A few of the tasks, adapted at `meta`; init: their own θ [n, Q] to start from."""
        support, query = self.tasks.support[where], self.tasks.query[where]
        return Chunk(self.learner, self.inner_solver, support, query, meta, weights[where], where, init)

    def gradient_chunks(self, meta: Tensor, weights: Weights, share: TaskShare) -> Iterator[Chunk]:
        """A share of the tasks, a few at a time, for a pass over losses and gradients; do not keep the chunks."""
        self.check(meta)
        per_task = self.bytes_per_task(meta, products=False)
        plan = MemoryPlan.for_gradients(share.size, per_task, self.memory_gib, meta.device)
        for where in share.slices(plan.tasks):
            yield self.chunk(meta, weights, where, None)

    def bytes_per_task(self, meta: Tensor, products: bool = True) -> int:
        """Memory of one task's graphs, for products or for a gradient alone. Measured once per shape of tasks."""

        def build(queries: int) -> Chunk:
            first = self.tasks[:1]  # read only where it is measured
            ones = Weights.ones(first)
            # Copies: of a part, autograd would count the whole.
            some = Batch(first.query.inputs[:, :queries].clone(), first.query.targets[:, :queries])
            weights = replace(ones, query=ones.query[:, :queries])
            single = Chunk(self.learner, self.inner_solver, first.support, some, meta, weights, slice(0, 1), None)
            if products:
                single.build_graphs()
            else:
                single.gradient("total")
            return single

        assert self._sizes is not None
        return self._sizes.per_task(self.tasks, products, build)

    def _check_tasks(self, tasks: TaskSet) -> None:
        self.learner.check_tasks(tasks)
        if tasks.counts is not None and self.learner.mixes_instances:
            raise InputError(
                f"The network of {type(self.learner).__name__} mixes instances (batch norm in training mode), so "
                "padding would change what it does with a task. Use a norm of single instances (group norm), "
                "or tasks of one size."
            )

    def check(self, meta: Tensor) -> None:
        """Raises InputError for meta-parameters that are not this learner's."""
        if tuple(meta.shape) != (self.size,):
            raise InputError(f"meta has shape {tuple(meta.shape)}; this learner has [{self.size}] meta-parameters.")
        if meta.device != self.tasks.device:
            raise InputError(f"meta is on {meta.device}, the tasks on {self.tasks.device}. Move it: meta.to(device).")
