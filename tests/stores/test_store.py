"""Rows are whole or not there: kills, torn files, full disks, several writers."""

import json
import multiprocessing
import os
import pickle
import signal
import time

import numpy as np
import pytest

from fgbench.stores import StoreError, StoreReader, StoreWriter, hold, name_of, store

KEY = {"weights": "file:x@0123", "size": 544, "tap": "pool5", "digest": "d", "view": {"resize": "squash"}}
COUNT, SHAPE, DTYPE = 40, (3, 2, 2), np.dtype("float16")


def value(row):
    return np.full(SHAPE, row + 0.5, DTYPE) * np.arange(1, 13, dtype=DTYPE).reshape(SHAPE)


def create(folder, cap_gb=1.0, count=COUNT, key=KEY, advice=""):
    StoreWriter.create(folder, key, count, SHAPE, DTYPE, cap_gb, advice)


def fill(folder, rows, process=0, pause=0.0):
    writer = StoreWriter(folder, process)
    for row in writer.reader.missing(np.asarray(rows)).tolist():
        writer.write(np.array([row]), value(row)[None])
        time.sleep(pause)
    writer.close()


def check(folder, rows):
    reader = StoreReader(folder)
    assert len(reader.missing(np.arange(COUNT))) == COUNT - len(rows)
    for row in rows:
        np.testing.assert_array_equal(reader.read(row), value(row))


def test_what_is_written_is_read_and_numpy_reads_it_too(tmp_path):
    create(tmp_path / "s")
    fill(tmp_path / "s", range(0, COUNT, 2))
    check(tmp_path / "s", range(0, COUNT, 2))
    np.testing.assert_array_equal(np.load(tmp_path / "s/rows.npy")[4], value(4))
    assert json.loads((tmp_path / "s/key.json").read_text())["tap"] == "pool5"


@pytest.mark.parametrize("change", [{"weights": "file:x@9"}, {"size": 448}, {"tap": "conv5_4"}, {"digest": "e"},
                                    {"view": {"resize": "short"}}])  # fmt: skip
def test_another_key_is_another_store(change):
    assert name_of("maps", {**KEY, **change}) != name_of("maps", KEY) == name_of("maps", dict(reversed(KEY.items())))


def test_a_writer_killed_half_way_loses_only_the_row_it_was_at(tmp_path):
    folder = tmp_path / "s"
    create(folder)
    process = multiprocessing.get_context("fork").Process(target=fill, args=(folder, range(COUNT), 0, 0.01))
    process.start()
    while len(StoreReader(folder).missing(np.arange(COUNT))) > COUNT - 5:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    left = StoreReader(folder).missing(np.arange(COUNT))
    assert 0 < len(left) < COUNT
    check(folder, sorted(set(range(COUNT)) - set(left.tolist())))
    done = (folder / "done-0.bin").read_bytes()
    fill(folder, range(COUNT))
    check(folder, range(COUNT))
    assert (folder / "done-0.bin").read_bytes().startswith(done)  # finished rows were not computed again


def test_half_a_record_of_the_journal_is_no_record(tmp_path):
    folder = tmp_path / "s"
    create(folder)
    fill(folder, [0, 1, 2])
    whole = (folder / "done-0.bin").read_bytes()
    (folder / "done-0.bin").write_bytes(whole[:-5])
    check(folder, [0, 1])
    fill(folder, [0, 1, 2, 3])
    check(folder, [0, 1, 2, 3])


def test_two_processes_fill_one_store(tmp_path):
    folder = tmp_path / "s"
    create(folder)
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=fill, args=(folder, range(rank, COUNT, 2), rank, 0.001)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    check(folder, range(COUNT))


def test_a_second_run_waits_for_the_first(tmp_path):
    def second(folder, end):
        with hold(folder, end.send):
            end.send("mine")

    here, there = multiprocessing.Pipe()
    with hold(tmp_path / "s", print):
        process = multiprocessing.get_context("fork").Process(target=second, args=(tmp_path / "s", there))
        process.start()
        assert "another run fills it" in here.recv()
        assert not here.poll(0.2)
    assert here.recv() == "mine"
    process.join()


def test_torn_rows_are_refused_by_name(tmp_path):
    folder = tmp_path / "s"
    create(folder)
    fill(folder, range(COUNT))
    rows = folder / "rows.npy"
    whole = rows.read_bytes()
    rows.write_bytes(whole[:-1])
    with pytest.raises(StoreError, match=r"rows\.npy: .* torn; remove the folder"):
        StoreReader(folder)
    rows.write_bytes(b"nothing")
    with pytest.raises(StoreError, match="not the rows of a store"):
        StoreReader(folder)
    offset = len(whole) - COUNT * 24
    rows.write_bytes(whole[: offset + 7 * 24] + b"\0" * 24 + whole[offset + 8 * 24 :])  # row 7 never reached the disk
    reader = StoreReader(folder)
    np.testing.assert_array_equal(reader.read(8), value(8))
    for _ in range(2):
        with pytest.raises(StoreError, match="row 7 is damaged"):
            reader.read(7)
    (folder / "done-0.bin").write_bytes(b"x" * 32)
    with pytest.raises(StoreError, match=r"done-0\.bin: damaged"):
        StoreReader(folder)


def test_a_row_that_is_not_there_is_not_read(tmp_path):
    with pytest.raises(StoreError, match="no such store; the phase `prepare` makes it"):
        StoreReader(tmp_path / "s")
    create(tmp_path / "s")
    with pytest.raises(StoreError, match="row 3 is not there"):
        StoreReader(tmp_path / "s").read(3)


def test_a_store_above_the_cap_is_refused_before_anything_is_written(tmp_path):
    create(tmp_path / "stores/a")
    fill(tmp_path / "stores/a", range(COUNT))
    with pytest.raises(
        StoreError, match=r"needs 2\.40 GB; .*machine\.store_gb, 2\. Raise it \(.*\), store less, or remove.*stores/a"
    ):
        match_all(lambda: create(tmp_path / "stores/b", cap_gb=2.0, count=10**8, advice="store less"))
    with pytest.raises(StoreError, match=r"Raise it \(--machine\.store_gb\) or remove stores that no run needs"):
        create(tmp_path / "stores/b", cap_gb=2.0, count=10**8)
    assert not (tmp_path / "stores/b/rows.npy").exists()
    create(tmp_path / "stores/a", cap_gb=0.0)  # one that is there stays, whatever the cap


def match_all(make):
    """One line, so that a pattern can reach over the list of stores."""
    try:
        make()
    except StoreError as error:
        raise StoreError(str(error).replace("\n", " ")) from None


def test_a_disk_without_room_is_said_before_and_while_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: Usage())
    with pytest.raises(StoreError, match=r"the disk has 0\.00 GB left"):
        create(tmp_path / "a", count=10**6)
    monkeypatch.undo()
    create(tmp_path / "a")
    monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match=r"could not be written \(No space left on device\)"):
        fill(tmp_path / "a", [0])
    monkeypatch.undo()
    assert len(StoreReader(tmp_path / "a").missing(np.arange(COUNT))) == COUNT


class Usage:
    free = 0


def test_values_that_float16_cannot_hold_are_refused(tmp_path):
    create(tmp_path / "a")
    writer = StoreWriter(tmp_path / "a")
    with pytest.raises(StoreError, match="not finite in float16"):
        writer.write(np.array([0]), np.full((1, *SHAPE), np.inf, DTYPE))
    with pytest.raises(StoreError, match="where it has"):
        writer.write(np.array([0]), np.zeros((1, 3, 2, 3), DTYPE))


def test_a_copy_for_a_worker_opens_the_files_itself(tmp_path):
    create(tmp_path / "a")
    fill(tmp_path / "a", [5])
    copied = pickle.loads(pickle.dumps(StoreReader(tmp_path / "a")))
    np.testing.assert_array_equal(copied.read(5), value(5))
