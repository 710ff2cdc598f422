"""The command line: `metafluence run | sweep | data | list | show | demo`.

Exit codes: 0 done, 1 a run failed, 2 bad input. Whatever needs torch is reached through `metafluence`'s lazy names, so
that `list` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

import metafluence
from metafluence.allocator import keep_freed_memory
from metafluence.bars import Bars
from metafluence.data_cli import data_app
from metafluence.errors import InputError, MetafluenceError, StoreError
from metafluence.loader import default_registry
from metafluence.registry import Entry, Registry
from metafluence.resources import resource
from metafluence.terminal import console, errors

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
sweep_app = typer.Typer(no_args_is_help=True, help="See how results depend on one number.")
app.add_typer(sweep_app, name="sweep")
app.add_typer(data_app, name="data")

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


@sweep_app.command("damping")
def sweep_damping(
    study: Annotated[Path, typer.Argument(help="The study, a YAML file.", metavar="STUDY.yaml")],
    solver: Annotated[str, typer.Option(help="Solver of the total Hessian.")] = "cg",
    curvature: Annotated[str, typer.Option(help="The curvature that is damped.")] = "exact",
    low: Annotated[float, typer.Option("--from", help="Smallest damping above 0.")] = 1e-4,
    high: Annotated[float, typer.Option("--to", help="Largest damping.")] = 1e2,
    points: Annotated[int, typer.Option(help="Dampings between the two, evenly in their logarithm; and 0.")] = 13,
    out: OutOption = None,
    registry: RegistryOption = None,
) -> None:
    """Score a study's tasks with many dampings from one factorisation or Krylov space.

    Shows, for each damping: whether the ranking is stable, the residual, the smallest eigenvalue, and the agreement
    with exact retraining. The study's stored fit and retrainings are used, and made first if they are not there.
    """
    if not 0 < low < high or points < 2:
        raise InputError(
            f"A sweep goes from a positive --from up to a larger --to in 2 points or more; got {low:g} to {high:g} in "
            f"{points}."
        )
    known, folder, work = _open(study, out, registry)
    parts = known.build("curvature", curvature, "--curvature"), known.build("solver", solver, "--solver")
    with _kept(folder), Bars(console) as bars:
        bench = work(bars).prepare().bench
        bars.stage("sweeping the damping")
        ratio = (high / low) ** (1 / (points - 1))
        dampings = [0.0, *(low * ratio**i for i in range(points))]
        found = metafluence.sweep_damping(bench.context().point, bench.targets(), *parts, dampings, bench.truth)
        bars.done(f"{found.products} products")
    page = metafluence.write_sweep(found, folder / "sweeps", f"damping-{curvature}-{solver}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("damping", "smallest eigenvalue", "residual", "stability", "Spearman", "Δλ error", ""):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in found.rows:
        table.add_row(*metafluence.sweep_cells(row))
    console.print()
    console.print(table)
    if bench.truth is not None and bench.truth.ceiling.said:
        console.print(f"Spearman for comparison: {bench.truth.ceiling.said}.")
    console.print(f"\n{page}  (a figure of the same name beside it)", soft_wrap=True)


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


def _open(
    study: Path, out: Path | None, overlay: Path | None
) -> tuple[Registry, Path, Callable[[Bars], metafluence.Study]]:
    """The registry, the folder of results, and what makes the study once there are bars to show it."""
    config = metafluence.load_study(study)
    registry = default_registry(overlay, study.resolve().parent)
    folder = out or Path("results") / config.name
    return registry, folder, lambda bars: metafluence.Study(config, registry, folder, bars)


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        errors.print(f"\nInterrupted. What was finished is kept in {folder}; the same command goes on from there.")
        raise typer.Exit(130) from None


def _run(study: Path, out: Path | None, overlay: Path | None) -> None:
    registry, folder, make = _open(study, out, overlay)
    with _kept(folder), Bars(console) as bars:
        work = make(bars)
        result = work.run()
    page = metafluence.write_report(result, folder)
    registry.hooks.hook.metafluence_report(study=work, result=result, path=page)
    for level in result.benches:
        console.print()
        console.print(_table(result, level))
    for row in result.failed:
        errors.print(Text(f"failed: {row.method} {row.solver}: {row.reason}", style="red"))
    for warning in result.warnings:
        console.print(Text(f"Warning: {warning}", style="yellow"))
    console.print()
    for sentence in metafluence.verdict(result):
        console.print(Text(f"• {sentence}"))
    for certificate in result.certificates:
        console.print(Text(f"• {certificate.level} level: {certificate.verdict}"))
    if result.grid:
        failed = sum(cell.status != "ok" for cell in result.grid)
        of = f"; {failed} of them failed, the report says why" if failed else ""
        console.print(f"• {len(result.grid)} pairs of inner and outer solvers were compared{of}.")
    if result.reused:
        console.print(f"{result.reused} of {len(result.runs)} runs were already in {folder} and were not repeated.")
    console.print(f"\n{page}  (figures inside; rows in {folder / 'results.csv'})", soft_wrap=True)
    if result.failed:
        raise typer.Exit(1)


def _table(result: metafluence.StudyResult, level: metafluence.Level) -> Table:
    columns = [column for column in metafluence.columns(result) if column.brief]
    title = f"{level} level" if len(result.benches) > 1 else None
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", title_style="bold")
    for column in columns:
        # Names may take two lines; numbers are never cut.
        words = column.form == "s"
        table.add_column(column.brief, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for line in metafluence.table(result, level, columns):
        table.add_row(*line)
    return table


def _parameters(entry: Entry) -> str:
    said = [p.name if p.default is None else f"{p.name}={p.default}" for p in entry.parameters()]
    return ", ".join(said) or "–"


def main() -> None:
    """Entry point: turns our own errors into one message and an exit code."""
    keep_freed_memory()
    try:
        app()
    except (InputError, StoreError) as error:
        errors.print(Text(f"Error: {error}", style="red"), soft_wrap=True)
        sys.exit(2)
    except MetafluenceError as error:
        errors.print(Text(f"Error: {error}", style="red"), soft_wrap=True)
        sys.exit(1)
