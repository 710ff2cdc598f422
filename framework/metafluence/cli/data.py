"""The command line for data sets: `metafluence data fetch | show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

import metafluence
from metafluence.cli.places import check_file
from metafluence.cli.terminal import console
from metafluence.errors import ConfigError, InputError
from metafluence.registry import default_registry, parse_yaml

data_app = typer.Typer(no_args_is_help=True, help="Download a data set, or see what is in it.")

NameArgument = Annotated[str, typer.Argument(help="A name that `metafluence list dataset` shows.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="A parameter of the data set, KEY=VALUE; repeat.")]
RegistryOption = Annotated[Path | None, typer.Option("--registry", help="A registry.yaml with data sets of your own.")]


@data_app.command("fetch")
def fetch_data(
    name: NameArgument,
    settings: SetOption = None,
    root: Annotated[
        Path | None, typer.Option(help="The folder of data sets; $METAFLUENCE_DATA or `data` if not given.")
    ] = None,
    registry: RegistryOption = None,
) -> None:
    """Download a data set from its publisher and check it. What is there already is not downloaded again."""
    known = default_registry(registry, Path.cwd())
    cls = known.load("dataset", name)
    if cls.sources is metafluence.Dataset.sources:  # type: ignore[attr-defined]
        raise InputError(
            f"There is nothing to download for {name}: it comes with the program, or from files of your own. "
            f"`metafluence show dataset {name}` says what it reads."
        )
    sources, folder = (
        known.build("dataset", {**_settings(settings), "use": name}).sources(),
        metafluence.data_root(root),
    )
    parts = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*parts, console=console) as bars:
        shown: dict[str, Any] = {}

        def progress(file: str, done: int, total: int) -> None:
            if file not in shown:
                shown[file] = bars.add_task(file)
            bars.update(shown[file], completed=done, total=total or None)

        files = metafluence.fetch_sources(sources, folder, progress)
    for source, file in zip(sources, files, strict=True):
        checked = "checked" if source.md5 is not None else "no checksum is published"
        console.print(f"{file}  {file.stat().st_size / 1e6:.1f} MB, {checked}", soft_wrap=True, highlight=False)


@data_app.command("show")
def show_data(
    name: NameArgument,
    settings: SetOption = None,
    picture: Annotated[Path | None, typer.Option(help="Write a picture of a few tasks to this file (.png).")] = None,
    corrupt: Annotated[
        Literal["query-labels", "support-labels", "noise"] | None,
        typer.Option(help="Corrupt half of the tasks in the picture this way, and mark what was corrupted."),
    ] = None,
    strength: Annotated[float, typer.Option(help="Strength of the corruption.")] = 0.4,
    way: Annotated[int, typer.Option(help="Classes per task in the picture.")] = 5,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Which tasks.")] = 0,
    registry: RegistryOption = None,
) -> None:
    """Show a data set: its classes, instances, shape, values, memory and splits, and a picture of a few tasks."""
    if picture is not None:
        check_file(picture, "--picture")
    known = default_registry(registry, Path.cwd())
    dataset = known.build("dataset", {**_settings(settings), "use": name})
    table = Table(box=None, pad_edge=False, show_header=False, title=name, title_justify="left", title_style="bold")
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    summary = metafluence.summarise(dataset)
    for what, value in summary.lines:
        table.add_row(what, value)
    console.print(table)
    if picture is not None:
        corruption = metafluence.Corruption(corrupt, 0.5, strength) if corrupt is not None else None
        metafluence.write_preview(dataset, picture, summary, way, seed, corruption)
        console.print(f"\n{picture}", soft_wrap=True)


def _settings(given: list[str] | None) -> dict[str, Any]:
    """KEY=VALUE as in a study: values are read as YAML."""
    found: dict[str, Any] = {}
    for setting in given or []:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set is {setting!r}; write --set KEY=VALUE.")
        found[key] = parse_yaml(value, f"--set {key}: {value!r}")
    return found
