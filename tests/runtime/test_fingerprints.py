"""A component's fingerprint follows its code: what it imports of the user's own counts, comments do not."""

import importlib
import sys
import textwrap
from dataclasses import dataclass

import pytest
from torch import nn

from metafluence.runtime.fingerprints import component_fingerprint, module_fingerprint
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
        """,
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


@dataclass(frozen=True)
class Here:
    """A component in a test file."""


def test_the_same_in_every_call():
    assert component_fingerprint(Here()) == component_fingerprint(Here())
