"""Step rules: one optimiser's step as a function of its state and a gradient, and the step's derivatives.

A step is s' = U(s, g): s the meta-parameters and the optimiser's moments, g the gradient. Values are those of
`torch.optim`. Every rule acts on each coordinate by itself (only clipping couples them): its Jacobian is a small
table of vectors [P], one for each pair of a new part of the state and an old part or the gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.registry import Component, Decay, NonNegative, Positive, Whole

Entry = Tensor | float
"""A diagonal of the Jacobian, [P], or one number for all coordinates."""

Rate = float | tuple[float, ...]
"""The learning rate of a step; where a rule has groups of parameters, that of each group."""

CLIP_OFFSET = 1e-6  # what torch.nn.utils.clip_grad_norm_ adds to the norm


@dataclass(frozen=True)
class StepState:
    """The state after `step` steps; parts: the meta-parameters, then the rule's moments, each [P]."""

    step: int
    parts: tuple[Tensor, ...]

    @property
    def meta(self) -> Tensor:
        return self.parts[0]


@dataclass(frozen=True, kw_only=True)
class StepRule(Component, ABC):
    """One optimiser's step. A frozen dataclass whose fields are its settings; the learning rate is given to each step.

    weight_decay: adds this multiple of λ to the gradient (`AdamStep` can decouple it). clip: longest norm of the
    gradient, longer ones are scaled down to it as by `torch.nn.utils.clip_grad_norm_`; None leaves all as they are.

    Example:
        >>> rule = MomentumStep(momentum=0.5)
        >>> state = rule.start(torch.zeros(1))
        >>> state = rule.step(rule.step(state, torch.ones(1), 0.1), torch.ones(1), 0.1)
        >>> round(float(state.meta), 3)
        -0.25
    """

    weight_decay: NonNegative = 0.0
    clip: Positive | None = None

    @property
    def moments(self) -> tuple[str, ...]:
        """The names of what the optimiser keeps beside the meta-parameters, as torch calls it; [P] each."""
        return ()

    def groups(self, size: int) -> list[tuple[StepRule, Tensor]]:
        """The rule of each group of parameters, and where the group lies among all `size` ones."""
        return [(self, torch.arange(size))]

    def ordered(self, places: Tensor) -> StepRule:
        """The same rule where parameter i is the one that was at places[i]."""
        return self

    def start(self, meta: Tensor) -> StepState:
        """The state before the first step: meta [P], and moments of zero."""
        return StepState(0, (meta, *(torch.zeros_like(meta) for _ in self.moments)))

    def later(self, steps: int) -> StepRule:
        """The same rule for a run that begins after `steps` steps of it."""
        return self

    def step(self, state: StepState, gradient: Tensor, rate: Rate) -> StepState:
        """The state after a step along `gradient` [P] at learning rate `rate`."""
        return StepState(state.step + 1, self.advance(state, self.clipped(gradient), rate))

    def vjp(
        self, state: StepState, gradient: Tensor, rate: Rate, cotangents: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        """The Jacobian's transpose applied to cotangents of the new parts, [k, P] each.

        Returns:
            Cotangents of the old parts, and that of the gradient, [k, P] each.
        """
        rows = self.jacobian(state, self.clipped(gradient), rate)
        *parts, by_gradient = (_dot(column, cotangents) for column in zip(*rows, strict=True))
        return parts, self._clip_derivative(gradient, by_gradient)

    def jvp(
        self, state: StepState, gradient: Tensor, rate: Rate, tangents: Sequence[Tensor], along: Tensor
    ) -> list[Tensor]:
        """Tangents of the new parts for tangents of the old parts and `along` of the gradient, [k, P] each."""
        given = [*tangents, self._clip_derivative(gradient, along)]
        return [_dot(row, given) for row in self.jacobian(state, self.clipped(gradient), rate)]

    @abstractmethod
    def advance(self, state: StepState, gradient: Tensor, rate: Rate) -> tuple[Tensor, ...]:
        """The new parts for a clipped gradient."""

    @abstractmethod
    def jacobian(self, state: StepState, gradient: Tensor, rate: Rate) -> list[list[Entry]]:
        """A row for each new part: its derivatives by the old parts and, last, by the clipped gradient."""

    def gain(self, state: StepState) -> Entry:
        """How far λ moves against a gradient that keeps its value, per unit of the gradient and of the rate.

        Moments that scale the gradient are held at the state's; those that average it have settled.
        """
        return 1.0

    @property
    def decoupled_decay(self) -> float:
        """The weight decay that is no part of the gradient: λ shrinks by the rate times it at each step."""
        return 0.0

    def _decayed(self, meta: Tensor, gradient: Tensor) -> Tensor:
        return gradient.add(meta, alpha=self.weight_decay) if self.weight_decay else gradient

    def clipped(self, gradient: Tensor) -> Tensor:
        """The gradient, scaled down to the norm `clip` where it is longer."""
        if self.clip is None:
            return gradient
        return gradient * torch.clamp(self.clip / (torch.linalg.vector_norm(gradient) + CLIP_OFFSET), max=1.0)

    def _clip_derivative(self, gradient: Tensor, rows: Tensor) -> Tensor:
        """The Jacobian of clipping, which is symmetric, applied to rows [k, P]."""
        norm = torch.linalg.vector_norm(gradient)
        if self.clip is None or bool(norm + CLIP_OFFSET <= self.clip):
            return rows
        scale = self.clip / (norm + CLIP_OFFSET)
        unit = gradient / norm
        return scale * (rows - (norm / (norm + CLIP_OFFSET)) * (rows @ unit).unsqueeze(1) * unit)


@dataclass(frozen=True, kw_only=True)
class SGDStep(StepRule):
    """λ' = λ − rate g."""

    def advance(self, state: StepState, gradient: Tensor, rate: Rate) -> tuple[Tensor, ...]:
        return (state.meta.add(self._decayed(state.meta, gradient), alpha=-_single(rate)),)

    def jacobian(self, state: StepState, gradient: Tensor, rate: Rate) -> list[list[Entry]]:
        rate = _single(rate)
        return [[1 - rate * self.weight_decay, -rate]]


@dataclass(frozen=True, kw_only=True)
class MomentumStep(StepRule):
    """b' = momentum b + g, λ' = λ − rate b'; with `nesterov` λ' = λ − rate (g + momentum b'), as in torch's SGD."""

    momentum: Decay = 0.9
    nesterov: bool = False

    @property
    def moments(self) -> tuple[str, ...]:
        return ("momentum_buffer",)

    def gain(self, state: StepState) -> Entry:
        return 1 / (1 - self.momentum)

    def advance(self, state: StepState, gradient: Tensor, rate: Rate) -> tuple[Tensor, ...]:
        meta, buffer = state.parts
        gradient = self._decayed(meta, gradient)
        buffer = (buffer * self.momentum).add(gradient)
        along = gradient.add(buffer, alpha=self.momentum) if self.nesterov else buffer
        return meta.add(along, alpha=-_single(rate)), buffer

    def jacobian(self, state: StepState, gradient: Tensor, rate: Rate) -> list[list[Entry]]:
        rate, decay, mu = _single(rate), self.weight_decay, self.momentum
        along = [decay * (1 + mu), mu * mu, 1 + mu] if self.nesterov else [decay, mu, 1.0]
        return [[1 - rate * along[0], -rate * along[1], -rate * along[2]], [decay, mu, 1.0]]


@dataclass(frozen=True, kw_only=True)
class AdamStep(StepRule):
    """Adam (Kingma and Ba 2015); with `decoupled` weight decay AdamW (Loshchilov and Hutter 2019).

    λ' = λ − rate m̂ / (√(v̂ + eps_root) + eps), m̂ and v̂ the moments corrected for their start at zero. eps_root: added
    inside the root, where it keeps the step smooth in gradients near zero; torch's Adam has none. begun: steps
    that were made before the run's first one, which the corrections count.
    """

    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: NonNegative = 1e-8
    eps_root: NonNegative = 0.0
    decoupled: bool = False
    begun: Whole = 0

    def __post_init__(self) -> None:
        _check_eps("AdamStep", self.eps, self.eps_root)

    @property
    def moments(self) -> tuple[str, ...]:
        return "exp_avg", "exp_avg_sq"

    def later(self, steps: int) -> StepRule:
        return replace(self, begun=self.begun + steps)

    def gain(self, state: StepState) -> Entry:
        held = StepState(state.step - 1, state.parts)  # whose corrections are those of the step that led here
        return 1 / (self._root(held, state.parts[2]) + self.eps)

    @property
    def decoupled_decay(self) -> float:
        return self.weight_decay if self.decoupled else 0.0

    def advance(self, state: StepState, gradient: Tensor, rate: Rate) -> tuple[Tensor, ...]:
        rate = _single(rate)
        meta, mean, square = state.parts
        if self.decoupled and self.weight_decay:
            meta = meta * (1 - rate * self.weight_decay)
        gradient = gradient if self.decoupled else self._decayed(meta, gradient)
        mean, square = self._averages(mean, square, gradient)
        first, _ = self._corrections(state)
        return meta.addcdiv(mean, self._root(state, square) + self.eps, value=-rate / first), mean, square

    def jacobian(self, state: StepState, gradient: Tensor, rate: Rate) -> list[list[Entry]]:
        rate = _single(rate)
        decay = 0.0 if self.decoupled else self.weight_decay
        kept = 1 - rate * self.weight_decay if self.decoupled else 1.0
        gradient = gradient if self.decoupled else self._decayed(state.meta, gradient)
        mean, square = self._averages(state.parts[1], state.parts[2], gradient)
        first, second = self._corrections(state)
        root = self._root(state, square)
        bottom = root + self.eps
        by_mean = -rate / first / bottom
        by_square = _over(rate / first / 2 / second * mean / bottom / bottom, root)
        to_mean, to_square = 1 - self.beta1, 2 * (1 - self.beta2) * gradient
        by_gradient = by_mean * to_mean + by_square * to_square
        return [
            [kept + decay * by_gradient, by_mean * self.beta1, by_square * self.beta2, by_gradient],
            [decay * to_mean, self.beta1, 0.0, to_mean],
            [decay * to_square, 0.0, self.beta2, to_square],
        ]

    def _averages(self, mean: Tensor, square: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        squares = (square * self.beta2).addcmul(gradient, gradient, value=1 - self.beta2)
        return mean.lerp(gradient, 1 - self.beta1), squares

    def _corrections(self, state: StepState) -> tuple[float, float]:
        step = float(self.begun + state.step + 1)
        return 1 - self.beta1**step, 1 - self.beta2**step

    def _root(self, state: StepState, square: Tensor) -> Tensor:
        second = self._corrections(state)[1]
        return square.sqrt() / second**0.5 if self.eps_root == 0 else (square / second + self.eps_root).sqrt()


@dataclass(frozen=True, kw_only=True)
class RMSpropStep(StepRule):
    """v' = alpha v + (1 − alpha) g², λ' = λ − rate g / (√(v' + eps_root) + eps) (Hinton 2012), as torch's RMSprop."""

    alpha: Decay = 0.99
    eps: NonNegative = 1e-8
    eps_root: NonNegative = 0.0

    def __post_init__(self) -> None:
        _check_eps("RMSpropStep", self.eps, self.eps_root)

    @property
    def moments(self) -> tuple[str, ...]:
        return ("square_avg",)

    def gain(self, state: StepState) -> Entry:
        return 1 / ((state.parts[1] + self.eps_root).sqrt() + self.eps)

    def advance(self, state: StepState, gradient: Tensor, rate: Rate) -> tuple[Tensor, ...]:
        gradient, square, root = self._averages(state, gradient)
        return state.meta.addcdiv(gradient, root + self.eps, value=-_single(rate)), square

    def jacobian(self, state: StepState, gradient: Tensor, rate: Rate) -> list[list[Entry]]:
        rate, decay = _single(rate), self.weight_decay
        gradient, _, root = self._averages(state, gradient)
        bottom = root + self.eps
        by_square = _over(rate / 2 * gradient / bottom / bottom, root)
        to_square = 2 * (1 - self.alpha) * gradient
        by_gradient = by_square * to_square - rate / bottom
        return [
            [1 + decay * by_gradient, by_square * self.alpha, by_gradient],
            [decay * to_square, self.alpha, to_square],
        ]

    def _averages(self, state: StepState, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gradient = self._decayed(state.meta, gradient)
        square = (state.parts[1] * self.alpha).addcmul(gradient, gradient, value=1 - self.alpha)
        return gradient, square, square.sqrt() if self.eps_root == 0 else (square + self.eps_root).sqrt()


def _single(rate: Rate) -> float:
    if isinstance(rate, tuple):
        raise InputError(f"A rule of all parameters is given the rates {rate}. Give it one, or GroupedStep's rules.")
    return rate


def _dot(entries: Sequence[Entry], columns: Sequence[Tensor]) -> Tensor:
    """Σ entry · column, [k, P]; entries that are zero everywhere are passed over."""
    total = torch.zeros_like(columns[0])
    for entry, column in zip(entries, columns, strict=True):
        if isinstance(entry, Tensor) or entry:
            total = total + entry * column
    return total


def _over(values: Tensor, root: Tensor) -> Tensor:
    """Values / root; zero where the root is zero.

    The square root's derivative is infinite there, and always meets the derivative of a square at zero: their product
    is zero. It happens where a parameter never had a gradient.
    """
    positive = root > 0
    return torch.where(positive, values / torch.where(positive, root, 1.0), 0.0)


def _check_eps(name: str, eps: float, eps_root: float) -> None:
    if eps + eps_root == 0:
        raise InputError(f"{name} divides by √(v + eps_root) + eps: they cannot both be 0. Give eps 1e-8.")
