"""Many comparisons at once: p values corrected for their number, and groups that cannot be told apart."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool


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
