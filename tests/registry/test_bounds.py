"""Numbers of components: every one has bounds, which hold from configuration and in Python."""

import dataclasses
import typing
from typing import Annotated

import pytest
from pydantic import Field

import metafluence as mf
from metafluence.registry.bounds import expected, is_number, limits, shown_type

SHIPPED = mf.default_registry()
KINDS = ("trainer", "executor", "dataset", "method", "solver", "preconditioner")
ENTRIES = [entry for kind in KINDS for entry in SHIPPED.entries(kind)]
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
    if typing.get_origin(hint) is Annotated:
        yield typing.get_args(hint)[0], limits(hint)
    elif hint in (int, float):
        yield hint, {}
    else:
        for argument in typing.get_args(hint):
            yield from numbers(argument)


def fields(entry):
    cls = SHIPPED.load(entry.kind, entry.name)
    hints = typing.get_type_hints(cls, include_extras=True)
    return cls, {f.name: hints[f.name] for f in dataclasses.fields(cls) if is_number(hints[f.name])}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.kind}-{e.name}")
def test_every_number_of_a_shipped_component_has_bounds(entry):
    _, annotated = fields(entry)
    for name, hint in annotated.items():
        for _, found in numbers(hint):
            assert found.keys() & {"gt", "ge"}, f"{name} has no lower bound"
            assert found.keys() & {"lt", "le"}, f"{name} has no upper bound"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.kind}-{e.name}")
def test_numbers_out_of_bounds_are_refused_from_configuration_and_in_python(entry):
    cls, annotated = fields(entry)
    needed = {f.name: "x" for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}
    for name, hint in annotated.items():
        kind, found = next(numbers(hint))
        for what, bad in BAD.items():
            value = bad(found)
            if value == found.get("le"):  # a tolerance may be infinite
                continue
            given = [value, value] if typing.get_origin(hint) is tuple else value
            message = rf"{name} is .* but .*{'number' if kind is float else 'whole number'}.* is expected"
            with pytest.raises(mf.ConfigError, match=message):
                SHIPPED.build(entry.kind, {"use": entry.name, **needed, name: given})
            with pytest.raises(mf.InputError, match=message):
                cls(**needed, **{name: given})
            assert what


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (mf.Tolerance, "a number above 0 and below 1"),
        (mf.Count | None, "a whole number at least 1 and at most 1e9 or none"),
        (Annotated[int, Field(ge=2)], "a whole number at least 2"),
        (
            tuple[mf.Share, mf.Share],
            "a list of 2: a number at least 0 and at most 1, a number at least 0 and at most 1",
        ),
        (tuple[int, ...], "a list, each a whole number"),
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
