"""What can be said of numbers from several seeds, and of two methods on the same images.

Two things vary: the images of a test split are a sample of those that could have been taken, and a run is a sample of
what its method gives with another seed. An interval or a test here names the one or both that it speaks of (``unit``).

* ``summary``: mean, standard deviation and t interval over seeds. Unit: the seed.
* ``mcnemar``: are two runs right on the same number of images? Exact, unit: the image.
* ``wilcoxon``: are errors of one run smaller than those of another on the same images? Unit: the image.
* ``crossed``: the same questions for several runs of each method. Unit: image and seed.
* ``bootstrap``: interval of the difference. Unit: the image, and the seed where there are several.
* ``holm``, ``letters``: many comparisons at once, and the groups that they leave together.

Everything is of float64 and pure; the same arguments give the same numbers.

May import: numpy, scipy. Must not import: anything else of the suite. Reads and writes: nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import optimize, special, stats

LEVEL = 0.95
DRAWS = 10_000
POWER = 0.8
MOST_PATTERNS = 256  # different images that are drawn by their count
MOST_INDICES = 2 * 10**7  # draws times images that are drawn one by one, in less than a second
BLOCKS = 256  # of similar images, above both
NODES = 40  # of an integral over one chi-squared variate
MANY = 100  # degrees of freedom from which a t variate is taken for normal
CHUNK = 2**22  # indices in memory at a time


@dataclass(frozen=True)
class Summary:
    """A number over the seeds of a setting.

    Attributes:
        values: the number of each seed.
        mean: over the seeds.
        sd: standard deviation of a seed (with n - 1); None of one seed.
        low: lower end of the interval of the mean; None of one seed.
        high: upper end.
    """

    values: tuple[float, ...]
    mean: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Test:
    """A comparison of a with b.

    Attributes:
        name: of the test.
        unit: what was sampled: ``images``, ``images and seeds``.
        p: two-sided, not corrected.
        n: images that both have a number for.
        detectable: the gap, in the numbers' unit, that a comparison of as many images and seeds, with as much
            disagreement, finds in 80 of 100 repetitions.
    """

    name: str
    unit: str
    p: float
    n: int
    detectable: float

    __test__ = False  # pytest: not a class of tests


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


def summary(values: Sequence[float], level: float = LEVEL) -> Summary:
    """Mean, standard deviation and t interval of the mean over seeds.

    Raises:
        ValueError: there is no value.

    >>> found = summary([1.0, 2.0, 3.0])
    >>> round(found.mean, 2), round(found.sd, 2), round(found.low, 2), round(found.high, 2)
    (2.0, 1.0, -0.48, 4.48)
    """
    x = np.asarray(values, np.float64)
    if not x.size:
        raise ValueError("a summary needs at least one value")
    mean = float(x.mean())
    if x.size == 1:
        return Summary(tuple(values), mean, None, None, None)
    sd = float(x.std(ddof=1))
    half = _quantile((1 + level) / 2, x.size - 1) * sd / math.sqrt(x.size)
    return Summary(tuple(values), mean, sd, mean - half, mean + half)


@cache
def _quantile(p: float, freedom: int) -> float:
    """Of the t distribution; scipy takes a second for ten thousand of them, and tables ask for few different ones."""
    return float(stats.t.ppf(p, freedom))


# Two methods on the same images


def mcnemar(a: Bool[np.ndarray, " n"], b: Bool[np.ndarray, " n"], level: float = LEVEL) -> Test:
    """McNemar's exact test: of the images that one run alone gets right, is it half that a gets right?

    Images on which both are right or both wrong say nothing of the difference. Exact, so also right for a handful.

    Args:
        a: whether the first run is right (or hits).
        b: the second.
        level: of the detectable gap.
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_a + only_b
    p = float(stats.binomtest(only_a, discordant).pvalue) if discordant else 1.0
    # of a share of images: under equality the difference has variance discordant / n**2
    se = math.sqrt(discordant) / max(a.size, 1)
    return Test("McNemar's exact", "images", p, int(a.size), _detectable(se, math.inf, level))


def smallest_significant(discordant: int, n: int, level: float = LEVEL) -> float | None:
    """The least difference of two shares for which McNemar's exact test is significant; None if there is none.

    Args:
        discordant: images on which exactly one of two runs is right.
        n: all images.
        level: 1 minus the largest p.

    >>> smallest_significant(5, 100) is None  # even 5 to 0 has p = 0.0625
    True
    >>> smallest_significant(6, 100)
    0.06
    """
    # p falls with the gap, so the least gap is found from the quantile of the smaller count
    fewer = int(stats.binom.ppf((1 - level) / 2, discordant, 0.5))
    while fewer >= 0 and 2 * stats.binom.cdf(fewer, discordant, 0.5) >= 1 - level:
        fewer -= 1
    return (discordant - 2 * fewer) / n if fewer >= 0 else None


def wilcoxon(a: Float64[np.ndarray, " n"], b: Float64[np.ndarray, " n"], level: float = LEVEL) -> Test:
    """Wilcoxon's signed-rank test of errors on the same images.

    Ranks, not a t test: errors of landmarks have heavy tails (a part that is lost counts many times the others), and a
    few such images would decide on a mean. So it asks whether errors are shifted on most images; what the difference of
    the means is, ``bootstrap`` says. Images with the same error of both are left out, as Wilcoxon did.

    Args:
        a: error of the first run on each image.
        b: of the second.
        level: of the detectable gap.
    """
    d = a - b
    p = float(stats.wilcoxon(d, zero_method="wilcox", method="auto").pvalue) if np.any(d) else 1.0
    se = float(d.std(ddof=1)) / math.sqrt(d.size) if d.size > 1 else math.inf
    return Test("Wilcoxon's signed-rank", "images", p, int(d.size), _detectable(se, float(d.size - 1), level))


def crossed(a: Float64[np.ndarray, "s n"], b: Float64[np.ndarray, "t n"], level: float = LEVEL) -> Test:
    """A t test of the difference of two methods, for images and for seeds.

    The variance of the difference of the means is the sum of that of the images (of the per-image differences of the
    seeds' means, over n) and that of each method's runs (of their means, over their number). Each of these is only
    estimated, that of the runs from two or three numbers, so the difference is compared with a sum of t variates, one
    for each part, with its own scale and degrees of freedom: as ``bootstrap`` adds them, and Behrens and Fisher did.
    Satterthwaite's single t will not do here: two seeds that happen to agree have almost no variance, and with
    them 10 of 100 comparisons of equals were significant at 5 %, 3 to 6 of 100 at 0.5 %. What image and seed do
    together is in both parts, so the test is a little too careful. A method with one run adds no variance: then the
    test speaks of that run.

    Args:
        a: a number for each run of the first method and each image.
        b: of the second method; its runs have nothing to do with those of the first.
        level: of the detectable gap.
    """
    d = a.mean(0) - b.mean(0)
    images = d.size
    parts = [(float(d.var(ddof=1)) / images, images - 1)] if images > 1 else []
    parts += [(float(runs.mean(1).var(ddof=1)) / len(runs), len(runs) - 1) for runs in (a, b) if len(runs) > 1]
    unit = _unit(len(a), len(b))
    if not any(variance for variance, _ in parts):
        same = bool(d.mean() == 0)
        return Test("crossed t", unit, 1.0 if same else 0.0, images, 0.0 if parts else math.inf)
    largest = max(variance for variance, _ in parts)
    parts = [
        (variance, freedom) for variance, freedom in parts if variance > 1e-12 * largest
    ]  # the others are rounding
    tail = _tail(parts)
    finds = sum(_solve(tail, p, math.sqrt(largest)) for p in (1 - level, 2 * (1 - POWER)))
    return Test("crossed t", unit, tail(abs(float(d.mean()))), images, finds)


def _tail(parts: Sequence[tuple[float, int]]) -> Callable[[float], float]:
    """How likely a sum of t variates is further from 0 than a number.

    Given the chi-squared variates below the t's the sum is normal, so the probability is the mean of a normal's over
    these: by Gauss and Legendre in the cube root of their probability, for the small ones matter most.

    Args:
        parts: by variate its variance (squared scale), above zero, and its degrees of freedom.
    """
    if len(parts) == 1:
        ((variance, freedom),) = parts
        return lambda x: float(2 * stats.t.sf(x / math.sqrt(variance), freedom))
    total, weight = np.zeros(1), np.ones(1)
    for variance, freedom in parts:
        factors, mine = _inflation(freedom)
        total = np.add.outer(total, variance * factors).ravel()
        weight = np.multiply.outer(weight, mine).ravel()
    scale = np.sqrt(total)
    return lambda x: float(min(1.0, 2 * (special.ndtr(-x / scale) @ weight)))


@cache
def _inflation(freedom: int) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Degrees of freedom over chi-squared with as many: nodes and their weights."""
    if freedom >= MANY:
        return np.ones(1), np.ones(1)
    x, w = np.polynomial.legendre.leggauss(NODES)
    u = (x + 1) / 2
    return freedom / stats.chi2.ppf(u**3, freedom), 3 * u**2 * w / 2


def _solve(tail: Callable[[float], float], p: float, start: float) -> float:
    """The number that has this much outside of it; it is looked for from another one on."""
    high = start
    while tail(high) > p:
        high *= 4
    return float(optimize.brentq(lambda x: tail(x) - p, 0.0, high, rtol=1e-6))


def _detectable(se: float, freedom: float, level: float) -> float:
    quantile = stats.norm if math.isinf(freedom) else stats.t(freedom)
    return float((quantile.ppf((1 + level) / 2) + quantile.ppf(POWER)) * se)


def _unit(s: int, t: int) -> str:
    return "images and seeds" if max(s, t) > 1 else "images"


# Bootstrap


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
    return Interval(difference, float(low), float(high), _unit(len(a), len(b)))


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


# Many comparisons


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """Holm's correction: p values that may each be compared with the level, for all comparisons together.

    >>> holm([0.01, 0.04, 0.03])  # 3 * 0.01; then 2 * 0.03; then at least that
    (0.03, 0.06, 0.06)
    """
    x = np.asarray(p, np.float64)
    order = np.argsort(x, kind="stable")
    stepped = np.maximum.accumulate(x[order] * np.arange(len(x), 0, -1)).clip(max=1)
    adjusted = np.empty_like(x)
    adjusted[order] = stepped
    return tuple(float(value) for value in adjusted)


def letters(differ: Bool[np.ndarray, "k k"]) -> tuple[str, ...]:
    """Groups that cannot be told apart, as letters: two share a letter iff their comparison is not significant.

    A letter is a largest set of items of which no two differ (a maximal clique of what is not different); an item may
    have several. Letters are given in the order of the items, so hand the best first. (Piepho 2004: compact letter
    display.)

    Args:
        differ: whether two items differ; symmetric, False on the diagonal.

    Raises:
        ValueError: the matrix is not symmetric, or an item differs from itself.

    >>> letters(np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]], bool))  # the second is like both, which differ
    ('a', 'ab', 'b')
    """
    if not np.array_equal(differ, differ.T) or differ.diagonal().any():
        raise ValueError("which items differ must be symmetric, and no item differs from itself")
    alike = [set(np.flatnonzero(~row).tolist()) - {item} for item, row in enumerate(differ)]
    cliques = sorted(sorted(clique) for clique in _maximal_cliques(alike))
    members = [[index for index, clique in enumerate(cliques) if item in clique] for item in range(len(alike))]
    return tuple("".join(_letter(index) for index in found) for found in members)


def _letter(index: int) -> str:
    """Of a group: a to z, then (27), (28) and so on."""
    return chr(ord("a") + index) if index < 26 else f"({index + 1})"


def _maximal_cliques(alike: Sequence[set[int]]) -> list[set[int]]:
    """Bron and Kerbosch, with Tomita's pivot; without recursion."""
    found: list[set[int]] = []
    waiting: list[tuple[set[int], set[int], set[int]]] = [(set(), set(range(len(alike))), set())]
    while waiting:
        clique, candidates, excluded = waiting.pop()
        if not candidates and not excluded:
            if clique:
                found.append(clique)
            continue
        pivot = max(candidates | excluded, key=lambda item: len(alike[item] & candidates))
        for item in sorted(candidates - alike[pivot]):
            waiting.append((clique | {item}, candidates & alike[item], excluded & alike[item]))
            candidates = candidates - {item}
            excluded = excluded | {item}
    return found
