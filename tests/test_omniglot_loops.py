"""The loops on Omniglot in examples/: each runs to its end, and no wrong description of it is recorded."""

import importlib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import metafluence as mf

LOOPS = ("omniglot_maml", "omniglot_protonet", "omniglot_anil")
LIES = {
    "omniglot_maml": ({"rate": 0.3}, {"steps": 2}, {"first_order": True}),
    "omniglot_protonet": ({"temperature": 2.0},),
    "omniglot_anil": ({"rate": 0.4}, {"steps": 4}, {"first_order": True}),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:Running statistics"),
    pytest.mark.skipif(
        not (Path(os.environ.get("METAFLUENCE_DATA", "nowhere")) / "omniglot").is_dir(),
        reason="METAFLUENCE_DATA names no folder with omniglot",
    ),
]


@pytest.fixture
def loop(request, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    return importlib.import_module(request.param)


@pytest.fixture
def short(loop, monkeypatch):
    """Its training on a few small episodes."""
    for name, value in (("BATCH", 1), ("QUERIES", 2)):
        monkeypatch.setattr(loop, name, value, raising=False)
    return partial(loop.train, loop.read_files(loop.TRAIN, loop.WAYS), 3, 2)


@pytest.mark.parametrize("loop", LOOPS, indirect=True)
def test_a_loop_is_recorded_and_scored_at_all_levels(loop, capsys):
    loop.main(steps=3, width=2, classes=8, tasks=4)
    said = capsys.readouterr().out
    assert said.split()[1] == "accuracy"
    assert [said.count(f"{level}, lowest by ") for level in ("task", "support", "query", "class")] == [2] * 4
    assert said.count("AUROC of the wrong images") == 2
    assert "all 8 wrong ones" in said


@pytest.mark.parametrize(("loop", "lie"), [(name, lie) for name in LOOPS for lie in LIES[name]], indirect=["loop"])
def test_a_wrong_description_is_found_and_named(short, lie, tmp_path):
    def record(folder, learner, optimiser):
        return mf.record(folder, replace(learner, **lie), optimiser)

    (name,) = lie
    with pytest.raises(mf.InputError, match=f"At step 1 .* With {name}=.* that is what the loop does"):
        short(tmp_path, record)


@pytest.mark.parametrize("loop", [*LOOPS[:2], pytest.param(LOOPS[2], marks=pytest.mark.slow)], indirect=True)
def test_evaluation_mode_is_found(loop, short, tmp_path, monkeypatch):
    network = loop.conv4
    monkeypatch.setattr(loop, "conv4", lambda *given: network(*given).eval())
    with pytest.raises(mf.InputError, match=r"At step 1 .* evaluation mode"):
        short(tmp_path)
