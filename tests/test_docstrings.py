"""The examples in the docstrings of the framework's modules run and print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "framework"

MODULES = sorted(
    ".".join(file.relative_to(SOURCE).with_suffix("").parts)
    for file in SOURCE.rglob("*.py")
    if ">>>" in file.read_text(encoding="utf-8")
)

INTERFACES = [
    "Solver",
    "Preconditioner",
    "LinearOperator",
    "Curvature",
    "MetaLearner",
    "ImplicitLearner",
    "BilevelProblem",
    "AttributionMethod",
    "Executor",
    "Trainer",
    "Dataset",
    "Task",
    "TaskSet",
    "Weights",
    "Registry",
    "Study",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(name)
    # Without `from __future__ import annotations`, which would also hold for the examples.
    names = {key: value for key, value in vars(module).items() if key != "annotations"}
    found = doctest.testmod(module, globs=names, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed, f"python -m doctest {name} shows what differs"


@pytest.mark.parametrize("name", INTERFACES)
def test_an_interface_has_an_example(name):
    assert ">>>" in (getattr(importlib.import_module("metafluence"), name).__doc__ or "")
