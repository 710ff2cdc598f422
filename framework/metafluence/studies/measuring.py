"""The metrics that a study asks for, measured on its finished runs and kept, and the columns of its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite

from metafluence.errors import ConfigError, InputError, in_words, unknown
from metafluence.evaluation import SHOWN, STANDING, Evaluation, Measured, Metric, Number, Plan, Run
from metafluence.progress import Observer
from metafluence.registry import Registry
from metafluence.runtime import component_fingerprint
from metafluence.studies.config import Spec
from metafluence.studies.plans import spec_label
from metafluence.studies.preparation import Preparation
from metafluence.tasks import Level

METRIC = "metric."
"""How columns of results.csv begin that hold numbers of the metrics that a study asks for."""


def make_metrics(specs: Sequence[Spec], registry: Registry) -> dict[str, Metric]:
    """The metrics by label, without those that every table has. Raises InputError for one that is asked for twice."""
    found: dict[str, Metric] = {}
    asked = [spec_label(spec) for spec in specs]
    for spec, label in zip(specs, asked, strict=True):
        if asked.count(label) > 1:
            raise InputError(f"metrics has {label!r} twice. Remove one of the two.")
        metric = registry.build("metric", spec, "metrics")
        if label not in STANDING:
            found[label] = metric
    return found


def numbers_of(
    specs: Sequence[Spec], metrics: Mapping[str, Metric], standing: Mapping[str, Metric]
) -> dict[str, Number]:
    """What the numbers of a study's `metrics` are, by the column of results.csv, in the order of the study."""
    found: dict[str, Number] = {}
    for label in map(spec_label, specs):
        if label in standing:
            found |= {number.name: number for number in standing[label].numbers()}
        for number in metrics[label].numbers() if label in metrics else ():
            # One that every table has, with parameters of its own: its heading says which.
            heading = f"{number.label} {label.partition(' ')[2]}".strip() if number.label else f"{label}.{number.name}"
            found[f"{METRIC}{label}.{number.name}"] = replace(number, label=heading)
    return found


def asked_columns(
    asked: Sequence[str], numbers: Mapping[str, Number], metrics: Mapping[str, Metric]
) -> tuple[str, ...]:
    """A study's `columns` as results.csv calls them; a metric stands for all its numbers that tables show.

    Raises ConfigError for a column that there is not, or that is named twice.
    """
    own = {column: number for column, number in numbers.items() if column.startswith(METRIC)}
    by_metric: dict[str, list[str]] = {}
    for label, metric in metrics.items():
        known = [number for number in metric.numbers() if number.shown]
        by_metric[label] = [f"{METRIC}{label}.{n.name}" if label not in STANDING else n.name for n in known]
    found: list[str] = []
    for name in asked:
        if name in SHOWN or name in own:
            found.append(name)
        elif by_metric.get(name):
            found += by_metric[name]
        else:
            raise ConfigError(f"columns: {unknown('column', name, {*SHOWN, *own, *metrics})}")
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"columns has {twice!r} twice. Remove one of the two.")
    return tuple(found)


def measured(
    metrics: Mapping[str, Metric],
    pairs: Sequence[tuple[Plan, Run]],
    evaluations: Mapping[Level, Evaluation],
    preparation: Preparation,
    observer: Observer,
) -> list[Run]:
    """The runs with their metrics' numbers, as `LABEL.NAME`; those in the store are not measured again.

    A metric that fails is a note of its run.
    """
    if not metrics:
        return [run for _, run in pairs]
    observer.stage("measuring", len(pairs))
    found = []
    for number, (plan, run) in enumerate(pairs, start=1):
        evaluation = evaluations[plan.level]
        if run.row.status == "ok":
            run = _with_metrics(metrics, plan, run, evaluation, [r for _, r in pairs], preparation)  # noqa: PLW2901
        found.append(run)
        observer.step(number, len(pairs), run.row.name)
    observer.done()
    return found


def _with_metrics(
    metrics: Mapping[str, Metric],
    plan: Plan,
    run: Run,
    evaluation: Evaluation,
    runs: Sequence[Run],
    preparation: Preparation,
) -> Run:
    # A damping that the study chose is the run's own.
    method = replace(plan.method, damping=run.row.damping) if plan.dampings else plan.method  # pyright: ignore
    peers = {r.row.name: r.scores for r in runs if r is not run and r.row.level == plan.level and len(r.scores)}
    units = "rank_only" if run.row.units == "rank_only" else "loss_change"
    given = Measured(evaluation, method, run.scores, peers, run.row.name, units, run.curve)
    values: dict[str, float] = {}
    notes = list(run.row.notes)
    for label, metric in metrics.items():
        name = f"metrics/{plan.id}-{preparation.run_key(evaluation)}-{component_fingerprint(metric)}"
        stored = None if metric.compares else preparation.shelf.find(name)
        try:
            own = metric.of(given) if stored is None else stored[1]
        except Exception as error:  # the run itself is good
            notes.append(f"{label}: {in_words(error)}")
            continue
        own = {key: float(value) for key, value in own.items() if isfinite(value)}
        if stored is None and not metric.compares:
            preparation.shelf.keep(name, {}, own)
        values |= {f"{label}.{key}": value for key, value in own.items()}
    return replace(run, row=replace(run.row, metrics=values, notes=tuple(notes)))
