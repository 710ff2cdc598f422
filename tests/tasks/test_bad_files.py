"""Files of data that cannot be read rightly: each is refused by name with the reason, or read as it is meant."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import metafluence as mf
from metafluence import DataError
from metafluence_plugins.datasets.images import decode
from metafluence_plugins.datasets.pickles import load_pickle
from refusals import refused

IMAGES = np.arange(4 * 4 * 4, dtype=np.uint8).reshape(4, 4, 4)
LABELS = np.array([0, 0, 1, 1])


def npz(folder: Path, **arrays) -> mf.Labelled:
    np.savez(folder / "d.npz", **({"images": IMAGES, "labels": LABELS} | arrays))
    return mf.build("dataset", "npz", path="d.npz", root=str(folder)).load()


def raw(folder: Path, content: bytes) -> mf.Labelled:
    (folder / "d.npz").write_bytes(content)
    return mf.build("dataset", "npz", path="d.npz", root=str(folder)).load()


def written(save, *values) -> bytes:
    stream = io.BytesIO()
    save(stream, *values)
    return stream.getvalue()


RECORDS = np.zeros(4, dtype=[("a", "i4"), ("b", "f4")])
ARRAYS = {
    "one-hot": ({"labels": np.eye(4)}, r"d\.npz: labels has shape \[4, 4\]; labels are \[n\]. Save labels.argmax"),
    "one-hot-integer": ({"labels": np.eye(4, dtype=int)}, r"labels has shape \[4, 4\].*labels.argmax\(axis=1\)"),
    "no-dimension": ({"labels": np.array(3)}, r"labels has shape \[\]; labels are \[n\]. Save one label"),
    "three-dimensions": ({"labels": np.zeros((4, 1, 1), int)}, r"labels has shape \[4, 1, 1\]; labels are \[n\]"),
    "fractions": ({"labels": LABELS + 0.5}, "labels has real values, which are no classes. Save whole numbers"),
    "nan": ({"labels": np.array([0, 0, 1, np.nan])}, "labels has real values, which are no classes"),
    "records": ({"labels": RECORDS}, "labels has values of type .*Save numbers, or texts"),
    "records-images": ({"images": RECORDS}, "images has values of type .*Save numbers"),
    "objects": ({"labels": np.array([0, "a", None, 1], dtype=object)}, r"d\.npz cannot be read.*Object arrays.*Make"),
    "complex": ({"images": IMAGES.astype(complex)}, "images has values of type complex128. Save numbers"),
    "dates": ({"labels": np.array(["2020-01-01"] * 4, "M8[D]")}, r"labels has values of type datetime64\[D\]. Save"),
    "text-images": ({"images": np.array(["a"] * 4)}, "images has values of type <U1; inputs are numbers. Save numbers"),
    "scalar-images": ({"images": np.array(3.0)}, r"images has shape \[\]; inputs are \[n, \.\.\.\]. Add the first"),
    "flat-images": ({"images": np.zeros(4)}, r"images has shape \[4\]; inputs are \[n, \.\.\.\]. Add the first"),
    "alpha": ({"images": np.zeros((4, 3, 3, 4), np.uint8)}, r"\[4, 3, 3, 4\], so .* alpha.*\[n, h, w, 3\]"),
    "nan-images": ({"images": np.full((4, 2, 2), np.nan)}, "images has NaN or infinite values. Remove or fill"),
    "infinite": ({"images": np.full((4, 2, 2), np.inf)}, "images has NaN or infinite values. Remove or fill"),
    "fewer": ({"labels": LABELS[:3]}, "has 4 inputs but 3 labels. Save as many of both"),
    "past-names": ({"classes": np.array(["a"])}, "has the label 1, but its 1 names in classes are for 0 to 0. Save"),
    "negative": ({"labels": LABELS - 1, "classes": np.array(["a", "b"])}, "has the label -1, but its 2 names"),
}


@pytest.mark.parametrize(("arrays", "message"), ARRAYS.values(), ids=ARRAYS)
def test_arrays_that_cannot_be_meant_are_refused(tmp_path, arrays, message):
    with refused(message, DataError):
        npz(tmp_path, **arrays)


FILES = {
    "empty": (b"", r"d\.npz cannot be read as an \.npz archive.*Make it anew"),
    "text": (b"hello\n", r"d\.npz cannot be read as an \.npz archive"),
    "npy": (written(np.save, IMAGES), r"d\.npz is a single array \(\.npy\), not an \.npz archive.*numpy\.savez"),
    "pickle": (pickle.dumps({"images": [1]}), r"d\.npz cannot be read as an \.npz archive"),
    "cut": (written(np.savez, IMAGES)[:200], r"d\.npz cannot be read as an \.npz archive"),
    "zip-of-text": (
        written(lambda stream: zipfile.ZipFile(stream, "w").writestr("a.txt", "x")),
        r"d\.npz cannot be read|has no array 'images'",
    ),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_files_that_are_no_archives_are_refused(tmp_path, content, message):
    with refused(message, DataError):
        raw(tmp_path, content)


def test_an_encrypted_archive_is_refused(tmp_path):
    content = bytearray(written(lambda stream: np.savez(stream, images=IMAGES, labels=LABELS)))
    at = content.find(b"PK\x01\x02")
    while at >= 0:  # set bit 0, encrypted, in the directory and in the file's own header
        content[at + 8] |= 1
        content[int.from_bytes(content[at + 42 : at + 46], "little") + 6] |= 1
        at = content.find(b"PK\x01\x02", at + 1)
    with refused(r"d\.npz cannot be read.*encrypted.*without a password", DataError):
        raw(tmp_path, bytes(content))


@pytest.mark.parametrize(
    "labels",
    [LABELS[:, None], LABELS.astype(">i4"), LABELS.astype(np.uint8), LABELS.astype(float), LABELS.astype(str)],
    ids=["column", "big-endian", "bytes", "whole-floats", "texts"],
)
def test_labels_of_other_forms_are_the_same_classes(tmp_path, labels):
    assert npz(tmp_path, labels=labels).labels.tolist() == [0, 0, 1, 1]


def test_labels_with_gaps_are_classes_called_by_them(tmp_path):
    data = npz(tmp_path, labels=np.array([57, 57, 3, -1]))
    assert [data.classes[c] for c in data.labels.tolist()] == ["57", "57", "3", "-1"]
    assert data.classes == ("-1", "3", "57")


@pytest.mark.parametrize("kind", [">f4", ">f8", "<f4", ">i2", ">u4", "?"])
def test_inputs_of_any_byte_order_are_their_values(tmp_path, kind):
    images = (np.arange(16).reshape(4, 2, 2) % 2).astype(kind)
    drawn = npz(tmp_path, images=images).draw(torch.tensor([1]), torch.float32)
    assert drawn.flatten().tolist() == [0, 1, 0, 1]


def test_inputs_of_16_bits_are_shares_of_the_largest(tmp_path):
    drawn = npz(tmp_path, images=np.full((4, 2, 2), 5000, np.uint16)).draw(torch.tensor([0]), torch.float64)
    assert drawn.flatten().tolist() == pytest.approx([5000 / 65535] * 4)


def grey(mode: str) -> Image.Image:
    """Level 64 of 255, in a mode."""
    return Image.new("L", (2, 2), 64).convert(mode)


MODES = {
    "L": (grey("L"), 64),
    "RGB": (grey("RGB"), 64),
    "1": (Image.new("1", (2, 2), 1), 255),
    "P": (grey("P"), 64),
    "I;16": (Image.fromarray(np.full((2, 2), 5000, np.uint16)), 19),
    "I;16-full": (Image.fromarray(np.full((2, 2), 65535, np.uint16)), 255),
    "RGBA": (Image.new("RGBA", (2, 2), (0, 0, 0, 128)), 127),
    "RGBA-clear": (Image.new("RGBA", (2, 2), (9, 9, 9, 0)), 255),
    "LA": (Image.new("LA", (2, 2), (0, 128)), 127),
    "LA-ink": (Image.new("LA", (2, 2), (64, 255)), 64),
}


@pytest.mark.parametrize(("image", "level"), MODES.values(), ids=MODES)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_of_every_mode_have_their_level(tmp_path, image, level, mode):
    image.save(tmp_path / "a.png")
    found = decode(tmp_path / "a.png", "a.png", mode)
    assert found.dtype == np.uint8
    assert found.shape == ((2, 2) if mode == "L" else (2, 2, 3))
    assert np.abs(found.astype(int) - level).max() <= 1


def test_a_transparent_colour_of_a_palette_is_laid_on_white(tmp_path):
    image = Image.new("P", (2, 2), 0)
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    assert decode(tmp_path / "a.png", "a.png", "RGB").tolist() == [[[200, 0, 0], [255] * 3], [[255] * 3, [255] * 3]]


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_print_colours_become_grey_of_the_same_level(tmp_path, mode):
    grey("RGB").convert(mode).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(decode(tmp_path / "a.jpg", "a.jpg", "L").astype(int) - 64).max() <= 2


PICTURES = {
    "float": (Image.fromarray(np.full((2, 2), 0.5, np.float32)), "tif", r"a\.tif has pixels of mode F, .*fixed range"),
    "integer": (Image.fromarray(np.full((2, 2), 70000, np.int32)), "tif", r"a\.tif has pixels of mode I, .*16 bits"),
}


@pytest.mark.parametrize(("image", "kind", "message"), PICTURES.values(), ids=PICTURES)
def test_images_without_a_range_are_refused(tmp_path, image, kind, message):
    image.save(tmp_path / f"a.{kind}")
    with refused(message, DataError):
        decode(tmp_path / f"a.{kind}", f"a.{kind}", "L")


BROKEN = {
    "empty": b"",
    "text": b"not an image",
    "cut": written(lambda stream: grey("RGB").resize((64, 64)).save(stream, "png"))[:60],
    "html": b"<html>404</html>",
    "zeros": bytes(100),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_files_that_are_no_images_are_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with refused(r"a\.png cannot be read as an image: .*Replace or remove the file", DataError):
        decode(tmp_path / "a.png", "a.png", "L")


@pytest.mark.parametrize(
    "odd",
    [
        ".ipynb_checkpoints/a-checkpoint.png",
        "__MACOSX/a.png",
        ".hidden/a.png",
        "one/.ipynb_checkpoints/a.png",
        "one/._a.png",
        "one/Thumbs.db",
        "__pycache__/a.png",
        "one/__MACOSX/a.png",
        ".DS_Store",
    ],
)
def test_what_is_no_class_and_no_instance_is_passed_over(tmp_path, odd):
    for file in ("one/a.png", "one/b.png", "two/a.png", odd):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        grey("L").save(tmp_path / file, "png")
    data = mf.build("dataset", "image-folder", path=".", root=str(tmp_path), size=2).load()
    assert data.classes == ("one", "two")
    assert data.labels.tolist() == [0, 0, 1]


def lists(folder: Path, head: str = "filename,label", encoding: str = "utf-8", **rows: str) -> mf.Labelled:
    """Mini-ImageNet as three lists and a folder of images."""
    parts = {"train": "a.png,dog", "val": "b.png,cat", "test": "c.png,fox"} | rows
    (folder / "images").mkdir()
    for name in "abc":
        grey("L").save(folder / "images" / f"{name}.png")
    for part, text in parts.items():
        (folder / f"{part}.csv").write_text(f"{head}\n{text}\n", encoding=encoding)
    return mf.build("dataset", "mini-imagenet", root=str(folder), size=2).load()


def test_a_list_with_a_byte_order_mark_is_read(tmp_path):
    assert lists(tmp_path, encoding="utf-8-sig").classes == ("dog", "cat", "fox")


def test_an_image_that_is_listed_twice_is_there_once(tmp_path):
    assert len(lists(tmp_path, train="a.png,dog\na.png,dog").labels) == 3


LISTS = {
    "split": ({"val": "b.png,dog"}, r"val\.csv lists the class 'dog', which an earlier list has too. Keep it in one"),
    "head": (
        {"head": "file,class"},
        r"train\.csv has the columns \['file', 'class'\]; its first line needs filename and label. Add it",
    ),
    "cut": ({"train": "a.png"}, r"train\.csv, line 2 has no filename or no label. It may be cut short"),
    "latin": ({"train": "a.png,bäckerei", "encoding": "latin-1"}, r"train\.csv cannot be read as a list of images"),
    "utf-16": ({"encoding": "utf-16"}, r"train\.csv cannot be read as a list of images"),
}


@pytest.mark.parametrize(("given", "message"), LISTS.values(), ids=LISTS)
def test_lists_that_cannot_be_meant_are_refused(tmp_path, given, message):
    with refused(message, DataError):
        lists(tmp_path, **given)


VIEWS = {
    "plain": IMAGES,
    "transposed": IMAGES.transpose(2, 0, 1),
    "fortran": np.asfortranarray(IMAGES),
    "strided": IMAGES[:, ::2],
    "swapped": IMAGES.swapaxes(0, 1),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("array", VIEWS.values(), ids=VIEWS)
def test_pickled_arrays_of_every_protocol_and_layout_are_read(array, protocol):
    assert np.array_equal(load_pickle(io.BytesIO(pickle.dumps({"data": array}, protocol)), "x")["data"], array)
