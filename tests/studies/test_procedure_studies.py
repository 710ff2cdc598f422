"""Studies whose truth is a procedure: means over runs, for the truth, the scores and what removal leaves."""

from pathlib import Path

import numpy as np
import pytest
import torch

import metafluence as mf
from metafluence.evaluation import reliability
from metafluence.reports import level_table
from metafluence.studies.outcomes import load_outcome, outcome, save_outcome
from metafluence.studies.variations import Variation
from refusals import refused
from small_studies import RUN, without_pictures

PROCEDURE = {
    **RUN,
    "truth": {"kind": "procedure", "seeds": 3, "items": 5, "subsets": 6, "subset_share": 0.25},
    "methods": ["run-influence", "retrain", "loss"],
}


def run(folder: Path, **changes) -> mf.StudyResult:
    return mf.Study(mf.parse_study({**PROCEDURE, **changes}), mf.default_registry(), folder).run()


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[mf.StudyResult, Path]:
    folder = tmp_path_factory.mktemp("procedure")
    return run(folder), folder


def test_the_truth_is_the_mean_of_replays_of_each_run(done):
    result, _ = done
    evaluation, truth = result.evaluations["task"], result.truth
    assert len(evaluation.runs) == 3
    ends = [one.run.final for one in evaluation.runs]
    assert all(torch.equal(one.meta, end) for one, end in zip(evaluation.runs, ends, strict=True))
    assert not torch.equal(ends[0], ends[1])
    assert all(torch.equal(one.checkpoints[-1].meta, end) for one, end in zip(evaluation.runs, ends, strict=True))
    starts = [one.run.state(0).meta for one in evaluation.runs]
    assert not torch.equal(starts[0], starts[1]), "each run has a start of its own"
    effects = torch.stack(
        [mf.replayed(one.run, truth.removals, one.targets()).loss_change[:, 0] for one in evaluation.runs]
    )
    torch.testing.assert_close(truth.loss_change, effects.mean(dim=0), rtol=1e-9, atol=1e-14)
    assert truth.reliability.runs == 3
    assert truth.reliability.halves == pytest.approx(reliability(effects.numpy()).halves)
    assert truth.change is None


def test_scores_are_means_over_the_runs_and_so_is_what_removal_leaves(done):
    result, _ = done
    evaluation = result.evaluations["task"]
    influence, again, _ = result.runs
    method = mf.build("method", "run-influence")
    by_hand = [mf.attribute(method, one.context(), one.targets()).values[:, 0] for one in evaluation.runs]
    torch.testing.assert_close(influence.scores, torch.stack(by_hand).mean(dim=0))
    picked = again.scores[[removal[0] for removal in result.truth.removals]]
    torch.testing.assert_close(picked, result.truth.loss_change, rtol=1e-9, atol=1e-14)
    lowest = (int(influence.scores.argmin()),)
    kept = [one.test(one.run.replay(one.run.removing("task", lowest))).loss for one in evaluation.runs]
    assert float(influence.curve.loss_retrained[0]) == pytest.approx(np.mean(kept))
    moved = [
        one.meta + method.parameter_change(method.prepare(one.context()), [lowest]).values[:, 0]
        for one in evaluation.runs
    ]
    edited = [one.test(meta).loss for one, meta in zip(evaluation.runs, moved, strict=True)]
    assert float(influence.curve.loss_edited[0]) == pytest.approx(np.mean(edited))
    assert result.full.loss == pytest.approx(np.mean([one.test(one.meta).loss for one in evaluation.runs]))
    assert np.isnan(influence.row.change_error)


def test_no_method_is_ranked_by_effects_that_runs_do_not_share(done, tmp_path, monkeypatch):
    """With few items the truth cannot be told from chance; the report says so, and names no winner."""
    result, _ = done
    truth = result.truth
    for row in result.rows:
        assert np.isnan(row.spearman) != truth.reliability.usable
        assert np.isnan(row.lds) != truth.subset_reliability.usable
    monkeypatch.setattr("metafluence.evaluation.split_halves.LEAST", 1.01)
    never = run(tmp_path, methods=["run-influence", "loss"])
    assert all(np.isnan(row.spearman) and np.isnan(row.lds) for row in never.rows)
    said = " ".join(mf.verdict(never))
    assert "The procedure has no answer here: halves of 3 runs agree to" in said
    assert "What a method says holds for its own run only" in said
    assert "ranks tasks most like" not in said
    page = mf.write_report(never, tmp_path / "report").read_text()
    assert "The procedure has no answer here" in page
    assert "predicted-against-true" not in {f.stem for f in (tmp_path / "report" / "figures").glob("*")}


def test_what_all_sets_share_is_reported_by_itself(done):
    result, _ = done
    changes = result.truth.subset_loss_change.numpy()
    said = " ".join(mf.verdict(result))
    assert f"Leaving out 3 random tasks changes the validation loss by {changes.mean():+.2g} in the mean" in said
    assert f"by {changes.std(ddof=1):.2g} (standard deviation) from set to set" in said
    assert "the mean of 3 runs' replays" in level_table([mf.study_group(result)], "task").title


def test_it_is_read_from_its_store_and_kept_in_an_outcome(done, tmp_path):
    result, folder = done
    again = run(folder)
    assert again.reused == 3
    kept = outcome(Variation({}, result.config), result)
    file = tmp_path / f"{kept.id}.safetensors"
    save_outcome(file, kept)
    read = load_outcome(file)
    assert read.truth == kept.truth
    assert read.truth.runs == 3
    ours, theirs = kept.sides["task"], read.sides["task"]
    assert (ours.reliability, ours.subset_reliability) == (result.truth.reliability, result.truth.subset_reliability)
    assert theirs.reliability == ours.reliability
    assert theirs.subset_reliability == ours.subset_reliability
    assert (theirs.subset_loss_change, theirs.subset_size) == (ours.subset_loss_change, 3)


def test_a_run_and_its_procedure_share_their_first_fit_and_stand_on_one_page(tmp_path):
    kinds = {"run": {"truth.seeds": 0, "truth.kind": "run"}, "procedure": {"truth.seeds": 2}}
    raw = {**PROCEDURE, "vary": {"truth": kinds}, "methods": ["run-influence"], "levels": ["task"]}
    work = mf.Comparing(mf.parse_comparison(raw), mf.default_registry(), tmp_path)
    assert len({variation.work for variation in work.comparison.variations}) == 1
    assert mf.pilot(work).fits == 2
    outcomes = work.run(lambda study, result, place: None)
    whole = mf.Merged.of(work, outcomes)
    assert [one.truth.kind for one in whole.outcomes] == ["run", "procedure"]
    assert level_table(whole.groups, "task").title == "task level, against the truth of each variation"
    with without_pictures():
        page = mf.write_comparison(whole, tmp_path).read_text()
    assert "Methods are compared with the truth of each variation." in page
    assert "the mean of 2 runs&#39; replays" in page or "The procedure has" in page


WRONG = {
    "none": (
        {"truth": {"kind": "procedure"}},
        r"truth.seeds is 0, but `kind: procedure` is a mean over runs. Give how",
    ),
    "one": (
        {"truth": {"kind": "procedure", "seeds": 1}},
        r"truth.seeds is 1, but `kind: procedure` is a mean over runs",
    ),
    "start": ({"truth": {"kind": "procedure", "seeds": 2, "start": "cold"}}, "truth.start has no meaning"),
    "newton": ({"trainer": "newton"}, "newton records no run to replay"),
    "damping": ({"damping": {}}, "damping is of one fit, and the truth a mean over several. Remove it"),
    "grid": ({"grid": {"inner": ["exact"], "outer": ["cg"]}}, "grid is of one fit, and the truth a mean over several"),
    "checkpoints": ({"checkpoints": "sgd"}, "checkpoints is of one fit, and the truth a mean over several"),
    "budget": ({"budget": {"methods": ["run-influence"]}}, "budget splits errors of predicted minima"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_what_looks_at_one_fit_is_refused(changes, message, tmp_path):
    with refused(message):
        mf.Study(mf.parse_study({**PROCEDURE, **changes}), mf.default_registry(), tmp_path)
