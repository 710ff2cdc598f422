"""What usually is behind a loop whose gradient is not its learner's: each is tried, and the one that fits is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple, get_args, get_type_hints

import torch
from torch import Tensor, nn

from metafluence.bilevel import BilevelProblem
from metafluence.errors import MetafluenceError
from metafluence.learners import MetaLearner
from metafluence.networks import evaluated_norms, running_norms
from metafluence.tasks import TaskSet
from metafluence.training.loop_batches import TOGETHER, together_gradient
from metafluence.training.loop_settings import (
    distance,
    factor_of,
    fitted_setting,
    loop_gradient,
    rounding,
    with_setting,
)

FACTORS = (2.0, 0.5, 10.0, 0.1)


class Suspect(NamedTuple):
    """says: a sentence that names it and how to fix it. gradient: gives the gradient [P] under it."""

    says: str
    gradient: Callable[[], Tensor]


def suspected(
    learner: MetaLearner, problem: BilevelProblem, scale: float, meta: Tensor, ours: Tensor, theirs: Tensor
) -> str:
    """A sentence on what is behind the difference of two gradients [P]: the first suspect that fits to rounding.

    ours: the learner's, with the loss times `scale`. theirs: the loop's.
    """
    fits = rounding(theirs)
    factor = factor_of(ours, theirs, fits)
    if factor is not None:
        return _of_factor(factor, problem.tasks, scale, theirs)
    if _clipped_by_value(ours, theirs, fits):
        return (
            f"They agree but for entries at ±{float(theirs.abs().max()):g}: the loop clips single entries "
            "(clip_grad_value_), which no step rule does. Use clip_grad_norm_ and clip=..., or no clipping."
        )
    decay = float(meta @ (theirs - ours)) / max(float(meta @ meta), torch.finfo(meta.dtype).tiny)
    if distance(ours + decay * meta, theirs) <= fits:
        return (
            f"They agree but for {decay:.4g} times the parameters: the loop's loss has an l2 term. Give the optimiser "
            f"weight_decay={decay:.4g} in its place, which makes the same steps (Adam, not AdamW)."
        )
    tried = []
    for name, suspect in _suspects(learner, problem, meta):
        try:
            found = scale * suspect.gradient()
        except (MetafluenceError, RuntimeError):
            continue
        tried.append(name)
        factor = 1.0 if distance(found, theirs) <= fits else factor_of(found, theirs, fits)
        if factor is not None:
            more = "" if factor == 1.0 else f" Also: {_of_factor(factor, problem.tasks, scale, theirs)}"
            return suspect.says + more
    for name, old in _numbers(problem.learner):
        new = fitted_setting(problem, name, old, scale, meta, theirs)
        if new is not None:
            return _says_setting(name, old, new)
    names = ", ".join(dict.fromkeys(tried))
    return _other_order(ours, theirs, fits) or (
        f"None of the usual reasons fits ({names}, loss reduction, clipping). Others are: another loss or what is "
        "added to it (l2, label smoothing), mixed precision, dropout, batch norm in evaluation mode or "
        "over other instances together, and a module with other parameters. Correct the learner or the loop."
    )


def _suspects(learner: MetaLearner, problem: BilevelProblem, meta: Tensor) -> Iterator[tuple[str, Suspect]]:
    tasks, bound = problem.tasks, problem.learner

    def under(name: str, value: Any) -> Tensor:
        return loop_gradient(with_setting(problem, name, value), meta)

    for name, old, new in _other_settings(learner):
        yield name, Suspect(_says_setting(name, old, new), partial(under, name, new))
    backbone = getattr(learner, "backbone", None)
    if isinstance(backbone, nn.Module) and running_norms(backbone):
        says = (
            "With the batch norms' running statistics they agree: the loop has the model in evaluation mode, while the "
            "learner normalises by a task's own statistics. Call model.train() in the loop."
        )
        frozen = evaluated_norms(backbone)
        yield "evaluation mode", Suspect(says, partial(under, "backbone", frozen))
    swapped = TaskSet(tasks.query, tasks.support, tasks.ids)
    says = "With support and query exchanged they agree: the batch names them the wrong way round. Exchange them."
    yield "support and query exchanged", Suspect(says, lambda: loop_gradient(problem.over(swapped), meta))
    for what in TOGETHER if bound.encodes and bound.mixes_instances and bound.unrolls else ():
        says = (
            f"With {what} normalised together they agree: the loop calls the model on them at once. Call it on each "
            "task's support, and on its query, apart."
        )
        yield "instances normalised together", Suspect(says, partial(together_gradient, problem, meta, what))


def _other_order(ours: Tensor, theirs: Tensor, fits: float) -> str:
    """A sentence where the gradients [P] differ in the order of entries alone; else empty."""
    other = (ours - theirs).abs() > fits * theirs.abs().max()
    if distance(ours[other].sort().values, theirs[other].sort().values) > fits:
        return ""
    return (
        f"They agree but for the order of {int(other.sum())} entries. Give the optimiser what is not the module's own, "
        "such as learned rates, in the order of the module's parameters (nn.ParameterDict sorts the keys of a dict)."
    )


def _says_setting(name: str, old: Any, new: Any) -> str:
    return f"With {name}={new!r} in place of {old!r} they agree: that is what the loop does. Correct the learner."


def _numbers(learner: MetaLearner) -> list[tuple[str, float]]:
    """The settings of a learner that are positive real numbers."""
    found = [(field.name, getattr(learner, field.name)) for field in fields(learner)]  # type: ignore[arg-type]
    return [(name, value) for name, value in found if isinstance(value, float) and value > 0]


def _other_settings(learner: MetaLearner) -> Iterator[tuple[str, Any, Any]]:
    """(name, value, another value) of settings that people get wrong: rates, numbers of steps, options."""
    try:
        hints = get_type_hints(type(learner))
    except NameError:
        hints = {}
    for field in fields(learner):  # type: ignore[arg-type]
        name, value = field.name, getattr(learner, field.name)
        if name == "ways":
            continue
        if isinstance(value, bool):
            others: list[Any] = [not value]
        elif isinstance(value, int):
            others = [value + 1, value - 1, value + 2, value - 2]
        elif isinstance(value, float):
            others = [float(f"{value * factor:.12g}") for factor in FACTORS]
        elif isinstance(value, str):
            others = [other for other in get_args(hints.get(name)) if other != value]
        else:
            others = []
        yield from ((name, value, other) for other in others)


def _of_factor(factor: float, tasks: TaskSet, scale: float, theirs: Tensor) -> str:
    norm, count, each = float(theirs.norm()), len(tasks), tasks.each("query")
    near = float(f"{norm:.2g}")
    if abs(norm - near) <= 5e-5 * norm and factor < 1:
        return f"They agree up to a factor of {factor:.4g}: the loop clips to the norm {near:g}. Give clip={near:g}."
    sums = {
        count: f"a sum over the {count} tasks",
        each: "a sum over a task's query instances",
        count * each: "a sum over all query instances",
    }
    whole = factor * scale
    if whole < 0:
        return f"They agree up to a factor of {factor:.4g}: the loop goes up its loss. Negate the loss in backward()."
    sizes = [n for n in (1, *sums) if abs(whole - n) < 1e-3 * n]
    what = f": the loop's loss is {sums[sizes[0]]}" if sizes and sizes[0] > 1 else ""
    give = "'mean'" if 1 in sizes else "'sum'" if count in sizes else f"{whole:.6g}"
    return f"They agree up to a factor of {factor:.4g}{what}. Give reduction={give}, or scale the loss."


def _clipped_by_value(ours: Tensor, theirs: Tensor, fits: float) -> bool:
    top = float(theirs.abs().max())
    return distance(ours.clamp(-top, top), theirs) <= fits
