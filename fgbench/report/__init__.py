"""What people look at: tables on the terminal, figures, W&B.

May import: ``fgbench.result``, ``fgbench.leaderboard``, matplotlib, rich, and (``wandb.py`` only) wandb; the files that
stand beside a trainer also Lightning and torch. Must not import: data, methods, metrics, scoring, bench. Reads: results
and the leaderboard, arrays. Writes: figures, the terminal, W&B's files in the run's folder.
"""
