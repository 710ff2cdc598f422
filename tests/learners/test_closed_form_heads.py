"""ridge-head and protonet, against scikit-learn and against their papers' formulas."""

import pytest
import torch
from hypothesis import given, strategies as st
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid

import metafluence as mf
from how_many import examples
from metafluence import Batch, BilevelProblem, InputError, TaskSet, Weights
from metafluence.testing.problems import random_meta, task_sets
from metafluence_plugins.backbones.mlp import MLP
from metafluence_plugins.learners.logistic_head import LogisticHead
from metafluence_plugins.learners.protonet import ProtoNet
from metafluence_plugins.learners.ridge_head import RidgeHead
from parts import EXACT


@given(tasks=task_sets(), width=st.sampled_from([2, 9]))
@examples(15)
def test_ridge_head_is_scikit_learns_ridge(tasks, width):
    """With fewer features than instances, and with more: the two ways it is solved."""
    problem = BilevelProblem(RidgeHead(MLP((width,)), ridge=0.2, scale=4.0), tasks, 0.0, EXACT)
    learner, generator = problem.learner, torch.Generator().manual_seed(0)
    ones = Weights.ones(tasks)
    weights = Weights(ones.task, torch.rand(ones.support.shape, generator=generator).double(), ones.query)
    meta = random_meta(problem)
    meta[-2:] = torch.tensor([0.3, -0.2])
    point = problem.at(meta, weights)
    for i in range(len(tasks)):
        features, query = (learner.encode(meta, half.inputs[i]) for half in (tasks.support, tasks.query))
        n = len(features)
        columns = torch.cat([features, torch.ones(n, 1).double()], dim=1)
        wanted = torch.nn.functional.one_hot(tasks.support.targets[i], learner.ways).double()
        ridge = 0.2 * torch.tensor(0.3).exp() * n
        oracle = Ridge(alpha=float(ridge), fit_intercept=False).fit(columns, wanted, sample_weight=weights.support[i])
        assert torch.allclose(point.adapted[i].reshape(learner.ways, -1), torch.tensor(oracle.coef_), atol=1e-8)
        outputs = torch.tensor(oracle.predict(torch.cat([query, torch.ones(len(query), 1).double()], dim=1)))
        scale = 4 * torch.tensor(-0.2).double().exp()
        assert torch.allclose(point.predictions[i], scale * outputs, atol=1e-7)


@given(tasks=task_sets())
@examples(15)
def test_protonet_classifies_by_the_nearest_centroid(tasks):
    problem = BilevelProblem(ProtoNet(MLP((3,))), tasks, 0.0, EXACT)
    learner, meta = problem.learner, random_meta(problem)
    point = problem.at(meta)
    for i in range(len(tasks)):
        features, query = (learner.encode(meta, half.inputs[i]) for half in (tasks.support, tasks.query))
        oracle = NearestCentroid().fit(features, tasks.support.targets[i])
        centroids = torch.tensor(oracle.centroids_)
        assert torch.allclose(point.adapted[i].reshape(learner.ways, -1), centroids)
        wanted = (-torch.cdist(query, centroids).square()).log_softmax(dim=-1)
        assert torch.allclose(point.predictions[i].log_softmax(dim=-1), wanted, atol=1e-9)


def test_protonet_is_judged_on_tasks_of_other_numbers_of_classes():
    """Trained 3-way, judged 2-way and 4-way, as torch says it."""
    generator = torch.Generator().manual_seed(0)

    def of(ways: int) -> TaskSet:
        halves = [
            Batch(
                torch.randn(2, each * ways, 2, generator=generator, dtype=torch.float64),
                torch.arange(ways).repeat(each).expand(2, -1).clone(),
            )
            for each in (2, 3)
        ]
        return TaskSet(*halves, ("one", "two"))

    problem = BilevelProblem(ProtoNet(MLP((3,))), of(3), 0.0, EXACT)
    meta = random_meta(problem)
    for ways in (2, 4):
        tasks = of(ways)
        targets = mf.Targets(problem, tasks, meta, mean=False)
        for i, loss in enumerate(targets.losses()):
            support, query = (problem.learner.encode(meta, half.inputs[i]) for half in (tasks.support, tasks.query))
            prototypes = torch.stack([support[tasks.support.targets[i] == c].mean(dim=0) for c in range(ways)])
            wanted = torch.nn.functional.cross_entropy(-torch.cdist(query, prototypes).square(), tasks.query.targets[i])
            assert torch.allclose(loss, wanted, atol=1e-10)
        fresh = BilevelProblem(ProtoNet(MLP((3,))), tasks, 0.0, EXACT).at(meta)
        torch.testing.assert_close(targets.gradients(), fresh.task_gradients("total"))
    assert problem.learner.ways == 3
    with pytest.raises(InputError, match="4 classes, but ProtoNet is set to ways=3"):
        BilevelProblem(ProtoNet(MLP((3,)), shrinkage=0.1), of(3), 0.0, EXACT).over(of(4))


def test_a_class_that_lost_its_last_instance_is_named():
    inputs = torch.randn(2, 3, 2, dtype=torch.float64)
    batch = Batch(inputs, torch.tensor([[0, 1, 1], [0, 1, 1]]))
    tasks = TaskSet(batch, batch, ("one", "two"))
    without = Weights.ones(tasks).without("support", 3)
    problem = BilevelProblem(ProtoNet(MLP((2,))), tasks, 1.0, EXACT)
    with pytest.raises(InputError, match=r"Class 0 of task 1 .* no support instance of positive weight"):
        problem.at(random_meta(problem), without).task_gradients()
    shrunk = BilevelProblem(ProtoNet(MLP((2,)), shrinkage=0.1), tasks, 1.0, EXACT)
    assert bool(shrunk.at(random_meta(shrunk), without).gradient.isfinite().all())


def test_they_say_what_they_need():
    with pytest.raises(InputError, match=r"RidgeHead: ridge is .*, but a number above 0"):
        RidgeHead(MLP(), ridge=0.0)
    with pytest.raises(InputError, match=r"ProtoNet: shrinkage is .*, but a number at least 0"):
        ProtoNet(MLP(), shrinkage=-1.0)
    real = torch.randn(2, 3, 2, dtype=torch.float64)
    tasks = TaskSet(Batch(real, real), Batch(real, real), ("one", "two"))
    for learner in (ProtoNet(MLP()), LogisticHead(MLP())):
        with pytest.raises(InputError, match=r"real targets\. Use maml, imaml or ridge-head"):
            BilevelProblem(learner, tasks, 1.0, EXACT)
