"""Gauss-Newton products from the rows of the outputs' Jacobian are those of two derivatives for each column."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

import metafluence as mf
from how_many import examples
from metafluence.bilevel.chunk import Chunk


def problem(kind: str, learner: str, seed: int) -> mf.BilevelProblem:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(3).repeat(4, 2)

    def half() -> mf.Batch:
        images = torch.randn(4, 6, 1, 6, 6, generator=generator, dtype=torch.float64)
        return mf.Batch(images, classes)

    body = [nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()]
    dense = [nn.Flatten(), nn.Linear(36, 5), nn.Tanh()]
    layers, width = (body, 27) if kind == "convolution" else (dense, 5)
    module = nn.Sequential(*layers, nn.Linear(width, 3)).double()
    tasks = mf.TaskSet(half(), half(), tuple("abcd"))
    return mf.BilevelProblem(mf.build("learner", learner, backbone=module), tasks, 0.3, mf.build("solver", "exact"))


@given(st.sampled_from(["convolution", "dense"]), st.sampled_from(["joint", "protonet"]), st.integers(0, 99))
@examples(12)
def test_products_by_rows_are_products(kind, learner, seed):
    made = problem(kind, learner, seed)
    generator = torch.Generator().manual_seed(seed)
    weights = mf.Weights.ones(made.tasks).scaled("task", (0,), 0.4).scaled("query", (3, 20), 0.1)
    chunk = made.at(made.learner.init_meta(generator), weights)
    (only,) = chunk.chunks
    columns = torch.randn(5, made.size, generator=generator, dtype=torch.float64)
    found, wanted = only.product_by_rows(columns), only.product(columns, "held", "gauss-newton")
    assert float((found - wanted).norm()) <= 1e-10 * float(wanted.norm())


@pytest.mark.parametrize(
    ("kind", "columns", "taken"), [("convolution", 40, True), ("convolution", 1, False), ("dense", 40, False)]
)
def test_rows_are_taken_for_many_columns_of_convolutions(kind, columns, taken, monkeypatch):
    made, seen = problem(kind, "joint", 0), []
    whole = Chunk.product_by_rows
    monkeypatch.setattr(Chunk, "product_by_rows", lambda *given: seen.append(1) or whole(*given))
    point = made.at(made.learner.init_meta(torch.Generator().manual_seed(0)))
    product = point.product(torch.eye(made.size, dtype=torch.float64)[:, :columns], "held", "gauss-newton")
    assert product.shape == (made.size, columns)
    assert bool(seen) == taken
