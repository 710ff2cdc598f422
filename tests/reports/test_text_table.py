"""Tables for papers: LaTeX, Markdown, the best of each column."""

import re

import pytest

from metafluence.reports.text_table import escape, filled, latex, markdown, number, write_tables

HEADINGS = ["method", "Δλ error", "seconds", "note"]
ROWS = [
    ["task-if leave_out=True", "12.3 %", "1e-05", "–"],
    ["a|b & 50 % #1", "9.8 %", "-0.097", "–"],
    ["retrain", "0.0 %", "–", "–"],
]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("0.97", 0.97),
            ("12.3 %", 12.3),
            ("1e-05", 1e-5),
            ("−0.5", -0.5),
            ("-3", -3),
            ("–", None),
            ("0.9 to 1", None),
        ),
        *(("0.5 ± 0.1", 0.5), ("0.9 (0.8 to 1)", 0.9), ("9.8 % (0 to 20)", 9.8), ("5.0 ± 1 %", 5)),
        *(("0.9 to 1", None), ("0.2, 0.4", 0.3), ("20.0 %, 30.0 %", 25.0), ("a, b", None), ("0.2, b", None)),
    ],
)
def test_cells_are_read_as_what_they_say(text, value):
    assert number(text) == (value if value is None else pytest.approx(value))


def test_columns_that_say_nothing_are_known():
    assert filled(ROWS) == [0, 1, 2]
    assert filled([]) == []


def test_latex_is_escaped_and_balanced():
    text = latex(HEADINGS, ROWS, {(1, 1)}, caption="50 % of it", label="tab:x")
    assert r"\usepackage{booktabs}" in text.splitlines()[0]
    for piece in (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"\begin{tabular}{lrrl}",
        r"leave\_out=True",
        r"\& 50 \% \#1",
    ):
        assert piece in text
    assert r"\textbf{9.8 \%} & $-$0.097" in text
    assert r"$\Delta$$\lambda$ error" in text
    assert r"\caption{50 \% of it}" in text
    body = text.split("\n", 1)[1]
    assert not re.search(r"(?<!\\)[%#_]", body)
    assert body.isascii()
    assert body.count("{") == body.count("}")
    assert {line.count(" & ") for line in body.splitlines() if line.endswith(r"\\")} == {3}
    assert escape("a\\b~c^d{e}$") == r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d\{e\}\$"


def test_markdown_lines_up_and_escapes_what_would_end_a_cell():
    lines = markdown(HEADINGS, ROWS, {(1, 1)}).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert r"a\|b \& 50 % #1" in lines[3]
    assert "**9.8 %**" in lines[3]
    assert re.fullmatch(r"\| -+ \| -+: \| -+: \| -+ \|", lines[1])


def test_both_are_written(tmp_path):
    write_tables(tmp_path / "tables", "task", HEADINGS, ROWS)
    assert r"\label{tab:task}" in (tmp_path / "tables" / "task.tex").read_text()
    assert (tmp_path / "tables" / "task.md").exists()
