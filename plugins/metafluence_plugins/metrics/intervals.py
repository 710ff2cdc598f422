"""A correlation with its bootstrap interval, as numbers of a metric."""

from __future__ import annotations

from metafluence import Interval, Number


def with_interval(correlation: Number) -> tuple[Number, ...]:
    """The correlation and the ends of its interval."""
    ends = (("low", "Lower"), ("high", "Upper"))
    return (
        correlation,
        *(
            Number(
                f"{correlation.name}_{end}",
                meaning=f"{which} end of the 95 % bootstrap interval of `{correlation.name}`.",
                form=correlation.form,
                bounds=correlation.bounds,
                shown=False,
            )
            for end, which in ends
        ),
    )


def values(name: str, found: Interval) -> dict[str, float]:
    """The same, as measured."""
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
