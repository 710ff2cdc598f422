"""The structure: imports run one way, plugins use the public API, files stay short."""

import ast
import re
from pathlib import Path
from types import FunctionType

import pytest

import metafluence as mf

ROOT = Path(__file__).parents[1]
FRAMEWORK = sorted((ROOT / "framework" / "metafluence").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins" / "metafluence_plugins").rglob("*.py"))

# Lowest first: a module imports only from layers above its own line in this list.
LAYERS = [
    {"errors", "allocator", "alike"},
    {
        "tasks",
        "operators",
        "losses",
        "backbones",
        "norms",
        "resources",
        "terminal",
        "observer",
        "derivatives",
        "describe",
        "devices",
        "minimise",
        "overrides",
        "provenance",
        "palette",
        "labels",
    },
    {
        "importing",
        "validation",
        "corruption",
        "groups",
        "episodes",
        "modules",
        "solving",
        "lanczos",
        "store",
        "executors",
        "hooks",
        "drawings",
    },
    {"registry", "fingerprints", "bars", "layers", "probes", "datasets", "tables", "pages"},
    {"loader", "learners", "fetch"},
    {"networks", "linearisation", "encoder"},
    {"implicit", "unrolled"},
    {"chunks", "hessian"},
    {"point"},
    {"problem"},
    {"curvature", "training", "diagnostics"},
    {"retraining", "metrics", "config", "fits", "resuming"},
    {"attribution", "variations"},
    {"truth"},
    {"runs", "plans"},
    {"grid", "sweeps", "preparation", "budget", "certificate", "dampings"},
    {"study"},
    {"outcomes"},
    {"aggregation", "comparison"},
    {"pilot"},
    {"solver_figures"},
    {"figures", "result_table", "captions"},
    {"verdicts", "comparison_tables", "comparison_figures"},
    {"exhibits", "comparison_verdict", "comparison_errors"},
    {"report", "sweep_report", "previews", "comparison_report"},
    {"study_cli", "data_cli"},
    {"sweep_cli"},
    {"cli"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def imports(file: Path, top_level_only: bool = True) -> list[str]:
    """Modules imported at run time (not under TYPE_CHECKING)."""
    tree = ast.parse(file.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [a.name for a in node.names]
    return found


@pytest.mark.parametrize("file", [f for f in FRAMEWORK if f.parent.name == "metafluence"], ids=lambda f: f.stem)
def test_imports_run_one_way(file):
    if file.stem == "__init__":
        return
    assert file.stem in RANK, f"give {file.stem} a place in LAYERS"
    for module in imports(file):
        assert not module.startswith("metafluence_plugins"), "the framework never imports a plugin"
        if module.startswith("metafluence."):
            other = module.split(".")[1]
            assert RANK[other] < RANK[file.stem], f"{file.stem} imports {other}, which is not below it"


@pytest.mark.parametrize("file", PLUGINS, ids=lambda f: f.stem)
def test_plugins_use_the_public_api_only(file):
    for module in imports(file, top_level_only=False):
        assert not module.startswith("metafluence."), f"{module}: if it is needed, it belongs to the public API"
    assert not re.search(r"\bmetafluence\._|from metafluence import _", file.read_text())


@pytest.mark.parametrize("file", FRAMEWORK + PLUGINS, ids=lambda f: f.stem)
def test_no_import_hides_in_a_function_and_files_stay_short(file):
    tree = ast.parse(file.read_text())
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            assert not any(isinstance(n, ast.Import | ast.ImportFrom) for n in ast.walk(function))
    assert len(file.read_text().splitlines()) <= 325
    assert ast.get_docstring(tree) or file.stat().st_size < 3


def test_every_public_name_is_there_and_documented():
    for name in mf.__all__:
        value = getattr(mf, name)
        if isinstance(value, type | FunctionType):
            assert value.__doc__, name


def test_nothing_names_the_workshop():
    for file in [*FRAMEWORK, *PLUGINS, *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("studies/*")]:
        assert "/work/" not in file.read_text(), file
