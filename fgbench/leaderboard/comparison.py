"""Two settings on the same images: how much they differ, whether that is chance, and on which images.

What is tested, by metric:

* ``accuracy``, ``pointing_error``: an image is right or wrong, hit or missed. One run of each: McNemar's exact test.
* ``landmark_error``: of one run each, Wilcoxon's signed-rank test of the images' mean errors, whose tails are heavy.
* Attributes, and several seeds of either: a t test of the per-image differences that also counts the runs' spread
  (``statistics.crossed``). McNemar's test of the runs that share a seed stands beside it.

The interval is a paired bootstrap (``statistics.bootstrap``). Images that do not apply to a run (no box, no visible
landmark) must do so in all runs, or they are left out and counted. p values are corrected by Holm over the family that
is asked for at once: the metrics of a comparison, the rows against one, all pairs of a table.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from fgbench import statistics
from fgbench.leaderboard.settings import BETTER, KINDS, Entry
from fgbench.leaderboard.tables import RESULTS
from fgbench.predictions import read_predictions
from fgbench.result import Result, ResultError
from fgbench.statistics import DRAWS, Interval, Summary, Test

COLUMNS = {"accuracy": "correct", "landmark_error": "landmark_errors", "pointing_error": "hit"}
"""The metrics that predictions know image by image, and the column that they stand in."""

ALPHA = 1 - statistics.LEVEL


@dataclass(frozen=True)
class PerImage:
    """A metric of several runs on the images of a split.

    Attributes:
        image_id: of the images, rising.
        values: per run and image, such that the sum over the images over the sum of ``weight`` is the metric, percent;
            NaN where the image does not apply.
        weight: per image: 1, or the number of visible landmarks; 0 where the image does not apply.
        binary: whether an image is either right or wrong.
    """

    image_id: Int64[np.ndarray, " n"]
    values: Float64[np.ndarray, "s n"]
    weight: Float64[np.ndarray, " n"]
    binary: bool


@dataclass(frozen=True)
class Comparison:
    """One metric of a against b.

    Attributes:
        metric: a column of the leaderboard.
        better: ``higher`` or ``lower``.
        a: over the seeds of the first setting, on the images that count.
        b: of the second.
        interval: of the difference a - b, in points of percent.
        test: whether it is chance; its p is not corrected.
        p: Holm's, for the family that was asked for.
        left_out: images that apply to some of the runs only.
        by_seed: of several runs, McNemar's test of those that share a seed.
    """

    metric: str
    better: str
    a: Summary
    b: Summary
    interval: Interval
    test: Test
    p: float
    left_out: int
    by_seed: Mapping[int, Test]

    @property
    def significant(self) -> bool:
        """At 5 %, corrected."""
        return self.p < ALPHA


def predictions_path(folder: Path, result: Result) -> Path:
    """Where a run's predictions lie."""
    return folder / RESULTS / result.dataset / f"{result.name}.parquet"


def per_image(folder: Path, entry: Entry, metric: str) -> PerImage | None:
    """A metric of all runs of a setting, image by image; None if it has none or predictions are not there.

    Raises:
        ResultError: the runs are of different images, or a file is damaged.
    """
    runs = []
    for run in entry.runs:
        path = predictions_path(folder, run)
        if not path.is_file():
            return None
        columns = read_predictions(path)
        if COLUMNS[metric] not in columns:
            return None
        runs.append((path, columns))
    image_id = runs[0][1]["image_id"]
    for path, columns in runs[1:]:
        if not np.array_equal(columns["image_id"], image_id):
            raise ResultError(f"{path}: holds other images than {runs[0][0].name}; the seeds cannot be averaged")
    raw = np.stack([columns[COLUMNS[metric]].astype(np.float64) for _, columns in runs])
    if metric == "pointing_error":
        raw = 1 - raw
    binary = raw.ndim == 2
    if metric == "landmark_error":
        seen = ~np.isnan(raw).any(0)  # of a landmark that one run does not have, none counts
        weight = seen.sum(1).astype(np.float64)
        values = np.where(seen, raw, 0).sum(2)
    else:
        values = raw if binary else raw.mean(2)
        weight = (~np.isnan(values).all(0)).astype(np.float64)
    return PerImage(image_id.astype(np.int64), 100 * np.where(weight > 0, values, np.nan), weight, binary)


def compare(
    folder: Path, a: Entry, b: Entry, metrics: Sequence[str] = tuple(COLUMNS), *, draws: int = DRAWS
) -> list[Comparison]:
    """Compare two settings in all metrics that both have; p corrected over these.

    Raises:
        ResultError: they are not of the same images, or have nothing in common to compare.
    """
    check_comparable(a, b)
    found = []
    for metric in metrics:
        pair = (per_image(folder, a, metric), per_image(folder, b, metric))
        if pair[0] is not None and pair[1] is not None:
            found.append(_comparison(metric, pair[0], pair[1], a, b, draws))
    if not found:
        raise ResultError(f"{a.name} and {b.name} have no metric in common whose predictions are in {folder / RESULTS}")
    return corrected(found)


def corrected(found: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons as one family: p by Holm."""
    return [replace(one, p=p) for one, p in zip(found, statistics.holm([one.test.p for one in found]), strict=True)]


def against(folder: Path, chosen: Sequence[Entry], base: Entry, metric: str) -> list[Comparison | None]:
    """Each setting against one, in a metric; p corrected over all of them; None where nothing can be compared."""
    other = per_image(folder, base, metric)
    found: list[Comparison | None] = []
    for entry in chosen:
        mine = per_image(folder, entry, metric) if entry != base and entry.table == base.table else None
        able = mine is not None and other is not None and np.array_equal(mine.image_id, other.image_id)
        found.append(_comparison(metric, mine, other, entry, base, DRAWS) if able and mine and other else None)
    family = iter(corrected([one for one in found if one is not None]))
    return [None if one is None else next(family) for one in found]


def groups(folder: Path, chosen: Sequence[Entry], metric: str = "accuracy") -> list[str]:
    """Letters of settings of one table: two share a letter iff they cannot be told apart (5 %, Holm over all pairs).

    A setting without predictions of the same images, or whose checkpoint was chosen on the test split, has none.
    """
    found = letters_of(aligned(folder, chosen, metric), metric)
    return [found.get(at, "") for at in range(len(chosen))]


def competes(entry: Entry, metric: str) -> bool:
    """Whether a setting is ranked: in accuracy an explainer's row is a trained setting again, with other evidence."""
    return metric != "accuracy" or entry.run.explainer == "own"


def aligned(folder: Path, chosen: Sequence[Entry], metric: str) -> dict[int, PerImage]:
    """By their place, the settings that can be tested against each other: honest ones of the first one's images."""
    ranked = [at for at, entry in enumerate(chosen) if entry.honest and competes(entry, metric)]
    read = {at: per_image(folder, chosen[at], metric) for at in ranked}
    data = {at: item for at, item in read.items() if item is not None}
    first = next(iter(data.values()), None)
    return {at: item for at, item in data.items() if first and np.array_equal(item.image_id, first.image_id)}


def letters_of(data: Mapping[int, PerImage], metric: str) -> dict[int, str]:
    """The letters of ``groups``, by place."""
    pairs = list(itertools.combinations(data, 2))
    p = statistics.holm([_test(metric, *_paired(data[i], data[j])[:4]).p for i, j in pairs])
    differ = dict(zip(pairs, p, strict=True))
    matrix = np.array([[differ.get((min(i, j), max(i, j)), 1.0) < ALPHA for j in data] for i in data], bool)
    return dict(zip(data, statistics.letters(matrix.reshape(len(data), len(data))), strict=True))


def gaps_to(data: Mapping[int, PerImage], leader: int, metric: str, draws: int = DRAWS) -> dict[int, Interval]:
    """By place, how far each setting is from one of them: its number minus the leader's, by a paired bootstrap."""
    found = {}
    for at, item in data.items():
        if at != leader and leader in data:
            x, y, weight, *_ = _paired(item, data[leader])
            found[at] = _interval(metric, x, y, weight, draws)
    return found


def differing(folder: Path, a: Entry, b: Entry, metric: str, count: int) -> list[tuple[int, float, float]]:
    """The images on which two settings differ most: their id and what each says, percent, mean over the seeds.

    Those that speak for a and those that speak for b take turns; of equal ones the lower id comes first.
    """
    check_comparable(a, b)
    one, other = per_image(folder, a, metric), per_image(folder, b, metric)
    if one is None or other is None:
        raise ResultError(f"{a.name} and {b.name}: no predictions of {metric} for both in {folder / RESULTS}")
    x, y, weight, _, rows, _ = _paired(one, other)
    mine, theirs = x.mean(0) / weight, y.mean(0) / weight
    gap = mine - theirs
    sides = [np.argsort(sign * gap, kind="stable") for sign in (-1, 1)]
    picked = [
        [int(index) for index in side if sign * gap[index] > 0] for sign, side in zip((1, -1), sides, strict=True)
    ]
    turns = [index for both in itertools.zip_longest(*picked) for index in both if index is not None][:count]
    ids = one.image_id[rows]
    return [(int(ids[index]), float(mine[index]), float(theirs[index])) for index in turns]


def check_comparable(a: Entry, b: Entry) -> None:
    """Refuse settings that are not of the same test split.

    Raises:
        ResultError: says in what they differ.
    """
    if a == b:
        raise ResultError(f"{a.name} is both sides of the comparison; name two")
    for name in ("dataset", "classes", "data_digest", "n_eval"):
        mine, theirs = getattr(a.run, name), getattr(b.run, name)
        if mine != theirs:
            raise ResultError(
                f"{a.name} and {b.name} cannot be compared: {name} is {mine} and {theirs}; only the same images can"
            )


Paired = tuple[np.ndarray, np.ndarray, np.ndarray, bool, np.ndarray, int]


def _paired(a: PerImage, b: PerImage) -> Paired:
    """Values of both on the images that apply to all runs, their weight, whether binary; which they are; left out."""
    if not np.array_equal(a.image_id, b.image_id):
        raise ResultError("the predictions of the two are of different images; verify tells which file is wrong")
    whole = ~np.isnan(a.values).any(0) & ~np.isnan(b.values).any(0)
    some = ~np.isnan(a.values).all(0) | ~np.isnan(b.values).all(0)
    same = a.weight == b.weight  # another number of landmarks would be another question
    rows = np.flatnonzero(whole & same)
    left_out = int(some.sum() - len(rows))
    if not len(rows):
        raise ResultError("no image applies to both; there is nothing to compare")
    return a.values[:, rows], b.values[:, rows], a.weight[rows], a.binary and b.binary, rows, left_out


def _test(
    metric: str,
    x: Float64[np.ndarray, "s n"],
    y: Float64[np.ndarray, "t n"],
    weight: Float64[np.ndarray, " n"],
    binary: bool,
) -> Test:
    single = len(x) == len(y) == 1
    if single and binary and metric != "landmark_error":
        found = statistics.mcnemar(x[0] > 0, y[0] > 0)
        return replace(found, detectable=100 * found.detectable)
    if single and metric == "landmark_error":
        return statistics.wilcoxon(x[0] / weight, y[0] / weight)
    # a ratio of sums, made linear: with this the mean over the images is the metric
    return statistics.crossed(x / weight.mean(), y / weight.mean())


def _interval(
    metric: str,
    x: Float64[np.ndarray, "s n"],
    y: Float64[np.ndarray, "t n"],
    weight: Float64[np.ndarray, " n"],
    draws: int,
) -> Interval:
    """The bootstrap's, without what no difference of two shares can be: two seeds far apart would reach beyond 100."""
    found = statistics.bootstrap(x, y, weight, draws=draws)
    if KINDS[metric] != "percent":
        return found
    return replace(found, low=max(found.low, -100.0), high=min(found.high, 100.0))


def _comparison(metric: str, a: PerImage, b: PerImage, one: Entry, other: Entry, draws: int) -> Comparison:
    x, y, weight, binary, _, left_out = _paired(a, b)
    test = _test(metric, x, y, weight, binary)
    by_seed = {}
    if binary and max(len(x), len(y)) > 1:
        rows = {run.seed: index for index, run in enumerate(other.runs)}
        for index, run in enumerate(one.runs):
            if run.seed in rows:
                found = statistics.mcnemar(x[index] > 0, y[rows[run.seed]] > 0)
                by_seed[run.seed] = replace(found, detectable=100 * found.detectable)
    means = [statistics.summary((values.sum(1) / weight.sum()).tolist()) for values in (x, y)]
    interval = _interval(metric, x, y, weight, draws)
    return Comparison(metric, BETTER[metric], means[0], means[1], interval, test, test.p, left_out, by_seed)
