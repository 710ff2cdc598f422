"""Reading and writing YAML, the one way for studies, registries and `--set`: what hides a mistake is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from metafluence.errors import ConfigError, InputError

BYTES = 2**20
"""The largest file that is read; studies are a hundredth of it."""
DEPTH = 40
"""How deep mappings and lists may stand in each other."""
VALUES = 100_000
"""How many values a document may have once its aliases are written out."""


def read_yaml(file: Path, what: str, error: type[InputError] = ConfigError) -> Any:
    """The content of a YAML file in UTF-8; None where it is empty.

    `what` is the kind of file, as in "study", for the errors, which are of class `error`: the file cannot be read, or
    `parse_yaml` refuses its text.
    """
    try:
        size = file.stat().st_size
        if size > BYTES:
            raise error(f"The {what} {file} has {size} bytes; at most {BYTES} are read. Name another file.")
        text = file.read_bytes().decode("utf-8-sig")
    except IsADirectoryError as failure:
        raise error(f"The {what} {file} is a folder. Name the YAML file in it.") from failure
    except (OSError, ValueError) as failure:
        if isinstance(failure, InputError):
            raise
        if isinstance(failure, UnicodeDecodeError):
            raise error(f"{file} is not valid YAML: byte {failure.start} is no UTF-8. Save it as UTF-8.") from failure
        reason = failure.strerror if isinstance(failure, OSError) else failure
        raise error(f"The {what} {file} cannot be read: {reason}. Check its name and its permissions.") from failure
    return parse_yaml(text, str(file), error)


def parse_yaml(text: str, where: str, error: type[InputError] = ConfigError) -> Any:
    """The value of a YAML text. Numbers such as 1e-10 are numbers, as in YAML 1.2.

    Raises:
        InputError: of class `error`, where the text is no YAML, has a key twice or one that is no text, is nested or
            repeated by aliases without end, or holds a number that Python cannot read.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _size(node, {}, set())
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as failure:
        mark = failure.problem_mark or failure.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
        reason = failure.problem or failure.context or "it cannot be read"
        raise error(f"{where} is not valid YAML: {reason.rstrip('.')}{place}. Correct it there.") from failure
    except (yaml.YAMLError, ValueError, OverflowError) as failure:
        reason = " ".join(str(failure).split()).rstrip(".")
        raise error(f"{where} is not valid YAML: {reason}. Correct it there.") from failure


def write_yaml(value: Any) -> str:
    """A plain value as a YAML text that `parse_yaml` reads as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML without objects, whose nesting is bounded and whose keys are texts, each once in its mapping."""

    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self.depth += 1
        if self.depth > DEPTH:
            raise ConstructorError(None, None, f"more than {DEPTH} levels of nesting", self.peek_event().start_mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as failure:  # a date or a number that Python cannot read
            raise ConstructorError(None, None, str(failure).partition(";")[0], node.start_mark) from failure

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True) if isinstance(key_node, ScalarNode) else None
            if not isinstance(key, str):
                shown = f"name {key_node.value!r}" if isinstance(key_node, ScalarNode) else "list or mapping as a name"
                raise ConstructorError(None, None, f"the {shown} is no text, put it in quotes", key_node.start_mark)
            line = key_node.start_mark.line + 1
            if key in seen:
                raise ConstructorError(
                    None,
                    None,
                    f"{key!r} stands here for the second time, first in line {seen[key]}; keep one",
                    key_node.start_mark,
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what the loader would not read as a text, and repeats what stands twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# YAML 1.1 wants a point and a sign in 1.0e-10; without them it is a text.
for _reader in (_Loader, _Dumper):
    _reader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def _size(node: Node, known: dict[int, int], open_nodes: set[int]) -> int:
    """How many values a node has with its aliases written out."""
    if id(node) in known:
        return known[id(node)]
    if id(node) in open_nodes:
        raise ConstructorError(None, None, "an alias stands inside what it names", node.start_mark)
    open_nodes.add(id(node))
    children = (
        [part for pair in node.value for part in pair]
        if isinstance(node, MappingNode)
        else node.value
        if isinstance(node, SequenceNode)
        else []
    )
    size = 1 + sum(_size(child, known, open_nodes) for child in children)
    if size > VALUES:
        raise ConstructorError(None, None, f"more than {VALUES} values, with aliases written out", node.start_mark)
    open_nodes.discard(id(node))
    known[id(node)] = size
    return size
