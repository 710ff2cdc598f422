"""The mathematics, held against finite differences of exact retraining, for every learner and its variants."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st

import metafluence as mf
from how_many import examples
from metafluence.testing import learner_suite
from metafluence.testing.learner_checks import CHECKS, RETRAINING
from metafluence.testing.problems import problems, random_meta
from parts import EXACT, LEARNERS, REAL, TIGHT, VARIANTS


def add(name: str, suite: type) -> None:
    suite.__name__ = suite.__qualname__ = "Test" + name.title().replace("-", "")
    globals()[suite.__name__] = suite


for _name, _learner in LEARNERS.items():
    # Inner minimisation makes imaml's examples ten times as long as others'.
    add(_name, learner_suite(_learner(), examples=1 if _name == "imaml" else 3))
for _name, _learner in (VARIANTS | REAL).items():
    _options = {"examples": 1, "real": _name in REAL}
    add(_name, learner_suite(_learner(), RETRAINING, **_options))
    # Exact retraining takes most of the time.
    _slow = learner_suite(_learner(), set(CHECKS) - set(RETRAINING), **_options)
    _slow.pytestmark = [pytest.mark.slow]
    add(f"{_name}-retraining", _slow)


def test_every_registered_learner_is_here():
    assert set(LEARNERS) == set(mf.default_registry().names("learner"))


@pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS.keys())
@given(data=st.data())
@examples(6)
def test_losses_of_items_are_cross_entropies(learner, data):
    problem = data.draw(problems(learner, EXACT))
    point = problem.at(random_meta(problem))
    each = mf.cross_entropy(point.predictions, problem.tasks.query.targets)
    assert torch.allclose(point.item_losses("query"), each.flatten())
    assert torch.allclose(point.item_losses(), each.mean(dim=1))


@pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS.keys())
@given(data=st.data())
@examples(4)
def test_strong_l2_leaves_only_the_response(learner, data):
    problem = data.draw(problems(learner, EXACT))
    strong = mf.BilevelProblem(problem.learner, problem.tasks, 1e7, EXACT)
    point = strong.at(0.1 * random_meta(problem))
    responses = point.task_gradients()
    found = strong.l2 * mf.solve(TIGHT, point.hessian(), responses).value
    assert float((found - responses).norm() / responses.norm()) < 1e-5


@pytest.mark.parametrize("name", ["ridge-head", "protonet"])
@given(data=st.data())
@examples(8)
def test_both_differentiations_agree(name, data):
    """Through the closed form, and by the implicit function theorem."""
    problem = data.draw(problems(LEARNERS[name], EXACT))
    other = mf.BilevelProblem(
        replace(LEARNERS[name](), differentiation="implicit"), problem.tasks, problem.l2, problem.inner_solver
    )
    assert problem.learner.unrolls
    assert not other.learner.unrolls
    meta = random_meta(problem)
    weights = mf.Weights.ones(problem.tasks).set("task", 0, 0.4).set("query", 1, 0.5).set("support", 0, 0.7)
    one, two = problem.at(meta, weights), other.at(meta, weights)
    columns = torch.randn(problem.size, 4, dtype=torch.float64)
    pairs = {level: (one.responses(level), two.responses(level)) for level in mf.WEIGHED}
    pairs["gradient"] = one.gradient, two.gradient
    for form in ("exact", "no-third-order", "gauss-newton"):
        pairs[form] = tuple(p.hessian(form=form).matmat(columns) for p in (one, two))
    pairs["each"] = tuple(p.product_each(columns[:, :1].expand(-1, len(problem.tasks))) for p in (one, two))
    for what, (found, wanted) in pairs.items():
        assert float((found - wanted).norm()) < 1e-10 * (1 + float(wanted.norm())), what
