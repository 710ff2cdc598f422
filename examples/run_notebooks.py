"""Run the notebooks of this folder and keep what they show: `python examples/run_notebooks.py`, or `make notebooks`.

What is written to stderr, times, and text that is HTML too, are left out: a file changes only where results do.
"""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def executed(file: Path) -> nbformat.NotebookNode:
    """The notebook with what it shows. Raises CellExecutionError where a cell fails."""
    book = nbformat.read(file, as_version=4)
    resources = {"metadata": {"path": str(FOLDER)}}  # where the cells run
    NotebookClient(
        book, timeout=600, kernel_name="python3", record_timing=False, coalesce_streams=True, resources=resources
    ).execute()
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
            for data in (one.data for one in cell.outputs if "data" in one):
                if {"text/html", "image/png"} & set(data):
                    data.pop("text/plain", None)
    book.metadata["language_info"] = {"name": "python"}
    return book


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(executed(path), path)
