"""Peak memory of the whole test phase (loading, method, metrics, predictions) on a split and on one ten times larger.

Each phase is a process, as in a run; the peak is the operating system's. Prints both, and the growth.
"""

import argparse
import contextlib
import io
import resource
import subprocess
import sys
import tempfile

from fgbench import bench
from fgbench.cells import Cell
from fgbench.config import make_data, resolve


def peak_mb() -> float:
    """Of all child processes so far: it can only rise."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def evaluate(folder: str, images: int) -> None:
    overrides = ["--data.init_args.num_images", str(images), "--machine.data_root", folder, "--trainer.max_epochs", "0"]
    overrides += ["--machine.runs", f"{folder}/runs", "--machine.logger", "none", "--machine.progress", "false"]
    plan = resolve(Cell("region_grouping", "toybirds", overrides=tuple(overrides)))
    make_data(plan.tree).prepare_data()
    plan.run_folder.mkdir(parents=True)
    with contextlib.redirect_stderr(io.StringIO()):
        bench.write_config(plan)
    for phase in bench.PHASES:
        subprocess.run([sys.executable, "-m", "fgbench", phase, str(plan.run_folder)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=600, help="of the small split; half of them are tested")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        evaluate(folder, options.images)
        small = peak_mb()
        evaluate(folder, 10 * options.images)
        large = peak_mb()
    print(f"peak of the test phase: {small:.0f} MB with {options.images // 2} test images")
    print(f"                        {large:.0f} MB with {5 * options.images}: growth {large - small:.0f} MB")


if __name__ == "__main__":
    main()
