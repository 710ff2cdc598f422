"""The conformance suite of methods catches every fault that it is there for: one broken method per fault."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from metafluence import WEIGHED, AttributionMethod, ParameterChange, Scores
from metafluence.testing import method_failures
from metafluence.testing.methods import CHECKS
from metafluence.testing.worlds import World
from metafluence_plugins.methods.influence import InfluenceFunction
from metafluence_plugins.solvers.exact import Exact

FAULTS = {
    "scores with the wrong sign": "sign",
    "parameters with the wrong sign": "sign",
    "scores and parameters of other items": "edits",
    "a group is the mean of its items": "additivity",
    "scores summed over targets": "contract",
    "wrong level": "contract",
    "names more than it has": "contract",
    "scores NaN": "contract",
    "scores by position": "order",
    "scores grow with the number of chunks": "chunks",
    "scores normalised over targets": "batches",
    "noise": "twins",
    "a constant for every item": "silent",
    "goes on with randomness of its own": "seed",
    "writes to the meta-parameters": "seed",
    "refuses what it claims": "contract",
}


@dataclass(frozen=True)
class Faulty(AttributionMethod):
    """Exact influence with a switch for each fault."""

    fault: str = ""

    levels: ClassVar = frozenset(WEIGHED)
    edits: ClassVar = True

    @property
    def additive(self):
        return True

    def prepare(self, context):
        return InfluenceFunction(solver=Exact()).prepare(context)

    def scores(self, state, targets):
        found = InfluenceFunction(solver=Exact()).scores(state, targets)
        values, point = found.values, state.context.point
        match self.fault:
            case "scores with the wrong sign":
                values = -values
            case "scores summed over targets":
                values = values.sum(dim=1, keepdim=True)
            case "wrong level":
                return replace(found, level="query" if found.level == "task" else "task")
            case "scores NaN":
                values = torch.where(values == values.max(), float("nan"), values)
            case "scores by position":
                values = values * torch.linspace(1, 2, len(values)).unsqueeze(1)
            case "scores grow with the number of chunks":
                values = values * len(list(point.chunks))
            case "scores normalised over targets":
                values = values / (1 + values.abs().sum(dim=1, keepdim=True))
            case "noise":
                noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0), dtype=values.dtype)
                values = values + 0.1 * values.abs().mean() * noise
            case "a constant for every item":
                values = values + 1.0
            case "goes on with randomness of its own":
                values = values + 1e-9 * torch.randn_like(values)
            case "writes to the meta-parameters":
                targets.point.meta.add_(1e-9)
            case "refuses what it claims":
                raise NotImplementedError
        return Scores(values, found.level, "rank_only" if self.fault == "names more than it has" else found.units)

    def parameter_change(self, state, removals):
        found = InfluenceFunction(solver=Exact()).parameter_change(state, removals)
        values = found.values
        if self.fault == "parameters with the wrong sign":
            values = -values
        if self.fault == "scores and parameters of other items":
            values = values.roll(1, dims=1)
        if self.fault == "a group is the mean of its items":
            values = values / torch.tensor([len(r) for r in removals])
        return ParameterChange(values, found.removals)


def test_a_method_without_fault_passes():
    assert method_failures(Faulty()) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_caught(fault):
    spoilt = World(0) if fault == "writes to the meta-parameters" else None  # others share theirs
    found = method_failures(Faulty(fault), [FAULTS[fault]], spoilt)
    assert any(line.startswith(FAULTS[fault]) for line in found), found


def test_methods_that_do_not_follow_retraining_may_say_so():
    others = [check for check in CHECKS if check != "sign"]
    assert not any(f.startswith("sign") for f in method_failures(Faulty("scores with the wrong sign"), others))
