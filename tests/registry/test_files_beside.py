"""Local components that import files beside them, and what stands in the way of that."""

import sys
from pathlib import Path

import pytest
from joblib import Parallel, delayed

from metafluence import RegistryError, default_registry
from metafluence.runtime.fingerprints import component_fingerprint
from refusals import refused

MINE = """
from dataclasses import dataclass
from metafluence import Solver
from {helper} import FACTOR, Base

@dataclass(frozen=True)
class Mine(Base):
    steps: int = 3

    def scaled(self):
        from {helper}_late import MORE
        return FACTOR * self.scale * MORE
"""
HELPER = """
from dataclasses import dataclass
from metafluence import Applied, Solver
import {helper}_deep

FACTOR = {helper}_deep.FACTOR

@dataclass(frozen=True)
class Base(Solver):
    scale: float = 0.5

    def prepare(self, operator, damping, generator):
        return operator

    def apply(self, state, rhs, generator):
        raise NotImplementedError

    def tolerance(self, dtype):
        return 1.0
"""


def write(folder: Path, helper: str, mine: str = MINE, factor: str = "4.0"):
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(mine.replace("{helper}", helper))
    (folder / f"{helper}.py").write_text(HELPER.replace("{helper}", helper))
    (folder / f"{helper}_deep.py").write_text(f"FACTOR = {factor}\n")
    (folder / f"{helper}_late.py").write_text("MORE = 2.0\n")
    (folder / "registry.yaml").write_text("components: {solver: {mine: {at: './mine.py:Mine', about: x}}}")
    return default_registry(folder=folder)


@pytest.fixture(autouse=True)
def _path():
    before, known = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = before
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_a_component_imports_files_beside_it_also_when_it_is_called(tmp_path):
    registry = write(tmp_path, "aid_one")
    assert [(p.name, p.default) for p in registry.entry("solver", "mine").parameters()] == [
        ("scale", "0.5"),
        ("steps", "3"),
    ]
    assert registry.build("solver", {"use": "mine", "scale": 0.25}).scaled() == 2.0


def test_it_travels_to_other_processes_with_them(tmp_path):
    solver = write(tmp_path, "aid_two").build("solver", "mine")
    (tmp_path / "aid_two.py").unlink()
    (tmp_path / "aid_two_deep.py").unlink()
    assert Parallel(n_jobs=2)(delayed(_factor)(solver) for _ in range(2)) == [4.0] * 2


def _factor(solver):
    return type(solver).scaled.__globals__["FACTOR"]


def test_its_fingerprint_covers_them(tmp_path):
    prints = []
    for factor in ("4.0", "4.0  # a comment", "-4.0"):
        before, known = list(sys.path), set(sys.modules)
        prints.append(component_fingerprint(write(tmp_path, "aid_three", factor=factor).build("solver", "mine")))
        sys.path[:] = before
        for name in set(sys.modules) - known:
            del sys.modules[name]
    assert prints[0] == prints[1] != prints[2]


def test_another_module_of_the_name_is_not_taken_for_the_file(tmp_path):
    write(tmp_path / "a", "aid_four").build("solver", "mine")
    with refused(r"mine.py imports aid_four, and there is .*b/aid_four.py; but .* \(.*a/aid_four.py\)", RegistryError):
        write(tmp_path / "b", "aid_four").build("solver", "mine")
    mine = "import json\n" + MINE
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "json.py").write_text("")
    with refused(r"imports json, and there is .*c/json.py; but Python knows another", RegistryError):
        write(tmp_path / "c", "aid_five", mine).build("solver", "mine")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "import no_such_thing",
            "ModuleNotFoundError.*Install the package that has no_such_thing, or put no_such_thing.py",
        ),
        ("from .aid_six import FACTOR", "write `from helper import name`, without the point"),
    ],
)
def test_what_cannot_be_imported_says_how_to_fix_it(tmp_path, line, message):
    with refused(rf"Importing the solver 'mine' .*mine.py, line 1\)\. .*{message[-40:]}", RegistryError):
        write(tmp_path, "aid_six", f"{line}\n{MINE}").build("solver", "mine")
