"""The commands for banks of retrainings: `metafluence bank write | verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

import metafluence
from metafluence.cli.places import check_folder
from metafluence.cli.progress_bars import Bars
from metafluence.cli.study import RegistryOption, kept, print_warning
from metafluence.cli.terminal import console
from metafluence.registry import default_registry

bank_app = typer.Typer(no_args_is_help=True, help="A study's exact retrainings as ground truth for others.")


@bank_app.command("write")
def write_bank(
    store: Annotated[Path, typer.Argument(help="A folder that `run` wrote, of a finished study.", metavar="STORE")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the bank.")],
    registry: RegistryOption = None,
) -> None:
    """Write the exact retrainings of a finished study into a small folder: bank.json and one file of numbers."""
    check_folder(out)
    known = default_registry(registry, store)
    with kept(store), Bars(console) as bars:
        bank = metafluence.write_bank(store, out, known, bars, print_warning)
    size = sum(file.stat().st_size for file in out.iterdir() if file.suffix in (".json", ".safetensors"))
    said = f"{out}: {bank.retrainings} retrainings in {len(bank.variations)} variations, {size / 1e3:.0f} kB"
    console.print(Text(said), soft_wrap=True)


@bank_app.command("verify")
def verify_bank(
    folder: Annotated[Path, typer.Argument(help="A folder that `bank write` wrote.", metavar="FOLDER")],
    items: Annotated[int, typer.Option(min=1, help="How many retrainings are drawn and made again.")] = 12,
    every: Annotated[bool, typer.Option("--all", help="Make all retrainings again.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Which ones are drawn.")] = 0,
    registry: RegistryOption = None,
) -> None:
    """Check a bank: its files, its data, its λ*, and some of its retrainings made again.

    Exits with 1 and a sentence about the first thing that is wrong.
    """
    known = default_registry(registry, folder)
    with Bars(console) as bars:
        found = metafluence.verify_bank(folder, known, None if every else items, seed, bars)
    for sentence in found.sentences():
        console.print(Text(f"• {sentence}"))
