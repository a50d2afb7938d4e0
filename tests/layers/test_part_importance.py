"""d(p, c) enumerated by hand, and groups of directions against scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from fgbench.layers.part_importance import discriminative_power, popularity, spherical_kmeans

# two classes, three images: class 0 has images (1, 4, 0) and (3, 2, 0), class 1 has (2, 6, 1); as sums over images
CONTRIBUTION = torch.tensor([[4.0, 6, 0], [2, 6, 1]])


def test_popularity_counts_the_classes_that_have_a_part_among_their_most_activated():
    assert popularity(CONTRIBUTION, 1).tolist() == [0, 2, 0]
    assert popularity(CONTRIBUTION, 2).tolist() == [2, 2, 0]
    assert popularity(torch.tensor([[1.0, 5, 0], [1, 0, 2]]), 1).tolist() == [0, 1, 1]


def test_the_three_weightings_by_hand():
    found = discriminative_power(CONTRIBUTION, 2, "log1p")
    expected = [[4 / math.log(3), 6 / math.log(3), 0], [2 / math.log(3), 6 / math.log(3), 1 / math.log(2)]]
    assert found.flatten().tolist() == pytest.approx([x for row in expected for x in row])
    found = discriminative_power(CONTRIBUTION, 2, "classic")  # log(2 / f): 0 for parts of both
    assert found.flatten().tolist() == pytest.approx([0, 0, 0, 0, 0, math.log(2)])
    found = discriminative_power(CONTRIBUTION, 2, "printed")
    assert found[:, :2].flatten().tolist() == pytest.approx([x / math.log(2) for x in (4, 6, 2, 6)])
    assert (found[:, 2] < found[:, :2].min()).all()  # nobody's


def test_a_part_of_one_class_comes_before_all_others_with_the_printed_weighting():
    contribution = torch.tensor([[9.0, 1, 2, 0], [9, 2, 0, 3], [9, 8, 0, 0]])
    assert popularity(contribution, 2).tolist() == [3, 1, 1, 1]
    found = discriminative_power(contribution, 2, "printed")
    assert found.isfinite().all()
    assert found[0].argsort(descending=True).tolist() == [2, 1, 3, 0]
    assert found[1].argsort(descending=True).tolist()[0] == 3


@pytest.mark.parametrize("weighting", ["log1p", "printed", "classic"])
def test_every_popularity_gives_a_number(weighting):
    assert discriminative_power(torch.randn(6, 30), 3, weighting).isfinite().all()


def test_where_every_part_is_shared_the_printed_formula_is_what_is_ranked():
    contribution = torch.rand(5, 4)
    frequency = popularity(contribution, 4)
    assert frequency.tolist() == [5] * 4
    torch.testing.assert_close(discriminative_power(contribution, 4, "printed"), contribution / math.log(5))


def test_groups_of_directions_are_found():
    truth = torch.arange(60) % 4
    vectors = (torch.eye(4)[truth] + 0.15 * torch.randn(60, 4)) * torch.rand(60, 1).add(0.1)
    centres = spherical_kmeans(vectors, 4, start=vectors[:4])
    found = (torch.nn.functional.normalize(vectors, dim=1) @ centres.T).argmax(1)
    assert adjusted_rand_score(truth, found) == 1
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(4))
    assert spherical_kmeans(vectors[:2], 5).isfinite().all()
