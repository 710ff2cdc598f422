"""The conformance suite catches every solver fault that other libraries have shown: one broken solver per fault."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from metafluence import LAYERED, SUM, Applied, DenseOperator, ShiftedOperator, Solver, Status
from metafluence.testing import failures
from metafluence_plugins.solvers.cg import CG
from metafluence_plugins.solvers.exact import Exact

CONVERGED = int(Status.CONVERGED)


def done(rhs, status=CONVERGED):
    return torch.full((*rhs.shape[:-2], rhs.shape[-1]), int(status))


@dataclass(frozen=True)
class TextbookCG(Solver):
    """Conjugate gradients in a few lines, with a switch for each fault."""

    fault: str = ""

    def prepare(self, operator, damping, generator):
        return ShiftedOperator(operator, damping)

    def tolerance(self, dtype):
        return 1e-8 if dtype == torch.float64 else 1e-4

    def apply(self, state, rhs, generator):
        x, r, p = torch.zeros_like(rhs), rhs.clone(), rhs.clone()
        before, old_r = x, r
        axis = -1 if self.fault == "stopping values along the wrong axis" else -2
        target = self.tolerance(rhs.dtype) * rhs.norm(dim=axis)
        iterations = 0
        while self.fault == "goes on past convergence" or bool((r.norm(dim=axis) > target).any()):
            if iterations == 12 * state.size:
                break
            product = state.matmat(p)
            squared = r.square().sum(-2, keepdim=True)
            guard = 0 if self.fault == "goes on past convergence" else 1e-300
            step = squared / ((p * product).sum(-2, keepdim=True) + guard)
            if self.fault == "stopping values along the wrong axis":
                running = (r.norm(dim=axis) > target)[..., : rhs.shape[-1]]
                mask = torch.ones(*rhs.shape[:-2], rhs.shape[-1], dtype=torch.bool)
                mask[..., : running.shape[-1]] = running
                mask[..., running.shape[-1] :] = False
                step = step * mask.unsqueeze(-2)
            before, old_r = x, r
            x, r = x + step * p, r - step * product
            ratio = r.square().sum(-2, keepdim=True) / (squared + guard)
            base = old_r if self.fault == "direction from the old residual" else r
            p = base + ratio * p
            iterations += 1
        if self.fault == "the iterate before the converged one":
            x = before
        if self.fault == "statistics thrown away":
            return Applied(x, done(rhs))
        reached = (r.norm(dim=-2) <= self.tolerance(rhs.dtype) * rhs.norm(dim=-2)) & x.isfinite().all(dim=-2)
        status = torch.where(reached, CONVERGED, int(Status.MAX_ITERATIONS))
        return Applied(x, status, iterations)


@dataclass(frozen=True)
class InverseOfParts(Exact):
    """A sum inverted part by part, and the inverses averaged."""

    requires: ClassVar[frozenset[str]] = frozenset({SUM})

    def prepare(self, operator, damping, generator):
        return [super(InverseOfParts, self).prepare(p, damping, generator) for p in operator.split(2, generator)]

    def apply(self, state, rhs, generator):
        return Applied(torch.stack([torch.cholesky_solve(rhs, f) for f in state]).mean(dim=0), done(rhs))


@dataclass(frozen=True)
class DampingInPlace(Exact):
    """Damping is added again at every call."""

    def prepare(self, operator, damping, generator):
        return operator.dense().clone(), damping

    def apply(self, state, rhs, generator):
        matrix, damping = state
        matrix.diagonal(dim1=-2, dim2=-1).add_(damping)
        return Applied(torch.linalg.solve(matrix, rhs), done(rhs))


KEPT = {}


@dataclass(frozen=True)
class StaleFactors(Exact):
    """Factors of an earlier operator of the same shape are used again."""

    def prepare(self, operator, damping, generator):
        key = (operator.size, operator.batch_shape, operator.dtype, damping)
        if key not in KEPT:
            KEPT[key] = super().prepare(operator, damping, generator)
        return KEPT[key]


@dataclass(frozen=True)
class UnscaledLissa(Solver):
    """The step is 1, whatever the eigenvalues are."""

    requires: ClassVar[frozenset[str]] = frozenset({SUM})
    approximate: ClassVar[bool] = True

    def prepare(self, operator, damping, generator):
        return [ShiftedOperator(p, damping) for p in operator.split(5, generator)]

    def apply(self, state, rhs, generator):
        x = torch.zeros_like(rhs)
        for i in torch.randint(len(state), (200,), generator=generator).tolist():
            x = x + rhs - state[i].matmat(x)
        return Applied(x, done(rhs, Status.APPROXIMATE), 200)

    def tolerance(self, dtype):
        return 1e-8


@dataclass(frozen=True)
class WritesIntoRhs(Exact):
    def apply(self, state, rhs, generator):
        rhs /= 2
        return super().apply(state, 2 * rhs, generator)


@dataclass(frozen=True)
class OtherSeed(Exact):
    """Random beyond its generator."""

    def apply(self, state, rhs, generator):
        found = super().apply(state, rhs, generator)
        return Applied(found.value * (1 + 1e-13 * torch.randn(()).to(rhs)), found.status)


@dataclass(frozen=True)
class KFAC(Solver):
    """Kronecker factors of one layer in a few lines, with a switch for each fault."""

    fault: str = ""

    requires: ClassVar[frozenset[str]] = frozenset({LAYERED})
    approximate: ClassVar[bool] = True

    def prepare(self, operator, damping, generator):
        (loss,) = list(operator.structure.chunks())[:0] or [operator.structure.at(slice(0, 3))]
        (layer,) = loss.layers
        weights = loss.weights
        if self.fault == "uneven batches weighted alike":
            weights = torch.full_like(weights, 1 / weights.shape[1])
        total = weights.sum(dim=1)
        places = layer.inputs.shape[2]
        a = layer.inputs.mean(dim=2)
        if self.fault == "pseudo-loss":  # the entropy, whose gradient vanishes at uniform predictions
            p = loss.outputs.softmax(-1)
            vectors = [-p * (p.log() - (p * p.log()).sum(-1, keepdim=True))]
        else:
            vectors = list(loss.loss.roots(loss.outputs))
        gradients = [loss.pull(v)[0].sum(dim=2) for v in vectors]
        if self.fault == "divided by the places twice":
            gradients = [g / places for g in gradients]
        inputs = torch.einsum("nm,nmi,nmj->nij", weights, a, a) / total[:, None, None]
        outputs = sum(torch.einsum("nm,nmi,nmj->nij", weights, g, g) for g in gradients)
        if self.fault == "averaged over the wrong axis":
            outputs = outputs / loss.outputs.shape[-1]
        index = layer.index
        if self.fault == "weight and bias joined flat":
            index = torch.arange(index.numel()).reshape(index.shape)
        return index, torch.linalg.eigh(inputs), torch.linalg.eigh(outputs), loss.shift + damping

    def apply(self, state, rhs, generator):
        index, (a_values, a), (b_values, b), shift = state
        x = rhs.mT[..., index]
        a, b = a.unsqueeze(1), b.unsqueeze(1)
        if self.fault == "eigenvectors untransposed":
            a, b = a.mT, b.mT
        x = b.mT @ x @ a / (b_values[:, None, :, None] * a_values[:, None, None, :] + shift)
        value = torch.empty_like(rhs.mT)
        value[..., index] = b @ x @ a.mT
        status = done(rhs, Status.APPROXIMATE)
        return Applied(value.mT, status)

    def tolerance(self, dtype):
        return 1e-6


CG_FAULTS = [
    "goes on past convergence",
    "stopping values along the wrong axis",
    "direction from the old residual",
    "the iterate before the converged one",
    "statistics thrown away",
]
KFAC_FAULTS = [
    "eigenvectors untransposed",
    "weight and bias joined flat",
    "pseudo-loss",
    "averaged over the wrong axis",
    "uneven batches weighted alike",
    "divided by the places twice",
]


@pytest.mark.parametrize("fault", CG_FAULTS)
def test_faults_of_conjugate_gradients(fault):
    assert failures(TextbookCG(fault), columns=12)


def test_the_textbook_form_without_a_fault_has_only_its_missing_checks_against_it():
    found = failures(TextbookCG(), columns=12)
    # It does work for columns that are done; all else is right.
    assert all(line.startswith("work") for line in found), found


@pytest.mark.parametrize("fault", KFAC_FAULTS)
def test_faults_of_kronecker_factors(fault):
    found = failures(KFAC(fault))
    assert any(line.startswith("agreement") for line in found), found


def test_kronecker_factors_without_a_fault_pass():
    assert failures(KFAC()) == []


@pytest.mark.parametrize(
    ("solver", "check"),
    [
        (InverseOfParts(), "agreement, sum"),
        (DampingInPlace(), "inputs"),
        (StaleFactors(), "fresh"),
        (UnscaledLissa(), "agreement, sum"),
        (WritesIntoRhs(), "inputs"),
        (OtherSeed(), "seed"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Solver) else "",
)
def test_faults_of_others(solver, check):
    KEPT.clear()
    assert any(line.startswith(check) for line in failures(solver))


def test_a_solver_that_skips_its_requirements_is_caught():
    @dataclass(frozen=True)
    class Greedy(CG):
        """Says CONVERGED on an indefinite operator with an answer that is not one."""

        def apply(self, state, rhs, generator):
            found = super().apply(state, rhs, generator)
            return Applied(found.value, done(rhs), found.iterations)

    # The residual measured outside corrects such a status, so that nothing wrong passes for solved.
    assert not any("says converged at error" in line for line in failures(Greedy()))


def test_sound_solvers_pass():
    assert failures(Exact()) == []
    assert failures(CG()) == []
    assert DenseOperator(torch.eye(2)).size == 2
