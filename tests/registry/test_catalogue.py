"""Catalogues of the user's own: what is refused, and that a one-file component works anywhere."""

import itertools
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import cloudpickle
import pytest
from hypothesis import given, strategies as st
from joblib import Parallel, delayed

from metafluence import ConfigError, InputError, RegistryError, UnknownNameError, default_registry, package_files
from metafluence.registry.registry import PROGRAM, Registry
from metafluence_plugins.solvers.cg import CG
from refusals import refused

PART = '''
from __future__ import annotations
from dataclasses import dataclass, field
from metafluence import Backbone

@dataclass(frozen=True)
class Part(Backbone):
    """Two lines
    of summary.

    And more.
    """

    size: int = 2

    def __post_init__(self):
        if self.size < 0:
            raise ValueError("size must not be negative")

    def module(self, input_shape, outputs):
        return helper(self.size)

def helper(size):
    return 10 * size
'''


def overlay(folder: Path, text: str | bytes, part: str = PART) -> Registry:
    (folder / "part.py").write_text(part)
    file = folder / "registry.yaml"
    file.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
    return default_registry(folder=folder)


MINE = "components: {backbone: {mine: {at: './part.py:Part', about: x}}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("disabled: {method: random}", "disabled.method is 'random'; a list of names is expected"),
        ("disabled: {method: }", "disabled.method is None; a list of names"),
        ("disabled: {method: [3]}", "a list of names is expected"),
        ("disabled: {methods: [random]}", "Did you mean 'method'"),
        ("disabled: {method: [randm]}", "disabled.method: Unknown method 'randm'. Did you mean 'random'"),
        ("interfaces: {thing: {about: x}}", "interfaces.thing: say {at: module:Class"),
        ("interfaces: {thing: x}", "interfaces.thing: say {at: module:Class"),
        ("interfaces: {solver: {at: 'a:B', about: x}}", "the kind 'solver', which exists already"),
        ("components: {backbone: {3: './part.py:Part'}}", "the name '3' is no text, put it in quotes"),
        ("components: {backbone: {on: './part.py:Part'}}", "the name 'on' is no text"),
        ("components: {solver: {a: {use: [cg]}}}", r"use is ['cg']; the name of one component"),
        ("components: {solver: {a: {use: cg, at: 'x:Y'}}}", "not both"),
        ("components: {solver: {a: {use: cgg}}}", "components.solver.a: Unknown solver 'cgg'. Did you mean 'cg'"),
        ("components: {solver: {a: {use: a}}}", "components.solver.a: Unknown solver 'a'"),
        ("components: {backbone: {m: {at: './part.py:Part', about: 3}}}", "about is 3; one line of text"),
        ("components: {backbone: {mlp: {at: './part.py:Part', override: 'no'}}}", "override is 'no'; true or false"),
        ("components: {solver: {a: {use: cg, override: 1}}}", "override is 1; true or false"),
        (
            "components:\n  backbone:\n    m: './part.py:Part'\n    m: './part.py:Part'\n",
            "'m' stands here for the second",
        ),
        ("false", "The file is False; a mapping"),
        ("components: !!python/object:x.y {}", "not valid YAML"),
        (b"# caf\xe9\n", "not valid YAML"),
    ],
)
def test_a_wrong_catalogue_names_the_file_and_what_is_wrong(tmp_path, text, message):
    with refused(f"{re.escape(str(tmp_path / 'registry.yaml'))}.*{re.escape(message)}", RegistryError):
        overlay(tmp_path, text)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "components:\n", "components: {solver: }\ndisabled:\n"])
def test_an_empty_catalogue_changes_nothing(tmp_path, text):
    assert overlay(tmp_path, text).entries() == default_registry().entries()


def test_disabling_twice_is_no_error_and_overriding_brings_a_name_back(tmp_path):
    assert "random" not in overlay(tmp_path, "disabled: {method: [random, random]}").names("method")
    registry = overlay(tmp_path, "disabled: {solver: [cg]}")
    with pytest.raises(UnknownNameError, match="It was disabled in"):
        registry.build("solver", "cg")
    registry.add("solver", "cg", at="metafluence_plugins.solvers.cg:CG", about="back")
    assert registry.build("solver", "cg") == CG()


def test_origin_of_what_a_program_adds_is_the_program():
    registry = default_registry()
    registry.add("solver", "mine", at="metafluence_plugins.solvers.cg:CG")
    assert registry.entry("solver", "mine").origin == PROGRAM
    with pytest.raises(RegistryError, match=f"^{PROGRAM} registers .* which metafluence .* has already"):
        registry.add("solver", "cg", at="metafluence_plugins.solvers.cg:CG")


def test_a_path_added_by_a_program_does_not_move_with_it(tmp_path, monkeypatch):
    (tmp_path / "part.py").write_text(PART)
    monkeypatch.chdir(tmp_path)
    registry = default_registry()
    registry.add("backbone", "mine", at="./part.py:Part")
    monkeypatch.chdir("/")
    assert registry.build("backbone", {"use": "mine", "size": 4}).size == 4


def test_about_is_the_whole_first_paragraph(tmp_path):
    registry = overlay(tmp_path, "components: {backbone: {mine: './part.py:Part'}}")
    assert registry.entry("backbone", "mine").about == "Two lines of summary."


@given(st.permutations(["a", "b", "c"]))
def test_presets_stand_on_each_other_in_any_order(tmp_path_factory, order):
    presets = {"a": "{use: cg, rtol: 1e-3}", "b": "{use: a, max_iterations: 5}", "c": "{use: b, rtol: 1e-4}"}
    text = "".join(f"    {name}: {presets[name]}\n" for name in order)
    registry = overlay(tmp_path_factory.mktemp("presets"), f"components:\n  solver:\n{text}")
    assert registry.build("solver", "c") == CG(1e-4, 5)
    assert registry.entry("solver", "c").about == "b with rtol=0.0001"


def test_an_overlay_file_comes_after_the_folder(tmp_path):
    (tmp_path / "more.yaml").write_text("components: {solver: {finer: {use: fine, max_iterations: 3}}}")
    (tmp_path / "registry.yaml").write_text("components: {solver: {fine: {use: cg, rtol: 1e-11}}}")
    registry = default_registry(overlay=tmp_path / "more.yaml", folder=tmp_path)
    assert registry.build("solver", "finer") == CG(1e-11, 3)
    # Named twice, a file is read once.
    assert "fine" in default_registry(overlay=tmp_path / "registry.yaml", folder=tmp_path).names("solver")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("(frozen=True)", ""), "not frozen. Put @dataclass"),
        (("@dataclass(frozen=True)\n", ""), "no dataclass. Put @dataclass"),
        (("def module", "def modul"), "lacks what its interface asks for: module"),
        (("size: int", "size: Unknown"), "type of a parameter cannot be read: name 'Unknown' is not defined"),
    ],
)
def test_a_class_that_is_no_component_says_what_to_write(tmp_path, change, message):
    with refused(f"{re.escape(str(tmp_path / 'part.py'))}.*{re.escape(message)}", RegistryError):
        overlay(tmp_path, MINE, PART.replace(*change)).load("backbone", "mine")


def test_a_subclass_without_the_decorator_would_lose_its_fields(tmp_path):
    source = PART + "\nclass More(Part):\n    extra: int = 3\n"
    registry = overlay(tmp_path, MINE.replace(":Part", ":More"), source)
    with pytest.raises(RegistryError, match="no dataclass"):
        registry.load("backbone", "mine")


def test_a_refusal_of_the_component_itself_says_whose_it_is(tmp_path):
    registry = overlay(tmp_path, MINE)
    with pytest.raises(ConfigError, match=r"backbone \(mine, .*registry.yaml\) refuses .*size must not be negative"):
        registry.build("backbone", {"use": "mine", "size": -1})
    with pytest.raises(ConfigError, match="Give a name, or a mapping"):
        registry.build("backbone", {"use": "mine", 3: 4})


def test_an_unknown_nested_name_says_who_asked():
    with pytest.raises(InputError, match=r"Unknown backbone 'mpl'.*asked for by learner\.backbone"):
        default_registry().build("learner", {"use": "imaml", "backbone": "mpl"})


def used(part) -> tuple[str, int]:
    return type(part).__name__, part.module(None, None)


def test_a_local_component_is_used_in_a_loky_worker(tmp_path):
    """With what its file defines beside it, which the worker cannot import."""
    part = overlay(tmp_path, MINE).build("backbone", {"use": "mine", "size": 3})
    assert Parallel(n_jobs=2, backend="loky")(delayed(used)(part) for _ in range(3)) == [("Part", 30)] * 3


def test_a_local_component_is_used_in_a_fresh_process_without_its_file(tmp_path):
    part = overlay(tmp_path, MINE).build("backbone", {"use": "mine", "size": 3})
    pickled = tmp_path / "part.pickle"
    pickled.write_bytes(cloudpickle.dumps(part))
    (tmp_path / "part.py").unlink()
    code = f"""
import pickle
part = pickle.load(open({str(pickled)!r}, "rb"))
assert part.module(None, None) == 30
from metafluence import Backbone
assert isinstance(part, Backbone)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_of_one_name_in_two_folders_stay_apart(tmp_path):
    built = []
    for number, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        registry = overlay(tmp_path / folder, MINE, PART.replace("10 *", f"{number} +"))
        built.append(registry.build("backbone", "mine"))
    assert [b.module(None, None) for b in built] == [2, 3]
    assert len({type(b) for b in built}) == 2
    again = default_registry(folder=tmp_path / "a").build("backbone", "mine")
    assert again == built[0]


def test_a_resource_is_found_in_a_wheel_and_in_a_checkout(tmp_path, monkeypatch):
    assert package_files.resource("registry.yaml").is_file()
    assert package_files.resource("studies/digits.yaml").is_file()
    package = tmp_path / "root" / "framework" / "metafluence"
    package.mkdir(parents=True)
    monkeypatch.setattr(package_files, "PACKAGE", package)
    for place in (package.parents[1], package):  # the checkout, then the wheel, which comes first
        (place / "registry.yaml").write_text("")
        assert package_files.resource("registry.yaml") == place / "registry.yaml"
    with pytest.raises(RegistryError, match=r"lacks its file nothing\.yaml"):
        package_files.resource("nothing.yaml")


def test_shipped_names_are_plain():
    for entry in default_registry().entries():
        assert entry.name == entry.name.lower()
        assert not set(itertools.chain(entry.name)) & set(" _./:")
