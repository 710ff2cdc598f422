"""The suites of kinds whose checks take nothing but a component catch what they are there for."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

import metafluence as mf
from metafluence.testing import checked
from refusals import refused


@dataclass(frozen=True)
class OfCurvatures(mf.Curvature):
    fault: str = ""

    def jacobian(self, point):
        return "half" if self.fault == "jacobian" else "total"

    def at(self, point):
        matrix = point.hessian().dense()
        match self.fault:
            case "operator":
                return mf.DenseOperator(matrix[1:, 1:])
            case "symmetric":
                matrix[0, 1] += 1
            case "order":
                matrix = matrix + float(point.task_losses[0]) * torch.eye(len(matrix), dtype=matrix.dtype)
            case "chunks":
                matrix = matrix * len(list(point.chunks))
            case "bits":
                matrix = matrix + 1e-12 * torch.randn(()) * torch.eye(len(matrix), dtype=matrix.dtype)
        return mf.DenseOperator(matrix)


@dataclass(frozen=True)
class OfPreconditioners(mf.Preconditioner):
    fault: str = ""

    def prepare(self, operator, damping, generator):
        if self.fault == "inputs" and isinstance(operator, mf.DenseOperator):
            operator.matrix.mul_(1.001)
        return operator.dense() + damping * torch.eye(operator.size, dtype=operator.dtype)

    def precondition(self, state, columns):
        found = torch.linalg.solve(state, columns)
        match self.fault:
            case "linear":
                return found.abs()
            case "symmetric":
                return found + 0.1 * columns.roll(1, dims=-2)
            case "positive":
                return -found
            case "columns":
                return found + 1e-3 * columns.sum(dim=-1, keepdim=True)
            case "helps":
                return state @ (state @ columns)
        return found


@dataclass(frozen=True)
class OfTrainers(mf.Trainer):
    fault: str = ""

    def fit(self, problem, weights=None, init=None, generator=None, progress=None, validation=None, folder=None):
        asked = None if self.fault == "weights" else weights
        start = None if self.fault == "start" else init
        newton = mf.build("trainer", "newton", tolerance=1e-8)
        found = newton.fit(problem, asked, start, generator, None if self.fault == "progress" else progress)
        if self.fault == "start":
            return replace(found, meta=found.meta + 9)
        if self.fault == "fit":
            return replace(found, gradient_norm=found.gradient_norm + 1)
        return replace(found, meta=found.meta + 1e-12 * torch.rand(())) if self.fault == "seed" else found


@dataclass(frozen=True)
class OfDatasets(mf.LabelledDataset):
    fault: str = ""

    def load(self):
        generator = torch.Generator().manual_seed(0)
        return mf.Labelled(torch.randn(60, 2, generator=generator), torch.arange(60) % 12, tuple("abcdefghijkl"))

    def tasks(self, episodes, generator, dtype):
        split = super().tasks(episodes, generator, torch.float64 if self.fault == "values" else dtype)
        match self.fault:
            case "tasks":
                return replace(split, test=split.test[torch.arange(len(split.test) - 1)])
            case "seed":
                return super().tasks(episodes, torch.Generator(), dtype)
            case "sets":
                return replace(split, validation=split.train[torch.arange(len(split.validation))])
            case "more":
                return replace(split, train=split.train[torch.arange(len(split.train)).flip(0)])
        return split


@dataclass(frozen=True)
class OfBackbones(mf.Backbone):
    fault: str = ""

    def module(self, input_shape, outputs):
        size = torch.Size(input_shape).numel()
        layer = nn.Linear(size, outputs or 4)
        if self.fault == "seed":
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        if self.fault == "outputs":
            return nn.Sequential(nn.Flatten(), layer, nn.Unflatten(1, (1, -1)))
        return nn.Sequential(nn.Flatten(), layer, *([nn.Dropout()] if self.fault == "derivatives" else []))


@dataclass(frozen=True)
class OfMetrics(mf.Metric):
    fault: str = ""

    def measure(self, run):
        match self.fault:
            case "numbers":
                return {"scores": run.scores}
            case "seed":
                run.scores.mul_(2)
            case "constant":
                return {"range": 1 / float(run.scores.max() - run.scores.min())}
            case "lacking":
                return {"first": float(run.evaluation.truth.loss_change[0])}
        return {"largest": float(run.scores.max())}


@dataclass(frozen=True)
class OfTrackers(mf.Tracker):
    fault: str = ""
    seen: list = field(default_factory=list, compare=False)

    def start(self, name, settings):
        if self.fault == "interrupted" and self.seen and self.seen[-1] != "report.html":
            raise RuntimeError("a study is open")
        if self.fault == "several" and name in self.seen:
            raise RuntimeError("there is such a study")
        if self.fault == "inputs":
            settings.pop("l2")
        self.seen.append(name)

    def log(self, run, numbers):
        if self.fault == "empty":
            self.seen.append(max(numbers))
        if self.fault == "study" and "(" in run:
            raise ValueError("a name with brackets")
        self.seen.append(run)

    def finish(self, page):
        self.seen.append(page.name)

    def metafluence_run_finished(self, study, run):
        """Without its mark, this is no hook."""


@dataclass(frozen=True)
class OfSoundTrackers(OfTrackers):
    metafluence_run_finished = mf.Tracker.metafluence_run_finished


FAULTS = {
    OfMetrics: ("numbers", "seed", "constant", "lacking"),
    OfCurvatures: ("operator", "jacobian", "symmetric", "order", "chunks", "bits"),
    OfPreconditioners: ("linear", "symmetric", "positive", "columns", "inputs", "helps"),
    OfTrainers: ("fit", "weights", "start", "seed", "progress"),
    OfDatasets: ("tasks", "values", "seed", "sets", "more"),
    OfBackbones: ("outputs", "derivatives", "seed"),
    OfSoundTrackers: ("study", "hooks", "several", "interrupted", "empty", "inputs"),
}


@pytest.mark.parametrize("cls", FAULTS)
def test_one_without_fault_passes(cls):
    found = checked(cls())
    assert found.faults == []
    assert found.checks == FAULTS[cls]


CASES = [(cls, fault) for cls, faults in FAULTS.items() for fault in faults if fault != "hooks"]


@pytest.mark.parametrize(("cls", "fault"), CASES)
def test_each_check_catches_its_fault(cls, fault):
    found = checked(cls(fault), skip=set(FAULTS[cls]) - {fault})
    assert [told.partition(":")[0] for told in found.faults] == [fault]


def test_a_tracker_that_hides_its_hook_is_caught():
    (fault,) = checked(OfTrackers()).faults
    assert fault.startswith("hooks: ")
    assert "metafluence_run_finished" in fault


def test_a_check_that_there_is_not_is_refused():
    with refused("Unknown check 'ordre'. Did you mean 'order'"):
        checked(OfCurvatures(), skip=["ordre"])


def test_what_has_no_suite_is_refused():
    with refused("There is no suite for Batch"):
        checked(mf.Batch(torch.zeros(1, 1), torch.zeros(1)))


def test_shipped_components_pass():
    registry = mf.default_registry()
    for name in ("gauss-newton", "fisher"):
        assert checked(registry.build("curvature", name)).faults == [], name
    assert checked(registry.build("preconditioner", "nystrom"), skip={"helps"}).faults == []
    assert checked(registry.build("dataset", "digits")).faults == []
    assert checked(registry.build("dataset", "sinusoid")).faults == []
    assert checked(registry.build("backbone", "small-conv")).faults == []
    for name in registry.names("metric"):
        assert checked(registry.build("metric", name)).faults == [], name
