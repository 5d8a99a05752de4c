"""Evidence links held to the attacks they must refuse: guessing, replay, sharing, waiting, stealing the database."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from evidence_house import Evidence, at_once, parts, post_key, words_of

from cds_service.pages.seal import known_as
from cds_service.state.engines import maintenance_engine, read_url
from cds_service.trust.clients import Client


def flipped(text: str, at: int) -> str:
    """Another character of the same alphabet in one place."""
    alphabet = string.ascii_letters + string.digits + "-_"
    other = alphabet[(alphabet.index(text[at]) + 1) % len(alphabet)]
    return text[:at] + other + text[at + 1 :]


def get(url: str, session: requests.Session | None = None) -> requests.Response:
    return (session or requests).get(url, timeout=20)  # type: ignore[no-any-return]


def run_sql(house: Evidence, sql: str, **values: object) -> list[tuple[object, ...]]:
    with maintenance_engine(read_url(f"sqlite:///{house.folder / 'state.sqlite'}")).begin() as conn:
        found = conn.exec_driver_sql(sql, tuple(values.values()))
        return [tuple(row) for row in found] if found.returns_rows else []


def test_the_link_holds_random_bits_and_nothing_of_the_patient(house: Evidence) -> None:
    link = house.link()
    address, key = parts(link)
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", urlsplit(address).path.removeprefix("/evidence/"))  # 128 bits in base64
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", key)  # 256 bits
    assert urlsplit(link).query == ""
    assert house.link() != link
    evidence = house.cards[0]["links"][0]
    assert (evidence["label"], evidence["type"]) == ("Evidence", "absolute")


def test_following_the_link_alone_spends_nothing_and_shows_nothing(house: Evidence) -> None:
    """Mail scanners, previews and prefetch follow links; the part after # never reaches a server."""
    address, _ = parts(house.link())
    for _ in range(3):
        answer = get(address)
        assert answer.status_code == 200
        assert "2.6 mg/dL" not in answer.text
        assert "p1" not in words_of(answer.text)
    assert "Set-Cookie" not in get(address).headers


def test_the_key_opens_it_and_that_browser_may_reload(house: Evidence) -> None:
    link = house.link()
    session = house.opened(link)
    again = get(parts(link)[0], session)
    assert again.status_code == 200
    assert "2.6 mg/dL" in again.text
    cookie = next(iter(session.cookies))
    assert cookie.path == urlsplit(link).path
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "Strict"


def test_a_second_browser_is_told_it_was_opened_already(house: Evidence) -> None:
    link = house.link()
    house.opened(link)
    for answer in (get(parts(link)[0]), post_key(requests, link)):
        assert answer.status_code == 410
        assert "opened already" in words_of(answer.text)
        assert "2.6 mg/dL" not in answer.text


def test_of_many_who_open_at_once_exactly_one_succeeds(house: Evidence) -> None:
    link = house.link()
    get(parts(link)[0])  # by now it is kept
    statuses = at_once(8, lambda: post_key(requests.Session(), link).status_code)
    assert sorted(statuses) == [200] + [410] * 7


@pytest.mark.parametrize("place", [0, 10, 21])
def test_one_character_of_the_address_flipped_is_not_found(house: Evidence, place: int) -> None:
    address, key = parts(house.link())
    start, _, id_ = address.rpartition("/")
    wrong = f"{start}/{flipped(id_, place)}"
    assert get(wrong).status_code == 404
    assert post_key(requests, f"{wrong}#{key}").status_code == 404


@pytest.mark.parametrize("place", [0, 21, 42])
def test_one_character_of_the_key_flipped_is_not_found_and_spends_nothing(house: Evidence, place: int) -> None:
    link = house.link()
    address, key = parts(link)
    wrong = post_key(requests, f"{address}#{flipped(key, place)}")
    unknown = post_key(requests, f"{address[:-22]}{'A' * 22}#{key}")
    assert wrong.status_code == unknown.status_code == 404
    assert wrong.text == unknown.text
    assert house.opened(link)


@pytest.mark.parametrize("key", ["", "short", "A" * 43, "é" * 43, "A" * 10_000, "../../etc/passwd"])
def test_whatever_is_sent_as_a_key_is_not_found(house: Evidence, key: str) -> None:
    assert post_key(requests, f"{parts(house.link())[0]}#{key}").status_code == 404


def test_a_wrong_key_does_not_tell_that_the_link_was_opened(house: Evidence) -> None:
    link = house.link()
    house.opened(link)
    address, key = parts(link)
    assert post_key(requests, f"{address}#{flipped(key, 5)}").status_code == 404


def test_after_fifteen_minutes_it_is_gone_for_everybody(house: Evidence) -> None:
    link, unopened = house.link(), house.link()
    session = house.opened(link)
    house.clock.forward(minutes=14, seconds=59)
    assert get(parts(link)[0], session).status_code == 200
    house.clock.forward(seconds=1)
    for answer in (get(parts(link)[0], session), post_key(session, link), post_key(requests, unopened)):
        assert answer.status_code == 410
        assert "expired" in words_of(answer.text)


def test_what_has_expired_is_wiped_from_the_database_and_after_a_day_forgotten(house: Evidence) -> None:
    link = house.link()
    get(parts(link)[0])
    store = house.app.extensions["ordersight"].evidence.store
    house.clock.forward(minutes=15)
    assert store.sweep(house.clock()) == 1
    assert run_sql(house, "SELECT page, films, patient_key FROM evidence") == [(None, None, "")]
    assert get(parts(link)[0]).status_code == 410
    house.clock.forward(days=1, seconds=1)
    store.sweep(house.clock())
    assert get(parts(link)[0]).status_code == 404


def test_whoever_has_the_database_reads_neither_link_nor_patient(house: Evidence) -> None:
    link = house.link()
    session = house.opened(link)
    address, key = parts(link)
    id_ = address.rpartition("/")[2]
    held = next(iter(session.cookies)).value or ""
    stored = b"".join(p.read_bytes() for p in house.folder.iterdir() if p.is_file())
    assert known_as(id_).encode() in stored
    for secret in (id_, key, held.partition(".")[2], "creatinine", "2.6 mg/dL", "Observation/o1", "metformin"):
        assert secret.encode() not in stored


def test_evidence_moved_to_another_tenants_row_does_not_open(house: Evidence) -> None:
    link = house.link()
    get(parts(link)[0])
    run_sql(house, "UPDATE evidence SET tenant = 'someone else'")
    assert post_key(requests, link).status_code == 404


def test_one_patients_cookie_does_not_open_another_patients_evidence(house: Evidence) -> None:
    first, second = house.link(), house.link()
    session = house.opened(first)
    held = next(iter(session.cookies)).value or ""
    answer = requests.get(parts(second)[0], cookies={"evidence": held}, timeout=20)
    assert answer.status_code == 200
    assert "2.6 mg/dL" not in answer.text
    house.opened(second)
    assert requests.get(parts(second)[0], cookies={"evidence": held}, timeout=20).status_code == 410


def test_every_opening_is_in_the_audit_chain_and_no_secret_is(house: Evidence) -> None:
    link = house.link()
    house.clock.forward(seconds=40)
    house.opened(link)
    store = house.app.extensions["ordersight"].state
    rows = [line for line in store.export_audit() if b'"kind":"evidence"' in line]
    assert len(rows) == 1
    assert house.cards[0]["uuid"].encode() in rows[0]
    assert b'\\"seconds_after_card\\":40' in rows[0]
    assert store.key("patient", "anonymous", "p1").encode() in rows[0]
    assert not any(part.encode() in rows[0] for part in (parts(link)[1], parts(link)[0].rpartition("/")[2]))
    assert store.verify_audit().ok


def test_every_page_is_uncached_unreferred_unframed_and_runs_nothing_inline(house: Evidence) -> None:
    link = house.link()
    session = house.opened(link)
    pages = [get(parts(link)[0], session), get(parts(link)[0]), get(f"{house.base}/evidence/{'A' * 22}")]
    for answer in pages:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son[a-z]+=|javascript:", answer.text)


def test_an_ehr_that_is_registered_may_show_its_own_in_a_frame(house_with: Callable[..., Evidence]) -> None:
    # Whom nobody checked has this tenant.
    clients = [
        Client("anonymous", (), framed_by=("https://ehr.example.org",)),
        Client("b", (), framed_by=("https://b.example.org",)),
    ]
    house = house_with(clients=clients, base_url="https://cds.example.org/hospital")
    link = house.link()
    assert link.startswith("https://cds.example.org/hospital/evidence/")
    here = link.replace("https://cds.example.org/hospital", house.base)
    answer = requests.post(parts(here)[0], {"key": parts(here)[1]}, allow_redirects=False, timeout=20)
    assert answer.status_code == 303
    assert answer.headers["Location"] == parts(here)[0].rpartition("/")[2]
    assert "frame-ancestors https://ehr.example.org;" in answer.headers["Content-Security-Policy"]
    assert "X-Frame-Options" not in answer.headers
    cookie = answer.headers["Set-Cookie"]
    # A cookie inside a frame of another site comes back only so (RFC 6265bis, CHIPS).
    assert all(part in cookie for part in ("SameSite=None", "Secure", "Partitioned", "HttpOnly"))
    assert f"Path={urlsplit(link).path}" in cookie
    strange = get(f"{house.base}/evidence/{'A' * 22}").headers["Content-Security-Policy"]
    assert "frame-ancestors https://ehr.example.org https://b.example.org;" in strange  # nobody's data is on it


def test_a_store_that_is_gone_is_said_to_be_away_for_the_moment(house: Evidence, tmp_path: Path) -> None:
    link = house.link()
    get(parts(link)[0])
    run_sql(house, "ALTER TABLE evidence RENAME TO elsewhere")
    answer = get(parts(link)[0])
    assert answer.status_code == 503
    assert "try again" in words_of(answer.text)
    assert "elsewhere" not in answer.text
