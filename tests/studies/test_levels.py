"""Studies of support and query instances: their rows, truth, budget, certificate, figures, and how they resume."""

import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

import metafluence as mf
from metafluence import default_registry
from metafluence.reports import Attempts
from metafluence_plugins.trainers.newton import Newton
from metafluence_plugins.trainers.sgd import SGD
from small_studies import SMALL, command, without_pictures, write

WEIGHED = {
    "levels": ["task", "query", "support"],
    "episodes": {**SMALL["episodes"], "shot": 2, "query": 2},
    "corruption": [
        {"kind": "query-labels", "fraction": 0.5, "strength": 0.4},
        {"kind": "support-labels", "fraction": 0.34, "strength": 0.34},
    ],
    "truth": {"items": 5, "subsets": 3, "subset_share": 0.3, "seeds": 1},
    "remove": [0.2, 0.4],
    "checkpoints": {"use": "sgd", "steps": 8, "batch": 3, "checkpoints": 2},
    "methods": [
        {"use": "retrain", "levels": "task"},
        "influence",
        "direct-if",
        "tracin",
        {"use": "loss", "levels": ["query"]},
    ],
    "solvers": ["exact"],
    "budget": {"methods": ["influence", {"use": "influence", "curvature": "gauss-newton", "levels": "query"}]},
}


def study(folder: Path, **changes) -> mf.Study:
    return mf.Study(mf.parse_study({**SMALL, **WEIGHED, **changes}), default_registry(), folder)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[mf.StudyResult, Path]:
    folder = tmp_path_factory.mktemp("levels")
    return study(folder).run(), folder


def test_methods_run_at_every_level_that_they_and_the_study_claim(done):
    result, _ = done
    assert not result.failed, [r.reason for r in result.failed]
    found = [(r.level, r.method) for r in result.rows]
    assert found == [
        *[("task", m) for m in ("retrain", "influence", "direct-if", "tracin")],
        *[("query", m) for m in ("influence", "direct-if", "tracin", "loss")],
        *[("support", m) for m in ("influence", "tracin")],
    ]
    counts = {"task": 6, "query": 24, "support": 24}
    for run in result.runs:
        assert len(run.scores) == counts[run.row.level]
        assert 0 <= run.row.auroc <= 1
        inspected = round(0.2 * len(run.scores))  # the first share of `remove`
        corrupted = result.split.train.corrupted_items(run.row.level)
        first = run.scores.argsort()[:inspected]
        assert run.row.found == pytest.approx(float(corrupted[first].sum() / corrupted.sum()))
        assert -1 <= run.row.lds <= 1
        assert run.row.lds_low <= run.row.lds <= run.row.lds_high
        assert len(run.curve) == 2
        assert bool(run.curve.tensor()[:, 2:].isfinite().all())
        assert run.row.loss_retrained == float(run.curve.loss_retrained[0])


def test_the_rows_of_influence_agree_with_retraining_at_every_level(done):
    result, _ = done
    for level in mf.WEIGHED:
        row = next(r for r in result.rows if r.method == "influence" and r.level == level)
        assert row.spearman > 0.85
        assert row.change_error < 0.5
        assert row.pearson > 0.85


def test_ground_truth_has_items_subsets_and_another_seed(done):
    result, folder = done
    for level, evaluation in result.evaluations.items():
        truth = evaluation.truth
        assert len(truth.removals) == 5
        assert [len(s) for s in truth.subsets] == 3 * [max(1, round(0.3 * evaluation.context().items))]
        assert truth.ceiling.seeds == 1
        interval = np.array([-1, truth.ceiling.spearman_low, truth.ceiling.spearman, truth.ceiling.spearman_high, 1])
        assert (np.diff(interval) > -1e-9).all()
        assert len(evaluation.remove) == 2
        assert np.isfinite(result.clean[level].loss)
    assert (folder / "bank-1").is_dir()
    retrain = next(r for r in result.rows if r.method == "retrain")
    # One item's retrained losses do not add up to a subset's: even the truth has an LDS below 1.
    assert retrain.spearman == pytest.approx(1)


def test_a_finished_study_repeats_nothing(done, monkeypatch):
    result, folder = done
    for trainer in (Newton, SGD):
        monkeypatch.setattr(trainer, "fit", lambda *a, **k: pytest.fail("fitted again"))
    monkeypatch.setattr("metafluence.studies.study.error_budget", lambda *a: pytest.fail("split again"))
    monkeypatch.setattr("metafluence.studies.study.certify", lambda *a: pytest.fail("certified again"))
    again = study(folder).run()
    assert again.reused == len(result.runs)
    pd.testing.assert_frame_equal(pd.DataFrame(again.rows), pd.DataFrame(result.rows))
    assert again.budgets == result.budgets
    assert again.certificates == result.certificates
    for a, b in zip(again.runs, result.runs, strict=True):
        np.testing.assert_array_equal(a.curve.tensor(), b.curve.tensor())


def test_levels_and_methods_may_be_added_to_a_finished_study(tmp_path):
    small = {"truth": None, "methods": ["loss"], "budget": None, "checkpoints": None, "certificate": False}
    study(tmp_path, levels=["task"], **small).run()
    more = study(tmp_path, levels=["query", "task"], **small).run()
    assert more.reused == 1
    assert [r.level for r in more.rows] == ["query", "task"]


def test_budgets_and_certificates_are_of_their_levels(done):
    result, folder = done
    assert [(b.level, b.method) for b in result.budgets] == [
        ("task", "influence"),
        ("query", "influence"),
        ("query", "influence curvature=gauss-newton"),
        ("support", "influence"),
    ]
    assert all(b.status == "ok" for b in result.budgets)
    rows = {(r.level, r.method): r.change_error for r in result.rows}
    for budget in result.budgets[:2]:
        assert budget.total == pytest.approx(rows[budget.level, "influence"])
        assert budget.total == pytest.approx(budget.first_order, rel=1e-6)
    assert [c.level for c in result.certificates] == ["task", "query", "support"]
    names = [file.stem for file in (folder / "budget").iterdir()]
    assert all(re.fullmatch(r".+-[0-9a-f]{8}-[0-9a-f]{16}-[0-9a-f]{16}", name) for name in names)
    assert all("retraining from other seeds agrees to" in c.checks[-1].measured for c in result.certificates)


def test_the_report_has_a_section_for_each_level(done, monkeypatch):
    """Figures of tasks are drawn in the tests of a study, of query instances in those of a comparison."""
    picture = Attempts.picture

    def some(self, draw, title, caption, file):
        drawn = file.name.startswith(("items-found", "harmful", "error-budget")) or file.name.endswith("-support.png")
        return picture(self, draw, title, caption, file) if drawn else None

    monkeypatch.setattr(Attempts, "picture", some)
    result, folder = done
    text = mf.write_report(result, folder).read_text()
    for heading in ("<h3>Tasks</h3>", "<h3>Query instances</h3>", "<h3>Support instances</h3>"):
        assert text.count(heading) == 3  # tables, figures, pictures
    order = ("found", "trust", "tables", "figures", "pictures", "fit", "reproduce")
    places = [text.index(f'<h2 id="{name}">') for name in order]
    assert places == sorted(places)
    for words in ("Can influence be trusted here?", "Where the error comes from", "retrain, 1 other seed", "LDS"):
        assert words in text
    for certificate in result.certificates:
        assert certificate.verdict in text
    names = ("predicted-against-true", "items-found", "removal-curves", "fidelity-against-runtime")
    names = (*names, "harmful", "helpful")
    for name in [*(f"{n}-support" for n in names), "error-budget"]:
        assert matplotlib.image.imread(folder / "figures" / f"{name}.png")[..., :3].std() > 0.02
    assert len(pd.read_csv(folder / "budget.csv")) == 4
    table = pd.read_csv(folder / "results.csv")
    assert set(table.level) == set(mf.WEIGHED)
    lines = mf.level_table([mf.study_group(result)], "query").rows
    assert len(lines) == 3 + len(result.at("query"))
    assert lines[0][0] == "retrain, 1 other seed"


def test_the_command_line_shows_a_table_for_each_level(tmp_path):
    write(
        tmp_path,
        **{
            **WEIGHED,
            "methods": ["influence"],
            "truth": {"items": 2, "subsets": 3},
            "remove": 0.2,
            "budget": None,
            "checkpoints": None,
        },
    )
    with without_pictures():
        found = command(tmp_path, "run", "study.yaml")
    assert found.returncode == 0, found.stderr
    for words in ("task level", "query level", "support level", "LDS"):
        assert words in found.stdout
    assert "trusted here" in found.stdout


def test_without_checkpoints_a_row_says_what_is_missing(tmp_path):
    result = study(tmp_path, checkpoints=None, methods=["tracin"], budget=None, truth=None, levels=["task"]).run()
    (row,) = result.rows
    assert row.status == "failed"
    assert "under `checkpoints`" in row.reason
    assert result.certificates == ()


def test_a_trainer_s_own_checkpoints_serve(tmp_path):
    trainer = {"use": "adam", "steps": 10, "checkpoints": 2}
    small = {"checkpoints": None, "methods": ["tracin"], "budget": None, "truth": None, "levels": ["task"]}
    study(tmp_path, trainer=trainer, **small).run()
    again = study(tmp_path, trainer=trainer, **small).run()  # from the stored fit
    assert not again.failed
    assert len(again.evaluations["task"].checkpoints) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": ["tasks"]}, "levels.0 is 'tasks'"),
        ({"levels": []}, "levels is"),
        (
            {"methods": ["direct-if"], "levels": ["support"]},
            "direct-if does not support level support; its levels are task, query",
        ),
        ({"methods": [{"use": "loss", "levels": "suport"}]}, "'suport', which the study does not have"),
        ({"levels": ["task"], "methods": [{"use": "loss", "levels": ["query"]}]}, "its levels are task"),
        ({"methods": ["loss", {"use": "loss", "levels": "query"}]}, "loss  ?twice"),
        ({"truth": {"subset_share": 1.5}}, "truth.subset_share is 1.5"),
        ({"remove": [0.1, 2]}, "remove.1 is 2"),
        ({"remove": 2}, "remove is 2"),
        ({"budget": {"methods": ["loss"]}}, "loss predicts none"),
        ({"budget": {"methods": ["influence"], "inner": "exat"}}, "exact"),
        ({"truth": None}, "the study has no `truth`"),
        ({"checkpoints": "sdg"}, "sgd"),
    ],
)
def test_a_bad_study_is_refused_before_anything_is_computed(tmp_path, changes, message):
    with pytest.raises(mf.InputError, match=message):
        study(tmp_path, **changes)
    assert not list(tmp_path.iterdir())
