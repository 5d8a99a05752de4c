"""A card's evidence by the EHR's login, held to the attacks of SMART App Launch: reuse, mix-up, swap and forgery."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from evidence_house import START
from joserfc.jwk import ECKey, OctKey
from launch_house import REFRESH, Browser, Launching, launch_house, query_of

DECIDING = "2.6 mg/dL"
"""The creatinine the card of contrast.py rests on: it stands on the evidence page and nowhere else."""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Launching]:
    with launch_house(tmp_path) as made:
        yield made


def refused(answer: requests.Response, status: int, said: str) -> None:
    assert (answer.status_code, said in answer.text) == (status, True), answer.text
    assert DECIDING not in answer.text


def test_the_card_of_an_ehr_that_launches_us_has_a_smart_link_and_no_key_in_it(house: Launching) -> None:
    link = house.link()
    assert (link["type"], link["url"]) == ("smart", f"{house.base}/launch")
    id_, _, key = link["appContext"].partition(".")
    assert (len(id_), len(key)) == (22, 43)


@pytest.mark.parametrize("confidential", [True, False])
def test_the_ehrs_launch_opens_the_evidence_of_its_patient(tmp_path: Path, confidential: bool) -> None:
    with launch_house(tmp_path, confidential=confidential) as house:
        browser, context = Browser(), house.link()["appContext"]
        shown = browser.go(house.opens(house.ehr, context))
        assert shown.status_code == 200
        assert DECIDING in shown.text
        assert shown.url == f"{house.base}/evidence/{context.partition('.')[0]}"
        assert DECIDING in browser.get(shown.url, timeout=20).text
        refused(requests.get(shown.url, timeout=20), 410, "opened already")
        (form,) = house.ehr.forms
        assert ("client_assertion" in form) is confidential


def test_the_evidence_cookie_stays_strict_and_the_logins_own_ends(house: Launching) -> None:
    browser = Browser()
    back = browser.stop_at(house.opens(house.ehr, house.link()["appContext"]), "/launch/callback")
    (flow,) = [cookie for cookie in browser.cookies if cookie.name.startswith("ordersight-launch-")]
    assert flow.path == "/launch"
    answer = browser.get(back, timeout=20)
    set_ = answer.headers["Set-Cookie"]
    assert "SameSite=Strict" in set_
    assert "HttpOnly" in set_
    assert not [cookie for cookie in browser.cookies if cookie.name.startswith("ordersight-launch-")]


def test_opening_is_audited_with_the_user_as_hooks_name_them(house: Launching) -> None:
    Browser().go(house.opens(house.ehr, house.link()["appContext"]))
    told = house.audited()
    assert told[0]["launched"] == "north"
    assert told[0]["row"]["user_key"] == house.app.extensions["ordersight"].state.key("user", "north", "Practitioner/7")
    assert [row["row"]["service"] for row in told] == ["imaging-safety"] * 2


def test_a_state_is_good_once_and_so_is_a_code(house: Launching) -> None:
    browser = Browser()
    back = browser.stop_at(house.opens(house.ehr, house.link()["appContext"]), "/launch/callback")
    cookies = dict(browser.cookies)
    assert DECIDING in browser.go(back).text
    refused(requests.get(back, cookies=cookies, timeout=20), 403, "This login is over")
    # The code again, under a login of the attacker's own.
    attacker = Browser()
    own = query_of(attacker.stop_at(house.opens(house.ehr, house.link()["appContext"]), "/launch/callback"))
    used = query_of(back)["code"]
    again = attacker.go(f"{house.base}/launch/callback?{urlencode(own | {'code': used})}")
    refused(again, 403, "did not confirm")


def test_a_stolen_code_is_worth_nothing_without_the_browsers_verifier(house: Launching) -> None:
    victim, thief = Browser(), Browser()
    stolen = query_of(victim.stop_at(house.opens(house.ehr, house.link()["appContext"]), "/launch/callback"))["code"]
    own = query_of(thief.stop_at(house.opens(house.ehr, house.link()["appContext"]), "/launch/callback"))
    refused(thief.go(f"{house.base}/launch/callback?{urlencode(own | {'code': stolen})}"), 403, "did not confirm")


def test_the_way_back_is_for_the_browser_that_was_sent(house: Launching) -> None:
    """Login CSRF: an attacker's answer, clicked by somebody else."""
    back = Browser().stop_at(house.opens(house.ehr, house.link()["appContext"]), "/launch/callback")
    refused(Browser().go(back), 403, "This login is over")
    assert house.ehr.forms == []


def test_a_login_is_over_after_ten_minutes(house: Launching) -> None:
    browser = Browser()
    back = browser.stop_at(house.opens(house.ehr, house.link()["appContext"]), "/launch/callback")
    house.clock.forward(minutes=10)
    refused(browser.go(back), 403, "This login is over")


def test_another_patient_in_the_chart_sees_nothing_and_that_is_audited(house: Launching) -> None:
    context = house.link()["appContext"]
    for patient in ("p2", "", None):
        refused(Browser().go(house.opens(house.ehr, context, patient)), 403, "not of the patient in your chart")
    (told,) = [row for row in house.audited() if row.get("refused") == "another patient"][-1:]
    assert "p2" not in str(told)
    assert DECIDING in Browser().go(house.opens(house.ehr, context)).text  # nothing was spent


def test_another_tenants_ehr_sees_nothing_though_it_has_a_patient_of_that_id(house: Launching) -> None:
    context = house.link()["appContext"]
    refused(Browser().go(house.opens(house.other, context)), 403, "not of the patient in your chart")
    assert [row.get("refused") for row in house.audited("south")] == ["another tenant's evidence"]


def test_an_unknown_ehr_is_neither_contacted_nor_gone_to(house: Launching) -> None:
    host = house.ehr.origin.removeprefix("http://")
    for issuer in ("https://evil.example.org/fhir", f"http://{host}@evil.example.org/fhir", house.ehr.origin, ""):
        answer = requests.get(f"{house.base}/launch", {"iss": issuer, "launch": "x"}, timeout=20, allow_redirects=False)
        refused(answer, 404, "opened by the EHR")
        assert "evil" not in answer.text
    assert house.ehr.asked == []


def test_no_address_out_of_a_request_becomes_a_place_to_go(house: Launching) -> None:
    """Open redirects: what names another address is passed over."""
    more = "&redirect_uri=https://evil.example.org&aud=https://evil.example.org&state=x"
    sent = Browser().stop_at(house.opens(house.ehr, house.link()["appContext"]) + more, "/authorize")
    assert "evil" not in sent
    asked = query_of(sent)
    assert asked["redirect_uri"] == f"{house.base}/launch/callback"
    assert asked["aud"] == house.ehr.fhir
    assert asked["code_challenge_method"] == "S256"


def test_a_configuration_that_names_an_authorize_page_elsewhere_is_not_followed(house: Launching) -> None:
    house.ehr.configuration["authorization_endpoint"] = "https://evil.example.org/authorize"
    answer = Browser().go(house.opens(house.ehr, "x"))
    refused(answer, 503, "does not answer as it should")
    assert "evil" not in answer.text


@pytest.mark.parametrize("methods", [..., ["plain"], "S256"])
def test_a_server_that_does_not_check_pkce_is_not_used(house: Launching, methods: Any) -> None:
    house.ehr.configuration["code_challenge_methods_supported"] = methods
    refused(Browser().go(house.opens(house.ehr, "x")), 403, "PKCE")


@pytest.mark.parametrize("issuer", ["https://evil.example.org", "", None])
def test_an_answer_of_another_issuer_is_not_redeemed(house: Launching, issuer: str | None) -> None:
    """Mix-up: RFC 9207 section 2.4, also where the `iss` that was promised is missing."""
    browser = Browser()
    told = query_of(browser.stop_at(house.opens(house.ehr, house.link()["appContext"]), "/launch/callback"))
    told.pop("iss")
    answer = browser.go(f"{house.base}/launch/callback?{urlencode(told | ({} if issuer is None else {'iss': issuer}))}")
    refused(answer, 403, "from another system")
    assert house.ehr.forms == []


STRANGE_CLAIMS: list[dict[str, Any]] = [
    {"iss": "https://evil.example.org"},
    {"iss": ...},
    {"aud": "another-app"},
    {"aud": ["ordersight", "another-app"]},
    {"aud": ["ordersight", "another-app"], "azp": "another-app"},
    {"azp": "another-app"},
    {"aud": ...},
    {"nonce": "of another login"},
    {"nonce": ...},
    {"exp": START.timestamp() - 61},
    {"exp": "tomorrow"},
    {"iat": START.timestamp() - 86_400},
    {"iat": ...},
    {"sub": ""},
    {"sub": 7},
]


def test_an_id_token_for_another_app_login_or_time_opens_nothing(house: Launching) -> None:
    context = house.link()["appContext"]
    for changes in STRANGE_CLAIMS:
        house.ehr.changed["claims"] = changes
        refused(Browser().go(house.opens(house.ehr, context)), 403, "did not confirm")
    house.ehr.changed["claims"] = {"aud": ["ordersight", "another-app"], "azp": "ordersight"}
    assert DECIDING in Browser().go(house.opens(house.ehr, context)).text


def test_an_id_token_that_is_not_the_servers_opens_nothing(house: Launching) -> None:
    own, stranger = house.ehr.key, ECKey.generate_key("P-384")
    public = str(own.as_dict(private=False)).encode()
    forgeries: list[tuple[Any, dict[str, Any]]] = [
        (stranger, {"alg": "ES384", "kid": own.kid}),
        (stranger, {"alg": "ES384", "kid": "unknown"}),
        (stranger, {"alg": "ES384", "kid": own.kid, "jwk": stranger.as_dict(private=False)}),
        (OctKey.import_key(public), {"alg": "HS256", "kid": own.kid}),
        (own, {"alg": "ES384"}),
        (own, {"alg": "ES384", "kid": own.kid, "typ": "at+jwt"}),
    ]
    for signer in forgeries:
        house.ehr.signer = signer
        refused(Browser().go(house.opens(house.ehr, house.link()["appContext"])), 403, "did not confirm")
    house.ehr.signer = None
    for token in (..., "", "a.b.c", 7, f"{house.ehr.id_token('ordersight', 'x').rpartition('.')[0]}."):
        house.ehr.changed["id_token"] = token
        refused(Browser().go(house.opens(house.ehr, house.link()["appContext"])), 403, "did not confirm")
    house.ehr.changed.clear()
    assert DECIDING in Browser().go(house.opens(house.ehr, house.link()["appContext"])).text


def test_a_launch_without_a_cards_evidence_shows_none(house: Launching) -> None:
    real = house.link()["appContext"]
    wrong = real[:-1] + ("A" if real[-1] != "A" else "E")
    for context in (None, "", "x", wrong, f"{'A' * 22}.{real.partition('.')[2]}"):
        refused(Browser().go(house.opens(house.ehr, context)), 404, "no such evidence")
    refused(Browser().go(house.opens(house.ehr, real).partition("&")[0]), 400, "sent no launch")


def test_a_login_that_was_refused_says_so_and_spends_nothing(house: Launching) -> None:
    browser = Browser()
    told = query_of(browser.stop_at(house.opens(house.ehr, house.link()["appContext"]), "/launch/callback"))
    denied = {"state": told["state"], "iss": told["iss"], "error": "access_denied", "error_description": "<b>evil</b>"}
    answer = browser.go(f"{house.base}/launch/callback?{urlencode(denied)}")
    refused(answer, 403, "did not allow it")
    assert "evil" not in answer.text


def test_a_hanging_token_endpoint_ends_in_time_and_health_checks_are_answered_meanwhile(house: Launching) -> None:
    house.ehr.hang_s = 10.0
    browser = Browser()
    back = browser.stop_at(house.opens(house.ehr, house.link()["appContext"]), "/launch/callback")
    started = time.monotonic()
    answer = browser.go(back)
    assert time.monotonic() - started < 6
    refused(answer, 503, "does not answer")
    assert answer.headers["Retry-After"]
    assert requests.get(f"{house.base}/healthz", timeout=2).status_code == 200


def test_an_ehr_that_only_opens_addresses_asks_for_a_login_before_it_shows(tmp_path: Path) -> None:
    with launch_house(tmp_path, link="absolute") as house:
        link = house.link()
        assert link["type"] == "absolute"
        address, _, key = link["url"].partition("#")
        house.ehr.configuration["authorization_endpoint"] = "https://evil.example.org/authorize"
        refused(requests.post(address, {"key": key}, timeout=20), 503, "does not answer as it should")
        house.ehr.configuration.clear()
        house.app.extensions["ordersight"].backend.directory._known.clear()
        refused(requests.post(address, {"key": key[:-1] + "_"}, timeout=20), 404, "no such evidence")
        house.ehr.launches[""] = {"patient": "p2"}
        refused(Browser().follow(requests.post(address, {"key": key}, timeout=20)), 403, "This login is over")
        browser = Browser()
        sent = browser.post(address, {"key": key}, timeout=20)
        found = REFRESH.search(sent.text)
        assert found is not None
        assert query_of(html.unescape(found[1]))["scope"] == "launch/patient openid fhirUser"
        refused(browser.follow(sent), 403, "not of the patient")
        house.ehr.launches[""] = {"patient": "p1"}
        shown = browser.follow(browser.post(address, {"key": key}, timeout=20))
        assert DECIDING in shown.text


def test_keys_of_ours_are_served_without_what_signs(house: Launching) -> None:
    answer = requests.get(f"{house.base}/.well-known/jwks.json", timeout=20)
    (key,) = answer.json()["keys"]
    assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("EC", "P-384", "ES384", "sig")
    assert "d" not in key


def test_the_servers_new_key_is_found_when_it_rotates(house: Launching) -> None:
    assert DECIDING in Browser().go(house.opens(house.ehr, house.link()["appContext"])).text
    keys = house.app.extensions["ordersight"].verifier.keys
    house.ehr.key = ECKey.generate_key("P-384", {"kid": "as-2", "use": "sig"})
    ahead = time.monotonic() + 61  # the cool-down between two readings of a key set
    keys._clock = lambda: ahead
    assert DECIDING in Browser().go(house.opens(house.ehr, house.link()["appContext"])).text
