"""Derivatives by central differences that know how wrong they are, and the comparison with them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

STEP = 1e-3
SETTLED = 1e-6
ROUNDING = 1e6 * torch.finfo(torch.float64).eps
"""What rounding may leave of an exact derivative, relative to its size: solves with condition numbers up to 1e6."""


class UnsettledError(AssertionError):
    """Differences differ too much from step to step to say what the derivative is, as at a kink."""


class Difference(NamedTuple):
    """A derivative by differences, and a bound on its error (both in the Euclidean norm over all entries)."""

    value: Tensor
    error: float


def central_difference(
    function: Callable[[Tensor], Tensor],
    at: Tensor,
    direction: Tensor,
    step: float = STEP,
    noise: float | Callable[[], float] = 0.0,
) -> Difference:
    """The derivative of `function` at `at` along `direction`, of sixth order in the step.

    Central differences D with steps h, h/2 and h/4 (h = `step` / ‖direction‖) are extrapolated (Richardson) to
    R₁ = (4 D(h/2) − D(h)) / 3 and R₂ likewise, and once more to R = (16 R₂ − R₁) / 15. The error is the last
    correction of truncation, |R₂ − R₁|, which exceeds what R leaves while the step is small enough, plus what
    rounding, four units in the last place of the function's values, and `noise` make of it.

    Args:
        function: float64 tensors to float64 tensors of one shape.
        at: where the derivative is taken.
        direction: along which it is taken, of the same shape, with any length but zero.
        step: the largest distance from `at` is this, whatever the length of `direction`.
        noise: bound on the error of the function's values, such as ‖∇F‖ over the smallest eigenvalue where the
            function is a fit; a callable is asked after the function.

    Example:
        >>> import torch
        >>> from metafluence.testing import central_difference
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> value, error = central_difference(torch.exp, one, one)
        >>> bool(abs(value - torch.e) <= error < 1e-9)
        True
    """
    direction = direction.to(at)  # a step rounded to less is another step
    length = float(direction.norm())
    h = step / length
    size, found = 0.0, []
    for t in (h, h / 2, h / 4):
        ahead, behind = (function(at + s * t * direction).detach() for s in (1, -1))
        found.append((ahead - behind) / (2 * t))
        size = max(size, float(ahead.norm()), float(behind.norm()))
    first, second = ((4 * b - a) / 3 for a, b in pairwise(found))
    value = (16 * second - first) / 15
    each = 4 * torch.finfo(torch.float64).eps * size + (noise() if callable(noise) else noise)
    # R weighs D(h/4), D(h/2) and D(h) by 64/45, 20/45 and 1/45, each of which divides an error by its own step.
    amplified = (64 * 4 + 20 * 2 + 1) / 45 / h
    return Difference(value, float((second - first).norm()) + amplified * each)


def central_jacobian(function: Callable[[Tensor], Tensor], at: Tensor, step: float = STEP) -> Difference:
    """All derivatives of `function` at `at` [P]: [*its shape, P], by central differences along each axis."""
    axes = torch.eye(at.numel(), dtype=at.dtype, device=at.device)
    columns = [central_difference(function, at, axis, step) for axis in axes]
    error = sum(column.error**2 for column in columns) ** 0.5
    return Difference(torch.stack([column.value for column in columns], dim=-1), error)


def assert_derivative(found: Tensor, difference: Difference, what: str = "the derivative", scale: float = 0.0) -> None:
    """Assert that `found` is the derivative, within the error of the differences and rounding.

    Args:
        found: the derivative to be tested.
        difference: the derivative by differences, and its error.
        what: its name, for messages.
        scale: size beside which `found` may be all rounding, added to its norm.

    Raises:
        UnsettledError: the differences are known to less than one in a million, so that nothing can be said.
        AssertionError: `found` is another derivative.
    """
    size = scale + float(difference.value.norm())
    if not difference.error <= SETTLED * size:
        raise UnsettledError(f"{what}: differences are only known to {difference.error:.1e}, their size is {size:.1e}")
    gap, bound = float((found.detach() - difference.value).norm()), difference.error + ROUNDING * size
    assert gap <= bound, f"{what}: {gap:.1e} from central differences, allowed {bound:.1e}"
