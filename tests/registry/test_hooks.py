"""Hooks, and plugins that are really installed: a distribution on sys.path with entry points."""

from pathlib import Path

import pytest

from metafluence import RegistryError, default_registry
from metafluence.hooks import Specs, hookimpl, new_manager
from metafluence_plugins.solvers.cg import CG
from refusals import refused

REGISTER = """
from metafluence.hooks import hookimpl

@hookimpl
def metafluence_register(registry):
    registry.add("solver", "{name}", at="{at}", about="a solver of theirs")
"""
KINDS = ["learner", "backbone", "trainer", "curvature", "solver", "preconditioner", "method", "dataset", "executor"]
KINDS += ["metric", "tracker"]
HERE = "metafluence_plugins.solvers.cg:CG"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution with one entry point on sys.path."""

    def install(package: str, point: str, source: str) -> None:
        root: Path = tmp_path / package
        info = root / f"{package}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[metafluence]\n{point} = {package}_module\n")
        (root / f"{package}_module.py").write_text(source)
        monkeypatch.syspath_prepend(root)

    return install


def test_an_installed_plugin_adds_its_component(install):
    install("goodone", "good", REGISTER.format(name="theirs", at=HERE))
    registry = default_registry()
    assert registry.failures == []
    assert registry.plugins == {"good": "goodone 1.2"}
    assert registry.build("solver", {"use": "theirs", "rtol": 1e-3}) == CG(1e-3)
    assert registry.entry("solver", "theirs").origin == "plugin good (goodone 1.2)"


BROKEN = {
    "import": ("import no_such_module_at_all", "ModuleNotFoundError"),
    "exit": ("import sys\nsys.exit(1)", "SystemExit"),
    "syntax": ("def (:", "SyntaxError"),
    "raises": (REGISTER.format(name="half-done", at=HERE) + "    raise RuntimeError('no licence')", "no licence"),
    "kind": (
        REGISTER.format(name="half-done", at=HERE).replace(
            "    registry.add", "    registry.add_interface('extra', 'a:B', 'x')\n    registry.add"
        )
        + "    raise RuntimeError('late')",
        "late",
    ),
    "disables": (
        REGISTER.format(name="half-done", at=HERE)
        + "    registry.disable('method', 'random')\n    raise RuntimeError('late')",
        "late",
    ),
    "taken": (REGISTER.format(name="cg", at=HERE), "has already"),
    "nowhere": (REGISTER.format(name="half-done", at="not_there_at_all:X"), "no module not_there_at_all"),
    "misspelt": (
        "from metafluence.hooks import hookimpl\n@hookimpl\ndef metafluence_run_finnished(study, run): pass",
        "Unknown hook 'metafluence_run_finnished'. Did you mean 'metafluence_run_finished'",
    ),
    "unmarked": (
        "def metafluence_run_finished(study, run): pass",
        "metafluence_run_finished is not marked as a hook, so it would never be called. Write @hookimpl above it",
    ),
    "arguments": (
        "from metafluence.hooks import hookimpl\n@hookimpl\ndef metafluence_study_started(nonsense): pass",
        "nonsense",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_reported_and_takes_nothing_down(install, case):
    source, reason = BROKEN[case]
    before = [e.name for e in default_registry().entries("method")]
    install(f"bad_{case}", "bad", source)
    install(f"fine_{case}", "fine", REGISTER.format(name="theirs", at=HERE))
    registry = default_registry()
    (failure,) = registry.failures
    for part in ("plugin bad", "1.2", reason, "Update or uninstall"):
        assert part in failure
    assert ".." not in failure
    # All else is as it would be without it.
    assert registry.kinds() == KINDS
    assert [e.name for e in registry.entries("method")] == before
    assert registry.build("solver", "theirs") == CG()
    assert "half-done" not in registry.names("solver")
    assert [name for name, _ in registry.hooks.list_name_plugin()] == ["fine"]
    for entry in registry.entries():
        entry.parameters()


def test_a_second_plugin_of_the_same_name_leaves_the_first_its_hooks(install):
    listening = "\n@hookimpl\ndef metafluence_study_started(study):\n    study.append('first')\n"
    install("twin_a", "main", REGISTER.format(name="first", at=HERE) + listening)
    install("twin_b", "main", REGISTER.format(name="second", at=HERE))
    registry = default_registry()
    (failure,) = registry.failures
    assert "twin_b" in failure or "twin-b" in failure
    assert "Another installed package has a plugin called 'main'" in failure
    assert "first" in registry.names("solver")
    assert "second" not in registry.names("solver")
    heard: list[str] = []
    registry.hooks.hook.metafluence_study_started(study=heard)
    assert heard == ["first"]


ARGUMENTS = {
    "metafluence_register": {"registry": "a registry"},
    "metafluence_study_started": {"study": "a study"},
    "metafluence_run_finished": {"study": "a study", "run": "a run"},
    "metafluence_report": {"study": "a study", "result": "a result", "path": Path("report.html")},
}


def test_every_hook_has_a_test():
    assert set(ARGUMENTS) == {name for name in vars(Specs) if not name.startswith("__")}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_hook_is_documented_and_passes_its_arguments(name):
    assert getattr(Specs, name).__doc__.startswith("Called ")
    manager, heard = new_manager(), []

    class Listener:
        @hookimpl
        def metafluence_register(self, registry):
            heard.append({"registry": registry})

        @hookimpl
        def metafluence_study_started(self, study):
            heard.append({"study": study})

        @hookimpl
        def metafluence_run_finished(self, study, run):
            heard.append({"study": study, "run": run})

        @hookimpl
        def metafluence_report(self, study, result, path):
            heard.append({"study": study, "result": result, "path": path})

    manager.register(Listener())
    getattr(manager.hook, name)(**ARGUMENTS[name])
    assert heard == [ARGUMENTS[name]]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "plugin_api = 99",
            "The plugin later needs plugin_api 99, and this metafluence has 1. Get a later metafluence",
        ),
        ("plugin_api = 'two'", "says plugin_api 'two'; a whole number from 1 is expected"),
    ],
)
def test_a_plugin_that_needs_another_plugin_interface_is_left_out(install, said, reason):
    install(f"later{len(said)}", "later", said + REGISTER.format(name="theirs", at=HERE))
    (failure,) = default_registry().failures
    assert reason in failure
    assert "theirs" not in default_registry().names("solver")


def test_a_plugin_that_needs_this_plugin_interface_is_taken(install):
    install("nowone", "now", "plugin_api = 1" + REGISTER.format(name="theirs", at=HERE))
    assert "theirs" in default_registry().names("solver")


def test_a_registry_that_needs_another_plugin_interface_is_refused(tmp_path):
    file = tmp_path / "registry.yaml"
    file.write_text("plugin_api: 99\n")
    with refused(f"{file} needs plugin_api 99, and this metafluence has 1", RegistryError):
        default_registry(file)
