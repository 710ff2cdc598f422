"""Stored work: tensors and facts in files that are written whole, say what they are, and carry a checksum."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from metafluence.errors import StoreError
from metafluence.runtime.fingerprints import hash_tensor

Work = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and facts as JSON has them."""

MANIFEST = "manifest.json"
CHECKSUM = re.compile("[0-9a-f]{64}")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises StoreError where the file system refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise StoreError(f"{path} cannot be written: {reason}. Free the disk or name another folder.") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], identity: str = "") -> None:
    """Store tensors and JSON facts in one safetensors file.

    Args:
        path: The file.
        tensors: Tensors by name; they are stored from the processor.
        facts: What JSON can hold.
        identity: What the file is; reading it as anything else fails.
    """
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = json.dumps(facts)
    metadata = {"facts": text, "identity": identity, "checksum": _checksum(plain, text, identity)}
    write_atomically(path, save(plain, metadata))


def load_tensors(path: Path, identity: str | None = None) -> Work:
    """What `save_tensors` stored.

    Files of versions that wrote neither identity nor checksum are read as they are.

    Raises:
        StoreError: The file is damaged, or it is not the one of this `identity` (not checked where that is None).
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            names = file.keys()
            tensors, metadata = {name: file.get_tensor(name) for name in names}, file.metadata()
        facts = json.loads(metadata["facts"])
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise StoreError(f"{path} is damaged ({error}).") from error
    if metadata.keys() != {"facts"}:
        written = metadata.get("identity", "")
        if metadata.get("checksum") != _checksum(tensors, metadata["facts"], written):
            raise StoreError(f"{path} is damaged (its checksum differs).")
        if identity is not None and written != identity:
            raise StoreError(f"{path} holds other work ({written}, not {identity}). It was moved or copied there.")
    return tensors, facts


def _checksum(tensors: Mapping[str, Tensor], facts: str, identity: str) -> str:
    digest = hashlib.sha256(f"{identity}\0{facts}".encode())
    for name in sorted(tensors):
        digest.update(f"\0{name}\0".encode())
        hash_tensor(digest, tensors[name])
    return digest.hexdigest()


def save_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Store JSON facts, to be read by people too."""
    plain = json.loads(json.dumps(facts))
    write_atomically(path, json.dumps({**plain, "checksum": _checksum({}, _canonical(plain), "")}, indent=1).encode())


def load_facts(path: Path) -> dict[str, Any]:
    """What `save_facts` stored; files of versions that wrote no checksum as they are. StoreError if it is damaged."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        written = facts.pop("checksum", None)
    except (ValueError, AttributeError, OSError) as error:
        raise StoreError(f"{path} is damaged ({error}).") from error
    if written is None and any(isinstance(value, str) and CHECKSUM.fullmatch(value) for value in facts.values()):
        raise StoreError(f"{path} was changed by hand or is damaged (its checksum has another name).")
    if written is not None and written != _checksum({}, _canonical(facts), ""):
        raise StoreError(f"{path} was changed by hand or is damaged (its checksum differs).")
    return facts


def _canonical(facts: Any) -> str:
    return json.dumps(facts, sort_keys=True)


class Shelf:
    """Finished work in one folder: each piece in a file of its own, which says what it is.

    A file that is damaged, or that holds another piece than its name says, counts as missing: the piece is computed
    again, and `notice` is called.

    Args:
        folder: Where the files lie.
        identity: What all pieces follow from; a piece of another identity is another piece.
        notice: Called with a sentence that says what was wrong.
    """

    def __init__(self, folder: Path, identity: str, notice: Callable[[str], None]) -> None:
        self.folder, self._identity, self._notice = folder, identity, notice

    def find(self, name: str) -> Work | None:
        """The piece called `name`; None if it is not there, or cannot be trusted."""
        file = self._file(name)
        if not file.exists():
            return None
        try:
            return load_tensors(file, f"{self._identity} {name}")
        except StoreError as error:
            self._notice(f"{error} It is computed again.")
            return None

    def keep(self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Store a piece."""
        save_tensors(self._file(name), tensors, facts, f"{self._identity} {name}")

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def folder_of(folder: Path, identity: Mapping[str, str], notice: Callable[[str], None]) -> Path:
    """Where work of this identity is kept: `folder` itself, or a folder in it if that holds work of another identity.

    So work made by other code, or from other data, is neither reused nor lost. `notice` is called with what differs.
    """
    found = _manifest(folder, notice)
    if found is None:
        save_facts(folder / MANIFEST, identity)
    if found is None or found == dict(identity):
        return folder
    anew = folder / f"anew-{digest_of(identity)}"
    if _manifest(anew, notice) is None:
        differing = _differing(found, identity)
        notice(
            f"The work stored in {folder} was made with another {', another '.join(differing)}: settings, code or data "
            f"changed. What follows from it is made anew in {anew.name}; the earlier work stays."
        )
        save_facts(anew / MANIFEST, identity)
    return anew


def digest_of(identity: Mapping[str, str]) -> str:
    """A short name of an identity."""
    return hashlib.sha256(_canonical(dict(identity)).encode()).hexdigest()[:12]


def _manifest(folder: Path, notice: Callable[[str], None]) -> dict[str, str] | None:
    """The identity of the work in a folder; None if it has none, or none that can be read."""
    file = folder / MANIFEST
    try:
        return load_facts(file) if file.exists() else None
    except StoreError as error:
        notice(f"{error} It is written again; the files beside it say themselves what they are.")
        return None


def check_identity(where: Path, found: Mapping[str, str], identity: Mapping[str, str]) -> None:
    """Raises StoreError naming every part in which the work found at `where` differs from what is wanted."""
    differing = _differing(found, identity)
    if differing:
        parts = "; ".join(f"{k}: stored {found.get(k)}, now {identity.get(k)}" for k in differing)
        raise StoreError(f"{where} holds work of another study ({parts}). Use another folder.")


def _differing(found: Mapping[str, str], identity: Mapping[str, str]) -> list[str]:
    """The parts that two identities do not share, by name."""
    return sorted(k for k in identity.keys() | found.keys() if identity.get(k) != found.get(k))
