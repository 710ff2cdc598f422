"""Writing a bank: the retrainings of a finished study, taken from its store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from metafluence.attribution import Targets
from metafluence.errors import BankError, InputError
from metafluence.progress import Observer
from metafluence.registry import Registry
from metafluence.runtime import warn
from metafluence.studies.bank import FACTS, Bank, fingerprint_of, save_bank
from metafluence.studies.bank_records import BankedLevel, BankedVariation
from metafluence.studies.bank_setting import BankSetting
from metafluence.studies.comparison import Store, open_stores
from metafluence.studies.config import RunStudyConfig, StudyConfig
from metafluence.studies.outcomes import Outcome
from metafluence.studies.preparation import Preparation
from metafluence.studies.provenance import local_code, made_with
from metafluence.studies.variations import Variation, parse_comparison
from metafluence.tasks import ITEM_NAMES, Level
from metafluence.training import RetrainBank

MACHINE = ("platform", "commit")


def write_bank(
    store: str | Path,
    folder: str | Path,
    registry: Registry,
    observer: Observer | None = None,
    notice: Callable[[str], None] = warn,
) -> Bank:
    """Write the exact retrainings of a finished study into a folder.

    Args:
        store: the folder that `run` wrote. What its study retrained is read from there.
        folder: of the bank; it must have none yet.
        registry: with the components that the study names.
        observer: is told how far the work has come.
        notice: called with a sentence about retrainings that did not converge, which are left out, or were made anew.

    Raises:
        StoreError: for a folder that is no store.
        InputError: for a study that is not finished, whose truth is not exact retraining, or whose fit is no minimum.
        BankError: where the retrainings are not those that the store's results were computed with.
    """
    store, folder = Path(store), Path(folder)
    if (folder / FACTS).exists():
        raise InputError(f"{folder} has a bank already, which others may rely on. Name another folder.")
    found = open_stores([store])[0]
    if found.missing:
        raise InputError(f"{store} is not finished: {found.missing[0]} is missing. Run its study to the end first.")
    comparison = parse_comparison(found.raw)
    for variation in comparison.variations:
        _refuse_other_truths(variation.config)
    outcomes = {one.id: one for one in found.outcomes}
    banked = []
    for variation in comparison.variations:
        work = Store(store).work(variation)
        preparation = Preparation(variation.config, registry, work, observer or Observer())
        banked.append(_banked(variation, preparation, outcomes[variation.id], notice))
        for sentence in preparation.notices:
            notice(sentence)
    bank = Bank(
        study=found.raw,
        truth="exact retraining",
        versions={name: version for name, version in made_with(registry).items() if name not in MACHINE},
        code=local_code(registry, found.raw),
        variations=tuple(banked),
    )
    save_bank(bank, folder)
    return bank


def _refuse_other_truths(config: StudyConfig) -> None:
    truth = "none" if config.truth is None else config.truth.kind
    if truth != "minimum" or isinstance(config, RunStudyConfig):
        raise InputError(
            f"A bank holds exact retrainings to a minimum, which anybody can make again, and the truth of this "
            f"study is {truth!r}. Run it with `truth: {{kind: minimum}}`."
        )


def _banked(
    variation: Variation, preparation: Preparation, stored: Outcome, notice: Callable[[str], None]
) -> BankedVariation:
    started = preparation.start()
    problem, meta = started.problem, started.fit.meta
    tasks, _ = preparation.tasks.targets(started.split.validation)
    targets = Targets(problem, tasks.to(device=preparation.device), meta, mean=False)
    bank = preparation.bank(started)
    assert bank is not None
    norms, levels = [started.fit.gradient_norm], {}
    for level in variation.config.levels:
        levels[level], largest = _level(preparation, level, problem.tasks.items(level), bank, targets, notice)
        norms.append(largest)
    fingerprints = {
        "train": started.split.train.fingerprint(),
        "targets": tasks.fingerprint(),
        "start": fingerprint_of(meta.cpu()),
    }
    found = BankedVariation(
        varied=variation.varied,
        seed=variation.config.seed,
        start=meta.cpu(),
        gradient_norm=max(norms),
        fingerprints=fingerprints,
        targets=tasks.ids,
        levels=levels,
    )
    _, allowed = BankSetting(problem, meta, targets, bank).allowed(2 * found.gradient_norm)
    if not allowed < float("inf"):
        raise InputError(
            f"{found.label}: the Hessian at λ* is not positive definite, so that retrainings need not agree. Raise l2."
        )
    for level, ours in levels.items():
        _check_against_results(found.label, level, ours, stored, allowed)
    return found


def _level(
    preparation: Preparation,
    level: Level,
    items: int,
    bank: RetrainBank,
    targets: Targets,
    notice: Callable[[str], None],
) -> tuple[BankedLevel, float]:
    """The retrainings of a level that converged, and their largest gradient norm."""
    singles, subsets = preparation.removals(level, items)
    removals = [*singles, *subsets]
    fits = bank.leave_out(removals, level, strict=False)
    kept = fits.converged.nonzero().squeeze(1)
    if complaint := fits.complaint():
        notice(f"Without {ITEM_NAMES[level]}: {complaint} They are not in the bank.")
    if not len(kept):
        raise InputError(f"No retraining without {ITEM_NAMES[level]} converged: {fits.complaint()} Raise l2.")
    metas, before = fits.meta[:, kept], targets.losses()
    found = BankedLevel(
        removals=tuple(removals[i] for i in kept),
        singles=int((kept < len(singles)).sum()),
        change=(metas - targets.point.meta.unsqueeze(1)).cpu().float(),
        loss_change=torch.stack([targets.losses(meta) - before for meta in metas.T]).cpu(),
    )
    return found, float(fits.gradient_norm[kept].max())


def _check_against_results(label: str, level: Level, ours: BankedLevel, stored: Outcome, allowed: float) -> None:
    """Raises BankError where a mean over targets is not what the store's results were compared with."""
    side = stored.sides[level]
    known = dict(zip(side.left_out, side.loss_change, strict=True))
    for removal, row in zip(ours.removals[: ours.singles], ours.loss_change, strict=False):
        then = known.get(removal[0])
        if then is not None and not abs(float(row.mean()) - then) <= allowed:
            raise BankError(
                f"{label}: without {level} {removal[0]} the targets' mean loss changes by {float(row.mean()):.6e}, and "
                f"the store's results have {then:.6e}. Run the study again in a new folder."
            )
