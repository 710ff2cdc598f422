"""Images that csv files or a JSON file list."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import metafluence as mf
from metafluence import DataError


def save(file: Path, value: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(file)


def lists(folder: Path, comma: str = ",") -> None:
    for part, classes in {"train": "ab", "val": "c", "test": "d"}.items():
        rows = [f"{label}/{i}.png,{label}" for label in classes for i in range(2)]
        (folder / f"{part}.csv").write_text("\n".join(["filename,label", *rows]).replace(",", comma))
        for row in rows:
            save(folder / "images" / row.partition(",")[0], ord(row[-1]))


@pytest.mark.parametrize("comma", [",", "   , "])
def test_lists_of_libfewshot(tmp_path, comma):
    (tmp_path / "set").mkdir()
    lists(tmp_path / "set", comma)
    data = mf.build("dataset", "image-lists", path="set", root=str(tmp_path), size=2, colour="grey").load()
    assert data.classes == ("a", "b", "c", "d")
    assert data.splits == (range(2), range(2, 3), range(3, 4))
    assert data.names[2] == "b/0.png"
    assert data.inputs[torch.tensor([0, 7])][:, 0, 0, 0].tolist() == [ord("a"), ord("d")]


def test_lists_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(DataError, match=r"There is no .*train\.csv"):
        mf.build("dataset", "image-lists", path=".", root=str(tmp_path)).load()
    lists(tmp_path)
    (tmp_path / "val.csv").write_text("file,label\na.png,c")
    with pytest.raises(DataError, match="its first line needs filename and label"):
        mf.build("dataset", "image-lists", path=".", root=str(tmp_path)).load()


def specs(folder: Path, name: str, classes: str, **changes) -> None:
    for label in classes:
        save(folder / "pictures" / label / "1.png", ord(label))
    content = {"class_names": list(classes), "class_roots": [f"pictures/{label}" for label in classes]}
    (folder / f"{name}.json").write_text(json.dumps({**content, **changes}))


def test_specs_of_easyfsl(tmp_path):
    specs(tmp_path, "train", "ba")
    one = mf.build("dataset", "easy-set", path="train.json", root=str(tmp_path), size=2, colour="grey").load()
    assert (one.classes, one.splits, one.names) == (("b", "a"), None, ("pictures/b/1.png", "pictures/a/1.png"))
    assert one.inputs[torch.tensor([0, 1])][:, 0, 0, 0].tolist() == [ord("b"), ord("a")]
    specs(tmp_path, "val", "c")
    specs(tmp_path, "test", "d")
    every = mf.build("dataset", "easy-set", path=".", root=str(tmp_path)).load()
    assert (every.classes, every.splits) == (("b", "a", "c", "d"), (range(2), range(2, 3), range(3, 4)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"class_names": ["a"]}, "1 class_names, 1 of them different, and 2 class_roots"),
        ({"class_names": ["a", "a"]}, "2 class_names, 1 of them different"),
        ({"class_roots": ["pictures/a", "nowhere"]}, "no images in .*nowhere, the folder of 'b'"),
    ],
)
def test_specs_that_do_not_fit_are_named(tmp_path, changes, sentence):
    specs(tmp_path, "one", "ab", **changes)
    with pytest.raises(DataError, match=sentence):
        mf.build("dataset", "easy-set", path="one.json", root=str(tmp_path)).load()


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON"])
def test_what_is_no_specs_file_is_named(tmp_path, text):
    (tmp_path / "one.json").write_text(text)
    with pytest.raises(DataError, match=r"one\.json cannot be read as"):
        mf.build("dataset", "easy-set", path="one.json", root=str(tmp_path)).load()
    with pytest.raises(DataError, match="There is no file"):
        mf.build("dataset", "easy-set", path="two.json", root=str(tmp_path)).load()
