"""The step rule that an optimiser of torch follows, and its state; options that no rule has are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.training.grouped_step import GroupedStep
from metafluence.training.step_rules import AdamStep, MomentumStep, RMSpropStep, SGDStep, StepRule

HARMLESS = ("lr", "foreach", "fused", "capturable", "differentiable")
"""Settings of a group that do not change what a step is; learning rates are noted at each step."""
DECREASES = {
    "maximize": ("ascends", "negate the loss in place of maximize"),
    "amsgrad": ("keeps a maximum of moments", "leave amsgrad out"),
    "centered": ("subtracts a mean gradient", "leave centered out"),
    "dampening": ("scales gradients by 1 − dampening", "use dampening=0"),
}


def rule_of(optimisers: Sequence[torch.optim.Optimizer], clip: float | None) -> StepRule:
    """The rule of SGD, Adam, AdamW or RMSprop of torch; of several, or of groups of parameters, a `GroupedStep`.

    clip: the longest norm of the gradient of all parameters, where the loop calls `clip_grad_norm_`.
    Raises InputError naming an optimiser or an option that no rule has, or a parameter that two optimisers step.
    """
    for optimiser in optimisers:
        if not isinstance(optimiser, torch.optim.Optimizer):
            name = type(optimiser).__name__
            raise InputError(f"The optimiser is a {name}. Give the loop's torch.optim.SGD, Adam, AdamW or RMSprop.")
    groups = [(optimiser, group) for optimiser in optimisers for group in trained_groups(optimiser)]
    sizes = [sum(p.numel() for p in trained(group)) for _, group in groups]
    ids = [id(p) for _, group in groups for p in trained(group)]
    if not ids:
        raise InputError("The optimiser has no parameter that requires a gradient. Give it those that the loop trains.")
    if len(set(ids)) < len(ids):
        raise InputError("A parameter is stepped by two optimisers. Give each parameter to one.")
    if len(groups) == 1:
        return _rule_of_group(*groups[0], clip)
    return GroupedStep(
        rules=tuple(_rule_of_group(*one, None) for one in groups), spans=tuple(enumerate(sizes)), clip=clip
    )


def _rule_of_group(optimiser: torch.optim.Optimizer, group: Mapping[str, Any], clip: float | None) -> StepRule:
    name, kind = type(optimiser).__name__, type(optimiser)
    for option, (does, instead) in DECREASES.items():
        if group.get(option):
            raise InputError(f"{name} has {option}={group[option]!r}, which {does}; no step rule does. {instead}.")
    common = {"weight_decay": float(group.get("weight_decay", 0.0)), "clip": clip}
    if kind is torch.optim.SGD:
        if not group["momentum"]:
            return SGDStep(**common)
        return MomentumStep(momentum=float(group["momentum"]), nesterov=bool(group["nesterov"]), **common)
    if kind in (torch.optim.Adam, torch.optim.AdamW):
        beta1, beta2 = map(float, group["betas"])
        begun = _steps_of(optimiser, group)
        decoupled = kind is torch.optim.AdamW or bool(group.get("decoupled_weight_decay"))
        return AdamStep(beta1=beta1, beta2=beta2, eps=float(group["eps"]), decoupled=decoupled, begun=begun, **common)
    if kind is torch.optim.RMSprop:
        if group["momentum"]:
            raise InputError("RMSprop has momentum, and its step rule has none. Use momentum=0, or Adam.")
        return RMSpropStep(alpha=float(group["alpha"]), eps=float(group["eps"]), **common)
    raise InputError(f"{name} is not among the optimisers that can be replayed: torch's SGD, Adam, AdamW and RMSprop.")


def trained(group: Mapping[str, Any]) -> list[Tensor]:
    """The parameters of a group that are stepped, in order."""
    return [p for p in group["params"] if p.requires_grad]


def trained_groups(optimiser: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The groups that have a parameter to step."""
    return [group for group in optimiser.param_groups if trained(group)]


def settings(optimiser: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What each group has, but its learning rate: it stays as it is through a run. What schedules note is left out."""
    names = [name for name in optimiser.defaults if name not in HARMLESS]
    return [
        {**{name: group[name] for name in names}, "parameters": [id(p) for p in trained(group)]}
        for group in trained_groups(optimiser)
    ]


def rates_of(optimiser: torch.optim.Optimizer) -> list[float]:
    """The learning rate of each group now."""
    return [float(group["lr"]) for group in trained_groups(optimiser)]


def _steps_of(optimiser: torch.optim.Optimizer, group: Mapping[str, Any]) -> int:
    """How many steps a group of Adam has made. Raises InputError where its parameters differ."""
    made = {int(optimiser.state[p]["step"]) if p in optimiser.state else 0 for p in trained(group)}
    if len(made) > 1:
        raise InputError(
            f"The optimiser has made {sorted(made)} steps of different parameters; a step rule makes as many of all "
            "of a group. Start to record before its first step, give every parameter a gradient in each, or make "
            "groups of those that made as many."
        )
    return made.pop()


def parameters_of(optimisers: Sequence[torch.optim.Optimizer]) -> list[Tensor]:
    """The parameters that are stepped, in order."""
    return [p for optimiser in optimisers for group in trained_groups(optimiser) for p in trained(group)]


def moments_of(optimisers: Sequence[torch.optim.Optimizer], name: str) -> list[Tensor]:
    """The moment `name` of each parameter that is stepped; zeros where there is none."""
    found = [
        (p, optimiser.state[p].get(name) if p in optimiser.state else None)
        for optimiser in optimisers
        for p in parameters_of([optimiser])
    ]
    return [torch.zeros_like(p) if part is None else part for p, part in found]
