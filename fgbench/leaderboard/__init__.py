"""From the result files to tables, comparisons and checks: what is derived can always be made again.

* ``files``: result files in, results out; ``leaderboard.csv`` and ``README.md`` made from them.
* ``settings``: the seeds of one setting together; filters, order, the front.
* ``tables``: results and entries as CSV, Markdown, LaTeX.
* ``comparison``: two settings on the same images; groups that cannot be told apart.
* ``standing``: who leads a table, by how much, and whether that is certain.
* ``block``: a short board inside the project's README.
* ``audit``: what is wrong with a leaderboard.
* ``merging``: other people's results folders.

May import: the standard library, numpy, pandas, jinja2, ``fgbench.result``, ``fgbench.predictions``,
``fgbench.statistics``. Must not import: torch, anything that trains, report. Reads: ``leaderboard/published.csv``, JSON
and Parquet files in ``leaderboard/results``. Writes: ``leaderboard/leaderboard.csv``, ``leaderboard/README.md`` and
the marked board of the README beside the folder; merging also adds to ``leaderboard/results``.
"""

from fgbench.leaderboard.files import CSV, PUBLISHED, README, RESULTS, Rebuilt, read_results, rebuild
from fgbench.leaderboard.settings import FULL_CLASSES, SETTING, Entry, entries, front, is_whole, part
from fgbench.leaderboard.tables import load, published, to_csv, to_markdown

__all__ = [
    "CSV",
    "FULL_CLASSES",
    "PUBLISHED",
    "README",
    "RESULTS",
    "SETTING",
    "Entry",
    "Rebuilt",
    "entries",
    "front",
    "is_whole",
    "load",
    "part",
    "published",
    "read_results",
    "rebuild",
    "to_csv",
    "to_markdown",
]
