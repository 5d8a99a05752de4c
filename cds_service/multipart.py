"""`FirstPart`: the first part of a multipart body (RFC 2046), read as the body comes, so that a film is held once.

The reader is our own: the transfer syntax of a frame stands in the header of its part, which clients throw away, and
archives quote the outer Content-Type in ways that strict parsers refuse (COMPONENTS: Orthanc).
"""

from __future__ import annotations

import io
import re

MAX_PART_HEADER = 4096
_PARAMETER = re.compile(r';\s*([A-Za-z-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s]*)')


class BadAnswer(ValueError):
    """The archive's answer is not what DICOMweb says. The message holds nothing of it."""


def media_type(header: str) -> tuple[str, dict[str, str]]:
    """A Content-Type and its parameters, names in lower case.

    `type="image/jp2; transfer-syntax=1.2"` is read as Orthanc means it: the quotes hold a type and its parameter.
    """
    type_, _, _ = header.partition(";")
    parameters = {name.lower(): value.strip('"') for name, value in _PARAMETER.findall(header)}
    inner = parameters.get("type", "")
    if ";" in inner:
        parameters["type"] = inner.partition(";")[0].strip()
        for name, value in _PARAMETER.findall(inner):
            parameters.setdefault(name.lower(), value.strip('"'))
    return type_.strip().lower(), parameters


class FirstPart:
    """Fed with the pieces of a body. `headers` have their names in lower case; `done` once the part has ended.

    A part's Content-Length is believed where the delimiter does follow it: pixels may hold the delimiter's bytes.
    """

    def __init__(self, boundary: str) -> None:
        """Raises BadAnswer for what is no boundary."""
        if not 0 < len(boundary) <= 70:
            raise BadAnswer("no boundary")
        self.headers: dict[str, str] = {}
        self.done = False
        self._delimiter = b"--" + boundary.encode("ascii", "replace")
        self._closing = b"\r\n" + self._delimiter
        self._head: bytearray | None = bytearray()
        self._content = io.BytesIO()
        self._size = 0
        self._length: int | None = None
        self._tail = b""
        """The end of what came, which may be the beginning of a delimiter."""

    def feed(self, piece: bytes) -> None:
        """Raises BadAnswer where no part begins. What follows the part is not looked at."""
        if self._head is None:
            self._take(piece)
            return
        self._head += piece
        begins = self._begins(self._head)
        if begins is not None:
            rest = bytes(self._head[begins:])
            self._head = None
            self._take(rest)

    def content(self) -> bytes:
        """Raises BadAnswer for a part that is empty or has not ended."""
        if not self.done and self._length is not None:
            self._search()
        if not self.done or not self._size:
            raise BadAnswer("a part that is empty or never ends")
        # Of a buffer that nobody else holds this is no copy.
        return self._content.getvalue()

    def _begins(self, head: bytearray) -> int | None:
        """Where the content of the part begins, its headers read; None where more has to come. Raises BadAnswer."""
        start = 0
        if not head.startswith(self._delimiter):
            start = head.find(self._closing, 0, MAX_PART_HEADER) + 2
            if start < 2:
                return _more(head, MAX_PART_HEADER, "no part begins")
        line = head.find(b"\r\n", start) + 2
        if line < 2:
            return _more(head, start + MAX_PART_HEADER, "no part at all")
        if head.startswith(b"--", start + len(self._delimiter)):
            raise BadAnswer("no part at all")
        if head.startswith(b"\r\n", line):
            return line + 2
        end = head.find(b"\r\n\r\n", line, line + MAX_PART_HEADER)
        if end < 0:
            return _more(head, line + MAX_PART_HEADER, "a part without an end to its headers")
        lines = head[line:end].decode("latin-1").split("\r\n")
        self.headers = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
        length = self.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and len(length) < 12:
            self._length = int(length)
        return end + 4

    def _take(self, piece: bytes) -> None:
        if self.done:
            return
        if self._length is not None:
            self._content.write(piece)
            self._size += len(piece)
            if self._size >= self._length + len(self._closing):
                self._search()
            return
        window = self._tail + piece
        at = window.find(self._closing)
        if at >= 0:
            self._end(self._size - len(self._tail) + at, piece)
            return
        self._content.write(piece)
        self._size += len(piece)
        self._tail = window[1 - len(self._closing) :]

    def _search(self) -> None:
        """End the part where its Content-Length says, if a delimiter stands there; else at the first there is."""
        length, self._length = self._length, None
        held = self._content.getvalue()
        at = length if length is not None and held.startswith(self._closing, length) else held.find(self._closing)
        self._tail = held[1 - len(self._closing) :]
        del held
        if at >= 0:
            self._end(at)

    def _end(self, size: int, piece: bytes = b"") -> None:
        if size > self._size:
            self._content.write(piece[: size - self._size])
        self._content.truncate(size)
        self._size, self.done = size, True


def _more(head: bytearray, most: int, why: str) -> int | None:
    """None, for as long as more may come."""
    if len(head) >= most:
        raise BadAnswer(why)
    return None


def first_part(body: bytes, boundary: str) -> tuple[dict[str, str], bytes]:
    """Headers (names in lower case) and content of the first part of a whole body. Raises BadAnswer."""
    part = FirstPart(boundary)
    part.feed(body)
    return part.headers, part.content()
