"""Both databases, real, for every test of durable state."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from postgres_cluster import Cluster, cluster

from cds_service.state import schema
from cds_service.state.engines import read_url
from cds_service.state.store import Store

OUTBOX = 1024 * 1024


@pytest.fixture(autouse=True)
def unhurried_state(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute for what a call would not wait for, unless the test is `in_time`: else a busy machine decides."""
    if request.node.get_closest_marker("in_time") is None:
        for method in (Store.seen, Store.record_answer):
            monkeypatch.setitem(method.__kwdefaults__, "timeout", 30.0)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    with cluster() as started:
        yield started


@pytest.fixture
def postgres_url(postgres: Cluster) -> Iterator[str]:
    url = postgres.new_database()
    schema.upgrade(read_url(url))
    yield url
    postgres.take_back(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state' / 'state.sqlite'}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """A state database of this release's schema, on either backend."""
    made: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return made


@pytest.fixture
def store(url: str, folder: Path) -> Iterator[Store]:
    with Store.open(url, folder, outbox_bytes=OUTBOX) as opened:
        yield opened
