"""Numbers that are no columns, over seeds: means, standard deviations, differences within runs."""

from dataclasses import replace

import pytest
from rich.console import Console

from fgbench import config
from fgbench.leaderboard import entries
from fgbench.report import scores
from fgbench.result import ResultError, read_result


@pytest.fixture(scope="module")
def settings():
    first = read_result(sorted((config.ROOT / "leaderboard/results/toybirds").glob("baseline*.json"))[0])
    runs = [
        replace(first, seed=seed, accuracy=80.0 + 3 * seed, scores={"accuracy_global": 70.0 + seed, "other": 1.0})
        for seed in range(3)
    ]
    return entries([*runs, replace(first, method="tasn", scores={})])


def said(settings, names, minus=None):
    console = Console(width=140, record=True)
    scores.show(console, settings, names, minus)
    return console.export_text()


def test_means_and_differences_within_runs_have_their_standard_deviations(settings):
    text = said(settings, ["accuracy", "accuracy_global"], "accuracy_global")
    row = next(line for line in text.splitlines() if line.strip().startswith("baseline"))
    assert "83.00 ± 3.00" in row  # 80, 83, 86
    assert "71.00 ± 1.00" in row  # 70, 71, 72
    assert "+12.00 ± 2.00" in row  # 10, 12, 14
    assert row.count("±") == 3  # a number less itself is not printed


def test_settings_without_the_number_are_left_out_and_unknown_numbers_refused(settings):
    assert "tasn" not in said(settings, ["accuracy_global"])
    with pytest.raises(ResultError, match=r"no.* 'accuracy_fused'.*accuracy_global, other"):
        said(settings, ["accuracy_fused"])
