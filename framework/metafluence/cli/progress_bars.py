"""Progress bars with time left, for the command line."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from metafluence.progress import Observer


class Bars(Observer):
    """One bar per stage, kept on screen when it is done. Where there is no terminal, one line per finished stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=12, table_column=Column(min_width=8)),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=7, justify="right")),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5, header="left")),
            TextColumn(
                "{task.fields[note]}", style="dim", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
            ),
            console=console,
            disable=not console.is_terminal,
        )
        self._name, self._task = "", None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def study(self, number: int, count: int, label: str) -> None:
        for task in self._bars.task_ids:  # the finished stages of the study before
            self._bars.remove_task(task)
        self._console.print(f"[{number} of {count}] {label}", markup=False)

    def stage(self, name: str, total: int | None = None) -> None:
        self._name = name
        self._task = self._bars.add_task(name, total=total, note="")

    def step(self, done: int, total: int | None = None, note: str = "") -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total, note=note)

    def done(self, note: str = "") -> None:
        if self._task is not None:
            finished = next(task.completed for task in self._bars.tasks if task.id == self._task) or 1
            self._bars.update(self._task, completed=finished, total=finished, note=note)
        if not self._console.is_terminal:
            self._console.print(f"{self._name}: done{f' ({note})' if note else ''}")
        self._task = None
