import pytest
import torch
from torch.nn.functional import interpolate

from fgbench.losses import CosFace, MutualChannel
from fgbench.methods import SSN, Optim
from fgbench.types import Batch


def make(**kwargs):
    defaults = {"backbone": "resnet_nano", "weights": None, "attention_size": 64, "sampled": 48}
    return SSN(4, "class", Optim(), **{**defaults, **kwargs})


def batch(n=3):
    image = torch.randn(n, 3, 80, 80, generator=torch.Generator().manual_seed(1))
    return Batch(image, torch.arange(n) % 4, *[torch.empty(0)] * 6)


def test_training_starts_near_the_plain_resize_which_no_preference_is():
    method, data = make().eval(), batch()
    assert float(method.score.weight.detach().abs().max()) < 0.05
    torch.nn.init.zeros_(method.score.weight)
    seen = []
    method.backbone.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    saliency = method(data.image).saliency
    torch.testing.assert_close(saliency, torch.full_like(saliency, 1 / 64))
    plain = interpolate(data.image, (48, 48), mode="bilinear", align_corners=False)
    torch.testing.assert_close(seen[0], plain, rtol=0, atol=1e-4)


def test_the_label_teaches_the_saliency_through_the_sampling():
    method, data = make(), batch()
    method.loss(data)[0].backward()
    assert float(method.score.weight.grad.abs().max()) > 0
    assert all(bool(p.grad.any()) for p in method.trunk.parameters())


def test_saliency_sums_to_one():
    method = make().eval()
    torch.nn.init.normal_(method.score.weight)
    torch.testing.assert_close(method(batch().image).saliency.sum((1, 2)), torch.ones(3))


def test_the_figure_shows_the_points_without_densities():
    found = make().eval().figure("sampling", batch(1))
    assert set(found) == {"attention", "points", "sampled"}


@pytest.mark.parametrize(
    ("kwargs", "message"), [({"sigma": 0.0}, "sigma"), ({"attention_weights": "x"}, "attention_backbone")]
)
def test_impossible_values_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_it_takes_any_loss_of_a_linear_classifier():
    method, data = make(loss=CosFace).train(), batch()
    seen = []
    method.backbone.register_forward_hook(lambda module, given, out: seen.append(out))
    loss, _ = method.loss(data)
    cosine = torch.cosine_similarity(seen[0].mean((2, 3))[:, None], method.classifier.weight[None], dim=2)
    cosine[torch.arange(3), data.target] -= 0.35
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(64 * cosine, data.target))
    assert set(make(loss=MutualChannel).train().loss(data)[1]) == {"discriminality", "diversity"}
    with pytest.raises(ValueError, match="CosFace is of exclusive classes"):
        SSN(4, "attributes", Optim(), backbone="resnet_nano", weights=None, loss=CosFace)
