"""Scoring: the same digits with any number of processes, every image once, nothing that cannot be measured."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from sklearn.metrics import balanced_accuracy_score
from torch.utils.data import DataLoader, Dataset

from fgbench.explain import floors
from fgbench.measures import HEADLINE, PLAIN
from fgbench.measures import reasons as reasons_of
from fgbench.metrics.consistency import PartStability, noise
from fgbench.scoring import Scoring
from fgbench.types import Batch, Output

CLASSES, PARTS, HEIGHT, WIDTH = 5, 2, 24, 36


class Images(Dataset):
    """Item ``i`` is the same whoever asks."""

    def __init__(self, size, first=0, boxes=True):
        self.size, self.first, self.boxes = size, first, boxes

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        image_id = self.first + 3 * index
        random = torch.Generator().manual_seed(image_id)
        box = torch.tensor([4.0, 3, 20, 18]) + torch.randint(0, 6, (4,), generator=random)
        landmarks = box[:2] + torch.rand(3, 2, generator=random) * (box[2:] - box[:2])
        return Batch(
            image=torch.rand(3, HEIGHT, WIDTH, generator=random),
            target=torch.randint(0, CLASSES - 1, (), generator=random),
            image_id=torch.tensor(image_id),
            boxes=box[None] if self.boxes else torch.zeros(0, 4),
            box_valid=torch.tensor([image_id % 7 != 0]) if self.boxes else torch.zeros(0, dtype=torch.bool),
            landmarks=landmarks,
            visible=torch.rand(3, generator=random) > 0.2,
            frame=torch.tensor([2.0, 0, 1, 0, 2, 3], dtype=torch.float64),
            mask=torch.randint(0, 3, (HEIGHT, WIDTH), generator=random, dtype=torch.uint8),
        )


class Fake(LightningModule):
    """Each image's output is a function of that image only, however images are batched."""

    def __init__(self, parts=PARTS, saliency=True, dtype=torch.float32):
        super().__init__()
        self.parts, self.saliency, self.kind = parts, saliency, dtype
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, image):
        grey = image.double().mean(1).unflatten(1, (4, 6)).unflatten(3, (6, 6)).mean((2, 4))
        parts = torch.stack([grey**8, (1 - grey) ** 8], 1).to(self.kind) if self.parts else None
        logits = (image[:, 0, 0, :CLASSES] * self.weight).to(self.kind)
        own = torch.stack([(grey - level).abs() for level in (0.4, 0.5, 0.6)], 1).to(self.kind)
        return Output(logits, grey.to(self.kind) if self.saliency else None, parts, bound_parts=own)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        return {"output": self(batch.image)}

    validation_step = test_step

    def training_step(self, batch, batch_idx):
        return self(batch.image).logits.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


class Shard(torch.utils.data.Sampler):
    """Rank ``r`` of ``w`` gets ``r, r + w, ...``: nothing padded, nothing dropped."""

    def __init__(self, size):
        self.size = size

    def __iter__(self):
        up = torch.distributed.is_initialized()
        rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if up else (0, 1)
        return iter(range(rank, self.size, world))

    def __len__(self):
        return len(list(iter(self)))


class Rows:
    def __init__(self):
        self.calls = []

    def write(self, columns):
        self.calls.append(columns)

    def column(self, name):
        order = np.argsort(np.concatenate([call["image_id"] for call in self.calls]))
        return np.concatenate([call[name] for call in self.calls])[order]


def loader(size, first=0, batch=4, **kwargs):
    return DataLoader(Images(size, first, **kwargs), batch_size=batch, sampler=Shard(size))


def facts(sizes, **changes):
    ids = {split: first + 3 * np.arange(size) for split, (size, first) in sizes.items()}
    ids["fit"] = ids.get("train")
    known = {
        "num_outputs": CLASSES, "target": "class", "landmark_frame": "box", "landmark_classes": (1,), "has_boxes": True,
        "label_names": tuple("abcde"), "landmark_names": ("beak", "tail", "wing"), "validate_on_test": False,
        "label_groups": (), "pointing_tolerances": (0.0, 2.0, 1000.0), "mask_names": (),
        "split_ids": lambda split: ids[split],
    }  # fmt: skip
    return SimpleNamespace(**(known | changes))


SIZES = {"train": (41, 1000), "test": (37, 0), "val": (13, 5000)}


class Save(Callback):
    """The report and the rows of this process, from wherever it runs; and stability, which probes measure."""

    def __init__(self, scoring, folder):
        self.scoring, self.folder = scoring, folder
        self.stable = [PartStability(in_boxes=False), PartStability(True, False, "bound_parts")]  # large windows

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if dataloader_idx:  # the test
            noisy = pl_module(batch.image + 2 * noise(batch.image, batch.image_id))
            for metric in self.stable:
                points = [floors.random_parts(batch, 3, seed) for seed in (0, 1)]
                metric.update(outputs["output"], noisy, batch, tuple(points))

    def on_test_end(self, trainer, pl_module):
        ids = self.scoring.writers["test"].column("image_id").tolist()
        stable = {name: float(value) for metric in self.stable for name, value in metric.compute().items()}
        text = json.dumps([self.scoring.report | {"stability": stable}, ids])
        (self.folder / f"{trainer.world_size}.{trainer.global_rank}.json").write_text(text)


def trainer(processes=1, callbacks=(), **kwargs):
    several = {"strategy": "ddp_fork", "devices": processes} if processes > 1 else {"devices": 1}
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, barebones=False,
        enable_checkpointing=False, use_distributed_sampler=False, callbacks=list(callbacks), **several, **kwargs,
    )  # fmt: skip


def evaluate(known=None, roles=("fit", "test"), loaders=None, method=None, writers=(None, None), **kwargs):
    method = method or Fake()
    scoring = Scoring(known or facts(SIZES), method.parts, roles, writer=writers[0], locate_writer=writers[1])
    made = {"fit": loader(41, 1000), "test": loader(37), "locate": loader(37)} | (loaders or {})
    trainer(callbacks=[scoring], **kwargs).test(method, dataloaders=[made[role] for role in roles], verbose=False)
    return scoring.report


@pytest.mark.filterwarnings("ignore")
def test_one_two_and_three_processes_report_the_same_digits(tmp_path: Path):
    for processes in (1, 2, 3):  # neither 41 nor 37 divides
        known = facts(SIZES, mask_names=("head", "body"))
        scoring = Scoring(known, PARTS, ("fit", "test"), writer=Rows(), bound_parts=3)
        runner = trainer(processes, [scoring, Save(scoring, tmp_path)])
        runner.test(Fake(), dataloaders=[loader(41, 1000), loader(37)], verbose=False)
    reports = {}
    for processes in (1, 2, 3):
        ids = []
        for rank in range(processes):
            report, shown = json.loads((tmp_path / f"{processes}.{rank}.json").read_text())
            ids += shown
            reports[processes, rank] = {k: v for k, v in report.items() if k not in ("seconds", "images_per_s")}
        assert sorted(ids) == list(range(0, 3 * 37, 3))
    assert len(reports) == 6
    assert reports[1, 0]["n_eval"] == 37
    assert all(report == reports[1, 0] for report in reports.values())
    assert None not in reports[1, 0]["numbers"].values()
    assert reports[1, 0]["reasons"] == {}  # masks and parts of classes among them
    assert reports[1, 0]["scores"]["bound_part_units"] > 0
    stable = reports[1, 0]["stability"]
    assert 0 < stable["part_stability_agnostic"] < 100
    assert 0 < stable["part_stability"] < 100


@pytest.mark.filterwarnings("ignore")
def test_an_image_seen_twice_by_two_processes_stops_the_run():
    known = facts(SIZES)
    padded = DataLoader(Images(37), batch_size=4)  # both processes see everything
    scoring = Scoring(known, None, ("test",))
    with pytest.raises(Exception, match=r"74 images, the split has 37") as raised:
        trainer(2, [scoring]).test(Fake(parts=None), dataloaders=[padded], verbose=False)
    assert "use_distributed_sampler=False" in str(raised.value)


def test_the_right_number_of_wrong_images_stops_the_run():
    with pytest.raises(RuntimeError, match="some images twice"):
        evaluate(loaders={"test": loader(37, first=3)})


def test_numbers_floors_and_rows_agree_with_plain_computations():
    rows = Rows()
    report = evaluate(writers=(rows, None))
    items = [Images(37)[i] for i in range(37)]
    logits = np.stack([item.image[0, 0, :CLASSES].numpy() for item in items])
    target = np.array([int(item.target) for item in items])
    hits = logits.argmax(1) == target
    numbers = report["numbers"]
    assert numbers["accuracy"] == pytest.approx(100 * hits.mean(), abs=1e-4)
    assert numbers["class_accuracy"] == pytest.approx(100 * balanced_accuracy_score(target, logits.argmax(1)), abs=1e-4)
    np.testing.assert_array_equal(rows.column("image_id"), np.arange(0, 111, 3))
    np.testing.assert_array_equal(rows.column("correct"), hits)
    np.testing.assert_array_equal(rows.column("top5"), np.argsort(-logits, 1))
    np.testing.assert_array_equal(rows.column("target"), target)
    boxed = np.array([bool(item.box_valid) for item in items])
    assert numbers["pointing_error"] == pytest.approx(100 * (1 - np.nanmean(rows.column("hit"))), abs=1e-4)
    assert numbers["pointing_error"] >= report["scores"]["pointing_error_2px"]
    assert report["scores"]["pointing_error_1000px"] == 0  # larger than the images
    np.testing.assert_array_equal(np.isnan(rows.column("hit")), ~boxed)
    errors = rows.column("landmark_errors")
    assert numbers["landmark_error"] == pytest.approx(100 * np.nanmean(errors), abs=1e-3)
    visible = np.stack([item.visible.numpy() for item in items]) & boxed[:, None]
    np.testing.assert_array_equal(np.isnan(errors), ~visible)
    centre = [box[0] <= WIDTH / 2 <= box[2] and box[1] <= HEIGHT / 2 <= box[3] for box in (i.boxes[0] for i in items)]
    assert numbers["pointing_floor"] == pytest.approx(100 * (1 - np.mean(np.array(centre)[boxed])), abs=1e-4)
    assert report["floors"]["pointing_error"]["box_centre"] == 0
    assert numbers["landmark_floor"] == report["floors"]["landmark_error"]["mean_landmark"]
    assert set(report["floors"]["landmark_error"]) == {"mean_landmark", "image_centre", "box_centre", "random_parts"}
    assert set(report["details"]["landmark_error"]) == {"beak", "tail", "wing"}
    assert report["scores"]["landmark_error_class_1"] > 0
    assert report["details"]["recall"].keys() == {"a", "b", "c", "d"}  # class e has no image
    assert report["n_eval"] == 37
    assert report["images_per_s"] > 0


def test_groups_of_classes_have_their_own_accuracy():
    groups = ("plants", "birds", "plants", "birds", "fungi")
    report = evaluate(known=facts(SIZES, label_groups=groups))
    items = [Images(37)[i] for i in range(37)]
    expected = {}
    for name in ("plants", "birds"):  # class e, the only fungus, has no image
        mine = [item for item in items if groups[int(item.target)] == name]
        hits = [int(item.image[0, 0, :CLASSES].argmax()) == int(item.target) for item in mine]
        expected[name] = pytest.approx(100 * sum(hits) / len(hits), abs=1e-4)
    assert report["details"]["group_accuracy"] == expected


def test_a_locating_loader_measures_landmarks_and_pointing_in_its_own_view():
    one, two = Rows(), Rows()
    together = evaluate(writers=(Rows(), None))
    apart = evaluate(roles=("fit", "test", "locate"), writers=(one, two))
    assert apart["numbers"] == together["numbers"]
    assert "hit" not in one.calls[0]
    assert "accuracy" not in two.calls[0]
    np.testing.assert_array_equal(one.column("image_id"), two.column("image_id"))


@pytest.mark.parametrize(
    ("method", "known", "roles", "reasons"),
    [
        (Fake(parts=None), facts(SIZES), ("test",), {"landmark": "the method has no parts"}),
        (Fake(saliency=False), facts(SIZES), ("fit", "test"), {"pointing": "the method has no saliency"}),
        (Fake(), facts(SIZES), ("test",), {"landmark": "no loader to fit"}),
        (Fake(), facts(SIZES, landmark_frame=None), ("test",), {"landmark": "the dataset has no landmarks"}),
        (Fake(), facts(SIZES, has_boxes=False), ("fit", "test"), {"pointing": "the dataset has no boxes"}),
    ],
)
def test_what_cannot_be_measured_is_none_with_a_reason(method, known, roles, reasons):
    report = evaluate(known, roles, method=method)
    for name, reason in reasons.items():
        for column in (f"{name}_error", f"{name}_floor"):
            assert report["numbers"][column] is None
            assert reason in report["reasons"][column]
    shows = reasons.get("pointing") != "the method has no saliency"
    for column, reason in reasons_of(known, method.parts, False, shows, HEADLINE).items():
        assert report["reasons"][column] == reason  # as the matrix of methods and datasets prints it
    empty = {name for name, number in report["numbers"].items() if number is None}
    assert set(report["reasons"]) == empty | (set(PLAIN) - report["scores"].keys())
    assert report["numbers"]["accuracy"] is not None


def test_images_without_any_box_leave_empty_numbers():
    loaders = {role: loader(*size, boxes=False) for role, size in (("fit", (41, 1000)), ("test", (37,)))}
    report = evaluate(loaders=loaders)
    assert "no image of the split" in report["reasons"]["pointing_error"]
    assert "no image of the split" in report["reasons"]["landmark_error"]


def test_landmarks_outside_of_all_parts_leave_agreement_inside_of_parts_empty_with_a_reason():
    class Nothing(Fake):
        def forward(self, image):
            said = super().forward(image)
            return said._replace(parts=torch.zeros_like(said.parts))

    report = evaluate(method=Nothing())
    for name in ("nmi_landmarks", "ari_landmarks"):
        assert name in report["scores"]
        assert f"{name}_foreground" not in report["scores"]
        assert "lies in one of the parts" in report["reasons"][f"{name}_foreground"]


def test_attributes_have_one_accuracy_and_no_class_accuracy():
    class Attributes(Images):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            return item._replace(target=(item.image[1, 0, :CLASSES] > 0.5).float())

    known = facts(SIZES, target="attributes", landmark_classes=(), landmark_frame="interocular")
    loaders = {
        role: DataLoader(Attributes(size, first), batch_size=5)
        for role, (size, first) in {"fit": (41, 1000), "test": (37, 0)}.items()
    }
    report = evaluate(known, loaders=loaders)
    assert report["numbers"]["class_accuracy"] is None
    assert "attributes" in report["reasons"]["class_accuracy"]
    assert {"accuracy_logit_half", "landmark_error_iod_residual"} <= report["scores"].keys()
    assert report["details"]["accuracy"].keys() == set("abcde")


def test_a_network_in_half_precision_is_measured_in_double():
    exact, rows = evaluate()["numbers"], Rows()
    half = evaluate(method=Fake(dtype=torch.bfloat16), precision="bf16-mixed", writers=(rows, None))["numbers"]
    assert half["landmark_error"] == pytest.approx(exact["landmark_error"], abs=0.5)
    assert half["landmark_floor"] == exact["landmark_floor"]
    assert rows.column("top5_logits").dtype == np.float32


def test_rows_are_written_while_the_split_goes_by(monkeypatch):
    monkeypatch.setattr("fgbench.scoring.ROWS", 10)
    rows = Rows()
    evaluate(writers=(rows, None))
    assert [len(call["image_id"]) for call in rows.calls] == [12, 12, 12, 1]


def test_impossible_orders_of_loaders_are_refused():
    for roles in (("fit",), ("test", "fit"), ("test", "test")):
        with pytest.raises(ValueError, match="each once and fit first"):
            Scoring(facts(SIZES), PARTS, roles)


class Seen(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_validation_end(self, trainer, pl_module):
        if trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics["val/accuracy"])
        (self.folder / f"{trainer.world_size}.{trainer.global_rank}").write_text(repr(value))


@pytest.mark.filterwarnings("ignore")
def test_validation_logs_the_same_exact_accuracy_on_every_process(tmp_path: Path):
    for processes in (1, 2):
        runner = trainer(processes, [Scoring.for_validation(facts(SIZES)), Seen(tmp_path)], max_epochs=1)
        runner.fit(Fake(), loader(8, 1000), loader(13, 5000))
    items = [Images(13, 5000)[i] for i in range(13)]
    expected = 100 * np.mean([int(item.image[0, 0, :CLASSES].argmax()) == int(item.target) for item in items])
    values = [float(path.read_text()) for path in sorted(tmp_path.iterdir())]
    assert len(values) == 3
    assert values == pytest.approx([expected] * 3, abs=1e-5)
    assert len(set(values)) == 1
