"""MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from metafluence import Plain, Tracker, optional_package
from metafluence_plugins.trackers.names import plain


@dataclass(frozen=True)
class MLflow(Tracker):
    """A run of `experiment` for each study; the server is MLflow's own setting (MLFLOW_TRACKING_URI)."""

    experiment: str = "metafluence"

    def start(self, name: str, settings: Mapping[str, Plain]) -> None:
        mlflow = optional_package("mlflow", "mlflow")
        mlflow.set_experiment(self.experiment)
        mlflow.end_run()  # of a study that was interrupted before its report
        mlflow.start_run(run_name=name)
        mlflow.log_params({plain(key): value for key, value in settings.items()})

    def log(self, run: str, numbers: Mapping[str, float]) -> None:
        named = {plain(f"{name}/{run}"): value for name, value in numbers.items()}
        optional_package("mlflow", "mlflow").log_metrics(named)

    def finish(self, page: Path) -> None:
        mlflow = optional_package("mlflow", "mlflow")
        mlflow.log_artifact(str(page))
        mlflow.end_run()
