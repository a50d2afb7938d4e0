import cv2
import numpy as np
import pytest

from fgbench.data.images import image_size, read_image


@pytest.fixture
def pixels():
    """Smooth, so that JPEG changes it little."""
    y, x = np.mgrid[:60, :90]
    return np.stack([x * 2, y * 4, 255 - x * 2], axis=-1).astype(np.uint8)


def test_channels_are_red_green_blue(tmp_path, pixels):
    cv2.imwrite(str(tmp_path / "a.png"), pixels[..., ::-1])
    assert (read_image(tmp_path / "a.png") == pixels).all()


def test_grey_and_transparent_files_become_rgb(tmp_path):
    grey = np.arange(200, dtype=np.uint8).reshape(10, 20)
    cv2.imwrite(str(tmp_path / "g.png"), grey)
    cv2.imwrite(str(tmp_path / "g.jpg"), grey)
    cv2.imwrite(str(tmp_path / "t.png"), np.full((10, 20, 4), 77, np.uint8))
    assert (read_image(tmp_path / "g.png") == grey[..., None]).all()
    assert read_image(tmp_path / "g.jpg").shape == (10, 20, 3)
    assert (read_image(tmp_path / "t.png") == 77).all()


def test_orientation_tag_is_ignored(tmp_path, pixels):
    """Annotations are in the stored pixels; a tag for a quarter turn must not turn them."""
    tag = bytes.fromhex("ffe1002245786966000049492a000800000001001201030001000000060000000000")
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    (tmp_path / "e.jpg").write_bytes(data[:2] + tag + b"\x00" * (0x22 + 2 - len(tag)) + data[2:])
    assert cv2.imread(str(tmp_path / "e.jpg")).shape == (90, 60, 3)  # the tag is there
    assert read_image(tmp_path / "e.jpg").shape == (60, 90, 3)
    assert image_size(tmp_path / "e.jpg") == (60, 90)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.95])
def test_truncated_file_is_refused_by_name(tmp_path, suffix, keep):
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    data = cv2.imencode(suffix, noise)[1].tobytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=rf"cut\{suffix}.*(truncated|empty|decoded).*restore"):
        read_image(path)


def test_text_in_an_image_file_is_refused_by_name(tmp_path):
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"page\.jpg: cannot be decoded"):
        read_image(tmp_path / "page.jpg")


def test_absent_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.jpg: listed, but"):
        read_image(tmp_path / "no.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
@pytest.mark.parametrize("flags", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]])
def test_size_from_the_header_is_the_decoded_size(tmp_path, pixels, suffix, flags):
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), pixels, flags if suffix == ".jpg" else [])
    assert image_size(path) == (60, 90) == read_image(path).shape[:2]


def test_bytes_behind_the_end_of_a_jpeg_do_no_harm(tmp_path, pixels):
    (tmp_path / "a.jpg").write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes() + b"trailer" * 9)
    assert read_image(tmp_path / "a.jpg").shape == (60, 90, 3)


def test_truncated_file_is_refused_though_its_thumbnail_is_whole(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    data, thumbnail = cv2.imencode(".jpg", noise)[1].tobytes(), cv2.imencode(".jpg", noise[:8, :8])[1].tobytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    (tmp_path / "whole.jpg").write_bytes(data[:2] + segment + data[2:])
    (tmp_path / "cut.jpg").write_bytes((data[:2] + segment + data[2:])[:-300])
    assert read_image(tmp_path / "whole.jpg").shape == (60, 90, 3)
    with pytest.raises(ValueError, match="truncated"):
        read_image(tmp_path / "cut.jpg")


def test_stray_bytes_between_segments_are_passed_over_as_libjpeg_does(tmp_path, pixels):
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    table = data.index(b"\xff\xdb")
    (tmp_path / "a.jpg").write_bytes(data[:table] + b"\x00\x12\xff\x00\x34" + data[table:])
    assert image_size(tmp_path / "a.jpg") == (60, 90)
    assert (read_image(tmp_path / "a.jpg") == cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1]).all()


def test_an_official_file_known_to_lack_its_end_is_used(tmp_path, pixels):
    path = tmp_path / "a.jpg"
    path.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes()[:-2])
    with pytest.raises(ValueError, match="truncated"):
        read_image(path)
    assert np.abs(read_image(path, torn=True).astype(int) - pixels[..., ::-1]).mean() < 5
