"""What stands above and below each figure of a report."""

from __future__ import annotations

FIGURE_TEXT = {
    "predicted-against-true": (
        "Predicted against true change",
        "Each point is a left-out item. Across: how the validation loss really changes when it is left out and the "
        "model is retrained exactly. Up: what the method predicts. On the grey line the prediction is exact.",
    ),
    "items-found": (
        "Corrupted items found",
        "Items are inspected from the lowest score up; a curve that climbs faster finds the corrupted ones sooner.",
    ),
    "removal-curves": (
        "Removing what scores lowest",
        "The model is retrained exactly without ever more of the items that a method scores lowest. Lower is better.",
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
        "Up and to the left is better: scores that agree with exact retraining, sooner. The dashed line, if there is "
        "one, is how well retraining from other seeds agrees with it, the band its interval: what of the truth is the "
        "data's and not the seed's. A method made at this very fit may lie above. No estimator is both faster "
        "and better than those on the line, the Pareto front, whose names stand beside their points.",
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
        "One method's scores with each pair of solvers. Above: how well they rank tasks, and how far the solvers alone "
        "move them from the same method's scores under tight solves. Below: what the pair costs. Hatched pairs "
        "failed; the reasons stand below.",
    ),
    "against-truncation": (
        "Accuracy and time against J",
        "The same scores when a solver's number of steps grows, everything else being the same.",
    ),
}

OVER_SEEDS = {
    "items-found": (
        "Corrupted items found",
        "Items are inspected from the lowest score up; a curve that climbs faster finds the corrupted ones sooner.",
        "Lines are means over seeds, bands Student's 95 % intervals.",
    ),
    "removal-curves": (
        "Removing what scores lowest",
        "Test quality after exact retraining without ever more of the items that a method scores lowest; the star is "
        "retraining without exactly the corrupted ones.",
        "Lines are means over seeds, bands Student's 95 % intervals.",
    ),
    "fidelity-against-runtime": (
        "Fidelity against runtime",
        "Up and to the left is better. No estimator is both faster and better than those on the dotted line, the "
        "Pareto front, whose names stand beside their points.",
        "Points are means over seeds, bars Student's 95 % intervals of the fidelity.",
    ),
    "methods-and-variations": (
        "Methods in every variation",
        "Spearman of scores and exactly retrained changes, for every method in every variation.",
        "Figures are means over seeds.",
    ),
    **{
        name: (*FIGURE_TEXT[name], "Figures are means over seeds.")
        for name in ("inner-and-outer-solvers", "against-truncation")
    },
}
"""The same for figures over several variations: title, caption, and what is added where there are several seeds."""
