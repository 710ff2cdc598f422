"""What a study is done with, for the columns of tables."""

from __future__ import annotations

from typing import Any

from metafluence.registry import Plain, Registry, settings
from metafluence.studies.config import NOT_OF_A_RUN, RunStudyConfig, StudyConfig
from metafluence.studies.variations import NOT_ASKED

OF_RUNS = {"seed", "levels", "methods", "solvers", "grid", "budget", "certificate", "metrics"}
"""The parts of a study that say which rows there are, not what they are computed with."""


def built_with(config: StudyConfig, registry: Registry, **components: Any) -> dict[str, Plain]:
    """The study's settings by dotted name; of `components` also their defaults. Names are those that the study uses."""
    asked = config.model_dump(mode="json", exclude={*NOT_ASKED, *OF_RUNS})
    if isinstance(config, RunStudyConfig):
        drawn = {k: v for k, v in asked["episodes"].items() if k != "train" and config.targets_file is None}
        asked = {name: value for name, value in asked.items() if name not in NOT_OF_A_RUN} | {"episodes": drawn}
    if config.truth is not None:
        asked["truth"] = {"kind": config.truth.kind, **asked["truth"]}  # left out of a study's file where it is usual
    found = settings(asked, registry)
    for name, component in components.items():
        found = {**found, **settings(component, registry, name), **({name: found[name]} if name in found else {})}
    return found
