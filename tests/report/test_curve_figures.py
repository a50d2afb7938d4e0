"""Curves over epochs: seeds together, each line where its numbers are, from the files that runs leave."""

import cv2
import numpy as np
import pytest
from known_rows import add, entries

from fgbench.cli import main
from fgbench.report.curve_figures import accuracy_curves, write_curves

BLUE, VERMILION, GREEN = (0, 114, 178), (213, 94, 0), (0, 158, 115)  # of the first three settings
BAND = (249, 231, 217)  # the second one's, over white


def row(folder, method="baseline", seed=0, values=(), selection="legacy_best_on_test", **changes):
    history = {"loss": [2.0 + seed, 1.0]} | ({"val_accuracy": list(values)} if len(values) else {})
    add(folder, method, seed, history=history, selection=selection, **changes)


def near(path, colour, far):
    """Rows of the picture's pixels of a colour, left of the legend."""
    picture = cv2.imread(str(path))[:, :500, ::-1].astype(int)
    return np.nonzero(np.abs(picture - np.array(colour)).max(2) <= far)[0]


def test_seeds_of_a_setting_are_together_and_runs_that_did_not_validate_are_left_out(tmp_path):
    row(tmp_path, seed=0, values=(10.0, 30.0))
    row(tmp_path, seed=1, values=(20.0, 50.0))
    row(tmp_path, seed=2)
    row(tmp_path, variant="arcface", values=(5.0, 15.0), wrong=9)
    row(tmp_path, "mc_loss")
    found = accuracy_curves(entries(tmp_path))
    assert found == {"baseline": [[10.0, 30.0], [20.0, 50.0]], "baseline.arcface": [[5.0, 15.0]]}


def test_a_training_that_was_explained_too_is_drawn_once(tmp_path):
    row(tmp_path, values=(10.0, 20.0))
    row(tmp_path, values=(10.0, 20.0), explainer="gradcam")
    assert accuracy_curves(entries(tmp_path)) == {"baseline": [[10.0, 20.0]]}


def test_two_settings_of_one_name_are_told_apart(tmp_path):
    for extra in (1, 2):
        row(tmp_path, values=(10.0 * extra, 20.0), extra=extra)
    labels = list(accuracy_curves(entries(tmp_path)))
    assert len(set(labels)) == 2
    assert all(label.startswith("toybirds/baseline.") for label in labels)


def test_validation_and_test_images_are_told_apart(tmp_path):
    row(tmp_path, values=(10.0, 20.0), selection="validation")
    row(tmp_path, "mc_loss", values=(30.0, 40.0))
    assert set(accuracy_curves(entries(tmp_path))) == {"baseline (validation)", "mc_loss (test)"}


def test_a_line_is_the_mean_of_its_seeds_and_a_band_their_spread(tmp_path):
    row(tmp_path, "tdsa", values=[80.0] * 9, wrong=0)
    row(tmp_path, "mc_loss", 0, [20.0] * 9, wrong=3)
    row(tmp_path, "mc_loss", 1, [60.0] * 9, wrong=3)
    row(tmp_path, "baseline", values=[0.0] * 9, wrong=7)
    write_curves(tmp_path / "a.png", entries(tmp_path))
    above, mean, below = (np.median(near(tmp_path / "a.png", colour, 12)) for colour in (BLUE, VERMILION, GREEN))
    assert mean == pytest.approx((above + below) / 2, abs=1)
    rows = near(tmp_path / "a.png", BAND, 3)
    point = (below - above) / 80  # pixels
    deviation = 40 / 2**0.5
    assert rows.min() == pytest.approx(mean - deviation * point, abs=2)
    assert rows.max() == pytest.approx(mean + deviation * point, abs=2)


def test_more_settings_than_colours_differ_in_their_dashes(tmp_path):
    for number in range(8):
        row(tmp_path, variant=f"v{number}", values=[10.0 * number] * 9, wrong=9 - number)
    write_curves(tmp_path / "a.png", entries(tmp_path))
    rows = near(tmp_path / "a.png", BLUE, 12)
    lines = {at: int((np.abs(rows - at) < 4).sum()) for at in (rows.min(), rows.max())}
    whole, dashed = max(lines.values()), min(lines.values())
    assert len(lines) == 2
    assert 0.5 < dashed / whole < 0.9


def test_the_command_draws_the_files_of_the_leaderboard_and_says_how_to_get_what_is_not_there(tmp_path, capsys):
    row(tmp_path, values=(10.0, 30.0))
    row(tmp_path, "mc_loss")
    files = {path.name.split(".")[0]: str(path) for path in (tmp_path / "results").rglob("*.json")}
    output = tmp_path / "new" / "curves.png"
    for chosen, status in ((list(files.values()), 0), ([files["mc_loss"]], 1)):
        output.unlink(missing_ok=True)
        with pytest.raises(SystemExit) as done:
            main(["figure", "curves", *chosen, "--output", str(output)])
        assert done.value.code == status
        assert output.exists() == (status == 0)
    assert "--selection legacy_best_on_test" in capsys.readouterr().err
