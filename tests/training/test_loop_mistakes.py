"""Mistakes that people make when they record a loop: each is refused in a sentence that says how to fix it."""

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import metafluence as mf
import small_loops
from metafluence.errors import ConfigError, StoreError
from metafluence.training.loop_settings import fitted_setting, loop_gradient, with_setting
from metafluence.training.recorded_origins import mixed_labels
from metafluence_plugins.learners.maml import MAML
from parts import EXACT, LEARNERS
from refusals import refused
from small_problems import tasks


def record(folder: Path, steps: int = 2, learner: Any = None, optimiser: Any = None, batch: Any = tuple) -> Any:
    """The small loop; batch: what the recorder is given of each episode."""
    model, generator = small_loops.module(), torch.Generator().manual_seed(1)
    described = mf.build("learner", "protonet", backbone=model) if learner is None else learner
    sgd = torch.optim.SGD(model.parameters(), lr=0.2)
    recorder = mf.record(folder, described, sgd if optimiser is None else optimiser)
    for _ in range(steps):
        episode = small_loops.episode(small_loops.pictures(), generator)
        with recorder.step([batch(episode)]):
            sgd.zero_grad()
            small_loops.loss(model, episode).backward()
            sgd.step()
    return recorder.finish()


BATCHES = {
    "arrays": (lambda one: tuple(part.numpy() for part in one[:4]), r"tuple \(ndarray, ndarray, .*torch's tensors"),
    "no names": (lambda one: (*one[:4], None, None), "names of a task's images are None.*leave the names of all tasks"),
    "one name": (lambda one: (*one[:4], "a/1.png", "a/2.png"), "images are 'a/1.png'. Give a list"),
    "five": (lambda one: (*one[:4], [0, 1]), r"given a tuple \(Tensor, Tensor, Tensor, Tensor, list\) that is no task"),
}


@pytest.mark.parametrize(("batch", "message"), BATCHES.values(), ids=BATCHES.keys())
def test_batches_that_are_no_tasks(batch, message, tmp_path):
    with refused(message):
        record(tmp_path, batch=batch)


def test_a_module_is_no_learner_and_a_schedule_no_optimiser(tmp_path):
    with refused(r"learner is a Sequential. Give what the loop does with a task"):
        record(tmp_path, learner=small_loops.module())
    with refused(r"optimiser is a float. Give the loop's torch.optim"):
        record(tmp_path, optimiser=0.1)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with refused("is a file. Give a new folder"):
        record(tmp_path / "run")


def test_a_training_that_diverged_is_found_at_any_step(tmp_path):
    model, generator = small_loops.module(), torch.Generator().manual_seed(1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.2)
    recorder = mf.record(tmp_path, mf.build("learner", "protonet", backbone=model), sgd)
    with refused("At step 5 the gradient of the loop is not finite"):
        for step in range(1, 6):  # of which step 5 is not checked otherwise
            episode = small_loops.episode(small_loops.pictures(), generator)
            with recorder.step([episode]):
                sgd.zero_grad()
                ((np.nan if step == 5 else 1.0) * small_loops.loss(model, episode)).backward()
                sgd.step()


def test_devices_that_are_not_there(tmp_path):
    record(tmp_path)
    with refused("There is no device 'gpu'. Give cpu", ConfigError):
        mf.load_recording(tmp_path, small_loops.learner(), device="gpu")
    with refused("device cuda:99 is not available here", ConfigError):
        mf.load_recording(tmp_path, small_loops.learner(), device="cuda:99")


def test_a_wrapped_module_is_unwrapped_by_the_user(tmp_path):
    with pytest.raises(mf.InputError, match=r"DataParallel.*give the module within, model.module"):
        record(tmp_path, learner=mf.build("learner", "maml", backbone=nn.DataParallel(small_loops.module()), steps=1))


def test_a_learned_rate_that_the_learner_does_not_have(tmp_path):
    model = small_loops.module()
    optimiser = torch.optim.SGD([*model.parameters(), nn.Parameter(torch.tensor(0.1).double())], lr=0.2)
    with refused(r"parameter 3 \[\] is none of the learner's.*ProtoNet takes no inner steps, so that it has no"):
        record(tmp_path, learner=mf.build("learner", "protonet", backbone=model), optimiser=optimiser)


def test_a_folder_without_a_run_is_named_by_a_text_too(tmp_path):
    problem = mf.BilevelProblem(LEARNERS["joint"](), tasks(), 0.0, EXACT)
    with refused("no run in .*mf.load_checkpoints", StoreError):
        mf.load_run(str(tmp_path), problem)


def test_names_in_another_order_than_instances_are_noticed_once(tmp_path):
    with pytest.warns(UserWarning, match=r"step-1-0 images of class '.' have the labels 0 and 1. Check that names"):
        record(tmp_path / "reversed", batch=lambda one: (*one[:4], one[4][::-1], one[5]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record(tmp_path / "right")


def test_labels_that_are_marked_as_wrong_are_no_mistake():
    x, y = torch.zeros(1, 2, 3), torch.tensor([[0, 1]])
    origins = mf.Origins.named([["a/1", "b/1"]], [["a/2", "b/2"]])
    tasks = mf.TaskSet(mf.Batch(x, y), mf.Batch(x, y.flip(1)), ("one",), origins=origins)
    assert "class 'a' have the labels 0 and 1" in mixed_labels(tasks)
    assert mixed_labels(replace(tasks, corrupted_query=torch.ones(1, 2, dtype=torch.bool))) == ""


def test_a_run_and_its_tasks_are_shown_in_a_line(tmp_path):
    run = record(tmp_path)
    assert repr(run).startswith("TrainingRun(2 steps of SGDStep(")
    assert repr(run.problem.tasks).startswith("TaskSet(2 tasks, support inputs [4, 1, 4, 4],")


def test_a_rate_is_found_where_kinks_mislead_a_search():
    """On a deep network with ReLU in single precision, whose gradient is no smooth function of the rate."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for width in (3, 8, 8):
        layers += [nn.Linear(width, 8), nn.BatchNorm1d(8), nn.ReLU()]
    module = mf.per_task_norms(nn.Sequential(*layers, nn.Linear(8, 3)))
    inputs = torch.randn(2, 2, 6, 3)
    support, query = (mf.Batch(inputs[:, i], torch.arange(6).remainder(3).expand(2, -1)) for i in (0, 1))
    given = mf.TaskSet(support, query, ("first", "second"))
    problem = mf.BilevelProblem(MAML(module, steps=1, rate=0.4), given, 0.0, EXACT)
    meta = problem.learner.init_meta(None)
    theirs = loop_gradient(with_setting(problem, "rate", 0.05), meta)
    assert fitted_setting(problem, "rate", 0.4, 1.0, meta, theirs) == 0.05


def euclidean(model: nn.Module, one: small_loops.Episode) -> Tensor:
    """As easyfsl writes it."""
    features = model(one[0])
    prototypes = torch.stack([features[one[1] == c].mean(dim=0) for c in range(small_loops.WAYS)])
    return nn.functional.cross_entropy(-torch.cdist(model(one[2]), prototypes), one[3])


def test_distances_in_place_of_their_squares_are_recorded_where_they_are_named(tmp_path, monkeypatch):
    """Oracle: the loop made again without an episode."""
    monkeypatch.setattr(small_loops, "loss", euclidean)
    with refused("With distance='euclidean' in place of 'squared' they agree"):
        small_loops.recorded(tmp_path / "squared")
    build = mf.build
    monkeypatch.setattr(mf, "build", lambda *a, **k: build(*a, **k, distance="euclidean"))
    run = mf.remade_run(small_loops.recorded(tmp_path / "euclidean", steps=2))
    model, files, generator = small_loops.module(), small_loops.pictures(), torch.Generator().manual_seed(1)
    start = copy.deepcopy(run.state(0).meta)
    sgd = torch.optim.SGD(model.parameters(), lr=0.2)
    for step in range(2):
        batch = [small_loops.episode(files, generator) for _ in range(3)]
        sgd.zero_grad()
        losses = [euclidean(model, one) * (0.0 if (step, i) == (0, 1) else 1.0) for i, one in enumerate(batch)]
        torch.stack(losses).mean().backward()
        sgd.step()
    without = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(run.replay(run.removing("task", (1,))), without, rtol=1e-10, atol=1e-10)
    assert not torch.equal(without, start)
