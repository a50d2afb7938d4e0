"""What a run said of every image: one Parquet file per run, a row per image, sorted by ``image_id``.

Each process writes its own part while it evaluates, in row groups, so that memory does not grow with the split; the
parts become one file at the end, which is the same, byte for byte, however many processes there were.

May import: the standard library, numpy, pyarrow (once it is needed), ``fgbench.result``. Reads and writes:
``.parquet``.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fgbench.result import ResultError, commit_file

ROWS_PER_GROUP = 4096


class PredictionsWriter:
    """Writes the rows of one process; the file gets its name in ``close``, so a part that is there is whole.

    Args:
        path: the part's file; a file of an earlier attempt is replaced.

    Example:
        with PredictionsWriter(folder / "part0.parquet") as writer:
            writer.write({"image_id": image_id, "predicted": predicted, "logits_top5": top5})
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._waiting: list[Any] = []
        self._rows = 0
        self._file: Any = None

    def write(self, columns: Mapping[str, np.ndarray]) -> None:
        """Add rows.

        Args:
            columns: by name ``n`` or ``n x`` values of ``n`` images; ``image_id`` among them. The same names and widths
                in every call.

        Raises:
            ResultError: ``image_id`` is missing, lengths differ, or the columns are not those of the first call.
        """
        table = _to_table(columns, self.path)
        if self._waiting and table.schema != self._waiting[0].schema:
            raise ResultError(f"{self.path}: columns changed from {self._waiting[0].schema} to {table.schema}")
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting)
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = pq.ParquetWriter(self._temporary, table.schema, compression="zstd")
            self._file.write_table(table)
        except (OSError, pa.ArrowInvalid) as error:
            self.discard()
            raise ResultError(f"{self.path}: could not be written ({error}); free space and run again") from error
        self._waiting, self._rows = [table.slice(0, 0)], 0  # an empty table keeps the schema to compare with

    def close(self) -> None:
        """Write what waits, and give the file its name."""
        self._flush()
        if self._file is None:
            raise ResultError(f"{self.path}: no predictions were written")
        try:
            self._file.close()
            commit_file(self._temporary, self.path)
        except OSError as error:
            self.discard()
            raise ResultError(f"{self.path}: could not be written ({error}); free space and run again") from error

    def discard(self) -> None:
        """Leave nothing behind."""
        self._waiting, self._rows, self._file = [], 0, None
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> "PredictionsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def _to_table(columns: Mapping[str, np.ndarray], path: Path) -> Any:
    import pyarrow as pa

    if "image_id" not in columns:
        raise ResultError(f"{path}: predictions need a column image_id")
    arrays = {}
    for name, values in columns.items():
        if values.ndim not in (1, 2) or len(values) != len(columns["image_id"]):
            raise ResultError(
                f"{path}: column {name} has shape {values.shape}, {len(columns['image_id'])} rows expected"
            )
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        arrays[name] = flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.table(arrays)


def merge_predictions(parts: Sequence[Path], out: Path, *, expected: int | None = None) -> int:
    """Join the parts of all processes into one file, sorted by ``image_id``.

    Args:
        parts: one file per process.
        out: the run's file, replaced if it is there.
        expected: images of the split.

    Returns:
        The number of rows.

    Raises:
        ResultError: an image occurs twice, the count is not the expected one, or parts do not fit together.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pa.concat_tables([pq.read_table(part) for part in parts]).sort_by("image_id")
    except (OSError, pa.ArrowInvalid) as error:
        raise ResultError(f"{out}: the parts {', '.join(map(str, parts))} do not make one file ({error})") from error
    ids = table["image_id"].to_numpy()
    twice = [str(image_id) for image_id in np.unique(ids[1:][ids[1:] == ids[:-1]])]
    if twice:
        raise ResultError(f"{out}: images were evaluated twice: image_id {', '.join(twice[:5])} ({len(twice)} in all)")
    if expected is not None and len(table) != expected:
        raise ResultError(f"{out}: {len(table)} images were evaluated, but the split has {expected}")
    _write_table(table, out)
    return len(table)


def join_predictions(files: Sequence[Path], out: Path) -> None:
    """Put the columns of merged files side by side: what several loaders showed of the same images.

    Args:
        files: one per loader; of a column that several have, the first counts.
        out: the run's file, replaced if it is there.

    Raises:
        ResultError: the files do not hold the same images.
    """
    import pyarrow.parquet as pq

    joined, *others = [pq.read_table(file) for file in files]
    for file, table in zip(files[1:], others, strict=True):
        if not joined["image_id"].equals(table["image_id"]):
            raise ResultError(f"{out}: {files[0].name} and {file.name} hold different images; evaluate the run again")
        for name in table.column_names:
            if name not in joined.column_names:
                joined = joined.append_column(name, table[name])
    _write_table(joined, out)


def _write_table(table: Any, out: Path) -> None:
    import pyarrow.parquet as pq

    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.combine_chunks(), temporary, compression="zstd")
        commit_file(temporary, out)
    except OSError as error:
        raise ResultError(f"{out}: could not be written ({error}); free space and run again") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_predictions(path: Path) -> dict[str, np.ndarray]:
    """The columns of a file, each ``n`` or ``n x``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path).combine_chunks()
    except (OSError, pa.ArrowInvalid) as error:
        raise ResultError(f"{path}: cannot be read ({error}); evaluate the run again") from error
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(array, pa.ChunkedArray):
            array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
        if pa.types.is_fixed_size_list(array.type):
            columns[name] = array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
        else:
            columns[name] = array.to_numpy(zero_copy_only=False)
    return columns
