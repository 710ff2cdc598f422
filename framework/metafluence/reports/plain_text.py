"""Text from users, made safe for what it is written into: it is shown as it is and never interpreted."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pandas as pd

from metafluence.runtime import write_atomically

LONGEST = 60
"""Letters of a name in a figure; longer ones are cut, for they would leave no room for the figure."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def in_figure(text: str, longest: int = LONGEST) -> str:
    """Text for a figure: no formulas of matplotlib, no control characters, and not too long. Lines are kept."""
    lines = ("".join(_printable(letter) for letter in line) for line in text.split("\n"))
    return "\n".join(_shortened(line, longest) for line in lines).replace("$", r"\$")


def in_cell(text: str) -> str:
    """Text for a spreadsheet's cell: what would be read as a formula begins with an apostrophe instead."""
    safe = f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text
    return safe.replace("\r", " ")  # a bare one would end the row


def write_csv(file: Path, frame: pd.DataFrame) -> None:
    """Write a table whose cells are no formulas."""
    safe = frame.rename(columns=lambda name: in_cell(str(name)))
    for name in safe.columns:
        safe[name] = safe[name].map(lambda value: in_cell(value) if isinstance(value, str) else value)
    write_atomically(file, safe.to_csv(index=False).encode())


def one_line(text: str) -> str:
    """Text without line breaks and control characters."""
    return re.sub(r"\s+", " ", "".join(_printable(letter) for letter in text))


def _printable(letter: str) -> str:
    """The letter; a space for white space, nothing for what would act on the text around it."""
    if letter.isspace():
        return " "
    return "" if unicodedata.category(letter) in ("Cc", "Cf", "Cs") else letter


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "\n" not in text and "\t" not in text and "\r" not in text
