"""`metafluence score` on a recorded loop: what it prints, the files it writes, and what it refuses."""

import re
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file

import metafluence as mf
from metafluence.cli.score import Bars
from metafluence.reports.study.run_report import scores_frame
from metafluence.studies.run_inputs import PARTS, read_targets
from small_loops import WRONG, learner, recorded, validation
from small_studies import command

LOOP = """
import metafluence as mf
from small_loops import learner

def nothing():
    return 3

def picky(module):
    return module
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a recorded run, one without names, targets and a description of the loop."""
    folder = tmp_path_factory.mktemp("scores")
    recorded(folder / "run")
    recorded(folder / "nameless", steps=1, named=False)
    arrays: dict[str, Any] = {name: part.numpy() for name, part in zip(PARTS, validation(), strict=True)}
    np.savez(folder / "new.npz", **arrays)
    save_file(dict(zip(PARTS, validation(), strict=True)), folder / "new.safetensors")
    np.savez(folder / "part.npz", support_x=np.zeros(3))
    (folder / "bad.npz").write_text("no archive")
    (folder / "loop.py").write_text(LOOP)
    return folder


def score(place, *more, run="run", targets="new.npz", learner="loop.py:learner"):
    return command(place, "score", run, "--learner", learner, "--targets", targets, *more)


@pytest.fixture(scope="module")
def done(place):
    return score(place, "--level", "image", "--top", "3", "--out", "out")


def test_the_answer_comes_first_and_names_the_wrong_file(done):
    assert done.returncode == 0, done.stderr
    answer = done.stdout.partition("Most harmful of the 18 images: ")[2].split()[0].rstrip(".,")
    assert answer == WRONG
    assert "Can it be trusted?" in done.stdout
    assert re.search(r"^ +1  a/0.png +-0\.\d+ ", done.stdout, re.MULTILINE)
    assert "sweeping back through the run: done" in done.stdout


def test_several_levels_have_a_folder_each(done, place):
    found = score(place, "--level", "image", "--level", "class", "--no-trust", "--out", "several")
    assert found.returncode == 0, found.stderr
    assert re.search(r"of the 18 images.*of the 3 classes", found.stdout, re.DOTALL)
    assert found.stdout.count("sweeping back") + found.stderr.count("sweeping back") == 1
    alone, both = (pd.read_csv(place / where / "scores.csv") for where in ("out", "several/scores-image"))
    pd.testing.assert_frame_equal(alone, both)
    assert len(pd.read_csv(place / "several" / "scores-class" / "scores.csv")) == 3


def test_all_items_are_written_by_name_with_the_scores_of_the_method(done, place):
    """Oracle: the method in Python."""
    run = mf.load_recording(place / "run", learner())
    tasks = read_targets(str(place / "new.npz"), mf.default_registry(), torch.float64)
    context = mf.Context(run.problem.at(run.final), level="image", run=run)
    method = mf.build("method", "run-influence")
    scores = mf.attribute(method, context, mf.Targets(run.problem, tasks, run.final)).values[:, 0]
    assert run.problem.tasks.origins is not None
    expected = dict(zip(run.problem.tasks.origins.images, scores.tolist(), strict=True))
    frame = pd.read_csv(place / "out" / "scores.csv")
    assert dict(zip(frame["image"], frame["score"], strict=True)) == pytest.approx(expected, rel=1e-12)
    assert frame["score"].is_monotonic_increasing
    assert (frame["class"] == frame["image"].str[0]).all()


def test_the_page_shows_the_worst(done, place):
    page = (place / "out" / "scores.html").read_text()
    assert page.count("<img") == 2
    assert f"Most harmful of the 18 images: {WRONG}" in page
    assert (place / "out" / "harmful.png").exists()


def test_parquet_holds_the_same(done, place):
    file = place / "out" / "scores.parquet"
    if find_spec("pyarrow") is None:
        assert not file.exists()
        assert "pip install 'metafluence[parquet]'" in " ".join(done.stdout.split())
    else:
        pd.testing.assert_frame_equal(pd.read_parquet(file), pd.read_csv(place / "out" / "scores.csv"))


@pytest.mark.parametrize(("level", "items"), [("support", 48), ("class", 3), ("task", 12)])
def test_other_levels_are_scored(place, level, items):
    found = score(place, "--level", level, "--no-trust", "--method", "{use: loss}", targets="new.safetensors")
    assert found.returncode == 0, found.stderr
    assert "sizes mean nothing" in found.stdout
    assert "trusted" not in found.stdout
    frame = pd.read_csv(place / "run" / f"scores-{level}-loss" / "scores.csv")
    assert len(frame) == items
    assert found.stdout.count("step-1-0, support 0 (") == (level == "support")


def test_the_learner_may_be_described_as_in_a_study(place):
    described = score(
        place, "--no-trust", "--out", "yaml", learner="{use: protonet, backbone: {use: mlp, hidden: [3]}}"
    )
    function = score(place, "--no-trust", "--out", "function")
    assert described.returncode == function.returncode == 0
    assert (place / "yaml" / "scores.csv").read_bytes() == (place / "function" / "scores.csv").read_bytes()


def test_targets_may_be_drawn_as_a_study_draws_them(tmp_path):
    """Oracle: the validation tasks of a study."""
    episodes = {"train": 2, "validation": 4, "test": 1, "way": 2, "shot": 1, "query": 2}
    asked = {"dataset": "digits", "episodes": episodes, "seed": 3}
    file = tmp_path / "targets.yaml"
    file.write_text(yaml.safe_dump(asked))
    study = mf.parse_study(
        {"name": "x", "learner": {"use": "protonet", "backbone": "mlp"}, "l2": 1.0, "methods": ["loss"], **asked}
    )
    drawn = mf.Study(study, mf.default_registry(), tmp_path / "study").preparation.tasks.split().validation
    for text in (str(file), yaml.safe_dump(asked, default_flow_style=True)):
        assert read_targets(text, mf.default_registry(), torch.float64).fingerprint() == drawn.fingerprint()


def test_an_interrupted_sweep_goes_on(place, monkeypatch):
    """The second time no step before the interruption is made again, and the scores are the same to the bit."""
    made = []
    step = Bars.step

    def interrupt(bars, done, total=None, note=""):
        made.append(done)
        if len(made) == 4:  # 0, then three of four steps; a segment has two
            raise KeyboardInterrupt
        step(bars, done, total, note)

    whole = score(place, "--no-trust", "--out", "whole")
    monkeypatch.setattr(Bars, "step", interrupt)
    broken = score(place, "--no-trust", "--out", "broken")
    assert broken.returncode == 130
    assert "the same command goes on" in broken.stderr
    again = score(place, "--no-trust", "--out", "broken")
    assert again.returncode == whole.returncode == 0
    assert made == [0, 1, 2, 3, 0, 3, 4]
    assert (place / "broken" / "scores.csv").read_bytes() == (place / "whole" / "scores.csv").read_bytes()


BAD = {
    "no run": ({"run": "none"}, "There are no recorded tasks in none"),
    "no names": ({"run": "nameless", "more": ("--level", "image")}, "Items of level 'image' are not known"),
    "no function": ({"learner": "loop.py:nothin"}, "no function 'nothin'.*Did you mean 'nothing'"),
    "no file": ({"learner": "other.py:learner"}, "there is no file other.py"),
    "no learner": ({"learner": "loop.py:nothing"}, "returns a int. Return what was given to mf.record"),
    "arguments": ({"learner": "loop.py:picky"}, "called without arguments"),
    "unknown": ({"learner": "{use: protonot}"}, "protonot"),
    "another": ({"learner": "{use: protonet, backbone: {use: mlp, hidden: [4]}}"}, "recorded with another learner"),
    "no targets": ({"targets": "none.npz"}, "there is no file none.npz"),
    "bad targets": ({"targets": "bad.npz"}, "cannot be read"),
    "part": ({"targets": "part.npz"}, "lacks support_y, query_x, query_y"),
    "words": ({"targets": "validation"}, "Give an .npz"),
    "field": ({"targets": "{dataset: digits, episode: {}}"}, "Did you mean 'episodes'"),
    "shape": ({"targets": "{dataset: digits, episodes: {way: 2, split: instances}}"}, "the learner is bound to"),
    "method": ({"more": ("--method", "instance-if")}, "does not support level 'task'"),
    "bank": ({"more": ("--method", "retrain")}, "retrain"),
}


@pytest.mark.parametrize(("how", "what"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_answered_is_refused_in_a_sentence(how, what, place):
    options = dict(how)
    found = score(place, *options.pop("more", ()), "--no-trust", "--out", "refused", **options)
    assert found.returncode == 2, found.stdout + found.stderr
    assert re.search(what, found.stderr), found.stderr
    assert "Traceback" not in found.stderr
    assert "traceback" not in found.stderr


def test_an_item_that_harms_is_never_said_to_help(place):
    run = mf.load_recording(place / "run", learner())
    tasks = read_targets(str(place / "new.npz"), mf.default_registry(), torch.float64)
    found = mf.score_run(run, tasks, mf.build("method", "run-influence"), "image", trust=False)
    table = mf.ends_table(found, 9)
    by_name = dict(zip(scores_frame(found)["image"], scores_frame(found)["score"], strict=True))
    assert all(by_name[row[1]] < 0 for row in table.rows if row[1] in by_name)
    assert all(by_name[row[3]] > 0 for row in table.rows if row[3] in by_name)
