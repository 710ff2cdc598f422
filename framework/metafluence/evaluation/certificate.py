"""The certificate: whether influence can be trusted at a fit, in numbers, thresholds and words."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from metafluence.attribution import AttributionMethod, Context, Targets, check_context
from metafluence.bilevel import CONDITION, INNER_STATIONARY, Diagnostics, diagnose
from metafluence.errors import InputError
from metafluence.evaluation.ground_truth import Truth, retrain
from metafluence.evaluation.metrics import Interval, bootstrap, change_agreement, moved, rank_agreement
from metafluence.evaluation.run_trust import RunTrust
from metafluence.networks import accuracy
from metafluence.runtime import notebook_view
from metafluence.tasks import Level, Removal

DRIFT = 1e-2
"""‖∇F‖ relative to the median item's response: what else moves λ than the removal."""
STEP_RATIO = (2.5, 6.5)
"""First order holds where halving the largest item's weight divides the error of its prediction by about 4."""
STEP_ERROR = 0.5
"""The error of the largest item's predicted Δλ, relative to the true one, up to which first order is said to hold."""
NEGLIGIBLE = 1e-4
"""Below this relative error only the fits' tolerance remains, so that the ratio is not looked at."""
SIZES = 0.25
"""The median error of Δλ, at the upper end of its interval, up to which sizes are called right."""
RANKS = 0.6
"""The Spearman correlation, at the lower end of its interval, from which the order is called right."""

FEWEST = 6
"""Retrained items below which neither sizes nor order are certified."""
CHANCE = 1.64
"""Standard errors by which the model's accuracy must exceed chance (one-sided, 5 %)."""

SAMPLED = ("model", "sample", "sizes", "order", "largest step")
"""Checks that are no assumptions of influence functions."""

Grade = Literal["sizes and order", "order", "neither"]


@dataclass(frozen=True)
class Check:
    """One requirement of the certificate."""

    name: str
    measured: str
    """What was measured, in words with its numbers."""
    required: str
    """What it must be."""
    ok: bool
    """The requirement is met."""


@dataclass(frozen=True)
class Certificate:
    """What may be trusted about one method's influence at one level, and the checks behind it."""

    method: str
    """The method that was judged."""
    level: Level
    grade: Grade
    verdict: str
    checks: tuple[Check, ...]
    trust: RunTrust | None = None
    """What was tried of a run, where the truth is one."""

    @classmethod
    def from_facts(cls, stored: dict[str, Any]) -> Certificate:
        tried = stored.get("trust")
        trust = None if tried is None else RunTrust.from_facts(tried)
        return cls(**{**stored, "checks": tuple(Check(**c) for c in stored["checks"]), "trust": trust})

    def _repr_html_(self) -> str:
        """For a notebook: the verdict, then the checks."""
        rows = [("yes" if one.ok else "no", one.name, one.measured, one.required) for one in self.checks]
        title = f"Certificate of {self.method} at level {self.level}"
        return notebook_view(title, [self.verdict], ("met", "check", "measured", "required"), rows)

    @classmethod
    def refused(cls, method: str, level: Level, reason: str) -> Certificate:
        """In place of a certificate that could not be made."""
        return cls(method, level, "neither", f"Nothing could be certified for {method} here: {reason}", ())


def certify(
    method: AttributionMethod,
    context: Context,
    targets: Targets,
    diagnostics: Diagnostics | None = None,
    truth: Truth | None = None,
    items: int = 8,
    change: Tensor | None = None,
    label: str = "",
) -> Certificate:
    """Check the assumptions of influence functions at λ*, and the method on a few exactly retrained items.

    Args:
        method: the method to judge; it must predict parameters.
        context: with a retrain bank.
        targets: whose losses are ranked.
        diagnostics: of the point, if they were made already.
        truth: retrained single items, if there are some; the item of largest effect is retrained in any case, at
            weights 0 and ½.
        items: how many items to retrain, drawn at random, where there is no truth.
        change: what the method predicts for the truth's removals, [P, s], if that was done already.
        label: the method in words; its class's name if not given.

    Raises:
        InputError: for a method that predicts no parameters, and without a retrain bank.
    """
    label = label or type(method).__name__
    check_context(method, context)
    if not method.edits or context.bank is None:
        lacks = "a retrain bank" if context.bank is None else "a method that predicts parameters"
        raise InputError(f"A certificate compares predicted parameters with retrained ones; it needs {lacks}.")
    if truth is None:
        there = context.point.item_weights(context.level).nonzero().squeeze(1).tolist()
        order = torch.randperm(len(there), generator=context.generator)[:items].tolist()
        drawn = [there[i] for i in order]
        truth, _ = retrain([(i,) for i in sorted(drawn)], [], context.level, context.bank, targets)
        if truth is None:
            raise InputError("Fewer than two of the retrainings converged, so nothing can be certified.")
    weights = context.point.item_weights(context.level)
    sizes = weights * torch.linalg.vector_norm(context.point.responses(context.level), dim=0)
    if not bool(sizes.any()):
        return Certificate.refused(label, context.level, "to first order no item has an effect on the meta-parameters.")
    state = method.prepare(replace(context, strict=False))
    checks = [
        _model(targets),
        *_assumptions(diagnostics or diagnose(context.point, context.generator), float(sizes[weights > 0].median())),
        _largest_step(method, state, context, (int(sizes.argmax()),)),
    ]
    scores = method.scores(state, targets).values.mean(dim=1).cpu().numpy()
    if change is None:
        predicted = method.parameter_change(state, truth.removals)
        assert predicted is not None
        change = predicted.values
    if truth.change is None:
        raise InputError("A certificate is of one fit, and this truth is a mean over runs. Leave truth out.")
    true = truth.change.numpy()
    error = bootstrap(change_agreement(change.cpu().numpy(), true).relative_error[moved(true)], np.median)
    ranks = rank_agreement(scores[[r[0] for r in truth.removals]], truth.loss_change.numpy())
    count = len(truth.removals)
    checks += [
        Check(
            "sizes",
            f"{_median_error(error)} on {count} retrained items",
            f"upper end at most {100 * SIZES:.0f} %",
            error.high <= SIZES,
        ),
        Check(
            "order",
            "; ".join(part for part in (f"{_order(ranks)} on {count} retrained items", truth.ceiling.sentence) if part),
            f"lower end at least {RANKS}",
            ranks.low >= RANKS,
        ),
    ]
    checks.insert(1, Check("sample", f"{count} retrained items", f"at least {FEWEST}", count >= FEWEST))
    grade, verdict = _verdict(label, checks)
    return Certificate(label, context.level, grade, verdict, tuple(checks))


def _model(targets: Targets) -> Check:
    """Whether the model knows anything of the targets' tasks; real targets have no chance level to compare with."""
    tasks, predictions = targets.problem.tasks, targets.point.predictions
    if tasks.real:
        return Check("model", f"mean loss {float(targets.losses().mean()):.3g} on the targets", "–", True)
    right = float(accuracy(predictions, tasks.query.targets, targets.point.weights.query).mean())
    chance, count = 1 / len(tasks.query.targets.unique()), int(tasks.held("query").sum())
    least = chance + CHANCE * math.sqrt(chance * (1 - chance) / count)
    measured = f"accuracy {right:.3f} on {count} instances of the targets, chance {chance:.3f}"
    return Check("model", measured, f"above {least:.3f}", right > least)


def _assumptions(d: Diagnostics, response: float) -> list[Check]:
    smallest, largest = float(d.extremes.smallest), float(d.extremes.largest)
    condition = largest / smallest if smallest > 0 else math.inf
    error = float(d.extremes.smallest_error)
    definite = smallest > error
    return [
        Check(
            "outer stationarity",
            f"‖∇F‖ {d.gradient_norm:.1e}, the median item's response {response:.1e}",
            f"at most {DRIFT:g} of it",
            d.gradient_norm <= DRIFT * response,
        ),
        Check(
            "exact gradients",
            "those of the loss" if d.exact else "first-order ones, which are those of no loss",
            "those of the loss",
            d.exact,
        ),
        Check(
            "inner stationarity",
            d.adaptation,
            "–" if d.unrolled else f"at most {INNER_STATIONARY:g}, all converged",
            d.adapted,
        ),
        Check(
            "definiteness", f"smallest eigenvalue of δI + H {smallest:.3g} ± {error:.1g}", "above its error", definite
        ),
        Check("conditioning", f"condition number {condition:.1e}", f"at most {CONDITION:.0e}", condition <= CONDITION),
    ]


def _largest_step(method: AttributionMethod, state: Any, context: Context, item: Removal) -> Check:
    """The largest item's error when it is removed, and over that the error when its weight is halved.

    Half a weight is half a prediction for additive methods alone; of others (leave_out) only the size is asked.
    """
    assert context.bank is not None
    change = method.parameter_change(state, [item])
    assert change is not None
    low, high = STEP_RATIO
    required = f"error at most {100 * STEP_ERROR:.0f} %"
    if method.additive:
        required += f"; ratio {low:g} to {high:g} (4 where first order holds)"
    weights = (0.0, 0.5) if method.additive else (0.0,)
    fits = [context.bank.leave_out([item], context.level, strict=False, weight=w) for w in weights]
    if not all(bool(fit.converged.all()) for fit in fits):
        return Check("largest step", f"item {item[0]}: retraining without it did not converge", required, False)
    steps = [fit.meta[:, 0] - context.point.meta for fit in fits]
    lengths = [float((step - (1 - w) * change.values[:, 0]).norm()) for step, w in zip(steps, weights, strict=True)]
    errors = [_over(length, float(step.norm())) for length, step in zip(lengths, steps, strict=True)]
    measured, ok = f"item {item[0]}: error {100 * errors[0]:.1f} %", errors[0] <= STEP_ERROR
    if method.additive:
        ratio = _over(lengths[0], lengths[1])
        measured += f", at half its weight {100 * errors[1]:.1f} %; the ratio of the errors' lengths is {ratio:.1f}"
        ok = ok and (low <= ratio <= high or errors[0] <= NEGLIGIBLE)
    return Check("largest step", measured, required, ok)


def _over(part: float, whole: float) -> float:
    """Part / whole, where nothing of nothing is nothing."""
    return part / whole if whole else math.inf if part else 0.0


def _verdict(label: str, checks: list[Check]) -> tuple[Grade, str]:
    ok = {check.name: check.ok for check in checks}
    broken = [c.name for c in checks if not c.ok and c.name not in SAMPLED]
    grade: Grade = "neither"
    if ok["order"] and ok["model"] and ok["sample"]:
        grade = "sizes and order" if ok["sizes"] and not broken else "order"
    sentences = [
        {
            "sizes and order": f"{label} can be trusted here, in sizes and in order.",
            "order": f"{label} can be trusted here in the order of items, not in the sizes of their effects.",
            "neither": f"{label} cannot be trusted here; retrain what matters.",
        }[grade]
    ]
    if not ok["model"]:
        sentences.append("The model itself is no better than chance on the targets.")
    if not ok["sample"]:
        sentences.append(f"Fewer than {FEWEST} items were retrained, too few to judge sizes and order.")
    if broken:
        sentences.append(f"An assumption fails: {', '.join(broken)}.")
    if not ok["largest step"]:
        sentences.append(
            "The effect of the largest item is too large for first order: use leave_out or retraining for such items."
        )
    return grade, " ".join(sentences)


def _median_error(interval: Interval) -> str:
    if math.isnan(interval.value):
        return "λ does not move"
    return f"median error of Δλ {100 * interval.value:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def _order(ranks: Interval) -> str:
    if math.isnan(ranks.value):
        return "nothing to rank"
    return f"Spearman {ranks.value:.2f} ({ranks.low:.2f} to {ranks.high:.2f})"
