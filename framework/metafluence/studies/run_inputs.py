"""What a recorded run is scored with, from the command line: the learner that its loop was, and the target tasks."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from metafluence.errors import ConfigError, DataError, InputError
from metafluence.learners import MetaLearner
from metafluence.registry import Registry, Seed, import_function, parse_yaml, read_yaml
from metafluence.studies.config import TASK_FILES, Spec, Strict, check
from metafluence.studies.seeding import generator_for
from metafluence.tasks import Batch, Dataset, Episodes, TaskSet

FUNCTION = re.compile(r"(.+\.py):([A-Za-z_]\w*)")
PARTS = ("support_x", "support_y", "query_x", "query_y")
"""What a file of tasks holds: inputs [N, n, ...] and targets of each half."""


class TargetsConfig(Strict):
    """Validation tasks, drawn as a study of this seed draws them."""

    dataset: Spec
    episodes: Episodes = Episodes()
    seed: Seed = 0


def read_learner(text: str, registry: Registry, where: str = "--learner") -> MetaLearner:
    """The learner that describes a loop.

    text: `FILE.py:FUNCTION`, a function that returns it; a YAML file, or YAML, as a study has it under `learner`.
    where: what messages call it.

    Raises:
        InputError: it is none of these.
    """
    asked = FUNCTION.fullmatch(text.strip())
    if asked is None:
        return registry.build("learner", _yaml(text, where), where)
    file = Path(asked[1])
    if not file.is_file():
        raise InputError(f"{where}: there is no file {file}. Give FILE.py:FUNCTION.")
    try:
        learner = import_function(file, asked[2], where)()
    except TypeError as error:
        raise InputError(f"{where}: {text}() failed: {error}. It is called without arguments.") from error
    if not isinstance(learner, MetaLearner):
        raise InputError(f"{where}: {text}() returns a {type(learner).__name__}. Return what was given to mf.record.")
    return learner


def read_targets(text: str, registry: Registry, dtype: torch.dtype) -> TaskSet:
    """The tasks whose loss scores are about, in the run's type.

    text: an .npz or .safetensors file with support_x, support_y, query_x and query_y, tasks stacked; or a YAML file, or
    YAML, with a study's dataset, episodes and seed: the study's validation tasks.

    Raises:
        InputError: it is none of these.
    """
    if text.endswith(TASK_FILES):
        return read_task_file(Path(text), dtype, "--targets")
    raw = _yaml(text, "--targets")
    if not isinstance(raw, dict):
        raise ConfigError(
            f"--targets is {text!r}. Give an .npz or .safetensors file, or dataset and episodes as in a study."
        )
    asked = check(TargetsConfig, raw, "--targets")
    dataset: Dataset = registry.build("dataset", asked.dataset, "--targets: dataset")
    return dataset.tasks(asked.episodes, generator_for(asked.seed, "tasks"), dtype).validation


def read_task_file(file: Path, dtype: torch.dtype, where: str) -> TaskSet:
    """The tasks of an .npz or .safetensors file. Raises DataError; `where` says what messages call it."""
    parts = [part.to(dtype) if part.is_floating_point() else part for part in _stacked(file, where)]
    names = tuple(f"target-{i}" for i in range(len(parts[0])))
    return TaskSet(Batch(parts[0], parts[1]), Batch(parts[2], parts[3]), names)


def _yaml(text: str, where: str) -> Any:
    """The value of a YAML file, or of the text itself."""
    if Path(text).suffix in (".yaml", ".yml"):
        if not Path(text).is_file():
            raise InputError(f"{where}: there is no file {text}. Check the path.")
        return read_yaml(Path(text), where)
    return parse_yaml(text, where)


def _stacked(file: Path, where: str) -> list[Tensor]:
    if not file.is_file():
        raise DataError(f"{where}: there is no file {file}. Check the path.")
    try:
        if file.suffix == ".safetensors":
            found = load_file(str(file))
        else:
            with np.load(file, allow_pickle=False) as arrays:
                found = {name: torch.as_tensor(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, SafetensorError) as error:
        raise DataError(f"{where}: {file} cannot be read ({error}). Save it with np.savez or safetensors.") from error
    missing = [name for name in PARTS if name not in found]
    if missing:
        raise DataError(
            f"{where}: {file} lacks {', '.join(missing)}; it has {', '.join(found) or 'nothing'}. Save "
            f"{', '.join(PARTS)}, the tasks stacked."
        )
    return [found[name] for name in PARTS]
