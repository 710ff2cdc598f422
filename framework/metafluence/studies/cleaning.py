"""Which files of a study's data set to delete, and whether deleting them is better than deleting random ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from metafluence.attribution import AttributionMethod, Targets, attribute
from metafluence.errors import InputError
from metafluence.evaluation import DRAWS, Plan, Selection, selected
from metafluence.studies.study import Study
from metafluence.tasks import TaskSet, count_of


@dataclass(frozen=True)
class Cleaning:
    """What is removed by one method, beside what `loss` would remove, and what each does to the test tasks.

    tasks: the study's training tasks, whose images are the items. method: by whose scores they are removed. scores
    [items]: by method, `loss` among them. evidence: of `method` and of `loss`; None where no image is said to harm.
    judges: how many tasks the evidence is of. fresh: they are others than those that the scores are for. replays: it
    replays a run; else it fits again.
    """

    tasks: TaskSet
    method: str
    scores: dict[str, Tensor]
    evidence: Selection | None
    judges: int
    fresh: bool
    replays: bool


def clean(
    study: Study, loss: AttributionMethod, method: str | None = None, share: float = 0.05, draws: int = DRAWS
) -> Cleaning:
    """Remove the images of lowest score, and fit or replay without them, without those of largest loss, and without
    random ones.

    Args:
        study: with level `image` and a ground truth; what is finished of it is reused.
        loss: the baseline that stands beside the method.
        method: one of the study's, as its tables call it; the first that predicts loss changes if None.
        share: of the images, above 0 and below 1, that are removed at most; only those that are predicted to harm are.
        draws: how many random sets are tried.

    Raises:
        InputError: the study has no images, ground truth or such method, or share or draws are out of bounds.
    """
    plan = _plan(study, method)
    if not 0 < share < 1 or draws < 1:
        raise InputError(
            f"A share of {share:g} is to be removed, beside {draws} random sets. Give 0 to 1, and 1 or more."
        )
    result = study.run(certify=False)  # fits and replays without the images are the evidence
    evaluation = result.evaluations["image"]
    runs = {f"{run.row.method} {run.row.solver}".strip(): run for run in result.at("image")}
    name = f"{plan.label} {plan.solver}".strip()
    if runs[name].row.status != "ok":
        raise InputError(f"{name} gave no scores: {runs[name].row.reason} Choose another --method.")
    scores = {title: run.scores for title, run in runs.items() if run.row.status == "ok" and not run.row.retrains}
    if "loss" not in scores:
        scores["loss"] = attribute(loss, evaluation.context(), evaluation.targets()).values[:, 0].cpu()
    chosen = {name: scores[name], "loss": scores["loss"]}
    items, harmful = len(scores[name]), int((scores[name] < 0).sum())
    count = min(count_of(share, items), harmful)
    evidence = None
    if count:
        judges = Targets(evaluation.problem, evaluation.test_tasks, evaluation.meta)
        evidence = selected(evaluation.context(), judges, chosen, items - count, draws)
    fresh = result.split.test is not result.split.validation
    assert study.config.truth is not None
    replays = study.config.truth.replays
    return Cleaning(result.split.train, name, scores, evidence, len(evaluation.test_tasks), fresh, replays)


def _plan(study: Study, method: str | None) -> Plan:
    """The study's plan of the method. Raises InputError before anything is computed."""
    config = study.config
    if "image" not in config.levels:
        raise InputError(f"The study {config.name} does not score images. Add `image` to its levels.")
    if config.truth is None or config.truth.averages:
        lacks = "no ground truth" if config.truth is None else "a mean over runs for its truth"
        raise InputError(f"The study {config.name} has {lacks}. Set `truth: {{kind: minimum}}` or `{{kind: run}}`.")
    plans = [p for p in study.plans if p.level == "image" and p.method.units == "loss_change" and not p.method.retrains]
    known = [plan for plan in plans if method in (None, plan.label, f"{plan.label} {plan.solver}".strip())]
    if not known:
        names = ", ".join(plan.label for plan in plans) or "none of the study's; add instance-if or run-influence"
        asked = "No method of the study" if method is None else f"{method!r} is none that"
        raise InputError(f"{asked} predicts loss changes of images. Those that do: {names}.")
    return known[0]
