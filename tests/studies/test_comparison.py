"""Several variations in one store: shared work, failures, what is kept, means over seeds."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

import metafluence as mf
from metafluence.reports.groups import groups, mean, mean_curve, values
from metafluence.reports.results import rows_frame
from metafluence.runtime import load_tensors, save_tensors
from metafluence.studies.comparison import Comparing, open_stores
from metafluence.studies.outcomes import load_outcome
from small_studies import SEVERAL

STUDY = {**SEVERAL, "episodes": {**SEVERAL["episodes"], "shot": 2, "query": 2}, "truth": {"items": 3}, "remove": 0.34}


def compare(folder, **changes):
    work = Comparing(mf.parse_comparison({**STUDY, **changes}), mf.default_registry(), folder)
    results = []
    outcomes = work.run(lambda study, result, place: results.append((study, result, place)))
    return outcomes, results


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    return folder, *compare(folder)


def test_every_variation_is_the_study_done_alone(done, tmp_path):
    _, outcomes, _ = done
    variations = mf.parse_comparison(STUDY).variations
    assert len(outcomes) == len(variations) == 4
    for one, variation in ((outcomes[0], variations[0]), (outcomes[3], variations[3])):
        alone = mf.Study(variation.config, mf.default_registry(), tmp_path / variation.id).run()
        for line, run in zip(one.lines, alone.runs, strict=True):
            assert line.row.spearman == pytest.approx(run.row.spearman, nan_ok=True)
            assert line.row.accuracy_retrained == run.row.accuracy_retrained
            np.testing.assert_allclose(line.curve.tensor(), run.curve.tensor(), rtol=1e-9)
        assert one.full.loss == pytest.approx(alone.full.loss, rel=1e-12)


def test_what_is_kept_is_what_was_found(done):
    folder, outcomes, _ = done
    for one in outcomes:
        kept = load_outcome(folder / "outcomes" / f"{one.id}.safetensors")
        assert (kept.id, kept.varied, kept.seed, kept.full) == (one.id, one.varied, one.seed, one.full)
        assert repr(kept.sides) == repr(one.sides)  # NaN is no equal of itself
        for a, b in zip(kept.lines, one.lines, strict=True):
            assert a.row.facts() == b.row.facts()
            np.testing.assert_array_equal(a.found, b.found)
            np.testing.assert_array_equal(a.curve.tensor(), b.curve.tensor())


def test_nothing_is_done_twice(done):
    folder, _, _ = done
    before = {file: file.stat().st_mtime_ns for file in folder.glob("work/*/runs/*")}
    _, results = compare(folder)
    assert all(result.reused == len(result.runs) for _, result, _ in results)
    assert {file: file.stat().st_mtime_ns for file in folder.glob("work/*/runs/*")} == before


def test_variations_with_one_fit_share_it(tmp_path):
    _, results = compare(tmp_path, seeds=None, vary={"methods": [["loss"], ["task-if"]]}, truth=None)
    assert len(list((tmp_path / "work").iterdir())) == 1
    assert results[0][1].fit.seconds == results[1][1].fit.seconds, "read, not made again"


def test_one_that_fails_is_an_outcome_with_its_reason(tmp_path):
    vary = {"dataset": {"there": {}, "not": {"dataset": "mnist", "dataset.root": "no"}}}
    outcomes, _ = compare(tmp_path, vary=vary, methods=["loss"], truth=None)
    assert [bool(one.reason) for one in outcomes] == [False, False, True, True]
    assert "no" in outcomes[2].reason
    stored = open_stores([tmp_path])[0] if (tmp_path / "study.json").exists() else None
    assert stored is None or len(stored.missing) == 2
    assert [len(group.outcomes) for group in groups(outcomes)] == [2]


def test_where_all_fail_the_first_reason_is_raised(tmp_path):
    with pytest.raises(mf.DataError):
        compare(tmp_path, dataset={"use": "mnist", "root": str(tmp_path)})


def test_groups_hold_the_seeds_of_one_variation(done):
    _, outcomes, _ = done
    found = groups(outcomes)
    assert [group.label for group in found] == ["learner.penalty 0.5", "learner.penalty 1.0"]
    assert [[one.seed for one in group.outcomes] for group in found] == [[0, 1], [0, 1]]
    frame = rows_frame(outcomes)
    assert len(frame) == 4 * 2
    means = frame.groupby(["learner.penalty", "method"])["spearman"].mean()
    assert means["0.5", "task-if"] == pytest.approx(np.mean(values(found[0], "task", ("task-if", "cg"), "spearman")))


def test_times_are_shares_of_a_fit_from_scratch(done):
    _, outcomes, _ = done
    group = groups(outcomes)[0]
    for one, ratio in zip(group.outcomes, values(group, "task", ("task-if", "cg"), "runtime_ratio"), strict=True):
        row = next(line.row for line in one.lines if line.row.method == "task-if")
        assert row.edit_seconds > 0
        assert ratio == pytest.approx((row.seconds + row.edit_seconds) / one.fit_seconds)


def test_means_have_students_interval():
    found = mean([1.0, 2.0, 4.0, math.nan])
    assert (found.n, found.value) == (3, pytest.approx(7 / 3))
    low, high = t.interval(0.95, 2, loc=7 / 3, scale=np.std([1, 2, 4], ddof=1) / 3**0.5)
    assert (found.value - found.half, found.value + found.half) == (pytest.approx(low), pytest.approx(high))
    assert mean([3.0]).text(".1f") == "3.0"
    assert mean([math.nan]).text(".1f") == "–"
    middle, half = mean_curve([np.array([0.0, 1.0]), np.array([0.0, 3.0]), np.array([0.0, 2.0])])
    assert middle.tolist() == [0.0, 2.0]
    assert half[0] == 0.0


@pytest.mark.parametrize("part", ["device", "executor", "memory_gib", "about", "seeds"])
def test_stores_that_differ_in_what_changes_no_result_are_of_one_study(done, part):
    folder, *_ = done
    (store,) = open_stores([folder])
    other = replace(store, raw={**store.raw, part: "else"})
    assert len(mf.merged([store, other]).outcomes) == len(store.outcomes)
    different = replace(store, raw={**store.raw, "l2": 2.0}, folder=folder / "other")
    assert len(mf.merged([store, different]).outcomes) == 2 * len(store.outcomes)


def test_an_outcome_of_another_version_is_refused_with_its_file(done):
    folder, outcomes, _ = done
    file = folder / "outcomes" / f"{outcomes[0].id}.safetensors"
    tensors, facts = load_tensors(file)
    other = folder / f"{outcomes[0].id}.safetensors"
    for changed in ({**facts, "full": {"bananas": 1}}, {k: v for k, v in facts.items() if k != "sides"}):
        save_tensors(other, tensors, changed)
        with pytest.raises(mf.StoreError, match=r"safetensors was written by another version"):
            load_outcome(other)


def test_an_outcome_that_cannot_be_read_is_left_out_and_said(done, tmp_path):
    folder, outcomes, _ = done
    store = tmp_path / "store"
    shutil.copytree(folder, store)
    first, second = (store / "outcomes" / f"{one.id}.safetensors" for one in outcomes[:2])
    first.write_bytes(second.read_bytes())
    (found,) = open_stores([store])
    assert found.missing == (outcomes[0].id,)
    assert len(found.outcomes) == len(outcomes) - 1
    assert f"holds the outcome of {outcomes[1].id}. It was moved or copied there." in found.damage[0]
    for file in (store / "outcomes").iterdir():
        file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(mf.StoreError, match=r"is damaged.*Run its study to the end"):
        open_stores([store])
    (store / "study.json").write_text("{")
    with pytest.raises(mf.StoreError, match=r"study.json is damaged .*Run the study again in this folder"):
        open_stores([store])
