"""Banks: a study's retrainings, written, read as ground truth, and found wrong where they are."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import metafluence as mf
from metafluence.package_files import resource
from metafluence.studies.bank import ARRAYS, FACTS, fingerprint_of, save_bank
from metafluence.studies.bank_checks import _drawn
from small_studies import SEVERAL, changed, command

LEVELS = ["task", "query"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The store of a study of two variations and two levels."""
    folder = tmp_path_factory.mktemp("store")
    raw = {
        **SEVERAL,
        "vary": {},
        "seeds": 2,
        "levels": LEVELS,
        "truth": {"items": 2, "subsets": 1},
        "methods": ["loss"],
    }
    work = mf.Comparing(mf.parse_comparison(raw), mf.default_registry(), folder)
    work.run(lambda study, result, place: None)
    return folder


@pytest.fixture(scope="module")
def written(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    mf.write_bank(store, folder, mf.default_registry())
    return folder


@pytest.fixture
def bank(written, tmp_path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(written, tmp_path / "bank"))


def verify(folder: Path, items: int | None = None) -> mf.Verified:
    return mf.verify_bank(folder, mf.default_registry(), items)


@pytest.mark.slow
def test_it_is_verified_in_full(bank):
    found = verify(bank)
    assert found.made == found.of == 2 * 2 * (2 + 1)
    assert found.largest <= found.allowed < 1e-5
    assert not found.differing


def test_its_changes_are_exact_retraining(bank):
    """Against fits made here, from scratch, that know nothing of stores."""
    one = mf.load_bank(bank).variations[1]
    assert one.seed == 1
    for level in LEVELS:
        setting = mf.load_bank(bank).setting(one)
        table = one.table(level)
        assert table.shape == (2, 3)
        assert list(table.columns) == list(one.targets)
        item = int(table.index[1])
        weights = mf.Weights.ones(setting.problem.tasks).without(level, [item])
        fit = mf.build("trainer", "newton", tolerance=1e-10).fit(setting.problem, weights, setting.meta)
        true = setting.targets.losses(fit.meta) - setting.targets.losses()
        assert torch.allclose(torch.tensor(table.loc[item].to_numpy()), true, atol=1e-7)
        assert torch.allclose(one.levels[level].change[:, 1].double(), fit.meta - setting.meta, atol=1e-6)


def test_the_long_table_has_every_retraining_and_target(bank):
    found = mf.load_bank(bank)
    rows = found.changes
    assert list(rows.columns) == ["seed", "level", "items", "target", "change"]
    assert len(rows) == found.retrainings * 3
    assert sorted(rows["items"].map(len).unique()) == [1, 3, 18]
    one = rows[(rows["seed"] == 1) & (rows["level"] == "task") & (rows["items"].map(len) == 1)]
    wide = one.pivot(index="items", columns="target", values="change")
    assert wide.to_numpy() == pytest.approx(found.variations[1].table("task").to_numpy())


def test_a_method_is_judged_by_it_without_training(bank):
    found = mf.load_bank(bank)
    one = found.variations[0]
    setting, true = found.setting(one), one.table("task")
    method = mf.build("method", "task-if", solver="exact")
    scores = mf.attribute(method, setting.context("task"), setting.targets).values[list(true.index)]
    assert mf.score_agreement(scores.mean(dim=1).numpy(), true.mean(axis=1).to_numpy()).pearson > 0.8


def test_a_level_that_is_not_there_is_refused(bank):
    with pytest.raises(mf.InputError, match=r"no level 'support'\. Levels: task, query"):
        mf.load_bank(bank).variations[0].table("support")


@pytest.mark.parametrize("name", [FACTS, ARRAYS])
def test_a_damaged_file_is_found(bank, name):
    file = bank / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(mf.BankError, match=name):
        mf.load_bank(bank)


def test_a_file_that_is_gone_is_found(bank):
    (bank / ARRAYS).unlink()
    with pytest.raises(mf.BankError, match=ARRAYS):
        verify(bank)


def test_another_format_is_named(bank):
    facts = json.loads((bank / FACTS).read_text())
    (bank / FACTS).write_text(json.dumps({**facts, "format": 2}))
    with pytest.raises(mf.BankError, match="is of format 2, and this version of metafluence reads format 1"):
        verify(bank)


def forged(folder: Path, **changes) -> None:
    """The bank with other values in its second variation, and hashes that fit them."""
    bank = mf.load_bank(folder)
    first, second = bank.variations
    save_bank(replace(bank, variations=(first, replace(second, **changes))), folder)


@pytest.mark.parametrize("part", ["loss_change", "change"])
def test_an_edited_number_is_found_whatever_the_hashes_say(bank, part):
    one = mf.load_bank(bank).variations[1]
    values = getattr(one.levels["query"], part).clone()
    values[2, 1] += 1e-4
    forged(bank, levels={"query": replace(one.levels["query"], **{part: values})})
    mf.load_bank(bank)
    with pytest.raises(mf.BankError, match="seed 1: without query"):
        verify(bank)


def test_other_data_are_found(bank):
    one = mf.load_bank(bank).variations[1]
    forged(bank, fingerprints={**one.fingerprints, "train": "0" * 16})
    with pytest.raises(mf.BankError, match="seed 1: the training tasks are others than the bank's"):
        verify(bank, 1)


def test_data_drawn_another_way_are_found(bank, monkeypatch):
    registry = mf.default_registry()
    load = registry.load("dataset", "digits").load

    def brighter(self):
        data = load(self)
        return replace(data, inputs=data.inputs * 1.01)

    monkeypatch.setattr(registry.load("dataset", "digits"), "load", brighter)
    with pytest.raises(mf.BankError, match="seed 0: the training tasks are others"):
        verify(bank, 1)


def test_another_start_is_found(bank):
    one = mf.load_bank(bank).variations[1]
    moved = one.start + 1e-3
    forged(bank, start=moved, fingerprints={**one.fingerprints, "start": fingerprint_of(moved)})
    with pytest.raises(mf.BankError, match="of the bank is no minimum here"):
        verify(bank, 1)


def test_the_command_says_so_and_exits_with_one(store, tmp_path):
    done = command(tmp_path, "bank", "write", str(store), "--out", "bank")
    assert "12 retrainings in 2 variations" in done.stdout
    done = command(tmp_path, "bank", "verify", "bank", "--items", "2")
    assert done.returncode == 0
    assert "2 of 12 retrainings were made again" in done.stdout
    (tmp_path / "bank" / ARRAYS).write_bytes(b"")
    done = command(tmp_path, "bank", "verify", "bank")
    assert done.returncode == 1
    assert "sha256 differs" in done.stderr
    assert command(tmp_path, "bank", "verify", ".").returncode == 2


def test_what_is_no_finished_store_of_exact_retraining_is_refused(store, written, tmp_path):
    registry = mf.default_registry()
    with pytest.raises(mf.InputError, match="has a bank already"):
        mf.write_bank(store, written, registry)
    with pytest.raises(mf.StoreError, match="no store"):
        mf.write_bank(tmp_path, tmp_path / "bank", registry)
    raw = {**changed(truth=None, methods=["loss"], certificate=False)}
    work = mf.Comparing(mf.parse_comparison(raw), registry, tmp_path / "store")
    work.run(lambda study, result, place: None)
    with pytest.raises(mf.InputError, match="the truth of this study is 'none'"):
        mf.write_bank(tmp_path / "store", tmp_path / "bank", registry)
    lacking = Path(shutil.copytree(store, tmp_path / "lacking"))
    next((lacking / "outcomes").iterdir()).unlink()
    with pytest.raises(mf.InputError, match="is not finished"):
        mf.write_bank(lacking, tmp_path / "bank", registry)


def test_what_is_made_again_is_of_every_variation_and_level(bank):
    found = mf.load_bank(bank)
    drawn = _drawn(found, 4, 0)
    assert {(one.seed, level) for one, level, _ in drawn} == {(seed, level) for seed in (0, 1) for level in LEVELS}
    assert [i for *_, i in drawn] != [i for *_, i in _drawn(found, 4, 1)]
    assert len({(one.seed, level, i) for one, level, i in _drawn(found, None, 0)}) == found.retrainings


def test_other_versions_are_said_and_another_machine_is_no_matter(bank):
    found = mf.load_bank(bank)
    there = {**found.study, "device": "cuda:7", "executor": {"use": "dask", "address": "tcp://nowhere:1"}}
    save_bank(replace(found, study=there, versions={**found.versions, "torch": "1.0"}), bank)
    checked = mf.verify_bank(bank, mf.default_registry(), 1)
    assert checked.sentences()[-1] == f"The bank was made with other versions: torch 1.0 (now {torch.__version__})."


def test_other_code_of_one_s_own_is_found(bank):
    save_bank(replace(mf.load_bank(bank), code={"learner mine": "0" * 16}), bank)
    with pytest.raises(mf.BankError, match="code of learner mine is not that of the bank"):
        verify(bank, 1)


SHIPPED = Path(__file__).parents[2] / "banks" / "small-exact"


def test_the_shipped_bank_is_of_the_shipped_study():
    """A change of the study that changes its ground truth asks for a new bank."""
    bank = mf.load_bank(SHIPPED)
    study = mf.load_comparison(resource("studies/small-exact.yaml"))
    theirs = mf.parse_comparison(bank.study)
    for ours, banked in zip(study.variations, theirs.variations, strict=True):
        assert ours.work == banked.work
        assert ours.config.truth == banked.config.truth
        assert ours.config.levels == banked.config.levels
    assert bank.retrainings == 3 * (10 + 40 + 60 + 3 * 8)
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 500_000


@pytest.mark.slow
def test_the_shipped_bank_is_verified():
    assert mf.verify_bank(SHIPPED, mf.default_registry(), 9).largest < 1e-9
