"""What is written into the picture of an explanation: numbers of parts, what is left, or the reason."""

import numpy as np
import pytest
from PIL import Image

from fgbench.report import explanation
from fgbench.report.channel_figures import write_channels
from fgbench.report.explanation import Contributions, Explanation, write_explanation
from fgbench.report.figures import Example, write_sheet
from fgbench.report.part_figures import write_heatmaps


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draws, and gives what bars and texts say."""
    bars, own, texts = [], explanation._bars, []

    def seen(axis, names, values, *rest):
        bars.append(dict(zip(names, values, strict=True)))
        own(axis, names, values, *rest)

    def write(contributions, parts=3):
        monkeypatch.setattr(explanation, "_bars", seen)
        wrap = explanation.textwrap.fill
        monkeypatch.setattr(explanation.textwrap, "fill", lambda text, width: texts.append(text) or wrap(text, width))
        maps = np.random.default_rng(0).random((parts, 2, 2))
        example = Example(7, np.zeros((24, 24, 3), np.uint8), "a", "a", parts=maps)
        path = tmp_path / "found.png"
        write_explanation(path, Explanation(example, [("a", 0.9), ("b", 0.1)], contributions))
        assert np.asarray(Image.open(path)).std() > 10
        return bars, texts

    return write


def test_what_no_part_says_has_a_bar_of_its_own(draw):
    bars, _ = draw(Contributions(np.array([2.0, -0.5, 0.25]), "of the logit 4.00", 4.0))
    assert bars[-1] == {"part 0": 2.0, "part 1": -0.5, "part 2": 0.25, "all else": 2.25}


@pytest.mark.parametrize("whole", [1.75, None])
def test_where_parts_say_everything_there_is_no_such_bar(whole, draw):
    bars, texts = draw(Contributions(np.array([2.0, -0.5, 0.25]), "of the logit", whole))
    assert bars[-1] == {"part 0": 2.0, "part 1": -0.5, "part 2": 0.25}
    assert texts == []


def test_parts_that_a_picture_does_not_show_belong_to_all_else(draw):
    values = np.arange(1.0, 15)
    bars, _ = draw(Contributions(values, "of the logit", float(values.sum())), parts=14)
    assert len(bars[-1]) == 13
    assert sum(bars[-1].values()) == pytest.approx(values.sum())


def test_a_reason_stands_where_there_are_no_numbers(draw):
    bars, texts = draw(Contributions(reason="the classifier mixes them"))
    assert len(bars) == 1  # the probabilities
    assert texts == ["not known: the classifier mixes them"]


@pytest.fixture
def bars_of(tmp_path, monkeypatch):
    """Draws, and gives names and colours of the bars of probabilities, and the line above them."""
    bars, lines = [], []
    own = explanation._bars
    monkeypatch.setattr(
        explanation,
        "_bars",
        lambda axis, *given: (bars.append(given), lines.append(axis.get_title()), own(axis, *given)),
    )

    def draw(target, predicted, true, answers):
        example = Example(7, np.zeros((24, 24, 3), np.uint8), target, predicted)
        found = Explanation(example, [(name, 0.5) for name in answers], Contributions(reason="none"), true=true)
        write_explanation(tmp_path / "found.png", found)
        names, _, colours, _ = bars[-1]
        return list(zip(names, colours, strict=True)), lines[-1]

    return draw


def test_an_attribute_is_marked_by_whether_it_is_there_and_not_by_all_that_are(bars_of):
    bars, line = bars_of("Male, Smiling", "Male, Young", ("Male", "Smiling"), ["Male", "Young", "Smiling"])
    (_, there), (_, absent), (_, too) = bars
    assert [name for name, _ in bars] == ["Male", "✗ Young", "Smiling"]
    assert there == too != absent
    assert line.endswith("WRONG, it is Male, Smiling")
    assert bars_of("", "Male", (), ["Male"])[1].endswith("WRONG, it is nothing of all that")


def test_a_class_has_one_bar_without_a_mark_and_a_picture_of_which_nobody_knows_the_class_has_none(bars_of):
    bars, line = bars_of("crane", "crane", ("crane",), ["crane", "finch"])
    assert [name for name, _ in bars] == ["crane", "✗ finch"]
    assert line.endswith("right: crane")
    bars, line = bars_of("", "crane", None, ["crane", "finch"])
    assert [name for name, _ in bars] == ["crane", "finch"]
    assert len({colour for _, colour in bars}) == 1
    assert "right" not in line.lower()
    assert "wrong" not in line.lower()


@pytest.mark.parametrize("name", ["a$x_{$b.png", r"a$\nosuch$.png"])
def test_a_name_with_dollars_is_a_name_and_no_formula(name, tmp_path):
    maps = np.ones((1, 2, 2))
    example = Example(7, np.zeros((24, 24, 3), np.uint8), "", "b", parts=maps, name=name)
    write_explanation(tmp_path / "1.png", Explanation(example, [(name, 0.9)], Contributions(reason="none")), name)
    write_sheet(tmp_path / "2.png", [example], name)
    write_channels(tmp_path / "3.png", [example], name)
    found = {"heatmap": maps[0], "box": np.array([2.0, 2, 9, 9])}
    write_heatmaps(tmp_path / "4.png", [example.image], [1.0], [name], [("run", [found], [name])])
    assert len(list(tmp_path.iterdir())) == 4
