"""Reports as a reader meets them: opened in a browser, wide and on a phone. Skipped where there is no Chromium."""

import shutil
from pathlib import Path

import pytest

import metafluence as mf
from metafluence import default_registry
from metafluence.studies.comparison import Comparing
from small_studies import SEVERAL, changed

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (pip install selenium)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="needs a browser and its driver (on Debian: apt-get install chromium chromium-driver)",
    ),
]
WIDE, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, int]:
    """The report of a small study with every kind of figure that takes no time, and how many pictures it holds."""
    folder = tmp_path_factory.mktemp("browsed")
    asked = {"levels": ["task", "query"], "truth": {"items": 3}, "methods": ["influence", "loss", "random"]}
    result = mf.Study(mf.parse_study(changed(**asked)), default_registry(), folder).run()
    return mf.write_report(result, folder), 10


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> tuple[Path, int]:
    """The same of several variations."""
    folder = tmp_path_factory.mktemp("compared")
    published = {"source": "a paper", "rows": {"task-if": {"accuracy": 0.7}}}
    raw = {**SEVERAL, "truth": {"items": 3}, "published": published, "certificate": True, "seeds": 1}
    work = Comparing(mf.parse_comparison(raw), default_registry(), folder)
    outcomes = work.run(lambda study, result, place: mf.write_report(result, place))
    return mf.write_comparison(mf.Merged.of(work, outcomes), folder), 8


@pytest.fixture(params=["study", "comparison"])
def page(request) -> tuple[Path, int]:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(params=[WIDE, PHONE], ids=["wide", "phone"])
def opened(request, browser, page):
    width, height = request.param
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page[0].as_uri())
    return browser


def test_it_opens_without_a_complaint_and_with_all_its_pictures(opened, page):
    assert opened.get_log("browser") == []
    widths = opened.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(widths) == page[1]
    assert min(widths) > 0
    loaded = opened.execute_script("return performance.getEntriesByType('resource').map(r => r.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []


def test_nothing_is_wider_than_the_screen(opened):
    inner, width = opened.execute_script("return [window.innerWidth, document.documentElement.scrollWidth]")
    assert inner in (WIDE[0], PHONE[0])
    assert width <= inner


def test_text_is_large_enough_to_read(opened):
    """In the page; in figures, as wide as they are shown, as large as 8 points are there."""
    smallest = opened.execute_script(
        "return Math.min(...[...document.querySelectorAll('p, li, td, th, dd, figcaption, pre, footer')]"
        ".filter(e => e.offsetParent).map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 12
    shown = opened.execute_script("return [...document.images].map(i => i.clientWidth / i.naturalWidth)")
    assert min(shown) * 8 * 150 / 72 > 7.5


def column(browser, name: str) -> list[str]:
    return browser.execute_script(
        "const table = document.querySelector('table.sortable');"
        "const column = [...table.tHead.rows[0].cells].findIndex(c => c.textContent.trim() === arguments[0]);"
        "return [...table.tBodies[0].rows].map(r => r.cells[column].textContent);",
        name,
    )


def heading(browser, name: str):
    found = next(h for h in browser.find_elements("css selector", "table.sortable th") if h.text.strip() == name)
    # Not to where the first column, which stays, lies over it.
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", found)
    return found


def as_number(cell: str) -> float:
    """What a cell is sorted by, upwards: of two values, their mean."""
    if cell == "–":
        return float("inf")
    numbers = [float(part.split(maxsplit=1)[0]) for part in cell.split(", ")]
    return sum(numbers) / len(numbers)


def downwards(cell: str) -> float:
    return float("inf") if cell == "–" else -as_number(cell)


def test_a_click_on_a_heading_sorts_and_another_turns_it_round(opened):
    before = column(opened, "Spearman")
    heading(opened, "Spearman").find_element("tag name", "button").click()
    assert heading(opened, "Spearman").get_attribute("aria-sort") == "ascending"
    assert column(opened, "Spearman") == sorted(before, key=as_number)
    heading(opened, "Spearman").find_element("tag name", "button").click()
    assert heading(opened, "Spearman").get_attribute("aria-sort") == "descending"
    assert column(opened, "Spearman") == sorted(before, key=downwards)
    heading(opened, "method").find_element("tag name", "button").click()
    assert column(opened, "method") == sorted(column(opened, "method"))
    assert heading(opened, "Spearman").get_attribute("aria-sort") is None


def test_the_keyboard_sorts_too(opened):
    heading(opened, "seconds").find_element("tag name", "button").send_keys("\n")
    assert column(opened, "seconds") == sorted(column(opened, "seconds"), key=as_number)


def test_numbers_sort_as_numbers_and_what_is_none_comes_last(opened):
    """Percentages, powers of ten, minus signs, equal ones in their order, dashes and words at the end both ways."""
    cells = [
        "12.3 %",
        "–",
        "1e-05",
        "100.0 %",
        "-0.5",
        "failed",
        "1e-05",
        "0.92 to 1.00",
        "+0.123 ± 0.045",
        "-0.7 ± 0.1",
    ]
    opened.execute_script(
        "const table = document.querySelector('table.sortable');"
        "table.tBodies[0].replaceChildren(...arguments[0].map((text, i) => {"
        "  const row = document.createElement('tr');"
        "  [...table.tHead.rows[0].cells].forEach((_, c) => row.insertCell().textContent = c ? text : i);"
        "  return row; }))",
        cells,
    )
    button = heading(opened, "Spearman").find_element("tag name", "button")
    button.click()
    first = opened.execute_script("return document.querySelector('table.sortable th').textContent.trim()")
    up = ["-0.7 ± 0.1", "-0.5", "1e-05", "1e-05", "+0.123 ± 0.045", "0.92 to 1.00", "12.3 %", "100.0 %", "–", "failed"]
    assert column(opened, "Spearman") == up
    assert column(opened, first) == [str(i) for i in (9, 4, 2, 6, 8, 7, 0, 3, 1, 5)]
    button.click()
    assert column(opened, "Spearman") == [*up[7::-1], "–", "failed"]
    assert column(opened, first) == [str(i) for i in (3, 0, 7, 8, 2, 6, 4, 9, 1, 5)]


def test_links_lead_to_places_and_pages_that_there_are(opened, page):
    links = opened.execute_script("return [...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    inside = [link[1:] for link in links if link.startswith("#")]
    assert inside
    assert opened.execute_script("return arguments[0].filter(id => !document.getElementById(id))", inside) == []
    others = [link for link in links if not link.startswith("#")]
    assert len(others) == (2 if page[1] == 8 else 0)
    for link in others[:2]:
        opened.get((page[0].parent / link).as_uri())
        assert opened.execute_script("return document.querySelector('h1').textContent") == "small"
        assert opened.get_log("browser") == []
