import math

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MultilabelAccuracy

from fgbench.metrics.accuracy import Accuracy, AttributeAccuracy
from fgbench.types import Output


def score(metric, logits, target, make_batch, step=7):
    for start in range(0, len(target), step):
        batch = make_batch(len(target[start : start + step]), target=target[start : start + step])
        metric.update(metric.columns(Output(logits[start : start + step]), batch), batch)
    return metric.compute()


def test_accuracy_is_hits_over_images_and_class_accuracy_the_mean_of_recalls(make_batch):
    logits = torch.tensor([[2.0, 1, 0], [2, 1, 0], [2, 1, 0], [0, 1, 0]])
    numbers = score(Accuracy(3), logits, torch.tensor([0, 0, 1, 1]), make_batch)
    assert numbers["accuracy"] == 75  # three of four
    assert numbers["class_accuracy"] == 75  # (2/2 + 1/2) / 2; class 2 has no image and does not count
    assert numbers["recall_each"][:2].tolist() == [100, 50]
    assert numbers["recall_each"][2].isnan()
    assert numbers["accuracy/largest_class"] == 50


def test_accuracies_equal_torchmetrics(make_batch):
    logits, target = torch.randn(101, 11), torch.randint(0, 9, (101,))  # classes 9 and 10 never occur
    numbers = score(Accuracy(11), logits, target, make_batch)
    micro = MulticlassAccuracy(11, average="micro")(logits, target)
    each = MulticlassAccuracy(11, average="none")(logits, target)
    assert float(numbers["accuracy"]) == pytest.approx(100 * float(micro), abs=1e-4)
    assert float(numbers["class_accuracy"]) == pytest.approx(100 * float(each[:9].mean()), abs=1e-4)


def test_an_image_with_a_logit_that_is_no_number_is_wrong(make_batch):
    logits = torch.tensor([[math.nan, 0.0], [math.inf, 0.0], [1.0, 0.0]])
    assert score(Accuracy(2), logits, torch.tensor([0, 0, 0]), make_batch)["accuracy"] == pytest.approx(100 / 3)


def test_the_first_of_equal_logits_is_the_answer(make_batch):
    assert score(Accuracy(3), torch.zeros(1, 3), torch.tensor([0]), make_batch)["accuracy"] == 100
    assert score(Accuracy(3), torch.zeros(1, 3), torch.tensor([1]), make_batch)["accuracy"] == 0


def test_the_five_largest_logits_are_sorted(make_batch):
    columns = Accuracy(9).columns(Output(torch.arange(9.0)[None]), make_batch(1))
    assert columns["top5_classes"].tolist() == [[8, 7, 6, 5, 4]]
    assert columns["top5_logits"].tolist() == [[8, 7, 6, 5, 4]]
    assert Accuracy(3).columns(Output(torch.zeros(1, 3)), make_batch(1))["top5_classes"].shape == (1, 3)


def test_a_logit_between_zero_and_half_is_a_yes(make_batch):
    numbers = score(AttributeAccuracy(2), torch.tensor([[0.3, -1.0]]), torch.tensor([[1.0, 0.0]]), make_batch)
    assert numbers["accuracy"] == 100
    assert numbers["accuracy_logit_half"] == 50  # the code of the authors says no


def test_attribute_accuracy_is_the_mean_of_torchmetrics_accuracies(make_batch):
    logits, target = torch.randn(60, 40), torch.randint(0, 2, (60, 40)).float()
    numbers = score(AttributeAccuracy(40), logits, target, make_batch)
    each = MultilabelAccuracy(40, average="none")(logits.sigmoid(), target.long())
    torch.testing.assert_close(numbers["accuracy_each"].float(), 100 * each)
    assert float(numbers["accuracy"]) == pytest.approx(100 * float(each.mean()), abs=1e-4)


def test_the_floor_of_attributes_is_the_more_frequent_answer(make_batch):
    target = torch.tensor([[1.0, 0], [1, 0], [1, 1], [0, 0]])
    assert score(AttributeAccuracy(2), torch.zeros(4, 2), target, make_batch)["accuracy/majority"] == 75


@pytest.mark.parametrize("metric", [Accuracy(3), AttributeAccuracy(3)])
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen_is_nan_and_reset_forgets(metric, make_batch):
    assert metric.compute()["accuracy"].isnan()
    target = torch.tensor([1]) if isinstance(metric, Accuracy) else torch.ones(1, 3)
    score(metric, torch.ones(1, 3), target, make_batch)
    metric.reset()
    assert metric.compute()["accuracy"].isnan()


def test_the_order_and_the_batches_do_not_show(make_batch):
    logits, target = torch.randn(50, 5), torch.randint(0, 5, (50,))
    order = torch.randperm(50)
    once = score(Accuracy(5), logits, target, make_batch, step=50)
    again = score(Accuracy(5), logits[order], target[order], make_batch, step=3)
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_groups_have_the_accuracy_of_their_images(make_batch):
    """By hand: class 0 has 2 of 3 right, class 1 has 0 of 1, class 2 has 1 of 1; classes 0 and 2 are plants."""
    answers, target = [0, 0, 1, 2, 2], torch.tensor([0, 0, 0, 1, 2])
    logits = torch.nn.functional.one_hot(torch.tensor(answers), 4).float()
    metric = Accuracy(4, ("plants", "birds", "plants", "fungi"))
    numbers = score(metric, logits, target, make_batch, step=2)
    assert metric.group_names == ("plants", "birds", "fungi")
    assert numbers["group_accuracy_each"][:2].tolist() == [75, 0]
    assert numbers["group_accuracy_each"][2].isnan()  # no image
    assert numbers["accuracy"] == 60
    assert "group_accuracy_each" not in score(Accuracy(4), logits, target, make_batch)
    with pytest.raises(ValueError, match="2 groups for 4 classes"):
        Accuracy(4, ("plants", "birds"))


def test_total_of_a_published_table_is_its_groups_weighted_by_their_images(make_batch):
    """TASN, Table 10: the super-categories' validation images weight their accuracies to the total of 95,986 images."""
    images = [38206, 18076, 21226, 5680, 3490, 1780, 2385, 1841, 1362, 1086, 637, 144, 73]
    assert sum(images) == 95_986
    metric = Accuracy(13, tuple("abcdefghijklm"))
    right = [count * (i + 3) // 20 for i, count in enumerate(images)]
    metric.seen += torch.tensor(images)
    metric.correct += torch.tensor(right)
    metric._update_count = 1
    numbers = metric.compute()
    assert numbers["group_accuracy_each"].tolist() == pytest.approx(
        [100 * r / n for r, n in zip(right, images, strict=True)]
    )
    assert float(numbers["accuracy"]) == pytest.approx(100 * sum(right) / 95_986)
