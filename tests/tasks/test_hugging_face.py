"""Images of Hugging Face's `datasets`: pixels, labels and names of the rows; what is no table of images is refused."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import metafluence as mf
from metafluence import DataError
from refusals import refused


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(mf.InputError, match=r"pip install 'metafluence\[hugging-face\]'"):
        mf.build("dataset", "hugging-face", path=str(tmp_path)).load()


datasets = pytest.importorskip("datasets")
hugging_face = pytest.importorskip("metafluence_plugins.datasets.hugging_face")
from_hugging_face = hugging_face.from_hugging_face


def picture(value: int, side: int = 4) -> Image.Image:
    return Image.fromarray(np.full((side, side, 3), value, dtype=np.uint8))


def table(values: list[Any], labels: list[Any], names: list[str] | None = None) -> Any:
    columns = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=names) if names else datasets.Value("string"),
    }
    return datasets.Dataset.from_dict({"image": values, "label": labels}, features=datasets.Features(columns))


def made(each: int = 6) -> Any:
    """Four classes; the value of a pixel is its row's number times 8."""
    return table([picture(8 * i) for i in range(4 * each)], [i // each for i in range(4 * each)], list("wxyz"))


def test_rows_are_images_with_their_classes_and_names():
    data = from_hugging_face(made(), size=2)
    assert data.classes == ("w", "x", "y", "z")
    assert data.labels.tolist() == [i // 6 for i in range(24)]
    assert data.names[:3] == ("row-0", "row-1", "row-2")
    drawn = data.inputs[torch.tensor([7, 3])]
    assert drawn.dtype == torch.uint8
    assert drawn.shape == (2, 3, 2, 2)
    assert drawn.unique(dim=2)[:, :, 0, 0].tolist() == [[56] * 3, [24] * 3]
    assert from_hugging_face(made(), colour="grey", size=2).inputs[torch.tensor([7])].shape == (1, 1, 2, 2)


def test_shuffled_and_selected_rows_are_those_of_the_table():
    shuffled = made().shuffle(seed=0).select(range(5))
    data = from_hugging_face(shuffled, size=4)
    expected = [np.asarray(row["image"])[0, 0, 0] for row in shuffled]
    assert data.inputs[torch.arange(5)][:, 0, 0, 0].tolist() == expected
    assert data.labels.tolist() == shuffled["label"][:]


def test_scores_of_images_name_rows_and_files(tmp_path):
    """Oracle: where a task says an instance is from, there are its pixels."""
    for i in range(24):
        picture(8 * i).save(tmp_path / f"{i}.png")
    files = [str(tmp_path / f"{i}.png") for i in range(24)]
    named = from_hugging_face(table(files, [f"c{i // 6}" for i in range(24)]), size=4)
    assert named.names == tuple(files)
    assert named.classes == ("c0", "c1", "c2", "c3")
    for data, number in ((named, lambda name: int(Path(name).stem)), (from_hugging_face(made(), size=4), row_of)):
        sizes: dict[str, Any] = {"train": 3, "validation": 1, "test": 1, "way": 2, "shot": 1, "query": 1}
        episodes = mf.Episodes(**sizes, split="instances", shares=(0.3, 0.35, 0.35))
        tasks = mf.sample(data, episodes, torch.Generator().manual_seed(0), torch.float64).train
        assert tasks.origins is not None
        for i, j in np.ndindex(*tasks.origins.query.shape):
            row = number(tasks.origins.images[tasks.origins.query[i, j]])
            assert round(float(tasks.query.inputs[i, j, 0, 0, 0]) * 255) == 8 * row


def row_of(name: str) -> int:
    return int(name.removeprefix("row-"))


def test_files_of_one_name_are_called_by_their_rows():
    """As in a table of Parquet files, which keep the last part of the path only."""
    held = made().cast_column("image", datasets.Image(decode=False))
    same = [{"bytes": row["image"]["bytes"], "path": "0001.png"} for row in held]
    data = from_hugging_face(table(same, ["a", "b"] * 12))
    assert data.names[:2] == ("row-0", "row-1")


def test_a_folder_of_save_to_disk_is_a_data_set_of_studies(tmp_path):
    made().save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=made(), test=made(2)).save_to_disk(tmp_path / "two")
    one = mf.build("dataset", "hugging-face", path="one", root=str(tmp_path), size=2).load()
    two = mf.build("dataset", "hugging-face", path="two", part="test", root=str(tmp_path), size=2).load()
    assert (len(one.labels), len(two.labels)) == (24, 8)
    assert torch.equal(one.inputs[torch.arange(3)], from_hugging_face(made(), size=2).inputs[torch.arange(3)])
    for path, part, message in (
        ("two", None, r"Give a datasets.Dataset, one of train, test: dataset\[NAME\]"),
        ("two", "val", "has no part 'val'; its parts: train, test"),
        ("one", "train", "has no part 'train'; its parts: none"),
        ("three", None, "holds no data set of `save_to_disk`"),
    ):
        with refused(message, DataError):
            mf.build("dataset", "hugging-face", path=path, part=part, root=str(tmp_path)).load()


def test_what_is_no_table_of_images_is_refused():
    whole = made()
    for given, named, message in (
        ([1, 2], {}, "A list is no table of images"),
        (whole.to_iterable_dataset(), {}, "A IterableDataset is no table of images"),
        (whole, {"image": "img"}, "no column 'img'; it has image, label"),
        (whole, {"image": "label"}, "The column 'label' is ClassLabel"),
        (table([picture(1)], [None]), {}, "Row 0 has no label"),
    ):
        with refused(message, DataError):
            from_hugging_face(given, **named)
    with refused("Row 1 has no image", DataError):
        from_hugging_face(table([picture(1), None], ["a", "b"])).inputs[torch.tensor([1])]
