"""What several processes compute together, and one alone."""

import json
import os
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

import metafluence as mf
from metafluence.runtime import TaskShare
from parts import EXACT, LEARNERS
from small_problems import seeded, tasks, with_origins

LEVELS = ("task", "query", "support")
QUICK = ()
FAST = ("task-if", "run-influence")
ALL = (*FAST, "tracin", "trak", "ekfac-if", "gradient-similarity", "grad-ascent", "retrain")


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(3), dtype=torch.float64)


def numbers(learners=QUICK, methods=FAST) -> dict[str, torch.Tensor]:
    """Everything that is a sum over tasks, or a result of each task or item."""
    problems = {name: mf.BilevelProblem(LEARNERS[name](), tasks(5), 0.1, EXACT) for name in learners}
    problems["rebuilt"] = mf.BilevelProblem(LEARNERS["logistic-head"](), tasks(5), 0.1, EXACT, 1e-6)
    problems["single"] = mf.BilevelProblem(LEARNERS["logistic-head"](), tasks(1), 0.1, EXACT)
    found = {f"{name} {what}": value for name, problem in problems.items() for what, value in of_point(problem)}
    return found | (of_methods(methods) if methods else {})


def of_point(problem):
    point = problem.at(0.3 * draw(problem.size))
    columns, each, outputs = draw(problem.size, 3), draw(problem.size, len(point)), draw(*point.predictions.shape)
    yield "objective", torch.tensor(point.objective)
    yield "gradient", point.gradient
    yield "product", point.hessian().matmat(columns)
    yield "gauss-newton", point.hessian(form="gauss-newton").matmat(columns)
    yield "products", point.product_each(each)
    yield "pull", point.output_gradient(outputs)
    yield "adapted", point.adapted
    yield "converged", point.adaptation.converged
    yield "outer", point.outer_gradients()
    yield "residual", torch.tensor(point.inner_residual() < 1e-12)
    for level in LEVELS:
        yield f"slopes {level}", point.slopes(columns[:, :1], level)
        yield f"responses {level}", point.responses(level)
        yield f"losses {level}", point.item_losses(level)
        yield f"removed {level}", point.removed([(0,), (0, len(point) - 1)], level)
        both = point.chunks.product_and_slopes(columns.T.contiguous(), [level, "query"])
        yield f"both {level}", torch.cat([both[0], both[1][level].T, both[1]["query"].T], dim=1)
    quality, gradient = mf.loss_gradient(problem, point.meta)
    yield "pass", torch.cat([gradient, torch.tensor([quality.loss, mf.validate(problem, point.meta).loss])])


def of_methods(methods) -> dict[str, torch.Tensor]:
    """Scores at the end of a recorded run of minibatches, which is no minimum."""
    problem = mf.BilevelProblem(LEARNERS["logistic-head"](), with_origins(tasks(7)), 1.0, EXACT)
    trainer = mf.build("trainer", "adam", steps=4, batch=4, checkpoints=2, validate_every=2, record=True)
    fit = trainer.fit(problem, generator=seeded(), validation=tasks(3, seed=5))
    newton = mf.build("trainer", "newton", tolerance=1e-11)
    bank = mf.RetrainBank(problem, fit, newton, mf.build("executor", "serial"))
    context = mf.Context(problem.at(fit.meta), "task", seeded(), bank, fit.checkpoints, False, fit.run)
    targets = mf.Targets(problem, tasks(3, seed=9), fit.meta, mean=False)
    found = {"adam": fit.meta}
    for method in (mf.build("method", name) for name in methods):
        for level in ("task",) if methods == FAST else ("task", "support", "image"):
            if level in method.levels and (level == "task" or not method.retrains):
                found[f"{method} {level}"] = mf.attribute(method, replace(context, level=level), targets).values
    return found


def failures(rank: int, count: int) -> dict[str, str]:
    """What each process meets where one of them fails; the last failure ends their work together."""
    problem = mf.BilevelProblem(LEARNERS["logistic-head"](), tasks(5), 0.1, EXACT)
    point = problem.at(0.3 * draw(problem.size))

    def impossible() -> torch.Tensor:
        if rank == count - 1:
            raise mf.RemovalError("The last process cannot.")
        return torch.zeros(2)

    share = TaskShare.of(5, lambda: "five")
    found = {"impossible": met(lambda: share.sum("losses", impossible)), "after": met(lambda: point.gradient)}
    if count == 2:  # one asks for something else
        found["apart"] = met(lambda: point.product(draw(problem.size, 1) * (1 + rank), "total"))
    elif rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    began = time.monotonic()
    found["lost"] = met(lambda: point.hessian().matmat(draw(problem.size, 1)))
    return found | {"seconds": time.monotonic() - began, "later": met(lambda: problem.at(point.meta).gradient)}


def met(work) -> str:
    try:
        work()
    except mf.MetafluenceError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def work(rank: int, count: int, port: int, folder: Path, named: tuple = ()) -> None:
    """One process of `count`, as torchrun starts it; it writes what it found and the errors that it met."""
    found = {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in found.items()})
    torch.set_num_threads(1)
    tempfile.tempdir = str(folder)
    ranks = mf.join_ranks()
    kept = ranks.folder(folder / "store")
    (kept / "copied.txt").write_text((kept / "inside" / "kept.txt").read_text() + str(rank))
    torch.save(numbers(*named), folder / f"{ranks.rank}.pt")
    (folder / f"{ranks.rank}.json").write_text(json.dumps(failures(ranks.rank, ranks.count)))
