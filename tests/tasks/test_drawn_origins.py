"""Where instances come from: what is drawn, names, refusals, and labels that are wrong in the data set."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

import metafluence as mf
from metafluence import Corruption, Episodes, InputError, Labelled, Origins
from small_problems import seeded

EPISODES = Episodes(train=6, validation=2, test=2, way=3, shot=2, query=2)


def data(seed: int = 0, classes: int = 15, each: int = 20) -> Labelled:
    """Images in random order, each with the number of its own as its pixels."""
    labels = torch.arange(classes).repeat(each)[torch.randperm(classes * each, generator=seeded(seed))]
    inputs = torch.arange(float(len(labels))).view(-1, 1, 1, 1)
    return Labelled(inputs, labels, tuple(f"class {c}" for c in range(classes)))


@given(seed=st.integers(0, 2**20), split=st.sampled_from(["classes", "instances"]))
@settings(max_examples=15)
def test_origins_are_where_instances_were_drawn(seed, split):
    whole = data(seed)
    drawn = mf.sample(whole, mf.Episodes(**{**vars(EPISODES), "split": split, "way": 2}), seeded(seed), torch.float64)
    for tasks in (drawn.train, drawn.validation, drawn.test):
        origins = tasks.origins
        assert origins is not None
        for half in ("support", "query"):
            images, numbers = getattr(origins, half), getattr(tasks, half).inputs.flatten(1).long()
            for image, number in zip(images.flatten().tolist(), numbers.flatten().tolist(), strict=True):
                title, within = origins.images[image].rsplit("/", 1)
                assert title == whole.classes[int(whole.labels[number])] == origins.classes[int(origins.labels[image])]
                assert int((whole.labels[:number] == whole.labels[number]).sum()) == int(within)
        held = torch.cat([origins.support.flatten(), origins.query.flatten()])
        assert sorted(set(held.tolist())) == list(range(tasks.items("image")))
        assert sorted(set(origins.labels.tolist())) == list(range(tasks.items("class")))


def test_names_of_the_data_set_are_kept():
    whole = data()
    named = Labelled(
        whole.inputs, whole.labels, whole.classes, names=tuple(f"{i}.png" for i in range(len(whole.labels)))
    )
    tasks = mf.sample(named, EPISODES, seeded(), torch.float64).train
    assert tasks.origins is not None
    numbers = tasks.query.inputs.flatten().long().tolist()
    assert [tasks.origins.images[i] for i in tasks.origins.query.flatten().tolist()] == [f"{n}.png" for n in numbers]
    with pytest.raises(mf.DataError, match="300 inputs but 2 names; make them as many"):
        Labelled(whole.inputs, whole.labels, whole.classes, names=("a", "b"))


@given(seed=st.integers(0, 2**20), fraction=st.floats(0.05, 1.0))
@settings(max_examples=15)
def test_wrong_labels_are_those_of_a_data_set_in_which_they_are_wrong(seed, fraction):
    whole = data(seed)
    clean = mf.sample(whole, EPISODES, seeded(seed), torch.float64).train
    found = mf.corrupt(clean, Corruption(kind="image-labels", fraction=fraction), seeded(seed + 1))
    assert found.origins is not None
    # Each image's pixels are its number in the data set, so that an exchange of labels can be read off.
    exchanged, swapped = whole.inputs.clone(), 0
    for before, after in ((clean.support, found.support), (clean.query, found.query)):
        was, now = before.inputs.flatten().long(), after.inputs.flatten().long()
        exchanged[was] = now.double().view(-1, 1, 1, 1).to(exchanged)
        swapped += int((was != now).sum())
    again = mf.sample(Labelled(exchanged, whole.labels, whole.classes), EPISODES, seeded(seed), torch.float64).train
    assert torch.equal(found.support.inputs, again.support.inputs)
    assert torch.equal(found.query.inputs, again.query.inputs)
    assert torch.equal(found.query.targets, clean.query.targets)
    moved = (exchanged != whole.inputs).flatten().nonzero().flatten()
    assert torch.equal(whole.inputs[exchanged.flatten().long()[moved]], exchanged[moved])
    back = exchanged.flatten().long()
    assert torch.equal(back[back[moved]], moved), "labels are exchanged in pairs"
    assert bool((whole.labels[moved] != whole.labels[back[moved]]).all()), "of two classes"
    marks = found.corrupted_items("image")
    names = {f"{whole.classes[int(whole.labels[n])]}/{int((whole.labels[:n] == whole.labels[n]).sum())}" for n in moved}
    assert {found.origins.images[i] for i in marks.nonzero().flatten().tolist()} == names
    assert int(found.corrupted_support.sum() + found.corrupted_query.sum()) == swapped
    images = clean.items("image")
    assert len(moved) <= 2 * round(fraction * images / 2)
    assert len(moved) >= 2 * round(fraction * images / 2) - images // 2


def test_what_makes_no_origins_is_refused():
    numbers = torch.zeros(2, 3, dtype=torch.int64)
    right = {"support": numbers, "query": numbers, "images": ("a",), "labels": torch.zeros(1).long(), "classes": ("c",)}
    Origins(**right)
    for change, message in (
        ({"labels": torch.zeros(2).long()}, "1 images but 2 labels; make them as many"),
        ({"query": numbers + 1}, "The query of origins have the number 1, but there are 1 images"),
        ({"labels": torch.ones(1).long()}, "The labels of origins have the number 1, but there are 1 classes"),
        ({"support": numbers.double()}, r"The support of origins are torch.float64 \[2, 3\]. Give int64 \[N, n\]"),
        ({"query": numbers[0]}, r"The query of origins are torch.int64 \[3\]"),
    ):
        with pytest.raises(InputError, match=message):
            Origins(**{**right, **change})
    half = mf.Batch(torch.zeros(2, 2, 1), torch.tensor([[0, 1], [0, 1]]))
    with pytest.raises(
        InputError, match=r"origins of the support instances have shape \(2, 3\), the instances \(2, 2\)"
    ):
        mf.TaskSet(half, half, ("0", "1"), origins=Origins(**right))
    with pytest.raises(InputError, match=r"corruption\.strength is 0\.2, but image-labels have none"):
        Corruption(kind="image-labels", strength=0.2)
    with pytest.raises(InputError, match="level 'image' are not known"):
        mf.corrupt(mf.TaskSet(half, half, ("0", "1")), Corruption(kind="image-labels"), seeded())
    same = Origins(numbers[:, :2], numbers[:, :2], ("a",), torch.zeros(1).long(), ("c",))
    with pytest.raises(InputError, match="images of one class alone"):
        mf.corrupt(mf.TaskSet(half, half, ("0", "1"), origins=same), Corruption(kind="image-labels"), seeded())
