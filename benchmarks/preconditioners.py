"""Conjugate gradients on the total Hessian of the study solver-comparison: steps and products with and without Nyström.

For one right-hand side (the gradient of the validation loss) and for all tasks' responses together. Products include
the preparation of the preconditioner; a step on k columns counts as k.
"""

from __future__ import annotations

from pathlib import Path

import torch

import metafluence as mf

STUDY = Path(__file__).parents[1] / "studies" / "solver-comparison.yaml"


def main() -> None:
    torch.set_num_threads(1)
    config = mf.load_study(STUDY)
    bench = mf.Study(config.model_copy(update={"truth": None}), mf.default_registry(), Path("results/preconditioners"))
    ready = bench.prepare().evaluation
    point = ready.problem.at(ready.meta, init=ready.adapted)
    goal = mf.Targets(ready.problem, ready.validation, ready.meta).gradients()
    print(f"{'preconditioner':<16}{'columns':>8}{'steps':>7}{'products':>10}{'residual':>10}")
    for rank in (None, 10, 20, 50, 100, 200):
        spec = None if rank is None else {"use": "nystrom", "rank": rank}
        prepared = mf.PreparedSolve(mf.build("solver", "cg", preconditioner=spec), point.hessian())
        for rhs in (goal, point.task_gradients()):
            found = prepared.solve(rhs)
            products = prepared.matvecs + found.matvecs
            name = "none" if rank is None else f"nystrom {rank}"
            print(f"{name:<16}{rhs.shape[1]:>8}{found.iterations:>7}{products:>10}{float(found.residual.max()):>10.0e}")


if __name__ == "__main__":
    main()
