"""The commands `list --json` and `show`."""

import json

import pytest

import metafluence as mf
from small_studies import command


def test_json_has_every_component_with_its_parameters(tmp_path):
    found = command(tmp_path, "list", "--json")
    assert found.returncode == 0, found.stderr
    told = {(one["kind"], one["name"]): one for one in json.loads(found.stdout)}
    assert list(told) == [(entry.kind, entry.name) for entry in mf.default_registry().entries()]
    damping = next(p for p in told["method", "task-if"]["parameters"] if p["name"] == "damping")
    assert damping["default"] == "0.0"
    solvers = json.loads(command(tmp_path, "list", "solver", "--json").stdout)
    assert {one["kind"] for one in solvers} == {"solver"}
    assert command(tmp_path, "list", "solvers", "--json").returncode == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("task-if", ["levels  task, class", "units  loss_change", "needs  a minimum", "edits  yes"]),
        ("run-influence", ["needs  a recorded run\n", "edits  yes"]),
        ("random", ["needs  nothing", "units  rank_only", "edits  no"]),
    ],
)
def test_show_says_what_a_method_claims(tmp_path, name, said):
    found = command(tmp_path, "show", "method", name)
    assert found.returncode == 0, found.stderr
    for words in said:
        assert words in found.stdout


def test_show_as_json_says_the_same_with_documentation(tmp_path):
    found = command(tmp_path, "show", "method", "task-if", "--json")
    assert found.returncode == 0, found.stderr
    said = json.loads(found.stdout)
    assert said["claims"]["levels"] == "task, class"
    assert said["documentation"].startswith("Influence functions on tasks")
    listed = json.loads(command(tmp_path, "list", "method", "--json").stdout)
    assert next(one for one in listed if one["name"] == "task-if").items() <= said.items()


def test_solvers_say_what_they_require(tmp_path):
    found = command(tmp_path, "show", "solver", "woodbury")
    assert "requires  low-rank, symmetric" in found.stdout, found.stderr
    assert json.loads(command(tmp_path, "show", "trainer", "newton", "--json").stdout)["claims"] == {}
