"""What is kept between products and passes: graphs of one kind, θ of learners that search for it, no small parts."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from metafluence import BilevelProblem, Point
from metafluence.bilevel.linearisation import Form, Jacobian
from metafluence.runtime import join_rows
from metafluence.testing.problems import random_meta
from parts import EXACT, LEARNERS
from small_problems import tasks

KINDS: list[tuple[Jacobian, Form]] = [("total", "exact"), ("total", "gauss-newton"), ("total", "no-third-order")]


def at(learner: str, memory_gib: float = 2.0) -> Point:
    problem = BilevelProblem(LEARNERS[learner](), tasks(5), 0.1, EXACT)
    return replace(problem, memory_gib=memory_gib).at(random_meta(problem))


def held(shape: tuple[int, ...]) -> int:
    """How many tensors of this shape there are."""
    gc.collect()
    return sum(type(one) is torch.Tensor and tuple(one.shape) == shape for one in gc.get_objects())


@pytest.mark.parametrize("learner", ["maml", "logistic-head", "protonet"])
def test_graphs_of_several_kinds_of_products_do_not_add_up(learner):
    point, columns = at(learner), torch.randn(at(learner).problem.size, 2, dtype=torch.float64)
    alone = [at(learner).hessian(*kind).matmat(columns) for kind in KINDS]
    assert point.chunks.plan.keeps
    sizes = []
    for kind, wanted in zip(KINDS + KINDS, alone + alone, strict=True):
        assert torch.equal(point.hessian(*kind).matmat(columns), wanted)
        (chunk,) = point.chunks.kept
        made = vars(chunk.linearise("total"))
        sizes.append([name for name in ("_first", "_plain", "_pulled", "output_pullback") if name in made])
    assert sizes[:3] == sizes[3:], "what is kept depends on the products before"
    assert sizes[0] == ["_first"]
    assert "_first" not in sizes[1] or learner == "logistic-head"  # its T is a derivative of it


@pytest.mark.parametrize(("learner", "kept"), [("maml", 0), ("ridge-head", 0), ("logistic-head", 1)])
def test_adapted_parameters_are_kept_between_passes_where_tasks_start_from_them(learner, kept):
    point = at(learner, memory_gib=1e-9)
    assert not point.chunks.plan.keeps
    shape = (5, point.learner.adapted_size)
    before = held(shape)
    first, again = point.gradient, point.partial_gradient("total") + point.problem.l2 * point.meta
    assert torch.allclose(first, again, rtol=1e-12)
    assert held(shape) - before == kept


def test_rows_are_joined_as_they_come_and_parts_are_not_kept():
    generator = torch.Generator().manual_seed(0)
    made = [(torch.rand(n, 3, generator=generator), torch.rand(2 * n, generator=generator) > 0.5) for n in (2, 1, 4, 3)]
    given: list[weakref.ref[torch.Tensor]] = []

    def parts():
        for part in made:
            assert not any(one() is not None for one in given[:-2]), "a part is kept"
            copies = [one.clone() for one in part]
            given.extend(weakref.ref(one) for one in copies)
            yield copies
            del copies

    for found, wanted in zip(join_rows(parts()), zip(*made, strict=True), strict=True):
        assert torch.equal(found, torch.cat(wanted))
