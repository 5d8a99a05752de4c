"""`Decoders`: films decoded in child processes that may be killed without harm.

    decoders = Decoders()                                   # once per app
    with decoders.native(evidence.dicom, deadline) as films:
        read_record(resources, films.files, ...)

What leaves here is uncompressed, so that everything after it is plain arithmetic. Frames that came uncompressed are
passed on as they are: no decoder touches them.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Literal

from cds_service.deadline import Deadline
from cds_service.decode_worker import HEAD, PIXELS, READY
from cds_service.evidence import DicomFile, Shortfall
from fhir_mappers.imaging import grid_to_decode
from fhir_mappers.pixels import EXPLICIT_LE, UNCOMPRESSED, Grid

log = logging.getLogger(__name__)

PIXELS_AT_ONCE = 80_000_000
"""Of all calls together, from before decoding until a call ends: each costs up to 6 bytes here."""

AFTERWARDS_S = 10e-9
"""For each pixel, kept back from decoding: the grey scale is still to come, and takes a third of this when idle."""

Outcome = Literal["decoded", "refused", "crashed", "late", "busy"]


@dataclass(frozen=True, slots=True)
class Films:
    """Films to read on with, and what is missing of those that were fetched."""

    files: tuple[DicomFile, ...]
    shortfalls: tuple[Shortfall, ...] = ()


class _Gone(Exception):
    """The child died while it decoded."""


class _Worker:
    """One child process. Used by one thread at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cds_service.decode_worker"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )
        self._socket = ours
        self._ready = False

    def decode(self, file: DicomFile, grid: Grid, deadline: Deadline) -> bytes | None:
        """The native pixels, or None for a frame that holds no such image. Raises TimeoutError or _Gone."""
        signed = int(grid.signed)
        syntax = file.transfer_syntax.encode("ascii")
        head = HEAD.pack(syntax, grid.rows, grid.columns, grid.allocated, grid.stored, signed, len(file.frame))
        try:
            self._send(head, deadline)
            self._send(file.frame, deadline)
            if not self._ready:
                self._ready = self._receive(1, deadline) == READY
            if self._receive(1, deadline) != PIXELS:
                return None
            return self._receive(grid.count * grid.allocated // 8, deadline)
        except TimeoutError:
            raise
        except OSError:
            raise _Gone from None

    def _send(self, data: bytes, deadline: Deadline) -> None:
        self._socket.settimeout(_left(deadline))
        self._socket.sendall(data)  # its time-out is for all of it

    def _receive(self, size: int, deadline: Deadline) -> bytes:
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            self._socket.settimeout(_left(deadline))
            more = self._socket.recv_into(view[got:])
            if not more:
                raise _Gone
            got += more
        return bytes(data)

    def kill(self) -> None:
        self._socket.close()
        with suppress(OSError):
            self.process.kill()


class Decoders:
    """A few children, half as many as there are cores, and how many pixels may be under way. Shared by all threads.

    A child that is late or dies is replaced at once. `counts` says what came of the films so far.
    """

    def __init__(self, workers: int | None = None, pixels_at_once: int = PIXELS_AT_ONCE) -> None:
        self._most = workers or max(1, (os.cpu_count() or 1) // 2)
        self._changed = threading.Condition()
        self._idle: list[_Worker] = []
        self._started = 0
        self._dying: list[_Worker] = []
        self._pixels_left = pixels_at_once
        self._closed = False
        self.counts: Counter[Outcome] = Counter()

    def warm(self) -> None:
        """Start the children before the first film: each takes a few tenths of a second to come up."""
        with self._changed:
            while self._started < self._most:
                self._started += 1
                self._idle.append(_Worker())

    def close(self) -> None:
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
        for worker in idle:
            self._bury(worker)
        for worker in self._dying:
            worker.process.wait()

    @contextmanager
    def native(self, files: Sequence[DicomFile], deadline: Deadline) -> Iterator[Films]:
        """The same films uncompressed. Held until the end of `with`: the room their pixels take.

        A film that is no such image comes back empty, and is refused where it is read. One for which there was no
        time or no room is left out, and missing.
        """
        taken, kept, missing = 0, [], []
        try:
            for file in files:
                grid = grid_to_decode(file)
                if grid is None:
                    kept.append(file)  # the reader refuses it by name, without touching its pixels
                    continue
                by = deadline.leaving(grid.count * AFTERWARDS_S)
                if not self._take_room(grid.count, by):
                    self.counts["busy"] += 1
                    missing.append(Shortfall("films", "no-time"))
                    continue
                taken += grid.count
                decoded = file if file.transfer_syntax in UNCOMPRESSED else self._decode(file, grid, by)
                if decoded is None:
                    missing.append(Shortfall("films", "no-time"))
                else:
                    kept.append(decoded)
            yield Films(tuple(kept), tuple(dict.fromkeys(missing)))
        finally:
            with self._changed:
                self._pixels_left += taken
                self._changed.notify_all()

    def _take_room(self, pixels: int, deadline: Deadline) -> bool:
        with self._changed:
            if not self._changed.wait_for(lambda: self._pixels_left >= pixels, deadline.remaining()):
                return False
            self._pixels_left -= pixels
            return True

    def _decode(self, file: DicomFile, grid: Grid, deadline: Deadline) -> DicomFile | None:
        """The film uncompressed, empty if it is none, or None without the time to tell."""
        worker = self._borrow(deadline)
        if worker is None:
            self.counts["late"] += 1
            return None
        outcome: Outcome = "crashed"
        pixels: bytes | None = None
        try:
            pixels = worker.decode(file, grid, deadline)
            outcome = "refused" if pixels is None else "decoded"
        except TimeoutError:
            outcome = "late"
        except _Gone:
            log.warning("decoder died", extra={"fields": {"transferSyntax": file.transfer_syntax}})
        finally:
            self._give_back(worker, usable=outcome in ("decoded", "refused"))
            self.counts[outcome] += 1
        if outcome == "late":
            return None
        return replace(file, frame=pixels or b"", transfer_syntax=EXPLICIT_LE)

    def _borrow(self, deadline: Deadline) -> _Worker | None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._idle or self._started < self._most, deadline.remaining()):
                return None
            if self._idle:
                return self._idle.pop()
            self._started += 1
        return _Worker()

    def _give_back(self, worker: _Worker, *, usable: bool) -> None:
        if not usable:
            self._bury(worker)
            worker = _Worker()
        with self._changed:
            if not self._closed:
                self._idle.append(worker)
                self._changed.notify_all()
                return
        self._bury(worker)

    def _bury(self, worker: _Worker) -> None:
        """Kill now, and collect what the system keeps of it later: a large process takes a while to go."""
        worker.kill()
        with self._changed:
            self._dying = [w for w in (*self._dying, worker) if w.process.poll() is None]


def _left(deadline: Deadline) -> float:
    left = deadline.remaining()
    if left <= 0.0:
        raise TimeoutError
    return left


def _environment() -> dict[str, str]:
    """No secret of ours; one thread for each child, as there is one film."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
