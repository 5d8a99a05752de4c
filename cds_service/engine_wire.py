"""What a web worker and the engine's process say to each other over a Unix socket: frames of MessagePack.

A frame is its length, four bytes, big-endian, and one message. Arrays travel as dtype, shape and bytes, nothing else:
what is read is typed by the contract, and nothing of it can run.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.contract import Assessment, Depth, EncodedFilm, FusionInput, InputSpec

LENGTH = struct.Struct(">I")
MOST_BYTES = 64 * 1024 * 1024
"""Five films of 1,024 pixels square are 20 MB; whoever announces more than this speaks something else."""

Refusal = Literal["busy", "timeout", "input", "out-of-memory", "failed"]


class Follow(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Say `Here`; on a connection that stays, from now on every second and when another model answers.

    `wanted` is the digest to answer with by the manifest's name, for replicas that cannot ask the database.
    """

    wanted: tuple[tuple[str, str], ...] = ()


class Assess(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """`Engine.assess` of the model with these weights."""

    digest: str
    inputs: FusionInput
    targets: tuple[str, ...] | None
    depth: Depth
    timeout_s: float


class Encode(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """`Engine.encode` of the model with these weights."""

    digest: str
    pixels: NDArray[np.float32]
    timeout_s: float


class Explain(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """`Engine.explain` of the model with these weights."""

    digest: str
    pixels: NDArray[np.float32]
    finding: str
    timeout_s: float


class Model(msgspec.Struct, frozen=True, array_like=True):
    """What a worker has to know of an engine before it asks."""

    key: str
    name: str
    digest: str
    device: str
    encoder: str
    depths: frozenset[Depth]
    spec: InputSpec


class Here(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The models that answer now, by the names of the manifests; `busy_s` is the age of the oldest batch under way."""

    models: tuple[Model, ...]
    busy_s: float


class Assessed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    assessment: Assessment


class Encoded(msgspec.Struct, frozen=True, array_like=True, tag=True):
    film: EncodedFilm


class Explained(msgspec.Struct, frozen=True, array_like=True, tag=True):
    parts: NDArray[np.float32]


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """`why` is the engine's own sentence for `input`, and the name of an error's class otherwise."""

    kind: Refusal
    why: str


Asked = Follow | Assess | Encode | Explain
Said = Here | Assessed | Encoded | Explained | Refused


class BadFrame(Exception):
    """What came is no message of ours, or the other side went in the middle of one."""


def _array_out(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, np.ascontiguousarray(value).data
    raise TypeError(f"{type(value).__name__} is not sent")


def _array_in(kind: Any, value: Any) -> Any:
    dtype, shape, content = value
    # A copy, since what is read from bytes cannot be written to, and torch wants that it could.
    return np.frombuffer(content, np.dtype(dtype)).reshape(shape).copy()


_encoder = msgspec.msgpack.Encoder(enc_hook=_array_out)
asked: msgspec.msgpack.Decoder[Asked] = msgspec.msgpack.Decoder(Asked, dec_hook=_array_in)
said: msgspec.msgpack.Decoder[Said] = msgspec.msgpack.Decoder(Said, dec_hook=_array_in)
M = TypeVar("M")


def encode(message: Asked | Said) -> bytes:
    """One message without its length, as the body of an HTTP request has one already."""
    return _encoder.encode(message)


def send(sock: socket.socket, message: Asked | Said) -> None:
    """Raises OSError, TimeoutError among them."""
    content = encode(message)
    sock.sendall(LENGTH.pack(len(content)) + content)


def receive(sock: socket.socket, decoder: msgspec.msgpack.Decoder[M], until: float | None = None) -> M:
    """The next message, by `until` on the monotonic clock. Raises BadFrame, OSError, or TimeoutError."""
    (length,) = LENGTH.unpack(_exactly(sock, LENGTH.size, until))
    if length > MOST_BYTES:
        raise BadFrame("a frame is longer than any message of ours")
    try:
        return decoder.decode(_exactly(sock, length, until))
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise BadFrame(f"a frame is no message of ours ({type(error).__name__})") from None


def _exactly(sock: socket.socket, count: int, until: float | None) -> bytearray:
    content = bytearray(count)
    view, got = memoryview(content), 0
    while got < count:
        if until is not None:
            left = until - time.monotonic()
            if left <= 0.0:
                raise TimeoutError
            sock.settimeout(left)
        taken = sock.recv_into(view[got:])
        if not taken:
            raise BadFrame("the other side has gone")
        got += taken
    return content
