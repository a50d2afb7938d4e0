"""The papers' numbers are those that the papers print."""

import csv
from collections import Counter
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "leaderboard" / "published.csv"
COLUMNS = [
    "paper", "table", "page", "method", "variant", "backbone", "resolution", "dataset", "subset", "metric", "value",
    "unit", "note", "method_file",
]  # fmt: skip
REGION_GROUPING, FOCUS, TASN = "Huang & Li, CVPR 2020", "Shroff, thesis, Texas A&M 2020", "Zheng et al., CVPR 2019"
DPNET, TDSA = "Sicre et al., ICIP 2023", "Chang et al., arXiv 2102.00367"

with FILE.open(newline="", encoding="utf-8") as file:
    READER = csv.DictReader(file)
    ROWS = list(READER)
    HEADER = READER.fieldnames


def test_columns_and_vocabulary() -> None:
    assert HEADER == COLUMNS
    assert all(None not in row and None not in row.values() for row in ROWS)
    assert {row["unit"] for row in ROWS} == {"%"}
    assert {row["metric"] for row in ROWS} == {"accuracy", "attribute_accuracy", "landmark_error", "pointing_error"}
    assert {row["dataset"] for row in ROWS} == {
        "cub200", "celeba", "celeba_wild", "inat2017", "stanford_cars", "stanford_dogs", "fgvc_aircraft", "flowers102",
        "mit67", "imagenet",
    }  # fmt: skip
    methods = {"", "baseline", "region_grouping", "tasn", "ssn", "focus_longer", "dpnet", "tdsa", "mc_loss"}
    assert {row["method_file"] for row in ROWS} == methods
    assert all(row["paper"] and row["table"] and row["method"] for row in ROWS)


def test_no_row_occurs_twice() -> None:
    counts = Counter(tuple(value for key, value in row.items() if key != "value") for row in ROWS)
    assert [row for row, count in counts.items() if count > 1] == []


def test_values_are_plausible_percentages() -> None:
    for row in ROWS:
        low, high = (25, 95) if row["metric"].endswith("accuracy") else (5, 35)
        assert low < float(row["value"]) < high, row
        assert row["resolution"] == "" or 200 < int(row["resolution"]) < 600, row


def test_every_table_is_complete() -> None:
    expected = {  # rows times columns of numbers, counted in the papers
        REGION_GROUPING: {
            "1": 9, "2": 3, "3": 11, "4": 3 * 3, "text 4.2": 1, "5": 6, "6": 3, "7": 3 * 2, "text 4.4": 5,
        },
        TASN: {
            "2": 7, "3": 4 * 2, "4": 3 * 4, "5": 5, "6": 9, "text 4.2": 3, "7": 4, "8": 5, "9": 9, "text 4.3": 1,
            "10": 14 * 3,
        },
        FOCUS: {"5.1": 2, "5.2": 2, "6.1": 4, "6.2": 11},
        DPNET: {"1": 2 * 5 + 2 * 4, "text 4": 2, "2": 4 * 4},
        TDSA: {"II": 11 * 4, "III": 11 * 4, "IV": 4 * 4, "V": 5 * 4, "VI": 5 * 4, "VII": 3, "VIII": 3},
    }  # fmt: skip
    counts = Counter((row["paper"], row["table"]) for row in ROWS)
    for paper, tables in expected.items():
        assert {table: counts[paper, table] for _, table in counts if _ == paper} == tables
    assert (
        len(ROWS) == sum(sum(tables.values()) for tables in expected.values()) + 12
    )  # logs, reproductions, and one second hand


# Typed from the papers by hand: paper, table, method, variant, backbone, resolution, dataset, subset, metric -> value.
SPOTS = [
    (REGION_GROUPING, "1", "MOON", "", "", "", "celeba", "", "attribute_accuracy", "90.9"),
    (REGION_GROUPING, "1", "Region Grouping", "", "resnet101", "256", "celeba", "", "attribute_accuracy", "91.5"),
    (REGION_GROUPING, "2", "SCOPS", "", "", "", "celeba_wild", "", "landmark_error", "15.0"),
    (REGION_GROUPING, "3", "Region Grouping", "", "resnet101", "448", "cub200", "", "accuracy", "87.3"),
    (REGION_GROUPING, "4", "Region Grouping", "", "resnet101", "448", "cub200", "class 003", "landmark_error", "13.80"),
    (REGION_GROUPING, "text 4.2", "Region Grouping", "", "resnet101", "448", "cub200", "", "landmark_error", "11.51"),
    (REGION_GROUPING, "5", "Region Grouping", "fc_test", "resnet101", "320", "inat2017", "", "accuracy", "66.8"),
    (REGION_GROUPING, "6", "CAM / Grad-CAM", "cam", "resnet101", "", "inat2017", "", "pointing_error", "11.8"),
    (
        REGION_GROUPING, "7", "Region Grouping", "no_prior", "resnet101", "256", "celeba_wild", "", "landmark_error",
        "12.33",
    ),
    (TASN, "2", "TASN", "part-net only, attention N(N(X) X^T) X", "resnet50", "224", "cub200", "", "accuracy", "85.3"),
    (TASN, "4", "TASN", "master-net", "resnet50", "392", "cub200", "", "accuracy", "86.8"),
    (TASN, "5", "DT-RAM", "", "resnet50", "224", "cub200", "", "accuracy", "82.8"),
    (TASN, "7", "TASN + iSQRT-COV", "", "resnet50", "", "cub200", "", "accuracy", "89.1"),
    (TASN, "8", "TASN", "master-net", "vgg19", "", "stanford_cars", "", "accuracy", "90.3"),
    (TASN, "10", "TASN", "", "resnet101", "224", "inat2017", "Reptilia", "accuracy", "46.4"),
    (TASN, "10", "SSN", "", "resnet101", "224", "inat2017", "Mollusca", "accuracy", "61.5"),
    (TASN, "10", "TASN", "", "resnet101", "224", "inat2017", "", "accuracy", "68.2"),
    (FOCUS, "5.2", "Focus Longer", "", "vgg19", "448", "stanford_dogs", "", "accuracy", "78.7"),
    (FOCUS, "6.1", "Focus Longer", "local stream: CNN only", "vgg19", "448", "cub200", "", "accuracy", "77.79"),
    (FOCUS, "6.2", "Focus Longer", "sum of steps 1 to 7", "vgg19", "448", "cub200", "", "accuracy", "72.97"),
    (DPNET, "1", "DP-Net", "", "vgg19-places", "544", "mit67", "", "accuracy", "82.0"),
    (DPNET, "1", "DP-Net", "global", "resnet50", "544", "imagenet", "", "accuracy", "70.8"),
    (DPNET, "2", "DP-Net", "class-specific + orthogonality", "resnet50", "544", "mit67", "", "accuracy", "78.8"),
    (TDSA, "II", "LGM", "lgm", "vgg16", "224", "flowers102", "", "accuracy", "57.78"),
    (TDSA, "III", "A-softmax", "a_softmax", "resnet18", "224", "stanford_cars", "", "accuracy", "82.15"),
    (TDSA, "IV", "TDSA", "no_attention", "vgg16", "224", "fgvc_aircraft", "", "accuracy", "88.89"),
    (TDSA, "VI", "TDSA", "xi4", "resnet18", "224", "stanford_cars", "", "accuracy", "89.08"),
    (TDSA, "VIII", "TDSA", "xi1+bicubic", "resnet18", "224", "cub200", "", "accuracy", "65.50"),
    ("cfchen-duke/ProtoPNet", "issue 28", "ProtoPNet", "", "vgg19", "224", "cub200", "", "accuracy", "78.0"),
]  # fmt: skip


@pytest.mark.parametrize("spot", SPOTS, ids=lambda spot: f"{spot[1]}-{spot[2]}-{spot[-1]}")
def test_spot_values(spot: tuple[str, ...]) -> None:
    keys = ("paper", "table", "method", "variant", "backbone", "resolution", "dataset", "subset", "metric")
    found = [row["value"] for row in ROWS if tuple(row[key] for key in keys) == spot[:-1]]
    assert found == [spot[-1]]


def test_totals_of_inat2017_are_the_mean_over_its_images() -> None:
    # validation images per super-category, in the order of the paper's Table 10
    images = [38206, 18076, 21226, 5680, 3490, 1780, 2385, 1841, 1362, 1086, 637, 144, 73]
    for method in ("ResNet-101", "SSN", "TASN"):
        values = [
            float(row["value"]) for row in ROWS if (row["paper"], row["table"], row["method"]) == (TASN, "10", method)
        ]
        mean = sum(n * value for n, value in zip(images, values[:13], strict=True)) / sum(images)
        assert mean == pytest.approx(values[13], abs=0.06)
