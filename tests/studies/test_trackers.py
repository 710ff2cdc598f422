"""Trackers: what each package is given, as a module of that name that takes notes sees it."""

import sys
import types
from unittest.mock import MagicMock

import pytest

import metafluence as mf
from metafluence_plugins.trackers.names import plain
from small_studies import command, without_pictures, write

STUDY = {"methods": ["loss", "random"], "truth": None, "certificate": False, "corruption": []}


@pytest.fixture(scope="module", autouse=True)
def _no_pictures():
    with without_pictures():
        yield


@pytest.fixture
def fake(monkeypatch):
    """A module of this name that takes notes of all calls."""

    def fake(name: str) -> MagicMock:
        module = types.ModuleType(name)
        notes = MagicMock()
        module.__getattr__ = lambda attribute: getattr(notes, attribute)
        monkeypatch.setitem(sys.modules, name, module)
        return notes

    return fake


def run(folder, tracker):
    write(folder, **STUDY)
    done = command(folder, "run", "study.yaml", "--out", "out", "--tracker", tracker)
    assert done.returncode == 0, done.stderr
    return mf.load_results(folder / "out").results.set_index("method")


def test_mlflow_gets_settings_numbers_and_the_report(tmp_path, fake):
    notes = fake("mlflow")
    rows = run(tmp_path, "mlflow")
    assert [call[0] for call in notes.mock_calls] == [
        "set_experiment",
        "end_run",
        "start_run",
        "log_params",
        "log_metrics",
        "log_metrics",
        "log_artifact",
        "end_run",
    ]
    notes.set_experiment.assert_called_once_with("metafluence")
    notes.start_run.assert_called_once_with(run_name="small seed 0")
    assert notes.log_params.call_args.args[0]["learner.penalty"] == 0.5
    first, second = (call.args[0] for call in notes.log_metrics.call_args_list)
    assert first["seconds/task loss"] == pytest.approx(rows.seconds["loss"])
    assert "seconds/task random" in second
    assert "spearman/task loss" not in first, "what is not known is not logged"
    assert notes.log_artifact.call_args.args[0].endswith("report.html")


def test_tensorboard_gets_settings_numbers_and_the_report(tmp_path, fake):
    writer = fake("torch.utils.tensorboard").SummaryWriter.return_value
    run(tmp_path, "tensorboard")
    assert "| learner.penalty | 0.5 |" in writer.add_text.call_args_list[0].args[1]
    logged = {call.args[0] for call in writer.add_scalar.call_args_list}
    assert {"seconds/task loss", "products/task random"} <= logged
    assert writer.add_text.call_args_list[1].args[0] == "report"
    writer.close.assert_called_once_with()


def test_wandb_gets_settings_numbers_and_the_report(tmp_path, fake):
    notes = fake("wandb")
    run(tmp_path, "wandb")
    assert notes.init.call_args.kwargs["config"]["learner"] == "logistic-head"
    made = notes.init.return_value
    assert "seconds/task loss" in made.summary.update.call_args_list[0].args[0]
    made.save.assert_called_once()
    made.finish.assert_called_once_with()


def test_a_package_that_is_missing_is_said_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    write(tmp_path, **STUDY)
    done = command(tmp_path, "run", "study.yaml", "--out", "out", "--tracker", "mlflow")
    assert done.returncode != 0
    assert "pip install 'metafluence[mlflow]'" in done.stderr + done.stdout


def test_a_tracker_that_there_is_not_is_refused(tmp_path):
    write(tmp_path, **STUDY)
    done = command(tmp_path, "run", "study.yaml", "--out", "out", "--tracker", "mlfow")
    assert done.returncode == 2
    assert "Did you mean 'mlflow'" in done.stderr


def test_names_are_what_mlflow_takes():
    assert plain("seconds/task task-if (exact)") == "seconds/task task-if _exact_"
