"""The benchmark scripts keep up with what they measure: each can be imported, its names found."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))  # peers need libraries of their own


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_script_imports(script, monkeypatch):
    spec = importlib.util.spec_from_file_location(f"benchmark_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.syspath_prepend(str(script.parent))  # as python does for a script
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert callable(module.main)
