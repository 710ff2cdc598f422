"""A study's variations: what YAML varies, sizes, `--set`, and stable names."""

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given, strategies as st

import metafluence as mf
from metafluence.studies.overrides import changed, parse_assignment

RAW = {
    "name": "small",
    "dataset": "digits",
    "learner": {"use": "logistic-head", "backbone": {"use": "mlp", "hidden": [2]}, "penalty": 0.5},
    "l2": 1.0,
    "methods": ["task-if", {"use": "direct-if", "damping": 0.1}],
}


def test_a_study_that_varies_nothing_is_one_variation():
    found = mf.parse_comparison(RAW).variations
    assert len(found) == 1
    assert found[0].config == mf.parse_study(RAW)
    assert found[0].label == ""


def test_every_combination_is_a_variation_with_every_seed():
    raw = {
        **RAW,
        "seeds": 2,
        "vary": {
            "learner.penalty": [0.5, 1.0, 2.0],
            "net": {"thin": {"learner.backbone.hidden": [2]}, "wide": {"learner.backbone.hidden": [8], "l2": 2.0}},
        },
    }
    found = mf.parse_comparison(raw).variations
    seen = [
        (v.config.learner["penalty"], v.config.learner["backbone"]["hidden"], v.config.l2, v.config.seed) for v in found
    ]
    assert seen == [
        (penalty, hidden, l2, seed)
        for penalty in (0.5, 1.0, 2.0)
        for hidden, l2 in (([2], 1.0), ([8], 2.0))
        for seed in (0, 1)
    ]  # fmt: skip
    assert found[0].varied == {"learner.penalty": "0.5", "net": "thin"}
    assert len({v.id for v in found}) == len({v.work for v in found}) == 12


def test_names_are_stable_and_change_with_what_is_asked_alone():
    one = mf.parse_comparison(RAW).variations[0]
    same = mf.parse_comparison({**RAW, "about": "else", "executor": "serial", "memory_gib": 1.0}).variations[0]
    more = mf.parse_comparison({**RAW, "methods": ["task-if"]}).variations[0]
    other = mf.parse_comparison({**RAW, "l2": 2.0}).variations[0]
    assert (one.id, one.work) == (same.id, same.work)
    assert one.id != more.id, "what is asked differs"
    assert one.work == more.work, "the fit is the same, and is shared"
    assert one.work != other.work
    assert one.id.startswith("seed-0-")


def test_a_truth_of_the_first_kind_is_written_as_before_there_were_others():
    """So that stores keep the names that they have."""
    truth = mf.parse_study({**RAW, "truth": {"kind": "minimum", "weight": 0.0}}).truth
    assert truth is not None
    assert list(truth.model_dump(mode="json")) == ["items", "subsets", "subset_share", "seeds", "start"]
    assert repr(truth) == "TruthConfig(items=64, subsets=0, subset_share=0.5, seeds=0, start='warm')"
    other = mf.parse_study({**RAW, "truth": {"kind": "run", "weight": 0.5}}).truth
    assert other is not None
    assert other.model_dump(mode="json", exclude_defaults=True) == {"kind": "run", "weight": 0.5}
    assert "kind='run', weight=0.5" in repr(other)


def test_a_size_changes_parts_and_set_goes_on_top():
    raw = {**RAW, "sizes": {"paper": {"l2": 3.0, "learner.backbone": "conv4", "episodes.train": 100}}}
    paper = mf.parse_comparison(raw, "paper", {"l2": 4.0, "dataset.root": "there"})
    config = paper.variations[0].config
    assert (config.l2, config.learner["backbone"], config.episodes.train) == (4.0, "conv4", 100)
    assert config.dataset == {"use": "digits", "root": "there"}
    assert mf.parse_comparison(raw).variations[0].config.l2 == 1.0
    again = mf.parse_comparison(paper.raw)
    assert [v.id for v in again.variations] == [v.id for v in paper.variations], (
        "what was resolved gives the same again"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": []}, r"seeds is \[\]. .*Give one seed or more"),
        ({"seeds": [0, 0]}, "seed 0 asks for what another variation does already"),
        ({"seeds": 0}, "seeds is 0. .*Give one seed or more"),
        ({"seeds": ["a"]}, r"seeds.0 is 'a'"),
        ({"vary": {"l2": []}}, "vary.l2 is empty"),
        ({"vary": {"l2": [1.0, 1.0]}}, "holds '1.0' twice"),
        ({"vary": {"l2": [-1.0]}}, r"\(l2 -1.0\): l2 is -1.0"),
        ({"vary": {"seed": [1]}}, "say so under `seeds`"),
        ({"vary": {"methods.7": ["loss"]}}, "'7' is no place in a list of 2"),
        ({"vary": {"l2": 1.0}}, "Give vary.l2 a list of values, or labels"),
        ({"vary": {"net": {"thin": 2}}}, "Give vary.net a list of values, or labels"),
        ({"published": {"source": "a", "rows": {"loss": {"acc": 0.5}}}}, "no field 'published.rows.loss.acc'"),
        ({"published": {"source": "a", "level": "query", "rows": {}}}, "published.level is 'query'"),
        ({"sedes": 3}, "no field 'sedes'. Did you mean 'seeds'"),
        ({"published": {"rows": {}}}, "'published.source' is missing"),
        ({"published": [{"source": "a", "rows": {}}, {"rows": {}}]}, "'published.1.source' is missing"),
    ],
)
def test_what_is_wrong_is_said(changes, said):
    with pytest.raises(mf.ConfigError, match=said):
        mf.parse_comparison({**RAW, **changes})


def test_an_unknown_size_is_named_with_those_there_are():
    with pytest.raises(mf.ConfigError, match=r"no size 'papers'. Did you mean 'paper'.*Sizes: paper"):
        mf.parse_comparison({**RAW, "sizes": {"paper": {}}}, "papers")


def test_a_study_of_several_is_not_read_as_one(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("name: a\ndataset: digits\nlearner: protonet\nl2: 1.0\nmethods: [loss]\nseeds: 3\n")
    with pytest.raises(mf.ConfigError, match="is 3 studies"):
        mf.load_study(file)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("l2=0.5", "l2", 0.5),
        ("methods=[task-if, random]", "methods", ["task-if", "random"]),
        ("about=a = b", "about", "a = b"),
        ("grid=", "grid", None),
    ],
)
def test_assignments_are_read_as_yaml(text, key, value):
    assert parse_assignment(text) == (key, value)


@pytest.mark.parametrize("text", ["l2", "=3", "l2=[1"])
def test_what_is_no_assignment_is_refused(text):
    with pytest.raises(mf.ConfigError):
        parse_assignment(text)


names = st.text("abcdef", min_size=1, max_size=3)


@given(st.dictionaries(names, st.integers(), max_size=3), st.lists(names, min_size=1, max_size=4), st.integers())
def test_a_part_set_is_found_where_it_was_set_and_nothing_else_moves(raw, path, value):
    before = copy.deepcopy(raw)
    if len(path) > 1:
        raw.pop(path[0], None)
        before.pop(path[0], None)
    found = changed(raw, {".".join(path): value})
    assert raw == before
    place = found
    for name in path:
        place = place[name]
    assert place == value
    assert {k: v for k, v in found.items() if k != path[0]} == {k: v for k, v in raw.items() if k != path[0]}


def test_a_number_has_no_parts():
    with pytest.raises(mf.ConfigError, match=r"l2 is 1.0 and has no parts"):
        changed(RAW, {"l2.a": 1})


def test_the_study_that_the_documentation_shows_is_one():
    text = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    raw = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert len(mf.parse_comparison(raw).variations) == 12
    assert len(mf.parse_comparison(raw, "quick").variations) == 4
    found = mf.parse_comparison(raw, "quick", {"vary.learner.penalty": [3.0]}).variations
    assert {v.config.learner["penalty"] for v in found} == {3.0}, "after `vary.` stands one name"


def test_what_is_published_of_a_level_that_a_change_drops_is_passed_over():
    published = [{"source": "a", "level": level, "rows": {}} for level in ("query", "support")]
    vary = {"half": {"one": {"levels": ["query"]}, "other": {"levels": ["support"]}}}
    raw = {**RAW, "methods": ["loss"], "vary": vary, "published": published}
    assert len(mf.parse_comparison(raw).variations) == 2 * len(raw.get("seeds", [0]))
    less = mf.parse_comparison(raw, changes={"vary": {}, "levels": ["query"]})
    assert {v.config.levels[0] for v in less.variations} == {"query"}
