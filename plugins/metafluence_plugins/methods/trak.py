"""TRAK: influence in a random projection of the outputs' gradients (Park et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metafluence import (
    LEVELS,
    AttributionMethod,
    Context,
    Count,
    InputError,
    Level,
    NonNegative,
    Point,
    Projection,
    ProjectionKind,
    Scores,
    Seed,
    SoftmaxLoss,
    Targets,
    Units,
    weighed,
)


@dataclass(frozen=True)
class Projected:
    """One model of the ensemble."""

    point: Point
    items: dict[Level, Tensor]
    """By level: projected gradients of the query instances' margins, responses of the support instances, [m, dim]."""
    rest: dict[Level, Tensor]
    """By level: 1 − p of each query instance, ones for support instances, [m]."""
    kernel: Tensor
    """Cholesky factor of ΦᵀΦ + ridge, [dim, dim]."""


@dataclass(frozen=True)
class Ensemble:
    """All models, projected by one projection."""

    context: Context
    projection: Projection
    models: tuple[Projected, ...]


@dataclass(frozen=True)
class TRAK(AttributionMethod):
    """Rᵀr_i · (ΦᵀΦ + ridge)⁻¹ · Rᵀg_j; R a random [P, dim], all gradients total ones.

    Φ holds the projected gradients φ of the margin log p/(1 − p) of every query instance, which counts by its weight.
    A query instance's response is r = Q φ / n but for the sign, with the paper's Q = 1 − p. Of several models the mean
    of φ_i (ΦᵀΦ)⁻¹ g_j and the mean of Q_i are multiplied (Park et al. 2023, equation 17); a task is the sum of its
    query instances. Responses of support instances have no such factor: their products are averaged.
    Raises InputError where the outer loss is not softmax cross-entropy.
    """

    dim: Count = 512
    projection: ProjectionKind = "rademacher"
    ridge: NonNegative = 1.0
    """Relative to the kernel's mean eigenvalue."""
    models: Literal["fit", "checkpoints"] = "fit"
    """`fit` is λ* alone; `checkpoints` those of meta-training."""
    seed: Seed = 0

    levels: ClassVar[frozenset[Level]] = frozenset(LEVELS)
    units: ClassVar[Units] = "rank_only"
    needs_minimum: ClassVar[bool] = False

    @property
    def additive(self) -> bool:
        return True

    @property
    def needs_checkpoints(self) -> bool:
        return self.models == "checkpoints"

    def prepare(self, context: Context) -> Ensemble:
        learner = context.problem.learner
        if not isinstance(learner.output_loss, SoftmaxLoss):
            raise InputError(
                f"trak needs the margins of a softmax cross-entropy; {type(learner).__name__}'s output_loss here is "
                f"{type(learner.output_loss).__name__}. Use influence."
            )
        points = [context.point]
        if self.models == "checkpoints":
            points = [context.point.near(c.meta) for c in context.checkpoints]
        projection = Projection(context.problem.size, self.dim, self.projection, self.seed)
        models = tuple(self._model(point, projection, context.level) for point in points)
        return Ensemble(context, projection, models)

    def _model(self, point: Point, projection: Projection, level: Level) -> Projected:
        query = point.projected(projection.apply, "query")
        # A query instance's loss is −log p, so dloss/dmargin is −(1 − p).
        rest = -torch.expm1(-point.item_losses("query"))
        rest = rest.clamp_min(torch.finfo(rest.dtype).eps)
        items: dict[Level, Tensor] = {"query": query / rest.unsqueeze(1)}
        rests: dict[Level, Tensor] = {"query": rest}
        if "support" in weighed((level,)):
            items["support"] = point.projected(projection.apply, "support")
            rests["support"] = rest.new_ones(len(items["support"]))
        task, own = point.weights.task.unsqueeze(1).expand_as(point.weights.query).flatten(), point.weights.query
        # A response has its task's weight as a factor and not its own; a sum of squares has both once.
        scale = own.shape[1] / (task.sqrt() * rest) * own.flatten().sqrt()
        margins = torch.where(task > 0, scale, 0).unsqueeze(1) * query
        kernel = margins.mT @ margins
        kernel.diagonal().add_(self.ridge * kernel.trace() / self.dim)
        factor, failed = torch.linalg.cholesky_ex(kernel)
        if int(failed):
            raise InputError(
                f"trak's kernel of {self.dim} dimensions from {len(query)} query instances is singular. Give ridge "
                "(1, say), or fewer dimensions."
            )
        return Projected(point, items, rests, factor)

    def scores(self, state: Ensemble, targets: Targets) -> Scores:
        point, level = state.models[0].point, state.context.level

        def removal(inner: Level) -> Tensor:
            if inner == "task":
                own = point.weights.query
                return (self._means(state, targets, "query").unflatten(0, own.shape) * own.unsqueeze(-1)).sum(dim=1)
            return point.item_weights(inner).unsqueeze(1) * self._means(state, targets, inner)

        return Scores(point.weights.gather(level, removal), level, self.units)

    def _means(self, state: Ensemble, targets: Targets, level: Level) -> Tensor:
        """Of support or query instances, per unit of weight, [m, T]."""
        values = torch.stack(
            [
                model.items[level]
                @ torch.cholesky_solve(self._goals(state.projection, targets, model.point), model.kernel)
                for model in state.models
            ]
        )
        return values.mean(dim=0) * torch.stack([model.rest[level] for model in state.models]).mean(dim=0).unsqueeze(1)

    def _goals(self, projection: Projection, targets: Targets, point: Point) -> Tensor:
        """The targets' projected gradients, [dim, T]."""
        return projection.apply(targets.at(point.meta).gradients().mT).mT
