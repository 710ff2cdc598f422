"""Text from users is shown as it is: figures, pages, tables, csv and the console never interpret it; and a part of a
report that fails is said, and takes nothing else down."""

import csv
import html
import io
import re
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress

import metafluence as mf
from made_outcomes import made_group
from metafluence.cli.progress_bars import Bars
from metafluence.cli.terminal import PLAIN
from metafluence.evaluation import Row
from metafluence.evaluation.error_budget import Budget
from metafluence.evaluation.solver_grid import Cell
from metafluence.reports.comparison.merged import Reported
from metafluence.reports.figures import level
from metafluence.reports.figures.error_budget import error_budget
from metafluence.reports.figures.level import level_figures
from metafluence.reports.figures.methods_and_variations import heat_map
from metafluence.reports.figures.solver_grid import against_truncation, heat_maps
from metafluence.reports.plain_text import in_cell, in_figure, write_csv
from metafluence.reports.style import png
from metafluence.reports.tables import level_table
from metafluence.reports.text_table import latex, markdown

HOSTILE = [
    r"$\frac{$",
    r"$x^2$",
    r"\$5",
    "<script>alert(1)</script>",
    '=cmd|" /C calc"!A0',
    r"\input{x} & % # _ ~ ^",
    "[red]red[/red] [/]",
    "*bold* [link](x)",
    "שלום\u202eעולם",
    "名前",
    "a\tb\nc\x07",
    "long " * 100,
]


def rows(name: str) -> list[Row]:
    first = Row(
        method=name, solver=name, spearman=0.8, auroc=0.9, change_error=0.1, seconds=1.0, accuracy_edited=0.7,
        accuracy_retrained=0.72, loss_retrained=1.0, units="loss_change", notes=(name,),
    )  # fmt: skip
    other = replace(first, method=f"{name} 2", spearman=0.5, auroc=0.6, seconds=2.0, accuracy_retrained=0.71)
    return [first, other, Row(method="task-if", solver=name, status="failed", reason=f"It failed: {name}")]


@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")
def test_every_figure_draws_any_name():
    group = made_group([[row for name in HOSTILE for row in rows(name)]], HOSTILE[0])
    figures = [draw() for draw in level_figures([group], "task").values()]
    figures += [heat_map([group, made_group([rows("b")], name)], "task") for name in HOSTILE[:2]]
    figures.append(heat_maps(tuple(Cell("exact", name, error=0.1, seconds=1.0) for name in HOSTILE)))
    cells = (Cell(HOSTILE[0], f"$x truncation={n}", error=0.1 / n, seconds=1.0 * n) for n in (1, 2, 3))
    figures.append(against_truncation(tuple(cells)))
    figures.append(error_budget([Budget(name, name, total=0.2, first_order=0.1) for name in HOSTILE]))
    drawn = [figure for figure in figures if figure is not None]
    assert len(drawn) == len(figures) - 2, "all but the maps of methods and variations, which need two variations"
    for figure in drawn:
        assert len(png(figure)) > 5000


def test_names_in_figures_are_shown_letter_by_letter():
    figure = Figure()
    axis = figure.subplots()
    text = axis.set_title(in_figure(r"$\alpha$ and $5"))
    figure.draw_without_rendering()
    assert text._preprocess_math(text.get_text()) == (r"$\alpha$ and $5", False)
    assert in_figure("a\tb\x07\u202ec") == "a bc"
    assert len(in_figure("x" * 500)) == 60


def test_budgets_of_one_name_stay_bars_of_their_own():
    figure = error_budget([Budget("a", "x", total=0.2, first_order=0.1), Budget("a", "x", total=0.4, first_order=0.3)])
    assert len({round(bar.get_y(), 3) for bar in figure.axes[0].patches}) == 2


@pytest.mark.parametrize("name", HOSTILE)
def test_latex_and_markdown_hold_any_name_in_one_cell(name):
    table = level_table([made_group([rows(name)], name)], "task")
    text = latex(table.titles, table.rows, table.best, caption=name)
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(table.titles) - 1}
    assert not re.search(r"(?m)^[\[*]", text), "after a row's end it would be an argument"
    commands = {found for found in re.findall(r"\\[a-zA-Z]+", text)}
    assert commands <= {
        r"\usepackage", r"\begin", r"\end", r"\centering", r"\caption", r"\label", r"\toprule", r"\midrule",
        r"\bottomrule", r"\textbf", r"\textbackslash", r"\textasciitilde", r"\textasciicircum", r"\textless",
        r"\textgreater", r"\textbar", r"\Delta", r"\lambda", r"\ldots", r"\pm",
    }  # fmt: skip
    without = text.replace(r"\{", "").replace(r"\}", "")
    assert without.count("{") == without.count("}")
    lines = markdown(table.titles, table.rows).splitlines()
    assert len(lines) == 2 + len(table.rows)
    assert {len(re.findall(r"(?<!\\)\|", line.replace(r"\\", ""))) for line in lines} == {len(table.titles) + 1}
    assert not re.search(r"(?<!\\)[<\[$]", "".join(lines).replace(r"\\", ""))


def test_a_cell_of_a_csv_is_never_a_formula(tmp_path):
    cells = ["=cmd()", "+1+1", "-1+1", "@SUM(A1)", "\tx", "\r=x", "-0.5", "+3", "1e-5", "plain", "a=b", "–"]
    write_csv(tmp_path / "a.csv", pd.DataFrame({"=head": cells, "number": [-0.5] * len(cells)}))
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.reader(file))
    assert read[0] == ["'=head", "number"]
    assert [row[0] for row in read[1:]] == [
        "'=cmd()", "'+1+1", "'-1+1", "'@SUM(A1)", "'\tx", "' =x", "-0.5", "+3", "1e-5", "plain", "a=b", "–",
    ]  # fmt: skip
    assert {row[1] for row in read[1:]} == {"-0.5"}
    assert in_cell("\n=x") == "'\n=x"


def made(name: str, folder: Path) -> mf.Merged:
    outcomes = [one for label in (name, "b") for one in made_group([rows(name)] * 2, label).outcomes]
    outcomes = [replace(one, warnings=(name,)) for one in outcomes]
    source = Reported(name, {"name": name}, {"python": "3"}, ())
    return mf.Merged(name, name, tuple(outcomes), (source,), tuple(folder / "none" for _ in outcomes))


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")
def test_the_page_shows_any_name_and_runs_none(name, tmp_path, monkeypatch):
    monkeypatch.setattr("metafluence.reports.study.section.level_figures", lambda groups, level: {})
    notices: list[str] = []
    page = mf.write_comparison(made(name, tmp_path), tmp_path, notices.append).read_text(encoding="utf-8")
    assert notices == []
    assert page.count("<script>") == 1, "the page's own"
    assert f"<h1>{html.escape(name).replace('&quot;', '&#34;').replace('&#x27;', '&#39;')}</h1>" in page
    first = pd.read_csv(tmp_path / "results.csv").method[0]
    assert first.lstrip("'") == name
    assert not first.startswith(("=", "+", "-", "@", "\t"))


@pytest.mark.parametrize("name", ["[red]red[/red]", "[/]", ":smile:", "[bold"])
def test_the_console_prints_markup_as_it_is(name):
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=False, **PLAIN)
    console.print(f"{name}: done")
    with Bars(console) as bars:
        bars.study(1, 2, name)
        bars.stage(name, 2)
        bars.step(1, 2, name)
        bars.done(name)
    assert out.getvalue().count(name) == 4
    bars = Bars(Console(file=io.StringIO(), force_terminal=True, width=200, **PLAIN))
    assert isinstance(bars._bars, Progress)
    bars._bars.add_task(name, note=name)
    assert all(name in column(bars._bars.tasks[0]).plain for column in (bars._bars.columns[0], bars._bars.columns[-1]))


def broken(*args):
    raise RuntimeError("planted")


def test_a_figure_that_fails_is_said_and_the_rest_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(level, "items_found", broken)
    notices: list[str] = []
    page = mf.write_comparison(made("a", tmp_path), tmp_path, notices.append).read_text()
    (notice,) = notices
    assert re.fullmatch(r"The figure items-found-task\.png could not be made: RuntimeError: planted", notice)
    assert notice in page
    assert page.count("data:image/png;base64,") == 3
    assert (tmp_path / "results.csv").exists()
    assert (tmp_path / "tables" / "task.tex").exists()


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("metafluence.reports.study.section.level_table", "The table of tasks"),
        ("metafluence.reports.study.section.narrow_table", "tables/task.tex and task.md"),
        ("metafluence.reports.comparison.report.budget_table", "The table of the error budget"),
        ("metafluence.reports.results.rows_frame", "results.csv"),
    ],
)
def test_a_table_that_fails_is_said_and_the_rest_is_written(where, what, tmp_path, monkeypatch):
    monkeypatch.setattr("metafluence.reports.study.section.level_figures", lambda groups, level: {})
    monkeypatch.setattr(where, broken)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        page = mf.write_comparison(made("a", tmp_path), tmp_path).read_text()
    said = f"{what} could not be made: RuntimeError: planted"
    assert said in page
    assert [str(one.message) for one in caught] == [said]
    assert "What was found" in page


def test_a_figure_that_cannot_be_saved_is_said_too(tmp_path, monkeypatch):
    monkeypatch.setattr("metafluence.reports.page.png", broken)
    notices: list[str] = []
    page = mf.write_comparison(made("a", tmp_path), tmp_path, notices.append).read_text()
    assert len(notices) == 4
    assert all(notice in page for notice in notices)


def test_links_to_folders_of_any_name_are_links_to_files(tmp_path):
    whole = made("a", tmp_path)
    folder = tmp_path / "javascript:alert(1)#?&"
    folder.mkdir()
    (folder / "report.html").write_text("x")
    whole = replace(whole, pages=(folder, *whole.pages[1:]))
    page = mf.write_comparison(whole, tmp_path).read_text()
    (link,) = re.findall(r'<a href="([^"#]+)"', page)
    assert link == "javascript%3Aalert%281%29%23%3F%26/report.html"
