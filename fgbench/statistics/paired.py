"""Tests of two methods on the same images: shares of right answers, errors, and several runs of each."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float64
from scipy import optimize, special, stats

from fgbench.statistics.seeds import LEVEL

POWER = 0.8
NODES = 40  # of an integral over one chi-squared variate
MANY = 100  # degrees of freedom from which a t variate is taken for normal


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
    unit = sampled(len(a), len(b))
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


def sampled(s: int, t: int) -> str:
    """The unit of a comparison of so many runs of two methods."""
    return "images and seeds" if max(s, t) > 1 else "images"
