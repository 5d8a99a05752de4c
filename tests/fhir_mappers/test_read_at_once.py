"""Resources read by several threads at once, from the first one on."""

from __future__ import annotations

import subprocess
import sys

TWO_AT_ONCE = """
import threading
from fhir_mappers import fhir, r4

begun, second_is_through = threading.Event(), threading.Event()


def whole_number():
    # What msgspec asks of the module while it works the type out: the first reader is held up here, half-way.
    begun.set()
    second_is_through.wait(0.3)
    return int


class Inner(r4.Part, frozen=True):
    value: "whole_number()" = 0


class Outer(r4.Part, frozen=True):
    inner: Inner | None = None
    name: str = ""


names = []


def read():
    names.append(fhir.read({"name": "x", "inner": {"value": 1}}, Outer).name)


first = threading.Thread(target=read)
first.start()
assert begun.wait(30)
read()
second_is_through.set()
first.join()
print(*names)
"""


def test_a_type_that_two_threads_read_first_at_the_same_time_is_read_by_both() -> None:
    """In a process of its own, which the fault would end (SIGSEGV)."""
    done = subprocess.run([sys.executable, "-c", TWO_AT_ONCE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["x", "x"]), done.stderr
