"""A number over the seeds of a setting: its mean, how far seeds scatter, and where the mean may lie."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

LEVEL = 0.95  # of intervals and tests


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
