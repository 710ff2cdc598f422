"""Studies whose truth is proximal: at the end of a run that has not converged, stationary methods answer it."""

import re
from pathlib import Path

import pytest
import torch

import metafluence as mf
from metafluence.evaluation import TruthKind
from metafluence.reports import level_table
from metafluence.studies.outcomes import load_outcome, outcome, save_outcome
from metafluence.studies.variations import Variation
from refusals import refused
from small_studies import RUN, without_pictures

DAMPING = 10.0
PROXIMAL = {
    **RUN,
    "trainer": {**RUN["trainer"], "record": True},
    "truth": {"kind": "proximal", "damping": DAMPING, "items": 6, "subsets": 6, "subset_share": 0.25},
    "methods": [{"use": "task-if", "damping": DAMPING, "curvature": "gauss-newton"}, "run-influence"],
    "certificate": True,
}


def run(folder: Path, **changes) -> mf.StudyResult:
    return mf.Study(mf.parse_study({**PROXIMAL, **changes}), mf.default_registry(), folder).run()


@pytest.fixture(scope="module", autouse=True)
def _no_pictures():
    with without_pictures():
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[mf.StudyResult, Path]:
    folder = tmp_path_factory.mktemp("proximal")
    return run(folder), folder


def test_the_truth_is_what_proximal_fits_by_hand_give(done):
    result, _ = done
    evaluation, truth, meta = result.evaluations["task"], result.truth, result.fit.meta
    assert result.fit.gradient_norm > 1, "far from a minimum"
    ones = mf.Weights.ones(evaluation.problem.tasks)
    near = mf.Proximal(DAMPING).near(evaluation.problem, meta, ones)
    ends = [near.fit(ones.without("task", removal)).meta for removal in (*truth.removals, *truth.subsets)]
    torch.testing.assert_close(truth.change, torch.stack(ends[:6], dim=1) - meta.unsqueeze(1), rtol=1e-9, atol=1e-12)
    targets = evaluation.targets()
    losses = torch.stack([(targets.losses(end) - targets.losses()).mean() for end in ends])
    torch.testing.assert_close(torch.cat([truth.loss_change, truth.subset_loss_change]), losses, rtol=1e-9, atol=1e-12)


def test_gauss_newton_influence_with_its_damping_answers_it_and_the_run_s_derivative_does_not(done):
    result, _ = done
    stationary, through = result.rows
    assert not result.failed
    assert stationary.spearman > 0.95
    assert stationary.change_error < 0.2
    assert through.change_error > 0.5
    assert not result.certificates, "those are of minima and of runs"


def test_a_lowered_weight_comes_nearer_to_the_derivative(done, tmp_path):
    result, _ = done
    lowered = run(tmp_path, truth={**PROXIMAL["truth"], "weight": 0.99}, methods=PROXIMAL["methods"][:1])
    assert lowered.rows[0].change_error < 0.1 * result.rows[0].change_error
    assert lowered.rows[0].slope == pytest.approx(1, abs=0.01)


def test_every_table_says_which_truth_it_is(done, tmp_path):
    result, _ = done
    assert level_table([mf.study_group(result)], "task").title.endswith("against proximal training (damping 10)")
    kept = outcome(Variation({}, result.config), result)
    file = tmp_path / f"{kept.id}.safetensors"
    save_outcome(file, kept)
    assert load_outcome(file).truth == kept.truth
    assert "trained on near where it is, in outputs and parameters (damping 10)" in kept.truth.words.effect
    lowered = run_kind(weight=0.5)
    assert lowered.words.name == "proximal training (damping 3) at weight 0.5"


def run_kind(**changes) -> TruthKind:
    return mf.parse_study({**PROXIMAL, "truth": {"kind": "proximal", "damping": 3.0, **changes}}).truth.called


def test_truths_of_other_dampings_share_no_store_and_stand_on_one_page(tmp_path):
    raw = {**PROXIMAL, "vary": {"truth.damping": [3.0, 30.0]}, "methods": PROXIMAL["methods"][:1]}
    work = mf.Comparing(mf.parse_comparison(raw), mf.default_registry(), tmp_path)
    assert len({variation.work for variation in work.comparison.variations}) == 2
    assert "proximal fits." in " ".join(mf.pilot(work).sentences())
    outcomes = work.run(lambda study, result, place: None)
    weak, strong = (sum(map(abs, one.sides["task"].loss_change)) for one in outcomes)
    assert 0 < strong < weak, "what stays nearer changes less"
    page = mf.write_comparison(mf.Merged.of(work, outcomes), tmp_path).read_text()
    assert "Methods are compared with the truth of each variation." in page


WRONG = {
    "none": ({"kind": "proximal"}, "truth.damping is missing: `kind: proximal` stays near the model by it. Give"),
    "negative": ({"kind": "proximal", "damping": -1.0}, "truth.damping is -1.0, but a number"),
    "seeds": ({"kind": "proximal", "damping": 2.0, "seeds": 2}, "truth.seeds has no meaning for `kind: proximal`"),
    "start": ({"kind": "proximal", "damping": 1.0, "start": "cold"}, "truth.start has no meaning for `kind: proximal`"),
    "run": (
        {"kind": "run", "damping": 1.0},
        "truth.damping has no meaning for `kind: run`; leave it out, or set `kind: proximal`",
    ),
    "minimum": ({"damping": 1.0}, "truth.damping has no meaning for `kind: minimum`; add `kind: proximal`"),
}


@pytest.mark.parametrize(("truth", "message"), WRONG.values(), ids=WRONG)
def test_settings_without_meaning_are_refused(truth, message):
    with refused(re.escape(message)):
        mf.parse_study({**PROXIMAL, "truth": truth})


def test_a_budget_is_of_minima(tmp_path):
    with refused("budget splits errors of predicted minima. Remove it"):
        mf.Study(mf.parse_study({**PROXIMAL, "budget": {"methods": ["influence"]}}), mf.default_registry(), tmp_path)
