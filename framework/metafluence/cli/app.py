"""The command line: `metafluence run | report | compare | score | clean | sweep | data | list | show | new | check |
demo`.

Exit codes: 0 done, 1 a run failed, 2 bad input. Whatever needs torch is reached through `metafluence`'s lazy names, so
that `list` answers at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.table import Table
from rich.text import Text

import metafluence
from metafluence.allocator import keep_freed_memory
from metafluence.cli.check import check
from metafluence.cli.clean import clean
from metafluence.cli.compare import compare
from metafluence.cli.data import data_app
from metafluence.cli.new import new
from metafluence.cli.score import score
from metafluence.cli.study import RegistryOption, Terminated, demo, report, run
from metafluence.cli.sweep import sweep_app
from metafluence.cli.terminal import console, errors
from metafluence.errors import InputError, MetafluenceError, StoreError, in_words, out_of_memory
from metafluence.registry import Entry, default_registry, shown_type

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
app.add_typer(sweep_app, name="sweep")
app.add_typer(data_app, name="data")


@app.command("list")
def list_components(
    kind: Annotated[str | None, typer.Argument(help="Only this kind: solver, method, learner, ...")] = None,
    registry: RegistryOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List every registered component: what it is, its parameters, and where it comes from."""
    known = default_registry(registry, Path.cwd())
    if as_json:
        print(json.dumps([_facts(entry) for entry in known.entries(kind)], indent=1, ensure_ascii=False))
        return
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
    claims = _claims(known.build(kind, name)) if kind == "method" else []
    for what, value in (("paper", entry.paper), ("from", entry.origin), ("code", entry.at), *claims):
        if value:
            console.print(Text.assemble((f"{what}  ", "dim"), value))
    documentation = entry.documentation()
    if documentation:
        console.print()
        console.print(Text(documentation))
    table = Table("parameter", "type", "default", box=None, pad_edge=False)
    for parameter in entry.parameters():
        table.add_row(
            parameter.name,
            shown_type(parameter.type),
            parameter.default if parameter.default is not None else "required",
        )
    if table.row_count:
        console.print()
        console.print(table)
    console.print()
    console.print(Text(f"In a study: {{use: {name}, ...}}", style="dim"))


def _facts(entry: Entry) -> dict[str, object]:
    """An entry as JSON. The default of a parameter is as its source has it, None where it is required."""
    parameters = [{"name": p.name, "type": shown_type(p.type), "default": p.default} for p in entry.parameters()]
    return {
        "kind": entry.kind,
        "name": entry.name,
        "about": entry.about,
        "paper": entry.paper,
        "from": entry.origin,
        "code": entry.at,
        "preset": entry.params,
        "parameters": parameters,
    }


def _claims(method: metafluence.AttributionMethod) -> list[tuple[str, str]]:
    """What a method with its defaults scores, in which units, what it needs and what else it does."""
    needs = {
        "a minimum": method.needs_minimum,
        "checkpoints": method.needs_checkpoints,
        "a recorded run": method.needs_run,
        "exact retraining": method.retrains,
    }
    return [
        ("levels", ", ".join(level for level in metafluence.LEVELS if level in method.levels)),
        ("units", method.units),
        ("needs", ", ".join(what for what, needed in needs.items() if needed) or "nothing"),
        ("edits", "yes" if method.edits else "no"),
        ("candidates", "yes" if method.adds else "no"),
    ]


def _parameters(entry: Entry) -> str:
    said = [p.name if p.default is None else f"{p.name}={p.default}" for p in entry.parameters()]
    return ", ".join(said) or "–"


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


def _error() -> str:
    """How the message of an error begins; the first process has no number."""
    return "Error" if os.environ.get("RANK", "0") == "0" else f"Error in process {os.environ['RANK']}"


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends a command as the keyboard does: what is finished is kept, and the command says so."""
    raise Terminated
