"""Tables of text for papers: LaTeX and Markdown from headings and rows of strings."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from metafluence.reports.plain_text import one_line
from metafluence.runtime import write_atomically

Rows = Sequence[Sequence[str]]
NOTHING = "–"
"""What stands in a cell where there is nothing to say."""

_NUMBER = re.compile(r"[-+−]?\d+(\.\d+)?(e[-+]?\d+)?(?=( ± \S+| \(\S+ to \S+\))?( ?%)?( \(\S+ to \S+\))?$)")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "–": "--", "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$",
    "[": "{[}", "]": "{]}", "*": "{*}", "\"": "{\"}",
    "∞": r"$\infty$", "‖": r"$\Vert$", "∇": r"$\nabla$", "Δ": r"$\Delta$", "δ": r"$\delta$", "λ": r"$\lambda$",
    "θ": r"$\theta$", "ρ": r"$\rho$", "•": r"\textbullet{}", "…": r"\ldots{}",
}  # fmt: skip


def number(text: str) -> float | None:
    """The number that a cell says: `0.97`, `12.3 %`, `0.97 ± 0.01`, `0.97 (0.9 to 1)`, the mean of two; or None."""
    found = [_NUMBER.match(part) for part in text.strip().split(", ")]
    values = [float(one[0].replace("−", "-")) for one in found if one]
    return sum(values) / len(values) if len(values) == len(found) else None


def filled(rows: Rows) -> list[int]:
    """The numbers of the columns in which some row says something."""
    return [c for c in range(len(rows[0]) if rows else 0) if any(row[c] not in ("", NOTHING) for row in rows)]


def latex(
    headings: Sequence[str], rows: Rows, bold: Collection[tuple[int, int]] = (), caption: str = "", label: str = ""
) -> str:
    """A table in LaTeX; its preamble needs `booktabs`. bold: cells as (row, column)."""
    aligned = "".join("r" if numeric else "l" for numeric in _numeric(headings, rows))
    lines = [rf"\begin{{tabular}}{{{aligned}}}", r"\toprule"]
    lines.append(" & ".join(map(escape, headings)) + r" \\")
    lines.append(r"\midrule")
    for r, row in enumerate(rows):
        cells = [rf"\textbf{{{_cell(c)}}}" if (r, i) in bold else _cell(c) for i, c in enumerate(row)]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if caption or label:
        named = [*([rf"\caption{{{escape(caption)}}}"] if caption else []), *([rf"\label{{{label}}}"] if label else [])]
        lines = [r"\begin{table}[t]", r"\centering", *named, *lines, r"\end{table}"]
    return "\n".join(["% needs \\usepackage{booktabs}", *lines]) + "\n"


def markdown(headings: Sequence[str], rows: Rows, bold: Collection[tuple[int, int]] = ()) -> str:
    """A table in Markdown, its columns lined up. bold: cells as (row, column)."""
    shown = [[f"**{_plain(c)}**" if (r, i) in bold else _plain(c) for i, c in enumerate(row)]
             for r, row in enumerate(rows)]  # fmt: skip
    lines, right = [[_plain(h) for h in headings], *shown], _numeric(headings, rows)
    widths = [max(3, *(len(text[c]) for text in lines)) for c in range(len(headings))]

    def joined(cells: Sequence[str]) -> str:
        padded = (t.rjust(w) if r else t.ljust(w) for t, w, r in zip(cells, widths, right, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]
    return "\n".join([joined(lines[0]), joined(rule), *map(joined, lines[1:])]) + "\n"


def write_tables(
    folder: Path,
    name: str,
    headings: Sequence[str],
    rows: Rows,
    bold: Collection[tuple[int, int]] = (),
    caption: str = "",
) -> None:
    """Write NAME.tex and NAME.md into the folder."""
    about = f"{_plain(caption)}\n\n" if caption else ""
    write_atomically(folder / f"{name}.tex", latex(headings, rows, bold, caption, f"tab:{name}").encode())
    write_atomically(folder / f"{name}.md", f"{about}{markdown(headings, rows, bold)}".encode())


def escape(text: str) -> str:
    """Text as LaTeX sets it, on one line. A bracket or a star after a row's end would be read as its argument."""
    return "".join(_LATEX.get(letter, letter) for letter in one_line(text))


def _cell(text: str) -> str:
    """A cell; a number's hyphen is a minus."""
    return f"$-${escape(text[1:])}" if text.startswith("-") and number(text) is not None else escape(text)


def _plain(text: str) -> str:
    """Text in which Markdown sees no end of a cell, no emphasis, no link, no HTML and no formula."""
    return re.sub(r"([\\|*_`<>\[\]&$~])", r"\\\1", one_line(text))


def _numeric(headings: Sequence[str], rows: Rows) -> list[bool]:
    """Which columns hold numbers, whatever else stands between them."""
    return [any(number(row[c]) is not None for row in rows) for c in range(len(headings))]
