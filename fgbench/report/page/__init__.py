"""The leaderboard as one HTML file that needs nothing else: tables, plots, pictures, and where every number is from.

* ``document``: results in, the file's text out.
* ``rows``: what a row of a table says, also beside the paper's number.
* ``details``: what a row says once it is opened: seeds, commands, curves, results by class.
* ``pareto``: accuracy against cost and interpretability as SVG.
* ``gallery``: pictures of run folders as small JPEGs.

May import: jinja2, OpenCV (``gallery``), ``fgbench.result``, ``fgbench.leaderboard``, ``fgbench.report.terminal`` (the
papers' numbers). Must not import: torch, lightning, wandb. Reads: the leaderboard, pictures in run folders. Writes: one
HTML file.
"""

from fgbench.report.page.document import render, write

__all__ = ["render", "write"]
