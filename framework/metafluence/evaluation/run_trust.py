"""Whether a first order predicts a recorded run: how smooth its end is in the weights of its items."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from metafluence.attribution import Targets
from metafluence.errors import InputError, MetafluenceError
from metafluence.evaluation.ground_truth import draw_subsets
from metafluence.evaluation.metrics import score_agreement
from metafluence.evaluation.replays import replayed
from metafluence.evaluation.run_advice import run_advice
from metafluence.learners import NetworkLearner
from metafluence.networks import kinks
from metafluence.tasks import Level, Removal
from metafluence.training import TrainingRun, run_adjoint, run_tangent

CHANGES = (1e-3, 1e-2, 1e-1, 1.0)
MARKS = 101
"""At how many steps, at most, the adjoint is kept."""
NAN = float("nan")
# What a run has to reach. Measured on digits and Omniglot: smooth runs .95 to 1.00, rough ones -.3 to .6.
SMOOTH, COSINE, ORDER, FLOOR, SLOPE = 0.9, 0.9, 0.8, 3.0, 1.5


@dataclass(frozen=True)
class RunTrust:
    """What a first order through a run is worth.

    verdict: `sizes` (predicted sizes and order hold), `order` (the order alone), or `none`; reason: why, in a sentence.
    metasmoothness: agreement in sign of successive differences of the final λ, weighted by how far each parameter moved
    (Engstrom et al. 2025, arXiv 2503.13751, Definition 2), from -1 to 1.
    moved: ‖λ_T(1 + h v) − λ_T‖ / (h ‖λ_T(1 + v) − λ_T‖) for h of CHANGES, v random. It is 1 where a change a tenth as
    large moves the run a tenth as far, and far above 1 where small changes meet a floor.
    growth: the largest ‖dJ/dλ_t‖ over the last. lowered_cosine, lowered_ratio: of predicted and true Δλ where random
    sets of items have weight .9, means. order, slope: Spearman correlation of predicted and true loss changes without
    these sets, and the slope of predicted on true. kinks: layers that are not smooth.
    adjoint: ‖dJ/dλ_t‖ at the steps `adjoint_steps`, the end's included. predicted, true: the loss changes without
    these sets, in nats.
    """

    verdict: Literal["sizes", "order", "none"]
    reason: str
    metasmoothness: float = NAN
    moved: tuple[float, ...] = ()
    growth: float = NAN
    lowered_cosine: float = NAN
    lowered_ratio: float = NAN
    order: float = NAN
    slope: float = NAN
    kinks: tuple[str, ...] = ()
    adjoint_steps: tuple[int, ...] = ()
    adjoint: tuple[float, ...] = ()
    predicted: tuple[float, ...] = ()
    true: tuple[float, ...] = ()

    @classmethod
    def from_facts(cls, stored: dict[str, Any]) -> RunTrust:
        """Of its fields, as a file keeps them: tuples are lists there."""
        fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in stored.items()}
        return cls(**fields)


def run_trust(
    run: TrainingRun,
    targets: Targets,
    level: Level = "task",
    share: float = 0.05,
    subsets: int = 6,
    generator: torch.Generator | None = None,
) -> RunTrust:
    """Try a run: 5 replays for smoothness, two for each random set of items, one sweep forwards and one backwards.

    Args:
        run: the run.
        targets: whose mean loss is predicted.
        level: of the items.
        share: of the items that the run saw, that each random set holds.
        subsets: how many sets are left out, and lowered to weight .9.
        generator: of the sets and of the direction v; a seed of 0 if it is not given.

    Raises:
        InputError: fewer than three sets, or a share outside (0, 1).
    """
    if subsets < 3 or not 0 < share < 1:
        raise InputError(f"run_trust needs at least 3 subsets and a share in (0, 1); got {subsets} and {share}.")
    draws = generator or torch.Generator().manual_seed(0)
    sets = draw_subsets(run.drawn(level), subsets, share, draws)
    rough = _kinks_of(run)
    try:
        return _tried(run, targets, level, sets, draws, rough)
    except MetafluenceError as error:
        return RunTrust("none", f"A replay or a sweep failed: {error}", kinks=rough)


def scores_trust(
    run: TrainingRun,
    targets: Targets,
    scores: Tensor,
    sized: bool,
    level: Level = "task",
    share: float = 0.05,
    subsets: int = 16,
    generator: torch.Generator | None = None,
) -> RunTrust:
    """Try scores [items] of any method against a run: one replay without each random set of items.

    A set is predicted by the sum of its items' scores. sized: the scores are changes of the loss, whose sizes can be
    right or wrong, too. The rest as for `run_trust`, which also tries what stands behind the derivative of the run.

    Raises:
        InputError: fewer than ten sets, among which an order by chance is common, or a share outside (0, 1).
    """
    if subsets < 10 or not 0 < share < 1:
        raise InputError(f"scores_trust needs at least 10 subsets and a share in (0, 1); got {subsets} and {share}.")
    sets = draw_subsets(run.drawn(level), subsets, share, generator or torch.Generator().manual_seed(0))
    try:
        true = replayed(run, sets, targets, level).loss_change.mean(dim=1).cpu().numpy()
    except MetafluenceError as error:
        return RunTrust("none", f"A replay failed: {error}")
    foretold = np.array([float(scores[list(one)].sum()) for one in sets])
    agreement = score_agreement(foretold, true)
    shown = {"predicted": tuple(foretold.tolist()), "true": tuple(true.tolist()), "order": agreement.spearman}
    found = RunTrust("none", "", slope=agreement.slope if sized else NAN, kinks=_kinks_of(run), **shown)
    if not found.order >= ORDER:
        return replace(found, reason=f"Sums of these scores order sets left out with Spearman {found.order:.2f} only.")
    if sized:
        return _sized(found)
    return replace(found, verdict="order", reason=f"Sets left out are predicted in order ({found.order:.2f}).")


def _kinks_of(run: TrainingRun) -> tuple[str, ...]:
    learner = run.problem.learner
    return kinks(learner.network.module) if isinstance(learner, NetworkLearner) else ()


def _tried(
    run: TrainingRun,
    targets: Targets,
    level: Level,
    sets: list[Removal],
    draws: torch.Generator,
    rough: tuple[str, ...],
) -> RunTrust:
    alive = run.alive
    smoothness, moved = _smoothness(run, level, draws, alive)
    goal = targets.at(run.final).gradients().mean(dim=1, keepdim=True)
    norms = run_adjoint(run, goal, ()).growth.norm(dim=1)
    predicted = run_tangent(run, sets, level)
    lowered = replayed(run, sets, targets, level, weight=0.9).change * alive.unsqueeze(1)
    cosine = torch.cosine_similarity(predicted, lowered, dim=0).mean()
    ratio = (0.1 * predicted.norm(dim=0) / lowered.norm(dim=0)).mean()
    true = replayed(run, sets, targets, level).loss_change.mean(dim=1).cpu().numpy()
    foretold = (predicted.T @ goal)[:, 0].cpu().numpy()
    agreement = score_agreement(foretold, true)
    shown = np.unique(np.linspace(0, run.steps, MARKS).round().astype(int))
    found = RunTrust(
        "none",
        "",
        smoothness,
        moved,
        float(norms.max() / norms[-1]),
        float(cosine),
        float(ratio),
        agreement.spearman,
        agreement.slope,
        rough,
        tuple(shown.tolist()),
        tuple(norms[shown].tolist()),
        tuple(foretold.tolist()),
        tuple(true.tolist()),
    )
    return _judged(found, run)


def _smoothness(
    run: TrainingRun, level: Level, draws: torch.Generator, alive: Tensor
) -> tuple[float, tuple[float, ...]]:
    items = run.weights.of(level)
    direction = (2 * torch.rand(items.shape, generator=draws, dtype=torch.float64) - 1).to(items)

    def end(h: float) -> Tensor:
        return run.replay(run.weights.times(level, 1 + h * direction)) * alive

    start, at = run.final * alive, {h: end(h) for h in CHANGES}
    whole = float((at[1.0] - start).norm())
    if not whole:
        raise InputError(
            "No item's weight moves the end of this run: all its rates are 0, or its tasks have no gradient."
        )
    moved = tuple(float((at[h] - start).norm()) / (h * whole) for h in CHANGES)
    first, second = at[0.1] - start, end(0.2) - at[0.1]
    share = first.abs() / first.abs().sum()
    return float((share * first.sign() * second.sign()).sum()), moved


def _judged(found: RunTrust, run: TrainingRun) -> RunTrust:
    """The same with its verdict, the reason for it, and what would help."""
    tenth = f"a change a tenth as large moves the run {found.moved[-2]:.1f} times as far as a tenth"
    faults = [
        (not found.metasmoothness >= SMOOTH, f"metasmoothness is {found.metasmoothness:.2f}, below {SMOOTH}"),
        (not found.lowered_cosine >= COSINE, f"weights of .9 are predicted with cosine {found.lowered_cosine:.2f}"),
        (not found.order >= ORDER, f"sets left out are predicted with Spearman {found.order:.2f}"),
        (not found.moved[-2] <= FLOOR, tenth),
    ]
    wrong = [said for bad, said in faults if bad]
    if wrong:
        return replace(found, reason=f"{wrong[0][0].upper()}{wrong[0][1:]}. {run_advice(run, found.kinks)}")
    return _sized(found)


def _sized(found: RunTrust) -> RunTrust:
    """The same, whose order holds, with the verdict on its sizes."""
    if not 1 / SLOPE <= found.slope <= SLOPE:
        reason = f"Sets left out are predicted in order ({found.order:.2f}), their sizes not (slope {found.slope:.2f})."
        return replace(found, verdict="order", reason=reason)
    reason = f"Sets left out are predicted in order ({found.order:.2f}) and size (slope {found.slope:.2f})."
    return replace(found, verdict="sizes", reason=reason)
