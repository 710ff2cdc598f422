"""The tasks of a recorded loop: the forms that a step may have, and the files that hold them."""

import pytest
import torch

from metafluence import InputError, StoreError, Task
from metafluence.training.recorded_tasks import RecordedTasks, as_tasks, load_tasks
from small_problems import tasks

THREE = tasks(3)
FOUR = (THREE.support.inputs, THREE.support.targets, THREE.query.inputs, THREE.query.targets)
EACH = [Task(name, THREE[[i]].support[0], THREE[[i]].query[0]) for i, name in enumerate(THREE.ids)]
FORMS = {
    "task set": (THREE, 3, True),
    "task": (EACH[0], 1, True),
    "tasks": (EACH, 3, True),
    "stacked": (FOUR, 3, False),
    "stacked list": (list(FOUR), 3, False),
    "tuples": (list(zip(*FOUR, strict=True)), 3, False),
    "one": (tuple(part[0] for part in FOUR), 1, False),
}


@pytest.mark.parametrize(("batch", "count", "named"), FORMS.values(), ids=FORMS.keys())
def test_a_step_may_be_given_in_any_of_these_forms(batch, count, named):
    found, has_ids = as_tasks(batch, step=4)
    assert has_ids == named
    assert found.ids == (THREE.ids[:count] if named else tuple(f"step-4-{i}" for i in range(count)))
    for half in ("support", "query"):
        for what in ("inputs", "targets"):
            assert torch.equal(getattr(getattr(found, half), what), getattr(getattr(THREE, half), what)[:count])


def test_one_task_of_real_targets_is_told_from_a_stack():
    real = [part.unsqueeze(-1).double() if part.dim() == 2 else part for part in FOUR]
    assert len(as_tasks(real, 1)[0]) == 3
    assert len(as_tasks([part[0] for part in real], 1)[0]) == 1


@pytest.mark.parametrize("batch", [{"train": FOUR}, [], [FOUR[:3]], [1, 2], None, "four"])
def test_anything_else_is_refused(batch):
    with pytest.raises(InputError, match="that is no task"):
        as_tasks(batch, 1)


def test_tasks_come_back_in_their_order_from_several_files(tmp_path):
    recorded = RecordedTasks(tmp_path)
    for part in (THREE[:2], THREE[1:]):
        recorded.add(part, named=True)
        recorded.write()
    found = load_tasks(tmp_path, torch.device("cpu"))
    assert found.fingerprint() == THREE.fingerprint()
    first, _ = sorted(tmp_path.iterdir())
    first.unlink()
    with pytest.raises(StoreError, match="has lost the tasks from 0 on"):
        load_tasks(tmp_path, torch.device("cpu"))


def test_later_changes_of_a_batch_do_not_reach_what_is_recorded(tmp_path):
    recorded = RecordedTasks(tmp_path)
    given = tuple(part.clone() for part in FOUR)
    recorded.add(as_tasks(given, 1)[0], named=False)
    given[0].zero_()
    recorded.write()
    assert torch.equal(load_tasks(tmp_path, torch.device("cpu")).support.inputs, FOUR[0])
