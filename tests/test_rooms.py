"""The structure: imports run one way, plugins use the public API, docs/api.md lists it, files stay short."""

import ast
import re
from functools import cache
from pathlib import Path
from types import FunctionType

import pytest

import metafluence as mf

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "framework" / "metafluence"
FRAMEWORK = sorted(set(SOURCE.rglob("*.py")) - {SOURCE / "__main__.py"})
PLUGINS = sorted((ROOT / "plugins" / "metafluence_plugins").rglob("*.py"))
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")

# The rooms, lowest first, as the map in docs/design.md has them.
ROOMS = re.findall(r"^\| `([a-z_/]+)` \|", DESIGN.partition("## The rooms")[2].partition("\n## ")[0], re.MULTILINE)


def room(file: Path) -> str:
    """The folder of a file, or its own name where it lies at the top."""
    inside = file.relative_to(SOURCE)
    return inside.stem if inside.parent == Path() else inside.parent.as_posix()


def named(file: Path) -> str:
    """What a parametrised test calls a file: its path, the same on every machine."""
    return file.relative_to(ROOT).as_posix()


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def used() -> set[tuple[str, str, str]]:
    """Who imports what from where: (a file's room, a module, a name) for every `from module import name`."""
    return {
        (room(file), node.module or "", alias.name)
        for file in FRAMEWORK
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def imports(file: Path) -> list[str]:
    """Every module that a file imports, anywhere in it, also where only a type checker looks."""
    found = []
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{named(file)} imports relatively; write metafluence.room"
            found.append(node.module or "")
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def test_the_map_has_every_room():
    assert len(ROOMS) == len(set(ROOMS))
    assert set(ROOMS) == {room(file) for file in FRAMEWORK} - {"__init__"}


@pytest.mark.parametrize("file", [f for f in FRAMEWORK if f != SOURCE / "__init__.py"], ids=named)
def test_imports_run_one_way_and_through_the_door(file):
    here = room(file)
    for module in imports(file):
        assert not module.startswith("metafluence_plugins"), "the framework never imports a plugin"
        if not module.startswith("metafluence."):
            continue
        path = module.removeprefix("metafluence.").replace(".", "/")
        there = path if path in ROOMS else path.rpartition("/")[0]
        if there != here:
            assert ROOMS.index(there) < ROOMS.index(here), f"{here} imports {there}, which is not below it"
            assert there == path, f"import {path.rpartition('/')[2]} from the door of {there}, not from inside"


@pytest.mark.parametrize("folder", [f for f in ROOMS if (SOURCE / f).is_dir()])
def test_a_room_says_what_it_is_for_and_exports_what_others_use(folder):
    tree = parsed(SOURCE / folder / "__init__.py")
    assert ast.get_docstring(tree)
    exported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    stub = ast.parse((SOURCE / "__init__.pyi").read_text(encoding="utf-8"))
    public = {
        alias.name
        for node in stub.body
        if isinstance(node, ast.ImportFrom) and node.module == folder.replace("/", ".")
        for alias in node.names
    }
    assert public <= exported
    door = f"metafluence.{folder.replace('/', '.')}"
    elsewhere = {name for there, module, name in used() if module == door and there != folder}
    unused = exported - elsewhere - public
    assert folder in ("cli", "testing") or not unused, f"nobody outside {folder} uses {sorted(unused)}"


@pytest.mark.parametrize("file", PLUGINS, ids=named)
def test_plugins_use_the_public_api_only(file):
    for module in imports(file):
        assert not module.startswith("metafluence."), f"{module}: if it is needed, it belongs to the public API"
    assert not re.search(r"\bmetafluence\._|from metafluence import _", file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", FRAMEWORK + PLUGINS, ids=named)
def test_no_import_hides_in_a_function_and_files_stay_short(file):
    text = file.read_text(encoding="utf-8")
    tree = parsed(file)
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            assert not any(isinstance(n, ast.Import | ast.ImportFrom) for n in ast.walk(function))
    assert len(text.splitlines()) <= 325
    assert ast.get_docstring(tree) or file.stat().st_size < 3


def test_tests_mirror_the_rooms():
    folders = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("test_*.py"))}
    assert folders <= set(ROOMS)


def test_every_public_name_is_there_and_documented():
    for name in mf.__all__:
        value = getattr(mf, name)
        if isinstance(value, type | FunctionType):
            assert value.__doc__, name


def test_nothing_names_a_machine():
    for file in [*FRAMEWORK, *PLUGINS, *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("studies/*")]:
        assert "/work/" not in file.read_text(encoding="utf-8"), file


def test_api_page_lists_every_public_name_once_under_its_room():
    stub = ast.parse((SOURCE / "__init__.pyi").read_text(encoding="utf-8"))
    public = {
        (str(node.module).replace(".", "/"), alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    listed = []
    for section in (ROOT / "docs" / "api.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        title = section.partition("\n")[0].strip("`")
        listed += [(title, name) for name in re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)]
    assert len(listed) == len(set(listed)), "docs/api.md lists a name twice"
    missing, stale = public - set(listed), set(listed) - public
    assert not missing, f"Add to docs/api.md, each under its room: {sorted(missing)}"
    assert not stale, f"Delete from docs/api.md: {sorted(stale)}"
