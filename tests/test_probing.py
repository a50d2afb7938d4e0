"""Probes: the cascade, and a whole pass over toybirds with a tiny network."""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import Trainer

from fgbench import measures
from fgbench.cli import main
from fgbench.data.toybirds import ToyBirds
from fgbench.explain import Explained, make_explainer
from fgbench.measures import PROBED
from fgbench.methods import METHODS, DPNet, MCLoss, ProtoPNet, RegionGrouping
from fgbench.methods.base import Optim
from fgbench.metrics import consistency
from fgbench.probing import Probes, answer, cascade, compiled, notes
from fgbench.result import EXPLAINED
from fgbench.types import Batch


def tiny(seed):
    torch.manual_seed(seed)
    return RegionGrouping(
        num_outputs=3, target="class", optim=Optim(), backbone="resnet_nano", weights=None, parts=3
    ).eval()


def test_the_cascade_replaces_weights_from_the_output_down():
    method, fresh = tiny(0), tiny(1)
    networks = cascade(method, fresh)
    stages = len(method.backbone.stages)
    assert list(networks) == ["head", *(f"stage{i}" for i in range(stages - 1, 0, -1)), "all"]
    own, other = method.state_dict(), fresh.state_dict()
    for name, value in networks["head"].state_dict().items():
        assert torch.equal(value, own[name] if name.startswith("backbone.stages.") else other[name])
    for name, value in networks["stage1"].state_dict().items():
        assert torch.equal(value, own[name] if name.startswith("backbone.stages.0.") else other[name])
    assert all(torch.equal(value, other[name]) for name, value in networks["all"].state_dict().items())


@pytest.fixture
def data(fake_root):
    found = ToyBirds(root=str(fake_root("toybirds")), num_classes=3, num_images=36, image_size=48, eval_batch_size=6)
    found.prepare_data()
    found.setup("test")
    return found


def run_probes(probes, shows, data, rows):
    """As ``probe`` does it; every column has a number or a reason, and no metric is asked before it saw anything."""
    runner = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, use_distributed_sampler=False, inference_mode=False, callbacks=[probes],
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runner.test(shows, dataloaders=data.some_loader(rows, data.test_view), verbose=False)
    assert [str(one.message) for one in caught if "before the ``update``" in str(one.message)] == []
    assert set(PROBED) == {*(set(PROBED) & set(probes.numbers)), *probes.reasons}


@pytest.mark.filterwarnings("ignore")
def test_a_probe_gives_a_number_or_a_reason_in_each_column(data):
    rows = data.listing.rows("test")[::3]
    method = tiny(0)
    found = {}
    for name in ("own", "centre"):
        shows = method if name == "own" else Explained(method, make_explainer(name))
        networks = {"all": tiny(1)}
        probes = Probes(data, shows, data.listing.image_id[rows].tolist(), make_explainer(name), networks, steps=4)
        run_probes(probes, shows, data, rows)
        found[name] = probes
    own, centre = found["own"].numbers, found["centre"].numbers
    assert own["perturbed_images"] == len(rows)
    assert found["own"].reasons.keys() == {"part_stability"}
    assert found["centre"].reasons.keys() == {"part_stability", "part_stability_agnostic"}
    assert centre["sanity_rank"] == centre["sanity_ssim"] == 100  # looks at no network
    assert 0 <= own["part_stability_agnostic"] <= 100
    lines = notes({name: {"numbers": probes.numbers} for name, probes in found.items()})
    assert f"own: part stability agnostic, floor: redrawn {own['part_stability_agnostic/redrawn']:.2f}" in lines
    assert "centre: sanity rank, with fresh weights down to: all 100.00" in lines
    assert len(lines) == 5  # and the correlation and the structure of either
    # an untrained network's chances hardly move: both areas are its confidence
    batch = next(iter(data.some_loader(rows, data.test_view)))
    with torch.no_grad():
        chance = method(method.normalise(batch.image)).logits.softmax(1).amax(1)
    assert own["deletion"] == pytest.approx(100 * float(np.mean(chance.numpy())), abs=15)


SAMPLERS = {"attention_backbone": "resnet_nano", "attention_weights": None, "attention_size": 32, "sampled": 32}
TINY = {
    "dpnet": {"regions": 3, "parts_per_class": 2, "shown_parts": 2},
    "focus_longer": {"hidden": 8, "steps": 2, "patch_size": 32, "patches": "grid", "patch_count": 1},
    "region_grouping": {"parts": 3},
    "ssn": SAMPLERS,
    "tasn": SAMPLERS,
}


def test_floors_and_the_cascade_are_printed_from_the_output_down():
    numbers = {"part_stability": 91.25, "part_stability/redrawn": 80.0, "insertion": 3.0, "sanity_rank": 2.5}
    numbers |= {"sanity_rank/head": 90.126, "sanity_rank/stage1": 40.0, "sanity_rank/all": 2.5}
    assert notes({"own": {"numbers": numbers}, "gradcam": {"numbers": {"deletion": 1.0}}}) == [
        "own: part stability, floor: redrawn 80.00",
        "own: sanity rank, with fresh weights down to: head 90.13, stage1 40.00, all 2.50",
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "target"), [*((name, "class") for name in METHODS), ("region_grouping", "attributes")]
)
def test_every_method_is_probed_in_each_column_that_it_can_have(name, target, data):
    def make(seed):
        torch.manual_seed(seed)
        return METHODS[name](3, target, Optim(), backbone="resnet_nano", weights=None, **TINY.get(name, {})).eval()

    facts = SimpleNamespace(
        target=target,
        landmark_names=data.landmark_names,
        landmark_frame=data.landmark_frame,
        has_boxes=True,
        mask_names=(),
    )
    rows, method = data.listing.rows("test")[::9], make(0)
    ids = data.listing.image_id[rows].tolist()
    probes = Probes(facts, method, ids, make_explainer("own"), {"all": make(1)}, steps=2)
    run_probes(probes, method, data, rows)
    assert probes.numbers.get("perturbed_images") == (len(rows) if target == "class" else None)
    assert ("deletion" in probes.numbers) == (target == "class")
    assert {"sanity_rank", "sanity_ssim"} <= probes.numbers.keys()
    stable = {name for name in probes.numbers if name in ("part_stability", "part_stability_agnostic")}
    units = {*(["part_stability_agnostic"] if method.parts and not method.class_stages else [])}
    units |= {"part_stability"} if method.class_stages or method.bound_parts else set()
    assert stable == units


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--explain", "own,gradcat"], "there is no explainer 'gradcat'; known: own, cam"),
        (["--steps", "0"], "steps is 0; insertion and deletion take 1 step at least"),
    ],
)
def test_what_cannot_be_probed_is_refused_before_anything_is_loaded(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["probe", str(tmp_path / "nowhere"), *options])
    assert stop.value.code == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["explain", "--run", "x"], ["gallery"]])
@pytest.mark.parametrize("count", ["0", "-3", "many"])
def test_so_many_examples_are_refused(verb, count, capsys):
    with pytest.raises(SystemExit):
        main([*verb, f"--examples={count}"])
    assert f"--examples: {count!r} is not a whole number from 1" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["explain", "--run"], ["gallery", "--only"], ["probe"]])
def test_a_run_that_is_not_there_is_named_in_a_line(verb, tmp_path):
    with pytest.raises(SystemExit, match=r"nowhere/config\.yaml: no such run; start it with: make bench"):
        main([*verb, str(tmp_path / "nowhere")])


def probes_of(method):
    facts = SimpleNamespace(landmark_frame="box")
    return Probes(facts, method, [5, 8], make_explainer("own"), {}, steps=4)


def batch_of(method):
    image = torch.randint(256, (2, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    empty, no = torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool)
    frame, ids = torch.zeros(2, 6).double(), torch.tensor([5, 8])
    raw = Batch(image, ids % 3, ids, empty, no, torch.zeros(2, 0, 2), no, frame, torch.zeros(2, 0), image[:, 0])
    return method.on_after_batch_transfer(raw, 0)


@torch.no_grad()
def test_whole_images_of_both_curves_are_answered_as_in_the_test():
    torch.manual_seed(0)
    method = DPNet(3, "class", Optim(), "resnet_nano", None, regions=3, parts_per_class=2, shown_parts=2).eval()
    torch.nn.init.normal_(method.classifier.weight, std=3)
    batch = batch_of(method)
    said = method.respond(batch)  # with rectangles of images 5 and 8
    assert not torch.allclose(said.logits, method(batch.image).logits)
    deletion, insertion = probes_of(method)._curves(method, said, batch)
    chance = said.logits.softmax(1).amax(1)
    torch.testing.assert_close(deletion[:, 0], chance)
    torch.testing.assert_close(insertion[:, -1], chance)


@pytest.mark.parametrize(("kind", "field"), [(MCLoss, "parts"), (ProtoPNet, "bound_parts")])
@torch.no_grad()
def test_noise_does_not_exchange_the_class_that_parts_belong_to(kind, field):
    torch.manual_seed(0)
    method = kind(3, "class", Optim(), "resnet_nano", None).eval()
    batch = batch_of(method)
    said = method.respond(batch)
    other = said._replace(logits=said.logits.roll(1, dims=1))  # another class is predicted
    first, second = (getattr(probes_of(method)._noisy(method, one, batch), field) for one in (said, other))
    assert not torch.equal(first, second)
    noisy = batch.image + consistency.noise(batch.image, batch.image_id, 0)
    torch.testing.assert_close(second, getattr(method.show(noisy, other.logits.argmax(1)), field))
    expected = ["part_stability"] if kind is MCLoss else ["part_stability_agnostic", "part_stability"]
    assert [metric.name for metric in probes_of(method).stable] == expected


def test_what_a_result_may_leave_out_is_what_the_test_phase_measures():
    assert set(EXPLAINED) == set(measures.PLAIN)


def scores(network, image):
    return network(image).mean((2, 3))


@pytest.mark.skipif(shutil.which("g++") is None, reason="what compiles a network for a CPU is not installed")
@torch.no_grad()
def test_a_compiled_network_answers_with_its_own_weights():
    image = torch.rand(2, 3, 8, 8)
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
        torch.testing.assert_close(compiled(scores)(network, image), scores(network, image))


@torch.no_grad()
def compile_once():
    """In a process without type checks, which the compiler cannot read."""
    torch.manual_seed(0)
    method = MCLoss(3, "class", Optim(), "resnet_nano", None).eval()
    batch = batch_of(method)
    said = method.respond(batch)._replace(saliency=torch.rand(2, 6, 6))
    probes = probes_of(method)
    expected = probes._curves(method, said, batch)
    assert expected.amax() - expected.amin() > 1e-3
    probes.answer = compiled(answer)
    torch.testing.assert_close(probes._curves(method, said, batch), expected)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    last = Batch(*(field[1:] if len(field) == 2 else field for field in batch))  # a batch of one image
    alone = said._replace(logits=said.logits[1:], saliency=said.saliency[1:])
    torch.testing.assert_close(probes._curves(method, alone, last), expected[:, 1:])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs > 0
    print("compiled once")


@pytest.mark.skipif(shutil.which("g++") is None, reason="what compiles a network for a CPU is not installed")
def test_a_network_is_compiled_once_for_batches_of_any_size_and_answers_as_it_does_uncompiled():
    command = [sys.executable, "-c", "import test_probing; test_probing.compile_once()"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300)
    assert "compiled once" in done.stdout, done.stderr


@torch.no_grad()
@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, torch.OutOfMemoryError])
def test_whatever_a_compiled_network_fails_with_the_way_on_is_named_but_for_want_of_memory(error, monkeypatch):
    def fails(*given):
        raise error("no batching rule\nof this")

    monkeypatch.setattr(torch, "compile", lambda function, **options: fails)
    named = error is not torch.OutOfMemoryError
    reason = r"could not be compiled \(no batching rule\); go on without --compile" if named else "^no batching rule"
    with pytest.raises(RuntimeError, match=reason):
        compiled(scores)(torch.nn.Conv2d(3, 4, 5), torch.rand(2, 3, 9, 9))


@torch.no_grad()
def test_without_a_compiler_the_way_on_is_named(monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.raises(RuntimeError, match=r"could not be compiled \(.*no-such-compiler.*\); go on without --compile"):
        compiled(scores)(torch.nn.Conv2d(3, 4, 5), torch.rand(2, 3, 9, 9))
