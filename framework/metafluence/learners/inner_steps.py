"""Adaptation by steps of a differentiable optimiser, all tasks at once: what maml and anil share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from higher.optim import DifferentiableAdam, DifferentiableOptimizer, DifferentiableSGD
from torch import Tensor

from metafluence.learners.meta_learner import Adaptation
from metafluence.learners.network_learner import NetworkLearner
from metafluence.registry import Count, Positive
from metafluence.tasks import Batch

InnerRule = Literal["sgd", "adam"]


class StepLearner(NetworkLearner):
    """A dataclass with the fields `steps`, `rate` and `first_order`, whose `unroll` takes those steps."""

    steps: Count
    rate: Positive
    first_order: bool

    @property
    def unrolls(self) -> bool:
        return True

    @property
    def exact(self) -> bool:
        return not self.first_order

    def adapt(self, rows: Tensor, support: Batch, weights: Tensor, init: Tensor | None) -> Adaptation:
        return Adaptation.by_steps(self.unroll(rows, support, weights, track=False), self.steps)


class _TorchAdam(DifferentiableAdam):
    """torch's Adam of one tensor, by higher; entries whose gradients have been exactly zero so far stay where they are.

    higher adds eps to √v, torch to √v / √(1 − β₂ᵗ); an eps that shrinks with the bias makes them the same.
    """

    def _update(self, grouped_grads: list[list[Tensor]], **kwargs: object) -> None:
        group, state = self.param_groups[0], self.state[0][0]
        eps, steps = group["eps"], state.get("step", 0) + 1
        group["eps"] = eps * (1 - group["betas"][1] ** steps) ** 0.5
        self._update_moved(grouped_grads, **kwargs)
        group["eps"] = eps

    def _update_moved(self, grouped_grads: list[list[Tensor]], **kwargs: object) -> None:
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
    rule: InnerRule,
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
    kind, plain = (DifferentiableSGD, torch.optim.SGD) if rule == "sgd" else (_TorchAdam, torch.optim.Adam)
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
