"""What holds for every method of the suite; a new method is tested here as soon as it is in METHODS."""

import pytest
import torch
from torch import nn

from fgbench.methods import METHODS, Method, Optim
from fgbench.types import Batch, Output

OUTPUTS = {"class": 4, "attributes": 3}
CELLS = [(name, target) for name, method in METHODS.items() for target in OUTPUTS if target not in method.undefined_for]

SMALL = {  # resnet_nano is for inputs of these tests' size
    "focus_longer": {
        "hidden": 64,
        "steps": 2,
        "patch_size": 48,
        "patches": "grid",
        "patch_count": 1,
        "rank_mode": "off",
    },
    "ssn": {"attention_size": 64, "sampled": 64},
    "dpnet": {
        "regions": 20,
        "parts_per_class": 3,
        "shown_parts": 4,
        "bag_norm": False,
    },  # 30 steps are few for a unit bag
    "tasn": {"attention_size": 64, "sampled": 64, "temperature": 1.0},  # at 10 distillation cannot fall by a third
}

RATES = {"dpnet": 0.03}  # parts of a frozen network that is random have far to go
FURTHER_GROUPS = {"protopnet": ["prototypes", "last"]}


def make(name, target, **kwargs):
    small = SMALL.get(name, {})
    method = METHODS[name](OUTPUTS[target], target, Optim(), backbone="resnet_nano", weights=None, **small, **kwargs)
    for module in method.modules():  # fresh residual blocks are the identity: let everything count
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return method


def batch_of(n, target, height=96, width=96):
    labels = torch.randint(OUTPUTS["class"], (n,)) if target == "class" else torch.randint(2, (n, 3)).float()
    empty, no = torch.zeros(n, 0, 4), torch.zeros(n, 0, dtype=torch.bool)
    image = torch.randint(256, (n, 3, height, width), dtype=torch.uint8)
    return Batch(image, labels, torch.arange(n), empty, no, torch.zeros(n, 0, 2), no, torch.zeros(n, 6).double())


@pytest.mark.parametrize(("name", "target"), CELLS)
@pytest.mark.parametrize("size", [(1, 96, 96), (3, 96, 112), (2, 85, 107)])
def test_outputs_have_the_agreed_shapes_and_signs(name, target, size):
    method = make(name, target).eval()
    n, height, width = size
    output = method(method.normalise(batch_of(n, target, height, width).image))
    assert isinstance(output, Output)
    assert output.logits.shape == (n, OUTPUTS[target])
    assert output.logits.dtype == torch.float32
    for maps, channels in (
        (output.saliency, ()), (output.parts, (method.parts,)), (output.bound_parts, (method.bound_parts,))
    ):  # fmt: skip
        if maps is not None:
            assert maps.shape[: 1 + len(channels)] == (n, *channels)
            assert maps.dim() == 3 + len(channels)
            assert maps.dtype == torch.float32
            assert maps.isfinite().all()
            assert (maps >= 0).all()
    assert (output.parts is None) == (method.parts is None)
    assert (output.bound_parts is None) == (method.bound_parts == 0)


@pytest.mark.parametrize(("name", "target"), CELLS)
def test_images_of_a_batch_do_not_see_each_other_in_evaluation(name, target):
    method = make(name, target).eval()
    images = method.normalise(batch_of(3, target).image)
    together = method(images)
    for i in range(3):
        alone = method(images[i : i + 1])
        for first, second in zip(together, alone, strict=True):
            if first is not None:
                torch.testing.assert_close(first[i : i + 1], second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "target"), CELLS)
def test_every_parameter_gets_a_gradient(name, target):
    method = make(name, target)
    batch = method.on_after_batch_transfer(batch_of(6, target), 0)
    loss, terms = method.loss(batch)
    loss.backward()
    assert loss.dim() == 0
    assert not any(term.requires_grad for term in terms.values())
    dead = [
        n
        for n, p in method.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.isfinite().all() or not p.grad.any())
    ]
    assert dead == []


@pytest.mark.parametrize(("name", "target"), CELLS)
def test_a_batch_leaves_as_it_came_but_for_its_image(name, target):
    method, batch = make(name, target), batch_of(2, target)
    before = Batch(*(x.clone() for x in batch))
    after = method.on_after_batch_transfer(batch, 0)
    for name_, x, y in zip(Batch._fields, before, after, strict=True):
        assert torch.equal(x, y) or name_ == "image"
    image = after.image.clone()
    method.eval()(after.image)
    method.train().loss(after)
    assert torch.equal(after.image, image)
    assert torch.equal(batch.image, before.image)


@pytest.mark.parametrize(("name", "target"), CELLS)
def test_half_precision_runs_forward_and_backward(name, target):
    method = make(name, target)
    batch = method.on_after_batch_transfer(batch_of(6, target), 0)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = method.loss(batch)
        output = method(batch.image)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(maps is None or maps.dtype == torch.float32 for maps in output)
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize(("name", "target"), CELLS)
def test_loss_falls_on_one_batch(name, target):
    method = make(name, target)
    batch = method.on_after_batch_transfer(batch_of(6, target), 0)
    optimizer = torch.optim.Adam(method.parameters(), RATES.get(name, 3e-3))
    losses = []
    for _ in range(30):
        loss, _ = method.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(("name", "target"), CELLS)
def test_evidence_for_the_predicted_output_is_the_saliency(name, target):
    method = make(name, target).eval()
    images = method.normalise(batch_of(3, target).image)
    output = method(images)
    torch.testing.assert_close(method.explain(images, output.logits.argmax(1)), output.saliency)


@pytest.mark.parametrize(("name", "target"), CELLS)
def test_what_a_part_adds_is_said_or_why_not(name, target):
    method = make(name, target).eval()
    batch = method.on_after_batch_transfer(batch_of(2, target), 0)
    added = method.contributions(batch, torch.tensor([2, 0]))
    if added is None:
        assert method.parts is None or method.no_contributions != Method.no_contributions
        return
    assert added.shape == (2, method.parts)
    assert not added.requires_grad
    assert added.isfinite().all()
    if method.contribution == "attention":
        torch.testing.assert_close(added.sum(1), torch.ones(2))
    torch.testing.assert_close(added[1:], method.contributions(Batch(*(x[1:] for x in batch)), torch.tensor([0])),
                               rtol=1e-4, atol=1e-5)  # fmt: skip


@pytest.mark.parametrize(("name", "target"), CELLS)
def test_a_batch_is_explained_as_it_is_answered(name, target):
    method = make(name, target).eval()
    batch = method.on_after_batch_transfer(batch_of(2, target), 0)._replace(image_id=torch.tensor([7, 3]))
    output = method.respond(batch)
    torch.testing.assert_close(method.explain_batch(batch, output.logits.argmax(1)), output.saliency)


@pytest.mark.parametrize("name", METHODS)
def test_names_in_the_dictionary_are_those_of_modules(name):
    assert METHODS[name].__module__ == f"fgbench.methods.{name}"


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_backbone_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"resnet_huge.*resnet18.*mobilenet_v2"):
        METHODS[name](4, "class", Optim(), backbone="resnet_huge", weights=None)


@pytest.mark.parametrize("name", METHODS)
def test_groups_hold_every_parameter_once(name):
    method = make(name, "class")
    groups = method.parameter_groups()
    held = [id(p) for group in groups for p in group["params"]]
    assert len(held) == len(set(held))
    learned = {id(p) for p in method.parameters() if p.requires_grad}
    assert set(held) == learned
    frozen = learned.isdisjoint(id(p) for p in method.backbone.parameters())
    assert [group["name"] for group in groups] == (
        ["new"] if frozen else ["backbone", "new", *FURTHER_GROUPS.get(name, [])]
    )


@pytest.mark.parametrize("name", METHODS)
def test_checkpoints_hold_no_code(name, tmp_path):
    method = make(name, "class")
    torch.save(method.state_dict(), tmp_path / "state.pt")
    other = make(name, "class")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert not method.hparams
