"""The sheet of images on which two settings differ."""

import numpy as np
import pytest
from PIL import Image

from fgbench.report.differing import Picture, write_differing


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.0])
def test_pictures_have_the_proportions_of_the_original_file(aspect, tmp_path):
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    picture = Picture(red, np.zeros((0, 4), np.float32), "a bird", "right", "wrong", aspect)
    write_differing(tmp_path / "a.png", [picture], "a and b")
    drawn = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    rows, columns = np.nonzero(np.abs(drawn - (255, 0, 0)).max(2) < 5)
    assert np.ptp(rows) == pytest.approx(aspect * np.ptp(columns), abs=4)


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(ValueError, match="do not differ on any image"):
        write_differing(tmp_path / "a.png", [], "")
