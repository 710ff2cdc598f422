"""What usually is behind a loop whose gradient is not its learner's: each is tried, and the one that fits is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, NamedTuple, get_args, get_type_hints

import torch
from torch import Tensor, nn

from metafluence.bilevel import BilevelProblem
from metafluence.errors import MetafluenceError
from metafluence.learners import MetaLearner
from metafluence.networks import evaluated_norms, running_norms
from metafluence.tasks import TaskSet, Weights
from metafluence.training.run import batch_gradient

ROUNDING = 0.4
"""The power of the precision that is the largest difference taken for rounding: 2e-3 in float32, 5e-7 in float64."""
FACTORS = (2.0, 0.5, 10.0, 0.1)


class Suspect(NamedTuple):
    """says: a sentence that names it and how to fix it. make: the problem under it."""

    says: str
    make: Callable[[], BilevelProblem]


def suspected(
    learner: MetaLearner, problem: BilevelProblem, scale: float, meta: Tensor, ours: Tensor, theirs: Tensor
) -> str:
    """A sentence on what is behind the difference of two gradients [P]: the first suspect that fits to rounding.

    ours: the learner's, with the loss times `scale`. theirs: the loop's.
    """
    fits = rounding(theirs)
    factor = _factor(ours, theirs, fits)
    if factor is not None:
        return _of_factor(factor, problem.tasks, scale, theirs)
    if _clipped_by_value(ours, theirs, fits):
        return (
            f"They agree but for entries at ±{float(theirs.abs().max()):g}: the loop clips single entries "
            "(clip_grad_value_), which no step rule does. Use clip_grad_norm_ and clip=..., or no clipping."
        )
    tried = []
    for name, suspect in _suspects(learner, problem):
        try:
            found = scale * loop_gradient(suspect.make(), meta)
        except (MetafluenceError, RuntimeError):
            continue
        tried.append(name)
        factor = 1.0 if distance(found, theirs) <= fits else _factor(found, theirs, fits)
        if factor is not None:
            more = "" if factor == 1.0 else f" Also: {_of_factor(factor, problem.tasks, scale, theirs)}"
            return suspect.says + more
    names = ", ".join(dict.fromkeys(tried))
    return (
        f"None of the usual reasons fits ({names}, loss reduction, clipping). Others are: another loss or what is "
        "added to it (l2, label smoothing), mixed precision, dropout, batch norm over more together than one task's "
        "support or query, and a module with other parameters. Correct the learner or the loop."
    )


def loop_gradient(problem: BilevelProblem, meta: Tensor) -> Tensor:
    """The mean over the problem's tasks of their total gradients at `meta` [P]."""
    tasks = problem.tasks
    return batch_gradient(problem, Weights.ones(tasks), torch.arange(len(tasks)), meta).data


def distance(ours: Tensor, theirs: Tensor) -> float:
    """‖ours − theirs‖ over ‖theirs‖."""
    return float((ours - theirs).norm()) / max(float(theirs.norm()), torch.finfo(theirs.dtype).tiny)


def rounding(values: Tensor) -> float:
    """The largest share of a gradient that is taken for rounding."""
    return torch.finfo(values.dtype).eps ** ROUNDING


def _suspects(learner: MetaLearner, problem: BilevelProblem) -> Iterator[tuple[str, Suspect]]:
    tasks = problem.tasks
    for name, old, new in _other_settings(learner):
        says = f"With {name}={new!r} in place of {old!r} they agree: that is what the loop does. Correct the learner."
        yield name, Suspect(says, lambda name=name, new=new: _again(problem, _changed(problem.learner, **{name: new})))
    backbone = getattr(learner, "backbone", None)
    if isinstance(backbone, nn.Module) and running_norms(backbone):
        says = (
            "With the batch norms' running statistics they agree: the loop has the model in evaluation mode, while the "
            "learner normalises by a task's own statistics. Call model.train() in the loop."
        )
        frozen = evaluated_norms(backbone)
        yield "evaluation mode", Suspect(says, lambda: _again(problem, _changed(learner, backbone=frozen)))
    swapped = TaskSet(tasks.query, tasks.support, tasks.ids)
    says = "With support and query exchanged they agree: the batch names them the wrong way round. Exchange them."
    yield "support and query exchanged", Suspect(says, lambda: problem.over(swapped))


def _changed(learner: MetaLearner, **settings: Any) -> MetaLearner:
    return replace(learner, **settings)  # type: ignore[type-var]


def _again(problem: BilevelProblem, learner: MetaLearner) -> BilevelProblem:
    return BilevelProblem(learner, problem.tasks, 0.0, problem.inner_solver, problem.memory_gib)


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


def _factor(ours: Tensor, theirs: Tensor, fits: float) -> float | None:
    """What `ours` times is `theirs`, if anything."""
    squared = float(ours @ ours)
    factor = float(ours @ theirs) / squared if squared else 0.0
    return factor if factor and distance(factor * ours, theirs) <= fits else None


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
    sizes = [n for n in (1, *sums) if abs(whole - n) < 1e-3 * n]
    what = f": the loop's loss is {sums[sizes[0]]}" if sizes and sizes[0] > 1 else ""
    give = "'mean'" if 1 in sizes else "'sum'" if count in sizes else f"{whole:.6g}"
    return f"They agree up to a factor of {factor:.4g}{what}. Give reduction={give}, or scale the loss."


def _clipped_by_value(ours: Tensor, theirs: Tensor, fits: float) -> bool:
    top = float(theirs.abs().max())
    return distance(ours.clamp(-top, top), theirs) <= fits
