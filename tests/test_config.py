"""Configuration: merging, refusals, digests."""

import subprocess
import sys

import pytest
import yaml

from fgbench import config
from fgbench.config import Cell, ConfigError, resolve


def test_later_files_win_key_by_key():
    base = {"a": {"x": 1, "y": 2}, "b": [1, 2]}
    assert config.merge(base, {"a": {"y": 3}, "b": [9]}) == {"a": {"x": 1, "y": 3}, "b": [9]}
    assert base == {"a": {"x": 1, "y": 2}, "b": [1, 2]}  # the inputs are not touched


def test_another_class_path_drops_the_arguments_of_the_old_class():
    merged = config.merge({"class_path": "A", "init_args": {"x": 1}}, {"class_path": "B", "init_args": {"y": 2}})
    assert merged == {"class_path": "B", "init_args": {"y": 2}}


@pytest.mark.parametrize("dataset", config.available("datasets"))
@pytest.mark.parametrize("method", config.available("methods"))
def test_every_cell_and_every_variant_resolves(method, dataset):
    for variant in ["", *config.variants(dataset, method)]:
        plan = resolve(Cell(method, dataset, variant=variant))
        assert plan.tree["method"]["class_path"].startswith("fgbench.methods.")


def test_the_digest_ignores_machine_seed_and_comments_but_no_number():
    digest = resolve(Cell("baseline", "toybirds")).digest
    assert resolve(Cell("baseline", "toybirds", seed=3)).digest == digest
    assert resolve(Cell("baseline", "toybirds", overrides=("--machine.workers", "1"))).digest == digest
    assert resolve(Cell("baseline", "toybirds", overrides=("--machine.runs", "elsewhere"))).digest == digest
    assert resolve(Cell("baseline", "toybirds", overrides=("--optim.lr", "0.0123"))).digest != digest
    assert resolve(Cell("baseline", "toybirds", overrides=("--data.init_args.batch_size", "6"))).digest != digest


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
        (("--data.init_args.batch_size", "7", "--machine.devices", "2"), "7 cannot be divided over 2"),
        (("--selection", "best"), "selection"),
        (("--selection", "validation"), "val_fraction"),
        (("--method.init_args.nothing", "1"), "nothing"),
        (("--seed", "3"), "SEEDS=0,1,2"),
    ],
)
def test_a_bad_value_is_refused_by_name(overrides, says):
    with pytest.raises(ConfigError, match=says):
        resolve(Cell("baseline", "toybirds", overrides=overrides))


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
        config.read_yaml(path)
    path.write_text("- 1")
    with pytest.raises(ConfigError, match=r"x\.yaml: expected a mapping"):
        config.read_yaml(path)


def test_the_resolved_tree_resolves_to_itself():
    plan = resolve(Cell("region_grouping", "toybirds"))
    parser = config.build_parser()
    again = config.to_plain(parser, parser.parse_object(yaml.safe_load(yaml.safe_dump(plan.tree))))
    assert again == plan.tree


def test_a_grid_is_every_dataset_with_every_method_and_seed():
    cells = config.grid("baseline,region_grouping", "toybirds", "0,1", "", "paper", [])
    assert [(c.method, c.seed) for c in cells] == [
        ("baseline", 0),
        ("baseline", 1),
        ("region_grouping", 0),
        ("region_grouping", 1),
    ]
    assert {c.method for c in config.grid("all", "toybirds", "0", "", "paper", [])} == set(config.available("methods"))
    with pytest.raises(ConfigError, match="one"):
        config.grid("all", "toybirds", "one", "", "paper", [])


def test_the_command_of_a_cell_names_everything_that_was_asked_for():
    cell = Cell("baseline", "toybirds", 2, "", "cub20_224", ("--optim.lr", "0.1"))
    assert cell.command == "make bench METHOD=baseline DATASET=toybirds SEED=2 ARGS='--optim.lr 0.1 --track cub20_224'"


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
