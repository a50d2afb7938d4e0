import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from fgbench.metrics.pointing_game import PointingGame, distance_to_boxes, most_salient, to_original
from fgbench.types import Output

LOGITS = torch.zeros(1, 1)


def peak(row, col, rows=8, cols=12):
    saliency = torch.zeros(1, rows, cols)
    saliency[0, row, col] = 1
    return saliency


def score(saliency, batch, **kwargs):
    metric = PointingGame(**kwargs)
    metric.update(metric.columns(Output(LOGITS, saliency), batch), batch)
    return metric.compute()


def boxed(make_batch, *boxes, height=32, width=48, **kwargs):
    return make_batch(1, height=height, width=width, boxes=torch.tensor([boxes], dtype=torch.float32), **kwargs)


@settings(deadline=None, max_examples=150)
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 70), st.integers(1, 70), st.integers(0, 9999), st.booleans()
)
def test_the_point_is_the_first_largest_pixel_of_the_whole_resized_map(u, v, height, width, seed, plateaus):
    random = torch.Generator().manual_seed(seed)
    saliency = torch.rand(3, u, v, generator=random)
    if plateaus:
        saliency = (saliency * 3).floor()
    whole = interpolate(saliency[:, None].double(), (height, width), mode="bilinear", align_corners=False)[:, 0]
    for image, (x, y) in enumerate(most_salient(saliency, height, width).tolist()):
        largest = whole[image].max()
        ties = (whole[image] > largest - 1e-9).flatten().nonzero()
        assert int(ties[0]) == int(y) * width + int(x)
        assert (x % 1, y % 1) == (0.5, 0.5)


def test_a_peak_in_the_second_of_two_boxes_is_a_hit(make_batch):
    batch = boxed(make_batch, (0, 0, 4, 4), (24, 16, 30, 22))
    assert score(peak(4, 6), batch)["pointing_error"] == 0  # cell (4, 6) is centred at (26, 18)
    assert score(peak(0, 0), batch)["pointing_error"] == 0
    assert score(peak(7, 0), batch)["pointing_error"] == 100


def test_a_box_that_is_not_valid_does_not_count(make_batch):
    batch = boxed(make_batch, (0, 0, 4, 4), (24, 16, 30, 22))
    assert score(peak(4, 6), batch._replace(box_valid=torch.tensor([[True, False]])))["pointing_error"] == 100


@pytest.mark.parametrize(("edge", "error"), [(25.5, 0), (25.49, 100)])
def test_the_edge_of_a_box_belongs_to_it(edge, error, make_batch):
    """Four pixels a cell: the peak between pixels 25 and 26 shows first in pixel 25, centred at 25.5."""
    point = most_salient(peak(4, 6), 32, 48)[0].tolist()
    assert point == [25.5, 17.5]
    assert score(peak(4, 6), boxed(make_batch, (10, 10, edge, 30)))["pointing_error"] == error


def test_the_tolerance_is_a_distance_in_original_pixels(make_batch):
    double = torch.tensor([[2.0, 0, 0, 0, 2, 0]], dtype=torch.float64)
    batch = boxed(make_batch, (28.5, 21.5, 40, 30), frame=double)  # 3 and 4 input pixels away: 10 original ones
    numbers = score(peak(4, 6), batch, tolerances=(0.0, 9.9, 10.0))
    assert (numbers["pointing_error"], numbers["pointing_error_9.9px"]) == (100, 100)
    assert numbers["pointing_error_10px"] == 0


def test_images_without_a_box_are_left_out_and_counted(make_batch):
    batch = make_batch(4)
    none = batch._replace(box_valid=torch.tensor([[True], [False], [True], [False]]))
    saliency = torch.cat([peak(0, 0), peak(4, 6), peak(7, 11), peak(0, 0)])
    few = type(batch)(*(field[::2] for field in batch))
    numbers = score(saliency, none)
    assert numbers["pointing_error"] == score(saliency[::2], few)["pointing_error"]
    assert (numbers["images_without_box"], numbers["images_with_box"]) == (2, 2)
    columns = PointingGame().columns(Output(LOGITS, saliency), none)
    assert columns["hit"].isnan().tolist() == [False, True, False, True]


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_any_box_there_is_no_number(make_batch):
    assert PointingGame().compute()["pointing_error"].isnan()
    empty = make_batch(2)._replace(boxes=torch.zeros(2, 0, 4), box_valid=torch.zeros(2, 0, dtype=torch.bool))
    assert score(torch.rand(2, 3, 3), empty)["pointing_error"].isnan()


def test_a_constant_map_points_at_the_first_pixel_and_a_broken_one_misses(make_batch):
    everywhere = boxed(make_batch, (0, 0, 48, 32))
    assert most_salient(torch.full((1, 5, 7), 0.3), 32, 48)[0].tolist() == [0.5, 0.5]
    assert score(torch.zeros(1, 5, 7), everywhere)["pointing_error"] == 0
    broken = peak(4, 6)
    broken[0, 0, 0] = torch.nan
    assert score(broken, everywhere)["pointing_error"] == 100
    assert score(peak(4, 6), everywhere)["pointing_error"] == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 9999), st.sampled_from([1, 2, 4]), st.booleans())
def test_a_frame_with_scale_shift_and_flip_changes_no_hit_but_the_unit_of_distances(make_batch, seed, scale, flip):
    batch = make_batch(6, seed=seed)
    torch.manual_seed(seed)
    saliency = torch.rand(6, 8, 12)
    factor = -scale if flip else scale
    frame = torch.tensor([[factor, 0, 11.0, 0, scale, -5.0]], dtype=torch.float64).expand(6, 6)
    metric = PointingGame()
    plain = metric.columns(Output(LOGITS, saliency), batch)
    moved = metric.columns(Output(LOGITS, saliency), batch._replace(frame=frame))
    assert torch.equal(plain["hit"], moved["hit"])
    torch.testing.assert_close(plain["pointing_distance"] * scale, moved["pointing_distance"])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 9999), st.sampled_from([1, 2, 3, 4]), st.integers(0, 2), st.integers(0, 2), st.booleans())
def test_a_crop_of_what_says_nothing_changes_no_hit_and_no_distance(make_batch, seed, pixels, top, left, ties):
    """Of whole cells, with at least one left that is zero (of cells of one pixel none is needed).

    Beyond the outermost cells' centres a resized map is constant, so a crop through cells that say something makes a
    peak beside its border wider, and another pixel of it the first. For the same reason a flip, or another size of the
    input, moves the first pixel of a peak (by less than a cell), and no hit near a box's edge is safe from that.
    """
    random = torch.Generator().manual_seed(seed)
    inner = torch.rand(4, 5, 7, generator=random) + 0.1
    rest = 0 if pixels == 1 else 1
    around = (2 + rest, 1 + rest, 2 + rest, rest)
    saliency = torch.nn.functional.pad((3 * inner).ceil() if ties else inner, around)
    height, width = pixels * saliency.shape[1], pixels * saliency.shape[2]
    double = torch.tensor([[2.0, 0, 3, 0, 2, 5]], dtype=torch.float64).expand(4, 6)
    batch = make_batch(4, seed=seed, height=height, width=width, frame=double)
    shift = torch.tensor([left, top]) * pixels
    frame = double.clone()
    frame[:, [2, 5]] += 2 * shift
    image = batch.image[:, :, pixels * top :, pixels * left :]
    cut = batch._replace(image=image, boxes=batch.boxes - shift.repeat(2), frame=frame)
    plain = PointingGame().columns(Output(LOGITS, saliency), batch)
    moved = PointingGame().columns(Output(LOGITS, saliency[:, top:, left:]), cut)
    torch.testing.assert_close(plain["pointing_distance"], moved["pointing_distance"], rtol=0, atol=1e-4)
    clear = (plain["pointing_distance"][:, 0] - 1e-3).abs() > 2e-4  # float32 decides on the very edge
    assert torch.equal(plain["hit"][clear], moved["hit"][clear])


def test_distances_are_those_of_plain_geometry():
    boxes = torch.tensor([[[10.0, 10, 20, 30]]])
    points = torch.tensor([[[15.0, 20], [5, 20], [25, 35], [7, 6], [20, 30]]])
    distances = distance_to_boxes(points, boxes, torch.ones(1, 1, dtype=torch.bool))[0]
    assert distances.tolist() == pytest.approx([0, 5, 50**0.5, 5, 0])


def test_a_point_maps_to_original_pixels_through_all_six_numbers():
    frame = torch.tensor([[2.0, 0.5, 3.0, -1.0, 4.0, 7.0]])
    assert to_original(torch.tensor([[[10.0, 20.0]]]), frame)[0, 0].tolist() == [33, 77]


def test_an_input_that_is_not_square_keeps_x_and_y_apart(make_batch):
    batch = boxed(make_batch, (90, 0, 110, 10), height=40, width=120)
    saliency = torch.zeros(1, 4, 12)
    saliency[0, 0, 10] = 1  # centred at (105, 5)
    assert score(saliency, batch)["pointing_error"] == 0
    assert score(saliency.mT.contiguous(), batch)["pointing_error"] == 100


def test_floors_are_points(make_batch):
    batch = boxed(make_batch, (10, 10, 20, 20))
    metric = PointingGame(floors=("inside", "outside"))
    points = {"inside": torch.tensor([[[12.0, 19.0]]]), "outside": torch.tensor([[[24.0, 16.0]]])}
    metric.update(metric.columns(Output(LOGITS, peak(0, 0)), batch, points), batch)
    numbers = metric.compute()
    assert numbers["pointing_error"] == 100
    assert numbers["pointing_error/inside"] == 0
    assert (numbers["pointing_error/outside"], numbers["pointing_error_15px/outside"]) == (100, 0)


def test_the_first_tolerance_must_be_zero():
    with pytest.raises(ValueError, match="must be 0"):
        PointingGame(tolerances=(15.0,))
