"""What every refusal has: the input, the reason, and how to fix it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import metafluence as mf

FIXES = re.compile(
    r"\b(add|check|choose|convert|correct|get|give|keep|leave|let|make|move|name|number|put|remove|replace|return|save|say|set"
    r"|write)\b|Did you mean|Known: |`metafluence ",
    re.IGNORECASE,
)
"""Words that say how to fix something."""


@contextmanager
def refused(message: str, error: type[Exception] = mf.InputError) -> Iterator[None]:
    """As pytest.raises; and the message says how to fix it, in a sentence that ends in a point."""
    with pytest.raises(error, match=message) as caught:
        yield
    text = str(caught.value)
    assert FIXES.search(text), f"It does not say how to fix it: {text}"
    assert text.endswith((".", "?")), text
