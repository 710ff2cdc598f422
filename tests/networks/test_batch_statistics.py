"""Batch norms with running statistics: converted where each task adapts alone, refused where tasks share an encoder."""

import pytest
import torch
from torch import nn

import metafluence as mf
from metafluence import BilevelProblem, InputError, TaskSet
from metafluence_plugins.learners.maml import MAML
from metafluence_plugins.learners.protonet import ProtoNet
from parts import EXACT
from small_problems import seeded


def images() -> TaskSet:
    labels = torch.arange(4).remainder(2).expand(3, -1)
    halves = [mf.Batch(torch.randn(3, 4, 1, 4, 4, generator=seeded(i), dtype=torch.float64), labels) for i in (0, 1)]
    return TaskSet(*halves, ("a", "b", "c"))


def network(**norm) -> nn.Sequential:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 2, 3)
    return nn.Sequential(conv, nn.BatchNorm2d(2, **norm), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)).double()


def test_converted_norms_do_what_torch_does_in_training_mode():
    module, inputs = network(), torch.randn(5, 1, 4, 4, generator=seeded(), dtype=torch.float64)
    module[1].weight.data.uniform_(0.5, 1.5)
    converted = mf.per_task_norms(module)
    torch.testing.assert_close(converted(inputs), module.train()(inputs), rtol=1e-12, atol=1e-12)
    assert [name for name, _ in converted.named_parameters()] == [name for name, _ in module.named_parameters()]
    assert not list(converted.named_buffers())
    assert isinstance(module[1], nn.BatchNorm2d)


def test_a_norm_that_is_the_whole_module_and_one_of_two_names_are_converted():
    assert isinstance(mf.per_task_norms(nn.BatchNorm1d(2)), mf.TaskBatchNorm)
    shared = nn.BatchNorm1d(2)
    both = mf.per_task_norms(nn.Sequential(shared, nn.Tanh(), shared))
    assert all(isinstance(both[i], mf.TaskBatchNorm) for i in (0, 2))
    assert len(list(both.parameters())) == 2


def test_learners_that_adapt_each_task_alone_ignore_running_statistics_with_a_notice():
    """Oracle: the same network that keeps none, as torch has it."""
    tasks = images()
    with pytest.warns(UserWarning, match="Running statistics of 1 are ignored.*training mode"):
        ours = BilevelProblem(MAML(network(), steps=2, rate=0.3), tasks, 0.1, EXACT)
    plain = BilevelProblem(MAML(network(track_running_stats=False), steps=2, rate=0.3), tasks, 0.1, EXACT)
    meta = ours.learner.init_meta(None)
    assert torch.equal(meta, plain.learner.init_meta(None))
    torch.testing.assert_close(ours.at(meta).gradient, plain.at(meta).gradient, rtol=1e-10, atol=1e-12)
    assert ours.at(meta).hessian().matmat(meta.unsqueeze(1)).isfinite().all()


def test_learners_whose_tasks_share_an_encoder_refuse_and_offer_the_conversion():
    encoder = nn.Sequential(*list(network())[:-1])
    with pytest.raises(InputError, match=r"'1' \(BatchNorm2d\) keeps running.*mf.per_task_norms\(module\)"):
        BilevelProblem(ProtoNet(encoder), images(), 0.1, EXACT)
    assert BilevelProblem(ProtoNet(mf.per_task_norms(encoder)), images(), 0.1, EXACT).learner.mixes_instances
