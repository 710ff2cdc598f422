"""Hooks: how installed packages add components, and follow the life of a study. A plugin implements any of them.

    from metafluence.hooks import hookimpl

    @hookimpl
    def metafluence_register(registry):
        registry.add("solver", "my-solver", at="my_package.solver:MySolver", about="one line")

and names its module in the entry-point group `metafluence`. A plugin that needs a later plugin interface than the first
says `plugin_api = N` beside the hook, and is left out with a sentence where metafluence has an earlier one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pluggy

from metafluence.errors import RegistryError, unknown

PROJECT = "metafluence"
PLUGIN_API = 1
"""The version of what plugins build on (docs/plugins.md). It grows by one with every addition that plugins may need."""
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Specs:
    """What metafluence calls. What plugins are given is named in words, since its classes lie above this file."""

    @hookspec
    def metafluence_register(self, registry: Any) -> None:
        """Called once when the registry (a metafluence.Registry) is built: add components with `registry.add`."""

    @hookspec
    def metafluence_study_started(self, study: Any) -> None:
        """Called when all components of a metafluence.Study are built and checked, before anything is computed."""

    @hookspec
    def metafluence_run_finished(self, study: Any, run: Any) -> None:
        """Called after each metafluence.Run of a method, failed ones and ones found in the store included."""

    @hookspec
    def metafluence_report(self, study: Any, result: Any, path: Path) -> None:
        """Called when the report of a metafluence.StudyResult is written; `path` is the page."""


NAMES = tuple(name for name in vars(Specs) if name.startswith(f"{PROJECT}_"))


class Manager(pluggy.PluginManager):
    """Plugins by name. One with a hook that there is not, or that is not marked as one, is refused: it would never be
    called.
    """

    def register(self, plugin: Any, name: str | None = None) -> str | None:
        """Raises RegistryError with the nearest names of hooks, or with what to write above the function."""
        for attribute in dir(plugin):
            marked = self.parse_hookimpl_opts(plugin, attribute) is not None
            if marked and attribute not in NAMES:
                raise RegistryError(unknown("hook", attribute, NAMES))
            if attribute in NAMES and not marked:
                raise RegistryError(
                    f"{attribute} is not marked as a hook, so it would never be called. Write @hookimpl above it, from "
                    "metafluence.hooks import hookimpl."
                )
        return super().register(plugin, name)


def check_plugin_api(wanted: Any, who: str) -> None:
    """Raises RegistryError where a plugin needs another plugin interface than there is."""
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise RegistryError(f"{who} says plugin_api {wanted!r}; a whole number from 1 is expected. Give one.")
    if wanted > PLUGIN_API:
        raise RegistryError(
            f"{who} needs plugin_api {wanted}, and this metafluence has {PLUGIN_API}. Get a later metafluence, "
            "or an earlier version of the plugin."
        )


def new_manager() -> Manager:
    """A plugin manager that knows these hooks and has no plugin yet."""
    manager = Manager(PROJECT)
    manager.add_hookspecs(Specs)
    return manager
