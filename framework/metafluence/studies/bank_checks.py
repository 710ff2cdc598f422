"""Checking a bank: its files, its data, and some of its retrainings made again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from metafluence.errors import BankError
from metafluence.progress import Observer
from metafluence.registry import Registry
from metafluence.studies.bank import Bank, load_bank
from metafluence.studies.bank_records import BankedLevel, BankedVariation
from metafluence.studies.bank_setting import BankSetting
from metafluence.studies.provenance import local_code, made_with
from metafluence.tasks import ITEM_NAMES, Level


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A bank that was found right.

    made: retrainings that were made again. of: how many the bank has. largest: the largest difference of a target's
    loss to the bank's, in nats. allowed: the largest that was allowed there. differing: versions that are others now.
    """

    made: int
    of: int
    largest: float
    allowed: float
    differing: str

    def sentences(self) -> list[str]:
        """In sentences."""
        again = f"{self.made} of {self.of} retrainings were made again: the loss of a target differs by at most "
        again += f"{self.largest:.1e} nats ({self.allowed:.1e} allowed)."
        return [
            "The files are whole, and the tasks and λ* are those of the bank.",
            again,
            *([f"The bank was made with other versions: {self.differing}."] if self.differing else []),
        ]


def verify_bank(
    folder: str | Path, registry: Registry, items: int | None = 12, seed: int = 0, observer: Observer | None = None
) -> Verified:
    """Check a bank: hashes, local code, data, λ*, and retrainings made again, drawn at random from all of it.

    Args:
        folder: of the bank.
        registry: with the components that its study names.
        items: how many retrainings are made again, of every variation and level in turn; None for all.
        seed: which ones are drawn.
        observer: is told how far the work has come.

    Raises:
        InputError: for a folder that is no bank.
        BankError: about the first thing that is wrong.
    """
    bank = load_bank(folder)
    code = local_code(registry, bank.study)
    if code != bank.code:
        named = sorted(name for name in code.keys() | bank.code.keys() if code.get(name) != bank.code.get(name))
        raise BankError(f"The code of {', '.join(named)} is not that of the bank. Name its registry with --registry.")
    chosen = _drawn(bank, items, seed)
    observer = observer or Observer()
    largest, allowed = 0.0, 0.0
    for variation in bank.variations:
        setting = bank.setting(variation, registry, observer)
        for level, banked in variation.levels.items():
            numbers = [i for one, at, i in chosen if one is variation and at == level]
            if numbers:
                observer.stage(f"retraining without {ITEM_NAMES[level]}, {variation.label}", len(numbers))
                found = _compared(setting, variation, level, banked, numbers)
                observer.done(f"{found[0]:.1e} nats")
                largest, allowed = max((largest, allowed), found)
    made_now = made_with(registry)
    differing = [
        f"{name} {then} (now {made_now.get(name)})"
        for name, then in bank.versions.items()
        if made_now.get(name) != then
    ]
    return Verified(
        made=len(chosen), of=bank.retrainings, largest=largest, allowed=allowed, differing=", ".join(differing)
    )


def _drawn(bank: Bank, items: int | None, seed: int) -> list[tuple[BankedVariation, Level, int]]:
    """The retrainings that are made again: of every variation and level in turn, in random order."""
    generator, placed = torch.Generator().manual_seed(seed), []
    for one in bank.variations:
        for level, found in one.levels.items():
            order = torch.randperm(len(found.removals), generator=generator).tolist()
            placed += [(turn, (one, level, number)) for turn, number in enumerate(order)]
    return [chosen for _, chosen in sorted(placed, key=lambda one: one[0])[:items]]


def _compared(
    setting: BankSetting, variation: BankedVariation, level: Level, banked: BankedLevel, numbers: list[int]
) -> tuple[float, float]:
    """The largest difference of a target's loss, and what is allowed. Raises BankError where one is larger."""
    removals = [banked.removals[i] for i in numbers]
    fits = setting.retrainings.leave_out(removals, level, strict=False)
    moved, nats = setting.allowed(variation.gradient_norm + float(fits.gradient_norm.nan_to_num().max()))
    before, largest = setting.targets.losses(), 0.0
    for i, removal, meta, good in zip(numbers, removals, fits.meta.T, fits.converged, strict=True):
        what = (
            f"{variation.label}: without {level} {', '.join(map(str, removal[:5]))}{' ...' if len(removal) > 5 else ''}"
        )
        if not good:
            raise BankError(f"{what} the retraining does not converge here, as it did for the bank.")
        change = (meta - setting.meta).cpu()
        apart = float((change.float() - banked.change[:, i]).norm())
        found = (setting.targets.losses(meta) - before).cpu()
        difference = (found - banked.loss_change[i]).abs()
        worst = int(difference.argmax())
        if not float(difference[worst]) <= nats:
            raise BankError(
                f"{what} the loss of {variation.targets[worst]} changes by {float(found[worst]):.9e} nats, and the "
                f"bank has {float(banked.loss_change[i, worst]):.9e} ({nats:.1e} apart is allowed)."
            )
        if not apart <= moved + 2 * torch.finfo(torch.float32).eps * float(change.norm()):
            raise BankError(f"{what} λ ends {apart:.1e} from where the bank has it ({moved:.1e} is allowed).")
        largest = max(largest, float(difference[worst]))
    return largest, nats
