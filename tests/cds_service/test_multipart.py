"""The first part of a multipart body, in whatever pieces it comes; and Content-Types as archives write them."""

from __future__ import annotations

import pytest

from cds_service.multipart import FirstPart, first_part, media_type

PIXELS = bytes(range(256)) * 4


def multipart(data: bytes, part_type: str = "", length: bool = True) -> bytes:
    headers = [f"Content-Type: {part_type}"] if part_type else []
    headers += [f"Content-Length: {len(data)}"] if length else []
    head = "".join(f"{line}\r\n" for line in headers).encode()
    return b"--b0\r\n" + head + b"\r\n" + data + b"\r\n--b0--\r\n"


@pytest.mark.parametrize("step", [1, 7, 100])
@pytest.mark.parametrize(
    ("body", "content"),
    [
        (multipart(PIXELS, "image/jp2"), PIXELS),
        (multipart(PIXELS, "image/jp2", length=False), PIXELS),
        (multipart(PIXELS + b"\r\n--b0\r\n" + PIXELS), PIXELS + b"\r\n--b0\r\n" + PIXELS),
        (multipart(PIXELS + b"\r\n--b", length=False), PIXELS + b"\r\n--b"),
        (b"--b0\r\nContent-Length: 3\r\n\r\n" + PIXELS + b"\r\n--b0--", PIXELS),
        (b"--b0\r\nContent-Length: 99999\r\n\r\n" + PIXELS + b"\r\n--b0--", PIXELS),
        (b"said before\r\n" + multipart(PIXELS)[:-4] + b"\r\n\r\nsecond\r\n--b0--", PIXELS),
        (b"--b0\r\n\r\n" + PIXELS + b"\r\n--b0--", PIXELS),
    ],
    ids=["length", "no length", "delimiter inside", "half of one", "too short", "too long", "preamble", "no headers"],
)
def test_a_part_is_the_same_in_whatever_pieces_its_body_comes(body: bytes, content: bytes, step: int) -> None:
    part = FirstPart("b0")
    for at in range(0, len(body), step):
        part.feed(body[at : at + step])
    assert part.content() == first_part(body, "b0")[1] == content


def test_parameters_are_read_with_and_without_quotes() -> None:
    assert media_type('a/b; X="1;2"; y = 3 ;z="q\\"q"')[0] == "a/b"
    assert media_type('a/b; X="1;2"; y = 3')[1] == {"x": "1;2", "y": "3"}
