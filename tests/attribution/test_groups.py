"""Groups of items, by additivity and by a joint solve."""

import pytest
import torch

import metafluence as mf
from metafluence.testing.worlds import world
from metafluence_plugins.methods.influence import InfluenceFunction
from metafluence_plugins.solvers.exact import Exact


def test_every_item_is_in_one_group_of_its_own_task_and_class():
    tasks = world(0).problem.tasks
    for level in ("support", "query"):
        count = getattr(tasks, level).targets.numel()
        for groups in (mf.by_task(tasks, level), list(mf.by_class(tasks, level).values())):
            assert sorted(i for group in groups for i in group) == list(range(count))
        flat, per_task = getattr(tasks, level).targets.flatten(), getattr(tasks, level).targets.shape[1]
        for (name, label), group in mf.by_class(tasks, level).items():
            assert all(flat[i] == label and tasks.ids[i // per_task] == name for i in group)
    assert mf.by_task(tasks, "task") == [(i,) for i in range(len(tasks))]


def test_tasks_have_no_class():
    with pytest.raises(mf.InputError, match="no class"):
        mf.by_class(world(0).problem.tasks, "task")


@pytest.mark.parametrize("level", ["support", "query"])
def test_a_group_s_score_is_the_loss_change_of_its_joint_solve(level):
    """The first order of a target's loss along the predicted change of parameters, with one solve for the group."""
    here = world(1)
    method, context, targets = InfluenceFunction(solver=Exact()), here.context(level), here.targets()
    state = method.prepare(context)
    groups = [*mf.by_task(here.problem.tasks, level), *mf.by_class(here.problem.tasks, level).values()]
    added = mf.group_scores(method.scores(state, targets).values, groups)
    joint = method.parameter_change(state, groups).values.T @ targets.gradients()
    assert torch.allclose(added, joint, atol=1e-12 * float(joint.abs().max()) + 1e-14)


def test_all_query_instances_of_a_task_are_the_task():
    here = world(2)
    method, targets = InfluenceFunction(solver=Exact()), here.targets()
    by_instance = mf.attribute(method, here.context("query"), targets).values
    whole = mf.attribute(method, here.context("task"), targets).values
    assert torch.allclose(mf.group_scores(by_instance, mf.by_task(here.problem.tasks, "query")), whole, atol=1e-12)


def test_a_task_without_its_query_is_a_task_removed():
    here = world(0)
    context, groups = here.context("query"), mf.by_task(here.problem.tasks, "query")
    without = context.bank.leave_out(groups, "query").meta
    assert torch.allclose(without, context.bank.leave_out([(i,) for i in range(len(groups))]).meta, atol=1e-8)


@pytest.mark.parametrize("level", ["support", "query"])
def test_leaving_a_group_s_own_curvature_out_is_a_newton_step_without_it(level):
    """Against the dense step on the objective without the group, from λ*."""
    here = world(0)
    context, group = here.context(level), mf.by_task(here.problem.tasks, level)[3]
    method = InfluenceFunction(solver=Exact(), leave_out=True)
    found = method.parameter_change(method.prepare(context), [group]).values[:, 0]
    reduced = here.problem.at(here.fit.meta, context.point.weights.without(level, group))
    wanted = torch.linalg.solve(reduced.hessian().dense(), -reduced.gradient)
    assert torch.allclose(found, wanted, atol=1e-8 * float(wanted.norm()))
