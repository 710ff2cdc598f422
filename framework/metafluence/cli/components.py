"""The commands `list` and `show`: which components there are, and what each is, as text or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

import metafluence
from metafluence.cli.study import RegistryOption
from metafluence.cli.terminal import console, errors
from metafluence.registry import Entry, Registry, default_registry, shown_type

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def list_components(
    kind: Annotated[str | None, typer.Argument(help="Only this kind: solver, method, learner, ...")] = None,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """List every registered component: what it is, its parameters, and where it comes from."""
    known = default_registry(registry, Path.cwd())
    if as_json:
        print(json.dumps([facts(entry) for entry in known.entries(kind)], indent=1, ensure_ascii=False))
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


def show(
    kind: Annotated[str, typer.Argument(help="solver, method, learner, ...")],
    name: Annotated[str, typer.Argument(help="A name that `metafluence list` shows.")],
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one component: its documentation, parameters and defaults, and where its code is."""
    known = default_registry(registry, Path.cwd())
    entry = known.entry(kind, name)
    said = claims(known, entry)
    if as_json:
        whole = facts(entry) | {"documentation": entry.documentation(), "claims": said}
        print(json.dumps(whole, indent=1, ensure_ascii=False))
        return
    console.print(Text(f"{kind} {name}", style="bold"))
    console.print(entry.about)
    for what, value in (("paper", entry.paper), ("from", entry.origin), ("code", entry.at), *said.items()):
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


def facts(entry: Entry) -> dict[str, object]:
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


def claims(known: Registry, entry: Entry) -> dict[str, str]:
    """What a component says that it does and needs: of methods and metrics with their defaults, and of solvers."""
    if entry.kind == "method":
        return _method_claims(known.build(entry.kind, entry.name))
    if entry.kind in ("solver", "preconditioner"):
        return {"requires": ", ".join(sorted(known.load(entry.kind, entry.name).requires)) or "nothing"}
    if entry.kind == "metric":
        return _metric_claims(known.build(entry.kind, entry.name))
    return {}


def _metric_claims(metric: metafluence.Metric) -> dict[str, str]:
    """A metric's numbers, each with what it is, and what it needs."""
    numbers = {f"number {number.name}": number.about for number in metric.numbers()}
    better = [f"{number.name} ({number.better})" for number in metric.numbers() if number.better]
    units = [f"{number.name} ({number.unit})" for number in metric.numbers() if number.unit]
    return {
        "needs": ", ".join(metric.needs) or "nothing",
        "better": ", ".join(better),
        "units": ", ".join(units),
        **numbers,
    }


def _method_claims(method: metafluence.AttributionMethod) -> dict[str, str]:
    """What a method scores, in which units, what it needs and what else it does."""
    needs = {
        "a minimum": method.needs_minimum,
        "checkpoints": method.needs_checkpoints,
        "a recorded run": method.needs_run,
        "exact retraining": method.retrains,
    }
    return {
        "levels": ", ".join(level for level in metafluence.LEVELS if level in method.levels),
        "units": method.units,
        "needs": ", ".join(what for what, needed in needs.items() if needed) or "nothing",
        "edits": "yes" if method.edits else "no",
        "candidates": "yes" if method.adds else "no",
    }


def _parameters(entry: Entry) -> str:
    said = [p.name if p.default is None else f"{p.name}={p.default}" for p in entry.parameters()]
    return ", ".join(said) or "–"
