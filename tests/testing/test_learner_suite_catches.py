"""The conformance suite of learners catches every fault that it is there for: one broken learner per fault."""

from dataclasses import dataclass, replace

import pytest
import torch

from metafluence import DenseOperator, SquaredLoss
from metafluence.testing import learner_failures, learner_suite
from metafluence.testing.learner_checks import CHECKS
from metafluence_plugins.backbones.mlp import MLP
from metafluence_plugins.learners.ridge_head import RidgeHead

FAULTS = {
    "stops short of the optimum and does not say so": "adaptation",
    "unrolls to something else": "adaptation",
    "Hessian of another penalty": "inner-hessian",
    "derivatives do not go through adaptation": "gradient",
    "asymmetric products": "symmetry",
    "query weights count twice": "sums",
    "gradients of single tasks are doubled": "slopes",
    "declares another loss": "losses",
    "losses by position": "order",
    "normalises over tasks": "chunks",
    "support weights are ignored": "absence",
    "writes to the meta-parameters": "bits",
    "noise": "bits",
}


class Asymmetric(torch.autograd.Function):
    """The identity, whose derivative is wrong the second time."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.detach()


@dataclass(frozen=True, eq=False)
class Faulty(RidgeHead):
    """A ridge head with a switch for each fault."""

    fault: str = ""

    @property
    def output_loss(self):
        return SquaredLoss() if self.fault == "declares another loss" else super().output_loss

    def adapt(self, rows, support, weights, init):
        found = super().adapt(rows, support, weights, init)
        if self.fault == "stops short of the optimum and does not say so":
            return replace(found, adapted=0.99 * found.adapted)
        return found

    def unroll(self, rows, support, weights, track):
        if self.fault == "support weights are ignored":
            weights = torch.ones_like(weights)
        found = super().unroll(rows, support, weights, track)
        match self.fault:
            case "unrolls to something else" if track:
                return found + 1e-6
            case "derivatives do not go through adaptation":
                return found.detach() + 0 * found
            case "stops short of the optimum and does not say so":
                return 0.99 * found
        return found

    def inner_loss(self, rows, adapted, support, weights):
        if self.fault == "support weights are ignored":
            weights = torch.ones_like(weights)
        return super().inner_loss(rows, adapted, support, weights)

    def inner_hessian(self, rows, adapted, support, weights):
        found = super().inner_hessian(rows, adapted, support, weights)
        if self.fault == "Hessian of another penalty":
            eye = torch.eye(found.size, dtype=found.dtype)
            return DenseOperator(found.dense() + 1e-4 * eye, found.tags)
        return found

    def outer_loss(self, rows, adapted, query, weights):
        match self.fault:
            case "query weights count twice":
                weights = weights.square()
            case "asymmetric products":
                adapted = Asymmetric.apply(adapted)
            case "writes to the meta-parameters":
                rows.data.add_(1e-9)
            case "noise":
                adapted = adapted + 1e-9 * torch.randn_like(adapted)
        found = super().outer_loss(rows, adapted, query, weights)
        match self.fault:
            case "losses by position":
                return found * torch.linspace(1, 2, len(found), dtype=found.dtype)
            case "normalises over tasks":
                return found - found.mean().square()
        return found

    def pull_each(self, meta, inputs, cotangents):
        found = super().pull_each(meta, inputs, cotangents)
        return 2 * found if self.fault == "gradients of single tasks are doubled" else found


def test_a_learner_without_fault_passes():
    assert learner_failures(Faulty(MLP((2,)), ridge=0.3, scale=3.0), examples=2) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_caught(fault):
    name = FAULTS[fault]
    found = learner_failures(Faulty(MLP((2,)), ridge=0.3, scale=3.0, fault=fault), skip=set(CHECKS) - {name})
    assert any(line.startswith(f"{name}: ") for line in found), found


def test_retraining_tells_a_wrong_influence():
    wrong = Faulty(MLP((2,)), ridge=0.3, scale=3.0, fault="gradients of single tasks are doubled")
    (found,) = learner_failures(wrong, skip=set(CHECKS) - {"retraining-task"}, examples=6)
    assert "influence of a task" in found


def test_a_check_that_does_not_exist_cannot_be_skipped():
    with pytest.raises(ValueError, match=r"Unknown check of learners 'gradients'. Did you mean 'gradient'"):
        learner_suite(Faulty(MLP((2,))), skip={"gradients"})
