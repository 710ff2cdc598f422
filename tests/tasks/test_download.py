"""Downloads, from a server on this machine; what the command line says of data sets; studies of regression."""

import hashlib
import re
import threading
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import metafluence as mf
from metafluence import Corruption, DataError, Episodes, Source, fetch_sources
from metafluence.cli import app
from metafluence_plugins.datasets import fc100, mnist, omniglot

CONTENT = {"one.bin": b"one" * 50_000, "two.bin": b"two"}


class Handler(BaseHTTPRequestHandler):
    def __init__(self, asked: list[str], *args) -> None:
        self.asked = asked
        super().__init__(*args)

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.asked.append(name)
        if name.startswith("gone"):
            self.send_error(404)
            return
        content = CONTENT.get(name.removeprefix("cut-"), name.encode())
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        # An interrupted download: less comes than was promised.
        self.wfile.write(content[: len(content) // 2] if name.startswith("cut") else content)

    def log_message(self, *args) -> None:
        """Nothing."""


@pytest.fixture
def server():
    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, asked)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


def source(address: str, name: str, content: bytes | None = None) -> Source:
    md5 = hashlib.md5(content).hexdigest() if content is not None else None
    return Source(f"{address}/{name}", f"set/{name}", md5)


def test_files_are_downloaded_checked_and_not_asked_for_twice(server, tmp_path):
    address, asked = server
    sources = [source(address, "one.bin", CONTENT["one.bin"]), source(address, "two.bin")]
    seen: list[tuple[str, int, int]] = []
    for _ in range(2):
        files = fetch_sources(sources, tmp_path, lambda *step: seen.append(step))
        assert [file.read_bytes() for file in files] == list(CONTENT.values())
    assert files[0] == tmp_path / "set" / "one.bin"
    assert asked == ["one.bin", "two.bin"]
    steps = [(done, total) for name, done, total in seen if name == "one.bin"]
    assert steps[-1] == (150_000, 150_000)
    assert len(steps) > 2
    assert steps == sorted(steps)


def test_a_file_that_was_spoilt_on_disk_is_downloaded_anew(server, tmp_path):
    address, asked = server
    wanted = source(address, "two.bin", CONTENT["two.bin"])
    (file,) = fetch_sources([wanted], tmp_path, lambda *_: None)
    file.write_bytes(b"spoilt")
    fetch_sources([wanted], tmp_path, lambda *_: None)
    assert file.read_bytes() == CONTENT["two.bin"]
    assert asked == ["two.bin"] * 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("two.bin", b"other", "is not the file that was published: its MD5 is not 795f3202b17cb6bc3d4b771d8c6c9eaf"),
        ("cut-one.bin", None, "could not be downloaded to .*cut-one.bin"),
        ("gone.bin", None, "could not be downloaded to .*404"),
    ],
)
def test_what_goes_wrong_leaves_nothing_behind_and_keeps_what_was_done(server, tmp_path, name, content, message):
    address, _ = server
    with pytest.raises(DataError, match=message) as error:
        fetch_sources([source(address, "one.bin"), source(address, name, content)], tmp_path, lambda *_: None)
    assert f"{address}/{name}" in str(error.value)
    assert [file.name for file in (tmp_path / "set").iterdir()] == ["one.bin"]


def test_nobody_at_the_address_is_said(tmp_path):
    with pytest.raises(DataError, match=r"could not be downloaded .*ConnectionError"):
        fetch_sources([source("http://127.0.0.1:9", "x")], tmp_path, lambda *_: None)


def run(*words: str):
    return CliRunner().invoke(app, ["data", *words])


def test_the_command_downloads_to_where_the_data_set_reads(server, tmp_path, monkeypatch):
    address, asked = server
    unchecked = {n: v._replace(address=f"{address}/", md5=(None,) * 4) for n, v in mnist.VARIANTS.items()}
    monkeypatch.setattr(mnist, "VARIANTS", unchecked)
    found = run("fetch", "kmnist", "--root", str(tmp_path))
    assert found.exit_code == 0, found.output
    assert len(asked) == 4
    assert "no checksum is published" in found.output
    # What was served is no idx file, so reading finds the files and refuses them.
    with pytest.raises(DataError, match=r"kmnist/train-images-idx3-ubyte.gz cannot be read"):
        mf.build("dataset", "kmnist", root=str(tmp_path)).load()
    monkeypatch.setattr(omniglot, "ADDRESS", address)
    found = run("fetch", "omniglot", "--set", "subset=small1", "--root", str(tmp_path))
    assert found.exit_code == 0, found.output
    assert (tmp_path / "omniglot" / "images_background_small1.zip").is_file()
    found = run("fetch", "omniglot", "--root", str(tmp_path))
    assert isinstance(found.exception, DataError)
    assert "68d2efa1b9178cc56df9314c21c6e718" in str(found.exception)
    assert [file.name for file in (tmp_path / "omniglot").iterdir()] == ["images_background_small1.zip"]


@pytest.mark.parametrize("name", ["omniglot", "mnist", "fashion-mnist", "kmnist", "fc100"])
def test_what_is_offered_for_download_has_an_address_and_a_checksum(name):
    for one in mf.build("dataset", name).sources():
        assert one.url.startswith("http")
        assert one.md5 is not None
        assert len(one.md5) == 32
        assert one.url.endswith(Path(one.path).name)


def test_where_nothing_can_be_downloaded_it_is_said():
    assert "no public address" in str(run("fetch", "mini-imagenet").exception)
    for name in ("digits", "sinusoid", "npz", "image-folder", "image-lists", "easy-set"):
        assert f"nothing to download for {name}" in str(run("fetch", name).exception)


def test_show_describes_and_draws(tmp_path):
    picture = tmp_path / "digits.png"
    found = run("show", "digits", "--picture", str(picture), "--corrupt", "query-labels")
    assert found.exit_code == 0, found.output
    for said in ("1,797, 174 to 183 per class", "1 × 8 × 8", "0 to 1", "0.9 MiB", "none"):
        assert said in found.output
    assert red_pixels(picture) > 500
    clean = tmp_path / "clean.png"
    run("show", "digits", "--picture", str(clean))
    assert red_pixels(clean) == 0


def red_pixels(picture: Path) -> int:
    """How many pixels have the colour that marks what was corrupted."""
    colours = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    return int((np.abs(colours - (192, 38, 45)).sum(axis=2) < 30).sum())


def test_show_takes_settings_and_says_what_is_wrong_with_them(tmp_path):
    np.savez(tmp_path / "d.npz", images=np.zeros((60, 3), dtype=np.uint8), labels=np.arange(60) % 2)
    settings = ("--set", "path=d.npz", "--set", f"root={tmp_path}")
    assert "60, 30 per class" in run("show", "npz", *settings).output
    drawn = run("show", "npz", *settings, "--picture", str(tmp_path / "p.png"), "--way", "2")
    assert "cannot be drawn: images" in str(drawn.exception)
    assert "write --set KEY=VALUE" in str(run("show", "npz", "--set", "path").exception)
    assert "Did you mean 'path'" in str(run("show", "npz", "--set", "paht=x").exception)


def test_show_draws_waves(tmp_path):
    found = run("show", "sinusoid", "--picture", str(tmp_path / "w.png"), "--corrupt", "support-labels")
    assert found.exit_code == 0, found.output
    assert "1 real value" in found.output
    assert Image.open(tmp_path / "w.png").size[0] > 500


def test_real_targets_are_shuffled_by_corruption():
    split = mf.build("dataset", "sinusoid").tasks(Episodes(6, 1, 1, shot=3, query=8), torch.Generator(), torch.float64)
    found = mf.corrupt(split.train, Corruption("query-labels", 0.5, 0.5), torch.Generator().manual_seed(0))
    assert found.corrupted_query.sum(dim=1).sort().values.tolist() == [0, 0, 0, 4, 4, 4]
    changed = (found.query.targets != split.train.query.targets).squeeze(-1)
    assert torch.equal(changed, found.corrupted_query)
    for task in range(6):
        own = set(split.train.query.targets[task].flatten().tolist())
        assert set(found.query.targets[task].flatten().tolist()) <= own
    one = mf.Batch(split.train.query.inputs[:, :1], split.train.query.targets[:, :1])
    alone = replace(split.train, query=one, corrupted_query=None)
    with pytest.raises(mf.InputError, match="no other targets to give it"):
        mf.corrupt(alone, Corruption("query-labels", 0.5, 1.0), torch.Generator())


def test_a_study_of_regression_reports_losses_and_no_accuracy(tmp_path):
    study = mf.parse_study(
        {
            "name": "waves",
            "dataset": {"use": "sinusoid", "amplitude": [0.3, 1.0], "span": [-2, 2]},
            "episodes": {"train": 6, "validation": 3, "test": 3, "shot": 4, "query": 4},
            "corruption": {"kind": "query-labels", "fraction": 0.4, "strength": 1.0},
            "learner": {"use": "ridge-head", "backbone": {"use": "mlp", "hidden": [3], "activation": "tanh"}},
            "l2": 1.0,
            "truth": {"items": 3},
            "remove": 0.4,
            "certificate": False,
            "executor": "serial",
            "methods": ["task-if", "random"],
        }
    )
    result = mf.Study(study, mf.default_registry(), tmp_path).run()
    assert result.full.loss > 0
    assert result.failed == []
    page = mf.write_report(result, tmp_path).read_text()
    words = re.sub(r'"data:image[^"]*"', "", page).lower()
    assert not re.search(r"\bnan\b", words)
    assert "accuracy" not in words
    assert "the test loss is" in page
    assert red_pixels(tmp_path / "figures" / "harmful-task.png") > 500
    table = mf.level_table([mf.study_group(result)], "task")
    assert not [heading for heading in table.titles if heading.startswith("acc")]
    assert "loss edited" in table.titles
    assert "accuracy" not in (tmp_path / "results.csv").read_text()
    assert all(len(row) == len(table.titles) for row in table.rows)


def test_cifar_comes_in_one_archive():
    assert [one.path for one in fc100.FC100().sources()] == ["cifar-100-python.tar.gz"]
