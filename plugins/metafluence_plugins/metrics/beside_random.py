"""What a choice did to the test tasks, beside random choices of the same kind."""

from __future__ import annotations

from torch import Tensor

from metafluence import Number


def numbers_beside(random: str) -> tuple[Number, ...]:
    """What these are, for tables. random: what the random ones are."""
    return (
        Number("change", "", "Change of the mean test loss; below 0 is better.", "nats", better="low", chance=0.0),
        Number("gain", "", f"Mean test loss of {random}, less this one's.", "nats", better="high", chance=0.0),
        Number("beaten", "", f"Share of {random} with a higher loss.", better="high", chance=0.5, bounds=(0.0, 1.0)),
    )


def beside_random(change: float, random: Tensor) -> dict[str, float]:
    """change: of the mean test loss, in nats, below zero if the choice helps. random [draws]: the same of random ones.

    gain: by how much lower the loss is than the mean of the random ones. beaten: the share of them with a higher loss.
    """
    random = random[random.isfinite()]
    if not len(random):
        return {"change": change}
    beaten = (random > change).double() + 0.5 * (random == change).double()
    return {"change": change, "gain": float(random.mean()) - change, "beaten": float(beaten.mean())}
