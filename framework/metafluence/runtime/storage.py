"""Stored work: tensors and facts in safetensors files, written atomically, kept under fingerprints."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from metafluence.errors import StoreError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Store tensors and JSON facts in one safetensors file."""
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_atomically(path, save(plain, {"facts": json.dumps(facts)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` stored. Raises StoreError for a damaged file."""
    try:
        with safe_open(str(path), framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["facts"])
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise StoreError(f"{path} is damaged ({error}). Delete it; it will be computed again.") from error


def save_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Store JSON facts."""
    write_atomically(path, json.dumps(facts, indent=1).encode())


def load_facts(path: Path) -> dict[str, Any]:
    """What `save_facts` stored. Raises StoreError for a damaged file."""
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise StoreError(f"{path} is damaged ({error}). Delete it; it will be computed again.") from error


def claim(folder: Path, identity: Mapping[str, str]) -> None:
    """Mark `folder` as holding work of this identity, or check that it does.

    Raises StoreError naming every part that differs: stored work is never reused for another question.
    """
    manifest = folder / "manifest.json"
    if not manifest.exists():
        write_atomically(manifest, json.dumps(dict(identity), indent=1).encode())
        return
    try:
        found = json.loads(manifest.read_text())
    except ValueError as error:
        raise StoreError(f"{manifest} is damaged ({error}). Delete the folder {folder}.") from error
    check_identity(folder, found, identity)


def check_identity(where: Path, found: Mapping[str, str], identity: Mapping[str, str]) -> None:
    """Raises StoreError naming every part in which the work found at `where` differs from what is asked."""
    differing = sorted(k for k in identity.keys() | found.keys() if identity.get(k) != found.get(k))
    if differing:
        parts = "; ".join(f"{k}: stored {found.get(k)}, now {identity.get(k)}" for k in differing)
        raise StoreError(
            f"{where} holds work of another study ({parts}). Use another folder, or delete this one to start anew."
        )
