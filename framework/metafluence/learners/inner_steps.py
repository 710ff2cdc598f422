"""Adaptation by steps of a differentiable optimiser, all tasks at once: what maml and anil share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal

import torch
from higher.optim import DifferentiableAdam, DifferentiableOptimizer, DifferentiableSGD
from torch import Tensor

from metafluence.errors import InputError
from metafluence.learners.inner_rates import InnerRates, LearnedRates, RateScale, inner_rates
from metafluence.learners.meta_learner import Adaptation
from metafluence.learners.network_learner import NetworkLearner
from metafluence.registry import Count, Positive
from metafluence.tasks import Batch

InnerRule = Literal["sgd", "adam"]


class StepLearner(NetworkLearner):
    """A dataclass with the fields `steps`, `rate` and `first_order`, whose `unroll` takes those steps.

    With fields `learn_rates`, `rates_by_step` and `rates_as`, too, `rates` are the last meta-parameters of λ.
    """

    steps: Count
    rate: Positive
    first_order: bool
    learn_rates: LearnedRates = "none"
    rates_by_step: bool = False
    rates_as: RateScale = "log"

    def __post_init__(self) -> None:
        if self.rates_by_step and self.learn_rates == "none":
            raise InputError(
                f"{type(self).__name__} has rates_by_step, and learns no rates. Set learn_rates to one, layer, tensor "
                "or entry, or leave rates_by_step out."
            )

    @cached_property
    def rates(self) -> InnerRates | None:
        """The learned rates, of a bound learner."""
        steps = self.steps if self.rates_by_step else None
        return inner_rates(self.learn_rates, self.adapted_positions(), self.rate, steps, self.rates_as)

    @property
    def rates_size(self) -> int:
        """How many meta-parameters the learned rates are."""
        return 0 if self.rates is None else self.rates.size

    def rate_positions(self, start: int = 0) -> dict[str, Tensor]:
        """By name, where the learned rates lie behind `start` other extra meta-parameters."""
        return {} if self.rates is None else {name: start + where for name, where in self.rates.positions.items()}

    def initial_extra(self, network: Tensor, generator: torch.Generator | None) -> Tensor:
        """Zeros, and behind them the learned rates as they start."""
        others = network.new_zeros(self.extra_size - self.rates_size)
        return others if self.rates is None else torch.cat([others, self.rates.initial(network)])

    def rate_of(self, rows: Tensor) -> Tensor | float:
        """The inner rate for `descend`: `rate`, or the learned ones, whose meta-parameters rows [n, R] end in."""
        return self.rate if self.rates is None else self.rates.spread(rows[:, rows.shape[1] - self.rates.size :])

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

    rate: a number, or one for each parameter, [n, Q], and each step, [n, steps, Q] ([n, 1, Q] for all); derivatives go
    through it. Adam and SGD act on every parameter alone, so that a stack of tasks is stepped as one. first_order:
    derivatives do not go through the gradients.
    """
    reference = torch.zeros(0, requires_grad=True)
    kind, plain = (DifferentiableSGD, torch.optim.SGD) if rule == "sgd" else (_TorchAdam, torch.optim.Adam)
    optimiser: DifferentiableOptimizer = kind(
        plain([reference], lr=1.0),
        [reference],
        grad_callback=(lambda gradients: [g.detach() for g in gradients]) if first_order else None,
        track_higher_grads=track,
    )
    with torch.enable_grad():
        adapted = start if track and start.requires_grad else start.detach().requires_grad_()
        for step in range(steps):
            now = rate[:, min(step, rate.shape[1] - 1)] if isinstance(rate, Tensor) and rate.dim() == 3 else rate
            (adapted,) = optimiser.step(loss(adapted).sum(), params=[adapted], override={"lr": [now]})
    return adapted if track else adapted.detach()
