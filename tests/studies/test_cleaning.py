"""Which images a study would delete, and the evidence for it, against exact fits."""

import pandas as pd
import pytest
import torch

import metafluence as mf
from metafluence import Cleaning, InputError, Selection
from metafluence_plugins.methods.loss import LossScore
from small_studies import RUN, changed, command, write

ASKED = {
    "levels": ["image"],
    "corruption": {"kind": "image-labels", "fraction": 0.2},
    "methods": ["instance-if", "retrain"],
    "truth": {"items": 2},
    "certificate": False,
    "solvers": ["exact"],
}


def study(folder, **changes) -> mf.Study:
    return mf.Study(mf.parse_study(changed(**{**ASKED, **changes})), mf.default_registry(), folder)


def test_the_most_harmful_images_are_removed_and_the_evidence_is_the_fit_without_them(tmp_path):
    asked = study(tmp_path, methods=["instance-if"], certificate=True)
    found = mf.clean(asked, LossScore(), share=0.05, draws=3)
    assert not list(tmp_path.rglob("certificates")), "work that is no part of the evidence"
    assert found.evidence is not None
    scores = found.scores["instance-if exact"]
    gone = found.evidence.removed["instance-if exact"]
    assert len(gone) == round(0.05 * len(scores))
    assert bool((scores[list(gone)] < 0).all())
    assert float(scores[list(gone)].max()) <= float(scores.sort().values[len(gone) - 1])
    evaluation = asked.prepare().evaluations["image"]
    assert evaluation.bank is not None
    meta = evaluation.bank.leave_out([gone], "image").meta[:, 0]
    test = mf.Targets(evaluation.problem, evaluation.test_tasks, evaluation.meta)
    change = float(test.losses(meta) - test.losses())
    assert found.evidence.change["instance-if exact"] == pytest.approx(change, abs=1e-9)

    mf.write_cleaning(found, tmp_path / "clean")
    removed, kept, evidence = (pd.read_csv(tmp_path / "clean" / f"{n}.csv") for n in ("removed", "kept", "evidence"))
    assert found.tasks.origins is not None
    names = found.tasks.origins.images
    assert sorted(removed["image"]) == sorted(names[i] for i in gone)
    assert sorted([*removed["image"], *kept["image"]]) == sorted(names)
    assert {"class", "instance-if exact", "loss", "why"} <= set(removed)
    assert str(removed["why"][0]).startswith(f"number 1 of {len(names)} by instance-if exact")
    assert list(evidence["without"]) == ["instance-if exact", "loss", "random 1", "random 2", "random 3"]


def cleaning(change: float, loss: float, random: list[float], replays: bool = False, fresh: bool = True) -> Cleaning:
    tasks = mf.parse_study  # not read by the answer
    selection = Selection({"if": (0, 1), "loss": (1, 2)}, {"if": change, "loss": loss}, torch.tensor(random))
    return Cleaning(tasks, "if", {}, selection, 8, fresh, replays)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "random", "says"),
    [
        (-0.5, [0.1, -0.1, 0.2] * 7, "Remove these 2 images"),
        (-0.5, [0.1, -0.1, 0.2], "Try 19 random sets or more before you decide"),
        (-0.5, [0.1, -0.1, float("nan")] * 7, "Try 19 random sets or more before you decide"),
        (-0.05, [0.1, -0.1, 0.2], "No improvement beyond random removals is shown"),
        (0.05, [0.1, 0.3, 0.2], "Do not remove these 2 images"),
        (float("nan"), [0.1, 0.3, 0.2], "There is no evidence for removing"),
    ],
)
def test_the_answer_claims_no_more_than_the_evidence_shows(change, random, says):
    answer, beside = mf.cleaning_answer(cleaning(change, -0.2, random))
    assert answer.startswith(says)
    assert "Loss finds wrong labels, influence finds what hurts these targets" in beside
    assert "further than" in beside


def test_what_the_targets_themselves_show_is_not_said_of_other_tasks():
    """Images chosen by these tasks' loss are no random set to them, so there is no chance to speak of."""
    answer, _ = mf.cleaning_answer(cleaning(-0.5, -0.2, [0.1, -0.1, 0.2] * 7, fresh=False))
    assert answer.startswith("These 2 images harm the very tasks that they were chosen for: the mean loss of 8 target")
    assert "Whether other tasks gain is not shown. Give the study a data set that has test tasks" in answer
    assert "chance" not in answer


def test_nothing_is_removed_where_nothing_harms():
    found = Cleaning(None, "if", {}, None, 8, True, False)  # type: ignore[arg-type]
    assert mf.cleaning_answer(found)[0].startswith("Nothing is removed")


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({"levels": ["task"], "methods": ["task-if"]}, {}, "does not score images"),
        ({"truth": None, "methods": ["instance-if"]}, {}, "no ground truth"),
        ({}, {"method": "task-if"}, "'task-if' is none that predicts loss changes of images"),
        ({"methods": ["loss"]}, {}, "No method of the study predicts loss changes"),
        ({}, {"share": 1.5}, "Give 0 to 1"),
        ({}, {"draws": 0}, "1 or more"),
    ],
)
def test_what_cannot_be_cleaned_is_refused_before_anything_is_computed(changes, options, says, tmp_path):
    with pytest.raises(InputError, match=says):
        mf.clean(study(tmp_path, **changes), LossScore(), **options)
    assert not list(tmp_path.iterdir())


def test_the_command_answers_first_and_wrong_input_is_a_sentence(tmp_path):
    write(tmp_path, **{**ASKED, "levels": ["task"], "methods": ["task-if"], "corruption": []})
    done = command(tmp_path, "clean", "study.yaml")
    assert done.returncode == 2
    assert "Add `image` to its levels" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_is_cleaned_by_its_replays(tmp_path):
    write(tmp_path, **{**RUN, "levels": ["image"], "truth": {"kind": "run", "items": 2}, "corruption": []})
    done = command(tmp_path, "clean", "study.yaml", "--draws", "3", "--out", "out")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "in the replay without them" in said
    assert (tmp_path / "out" / "clean" / "removed.csv").exists()
