"""The page in a headless Chromium: it sorts, filters, opens rows, and never complains. Skipped where there is none."""

from collections.abc import Iterator
from pathlib import Path

import chromium
import page_board
import pytest

from fgbench.report import page as report

pytestmark = pytest.mark.skipif(
    chromium.find() is None, reason="no Chromium on PATH; FGBENCH_CHROMIUM names one elsewhere"
)
COLUMN = """(key) => { const table = document.querySelector('#dataset-toybirds table');
    const at = [...table.querySelectorAll('thead th')].findIndex((head) => head.dataset.key === key);
    const rows = [...table.querySelectorAll('tbody tr[data-row]')].filter((row) => !row.hidden);
    return rows.map((row) => row.cells[at].dataset.v);
}"""
FAINT = """(() => {
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => parts(colour).slice(0, 3)
        .map((one) => one / 255).map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
        .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if ((parts(colour)[3] ?? 1) === 1) return colour;
        }
    };
    return [...document.querySelectorAll('body *')].filter((node) => node.checkVisibility()
        && [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim())).map((node) => {
        const style = getComputedStyle(node);
        const both = [node.closest('svg') ? style.fill : style.color, behind(node)].map(light).sort((a, b) => a - b);
        return [(both[1] + 0.05) / (both[0] + 0.05), node.outerHTML.slice(0, 80)];
    }).filter(([ratio]) => !(ratio >= 4.5));
})()"""  # texts on their background, by WCAG 2
HEAD = "document.querySelector('#dataset-toybirds th[data-key={}] button')"


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Page]:
    with chromium.browser(str(chromium.find())) as found:
        yield found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    board = page_board.write_board(folder)
    report.write(board, folder / "report.html", folder / "runs")
    return folder / "report.html"


@pytest.fixture
def tab(browser: chromium.Page, path: Path) -> Iterator[chromium.Page]:
    browser.size(1200, 900)
    browser.open(path)
    yield browser
    assert browser.problems() == []  # no console error, no exception, no request
    assert browser.run("window.hit") is None  # nothing of the texts was run


def column(tab: chromium.Page, key: str) -> list[str]:
    return list(tab.run(f"({COLUMN})({key!r})"))


def sort_of(tab: chromium.Page, key: str) -> object:
    return tab.run(f"{HEAD.format(key)}.parentNode.getAttribute('aria-sort')")


def narrow(tab: chromium.Page, words: str) -> None:
    tab.run("document.querySelector('#words').focus(); document.querySelector('#words').select()")
    tab.type(words)
    tab.run("document.querySelector('#filter').requestSubmit()")


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (390, False)])
def test_it_opens_in_light_and_dark_and_on_a_phone(tab: chromium.Page, width: int, dark: bool) -> None:
    tab.size(width, 844, dark)
    tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    tab.run("document.querySelectorAll('.open').forEach((one) => one.click())")
    tab.wait("document.querySelectorAll('.lazy svg').length > 2")
    assert tab.run("document.documentElement.scrollWidth") <= width  # wide tables scroll in themselves
    light = tab.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] > 128")
    assert light != dark
    assert tab.run(FAINT) == []


def test_a_click_on_a_heading_sorts_the_best_first_then_the_other_way(tab: chromium.Page) -> None:
    assert column(tab, "accuracy") == ["99.0", "93.0", "92.5", "50.0"]
    tab.run(f"{HEAD.format('accuracy')}.click()")
    assert (sort_of(tab, "accuracy"), column(tab, "accuracy")) == ("ascending", ["50.0", "92.5", "93.0", "99.0"])
    tab.run(f"{HEAD.format('gmacs')}.click()")
    assert (sort_of(tab, "gmacs"), sort_of(tab, "accuracy")) == ("ascending", None)
    assert column(tab, "gmacs") == ["1.0", "1.5", "1.5", "20.0"]
    tab.run(f"{HEAD.format('landmark_error')}.click()")
    assert column(tab, "landmark_error") == ["9.5", "12.34567", "12.34567", ""]
    tab.run(f"{HEAD.format('landmark_error')}.click()")
    assert column(tab, "landmark_error") == ["12.34567", "12.34567", "9.5", ""]  # empty ones stay last
    tab.run(f"{HEAD.format('method')}.click()")
    assert column(tab, "method") == ["good", "other.half", "other.test", "plain"]


def test_the_keyboard_is_enough(tab: chromium.Page) -> None:
    tab.press("Tab")
    assert tab.run("document.activeElement.textContent") == "Skip to the tables"
    tab.run(f"{HEAD.format('accuracy')}.focus()")
    tab.press("Enter")
    assert sort_of(tab, "accuracy") == "ascending"
    tab.press("Tab")
    assert tab.run("document.activeElement.textContent") == "to the best"
    assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.run("document.querySelector('#dataset-toybirds .open').focus()")
    tab.press(" ")
    assert tab.run("document.activeElement.getAttribute('aria-expanded')") == "true"
    assert tab.run("document.getElementById(document.activeElement.getAttribute('aria-controls')).hidden") is False


@pytest.mark.parametrize(
    ("words", "methods", "count"),
    [
        ("toybirds other", ["other.test", "other.half"], 2),
        ("accuracy>=93", ["other.test", "other.half"], 2),
        ("toybirds landmark_error<=12.4 gmacs<2", ["other.test", "good"], 2),
        ("landmark_error!=0 toybirds", ["other.test", "other.half", "good"], 3),  # an empty cell is no number
        ("GOOD seeds=3", ["good"], 1),
        ("nothing-of-this", [], 0),
    ],
)
def test_the_filter_takes_words_and_conditions(tab: chromium.Page, words: str, methods: list[str], count: int) -> None:
    narrow(tab, words)
    assert column(tab, "method") == methods
    assert tab.run("document.querySelector('#count').textContent") == f"{count} of 6 settings"
    assert tab.run("document.querySelector('#none').hidden") == (count > 0)
    assert tab.run("document.querySelector('#dataset-toybirds').hidden") == (not methods)
    tab.run("document.querySelector('#clear').click()")
    assert len(column(tab, "method")) == 4


def test_only_the_front_and_a_link_to_what_is_hidden(tab: chromium.Page) -> None:
    tab.run("document.querySelector('#onfront').click()")
    assert column(tab, "method") == ["other.half", "good", "plain"]
    hidden = tab.run("document.querySelector('#dataset-toybirds tbody tr[hidden]').id")
    tab.run(f"document.querySelector('svg a[href=\"#{hidden}\"] circle').dispatchEvent("
            "new MouseEvent('click', {bubbles: true, cancelable: true}))")  # fmt: skip
    tab.wait(f"!document.getElementById({hidden!r}).hidden")
    assert len(column(tab, "method")) == 4


def test_an_opened_row_says_where_it_comes_from(tab: chromium.Page) -> None:
    buttons = "[...document.querySelectorAll('#dataset-toybirds .open')]"
    row = f"{buttons}.find((one) => one.textContent === 'good').closest('tr')"
    tab.run(f"{row}.querySelector('.open').click()")
    said = tab.run(f"{row}.nextSibling.textContent")
    for seed in range(3):
        assert f"make bench SEED={seed} N=0" in said
    for text in ("0123456789ab", "torch 2", "toybirds/good.", "2026-01-02T03:04:05Z", "not reported", "abcdef"):
        assert text in said, text
    assert tab.run(f"{row}.nextSibling.querySelectorAll('.chart polyline').length") == 6  # loss and accuracy of 3 seeds
    tab.run(f"{HEAD.format('accuracy')}.click()")
    assert tab.run(f"{row}.nextSibling.className") == "detail"  # sorted with its row
    tab.run(f"{row}.nextSibling.querySelector('.copy').click()")
    tab.wait(f"{row}.nextSibling.querySelector('.copy').textContent === 'copied'")
    tab.run(f"{row}.querySelector('.open').click()")
    assert tab.run("document.querySelectorAll('.detail').length") == 0


def test_texts_stay_texts_in_an_opened_row(tab: chromium.Page) -> None:
    tab.run("document.querySelectorAll('#dataset-nasty details').forEach((one) => { one.open = true; })")
    tab.run("document.querySelector('#dataset-nasty .open').click()")
    tab.wait("document.querySelectorAll('#dataset-nasty .lazy svg').length")
    said = tab.run("document.querySelector('#dataset-nasty .detail').textContent")
    assert said.count(page_board.NASTY) >= 8
    assert tab.run("document.querySelectorAll('#dataset-nasty img, #dataset-nasty a[href^=javascript]').length") == 0


def test_results_by_class_are_of_the_rows_that_are_shown(tab: chromium.Page) -> None:
    narrow(tab, "toybirds good")
    tab.run("document.querySelector('#dataset-toybirds [data-what=by]').open = true")
    tab.wait("document.querySelector('#dataset-toybirds [data-what=by] table') !== null")
    table = "document.querySelector('#dataset-toybirds [data-what=by] table')"
    cells = f"[...{table}.rows].map((row) => [...row.cells].map((one) => one.textContent))"
    assert tab.run(cells) == [["", "good"], ["a", "81.0"], ["b", "99.0"]]
    narrow(tab, "toybirds other.half")
    assert tab.run(cells) == [["", "other.half"], ["a", "80.0"], ["b", "100.0"]]


def test_a_thousand_rows_open_in_two_seconds(browser: chromium.Page, tmp_path: Path) -> None:
    rows = [page_board.run(number, accuracy=number / 10) for number in range(1000)]
    path = tmp_path / "large.html"
    path.write_text(report.render(rows, tmp_path, tmp_path))
    browser.size(1200, 900)
    before = browser.seconds()
    browser.open(path)
    assert browser.run("document.querySelectorAll('tr[data-row]').length") == 1000
    assert browser.seconds() - before < 2  # of CPU: other processes may be busy here
    narrow(browser, "accuracy>=95")
    assert len(column(browser, "method")) == 50
    assert browser.problems() == []
