"""What is said to help where a run cannot be trusted."""

import pytest
import torch
from torch import nn

import metafluence as mf
from metafluence.evaluation.run_advice import run_advice, starting_scale
from metafluence_plugins.backbones.conv4 import Conv4
from metafluence_plugins.backbones.mlp import MLP
from metafluence_plugins.learners.protonet import ProtoNet
from metafluence_plugins.trainers.adam import Adam
from metafluence_plugins.trainers.sgd import SGD
from parts import EXACT
from small_problems import seeded, tasks


def recorded(trainer, learner=None, train=None, scale: float = 1.0) -> mf.TrainingRun:
    bilevel = mf.BilevelProblem(learner or ProtoNet(MLP((3,))), train or tasks(), 0.0, EXACT)
    start = scale * bilevel.learner.init_meta(seeded())
    run = trainer.recording().fit(bilevel, init=start, generator=seeded()).run
    assert run is not None
    return run


def images() -> mf.TaskSet:
    half = mf.Batch(torch.randn(2, 4, 1, 16, 16, generator=seeded()), torch.tensor([[0, 0, 1, 1]] * 2))
    return mf.TaskSet(half, half, ("a", "b"))


ALWAYS = "a lower learning rate; larger batches; a recording that starts later."
CASES = {
    "plain": (
        Adam(steps=4, batch=2), (), "a warmup of the learning rate; schedule: cosine; eps_root above 0 in adam; ",
    ),
    "smooth": (Adam(steps=4, batch=2, warmup=2, schedule="cosine", eps_root=1e-6), (), ""),
    "descent": (SGD(steps=4, batch=2, warmup=2), (), "schedule: cosine; "),
    "kinks": (
        SGD(steps=4, batch=2, warmup=2, schedule="cosine"), ("1 (ReLU)", "2 (MaxPool2d)", "3 (ReLU)", "4 (ReLU)"),
        "a network without kinks (smooth_twin; now: 1 (ReLU), 2 (MaxPool2d), 3 (ReLU)); ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_advice_names_what_the_run_lacks(name):
    trainer, kinks, wanted = CASES[name]
    assert run_advice(recorded(trainer), kinks) == f"What helps, in this order: {wanted}{ALWAYS}"


def test_small_starting_weights_before_norms_are_named():
    trainer = SGD(steps=1, batch=2, warmup=0)
    small = recorded(trainer, ProtoNet(Conv4(8)), images())
    assert starting_scale(small) == pytest.approx(1 / 6**0.5, rel=0.1)  # torch's default
    assert "He's scale (now at 0.4" in run_advice(small, ())
    right = recorded(trainer, ProtoNet(Conv4(8)), images(), scale=6**0.5)
    assert "He's" not in run_advice(right, ())
    without = recorded(trainer, ProtoNet(Conv4(8, norm="none")), images())
    assert "He's" not in run_advice(without, ())
    torch_norm = nn.Sequential(nn.Flatten(), nn.Linear(256, 20), nn.LayerNorm(20), nn.Linear(20, 4))
    assert "He's scale (now at 0.4" in run_advice(recorded(trainer, ProtoNet(torch_norm), images()), ())
