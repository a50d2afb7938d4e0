"""Toybirds onto disk, in the layout of CUB-200-2011: once, whole or not at all, whoever else wants them too."""

import fcntl
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from fgbench.data.toybirds_bird import LANDMARKS, PARTS
from fgbench.data.toybirds_catalogue import Species, catalogue, names, steps
from fgbench.data.toybirds_draw import Knobs, draw


def write_toybirds(folder: Path, classes: range, images_per_class: int, knobs: Knobs) -> None:
    """Make ``folder``, of these species of the catalogue, if it is not there yet.

    Everything is written into a sibling that is renamed when complete, under a lock, so that a killed writer leaves
    nothing that looks whole, and several processes (of one machine or of one network disk) write once.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return
        for stale in folder.parent.glob(f".{folder.name}.part-*"):  # of a killed writer: the lock is ours
            shutil.rmtree(stale)
        part = folder.with_name(f".{folder.name}.part-{os.getpid()}")
        try:
            _write(part, classes, images_per_class, knobs)
            os.sync()  # thousands of small files: one call instead of one a file
            part.rename(folder)
            _sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released by the system when the process dies
        yield


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(root: Path, classes: range, images_per_class: int, knobs: Knobs) -> None:
    species, labels = catalogue(classes.stop), names(classes.stop)
    for label in labels[classes.start :]:
        (root / "images" / label).mkdir(parents=True)
        (root / "segmentations" / label).mkdir(parents=True)
    (root / "parts").mkdir()
    jobs = [
        (label, number, f"{labels[label]}/{labels[label][4:]}_{number:04d}.png")
        for label in classes
        for number in range(1, images_per_class + 1)
    ]
    found: list[tuple[str, list[str]]] = []
    workers = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    # Not forked: a fork of a process whose libraries have started threads may hang.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        work = partial(_one, root, species, knobs)
        for row in pool.map(work, jobs, chunksize=max(1, min(25, len(jobs) // (4 * workers)))):
            found.append(row)
            _progress(len(found), len(jobs))
    lines = {
        "images.txt": [job[2] for job in jobs],
        "image_class_labels.txt": [str(job[0] - classes.start + 1) for job in jobs],
        "train_test_split.txt": [str(job[1] % 2) for job in jobs],
        "bounding_boxes.txt": [box for box, _ in found],
        "classes.txt": labels[classes.start :],
        "parts/parts.txt": list(LANDMARKS),
        "parts/part_locs.txt": [line for _, parts in found for line in parts],
        "segmentations.txt": list(PARTS),
    }
    for name, values in lines.items():
        numbered = (f"{i // 15 + 1} {v}" if name.endswith("locs.txt") else f"{i + 1} {v}" for i, v in enumerate(values))
        (root / name).write_text("".join(line + "\n" for line in numbered))
    facts = {
        "knobs": {"classes": [classes.start + 1, classes.stop], "images_per_class": images_per_class, **asdict(knobs)},
        "steps": [
            {"species": i + 2, "differs_from": s.parent + 1, s.attribute: s.value}
            for i, s in enumerate(steps(classes.stop))
        ],
        "species": [{"name": label, **s} for label, s in zip(labels, species, strict=True)],
    }
    (root / "catalogue.json").write_text(json.dumps(facts, indent=1) + "\n")


def _one(root: Path, species: list[Species], knobs: Knobs, job: tuple[int, int, str]) -> tuple[str, list[str]]:
    """Draw and write one image and its mask; returns its line of bounding_boxes.txt and its lines of part_locs.txt."""
    label, number, name = job
    picture = draw(species[label], label, number, knobs)
    for folder, pixels in (("images", cv2.cvtColor(picture.image, cv2.COLOR_RGB2BGR)), ("segmentations", picture.mask)):
        whole, data = cv2.imencode(".png", np.ascontiguousarray(pixels))
        if not whole:
            raise OSError(f"{root / folder / name}: OpenCV could not encode the picture")
        (root / folder / name).write_bytes(data.tobytes())
    points = zip(picture.landmarks, picture.visible, strict=True)
    # positions are multiples of 1/64 pixel, which six digits hold exactly
    parts = [f"{i} {x:.6f} {y:.6f} {int(seen)}" for i, ((x, y), seen) in enumerate(points, start=1)]
    return " ".join(f"{value:.6f}" for value in picture.box), parts


def _progress(done: int, total: int) -> None:
    """Ten lines at most in a file, a running count on a terminal."""
    if not sys.stderr.isatty() and done % max(1, total // 10) and done != total:
        return
    end = "\r" if sys.stderr.isatty() and done != total else "\n"
    print(f"toybirds: {done:,} of {total:,} images drawn", end=end, file=sys.stderr, flush=True)
