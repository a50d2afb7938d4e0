import numpy as np
import pytest
import torch

from fgbench.layers.prototypes import (
    Nearest,
    group_prototypes,
    log_similarity,
    nearest_cells,
    squared_distances,
    within,
)

CLASSES, PER_CLASS, D = 3, 2, 5


def test_distances_are_those_of_every_pair():
    cells, prototypes = torch.rand(2, D, 3, 4), torch.rand(7, D)
    found = squared_distances(cells, prototypes)
    for b in range(2):
        for p in range(7):
            for r in range(3):
                for c in range(4):
                    pair = cells[b, :, r, c].double() - prototypes[p].double()
                    assert float(found[b, p, r, c]) == pytest.approx(float((pair * pair).sum()), abs=1e-5)


def test_distances_are_never_negative_where_rounding_would_make_them_so():
    cells = 100 + torch.rand(1, 64, 8, 8) * 1e-3
    assert (squared_distances(cells, cells[0, :, 0, 0][None]) >= 0).all()
    raw = (cells**2).sum(1) - 2 * (cells * cells[:, :, :1, :1]).sum(1) + (cells[:, :, :1, :1] ** 2).sum(1)
    assert (raw < 0).any()  # it does happen


def test_distances_to_prototypes_of_each_image_are_the_same_as_to_all():
    cells, prototypes, index = torch.rand(4, D, 3, 3), torch.rand(6, D), torch.randint(6, (4, 2))
    expected = squared_distances(cells, prototypes)[torch.arange(4)[:, None], index].flatten(2)
    torch.testing.assert_close(within(cells.flatten(2), prototypes[index]), expected)


def test_similarity_falls_with_distance_from_its_bound():
    found = log_similarity(torch.tensor([0.0, 1.0, 1e6]))
    assert found.tolist() == pytest.approx([np.log(1e4), np.log(2 / 1.0001), 0], abs=1e-5)


def by_hand(cells, target, image_id, prototypes):
    """A plain loop in float64: distance, image and place of the nearest cell of each prototype's own class."""
    found = []
    for p in range(len(prototypes)):
        best = (np.inf, None, None)
        for i in np.argsort(image_id.numpy()):
            if int(target[i]) != p // PER_CLASS:
                continue
            rows = cells[i].flatten(1).T.double().numpy()
            distance = ((rows - prototypes[p].double().numpy()) ** 2).sum(1)
            if distance.min() < best[0]:
                best = (distance.min(), int(image_id[i]), int(distance.argmin()))
        found.append(best)
    return found


def start(prototypes):
    return Nearest.start({"latent": prototypes, "cell": torch.full((len(prototypes),), -1)})


def show(nearest, cells, target, image_id, prototypes):
    own, distance, cell = nearest_cells(cells, target, prototypes, PER_CLASS)
    latent = cells.flatten(2).transpose(1, 2)[torch.arange(len(cells))[:, None], cell]
    nearest.update(own, distance, image_id, {"latent": latent, "cell": cell})


def made(n=20):
    return torch.rand(n, D, 3, 4), torch.randint(CLASSES, (n,)), torch.randperm(100)[:n], torch.rand(6, D)


@pytest.mark.parametrize("size", [1, 7, 20])
def test_the_nearest_own_cell_is_that_of_a_loop_over_prototypes_whatever_the_batches(size):
    cells, target, image_id, prototypes = made()
    nearest = start(prototypes)
    for first in range(0, 20, size):
        part = slice(first, first + size)
        show(nearest, cells[part], target[part], image_id[part], prototypes)
    for p, (distance, image, cell) in enumerate(by_hand(cells, target, image_id, prototypes)):
        assert (int(nearest.image_id[p]), int(nearest.values["cell"][p])) == (image, cell)
        assert float(nearest.distance[p]) == pytest.approx(distance, abs=1e-5)
        row = (image_id == image).nonzero().item()
        assert torch.equal(nearest.values["latent"][p], cells[row].flatten(1)[:, cell])


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_of_equal_distances_the_smaller_image_id_and_the_earlier_cell_count(order):
    cells, prototypes = torch.ones(1, D, 2, 2).repeat(3, 1, 1, 1), torch.zeros(6, D)
    ids = torch.tensor([9, 4, 6])
    nearest = start(prototypes)
    for i in order:
        show(nearest, cells[i : i + 1], torch.tensor([1]), ids[i : i + 1], prototypes)
    assert nearest.image_id[2:4].tolist() == [4, 4]
    assert nearest.values["cell"][2:4].tolist() == [0, 0]


def test_a_prototype_whose_class_is_not_shown_stays_what_it_is():
    cells, _, image_id, prototypes = made()
    nearest = start(prototypes)
    show(nearest, cells, torch.ones(20, dtype=torch.long), image_id, prototypes)
    assert nearest.distance.isinf().tolist() == [True, True, False, False, True, True]
    assert torch.equal(nearest.values["latent"][[0, 1, 4, 5]], prototypes[[0, 1, 4, 5]])


def test_prototypes_in_clear_heaps_are_grouped_by_heap():
    heaps = torch.tensor([[0.0, 0], [9, 0], [0, 9]])
    points = (heaps[:, None] + torch.rand(3, 10, 2)).flatten(0, 1)
    group = group_prototypes(points, 3)
    assert [len(set(heap)) for heap in group.view(3, 10).tolist()] == [1, 1, 1]
    assert len(set(group.tolist())) == 3
    assert torch.equal(group, group_prototypes(points, 3))


def test_more_groups_than_prototypes_leave_some_empty():
    assert group_prototypes(torch.eye(3), 5).unique().numel() == 3
