import pytest

from fgbench.data.text import DataError, read_json, read_lines


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
def test_lines_do_not_depend_on_the_system_that_wrote_them(tmp_path, end, mark):
    path = tmp_path / "list.txt"
    path.write_bytes(mark + end.join(["1 Ünicode", "", "2 two", ""]).encode())
    assert read_lines(path) == ["1 Ünicode", "", "2 two"]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "empty"), (b"\xef\xbb\xbf\r\n", "empty"), (b"\xff\xd8\xff\xe0", "not a text file"), (None, "no such file")],
)
def test_what_is_no_text_is_named(tmp_path, content, says):
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"list\.txt: .*{says}"):
        read_lines(tmp_path / "list.txt")


@pytest.mark.parametrize(("content", "says"), [("{\n1", r"line 2: not JSON"), ("[1]", "expected a JSON object")])
def test_damaged_json_is_named_with_its_line(tmp_path, content, says):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=rf"a\.json.*{says}"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{\r\n"a": 1}\r\n')
    assert read_json(tmp_path / "a.json") == {"a": 1}
