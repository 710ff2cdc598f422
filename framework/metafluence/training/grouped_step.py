"""A step in which groups of parameters have rules and rates of their own, and the facts by which files keep a rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.training.step_rules import (
    AdamStep,
    Entry,
    MomentumStep,
    Rate,
    RMSpropStep,
    SGDStep,
    StepRule,
    StepState,
)


@dataclass(frozen=True, kw_only=True)
class GroupedStep(StepRule):
    """Each group of parameters steps by its own rule; the step's rate is a tuple with one for each group.

    rules: of the groups, without `clip`. spans: (group, how many parameters), along λ. clip: of the whole gradient;
    decay is a setting of the groups.

    Example:
        >>> rule = GroupedStep(rules=(SGDStep(), SGDStep(weight_decay=0.5)), spans=((0, 1), (1, 1)))
        >>> rule.step(rule.start(torch.ones(2)), torch.ones(2), (0.1, 0.2)).meta
        tensor([0.9000, 0.7000])
    """

    rules: tuple[StepRule, ...]
    spans: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if self.weight_decay or any(rule.clip is not None for rule in self.rules):
            raise InputError("A GroupedStep has a weight decay, or a group has a clip. Exchange them.")
        if {group for group, _ in self.spans} != set(range(len(self.rules))):
            raise InputError(
                f"The spans {self.spans} are not of {len(self.rules)} groups. Give each of them parameters."
            )

    def __str__(self) -> str:
        sizes = [sum(size for of, size in self.spans if of == group) for group in range(len(self.rules))]
        groups = (f"{rule} of {size} parameters" for rule, size in zip(self.rules, sizes, strict=True))
        return f"GroupedStep({', '.join(groups)}, clip={self.clip})"

    @property
    def moments(self) -> tuple[str, ...]:
        """Those of all groups; a moment that a group does not have stays zero there."""
        return tuple(dict.fromkeys(name for rule in self.rules for name in rule.moments))

    def groups(self, size: int) -> list[tuple[StepRule, Tensor]]:
        if size != sum(count for _, count in self.spans):
            raise InputError(f"The rule is of {sum(count for _, count in self.spans)} parameters; there are {size}.")
        return list(zip(self.rules, _places(self.spans), strict=True))

    def ordered(self, places: Tensor) -> GroupedStep:
        of, sizes = _group_of(self.spans)[places.cpu()].unique_consecutive(return_counts=True)
        return replace(self, spans=tuple(zip(of.tolist(), sizes.tolist(), strict=True)))

    def later(self, steps: int) -> GroupedStep:
        return replace(self, rules=tuple(rule.later(steps) for rule in self.rules))

    def advance(self, state: StepState, gradient: Tensor, rate: Rate) -> tuple[Tensor, ...]:
        parts = tuple(part.clone() for part in state.parts)
        for group in self._each(state, gradient, rate):
            for i, part in zip(group.own, group.rule.advance(group.state, group.gradient, group.rate), strict=True):
                parts[i][group.where] = part
        return parts

    def jacobian(self, state: StepState, gradient: Tensor, rate: Rate) -> list[list[Entry]]:
        count = len(state.parts)
        table = [[torch.zeros_like(gradient) for _ in range(count + 1)] for _ in range(count)]
        for group in self._each(state, gradient, rate):
            for i in set(range(count)).difference(group.own):
                table[i][i][group.where] = 1.0
            for i, row in zip(group.own, group.rule.jacobian(group.state, group.gradient, group.rate), strict=True):
                for j, entry in zip((*group.own, count), row, strict=True):
                    table[i][j][group.where] = entry
        return [list(row) for row in table]

    def gain(self, state: StepState) -> Tensor:
        gain = torch.zeros_like(state.meta)
        for group in self._each(state, state.meta, (0.0,) * len(self.rules)):
            gain[group.where] = torch.as_tensor(group.rule.gain(group.state), dtype=gain.dtype, device=gain.device)
        return gain

    def _each(self, state: StepState, gradient: Tensor, rate: Rate) -> Iterator[_Group]:
        if not isinstance(rate, tuple) or len(rate) != len(self.rules):
            raise InputError(f"The rate is {rate}. Give a tuple with the rates of {len(self.rules)} groups.")
        names = ("", *self.moments)
        for (rule, places), own_rate in zip(self.groups(gradient.numel()), rate, strict=True):
            where = places.to(gradient.device)
            own = [names.index(name) for name in ("", *rule.moments)]
            parts = tuple(state.parts[i][where] for i in own)
            yield _Group(rule, own_rate, where, own, StepState(state.step, parts), gradient[where])


@dataclass(frozen=True)
class _Group:
    """One group in one step. where: its places in λ. own: which of the state's parts it has. state, gradient: there."""

    rule: StepRule
    rate: float
    where: Tensor
    own: list[int]
    state: StepState
    gradient: Tensor


def _group_of(spans: tuple[tuple[int, int], ...]) -> Tensor:
    """The group of each parameter, [P]."""
    of, sizes = (torch.tensor(column) for column in zip(*spans, strict=True))
    return of.repeat_interleave(sizes)


@lru_cache(maxsize=8)
def _places(spans: tuple[tuple[int, int], ...]) -> list[Tensor]:
    of = _group_of(spans)
    return [(of == group).nonzero().flatten() for group in range(int(of.max()) + 1)]


RULES: dict[str, type[StepRule]] = {
    rule.__name__: rule for rule in (SGDStep, MomentumStep, AdamStep, RMSpropStep, GroupedStep)
}
"""By name, for runs that are kept in files."""


def facts_of(rule: StepRule) -> list[Any]:
    """The rule as a name and plain values, for `rule_from`."""
    settings = asdict(rule)
    if isinstance(rule, GroupedStep):
        settings["rules"] = [facts_of(part) for part in rule.rules]
    return [type(rule).__name__, settings]


def rule_from(facts: list[Any]) -> StepRule:
    """The rule of these facts."""
    name, settings = facts
    if name == GroupedStep.__name__:
        settings = _with_groups(settings)
    return RULES[name](**settings)


def _with_groups(settings: Mapping[str, Any]) -> dict[str, Any]:
    spans = tuple((group, size) for group, size in settings["spans"])
    return {**settings, "rules": tuple(map(rule_from, settings["rules"])), "spans": spans}


def rates_from(kept: Tensor) -> tuple[Rate, ...]:
    """The rates of steps, [steps], or [steps, groups] where there are groups."""
    return tuple(tuple(rate) if isinstance(rate, list) else rate for rate in kept.tolist())
