"""The certificate: whether influence can be trusted at a fit, in numbers, thresholds and words."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from metafluence.attribution import AttributionMethod, Context, Targets, check_context
from metafluence.diagnostics import CONDITION, INNER_STATIONARY, Diagnostics, diagnose
from metafluence.errors import InputError
from metafluence.metrics import Interval, bootstrap, change_agreement, moved, rank_agreement
from metafluence.tasks import Level, Removal
from metafluence.truth import Truth, retrain

DRIFT = 1e-2
"""‖∇F‖ relative to the median item's response: what else moves λ than the removal."""
STEP_RATIO = (2.5, 6.5)
"""Where halving the largest item's weight divides the error of its prediction by about 4, first order holds."""
SIZES = 0.25
"""The median error of Δλ, at the upper end of its interval, up to which sizes are called right."""
RANKS = 0.6
"""The Spearman correlation, at the lower end of its interval, from which the order is called right."""

Grade = Literal["sizes and order", "order", "neither"]


@dataclass(frozen=True)
class Check:
    """One requirement: what was found, what is asked, and whether that is so."""

    name: str
    found: str
    asked: str
    ok: bool


@dataclass(frozen=True)
class Certificate:
    """What may be trusted about influence at one level, and the checks behind it."""

    level: Level
    grade: Grade
    verdict: str
    checks: tuple[Check, ...]

    @classmethod
    def from_facts(cls, stored: dict[str, Any]) -> Certificate:
        return cls(**{**stored, "checks": tuple(Check(**c) for c in stored["checks"])})


def certify(
    method: AttributionMethod,
    context: Context,
    targets: Targets,
    diagnostics: Diagnostics | None = None,
    truth: Truth | None = None,
    items: int = 8,
) -> Certificate:
    """Check the assumptions of influence functions at λ*, and the method on a few exactly retrained items.

    diagnostics: of the point, if they were made already. truth: retrained single items, if there are some; else `items`
    of them, drawn at random, are retrained here, and in any case the largest one, at weights 0 and ½. Raises InputError
    for a method that predicts no parameters, and where the context has no retrain bank.
    """
    check_context(method, context)
    if not method.edits or context.bank is None:
        lacks = "a retrain bank" if context.bank is None else "a method that predicts parameters"
        raise InputError(f"A certificate compares predicted parameters with retrained ones; it needs {lacks}.")
    if truth is None:
        drawn = torch.randperm(context.items, generator=context.generator)[:items].tolist()
        truth, _ = retrain([(i,) for i in sorted(drawn)], [], context.level, context.bank, targets)
        if truth is None:
            raise InputError("Fewer than two of the retrainings converged, so nothing can be certified.")
    state = method.prepare(replace(context, strict=False))
    sizes = torch.linalg.vector_norm(context.point.responses(context.level), dim=0)
    checks = [
        *_assumptions(diagnostics or diagnose(context.point, context.generator), float(sizes.median())),
        _halving(method, state, context, (int(sizes.argmax()),)),
    ]
    scores = method.scores(state, targets).values.mean(dim=1).numpy()
    change = method.parameter_change(state, truth.removals)
    assert change is not None
    true = truth.change.numpy()
    error = bootstrap(change_agreement(change.values.numpy(), true).relative_error[moved(true)], np.median)
    ranks = rank_agreement(scores[[r[0] for r in truth.removals]], truth.loss_change.numpy())
    count = len(truth.removals)
    checks += [
        Check(
            "sizes",
            f"median error of Δλ {_percent(error)} on {count} retrained items",
            f"upper end at most {100 * SIZES:.0f} %",
            error.high <= SIZES,
        ),
        Check(
            "order",
            f"Spearman {ranks.value:.2f} ({ranks.low:.2f} to {ranks.high:.2f}) on {count} retrained items",
            f"lower end at least {RANKS}",
            ranks.low >= RANKS,
        ),
    ]
    grade, verdict = _verdict(checks)
    return Certificate(context.level, grade, verdict, tuple(checks))


def _assumptions(d: Diagnostics, response: float) -> list[Check]:
    smallest, largest = float(d.extremes.smallest), float(d.extremes.largest)
    condition = largest / smallest if smallest > 0 else math.inf
    definite = smallest > float(d.extremes.smallest_error)
    return [
        Check(
            "outer stationarity",
            f"‖∇F‖ {d.gradient_norm:.1e}, the median item's response {response:.1e}",
            f"at most {DRIFT:g} of it",
            d.gradient_norm <= DRIFT * response,
        ),
        Check(
            "inner stationarity",
            f"‖∂_θ L_I‖ {d.inner_stationarity:.1e} at worst, {d.inner_converged} of {d.tasks} tasks converged",
            f"at most {INNER_STATIONARY:g}, all converged",
            d.inner_stationarity <= INNER_STATIONARY and d.inner_converged == d.tasks,
        ),
        Check("definiteness", f"smallest eigenvalue of δI + H {smallest:.3g}", "above 0", definite),
        Check("conditioning", f"condition number {condition:.1e}", f"at most {CONDITION:.0e}", condition <= CONDITION),
    ]


def _halving(method: AttributionMethod, state: Any, context: Context, item: Removal) -> Check:
    """The largest item's error when it is removed, over the error when its weight is halved."""
    assert context.bank is not None
    change = method.parameter_change(state, [item])
    assert change is not None
    whole, half = (
        context.bank.leave_out([item], context.level, strict=False, weight=w).meta[:, 0] - context.point.meta
        for w in (0.0, 0.5)
    )
    predicted = change.values[:, 0]
    far, near = float((whole - predicted).norm()), float((half - predicted / 2).norm())
    ratio = far / near if near else math.inf
    low, high = STEP_RATIO
    return Check(
        "largest step",
        f"item {item[0]}: error {100 * far / float(whole.norm()):.1f} %, at half its weight "
        f"{100 * near / float(half.norm()):.1f} %; the ratio of the errors' lengths is {ratio:.1f}",
        f"{low:g} to {high:g} (4 where first order holds)",
        low <= ratio <= high,
    )


def _verdict(checks: list[Check]) -> tuple[Grade, str]:
    ok = {check.name: check.ok for check in checks}
    broken = [c.name for c in checks if not c.ok and c.name not in ("sizes", "order", "largest step")]
    grade: Grade = "neither"
    if ok["order"]:
        grade = "sizes and order" if ok["sizes"] and not broken else "order"
    said = {
        "sizes and order": "Influence can be trusted here, its sizes and its order.",
        "order": "The order of items can be trusted here, the sizes of their effects cannot.",
        "neither": "Influence cannot be trusted here; retrain what matters.",
    }[grade]
    if broken:
        said += f" An assumption fails: {', '.join(broken)}."
    if not ok["largest step"]:
        said += " The largest item lies outside of what first order covers: leave_out or retraining for such items."
    return grade, said


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"
