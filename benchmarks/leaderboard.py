"""What the leaderboard costs: a rebuild and the page of many results, a comparison of many predictions, an audit.

``python benchmarks/leaderboard.py [--results 10000] [--predictions 100000] [--draws 10000]``; CPU seconds of one
process beside wall time, so that a busy machine shows.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fgbench import leaderboard, statistics
from fgbench.leaderboard import audit, comparison, files
from fgbench.predictions import PredictionsWriter
from fgbench.report import page
from fgbench.result import digest, read_result, to_json, write_atomically

COMMITTED = Path(__file__).parents[1] / "leaderboard"


def timed(what: str, work: Callable[[], object], limit: float) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:64s} {cpu:6.2f} s CPU {wall:6.2f} s wall   goal {limit:.0f} s")


def fill(folder: Path, count: int) -> None:
    """Copies of a committed row: three seeds of each of many settings, on four datasets."""
    first = read_result(sorted((COMMITTED / "results/toybirds").glob("region_grouping.*.json"))[0])
    for index in range(count):
        setting = digest({"setting": index // 3})
        dataset = f"data{index // 3 % 4}"
        row = dataclasses.replace(
            first, dataset=dataset, seed=index % 3, config_digest=setting, accuracy=50 + index % 400 / 10
        )
        path = folder / "results" / dataset / f"{row.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_json(row))


def compared(folder: Path, images: int, draws: int, seeds: int) -> Callable[[], object]:
    """Two settings with predictions of many images: right or wrong, hit or missed, five landmarks."""
    random = np.random.default_rng(0)
    first = read_result(sorted((COMMITTED / "results/toybirds").glob("region_grouping.*.json"))[0])
    runs = []
    for method in ("a", "b"):
        for seed in range(seeds):
            row = dataclasses.replace(first, method=method, seed=seed, n_eval=images)
            runs.append(row)
            right = random.random(images) < 0.88
            target = np.arange(images) % 200
            with PredictionsWriter(comparison.predictions_path(folder, row)) as writer:
                writer.write(
                    {
                        "image_id": np.arange(images),
                        "target": target,
                        "predicted": np.where(right, target, (target + 1) % 200),
                        "correct": right,
                        "hit": (random.random(images) < 0.95).astype(np.float32),
                        "landmark_errors": random.lognormal(-2, 1, (images, 5)).astype(np.float32),
                    }
                )
    a, b = (leaderboard.Entry(tuple(row for row in runs if row.method == method)) for method in ("a", "b"))
    return lambda: comparison.compare(folder, a, b, draws=draws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=int, default=10_000)
    parser.add_argument("--predictions", type=int, default=100_000)
    parser.add_argument("--draws", type=int, default=10_000)
    options = parser.parse_args()
    n, draws = options.predictions, options.draws
    random = np.random.default_rng(1)
    right = [(random.random((s, n)) < 0.88).astype(np.float64) for s in (1, 1, 3, 3)]
    of_one, of_three = (f"bootstrap, {n:,} predictions, {draws:,} draws, {k} seed(s)" for k in (1, 3))
    timed(of_one, lambda: statistics.bootstrap(right[0], right[1], draws=draws), 3)
    timed(of_three, lambda: statistics.bootstrap(right[2], right[3], draws=draws), 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seeds in (1, 3):
            work = compared(folder, n, draws, seeds)
            timed(f"compare, {n:,} predictions, three metrics, {seeds} seed(s)", work, 3)
        fill(folder, options.results)
        timed(f"read {options.results:,} results", lambda: leaderboard.read_results(folder), 10)
        results = leaderboard.read_results(folder).results
        timed(f"tables of {options.results:,} results", lambda: files.derived(folder, results), 10)
        timed(f"page of {options.results:,} results", lambda: page.render(results, folder, folder), 10)

        def everything() -> None:
            read = leaderboard.rebuild(folder)
            write_atomically(folder / "report.html", page.render(read.results, folder, folder).encode())

        timed(f"rebuild and page from {options.results:,} results", everything, 10)
        print(f"the page takes {(folder / 'report.html').stat().st_size / 1e6:.1f} MB")
    timed("audit of the committed rows", lambda: audit.verify(COMMITTED), 10)


if __name__ == "__main__":
    main()
