"""The stages of a ProtoPNet's training: which epochs train what, and when prototypes are projected."""

from typing import Literal, NamedTuple

Stage = Literal["warm", "joint", "last"]


class Epoch(NamedTuple):
    """What one epoch trains, and whether prototypes are projected at its end."""

    stage: Stage
    projects: bool


def timetable(epochs: int, warm: float, last: float, projections: int) -> tuple[Epoch, ...]:
    """The stages of a training: ``warm``, then as many cycles of ``joint``, projection and ``last`` as fit.

    >>> [epoch.stage for epoch in timetable(8, 0.25, 0.34, 2)]
    ['warm', 'warm', 'joint', 'joint', 'last', 'joint', 'joint', 'last']

    Args:
        epochs: of the training.
        warm: share of the epochs.
        last: share of each cycle's epochs.
        projections: cycles; with none, the rest is ``joint``.
    """
    before = min(round(warm * epochs), max(0, epochs - 1))
    table = [Epoch("warm", False)] * before
    rest = epochs - before
    if projections == 0:
        return tuple(table + [Epoch("joint", False)] * rest)
    cycles = min(projections, rest)
    for cycle in range(cycles):
        length = rest * (cycle + 1) // cycles - rest * cycle // cycles
        after = min(round(last * length), length - 1)
        table += (
            [Epoch("joint", False)] * (length - after - 1) + [Epoch("joint", True)] + [Epoch("last", False)] * after
        )
    return tuple(table)
