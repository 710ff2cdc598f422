"""The conformance suite of preconditioners: `TestMine = preconditioner_suite(MyPreconditioner)` in a test file."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from metafluence import Preconditioner, ShiftedOperator, SolverError, check_requirements
from metafluence.testing.operators import CASES, Case
from metafluence.testing.simple_suites import simple_suite


def check_linear(component: Preconditioner, seed: int) -> None:
    """M⁻¹ is one linear map: of a sum of columns it gives the sum, and of zero zero."""
    for case, apply in _prepared(component, seed):
        first, second = _columns(case, seed), _columns(case, seed + 1)
        gap = apply(first + 2 * second) - apply(first) - 2 * apply(second)
        size = float(apply(first).norm())
        assert float(gap.norm()) <= 1e-9 * size, f"a sum of columns is {float(gap.norm()):.1e} off, of {size:.1e}"
        assert not apply(torch.zeros_like(first)).any(), "zero columns do not give zero"


def check_symmetric(component: Preconditioner, seed: int) -> None:
    """M⁻¹ is symmetric."""
    for case, apply in _prepared(component, seed):
        matrix = apply(_identity(case))
        gap = float((matrix - matrix.mT).norm())
        assert gap <= 1e-9 * float(matrix.norm()), f"it differs from its transpose by {gap:.1e}"


def check_positive(component: Preconditioner, seed: int) -> None:
    """M⁻¹ is positive definite."""
    for case, apply in _prepared(component, seed):
        matrix = apply(_identity(case))
        smallest = float(torch.linalg.eigvalsh((matrix + matrix.mT) / 2).min())
        assert smallest > 0, f"its smallest eigenvalue is {smallest:.1e}"


def check_columns(component: Preconditioner, seed: int) -> None:
    """A column's answer does not depend on those beside it."""
    for case, apply in _prepared(component, seed):
        columns = _columns(case, seed)
        gap = float((apply(columns)[..., :1] - apply(columns[..., :1])).norm())
        assert gap <= 1e-10 * float(columns.norm()), f"alone it is {gap:.1e} off"


def check_inputs(component: Preconditioner, seed: int) -> None:
    """Neither operator nor columns are written to, and the same seed gives the same bits."""
    for case, apply in _prepared(component, seed):
        before, columns = case.operator.dense().clone(), _columns(case, seed)
        kept = columns.clone()
        found = apply(columns)
        assert torch.equal(columns, kept), "the columns were changed"
        state = component.prepare(case.operator, 0.5, torch.Generator().manual_seed(seed))
        assert torch.equal(case.operator.dense(), before), "the operator was changed"
        assert torch.equal(component.precondition(state, columns), found), "the same seed gives other bits"


def check_helps(component: Preconditioner, seed: int) -> None:
    """It makes no operator much worse: the condition number of M⁻¹ (A + damping I) is at most ten times that of A."""
    for case, apply in _prepared(component, seed):
        damped = ShiftedOperator(case.operator, 0.5).dense()
        values = torch.linalg.eigvals(apply(damped)).real
        found = float((values.amax(dim=-1) / values.amin(dim=-1)).max())
        before = float(torch.linalg.cond(damped).max())
        assert 0 < found <= 10 * before, f"{found:.1e}, where A alone has {before:.1e}"


CHECKS = {
    "linear": check_linear,
    "symmetric": check_symmetric,
    "positive": check_positive,
    "columns": check_columns,
    "inputs": check_inputs,
    "helps": check_helps,
}


def preconditioner_suite(
    preconditioner: Preconditioner | type[Preconditioner], skip: Collection[str] = (), examples: int = 3
) -> type:
    """A class of tests for pytest: `preconditioner` (an instance, or a class with defaults) on CHECKS but `skip`."""
    return simple_suite("preconditioner", CHECKS, preconditioner, skip, examples)


class _Applied:
    def __init__(self, component: Preconditioner, case: Case, seed: int) -> None:
        self.component = component
        self.state = component.prepare(case.operator, 0.5, torch.Generator().manual_seed(seed))

    def __call__(self, columns: Tensor) -> Tensor:
        return self.component.precondition(self.state, columns)


def _prepared(component: Preconditioner, seed: int) -> Iterator[tuple[Case, _Applied]]:
    """The positive definite operators of the right structure, each with M⁻¹ for damping 0.5."""
    count = 0
    for make in CASES.values():
        case = make(torch.Generator().manual_seed(seed), torch.float64)
        try:
            check_requirements(component, case.operator)
        except SolverError:
            continue
        if case.definite:
            count += 1
            yield case, _Applied(component, case, seed)
    assert count, f"no operator of the suite has what it requires: {sorted(component.requires)}"


def _columns(case: Case, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*case.matrix.shape[:-1], 3, generator=generator, dtype=torch.float64)


def _identity(case: Case) -> Tensor:
    return torch.eye(case.operator.size, dtype=torch.float64).expand(*case.matrix.shape[:-2], -1, -1)
