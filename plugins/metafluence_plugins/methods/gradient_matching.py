"""Gradient matching: the order in which a greedy choice of items comes near a whole gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metafluence import AttributionMethod, Context, Level, Scores, Targets, Units


@dataclass(frozen=True)
class GradientMatching(AttributionMethod):
    """Minus an item's place in a greedy choice: 0 for the first one, then -1, -2, ...

    So the k items of highest score are the first k that are chosen, for every k. Columns are ω r, the part of the
    training gradient that goes with the item. match says what the chosen ones are to come near:

    - `total`: the gradient of the training loss, Σ ω r, by orthogonal matching pursuit (GRAD-MATCH, Killamsetty et al.
      2021). At a minimum it is minus that of the l2 term.
    - `each`: every item's own column, by the nearest chosen one, which bounds the distance to the total (CRAIG,
      Mirzasoleiman et al. 2020; for tasks DERTS, Zhan and Anderson 2024).
    - `targets`: the targets' gradient, by matching pursuit (GRAD-MATCH with validation data).

    The papers choose anew as training goes on, and train with weights of the chosen items; here they are chosen once,
    at λ*, and an item that is kept weighs what it did. A score says nothing of harm, and of two items that are the same
    the second comes late, as it adds nothing. Only `targets` looks at the targets.

    All columns are held, [P, items]. Pursuit costs items² P operations for each target, `each` items³.
    """

    match: Literal["total", "each", "targets"] = "total"

    levels: ClassVar[frozenset[Level]] = frozenset({"task", "query"})
    units: ClassVar[Units] = "rank_only"
    needs_minimum: ClassVar[bool] = False

    def prepare(self, context: Context) -> Context:
        return context

    def scores(self, state: Context, targets: Targets) -> Scores:
        point, level = state.point, state.level
        columns = (point.responses(level) * point.item_weights(level)).cpu()
        if self.match == "targets":
            orders = [pursuit(columns, goal) for goal in targets.gradients().cpu().T]
        else:
            order = coverage(columns) if self.match == "each" else pursuit(columns, columns.sum(dim=1))
            orders = [order] * targets.count
        places = torch.stack([torch.argsort(order) for order in orders], dim=1)
        return Scores(-places.to(point.meta), level, self.units)


def pursuit(columns: Tensor, goal: Tensor) -> Tensor:
    """The order [n] in which matching pursuit chooses columns of [P, n], as good as a sum of them comes near goal [P].

    The next one has the largest product with what is left of the goal, of which its span is then taken out. Where no
    product is above rounding, the others follow by their product with the goal: a weight above zero brings none of
    them nearer.
    """
    count, near = columns.shape[1], torch.finfo(columns.dtype).eps ** 0.5
    columns, goal = columns.double(), goal.double()
    limits = near * columns.norm(dim=0) * goal.norm()
    basis, left = columns.new_empty(len(goal), 0), goal
    free, order = torch.ones(count, dtype=torch.bool), []
    while len(order) < count:
        products = columns.T @ left
        useful = free & (products > limits)
        if not bool(useful.any()):
            break
        order.append(_first(products, useful, near))
        free[order[-1]] = False
        new = columns[:, order[-1]]
        for _ in range(2):  # once leaves rounding in
            new = new - basis @ (basis.T @ new)
        new = new / new.norm()
        basis = torch.cat([basis, new.unsqueeze(1)], dim=1)
        left = left - new * (new @ left)
    rest = torch.argsort(columns.T @ goal, descending=True, stable=True)
    return torch.cat([torch.tensor(order, dtype=torch.int64), rest[free[rest]]])


def coverage(columns: Tensor) -> Tensor:
    """The order [n] in which columns of [P, n] are chosen so that all have a chosen one near: facility location.

    The next one lowers Σ_i min over chosen j of ‖c_i − c_j‖ the most; before the first, all stand at the largest
    distance that there is.
    """
    near = torch.finfo(columns.dtype).eps ** 0.5
    rows = columns.double().T.contiguous()
    gaps = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = gaps.max().expand(len(gaps))
    free, order = torch.ones(len(gaps), dtype=torch.bool), []
    while len(order) < len(gaps):
        gains = (nearest - gaps).clamp_min(0).sum(dim=1)
        order.append(_first(gains, free, near))
        free[order[-1]] = False
        nearest = torch.minimum(nearest, gaps[order[-1]])
    return torch.tensor(order, dtype=torch.int64)


def _first(values: Tensor, among: Tensor, near: float) -> int:
    """The first of the largest values, which rounding may have set apart; among: which of them may be chosen."""
    largest = values[among].max()
    return int((among & (values >= largest - near * largest.abs())).nonzero()[0])
