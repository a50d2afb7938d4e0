"""Statistics are those of the textbooks, and intervals hold the truth as often as they say."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import integrate, stats

from fgbench import statistics
from fgbench.statistics import (
    bootstrap,
    crossed,
    holm,
    letters,
    mcnemar,
    resampling,
    summary,
    wilcoxon,
)


def right(only_a: int, only_b: int, both: int, none: int) -> tuple[np.ndarray, np.ndarray]:
    """Two runs with these counts."""
    a = np.repeat([True, False, True, False], [only_a, only_b, both, none])
    b = np.repeat([False, True, True, False], [only_a, only_b, both, none])
    return a, b


def test_the_interval_over_seeds_is_students() -> None:
    # 98.4 98.7 98.5: mean 98.5333, deviations -.1333 .1667 -.0333, variance .046667 / 2; t(2, .975) = 4.302653
    found = summary([98.4, 98.7, 98.5])
    sd = math.sqrt((0.1333333**2 + 0.1666667**2 + 0.0333333**2) / 2)
    assert found.mean == pytest.approx(98.5333333)
    assert found.sd == pytest.approx(sd, rel=1e-6)
    assert found.high - found.mean == pytest.approx(4.302653 * sd / math.sqrt(3), rel=1e-6)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_one_seed_has_a_mean_and_no_interval() -> None:
    assert summary([7.0]) == statistics.Summary((7.0,), 7.0, None, None, None)
    with pytest.raises(ValueError, match="at least one"):
        summary([])


@pytest.mark.parametrize(("only_a", "only_b"), [(9, 1), (1, 9), (5, 5), (0, 6), (0, 0), (3, 0)])
def test_mcnemar_is_the_sum_over_all_outcomes_of_coins(only_a: int, only_b: int) -> None:
    n, most = only_a + only_b, max(only_a, only_b)
    outcomes = [k for k in range(n + 1) if max(k, n - k) >= most]  # at least as uneven
    expected = Fraction(sum(math.comb(n, k) for k in outcomes), 2**n)
    found = mcnemar(*right(only_a, only_b, 50, 7))
    assert found.p == pytest.approx(float(expected), rel=1e-12)
    assert (found.n, found.unit) == (only_a + only_b + 57, "images")


def test_wilcoxon_counts_signed_ranks() -> None:
    # |d| = 1 2 3 4 5, negative: 2; W = 2 of 15. Of the 32 signs, those with a rank sum <= 2 or >= 13: {} 1 2, twice
    d = np.array([1.0, -2.0, 3.0, 4.0, 5.0])
    assert wilcoxon(d, np.zeros(5)).p == pytest.approx(6 / 32)
    assert wilcoxon(d, d).p == 1
    heavy = np.array([0.1] * 30 + [-1000.0])  # the mean says b, the images say a
    assert wilcoxon(heavy, np.zeros(31)).p < 0.001


def tail_by_convolution(first: tuple[float, int], second: tuple[float, int], x: float) -> float:
    """How likely a sum of two scaled t variates is further from 0 than x: an integral over the first of them."""
    (s, f), (t, g) = ((math.sqrt(variance), freedom) for variance, freedom in (first, second))

    def both_ends(u: float) -> float:
        return float(stats.t.pdf(u, f) * (stats.t.sf((x - s * u) / t, g) + stats.t.cdf((-x - s * u) / t, g)))

    return sum(integrate.quad(both_ends, *ends, limit=200)[0] for ends in ((-math.inf, 0), (0, math.inf)))


def test_crossed_is_students_t_where_only_one_source_varies() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(0.3, 1, (1, 40)), random.normal(0, 1, (1, 40))
    assert crossed(a, b).p == pytest.approx(stats.ttest_rel(a[0], b[0]).pvalue, rel=1e-10)
    runs = np.array([1.0, 2.0, 4.0]), np.array([3.0, 5.0, 5.5, 6.0])
    same = [np.repeat(values[:, None], 10, 1) for values in runs]  # every image alike: only seeds vary
    found = crossed(*same)
    parts = [(float(values.var(ddof=1)) / len(values), len(values) - 1) for values in runs]
    assert found.p == pytest.approx(tail_by_convolution(*parts, abs(runs[0].mean() - runs[1].mean())), rel=1e-4)
    assert found.unit == "images and seeds"
    one = crossed(same[0], np.full((1, 10), 3.0))
    assert one.p == pytest.approx(stats.ttest_1samp(runs[0], 3.0).pvalue, rel=1e-10)
    assert crossed(a, b).unit == "images"


def test_crossed_adds_the_variances() -> None:
    a, b = np.array([[1.0, 0, 1, 1], [0, 0, 1, 1]]), np.array([[0.0, 0, 1, 0]])
    # differences of means .5 0 0 1: mean .375, variance (.015625 + 2 * .140625 + .390625) / 3 = .229167
    # runs of a: .75 .5, variance .03125
    found = crossed(a, b)
    assert found.p == pytest.approx(tail_by_convolution((0.22916667 / 4, 3), (0.03125 / 2, 1), 0.375), rel=1e-4)
    # of the gap that is found the part that grows with the level is the critical value: of this p it is the difference
    critical = crossed(a, b, level=0.5).detectable + 0.375 - crossed(a, b, level=1 - found.p).detectable
    assert tail_by_convolution((0.22916667 / 4, 3), (0.03125 / 2, 1), critical) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(("runs", "luck"), [((2, 1), 0.25), ((2, 10), 0.25), ((3, 1), 0.15)])
def test_two_seeds_that_happen_to_agree_prove_nothing(runs: tuple[int, int], luck: float) -> None:
    """Equal methods whose runs vary much: Satterthwaite's t rejects 7 to 12 of 100, and at 0.5 % ten times too many."""
    random = np.random.default_rng(3)
    trials, p = 600, []
    for _ in range(trials):
        lucky = [random.normal(0, luck, (count, 1)) if count > 1 else np.zeros((1, 1)) for count in runs]
        a, b = (offset + random.normal(0, 1, (1, 101)) for offset in lucky)
        p.append(crossed(a, b).p)
    assert np.mean(np.array(p) < 0.05) <= 0.05 + 2 * 0.009  # two standard errors of 600 trials
    assert np.mean(np.array(p) < 0.005) <= 0.005 + 3 * 0.003


def test_equal_runs_do_not_differ_and_constant_ones_do() -> None:
    ones, zeros = np.ones((2, 5)), np.zeros((2, 5))
    assert crossed(ones, ones).p == 1
    assert crossed(ones, zeros).p == 0
    assert bootstrap(ones, zeros, draws=100) == statistics.Interval(1.0, 1.0, 1.0, "images and seeds")


def quantiles_by_loop(d: np.ndarray, w: np.ndarray, draws: int) -> tuple[float, float]:
    random = np.random.default_rng(99)
    drawn = []
    for _ in range(draws):
        chosen = random.integers(0, len(d), len(d))
        drawn.append(d[chosen].sum() / w[chosen].sum())
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


@pytest.mark.parametrize("way", ["counts", "indices", "blocks"])
def test_all_ways_to_draw_agree_with_a_plain_loop(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    n = 20_000 if way == "blocks" else 2000
    w = random.integers(1, 5, n).astype(np.float64)
    d = random.integers(-1, 2, n) * w if way == "counts" else random.lognormal(0, 1.5, n) * w
    if way == "blocks":
        monkeypatch.setattr(resampling, "MOST_INDICES", 0)
    calls = []
    used = {"counts": "_multinomial", "indices": "_gathered", "blocks": "_by_blocks"}[way]
    original = getattr(resampling, used)
    monkeypatch.setattr(resampling, used, lambda *given: calls.append(1) or original(*given))
    found = bootstrap(d[None], np.zeros((1, n)), w, draws=3000)
    assert calls
    low, high = quantiles_by_loop(d, w, 3000)
    assert found.difference == pytest.approx(d.sum() / w.sum(), rel=1e-12)
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.06 * (high - low))


def test_the_bootstrap_agrees_with_scipys() -> None:
    random = np.random.default_rng(5)
    a, b = (random.random(400) < 0.8).astype(float), (random.random(400) < 0.7).astype(float)
    theirs = stats.bootstrap(
        (a - b,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    ours = bootstrap(a[None], b[None])
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.006)


def test_draws_repeat_and_another_seed_differs() -> None:
    a = (np.random.default_rng(0).random((3, 200)) < 0.7).astype(float)
    b = (np.random.default_rng(1).random((2, 200)) < 0.6).astype(float)
    assert bootstrap(a, b, draws=500) == bootstrap(a, b, draws=500)
    assert bootstrap(a, b, draws=500) != bootstrap(a, b, draws=500, seed=1)


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="the same images"):
        bootstrap(np.ones((1, 0)), np.ones((1, 0)))


def simulated(seeds: int, images: int, luck: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two methods with a true difference of 0: an image is more or less difficult, a run more or less lucky."""
    difficulty = random.normal(0, 1.0, images)
    runs = []
    for _ in range(2):
        offset = random.normal(0, luck, (seeds, 1))
        runs.append((difficulty + offset + random.normal(0, 0.7, (seeds, images)) > -1).astype(float))
    return runs[0], runs[1]


@pytest.mark.parametrize(("seeds", "luck"), [(1, 0.0), (3, 0.15), (5, 0.3)])
def test_intervals_and_tests_hold_their_level(seeds: int, luck: float) -> None:
    """Of one run nothing can be said but of this run: there the truth has no luck."""
    random = np.random.default_rng(seeds)
    trials, covered, rejected = 250, 0, 0
    for trial in range(trials):
        a, b = simulated(seeds, 200, luck, random)
        found = bootstrap(a, b, draws=400, seed=trial)
        covered += found.low <= 0 <= found.high
        p = mcnemar(a[0] > 0, b[0] > 0).p if seeds == 1 else crossed(a, b).p
        rejected += p < 0.05
    assert covered / trials >= 0.92  # 0.95 less two standard errors of 250 trials
    assert rejected / trials <= 0.08


def test_without_variance_between_images_the_interval_is_that_of_the_seeds() -> None:
    runs = np.array([98.4, 98.7, 98.5])
    a = np.repeat(runs[:, None], 20, 1)
    found, expected = bootstrap(a, np.full((1, 20), 98.0), draws=40_000), summary(list(runs - 98.0))
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high], abs=0.03)


def test_the_detectable_gap_is_found_in_four_of_five_repetitions() -> None:
    random = np.random.default_rng(8)
    base = random.normal(0, 1, 200)
    gap = crossed(random.normal(0, 1, (1, 200)), base[None]).detectable
    found = [
        stats.ttest_rel(random.normal(0, 1, 200) + gap, random.normal(0, 1, 200)).pvalue < 0.05 for _ in range(800)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("seed", range(5))
def test_holm_rejects_what_stepping_down_rejects(seed: int) -> None:
    p = np.random.default_rng(seed).random(7) ** 3
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for step, index in enumerate(np.argsort(p)):  # Holm 1979: stop at the first that fails
            if p[index] > level / (7 - step):
                break
            rejected.add(int(index))
        assert {index for index, q in enumerate(holm(p.tolist())) if q <= level} == rejected
    assert holm([]) == ()


@pytest.mark.parametrize("seed", range(8))
def test_letters_are_shared_exactly_where_nothing_differs(seed: int) -> None:
    random = np.random.default_rng(seed)
    k = 7
    upper = np.triu(random.random((k, k)) < (0.2, 0.5, 0.8)[seed % 3], 1)
    differ = upper | upper.T
    found = letters(differ)
    for i, j in itertools.combinations(range(k), 2):
        assert bool(set(found[i]) & set(found[j])) == (not differ[i, j])
    members = {letter: {i for i in range(k) if letter in found[i]} for letter in set("".join(found))}
    for one in members.values():  # largest: nobody else fits in
        assert all(any(differ[i, other] for i in one) for other in set(range(k)) - one)
    brute = [
        set(group)
        for size in range(1, k + 1)
        for group in itertools.combinations(range(k), size)
        if not any(differ[i, j] for i, j in itertools.combinations(group, 2))
    ]
    assert len(members) == sum(not any(one < other for other in brute) for one in brute)


def test_the_first_letter_belongs_to_the_best() -> None:
    far_apart = ~np.eye(3, dtype=bool)
    assert letters(far_apart) == ("a", "b", "c")
    assert letters(np.zeros((3, 3), bool)) == ("a", "a", "a")
    assert letters(np.zeros((0, 0), bool)) == ()
    assert letters(~np.eye(28, dtype=bool))[-2:] == ("(27)", "(28)")
    with pytest.raises(ValueError, match="symmetric"):
        letters(np.array([[False, True], [False, False]]))
