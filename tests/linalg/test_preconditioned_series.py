"""Neumann and LiSSA with a preconditioner, against dense matrices: the series, its step, its answer and its cost."""

import pytest
import torch
from hypothesis import given, strategies as st

import metafluence as mf
from how_many import examples
from matrices import Fixed, gap, normal, with_spectrum
from metafluence import DenseOperator, InputError, Preconditioner, SolverError, Status, solve, solve_sweep
from metafluence.testing.operators import CASES, SumOperator
from metafluence_plugins.preconditioners.nystrom import Nystrom
from metafluence_plugins.solvers.ek_fac import EKFAC
from metafluence_plugins.solvers.lissa import Lissa
from metafluence_plugins.solvers.neumann import Neumann

seeds = st.integers(0, 2**20)
FEW_LARGE = [1e4, 3e3, 1e3, *torch.linspace(1, 4, 9).tolist()]
"""Eigenvalues of a problem that Nyström of rank 6 makes easy."""


def inverse_of(preconditioner: Preconditioner, matrix: torch.Tensor, damping: float) -> torch.Tensor:
    """M⁻¹ as a matrix, as a solver that starts from seed 0 makes it."""
    state = preconditioner.prepare(DenseOperator(matrix), damping, torch.Generator().manual_seed(0))
    return preconditioner.precondition(state, torch.eye(len(matrix), dtype=matrix.dtype))


@given(seed=seeds, spread=st.sampled_from([1.0, 1e3]))
@examples(15)
def test_extreme_eigenvalues_of_a_preconditioned_operator(seed, spread):
    matrices = torch.stack([with_spectrum([1.0, 2, 5, 9, 30], seed), with_spectrum([-2.0, 1, 1, 7, 8], seed)])
    inverse = torch.diag(torch.logspace(0, 1, 5, base=spread, dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    found = mf.extreme_eigenvalues(DenseOperator(matrices), generator, rtol=0.0, inverse=lambda c: inverse @ c)
    wanted = torch.linalg.eigvals(inverse @ matrices).real.sort(dim=-1).values
    assert torch.allclose(found.smallest, wanted[:, 0], rtol=1e-7)
    assert torch.allclose(found.largest, wanted[:, -1], rtol=1e-7)


@given(seed=seeds, terms=st.integers(1, 12), damping=st.sampled_from([0.0, 0.7]), step=st.sampled_from([None, 0.01]))
@examples(20)
def test_neumann_is_its_preconditioned_series(seed, terms, damping, step):
    matrix, rhs = with_spectrum([0.5, 1.0, 2.0, 9.0, 90.0], seed), normal(5, 2, seed=seed + 1)
    solver = Neumann(step=step, truncation=terms, preconditioner=Nystrom(rank=2))
    found = solve(solver, DenseOperator(matrix), rhs, damping)
    inverse = inverse_of(Nystrom(rank=2), matrix, damping)
    product = inverse @ (matrix + damping * torch.eye(5).double())
    values = torch.linalg.eigvals(product).real
    alpha = float(solver.prepare(DenseOperator(matrix), damping, torch.Generator().manual_seed(0)).step)
    best = 2 / (values.min() + values.max())
    assert alpha == step or (step is None and 0.9 * float(best) < alpha < 2 / float(values.max()))
    rest = torch.eye(5).double() - alpha * product
    wanted = alpha * torch.stack([torch.linalg.matrix_power(rest, j) for j in range(terms)]).sum(dim=0) @ inverse @ rhs
    assert gap(found.value, wanted) < 1e-10
    assert (found.status == Status.APPROXIMATE).all()


@given(seed=seeds, columns=st.integers(1, 4), damping=st.sampled_from([0.0, 0.5]))
@examples(8)
def test_a_preconditioned_series_reaches_the_dense_answer_with_fewer_products(seed, columns, damping):
    matrix, rhs = with_spectrum(FEW_LARGE, seed), normal(len(FEW_LARGE), columns, seed=seed + 1)
    wanted = torch.linalg.solve(matrix + damping * torch.eye(len(matrix)).double(), rhs)
    helped = mf.PreparedSolve(Neumann(rtol=1e-12, preconditioner=Nystrom(rank=6)), DenseOperator(matrix), damping)
    found = helped.solve(rhs)
    assert gap(found.value, wanted) < 1e-8
    assert found.residual.max() < 1e-11
    plain = mf.PreparedSolve(Neumann(max_iterations=600), DenseOperator(matrix), damping).solve(rhs, strict=False)
    assert plain.failed
    assert plain.matvecs > 5 * (helped.matvecs + found.matvecs)


def test_every_damping_of_a_sweep_has_its_own_preconditioner_and_step():
    matrix, rhs = with_spectrum(FEW_LARGE), normal(len(FEW_LARGE), 2)
    dampings = [0.0, 1.0, 1e3]
    solver = Neumann(rtol=1e-12, preconditioner=Nystrom(rank=6))
    for damping, found in zip(dampings, solve_sweep(solver, DenseOperator(matrix), rhs, dampings), strict=True):
        assert gap(found.value, torch.linalg.solve(matrix + damping * torch.eye(len(matrix)).double(), rhs)) < 1e-8
        assert found.converged


@pytest.mark.parametrize("name", ["convolution of a constant image", "one instance twice, weighed unequally"])
def test_ek_fac_leaves_the_series_nothing_to_do_where_it_is_exact(name):
    case = CASES[name](torch.Generator().manual_seed(1), torch.float64)
    rhs = normal(*case.matrix.shape[:-1], 2)
    found = solve(Neumann(rtol=1e-12, preconditioner=EKFAC()), case.operator, rhs, damping=0.1)
    assert gap(found.value, torch.linalg.solve(case.matrix + 0.1 * torch.eye(case.matrix.shape[-1]), rhs)) < 1e-8
    assert found.iterations <= 3
    assert solve(Neumann(rtol=1e-12), case.operator, rhs, damping=0.1).iterations > 10


# --- lissa


def ill_conditioned_sum(seed: int = 0) -> SumOperator:
    """Terms that share their few large directions."""
    common = with_spectrum([500.0, 100.0, 1.0, 1.0, 1.0, 1.0], seed)
    roots = normal(9, 6, 6, seed=seed + 1)
    return SumOperator(common + roots @ roots.mT / 12)


def test_lissa_is_unbiased_for_the_truncated_preconditioned_series():
    operator, rhs = ill_conditioned_sum(), normal(6, 1, seed=2)
    solver = Lissa(iterations=6, repeats=8, parts=3, step=0.3, preconditioner=Nystrom(rank=4))
    state = solver.prepare(operator, 0.0, torch.Generator().manual_seed(0))
    values = torch.stack([solver.apply(state, rhs, torch.Generator().manual_seed(s)).value for s in range(200)])
    inverse = inverse_of(Nystrom(rank=4), operator.matrix, 0.0)
    rest = torch.eye(6).double() - 0.3 * inverse @ operator.matrix
    wanted = 0.3 * torch.stack([torch.linalg.matrix_power(rest, j) for j in range(6)]).sum(dim=0) @ inverse @ rhs
    assert bool(((values.mean(dim=0) - wanted).abs() < 5 * values.std(dim=0) / 200**0.5).all())
    assert gap(values.mean(dim=0), wanted) < 0.02


def test_lissa_with_a_preconditioner_is_nearer_the_answer_after_the_same_products():
    operator, rhs = ill_conditioned_sum(), normal(6, 2, seed=2)
    wanted = torch.linalg.solve(operator.matrix, rhs)
    plain, helped = (
        gap(solve(Lissa(iterations=60, parts=4, preconditioner=p), operator, rhs).value, wanted)
        for p in (None, Nystrom(rank=4))
    )
    assert helped < 0.25 * plain
    assert helped < 0.1


# --- what is refused


def test_a_preconditioner_that_does_not_fit_is_refused_in_a_sentence():
    matrix, rhs = with_spectrum([1.0, 2.0, 3.0]), normal(3, 1)
    terms = SumOperator(torch.stack([matrix] * 4))
    for solver, operator in ((Neumann, DenseOperator(matrix)), (Lissa, terms)):
        with pytest.raises(SolverError, match=r"EKFAC cannot be used with this operator.*nystrom preconditions any"):
            solve(solver(preconditioner=EKFAC()), operator, rhs)
        with pytest.raises(SolverError, match=r"preconditioner Fixed is not positive definite.*leave it out"):
            solve(solver(preconditioner=Fixed((1.0, -1.0, 1.0))), operator, rhs)
    with pytest.raises(InputError, match="preconditioner"):
        mf.build("solver", "neumann", preconditioner="cg")


def test_ek_fac_without_any_shift_is_refused_as_a_preconditioner_too():
    case = CASES["linear layer, one instance"](torch.Generator().manual_seed(0), torch.float64)
    state = EKFAC().prepare(case.operator, -0.5, torch.Generator())  # the loss's own shift is taken away
    with pytest.raises(SolverError, match="Add damping"):
        EKFAC().precondition(state, normal(*case.matrix.shape[:-1], 1))


def test_a_step_is_judged_by_the_preconditioned_operator():
    matrix, rhs = torch.diag(torch.tensor([1.0, 100.0, 400.0]).double()), normal(3, 1)
    half = Fixed((0.5, 0.005, 0.00125))  # M⁻¹ A = I / 2
    assert solve(Neumann(step=2.0, preconditioner=half), DenseOperator(matrix), rhs).iterations == 1
    with pytest.raises(SolverError, match=r"largest eigenvalue is 0\.5,.*2/λ_max = 4\. step 2 converges"):
        solve(Neumann(step=4.1, preconditioner=half), DenseOperator(matrix), rhs)
    terms = SumOperator(torch.stack([matrix] * 4))
    with pytest.raises(SolverError, match=r"sampled parts is 0\.5"):
        solve(Lissa(step=4.1, preconditioner=half), terms, rhs)


def test_an_indefinite_operator_is_refused_before_anything_is_iterated():
    matrix, rhs = with_spectrum([-0.25, 1.0, 2.0]), normal(3, 1)
    identity = Fixed((1.0, 1.0, 1.0))
    with pytest.raises(SolverError, match=r"neumann diverges on an operator that is not positive definite"):
        solve(Neumann(preconditioner=identity), DenseOperator(matrix), rhs)
    with pytest.raises(SolverError, match=r"lissa diverges on an operator that is not positive definite"):
        solve(Lissa(preconditioner=identity), SumOperator(torch.stack([matrix] * 4)), rhs)
    assert solve(Neumann(preconditioner=identity), DenseOperator(matrix), rhs, damping=0.3).converged
