"""Pages: self-contained HTML from templates, with figures inside."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

import metafluence
from metafluence.reports.style import png
from metafluence.runtime import write_atomically
from metafluence.sentences import GROUPS, folded

BROAD = 7.0
"""Inches from which a figure is scrolled on a phone, not shrunk, so that its text stays readable."""


def write_page(path: Path, template: str, **facts: Any) -> Path:
    """Render one of the package's templates, which extends `base.html.j2`, into a file. Returns the file's path."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("metafluence.reports"), autoescape=True, trim_blocks=True
    )
    environment.filters["folded"] = folded
    environment.globals["GROUPS"] = GROUPS
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = environment.get_template(template).render(metafluence=metafluence.__version__, written=written, **facts)
    write_atomically(path, page.encode())
    return path


def picture(figure: Figure, title: str, caption: str, file: Path) -> dict[str, Any]:
    """A figure as the macro `figure` of `parts.html.j2` wants it; it is also written to `file`."""
    drawn = png(figure)
    write_atomically(file, drawn)
    width = float(figure.get_size_inches()[0])
    data = base64.b64encode(drawn).decode()
    shown = {"broad": width > BROAD, "least": 5 * width}
    return {"name": file.stem, "title": title, "caption": caption, "data": data, "reasons": [], **shown}
