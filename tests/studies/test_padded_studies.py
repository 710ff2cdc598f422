"""A study of tasks that differ in size: whole at level task, refused where padding would be an item."""

from pathlib import Path

import pandas as pd
import pytest

from small_studies import Done, command, write

DATA = '''
from dataclasses import dataclass

import torch

import metafluence as mf


@dataclass(frozen=True)
class Uneven(mf.Dataset):
    """Small pictures, in tasks of 2 to 6 instances."""

    def tasks(self, episodes, generator, dtype):
        def half(n):
            classes = torch.arange(n) % 2
            noise = torch.rand(n, 1, 2, 2, generator=generator, dtype=dtype)
            return mf.Batch((noise + classes.view(-1, 1, 1, 1)) / 2, classes)

        def some(name, count):
            return mf.pad_tasks(mf.Task(f"{name}-{i}", half(2 + i % 3), half(4 + i % 3)) for i in range(count))

        return mf.Split(*(some(name, getattr(episodes, name)) for name in ("train", "validation", "test")))
'''
REGISTRY = "components:\n  dataset:\n    uneven:\n      at: ./uneven.py:Uneven\n      about: tasks of several sizes\n"


def uneven(folder: Path, levels: list[str]) -> Done:
    (folder / "uneven.py").write_text(DATA)
    (folder / "registry.yaml").write_text(REGISTRY)
    options = {"dataset": "uneven", "solvers": ["exact"], "methods": ["task-if", "loss"], "truth": {"items": 6}}
    write(folder, **options, levels=levels)
    return command(folder, "run", "study.yaml")


@pytest.mark.slow
def test_a_study_of_uneven_tasks(tmp_path):
    done = uneven(tmp_path, ["task"])
    assert done.returncode == 0, done.stdout + done.stderr
    (table,) = tmp_path.rglob("results.csv")
    assert pd.read_csv(table).set_index("method").loc["task-if", "spearman"] > 0.9


def test_padding_is_no_item_of_a_study(tmp_path):
    refused = uneven(tmp_path, ["task", "query"])
    assert refused.returncode
    assert "differ in numbers of instances" in refused.stdout + refused.stderr
