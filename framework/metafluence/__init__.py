"""metafluence: data influence in meta-learning.

The whole public API is here. Names are imported when first used, so that the command line can list components without
importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "attribution": [
        "AttributionMethod",
        "Context",
        "ParameterChange",
        "Scores",
        "SolveReport",
        "Targets",
        "Units",
    ],
    "backbones": ["ACTIVATIONS", "Backbone", "activation", "build_module"],
    "corruption": ["Corruption", "corrupt"],
    "curvature": ["Curvature"],
    "derivatives": ["batched_vjp", "gradients"],
    "diagnostics": ["Diagnostics", "diagnose"],
    "episodes": ["Dataset", "Episodes", "Labelled", "Split", "sample"],
    "errors": [
        "ConfigError",
        "ConvergenceError",
        "DataError",
        "InputError",
        "MetafluenceError",
        "RegistryError",
        "SolverError",
        "StoreError",
        "UnknownNameError",
    ],
    "executors": ["Executor"],
    "lanczos": ["Extremes", "extreme_eigenvalues"],
    "learners": ["Adaptation", "ImplicitLearner", "InnerHessian", "MetaLearner"],
    "linearisation": ["Jacobian"],
    "losses": ["accuracy", "cross_entropy", "weighted_mean"],
    "metrics": [
        "ChangeAgreement",
        "Detection",
        "ScoreAgreement",
        "change_agreement",
        "detection",
        "score_agreement",
    ],
    "minimise": ["Minimum", "minimise_lbfgs", "minimise_newton"],
    "modules": ["FlatModule"],
    "operators": [
        "PSD",
        "SYMMETRIC",
        "CountingOperator",
        "DenseOperator",
        "LinearOperator",
        "ShiftedOperator",
    ],
    "problem": ["BilevelProblem", "Hessian", "Point"],
    "retraining": ["RetrainBank", "Retrained"],
    "solve": ["Applied", "PreparedSolve", "Solution", "Solver", "Status", "relative_residual", "solve"],
    "tasks": ["LEVELS", "Batch", "Level", "Removal", "Task", "TaskSet", "Weights"],
    "training": ["Checkpoint", "Fit", "Progress", "Trainer"],
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'metafluence' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"metafluence.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
