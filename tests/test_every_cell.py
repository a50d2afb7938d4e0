"""Every method on every dataset, from the shipped YAML files: one step of training and a whole test, on the fakes."""

import functools
import math

import pytest
from fakes import FAKES

import fgbench.data
from fgbench import cells, config, measures, run
from fgbench.cells import EXPERIMENTS, Cell, ConfigError
from fgbench.methods import METHODS
from fgbench.scoring import Scoring

SIDE = 80  # pixels, of the smallest view: five cells of stride 16
TINY = [
    *("--method.init_args.backbone", "resnet_nano", "--method.init_args.weights", "null"),
    *("--data.init_args.batch_size", "6", "--data.init_args.eval_batch_size", "6", "--trainer.max_epochs", "1"),
    *("--machine.accelerator", "cpu", "--machine.progress", "false", "--machine.workers", "0"),
]
OF_DPNET = {"regions": "20", "parts_per_class": "2", "inner_epochs": "1", "mini_batch": "null", "tap": "null"}
SAMPLERS = {"attention_backbone": "resnet_nano", "attention_weights": "null", "attention_size": "64", "sampled": "64"}
OF_METHOD = {name: [f"--method.init_args.{key}={v}" for key, v in SAMPLERS.items()] for name in ("ssn", "tasn")}
SMALL_PATCHES = {"local_backbone": "null", "local_weights": "null", "hidden": "16", "patch_size": "32"}
OF_METHOD["focus_longer"] = [f"--method.init_args.{key}={v}" for key, v in SMALL_PATCHES.items()]
OF_METHOD["dpnet"] = [f"--method.init_args.{key}={v}" for key, v in OF_DPNET.items()]
LARGER = {
    "toybirds": {"image_size": SIDE, "num_images": 12}
}  # the view is the whole image, which is to have five cells


def overrides_for(dataset: str, init_args: dict) -> list[str]:
    """The shipped files at a fraction of their size: views keep their kind, and all sides shrink alike."""
    found = [*TINY]
    for name, value in {**FAKES[dataset].arguments, **LARGER.get(dataset, {})}.items():
        found += [f"--data.init_args.{name}", str(value)]
    views = {name: init_args[name] for name in ("train_view", "test_view", "locate_view") if init_args.get(name)}
    sides = {
        (name, side): view[side] for name, view in views.items() for side in ("size", "crop_size") if view.get(side)
    }
    for (name, side), pixels in sides.items():
        found += [f"--data.init_args.{name}.{side}", str(math.ceil(SIDE * pixels / min(sides.values())))]
    return found


@pytest.mark.parametrize("dataset", list(FAKES))
def test_every_method_trains_and_tests_on_dataset_from_the_shipped_files(dataset, fake_root, tmp_path):
    kind = getattr(fgbench.data, fgbench.data.DATASETS[dataset])
    for name, method_kind in METHODS.items():
        if kind.target in method_kind.undefined_for:
            with pytest.raises(ConfigError, match="is not defined for a target of"):
                config.resolve(Cell(name, dataset))
            continue
        shipped = functools.reduce(cells.merge, map(cells.read_yaml, cells.files_of(Cell(name, dataset))))
        root = ["--machine.data_root", str(fake_root(dataset))]
        plan = config.resolve(
            Cell(
                name,
                dataset,
                overrides=(
                    *overrides_for(dataset, shipped["data"]["init_args"]),
                    *OF_METHOD.get(name, []),
                    *root,
                ),
            )
        )
        data, method = config.instantiate(plan.tree)
        trainer = run.make_trainer(plan.tree, tmp_path, [], None)
        trainer.fit_loop.epoch_loop.max_steps = 1
        trainer.fit(method, datamodule=data)
        assert trainer.global_step == 1
        scoring = Scoring.for_test(data, method)
        run.make_trainer(plan.tree, tmp_path, [scoring], None).test(
            method, dataloaders=scoring.loaders(data), verbose=False
        )
        _check(scoring.report, data, method)


def _check(report: dict, data: fgbench.data.BenchDataModule, method) -> None:
    numbers, reasons = report["numbers"], report["reasons"]
    assert report["n_eval"] == data.split_size("test")
    assert 0 <= numbers["accuracy"] <= 100
    assert (numbers["class_accuracy"] is None) == (data.target == "attributes")
    assert (numbers["landmark_error"] is not None) == (bool(data.landmark_frame) and method.parts is not None)
    assert data.landmark_frame or reasons["landmark_error"] == "the dataset has no landmarks"
    assert data.has_boxes or reasons["pointing_error"] == "the dataset has no boxes"
    assert all(value is None or math.isfinite(value) for value in numbers.values())
    empty = {name for name in measures.PLAIN if name not in report["scores"]}
    assert empty <= set(reasons)
    saliency = "energy_pointing" in report["scores"] or "no saliency" not in reasons["energy_pointing"]
    known = measures.reasons(data, method.parts, method.class_stages > 0, saliency, bound_parts=method.bound_parts)
    assert {name for name in empty if not reasons[name].startswith("no image")} == set(known) & set(measures.PLAIN)


def test_every_dataset_has_a_protocol_and_every_recipe_belongs_to_one():
    protocols = {path.stem: cells.read_yaml(path) for path in (EXPERIMENTS / "datasets").iterdir()}
    assert set(fgbench.data.DATASETS) <= set(protocols)
    kinds = {f"fgbench.data.{kind}" for kind in fgbench.data.DATASETS.values()}
    assert {protocol["data"]["class_path"] for protocol in protocols.values()} == kinds
    for folder in ("cells", "ablations"):
        assert {path.name for path in (EXPERIMENTS / folder).iterdir() if path.is_dir()} <= set(protocols)
        assert {path.name.partition(".")[0] for path in (EXPERIMENTS / folder).rglob("*.yaml")} <= set(METHODS)
