"""What the same work takes on a processor and on a GPU: passes, products, a training run, its sweep, and scores.

conv4 with 64 filters, 5-way 1-shot tasks of 28 x 28 with 5 query images a class (noise: what work costs does not depend
on it), float32. The processor uses all its threads. Prints their ratio, and how far the results of
both are apart: the relative distance of float32 results. Then whether a recorded run replays with the same bits.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from run_sweep_cost import images

import metafluence as mf
from metafluence.runtime import find_device, settle

LEARNERS: dict[str, dict[str, Any]] = {
    "protonet": {"use": "protonet"},
    "maml": {"use": "maml", "steps": 1, "rate": 0.4},
    "anil": {"use": "anil", "steps": 5, "rate": 0.4},
    "ridge-head": {"use": "ridge-head"},
}
METHODS: dict[str, dict[str, Any]] = {
    "task-if, 10 steps of CG": {
        "use": "task-if",
        "curvature": "gauss-newton",
        "solver": {"use": "cg", "max_iterations": 10, "rtol": 1e-12},
        "damping": 1.0,
    },
    "ekfac-if": {"use": "ekfac-if", "damping": 1.0, "judge": False, "unsupported": "diagonal"},
    "trak": {"use": "trak"},
}


def timed(work: Callable[[], torch.Tensor], repeats: int, warm: bool) -> tuple[float, torch.Tensor]:
    """Median seconds, after a first call on a GPU, and the result."""
    if warm:
        settle(work())
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        found = work()
        settle(found)
        taken.append(time.perf_counter() - started)
    return median(taken), found.cpu()


def results(name: str, options: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, float, torch.Tensor]]:
    """What is done, its seconds and what it gives."""
    backbone = {"use": "conv4", "width": options.width, "norm": "group"}
    learner = mf.default_registry().build("learner", {**LEARNERS[name], "backbone": backbone})
    tasks = images(options.tasks, 5).to(device=device)
    problem = mf.BilevelProblem(learner, tasks, 1.0, mf.build("solver", "exact"), memory_gib=options.memory)
    meta = problem.learner.init_meta(torch.Generator().manual_seed(0)).to(device)
    columns = torch.randn(problem.size, 10, generator=torch.Generator().manual_seed(1)).to(device)
    point, warm = problem.at(meta), device.type != "cpu"
    yield "pass", *timed(lambda: problem.at(meta).gradient, options.repeats, warm)
    hessian = point.hessian()
    yield "product", *timed(lambda: hessian.matmat(columns[:, :1]), options.repeats, warm)
    yield "products of 10", *timed(lambda: hessian.matmat(columns), options.repeats, warm)
    trainer = mf.build("trainer", "adam-smooth", steps=options.steps, batch=8, record=True, checkpoints=0)

    def trained() -> mf.TrainingRun:
        run = trainer.fit(problem, init=meta, generator=torch.Generator().manual_seed(2)).run
        assert run is not None
        return run

    yield f"training, {options.steps} steps of 8", *timed(lambda: trained().final, 1, warm)
    run, goals = trained(), columns[:, :1] / columns[:, :1].norm()
    yield "its sweep", *timed(lambda: mf.run_adjoint(run, goals, mf.WEIGHED).by_weight["task"], 1, warm)
    same = torch.equal(trained().final, run.final)
    yield "its replay has the same bits", 0.0, torch.tensor([float(same)])
    targets = mf.Targets(problem, images(10, 5, seed=5).to(device=device), meta)
    for method, spec in METHODS.items():
        built = mf.default_registry().build("method", spec)

        def scored(built: mf.AttributionMethod = built) -> torch.Tensor:
            context = mf.Context(problem.at(meta), "task", torch.Generator().manual_seed(3), strict=False)
            return mf.attribute(built, context, targets).values

        try:
            yield method, *timed(scored, 1, warm)
        except mf.MetafluenceError as error:
            print(f"  {name} {method}: {error}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("learners", nargs="*", default=[])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--memory", type=float, default=8.0)
    options = parser.parse_args()
    other = find_device(options.device, torch.float32)
    mf.keep_freed_memory()
    named = torch.cuda.get_device_name(other) if other.type == "cuda" else str(other)
    print(f"{torch.get_num_threads()} threads and {named}; torch {torch.__version__}; {vars(options)}", flush=True)
    for name in options.learners or LEARNERS:
        ours = results(name, options, torch.device("cpu"))
        theirs = results(name, options, other)
        for (what, here, mine), (_, there, yours) in zip(ours, theirs, strict=True):
            apart = float((mine - yours).norm() / mine.norm())
            ratio = f"{here / there:.1f}" if there else "-"
            print(
                f"{name:<11}{what:<32}{1e3 * here:>10.1f} ms{1e3 * there:>10.1f} ms{ratio:>8}   apart {apart:.0e}"
                + (f"   same bits: {bool(mine)}, {bool(yours)}" if not there else ""),
                flush=True,
            )


if __name__ == "__main__":
    main()
