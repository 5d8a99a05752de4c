"""What every JSON text from outside must be before anything reads it: one meaning, and a size we can carry."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

DEPTH_LIMIT = 64
"""FHIR resources in a Bundle in a hook stay below 30."""
CONTAINER_LIMIT = 500_000
"""Objects and arrays in one text; 10 MB of real resources hold about 220,000."""
BOM = b"\xef\xbb\xbf"

_DIGITS = bytes(ord("0") if chr(byte) in "0123456789" else ord(" ") for byte in range(256))
_LONG_INTEGER = b"0" * 20
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class BadJson(ValueError):
    """The text is not JSON we read. The message is ours and holds nothing of the text."""


def parse(text: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Python's own parser takes NaN, UTF-16, lone surrogates and infinite numbers, keeps the last of two equal keys and
    raises RecursionError; orjson refuses all of these but equal keys and U+0000, which are looked for here.
    Raises BadJson.
    """
    # Each of them takes two bytes at least, so most texts are too short to have too many.
    if len(text) > 2 * CONTAINER_LIMIT and text.count(b"{") + text.count(b"[") > CONTAINER_LIMIT:
        # Before parsing: 20 MB of `{}` are 578 MB as Python objects.
        raise BadJson(f"the body has more than {CONTAINER_LIMIT} objects and arrays")
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadJson("the body is not JSON in UTF-8") from None
    escaped = b"\\" in text
    if escaped and b"\\u0000" in text and _NUL.search(text):
        raise BadJson("the body has U+0000 in a string")
    # Of two equal keys the first is dropped with its colon, and written again the value has fewer; only a colon that
    # stands as \u003a could make up for it.
    fewer = _written_again(value).count(b":") != text.count(b":")
    if fewer or (escaped and b"\\u003" in text) or _LONG_INTEGER in text.translate(_DIGITS):
        # What stands in a string may look like a number; only now is the slower, exact look needed.
        _look_closely(text)
    return value


def _nest(value: Any, deep: int) -> Any:
    for _ in range(deep):
        value = [value]
    return value


def _deepest() -> int:
    """How deep a value may be that orjson writes: 254 today."""
    deep = DEPTH_LIMIT
    while True:
        try:
            orjson.dumps(_nest(None, deep + 1))
        except orjson.JSONEncodeError:
            return deep
        deep += 1


_WRAPPED = _deepest() - DEPTH_LIMIT


def _written_again(value: Any) -> bytes:
    """The value as JSON, inside so many arrays that orjson itself refuses one nested too deep: a walk costs ten times
    as much."""
    try:
        return orjson.dumps(_nest(value, _WRAPPED))
    except orjson.JSONEncodeError:
        raise BadJson(f"the body is nested more than {DEPTH_LIMIT} deep") from None


def _look_closely(text: bytes) -> None:
    def unique(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) != len(pairs):
            raise BadJson("an object of the body has the same key twice")

    def short(digits: str) -> None:
        # orjson turns integers beyond 64 bits into rounded floats.
        if len(digits.lstrip("-")) > 19:
            raise BadJson("the body has an integer of more than 19 digits")

    json.loads(text, object_pairs_hook=unique, parse_int=short)
