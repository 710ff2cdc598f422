"""The command `check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

import metafluence
from metafluence.cli.terminal import console
from metafluence.errors import InputError
from metafluence.registry import Entry, Registry, default_registry


def check(
    file: Annotated[Path, typer.Argument(help="A component's Python file, or a registry.yaml.")],
    skip: Annotated[list[str] | None, typer.Option(help="A check that cannot hold; may be repeated.")] = None,
    tracebacks: Annotated[bool, typer.Option("--traceback", help="Show where in the code each fault arises.")] = False,
) -> None:
    """Try the components that a file registers on the tests of their kind, and say in sentences what is wrong.

    The same tests run under pytest by the suites of `metafluence.testing`. Exit code 1 where a check fails.
    """
    testing: Any = metafluence.optional_package("metafluence.testing", "testing")
    registry, entries = registered(file)
    right, wrong = [], 0
    for number, entry in enumerate(entries, start=1):
        at_work = f"trying the {entry.kind} {entry.name} ({number} of {len(entries)}; about half a minute each)"
        try:
            with console.status(at_work):
                checks, faults = testing.checked(built(registry, entry), skip or ())
        except InputError as error:
            raise InputError(f"The {entry.kind} {entry.name}: {error}") from error
        if not faults:
            right.append(f"{entry.kind} {entry.name}: all {len(checks)} checks hold ({', '.join(checks)}).")
            continue
        wrong += 1
        failed = list(dict.fromkeys(fault.partition(":")[0].partition(",")[0] for fault in faults))
        console.print(Text(f"{entry.kind} {entry.name}: {len(failed)} of {len(checks)} checks fail.", style="bold red"))
        for fault in faults:
            console.print(Text(f"  {fault}"), soft_wrap=True)
            if tracebacks:
                console.print(Text(fault.traceback, style="dim"), soft_wrap=True)
        console.print()
    for sentence in right:
        console.print(Text(sentence, style="green"), soft_wrap=True)
    if wrong:
        raise typer.Exit(1)


def registered(file: Path) -> tuple[Registry, list[Entry]]:
    """The registry with a file's components, and these.

    Raises InputError for a file that is not there, and for one that registers nothing.
    """
    if not file.is_file():
        raise InputError(f"There is no file {file}. Name a component's Python file, or a registry.yaml.")
    if file.suffix in (".yaml", ".yml"):
        registry = default_registry(file)
        entries = [entry for entry in registry.entries() if entry.origin in (str(file), str(file.resolve()))]
        if not entries:
            raise InputError(f"{file} registers no component. Add one: `metafluence new method my_method`.")
        return registry, entries
    registry = default_registry(folder=file.parent)
    entries = [entry for entry in registry.entries() if entry.at.rpartition(":")[0] == str(file.resolve())]
    if not entries:
        raise InputError(
            f"No registry.yaml in {file.resolve().parent} names {file.name}. Add under components and its kind: "
            f"{file.stem}: ./{file.name}:YourClass"
        )
    return registry, entries


def built(registry: Registry, entry: Entry) -> Any:
    """The component with its defaults; one that must have a backbone gets a small one."""
    spec: dict[str, Any] = {"use": entry.name}
    required = {parameter.name for parameter in entry.parameters() if parameter.default is None}
    if "backbone" in required:
        spec["backbone"] = {"use": "mlp", "hidden": [2]}
    return registry.build(entry.kind, spec)
