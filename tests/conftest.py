"""Shared set-up: one torch thread (the problems are tiny), and examples that are the same on every machine.

`make test` draws the examples of property tests from their names alone; `make test-random` takes the profile `random`,
which draws new ones from the seed that it prints.
"""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much]
settings.register_profile("same", deadline=None, derandomize=True, database=None, suppress_health_check=CHECKS)
settings.register_profile("random", deadline=None, derandomize=False, database=None, suppress_health_check=CHECKS)
settings.load_profile("same")

# Tests that share what is dear to make (worlds with their retrainings, finished studies) run in one process.
TOGETHER = ("test_error_budget", "test_certificate", "test_ground_truth", "test_groups", "test_trak")
ALONE = ("test_levels", "test_study", "test_damping_choice", "test_comparison", "test_comparison_report")


LONGEST = 60  # characters of a text that still names a test


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes, lambdas and long texts are named by their argument: no id holds the content of a file."""
    nameless = isinstance(val, bytes) or getattr(val, "__name__", "") == "<lambda>"
    if nameless or (isinstance(val, str) and (len(val) > LONGEST or not val.isprintable())):
        return argname
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        module = item.path.stem
        if item.cls is not None and item.cls.__name__.startswith("TestMethod"):
            item.add_marker(pytest.mark.xdist_group("worlds"))
        elif module in TOGETHER + ALONE:
            item.add_marker(pytest.mark.xdist_group(module if module in ALONE else "worlds"))


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
