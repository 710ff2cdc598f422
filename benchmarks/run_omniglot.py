"""Influence through recorded meta-training runs on real Omniglot: conv4, 5-way 1-shot, fresh episodes, plain Adam.

Needs METAFLUENCE_DATA with omniglot in it. Each episode is drawn from the published training classes and seen once.
Random 5 % of the episodes (with --after, of those of later steps) are left out, or have weight .9, and the run is
replayed. Prints, for every case: accuracy on tasks of unseen classes, LDS (Spearman correlation of predicted and
replayed changes of the mean loss of validation tasks, over random sets) and slope of the prediction, on request other
methods beside it, and what `run_trust` says.
With --accuracy it prints the accuracy of several seeds along the run alone, which is the price of a smooth network.
Weights start at He's scale.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from run_influence import compared, random_sets, slope, spearman, sums, timed

import metafluence as mf

SMOOTH = {"use": "conv4", "norm": "batch"}
PUBLISHED = {**SMOOTH, "activation": "relu", "pooling": "max"}


@dataclass(frozen=True)
class Case:
    """A learner on a backbone, and its run."""

    learner: str
    backbone: dict[str, Any]
    fields: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)


MAML = {"steps": 1, "rate": 0.4}
CASES = {
    "protonet-smooth": Case("protonet", SMOOTH),
    "protonet-published": Case("protonet", PUBLISHED),
    "maml-smooth": Case("maml", SMOOTH, MAML),
    "maml-published": Case("maml", PUBLISHED, MAML),
    "protonet-average": Case("protonet", {**PUBLISHED, "pooling": "average"}),
    "protonet-silu": Case("protonet", {**PUBLISHED, "activation": "silu"}),
    "maml-smooth-group": Case("maml", {**SMOOTH, "norm": "group"}, MAML),
    "protonet-adam-smooth": Case("protonet", SMOOTH, {}, {"use": "adam-smooth"}),
    "maml-adam-smooth": Case("maml", SMOOTH, MAML, {"use": "adam-smooth"}),
    "protonet-published-adam-smooth": Case("protonet", PUBLISHED, {}, {"use": "adam-smooth"}),
}


def he_start(problem: mf.BilevelProblem, generator: torch.Generator) -> torch.Tensor:
    """The learner's own start with convolutions at He's scale: torch's default is 1 / sqrt(6) of it."""
    learner, start = problem.learner, problem.learner.init_meta(generator).to(problem.tasks.device)
    for name, where in learner.network.positions().items():
        if name.endswith("weight") and where.dim() == 4:
            start[where.flatten().to(start.device)] *= 6**0.5
    return start


def problem_of(name: str, options: argparse.Namespace) -> tuple[mf.BilevelProblem, mf.Split, mf.Trainer]:
    """The case's problem, its tasks, and its trainer."""
    case, count = CASES[name], options.tasks or options.steps * options.batch
    episodes = mf.Episodes(train=count, validation=20, test=200, way=5, shot=1, query=5, split="published")
    drawn = mf.build("dataset", "omniglot").tasks(episodes, torch.Generator().manual_seed(0), torch.float32)
    drawn = mf.Split(
        *(part.to(device=torch.device(options.device)) for part in (drawn.train, drawn.validation, drawn.test))
    )
    backbone = {**case.backbone, "width": options.width}
    learner = mf.build("learner", case.learner, backbone=backbone, **case.fields)
    bilevel = mf.BilevelProblem(learner, drawn.train, 0.0, mf.build("solver", "cg"), memory_gib=4)
    trainer = {"use": "adam", "steps": options.steps, "batch": options.batch, **case.trainer}
    if trainer["use"] == "adam":
        trainer["learning_rate"] = options.rate
    return bilevel, drawn, mf.build("trainer", trainer.pop("use"), checkpoints=0, order="epochs", **trainer)


def accuracy_of_seeds(name: str, options: argparse.Namespace) -> None:
    """Train from three seeds, one after the other, and measure at each quarter of the run."""
    found = []
    for seed in range(3):
        bilevel, drawn, trainer = problem_of(name, options)
        adam = replace(trainer, checkpoints=4)
        start = he_start(bilevel, torch.Generator().manual_seed(seed))
        fit, seconds = timed(lambda: adam.fit(bilevel, init=start, generator=torch.Generator().manual_seed(seed + 1)))  # noqa: B023
        tests = bilevel.over(drawn.test)
        found.append([mf.validate(tests, kept.meta).accuracy or 0.0 for kept in fit.checkpoints])
        curve = ", ".join(f"{one:.3f} ({kept.step})" for one, kept in zip(found[-1], fit.checkpoints, strict=True))
        print(f"{name}, batches of {options.batch}, seed {seed}: accuracy (step) {curve}; {seconds:.0f} s", flush=True)
    mean, spread = torch.tensor(found).mean(0), torch.tensor(found).std(0)
    curve = ", ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True))
    print(f"{name}: {curve} (mean and standard deviation of three seeds at each quarter)", flush=True)


def run_case(name: str, options: argparse.Namespace) -> None:
    # Another seed than the run's: its first set would be the first batches, whole.
    draws = torch.Generator().manual_seed(1000 + options.seed)
    bilevel, drawn, trainer = problem_of(name, options)
    late = options.after if options.tasks else 0  # tasks that are seen again are asked about in the later steps alone
    adam = replace(trainer.recording(), record_after=late)
    start = he_start(bilevel, torch.Generator().manual_seed(options.seed))
    generator = torch.Generator().manual_seed(options.seed + 1)
    fit, training = timed(lambda: adam.fit(bilevel, init=start, generator=generator))
    run = fit.run
    assert run is not None
    targets = mf.Targets(bilevel, drawn.validation, run.final)
    context = mf.Context(bilevel.at(run.final), run=run)
    method = mf.build("method", "run-influence")
    found, sweep = timed(lambda: mf.attribute(method, context, targets))
    scores = found.values[:, 0].double().cpu().numpy()
    accuracy = mf.validate(bilevel.over(drawn.test), run.final).accuracy
    print(
        f"{name}, width {options.width}, {options.steps} x {options.batch} after {options.after}, seed {options.seed}: "
        f"accuracy {accuracy:.3f}, training {training:.0f} s, sweep/run {sweep / training:.1f}",
        flush=True,
    )
    sets = random_sets(run, options.after - late, [0.05] * options.subsets, draws)
    predicted = sums(scores, sets)
    others = {name: sums(s, sets) for name, s in compared(run, targets).items()} if options.others else {}
    for what, part in (("left out", 1.0), ("weight .9", 0.1)):
        true = mf.replayed(run, sets, targets, weight=1 - part).loss_change[:, 0].double().cpu().numpy()
        print(
            f"  5 % of the episodes, {what}: LDS {spearman(predicted, true):.3f}, slope "
            f"{slope(part * predicted, true):.2f}, effects {true.mean():.1e} ± {true.std():.1e}"
            + "".join(f", {name} {spearman(summed, true):.2f}" for name, summed in others.items()),
            flush=True,
        )
    if run.final.is_cuda:
        print(f"  peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)
    if options.trust:
        print(f"  {mf.run_trust(run, targets, share=0.05)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=[])
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--subsets", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--after", type=int, default=0, help="ask about the episodes of the steps after this one only")
    parser.add_argument("--tasks", type=int, default=0, help="so many, seen again; fresh ones if 0")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--others", action="store_true", help="other methods beside it")
    parser.add_argument("--accuracy", action="store_true", help="the accuracy of three seeds along the run alone")
    parser.add_argument("--trust", action="store_true", help="also try whether the run can be trusted")
    options = parser.parse_args()
    torch.set_num_threads(1)
    mf.keep_freed_memory()
    for name in options.cases or CASES:
        (accuracy_of_seeds if options.accuracy else run_case)(name, options)


if __name__ == "__main__":
    main()
