"""What every column of the tables of results means: for docs/results.md and for the file beside the tables."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from functools import lru_cache
from textwrap import dedent
from typing import Any, Literal

import pandas as pd

from metafluence.evaluation import Number, Row, standing_numbers
from metafluence.studies import METRIC

PARAMETER, SETTING, VARIED = "method.", "study.", "vary."
"""How columns are called that hold a method's parameters, a study's settings, and what it varies under a taken name."""
TableName = Literal["results", "scores"]


def _fields(cls: type) -> dict[str, str]:
    """What the docstrings below the fields of a class say; a field without one is called by its name."""
    body = ast.parse(dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, after in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
            told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            found[name] = " ".join(str(after.value.value).split()) if told else f"The {name}."  # pyright: ignore
    return found


_WHERE = {
    "store": "Folder of the store (`load_results` only).",
    "study": "Name of the study, where several are reported as one.",
    "variation": "Name of the variation: of its outcome, and of its folder where there are several.",
    "seed": "The study's seed.",
}
_VARIED = {"NAME": f"What the study varies under `vary`, in words; `{VARIED}NAME` where the table has that name."}


@lru_cache(maxsize=1)
def dictionary() -> dict[TableName, dict[str, str]]:
    """By table, the meaning of its columns; NAME stands for any name."""
    return {
        "results": {
            **_WHERE,
            **_VARIED,
            **_of_a_row(),
            f"{METRIC}NAME": "A number that the study asks for under `metrics`: NAME is the metric's label, then the "
            "number's; `metafluence show metric LABEL` explains it. Empty where nothing can be said.",
            f"{PARAMETER}NAME": "Parameter NAME of the method, set or default; `method.use` is its registered name. A "
            "part is called by its own name (`method.solver`), and its parameters follow (`method.solver.rtol`). Empty "
            "where the method has none, and for a damping that the study chooses: that one is in `damping`.",
            f"{SETTING}NAME": "Setting NAME of the study, set or default: `study.learner`, `study.learner.penalty`, "
            "`study.dataset`, `study.l2`, `study.truth.kind` and so on.",
            "accuracy_full": "Test accuracy with all items.",
            "loss_full": "Test loss (nats) with all items.",
            "accuracy_clean": "Test accuracy after retraining without exactly the corrupted items.",
            "loss_clean": "Test loss (nats) after the same.",
            "fit_seconds": "Time of the fit from scratch.",
            "gap": "`accuracy_edited` less `accuracy_retrained`; for real targets the same of losses.",
            "runtime_ratio": "Time to score all items and to edit λ*, divided by that of the fit from scratch.",
            "truth": "What methods are compared with; empty where the study has no ground truth.",
        },
        "scores": {
            **_WHERE,
            **_VARIED,
            "level": "The kind of the item.",
            "method": "Label of the method.",
            "solver": "Label of its solver; empty where it takes none.",
            "item": "Number of the item at its level.",
            "task": "Name of its task; of a task its own.",
            "image": "Name of the image: its file, where the data set has files.",
            "class": "Name of its class.",
            "corrupted": "The study has corrupted it.",
            "score": "Predicted change of the targets' mean loss when it is removed: positive where it helps.",
            "units": "Of the score: `loss_change` (nats) or `rank_only`.",
            "true_change": "The change of that loss by retraining without it (nats); empty where this was not done.",
        },
    }


def _of_a_row() -> dict[str, str]:
    """The fields of a row. What metrics measure is described by the metrics."""
    measured = {name: number.about for name, number in standing_numbers().items()}
    plain = {name: text for name, text in _fields(Row).items() if name not in ("built", "metrics")}
    return {name: measured.get(name, text) for name, text in plain.items()}


def meaning(table: TableName, column: str, numbers: Mapping[str, Number] | None = None) -> str:
    """What a column of a table means. numbers: what is known of the metrics that the study asks for, by column."""
    if numbers and column in numbers:
        return numbers[column].about
    known = dictionary()[table]
    prefix = next((p for p in (PARAMETER, SETTING, METRIC) if column.startswith(p) and f"{p}NAME" in known), "")
    return known.get(column) or known[f"{prefix}NAME"]


def described(table: TableName, frame: pd.DataFrame, numbers: Mapping[str, Number]) -> dict[str, Any]:
    """A table as JSON: how many rows it has, and the type and meaning of each of its columns."""
    columns = {
        name: {"type": _kind(frame.loc[:, name]), "meaning": meaning(table, name, numbers)}
        for name in map(str, frame.columns)
    }
    return {"rows": len(frame), "columns": columns}


def markdown_dictionary(table: TableName) -> str:
    """The columns of a table, for the documents."""
    lines = [f"| `{name}` | {text} |" for name, text in dictionary()[table].items()]
    return "\n".join(["| column | meaning |", "| --- | --- |", *lines])


def _kind(column: pd.Series) -> str:
    """What the values of a column are, in a word."""
    kinds = (("yes or no", pd.api.types.is_bool_dtype), ("whole number", pd.api.types.is_integer_dtype))
    found = next((word for word, holds in kinds if holds(column)), None)
    return found or ("number" if pd.api.types.is_float_dtype(column) else "text")
