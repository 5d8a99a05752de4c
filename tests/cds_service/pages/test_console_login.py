"""Who gets into the admin console, who does not, and what of it is written down."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from console_house import ADMINS, ConsoleHouse, Visitor, console_house

from cds_service.pages.console_accounts import AccountError, Accounts

NOW = datetime(2026, 3, 10, 14, tzinfo=UTC)
LONG = "correct horse battery"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[ConsoleHouse]:
    with console_house(tmp_path) as made:
        yield made


def routes(house: ConsoleHouse) -> list[tuple[str, str]]:
    """Every address and method of the console, parameters filled in, but its style sheets and the login."""
    found = []
    for rule in house.app.url_map.iter_rules():
        if rule.rule.startswith("/admin") and rule.endpoint not in ("console.static", "console.login", "console.enter"):
            path = re.sub(r"<[^>]*>", "imaging-safety", rule.rule)
            found += [(path, m) for m in ("GET", "POST") if m in (rule.methods or ())]
    assert len(found) > 3
    return found


def test_admin_authz_no_route_answers_without_a_session_or_to_an_ehr_token(house: ConsoleHouse) -> None:
    for headers in ({}, {"Authorization": "Bearer eyJhbGciOiJFUzM4NCJ9.e30.AAAA"}, {"Cookie": "ordersight-admin=x"}):
        for path, method in routes(house):
            answer = requests.request(method, house.base + path, headers=headers, timeout=20, allow_redirects=False)
            assert answer.status_code in (303, 401), (method, path)
            assert answer.status_code == 401 or answer.headers["Location"] == "/admin/login"


def test_admin_authz_every_form_needs_its_token_and_the_role_to_change(house: ConsoleHouse) -> None:
    ada, vic = house.logged_in("ada"), house.logged_in("vic")
    vic.see("/admin")
    forms = [path for path, method in routes(house) if method == "POST" and path != "/admin/logout"]
    assert forms
    for path in forms:
        for csrf in ("", "0" * 64, vic.csrf):
            assert ada.post(path, csrf=csrf, why="x", scope="product", state="off").status_code == 403, path
    for path in ("/admin/switch", "/admin/thresholds/deterioration"):
        refused = vic.post(path, why="x", scope="product", state="off")
        assert (refused.status_code, "may look, not change" in refused.text) == (403, True)
    assert house.state.switch_history() == ()


def test_a_form_sent_from_another_site_is_refused(house: ConsoleHouse) -> None:
    ada = house.logged_in("ada")
    ada.see("/admin")
    ada.headers["Sec-Fetch-Site"] = "cross-site"
    assert ada.post("/admin/switch", scope="product", state="off", why="x").status_code == 403


def test_without_an_admin_the_console_is_not_there_at_all(tmp_path: Path) -> None:
    with console_house(tmp_path, admins=False) as house:
        for path in ("/admin", "/admin/login", "/admin/static/console.css"):
            answer = requests.get(house.base + path, timeout=20)
            elsewhere = requests.get(house.base + "/nothing/here", timeout=20)
            assert (answer.status_code, answer.content) == (404, elsewhere.content)


@pytest.mark.parametrize("base_url", ["http://cds.example.org", "http://192.0.2.7:8080"])
def test_over_plain_http_the_console_answers_this_machine_only(tmp_path: Path, base_url: str) -> None:
    with console_house(tmp_path, base_url=base_url) as house:
        assert requests.get(house.base + "/admin/login", timeout=20).status_code == 404


def test_the_cookie_is_for_the_console_alone_and_secure_behind_https(tmp_path: Path) -> None:
    with console_house(tmp_path, base_url="https://cds.example.org/ehr") as house:
        form = {"name": "ada", "password": ADMINS["ada"][1]}
        answer = requests.post(house.base + "/admin/login", form, timeout=20, allow_redirects=False)
        assert answer.status_code == 303
        assert answer.headers["Location"] == "/ehr/admin/"
        parts = {p.strip() for p in answer.headers["Set-Cookie"].split(";")}
        assert {"HttpOnly", "Secure", "SameSite=Strict", "Path=/ehr/admin"} <= parts


def test_every_answer_forbids_scripts_frames_and_caches(house: ConsoleHouse) -> None:
    answers = [requests.get(house.base + "/admin/login", timeout=20), house.logged_in("ada").get(house.base + "/admin")]
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script-src" not in policy
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "<script" not in answer.text
        assert " style=" not in answer.text


@pytest.mark.parametrize(("jwt", "said"), [("off", True), ("required", False)])
def test_every_page_says_that_callers_are_not_checked_while_they_are_not(tmp_path: Path, jwt: str, said: bool) -> None:
    with console_house(tmp_path, jwt=jwt) as house:
        ada = house.logged_in("ada")
        for path in ("/admin/", "/admin/feedback", "/admin/onboarding", "/admin/models", "/admin/audit"):
            assert ("Callers are not checked." in ada.words(path)) is said, path


def test_five_failures_lock_the_account_even_against_the_right_password(house: ConsoleHouse) -> None:
    visitor = Visitor(house.base)
    for _ in range(5):
        assert visitor.post("/admin/login", name="ada", password="guess").status_code == 403
    assert visitor.post("/admin/login", name="ada", password=ADMINS["ada"][1]).status_code == 403
    house.clock.forward(minutes=16)
    assert visitor.post("/admin/login", name="ada", password=ADMINS["ada"][1]).status_code == 200


def test_a_wrong_name_and_a_wrong_password_are_answered_alike(house: ConsoleHouse) -> None:
    visitor = Visitor(house.base)
    wrong = [visitor.post("/admin/login", name=n, password="x" * 20) for n in ("ada", "eve")]
    assert wrong[0].text.replace("ada", "eve") == wrong[1].text


def test_logging_in_failing_and_out_are_audited_and_no_password_is(house: ConsoleHouse) -> None:
    visitor = Visitor(house.base)
    visitor.post("/admin/login", name="ada", password="not the password")
    visitor.post("/admin/login", name="my-secret-password", password="ada")
    ada = house.logged_in("ada")
    ada.see("/admin")
    assert ada.post("/admin/logout").status_code == 200
    told = [(a["who"], a["did"]) for a in house.audited() if a["kind"] == "admin"]
    assert told == [("ada", "login refused"), ("ada", "login"), ("ada", "logout")]
    assert "secret" not in str(house.audited())


def test_logging_out_ends_the_session_for_a_copied_cookie_too(house: ConsoleHouse) -> None:
    ada = house.logged_in("ada")
    ada.see("/admin")
    copied = dict(ada.cookies)
    ada.post("/admin/logout")
    answer = requests.get(house.base + "/admin", cookies=copied, timeout=20, allow_redirects=False)
    assert answer.status_code == 303


@pytest.mark.parametrize(("step", "steps", "alive"), [(29, 16, True), (31, 1, False), (29, 17, False)])
def test_a_session_ends_after_half_an_hour_unused_and_after_eight_hours(
    house: ConsoleHouse, step: int, steps: int, alive: bool
) -> None:
    ada = house.logged_in("ada")
    for _ in range(steps):
        house.clock.forward(minutes=step)
        answer = ada.get(house.base + "/admin", allow_redirects=False)
    assert (answer.status_code == 200) is alive


def test_an_admin_removed_on_the_command_line_is_out_at_once(house: ConsoleHouse) -> None:
    ada = house.logged_in("ada")
    others = Accounts(house.folder)
    others.remove("ada")
    others.close()
    assert ada.get(house.base + "/admin", allow_redirects=False).status_code == 303


@pytest.mark.parametrize(
    ("name", "role", "password", "told"),
    [
        ("Ada", "view", LONG, "a name is"),
        ("", "view", LONG, "a name is"),
        ("ada\n", "view", LONG, "a name is"),
        ("ada", "root", LONG, "view or change"),
        ("ada", "view", "x" * 14, "15 to 1024"),
        ("ada", "view", "x" * 1025, "15 to 1024"),
    ],
)
def test_an_account_that_would_not_hold_is_refused(
    tmp_path: Path, name: str, role: str, password: str, told: str
) -> None:
    with pytest.raises(AccountError, match=told):
        Accounts(tmp_path).add(name, role, password, NOW)


def test_the_file_holds_argon2id_and_nothing_that_logs_in(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path)
    accounts.add("ada", "view", LONG, NOW)
    token = accounts.login("ada", LONG, NOW)
    assert token is not None
    assert (tmp_path / "admins.sqlite").stat().st_mode & 0o077 == 0
    with sqlite3.connect(tmp_path / "admins.sqlite") as db:
        ((kept,),) = db.execute("SELECT password FROM admins")
        everything = str([list(db.execute(f"SELECT * FROM {t}")) for t in ("admins", "sessions")])
    assert kept.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert token not in everything
    assert LONG not in everything


def test_guesses_at_the_same_time_count_each(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    accounts = Accounts(tmp_path)
    accounts.add("ada", "view", LONG, NOW)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda n: accounts.login("ada", f"guess {n}", NOW), range(12))) == {None}
    assert accounts.login("ada", LONG, NOW) is None
    accounts.unlock("ada")
    assert accounts.login("ada", LONG, NOW + timedelta(seconds=1)) is not None


def test_the_command_line_adds_lists_and_removes_and_the_audit_tells(tmp_path: Path) -> None:
    environ = {"ORDERSIGHT_STATE_DIR": str(tmp_path / "state"), "PATH": "/usr/bin", "NO_COLOR": "1"}

    def run(*words: str, said: str = "") -> subprocess.CompletedProcess[str]:
        program = "from cds_service.cli.main import run; run()"
        return subprocess.run(
            [sys.executable, "-c", program, "admin", *words],
            input=said,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )

    assert "log in at http://127.0.0.1:8080/admin" in run("add", "ada", "--role", "change", said=LONG + "\n").stdout
    refused = run("add", "bob", said="short\n")
    assert (refused.returncode, "15 to 1024" in refused.stderr) == (2, True)
    assert run("list").stdout == "ada: change\n"
    assert run("remove", "ada").returncode == 0
    assert run("remove", "ada").returncode == 2
    assert run("list").stdout == ""
