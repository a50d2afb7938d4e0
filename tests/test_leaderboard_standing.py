"""Who leads a table and how certain that is, on rows with known predictions; the board inside a README."""

from pathlib import Path

import pytest
from known_rows import add, entries

from fgbench import leaderboard
from fgbench.leaderboard import audit
from fgbench.leaderboard.block import END, refreshed
from fgbench.leaderboard.settings import by_table
from fgbench.leaderboard.standing import shares, standing, verdict
from fgbench.result import ResultError

ROOT = Path(__file__).resolve().parents[1]
BEGIN = "<!-- leaderboard of toybirds -->"


def test_a_leader_is_named_with_who_is_level_and_who_is_behind(tmp_path: Path) -> None:
    for seed in range(3):
        add(tmp_path, "first", seed, 2, shift=seed)  # 95 % of 40 images
    add(tmp_path, "level", 0, 3, shift=5)
    add(tmp_path, "last", 0, 30)
    found = standing(tmp_path, entries(tmp_path))
    assert [row.label for row in found.rows] == ["first", "level", "last"]
    assert found.leader == 0
    differences = [gap and gap.difference for gap in found.behind]
    assert differences[0] is None
    assert differences[1:] == pytest.approx([-2.5, -70.0])
    last = found.behind[2]
    assert last is not None
    assert last.low < -70 < last.high < -40
    assert verdict(found) == (
        "first is the most accurate: 95.00 %, [95.00, 95.00] over 3 seeds. "
        "Cannot be told apart from it: level (-2.50). Less accurate: last (-70.00). "
        "One run only of level, last: what another seed would change is not in its tests."
    )


def test_what_was_not_tested_is_said(tmp_path: Path) -> None:
    add(tmp_path, "alone", 0, 2)
    assert verdict(standing(tmp_path, entries(tmp_path))) == "alone is the only setting: 95.00 %, one run."
    add(tmp_path, "cheat", 0, 0, selection="legacy_best_on_test")
    lost = add(tmp_path, "lost", 0, 5)
    (tmp_path / "results/toybirds" / f"{lost.name}.parquet").unlink()
    found = standing(tmp_path, entries(tmp_path))
    assert (found.leader, found.letters) == (1, ("", "a", ""))  # the cheat is first by its number
    said = verdict(found)
    assert said.startswith("alone is the most accurate: 95.00 %")
    assert "chosen on the test set: cheat." in said
    assert "Not tested against it: lost." in said
    assert verdict(standing(tmp_path, entries(tmp_path)[:1])).startswith("No setting has an accuracy")


def test_an_explainers_row_does_not_compete_in_accuracy(tmp_path: Path) -> None:
    add(tmp_path, "plain", 0, 4)
    add(tmp_path, "better", 0, 2, explainer="gradcam")  # of a run whose own row is not here
    add(tmp_path, "last", 0, 30)
    found = standing(tmp_path, entries(tmp_path))
    assert [row.run.explainer for row in found.rows] == ["gradcam", "own", "own"]
    assert (found.leader, found.letters, found.behind[0]) == (1, ("", "a", "b"), None)
    assert "gradcam" not in verdict(found)


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [("ab", "bc", True), ("a", "b", False), ("z(27)", "(27)", True), ("(27)", "(72)", False)],
)
def test_letters_in_common(one: str, other: str, common: bool) -> None:
    assert shares(one, other) == common


def test_an_interval_ends_where_numbers_can_be(tmp_path: Path) -> None:
    add(tmp_path, "far", 0, 2)
    add(tmp_path, "far", 1, 30)
    (row,) = entries(tmp_path)
    found = row.summary("accuracy")
    assert found is not None
    assert (found.mean, found.low, found.high) == (60.0, 0.0, 100.0)  # Student's would be 60 ± 445


def test_a_rebuild_fills_the_marked_place_and_nothing_else(tmp_path: Path) -> None:
    folder, readme = tmp_path / "leaderboard", tmp_path / "README.md"
    for seed in range(3):
        add(folder, "good", seed, 2 + seed)
    add(folder, "bad", 0, 35)
    readme.write_text(f"above\n\n{BEGIN}\nformer\n{END}\n\nbelow\n")
    leaderboard.rebuild(folder)
    text = readme.read_text()
    assert text.startswith(f"above\n\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\n\nbelow\n")
    assert "former" not in text
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| paper")
    ]
    assert [row[:4] + row[5:6] for row in rows] == [
        ["paper", "`good`", "3", "92.50 ± 2.50", "a"],
        ["paper", "`bad`", "1", "12.50", "b"],
    ]
    assert audit.verify(folder) == []
    stamp = readme.stat().st_mtime_ns
    leaderboard.rebuild(folder)
    assert readme.stat().st_mtime_ns == stamp  # people edit it: not written where nothing changes
    add(folder, "new", 0, 20)
    assert {problem.rule for problem in audit.verify(folder)} == {"derived"}
    assert [problem.row for problem in audit.verify(folder) if "../README.md" in problem.row]


def test_a_text_without_marks_stays_and_a_mark_without_end_is_named(tmp_path: Path) -> None:
    assert refreshed("some text", tmp_path, ()) == "some text"
    with pytest.raises(ResultError, match=r"a\.md: line 2: <!-- leaderboard of toybirds --> has no"):
        refreshed(f"x\n{BEGIN}\ny\n", tmp_path, (), "a.md")
    assert "No results of toybirds yet" in refreshed(f"{BEGIN}\n{END}\n", tmp_path, ())


def test_the_readme_shows_the_embedded_data() -> None:
    assert BEGIN in (ROOT / "README.md").read_text()  # that it is in step with the rows, verify says


def test_the_papers_recipes_come_first_and_what_a_command_line_changed_comes_last(tmp_path):
    for track in ("custom", "zz", "aa", "paper"):
        add(tmp_path, f"of_{track}", track=track)
    add(tmp_path, "elsewhere", dataset="celeba", track="custom")
    found = [(dataset, track) for dataset, track, _ in by_table(entries(tmp_path))]
    assert found == [("celeba", "custom"), *(("toybirds", track) for track in ("paper", "aa", "zz", "custom"))]
