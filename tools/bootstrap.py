"""Makes ``.venv`` from ``requirements.lock`` when it is missing or stale; returns at once when it is not.

Runs under any Python 3 with nothing installed (``python3 -I tools/bootstrap.py``). The environment is stale when the
lock, ``pyproject.toml`` or the interpreter changed. Installs with uv where it can be had (from PATH, or a pinned copy
in an environment of its own), else with pip; both check the hashes of the lock.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".stamp"
UV_HOME = ROOT / ".venv-uv"
VERSIONS = ((3, 11), (3, 12))
DISK_GB = 8


def say(text):
    """One line to a person."""
    print("fgbench: " + text, file=sys.stderr, flush=True)


def version_of(python):
    """``(major, minor)`` of an interpreter, or None if it does not start (a shim without a version behind it, say)."""
    try:
        asked = subprocess.run(
            [python, "-I", "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return tuple(int(part) for part in asked.stdout.split())


def find_python():
    """An interpreter of a version that the lock covers: this one if it is, else from PATH."""
    if sys.version_info[:2] in VERSIONS:
        return sys.executable
    for name in ("python3.12", "python3.11", "python3"):
        path = shutil.which(name)
        if path and version_of(path) in VERSIONS:
            return path
    wanted = " or ".join(f"{major}.{minor}" for major, minor in VERSIONS)
    sys.exit(f"fgbench: needs Python {wanted} and found none; install one, or name it: FGBENCH_PYTHON=/path make ...")


def key_of(python):
    """What the environment was made from."""
    digest = hashlib.sha256(repr(version_of(python)).encode())
    for name in ("requirements.lock", "pyproject.toml", "tools/bootstrap.lock"):
        digest.update((ROOT / name).read_bytes())
    digest.update(str(ROOT).encode())  # the editable install points at this folder: a moved checkout is stale
    return digest.hexdigest()


def is_fresh(key):
    """Whether the environment is there and was made from the same."""
    return STAMP.exists() and STAMP.read_text() == key and PYTHON.exists()


def run(*command):
    """Run in the project's folder; CalledProcessError if it fails."""
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT)


def find_uv(python):
    """The uv on PATH, or a pinned one installed with pip into a small environment; None if neither works."""
    found = shutil.which("uv")
    if found:
        return found
    uv = UV_HOME / "bin" / "uv"
    if not uv.exists():
        try:
            run(python, "-m", "venv", "--clear", UV_HOME)
            lock = ROOT / "tools/bootstrap.lock"
            run(UV_HOME / "bin/python", "-m", "pip", "install", "-q", "--require-hashes", "-r", lock)
        except subprocess.CalledProcessError:
            return None
    return uv


def install(python):
    """Make the environment anew."""
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < DISK_GB:
        sys.exit(
            f"fgbench: the environment needs {DISK_GB} GB of disk, {ROOT} has {free_gb:.1f} GB free; make room, or use "
            "an interpreter that has the packages: FGBENCH_PYTHON=python3 make ..."
        )
    say("installing the pinned environment into .venv (about 5 GB, one to three minutes, once)")
    uv = find_uv(python)
    if uv:
        if version_of(str(PYTHON)) != version_of(python):
            run(uv, "venv", "-q", "--clear", "--python", python, VENV)  # else in place: runs may be using it
        run(uv, "pip", "sync", "-q", "--compile-bytecode", "--python", PYTHON, "requirements.lock")
        run(uv, "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--python", PYTHON, "-e", ".")
    else:
        say("uv cannot be had; installing with pip, which takes longer")
        run(python, "-m", "venv", "--clear", VENV)
        run(PYTHON, "-m", "pip", "install", "-q", "--require-hashes", "-r", "requirements.lock")
        run(PYTHON, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", ".")


def main():
    """Install unless that was done; one process at a time."""
    python = find_python()
    key = key_of(python)
    if is_fresh(key):
        return
    with open(ROOT / ".venv.lock", "w") as lock:
        if os.name == "posix":
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)  # two makes at once: the second waits, then finds it done
        if is_fresh(key):
            return
        started = time.monotonic()
        try:
            install(python)
        except subprocess.CalledProcessError as error:
            sys.exit(f"fgbench: the installation failed in: {' '.join(error.cmd)}\nRun the same make again to retry.")
        STAMP.write_text(key)
        say(f"installed in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
