"""Freed memory is used again."""

import subprocess
import sys

import pytest

import metafluence as mf

COUNT = """
import resource, sys, torch
import metafluence as mf
if sys.argv[1] == "keep":
    assert mf.keep_freed_memory()
torch.set_num_threads(1)
network = torch.nn.Sequential(torch.nn.Conv2d(1, 32, 3), torch.nn.SiLU(), torch.nn.Conv2d(32, 32, 3), torch.nn.SiLU())
images = torch.randn(40, 1, 28, 28)


def work():
    for _ in range(12):
        network(images).square().mean().backward()


work()  # what is fetched once is not counted
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    found = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True)
    return int(found.stdout)


def test_memory_that_was_freed_is_not_fetched_again():
    if not mf.keep_freed_memory():
        pytest.skip("needs glibc, whose malloc can be told so")
    assert faults("keep") < 0.6 * faults("give back")
