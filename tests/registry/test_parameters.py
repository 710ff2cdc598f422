"""Parameters whose names or values pydantic would take otherwise, and files that fail as they are imported."""

import textwrap

import pytest

from metafluence import ConfigError, RegistryError, default_registry

HEAD = "from dataclasses import dataclass, field\nfrom metafluence import Backbone\n"


@pytest.fixture
def build(tmp_path):
    """Build the class X of a one-file component with these fields, or with this whole text."""

    def build(fields: str = "", text: str = "", **params):
        body = textwrap.indent(textwrap.dedent(fields), "    ")
        whole = (
            f"{HEAD}@dataclass(frozen=True)\nclass X(Backbone):\n{body}\n    def module(self, shape, outputs): ...\n"
        )
        (tmp_path / "x.py").write_text(text or whole)
        (tmp_path / "registry.yaml").write_text("components: {backbone: {x: {at: './x.py:X', about: a}}}")
        return default_registry(folder=tmp_path).build("backbone", {"use": "x", **params})

    return build


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["copy", "schema", "validate", "model_config", "model_fields", "_own", "parameter_x"])
def test_a_parameter_can_have_any_name(build, name):
    assert getattr(build(f"{name}: int = 1", **{name: "2"}), name) == 2


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", True),
        ("float | None", False),
        ("tuple[int, ...]", [3, True]),
        ("list[tuple[float, float]]", [[1, 2], [3, False]]),
        ("dict[str, float]", {"a": True}),
    ],
)
def test_a_truth_value_is_no_number(build, kind, value):
    with pytest.raises(ConfigError, match="a yes or no is not a number"):
        build(f"size: {kind} = None", size=value)


@pytest.mark.parametrize(
    ("kind", "value"), [("bool", True), ("bool | None", False), ("int | bool", True), ("dict[str, bool]", {"a": True})]
)
def test_a_truth_value_stays_one_where_it_is_wanted(build, kind, value):
    assert build(f"flag: {kind} = None", flag=value).flag == value


def test_parameters_are_shown_with_made_defaults(build):
    with pytest.raises(ConfigError, match=r"Parameters: sizes=\[\], size=1"):
        build("sizes: list[int] = field(default_factory=list)\nsize: int = 1", siz=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nclass X(:\n", r"SyntaxError.*x\.py, line 2\)"),
        ("import json\n\njson.loads('{')\n", r"JSONDecodeError.*x\.py, line 3\)"),
        ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(.*x\.py, line 2\)"),
    ],
)
def test_a_file_that_fails_names_its_own_line(build, text, message):
    with pytest.raises(RegistryError, match=message):
        build(text=text)
