"""``python -m fgbench``: the same as the ``fgbench`` command."""

from fgbench.cli import main

if __name__ == "__main__":
    main()
