import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fgbench.data import DataError, ToyBirds, View
from fgbench.data.toybirds_bird import LANDMARKS, PARTS
from fgbench.data.toybirds_catalogue import ATTRIBUTES, catalogue, names, steps
from fgbench.data.toybirds_draw import Knobs, draw
from fgbench.data.toybirds_write import write_toybirds

CUB_PARTS = (
    "back,beak,belly,breast,crown,forehead,left eye,left leg,left wing,nape,right eye,right leg,right wing,tail,throat"
)


def _distance(first, second):
    return sum(first[key] != second[key] for key in ATTRIBUTES)


@pytest.mark.parametrize("count", [2, 10, 200])
def test_every_species_is_one_attribute_away_from_its_nearest(count):
    species = catalogue(count)
    assert len({tuple(s.values()) for s in species}) == count
    for i, one in enumerate(species):
        assert min(_distance(one, other) for j, other in enumerate(species) if j != i) == 1
    assert len(set(names(count))) == count


def test_ten_species_differ_at_head_and_tail_in_colour_shape_and_pattern():
    changed = [step.attribute for step in steps(10)]
    assert len(set(changed)) == 6
    assert {attribute.split(".")[0] for attribute in changed} == {"crown", "throat", "head", "tail"}
    assert {attribute.split(".")[1] for attribute in changed} == {"colour", "shape", "pattern"}


def test_small_catalogues_begin_large_ones():
    assert catalogue(200)[:10] == catalogue(10)
    assert names(200)[:10] == names(10)


def test_pictures_are_the_same_on_every_machine():
    """Pinned: a change here means new data, and asks for a new VERSION in toybirds_draw."""
    found = hashlib.sha256()
    for label, number, knobs in [(0, 1, Knobs()), (9, 200, Knobs()), (4, 7, Knobs(64, 1000, 500, 3))]:
        picture = draw(catalogue(10)[label], label, number, knobs)
        found.update(picture.image.tobytes() + picture.mask.tobytes())
        found.update(repr(picture.box).encode() + picture.landmarks.tobytes() + picture.visible.tobytes())
    assert found.hexdigest() == "1ffe4526917172ee86d17b044c1eb4bbde59e00c311998f7753eca58ce27ddc2"


def test_annotation_files_are_the_same_on_every_machine(toybirds):
    data, found = toybirds(), hashlib.sha256()
    tables = [path for path in data.tree().rglob("*") if path.suffix in (".txt", ".json")]
    assert len(tables) == 9
    for path in sorted(tables, key=lambda path: path.name):
        found.update(path.name.encode() + path.read_bytes())
    assert found.hexdigest() == "41554957e84ed97a4665bc24482f59d1107870fb1a3a07069be339aa4eba6b63"
    assert data.digest() == "5b244c5274bb8cc698886b2b62c903bc010faec39cb831a485f80d7b808f74c5"


def test_landmarks_are_named_as_in_cub(toybirds):
    assert ",".join(LANDMARKS) == CUB_PARTS
    assert toybirds().landmark_names == LANDMARKS


@pytest.fixture(scope="module")
def pictures():
    species = catalogue(10)
    return [draw(species[i % 10], i % 10, i, Knobs()) for i in range(150)]


def test_visible_landmarks_lie_on_the_bird_and_in_its_box(pictures):
    for picture in pictures:
        x, y, width, height = picture.box
        points = picture.landmarks[picture.visible]
        assert (picture.mask[tuple(points[:, ::-1].astype(int).T)] > 0).all()
        assert (points >= [x, y]).all()
        assert (points <= [x + width, y + height]).all()
        assert (picture.landmarks[~picture.visible] == 0).all()


def test_box_is_the_smallest_around_the_bird_where_nothing_covers_it():
    for i in range(40):
        picture = draw(catalogue(10)[i % 10], i % 10, i, Knobs(difficulty=0))
        rows, columns = np.nonzero(picture.mask)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        x, y, width, height = picture.box
        error = np.array(found) - [x, y, x + width, y + height]
        assert np.abs(error).max() <= 3  # the tip of a crest is thinner than a sample


def test_landmarks_of_parts_lie_on_their_parts(pictures):
    allowed = {
        "beak": {"beak", "head"},
        "tail": {"tail"},
        "belly": {"belly", "breast", "wing", "leg"},
        "crown": {"crown", "wing"},
        "left eye": {"eye"},
        "right wing": {"wing", "far wing"},
        "left leg": {"leg", "far leg", "belly"},
    }
    for name, parts in allowed.items():
        index, seen, hits = LANDMARKS.index(name), 0, 0
        for picture in pictures:
            if picture.visible[index]:
                x, y = picture.landmarks[index].astype(int)
                seen += 1
                hits += PARTS[picture.mask[y, x] - 1] in parts
        assert seen > 30, name
        assert hits / seen > 0.95, name


def test_one_eye_is_seen_and_the_sides_are_about_even(pictures):
    eyes = np.array([p.visible[[LANDMARKS.index("left eye"), LANDMARKS.index("right eye")]] for p in pictures])
    assert not eyes.all(axis=1).any()
    assert 0.35 < eyes[:, 0].sum() / eyes.sum() < 0.65


def test_a_bird_that_faces_left_shows_its_left_side(pictures):
    """Seen from its left side, a bird has its beak to the left of its tail, unless it is turned over."""
    left_wing, right_wing = LANDMARKS.index("left wing"), LANDMARKS.index("right wing")
    breast, tail = LANDMARKS.index("breast"), LANDMARKS.index("tail")
    checked = 0
    for picture in pictures:
        if picture.visible[[breast, tail]].all() and picture.visible[[left_wing, right_wing]].sum() == 1:
            faces_left = picture.landmarks[breast, 0] < picture.landmarks[tail, 0]
            assert picture.visible[left_wing] == faces_left
            checked += 1
    assert checked > 60


def test_birds_vary_enough_for_the_floors_to_be_poor(pictures):
    """The mean landmark misses by a fifth of the box, and the image's centre misses two birds of five."""
    boxes, landmarks = np.array([p.box for p in pictures]), np.array([p.landmarks for p in pictures])
    visible = np.array([p.visible for p in pictures])
    relative = (landmarks - boxes[:, None, :2]) / boxes[:, None, 2:]
    errors = [
        np.linalg.norm(relative[seen, i] - relative[seen, i].mean(axis=0), axis=1) for i, seen in enumerate(visible.T)
    ]
    assert np.concatenate(errors).mean() > 0.2
    inside = ((boxes[:, :2] <= 64) & (boxes[:, :2] + boxes[:, 2:] >= 64)).all(axis=1)
    assert 0.3 < 1 - inside.mean() < 0.6


def test_colours_alone_do_not_tell_the_species(pictures):
    from sklearn.ensemble import RandomForestClassifier

    more = [draw(catalogue(10)[i % 10], i % 10, i, Knobs()) for i in range(150, 210)]
    histograms = [
        np.histogramdd(p.image.reshape(-1, 3).astype(float), bins=5, range=[(0, 256)] * 3)[0].ravel()
        for p in (*pictures, *more)
    ]
    labels = np.arange(210) % 10
    forest = RandomForestClassifier(100, random_state=0).fit(histograms[:150], labels[:150])
    assert forest.score(histograms[150:], labels[150:]) < 0.4


def test_background_bias_colours_the_background_by_class():
    def corner_spread(bias):
        corners = [draw(catalogue(2)[0], 0, i, Knobs(32, 0, bias)).image[0, 0].astype(float) for i in range(30)]
        return np.std(corners, axis=0).mean()

    assert corner_spread(1000) < 25 < 40 < corner_spread(0)


def test_only_difficulty_puts_something_in_front_of_the_birds():
    """Back, belly, breast and tail of a bird are seen unless something covers them."""
    always = [LANDMARKS.index(name) for name in ("back", "belly", "breast", "tail")]

    def seen(difficulty):
        return np.mean([draw(catalogue(2)[0], 0, i, Knobs(32, difficulty)).visible[always] for i in range(60)])

    assert seen(1000) < seen(0) == 1


def test_part_masks_are_those_that_were_drawn(toybirds):
    data = toybirds()
    for row in (0, 20, 35):
        label = int(data.listing.target[row])
        picture = draw(catalogue(3)[label], label, row % 12 + 1, data.knobs)
        assert (data.part_mask(row) == picture.mask).all()
        assert (data.dataset(View())[row].image.permute(1, 2, 0).numpy() == picture.image).all()
    assert set(np.unique(data.part_mask(0))) <= set(range(len(PARTS) + 1))


def test_catalogue_on_disk_says_how_species_differ(toybirds):
    facts = json.loads((toybirds().tree() / "catalogue.json").read_text())
    assert facts["steps"][0] == {"species": 2, "differs_from": 1, "crown.colour": "red"}
    assert facts["species"][1]["crown.colour"] == "red"


def test_later_species_are_the_same_birds_whichever_come_before(tmp_path):
    few = {"num_images": 20, "image_size": 32, "root": str(tmp_path)}
    whole, rest = ToyBirds(num_classes=5, **few), ToyBirds(num_classes=2, first_class=3, **few | {"num_images": 8})
    for data in (whole, rest):
        data.prepare_data()
        data.setup("fit")
    assert rest.label_names == whole.label_names[3:]
    assert rest.listing.target.tolist() == [0] * 4 + [1] * 4
    np.testing.assert_array_equal(rest.listing.names, whole.listing.names[12:])
    for row in range(8):
        shown, same = (data.dataset(View())[at].image for data, at in ((rest, row), (whole, 12 + row)))
        assert (shown == same).all()
    with pytest.raises(ValueError, match="there are 200 species"):
        ToyBirds(num_classes=10, first_class=191)


def test_half_of_every_class_is_for_training(toybirds):
    listing = toybirds().listing
    assert np.bincount(listing.target[listing.rows("train")]).tolist() == [6, 6, 6]
    assert np.bincount(listing.target[listing.rows("test")]).tolist() == [6, 6, 6]


def test_images_are_drawn_once_and_knobs_have_their_own_folder(toybirds):
    data = toybirds()
    first = data.tree() / "images.txt"
    before = first.stat().st_mtime_ns
    data.prepare_data()
    assert first.stat().st_mtime_ns == before
    others = [{"data_seed": 1}, {"difficulty": 0.4}, {"background_bias": 0.1}, {"image_size": 64}, {"num_images": 42}]
    trees = {ToyBirds(**{"num_classes": 3, "num_images": 36, "image_size": 48, **other}).tree() for other in others}
    assert len({path.name for path in trees} | {data.tree().name}) == 6


_WRITER = """
import sys
from pathlib import Path
from fgbench.data.toybirds_draw import Knobs
from fgbench.data.toybirds_write import write_toybirds
if __name__ == "__main__":
    write_toybirds(Path(sys.argv[1]), range(2), int(sys.argv[2]), Knobs(image_size=32))
"""


def test_two_processes_write_once(tmp_path):
    script, folder = tmp_path / "writer.py", tmp_path / "toys"
    script.write_text(_WRITER)
    command = [sys.executable, str(script), str(folder), "6"]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sum("images drawn" in error for error in errors) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".toys.lock", "toys", "writer.py"]


def test_killed_writer_leaves_nothing_that_looks_whole(tmp_path):
    script, folder = tmp_path / "writer.py", tmp_path / "toys"
    script.write_text(_WRITER)
    run = subprocess.Popen(
        [sys.executable, str(script), str(folder), "2000"], stderr=subprocess.DEVNULL, process_group=0
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".toys.part-*/images/*/*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert list(tmp_path.glob(".toys.part-*"))
    assert not folder.exists()
    write_toybirds(folder, range(2), 2, Knobs(image_size=32))
    assert len(list(folder.glob("images/*/*.png"))) == 4
    assert not list(tmp_path.glob(".toys.part-*"))


def test_interrupted_writer_cleans_up(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fgbench.data.toybirds_write._progress", fail)
    with pytest.raises(KeyboardInterrupt):
        write_toybirds(tmp_path / "toys", range(2), 2, Knobs(image_size=32))
    assert [path.name for path in tmp_path.iterdir()] == [".toys.lock"]


def test_damaged_toys_say_that_they_can_be_deleted(tmp_path):
    data = ToyBirds(num_classes=2, num_images=4, image_size=32, root=str(tmp_path))
    data.prepare_data()
    (data.tree() / "images/001.Common_Toybird/Common_Toybird_0001.png").unlink()
    with pytest.raises(DataError, match=r"1 of 4 listed images are absent.*Delete .* drawn again"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_classes": 1}, "num_classes is 1"),
        ({"num_classes": 201}, "there are 200 species"),
        ({"num_images": 30}, r"multiple of 2 \* num_classes = 20"),
        ({"image_size": 8}, "from 32 to 1024"),
        ({"difficulty": 2.0}, "from 0 to 1"),
        ({"data_seed": -1}, "0 or more"),
    ],
)
def test_impossible_knobs_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ToyBirds(**wrong)
