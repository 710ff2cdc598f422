"""Functions of operators on columns, against those of dense matrices."""

import pytest
import torch
from hypothesis import given, strategies as st

import metafluence as mf
from how_many import examples


def symmetric(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(*shape, shape[-1], generator=generator, dtype=torch.float64)
    return half + half.mT


@examples(20)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 3), st.sampled_from([(), (2,), (2, 3)]))
def test_they_are_those_of_the_dense_matrix(seed, size, k, batch):
    matrix = symmetric(seed, *batch, size)
    columns = torch.randn(*batch, size, k, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    found = mf.apply_functions(mf.DenseOperator(matrix), columns, [lambda x: torch.exp(-x / 5), torch.sin], rtol=1e-12)
    torch.testing.assert_close(found.values[0], torch.matrix_exp(-matrix / 5) @ columns, rtol=1e-9, atol=1e-9)
    values, vectors = torch.linalg.eigh(matrix)
    torch.testing.assert_close(found.values[1], vectors @ (values.sin().unsqueeze(-1) * (vectors.mT @ columns)))
    assert found.products <= size


@pytest.mark.parametrize("rtol", [1e-2, 1e-5, 1e-9])
def test_it_stops_early_with_an_error_near_its_estimate(rtol):
    half = torch.randn(80, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = half @ half.mT / 60
    columns = torch.randn(80, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = mf.apply_functions(mf.DenseOperator(matrix), columns, [lambda x: torch.exp(-x)], rtol=rtol)
    wanted = torch.matrix_exp(-matrix) @ columns
    errors = (found.values[0] - wanted).norm(dim=0) / wanted.norm(dim=0)
    assert found.products < 30
    assert found.error <= rtol
    assert float(errors.max()) < 2 * rtol


def test_columns_of_zeros_and_few_steps():
    matrix = mf.DenseOperator(symmetric(0, 20))
    columns = torch.cat([torch.zeros(20, 1), torch.ones(20, 1)], dim=1).double()
    found = mf.apply_functions(matrix, columns, [torch.cos], steps=3)
    assert found.products == 3
    assert found.error > 1e-3
    assert not found.values[0][:, 0].any()
