"""Configuration: merging, refusals, digests."""

import csv
import functools
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import save_file

from fgbench import cells, config, result
from fgbench.cells import Cell, ConfigError
from fgbench.config import resolve
from fgbench.data import View
from fgbench.methods import METHODS, Optim


def test_later_files_win_key_by_key():
    base = {"a": {"x": 1, "y": 2}, "b": [1, 2]}
    assert cells.merge(base, {"a": {"y": 3}, "b": [9]}) == {"a": {"x": 1, "y": 3}, "b": [9]}
    assert base == {"a": {"x": 1, "y": 2}, "b": [1, 2]}  # the inputs are not touched


def test_another_class_path_drops_the_arguments_of_the_old_class():
    merged = cells.merge({"class_path": "A", "init_args": {"x": 1}}, {"class_path": "B", "init_args": {"y": 2}})
    assert merged == {"class_path": "B", "init_args": {"y": 2}}


NEEDS_A_FILE = {
    "focus_longer.protopnet": "need patch_weights: train METHOD=protopnet",
    "focus_longer.official": "need patch_weights: write it from the authors' arrays",
}


@pytest.mark.parametrize("dataset", cells.available("datasets"))
@pytest.mark.parametrize("method", cells.available("methods"))
def test_every_cell_and_every_variant_resolves(method, dataset):
    # a variant of any dataset is tried on one
    own = (path.name.split(".")[1] for path in (cells.EXPERIMENTS / "ablations" / dataset).glob(f"{method}.*.yaml"))
    undefined = METHODS[method].undefined_for.get(target_of(dataset))
    for variant in ["", *(cells.variants(dataset, method) if dataset == "toybirds" else own)]:
        cell = Cell(method, dataset, variant=variant)
        refused = undefined or NEEDS_A_FILE.get(f"{method}.{variant}")
        if refused:  # said before any data is read
            with pytest.raises(ConfigError, match=refused):
                resolve(cell)
        else:
            assert resolve(cell).tree["method"]["class_path"].startswith("fgbench.methods.")


def test_a_file_on_the_command_line_completes_a_variant_that_needs_one(tmp_path):
    save_file({"boxes": torch.zeros(1, 10, 4)}, tmp_path / "boxes.safetensors")
    given = ("--method.init_args.patch_weights", str(tmp_path / "boxes.safetensors"))
    plan = resolve(Cell("focus_longer", "cub200", variant="official", overrides=given))
    assert not config.is_customised(plan)
    assert config.is_customised(resolve(replace(plan.cell, overrides=(*given, "--method.init_args.steps", "3"))))


@functools.cache
def target_of(dataset):
    return config.make_data(resolve(Cell("baseline", dataset)).tree).target


@pytest.mark.parametrize("track", ["scratch+vgg16", "scratch+resnet18", "scratch+resnet18+cub20+short+bf16"])
@pytest.mark.parametrize("method", ["baseline", "mc_loss", "tdsa"])
def test_the_recipe_from_scratch_is_the_papers(method, track):
    tree = resolve(Cell(method, "cub200", track=track)).tree
    assert tree["trainer"]["max_epochs"] == (60 if "short" in track else 300)
    assert (tree["trainer"]["precision"] == "bf16-mixed") == ("bf16" in track)
    data, arguments = tree["data"]["init_args"], tree["method"]["init_args"]
    assert arguments["weights"] is None
    assert arguments["mean"] == arguments["std"] == [0.5, 0.5, 0.5]
    train, test = View(**data["train_view"]), View(**data["test_view"])
    assert (train.resize, train.size, train.pad, train.crop, train.crop_size, train.flip) == (
        ("squash", 224, 4, "random", 224, 0.5)
    )
    assert (test.shape(375, 500), test.crop, test.is_random) == ((224, 224), "none", False)
    assert data["locate_view"] is None
    assert data["batch_size"] == 32


def test_every_number_of_the_tables_from_scratch_is_a_cell():
    with (cells.ROOT / "leaderboard/published.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["paper"] == "Chang et al., arXiv 2102.00367"]
    found = {
        Cell(row["method_file"], row["dataset"], variant=row["variant"], track=f"scratch+{row['backbone']}")
        for row in rows
    }
    assert (len(rows), len(found)) == (150, 136)  # Table IV repeats II; VII and VIII repeat V and VI
    for cell in found:
        networks = [path for path in cells.files_of(cell) if path.parent.parent.name == "tracks"]
        assert [path.stem for path in networks] == [cell.method]
    for dataset in {cell.dataset for cell in found} - {"cub200"}:  # whose protocols are the least like the papers'
        tree = resolve(Cell("tdsa", dataset, variant="xi2", track="scratch+resnet18")).tree
        view = tree["data"]["init_args"]["train_view"]
        assert [view[key] for key in ("resize", "size", "pad", "crop_size", "brightness")] == ["squash", 224, 4, 224, 0]
        assert (tree["data"]["init_args"]["batch_size"], tree["trainer"]["max_epochs"]) == (32, 300)
        assert (tree["method"]["init_args"]["xi"], tree["method"]["init_args"]["weights"]) == (2, None)


@pytest.mark.parametrize("steps", [18, 187, 254, 4000])  # of an epoch
def test_the_rate_from_scratch_falls_at_the_start_of_epochs_150_and_225(steps):
    tree = resolve(Cell("tdsa", "cub200", track="scratch+vgg16")).tree["optim"]
    optim = Optim(**tree | {"milestones": tuple(tree["milestones"])})
    for epoch, rate in ((1, 0.1), (149, 0.1), (150, 0.01), (224, 0.01), (225, 0.001), (300, 0.001)):
        first = (epoch - 1) * steps
        found = [optim.lr * optim.factor(step, 300 * steps) for step in (first, first + steps - 1)]
        assert found == pytest.approx([rate, rate])


def test_a_loss_is_a_variant_with_a_name_and_a_digest_of_its_own():
    grid = cells.grid("baseline", "toybirds", "0", "", "toybirds50", [], "all")
    plans = [resolve(cell) for cell in grid]
    assert {plan.cell.variant for plan in plans} == {"", *cells.available("losses")} - {"cross_entropy"}
    assert len({plan.digest for plan in plans}) == len(plans) == 10
    [arc] = cells.grid("tdsa", "toybirds", "0", "no_attention", "paper", [], "arcface")
    assert arc.variant == "no_attention+arcface"
    tree = resolve(arc).tree["method"]["init_args"]
    assert (tree["attention"], tree["loss"]["class_path"]) == (False, "fgbench.losses.ArcFace")
    assert arc.command.endswith("ARGS='--variant no_attention+arcface'")


def test_the_long_track_changes_nothing_but_the_epochs():
    short, long = (resolve(Cell("tdsa", "toybirds", track=track)).tree for track in ("toybirds50", "toybirds50+long"))
    assert long["trainer"].pop("max_epochs") == 4 * short["trainer"].pop("max_epochs")
    assert long == short


def test_what_is_not_a_loss_or_a_track_or_cannot_have_one_is_said():
    with pytest.raises(ConfigError, match=r"no loss 'arc'; known: a_softmax, arcface"):
        cells.grid("baseline", "toybirds", "0", "", "paper", [], "arc")
    with pytest.raises(ConfigError, match="no track 'vgg'"):
        resolve(Cell("baseline", "toybirds", track="scratch+vgg"))
    for method in ("dpnet", "protopnet"):
        able = "baseline, mc_loss, region_grouping, ssn, tasn, tdsa"
        with pytest.raises(ConfigError, match=f"{method} has .* takes no LOSS; {able} do"):
            resolve(Cell(method, "toybirds", variant="arcface"))
    with pytest.raises(ConfigError, match=r"shows the loss no map .* take another LOSS"):
        resolve(Cell("region_grouping", "toybirds", variant="mc_loss"))


@pytest.mark.parametrize("method", ["region_grouping", "tasn"])
def test_a_method_that_took_losses_later_keeps_the_name_of_its_cells_without_one(method):
    [arc] = cells.grid(method, "toybirds", "0", "", "paper", [], "arcface")
    changed, plain = resolve(arc), resolve(Cell(method, "toybirds"))
    assert changed.tree["method"]["init_args"]["loss"]["class_path"] == "fgbench.losses.ArcFace"
    assert config.portable(changed.tree)["method"]["init_args"]["loss"]["init_args"] == {"scale": 30.0, "margin": 0.5}
    assert arc.command.endswith("ARGS='--variant arcface'")
    assert plain.tree["method"]["init_args"]["loss"] is None
    before = set(plain.tree["method"]["init_args"]) - {"loss"}  # what a result of before the argument has
    assert set(config.portable(plain.tree)["method"]["init_args"]) == before
    assert changed.digest != plain.digest


@pytest.mark.parametrize(
    ("cores", "asked", "devices", "workers"),
    [
        (2, None, 1, 0),
        (4, None, 1, 3),
        (16, None, 4, 3),
        (64, None, 2, 8),
        (8, None, 4, 0),
        (2, 5, 1, 5),
        (64, 0, 1, 0),
    ],
)
def test_loading_processes_leave_each_training_process_a_core(cores, asked, devices, workers, monkeypatch):
    monkeypatch.setattr(config.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert config.count_workers(asked, devices) == workers


def test_the_digest_ignores_machine_seed_and_comments_but_no_number():
    digest = resolve(Cell("baseline", "toybirds")).digest
    assert resolve(Cell("baseline", "toybirds", seed=3)).digest == digest
    assert resolve(Cell("baseline", "toybirds", overrides=("--machine.workers", "1"))).digest == digest
    assert resolve(Cell("baseline", "toybirds", overrides=("--machine.runs", "elsewhere"))).digest == digest
    assert resolve(Cell("baseline", "toybirds", overrides=("--data.init_args.cache", "ram"))).digest == digest
    assert resolve(Cell("baseline", "toybirds", overrides=("--optim.lr", "0.0123"))).digest != digest
    assert resolve(Cell("baseline", "toybirds", overrides=("--data.init_args.batch_size", "6"))).digest != digest


def test_a_key_of_views_that_came_later_counts_only_where_it_asks_for_something():
    plain = resolve(Cell("baseline", "toybirds"))
    view = "--data.init_args.train_view."
    assert resolve(Cell("baseline", "toybirds", overrides=(f"{view}rotate", "0.0"))).digest == plain.digest
    assert resolve(Cell("baseline", "toybirds", overrides=(f"{view}rotate", "30.0"))).digest != plain.digest
    assert plain.tree["data"]["init_args"]["train_view"]["rotate"] == 0.0
    kept = config.portable(plain.tree)["data"]["init_args"]
    # what a result of before these keys has
    assert set(kept["train_view"]) == {
        "resize", "size", "crop", "crop_size", "multiple", "flip", "brightness", "pad"
    }  # fmt: skip
    assert kept["locate_view"] is None


def test_a_track_trains_all_methods_on_the_same_changes_of_images():
    cells_ = [Cell(method, "cub200", track="cub20_tasn") for method in ("tasn", "ssn")]
    views = [config.portable(config.tree_of(cell, files=False))["data"]["init_args"]["train_view"] for cell in cells_]
    assert views[0] == views[1]
    assert not {"rotate", "contrast", "saturation", "lighting"} & set(views[0])


def test_the_attention_nets_weights_count_by_content_too(tmp_path):
    for name, content in (("a/w.pth", b"one"), ("b/w.pth", b"one"), ("c/w.pth", b"two")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)

    def digest(name):
        arguments = ("--method.init_args.attention_backbone", "resnet_nano")
        weights = ("--method.init_args.attention_weights", str(tmp_path / name))
        return resolve(Cell("tasn", "toybirds", overrides=(*arguments, *weights))).digest

    assert digest("a/w.pth") == digest("b/w.pth") != digest("c/w.pth")
    with pytest.raises(ConfigError, match="nowhere"):
        digest("nowhere.pth")


def test_a_weights_file_counts_by_content_not_by_path(tmp_path):
    def digest_of(name, content):
        (tmp_path / name).write_bytes(content)
        weights = ("--method.init_args.weights", str(tmp_path / name))
        return resolve(Cell("baseline", "toybirds", overrides=weights)).digest

    (tmp_path / "b").mkdir()
    assert digest_of("w.pth", b"one") == digest_of("b/w.pth", b"one") != digest_of("w.pth", b"two")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("--optim.learning_rate", "1"), "learning_rate"),
        (("--optim.lr", "fast"), "lr"),
        (("--optim.lr", "-1"), "optim.lr is -1"),
        (("--trainer.max_epochs", "-2"), "max_epochs is -2"),
        (("--selection", "best"), "selection"),
        (("--selection", "validation"), "val_fraction"),
        (("--method.init_args.nothing", "1"), "nothing"),
        (("--seed", "3"), "SEEDS=0,1,2"),
        (("--data.init_args.root", "x"), "machine.data_root"),
        (("--method.init_args.weights", "nowhere.pth"), "nowhere.pth"),
        (("--method.init_args.backbone", "resnet999"), "resnet999.*resnet18"),
        (("--data.init_args.num_classes", "1"), "num_classes is 1"),
        (("--selection", "legacy_best_on_test", "--data.init_args.val_fraction", "0.1"), "exclude each other"),
    ],
)
def test_a_bad_value_is_refused_by_name(overrides, says):
    with pytest.raises(ConfigError, match=says):
        resolve(Cell("baseline", "toybirds", overrides=overrides))


def test_what_a_constructor_refuses_is_said_in_its_own_words_after_the_cell():
    refused = {
        ("--optim.lr", "-1"): "optim.lr is -1.0; it must be above 0",
        ("--method.init_args.loss.init_args.margin", "9"): "ArcFace: margin is 9.0; it is",
    }
    for overrides, says in refused.items():
        with pytest.raises(ConfigError) as caught:
            resolve(Cell("region_grouping", "toybirds", variant="arcface", overrides=overrides))
        assert str(caught.value).startswith(f"toybirds/region_grouping.arcface seed 0: {says}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("overrides", "gpus", "says"), [
    (("--data.init_args.batch_size", "7", "--machine.devices", "2"), 0, "7 cannot be divided over 2 .* can: 8"),
    ((), 3, "toybirds/baseline seed 0: .*32 cannot be divided over 3 processes; nearest that can: 33"),
    (("--machine.num_nodes", "3"), 0, "32 cannot be divided over 3"),
    ((), 2, None), ((), 0, None), (("--machine.accelerator", "cpu"), 3, None), (("--machine.devices", "1"), 3, None),
])  # fmt: skip
def test_a_batch_is_compared_with_the_processes_that_would_train(overrides, gpus, says, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    plan = resolve(Cell("baseline", "toybirds", overrides=overrides))  # whatever machine reads it: so do leaderboards
    if says is None:
        config.check_processes(plan)
        return
    with pytest.raises(ConfigError, match=says):
        config.check_processes(plan)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ConfigError, match=r"did you mean 'baseline'.*region_grouping"):
        resolve(Cell("baselin", "toybirds"))
    with pytest.raises(ConfigError, match="cub200"):
        resolve(Cell("baseline", "cub"))
    with pytest.raises(ConfigError, match="no_prior"):
        resolve(Cell("region_grouping", "toybirds", variant="nope"))
    with pytest.raises(ConfigError, match="cub20_224"):
        resolve(Cell("baseline", "toybirds", track="nope"))


def test_a_broken_yaml_file_is_named(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: [1")
    with pytest.raises(ConfigError, match=r"x\.yaml: not valid YAML"):
        cells.read_yaml(path)
    path.write_text("- 1")
    with pytest.raises(ConfigError, match=r"x\.yaml: expected a mapping"):
        cells.read_yaml(path)


def test_the_resolved_tree_resolves_to_itself():
    plan = resolve(Cell("region_grouping", "toybirds"))
    parser = config.build_parser()
    again = config.to_plain(parser, parser.parse_object(yaml.safe_load(yaml.safe_dump(plan.tree))))
    assert again == plan.tree


def test_a_grid_is_every_dataset_with_every_method_and_seed():
    found = cells.grid("baseline,region_grouping", "toybirds", "0,1", "", "paper", [])
    assert [(c.method, c.seed) for c in found] == [
        ("baseline", 0),
        ("baseline", 1),
        ("region_grouping", 0),
        ("region_grouping", 1),
    ]
    assert {c.method for c in cells.grid("all", "toybirds", "0", "", "paper", [])} == set(cells.available("methods"))
    with pytest.raises(ConfigError, match="SEEDS is empty"):
        cells.grid("all", "toybirds", "", "", "paper", [])
    with pytest.raises(ConfigError, match="one"):
        cells.grid("all", "toybirds", "one", "", "paper", [])


def test_a_row_is_custom_only_if_the_command_line_changed_a_number(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"weights")
    weights = ("--method.init_args.weights", str(tmp_path / "w.pth"))  # has a column of its own
    for overrides, custom in [
        ((), False),
        (("--machine.workers", "3"), False),
        (weights, False),
        (("--optim.lr", "0.5"), True),
        ((*weights, "--optim.lr", "0.5"), True),
    ]:
        plan = resolve(Cell("baseline", "cub200", track="cub20_224", overrides=overrides))
        assert config.is_customised(plan) == custom, overrides


def test_what_a_row_keeps_of_its_configuration_names_no_path_and_has_its_digest(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"weights")
    overrides = ("--machine.data_root", str(tmp_path), "--method.init_args.weights", str(tmp_path / "w.pth"))
    plan = resolve(Cell("baseline", "toybirds", overrides=overrides))
    kept = config.portable(plan.tree)
    assert str(tmp_path) not in yaml.safe_dump(kept)
    assert "--machine" not in plan.cell.command
    del kept["seed"]
    assert result.digest(kept) == plan.digest


def test_the_command_of_a_cell_names_everything_that_was_asked_for():
    cell = Cell("baseline", "toybirds", 2, "", "cub20_224", ("--optim.lr", "0.1"))
    assert cell.command == "make bench METHOD=baseline DATASET=toybirds SEED=2 ARGS='--optim.lr 0.1 --track cub20_224'"
    there = Cell("baseline", "toybirds", overrides=("--method.init_args.weights", "/home/me/a.safetensors"))
    assert there.command.endswith("ARGS='--method.init_args.weights a.safetensors'")


@pytest.mark.parametrize("arguments", [["--help"], ["leaderboard", "--help"], ["fit", "--help"]])
def test_help_needs_no_torch(arguments):
    code = f"""
import sys
sys.argv[1:] = {arguments!r}
from fgbench.cli import main
try:
    main()
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: fgbench" in done.stdout
