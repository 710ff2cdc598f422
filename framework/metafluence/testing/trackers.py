"""The conformance suite of trackers: `TestMine = tracker_suite(MyTracker)` in a test file of one's own.

Checks run in an empty working folder. A tracker of a server sends what it is given there, as in a study.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import chdir
from copy import deepcopy
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory

from metafluence import Plain, Tracker, default_registry
from metafluence.testing.simple_suites import simple_suite

SETTINGS: dict[str, Plain] = {"learner": "protonet", "learner.penalty": 0.5, "l2": 1e-4, "distributed": False}
NUMBERS = {"seconds": 0.25, "spearman": -0.5, "products": 12.0}
RUN = "task task-if damping=0.1 (cg)"


def _in_a_folder(check: Callable[[Tracker, int], None]) -> Callable[[Tracker, int], None]:
    """The check in a working folder of its own, with the page of a report."""

    @wraps(check)
    def checked(component: Tracker, seed: int) -> None:
        with TemporaryDirectory() as folder, chdir(folder):
            Path("report.html").write_text("<!doctype html>", encoding="utf-8")
            check(component, seed)

    return checked


@_in_a_folder
def check_study(component: Tracker, seed: int) -> None:
    """It follows a study from its start, over two runs, to its report."""
    _follow(component, f"study seed {seed}")


@_in_a_folder
def check_hooks(component: Tracker, seed: int) -> None:
    """It can be registered with the hooks of a study, which is how `--tracker` uses it."""
    default_registry().hooks.register(component, "tracker under test")


@_in_a_folder
def check_several(component: Tracker, seed: int) -> None:
    """It follows one study after another, as of several variations, and the same one again."""
    for name in ("first seed 0", "second seed 1", "first seed 0"):
        _follow(component, name)


@_in_a_folder
def check_interrupted(component: Tracker, seed: int) -> None:
    """A study that ended without a report does not stop the next one."""
    component.start("interrupted seed 0", SETTINGS)
    component.log(RUN, NUMBERS)
    _follow(component, "next seed 0")


@_in_a_folder
def check_empty(component: Tracker, seed: int) -> None:
    """A run of which no number is known is no error."""
    component.start("study seed 0", {})
    component.log(RUN, {})
    component.finish(Path("report.html"))


@_in_a_folder
def check_inputs(component: Tracker, seed: int) -> None:
    """Nothing that it is given is written to."""
    settings, numbers = deepcopy(SETTINGS), dict(NUMBERS)
    _follow(component, "study seed 0", settings, numbers)
    assert settings == SETTINGS, "the settings were changed"
    assert numbers == NUMBERS, "the numbers were changed"
    assert Path("report.html").read_text(encoding="utf-8") == "<!doctype html>", "the report was changed"


CHECKS = {
    "study": check_study,
    "hooks": check_hooks,
    "several": check_several,
    "interrupted": check_interrupted,
    "empty": check_empty,
    "inputs": check_inputs,
}


def tracker_suite(tracker: Tracker | type[Tracker], skip: Collection[str] = (), examples: int = 1) -> type:
    """A class of tests for pytest: `tracker` (an instance, or a class with defaults) on all CHECKS but `skip`."""
    return simple_suite("tracker", CHECKS, tracker, skip, examples)


def _follow(
    component: Tracker, name: str, settings: Mapping[str, Plain] = SETTINGS, numbers: Mapping[str, float] = NUMBERS
) -> None:
    component.start(name, settings)
    for run in (RUN, "task loss"):
        component.log(run, numbers)
    component.finish(Path("report.html"))
