"""Hooks: how installed packages add components, and follow the life of a study. A plugin implements any of them.

    from metafluence.hooks import hookimpl

    @hookimpl
    def metafluence_register(registry):
        registry.add("solver", "my-solver", at="my_package.solver:MySolver", about="one line")

and names its module in the entry-point group `metafluence`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:  # what plugins are given lives above this layer
    from metafluence.registry import Registry
    from metafluence.runs import Run
    from metafluence.study import Study, StudyResult

PROJECT = "metafluence"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Specs:
    """What metafluence calls."""

    @hookspec
    def metafluence_register(self, registry: Registry) -> None:
        """Called once when the registry is built: add components with `registry.add`."""

    @hookspec
    def metafluence_study_started(self, study: Study) -> None:
        """Called when all components are built and checked, before anything is computed."""

    @hookspec
    def metafluence_run_finished(self, study: Study, run: Run) -> None:
        """Called after each run of a method, failed ones and ones found in the store included."""

    @hookspec
    def metafluence_report(self, study: Study, result: StudyResult, path: Path) -> None:
        """Called when the report is written; `path` is the page."""


def new_manager() -> pluggy.PluginManager:
    """A plugin manager that knows these hooks and has no plugin yet."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Specs)
    return manager
