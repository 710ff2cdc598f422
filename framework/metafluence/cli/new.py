"""The command `new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from metafluence.cli.terminal import console
from metafluence.registry import default_registry
from metafluence.scaffold import new_plugin


def new(
    kind: Annotated[str, typer.Argument(help="method, solver, learner, ...: a kind that `metafluence list` shows.")],
    name: Annotated[str, typer.Argument(help="Of the component and of its file: letters, digits and underscores.")],
    folder: Annotated[Path, typer.Option(help="Where the files are written.")] = Path(),
    package: Annotated[bool, typer.Option("--package", help="Write a package that pip installs.")] = False,
) -> None:
    """Begin a component of your own: a file that works as it is, its test, and its entry in registry.yaml.

    Nothing that is there is overwritten; registry.yaml gets one more entry.
    """
    written = new_plugin(default_registry(folder=folder), kind, name, folder, package)
    for file in written.files:
        console.print(Text(str(file)), soft_wrap=True)
    console.print()
    for sentence in written.next:
        console.print(Text(sentence), soft_wrap=True)
