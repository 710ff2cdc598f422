"""conv4 on real Omniglot, 5-way 5-shot: test accuracy after a given time of meta-training, and the published one.

Needs METAFLUENCE_DATA with omniglot in it. Classes are split as Vinyals et al. (2016) do, without rotations. Every
learner is meta-trained with Adam on the same tasks of 5 queries per class for the given time. Accuracy is the mean over
200 test tasks of 15 queries per class, with a 95 % interval over tasks. `maml` has the published batch norm (over a
support or a query): with group norm it takes many more steps.
"""

from __future__ import annotations

import argparse
import time

import torch

import metafluence as mf

GROUP, BATCH = {"use": "conv4"}, {"use": "conv4", "norm": "batch"}
LEARNERS = {
    "protonet": (GROUP, {}, 1e-3, "99.7 (Snell et al. 2017, trained 60-way)"),
    "ridge-head": (GROUP, {}, 1e-3, "99.6 (Bertinetto et al. 2019, R2D2)"),
    "anil": (BATCH, {"steps": 5, "rate": 0.5}, 2e-3, "98.0 (Raghu et al. 2020, 20-way 5-shot: another task)"),
    "maml": (BATCH, {"steps": 1, "rate": 0.4}, 2e-3, "99.9 (Finn et al. 2017)"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=100.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--learners", nargs="*", default=list(LEARNERS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    mf.keep_freed_memory()
    data = mf.build("dataset", "omniglot")
    shape = {"way": 5, "shot": 5, "split": "published"}

    def draw(query: int, train: int, test: int) -> mf.Split:
        episodes = mf.Episodes(train=train, validation=1, test=test, query=query, **shape)
        return data.tasks(episodes, torch.Generator().manual_seed(query), torch.float32)

    train, test = draw(5, 2000, 1).train, draw(15, 1, 200).test
    print(f"conv4, Omniglot 5-way 5-shot, {options.seconds:.0f} s of meta-training, {options.threads} threads")
    for name in options.learners:
        backbone, fields, rate, published = LEARNERS[name]
        learner = mf.build("learner", name, backbone=backbone, **fields)
        problem = mf.BilevelProblem(learner, train, 0.0, mf.build("solver", "cg"))
        found, steps = train_for(problem, rate, options.seconds)
        chunks = problem.over(test).gradient_chunks(found, mf.Weights.ones(test))
        each = mf.accuracy(torch.cat([chunk.predictions() for chunk in chunks]), test.query.targets)
        half = 1.96 * each.std() / len(each) ** 0.5
        print(
            f"{name:11} {100 * each.mean():.1f} ± {100 * half:.1f} % after {steps} steps; published {published}",
            flush=True,
        )


def train_for(problem: mf.BilevelProblem, rate: float, seconds: float) -> tuple[torch.Tensor, int]:
    """Adam on 4 tasks at a time, rate warmed up over 20 steps; the parameters when the time is over."""
    generator = torch.Generator().manual_seed(0)
    meta = problem.learner.init_meta(generator).requires_grad_()
    optimiser = torch.optim.Adam([meta], lr=rate)
    ends, steps = time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        some = torch.randint(len(problem.tasks), (4,), generator=generator).unique()
        few = problem.over(problem.tasks[some])
        optimiser.param_groups[0]["lr"] = rate * min(1.0, (steps + 1) / 20)
        meta.grad = mf.loss_gradient(few, meta.detach(), mf.Weights.ones(few.tasks))[1] / len(some)
        optimiser.step()
        steps += 1
    return meta.detach(), steps


if __name__ == "__main__":
    main()
