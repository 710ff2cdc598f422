"""Every table, caption, column and finding says which truth it is against."""

from dataclasses import replace

import pytest

from made_outcomes import made_group
from metafluence.evaluation import Row, TestQuality as Quality, TruthKind
from metafluence.reports import caption, findings, level_table, words_of
from metafluence.reports.captions import FIGURE_TEXT
from metafluence.reports.figures import level_figures
from metafluence.reports.truth_findings import shared_part
from metafluence.studies import Side

KINDS = {
    "minimum": (TruthKind(), "exact retraining", "acc. retrained"),
    "run": (TruthKind("run"), "replays of this run", "acc. replayed"),
    "lowered": (TruthKind("run", 0.9), "replays of this run at weight 0.9", "acc. replayed"),
    "proximal": (TruthKind("proximal", damping=0.5), "proximal training (damping 0.5)", "acc. trained on"),
}


def against(*kinds: TruthKind):
    """A group for each kind of truth, with two methods."""
    found = []
    for kind in kinds:
        rows = [
            [
                Row(method="a", seconds=1.0, spearman=s, accuracy_retrained=0.8),
                Row(method="b", seconds=2.0, spearman=s / 3),
            ]
            for s in (0.9, 0.8, 0.7)
        ]
        group = made_group(rows, label=kind.kind, left_out=(0, 1, 2), loss_change=(0.1, 0.2, 0.3))
        found.append(replace(group, outcomes=tuple(replace(one, truth=kind) for one in group.outcomes)))
    return found


@pytest.mark.parametrize(("kind", "name", "column"), KINDS.values(), ids=KINDS)
def test_tables_captions_and_findings_name_the_truth(kind, name, column):
    groups = against(kind)
    table = level_table(groups, "task")
    assert table.title == f"task level, against {name}"
    assert column in table.titles
    meanings = dict(table.headings)
    assert meanings["Spearman"] == f"Spearman correlation of scores with changes of the validation loss by {name}."
    assert not any("{" in text for text in (*meanings, *meanings.values()))
    assert f"a ranks tasks most like {name} (Spearman 0.800" in " ".join(findings(groups[0]))
    for figure in ("fidelity-against-runtime", "methods-and-variations", "lds-and-variations"):
        assert name in caption(figure, words_of(groups))[1]
    effects = caption("predicted-against-true", words_of(groups))[1]
    assert ("this run is replayed" in effects) == (kind.kind == "run")
    assert ("trained on near where it is" in effects) == (kind.kind == "proximal")
    assert ("its weight is multiplied by 0.9 (scaled to its removal)" in effects) == bool(kind.weight)
    drawn = level_figures(groups, "task")["fidelity-against-runtime"]()
    assert drawn.axes[0].get_ylabel() == f"Spearman with {name}"


def test_several_truths_on_one_page_are_not_called_by_one_of_them():
    groups = against(TruthKind(), TruthKind("run"))
    assert level_table(groups, "task").title == "task level, against the truth of each variation"
    assert "replay" not in " ".join(findings(groups[0]))
    assert "replays of this run" in " ".join(findings(groups[1]))


def test_what_was_compared_with_nothing_names_no_truth():
    assert level_table([made_group([[Row(method="a")]])], "task").title == "task level"


@pytest.mark.parametrize("name", FIGURE_TEXT)
def test_no_caption_keeps_a_place_to_be_filled(name):
    assert "{" not in caption(name, TruthKind().words, True)[1]


def test_what_sets_share_is_a_mean_over_seeds_and_their_spread_is_within_each():
    sides = [
        Side(items=9, corrupted=0, removed=(1,), clean=Quality(), subset_loss_change=changes, subset_size=2)
        for changes in ((1.0, 3.0), (5.0, 9.0))
    ]
    said = shared_part(sides, "task")
    assert "changes the validation loss by +4.5 in the mean over 2 sets" in said
    assert f"by {(2**0.5 + 8**0.5) / 2:.2g} (standard deviation)" in said
