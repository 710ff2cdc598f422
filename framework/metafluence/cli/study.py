"""The commands `run`, `demo` and `report`."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

import metafluence
from metafluence.cli.places import check_folder
from metafluence.cli.progress_bars import Bars
from metafluence.cli.terminal import console, errors
from metafluence.package_files import resource
from metafluence.registry import Registry, default_registry
from metafluence.sentences import FEW, GROUPS, alike, folded

StudyArgument = Annotated[Path, typer.Argument(help="The study, a YAML file.", metavar="STUDY.yaml")]
RegistryOption = Annotated[
    Path | None,
    typer.Option(
        "--registry", help="A registry.yaml with components of your own, besides the one in the study's folder."
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder for results; results/NAME if not given. Finished work is reused.")
]
SizeOption = Annotated[
    str | None, typer.Option("--size", help="One of the sizes that the study names, such as `paper`.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a part of the study: learner.penalty=0.1. May be repeated."
    ),
]


def run(
    study: StudyArgument,
    out: OutOption = None,
    registry: RegistryOption = None,
    size: SizeOption = None,
    changes: SetOption = None,
    tracker: Annotated[
        list[str] | None, typer.Option(help="Show the numbers there, too: tensorboard, mlflow, wandb.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="List the runs and estimate their time from a pilot: one fit and a few retrainings, kept."
        ),
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Print every finding, failure and warning.")] = False,
) -> None:
    """Run a study: fit, retrain exactly, score with every method and solver, compare, report.

    Interrupted, it goes on where it stopped when it is run again. Exits with 1 if any run failed.
    """
    if dry_run:
        _plan(study, out, registry, size, changes or [])
    else:
        _run(study, out, registry, size, changes or [], partial(_say_one, full=full), tracker or [], full)


def demo(
    out: OutOption = None,
    full: Annotated[bool, typer.Option("--full", help="Print all tables and findings, as `run` does.")] = False,
) -> None:
    """Run the shipped study on real handwritten digits (no download, about a minute on 2 cores)."""
    study = resource("studies/digits.yaml")
    _run(study, out, None, None, [], partial(_say_one, full=True) if full else _say_answers)
    more = "" if full else "All tables and findings: `metafluence demo --full`. "
    console.print(f"{more}Copy {study}, change a line, and `metafluence run` your copy.", soft_wrap=True)


def report(
    stores: Annotated[list[Path], typer.Argument(help="Folders that `run` wrote.", metavar="STORE...")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the report; of one store the store, of several results/NAMES-merged."),
    ] = None,
) -> None:
    """Write the report of what is finished in a store, or one report of several, without computing anything anew."""
    if out is not None:
        check_folder(out)
    found = metafluence.open_stores(stores)
    for store in found:
        if store.missing:
            count = len(store.missing) + len(store.outcomes)
            console.print(Text(f"{store.folder}: {len(store.missing)} of {count} variations are not finished."))
        for sentence in store.damage:
            print_warning(f"{sentence} Run the study again to have it in the report.")
    if out is None and len(found) == 1:
        only = found[0].pages[0] / "report.html"
        if found[0].pages[0] == stores[0] and only.exists():  # the report that `run` wrote says more
            console.print(Text(f"{only}"), soft_wrap=True)
            return
        out = stores[0]
    if out is None:
        out = Path("results") / f"{'-and-'.join(dict.fromkeys(store.name for store in found))}-merged"
    whole = metafluence.merged(found)
    for text in whole.contradictions:
        print_warning(text)
    page = metafluence.write_comparison(whole, out, print_warning)
    console.print(Text(f"{page}"), soft_wrap=True)


def open_study(
    study: Path, out: Path | None, overlay: Path | None, size: str | None = None, changes: Sequence[str] = ()
) -> tuple[Registry, Path, Callable[[Bars], metafluence.Comparing]]:
    """The registry, the folder of results, and what makes the study once there are bars to show it."""
    asked = dict(metafluence.parse_assignment(change) for change in changes)
    comparison = metafluence.load_comparison(study, size, asked)
    registry = default_registry(overlay, study.resolve().parent)
    differing = metafluence.differing_versions(study, registry)
    if differing:
        print_warning(differing)
    name = comparison.name if size is None else f"{comparison.name}-{size}"
    folder = check_folder(out or Path("results") / name)
    return registry, folder, lambda bars: metafluence.Comparing(comparison, registry, folder, bars)


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM)."""


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Says, when work is interrupted, that what was finished is not lost."""
    try:
        yield
    except KeyboardInterrupt as signalled:
        errors.print(f"\nInterrupted. What was finished is kept in {folder}; the same command goes on from there.")
        raise typer.Exit(143 if isinstance(signalled, Terminated) else 130) from None


def _run(
    study: Path,
    out: Path | None,
    overlay: Path | None,
    size: str | None,
    changes: Sequence[str],
    say: Callable[[metafluence.StudyResult], None],
    trackers: Sequence[str] = (),
    full: bool = False,
) -> None:
    registry, folder, make = open_study(study, out, overlay, size, changes)
    for name in dict.fromkeys(trackers):
        registry.hooks.register(registry.build("tracker", name), f"tracker {name}")

    def finished(study: metafluence.Study, result: metafluence.StudyResult, place: Path) -> None:
        page = metafluence.write_report(result, place, print_warning)
        registry.hooks.hook.metafluence_report(study=study, result=result, path=page)
        nonlocal last, reused, runs, lost
        last = result
        reused, runs, lost = reused + result.reused, runs + len(result.runs), lost + len(result.failed)

    last: metafluence.StudyResult | None = None
    reused = runs = lost = 0
    with kept(folder), Bars(console) as bars:
        work = make(bars)
        outcomes = work.run(finished)
    if len(outcomes) == 1 and last is not None:
        say(last)
        page = folder / "report.html"
    else:
        whole = metafluence.Merged.of(work, outcomes)
        page = metafluence.write_comparison(whole, folder, print_warning)
        _say_several(whole, full)
    if reused:
        console.print(f"{reused} of {runs} runs were already in {folder} and were not repeated.")
    console.print(f"\n{page}  (figures inside; rows in {folder / 'results.csv'})", soft_wrap=True)
    if lost or any(one.reason for one in outcomes):
        raise typer.Exit(1)


def _say_answers(result: metafluence.StudyResult) -> None:
    """The answers first, then one table of all methods: what fits on a screen."""
    for question, sentences in metafluence.answers(result).items():
        console.print(Text(f"\n{question}", style="bold"))
        for sentence in sentences:
            console.print(Text(f"• {sentence}"))
    table = metafluence.overview_table(result)
    console.print()
    console.print(text_table(table, table.title))
    for warning in result.warnings:
        print_warning(warning)


def _say_one(result: metafluence.StudyResult, full: bool = False) -> None:
    _print_tables([metafluence.study_group(result)], list(result.evaluations))
    failed = alike((row.reason, row.name) for row in result.failed)
    _print_failed([(reason, ", ".join(who)) for reason, who in failed], full)
    _print_folded([_warned(text) for text, _ in alike((text, "") for text in result.warnings)], full)
    console.print()
    _print_folded([Text(f"• {sentence}") for sentence in metafluence.verdict(result)], full)
    for certificate in result.certificates:
        console.print(Text(f"• {certificate.level} level: {certificate.verdict}"))
    if result.grid:
        lost = sum(cell.status != "ok" for cell in result.grid)
        of = f"; {lost} of them failed, the report says why" if lost else ""
        console.print(f"• {len(result.grid)} pairs of inner and outer solvers were compared{of}.")


def _say_several(whole: metafluence.Merged, full: bool) -> None:
    for level in whole.levels:
        _print_tables(whole.at(level), [level])
        for table in whole.rankings(level).values():
            if full or len(table.rows) <= RANKED:
                console.print()
                console.print(text_table(table, table.title))
                console.print(Text(table.about, style="dim"))
    _print_failed([(reason, ", ".join(who)) for reason, who in [*whole.failed, *whole.failed_runs]], full)
    _print_folded([_warned(f"{text}{f' ({where})' if where else ''}") for text, where in whole.warnings], full)
    console.print()
    shown, rest = folded(whole.findings, len(whole.findings) if full else GROUPS)
    for label, sentences in shown:
        if len(whole.findings) > 1:
            console.print(Text(label, style="bold"))
        _print_folded([Text(f"• {sentence}") for sentence in sentences], full)
    if rest:
        _say_more(len(rest), " variations")
    for sentence in filter(None, whole.lost):
        console.print(Text(f"• {sentence}"))


def _print_failed(failed: Sequence[tuple[str, str]], full: bool) -> None:
    """Print reasons, each with whom it concerns."""
    shown, rest = folded(failed, len(failed) if full else FEW)
    for reason, who in shown:
        errors.print(Text(f"failed: {who}: {reason}", style="red"))
    if rest:
        _say_more(len(rest), " failures")


def _print_folded(lines: Sequence[Text], full: bool) -> None:
    """Print the first lines, and how many more there are."""
    shown, rest = folded(lines, len(lines) if full else FEW)
    for line in shown:
        console.print(line)
    if rest:
        _say_more(len(rest))


def _say_more(count: int, what: str = "") -> None:
    console.print(Text(f"and {count} more{what}: --full", style="dim"))


def _warned(text: str) -> Text:
    return Text(f"Warning: {text}", style="yellow")


RANKED = 12
"""Rows of a ranking over variations; a longer one is printed with --full alone, as the page has it."""
HEADING = 9
"""Letters of a line of a number's heading, as far as words allow."""


def print_warning(text: str) -> None:
    """Print what to read results with, in a sentence."""
    console.print(_warned(text))


def _plan(study: Path, out: Path | None, overlay: Path | None, size: str | None, changes: Sequence[str]) -> None:
    _, folder, make = open_study(study, out, overlay, size, changes)
    with kept(folder), Bars(console) as bars:
        work = make(bars)
        found = metafluence.pilot(work)
    for variation, plans in zip(work.comparison.variations, found.runs, strict=True):
        console.print(Text(variation.id, style="bold"))
        for plan in plans:
            console.print(Text(f"  {plan}"))
    console.print()
    for sentence in found.sentences():
        console.print(Text(f"• {sentence}"))


def _print_tables(groups: Sequence[metafluence.Group], levels: Sequence[metafluence.Level]) -> None:
    """Print a table for each level and group, and one for each metric that the study asks for."""
    for level in levels:
        for group in groups:
            tables = [metafluence.narrow_table([group], level, "terminal"), *metafluence.metric_tables(group, level)]
            for table in tables:
                console.print()
                console.print(text_table(table, ", ".join(part for part in (table.title, group.label) if part)))


def text_table(table: metafluence.Table, title: str) -> Table:
    """A table for the terminal, the best values in bold. Words may take two lines; numbers are never cut."""
    shown = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title_style="bold")
    shown.title = Text(title)
    for i, heading in enumerate(table.titles):
        words = i in table.words
        lines = Text(heading if words else textwrap.fill(heading, HEADING, break_long_words=False))
        shown.add_column(lines, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for r, row in enumerate(table.rows):
        shown.add_row(*(Text(cell, style="bold" if (r, c) in table.best else "") for c, cell in enumerate(row)))
    return shown
