"""EK-FAC against curvlinops, against exact curvature where its structure is exact, and as a preconditioner."""

import pytest
import torch
from curvlinops import EKFACLinearOperator, KFACLinearOperator
from torch import nn
from torch.func import functional_call, grad, vmap

import metafluence as mf
from matrices import gap, normal
from metafluence import (
    FlatModule,
    LayerStack,
    SoftmaxLoss,
    SolverError,
    SquaredLoss,
    TaskSet,
    cross_entropy,
    layered_loss,
    solve,
    squared_error,
)
from metafluence_plugins.backbones.small_conv import SmallConv
from metafluence_plugins.learners.imaml import IMAML
from metafluence_plugins.solvers.cg import CG
from metafluence_plugins.solvers.ek_fac import EKFAC
from metafluence_plugins.solvers.minres import Minres

SHIFT, DAMPING, TASKS = 0.3, 0.2, 3


class Layered(mf.LinearOperator):
    """An operator of which only the layers are known."""

    tags = frozenset({mf.SYMMETRIC, mf.LAYERED})

    def __init__(self, stack: LayerStack, size: int) -> None:
        self._stack, self.size, self.dtype = stack, size, torch.float64
        self.device, self.batch_shape = torch.device("cpu"), (stack.count,)

    @property
    def structure(self) -> LayerStack:
        return self._stack

    def matmat(self, columns):
        raise AssertionError("ek-fac needs no product")


class Setting:
    """A network at three tasks' parameters, on instances of their own, with the loss in our form and in torch's."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...], loss: str, count: int = 6) -> None:
        self.network = FlatModule(module, torch.float64)
        start = self.network.initial(torch.Generator().manual_seed(1))
        self.flat = start + 0.1 * normal(TASKS, self.network.size, seed=2)
        self.inputs = normal(TASKS, count, *shape, seed=3)
        classes = self.network(start, self.inputs[0]).shape[-1]
        generator = torch.Generator().manual_seed(4)
        if loss == "softmax":
            self.loss, self.torch_loss, self.single = SoftmaxLoss(), nn.CrossEntropyLoss(), cross_entropy
            self.targets = torch.randint(classes, (TASKS, count), generator=generator)
            self.weights = torch.full((TASKS, count), 1 / count, dtype=torch.float64)
        else:  # MSELoss is the mean of squares over instances and outputs; ours half the sum over outputs
            self.loss, self.torch_loss, self.single = SquaredLoss(), nn.MSELoss(), squared_error
            self.targets = normal(TASKS, count, classes, seed=5)
            self.weights = torch.full((TASKS, count), 2 / (classes * count), dtype=torch.float64)

    def stack(self, which: slice = slice(None)) -> LayerStack:
        flat = self.flat[which]

        def at(some: slice):
            parts = (self.inputs[which][some], self.targets[which][some], self.weights[which][some])
            return layered_loss(self.network, flat[some], *parts, self.loss, SHIFT)

        return LayerStack(len(flat), at)

    def operator(self, which: slice = slice(None)) -> Layered:
        return Layered(self.stack(which), self.network.size)

    def theirs(self, kind: type, task: int, **options):
        module = FlatModule(self.network.module, torch.float64).module
        nn.utils.vector_to_parameters(self.flat[task], module.parameters())
        data = [(self.inputs[task], self.targets[task])]
        options = {"fisher_type": "type-2", "separate_weight_and_bias": False, "check_deterministic": False} | options
        return kind(module, self.torch_loss, list(module.parameters()), data, **options)


def mlp(bias: bool = True) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=bias))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 2, bias=False), nn.Tanh(),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


SETTINGS = {
    "mlp, softmax": lambda: Setting(mlp(), (5,), "softmax"),
    "mlp, squared": lambda: Setting(mlp(bias=False), (5,), "squared"),
    "conv, softmax": lambda: Setting(conv(), (2, 6, 6), "softmax"),
    "conv, squared": lambda: Setting(conv(), (2, 6, 6), "squared"),
    "linear on sequences": lambda: Setting(
        nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6, 3)), (2, 4), "softmax"
    ),
}
each_setting = pytest.mark.parametrize("make", SETTINGS.values(), ids=SETTINGS.keys())


def prepared(operator, damping: float = 0.0, **fields):
    solver = EKFAC(**fields)
    return solver, solver.prepare(operator, damping, torch.Generator().manual_seed(0))


def inverse(operator, damping: float, **fields) -> torch.Tensor:
    solver, state = prepared(operator, damping, **fields)
    eye = torch.eye(operator.size, dtype=torch.float64)
    return solver.precondition(state, eye.expand(*operator.batch_shape, -1, -1))


@each_setting
@pytest.mark.parametrize("fisher", ["exact", "empirical"])
def test_the_inverse_is_that_of_curvlinops_for_every_task_of_a_stack(make, fisher):
    setting = make()
    if fisher == "empirical" and isinstance(setting.loss, SquaredLoss):
        # Theirs has the gradient of (f − y)², twice ours, under weights that differ by 2/C: squares scale by 2.
        setting.weights = setting.weights * 2
    ours = inverse(setting.operator(), DAMPING, fisher=fisher)
    eye = torch.eye(setting.network.size, dtype=torch.float64)
    for task in range(TASKS):
        kind = {"exact": "type-2", "empirical": "empirical"}[fisher]
        dense = setting.theirs(EKFACLinearOperator, task, fisher_type=kind) @ eye
        assert gap(ours[task], torch.linalg.inv(dense + (SHIFT + DAMPING) * eye)) < 1e-8


@each_setting
def test_the_factors_are_those_of_curvlinops(make):
    """Convention: inputs averaged over instances and places, output gradients summed over places and averaged over
    instances (K-FAC-expand), weight and bias joint."""
    setting = make()
    _, state = prepared(setting.operator())
    # MSELoss's weights 2/(C N) are all in the gradients' factor there, and in both of ours.
    extra = float(setting.weights[0].sum())
    for task in range(TASKS):
        theirs = setting.theirs(KFACLinearOperator, task)
        theirs.compute_kronecker_factors()
        for ours, (name, inputs) in zip(state.layers, theirs._input_covariances.items(), strict=True):
            a, b, outputs = ours.input_vectors[task], ours.output_vectors[task], theirs._gradient_covariances[name]
            assert gap(a @ ours.input_values[task].diag() @ a.T, extra * inputs) < 1e-8
            assert gap(b @ ours.output_values[task].diag() @ b.T, outputs) < 1e-8


@each_setting
def test_the_corrected_eigenvalues_are_those_of_curvlinops(make):
    setting = make()
    _, state = prepared(setting.operator())
    eye = torch.eye(setting.network.size, dtype=torch.float64)
    for task in range(TASKS):
        wanted = torch.linalg.eigvalsh(setting.theirs(EKFACLinearOperator, task) @ eye)
        ours = torch.cat([f.eigenvalues[task].flatten() for f in state.layers])
        # What is outside of the directions that the instances span has eigenvalue zero.
        ours = torch.cat([ours, ours.new_zeros(len(wanted) - len(ours))]).sort().values
        assert gap(ours, wanted) < 1e-8


def test_the_sampled_fisher_tends_to_the_exact_one():
    setting = SETTINGS["mlp, softmax"]()
    exact = inverse(setting.operator(), DAMPING)
    few, many = (gap(inverse(setting.operator(), DAMPING, fisher="sampled", samples=n), exact) for n in (20, 2000))
    assert many < 0.03  # errors fall as 1/√samples; 0.006 was measured
    assert many < few / 3
    twice = [inverse(setting.operator(), DAMPING, fisher="sampled", samples=3) for _ in range(2)]
    assert torch.equal(*twice)


@each_setting
def test_a_task_does_not_depend_on_its_neighbours_or_on_chunks(make, monkeypatch):
    setting = make()
    together = inverse(setting.operator(), DAMPING)
    for task in range(TASKS):
        alone = inverse(setting.operator(slice(task, task + 1)), DAMPING)
        assert gap(together[task], alone[0]) < 1e-12
    monkeypatch.setattr("metafluence.networks.layers.ACTIVATION_BYTES", 1)
    assert gap(inverse(setting.operator(), DAMPING), together) < 1e-12


def test_it_is_exact_for_one_linear_layer_and_one_instance_with_the_proximal_term():
    tasks = TaskSet(
        mf.Batch(normal(4, 1, 3), torch.tensor([[0], [1], [2], [0]])),
        mf.Batch(normal(4, 3, 3, seed=1), torch.arange(3).expand(4, -1).clone()),
        tuple("abcd"),
    )
    learner = IMAML(nn.Linear(3, 3).double(), proximal=0.7, ways=3).bind(tasks)
    flat = normal(4, learner.adapted_size, seed=2)
    weights = torch.ones(4, 1, dtype=torch.float64)
    operator = learner.inner_hessian(flat, flat, tasks.support, weights)
    rhs = normal(4, learner.adapted_size, 2, seed=3)
    found = solve(EKFAC(), operator, rhs, 0.1)
    assert float(found.residual.max()) < 1e-12


@pytest.mark.parametrize("level", [1e-3, 0.0])
def test_instances_of_no_weight_do_not_count(level):
    setting = SETTINGS["mlp, softmax"]()
    whole = SETTINGS["mlp, softmax"]()
    setting.weights[:, 3:] = 0
    whole.inputs, whole.targets, whole.weights = whole.inputs[:, :3], whole.targets[:, :3], whole.weights[:, :3]
    assert gap(inverse(setting.operator(), DAMPING + level), inverse(whole.operator(), DAMPING + level)) < 1e-10


class Odd(nn.Module):
    """A grouped convolution, a norm, a bare parameter, a layer used twice, and a plain layer."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(2, 2, 3, groups=2)
        self.norm = nn.GroupNorm(1, 2)
        self.scale = nn.Parameter(torch.ones(1))
        self.twice = nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        x = self.norm(self.grouped(x)).tanh().flatten(1) * self.scale
        return self.last(self.twice(self.twice(x).tanh()).tanh())


def test_unsupported_layers_are_named():
    setting = Setting(Odd(), (2, 4, 4), "softmax", 3)
    with pytest.raises(SolverError, match="diagonal") as caught:
        prepared(setting.operator())
    for name in ("grouped.weight", "norm.bias", "scale", "twice.weight"):
        assert name in str(caught.value)
    assert "last.weight" not in str(caught.value)


def test_the_diagonal_fallback_is_the_fishers_own_diagonal():
    setting = Setting(Odd(), (2, 4, 4), "softmax", 3)
    _, state = prepared(setting.operator(), unsupported="diagonal")
    network = setting.network
    positions = network.positions()

    def log_likelihood(flat, x, y):
        named = {name: flat[where] for name, where in positions.items()}
        return cross_entropy(functional_call(network.module, named, (x.unsqueeze(0),))[0], y)

    for task in range(TASKS):
        flat, x = setting.flat[task], setting.inputs[task]
        p = network(flat, x).softmax(-1)
        wanted = torch.zeros(network.size, dtype=torch.float64)
        for c in range(3):
            each = vmap(grad(log_likelihood), in_dims=(None, 0, None))(flat, x, torch.tensor(c))
            wanted += (setting.weights[task] * p[:, c]) @ each.square()
        assert gap(state.diagonal[task], wanted[state.others]) < 1e-10


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), r"0\.weight"),
        (lambda: nn.BatchNorm2d(2, track_running_stats=False), "BatchNorm2d"),
    ],
    ids=["reflected padding", "batch statistics"],
)
def test_layers_that_would_be_wrong_are_refused(module, name):
    network = nn.Sequential(module(), nn.Flatten(), nn.Linear(32, 3))
    with pytest.raises(SolverError, match=name):
        prepared(Setting(network, (2, 4, 4), "softmax", 3).operator())


def test_tied_weights_are_refused():
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3))
    network[2].weight = network[0].weight
    with pytest.raises(SolverError, match=r"0\.weight"):
        prepared(Setting(network, (4,), "softmax", 3).operator())


def test_without_shift_or_damping_there_is_no_inverse():
    setting = SETTINGS["mlp, softmax"]()
    stack = setting.stack()
    bare = LayerStack(TASKS, lambda s: mf.LayeredLoss(**{**vars(stack.at(s)), "shift": 0.0}))
    solver, state = prepared(Layered(bare, setting.network.size))
    with pytest.raises(SolverError, match="Add damping"):
        solver.apply(state, normal(TASKS, setting.network.size, 1), torch.Generator())


def conv_inner_hessian() -> tuple[mf.LinearOperator, torch.Tensor]:
    tasks = TaskSet(
        mf.Batch(normal(4, 9, 1, 8, 8), torch.arange(9).remainder(3).expand(4, -1).clone()),
        mf.Batch(normal(4, 3, 1, 8, 8, seed=1), torch.arange(3).expand(4, -1).clone()),
        tuple("abcd"),
    )
    learner = IMAML(SmallConv((4, 4), "tanh"), proximal=0.02).bind(tasks)
    flat = learner.init_meta(torch.Generator().manual_seed(0)).expand(4, -1).clone()
    weights = torch.ones(4, 9, dtype=torch.float64)
    return learner.inner_hessian(flat, flat, tasks.support, weights), normal(4, learner.adapted_size, 2, seed=2)


@pytest.mark.parametrize("kind", [CG, Minres])
def test_preconditioning_keeps_the_answer_and_saves_steps(kind):
    operator, rhs = conv_inner_hessian()
    damping = 1.0  # enough to make the Hessian definite at parameters that have not adapted
    wanted = torch.linalg.solve(operator.dense() + damping * torch.eye(operator.size).double(), rhs)
    plain, helped = (solve(kind(preconditioner=p), operator, rhs, damping) for p in (None, EKFAC()))
    assert gap(plain.value, wanted) < 1e-6
    assert gap(helped.value, wanted) < 1e-6
    assert helped.iterations < plain.iterations


def test_total_hessian_products_stay_symmetric_with_ek_fac_inside():
    tasks = TaskSet(
        mf.Batch(normal(3, 6, 4), torch.arange(6).remainder(2).expand(3, -1).clone()),
        mf.Batch(normal(3, 4, 4, seed=1), torch.arange(4).remainder(2).expand(3, -1).clone()),
        tuple("abc"),
    )
    learner = mf.build("learner", "logistic-head", backbone={"use": "mlp", "hidden": [3]}, penalty=0.3)
    problem = mf.BilevelProblem(learner, tasks, 1.0, EKFAC())
    dense = problem.at(problem.learner.init_meta(torch.Generator().manual_seed(0))).hessian().dense()
    assert gap(dense, dense.T) < 1e-10
