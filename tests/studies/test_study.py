"""Studies, reports and the command line, end to end on real digits."""

import re
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import metafluence as mf
from metafluence import default_registry
from metafluence.hooks import hookimpl
from metafluence.package_files import resource
from metafluence_plugins.methods.influence import InfluenceFunction
from metafluence_plugins.methods.loss import LossScore
from metafluence_plugins.trainers.newton import Newton
from small_studies import changed, command, without_pictures, write


def run(folder: Path, registry=None, **changes) -> mf.StudyResult:
    config = mf.parse_study(changed(**changes))
    return mf.Study(config, registry or default_registry(), folder).run()


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[mf.StudyResult, Path]:
    folder = tmp_path_factory.mktemp("done")
    return run(folder), folder


def test_a_study_compares_every_method_and_solver_with_retraining(done):
    result, _ = done
    assert [(r.method, r.solver) for r in result.rows] == [
        ("retrain", ""),
        ("task-if", "exact"),
        ("task-if", "cg"),
        ("loss", ""),
    ]
    retrain, exact, cg, loss = result.rows
    assert not result.failed
    assert retrain.change_error == 0
    assert retrain.spearman == 1
    assert retrain.seconds == result.truth.seconds
    assert exact.change_error < 0.5
    assert cg.change_error == pytest.approx(exact.change_error, rel=1e-4)
    assert cg.products < exact.products
    assert np.isnan(loss.change_error)
    assert np.isnan(loss.slope)
    for row in result.rows:
        assert 0 <= row.auroc <= 1
        assert 0 <= row.accuracy_retrained <= 1
        assert row.seconds > 0
    assert result.evaluations["task"].remove == (2,)
    assert result.split.train.corrupted.sum() == 2


def test_a_finished_study_is_not_repeated_and_gives_the_same_rows(done, monkeypatch):
    result, folder = done
    monkeypatch.setattr(Newton, "fit", lambda *a, **k: pytest.fail("fitted again"))
    again = run(folder)
    assert again.reused == 4
    pd.testing.assert_frame_equal(pd.DataFrame(again.rows), pd.DataFrame(result.rows))


def test_an_interrupted_study_goes_on_without_repeating_what_is_finished(tmp_path, monkeypatch):
    scored = []
    original = LossScore.scores

    def interrupted(self, state, targets):
        scored.append("loss")
        raise KeyboardInterrupt

    monkeypatch.setattr(LossScore, "scores", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.setattr(LossScore, "scores", original)
    monkeypatch.setattr(Newton, "fit", _only_sets(Newton.fit))
    result = run(tmp_path)
    assert result.reused == 3
    assert not result.failed


def _only_sets(fit):
    """Fits without a single task are the finished ones; without a set, or at half a weight, they may still come."""

    def checked(self, problem, weights=None, *args, **kwargs):
        assert weights is not None
        assert int((weights.task == 0).sum()) > 1 or bool((weights.task == 0.5).any())
        return fit(self, problem, weights, *args, **kwargs)

    return checked


def test_stored_work_of_another_study_is_neither_reused_nor_lost(done):
    result, folder = done
    other = run(folder, l2=2.0)
    assert other.reused == 0
    (told,) = [warning for warning in other.warnings if "made with another" in warning]
    assert "another l2: settings, code or data changed" in told
    again = run(folder)
    assert again.reused == len(again.runs)
    assert again.rows[1].spearman == result.rows[1].spearman
    assert run(folder, l2=2.0).reused == len(again.runs)


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (lambda *_: {}["nothing"], "The method raised KeyError: 'nothing'."),
        (lambda *_: sys.exit(3), "The method raised SystemExit: 3."),
        (lambda *_: torch.empty(10**15), "Memory ran out (RuntimeError: "),
    ],
    ids=["error", "exit", "memory"],
)
def test_any_exception_of_a_method_is_a_row_and_its_traceback_a_file(tmp_path, monkeypatch, fail, reason):
    monkeypatch.setattr(LossScore, "scores", fail)
    result = run(tmp_path, methods=["loss", "random"], truth=None, certificate=False)
    (row,) = result.failed
    assert row.reason.startswith(reason)
    assert row.reason.endswith(" The traceback is in the store's `failures`.")
    (file,) = (tmp_path / "failures").iterdir()
    assert re.search(r"KeyError: 'nothing'|SystemExit: 3|can't allocate memory", file.read_text())
    assert [r.status for r in result.rows] == ["failed", "ok"]


@pytest.mark.parametrize(
    ("fail", "reason", "reported"),
    [
        (lambda *_: {}["nothing"], "Error: unexpected KeyError: 'nothing'. The traceback is in ", True),
        (lambda *_: torch.empty(10**15), "Error: Memory ran out (RuntimeError: ", False),
    ],
    ids=["error", "memory"],
)
def test_an_unexpected_error_of_a_command_is_one_message(tmp_path, monkeypatch, fail, reason, reported):
    monkeypatch.setattr(sys.modules["metafluence.cli.components"], "default_registry", fail)
    done = command(tmp_path, "list")
    assert done.returncode == 1
    assert done.stderr.startswith(reason)
    assert done.stderr.rstrip().endswith("please report it.") == reported
    assert "Traceback" not in done.stdout + done.stderr


def test_a_method_may_be_added_to_a_finished_study(done):
    _, folder = done
    result = run(folder, methods=["retrain", "task-if", "loss", "random"])
    assert result.reused == 4
    assert len(result.rows) == 5


def test_a_failed_run_is_a_row_with_its_reason_and_takes_nothing_down(tmp_path):
    methods = [{"use": "task-if", "solver": {"use": "cg", "max_iterations": 1}}, "loss"]
    changes = {"methods": methods, "truth": None, "certificate": False}
    result = run(tmp_path, **changes)
    failed, loss = result.rows
    assert failed.status == "failed"
    assert "Raise max_iterations" in failed.reason
    assert loss.status == "ok"
    with without_pictures():
        page = mf.write_report(result, tmp_path).read_text()
    assert "Raise max_iterations" in page
    assert "1 of 2 runs failed" in page
    assert run(tmp_path, **changes).reused == 1  # a failed run is tried again


def test_retrainings_that_do_not_converge_are_said_and_left_out(tmp_path):
    trainer = {"use": "newton", "max_steps": 0, "warmup": 60, "tolerance": 1e-5}
    result = run(tmp_path, trainer=trainer, methods=["loss"])
    assert result.truth is None
    assert any("without tasks: 6 of 6 retrainings did not converge" in w for w in result.warnings)


def test_a_study_goes_on_where_removals_leave_a_class_without_support(tmp_path):
    changes = {
        "learner": {"use": "protonet", "backbone": {"use": "mlp", "hidden": [3]}},
        "episodes": {"train": 4, "validation": 2, "test": 2, "way": 2, "shot": 1, "query": 2, "split": "instances"},
        "corruption": [],
        "remove": 0.25,
        "truth": {"items": 2},
        "levels": ["task", "support"],
        "methods": ["loss", {"use": "influence", "leave_out": True}, {"use": "influence", "leave_out": "edits"}],
    }
    result = run(tmp_path, **changes)
    assert result.evaluations["task"].truth is not None
    assert result.evaluations["support"].truth is None
    assert any("could not be made: Class" in warning for warning in result.warnings)
    rows = {(row.method, row.level): row for row in result.rows}
    assert rows["loss", "support"].status == "ok"
    assert "could not be made" in " ".join(rows["loss", "support"].notes)
    assert np.isnan(rows["loss", "support"].accuracy_retrained)
    assert "no support instance of positive weight" in next(r.reason for r in result.failed)
    found = next(r for r in result.at("support") if r.row.method.endswith("edits"))
    edits = found.row
    assert edits.status == "ok"
    assert len(found.scores) == 8
    assert "no parameters were predicted: Class" in " ".join(edits.notes)
    assert np.isnan(edits.accuracy_edited)
    with without_pictures():
        assert mf.write_report(result, tmp_path).exists()


def test_a_certificate_has_what_a_budget_has_predicted(tmp_path, monkeypatch):
    """Nothing is predicted twice, and nothing is different for it."""
    changes = {"methods": ["loss"], "certificate": True, "truth": {"items": 3}, "remove": 0.34}
    alone = run(tmp_path / "alone", **changes).certificates
    asked = []
    change = InfluenceFunction.parameter_change

    def counted(self, state, removals):
        asked.append(len(removals))
        return change(self, state, removals)

    monkeypatch.setattr(InfluenceFunction, "parameter_change", counted)
    both = run(tmp_path / "both", **changes, budget={"methods": ["influence"]})
    assert both.certificates == alone
    assert both.budgets[0].status == "ok"
    assert asked.count(len(both.truth.removals)) == len({"first order", "inner solve", "outer solve"})


def test_a_study_without_ground_truth_and_without_corruption(tmp_path):
    result = run(tmp_path, truth=None, corruption=None, methods=["task-if"], solvers=["cg"])
    assert result.truth is None
    assert np.isnan(result.rows[0].spearman)
    assert np.isnan(result.rows[0].auroc)
    assert result.evaluations["task"].remove == (1,)
    with without_pictures():
        assert mf.write_report(result, tmp_path).exists()


def test_some_tasks_may_stand_for_all_in_the_ground_truth(tmp_path):
    result = run(tmp_path, truth={"items": 3}, methods=["task-if"], solvers=["cg"])
    assert len(result.truth.removals) == 3
    assert np.isfinite(result.rows[0].spearman)


def test_imaml_studies_run_too(tmp_path):
    learner = {"use": "imaml", "backbone": {"use": "mlp", "hidden": [2]}, "proximal": 2.0}
    # Two input features keep the network small enough for dense inner Hessians.
    np.savez(
        tmp_path / "points.npz",
        images=np.random.default_rng(0).normal(size=(3, 60, 1, 2)) + np.arange(3).reshape(3, 1, 1, 1),
    )
    dataset = {"use": "npz", "path": "points.npz", "root": str(tmp_path)}
    methods = ["task-if", "direct-if"]
    changes = {"methods": methods, "solvers": ["exact"], "certificate": False, "remove": 0.34}
    result = run(tmp_path / "out", learner=learner, dataset=dataset, **changes)
    assert not result.failed, [r.reason for r in result.failed]
    assert result.rows[0].spearman > 0.8
    assert any("first-order convention" in note for note in result.rows[1].notes)


def test_plugins_follow_a_study(tmp_path):
    heard = []

    class Listener:
        @hookimpl
        def metafluence_study_started(self, study):
            heard.append("started")

        @hookimpl
        def metafluence_run_finished(self, study, run):
            heard.append(run.row.method)

    registry = default_registry()
    registry.hooks.register(Listener())
    run(tmp_path, registry, methods=["loss", "random"], truth=None, certificate=False)
    assert heard == ["started", "loss", "random"]


def test_the_report_holds_its_figures_its_table_and_its_configuration(done):
    result, folder = done
    page = mf.write_report(result, folder).read_text()
    assert page.count("data:image/png;base64,") == 5
    for name in ("predicted-against-true", "items-found", "fidelity-against-runtime", "harmful", "helpful"):
        picture = matplotlib.image.imread(folder / "figures" / f"{name}-task.png")
        assert picture[..., :3].std() > 0.02  # not an empty canvas
    for sentence in mf.verdict(result):
        assert sentence.split("(")[0] in page
    table = pd.read_csv(folder / "results.csv")
    assert list(table.method) == ["retrain", "task-if", "task-if", "loss"]
    assert table.spearman[0] == 1
    assert r"\textbf{" in (folder / "tables" / "task.tex").read_text()
    assert (folder / "tables" / "task.md").read_text().count("\n| ") == 2 + 2 + len(table)
    assert "against exact retraining" in (folder / "tables" / "task.md").read_text()
    config = yaml.safe_load(page.split("<pre>")[1].split("</pre>")[0].replace("&#39;", "'"))
    assert mf.parse_study(config) == result.config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"l2": "much"}, "l2 is 'much'"),
        ({"l2": 0}, "l2 is 0, but a number above 0 and at most 1e15 is expected. Give one"),
        ({"lerner": 1}, "no field 'lerner'. Did you mean 'learner'"),
        ({"episodes": {"wey": 3}}, "no field 'episodes.wey'. Did you mean 'way'"),
        ({"corruption": {"kind": "flip"}}, "corruption.kind is 'flip'.*'query-labels'"),
        ({"corruption": {"strength": 2}}, "corruption.strength is 2"),
        ({"truth": {"items": 1}}, "truth.items is 1, but a whole number at least 2 and at most 1e9 or 'all'"),
        ({"truth": {"start": "hot"}}, "truth.start is 'hot'.*'warm' or 'cold'"),
        ({"methods": []}, "methods is"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"methods": ["tracing"]}, "Unknown method 'tracing'"),
        ({"methods": [{"damping": 1}]}, "Write {use: NAME"),
        ({"methods": ["loss", "loss"]}, "asks for loss  ?twice"),
        ({"learner": {"use": "logistic-head", "backbone": "mpl"}}, "Unknown backbone 'mpl'. Did you mean 'mlp'"),
        ({"dtype": "float32"}, "dtype: float64"),
    ],
)
def test_a_bad_study_is_refused_before_anything_is_computed(tmp_path, changes, message):
    with pytest.raises(mf.InputError, match=message.replace(".", r"\.").replace(r"\.*", ".*")):
        run(tmp_path, **changes)
    assert not (tmp_path / "fit.safetensors").exists()


def test_numbers_may_be_written_as_yaml_reads_them_wrongly(tmp_path):
    text = yaml.safe_dump(changed()).replace("l2: 1.0", "l2: 1e0")
    assert isinstance(yaml.safe_load(text)["l2"], str)  # the trap: YAML 1.1 wants a dot
    assert mf.parse_study(yaml.safe_load(text)).l2 == 1.0


# The command line.


def test_run_prints_the_table_and_writes_the_report(tmp_path):
    write(tmp_path, truth={"items": 3})
    with without_pictures():
        first = command(tmp_path, "run", "study.yaml")
    assert first.returncode == 0, first.stderr
    for word in ("task-if", "exact", "Spearman", "AUROC", "retrained", "without the corrupted", "report.html"):
        assert word in first.stdout
    assert (tmp_path / "results" / "small" / "report.html").exists()
    with without_pictures():
        assert "4 of 4 runs were already in" in command(tmp_path, "run", "study.yaml").stdout


def test_a_failed_run_exits_with_1(tmp_path):
    write(tmp_path, methods=[{"use": "task-if", "solver": {"use": "cg", "max_iterations": 1}}], truth=None)
    with without_pictures():
        found = command(tmp_path, "run", "study.yaml")
    assert found.returncode == 1
    assert "Raise max_iterations" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_solver_in_one_file_takes_part(tmp_path):
    """What the README shows."""
    for name in ("steepest.py", "bias_head.py", "registry.yaml"):
        (tmp_path / name).write_text((Path(__file__).parents[2] / "examples" / name).read_text())
    less = {"truth": {"items": 2}, "remove": 0.34, "certificate": False}
    write(tmp_path, methods=["task-if"], solvers=["exact", "steepest"], executor="processes", **less)
    with without_pictures():
        found = command(tmp_path, "run", "study.yaml")
    assert found.returncode == 0, found.stderr
    table = pd.read_csv(tmp_path / "results" / "small" / "results.csv")
    assert list(table.solver) == ["exact", "steepest"]
    assert table.change_error[1] == pytest.approx(table.change_error[0], rel=1e-3)
    listed = command(tmp_path, "list", "solver").stdout
    assert "steepest" in listed
    assert "registry.yaml" in command(tmp_path, "show", "solver", "steepest").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nothing.yaml"], "There is no study file nothing.yaml"),
        (["run", "studyy.yaml"], "Did you mean 'study.yaml'"),
        (["show", "solver", "cgg"], "Did you mean 'cg'"),
        (["list", "solvers"], "Did you mean 'solver'"),
        (["run", "study.yaml", "--registry", "none.yaml"], "none.yaml cannot be read"),
        (["run"], "Missing argument"),
        (["runn"], "No such command"),
    ],
)
def test_bad_input_exits_with_2_and_one_message(tmp_path, words, message):
    write(tmp_path)
    found = command(tmp_path, *words)
    assert found.returncode == 2
    assert message in " ".join(found.stderr.split())
    assert "Traceback" not in found.stderr


def test_show_tells_everything_about_a_component(tmp_path):
    found = command(tmp_path, "show", "solver", "cg").stdout
    for word in ("conjugate gradients", "Hestenes", "rtol", "1e-08", "metafluence_plugins.solvers.cg:CG", "{use: cg"):
        assert word in found


def test_help_teaches():
    assert "metafluence demo" in command(Path.cwd(), "--help").stdout
    assert "goes on where it stopped" in " ".join(command(Path.cwd(), "run", "--help").stdout.split())


def test_the_demo_runs_every_method():
    config = mf.load_study(resource("studies/digits.yaml"))
    plans = mf.Study(config, default_registry(), Path("unused")).plans
    # influence is task-if and instance-if under one name; two need a recorded run, and the demo fits by newton;
    # gradient-matching chooses sets of tasks, which noisy-tasks asks about.
    elsewhere = {"influence", "run-influence", "source", "gradient-matching"}
    assert {p.label.split()[0] for p in plans} | elsewhere == set(default_registry().names("method"))
    assert {(p.label.split()[0], p.level) for p in plans} >= {
        (name, level) for name in ("paper", "trak", "tracin", "loss", "random") for level in mf.WEIGHED
    }


def test_data_that_is_not_there_says_where_it_was_looked_for(tmp_path):
    write(tmp_path, dataset={"use": "npz", "path": "omniglot_28.npz", "root": "data"})
    found = command(tmp_path, "run", "study.yaml")
    assert found.returncode == 2
    message = "".join(found.stderr.split())
    assert f"{tmp_path}/data/omniglot_28.npz" in message
    assert "METAFLUENCE_DATA" in message


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"not an archive", {}, "cannot be read as an .npz archive"),
        ({"x": np.zeros((2, 3, 4, 4))}, {}, "no array 'images'; it holds x"),
        ({"images": np.zeros((4, 2, 2)), "y": np.zeros(4)}, {}, "no array 'labels'; it holds images, y"),
        ({"images": np.zeros((4, 2, 2)), "labels": np.zeros(3)}, {}, "has 4 inputs but 3 labels"),
    ],
)
def test_malformed_archives_are_described(tmp_path, content, options, message):
    file = tmp_path / "d.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.savez(file, **content)
    with pytest.raises(mf.DataError, match=message):
        mf.build("dataset", "npz", path="d.npz", root=str(tmp_path), **options).load()


def test_npz_reads_the_real_data_sets(shared_data):
    omniglot = mf.build("dataset", "npz", path="omniglot/omniglot_28.npz", root=str(shared_data)).load()
    assert omniglot.inputs.shape == (1623 * 20, 1, 28, 28)
    assert len(omniglot.classes) == 1623
    assert omniglot.inputs.nbytes == omniglot.inputs.shape.numel()  # 8 bits, scaled when drawn
    photographs = mf.build("dataset", "npz", path="caltech101/caltech101_32.npz", root=str(shared_data)).load()
    assert photographs.inputs.shape == (8677, 3, 32, 32)
    assert len(photographs.classes) == 101


def test_a_study_on_omniglot(shared_data, tmp_path):
    """New classes at validation and test, a convolutional backbone, images scaled down."""
    result = run(
        tmp_path,
        dataset={"use": "npz", "path": "omniglot/omniglot_28.npz", "root": str(shared_data), "size": 14},
        episodes={"train": 4, "validation": 2, "test": 2, "way": 2, "shot": 2, "query": 2, "split": "classes"},
        learner={"use": "logistic-head", "backbone": {"use": "small-conv", "channels": [2]}, "penalty": 0.5},
        methods=["task-if", "direct-if"],
        solvers=["exact"],
        truth={"items": 3},
        remove=0.25,
        corruption=[],
        certificate=False,
        l2=0.05,
    )
    assert not result.failed, [r.reason for r in result.failed]
    assert result.rows[0].change_error < result.rows[1].change_error
