"""Long lists are folded, on pages and in the terminal, and nothing is lost."""

from dataclasses import replace

import pytest

from made_outcomes import made_group
from metafluence.cli.study import _say_several
from metafluence.evaluation import Row
from metafluence.reports.comparison import Merged, write_comparison
from metafluence.reports.comparison.merged import Reported
from metafluence.sentences import FEW, GROUPS, folded
from metafluence.studies import Outcome

NAMES = ("red", "green", "blue", "grey", "black", "white", "brown", "pink", "lime", "teal", "navy", "gold", "plum")


@pytest.mark.parametrize(("count", "rest"), [(0, 0), (FEW, 0), (FEW + 1, 0), (FEW + 2, 2), (30, 20)])
def test_the_first_few_and_the_rest(count, rest):
    shown, hidden = folded(range(count))
    assert [*shown, *hidden] == list(range(count))
    assert len(hidden) == rest


@pytest.fixture
def whole(tmp_path) -> Merged:
    """Thirteen variations, each with a warning, a failed run and a failed variation of a reason of its own."""
    outcomes: list[Outcome] = []
    for name in NAMES:
        rows = [
            Row(method="a", spearman=0.5, seconds=1.0),
            Row(method="b", spearman=0.25, seconds=1.0),
            Row(method="c", status="failed", reason=f"There is no {name}."),
        ]
        (one,) = made_group([rows], name).outcomes
        outcomes.append(replace(one, warnings=(f"Mind the {name} of 1.5.",)))
        outcomes.append(
            Outcome(id=f"lost-{name}", varied={"varied": f"lost {name}"}, seed=0, reason=f"No {name} at all.")
        )
    pages = tuple(tmp_path / "none" for _ in outcomes)
    return Merged("many", "", tuple(outcomes), (Reported("", {"name": "many"}, {}, ()),), pages)


def test_a_page_folds_long_lists_and_loses_nothing(whole, tmp_path):
    page = write_comparison(whole, tmp_path / "page").read_text()
    for name in NAMES:
        for sentence in (f"Mind the {name} of 1.5.", f"There is no {name}.", f"No {name} at all."):
            assert page.count(sentence) == 1, sentence
    assert page.count(f"and {len(NAMES) - FEW} more</summary>") == 3
    assert f"and {len(NAMES) + 1 - GROUPS} more variations</summary>" in page
    inside = page.partition("Read the figures with care")[2].partition("</div>")[0]
    before, _, after = inside.partition("<details>")
    assert [name in before for name in NAMES] == [True] * FEW + [False] * (len(NAMES) - FEW)
    assert all(name in after for name in NAMES[FEW:])


def test_the_terminal_folds_and_full_shows_all(whole, capsys):
    _say_several(whole, full=False)
    found = capsys.readouterr()
    said = " ".join((found.out + found.err).split())
    assert "Mind the red of 1.5." in said
    assert "Mind the plum of 1.5." not in said
    assert f"and {len(NAMES) - FEW} more: --full" in said
    assert f"and {len(NAMES) + 1 - GROUPS} more variations: --full" in said
    _say_several(whole, full=True)
    found = capsys.readouterr()
    said = " ".join((found.out + found.err).split())
    assert all(f"Mind the {name} of 1.5." in said and f"No {name} at all." in said for name in NAMES)
    assert "--full" not in said
