"""The suite is the same in every process: other hash seed, other clock, same tests in the same order."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# A pytest plugin that moves the clock before anything is imported.
CLOCK = """
import time
usual = time.time
time.time = lambda: usual() + 86_400 * 400 + 3_601
"""


def test_two_processes_collect_the_same_tests(tmp_path):
    (tmp_path / "other_clock.py").write_text(CLOCK, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts=--strict-markers"]
    command += ["-p", "no:cacheprovider", "-n0"]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    running = []
    for seed, more in (("1", []), ("2", ["-p", "other_clock"])):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        started = subprocess.Popen(
            [*command, *more], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        running.append(started)
    first, second = ([line for line in p.communicate()[0].splitlines() if "::" in line] for p in running)
    assert len(first) > 1000
    assert first == second
    assert all(line.isprintable() for line in first)
