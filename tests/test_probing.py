"""Probes: the cascade, and a whole pass over toybirds with a tiny network."""

import numpy as np
import pytest
import torch
from lightning import Trainer

from fgbench import measures
from fgbench.data.toybirds import ToyBirds
from fgbench.explain import Explained, make_explainer
from fgbench.measures import PROBED
from fgbench.methods import RegionGrouping
from fgbench.methods.base import Optim
from fgbench.probing import Probes, cascade
from fgbench.result import EXPLAINED


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


@pytest.mark.filterwarnings("ignore")
def test_a_probe_gives_a_number_or_a_reason_in_each_column(fake_root):
    data = ToyBirds(root=str(fake_root("toybirds")), num_classes=3, num_images=36, image_size=48, eval_batch_size=6)
    data.prepare_data()
    data.setup("test")
    rows = data.listing.rows("test")[::3]
    method = tiny(0)
    found = {}
    for name in ("own", "centre"):
        shows = method if name == "own" else Explained(method, make_explainer(name))
        networks = {"all": tiny(1)}
        probes = Probes(data, shows, data.listing.image_id[rows].tolist(), make_explainer(name), networks, steps=4)
        runner = Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, use_distributed_sampler=False, inference_mode=False, callbacks=[probes],
        )  # fmt: skip
        runner.test(shows, dataloaders=data.some_loader(rows, data.test_view), verbose=False)
        assert set(PROBED) == {*(set(PROBED) & set(probes.numbers)), *probes.reasons}
        found[name] = probes
    own, centre = found["own"].numbers, found["centre"].numbers
    assert own["perturbed_images"] == len(rows)
    assert found["own"].reasons.keys() == {"part_stability"}
    assert found["centre"].reasons.keys() == {"part_stability", "part_stability_agnostic"}
    assert centre["sanity_rank"] == centre["sanity_ssim"] == 100  # looks at no network
    assert 0 <= own["part_stability_agnostic"] <= 100
    # an untrained network's chances hardly move: both areas are its confidence
    batch = next(iter(data.some_loader(rows, data.test_view)))
    with torch.no_grad():
        chance = method(method.normalise(batch.image)).logits.softmax(1).amax(1)
    assert own["deletion"] == pytest.approx(100 * float(np.mean(chance.numpy())), abs=15)


def test_what_a_result_may_leave_out_is_what_the_test_phase_measures():
    assert set(EXPLAINED) == set(measures.PLAIN)
