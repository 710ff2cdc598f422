"""Helpers for testing components, ours and anybody's. They need hypothesis and pytest."""

from metafluence.testing.all_kinds import Checked, checked
from metafluence.testing.backbones import backbone_suite
from metafluence.testing.curvatures import curvature_suite
from metafluence.testing.datasets import dataset_suite
from metafluence.testing.differences import assert_derivative, central_difference, central_jacobian
from metafluence.testing.executors import executor_failures, executor_suite
from metafluence.testing.faults import Fault
from metafluence.testing.learners import learner_failures, learner_suite
from metafluence.testing.methods import method_failures, method_suite
from metafluence.testing.metrics import metric_suite
from metafluence.testing.preconditioners import preconditioner_suite
from metafluence.testing.solvers import failures, solver_suite
from metafluence.testing.trackers import tracker_suite
from metafluence.testing.trainers import trainer_suite

__all__ = [
    "Checked",
    "Fault",
    "assert_derivative",
    "backbone_suite",
    "central_difference",
    "central_jacobian",
    "checked",
    "curvature_suite",
    "dataset_suite",
    "executor_failures",
    "executor_suite",
    "failures",
    "learner_failures",
    "learner_suite",
    "method_failures",
    "method_suite",
    "metric_suite",
    "preconditioner_suite",
    "solver_suite",
    "tracker_suite",
    "trainer_suite",
]
