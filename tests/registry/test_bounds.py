"""Numbers of components: every one has bounds, which hold from configuration and in Python."""

import dataclasses
import typing
from typing import Annotated

import pytest
import torch
from pydantic import BaseModel, Field

import metafluence as mf
from metafluence.networks import build_module
from metafluence.registry.bounds import expected, is_number, limits, shown_type
from metafluence.studies import config, variations

SHIPPED = mf.default_registry()
ENTRIES = [entry for kind in SHIPPED.kinds() for entry in SHIPPED.entries(kind)]
NEEDED = {"backbone": "mlp", "path": "x"}
CLASSES = {name: found for module in (config, variations) for name, found in vars(module).items()}
MODELS = [
    found
    for found in CLASSES.values()
    if isinstance(found, type) and (issubclass(found, BaseModel) or dataclasses.is_dataclass(found))
]
BAD = {
    "below": lambda found: found["gt"] if "gt" in found else found["ge"] - 1,
    "above": lambda found: found["lt"] if "lt" in found else found["le"] * 2 + 1,
    "true": lambda found: True,
    "nan": lambda found: float("nan"),
    "infinite": lambda found: float("inf"),
    "text": lambda found: "many",
}


def numbers(hint):
    """Every number in an annotation, with its constraints."""
    if typing.get_origin(hint) is Annotated and typing.get_args(hint)[0] in (int, float):
        yield typing.get_args(hint)[0], limits(hint)
    elif hint in (int, float):
        yield hint, {}
    else:
        for argument in typing.get_args(hint):
            yield from numbers(argument)


def fields(cls):
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else cls.model_fields
    return {name: hints[name] for name in names if is_number(hints[name])}


def needed(cls):
    """Values of the parameters that have no default."""
    return {
        f.name: NEEDED[f.name] for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING
    }


def unbounded(cls):
    """The numbers of a class that have no lower or no upper bound, by name."""
    return {
        name
        for name, hint in fields(cls).items()
        for _, found in numbers(hint)
        if not (found.keys() & {"gt", "ge"} and found.keys() & {"lt", "le"})
    }


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.kind}-{e.name}")
def test_every_number_of_a_shipped_component_has_bounds(entry):
    assert not unbounded(SHIPPED.load(entry.kind, entry.name))


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_every_number_of_a_study_has_bounds(model):
    assert not unbounded(model)


def test_a_number_without_bounds_is_found():
    @dataclasses.dataclass(frozen=True)
    class Own(mf.Executor):
        rate: float = 0.5
        low: Annotated[float, Field(ge=0)] = 0.5
        sizes: tuple[int, ...] | None = None
        fine: mf.Share | None = None
        note: str = ""

    assert unbounded(Own) == {"rate", "low", "sizes"}
    assert {"StudyConfig", "TruthConfig", "DampingConfig", "PublishedRow", "Episodes", "Corruption"} <= {
        model.__name__ for model in MODELS
    }


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.kind}-{e.name}")
def test_numbers_out_of_bounds_are_refused_from_configuration_and_in_python(entry):
    cls = SHIPPED.load(entry.kind, entry.name)
    for name, hint in fields(cls).items():
        kind, found = next(numbers(hint))
        for what, bad in BAD.items():
            value = bad(found)
            if value == found.get("le"):  # a tolerance may be infinite
                continue
            given = [value, value] if typing.get_origin(hint) is tuple else value
            message = rf"{name} is .* but .*{'number' if kind is float else 'whole number'}.* is expected"
            with pytest.raises(mf.ConfigError, match=message):
                SHIPPED.build(entry.kind, {"use": entry.name, **needed(cls), name: given})
            with pytest.raises(mf.InputError, match=message):
                cls(**needed(cls), **{name: given})
            assert what


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.kind}-{e.name}")
def test_choices_that_there_are_not_are_refused_in_python(entry):
    cls = SHIPPED.load(entry.kind, entry.name)
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if typing.get_origin(hint) is typing.Literal:
            with pytest.raises(mf.InputError, match=f"{name} is 'nonsense', but '{typing.get_args(hint)[0]}' or"):
                cls(**needed(cls), **{name: "nonsense"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fraction": 2}, "Corruption: fraction is 2, but a number at least 0 and at most 1 is expected"),
        ({"fraction": float("nan")}, "fraction is nan, but a number at least 0 and at most 1 is expected"),
        ({"kind": "noise", "strength": float("inf")}, "strength is inf, but a number at least 0 and at most 1e15"),
        ({"strength": (0.1, -1.0)}, "strength is .* but a number at least 0 and at most 1e15 or a list of 2"),
        ({"strength": (0.5, 0.1)}, "give the smaller one first"),
        ({"strength": 1.5}, "of query-labels it is a share. Give one between 0 and 1"),
        (
            {"kind": "noize"},
            "kind is 'noize', but 'query-labels' or 'support-labels' or 'noise' or 'image-labels' is expected",
        ),
    ],
)
def test_corruptions_that_cannot_be_meant_are_refused(given, message):
    with pytest.raises(mf.InputError, match=message):
        mf.Corruption(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"l2": -1}, "l2 is -1, but a number at least 0"),
        ({"l2": float("inf")}, "l2 is inf, but a number at least 0 and at most 1e15"),
        ({"l2": True}, "l2 is True, but a number"),
        ({"memory_gib": -1}, "memory_gib is -1, but a number above 0"),
        ({"memory_gib": 0}, "memory_gib is 0, but a number above 0"),
    ],
)
def test_problems_that_cannot_be_meant_are_refused(given, message):
    half = mf.Batch(torch.zeros(1, 2, 1), torch.tensor([[0, 1]]))
    learner = mf.build("learner", "joint", backbone=torch.nn.Linear(1, 2))
    with pytest.raises(mf.InputError, match=message):
        mf.BilevelProblem(
            learner, mf.TaskSet(half, half, ("a",)), inner_solver=mf.build("solver", "cg"), **({"l2": 1} | given)
        )


@pytest.mark.parametrize("backbone", ["mlp", "small-conv", "conv4", "resnet12"])
def test_a_backbone_that_memory_cannot_hold_is_refused(backbone):
    with pytest.raises(mf.InputError, match=r"outputs does not fit into memory. Give it smaller widths, or fewer"):
        build_module(mf.build("backbone", backbone), torch.Size((1, 16, 16)), 10**15)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (mf.Tolerance, "a number above 0 and below 1"),
        (mf.Count | None, "a whole number at least 1 and at most 1e9 or none"),
        (Annotated[int, Field(ge=2)], "a whole number at least 2"),
        (tuple[mf.Share, mf.Share], "a list of 2, each a number at least 0 and at most 1"),
        (tuple[int, float], "a list of 2: a whole number, a number"),
        (tuple[int, ...], "a list, each a whole number"),
        (Annotated[list[str], Field(min_length=1)], "a list of one or more, each a text"),
        (Annotated[str, Field(description="a word")], "a word"),
        (typing.Literal["a", "b"], "'a' or 'b'"),
    ],
)
def test_annotations_in_words(hint, words):
    assert expected(hint) == words


def test_bounds_are_shown_beside_the_type():
    assert shown_type("Tolerance | None") == "float in (0, 1) | None"
    assert shown_type("tuple[Count, ...]") == "tuple[int in [1, 1e9], ...]"
    assert shown_type("CountDown") == "CountDown"


def test_a_component_of_ones_own_inherits_the_checks():
    @dataclasses.dataclass(frozen=True)
    class Own(mf.Executor):
        share: mf.Share = 0.5
        sizes: tuple[mf.Count, ...] = ()
        note: str = ""

        def __post_init__(self):
            if self.share == 0.25:
                raise mf.InputError("A quarter is too little.")

        def map(self, function, items, notice=None):
            yield from ()

    assert Own(share="0.5", sizes=[1, 2]) == Own(0.5, (1, 2))
    assert dataclasses.replace(Own(), share=1).share == 1.0
    with pytest.raises(mf.InputError, match="Own: share is 2"):
        Own(share=2)
    with pytest.raises(mf.InputError, match="Own: sizes is"):
        Own(sizes=[0])
    with pytest.raises(mf.InputError, match="A quarter"):
        Own(share=0.25)
