"""The command `check`: faults in sentences, and the code of its end."""

import re

import pytest

import metafluence as mf
from metafluence.testing import Fault, checked
from small_studies import command

WRONG = '''
from dataclasses import dataclass
from metafluence import Solver, Executor, AttributionMethod, Scores, Dataset
import torch

@dataclass(frozen=True)
class Half(Executor):
    """Forgets the last item, and stumbles over tensors."""

    def map(self, function, items, notice=print):
        for index, item in enumerate(items[:-1]):
            if isinstance(item, torch.Tensor):
                raise KeyError("no tensors")
            yield index, function(item)


@dataclass(frozen=True)
class Dice(AttributionMethod):
    """Draws its scores."""

    units = "rank_only"

    def prepare(self, context):
        return context

    def scores(self, state, targets):
        drawn = torch.rand(state.items, 1, generator=state.generator, dtype=torch.float64)
        return Scores(drawn.expand(-1, targets.count), state.level, self.units)
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "registry.yaml").write_text(
        "components:\n  executor:\n    half: ./wrong.py:Half\n"
        "    all: {use: serial}\n  method:\n    dice: ./wrong.py:Dice\n"
    )
    return tmp_path


def test_faults_come_first_in_sentences_and_name_the_line(folder):
    (folder / "registry.yaml").write_text(
        "components:\n  executor:\n    all: {use: serial}\n    half: ./wrong.py:Half\n"
    )
    done = command(folder, "check", "registry.yaml")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "executor half: 5 of 6 checks fail."
    assert lines[1].startswith("  once: Every index comes once, with the result of its item: of none, one, and more")
    assert lines[2].endswith("It raised KeyError: 'no tensors' (wrong.py, line 13).")
    assert lines[-1].startswith("executor all: all 6 checks hold (once, tensors,")
    assert "Traceback" not in done.stdout
    told = command(folder, "check", "registry.yaml", "--traceback").stdout
    assert "Traceback (most recent call last)" in told
    assert command(folder, "check", "registry.yaml", "--skip", "oncce").returncode == 2


def test_a_method_that_samples_is_told_what_to_skip(folder):
    method = mf.default_registry(folder=folder).build("method", "dice")
    found = checked(method, skip={"contract", "sign", "edits", "additivity", "batches", "chunks", "seed"})
    assert found.checks == ("order", "twins", "silent")
    failed = {fault.partition(",")[0]: fault for fault in found.faults}
    assert set(failed) == {"order", "twins", "silent"}
    assert failed["twins"].endswith(
        "Its scores change with the seed; if that is meant, skip this check: skip={'twins'}."
    )
    assert all(isinstance(fault, Fault) and fault.traceback for fault in found.faults)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.py"], "There is no file none.py"),
        (["lonely.py"], "No registry.yaml in .* names lonely.py. Add under components and its kind: lonely: "),
        (["empty.yaml"], "empty.yaml registers no component"),
        (["wrong.py", "--skip", "twin"], "Unknown check .*'twin'"),
    ],
)
def test_what_cannot_be_checked_is_refused(folder, words, message):
    (folder / "lonely.py").write_text("")
    (folder / "empty.yaml").write_text("components: {}\n")
    done = command(folder, "check", *words)
    assert done.returncode == 2
    assert re.search(message, done.stderr), done.stderr
