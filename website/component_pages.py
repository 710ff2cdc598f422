"""A page for each kind of component, from the registry: what `metafluence show` says of each one."""

from __future__ import annotations

import html
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from metafluence.cli.components import claims, facts
from metafluence.registry import Entry, Registry, default_registry

FOLDER = "components"
TITLES = {"dataset": "Data sets"}
"""Titles of pages that are no plain plural of the kind."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the pages in the navigation."""
    pages = [{title(kind): f"{FOLDER}/{kind}.md"} for kind in default_registry().kinds()]
    next(entry for entry in config.nav or [] if "Components" in entry)["Components"] = pages
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    registry = default_registry()
    for kind in registry.kinds():
        files.append(File.generated(config, f"{FOLDER}/{kind}.md", content=kind_page(registry, kind)))
    return files


def title(kind: str) -> str:
    """What a page is called."""
    return TITLES.get(kind, f"{kind.capitalize()}s")


def kind_page(registry: Registry, kind: str) -> str:
    """The page of a kind in Markdown."""
    interface = next(one for one in registry.interfaces() if one.kind == kind)
    cls = interface.at.replace(":", ".")
    start = f"# {title(kind)}\n\nA {kind}: {interface.about}. The interface is [{cls.rpartition('.')[2]}][{cls}].\n"
    return "\n".join([start, *(section(registry, entry) for entry in registry.entries(kind))])


def section(registry: Registry, entry: Entry) -> str:
    """One component: what it is and claims, its documentation and its parameters."""
    said = facts(entry)
    lines = [f"## {entry.name}", "", f"{text(entry.about)}.", ""]
    known = {"paper": entry.paper, **claims(registry, entry), "code": f"`{entry.at}`"}
    lines += [f"- {what}: {text(value) if what != 'code' else value}" for what, value in known.items() if value]
    lines += ["", *(f"<p>{prose(part)}</p>\n" for part in entry.documentation().split("\n\n") if part)]
    parameters = said["parameters"]
    assert isinstance(parameters, list)
    if parameters:
        lines += ["| parameter | type and bounds | default |", "| --- | --- | --- |"]
        lines += [f"| `{p['name']}` | {code(p['type'])} | {default(p['default'])} |" for p in parameters]
    return "\n".join([*lines, ""])


def default(value: str | None) -> str:
    """A default as the source has it."""
    return "required" if value is None else code(value)


def code(value: str) -> str:
    """Code in a cell, whatever it holds."""
    return f"<code>{html.escape(value).replace('|', '&#124;')}</code>"


def text(value: str) -> str:
    """Text in which Markdown sees no marks."""
    return re.sub(r"([\\*_\[\]<>|$])", r"\\\1", value)


def prose(paragraph: str) -> str:
    """A paragraph of a docstring as HTML; what stands in backticks is code."""
    parts = re.split(r"`([^`]*)`", paragraph)
    return "".join(f"<code>{html.escape(p)}</code>" if i % 2 else html.escape(p) for i, p in enumerate(parts))
