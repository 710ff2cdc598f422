"""FS-Mol: molecules that are active or not in a biological assay, as few-shot tasks (Stanley et al. 2021)."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from metafluence.errors import DataError, InputError
from metafluence.tasks.padding import pad_tasks
from metafluence.tasks.task_set import Batch, Task, TaskSet

Features = Literal["fingerprints", "descriptors"]
Values = Literal["Property", "RegressionProperty", "LogRegressionProperty"]


def from_fs_mol(
    files: Sequence[str | Path],
    support: int,
    generator: torch.Generator,
    features: Features = "fingerprints",
    targets: Values = "Property",
    dtype: torch.dtype = torch.float32,
) -> TaskSet:
    """Tasks from FS-Mol's files `CHEMBL....jsonl.gz`, one molecule a line; each file is a task.

    `support` molecules, drawn at random, adapt, in the proportion of the classes and at least one of each; all others
    are evaluated, so that tasks differ in size and are padded. ids: the names of the assays.
    targets: `Property`, 0 or 1; or a value of the assay, [n, 1].

    Raises DataError naming a file, and the line, that cannot be read, and InputError naming a task with too few
    molecules or of one class.
    """
    return pad_tasks(_task(Path(file), support, generator, features, targets, dtype) for file in files)


def _task(
    file: Path, support: int, generator: torch.Generator, features: Features, targets: Values, dtype: torch.dtype
) -> Task:
    name = file.name.removesuffix(".jsonl.gz")
    molecules = _read(file, features, targets)
    inputs = torch.tensor([values for values, _ in molecules], dtype=dtype)
    wanted = torch.tensor([target for _, target in molecules], dtype=dtype)
    if len(wanted) <= support or support < 1:
        raise InputError(f"Task {name!r} has {len(wanted)} molecules; support is {support}. Give 1 or more, and fewer.")
    order = torch.randperm(len(wanted), generator=generator)
    if targets == "Property":
        order, wanted = _both_first(order, wanted, support, name), wanted.long()
    else:
        wanted = wanted.unsqueeze(1)
    whole = Batch(inputs[order], wanted[order])
    return Task(name, whole[:support], whole[support:])


def _both_first(order: Tensor, classes: Tensor, support: int, name: str) -> Tensor:
    """The order with a support of both classes, in their proportion, first."""
    active, inactive = order[classes[order] == 1], order[classes[order] == 0]
    if support < 2 or not len(active) or not len(inactive):
        raise InputError(
            f"Task {name!r} has {len(active)} active and {len(inactive)} inactive molecules; support is {support}. "
            "Both classes need a molecule in the support: leave the task out, or give 2 or more."
        )
    share = round(support * len(active) / len(order))
    count = min(max(share, 1, support - len(inactive)), support - 1, len(active))
    first = torch.cat([active[:count], inactive[: support - count]])
    return torch.cat([first, order[~torch.isin(order, first)]])


def _read(file: Path, features: Features, targets: Values) -> list[tuple[list[float], float]]:
    found: list[tuple[list[float], float]] = []
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                found.append(_molecule(json.loads(line), f"{file}, line {number}", features, targets, found))
    except DataError:
        raise
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise DataError(f"{file} cannot be read as FS-Mol's lines of JSON: {error}. Get the file again.") from error
    if not found:
        raise DataError(f"{file} holds no molecule. Get the file again, or leave it out.")
    return found


def _molecule(
    molecule: Any, where: str, features: Features, targets: Values, before: list[tuple[list[float], float]]
) -> tuple[list[float], float]:
    values, target = (molecule.get(key) if isinstance(molecule, dict) else None for key in (features, targets))
    if values is None or target is None or target == "":
        raise DataError(f"{where} has no {features if values is None else targets}. Choose what the file has.")
    if before and len(values) != len(before[0][0]):
        raise DataError(f"{where} has {len(values)} {features}, others {len(before[0][0])}. Get the file again.")
    number = float(target)
    if not math.isfinite(number) or (targets == "Property" and number not in (0, 1)):
        raise DataError(f"{where} has {targets} {target!r}. Leave the molecule out.")
    return values, number
