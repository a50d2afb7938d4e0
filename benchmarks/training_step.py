"""What the suite's training loop costs over a hand-written one: same model, same images, same optimiser.

Both loops load, augment, normalise, train and count; they take turns within this process, and the median of the ratios
of their step times is the result. Prints a line per turn.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import tempfile
import time

import torch

from fgbench import bench, run
from fgbench.cells import Cell
from fgbench.config import Resolved, instantiate, make_data, resolve

SKIP = 5  # first steps of each turn, not counted by either


def suite_step_ms(plan: Resolved) -> float:
    """The fit phase as a user runs it: callbacks, checkpoints, progress lines, W&B offline."""
    shutil.rmtree(plan.run_folder, ignore_errors=True)
    plan.run_folder.mkdir(parents=True)
    with contextlib.redirect_stderr(io.StringIO()):
        bench.write_config(plan)
        run.fit(plan.run_folder, run.read_run(plan.run_folder))
    trained = json.loads((plan.run_folder / "fit.json").read_text())
    return 1000 * plan.tree["data"]["init_args"]["batch_size"] / trained["train_images_per_s"]


def plain_step_ms(tree: dict) -> float:
    data, method = instantiate(tree)
    data.setup("fit")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    method.to(device).train()
    groups, decay = method.parameter_groups(), method.optim.weight_decay
    optimizer: torch.optim.Optimizer
    if method.optim.name == "adamw":
        optimizer = torch.optim.AdamW(groups, weight_decay=decay)
    else:
        optimizer = torch.optim.SGD(groups, momentum=method.optim.momentum, weight_decay=decay)
    loader = data.train_dataloader()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(loader))
    steps, began = 0, 0.0
    for batch in loader:
        batch = type(batch)(*(field.to(device, non_blocking=True) for field in batch))
        batch = batch._replace(image=method.normalise(batch.image))
        with torch.autocast(device.type, torch.bfloat16, enabled=tree["trainer"]["precision"] == "bf16-mixed"):
            loss, _ = method.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        steps += 1
        if steps == SKIP + 1:
            if device.type == "cuda":
                torch.cuda.synchronize()
            began = time.monotonic()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.monotonic() - began) / (steps - SKIP - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--images", type=int, default=1600, help="half of them train")
    options = parser.parse_args()
    run.hush()
    os.environ["WANDB_MODE"] = "offline"
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["--machine.data_root", folder, "--data.init_args.num_images", str(options.images)]
        overrides += ["--trainer.max_epochs", "1", "--machine.runs", f"{folder}/runs"]
        for method in ("baseline", "region_grouping"):
            plan = resolve(Cell(method, "toybirds", overrides=tuple(overrides)))
            make_data(plan.tree).prepare_data()
            ratios = []
            for turn in range(options.turns):
                suite, plain = suite_step_ms(plan), plain_step_ms(plan.tree)
                ratios.append(suite / plain)
                print(f"{method} turn {turn}: suite {suite:.1f} ms, plain {plain:.1f} ms per step", flush=True)
            print(f"{method}: suite / plain {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
