"""The command line: `metafluence run | report | compare | score | clean | sweep | data | bank | list | show | new |
check | demo`.

Exit codes: 0 done, 1 a run failed, 2 bad input. Whatever needs torch is reached through `metafluence`'s lazy names, so
that `list` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import traceback
from types import FrameType
from typing import NoReturn

import typer
from rich.text import Text

import metafluence
from metafluence.allocator import keep_freed_memory
from metafluence.cli.bank import bank_app
from metafluence.cli.check import check
from metafluence.cli.clean import clean
from metafluence.cli.compare import compare
from metafluence.cli.components import list_components, show
from metafluence.cli.data import data_app
from metafluence.cli.new import new
from metafluence.cli.score import score
from metafluence.cli.study import Terminated, demo, report, run
from metafluence.cli.sweep import sweep_app
from metafluence.cli.terminal import console, errors
from metafluence.errors import InputError, MetafluenceError, StoreError, in_words, out_of_memory

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


@app.callback()
def several_processes(context: typer.Context) -> None:
    """Where torchrun started several processes, `run` computes with all of them, and the first one prints."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    if context.invoked_subcommand != "run":
        raise InputError(f"`{context.invoked_subcommand}` is for one process. Start it without torchrun.")
    console.quiet = not metafluence.join_ranks().first


app.command()(run)
app.command()(demo)
app.command()(report)
app.command()(compare)
app.command()(score)
app.command()(clean)
app.command()(new)
app.command()(check)
app.command("list")(list_components)
app.command()(show)
app.add_typer(sweep_app, name="sweep")
app.add_typer(data_app, name="data")
app.add_typer(bank_app, name="bank")


def main() -> None:
    """Entry point: turns errors into one message and an exit code."""
    keep_freed_memory()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except (InputError, StoreError) as error:
        errors.print(Text(f"{_error()}: {error}", style="red"), soft_wrap=True)
        sys.exit(2)
    except MetafluenceError as error:
        errors.print(Text(f"{_error()}: {error}", style="red"), soft_wrap=True)
        sys.exit(1)
    except Exception as error:
        with tempfile.NamedTemporaryFile("w", prefix="metafluence-", suffix=".txt", delete=False) as file:
            traceback.print_exc(file=file)
        text = f"{_error()}: unexpected {in_words(error)}. The traceback is in {file.name}; please report it."
        if out_of_memory(error):
            text = f"{_error()}: {in_words(error)} The traceback is in {file.name}."
        errors.print(Text(text, style="red"), soft_wrap=True)
        sys.exit(1)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is kept by now: a late interrupt ends it without a word


def _error() -> str:
    """How the message of an error begins; the first process has no number."""
    return "Error" if os.environ.get("RANK", "0") == "0" else f"Error in process {os.environ['RANK']}"


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends a command as the keyboard does: what is finished is kept, and the command says so."""
    raise Terminated
