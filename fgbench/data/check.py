"""Every image of a dataset looked at once: is it there, whole, annotated inside its borders, and in one split only?"""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray

from fgbench.data.images import decode
from fgbench.data.listed import Listed
from fgbench.data.listing import Listing, Split
from fgbench.data.prepare import BLOCK, Steps, no_progress
from fgbench.data.text import DataError

SHOWN = 3  # examples of a finding


@dataclass(frozen=True)
class Finding:
    """One question asked of a dataset.

    Attributes:
        what: is wrong with these.
        checked: how many were looked at.
        found: how many are so.
        examples: the first ones, named.
        harmless: whether numbers mean what they say all the same: equal files within a split, and what is known of the
            official annotations.
    """

    what: str
    checked: int
    found: int
    examples: tuple[str, ...] = ()
    harmless: bool = False


@dataclass(frozen=True)
class Report:
    """What ``check`` found.

    Attributes:
        counts: images of each split.
        classes: labels or attributes.
        findings: one for each question.
        digest: of lists and annotations, as in every result.
    """

    counts: dict[str, int]
    classes: int
    findings: tuple[Finding, ...]
    digest: str

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not any(finding.found and not finding.harmless for finding in self.findings)


@dataclass(frozen=True)
class _Seen:
    """What the files themselves say: a problem in words or empty, and a hash of the content."""

    problem: list[str]
    content: UInt8[ndarray, "n 16"]


def check(data: Listed, threads: int = 4, steps: Steps = no_progress) -> Report:
    """Look at every image and at every annotation.

    Lists and annotations are read again, whatever an index says, and compared with it; images may be absent.

    Args:
        data: the datamodule; its lists must be readable, by an index or by its reader.
        threads: that decode at once.
        steps: shows progress.

    Raises:
        DataError: the lists themselves are missing or damaged.
    """
    listing, stale = _lists(data)
    seen = _look(listing, data.bottom, data.known_damaged, threads, steps)
    findings = [
        *stale,
        *_files(listing, seen),
        *_annotations(listing, data.slack, data.known_outside),
        *_labels(listing),
        *_twins(listing, seen),
    ]
    names: tuple[Split, ...] = ("train", "val", "test", *(("fit",) if listing.has_fit else ()))
    counts = {str(name): len(listing.rows(name)) for name in names}
    return Report(counts, data.num_outputs, tuple(findings), listing.digest())


def _lists(data: Listed) -> tuple[Listing, list[Finding]]:
    """What is listed, by the index if it is good for anything; and what is wrong with that index.

    Raises:
        DataError: there is no index to go by, and the tree cannot be read.
    """
    stale: list[str] = []
    indexed = None
    try:
        indexed = data.read_indexed()
    except DataError as error:
        stale.append(str(error))
    if indexed is None:
        listing = data.read_sized(tolerant=True).with_validation(data.val_fraction)
        return listing, [Finding("indices that are stale or damaged", 1, 1, tuple(stale))] if stale else []
    try:
        differing = _differing(indexed, data.read_lists())
    except DataError as error:
        differing = [str(error)]
    stale = [f"{message}; fgbench data prepare {data.name} makes the index again" for message in differing[:SHOWN]]
    what = "lists and annotations that the index has otherwise than the tree"
    listing = indexed.with_validation(data.val_fraction)
    if not differing and listing.digest() != data.digest():
        differing = stale = [f"{data.index_path()}: its digest is not that of its lists: make it again"]
    return listing, [Finding(what, len(_COMPARED), len(differing), tuple(stale))]


_COMPARED = (
    "names", "image_id", "target", "split", "boxes", "box_start", "landmarks", "visible", "label_names",
    "landmark_names", "label_groups",
)  # fmt: skip


def _differing(indexed: Listing, listed: Listing) -> list[str]:
    """Fields of a listing that differ, each with the first image where they do."""
    if len(indexed.names) != len(listed.names):
        return [f"the index has {len(indexed.names):,} images, the lists have {len(listed.names):,}"]
    found = []
    for field in _COMPARED:
        here, there = (np.asarray(getattr(one, field)) for one in (indexed, listed))
        if np.array_equal(here, there):
            continue
        row = -1
        if here.shape == there.shape and field not in ("label_names", "landmark_names", "label_groups"):
            row = int(np.argwhere(here != there)[0][0])
            if field == "boxes":
                row = int(np.searchsorted(listed.box_start, row, side="right")) - 1
            if field == "box_start":  # it begins with 0: where entry k differs, image k - 1 has more boxes, or fewer
                row -= 1
        found.append(f"{field}{f' of {listed.name(row)}' if row >= 0 else ''} changed")
    return found


def _look(listing: Listing, bottom: int, torn: frozenset[str], threads: int, steps: Steps) -> _Seen:
    stored, n = listing.stored_sizes(), len(listing.names)
    content, problems, tick = np.zeros((n, 16), np.uint8), [""] * n, steps("images", n)

    def look(row: int) -> None:
        try:
            data = listing.path(row).read_bytes()
        except OSError as error:
            problems[row] = f"missing: {error.strerror}"
            return
        content[row] = np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), np.uint8)
        image, problem = decode(data, torn=listing.name(row) in torn)
        height, width = stored[row].tolist()
        if image is None:
            problems[row] = f"damaged: {problem} ({len(data):,} bytes)"
        elif height and image.shape[:2] != (height + bottom, width):
            problems[row] = f"size: {image.shape[0] - bottom} x {image.shape[1]} instead of {height} x {width}"

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, n, BLOCK):
            rows = range(start, min(start + BLOCK, n))
            list(pool.map(look, rows))
            tick(len(rows))
    return _Seen(problems, content)


def _files(listing: Listing, seen: _Seen) -> list[Finding]:
    kinds = {
        "missing": "images that are missing",
        "damaged": "images that are unreadable or truncated",
        "size": "images of another size (height x width) than listed",
    }
    found = []
    for kind, what in kinds.items():
        rows = [row for row, problem in enumerate(seen.problem) if problem.startswith(f"{kind}:")]
        examples = [f"{listing.name(row)}: {seen.problem[row].partition(': ')[2]}" for row in rows[:SHOWN]]
        found.append(Finding(what, len(listing.names), len(rows), tuple(examples)))
    return found


def _annotations(listing: Listing, slack: float, known: Mapping[str, int]) -> list[Finding]:
    sizes = listing.sizes
    if sizes is None:
        raise ValueError("the listing has no sizes")
    found = []
    known_size: ndarray = np.logical_and.reduce(sizes > 0, axis=1)  # not of an image that is absent or damaged
    if len(listing.boxes):
        row = np.repeat(np.arange(len(listing.names)), np.diff(listing.box_start))
        boxes, limit = listing.boxes, sizes[row][:, ::-1]
        out = known_size[row] & (outside(boxes[:, :2], limit, slack) | outside(boxes[:, 2:], limit, slack))
        flat = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
        for what, wrong in (
            (f"boxes more than {slack:g} px outside of their image", out),
            ("boxes without area", flat),
        ):
            examples = [f"{listing.name(row[i])}: {_words(boxes[i])}" for i in np.flatnonzero(wrong)[:SHOWN]]
            harmless = wrong is out and int(out.sum()) <= known.get("boxes", 0)
            found.append(Finding(what, len(boxes), int(wrong.sum()), tuple(examples), harmless))
    if listing.landmark_names:
        lost = outside(listing.landmarks, sizes[:, None, ::-1], slack) & listing.visible & known_size[:, None]
        examples = [
            f"{listing.name(i)}: {listing.landmark_names[j]} at {_words(listing.landmarks[i, j])}"
            for i, j in np.argwhere(lost)[:SHOWN]
        ]
        what = f"landmarks more than {slack:g} px outside of their image"
        harmless = int(lost.sum()) <= known.get("landmarks", 0)
        found.append(Finding(what, int(listing.visible.sum()), int(lost.sum()), tuple(examples), harmless))
    return found


def outside(points: Float[ndarray, "*n 2"], limit: Int[ndarray, "*m 2"], slack: float) -> Bool[ndarray, "*n"]:
    """Which points ``x y`` lie more than ``slack`` outside of images of width and height ``limit``."""
    found: ndarray = np.logical_or.reduce((points < -slack) | (points > limit + slack), axis=-1)
    return found


def _words(numbers: ndarray) -> str:
    return " ".join(f"{number:g}" for number in numbers)


def _labels(listing: Listing) -> list[Finding]:
    if listing.target.ndim == 2:
        wrong = ~np.logical_and.reduce(np.isin(listing.target, (0, 1)), axis=1)
        examples = tuple(listing.name(row) for row in np.flatnonzero(wrong)[:SHOWN])
        return [Finding("images with attributes other than 0 and 1", len(wrong), int(wrong.sum()), examples)]
    found = []
    for split in ("train", "test"):
        count = np.bincount(listing.target[listing.rows(split)], minlength=len(listing.label_names))
        empty = np.flatnonzero(count == 0)
        examples = tuple(listing.label_names[label] for label in empty[:SHOWN])
        found.append(Finding(f"classes without a {split} image", len(count), len(empty), examples))
    return found


def _twins(listing: Listing, seen: _Seen) -> list[Finding]:
    """Images whose files are equal: leaks from train to test, and labels that contradict each other."""
    readable = np.flatnonzero(np.array([not problem.startswith(("missing", "damaged")) for problem in seen.problem]))
    keys = np.ascontiguousarray(seen.content[readable]).view("V16").reshape(-1)
    _, group, count = np.unique(keys, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(count)
    pairs = [readable[order[ends[i] - count[i] : ends[i]]] for i in np.flatnonzero(count > 1)]
    test, learnt = (np.isin(np.arange(len(listing.names)), rows) for rows in _test_and_learnt(listing))
    leaks = [rows for rows in pairs if test[rows].any() and learnt[rows].any()]
    torn = [rows for rows in pairs if (listing.target[rows] != listing.target[rows[0]]).any()]
    plain = [rows for rows in pairs if not (test[rows].any() and learnt[rows].any())]
    return [
        _pairs("equal files in train and test", listing, leaks, len(readable)),
        _pairs("equal files with different labels", listing, torn, len(readable)),
        _pairs("equal files within a split", listing, plain, len(readable), harmless=True),
    ]


def _test_and_learnt(listing: Listing) -> tuple[ndarray, ndarray]:
    learnt: tuple[Split, ...] = ("train", "val", "fit")
    return listing.rows("test"), np.concatenate([listing.rows(split) for split in learnt])


def _pairs(what: str, listing: Listing, found: Sequence[ndarray], checked: int, harmless: bool = False) -> Finding:
    examples = tuple(" = ".join(listing.name(row) for row in rows[:SHOWN]) for rows in found[:SHOWN])
    return Finding(what, checked, len(found), examples, harmless)
