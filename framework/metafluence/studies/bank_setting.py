"""The problem of a bank's variation, remade about the λ* that the bank holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from metafluence.attribution import Context, Targets
from metafluence.bilevel import BilevelProblem
from metafluence.errors import BankError
from metafluence.linalg import extreme_eigenvalues
from metafluence.progress import Observer
from metafluence.registry import Registry
from metafluence.studies.bank_records import BankedVariation
from metafluence.studies.config import StudyConfig
from metafluence.studies.preparation import Preparation
from metafluence.tasks import Level
from metafluence.training import Fit, RetrainBank

SLACK = 10.0
"""For the Hessian, which is that at λ* and not that on the way between two fits."""
ROUNDING = 1000.0
"""Rounding, in units of the number type's own."""


@dataclass(frozen=True)
class BankSetting:
    """What the numbers of a bank's variation are about.

    problem: with all training tasks. meta: λ*, [P]. targets: each validation task's loss. retrainings: makes exact fits
    about λ*, which are not kept.
    """

    problem: BilevelProblem
    meta: Tensor
    targets: Targets
    retrainings: RetrainBank

    def context(self, level: Level = "task") -> Context:
        """What a method of metafluence is given."""
        return Context(self.problem.at(self.meta), level)

    def allowed(self, gradient_norm: float) -> tuple[float, float]:
        """How far two exact fits may lie apart in λ, and in a target's loss (nats).

        gradient_norm: the sum of their ‖∇F‖. Where the smallest eigenvalue of the Hessian is μ, a fit is within ‖∇F‖/μ
        of the minimum, and a loss moves by its gradient times that. NaN where μ is not known to be positive.
        """
        found = extreme_eigenvalues(self.problem.at(self.meta).hessian(), torch.Generator().manual_seed(0))
        mu = float(found.smallest - found.smallest_error)
        if mu <= 0:
            return float("nan"), float("nan")
        rounding = ROUNDING * torch.finfo(self.meta.dtype).eps
        moved = SLACK * gradient_norm / mu + rounding * float(self.meta.norm())
        steepest = float(self.targets.gradients().norm(dim=0).max())
        return moved, steepest * moved + rounding * float(self.targets.losses().abs().max())


def remake(
    config: StudyConfig, registry: Registry, variation: BankedVariation, observer: Observer | None = None
) -> BankSetting:
    """Draw the tasks again, and build the problem at the λ* of the bank.

    Raises BankError where the tasks are others than the bank's, or λ* is not a minimum with them.
    """
    preparation = Preparation(config, registry, Path(), observer or Observer())
    split = preparation.tasks.split()
    targets, _ = preparation.tasks.targets(split.validation)
    for what, tasks in (("train", split.train), ("targets", targets)):
        found, kept = tasks.fingerprint(), variation.fingerprints[what]
        if found != kept:
            named = {"train": "training tasks", "targets": "target tasks"}[what]
            raise BankError(
                f"{variation.label}: the {named} are others than the bank's ({found}, not {kept}). The data set, or "
                "how tasks are drawn from it, is another here; get the data that the bank was made with."
            )
    problem, device = preparation.problem(split), preparation.device
    meta = variation.start.to(device)
    norm = float(problem.at(meta).gradient.norm())
    allowed = SLACK * variation.gradient_norm + ROUNDING * torch.finfo(meta.dtype).eps
    if not norm <= allowed:
        raise BankError(
            f"{variation.label}: λ* of the bank is no minimum here: ‖∇F‖ is {norm:.1e}, where the bank says at most "
            f"{variation.gradient_norm:.1e}. The learner or its loss is another; take the versions in bank.json."
        )
    retrainings = preparation.bank_about(problem, Fit(meta, norm, True, 0, 0, 0.0), split)
    return BankSetting(problem, meta, Targets(problem, targets.to(device=device), meta, mean=False), retrainings)
