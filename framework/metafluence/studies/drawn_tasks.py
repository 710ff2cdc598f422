"""The tasks of a study: drawn and corrupted, and those that are kept for the choice of dampings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from metafluence.errors import InputError
from metafluence.registry import Registry
from metafluence.studies.config import RunStudyConfig, StudyConfig
from metafluence.studies.run_inputs import read_task_file
from metafluence.studies.seeding import generator_for
from metafluence.tasks import Dataset, Origins, Split, TaskSet, check_whole, corrupt, count_of

DTYPES = {"float64": torch.float64, "float32": torch.float32}


class DrawnTasks:
    """Draws a study's tasks. recorded: those of its run, if it has one, which are the training tasks."""

    def __init__(self, config: StudyConfig, registry: Registry, recorded: TaskSet | None) -> None:
        self._config, self._recorded = config, recorded
        self._file = config.targets_file if isinstance(config, RunStudyConfig) else None
        self._dataset: Dataset | None = registry.build("dataset", config.dataset) if self._file is None else None

    def split(self) -> Split:
        """The three sets of tasks."""
        config, dtype = self._config, DTYPES[self._config.dtype]
        if self._dataset is None:
            assert self._file is not None
            assert self._recorded is not None
            targets = read_task_file(Path(self._file), dtype, "dataset")
            split = Split(self._recorded, targets, targets)
        else:
            split = self._dataset.tasks(config.episodes, generator_for(config.seed, "tasks"), dtype)
        drawn = split.train if self._recorded is None else self._recorded
        check_whole(drawn, config.levels)
        train, generator = drawn, generator_for(config.seed, "corruption")
        for corruption in config.corruption:
            train = corrupt(train, corruption, generator)
        return replace(split, train=train, drawn=drawn)

    def candidates(self, split: Split) -> TaskSet:
        """Training tasks drawn after those that are trained on, corrupted as they are; none of them is trained on."""
        config = self._config
        assert self._dataset is not None
        assert config.candidates is not None
        count = config.episodes.train
        episodes = replace(config.episodes, train=count + config.candidates)
        more = self._dataset.tasks(episodes, generator_for(config.seed, "tasks"), DTYPES[config.dtype]).train
        if not torch.equal(more[:count].query.inputs, split.clean.query.inputs):
            raise InputError("This data set draws other training tasks where it draws more. Leave out `candidates`.")
        found, generator = more[count:], generator_for(config.seed, "corruption of candidates")
        if (them := found.origins) is not None:  # without the images that none of them holds
            found = found.drawn_from(Origins.drawn(them.support, them.query, them.labels, them.classes, them.images))
        for corruption in config.corruption:
            found = corrupt(found, corruption, generator)
        return found

    def targets(self, validation: TaskSet) -> tuple[TaskSet, TaskSet | None]:
        """The targets of scores, and the selection tasks: the last validation tasks, where dampings are chosen.

        The fit, where its trainer judges its steps, has all of them.
        """
        if self._config.damping is None:
            return validation, None
        if len(validation) < 2:
            raise InputError("damping is chosen on some of the target tasks, and there is but one. Give two or more.")
        kept = count_of(self._config.damping.share, len(validation))
        return validation[: len(validation) - kept], validation[len(validation) - kept :]
