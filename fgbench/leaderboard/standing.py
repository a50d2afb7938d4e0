"""Who leads a table, by how much, and whether that is certain: what readers ask first, as numbers and in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fgbench.leaderboard import comparison
from fgbench.leaderboard.settings import Entry
from fgbench.leaderboard.tables import interval
from fgbench.result import ResultError
from fgbench.statistics import Interval

NAMED = 5  # settings of one kind that a sentence names; the others are counted


@dataclass(frozen=True)
class Standing:
    """The rows of one table against each other in accuracy.

    Attributes:
        rows: settings, the most accurate first.
        letters: by row; two share a letter iff they cannot be told apart; empty where a row was not tested, as those
            of explainers are not (``ranked``).
        leader: which row is the most accurate of those whose checkpoint was not chosen on the test split; None where
            there is no such row.
        behind: by row, how many points it is above the leader (so mostly below zero), and where that may lie; None
            for the leader and where a row was not tested.
        problem: why nothing was tested; empty if it was, or if there is nothing to test.
    """

    rows: tuple[Entry, ...]
    letters: tuple[str, ...]
    leader: int | None
    behind: tuple[Interval | None, ...]
    problem: str = ""


def ranked(rows: Sequence[Entry]) -> list[int]:
    """Places of the rows that compete in accuracy."""
    return [at for at, entry in enumerate(rows) if comparison.competes(entry, "accuracy")]


def untested(rows: Sequence[Entry], problem: str = "") -> Standing:
    """A table whose rows stand beside each other, and nothing more."""
    leader = next((at for at in ranked(rows) if rows[at].honest and rows[at].mean("accuracy") is not None), None)
    return Standing(tuple(rows), ("",) * len(rows), leader, (None,) * len(rows), problem)


def standing(folder: Path, rows: Sequence[Entry]) -> Standing:
    """The rows of one table, tested.

    Args:
        folder: the leaderboard's, for the predictions.
        rows: settings of one table, the most accurate first.
    """
    found = untested(rows)
    if len(ranked(rows)) < 2 or found.leader is None:
        return found
    try:
        data = comparison.aligned(folder, rows, "accuracy")
        letters = comparison.letters_of(data, "accuracy")
        behind = comparison.gaps_to(data, found.leader, "accuracy")
    except ResultError as error:
        return untested(rows, str(error))
    places = range(len(rows))
    return Standing(
        found.rows, tuple(letters.get(at, "") for at in places), found.leader, tuple(behind.get(at) for at in places)
    )


def verdict(of: Standing) -> str:
    """A few sentences: who leads, who cannot be told apart from it, who is behind, and what is not known."""
    if of.leader is None:
        return "No setting has an accuracy that was reached without the test set."
    leader = of.rows[of.leader]
    others = [at for at in ranked(of.rows) if at != of.leader]
    said = [_leads(leader, alone=not others)]
    tested = [at for at in others if of.letters[at] and of.letters[of.leader]]
    alike = [at for at in tested if shares(of.letters[at], of.letters[of.leader])]
    apart = [at for at in tested if at not in alike]
    if alike:
        said.append(f"Cannot be told apart from it: {_list(of, alike)}.")
    if apart:
        everything = len(apart) == len(others) and len(apart) > 1
        said.append(f"{'All others are less' if everything else 'Less'} accurate: {_list(of, apart)}.")
    if cheats := [at for at in others if not of.rows[at].honest]:
        said.append(f"Left out, for the checkpoint was chosen on the test set: {_list(of, cheats)}.")
    if untold := [at for at in others if at not in tested and at not in cheats]:
        said.append(f"Not tested against it: {_list(of, untold)}.")
    if tested and (once := [at for at in (of.leader, *tested) if len(of.rows[at].runs) == 1]):
        names = "every setting" if len(once) == len(tested) + 1 else _list(of, once, gaps=False)
        said.append(f"One run only of {names}: what another seed would change is not in its tests.")
    return " ".join(said)


def shares(one: str, other: str) -> bool:
    """Whether two rows' letters have one in common; the 27th group is written (27)."""
    return bool(_groups(one) & _groups(other))


def _groups(letters: str) -> set[str]:
    return set(letters.replace("(", " (").replace(")", ") ").split()) if "(" in letters else set(letters)


def _leads(leader: Entry, alone: bool) -> str:
    runs, spread = len(leader.runs), interval(leader, "accuracy")
    over = f"{spread} over {runs} seeds" if spread else "one run"
    what = "is the only setting" if alone else "is the most accurate"
    return f"{leader.label} {what}: {leader.mean('accuracy'):.2f} %, {over}."


def _list(of: Standing, rows: Sequence[int], gaps: bool = True) -> str:
    """Names with their distance from the leader."""
    named = [f"{of.rows[at].label}{_gap(of.behind[at]) if gaps else ''}" for at in rows[:NAMED]]
    return ", ".join(named) + (f" and {len(rows) - NAMED} more" if len(rows) > NAMED else "")


def _gap(behind: Interval | None) -> str:
    return f" ({signed(behind.difference)})" if behind else ""


def signed(value: float) -> str:
    """Points with a sign that is one; nothing is below zero by nothing.

    >>> signed(-0.004), signed(-1.5), signed(2.0)
    ('+0.00', '-1.50', '+2.00')
    """
    return f"{round(value, 2) + 0.0:+.2f}"
