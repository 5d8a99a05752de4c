"""One meaning for every JSON text from outside."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cds_service.strict_json import CONTAINER_LIMIT, DEPTH_LIMIT, BadJson, parse

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_ordinary_json_means_what_it_says(value: object, escaped: bool) -> None:
    assert parse(json.dumps(value, ensure_ascii=escaped).encode()) == value


@given(st.binary(max_size=60))
def test_no_bytes_whatever_raise_anything_else(text: bytes) -> None:
    try:
        parse(text)
    except BadJson as error:
        assert str(error).startswith("the body")  # noqa: PT017


def test_the_limits_are_where_they_say() -> None:
    parse(b"[" * DEPTH_LIMIT + b"]" * DEPTH_LIMIT)
    parse(b"[" * DEPTH_LIMIT + b"1" + b"]" * DEPTH_LIMIT)
    with pytest.raises(BadJson, match="nested"):
        parse(b"[" * (DEPTH_LIMIT + 1) + b"]" * (DEPTH_LIMIT + 1))
    parse(b"[" + b"{}," * (CONTAINER_LIMIT - 2) + b"{}]")
    with pytest.raises(BadJson, match="more than 500000"):
        parse(b"[" + b"{}," * (CONTAINER_LIMIT - 1) + b"{}]")


def test_a_key_given_twice_at_any_depth_is_refused() -> None:
    # The last two make up for the lost colon with one that is written as an escape, in either case.
    for text in (
        b'{"a":1,"a":1}',
        b'[{"b":{"c":1,"\\u0063" : 2}}]',
        b'{"a":"\\u003a","a":"\\u003a"}',
        b'{"a":1,"a":"\\u003A"}',
    ):
        with pytest.raises(BadJson, match="same key twice"):
            parse(text)


@given(
    st.lists(st.sampled_from(["", " ", "\n", "\t ", "\r"]), min_size=4, max_size=4),
    st.sampled_from(["1", '": x"', '"\\":"']),
)
def test_no_white_space_hides_a_key_given_twice(space: list[str], value: str) -> None:
    a, b, c, d = space
    with pytest.raises(BadJson, match="same key twice"):
        parse(f'{{"k"{a}:{b}{value},"k"{c}:{d}{value}}}'.encode())
    parse(f'{{"k"{a}:{b}{value},"l"{c}:{d}{value}}}'.encode())


def test_a_sign_is_no_digit_and_digits_in_a_string_are_no_number() -> None:
    """Found by schemathesis: -1152921504606846976 was refused where a string of the body looked like a key."""
    parse(b'{"a":-1152921504606846976,"b":"\\":"}')
    parse(b'{"a":"99999999999999999999"}')
    for long in (b"12345678901234567890", b"-12345678901234567890"):
        with pytest.raises(BadJson, match="more than 19 digits"):
            parse(b'{"a":' + long + b"}")
