"""A bank: a study's exact retrainings as a small folder that others can use as ground truth, and check."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from metafluence.errors import BankError, InputError, StoreError
from metafluence.progress import Observer
from metafluence.registry import Registry, default_registry
from metafluence.runtime import hash_tensor, load_facts, load_tensors, save_facts, save_tensors
from metafluence.studies.bank_records import BankedLevel, BankedVariation
from metafluence.studies.bank_setting import BankSetting, remake
from metafluence.studies.variations import parse_comparison

FORMAT = 1
HERE = {"device": "cpu", "executor": "serial", "distributed": False}
"""How a study's problem is made again, so that a bank needs no machine like the one that it was made on."""
FACTS, ARRAYS, IDENTITY = "bank.json", "retrained.safetensors", "metafluence bank"


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Exact retrainings without the items of a finished study.

    study: its mapping, resolved. truth: what the retrainings are, in words. versions: those of Python, torch, numpy,
    metafluence and plugins that it was made with. code: hashes of the local components that the study names.
    """

    study: dict[str, Any]
    truth: str
    versions: dict[str, str | None]
    code: dict[str, str]
    variations: tuple[BankedVariation, ...]

    @property
    def name(self) -> str:
        """The study's."""
        return str(self.study["name"])

    @property
    def retrainings(self) -> int:
        """How many there are in all variations."""
        return sum(one.retrainings for one in self.variations)

    @property
    def changes(self) -> pd.DataFrame:
        """All true changes: a row for each variation, level, set of items that was left out, and target.

        Columns: what is varied, seed, level, items (a tuple of numbers), target, and change, the target's loss after
        the retraining minus that at λ*, in nats.
        """
        rows = [
            {**one.varied, "seed": one.seed, "level": level, "items": removal, "target": target, "change": change}
            for one in self.variations
            for level, found in one.levels.items()
            for removal, row in zip(found.removals, found.loss_change.tolist(), strict=True)
            for target, change in zip(one.targets, row, strict=True)
        ]
        return pd.DataFrame(rows)

    def setting(
        self, variation: BankedVariation, registry: Registry | None = None, observer: Observer | None = None
    ) -> BankSetting:
        """The problem, λ* and the targets that the changes of a variation are of: drawn again, nothing is trained.

        It is on the processor, and its retrainings are made one after another, wherever the study was done.

        registry: with the components that the study names, if some are of your own. observer: is told of retrainings.
        Raises BankError where the data are others than the bank's, or λ* is no minimum with them.
        """
        comparison = parse_comparison(self.study, where="The study of the bank")
        configs = [
            v.config for v in comparison.variations if (v.varied, v.config.seed) == (variation.varied, variation.seed)
        ]
        if len(configs) != 1:
            raise BankError(f"The study of the bank has no variation {variation.label}. The bank is damaged.")
        return remake(configs[0].model_copy(update=HERE), registry or default_registry(), variation, observer)


def save_bank(bank: Bank, folder: Path) -> None:
    """Write bank.json and the arrays beside it."""
    tensors: dict[str, Tensor] = {}
    for number, one in enumerate(bank.variations):
        tensors[f"{number}.start"] = one.start
        for level, found in one.levels.items():
            sizes = [len(removal) for removal in found.removals]
            items = [item for removal in found.removals for item in removal]
            tensors[f"{number}.{level}.sizes"] = torch.tensor(sizes, dtype=torch.int32)
            tensors[f"{number}.{level}.items"] = torch.tensor(items, dtype=torch.int32)
            tensors[f"{number}.{level}.change"] = found.change.float()
            tensors[f"{number}.{level}.loss_change"] = found.loss_change
    save_tensors(folder / ARRAYS, tensors, {}, IDENTITY)
    variations = [
        {
            "seed": one.seed,
            "varied": one.varied,
            "fingerprints": one.fingerprints,
            "gradient_norm": one.gradient_norm,
            "targets": list(one.targets),
            "counts": {
                level: {"single": found.singles, "subsets": len(found.removals) - found.singles}
                for level, found in one.levels.items()
            },
        }
        for one in bank.variations
    ]
    facts = {
        "format": FORMAT,
        "study": bank.study,
        "truth": bank.truth,
        "versions": bank.versions,
        "code": bank.code,
        "variations": variations,
        "arrays": {"file": ARRAYS, "sha256": _sha256(folder / ARRAYS)},
    }
    save_facts(folder / FACTS, facts)


def load_bank(folder: str | Path) -> Bank:
    """Read a bank that `metafluence bank write` wrote.

    Raises:
        InputError: for a folder that is no bank.
        BankError: for one that is damaged, or of another format.
    """
    folder = Path(folder)
    if not (folder / FACTS).is_file():
        raise InputError(f"{folder} is no bank: it has no {FACTS}. Give a folder that `metafluence bank write` wrote.")
    try:
        facts = _facts(folder / FACTS)
        arrays = folder / ARRAYS
        if _sha256(arrays) != facts["arrays"]["sha256"]:
            raise BankError(
                f"{arrays} is not the file that {FACTS} describes (its sha256 differs). Get the bank again."
            )
        tensors, _ = load_tensors(arrays, IDENTITY)
        return Bank(
            study=facts["study"],
            truth=facts["truth"],
            versions=facts["versions"],
            code=facts["code"],
            variations=tuple(_variation(one, i, tensors) for i, one in enumerate(facts["variations"])),
        )
    except (StoreError, OSError) as error:
        raise BankError(f"{error} Get the bank again.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise BankError(f"{folder} is damaged: what {FACTS} lists is not all there. Get the bank again.") from error


def fingerprint_of(meta: Tensor) -> str:
    """A hash of parameters."""
    digest = hashlib.sha256()
    hash_tensor(digest, meta)
    return digest.hexdigest()[:16]


def _facts(file: Path) -> dict[str, Any]:
    """The facts of a bank, after a look at its format, as those of another one may be checked in another way."""
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("format")
    except (ValueError, AttributeError) as error:
        raise BankError(f"{file} is damaged ({error}). Get the bank again.") from error
    if found != FORMAT:
        raise BankError(
            f"{file} is of format {found}, and this version of metafluence reads format {FORMAT}. Take the version "
            "that wrote it, or a bank of this format."
        )
    return load_facts(file)


def _variation(facts: dict[str, Any], number: int, tensors: dict[str, Tensor]) -> BankedVariation:
    levels = {}
    for level, counts in facts["counts"].items():
        sizes, items = (tensors[f"{number}.{level}.{name}"] for name in ("sizes", "items"))
        removals = tuple(tuple(part.tolist()) for part in items.split(sizes.tolist()))
        change, loss_change = (tensors[f"{number}.{level}.{name}"] for name in ("change", "loss_change"))
        if len(removals) != counts["single"] + counts["subsets"] or len(loss_change) != len(removals):
            raise ValueError("the counts differ")
        parts = {"removals": removals, "singles": counts["single"], "change": change, "loss_change": loss_change}
        levels[level] = BankedLevel(**parts)
    start = tensors[f"{number}.start"]
    if fingerprint_of(start) != facts["fingerprints"]["start"]:
        raise ValueError("λ* is another")
    return BankedVariation(
        varied=facts["varied"],
        seed=facts["seed"],
        start=start,
        gradient_norm=facts["gradient_norm"],
        fingerprints=facts["fingerprints"],
        targets=tuple(facts["targets"]),
        levels=levels,
    )


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
