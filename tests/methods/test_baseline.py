import pytest
import torch

from fgbench.losses import LGM, ArcFace, MutualChannel
from fgbench.methods import Baseline, Optim
from fgbench.methods.baseline import class_activation_map


def test_cam_is_the_linear_layer_applied_cell_by_cell():
    features, weight, index = torch.randn(2, 5, 3, 4), torch.randn(7, 5), torch.tensor([6, 2])
    found = class_activation_map(features, weight, index)
    for b in range(2):
        for u in range(3):
            for v in range(4):
                evidence = sum(float(weight[index[b], d]) * float(features[b, d, u, v]) for d in range(5))
                torch.testing.assert_close(float(found[b, u, v]), max(0.0, evidence), rtol=1e-5, atol=1e-5)


def test_cam_before_the_cut_sums_to_the_logit_without_bias():
    method = Baseline(4, "class", Optim(), backbone="resnet_nano", weights=None).eval()
    image = torch.randn(2, 3, 64, 64)
    logits = method(image).logits
    features = method.backbone(image)
    with torch.no_grad():
        mean = [
            class_activation_map(features, sign * method.classifier.weight, logits.argmax(1)).mean((1, 2))
            for sign in (1, -1)
        ]
        expected = logits.amax(1) - method.classifier.bias[logits.argmax(1)]
    torch.testing.assert_close(mean[0] - mean[1], expected)


def test_attributes_show_the_one_with_the_largest_logit():
    method = Baseline(3, "attributes", Optim(), backbone="resnet_nano", weights=None).eval()
    with torch.no_grad():
        method.classifier.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(method(image).saliency, method.explain(image, torch.tensor([1, 1])))


def test_covariance_head_has_no_map_and_keeps_the_last_stages_cells():
    method = Baseline(3, "class", Optim(), backbone="resnet_nano", weights=None, head="isqrt_2k").eval()
    output = method(torch.randn(2, 3, 64, 64))
    assert output.saliency is None
    assert method.explain(torch.randn(2, 3, 64, 64), torch.tensor([0, 1])) is None
    assert method.classifier.weight.shape == (3, 2080)
    assert method.backbone.strides == (2, 4, 8, 8)


def test_flip_test_averages_the_probabilities_in_evaluation_only():
    method = Baseline(3, "class", Optim(), backbone="resnet_nano", weights=None, flip_test=True).eval()
    image = torch.randn(2, 3, 64, 64)
    found = method(image).logits.softmax(1)
    method.flip_test = False
    expected = (method(image).logits.softmax(1) + method(image.flip(3)).logits.softmax(1)) / 2
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", [ArcFace, LGM])
def test_the_cam_of_another_loss_shows_its_own_class_vectors(loss):
    method = Baseline(4, "class", Optim(), backbone="resnet_nano", weights=None, loss=loss).eval()
    image = torch.randn(2, 3, 64, 64)
    output = method(image)
    expected = class_activation_map(method.backbone(image), method.classifier.evidence(), output.logits.argmax(1))
    torch.testing.assert_close(output.saliency, expected)


def test_attributes_have_no_loss_of_exclusive_classes():
    with pytest.raises(ValueError, match="ArcFace is of exclusive classes"):
        Baseline(4, "attributes", Optim(), backbone="resnet_nano", weights=None, loss=ArcFace)


def test_a_map_with_fewer_channels_than_classes_is_refused_before_training():
    with pytest.raises(ValueError, match="16 channels cannot give each of 17 classes"):
        Baseline(17, "class", Optim(), backbone="resnet_nano", weights=None, loss=MutualChannel)


def test_with_an_embedding_there_is_no_cam():
    method = Baseline(4, "class", Optim(), backbone="resnet_nano", weights=None, embedding=32, cells=2).eval()
    output = method(torch.randn(2, 3, 64, 64))
    assert method.classifier.weight.shape == (4, 32)
    assert output.saliency is None
