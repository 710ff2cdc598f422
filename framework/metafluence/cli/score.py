"""The command `score`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.text import Text

import metafluence
from metafluence.cli.places import check_folder
from metafluence.cli.progress_bars import Bars
from metafluence.cli.study import RegistryOption, kept, print_warning, text_table
from metafluence.cli.terminal import console
from metafluence.registry import default_registry, parse_yaml


def score(
    run: Annotated[Path, typer.Argument(help="The folder of a recorded loop (`mf.record`).", metavar="RUN")],
    learner: Annotated[
        str,
        typer.Option(
            help="What the loop does with a task: YAML or a YAML file as a study's `learner`, or FILE.py:FUNCTION, a "
            "function that returns what `mf.record` was given."
        ),
    ],
    targets: Annotated[
        str,
        typer.Option(
            help="The tasks whose loss counts: an .npz or .safetensors file with support_x, support_y, query_x, "
            "query_y; or YAML or a YAML file with a study's dataset, episodes and seed, for its validation tasks."
        ),
    ],
    level: Annotated[
        list[str] | None,
        typer.Option(
            help="The items that are scored: task (if not given), support, query, image or class. Give it several "
            "times for several levels at once."
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="A name that `metafluence list method` shows, or YAML.")
    ] = "run-influence",
    top: Annotated[int, typer.Option(min=1, help="How many items of each end are shown.")] = 50,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust/--no-trust", help="Try by replays, some 20 trainings a level, whether the scores can be trusted."
        ),
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for results; RUN if not given, with a folder scores-LEVEL-METHOD (for run-influence "
            "scores-LEVEL)."
        ),
    ] = None,
    registry: RegistryOption = None,
) -> None:
    """Score every task, instance, image or class of a recorded loop: which harm, and can that be trusted?

    Interrupted, it goes on where it stopped when it is run again.
    """
    levels = cast("tuple[metafluence.Level, ...]", tuple(dict.fromkeys(level or ["task"])))
    called = re.sub(r"[^a-z0-9.]+", "-", method.lower().replace("use:", "")).strip("-")
    by = "" if called == "run-influence" else f"-{called}"
    folders: dict[metafluence.Level, Path] = {each: (out or run) / f"scores-{each}{by}" for each in levels}
    if out is not None and len(levels) == 1:
        folders = {levels[0]: out}
    for folder in folders.values():
        check_folder(folder)
    first = folders[levels[0]]
    known = default_registry(registry, Path.cwd())
    way = known.build("method", parse_yaml(method, "--method"), "--method")
    recorded = metafluence.load_recording(run, metafluence.read_learner(learner, known))
    tasks = metafluence.read_targets(targets, known, recorded.problem.tasks.dtype)
    with kept(first), Bars(console) as bars:
        found = metafluence.score_run_levels(
            recorded, tasks, way, levels, trust=trust, observer=bars, folder=first / "sweep"
        )
    for each, folder in folders.items():
        show(found[each], folder, f"{run.resolve().name}: scores by {method}", top)


def show(found: metafluence.RunScores, folder: Path, title: str, top: int) -> None:
    """Print the scores of one level, and write their files."""
    console.print()
    for sentence in metafluence.run_answer(found):
        console.print(Text(sentence))
    console.print()
    table = metafluence.ends_table(found, top)
    console.print(text_table(table, table.title))
    page = metafluence.write_scores(found, folder, title, top, print_warning)
    console.print(f"\n{page}  (all items in {folder / 'scores.csv'})", soft_wrap=True)
