"""What a store keeps so that its study can be run again from it alone: the resolved study, a registry.yaml of all that
is neither shipped nor installed, the local files that it names, and versions.

Data and installed packages are not kept; where versions differ, the next run says so.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metafluence.errors import StoreError
from metafluence.registry import Entry, Registry, default_registry, files_beside, write_yaml
from metafluence.runtime import file_fingerprint, load_facts, versions, write_atomically

MARK = "# Written by metafluence for this store"
STUDY, REGISTRY, COMPONENTS = "study.yaml", "registry.yaml", "components"


def made_with(registry: Registry) -> dict[str, str | None]:
    """Versions of what a study is done with: metafluence, python, torch, numpy, and every plugin."""
    return versions() | {f"plugin {name}": found for name, found in registry.plugins.items()}


def local_code(registry: Registry, raw: Mapping[str, Any]) -> dict[str, str]:
    """A hash of the code of each local component that the study names, with that of the files that it imports."""
    named = set(_texts(raw))
    found = {}
    for entry in registry.entries():
        file = Path(entry.at.rpartition(":")[0])
        if entry.name in named and file.suffix == ".py" and file.is_file():
            files = (file, *files_beside(file.resolve()).values())
            code = "".join(map(file_fingerprint, files))
            found[f"{entry.kind} {entry.name}"] = hashlib.sha256(code.encode()).hexdigest()[:16]
    return found


def keep_source(folder: Path, raw: Mapping[str, Any], registry: Registry) -> None:
    """Write study.yaml, and if anything is neither shipped nor installed, registry.yaml and components/.

    Raises StoreError where the folder holds a study.yaml or registry.yaml of somebody else's.
    """
    for name in (STUDY, REGISTRY):
        file = folder / name
        if file.exists() and not file.read_text(encoding="utf-8", errors="replace").startswith(MARK):
            raise StoreError(f"{file} would be replaced by the one of this store. Name another folder with --out.")
    plain = json.loads(json.dumps(raw))  # tuples as lists
    head = f"{MARK}: `metafluence run {STUDY} --out FOLDER` in this folder does its study again.\n"
    write_atomically(folder / STUDY, (head + write_yaml(plain)).encode())
    catalogue = _catalogue(registry, folder)
    if catalogue:
        head = f"{MARK}: the components of its study that are neither shipped nor installed.\n"
        write_atomically(folder / REGISTRY, (head + write_yaml(catalogue)).encode())


def differing_versions(study: str | Path, registry: Registry) -> str:
    """A sentence where `study` is the one that a store keeps, and was done with other versions; else empty."""
    study = Path(study)
    facts = study.parent / "study.json"
    if study.name != STUDY or not facts.is_file() or not study.read_text(encoding="utf-8").startswith(MARK):
        return ""
    then, now = load_facts(facts).get("versions", {}), made_with(registry)
    names = [name for name in {**then, **now} if name not in ("platform", "commit") and then.get(name) != now.get(name)]
    if not names:
        return ""
    said = ", ".join(f"{name} {then.get(name) or 'none'} (now {now.get(name) or 'none'})" for name in names)
    return (
        f"The study of this store was done with other versions: {said}. Numbers may differ; install these for the same."
    )


def _catalogue(registry: Registry, folder: Path) -> dict[str, Any]:
    """The registry.yaml that makes the shipped and installed components those of `registry`; copies local files."""
    base = default_registry()
    found: dict[str, Any] = {"interfaces": {}, "components": {}, "disabled": {}}
    for interface in registry.interfaces():
        if interface.kind not in base.kinds():
            at = _kept(interface.at, folder)
            found["interfaces"][interface.kind] = {"at": at, "about": interface.about}
    for kind in registry.kinds():
        known = {entry.name: entry for entry in base.entries(kind)} if kind in base.kinds() else {}
        own = {entry.name: entry for entry in registry.entries(kind)}
        changed = {name: _spec(entry, folder) for name, entry in own.items() if known.get(name) != entry}
        if changed:
            found["components"][kind] = changed
        if gone := [name for name in known if name not in own]:
            found["disabled"][kind] = gone
    return {section: parts for section, parts in found.items() if parts}


def _spec(entry: Entry, folder: Path) -> dict[str, Any]:
    spec = {"at": _kept(entry.at, folder), "about": entry.about, "paper": entry.paper, "params": entry.params}
    return {**{key: value for key, value in spec.items() if value}, "override": True}


def _kept(at: str, folder: Path) -> str:
    """Where a class lies in the store, after its file and those that it imports beside it are copied there."""
    place, colon, name = at.rpartition(":")
    file = Path(place)
    if not place.endswith(".py") or not file.is_file():
        return at
    home = folder / COMPONENTS
    inside = file.resolve().is_relative_to(home.resolve())
    target = file.resolve().parent if inside else home / _named(file.resolve().parent)
    for source in () if inside else (file.resolve(), *files_beside(file.resolve()).values()):
        copy = target / source.relative_to(file.resolve().parent)
        if source.name == "__init__.py":
            shutil.copytree(
                source.parent, copy.parent, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            write_atomically(copy, source.read_bytes())
    return f"./{(target / file.name).resolve().relative_to(folder.resolve()).as_posix()}{colon}{name}"


def _named(folder: Path) -> str:
    """A name for a folder's files in the store, which those of no other folder have."""
    return f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:6]}"


def _texts(value: Any) -> Iterator[str]:
    """All texts in a study's mapping, but for its keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)
