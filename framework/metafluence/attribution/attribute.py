"""Scoring in one call, and the checks that need both the method's answer and the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from metafluence.attribution.context import Context
from metafluence.attribution.method import AttributionMethod, Scores, Targets, check_context, check_targets
from metafluence.bilevel import STATIONARY, Point
from metafluence.errors import InputError
from metafluence.tasks import LEVELS, Level


def prepare_and_score(method: AttributionMethod, context: Context, targets: Targets) -> tuple[Any, Scores]:
    """The method's state, and its scores of the context's items. Raises InputError for scores of other items."""
    state = method.prepare(context)
    scores = method.scores(state, targets)
    _check_items(method, scores, context)
    return state, scores


def _check_items(method: AttributionMethod, scores: Scores, context: Context) -> None:
    """Raises InputError where scores are not those of the context's items, one row each."""
    name = type(method).__name__
    if scores.level != context.level:
        raise InputError(f"{name} returned scores of level {scores.level!r}; the context has level {context.level!r}.")
    if len(scores.values) != context.items:
        raise InputError(
            f"{name} returned {len(scores.values)} rows of scores for {context.items} items of level {context.level!r}."
            " Return one for each item."
        )


def attribute(method: AttributionMethod, context: Context, targets: Targets) -> Scores:
    """Score every item of the context's level against every target.

    Args:
        method: how to score.
        context: λ*, the level of the items, and what else the method may look at.
        targets: at the same λ*.

    Returns:
        Scores [items, T]; a note says where λ* is no minimum of the training objective, if the method needs one.

    Raises:
        InputError: for a level that the method does not support, and for targets of another problem or at another λ.

    Example:
        >>> import metafluence as mf
        >>> from metafluence.testing.worlds import world
        >>> from metafluence_plugins.methods.influence import InfluenceFunction
        >>> here = world(0)
        >>> targets = mf.Targets(here.problem, here.validation, here.fit.meta)
        >>> mf.attribute(InfluenceFunction(), here.context("task"), targets).values.shape
        torch.Size([7, 1])
    """
    return attribute_levels(method, context, targets, (context.level,))[context.level]


def attribute_levels(
    method: AttributionMethod, context: Context, targets: Targets, levels: Sequence[Level] = LEVELS
) -> dict[Level, Scores]:
    """As `attribute`, of the items of several levels in place of the context's.

    `run-influence` takes one sweep for all of them; other methods work for each level by itself. Raises as `attribute`,
    and InputError where the tasks do not know their images.
    """
    contexts: dict[Level, Context] = {level: replace(context, level=level) for level in levels}
    check_targets(context, targets)  # before all work, and whatever the method's state is
    for level, own in contexts.items():
        check_context(method, own)
        own.scored.problem.tasks.items(level)
    found = method.scores_by_level(context, targets, tuple(contexts))
    note = _not_stationary(context.point) if method.needs_minimum and context.run is None else ""
    for level, own in contexts.items():
        _check_items(method, found[level], own)
        if note:
            found[level] = replace(found[level], notes=(*found[level].notes, note))
    return found


def _not_stationary(point: Point) -> str:
    """A sentence where ‖∇F‖ is not small beside the two terms that cancel in it; else empty."""
    penalty = point.problem.l2 * point.meta
    gradient = float(torch.linalg.vector_norm(point.gradient))
    scale = max(float(torch.linalg.vector_norm(term)) for term in (penalty, point.gradient - penalty))
    if gradient <= STATIONARY * scale:
        return ""
    return (
        f"λ* is no minimum: ‖∇F‖ is {gradient:.1e}, where the losses' part of it is {scale:.1e}. Scores are "
        "derivatives at a minimum; train until ‖∇F‖ is small."
    )
