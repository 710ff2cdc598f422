"""How results look in a notebook: a title, a few sentences, and a small table, as HTML in which all text is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape


def notebook_view(
    title: str, sentences: Sequence[str] = (), headings: Sequence[str] = (), rows: Sequence[Sequence[object]] = ()
) -> str:
    """HTML for `_repr_html_`.

    Args:
        title: One line, in bold.
        sentences: What stands below it, each on a line of its own; empty ones are left out.
        headings: Of the table; without rows there is none.
        rows: As long as the headings; numbers are rounded to three digits, and NaN is a dash.
    """
    parts = [f"<strong>{escape(title)}</strong>", *(f"<br>{escape(one)}" for one in sentences if one)]
    if rows:
        head = "".join(f"<th>{escape(one)}</th>" for one in headings)
        body = "".join(f"<tr>{''.join(f'<td>{escape(_cell(one))}</td>' for one in row)}</tr>" for row in rows)
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    return f"<div>{''.join(parts)}</div>"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.3g}"
    return str(value)
