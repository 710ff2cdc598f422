"""Shared set-up: one torch thread (the problems are tiny), examples and test ids that are the same on every machine.

`make test` draws the examples of property tests from their ids alone; `make test-random` takes the profile `random`,
which draws new ones from the seed that it prints.
"""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

torch.set_num_threads(1)

# Neither profile keeps examples or has deadlines; CI is a machine like any other.
SHARED = {
    "deadline": None,
    "database": None,
    "print_blob": False,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much],
}
settings.register_profile("same", derandomize=True, **SHARED)
settings.register_profile("random", derandomize=False, **SHARED)
settings.load_profile("same")
if hasattr(providers, "_get_local_constants"):
    # Hypothesis also tries constants from the source of every local module imported so far, so that examples would
    # depend on which tests ran before in the same process.
    providers._get_local_constants = lambda: providers._local_constants

# Tests that share what takes long to make (worlds with their retrainings, finished studies) run in one process.
TOGETHER = {
    "test_error_budget",
    "test_certificate",
    "test_ground_truth",
    "test_groups",
    "test_trak",
    "test_edits",
    "test_tracin",
    "test_refusals",
    "test_method_suite_catches",
    "test_preparation",
}
ALONE = {
    "test_levels",
    "test_study",
    "test_damping_choice",
    "test_comparison",
    "test_comparison_report",
    "test_attribution",
    "test_solver_grid",
    "test_pictures",
}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        module = item.path.stem
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            continue  # a group becomes part of a test's id, and the id part of the seed of its examples
        if module in TOGETHER | ALONE:
            item.add_marker(pytest.mark.xdist_group(module if module in ALONE else "worlds-logistic-head"))


LONGEST = 60  # characters of a text that still names a test


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes, lambdas and long texts are named by their argument: no id holds the content of a file."""
    nameless = isinstance(val, bytes) or getattr(val, "__name__", "") == "<lambda>"
    if nameless or (isinstance(val, str) and (len(val) > LONGEST or not val.isprintable())):
        return argname
    return None


SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real data sets in {SHARED_DATA}, which is not here")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)
