"""A store alone gives its study again, and says where it cannot."""

import csv
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from metafluence import Comparing, RegistryError, StoreError, default_registry, differing_versions, parse_comparison
from metafluence.registry import parse_yaml, write_yaml
from metafluence.runtime import load_facts, save_facts
from metafluence.studies.provenance import keep_source
from refusals import refused
from small_studies import SMALL, changed, command, without_pictures

MINE = """
from dataclasses import dataclass
import metafluence as mf
from own_factor import FACTOR

@dataclass(frozen=True)
class Mine(mf.AttributionMethod):
    '''The loss, times a factor.'''

    power: mf.Positive = 1.0
    units = "rank_only"

    def prepare(self, context):
        return context

    def scores(self, state, targets):
        losses = state.point.item_losses(state.level) ** self.power
        return mf.Scores(FACTOR * losses[:, None].expand(-1, targets.count), state.level, self.units)
"""


@pytest.fixture(scope="module", autouse=True)
def _no_pictures():
    with without_pictures():
        yield


@pytest.fixture(autouse=True)
def _modules():
    before, known = list(sys.path), set(sys.modules)
    yield
    _forget(before, known)


def _forget(path, known):
    """As in a new process."""
    sys.path[:] = path
    for name in {n for n in sys.modules if n.startswith(("own_factor", "metafluence_local"))} - known:
        del sys.modules[name]


def rows(store: Path) -> list[dict[str, str]]:
    with (store / "results.csv").open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if not re.search("second|runtime", k)} for row in csv.DictReader(file)]


def original(folder: Path) -> Path:
    """A study with a component of its own, which has a helper, and presets in two registries."""
    folder.mkdir()
    (folder / "mine.py").write_text(MINE)
    (folder / "own_factor.py").write_text("FACTOR = -1.0\n")
    (folder / "registry.yaml").write_text("components: {method: {mine: './mine.py:Mine'}}")
    (folder / "more.yaml").write_text(
        "components: {method: {squared: {use: mine, power: 2}, loss: {at: './mine.py:Mine', override: true}},"
        " solver: {tight: {use: cg, rtol: 1e-12}}}\ndisabled: {method: [random]}"
    )
    study = changed(methods=["squared", "loss", {"use": "task-if", "solver": "tight"}], truth={"items": 2})
    study |= {"certificate": False, "sizes": {"small": {"l2": 2.0}}, "corruption": []}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder


def test_a_store_alone_gives_the_same_numbers(tmp_path):
    place = original(tmp_path / "place")
    before, known = list(sys.path), set(sys.modules)
    words = ("run", "study.yaml", "--registry", "more.yaml", "--size", "small", "--set", "l2=1e-1", "--out", "store")
    first = command(place, *words)
    assert first.returncode == 0, first.stderr
    wanted = rows(place / "store")
    shutil.move(place / "store", tmp_path / "moved")
    shutil.rmtree(place)
    _forget(before, known)
    again = command(tmp_path, "run", "moved/study.yaml", "--out", "new")
    assert again.returncode == 0, again.stderr
    assert "other versions" not in again.stdout
    assert rows(tmp_path / "new") == wanted
    assert {row["method"] for row in wanted} == {"squared", "loss", "task-if"}
    # In its own store nothing is done again, nor is what it keeps changed.
    kept = {p: p.read_bytes() for p in sorted((tmp_path / "moved").rglob("*.*")) if p.suffix in (".py", ".yaml")}
    assert {p.name for p in kept} == {"study.yaml", "registry.yaml", "mine.py", "own_factor.py"}
    same = command(tmp_path, "run", "moved/study.yaml", "--out", "moved")
    assert "3 of 3 runs were already in moved" in same.stdout
    assert {p: p.read_bytes() for p in kept} == kept


def test_other_versions_are_said(tmp_path):
    registry = default_registry()
    keep_source(tmp_path, SMALL, registry)
    save_facts(tmp_path / "study.json", {"versions": {"torch": "0.1", "plugin theirs": "their-package 1.2"}})
    said = differing_versions(tmp_path / "study.yaml", registry)
    assert "torch 0.1 (now " in said
    assert "plugin theirs their-package 1.2 (now none)" in said
    assert "Numbers may differ; install these" in said
    assert differing_versions(tmp_path / "elsewhere" / "study.yaml", registry) == ""
    (tmp_path / "study.yaml").write_text("name: mine")
    assert differing_versions(tmp_path / "study.yaml", registry) == ""


@pytest.mark.parametrize("name", ["study.yaml", "registry.yaml"])
def test_files_of_ones_own_are_not_replaced(tmp_path, name):
    (tmp_path / name).write_text("name: mine")
    with refused(rf"{name} would be replaced by the one of this store\. Name another folder with --out", StoreError):
        keep_source(tmp_path, SMALL, default_registry())
    assert (tmp_path / name).read_text() == "name: mine"


@pytest.mark.parametrize(
    "value", [1e-10, 1e300, float("inf"), 10**30, "1e-10", "yes", "null", "1", "a: b", "", "ä\n b", None, True, [], {}]
)
def test_yaml_is_read_as_it_was_written(value):
    written = {"a": [value, {"b": value}], "c": value}
    assert parse_yaml(write_yaml(written), "x") == written


def test_a_study_with_tuples_is_kept(tmp_path):
    raw = changed(corruption={"strength": (0.1, 0.5)})
    keep_source(tmp_path, parse_comparison(raw).raw, default_registry())
    assert parse_comparison(yaml.safe_load((tmp_path / "study.yaml").read_text())).variations
    assert not (tmp_path / "registry.yaml").exists()


def test_an_entry_may_set_parameters(tmp_path):
    at = "metafluence_plugins.solvers.cg:CG"
    (tmp_path / "registry.yaml").write_text(f"components: {{solver: {{mine: {{at: '{at}', params: {{rtol: 0.5}}}}}}}}")
    assert default_registry(folder=tmp_path).build("solver", "mine").rtol == 0.5
    (tmp_path / "registry.yaml").write_text(f"components: {{solver: {{mine: {{at: '{at}', params: 3}}}}}}")
    with refused("components.solver.mine.params is 3; a mapping of names is expected", RegistryError):
        default_registry(folder=tmp_path)


def test_versions_of_plugins_are_kept(tmp_path):
    registry = default_registry()
    registry.plugins["theirs"] = "their-package 1.2"
    work = Comparing(parse_comparison({**SMALL, "methods": ["loss"]}), registry, tmp_path)
    assert work.versions["plugin theirs"] == "their-package 1.2"
    work.store.write_study(work.comparison, registry)
    assert load_facts(tmp_path / "study.json")["versions"] == work.versions
    assert "other versions: plugin theirs" in differing_versions(tmp_path / "study.yaml", default_registry())


def test_stores_that_contradict_each_other_say_so(tmp_path):
    place = original(tmp_path / "place")
    before, known = list(sys.path), set(sys.modules)
    study = yaml.safe_load((place / "study.yaml").read_text())
    few = {"train": 4, "validation": 1, "test": 1}
    less = {"methods": ["mine"], "truth": None, "episodes": {**study["episodes"], **few}}
    (place / "study.yaml").write_text(yaml.safe_dump({**study, **less}))
    for store, factor in (("a", "-1.0"), ("b", "1.0"), ("c", "-1.0  # the same"), ("d", "1.0")):
        (place / "own_factor.py").write_text(f"FACTOR = {factor}\n")
        seeds = () if store != "d" else ("--set", "seeds=[5]")
        done = command(place, "run", "study.yaml", *seeds, "--out", store)
        assert done.returncode == 0, done.stderr
        _forget(before, known)

    def said(*stores: str) -> str:
        done = command(place, "report", *stores, "--out", "all")
        assert done.returncode == 0
        page = (place / "all" / "report.html").read_text()
        found = [line for line in done.stdout.splitlines() if line.startswith("Warning")]
        assert ("other code" in page) == ("other code" in done.stdout)
        assert ("contradict each other" in page) == bool([line for line in found if "contradict" in line])
        return " ".join(done.stdout.split())

    both = said("a", "b")
    assert "a and b were done with other code (method mine), so they are not one study" in both
    assert "a and b contradict each other on seed 0: scores of tasks by mine differ" in both
    assert "Warning" not in said("a", "c")
    other = said("a", "d")  # no variation in common
    assert "a and d were done with other code (method mine)" in other
    assert "contradict each other" not in other
