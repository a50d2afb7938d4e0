import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import StandardScaler

from fgbench.metrics.landmark_error import LARGEST, LandmarkError, frame_of, soft_centroids
from fgbench.types import Output

LOGITS = torch.zeros(1, 1)


def maps_at(points, height, width, rows=8, cols=12):
    """Maps whose centre of mass is the point: bilinear weights of the four cells around it."""
    maps = torch.zeros(*points.shape[:2], rows, cols)
    for image in range(points.shape[0]):
        for part in range(points.shape[1]):
            x = min(max(float(points[image, part, 0]) / width * cols - 0.5, 0), cols - 1 - 1e-6)
            y = min(max(float(points[image, part, 1]) / height * rows - 0.5, 0), rows - 1 - 1e-6)
            for r in (0, 1):
                for c in (0, 1):
                    share = abs(1 - c - (x - int(x))) * abs(1 - r - (y - int(y)))
                    maps[image, part, int(y) + r, int(x) + c] += share
    return maps


def run(metric, fit, test, floors=None):
    """Fit on batches, score batches; each is (parts, batch)."""
    for parts, batch in fit:
        metric.fit_update(Output(LOGITS, parts=parts), batch, floors and floors(batch))
    metric.fit()
    for parts, batch in test:
        metric.update(metric.columns(Output(LOGITS, parts=parts), batch, floors and floors(batch)), batch)
    return metric.compute()


def batches(make_batch, count, start=0, parts=2, **kwargs):
    made = []
    for seed in range(start, start + count):
        torch.manual_seed(seed)
        made.append((torch.rand(5, parts, 4, 6) ** 8, make_batch(5, seed=seed, **kwargs)))
    return made


# An independent computation: float64 loops over images, landmarks and cells


def loop_centres(parts, height, width):
    centres = np.zeros((*parts.shape[:2], 2))
    rows, cols = parts.shape[2:]
    for image, part in np.ndindex(*parts.shape[:2]):
        total = x = y = 0.0
        for r, c in np.ndindex(rows, cols):
            weight = float(parts[image, part, r, c])
            total, x, y = total + weight, x + weight * (c + 0.5) / cols, y + weight * (r + 0.5) / rows
        centres[image, part] = x / total * width, y / total * height
    return centres


def loop_rows(data, frame, landmark, only_class=None):
    """Centres, landmark and factor from frame units to the error's unit, of each image that counts."""
    found = []
    for parts, batch in data:
        height, width = batch.image.shape[2:]
        centres = loop_centres(parts, height, width)
        for image in range(len(batch.target)):
            if not batch.visible[image, landmark] or (only_class is not None and batch.target[image] != only_class):
                continue
            x0, y0, x1, y1 = batch.boxes[image, 0].double().tolist()
            marks = batch.landmarks[image].double().numpy()
            iod = np.hypot(*(marks[0] - marks[1]))
            if frame != "box" and not (batch.visible[image, 0] and batch.visible[image, 1]):
                continue
            origin, scale, unit = {
                "box": ((x0, y0), (x1 - x0, y1 - y0), (1, 1)),
                "iod_prefit": ((0, 0), (iod, iod), (1, 1)),
                "iod_residual": ((0, 0), (width, height), (width / iod, height / iod)),
            }[frame]
            x = ((centres[image] - origin) / scale).ravel()
            found.append((x, (marks[landmark] - origin) / scale, np.array(unit)))
    return found


def loop_error(fit, test, frame, only_class=None, count=3):
    errors = []
    for landmark in range(count):
        known, asked = (loop_rows(data, frame, landmark, only_class) for data in (fit, test))
        x, y = (np.array([row[i] for row in known]) for i in (0, 1))
        left, right = StandardScaler().fit(x), StandardScaler().fit(y)
        model = LinearRegression(fit_intercept=False).fit(left.transform(x), right.transform(y))
        for features, truth, unit in asked:
            guess = right.inverse_transform(model.predict(left.transform(features[None])))[0]
            errors.append(np.hypot(*((guess - truth) * unit)))
    return 100 * np.mean(errors), len(errors)


@pytest.mark.parametrize("frame", ["box", "iod_prefit", "iod_residual"])
def test_the_error_equals_scikit_learn_in_plain_loops(frame, make_batch):
    fit, test = batches(make_batch, 4), batches(make_batch, 3, start=50)
    metric = LandmarkError(3, 2, frame)
    numbers = run(metric, fit, test)
    expected, count = loop_error(fit, test, frame)
    assert float(numbers[metric.name]) == pytest.approx(expected, abs=1e-5)
    assert int(numbers[f"{metric.name}_count_each"].sum()) == count


def test_one_class_has_regressors_of_its_own_even_from_few_images(make_batch):
    fit, test = (batches(make_batch, 3, start=start, parts=4) for start in (0, 50))
    numbers = run(LandmarkError(3, 4, classes=(2, 0)), fit, test)
    for label in (0, 2):
        assert 0 < len(loop_rows(fit, "box", 0, label)) < 8  # fewer images than inputs
        expected, _ = loop_error(fit, test, "box", label)
        assert float(numbers[f"landmark_error_class_{label}"]) == pytest.approx(expected, abs=1e-5)
    assert float(numbers["landmark_error"]) == pytest.approx(loop_error(fit, test, "box")[0], abs=1e-5)


def test_a_method_told_the_true_landmarks_has_no_error(make_batch):
    fit, test = (
        [(maps_at(b.landmarks, 32, 48), b) for b in (make_batch(8, seed=seed, hidden=0.0) for seed in seeds)]
        for seeds in (range(4), range(9, 12))
    )
    inside = [(p, b._replace(landmarks=soft_centroids(p, 32, 48).float())) for p, b in fit + test]
    numbers = run(LandmarkError(3, 3), inside[:4], inside[4:])
    assert float(numbers["landmark_error"]) == pytest.approx(0, abs=1e-3)
    assert float(numbers["landmark_error/mean_landmark"]) > 10


def test_the_centre_of_one_cell_is_the_cells_centre():
    parts = torch.zeros(1, 1, 3, 5)
    parts[0, 0, 2, 1] = 0.25
    assert soft_centroids(parts, 48, 80)[0, 0].tolist() == [1.5 * 16, 2.5 * 16]


@pytest.mark.parametrize("value", [0.0, 0.125])
def test_a_map_without_mass_or_shape_lies_in_the_images_centre(value):
    assert soft_centroids(torch.full((1, 1, 3, 5), value), 30, 80)[0, 0].tolist() == pytest.approx([40, 15])


def test_centres_are_float64_sums_even_of_half_precision_maps():
    parts = torch.rand(2, 3, 28, 28).bfloat16()
    np.testing.assert_allclose(soft_centroids(parts, 448, 448), loop_centres(parts.double(), 448, 448), atol=1e-9)


def test_what_an_invisible_landmark_holds_does_not_matter(make_batch):
    fit, test = batches(make_batch, 3), batches(make_batch, 2, start=50)
    garbled = [
        [(p, b._replace(landmarks=torch.where(b.visible[..., None], b.landmarks, 9e9))) for p, b in data]
        for data in (fit, test)
    ]
    clean, dirty = run(LandmarkError(3, 2), fit, test), run(LandmarkError(3, 2), *garbled)
    assert torch.equal(clean["landmark_error_each"], dirty["landmark_error_each"])


def test_images_without_a_box_are_left_out_and_counted(make_batch):
    fit, test = batches(make_batch, 3), batches(make_batch, 1, start=50)
    parts, batch = test[0]
    invalid = batch.box_valid.clone()
    invalid[2] = False
    numbers = run(LandmarkError(3, 2), fit, [(parts, batch._replace(box_valid=invalid))])
    keep = torch.tensor([0, 1, 3, 4])
    fewer = run(LandmarkError(3, 2), fit, [(parts[keep], type(batch)(*(field[keep] for field in batch)))])
    assert torch.equal(numbers["landmark_error"], fewer["landmark_error"])
    assert numbers["landmarks_left_out"] == batch.visible[2].sum()


def test_a_landmark_that_no_fitting_image_shows_is_left_out_and_counted(make_batch):
    fit, test = batches(make_batch, 2), batches(make_batch, 2, start=50)
    hidden = [(p, b._replace(visible=b.visible & torch.tensor([True, True, False]))) for p, b in fit]
    numbers = run(LandmarkError(3, 2), hidden, test)
    assert numbers["landmark_error_each"][2].isnan()
    assert numbers["landmarks_left_out"] == sum(b.visible[:, 2].sum() for _, b in test)
    assert numbers["landmark_error"].isfinite()


@settings(deadline=None, max_examples=15)
@given(st.floats(0.25, 4), st.booleans())
def test_scale_and_flip_change_nothing_in_a_box(make_batch, scale, flip):
    fit, test = batches(make_batch, 3), batches(make_batch, 2, start=50)

    def moved(parts, batch):
        width = batch.image.shape[3]
        boxes, marks = batch.boxes.clone(), batch.landmarks.clone()
        if flip:
            parts = parts.flip(3)
            boxes[..., 0], boxes[..., 2] = width - batch.boxes[..., 2], width - batch.boxes[..., 0]
            marks[..., 0] = width - marks[..., 0]
        size = [round(side * scale) for side in batch.image.shape[2:]]
        factor = torch.tensor([size[1] / width, size[0] / batch.image.shape[2]])
        image = torch.zeros(len(parts), 3, *size)
        return parts, batch._replace(image=image, boxes=boxes * factor.repeat(2), landmarks=marks * factor)

    before = run(LandmarkError(3, 2), fit, test)
    after = run(LandmarkError(3, 2), [moved(*d) for d in fit], [moved(*d) for d in test])
    torch.testing.assert_close(before["landmark_error"], after["landmark_error"], atol=2e-3, rtol=0)


def test_batches_may_differ_in_size_and_their_order_does_not_show(make_batch):
    fit = batches(make_batch, 2) + batches(make_batch, 2, start=7, height=20, width=70)
    test = batches(make_batch, 2, start=50, height=64) + batches(make_batch, 2, start=60)
    once, again = run(LandmarkError(3, 2), fit, test), run(LandmarkError(3, 2), fit[::-1], test[::-1])
    assert torch.equal(once["landmark_error_each"], again["landmark_error_each"])
    assert float(once["landmark_error"]) == pytest.approx(loop_error(fit, test, "box")[0], abs=1e-5)


def test_floors_are_fits_of_their_own_points(make_batch):
    def points(batch):
        centre = torch.tensor([[[24.0, 16.0]]]).expand(len(batch.target), 1, 2)
        return {"image_centre": centre, "box_centre": (batch.boxes[..., :2] + batch.boxes[..., 2:]) / 2}

    fit, test = batches(make_batch, 4), batches(make_batch, 3, start=50)
    numbers = run(LandmarkError(3, 2, floors={"image_centre": 1, "box_centre": 1}), fit, test, points)
    alone = [[(maps_at(points(b)["image_centre"], 32, 48), b) for _, b in data] for data in (fit, test)]
    assert float(numbers["landmark_error/image_centre"]) == pytest.approx(loop_error(*alone, "box")[0], abs=1e-3)
    assert torch.equal(numbers["landmark_error/box_centre"], numbers["landmark_error/mean_landmark"])
    assert float(numbers["landmark_error"]) == pytest.approx(loop_error(fit, test, "box")[0], abs=1e-5)
    means = [np.mean([row[1] for row in loop_rows(fit, "box", landmark)], axis=0) for landmark in range(3)]
    errors = [np.hypot(*(y - means[mark])) for mark in range(3) for _, y, _ in loop_rows(test, "box", mark)]
    assert float(numbers["landmark_error/mean_landmark"]) == pytest.approx(100 * np.mean(errors), abs=1e-5)


def test_a_regressor_for_all_landmarks_jointly_is_the_same_where_all_are_visible(make_batch):
    shown = batches(make_batch, 6, hidden=0.0)
    fit, test = shown[:4], shown[4:]
    x, y, queries, truths = [], [], [], []
    for store, answers, data in ((x, y, fit), (queries, truths, test)):
        for parts, batch in data:
            iod = (batch.landmarks[:, 0] - batch.landmarks[:, 1]).double().norm(dim=1).numpy()[:, None]
            store.append(loop_centres(parts, 32, 48).reshape(len(parts), -1) / iod)
            answers.append(batch.landmarks.double().flatten(1).numpy() / iod)
    x, y, queries, truths = map(np.concatenate, (x, y, queries, truths))
    left, right = StandardScaler().fit(x), StandardScaler().fit(y)
    joint = LinearRegression(fit_intercept=False).fit(left.transform(x), right.transform(y))
    residual = (right.inverse_transform(joint.predict(left.transform(queries))) - truths).reshape(-1, 2)
    numbers = run(LandmarkError(3, 2, "iod_prefit"), fit, test)
    assert float(numbers["landmark_error"]) == pytest.approx(100 * np.hypot(*residual.T).mean(), abs=1e-5)


def test_maps_that_are_no_numbers_stop_the_fit_and_cost_the_maximum_in_the_test(make_batch):
    fit, test = batches(make_batch, 2), batches(make_batch, 1, start=50)
    broken = [(torch.full_like(p, torch.nan), b) for p, b in test]
    assert run(LandmarkError(3, 2), fit, broken)["landmark_error"] == 100 * LARGEST
    with pytest.raises(ValueError, match="diverge"):
        run(LandmarkError(3, 2), broken, test)


def test_the_number_of_part_maps_is_checked(make_batch):
    with pytest.raises(ValueError, match="2 part maps, 5 expected"):
        run(LandmarkError(3, 5), batches(make_batch, 1), [])


def test_reset_forgets_the_fit_and_the_state_survives_a_copy(make_batch):
    fit, test = batches(make_batch, 2), batches(make_batch, 2, start=50)
    metric, copy = LandmarkError(3, 2), LandmarkError(3, 2)
    numbers = run(metric, fit, test)
    copy.persistent(True)
    metric.persistent(True)
    copy.load_state_dict(metric.state_dict())
    copy._update_count = 1
    assert torch.equal(copy.compute()["landmark_error"], numbers["landmark_error"])
    metric.reset()
    assert metric.slopes.isnan().all()
    assert torch.equal(run(metric, fit, test)["landmark_error_each"], numbers["landmark_error_each"])


def test_sizes_are_not_copied_to_the_device_and_digits_are_those_of_a_copy(make_batch, monkeypatch):
    batch, parts = make_batch(50, height=37, width=53), torch.rand(50, 4, 5, 7)
    parts[0, 0] = 0
    size = torch.tensor([53, 37], dtype=torch.float64)
    fractions = soft_centroids(parts, 1, 1)
    monkeypatch.setattr(torch, "tensor", None)  # such a copy waits for a GPU at every step
    monkeypatch.setattr(torch, "as_tensor", None)
    assert torch.equal(soft_centroids(parts, 37, 53), fractions * size)
    for frame in ("box", "iod_prefit"):
        frame_of(batch, frame)
    origin, scale, unit, framed = frame_of(batch, "iod_residual")
    distance = frame_of(batch, "iod_prefit")[1]
    assert not origin.any()
    assert torch.equal(scale, size.expand(50, 1, 2))
    assert torch.equal(unit, size / distance)
    assert 0 < framed.sum() < 50  # with and without eyes
