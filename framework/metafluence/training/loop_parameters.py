"""Which of a loop's parameters is which of its learner's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor, nn

from metafluence.bilevel import BilevelProblem
from metafluence.errors import InputError
from metafluence.learners import MetaLearner, NetworkLearner, StepLearner


def places_of(learner: MetaLearner, problem: BilevelProblem, parameters: Sequence[Tensor]) -> Tensor:
    """For each meta-parameter, where it is among the loop's parameters, flat and in order, [P].

    Parameters that are the learner's module's own are known by that; the others by their shapes, in the order of λ;
    learned inner rates by that order alone where the loop divides them into tensors of other shapes.
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
        same = next((name for name in left if positions[name].shape == p.shape), None)
        if names[number] is None and same is not None:
            names[number] = same
            left.remove(same)
    loose = {number: p for number, p in enumerate(parameters) if names[number] is None}
    if loose and _are_rates(bound, left, sum(p.numel() for p in loose.values())):
        rates = torch.cat([positions[name].flatten() for name in left])
        for (number, p), own in zip(loose.items(), rates.split([p.numel() for p in loose.values()]), strict=True):
            names[number] = f"rates {number}"
            positions[f"rates {number}"] = own.reshape(p.shape)
        left, loose = [], {}
    for number in list(loose)[: len(left)]:  # of another shape, as is said below
        names[number] = left.pop(0)
    wrong = [f"{name} {list(positions[name].shape)} is not trained in the loop" for name in left]
    for number, name, p in zip(count(1), names, parameters, strict=False):
        if name is None or name not in positions:
            wrong.append(f"the optimiser's parameter {number} {list(p.shape)} is none of the learner's")
        elif positions[name].shape != p.shape:
            wrong.append(f"{name} is {list(positions[name].shape)}, the optimiser's parameter {number} {list(p.shape)}")
    if wrong:
        learns = (
            " An inner rate that is learned is described by learn_rates (one, layer, tensor or entry), rates_by_step "
            "and rates_as of maml and anil."
            if isinstance(bound, StepLearner)
            else f" {type(bound).__name__} takes no inner steps, so that it has no inner rate to learn."
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


def _are_rates(bound: MetaLearner, names: Sequence[str], size: int) -> bool:
    """Whether meta-parameters of these names are all learned inner rates, `size` in all."""
    rates = bound.rate_positions() if isinstance(bound, StepLearner) else {}
    return set(names) <= set(rates) and sum(rates[name].numel() for name in names) == size
