"""The `Example:` of a docstring as a section of examples, whose doctests are shown as code."""

from typing import Any

import griffe


class DocstringExamples(griffe.Extension):
    """Renames the section as it is read; griffe knows it by its plural alone."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called with every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
