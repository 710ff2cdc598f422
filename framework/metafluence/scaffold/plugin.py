"""The files of a new component: the component itself, its test, and what makes it known to the registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jinja2

import metafluence
from metafluence.errors import InputError
from metafluence.hooks import PLUGIN_API
from metafluence.registry import Registry
from metafluence.scaffold.names import check_kind, check_name, class_name
from metafluence.scaffold.registry_text import with_component


@dataclass(frozen=True)
class Written:
    """The files of a new plugin, and the sentences that say what to do next."""

    files: tuple[Path, ...]
    next: tuple[str, ...]


def new_plugin(registry: Registry, kind: str, name: str, folder: Path, package: bool = False) -> Written:
    """Write a component that works as it is, its test, and its entry in `folder`/registry.yaml.

    Args:
        registry: where the name must be free.
        kind: of the component: method, solver, ...
        name: of the component, of its file and, in capitals, of its class.
        folder: where the files are written; it is made if it is not there.
        package: write a folder `name` with a package for pip and an entry point instead.

    Raises:
        InputError: for a kind without a template, a name that cannot be used or is taken, a file that is there, or a
            folder that cannot be written to. Nothing is written then.
    """
    templates = _templates()
    kinds = sorted(one.removesuffix(".py.j2") for one in templates.list_templates() if one.endswith(".py.j2"))
    check_kind(registry, kind, [one for one in kinds if one in registry.kinds()])
    check_name(registry, kind, name, folder)
    made = {"kind": kind, "name": name, "class_name": class_name(name)}
    files = _package(folder / name, made) if package else _beside(folder, made)
    facts = {**made, "version": metafluence.__version__, "plugin_api": PLUGIN_API}
    texts: dict[Path, str] = {}
    for file, template in files.items():
        if file.exists():
            raise InputError(f"{file} is there already. Choose another name, or move it.")
        module = f"{name}.{kind}" if package else name
        texts[file] = templates.get_template(template).render(module=module, **facts)
    if not package:
        texts |= _registered(folder / "registry.yaml", kind, name, class_name(name))
    _write(texts)
    return Written(tuple(texts), _next(folder, kind, name, package))


def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("metafluence.scaffold"),
        autoescape=False,  # Python, not HTML
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )


def _beside(folder: Path, facts: dict[str, str]) -> dict[Path, str]:
    """Each file with its template."""
    kind, name = facts["kind"], facts["name"]
    return {folder / f"{name}.py": f"{kind}.py.j2", folder / f"test_{name}.py": "test.j2"}


def _package(root: Path, facts: dict[str, str]) -> dict[Path, str]:
    kind, name = facts["kind"], facts["name"]
    return {
        root / "pyproject.toml": "pyproject.j2",
        root / "README.md": "readme.j2",
        root / name / "__init__.py": "package.j2",
        root / name / f"{kind}.py": f"{kind}.py.j2",
        root / "tests" / f"test_{name}.py": "test.j2",
    }


def _registered(file: Path, kind: str, name: str, cls: str) -> dict[Path, str]:
    """The registry.yaml with the component; its text as it is now where there is one."""
    try:
        text = file.read_text(encoding="utf-8-sig") if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}. Correct it, or name another --folder.") from error
    return {file: with_component(text, file, kind, name, f"./{name}.py:{cls}")}


def _write(texts: dict[Path, str]) -> None:
    for file, text in texts.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{file} cannot be written: {error.strerror}. Name another --folder.") from error


def _next(folder: Path, kind: str, name: str, package: bool) -> tuple[str, ...]:
    use = f"In a study: {{use: {name}}}."
    if package:
        return (f"Install it with `pip install -e {folder / name}`.", f"Then `metafluence show {kind} {name}`.", use)
    return (f"Check it with `metafluence check {folder / f'{name}.py'}`.", f"{use} A study in this folder finds it.")
