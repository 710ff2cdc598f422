"""Tasks of two sources in one training set: do test tasks of a source rank its own training tasks above the others?

TLXML calls this task-distribution distinction. The sources are tasks of the digits 0 to 4 and of 5 to 9; MAML and
ProtoNet train on both together. Prints, for each method, the AUROC of "of the same source" by the scores for every
test task (.5 is chance), mean and standard deviation over seeds. `python examples/task_sources.py`
"""

import statistics
import sys

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import metafluence as mf

TASKS, TESTS = 16, 8
BACKBONE = {"use": "mlp", "hidden": [4], "activation": "tanh"}
LEARNERS = {"protonet": {}, "maml": {"steps": 2, "rate": 0.2}}
METHODS = {
    "task-if": {"curvature": "gauss-newton", "damping": 1.0},
    "direct-if": {},
    "tracin": {},
    "gradient-similarity": {"kind": "cosine"},
    "loss": {},
    "random": {},
}


def joined(parts: list[mf.TaskSet]) -> mf.TaskSet:
    """Task sets one after the other."""

    def half(name: str) -> mf.Batch:
        halves = [getattr(part, name) for part in parts]
        return mf.Batch(torch.cat([h.inputs for h in halves]), torch.cat([h.targets for h in halves]))

    names = tuple(f"{i} {name}" for i, part in enumerate(parts) for name in part.ids)
    return mf.TaskSet(half("support"), half("query"), names)


def sources(seed: int) -> tuple[mf.TaskSet, mf.TaskSet]:
    """Training and test tasks: first those of small digits, then those of large ones, as many."""
    pixels, digits = load_digits(return_X_y=True)
    episodes = mf.Episodes(train=TASKS, validation=1, test=TESTS, way=3, shot=3, query=5, split="instances")
    drawn = []
    for own in (digits < 5, digits >= 5):
        data = mf.Labelled.from_frame(pixels[own] / 16, digits[own])
        drawn.append(mf.sample(data, episodes, torch.Generator().manual_seed(seed), torch.float64))
    return joined([split.train for split in drawn]), joined([split.test for split in drawn])


def distinguished(learner: str, seed: int) -> dict[str, float]:
    """The mean AUROC over test tasks, by method."""
    train, test = sources(seed)
    built = mf.build("learner", learner, backbone=BACKBONE, **LEARNERS[learner])
    problem = mf.BilevelProblem(built, train, 1.0, mf.build("solver", "exact"))
    generator = torch.Generator().manual_seed(seed)
    fit = mf.build("trainer", "adam", steps=200, batch=16, learning_rate=0.02).fit(problem, generator=generator)
    targets = mf.Targets(problem, test, fit.meta, mean=False)
    found = {}
    for name, fields in METHODS.items():
        draws = torch.Generator().manual_seed(seed)
        context = mf.Context(problem.at(fit.meta), generator=draws, checkpoints=fit.checkpoints, strict=False)
        scores = mf.attribute(mf.build("method", name, **fields), context, targets).values  # [2 TASKS, 2 TESTS]
        large = torch.arange(2 * TASKS) >= TASKS
        own = [large if target >= TESTS else ~large for target in range(2 * TESTS)]
        found[name] = statistics.fmean(
            float(roc_auc_score(mine.numpy(), column.numpy())) for mine, column in zip(own, scores.T, strict=True)
        )
    return found


def main(seeds: int = 3) -> None:
    for learner in LEARNERS:
        by_seed = [distinguished(learner, seed) for seed in range(seeds)]
        for name in METHODS:
            values = [found[name] for found in by_seed]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"{learner:<10}{name:<22}{statistics.fmean(values):.3f} ± {spread:.3f}", flush=True)


if __name__ == "__main__":
    main(*(int(given) for given in sys.argv[1:]))
