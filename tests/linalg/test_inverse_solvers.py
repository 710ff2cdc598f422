"""Each solver against scipy, against its own formula, and in what it says when it cannot work."""

import subprocess
import sys
from pathlib import Path

import pytest
import scipy.sparse.linalg
import torch
from hypothesis import example, given, strategies as st

import metafluence as mf
from how_many import examples
from matrices import gap, normal, with_spectrum
from metafluence import (
    DenseOperator,
    InputError,
    LinearOperator,
    LowRankOperator,
    SolverError,
    Status,
    solve,
    solve_sweep,
)
from metafluence.testing.operators import SumOperator
from metafluence.testing.problems import problems, random_meta
from metafluence.testing.worlds import world
from metafluence_plugins.curvatures.fisher import FisherCurvature
from metafluence_plugins.methods.influence import LeaveOneOut
from metafluence_plugins.preconditioners.nystrom import Nystrom
from metafluence_plugins.solvers.cg import CG
from metafluence_plugins.solvers.exact import Exact
from metafluence_plugins.solvers.lissa import Lissa
from metafluence_plugins.solvers.minres import Minres
from metafluence_plugins.solvers.neumann import Neumann
from metafluence_plugins.solvers.refined import Refined
from metafluence_plugins.solvers.woodbury import Woodbury
from parts import EXACT, LEARNERS

seeds = st.integers(0, 2**20)


# --- cg and minres


@given(seed=seeds, low=st.sampled_from([0.1, 1.0]))
@examples(15)
def test_cg_and_minres_agree_with_scipy(seed, low):
    matrix = with_spectrum([low, 0.7, 1.0, 1.5, 3.0, 8.0], seed)
    rhs = normal(6, 1, seed=seed + 1)
    for solver, theirs in ((CG(rtol=1e-12), scipy.sparse.linalg.cg), (Minres(rtol=1e-12), scipy.sparse.linalg.minres)):
        wanted, info = theirs(matrix.numpy(), rhs[:, 0].numpy(), rtol=1e-13)
        assert info == 0
        assert gap(solve(solver, DenseOperator(matrix), rhs).value[:, 0], torch.from_numpy(wanted)) < 1e-9


@given(seed=seeds)
@examples(15)
def test_minres_solves_what_cg_refuses(seed):
    matrix, rhs = with_spectrum([-2.0, -0.5, 0.6, 1.0, 4.0], seed), normal(5, 3, seed=seed + 1)
    assert gap(solve(Minres(), DenseOperator(matrix), rhs).value, torch.linalg.solve(matrix, rhs)) < 1e-6
    wanted = torch.from_numpy(scipy.sparse.linalg.minres(matrix.numpy(), rhs[:, 0].numpy(), rtol=1e-13)[0])
    assert gap(solve(Minres(rtol=1e-12), DenseOperator(matrix), rhs).value[:, 0], wanted) < 1e-9
    with pytest.raises(SolverError, match=r"negative curvature.*damping.*minres.*gauss-newton.*Curvature met: -"):
        solve(CG(), DenseOperator(-matrix @ matrix), rhs)


def test_columns_and_members_that_are_done_cost_nothing_and_stay_finite():
    matrix = torch.stack([torch.eye(6).double(), with_spectrum([1, 2, 3, 4, 5, 600.0])])
    rhs = normal(2, 6, 2)
    for solver in (CG(), Minres()):
        found = solve(solver, DenseOperator(matrix), rhs)
        assert gap(found.value, torch.linalg.solve(matrix, rhs)) < 1e-7
        assert found.value.isfinite().all()


# --- neumann


@given(seed=seeds, terms=st.integers(1, 30), step=st.sampled_from([None, 0.1, 0.2]))
@example(seed=1115, terms=1, step=None)  # three Lanczos steps are enough for the step's hundredth
@example(seed=365, terms=1, step=None)  # which do not see the smallest eigenvalue
@examples(25)
def test_neumann_is_its_series(seed, terms, step):
    matrix, rhs = with_spectrum([0.5, 1.0, 2.0, 9.0], seed), normal(4, 2, seed=seed + 1)
    solver = Neumann(step=step, truncation=terms, rtol=1e-300)
    found = solve(solver, DenseOperator(matrix), rhs)
    alpha = float(solver.prepare(DenseOperator(matrix), 0.0, torch.Generator().manual_seed(0)).step)
    assert alpha == step or (step is None and 0.9 * 2 / 9.5 < alpha < 2 / 9.0)
    eye = torch.eye(4, dtype=torch.float64)
    wanted = alpha * sum(torch.linalg.matrix_power(eye - alpha * matrix, j) for j in range(terms)) @ rhs
    assert gap(found.value, wanted) < 1e-10
    assert (found.status == Status.APPROXIMATE).all()
    assert found.iterations == terms


def test_neumann_says_which_step_would_converge_and_it_does():
    matrix, rhs = with_spectrum([0.5, 3.0, 17.0]), normal(3, 1)
    with pytest.raises(SolverError, match=r"largest eigenvalue is 17.*2/λ_max = 0\.1176.*step 0\.114 converges"):
        solve(Neumann(step=1.0), DenseOperator(matrix), rhs)
    assert solve(Neumann(step=0.114), DenseOperator(matrix), rhs).converged
    assert solve(Neumann(step=0.1176), DenseOperator(matrix), rhs, strict=False).value.isfinite().all()


def test_neumann_and_lissa_refuse_an_indefinite_operator_before_they_iterate():
    matrix = with_spectrum([-0.25, 1.0, 2.0])
    with pytest.raises(SolverError, match=r"eigenvalue -2\.50e-01.*damping above 0\.25"):
        solve(Neumann(), DenseOperator(matrix), normal(3, 1))
    assert solve(Neumann(), DenseOperator(matrix), normal(3, 1), damping=0.3).converged
    with pytest.raises(SolverError, match=r"eigenvalue -2\.50e-01"):
        solve(Lissa(), SumOperator(torch.stack([matrix] * 4)), normal(3, 1))


def test_neumann_gives_up_where_it_would_never_arrive_and_says_how_long_it_would_take():
    operator = DenseOperator(torch.diag(torch.logspace(-6, 0, 20).double()))
    found = solve(Neumann(), operator, normal(20, 1), strict=False)
    assert found.status.item() == Status.MAX_ITERATIONS
    assert "steps are needed" in found.complaint()
    assert found.iterations < 20_000


# --- lissa


def sum_operator(seed: int = 0) -> SumOperator:
    roots = normal(9, 4, 4, seed=seed)
    return SumOperator(roots @ roots.mT / 4 + 0.5 * torch.eye(4).double())


def test_lissa_is_unbiased_for_the_truncated_series_and_its_standard_error_is_true():
    operator, rhs = sum_operator(), normal(4, 1, seed=1)
    solver = Lissa(iterations=12, repeats=8, parts=3, step=0.1)
    # The partition into parts is random too; with the same one, only the draws are averaged.
    state = solver.prepare(operator, 0.0, torch.Generator().manual_seed(0))
    runs = [solver.apply(state, rhs, torch.Generator().manual_seed(s)) for s in range(200)]
    values = torch.stack([r.value for r in runs])
    wanted = solve(Neumann(step=0.1, truncation=12), operator, rhs).value
    spread = values.std(dim=0) / 200**0.5
    assert bool(((values.mean(dim=0) - wanted).abs() < 5 * spread).all())
    said = torch.stack([r.standard_error * r.value.norm() for r in runs if r.standard_error is not None])
    real = (values - wanted).norm(dim=1).square().mean().sqrt()
    assert 0.8 < float(said.square().mean().sqrt() / real) < 1.25


def test_lissa_says_which_step_is_stable_and_what_to_use_where_nothing_can_be_sampled():
    with pytest.raises(SolverError, match=r"diverges with step 1.*largest eigenvalue of its sampled parts.*is stable"):
        solve(Lissa(step=1.0), sum_operator(), normal(4, 1))
    with pytest.raises(SolverError, match=r"samples the terms of a sum.*neumann"):
        solve(Lissa(), DenseOperator(torch.eye(3).double()), normal(3, 1))
    with pytest.raises(InputError, match="repeats >= 2"):
        Lissa(repeats=1)


@pytest.mark.parametrize("name", LEARNERS)
@given(data=st.data())
@examples(8)
def test_parts_of_the_total_hessian_average_to_it(name, data):
    problem = data.draw(problems(LEARNERS[name], EXACT, min_tasks=3))
    weights = mf.Weights.ones(problem.tasks).set("task", 1, 0.3)
    hessian = problem.at(random_meta(problem), weights).hessian()
    parts = hessian.split(2, torch.Generator().manual_seed(data.draw(seeds)))
    whole = hessian.dense()
    assert len(parts) == 2
    assert gap(sum(p.dense() for p in parts) / 2, whole) < 1e-10


@given(data=st.data())
@examples(8)
def test_parts_of_inner_hessians_average_to_them(data):
    problem = data.draw(problems(LEARNERS["imaml"], EXACT))
    point = problem.at(random_meta(problem))
    rows = point.meta.expand(len(problem.tasks), -1)
    operator = problem.learner.inner_hessian(rows, point.adapted, problem.tasks.support, point.weights.support)
    parts = operator.split(3, torch.Generator().manual_seed(0))
    assert gap(sum(p.dense() for p in parts) / len(parts), operator.dense()) < 1e-10


# --- preconditioning


def test_nystrom_takes_large_eigenvalues_away():
    values = [1e4, 3e3, 1e3, 300.0, *torch.linspace(1, 3, 40).tolist()]
    matrix, rhs = with_spectrum(values), normal(44, 2)
    plain = solve(CG(), DenseOperator(matrix), rhs)
    helped = solve(CG(preconditioner=Nystrom(rank=8)), DenseOperator(matrix), rhs)
    assert helped.iterations < 0.6 * plain.iterations
    assert gap(helped.value, torch.linalg.solve(matrix, rhs)) < 1e-6
    assert solve(CG(preconditioner=Nystrom(rank=44)), DenseOperator(matrix), rhs).iterations <= 3


def test_nystrom_has_the_formula_of_its_paper():
    matrix = with_spectrum([5.0, 3.0, 1.0, 0.5, 0.2])
    solver = Nystrom(rank=2)
    state = solver.prepare(DenseOperator(matrix), 0.1, torch.Generator().manual_seed(0))
    u, values = state.vectors, state.values + 0.1
    wanted = values[-1] * u @ torch.diag(1 / values) @ u.T + torch.eye(5).double() - u @ u.T
    found = solver.precondition(state, torch.eye(5, dtype=torch.float64))
    assert gap(found, wanted) < 1e-12
    assert float(torch.linalg.eigvalsh(found).min()) > 0
    # A Nyström approximation never exceeds the operator.
    assert float(torch.linalg.eigvalsh(matrix - u @ state.values.diag() @ u.T).min()) > -1e-9


def test_nystrom_refuses_what_is_indefinite():
    with pytest.raises(SolverError, match=r"positive semi-definite.*damping.*minres"):
        solve(CG(preconditioner=Nystrom(rank=3)), DenseOperator(with_spectrum([-1.0, 1.0, 2.0])), normal(3, 1))
    with pytest.raises(InputError, match="rank is 0, but a whole number at least 1"):
        Nystrom(rank=0)


# --- woodbury


@given(seed=seeds, tall=st.booleans(), shift=st.sampled_from([1e-6, 0.3, 1e4]))
@examples(20)
def test_woodbury_agrees_with_dense(seed, tall, shift):
    factor = normal(*((9, 3) if tall else (4, 7)), seed=seed)
    operator, rhs = LowRankOperator(factor, shift), normal(factor.shape[0], 2, seed=seed + 1)
    assert float(solve(Woodbury(), operator, rhs).residual.max()) < 1e-8
    assert gap(solve(Woodbury(), operator, rhs, 0.5).value, torch.linalg.solve(operator.dense() + 0.5 * torch.eye(
        factor.shape[0]).double(), rhs)) < 1e-8  # fmt: skip


@given(data=st.data())
@examples(8)
def test_woodbury_inverts_the_fisher_curvature(data):
    problem = data.draw(problems(LEARNERS["logistic-head"], EXACT))
    weights = mf.Weights.ones(problem.tasks).set("task", 0, 0.5)
    point = problem.at(random_meta(problem), weights)
    operator, g = FisherCurvature().at(point), point.task_gradients()
    dense = problem.l2 * torch.eye(problem.size).double() + (g * weights.task) @ g.T
    rhs = normal(problem.size, 2)
    assert gap(solve(Woodbury(), operator, rhs).value, torch.linalg.solve(dense, rhs)) < 1e-8


def test_woodbury_says_what_it_needs():
    with pytest.raises(SolverError, match="curvature fisher"):
        solve(Woodbury(), DenseOperator(torch.eye(3).double()), normal(3, 1))
    with pytest.raises(SolverError, match="Add damping"):
        solve(Woodbury(), LowRankOperator(normal(5, 2), 0.0), normal(5, 1))


# --- sweeps, Krylov spaces, memory


@pytest.mark.parametrize("solver", [Exact(), CG(), Minres(), Neumann()], ids=lambda s: type(s).__name__)
def test_a_sweep_is_as_honest_as_single_solves(solver):
    matrix, rhs = with_spectrum([-0.5, 1.0, 2.0, 3.0]), normal(4, 2)
    dampings = [0.1, 0.4, 0.9, 5.0]
    if isinstance(solver, Neumann):  # refuses what is indefinite as a whole
        dampings = dampings[2:]
    for damping, found in zip(dampings, solve_sweep(solver, DenseOperator(matrix), rhs, dampings), strict=True):
        wanted = torch.linalg.solve(matrix + damping * torch.eye(4).double(), rhs)
        if isinstance(solver, CG) and damping < 0.5:
            assert (found.status == Status.NEGATIVE_CURVATURE).all()
        else:
            assert gap(found.value, wanted) < 1e-6


def test_a_random_solver_draws_the_same_for_every_damping_of_a_sweep():
    terms = torch.stack([with_spectrum([0.5, 1.0, 2.0, 3.0], seed) for seed in range(6)])
    lissa = Lissa(iterations=40, repeats=2, parts=3)
    first, again = solve_sweep(lissa, SumOperator(terms), normal(4, 2), [1.0, 1.0])
    assert torch.equal(first.value, again.value)


def test_one_krylov_space_or_factorisation_serves_a_whole_sweep():
    operator, rhs = DenseOperator(with_spectrum(torch.linspace(1, 50, 40).tolist())), normal(40, 1)
    dampings = torch.logspace(-3, 2, 20).tolist()
    alone = solve(CG(), operator, rhs, dampings[0]).matvecs
    assert solve_sweep(CG(), operator, rhs, dampings)[0].matvecs <= alone + 2


@given(seed=seeds)
@examples(10)
def test_krylov_spaces_are_orthonormal_and_project_to_their_tridiagonal(seed):
    matrix = torch.stack([with_spectrum([1.0, 1, 1, 4, 4, 4], seed), with_spectrum([1.0, 2, 3, 4, 5, 6], seed)])
    space = mf.KrylovSpace(DenseOperator(matrix), normal(2, 6, 1, seed=seed))
    for _ in range(5):
        space.grow()
    basis = space.basis[:, 0]
    closed, open_ = basis[0][:, :2], basis[1]  # two distinct eigenvalues close a space after two products
    for vectors, member in ((closed, 0), (open_, 1)):
        m = vectors.shape[1]
        assert torch.allclose(vectors.T @ vectors, torch.eye(m).double(), atol=1e-12)
        projected = vectors.T @ matrix[member] @ vectors
        assert torch.allclose(projected, space.tridiagonal()[member, 0, :m, :m], atol=1e-10)
    assert space.outside[0].item() == 0


@given(seed=seeds)
@examples(10)
def test_extreme_eigenvalues_of_a_batch_are_those_of_its_members(seed):
    matrix = torch.stack([with_spectrum([-1.0, 2, 5, 7], seed), with_spectrum([3.0, 3, 3, 3], seed)])
    found = mf.extreme_eigenvalues(DenseOperator(matrix), torch.Generator().manual_seed(seed))
    assert torch.allclose(found.smallest, torch.tensor([-1.0, 3.0]).double(), atol=1e-8)
    assert torch.allclose(found.largest, torch.tensor([7.0, 3.0]).double(), atol=1e-8)


def test_the_error_of_a_ritz_value_is_the_residual_of_its_vector():
    matrix = with_spectrum(torch.linspace(-3, 40, 30).tolist())
    found = mf.extreme_eigenvalues(DenseOperator(matrix), torch.Generator().manual_seed(4), steps=5)
    start = torch.randn(30, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([torch.linalg.matrix_power(matrix, i) @ start for i in range(5)], dim=1)).Q
    values, vectors = torch.linalg.eigh(basis.T @ matrix @ basis)
    ritz = basis @ vectors
    errors = (matrix @ ritz - ritz * values).norm(dim=0)
    assert (found.smallest, found.largest) == pytest.approx((float(values[0]), float(values[-1])))
    assert (found.smallest_error, found.largest_error) == pytest.approx((float(errors[0]), float(errors[-1])))


# --- refined


class Watched(LinearOperator):
    """A matrix that remembers the type and the number of the columns it was multiplied with."""

    def __init__(self, matrix: torch.Tensor, seen: list[tuple[torch.dtype, int]]) -> None:
        self.matrix, self.seen = matrix, seen
        self.size, self.dtype, self.device = len(matrix), matrix.dtype, matrix.device

    def matmat(self, columns: torch.Tensor) -> torch.Tensor:
        self.seen.append((columns.dtype, columns.shape[1]))
        return self.matrix @ columns

    def cast(self, dtype: torch.dtype) -> "Watched":
        return Watched(self.matrix.to(dtype), self.seen)


@given(seed=seeds, spread=st.floats(0, 4), damping=st.sampled_from([0.0, 0.3]))
@examples(15)
def test_refined_is_as_exact_as_double_precision_with_products_of_single(seed, spread, damping):
    matrix = with_spectrum(torch.logspace(-spread, 0, 12, dtype=torch.float64).tolist(), seed)
    rhs, seen = normal(12, 2, seed=seed + 1), []
    found = solve(Refined(rtol=1e-12), Watched(matrix, seen), rhs, damping)
    wanted = torch.linalg.solve(matrix + damping * torch.eye(12).double(), rhs)
    assert gap(found.value, wanted) <= 1e-12 * 10 ** (spread + 1)
    assert float(found.residual.max()) <= 1e-12
    single, double = (sum(k for kind, k in seen if kind == wanted) for wanted in (torch.float32, torch.float64))
    assert found.matvecs == single + double - 2, "all products are counted, but for the judge's"
    assert double <= 2 * (9 + 1), "three or more digits a step"


def test_refined_says_where_single_precision_does_not_do():
    matrix = with_spectrum([1e-9, 1e-4, 0.1, 0.5, 1.0, 2.0])
    found = solve(Refined(), DenseOperator(matrix), normal(6, 1), strict=False)
    assert found.status.tolist() in ([Status.INACCURATE], [Status.NEGATIVE_CURVATURE])  # as single precision sees it
    assert float(found.residual) > 1e-8
    indefinite = with_spectrum([-1.0, 0.5, 1.0, 2.0, 3.0, 4.0])
    with pytest.raises(SolverError, match="negative curvature"):
        solve(Refined(), DenseOperator(indefinite), normal(6, 1))
    wanted = torch.linalg.solve(indefinite, normal(6, 1))
    assert gap(solve(Refined(Minres(rtol=1e-4)), DenseOperator(indefinite), normal(6, 1)).value, wanted) < 1e-7

    class Fixed(LinearOperator):
        size, dtype, device = 2, torch.float64, torch.device("cpu")

        def matmat(self, columns):
            return columns

    with pytest.raises(SolverError, match=r"Fixed is known in torch\.float64 alone.*Use cg or minres"):
        solve(Refined(), Fixed(), normal(2, 1))


@pytest.mark.parametrize("form", ["exact", "gauss-newton"])
@pytest.mark.parametrize("name", LEARNERS)
@given(data=st.data())
@examples(3)
def test_refined_solves_with_the_total_hessian_of_every_learner(name, form, data):
    problem = data.draw(problems(LEARNERS[name], EXACT, min_l2=2.0))
    operator = problem.at(random_meta(problem)).hessian(form=form)
    rough = operator.cast(torch.float32)
    rhs = normal(problem.size, 2)
    assert rough.matmat(rhs.float()).dtype == torch.float32
    found = solve(Refined(Minres(rtol=1e-3)), operator, rhs)
    assert float(found.residual.max()) <= 1e-8
    wanted = torch.linalg.solve(operator.dense(), rhs)
    condition = float(torch.linalg.cond(operator.dense()))
    assert gap(found.value, wanted) <= 1e-8 * condition


def test_refined_says_whose_fault_it_is():
    rhs, matrix = normal(40, 1), DenseOperator(torch.arange(1.0, 41).double().diag())
    early = solve(Refined(CG(max_iterations=2)), matrix, rhs, strict=False)
    assert early.status.tolist() == [Status.MAX_ITERATIONS]
    assert "CG ended each step too early to be refined" in early.complaint()
    short = solve(Refined(CG(rtol=1e-2), max_steps=2), matrix, rhs, strict=False)
    assert short.status.tolist() == [Status.MAX_ITERATIONS]
    assert "raise max_steps" in short.complaint()


def test_the_operator_without_one_task_is_cast_as_well():
    generator = torch.Generator().manual_seed(0)
    problem = world(0).problem
    point = problem.at(problem.learner.init_meta(generator))
    whole = LeaveOneOut(point, point.hessian(), "total")
    columns = torch.randn(*whole.batch_shape, whole.size, 2, generator=generator, dtype=torch.float64)
    rough = whole.cast(torch.float32).matmat(columns.float())
    assert rough.dtype == torch.float32
    assert gap(rough.double(), whole.matmat(columns)) < 1e-5


MEMORY = r"""
import re, sys, torch
from pathlib import Path
from metafluence import DenseOperator, LinearOperator, solve
from metafluence_plugins.solvers.exact import Exact
torch.set_num_threads(1)
n, low = 2000, float(sys.argv[1])
class Diagonal(LinearOperator):
    size, dtype, device = n, torch.float64, torch.device("cpu")
    def matmat(self, columns):
        return torch.linspace(low, 2, n, dtype=torch.float64).unsqueeze(1) * columns
small = DenseOperator(torch.diag(torch.tensor([low, 1.0, 2.0])).double())
solve(Exact(), small, torch.ones(3, 1).double())
def kib(what):
    return int(re.search(what + r":\s+(\d+)", Path("/proc/self/status").read_text())[1])
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
before = kib("VmRSS")
solve(Exact(), Diagonal(), torch.ones(n, 1).double())
print((kib("VmHWM") - before) / 2**20, Exact.gib(Diagonal()))
"""


@pytest.mark.parametrize("low", [1.0, -1.0], ids=["definite", "indefinite"])
def test_exact_knows_how_much_memory_it_takes(low):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("measures memory through Linux's /proc")
    found = subprocess.run([sys.executable, "-c", MEMORY, str(low)], capture_output=True, text=True, check=True)
    taken, said = map(float, found.stdout.split())
    # The estimate is for the dearer of the two cases, and never too small by more than a tenth.
    assert taken <= 1.1 * said
    assert low > 0 or taken >= 0.6 * said


@pytest.mark.parametrize("steps", [1, 2, 48, 100])
def test_a_truncated_neumann_series_takes_its_steps_and_no_others(steps):
    """However early its residual is below the tolerance."""
    matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    rhs = torch.ones(3, 2, dtype=torch.float64)
    rhs[:, 1] = 0.0
    found = solve(Neumann(step=0.4, truncation=steps), DenseOperator(matrix), rhs)
    wanted = sum(0.4 * torch.linalg.matrix_power(torch.eye(3).double() - 0.4 * matrix, j) @ rhs for j in range(steps))
    assert found.iterations == steps
    assert torch.allclose(found.value, wanted, rtol=1e-13)
    assert found.status.tolist() == [int(mf.Status.APPROXIMATE), int(mf.Status.CONVERGED)]
