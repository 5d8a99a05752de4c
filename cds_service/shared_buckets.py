"""`SharedBuckets`: what each caller has left to use, in a file that all web workers of one service map."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
import threading
import time
from pathlib import Path

from cds_service.admission import BURST_S
from cds_service.deadline import Monotonic

SLOTS = 4096
SLOT = struct.Struct("<16sdd")
"""Who, as a hash; points left; when that was, by the monotonic clock, which all processes of a machine share."""


class SharedBuckets:
    """As `TokenBuckets`, for several processes: whichever of them a caller's connections reach, its share is one."""

    def __init__(self, path: Path, points_per_s: float, clock: Monotonic = time.monotonic) -> None:
        self._rate, self._most = points_per_s, points_per_s * BURST_S
        self._clock = clock
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, SLOTS * SLOT.size)
        self._slots = mmap.mmap(self._file, SLOTS * SLOT.size)
        self._lock = threading.Lock()

    def take(self, caller: str, points: float) -> float:
        """0.0 and the points are taken; else the seconds until there are so many, and nothing is taken."""
        who = hashlib.blake2b(caller.encode(), digest_size=16).digest()
        with self._lock:
            # flock is the process's: the lock beside it keeps this process's own threads apart.
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                now = self._clock()
                offset, left, at = self._find(who, now)
                left = min(self._most, left + (now - at) * self._rate)
                enough = left >= points
                SLOT.pack_into(self._slots, offset, who, left - points if enough else left, now)
                return 0.0 if enough else (points - left) / self._rate
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _find(self, who: bytes, now: float) -> tuple[int, float, float]:
        """The caller's slot, or a free one with a full bucket; of a full table the first, which loses its owner."""
        first = int.from_bytes(who[:4], "little") % SLOTS
        for step in range(SLOTS):
            offset = (first + step) % SLOTS * SLOT.size
            owner, left, at = SLOT.unpack_from(self._slots, offset)
            if owner == who:
                return offset, left, at
            if owner == bytes(16):
                return offset, self._most, now
        return first * SLOT.size, self._most, now
