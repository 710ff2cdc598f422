"""Steps of a differentiable optimiser on the inner loss, all tasks at once: what maml and anil share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from higher.optim import DifferentiableAdam, DifferentiableOptimizer, DifferentiableSGD
from torch import Tensor

StepRule = Literal["sgd", "adam"]


class _SmoothAdam(DifferentiableAdam):
    """higher's Adam of one tensor, where some gradients have been exactly zero so far: what they belong to stays."""

    def _update(self, grouped_grads: list[list[Tensor]], **kwargs: object) -> None:
        # √v has no derivative at v = 0, and a NaN there would spread to all others.
        ((gradient,),), state, params = grouped_grads, self.state[0][0], self.param_groups[0]["params"]
        (before,) = params
        kept = {name: state.get(name, torch.zeros_like(before)) for name in ("exp_avg", "exp_avg_sq")}
        still = (gradient.detach() == 0) & (kept["exp_avg_sq"].detach() == 0)
        super()._update([[torch.where(still, 1.0, gradient)]], **kwargs)
        params[0] = torch.where(still, before, params[0])
        state.update({name: torch.where(still, value, state[name]) for name, value in kept.items()})


def descend(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    rule: StepRule,
    rate: Tensor | float,
    steps: int,
    track: bool,
    first_order: bool = False,
) -> Tensor:
    """θ [n, Q] after `steps` steps from `start` [n, Q] on the sum of `loss` (θ [n, Q] to [n]), by `higher`.

    rate: a number, or one for each parameter, [n, Q]; derivatives go through it. Adam and SGD act on every parameter
    alone, so that a stack of tasks is stepped as one. first_order: derivatives do not go through the gradients.
    """
    reference = torch.zeros(0, requires_grad=True)
    kind, plain = (DifferentiableSGD, torch.optim.SGD) if rule == "sgd" else (_SmoothAdam, torch.optim.Adam)
    optimiser: DifferentiableOptimizer = kind(
        plain([reference], lr=1.0),
        [reference],
        override={"lr": [rate]},
        grad_callback=(lambda gradients: [g.detach() for g in gradients]) if first_order else None,
        track_higher_grads=track,
    )
    with torch.enable_grad():
        adapted = start if track and start.requires_grad else start.detach().requires_grad_()
        for _ in range(steps):
            (adapted,) = optimiser.step(loss(adapted).sum(), params=[adapted])
    return adapted if track else adapted.detach()
