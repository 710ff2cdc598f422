"""Data sets: every layout on small files made here, files that are wrong, and the real ones where they are at hand."""

import csv
import gzip
import io
import math
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

import metafluence as mf
from metafluence import DataError, Episodes, InputError, Labelled
from metafluence_plugins.datasets.images import Arrays, box_average
from metafluence_plugins.datasets.mnist import read_idx
from metafluence_plugins.datasets.pickles import load_pickle

RNG = np.random.default_rng(0)
TINY = Episodes(train=2, validation=2, test=2, way=2, shot=1, query=1, split="published")


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def load(name: str, root: Path, **options) -> Labelled:
    return mf.build("dataset", name, root=str(root), **options).load()


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def in_splits(data: Labelled) -> list[set[int]]:
    """For each published split, the classes that its tasks are drawn from."""
    assert data.splits is not None
    return [set(part) for part in data.splits]


def classes_drawn(data: Labelled, seed: int) -> list[set[int]]:
    """The same, seen in the tasks: every input is its class's number."""
    marked = Labelled(data.labels.double().unsqueeze(1), data.labels, data.classes, data.splits)
    drawn = mf.sample(marked, TINY, gen(seed), torch.float64)
    sets = (drawn.train, drawn.validation, drawn.test)
    return [{int(v) for half in (s.support, s.query) for v in half.inputs.flatten()} for s in sets]


# What a labelled data set is


def test_8_bit_inputs_are_scaled_when_drawn_and_held_in_8_bits():
    inputs = torch.arange(0, 240, 2, dtype=torch.uint8).reshape(60, 2)
    data = Labelled(inputs, torch.arange(3).repeat_interleave(20), tuple("abc"))
    drawn = mf.sample(data, Episodes(2, 1, 1, 2, 2, 2, split="instances"), gen(), torch.float64).train
    assert data.inputs.nbytes == 120
    found = (drawn.support.inputs * 255).round()
    assert float((drawn.support.inputs * 255 - found).abs().max()) < 1e-12
    assert {int(v) for v in found.flatten()} <= set(inputs.flatten().tolist())


def test_a_class_in_two_splits_and_unequal_numbers_are_refused():
    with pytest.raises(DataError, match="class 'b' is in the published splits twice"):
        Labelled(torch.zeros(2, 1), torch.tensor([0, 1]), ("a", "b"), ([0, 1], [1], []))
    with pytest.raises(DataError, match="3 inputs but 2 labels"):
        Labelled(torch.zeros(3, 1), torch.tensor([0, 1]), ("a", "b"))


@given(st.integers(0, 2**31 - 1))
def test_published_splits_are_kept_and_a_missing_validation_is_cut_from_training(seed):
    labels = torch.arange(12).repeat_interleave(2)
    full = Labelled(labels, labels, tuple("abcdefghijkl"), (range(6), range(6, 9), range(9, 12)))
    found = classes_drawn(full, seed)
    assert all(some <= allowed for some, allowed in zip(found, in_splits(full), strict=True))
    without = Labelled(labels, labels, full.classes, (range(9), (), range(9, 12)))
    train, validation, test = classes_drawn(without, seed)
    assert not train & validation
    assert train | validation <= set(range(9))
    assert test <= set(range(9, 12))


def test_a_published_split_that_there_is_not_is_refused():
    with pytest.raises(InputError, match="No split of classes is published"):
        mf.sample(Labelled(torch.zeros(4, 1), torch.arange(4) % 2, ("a", "b")), TINY, gen(), torch.float64)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_arrays_in_parts_are_one_array(sizes, data):
    whole = pixels(sum(sizes), 2, 3, 3)
    parts = Arrays(tuple(np.split(whole, np.cumsum(sizes)[:-1])))
    index = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=8))
    found = parts[torch.tensor(index, dtype=torch.int64)]
    assert np.array_equal(found.numpy(), whole[index].transpose(0, 3, 1, 2))
    assert (len(parts), parts.nbytes) == (len(whole), whole.nbytes)


# Images


@given(hnp.arrays(np.uint8, (2, 16, 16)), st.integers(1, 16))
def test_the_box_average_is_the_mean_of_the_pixels_it_covers(images, size):
    found = box_average(images, size)
    for row in range(size):
        for column in range(size):
            # A centre (2k + 1)/2 lies between edges 16 i/size; of 16 pixels none lies on one.
            inside = [[2 * 16 * i < (2 * k + 1) * size < 2 * 16 * (i + 1) for k in range(16)] for i in (row, column)]
            mean = images[:, inside[0]][:, :, inside[1]].mean(axis=(1, 2))
            assert np.abs(found[:, row, column] - mean).max() <= 1.01  # it rounds after rows and after columns


# Omniglot


def character(alphabet: int, number: int, drawing: int) -> np.ndarray:
    """Paper 255 with one square of ink, whose place says which drawing it is."""
    image = np.full((105, 105), 255, dtype=np.uint8)
    image[15 * alphabet : 15 * alphabet + 15, 15 * number : 15 * number + 15 * (drawing + 1)] = 0
    return image


def write_omniglot(folder: Path, alphabets: list[str]) -> None:
    for a, alphabet in enumerate(alphabets):
        for number in (2, 1):
            for drawing in (1, 0):  # the last one first: directory order is not the order of the data
                name = f"character{number:02}/{number:04}_{drawing + 1:02}.png"
                save(folder / alphabet / name, character(a, number, drawing))


def zipped(folder: Path) -> None:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for file in sorted(folder.rglob("*.png"), reverse=True):
            archive.write(file, file.relative_to(folder.parent))


@pytest.fixture
def omniglot(tmp_path) -> Path:
    write_omniglot(tmp_path / "official" / "images_background", ["Greek", "Hebrew"])
    write_omniglot(tmp_path / "official" / "images_evaluation", ["Tibetan", "ULOG"])
    return tmp_path / "official"


@pytest.mark.parametrize("place", [".", "omniglot", "omniglot-py"])
def test_omniglot_from_folders_and_zip_files_is_the_same(omniglot, tmp_path, place):
    data = load("omniglot", omniglot)
    (tmp_path / place).mkdir(exist_ok=True)
    for half in ("images_background", "images_evaluation"):
        zipped(omniglot / half)
        (omniglot / f"{half}.zip").rename(tmp_path / place / f"{half}.zip")
    from_zip = load("omniglot", tmp_path)
    assert data.classes == from_zip.classes
    assert data.classes[:3] == ("Greek/character01", "Greek/character02", "Hebrew/character01")
    assert torch.equal(data.inputs[:], from_zip.inputs[:])
    assert data.inputs.shape == (16, 1, 28, 28)
    assert data.inputs.dtype == torch.uint8
    # Drawing 1 has one square of ink, drawing 2 two; the square is 4 by 4 of the new pixels, ink bright.
    ink = data.inputs[:2].double().sum(dim=(1, 2, 3)) / 255
    assert ink.tolist() == pytest.approx([16, 32], abs=0.1)
    assert data.inputs[0, 0, 1, 5] == 255
    assert data.inputs[0, 0, 20, 20] == 0


def test_omniglot_splits(omniglot):
    data = load("omniglot", omniglot)
    assert [len(part) for part in in_splits(data)] == [2, 2, 4]
    assert {data.classes[c].partition("/")[0] for c in in_splits(data)[1]} == {"Hebrew"}
    halves = load("omniglot", omniglot, published="background")
    assert [len(part) for part in in_splits(halves)] == [4, 0, 4]
    with pytest.raises(InputError, match="no other half to test on"):
        load("omniglot", omniglot, subset="background", published="background")


def test_omniglot_turned_characters_are_classes_of_the_same_split(omniglot):
    data, turned = load("omniglot", omniglot), load("omniglot", omniglot, rotations=True)
    assert len(turned.classes) == 4 * len(data.classes)
    assert turned.classes[1] == "Greek/character01 turned 90"
    for quarter in range(4):
        assert torch.equal(turned.inputs[2 * quarter : 2 * quarter + 2], torch.rot90(data.inputs[:2], quarter, (2, 3)))
    assert in_splits(turned)[1] == {4 * c + q for c in in_splits(data)[1] for q in range(4)}


def test_omniglot_packed(tmp_path):
    images = pixels(3, 2, 28, 28)
    names = np.array(["images_background/B/character01", "images_background/A/character02", "images_evaluation/C/c1"])
    np.savez(tmp_path / "omniglot_28.npz", images=images, names=names)
    data = load("omniglot", tmp_path)
    assert data.classes == ("A/character02", "B/character01", "C/c1")
    assert np.array_equal(data.inputs[:2, 0], images[1])
    with pytest.raises(DataError, match="does not hold images_background_small1"):
        load("omniglot", tmp_path, subset="small1")
    with pytest.raises(DataError, match="at least 30 pixels"):
        load("omniglot", tmp_path, size=30)


def test_omniglot_that_is_broken_names_the_file(omniglot, tmp_path):
    (omniglot / "images_background" / "Greek" / "character01" / "0001_01.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    with pytest.raises(DataError, match=r"0001_01.png cannot be read as an image"):
        load("omniglot", omniglot)
    (tmp_path / "images_background_small1.zip").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DataError, match=r"small1.zip cannot be read as a zip file"):
        load("omniglot", tmp_path, subset="small1")
    save(tmp_path / "images_background_small2" / "A" / "character01" / "1.png", pixels(9, 9))
    with pytest.raises(DataError, match=r"1.png is \(9, 9\); drawings are of 105x105"):
        load("omniglot", tmp_path, subset="small2")


def test_omniglot_is_read_as_published(shared_data):
    """images_background_small1: 5 alphabets, 136 characters, 20 drawings of each; and the packed file of all: 1,623
    characters, 964 of the background. Both were made from the same drawings."""
    small = load("omniglot", shared_data, subset="small1")
    alphabets = {name.partition("/")[0] for name in small.classes}
    assert len(alphabets) == 5
    assert len(small.classes) == 136
    assert torch.bincount(small.labels).tolist() == [20] * 136
    everything = load("omniglot", shared_data)
    assert [len(p) for p in in_splits(everything)] == [1028, 172, 423]
    assert [len(p) for p in in_splits(load("omniglot", shared_data, published="background"))] == [964, 0, 659]
    same = [everything.classes.index(name) for name in small.classes]
    packed = torch.cat([everything.inputs[everything.labels == c] for c in same])
    assert torch.equal(packed, small.inputs[:])


# MNIST


def gzipped(content: bytes) -> bytes:
    """The content as gzip, without the time of day in its header."""
    return gzip.compress(content, mtime=0)


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, max_side=5, min_side=0)), st.booleans())
def test_idx_files_are_read_as_they_were_written(tmp_path_factory, values, small):
    file = tmp_path_factory.mktemp("idx") / ("values.gz" if small else "values")
    file.write_bytes(gzipped(idx(values)) if small else idx(values))
    assert np.array_equal(read_idx(file, values.ndim), values)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        pytest.param(idx(pixels(4, 3, 3))[:-1], "x", "only 35", id="one byte short"),
        pytest.param(idx(pixels(4, 3, 3)) + b"!", "x", "there are more", id="one byte more"),
        pytest.param(idx(pixels(4)), "x", "no idx file of 8-bit integers in 3 dimension", id="one dimension"),
        pytest.param(b"", "x", "begins with nothing", id="empty"),
        pytest.param(gzipped(idx(pixels(40, 30, 3)))[:-20], "x.gz", "cannot be read", id="gzip cut short"),
        pytest.param(b"<html>", "x.gz", "cannot be read", id="no gzip"),
        pytest.param(bytes([0, 0, 8, 3]) + b"\xff" * 12 + b"few", "x", "only 3", id="absurd sizes"),
    ],
)
def test_broken_idx_files_are_described(tmp_path, content, name, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_idx(tmp_path / name, 3)
    assert str(tmp_path / name) in str(error.value)


def write_mnist(folder: Path, seed: int, packed: bool) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    made = {}
    for part, count in (("train", 30), ("t10k", 20)):
        made[part] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files = {
            f"{part}-images-idx3-ubyte": made[part],
            f"{part}-labels-idx1-ubyte": np.arange(count, dtype=np.uint8) % 10,
        }
        for name, values in files.items():
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzipped(idx(values)) if packed else idx(values))
    return made


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_mnist_and_its_kin(tmp_path, monkeypatch, name, packed):
    folders = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw", "kmnist": "kmnist"}
    made = {n: write_mnist(tmp_path / folder, seed, packed) for seed, (n, folder) in enumerate(folders.items())}[name]
    monkeypatch.setenv("METAFLUENCE_DATA", str(tmp_path))
    data = mf.build("dataset", name).load()
    assert np.array_equal(data.inputs[:][:, 0], np.concatenate([made["train"], made["t10k"]]))
    assert data.labels.tolist() == [i % 10 for i in range(30)] + [i % 10 for i in range(20)]
    assert len(data.classes) == 10
    flat = load(name, tmp_path / folders[name], part="test")
    assert np.array_equal(flat.inputs[:][:, 0], made["t10k"])


def test_mnist_that_does_not_fit_together(tmp_path):
    write_mnist(tmp_path / "mnist", 0, packed=False)
    file = tmp_path / "mnist" / "t10k-labels-idx1-ubyte"
    file.write_bytes(idx(np.zeros(7, dtype=np.uint8)))
    with pytest.raises(DataError, match=r"20 images, .*7 labels"):
        load("mnist", tmp_path)
    file.write_bytes(idx(np.full(20, 11, dtype=np.uint8)))
    with pytest.raises(DataError, match="has the label 11"):
        load("mnist", tmp_path)


def test_mnist_is_read_as_published(shared_data):
    """The test set: 10,000 images of 28x28 pixels; its first ten labels are 7 2 1 0 4 1 4 9 5 9."""
    data = load("mnist", shared_data, part="test")
    assert data.inputs.shape == (10000, 1, 28, 28)
    assert data.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert torch.bincount(data.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


# Pickles


class Runs:
    """A pickle that would run a command."""

    def __reduce__(self):
        return (exec, ("print('this must never be printed')",))


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int64, np.float32, np.bool_, np.dtype(">i4"), np.dtype("S3"), np.dtype("U2")]),
        hnp.array_shapes(max_dims=3, max_side=4),
    ),
    st.integers(0, pickle.HIGHEST_PROTOCOL),
    st.booleans(),
)
def test_arrays_in_containers_come_out_as_they_went_in(array, protocol, fortran):
    array = np.asfortranarray(array) if fortran else array
    content = {"data": array, "labels": [np.int64(3), 4], "names": OrderedDict(a=(1.5, "x", None)), "raw": b"\xff\x00"}
    found = load_pickle(io.BytesIO(pickle.dumps(content, protocol)), "test")
    assert found["data"].dtype == array.dtype
    assert np.array_equal(found["data"], array) or array.dtype.kind == "f"
    assert found["data"].tobytes() == array.tobytes()
    assert (found["labels"], found["names"], found["raw"]) == ([3, 4], {"a": (1.5, "x", None)}, b"\xff\x00")


def test_pickles_of_python_2_are_read():
    # As Python 2 writes {'labels': [1], 'data': array([1, 2], dtype=uint8)}: its text is bytes.
    written = (
        b"(dp0\nS'labels'\np1\n(lp2\nI1\nasS'data'\np3\ncnumpy.core.multiarray\n_reconstruct\np4\n(cnumpy\nndarray\np5\n(I0\n"
        b"tp6\nS'b'\np7\ntp8\nRp9\n(I1\n(I2\ntp10\ncnumpy\ndtype\np11\n(S'u1'\np12\nI0\nI1\ntp13\nRp14\n(I3\nS'|'\np15\nNNNI-1\n"
        b"I-1\nI0\ntp16\nbI00\nS'\\x01\\xfe'\np17\ntp18\nbs."
    )
    found = load_pickle(io.BytesIO(written), "test")
    assert found["labels"] == [1]
    assert found["data"].tolist() == [1, 254]


@pytest.mark.parametrize("payload", [Runs(), {"data": [Runs()]}, np.array([Runs()], dtype=object), exec, np.load])
def test_a_pickle_that_asks_for_more_than_arrays_is_not_run(tmp_path, capsys, payload):
    file = tmp_path / "evil.pkl"
    file.write_bytes(pickle.dumps(payload))
    with pytest.raises(DataError, match=r"evil.pkl was not opened: it asks to run (builtins.exec|numpy.*load)"):
        load_pickle(file, str(file))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps({"data": pixels(50, 3)})[:-30],
        pickle.dumps(np.zeros(1, dtype=[("a", int)])),  # a structured type, whose pickles can lie about memory
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    ],
)
def test_broken_pickles_are_described(tmp_path, content):
    (tmp_path / "broken.pkl").write_bytes(content)
    with pytest.raises(DataError, match=r"broken.pkl cannot be read as pickled arrays"):
        load_pickle(tmp_path / "broken.pkl", str(tmp_path / "broken.pkl"))


# Mini-ImageNet: two classes in each part, two images of each

PARTS = {"train": ("n01", "n04"), "val": ("n02", "n05"), "test": ("n03", "n06")}
PHOTOS = {name: pixels(2, 84, 84, 3) for names in PARTS.values() for name in names}


def as_lists(root: Path) -> None:
    for part, names in PARTS.items():
        rows = [(f"{name}_{i}.png", name) for i in (1, 0) for name in reversed(names)]
        for file, name in rows:
            save(root / "images" / file, PHOTOS[name][int(file[-5])])
        with (root / f"{part}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("filename", "label"), *rows])


def as_caches(root: Path) -> None:
    for part, names in PARTS.items():
        content = {
            "image_data": np.concatenate([PHOTOS[n] for n in names]),
            "class_dict": {names[0]: [0, 1], names[1]: [2, 3]},
        }
        other = "validation" if part == "val" else part
        (root / f"mini-imagenet-cache-{other}.pkl").write_bytes(pickle.dumps(content))


def as_pickles(root: Path) -> None:
    for part, names in PARTS.items():
        content = {"data": np.concatenate([PHOTOS[n] for n in names]), "labels": [n for n in names for _ in range(2)]}
        name = "train_phase_train" if part == "train" else part
        (root / f"miniImageNet_category_split_{name}.pickle").write_bytes(pickle.dumps(content, 2))


def as_folders(root: Path) -> None:
    for part, names in PARTS.items():
        for name in names:
            for i in range(2):
                save(root / part / name / f"{i}.png", PHOTOS[name][i])


@pytest.mark.parametrize("write", [as_lists, as_caches, as_pickles, as_folders])
def test_mini_imagenet_is_the_same_in_every_form(tmp_path, write):
    (tmp_path / "mini-imagenet").mkdir()
    write(tmp_path / "mini-imagenet")
    data = load("mini-imagenet", tmp_path)
    assert data.classes == ("n01", "n04", "n02", "n05", "n03", "n06")
    assert [sorted(part) for part in in_splits(data)] == [[0, 1], [2, 3], [4, 5]]
    for number, name in enumerate(data.classes):
        found = data.inputs[(data.labels == number).nonzero().squeeze(1)]
        assert np.array_equal(found.numpy(), PHOTOS[name].transpose(0, 3, 1, 2))
    drawn = mf.build("dataset", "mini-imagenet", root=str(tmp_path)).tasks(TINY, gen(), torch.float32)
    assert drawn.train.support.inputs.shape == (2, 2, 3, 84, 84)
    assert float(drawn.train.support.inputs.max()) <= 1


def test_image_files_are_read_only_when_drawn_and_then_named(tmp_path):
    as_lists(tmp_path)
    (tmp_path / "images" / "n01_0.png").write_bytes(b"no image")
    (tmp_path / "images" / "n04_1.png").unlink()
    data = load("mini-imagenet", tmp_path, size=20)
    assert data.inputs.nbytes == 0
    assert data.inputs[torch.tensor([1])].shape == (1, 3, 20, 20)
    with pytest.raises(DataError, match=r"n01_0.png cannot be read as an image"):
        data.inputs[torch.tensor([0])]
    with pytest.raises(DataError, match=r"no image .*n04_1.png"):
        data.inputs[torch.tensor([3])]


def test_mini_imagenet_files_that_are_wrong_are_named(tmp_path):
    as_caches(tmp_path)
    with pytest.raises(DataError, match=r"holds images of 84 pixels, not 32. Set size: 84"):
        load("mini-imagenet", tmp_path, size=32)
    file = tmp_path / "mini-imagenet-cache-test.pkl"
    for content, message in (
        ({"images": 1}, "test.pkl holds a dict of images; the entry 'image_data' is needed"),
        ({"image_data": pixels(2, 84, 84, 3), "class_dict": {"a": [0, 5]}}, "names image 5 of 2"),
        ({"image_data": pixels(2, 84, 84, 3), "class_dict": {"a": [0]}}, "1 images are of no class"),
        ({"image_data": pixels(2, 84, 84), "class_dict": {"a": [0, 1]}}, r"uint8 \(2, 84, 84\); 8-bit images"),
    ):
        file.write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=message):
            load("mini-imagenet", tmp_path)
    as_lists(tmp_path)
    (tmp_path / "val.csv").write_text("file,label\na,b\n")
    with pytest.raises(DataError, match=r"val.csv has the columns \['file', 'label'\]"):
        load("mini-imagenet", tmp_path)
    (tmp_path / "val.csv").write_text("filename,label\na.png\n")
    with pytest.raises(DataError, match=r"val.csv, line 2 has no filename or no label"):
        load("mini-imagenet", tmp_path)


# FC100

SPLIT = {0: "test", 1: "train", 8: "val", 12: "test", 17: "train", 13: "val"}  # some of CIFAR-100's superclasses


def cifar(names: list[str]) -> dict[str, dict]:
    fine = list(range(len(SPLIT))) * 2
    made = {"meta": {"fine_label_names": names, "coarse_label_names": []}}
    for part in ("train", "test"):
        coarse = [list(SPLIT)[label] for label in fine]
        made[part] = {"data": pixels(len(fine), 3072), "fine_labels": fine, "coarse_labels": coarse}
    return made


@pytest.mark.parametrize("packed", [True, False])
def test_fc100_from_cifar(tmp_path, packed):
    made = cifar([f"class{i}" for i in range(len(SPLIT))])
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, content in made.items():
        (folder / name).write_bytes(pickle.dumps(content))
    if packed:
        with tarfile.open(tmp_path / "cifar-100-python.tar.gz", "w:gz") as archive:
            archive.add(folder, folder.name)
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    data = load("fc100", tmp_path)
    for number, part in enumerate(("train", "val", "test")):
        assert in_splits(data)[number] == {i for i, (_, of) in enumerate(SPLIT.items()) if of == part}
    expected = np.concatenate([made["train"]["data"], made["test"]["data"]]).reshape(-1, 3, 32, 32)
    assert np.array_equal(data.inputs[torch.arange(len(expected))].numpy(), expected)
    assert data.labels.tolist() == made["train"]["fine_labels"] + made["test"]["fine_labels"]


def test_fc100_packed_whose_numbers_begin_anew(tmp_path):
    for part in ("train", "val", "test"):
        content = {"data": pixels(4, 32, 32, 3), "labels": [0, 0, 1, 1]}
        (tmp_path / f"FC100_{part}.pickle").write_bytes(pickle.dumps(content))
    data = load("fc100", tmp_path)
    assert data.classes == ("train 0", "train 1", "val 0", "val 1", "test 0", "test 1")
    assert [sorted(part) for part in in_splits(data)] == [[0, 1], [2, 3], [4, 5]]


def test_fc100_that_is_broken_names_the_file(tmp_path):
    file = tmp_path / "cifar-100-python.tar.gz"
    file.write_bytes(b"\x1f\x8b not an archive")
    with pytest.raises(DataError, match=r"python.tar.gz cannot be read as an archive"):
        load("fc100", tmp_path)
    with tarfile.open(file, "w:gz"):
        pass
    with pytest.raises(DataError, match=r"has no file cifar-100-python/meta"):
        load("fc100", tmp_path)


# Any images


def test_image_folder_with_and_without_splits(tmp_path):
    as_folders(tmp_path / "split")
    split = load("image-folder", tmp_path, path="split", size=84)
    assert [sorted(part) for part in in_splits(split)] == [[0, 1], [2, 3], [4, 5]]
    for name in ("b", "a", "c"):
        save(tmp_path / "plain" / name / "x" / "1.png", pixels(40, 20, 3))
    plain = load("image-folder", tmp_path, path="plain", size=10, colour="grey", without=["c"])
    assert (plain.classes, plain.splits) == (("a", "b"), None)
    assert plain.inputs[torch.tensor([0, 1])].shape == (2, 1, 10, 10)
    (tmp_path / "plain" / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no images"):
        load("image-folder", tmp_path, path="plain")
    save(tmp_path / "split" / "val" / "n01" / "1.png", pixels(4, 4, 3))
    with pytest.raises(DataError, match=r"class 'n01' stands in two of"):
        load("image-folder", tmp_path, path="split")


@pytest.mark.parametrize("shape", [(5, 6, 6), (5, 6, 6, 1), (5, 6, 6, 3)])
def test_npz_scales_images_by_averaging(tmp_path, shape):
    images = pixels(*shape)
    np.savez(tmp_path / "d.npz", images=images, labels=[0, 1, 2, 0, 1])
    found = load("npz", tmp_path, path="d.npz", size=3).inputs[:].numpy()
    wanted = images.reshape(5, 3, 2, 3, 2, -1).mean(axis=(2, 4)).transpose(0, 3, 1, 2)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1, "rounded to whole numbers across, and again down"


def test_npz_of_which_everything_is_left_out_is_refused(tmp_path):
    np.savez(tmp_path / "d.npz", images=pixels(2, 4, 4), labels=["a", "b"])
    with pytest.raises(DataError, match="no class but those that are left out"):
        load("npz", tmp_path, path="d.npz", without=["a", "b"], size=2)


def test_npz_scales_nothing_but_8_bit_images(tmp_path):
    np.savez(tmp_path / "d.npz", images=pixels(2, 4, 4) / 255, labels=[0, 1])
    with pytest.raises(DataError, match=r"inputs of shape \[2, 4, 4\] \(float64\), which size cannot scale"):
        load("npz", tmp_path, path="d.npz", size=2)
    with pytest.raises(InputError, match="size is 0, but a whole number at least 1"):
        load("npz", tmp_path, path="d.npz", size=0)


def test_npz_names_classes_and_leaves_some_out(tmp_path):
    images = pixels(6, 4, 4, 3)
    np.savez(tmp_path / "d.npz", images=images, labels=[0, 1, 2, 0, 1, 2], classes=["cat", "ant", "bee"])
    data = load("npz", tmp_path, path="d.npz", without=["bee"])
    assert data.classes == ("ant", "cat")
    assert data.labels.tolist() == [1, 0, 1, 0]
    assert np.array_equal(data.inputs[:].numpy(), images[[0, 1, 3, 4]].transpose(0, 3, 1, 2))
    with pytest.raises(DataError, match="no class 'dog' to leave out; it has ant, bee, cat"):
        load("npz", tmp_path, path="d.npz", without=["dog"])
    np.savez(tmp_path / "d.npz", images=images, labels=[0, 1, 2, 0, 1, 3], classes=["cat", "ant", "bee"])
    with pytest.raises(DataError, match="label 3, but its 3 names in classes are for 0 to 2"):
        load("npz", tmp_path, path="d.npz")


def test_caltech101_is_read_as_published(shared_data):
    """8,677 photographs in 101 classes, of which Faces_easy is left out."""
    data = load("npz", shared_data, path="caltech101/caltech101_32.npz", without=["Faces_easy"])
    assert len(data.classes) == 100
    assert "Faces" in data.classes
    assert data.inputs.shape == (8242, 3, 32, 32)  # 435 fewer
    assert data.inputs.dtype == torch.uint8


@pytest.mark.parametrize("name", ["omniglot", "mnist", "fashion-mnist", "kmnist", "mini-imagenet", "fc100"])
def test_what_is_missing_is_listed_with_what_to_do(tmp_path, monkeypatch, name):
    monkeypatch.setenv("METAFLUENCE_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"was not found. Looked for .*; in\n") as error:
        mf.build("dataset", name).load()
    assert str(tmp_path / "data") in str(error.value)
    mend = "no public address" if name == "mini-imagenet" else f"metafluence data fetch {name}"
    assert mend in str(error.value)
    monkeypatch.delenv("METAFLUENCE_DATA")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        mf.build("dataset", name).load()
    assert str(tmp_path / "data") in str(error.value)


# Waves


def waves(seed: int = 0, **options) -> mf.Split:
    episodes = Episodes(**{"train": 3, "validation": 2, "test": 2, "shot": 4, "query": 5} | options)
    return mf.build("dataset", "sinusoid").tasks(episodes, gen(seed), torch.float64)


@given(st.integers(0, 2**31 - 1))
def test_every_task_is_a_wave(seed):
    drawn = waves(seed).train
    assert drawn.support.targets.shape == (3, 4, 1)
    x, y = (
        torch.cat([getattr(h, w) for h in (drawn.support, drawn.query)], dim=1)[..., 0] for w in ("inputs", "targets")
    )
    # a sin(x − b) = p sin x + q cos x: two unknowns fit all nine points.
    for one_x, one_y in zip(x, y, strict=True):
        basis = torch.stack([one_x.sin(), one_x.cos()], dim=1)
        p, q = torch.linalg.lstsq(basis, one_y.unsqueeze(1)).solution.flatten().tolist()
        assert float((basis @ torch.tensor([p, q], dtype=torch.float64) - one_y).abs().max()) < 1e-6
        assert 0.1 - 1e-6 <= math.hypot(p, q) <= 5 + 1e-6
        assert q <= 1e-6  # q = −a sin b, b between 0 and π
    assert float(x.abs().max()) <= 5


def test_waves_are_a_function_of_the_seed_and_sets_do_not_shift_each_other():
    assert waves(1).train.fingerprint() == waves(1, test=9).train.fingerprint()
    assert waves(1).test.ids != waves(1, test=9).test.ids
    assert waves(1).train.fingerprint() != waves(2).train.fingerprint()
    assert torch.equal(waves(1).train.support.targets, waves(1, train=8).train.support.targets[:3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"way": 3}, "episodes.way says nothing"),
        ({"split": "instances"}, "episodes.split"),
        ({"shot": 0}, "at least 1"),
    ],
)
def test_waves_refuse_what_means_nothing(options, message):
    with pytest.raises(InputError, match=message):
        waves(**options)
    with pytest.raises(InputError, match="amplitude is"):
        mf.build("dataset", "sinusoid", amplitude=[2, 1])
