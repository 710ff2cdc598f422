"""Studies of a run that was recorded: its numbers are those of the Python API, its store is used again, and what a
recorded run cannot answer is refused."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import metafluence as mf
from metafluence.runtime import save_tensors
from metafluence.studies.config import parse_study
from metafluence.studies.recorded_fit import RecordedFit
from metafluence.studies.run_inputs import PARTS, read_targets
from refusals import refused
from small_loops import WRONG, learner, recorded, validation
from small_studies import RUN, command, without_pictures

STUDY = {
    "name": "mine",
    "run": "run",
    "learner": "{use: protonet, backbone: {use: mlp, hidden: [3]}}",
    "dataset": "new.npz",
    "levels": ["image"],
    "methods": ["run-influence", {"use": "tracin", "along": "run"}, "loss"],
    "truth": {"items": 5},
    "executor": "serial",
    "certificate": False,
}


@pytest.fixture(scope="module", autouse=True)
def _no_pictures():
    with without_pictures():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a recorded run and target tasks."""
    folder = tmp_path_factory.mktemp("recorded")
    recorded(folder / "run")
    arrays: dict[str, Any] = {name: part.numpy() for name, part in zip(PARTS, validation(), strict=True)}
    np.savez(folder / "new.npz", **arrays)
    (folder / "loop.py").write_text("from small_loops import learner\n")
    return folder


def study(place, out, *words, **changes):
    file = place / f"{out}.yaml"
    file.write_text(yaml.safe_dump({**STUDY, **changes}))
    return command(place, "run", file.name, "--out", out, *words)


@pytest.fixture(scope="module")
def done(place):
    found = study(place, "out")
    assert found.returncode == 0, found.stderr
    return found


def test_rows_are_what_the_python_api_gives(done, place):
    """Oracle: scores and replays by hand, of the run made anew."""
    run = mf.remade_run(mf.load_recording(place / "run", learner()))
    targets = mf.Targets(
        run.problem, read_targets(str(place / "new.npz"), mf.default_registry(), torch.float64), run.final
    )
    rows = pd.read_csv(place / "out" / "results.csv")
    level = "image"
    listed = pd.read_csv(place / "out" / f"scores-{level}.csv")
    context = mf.Context(run.problem.at(run.final), level=level, run=run)
    for label, method in (
        ("run-influence", mf.build("method", "run-influence")),
        ("tracin along=run", mf.build("method", "tracin", along="run")),
        ("loss", mf.build("method", "loss")),
    ):
        scores = mf.attribute(method, context, targets).values[:, 0]
        assert listed[label].tolist() == pytest.approx(scores.tolist(), rel=1e-9), (level, label)
        known = listed["true loss change"].notna()
        removals = [(int(i),) for i in known.to_numpy().nonzero()[0]]
        assert len(removals) == 5
        truth = mf.replayed(run, removals, targets, level).loss_change[:, 0]
        assert listed["true loss change"][known].tolist() == pytest.approx(truth.tolist(), rel=1e-6, abs=1e-12)
        row = rows[(rows.level == level) & (rows.method == label)].iloc[0]
        mine = float(np.corrcoef(scores[[i for (i,) in removals]].argsort().argsort(), truth.argsort().argsort())[0, 1])
        assert row.spearman == pytest.approx(mine), (level, label)


def test_it_says_what_it_is_and_shows_pictures_of_the_loop(done, place):
    assert "making the run anew" in done.stdout
    assert "The target tasks are the test tasks, too" in " ".join(done.stdout.split())
    assert "against replays of this run" in done.stdout
    assert (place / "out" / "report.html").exists()


def run(place, out, **changes):
    """In Python, without a report."""
    asked = {**STUDY, "run": str(place / "run"), "dataset": str(place / "new.npz"), **changes}
    return mf.Study(mf.parse_study(asked), mf.default_registry(), place / out).run()


def test_a_finished_study_is_read_from_its_store(place, monkeypatch):
    first = run(place, "twice")
    monkeypatch.setattr(RecordedFit, "fit", lambda *a, **k: pytest.fail("made again"))
    again = run(place, "twice")
    assert again.reused == 3
    assert torch.equal(again.fit.meta, first.fit.meta)
    assert [row.spearman for row in again.rows] == [row.spearman for row in first.rows]


def test_images_of_a_loop_are_cleaned_by_its_replays(place):
    """Oracle: replays by hand, of the run made anew."""
    asked = {**STUDY, "run": str(place / "run"), "dataset": str(place / "new.npz"), "truth": {"items": 2}}
    study = mf.Study(mf.parse_study({**asked, "methods": ["run-influence"]}), mf.default_registry(), place / "clean")
    found = mf.clean(study, mf.build("method", "loss"), share=0.12, draws=2)
    assert found.replays
    assert found.evidence is not None
    assert found.tasks.origins is not None
    gone = found.evidence.removed["run-influence"]
    assert WRONG in [found.tasks.origins.images[i] for i in gone]
    made = mf.remade_run(mf.load_recording(place / "run", learner()))
    new = read_targets(str(place / "new.npz"), mf.default_registry(), torch.float64)
    without = mf.replayed(made, [gone], mf.Targets(made.problem, new, made.final), "image").loss_change
    assert found.evidence.change["run-influence"] == pytest.approx(float(without.mean()), abs=1e-9)


def test_a_loop_whose_loss_is_a_sum_is_retrained_and_scored_as_it_was(place):
    """Oracle: replays and scores by hand, of the run made anew, whose tasks weigh more than one."""
    recorded(place / "sum", summed=True)
    damped = {"use": "influence", "curvature": "gauss-newton", "damping": 1.0}
    asked = ["retrain", "run-influence", damped]
    found = run(place, "summed", run=str(place / "sum"), methods=asked, levels=["task"])
    made = mf.remade_run(mf.load_recording(place / "sum", learner()))
    assert float(made.weights.task.min()) == 3
    tasks = read_targets(str(place / "new.npz"), mf.default_registry(), torch.float64)
    new = mf.Targets(made.problem, tasks, made.final)
    without = mf.replayed(made, [(i,) for i in range(len(made.weights.task))], new).loss_change[:, 0]
    assert [one.row.status for one in found.runs] == ["ok"] * 3
    retrained, *scored = found.runs
    torch.testing.assert_close(retrained.scores, without, rtol=1e-9, atol=1e-12)
    context = mf.Context(made.problem.at(made.final, made.weights), run=made)
    for spec, one in zip(({"use": "run-influence"}, damped), scored, strict=True):
        by_hand = mf.attribute(mf.default_registry().build("method", spec), context, new).values[:, 0]
        torch.testing.assert_close(one.scores, by_hand, rtol=1e-6, atol=1e-10)


def test_settings_that_a_recorded_run_does_not_have_are_not_stated(place):
    found = run(place, "settings", methods=["loss"], levels=["task"]).settings
    assert not [name for name in found if name.startswith(("episodes", "l2", "trainer"))]
    assert found["truth.kind"] == "run"


def test_another_recording_in_the_folder_is_another_fit(place):
    recorded(place / "other", steps=2)
    first = run(place, "anew", run=str(place / "other"), methods=["loss"])
    (place / "other").rename(place / "earlier")
    recorded(place / "other", steps=3)
    second = run(place, "anew", run=str(place / "other"), methods=["loss"])
    assert "made with another train, another trainer" in " ".join(second.warnings)
    assert not torch.equal(first.fit.meta, second.fit.meta)


def test_a_run_that_cannot_be_made_again_says_so(place, monkeypatch):
    """The loop's end is moved by hand, as if it had done at its last steps what its description does not say."""
    opened = mf.load_recording(place / "run", learner())
    monkeypatch.setattr(mf.TrainingRun, "fingerprint", lambda run: "fixed")
    monkeypatch.setattr("metafluence.studies.preparation.open_run", lambda *a: opened)
    object.__setattr__(opened, "__dict__", {**vars(opened), "final": opened.final + 0.1})
    found = run(place, "moved", methods=["loss"], levels=["task"])
    assert "made anew misses the recorded one's end by" in " ".join(found.warnings)


def test_a_dry_run_lists_and_estimates(place):
    found = study(place, "dry", "--dry-run")
    assert found.returncode == 0, found.stderr
    assert "image-run-influence" in found.stdout
    assert "3 runs in 1 variation, with 1 fit and at most" in found.stdout


def image_of(run, kept):
    """The number in a run of the first image of the one that was kept."""
    return (run.problem.tasks.origins.images.index(kept.problem.tasks.origins.images[0]),)


def test_the_run_of_a_trainer_is_kept_and_its_targets_are_drawn(place, tmp_path):
    """Oracle: the study that made the run."""
    config = mf.parse_study(RUN)
    whole = mf.Study(config, mf.default_registry(), tmp_path / "study").run()
    mine = whole.fit.run
    assert mine is not None
    mf.save_recording(mine, tmp_path / "run")
    kept = mf.load_recording(tmp_path / "run", mf.build("learner", "protonet", backbone=RUN["learner"]["backbone"]))
    assert torch.equal(
        kept.replay(kept.removing("image", (0,))), mine.replay(mine.removing("image", image_of(mine, kept)))
    )
    parts = {name: RUN[name] for name in ("name", "dataset", "episodes", "learner", "methods", "truth", "remove")}
    asked = {**parts, "run": str(tmp_path / "run"), "executor": "serial", "certificate": False}
    again = mf.Study(mf.parse_study(asked), mf.default_registry(), tmp_path / "again").run()
    assert torch.equal(again.fit.meta, whole.fit.meta)
    assert again.settings["episodes.validation"] == RUN["episodes"]["validation"]
    assert "episodes.train" not in again.settings, "the run was made with its own"
    for ours, theirs in zip(again.rows, whole.rows, strict=True):
        for name in ("spearman", "lds", "slope", "change_error", "accuracy_retrained", "loss_edited"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-12, nan_ok=True), name


def test_two_recorded_runs_are_compared(place):
    varied = {**STUDY, "vary": {"run": ["run", "short"]}}
    found = mf.parse_comparison(varied).variations
    assert [one.label for one in found] == ["run run", "run short"]
    assert len({one.work for one in found}) == 2


BAD = {
    "trainer": ({"trainer": "adam"}, "trainer and run are both given, but the run is the fit"),
    "l2": ({"l2": 1.0}, "l2 and run are both given, but the run was made with its own"),
    "corruption": ({"corruption": {"kind": "query-labels"}}, "corruption and run are both given"),
    "checkpoints": ({"checkpoints": "sgd"}, "checkpoints and run are both given"),
    "minimum": ({"truth": {"kind": "minimum"}}, "truth.kind is 'minimum', but a recorded run has no trainer"),
    "procedure": ({"truth": {"kind": "procedure", "seeds": 3}}, "truth.kind is 'procedure', but a recorded run"),
    "seeds": ({"seeds": 2}, "seeds has several values, but run is one fit"),
    "vary": ({"vary": {"learner": ["{use: protonet}", "loop.py:learner"]}}, "vary changes learner, but run is one fit"),
    "dtype": ({"dtype": "float32"}, "dtype is float32, but the run in run is of float64. Set dtype: float64"),
    "no run": ({"run": "none"}, "There are no recorded tasks in none"),
    "learner": ({"learner": {"use": "protonet", "backbone": {"use": "mlp", "hidden": [4]}}}, "another learner"),
    "file": ({"dataset": "none.npz"}, "dataset: there is no file none.npz"),
    "episodes": ({"episodes": {"way": 2}}, "dataset is a file of them. Remove episodes"),
    "method": ({"methods": ["nothing"]}, "nothing"),
    "budget": ({"budget": {"methods": ["influence"]}}, "budget splits errors of predicted minima"),
    "typo": ({"runs": "run"}, "there is no field 'runs'. Did you mean 'run'"),
}


@pytest.mark.parametrize(("changes", "what"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_combined_is_refused_in_a_sentence(changes, what, place):
    found = study(place, "refused", **changes)
    assert found.returncode == 2, found.stdout + found.stderr
    assert re.search(re.escape(what), " ".join(found.stderr.split())), found.stderr
    assert "traceback" not in found.stderr.lower()


def test_a_folder_with_other_files_takes_no_recording(place):
    run = mf.load_recording(place / "run", learner())
    with refused("holds a recording or other files"):
        mf.save_recording(run, place / "run")


def test_a_study_is_of_the_number_type_of_its_run_where_it_names_none(tmp_path):
    save_tensors(tmp_path / "run.safetensors", {"peaks": torch.zeros(1, dtype=torch.float32)}, {})
    raw = {**STUDY, "run": str(tmp_path)}
    assert parse_study(raw).dtype == "float32"
    assert parse_study({**raw, "dtype": "float64"}).dtype == "float64"
    assert parse_study({**raw, "run": str(tmp_path / "none")}).dtype == "float64"


def test_near_the_model_is_a_truth_too(place):
    """Oracle: a bank by hand."""
    found = run(
        place, "near", truth={"kind": "proximal", "damping": 1.0, "items": 2}, levels=["task"], methods=["loss"]
    )
    evaluation = found.evaluations["task"]
    given = (evaluation.problem, found.fit, mf.build("trainer", "newton"), mf.build("executor", "serial"))
    bank = mf.RetrainBank(*given, start=mf.Proximal(damping=1.0))
    assert found.truth is not None
    assert found.truth.change is not None
    by_hand = bank.leave_out(found.truth.removals[:1]).meta[:, 0] - found.fit.meta
    torch.testing.assert_close(found.truth.change[:, 0], by_hand, rtol=1e-9, atol=1e-14)
