"""CG and MINRES with a preconditioner that is not positive definite: refused, whichever column shows it."""

import pytest
import torch
from hypothesis import given, strategies as st

from how_many import examples
from matrices import Fixed, gap, normal, with_spectrum
from metafluence import DenseOperator, Solution, SolverError, solve
from metafluence_plugins.solvers.cg import CG
from metafluence_plugins.solvers.minres import Minres

SOLVERS = pytest.mark.parametrize("kind", [CG, Minres])
MATRIX = with_spectrum(torch.linspace(1, 50, 9).tolist())
DIAGONAL = torch.diag(torch.linspace(1, 50, 9).double())


def with_entries(kind: type, entries: torch.Tensor, matrix: torch.Tensor, rhs: torch.Tensor) -> Solution:
    return solve(kind(preconditioner=Fixed(tuple(entries.tolist()))), DenseOperator(matrix), rhs)


def refused():
    return pytest.raises(SolverError, match=r"The preconditioner Fixed is not positive definite.*leave it out")


@SOLVERS
@given(seed=st.integers(0, 2**20), bad=st.integers(1, 4), dtype=st.sampled_from([torch.float64, torch.float32]))
@examples(20)
def test_an_indefinite_preconditioner_is_refused(kind, seed, bad, dtype):
    entries = torch.rand(9, generator=torch.Generator().manual_seed(seed)).double() + 0.1
    entries[:bad] *= -1
    with refused():
        with_entries(kind, entries, MATRIX.to(dtype), normal(9, 3, seed=seed).to(dtype))


@SOLVERS
@pytest.mark.parametrize("column", [0, 2])
def test_one_column_of_several_is_enough(kind, column):
    """The others see only what is positive, as nothing mixes the entries, and are done sooner."""
    entries, rhs = torch.ones(9).double(), torch.zeros(9, 3).double()
    entries[8], rhs[:3] = -0.5, 1.0
    assert gap(with_entries(kind, entries, DIAGONAL, rhs).value, torch.linalg.solve(DIAGONAL, rhs)) < 1e-7
    rhs[:, column] = 1.0  # its first rᵀ M⁻¹ r is positive, a later one is not
    with refused():
        with_entries(kind, entries, DIAGONAL, rhs)


@SOLVERS
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_residual_that_the_preconditioner_takes_to_nothing_is_refused(kind, value):
    """rᵀ M⁻¹ r is zero exactly, from which no step leads anywhere."""
    entries = torch.tensor([value, 1.0] if value else [0.0, 0.0]).double()
    with refused():
        with_entries(kind, entries, torch.eye(2).double(), torch.ones(2, 1).double())


@SOLVERS
def test_an_ill_conditioned_but_positive_preconditioner_is_not_refused(kind):
    entries, rhs = torch.logspace(-8, 0, 9).double().flip(0), normal(9, 2)
    found = solve(kind(preconditioner=Fixed(tuple(entries.tolist()))), DenseOperator(DIAGONAL), rhs, strict=False)
    assert gap(found.value, torch.linalg.solve(DIAGONAL, rhs)) < 1e-6
