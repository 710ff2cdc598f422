"""How results look in a notebook: what is said first, and that no text from users is HTML."""

import re
from html import unescape

import torch

import metafluence as mf
from metafluence.evaluation.certificate import Check
from metafluence.runtime import notebook_view
from small_studies import SMALL

WICKED = "<script>alert('&')</script>"


def shown(thing) -> str:
    """The text of what a notebook shows; tags are one space."""
    html = thing._repr_html_()
    assert html.startswith("<div>")
    assert html.endswith("</div>")
    return unescape(re.sub(r"(<[^>]*>)+", " ", html)).strip()


def test_everything_is_escaped():
    html = notebook_view(WICKED, [WICKED], [WICKED], [[WICKED]])
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(&#x27;&amp;&#x27;)") == 4


def test_numbers_are_short_and_nothing_is_a_dash():
    html = notebook_view("numbers", headings=["a", "b", "c"], rows=[[0.123456, float("nan"), 7]])
    assert "<td>0.123</td><td>–</td><td>7</td>" in html
    assert "<table" not in notebook_view("no rows", headings=["a"])


def test_scores_show_their_ends_by_the_mean_over_targets():
    values = torch.stack([torch.arange(20.0), torch.arange(20.0).flip(0) * 0 + 2], dim=1)
    said = shown(mf.Scores(values, "task", "loss_change", notes=(WICKED,)))
    assert said.startswith("Scores of 20 items at level task for 2 targets")
    assert WICKED in said  # as text
    items = re.search(r"item score (.*)", said)[1].split()[::2]
    assert items == [str(i) for i in (*range(5), *range(15, 20))]
    few = shown(mf.Scores(values[:3, :1], "query", "rank_only"))
    assert "ranks only" in few
    assert "lowest" not in few


def test_a_solution_says_what_did_not_converge():
    operator = mf.DenseOperator(torch.diag(torch.tensor([1.0, 1e4, 1e7], dtype=torch.float64)))
    rhs = torch.ones(3, 2, dtype=torch.float64)
    good = shown(mf.solve(mf.build("solver", "exact"), operator, rhs))
    assert good.startswith("Solution [3, 2]: 2 of 2 columns converged")
    bad = mf.solve(mf.build("solver", "cg", max_iterations=1), operator, rhs, strict=False)
    assert shown(bad).startswith("Solution [3, 2]: 0 of 2 columns converged")
    assert bad.complaint() in shown(bad)


def test_a_certificate_shows_its_verdict_and_its_checks():
    checks = (Check("order", "Spearman 0.9", "lower end at least 0.6", True), Check(WICKED, "1", "0", False))
    said = shown(mf.Certificate("task-if", "task", "order", "task-if can be trusted.", checks))
    assert said.startswith("Certificate of task-if at level task task-if can be trusted.")
    assert "yes order Spearman 0.9 lower end at least 0.6" in said
    assert f"no {WICKED} 1 0" in said


def test_a_study_shows_certificates_then_runs(tmp_path):
    config = mf.parse_study({**SMALL, "methods": ["task-if", "loss"], "solvers": ["exact"], "truth": {"items": 4}})
    result = mf.Study(config, mf.default_registry(), tmp_path).run()
    said = shown(result)
    assert said.startswith("Study small")
    assert result.certificates[0].verdict in said
    assert said.index(result.certificates[0].verdict) < said.index("level method solver Spearman")
    assert "task task-if exact" in said
