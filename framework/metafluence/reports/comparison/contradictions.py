"""Where stores that are reported as one study contradict each other: other numbers, or other code."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from metafluence.evaluation import run_name
from metafluence.studies import Outcome, Stored
from metafluence.tasks import ITEM_NAMES

ROUNDING = 1e-3
"""Numbers of one variation differ by less than this share of the largest on different machines."""
CODE = ("metafluence", "plugin ")
"""What versions of code of ours and of plugins begin with; those of python, torch and numpy may differ."""


def contradictions(stores: Sequence[Stored], labels: Sequence[str]) -> tuple[str, ...]:
    """A sentence for each two stores of one study that are of other code, or that differ in a variation of both."""
    found: list[str] = []
    for (a, ours), (b, theirs) in itertools.combinations(zip(stores, labels, strict=True), 2):
        if ours != theirs:
            continue
        code = list(_other_code(a, b))
        if code:
            found.append(
                f"{a.folder} and {b.folder} were done with other code ({', '.join(code)}), so they are not one study. "
                "Report them one by one, or run one of them anew with the code of the other."
            )
        known = {one.id: one for one in b.outcomes}
        for one in a.outcomes:
            apart = list(_other_numbers(one, known[one.id])) if one.id in known else []
            if apart:
                found.append(
                    f"{a.folder} and {b.folder} contradict each other on {one.called}: {', '.join(apart)} differ. This "
                    f"page shows those of the first. Find out which is right, and report that one alone."
                )
    return tuple(found)


def _other_code(a: Stored, b: Stored) -> Iterator[str]:
    for name in dict.fromkeys([*a.code, *b.code]):
        if a.code.get(name) != b.code.get(name):
            yield name
    for name in dict.fromkeys([*a.versions, *b.versions]):
        ours, theirs = a.versions.get(name), b.versions.get(name)
        if name.startswith(CODE) and ours != theirs:
            yield f"{name} {ours or 'none'} and {theirs or 'none'}"


def _other_numbers(a: Outcome, b: Outcome) -> Iterator[str]:
    """What differs in the numbers of one variation, in words; what failed in one of the two does not contradict."""
    if a.reason or b.reason:
        return
    if _apart([a.full.loss, a.full.accuracy], [b.full.loss, b.full.accuracy]):
        yield "test losses at λ*"
    for level, side in a.sides.items():
        other = b.sides.get(level)
        if other is not None and side.left_out == other.left_out and _apart(side.loss_change, other.loss_change):
            yield f"exact retrainings without single {ITEM_NAMES[level]}"
    known = {(line.row.level, line.row.method, line.row.solver): line for line in b.lines}
    for line in a.lines:
        key = (line.row.level, line.row.method, line.row.solver)
        if key in known and _apart(line.scores, known[key].scores):
            yield f"scores of {ITEM_NAMES[line.row.level]} by {run_name(line.row.method, line.row.solver)}"


def _apart(ours: Sequence[float | None] | Tensor, theirs: Sequence[float | None] | Tensor) -> bool:
    """Whether two lists of numbers differ by more than rounding; where one is empty there is nothing to compare."""
    a, b = (_numbers(values) for values in (ours, theirs))
    if not len(a) or not len(b):
        return False
    if a.shape != b.shape or not torch.equal(a.isfinite(), b.isfinite()):
        return True
    a, b = a[a.isfinite()], b[b.isfinite()]
    return bool(len(a)) and float((a - b).abs().max()) > ROUNDING * float(torch.maximum(a.abs(), b.abs()).max())


def _numbers(values: Sequence[float | None] | Tensor) -> Tensor:
    if isinstance(values, Tensor):
        return values.double()
    return torch.tensor([float("nan") if value is None else value for value in values], dtype=torch.float64)
