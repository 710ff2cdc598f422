"""What a study is going to do, and about how long it will take, from a pilot whose work is kept."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from metafluence.attribution import prepare_and_score
from metafluence.errors import MetafluenceError
from metafluence.evaluation import DRAWS, Evaluation
from metafluence.progress import duration
from metafluence.runtime import count, settle
from metafluence.studies.comparison import Comparing
from metafluence.studies.preparation import Started
from metafluence.studies.study import Study

TRIED = 2
"""Retrainings of the pilot."""
CALLED = {"minimum": "exact retraining", "run": "replay", "procedure": "replay", "proximal": "proximal fit"}


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """An estimate of what a study takes."""

    runs: tuple[tuple[str, ...], ...]
    """By variation, the ids of its runs."""
    fit_seconds: float
    """One fit."""
    fits: int
    """Fits of all variations; those that share one counted once."""
    retrain_seconds: float
    """One retraining, as fast as the executor does several."""
    retrainings: int
    """At most this many."""
    scoring_seconds: float
    """All runs of a variation."""
    called: str = "exact retraining"
    """What a retraining is called."""

    @property
    def seconds(self) -> float:
        """The estimate for everything; what is in the store already is not taken off."""
        fitting, retraining = self.fits * self.fit_seconds, self.retrainings * self.retrain_seconds
        return fitting + retraining + len(self.runs) * self.scoring_seconds

    def sentences(self) -> list[str]:
        """In sentences."""
        runs, variations = sum(len(some) for some in self.runs), len(self.runs)
        work = count(self.fits, "fit")
        took = [f"One fit took {self.fit_seconds:.2g} s"]
        if self.retrainings:
            work += f" and at most {count(self.retrainings, self.called)}"
            took.append(f"one {self.called} {self.retrain_seconds:.2g} s")
        took.append(f"the scores of all methods {self.scoring_seconds:.2g} s")
        as_first = ", as if every variation were as large as the first" if variations > 1 else ""
        return [
            f"{count(runs, 'run')} in {count(variations, 'variation')}, with {work}.",
            f"{', '.join(took)}: about {duration(self.seconds)} in all{as_first}, less what is stored already and "
            "retrainings that methods share. Checks, figures and error budgets come on top.",
        ]


def pilot(work: Comparing) -> Pilot:
    """Fit the first variation, retrain a few times without an item, and let every method score once."""
    study = work.studies[0]
    started = study.preparation.start()
    level = study.config.levels[0]
    items = len(started.split.train.corrupted_items(level))
    bank, each = study.preparation.bank(started), 0.0
    if bank is not None:
        singles, _ = study.preparation.removals(level, items, started.fit.run)
        begun = time.perf_counter()
        found = bank.leave_out(singles[:TRIED], level, strict=False)
        # Found in the store, they took longer once than it takes to read them.
        each = max((time.perf_counter() - begun) / len(found.seconds), float(found.seconds.mean()) / TRIED)
    # Of variations that share their work, the one with most fits makes them all.
    made: dict[str, int] = {}
    for variation in work.comparison.variations:
        asked = variation.config.truth
        made[variation.work] = max(made.get(variation.work, 1), 1 if asked is None else asked.runs)
    fits = sum(made.values())
    runs = tuple(tuple(plan.id for plan in one.plans) for one in work.studies)
    retrainings = sum(_retrainings(one, started) for one in work.studies)
    return Pilot(
        runs=runs,
        fit_seconds=started.fit.seconds,
        fits=fits,
        retrain_seconds=each,
        retrainings=retrainings,
        scoring_seconds=_scoring(study, started),
        called=CALLED[study.config.truth.kind] if study.config.truth is not None else CALLED["minimum"],
    )


def _retrainings(study: Study, started: Started) -> int:
    """At most so many: the ground truth, each run's removals and dampings, and the runs that score by retraining."""
    asked = study.config.truth
    if asked is None:
        return 0
    total = 0
    for level in study.config.levels:
        items = len(started.split.train.corrupted_items(level))
        singles, subsets = study.preparation.removals(level, items, started.fit.run)
        plans = [plan for plan in study.plans if plan.level == level]
        total += (len(singles) + len(subsets)) * asked.runs
        removed = len(plans) * max(1, len(study.config.remove))
        sizes = len(asked.ends(items))
        removed += 2 * sizes * len(plans) + DRAWS * sizes
        removed += sum(items if plan.method.retrains else len(plan.dampings) for plan in plans)
        total += removed * asked.called.runs
    return total


def _scoring(study: Study, started: Started) -> float:
    """Seconds of all methods at all levels, but for those that retrain; one that fails costs what it took to fail."""
    problem, fit, split = started.problem, started.fit, started.split
    point = problem.at(fit.meta)
    begun = time.perf_counter()
    for plan in study.plans:
        if plan.method.retrains:
            continue
        evaluation = Evaluation(
            problem=problem,
            meta=fit.meta,
            adapted=point.adapted,
            validation=split.validation,
            test_tasks=split.test,
            bank=None,
            checkpoints=started.checkpoints,
            run=fit.run,
            seed=0,
            level=plan.level,
        )
        with contextlib.suppress(MetafluenceError):
            _, scored = prepare_and_score(plan.method, evaluation.context(), evaluation.targets())
            settle(scored.values)
    asked = study.config.truth
    runs = 1 if asked is None else asked.called.runs  # each method scores at every one
    return runs * (time.perf_counter() - begun)
