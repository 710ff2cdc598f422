"""A store that is damaged, or whose study is killed, ends with the results of one that was left alone, and says why.

The quick form tries a few damages; the slow one many, and kills at random moments.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

import metafluence as mf
from metafluence.studies.comparison import Comparing, open_stores

SHARED = {
    "dataset": "digits",
    "episodes": {"train": 6, "validation": 3, "test": 3, "way": 2, "shot": 2, "query": 2, "split": "instances"},
    "certificate": False,
    "executor": "serial",
}
MINIMUM = {
    **SHARED,
    "name": "minimum",
    "corruption": {"kind": "query-labels", "fraction": 0.4, "strength": 0.7},
    "learner": {"use": "logistic-head", "backbone": {"use": "mlp", "hidden": [2]}, "penalty": 0.5},
    "l2": 1.0,
    "methods": ["retrain", "task-if", "tracin"],
    "checkpoints": {"use": "sgd", "steps": 8, "batch": 4, "checkpoints": 2},
    "truth": {"items": 3, "subsets": 2},
    "remove": [0.4],
}
RUN = {
    **SHARED,
    "name": "run",
    "learner": {"use": "protonet", "backbone": {"use": "mlp", "hidden": [2], "activation": "tanh"}},
    "l2": 1e-3,
    "trainer": {"use": "adam", "steps": 9, "batch": 4, "save_every": 2},
    "methods": ["run-influence", "retrain"],
    "truth": {"kind": "run", "items": 3, "subsets": 2},
    "remove": [0.4],
}
STUDIES = {"minimum": MINIMUM, "run": RUN}
MEASURED = ("seconds", "change_seconds", "edit_seconds", "retrain_seconds")


def run(raw: dict, folder: Path) -> tuple[pd.DataFrame, str]:
    """The rows of a study but for seconds, and all that was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work = Comparing(mf.parse_comparison(raw), mf.default_registry(), folder)
        outcomes = work.run(lambda *_: None)
    rows = pd.DataFrame([{**line.row.facts(), "seed": one.seed} for one in outcomes for line in one.lines])
    said = [*(str(w.message) for w in caught), *(sentence for one in outcomes for sentence in one.warnings)]
    return rows.drop(columns=[name for name in MEASURED if name in rows]).drop(columns="notes"), " ".join(said)


@dataclass(frozen=True)
class Whole:
    """A finished study, and one of the same form with another seed."""

    raw: dict
    store: Path
    rows: pd.DataFrame
    other: Path


@pytest.fixture(scope="module", params=[pytest.param("minimum", marks=pytest.mark.slow), "run"])
def whole(request, tmp_path_factory) -> Whole:
    folder = tmp_path_factory.mktemp(request.param)
    raw = STUDIES[request.param]
    rows, said = run(raw, folder / "store")
    assert "computed again" not in said
    run({**raw, "l2": raw["l2"] * 2}, folder / "other")
    return Whole(raw, folder / "store", rows, folder / "other")


def digit(file: Path, draw: random.Random) -> None:
    """Another digit in the place of one."""
    content = bytearray(file.read_bytes())
    places = [i for i, byte in enumerate(content) if chr(byte).isdigit()]
    if places:
        where = draw.choice(places)
        content[where] = ord(draw.choice([c for c in "0123456789" if ord(c) != content[where]]))
    file.write_bytes(content)


def flip(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    where = draw.randrange(8 * len(content))
    content[where // 8] ^= 1 << where % 8
    file.write_bytes(content)


def damage(store: Path, other: Path, draw: random.Random) -> tuple[str, Path]:
    """Do something bad to a stored file. Returns what, and the file."""
    files = sorted(file for file in store.rglob("*") if file.suffix in (".json", ".safetensors"))
    file = draw.choice(files)
    alike = [one for one in files if one.suffix == file.suffix and one.read_bytes() != file.read_bytes()]
    theirs = [one for one in sorted(other.rglob(f"*{file.suffix}")) if one.name == file.name]
    kinds = ["flip", "truncate", "delete", "digit", "empty"]
    kind = draw.choice([*kinds, *(["swap"] if alike else []), *(["foreign"] if theirs else [])])
    if kind == "flip":
        flip(file, draw)
    elif kind == "digit":
        digit(file, draw)
    elif kind == "truncate":
        file.write_bytes(file.read_bytes()[: draw.randrange(1, len(file.read_bytes()))])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "delete":
        file.unlink()
    elif kind == "swap":
        one = draw.choice(alike)
        mine, yours = file.read_bytes(), one.read_bytes()
        file.write_bytes(yours)
        one.write_bytes(mine)
    else:
        file.write_bytes(draw.choice(theirs).read_bytes())
    return kind, file


def try_damages(whole: Whole, place: Path, seeds: range) -> dict[str, int]:
    """Damage a copy of the store once for each seed and run the study again; how often it was said, and how not."""
    counts = {"named": 0, "unnoticed and equal": 0}
    for seed in seeds:
        draw = random.Random(seed)
        store = place / str(seed)
        shutil.copytree(whole.store, store)
        kind, file = damage(store, whole.other, draw)
        what = f"seed {seed}: {kind} of {file.relative_to(store)}"
        rows, said = run(whole.raw, store)
        pd.testing.assert_frame_equal(rows, whole.rows, check_exact=True, obj=what)
        (opened,) = open_stores([store])
        assert not opened.missing, what
        counts["named" if file.name in said else "unnoticed and equal"] += 1
        shutil.rmtree(store)
    return counts


def test_damage_is_named_or_changes_nothing(whole, tmp_path):
    counts = try_damages(whole, tmp_path, range(4))
    assert sum(counts.values()) == 4


@pytest.mark.slow
def test_many_damages_are_named_or_change_nothing(whole, tmp_path):
    counts = try_damages(whole, tmp_path, range(100, 150))
    print(json.dumps(counts))
    assert counts["named"] >= 20, "most damages are seen, not only harmless"


def test_every_stored_tensor_file_notices_a_flipped_bit(whole, tmp_path):
    """Of each file by itself: the study names it, or does not read it, and ends in the same numbers."""
    files = sorted(whole.store.rglob("*.safetensors"))
    assert len(files) > 5
    store = tmp_path / "store"
    shutil.copytree(whole.store, store)
    draw = random.Random(0)
    for file in files:
        flip(store / file.relative_to(whole.store), draw)
    rows, said = run(whole.raw, store)
    pd.testing.assert_frame_equal(rows, whole.rows, check_exact=True)
    assert said.count("damaged") >= 2


@pytest.mark.slow
def test_a_study_killed_at_random_moments_ends_as_if_left_alone(whole, tmp_path):
    """50 kills: each study is killed until it has been three times, or is finished."""
    begun = time.monotonic()
    run(whole.raw, tmp_path / "timed")
    length = time.monotonic() - begun
    fork = multiprocessing.get_context("fork")
    draw, kills, seed = random.Random(0), 0, 0
    while kills < 50:
        store = tmp_path / str(seed)
        seed += 1
        for _ in range(3):
            process = fork.Process(target=run, args=(whole.raw, store))
            process.start()
            process.join(draw.uniform(0, length))
            if process.is_alive():
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.join()
        rows, _ = run(whole.raw, store)
        pd.testing.assert_frame_equal(rows, whole.rows, check_exact=True, obj=f"store {seed - 1}")
        assert not list(store.rglob(".*")), "no temporary file is left behind"
    print(f"{kills} kills of {seed} studies")
