from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cds_service.trust.origins import (
    Base,
    NotAllowed,
    Resolver,
    address_allowed,
    parse,
    read_base,
    same_base,
    system_lookup,
)

EHR = read_base("https://ehr.example.org/fhir/R4")


@pytest.mark.parametrize(
    "url",
    [
        "https://ehr.example.org/fhir/R4",
        "https://ehr.example.org/fhir/R4/",
        "https://ehr.example.org:443/fhir/R4",
        "HTTPS://EHR.Example.ORG/fhir/R4",
    ],
)
def test_the_registered_base_is_recognised_in_every_spelling_that_means_the_same(url: str) -> None:
    assert same_base(EHR, url)


@pytest.mark.parametrize(
    "url",
    [
        "http://ehr.example.org/fhir/R4",
        "https://ehr.example.org:8443/fhir/R4",
        "https://ehr.example.org/fhir",
        "https://ehr.example.org/fhir/r4",
        "https://ehr.example.org/fhir/R4/x",
        "https://ehr.example.org/fhir/R4?x=1",
        "https://ehr.example.org/fhir/R4#x",
        "https://ehr.example.org/fhir//R4",
        "https://ehr.example.org/x/../fhir/R4",
        "https://ehr.example.org/%2e%2e/fhir/R4",
        "https://ehr.example.org/fhir%2FR4",
        "https://ehr.example.org./fhir/R4",
        "https://ehr.example.org@evil.example.net/fhir/R4",
        "https://evil.example.net@ehr.example.org/fhir/R4",
        "https://ehr.example.org:pw@evil.example.net/fhir/R4",
        "https://evil.example.net\\@ehr.example.org/fhir/R4",
        "https:\\\\ehr.example.org\\fhir\\R4",
        "https://ehr.example.org.evil.example.net/fhir/R4",
        "https://evil.example.net/ehr.example.org/fhir/R4",
        "https://evil.example.net#ehr.example.org/fhir/R4",
        "https://evil.example.net?ehr.example.org/fhir/R4",
        "https:///ehr.example.org/fhir/R4",
        "//ehr.example.org/fhir/R4",
        " https://ehr.example.org/fhir/R4",
        "https://ehr.example.org/fhir/R4\n",
        "https://ehr.example.org\t/fhir/R4",
        "https://ehr.ｅxample.org/fhir/R4",
        "https://ehr.example。org/fhir/R4",
        "https://ehr.example.org:0443/fhir/R4/..",
        "https://ehr.example.org:99999/fhir/R4",
        "ftp://ehr.example.org/fhir/R4",
        "file:///fhir/R4",
        "",
    ],
)
def test_no_other_spelling_passes_for_the_registered_base(url: str) -> None:
    assert not same_base(EHR, url)


LOCAL = read_base("http://127.0.0.1:8080/fhir")


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.0.2", "[::1]", "[::ffff:127.0.0.1]", "localhost"]
)
def test_another_spelling_of_an_address_is_another_host(host: str) -> None:
    assert same_base(LOCAL, "http://127.0.0.1:8080/fhir")
    assert not same_base(LOCAL, f"http://{host}:8080/fhir")


@pytest.mark.parametrize(
    ("link", "below"),
    [
        ("https://ehr.example.org/fhir/R4/Observation?page=2", "Observation?page=2"),
        ("https://ehr.example.org/fhir/R4?_getpages=abc&_bundletype=searchset", "?_getpages=abc&_bundletype=searchset"),
        ("/fhir/R4/Observation?page=2", "Observation?page=2"),
        ("Observation?code=http://loinc.org|2160-0", "Observation?code=http://loinc.org|2160-0"),
        ("?page=2", "?page=2"),
        ("Endpoint/e1", "Endpoint/e1"),
    ],
)
def test_a_link_below_the_base_is_rebuilt_from_the_base(link: str, below: str) -> None:
    assert EHR.below(link) == below
    assert EHR.url(below).startswith("https://ehr.example.org/fhir/R4")


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example.net/fhir/R4/Observation?page=2",
        "http://ehr.example.org/fhir/R4/Observation?page=2",
        "https://ehr.example.org:8443/fhir/R4/Observation?page=2",
        "https://ehr.example.org/fhir/R4evil/Observation?page=2",
        "https://ehr.example.org/other/Observation?page=2",
        "https://ehr.example.org/fhir/R4/../admin",
        "https://ehr.example.org/fhir/R4/%2e%2e/admin",
        "//evil.example.net/fhir/R4/Observation",
        "/\\evil.example.net/fhir/R4/Observation",
        "/admin",
        "../admin",
        "..%2Fadmin",
        "https:evil.example.net",
        "javascript:alert(1)",
        "https://ehr.example.org@evil.example.net/fhir/R4/Observation",
        "Observation?page=2 HTTP/1.1\r\nHost: evil.example.net",
    ],
)
def test_a_link_that_leads_elsewhere_is_not_followed(link: str) -> None:
    with pytest.raises(NotAllowed):
        EHR.below(link)


@pytest.mark.parametrize(
    "below", ["../admin", "Patient/..", "/etc", "Patient/a#b", "a b", "Patient//x", "Patient/%2e."]
)
def test_no_path_of_ours_leaves_the_base(below: str) -> None:
    with pytest.raises(NotAllowed):
        EHR.url(below)


def test_what_was_refused_is_not_repeated_in_the_message() -> None:
    with pytest.raises(NotAllowed) as refused:
        parse("https://someone:secret-1234@ehr.example.org/")
    assert "secret-1234" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "plain", "private"),
    [
        ("93.184.216.34", True, True),
        ("2606:2800:220:1::1", True, True),
        ("10.1.2.3", False, True),
        ("172.16.0.1", False, True),
        ("192.168.1.1", False, True),
        ("100.64.0.1", False, True),  # carrier-grade NAT, RFC 6598
        ("fd00::1", False, True),
        ("::ffff:10.1.2.3", False, True),
        ("64:ff9b::a01:203", False, True),  # NAT64 of 10.1.2.3, RFC 6052
        ("2002:a01:203::1", False, True),  # 6to4 of 10.1.2.3, RFC 3056
        ("169.254.169.254", False, False),  # cloud metadata
        ("fe80::1%eth0", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("127.0.0.1", False, False),
        ("::1", False, False),
        ("0.0.0.0", False, False),
        ("224.0.0.1", False, False),
        ("240.0.0.1", False, False),
    ],
)
def test_a_name_may_lead_to_public_addresses_and_to_private_ones_only_where_the_entry_says_so(
    address: str, plain: bool, private: bool
) -> None:
    assert address_allowed(EHR, address) is plain
    assert address_allowed(read_base("https://ehr.example.org/fhir/R4", True), address) is private


def test_a_name_that_begins_like_a_loopback_address_is_a_name() -> None:
    base = Base("https", "127.0.0.1.example.net", 443, "")
    assert not base.loopback
    assert not address_allowed(base, "127.0.0.1")


def test_a_name_of_this_machine_is_not_asked_of_a_name_server() -> None:
    def never(host: str, port: int) -> list[str]:
        raise AssertionError(host)

    assert Resolver(never).addresses(read_base("http://localhost:8080/fhir"), 1.0) == ("127.0.0.1", "::1")


def test_only_the_addresses_that_pass_the_check_are_left_to_connect_to() -> None:
    resolver = Resolver(lambda host, port: ["169.254.169.254", "93.184.216.34", "10.0.0.1"])
    assert resolver.addresses(EHR, 30.0) == ("93.184.216.34",)
    with pytest.raises(NotAllowed):
        Resolver(lambda host, port: ["10.0.0.1"]).addresses(EHR, 1.0)


def test_a_slow_name_server_costs_the_time_given_and_one_thread_however_many_wait() -> None:
    release, lookups = threading.Event(), []

    def slow(host: str, port: int) -> list[str]:
        lookups.append(host)
        release.wait(60)
        return ["93.184.216.34"]

    resolver = Resolver(slow)

    def wait(_: int) -> str:
        try:
            return resolver.addresses(EHR, 0.1)[0]
        except TimeoutError:
            return "late"

    started = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(wait, range(8))) == {"late"}
    assert time.monotonic() - started < 5
    release.set()
    assert resolver.addresses(EHR, 1.0) == ("93.184.216.34",)
    assert lookups == ["ehr.example.org"]


def test_an_unknown_name_is_asked_again_at_the_next_call() -> None:
    answers: list[list[str] | OSError] = [OSError("no such name"), ["93.184.216.34"]]

    def lookup(host: str, port: int) -> list[str]:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    resolver = Resolver(lookup)
    with pytest.raises(OSError, match="no such name"):
        resolver.addresses(EHR, 1.0)
    assert resolver.addresses(EHR, 1.0) == ("93.184.216.34",)
    assert resolver.addresses(EHR, 1.0) == ("93.184.216.34",)  # kept: there is no third answer


def test_a_name_that_does_not_exist_is_an_error_of_the_operating_system() -> None:
    with pytest.raises(OSError):
        system_lookup("nowhere.invalid", 443)  # RFC 6761: .invalid is never registered
