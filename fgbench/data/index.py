"""A listing on disk: one Parquet file that opens as arrays, without a question to any image.

One row an image, in published order; what is the same for all images is JSON in the file's metadata, with the size,
time and hash of every file that the listing was read from, and the listing's digest. An index that was made from other
files than those which are there, or from fewer or more of them, is refused.

``VERSION`` is raised by hand, and nothing notices when that was forgotten: an index made by an older reader then still
says what that reader said, until ``fgbench data check`` compares it with the tree.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt64
from numpy import ndarray

from fgbench.data.listing import Listing
from fgbench.data.text import DataError

VERSION = 2  # raise it when readers list something else from the same files, or columns change
_KEY, _BLOCK = b"fgbench", 32768  # images that are read at once


def write_index(
    path: Path, listing: Listing, root: Path, sources: Sequence[Path], fractions: Sequence[float] = (0.0,)
) -> None:
    """Write a listing, whole or not at all.

    Args:
        path: the Parquet file; its folder is made.
        listing: with sizes, before any validation cut.
        root: folder of all datasets; everything is stored relative to it, so that it can move.
        sources: the files that the listing was read from.
        fractions: validation cuts whose digest is stored, since it takes seconds for many images.
    """
    if listing.sizes is None:
        raise ValueError("an index needs the sizes of all images")
    columns = {
        "name": _fixed_bytes(listing.names),
        "image_id": pa.array(listing.image_id),
        "target": _rows(listing.target),
        "stratum": None if listing.stratum is None else pa.array(listing.stratum),
        "split": pa.array(listing.split.astype(np.int8)),
        "rank": pa.array(listing.ranks(np.arange(len(listing.names)))),
        "height": pa.array(listing.sizes[:, 0].astype(np.int32)),
        "width": pa.array(listing.sizes[:, 1].astype(np.int32)),
        "boxes": pa.LargeListArray.from_arrays(4 * listing.box_start, listing.boxes.astype(np.float64).reshape(-1)),
        "landmarks": _rows(listing.landmarks.astype(np.float64).reshape(len(listing.names), -1)),
        "visible": _rows(listing.visible.astype(np.uint8)),
    }
    columns = {name: column for name, column in columns.items() if column is not None}
    facts = {
        "version": VERSION,
        "boxes": len(listing.boxes),
        "folder": os.path.relpath(listing.folder, root),
        "label_names": listing.label_names,
        "landmark_names": listing.landmark_names,
        "label_groups": listing.label_groups,
        "copy_short": listing.copy_short,
        "digests": {str(fraction): listing.with_validation(fraction).digest() for fraction in fractions},
        "sources": {os.path.relpath(source, root): _state(source) for source in sources},
    }
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(facts).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table, temporary, compression="zstd", row_group_size=_BLOCK)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_index(path: Path, root: Path, remedy: str, sources: Sequence[Path] | None = None) -> Listing:
    """The listing of an index.

    Args:
        path: the Parquet file.
        root: folder of all datasets.
        remedy: what to do when it is stale or damaged.
        sources: the files that a reader would read now; None asks no file whether the index is stale.

    Raises:
        DataError: it is damaged, of another version, or was made from other files than those that are there.
    """
    try:
        with pq.ParquetFile(path) as file:
            facts = json.loads(file.schema_arrow.metadata[_KEY])
            if facts["version"] != VERSION:
                raise DataError(f"{path}: the index is of version {facts['version']}, not {VERSION}. {remedy}.")
            if sources is not None:
                _check_sources(path, root, facts["sources"], sources, remedy)
            return _listing(file, root, facts)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: the index cannot be read ({error}). {remedy}.") from None


def read_digests(path: Path) -> dict[str, str]:
    """Digests of the listing of a sound index, by validation fraction."""
    facts = json.loads(pq.read_schema(path).metadata[_KEY])
    return dict(facts["digests"])


def read_ranks(path: Path) -> UInt64[ndarray, " n"]:
    """What a sound index says of each image's place in validation cuts."""
    ranks: ndarray = pq.read_table(path, columns=["rank"], use_threads=False)["rank"].to_numpy()
    return ranks


def _listing(file: pq.ParquetFile, root: Path, facts: dict[str, Any]) -> Listing:
    """Batch by batch into arrays of the final size, so that nothing is in memory twice."""
    n, schema = file.metadata.num_rows, file.schema_arrow
    target = schema.field("target").type
    attributes, marks = getattr(target, "list_size", 0), len(facts["landmark_names"])
    names = np.empty(n, f"S{schema.field('name').type.byte_width}")
    columns = {
        "image_id": np.empty(n, np.int64),
        "target": np.empty((n, attributes), np.float64) if attributes else np.empty(n, np.int64),
        "split": np.empty(n, np.int64),
        "stratum": np.empty(n if "stratum" in schema.names else 0, np.int64),
        "landmarks": np.zeros((n, 2 * marks)),
        "visible": np.zeros((n, marks), np.bool_),
    }
    sizes, boxes, start = np.empty((n, 2), np.int32), np.empty((facts["boxes"], 4)), np.zeros(n + 1, np.int64)
    at = 0
    for batch in file.iter_batches(_BLOCK, use_threads=False):
        here = slice(at, at + len(batch))
        name = batch.column("name")
        first = name.offset * names.itemsize
        raw = np.frombuffer(name.buffers()[1], np.uint8)[first : first + len(batch) * names.itemsize]
        names[here] = raw.view(names.dtype)
        for key, array in columns.items():
            if key in schema.names:
                column = batch.column(key)
                flat = column.flatten() if array.ndim == 2 else column
                array[here] = flat.to_numpy(zero_copy_only=False).reshape(array[here].shape)
        sizes[here, 0], sizes[here, 1] = batch.column("height").to_numpy(), batch.column("width").to_numpy()
        listed = batch.column("boxes")
        start[at + 1 : at + 1 + len(batch)] = start[at] + np.cumsum(listed.value_lengths().to_numpy()) // 4
        boxes[start[at] : start[at + len(batch)]] = listed.flatten().to_numpy().reshape(-1, 4)
        at += len(batch)
    pa.default_memory_pool().release_unused()
    return Listing(
        folder=root / facts["folder"],
        names=names,
        image_id=columns["image_id"],
        target=columns["target"],
        split=columns["split"],
        boxes=boxes,
        box_start=start,
        landmarks=columns["landmarks"].reshape(n, marks, 2),
        visible=columns["visible"],
        label_names=tuple(facts["label_names"]),
        landmark_names=tuple(facts["landmark_names"]),
        label_groups=tuple(facts["label_groups"]),
        sizes=sizes,
        copy_short=facts["copy_short"],
        stratum=columns["stratum"] if "stratum" in schema.names else None,
    )


def _fixed_bytes(names: ndarray) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(names.dtype.itemsize), len(names), [None, pa.py_buffer(names.tobytes())])


def _rows(array: ndarray) -> pa.Array | None:
    """One value, or as many values as the array is wide, for each image; None where that is nothing."""
    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(array.reshape(-1), array.shape[1]) if array.shape[1] else None


def _state(source: Path) -> dict[str, Any]:
    found = source.stat()
    return {"size": found.st_size, "time": found.st_mtime_ns, "sha256": _sha256(source)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_sources(
    path: Path, root: Path, known: dict[str, dict[str, Any]], sources: Sequence[Path], remedy: str
) -> None:
    """Size and time say that a file is the same; where they do not, its content is asked."""
    added = [source for source in sources if os.path.relpath(source, root) not in known]
    if added:
        raise DataError(f"{added[0]}: was not there when the index {path} was made. {remedy}.")
    for name, then in known.items():
        source = root / name
        if not source.is_file():
            raise DataError(f"{source}: missing, though the index {path} was made from it. {remedy}.")
        now = source.stat()
        same = (now.st_size, now.st_mtime_ns) == (then["size"], then["time"])
        if not same and _sha256(source) != then["sha256"]:
            raise DataError(f"{source}: changed since the index {path} was made from it. {remedy}.")
