"""What people hand in or break by accident: each is named, and nothing ends in a traceback."""

from pathlib import Path

import pytest
from known_rows import add

from fgbench import cli, leaderboard
from fgbench.leaderboard import audit, merging
from fgbench.result import ResultError

HEADER = "paper,table,page,method,variant,backbone,resolution,dataset,subset,metric,value,unit,note,method_file\n"


def fgbench(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        cli.main(["leaderboard", *arguments])
    return ended.value.code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense\n", "column paper is missing"),
        ("", "cannot be read"),
        (HEADER.replace("value,", ""), "column value is missing"),
        (
            HEADER + "A,1,,,,,,toybirds,,accuracy,87.3,%,,\nB,1,,,,,,toybirds,,accuracy,many,%,,\n",
            "line 3: value 'many'",
        ),
        (HEADER + "A,1,,,,,,toybirds,,accuracy,,%,,\n", "line 2: value ''"),
    ],
)
def test_a_broken_file_of_the_papers_is_named(text: str, message: str, tmp_path: Path) -> None:
    add(tmp_path, "a", 0, 3)
    (tmp_path / "published.csv").write_text(text)
    with pytest.raises(ResultError, match=r"published\.csv") as refused:
        leaderboard.rebuild(tmp_path)
    assert message in str(refused.value)
    rules = {problem.rule: problem.message for problem in audit.verify(tmp_path)}
    assert message in rules["published"]
    assert set(rules) == {"published", "derived"}


def test_a_copy_of_a_run_is_no_new_seed_for_a_merge(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    add(ours, "a", 0, 3)
    copied = add(theirs, "a", 1, 3)  # says the same of every image
    honest = add(theirs, "a", 2, 3, shift=1)
    merged = merging.merge(ours, [theirs])
    assert [path.stem for path in merged.added] == [honest.name]
    ((path, why),) = merged.refused.items()
    assert path.stem == copied.name
    assert "same predictions as a." in why
    twice = tmp_path / "twice"
    add(twice, "b", 0, 5)
    add(twice, "b", 1, 5)
    assert len(merging.merge(ours, [twice]).refused) == 1  # also of one folder, each new to us


def test_damaged_predictions_leave_a_table_without_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path, "a", 0, 3)
    broken = add(tmp_path, "b", 0, 30)
    (tmp_path / "results/toybirds" / f"{broken.name}.parquet").write_bytes(b"PAR1")
    assert fgbench("show", "--folder", str(tmp_path), "--against", "a") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "92.50" in text
    assert "25.00" in text
    assert "no groups:" in text
    assert broken.name in text


@pytest.mark.parametrize("verb", [["show"], ["compare", "a", "b"], ["export"]])
def test_a_folder_without_results_is_named(verb: list[str], tmp_path: Path) -> None:
    assert "no result in" in str(fgbench(*verb, "--folder", str(tmp_path / "nowhere")))
    assert not (tmp_path / "nowhere").exists()
