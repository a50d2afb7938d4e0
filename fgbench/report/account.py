"""Who is logged in to W&B, and under which names runs are found there; without importing it.

May import: the standard library. Must not import: wandb. Reads: environment variables, ``.netrc``.
"""

import netrc
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

PROJECT = "fgbench"
LOGIN = "not logged in to W&B: run `wandb login`, or set WANDB_API_KEY, and give the same command again"


def choose_mode(environ: Mapping[str, str]) -> str:
    """WANDB_MODE if it is set; else ``online`` for a user who is logged in, ``offline`` for anybody else."""
    return environ.get("WANDB_MODE", "") or ("online" if is_logged_in(environ) else "offline")


def is_logged_in(environ: Mapping[str, str]) -> bool:
    """Whether there is a key for W&B's server."""
    if environ.get("WANDB_API_KEY"):
        return True
    home = Path(environ.get("HOME", "~")).expanduser()
    files = [Path(environ["NETRC"])] if "NETRC" in environ else [home / ".netrc", home / "_netrc"]
    host = urllib.parse.urlparse(environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for path in files:
        try:
            if netrc.netrc(path).hosts.get(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
