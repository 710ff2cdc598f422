"""The command `new`: what it writes works as it is, and what cannot be written is refused with nothing written."""

import importlib.util
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from ruff.__main__ import find_ruff_bin

import metafluence as mf
from metafluence.testing import checked
from metafluence.testing.learner_checks import CHECKS as OF_LEARNERS
from metafluence.testing.methods import CHECKS as OF_METHODS
from metafluence.testing.solvers import CHECKS as OF_SOLVERS
from refusals import refused
from small_studies import changed, command

KINDS = ["method", "solver", "learner", "curvature", "dataset", "trainer", "executor", "backbone", "preconditioner"]
KINDS += ["metric", "tracker"]
# What the whole suite shows, at a fraction of the time; the whole one is among the slow tests.
FEW = {
    "learner": set(OF_LEARNERS) - {"adaptation", "gradient", "bits"},
    "method": set(OF_METHODS) - {"contract", "twins", "seed"},
    "solver": set(OF_SOLVERS) - {"agreement", "work"},
}


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def made(folder: Path, kind: str, name: str):
    spec = {"use": name, **({"backbone": {"use": "mlp", "hidden": [2]}} if kind == "learner" else {})}
    return mf.default_registry(folder=folder).build(kind, spec)


def test_every_kind_has_a_template():
    assert set(KINDS) == set(mf.default_registry().kinds())


@pytest.mark.parametrize("kind", KINDS)
def test_it_works_as_it_is(tmp_path, kind, monkeypatch):
    done = command(tmp_path, "new", kind, f"fresh_{kind}")
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == {f"fresh_{kind}.py", f"test_fresh_{kind}.py", "registry.yaml"}
    assert f"fresh_{kind}" in command(tmp_path, "list", kind).stdout
    shown = command(tmp_path, "show", kind, f"fresh_{kind}")
    assert shown.returncode == 0, shown.stderr
    assert checked(made(tmp_path, kind, f"fresh_{kind}"), FEW.get(kind, ())).faults == []
    monkeypatch.syspath_prepend(tmp_path)
    spec = importlib.util.spec_from_file_location("generated_test", tmp_path / f"test_fresh_{kind}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert hasattr(module, f"TestFresh{kind.title()}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_generated_test_passes(tmp_path, kind, monkeypatch):
    assert command(tmp_path, "new", kind, f"whole_{kind}").returncode == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = [f"test_whole_{kind}.py", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-c", "/dev/null"]
    assert pytest.main(words) == 0


@pytest.mark.parametrize("package", [False, True])
def test_what_is_written_is_clean(tmp_path, package):
    for kind in KINDS:
        words = ["new", kind, f"tidy_{kind}", *(["--package"] if package else [])]
        assert command(tmp_path, *words).returncode == 0
    ruff = partial(subprocess.run, capture_output=True, text=True, check=False, cwd=tmp_path)
    rules = "E,F,B,UP" if package else "E,F,B,UP,I"  # from here, a package is no code of one's own
    for words in (["check", "--select", rules, "--line-length", "120"], ["format", "--diff", "--line-length", "120"]):
        found = ruff([find_ruff_bin(), words[0], "--isolated", *words[1:], "."])
        assert found.returncode == 0, found.stdout + found.stderr


def test_a_study_uses_a_new_method_and_a_new_solver(tmp_path):
    for kind in ("method", "solver"):
        assert command(tmp_path, "new", kind, f"own_{kind}").returncode == 0
    config = mf.parse_study(
        changed(
            methods=["task-if", "own_method", "gradient-similarity"],
            solvers=["exact", "own_solver"],
            truth={"items": 4},
            certificate=False,
        )
    )
    result = mf.Study(config, mf.default_registry(folder=tmp_path), tmp_path / "store").run()
    rows = {(run.row.method, run.row.solver): run.row for run in result.runs}
    assert all(row.status == "ok" for row in rows.values()), [row.reason for row in rows.values()]
    assert rows["task-if", "own_solver"].spearman == pytest.approx(rows["task-if", "exact"].spearman)
    assert rows["own_method", ""].spearman == pytest.approx(rows["gradient-similarity", ""].spearman)


def test_a_package_is_a_plugin(tmp_path, monkeypatch):
    done = command(tmp_path, "new", "solver", "packaged", "--package")
    assert done.returncode == 0, done.stderr
    root = tmp_path / "packaged"
    assert files(root) == {
        "README.md",
        "pyproject.toml",
        "packaged/__init__.py",
        "packaged/solver.py",
        "tests/test_packaged.py",
    }
    info = root / "packaged-0.1.dist-info"  # what pip writes
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: packaged\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[metafluence]\npackaged = packaged\n")
    monkeypatch.syspath_prepend(root)
    registry = mf.default_registry()
    assert registry.failures == []
    assert registry.build("solver", "packaged").rtol == 1e-6
    del sys.modules["packaged"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["methods", "brand_new"], "Unknown kind of component 'methods'. Did you mean 'method'"),
        (["planet", "mine"], r"Unknown kind of component 'planet'\. Known: backbone"),
        (["method", "two words"], "cannot be the name of a Python file and class"),
        (["method", "1st"], "cannot be the name"),
        (["method", "class"], "cannot be the name"),
        (["method", "../up"], "cannot be the name"),
        (["method", "random"], "There is a method 'random' already"),
        (["solver", "random"], "would hide the module 'random'"),
        (["solver", "numpy"], "would hide the module 'numpy'"),
        (["solver", "solver"], "would make a class Solver"),
        (["solver", "value_error"], "would make a class ValueError"),
    ],
)
def test_names_that_cannot_be_are_refused(tmp_path, words, message):
    done = command(tmp_path, "new", *words)
    assert (done.returncode, files(tmp_path)) == (2, set())
    with refused(message):
        raise mf.InputError(done.stderr.strip().removeprefix("Error: "))


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "test_brand_new.py").write_text("precious")
    assert "is there already" in command(tmp_path, "new", "method", "brand_new").stderr
    assert files(tmp_path) == {"test_brand_new.py"}
    assert command(tmp_path, "new", "method", "twice_begun").returncode == 0
    assert "There is a method 'twice_begun' already" in command(tmp_path, "new", "method", "twice_begun").stderr


REGISTRIES = {
    "comments": ("# mine\ncomponents:\n  # of methods\n  method:\n      a: {use: loss}  # one\n", "# of methods"),
    "other kinds": ("components:\n  solver:\n    a: {use: cg, rtol: 1e-3}\n", "rtol: 1e-3"),
    "no components": ("disabled:\n  method: [random]", "[random]"),
    "more after": ("components:\n  method:\n    a: {use: loss}\ndisabled:\n  solver: [cg]\n", "[cg]"),
    "empty": ("", ""),
}


@pytest.mark.parametrize("case", REGISTRIES)
def test_the_registry_keeps_what_it_says(tmp_path, case):
    text, kept = REGISTRIES[case]
    (tmp_path / "registry.yaml").write_text(text)
    done = command(tmp_path, "new", "method", "brand_new")
    assert done.returncode == 0, done.stderr
    after = (tmp_path / "registry.yaml").read_text()
    assert kept in after
    registry = mf.default_registry(folder=tmp_path)
    assert registry.entry("method", "brand_new").at.endswith("brand_new.py:BrandNew")
    if "a:" in text:
        assert any(entry.name == "a" for entry in registry.entries())


@pytest.mark.parametrize(
    "text", ["components: {method: {a: {use: loss}}}\n", "components:\n  method: {a: {use: loss}}\n"]
)
def test_a_registry_that_cannot_be_added_to_is_refused(tmp_path, text):
    (tmp_path / "registry.yaml").write_text(text)
    done = command(tmp_path, "new", "method", "brand_new")
    assert done.returncode == 2
    assert "Add by hand, under components.method: brand_new: ./brand_new.py:BrandNew" in done.stderr
    assert files(tmp_path) == {"registry.yaml"}
    assert (tmp_path / "registry.yaml").read_text() == text
