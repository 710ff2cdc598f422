"""Every public function that takes a path takes a text and a Path alike."""

import inspect
from pathlib import Path

import pytest
import torch

import metafluence as mf
from small_studies import write

QUICK = {"methods": ["loss"], "truth": {"items": 2}, "certificate": False}


def doors():
    """Each parameter of a public function, or of a method that a public class defines itself, that holds a path."""
    for name in dir(mf):
        found = getattr(mf, name)
        members = {name: found} if inspect.isfunction(found) else {}
        if inspect.isclass(found):
            own = {key: value for key, value in vars(found).items() if key == "__init__" or not key.startswith("_")}
            members = {f"{name}.{key}": value for key, value in own.items() if inspect.isfunction(value)}
        for place, function in members.items():
            if function.__module__.startswith("metafluence"):
                for parameter in inspect.signature(function).parameters.values():
                    if "Path" in str(parameter.annotation):
                        yield place, parameter.name, str(parameter.annotation)


# What receives its path from metafluence (a loop recorder from `record`), and records of where something is.
GIVEN = {"LoopRecorder.__init__", "Tracker.finish", "Tracker.metafluence_report", "Merged.__init__", "Stored.__init__"}


def test_every_door_says_that_it_takes_both():
    found = [door for door in doors() if door[0] not in GIVEN]
    assert len(found) > 30
    assert [door for door in found if "str" not in door[2]] == []


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study's file, a finished store, and its result."""
    folder = tmp_path_factory.mktemp("paths")
    file = write(folder, **QUICK)
    registry = mf.default_registry()
    work = mf.Comparing(mf.load_comparison(str(file)), registry, str(folder / "store"))
    results = []
    work.run(lambda study, result, place: results.append(result))
    return file, folder / "store", results[0]


DOORS = {
    "load_study": lambda made, to: mf.load_study(to(made[0])),
    "load_comparison": lambda made, to: mf.load_comparison(to(made[0])),
    "differing_versions": lambda made, to: mf.differing_versions(to(made[1] / "study.yaml"), mf.default_registry()),
    "open_stores": lambda made, to: mf.open_stores([to(made[1])])[0].name,
    "load_results": lambda made, to: len(mf.load_results(to(made[1])).results),
    "default_registry": lambda made, to: mf.default_registry(to(made[1] / "registry.yaml"), to(made[1])).kinds(),
    "Study": lambda made, to: mf.Study(mf.load_study(to(made[0])), mf.default_registry(), to(made[1] / "w")).folder,
    "write_report": lambda made, to: mf.write_report(made[2], to(made[1] / "page")),
    "write_comparison": lambda made, to: mf.write_comparison(mf.merged(mf.open_stores([made[1]])), to(made[1] / "all")),
    "write_preview": lambda made, to: mf.write_preview(*preview(to(made[1] / "preview.png"))).fingerprint(),
    "fetch_sources": lambda made, to: mf.fetch_sources([], to(made[1]), lambda *_: None),
    "save_training": lambda made, to: trained(to(made[1] / "training.safetensors")),
    "RetrainBank": lambda made, to: banked(made[2], to(made[1] / "bank")),
    "Trainer.fit": lambda made, to: fitted(made[2], to(made[1] / "fit")),
    "Ranks.folder": lambda made, to: mf.Ranks().folder(to(made[1])),
}


def preview(file):
    data = mf.build("dataset", "digits")
    return data, file, mf.summarise(data)


def trained(file):
    state = mf.TrainingState(torch.zeros(2), torch.zeros(2), torch.get_rng_state())
    mf.save_training(file, state, {"fit": "x"})
    found = mf.load_training(file, {"fit": "x"}, torch.zeros(2))
    return None if found is None else found.step


def banked(result, folder):
    problem = result.evaluations["task"].problem
    bank = mf.RetrainBank(problem, result.fit, mf.build("trainer", "newton"), mf.build("executor", "serial"), folder)
    return bool(bank.leave_out([(0,)]).converged.all())


def fitted(result, folder):
    problem = result.evaluations["task"].problem
    trainer = mf.build("trainer", "adam", steps=3, record=True, save_every=2)
    fit = trainer.fit(problem, generator=torch.Generator().manual_seed(0), folder=folder)
    again = mf.remade_run(mf.load_run(folder, problem), f"{folder}-again")
    goal = torch.ones(len(again.final), 1, dtype=again.final.dtype)
    mf.run_adjoint(again, goal, folder=f"{folder}-sweep")
    again.save(f"{folder}-kept")
    return fit.meta.tolist()


@pytest.mark.parametrize("door", DOORS)
def test_a_text_is_a_path(door, made):
    assert DOORS[door](made, str) == DOORS[door](made, Path)
