"""Trilinear attention against loops and permutations; random choice against its distribution."""

import math

import pytest
import torch
from scipy import stats

from fgbench.layers.trilinear import choose, distinct, group_channels, overlap, trilinear

FORMS = ["x", "xxx", "n(x)xx", "n(x)n(x)x", "n(xxx)", "n(xx)x", "n(n(x)x)x", "self"]


def softmax(rows):
    found = []
    for row in rows:
        top = max(row)
        powers = [math.exp(value - top) for value in row]
        found.append([power / sum(powers) for power in powers])
    return found


def product(a, b):
    return [[sum(a[i][k] * b[k][j] for k in range(len(b))) for j in range(len(b[0]))] for i in range(len(a))]


def loops(x, form, gain):
    """Every row of Table 2 in float64 lists."""
    t = [list(column) for column in zip(*x, strict=True)]
    n = softmax([[gain * value for value in row] for row in x])
    if form == "x":
        return x
    if form == "self":
        return softmax([[value / len(x) ** 0.5 for value in row] for row in product(t, x)])
    left = n if form in ("n(x)xx", "n(x)n(x)x", "n(n(x)x)x") else x
    right = [list(column) for column in zip(*n, strict=True)] if form == "n(x)n(x)x" else t
    relation = product(left, right)
    relation = softmax(relation) if form in ("n(xx)x", "n(n(x)x)x") else relation
    found = product(relation, x)
    return softmax(found) if form == "n(xxx)" else found


@pytest.mark.parametrize("gain", [1.0, 7.0])
@pytest.mark.parametrize("form", FORMS)
def test_maps_are_those_of_the_loops(form, gain):
    x = torch.rand(2, 5, 3, 4)
    found = trilinear(x, form, gain).all()
    for i in range(2):
        expected = loops(x[i].flatten(1).tolist(), form, gain)
        torch.testing.assert_close(found[i].flatten(1).double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_averages_sums_and_choices_are_those_of_all_maps(form):
    maps = trilinear(torch.rand(2, 5, 3, 4), form, 2.0)
    every = maps.all()
    torch.testing.assert_close(maps.sums(), every.sum((2, 3)))
    m = every.shape[1]
    mix = torch.rand(3, m)
    torch.testing.assert_close(maps.mixed(mix), torch.einsum("pm,bmuv->bpuv", mix, every))
    each = torch.rand(2, 1, m)
    torch.testing.assert_close(maps.mixed(each), torch.einsum("bpm,bmuv->bpuv", each, every))
    picked = maps.picked(torch.tensor([[0, m - 1], [1, 1]]))
    torch.testing.assert_close(picked, torch.stack([every[0, [0, m - 1]], every[1, [1, 1]]]))


def test_relations_sum_to_one_so_maps_lie_between_the_least_and_the_largest_feature():
    x = torch.rand(3, 16, 6, 6)
    maps = trilinear(x, gain=7.0)
    torch.testing.assert_close(maps.weights.sum(2), torch.ones(3, 16))
    every = maps.all()
    assert bool((every.amax((1, 2, 3)) <= x.amax((1, 2, 3)) + 1e-6).all())
    assert bool((every.amin((1, 2, 3)) >= x.amin((1, 2, 3)) - 1e-6).all())
    torch.testing.assert_close(trilinear(torch.full((1, 4, 3, 3), 0.7)).all(), torch.full((1, 4, 3, 3), 0.7))


def test_permutations_of_channels_and_cells_permute_the_maps():
    x = torch.rand(1, 8, 4, 5)
    every = trilinear(x, gain=3.0).all()
    channels, cells = torch.randperm(8), torch.randperm(20)
    torch.testing.assert_close(trilinear(x[:, channels], gain=3.0).all(), every[:, channels])
    moved = x.flatten(2)[..., cells].view(1, 8, 4, 5)
    torch.testing.assert_close(trilinear(moved, gain=3.0).all().flatten(2), every.flatten(2)[..., cells])


def test_channels_far_apart_keep_their_own_maps():
    x = 30 * torch.eye(6).view(1, 6, 2, 3)
    torch.testing.assert_close(trilinear(x, gain=7.0).all(), x, rtol=0, atol=1e-3)


def test_attention_has_no_gradient_and_is_float32_under_autocast():
    x = torch.rand(1, 4, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        maps = trilinear(x.bfloat16())
    assert not maps.all().requires_grad
    assert maps.weights.dtype == torch.float32


def test_equal_marks_count_once():
    sums = torch.tensor([[3.0, 1.0, 3.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    assert distinct(sums).sum(1).tolist() == [3, 1, 5]
    assert distinct(sums)[0].tolist() == [True, True, False, True, False]


@pytest.mark.parametrize("form", FORMS)
def test_maps_that_differ_are_told_apart_even_where_each_sums_to_one(form):
    maps = trilinear(torch.rand(2, 6, 4, 5), form, 2.0)
    if form in ("n(xxx)", "self"):
        torch.testing.assert_close(maps.sums(), torch.ones_like(maps.sums()))
    assert bool(distinct(maps.marks()).all())


@pytest.mark.parametrize("form", FORMS[:-1])
def test_dead_channels_are_one_map(form):
    x = torch.rand(1, 8, 5, 5)
    x[:, [2, 5, 6]] = 0
    kept = distinct(trilinear(x, form, 7.0).marks())[0]
    assert int(kept.sum()) == 6
    assert int(kept[[2, 5, 6]].sum()) == 1


def test_choices_are_uniform_over_distinct_maps():
    images, m = 20000, 8
    sums = torch.arange(m).float().repeat(images, 1)
    sums[:, 5:] = 4.0  # maps 4 to 7 are one
    chosen = choose(sums, torch.rand(images, m), counted=distinct(sums))[:, 0]
    counts = torch.bincount(chosen, minlength=m)
    assert counts[5:].tolist() == [0, 0, 0]
    assert stats.chisquare(counts[:5].numpy()).pvalue > 1e-3
    every = torch.bincount(choose(sums, torch.rand(images, m))[:, 0], minlength=m)
    assert stats.chisquare(every.numpy()).pvalue > 1e-3


def test_ranked_choices_are_proportional_to_rank():
    images, m = 20000, 6
    sums = torch.tensor([3.0, 1.0, 6.0, 2.0, 5.0, 4.0]).repeat(images, 1)
    counts = torch.bincount(choose(sums, torch.rand(images, m), ranked=True)[:, 0], minlength=m)
    expected = torch.tensor([3.0, 1.0, 6.0, 2.0, 5.0, 4.0]).double() / 21 * images
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_two_choices_of_an_image_differ_and_images_differ():
    sums = torch.arange(12).float().repeat(500, 1)
    noise = torch.rand(500, 12)
    chosen = choose(sums, noise, 2)
    assert bool((chosen[:, 0] != chosen[:, 1]).all())
    assert len(chosen[:, 0].unique()) == 12
    assert torch.equal(chosen, choose(sums, noise, 2))
    same = torch.zeros(50, 12)
    few = choose(same, torch.rand(50, 12), 2, distinct(same))  # only one map differs: the second is any
    assert bool((few[:, 0] != few[:, 1]).all())


def test_overlap_is_the_cosine_of_what_differs_from_the_average():
    maps = trilinear(torch.rand(2, 4, 3, 3), "x")
    found, every = overlap(maps), maps.all().flatten(2).double()
    for i in range(4):
        for j in range(4):
            cosines = []
            for b in range(2):
                first, second = (every[b, k] - every[b].mean(0) for k in (i, j))
                cosines.append(float(first @ second / (first.norm() * second.norm())))
            assert float(found[i, j]) == pytest.approx(sum(cosines) / 2, abs=1e-5)


def test_channels_that_look_at_the_same_place_are_one_part():
    places = torch.tensor([0, 3, 1, 0, 2, 3, 1, 2, 0, 3])
    x = torch.zeros(4, 10, 2, 2)
    x.flatten(2)[:, torch.arange(10), places] = 1 + torch.rand(4, 10)
    groups = group_channels(overlap(trilinear(x, "x")), 4)
    torch.testing.assert_close(groups.sum(1), torch.ones(4))
    for row in groups:
        members = torch.nonzero(row).flatten()
        assert len(places[members].unique()) == 1
        assert len(members) == int((places == places[members[0]]).sum())
    assert torch.equal(groups, group_channels(overlap(trilinear(x, "x")), 4))


def test_every_part_has_a_channel_even_where_all_are_alike():
    groups = group_channels(torch.ones(5, 5), 3)
    assert bool((groups.sum(1) > 0.999).all())
