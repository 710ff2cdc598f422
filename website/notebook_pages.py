"""The notebooks of examples/ as pages, with what they are committed with: nothing is run as the site is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, notebooks/NAME.md."""
    for file in sorted((ROOT / "examples").glob("*.ipynb")):
        book = nbformat.read(file, as_version=4)
        text = "\n\n".join(map(cell_text, book.cells))
        files.append(File.generated(config, f"notebooks/{file.stem}.md", content=f"{text}\n"))
    return files


def cell_text(cell: dict[str, Any]) -> str:
    """A cell in Markdown: text, or code with what it shows below."""
    if cell["cell_type"] != "code":
        return cell["source"]
    return "\n\n".join([f"```python\n{cell['source']}\n```", *map(output_text, cell["outputs"])])


def output_text(output: dict[str, Any]) -> str:
    """What a cell shows, in Markdown."""
    data = output.get("data", {})
    if "image/png" in data:
        shown = f'<img alt="what the cell above draws" src="data:image/png;base64,{data["image/png"].strip()}">'
    elif "text/html" in data:
        shown = data["text/html"]
    else:
        return f"```text\n{output.get('text') or data['text/plain']}\n```"
    return f'<div class="notebook-output">{shown}</div>'
