"""What the site is made of besides the documents: links, formulas, components, the reference, notebooks.

`make docs` builds all of it, with every link checked.
"""

import importlib
import types
from pathlib import Path

import pytest
import yaml

import metafluence as mf

ROOT = Path(__file__).parents[1]


@pytest.fixture
def website(monkeypatch):
    """A module of website/ by its name."""
    monkeypatch.syspath_prepend(ROOT / "website")
    return importlib.import_module


def test_links_to_the_repository_become_links_of_the_site(website):
    links = website("repository_links")
    page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri="benchmarks/README.md"))
    for given, made in {
        "[a](peers/README.md)": "[a](peers/README.md)",
        "[b](../README.md#write-a-study)": "[b](../index.md#write-a-study)",
        "[c](../docs/runs.md)": "[c](../runs.md)",
        "[d](../studies/digits.yaml)": "[d](../source/studies/digits.yaml.md)",
        "[e](../examples/own-loop.ipynb)": "[e](../notebooks/own-loop.md)",
        "[f](https://arxiv.org/abs/2501.15963)": "[f](https://arxiv.org/abs/2501.15963)",
        "```\n[g](../README.md)\n```": "```\n[g](../README.md)\n```",
        "![h](../docs/images/rooms.svg)": "![h](../images/rooms.svg)",
    }.items():
        assert links.on_page_markdown(given, page, None, None) == made


def test_a_link_to_a_name_leads_to_the_line_that_defines_it(website):
    links = website("repository_links")
    file = ROOT / "framework" / "metafluence" / "bilevel" / "point.py"
    line = links.line_of(file, "Point.slopes")
    assert file.read_text(encoding="utf-8").splitlines()[line - 1].startswith("    def slopes(")
    page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri="mathematics.md"))
    made = links.on_page_markdown("[`Point.slopes`](../framework/metafluence/bilevel/point.py)", page, None, None)
    assert made.endswith(f"(source/framework/metafluence/bilevel/point.py.md#__codelineno-0-{line})")
    with pytest.raises(ValueError, match=r"does not define Point\.slops"):
        links.line_of(file, "Point.slops")


def test_formulas_are_mathml(website):
    marked = r'<div class="arithmatex">\[ a &lt; \frac{b}{\lambda_i} \]</div><span class="arithmatex">\(x\)</span>'
    made = website("formulas").on_page_content(marked, None, None, None)
    assert made.count("<math") == 2
    assert "<mfrac>" in made
    assert "&#x0003C;" in made
    assert "λ" in made or "&#x003BB;" in made
    assert "arithmatex" not in made


def test_components_have_bounds_levels_and_needs(website):
    pages, registry = website("component_pages"), mf.default_registry()
    methods = pages.kind_page(registry, "method")
    for said in ("## task-if", "- levels: task, class", "- needs: a recorded run\n", "float in [0, 1e15]", "- units: "):
        assert said in methods, said
    for kind in registry.kinds():
        page = pages.kind_page(registry, kind)
        assert all(f"\n## {name}\n" in page for name in registry.names(kind))
        rows = [line for line in page.splitlines() if line.startswith("|")]
        assert all(line.count("|") == 4 for line in rows), "a cell's own | is escaped"


def test_the_reference_has_every_public_name(website):
    rooms = website("reference_pages").rooms()
    assert {name for _, _, names in rooms for name in names} == set(mf.__all__)
    assert all(about.endswith(".") for _, about, _ in rooms)


def test_what_notebooks_print_is_no_html(website):
    shown = website("notebook_pages").cell_text(
        {"cell_type": "code", "source": "f()", "outputs": [{"output_type": "stream", "text": "<b>"}]}
    )
    assert shown == "```python\nf()\n```\n\n```text\n<b>\n```"


def test_the_site_loads_nothing_from_other_addresses():
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert (
        yaml.safe_load(settings.replace("!!python/object/apply:pymdownx.slugs.slugify", ""))["theme"]["font"] is False
    )
    assert "http" not in settings + (ROOT / "website" / "site.css").read_text(encoding="utf-8")
