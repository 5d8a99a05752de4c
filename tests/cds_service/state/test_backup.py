"""Backup under load, everything destroyed, restore: the same state as at that moment, and it can go on."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import orjson
import pytest
from postgres_cluster import Cluster
from state_cases import LATER, NOW, answer, card, item

from cds_service.state.errors import BackupError
from cds_service.state.store import Store


@pytest.fixture
def empty_url(url: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Where to restore to: the same kind of database, new and without a schema."""
    if url.startswith("sqlite"):
        return f"sqlite:///{tmp_path / 'elsewhere' / 'state.sqlite'}"
    postgres: Cluster = request.getfixturevalue("postgres")
    return postgres.new_database()


def exported(store: Store) -> tuple[list[bytes], list[object]]:
    return list(store.export_audit()), [dict(row) for row in store.export_feedback(comments=True)]


def test_a_backup_under_load_restores_to_its_moment_and_goes_on(
    url: str, folder: Path, empty_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, elsewhere = tmp_path / "backup", tmp_path / "elsewhere"
    with Store.open(url, folder, outbox_bytes=1 << 20) as store:
        for n in range(200):
            store.record_answer(answer(card(f"c{n}")))
            store.record_feedback("north", [item(f"c{n}", "overridden", comment=f"said {n}")])
        store.switch("service", "x", "off", who="w", why="y")
        token = ("iss", "token")
        assert store.use_jti(*token, LATER, NOW)
        stop, busy, failures = threading.Event(), 0, []

        def load() -> None:
            nonlocal busy
            while not stop.is_set():
                try:
                    store.record_answer(answer(card(f"load-{busy}")))
                    store.record_feedback("north", [item(f"load-{busy}")])
                except Exception as error:  # noqa: BLE001
                    failures.append(error)
                busy += 1

        thread = threading.Thread(target=load)
        thread.start()
        time.sleep(0.3)
        before = busy
        started = time.monotonic()
        manifest = store.backup(target)
        backup_s = time.monotonic() - started
        during = busy - before
        stop.set()
        thread.join()
        assert failures == []
        audit_now, feedback_now = exported(store)
    started = time.monotonic()
    assert Store.restore(target, empty_url, elsewhere) == manifest
    restore_s = time.monotonic() - started
    with capsys.disabled():
        print(
            f"\n{url[:6]}: backup {backup_s:.2f} s beside {during} answered calls, "
            f"restore and verify {restore_s:.2f} s, {sum(manifest.rows.values())} rows"
        )
    with Store.open(empty_url, elsewhere, outbox_bytes=1 << 20) as restored:
        audit_then, feedback_then = exported(restored)
        # One moment: what is there is exactly the beginning of what the first store has now, and the load was cut.
        seen = [orjson.loads(line)["id"] for line in audit_then]
        assert [orjson.loads(line)["id"] for line in audit_now if orjson.loads(line)["id"] in set(seen)] == seen
        assert set(audit_then) <= set(audit_now)
        assert feedback_then == feedback_now[: len(feedback_then)]
        assert len(feedback_then) == manifest.rows["feedback"] >= 200
        assert restored.switches().state("north", "x") == "off"
        assert not restored.use_jti(*token, LATER, NOW)
        assert restored.key("patient", "north", "p") == Store.open(url, folder, outbox_bytes=0).key(
            "patient", "north", "p"
        )
        restored.record_answer(answer(card("after")))
        assert restored.verify_audit().ok


def test_a_damaged_backup_is_refused_before_anything_is_touched(
    url: str, folder: Path, empty_url: str, tmp_path: Path
) -> None:
    with Store.open(url, folder, outbox_bytes=0) as store:
        store.record_answer(answer(card("c1")))
        manifest = store.backup(tmp_path / "backup")
    data = tmp_path / "backup" / manifest.file
    raw = bytearray(data.read_bytes())
    raw[len(raw) // 2] ^= 1
    data.write_bytes(raw)
    with pytest.raises(BackupError, match="not the file"):
        Store.restore(tmp_path / "backup", empty_url, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
    data.unlink()
    with pytest.raises(BackupError, match="no whole backup"):
        Store.restore(tmp_path / "backup", empty_url, tmp_path / "elsewhere")


def test_a_backup_never_overwrites_and_a_restore_neither(url: str, folder: Path, tmp_path: Path) -> None:
    with Store.open(url, folder, outbox_bytes=0) as store:
        store.record_answer(answer(card("c1")))
        store.backup(tmp_path / "backup")
        with pytest.raises(BackupError, match="exists"):
            store.backup(tmp_path / "backup")
    with pytest.raises(BackupError, match="holds state already"):
        Store.restore(tmp_path / "backup", url, folder)
    with pytest.raises(BackupError, match=r"already|exists"):
        Store.restore(tmp_path / "backup", url, tmp_path / "elsewhere")


def test_a_backup_changed_together_with_its_checksum_still_fails_its_audit(
    sqlite_url: str, folder: Path, tmp_path: Path
) -> None:
    import hashlib
    import sqlite3

    with Store.open(sqlite_url, folder, outbox_bytes=0) as store:
        store.record_answer(answer(card("c1")))
        manifest = store.backup(tmp_path / "backup")
    data = tmp_path / "backup" / manifest.file
    with sqlite3.connect(data) as conn:
        conn.execute("DROP TRIGGER audit_append_only")
        conn.execute("UPDATE audit SET status = 412")
    conn.close()
    path = tmp_path / "backup" / "manifest.json"
    told = json.loads(path.read_text()) | {"sha256": hashlib.sha256(data.read_bytes()).hexdigest()}
    path.write_text(json.dumps(told))
    with pytest.raises(BackupError, match="audit chain is broken"):
        Store.restore(tmp_path / "backup", f"sqlite:///{tmp_path}/elsewhere/state.sqlite")


def test_a_backup_is_readable_by_its_owner_only_and_one_file_of_data(
    sqlite_url: str, folder: Path, tmp_path: Path
) -> None:
    with Store.open(sqlite_url, folder, outbox_bytes=0) as store:
        store.backup(tmp_path / "backup")
    files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "backup").iterdir()}
    assert files == {"state.sqlite": 0o600, "state.key": 0o600, "manifest.json": 0o600}
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o700
