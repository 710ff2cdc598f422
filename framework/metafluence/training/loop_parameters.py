"""Which of a loop's parameters is which of its learner's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor, nn

from metafluence.bilevel import BilevelProblem
from metafluence.errors import InputError
from metafluence.learners import MetaLearner, NetworkLearner


def places_of(learner: MetaLearner, problem: BilevelProblem, parameters: Sequence[Tensor]) -> Tensor:
    """For each meta-parameter, where it is among the loop's parameters, flat and in order, [P].

    Parameters that are the learner's module's own are known by that; the others by their shapes, in the order of λ.
    Raises InputError where the loop trains more, less or other than the learner.
    """
    bound = problem.learner
    if not isinstance(bound, NetworkLearner):
        positions = {"meta-parameters": torch.arange(problem.size)}
    else:
        positions = bound.positions()
    module = getattr(learner, "backbone", None)
    own = {id(p): name for name, p in module.named_parameters()} if isinstance(module, nn.Module) else {}
    names = [own.get(id(p)) for p in parameters]
    left = [name for name in positions if name not in names]
    for number, p in enumerate(parameters):
        if names[number] is None and left:
            same = next((name for name in left if positions[name].shape == p.shape), left[0])
            names[number] = same
            left.remove(same)
    wrong = [f"{name} {list(positions[name].shape)} is not trained in the loop" for name in left]
    for number, name, p in zip(count(1), names, parameters, strict=False):
        if name is None or name not in positions:
            wrong.append(f"the optimiser's parameter {number} {list(p.shape)} is none of the learner's")
        elif positions[name].shape != p.shape:
            wrong.append(f"{name} is {list(positions[name].shape)}, the optimiser's parameter {number} {list(p.shape)}")
    if wrong:
        learns = (
            " A learned inner rate is known by its logarithm, with learn_rates=True (maml, one for each layer) or "
            "learn_rate=True (anil)."
        )
        raise InputError(
            f"The optimiser does not train what the learner has: {'; '.join(wrong[:8])}. Give the learner the loop's "
            "module, freeze what the loop does not train (requires_grad_(False)), and give the optimiser the "
            f"parameters in the module's order.{learns if any(p.numel() == 1 for p in parameters) else ''}"
        )
    order = torch.cat([positions[name].flatten() for name in names if name is not None])
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))
    return places.to(parameters[0].device)
