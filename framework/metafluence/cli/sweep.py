"""The command `sweep`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

import metafluence
from metafluence.cli.progress_bars import Bars
from metafluence.cli.study import OutOption, RegistryOption, SetOption, SizeOption, StudyArgument, kept, open_study
from metafluence.cli.terminal import console
from metafluence.errors import InputError

LARGEST, MOST_POINTS = 1e15, 10_000

sweep_app = typer.Typer(no_args_is_help=True, help="See how results depend on one number.")


@sweep_app.command("damping")
def sweep_damping(
    study: StudyArgument,
    solver: Annotated[str, typer.Option(help="Solver of the total Hessian.")] = "cg",
    curvature: Annotated[str, typer.Option(help="The curvature that is damped.")] = "exact",
    low: Annotated[float, typer.Option("--from", help="Smallest damping above 0.")] = 1e-4,
    high: Annotated[float, typer.Option("--to", help="Largest damping.")] = 1e2,
    points: Annotated[int, typer.Option(help="Dampings between the two, evenly in their logarithm; and 0.")] = 13,
    out: OutOption = None,
    registry: RegistryOption = None,
    size: SizeOption = None,
    changes: SetOption = None,
) -> None:
    """Score a study's tasks with many dampings from one factorisation or Krylov space.

    Shows, for each damping: whether the ranking is stable, the residual, the smallest eigenvalue, and the agreement
    with the study's ground truth. The study's stored fit and retrainings are used, and made first if they are not
    there. Of a study that varies something, the first variation is taken.
    """
    if not 0 < low < high <= LARGEST or not 2 <= points <= MOST_POINTS:
        raise InputError(
            f"The sweep is from {low:g} to {high:g} in {points} points. Give a positive --from, a larger --to of at "
            f"most {LARGEST:g}, and 2 to {MOST_POINTS} points."
        )
    known, folder, work = open_study(study, out, registry, size, changes or [])
    parts = known.build("curvature", curvature, "--curvature"), known.build("solver", solver, "--solver")
    with kept(folder), Bars(console) as bars:
        bench = work(bars).studies[0].prepare().evaluation
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
    if found.against:
        table.title = f"Spearman and Δλ error against {found.against}"
    console.print()
    console.print(table)
    if bench.truth is not None and bench.truth.ceiling.sentence:
        console.print(f"Spearman for comparison: {bench.truth.ceiling.sentence}.")
    console.print(f"\n{page}  (a figure of the same name beside it)", soft_wrap=True)
