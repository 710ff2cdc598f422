"""metafluence: the learner `joint`, which does not adapt, with one task that holds all training instances."""

from __future__ import annotations

from collections.abc import Callable

import torch
from problem import L2, Single
from torch import Tensor

import metafluence as mf

TEN_STEPS = {"use": "cg", "max_iterations": 10, "rtol": 1e-30}
METHODS = {
    "tracin": ("tracin", {}),
    "ek-fac": ("ekfac-if", {"judge": False}),
    "ek-fac, sampled": ("ekfac-if", {"fisher": "sampled", "judge": False}),
    "ek-fac, empirical": ("ekfac-if", {"fisher": "empirical", "judge": False}),
    "cg-10": (
        "influence",
        {"curvature": "gauss-newton", "solver": {"use": "cg", "max_iterations": 10, "rtol": 1e-30}, "judge": False},
    ),
    "trak-512": ("trak", {"dim": 512}),
    "trak-512, sparse": ("trak", {"dim": 512, "projection": "sparse"}),
}


def methods(single: Single, wanted: dict[str, tuple[str, dict]] = METHODS) -> dict[str, Callable[[], Tensor]]:
    """By method: a function that computes all scores [training, targets] from nothing but the trained network."""
    learner = mf.build("learner", "joint", backbone=single.module, ways=single.classes)
    train = _tasks(single.inputs.unsqueeze(0), single.labels.unsqueeze(0))
    targets = _tasks(single.target_inputs.unsqueeze(1), single.target_labels.unsqueeze(1))
    meta = torch.cat([p.detach().flatten() for p in single.module.parameters()])
    checkpoints = (mf.Checkpoint(1, 1.0, meta),)
    built = {name: mf.build("method", method, **fields) for name, (method, fields) in wanted.items()}

    def scores(method: mf.AttributionMethod) -> Tensor:
        problem = mf.BilevelProblem(learner, train, L2, mf.build("solver", "exact"))
        context = mf.Context(problem.at(meta), "query", checkpoints=checkpoints, strict=False)
        return mf.attribute(method, context, mf.Targets(problem, targets, meta, mean=False)).values

    return {name: (lambda method=method: scores(method)) for name, method in built.items()}


def exact(single: Single, targets: int) -> Tensor:
    """Scores on the first targets under the exact Gauss-Newton matrix, [training, targets]."""
    few = Single(
        single.module, single.inputs, single.labels,
        single.target_inputs[:targets], single.target_labels[:targets], single.classes,
    )  # fmt: skip
    return methods(few, {"it": ("influence", {"curvature": "gauss-newton", "solver": {"use": "cg", "rtol": 1e-5}})})[
        "it"
    ]()


def _tasks(inputs: Tensor, labels: Tensor) -> mf.TaskSet:
    """Tasks without support: nothing is adapted."""
    empty = mf.Batch(inputs[:, :0], labels[:, :0])
    return mf.TaskSet(empty, mf.Batch(inputs, labels), tuple(str(i) for i in range(len(labels))))
