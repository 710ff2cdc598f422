"""The images of a recorded loop: every instance keeps its name through batches that number their own images."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

import metafluence as mf
from metafluence import Batch, InputError, Origins, TaskSet
from metafluence.training.recorded_tasks import RecordedTasks, as_tasks, load_tasks
from small_loops import learner, recorded, validation

CPU = torch.device("cpu")


def set_of(origins: Origins, first: int, marks: torch.Tensor | None = None) -> TaskSet:
    """Tasks of random values with these origins."""
    tasks, n = origins.support.shape[0], origins.support.shape[1]
    x = torch.randn(tasks, n, 2, generator=torch.Generator().manual_seed(first), dtype=torch.float64)
    half = Batch(x, torch.arange(n).expand(tasks, n))
    ids = tuple(f"task-{first + i}" for i in range(tasks))
    return TaskSet(half, half, ids, marks, None, origins)  # type: ignore[arg-type]


def said(origins: Origins | None) -> list[list[tuple[str, str]]]:
    """The name and class of every instance, support and then query, task by task."""
    assert origins is not None
    numbers = torch.cat([origins.support, origins.query], dim=1)
    return [[(origins.images[i], origins.classes[origins.labels[i]]) for i in own] for own in numbers.tolist()]


@settings(max_examples=25, deadline=None)
@given(tasks=st.lists(st.lists(st.integers(0, 8), min_size=4, max_size=4), min_size=1, max_size=6), data=st.data())
def test_every_instance_is_named_as_its_batch_named_it(tasks, data, tmp_path_factory):
    """Each batch numbers a data set of nine images in an order of its own, with images that it does not use."""
    folder = tmp_path_factory.mktemp("run")
    kept, expected, first = RecordedTasks(folder), [], 0
    while first < len(tasks):
        size = data.draw(st.integers(1, len(tasks) - first))
        order = data.draw(st.permutations(range(9)))
        classes = data.draw(st.permutations(range(3)))
        numbers = torch.tensor([[order.index(i) for i in own] for own in tasks[first : first + size]])
        labels = torch.tensor([classes.index(i // 3) for i in order])
        names = tuple(f"image-{i}" for i in order), tuple(f"class-{c}" for c in classes)
        batch = set_of(Origins(numbers[:, :2], numbers[:, 2:], names[0], labels, names[1]), first)
        kept.add(batch, named=True)
        expected += said(batch.origins)
        if data.draw(st.booleans()):
            kept.write()
        first += size
    kept.write()
    found = load_tasks(folder, CPU).origins
    assert said(found) == expected
    assert found is not None
    assert set(found.images) == {f"image-{i}" for own in tasks for i in own}


def test_marks_of_corruption_are_kept(tmp_path):
    marks = torch.tensor([[True, False], [False, False]])
    kept = RecordedTasks(tmp_path)
    kept.add(set_of(Origins.named([["a/1", "a/2"]] * 2, [["b/1", "b/2"]] * 2), 0, marks), named=True)
    kept.write()
    found = load_tasks(tmp_path, CPU)
    assert torch.equal(found.corrupted_support, marks)
    assert not found.corrupted_query.any()


def test_an_image_with_two_classes_is_refused(tmp_path):
    kept = RecordedTasks(tmp_path)
    kept.add(set_of(Origins.named([["x", "y"]], [["x", "y"]], {"x": "cats", "y": "cats"}), 0), named=True)
    other = Origins.named([["y", "z"]], [["y", "z"]], {"y": "dogs", "z": "cats"})
    with pytest.raises(InputError, match=r"'y' is of class 'cats' in one task and of 'dogs' in another.*Give"):
        kept.add(set_of(other, 1), named=True)


def test_two_images_of_one_name_are_refused(tmp_path):
    twins = Origins(torch.tensor([[0, 1]]), torch.tensor([[0, 1]]), ("x", "x"), torch.tensor([0, 0]), ("cats",))
    with pytest.raises(InputError, match="Two images of a task are called 'x'"):
        RecordedTasks(tmp_path).add(set_of(twins, 0), named=True)


def test_names_are_given_for_all_tasks_or_for_none(tmp_path):
    kept = RecordedTasks(tmp_path)
    named = set_of(Origins.named([["a/1", "a/2"]], [["a/1", "a/2"]]), 0)
    kept.add(named, named=True)
    with pytest.raises(InputError, match="Name those of all, or of none"):
        kept.add(TaskSet(named.support, named.query, ("other",)), named=True)


def four() -> tuple[torch.Tensor, ...]:
    return tuple(part[0] for part in validation())


NAMES = ["a/1", "a/2", "b/1", "b/2"]


@pytest.mark.parametrize("stacked", [False, True])
def test_a_task_may_be_given_with_the_names_of_its_images(stacked):
    single, several = (*four(), NAMES, NAMES[::-1]), (*validation(), [NAMES] * 3, [NAMES[::-1]] * 3)
    found = as_tasks(several if stacked else [single, single], 1)[0].origins
    assert said(found)[1] == [(name, name[0]) for name in (*NAMES, *NAMES[::-1])]
    assert said(as_tasks(single, 1)[0].origins) == said(found)[:1]


def test_classes_of_images_may_be_given():
    names = ["1", "2", "3", "4"]
    origins = as_tasks((*four(), names, names), 1, {"1": "a", "2": "a", "3": "b", "4": "b"})[0].origins
    assert said(origins)[0][2] == ("3", "b")


@pytest.mark.parametrize(
    ("names", "classes", "what"),
    [
        (["1", "2", "3", "4"], None, "class of the image '1' is not known. Name images CLASS/FILE"),
        (["1", "2", "3", "4"], {"1": "a"}, "class of the image '2' is not known. Give `classes`"),
        (NAMES[:3], None, "Give the number of an image for each instance"),
        ("a/1", None, "Give a list, a name for each instance"),
    ],
)
def test_wrong_names_are_refused(names, classes, what):
    with pytest.raises(InputError, match=what):
        as_tasks([(*four(), names, names)], 1, classes)


def test_tasks_of_different_forms_are_refused():
    with pytest.raises(InputError, match="in all tasks or in none"):
        as_tasks([(*four(), NAMES, NAMES), four()], 1)


def test_the_score_of_an_image_is_the_sum_over_its_places(tmp_path):
    """Oracle: the scores of the support and query instances, found by the names that the loop gave."""
    run = recorded(tmp_path)
    assert run.weights.origins is not None
    run = mf.load_recording(tmp_path, learner())
    names = run.problem.tasks.origins
    assert names is not None
    new = validation()
    tasks = TaskSet(Batch(*new[:2]), Batch(*new[2:]), ("v1", "v2", "v3"))
    targets = mf.Targets(run.problem, tasks, run.final)

    def scores(level):
        context = mf.Context(run.problem.at(run.final), level=level, run=run)
        return mf.attribute(mf.build("method", "run-influence"), context, targets).values[:, 0]

    by_level = {level: scores(level) for level in ("support", "query", "image")}
    total = dict.fromkeys(names.images, 0.0)
    for half in ("support", "query"):
        for number, score in zip(getattr(names, half).flatten().tolist(), by_level[half].tolist(), strict=True):
            total[names.images[number]] += score
    found = dict(zip(names.images, by_level["image"].tolist(), strict=True))
    assert found == pytest.approx(total, rel=1e-9, abs=1e-15)
    assert max(map(abs, found.values())) > 1e-6
