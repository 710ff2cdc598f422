"""A study of several variations from the command line: planned, done, reported, merged; its page against its rows."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import metafluence as mf
from metafluence.reports.comparison.errors import budget_table, mean_cells
from metafluence.reports.figures.level import level_figures
from metafluence.reports.groups import groups
from metafluence.reports.results import rows_frame
from metafluence.reports.study import report as study_report, section
from metafluence.reports.tables import level_table, narrow_table
from metafluence.reports.text_table import number
from metafluence.reports.verdict import inspected_until_all
from metafluence.sentences import alike
from metafluence.studies.comparison import Comparing
from small_studies import SEVERAL, command

FEW = {**SEVERAL["episodes"], "shot": 2, "query": 2}
STUDY = {
    **SEVERAL,
    "episodes": FEW,
    "levels": ["task", "query"],
    "methods": ["influence", "loss", {"use": "influence", "solver": {"use": "cg", "max_iterations": 1}}],
    "truth": {"items": 3, "subsets": 3},
    "remove": 0.34,
    "grid": {"method": "influence", "inner": ["exact"], "outer": ["cg", "ek-fac", {"use": "neumann", "truncation": 2}]},
    "budget": {"methods": ["influence", {"use": "influence", "solver": {"use": "cg", "max_iterations": 1}}]},
    "published": [
        {
            "source": "a paper",
            "rows": {
                "retrain": {"accuracy": 0.79, "seconds": 300.0},
                "influence": {"accuracy": 0.78, "seconds": 60.0},
                "loss": {"accuracy": 0.5},
                "unheard-of": {"accuracy": 0.4, "seconds": 1.0},
            },
        },
        {"source": "another", "level": "query", "rows": {"loss": {"accuracy": 0.625}}},
    ],
    "sizes": {
        "tiny": {
            "seeds": 1,
            "vary": {},
            "levels": ["task"],
            "methods": ["loss"],
            "truth.subsets": 0,
            "remove": [0.34, 0.5],
        }
    },
}
METHOD = ("influence", "cg")


@pytest.fixture(scope="module", autouse=True)
def _only_the_pictures_of_tasks():
    """Drawing the rest of each variation's own report takes most of the time, and is tested with that report."""
    drawn, figures = study_report.exhibit, section.level_figures
    with pytest.MonkeyPatch.context() as patch:

        def several(groups, level):
            return figures(groups, level) if len(groups) > 1 else {}

        patch.setattr(section, "level_figures", several)
        patch.setattr(study_report, "predicted_against_true", lambda result, level: None)
        patch.setattr(study_report, "exhibit", lambda result, level: drawn(result, level) if level == "task" else None)
        yield


def text(page: Path) -> str:
    """What a page says, in one line, without the markup."""
    said = re.sub(r"<(style|script)>.*?</\1>|<img[^>]*>", " ", page.read_text(), flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", said).replace("&#39;", "'").split())


def words(out: str) -> str:
    return " ".join(out.split())


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the study's file and its store, as `run` left it, and what it printed."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    found = command(folder, "run", "study.yaml")
    (folder / "out.txt").write_text(found.stdout)
    (folder / "err.txt").write_text(found.stderr)
    assert found.returncode == 1, "one method fails"
    return folder


@pytest.fixture(scope="module")
def store(place) -> Path:
    return place / "results" / "small"


@pytest.fixture(scope="module")
def whole(store) -> mf.Merged:
    return mf.merged(mf.open_stores([store]))


@pytest.fixture(scope="module")
def rows(store) -> pd.DataFrame:
    return pd.read_csv(store / "results.csv")


def test_a_store_holds_what_was_asked_what_was_found_and_the_pages(store):
    stored = json.loads((store / "study.json").read_text())
    ids = stored["variations"]
    assert len(ids) == len(set(ids)) == 4
    assert {file.stem for file in (store / "outcomes").iterdir()} == set(ids)
    assert {file.name for file in (store / "variations").iterdir()} == set(ids)
    assert len(list((store / "work").iterdir())) == 4
    assert "sizes" not in stored["study"]
    for id, config in stored["configurations"].items():
        assert f"seed-{config['seed']}-" in id
        assert str(config["learner"]["penalty"]) in id
    assert stored["versions"]["metafluence"] == mf.__version__


def test_means_and_intervals_are_those_of_the_rows(whole, rows):
    for level in ("task", "query"):
        table = level_table(whole.at(level), level)
        headings = [heading for heading, _ in table.headings]
        shown = [dict(zip(headings, row, strict=True)) for row in table.rows]
        for penalty in (0.5, 1.0):
            some = rows[(rows.level == level) & (rows["learner.penalty"] == penalty)]
            mine = [row for row in shown if row["variation"] == f"learner.penalty {penalty}"]
            full, clean, *estimates = mine
            once = some.groupby("seed").first()
            assert number(full["acc. retrained"]) == pytest.approx(once.accuracy_full.mean(), abs=6e-5)
            assert number(clean["acc. retrained"]) == pytest.approx(once.accuracy_clean.mean(), abs=6e-5)
            for row in estimates[:2]:
                of = some[(some.method == row["method"]) & (some.solver.fillna("") == row["solver"])]
                assert len(of) == 2
                assert_cell(row["Spearman"], of.spearman, 6e-4)
                assert_cell(row["AUROC"], of.auroc, 6e-4)
                assert_cell(row["acc. retrained"], of.accuracy_retrained, 6e-5)
                assert_cell(row["edit − retrained"], of.accuracy_edited - of.accuracy_retrained, 6e-5)
                ratio = (of.seconds + of.edit_seconds.fillna(0)) / of.fit_seconds
                assert_cell(row["share of one fit's time"], ratio, 6e-3 * ratio.mean())
            assert estimates[2]["method"] == "influence (2 failed)"
            assert estimates[2]["Spearman"] == "–"


def assert_cell(cell: str, values: pd.Series, within: float) -> None:
    known = values.dropna()
    if known.empty:
        assert cell == "–"
        return
    assert number(cell) == pytest.approx(known.mean(), abs=within)
    unit = cell.split("%", maxsplit=1)[0].replace("%", "").split(", ")
    assert [float(value) for value in unit] == pytest.approx(known.tolist(), abs=within), "two values, no interval"


def test_the_best_of_each_group_is_marked(whole):
    table = level_table(whole.at("task"), "task")
    headings = [heading for heading, _ in table.headings]
    column = headings.index("AUROC")
    for label in ("learner.penalty 0.5", "learner.penalty 1.0"):
        cells = {r: row[column] for r, row in enumerate(table.rows) if row[0] == label and number(row[column])}
        best = max(map(number, cells.values()))
        assert {r for r, c in table.best if c == column and r in cells} == {
            r for r, cell in cells.items() if number(cell) == best
        }


def test_sentences_say_what_the_rows_say(whole, rows):
    for group in whole.groups:
        found = dict(whole.findings)[group.label]
        some = rows[(rows.level == "task") & (rows["learner.penalty"] == float(group.varied["learner.penalty"]))]
        some = some[some.status == "ok"]
        once = some.groupby("seed").first()
        pair = ", ".join
        full = pair(f"{value:.3f}" for value in once.accuracy_full)
        clean = pair(f"{value:.3f}" for value in once.accuracy_clean)
        (gained,) = [s for s in found if s.startswith("With all tasks")]
        assert f"the test accuracy is {full}, retrained without exactly the corrupted {clean}." in gained
        first = some.groupby("method").spearman.mean().idxmax()
        shown = pair(f"{value:.3f}" for value in some[some.method == first].spearman)
        assert any("Spearman" in sentence and shown in sentence for sentence in found)
        assert not any("±" in sentence for sentence in found), "two seeds have no interval"
    assert mf.comparison_verdict(whole.outcomes, whole.groups)[-1] == "8 of 24 runs failed."


def test_all_corrupted_are_found_where_a_count_by_hand_says(store, whole):
    """Each run's scores and the corrupted tasks, drawn anew."""
    asked = json.loads((store / "study.json").read_text())["configurations"]
    for level in ("task", "query"):
        for group in whole.at(level):
            shares = []
            for one in group.outcomes:
                config = mf.parse_study(asked[one.id])
                study = mf.Study(config, mf.default_registry(), store / "work" / work_of(store, one.id))
                marks = study.preparation.start().split.train.corrupted_items(level).tolist()
                run = next(
                    r for r in study.run().runs if r.row.level == level and (r.row.method, r.row.solver) == METHOD
                )
                order = sorted(range(len(marks)), key=lambda i: (run.scores[i].item(), i))
                last = max(place for place, item in enumerate(order, 1) if marks[item])
                shares.append(last / len(marks))
            assert inspected_until_all(group, level, METHOD).value == pytest.approx(np.mean(shares))


def work_of(store: Path, id: str) -> str:
    raw = json.loads((store / "study.json").read_text())["study"]
    return next(v.work for v in mf.parse_comparison(raw).variations if v.id == id)


def test_run_prints_brief_tables_the_findings_and_why_runs_failed(place, whole):
    out, err = (place / "out.txt").read_text(), words((place / "err.txt").read_text())
    assert "[4 of 4] learner.penalty 1.0 seed 1" in out
    for level in ("task", "query"):
        for group in whole.at(level):
            assert f"{level} level, against exact retraining, {group.label}" in out
            for row in narrow_table([group], level, "terminal").rows:
                assert row[-1] in out
    for _, sentences in whole.findings:
        for sentence in sentences:
            assert sentence in words(out).replace("± ", "± ")
    assert err.count("Raise max_iterations") == 1, "one reason is said once"
    assert "influence (cg max_iterations=1), everywhere" in err


def test_brief_tables_leave_out_what_says_nothing(whole):
    group = whole.at("task")[0]
    assert [h for h, _ in narrow_table([group], "task", "terminal").headings] == [
        *("method", "solver", "Spearman", "AUROC", "acc. edited", "acc. retrained", "share of one fit's time")
    ]


def test_the_page_holds_everything_once(store, whole):
    page = (store / "report.html").read_text()
    said = text(store / "report.html")
    for _, sentences in whole.findings:
        for sentence in sentences:
            assert sentence in said
    assert "8 of 24 runs failed." in said
    assert said.split("Where the error comes from")[0].count("Raise max_iterations") == 1
    assert "Means over 2 seeds" in said
    assert page.count("data:image/png;base64,") == 2 * 4 + 2 * 2 + 2, "figures by level; pictures and grids by group"
    links = re.findall(r'<a href="(variations/[^"]+)"', page)
    assert len(links) == 4
    assert all((store / link).is_file() for link in links)
    config = yaml.safe_load(page.split("<pre>")[1].split("</pre>")[0].replace("&#39;", "'"))
    assert [v.id for v in mf.parse_comparison(config).variations] == [one.id for one in whole.outcomes]
    assert f"metafluence {mf.__version__}" in said


def test_published_figures_stand_beside_ours(store, rows):
    table = re.findall(
        r"Beside a paper, learner.penalty 0.5</h3>.*?</table>", (store / "report.html").read_text(), re.S
    )
    assert len(table) == 1, "at the level of what is published, and no other"
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", table[0], re.S)[1:]]
    by_name = {cell[0]: cell[1:] for cell in cells}
    assert set(by_name) == {"retrain", "influence (cg)", "influence (cg max_iterations=1)", "loss"}
    some = rows[(rows.level == "task") & (rows["learner.penalty"] == 0.5) & (rows.solver == "cg")]
    theirs, edited, retrained, time, ratio = by_name["influence (cg)"]
    assert (theirs, time) == ("0.7800", "0.2"), "60 of 300 seconds"
    assert number(edited) == pytest.approx(some.accuracy_edited.mean(), abs=6e-5)
    assert number(retrained) == pytest.approx(some.accuracy_retrained.mean(), abs=6e-5)
    assert number(ratio) == pytest.approx(((some.seconds + some.edit_seconds) / some.fit_seconds).mean(), rel=6e-3)
    assert by_name["loss"][3] == "–", "no time is published"
    theirs, edited, retrained, time, ratio = by_name["retrain"]
    assert (theirs, edited, time, ratio) == ("0.7900", "–", "1", "1")
    assert number(retrained) == pytest.approx(some.accuracy_clean.mean(), abs=6e-5)


def test_each_level_has_what_is_published_of_it(store):
    page = (store / "report.html").read_text()
    tables = re.findall(r"<h3>Beside another, learner.penalty [^<]*</h3>.*?</table>", page, re.S)
    assert len(tables) == 2
    assert all("0.6250" in table and "0.7800" not in table for table in tables)


def test_grids_of_solvers_are_means_over_seeds(whole, store):
    group = whole.groups[0]
    done, failed, rough = mean_cells(group)
    own = [[cell for cell in one.cells if cell.outer == "neumann truncation=2"] for one in group.outcomes]
    for name in ("error", "seconds", "spearman"):
        assert getattr(rough, name) == pytest.approx(np.mean([getattr(cell, name) for (cell,) in own]))
    assert done.error < 1e-6 < rough.error
    assert failed.status == "failed"
    page = text(store / "report.html")
    assert page.count("exact × ek-fac : EKFAC cannot be used with this operator") == len(whole.groups)
    assert {f"inner-and-outer-solvers-{i}.png" for i in (1, 2)} <= {f.name for f in (store / "figures").iterdir()}


def test_error_budgets_are_means_over_seeds_and_failures_have_their_reason(whole, store):
    table = budget_table(whole.groups)
    headings = [heading for heading, _ in table.headings]
    budgets = [b for one in whole.groups[1].outcomes for b in one.budgets if b.status == "ok" and b.level == "task"]
    (row,) = [r for r in table.rows if r[:2] == (whole.groups[1].label, "task")]
    assert number(row[headings.index("whole error")]) == pytest.approx(
        100 * np.mean([b.total for b in budgets]), abs=0.06
    )
    assert len(table.rows) == 4, "of one method, the other fails"
    page = text(store / "report.html").split("Where the error comes from")[-1]
    assert "influence (cg max_iterations=1), tasks, learner.penalty 0.5 seed 0;" in page
    assert "influence (cg max_iterations=1), query instances, learner.penalty 0.5 seed 0;" in page
    assert page.count("Raise max_iterations") == 1


def test_tables_for_papers_line_up_numbers_with_intervals(store):
    latex = (store / "tables" / "task.tex").read_text()
    columns = re.search(r"tabular}{(\w+)}", latex)[1]
    assert columns.startswith("lllr")
    assert set(columns[3:]) == {"r"}
    assert r"\textbf{" in latex
    assert len(columns) == 10, (
        "variation, method, solver, Δλ error, Spearman, AUROC, edited, retrained, gap, share of one fit's time"
    )
    about, _, *markdown = (store / "tables" / "query.md").read_text().splitlines()
    assert about == "small: influence of query instances, against exact retraining."
    assert len(markdown) == 2 + 2 * (2 + 3)
    assert markdown[1].count("-:") == markdown[0].count("|") - 1 - 3


def test_a_dry_run_says_what_will_be_done_and_leaves_work(place):
    found = command(place, "run", "study.yaml", "--size", "tiny", "--set", "seeds=2", "--dry-run")
    assert found.returncode == 0, found.stderr
    said = words(found.stdout)
    variations = mf.load_comparison(place / "study.yaml", "tiny", {"seeds": 2}).variations
    for variation in variations:
        assert variation.id in said
    assert len(re.findall(r"task-loss-[0-9a-f]+", found.stdout)) == 2
    # Three single tasks in each, and two shares removed.
    assert "2 runs in 2 variations, with 2 fits and at most 10 exact retrainings." in said
    assert re.search(r"about \S+ (seconds|minutes) in all, as if every variation were as large as the first", said)
    folder = place / "results" / "small-tiny"
    assert not (folder / "study.json").exists()
    kept = {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")}
    assert len(kept) == 1 + 2, "a fit and two retrainings"
    done = command(place, "run", "study.yaml", "--size", "tiny", "--set", "seeds=2")
    assert done.returncode == 0, done.stderr
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    merged = mf.merged(mf.open_stores([folder]))
    assert "Means over 2 seeds" in text(folder / "report.html")
    assert [label for label, _ in merged.findings] == [""]


def test_one_seed_has_no_intervals_and_its_own_report_is_kept(place):
    folder = place / "one"
    found = command(place, "run", "study.yaml", "--size", "tiny", "--set", "levels=[task, query]", "--out", "one")
    assert found.returncode == 0, found.stderr
    own = (folder / "report.html").read_text()
    again = command(place, "report", "one")
    assert again.stdout.strip() == "one/report.html"
    assert (folder / "report.html").read_text() == own, "the report that `run` wrote says more than one of means"
    page = mf.write_comparison(mf.merged(mf.open_stores([folder])), place / "elsewhere")
    said = text(page)
    assert "±" not in said.split("How to reproduce")[0]
    assert "over seeds" not in said.split("How to reproduce")[0].replace("means over seeds.", "")
    assert '<a href="../one/report.html">seed 0</a>' in page.read_text()


def test_what_is_not_finished_is_left_out_and_said(place, store, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    gone = sorted((copy / "outcomes").iterdir())[0]
    gone.unlink()
    found = command(tmp_path, "report", "copy")
    assert found.returncode == 0, found.stderr
    assert "1 of 4 variations are not finished" in words(found.stdout)
    said = text(copy / "report.html")
    assert "1 of 4 variations are not finished and are left out." in said
    assert gone.stem in said
    assert "Means over 1 or 2 seeds" in said
    assert len(pd.read_csv(copy / "results.csv")) == 3 * 6


def test_two_stores_of_one_study_are_that_study_with_all_seeds(place, store, rows):
    for seeds, out in (("[0]", "here"), ("[0, 1]", "there")):
        work = Comparing(mf.load_comparison(place / "study.yaml", "tiny", {"seeds": yaml.safe_load(seeds)}),
                         mf.default_registry(), place / out)  # fmt: skip
        work.run(lambda study, result, place: None)
    one = mf.merged(mf.open_stores([place / "here", place / "there"]))
    assert [outcome.seed for outcome in one.outcomes] == [0, 1], "what is in both counts once"
    assert [group.varied for group in one.groups] == [{}]


def test_two_studies_are_merged_with_the_study_varied(place, store, rows):
    assert command(place, "run", "study.yaml", "--size", "tiny", "--set", "name=other").returncode == 0
    first = (store / "report.html").read_bytes()
    found = command(place, "report", "results/small", "results/other-tiny")
    assert found.returncode == 0, found.stderr
    folder = place / "results" / "small-and-other-merged"
    assert found.stdout.strip() == "results/small-and-other-merged/report.html"
    assert (store / "report.html").read_bytes() == first, "no store is touched"
    table = pd.read_csv(folder / "results.csv")
    assert table.study.value_counts().to_dict() == {"small": len(rows), "other": 1}
    said = text(folder / "report.html")
    assert "2 studies: small, other." in said
    assert "study small, learner.penalty 0.5" in said
    assert "Beside a paper, study small, learner.penalty 0.5" in said
    page = (folder / "report.html").read_text()
    assert page.count("<pre>") == 2
    for link in re.findall(r'<a href="([^"#]+)"', page):
        assert (folder / link).is_file()


def test_studies_of_one_name_are_told_apart_by_their_folders(place, store, tmp_path):
    assert command(place, "run", "study.yaml", "--size", "tiny", "--set", "l2=2.0", "--out", "heavier").returncode == 0
    found = mf.merged(mf.open_stores([store, place / "heavier"]))
    assert [g.varied["study"] for g in found.groups] == ["small (small)"] * 2 + ["small (heavier)"]


def test_a_folder_that_is_no_store_is_refused(place, tmp_path):
    found = command(tmp_path, "report", ".")
    assert found.returncode == 2
    assert "is no store of a study" in words(found.stderr)
    (tmp_path / "study.json").write_text('{"configuration": {}}')
    assert "written by an older version" in words(command(tmp_path, "report", ".").stderr)
    (tmp_path / "study.json").write_text('{"variations": ["a"]}')
    assert "Nothing in . is finished yet" in words(command(tmp_path, "report", ".").stderr)
    wrong = command(place, "run", "study.yaml", "--size", "tinny")
    assert wrong.returncode == 2
    assert "Did you mean 'tiny'" in words(wrong.stderr)


def test_where_every_variation_fails_the_reason_is_the_answer(place):
    found = command(place, "run", "study.yaml", "--set", "dataset={use: mnist, root: nowhere}", "--out", "failed")
    assert found.returncode == 2
    assert "nowhere" in "".join(found.stderr.split())
    assert "Traceback" not in found.stderr
    assert not (place / "failed" / "report.html").exists()


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """Outcomes of a study whose variations differ in their items, shares and targets, with one that failed."""
    waves = {
        "dataset": "sinusoid",
        "episodes": {"train": 6, "validation": 3, "test": 3, "shot": 2, "query": 2},
        "learner": {"use": "ridge-head", "backbone": {"use": "mlp", "hidden": [3]}},
    }
    raw = {
        **SEVERAL,
        "episodes": FEW,
        "learner": {"use": "protonet", "backbone": {"use": "mlp", "hidden": [2]}},
        "methods": ["task-if"],
        "truth": {"items": 3},
        "vary": {
            "damping": {
                "digits": {},
                "more": {"episodes.train": 8, "corruption.fraction": 0.5, "remove": [0.25, 0.5]},
                "waves": waves,
                "none": {"dataset": "mnist", "dataset.root": "nowhere"},
            }
        },
    }
    folder = tmp_path_factory.mktemp("varied")
    work = Comparing(mf.parse_comparison(raw), mf.default_registry(), folder)
    return work, work.run(lambda study, result, place: None), folder


def test_a_component_that_cannot_be_built_is_said_with_its_variation(tmp_path):
    raw = {**SEVERAL, "vary": {"learner": [SEVERAL["learner"], {"use": "maml", "penalty": 1}]}}
    with pytest.raises(mf.InputError, match=r"^learner maml penalty=1: learner \(maml.* has no parameter 'penalty'"):
        Comparing(mf.parse_comparison(raw), mf.default_registry(), tmp_path)


def test_regression_is_reported_by_its_loss(varied):
    _, outcomes, _ = varied
    waves = [one for one in outcomes if one.varied["damping"] == "waves"]
    assert not any(one.reason for one in waves), waves[0].reason
    table = level_table(groups(waves), "task")
    headings = [heading for heading, _ in table.headings]
    assert "loss retrained" in headings
    assert not any("acc" in heading for heading in headings)
    frame = rows_frame(waves)
    assert not any(column.startswith("accuracy") for column in frame)
    (said,) = [s for s in mf.comparison_verdict(waves, groups(waves)) if s.startswith("With all tasks")]
    full = frame.groupby("seed").first().loss_full
    assert f"test loss is {', '.join(f'{value:.3f}' for value in full)}" in said
    both = [heading for heading, _ in level_table(groups(outcomes), "task").headings]
    assert {"acc. edited", "acc. retrained", "loss edited", "loss retrained"} < set(both)


def test_what_is_varied_never_hides_a_field(varied):
    _, outcomes, _ = varied
    frame = rows_frame(outcomes)
    assert set(frame["vary.damping"]) == {"digits", "more", "waves"}
    assert frame["damping"].dtype == float


def test_panels_have_each_group_s_own_shares(varied):
    _, outcomes, _ = varied
    found = level_figures(groups(outcomes[:4]), "task")["removal-curves"]()
    more = next(axis for axis in found.axes if "more" in axis.get_title())
    np.testing.assert_allclose(more.lines[0].get_xdata(), [0, 0.25, 0.5])
    star = next(line for line in more.lines if line.get_label() == "exactly the corrupted")
    np.testing.assert_allclose(star.get_xdata(), [0.5])
    spotted = level_figures(groups(outcomes), "task")["items-found"]()
    assert sorted(len(axis.lines[0].get_xdata()) for axis in spotted.axes if axis.get_title()) == [7, 7, 9]


def test_a_variation_that_failed_is_said_with_its_reason(varied):
    work, outcomes, folder = varied
    whole = mf.Merged.of(work, outcomes)
    said = text(mf.write_comparison(whole, folder))
    assert "2 of 8 variations failed." in said
    assert "(damping none seed 0, damping none seed 1)" in said


def test_sentences_that_differ_in_numbers_are_one():
    found = alike([
        ("‖∇F‖ is 7.3e-10 at 2 of 9 tasks.", 0),
        ("Task train-7 is odd.", 1),
        ("‖∇F‖ is 2e-11 at 2 of 9 tasks.", 2),
        ("Task train-8 is odd.", 3),
        ("‖∇F‖ is -0.5 at 2 of 9 tasks.", 4),
    ])  # fmt: skip
    assert found == [
        ("‖∇F‖ is -0.5 to 7.3e-10 at 2 of 9 tasks.", [0, 2, 4]),
        ("Task train-7 is odd.", [1]),
        ("Task train-8 is odd.", [3]),
    ]
