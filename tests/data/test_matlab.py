"""The reader of MATLAB files against SciPy's, and against damage."""

import numpy as np
import pytest
from fakes.pictures import cell, struct
from scipy.io import loadmat, savemat
from scipy.sparse import csc_matrix

from fgbench.data import DataError
from fgbench.data.matlab import read_matlab, texts, whole_numbers

CONTENT = {
    "cells": cell(["a b", "käse", "x" * 40]),
    "row": cell(["one"], column=False),
    "rows": struct([{"fname": f"{i}.jpg", "class": np.uint8(i), "side": np.uint16(300 + i)} for i in range(5)]),
    "one": struct([{"WNID": "n01", "children": np.array([[3, 4]], np.uint16)}]),
    "column": np.arange(7.0)[:, None],
    "wide": np.arange(12, dtype=np.int16).reshape(3, 4),
    "scalar": np.array([[7]], np.uint8),
    "text": "some text",
    "lines": np.array(["one", "two"]),
    "none": np.empty((0, 0)),
}


@pytest.mark.parametrize("packed", [False, True])
def test_everything_is_as_scipy_reads_it(tmp_path, packed):
    savemat(tmp_path / "a.mat", CONTENT, do_compression=packed)
    theirs = loadmat(tmp_path / "a.mat", squeeze_me=True)
    for name, mine in zip(CONTENT, read_matlab(tmp_path / "a.mat", *CONTENT), strict=True):
        expected = np.atleast_1d(theirs[name])
        assert mine.shape == expected.shape, name
        assert mine.dtype.names == expected.dtype.names
        for field in expected.dtype.names or [None]:
            a, b = (mine, expected) if field is None else (mine[field], expected[field])
            assert [np.asarray(x).tolist() for x in a] == [np.asarray(x).tolist() for x in b]


def test_big_endian_files_are_read(tmp_path):
    """As in 1999: version and "MI" in the heading, one matrix of one double."""
    element = b"".join(
        [
            *(np.array(row, ">u4").tobytes() for row in ([6, 8, 6, 0], [5, 8, 1, 2], [1 | 1 << 16])),
            *(b"n\0\0\0", np.array([9, 16], ">u4").tobytes(), np.array([1.5, -2], ">f8").tobytes()),
        ]
    )
    head = b"MATLAB 5.0".ljust(124) + b"\x01\x00MI"
    (tmp_path / "b.mat").write_bytes(head + np.array([14, len(element)], ">u4").tobytes() + element)
    assert read_matlab(tmp_path / "b.mat", "n")[0].tolist() == [1.5, -2.0]


@pytest.mark.parametrize("packed", [False, True])
def test_any_wrong_byte_is_an_error_of_the_file_or_another_value_and_never_a_crash(tmp_path, packed):
    path = tmp_path / "cars.mat"
    savemat(path, {"annotations": CONTENT["rows"], "names": CONTENT["cells"]}, do_compression=packed)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    places = range(124, len(whole), 1 if packed else 5)
    for place in places:
        data = bytearray(whole)
        data[place] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            rows, names = read_matlab(path, "annotations", "names")
            whole_numbers(path, "class", rows["class"] if "class" in (rows.dtype.names or ()) else names)
            texts(path, "names", names)
        except DataError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017 (many files in one test)
            refused += 1
    assert refused > (0.9 if packed else 0.3) * len(places)  # what is packed has a checksum


@pytest.mark.parametrize("value", [np.array([[1.5, 2]]), np.array([[np.nan, 1]]), cell(["a", "b"])])
def test_what_should_be_a_whole_number_and_is_not_is_named(tmp_path, value):
    savemat(tmp_path / "a.mat", {"labels": value})
    with pytest.raises(DataError, match=r"a\.mat: entry 1 of 'labels' is no whole number"):
        whole_numbers(tmp_path / "a.mat", "labels", *read_matlab(tmp_path / "a.mat", "labels"))


def test_classes_of_variables_that_are_not_read_are_refused(tmp_path):
    for value in (np.array([[1 + 2j]]), csc_matrix(np.eye(3))):
        savemat(tmp_path / "a.mat", {"labels": value})
        with pytest.raises(DataError, match=r"a\.mat: .*(complex numbers in 'labels'|'labels' of class 5).* not read"):
            read_matlab(tmp_path / "a.mat", "labels")
