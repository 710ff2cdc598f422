"""Every registered solver and method runs its conformance suite, and so do the preconditioned solvers."""

from pathlib import Path

import pytest

import metafluence as mf
from metafluence.testing import failures, learner_failures, learner_suite, method_failures, method_suite, solver_suite
from parts import LEARNERS
from refusals import refused

REGISTRY = mf.default_registry()
# Steps that suffice for these operators, where the defaults are made for larger ones.
STEPS = {"lissa": {"iterations": 400, "parts": 4}, "neumann": {"max_iterations": 2000}}
SUBJECTS = {name: {"use": name, **STEPS.get(name, {})} for name in REGISTRY.names("solver")} | {
    f"{solver}-with-{part}": {"use": solver, "preconditioner": part, **STEPS.get(solver, {})}
    for solver in ("cg", "minres", "neumann", "lissa")
    for part in REGISTRY.names("preconditioner")
    if part != "ek-fac"  # it fits the layered operators only; test_ek_fac has its own tests
}

# The series with a preconditioner are held against dense solves in linalg/test_preconditioned_series.py, too.
LONG = ("lissa-with-nystrom", "neumann-with-nystrom", "minres-with-nystrom")

for _name, _spec in SUBJECTS.items():
    _suite = solver_suite(REGISTRY.build("solver", _spec), examples=1)
    _suite.__name__ = _suite.__qualname__ = "Test" + _name.title().replace("-", "")
    if _name in LONG:
        _suite.pytestmark = [pytest.mark.slow]
    elif _name == "lissa":  # many steps of a series, for every check
        _suite.test_contract = pytest.mark.slow(_suite.test_contract)
    globals()[_suite.__name__] = _suite

# A place in an order: the second of two twins comes late, and an item without effect has a place, too.
OF_PLACES = ("sign", "order", "twins", "silent")
# What a method does not claim; how often, and in how many worlds, it is tried where that takes long. Random scores
# depend on nothing; an item's own loss does not claim to follow retraining, nor that an item without effect has none.
METHODS = {
    "random": {"skip": ("sign", "order", "twins", "silent")},
    "loss": {"skip": ("sign", "silent")},
    # That chunks change nothing is shown of the objective that it minimises, at a fraction of the time.
    "retrain": {"examples": 1, "skip": ("chunks",)},
    "grad-ascent": {"examples": 1, "worlds": 1},
    "paper": {"examples": 1},
    "run-influence": {"examples": 1},
    "source": {"examples": 1},
    "tracin-along": {"use": "tracin", "along": "run", "examples": 1, "worlds": 1},
    "leave-out": {"use": "influence", "leave_out": True, "solver": "exact", "examples": 1, "worlds": 1},
    "leave-out-of-edits": {"use": "influence", "leave_out": "edits", "solver": "exact", "examples": 1, "worlds": 1},
    "rescaled": {"use": "task-if", "leave_out": "rescaled", "solver": "exact", "examples": 1},
    # The cosine of rounding with rounding is no zero.
    "cosine": {"use": "gradient-similarity", "kind": "cosine", "examples": 1, "skip": ("silent",)},
    "gradient-matching": {"examples": 1, "skip": OF_PLACES},
    "matching-each": {"use": "gradient-matching", "match": "each", "examples": 1, "skip": OF_PLACES},
    "matching-targets": {"use": "gradient-matching", "match": "targets", "examples": 1, "skip": OF_PLACES},
    "trak-gaussian": {"use": "trak", "projection": "gaussian", "models": "checkpoints", "examples": 1},
}
# Learners of other kinds: a closed form and steps, which are differentiated through, and an implicit one in one space.
# Direct-IF and EKFAC-IF are wrong on purpose where a whole network adapts: there they follow retraining by chance.
ELSEWHERE = {
    "ridge-head": ("influence", "leave-out", "rescaled", "paper", "direct-if", "tracin", "trak", "grad-ascent"),
    "maml": ("influence", "leave-out", "rescaled", "paper", "tlxml", "tracin", "trak", "run-influence"),
    "imaml": ("influence", "paper", "tlxml", "tracin", "trak", "loss"),
}
# The same code as `influence`, by other names or with other parts, or what takes long; all have tests of their own.
SLOW = ("task-if", "instance-if", "leave-out", "leave-out-of-edits", "paper", "tracin-along", "grad-ascent", "retrain")
# Elsewhere what differentiates through adaptation is quick; what else a method does is its own, whatever the learner.
QUICK_ELSEWHERE = {"ridge-head": ("influence", "direct-if"), "maml": ("influence",), "imaml": ("loss",)}
for _learner, _names in {"logistic-head": dict.fromkeys([*REGISTRY.names("method"), *METHODS]), **ELSEWHERE}.items():
    for _name in _names:
        _spec = {"use": _name, **METHODS.get(_name, {})}
        _options = {key: _spec.pop(key) for key in ("skip", "examples", "worlds") if key in _spec}
        _options |= {} if _learner == "logistic-head" else {"examples": 1, "learner": _learner, "worlds": 1}
        _suite = method_suite(REGISTRY.build("method", _spec), **_options)
        _suite.__name__ = _suite.__qualname__ = "TestMethod" + f"{_name}-{_learner}".title().replace("-", "")
        _suite.pytestmark = [pytest.mark.xdist_group(f"worlds-{_learner}")]  # worlds are shared in one process
        if _name in SLOW if _learner == "logistic-head" else _name not in QUICK_ELSEWHERE[_learner]:
            _suite.pytestmark.append(pytest.mark.slow)
        elif _learner != "logistic-head" or _name == "run-influence":  # retraining, or replaying, takes long
            _suite.test_in_all_worlds = pytest.mark.slow(_suite.test_in_all_worlds)
        globals()[_suite.__name__] = _suite
del _suite


@pytest.mark.parametrize("name", REGISTRY.names("solver"))
def test_every_registered_solver_is_here(name):
    assert "Test" + name.title().replace("-", "") in globals()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: method_suite(mf.build("method", "loss"), skip={"sgin"}), "Unknown check of methods 'sgin'. .* 'sign'"),
        (lambda: method_suite(mf.build("method", "loss"), skip="sgin"), "Unknown check of methods 'sgin'. .* 'sign'"),
        (
            lambda: method_suite(mf.build("method", "loss"), learner="mamml"),
            "Unknown learner of worlds 'mamml'. .*'maml'",
        ),
        (lambda: method_failures(mf.build("method", "loss"), ["ordr"]), "Unknown check of methods 'ordr'. .*'order'"),
        (
            lambda: learner_suite(LEARNERS["joint"](), skip=["abscence"]),
            "Unknown check of learners 'abscence'. .*absence",
        ),
        (
            lambda: learner_failures(LEARNERS["joint"](), ["abscence"]),
            "Unknown check of learners 'abscence'. .*absence",
        ),
    ],
)
def test_a_check_that_there_is_not_is_refused(ask, message):
    with refused(message):
        ask()


def test_the_examples_keep_the_contract():
    file = Path(__file__).parents[2] / "examples" / "registry.yaml"
    registry = mf.default_registry(file)
    assert failures(registry.build("solver", "steepest")) == []
    small = {"use": "bias-head", "backbone": {"use": "mlp", "hidden": [2]}}
    assert learner_failures(registry.build("learner", small), examples=1) == []
