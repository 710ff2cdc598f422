"""Stored work says what it is, and damage to it is noticed: flipped bits, moved files, facts changed by hand."""

import json

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file

from metafluence import StoreError
from metafluence.runtime import Shelf, folder_of, load_facts, load_tensors, save_facts, save_tensors

TENSORS = {"meta": torch.arange(6, dtype=torch.float64), "marks": torch.tensor([True, False])}
FACTS = {"seconds": 1.5, "items": [1, 2], "reason": "none"}


@given(data=st.data())
@settings(max_examples=60)
def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("bits") / "work.safetensors"
    save_tensors(file, TENSORS, FACTS, "a fit")
    content = bytearray(file.read_bytes())
    where = data.draw(st.integers(0, 8 * len(content) - 1), label="bit")
    content[where // 8] ^= 1 << where % 8
    file.write_bytes(content)
    try:
        tensors, facts = load_tensors(file, "a fit")
    except StoreError:
        return
    assert facts == FACTS
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_a_piece_is_itself_wherever_it_was_put(tmp_path):
    told: list[str] = []
    shelf = Shelf(tmp_path, "study one", told.append)
    shelf.keep("bank/task-1", TENSORS, FACTS)
    found = shelf.find("bank/task-1")
    assert found is not None
    assert found[1] == FACTS
    assert shelf.find("bank/task-2") is None
    assert not told
    file = tmp_path / "bank" / "task-1.safetensors"
    (tmp_path / "bank" / "task-2.safetensors").write_bytes(file.read_bytes())
    assert shelf.find("bank/task-2") is None
    assert "holds other work (study one bank/task-1, not study one bank/task-2)" in told.pop()
    assert Shelf(tmp_path, "study two", told.append).find("bank/task-1") is None
    assert "holds other work" in told.pop()
    file.write_bytes(b"")
    assert shelf.find("bank/task-1") is None
    assert told.pop().endswith("It is computed again.")


def test_files_of_versions_without_checksums_are_read(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps(FACTS))
    assert load_facts(tmp_path / "old.json") == FACTS
    save_file(TENSORS, tmp_path / "old.safetensors", {"facts": json.dumps(FACTS)})
    tensors, facts = load_tensors(tmp_path / "old.safetensors", "anything")
    assert facts == FACTS
    assert torch.equal(tensors["meta"], TENSORS["meta"])


@pytest.mark.parametrize(
    ("old", "new"),
    [("1.5", "1.6"), ("none", "some"), ("[", "{"), ('"checksum"', '"sum"')],
    ids=["digit", "word", "syntax", "key"],
)
def test_facts_changed_by_hand_are_noticed(tmp_path, old, new):
    file = tmp_path / "study.json"
    save_facts(file, FACTS)
    assert load_facts(file) == FACTS
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(StoreError, match=r"study\.json"):
        load_facts(file)


def test_other_work_gets_a_folder_of_its_own(tmp_path):
    told: list[str] = []
    one, two = {"learner": "a", "seed": "0"}, {"learner": "b", "seed": "0"}
    assert folder_of(tmp_path, one, told.append) == tmp_path
    assert folder_of(tmp_path, one, told.append) == tmp_path
    assert not told
    other = folder_of(tmp_path, two, told.append)
    assert other.parent == tmp_path
    assert "made with another learner: settings, code or data changed" in told[0]
    assert folder_of(tmp_path, two, told.append) == other
    assert folder_of(tmp_path, one, told.append) == tmp_path
    assert len(told) == 1, "what changed is said once"


def test_a_checksum_that_lost_its_name_is_damage(tmp_path):
    file = tmp_path / "work.safetensors"
    save_tensors(file, TENSORS, FACTS, "a fit")
    file.write_bytes(file.read_bytes().replace(b'"checksum"', b'"chfcksum"'))
    with pytest.raises(StoreError, match=r"work\.safetensors is damaged"):
        load_tensors(file, "a fit")


def test_a_damaged_manifest_is_said_and_written_again(tmp_path):
    told: list[str] = []
    identity = {"learner": "a"}
    assert folder_of(tmp_path, identity, told.append) == tmp_path
    (tmp_path / "manifest.json").write_text("{")
    assert folder_of(tmp_path, identity, told.append) == tmp_path
    assert "manifest.json is damaged" in told[0]
    assert "It is written again" in told[0]
    assert load_facts(tmp_path / "manifest.json") == identity


def test_a_disk_that_refuses_is_a_sentence(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(StoreError, match=r"facts\.json cannot be written: No space left on device. Free the disk"):
        save_facts(tmp_path / "facts.json", FACTS)
    assert not list(tmp_path.iterdir())
