"""Where the difference of two methods on the same images may lie: drawn again from the images, and from the seeds."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from fgbench.statistics.paired import sampled
from fgbench.statistics.seeds import LEVEL

DRAWS = 10_000
MOST_PATTERNS = 256  # different images that are drawn by their count
MOST_INDICES = 2 * 10**7  # draws times images that are drawn one by one, in less than a second
BLOCKS = 256  # of similar images, above both
CHUNK = 2**22  # indices in memory at a time


@dataclass(frozen=True)
class Interval:
    """A difference, a minus b, and where it may lie.

    Attributes:
        difference: of the two numbers as they are.
        low: lower end.
        high: upper end.
        unit: what was resampled.
    """

    difference: float
    low: float
    high: float
    unit: str


def bootstrap(
    a: Float64[np.ndarray, "s n"],
    b: Float64[np.ndarray, "t n"],
    weight: Float64[np.ndarray, " n"] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Percentile interval of the difference of two means over the same images, by a paired bootstrap.

    *Images* are drawn with replacement, the same for all runs of both methods. *Seeds*: where a method has several
    runs, each draw also adds to its mean a t variate with (runs - 1) degrees of freedom times the standard error over
    its runs. Runs are too few to be drawn themselves: three of three give ten outcomes, and far too short an interval.
    With one image or without variance between images this is the t interval of the seeds. The standard error over the
    runs contains the images' part of what image and seed do together, so the interval is a little too wide.

    No matrix of draws times images is made. Images on which all runs say the same are drawn by their number, which is
    multinomial: exact. If there are many kinds of images they are drawn one by one, or, for very many images, by
    blocks of similar ones whose sum is normal given how many of the block were drawn.

    Args:
        a: numerator of each image in each run of the first method; its mean is the number itself without a weight.
        b: of the second method.
        weight: denominator of each image (visible landmarks, for example); 1 if not given.
        draws: of images (and seeds).
        seed: of the draws.
        level: of the interval.

    Raises:
        ValueError: there is no image.
    """
    if not a.shape[1]:
        raise ValueError("a paired bootstrap needs the same images for both, and there is none")
    random = np.random.default_rng(seed)
    w = np.ones(a.shape[1]) if weight is None else weight
    numerator = a.mean(0) - b.mean(0)
    difference = float(numerator.sum() / w.sum())
    sums = _resampled_sums(np.stack([numerator, w], 1), draws, random)
    drawn = sums[:, 0] / sums[:, 1]
    for runs in (a, b):
        if len(runs) > 1:
            se = float((runs.sum(1) / w.sum()).std(ddof=1)) / math.sqrt(len(runs))
            drawn = drawn + se * random.standard_t(len(runs) - 1, draws)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(difference, float(low), float(high), sampled(len(a), len(b)))


def _resampled_sums(
    x: Float64[np.ndarray, "n m"], draws: int, random: np.random.Generator
) -> Float64[np.ndarray, "draws m"]:
    """Sums over n rows drawn with replacement, ``draws`` times."""
    n = len(x)
    order = np.lexsort(x.T[::-1])
    ranked = x[order]
    starts = np.flatnonzero(np.concatenate([[True], np.any(ranked[1:] != ranked[:-1], axis=1)]))
    if len(starts) <= MOST_PATTERNS:
        count = np.diff(np.append(starts, n))
        found: np.ndarray = _multinomial(count, n, draws, random) @ ranked[starts]
        return found
    if n * draws <= MOST_INDICES:
        rows = max(1, CHUNK // n)
        chunks = [min(rows, draws - start) for start in range(0, draws, rows)]
        return np.concatenate([_gathered(ranked, chunk, random) for chunk in chunks])
    return _by_blocks(ranked, draws, random)


def _multinomial(
    count: Int64[np.ndarray, " k"], n: int, draws: int, random: np.random.Generator
) -> Float64[np.ndarray, "draws k"]:
    """How many of each kind are among n that are drawn."""
    return random.multinomial(n, count / count.sum(), size=draws).astype(np.float64)


def _gathered(x: Float64[np.ndarray, "n m"], draws: int, random: np.random.Generator) -> Float64[np.ndarray, "draws m"]:
    index = random.integers(0, len(x), size=(draws, len(x)), dtype=np.int32)
    return np.stack([column[index].sum(1) for column in np.ascontiguousarray(x.T)], 1)


def _by_blocks(
    ranked: Float64[np.ndarray, "n m"], draws: int, random: np.random.Generator
) -> Float64[np.ndarray, "draws m"]:
    """Similar rows lie together: how many are drawn of a block is multinomial, their sum given that is normal."""
    blocks = np.array_split(ranked, BLOCKS)
    count = np.array([len(block) for block in blocks])
    mean = np.stack([block.mean(0) for block in blocks])
    centred = np.concatenate([block - centre for block, centre in zip(blocks, mean, strict=True)])
    within = centred.T @ centred  # n times the covariance within blocks; blocks are drawn about as often as they are
    values, vectors = np.linalg.eigh(within)
    noise = random.standard_normal((draws, ranked.shape[1])) * np.sqrt(values.clip(0))
    sums: np.ndarray = _multinomial(count, len(ranked), draws, random) @ mean + noise @ vectors.T
    return sums
