"""fgbench: a benchmark of fine-grained visual recognition with interpretable methods."""
