"""Shared set-up: one torch thread (the problems are tiny), and hypothesis without deadlines on shared machines."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile(
    "metafluence",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("metafluence")

# Tests that share what is dear to make (worlds with their retrainings, finished studies) run in one process.
TOGETHER = ("test_error_budget", "test_certificate", "test_ground_truth", "test_groups", "test_trak")
ALONE = ("test_levels", "test_study", "test_damping_choice", "test_comparison", "test_comparison_report")


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
