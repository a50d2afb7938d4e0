"""Annotation files of all kinds, whole and damaged."""

import numpy as np
import pytest
from fakes.pictures import cell, struct, write_voc
from scipy.io import savemat

from fgbench.data import DataError
from fgbench.data.files import check_lines, ragged, table_of, voc_boxes
from fgbench.data.matlab import read_matlab


def test_tables_have_a_name_and_numbers_with_any_blanks_between(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("3\nx y  \n000001.jpg  1   -2.5 \n0002 3\t4e1\nNA 5 6\n")
    names, numbers = table_of(path, 2, skip=2)
    assert names == ["000001.jpg", "0002", "NA"]
    assert numbers.tolist() == [[1, -2.5], [3, 40], [5, 6]]
    path.write_text("3\n1\n2\n")
    names, numbers = table_of(path, 0)
    assert names == ["3", "1", "2"]
    assert numbers.shape == (3, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2\nb 1\n", r"line 2: expected a name and 2 numbers, found 'b 1'"),
        ("a 1 2\nb 1 2 3\n", r"line 2: expected a name and 2 numbers"),
        ("a 1 2\n\nb 1 x\n", r"line 2: expected a name and 2 numbers, found ''"),
        ("a 1 2\nb 1 nan\n", r"line 2: expected a name and 2 numbers"),
        ("a 1\nb 2\n", r"line 1: expected a name and 2 numbers"),
        (" \n", r"the file is empty"),
    ],
)
def test_damaged_line_of_a_table_is_named(tmp_path, text, message):
    path = tmp_path / "a.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        table_of(path, 2)


def test_heading_without_a_table_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("0\nx y\n")
    with pytest.raises(DataError, match="has a heading, but no line below it"):
        table_of(path, 2, skip=2)


def test_lines_are_counted_with_their_heading(tmp_path):
    check_lines(tmp_path, np.array([True, True]), "bad")
    with pytest.raises(DataError, match=r"line 4: bad"):
        check_lines(tmp_path, np.array([True, False, False]), "bad", skip=2)


def test_matlab_cells_and_structs_of_one_element_too(tmp_path):
    path = tmp_path / "a.mat"
    content = {"names": cell(["x"]), "rows": struct([{"fname": "a.jpg", "class": np.uint8(3)}]), "n": np.array([[7]])}
    savemat(path, content)
    names, rows, number = read_matlab(path, "names", "rows", "n")
    assert [str(name) for name in names] == ["x"]
    assert (str(rows["fname"][0]), int(rows["class"][0]), number.tolist()) == ("a.jpg", 3, [7])
    with pytest.raises(DataError, match=r"a\.mat: has no variable 'labels', but names, rows, n"):
        read_matlab(path, "labels")
    with pytest.raises(DataError, match=r"b\.mat: there is no such file"):
        read_matlab(tmp_path / "b.mat", "n")
    path.write_text("<html>")
    with pytest.raises(DataError, match=r"a\.mat: not a MATLAB file, or damaged"):
        read_matlab(path, "n")


def test_voc_annotations_without_a_usable_object_are_named(tmp_path):
    path = tmp_path / "a.xml"
    write_voc(path, "f", "a", (40, 50), [(1, 2, 30, 40), (0, 0, 5, 6)])
    assert voc_boxes(path).tolist() == [[1, 2, 30, 40], [0, 0, 5, 6]]
    for boxes in ([], [(5, 5, 5, 9)], [(9, 5, 5, 9)]):
        write_voc(path, "f", "a", (40, 50), boxes)
        with pytest.raises(DataError, match=r"a\.xml: has no object, or one whose box has no area"):
            voc_boxes(path)
    for text in ("<annotation>", "<annotation><object><bndbox><xmin>1</xmin></bndbox></object></annotation>"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"a\.xml: not an annotation in XML"):
            voc_boxes(path)


def test_boxes_of_all_images_in_one_array():
    boxes, start = ragged([np.ones((2, 4)), np.zeros((0, 4)), 2 * np.ones((1, 4))])
    assert boxes[:, 0].tolist() == [1, 1, 2]
    assert start.tolist() == [0, 2, 2, 3]
    assert ragged([])[1].tolist() == [0]
