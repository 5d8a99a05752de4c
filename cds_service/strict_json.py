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

_KEY = re.compile(rb'"\s*:')
_SPACED_COLONS = (b" :", b"\t:", b"\n:", b"\r:")
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
    if text.count(b"{") + text.count(b"[") > CONTAINER_LIMIT:
        # Before parsing: 20 MB of `{}` are 578 MB as Python objects.
        raise BadJson(f"the body has more than {CONTAINER_LIMIT} objects and arrays")
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadJson("the body is not JSON in UTF-8") from None
    if b"\\u0000" in text and _NUL.search(text):
        raise BadJson("the body has U+0000 in a string")
    if _count_members(value) != _count_keys(text) or _LONG_INTEGER in text.translate(_DIGITS):
        # What stands in a string may look like a key or a number; only now is the slower, exact look needed.
        _look_closely(text)
    return value


def _count_keys(text: bytes) -> int:
    """At least the number of keys; more where a string holds a colon after a quotation mark."""
    if any(spaced in text for spaced in _SPACED_COLONS):
        return len(_KEY.findall(text))
    return text.count(b'":')


def _count_members(value: Any) -> int:
    members, depth, level = 0, 0, [value]
    while level:
        if depth == DEPTH_LIMIT and any(type(item) in (dict, list) for item in level):
            raise BadJson(f"the body is nested more than {DEPTH_LIMIT} deep")
        depth += 1
        inner: list[Any] = []
        for item in level:
            if type(item) is dict:
                members += len(item)
                inner.extend(item.values())
            elif type(item) is list:
                inner.extend(item)
        level = inner
    return members


def _look_closely(text: bytes) -> None:
    def unique(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) != len(pairs):
            raise BadJson("an object of the body has the same key twice")

    def short(digits: str) -> None:
        # orjson turns integers beyond 64 bits into rounded floats.
        if len(digits.lstrip("-")) > 19:
            raise BadJson("the body has an integer of more than 19 digits")

    json.loads(text, object_pairs_hook=unique, parse_int=short)
