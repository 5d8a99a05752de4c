"""Where an answer's record goes while the database cannot take it: a local file, reserved beforehand, synced each time.

Each process holds one file by a lock; what a killed process left behind is taken up by whoever finds it unlocked.
A record is its length and CRC-32, little-endian, then its JSON; a length of zero ends the file.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from cds_service.state.errors import StateUnavailable
from cds_service.state.keys import sync_folder

log = logging.getLogger("cds_service.state")
HEADER = struct.Struct("<II")
END = HEADER.pack(0, 0)
MIB = 1024 * 1024
Replay = Callable[[list[bytes]], None]
"""Stores records durably, each at most once however often it comes; raises StateUnavailable to try again later."""


class Outbox:
    """One process's file. Every record in it is durable when `append` returns; `depth` of them wait."""

    def __init__(self, path: Path, handle: int, capacity: int) -> None:
        self.path = path
        self._handle = handle
        self._capacity = capacity
        self._lock = threading.Lock()
        self._replaying = threading.Lock()
        self._start = 0
        self._end = 0
        self._since: float | None = None
        self.depth = 0
        for record in self._read(0):
            self._end += HEADER.size + len(record)
            self.depth += 1
            self._since = time.monotonic()

    @classmethod
    def open(cls, folder: Path, capacity: int) -> Outbox:
        """Take the first file nobody holds, and reserve its space. Raises StateUnavailable when that cannot be had."""
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(1000):
            path = folder / f"outbox-{number}.log"
            try:
                handle = _held(path)
                if handle is None:
                    continue
                os.posix_fallocate(handle, 0, capacity)
                os.fsync(handle)
                sync_folder(folder)
            except OSError as error:
                raise StateUnavailable(
                    f"{capacity // MIB} MiB for the audit outbox could not be reserved ({error.strerror})"
                ) from None
            return cls(path, handle, capacity)
        raise StateUnavailable("too many processes hold an outbox in this folder")

    @property
    def free(self) -> float:
        return 1 - self._end / self._capacity

    @property
    def oldest_s(self) -> float:
        since = self._since
        return time.monotonic() - since if since is not None else 0.0

    def append(self, record: bytes) -> None:
        """Make `record` durable. Raises StateUnavailable when the file is full or the disk does not take it."""
        entry = HEADER.pack(len(record), zlib.crc32(record)) + record + END
        with self._lock:
            if self._end + len(entry) > self._capacity:
                raise StateUnavailable("the audit outbox is full")
            try:
                written = os.pwrite(self._handle, entry, self._end)
                if written != len(entry):
                    raise OSError("short write")
                os.fdatasync(self._handle)
            except OSError as error:
                raise StateUnavailable(
                    f"the audit outbox cannot be written ({error.strerror or 'cut short'})"
                ) from None
            self._end += len(entry) - len(END)
            self.depth += 1
            if self._since is None:
                self._since = time.monotonic()

    def replay(self, store: Replay) -> int:
        """Hand over what waits; forget it only when `store` returned. Returns how many records that were."""
        with self._replaying:
            with self._lock:
                records, upto = list(self._read(self._start)), self._end
            if records:
                store(records)
            with self._lock:
                self._start = upto
                self.depth -= len(records)
                if self._end == upto:
                    if upto:
                        self._clear()
                else:
                    # Only the first part is stored; after a crash it comes again, and is known by its ids.
                    self._since = time.monotonic()
        return len(records)

    def close(self) -> None:
        os.close(self._handle)

    def _clear(self) -> None:
        try:
            os.pwrite(self._handle, END, 0)
            os.fdatasync(self._handle)
        except OSError as error:
            log.warning("outbox not cleared", extra={"fields": {"error": error.strerror}})
            return
        self._start = self._end = 0
        self._since = None

    def _read(self, offset: int) -> Iterator[bytes]:
        while True:
            length, crc = HEADER.unpack(os.pread(self._handle, HEADER.size, offset).ljust(HEADER.size, b"\0"))
            if not length or offset + HEADER.size + length > self._capacity:
                return
            record = os.pread(self._handle, length, offset + HEADER.size)
            if len(record) != length or zlib.crc32(record) != crc:
                return  # cut short by a crash, so never acknowledged
            yield record
            offset += HEADER.size + length


def adopt(folder: Path, store: Replay) -> int:
    """Replay the files of processes that are no more. Returns how many records that were."""
    count = 0
    for path in sorted(folder.glob("outbox-*.log")):
        handle = _held(path)
        if handle is None:
            continue
        orphan = Outbox(path, handle, os.fstat(handle).st_size)
        try:
            count += orphan.replay(store)
        finally:
            orphan.close()
    return count


def waiting(folder: Path) -> bool:
    """Whether any file of this folder, held or not, still has a record that may not be in the database."""
    for path in folder.glob("outbox-*.log"):
        with path.open("rb") as file:
            if file.read(HEADER.size).ljust(HEADER.size, b"\0") != END:
                return True
    return False


def _held(path: Path) -> int | None:
    """The file opened and locked by us, or None where another process has it. The lock ends with the process."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except BaseException:  # whatever ends this, the lock must not outlive it
        os.close(handle)
        raise
    return handle
