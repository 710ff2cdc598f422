"""The command `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

import metafluence
from metafluence.cli.places import check_file
from metafluence.cli.study import text_table
from metafluence.cli.terminal import console
from metafluence.errors import InputError

HELP = "Column of results.csv to compare, such as spearman, lds, auroc or seconds. May be repeated."


def compare(
    a: Annotated[Path, typer.Argument(help="A folder that `run` wrote.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="Another one.", metavar="B")],
    by: Annotated[list[str] | None, typer.Option(help=HELP)] = None,
    out: Annotated[Path | None, typer.Option(help="A .csv or .md file to write the table to.")] = None,
) -> None:
    """Set two stores side by side: the same rows of both, their differences, and which of these exceed the noise."""
    if out is not None and check_file(out, "--out").suffix not in (".csv", ".md"):
        raise InputError(f"--out is {out}. Name a .csv or a .md file.")
    found = metafluence.compare_stores(a, b, by) if by else metafluence.compare_stores(a, b)
    table = found.table()
    console.print(text_table(table, ""))
    console.print()
    for sentence in found.sentences():
        console.print(Text(f"• {sentence}"))
    if out is not None:
        found.write(out)
        console.print(f"\n{out}", soft_wrap=True)
