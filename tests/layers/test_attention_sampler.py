"""Sampling by attention: against the operator step by step, numpy's and scipy's inverses, closed forms, symmetries."""

import importlib.util
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import interpolate

from fgbench.layers import attention_sampler as sampler
from fgbench.layers.attention_sampler import (
    axis_curves,
    grid_of,
    inverse_transform,
    magnification,
    panels,
    read,
    sample,
    sampling_positions,
    uniform_positions,
    write_back,
)

ROOT = Path(__file__).resolve().parents[2]


def load(path):
    """A file as a module of another name: without the shape checks of the package's."""
    spec = importlib.util.spec_from_file_location(f"another_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def literal():
    """The authors' algorithm as loops."""
    return load(ROOT / "benchmarks" / "tasn.py")


def gaussian(size, centre, sigma):
    y, x = torch.meshgrid(*[torch.arange(size).double()] * 2, indexing="ij")
    return torch.exp(-0.5 * (((y - centre[0]) / sigma[0]) ** 2 + ((x - centre[1]) / sigma[1]) ** 2))


def ramp(height, width):
    """Channels: x and y of each pixel, as indices, and one."""
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)])[None]


@pytest.mark.parametrize("out", [224, 336, 512])
def test_constant_attention_is_interpolate(out):
    image = torch.rand(2, 3, 512, 512)
    expected = interpolate(image, (out, out), mode="bilinear", align_corners=False)
    torch.testing.assert_close(sample(image, torch.full((2, 28, 28), 0.3), (out, out)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("out", [224, 336])
def test_constant_attention_under_official_is_biased_to_the_top_left_as_theirs(out):
    rows, columns = sampling_positions(torch.ones(1, 28, 28), (512, 512), (out, out), "official")
    expected = torch.arange(out).double() * 511 / out
    torch.testing.assert_close(rows[0], expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(columns[0], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("cells", "size", "out", "power"), [(28, 512, 224, 1.0), (28, 256, 112, 2.0), (7, 96, 64, 2.0)]
)
def test_official_positions_are_those_of_the_operator(literal, cells, size, out, power):
    attention = torch.rand(2, cells, cells) ** 5
    attention[1] = attention[1] * 1e-3  # scale does not matter
    rows, columns = sampling_positions(attention, (size, size), (out, out), "official", power)
    large = interpolate(attention[:, None].double(), (size, size), mode="bilinear", align_corners=True)[:, 0] ** power
    for i in range(2):
        expected = literal.literal_positions(large[i].numpy(), out)
        np.testing.assert_allclose(rows[i], expected[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(columns[i], expected[1], rtol=0, atol=1e-6)


def test_official_pixels_are_those_of_the_operator(literal):
    attention, image = torch.rand(2, 14, 14) ** 4, torch.rand(2, 3, 128, 128)
    large = interpolate(attention[:, None].double(), (128, 128), mode="bilinear", align_corners=True)[:, 0]
    found = sample(image, attention, (56, 56), "official")
    for i in range(2):
        expected = literal.literal_sample(image[i].numpy(), large[i].numpy(), 56)
        np.testing.assert_allclose(found[i], expected, rtol=0, atol=1e-4)
        port = literal.literal_sample_torch(image[i], large[i], 56)
        np.testing.assert_allclose(found[i], port, rtol=0, atol=1e-4)


@pytest.mark.parametrize("convention", ["centred", "official"])
@pytest.mark.parametrize(
    ("cells", "size"), [((28, 28), (224, 192)), ((5, 9), (33, 64)), ((1, 1), (8, 8)), ((9, 7), (4, 5))]
)
def test_curves_are_the_maxima_of_the_whole_interpolated_map(cells, size, convention):
    attention = torch.rand(3, *cells)
    corners = convention == "official"
    whole = interpolate(attention[:, None].double(), size, mode="bilinear", align_corners=corners)[:, 0]
    rows, columns = axis_curves(attention, size, convention)
    torch.testing.assert_close(rows, whole.amax(2))
    torch.testing.assert_close(columns, whole.amax(1))


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_bounding_is_the_loop_over_rounds(rounds):
    r, c = np.random.default_rng(0).random((2, 60)) ** 6
    found = magnification(torch.tensor(r)[None], torch.tensor(c)[None], 4.0, rounds)
    out, size = 26, 60
    r, c = r / r.sum() * out, c / c.sum() * out
    for j in range(rounds):
        t = min(r.max(), c.max(), 4.0 * out / size) if j == 0 else min(r.max(), c.max())
        for axis in (r, c):
            axis[axis > t] = t
            axis += (out - axis.sum()) / size
    for curve, expected in zip(found, (r, c), strict=True):
        np.testing.assert_allclose(curve[0].numpy() * out / size, expected, rtol=1e-12)
        assert float(curve.sum() * out / size) == pytest.approx(out)
        assert float(curve.min()) >= 0


def test_bounding_a_point_gives_five_times_in_it_and_nearly_one_elsewhere():
    r = torch.zeros(1, 512, dtype=torch.float64)
    r[0, 100] = 1
    rows, columns = magnification(r, r.roll(50))
    assert float(rows[0, 100]) == pytest.approx(4.992, abs=1e-3)
    assert float(rows[0, 0]) == pytest.approx(0.992, abs=1e-3)
    assert float(columns.max()) == pytest.approx(float(rows.max()))


def test_axes_end_with_equal_peaks():
    attention = gaussian(512, (256, 256), (40, 80))[None].float()
    rows, columns = magnification(*axis_curves(attention, (512, 512)))
    assert float(rows.max()) == pytest.approx(float(columns.max()), rel=1e-3)
    assert float(rows.max()) == pytest.approx(2.557, abs=2e-3)
    assert sorted([float(rows.min()), float(columns.min())]) == pytest.approx([0.015, 0.360], abs=2e-3)


@pytest.mark.parametrize("convention", ["centred", "official"])
def test_positions_are_numpys_inverse_of_the_integral(convention):
    density = np.random.default_rng(1).random((3, 200)) + 0.01
    found = inverse_transform(torch.tensor(density), 90, convention)
    for row, positions in zip(density, found.numpy(), strict=True):
        if convention == "centred":
            integral = np.concatenate([[0], np.cumsum(row)])
            expected = np.interp((np.arange(90) + 0.5) / 90 * integral[-1], integral, np.arange(201)) - 0.5
        else:
            integral = np.concatenate([[0], np.cumsum(row[1:])])
            expected = np.interp(np.arange(90) / 90 * integral[-1], integral, np.arange(200))
        np.testing.assert_allclose(positions, expected, atol=1e-9)


def test_a_gaussian_is_sampled_at_its_quantiles():
    sigma, out = 60.0, 224
    attention = gaussian(512, (255.5, 255.5), (sigma, sigma))[None]
    rows, columns = sampling_positions(attention.float(), (512, 512), (out, out), dense=1e9)
    normal = stats.truncnorm(-256 / sigma, 256 / sigma, loc=255.5, scale=sigma)
    expected = normal.ppf((np.arange(out) + 0.5) / out)
    np.testing.assert_allclose(rows[0], expected, atol=0.1)
    np.testing.assert_allclose(columns[0], expected, atol=0.1)


@pytest.mark.parametrize("convention", ["centred", "official"])
def test_points_per_pixel_are_the_density(convention):
    attention = torch.rand(1, 28, 28) ** 3
    out = 224
    rows, columns = sampling_positions(attention, (512, 512), (out, out), convention)
    densities = magnification(*axis_curves(attention, (512, 512), convention))
    for positions, density in zip((rows[0], columns[0]), densities, strict=True):
        assert bool((positions.diff() > 0).all())
        assert -0.5 <= float(positions[0]) <= float(positions[-1]) <= 511.5
        edges = np.arange(0, 513, 32)
        counts, _ = np.histogram(positions.numpy() + 0.5, edges)
        expected = [float(density[0, a:b].sum()) * out / 512 for a, b in itertools.pairwise(edges)]
        slack = 1.01 if convention == "centred" else 2.5  # theirs drops a pixel and shifts by half of one
        assert np.abs(counts - np.array(expected)).max() <= slack


@pytest.mark.parametrize("convention", ["centred", "official"])
def test_the_scale_of_attention_does_not_matter(convention):
    attention = torch.rand(2, 28, 28)
    for first, second in zip(
        sampling_positions(attention, (512, 512), (224, 224), convention),
        sampling_positions(7 * attention, (512, 512), (224, 224), convention),
        strict=True,
    ):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-3 if convention == "official" else 1e-4)


def test_flips_and_transposes_commute_with_sampling():
    image, attention = torch.rand(2, 3, 96, 96), torch.rand(2, 12, 12) ** 3
    plain = sample(image, attention, (40, 40))
    for turn in (lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.transpose(-1, -2)):
        torch.testing.assert_close(sample(turn(image), turn(attention), (40, 40)), turn(plain), rtol=0, atol=1e-4)


def test_a_peak_high_and_right_gathers_rows_high_and_columns_right():
    attention = gaussian(512, (100, 300), (20, 20))[None].float()
    for convention in ("centred", "official"):
        rows, columns = sampling_positions(attention, (512, 512), (224, 224), convention)
        for positions, place in ((rows[0], 100), (columns[0], 300)):
            near = ((positions - place).abs() < 30).sum()
            assert int(near) > 2 * 60 * 224 / 512


@pytest.mark.parametrize("convention", ["centred", "official"])
def test_a_ramp_shows_where_it_was_sampled(convention):
    attention, image = torch.rand(1, 8, 10) ** 2, ramp(64, 80)
    rows, columns = sampling_positions(attention, (64, 80), (32, 40), convention)
    found = sample(image, attention, (32, 40), convention)[0]
    inside_y, inside_x = (p[0].float().clamp(0, n - 1) for p, n in ((rows, 64), (columns, 80)))
    torch.testing.assert_close(found[0], inside_x.expand(32, 40), rtol=0, atol=1e-3)
    torch.testing.assert_close(found[1], inside_y[:, None].expand(32, 40), rtol=0, atol=1e-3)


def test_a_board_at_the_peak_appears_enlarged_as_predicted():
    attention = gaussian(256, (64, 160), (12, 12))[None].float()
    rows, columns = sampling_positions(attention, (256, 256), (112, 112))
    image = torch.zeros(1, 1, 256, 256)
    image[0, 0, 60:68, 156:164] = 1  # a square of 8 pixels around the peak
    seen = sample(image, attention, (112, 112))[0, 0]
    rate, _ = magnification(*axis_curves(attention, (256, 256)))
    expected = 8 * float(rate[0, 60:68].mean()) * 112 / 256
    assert float(seen.sum(0).max()) == pytest.approx(expected, abs=0.6)
    assert expected > 1.8 * 8 * 112 / 256
    centre = (np.interp(63.5, rows[0], np.arange(112)), np.interp(159.5, columns[0], np.arange(112)))
    y, x = torch.nonzero(seen > 0.5, as_tuple=True)
    assert (float(y.float().mean()), float(x.float().mean())) == pytest.approx(centre, abs=0.6)


@pytest.mark.parametrize("convention", ["centred", "official"])
@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["zero", "constant", "point", "huge", "tiny", "negative"])
def test_no_attention_breaks_the_grid(kind, power, convention):
    attention = torch.zeros(1, 16, 16)
    if kind == "point":
        attention[0, 3, 12] = 1
    elif kind != "zero":
        attention += {"constant": 1.0, "huge": 1e38, "tiny": 1e-38, "negative": -1.0}[kind]
    rows, columns = sampling_positions(attention, (128, 128), (64, 64), convention, power)
    for positions in (rows, columns):
        assert bool(positions.isfinite().all())
        assert bool((positions.diff() > 0).all())
    if kind != "point":
        expected = sampling_positions(torch.ones(1, 1, 1), (128, 128), (64, 64), convention)
        torch.testing.assert_close(rows, expected[0])


def test_two_maps_of_an_image_are_read_in_one_call():
    image, attention = torch.rand(3, 3, 64, 48), torch.rand(6, 8, 6) ** 3
    found = sample(image, attention, (24, 18), power=torch.tensor([1.0] * 3 + [2.0] * 3))
    assert found.shape == (6, 3, 24, 18)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert read(image, torch.zeros(3, 5, 5, 2)).is_contiguous(memory_format=torch.channels_last)
    for i in range(6):
        alone = sample(image[i % 3 : i % 3 + 1], attention[i : i + 1], (24, 18), power=1.0 + i // 3)
        torch.testing.assert_close(found[i : i + 1], alone)


def test_gradients_reach_the_image_and_not_the_attention():
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    attention = torch.rand(1, 8, 8, requires_grad=True)
    sample(image, attention, (16, 16)).sum().backward()
    assert attention.grad is None
    assert float(image.grad.sum()) == pytest.approx(3 * 16 * 16, rel=1e-4)


def test_autocast_does_not_move_the_grid():
    attention, image = torch.rand(2, 28, 28) ** 4, ramp(256, 256).expand(2, -1, -1, -1)
    plain = sample(image, attention, (112, 112))
    with torch.autocast("cpu", torch.bfloat16):
        cast = sample(image, attention, (112, 112))
    assert cast.dtype == torch.float32
    assert float((cast - plain).abs().max()) < 0.02


def test_a_compiled_sampler_is_the_sampler():
    attention = torch.rand(2, 14, 14) ** 4
    plain = load(ROOT / "fgbench" / "layers" / "attention_sampler.py").sampling_positions
    compiled = torch.compile(plain, backend="aot_eager", fullgraph=True)
    for first, second in zip(
        compiled(attention, (128, 128), (56, 56)), sampling_positions(attention, (128, 128), (56, 56)), strict=True
    ):
        torch.testing.assert_close(first, second)


def test_no_intermediate_is_as_large_as_a_map_over_the_image(monkeypatch):
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            found = func(*args, **(kwargs or {}))
            for tensor in found if isinstance(found, list | tuple) else [found]:
                largest = max(largest, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
            return found

    with Watch():
        sampling_positions(torch.rand(4, 28, 28), (512, 512), (224, 224))
    assert largest <= 4 * 512 * 2 * 28


def test_the_uniform_sampler_crops_the_box_of_what_is_over_half_the_maximum():
    attention = torch.zeros(1, 64, 64)
    attention[0, 16:32, 20:28] = 1
    rows, columns = uniform_positions(attention, (64, 64), (32, 32))
    # 16 rows and 8 columns: the crop is 16 x 16, its columns 16 to 32 around their centre
    np.testing.assert_allclose(rows[0], 16 + (np.arange(32) + 0.5) / 2 - 0.5)
    np.testing.assert_allclose(columns[0], 16 + (np.arange(32) + 0.5) / 2 - 0.5)
    everything = uniform_positions(torch.ones(1, 8, 8), (64, 64), (32, 32))[0]
    np.testing.assert_allclose(everything[0], (np.arange(32) + 0.5) * 2 - 0.5)


def test_the_uniform_crop_stays_inside():
    attention = torch.zeros(1, 64, 64)
    attention[0, :4, 60:] = 1
    attention[0, :32, 63] = 1
    rows, columns = uniform_positions(attention, (64, 64), (32, 32))
    np.testing.assert_allclose([rows.min(), rows.max()], [-0.25 + 0.0, 31.25 + 0.0], atol=0.51)
    assert float(columns.max()) < 63.5
    assert float(columns.min()) > 31


@pytest.mark.parametrize("convention", ["centred", "official"])
def test_panels_hold_points_in_pixels_of_the_image(convention):
    attention = torch.rand(1, 8, 8)
    rows, columns = sampling_positions(attention, (64, 64), (32, 32), convention)
    found = panels(
        torch.zeros(1, 3, 64, 64), attention, grid_of(rows, columns, (64, 64), convention), convention, power=1.0
    )
    torch.testing.assert_close(found["points"][:, 0, 1].double(), rows[0] + 0.5, rtol=0, atol=1e-4)
    torch.testing.assert_close(found["points"][0, :, 0].double(), columns[0] + 0.5, rtol=0, atol=1e-4)
    assert float(found["rows"].mean()) == pytest.approx(1)


@pytest.mark.parametrize("convention", ["centred", "official"])
def test_what_was_read_somewhere_is_written_back_there_to_a_tenth_of_a_pixel(convention):
    """Each sampled pixel carries its own place in the image; cells of 4 x 3 pixels get what lies at their centres."""
    size = (64, 96)
    rows = torch.linspace(0, 63, 320, dtype=torch.float64)[None]
    columns = torch.linspace(0, 95, 480, dtype=torch.float64)[None]
    places = torch.stack([(rows[0, :, None] + 0.5).expand(320, 480), (columns[0] + 0.5).expand(320, 480)]).float()[None]
    coarse = interpolate(places, (4, 8), mode="area")  # a map of the backbone; 16 x 32 cells are written
    grid = grid_of(rows, columns, size, convention)
    written = write_back(coarse, grid, torch.zeros(1, 3, *size), convention)[0]
    assert written.shape == (2, 16, 32)
    y, x = (torch.arange(16) + 0.5) * 4, (torch.arange(32) + 0.5) * 3
    inside = (slice(3, 13), slice(3, 29))  # half a cell of the coarse map from the border it is constant
    assert float((written[0] - y[:, None])[inside].abs().max()) < 0.1
    assert float((written[1] - x)[inside].abs().max()) < 0.1


def test_an_image_of_one_pixel_and_one_cell_is_itself():
    assert sample(torch.full((1, 3, 1, 1), 0.25), torch.ones(1, 1, 1), (1, 1)).flatten().tolist() == [0.25] * 3
    assert math.isfinite(float(sample(torch.ones(1, 3, 1, 1), torch.ones(1, 1, 1), (2, 2), "official").sum()))


def test_outside_is_the_border_or_zero():
    image = torch.ones(1, 1, 4, 4)
    beyond = grid_of(torch.tensor([[-3.0]]).double(), torch.tensor([[1.0]]).double(), (4, 4))
    assert float(read(image, beyond)) == 1
    official = grid_of(torch.tensor([[-3.0]]).double(), torch.tensor([[1.0]]).double(), (4, 4), "official")
    assert float(read(image, official, "official")) == 0
    assert sampler.DENSE == 4
    assert sampler.ITERATIONS == 5


@pytest.mark.parametrize("convention", ["centred", "official"])
def test_reading_grids_in_planes_or_in_pairs_is_the_same_to_the_bit(convention):
    """So are the images' gradients: the order in memory is only a matter of time."""
    grid = grid_of(*sampling_positions(torch.rand(4, 5, 6), (40, 48), (20, 24), convention), (40, 48), convention)
    pairs = torch.stack([grid[..., 0], grid[..., 1]], -1)
    assert grid.stride(3) == 20 * 24
    assert pairs.stride(3) == 1
    first, second = (torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    found, expected = read(first.requires_grad_(), grid, convention), read(second.requires_grad_(), pairs, convention)
    assert torch.equal(found, expected)
    weight = torch.rand_like(found)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert torch.equal(first.grad, second.grad)
