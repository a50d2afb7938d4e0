"""What is written into the picture of an explanation: numbers of parts, what is left, or the reason."""

import numpy as np
import pytest
from PIL import Image

from fgbench.report import explanation
from fgbench.report.explanation import Contributions, Explanation, write_explanation
from fgbench.report.figures import Example


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
