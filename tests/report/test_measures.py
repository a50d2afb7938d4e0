"""The table of probes says which way is better, and what is not comparable."""

import io

import pytest
from rich.console import Console

from fgbench.measures import MEASURES
from fgbench.report.measures import show_probes

BETTER = {name: measure.better for name, measure in MEASURES.items()}


def shown(known):
    console = Console(width=300, record=True, file=io.StringIO())
    show_probes("a run", known, BETTER, console)
    return console.export_text()


def entry(**changes):
    found = {"images": 3, "steps": 9, "compiled": False, "precision": "32-true", "numbers": {"insertion": 41.257}}
    return found | {"reasons": {"part_stability": "the method has no parts"}} | changes


def test_each_number_says_which_way_is_better():
    text = shown({"own": entry()})
    for words in ("insertion ↑", "deletion ↓", "sanity rank → 0", "sanity ssim → 0", "part stability ↑", "41.26"):
        assert words in text
    assert "part stability blank │" in text or "part stability blank ┃" in text  # no direction
    assert "no part_stability: the method has no parts (own)" in text


@pytest.mark.parametrize(
    ("other", "told"), [({}, False), ({"steps": 8}, True), ({"compiled": True}, True), ({"precision": "16"}, True)]
)
def test_rows_that_were_asked_in_other_ways_are_told_apart(other, told):
    assert ("not comparable" in shown({"own": entry(), "centre": entry(**other)})) == told


def test_entries_of_an_older_file_are_shown():
    old = entry()
    del old["compiled"], old["precision"]
    assert "not known" in shown({"own": old})
