"""Whether a study's fit is a minimum, and what its reader is warned of."""

from __future__ import annotations

from collections.abc import Callable

from metafluence.bilevel import Diagnostics
from metafluence.studies.config import TruthConfig
from metafluence.training import Fit


def checked_fit(
    truth: TruthConfig | None, fit: Fit, measure: Callable[[], Diagnostics]
) -> tuple[Diagnostics | None, list[str]]:
    """What `measure` finds of the fit as a minimum, and the warnings.

    It is not measured where runs are replayed: nothing there assumes a minimum, and it takes up to a hundred products.
    """
    stopped = f"Meta-training stopped before its tolerance (‖∇F‖ = {fit.gradient_norm:.1e})."
    off = f"‖∇F‖ = {fit.gradient_norm:.1e}: methods that differentiate a minimum, such as task-if, are off."
    if truth is not None and truth.replays:
        return None, [] if fit.converged else [off]
    found = measure()
    warnings = [*([] if fit.converged else [stopped]), *found.warnings]
    return found, [off] if warnings and truth is not None and truth.kind != "minimum" else warnings
