"""Focus Longer as a whole: streams, time attention, evidence of every step, patches that know no label, recipes."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fgbench import config
from fgbench.cells import Cell
from fgbench.layers import boxes as boxed
from fgbench.layers.boxes import to_original
from fgbench.methods import FocusLonger, Optim
from fgbench.methods.focus_attention import SelfAttention, cosine_basis, look
from fgbench.methods.focus_evidence import saliency
from fgbench.methods.focus_local import fixed_weights, time_attention
from fgbench.methods.focus_longer import PRESETS
from fgbench.types import Batch

SMALL = {"backbone": "resnet_nano", "weights": None, "hidden": 24, "steps": 4, "patch_size": 48, "patch_count": 3}


def make(optim=None, outputs=4, **kwargs):
    method = FocusLonger(outputs, "class", optim or Optim(), **{**SMALL, **kwargs})
    nn.init.normal_(method.local.classifier.weight, std=0.5)
    nn.init.normal_(method.classifier.weight, std=0.5)
    return method.eval()


def batch_of(n=3, size=64, prepared=None, frame=None):
    image = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))
    empty, no = torch.zeros(n, 0, 4), torch.zeros(n, 0, dtype=torch.bool)
    frame = torch.tensor([[1.0, 0, 0, 0, 1, 0]] * n).double() if frame is None else frame
    prepared = torch.empty(n, 0) if prepared is None else prepared
    return Batch(image, torch.arange(n) % 4, torch.arange(n), empty, no, torch.zeros(n, 0, 2), no, frame, prepared)


# ---- attention over time


@pytest.mark.parametrize("rows", [1, 5])
def test_time_attention_is_a_loop_in_numpy(rows):
    states, weight = torch.randn(2, 5, 3), torch.randn(rows, 3)
    found = time_attention(states, weight)
    for b in range(2):
        scores = [math.exp(float(np.dot(weight[min(t, rows - 1)].numpy(), states[b, t].numpy()))) for t in range(5)]
        np.testing.assert_allclose(found[b].numpy(), np.array(scores) / sum(scores), rtol=1e-5)
    assert torch.equal(time_attention(states[:, :1], weight[:1]), torch.ones(2, 1))
    torch.testing.assert_close(time_attention(states, torch.zeros(1, 3)), torch.full((2, 5), 0.2))


@pytest.mark.parametrize("attention", ["shared", "per_step"])
def test_the_pooled_state_is_a_sum_in_numpy_and_equal_states_pool_to_themselves(attention):
    local = make(time_attention=attention).local
    vectors = local.time_weight.detach().double().numpy()
    head = [x.detach().double().numpy() for x in (local.classifier.weight, local.classifier.bias)]
    states = torch.randn(2, 4, 24)
    features = torch.zeros(2, 16, 2, 2)  # of which only the states count
    found = local.logits(features, states).detach().numpy()
    for b in range(2):
        phi = states[b].double().numpy()
        scores = [math.exp(sum(vectors[t % len(vectors)] * phi[t])) for t in range(4)]
        pooled = sum(score / sum(scores) * state for score, state in zip(scores, phi, strict=True))
        np.testing.assert_allclose(found[b], head[0] @ pooled + head[1], rtol=1e-4, atol=1e-5)
    same = states[:, :1].expand(-1, 4, -1)
    torch.testing.assert_close(local.logits(features, same), local.classifier(states[:, 0]))


@pytest.mark.parametrize(
    ("pool", "weights"),
    [("sum", [1, 1, 1]), ("mean", [1 / 3] * 3), ("last", [0, 0, 1]), ("step_2", [0, 1, 0])],
)
def test_other_pools_weigh_steps_as_they_say(pool, weights):
    torch.testing.assert_close(fixed_weights(pool, 3), torch.tensor(weights).float())


@pytest.mark.parametrize("pool", ["step_0", "step_4", "max"])
def test_a_pool_that_is_not_there_is_refused(pool):
    with pytest.raises(ValueError, match=f"{pool}.*step_1 to step_3"):
        fixed_weights(pool, 3)


# ---- streams


def test_a_patch_goes_through_its_network_once_whatever_the_number_of_steps():
    for steps in (1, 6):
        method, calls = make(steps=steps), []
        method.local.trunk.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        method.respond(batch_of())
        assert len(calls) == 1
        method.train().loss(batch_of())
        assert len(calls) == 2


def test_streams_share_nothing_and_teach_each_other_nothing_without_ranking():
    method = make(rank_mode="off", patches="grid").train()
    groups = {"global": [method.backbone, method.after, method.classifier], "local": [method.local]}
    stored = {name: {p.data_ptr() for m in modules for p in m.parameters()} for name, modules in groups.items()}
    assert not stored["global"] & stored["local"]
    batch = batch_of()
    for name, other in (("global", "local"), ("local", "global")):
        method.zero_grad()
        found = method._find(batch.image, batch)
        features = method.local.trunk(batch.image)
        local = method.local.logits(features, method.local(features).states)
        method.classification_loss({"global": found.logits, "local": local}[name], batch).backward()
        assert all(p.grad is None or not p.grad.any() for m in groups[other] for p in m.parameters())
        assert any(p.grad is not None and p.grad.any() for m in groups[name] for p in m.parameters())


@pytest.mark.parametrize("detached", [True, False])
def test_ranking_reaches_the_global_stream_unless_detached(detached):
    method, batch = make(rank_mode="printed", detach_global=detached, patches="grid", patch_count=1).train(), batch_of()
    gradients = []
    for weight in (0.5, 0.0):
        method.rank_weight = weight
        method.zero_grad()
        method.loss(batch)[0].backward()
        gradients.append((method.classifier.weight.grad.clone(), method.local.classifier.weight.grad.clone()))
    change = [float((first - second).abs().max()) for first, second in zip(*gradients, strict=True)]
    assert (change[0] < 1e-7) == detached
    assert change[1] > 1e-5


@pytest.mark.parametrize("test_patch", ["top1", "mean_all", "random"])
def test_logits_are_the_sum_of_the_streams_and_repeat(test_patch):
    method, batch = make(test_patch=test_patch, local_weight=0.7, patches="random"), batch_of()
    with torch.no_grad():
        first, second = method.respond(batch), method.respond(batch)
    assert all(x is None or torch.equal(x, y) for x, y in zip(first, second, strict=True))
    names = dict(zip(method.stream_names, first.streams.unbind(1), strict=True))
    torch.testing.assert_close(first.logits, names["global"] + 0.7 * names["local"])


def test_steps_sums_and_means_are_those_of_the_states():
    method, batch = make(time_pool="mean"), batch_of()
    with torch.no_grad():
        output = method.respond(batch)
        boxes = method._find(batch.image, batch).boxes[:, :1]
        from fgbench.layers.boxes import cut

        states = method.local(method.local.trunk(cut(batch.image, boxes, 48))).states
        head = method.local.classifier
        names = dict(zip(method.stream_names, output.streams.unbind(1), strict=True))
        for t in range(4):
            torch.testing.assert_close(names[f"local_step_{t + 1}"], head(states[:, t]), atol=1e-4, rtol=1e-4)
            for kind, pooled in (("sum", states[:, : t + 1].sum(1)), ("mean", states[:, : t + 1].mean(1))):
                expected = names["global"] + head(pooled)
                torch.testing.assert_close(names[f"{kind}_{t + 1}"], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(names["mean_4"], output.logits, atol=1e-4, rtol=1e-4)  # it was pooled so


def test_with_a_global_size_only_the_patch_has_the_pixels_of_the_image():
    method, batch = make(global_size=16, patches="grid", patch_count=1, patch_size=32), batch_of()
    lines = torch.zeros_like(batch.image)
    lines[..., ::2], lines[..., 1::2] = 1.0, -1.0  # gone where four columns become one
    with torch.no_grad():
        smooth, striped = (method.respond(batch._replace(image=0.05 * batch.image + x)) for x in (0 * lines, lines))
        small = make(patches="grid", patch_count=1, patch_size=32)
        small.load_state_dict(method.state_dict())
        shrunk = torch.nn.functional.adaptive_avg_pool2d(batch.image, 16)
        near, far = (small._find(x, None).logits for x in (shrunk, batch.image))
        seen = method._find(batch.image, None).logits
    inner = (smooth.streams - striped.streams).abs().amax((0, 2))
    assert inner[0] < 0.3 * inner[1]  # not zero: the outermost columns have no neighbours to cancel them
    assert (seen - near).abs().max() < 0.2 * (far - near).abs().max()
    assert smooth.saliency.shape == (3, 8, 8)  # of the image as it came


def test_mean_all_averages_what_each_patch_says():
    method, batch = make(test_patch="mean_all", patches="grid"), batch_of()
    with torch.no_grad():
        every = method.respond(batch).streams[:, 1]
        boxes = method._find(batch.image, batch).boxes
        alone = []
        for n in range(3):
            method._test_boxes = lambda found, _, n=n: boxes[:, n : n + 1]
            alone.append(method.respond(batch).streams[:, 1])
    torch.testing.assert_close(every, torch.stack(alone).mean(0), atol=1e-5, rtol=1e-4)


def test_every_step_has_its_own_loss_in_the_ablation():
    method, batch = (
        make(supervise="every_step", time_pool="last", rank_mode="off", patches="grid", patch_count=1),
        batch_of(),
    )
    _, terms = method.loss(batch)
    names = dict(zip(method.stream_names, method.respond(batch).streams.unbind(1), strict=True))
    each = [nn.functional.cross_entropy(names[f"local_step_{t}"], batch.target) for t in range(1, 5)]
    torch.testing.assert_close(terms["local"], torch.stack(each).mean(), atol=1e-5, rtol=1e-5)


# ---- evidence


@pytest.mark.parametrize("local", ["lstm", "self_attention"])
def test_grad_cam_of_every_step_is_that_of_hooks_and_a_backward_pass(local):
    method, image = make(local=local), torch.randn(2, 3, 48, 48)
    index = torch.tensor([2, 0])
    with torch.no_grad():
        features = method.local.trunk(image)
        _, _, evidence = method.local.explain(features, lambda logits: index)
    kept = {}
    handle = method.local.trunk.stages[-1].register_forward_hook(lambda m, i, o: kept.update(map=o) or o.retain_grad())
    for t in range(4):
        states = method.local(method.local.trunk(image)).states
        scores = method.local.classifier(states[:, t])
        scores.gather(1, index[:, None]).sum().backward()
        weights = kept["map"].grad.mean((2, 3), keepdim=True)
        expected = (weights * kept["map"]).sum(1).relu()
        torch.testing.assert_close(evidence.steps[:, t], expected, atol=1e-6, rtol=1e-3)
    features_again = method.local.trunk(image)
    pooled = method.local.logits(features_again, method.local(features_again).states)
    pooled.gather(1, index[:, None]).sum().backward()
    expected = (kept["map"].grad.mean((2, 3), keepdim=True) * kept["map"]).sum(1)
    assert (expected < 0).any()  # the stream's own map keeps its sign
    torch.testing.assert_close(evidence.pooled, expected, atol=1e-6, rtol=1e-3)
    handle.remove()
    nn.init.normal_(method.local.classifier.weight)
    with torch.no_grad():
        _, _, other = method.local.explain(features, lambda logits: index)
    assert (other.steps - evidence.steps).abs().max() > 0.01 * evidence.steps.max()


@pytest.mark.parametrize("test_patch", ["top1", "mean_all"])
@pytest.mark.parametrize("time_pool", ["attention", "step_2"])
def test_a_step_adds_what_the_logit_loses_without_it(time_pool, test_patch, monkeypatch):
    method, batch = make(time_pool=time_pool, test_patch=test_patch, local_weight=0.7), batch_of()
    nn.init.normal_(method.local.classifier.bias)
    index = torch.tensor([1, 3, 0])
    own, weights = method.respond(batch), method.local.weights
    added = method.contributions(batch, index)
    for step in range(4):
        kept = torch.ones(4)
        kept[step] = 0
        monkeypatch.setattr(method.local, "weights", lambda states, kept=kept: weights(states) * kept)
        lost = (own.logits - method.respond(batch).logits).gather(1, index[:, None])[:, 0]
        torch.testing.assert_close(added[:, step], lost.detach(), atol=1e-5, rtol=1e-4)
    coarse = own.streams[:, 0] + 0.7 * method.local.classifier.bias  # what no step says
    torch.testing.assert_close(
        (added.sum(1) + coarse.gather(1, index[:, None])[:, 0]).detach(), own.logits.gather(1, index[:, None])[:, 0]
    )


def test_fused_logits_can_be_differentiated_through_both_streams():
    method = make(patches="grid")
    image = torch.randn(1, 3, 64, 64, requires_grad=True)
    method(image).logits.sum().backward()
    trunks = (method.backbone, method.local.trunk)
    assert all(any(p.grad is not None and p.grad.any() for p in trunk.parameters()) for trunk in trunks)
    assert image.grad.any()


def test_saliency_is_evidence_per_area_of_the_image():
    weight, features = torch.tensor([[2.0], [-1.0]]), torch.ones(2, 1, 2, 2)  # 2 everywhere; nothing that is for it
    local = torch.stack([torch.full((3, 2), 0.5), torch.full((3, 2), -0.5)])
    boxes = torch.tensor([[[8.0, 0, 24, 32]], [[0, 0, 32, 32]]])
    found = saliency(weight, features, local, boxes, (32, 32), 0.7)
    # 6 cells of 0.5 are 3 logits, on half of the image: 6 per area of the image, of which 0.7 count
    expected = torch.zeros(2, 4, 4)
    expected[0], expected[0, :, 1:3] = 2.0, 2 + 0.7 * 6
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("test_patch", ["top1", "mean_all"])
def test_steps_are_grad_cam_of_the_first_patch_and_parts_what_self_attention_looks_at(test_patch):
    method, batch = make(local="self_attention", test_patch=test_patch, patches="grid"), batch_of()
    with torch.no_grad():
        output = method.respond(batch)
        boxes = method._find(batch.image, batch).boxes[:, : 1 if test_patch == "top1" else 3]
        features = method.local.trunk(boxed.cut(batch.image, boxes, 48))
        each = output.logits.argmax(1).repeat_interleave(boxes.shape[1])
        _, steps, evidence = method.local.explain(features, lambda _: each)
        attention = boxed.paste(steps.attention.unflatten(0, boxes.shape[:2]), boxes, (64, 64), (8, 8)).mean(1)
    torch.testing.assert_close(output.steps, evidence.steps.unflatten(0, boxes.shape[:2])[:, 0])
    torch.testing.assert_close(output.parts, attention)


def test_the_local_evidence_lies_in_the_patch():
    method, batch = make(patches="grid", patch_count=1), batch_of()
    with torch.no_grad():
        output = method.respond(batch)
    outside = torch.ones(8, 8, dtype=torch.bool)
    outside[2:6, 2:6] = False  # the grid's first box covers 0.29 to 0.71 of the image
    assert not output.parts[..., outside].any()
    assert output.parts.any()


# ---- self-attention


def test_no_query_sees_all_cells_alike_and_a_loud_one_sees_its_cell():
    module = SelfAttention(6, 2, 2, 8)
    features = torch.randn(1, 6, 3, 4)
    keys, values = module.split(features)
    assert keys.shape == (1, 2 + 4, 12)
    assert values.shape == (1, 4 + 4, 12)
    attention, answer = module.attend(torch.zeros(1, 6), keys, values)
    torch.testing.assert_close(attention, torch.full((1, 12), 1 / 12))
    torch.testing.assert_close(answer, values.mean(2))
    lone = torch.zeros_like(keys)
    lone[0, 1, 7] = 1.0
    query = torch.zeros(1, 6)
    query[0, 1] = 1e4
    torch.testing.assert_close(module.attend(query, lone, values)[1], values[:, :, 7])


def test_places_are_cosines_and_only_they_tell_where_a_cell_is():
    basis = cosine_basis(3, 5, 7, torch.device("cpu"))
    for p in range(3):
        for q in range(3):
            for i, j in ((0, 0), (2, 5), (4, 6)):
                expected = math.cos(math.pi * p * i / 5) * math.cos(math.pi * q * j / 7)
                assert float(basis[3 * p + q, i, j]) == pytest.approx(expected, abs=1e-6)
    features = torch.randn(1, 6, 2, 3)
    moved = features.flatten(2)[..., torch.randperm(6)].view_as(features)
    for size, same in ((0, True), (2, False)):
        module = SelfAttention(6, 2, size, 8)
        query = torch.randn(1, 2 + size**2)
        answers = [module.attend(query, *module.split(x))[1][:, :4] for x in (features, moved)]
        assert torch.allclose(*answers, atol=1e-6) == same


def test_the_first_question_is_the_same_for_all_images_and_later_ones_are_not():
    local = make(local="self_attention").local
    keys, values = local.looks.split(torch.randn(2, 16, 4, 4))
    asked = [step.query for step in look(keys, values, local.looks.weights(local.lstm), 4, local.looks.scale)]
    assert len(asked) == 4
    assert torch.equal(asked[0][0], asked[0][1])
    assert not torch.allclose(asked[1][0], asked[1][1])


# ---- patches


@pytest.mark.parametrize("patches", ["cam", "grid", "random", "protopnet", "official"])
def test_test_patches_and_answers_do_not_change_with_the_labels(patches, tmp_path):
    boxes = torch.tensor([[[4.0, 6, 40, 50], [0, 0, 32, 32], [10, 10, 60, 60]]] * 4)
    kwargs, prepared = {}, None
    if patches == "protopnet":
        kwargs, prepared = {"patch_weights": "unread"}, boxes
    if patches == "official":
        from safetensors.torch import save_file

        save_file({"boxes": boxes}, tmp_path / "boxes.safetensors")
        kwargs = {"patch_weights": str(tmp_path / "boxes.safetensors")}
    method, batch = make(patches=patches, **kwargs), batch_of(4, prepared=prepared)
    with torch.no_grad():
        found, answer = method._find(batch.image, batch).boxes, method.respond(batch)
        other = batch._replace(target=batch.target.roll(1))
        assert torch.equal(method._find(other.image, other).boxes, found)
        assert all(x is None or torch.equal(x, y) for x, y in zip(answer, method.respond(other), strict=True))
    assert found.shape == (4, 3, 4)
    if patches in ("protopnet", "official"):
        assert torch.equal(found, boxes)


def test_a_picture_of_no_dataset_gets_boxes_of_its_own_not_those_of_an_image(tmp_path):
    from safetensors.torch import save_file

    save_file({"boxes": torch.tensor([[[4.0, 6, 40, 50]], [[0, 0, 32, 32]]])}, tmp_path / "boxes.safetensors")
    method = make(patches="official", patch_weights=str(tmp_path / "boxes.safetensors"), patch_count=1)
    batch = batch_of(1)
    with torch.no_grad():
        of_image = method._find(batch.image, batch).boxes
        own = method._find(batch.image, batch._replace(image_id=torch.tensor([-1]))).boxes
        cam = method._find(batch.image, None).boxes
    assert of_image.tolist() == [[[4, 6, 40, 50]]]
    torch.testing.assert_close(own, cam)
    assert (own - of_image).abs().max() > 1


def test_stored_boxes_follow_the_image_into_a_mirrored_and_enlarged_view():
    boxes = torch.tensor([[[4.0, 6, 40, 50], [0, 0, 32, 32], [10, 10, 60, 60]]])
    frame = torch.tensor([[-0.5, 0, 32, 0, 0.5, 0]]).double()  # 64 pixels show the left half of the file, mirrored
    method = make(patches="protopnet", patch_weights="unread")
    batch = batch_of(1, prepared=to_original(boxes, frame), frame=frame)
    torch.testing.assert_close(method._find(batch.image, batch).boxes, boxes)


@pytest.mark.parametrize("patches", ["protopnet", "official"])
def test_an_extractor_without_its_file_says_how_to_make_it(patches):
    with pytest.raises(ValueError, match="need patch_weights"):
        make(patches=patches).preparation()
    with pytest.raises(ValueError, match="set it to null"):
        make(patches="cam", patch_weights="some.safetensors")


# ---- learning


@pytest.mark.parametrize("stream", ["global", "local"])
def test_each_stream_alone_learns_sixteen_images(stream):
    torch.manual_seed(0)
    method = make(outputs=2, patches="grid", patch_count=1, rank_mode="off", steps=2).train()
    target = torch.arange(16) % 2
    image = torch.randn(16, 3, 48, 48) + target[:, None, None, None] * torch.linspace(-1, 1, 48)
    batch = batch_of(16)._replace(image=image, target=target)
    optimizer = torch.optim.Adam(method.parameters(), 3e-3)
    for _ in range(15):
        found = method._find(image, batch)
        if stream == "global":
            logits = found.logits
        else:
            features = method.local.trunk(image)
            logits = method.local.logits(features, method.local(features).states)
        loss = method.classification_loss(logits, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (logits.argmax(1) == target).all()


def test_the_thesis_rates_are_those_of_the_shipped_recipe():
    tree = config.resolve(Cell("focus_longer", "cub200")).tree
    optim, epochs = Optim(**{**tree["optim"], "milestones": tuple(tree["optim"]["milestones"])}), 120
    assert tree["trainer"]["max_epochs"] == epochs
    method = make(optim)
    groups = {group["name"]: group for group in method.parameter_groups()}
    held = [id(p) for group in groups.values() for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in method.parameters())
    assert {id(p) for p in groups["new"]["params"]} == {id(p) for p in method.local.parameters()}
    assert groups["backbone"]["lr"] == pytest.approx(0.001)
    assert groups["new"]["lr"] == pytest.approx(0.01)
    steps = 188  # of an epoch: 5,994 images in batches of 32
    factors = [optim.factor(epoch * steps, epochs * steps) for epoch in (39, 40, 79, 80)]
    assert factors == pytest.approx([1, 0.1, 0.1, 0.01])
    assert optim.factor(40 * steps - 1, epochs * steps) == 1


def test_presets_differ_where_thesis_and_code_do_and_single_values_override_them():
    paper, code = make(preset="paper"), make(preset="code")
    assert paper.local.time_weight.shape == (4, 24)
    assert code.local.time_weight.shape == (1, 24)
    assert len(paper.after) == 0
    assert [m.out_channels for m in code.after if isinstance(m, nn.Conv2d)] == [1024, 1024]
    assert code.classifier.in_features == 1024
    assert make(preset="code", rank_mode="racnn").recipe == PRESETS["code"]._replace(rank_mode="racnn")


def test_vgg_keeps_its_last_pool_in_the_global_stream_only():
    with torch.device("meta"):
        method = FocusLonger(4, "class", Optim(), **{**SMALL, "backbone": "vgg19", "patches": "grid"})
        image = torch.zeros(1, 3, 64, 64)
        assert method._find(image, None).features.shape == (1, 512, 2, 2)
        assert method.local.trunk(image).shape == (1, 512, 4, 4)


# ---- figures


@pytest.mark.parametrize("local", ["lstm", "self_attention", "cnn"])
def test_figures_show_the_patch_and_each_step(local):
    method, batch = make(local=local), batch_of(1)
    found = {name: method.figure(name, batch) for name in method.figures}
    assert found["patches"]["boxes"].shape == (3, 4)
    assert found["steps"]["patch"].shape == (3, 48, 48)
    assert ("maps" in found["steps"]) == (local != "cnn")
    assert ("attention" in found) == (local == "self_attention")
    if local == "self_attention":
        torch.testing.assert_close(found["attention"]["maps"].sum((1, 2)), torch.ones(4))
    if local != "cnn":
        assert float(found["steps"]["weights"].sum()) == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(found["steps"]["maps"], method.respond(batch).steps[0])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"patches": "random"},
        {"patches": "grid", "test_patch": "random"},
        {"patches": "random", "test_patch": "mean_all"},
        {"patches": "protopnet", "patch_weights": "unread"},
    ],
    ids=["random", "random_patch", "mean_all", "prepared"],
)
def test_figures_show_the_boxes_and_the_answer_of_the_test(kwargs, monkeypatch):
    boxes = torch.tensor([[[4.0, 6, 40, 50], [0, 0, 32, 32], [10, 10, 60, 60]]] * 3)
    method, batch = make(**kwargs), batch_of(prepared=boxes)
    boxes_cut, cut = [], boxed.cut
    monkeypatch.setattr(boxed, "cut", lambda image, found, size: boxes_cut.append(found) or cut(image, found, size))
    with torch.no_grad():
        answer = method.respond(batch)
    (tested,) = boxes_cut
    steps = [method.stream_names.index(f"step_{t}") for t in range(1, 5)]
    for n in range(3):
        one = Batch(*(field[n : n + 1] for field in batch))
        patches, shown = method.figure("patches", one), method.figure("steps", one)
        torch.testing.assert_close(patches["boxes"], method._find(batch.image, batch).boxes[n])
        torch.testing.assert_close(patches["shown"], tested[n, 0])
        assert shown["predicted"].tolist() == answer.streams[n, steps].argmax(1).tolist()
        torch.testing.assert_close(shown["weights"], answer.step_weights[n])
        torch.testing.assert_close(shown["maps"], answer.steps[n], atol=1e-5, rtol=1e-3)
        assert torch.equal(patches["patch"], shown["patch"])
