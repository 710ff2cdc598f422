"""The registry: every way a component arrives, every way it can be wrong."""

import subprocess
import sys
import textwrap
from dataclasses import dataclass, fields
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from joblib import Parallel, delayed

import metafluence as mf
from metafluence import RegistryError, UnknownNameError, default_registry
from metafluence.hooks import Specs, hookimpl, new_manager
from metafluence.registry import catalogue
from metafluence.registry.registry import Registry
from metafluence_plugins.solvers.cg import CG
from parts import LEARNERS
from refusals import refused

SHIPPED = default_registry()
ENTRIES = [pytest.param(e, id=f"{k}-{e.name}") for k in SHIPPED.kinds() for e in SHIPPED.entries(k)]

SOLVER = """
from dataclasses import dataclass
import torch
from metafluence import Applied, Solver

@dataclass(frozen=True)
class Mine(Solver):
    '''Returns zero.'''

    scale: float = 0.5
    steps: int = 3

    def prepare(self, operator, damping, generator):
        return operator

    def apply(self, state, rhs, generator):
        return Applied(0 * rhs, torch.ones(rhs.shape[-1], dtype=torch.int64))

    def tolerance(self, dtype):
        return 1.0

class NotASolver:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(SOLVER)
    return tmp_path


def overlay(folder: Path, text: str) -> Registry:
    (folder / "registry.yaml").write_text(textwrap.dedent(text))
    return default_registry(folder=folder)


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_shipped_component_is_what_the_catalogue_says(entry):
    cls = SHIPPED.load(entry.kind, entry.name)
    assert issubclass(cls, SHIPPED.interface(entry.kind))
    assert cls.__dataclass_params__.frozen
    assert entry.documentation()
    assert entry.about
    assert "\n" not in entry.about
    assert entry.origin == f"metafluence {mf.__version__}"
    # What `list` reads from the source is what the class has.
    read = {p.name: p.default is None for p in entry.parameters()}
    real = {f.name: f.default is f.default_factory for f in fields(cls) if f.init}  # both MISSING: required
    assert read == real


def test_every_learner_runs_the_properties():
    assert set(LEARNERS) == set(SHIPPED.names("learner"))


def test_components_are_built_with_their_own_types():
    assert SHIPPED.build("solver", "cg") == CG()
    assert SHIPPED.build("solver", {"use": "cg", "rtol": "1e-10", "max_iterations": 7.0}) == CG(1e-10, 7)
    assert SHIPPED.build("solver", CG(1e-3)) == CG(1e-3)
    learner = SHIPPED.build("learner", {"use": "logistic-head", "backbone": {"use": "mlp", "hidden": [4, 5]}})
    assert learner.backbone.hidden == (4, 5)
    assert mf.build("solver", "cg", rtol=1e-4) == CG(1e-4)


@given(st.floats(1e-14, 1.0, exclude_max=True))
def test_any_way_of_writing_a_number_is_read(value):
    assert SHIPPED.build("solver", {"use": "cg", "rtol": f"{value:.17e}"}).rtol == value


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("solver", "cgg", r"Unknown solver 'cgg'\. Did you mean 'cg'\? Known: cg, ek-fac, exact"),
        ("solver", "mlp", r"Unknown solver 'mlp'.*There is a backbone of that name"),
        ("solvers", "cg", r"Unknown kind of component 'solvers'\. Did you mean 'solver'"),
        ("solver", {"use": "cg", "rtoll": 1}, r"no parameter 'rtoll'\. Did you mean 'rtol'\? Parameters: rtol=1e-08"),
        (
            "solver",
            {"use": "cg", "rtol": "tight"},
            r"solver \(cg, metafluence .*rtol is 'tight', but a number.* is expected",
        ),
        ("solver", {"use": "cg", "rtol": True}, "rtol is True, but a number above 0"),
        ("solver", {"use": "cg", "max_iterations": 2.5}, r"max_iterations is 2\.5, but a whole number.* is expected"),
        ("solver", {"rtol": 1}, "Give a name, or a mapping with use: NAME"),
        ("solver", 3, "solver is 3"),
        ("learner", "imaml", "needs the parameter 'backbone'"),
        (
            "learner",
            {"use": "imaml", "backbone": {"use": "mlp", "hidden": "wide"}},
            r"learner\.backbone \(mlp.*hidden is 'wide'",
        ),
        ("learner", {"use": "imaml", "backbone": "mlp", "optimiser": "newtn"}, "'newton', 'lbfgs'"),
        ("learner", {"use": "imaml", "backbone": "mlp", "proximal": 0}, r"imaml.*proximal is 0, but a number above 0"),
    ],
)
def test_wrong_configuration_says_what_where_and_the_mend(kind, spec, message):
    with refused(message):
        SHIPPED.build(kind, spec)


def test_a_local_file_and_presets_join_the_catalogue(folder):
    registry = overlay(
        folder,
        """
        components:
          solver:
            mine: ./mine.py:Mine
            gentle: {use: mine, steps: 9, about: slow but sure}
            gentler: {use: gentle, scale: 0.1}
            tight: {use: cg, rtol: 1e-12}
        disabled:
          method: [random]
        """,
    )
    built = registry.build("solver", {"use": "gentler", "steps": 4})
    assert (type(built).__name__, built.scale, built.steps) == ("Mine", 0.1, 4)
    assert registry.build("solver", "gentler").steps == 9
    assert registry.build("solver", "tight") == CG(1e-12)
    entry = registry.entry("solver", "mine")
    assert entry.about == "Returns zero."
    assert entry.origin.endswith("registry.yaml")
    assert [(p.name, p.default) for p in registry.entry("solver", "gentle").parameters()] == [
        ("scale", "0.5"),
        ("steps", "9"),
    ]
    with pytest.raises(UnknownNameError, match=r"It was disabled in .*registry\.yaml"):
        registry.build("method", "random")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("components: {solver: {cg: ./mine.py:Mine}}", r"'cg', which metafluence .* has already.*override: true"),
        ("components: {solvers: {}}", r"Unknown kind of component 'solvers'\. Did you mean 'solver'"),
        ("component: {}", "Unknown section 'component'"),
        ("components: {solver: {mine: {at: ./mine.py:Mine, aboot: x}}}", "Unknown key 'aboot'.*'about'"),
        ("components: {solver: {mine: ./none.py:Mine}}", r"no file .*none\.py"),
        ("components: {solver: {mine: Mine}}", "write module:Class"),
        ("components: {solver: {mine: {about: x}}}", "say at: module:Class"),
        ("components: {solver: {a: {use: b}, b: {use: a}}}", "in a circle: solver a, solver b"),
        ("components: {solver: {a: {use: nothing}}}", "Unknown solver 'nothing'"),
        ("components: [1]", "a mapping of names is expected"),
        ("components: {", "is not valid YAML"),
        ("disabled: {solver: [nope]}", "Unknown solver 'nope'"),
    ],
)
def test_a_broken_overlay_says_what_is_wrong(folder, text, message):
    with refused(message):
        overlay(folder, text)


def test_override_takes_a_shipped_name(folder):
    registry = overlay(folder, "components: {solver: {cg: {at: './mine.py:Mine', override: true}}}")
    assert type(registry.build("solver", "cg")).__name__ == "Mine"


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("./mine.py:NotASolver", r"is no Solver\. Write: class NotASolver\(Solver\)"),
        ("./broken.py:Mine", r"Importing the solver 'x'.*ZeroDivisionError.*broken\.py, line 2"),
        ("metafluence_plugins.solvers.cg:CGG", "no class 'CGG'.*Did you mean 'CG'"),
        ("./plain.py:Mine", r"no dataclass\. Put @dataclass\(frozen=True\) above class Mine"),
    ],
)
def test_a_component_that_cannot_be_loaded_says_why(folder, at, message):
    (folder / "broken.py").write_text("class Mine: pass\n1 / 0\n")
    (folder / "plain.py").write_text(
        "from metafluence import Solver\nclass Mine(Solver):\n    prepare = apply = tolerance = None\n"
    )
    registry = overlay(folder, f"components: {{solver: {{x: {{at: '{at}', about: x}}}}}}")
    with refused(message, RegistryError):
        registry.load("solver", "x")


def test_a_local_component_travels_to_other_processes(folder):
    """Another process has no such module in sys.modules and cannot import the file by name."""
    registry = overlay(folder, "components: {solver: {mine: './mine.py:Mine'}}")
    solver = registry.build("solver", {"use": "mine", "scale": 0.25})
    found = Parallel(n_jobs=2)(delayed(_scale)(solver) for _ in range(2))
    assert found == [("Mine", 0.25)] * 2


def _scale(solver):
    return type(solver).__name__, solver.scale


def test_listing_is_quick_because_nothing_heavy_is_imported():
    code = """
import sys
from metafluence.cli import main
sys.argv = ["metafluence", "list"]
try:
    main()
except SystemExit as stop:
    assert not stop.code
heavy = {"torch", "pandas", "scipy", "sklearn", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for kind in SHIPPED.kinds():
        for name in SHIPPED.names(kind):
            assert name in done.stdout
    assert "rtol=1e-08" in done.stdout


class _Plugin:
    """Stands for an installed module."""

    @hookimpl
    def metafluence_register(self, registry):
        registry.add("solver", "theirs", at="metafluence_plugins.solvers.cg:CG", about="cg by another name")


class _Broken:
    @hookimpl
    def metafluence_register(self, registry):
        registry.add("solver", "half-done", at="metafluence_plugins.solvers.cg:CG", about="x")
        raise RuntimeError("no licence")


@dataclass(frozen=True)
class _Distribution:
    name: str = "their-package"
    version: str = "1.2"


def test_installed_plugins_join_and_a_broken_one_takes_nothing_down(monkeypatch):
    points = []
    for name in ("_Plugin", "_Broken", "_Missing"):
        point = EntryPoint(name, f"{__name__}:{name}", "metafluence")
        vars(point)["dist"] = _Distribution()
        points.append(point)
    plugins = {"_Plugin": _Plugin(), "_Broken": _Broken()}
    monkeypatch.setattr(EntryPoint, "load", lambda self: plugins[self.name])
    monkeypatch.setattr(catalogue, "entry_points", lambda group: points)
    registry = default_registry()
    assert registry.build("solver", "theirs") == CG()
    assert registry.entry("solver", "theirs").origin == "plugin _Plugin (their-package 1.2)"
    assert "half-done" not in registry.names("solver")
    assert len(registry.failures) == 2
    assert any("_Broken" in f and "no licence" in f and "uninstall" in f for f in registry.failures)
    assert registry.hooks.has_plugin("_Plugin")
    assert not registry.hooks.has_plugin("_Broken")


def test_every_hook_is_documented_and_reaches_a_plugin():
    manager = new_manager()
    names = [n for n in vars(Specs) if n.startswith("metafluence_")]
    called = []

    class Listener:
        @hookimpl
        def metafluence_register(self, registry):
            called.append(("metafluence_register", registry))

        @hookimpl
        def metafluence_study_started(self, study):
            called.append(("metafluence_study_started", study))

        @hookimpl
        def metafluence_run_finished(self, study, run):
            called.append(("metafluence_run_finished", study, run))

        @hookimpl
        def metafluence_report(self, study, result, path):
            called.append(("metafluence_report", study, result, path))

    manager.register(Listener())
    arguments = {"registry": 1, "study": 2, "run": 3, "result": 4, "path": 5}
    for name in names:
        spec = getattr(Specs, name)
        assert spec.__doc__
        wanted = spec.__code__.co_varnames[1 : spec.__code__.co_argcount]
        getattr(manager.hook, name)(**{a: arguments[a] for a in wanted})
    assert [c[0] for c in called] == names
