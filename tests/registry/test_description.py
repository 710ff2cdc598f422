"""What is read from a component's source is what the class has."""

import dataclasses
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from metafluence import RegistryError, default_registry
from metafluence.registry.description import Parameter, describe, source_of
from metafluence.registry.importing import import_class

SHIPPED = default_registry()
ENTRIES = [entry for kind in SHIPPED.kinds() for entry in SHIPPED.entries(kind)]

ODD = '''
from dataclasses import dataclass, field, InitVar
from typing import ClassVar, Generic, TypeVar
import typing

T = TypeVar("T")

class Loose:
    not_a_field: int = 3

@dataclass(frozen=True)
class Base(Generic[T]):
    first: int = 1
    taken_back: int = 2
    widened: int = 3

@dataclass(frozen=True)
class Odd(Loose, Base[int]):
    """One line.

    More.
    """

    needed: str = field(kw_only=True)
    widened: "float | None" = None
    taken_back: int = field(init=False, default=5)
    shared: ClassVar[int] = 3
    quoted: "typing.ClassVar[int]" = 3
    once: InitVar[int] = 3
    made: dict = field(default_factory=dict)
    set: int = field(default=4)
'''


CORE = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Deep:
    size: int = 2
"""


def write(folder: Path, text: str, name: str = "part.py") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(text))
    return file


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.kind}-{e.name}")
def test_shipped_components_read_as_they_are(entry):
    cls = import_class(entry.at, entry.name)
    fields = [f for f in dataclasses.fields(cls) if f.init]
    described = describe(entry.at).parameters
    scope = {k: v for base in reversed(cls.__mro__) for k, v in vars(sys.modules[base.__module__]).items()}
    assert [p.name for p in described] == [f.name for f in fields]
    assert [p.type for p in described] == [f.type for f in fields]  # texts, as annotations are postponed
    for parameter, field in zip(described, fields, strict=True):
        if field.default is not dataclasses.MISSING and parameter.default is not None:
            assert eval(parameter.default, scope) == field.default


def test_what_is_no_parameter_is_left_out(tmp_path):
    file = write(tmp_path, ODD)
    found = describe(f"{file}:Odd")
    assert found.documentation.startswith("One line.")
    assert found.parameters == (
        Parameter("first", "int", "1"),
        Parameter("widened", "float | None", "None"),
        Parameter("needed", "str", None),
        Parameter("made", "dict", "dict"),
        Parameter("set", "int", "4"),
    )
    cls = import_class(f"{file}:Odd", "a test")
    assert {p.name for p in found.parameters} == {f.name for f in dataclasses.fields(cls) if f.init}


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.integers()), max_size=8))
def test_a_subclass_reads_as_dataclasses_read_it(tmp_path_factory, drawn):
    """Any fields, spread over a base and a subclass, overriding each other."""
    halves = [
        [f"    {name}: int = {number}" for name, first, number in drawn if first == half] for half in (True, False)
    ]
    base, sub = ("\n".join(half) or "    pass" for half in halves)
    frame = "@dataclass(frozen=True)\nclass"
    text = f"from dataclasses import dataclass\n{frame} Base:\n{base}\n{frame} Sub(Base):\n{sub}\n"
    file = write(tmp_path_factory.mktemp("drawn"), text)
    fields = dataclasses.fields(import_class(f"{file}:Sub", "a test"))
    described = describe(f"{file}:Sub").parameters
    assert [(p.name, p.default) for p in described] == [(f.name, str(f.default)) for f in fields]


def test_a_class_that_a_package_hands_on_is_found(tmp_path, monkeypatch):
    package = tmp_path / "handing"
    write(package, "from .inner import Between as Shown\n", "__init__.py")
    write(package, "from handing.inner.core import Deep as Between\n", "inner/__init__.py")
    write(package, CORE, "inner/core.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert describe("handing:Shown").parameters == (Parameter("size", "int", "2"),)
    write(tmp_path, "from ..far import Gone\n", "reaching.py")
    with pytest.raises(RegistryError, match="leads out of its package"):
        describe("reaching:Gone")


def test_modules_that_hand_a_class_to_each_other_end(tmp_path, monkeypatch):
    write(tmp_path, "from ring_b import X\n", "ring_a.py")
    write(tmp_path, "from ring_a import X\n", "ring_b.py")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RegistryError, match="has no class 'X'"):
        describe("ring_a:X")


def test_a_coding_line_is_obeyed(tmp_path):
    file = tmp_path / "old.py"
    file.write_bytes('# -*- coding: latin-1 -*-\nclass Old:\n    """Caf\u00e9."""\n'.encode("latin-1"))
    assert describe(f"{file}:Old").documentation == "Caf\u00e9."


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("class Here: pass\n", "part.py:There", "no class 'There'; it has Here"),
        ("class (:\n", "part.py:There", r"part\.py, line 1: .*Correct the file"),
        ("a\0b", "part.py:There", "Correct the file"),
        ("", "gone.py:There", r"There is no file .*gone\.py"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, text, at, message):
    (tmp_path / "part.py").write_text(text)
    with pytest.raises(RegistryError, match=message):
        describe(f"{tmp_path / at}")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("no_such_module_here", "There is no module no_such_module_here"),
        ("", "There is no module"),
        ("math", "no Python source"),
        ("raising_parent.child", "cannot be imported: RuntimeError: no licence"),
    ],
)
def test_a_module_that_cannot_be_found_says_why(tmp_path, monkeypatch, module, message):
    write(tmp_path, "raise RuntimeError('no licence')", "raising_parent/__init__.py")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RegistryError, match=message):
        source_of(module)


def test_reading_imports_neither_the_component_nor_torch():
    code = """
import sys
from metafluence import default_registry
registry = default_registry()
for entry in [e for kind in registry.kinds() for e in registry.entries(kind)]:
    entry.parameters()
    entry.documentation()
assert "torch" not in sys.modules
assert not [m for m in sys.modules if m.startswith("metafluence_plugins.") and m.count(".") > 1]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
