"""The data set demonstrations: a read-out for every prompt, each of them a ridge regression with nothing in common."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import metafluence as mf
from metafluence_plugins.datasets.demonstrations import Demonstrations
from metafluence_plugins.datasets.digits import Digits
from metafluence_plugins.learners.joint import Joint
from metafluence_plugins.learners.ridge_head import RidgeHead
from parts import EXACT

RIDGE, WIDTH, WAY, PROMPTS = 0.05, 5, 3, 3
EPISODES = mf.Episodes(train=PROMPTS, validation=3, test=2, way=WAY, shot=4, query=3)
DATASET = Demonstrations(hidden=(6, WIDTH), steps=20)


class Linear(mf.Backbone):
    """One linear map without bias."""

    def module(self, input_shape, outputs):
        return nn.Linear(input_shape[0], outputs, bias=False)


def drawn(dataset=DATASET, seed=0, **changes) -> mf.Split:
    return dataset.tasks(replace(EPISODES, **changes), torch.Generator().manual_seed(seed), torch.float64)


def features(batch: mf.Batch) -> torch.Tensor:
    """[prompts, n, WIDTH] of inputs in blocks."""
    blocks = batch.inputs.unflatten(2, (PROMPTS, WIDTH + 1))
    return torch.stack([blocks[i, :, i, :-1] for i in range(len(blocks))])


@pytest.fixture(scope="module")
def fitted():
    """The tasks, the read-outs' problem, its fit, and ridge-head on the same features with the same ridge."""
    split = drawn()
    problem = mf.BilevelProblem(Joint(Linear(), loss="squared"), split.train, RIDGE, EXACT)
    fit = mf.build("trainer", "newton", tolerance=1e-11).fit(problem)
    demonstrations = mf.Batch(features(split.train.query), split.train.query.targets)
    queries = mf.Batch(features(split.validation.query), split.validation.query.targets)
    same = nn.Linear(WIDTH, WIDTH)
    same.load_state_dict({"weight": torch.eye(WIDTH), "bias": torch.zeros(WIDTH)})
    heads = RidgeHead(same, ridge=RIDGE, learn=False)
    ridge = mf.BilevelProblem(heads, mf.TaskSet(demonstrations, queries, split.train.ids), 1.0, EXACT)
    return split, problem, fit, ridge


def heads_of(meta: torch.Tensor) -> torch.Tensor:
    """The read-outs [prompts, way, WIDTH + 1] in the parameters of the linear map."""
    return meta.reshape(WAY, PROMPTS, WIDTH + 1).transpose(0, 1)


def test_the_read_outs_are_the_heads_of_ridge_head(fitted):
    _, _, fit, ridge = fitted
    adapted = ridge.at(ridge.learner.init_meta(None)).adapted
    assert torch.allclose(heads_of(fit.meta), adapted.reshape(PROMPTS, WAY, -1), atol=1e-9)


def test_leaving_a_demonstration_out_has_a_closed_form(fitted):
    """Against the head that ridge-head adapts without it, and what that does to its own prompt's queries alone."""
    split, problem, fit, ridge = fitted
    targets = mf.Targets(problem, split.validation, fit.meta, mean=False)
    context = mf.Context(problem.at(fit.meta), "query")
    method = mf.build("method", "instance-if", solver="exact", leave_out=True)
    each = split.train.query.targets.shape[1]
    for prompt, place in ((0, 0), (2, 7)):
        item = prompt * each + place
        weights = mf.Weights.ones(ridge.tasks).without("support", [item])
        adapted = ridge.at(ridge.learner.init_meta(None), weights).adapted.reshape(PROMPTS, WAY, -1)
        predicted = method.parameter_change(method.prepare(context), [(item,)]).values[:, 0]
        assert torch.allclose(heads_of(fit.meta + predicted), adapted, atol=1e-8)
        changed = targets.losses(fit.meta + predicted) - targets.losses()
        outputs = mf.with_one(features(split.validation.query)) @ adapted.mT
        wanted = nn.functional.one_hot(split.validation.query.targets, WAY).double()
        loss = mf.squared_error(outputs, wanted).mean(dim=1)
        assert torch.allclose(targets.losses() + changed, loss, atol=1e-8)
        assert int((changed.abs() > 1e-12).sum()) == 1
        assert abs(float(changed[prompt])) > 1e-5


def test_the_order_of_demonstrations_has_no_effect(fitted):
    _, _, _, ridge = fitted
    order = torch.randperm(ridge.tasks.support.targets.shape[1], generator=torch.Generator().manual_seed(0))
    other = mf.Batch(ridge.tasks.support.inputs[:, order], ridge.tasks.support.targets[:, order])
    meta = ridge.learner.init_meta(None)
    again = replace(ridge, tasks=mf.TaskSet(other, ridge.tasks.query, ridge.tasks.ids)).at(meta)
    assert torch.allclose(again.adapted, ridge.at(meta).adapted, atol=1e-10)


def test_no_image_is_a_demonstration_and_a_query_of_a_prompt():
    split = drawn(test=3)
    parts = [features(tasks.query) for tasks in (split.train, split.validation, split.test)]
    for prompt in range(PROMPTS):
        rows = torch.cat([part[prompt] for part in parts])
        assert len(rows.unique(dim=0)) == len(rows) == WAY * (4 + 3 + 3)


def test_classes_of_a_prompt_are_those_of_its_queries():
    """Images of one class lie together: a read-out of clean demonstrations is far better than chance."""
    split = drawn(Demonstrations(hidden=(24,), steps=100), way=5, shot=8)
    problem = mf.BilevelProblem(Joint(Linear(), loss="squared"), split.train, 0.03, EXACT)
    fit = mf.build("trainer", "newton").fit(problem)
    point = problem.over(split.test).at(fit.meta)
    assert float(mf.accuracy(point.predictions, split.test.query.targets).mean()) > 0.7


class Rounded(Digits):
    """Digits whose sums differ by rounding, as on another machine."""

    def load(self):
        data = super().load()
        return replace(data, inputs=data.inputs * (1 + 1e-14))


def test_rounding_of_another_machine_gives_the_same_tasks():
    first, again = (drawn(Demonstrations(of, (24,), 60)).train.fingerprint() for of in (Digits(), Rounded()))
    assert first == again


def test_seeds_draw_other_prompts_of_the_same_encoder():
    first, again, other = (drawn(seed=seed).train.fingerprint() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test": 4}, "There are 3 prompts, but 3 validation and 4 test tasks"),
        ({"way": 6}, "leaves 5 classes"),
        ({"shot": 170}, "takes 176 of each of 3"),
        ({"split": "instances"}, r"episodes\.split says nothing"),
    ],
)
def test_what_it_has_not_got_is_refused(changes, said):
    with pytest.raises(mf.InputError, match=said):
        drawn(**changes)


def test_squared_error_of_classes_is_that_of_vectors_with_a_one():
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(4, 3, generator=generator), torch.tensor([0, 2, 1, 1])
    ones = torch.eye(3)[targets]
    for name in ("values", "observed"):
        assert torch.equal(
            getattr(mf.OneHotLoss(), name)(outputs, targets), getattr(mf.SquaredLoss(), name)(outputs, ones)
        )


def test_its_summary_has_classes():
    assert dict(mf.summarise(DATASET).lines)["targets"] == "5 classes"
