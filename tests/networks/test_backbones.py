"""The field's backbones, norms without running statistics, and the probe of modules of one's own."""

import typing

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

import metafluence as mf
from how_many import examples
from metafluence import Batch, BilevelProblem, InputError, TaskSet
from metafluence.networks.backbones import POOLINGS
from metafluence.networks.normalisation import NORMS
from metafluence.testing import assert_derivative, central_difference
from metafluence.testing.problems import random_meta
from metafluence_plugins.backbones.conv4 import Conv4
from metafluence_plugins.backbones.resnet12 import ResNet12
from metafluence_plugins.learners.imaml import IMAML
from metafluence_plugins.learners.logistic_head import LogisticHead
from metafluence_plugins.learners.maml import MAML
from metafluence_plugins.learners.protonet import ProtoNet
from parts import EXACT


def images(count: int = 3, ways: int = 2, size: int = 16, depth: int = 1, seed: int = 0) -> TaskSet:
    generator = torch.Generator().manual_seed(seed)

    def half(n: int) -> Batch:
        inputs = torch.randn(count, n, depth, size, size, generator=generator, dtype=torch.float64)
        return Batch(inputs, torch.arange(n).remainder(ways).expand(count, -1).clone())

    return TaskSet(half(2 * ways), half(3 * ways), tuple(str(i) for i in range(count)))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# Architectures.


def test_conv4_is_the_field_s():
    module = Conv4().module(torch.Size([1, 28, 28]), None)
    assert parameters(module) == 111_936
    assert module(torch.randn(2, 1, 28, 28)).shape == (2, 64)
    assert Conv4().module(torch.Size([3, 84, 84]), None)(torch.randn(2, 3, 84, 84)).shape == (2, 1600)
    assert Conv4(8).module(torch.Size([2, 20, 37]), 5)(torch.randn(3, 2, 20, 37)).shape == (3, 5)
    published = Conv4(norm="batch", activation="relu", pooling="max").module(torch.Size([3, 84, 84]), None)
    kinds = [type(layer).__name__ for layer in published]
    assert kinds == ["Conv2d", "TaskBatchNorm", "ReLU", "MaxPool2d"] * 4 + ["Flatten"]


def test_resnet12_is_the_field_s():
    module = ResNet12().module(torch.Size([3, 84, 84]), None)
    assert parameters(module) == 12_424_320
    small = ResNet12((4, 6)).module(torch.Size([3, 16, 16]), None)
    inputs = torch.randn(2, 3, 16, 16)
    assert small(inputs).shape == (2, 6)
    assert ResNet12((4, 6)).module(torch.Size([3, 16, 16]), 5)(inputs).shape == (2, 5)
    block = small[0]
    for layer in block.path:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
    wanted = nn.functional.leaky_relu(block.shortcut(inputs), 0.1)
    assert torch.equal(block(inputs), wanted)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv4().module(torch.Size([7]), None), r"conv4 takes images .*\[7\].*mlp"),
        (lambda: Conv4().module(torch.Size([1, 15, 28]), None), r"conv4 pools 4 times.*at least 16x16"),
        (lambda: ResNet12((2, 2)).module(torch.Size([1, 3, 8]), None), r"resnet12 pools 2 times.*at least 4x4"),
        (lambda: Conv4(0), "width is 0, but a whole number at least 1"),
        (lambda: ResNet12(()), "resnet12 has no block: widths is empty. Give one width for each block"),
        (lambda: ResNet12((4, 0)), r"widths is \(4, 0\), but a list, each a whole number at least 1"),
        (lambda: Conv4(norm="layer"), "norm is 'layer', but 'group' or 'batch' or 'none' is expected. Give one"),
        (lambda: Conv4(pooling="min"), "pooling is 'min', but 'average' or 'max' is expected. Give one"),
        (lambda: mf.activation("relo"), "Unknown activation 'relo'. Known: tanh, softplus"),
        (lambda: mf.norm("layer", 4), "Unknown norm 'layer'. Known: group, batch, none"),
        (lambda: mf.pooling("min"), "Unknown pooling 'min'. Known: average, max"),
        (lambda: mf.GroupNorm(3, 4), "cannot cut 4 channels into 3 groups"),
        (lambda: mf.TaskBatchNorm(4)(torch.zeros(2, 3)), r"for 4 channels; its inputs have shape \[2, 3\]"),
    ],
)
def test_what_cannot_be_built_is_said(make, message):
    with pytest.raises(InputError, match=message):
        make()


# Norms.


@given(
    st.integers(2, 5), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.sampled_from([(), (3,), (3, 2)]),
    st.integers(0, 2**20),
)  # fmt: skip
@examples(40)
def test_norms_are_torch_s_with_their_gradients(n, groups, per_group, affine, places, seed):
    generator = torch.Generator().manual_seed(seed)
    channels = groups * per_group
    shape = (n, channels, *places)
    inputs = 2 + torch.randn(shape, generator=generator, dtype=torch.float64)
    along = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight, bias = torch.randn(2, channels, generator=generator, dtype=torch.float64) if affine else (None, None)

    def batch(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.batch_norm(x, None, None, weight, bias, training=True)

    def group(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.group_norm(x, groups, weight, bias)

    ours = (mf.TaskBatchNorm(channels, affine=affine), mf.GroupNorm(groups, channels, affine=affine))
    for layer, theirs in zip(ours, (batch, group), strict=True):
        if affine:
            layer.weight.data, layer.bias.data = weight, bias
        x, y = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
        assert torch.allclose(layer(x), theirs(y), atol=1e-10)
        (a,), (b,) = (torch.autograd.grad((f(z) * along).sum(), z) for f, z in ((layer, x), (theirs, y)))
        assert torch.allclose(a, b, atol=1e-8)


def test_fresh_norms_are_the_identity_s_scale():
    flat = mf.FlatModule(nn.Sequential(nn.Linear(3, 4), mf.GroupNorm(2, 4), mf.TaskBatchNorm(4)), torch.float64)
    flat.module[1].weight.data += 5
    fresh = flat.initial(torch.Generator().manual_seed(0))
    assert torch.equal(fresh[16:], torch.tensor([1.0, 0.0, 1.0, 0.0]).repeat_interleave(4).double())


@pytest.mark.parametrize("backbone", [Conv4(2), Conv4(2, norm="batch")], ids=["group", "batch"])
@pytest.mark.parametrize("kind", [ProtoNet, LogisticHead, MAML])
def test_a_task_is_the_same_whatever_other_tasks_are_with_it(backbone, kind):
    tasks = images(4)
    learner = kind(backbone)
    whole = BilevelProblem(learner, tasks, 0.5, EXACT)
    meta = random_meta(whole)
    together = whole.at(meta)
    alone = BilevelProblem(learner, tasks[[2]], 0.5, EXACT).at(meta)
    assert torch.allclose(together.predictions[2:3], alone.predictions, atol=1e-12)
    assert torch.allclose(together.task_gradients()[:, 2:3], alone.task_gradients(), atol=1e-11)


def test_batch_statistics_are_those_of_the_support_and_of_the_query():
    tasks = images(2)
    problem = BilevelProblem(ProtoNet(Conv4(2, norm="batch")), tasks, 0.5, EXACT)
    meta = random_meta(problem)
    reference = Conv4(2, norm="batch").module(tasks.input_shape, None).double()
    torch.nn.utils.vector_to_parameters(meta, reference.parameters())
    point = problem.at(meta)
    for i in range(2):
        support, query = reference(tasks.support.inputs[i]), reference(tasks.query.inputs[i])
        means = torch.stack([support[tasks.support.targets[i] == c].mean(dim=0) for c in range(2)])
        wanted = -(torch.cdist(query, means) ** 2)
        ours = point.predictions[i]
        assert torch.allclose(ours - ours[:, :1], wanted - wanted[:, :1], atol=1e-10)


# Derivatives.

BACKBONES = {"conv4": Conv4(2), "conv4-batch": Conv4(2, norm="batch"), "resnet12": ResNet12((2, 2), activation="silu")}
HEADS = {
    "logistic-head": lambda backbone: LogisticHead(backbone, penalty=0.5),
    "protonet": ProtoNet,
    "maml": lambda backbone: MAML(backbone, steps=1, rate=0.2),
}


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES.keys())
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_total_hessian_products_are_differences_of_the_total_gradient(backbone, head):
    problem = BilevelProblem(head(backbone), images(), 0.5, EXACT)
    meta = random_meta(problem)
    direction = torch.randn(problem.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    columns = torch.stack([direction, -2 * direction], dim=1)
    found = problem.at(meta).hessian().matmat(columns)
    assert_derivative(found[:, 0], central_difference(lambda m: problem.at(m).gradient, meta, direction))
    assert torch.allclose(found[:, 1], -2 * found[:, 0], atol=1e-12)


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES.keys())
def test_gradients_of_single_tasks_and_instances_add_up(backbone):
    problem = BilevelProblem(LogisticHead(backbone, penalty=0.5), images(), 0.5, EXACT)
    meta = random_meta(problem)
    point = problem.at(meta)
    assert torch.allclose(point.task_gradients().sum(dim=1) + 0.5 * meta, point.gradient, atol=1e-12)
    queries = point.responses("query").reshape(problem.size, 3, -1)
    assert torch.allclose(queries.sum(dim=2), point.task_gradients(), atol=1e-12)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_query_instances_sum_to_their_task_with_theta_held(norm):
    """Also where the features of one instance depend on the others."""
    problem = BilevelProblem(LogisticHead(Conv4(2, norm=norm)), images(), 0.5, EXACT)
    point = problem.at(random_meta(problem))
    found = point.responses("query", "held").unflatten(1, (len(problem.tasks), -1)).sum(dim=2)
    wanted = point.responses("task", "held")
    assert float((found - wanted).norm() / wanted.norm()) < 1e-10


def test_batch_statistics_and_factors_of_layers_do_not_go_together():
    problem = BilevelProblem(LogisticHead(Conv4(2, norm="batch")), images(), 0.5, EXACT)
    operator = problem.at(random_meta(problem)).hessian("held", "gauss-newton")
    with pytest.raises(mf.SolverError, match=r"Layer '1' \(TaskBatchNorm\) mixes the instances.*GroupNorm"):
        list(operator.structure.chunks())


# Modules of one's own.


class Apply(nn.Module):
    """A layer out of a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x):
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(dim=0))
        return x - self.mean


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * x

    @staticmethod
    def backward(ctx, g):
        return g


def filled(x):
    y = torch.zeros(len(x), 3, dtype=x.dtype)
    y[:, :] = x
    return y


def after(last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3), last)


REFUSED = {
    "in-place": (after(Apply(lambda x: x.sigmoid().mul_(2))), r"Layer '2' \(Apply\) cannot.* twice: .*in place; write"),
    "filled": (after(Apply(filled)), r"Layer '2' \(Apply\) does not work for tasks with.*in place"),
    "item": (after(Apply(lambda x: x / x.detach()[0, 0].item())), r"Layer '2'.*takes a number out of a tensor"),
    "branch": (after(Apply(lambda x: x if x[0, 0] > 0 else x.exp())), r"Layer '2'.*use torch.where in place of if"),
    "function": (after(Apply(Square.apply)), r"Layer '2'.*generate_vmap_rule"),
    "statistics": (after(Remembers()), r"Layer '2' \(Remembers\) changes its buffer 'mean'.*TaskBatchNorm"),
    "dropout": (after(nn.Dropout(0.5)), r"Layer '2' \(Dropout\) is random"),
    "functional dropout": (after(Apply(lambda x: nn.functional.dropout(x, 0.5))), r"other outputs for the same.*eval"),
    "group norm": (after(nn.GroupNorm(1, 3)), r"Layer '2' \(GroupNorm\).*twice.*metafluence's GroupNorm"),
    "detached": (after(Apply(lambda x: x.detach())), r"cannot be differentiated twice: it cuts the gradient"),
    "whole numbers": (after(Apply(lambda x: x.argmax(dim=1))), r"gives torch.int64 .*no argmax"),
    "other type": (after(Apply(lambda x: x.float())), r"gives torch.float32 where its inputs are torch.float64"),
    "tuple": (after(Apply(lambda x: (x, x))), r"gives a tuple. Wrap it"),
    "others": (after(Apply(lambda x: x - x.mean(dim=0))), r"other outputs when there are others in the batch"),
    "no instances": (after(Apply(lambda x: x.T[:2])), r"outputs of shape \[2, 3\] for 3 instances"),
    "shape": (nn.Sequential(nn.Flatten(), nn.Linear(7, 3)), r"Layer '1' \(Linear\) fails on inputs \[1, 4, 4\]"),
    "attention": (
        nn.Sequential(nn.Linear(4, 4), Apply(lambda x: nn.functional.scaled_dot_product_attention(x, x, x)),
                      nn.Flatten(), nn.Linear(16, 3)),
        r"Layer '1' \(Apply\).*fused attention.*MATH",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(("module", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_module_that_cannot_be_differentiated_is_refused_by_layer_reason_and_mend(module, message):
    with pytest.raises(InputError, match=message):
        BilevelProblem(IMAML(module), images(size=4), 1.0, EXACT)


@pytest.mark.parametrize(
    "module",
    [
        after(nn.ReLU(inplace=True)),
        after(nn.LayerNorm(3)),
        after(mf.TaskBatchNorm(3)),
        after(mf.GroupNorm(1, 3)),
        after(nn.BatchNorm1d(3, track_running_stats=False)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2), nn.MaxPool2d(2), nn.Flatten()),
    ],
    ids=["relu", "layer-norm", "task-batch-norm", "group-norm", "batch-norm", "instance-norm"],
)
def test_a_module_that_can_be_differentiated_is_left_in_peace(module):
    state = torch.random.get_rng_state()
    before = [p.detach().clone() for p in module.parameters()]
    mf.probe_module(module, torch.Size([1, 4, 4]), torch.float64, "cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_recipes_are_not_probed(monkeypatch):
    monkeypatch.setattr("metafluence.learners.network_learner.probe_module", lambda *a: pytest.fail("probed"))
    BilevelProblem(ProtoNet(Conv4(2)), images(), 1.0, EXACT)


@pytest.mark.parametrize("name", mf.default_registry().names("backbone"))
def test_backbones_take_every_activation_norm_and_pooling_that_there_is(name):
    known = {"activation": mf.ACTIVATIONS, "norm": NORMS, "pooling": POOLINGS}
    hints = typing.get_type_hints(type(mf.build("backbone", name)))
    found = {field: typing.get_args(hints[field]) for field in known if field in hints}
    assert found == {field: tuple(known[field]) for field in found}
    assert "activation" in found
