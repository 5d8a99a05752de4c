"""Login to the console at an OpenID provider: who gets in, under which role, and which forgeries do not."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from authorization import App, Authorization, authorization_server
from console_house import ConsoleHouse, console_house
from joserfc.jwk import ECKey, OctKey
from launch_house import Browser, query_of
from playwright.sync_api import Browser as Chromium

from cds_service.settings import Settings, SettingsError

SECRET = "s3cret:with /odd+signs"
SUBJECT = "248289761001"
CALLBACK = "/admin/oidc/callback"

Make = Callable[..., tuple[ConsoleHouse, Authorization]]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """A console on a fixed port with an identity provider on another site, as a browser sees it."""
    with ExitStack() as stack:

        def made(**settings: Any) -> tuple[ConsoleHouse, Authorization]:
            provider = stack.enter_context(authorization_server("localhost"))
            secret = tmp_path / "secret"
            secret.touch(0o600)
            secret.write_text(SECRET + "\n")
            given = {
                "oidc_issuer": provider.issuer,
                "oidc_client_id": "console",
                "oidc_secret_file": secret,
                "oidc_view": ("cds-readers",),
                "oidc_change": ("cds-admins",),
            }
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            house = stack.enter_context(
                console_house(tmp_path, base_url=f"http://127.0.0.1:{port}", port=port, **(given | settings))
            )
            provider.clock = lambda: house.clock().timestamp()
            provider.apps["console"] = App("console", f"{house.base}{CALLBACK}", secret=SECRET)
            provider.user = {"sub": SUBJECT, "preferred_username": "grace", "groups": ["staff", "cds-admins"]}
            return house, provider

        yield made


def refused(answer: requests.Response, said: str = "did not succeed") -> None:
    assert (answer.status_code, said in answer.text) == (403, True), answer.text


def entered(house: ConsoleHouse, browser: Browser | None = None) -> requests.Response:
    return (browser or Browser()).go(f"{house.base}/admin/oidc")


def test_the_provider_opens_the_console_under_the_role_of_its_groups(make: Make) -> None:
    house, provider = make()
    assert 'href="/admin/oidc">Log in at localhost' in requests.get(f"{house.base}/admin/login", timeout=20).text
    for groups, role in ((["cds-admins", "cds-readers"], "change"), (["cds-readers"], "view"), ("cds-readers", "view")):
        provider.user["groups"] = groups
        shown = entered(house)
        assert shown.status_code == 200
        assert f"grace (oidc {SUBJECT}), may {role}" in shown.text
    assert all(form["code_verifier"] for form in provider.forms)


def test_a_role_is_read_below_a_path_or_from_a_claim_whose_name_has_dots(make: Make) -> None:
    house, provider = make(oidc_role_claim="realm_access.roles")
    provider.user |= {"realm_access": {"roles": ["cds-readers"]}}
    assert "may view" in entered(house).text
    del provider.user["realm_access"]
    provider.user["realm_access.roles"] = ["cds-admins"]
    assert "may change" in entered(house).text


@pytest.mark.parametrize("groups", [["staff"], [], None, 7, {"cds-admins": True}, [["cds-admins"]], "cds-admins,x"])
def test_without_a_group_that_has_a_role_nobody_gets_in_and_it_is_audited(make: Make, groups: Any) -> None:
    house, provider = make()
    provider.user["groups"] = groups
    browser = Browser()
    refused(entered(house, browser), "none of your groups")
    assert browser.get(f"{house.base}/admin", timeout=20).url.endswith("/admin/login")
    assert house.audited()[-1] == {
        "kind": "admin",
        "who": f"grace (oidc {SUBJECT})",
        "did": "login refused",
        "way": "oidc",
        "subject": SUBJECT,
        "why": "no group with a role",
    }


def test_login_changes_and_logout_are_audited_under_the_providers_subject(make: Make) -> None:
    house, provider = make()
    provider.user["preferred_username"] = "ada"  # a local admin's name, which anybody may choose at a provider
    browser = Browser()
    page = entered(house, browser).text
    csrf = page.split('name="csrf" value="')[1][:64]
    switched = {"csrf": csrf, "scope": "product", "state": "off", "why": "drill"}
    assert browser.post(f"{house.base}/admin/switch", switched, timeout=20).status_code == 200
    browser.post(f"{house.base}/admin/logout", {"csrf": csrf}, timeout=20)
    assert browser.get(f"{house.base}/admin", timeout=20).url.endswith("/admin/login")
    name = f"ada (oidc {SUBJECT})"
    assert house.state.switch_history()[0].who == name
    assert [(a["who"], a["did"]) for a in house.audited() if a["kind"] == "admin"] == [
        (name, "login"),
        (name, "logout"),
    ]
    assert SECRET not in str(house.audited())


def test_who_may_look_may_not_change(make: Make) -> None:
    house, provider = make()
    provider.user["groups"] = ["cds-readers"]
    browser = Browser()
    csrf = entered(house, browser).text.split('name="csrf" value="')[1][:64]
    form = {"csrf": csrf, "scope": "product", "state": "off", "why": "x"}
    refused(browser.post(f"{house.base}/admin/switch", form, timeout=20), "may look, not change")


def test_the_session_has_the_rules_of_every_other(make: Make) -> None:
    house, _ = make()
    browser = Browser()
    back = browser.stop_at(f"{house.base}/admin/oidc", CALLBACK)
    set_ = browser.get(back, timeout=20).headers["Set-Cookie"]
    assert all(rule in set_ for rule in ("HttpOnly", "SameSite=Strict", "Path=/admin"))
    assert browser.get(f"{house.base}/admin", timeout=20, allow_redirects=False).status_code == 200
    house.clock.forward(minutes=31)
    assert browser.get(f"{house.base}/admin", timeout=20, allow_redirects=False).status_code == 303


def test_forged_expired_and_foreign_id_tokens_open_nothing(make: Make) -> None:
    house, provider = make()
    own, stranger, now = provider.key, ECKey.generate_key("P-384"), int(house.clock().timestamp())
    strange: list[dict[str, Any]] = [
        {"iss": "https://evil.example.org"},
        {"aud": "another-app"},
        {"aud": ["console", "another-app"]},
        {"nonce": "of another login"},
        {"nonce": ...},
        {"exp": now - 61},
        {"iat": now - 3600},
        {"sub": ...},
    ]
    for changes in strange:
        provider.changed["claims"] = changes
        refused(entered(house))
    provider.changed.clear()
    for signer in (
        (stranger, {"alg": "ES384", "kid": own.kid}),
        (OctKey.import_key(str(own.as_dict(private=False)).encode()), {"alg": "HS256", "kid": own.kid}),
        (OctKey.import_key(SECRET.encode()), {"alg": "HS256", "kid": own.kid}),
        (own, {"alg": "ES384", "kid": own.kid, "typ": "at+jwt"}),
    ):
        provider.signer = signer
        refused(entered(house))
    provider.signer = None
    assert entered(house).status_code == 200


def test_a_rotated_key_of_the_provider_is_found(make: Make) -> None:
    house, provider = make()
    assert entered(house).status_code == 200
    provider.key = ECKey.generate_key("P-384", {"kid": "as-2", "use": "sig"})
    ahead = time.monotonic() + 61  # the cool-down between two readings of a key set
    house.app.extensions["ordersight"].verifier.keys._clock = lambda: ahead
    assert entered(house).status_code == 200


def test_a_state_is_good_once_for_the_browser_that_was_sent_and_for_ten_minutes(make: Make) -> None:
    house, provider = make()
    browser = Browser()
    back = browser.stop_at(f"{house.base}/admin/oidc", CALLBACK)
    refused(Browser().go(back))
    cookies = dict(browser.cookies)
    assert browser.go(back).status_code == 200
    refused(requests.get(back, cookies=cookies, timeout=20))
    late = Browser()
    back = late.stop_at(f"{house.base}/admin/oidc", CALLBACK)
    house.clock.forward(minutes=10)
    refused(late.go(back))
    assert len(provider.forms) == 1


def test_an_answer_of_another_issuer_is_not_redeemed(make: Make) -> None:
    house, provider = make()
    for issuer in ("https://evil.example.org", None):
        browser = Browser()
        told = query_of(browser.stop_at(f"{house.base}/admin/oidc", CALLBACK))
        told |= {"iss": issuer} if issuer else {}
        if issuer is None:
            del told["iss"]
        refused(browser.go(f"{house.base}{CALLBACK}?{urlencode(told)}"))
    assert provider.forms == []


def test_a_provider_that_describes_another_or_sends_elsewhere_is_not_followed(make: Make) -> None:
    house, provider = make()
    for told in (
        {"issuer": "https://evil.example.org"},
        {"authorization_endpoint": "https://evil.example.org/authorize"},
        {"token_endpoint": "https://evil.example.org/token"},
        {"jwks_uri": "https://evil.example.org/jwks"},
        {"code_challenge_methods_supported": ["plain"]},
    ):
        provider.configuration = told
        house.app.extensions["ordersight"].backend.directory._known.clear()
        answer = requests.get(f"{house.base}/admin/oidc?next=https://evil.example.org", timeout=20)
        refused(answer)
        assert "evil" not in answer.text


def test_a_secret_others_may_read_is_not_used(make: Make, tmp_path: Path) -> None:
    house, provider = make()
    (tmp_path / "secret").chmod(0o644)
    refused(entered(house))
    assert provider.forms == []


def test_a_hanging_provider_ends_in_time_and_the_local_admin_still_gets_in(make: Make) -> None:
    house, provider = make()
    provider.hang_s = 10.0
    browser = Browser()
    back = browser.stop_at(f"{house.base}/admin/oidc", CALLBACK)
    started = time.monotonic()
    refused(browser.go(back))
    assert time.monotonic() - started < 6
    ada = house.logged_in("ada")
    assert ada.get(f"{house.base}/admin", timeout=20).status_code == 200


def test_without_an_issuer_its_addresses_are_not_there_and_its_sessions_end(make: Make, tmp_path: Path) -> None:
    house, _ = make()
    browser = Browser()
    entered(house, browser)
    token = browser.cookies["ordersight-admin"]
    with console_house(tmp_path, admins=False) as without:
        assert requests.get(f"{without.base}/admin/oidc", timeout=20).status_code == 404
        answer = requests.get(
            f"{without.base}/admin", cookies={"ordersight-admin": token}, timeout=20, allow_redirects=False
        )
        assert answer.status_code == 303


def test_the_console_is_there_without_a_local_admin_where_a_provider_is_set(make: Make) -> None:
    house, _ = make(admins=False)
    assert entered(house).status_code == 200


def test_a_real_browser_comes_back_from_another_site_with_its_strict_cookie(make: Make, browser: Chromium) -> None:
    house, _ = make()
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(f"{house.base}/admin/login")
        page.click("text=Log in at localhost")
        page.wait_for_selector("text=may change")
        assert page.url == f"{house.base}/admin/"
        (session,) = [c for c in context.cookies(f"{house.base}/admin/") if c["name"] == "ordersight-admin"]
        assert session["sameSite"] == "Strict"
    finally:
        context.close()


@pytest.mark.parametrize(
    "environ",
    [
        {"ORDERSIGHT_OIDC_ISSUER": "https://login.example.org"},
        {"ORDERSIGHT_OIDC_ISSUER": "https://login.example.org", "ORDERSIGHT_OIDC_CLIENT_ID": "x"},
        {"ORDERSIGHT_OIDC_ISSUER": "http://login.example.org"},
        {"ORDERSIGHT_OIDC_SECRET_FILE": "/nowhere"},
    ],
)
def test_settings_that_let_nobody_in_or_speak_in_the_clear_are_refused(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="ORDERSIGHT_OIDC"):
        Settings.from_env(environ)
