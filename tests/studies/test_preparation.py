"""What a study's runs share: seeds that differ, and the keys under which runs are stored."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

import metafluence as mf
from metafluence.evaluation import Evaluation
from metafluence.progress import Observer
from metafluence.runtime import Shelf
from metafluence.studies.preparation import Preparation
from metafluence.testing.worlds import world
from small_studies import SMALL


def preparation(folder, **changes) -> Preparation:
    return Preparation(mf.parse_study({**SMALL, **changes}), mf.default_registry(), folder, Observer())


def test_other_seeds_are_other_seeds(tmp_path, monkeypatch):
    """Fits and retrainings of each other seed draw from one generator of their own, and keep what they make apart."""
    fits, banks, stores = [], [], []

    def fit(stage, name, trainer, generator):
        fits.append(generator.initial_seed())
        return SimpleNamespace(meta=None)

    def bank(self, problem, fit, split, purpose, store):
        banks.append(self._generator(purpose).initial_seed())
        stores.append(store)

    monkeypatch.setattr(Preparation, "bank_about", bank)
    monkeypatch.setattr("metafluence.studies.preparation.Targets", lambda *parts: parts)
    here = preparation(tmp_path, truth={"seeds": 3})
    here._fits = SimpleNamespace(fit=fit)  # pyright: ignore[reportAttributeAccessIssue]
    here.shelf = Shelf(tmp_path, "a study", pytest.fail)
    here._other_seeds(None, None, None)  # pyright: ignore[reportArgumentType]
    assert len({here._generator("fit").initial_seed(), *fits}) == 4
    assert banks == fits
    assert len({here.folder / "bank", *stores}) == 4


def test_a_bank_draws_from_the_seed_of_its_own_fit(tmp_path, monkeypatch):
    seeds = []
    monkeypatch.setattr("metafluence.studies.preparation.RetrainBank", lambda *parts: seeds.append(parts[6]))
    here = preparation(tmp_path, truth={"start": "cold", "seeds": 2})
    split = SimpleNamespace(train=world(0).problem.tasks, validation=None)
    for purpose in ("fit", "fit 1"):
        here.bank_about(None, None, split, purpose, tmp_path)  # pyright: ignore[reportArgumentType]
    assert seeds == [here._generator(purpose).initial_seed() for purpose in ("fit", "fit 1")]


@pytest.mark.parametrize("change", [{"remove": (1, 2)}, {"remove": (2,)}, {"level": "query"}], ids=str)
def test_a_stored_run_is_of_what_was_removed_and_of_its_level(change, tmp_path):
    here, context = world(0), world(0).context("task")
    evaluation = Evaluation(
        problem=here.problem,
        meta=here.fit.meta,
        adapted=context.point.adapted,
        validation=here.validation,
        test_tasks=here.validation,
        bank=None,
        seed=0,
    )
    key = preparation(tmp_path).run_key
    assert key(replace(evaluation, **change)) != key(evaluation)
    assert key(replace(evaluation, remove=(1,))) == key(evaluation)


def test_a_stored_run_is_of_its_ground_truth_and_of_its_targets(tmp_path):
    evaluation = SimpleNamespace(level="task", remove=(1,), validation=range(3), extremes=())
    changes = ({}, {"truth": {"items": 3}}, {"truth": {"seeds": 1}}, {"damping": {}}, {"checkpoints": "sgd"})
    keys = [preparation(tmp_path, **change).run_key(evaluation) for change in changes]  # pyright: ignore[reportArgumentType]
    assert len(set(keys)) == len(changes)
