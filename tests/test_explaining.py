"""Rows of explainers, pictures and the gallery of one small run, made once; all in this process."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fgbench import bench, gallery, pictures, probing, run
from fgbench.backbones import Backbone, save_weights
from fgbench.cells import Cell, ConfigError
from fgbench.cli import main
from fgbench.config import instantiate, resolve
from fgbench.data import View
from fgbench.predictions import read_predictions
from fgbench.result import read_result

SMALL = [
    *("--data.init_args.num_images", "42", "--data.init_args.num_classes", "3", "--data.init_args.image_size", "96"),
    *("--data.init_args.batch_size", "8", "--data.init_args.eval_batch_size", "7", "--machine.accelerator", "cpu"),
    *("--method.init_args.backbone", "resnet_nano", "--method.init_args.weights", "null"),
    *("--machine.progress", "false", "--machine.logger", "none", "--trainer.max_epochs", "1"),
    *("--trainer.precision", "32-true"),  # the same run on any machine
]
EXPLAINERS = ("gradcam", "dff3", "random_weights+cam")
SHORT = ("regions=5", "parts_per_class=2", "shown_parts=3", "inner_epochs=4")
PREPARED = [f"--method.init_args.{one}" for one in SHORT]


def run_here(phase, folder, held, explainer="own"):
    """A phase in this process instead of one of its own: saves the imports."""
    return run.run_phase(phase, folder, explainer)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A run of the baseline with rows of explainers, one of region grouping, and one that reads prepared rows."""
    root = tmp_path_factory.mktemp("explaining")
    place = [
        "--machine.data_root",
        f"{root}/data",
        "--machine.runs",
        f"{root}/runs",
        "--machine.leaderboard",
        f"{root}/board",
    ]
    torch.set_num_threads(1)
    patch = pytest.MonkeyPatch()
    patch.setattr(bench, "run_phase", run_here)
    patch.setattr("fgbench.examples.EXAMPLES", 2)  # drawing is what takes time here
    made = [Cell(method, "toybirds", overrides=(*SMALL, *place)) for method in ("baseline", "region_grouping")]
    made.append(Cell("dpnet", "toybirds", overrides=(*SMALL, *PREPARED, *place)))
    statuses = [bench.bench(made[:1], explainers=EXPLAINERS), bench.bench(made[1:2], explainers=["cam"])]
    statuses.append(bench.bench(made[2:], explainers=["gradcam"]))
    yield root, [resolve(cell) for cell in made], statuses
    patch.undo()


def test_each_explainer_adds_a_row_that_says_whose_evidence_it_is(cells):
    root, (plan, *_), (status, *_) = cells
    assert status == 0
    own = read_result(root / f"board/results/toybirds/{plan.name}.json")
    for name in EXPLAINERS:
        path = root / f"board/results/toybirds/{plan.name}.{name}.json"
        result = read_result(path)
        assert (result.explainer, result.config_digest, result.seed) == (name, own.config_digest, own.seed)
        assert (result.accuracy, result.n_eval, result.history) == (own.accuracy, 21, own.history)
        assert result.command == f"{own.command} EXPLAIN={name}"
        predictions = read_predictions(path.with_suffix(".parquet"))
        assert len(set(predictions["image_id"])) == 21
        if name == "dff3":
            assert result.landmark_error > 0
            assert result.reasons["pointing_error"] == "dff3 has no saliency"
        else:
            assert 100 * (1 - predictions["hit"].mean()) == pytest.approx(result.pointing_error, abs=1e-3)
            assert result.reasons["landmark_error"] == f"{name} has no parts"
    assert "gradcam" in (root / "board/README.md").read_text()
    # for a linear layer on the mean, Grad-CAM and the baseline's CAM have the same peak
    assert read_result(root / f"board/results/toybirds/{plan.name}.gradcam.json").pointing_error == own.pointing_error


def test_an_explained_row_is_skipped_when_it_is_there_and_made_again_when_it_is_not(cells, capfd):
    root, (plan, *_), _ = cells
    path = root / f"board/results/toybirds/{plan.name}.gradcam.json"
    before = path.read_bytes()
    assert bench.explain_cell(plan, "gradcam").state == "skipped"
    path.unlink()
    assert bench.explain_cell(plan, "gradcam").state == "done"  # the run folder still has it
    assert path.read_bytes() == before


def test_what_cannot_be_explained_says_so(cells, tmp_path, capfd):
    _, (plan, grouping, _), (_, status, _) = cells
    assert status == 1
    assert (grouping.run_folder / "result.json").exists()  # it is the explainer that failed
    report = grouping.run_folder / "explained/cam/failure.txt"
    assert "RegionGrouping has no CAM as configured" in report.read_text().splitlines()[0]
    assert not (grouping.run_folder / "failure.txt").exists()
    with pytest.raises(ConfigError, match="no explainer 'gradcat'; known: own, cam"):
        bench.bench([plan.cell], explainers=["gradcat"])
    elsewhere = resolve(Cell("baseline", "toybirds", overrides=(*plan.cell.overrides, "--machine.runs", str(tmp_path))))
    outcome = bench.explain_cell(elsewhere, "integrated_gradients")
    assert outcome.state == "failed"
    assert "there is no trained checkpoint to explain with integrated_gradients" in outcome.detail


def test_two_processes_explain_like_one(cells, tmp_path):
    _, (plan, *_), _ = cells
    folder = tmp_path / plan.run_folder.name
    shutil.copytree(plan.run_folder, folder)
    shutil.rmtree(folder / "explained")
    content = yaml.safe_load((folder / "config.yaml").read_text())
    content["tree"]["machine"]["devices"] = 2
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "fgbench", "test", str(folder), "--explainer", "dff3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    alone, together = (
        json.loads((place / "explained/dff3/result.json").read_text()) for place in (plan.run_folder, folder)
    )
    for result in (alone, together):
        for name in ("date", "test_images_per_s", "commit"):  # somebody may edit the code meanwhile
            del result[name]
    assert alone == together
    for name in ("predictions.parquet",):
        one = read_predictions(plan.run_folder / "explained/dff3" / name)
        two = read_predictions(folder / "explained/dff3" / name)
        assert all(np.array_equal(one[key], two[key], equal_nan=True) for key in one)


def test_an_explainers_channels_are_drawn_beside_it_and_the_runs_own_stay(cells, tmp_path):
    place = [f"--machine.{name}={tmp_path / name}" for name in ("data_root", "runs", "leaderboard")]
    cell = Cell("mc_loss", "toybirds", overrides=(*SMALL, *place))
    assert bench.bench([cell]) == 0
    folder = resolve(cell).run_folder
    result = read_result(next((tmp_path / "leaderboard/results").rglob("*.json")))
    weights = result.details["loss_weights"]
    assert set(weights) == set(result.history) - {"loss"} == {"classification", "high_discriminality", "high_diversity"}
    total = sum(weight * result.history[name][0] for name, weight in weights.items())
    assert result.history["loss"][0] == pytest.approx(total, rel=1e-4)
    own = (folder / "figures/channels.png").read_bytes()
    assert bench.bench([cell], explainers=["random_weights"]) == 0
    assert (folder / "figures/channels.png").read_bytes() == own
    assert (folder / "explained/random_weights/figures/channels.png").read_bytes() != own


def test_a_damaged_configuration_of_a_run_is_named(tmp_path):
    whole = yaml.safe_dump(dict.fromkeys(run.RUN_KEYS, "x"), sort_keys=False)
    (tmp_path / "config.yaml").write_text(whole)
    assert run.read_run(tmp_path)["tree"] == "x"
    torn = ["".join(whole.splitlines(keepends=True)[:lines]) for lines in range(len(run.RUN_KEYS))]
    for text in (*torn, "a: [", "- 1"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(RuntimeError, match=r"config\.yaml: damaged, it lacks .*; remove the run folder"):
            run.read_run(tmp_path)


def test_probes_of_two_processes_are_those_of_one_and_printed_once(cells, tmp_path):
    _, (plan, *_), _ = cells
    folder = tmp_path / plan.run_folder.name
    shutil.copytree(plan.run_folder, folder)
    content = yaml.safe_load((folder / "config.yaml").read_text())
    content["tree"]["machine"]["devices"] = 2
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    explainers = ("gradcam", "random_map", "random_parts3")
    command = [sys.executable, "-m", "fgbench", "probe", str(folder), "--explain", ",".join(explainers), "--steps", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stdout + done.stderr
    printed = (
        "│ gradcam ",
        "│ random_parts3 ",
        "no sanity_rank: ",
        "gradcam: sanity rank, with fresh",
        "floor: redrawn",
    )
    assert [done.stdout.count(text) for text in printed] == [1, 1, 1, 1, 1]
    assert json.loads((folder / "probes.json").read_text()) == probing.probe(plan.run_folder, explainers, steps=3)


def test_a_network_is_loaded_and_compiled_once_for_all_explainers(cells, tmp_path, monkeypatch, capsys):
    _, (plan, *_), _ = cells
    folder = tmp_path / plan.run_folder.name
    shutil.copytree(plan.run_folder, folder)
    (folder / "probes.json").unlink(missing_ok=True)  # of another test
    calls = []

    def watch(place, name, instead=None):
        real = instead or getattr(place, name)
        monkeypatch.setattr(place, name, lambda *given: calls.append(name) or real(*given))

    watch(run, "load_weights")
    watch(probing, "compiled", lambda function: function)
    monkeypatch.setenv("COLUMNS", "260")
    probing.probe(folder, ["gradcam"], steps=3)
    calls.clear()
    with pytest.raises(SystemExit):
        main(["probe", str(folder), "--explain", "own,dff3,centre", "--steps", "2", "--compile"])
    assert calls == ["load_weights", "compiled"]
    known = json.loads((folder / "probes.json").read_text())
    asked = {name: (found["steps"], found["compiled"], found["precision"]) for name, found in known.items()}
    precision = plan.tree["trainer"]["precision"]
    assert asked == {"gradcam": (3, False, precision)} | dict.fromkeys(["own", "dff3", "centre"], (2, True, precision))
    shown = capsys.readouterr().out
    assert shown.count(f"{precision}, compiled") == 3
    assert "that differ in steps or network are not comparable" in shown


def test_fresh_weights_are_not_those_of_the_run_and_always_the_same(cells):
    from fgbench.explaining import fresh_network

    _, (plan, *_), _ = cells
    trained = torch.load(plan.run_folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    torch.manual_seed(99)
    method = instantiate(plan.tree)[1]
    first = fresh_network(plan.tree, method).state_dict()
    second = fresh_network(plan.tree, method).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    moved = [name for name, value in first.items() if value.dim() > 1 and not torch.equal(value, trained[name])]
    assert len(moved) == sum(value.dim() > 1 for value in first.values())


def test_a_fresh_network_keeps_the_patches_that_were_found_beforehand(tmp_path):
    from safetensors.torch import save_file

    from fgbench.explaining import fresh_network

    path = tmp_path / "boxes.safetensors"
    boxes = torch.tensor([[[4.0, 6, 40, 50], [0, 0, 32, 32]]]).expand(3, -1, -1).contiguous()
    save_file({"boxes": boxes}, path)
    given = ("patches=official", f"patch_weights={path}", "patch_count=2", "patch_size=48")
    patches = [f"--method.init_args.{one}" for one in given]
    plan = resolve(Cell("focus_longer", "toybirds", overrides=(*SMALL, *patches)))
    assert torch.equal(fresh_network(plan.tree, instantiate(plan.tree)[1]).extractor.published, boxes)


def test_a_fresh_network_is_shown_images_as_the_trained_ones_weights_want_them(tmp_path):
    from fgbench.explaining import fresh_network

    ours = tmp_path / "nano.safetensors"
    save_weights(Backbone("resnet_nano", None, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)), ours, "a test")
    plan = resolve(Cell("baseline", "toybirds", overrides=(*SMALL, "--method.init_args.weights", str(ours))))
    trained = instantiate(plan.tree)[1]
    black = fresh_network(plan.tree, trained).normalise(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    wanted = torch.tensor([-0.1 / 0.4, -0.2 / 0.5, -0.3 / 0.6]).view(1, 3, 1, 1).expand_as(black)
    torch.testing.assert_close(black, wanted)


# ---- pictures


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    pixels[:30, :30] = (250, 10, 10)  # a red corner that shows which way is up
    image, tag = Image.fromarray(pixels), Image.Exif()
    tag[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(folder / "turned.jpg", exif=tag, quality=95)
    image.convert("L").save(folder / "grey.png")
    clear = image.convert("RGBA")
    clear.putalpha(0)
    clear.save(folder / "clear.png")
    (folder / "torn.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:900])
    (folder / "text.jpg").write_text("not a picture")
    return folder


def test_pictures_are_read_as_their_owners_see_them(files):
    turned = pictures.read_all([files / "turned.jpg"])[0]
    assert turned.shape == (90, 60, 3)
    red = turned[:30, -30:].reshape(-1, 3).mean(0)
    assert red[0] > 200
    assert red[1:].max() < 60
    grey, clear = pictures.read_all([files / "grey.png", files / "clear.png"])
    assert grey.shape == (60, 90, 3)
    assert (grey[..., 0] == grey[..., 2]).all()
    assert (clear == 255).all()


def test_every_bad_picture_is_named_before_anything_is_computed(files, cells):
    _, (plan, *_), _ = cells
    bad = [files / "turned.jpg", files / "torn.jpg", files / "text.jpg", files / "none.jpg", files]
    with pytest.raises(ValueError, match=r"torn\.jpg: the JPEG file is truncated") as error:
        pictures.explain(plan.run_folder, bad, 1, "own")
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert "no image that can be decoded" in lines[1]
    assert "there is no such file" in lines[2]
    assert "folder" in lines[3]


def test_own_pictures_get_everything_that_there_is_to_say(files, cells, tmp_path):
    _, (_, plan, _), _ = cells
    paths = pictures.explain(plan.run_folder, [files / "turned.jpg", files / "grey.png"], 1, "own", tmp_path)
    assert [path.name for path in paths] == ["sheet.png", "turned.png", "grey.png"]
    for path in paths:
        assert np.asarray(Image.open(path)).std() > 10
    trained = pictures.load(plan.run_folder)
    [(item, name)] = pictures.split_items(trained, 1)
    with trained.as_tested():
        found = pictures.explanation_of(trained, item, name)
        logits = trained.method(pictures.batch_of(trained, item).image).logits[0].double()
    odds = (logits - logits.max()).exp()
    assert dict(found.answers) == {
        trained.data.label_names[k]: pytest.approx(float(odds[k] / odds.sum()), rel=1e-5) for k in range(3)
    }
    assert [value for _, value in found.answers] == sorted((value for _, value in found.answers), reverse=True)
    assert found.contributions.values.shape == found.example.parts.shape[:1]
    assert found.contributions.values.sum() == pytest.approx(1, abs=1e-5)
    assert found.contributions.unit == "share of the attention"


def test_a_run_that_reads_prepared_rows_is_explained_and_probed_from_pixels(cells, tmp_path):
    root, (*_, plan), (*_, status) = cells
    assert status == 0
    rows = [read_predictions(root / f"board/results/toybirds/{plan.name}{end}.parquet") for end in ("", ".gradcam")]
    for name in ("image_id", "top5_logits"):  # rows are of float16
        np.testing.assert_allclose(np.stack(rows[0][name]), np.stack(rows[1][name]), rtol=5e-3, atol=1e-4)
    paths = pictures.explain(plan.run_folder, [], 1, "own", tmp_path)
    assert {path.name for path in paths} == {"sheet.png", paths[1].name, "heatmap.png", "class_parts.png"}
    trained = pictures.load(plan.run_folder)
    [(item, name)] = pictures.split_items(trained, 1)
    with trained.as_tested():
        added = pictures.explanation_of(trained, item, name).contributions
    assert added.values.sum() == pytest.approx(added.whole, abs=1e-5)
    assert added.whole == pytest.approx(float(np.stack(rows[0]["top5_logits"])[0].max()), rel=5e-3, abs=1e-4)
    found = probing.probe(plan.run_folder, ["own"], steps=2)["own"]
    assert found["numbers"]["perturbed_images"] == found["images"] == 21
    assert {"insertion", "deletion", "sanity_rank", "part_stability_agnostic"} <= found["numbers"].keys()


def test_no_picture_takes_the_file_of_another(tmp_path):
    taken = [tmp_path / "sheet.png"]
    for name in ("a-3", "a", "a", "A", "sheet", "a", "a-2"):
        taken.append(pictures.free_path(tmp_path, name, taken))
    assert [path.name for path in taken] == [
        "sheet.png", "a-3.png", "a.png", "a-2.png", "A-4.png", "sheet-2.png", "a-5.png", "a-2-2.png"
    ]  # fmt: skip


def test_an_attribute_is_true_where_it_is_there():
    assert pictures.true_names(torch.tensor([1.0, 0.0, 1.0]), ["a", "b", "c"]) == ("a", "c")
    assert pictures.true_names(torch.tensor(1), ["a", "b", "c"]) == ("b",)


@pytest.mark.parametrize(
    ("which", "explainer", "reason"),
    [
        (0, "own", "the method has no parts"),
        (1, "gradcam", "gradcam has no parts"),
        (1, "random_parts3", "random_parts3 makes its parts after training: the decision is not made of them"),
    ],
)
def test_where_no_part_adds_anything_the_reason_is_given(which, explainer, reason, cells, tmp_path):
    trained = pictures.load(cells[1][which].run_folder, explainer)
    [(item, name)] = pictures.split_items(trained, 1)
    with trained.as_tested():
        found = pictures.explanation_of(trained, item, name)
    assert found.contributions.values is None
    assert found.contributions.reason == reason


def test_neighbours_are_those_of_a_loop_over_all_training_images(cells):
    _, (plan, *_), _ = cells
    trained = pictures.load(plan.run_folder)
    data, rows = trained.data, trained.data.listing.rows("train")
    seen = data.dataset(data.test_view)
    (plan.run_folder / "embeddings.json").unlink(missing_ok=True)
    with trained.as_tested():
        every = [pictures.embed(trained.method, pictures.batch_of(trained, seen[int(row)]).image)[0] for row in rows]
        query = pictures.embed(trained.method, pictures.batch_of(trained, seen[int(rows[4])]).image)
    stored = pictures.embeddings(trained, query.shape[1])
    changed = (plan.run_folder / "embeddings.npy").stat().st_mtime_ns
    distances = [1 - float(torch.dot(one.double(), query[0].double()) / one.double().norm()) for one in every]
    found, at = pictures.nearest(query, stored, 5)
    assert at[0, 0] == 4  # a training image is nearest to itself
    assert float(found[0, 0]) == pytest.approx(0, abs=1e-3)
    np.testing.assert_allclose(found[0], sorted(distances)[:5], atol=1e-3)
    near = pictures.neighbours(trained, query)[0]
    assert near[0].label == data.label_names[int(data.listing.target[rows[4]])]
    assert (plan.run_folder / "embeddings.npy").stat().st_mtime_ns == changed  # kept
    note = plan.run_folder / "embeddings.json"
    note.write_text(note.read_text().replace('"weights": "', '"weights": "0'))
    pictures.embeddings(trained, query.shape[1])
    assert (plan.run_folder / "embeddings.npy").stat().st_mtime_ns != changed  # another checkpoint: made anew
    for name, rest in (("embeddings.json", b"{"), ("embeddings.npy", b""), ("embeddings.npy", b"damaged")):
        (plan.run_folder / name).write_bytes(rest)
        np.testing.assert_array_equal(pictures.embeddings(trained, query.shape[1]), stored)


def test_a_training_image_is_at_no_distance_from_itself_where_pictures_show_more_than_the_test(cells, monkeypatch):
    _, (plan, *_), _ = cells
    trained = pictures.load(plan.run_folder)
    data, rows = trained.data, trained.data.listing.rows("train")
    monkeypatch.setattr(data, "locate_view", View(resize="squash", size=64))
    assert data.seen_view != data.test_view
    item = data.shown()[int(rows[7])]
    with trained.as_tested():
        query = pictures.embed(trained.method, pictures.batch_of(trained, item).image)
    near = pictures.neighbours(trained, query)[0]
    assert near[0].distance == pytest.approx(0, abs=1e-3)
    np.testing.assert_array_equal(near[0].image, item.image.permute(1, 2, 0).numpy())
    (plan.run_folder / "embeddings.json").unlink()


def test_own_pictures_are_no_larger_than_the_datasets_and_not_too_long(cells, files, tmp_path):
    _, (plan, *_), _ = cells
    trained = pictures.load(plan.run_folder)
    assert trained.data.seen_view.resize == "none"
    large, small = np.zeros((300, 600, 3), np.uint8), np.zeros((50, 40, 3), np.uint8)
    items = pictures.own_items(trained, [Path("large.png"), Path("small.png")], [large, small])
    longest = int(trained.data.listing.stored_sizes().max())
    assert [tuple(item.image.shape[1:]) for item, _ in items] == [(longest // 2, longest), (50, 40)]
    with pytest.raises(ValueError, match=r"long\.png: 300 x 10 pixels, more than 4 times as long"):
        pictures.own_items(trained, [Path("long.png"), Path("small.png")], [large[:10, :300], small])


def test_nearest_in_pieces_is_nearest_at_once(monkeypatch):
    stored = torch.nn.functional.normalize(torch.randn(50, 6), dim=1)
    query = torch.nn.functional.normalize(torch.randn(4, 6), dim=1)
    monkeypatch.setattr(pictures, "CHUNK", 7)
    found, at = pictures.nearest(query, stored.half().numpy(), 5)
    for row in range(4):
        loop = sorted((1 - float(query[row] @ one), index) for index, one in enumerate(stored))[:5]
        assert at[row].tolist() == [index for _, index in loop]
        np.testing.assert_allclose(found[row], [distance for distance, _ in loop], atol=2e-3)
    assert pictures.nearest(query, stored[:3].half().numpy(), 5)[0].shape == (4, 3)


# ---- gallery


def test_the_gallery_is_one_page_with_a_column_for_each_run_and_explainer(cells, tmp_path, monkeypatch):
    root, _, _ = cells
    said, loaded = [], []
    monkeypatch.setattr(gallery, "load", lambda folder: loaded.append(folder) or pictures.load(folder))
    path = tmp_path / "gallery.html"
    folders = gallery.find_runs(root / "runs/toybirds")
    gallery.write_gallery(path, folders, 3, ["cam"], said.append)
    assert loaded == folders  # once, whoever explains it
    text = path.read_text()
    heads = [re.sub("<.*", "", head) for head in re.findall(r"<th>([a-z_]+(?: \+ [a-z_]+)?)<small", text)]
    assert heads == ["baseline", "baseline + cam", "dpnet", "region_grouping"]
    assert len(said) == 2
    assert "DPNet has no CAM" in said[0]
    assert "RegionGrouping has no CAM" in said[1]
    assert "explanations show of the same 3 test images of toybirds" in text
    assert text.count('<th><img src="data:image/jpeg') == 3
    assert not re.findall(r'(?:src|href)="(?!data:)', text)  # nothing outside of the page
    assert "no maps" not in text


def test_pictures_keep_the_proportions_of_the_original():
    import base64
    import io

    data = gallery.address(np.zeros((64, 64, 3), np.uint8), aspect=0.5)  # squashed: pixels are half as high as wide
    size = Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))).size
    assert size == (gallery.SIDE, gallery.SIDE // 2)


def test_a_folder_without_runs_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match="no finished run with a checkpoint; make one with: make bench"):
        gallery.find_runs(tmp_path)
