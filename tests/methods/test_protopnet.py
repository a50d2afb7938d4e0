import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from fgbench import bench, config, run
from fgbench.cells import Cell
from fgbench.data.samplers import EvalBatches, TrainBatches
from fgbench.methods import Optim, ProtoPNet
from fgbench.methods.protopnet import EXTENT, PICTURE, cluster_and_separation, cut
from fgbench.methods.prototype_patches import PatchExtractor, load_protopnet
from fgbench.methods.prototype_stages import timetable
from fgbench.passes import TrainingPass
from fgbench.pretrained import WeightsError
from fgbench.report.method_figures import write_method_figure
from fgbench.resume import RepeatableEpochs
from fgbench.types import Batch

IMAGES, CLASSES, PER_CLASS = 12, 3, 2


class Images(Dataset):
    """Coloured noise, one colour per class; keys are those of the samplers."""

    def __getitem__(self, key):
        row = key[0]
        image = torch.randint(80, (3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(row))
        image[row % CLASSES] += 150
        empty, no = torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool)
        return Batch(
            image, torch.tensor(row % CLASSES), torch.tensor(row), empty, no, torch.zeros(0, 2), no, torch.zeros(6)
        )


def make(optim=None, **kwargs):
    torch.manual_seed(2)
    given = {"per_class": PER_CLASS, "channels": 8, "parts": 2, "warm": 0.25, "last": 0.5, "projections": 1, **kwargs}
    return ProtoPNet(
        CLASSES, "class", optim or Optim(name="adam", lr=1e-2), backbone="resnet_nano", weights=None, **given
    )


def loader():
    return DataLoader(Images(), batch_sampler=EvalBatches(np.arange(IMAGES), 4))


def fit(folder, method, epochs=4, callbacks=(), processes=1, resume=None):
    several = {"strategy": "ddp_fork", "devices": processes} if processes > 1 else {"devices": 1}
    keep = ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=epochs,
        use_distributed_sampler=False, callbacks=[RepeatableEpochs(0), TrainingPass(loader), *callbacks, keep],
        default_root_dir=folder, **several,
    )  # fmt: skip
    training = DataLoader(Images(), batch_sampler=TrainBatches(np.arange(IMAGES), 6, 0))
    trainer.fit(method, training, ckpt_path=resume, weights_only=True)
    return method


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Not to be changed."""
    return fit(tmp_path_factory.mktemp("trained"), make()).eval()


def copy_of(method):
    return {name: value.clone() for name, value in method.state_dict().items()}


class PerEpoch(Callback):
    """The state at the start of each epoch and before the pass; rates in each step."""

    def __init__(self):
        self.states, self.rates = [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.states.append(copy_of(pl_module))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def test_a_class_starts_with_its_prototypes_for_it_and_half_of_the_others_against():
    assert make().classifier.weight.tolist() == [
        [1, 1, -0.5, -0.5, -0.5, -0.5], [-0.5, -0.5, 1, 1, -0.5, -0.5], [-0.5, -0.5, -0.5, -0.5, 1, 1],
    ]  # fmt: skip


def test_only_a_vgg_gets_its_fifth_pool_unless_asked():
    with torch.device("meta"):
        vgg = ProtoPNet(4, "class", Optim(), backbone="vgg16_bn", weights=None)
    assert vgg.pool(torch.zeros(1, 2, 14, 14)).shape == (1, 2, 7, 7)
    assert make().pool(torch.zeros(1, 2, 7, 7)).shape == (1, 2, 7, 7)
    assert make(pool=True).pool(torch.zeros(1, 2, 7, 7)).shape == (1, 2, 3, 3)
    assert config.tree_of(Cell("protopnet", "cub200"), files=False)["method"]["init_args"]["pool"] is None


@pytest.mark.parametrize("apart", [2, 4])
def test_a_window_is_the_mean_of_the_cells_that_lie_around_the_cell_it_becomes(apart):
    maps = torch.rand(2, 5, 16, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = make(average=apart).pool(maps)
    assert found.shape == (2, 5, 16 // apart, 8 // apart)
    for row, column in np.ndindex(16 // apart, 8 // apart):
        x, y = (column + 0.5) / (8 // apart), (row + 0.5) / (16 // apart)  # its centre, in units of the sides
        around = [
            maps[:, :, i, j]
            for i, j in np.ndindex(16, 8)
            if abs((i + 0.5) / 16 - y) < apart / 16 and abs((j + 0.5) / 8 - x) < apart / 8
        ]
        torch.testing.assert_close(found[:, :, row, column], sum(around) / len(around))


def test_a_map_that_windows_do_not_divide_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="average is 2, which does not divide the 7 x 8 cells"):
        make(average=2).pool(torch.zeros(1, 2, 7, 8))


def test_windows_average_what_the_network_sees_in_training_and_in_test():
    method = make(average=2).eval()
    image = torch.rand(2, 3, 64, 64)
    fine = method.backbone(image)
    with torch.no_grad():
        assert method.similarities(image).shape[2:] == (fine.shape[2] // 2, fine.shape[3] // 2)
        method.stage = "joint"
        seen = []
        method.add_on.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[2:]))
        fields = [torch.tensor([0, 1]), torch.arange(2), *[torch.zeros(2, 0)] * 5]
        method.loss(Batch(image, *fields))
    assert seen == [(fine.shape[2] // 2, fine.shape[3] // 2)]


def test_the_costs_are_those_of_a_loop_over_pairs():
    distance, target = torch.rand(5, 12).double(), torch.tensor([0, 3, 1, 1, 2])
    cluster, separation = cluster_and_separation(distance.view(5, 4, 3).amin(2), target)
    own = [min(float(distance[b, p]) for p in range(12) if p // 3 == target[b]) for b in range(5)]
    others = [min(float(distance[b, p]) for p in range(12) if p // 3 != target[b]) for b in range(5)]
    assert float(cluster) == pytest.approx(np.mean(own))
    assert float(separation) == pytest.approx(np.mean(others))


def test_the_loss_is_its_terms_by_the_weights_of_the_paper():
    method = make()
    batch = method.on_after_batch_transfer(next(iter(loader())), 0)
    loss, terms = method.loss(batch)
    parts = terms["classification"] + 0.8 * terms["cluster"] - 0.08 * terms["separation"] + 1e-4 * terms["off_class"]
    torch.testing.assert_close(loss.detach(), parts)
    assert float(terms["off_class"]) == 0.5 * CLASSES * (CLASSES - 1) * PER_CLASS


def test_loss_and_gradients_are_those_of_the_printed_equations_prototype_by_prototype():
    method = make(channels=4).eval()
    batch = method.on_after_batch_transfer(next(iter(loader())), 0)
    with torch.no_grad():
        x = method.backbone(batch.image).double().flatten(2).transpose(1, 2)
    first, _, second = method.add_on
    learnt = [first.weight, first.bias, second.weight, second.bias, method.prototypes]
    given = [value.detach().double().requires_grad_() for value in learnt]
    hidden = (x @ given[0][:, :, 0, 0].T + given[1]).clamp(min=0)
    cells = 1 / (1 + torch.exp(-(hidden @ given[2][:, :, 0, 0].T + given[3])))
    near = [((cells - prototype) ** 2).sum(2).min(1).values for prototype in given[4]]
    of = [number // PER_CLASS for number in range(len(near))]
    expected = torch.zeros(())
    for row, label in enumerate(batch.target.tolist()):
        alike = [torch.log((distance[row] + 1) / (distance[row] + 1e-4)) for distance in near]
        logits = [sum(s if c == k else -0.5 * s for s, c in zip(alike, of, strict=True)) for k in range(CLASSES)]
        cross_entropy = torch.stack(logits).exp().sum().log() - logits[label]
        own = torch.stack([distance[row] for distance, c in zip(near, of, strict=True) if c == label]).min()
        other = torch.stack([distance[row] for distance, c in zip(near, of, strict=True) if c != label]).min()
        expected = expected + (cross_entropy + 0.8 * own - 0.08 * other) / len(batch.target)
    loss = method.loss(batch)[0]
    last_layer = 1e-4 * 0.5 * CLASSES * (CLASSES - 1) * PER_CLASS
    assert loss.item() == pytest.approx(expected.item() + last_layer, abs=1e-5)
    for got, wanted in zip(torch.autograd.grad(loss, learnt), torch.autograd.grad(expected, given), strict=True):
        torch.testing.assert_close(got.double(), wanted.view_as(got), rtol=1e-3, atol=1e-5)


def test_a_step_on_separation_alone_moves_other_classes_prototypes_away():
    method = make(cluster=0.0, separation=1.0, off_class=0.0).eval()
    batch = method.on_after_batch_transfer(next(iter(loader())), 0)
    before = method.loss(batch)[1]["separation"]
    loss, terms = method.loss(batch)
    gradient = torch.autograd.grad(
        loss - method.classification_loss(method(batch.image).logits, batch), method.prototypes
    )
    with torch.no_grad():
        method.prototypes -= 0.05 * gradient[0]
    assert float(method.loss(batch)[1]["separation"]) > float(before)
    assert terms.keys() == {"classification", "cluster", "separation", "off_class"}


@pytest.mark.parametrize(("still_norm", "moves"), [(None, True), ("always", False)])
def test_batch_norm_keeps_its_moments_in_all_stages_if_asked_and_in_warm_moves_them_if_not(tmp_path, still_norm, moves):
    look = PerEpoch()
    fit(tmp_path, make(still_norm=still_norm), epochs=3, callbacks=[look])
    assert [entry.stage for entry in timetable(3, 0.25, 0.5, 1)] == ["warm", "joint", "last"]
    moments = [name for name in look.states[0] if "running_" in name]
    assert moments
    for before, after in pairwise(look.states):
        same = all(torch.equal(before[name], after[name]) for name in moments)
        assert same != moves


@pytest.mark.parametrize(("epochs", "projections"), [(1, 3), (2, 3), (7, 2), (30, 3), (100, 0)])
def test_a_timetable_has_every_epoch_once_and_projects_after_joint_ones(epochs, projections):
    table = timetable(epochs, 0.1, 0.3, projections)
    assert len(table) == epochs
    assert all(entry.stage == "joint" for entry in table if entry.projects)
    assert sum(entry.projects for entry in table) == min(projections, epochs - round(0.1 * epochs))
    warm = [entry.stage for entry in table].index("joint")
    assert warm == min(round(0.1 * epochs), epochs - 1)
    assert all(after.stage != "last" or before.stage == "last" or before.projects
               for before, after in pairwise(table))  # fmt: skip


def test_each_stage_moves_what_it_is_said_to_move_and_nothing_else(tmp_path):
    look = PerEpoch()
    method = fit(tmp_path, make(Optim(name="adam", lr=1e-2, weight_decay=1e-3)), callbacks=[look])
    assert [entry.stage for entry in timetable(4, 0.25, 0.5, 1)] == ["warm", "joint", "last", "last"]
    look.states.append(copy_of(method))
    kinds = {"backbone": "backbone.stages", "add_on": "add_on", "prototypes": "prototypes", "last": "classifier"}
    for epoch, expected in enumerate(
        [{"add_on", "prototypes"}, {"backbone", "add_on", "prototypes"}, {"last"}, {"last"}]
    ):
        learned = {name for name, _ in method.named_parameters()}
        before, after = look.states[epoch : epoch + 2]
        moved = {name for name in learned if not torch.equal(before[name], after[name])}
        assert {kind for kind, prefix in kinds.items() if any(n.startswith(prefix) for n in moved)} == expected, epoch
    moments = [name for name in look.states[3] if "running" in name]
    assert moments
    assert all(torch.equal(look.states[2][name], look.states[3][name]) for name in moments)


def test_rates_are_those_of_the_paper_and_fall_over_joint_epochs_only(tmp_path):
    look = PerEpoch()
    optim = Optim(name="adam", lr=1e-4, new_layer_factor=30.0, schedule="step", milestones=(0.5,))
    method = make(optim)
    fit(tmp_path, method, callbacks=[look])  # two steps an epoch: warm, joint, last, last
    assert [group["name"] for group in method.parameter_groups()] == ["backbone", "new", "prototypes", "last"]
    assert [group.get("weight_decay") for group in method.parameter_groups()] == [None, None, 0, 0]
    full = [1e-4, 3e-3, 3e-3]
    assert look.rates[0] == look.rates[1] == look.rates[2] == pytest.approx([*full, 1e-4])
    assert look.rates[3] == pytest.approx([*(0.1 * rate for rate in full), 1e-4])
    assert {rates[3] for rates in look.rates} == {1e-4}


def test_a_projected_prototype_is_exactly_a_patch_of_a_training_image_of_its_class(trained):
    method, cells = trained, {}
    with torch.no_grad():
        for shown in loader():
            batch = method.on_after_batch_transfer(shown, 0)
            cells |= dict(zip(batch.image_id.tolist(), method.cells(batch.image), strict=True))
    for number, prototype in enumerate(method.prototypes.detach()):
        source = int(method.source[number])
        assert source % CLASSES == number // PER_CLASS
        u, v = cells[source].shape[1:]
        x, y = (method.place[number] * torch.tensor([v, u]) - 0.5).round().long().tolist()
        assert torch.equal(cells[source][:, y, x], prototype)
    assert method.picture.any()


@pytest.mark.filterwarnings("ignore")
def test_two_processes_project_the_same_as_one(tmp_path):
    states = []
    for processes in (1, 2):
        method = make(Optim(lr=1e-30), warm=0.0)  # steps change nothing: what differs would be the projection
        for module in method.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.0
        fit(tmp_path / str(processes), method, epochs=1, processes=processes)
        states.append(torch.load(tmp_path / str(processes) / "last.ckpt", weights_only=True)["state_dict"])
    assert set(states[0]["source"].tolist()) <= set(range(IMAGES))
    for name in ("prototypes", "source", "place", "picture", "group"):
        assert torch.equal(states[0][name], states[1][name]), name


def test_a_run_killed_in_its_last_stage_ends_in_the_same_weights(tmp_path, trained):
    class Kill(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 3:
                raise RuntimeError("killed")

    expected = copy_of(trained)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "killed", make(), callbacks=[Kill()])
    found = copy_of(fit(tmp_path / "killed", make(), resume=tmp_path / "killed/last.ckpt"))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def images_of(method, count=3):
    return method.on_after_batch_transfer(next(iter(loader())), 0).image[:count]


def test_bound_parts_are_the_similarities_to_each_prototype_of_one_class_by_a_loop():
    method = make().eval()
    image = method.normalise(next(iter(loader())).image)
    with torch.no_grad():
        said, asked = method(image), method.show(image, torch.tensor([2, 0, 1, 1]))
        cells = method.cells(image).double()
    torch.testing.assert_close(asked.logits, said.logits)
    for output, classes in ((said, said.logits.argmax(1).tolist()), (asked, [2, 0, 1, 1])):
        assert output.bound_parts.shape == (4, PER_CLASS, *cells.shape[2:])
        for b, k in enumerate(classes):
            for m in range(PER_CLASS):
                prototype = method.prototypes[k * PER_CLASS + m].detach().double()
                for row, column in ((0, 0), (1, 2)):
                    distance = ((cells[b, :, row, column] - prototype) ** 2).sum()
                    expected = torch.log((distance + 1) / (distance + 1e-4))
                    assert float(output.bound_parts[b, m, row, column]) == pytest.approx(float(expected), rel=1e-3)
    torch.testing.assert_close(asked.saliency, method.explain(image, torch.tensor([2, 0, 1, 1])))


def test_saliency_is_the_weighed_similarity_to_the_predicted_class():
    method = make().eval()
    image = images_of(method)
    output, maps = method(image), method.similarities(image)
    for b in range(3):
        k = int(output.logits[b].argmax())
        expected = sum(max(0.0, float(method.classifier.weight[k, p])) * maps[b, p] for p in (2 * k, 2 * k + 1))
        torch.testing.assert_close(output.saliency[b], expected)


def test_a_group_adds_what_the_logit_loses_without_its_prototypes():
    method = make(parts=3).eval()
    torch.nn.init.normal_(method.classifier.weight)
    method.group.copy_(torch.tensor([0, 2, 2, 1, 0, 2]))
    image = images_of(method)
    batch = Batch(image, *[torch.zeros(3, dtype=torch.int64)] * 7)
    index = torch.tensor([1, 2, 0])
    added, whole = method.contributions(batch, index), method(image).logits
    torch.testing.assert_close(added.sum(1), whole.gather(1, index[:, None])[:, 0])
    for group, prototypes in enumerate(([0, 4], [3], [1, 2, 5])):
        kept = method.classifier.weight.detach().clone()
        with torch.no_grad():
            method.classifier.weight[:, prototypes] = 0
        lost = (whole - method(image).logits).gather(1, index[:, None])[:, 0]
        torch.testing.assert_close(added[:, group], lost, atol=1e-5, rtol=1e-4)
        method.classifier.weight.data.copy_(kept)


def test_patches_of_test_images_do_not_depend_on_labels():
    method = make().eval()
    extractor = PatchExtractor(method, 2)
    batch = next(iter(loader()))
    boxes = extractor(method.on_after_batch_transfer(batch, 0).image)
    permuted = batch._replace(target=batch.target[torch.tensor([1, 2, 3, 0])])
    assert torch.equal(extractor(method.on_after_batch_transfer(permuted, 0).image), boxes)
    # Nor on how classes are numbered: prototypes and last layer in another order say the same.
    other, order = make().eval(), torch.tensor([2, 0, 1])
    rows = (order[:, None] * PER_CLASS + torch.arange(PER_CLASS)).flatten()
    with torch.no_grad():
        other.prototypes.copy_(method.prototypes[rows])
        other.classifier.weight.copy_(method.classifier.weight[order][:, rows])
    assert torch.equal(PatchExtractor(other, 2)(method.on_after_batch_transfer(batch, 0).image), boxes)


def test_patches_come_strongest_first_in_pixels_of_the_images_that_came():
    method = make().eval()
    image = images_of(method)
    large = torch.nn.functional.interpolate(image, (96, 96), mode="nearest")
    boxes = PatchExtractor(method, 6, size=48)(large)
    assert boxes.shape == (3, 6, 4)
    assert float(boxes.max()) > 48
    small = torch.nn.functional.interpolate(large, (48, 48), mode="bilinear", antialias=True)
    peaks = method.similarities(small).flatten(2).amax(2)
    top = peaks.argsort(1, descending=True)
    alone = PatchExtractor(method, 1, size=48)(large)
    assert torch.equal(boxes[:, :1], alone)
    assert (peaks.gather(1, top).diff(dim=1) <= 0).all()


def test_images_normalised_for_another_network_are_normalised_anew():
    method = make().eval()
    raw = next(iter(loader())).image
    theirs = (raw.float() / 255 - 0.5) / 0.25
    extractor = PatchExtractor(method, 3, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    assert torch.equal(extractor(theirs), PatchExtractor(method, 3)(method.normalise(raw)))


def test_more_patches_than_prototypes_are_refused():
    with pytest.raises(ValueError, match="7 patches are asked for, but there are 1 to 6"):
        PatchExtractor(make(), 7)


def test_a_trained_run_is_saved_whole_and_loaded_by_its_content(tmp_path):
    overrides = ("--method.init_args.backbone", "resnet_nano", "--method.init_args.weights", "null",
                 "--machine.runs", str(tmp_path), "--method.init_args.per_class", "2")  # fmt: skip
    plan = config.resolve(Cell("protopnet", "toybirds", overrides=overrides))
    plan.run_folder.mkdir(parents=True)
    bench.write_config(plan)
    _, method = config.instantiate(plan.tree)
    (plan.run_folder / "checkpoints").mkdir()
    torch.save({"state_dict": method.state_dict()}, plan.run_folder / "checkpoints/last.ckpt")
    (plan.run_folder / "fit.json").write_text(json.dumps({"commit": "abc"}))
    file = tmp_path / "protopnet.safetensors"
    run.export_weights(plan.run_folder, file, whole=True)
    loaded = load_protopnet(str(file))
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(image).logits, method.eval()(image).logits)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    run.export_weights(plan.run_folder, tmp_path / "backbone.safetensors")
    with pytest.raises(WeightsError, match="not a trained ProtoPNet"):
        load_protopnet(str(tmp_path / "backbone.safetensors"))


def test_pictures_are_what_lies_around_a_place():
    side = 320
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    image[0, 0, 100:120, 200:220] = 255
    found = cut(image, torch.tensor([[[210 / side, 110 / side], [0.9, 0.9]]]))
    assert found.shape == (1, 2, 3, PICTURE, PICTURE)
    bright = (found[0, 0, 0] > 127).nonzero()
    assert (bright.float().mean(0) - (PICTURE - 1) / 2).abs().max() < 1
    assert len(bright) ** 0.5 == pytest.approx(20 / side / EXTENT * PICTURE, abs=1)
    assert not found[0, 1].any()


def test_figures_show_prototypes_with_the_patches_that_they_are(tmp_path, trained):
    method = trained
    one = Batch(*(field[:1] for field in next(iter(loader()))))
    image, shown = one.image, method.on_after_batch_transfer(one, 0)
    for name, count in (("prototypes", 5), ("gallery", PER_CLASS)):
        found = method.figure(name, shown)
        assert len(found["maps"]) == len(found["picture"]) == count
        assert torch.equal(found["class"], found["source"] % CLASSES)
        weights = method.classifier.weight[int(found["predicted"])]
        assert all(float(found["weight"][n]) in weights[int(c) * PER_CLASS :][:PER_CLASS]
                   for n, c in enumerate(found["class"]))  # fmt: skip
        for n, map_ in enumerate(found["maps"].numpy()):  # the patch is around the cell that is most alike
            y, x = np.unravel_index(map_.argmax(), map_.shape)
            centre = torch.tensor([[[(x + 0.5) / map_.shape[1], (y + 0.5) / map_.shape[0]]]]).float()
            assert torch.equal(cut(image, centre)[0, 0], found["patch"][n])
        arrays = {key: value.numpy() for key, value in found.items()}
        write_method_figure(tmp_path / f"{name}.png", name, [image[0].permute(1, 2, 0).numpy()], [arrays])
        assert (tmp_path / f"{name}.png").stat().st_size > 3_000


def test_attributes_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="not defined for a target of attributes: each prototype belongs"):
        ProtoPNet(4, "attributes", Optim(), backbone="resnet_nano", weights=None)


@pytest.mark.parametrize(
    "wrong", [{"per_class": 0}, {"channels": 0}, {"warm": 1.0}, {"projections": -1}, {"parts": 0}, {"average": 3}]
)
def test_impossible_arguments_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(**wrong)
