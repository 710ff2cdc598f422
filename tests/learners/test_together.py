"""Learners that encode a task's support and query in one call: what a batch norm sees, derivatives, recorded loops."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import metafluence as mf
from metafluence import Backbone, BilevelProblem
from metafluence.testing import learner_suite
from metafluence.testing.problems import random_meta
from metafluence_plugins.learners.anil import ANIL
from metafluence_plugins.learners.protonet import ProtoNet
from parts import EXACT
from refusals import refused
from small_problems import tasks


@dataclass(frozen=True)
class Normed(Backbone):
    """A small smooth network with a batch norm."""

    width: int = 2

    def module(self, input_shape: torch.Size, outputs: int | None) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(input_shape.numel(), self.width), mf.TaskBatchNorm(self.width), nn.Tanh()
        )


# A removed instance counts in the statistics as before; the suite's retraining leaves it there, too.
TestProtonetTogether = learner_suite(ProtoNet(Normed(), shrinkage=0.1, together=True), examples=1)
TestAnilTogether = learner_suite(ANIL(Normed(), steps=2, rate=0.3, together=True), examples=1)


def reference(meta: Tensor, inputs: Tensor) -> Tensor:
    """The network in plain torch, in training mode."""
    norm = nn.BatchNorm1d(2)
    module = nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), 2), norm, nn.Tanh()).double()
    size = sum(p.numel() for p in module.parameters())
    nn.utils.vector_to_parameters(meta[:size], module.parameters())
    return module(inputs)


def test_batch_statistics_are_those_of_both_halves_of_a_task():
    """Oracle: torch's own batch norm, called on both."""
    given = tasks(3)
    problem = BilevelProblem(ProtoNet(Normed(), together=True), given, 0.1, EXACT)
    meta = random_meta(problem)
    for i in range(3):
        features = reference(meta, torch.cat([given.support.inputs[i], given.query.inputs[i]]))
        support, query = features.split([given.support.inputs.shape[1], given.query.inputs.shape[1]])
        means = torch.stack([support[given.support.targets[i] == c].mean(dim=0) for c in range(2)])
        wanted, ours = -torch.cdist(query, means).square(), problem.at(meta).predictions[i]
        torch.testing.assert_close(ours - ours[:, :1], wanted - wanted[:, :1], rtol=1e-9, atol=1e-9)
    apart = BilevelProblem(ProtoNet(Normed()), given, 0.1, EXACT).at(meta)
    assert not torch.allclose(apart.predictions, problem.at(meta).predictions)


def original(model: nn.Module, one: tuple[Tensor, ...]) -> Tensor:
    """As the code of the paper on prototypical networks calls its encoder."""
    features = model(torch.cat([one[0], one[2]]))
    support, query = features[: len(one[0])], features[len(one[0]) :]
    prototypes = torch.stack([support[one[1] == c].mean(dim=0) for c in range(2)])
    return nn.functional.cross_entropy(-torch.cdist(query, prototypes).square(), one[3])


def loop(recorder_of, without: int | None = None) -> nn.Module:
    """Three steps of two tasks; without the loss of one task."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh()).double()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    recorder = recorder_of(model, sgd)
    for step in range(3):
        drawn = tasks(2, seed=step)
        halves = (drawn.support.inputs, drawn.support.targets, drawn.query.inputs, drawn.query.targets)
        batch = list(zip(*halves, strict=True))
        with recorder.step(batch):
            sgd.zero_grad()
            losses = [original(model, one) * (2 * step + i != without) for i, one in enumerate(batch)]
            torch.stack(losses).mean().backward()
            sgd.step()
    return model


class NoRecorder:
    def step(self, batch):
        return torch.enable_grad()


def test_the_original_loop_is_recorded_and_replayed(tmp_path):
    """Oracle: the loop made again without a task."""
    made = []

    def recorder(model, sgd):
        made.append(mf.record(tmp_path, ProtoNet(mf.per_task_norms(model), together=True), sgd))
        return made[0]

    loop(recorder)
    run = mf.remade_run(made[0].finish())
    other = loop(lambda *_: NoRecorder(), without=1)
    found = run.replay(run.removing("task", (1,)))
    wanted = torch.cat([p.detach().flatten() for p in other.parameters()])
    torch.testing.assert_close(found * run.alive, wanted * run.alive, rtol=1e-9, atol=1e-10)
    assert not torch.allclose(found, run.final)


def test_a_loop_that_encodes_together_is_found_and_one_that_does_not(tmp_path):
    with refused("With together=True in place of False they agree"):
        loop(lambda model, sgd: mf.record(tmp_path / "apart", ProtoNet(mf.per_task_norms(model)), sgd))
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = mf.record(tmp_path / "together", ProtoNet(mf.per_task_norms(model), together=True), sgd)
    drawn = tasks(1)
    sx, sy, qx, qy = (p[0] for h in (drawn.support, drawn.query) for p in (h.inputs, h.targets))
    with refused("With together=False in place of True they agree"), recorder.step([(sx, sy, qx, qy)]):
        features = model(sx)
        prototypes = torch.stack([features[sy == c].mean(dim=0) for c in range(2)])
        nn.functional.cross_entropy(-torch.cdist(model(qx), prototypes).square(), qy).backward()
        sgd.step()
