"""The conformance suite of curvatures: `TestMine = curvature_suite(MyCurvature)` in a test file of one's own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from metafluence import SYMMETRIC, Curvature, Jacobian, LinearOperator, Point
from metafluence.testing.simple_suites import simple_suite
from metafluence.testing.worlds import world


def check_operator(component: Curvature, seed: int) -> None:
    """It gives an operator on columns [P, k] that says its size, dtype, device and tags."""
    point = _point(seed)
    operator = component.at(point)
    assert isinstance(operator, LinearOperator), f"a {type(operator).__name__}"
    assert operator.size == len(point.meta), f"size {operator.size}, where there are {len(point.meta)} meta-parameters"
    assert operator.dtype == point.meta.dtype, f"dtype {operator.dtype}, where λ is {point.meta.dtype}"
    assert torch.device(operator.device) == point.meta.device, f"device {operator.device}"
    assert SYMMETRIC in operator.tags, f"tags {sorted(operator.tags)}, without symmetric"
    found = operator.matmat(_columns(point, seed))
    assert found.shape == (len(point.meta), 3), f"a product of shape {list(found.shape)}"


def check_jacobian(component: Curvature, seed: int) -> None:
    """Its responses go with a dθ/dλ that there is: total, held or identity."""
    found = component.jacobian(_point(seed))
    assert found in get_args(Jacobian), f"{found!r}"


def check_symmetric(component: Curvature, seed: int) -> None:
    """The operator is linear and symmetric."""
    point = _point(seed)
    operator = component.at(point)
    matrix, columns = operator.dense(), _columns(point, seed)
    size = float(matrix.norm())
    assert float((matrix - matrix.T).norm()) <= 1e-9 * size, "it differs from its transpose"
    gap = float((operator.matmat(columns) - matrix @ columns).norm())
    assert gap <= 1e-9 * size * float(columns.norm()), f"products differ from those with unit columns by {gap:.1e}"


def check_order(component: Curvature, seed: int) -> None:
    """Tasks in another order have the same operator."""
    here = world(seed)
    order = torch.arange(len(here.problem.tasks)).roll(3)
    other = here.over(here.problem.tasks[order]).at(here.fit.meta)
    _near(component.at(other), component.at(_point(seed)), "in another order")


def check_chunks(component: Curvature, seed: int) -> None:
    """How tasks are cut into chunks changes nothing."""
    here = world(seed)
    small = replace(here.problem, memory_gib=3.5 * here.problem.bytes_per_task(here.fit.meta) / 2**30)
    _near(component.at(small.at(here.fit.meta)), component.at(_point(seed)), "three tasks at a time")


def check_bits(component: Curvature, seed: int) -> None:
    """The same point gives the same bits, and λ is not written to."""
    point, meta = _point(seed), world(seed).fit.meta.clone()
    columns = _columns(point, seed)
    first, second = (component.at(_point(seed)).matmat(columns) for _ in range(2))
    assert torch.equal(first, second), "the second product differs from the first"
    assert torch.equal(world(seed).fit.meta, meta), "λ was changed"


CHECKS = {
    "operator": check_operator,
    "jacobian": check_jacobian,
    "symmetric": check_symmetric,
    "order": check_order,
    "chunks": check_chunks,
    "bits": check_bits,
}


def curvature_suite(curvature: Curvature | type[Curvature], skip: Collection[str] = (), examples: int = 2) -> type:
    """A class of tests for pytest: `curvature` (an instance, or a class with defaults) on all CHECKS but `skip`."""
    return simple_suite("curvature", CHECKS, curvature, skip, examples)


def _point(seed: int) -> Point:
    here = world(seed)
    return here.problem.at(here.fit.meta)


def _columns(point: Point, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(point.meta), 3, generator=generator, dtype=torch.float64)


def _near(found: LinearOperator, wanted: LinearOperator, what: str) -> None:
    gap, size = float((found.dense() - wanted.dense()).norm()), float(wanted.dense().norm())
    assert gap <= 1e-8 * size, f"{what} it is {gap:.1e} off, of {size:.1e}"
