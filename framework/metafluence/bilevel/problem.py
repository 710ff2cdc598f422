"""The bilevel problem F(λ; w, q, s) = Σ_i w_i L_O(λ, θ_i(λ; s_i); q_i) + δ/2 ‖λ‖², and the problem at one λ."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from metafluence.bilevel.chunk import Chunk
from metafluence.bilevel.chunks import Chunks
from metafluence.bilevel.hessian import Hessian
from metafluence.bilevel.linearisation import Form, Jacobian
from metafluence.bilevel.memory import GraphSizes, MemoryPlan
from metafluence.errors import InputError
from metafluence.learners import Adaptation, MetaLearner
from metafluence.linalg import Solver
from metafluence.networks import LayerStack
from metafluence.registry import NonNegative, Positive, check_fields
from metafluence.runtime import component_fingerprint
from metafluence.tasks import Level, Removal, TaskSet, Weights, check_level, check_removals


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
            self.learner.check_tasks(self.tasks)

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
        self.learner.check_tasks(tasks)
        return replace(self, tasks=tasks.to(device=self.tasks.device), l2=0.0)

    def fingerprint(self) -> str:
        """A hash of everything a fit depends on except its trainer and start."""
        learner, solver = component_fingerprint(self.learner), component_fingerprint(self.inner_solver)
        parts = (learner, self.tasks.fingerprint(), repr(self.l2), solver)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def chunk(self, meta: Tensor, weights: Weights, where: slice, init: Tensor | None) -> Chunk:
        """A few of the tasks, adapted at `meta`."""
        return Chunk(self.learner, self.inner_solver, self.tasks, meta, weights, where, init)

    def gradient_chunks(self, meta: Tensor, weights: Weights) -> Iterator[Chunk]:
        """All tasks, a few at a time, for one pass over their losses and gradients; do not keep the chunks."""
        self.check(meta)
        per_task = self.bytes_per_task(meta, products=False)
        plan = MemoryPlan.for_gradients(len(self.tasks), per_task, self.memory_gib, meta.device)
        for where in self.tasks.chunks(plan.tasks):
            yield self.chunk(meta, weights, where, None)

    def bytes_per_task(self, meta: Tensor, products: bool = True) -> int:
        """Memory of one task's graphs, for products or for a gradient alone. Measured once per shape of tasks."""

        def build() -> Chunk:
            single = self.chunk(meta, Weights.ones(self.tasks), slice(0, 1), None)
            if products:
                single.build_graphs()
            else:
                single.gradient("total")
            return single

        assert self._sizes is not None
        return self._sizes.per_task(self.tasks, products, build)

    def check(self, meta: Tensor) -> None:
        """Raises InputError for meta-parameters that are not this learner's."""
        if tuple(meta.shape) != (self.size,):
            raise InputError(f"meta has shape {tuple(meta.shape)}; this learner has [{self.size}] meta-parameters.")
        if meta.device != self.tasks.device:
            raise InputError(f"meta is on {meta.device}, the tasks on {self.tasks.device}. Move it: meta.to(device).")


class Point:
    """A problem at one λ and one set of weights: losses, the total gradient, responses of items, Hessian products.

    `problem.at(meta)` makes it. Attributes: problem, meta [P], weights, chunks. Tasks adapt, and graphs are built, when
    something first needs them; see `Chunks`. For an unrolled learner ask for the gradient before the losses: the losses
    then reuse its steps.
    """

    def __init__(self, problem: BilevelProblem, meta: Tensor, weights: Weights, init: Tensor | None) -> None:
        problem.check(meta)
        self.problem = problem
        self.meta = meta
        self.weights = weights
        plan = MemoryPlan.for_products(len(self), problem.bytes_per_task(meta), problem.memory_gib, meta.device)
        self.chunks = Chunks(len(self), lambda where, start: problem.chunk(meta, weights, where, start), plan, init)

    def __len__(self) -> int:
        """N, the number of tasks."""
        return len(self.problem.tasks)

    @property
    def learner(self) -> MetaLearner:
        return self.problem.learner

    @cached_property
    def adaptation(self) -> Adaptation:
        parts = [chunk.adaptation for chunk in self.chunks]
        return Adaptation(
            torch.cat([p.adapted for p in parts]),
            torch.cat([p.gradient_norm for p in parts]),
            torch.cat([p.converged for p in parts]),
            max(p.iterations for p in parts),
        )

    @cached_property
    def _evaluated(self) -> tuple[Tensor, Tensor, Tensor]:
        found = [(chunk.adapted, chunk.losses(), chunk.predictions()) for chunk in self.chunks]
        adapted, losses, outputs = zip(*found, strict=True)
        return torch.cat(adapted), torch.cat(losses), torch.cat(outputs)

    @property
    def adapted(self) -> Tensor:
        """θ_i, [N, Q]."""
        return self._evaluated[0]

    @property
    def task_losses(self) -> Tensor:
        """L_O^i, [N]."""
        return self._evaluated[1]

    @property
    def predictions(self) -> Tensor:
        """Outputs for the query instances, [N, n_q, ...]."""
        return self._evaluated[2]

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
        for chunk in self.chunks:
            total += chunk.gradient(jacobian)
        return total

    def output_gradient(self, cotangents: Tensor) -> Tensor:
        """Σ_i D_λ ⟨c_i, f_i⟩, [P], for cotangents c [N, n_q, C] of the `predictions` f; θ moves with λ."""
        return torch.stack([chunk.output_gradient(cotangents[chunk.where]) for chunk in self.chunks]).sum(dim=0)

    def item_weights(self, level: Level = "task") -> Tensor:
        """ω of every item of the level, [items], in the order of `responses`; removing an item changes it by −ω."""
        return getattr(self.weights, check_level(level)).flatten()

    def task_gradients(self, jacobian: Jacobian = "total") -> Tensor:
        """D_λ L_O^i of every task, per unit weight, [P, N]: the responses of tasks."""
        return self.responses("task", jacobian)

    def responses(self, level: Level = "task", jacobian: Jacobian = "total") -> Tensor:
        """r_ω = D_λ ∂F/∂ω for the weight ω of every item, [P, items], in the order that Weights numbers them.

        To first order, λ(after removing the item) − λ* = ω (δI + H_Total)⁻¹ r_ω.
        """
        return self.projected(lambda rows: rows, level, jacobian).T

    def projected(
        self, project: Callable[[Tensor], Tensor], level: Level = "task", jacobian: Jacobian = "total"
    ) -> Tensor:
        """`project`, a linear map of rows [m, P] to [m, k], of the responses, a few items at a time: [items, k]."""
        return torch.cat([project(rows) for rows in self.chunks.rows(level, jacobian)])

    def removed(self, removals: Sequence[Removal], level: Level = "task", jacobian: Jacobian = "total") -> Tensor:
        """Σ ω r_ω over the items of each removal, [P, removals]: D_λ of the removed part of F, to first order.

        An item named twice in a removal counts once. Costs about one gradient per removal; for many removals the
        responses of all items are formed instead, where that takes fewer passes.
        """
        weights = self.item_weights(level)
        removals = check_removals(removals, len(weights), level, nothing=True)
        return self.chunks.removed(removals, weights, level, jacobian).T

    def removal_slopes(self, columns: Tensor, level: Level = "task", jacobian: Jacobian = "total") -> Tensor:
        """`removed`ᵀ V of every item on its own, for V [P, k]: ω times `slopes`, [items, k]."""
        return self.item_weights(level).unsqueeze(1) * self.slopes(columns, level, jacobian)

    def slopes(self, columns: Tensor, level: Level = "task", jacobian: Jacobian = "total") -> Tensor:
        """`responses(level)`ᵀ V for V [P, k], [items, k]: derivatives by ω, without forming the responses.

        Costs about one Hessian product per column, however many items there are. For more columns than passes that form
        the responses, they are formed, a few at a time.
        """
        return self.chunks.slopes(columns.T.contiguous(), level, jacobian)

    def item_losses(self, level: Level = "task") -> Tensor:
        """The loss of every item after adaptation, in nats, [items]: of a task its outer loss, else the instance's."""
        if level == "task":
            return self.task_losses
        return torch.cat([chunk.instance_losses(level) for chunk in self.chunks]).flatten()

    def outer_gradients(self) -> Tensor:
        """∂_θ L_O of every task, [N, Q]."""
        return torch.cat([chunk.outer_gradient() for chunk in self.chunks])

    def outer_layers(self) -> LayerStack:
        """The layers behind F with θ held, over all query instances as one task."""
        scaled = self.weights.task.unsqueeze(1) * self.weights.query / self.weights.query.shape[1]
        query, l2 = self.problem.tasks.query, self.problem.l2
        return self.learner.outer_layers(self.meta, self.adapted, query, scaled, l2)

    def hessian(self, jacobian: Jacobian = "total", form: Form = "exact") -> Hessian:
        """δI + Σ_i w_i H_i, matrix-free: with both defaults the exact total Hessian."""
        return Hessian(self, jacobian, form)

    def product(self, columns: Tensor, jacobian: Jacobian, form: Form = "exact") -> Tensor:
        """(δI + Σ_i w_i H_i) V for V [P, k]."""
        rows = columns.T.contiguous()
        return (self.problem.l2 * rows + self.chunks.product(rows, jacobian, form)).T

    def product_each(self, columns: Tensor, jacobian: Jacobian = "total") -> Tensor:
        """w_i H_i v_i, each task with its own column: V [P, N] to [P, N], without the l2 term."""
        rows = columns.T
        return torch.cat([chunk.product_each(rows[chunk.where], jacobian) for chunk in self.chunks]).T

    def part(self, tasks: Tensor, scale: float) -> Point:
        """The same λ with some of the tasks, their weights times `scale`."""
        problem, kept = self.problem, self.weights[tasks]
        memory_gib = problem.memory_gib * len(tasks) / len(self)
        part = replace(problem, tasks=problem.tasks[tasks], memory_gib=memory_gib)
        return Point(part, self.meta, replace(kept, task=scale * kept.task), self.adapted[tasks])

    def cast(self, dtype: torch.dtype) -> Point:
        """The same λ in another precision, in which the tasks adapt again from where they are."""
        weights = Weights(*(part.to(dtype) for part in (self.weights.task, self.weights.support, self.weights.query)))
        return Point(self.problem.cast(dtype), self.meta.to(dtype), weights, self.adapted.to(dtype))

    @property
    def is_explicit(self) -> bool:
        """Whether the outer loss depends on λ with θ held, so that Direct-IF has something to differentiate."""
        return bool(next(iter(self.chunks)).linearise("held").explicit)

    def inner_residual(self) -> float:
        """Largest relative residual of the inner solves made so far; NaN where graphs are not kept."""
        return max((c.linearise("total").inner_residual for c in self.chunks.kept), default=float("nan"))
