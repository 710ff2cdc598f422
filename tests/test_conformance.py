"""Every registered solver and method runs its conformance suite, and so do the preconditioned solvers."""

from pathlib import Path

import pytest

import metafluence as mf
from metafluence.testing import failures, learner_failures, method_suite, solver_suite

REGISTRY = mf.default_registry()
SUBJECTS = {name: {"use": name} for name in REGISTRY.names("solver")} | {
    f"{solver}-with-{part}": {"use": solver, "preconditioner": part}
    for solver in ("cg", "minres")
    for part in REGISTRY.names("preconditioner")
    if part != "ek-fac"  # it fits the layered operators only; test_ek_fac has its own tests
}

for _name, _spec in SUBJECTS.items():
    _suite = solver_suite(REGISTRY.build("solver", _spec))
    _suite.__name__ = _suite.__qualname__ = "Test" + _name.title().replace("-", "")
    globals()[_suite.__name__] = _suite

METHODS = {
    # Random scores depend on nothing; an item's own loss does not claim to follow retraining.
    "random": {"skip": ("sign", "order", "twins")},
    "loss": {"skip": ("sign",)},
    # That chunks change nothing is shown of the objective that it minimises, at a fraction of the time.
    "retrain": {"examples": 1, "skip": ("chunks",)},
    "grad-ascent": {"examples": 1},
}
for _name in REGISTRY.names("method"):
    _suite = method_suite(REGISTRY.build("method", _name), **METHODS.get(_name, {}))
    _suite.__name__ = _suite.__qualname__ = "TestMethod" + _name.title().replace("-", "")
    globals()[_suite.__name__] = _suite
for _name, _spec in {
    "leave-out": {"use": "influence", "leave_out": True, "solver": "exact"},
    "cosine": {"use": "gradient-similarity", "kind": "cosine"},
    "trak-gaussian": {"use": "trak", "projection": "gaussian", "models": "checkpoints"},
}.items():
    _suite = method_suite(REGISTRY.build("method", _spec), examples=1)
    _suite.__name__ = _suite.__qualname__ = "TestMethod" + _name.title().replace("-", "")
    globals()[_suite.__name__] = _suite
del _suite


@pytest.mark.parametrize("name", REGISTRY.names("solver"))
def test_every_registered_solver_is_here(name):
    assert "Test" + name.title().replace("-", "") in globals()


def test_the_examples_keep_the_contract():
    file = Path(__file__).parents[1] / "examples" / "registry.yaml"
    registry = mf.default_registry(file)
    assert failures(registry.build("solver", "steepest")) == []
    small = {"use": "bias-head", "backbone": {"use": "mlp", "hidden": [2]}}
    assert learner_failures(registry.build("learner", small)) == []
