"""Which truth methods are compared with, and what it is called: the one place that words it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from typing import Annotated, Literal

from pydantic import Field

from metafluence.registry import Count, NonNegative

Kind = Literal["minimum", "run", "procedure", "proximal"]
Part = Annotated[float, Field(ge=0, lt=1)]
"""What is left of a weight that is lowered or taken away."""


@dataclass(frozen=True)
class TruthWords:
    """What a truth is called in tables, captions and sentences.

    name: what effects are compared with, as in "Spearman with exact retraining". short: what is done without items, as
    in "the loss after exact retraining". again: what happened to the model, as in "retrained without the corrupted".
    effect: how the effect of leaving an item out is found, as in "... when it is left out and the model is retrained".
    """

    name: str
    short: str
    again: str
    effect: str

    def said(self, text: str) -> str:
        """The text with these in the place of {name}, {short}, {again} and {effect}; other braces are a user's own."""
        for word in fields(self):
            text = text.replace(f"{{{word.name}}}", getattr(self, word.name))
        return text


WORDS: dict[Kind, TruthWords] = {
    "minimum": TruthWords(
        "exact retraining", "exact retraining", "retrained", "it is left out and the model is retrained exactly"
    ),
    "run": TruthWords(
        "replays of this run",
        "a replay of this run",
        "replayed",
        "it is left out and this run is replayed with the same start, batches and rates",
    ),
    "procedure": TruthWords(
        "the mean of {runs} runs' replays",
        "replays of {runs} runs",
        "replayed",
        "it is left out and {runs} runs, each with its own start and batches, are replayed (the mean change)",
    ),
    "proximal": TruthWords(
        "proximal training (damping {damping:g})",
        "proximal training",
        "trained on",
        "it is left out and the model is trained on near where it is, in outputs and parameters (damping {damping:g})",
    ),
}
SEVERAL = TruthWords(
    "the truth of each variation", "making the model again", "made again", "it is left out and the model is made again"
)


@dataclass(frozen=True)
class TruthKind:
    """A kind of ground truth.

    weight: what the weights of left-out items are multiplied by; 0 leaves them out. runs: how many the truth is a mean
    over. damping: of a proximal truth, how strongly it stays near in parameters.
    """

    kind: Kind = "minimum"
    weight: Part = 0.0
    runs: Count = 1
    damping: NonNegative = 0.0

    @property
    def words(self) -> TruthWords:
        """What it is called."""
        words = TruthWords(*(text.format(runs=self.runs, damping=self.damping) for text in astuple(WORDS[self.kind])))
        if not self.weight:
            return words
        lowered = f"its weight is multiplied by {self.weight:g} (scaled to its removal)"
        effect = words.effect.replace("it is left out", lowered)
        return TruthWords(f"{words.name} at weight {self.weight:g}", words.short, words.again, effect)


def truth_words(kinds: Iterable[TruthKind]) -> TruthWords:
    """What the truth of several outcomes is called."""
    found = set(kinds)
    return found.pop().words if len(found) == 1 else SEVERAL
