"""docs/protocols.md is what the datamodules and the YAML files say."""

import importlib.util
from pathlib import Path

import pytest

from fgbench.cells import available
from fgbench.data import DATASETS
from fgbench.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("protocols", ROOT / "tools/protocols.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(tool):
    page = tool.PAGE.read_text()
    assert page == tool.replaced(page), "docs/protocols.md is stale: python tools/protocols.py"


def test_a_change_of_a_dataset_or_of_its_view_makes_the_page_stale(tool, monkeypatch):
    import fgbench.data

    page = tool.PAGE.read_text()
    monkeypatch.setattr(fgbench.data.StanfordDogs, "has_boxes", False)
    assert tool.replaced(page) != page
    monkeypatch.undo()
    monkeypatch.setattr(
        tool, "read_yaml", lambda path, read=tool.read_yaml: {**read(path), "trainer": {"max_epochs": 7}}
    )
    assert tool.replaced(page) != page


def test_what_is_around_the_made_part_stays(tool):
    before = f"above\n{tool.BEGIN}\nold\n{tool.END}\nbetween\n{tool.TRACKS}\nold\n{tool.END}\nthen\n"
    before += f"{tool.MATRIX}\nold\n{tool.END}\nbelow\n"
    after = tool.replaced(before)
    assert after.startswith("above\n")
    assert after.endswith("below\n")
    assert "\nold\n" not in after
    assert after.count("\nbetween\n") == after.count("above\n") == 1
    assert tool.replaced(after) == after
    assert all(f"**{name}**" in after for name in DATASETS)


def test_every_track_is_listed_with_the_first_sentence_of_its_file(tool, tmp_path):
    page = tool.PAGE.read_text()
    assert all(f"| `{name}` | " in page for name in available("tracks"))
    (tmp_path / "x.yaml").write_text("# A et al., 1.5 px: one\n# and two. Three.\n# Four.\ndata: {}\n")
    (tmp_path / "y.yaml").write_text("# No stop\n#\n#   make bench\n")
    assert tool.render_tracks(tmp_path).splitlines()[2:] == [
        "| `x` | A et al., 1.5 px: one and two. |",
        "| `y` | No stop |",
    ]
    with pytest.raises(SystemExit, match="is gone"):
        tool.replaced(page.replace(tool.TRACKS, ""))


def test_the_matrix_says_for_every_method_and_dataset_what_the_metrics_say(tool):
    lines = [line.strip("| ").split(" | ") for line in tool.render_matrix().splitlines()]
    end = lines.index([""])
    why = dict(one.split(": ", 1) for one in lines[end + 1][0].rstrip(".").split("; "))
    head, found = [name.strip("`") for name in lines[0]], {}
    for datasets, methods, *cells in lines[2:end]:
        told = {name: "✓" if cell == "✓" else why[cell] for name, cell in zip(head[2:], cells, strict=True)}
        found |= {(dataset, method): told for dataset in datasets.split(", ") for method in methods.split(", ")}
    assert found.keys() == {(dataset, method) for dataset in DATASETS for method in METHODS}
    assert end < 40
    assert found["toybirds", "region_grouping"]["part_iou"] == "✓"
    assert found["cub200", "region_grouping"]["part_iou"] == "the dataset has no masks of parts"
    assert found["toybirds", "baseline"]["nmi_landmarks"] == "the method has no parts"
    assert found["celeba", "region_grouping"]["insertion"] == "the dataset asks for attributes, not for classes"


def test_a_view_is_said_as_it_is(tool):
    view = {"resize": "short", "size": 448, "crop": "random", "crop_size": 416, "flip": 0.5, "brightness": 0.1}
    assert tool.say_view(view) == "short side 448, random 416 crop, flip, brightness ± 10 %"
    assert tool.say_view({"resize": "squash", "size": 224, "multiple": 16}).endswith("multiples of 16")
    assert tool.say_view({}) == "whole image"
    assert tool.say_view(None) == "the test view"


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "toybirds"])
def test_where_to_get_a_dataset_is_said_with_all_that_is_to_be_fetched(tool, name):
    kind = getattr(tool.fgbench.data, DATASETS[name])
    (line,) = (line for line in tool.render().split("\n") if line.startswith(f"**{name}**"))
    assert f"*Where to get it:* {kind.card.home}." in line
    assert "http" in line
    assert all(archive.name in line for archive in kind.archives)
    assert kind.card.by_hand in line
