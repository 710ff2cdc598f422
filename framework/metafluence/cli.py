"""The command line: `metafluence run | list | show | demo`.

Exit codes: 0 done, 1 a run failed, 2 bad input. Whatever needs torch is reached through `metafluence`'s lazy names, so
that `list` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import metafluence
from metafluence.bars import Bars
from metafluence.errors import InputError, MetafluenceError, StoreError
from metafluence.loader import default_registry
from metafluence.registry import Entry, Registry
from metafluence.resources import resource

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Which tasks help or harm a meta-learner, what would the model be without them, and which estimator can be
trusted to say so?

Start with `metafluence demo`. Then copy its study (printed at the end), change a line, and `metafluence run` it.
`metafluence list` shows every part that can be swapped; a file `registry.yaml` beside a study adds parts of your own.
""",
)
# Where the output goes to a file, tables get the width they need.
console = Console() if sys.stdout.isatty() else Console(width=120)
errors = Console(stderr=True)

RegistryOption = Annotated[
    Path | None,
    typer.Option(
        "--registry",
        help="A registry.yaml with components of your own, besides the one in the study's folder.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for results; results/NAME if not given. Finished work is reused."),
]


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="The study, a YAML file.", metavar="STUDY.yaml")],
    out: OutOption = None,
    registry: RegistryOption = None,
) -> None:
    """Run a study: fit, retrain exactly, score with every method and solver, compare, report.

    Interrupted, it goes on where it stopped when it is run again. Exits with 1 if any run failed.
    """
    _run(study, out, registry)


@app.command()
def demo(out: OutOption = None) -> None:
    """Run the shipped study on real handwritten digits (no download, about a minute on 2 cores)."""
    study = resource("studies/digits.yaml")
    _run(study, out, None)
    console.print(f"\nThis study is {study}\nCopy it, change a line, and [bold]metafluence run[/bold] your copy.")


@app.command("list")
def list_components(
    kind: Annotated[str | None, typer.Argument(help="Only this kind: solver, method, learner, ...")] = None,
    registry: RegistryOption = None,
) -> None:
    """List every registered component: what it is, its parameters, and where it comes from."""
    known = default_registry(registry, Path.cwd())
    for one in [kind] if kind is not None else known.kinds():
        table = Table(title=one, title_justify="left", title_style="bold", box=None, pad_edge=False, expand=False)
        table.add_column("name", style="cyan", no_wrap=True)
        table.add_column("what it is", overflow="fold")
        table.add_column("parameters", style="green", overflow="fold")
        table.add_column("from", style="dim", overflow="fold")
        for entry in known.entries(one):
            table.add_row(entry.name, entry.about, _parameters(entry), entry.origin)
        console.print(table)
        console.print()
    for failure in known.failures:
        errors.print(Text(str(failure), style="yellow"))


@app.command()
def show(
    kind: Annotated[str, typer.Argument(help="solver, method, learner, ...")],
    name: Annotated[str, typer.Argument(help="A name that `metafluence list` shows.")],
    registry: RegistryOption = None,
) -> None:
    """Show one component: its documentation, parameters and defaults, and where its code is."""
    known = default_registry(registry, Path.cwd())
    entry = known.entry(kind, name)
    console.print(Text(f"{kind} {name}", style="bold"))
    console.print(entry.about)
    for what, value in (("paper", entry.paper), ("from", entry.origin), ("code", entry.at)):
        if value:
            console.print(Text.assemble((f"{what}  ", "dim"), value))
    documentation = entry.documentation()
    if documentation:
        console.print()
        console.print(Text(documentation))
    table = Table("parameter", "type", "default", box=None, pad_edge=False)
    for parameter in entry.parameters():
        table.add_row(
            parameter.name, parameter.type, parameter.default if parameter.default is not None else "required"
        )
    if table.row_count:
        console.print()
        console.print(table)
    console.print()
    console.print(Text(f"In a study: {{use: {name}, ...}}", style="dim"))


def _run(study: Path, out: Path | None, overlay: Path | None) -> None:
    config = metafluence.load_study(study)
    registry: Registry = default_registry(overlay, study.resolve().parent)
    folder = out or Path("results") / config.name
    try:
        with Bars(console) as bars:
            work = metafluence.Study(config, registry, folder, bars)
            result = work.run()
    except KeyboardInterrupt:
        errors.print(f"\nInterrupted. What was finished is kept in {folder}; the same command goes on from there.")
        raise typer.Exit(130) from None
    page = metafluence.write_report(result, folder)
    registry.hooks.hook.metafluence_report(study=work, result=result, path=page)
    console.print()
    console.print(_table(result))
    for row in result.failed:
        errors.print(Text(f"failed: {row.method} {row.solver}: {row.reason}", style="red"))
    for warning in result.warnings:
        console.print(Text(f"Warning: {warning}", style="yellow"))
    console.print()
    for sentence in metafluence.verdict(result):
        console.print(Text(f"• {sentence}"))
    if result.reused:
        console.print(f"{result.reused} of {len(result.runs)} runs were already in {folder} and were not repeated.")
    console.print(f"\n{page}  (figures inside; rows in {folder / 'results.csv'})", soft_wrap=True)
    if result.failed:
        raise typer.Exit(1)


def _table(result: metafluence.StudyResult) -> Table:
    columns = [column for column in metafluence.COLUMNS if column.brief]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.brief, justify="left" if column.form == "s" else "right", no_wrap=True)
    for row in result.rows:
        table.add_row(*[metafluence.cell(row, column) for column in columns])
    return table


def _parameters(entry: Entry) -> str:
    said = [p.name if p.default is None else f"{p.name}={p.default}" for p in entry.parameters()]
    return ", ".join(said) or "–"


def main() -> None:
    """Entry point: turns our own errors into one message and an exit code."""
    try:
        app()
    except (InputError, StoreError) as error:
        errors.print(Text(f"Error: {error}", style="red"), soft_wrap=True)
        sys.exit(2)
    except MetafluenceError as error:
        errors.print(Text(f"Error: {error}", style="red"), soft_wrap=True)
        sys.exit(1)
