"""The documents agree with the code: snippets run, studies parse, links and file names exist."""

import ast
import re
import shutil
import sys
import types
from pathlib import Path

import pytest
import yaml

import metafluence as mf
from small_studies import changed

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").rglob("README.md"))]
PAGES.append(ROOT / "banks" / "README.md")
EXAMPLES = ROOT / "examples"
SOURCES = ("framework", "plugins", "tests", "examples", "benchmarks")


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in any of the languages, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def pages_with(*languages: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, *languages)]


YAML = [(page, i) for page in pages_with("yaml", "yml") for i in range(len(blocks(page, "yaml", "yml")))]


def executed(page: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Run the Python blocks of a page in one module. A block with `...` as a body is a sketch: it only parses."""
    module = types.ModuleType("documented")
    monkeypatch.setitem(sys.modules, "documented", module)
    monkeypatch.syspath_prepend(EXAMPLES)
    for code in blocks(page, "python", "py"):
        tree = ast.parse(code)
        if not re.search(r"(^|:)\s*\.\.\.$", code, re.MULTILINE):
            exec(compile(tree, page_name(page), "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("page", pages_with("python", "py")[1:], ids=page_name)
def test_python_runs(page, monkeypatch):
    assert vars(executed(page, monkeypatch))


def test_readme_example_scores_every_task(monkeypatch):
    module = executed(ROOT / "README.md", monkeypatch)
    assert module.scores.shape == (12, 1)
    assert module.scores.isfinite().all()
    assert module.without_task_0.shape == module.fit.meta.shape
    assert not module.without_task_0.equal(module.fit.meta)


@pytest.mark.parametrize(("page", "number"), YAML, ids=[f"{page_name(page)}-{i}" for page, i in YAML])
def test_yaml_is_valid(page, number, tmp_path):
    """A whole study with all its components, a registry.yaml, or a part of a study."""
    text = blocks(page, "yaml", "yml")[number]
    raw = yaml.safe_load(text)
    if "components" in raw:
        for file in EXAMPLES.glob("*.py"):
            shutil.copy(file, tmp_path)
        (tmp_path / "registry.yaml").write_text(text, encoding="utf-8")
        registry = mf.default_registry(folder=tmp_path)
        for kind, named in raw["components"].items():
            for name in named:
                assert registry.build(kind, name) is not None
    elif "run" in raw:  # which is not there
        assert mf.parse_comparison(raw).variations
    elif "methods" in raw and "learner" in raw:
        for size in [None, *raw.get("sizes", {})]:
            comparison = mf.parse_comparison(raw, size)
            work = mf.Comparing(comparison, mf.default_registry(), tmp_path / str(size))
            assert all(study.plans for study in work.studies)
    else:
        assert mf.parse_comparison(changed(**raw)).variations


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_names_are_defined_in_the_files_they_link_to(page):
    """[`Class.method`](file.py): so does every formula name what computes it."""
    for name, path in re.findall(r"\[`([\w.]+)`\]\(([^)\s]+\.py)\)", page.read_text(encoding="utf-8")):
        body = ast.parse((page.parent / path).read_text(encoding="utf-8")).body
        for part in [] if name.endswith(".py") else name.split("."):
            found = [n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == part]
            assert found, f"{path} does not define {name}"
            body = found[0].body


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_source_files_exist(page):
    for name in re.findall(r"`([a-z_/]+\.py)`", page.read_text(encoding="utf-8")):
        found = (ROOT / name).is_file() or any(any((ROOT / top).glob(f"**/{name}")) for top in SOURCES)
        assert found, f"{name} is not there"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150
