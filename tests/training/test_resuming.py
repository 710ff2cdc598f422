"""A fit that was interrupted goes on as if it had not been."""

import json

import pytest
import torch
from hypothesis import given, settings, strategies as st

import metafluence as mf
from metafluence import StoreError, Weights
from metafluence.runtime.storage import load_tensors, save_tensors
from metafluence_plugins.trainers.adam import Adam
from metafluence_plugins.trainers.sgd import SGD
from small_problems import problem, seeded, tasks

OPTIONS = {"steps": 12, "batch": 2, "warmup": 2, "schedule": "cosine", "validate_every": 2, "checkpoints": 3}


class Stop(Exception):
    """An interruption."""


def stopping(at: int):
    def progress(step: int, total: int, record: mf.Record) -> None:
        if step == at:
            raise Stop

    return progress


def same(one: mf.Fit, other: mf.Fit) -> bool:
    """Everything but the seconds, bit by bit."""
    return (
        torch.equal(one.meta, other.meta)
        and one.history == other.history
        and (one.best_step, one.steps, one.gradient_norm) == (other.best_step, other.steps, other.gradient_norm)
        and [(c.step, c.learning_rate) for c in one.checkpoints]
        == [(c.step, c.learning_rate) for c in other.checkpoints]
        and all(torch.equal(a.meta, b.meta) for a, b in zip(one.checkpoints, other.checkpoints, strict=True))
    )


@pytest.mark.parametrize("kind", [Adam, SGD])
@given(stop=st.integers(1, 11), every=st.integers(1, 5), drawn=st.booleans())
@settings(max_examples=4)
def test_an_interrupted_fit_ends_bitwise_where_it_would_have(kind, stop, every, drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    trainer = kind(**OPTIONS, save_every=every)
    bilevel, validation = problem(), tasks(3, seed=1)
    init = None if drawn else bilevel.learner.init_meta(seeded(3))

    def fit(**more) -> mf.Fit:
        return trainer.fit(bilevel, init=init, generator=seeded(), validation=validation, **more)

    whole = fit()
    with pytest.raises(Stop):
        fit(folder=folder, progress=stopping(stop))
    went_on = []
    resumed = fit(folder=folder, progress=lambda step, *_: went_on.append(step))
    assert went_on == list(range(stop - stop % every + 1, 13))
    assert same(resumed, whole)
    again = fit(folder=folder, progress=lambda *_: pytest.fail("stepped again"))
    assert same(again, whole)
    assert again.seconds > load_tensors(folder / "training.safetensors")[1]["seconds"] > 0


def test_a_fit_without_a_generator_resumes_too(tmp_path):
    trainer = Adam(steps=8, batch=2, save_every=3)
    bilevel = problem()
    torch.manual_seed(5)
    whole = trainer.fit(bilevel)
    torch.manual_seed(5)
    with pytest.raises(Stop):
        trainer.fit(bilevel, folder=tmp_path, progress=stopping(7))
    torch.manual_seed(5)
    torch.rand(3)
    assert same(trainer.fit(bilevel, folder=tmp_path), whole)


def test_early_stopping_stays_stopped(tmp_path):
    bilevel, validation = problem(tasks(4, flip=0.5), l2=1e-4), tasks(8, seed=1)
    trainer = Adam(steps=60, batch=4, learning_rate=0.05, validate_every=4, patience=1)
    fit = trainer.fit(bilevel, generator=seeded(), validation=validation, folder=tmp_path)
    assert fit.steps < 60
    again = trainer.fit(
        bilevel, generator=seeded(), validation=validation, folder=tmp_path, progress=lambda *_: pytest.fail("stepped")
    )
    assert same(fit, again)


def interrupted(folder) -> None:
    with pytest.raises(Stop):
        Adam(steps=6, save_every=1).fit(problem(), generator=seeded(), folder=folder, progress=stopping(3))


@pytest.mark.parametrize(
    ("part", "fit"),
    [
        ("problem", lambda folder: Adam(steps=6, save_every=1).fit(problem(l2=0.2), generator=seeded(), folder=folder)),
        ("trainer", lambda folder: Adam(steps=7, save_every=1).fit(problem(), generator=seeded(), folder=folder)),
        ("seed", lambda folder: Adam(steps=6, save_every=1).fit(problem(), generator=seeded(1), folder=folder)),
        (
            "start",
            lambda folder: Adam(steps=6, save_every=1).fit(
                problem(), init=problem().learner.init_meta(seeded(4)), generator=seeded(), folder=folder
            ),
        ),
        (
            "weights",
            lambda folder: Adam(steps=6, save_every=1).fit(
                problem(), Weights.ones(tasks()).without("task", 1), generator=seeded(), folder=folder
            ),
        ),
    ],
)
def test_the_state_of_another_fit_is_refused_by_what_differs(part, fit, tmp_path):
    interrupted(tmp_path)
    with pytest.raises(StoreError, match=f"training.safetensors holds work of another study.*{part}: stored"):
        fit(tmp_path)


def test_another_validation_is_another_fit(tmp_path):
    trainer = Adam(steps=4, validate_every=2, save_every=1)
    trainer.fit(problem(), generator=seeded(), validation=tasks(3, seed=1), folder=tmp_path)
    with pytest.raises(StoreError, match="validation: stored"):
        trainer.fit(problem(), generator=seeded(), validation=tasks(3, seed=2), folder=tmp_path)


def test_other_shapes_are_refused_and_damage_starts_anew(tmp_path):
    interrupted(tmp_path)
    file = tmp_path / "training.safetensors"
    tensors, facts = load_tensors(file)
    like = torch.zeros(3, dtype=torch.float64)
    size = tensors["meta"].numel()
    with pytest.raises(StoreError, match=rf"holds \[{size}\] meta-parameters .* this learner has \[3\]"):
        mf.load_training(file, facts["identity"], like)
    with pytest.raises(StoreError, match=r"\(torch.float64\); this learner has .* \(torch.float32\)"):
        mf.load_training(file, facts["identity"], torch.zeros(size))
    without = {name: tensor for name, tensor in tensors.items() if name != "best"}
    save_tensors(file, without, facts)
    with pytest.warns(UserWarning, match=r"damaged.*'best'.*starts anew"):
        assert mf.load_training(file, facts["identity"], like) is None
    file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"damaged.*starts anew"):
        found = Adam(steps=6, save_every=1).fit(problem(), generator=seeded(), folder=tmp_path)
    assert torch.equal(found.meta, Adam(steps=6).fit(problem(), generator=seeded()).meta)


def test_the_state_is_tensors_and_json_and_replaces_the_last_whole(tmp_path, monkeypatch):
    interrupted(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["training.safetensors"]
    tensors, facts = load_tensors(tmp_path / "training.safetensors")
    assert facts["step"] == 3
    assert json.loads(json.dumps(facts)) == facts
    assert {"meta", "best", "generator", "optimiser.exp_avg", "optimiser.exp_avg_sq"} <= set(tensors)
    before = (tmp_path / "training.safetensors").read_bytes()

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(StoreError, match="cannot be written: disk full"):
        Adam(steps=6, save_every=1).fit(problem(), generator=seeded(), folder=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["training.safetensors"]
    assert (tmp_path / "training.safetensors").read_bytes() == before
