"""Episodes of other libraries, on objects of the form that these document."""

import gzip
import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import metafluence as mf
from metafluence import DataError, InputError

LEARNER = mf.build("learner", "maml", backbone=torch.nn.Linear(1, 2), steps=1, rate=0.1)
GENERATOR = torch.Generator().manual_seed(0)


def numbered(labels: torch.Tensor, start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Instances whose one feature is their number."""
    return torch.arange(start, start + len(labels)).float().unsqueeze(1), labels


def seen(batch: mf.Batch) -> list[list[int]]:
    return batch.inputs.squeeze(-1).int().tolist()


def test_pairs_of_batches_and_of_tensors():
    pairs = [(numbered(torch.tensor([0, 1])), mf.Batch(*numbered(torch.tensor([1, 0, 1]), 2)))] * 3
    tasks = mf.from_pairs(iter(pairs), 2, name="mine")
    assert tasks.ids == ("mine-0", "mine-1")
    assert (seen(tasks.support), seen(tasks.query)) == ([[0, 1]] * 2, [[2, 3, 4]] * 2)
    assert len(mf.from_pairs(pairs)) == 3


class Episodes(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        return numbered(torch.tensor([0, 1]), 10 * i), numbered(torch.tensor([0, 1]), 10 * i + 2)


def test_a_data_loader_of_episodes():
    tasks = mf.from_pairs(DataLoader(Episodes(), batch_size=None), 4)
    assert seen(tasks.query) == [[2, 3], [12, 13], [22, 23], [32, 33]]


def test_torchmeta():
    class Loader:  # as a BatchMetaDataLoader collates: two tasks a batch, without end
        def __iter__(self):
            while True:
                halves = zip(*(Episodes()[i] for i in range(2)), strict=True)
                yield {
                    name: [torch.stack(parts) for parts in zip(*half, strict=True)]
                    for name, half in zip(("train", "test"), halves, strict=True)
                }

    tasks = mf.from_torchmeta(Loader(), 3)
    assert (seen(tasks.support), seen(tasks.query)) == ([[0, 1], [10, 11], [0, 1]], [[2, 3], [12, 13], [2, 3]])
    assert len(mf.from_torchmeta(next(iter(Loader())))) == 2


class Taskset:
    """Two classes of four instances, class after class, as KShots(4) gives them; num_tasks −1 has no end."""

    def __init__(self, num_tasks):
        self.num_tasks, self.drawn = num_tasks, 0

    def __iter__(self):
        self.drawn = 0
        return self

    def __next__(self):
        if self.drawn == self.num_tasks:
            raise StopIteration
        self.drawn += 1
        return numbered(torch.arange(2).repeat_interleave(4))


def test_learn2learn_splits_as_its_examples_do():
    adapting = np.zeros(8, dtype=bool)
    adapting[np.arange(2 * 2) * 2] = True  # the index of its examples of MAML and ANIL, for 2 shots and 2 ways
    tasks = mf.from_learn2learn(Taskset(3), shots=2)
    assert len(tasks) == 3
    assert seen(tasks.support)[0] == np.arange(8)[adapting].tolist()
    assert seen(tasks.query)[0] == np.arange(8)[~adapting].tolist()
    assert tasks.support.targets[0].tolist() == [0, 0, 1, 1]
    with pytest.raises(InputError, match="no instance to adapt on"):  # the first 2 · 1 · 2 instances are of one class
        mf.BilevelProblem(LEARNER, mf.from_learn2learn(Taskset(1), shots=1), 0.1, mf.build("solver", "cg"))


def test_learn2learn_per_class():
    data, labels = numbered(torch.tensor([1, 0, 1, 0, 0, 1]))
    tasks = mf.from_learn2learn(DataLoader([(data, labels)], batch_size=1), shots=1, split="per-class")
    assert (seen(tasks.support), seen(tasks.query)) == ([[1, 0]], [[3, 4, 2, 5]])
    assert tasks.query.targets.tolist() == [[0, 0, 1, 1]]


def test_learn2learn_without_end_needs_a_count():
    assert len(mf.from_learn2learn(Taskset(-1), shots=2, count=5)) == 5
    with pytest.raises(InputError, match=r"no end\. Give count"):
        mf.from_learn2learn(Taskset(-1), shots=2)


def test_easyfsl():
    support, query = numbered(torch.tensor([0, 1])), numbered(torch.tensor([0, 1, 1]), 2)
    tasks = mf.from_easyfsl([(*support, *query, [7, 3])] * 2)
    assert (seen(tasks.support), seen(tasks.query)) == ([[0, 1]] * 2, [[2, 3, 4]] * 2)


HALF = numbered(torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("read", "sentence"),
    [
        (lambda: mf.from_pairs([HALF[0]]), "not an episode: Tensor. Give"),
        (lambda: mf.from_pairs([(HALF, HALF, HALF)]), "a tuple of tuple, tuple, tuple"),
        (lambda: mf.from_pairs([(HALF, (HALF[0], [0, 1]))]), "not a query: a tuple of Tensor, list"),
        (lambda: mf.from_pairs([(HALF, HALF)], 2), "There are 1 tasks, fewer than the 2"),
        (lambda: mf.from_pairs([(HALF, HALF)], 0), "count is 0"),
        (lambda: mf.from_pairs([]), "There is no task"),
        (lambda: mf.from_torchmeta([{"train": HALF}]), "dict with train. Give"),
        (lambda: mf.from_torchmeta([{"train": HALF, "test": (HALF[0][:1], HALF[1])}]), "as many tasks in both"),
        (lambda: mf.from_easyfsl([HALF]), "not a batch of easyfsl"),
        (lambda: mf.from_learn2learn([HALF], shots=1, split="per-class"), "none left to evaluate"),
        (lambda: mf.from_learn2learn([(HALF[0], HALF[0])], shots=1), r"\(data \[n, ...\], labels \[n\]\)"),
    ],
)
def test_other_forms_are_said(read, sentence):
    with pytest.raises(InputError, match=sentence):
        read()


def write(file, active: int, inactive: int, **changes) -> str:
    """A file of FS-Mol: the label stands in the first entry of the fingerprint, the molecule's number in the second."""
    with gzip.open(file, "wt") as stream:
        for i in range(active + inactive):
            line = {
                "SMILES": "C" * (i + 1), "Property": f"{float(i < active)}", "Assay_ID": "CHEMBL1",
                "RegressionProperty": f"{i / 2}", "LogRegressionProperty": 5.5 + i,
                "fingerprints": [int(i < active), i], "descriptors": [i / 10, 1.0, 2.0],
            }  # fmt: skip
            stream.write(json.dumps({**line, **changes}) + "\n")
    return str(file)


def test_fs_mol(tmp_path):
    files = [write(tmp_path / "CHEMBL1.jsonl.gz", 6, 6), write(tmp_path / "CHEMBL2.jsonl.gz", 1, 20)]
    tasks = mf.from_fs_mol(files, 4, GENERATOR)
    assert tasks.ids == ("CHEMBL1", "CHEMBL2")
    assert tasks.counts is not None
    assert tasks.counts.tolist() == [[4, 8], [4, 17]]
    assert tasks.support.targets.sum(dim=1).tolist() == [2, 1]
    for i, total in enumerate((12, 21)):
        halves = [half[i][tasks.held(name)[i]] for name, half in (("support", tasks.support), ("query", tasks.query))]
        for half in halves:
            assert half.inputs[:, 0].long().equal(half.targets)
        assert sorted(torch.cat([half.inputs[:, 1] for half in halves]).tolist()) == list(range(total))


def test_fs_mol_with_values(tmp_path):
    file = write(tmp_path / "CHEMBL1.jsonl.gz", 3, 3)
    tasks = mf.from_fs_mol([file], 2, GENERATOR, "descriptors", "LogRegressionProperty", torch.float64)
    assert tasks.real
    assert torch.allclose(tasks.query.targets[..., 0], 5.5 + 10 * tasks.query.inputs[..., 0])
    tasks = mf.from_fs_mol([file], 2, GENERATOR, targets="RegressionProperty")
    assert torch.allclose(tasks.query.targets[..., 0], tasks.query.inputs[..., 1] / 2)


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        ({"fingerprints": None}, {}, "line 1 has no fingerprints"),
        ({"Property": "0.5"}, {}, "line 1 has Property '0.5'"),
        ({"LogRegressionProperty": "NaN"}, {"targets": "LogRegressionProperty"}, "has LogRegressionProperty 'NaN'"),
        ({"Property": "1.0"}, {}, "'bad' has 6 active and 0 inactive molecules"),
        ({}, {"support": 6}, "has 6 molecules; support is 6"),
        ({}, {"support": 1}, "Both classes need"),
    ],
)
def test_files_of_fs_mol_that_do_not_fit_are_named(tmp_path, changes, options, sentence):
    file = write(tmp_path / "bad.jsonl.gz", 3, 3, **changes)
    with pytest.raises(InputError, match=sentence):
        mf.from_fs_mol([file], generator=GENERATOR, **{"support": 2, **options})


def test_what_is_no_file_of_fs_mol_is_named(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(b"no archive")
    for name in ("a", "none"):
        with pytest.raises(DataError, match=f"{name}.jsonl.gz cannot be read"):
            mf.from_fs_mol([tmp_path / f"{name}.jsonl.gz"], 2, GENERATOR)


def test_labelled_rows():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": [0, 1, 2]}, index=["x", "y", "z"])
    data = mf.Labelled.from_frame(frame, pandas.Series(["dog", "cat", "dog"]), names=frame.index)
    assert (data.classes, data.labels.tolist(), data.names) == (("cat", "dog"), [1, 0, 1], ("x", "y", "z"))
    assert data.draw(torch.tensor([1]), torch.float64).tolist() == [[2.0, 1.0]]
    small = mf.Labelled.from_frame(np.full((4, 2), 200, dtype=np.uint8), [3, 1, 3, 1])
    assert small.draw(torch.tensor([0]), torch.float32).tolist() == [[200.0, 200.0]], "no pixels"
    assert mf.Labelled.from_frame(torch.ones(2, 3), torch.tensor([5, 2])).classes == ("2", "5")


@pytest.mark.parametrize(
    ("features", "labels", "sentence"),
    [
        ([["a"], ["b"]], [0, 1], "are no numbers"),
        ([1.0, 2.0], [0, 1], r"have shape \[2\], the labels \[2\]"),
        ([[1.0], [float("nan")]], [0, 1], "Row 1 of the features"),
        ([[1.0], [2.0]], ["a", None], "A label is missing"),
        ([[1.0], [2.0]], [1.0, float("nan")], "A label is missing"),
        ([[1.0], [2.0]], [1], "2 inputs but 1 labels"),
    ],
)
def test_rows_that_are_no_data_set_are_refused(features, labels, sentence):
    with pytest.raises(DataError, match=sentence):
        mf.Labelled.from_frame(features, labels)


def test_learn2learn_s_splits_that_cannot_be_are_refused():
    inputs, labels = torch.arange(8.0).reshape(8, 1).repeat(1, 4), torch.arange(2).repeat_interleave(4)
    with pytest.raises(InputError, match=r"split is 'per_class'\. Give 'alternate' or 'per-class'"):
        mf.from_learn2learn([(inputs, labels)], shots=2, split="per_class")
    with pytest.raises(InputError, match="With 1 shots and split 'alternate' the class 1 of a task has no instance"):
        mf.from_learn2learn([(inputs, labels)], shots=1)
    with pytest.raises(mf.InputError, match=r"has no instance to adapt on\. Give the shots"):
        mf.from_learn2learn([(inputs, torch.arange(8) % 2)], shots=2)
