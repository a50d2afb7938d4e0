"""The page holds every row once, with the numbers of leaderboard.csv, and nothing in it can become markup."""

import base64
import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import page_board
import pytest

from fgbench import cli, leaderboard
from fgbench.report import page
from fgbench.report.page import gallery, pareto

VOID = {"meta", "link", "input", "img", "br"}


class Reader(HTMLParser):
    """Rows of all tables of settings; ids, links; complains of tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.rows: list[dict[str, tuple[str, str]]] = []  # by column: what it is sorted by, and its text
        self.keys: list[str] = []
        self.row: list[list[str]] | None = None
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.seen.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.keys = []
        if tag == "th" and "data-key" in found:
            self.keys.append(found["data-key"])
        if tag == "tr" and "data-row" in found:
            self.row = []
        if tag in ("th", "td") and self.row is not None:
            self.row.append([found["data-v"], ""])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "tr" and self.row is not None:
            self.rows.append({key: (value, text) for key, (value, text) in zip(self.keys, self.row, strict=True)})
            self.row = None

    def handle_data(self, data: str) -> None:
        if self.row:
            self.row[-1][1] += data
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_board.write_board(tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="module")
def text(board: Path) -> str:
    page.write(board, board / "report.html", board.parent / "runs")
    return (board / "report.html").read_text()


@pytest.fixture(scope="module")
def read(text: str) -> Reader:
    return Reader(text)


def data_of(read: Reader) -> Any:
    return json.loads(read.scripts[0])


def test_every_setting_is_one_row_and_every_run_one_entry(read: Reader, board: Path) -> None:
    assert len(read.rows) == 6
    assert sorted(row["method"][0] for row in read.rows)[:4] == [
        "good",
        "good",
        "good",
        "other.half",
    ]
    entries = [entry for table in data_of(read)["tables"] for entry in table["entries"]]
    names = [(entry["name"], run["seed"]) for entry in entries for run in entry["runs"]]
    assert len(names) == len(set(names)) == len(list(page_board.runs())) == 8
    assert sorted(run["command"] for entry in entries for run in entry["runs"]) == sorted(
        result.command for result in page_board.runs()
    )


def test_numbers_are_those_of_the_csv(read: Reader, board: Path) -> None:
    leaderboard.rebuild(board)
    rows = list(csv.DictReader((board / "leaderboard.csv").open()))
    data = data_of(read)
    runs = {(entry["name"].split("/")[0], run["command"]): run for table in data["tables"] for entry in table["entries"]
            for run in entry["runs"]}  # fmt: skip
    for row in rows:
        shown = runs[row["dataset"], row["command"]]
        assert shown["seed"] == int(row["seed"])
        for name in ("accuracy", "landmark_error", "pointing_error", "train_hours", "energy_kwh", "test_images_per_s"):
            assert shown["numbers"].get(name) == (float(row[name]) if row[name] else None), name
        assert data["texts"][shown["facts"]["date"]] == row["date"]
    (good,) = (row for row in read.rows if row["method"][0] == "good" and row["seeds"][0] == "3")
    of_good = [float(row["accuracy"]) for row in rows if row["method"] == "good" and row["dataset"] == "toybirds"]
    assert float(good["accuracy"][0]) == pytest.approx(sum(of_good) / 3)
    assert (
        good["accuracy"][1].strip() == "92.50± 2.50[86.29, 98.71]"
    )  # t of 2 degrees of freedom: 4.3027 * 2.5 / sqrt(3)
    assert good["landmark_error"][1].strip() == "12.35floor 30.00"


def test_rows_have_groups_and_the_front(read: Reader) -> None:
    rows = {row["method"][0]: row for row in read.rows if "group" in row}
    letters = {name: set(row["group"][0]) for name, row in rows.items()}
    assert letters["good"] & letters["other.half"]  # 95 and 93 % of 40 images
    assert not letters["good"] & letters["plain"]
    assert letters["other.test"] == set()  # chosen on the test set
    assert "checkpoint chosen on the test set" in rows["other.test"]["method"][1]
    assert [name for name, row in rows.items() if row["front"][0]] == ["other.half", "good", "plain"]


def test_the_page_says_first_who_leads_by_how_much_and_whether_that_is_certain(text: str, read: Reader) -> None:
    rows = {row["method"][0]: row["behind"] for row in read.rows if "behind" in row}
    assert (rows["other.half"][0], rows["other.half"][1].strip()) == ("0.0", "best")
    gap = float(rows["plain"][0])
    assert gap == 50.0 - 92.5  # 40 images: 20 right, and 37
    # of 40 images 17 differ: their share has the standard error sqrt(0.425 * 0.575 / 40) = 0.078
    low, high = (float(end) for end in re.findall(r"[+-]\d+\.\d\d", rows["plain"][1])[1:])
    assert low == pytest.approx(-42.5 - 196 * 0.078, abs=3)
    assert high == pytest.approx(-42.5 + 196 * 0.078, abs=3)
    assert (rows["other.test"][0], rows["other.test"][1].strip()) == ("", "")
    captions = re.findall(r"<caption.*?</caption>", text)
    (said,) = (caption for caption in captions if "toybirds, track" in caption)
    assert "other.half is the most accurate: 93.00 %, one run. Cannot be told apart from it: good (" in said
    assert "Less accurate: plain (-42.50)" in said
    assert "Left out, for the checkpoint was chosen on the test set: other.test" in said
    glance = re.search(r'aria-labelledby="glance-h">.*?</table>', text, re.DOTALL)
    assert glance is not None
    told = re.sub(r"<[^>]*>", " ", glance[0])
    assert re.search(
        r"toybirds, paper\s+4 classes\s+other\.half\s+93\.00\s+one run\s+level with 1 of 3 others", told
    ), told


def test_a_published_number_is_marked_and_stands_beside_the_measured_one(read: Reader) -> None:
    (row,) = (row for row in read.rows if row.get("published", ("", ""))[0])
    assert row["published"][0] == "87.3"
    assert row["published"][1].startswith("published 87.3measured +0.70Somebody, 2020, table 2theirs: resnet101")
    assert row["accuracy"][0] == "88.0"


def test_texts_never_become_markup(text: str, read: Reader) -> None:
    tags = [tag for tag, _ in read.seen]
    assert tags.count("script") == 2
    assert text.count("<script") == 2
    assert [found["src"][:22] for tag, found in read.seen if tag == "img"] == ["data:image/jpeg;base64"]
    assert not [name for _, found in read.seen for name in found if name.startswith("on")]
    assert page_board.NASTY in data_of(read)["texts"]


def test_it_needs_nothing_else_and_every_link_leads_somewhere(text: str, read: Reader) -> None:
    ids = [found["id"] for _, found in read.seen if "id" in found]
    assert len(ids) == len(set(ids))
    links = [
        found.get("href", found.get("src", "")) for tag, found in read.seen if tag in ("a", "link", "img", "script")
    ]
    for link in filter(None, links):
        assert link.startswith("data:") or link[1:] in ids, link
    assert not re.search(r"@import|url\(", text)
    assert sum(tag == "path" for tag, _ in read.seen) == 3  # the front's marks; tables of one row have no plot
    labels = [
        found[name] for _, found in read.seen for name in ("aria-labelledby", "aria-describedby") if name in found
    ]
    assert set(labels) <= set(ids)


def test_tables_say_what_they_are(read: Reader) -> None:
    heads = [found for tag, found in read.seen if tag == "th"]
    assert all(found.get("scope") in ("col", "row") for found in heads)
    tags = [tag for tag, _ in read.seen]
    assert tags.count("caption") == tags.count("table")
    assert ("html", {"lang": "en"}) in read.seen
    assert ("label", {"for": "words"}) in read.seen


def test_pictures_are_small_and_stay_within_their_limit(read: Reader, board: Path) -> None:
    (picture,) = (found for tag, found in read.seen if tag == "img")
    image = cv2.imdecode(np.frombuffer(base64.b64decode(picture["src"].split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (144, 720, 3)
    assert (picture["width"], picture["height"], picture["alt"]) == ("720", "144", "good, seed 0: examples")
    without = page.render(leaderboard.read_results(board).results, board, board.parent / "runs", pictures_mb=0.001)
    assert "<img" not in without
    assert "1 pictures were left out" in without


def test_a_picture_that_is_damaged_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"not a picture")
    assert gallery.small(tmp_path / "x.png") is None


def test_no_results_make_a_page_too(tmp_path: Path) -> None:
    text = page.render([], tmp_path, tmp_path)
    assert Reader(text).rows == []
    assert "No results yet" in text


def test_many_settings_are_not_tested_and_long_curves_lose_epochs_but_not_the_last(tmp_path: Path) -> None:
    many = [page_board.run(number, history={"loss": [float(epoch) for epoch in range(1000)]}) for number in range(61)]
    read = Reader(page.render(many, tmp_path, tmp_path))
    run = data_of(read)["tables"][0]["entries"][0]["runs"][0]
    assert len(run["epochs"]) == len(run["curves"]["loss"]) <= 150
    assert (run["epochs"][-1], run["curves"]["loss"][-1]) == (1000, 999.0)
    assert all(value == epoch - 1 for epoch, value in zip(run["epochs"], run["curves"]["loss"], strict=True))
    assert len(read.rows) == len({row["method"][1] for row in read.rows}) == 61  # the digest tells them apart


def test_names_of_neighbouring_marks_lie_on_no_mark_and_no_other_name() -> None:
    at = [(100.0, 50.0), (160.0, 52.0), (150.0, 75.0), (620.0, 200.0), (600.0, 203.0)]
    marks = [pareto.Mark("#", "", f"a_method_{x:.0f}", x, y, True, 0) for x, y in at]
    marks.append(pareto.Mark("#", "", "", 175.0, 51.0, False, 0))  # has no name
    taken = [(mark.x - 8, mark.y - 8, mark.x + 8, mark.y + 8) for mark in marks]
    for mark in pareto._named(marks)[:-1]:
        x, y, anchor = mark.name
        width = 6.5 * len(mark.label)  # as Chromium draws it
        left = x - width * ["start", "middle", "end"].index(anchor) / 2
        box = (left, y - 10, left + width, y + 2)
        assert all(box[0] >= b[2] or box[2] <= b[0] or box[1] >= b[3] or box[3] <= b[1] for b in taken), mark
        assert box[2] <= pareto.WIDTH
        taken.append(box)


@pytest.mark.parametrize(("low", "high"), [(0.01, 0.02), (0.3, 0.5), (1.0, 1.4), (1.0, 30.0), (0.001, 1000.0)])
def test_ticks_of_the_cost_lie_within_and_are_some(low: float, high: float) -> None:
    ticks = pareto._log_ticks(low, high)
    assert 2 <= len(ticks) <= 9
    assert all(low <= tick <= high for tick in ticks)


def test_better_settings_stand_higher_cheaper_ones_further_left(board: Path) -> None:
    found = [entry for entry in leaderboard.entries(leaderboard.read_results(board).results)
             if entry.run.dataset == "toybirds"]  # fmt: skip
    plot = pareto.plot(found, [entry.label for entry in found], [False] * len(found))
    assert plot is not None
    by_height = sorted(plot.marks, key=lambda mark: mark.y)
    assert [mark.href for mark in by_height] == ["#other.test", "#other.half", "#good", "#plain"]
    by_cost = [mark.href for mark in sorted(plot.marks, key=lambda mark: mark.x)]
    assert (by_cost[0], by_cost[-1]) == ("#plain", "#other.half")
    shades = {mark.href: mark.shade for mark in plot.marks}
    assert (shades["#plain"], shades["#other.half"], shades["#good"]) == (-1, 0, pareto.STEPS - 1)


def test_the_verb_writes_the_page_and_names_what_it_left_out(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_verb: Callable[..., None] = lambda *given: cli.main(["report", "--folder", str(board), *given])  # noqa: E731
    with pytest.raises(SystemExit) as ended:
        run_verb("--output", str(board / "x.html"))
    assert ended.value.code == 0
    assert "x.html: 8 results" in capsys.readouterr().out
    damaged = board / "results/toybirds/good.01234567.s0.json"
    damaged.write_text("{")
    with pytest.raises(SystemExit) as ended:
        run_verb()
    damaged.unlink()
    assert ended.value.code == 1
    assert "good.01234567.s0.json" in capsys.readouterr().err
    assert (board / "report.html").exists()
