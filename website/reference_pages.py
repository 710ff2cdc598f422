"""The reference of the API: a page for each room, with the docstrings of the names that docs/api.md lists under it."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import metafluence.testing

API = Path(__file__).resolve().parents[1] / "docs" / "api.md"
SECTION = re.compile(r"^## `([a-z_/]+)`\n\n(.*?)\n\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the pages in the navigation, before the pages that stand there."""
    pages = [{room: page_of(room)} for room, _, _ in [*rooms(), testing()]]
    next(entry for entry in config.nav or [] if "Reference" in entry)["Reference"][1:1] = pages
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for room, about, names in [*rooms(), testing()]:
        parts = [f"# {room}", about, *(f"::: {identifier(room, name)}" for name in names)]
        files.append(File.generated(config, page_of(room), content="\n\n".join(parts) + "\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Link the names in the list of all names to where they are documented."""
    if page.file.src_uri != "api.md":
        return markdown
    for room, _, names in rooms():
        for name in names:
            link = f"[`{name}`]({page_of(room)}#{identifier(room, name)})"
            markdown = markdown.replace(f"\n| `{name}` |", f"\n| {link} |")
    return markdown


def rooms() -> list[tuple[str, str, list[str]]]:
    """The rooms with public names: name, one sentence, names."""
    text = API.read_text(encoding="utf-8")
    return [(room, about, NAME.findall(table)) for room, about, table in SECTION.findall(text)]


def testing() -> tuple[str, str, list[str]]:
    """The room of the suites, whose names are not among those of `metafluence` itself."""
    about = "Suites for components of your own, and derivatives by differences. They need pytest and hypothesis."
    return "testing", about, list(metafluence.testing.__all__)


def page_of(room: str) -> str:
    """The page of a room."""
    return f"reference/{room.replace('/', '-')}.md"


def identifier(room: str, name: str) -> str:
    """The path of a name: that of its room's door."""
    return f"metafluence.{room.replace('/', '.')}.{name}"
