"""Small studies that tests of several rooms run, and the command line on them."""

import contextlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import yaml

from metafluence.cli import main
from metafluence.reports import Attempts
from metafluence.reports.study import report
from parts import LEARNERS

# One study.
SMALL = {
    "name": "small",
    "dataset": "digits",
    "episodes": {"train": 6, "validation": 3, "test": 3, "way": 2, "shot": 3, "query": 3, "split": "instances"},
    "corruption": {"kind": "query-labels", "fraction": 0.34, "strength": 0.7},
    "learner": {"use": "logistic-head", "backbone": {"use": "mlp", "hidden": [2]}, "penalty": 0.5},
    "l2": 1.0,
    "methods": ["retrain", "task-if", "loss"],
    "solvers": ["exact", "cg"],
    "executor": "serial",
}

# Several variations.
SEVERAL = {
    "name": "small",
    "dataset": "digits",
    "episodes": {"train": 6, "validation": 3, "test": 3, "way": 2, "shot": 3, "query": 3, "split": "instances"},
    "corruption": {"kind": "query-labels", "fraction": 0.34, "strength": 0.7},
    "learner": {"use": "logistic-head", "backbone": {"use": "mlp", "hidden": [2]}, "penalty": 0.5},
    "l2": 1.0,
    "methods": ["task-if", "loss"],
    "truth": {"items": 4},
    "remove": [0.34, 0.5],
    "certificate": False,
    "executor": "serial",
    "seeds": 2,
    "vary": {"learner.penalty": [0.5, 1.0]},
}

# One of a few tasks, to be done with every learner.
TINY = {
    "name": "tiny",
    "episodes": {"train": 4, "validation": 2, "test": 2, "way": 2, "shot": 2, "query": 2, "split": "instances"},
    "l2": 0.3,
    "truth": {"items": 4},
    "methods": [{"use": "task-if", "solver": "exact"}, "paper"],
    "budget": {"methods": [{"use": "influence", "curvature": "gauss-newton", "solver": "exact"}, "paper"]},
    "grid": {"inner": ["exact"], "outer": ["exact"]},
    "executor": "serial",
}

# One whose truth is its own run.
RUN = {
    "name": "run",
    "dataset": "digits",
    "episodes": {"train": 12, "validation": 4, "test": 3, "way": 2, "shot": 2, "query": 3, "split": "instances"},
    "learner": {"use": "protonet", "backbone": {"use": "mlp", "hidden": [3], "activation": "tanh"}},
    "l2": 1e-3,
    "trainer": {"use": "adam", "steps": 10, "batch": 6, "eps_root": 1e-3, "save_every": 4},
    "methods": ["run-influence", "retrain"],
    "truth": {"kind": "run", "items": 5, "subsets": 6, "subset_share": 0.25, "extremes": []},
    "remove": [0.1, 0.25],
    "certificate": False,
    "executor": "serial",
}


def changed(**changes) -> dict:
    return {**SMALL, **changes}


def write(folder: Path, **changes) -> Path:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(changed(**changes)))
    return file


def configuration(name: str, **changes) -> dict:
    """The learner of `parts`, as a study writes it."""
    made = LEARNERS[name]()
    own = {f.name: getattr(made, f.name) for f in fields(made) if f.name != "backbone"}
    return {"use": name, "backbone": {"use": "mlp", "hidden": [2]}, **own, **changes}


@contextlib.contextmanager
def without_pictures() -> Iterator[None]:
    """Reports have no figures meanwhile: drawing them takes most of the time of a small study."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Attempts, "picture", lambda *given: None)
        patch.setattr(report, "exhibit", lambda *given: None)
        yield


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def command(folder: Path, *words: str) -> Done:
    """The command line, in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["metafluence", *words])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(code, out.getvalue(), err.getvalue())
