"""Solvers against dense answers, and against the faults that other libraries' solvers have had."""

import pytest
import torch
from hypothesis import given, strategies as st

import metafluence as mf
from metafluence import DenseOperator, LinearOperator, SolverError, Status, solve
from metafluence.linalg import CountingOperator, LowRankOperator, ShiftedOperator
from metafluence.testing.operators import SumOperator
from metafluence_plugins.solvers.cg import CG
from metafluence_plugins.solvers.exact import Exact

SOLVERS = [Exact(), CG(rtol=1e-11)]
each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=["exact", "cg"])


@st.composite
def definite(draw) -> torch.Tensor:
    """Symmetric positive definite, from well to badly conditioned, clustered eigenvalues included."""
    size = draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    values = draw(st.lists(st.sampled_from([1e-3, 0.5, 1.0, 1.0, 2.0, 100.0]), min_size=size, max_size=size))
    return basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.T


def random_columns(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


class Watched(LinearOperator):
    """Remembers the columns it was given."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix, self.size, self.dtype, self.device = matrix, len(matrix), matrix.dtype, matrix.device
        self.widths: list[int] = []

    def matmat(self, columns: torch.Tensor) -> torch.Tensor:
        self.widths.append(columns.shape[-1])
        return self.matrix @ columns


@each_solver
@given(matrix=definite(), columns=st.integers(1, 5), damping=st.sampled_from([0.0, 0.3]))
def test_agrees_with_dense(solver, matrix, columns, damping):
    rhs = random_columns(len(matrix), columns)
    kept_matrix, kept_rhs = matrix.clone(), rhs.clone()
    solution = solve(solver, DenseOperator(matrix), rhs, damping)
    damped = matrix + damping * torch.eye(len(matrix), dtype=torch.float64)
    wanted = torch.linalg.solve(damped, rhs)
    assert (solution.value - wanted).norm() <= 1e-6 * wanted.norm()
    assert torch.equal(matrix, kept_matrix)
    assert torch.equal(rhs, kept_rhs)
    # Damping is added to the product here as there: of an exact answer's residual, rounding is all there is.
    product = matrix @ solution.value + damping * solution.value
    measured = torch.linalg.vector_norm(rhs - product, dim=0) / torch.linalg.vector_norm(rhs, dim=0)
    assert torch.allclose(solution.residual, measured, atol=1e-14)


@each_solver
@given(matrix=definite())
def test_a_column_does_not_depend_on_its_neighbours(solver, matrix):
    rhs = random_columns(len(matrix), 4)
    together = solve(solver, DenseOperator(matrix), rhs).value
    alone = torch.cat([solve(solver, DenseOperator(matrix), rhs[:, [j]]).value for j in range(4)], dim=1)
    assert (together - alone).norm() <= 1e-8 * together.norm()


@each_solver
def test_zero_in_zero_out_beside_a_column_that_is_not(solver):
    rhs = torch.stack([torch.zeros(3), torch.ones(3)], dim=1).double()
    solution = solve(solver, DenseOperator(torch.diag(torch.tensor([1.0, 2.0, 3.0]).double())), rhs)
    assert not solution.value[:, 0].any()
    assert torch.allclose(solution.value[:, 1], torch.tensor([1, 1 / 2, 1 / 3]).double())
    assert solution.residual[0] == 0


@each_solver
def test_preparing_once_and_applying_twice_gives_the_same_bits(solver):
    prepared = mf.PreparedSolve(solver, DenseOperator(torch.diag(torch.arange(1.0, 5.0)).double()), damping=0.5)
    rhs = random_columns(4, 2)
    first, second = prepared.solve(rhs), prepared.solve(rhs)
    assert torch.equal(first.value, second.value)  # damping is not added a second time


@each_solver
def test_batches_are_solved_member_by_member(solver):
    matrices = torch.stack([torch.diag(torch.tensor([1.0, s])) for s in (0.5, 2.0, 9.0)]).double()
    rhs = random_columns(3, 2, 4)
    solution = solve(solver, DenseOperator(matrices), rhs)
    assert solution.residual.shape == (3, 4)
    assert torch.allclose(solution.value, torch.linalg.solve(matrices, rhs))


def test_cg_solves_twice_the_identity_in_one_product():
    """One library returns the iterate before the converged one: zero."""
    operator = Watched(2 * torch.eye(4, dtype=torch.float64))
    state = CG().prepare(operator, 0.0, torch.Generator())
    applied = CG().apply(state, torch.ones(4, 1, dtype=torch.float64), torch.Generator())
    assert torch.allclose(applied.value, torch.full((4, 1), 0.5).double())
    assert operator.widths == [1]


def test_cg_does_no_work_for_columns_that_are_done():
    operator = Watched(torch.diag(torch.arange(1.0, 7.0)).double())
    rhs = torch.stack([torch.eye(6)[0], torch.ones(6)], dim=1).double()  # the first is an eigenvector
    solver, generator = CG(rtol=1e-12), torch.Generator()
    applied = solver.apply(solver.prepare(operator, 0.0, generator), rhs, generator)
    assert operator.widths == [2, 1, 1, 1, 1, 1]
    assert applied.value.isfinite().all()


def test_cg_far_past_convergence_stays_finite_and_says_so():
    solution = solve(CG(rtol=1e-300, max_iterations=200), DenseOperator(torch.eye(3).double()), random_columns(3, 2))
    assert solution.value.isfinite().all()
    assert solution.residual.max() < 1e-15


def test_cg_reports_negative_curvature_with_its_size_and_the_remedies():
    operator = DenseOperator(torch.diag(torch.tensor([1.0, -2.0])).double())
    with pytest.raises(SolverError, match=r"negative curvature.*l2.*damping.*exact.*Curvature met: -2") as caught:
        solve(CG(), operator, torch.tensor([[0.0], [1.0]]).double())
    assert "1 of 1 columns" in str(caught.value)
    loose = solve(CG(), operator, torch.eye(2).double(), strict=False)
    assert loose.status.tolist() == [Status.CONVERGED, Status.NEGATIVE_CURVATURE]
    assert not loose.converged


def test_cg_says_when_it_ran_out_of_iterations():
    matrix = torch.diag(torch.logspace(-4, 2, 12).double())
    with pytest.raises(SolverError, match="Raise max_iterations"):
        solve(CG(max_iterations=3), DenseOperator(matrix), random_columns(12, 1))


def test_exact_solves_an_indefinite_operator_and_says_that_it_is():
    matrix = torch.diag(torch.tensor([1.0, -2.0])).double()
    solution = solve(Exact(), DenseOperator(matrix), torch.ones(2, 1).double())
    assert torch.allclose(solution.value, torch.tensor([[1.0], [-0.5]]).double())
    assert "indefinite" in solution.note


def test_exact_refuses_what_would_not_fit_and_says_how_much_it_would_take():
    with pytest.raises(SolverError, match=r"GiB for 1 matrices of size 100 .*Use cg"):
        solve(Exact(memory_gib=1e-6), DenseOperator(torch.eye(100).double()), torch.ones(100, 1).double())


def test_singular_operators_do_not_pass_for_solved():
    solution = solve(Exact(), DenseOperator(torch.zeros(2, 2).double()), torch.ones(2, 1).double(), strict=False)
    assert solution.status.item() == Status.BREAKDOWN
    assert "NaN or infinite" in solution.complaint()


def test_a_solver_that_claims_too_much_is_found_out():
    class Boaster(CG):
        def apply(self, state, rhs, generator):
            return mf.Applied(rhs.clone(), torch.zeros(rhs.shape[-1], dtype=torch.int64))

    with pytest.raises(SolverError, match="larger than the solver claims"):
        solve(Boaster(), DenseOperator(2 * torch.eye(2).double()), torch.ones(2, 1).double())


def test_a_solver_that_does_not_fit_its_operator_is_refused_with_a_way_out():
    lopsided = DenseOperator(torch.eye(2).double(), tags=frozenset())
    with pytest.raises(SolverError, match=r"CG cannot be used with .*DenseOperator.*symmetric"):
        solve(CG(), lopsided, torch.ones(2, 1).double())


def test_a_right_hand_side_of_the_wrong_shape_is_an_input_error():
    with pytest.raises(mf.InputError, match=r"shape \(3, 1\); expected \(2,\)"):
        solve(CG(), DenseOperator(torch.eye(2).double()), torch.ones(3, 1).double())


def test_products_are_counted_outside_the_solver():
    operator = DenseOperator(torch.diag(torch.arange(1.0, 5.0)).double())
    solution = solve(CG(rtol=1e-12), operator, torch.ones(4, 1).double())
    assert solution.matvecs == solution.iterations == 4
    prepared = mf.PreparedSolve(Exact(), Watched(torch.eye(5).double()))
    assert prepared.matvecs == 5
    assert prepared.solve(torch.ones(5, 1).double()).matvecs == 0


def test_products_with_all_parts_of_a_sum_count_as_one():
    counted = CountingOperator(SumOperator(torch.eye(3).double().expand(8, 3, 3)))
    parts = counted.split(4, torch.Generator().manual_seed(0))
    for part in parts:
        part.matmat(torch.ones(3, 2).double())
    assert counted.products == 2


@pytest.mark.parametrize("make", [lambda m: ShiftedOperator(DenseOperator(m), 3.0), lambda m: LowRankOperator(m, 3.0)])
def test_an_operator_cast_to_another_precision_keeps_its_shift(make):
    operator = make(torch.eye(3).double())
    assert torch.equal(operator.cast(torch.float32).dense(), 4 * torch.eye(3))
    assert torch.equal(operator.dense(), 4 * torch.eye(3).double())


def test_float32_claims_no_more_than_it_can():
    matrix = torch.diag(torch.tensor([1.0, 3.0]))
    solution = solve(CG(rtol=1e-6), DenseOperator(matrix), torch.ones(2, 1))
    assert solution.value.dtype == torch.float32
    assert solution.converged


def test_a_residual_that_is_not_asked_for_costs_no_product():
    matrix = random_columns(6, 6)
    counted = Watched(matrix @ matrix.T + torch.eye(6))
    prepared = mf.PreparedSolve(Exact(), counted)
    counted.widths.clear()
    found = prepared.solve(torch.ones(6, 2, dtype=torch.float64), judge=False)
    assert not counted.widths
    assert bool(found.residual.isnan().all())
    assert torch.allclose(found.value, prepared.solve(torch.ones(6, 2, dtype=torch.float64)).value)
    broken = mf.Solution(found.value, found.residual, torch.full((2,), int(Status.APPROXIMATE)), 1, 0, 0.0)
    assert "residuals were not measured" in broken.complaint()


@pytest.mark.parametrize("solver", ["cg", "exact", "neumann"])
def test_a_sweep_judges_each_damping_by_its_own_operator(solver):
    half = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = half @ half.mT + torch.eye(5, dtype=torch.float64)
    operator = mf.DenseOperator(matrix, frozenset({mf.SYMMETRIC, mf.PSD}))
    rhs, dampings = half[:, :2], [0.0, 1.0, 30.0]
    sweep = mf.solve_sweep(mf.build("solver", solver), operator, rhs, dampings)
    for damping, found in zip(dampings, sweep, strict=True):
        wanted = mf.relative_residual(mf.ShiftedOperator(operator, damping), found.value, rhs)
        torch.testing.assert_close(found.residual, wanted)
        assert float(found.residual.max()) < 1e-3
