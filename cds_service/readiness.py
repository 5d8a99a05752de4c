"""Whether calls may come (`/readyz`), and what is worth a warning when the service starts."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cds_service.settings import Settings
from cds_service.state.engines import read_url, sqlite_file
from cds_service.state.store import SAFE_SQLITE

if TYPE_CHECKING:
    from cds_service.app import House

WROTE_WITHIN_S = 10.0
"""The state writes by itself every 5 seconds, so that a disk that stopped taking writes shows before a call does."""
LEAST_FREE = 0.05
"""Of the disk and of the outbox, below which calls should go to another replica."""


@dataclass(frozen=True, slots=True)
class Check:
    """One condition. `why` says in words of ours what does not hold: no host, no path, no version."""

    ok: bool
    why: str = ""


def checks(house: House) -> dict[str, Check]:
    """What must hold before calls may come. A slow FHIR server is none of it: all replicas would leave at once."""
    models = house.services.models()
    cold = [m for m in models if not getattr(house.engines.get(m), "ready", m in house.engines)]
    failing = [m for m in models if not house.means.thinking.well(m)]
    state = house.state.health()
    return {
        "not_draining": _check(not house.draining.is_set(), "the service is stopping"),
        "models": _check(not cold, f"not loaded and warm: {', '.join(cold)}"),
        "models_well": _check(not failing, f"failed several times in a row: {', '.join(failing)}"),
        "state_writable": _check(state.wrote_s <= WROTE_WITHIN_S, "the database has taken no write lately"),
        "outbox": _check(not state.outbox or state.outbox_free >= LEAST_FREE, "the outbox is almost full"),
        "disk_free": _check(disk_free(house.settings.state_dir) >= LEAST_FREE, "the disk of the state is almost full"),
    }


def _check(ok: bool, why: str) -> Check:
    return Check(ok, "" if ok else why)


def answer(house: House) -> tuple[dict[str, Any], int]:
    """Body and status of `/readyz`."""
    found = checks(house)
    ready = all(check.ok for check in found.values())
    body: dict[str, Any] = {
        "ready": ready,
        "checks": {name: {"ok": c.ok, **({"why": c.why} if c.why else {})} for name, c in found.items()},
        "jwt": house.settings.jwt,
    }
    if house.settings.jwt == "off":
        body["warning"] = "CALLERS ARE NOT CHECKED (ORDERSIGHT_JWT=off)"
    return body, 200 if ready else 503


def disk_free(folder: Path) -> float:
    """The share of the folder's disk that we may still write; 0 where that cannot be asked."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return 0.0
    return disk.f_bavail / disk.f_blocks if disk.f_blocks else 1.0


def warnings(settings: Settings, sqlite: tuple[int, ...] = sqlite3.sqlite_version_info) -> tuple[str, ...]:
    """What whoever starts the service should know of this machine, one sentence each."""
    found = []
    if sqlite_file(read_url(settings.state_url)) is not None and sqlite < SAFE_SQLITE:
        have, safe = (".".join(map(str, version)) for version in (sqlite, SAFE_SQLITE))
        found.append(
            f"SQLite {have} has a fault of its write-ahead log that {safe} mends. Our writers take turns and so keep "
            "clear of it; let no other program write to the state file, or use PostgreSQL"
        )
    return tuple(found)
