"""What a learner learns of its tasks when it is bound, and what is refused there."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import metafluence as mf
from metafluence import Batch, BilevelProblem, InputError, TaskSet
from metafluence_plugins.learners.imaml import IMAML
from metafluence_plugins.learners.joint import Joint
from metafluence_plugins.learners.maml import MAML
from metafluence_plugins.learners.ridge_head import RidgeHead
from parts import EXACT
from refusals import refused
from small_problems import seeded, tasks


@pytest.mark.parametrize("learner", [Joint, IMAML, MAML])
@pytest.mark.parametrize(
    ("module", "shape"),
    [(nn.Linear(3, 1), r"\[1\]"), (nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (2, 2))), r"\[2, 2\]")],
    ids=["too few", "a matrix"],
)
def test_a_network_without_an_output_for_each_class_is_refused(learner, module, shape):
    with pytest.raises(InputError, match=rf"outputs of shape {shape} .* each of the 2 classes.*nn\.Linear"):
        BilevelProblem(learner(module), tasks(2), 1.0, EXACT)


def test_more_outputs_than_classes_are_classes_that_never_occur():
    point = BilevelProblem(Joint(nn.Linear(3, 4)), tasks(2), 1.0, EXACT).at(torch.zeros(16, dtype=torch.float64))
    assert torch.allclose(point.task_losses.exp(), torch.full((2,), 4.0, dtype=torch.float64))


def test_a_learner_may_call_its_own_attributes_as_it_likes():
    @dataclass(frozen=True, eq=False)
    class Mine(Joint):
        _loss = "mine"
        _network = "too"
        _width = "and this"

    point = BilevelProblem(Mine(nn.Linear(3, 2)), tasks(2), 1.0, EXACT).at(torch.zeros(8, dtype=torch.float64))
    assert point.gradient.isfinite().all()
    assert (point.learner._loss, point.learner._network, point.learner._width) == ("mine", "too", "and this")


def test_other_tasks_than_the_learner_is_bound_to_have_its_kind_of_targets():
    problem = BilevelProblem(Joint(nn.Linear(3, 2)), tasks(2), 1.0, EXACT)
    more = replace(tasks(2), query=Batch(tasks(2).query.inputs, tasks(2).query.targets * 2 % 3))
    with refused(r"The tasks have 3 classes, but Joint is set to ways=2\. Set ways to 3"):
        problem.over(more)
    half = Batch(tasks(2).query.inputs, torch.zeros(*tasks(2).query.targets.shape, 2, dtype=torch.float64))
    with refused(r"and real targets; the learner is bound to inputs \[3\] .* and classes. Give tasks like these"):
        problem.over(TaskSet(half, half, tasks(2).ids))


INTERFACES = (
    *(mf.MetaLearner, mf.NetworkLearner, mf.ImplicitLearner, mf.AttributionMethod, mf.Solver, mf.Preconditioner),
    *(mf.Curvature, mf.Trainer, mf.Executor, mf.RemoteExecutor, mf.Dataset, mf.LabelledDataset, mf.Backbone),
)


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda c: c.__name__)
def test_no_interface_has_private_names_that_a_component_could_take_by_accident(interface):
    names = {name for base in interface.__mro__ for name in vars(base) if name.startswith("_")}
    assert {name for name in names if not name.startswith("__")} <= {"_abc_impl"}


def test_an_unbound_learner_says_so():
    with pytest.raises(InputError, match="does not know its tasks yet"):
        _ = Joint(nn.Linear(3, 2)).meta_size


@pytest.mark.parametrize("differentiation", ["unrolled", "implicit"])
def test_ridge_head_has_no_meta_parameter_without_effect(differentiation):
    generator = seeded()
    half = Batch(
        torch.randn(3, 6, 2, generator=generator, dtype=torch.float64),
        torch.randn(3, 6, 1, generator=generator, dtype=torch.float64),
    )
    regression = TaskSet(half, half, ("a", "b", "c"))
    learner = RidgeHead(nn.Linear(2, 2, bias=False), differentiation=differentiation)
    problem = BilevelProblem(learner, regression, 0.0, EXACT)
    assert problem.size == 4 + 1
    point = problem.at(problem.learner.init_meta(seeded(1)))
    assert float(point.hessian().dense().abs().sum(dim=0).min()) > 1e-6
    classes = BilevelProblem(RidgeHead(nn.Linear(3, 2, bias=False)), tasks(2), 0.0, EXACT)
    assert classes.size == 6 + 2


def test_a_frozen_problem_is_changed_by_replacement():
    problem = BilevelProblem(Joint(nn.Linear(3, 2)), tasks(2), 1.0, EXACT)
    other = problem.over(tasks(3, seed=1))
    assert other.learner is problem.learner
    assert (other.l2, problem.l2) == (0.0, 1.0)
    single = problem.cast(torch.float32)
    assert single.learner.init_meta(None).dtype == torch.float32
    assert single.l2 == 1.0
    with pytest.raises(AttributeError):
        problem.l2 = 2.0
    with pytest.raises(InputError, match="through its own steps"):
        BilevelProblem(MAML(nn.Linear(3, 2)), tasks(2), 1.0, EXACT).solving_with(mf.build("solver", "cg"))
