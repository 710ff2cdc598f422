"""The conformance suite of solvers: `TestMine = solver_suite(MySolver)` in a test file of one's own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from metafluence import PreparedSolve, Solution, Solver, SolverError, Status, solve_sweep
from metafluence.testing.faults import Fault, found_by, judged
from metafluence.testing.names import known_names
from metafluence.testing.operators import CASES, Case

DTYPES = (torch.float64, torch.float32)
HARD = ("badly conditioned", "indefinite")
"""Cases on which a solver may give up, if it says so."""


class Trial:
    """One solver on one operator with random columns; `refused` where the operator lacks what the solver requires."""

    def __init__(self, solver: Solver, name: str, dtype: torch.dtype, seed: int, columns: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.solver, self.name, self.dtype, self.seed = solver, name, dtype, seed
        self.case: Case = CASES[name](generator, dtype)
        self.refused = bool(solver.requires - self.case.operator.tags)
        shape = (*self.case.matrix.shape[:-1], columns)
        self.rhs = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        self.bound = 10 * solver.tolerance(dtype) * max(1.0, self.case.condition)
        if solver.approximate:  # rounding grows with the condition number, and by no more
            self.bound = 1e3 * torch.finfo(dtype).eps * max(1.0, self.case.condition)

    def solve(self, rhs: Tensor | None = None, damping: float = 0.0) -> Solution:
        generator = torch.Generator().manual_seed(self.seed)
        prepared = PreparedSolve(self.solver, self.case.operator, damping, generator)
        return prepared.solve(self.rhs if rhs is None else rhs, generator, strict=False)

    def wanted(self, rhs: Tensor | None = None, damping: float = 0.0) -> Tensor:
        eye = torch.eye(self.case.matrix.shape[-1], dtype=torch.float64)
        right = (self.rhs if rhs is None else rhs).double()
        return torch.linalg.solve(self.case.matrix.double() + damping * eye, right)

    def assert_right(self, solution: Solution, rhs: Tensor | None = None, damping: float = 0.0) -> None:
        """Every column is right, or says that it is not."""
        status, wanted = solution.status, self.wanted(rhs, damping)
        assert status.shape == solution.residual.shape
        assert solution.value.dtype == self.dtype
        if self.name not in HARD:
            assert not solution.failed, f"gave up on a harmless operator: {solution.complaint()}"
        error = torch.linalg.vector_norm(solution.value.double() - wanted, dim=-2)
        size = torch.linalg.vector_norm(wanted, dim=-2)
        good = status == Status.CONVERGED
        assert bool((error <= self.bound * size)[good].all()), f"{self.name}: says converged at error {error.max():.1e}"
        some = status == Status.APPROXIMATE
        assert self.solver.approximate or not bool(some.any()), "only a solver that is `approximate` may say so"
        if self.name not in HARD:
            assert bool((solution.residual < 1)[some].all()), f"{self.name}: no better than answering zero"
        if solution.standard_error is not None:
            # Six standard errors; what the series leaves after its last step is far below one.
            assert bool((error <= (6 * solution.standard_error + self.bound) * size)[some].all()), (
                f"{self.name}: further from the answer than its standard error allows"
            )
        elif self.case.factored:
            assert bool((error <= self.bound * size)[some].all()), f"{self.name}: factors are exact, the answer not"


def check_agreement(trial: Trial) -> None:
    """It agrees with the dense answer, or says what is wrong; with damping, that is damping and nothing else."""
    for damping in (0.0, 0.7):
        try:
            solution = trial.solve(damping=damping)
        except SolverError as error:
            if trial.refused or trial.name in HARD:
                continue
            raise AssertionError(f"refuses {trial.name}: {error}") from error
        assert not trial.refused, "an operator without a required tag was not refused"
        trial.assert_right(solution, damping=damping)


def check_eigenvector(trial: Trial) -> None:
    """A right-hand side that is an eigenvector, beside others that are not."""
    vectors = torch.linalg.eigh(trial.case.matrix.double()).eigenvectors
    rhs = torch.cat([vectors[..., :1], trial.rhs.double()], dim=-1).to(trial.dtype)
    trial.assert_right(trial.solve(rhs), rhs)


def check_zero(trial: Trial) -> None:
    """Zero in, zero out, also beside a column that is not zero; and no product for zeros alone."""
    rhs = torch.cat([torch.zeros_like(trial.rhs[..., :1]), trial.rhs], dim=-1)
    solution = trial.solve(rhs)
    assert not solution.value[..., 0].any()
    assert not solution.residual[..., 0].any()
    trial.assert_right(solution, rhs)
    if not trial.solver.approximate:
        assert trial.solve(torch.zeros_like(trial.rhs)).matvecs == 0, "works on zeros"


def check_inputs(trial: Trial) -> None:
    """Neither operator nor right-hand side is written to, and a second solve from one preparation is the first."""
    matrix, rhs = trial.case.matrix.clone(), trial.rhs.clone()
    prepared = PreparedSolve(trial.solver, trial.case.operator, 0.7)
    first, second = (prepared.solve(trial.rhs, strict=False) for _ in range(2))
    assert torch.equal(first.value, second.value), "the second solve differs from the first"
    assert torch.equal(trial.rhs, rhs), "the right-hand side was changed"
    assert torch.equal(trial.case.operator.dense(), matrix), "the operator was changed"


def check_seed(trial: Trial) -> None:
    """The same seed gives the same bits."""
    assert torch.equal(trial.solve().value, trial.solve().value)


def check_columns(trial: Trial) -> None:
    """A column's answer does not depend on those beside it."""
    together = trial.solve()
    for j in range(trial.rhs.shape[-1]):
        alone = trial.solve(trial.rhs[..., j : j + 1])
        gap = torch.linalg.vector_norm(together.value[..., j] - alone.value[..., 0])
        assert float(gap) <= 2 * trial.bound * float(torch.linalg.vector_norm(alone.value)), f"column {j} differs"


def check_work(trial: Trial) -> None:
    """Solvers stop at convergence and report the products they used."""
    vectors = torch.linalg.eigh(trial.case.matrix.double()).eigenvectors[..., :2]  # done at once by Krylov methods
    rhs = torch.cat([trial.rhs, vectors.to(trial.dtype)], dim=-1)
    together = trial.solve(rhs)
    assert (together.iterations > 0) == (together.matvecs > 0), "products without iterations, or the other way round"
    if not trial.solver.approximate:
        width = rhs.shape[-1]
        alone = [trial.solve(rhs[..., j : j + 1]).matvecs for j in range(width)]
        # Rounding may make each column take one step more beside others, and one column a refinement: another solve.
        spare = width + max(alone)
        assert together.matvecs <= sum(alone) + spare, "columns that are done go on costing products"


def check_residual(trial: Trial) -> None:
    """The reported residual is the one measured from outside."""
    solution = trial.solve(damping=0.7)
    matrix = trial.case.matrix.double() + 0.7 * torch.eye(trial.case.matrix.shape[-1], dtype=torch.float64)
    rest = torch.linalg.vector_norm(trial.rhs.double() - matrix @ solution.value.double(), dim=-2)
    measured = rest / torch.linalg.vector_norm(trial.rhs.double(), dim=-2)
    slack = 100 * torch.finfo(trial.dtype).eps * trial.case.condition
    assert torch.allclose(solution.residual.double(), measured, rtol=1e-3, atol=slack)


def check_symmetry(trial: Trial) -> None:
    """A solver that is `symmetric` gives aᵀ solve(b) = bᵀ solve(a)."""
    pair = trial.rhs[..., :1], trial.rhs.flip(-2)[..., :1] + 1
    a, b = (trial.solve(x).value for x in pair)
    gap = (pair[1] * a).sum(dim=-2) - (pair[0] * b).sum(dim=-2)
    size = torch.linalg.vector_norm(a, dim=-2) * torch.linalg.vector_norm(pair[1], dim=-2)
    if trial.solver.symmetric:
        assert bool((gap.abs() <= 4 * trial.bound * size).all()), "not symmetric, although it says so"


def check_fresh(trial: Trial) -> None:
    """Preparing for one operator leaves nothing behind for the next."""
    other = Trial(trial.solver, trial.name, trial.dtype, trial.seed + 1, trial.rhs.shape[-1])
    trial.solve()
    other.assert_right(other.solve())
    trial.assert_right(trial.solve())


def check_sweep(trial: Trial) -> None:
    """Solving for many dampings at once is solving for each."""
    dampings = [0.1, 1.0, 10.0]
    generator = torch.Generator().manual_seed(trial.seed)
    found = solve_sweep(trial.solver, trial.case.operator, trial.rhs, dampings, generator)
    for damping, solution in zip(dampings, found, strict=True):
        trial.assert_right(solution, damping=damping)


CHECKS: dict[str, Callable[[Trial], None]] = {
    "agreement": check_agreement,
    "eigenvector": check_eigenvector,
    "zero": check_zero,
    "inputs": check_inputs,
    "seed": check_seed,
    "columns": check_columns,
    "work": check_work,
    "residual": check_residual,
    "symmetry": check_symmetry,
    "fresh": check_fresh,
    "sweep": check_sweep,
}


def solver_suite(solver: Solver | type[Solver], examples: int = 3, skip: Collection[str] = ()) -> type:
    """A class of tests for pytest: `solver` (an instance, or a class with defaults) on every operator and check.

    A solver is held to what it claims: agreement with dense answers within its own `tolerance` wherever it says
    CONVERGED, a refusal where the operator lacks a tag that it requires, and an honest status on the hard operators.
    skip: names of CHECKS that cannot hold.
    """
    subject = solver() if isinstance(solver, type) else solver
    skipped = known_names("check of solvers", skip, CHECKS)
    seeds, widths = st.integers(0, 2**20), st.sampled_from([1, 3, 12])
    accepted = [name for name in CASES if name not in HARD and not subject.requires - _tags(name)]
    each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])

    class SolverSuite:
        @each_dtype
        @pytest.mark.parametrize("name", CASES if "agreement" not in skipped else ())
        @settings(max_examples=examples, deadline=None)
        @given(seed=seeds, columns=widths)
        def test_agreement(self, name: str, dtype: torch.dtype, seed: int, columns: int) -> None:
            _hold("agreement", Trial(subject, name, dtype, seed, columns))

        @each_dtype
        @pytest.mark.parametrize("check", [name for name in CHECKS if name not in ("agreement", *skipped)])
        @settings(max_examples=2 * examples, deadline=None)
        @given(name=st.sampled_from(accepted), seed=seeds, columns=widths)
        def test_contract(self, check: str, name: str, dtype: torch.dtype, seed: int, columns: int) -> None:
            _hold(check, Trial(subject, name, dtype, seed, columns))

    SolverSuite.__name__ = SolverSuite.__qualname__ = f"Test{type(subject).__name__}"
    return SolverSuite


@cache
def _tags(name: str) -> frozenset[str]:
    """What the operators of a case are known to be."""
    return CASES[name](torch.Generator(), torch.float64).operator.tags


def _hold(check: str, trial: Trial) -> None:
    with judged(check, CHECKS[check], trial.solver, trial.name):
        CHECKS[check](trial)


def failures(solver: Solver, seed: int = 0, columns: int = 3, skip: Collection[str] = ()) -> list[Fault]:
    """What the suite finds wrong with a solver, tried once in float64: a sentence each, empty where all is well."""
    found: list[Fault] = []
    skipped = known_names("check of solvers", skip, CHECKS)
    for name in CASES:
        one = Trial(solver, name, torch.float64, seed, columns)
        checks = ["agreement"] if name in HARD or one.refused else list(CHECKS)
        for check in checks:
            if check not in skipped:
                trial = Trial(solver, name, torch.float64, seed, columns)
                found += found_by(partial(_hold, check, trial))
    return found
