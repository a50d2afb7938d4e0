"""DP-Net: exact where it can be, and on planted parts, where what it must find is known."""

import copy

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import save_file
from torch import distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Sampler

from fgbench.backbones import ARCHITECTURES
from fgbench.explain import gradients
from fgbench.layers.regions import draw_boxes
from fgbench.methods import DPNet, Optim
from fgbench.methods.base import NonFiniteLossError
from fgbench.passes import TrainingPass
from fgbench.types import Batch

CLASSES, CHANNELS, SIDE = 3, 16, 6
ADAM = Optim("adamw", 0.02, weight_decay=0.0, schedule="constant")
SMALL = {"backbone": "resnet_nano", "weights": None, "parts_per_class": 2, "regions": 40, "shown_parts": 3}
SMALL |= {"inner_epochs": 2, "mini_batch": 12, "top_parts": 2, "top_regions": 1}


def make(optim=ADAM, **kwargs):
    torch.manual_seed(0)
    return DPNet(CLASSES, "class", optim, **{**SMALL, **kwargs})


def planted(images=48, seed=0):
    """Maps of noise; a vector that belongs to the class in one cell."""
    random = torch.Generator().manual_seed(seed)
    target = torch.arange(images) % CLASSES
    maps = torch.randn(images, CHANNELS, SIDE, SIDE, generator=random)
    cell = torch.randint(SIDE, (images, 2), generator=random)
    signs = torch.randn(CLASSES, CHANNELS, generator=torch.Generator().manual_seed(9))
    vector = 2.2 * CHANNELS**0.5 * nn.functional.normalize(signs, dim=1)
    maps[torch.arange(images), :, cell[:, 0], cell[:, 1]] += vector[target]
    return batch_of(maps, target), cell


def batch_of(maps, target, image=None):
    n = len(maps)
    image = torch.zeros(1, dtype=torch.uint8).expand(n, 3, 8 * SIDE, 8 * SIDE) if image is None else image
    empty, no = torch.zeros(n, 0, 4), torch.zeros(n, 0, dtype=torch.bool)
    frame = torch.zeros(n, 6).double()
    return Batch(image, target, torch.arange(n), empty, no, torch.zeros(n, 0, 2), no, frame, maps, torch.zeros(n, 0))


def loader(batch, size=24):
    rows = [Batch(*(field[i] for field in batch)) for i in range(len(batch.image))]
    return DataLoader(rows, batch_size=size)


def train(method, batch, epochs=6, size=24, **kwargs):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, enable_checkpointing=False, use_distributed_sampler=False,
        limit_val_batches=0, callbacks=[TrainingPass(lambda: loader(batch))], **{**quiet, **kwargs}
    )  # fmt: skip
    trainer.fit(method, loader(batch, size))
    return trainer


@pytest.fixture(scope="module")
def trained():
    method = make(init="regions", sampling="all")
    train(method, planted()[0])
    return method.eval()


def accuracy(method, batch):
    with torch.no_grad():
        return float((method.respond(batch).logits.argmax(1) == batch.target).float().mean())


def test_planted_parts_are_found_and_the_mean_of_the_map_does_not_see_them(trained):
    test, cell = planted(60, seed=1)
    assert accuracy(trained, test) >= 0.95
    globally = make(head="global1")
    train(globally, planted()[0], 12)
    assert accuracy(globally.eval(), test) < 0.85
    hit = 0
    for image in range(60):
        one = Batch(*(field[image : image + 1] for field in test))
        maps = trained.maps(one)
        bag, _, index = trained.bag(trained.areas(maps, one.image_id))
        top = trained.importance(bag, trained.classifier(bag).argmax(1)).argmax(1)
        box = trained.boxes(one.image_id, (SIDE, SIDE))[0, index[0, top]]
        y, x = cell[image].tolist()
        hit += bool((box[0, 0] <= y < box[0, 2]) and (box[0, 1] <= x < box[0, 3]))
    assert hit >= 57
    heat = trained.respond(test).saliency
    peak = heat.flatten(1).argmax(1)
    assert (torch.stack([peak // SIDE, peak % SIDE], 1) == cell).all(1).float().mean() >= 0.8


def test_best_training_regions_hold_the_planted_cell_of_images_of_the_class(trained):
    train_batch, cell = planted()
    power = trained.power()
    for index in range(CLASSES):
        shown = trained.class_parts(index)
        assert shown["part"][0] == power[index].argmax()
        assert (train_batch.target[shown["image_id"][0]] == index).all()
        boxes = (shown["boxes"][0] * SIDE).round()
        y, x = cell[shown["image_id"][0]].T
        assert ((boxes[:, 0] <= y) & (y < boxes[:, 2]) & (boxes[:, 1] <= x) & (x < boxes[:, 3])).all()
        assert (shown["scores"][0].diff() <= 0).all()


def test_the_record_of_the_training_images_is_what_a_loop_finds(trained):
    batch, _ = planted()
    bags = torch.zeros(CLASSES, 6)
    best = torch.zeros(6, 48)
    for image in range(48):
        one = Batch(*(field[image : image + 1] for field in batch))
        regions = trained.areas(trained.maps(one), one.image_id).features()[0]
        best[:, image] = (regions @ trained.part.weight.T).amax(0)
        bags[batch.target[image]] += best[:, image] / best[:, image].norm() / 16
    torch.testing.assert_close(trained.class_bag, bags.detach(), atol=1e-5, rtol=1e-4)
    values, order = best.topk(5, dim=1)
    torch.testing.assert_close(trained.best_score, values.detach())
    assert torch.equal(trained.best_image, order)


@pytest.mark.parametrize("sampling", ["uniform_corners", "area_range"])
def test_neither_a_step_nor_a_pass_nor_a_test_copies_to_the_device_or_waits_for_it(sampling, monkeypatch):
    """Forbidden is what does so on a GPU: asking a tensor for a number, making one of numbers, counting labels."""
    method, (batch, _) = make(sampling=sampling), planted(12)
    method.observe(batch)
    method.conclude()
    restored = make(sampling=sampling)
    restored.load_state_dict(method.state_dict())

    def forbidden(*_, **__):
        raise AssertionError("the device is waited for")

    monkeypatch.setattr(torch, "tensor", forbidden)
    monkeypatch.setattr(torch, "bincount", forbidden)
    for name in ("__bool__", "__int__", "__float__", "__index__", "item", "tolist", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, forbidden)
    for one in (method, restored):
        loss, _ = one.train().loss(batch)
        loss.backward()
        with torch.no_grad():
            one.eval().observe(batch)
            one.respond(batch)
            one.look(batch)


def test_whether_a_pass_was_made_is_known_by_a_checkpoint_and_by_each_copy_for_itself():
    method, (batch, _) = make(), planted(12)
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():  # as in a pass
        method.observe(batch)
        method.conclude()
    twin = copy.deepcopy(method)
    assert (method.concluded, twin.concluded, make().concluded) == (True, True, False)
    twin.load_state_dict(before)
    assert (method.concluded, twin.concluded) == (True, False)
    twin.load_state_dict(method.state_dict())
    assert twin.concluded
    assert torch.equal(twin.power(), method.power())


def test_contributions_add_up_to_the_logit(trained):
    batch, _ = planted(9, seed=2)
    bag, best, _ = trained.bag(trained.areas(trained.maps(batch), batch.image_id))
    torch.testing.assert_close(bag.norm(dim=1), torch.ones(9))
    torch.testing.assert_close(bag * best.norm(dim=1, keepdim=True), best)
    for index in range(CLASSES):
        total = trained.shares(bag, torch.full((9,), index)).sum(1)
        torch.testing.assert_close(total, trained.respond(batch).logits[:, index], atol=1e-6, rtol=1e-6)


def test_a_direction_adds_what_the_logit_loses_without_the_parts_that_are_nearest_to_it(trained):
    batch, _ = planted(5, seed=3)
    index = torch.tensor([2, 0, 1, 1, 0])
    whole = trained.respond(batch).logits
    added = trained.contributions(batch, index)
    assert added.count_nonzero() > 5
    torch.testing.assert_close(added.sum(1), whole.gather(1, index[:, None])[:, 0])
    cosine = nn.functional.cosine_similarity(trained.part.weight[:, None], trained.group_directions()[None], dim=2)
    for group in range(3):
        without = copy.deepcopy(trained)
        with torch.no_grad():
            without.classifier.weight[:, cosine.argmax(1) == group] = 0
        lost = (whole - without.respond(batch).logits).gather(1, index[:, None])[:, 0]
        torch.testing.assert_close(added[:, group], lost, atol=1e-6, rtol=1e-5)


def test_one_region_of_the_whole_map_is_a_linear_network_on_its_mean():
    method = make(regions=1, sampling="fixed_grid", bag_norm=False)
    batch, _ = planted(5)
    expected = batch.prepared.mean((2, 3)) @ method.part.weight.T @ method.classifier.weight.T
    torch.testing.assert_close(method.respond(batch).logits, expected, atol=1e-6, rtol=1e-5)


def test_training_leaves_the_network_as_it_was_and_learns_parts_and_classifier_only():
    method = make(store="none")
    for module in method.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
    before = copy.deepcopy(method.backbone.state_dict())
    image = torch.randint(256, (24, 3, 48, 48), dtype=torch.uint8)
    trainer = train(method, batch_of(torch.zeros(24, 0), torch.arange(24) % 3, image), 1, 24)
    assert all(torch.equal(value, before[name]) for name, value in method.backbone.state_dict().items())
    held = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert [id(p) for p in held] == [id(method.part.weight), id(method.classifier.weight)]
    assert trainer.global_step == 4  # two passes, two mini-batches
    assert not any(module.training for module in method.train().backbone.modules())


def test_stored_maps_say_what_the_image_says():
    method = make().eval()
    image = torch.randint(256, (4, 3, 48, 48), dtype=torch.uint8)
    batch = batch_of(torch.zeros(4, 0), torch.arange(4) % 3, image)
    seen = method.on_after_batch_transfer(batch, 0)
    preparation = method.preparation()
    stored = batch._replace(prepared=preparation.compute(seen.image))
    assert stored.prepared.dtype == torch.float16
    assert torch.equal(method.on_after_batch_transfer(stored, 0).image, image)  # not normalised: nobody looks at it
    torch.testing.assert_close(method.respond(stored).logits, method.respond(seen).logits, atol=1e-4, rtol=2e-3)


def test_what_is_stored_is_named_by_weights_and_tap(tmp_path):
    assert make(store="none").preparation() is None
    keys = [make(backbone=name, tap=tap).preparation().key for name, tap in (("vgg19", None), ("vgg19", "conv5_4"))]
    assert keys[0]["tap"] == "pool5"
    assert keys[1]["tap"] == "conv5_4"
    assert make().preparation().key == make().preparation().key
    torch.manual_seed(1)
    other = DPNet(CLASSES, "class", ADAM, **SMALL)  # drawn by another seed
    assert other.preparation().key["weights"] != make().preparation().key["weights"]
    files = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for file in files:
        state = ARCHITECTURES["resnet_nano"].build().state_dict()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    told = [make(weights=str(file)).preparation().key["weights"] for file in files]
    assert told[0] != told[1]
    means = [make(weights=str(files[0]), mean=mean).preparation().key for mean in (None, (0.5, 0.5, 0.5))]
    assert means[0] != means[1]


def test_vggs_map_is_the_one_after_the_fifth_pool():
    image = torch.randn(1, 3, 64, 64)
    one, other = (make(backbone="vgg19", tap=tap).network(image) for tap in ("pool5", "conv5_4"))
    assert one.shape[2:] == (2, 2)
    torch.testing.assert_close(one, nn.functional.max_pool2d(other, 2))


def test_regions_are_an_images_own_or_an_epochs_or_everybodys():
    ids = torch.tensor([5, 8])
    fixed, epochs, shared = (make(draw=draw) for draw in ("per_image_fixed", "per_epoch", "shared"))
    expected = draw_boxes("uniform_corners", 40, (6, 6), 0, ids)
    assert torch.equal(fixed.train().boxes(ids, (6, 6)), expected)
    assert torch.equal(epochs.eval().boxes(ids, (6, 6)), expected)
    assert not torch.equal(epochs.train().boxes(ids, (6, 6)), expected)
    assert shared.boxes(ids, (6, 6)).shape == (1, 40, 4)


@pytest.mark.parametrize("head", ["global1", "global2", "global2_linear"])
def test_baselines_are_linear_layers_on_the_mean_and_their_evidence_adds_up(head):
    method = make(head=head).eval()
    batch, _ = planted(4)
    output, pooled = method.respond(batch), batch.prepared.mean((2, 3))
    hidden = pooled if head == "global1" else method.part(pooled)
    logits = method.classifier(hidden.relu() if head == "global2" else hidden)
    torch.testing.assert_close(output.logits, logits)
    assert output.parts is None
    leaf = batch.prepared.clone().requires_grad_()
    method.respond(batch._replace(prepared=leaf)).logits.amax(1).sum().backward()
    cam = (leaf.grad * SIDE * SIDE * batch.prepared).sum(1).relu()
    torch.testing.assert_close(output.saliency, cam, atol=1e-4, rtol=1e-4)


def test_what_is_looked_at_is_the_image_with_its_own_regions_and_the_class_that_is_asked_for(trained):
    batch, _ = planted(9, seed=2)
    found, output = trained.look(batch), trained.respond(batch)
    torch.testing.assert_close(found["heatmap"], output.saliency)
    torch.testing.assert_close(found["logit"], output.logits.amax(1))
    assert torch.equal(found["class"], output.logits.argmax(1))
    other = (found["class"] + 1) % CLASSES
    asked = trained.look(batch, other)
    assert torch.equal(asked["predicted"], found["class"])
    torch.testing.assert_close(asked["logit"], output.logits.gather(1, other[:, None])[:, 0])
    # the strongest region, one image, part and rectangle after the other
    for image in range(9):
        one = Batch(*(field[image : image + 1] for field in batch))
        index, best = int(found["class"][image]), (-1e9, None)
        top = trained.power()[index].topk(2).indices.tolist()
        for y0, x0, y1, x1 in trained.boxes(one.image_id, (SIDE, SIDE))[0].tolist():
            mean = batch.prepared[image, :, y0:y1, x0:x1].mean((1, 2))
            for part in top:
                adds = float(trained.classifier.weight[index, part] * (trained.part.weight[part] @ mean))
                best = max(best, (adds, (y0, x0, y1, x1)))
        assert (found["box"][image] * SIDE).round().int().tolist() == list(best[1])


def test_a_heatmap_ranks_regions_by_the_scores_that_classify():
    # one part; a large dull region has the largest product, a small pure one the largest cosine
    method = make(parts_per_class=1, regions=1, sampling="all", region_norm="l2", top_parts=1)
    maps = torch.zeros(1, CHANNELS, SIDE, SIDE)
    maps[0, 1], maps[0, 0, 1, 2] = 0.01, 1.0
    maps[0, 0, 4:, 3:], maps[0, 1, 4:, 3:] = 2.0, 6.0
    with torch.no_grad():
        method.part.weight.zero_()
        method.part.weight[:, 0] = 1
        method.classifier.weight.fill_(1)
    found = method.look(batch_of(maps, torch.zeros(1, dtype=torch.int64)))
    assert (found["box"][0] * SIDE).round().int().tolist() == [1, 2, 2, 3]
    heat = torch.zeros(SIDE, SIDE)
    heat[1, 2] = 1
    torch.testing.assert_close(found["heatmap"][0], heat)


def test_histograms_count_what_loops_count(trained):
    batch, _ = planted(4, seed=3)
    regions = trained.areas(trained.maps(batch), batch.image_id)
    unit = nn.functional.normalize(trained.part.weight.detach(), dim=1)
    nearest = [int((unit @ x).argmax()) for x in regions.features().flatten(0, 1)]
    assert trained.assigned(regions).tolist() == [nearest.count(part) for part in range(6)]
    shares = trained.classifier.weight.detach() * trained.class_bag
    most = [set(row.topk(2).indices.tolist()) for row in shares]
    assert trained.shared().tolist() == [sum(part in chosen for chosen in most) for part in range(6)]
    pairs = [float(unit[i] @ unit[j]) for i in range(6) for j in range(i)]
    expected, _ = np.histogram(pairs, 40, (-1, 1))
    assert trained.cosines().tolist() == expected.tolist()


@pytest.mark.parametrize("explainer", ["grad_cam", "integrated"])
@pytest.mark.parametrize("head", ["parts", "global1"])
def test_explainers_that_need_gradients_find_them(head, explainer):
    method = make(head=head).eval()
    image = torch.randn(2, 3, 48, 48)
    found = getattr(gradients, explainer)(method, image)
    torch.testing.assert_close(found.output.logits, method(image).logits, atol=1e-5, rtol=1e-4)
    assert found.saliency.isfinite().all()
    assert found.saliency.flatten(1).amax(1).min() > 0
    assert all(p.grad is None for p in method.parameters())


def test_evidence_of_the_linear_baseline_is_its_layer():
    one = make(head="global1")
    assert torch.equal(one.linear_evidence(), one.classifier.weight)
    assert make(head="global2").linear_evidence() is None
    assert make().linear_evidence() is None


def test_gradients_are_clipped_to_the_norm_that_the_trainer_was_given():
    # plain gradient descent: a step is as long as rate times the gradient's norm
    method, plain = (make(Optim("sgd", 1.0, 1.0, 0.0, 0.0, "constant"), init="normal", inner_epochs=1) for _ in "ab")
    method.gradient_clip = 1e-3
    moved = []
    for one in (method, plain):
        before = [p.detach().clone() for p in (one.part.weight, one.classifier.weight)]
        train(one, planted(12)[0], 1, 12)
        after = (one.part.weight, one.classifier.weight)
        moved.append(torch.cat([(a - b).detach().flatten() for a, b in zip(after, before, strict=True)]))
    assert float(moved[0].norm()) == pytest.approx(1e-3, rel=1e-2)
    torch.testing.assert_close(moved[0] / moved[0].norm(), moved[1] / moved[1].norm(), atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("init", ["regions", "kmeans", "normal"])
def test_parts_begin_as_training_regions_or_their_centres(init):
    method = make(init=init)
    batch, _ = planted(24)
    method.begin(batch)
    weight = method.part.weight.detach()
    regions = method.areas(batch.prepared, batch.image_id).features().flatten(0, 1)
    best = (nn.functional.normalize(regions, dim=1) @ nn.functional.normalize(weight, dim=1).T).amax(0)
    if init == "regions":
        torch.testing.assert_close(best, torch.ones(6))
        assert len(torch.unique(weight, dim=0)) == 6
    assert (best.mean() > 0.9) == (init == "regions")
    assert (weight.norm(dim=1) - 1).abs().max() < 1e-5 or init == "normal"


def test_constraints_reach_the_loss_with_their_weights():
    batch, _ = planted(6)
    plain, weighed = make(), make(perp=2.0, assign=3.0, specific=5.0)
    weighed.load_state_dict(plain.state_dict())
    loss, terms = weighed.loss(batch)
    expected = plain.loss(batch)[0] + 2 * terms["perp"] + 3 * terms["assign"] + 5 * terms["specific"]
    torch.testing.assert_close(loss, expected)
    even = make(perp=2.0, assign=(3.0, 7.0), specific=5.0)
    even.load_state_dict(plain.state_dict())
    more, terms = even.loss(batch)
    torch.testing.assert_close(more, expected + 7 * terms["balance"])
    assert terms["balance"] > 0
    assert not any(term.requires_grad for term in terms.values())
    assert make(classifier_init="class").classifier.weight[0].tolist() == [1, 1, -0.5, -0.5, -0.5, -0.5]


def test_a_loss_that_is_not_finite_inside_the_first_chunk_is_named(monkeypatch):
    monkeypatch.setattr("fgbench.methods.base.CHECK_EVERY", 1)
    batch = planted()[0]
    method = make()
    with pytest.raises(NonFiniteLossError, match="step 1, process 0: loss nan, classification nan"):
        train(method, batch._replace(prepared=batch.prepared * torch.nan), epochs=1)


def test_a_step_that_the_processes_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr("fgbench.methods.chunks.world_size", lambda: 2)
    with pytest.raises(ValueError, match="mini_batch is of all processes: 5 cannot be divided over 2"):
        make(mini_batch=5).total_steps()
    method = make(mini_batch=6, inner_epochs=2)
    assert method.steps_of(10) == 2 * 4  # of a share of ten, three at a time: three, three, three, one


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tap": "pool5"}, "tap pool5 is a layer of VGG"),
        ({"regions": 0}, "regions is 0"),
        ({"inner_epochs": 0}, "inner_epochs is 0"),
        ({"mini_batch": 0}, "mini_batch is 0"),
        ({"perp": -1.0}, "perp=-1.0"),
        ({"assign": (0.1, -1.0)}, "balance=-1.0"),
        ({"area": (0.5, 0.2)}, "area="),
    ],
)
def test_impossible_arguments_are_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        make(**wrong)


class Halves(Sampler):
    """Chunks of 24, of which each of two processes has a half."""

    batch_size = 24

    def __iter__(self):
        for start in (0, 24):
            first = start + 12 * dist.get_rank()
            yield list(range(first, first + 12))

    def __len__(self):
        return 2


def test_two_processes_end_in_the_parts_and_the_record_of_one():
    # whole chunks of 24 in one process are two halves in two, in the order of the loader
    plain = Optim("sgd", 0.1, weight_decay=0.0, schedule="constant")
    batch, _ = planted()
    alone, both = (make(plain, mini_batch=None, init="kmeans", assign=0.1) for _ in range(2))
    train(alone, batch, 2)
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    rows = [Batch(*(field[i] for field in batch)) for i in range(48)]
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy=strategy, max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, limit_val_batches=0,
        callbacks=[TrainingPass(lambda: DataLoader(rows, batch_sampler=Halves()))],
    )  # fmt: skip
    trainer.fit(both, DataLoader(rows, batch_sampler=Halves()))
    found = both.state_dict()  # what the processes ended with
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3, msg=name)
    assert alone.concluded
