"""The step rule that an optimiser of torch follows, and its state; options that no rule has are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.training.step_rules import AdamStep, MomentumStep, RMSpropStep, SGDStep, StepRule

HARMLESS = ("params", "param_names", "lr", "initial_lr", "foreach", "fused", "capturable", "differentiable")
"""Settings of a group that do not change what a step is; learning rates are noted at each step."""
DECREASES = {
    "maximize": ("ascends", "negate the loss in place of maximize"),
    "amsgrad": ("keeps a maximum of moments", "leave amsgrad out"),
    "centered": ("subtracts a mean gradient", "leave centered out"),
    "dampening": ("scales gradients by 1 − dampening", "use dampening=0"),
}


def rule_of(optimiser: torch.optim.Optimizer, clip: float | None) -> StepRule:
    """The rule of SGD, Adam, AdamW or RMSprop of torch.

    clip: the longest norm of a gradient, where the loop calls `clip_grad_norm_`.
    Raises InputError naming an optimiser or an option that no rule has.
    """
    name, kind = type(optimiser).__name__, type(optimiser)
    if not isinstance(optimiser, torch.optim.Optimizer):
        raise InputError(f"The optimiser is a {name}. Give the loop's torch.optim.SGD, Adam, AdamW or RMSprop.")
    group = settings(optimiser)
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
        begun = steps_of(optimiser)
        decoupled = kind is torch.optim.AdamW or bool(group.get("decoupled_weight_decay"))
        return AdamStep(beta1=beta1, beta2=beta2, eps=float(group["eps"]), decoupled=decoupled, begun=begun, **common)
    if kind is torch.optim.RMSprop:
        if group["momentum"]:
            raise InputError("RMSprop has momentum, and its step rule has none. Use momentum=0, or Adam.")
        return RMSpropStep(alpha=float(group["alpha"]), eps=float(group["eps"]), **common)
    raise InputError(f"{name} is not among the optimisers that can be replayed: torch's SGD, Adam, AdamW and RMSprop.")


def settings(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """What all groups of parameters share, but learning rates. Raises InputError where they differ."""
    first, *others = optimiser.param_groups
    found = {name: value for name, value in first.items() if name not in HARMLESS}
    for group in others:
        option = next((name for name, value in found.items() if group.get(name) != value), None)
        if option is not None:
            raise InputError(
                f"The groups of parameters have {option}={found[option]!r} and {group.get(option)!r}. A step rule has "
                "one setting for all parameters: give the optimiser one group."
            )
    return found


def rate_of(optimiser: torch.optim.Optimizer) -> float:
    """The learning rate now. Raises InputError where groups of parameters differ."""
    rates = {float(group["lr"]) for group in optimiser.param_groups}
    if len(rates) > 1:
        raise InputError(f"Groups of parameters have the learning rates {sorted(rates)}. Give the optimiser one group.")
    return rates.pop()


def steps_of(optimiser: torch.optim.Optimizer) -> int:
    """How many steps an optimiser that counts them has made. Raises InputError where parameters differ."""
    made = {int(state["step"]) for state in optimiser.state.values()}
    if len(made) > 1 or (made and len(optimiser.state) < len(parameters_of(optimiser))):
        raise InputError(
            f"The optimiser has made {sorted({*made, 0})} steps of different parameters; a step rule makes as many of "
            "all. Start to record before its first step, or give every parameter a gradient in each."
        )
    return made.pop() if made else 0


def parameters_of(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters that are stepped, in order."""
    return [p for group in optimiser.param_groups for p in group["params"] if p.requires_grad]


def moments_of(optimiser: torch.optim.Optimizer, parameters: Sequence[Tensor], name: str) -> list[Tensor]:
    """The moment `name` of each parameter; zeros where there is none yet."""
    states: Mapping[Any, Any] = optimiser.state
    found = [states[p].get(name) if p in states else None for p in parameters]
    return [torch.zeros_like(p) if part is None else part for p, part in zip(parameters, found, strict=True)]
