"""What is told the true parts of toybirds reaches 100 on every metric; what looks at nothing, what it should."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch.nn.functional import interpolate, one_hot

from fgbench import measures
from fgbench.data.toybirds import ToyBirds
from fgbench.explain import floor_maps, floors
from fgbench.metrics.base import BenchMetric
from fgbench.metrics.consistency import PartStability
from fgbench.metrics.landmark_error import LandmarkError
from fgbench.metrics.masks import MaskedParts, MaskIoU, part_iou, saliency_iou
from fgbench.metrics.pointing_game import PointingGame
from fgbench.types import Output

TRUE = len(ToyBirds.mask_names)


@pytest.fixture(scope="module")
def birds(fake_root):
    """All test images of small toybirds with their masks, in two batches."""
    data = ToyBirds(root=str(fake_root("toybirds")), num_classes=3, num_images=36, image_size=48, eval_batch_size=12)
    data.prepare_data()
    data.setup("test")
    return data, list(data.test_dataloader())


def stand_ins(batch, parts, seed=0):
    """What scoring hands to metrics."""
    points = floors.random_parts(batch, parts, seed)
    return {
        "image_centre": floors.image_centre(batch),
        "box_centre": floors.box_centre(batch),
        "random_parts": points,
        "centre_map": floor_maps.centre_map(batch),
        "random_map": floor_maps.random_map(batch, seed),
    }


def told(batch):
    """The oracle: maps are the true parts, saliency the bird."""
    parts = one_hot(batch.mask.long(), TRUE + 1).permute(0, 3, 1, 2)[:, 1:].float()
    logits = one_hot(batch.target, 3).float()
    return Output(logits, (batch.mask > 0).float(), parts)


def pixel_maps(batch):
    """A map for each landmark, whose only pixel is the landmark's."""
    parts = torch.zeros(len(batch.image), batch.landmarks.shape[1], *batch.image.shape[2:])
    image, landmark = batch.visible.nonzero().T
    x, y = batch.landmarks[image, landmark].long().T
    parts[image, landmark, y, x] = 1
    return parts


def told_landmarks(batch):
    """The oracle of landmarks."""
    return told(batch)._replace(parts=pixel_maps(batch))


def look(batches, data, say, bound=False, bound_parts=0):
    """All metrics of evidence over all batches."""
    parts = say(batches[0]).parts.shape[1]
    metrics, reasons = measures.evidence(data, parts, bound, bound_parts)
    for batch in batches:
        for metric in metrics:
            metric.update(metric.columns(say(batch), batch, stand_ins(batch, parts)), batch)
    found = {name: float(value) for metric in metrics for name, value in metric.compute().items()}
    assert not set(found) & set(reasons)
    assert set(found) | set(reasons) >= set(measures.PLAIN)
    return found


def test_the_oracle_of_parts_reaches_100_on_every_metric_of_masks(birds):
    data, batches = birds
    found = look(batches, data, told)
    for name in ("nmi_pixels", "ari_pixels", "nmi_foreground", "ari_foreground", "part_iou", "part_pointing"):
        assert found[name] == pytest.approx(100, abs=1e-9), name
    assert found["mask_iou"] == pytest.approx(100, abs=1e-6)
    assert found["energy_pointing_mask"] == pytest.approx(100, abs=1e-6)
    inside = []  # of a rim of pixels the centre is outside of the box
    for batch in batches:
        for mask, (x0, y0, x1, y1) in zip(batch.mask.numpy(), batch.boxes[:, 0].tolist(), strict=True):
            rows, cols = mask.nonzero()
            inside.append(np.mean((cols + 0.5 >= x0) & (cols + 0.5 <= x1) & (rows + 0.5 >= y0) & (rows + 0.5 <= y1)))
    assert found["energy_pointing"] == pytest.approx(100 * np.mean(inside), abs=1e-6)
    assert found["energy_pointing"] > 99.9


@pytest.mark.parametrize("bound", [False, True])
def test_the_oracle_of_landmarks_reaches_100_on_every_metric_of_landmarks(birds, bound):
    data, batches = birds
    found = look(batches, data, told_landmarks, bound)
    shown = torch.zeros(3, 15).index_add(
        0, torch.cat([b.target for b in batches]), torch.cat([b.visible.float() for b in batches])
    )
    if bound:  # the part of a landmark that no image of a class shows has nothing to be consistent with
        assert found["part_consistency"] == pytest.approx(100 * float((shown > 0).float().mean()))
    else:
        assert found["part_consistency_agnostic"] == 100
    # at 48 pixels two landmarks may share one, so the first of them takes both: what that costs is computed here
    first, second = [], []
    for batch in batches:
        for image, landmark in batch.visible.nonzero().tolist():
            pixels = [tuple(xy) for xy in batch.landmarks[image].long().tolist()]
            same = [k for k in range(15) if batch.visible[image, k] and pixels[k] == pixels[landmark]]
            first.append(same[0])
            second.append(landmark)
    assert found["nmi_landmarks"] == pytest.approx(100 * normalized_mutual_info_score(second, first), abs=1e-6)
    assert found["ari_landmarks"] == pytest.approx(100 * adjusted_rand_score(second, first), abs=1e-6)
    assert found["ari_landmarks"] > 90


def test_the_oracle_of_a_classs_own_landmarks_reaches_100_beside_parts_that_all_classes_share(birds):
    data, batches = birds

    def both(batch):
        return told(batch)._replace(bound_parts=told_landmarks(batch).parts)

    alone, found = look(batches, data, told_landmarks, True), look(batches, data, both, bound_parts=15)
    assert found["part_consistency"] == alone["part_consistency"] > 90
    assert found["part_consistency_agnostic"] == look(batches, data, told)["part_consistency_agnostic"]
    assert found["bound_part_units"] == 3 * 15
    assert found["part_consistency/random_parts"] < 20


def test_the_innermost_pixel_of_each_bird_is_in_its_box_and_the_first_on_its_rim_may_not_be(birds):
    _, batches = birds
    inner, flat, outside, images = PointingGame(), PointingGame(), 0, 0
    for batch in batches:
        depth = np.stack([distance_transform_edt(mask) for mask in batch.mask.numpy()])
        inner.update(inner.columns(told(batch)._replace(saliency=torch.from_numpy(depth).float()), batch), batch)
        flat.update(flat.columns(told(batch), batch), batch)  # equal everywhere: the first pixel is the point
        for mask, (x0, y0, x1, y1) in zip(batch.mask.numpy(), batch.boxes[:, 0].tolist(), strict=True):
            row, col = np.argwhere(mask)[0] + 0.5
            outside, images = outside + (not (x0 <= col <= x1 and y0 <= row <= y1)), images + 1
    assert inner.compute()["pointing_error"] == 0
    found = flat.compute()
    assert float(found["pointing_error"]) == pytest.approx(100 * outside / images)
    assert found["pointing_error_15px"] == 0


@pytest.mark.parametrize("bound", [False, True])
def test_parts_that_stay_on_their_landmarks_under_noise_are_stable_and_others_are_not(birds, bound):
    _, batches = birds
    stay, move = PartStability(bound), PartStability(bound)
    for batch in batches:
        points = floors.random_parts(batch, 15, 0), floors.random_parts(batch, 15, 1)
        said = told_landmarks(batch)
        stay.update(said, said._replace(parts=said.parts / 2), batch, points)
        move.update(said, said._replace(parts=said.parts.roll(7, 1)), batch, points)
    found = stay.compute()
    assert found[stay.name] == 100
    hidden = 100 * float((~torch.cat([batch.visible for batch in batches])).float().mean())
    assert float(found["part_stability_blank"]) == pytest.approx(hidden, abs=3)  # they point at the first pixel
    assert move.compute()[move.name] < 50
    assert found[f"{stay.name}/redrawn"] < 100


def shared_maps(batch):
    """A map for each landmark whose centre of mass is the landmark: the four nearest pixels share it."""
    pixel = torch.arange(batch.image.shape[3])  # of a square
    hats = (1 - (batch.landmarks[..., None] - 0.5 - pixel).abs()).clamp(min=0)
    return torch.einsum("blv,blu->bluv", hats[:, :, 0], hats[:, :, 1]) * batch.visible[..., None, None]


def test_the_true_landmarks_have_no_error_but_that_of_the_pixels_that_say_them(fake_root):
    """Where hidden ones are said to be costs nothing: each landmark's own centre is enough, and is right."""
    data = ToyBirds(root=str(fake_root("toybirds")), num_classes=2, num_images=240, image_size=48, eval_batch_size=60)
    data.prepare_data()
    data.setup("test")

    def sayable(batch):  # no centre of mass lies within half a pixel of the image's edge
        return batch._replace(visible=batch.visible & ((batch.landmarks - 24).abs() <= 23.5).all(-1))

    fit, test = (list(map(sayable, loader)) for loader in (data.fit_dataloader(), data.test_dataloader()))
    found = []
    for say in (shared_maps, pixel_maps):
        metric = LandmarkError(15, 15)
        for batch in fit:
            metric.fit_update(Output(torch.zeros(1, 1), parts=say(batch)), batch)
        metric.fit()
        for batch in test:
            metric.update(metric.columns(Output(torch.zeros(1, 1), parts=say(batch)), batch), batch)
        found.append({name: float(value) for name, value in metric.compute().items() if value.ndim == 0})
    exact, rounded = (one["landmark_error"] for one in found)
    rounding = []
    for batch in test:
        sides = batch.boxes[:, :1, 2:] - batch.boxes[:, :1, :2]
        rounding.append(((batch.landmarks.floor() + 0.5 - batch.landmarks) / sides).norm(dim=-1)[batch.visible])
    cost = 100 * float(torch.cat(rounding).mean())
    assert sum(int((~batch.visible).sum()) for batch in test) > 100
    assert exact < 0.01
    assert cost / 2 < rounded < 2 * cost  # regressors from 30 noisy numbers
    assert cost < found[1]["landmark_error/mean_landmark"] / 5


def test_floors_score_what_they_should(birds):
    data, batches = birds
    found = look(batches, data, told)
    assert abs(found["ari_landmarks/random_parts"]) < 8  # 18 images: chance is 0
    assert abs(found["ari_foreground/random_parts"]) < 8
    area = 100 * float(torch.cat([batch.mask > 0 for batch in batches]).float().mean())
    assert found["energy_pointing_mask/area"] == pytest.approx(area, abs=1e-6)
    assert found["mask_iou/area"] == pytest.approx(area, abs=1e-6)
    assert found["energy_pointing_mask/random_map"] == pytest.approx(area, abs=1.5)
    assert found["energy_pointing_mask/centre_map"] > area + 2  # birds are near the centre
    assert found["part_iou/random_parts"] < 15
    assert found["part_pointing/random_parts"] < 30
    assert found["part_consistency_agnostic/random_parts"] == 0


def constant(batch):
    output = told(batch)
    return output._replace(parts=torch.ones(len(batch.image), 4, 3, 3), saliency=torch.ones(len(batch.image), 3, 3))


def test_maps_that_say_nothing_agree_with_nothing(birds):
    data, batches = birds
    found = look(batches, data, constant)
    for name in ("nmi_landmarks", "ari_landmarks", "nmi_pixels", "ari_pixels", "nmi_foreground", "ari_foreground"):
        assert found[name] == pytest.approx(0, abs=1e-9)
    assert found["mask_iou"] == found["mask_iou/area"]
    assert found["energy_pointing"] == found["energy_pointing/area"]
    assert found["part_pointing"] == 0  # the first pixel is background


def soft(batch):
    random = torch.Generator().manual_seed(int(batch.image_id[0]))
    return Output(torch.zeros(len(batch.image), 3), None, torch.rand(len(batch.image), 4, 6, 6, generator=random))


def test_iou_pointing_and_pixel_agreement_are_those_of_plain_loops(birds):
    _, batches = birds
    metric = MaskedParts(4, TRUE)
    own, true = [], []
    pointed, shown = np.zeros((4, TRUE)), np.zeros(TRUE)
    for batch in batches:
        output = soft(batch)
        metric.update(metric.columns(output, batch, stand_ins(batch, 4)), batch)
        large = interpolate(output.parts.double(), (48, 48), mode="bilinear", align_corners=False).numpy()
        for image, mask in enumerate(batch.mask.numpy()):
            own.append(large[image].argmax(0).ravel())
            true.append(mask.ravel())
            present = [part for part in range(1, TRUE + 1) if (mask == part).any()]
            for part in present:
                shown[part - 1] += 1
            for part in range(4):
                below = mask[np.unravel_index(large[image, part].argmax(), (48, 48))]
                if below:
                    pointed[part, below - 1] += 1
    own, true = np.concatenate(own), np.concatenate(true)
    iou = np.array(
        [
            [
                ((own == p) & (true == t)).sum() / ((own == p) | (true == t)).sum()
                for t in range(1, TRUE + 1)
                if shown[t - 1]
            ]
            for p in range(4)
        ]
    )
    found = {name: float(value) for name, value in metric.compute().items()}
    rates = (pointed / np.maximum(shown, 1))[:, shown > 0]
    for name, table in (("part_iou", iou), ("part_pointing", rates)):
        best = table[linear_sum_assignment(-table)].sum() / table.shape[1]
        assert found[name] == pytest.approx(100 * best)
    bird = true > 0
    assert found["ari_pixels"] == pytest.approx(100 * adjusted_rand_score(true, own))
    assert found["nmi_pixels"] == pytest.approx(100 * normalized_mutual_info_score(true, own))
    assert found["ari_foreground"] == pytest.approx(100 * adjusted_rand_score(true[bird], own[bird]))
    assert found["nmi_foreground"] == pytest.approx(100 * normalized_mutual_info_score(true[bird], own[bird]))


def test_pixels_of_no_part_and_of_no_true_part_count_in_unions():
    # rows: two parts, then no part; columns: no true part, then two
    table = torch.tensor([[5, 3, 0], [1, 0, 4], [10, 1, 2]])
    # part 0 with true part 0: 3 of 8 + 4 - 3; part 1 with true part 1: 4 of 5 + 6 - 4
    assert part_iou(table) == pytest.approx((3 / 9 + 4 / 7) / 2)


def test_the_iou_of_a_saliency_is_by_hand():
    saliency = torch.tensor([[[1.0, 0.5, 0.49, 0]], [[0, 0, 0, 0]]])
    region = torch.tensor([[[False, True, True, False]], [[True, True, True, True]]])
    assert saliency_iou(saliency, region).tolist() == pytest.approx([1 / 3, 0])


def test_flipped_maps_and_masks_score_the_same(birds):
    _, batches = birds
    for metric, say in ((MaskedParts(TRUE, TRUE), told), (MaskIoU(()), told)):
        other: BenchMetric = metric.clone()
        for batch in batches:
            output = say(batch)
            output = output._replace(parts=output.parts.roll(5, 3), saliency=output.saliency.roll(5, 2))
            mirrored = output._replace(parts=output.parts.flip(3), saliency=output.saliency.flip(2))
            there = batch._replace(mask=batch.mask.flip(2))
            metric.update(metric.columns(output, batch, stand_ins(batch, TRUE)), batch)
            other.update(other.columns(mirrored, there, stand_ins(batch, TRUE)), there)
        before, after = metric.compute(), other.compute()
        for name in ("nmi_pixels", "ari_foreground", "part_iou", "mask_iou"):
            if name in before:
                assert float(before[name]) == pytest.approx(float(after[name]), abs=1e-9)
                assert 0 < float(before[name]) < 100


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 9999), st.sampled_from(["flip", "double", "crop"]))
def test_flips_scales_and_crops_of_maps_and_masks_together_change_nothing(make_batch, seed, change):
    random = torch.Generator().manual_seed(seed)
    parts, mask = torch.rand(3, 4, 10, 14, generator=random), torch.zeros(3, 10, 14, dtype=torch.uint8)
    mask[:, 3:, 3:] = torch.randint(0, 4, (3, 7, 11), generator=random, dtype=torch.uint8)
    parts[:, :, :3], parts[:, :, :, :3] = 0, 0  # a margin that shows and says nothing, to be cropped
    moves = {
        "flip": lambda maps: maps.flip(-1),
        "double": lambda maps: maps.repeat_interleave(2, -2).repeat_interleave(2, -1),
        "crop": lambda maps: maps[..., 3:, 3:],
    }
    found = []
    for move in (lambda maps: maps, moves[change]):
        maps, shown = move(parts), move(mask)
        batch = make_batch(3, height=maps.shape[2], width=maps.shape[3])._replace(mask=shown)
        output = Output(torch.zeros(3, 3), maps[:, 0], maps)
        numbers = {}
        for metric in (MaskedParts(4, 3), MaskIoU(())):
            metric.update(metric.columns(output, batch, {"random_parts": floors.random_parts(batch, 4)}), batch)
            numbers |= {name: float(value) for name, value in metric.compute().items()}
        found.append(numbers)
    before, after = found
    same = ["nmi_foreground", "ari_foreground", "part_iou", "part_pointing", "mask_iou"]
    same += ["nmi_pixels", "ari_pixels"] if change != "crop" else []  # pixels of the margin count there
    for name in same:
        if name.startswith("ari") and change == "double":
            continue  # chance is adjusted for by the number of places
        assert after[name] == pytest.approx(before[name], abs=1e-9), name
    assert 0 < before["part_iou"] < 100


def test_masks_go_through_views_as_their_images_do(fake_root):
    """Resize, crop and flip: each input pixel shows what its centre shows in the original."""
    from fgbench.data.view import View

    view = View(resize="squash", size=60, crop="centre", crop_size=40, flip=1.0)
    data = ToyBirds(
        root=str(fake_root("toybirds")), num_classes=3, num_images=36, image_size=48, eval_batch_size=12, test_view=view
    )
    data.prepare_data()
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch.mask.shape == (12, 40, 40)
    assert batch.mask.dtype == torch.uint8
    for image in range(12):
        mask = data.part_mask(int(data.rows_of(batch.image_id[image : image + 1].numpy())[0]))
        for row, col in ((0, 0), (20, 13), (39, 7), (11, 39)):
            x, y = (60 - (col + 10.5)) * 48 / 60, (row + 10.5) * 48 / 60  # undo flip, crop and resize
            assert batch.mask[image, row, col] == mask[int(y), int(x)]


def test_batches_of_fitting_have_no_masks(birds):
    data, _ = birds
    batch = next(iter(data.fit_dataloader()))
    assert batch.mask.numel() == 0
    with pytest.raises(ValueError, match="no masks"):
        MaskIoU(()).columns(Output(torch.zeros(1, 1), torch.zeros(1, 2, 2)), batch)
