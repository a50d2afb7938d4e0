"""Comparisons, groups, filters, exports, merging and the audit of a leaderboard, on rows with known predictions."""

import csv
import dataclasses
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from known_rows import IMAGES, add, entries, tree_of
from scipy import stats

from fgbench import board, cli, leaderboard, options
from fgbench.leaderboard import audit, comparison, merging, settings, tables
from fgbench.result import Result, ResultError, digest, read_result, write_result

ROOT = Path(__file__).resolve().parents[1]


def entry(folder: Path, name: str) -> leaderboard.Entry:
    return settings.find(entries(folder), name)


# Comparisons


def test_two_runs_are_compared_image_by_image(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    visible = random.random((IMAGES, 3)) < 0.7
    visible[:, 0] = True
    visible[5] = False  # an image without a landmark
    errors = {m: np.where(visible, random.lognormal(s, 1, (IMAGES, 3)), np.nan) for m, s in (("good", -3), ("bad", -2))}
    hits = np.ones(IMAGES)
    hits[[3, 4]] = np.nan  # images without a box
    others = hits.copy()
    others[10:17] = 0
    add(tmp_path, "good", wrong=4, errors=errors["good"], hits=hits)
    add(tmp_path, "bad", wrong=15, shift=2, errors=errors["bad"], hits=others)
    found = {one.metric: one for one in comparison.compare(tmp_path, entry(tmp_path, "good"), entry(tmp_path, "bad"))}
    # good alone is right on 4..16 (13), bad alone on 0, 1; 2 and 3 are wrong in both
    accuracy = found["accuracy"]
    assert accuracy.test.p == pytest.approx(stats.binomtest(13, 15).pvalue)
    assert (accuracy.a.mean, accuracy.b.mean, accuracy.interval.difference) == pytest.approx((90, 62.5, 27.5))
    pointing = found["pointing_error"]
    assert pointing.test.p == pytest.approx(2 * 0.5**7)
    assert (pointing.test.n, pointing.left_out) == (38, 0)
    landmark = found["landmark_error"]
    each = {m: np.nanmean(np.delete(values.astype(np.float32).astype(float), 5, 0), 1) for m, values in errors.items()}
    assert landmark.test.p == pytest.approx(stats.wilcoxon(each["good"], each["bad"]).pvalue)
    assert landmark.interval.difference == pytest.approx(
        100 * (np.nanmean(errors["good"]) - np.nanmean(errors["bad"])), rel=1e-5
    )
    assert landmark.test.n == IMAGES - 1
    p = [found[name].test.p for name in comparison.COLUMNS]
    assert [found[name].p for name in comparison.COLUMNS] == pytest.approx(
        [min(1, max(q * (3 - sum(r < q for r in p)) for q in p if q <= own)) for own in p]
    )


def test_several_seeds_are_tested_with_their_spread(tmp_path: Path) -> None:
    for seed, wrong in enumerate((2, 6, 10)):
        add(tmp_path, "a", seed, wrong, shift=3 * seed)
        add(tmp_path, "b", seed, wrong + 1, shift=3 * seed + 1)
    (found,) = comparison.compare(tmp_path, entry(tmp_path, "a"), entry(tmp_path, "b"))
    assert (found.test.name, found.test.unit, found.interval.unit) == (
        "crossed t",
        "images and seeds",
        "images and seeds",
    )
    assert found.a.values == pytest.approx((95, 85, 75))
    assert set(found.by_seed) == {0, 1, 2}
    assert not found.significant
    assert found.interval.low < 2.5 < found.interval.high
    alone = comparison.compare(tmp_path, entry(tmp_path, f"{entry(tmp_path, 'a').run.name}"), entry(tmp_path, "b"))
    assert alone[0].a.values == pytest.approx((95,))


def test_an_interval_of_two_seeds_far_apart_ends_where_no_difference_of_shares_goes_further(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for seed, right in enumerate((0.0, 1.0)):
            add(tmp_path, name, seed, hits=np.full(IMAGES, right))
    (found,) = comparison.compare(tmp_path, entry(tmp_path, "a"), entry(tmp_path, "b"), ["pointing_error"])
    assert (found.interval.low, found.interval.difference, found.interval.high) == (-100, 0, 100)


def test_an_image_that_one_run_lacks_is_left_out_and_counted(tmp_path: Path) -> None:
    hits = np.ones(IMAGES)
    hits[:10] = 0
    lacking = np.ones(IMAGES)
    lacking[[0, 1, 20]] = np.nan
    add(tmp_path, "a", hits=hits)
    add(tmp_path, "b", hits=lacking)
    found = comparison.compare(tmp_path, entry(tmp_path, "a"), entry(tmp_path, "b"), ["pointing_error"])[0]
    assert (found.left_out, found.test.n) == (3, 37)
    assert found.interval.difference == pytest.approx(100 * 8 / 37)


def test_other_images_are_not_compared(tmp_path: Path) -> None:
    add(tmp_path, "a")
    add(tmp_path, "b", data_digest="other")
    with pytest.raises(ResultError, match="data_digest is abcdef and other"):
        comparison.compare(tmp_path, entry(tmp_path, "a"), entry(tmp_path, "b"))
    with pytest.raises(ResultError, match="both sides"):
        comparison.compare(tmp_path, entry(tmp_path, "a"), entry(tmp_path, "a"))


def test_the_images_of_both_sides_take_turns(tmp_path: Path) -> None:
    add(tmp_path, "a", wrong=3)  # wrong on 0 1 2: ids 1 3 5
    add(tmp_path, "b", wrong=2, shift=20)  # wrong on 20 21: ids 41 43
    found = comparison.differing(tmp_path, entry(tmp_path, "a"), entry(tmp_path, "b"), "accuracy", 4)
    assert found == [(41, 100, 0), (1, 0, 100), (43, 100, 0), (3, 0, 100)]


def test_groups_hold_what_cannot_be_told_apart(tmp_path: Path) -> None:
    add(tmp_path, "best", wrong=1)
    add(tmp_path, "good", wrong=2)
    add(tmp_path, "bad", wrong=30)
    add(tmp_path, "peeked", wrong=0, selection="legacy_best_on_test", track="custom")
    add(tmp_path, "lost", wrong=5)
    (tmp_path / "results/toybirds" / f"{entry(tmp_path, 'lost').run.name}.parquet").unlink()
    rows = [entry(tmp_path, name) for name in ("best", "good", "bad", "peeked", "lost")]
    assert comparison.groups(tmp_path, rows) == ["a", "a", "b", "", ""]
    gaps = comparison.against(tmp_path, rows[:3], rows[1], "accuracy")
    assert gaps[1] is None
    assert gaps[0].interval.difference == pytest.approx(2.5)
    assert gaps[2].p == pytest.approx(2 * stats.binomtest(0, 28).pvalue)


# Choosing, ordering, the front


def test_the_front_is_what_nobody_beats(tmp_path: Path) -> None:
    none = {"landmark_error": None, "landmark_floor": None}
    rows = {
        "accurate": {"accuracy": 95.0, "gmacs": 4.0}, "cheap": {"accuracy": 80.0, "gmacs": 1.0},
        "beaten": {"accuracy": 79.0, "gmacs": 1.0}, "twin": {"accuracy": 80.0, "gmacs": 1.0},
        "clear": {"accuracy": 70.0, "gmacs": 5.0, "landmark_error": 3.0, "landmark_floor": 9.0},
        "peeked": {"accuracy": 99.0, "gmacs": 0.1, "selection": "legacy_best_on_test"},
        "elsewhere": {"accuracy": 10.0, "gmacs": 9.0, "track": "matched"},
    }  # fmt: skip
    for name, changes in rows.items():
        reasons = {"pointing_error": "no", "pointing_floor": "no"}
        reasons |= {} if "landmark_error" in changes else {"landmark_error": "no", "landmark_floor": "no"}
        add(tmp_path, name, reasons=reasons, **(none | changes))
    chosen = entries(tmp_path)
    on = {one.label for one, mark in zip(chosen, leaderboard.front(chosen), strict=True) if mark}
    assert on == {"accurate", "cheap", "twin", "clear", "elsewhere"}


def test_conditions_and_order(tmp_path: Path) -> None:
    for method, wrong in (("a", 4), ("b", 8), ("c", 20)):
        for seed in (0, 1):
            add(tmp_path, method, seed, wrong)
    chosen = entries(tmp_path)
    assert [one.label for one in settings.keep(chosen, ["method=a,c", "accuracy>60"])] == ["a"]
    assert [one.label for one in settings.keep(chosen, ["method!=a", "accuracy<=80"])] == ["b", "c"]
    assert [one.label for one in settings.keep(chosen, ["landmark_error>0"])] == []
    assert [one.label for one in settings.ordered(chosen, "-accuracy")] == ["c", "b", "a"]
    assert [one.label for one in settings.ordered(chosen, "-method")] == ["c", "b", "a"]
    for bad, message in (
        ("acc>1", "no column 'acc'"),
        ("method>a", "is a text"),
        ("accuracy>x", "not a number"),
        ("x", "no condition"),
    ):
        with pytest.raises(ResultError, match=message):
            settings.keep(chosen, [bad])


def test_a_name_is_one_setting_or_an_error_that_lists_them(tmp_path: Path) -> None:
    add(tmp_path, "a")
    add(tmp_path, "a", extra=1)
    names = [one.name for one in entries(tmp_path)]
    assert settings.find(entries(tmp_path), names[0]).name == names[0]
    with pytest.raises(ResultError, match="2 settings: " + ".*".join(map(re.escape, names))):
        settings.find(entries(tmp_path), "a")
    with pytest.raises(ResultError, match="there is no 'z'"):
        settings.find(entries(tmp_path), "z")


def test_the_plain_name_is_the_own_evidence_and_explainers_have_names_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for explainer in ("own", "gradcam", "dff"):
        for seed in (0, 1):
            add(tmp_path, "a", seed, shift=seed, variant="x", explainer=explainer)
    own = next(one for one in entries(tmp_path) if one.run.explainer == "own")
    plain = f"a.x.{own.run.config_digest[:8]}"
    assert sorted(one.name for one in entries(tmp_path)) == [
        f"toybirds/{plain}", f"toybirds/{plain}.dff", f"toybirds/{plain}.gradcam",
    ]  # fmt: skip
    for end, explainer in (("", "own"), (".gradcam", "gradcam"), (".dff", "dff")):
        for name in (f"{plain}{end}", f"toybirds/{plain}{end}"):
            found = entry(tmp_path, name)
            assert (found.run.explainer, len(found.runs)) == (explainer, 2)
        found = entry(tmp_path, f"{plain}.s1{end}")
        assert (found.run.explainer, [run.seed for run in found.runs]) == (explainer, [1])
    assert fgbench("compare", plain, f"{plain}.dff", "--folder", str(tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"a: toybirds/{plain}, n = 2", f"b: toybirds/{plain}.dff, n = 2"]


def test_two_sides_that_are_called_the_same_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, wrong in ((0, 30), (1, 2)):
        add(tmp_path, "a", seed, wrong)
    name = entry(tmp_path, "a").name
    assert fgbench("compare", f"{name}.s0", f"{name}.s1", "--folder", str(tmp_path)) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[:2] == [f"a: {name}, seed 0", f"b: {name}, seed 1"]
    assert "accuracy: b is better" in text


# Tables


def test_pandas_reads_types_without_being_told(tmp_path: Path) -> None:
    result = add(
        tmp_path, "a", variant="x", wandb_url="https://example.org", config_digest="123456789012", commit="123456789e12"
    )
    leaderboard.rebuild(tmp_path)
    frame = pd.read_csv(tmp_path / "leaderboard.csv")
    for column in leaderboard.tables.columns():
        kind, dtype = column.metadata["kind"], frame[column.name].dtype
        if kind == "count":
            assert dtype == np.int64, column.name
        elif kind in settings.NUMBERS:
            assert dtype == np.float64, column.name
        else:
            assert not pd.api.types.is_numeric_dtype(dtype), column.name
    assert frame["config_digest"][0] == f"sha256:{result.config_digest}"


def test_exports_say_the_same_in_three_languages(tmp_path: Path) -> None:
    for seed, wrong in enumerate((4, 6, 8)):
        add(tmp_path, "a_b", seed, wrong)
    add(tmp_path, "c", 0, 20)
    chosen, names = entries(tmp_path), ["method", "accuracy", "landmark_error"]
    (one, other) = csv.DictReader(io.StringIO(tables.export(chosen, names, "csv")))
    half = stats.t.ppf(0.975, 2) * 5 / 3**0.5
    assert [float(one[f"accuracy{end}"]) for end in ("", "_sd", "_low", "_high", "_n")] == pytest.approx(
        [85, 5, 85 - half, 85 + half, 3], abs=1e-4
    )
    assert (other["accuracy"], other["accuracy_sd"], other["landmark_error"]) == ("50.0000", "", "")
    assert "| a_b | 85.00 ± 5.00 |  |" in tables.export(chosen, names, "markdown")
    latex = tables.export(chosen, names, "latex")
    assert r"a\_b & 85.00 $\pm$ 5.00 &  \\" in latex
    assert r"accuracy (\%)" in latex
    assert tables.export(chosen, ["gmacs"], "latex").count("$10^9$") == 1
    with pytest.raises(ResultError, match="no format 'word'"):
        tables.export(chosen, names, "word")


# The audit


def good_board(folder: Path) -> Path:
    for method, wrong in (("a", 3), ("b", 5)):
        for seed in (0, 1):
            add(folder, method, seed, wrong, shift=seed)
    leaderboard.rebuild(folder)
    return folder


def as_made(result: Result) -> Mapping[str, Any]:
    return result.resolved


def edit(folder: Path, **changes: Any) -> None:
    """Change the JSON of one row by hand, and make the tables again, as a cheat would."""
    path = sorted((folder / "results/toybirds").glob("*.json"))[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    leaderboard.rebuild(folder)


def lose(pattern: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        sorted((folder / "results/toybirds").glob(pattern))[0].unlink()
        leaderboard.rebuild(folder)

    return act


def copy_seed(folder: Path) -> None:
    first = sorted((folder / "results/toybirds").glob("a.*.s0.parquet"))[0]
    shutil.copy(first, first.with_name(first.name.replace(".s0.", ".s1.")))


NOTHING_IN_IT = {"pointing_error": "-", "pointing_floor": "-"}
PAPERS = (
    "paper,table,page,method,variant,backbone,resolution,dataset,subset,metric,value,unit,note,method_file\n"
    ",,,a,,,,toybirds,,accuracy,99,%,,\n"
)
BROKEN: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "another accuracy": (lambda f: edit(f, accuracy=99.0), "predictions", "accuracy is 99.0; by the predictions 92.5"),
    "a paper's landmark error": (
        lambda f: edit(f, landmark_error=11.51, landmark_floor=20.0, reasons=NOTHING_IN_IT),
        "predictions", "landmark_error is 11.51; by the predictions there is none",
    ),
    "fewer images": (lambda f: edit(f, n_eval=39), "predictions", "n_eval is 39; .* has 40 rows"),
    "another configuration": (lambda f: edit(f, resolved=tree_of("x") | {"seed": 0}), "digest", "config_digest is"),
    "another backbone": (lambda f: edit(f, backbone="vgg"), "digest", "backbone is vgg, in resolved a"),
    "changed code": (lambda f: edit(f, commit="0123456789ab+dirty"), "complete", "no commit has the code"),
    "no command": (lambda f: edit(f, command=""), "complete", "command is empty"),
    "two splits": (lambda f: edit(f, data_digest="zz"), "protocol", "two splits"),
    "test selection": (lambda f: edit(f, selection="legacy_best_on_test"), "protocol", "chosen on the test split"),
    "no predictions": (lose("a.*.s0.parquet"), "predictions", "is missing"),
    "no row": (lose("a.*.s0.json"), "file", "belongs to no result"),
    "a copied seed": (copy_seed, "seeds", "the same predictions as seed 0"),
    "a torn file": (lambda f: sorted((f / "results/toybirds").glob("*.json"))[0].write_text("{"), "file", "not JSON"),
    "a row by hand": (
        lambda f: (f / "leaderboard.csv").write_text((f / "leaderboard.csv").read_text() * 2), "derived", "is not what",
    ),
    "a number from nowhere": (
        lambda f: (f / "published.csv").write_text(PAPERS),
        "published", "line 2: no paper, table",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_found(case: str, tmp_path: Path) -> None:
    act, rule, message = BROKEN[case]
    good_board(tmp_path)
    assert audit.verify(tmp_path, as_made) == []
    act(tmp_path)
    found = audit.verify(tmp_path, as_made)
    assert any(one.rule == rule and re.search(message, one.message) for one in found), found


def add_faces(folder: Path, dataset: str, **options: object) -> Result:
    tree = tree_of("a") | {"data": {"init_args": options}}
    changes = {"config_digest": digest(tree), "resolved": tree | {"seed": 0}, "track": "custom"}
    return add(folder, "a", dataset=dataset, classes=40, **changes)


@pytest.mark.parametrize(
    ("dataset", "options", "whole"),
    [
        ("celeba", {"images": 40}, False),
        ("celeba", {"images": None}, True),
        ("celeba", {}, True),
        ("celeba_wild", {"images": None, "test_list": "attributes"}, False),
        ("celeba_wild", {"images": None, "test_list": "landmarks"}, True),
        ("celeba_wild", {"images": 40, "test_list": "landmarks"}, False),
    ],
)
def test_a_part_of_the_images_is_a_sound_row_and_a_whole_one_must_have_all(
    dataset: str, options: dict[str, object], whole: bool, tmp_path: Path
) -> None:
    result = add_faces(tmp_path, dataset, **options)  # 40 images
    assert leaderboard.is_whole(result) == whole
    leaderboard.rebuild(tmp_path)
    lacking = f"n_eval is 40; the test split has {audit.TEST_IMAGES[dataset]}"
    assert [one.message for one in audit.verify(tmp_path, as_made)] == ([lacking] if whole else [])
    merged = merging.merge(tmp_path / "ours", [tmp_path])
    assert (len(merged.added), len(merged.refused)) == ((0, 1) if whole else (1, 0))


def test_a_row_of_an_older_configuration_is_named_with_what_changed(tmp_path: Path) -> None:
    good_board(tmp_path)

    def now(result: Result) -> Mapping[str, Any]:
        if result.method == "b":
            raise ResultError("there is no method 'b'")
        return result.resolved | {"trainer": {"max_epochs": 5}, "new": 1}

    found = audit.verify(tmp_path, now)
    assert {one.rule for one in found} == {"stale"}
    assert "trainer.max_epochs was 3, is 5; new is new: 1" in found[0].message
    assert "there is no method 'b'" in found[-1].message


def test_attributes_and_images_without_box_are_computed_again() -> None:
    correct = np.array([[True, False], [True, True], [False, True]])
    columns = {"target": np.zeros((3, 2)), "correct": correct, "hit": np.array([1, np.nan, 0], np.float32)}
    found = audit.recomputed(columns)
    assert found == {
        "class_accuracy": None, "accuracy": pytest.approx(100 * 4 / 6), "landmark_error": None, "pointing_error": 50.0,
    }  # fmt: skip


KNOWN_STALE = {"toybirds_others/baseline.a8d2bb3d.s0"}
"""The training of the shipped weights: it is what it was, and stays until they are trained anew."""


def test_the_committed_leaderboard_is_sound() -> None:
    found = audit.verify(ROOT / "leaderboard", board.configuration)
    assert [one for one in found if (one.row not in KNOWN_STALE or one.rule != "stale")] == []


# Merging


def test_merging_adds_what_is_new_and_overwrites_nothing(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    add(ours, "a", 0, 3)
    same = add(ours, "b", 0, 5)
    add(theirs, "a", 0, 9)  # the same run, another outcome
    add(theirs, "b", 0, 5)
    add(theirs, "c", 0, 7)
    add(theirs, "d", 0, 7, data_digest="other")
    cheat = write_result(dataclasses.replace(add(theirs, "e"), method="f", accuracy=100.0), theirs / "results")
    before = {path: path.read_bytes() for path in ours.rglob("*.*")}
    dry = merging.merge(ours, [theirs], dry_run=True)
    assert {path: path.read_bytes() for path in ours.rglob("*.*")} == before
    merged = merging.merge(ours, [theirs / "results"])
    assert [path.name for path in merged.added] == [path.name for path in dry.added]
    assert [read_result(path).method for path in merged.added] == ["c", "e"]
    assert [read_result(path) for path in merged.same] == [same]
    ((conflict, why),) = merged.conflicts.items()
    assert read_result(conflict).method == "a"
    assert "accuracy" in why
    assert set(merged.refused) == {cheat, theirs / "results/toybirds" / f"{entry(theirs, 'd').run.name}.json"}
    assert "is missing" in merged.refused[cheat]
    assert all(path.read_bytes() == data for path, data in before.items())
    added = leaderboard.read_results(ours).results
    assert [(one.method, one.accuracy) for one in added] == [("a", 92.5), ("b", 87.5), ("c", 82.5), ("e", 90.0)]
    leaderboard.rebuild(ours)
    assert audit.verify(ours, as_made) == []
    again = merging.merge(ours, [theirs])
    assert (again.added, len(again.same)) == ([], 3)
    with pytest.raises(ResultError, match="no results below"):
        merging.merge(ours, [tmp_path / "nowhere"])


def test_a_merge_looks_at_each_row_a_few_times_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, name = [0], Result.name.fget

    def counted(result: Result) -> str:
        looks[0] += 1
        return name(result)

    monkeypatch.setattr(Result, "name", property(counted))
    needed = []
    for count in (6, 12):
        theirs = tmp_path / f"theirs{count}"
        for at in range(count):
            add(theirs, f"m{at}", 0, at)
        looks[0] = 0
        assert len(merging.merge(tmp_path / f"ours{count}", [theirs]).added) == count
        needed.append(looks[0])
    assert needed[1] <= 2 * needed[0]


def test_a_refused_row_does_not_decide_on_those_after_it(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    add(ours, "a", 0, 3)
    add(theirs, "b", 0, 5, data_digest="other")
    right = add(theirs, "b", 1, 6)
    merged = merging.merge(ours, [theirs])
    assert [path.stem for path in merged.added] == [right.name]
    ((_, why),) = merged.refused.items()
    assert why.count("data_digest is other") == 1


# The command line


def fgbench(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        cli.main(["leaderboard", *arguments])
    return ended.value.code


@pytest.mark.parametrize("width", [80, 160])
def test_the_terminal_shows_settings_groups_and_gaps(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    add(tmp_path, "baseline", 0, 1)
    for seed in (0, 1, 2):
        add(tmp_path, "a_method_with_a_name", seed, 30 + seed)
    assert fgbench("show", "--folder", str(tmp_path), "--against", "baseline") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    (row,) = [line for line in text.splitlines() if line.strip().startswith("a_method_with_a_name")]
    assert re.search(r"3\s+22\.50 ± 2\.50\s+(\[.*\]\s+)?b\s.*-75\.00 \[-\d\d\.\d\d, -\d\d\.\d\d\]\s+<\.001", row), row
    (row,) = [line for line in text.splitlines() if line.strip().startswith("baseline")]
    assert re.search(r"1\s+97\.50\s+a ◆", row), row
    assert fgbench("compare", "baseline", "a_method_with_a_name", "--folder", str(tmp_path)) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    assert "accuracy: baseline is better (crossed t, unit: images and seeds, 40 images)" in re.sub(r"\s+", " ", text)


def test_the_terminal_marks_what_was_chosen_on_the_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    for method, selection in (("fair", "last"), ("peeked", "legacy_best_on_test")):
        add(tmp_path, method, selection=selection, track="custom")
    assert fgbench("show", "--folder", str(tmp_path)) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line.startswith("peeked (chosen on the test set) ") for line in lines].count(True) == 1
    assert [line.startswith("fair  ") for line in lines].count(True) == 1


def test_verbs_end_with_the_right_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good_board(tmp_path)
    folder = ["--folder", str(tmp_path)]
    stale = [audit.Problem("toybirds/x", "stale", "old")]
    for problems, status in (([], 0), (stale, 1)):
        monkeypatch.setattr(audit, "verify", lambda *given, problems=problems: problems)
        assert fgbench("verify", *folder) == status
    assert "stale: toybirds/x: old" in capsys.readouterr().out
    assert fgbench("verify", "--allow-stale", *folder) == 0
    other = tmp_path / "other"
    add(other, "c", 0, 7)
    add(other, "a", 0, 9)
    assert fgbench("merge", str(other), *folder) == 1
    assert "1 added, 0 already there, 1 conflicts (ours stay), 0 refused" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "leaderboard.csv")) == 5
    out = tmp_path / "x.csv"
    assert (
        fgbench(
            "export",
            "--format",
            "csv",
            "--columns",
            "method,accuracy",
            "--sort=-accuracy",
            "--output",
            str(out),
            *folder,
        )
        == 0
    )
    assert [row["method"] for row in csv.DictReader(out.open())] == ["c", "b", "a"]
    assert "no column 'nothing'" in str(fgbench("show", "--columns", "nothing", *folder))


def test_the_command_line_offers_what_can_be_tested() -> None:
    assert tuple(comparison.COLUMNS) == options.TESTED


@pytest.mark.parametrize(
    ("method", "track", "files"),
    [("baseline", "cub20_224", ["weights"]), ("focus_longer", "cub20_focus", ["weights", "patch_weights"])],
)
def test_a_command_names_its_cell_and_weights_need_not_be_here(method: str, track: str, files: list[str]) -> None:
    result = next(
        run
        for run in leaderboard.read_results(ROOT / "leaderboard").results
        if (run.dataset, run.method, run.track) == ("cub200", method, track)
    )
    cell = board.cell_of(result)
    assert (cell.method, cell.dataset, cell.seed, cell.track) == (method, "cub200", result.seed, track)
    now, then = (content["method"]["init_args"] for content in (board.configuration(result), result.resolved))
    for name in files:
        assert then[name].startswith("file:")
        assert now[name] == then[name]
    with pytest.raises(ResultError, match="is not: make bench"):
        board.cell_of(dataclasses.replace(result, command="python train.py"))
