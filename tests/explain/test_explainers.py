"""Explainers by name, floors as maps, and the explained method under a trainer's test."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import Trainer
from torch.utils.data import DataLoader

from fgbench.explain import EXPLAINERS, Explained, ExplainerError, floor_maps, floors, make_explainer, parse
from fgbench.metrics.landmark_error import soft_centroids
from fgbench.metrics.pointing_game import most_salient
from fgbench.types import Batch


def batch_of(size, height=64, width=80, first=0):
    box = torch.tensor([[[10.0, 20, 50, 60]]]).expand(size, 1, 4).clone()
    valid = torch.ones(size, 1, dtype=torch.bool)
    return Batch(
        image=torch.randint(256, (size, 3, height, width), dtype=torch.uint8),
        target=torch.zeros(size, dtype=torch.int64),
        image_id=torch.arange(first, first + size),
        boxes=box,
        box_valid=valid,
        landmarks=torch.zeros(size, 0, 2),
        visible=torch.zeros(size, 0, dtype=torch.bool),
        frame=torch.zeros(size, 6, dtype=torch.float64),
    )


def normalised(method, batch):
    return batch._replace(image=method.normalise(batch.image))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gradcamm", "no explainer 'gradcamm'; known: own, cam"),
        ("gradcam3", "gradcam3"),
        ("dff0", "dff0"),
        ("+dff", "dff"),
    ],
)
def test_a_name_that_is_none_is_refused_with_those_that_are(name, message):
    with pytest.raises(ExplainerError, match=message.replace("+", r"\+")):
        parse(name)


NAMES = [*EXPLAINERS, "dff3", "random_parts7", "random_weights", "random_weights+gradcam"]
CELLS = [("baseline", name) for name in NAMES]
CELLS += [("tasn", name) for name in ("own", "cam", "guided_gradcam", "dff3")]  # where the backbone's frame is another
# whose answers depend on the images' numbers
NUMBERED = ("gradcam", "guided_gradcam", "integrated_gradients", "dff3", "centre", "random_parts", "random_weights")
CELLS += [(method, name) for method in ("dpnet", "focus_longer") for name in NUMBERED]


@pytest.mark.parametrize(("method_name", "name"), CELLS)
def test_every_explainer_keeps_the_prediction_and_gives_the_agreed_maps(name, method_name, network):
    method = network(method_name)
    batch = normalised(method, batch_of(3, first=5))
    explainer = make_explainer(name)
    fresh = network(method_name, outputs=5, backbone="resnet_nano") if parse(name)[0] else None
    explained = Explained(method, explainer, fresh).eval()
    if explainer.fit_images:
        explainer.fit(method, [batch.image])
    output = explained.test_step(batch, 0)["output"]
    torch.testing.assert_close(output.logits, method.respond(batch).logits, rtol=1e-4, atol=1e-5)
    assert (output.saliency is None) == (EXPLAINERS[parse(name)[1]].makes_parts)
    maps = [output.saliency] if output.saliency is not None else []
    if output.parts is not None:
        assert output.parts.shape[1] == explained.parts
        maps.append(output.parts)
    assert (output.parts is None) == (explained.parts is None)
    for found in maps:
        assert len(found) == 3
        assert found.dtype == torch.float32
        assert found.isfinite().all()
        assert (found >= 0).all()
        assert not found.requires_grad


@pytest.mark.parametrize(
    ("name", "explainer"), [("dpnet", "gradcam"), ("dpnet", "random_weights"), ("focus_longer", "random_weights")]
)
def test_an_image_is_answered_and_explained_by_its_number(name, explainer, network):
    method, fresh = network(name), network(name)
    torch.nn.init.normal_(fresh.classifier.weight)
    batch = normalised(method, batch_of(2, first=5))
    other = batch._replace(image_id=batch.image_id + 1)
    explained = Explained(method, make_explainer(explainer), fresh if explainer == "random_weights" else None)
    (logits, saliency), (others, elsewhere) = ((x.logits, x.saliency) for x in map(explained, (batch, other)))
    assert not torch.allclose(logits, others)
    assert not torch.allclose(saliency, elsewhere)


def test_fresh_weights_explain_what_the_trained_ones_predict(network):
    method, fresh = network(), network()
    torch.nn.init.normal_(fresh.classifier.weight)
    batch = normalised(method, batch_of(4))
    index = method(batch.image).logits.argmax(1)
    found = Explained(method, make_explainer("random_weights+cam"), fresh)(batch)
    torch.testing.assert_close(found.saliency, fresh.explain(batch.image, index))
    own = Explained(method, make_explainer("random_weights"), fresh)(batch)
    torch.testing.assert_close(own.saliency, found.saliency)


@pytest.mark.parametrize("name", ["mc_loss", "tdsa", "protopnet"])
def test_fresh_parts_of_classes_are_those_of_the_class_that_the_trained_weights_predict(name, network):
    method, fresh = network(name), network(name)
    torch.nn.init.normal_(fresh.classifier.weight)
    batch = normalised(method, batch_of(6))
    index = method(batch.image).logits.argmax(1)
    assert (index != fresh(batch.image).logits.argmax(1)).any()  # else any class would do
    explained = Explained(method, make_explainer("random_weights"), fresh)
    found, shown = explained(batch), fresh.show(batch.image, index)
    torch.testing.assert_close(found.parts, shown.parts)
    torch.testing.assert_close(found.saliency, fresh.explain(batch.image, index))
    assert (explained.class_stages, explained.bound_parts) == (method.class_stages, method.bound_parts)
    if method.bound_parts:
        torch.testing.assert_close(found.bound_parts, shown.bound_parts)
    torch.testing.assert_close(explained.show(batch.image, index).saliency, found.saliency)
    plain = Explained(method, make_explainer("gradcam"))
    assert (plain.class_stages, plain.bound_parts) == (0, 0)


def test_a_factorisation_that_saw_nothing_refuses(network):
    method = network()
    with pytest.raises(ExplainerError, match="dff: it must be fitted"):
        Explained(method, make_explainer("dff"))(normalised(method, batch_of(1)))


@settings(max_examples=25, deadline=None)
@given(height=st.integers(20, 70), width=st.integers(20, 70), first=st.integers(0, 10**6))
def test_floor_maps_say_what_their_points_say(height, width, first):
    batch = batch_of(2, height, width, first)
    batch = batch._replace(boxes=torch.tensor([[[0.2, 0.1, 0.6, 0.7]], [[0.5, 0.5, 0.9, 1.0]]]) * torch.tensor(
        [width, height, width, height]
    ))  # fmt: skip
    for found, point in ((floor_maps.centre_map(batch), floors.image_centre(batch)),
                         (floor_maps.box_map(batch), floors.box_centre(batch))):  # fmt: skip
        peak = most_salient(found, height, width)
        assert (peak - point[:, 0]).abs().max() <= 0.5 + 1e-6  # the centre of the pixel that the point is in
        assert float(found.amax()) <= 1
    parts = floor_maps.random_part_maps(batch, 3)
    points = floors.random_parts(batch, 3)
    margin = torch.tensor([width, height]) / floor_maps.CELLS / 2
    inside = torch.maximum(torch.minimum(points, torch.tensor([width, height]) - margin), margin)
    torch.testing.assert_close(soft_centroids(parts, height, width), inside, rtol=0, atol=1e-3)
    torch.testing.assert_close(parts.sum((2, 3)), torch.ones(2, 3))


def test_centres_fall_off_over_a_quarter_of_the_sides():
    batch = batch_of(1)  # 80 x 64 pixels; the box is 40 x 40, with its centre at 30, 40
    for found, (x, y), (across, down) in (
        (floor_maps.centre_map(batch), (40, 32), (20, 16)),
        (floor_maps.box_map(batch), (30, 40), (10, 10)),
    ):
        for row, col in ((31, 40), (48, 59), (10, 20)):
            distance = ((col + 0.5 - x) / across) ** 2 + ((row + 0.5 - y) / down) ** 2
            assert float(found[0, row, col]) == pytest.approx(math.exp(-distance / 2), rel=1e-5)


def test_random_floors_depend_on_the_image_only():
    whole, some = batch_of(6), batch_of(2, first=4)
    assert torch.equal(floor_maps.random_map(whole)[4:], floor_maps.random_map(some))
    assert torch.equal(floor_maps.random_part_maps(whole, 2)[4:], floor_maps.random_part_maps(some, 2))
    found = floor_maps.random_map(batch_of(50)).flatten()
    assert float(found.mean()) == pytest.approx(0.5, abs=0.01)
    assert not torch.equal(floor_maps.random_map(whole), floor_maps.random_map(whole, seed=1))


def test_a_box_map_without_a_box_is_the_centre_map():
    batch = batch_of(2)
    batch = batch._replace(box_valid=torch.zeros_like(batch.box_valid))
    assert torch.equal(floor_maps.box_map(batch), floor_maps.centre_map(batch))
    nothing = batch._replace(boxes=torch.zeros(2, 0, 4), box_valid=torch.zeros(2, 0, dtype=torch.bool))
    assert torch.equal(floor_maps.box_map(nothing), floor_maps.centre_map(batch))


class Seen(Explained):
    """Keeps what it says."""

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        found = super().test_step(batch, batch_idx)
        self.kept.append((batch.image_id.clone(), found["output"].saliency.clone()))
        return found


def test_a_trainer_that_switches_gradients_off_gets_explanations(network, tmp_path):
    method = network()
    items = [Batch(*(field[0] for field in batch_of(1, first=i)[:8])) for i in range(5)]  # nothing prepared, no mask
    explained = Seen(method, make_explainer("gradcam"))
    explained.kept = []
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, inference_mode=False, enable_progress_bar=False,
                      enable_model_summary=False, default_root_dir=tmp_path, enable_checkpointing=False)  # fmt: skip
    trainer.test(explained, DataLoader(items, batch_size=2), verbose=False)
    found = torch.cat([saliency for _, saliency in explained.kept])
    images = method.normalise(torch.stack([item.image for item in items]))
    index = method(images).logits.argmax(1)
    # for global average pooling and a linear layer: the CAM over the number of cells
    cells = found.shape[1] * found.shape[2]
    torch.testing.assert_close(found, method.explain(images, index).detach() / cells, rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in method.parameters())
