"""Learned rates of inner steps: which rate each adapted parameter has, and what the rates are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LearnedRates = Literal["none", "one", "layer", "tensor", "entry"]
"""For what an inner rate of its own is learned: nothing, all parameters together, each layer (weight and bias), each
tensor (Antoniou et al. 2019, LSLR of MAML++), or each entry (Li et al. 2017, Meta-SGD)."""
RateScale = Literal["log", "rate"]
"""As what a learned rate is a meta-parameter: ln(rate / its start), or the rate itself."""


@dataclass(frozen=True)
class InnerRates:
    """Rates of adapted parameters [Q], as meta-parameters.

    positions: by name, where they lie among the meta-parameters of all rates; [steps, ...] where each step has its own.
    spans: along the adapted parameters, (number of the rate, how many have it); None where each entry has its own.
    count: how many rates a step has. steps: that have rates of their own, or 1. start: of every rate.
    """

    positions: dict[str, Tensor]
    spans: tuple[tuple[int, int], ...] | None
    count: int
    steps: int
    start: float
    scale: RateScale

    @property
    def size(self) -> int:
        """How many meta-parameters there are."""
        return self.count * self.steps

    def initial(self, like: Tensor) -> Tensor:
        """The meta-parameters of rates that are as at the start, [size]."""
        return like.new_full((self.size,), 0.0 if self.scale == "log" else self.start)

    def spread(self, own: Tensor) -> Tensor:
        """The rate of each parameter, of each step or of all: meta-parameters [n, size] to [n, steps, Q]."""
        rates = own.unflatten(1, (self.steps, self.count))
        if self.scale == "log":
            rates = self.start * rates.exp()
        if self.spans is None:
            return rates
        parts = [rates[..., number : number + 1].expand(-1, -1, size) for number, size in self.spans]
        return torch.cat(parts, dim=2)


def inner_rates(
    kind: LearnedRates, adapted: Mapping[str, Tensor], start: float, steps: int | None, scale: RateScale
) -> InnerRates | None:
    """The rates that are learned; None for `none`.

    adapted: where each adapted parameter lies among the Q ones, by name, in its shape. steps: their number where each
    has rates of its own.
    """
    if kind == "none":
        return None
    count, spans, numbers = _numbered(kind, adapted)
    base = ("log_rate" if scale == "log" else "rate") + ("" if kind == "one" else "s")
    positions = {}
    for key, number in numbers.items():
        name = f"{base}.{key.replace('.', '-')}" if key else base
        each = [number + count * step for step in range(steps or 1)]
        positions[name] = number if steps is None else torch.stack(each)
    return InnerRates(positions, spans, count, steps or 1, start, scale)


def _numbered(
    kind: LearnedRates, adapted: Mapping[str, Tensor]
) -> tuple[int, tuple[tuple[int, int], ...] | None, dict[str, Tensor]]:
    """How many rates there are, their spans along the adapted parameters, and their numbers by what has them."""
    size = sum(where.numel() for where in adapted.values())
    if kind == "entry":
        return size, None, dict(adapted)
    of, numbers = torch.empty(size, dtype=torch.long), dict[str, Tensor]()
    for name, where in adapted.items():
        key = {"one": "", "layer": name.rpartition(".")[0]}.get(kind, name)
        of[where.flatten()] = numbers.setdefault(key, torch.tensor(len(numbers)))
    which, sizes = of.unique_consecutive(return_counts=True)
    return len(numbers), tuple(zip(which.tolist(), sizes.tolist(), strict=True)), numbers
