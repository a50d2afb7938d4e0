"""What people look at: tables on the terminal, figures, the HTML page (``page``), W&B.

May import: ``fgbench.result``, ``fgbench.leaderboard``, matplotlib, rich, jinja2, OpenCV, and (``wandb.py`` only)
wandb, (``wandb_report.py`` only) wandb_workspaces; the files that stand beside a trainer also Lightning and torch.
Must not import: data, methods, metrics, scoring, bench. Reads: results and the leaderboard, arrays, pictures in run
folders. Writes: figures, the terminal, the page, W&B's files in the run's folder, reports on W&B.
"""
