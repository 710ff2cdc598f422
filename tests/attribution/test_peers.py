"""Attribution of a single-level problem against independent libraries: TracIn and TRAK of dattri, EK-FAC of curvlinops.

The learner `joint` does not adapt. One task's query holds the training instances; each target is a task with one query
instance. Our F sums over tasks the mean loss of n instances, so that one instance's response is its gradient over n.
"""

from importlib import import_module
from types import ModuleType

import pytest
import torch
from curvlinops import EKFACLinearOperator
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import metafluence as mf
from metafluence import Projection
from metafluence_plugins.methods.ekfac_if import EKFACIF
from metafluence_plugins.methods.tracin import TracIn
from metafluence_plugins.methods.trak import TRAK
from parts import EXACT

pytestmark = pytest.mark.xdist_group("peers")

TRAIN, TARGETS, FEATURES, CLASSES, L2 = 12, 5, 4, 3, 0.7


@pytest.fixture(scope="module")
def dattri() -> ModuleType:
    """Imported here, not by every process that collects these tests: it takes longer than they do."""
    for part in ("algorithm.tracin", "algorithm.trak", "task"):
        import_module(f"dattri.{part}")
    return import_module("dattri")


@pytest.fixture(autouse=True)
def double(monkeypatch):
    """Dattri collects its scores in torch's default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Single:
    """A small network on random instances, for us and for the peers."""

    def __init__(self, seed: int, tasks: int = 1, learner: str = "joint") -> None:
        generator = torch.Generator().manual_seed(seed)
        self.module = nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, CLASSES)).double()
        self.inputs, self.labels = self._draw(TRAIN, generator)
        self.target_inputs, self.target_labels = self._draw(TARGETS, generator)
        train = self._tasks(self.inputs, self.labels, tasks)
        self.targets = self._tasks(self.target_inputs, self.target_labels, TARGETS)
        made = mf.build("learner", learner, backbone=self.module, ways=CLASSES)
        self.problem = mf.BilevelProblem(made, train, L2, EXACT)
        self.metas = [self.problem.learner.init_meta(generator) for _ in range(3)]

    def scores(self, method: mf.AttributionMethod, which: list[int], level: mf.Level = "query") -> torch.Tensor:
        """Ours, with checkpoints at the metas named, two and five steps apart."""
        checkpoints = tuple(
            mf.Checkpoint(step, rate, self.metas[i])
            for i, step, rate in zip(which, (2, 7, 8), (0.1, 0.3, 0.2), strict=False)
        )
        context = mf.Context(self.problem.at(self.metas[which[0]]), level, checkpoints=checkpoints)
        targets = mf.Targets(self.problem, self.targets, self.metas[which[0]], mean=False)
        return mf.attribute(method, context, targets).values

    def state(self, meta: torch.Tensor) -> dict[str, torch.Tensor]:
        return {n: meta[at] for n, at in self.problem.learner.network.positions().items()}

    def loaders(self) -> list[DataLoader]:
        pairs = (self.inputs, self.labels), (self.target_inputs, self.target_labels)
        return [DataLoader(TensorDataset(*pair), batch_size=4) for pair in pairs]

    def loss(self, params, pair):
        """One instance's cross-entropy, as dattri wants it."""
        logits = functional_call(self.module, params, (pair[0].unsqueeze(0),))
        return nn.functional.cross_entropy(logits, pair[1].unsqueeze(0))

    def margin(self, params, pair):
        """log p/(1 − p) of the label."""
        loss = self.loss(params, pair)
        return -loss - torch.log(-torch.expm1(-loss))

    def probability(self, params, pair):
        return torch.exp(-self.loss(params, pair))

    @staticmethod
    def _draw(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(count) % CLASSES
        return torch.randn(count, FEATURES, generator=generator) + labels.unsqueeze(1), labels

    @staticmethod
    def _tasks(inputs: torch.Tensor, labels: torch.Tensor, count: int) -> mf.TaskSet:
        query = mf.Batch(inputs.unflatten(0, (count, -1)), labels.unflatten(0, (count, -1)))
        return mf.TaskSet(
            mf.Batch(query.inputs[:, :CLASSES], query.targets[:, :CLASSES]),
            query,
            tuple(f"task-{i}" for i in range(count)),
        )


seeds = pytest.mark.parametrize("seed", [0, 1, 2])


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return float((found - wanted).norm() / wanted.norm()) < 1e-10


@seeds
@pytest.mark.parametrize("which", [[0], [0, 1, 2]], ids=["one", "three"])
@pytest.mark.parametrize("gradients", ["total", "partial"])
def test_tracin_is_dattri_s_on_the_same_checkpoints(seed, which, gradients, dattri):
    single = Single(seed)
    # A checkpoint stands for the steps since the one before it; theirs gets its rate times these steps.
    weights = [0.1 * 2, 0.3 * 5, 0.2 * 1][: len(which)]
    task = dattri.task.AttributionTask(single.loss, single.module, [single.state(single.metas[i]) for i in which])
    theirs = dattri.algorithm.tracin.TracInAttributor(task, weights, normalized_grad=False)
    theirs.projector_kwargs = None  # its constructor projects by default
    wanted = theirs.attribute(*single.loaders())
    assert close(TRAIN * single.scores(TracIn(gradients), which), wanted)


@seeds
@pytest.mark.parametrize("dim", [6, 64])
@pytest.mark.parametrize("kind", ["sparse", "rademacher", "gaussian"])
def test_trak_is_dattri_s_with_the_same_projection(seed, dim, kind, monkeypatch, dattri):
    """For one model, up to −n: theirs is what adding an instance does to the loss, ours what removing it does.

    Their kernel's regularisation is absolute and on gradients over √P, ours relative to the kernel's mean eigenvalue.
    """
    single, ridge = Single(seed), 1e-3
    size = single.problem.size
    projection = Projection(size, dim, kind, seed=4)
    monkeypatch.setattr(
        dattri.algorithm.trak, "random_project", lambda *a, **k: lambda g, ensemble_id: projection.apply(g)
    )
    task = dattri.task.AttributionTask(
        single.margin, single.module, single.state(single.metas[0]), target_func=single.loss
    )
    theirs = dattri.algorithm.trak.TRAKAttributor(task, single.probability, regularization=0.0)
    train, test = single.loaders()
    theirs.regularization = ridge * _kernel_trace(single, projection) / size / dim
    theirs.cache(train)
    wanted = theirs.attribute(test)
    found = single.scores(TRAK(dim=dim, projection=kind, ridge=ridge, seed=4), [0])
    assert close(-TRAIN * found, wanted)


def _kernel_trace(single: Single, projection: Projection) -> float:
    """Σ over instances of the squared projected gradient of the margin, each by autograd on its own."""
    total = 0.0
    for x, y in zip(single.inputs, single.labels, strict=True):
        meta = single.metas[0].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(single.margin(single.state(meta), (x, y)), meta)
        total += float(projection.apply(gradient.unsqueeze(0)).square().sum())
    return total


def test_an_ensemble_of_one_checkpoint_is_a_single_model():
    single = Single(0)
    assert close(single.scores(TRAK(dim=16, models="checkpoints"), [0]), single.scores(TRAK(dim=16), [0]))


@seeds
@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("level", ["task", "query"])
@pytest.mark.parametrize("learner", ["joint", "imaml", "maml"])
def test_ekfac_if_is_influence_with_the_ek_fac_of_curvlinops(seed, tasks, level, learner):
    """Where a whole network adapts it is seen as it is before, as if it did not."""
    single, damping = Single(seed, tasks, learner), 0.2
    meta = single.metas[0]
    single.module.load_state_dict(single.state(meta))
    data = [(single.inputs, single.labels)]
    factors = EKFACLinearOperator(
        single.module,
        nn.CrossEntropyLoss(),
        list(single.module.parameters()),
        data,
        fisher_type="type-2",
        separate_weight_and_bias=False,
    )
    # Theirs is of the mean over all instances, ours of the sum over tasks of their means: `tasks` times as much.
    eye = torch.eye(len(meta))
    damped = tasks * (factors @ eye) + (L2 + damping) * eye
    goals, items = (
        torch.stack([_gradient(single, meta, x, y) for x, y in zip(*pairs, strict=True)])
        for pairs in ((single.target_inputs, single.target_labels), (single.inputs, single.labels))
    )
    wanted = items @ torch.linalg.solve(damped, goals.T) * tasks / TRAIN
    if level == "task":
        wanted = wanted.unflatten(0, (tasks, -1)).sum(dim=1)
    found = single.scores(EKFACIF(damping=damping), [0], level)
    assert close(found, wanted)


def _gradient(single: Single, meta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    leaf = meta.clone().requires_grad_()
    (found,) = torch.autograd.grad(single.loss(single.state(leaf), (x, y)), leaf)
    return found
