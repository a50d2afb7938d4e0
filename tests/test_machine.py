"""What is asked of the machine: that glibc keeps what is freed, and whether bfloat16 is imitated."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from fgbench import machine

FAULTS = """
import resource, sys, torch
from fgbench.machine import keep_memory
if sys.argv[1] == "kept" and not keep_memory():
    sys.exit(3)
def use():
    return [torch.ones(2**24) for _ in range(3)]  # 64 MiB each
for _ in range(12):  # until the pieces that are kept fit
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, timeout=120)
    if done.returncode == 3:
        pytest.skip("another C library")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_that_was_used_before_comes_without_the_kernel():
    kept = faults("kept")
    assert kept < 100 < faults("as it is")


@pytest.mark.parametrize(("most", "told"), [
    (2**31, [(-3, 2**31 - 1), (-1, -1)]),
    (2**25, [(-3, 2**31 - 1), (-3, 2**25), (-1, -1)]),
    (0, [(-3, 2**31 - 1), (-3, 2**25)]),
])  # fmt: skip
def test_the_second_threshold_is_told_only_where_the_first_one_is_taken(most, told, monkeypatch):
    calls = []

    def mallopt(name, value):
        calls.append((name, value))
        return int(value <= most)

    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    assert machine.keep_memory() == (most > 0)
    assert calls == told


def test_another_c_library_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: object())
    assert not machine.keep_memory()


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("supported", [False, True])
def test_bfloat16_is_imitated_where_onednn_is_not_there_or_has_none(there, supported, monkeypatch):
    asked = SimpleNamespace(mkldnn=SimpleNamespace(_is_mkldnn_bf16_supported=lambda: supported))
    monkeypatch.setattr(machine.torch, "ops", asked)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: there)
    assert machine.imitates_bf16() == (not (there and supported))


def test_this_build_of_torch_can_be_asked():
    assert machine.imitates_bf16() in (False, True)
