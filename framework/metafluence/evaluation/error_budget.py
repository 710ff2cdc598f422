"""The error budget: where the error of a predicted parameter change comes from.

    retrained change <- exact curvature, exact solves <- chosen curvature, exact solves
                     <- chosen curvature, chosen inner solver <- chosen outer solver

Each arrow is one source of error: first order, curvature, inner solve, outer solve.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metafluence.attribution import AttributionMethod, check_context
from metafluence.bilevel import Curvature
from metafluence.errors import InputError, MetafluenceError
from metafluence.evaluation.metrics import median, moved
from metafluence.evaluation.runs import Bench
from metafluence.linalg import Solver
from metafluence.runtime import component_fingerprint
from metafluence.tasks import Level

NAN = float("nan")
SOURCES = ("first_order", "curvature", "inner_solve", "outer_solve")


@dataclass(frozen=True)
class Exactly:
    """What is called exact: the influence method that others are measured from, its curvature, and tight solvers."""

    method: AttributionMethod
    curvature: Curvature
    inner: Solver
    outer: Solver


@dataclass(frozen=True)
class Budget:
    """Errors of one method's Δλ by source, at one level, each ‖difference of two stages‖ / ‖true Δλ‖.

    total: ‖predicted − true Δλ‖ / ‖true Δλ‖. All are medians over the removals. For one removal the parts are lengths
    of vectors that add up to the whole error, and add up to at least its length; their medians mostly do. inner_solve:
    NaN for learners without inner solves. A budget that failed has a reason and NaN elsewhere.
    """

    method: str
    solver: str
    level: Level = "task"
    status: str = "ok"
    reason: str = ""
    first_order: float = NAN
    curvature: float = NAN
    inner_solve: float = NAN
    outer_solve: float = NAN
    total: float = NAN

    @classmethod
    def from_facts(cls, stored: dict[str, Any]) -> Budget:
        kept: dict[str, Any] = {k: (NAN if v is None else v) for k, v in stored.items()}
        return cls(**kept)

    def facts(self) -> dict[str, Any]:
        """As JSON, in which NaN is null."""
        return {k: (None if isinstance(v, float) and np.isnan(v) else v) for k, v in asdict(self).items()}


def stages(method: AttributionMethod, exactly: Exactly, unrolls: bool = False) -> dict[str, AttributionMethod]:
    """The method with ever less of it exact, by what is then no longer exact: first order alone; its curvature too; its
    inner solver too; its outer solver too, which is the method itself.

    What a method has no choice of stays as it is. Damping counts as curvature: it changes what is inverted. unrolls:
    the learner has no inner solves, and there is no such stage.
    """
    names = {f.name for f in fields(method)}  # type: ignore[arg-type]

    def with_(base: AttributionMethod, **parts: Any) -> AttributionMethod:
        return replace(base, **{k: v for k, v in parts.items() if k in names})  # type: ignore[type-var]

    best = exactly.method
    if "curvature" in names:  # of its own kind, so that what else it is stays out of the difference
        best = with_(method, curvature=exactly.curvature, damping=0.0, solver=exactly.outer, inner_solver=exactly.inner)
    curved = with_(method, solver=exactly.outer, inner_solver=exactly.inner)
    inside = {} if unrolls else {"inner_solve": with_(method, solver=exactly.outer)}
    return {"first_order": best, "curvature": curved, **inside, "outer_solve": method}


def error_budget(
    bench: Bench,
    method: AttributionMethod,
    label: str,
    solver: str,
    exactly: Exactly,
    known: dict[str, Tensor] | None = None,
) -> Budget:
    """Predict the changes of the ground truth at every stage. Errors of our own become a budget with the reason.

    known: predictions at this bench by the method's fingerprint, which budgets of several methods share; added to.
    """
    if bench.truth is None or not method.edits:
        lacks = "there is no ground truth" if bench.truth is None else f"{label} predicts no parameters"
        raise InputError(f"An error budget compares predicted parameters with retrained ones, and {lacks}.")
    some = torch.from_numpy(moved(bench.truth.change.numpy()))
    if not bool(some.any()):
        return Budget(label, solver, bench.level, "failed", "No removal moves λ, so that there is no error to split.")
    known = {} if known is None else known
    changes = [bench.truth.change]
    chain = stages(method, exactly, bench.problem.learner.unrolls)
    for stage in chain.values():
        key = component_fingerprint(stage)
        try:
            if key not in known:
                known[key] = _predict(bench, stage)
        except MetafluenceError as error:
            return Budget(label, solver, bench.level, "failed", str(error))
        changes.append(known[key])
    size = torch.linalg.vector_norm(changes[0], dim=0)[some]
    changes = [change[:, some] for change in changes]
    parts = [_median(one - other, size) for other, one in pairwise(changes)]
    named: dict[str, Any] = dict(zip(chain, parts, strict=True))
    return Budget(label, solver, bench.level, **named, total=_median(changes[-1] - changes[0], size))


def _predict(bench: Bench, method: AttributionMethod) -> Tensor:
    assert bench.truth is not None
    context = bench.context()
    check_context(method, context)
    found = method.parameter_change(method.prepare(context), bench.truth.removals)
    assert found is not None
    return found.values.cpu()


def _median(error: Tensor, size: Tensor) -> float:
    return median((torch.linalg.vector_norm(error, dim=0) / size).numpy())
