"""What is wrong with a tree on disk is one message with dataset, file and remedy, when the dataset is opened."""

import re
import shutil
from dataclasses import replace

import pytest
from fakes import FAKES

from fgbench.data import DataError, View

NAMES = [name for name, fake in FAKES.items() if not fake.rewritten]
REMEDY = r"((Unpack|Get) .* --machine\.data_root|unpack the archive again$)"


def _complaint(open_fake, name, root) -> str:
    with pytest.raises(DataError) as error:
        open_fake(name, root)
    message = str(error.value)
    assert message.startswith(f"{name}: ")
    assert re.search(REMEDY, message)
    assert message.count("--machine.data_root") <= 1
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", NAMES)
def test_wrong_root_is_said_with_what_to_get_and_where_to_put_it(name, open_fake, tmp_path):
    message = _complaint(open_fake, name, tmp_path / "nowhere")
    assert "nowhere" in message
    assert "http" in message


@pytest.mark.parametrize("name", NAMES)
def test_half_unpacked_archive_names_the_file_that_is_missing(name, open_fake, fake_copy):
    root = fake_copy(name)
    (root / FAKES[name].annotation).unlink()
    assert FAKES[name].annotation.rpartition("/")[2] in _complaint(open_fake, name, root)


@pytest.mark.parametrize("name", NAMES)
def test_annotation_for_an_absent_image_names_the_image(name, open_fake, fake_copy):
    root = fake_copy(name)
    (root / FAKES[name].image).unlink()
    message = _complaint(open_fake, name, root)
    # ImageNet lists what is there, and counts it
    assert (
        FAKES[name].image.rpartition("/")[2] in message or "n01440764: has 2 images, but meta.mat counts 3" in message
    )
    assert "1 of" in message or "counts 3" in message


@pytest.mark.parametrize("name", NAMES)
def test_renamed_folder_is_said_with_the_first_images_that_are_missed(name, open_fake, fake_copy):
    root = fake_copy(name)
    folder = root / FAKES[name].folder
    folder.rename(folder.with_name("pictures"))
    message = _complaint(open_fake, name, root)
    assert folder.name in message
    assert re.search(r"listed images are absent: \S+.*, ", message)


@pytest.mark.parametrize("name", NAMES)
def test_empty_test_split_is_refused(name, open_fake, fake_copy):
    root = fake_copy(name)
    FAKES[name].empty(root)
    assert re.search(
        r"no image for test|no test image|has no (box|list)|the file is empty", _complaint(open_fake, name, root)
    )


@pytest.mark.parametrize("name", [name for name in NAMES if FAKES[name].text])
@pytest.mark.parametrize("change", ["windows", "mark"])
def test_windows_line_ends_and_byte_order_marks_change_nothing(name, change, open_fake, fake_copy):
    root = fake_copy(name)
    before, path = open_fake(name, root).digest(), root / FAKES[name].text
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\n", b"\r\n") if change == "windows" else b"\xef\xbb\xbf" + data)
    assert path.read_bytes() != data
    assert open_fake(name, root).digest() == before


@pytest.mark.parametrize("name", [name for name in NAMES if FAKES[name].text])
def test_text_list_that_is_no_text_is_named(name, open_fake, fake_copy):
    root = fake_copy(name)
    path = root / FAKES[name].text
    path.write_bytes(b"\xff\xfe\x00\x01" * 9)
    message = _complaint(open_fake, name, root)
    assert path.name in message
    assert "not a text file" in message


@pytest.mark.parametrize("name", [name for name in NAMES if FAKES[name].annotation.endswith(("mat", "xml"))])
def test_binary_annotation_that_is_damaged_is_named(name, open_fake, fake_copy):
    root = fake_copy(name)
    path = root / FAKES[name].annotation
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert path.name in _complaint(open_fake, name, root)


@pytest.mark.parametrize("name", list(FAKES))
def test_image_that_is_no_image_is_named_when_it_is_met(name, open_fake, fake_copy):
    root = fake_copy(name)
    data = open_fake(name, root)
    path = data.listing.path(2)
    path.write_text("<html>404 Not Found</html>")
    with pytest.raises(ValueError, match=r"cannot be decoded as an image .* restore this file") as error:
        data.dataset(View())[2]
    assert path.name in str(error.value)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cub200"])  # its message is in test_cub_tree
def test_counts_of_the_whole_dataset_are_checked(name, open_fake, fake_root):
    whole = {"images": None} if name.startswith("celeba") else {"classes": None}
    with pytest.raises(
        DataError, match=r"but .* has|are asked for|\d classes|12 train and 8 test images, .* has 5,089"
    ) as error:
        open_fake(name, fake_root(name), **whole)
    assert str(error.value).startswith(f"{name}: ")


@pytest.mark.parametrize("shift", [-1, 1])
def test_labels_that_are_no_class_are_refused(shift, open_fake, fake_root):
    data = open_fake("cub200", fake_root("cub200"))
    listing = data.read()
    data.read = lambda: replace(listing, target=listing.target + shift)
    with pytest.raises(DataError, match=rf"^cub200: .* labels from {shift} to {2 + shift}, not 0 to k - 1"):
        data.read_sized()


@pytest.mark.parametrize("name", NAMES)
def test_root_may_be_the_tree_itself(name, open_fake, fake_root):
    data = open_fake(name, fake_root(name))
    assert open_fake(name, data.tree()).digest() == data.digest()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_declared_as_source_and_archives_say_where_it_comes_from(name, open_fake, fake_copy):
    root = fake_copy(name)
    data = open_fake(name, root)
    assert data.sources()
    assert all(path.is_file() for path in data.sources())
    for archive in data.archives:
        assert (root / archive.holds).exists(), archive
    if FAKES[name].text:
        assert root / FAKES[name].text in data.sources()
    shutil.rmtree(root)
