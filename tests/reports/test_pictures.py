"""What a report draws: the front and the names on it, and the most harmful and most helpful items as pictures."""

import subprocess
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

import metafluence as mf
from metafluence import default_registry
from metafluence.evaluation import Row, Run
from metafluence.evaluation.metrics import pareto_front
from metafluence.reports.figures.fidelity_against_runtime import fidelity_against_runtime, on_front
from metafluence.reports.figures.harmful_and_helpful import ends, exhibit, judge, sampled
from metafluence.reports.groups import named, study_group
from metafluence.reports.point_labels import label_points
from metafluence.reports.task_pictures import drawn_as, said_label
from metafluence.runtime.provenance import versions
from small_studies import changed


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> mf.StudyResult:
    asked = {"levels": ["task", "query"], "truth": {"items": 3}, "methods": ["loss", "random", "influence", "tracin"]}
    asked["checkpoints"] = {"use": "sgd", "steps": 4, "batch": 3, "checkpoints": 1}
    folder = tmp_path_factory.mktemp("pictures")
    return mf.Study(mf.parse_study(changed(**asked, solvers=["exact"])), default_registry(), folder).run()


def test_the_front_holds_what_nothing_beats():
    cost = np.array([1.0, 2.0, 2.0, 3.0, 4.0, np.nan, 0.5])
    value = np.array([0.5, 0.4, 0.9, 0.9, 1.0, 2.0, np.nan])
    assert pareto_front(cost, value) == [0, 2, 4]
    assert pareto_front(np.array([1.0, 1.0]), np.array([0.2, 0.3])) == [1]
    assert pareto_front(np.array([]), np.array([])) == []


def test_the_front_of_a_study_is_drawn_and_named(done):
    group = study_group(done)
    front = on_front(group, "task")
    assert front
    figure = fidelity_against_runtime([group], "task")
    assert figure is not None
    written = {text.get_text() for text in figure.axes[0].texts} - {""}
    assert written == {named(method) for method in front}


def test_names_beside_points_do_not_overlap():
    figure = Figure(figsize=(4.8, 4), layout="constrained")
    axis = figure.subplots()
    points = [(1.0, 0.5), (1.1, 0.51), (1.2, 0.52), (1.25, 0.9), (1.3, 0.91), (2.0, 0.92)]
    axis.plot(*zip(*points, strict=True), "o-")
    label_points(figure, axis, points, [f"a method's name {i}" for i in range(len(points))])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axis.texts if text.get_text()]
    assert len(boxes) == len(points)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    frame = axis.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


def test_the_method_that_ranks_best_is_the_judge_and_never_a_baseline(done):
    chosen = judge(done, "task")
    assert chosen is not None
    ranks = {r.row.method: r.row.spearman for r in done.at("task")}
    assert ranks[chosen.row.method] == max(ranks["influence"], ranks["tracin"])
    without = replace(done, runs=tuple(r for r in done.runs if r.row.method in ("loss", "random")))
    assert judge(without, "task") is None
    assert exhibit(without, "task") is None


def test_the_lowest_scores_are_the_harmful_ones():
    run = Run(row=Row(method="x", units="loss_change"), scores=torch.tensor([0.3, -0.2, 0.1, -0.5, 0.2, -0.1]))
    assert ends(run.scores, run.row.units, 3) == {"harmful": [3, 1, 5], "helpful": [0, 4, 2]}
    assert ends(run.scores, run.row.units, 2) == {"harmful": [3, 1], "helpful": [0, 4]}
    assert ends(run.scores + 0.4, run.row.units, 3)["harmful"] == [3]  # what helps a little is not harmful
    assert ends(run.scores + 0.4, "rank_only", 3)["harmful"] == [3, 1, 5]
    assert ends(torch.tensor([1.0]), run.row.units, 3) == {"harmful": [], "helpful": []}


def test_instances_shown_keep_the_share_of_the_corrupted():
    marks = torch.zeros(24, dtype=torch.bool)
    assert len(sampled(marks, 6)) == 6
    marks[[3, 4]] = True
    assert sum(bool(marks[i]) for i in sampled(marks, 6)) == 1  # at least one
    marks[:23] = True
    assert sum(bool(marks[i]) for i in sampled(marks, 6)) == 5  # and a clean one
    assert sampled(torch.ones(24, dtype=torch.bool), 6) == sorted(set(sampled(torch.ones(24, dtype=torch.bool), 6)))
    assert sampled(marks[:4], 6) == [0, 1, 2, 3]


def test_the_clean_tasks_are_kept_and_labels_say_what_they_were(done):
    tasks, clean = done.split.train, done.split.clean
    assert not clean.corrupted.any()
    assert torch.equal(clean.support.inputs, tasks.support.inputs)
    task, instance = tasks.corrupted_query.nonzero()[0].tolist()
    text = said_label(tasks.query, clean.query, True, (task, instance))
    assert text == f"{tasks.query.targets[task, instance]}, was {clean.query.targets[task, instance]}"
    assert said_label(clean.query, clean.query, True, (task, instance)).endswith(", changed")
    assert mf.Split(tasks, tasks, tasks).clean is tasks


def test_instances_that_are_no_pictures_are_left_out(done):
    split = done.split
    flat = replace(split.train, **{
        half: mf.Batch(getattr(split.train, half).inputs.flatten(2), getattr(split.train, half).targets)
        for half in ("support", "query")
    })  # fmt: skip
    assert drawn_as(split.train) == "images"
    assert drawn_as(flat) == ""
    assert exhibit(replace(done, split=replace(split, train=flat)), "task") is None
    for level in ("task", "query"):
        shown = exhibit(done, level)
        assert shown is not None
        assert set(shown.figures) <= {"harmful", "helpful"}


def test_instances_are_shown_by_the_name_of_their_task_and_their_score(done):
    shown, run, tasks = exhibit(done, "query"), judge(done, "query"), done.split.train
    assert shown is not None
    assert run is not None
    names = [text.get_text() for text in shown.figures["harmful"].findobj(Text)]
    size = tasks.query.targets.shape[1]
    for item in ends(run.scores, run.row.units, 12)["harmful"]:
        assert any(tasks.ids[item // size] in name and f"{run.scores[item]:.1e}" in name for name in names)


def test_versions_name_the_commit_of_a_checkout_and_none_elsewhere(tmp_path: Path):
    assert versions(tmp_path)["commit"] is None
    assert versions(tmp_path / "nowhere")["commit"] is None
    assert versions()["torch"] == torch.__version__

    def git(*words: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "one", "--no-verify")
    head = git("rev-parse", "HEAD").strip()
    assert versions(tmp_path)["commit"] == head
    (tmp_path / "file").write_text("2")
    assert versions(tmp_path)["commit"] == f"{head}-dirty"
