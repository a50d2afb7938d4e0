"""What the suite's training loop costs over a hand-written one: same model, same images, same optimiser.

Both loops load, augment, normalise, train and count; they take turns within this process, and the median of the ratios
of their step times is the result. Prints a line per turn.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from fgbench import run
from fgbench.cells import Cell
from fgbench.config import instantiate, resolve
from fgbench.report.callbacks import Speed

SKIP = 5  # first steps of each turn, not counted by either


def suite_step_ms(tree: dict, folder: Path) -> float:
    data, method = instantiate(tree)
    speed = Speed(SKIP)
    trainer = run.make_trainer(tree, folder, [run.RepeatableEpochs(0), run.History(), speed], None)
    trainer.fit(method, datamodule=data)
    return 1000 * data.batch_size / speed.train_images_per_s


def plain_step_ms(tree: dict) -> float:
    data, method = instantiate(tree)
    data.setup("fit")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    method.to(device).train()
    optimizer = torch.optim.SGD(
        method.parameter_groups(), momentum=method.optim.momentum, weight_decay=method.optim.weight_decay
    )
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
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["--machine.data_root", folder, "--data.init_args.num_images", str(options.images)]
        overrides += ["--trainer.max_epochs", "1", "--machine.progress", "false", "--machine.logger", "none"]
        for method in ("baseline", "region_grouping"):
            tree = resolve(Cell(method, "toybirds", overrides=tuple(overrides))).tree
            instantiate(tree)[0].prepare_data()
            ratios = []
            for turn in range(options.turns):
                suite, plain = suite_step_ms(tree, Path(folder)), plain_step_ms(tree)
                ratios.append(suite / plain)
                print(f"{method} turn {turn}: suite {suite:.1f} ms, plain {plain:.1f} ms per step", flush=True)
            print(f"{method}: suite / plain {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
