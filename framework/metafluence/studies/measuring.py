"""The metrics that a study asks for, measured on its finished runs and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite

from metafluence.errors import InputError, in_words
from metafluence.evaluation import Evaluation, Measured, Metric, Plan, Run
from metafluence.progress import Observer
from metafluence.registry import Registry
from metafluence.runtime import component_fingerprint
from metafluence.studies.config import Spec
from metafluence.studies.plans import spec_label
from metafluence.studies.preparation import Preparation
from metafluence.tasks import Level


def make_metrics(specs: Sequence[Spec], registry: Registry) -> dict[str, Metric]:
    """The metrics by label. Raises InputError for one that is asked for twice."""
    found: dict[str, Metric] = {}
    for spec in specs:
        label = spec_label(spec)
        if label in found:
            raise InputError(f"metrics has {label!r} twice. Remove one of the two.")
        found[label] = registry.build("metric", spec, "metrics")
    return found


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
    given = Measured(evaluation, method, run.scores, peers, run.row.name)
    values: dict[str, float] = {}
    notes = list(run.row.notes)
    for label, metric in metrics.items():
        name = f"metrics/{plan.id}-{preparation.run_key(evaluation)}-{component_fingerprint(metric)}"
        stored = None if metric.compares else preparation.shelf.find(name)
        try:
            own = metric.measure(given) if stored is None else stored[1]
        except Exception as error:  # the run itself is good
            notes.append(f"{label}: {in_words(error)}")
            continue
        own = {key: float(value) for key, value in own.items() if isfinite(value)}
        if stored is None and not metric.compares:
            preparation.shelf.keep(name, {}, own)
        values |= {f"{label}.{key}": value for key, value in own.items()}
    return replace(run, row=replace(run.row, metrics=values, notes=tuple(notes)))
