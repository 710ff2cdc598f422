"""Every registered solver runs the conformance suite, and so do the preconditioned ones."""

from pathlib import Path

import pytest

import metafluence as mf
from metafluence.testing import failures, solver_suite

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
del _suite


@pytest.mark.parametrize("name", REGISTRY.names("solver"))
def test_every_registered_solver_is_here(name):
    assert "Test" + name.title().replace("-", "") in globals()


def test_the_example_keeps_the_contract():
    file = Path(__file__).parents[1] / "examples" / "registry.yaml"
    registry = mf.default_registry(file)
    assert failures(registry.build("solver", "steepest")) == []
