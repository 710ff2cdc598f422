"""Tasks, weights, episodes and corruption."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st

import metafluence as mf
from metafluence import Batch, Corruption, Episodes, InputError, Labelled, Task, TaskSet, Weights, corrupt, sample
from metafluence.testing.problems import task_sets

EACH = 60


def task(name: str = "a", support: int = 3, query: int = 2, features: int = 4) -> Task:
    def half(n: int) -> Batch:
        return Batch(torch.ones(n, features).double(), torch.arange(n) % 2)

    return Task(name, half(support), half(query))


def labelled(classes: int = 10, each: int = EACH) -> Labelled:
    labels = torch.arange(classes).repeat_interleave(each)
    inputs = torch.arange(classes * each).double().unsqueeze(1)  # every instance is its own number
    return Labelled(inputs, labels, tuple(str(c) for c in range(classes)))


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_tasks_of_unequal_shape_are_named():
    with pytest.raises(InputError, match=r"Task 'b' has support inputs of shape \(4, 4\), but task 'a' has \(3, 4\)"):
        TaskSet.stack([task("a"), task("b", support=4)])


def test_nan_in_the_inputs_is_found_and_named():
    bad = task("broken")
    bad.query.inputs[1, 2] = torch.nan
    with pytest.raises(InputError, match=r"Task 'broken' has NaN or infinite values in query instance 1"):
        TaskSet.stack([task("a"), bad])


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "no task to stack"),
        ([task("a"), task("a")], "Two tasks are called 'a'"),
        ([Task("a", Batch(torch.ones(2, 1).long(), torch.zeros(2).long()), task().query)], "Convert them to floating"),
        ([Task("a", Batch(torch.ones(2, 1), torch.tensor([0, -1])), task().query)], "class numbers"),
    ],
)
def test_bad_tasks_are_refused(tasks, message):
    with pytest.raises(InputError, match=message):
        TaskSet.stack(tasks)


@given(task_sets())
def test_fingerprint_depends_on_every_value_and_on_nothing_else(tasks):
    assert tasks[list(range(len(tasks)))].fingerprint() == tasks.fingerprint()
    changed = tasks.query.inputs.clone()
    changed[-1, -1, -1] += 1e-9
    assert replace(tasks, query=Batch(changed, tasks.query.targets)).fingerprint() != tasks.fingerprint()
    assert replace(tasks, ids=tasks.ids[::-1]).fingerprint() != tasks.fingerprint()


@given(task_sets(), st.data())
def test_removing_sets_one_weight_to_zero_and_no_other(tasks, data):
    ones = Weights.ones(tasks)
    for level in mf.WEIGHED:
        count = getattr(ones, level).numel()
        item = data.draw(st.integers(0, count - 1))
        without = ones.without(level, item)
        assert getattr(without, level).reshape(-1)[item] == 0
        assert sum(float(getattr(without, other).sum()) for other in mf.WEIGHED) == (
            sum(getattr(ones, other).numel() for other in mf.WEIGHED) - 1
        )
        assert bool((getattr(ones, level) == 1).all())


def test_weights_name_an_item_that_is_not_there():
    tasks = TaskSet.stack([task("a"), task("b")])
    with pytest.raises(InputError, match="no task item 2: give one from 0 to 1"):
        Weights.ones(tasks).without("task", 2)
    with pytest.raises(InputError, match="no level 'tasks'"):
        Weights.ones(tasks).without("tasks", 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["classes", "instances"])
def test_the_three_sets_share_nothing(split):
    episodes = Episodes(train=6, validation=4, test=4, way=2, shot=2, query=2, split=split)
    drawn = sample(labelled(), episodes, gen(), torch.float64)
    seen = [
        {int(x) for half in (s.support, s.query) for x in half.inputs.flatten()}
        for s in (drawn.train, drawn.validation, drawn.test)
    ]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    if split == "classes":
        classes = [{x // EACH for x in part} for part in seen]
        assert not classes[0] & (classes[1] | classes[2])


def test_an_episode_has_its_shape_its_classes_and_disjoint_halves():
    drawn = sample(labelled(), Episodes(5, 1, 1, way=3, shot=2, query=4, split="instances"), gen(), torch.float32)
    train = drawn.train
    assert train.support.inputs.shape == (5, 6, 1)
    assert train.query.targets.shape == (5, 12)
    assert train.dtype == torch.float32
    for i in range(5):
        assert not set(train.support.inputs[i].flatten().tolist()) & set(train.query.inputs[i].flatten().tolist())
        for half in (train.support, train.query):
            original = half.inputs[i].flatten().long() // EACH
            for way in range(3):
                assert len(set(original[half.targets[i] == way].tolist())) == 1


def test_sampling_is_a_function_of_the_seed_and_sets_do_not_shift_each_other():
    one = sample(labelled(), Episodes(4, 2, 2, way=2, split="instances"), gen(1), torch.float64)
    same = sample(labelled(), Episodes(4, 2, 9, way=2, split="instances"), gen(1), torch.float64)
    other = sample(labelled(), Episodes(4, 2, 2, way=2, split="instances"), gen(2), torch.float64)
    assert one.train.fingerprint() == same.train.fingerprint()
    assert one.validation.fingerprint() == same.validation.fingerprint()
    assert one.train.fingerprint() != other.train.fingerprint()


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        (Episodes(way=5), "validation split has 2 classes, fewer than way=5"),
        (Episodes(way=2, shot=35, query=35), "has 60 instances; shot \\+ query needs 70"),
    ],
)
def test_impossible_episodes_say_what_to_change(episodes, message):
    with pytest.raises(InputError, match=message):
        sample(labelled(), episodes, gen(), torch.float64)


@given(
    task_sets(min_tasks=4, max_tasks=8),
    st.sampled_from(["query-labels", "support-labels"]),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_label_corruption_changes_what_it_marks_and_nothing_else(tasks, kind, fraction, strength):
    found = corrupt(tasks, Corruption(kind, fraction, strength), gen())
    half = kind.removesuffix("-labels")
    changed = getattr(found, half).targets != getattr(tasks, half).targets
    assert torch.equal(changed, getattr(found, f"corrupted_{half}"))
    per_task = round(strength * changed.shape[1])
    assert sorted(changed.sum(dim=1).tolist()) == sorted(
        [per_task] * round(fraction * len(tasks)) + [0] * (len(tasks) - round(fraction * len(tasks)))
    )
    assert int(getattr(found, half).targets.max()) < tasks.ways
    other = {"support": "query", "query": "support"}[half]
    assert torch.equal(getattr(found, other).targets, getattr(tasks, other).targets)
    assert torch.equal(found.support.inputs, tasks.support.inputs)


def test_noise_spoils_inputs_of_the_chosen_tasks_only():
    tasks = sample(labelled(), Episodes(40, 1, 1, way=2, split="instances"), gen(), torch.float64).train
    found = corrupt(tasks, Corruption("noise", 0.25, 3.0), gen())
    moved = (found.support.inputs - tasks.support.inputs).flatten(1)
    assert torch.equal(moved.abs().sum(dim=1) > 0, found.corrupted)
    assert int(found.corrupted.sum()) == 10
    assert 2.2 < float(moved[found.corrupted].std()) < 3.8
    assert torch.equal(found.query.targets, tasks.query.targets)


def test_a_pair_of_strengths_gives_every_task_its_own():
    tasks = sample(
        labelled(), Episodes(40, 1, 1, way=2, shot=2, query=10, split="instances"), gen(), torch.float64
    ).train
    found = corrupt(tasks, Corruption("query-labels", 0.5, (0.1, 1.0)), gen())
    counts = found.corrupted_query.sum(dim=1)[found.corrupted]
    assert len(set(counts.tolist())) > 5
    assert counts.min() >= 2
    assert counts.max() <= 20


@pytest.mark.parametrize(("fraction", "strength"), [(1.5, 0.5), (0.5, 1.5), (0.5, -1.0), (0.5, (0.9, 0.1))])
def test_corruption_out_of_range_is_refused(fraction, strength):
    with pytest.raises(InputError, match=r"(?i)corruption.*(is expected|Give one between|give the smaller)"):
        Corruption("query-labels", fraction, strength)
