"""The suite itself: the same tests and the same examples in every process, at any time, in any folder."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings, strategies as st

ROOT = Path(__file__).resolve().parents[1]

# A clock that is {ahead} seconds ahead.
CLOCK = """
import time
seconds, nanoseconds = time.time, time.time_ns
time.time = lambda: seconds() + {ahead}
time.time_ns = lambda: nanoseconds() + {ahead} * 10**9
"""


def collecting(folder: Path, seed: str, ahead: int) -> subprocess.Popen:
    """Collects the suite with another hash seed, clock and working folder."""
    folder.mkdir()
    (folder / "other_clock.py").write_text(CLOCK.format(ahead=ahead))
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    words = ["-p", "other_clock", "-p", "no:cacheprovider", "-n0", "-q", "--collect-only", "-o", "addopts="]
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *words, "-c", ROOT / "pyproject.toml", "--rootdir", ROOT, ROOT / "tests"],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_ids_have_no_address_and_no_content_in_them(request):
    ids = [item.nodeid for item in request.session.items]
    assert [test for test in ids if not test.isprintable() or " at 0x" in test or len(test) > 400] == []


@pytest.mark.slow
def test_ids_depend_on_neither_process_nor_clock_nor_folder(tmp_path):
    processes = [collecting(tmp_path / seed, seed, ahead) for seed, ahead in (("1", 0), ("2", 10**7 + 1))]
    one, other = ([line for line in process.communicate()[0].splitlines() if "::" in line] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert [pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]] == []
    assert len(one) > 1000


def examples(profile: settings | None = None) -> list[tuple[int, float]]:
    found = []

    @settings(profile or settings.get_profile("same"), max_examples=40)
    @given(st.integers(0, 2**20), st.floats(0, 1e6))
    def draw(number: int, size: float) -> None:
        found.append((number, size))

    draw()
    return found


def test_examples_depend_on_no_module_that_happens_to_be_imported(tmp_path, monkeypatch):
    before = examples()
    file = tmp_path / "constants_of_ours.py"
    file.write_text("\n".join(f"x{i} = {70_001 + i}" for i in range(200)))
    module = ModuleType(file.stem)
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, file.stem, module)
    assert examples() == before


@pytest.mark.parametrize("variable", ["CI", "GITHUB_ACTIONS", "TOX_ENV_DIR"])
def test_examples_are_the_same_on_ci(variable, monkeypatch):
    before = examples()
    monkeypatch.setenv(variable, "true")
    assert examples() == before


def test_the_profiles_keep_nothing_and_only_one_draws_anew():
    same, anew = (settings.get_profile(name) for name in ("same", "random"))
    assert (same.derandomize, anew.derandomize) == (True, False)
    assert same.database is anew.database is None
    assert same.deadline is anew.deadline is None
    assert examples(anew) != examples(anew)
