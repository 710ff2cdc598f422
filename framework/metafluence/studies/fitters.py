"""Who makes a study's many fits: its executor, or all processes of a distributed study together."""

from __future__ import annotations

from dataclasses import replace

import torch

from metafluence.errors import InputError
from metafluence.registry import Registry
from metafluence.runtime import Executor, RemoteExecutor, joined
from metafluence.studies.config import StudyConfig

START = "torchrun --nproc-per-node 2 -m metafluence run STUDY.yaml"


def build_executor(config: StudyConfig, registry: Registry, device: torch.device) -> Executor:
    """The study's executor. Raises InputError where `distributed` is not how the study was started."""
    count = joined().count
    if config.distributed and count == 1:
        raise InputError(
            f"The study says `distributed: true`, and this is one process. Start it by `{START}`, or leave it out."
        )
    if not config.distributed and count > 1:
        raise InputError(
            f"torchrun started {count} processes, and each would do all of this study. Say `distributed: true` in it "
            "(or `--set distributed=true`), or start it without torchrun."
        )
    if not config.distributed:
        return _on_device(registry.build("executor", config.executor), device)
    if "executor" in config.model_fields_set and config.executor != "serial":
        raise InputError(
            f"The study has the executor {config.executor!r}, and `distributed: true`, where all processes make each "
            "fit together. Leave `executor` out, or `distributed`."
        )
    return registry.build("executor", "serial")


def _on_device(executor: Executor, device: torch.device) -> Executor:
    """The processes of one machine would share its GPU, and each take some of its memory: one at a time will do."""
    if device.type == "cpu" or not isinstance(executor, RemoteExecutor):
        return executor
    return executor if executor.elsewhere or executor.jobs is not None else replace(executor, jobs=1)
