"""What operators promise besides products: copies in another precision, parts, counts, and errors of eigenvalues."""

import pytest
import torch

import metafluence as mf

SEEDED = torch.Generator().manual_seed


def spd(size: int, seed: int = 0) -> torch.Tensor:
    half = torch.randn(size, size, generator=SEEDED(seed), dtype=torch.float64)
    return half @ half.mT + torch.eye(size, dtype=torch.float64)


class Sum(mf.LinearOperator):
    """A mean of matrices, one for each part."""

    tags = frozenset({mf.SYMMETRIC, mf.PSD, mf.SUM})

    def __init__(self, matrices: list[torch.Tensor]) -> None:
        self.matrices = matrices
        self.size, self.dtype, self.device = len(matrices[0]), matrices[0].dtype, matrices[0].device

    def matmat(self, columns: torch.Tensor) -> torch.Tensor:
        return sum(matrix @ columns for matrix in self.matrices) / len(self.matrices)

    def split(self, count: int, generator: torch.Generator) -> list[mf.LinearOperator]:
        groups = mf.random_groups(len(self.matrices), count, generator)
        return [Sum([self.matrices[i] for i in group]) for group in groups]


@pytest.mark.parametrize(
    "operator",
    [
        mf.DenseOperator(spd(4)),
        mf.ShiftedOperator(mf.DenseOperator(spd(4)), 0.7),
        mf.LowRankOperator(spd(4)[:, :2], 0.3),
        mf.CountingOperator(mf.ShiftedOperator(mf.DenseOperator(spd(4)), 0.7)),
    ],
    ids=["dense", "shifted", "low rank", "counting"],
)
def test_a_copy_in_another_precision_is_the_same_matrix(operator):
    rough = operator.cast(torch.float32)
    assert rough.dtype == rough.dense().dtype == torch.float32
    torch.testing.assert_close(rough.dense().double(), operator.dense(), rtol=1e-6, atol=1e-6)


def test_a_product_with_a_part_counts_its_share():
    counter = mf.CountingOperator(Sum([spd(3, seed) for seed in range(8)]))
    parts = counter.split(4, SEEDED(0))
    parts[0].matmat(torch.ones(3, 2, dtype=torch.float64))
    assert counter.products == 2 / 4
    parts[1].split(2, SEEDED(1))[0].matmat(torch.ones(3, 1, dtype=torch.float64))
    assert counter.products == 2 / 4 + 1 / 8


def test_eigenvalues_found_early_lie_within_their_errors():
    matrix = spd(40)
    true = torch.linalg.eigvalsh(matrix)
    for steps in (2, 4, 8):
        found = mf.extreme_eigenvalues(mf.DenseOperator(matrix), SEEDED(1), steps=steps)
        assert found.products == steps
        for value, error in ((found.smallest, found.smallest_error), (found.largest, found.largest_error)):
            assert float((true - value).abs().min()) <= float(error)
    # Far from converged, the error says so: it is the residual of the Ritz pair.
    space = mf.KrylovSpace(mf.DenseOperator(matrix), torch.randn(40, 1, generator=SEEDED(1), dtype=torch.float64))
    for _ in range(4):
        space.grow()
    values, vectors = torch.linalg.eigh(space.tridiagonal()[0])
    pairs = space.basis[0] @ vectors
    residuals = (matrix @ pairs - pairs * values).norm(dim=0)
    found = mf.extreme_eigenvalues(mf.DenseOperator(matrix), SEEDED(1), steps=4)
    errors = torch.stack([found.smallest_error, found.largest_error])
    torch.testing.assert_close(errors, residuals[[0, -1]], rtol=1e-6, atol=0)


@pytest.mark.parametrize("solver", ["cg", "exact", "neumann"])
def test_a_sweep_judges_each_damping_by_its_own_operator(solver):
    matrix = mf.DenseOperator(spd(5), frozenset({mf.SYMMETRIC, mf.PSD}))
    rhs = torch.randn(5, 2, generator=SEEDED(2), dtype=torch.float64)
    dampings = [0.0, 1.0, 30.0]
    for damping, found in zip(dampings, mf.solve_sweep(mf.build("solver", solver), matrix, rhs, dampings), strict=True):
        wanted = mf.relative_residual(mf.ShiftedOperator(matrix, damping), found.value, rhs)
        torch.testing.assert_close(found.residual, wanted)
        assert float(found.residual.max()) < 1e-3


def test_a_sampling_solver_takes_the_same_draws_at_every_damping():
    operator = Sum([spd(4, seed) for seed in range(8)])
    rhs = torch.ones(4, 1, dtype=torch.float64)
    lissa = mf.build("solver", "lissa", iterations=20, parts=4)
    same = mf.solve_sweep(lissa, operator, rhs, [1.0, 1.0], SEEDED(3))
    assert torch.equal(same[0].value, same[1].value)
