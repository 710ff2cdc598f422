"""What stands above and below each figure of a report."""

from __future__ import annotations

from dataclasses import asdict

from metafluence.evaluation import TruthWords

FIGURE_TEXT = {
    "predicted-against-true": (
        "Predicted against true change",
        "Each point is a left-out item. Across: how the validation loss really changes when {effect}. Up: what "
        "the method predicts. On the grey line the prediction is exact.",
    ),
    "trust-in-the-run": (
        "Whether a first order predicts this run",
        "Left: all weights are moved by h along one random direction. A smooth run moves in proportion (1, dashed); "
        "far above 1 small changes meet a floor, and no smaller effect can be predicted. The red mark is what the "
        "certificate allows. Middle: random sets left out; on the grey line the prediction is exact. Right: how much a "
        "change of λ after each step moves the validation loss; where this explodes towards the start, early steps "
        "decide the answer.",
    ),
    "items-found": (
        "Corrupted items found",
        "Items are inspected from the lowest score up; a curve that climbs faster finds the corrupted ones sooner.",
    ),
    "removal-curves": (
        "Removing what scores lowest",
        "Test quality after {short} without ever more of the items that a method scores lowest; the star is the same "
        "without exactly the corrupted ones.",
    ),
    "error-budget": (
        "Where the error comes from",
        "The error of the predicted parameter change, split by source: what first order misses, what the curvature "
        "adds, what the inner solves and the outer solve add. All are medians over the left-out items. The parts are "
        "lengths of vectors, so they mostly add up to more than the whole error (the diamond), in which they partly "
        "cancel.",
    ),
    "fidelity-against-runtime": (
        "Fidelity against runtime",
        "Up and to the left is better: scores that agree with {name}, sooner. The dashed line, if there is "
        "one, is how well retraining from other seeds agrees with it, the band its interval: what of the truth is the "
        "data's and not the seed's. A method made at this very fit may lie above. No estimator is both faster "
        "and better than those on the dotted line, the Pareto front, whose names stand beside their points.",
    ),
    "methods-and-variations": (
        "Methods in every variation",
        "Spearman of scores with {name}, for every method in every variation.",
    ),
    "lds-and-variations": (
        "LDS in every variation",
        "Linear datamodeling score: Spearman of summed scores with {name} over random sets, for every method in every "
        "variation.",
    ),
    "harmful": (
        "Most harmful",
        "The items of lowest score: the validation loss is predicted to fall most when they are removed.",
    ),
    "helpful": (
        "Most helpful",
        "The items of highest score: the validation loss is predicted to rise most when they are removed.",
    ),
    "inner-and-outer-solvers": (
        "Inner and outer solvers",
        "One method's scores with each pair of solvers. Above: how well they rank tasks (by {name}), and how far the "
        "solvers alone move them from the same method's scores under tight solves. Below: what the pair costs. Hatched "
        "pairs failed; the reasons stand below.",
    ),
    "against-truncation": (
        "Accuracy and time against J",
        "The same scores when a solver's number of steps grows, everything else being the same.",
    ),
}

OVER_SEEDS = {
    "items-found": "Lines are means over the seeds that all methods have, bands Student's 95 % intervals (of three "
    "seeds or more); of more than five methods the grey bar is their median, where it is widest.",
    "removal-curves": "Lines are means over the seeds that all methods have, bands Student's 95 % intervals (of three "
    "seeds or more); of more than five methods the grey bar is their median, where it is widest.",
    "fidelity-against-runtime": "Points are means over the seeds that all methods have, bars Student's 95 % "
    "intervals of the fidelity (of three seeds or more).",
    "methods-and-variations": "Numbers are means over the seeds that all methods have.",
    "lds-and-variations": "Numbers are means over the seeds that all methods have.",
    "inner-and-outer-solvers": "Numbers are means over seeds.",
    "against-truncation": "Numbers are means over seeds.",
}
"""What a caption says besides where there are several seeds."""


def caption(name: str, words: TruthWords, several_seeds: bool = False) -> tuple[str, str]:
    """The title and the caption of a figure. words: what the truth is called."""
    title, text = FIGURE_TEXT[name]
    text = text.format(**asdict(words))
    return title, f"{text} {OVER_SEEDS[name]}" if several_seeds and name in OVER_SEEDS else text
