"""The command `clean`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

import metafluence
from metafluence.cli.progress_bars import Bars
from metafluence.cli.study import OutOption, RegistryOption, SetOption, SizeOption, StudyArgument, kept, open_study
from metafluence.cli.terminal import console


def clean(
    study: StudyArgument,
    method: Annotated[
        str | None,
        typer.Option(
            help="By whose scores, as the study's table calls it; the first that predicts loss changes if not given."
        ),
    ] = None,
    share: Annotated[float, typer.Option(help="Share of the images that are removed at most.")] = 0.05,
    draws: Annotated[int, typer.Option(help="How many random sets of images are tried, too.")] = 19,
    out: OutOption = None,
    registry: RegistryOption = None,
    size: SizeOption = None,
    changes: SetOption = None,
) -> None:
    """Say which image files harm a study's targets, and whether removing them is better than removing random ones.

    Runs the study where it is not finished, and writes removed.csv, kept.csv and evidence.csv. No file is deleted. Of a
    study that varies something, the first variation is taken.
    """
    known, folder, work = open_study(study, out, registry, size, changes or [])
    loss = known.build("method", "loss")
    with kept(folder), Bars(console) as bars:
        found = metafluence.clean(work(bars).studies[0], loss, method, share, draws)
    console.print()
    for sentence in metafluence.cleaning_answer(found):
        console.print(Text(sentence))
    console.print()
    for file in metafluence.write_cleaning(found, folder / "clean"):
        console.print(Text(f"{file}"), soft_wrap=True)
