"""The child process that decodes frames: `python -m cds_service.decode_worker`, spoken to over file descriptor 0.

Image decoders are C libraries fed by strangers, so they run where a crash, an endless loop or a request for gigabytes
costs one film. The child holds one frame and nothing else: no token, no record, no open file, no model. Nor can it get
any: it may open no further descriptor, which every file and every connection to anywhere would need.
"""

from __future__ import annotations

import contextlib
import math
import resource
import socket
import struct

import numpy as np

from fhir_mappers.pixels import RLE, BadPixels, Grid, to_native

HEAD = struct.Struct(">64s5IQ")
"""One job: transfer syntax padded with NUL, rows, columns, allocated, stored, signed, length of the frame after it."""
READY, PIXELS, REFUSED = b"R", b"P", b"X"
"""Sent once at the start; before the native pixels, of which there are as many as the grid says; instead of them."""
MEMORY = 1 << 30
"""Bytes of address space. The largest chest films, 20 megapixels in JPEG 2000, take a third of it."""
CPU_S = 10


def limit(kind: int, most: int) -> None:
    """Lower a limit of this process, for good."""
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with contextlib.suppress(ValueError, OSError):  # a platform without this limit
        resource.setrlimit(kind, (most, most))


def limit_cpu_time() -> None:
    """So many seconds from now on: the limit itself counts from the start of the process."""
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used) + CPU_S, hard))


def receive(sock: socket.socket, size: int) -> bytearray | None:
    """Exactly `size` bytes, or None where the other side has gone."""
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        more = sock.recv_into(view[got:])
        if not more:
            return None
        got += more
    return data


def serve(sock: socket.socket) -> None:
    """Decode until the other side goes."""
    sock.sendall(READY)
    while (head := receive(sock, HEAD.size)) is not None:
        syntax, rows, columns, allocated, stored, signed, length = HEAD.unpack(head)
        frame = receive(sock, length)
        if frame is None:
            return
        limit_cpu_time()
        grid = Grid(rows, columns, allocated, stored, bool(signed))
        try:
            pixels = to_native(bytes(frame), syntax.rstrip(b"\0").decode("ascii"), grid)
        except (BadPixels, MemoryError):
            sock.sendall(REFUSED)
            continue
        sock.sendall(PIXELS)
        sock.sendall(np.ascontiguousarray(pixels).data.cast("B"))


def confine() -> None:
    """No core file, no writing, bounded memory, and from now on no new descriptor: neither file nor network."""
    # The last of the decoders to be loaded, as each is at its first use.
    to_native(struct.pack("<16I", 1, 64, *[0] * 14) + b"\0\0", RLE, Grid(1, 1, 8, 8, signed=False))
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CORE, 0),  # a core file would hold a patient's film
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        limit(kind, most)


def main() -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=0) as sock:
        confine()
        serve(sock)


if __name__ == "__main__":
    main()
