"""A component's fingerprint follows its code: what it imports of the user's own counts, comments do not."""

import importlib
import os
import sys
import textwrap
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn

from metafluence.runtime import source_code
from metafluence.runtime.fingerprints import _describe, component_fingerprint, module_fingerprint
from metafluence_plugins.solvers.cg import CG

FILES = {
    "own_method": """
        '''A method.'''
        from dataclasses import dataclass
        from own_helper import FACTOR
        from own_base import Base

        @dataclass(frozen=True)
        class Method(Base):
            '''Scores.'''
            size: int = 1

            def scores(self):
                return FACTOR * self.size  # a comment

            def later(self):
                import own_lazy

                return own_lazy.TWO
        """,
    "own_lazy": "TWO = 2.0\n",
    "own_helper": "import own_deeper\nFACTOR = own_deeper.ONE\n",
    "own_deeper": "ONE = 1.0\n",
    "own_base": "class Base:\n    def sign(self):\n        return 1\n",
}


@pytest.fixture
def fingerprint(tmp_path, monkeypatch):
    """Write the files with some text replaced, import the method anew, and give its fingerprint."""
    monkeypatch.syspath_prepend(str(tmp_path))
    count = 0

    def make(name: str = "", old: str = "", new: str = "", **fields) -> str:
        nonlocal count
        count += 1
        folder = tmp_path / str(count)
        folder.mkdir()
        for file, written in FILES.items():
            text = textwrap.dedent(written).lstrip()
            assert file != name or old in text
            (folder / f"{file}.py").write_text(text.replace(old, new) if file == name else text)
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
        try:
            for file in FILES:
                sys.modules.pop(file, None)
            return component_fingerprint(importlib.import_module("own_method").Method(**fields))
        finally:
            sys.path.remove(str(folder))

    yield make
    for file in FILES:
        sys.modules.pop(file, None)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("own_method", "FACTOR * self.size", "-FACTOR * self.size"),
        ("own_helper", "own_deeper.ONE", "-own_deeper.ONE"),
        ("own_deeper", "1.0", "-1.0"),
        ("own_base", "return 1", "return -1"),
        ("own_lazy", "2.0", "3.0"),
    ],
)
def test_code_that_is_used_counts(fingerprint, name, old, new):
    assert fingerprint(name, old, new) != fingerprint()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("own_method", "# a comment", "# another"),
        ("own_method", "'''Scores.'''", "'''Scores of items.'''"),
        ("own_helper", "FACTOR =", "\n\nFACTOR  ="),
    ],
    ids=["comment", "docstring", "layout"],
)
def test_what_changes_nothing_does_not_count(fingerprint, name, old, new):
    assert fingerprint(name, old, new) == fingerprint()


def test_settings_count(fingerprint):
    assert fingerprint(size=2) != fingerprint() == fingerprint(size=1)
    assert component_fingerprint(CG(rtol=1e-3)) != component_fingerprint(CG()) == component_fingerprint(CG())


def test_a_module_s_code_counts(fingerprint):
    class Twice(nn.Linear):
        def forward(self, inputs):
            return 2 * super().forward(inputs)

    assert module_fingerprint(nn.Linear(2, 2)) == module_fingerprint(nn.Linear(2, 2))
    plain, twice = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(Twice(2, 2))
    assert module_fingerprint(plain) != module_fingerprint(twice)


def double(x):
    return 2 * x


def triple(x):
    return 3 * x


@dataclass(frozen=True)
class Here:
    """A component in a test file."""

    of: object = None


def test_the_same_in_every_call():
    assert component_fingerprint(Here()) == component_fingerprint(Here())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (double, triple),
        (partial(double, x=1), partial(double, x=2)),
        (torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
        ([double], [triple]),
        ({"f": double}, {"f": triple}),
        (dict, list),
    ],
    ids=["function", "partial", "tensor", "list", "mapping", "class"],
)
def test_settings_of_any_kind_count_and_hold_no_address(one, other):
    assert component_fingerprint(Here(one)) != component_fingerprint(Here(other))
    assert " at 0x" not in _describe(Here(one))


def test_a_folder_beside_the_installed_one_is_the_user_s(tmp_path, monkeypatch):
    monkeypatch.setattr(source_code, "INSTALLED", (tmp_path / "packages",))
    assert not source_code._is_users(tmp_path / "packages" / "one.py")
    assert source_code._is_users(tmp_path / "packages-of-mine" / "one.py")


def test_a_file_that_changes_within_the_clock_s_tick_is_seen(tmp_path):
    file = tmp_path / "own.py"
    found = []
    for content in ("A = 1\n", "A = 2\n"):
        file.write_text(content)
        os.utime(file, (1, 1))
        files = {}
        source_code._collect(str(file), "", files)
        found.append(files)
    assert found[0] != found[1]
