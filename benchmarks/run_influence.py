"""How well the adjoint of a recorded meta-training run predicts its replays, and what the sweep costs.

`few`: 96 digit tasks seen again and again by MAML in a smooth run (Adam with eps_root, cosine to zero, batches of 32);
single tasks and random tenths of them are left out. `fresh`: digit episodes drawn once each, plain Adam with a short
warm-up, random 2 to 5 % of them (with --after, of those of later steps) left out, on request other methods beside it.
One thread. Prints a line for each run: accuracy on unseen tasks, agreement with replays, and the sweep's seconds over
those of training.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

import metafluence as mf

LEARNERS: dict[str, dict[str, Any]] = {
    "maml": {"use": "maml", "steps": 2, "rate": 0.4},
    "anil": {"use": "anil", "steps": 3, "rate": 0.4},
    "protonet": {"use": "protonet"},
    "ridge-head": {"use": "ridge-head"},
    "logistic-head": {"use": "logistic-head"},
}


def split(count: int, way: int = 3, shot: int = 3) -> mf.Split:
    """Digit tasks, validation and test of other images, with 5 query images of each class."""
    episodes = mf.Episodes(train=count, validation=16, test=64, way=way, shot=shot, query=5, split="instances")
    return mf.build("dataset", "digits").tasks(episodes, torch.Generator().manual_seed(0), torch.float64)


def problem(learner: str, tasks: mf.TaskSet, hidden: int, l2: float = 0.0) -> mf.BilevelProblem:
    built = mf.default_registry().build(
        "learner", {**LEARNERS[learner], "backbone": {"use": "mlp", "hidden": [hidden]}}
    )
    return mf.BilevelProblem(built, tasks, l2, mf.build("solver", "exact"))


def spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(np.asarray(spearmanr(predicted, true))[0])


def slope(predicted: np.ndarray, true: np.ndarray) -> float:
    centred = true - true.mean()
    return float(centred @ (predicted - predicted.mean()) / (centred @ centred))


DAMPINGS = (1.0, 10.0, 100.0)


def compared(run: mf.TrainingRun, targets: mf.Targets) -> dict[str, np.ndarray]:
    """Scores of tasks [N] by other methods; stationary ones on the end of the run, with each of some dampings."""
    context = mf.Context(run.problem.at(run.final), run=run, strict=False)
    cg = {"use": "cg", "rtol": 1e-3, "max_iterations": 50}
    asked: dict[str, dict[str, Any]] = {
        "tracin": {"use": "tracin", "along": "run"},
        "source": {"use": "source", "segments": 6},
        **{
            f"task-if {d:g}": {"use": "task-if", "curvature": "gauss-newton", "solver": cg, "damping": d}
            for d in DAMPINGS
        },
        **{f"ekfac-if {d:g}": {"use": "ekfac-if", "damping": d, "judge": False} for d in DAMPINGS},
    }
    scores = {}
    for name, spec in asked.items():
        try:
            method = mf.default_registry().build("method", spec)
            scores[name] = mf.attribute(method, context, targets).values[:, 0].double().cpu().numpy()
        except (mf.InputError, mf.SolverError) as error:
            print(f"  {name}: {error}", flush=True)
    return scores


def timed(work):
    started = time.perf_counter()
    found = work()
    return found, time.perf_counter() - started


def scored(name: str, trainer: dict[str, Any], drawn: mf.Split, hidden: int, l2: float = 0.0, seed: int = 1):
    """The recorded run, its targets, the scores of tasks [N], and a sentence about accuracy and cost."""
    bilevel = problem(name, drawn.train, hidden, l2)
    adam = mf.build("trainer", "adam", record=True, checkpoints=0, **trainer)
    fit, training = timed(lambda: adam.fit(bilevel, generator=torch.Generator().manual_seed(seed)))
    run = fit.run
    assert run is not None
    targets = mf.Targets(bilevel, drawn.validation, run.final)
    context = mf.Context(bilevel.at(run.final), run=run)
    found, sweep = timed(lambda: mf.attribute(mf.build("method", "run-influence"), context, targets))
    accuracy = mf.validate(bilevel.over(drawn.test), run.final).accuracy
    said = f"accuracy {accuracy:.2f}, ‖∇F‖ {fit.gradient_norm:.1e}, P {bilevel.size}, sweep/run {sweep / training:.1f}"
    return run, targets, found.values[:, 0].numpy(), said


def sums(scores: np.ndarray, sets: list[mf.Removal]) -> np.ndarray:
    return np.array([scores[list(one)].sum() for one in sets])


def random_sets(run: mf.TrainingRun, after: int, shares: list[float], draws: torch.Generator) -> list[mf.Removal]:
    """Random shares of the tasks that the recorded steps after this one drew."""
    asked = torch.cat(run.batches[after:]).unique()
    return [
        tuple(asked[torch.randperm(len(asked), generator=draws)[: round(share * len(asked))]].tolist())
        for share in shares
    ]


def few(options: argparse.Namespace) -> None:
    drawn, draws = split(96), torch.Generator().manual_seed(2)
    for eps_root in (1e-2, 1e-3):
        trainer = {"steps": options.steps, "batch": 32, "learning_rate": 1e-2, "schedule": "cosine", "warmup": 5}
        run, targets, scores, said = scored("maml", {**trainer, "eps_root": eps_root}, drawn, options.hidden)
        singles = [(int(i),) for i in torch.randperm(96, generator=draws)[: options.singles]]
        sets = [tuple(torch.randperm(96, generator=draws)[:10].tolist()) for _ in range(options.subsets)]
        alone = mf.replayed(run, singles, targets)
        together = mf.replayed(run, sets, targets).loss_change[:, 0].numpy()
        true = alone.loss_change[:, 0].numpy()
        found, summed = sums(scores, singles), sums(scores, sets)
        moved = mf.run_tangent(run, singles)
        errors = (moved - alone.change).norm(dim=0) / alone.change.norm(dim=0)
        print(
            f"maml, 96 tasks, {options.steps} x 32, eps_root {eps_root}: {said}; LOO {spearman(found, true):.3f}, LDS "
            f"{spearman(summed, together):.3f}, slope {slope(found, true):.2f}, median error of an effect "
            f"{np.median(np.abs(found - true) / np.abs(true)):.1%}, of a Δλ {float(errors.median()):.1%}",
            flush=True,
        )


def interval(predicted: np.ndarray, true: np.ndarray) -> str:
    """Spearman's correlation with its bootstrap interval over the sets."""
    found = mf.rank_agreement(predicted, true)
    return f"{found.value:.3f} ({found.low:.2f} to {found.high:.2f})"


def fresh(options: argparse.Namespace) -> None:
    drawn = split(8 * options.steps, options.way, options.shot)
    for name in options.learners:
        for seed in range(1, options.seeds + 1):
            fresh_run(name, drawn, seed, options)


def fresh_run(name: str, drawn: mf.Split, seed: int, options: argparse.Namespace) -> None:
    rate, draws = options.rate, torch.Generator().manual_seed(seed + 1)
    trainer = {"steps": options.steps, "batch": 8, "learning_rate": rate, "warmup": 5, "order": "epochs"}
    run, targets, scores, said = scored(name, trainer, drawn, options.hidden, seed=seed)
    sets = random_sets(run, options.after, torch.linspace(0.02, 0.05, options.subsets).tolist(), draws)
    true = mf.replayed(run, sets, targets).loss_change[:, 0].numpy()
    print(
        f"{name}, {options.steps} x 8 fresh episodes, after {options.after}, rate {rate}, seed {seed}: {said}; LDS "
        f"{interval(sums(scores, sets), true)}, slope {slope(sums(scores, sets), true):.2f}",
        flush=True,
    )
    if options.others:
        others = compared(run, targets)
        print("  " + "; ".join(f"{other} {interval(sums(s, sets), true)}" for other, s in others.items()), flush=True)
    if options.trust:
        print(mf.run_trust(run, targets, share=0.03), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("few", "fresh"))
    parser.add_argument("--learners", nargs="+", default=list(LEARNERS), choices=list(LEARNERS))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--after", type=int, default=0, help="ask about the episodes of the steps after this one only")
    parser.add_argument("--way", type=int, default=3)
    parser.add_argument("--shot", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=16)
    parser.add_argument("--singles", type=int, default=24)
    parser.add_argument("--subsets", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--others", action="store_true", help="other methods beside it")
    parser.add_argument("--trust", action="store_true", help="also try whether the run can be trusted")
    options = parser.parse_args()
    torch.set_num_threads(1)
    few(options) if options.kind == "few" else fresh(options)


if __name__ == "__main__":
    main()
